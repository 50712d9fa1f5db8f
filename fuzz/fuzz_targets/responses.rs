#![no_main]
// A byte for the request, one for its version, the answer.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some(([api, version], bytes)) = input.split_first_chunk() {
        kafka_batcher_fuzz::responses(*api, *version, bytes);
    }
});
