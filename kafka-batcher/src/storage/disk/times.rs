//! When what waits was saved: one entry for each tenth of a second in which something was, not one for each batch. On disk
//! it is the time of a group's control batch; a segment that was cleaned keeps a list of them with its own.
//!
//! Both lists are about what waits. Behind a partition that is stuck others flow past, so it is not enough to forget what
//! lies before the first event that waits: from time to time each entry is asked whether anything waits in it. That is done
//! when a list has doubled, so that an entry is asked about once.

use std::collections::VecDeque;
use std::ops::Range;

/// What times are rounded down to, in milliseconds: ten entries a second are the most there can be.
const GRAIN: i64 = 100;

/// Entries that are kept without looking.
const FEW: usize = 64;

/// Whether anything that lies there waits.
pub(super) type Waits<'a> = dyn Fn(Range<u64>) -> bool + 'a;

/// The times of a topic's log, by position.
#[derive(Debug, Default)]
pub(super) struct Times {
    list: VecDeque<(u64, i64)>,
    /// How many were left when each was last asked.
    left: usize,
}

impl Times {
    /// What lies at `from` and behind it was saved at this time; 0: nobody knows. Positions ascend.
    pub(super) fn note(&mut self, from: u64, unix_ms: i64) {
        let unix_ms = unix_ms - unix_ms.rem_euclid(GRAIN);
        if self.list.back().is_none_or(|(_, last)| *last != unix_ms) {
            self.list.push_back((from, unix_ms));
        }
    }

    /// When the event at this position was saved; 0: not known.
    pub(super) fn at(&self, position: u64) -> i64 {
        let behind = self.list.partition_point(|(from, _)| *from <= position);
        behind.checked_sub(1).and_then(|at| self.list.get(at)).map_or(0, |(_, unix_ms)| *unix_ms)
    }

    /// Forgets what is about nothing that waits: what lies below `first`, and from time to time all of it.
    pub(super) fn forget(&mut self, first: u64, waits: &Waits<'_>) {
        while self.list.get(1).is_some_and(|(from, _)| *from <= first) {
            self.list.pop_front();
        }
        if self.list.len() < FEW + 2 * self.left {
            return;
        }
        // What comes next may be of the same time as the last.
        let ends = self.list.iter().skip(1).map(|(from, _)| *from);
        let used: Vec<bool> =
            self.list.iter().zip(ends).map(|((from, _), end)| waits(*from..end)).chain([true]).collect();
        let mut used = used.into_iter();
        self.list.retain(|_| used.next().unwrap_or(true));
        self.left = self.list.len();
        self.list.shrink_to(FEW + 2 * self.left);
    }
}

/// The events whose time the user gave, by position, as ascending ranges.
#[derive(Debug, Default)]
pub(super) struct Given {
    list: VecDeque<Range<u64>>,
    /// How many were left when each was last asked.
    left: usize,
}

impl Given {
    /// Positions ascend.
    pub(super) fn note(&mut self, range: Range<u64>) {
        match self.list.back_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.list.push_back(range),
        }
    }

    /// What of this stretch is meant.
    pub(super) fn within(&self, stretch: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.list.partition_point(|range| range.end <= stretch.start);
        let ranges = self.list.range(first..).take_while(move |range| range.start < stretch.end);
        ranges.map(move |range| range.start.max(stretch.start)..range.end.min(stretch.end))
    }

    /// The same for a batch's events, as indices in it.
    pub(super) fn of(&self, position: u64, count: u32) -> Vec<Range<u32>> {
        let index = |at: u64| (at - position) as u32;
        let ranges = self.within(position..position + u64::from(count));
        ranges.map(|range| index(range.start)..index(range.end)).collect()
    }

    /// Forgets what is about nothing that waits: what lies below `first`, and from time to time all of it.
    pub(super) fn forget(&mut self, first: u64, waits: &Waits<'_>) {
        while self.list.front().is_some_and(|range| range.end <= first) {
            self.list.pop_front();
        }
        if self.list.len() < FEW + 2 * self.left {
            return;
        }
        self.list.retain(|range| waits(range.clone()));
        self.left = self.list.len();
        self.list.shrink_to(FEW + 2 * self.left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_the_time_of_the_last_note_at_or_before_it() {
        let mut times = Times::default();
        assert_eq!(times.at(5), 0);
        for (from, unix_ms) in [(10, 1_000), (20, 1_099), (30, 1_100), (40, 0), (50, 900)] {
            times.note(from, unix_ms);
        }
        assert_eq!(
            [9, 10, 29, 30, 39, 40, 50, 99].map(|at| times.at(at)),
            [0, 1000, 1000, 1100, 1100, 0, 900, 900]
        );
    }

    #[test]
    fn a_batch_knows_which_of_its_events_have_their_time_from_the_user() {
        let mut given = Given::default();
        for range in [3..5, 5..7, 10..11, 20..30] {
            given.note(range);
        }
        assert_eq!(given.list.len(), 3, "what touches is one");
        assert_eq!(given.of(0, 3), []);
        assert_eq!(given.of(4, 7), [0..3, 6..7]);
        assert_eq!(given.of(22, 100), std::slice::from_ref(&(0..8)));
        given.forget(7, &|_| true);
        assert_eq!((given.list.len(), given.of(0, 30)), (2, vec![10..11, 20..30]));
    }

    #[test]
    fn what_nothing_waits_in_is_forgotten_behind_what_waits_and_each_is_asked_once() {
        // One event that is stuck, and others that flow past: an entry each was kept for as long as the first waits.
        let (mut times, mut given) = (Times::default(), Given::default());
        let asked = std::cell::Cell::new(0);
        let waits = |positions: Range<u64>| {
            asked.set(asked.get() + 1);
            positions.contains(&0) || positions.contains(&5_000)
        };
        for n in 0..10_000 {
            times.note(n, 1_000 * n as i64);
            given.note(3 * n..3 * n + 1);
            times.forget(0, &waits);
            given.forget(0, &waits);
            assert!(times.list.len() <= FEW + 8 && given.list.len() <= FEW + 8);
        }
        assert!(asked.get() <= 2 * 2 * 10_000, "{}", asked.get());
        assert_eq!([0, 5_000].map(|at| times.at(at)), [0, 5_000_000]);
        assert_eq!(given.of(0, 1), std::slice::from_ref(&(0..1)));
    }

    #[test]
    fn what_is_settled_is_forgotten_and_what_waits_keeps_its_time() {
        let mut times = Times::default();
        (0..10).for_each(|n| times.note(10 * n, 1_000 * n as i64));
        times.forget(55, &|_| true);
        assert_eq!((times.list.len(), times.at(55), times.at(90)), (5, 5_000, 9_000));
        times.forget(u64::MAX, &|_| false);
        assert_eq!(
            (times.list.len(), times.at(1_000)),
            (1, 9_000),
            "what comes next may be of the same time"
        );
    }
}
