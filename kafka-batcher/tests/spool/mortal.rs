//! A storage that a process has until it is killed: afterwards the process cannot do anything to it any more, although here it
//! is a value that is dropped, and what is dropped still runs. It may be killed at any call, and it may fail for one topic.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kafka_batcher::producer::BoxFuture;
use kafka_batcher::storage::{
    Backlog, DeadLetter, Read, Recovered, Renumbered, StorageError, TempStorage, ToSave, UNASSIGNED,
};
use kafka_batcher::{RecordBatch, TopicPartition};

/// Where in a call the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Nothing of it is done.
    Before,
    /// All of it is done, and the process does not hear of it.
    After,
}

/// The call at which the process is killed.
pub(crate) struct Death {
    /// 1 is the first.
    pub(crate) call: u64,
    pub(crate) moment: Moment,
    /// What happens at the same instant.
    pub(crate) then: Box<dyn Fn() + Send>,
}

/// What becomes of a process. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Fate(Arc<State>);

#[derive(Default)]
struct State {
    dead: AtomicBool,
    calls: AtomicU64,
    regroups: AtomicU64,
    death: Mutex<Option<Death>>,
    /// The topic whose medium fails.
    ill: Mutex<Option<String>>,
    /// Events that were given to it to be saved, by partition.
    saved: Mutex<BTreeMap<i32, u64>>,
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fate").field("dead", &self.is_dead()).finish_non_exhaustive()
    }
}

impl Fate {
    pub(crate) fn kill(&self) {
        self.0.dead.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn dies(&self, death: Death) {
        *self.0.death.lock().unwrap() = Some(death);
    }

    /// From now on the storage fails for this topic, or for none.
    pub(crate) fn set_ill(&self, topic: Option<&str>) {
        *self.0.ill.lock().unwrap() = topic.map(str::to_owned);
    }

    /// How many steps of regrouping were asked for.
    pub(crate) fn regroups(&self) -> u64 {
        self.0.regroups.load(Ordering::SeqCst)
    }

    /// How many events of which partitions were to be saved.
    pub(crate) fn saved(&self) -> Vec<(i32, u64)> {
        self.0.saved.lock().unwrap().iter().map(|(partition, events)| (*partition, *events)).collect()
    }

    fn works_for(&self, topic: &str) -> Result<(), StorageError> {
        if self.is_dead() {
            return Err(StorageError::Failed("the process was killed".to_owned()));
        }
        match self.0.ill.lock().unwrap().as_deref() == Some(topic) {
            true => Err(StorageError::Failed("the test's disk".to_owned())),
            false => Ok(()),
        }
    }

    /// Counts a call; whether it is killed at this one.
    fn counted(&self) -> Option<Moment> {
        let call = self.0.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.death.lock().unwrap().as_ref().filter(|death| death.call == call).map(|death| death.moment)
    }

    fn die(&self) {
        self.kill();
        if let Some(death) = &*self.0.death.lock().unwrap() {
            (death.then)();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Mortal {
    storage: Box<dyn TempStorage>,
    fate: Fate,
    /// What is read of the unassigned lane at once, so that few events are regrouped in several steps.
    lane_bytes: usize,
}

impl Mortal {
    pub(crate) fn new(storage: Box<dyn TempStorage>, fate: Fate) -> Self {
        Mortal { storage, fate, lane_bytes: usize::MAX }
    }

    pub(crate) fn lane_bytes(self, lane_bytes: usize) -> Self {
        Mortal { lane_bytes, ..self }
    }

    async fn call<'a, T>(
        &'a self,
        topic: &'a str,
        call: impl FnOnce() -> BoxFuture<'a, Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        self.fate.works_for(topic)?;
        let killed = self.fate.counted();
        if killed == Some(Moment::Before) {
            self.fate.die();
        }
        self.fate.works_for(topic)?;
        let result = call().await;
        if killed == Some(Moment::After) {
            self.fate.die();
        }
        // Whoever was killed meanwhile does not hear of it.
        self.fate.works_for(topic)?;
        result
    }
}

impl TempStorage for Mortal {
    fn open<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Recovered, StorageError>> {
        Box::pin(self.call(topic, move || self.storage.open(topic)))
    }

    fn keep_partitions<'a>(
        &'a self,
        topic: &'a str,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(self.call(topic, move || self.storage.keep_partitions(topic, partitions)))
    }

    fn save_batch<'a>(
        &'a self,
        partition: &'a TopicPartition,
        batches: Vec<ToSave>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        let events: u64 = batches.iter().map(|save| u64::from(save.batch.count())).sum();
        *self.fate.0.saved.lock().unwrap().entry(partition.partition).or_default() += events;
        Box::pin(self.call(&partition.topic, move || self.storage.save_batch(partition, batches)))
    }

    fn renumber<'a>(
        &'a self,
        partition: &'a TopicPartition,
        numbers: Vec<Renumbered>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(self.call(&partition.topic, move || self.storage.renumber(partition, numbers)))
    }

    fn is_empty<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<bool, StorageError>> {
        Box::pin(self.call(&partition.topic, move || self.storage.is_empty(partition)))
    }

    fn backlog<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Backlog, StorageError>> {
        Box::pin(self.call(&partition.topic, move || self.storage.backlog(partition)))
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Read, StorageError>> {
        let at_once = if partition.partition == UNASSIGNED { self.lane_bytes } else { usize::MAX };
        Box::pin(
            self.call(&partition.topic, move || self.storage.read(partition, from, max_bytes.min(at_once))),
        )
    }

    fn commit<'a>(
        &'a self,
        partition: &'a TopicPartition,
        through: u64,
        durable: bool,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(self.call(&partition.topic, move || self.storage.commit(partition, through, durable)))
    }

    fn reject<'a>(
        &'a self,
        partition: &'a TopicPartition,
        letters: Vec<DeadLetter>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(self.call(&partition.topic, move || self.storage.reject(partition, letters)))
    }

    fn drop_events<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        through: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(self.call(&partition.topic, move || self.storage.drop_events(partition, from, through)))
    }

    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        self.fate.0.regroups.fetch_add(1, Ordering::SeqCst);
        Box::pin(self.call(topic, move || self.storage.regroup(topic, through, batches)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        match self.fate.is_dead() {
            true => Box::pin(std::future::ready(())),
            false => self.storage.close(),
        }
    }
}
