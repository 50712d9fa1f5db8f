//! A storage that a process has until it is killed: afterwards the process cannot do anything to it any more, although here it
//! is a value that is dropped, and what is dropped still runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kafka_batcher::producer::BoxFuture;
use kafka_batcher::storage::{
    Backlog, DeadLetter, Read, Recovered, Renumbered, StorageError, TempStorage, ToSave,
};
use kafka_batcher::{RecordBatch, TopicPartition};

#[derive(Debug)]
pub(crate) struct Mortal {
    storage: Box<dyn TempStorage>,
    dead: Arc<AtomicBool>,
}

impl Mortal {
    pub(crate) fn new(storage: Box<dyn TempStorage>) -> Self {
        Mortal { storage, dead: Arc::default() }
    }

    /// To be set when the process is killed.
    pub(crate) fn dead(&self) -> Arc<AtomicBool> {
        self.dead.clone()
    }

    fn alive(&self) -> Result<(), StorageError> {
        match self.dead.load(Ordering::SeqCst) {
            true => Err(StorageError::Failed("the process was killed".to_owned())),
            false => Ok(()),
        }
    }
}

impl TempStorage for Mortal {
    fn open<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Recovered, StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.open(topic).await
        })
    }

    fn keep_partitions<'a>(
        &'a self,
        topic: &'a str,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.keep_partitions(topic, partitions).await
        })
    }

    fn save_batch<'a>(
        &'a self,
        partition: &'a TopicPartition,
        batches: Vec<ToSave>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.save_batch(partition, batches).await
        })
    }

    fn renumber<'a>(
        &'a self,
        partition: &'a TopicPartition,
        numbers: Vec<Renumbered>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.renumber(partition, numbers).await
        })
    }

    fn is_empty<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<bool, StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.is_empty(partition).await
        })
    }

    fn backlog<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Backlog, StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.backlog(partition).await
        })
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Read, StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.read(partition, from, max_bytes).await
        })
    }

    fn commit<'a>(
        &'a self,
        partition: &'a TopicPartition,
        through: u64,
        durable: bool,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.commit(partition, through, durable).await
        })
    }

    fn reject<'a>(
        &'a self,
        partition: &'a TopicPartition,
        letters: Vec<DeadLetter>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.reject(partition, letters).await
        })
    }

    fn drop_events<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        through: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.drop_events(partition, from, through).await
        })
    }

    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        Box::pin(async move {
            self.alive()?;
            self.storage.regroup(topic, through, batches).await
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.storage.close()
    }
}
