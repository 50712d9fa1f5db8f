//! Every storage of ours passes the suite that a third one would run, and storages that are wrong on purpose do not.

use std::panic::AssertUnwindSafe;

use kafka_batcher::producer::BoxFuture;
use kafka_batcher::storage::conformance::{CASES, Medium};
use kafka_batcher::storage::{Read, Recovered, StorageError, TempStorage, ToSave};
use kafka_batcher::{DiskSettings, DiskStorage, MemoryStorage, RecordBatch, TopicPartition};

struct Memory(MemoryStorage);

impl Medium for Memory {
    fn open(&self) -> Box<dyn TempStorage> {
        self.0.crash();
        Box::new(self.0.clone())
    }
}

struct Disk(tempfile::TempDir);

impl Medium for Disk {
    fn open(&self) -> Box<dyn TempStorage> {
        Box::new(DiskStorage::new(DiskSettings::new(self.0.path())).expect("the directory can be used"))
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn memory_conforms() {
    for (name, case) in CASES {
        println!("{name}");
        runtime().block_on(case(&Memory(MemoryStorage::default())));
    }
}

#[test]
fn disk_conforms() {
    for (name, case) in CASES {
        println!("{name}");
        runtime().block_on(case(&Disk(tempfile::tempdir().expect("a directory"))));
    }
}

/// What is wrong with a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    LastFirst,
    HalfASave,
    IgnoresNumbers,
    ForgetsHoles,
    ForgetsTheLane,
    OldPositions,
    DropsNothing,
    DropsWholeBatches,
    DropsAllBelow,
    DropsAllBehind,
    DropsForAWhile,
    ForgetsTimes,
    SavedWhenRead,
}

#[derive(Debug)]
struct Broken(MemoryStorage, Wrong);

struct BrokenMedium(MemoryStorage, Wrong);

impl Medium for BrokenMedium {
    fn open(&self) -> Box<dyn TempStorage> {
        self.0.crash();
        Box::new(Broken(self.0.clone(), self.1))
    }
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StorageError>>;

impl TempStorage for Broken {
    fn open<'a>(&'a self, topic: &'a str) -> Answer<'a, Recovered> {
        self.0.open(topic)
    }
    fn keep_partitions<'a>(&'a self, topic: &'a str, partitions: i32) -> Answer<'a, ()> {
        self.0.keep_partitions(topic, partitions)
    }
    fn save_batch<'a>(&'a self, place: &'a TopicPartition, mut batches: Vec<ToSave>) -> Answer<'a, Vec<u64>> {
        match self.1 {
            Wrong::LastFirst => batches.reverse(),
            Wrong::HalfASave => batches.truncate(1),
            _ => {}
        }
        let positions = self.0.save_batch(place, batches);
        let shifted = u64::from(self.1 == Wrong::OldPositions);
        Box::pin(async move { Ok(positions.await?.into_iter().map(|p| p.saturating_sub(shifted)).collect()) })
    }
    fn renumber<'a>(
        &'a self,
        place: &'a TopicPartition,
        numbers: Vec<kafka_batcher::storage::Renumbered>,
    ) -> Answer<'a, ()> {
        match self.1 {
            Wrong::IgnoresNumbers => Box::pin(std::future::ready(Ok(()))),
            _ => self.0.renumber(place, numbers),
        }
    }
    fn is_empty<'a>(&'a self, place: &'a TopicPartition) -> Answer<'a, bool> {
        self.0.is_empty(place)
    }
    fn backlog<'a>(&'a self, place: &'a TopicPartition) -> Answer<'a, kafka_batcher::storage::Backlog> {
        self.0.backlog(place)
    }
    fn read<'a>(&'a self, place: &'a TopicPartition, from: u64, max_bytes: usize) -> Answer<'a, Read> {
        let (wrong, found) = (self.1, self.0.read(place, from, max_bytes));
        Box::pin(async move {
            let mut read = found.await?;
            for stored in &mut read.batches {
                match wrong {
                    Wrong::ForgetsTimes => stored.saved_ms = 0,
                    Wrong::SavedWhenRead => stored.saved_ms += 500,
                    _ => {}
                }
            }
            Ok(read)
        })
    }
    fn commit<'a>(&'a self, place: &'a TopicPartition, through: u64, durable: bool) -> Answer<'a, ()> {
        self.0.commit(place, through, durable)
    }
    fn reject<'a>(
        &'a self,
        place: &'a TopicPartition,
        letters: Vec<kafka_batcher::storage::DeadLetter>,
    ) -> Answer<'a, ()> {
        match self.1 {
            Wrong::ForgetsHoles => Box::pin(std::future::ready(Ok(()))),
            _ => self.0.reject(place, letters),
        }
    }
    fn drop_events<'a>(&'a self, place: &'a TopicPartition, from: u64, through: u64) -> Answer<'a, ()> {
        match self.1 {
            Wrong::DropsNothing => Box::pin(std::future::ready(Ok(()))),
            Wrong::DropsWholeBatches => self.0.drop_events(place, from.saturating_sub(1), through),
            Wrong::DropsAllBelow => self.0.drop_events(place, 0, through),
            Wrong::DropsAllBehind => self.0.drop_events(place, from, u64::MAX),
            Wrong::DropsForAWhile => self.0.commit(place, through, false),
            _ => self.0.drop_events(place, from, through),
        }
    }
    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> Answer<'a, Vec<u64>> {
        let through = if self.1 == Wrong::ForgetsTheLane { 0 } else { through };
        self.0.regroup(topic, through, batches)
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.close()
    }
}

#[test]
fn a_storage_that_is_wrong_on_purpose_is_found_out() {
    for wrong in [
        Wrong::LastFirst,
        Wrong::HalfASave,
        Wrong::IgnoresNumbers,
        Wrong::ForgetsHoles,
        Wrong::ForgetsTheLane,
        Wrong::OldPositions,
        Wrong::DropsNothing,
        Wrong::DropsWholeBatches,
        Wrong::DropsAllBelow,
        Wrong::DropsAllBehind,
        Wrong::DropsForAWhile,
        Wrong::ForgetsTimes,
        Wrong::SavedWhenRead,
    ] {
        let found = CASES.iter().find(|(_, case)| {
            let medium = BrokenMedium(MemoryStorage::default(), wrong);
            let run = AssertUnwindSafe(|| runtime().block_on(case(&medium)));
            std::panic::catch_unwind(run).is_err()
        });
        let (name, _) = found.unwrap_or_else(|| panic!("nobody noticed {wrong:?}"));
        println!("{wrong:?}: {name}");
    }
}
