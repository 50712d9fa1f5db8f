//! The spool between a batcher and an embedded broker: what is durable arrives, once and in order, whatever dies.
//!
//! A process that is killed is a batcher dropped without shutdown, on a storage that outlives it and that it cannot reach any
//! more; real processes and a real Kafka have tests of their own. Nothing here waits for a clock but `spool_after`, which is some milliseconds.

mod dropped;
mod elsewhere;
mod frozen;
mod full_disk;
mod gated;
mod healthy;
mod held;
#[path = "../support/killed.rs"]
mod killed;
mod lost;
mod mortal;
mod outage;
mod policies;
mod rates;
mod restart;
mod stuck;
#[path = "../support/mod.rs"]
mod support;
mod told;
mod unknown;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_batcher::storage::StorageError;
use kafka_batcher::{
    Builder, Collector, DiskSettings, DiskStorage, ErrorNotifier, KafkaBatcher, MemoryStorage, Notification,
    NotificationKind, Receipt, SpoolMode, TempStorage,
};
use kafka_batcher_broker::{EmbeddedKafka, ProducerMemory};

use crate::mortal::{Fate, Mortal};
use crate::support::LONG;

const TOPIC: &str = "flights";
const PARTITIONS: i32 = 3;

/// Keeps what was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Notification>>>);

impl ErrorNotifier for Told {
    fn report(&self, notification: &Notification) {
        self.0.lock().unwrap().push(notification.clone());
    }
}

impl Told {
    fn count(&self, kind: NotificationKind) -> usize {
        self.0.lock().unwrap().iter().filter(|told| told.kind == kind).count()
    }
}

impl Told {
    /// How often it was told that events go to disk; never twice without having been told in between that they go on.
    fn spooling_episodes(&self) -> usize {
        let mut spooling = false;
        let mut episodes = 0;
        for told in self.0.lock().unwrap().iter() {
            match told.kind {
                NotificationKind::Spooling => {
                    assert!(!std::mem::replace(&mut spooling, true), "told twice: {:?}", self.0);
                    episodes += 1;
                }
                NotificationKind::Recovered => spooling = false,
                _ => {}
            }
        }
        episodes
    }
}

/// Where batches are kept.
#[derive(Debug)]
enum Kept {
    Memory(MemoryStorage),
    Disk(tempfile::TempDir),
}

/// Both storages, each with both modes.
fn everywhere() -> impl Iterator<Item = Site> {
    [SpoolMode::OnFailure, SpoolMode::Always]
        .into_iter()
        .flat_map(|mode| [Site::new(mode), Site::on_disk(mode)])
}

/// A broker, a storage, and the processes that use both, one after the other.
struct Site {
    kafka: EmbeddedKafka,
    bootstrap: String,
    storage: Kept,
    mode: SpoolMode,
    told: Told,
    /// Of the process that is started next, or was started last.
    fate: Fate,
    /// See [`Mortal::lane_bytes`].
    lane_bytes: usize,
    /// Directories of processes that were killed: they may still be letting go of them.
    graves: Vec<tempfile::TempDir>,
    /// Events sent so far: key and number.
    sent: u32,
    /// Those that must arrive.
    durable: Vec<u32>,
}

impl Site {
    fn new(mode: SpoolMode) -> Self {
        let kafka = support::kafka(PARTITIONS);
        let bootstrap = kafka.bootstrap();
        Site {
            kafka,
            bootstrap,
            storage: Kept::Memory(MemoryStorage::default()),
            mode,
            told: Told::default(),
            fate: Fate::default(),
            lane_bytes: usize::MAX,
            graves: Vec::new(),
            sent: 0,
            durable: Vec::new(),
        }
    }

    fn on_disk(mode: SpoolMode) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Site { storage: Kept::Disk(dir), ..Site::new(mode) }
    }

    /// The storage of a test that is about the one in memory.
    fn memory(&self) -> &MemoryStorage {
        match &self.storage {
            Kept::Memory(memory) => memory,
            Kept::Disk(_) => panic!("it is on disk"),
        }
    }

    /// Without a storage.
    fn settings(&self) -> Builder {
        KafkaBatcher::builder([self.bootstrap.clone()])
            .settings(|s| {
                s.retry_backoff = Duration::from_millis(5);
                s.retry_backoff_max = Duration::from_millis(50);
                s.request_timeout = Duration::from_secs(5);
            })
            .collector_defaults(|c| {
                c.batch_size = 10;
                c.max_wait_time = Duration::from_millis(1);
            })
            .error_notifier(self.told.clone())
            .spool_mode(self.mode)
            .spool_after(Duration::from_millis(20))
    }

    fn builder(&self) -> Builder {
        match &self.storage {
            Kept::Memory(memory) => self.settings().storage(memory.clone()),
            Kept::Disk(dir) => self.settings().spool(dir.path()),
        }
    }

    /// The storage as a process has it, until that is killed.
    async fn life(&self) -> Mortal {
        let storage: Box<dyn TempStorage> = match &self.storage {
            Kept::Memory(memory) => Box::new(memory.clone()),
            Kept::Disk(dir) => loop {
                match DiskStorage::new(DiskSettings::new(dir.path())) {
                    Ok(disk) => break Box::new(disk),
                    // The tasks of the one before are dropped by the runtime when it comes to them, and the disk with
                    // them.
                    Err(StorageError::Failed(message)) if message.contains("one process at a time") => {
                        tokio::task::yield_now().await;
                    }
                    Err(error) => panic!("{error}"),
                }
            },
        };
        Mortal::new(storage, self.fate.clone()).lane_bytes(self.lane_bytes)
    }

    async fn start(&self) -> (KafkaBatcher, Collector) {
        let storage = self.life().await;
        let batcher = self.settings().storage(storage).start().await.expect("it starts");
        let collector = batcher.collector(TOPIC).build().expect("the collector starts");
        (batcher, collector)
    }

    /// Sends so many events, of seven keys in turn.
    async fn send(&mut self, collector: &Collector, events: u32) -> Vec<(u32, Receipt)> {
        let mut receipts = Vec::new();
        for _ in 0..events {
            let number = self.sent;
            self.sent += 1;
            let key = format!("key-{}", number % 7);
            let receipt = collector.send((&key, &number.to_string())).await.expect("the event is accepted");
            receipts.push((number, receipt));
        }
        receipts
    }

    /// Waits until all of these are durable.
    async fn durable(&mut self, receipts: &[(u32, Receipt)]) {
        for (number, receipt) in receipts {
            let durable = tokio::time::timeout(LONG, receipt.durable()).await.expect("it becomes durable");
            durable.unwrap_or_else(|error| panic!("event {number}: {error}"));
            self.durable.push(*number);
        }
    }

    fn stop_kafka(&self) {
        self.kafka.stop_broker(1).expect("a broker");
    }

    fn start_kafka(&self) {
        self.kafka.restart_broker(1, ProducerMemory::LastBatch).expect("a broker");
    }

    /// What a kill does: the batcher is gone, and with it what the storage only took as a hint. Nothing reaches the storage
    /// any more: a batcher that is dropped would put there what it has in memory, and a disk how far it was.
    async fn kill(&mut self, batcher: KafkaBatcher, collector: Collector) {
        self.fate.kill();
        if let Kept::Disk(dir) = &mut self.storage {
            let left = killed::what_a_kill_leaves(dir.path());
            self.graves.push(std::mem::replace(dir, left));
        }
        drop((batcher, collector));
        // The tasks of the batcher are dropped by the runtime when it comes to them.
        tokio::task::yield_now().await;
        if let Kept::Memory(memory) = &self.storage {
            memory.crash();
        }
        self.fate = Fate::default();
    }

    /// Everything in the log: by partition, the numbers in order.
    fn log(&self) -> Vec<Vec<u32>> {
        let numbers = |partition| {
            support::values(&self.kafka, partition)
                .iter()
                .map(|value| value.parse().expect("a number"))
                .collect()
        };
        (0..PARTITIONS).map(numbers).collect()
    }

    /// Every durable event is in the log, once, and each key in order.
    fn check(&self) {
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        for partition in self.log() {
            for key in 0..7 {
                let of_key: Vec<u32> = partition.iter().copied().filter(|n| n % 7 == key).collect();
                assert!(of_key.is_sorted(), "key {key} is out of order: {of_key:?}");
            }
            partition.iter().for_each(|number| *times.entry(*number).or_default() += 1);
        }
        for number in &self.durable {
            assert_eq!(times.get(number).copied().unwrap_or(0), 1, "event {number} was durable");
        }
        let doubled: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
        assert!(doubled.is_empty(), "written more than once: {doubled:?}");
    }

    /// Waits until nothing is left on disk.
    async fn drained(&self, batcher: &KafkaBatcher) {
        let drained = async {
            loop {
                let report = batcher.report().await;
                if report.spooled + report.in_memory + report.in_flight == 0 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, drained).await.expect("the spool is drained");
    }
}

#[test]
#[should_panic(expected = "event 3 was durable")]
fn the_check_sees_a_durable_event_that_is_missing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut site = Site::new(SpoolMode::Always);
        site.durable.push(3);
        site.check();
    });
}
