//! `MemoryStorage`: everything a storage promises but surviving the process; for tests, which outlive a batcher.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kafka_batcher_core::{
    Backlog, Chunk, DeadLetter, Numbers, RecordBatch, Renumbered, StorageError, Stored, ToSave,
    TopicPartition, sequence_add,
};

use super::{Read, Recovered, TempStorage, UNASSIGNED};
use crate::clock::Clock;
use crate::producer::BoxFuture;

/// Keeps batches in memory, exactly as a disk would. Clones share what they hold: drop a batcher and start another on a
/// clone, and you have a process that was killed and started again. For tests; for production there is a disk.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use kafka_batcher::{KafkaBatcher, MemoryStorage};
///
/// let spool = MemoryStorage::default();
/// let batcher = KafkaBatcher::builder(["127.0.0.1:1"]).storage(spool.clone()).start().await?; // nobody is there
/// batcher.collector("flights").build()?.add_event(("SEA", "delayed")).await?;
/// let report = batcher.shutdown(std::time::Duration::ZERO).await;
/// assert_eq!((report.spooled, report.lost), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<String, Topic>,
    fault: Option<StorageError>,
    saves: u64,
    /// What the wall clock is said to show.
    unix_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Topic {
    next: u64,
    partitions: Option<i32>,
    parts: BTreeMap<i32, Part>,
    dead_letters: Vec<DeadLetter>,
}

/// One partition.
#[derive(Debug, Default)]
struct Part {
    /// By the position of their first event.
    pieces: BTreeMap<u64, Piece>,
    /// Everything below is settled, and would be known to be so after a crash.
    durably: u64,
    /// Everything below is settled.
    settled: u64,
}

/// Events of one saved batch that have the same numbers.
#[derive(Clone, Debug)]
struct Piece {
    batch: RecordBatch,
    numbers: Option<Numbers>,
    saved_ms: i64,
}

impl Part {
    /// Makes `position` the beginning of a piece.
    fn cut_at(&mut self, position: u64) {
        let Some((&first, piece)) = self.pieces.range(..position).next_back() else { return };
        let at = match u32::try_from(position - first) {
            Ok(at) if at < piece.batch.count() => at,
            _ => return,
        };
        let Ok((left, right)) = piece.batch.split(at, &mut Chunk::unpooled) else { return };
        let (numbers, saved_ms) = (piece.numbers.clone(), piece.saved_ms);
        let behind = numbers.clone().map(|mut numbers| {
            numbers.stamp.first_sequence = sequence_add(numbers.stamp.first_sequence, at);
            numbers
        });
        self.pieces.insert(first, Piece { batch: left, numbers, saved_ms });
        self.pieces.insert(position, Piece { batch: right, numbers: behind, saved_ms });
    }

    fn waiting(&self) -> impl Iterator<Item = (u64, &Piece)> {
        self.pieces.range(self.settled..).map(|(position, piece)| (*position, piece))
    }

    fn settle(&mut self, through: u64, durable: bool) {
        self.cut_at(through);
        self.settled = self.settled.max(through);
        if durable {
            self.durably = self.settled;
            self.pieces = self.pieces.split_off(&self.settled);
        }
    }

    fn backlog(&self, next: u64) -> Backlog {
        let mut backlog = Backlog { first: next, ..Backlog::default() };
        for (position, piece) in self.waiting() {
            if backlog.events == 0 {
                (backlog.first, backlog.oldest_ms) = (position, piece.saved_ms);
            }
            backlog.events += u64::from(piece.batch.count());
            backlog.batches += 1;
            backlog.bytes += piece.batch.encoded_len() as u64;
        }
        backlog
    }
}

impl Topic {
    fn append(
        &mut self,
        partition: i32,
        batch: &RecordBatch,
        numbers: Option<Numbers>,
        saved_ms: i64,
    ) -> u64 {
        let position = self.next;
        self.next += u64::from(batch.count());
        // Read back, it must be what a disk would give: without receipts.
        let mut batch = batch.clone();
        batch.set_spans(kafka_batcher_core::Spans::default());
        let piece = Piece { batch, numbers, saved_ms };
        self.parts.entry(partition).or_default().pieces.insert(position, piece);
        position
    }

    fn settle(&mut self, partition: i32, through: u64, durable: bool) {
        // What is not saved yet cannot be settled.
        let through = through.min(self.next);
        self.parts.entry(partition).or_default().settle(through, durable);
    }
}

impl MemoryStorage {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every call that writes fails with this error; `None`: it works again.
    pub fn fail_with(&self, error: Option<StorageError>) {
        self.lock().fault = error;
    }

    /// What is saved from now on counts as saved at this time, in milliseconds since the Unix epoch; `None`: at the time
    /// that it is.
    pub fn pretend_time(&self, unix_ms: Option<i64>) {
        self.lock().unix_ms = unix_ms;
    }

    fn unix_ms(&self) -> i64 {
        self.lock().unix_ms.unwrap_or_else(|| Clock::start().unix_ms())
    }

    /// What a crash does: commits that were hints only are forgotten.
    pub fn crash(&self) {
        let mut state = self.lock();
        for part in state.topics.values_mut().flat_map(|topic| topic.parts.values_mut()) {
            part.settled = part.durably;
        }
    }

    /// The dead letters of a topic.
    pub fn dead_letters(&self, topic: &str) -> Vec<DeadLetter> {
        self.lock().topics.get(topic).map(|topic| topic.dead_letters.clone()).unwrap_or_default()
    }

    /// How often batches were saved.
    pub fn saves(&self) -> u64 {
        self.lock().saves
    }

    fn write<'a, T: Send + 'a>(
        &self,
        topic: &str,
        act: impl FnOnce(&mut Topic) -> T,
    ) -> BoxFuture<'a, Result<T, StorageError>> {
        let mut state = self.lock();
        let result = match state.fault.clone() {
            Some(error) => Err(error),
            None => Ok(act(state.topics.entry(topic.to_owned()).or_default())),
        };
        Box::pin(std::future::ready(result))
    }

    fn look<'a, T: Send + 'a>(
        &self,
        place: &TopicPartition,
        look: impl FnOnce(&Part, u64) -> T,
    ) -> BoxFuture<'a, Result<T, StorageError>> {
        let state = self.lock();
        let topic = state.topics.get(&*place.topic);
        let nothing = Part::default();
        let part = topic.and_then(|topic| topic.parts.get(&place.partition)).unwrap_or(&nothing);
        let found = look(part, topic.map_or(0, |topic| topic.next));
        Box::pin(std::future::ready(Ok(found)))
    }
}

impl TempStorage for MemoryStorage {
    fn open<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Recovered, StorageError>> {
        self.write(topic, |topic| {
            // A gap, so that nobody comes to rely on there being none.
            topic.next += 100;
            let next = topic.next;
            let backlogs = topic.parts.iter().map(|(partition, part)| (*partition, part.backlog(next)));
            Recovered {
                backlogs: backlogs.filter(|(_, backlog)| backlog.events > 0).collect(),
                partitions: topic.partitions,
                damage: Vec::new(),
                missing: 0,
            }
        })
    }

    fn keep_partitions<'a>(
        &'a self,
        topic: &'a str,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.write(topic, |topic| topic.partitions = Some(partitions))
    }

    fn save_batch<'a>(
        &'a self,
        partition: &'a TopicPartition,
        batches: Vec<ToSave>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        self.lock().saves += 1;
        let now = self.unix_ms();
        self.write(&partition.topic, |topic| {
            let save = |saved: ToSave| topic.append(partition.partition, &saved.batch, saved.numbers, now);
            batches.into_iter().map(save).collect()
        })
    }

    fn renumber<'a>(
        &'a self,
        partition: &'a TopicPartition,
        numbers: Vec<Renumbered>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.write(&partition.topic, |topic| {
            let part = topic.parts.entry(partition.partition).or_default();
            for Renumbered { position, count, numbers } in numbers {
                let end = position + u64::from(count);
                part.cut_at(position);
                part.cut_at(end);
                for (first, piece) in part.pieces.range_mut(position..end) {
                    let at = u32::try_from(first - position).unwrap_or(u32::MAX);
                    let mut numbers = numbers.clone();
                    numbers.stamp.first_sequence = sequence_add(numbers.stamp.first_sequence, at);
                    piece.numbers = Some(numbers);
                }
            }
        })
    }

    fn is_empty<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<bool, StorageError>> {
        self.look(partition, |part, _| part.waiting().next().is_none())
    }

    fn backlog<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Backlog, StorageError>> {
        self.look(partition, Part::backlog)
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Read, StorageError>> {
        self.look(partition, |part, _| {
            let (mut bytes, mut read) = (0, Read { next: from, ..Read::default() });
            let from = from.max(part.settled);
            // Looking changes nothing: what `from` cuts is cut in a copy.
            let mut cut = Part::default();
            cut.pieces.extend(part.pieces.range(..from).next_back().map(|(at, piece)| (*at, piece.clone())));
            cut.cut_at(from);
            for (position, piece) in cut.pieces.range(from..).chain(part.pieces.range(from..)) {
                bytes += piece.batch.encoded_len();
                if bytes > max_bytes && !read.batches.is_empty() {
                    break;
                }
                read.next = position + u64::from(piece.batch.count());
                let Piece { batch, numbers, saved_ms } = piece.clone();
                read.batches.push(Stored { position: *position, batch, numbers, saved_ms });
            }
            read
        })
    }

    fn commit<'a>(
        &'a self,
        partition: &'a TopicPartition,
        through: u64,
        durable: bool,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.write(&partition.topic, |topic| topic.settle(partition.partition, through, durable))
    }

    fn reject<'a>(
        &'a self,
        partition: &'a TopicPartition,
        letters: Vec<DeadLetter>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.write(&partition.topic, |topic| {
            let part = topic.parts.entry(partition.partition).or_default();
            for letter in &letters {
                if let Some(position) = letter.position {
                    part.cut_at(position);
                    part.cut_at(position + u64::from(letter.batch.count()));
                    part.pieces.remove(&position);
                }
            }
            topic.dead_letters.extend(letters);
        })
    }

    fn drop_events<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        through: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.write(&partition.topic, |topic| {
            let through = through.min(topic.next);
            let part = topic.parts.entry(partition.partition).or_default();
            if from < through {
                part.cut_at(from);
                part.cut_at(through);
                part.pieces.retain(|position, _| !(from..through).contains(position));
            }
        })
    }

    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        let now = self.unix_ms();
        self.write(topic, |topic| {
            topic.settle(UNASSIGNED, through, true);
            batches.iter().map(|(partition, batch)| topic.append(*partition, batch, None, now)).collect()
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let mut state = self.lock();
        for part in state.topics.values_mut().flat_map(|topic| topic.parts.values_mut()) {
            part.settle(part.settled, true);
        }
        Box::pin(std::future::ready(()))
    }
}
