//! A segment of the spool, as a disk may give it back: looked at by the tools, then recovered, read to its end and written to.
#![no_main]

use kafka_batcher_fuzz::{open_and_read, spool_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|segment: &[u8]| open_and_read(&spool_with(segment, None)));
