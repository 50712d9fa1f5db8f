#![no_main]
libfuzzer_sys::fuzz_target!(|input: (u8, u8, &[u8])| kafka_batcher_fuzz::responses(input.0, input.1, input.2));
