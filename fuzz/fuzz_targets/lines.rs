//! Lines of input, and a field of each as JSON: the same as serde_json finds.
#![no_main]
#![allow(dead_code)] // these are files of the command, whole

#[path = "../../kafka-batcher-cli/src/json.rs"]
mod json;
#[path = "../../kafka-batcher-cli/src/lines.rs"]
mod lines;

use std::ops::ControlFlow;

use json::{Found, Path};
use libfuzzer_sys::fuzz_target;
use lines::{Filled, Line, LineReader};

const LIMIT: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let name = Path::parse("key").expect("a name");
    let mut reader = LineReader::new(input, LIMIT);
    let mut seen = Vec::new();
    let mut take = |line: Line<'_>| {
        seen.push(match line {
            Line::Bytes(bytes) => {
                field(&name, bytes);
                bytes.len() as u64
            }
            Line::TooLong(length) => length,
        });
        ControlFlow::<()>::Continue(())
    };
    while let Filled::More(_) = reader.fill().expect("memory can be read") {
        let _ = reader.each_line(&mut take);
    }
    reader.last_line().map(&mut take);
    let whole = input.strip_suffix(b"\n").unwrap_or(input);
    let lines = if input.is_empty() { 0 } else { whole.split(|byte| *byte == b'\n').count() };
    assert_eq!(seen.len(), lines);
});

fn field(name: &Path, line: &[u8]) {
    let ours = json::find(line, name);
    let theirs = serde_json::from_slice::<serde_json::Value>(line);
    match (ours, theirs) {
        (Ok(found), Ok(value)) => match (found, value.get("key")) {
            (Found::Absent, None) => {}
            (Found::Str { .. }, Some(serde_json::Value::String(text))) => {
                let mut scratch = Vec::new();
                assert_eq!(found.bytes(&mut scratch).expect("read").expect("there"), text.as_bytes());
            }
            (Found::Other(_), Some(_)) => {}
            (found, value) => panic!("{found:?} {value:?}"),
        },
        (Err(_), Err(_)) => {}
        // serde_json also refuses numbers that no f64 holds and lone surrogates; ours borrows their text.
        (Ok(_), Err(error)) => assert!(
            error.to_string().contains("number out of range") || error.to_string().contains("surrogate"),
            "{error}"
        ),
        (Err(error), Ok(_)) => panic!("refused what is JSON: {error}"),
    }
}
