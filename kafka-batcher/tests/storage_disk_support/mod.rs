//! What the tests of the spool on a real disk share: batches made by hand.

#![allow(dead_code)] // not every test binary uses all of it

use kafka_batcher::storage::{ClusterId, DiskStorage, Numbers, Origin, ToSave};
use kafka_batcher::{RecordBatch, TempStorage, TopicPartition};
use kafka_batcher_core::{Stamp, TopicId};

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

pub(crate) fn partition(partition: i32) -> TopicPartition {
    TopicPartition::new("flights", partition)
}

pub(crate) fn numbers(first_sequence: i32, cluster: Option<&str>) -> Numbers {
    let stamp = Stamp { producer_id: 7, epoch: 2, first_sequence };
    let cluster = cluster.map(|id| ClusterId(id.into()));
    Numbers { stamp, origin: Origin { cluster, topic: TopicId([3; 16]) } }
}

fn varint(out: &mut Vec<u8>, value: usize) {
    let mut zigzag = value << 1;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// A batch of events without keys, encoded by hand.
pub(crate) fn batch(values: &[&[u8]], stamp: Stamp) -> RecordBatch {
    let mut records = Vec::new();
    for (index, value) in values.iter().enumerate() {
        // Attributes, timestamp delta, offset delta, a null key, the value, no headers.
        let mut one = vec![0, 0];
        varint(&mut one, index);
        one.push(1);
        varint(&mut one, value.len());
        one.extend_from_slice(value);
        one.push(0);
        varint(&mut records, one.len());
        records.extend(one);
    }
    let count = values.len() as i32;
    let mut tail = Vec::new();
    tail.extend(0i16.to_be_bytes());
    tail.extend((count - 1).to_be_bytes());
    tail.extend(1_700_000_000_000i64.to_be_bytes());
    tail.extend(1_700_000_000_000i64.to_be_bytes());
    tail.extend(stamp.producer_id.to_be_bytes());
    tail.extend(stamp.epoch.to_be_bytes());
    tail.extend(stamp.first_sequence.to_be_bytes());
    tail.extend(count.to_be_bytes());
    tail.extend(records);
    let mut bytes = 0i64.to_be_bytes().to_vec();
    bytes.extend((tail.len() as i32 + 9).to_be_bytes());
    bytes.extend((-1i32).to_be_bytes());
    bytes.push(2);
    bytes.extend(crc32c::crc32c(&tail).to_be_bytes());
    bytes.extend(tail);
    RecordBatch::decode(&bytes).expect("a batch").0
}

pub(crate) fn fresh(values: &[&str]) -> ToSave {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    ToSave { batch: batch(&values, Stamp::NONE), numbers: None }
}

pub(crate) fn sent(values: &[&str], numbers: Numbers) -> ToSave {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    ToSave { batch: batch(&values, numbers.stamp), numbers: Some(numbers) }
}

/// The values of everything of a partition that waits.
pub(crate) fn waiting(storage: &DiskStorage, of: i32) -> Vec<String> {
    let read = wait(storage.read(&partition(of), 0, usize::MAX)).expect("read");
    assert!(read.damage.is_empty(), "{:?}", read.damage);
    let records = read.batches.iter().flat_map(|stored| stored.batch.records().expect("records"));
    records.map(|record| String::from_utf8(record.value.expect("a value")).expect("text")).collect()
}

pub(crate) fn save(storage: &DiskStorage, of: i32, batches: Vec<ToSave>) -> Vec<u64> {
    wait(storage.save_batch(&partition(of), batches)).expect("saved")
}
