//! Tests of the storage over a file system in memory.

mod bad_sectors;
mod basics;
mod cleaning;
mod crashes;
mod damage;
mod directly;
mod facts;
mod faults;
mod files;
mod fixture;
mod giving_up;
mod holes;
mod letters;
mod opening;
mod resend;
mod room;
mod sim;
mod told;
mod wandering;
mod writing;

use std::sync::Arc;

use kafka_batcher_core::{
    ClusterId, Numbers, Origin, RecordBatch, Stamp, Stored, ToSave, TopicId, TopicPartition,
};

use self::sim::{Disk, SimFs};
use super::bytes::{Place, Plain, encode, heal};
use super::{DiskSettings, DiskStorage};
use crate::storage::{Recovered, TempStorage};

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

thread_local! {
    /// Whether segments are written past the page cache in this thread's tests.
    static DIRECT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn settings() -> DiskSettings {
    let mut settings = DiskSettings::new("/spool");
    (settings.reserve_bytes, settings.min_free_bytes) = (0, Some(0));
    settings.direct_io = DIRECT.get();
    settings
}

/// A storage on this disk, with the topic opened.
fn start(disk: Disk, settings: DiskSettings) -> (SimFs, DiskStorage, Recovered) {
    let fs = SimFs::new(disk);
    let storage = DiskStorage::with(Arc::new(fs.clone()), settings, false).unwrap();
    let recovered = wait(storage.open("t")).unwrap();
    (fs, storage, recovered)
}

fn partition(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

/// A batch of events whose values are these.
fn batch(values: &[&str], stamp: Option<Stamp>) -> RecordBatch {
    let records: Vec<Plain<'_>> = values
        .iter()
        .map(|value| Plain { timestamp: 1_000, value: Some(value.as_bytes()), ..Plain::default() })
        .collect();
    let mut bytes = encode(Place { position: 0, partition: -1 }, false, &records);
    if let Some(stamp) = stamp {
        bytes[43..51].copy_from_slice(&stamp.producer_id.to_be_bytes());
        bytes[51..53].copy_from_slice(&stamp.epoch.to_be_bytes());
        bytes[53..57].copy_from_slice(&stamp.first_sequence.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        let length = bytes.len() as u32;
        heal(&mut bytes, Place { position: 0, partition: -1 }, length, crc);
    }
    RecordBatch::decode(&bytes).unwrap().0
}

fn stamp(first_sequence: i32) -> Stamp {
    Stamp { producer_id: 7, epoch: 2, first_sequence }
}

fn origin(cluster: &str) -> Origin {
    Origin { cluster: Some(ClusterId(cluster.into())), topic: TopicId([3; 16]) }
}

fn numbers(first_sequence: i32, cluster: &str) -> Numbers {
    Numbers { stamp: stamp(first_sequence), origin: origin(cluster) }
}

fn fresh(values: &[&str]) -> ToSave {
    ToSave { batch: batch(values, None), numbers: None }
}

fn sent(values: &[&str], numbers: Numbers) -> ToSave {
    ToSave { batch: batch(values, Some(numbers.stamp)), numbers: Some(numbers) }
}

fn values(stored: &[Stored]) -> Vec<String> {
    let records = stored.iter().flat_map(|stored| stored.batch.records().unwrap());
    records.map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect()
}

/// The values of everything of a partition that waits.
fn waiting(storage: &DiskStorage, of: i32) -> Vec<String> {
    values(&wait(storage.read(&partition(of), 0, usize::MAX)).unwrap().batches)
}

fn save(storage: &DiskStorage, of: i32, batches: Vec<ToSave>) -> Vec<u64> {
    wait(storage.save_batch(&partition(of), batches)).unwrap()
}
