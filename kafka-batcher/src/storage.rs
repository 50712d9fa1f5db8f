//! `TempStorage`: the seam to where batches go while Kafka does not take them.
//!
//! The trait stands so that the outbox and its users know what to expect; what the library has today is [`Discard`].

use std::fmt;

use kafka_batcher_core::{RecordBatch, TopicPartition};

use crate::producer::BoxFuture;

/// Why a storage could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No room: the bound is reached, or the disk is full.
    #[error("the storage is full: {0}")]
    Full(String),
    /// The medium failed.
    #[error("the storage failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A batch as it was read back.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// Where it goes.
    pub partition: TopicPartition,
    /// Names it for [`TempStorage::commit`] and [`TempStorage::reject`].
    pub position: u64,
    /// The batch, with the bytes and numbers that it was saved with.
    pub batch: RecordBatch,
}

/// What a storage holds of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events.
    pub events: u64,
    /// Encoded bytes.
    pub bytes: u64,
}

/// Keeps batches in order until Kafka takes them. When to save, read and commit is decided by the library.
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
    /// Appends a batch to its partition's tail; resolves when it is durable.
    ///
    /// # Errors
    /// [`StorageError`]; the batch is not stored then.
    fn save_batch<'a>(
        &'a self,
        partition: &'a TopicPartition,
        batch: &'a RecordBatch,
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

    /// The oldest batch behind `after` that is neither committed nor rejected.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        after: Option<u64>,
    ) -> BoxFuture<'a, Result<Option<StoredBatch>, StorageError>>;

    /// Kafka has this batch: forget it.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn commit<'a>(
        &'a self,
        partition: &'a TopicPartition,
        position: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Kafka will never take this batch: keep it aside with the reason, and go on.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn reject<'a>(
        &'a self,
        partition: &'a TopicPartition,
        position: u64,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), StorageError>>;
}

/// Keeps nothing: what the predecessor's default storage did after logging the payload. Counts what it was given, and
/// never logs it.
#[derive(Debug, Default)]
pub struct Discard {
    discarded: std::sync::atomic::AtomicU64,
}

impl Discard {
    /// Events discarded so far.
    pub fn discarded(&self) -> u64 {
        self.discarded.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn count(&self, batch: &RecordBatch) {
        self.discarded.fetch_add(u64::from(batch.count()), std::sync::atomic::Ordering::Relaxed);
    }
}

fn now<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, StorageError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl TempStorage for Discard {
    fn save_batch<'a>(
        &'a self,
        _: &'a TopicPartition,
        batch: &'a RecordBatch,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.count(batch);
        now(())
    }

    fn is_empty<'a>(&'a self, _: &'a TopicPartition) -> BoxFuture<'a, Result<bool, StorageError>> {
        now(true)
    }

    fn backlog<'a>(&'a self, _: &'a TopicPartition) -> BoxFuture<'a, Result<Backlog, StorageError>> {
        now(Backlog::default())
    }

    fn read<'a>(
        &'a self,
        _: &'a TopicPartition,
        _: Option<u64>,
    ) -> BoxFuture<'a, Result<Option<StoredBatch>, StorageError>> {
        now(None)
    }

    fn commit<'a>(&'a self, _: &'a TopicPartition, _: u64) -> BoxFuture<'a, Result<(), StorageError>> {
        now(())
    }

    fn reject<'a>(
        &'a self,
        _: &'a TopicPartition,
        _: u64,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        now(())
    }
}
