#![no_main]
use kafka_batcher_fuzz::{GOOD_SEGMENT, spool};
libfuzzer_sys::fuzz_target!(|checkpoint: &[u8]| spool(GOOD_SEGMENT, Some(checkpoint)));
