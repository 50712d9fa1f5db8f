//! When what waits was saved: one entry for each tenth of a second in which something was, not one for each batch. On disk
//! it is the time of a group's control batch; a segment that was cleaned keeps a list of them with its own.

use std::collections::VecDeque;

/// What times are rounded down to, in milliseconds: ten entries a second are the most there can be.
const GRAIN: i64 = 100;

/// The times of a topic's log, by position.
#[derive(Debug, Default)]
pub(super) struct Times(VecDeque<(u64, i64)>);

impl Times {
    /// What lies at `from` and behind it was saved at this time; 0: nobody knows. Positions ascend.
    pub(super) fn note(&mut self, from: u64, unix_ms: i64) {
        let unix_ms = unix_ms - unix_ms.rem_euclid(GRAIN);
        if self.0.back().is_none_or(|(_, last)| *last != unix_ms) {
            self.0.push_back((from, unix_ms));
        }
    }

    /// When the event at this position was saved; 0: not known.
    pub(super) fn at(&self, position: u64) -> i64 {
        let behind = self.0.partition_point(|(from, _)| *from <= position);
        behind.checked_sub(1).and_then(|at| self.0.get(at)).map_or(0, |(_, unix_ms)| *unix_ms)
    }

    /// Forgets what is about nothing that waits: what lies below `first`.
    pub(super) fn forget_below(&mut self, first: u64) {
        while self.0.get(1).is_some_and(|(from, _)| *from <= first) {
            self.0.pop_front();
        }
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
    fn what_is_settled_is_forgotten_and_what_waits_keeps_its_time() {
        let mut times = Times::default();
        (0..10).for_each(|n| times.note(10 * n, 1_000 * n as i64));
        times.forget_below(55);
        assert_eq!((times.0.len(), times.at(55), times.at(90)), (5, 5_000, 9_000));
        times.forget_below(u64::MAX);
        assert_eq!((times.0.len(), times.at(1_000)), (1, 9_000), "what comes next may be of the same time");
    }
}
