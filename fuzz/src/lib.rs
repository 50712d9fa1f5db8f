//! What may come from a network, a disk or a user, given to whoever reads it: nothing may panic, hang or take memory that a length
//! merely claims, and what is accepted must mean what it says. The fuzzer's targets call these; so does a test with random input
//! (`kafka-batcher/tests/garbage.rs`).

use std::fs;
use std::path::Path;

use kafka_batcher::storage::disk::Spool;
use kafka_batcher::storage::{DiskSettings, DiskStorage, StorageError, TempStorage, ToSave};
use kafka_batcher::{Config, TopicPartition};
use kafka_batcher_core::wire::{
    Api, FrameBuffer, ProduceVisitor, ProducedPartition, correlation_of, read_api_versions,
    read_described_partition, read_init_producer_id, read_metadata, read_produce, read_sasl_authenticate,
    read_sasl_handshake, read_topic_configs,
};
use kafka_batcher_core::{Chunk, Codec, Compression, Compressor, HEADER_LEN, RecordBatch};

/// What version 1 wrote.
pub const GOOD_SEGMENT: &[u8] =
    include_bytes!("../../kafka-batcher/tests/fixtures/spool_v1/topics/flights/00000000000000000000.log");
const FORMAT: &[u8] = include_bytes!("../../kafka-batcher/tests/fixtures/spool_v1/format");
/// Where the part of a batch under its CRC begins; before it, its length counts from here.
const CRC_START: usize = 21;
const LOG_OVERHEAD: usize = 12;

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
/// accepted is written again with the same bytes, and neither splitting nor compressing it loses anything.
pub fn record_batch(bytes: &[u8]) {
    batch(bytes);
    batch(&signed(bytes.to_vec()));
}

/// The body of a compressed batch whose header is right: a byte for the codec, two for how many records there are, and what the codec
/// is given to open.
pub fn compressed(bytes: &[u8]) {
    let Some(([codec, high, low], body)) = bytes.split_first_chunk() else { return };
    let codec = Codec::ALL[1 + usize::from(*codec) % (Codec::ALL.len() - 1)];
    batch(&around(codec, u16::from_be_bytes([*high, *low]).into(), body));
}

/// A batch of so many records whose body is this.
pub fn around(codec: Codec, count: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes.extend_from_slice(body);
    let length = (bytes.len() - LOG_OVERHEAD) as u32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    bytes[22] = codec as u8;
    bytes[23..27].copy_from_slice(&count.wrapping_sub(1).to_be_bytes());
    // Not stamped: producer id, epoch and sequence are -1.
    bytes[43..57].fill(0xff);
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    signed(bytes)
}

/// The CRC of a batch that takes all of these bytes, made right.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(body) = bytes.get(CRC_START..) {
        let crc = crc32c::crc32c(body).to_be_bytes();
        bytes[CRC_START - 4..CRC_START].copy_from_slice(&crc);
    }
    bytes
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
        let mut found = Vec::new();
        for part in [left, right] {
            part.finish();
            let (part, _) = RecordBatch::decode(&part.to_bytes()).expect("a part is a batch");
            found.extend(part.records().expect("it can be read"));
        }
        assert_eq!(found, records);
    }
    if batch.codec() == Codec::None {
        let codec = Codec::ALL[batch.count() as usize % Codec::ALL.len()];
        let how = Compression::new(codec, None).expect("its default level");
        let (mut compressor, mut small) = (Compressor::new(), batch);
        if compressor.compress(&small, how).is_some() && compressor.put_into(&mut small) {
            small.finish();
            let (small, _) = RecordBatch::decode(&small.to_bytes()).expect("it is a batch");
            assert_eq!(small.records().expect("it can be read"), records);
        }
    }
}

/// A segment behind whose CRCs the fuzzer comes: those of its batches are made right, in the batches and where their control batch
/// lists them, and each control batch says that it stands where it does.
pub fn groups(segment: &[u8]) {
    let (mut bytes, mut at) = (segment.to_vec(), 0);
    let mut changed: Vec<([u8; 4], [u8; 4])> = Vec::new();
    while let Some(length) = bytes.get(at + 8..at + 12).and_then(|length| length.first_chunk().copied()) {
        let end = at.saturating_add(u32::from_be_bytes(length) as usize + LOG_OVERHEAD);
        let Some(batch) = bytes.get_mut(at..end).filter(|batch| batch.len() >= HEADER_LEN) else { break };
        if batch[43..51] == [0xff; 8] && batch[51..53] == [0xff, 0xfe] {
            for (old, new) in changed.drain(..) {
                for listed in HEADER_LEN..batch.len() - 3 {
                    if batch[listed..listed + 4] == old {
                        batch[listed..listed + 4].copy_from_slice(&new);
                    }
                }
            }
            // Behind the type of the group's record and the length of its value: the segment's base, then the place.
            if let Some(key) = batch.windows(3).position(|three| three == [4, 1, 1]) {
                let long = batch.get(key + 3).is_some_and(|length| length & 0x80 != 0);
                let place = key + 4 + usize::from(long) + 8;
                if let Some(place) = batch.get_mut(place..place + 8) {
                    place.copy_from_slice(&(at as u64).to_be_bytes());
                }
            }
        }
        let old = *batch[CRC_START - 4..].first_chunk().expect("longer than a header");
        let new = crc32c::crc32c(&batch[CRC_START..]).to_be_bytes();
        batch[CRC_START - 4..CRC_START].copy_from_slice(&new);
        changed.push((old, new));
        at = end;
    }
    spool(&bytes, None);
}

/// A checkpoint whose CRC is right, beside a good segment.
pub fn checkpoint(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.truncate(bytes.len().saturating_sub(4));
    let crc = crc32c::crc32c(&bytes);
    bytes.extend(crc.to_be_bytes());
    spool(GOOD_SEGMENT, Some(&bytes));
}

/// A spool with one topic, of one segment and perhaps a checkpoint: looked at by the tools, which change nothing; then opened as by a
/// process that starts, and read to its end. What is saved in it then, the next process finds.
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
    look(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let own = TopicPartition::new("flights", 0);
    let saved = runtime.block_on(save(dir.path(), &own));
    look(dir.path());
    let position = match saved {
        Ok(positions) => positions[0],
        // Whoever knows how to make a CRC can claim the last position there is.
        Err(error) => {
            assert!(error.to_string().contains("its positions are used up"), "{error}");
            return;
        }
    };
    let found = runtime.block_on(async {
        let storage = storage(dir.path());
        storage.open("flights").await.expect("damage is no error");
        let some = storage.read(&own, position, usize::MAX).await.expect("what was saved can be read");
        storage.close().await;
        some.batches
    });
    let places: Vec<_> = found.iter().map(|stored| (stored.position, stored.batch.count())).collect();
    assert_eq!(places, [(position, 1)], "what was saved is found, once");
    assert_eq!((found[0].position, found[0].batch.records()), (position, event().records()));
}

fn look(dir: &Path) {
    let spool = Spool::open(dir).expect("a spool");
    let scan = spool.scan("flights").expect("damage is no error");
    for damage in &scan.damage {
        let _ = damage.to_string();
    }
    for batch in &scan.batches {
        if let Err(error) = scan.waiting(batch) {
            let _ = error.to_string();
        }
    }
}

fn storage(dir: &Path) -> DiskStorage {
    let mut settings = DiskSettings::new(dir);
    settings.min_free_bytes = Some(0);
    // It would be written anew each time, and nothing is full here.
    settings.reserve_bytes = 0;
    DiskStorage::new(settings).expect("a spool")
}

fn event() -> RecordBatch {
    // Its length, attributes, the two deltas, a null key, a value of one byte, no headers.
    RecordBatch::decode(&around(Codec::None, 1, &[14, 0, 0, 0, 1, 2, b'x', 0])).expect("a batch").0
}

/// Reads all that waits, then saves an event.
async fn save(dir: &Path, own: &TopicPartition) -> Result<Vec<u64>, StorageError> {
    let storage = storage(dir);
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
    let saved = storage.save_batch(own, vec![ToSave { batch: event(), numbers: None }]).await;
    storage.close().await;
    saved
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
