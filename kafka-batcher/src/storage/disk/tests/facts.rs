//! What the log says of events that are stored, in any row of calls, kills, power losses and lost checkpoints: a newer word
//! is never overruled by an older one, however their segments are deleted and cleaned.
//!
//! A topic's facts lie in the segments that were being written when they were decided, not beside what they speak of. So a
//! fact can go with its segment while the events stay, or while an older fact about the same stays. (`wandering.rs` tells
//! a story of each kind that did.)

use std::collections::BTreeMap;

use super::room::{letter, logs, without_checkpoint};
use super::sim::Left;
use super::*;
use crate::storage::{Renumbered, UNASSIGNED};

/// What is known of an event.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    value: String,
    numbers: Option<Numbers>,
    waits: bool,
    /// Rejected or given up: it must never come back.
    gone: bool,
    /// Its batch.
    batch: u64,
    count: u32,
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn shifted(numbers: &Numbers, by: u64) -> Numbers {
    let mut numbers = numbers.clone();
    numbers.stamp.first_sequence += by as i32;
    numbers
}

/// What is read of a partition: value and numbers of each event by position.
pub(super) fn read(storage: &DiskStorage, of: i32) -> BTreeMap<u64, (String, Option<Numbers>)> {
    let read = wait(storage.read(&partition(of), 0, usize::MAX)).unwrap();
    assert_eq!(read.damage.len(), 0, "{:?}", read.damage);
    let mut out = BTreeMap::new();
    for stored in &read.batches {
        for (n, record) in (0..).zip(stored.batch.records().unwrap()) {
            let numbers = stored.numbers.as_ref().map(|numbers| shifted(numbers, n));
            out.insert(stored.position + n, (String::from_utf8(record.value.unwrap()).unwrap(), numbers));
        }
    }
    out
}

/// Whether the user gave this event its time.
fn is_given(value: &str) -> bool {
    value.split(' ').next().unwrap().parse::<u64>().unwrap() % 3 == 0
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    PowerLoss,
    NoCheckpoint,
    Close,
}

/// One row of calls.
struct Row {
    random: Random,
    fs: SimFs,
    storage: DiskStorage,
    events: BTreeMap<(i32, u64), Known>,
    partitions: Option<i32>,
    made: u64,
    /// A lane of which little is settled: its events outlive many segments.
    stuck: i32,
    settings: DiskSettings,
    /// It ends every so many times that it could: facts wander from segment to segment only while a process lives.
    lives: u64,
}

const LANES: [i32; 3] = [UNASSIGNED, 0, 1];

pub(super) fn small() -> DiskSettings {
    DiskSettings { segment_bytes: 1_500, ..settings() }
}

impl Row {
    fn new(seed: u64) -> Row {
        let mut settings = small();
        if seed % 5 == 4 {
            // Short of room: what is given up and cleaned is chosen otherwise.
            settings.max_bytes = 60_000;
        }
        let (fs, storage, _) = start(Disk::default(), settings.clone());
        let (stuck, lives) = (LANES[seed as usize % 3], 1 + seed % 2 * 7);
        Row {
            random: Random(seed),
            fs,
            storage,
            events: BTreeMap::new(),
            partitions: None,
            made: 0,
            stuck,
            settings,
            lives,
        }
    }

    fn of(&self, lane: i32) -> Vec<u64> {
        let of = self.events.iter().filter(|((of, _), known)| *of == lane && known.waits);
        of.map(|((_, position), _)| *position).collect()
    }

    fn batch(&mut self, numbers: Option<Numbers>) -> (Vec<String>, ToSave) {
        let padding = "x".repeat(self.random.below(200) as usize);
        let count = 1 + self.random.below(4);
        self.made += count;
        let values: Vec<String> = (self.made - count..self.made).map(|n| format!("{n} {padding}")).collect();
        let slices: Vec<&str> = values.iter().map(String::as_str).collect();
        let mut saved = numbers.map_or_else(|| fresh(&slices), |numbers| sent(&slices, numbers));
        saved.batch.set_times_given(
            (0..count as u32).filter(|n| is_given(&values[*n as usize])).map(|n| n..n + 1).collect(),
        );
        (values, saved)
    }

    fn saved(&mut self, lane: i32, position: u64, values: Vec<String>, numbers: Option<Numbers>) {
        let count = values.len() as u32;
        for (n, value) in (0..).zip(values) {
            let numbers = numbers.as_ref().map(|numbers| shifted(numbers, n));
            let known = Known { value, numbers, waits: true, gone: false, batch: position, count };
            self.events.insert((lane, position + n), known);
        }
    }

    fn settle(&mut self, lane: i32, through: u64) {
        let below = self.events.range_mut((lane, 0)..(lane, through));
        below.for_each(|(_, known)| known.waits = false);
    }

    fn step(&mut self) {
        let lane = LANES[self.random.below(3) as usize];
        let waiting = self.of(lane);
        let at = (!waiting.is_empty()).then(|| waiting[self.random.below(waiting.len() as u64) as usize]);
        match (self.random.below(16), at) {
            (0..=5, _) => {
                let sequence = 100 * self.made as i32;
                let sent = lane != UNASSIGNED && self.random.below(2) == 0;
                let numbers = sent.then(|| numbers(sequence, "first"));
                let (values, saved) = self.batch(numbers.clone());
                match wait(self.storage.save_batch(&partition(lane), vec![saved])) {
                    Ok(positions) => self.saved(lane, positions[0], values, numbers),
                    Err(error) => assert!(self.settings.max_bytes < 1 << 20, "{error}"),
                }
            }
            (6..=8, Some(at)) if lane != self.stuck || self.random.below(15) == 0 => {
                let durable = self.random.below(2) == 0;
                wait(self.storage.commit(&partition(lane), at, durable)).unwrap();
                self.settle(lane, at);
            }
            (9 | 10, Some(at)) if lane != UNASSIGNED => {
                let Known { batch, count, .. } = self.events[&(lane, at)];
                let count = 1 + self.random.below(batch + u64::from(count) - at) as u32;
                let new = numbers(1_000_000 + 100 * self.made as i32, "later");
                self.made += 1;
                let renumbered = Renumbered { position: at, count, numbers: new.clone() };
                wait(self.storage.renumber(&partition(lane), vec![renumbered])).unwrap();
                for (position, known) in self.events.range_mut((lane, at)..(lane, at + u64::from(count))) {
                    known.numbers = Some(shifted(&new, position.1 - at));
                }
            }
            (11, Some(at)) => {
                let value = self.events[&(lane, at)].value.clone();
                wait(self.storage.reject(&partition(lane), vec![letter(&value, Some(at))])).unwrap();
                let known = self.events.get_mut(&(lane, at)).unwrap();
                (known.waits, known.gone) = (false, true);
            }
            (12, Some(at)) => {
                let many = if lane == self.stuck { 4 } else { 20 };
                let through = at + 1 + self.random.below(many);
                wait(self.storage.drop_events(&partition(lane), at, through)).unwrap();
                for (_, known) in self.events.range_mut((lane, at)..(lane, through)) {
                    // What was settled before is not meant.
                    known.gone |= known.waits;
                    known.waits = false;
                }
            }
            (13, _) => {
                let through = at.map_or(0, |at| at + 1);
                let through = if lane == UNASSIGNED { through } else { 0 };
                let (values, saved) = self.batch(None);
                let position = wait(self.storage.regroup("t", through, vec![(1, saved.batch)])).unwrap()[0];
                for (_, known) in self.events.range_mut((UNASSIGNED, 0)..(UNASSIGNED, through)) {
                    // It lies in its partition now.
                    known.gone |= known.waits;
                    known.waits = false;
                }
                self.saved(1, position, values, None);
            }
            (14, _) => {
                self.made += 1;
                wait(self.storage.keep_partitions("t", self.made as i32)).unwrap();
                self.partitions = Some(self.made as i32);
            }
            (15, _) if self.random.below(20) == 0 => {
                // Nothing waits: the whole log goes.
                for lane in LANES {
                    wait(self.storage.commit(&partition(lane), u64::MAX, false)).unwrap();
                    self.settle(lane, u64::MAX);
                }
                self.end(End::Close);
            }
            (15, _) if self.random.below(self.lives) == 0 => {
                let ends = [End::Kill, End::PowerLoss, End::NoCheckpoint, End::Close];
                let end = ends[self.random.below(4) as usize];
                self.end(end);
            }
            _ => {}
        }
    }

    fn end(&mut self, end: End) {
        if end == End::Close {
            wait(self.storage.close());
        }
        let disk = self.fs.disk().clone();
        // With nothing in the log nothing but the checkpoint could know.
        let nothing_left = logs(&SimFs::new(disk.clone())).is_empty();
        let disk = match end {
            End::PowerLoss => disk.after_power_loss(Left::Nothing),
            End::NoCheckpoint if !nothing_left => without_checkpoint(&disk),
            _ => disk.after_kill(),
        };
        let (fs, storage, recovered) = start(disk, self.settings.clone());
        assert_eq!(recovered.damage, [""; 0], "{end:?}");
        (self.fs, self.storage) = (fs, storage);
        assert_eq!(recovered.partitions, self.partitions, "{end:?}: the number of partitions");
        for lane in LANES {
            for (position, (value, numbers)) in read(&self.storage, lane) {
                let known = self.events.get_mut(&(lane, position));
                let known = known.unwrap_or_else(|| panic!("{end:?}: nobody saved {value} at {position}"));
                assert!(!known.gone, "{end:?}: {position} of {lane} was rejected, given up or regrouped");
                assert_eq!(
                    (&value, &numbers),
                    (&known.value, &known.numbers),
                    "{end:?}: {position} of {lane} comes as it was known last"
                );
                // A settled one may come again, a hint or the checkpoint being lost.
                known.waits = true;
            }
            self.check(lane, end);
        }
    }

    fn check(&self, lane: i32, end: End) {
        let read = read(&self.storage, lane);
        let expected = self.events.iter().filter(|((of, _), known)| *of == lane && known.waits);
        let expected: BTreeMap<u64, (String, Option<Numbers>)> = expected
            .map(|((_, position), known)| (*position, (known.value.clone(), known.numbers.clone())))
            .collect();
        assert_eq!(read, expected, "{end:?}: what waits of {lane}");
        for stored in wait(self.storage.read(&partition(lane), 0, usize::MAX)).unwrap().batches {
            for (n, value) in (0..).zip(values(std::slice::from_ref(&stored))) {
                let given = stored.batch.times_given().iter().any(|range| range.contains(&n));
                assert_eq!(given, is_given(&value), "{end:?}: whose time event {n} of {stored:?} has");
            }
        }
    }
}

#[test]
pub(super) fn no_older_word_comes_back_in_any_row_of_calls_and_crashes() {
    let seeds = std::env::var("KAFKA_BATCHER_SPOOL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    for seed in 0..seeds {
        let run = || {
            let mut row = Row::new(seed);
            for _ in 0..250 {
                row.step();
            }
            LANES.iter().for_each(|lane| row.check(*lane, End::Kill));
        };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            panic!("seed {seed}");
        }
    }
}
