//! What every storage must do, as code: run it against yours.
//!
//! ```
//! use kafka_batcher::MemoryStorage;
//! use kafka_batcher::storage::TempStorage;
//! use kafka_batcher::storage::conformance::{CASES, Medium};
//!
//! struct Mine(MemoryStorage);
//! impl Medium for Mine {
//!     fn open(&self) -> Box<dyn TempStorage> {
//!         self.0.crash(); // what was only hinted at is gone
//!         Box::new(self.0.clone())
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! for (name, case) in CASES {
//!     println!("{name}");
//!     case(&Mine(MemoryStorage::default())).await;
//! }
//! # });
//! ```
//!
//! A case panics with what is wrong. It takes little memory and a few calls; none of them waits for a clock. The more of
//! [`Medium`] you fill, the more is shown: a crash that is a crash, and writes that fail.

mod cases;
mod model;
mod rows;

use kafka_batcher_core::{
    Accumulator, AccumulatorSettings, BufferPool, ClusterId, DeadLetter, DeliveryError, FailureReason,
    FlushReason, Numbers, Offer, Origin, OwnedHeader, OwnedRecord, Persisted, PushError, RecordBatch, Share,
    Stamp, Time, ToSave, TopicId, TopicPartition,
};

use super::TempStorage;
use crate::producer::BoxFuture;

/// What outlives a process: opened again, it holds everything that was resolved.
pub trait Medium: Sync {
    /// A storage on it, as a new process gets it. The one before was dropped, or its process killed; commits that were
    /// not asked to be durable may have been forgotten.
    fn open(&self) -> Box<dyn TempStorage>;

    /// Ends a storage as a killed process does, or a lost machine: nothing is done any more that was not done. Without a
    /// way to do that, dropping it is the next best.
    fn crash(&self, storage: Box<dyn TempStorage>) {
        drop(storage);
    }

    /// From now on every call that writes fails, until told otherwise. False: this medium cannot be made to fail, and
    /// what follows a failure is not shown.
    fn fail_writes(&self, _fail: bool) -> bool {
        false
    }

    /// The dead letters of a topic, the oldest first; `None`: they cannot be listed, and are not looked at.
    fn dead_letters(&self, _topic: &str) -> Option<Vec<RecordBatch>> {
        None
    }
}

/// A case: given an empty medium, it panics with what is wrong.
pub type Case = for<'a> fn(&'a dyn Medium) -> BoxFuture<'a, ()>;

/// All cases, by what they show.
pub const CASES: &[(&str, Case)] = &[
    ("what is saved is read back in order, with its bytes and numbers", |m| Box::pin(cases::in_order(m))),
    ("a read gives at least one batch and no more than fits", |m| Box::pin(cases::bounded_reads(m))),
    ("a read from the middle of a batch gives the rest of it", |m| Box::pin(cases::middle(m))),
    ("what is saved survives the process, and no position is given twice", |m| Box::pin(cases::survives(m))),
    ("what is committed is not read again, also in the middle of a batch", |m| Box::pin(cases::commits(m))),
    ("a durable commit survives the process", |m| Box::pin(cases::durable_commit(m))),
    ("new numbers hold, for a part of a batch, the latest of them, and for good", |m| {
        Box::pin(cases::renumbers(m))
    }),
    ("a rejected event leaves a hole and its neighbours", |m| Box::pin(cases::rejects(m))),
    ("what is given up is gone for good, its neighbours stay", |m| Box::pin(cases::drops(m))),
    ("giving up what is not there changes nothing", |m| Box::pin(cases::drops_nothing(m))),
    ("when an event was saved is told, and outlives the process", |m| Box::pin(cases::times(m))),
    ("regrouping settles the lane and fills the partitions in one step", |m| Box::pin(cases::regroups(m))),
    ("partitions and topics do not see each other", |m| Box::pin(cases::apart(m))),
    ("the number of partitions is remembered", |m| Box::pin(cases::partitions(m))),
    ("keys, values, headers and times of every kind come back as they were", |m| {
        Box::pin(rows::every_kind_of_event(m))
    }),
    ("where nothing was saved nothing waits", |m| Box::pin(rows::nothing(m))),
    ("a partition that nobody saved to is empty", |m| Box::pin(rows::strangers(m))),
    ("no position is given twice, not even when all is settled", |m| Box::pin(rows::positions_once(m))),
    ("a commit settles nothing that is saved later", |m| Box::pin(rows::beyond_the_end(m))),
    ("a commit that comes late takes nothing back", |m| Box::pin(rows::late_commit(m))),
    ("a crash forgets hints at the most, a close none", |m| Box::pin(rows::hints(m))),
    ("the latest numbers hold wherever a batch is cut", |m| Box::pin(rows::latest_numbers(m))),
    ("a hole stays a hole", |m| Box::pin(rows::holes(m))),
    ("what was given up stays so, whatever else is said of its batch", |m| Box::pin(rows::given_up(m))),
    ("a lane is regrouped up to any event", |m| Box::pin(rows::lane(m))),
    ("calls for different partitions come at once", |m| Box::pin(rows::at_once(m))),
    ("what was answered with an error has not happened", |m| Box::pin(rows::errors(m))),
    ("any row of calls gives what it must", |m| Box::pin(rows::any_row(m))),
];

const TOPIC: &str = "flights";

fn place(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

/// A batch of these values, with a key, a null and a header among them.
fn batch(values: &[&str]) -> RecordBatch {
    let record = |(n, value): (usize, &&str)| OwnedRecord {
        timestamp: 1_000,
        key: (n % 2 == 1).then(|| b"key".to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: vec![OwnedHeader { name: "h".to_owned(), value: None }; n % 2],
    };
    sealed(&values.iter().enumerate().map(record).collect::<Vec<_>>())
}

/// A batch as the accumulator makes it.
pub(crate) fn sealed(records: &[OwnedRecord]) -> RecordBatch {
    let settings = AccumulatorSettings {
        batch_size: u32::MAX,
        max_batch_bytesize: 1 << 20,
        max_wait_time: std::time::Duration::from_secs(1),
        min_delay: std::time::Duration::ZERO,
    };
    let (pool, share) = (BufferPool::new(1 << 20), Share::new(1 << 20));
    let mut accumulator = Accumulator::new(settings, 0);
    let mut spare = None;
    for record in records {
        let timestamp = record.timestamp;
        record.view(|record| {
            let offer = Offer { lane: 0, record, timestamp, flush_after: false, want_receipt: false };
            loop {
                match accumulator.push(offer, &mut spare, || Time::from_millis(1)) {
                    Ok(_) => break,
                    Err(PushError::NeedsChunk { size, .. }) => {
                        spare = Some(pool.acquire_reserve(&share, size))
                    }
                    Err(error) => panic!("the suite's own event: {error}"),
                }
            }
        });
    }
    accumulator.seal(FlushReason::Flush, Time::from_millis(1));
    let sealed = accumulator.poll_sealed().unwrap_or_else(|| panic!("the suite's own batch"));
    let mut batch = sealed.batch;
    // Some have their time from the user, in several stretches, others not.
    let given = (0u32..).zip(records).filter(|(_, record)| record.timestamp % 3 == 0);
    batch.set_times_given(given.map(|(n, _)| n..n + 1).collect());
    batch
}

fn numbers(first_sequence: i32) -> Numbers {
    Numbers {
        stamp: Stamp { producer_id: 7, epoch: 2, first_sequence },
        origin: Origin { cluster: Some(ClusterId("here".into())), topic: TopicId([3; 16]) },
    }
}

/// The batch with these numbers in its bytes.
pub(crate) fn with_stamp(batch: &RecordBatch, stamp: &Stamp) -> RecordBatch {
    let mut bytes = batch.to_bytes();
    bytes[43..51].copy_from_slice(&stamp.producer_id.to_be_bytes());
    bytes[51..53].copy_from_slice(&stamp.epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&stamp.first_sequence.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let (mut same, _) =
        RecordBatch::decode(&bytes).unwrap_or_else(|error| panic!("the suite's own batch: {error}"));
    same.set_times_given(batch.times_given().to_vec());
    same
}

fn stamped(values: &[&str], first_sequence: i32) -> ToSave {
    let numbers = numbers(first_sequence);
    ToSave { batch: with_stamp(&batch(values), &numbers.stamp), numbers: Some(numbers) }
}

fn error() -> DeliveryError {
    DeliveryError {
        reason: FailureReason::Rejected,
        persisted: Persisted::No,
        code: Some(87),
        message: "no".to_owned(),
    }
}

fn letter(position: Option<u64>) -> DeadLetter {
    DeadLetter { batch: batch(&["bad"]), position, error: error() }
}

fn plain(values: &[&str]) -> ToSave {
    ToSave { batch: batch(values), numbers: None }
}
