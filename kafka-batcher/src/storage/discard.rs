//! `Discard`: keeps nothing, and says so.

use std::sync::atomic::{AtomicU64, Ordering};

use kafka_batcher_core::{
    Backlog, DeadLetter, RecordBatch, Renumbered, StorageError, ToSave, TopicPartition,
};

use super::{Read, Recovered, TempStorage};
use crate::producer::BoxFuture;

/// Keeps nothing: what the predecessor's default storage did after logging the payload. Counts what it was given, and
/// never logs it. Events that are "saved" in it are lost, and counted as lost.
#[derive(Debug, Default)]
pub struct Discard {
    discarded: AtomicU64,
}

impl Discard {
    /// Events discarded so far.
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }

    fn count(&self, batch: &RecordBatch) {
        self.discarded.fetch_add(u64::from(batch.count()), Ordering::Relaxed);
    }
}

fn now<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, StorageError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl TempStorage for Discard {
    fn keeps(&self) -> bool {
        false
    }

    fn open<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Recovered, StorageError>> {
        now(Recovered::default())
    }

    fn keep_partitions<'a>(&'a self, _: &'a str, _: i32) -> BoxFuture<'a, Result<(), StorageError>> {
        now(())
    }

    fn save_batch<'a>(
        &'a self,
        _: &'a TopicPartition,
        batches: Vec<ToSave>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        batches.iter().for_each(|saved| self.count(&saved.batch));
        now(vec![0; batches.len()])
    }

    fn renumber<'a>(
        &'a self,
        _: &'a TopicPartition,
        _: Vec<Renumbered>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
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
        from: u64,
        _: usize,
    ) -> BoxFuture<'a, Result<Read, StorageError>> {
        now(Read { next: from, ..Read::default() })
    }

    fn commit<'a>(
        &'a self,
        _: &'a TopicPartition,
        _: u64,
        _: bool,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        now(())
    }

    fn reject<'a>(
        &'a self,
        _: &'a TopicPartition,
        letters: Vec<DeadLetter>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        letters.iter().for_each(|letter| self.count(&letter.batch));
        now(())
    }

    fn drop_events<'a>(
        &'a self,
        _: &'a TopicPartition,
        _: u64,
        _: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        now(())
    }

    fn regroup<'a>(
        &'a self,
        _: &'a str,
        _: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        batches.iter().for_each(|(_, batch)| self.count(batch));
        now(vec![0; batches.len()])
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
