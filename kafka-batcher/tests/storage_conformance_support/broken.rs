//! A right storage behind one mistake: what the suite must find out.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt;
use kafka_batcher::producer::BoxFuture;
use kafka_batcher::storage::conformance::Medium;
use kafka_batcher::storage::{
    Backlog, DeadLetter, Numbers, Read, Recovered, Renumbered, StorageError, TempStorage, ToSave,
};
use kafka_batcher::{MemoryStorage, RecordBatch, TopicPartition};

use super::wrong::Wrong;

/// A right storage behind one mistake.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    right: Arc<Mutex<MemoryStorage>>,
    wrong: Wrong,
    noted: Arc<Mutex<Noted>>,
}

/// What a mistake needs to remember, in the process that makes it.
#[derive(Debug, Default)]
struct Noted {
    fails: bool,
    /// How often a topic was opened, or read.
    opened: i64,
    batches: Vec<(TopicPartition, Range<u64>)>,
    renumbered: Vec<u64>,
    dropping: Vec<TopicPartition>,
    /// What was renumbered, with the numbers of before.
    numbers: Vec<(TopicPartition, Renumbered)>,
}

impl Broken {
    pub(crate) fn new(wrong: Wrong) -> Self {
        Broken { right: Arc::default(), wrong, noted: Arc::default() }
    }
    fn right(&self) -> MemoryStorage {
        self.right.lock().expect("not poisoned").clone()
    }
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().expect("not poisoned")
    }
    /// The saved batch that holds this position.
    fn batch(&self, place: &TopicPartition, position: u64) -> Option<Range<u64>> {
        let noted = self.noted();
        noted
            .batches
            .iter()
            .find(|(of, range)| of == place && range.contains(&position))
            .map(|(_, r)| r.clone())
    }
}

impl Medium for Broken {
    fn open(&self) -> Box<dyn TempStorage> {
        Box::new(self.clone())
    }
    fn crash(&self, _: Box<dyn TempStorage>) {
        self.right().crash();
        let right = self.right();
        for (place, old) in std::mem::take(&mut self.noted().numbers).into_iter().rev() {
            right.renumber(&place, vec![old]).now_or_never();
        }
        if self.wrong == Wrong::PositionsFromTheBeginningWhenDrained {
            let found = right.open("flights").now_or_never().expect("at once").expect("opened");
            if found.backlogs.is_empty() {
                let anew = MemoryStorage::default();
                found.partitions.map(|count| anew.keep_partitions("flights", count).now_or_never());
                *self.right.lock().expect("not poisoned") = anew;
            }
        }
    }
    fn fail_writes(&self, fail: bool) -> bool {
        self.noted().fails = fail;
        self.right().fail_with(fail.then(|| StorageError::Failed("so asked".to_owned())));
        true
    }
    fn dead_letters(&self, topic: &str) -> Option<Vec<RecordBatch>> {
        Some(self.right().dead_letters(topic).into_iter().map(|letter| letter.batch).collect())
    }
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StorageError>>;

/// The batch with one bit changed that its CRC does not tell.
fn with_other_times(batch: &RecordBatch) -> RecordBatch {
    let mut bytes = batch.to_bytes();
    bytes[34] ^= 1;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    RecordBatch::decode(&bytes).expect("a batch").0
}

impl TempStorage for Broken {
    fn open<'a>(&'a self, topic: &'a str) -> Answer<'a, Recovered> {
        Box::pin(async move {
            self.noted().opened += 1;
            let mut found = self.right().open(topic).await?;
            if self.wrong == Wrong::ForgetsPartitions {
                found.partitions = None;
            }
            Ok(found)
        })
    }
    fn keep_partitions<'a>(&'a self, topic: &'a str, partitions: i32) -> Answer<'a, ()> {
        Box::pin(async move { self.right().keep_partitions(topic, partitions).await })
    }
    fn save_batch<'a>(&'a self, place: &'a TopicPartition, mut batches: Vec<ToSave>) -> Answer<'a, Vec<u64>> {
        Box::pin(async move {
            let asked = batches.len();
            let mut place = place.clone();
            match self.wrong {
                Wrong::LastFirst => batches.reverse(),
                Wrong::HalfASave => batches.truncate(asked.div_ceil(2)),
                Wrong::OneTopic => place.topic = "flights".into(),
                Wrong::ForgetsTheCluster => {
                    batches
                        .iter_mut()
                        .filter_map(|s| s.numbers.as_mut())
                        .for_each(|n| n.origin.cluster = None);
                }
                Wrong::OtherTimes => {
                    batches.iter_mut().for_each(|saved| saved.batch = with_other_times(&saved.batch));
                }
                Wrong::HalfASaveThatFails if self.noted().fails => {
                    self.right().fail_with(None);
                    batches.truncate(1);
                    self.right().save_batch(&place, batches).await?;
                    let error = StorageError::Full("half of it fitted".to_owned());
                    self.right().fail_with(Some(error.clone()));
                    return Err(error);
                }
                _ => {}
            }
            let counts: Vec<u64> = batches.iter().map(|saved| saved.batch.count().into()).collect();
            let mut positions = match self.right().save_batch(&place, batches).await {
                Err(_) if self.wrong == Wrong::SaysNothingOfAFullDisk => return Ok(vec![0; asked]),
                positions => positions?,
            };
            let ranges = positions.iter().zip(counts).map(|(p, count)| (place.clone(), *p..p + count));
            self.noted().batches.extend(ranges);
            if self.noted().dropping.contains(&place) {
                self.right().drop_events(&place, 0, u64::MAX).await?;
            }
            if self.wrong == Wrong::OldPositions {
                positions.iter_mut().for_each(|position| *position = position.saturating_sub(1));
            }
            if self.wrong == Wrong::HalfASave {
                positions.resize(asked, positions.last().copied().unwrap_or_default() + 50);
            }
            Ok(positions)
        })
    }
    fn renumber<'a>(&'a self, place: &'a TopicPartition, mut numbers: Vec<Renumbered>) -> Answer<'a, ()> {
        Box::pin(async move {
            match self.wrong {
                Wrong::IgnoresNumbers => numbers.clear(),
                Wrong::TheFirstNumbersHold => {
                    let mut noted = self.noted();
                    numbers.retain(|new| {
                        let range = new.position..new.position + u64::from(new.count);
                        let known = range.clone().any(|at| noted.renumbered.contains(&at));
                        noted.renumbered.extend(range);
                        !known
                    });
                }
                Wrong::NumbersOfTheWholeBatch => {
                    for new in &mut numbers {
                        let Some(range) = self.batch(place, new.position) else { continue };
                        (new.position, new.count) = (range.start, (range.end - range.start) as u32);
                    }
                }
                Wrong::ForgetsNumbersInACrash if !self.noted().fails => {
                    for new in &numbers {
                        let old = self.right().read(place, new.position, 1).await?;
                        let old = old.batches.first().and_then(|stored| stored.numbers.clone());
                        let old = old.map(|numbers: Numbers| Renumbered { numbers, ..new.clone() });
                        self.noted().numbers.extend(old.map(|old| (place.clone(), old)));
                    }
                }
                _ => {}
            }
            self.right().renumber(place, numbers).await
        })
    }
    fn is_empty<'a>(&'a self, place: &'a TopicPartition) -> Answer<'a, bool> {
        Box::pin(async move { self.right().is_empty(place).await })
    }
    fn backlog<'a>(&'a self, place: &'a TopicPartition) -> Answer<'a, Backlog> {
        Box::pin(async move {
            let mut backlog = self.right().backlog(place).await?;
            if self.wrong == Wrong::CountsSettled && backlog.events == 0 {
                backlog.bytes = 1;
            }
            match self.wrong {
                Wrong::ForgetsTimes => backlog.oldest_ms = 0,
                Wrong::SavedWhenOpened => backlog.oldest_ms += 100 * self.noted().opened,
                Wrong::OldestIsTheLatest if backlog.events > 0 => {
                    let all = self.right().read(place, 0, usize::MAX).await?;
                    backlog.oldest_ms = all.batches.last().map_or(0, |stored| stored.saved_ms);
                }
                _ => {}
            }
            Ok(backlog)
        })
    }
    fn read<'a>(&'a self, place: &'a TopicPartition, from: u64, max_bytes: usize) -> Answer<'a, Read> {
        Box::pin(async move {
            let (mut from, mut max_bytes) = (from, max_bytes);
            let mut place = place.clone();
            match self.wrong {
                Wrong::ReadsTooMuch => max_bytes = max_bytes.saturating_mul(2),
                Wrong::ReadsFromBatches => from = self.batch(&place, from).map_or(from, |range| range.start),
                Wrong::OneTopic => place.topic = "flights".into(),
                _ => {}
            }
            let mut read = self.right().read(&place, from, max_bytes).await?;
            match self.wrong {
                Wrong::ReadsBackwards => read.batches.reverse(),
                Wrong::SkipsOne if read.batches.len() > 1 => {
                    read.batches.pop();
                }
                Wrong::ReadsNothingTooLarge => {
                    read.batches.retain(|stored| stored.batch.encoded_len() <= max_bytes);
                }
                Wrong::ForgetsTimes => read.batches.iter_mut().for_each(|stored| stored.saved_ms = 0),
                Wrong::SavedWhenOpened => {
                    let opened = self.noted().opened;
                    read.batches.iter_mut().for_each(|stored| stored.saved_ms += 100 * opened);
                }
                Wrong::ForgetsWhoseTime => read.batches.iter_mut().for_each(|stored| {
                    stored.batch = RecordBatch::decode(&stored.batch.to_bytes()).expect("a batch").0;
                }),
                Wrong::SavedWhenRead => {
                    self.noted().opened += 1;
                    let reads = self.noted().opened;
                    read.batches.iter_mut().for_each(|stored| stored.saved_ms += 100 * reads);
                }
                _ => {}
            }
            Ok(read)
        })
    }
    fn commit<'a>(&'a self, place: &'a TopicPartition, through: u64, durable: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let (mut place, mut through, mut durable) = (place.clone(), through, durable);
            match self.wrong {
                Wrong::CommitsWholeBatches => {
                    through = self
                        .batch(&place, through)
                        .map_or(through, |r| if r.start < through { r.end } else { through });
                }
                Wrong::CommitsNotTheMiddle => {
                    through = self.batch(&place, through).map_or(through, |range| range.start);
                }
                Wrong::CommitsTheNeighbour if place.partition == 1 => place.partition = 0,
                Wrong::DurableIsAHint => durable = false,
                Wrong::AHintIsNothing if !durable => return Ok(()),
                Wrong::OneTopic => place.topic = "flights".into(),
                _ => {}
            }
            self.right().commit(&place, through, durable).await
        })
    }
    fn reject<'a>(&'a self, place: &'a TopicPartition, mut letters: Vec<DeadLetter>) -> Answer<'a, ()> {
        Box::pin(async move {
            match self.wrong {
                Wrong::ForgetsHoles => letters.iter_mut().for_each(|letter| letter.position = None),
                Wrong::OtherLetters => {
                    letters.iter_mut().for_each(|letter| letter.batch = with_other_times(&letter.batch));
                }
                _ => {}
            }
            self.right().reject(place, letters).await
        })
    }
    fn drop_events<'a>(&'a self, place: &'a TopicPartition, from: u64, through: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            let (mut place, mut from, mut through) = (place.clone(), from, through);
            match self.wrong {
                Wrong::DropsNothing => return Ok(()),
                Wrong::DropsWholeBatches => {
                    from = self.batch(&place, from).map_or(from, |range| range.start);
                }
                Wrong::DropsOneTooMany => through = through.saturating_add(1),
                Wrong::DropsAllBelow => from = 0,
                Wrong::DropsAllBehind => through = u64::MAX,
                Wrong::DropsTheNeighbour if place.partition == 1 => place.partition = 0,
                Wrong::DropsForAWhile => {
                    let first = self.right().backlog(&place).await?.first;
                    if from <= first {
                        return self.right().commit(&place, through, false).await;
                    }
                }
                Wrong::DropsWithoutTheMiddle => {
                    let last = self.batch(&place, through).map_or(through, |range| range.start);
                    if let Some(first) = self.batch(&place, from) {
                        self.right().drop_events(&place, from, first.end.min(through)).await?;
                        return self.right().drop_events(&place, last, through).await;
                    }
                }
                Wrong::OneTopic => place.topic = "flights".into(),
                _ => {}
            }
            if self.wrong == Wrong::DropsWhatComesLater && through == u64::MAX {
                self.noted().dropping.push(place.clone());
            }
            self.right().drop_events(&place, from, through).await
        })
    }
    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> Answer<'a, Vec<u64>> {
        Box::pin(async move {
            let through = if self.wrong == Wrong::ForgetsTheLane { 0 } else { through };
            self.right().regroup(topic, through, batches).await
        })
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match self.wrong {
                Wrong::CloseDoesNothing => self.right().crash(),
                _ => self.right().close().await,
            }
        })
    }
}
