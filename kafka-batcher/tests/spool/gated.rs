//! A storage whose calls can be made to wait, by kind: a disk that does not answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use kafka_batcher::producer::BoxFuture;
use kafka_batcher::storage::{
    Backlog, DeadLetter, Read, Recovered, Renumbered, StorageError, TempStorage, ToSave,
};
use kafka_batcher::{MemoryStorage, RecordBatch, TopicPartition};
use tokio::sync::watch;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Open,
    Save,
    Commit,
    Reject,
    Close,
}

/// Which calls wait, and what was seen of them. Shared by the clones of a storage.
#[derive(Debug)]
pub(crate) struct Gates {
    held: watch::Sender<BTreeSet<Call>>,
    waiting: AtomicU64,
    closes: AtomicU64,
    pub(crate) close_panics: AtomicBool,
    /// Every dead letter is refused.
    pub(crate) rejects_fail: AtomicBool,
    /// The first batch that is read is damaged.
    pub(crate) damage: AtomicBool,
}

impl Gates {
    /// From now on such calls wait.
    pub(crate) fn hold(&self, call: Call) {
        self.held.send_modify(|held| {
            held.insert(call);
        });
    }

    /// All go on.
    pub(crate) fn release(&self) {
        self.held.send_modify(BTreeSet::clear);
    }

    /// How many calls have ever waited.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(SeqCst)
    }

    /// How often it was closed.
    pub(crate) fn closes(&self) -> u64 {
        self.closes.load(SeqCst)
    }

    async fn pass(&self, call: Call) {
        let mut held = self.held.subscribe();
        if held.borrow().contains(&call) {
            self.waiting.fetch_add(1, SeqCst);
            held.wait_for(|held| !held.contains(&call)).await.expect("the gates outlive the calls");
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Gated {
    storage: MemoryStorage,
    pub(crate) gates: Arc<Gates>,
}

impl Gated {
    pub(crate) fn new(storage: MemoryStorage) -> Self {
        let gates = Gates {
            held: watch::Sender::new(BTreeSet::new()),
            waiting: AtomicU64::default(),
            closes: AtomicU64::default(),
            close_panics: AtomicBool::default(),
            rejects_fail: AtomicBool::default(),
            damage: AtomicBool::default(),
        };
        Gated { storage, gates: Arc::new(gates) }
    }
}

impl TempStorage for Gated {
    fn open<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Recovered, StorageError>> {
        Box::pin(async move {
            self.gates.pass(Call::Open).await;
            self.storage.open(topic).await
        })
    }

    fn keep_partitions<'a>(
        &'a self,
        topic: &'a str,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.storage.keep_partitions(topic, partitions)
    }

    fn save_batch<'a>(
        &'a self,
        partition: &'a TopicPartition,
        batches: Vec<ToSave>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        Box::pin(async move {
            self.gates.pass(Call::Save).await;
            self.storage.save_batch(partition, batches).await
        })
    }

    fn renumber<'a>(
        &'a self,
        partition: &'a TopicPartition,
        numbers: Vec<Renumbered>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.storage.renumber(partition, numbers)
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
        Box::pin(async move {
            let mut read = self.storage.read(partition, from, max_bytes).await?;
            if !read.batches.is_empty() && self.gates.damage.swap(false, SeqCst) {
                let lost = read.batches.remove(0);
                read.damage.push((u64::from(lost.batch.count()), "the test's disk".to_owned()));
            }
            Ok(read)
        })
    }

    fn commit<'a>(
        &'a self,
        partition: &'a TopicPartition,
        through: u64,
        durable: bool,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            self.gates.pass(Call::Commit).await;
            self.storage.commit(partition, through, durable).await
        })
    }

    fn reject<'a>(
        &'a self,
        partition: &'a TopicPartition,
        letters: Vec<DeadLetter>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            self.gates.pass(Call::Reject).await;
            if self.gates.rejects_fail.load(SeqCst) {
                return Err(StorageError::Failed("the test's disk".to_owned()));
            }
            self.storage.reject(partition, letters).await
        })
    }

    fn drop_events<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        through: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.storage.drop_events(partition, from, through)
    }

    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        self.storage.regroup(topic, through, batches)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.gates.closes.fetch_add(1, SeqCst);
        assert!(!self.gates.close_panics.load(SeqCst), "the test's storage");
        Box::pin(async move {
            self.gates.pass(Call::Close).await;
            self.storage.close().await;
        })
    }
}
