//! What was said of the events of one saved batch behind its own bytes: other numbers, or that they are a hole. Kept as
//! ranges that do not touch each other, by their first event, so that a word costs what it overrules and no more: a batch
//! of which every other event is refused has thousands of them.

use std::collections::BTreeMap;
use std::ops::Range;

use kafka_batcher_core::{Stamp, sequence_add};

use super::Piece;

/// Numbers of events: of the first of them, and the index of the origin; `None`: they are a hole.
pub(super) type Said = Option<(Stamp, u32)>;

/// Some events of a batch that are not as they were saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Index in the batch behind the last of them.
    pub(super) end: u32,
    pub(super) said: Said,
    /// Id of the segment whose control batch says so.
    pub(super) segment: u32,
}

impl Change {
    /// The same of the events from `at` on, where it is of those from `first` on.
    fn from(&self, first: u32, at: u32) -> Change {
        let said = self.said.map(|(stamp, origin)| {
            let first_sequence = sequence_add(stamp.first_sequence, at - first);
            (Stamp { first_sequence, ..stamp }, origin)
        });
        Change { said, ..*self }
    }
}

/// All that was said of a batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// Of the batch.
    pub(super) crc: u32,
    /// By the index of the first event.
    ranges: BTreeMap<u32, Change>,
}

impl Changes {
    /// A later word about some events. It overrules what was said before, but does not fill a hole.
    pub(super) fn say(&mut self, events: Range<u32>, said: Said, segment: u32) {
        self.cut_at(events.start);
        self.cut_at(events.end);
        let inside: Vec<(u32, Change)> = self
            .ranges
            .range(events.clone())
            .map(|(first, change)| (*first, *change))
            .inspect(step)
            .collect();
        let new = Change { end: events.end, said, segment };
        let mut at = events.start;
        for (first, old) in inside {
            if old.said.is_none() && said.is_some() {
                if at < first {
                    self.put(at, Change { end: first, ..new.from(events.start, at) });
                }
                at = old.end;
            } else {
                self.ranges.remove(&first);
            }
        }
        if at < events.end {
            self.put(at, new.from(events.start, at));
        }
    }

    /// No range reaches over `at`.
    fn cut_at(&mut self, at: u32) {
        if let Some((first, old)) = self.ranges.range_mut(..at).next_back()
            && old.end > at
        {
            let behind = old.from(*first, at);
            old.end = at;
            self.ranges.insert(at, behind);
        }
    }

    /// Adds a range, where there is none, to the one before it if both say one thing.
    fn put(&mut self, first: u32, change: Change) {
        if let Some((before, old)) = self.ranges.range_mut(..first).next_back()
            && old.end == first
            && old.from(*before, first) == (Change { end: old.end, ..change })
        {
            old.end = change.end;
            return;
        }
        self.ranges.insert(first, change);
    }

    /// How many of these events are no hole.
    pub(super) fn open(&self, events: Range<u32>) -> u32 {
        let mut open = events.end.saturating_sub(events.start);
        for (first, change) in self.over(&events).filter(|(_, change)| change.said.is_none()) {
            open -= change.end.min(events.end) - first.max(events.start);
        }
        open
    }

    /// The first event at `from` or behind that is no hole, below `end`.
    pub(super) fn first_open(&self, from: u32, end: u32) -> Option<u32> {
        let mut at = from;
        for (first, change) in self.over(&(from..end)) {
            if first > at || change.said.is_some() {
                break;
            }
            at = change.end;
        }
        (at < end).then_some(at)
    }

    /// What of these events is no hole, piece by piece.
    pub(super) fn pieces(&self, events: Range<u32>) -> Vec<Piece> {
        let (mut pieces, mut at) = (Vec::new(), events.start);
        for (first, change) in self.over(&events) {
            if at < first {
                pieces.push(Piece { first: at, count: first - at, numbers: None });
            }
            let (begin, end) = (first.max(events.start), change.end.min(events.end));
            if change.said.is_some() {
                let numbers = change.from(first, begin).said;
                pieces.push(Piece { first: begin, count: end - begin, numbers });
            }
            at = end;
        }
        if at < events.end {
            pieces.push(Piece { first: at, count: events.end - at, numbers: None });
        }
        pieces
    }

    /// The ranges that have one of these events.
    fn over(&self, events: &Range<u32>) -> impl Iterator<Item = (u32, &Change)> {
        let before = self.ranges.range(..events.start).next_back();
        let before = before.filter(|(_, change)| change.end > events.start && events.start < events.end);
        let inside = (events.start < events.end).then(|| self.ranges.range(events.clone()));
        before
            .into_iter()
            .chain(inside.into_iter().flatten())
            .map(|(first, change)| (*first, change))
            .inspect(step)
    }

    /// Everything, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Change)> {
        self.ranges.iter().map(|(first, change)| (*first, change))
    }

    /// Whether one of these segments says something of it.
    pub(super) fn stand_in(&self, segments: &[u32]) -> bool {
        self.ranges.values().any(|change| segments.contains(&change.segment))
    }

    /// All of it stands in this segment from now on.
    pub(super) fn carried(&mut self, to: u32) {
        self.ranges.values_mut().for_each(|change| change.segment = to);
    }
}

/// Counts what is looked at: tests hold the sum against how much was said.
pub(super) fn step<T>(_: &T) {
    #[cfg(test)]
    STEPS.set(STEPS.get() + 1);
}

#[cfg(test)]
std::thread_local! {
    pub(super) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
