//! What a storage must hold, kept beside it: every call goes to both, and `check` compares all that can be asked.

mod check;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use kafka_batcher_core::{
    DeadLetter, Numbers, OwnedHeader, OwnedRecord, RecordBatch, Renumbered, ToSave, TopicPartition,
    sequence_add,
};

use super::super::{TempStorage, UNASSIGNED};
use super::{Medium, error, sealed, with_stamp};

/// An event: its position, itself, its numbers, and whether the user gave it its time.
type Seen = (u64, OwnedRecord, Option<Numbers>, bool);

/// A storage beside its model. Its calls fail the case where the two disagree.
pub(super) struct Model<'m> {
    medium: &'m dyn Medium,
    storage: Box<dyn TempStorage>,
    topics: BTreeMap<&'static str, Topic>,
    /// When an event was saved, as it was told first.
    times: Mutex<BTreeMap<(String, u64), i64>>,
    made: u64,
}

#[derive(Default)]
struct Topic {
    /// Every position that was ever given.
    given: Vec<Range<u64>>,
    partitions: Option<i32>,
    lanes: BTreeMap<i32, Lane>,
    letters: Vec<OwnedRecord>,
}

#[derive(Default)]
struct Lane {
    /// Neither rejected nor durably settled.
    events: BTreeMap<u64, Event>,
    batches: BTreeMap<u64, Batch>,
    /// Everything below is settled.
    settled: u64,
    /// Everything below is settled after a crash, too.
    durably: u64,
}

#[derive(Clone)]
struct Event {
    record: OwnedRecord,
    numbers: Option<Numbers>,
    time_given: bool,
    /// Position of the batch that it was saved in.
    batch: u64,
}

struct Batch {
    count: u32,
    bytes: Vec<u8>,
    /// It may come back in pieces, or under other numbers.
    changed: bool,
}

impl Topic {
    fn end(&self) -> u64 {
        self.given.iter().map(|range| range.end).max().unwrap_or_default()
    }

    /// Takes in what was just saved, and where the storage says that it lies.
    fn add(&mut self, partition: i32, position: u64, saved: &ToSave) {
        let range = position..position + u64::from(saved.batch.count());
        let twice = self.given.iter().find(|old| old.start < range.end && range.start < old.end);
        assert_eq!(twice, None, "positions {range:?} were given before");
        let lane = self.lanes.entry(partition).or_default();
        let last = lane.batches.last_key_value().map(|(position, _)| *position);
        assert!(last < Some(position), "positions of a partition ascend: {last:?}, then {position}");
        for (n, record) in (0..).zip(records(&saved.batch)) {
            let numbers = shifted(saved.numbers.as_ref(), n);
            let time_given = time_given(&saved.batch, n);
            let event = Event { record, numbers, time_given, batch: position };
            lane.events.insert(position + u64::from(n), event);
        }
        let batch = Batch { count: saved.batch.count(), bytes: saved.batch.to_bytes(), changed: false };
        lane.batches.insert(position, batch);
        self.given.push(range);
    }

    fn settle(&mut self, partition: i32, through: u64, durable: bool) {
        // What is not saved yet cannot be settled.
        let through = through.min(self.end());
        let lane = self.lanes.entry(partition).or_default();
        lane.change(through);
        lane.settled = lane.settled.max(through);
        if durable {
            // Hints of before that go further stay hints.
            lane.durably = lane.durably.max(through);
            lane.events = lane.events.split_off(&lane.durably);
        }
    }
}

impl Lane {
    fn waiting(&self) -> impl DoubleEndedIterator<Item = (&u64, &Event)> {
        self.events.range(self.settled..)
    }

    /// The batch that is cut here, if one is.
    fn change(&mut self, position: u64) {
        if let Some((first, batch)) = self.batches.range_mut(..position).next_back() {
            batch.changed |= position < first + u64::from(batch.count);
        }
    }
}

fn shifted(numbers: Option<&Numbers>, n: u32) -> Option<Numbers> {
    numbers.cloned().map(|mut numbers| {
        numbers.stamp.first_sequence = sequence_add(numbers.stamp.first_sequence, n);
        numbers
    })
}

fn time_given(batch: &RecordBatch, n: u32) -> bool {
    batch.times_given().iter().any(|range| range.contains(&n))
}

fn records(batch: &RecordBatch) -> Vec<OwnedRecord> {
    let records = batch.records().unwrap_or_else(|error| panic!("not a valid batch: {error}"));
    assert_eq!(records.len(), batch.count() as usize, "a batch says how many events it has");
    records
}

impl<'m> Model<'m> {
    /// A storage on an empty medium.
    pub(super) fn start(medium: &'m dyn Medium) -> Self {
        Model { medium, storage: medium.open(), topics: BTreeMap::new(), times: Mutex::default(), made: 0 }
    }

    pub(super) fn storage(&self) -> &dyn TempStorage {
        &*self.storage
    }

    /// Opens a topic: what waits is told, and hints may have been forgotten, the latest first.
    pub(super) async fn open(&mut self, name: &'static str) {
        let found = self.storage.open(name).await.unwrap_or_else(|error| panic!("it opens: {error}"));
        assert!(found.damage.is_empty() && found.missing == 0, "nothing is damaged: {found:?}");
        let topic = self.topics.entry(name).or_default();
        assert_eq!(found.partitions, topic.partitions, "how many partitions {name} has");
        for (partition, lane) in &mut topic.lanes {
            let place = TopicPartition::new(name, *partition);
            let read = self.storage.read(&place, 0, 1).await.unwrap_or_else(|e| panic!("it reads: {e}"));
            if let Some(first) = read.batches.first() {
                lane.settled = lane.settled.min(first.position.max(lane.durably));
            }
        }
        let mut told: Vec<_> = found.backlogs.iter().map(|(p, b)| (*p, b.events, b.first)).collect();
        told.sort_unstable();
        let waiting = topic.lanes.iter().filter_map(|(partition, lane)| {
            let first = lane.waiting().next()?.0;
            Some((*partition, lane.waiting().count() as u64, *first))
        });
        assert_eq!(told, waiting.collect::<Vec<_>>(), "what waits of {name}: partition, events, first");
    }

    async fn open_all(&mut self) {
        for name in self.topics.keys().copied().collect::<Vec<_>>() {
            self.open(name).await;
        }
        self.check().await;
    }

    /// The process is killed and started again.
    pub(super) async fn crash(&mut self) {
        // The old one is gone before the new one takes the medium.
        let old = std::mem::replace(&mut self.storage, Box::new(super::super::Discard::default()));
        self.medium.crash(old);
        self.storage = self.medium.open();
        self.open_all().await;
    }

    /// The process ends and is started again: nothing was a mere hint.
    pub(super) async fn restart(&mut self) {
        self.storage.close().await;
        for lane in self.topics.values_mut().flat_map(|topic| topic.lanes.values_mut()) {
            lane.durably = lane.settled;
            lane.events = lane.events.split_off(&lane.durably);
        }
        self.storage = Box::new(super::super::Discard::default());
        self.storage = self.medium.open();
        self.open_all().await;
    }

    /// Events of every kind: null and empty keys and values, headers with duplicates and nulls, times that go back.
    pub(super) fn records(&mut self, count: u64) -> Vec<OwnedRecord> {
        let header = |name: &str, value: Option<&[u8]>| OwnedHeader {
            name: name.to_owned(),
            value: value.map(<[u8]>::to_vec),
        };
        let made = self.made..self.made + count;
        self.made = made.end;
        let one = |n: u64| OwnedRecord {
            // Different for every event, so that none is taken for another.
            timestamp: 1_700_000_000_000 + ((n * 7919 % 1000) * 100_000 + n) as i64,
            key: [None, Some(vec![]), Some(b"key".to_vec()), Some(vec![0, 255])][n as usize % 4].clone(),
            value: match n % 5 {
                0 => None,
                1 => Some(Vec::new()),
                2 => Some(vec![n as u8; 600]),
                _ => Some(format!("value {n}").into_bytes()),
            },
            headers: match n % 3 {
                0 => Vec::new(),
                1 => vec![header("null", None)],
                _ => vec![header("twice", Some(b"1")), header("twice", Some(b"2")), header("", Some(b""))],
            },
        };
        made.map(one).collect()
    }

    /// A batch of so many new events.
    pub(super) fn batch(&mut self, count: u64, numbers: Option<Numbers>) -> ToSave {
        let batch = sealed(&self.records(count));
        let batch = numbers.as_ref().map(|numbers| with_stamp(&batch, &numbers.stamp)).unwrap_or(batch);
        ToSave { batch, numbers }
    }

    pub(super) async fn save(
        &mut self,
        name: &'static str,
        partition: i32,
        batches: Vec<ToSave>,
    ) -> Vec<u64> {
        let saved = self.storage.save_batch(&TopicPartition::new(name, partition), batches.clone()).await;
        let positions = saved.unwrap_or_else(|error| panic!("it saves: {error}"));
        self.saved(name, partition, &batches, &positions);
        positions
    }

    /// Takes in what was saved past the model.
    pub(super) fn saved(
        &mut self,
        name: &'static str,
        partition: i32,
        batches: &[ToSave],
        positions: &[u64],
    ) {
        assert_eq!(positions.len(), batches.len(), "a position for each batch");
        let topic = self.topics.entry(name).or_default();
        for (saved, position) in batches.iter().zip(positions) {
            topic.add(partition, *position, saved);
        }
    }

    pub(super) async fn commit(&mut self, name: &'static str, partition: i32, through: u64, durable: bool) {
        let committed = self.storage.commit(&TopicPartition::new(name, partition), through, durable).await;
        committed.unwrap_or_else(|error| panic!("it commits: {error}"));
        self.topics.entry(name).or_default().settle(partition, through, durable);
    }

    pub(super) async fn renumber(&mut self, name: &'static str, partition: i32, numbers: Vec<Renumbered>) {
        let place = TopicPartition::new(name, partition);
        let renumbered = self.storage.renumber(&place, numbers.clone()).await;
        renumbered.unwrap_or_else(|error| panic!("it renumbers: {error}"));
        let lane = self.topics.entry(name).or_default().lanes.entry(partition).or_default();
        for Renumbered { position, count, numbers } in numbers {
            let end = position + u64::from(count);
            lane.batches.range_mut(..=position).next_back().into_iter().for_each(|(_, b)| b.changed = true);
            for (at, event) in lane.events.range_mut(position..end) {
                event.numbers = shifted(Some(&numbers), (at - position) as u32);
            }
        }
    }

    pub(super) async fn reject(&mut self, name: &'static str, partition: i32, positions: &[u64]) {
        let topic = self.topics.entry(name).or_default();
        let lane = topic.lanes.entry(partition).or_default();
        let events = positions.iter().filter_map(|at| lane.events.get(at).map(|event| (*at, event.clone())));
        let events: Vec<_> = events.collect();
        let letter = |(position, event): &(u64, Event)| DeadLetter {
            batch: sealed(std::slice::from_ref(&event.record)),
            position: Some(*position),
            error: error(),
        };
        let letters = events.iter().map(letter).collect();
        let rejected = self.storage.reject(&TopicPartition::new(name, partition), letters).await;
        rejected.unwrap_or_else(|error| panic!("it rejects: {error}"));
        for (position, event) in events {
            lane.events.remove(&position);
            lane.batches.get_mut(&event.batch).into_iter().for_each(|batch| batch.changed = true);
            topic.letters.push(event.record);
        }
    }

    pub(super) async fn give_up(&mut self, name: &'static str, partition: i32, range: Range<u64>) {
        let place = TopicPartition::new(name, partition);
        let given_up = self.storage.drop_events(&place, range.start, range.end).await;
        given_up.unwrap_or_else(|error| panic!("it gives events up: {error}"));
        let topic = self.topics.entry(name).or_default();
        // What is not saved yet is not meant.
        let end = range.end.min(topic.end());
        let lane = topic.lanes.entry(partition).or_default();
        lane.change(range.start);
        lane.change(end);
        lane.events.retain(|at, _| !(range.start..end).contains(at));
    }

    pub(super) async fn regroup(
        &mut self,
        name: &'static str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) {
        let regrouped = self.storage.regroup(name, through, batches.clone()).await;
        let positions = regrouped.unwrap_or_else(|error| panic!("it regroups: {error}"));
        assert_eq!(positions.len(), batches.len(), "a position for each batch");
        let topic = self.topics.entry(name).or_default();
        topic.settle(UNASSIGNED, through, true);
        for ((partition, batch), position) in batches.into_iter().zip(positions) {
            topic.add(partition, position, &ToSave { batch, numbers: None });
        }
    }

    pub(super) async fn keep_partitions(&mut self, name: &'static str, partitions: i32) {
        let kept = self.storage.keep_partitions(name, partitions).await;
        kept.unwrap_or_else(|error| panic!("it keeps the number of partitions: {error}"));
        self.topics.entry(name).or_default().partitions = Some(partitions);
    }

    /// Positions of what waits.
    pub(super) fn waiting(&self, name: &str, partition: i32) -> Vec<u64> {
        let lane = self.topics.get(name).and_then(|topic| topic.lanes.get(&partition));
        lane.map(|lane| lane.waiting().map(|(at, _)| *at).collect()).unwrap_or_default()
    }

    /// The end of the saved batch that holds this position.
    pub(super) fn end_of_batch(&self, name: &str, partition: i32, position: u64) -> u64 {
        let lane = self.topics.get(name).and_then(|topic| topic.lanes.get(&partition));
        let batch = lane.and_then(|lane| lane.batches.range(..=position).next_back());
        batch.map(|(first, batch)| first + u64::from(batch.count)).unwrap_or(position)
    }
}
