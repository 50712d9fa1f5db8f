#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| kafka_batcher_fuzz::config(text));
