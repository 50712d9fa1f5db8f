//! What the storage knows of a topic: shared by the writer, the reader and whoever asks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kafka_batcher_core::{Backlog, Origin};

use super::bytes::POSITIONS;
use super::control::{Fact, Member};
use super::fs::File;
use super::index::{Entry, Freed, Lane, NEVER_SENT};
use super::times::{Given, Times};
use crate::storage::DroppedLetters;

/// A segment of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    pub(super) path: PathBuf,
    /// Its id, by which its batches name it.
    pub(super) id: u32,
    /// How often it was cleaned, or was about to be: batches lie elsewhere in it then.
    pub(super) cleaned: u32,
    /// The file in which its batches lie, where that may not be the one under its path: from when a cleaning is about to
    /// replace it until that is known to have happened.
    pub(super) pinned: Option<Arc<dyn File>>,
    /// Durable bytes.
    pub(super) length: u64,
    /// Position of its last control batch.
    pub(super) control: u64,
    /// Bytes and batches in it that wait.
    pub(super) live: u64,
    pub(super) batches: u64,
    /// It has, or had, batches of events.
    pub(super) data: bool,
    /// Cleaning it met a batch that is damaged. It is not tried again before the reader has come to one and told of it.
    pub(super) suspect: bool,
}

impl Segment {
    /// An empty one.
    pub(super) fn new(id: u32, base: u64, path: PathBuf) -> Self {
        Segment {
            base,
            path,
            id,
            cleaned: 0,
            pinned: None,
            length: 0,
            control: base,
            live: 0,
            batches: 0,
            data: false,
            suspect: false,
        }
    }
}

/// The name of the segment that begins at a position.
pub(super) fn segment_name(base: u64) -> String {
    format!("{base:020}.log")
}

/// The position in a segment's name; beyond 2^62 there is none.
pub(super) fn segment_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 20)?;
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
        .filter(|base| *base < POSITIONS)
}

/// A topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    state: Mutex<State>,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) lanes: BTreeMap<i32, Lane>,
    /// By id; ids ascend with bases.
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) origins: Vec<Origin>,
    /// Below which position each partition is settled as far as the log says so, and the segment that says it.
    pub(super) logged: BTreeMap<i32, (u64, u32)>,
    pub(super) partitions: Option<i32>,
    /// The control batch and the segment that say it.
    pub(super) partitions_at: Option<(u64, u32)>,
    pub(super) times: Times,
    pub(super) given: Given,
    /// The next position to be given.
    pub(super) next: u64,
    /// Where the last durable group ends.
    pub(super) end: u64,
    /// Where the checkpoint says that it ends.
    pub(super) checkpoint_end: u64,
    /// Dead letters that went for others, since somebody asked.
    pub(super) dropped_letters: DroppedLetters,
    /// Settled since the checkpoint was written.
    pub(super) commits: u64,
    pub(super) settled: u64,
}

impl Topic {
    pub(super) fn new(name: &str, dir: &Path, state: State) -> Self {
        Topic { name: name.to_owned(), dir: dir.to_owned(), state: Mutex::new(state) }
    }

    /// Somebody holds the state.
    #[cfg(test)]
    pub(super) fn is_held(&self) -> bool {
        self.state.try_lock().is_err()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The index of an origin; entries name it by that.
    pub(super) fn intern(&mut self, origin: Option<&Origin>) -> u32 {
        let Some(origin) = origin else { return NEVER_SENT };
        let at = self.origins.iter().position(|known| known == origin).unwrap_or_else(|| {
            self.origins.push(origin.clone());
            self.origins.len() - 1
        });
        at as u32
    }

    pub(super) fn origin(&self, index: u32) -> Option<Origin> {
        self.origins.get(index as usize).cloned()
    }

    /// A batch waits.
    pub(super) fn add(&mut self, member: &Member, segment: u32, offset: u64) {
        let entry = Entry {
            position: member.place.position,
            offset: offset as u32,
            length: member.length,
            count: member.count,
            crc: member.crc,
            segment,
            origin: self.intern(member.origin.as_ref()),
        };
        self.lanes.entry(member.place.partition).or_default().push(entry);
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.live += u64::from(member.length);
            segment.batches += 1;
            segment.data = true;
        }
    }

    /// Takes in what the control batch at this position of `segment` says.
    pub(super) fn apply(&mut self, fact: &Fact, (position, segment): (u64, u32)) {
        match fact {
            Fact::Numbers { at, stamp, origin } => {
                let origin = self.intern(Some(origin));
                self.with(at.place.partition, |lane, freed| {
                    lane.change(at, Some((*stamp, origin)), segment, freed)
                });
            }
            Fact::Hole { at } => {
                self.with(at.place.partition, |lane, freed| lane.change(at, None, segment, freed));
            }
            Fact::Regrouped { through } => self.log_settled(super::super::UNASSIGNED, *through, segment),
            Fact::Partitions(count) => {
                (self.partitions, self.partitions_at) = (Some(*count), Some((position, segment)));
            }
            Fact::Settled { partition, through } => self.log_settled(*partition, *through, segment),
            Fact::Dropped { partition, from, through } => {
                self.commits += 1;
                self.with(*partition, |lane, freed| lane.drop_range(*from..*through, segment, freed));
            }
        }
    }

    fn log_settled(&mut self, partition: i32, through: u64, segment: u32) {
        // An older word with a lower position takes nothing back.
        if self.logged.get(&partition).is_none_or(|(known, _)| *known <= through) {
            self.logged.insert(partition, (through, segment));
        }
        let known = self.lanes.get(&partition).map_or(0, Lane::through);
        self.commits += u64::from(known < through);
        self.settle(partition, through);
    }

    /// What is known of the topic and the log does not say, or only in one of these segments: how far partitions are settled,
    /// and how many there are. The checkpoint says as much, but it is a hint, and not always newer than the log: without
    /// these words a lane would be regrouped twice, events come back under numbers that they had before, and the partition
    /// count go back. Nothing lies in the log below `lowest`, so that nothing need be said of it.
    pub(super) fn unlogged(&self, gone: &[u32], lowest: u64) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (partition, lane) in &self.lanes {
            let (logged, by) = self.logged.get(partition).copied().unwrap_or_default();
            let through = lane.through();
            if through > lowest && (through > logged || gone.contains(&by)) {
                facts.push(Fact::Settled { partition: *partition, through });
            }
        }
        let said = self.partitions_at.is_some_and(|(_, by)| !gone.contains(&by));
        facts.extend(self.partitions.filter(|_| !said).map(Fact::Partitions));
        facts
    }

    /// Everything of a partition below `through` is settled.
    pub(super) fn settle(&mut self, partition: i32, through: u64) {
        self.with(partition, |lane, freed| lane.settle(through, freed));
    }

    /// A batch turned out damaged; how many of its events waited.
    pub(super) fn damaged(&mut self, partition: i32, position: u64) -> u64 {
        let entry = self.lanes.get(&partition).and_then(|lane| lane.holding(position, 1));
        if let Some(segment) = entry.and_then(|entry| self.segments.get_mut(&entry.segment)) {
            segment.suspect = false;
        }
        self.with(partition, |lane, freed| lane.remove(position, freed))
    }

    fn with<T>(&mut self, partition: i32, change: impl FnOnce(&mut Lane, &mut Freed<'_>) -> T) -> T {
        let segments = &mut self.segments;
        let settled = &mut self.settled;
        change(self.lanes.entry(partition).or_default(), &mut |entry| {
            *settled += u64::from(entry.length);
            if let Some(segment) = segments.get_mut(&entry.segment) {
                segment.live = segment.live.saturating_sub(u64::from(entry.length));
                segment.batches = segment.batches.saturating_sub(1);
            }
        })
    }

    pub(super) fn backlog(&self, partition: i32) -> Backlog {
        let nothing = Backlog { first: self.next, ..Backlog::default() };
        let backlog = self.lanes.get(&partition).map_or(nothing, |lane| lane.backlog(self.next));
        let oldest_ms = if backlog.events > 0 { self.times.at(backlog.first) } else { 0 };
        Backlog { oldest_ms, ..backlog }
    }

    /// Segments are gone for good: what was said of the events in them need not be said again.
    pub(super) fn forget_deleted(&mut self) {
        if let Some(lowest) = self.segments.values().map(|segment| segment.base).min() {
            self.lanes.values_mut().for_each(|lane| lane.forget_below(lowest));
        }
    }

    /// Forgets the times of events that do not wait any more.
    pub(super) fn forget_times(&mut self) {
        let firsts = self.lanes.values().filter_map(|lane| lane.entries().next()).map(|entry| entry.position);
        let first = firsts.min().unwrap_or(u64::MAX);
        let lanes = &self.lanes;
        let waits = |positions: Range<u64>| lanes.values().any(|lane| lane.waits_in(&positions));
        self.times.forget(first, &waits);
        self.given.forget(first, &waits);
    }

    /// Nothing of the topic waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.values().all(Lane::is_empty)
    }
}
