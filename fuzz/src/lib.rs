//! What may come from a network, a disk or a user, given to whoever reads it: nothing may panic, hang or take memory that a length
//! merely claims, and what is accepted must mean what it says. The fuzzer's targets call these; so does a test with random input
//! (`kafka-batcher/tests/garbage.rs`).

use std::fs;
use std::path::Path;

use kafka_batcher::storage::disk::Spool;
use kafka_batcher::storage::{DiskSettings, DiskStorage, TempStorage};
use kafka_batcher::{Config, TopicPartition};
use kafka_batcher_core::wire::{
    Api, FrameBuffer, ProduceVisitor, ProducedPartition, correlation_of, read_api_versions,
    read_described_partition, read_init_producer_id, read_metadata, read_produce, read_sasl_authenticate,
    read_sasl_handshake, read_topic_configs,
};
use kafka_batcher_core::{Chunk, RecordBatch};

/// What version 1 wrote.
pub const GOOD_SEGMENT: &[u8] =
    include_bytes!("../../kafka-batcher/tests/fixtures/spool_v1/topics/flights/00000000000000000000.log");
const FORMAT: &[u8] = include_bytes!("../../kafka-batcher/tests/fixtures/spool_v1/format");

/// A broker's answers: as one, and as a stream in the pieces that a socket may give.
pub fn responses(api: u8, version: u8, bytes: &[u8]) {
    let api = Api::ALL[usize::from(api) % Api::ALL.len()];
    let (oldest, newest) = api.versions();
    let version = oldest + i16::from(version) % (newest - oldest + 1);
    response(api, version, bytes);
    let mut frames = FrameBuffer::default();
    for piece in bytes.chunks(7) {
        frames.space()[..piece.len()].copy_from_slice(piece);
        frames.filled(piece.len());
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => response(api, version, frame),
                Ok(None) => break,
                Err(error) => {
                    let _ = error.to_string();
                    return;
                }
            }
        }
    }
}

struct Nobody;

impl ProduceVisitor for Nobody {
    fn partition(&mut self, _: ProducedPartition<'_>) {}
    fn broker(&mut self, _: i32, _: &str, _: i32) {}
}

fn response(api: Api, version: i16, answer: &[u8]) {
    let _ = correlation_of(answer);
    match api {
        Api::Produce => drop(read_produce(answer, version, &mut Nobody)),
        Api::Metadata => drop(read_metadata(answer, version)),
        Api::ApiVersions => drop(read_api_versions(answer, version)),
        Api::InitProducerId => drop(read_init_producer_id(answer, version)),
        Api::DescribeConfigs => drop(read_topic_configs(answer, "topic")),
        Api::DescribeProducers => drop(read_described_partition(answer, "topic", 0, 7)),
        Api::SaslHandshake => drop(read_sasl_handshake(answer)),
        Api::SaslAuthenticate => drop(read_sasl_authenticate(answer, version)),
    }
}

/// A record batch, plain or compressed; as it is, and behind a CRC that is right, where a fuzzer would hardly come by itself. What is
/// accepted is written again with the same bytes, and splitting it loses nothing.
pub fn record_batch(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    batch(&bytes);
    if let Some(body) = bytes.get(21..) {
        let crc = crc32c::crc32c(body).to_be_bytes();
        bytes[17..21].copy_from_slice(&crc);
        batch(&bytes);
    }
}

fn batch(bytes: &[u8]) {
    let Ok((batch, taken)) = RecordBatch::decode(bytes) else { return };
    let (mut written, read) = (batch.to_bytes(), &bytes[..taken]);
    // Base offset and leader epoch are places, not contents; they lie outside the CRC.
    written[..8].copy_from_slice(&read[..8]);
    written[12..16].copy_from_slice(&read[12..16]);
    assert_eq!(written, read);
    let records = batch.records().expect("what was accepted can be read");
    assert_eq!(records.len(), batch.count() as usize);
    if batch.count() > 1 {
        let at = batch.count() / 2;
        let (left, right) = batch.split(at, &mut Chunk::unpooled).expect("it can be split");
        assert_eq!((left.count(), right.count()), (at, batch.count() - at));
        for part in [left, right] {
            part.finish();
            RecordBatch::decode(&part.to_bytes()).expect("a part is a batch");
        }
    }
}

/// A spool with one topic, of one segment and perhaps a checkpoint: looked at by the tools, which change nothing; then opened as by a
/// process that starts, and read to its end.
pub fn spool(segment: &[u8], checkpoint: Option<&[u8]>) {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a directory");
    let topic = dir.path().join("topics/flights");
    fs::create_dir_all(&topic).expect("a directory");
    fs::write(dir.path().join("format"), FORMAT).expect("written");
    fs::write(topic.join("00000000000000000000.log"), segment).expect("written");
    if let Some(checkpoint) = checkpoint {
        fs::write(topic.join("checkpoint"), checkpoint).expect("written");
    }
    let scan = Spool::open(dir.path()).expect("a spool").scan("flights").expect("damage is no error");
    for damage in &scan.damage {
        let _ = damage.to_string();
    }
    let mut settings = DiskSettings::new(dir.path());
    settings.min_free_bytes = Some(0);
    let storage = DiskStorage::new(settings).expect("a spool");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let recovered = storage.open("flights").await.expect("damage is no error");
        for (partition, _) in &recovered.backlogs {
            let place = TopicPartition::new("flights", *partition);
            let mut from = 0;
            loop {
                let some = storage.read(&place, from, 1 << 20).await.expect("what was recovered can be read");
                if some.batches.is_empty() {
                    break;
                }
                assert!(some.next > from, "reading goes on");
                from = some.next;
            }
        }
        storage.close().await;
    });
}

/// A configuration file: mistakes, or settings that are shown and read back the same.
pub fn config(text: &str) {
    match Config::from_toml(text, "file").resolve() {
        Ok(resolved) => {
            let shown = resolved.show(None).expect("all of it");
            let again = Config::from_toml(&shown, "shown").resolve().expect("what is shown can be read");
            assert_eq!((again.settings, again.spool), (resolved.settings, resolved.spool));
        }
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
}
