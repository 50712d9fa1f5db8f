//! What waits, in memory: 32 bytes a batch, in order, by partition; and the rare events that were renumbered or cut out.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use kafka_batcher_core::{Backlog, Stamp};

use self::changes::Changes;
use super::bytes::Place;
use super::control::{Events, Fact};

mod changes;

/// The origin of a batch that was never sent.
pub(super) const NEVER_SENT: u32 = u32::MAX;

/// A batch that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: u64,
    /// Where it stands in its segment.
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) count: u32,
    pub(super) crc: u32,
    /// Id of the segment.
    pub(super) segment: u32,
    /// Index of the origin of the batch's own stamp, or [`NEVER_SENT`].
    pub(super) origin: u32,
}

impl Entry {
    pub(super) fn end(&self) -> u64 {
        self.position + u64::from(self.count)
    }
}

/// Events of a batch that wait and have the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) first: u32,
    pub(super) count: u32,
    /// Of the first of them, if they are not those of the batch.
    pub(super) numbers: Option<(Stamp, u32)>,
}

/// What waits of one partition.
#[derive(Debug, Default)]
pub(super) struct Lane {
    entries: VecDeque<Entry>,
    /// By the position of their batch, also of batches that have no event left: until they are settled.
    changes: BTreeMap<u64, Changes>,
    /// What was given up behind `through`, and the id of the segment whose control batch says so.
    dropped: Vec<(Range<u64>, u32)>,
    through: u64,
    events: u64,
    bytes: u64,
}

/// Told of each batch that does not wait any more.
pub(super) type Freed<'a> = dyn FnMut(&Entry) + 'a;

impl Lane {
    pub(super) fn push(&mut self, entry: Entry) {
        self.events += u64::from(entry.count);
        self.bytes += u64::from(entry.length);
        self.entries.push_back(entry);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn through(&self) -> u64 {
        self.through
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Where the batches of a segment are. Positions and segments ascend together, so they stand side by side.
    fn of_segment(&self, id: u32) -> Range<usize> {
        let below = |entry: &Entry| {
            changes::step(entry);
            entry.segment < id
        };
        let first = self.entries.partition_point(below);
        let behind = self.entries.range(first..).take_while(|entry| entry.segment == id);
        first..first + behind.inspect(changes::step).count()
    }

    /// The batches in a segment.
    pub(super) fn in_segment(&self, id: u32) -> impl Iterator<Item = &Entry> {
        self.entries.range(self.of_segment(id))
    }

    pub(super) fn in_segment_mut(&mut self, id: u32) -> impl Iterator<Item = &mut Entry> {
        let range = self.of_segment(id);
        self.entries.range_mut(range)
    }

    /// The batches of which an event lies at `from` or behind.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = &Entry> {
        let at = self.entries.partition_point(|entry| entry.end() <= from);
        self.entries.range(at..)
    }

    /// Whether a batch that waits has one of these positions.
    pub(super) fn waits_in(&self, positions: &Range<u64>) -> bool {
        self.from(positions.start).next().is_some_and(|entry| entry.position < positions.end)
    }

    /// The batch that holds all of these positions.
    pub(super) fn holding(&self, position: u64, count: u32) -> Option<Entry> {
        let entry = self.from(position).next()?;
        (entry.position <= position && position + u64::from(count) <= entry.end()).then_some(*entry)
    }

    pub(super) fn backlog(&self, next: u64) -> Backlog {
        let first = self.entries.front().and_then(|entry| self.first_waiting(entry));
        Backlog {
            events: self.events,
            batches: self.entries.len() as u64,
            bytes: self.bytes,
            first: first.unwrap_or(next),
            oldest_ms: 0,
        }
    }

    /// How many of the first events of a batch are settled.
    fn settled_of(&self, entry: &Entry) -> u32 {
        self.through.saturating_sub(entry.position).min(u64::from(entry.count)) as u32
    }

    /// What of a batch waits, piece by piece.
    pub(super) fn pieces(&self, entry: &Entry) -> Vec<Piece> {
        let events = self.settled_of(entry)..entry.count;
        match self.changes.get(&entry.position) {
            Some(changes) => changes.pieces(events),
            None if events.is_empty() => Vec::new(),
            None => vec![Piece { first: events.start, count: events.end - events.start, numbers: None }],
        }
    }

    /// Position of the first event of a batch that waits.
    fn first_waiting(&self, entry: &Entry) -> Option<u64> {
        let settled = self.settled_of(entry);
        let first = match self.changes.get(&entry.position) {
            Some(changes) => changes.first_open(settled, entry.count),
            None => (settled < entry.count).then_some(settled),
        };
        first.map(|first| entry.position + u64::from(first))
    }

    /// How many events of a batch wait, below `end`.
    fn waiting(&self, entry: &Entry, end: u64) -> u64 {
        let end = end.saturating_sub(entry.position).min(u64::from(entry.count)) as u32;
        let events = self.settled_of(entry)..end;
        match self.changes.get(&entry.position) {
            Some(changes) => changes.open(events).into(),
            None => events.len() as u64,
        }
    }

    /// Everything below `through` is settled.
    pub(super) fn settle(&mut self, through: u64, freed: &mut Freed<'_>) {
        if through <= self.through {
            return;
        }
        while let Some(entry) = self.entries.front().copied().filter(|entry| entry.position < through) {
            self.events -= self.waiting(&entry, through);
            if entry.end() > through {
                break;
            }
            self.bytes -= u64::from(entry.length);
            self.entries.pop_front();
            freed(&entry);
        }
        self.through = through;
        self.forget_changes(through);
        self.dropped.retain(|(range, _)| range.end > through);
        // Only holes may be left of the first.
        while let Some(entry) = self.entries.front().copied().filter(|entry| entry.position < through) {
            if self.first_waiting(&entry).is_some() {
                break;
            }
            self.remove(entry.position, freed);
        }
    }

    fn forget_changes(&mut self, through: u64) {
        let front = self.entries.front().map_or(through, |entry| entry.position.min(through));
        while self.changes.first_key_value().is_some_and(|(position, _)| *position < front) {
            self.changes.pop_first();
        }
    }

    /// Events of a waiting batch get other numbers, or (`None`) become a hole.
    pub(super) fn change(
        &mut self,
        at: &Events,
        numbers: Option<(Stamp, u32)>,
        segment: u32,
        freed: &mut Freed<'_>,
    ) {
        let Some(entry) = self.holding(at.place.position, at.count).filter(|entry| entry.crc == at.crc)
        else {
            return;
        };
        let first = (at.place.position - entry.position) as u32;
        let events = first..first + at.count;
        let settled = self.settled_of(&entry);
        let changes = self.changes.entry(entry.position).or_default();
        changes.crc = entry.crc;
        let waited = changes.open(events.start.max(settled)..events.end);
        changes.say(events, numbers, segment);
        if numbers.is_some() {
            return;
        }
        self.events -= u64::from(waited);
        if self.first_waiting(&entry).is_none() {
            self.remove(entry.position, freed);
        }
    }

    /// What lies in there is given up, as `segment` says.
    pub(super) fn drop_range(&mut self, range: Range<u64>, segment: u32, freed: &mut Freed<'_>) {
        if range.is_empty() {
            return;
        }
        // Of the batches that it cuts, the events in it.
        for at in [range.start, range.end] {
            let cut = self.from(at).next().copied().filter(|entry| entry.position < at && at < entry.end());
            if let Some(entry) = cut {
                let (first, end) = (range.start.max(entry.position), range.end.min(entry.end()));
                let place = Place { position: first, partition: 0 };
                let events = Events { place, count: (end - first) as u32, crc: entry.crc };
                self.change(&events, None, segment, freed);
            }
        }
        let first = self.entries.partition_point(|entry| entry.position < range.start);
        let end = self.entries.partition_point(|entry| entry.end() <= range.end).max(first);
        for entry in self.entries.range(first..end).copied().collect::<Vec<_>>() {
            self.events -= self.waiting(&entry, u64::MAX);
            self.bytes -= u64::from(entry.length);
            self.changes.remove(&entry.position);
            freed(&entry);
        }
        self.entries.drain(first..end);
        self.dropped.retain(|(old, _)| old.start < range.start || range.end < old.end);
        self.dropped.push((range, segment));
    }

    /// Whether nothing that waits lies before this position.
    pub(super) fn is_front(&self, position: u64) -> bool {
        let first = self.entries.front().and_then(|entry| self.first_waiting(entry));
        first.is_none_or(|first| first >= position)
    }

    /// Nothing lies in the log below this position any more.
    pub(super) fn forget_below(&mut self, lowest: u64) {
        self.forget_changes(lowest);
        self.dropped.retain(|(range, _)| range.end > lowest);
    }

    /// Where the word that what lies from there on is given up may begin, so that one word says it with what was given up
    /// before: nothing between waits.
    pub(super) fn joined(&self, from: u64) -> u64 {
        let nothing_between = |end: u64| self.from(end).next().is_none_or(|entry| entry.position >= from);
        let before = self
            .dropped
            .iter()
            .find(|(range, _)| range.contains(&from) || (range.end <= from && nothing_between(range.end)));
        before.map_or(from, |(range, _)| range.start)
    }

    /// What was given up.
    pub(super) fn dropped(&self) -> &[(Range<u64>, u32)] {
        &self.dropped
    }

    /// A batch turned out damaged: it does not wait any more. How many of its events did.
    pub(super) fn remove(&mut self, position: u64, freed: &mut Freed<'_>) -> u64 {
        let at = self.entries.partition_point(|entry| entry.position < position);
        let Some(entry) = self.entries.get(at).copied().filter(|entry| entry.position == position) else {
            return 0;
        };
        let waited = self.waiting(&entry, u64::MAX);
        self.events -= waited;
        self.bytes -= u64::from(entry.length);
        self.entries.remove(at);
        freed(&entry);
        waited
    }

    /// What stands in one of these segments, as facts to be written again. Of a batch all
    /// of its changes, in order: one that was written again alone would come behind those that overrule it.
    pub(super) fn carry(
        &self,
        partition: i32,
        segments: &[u32],
        origin: &dyn Fn(u32) -> kafka_batcher_core::Origin,
        facts: &mut Vec<Fact>,
    ) {
        for (position, changes) in self.changes.iter().filter(|(_, changes)| changes.stand_in(segments)) {
            for (first, change) in changes.iter() {
                let place = Place { position: position + u64::from(first), partition };
                let at = Events { place, count: change.end - first, crc: changes.crc };
                facts.push(match change.said {
                    Some((stamp, of)) => Fact::Numbers { at, stamp, origin: origin(of) },
                    None => Fact::Hole { at },
                });
            }
        }
        for (range, _) in self.dropped.iter().filter(|(_, segment)| segments.contains(segment)) {
            facts.push(Fact::Dropped { partition, from: range.start, through: range.end });
        }
    }

    /// They stand in another segment from then on: what was applied when it was written again knows it, all but the holes of
    /// batches that have no event left.
    pub(super) fn carried(&mut self, segments: &[u32], to: u32) {
        for changes in self.changes.values_mut().filter(|changes| changes.stand_in(segments)) {
            changes.carried(to);
        }
    }

    /// Nothing waits, and nothing of the log is left that could.
    pub(super) fn forget_all_changes(&mut self) {
        self.changes.clear();
        self.dropped.clear();
    }
}

#[cfg(test)]
mod tests;
