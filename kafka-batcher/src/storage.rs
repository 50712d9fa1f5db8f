//! `TempStorage`: the seam to where batches go while Kafka does not take them.
//!
//! A storage keeps batches in order and knows nothing of delivery: when to save, read, renumber, commit and reject is
//! decided by the outbox alone. [`Discard`] keeps nothing.

pub mod conformance;
mod discard;
pub mod disk;
mod memory;

use std::fmt;
use std::time::Duration;

pub use kafka_batcher_core::{
    Backlog, ClusterId, DeadLetter, Numbers, Origin, ReadBack as Read, Renumbered, StorageError, Stored,
    ToSave,
};
use kafka_batcher_core::{RecordBatch, TopicPartition};

pub use self::discard::Discard;
pub use self::disk::{DiskSettings, DiskStorage};
pub use self::memory::MemoryStorage;
use crate::producer::BoxFuture;

/// The partition number under which batches are saved of which nobody knows the partition yet: the topic's unassigned
/// lane.
pub const UNASSIGNED: i32 = -1;

/// What a storage knows of a topic when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What waits, by partition ([`UNASSIGNED`] among them); partitions of which nothing waits are left out.
    pub backlogs: Vec<(i32, Backlog)>,
    /// How many partitions the topic had when that was last known.
    pub partitions: Option<i32>,
    /// What was found damaged, one line each: where, and what it cost; what cost nothing last. Told to the operator once.
    pub damage: Vec<String>,
    /// How many events that waited are missing for it: exactly, or, where nobody can say any more what was there, at most.
    /// They count as recovered and lost.
    pub missing: u64,
}

/// Dead letters that a storage had to drop for later ones, in events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedLetters {
    /// Of those that were put aside since the topic was opened: they were counted as dead letters and are lost.
    pub own: u64,
    /// Of those that were there before: they are counted as recovered and lost.
    pub earlier: u64,
}

/// The room of a storage, in bytes. More may be asked for later: a storage of your own begins with the default.
///
/// ```
/// use kafka_batcher::storage::StorageUsage;
///
/// let mut usage = StorageUsage::default();
/// (usage.bytes, usage.max_bytes) = (4_096, 1 << 30);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageUsage {
    /// What it takes.
    pub bytes: u64,
    /// What it may take.
    pub max_bytes: u64,
    /// What is free on its medium, where that is known.
    pub free_bytes: Option<u64>,
    /// What it leaves of that to others.
    pub min_free_bytes: u64,
}

/// Is told how long the medium took to make something durable.
pub type FsyncObserver = Box<dyn Fn(Duration) + Send + Sync>;

/// Keeps batches in order until Kafka takes them.
///
/// For one partition at a time the library has at most one call of each kind under way, and none before
/// [`TempStorage::open`] of its topic has resolved; calls for different partitions come at once. Positions: see
/// [`Stored`].
///
/// ```
/// use kafka_batcher::{Discard, TempStorage, TopicPartition};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let storage: Box<dyn TempStorage> = Box::new(Discard::default());
/// assert!(storage.is_empty(&TopicPartition::new("flights", 0)).await.unwrap());
/// # });
/// ```
pub trait TempStorage: Send + Sync + fmt::Debug + 'static {
    /// False: what is saved here is gone. The events count as lost then and their receipts fail (`FailureReason::Discarded`), nothing
    /// is put aside nor left for the next start, and the spool's mode is `on_failure` whatever it was set to.
    fn keeps(&self) -> bool {
        true
    }

    /// Brings back what an earlier process left of a topic. To be called once for a topic, before anything else.
    ///
    /// # Errors
    /// [`StorageError::Failed`], for example if another process holds the directory.
    fn open<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Recovered, StorageError>>;

    /// Keeps in mind how many partitions the topic has: what [`Recovered::partitions`] says next time.
    ///
    /// # Errors
    /// [`StorageError`]; nothing depends on it but the placement of events at a start without Kafka.
    fn keep_partitions<'a>(
        &'a self,
        topic: &'a str,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Appends batches to their partition's tail, all of them or none, and resolves when they are durable: with the
    /// position of each.
    ///
    /// Not cancel-safe: the batches may be saved although the future is dropped; nobody does.
    ///
    /// # Errors
    /// [`StorageError`]; none of the batches is stored then, now or after a crash.
    fn save_batch<'a>(
        &'a self,
        partition: &'a TopicPartition,
        batches: Vec<ToSave>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>>;

    /// Remembers other numbers for saved events; resolves when that is durable. The latest hold.
    ///
    /// # Errors
    /// [`StorageError`]; the numbers of before hold then.
    fn renumber<'a>(
        &'a self,
        partition: &'a TopicPartition,
        numbers: Vec<Renumbered>,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// True if nothing of the partition waits.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn is_empty<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<bool, StorageError>>;

    /// How much of the partition waits.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn backlog<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Backlog, StorageError>>;

    /// The oldest batches that lie at `from` or behind and wait, as many as fit into `max_bytes`, but at least one if
    /// there is one; of a batch that `from` cuts, the events from there on. Every byte is checked before it is given out; what turns out damaged is left out and told in
    /// `damage`.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Read, StorageError>>;

    /// Everything of the partition below `through` is settled: forget it. Resolves at once, and is durable some time later
    /// (losing it costs resends), unless `durable` is asked for: then it resolves when it is.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn commit<'a>(
        &'a self,
        partition: &'a TopicPartition,
        through: u64,
        durable: bool,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Kafka will never take this event: keep it aside with the reason, and leave a hole where it was saved. Resolves
    /// when both are durable. The letter's batch is kept as it is given.
    ///
    /// # Errors
    /// [`StorageError`]; nothing has changed then.
    fn reject<'a>(
        &'a self,
        partition: &'a TopicPartition,
        letters: Vec<DeadLetter>,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Which dead letters of a topic had to go for later ones, since this was last asked. Asked after letters were rejected; answers
    /// at once. A storage that keeps all of them says none, as this does unless it is written anew.
    fn take_dropped_letters(&self, topic: &str) -> DroppedLetters {
        let _ = topic;
        DroppedLetters::default()
    }

    /// Everything of the partition in `from..through` that waits is given up, undelivered: a hole as [`TempStorage::reject`]
    /// leaves one, but nothing is kept aside. Resolves when that is durable. It must work when the storage is full, and
    /// make room then: that is what it is for. What is not saved yet cannot be given up; damage in the range is nobody's
    /// news afterwards.
    ///
    /// # Errors
    /// [`StorageError`]; nothing has changed then.
    fn drop_events<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        through: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// In one durable step: `batches` (never sent) are appended, each to its partition's tail, and everything of the
    /// unassigned lane below `through` is settled. Resolves with the position of each batch. After a crash either all of
    /// it has happened or nothing (DESIGN.md, Delivery).
    ///
    /// # Errors
    /// [`StorageError`]; nothing has changed then.
    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>>;

    /// How much room it takes and has, for the metrics. `None`: it does not say. Read at every scrape, by the thread that gathers
    /// the registry, which may be one of the runtime's, with the registry locked: it must not block (a disk is asked elsewhere, and
    /// the last answer given), nor use the registry.
    fn usage(&self) -> Option<StorageUsage> {
        None
    }

    /// To be told, from now on and instead of whoever was told before, how long each group of batches took to become durable. It
    /// returns at once. A storage without a disk ignores it.
    fn observe_fsyncs(&self, told: FsyncObserver) {
        drop(told);
    }

    /// Makes durable what was only hinted at, and lets go of the medium. Called once, and nothing afterwards.
    /// Not waited for longer than ten seconds.
    fn close(&self) -> BoxFuture<'_, ()>;
}
