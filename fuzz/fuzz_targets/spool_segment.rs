#![no_main]
libfuzzer_sys::fuzz_target!(|segment: &[u8]| kafka_batcher_fuzz::spool(segment, None));
