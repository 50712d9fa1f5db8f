//! What the targets share: a spool that holds given bytes, and everything that reads it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kafka_batcher::storage::{DiskSettings, DiskStorage, Spool, TempStorage};
use kafka_batcher::TopicPartition;
use tempfile::TempDir;

/// What version 1 wrote.
pub const GOOD_SEGMENT: &[u8] =
    include_bytes!("../../kafka-batcher/tests/fixtures/spool_v1/topics/flights/00000000000000000000.log");
const FORMAT: &[u8] = include_bytes!("../../kafka-batcher/tests/fixtures/spool_v1/format");

/// A spool with one topic, `flights`, of one segment. In memory where `/dev/shm` is.
pub fn spool_with(segment: &[u8], checkpoint: Option<&[u8]>) -> TempDir {
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
    dir
}

/// The tools first, which change nothing; then as a process that starts does.
pub fn open_and_read(dir: &TempDir) {
    let scan = Spool::open(dir.path()).expect("a spool").scan("flights").expect("damage is no error");
    for damage in &scan.damage {
        let _ = damage.to_string();
    }
    let settings = DiskSettings { min_free_bytes: Some(0), ..DiskSettings::new(dir.path()) };
    let storage: Arc<dyn TempStorage> = Arc::new(DiskStorage::new(settings).expect("a spool"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let recovered = storage.open("flights").await.expect("damage is no error");
        for (partition, _) in &recovered.backlogs {
            let place = TopicPartition { topic: "flights".into(), partition: *partition };
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
