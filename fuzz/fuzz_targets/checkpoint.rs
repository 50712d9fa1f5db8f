//! The checkpoint beside a good segment: a hint, which may be anything.
#![no_main]

use kafka_batcher_fuzz::{GOOD_SEGMENT, open_and_read, spool_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|checkpoint: &[u8]| open_and_read(&spool_with(GOOD_SEGMENT, Some(checkpoint))));
