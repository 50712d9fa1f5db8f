//! What a broker answers: a stream of frames, each read as any answer in any version.
#![no_main]

use kafka_batcher_core::wire::{
    Api, FrameBuffer, ProduceVisitor, ProducedPartition, correlation_of, read_api_versions,
    read_described_partition, read_init_producer_id, read_metadata, read_produce, read_topic_configs,
};
use libfuzzer_sys::fuzz_target;

struct Nobody;

impl ProduceVisitor for Nobody {
    fn partition(&mut self, _: ProducedPartition<'_>) {}
    fn broker(&mut self, _: i32, _: &str, _: i32) {}
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (api, version, bytes) = input;
    let api = Api::ALL[usize::from(api) % Api::ALL.len()];
    let (oldest, newest) = api.versions();
    let version = oldest + i16::from(version) % (newest - oldest + 1);
    read(api, version, bytes);

    // The same bytes as a stream, in the pieces that a socket may give.
    let mut frames = FrameBuffer::default();
    for piece in bytes.chunks(7) {
        frames.space()[..piece.len()].copy_from_slice(piece);
        frames.filled(piece.len());
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => read(api, version, frame),
                Ok(None) => break,
                Err(error) => {
                    let _ = error.to_string();
                    return;
                }
            }
        }
    }
});

fn read(api: Api, version: i16, answer: &[u8]) {
    let _ = correlation_of(answer);
    match api {
        Api::Produce => drop(read_produce(answer, version, &mut Nobody)),
        Api::Metadata => drop(read_metadata(answer, version)),
        Api::ApiVersions => drop(read_api_versions(answer, version)),
        Api::InitProducerId => drop(read_init_producer_id(answer, version)),
        Api::DescribeConfigs => drop(read_topic_configs(answer, "topic")),
        Api::DescribeProducers => drop(read_described_partition(answer)),
        // An API that came since this was written.
        #[allow(unreachable_patterns)]
        _ => {}
    }
}
