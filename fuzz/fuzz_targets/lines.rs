//! Lines of input and their fields, as the command reads them.
#![no_main]
#![allow(dead_code)] // these are files of the command, whole

#[path = "../src/command.rs"]
mod command;
#[path = "../../kafka-batcher-cli/src/json.rs"]
mod json;
#[path = "../../kafka-batcher-cli/src/lines.rs"]
mod lines;

libfuzzer_sys::fuzz_target!(|input: &[u8]| command::lines(input));
