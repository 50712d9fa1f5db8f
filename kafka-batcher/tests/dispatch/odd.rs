//! A storage that is asked before each call whether it fails, panics, or does what it should.

use std::fmt;
use std::sync::Arc;

use kafka_batcher::producer::BoxFuture;
use kafka_batcher::storage::{
    Backlog, DeadLetter, Read, Recovered, Renumbered, StorageError, TempStorage, ToSave,
};
use kafka_batcher::{RecordBatch, TopicPartition};

/// A call of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    Keep,
    Save,
    Renumber,
    Read {
        max_bytes: usize,
    },
    /// What a read gave back.
    Gave {
        bytes: usize,
    },
    Commit,
    Reject,
    Drop,
    Regroup,
}

type Ask = dyn Fn(Call) -> Result<(), StorageError> + Send + Sync;

/// `ask` is called before the future of the call is made, on the caller's thread: what it answers or does is what the call
/// does.
#[derive(Clone)]
pub(crate) struct Odd {
    storage: Arc<dyn TempStorage>,
    ask: Arc<Ask>,
}

impl fmt::Debug for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.storage.fmt(f)
    }
}

impl Odd {
    pub(crate) fn new(
        storage: impl TempStorage,
        ask: impl Fn(Call) -> Result<(), StorageError> + Send + Sync + 'static,
    ) -> Self {
        Odd { storage: Arc::new(storage), ask: Arc::new(ask) }
    }

    fn asked<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        otherwise: impl FnOnce() -> BoxFuture<'a, Result<T, StorageError>>,
    ) -> BoxFuture<'a, Result<T, StorageError>> {
        match (self.ask)(call) {
            Ok(()) => otherwise(),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl TempStorage for Odd {
    fn open<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Recovered, StorageError>> {
        self.asked(Call::Open, || self.storage.open(topic))
    }

    fn keep_partitions<'a>(
        &'a self,
        topic: &'a str,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.asked(Call::Keep, || self.storage.keep_partitions(topic, partitions))
    }

    fn save_batch<'a>(
        &'a self,
        partition: &'a TopicPartition,
        batches: Vec<ToSave>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        self.asked(Call::Save, || self.storage.save_batch(partition, batches))
    }

    fn renumber<'a>(
        &'a self,
        partition: &'a TopicPartition,
        numbers: Vec<Renumbered>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.asked(Call::Renumber, || self.storage.renumber(partition, numbers))
    }

    fn is_empty<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<bool, StorageError>> {
        self.storage.is_empty(partition)
    }

    fn backlog<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Backlog, StorageError>> {
        self.storage.backlog(partition)
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Read, StorageError>> {
        let read = async move {
            let read = self.storage.read(partition, from, max_bytes).await?;
            let bytes = read.batches.iter().map(|stored| stored.batch.encoded_len()).sum();
            (self.ask)(Call::Gave { bytes })?;
            Ok(read)
        };
        self.asked(Call::Read { max_bytes }, || Box::pin(read))
    }

    fn commit<'a>(
        &'a self,
        partition: &'a TopicPartition,
        through: u64,
        durable: bool,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.asked(Call::Commit, || self.storage.commit(partition, through, durable))
    }

    fn reject<'a>(
        &'a self,
        partition: &'a TopicPartition,
        letters: Vec<DeadLetter>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.asked(Call::Reject, || self.storage.reject(partition, letters))
    }

    fn drop_events<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        through: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.asked(Call::Drop, || self.storage.drop_events(partition, from, through))
    }

    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        self.asked(Call::Regroup, || self.storage.regroup(topic, through, batches))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.storage.close()
    }
}
