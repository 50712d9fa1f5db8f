//! `Pace`: an operator's bound on how fast a backlog is read from the spool, so that Kafka, just back, is not flooded.

use std::time::Duration;

use kafka_batcher_core::Time;

/// What one read may bring at most, as a stretch of time at the full rate: short enough that the rate holds over a second.
const STRETCH: Duration = Duration::from_millis(100);

pub(super) struct Pace {
    bytes_per_second: u64,
    /// What was read so far is paid for then.
    until: Time,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Pace { bytes_per_second, until: Time::ZERO }
    }

    /// The most that one read is to bring. A read brings one batch at least.
    pub(super) fn stretch(&self) -> usize {
        let bytes = self.bytes_per_second as f64 * STRETCH.as_secs_f64();
        (bytes as usize).max(1)
    }

    /// When the next read may begin.
    pub(super) fn next(&self) -> Time {
        self.until
    }

    /// When reads that wait have to be looked at because of the pace. Once its time is over, what they still wait for says so itself: an
    /// answer of the storage, or memory; a timer for it would go off again and again.
    pub(super) fn timer(&self, now: Time) -> Option<Time> {
        Some(self.until).filter(|until| *until > now)
    }

    /// So much was read.
    pub(super) fn read(&mut self, bytes: usize, now: Time) {
        let takes = Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64);
        self.until = self.until.max(now) + takes.unwrap_or(Duration::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_paid_for_before_the_next_read_and_idle_time_is_not_saved_up() {
        let mut pace = Pace::new(1_000_000);
        assert_eq!((pace.stretch(), pace.next()), (100_000, Time::ZERO));
        let now = Time::from_millis(5000);
        pace.read(250_000, now);
        assert_eq!(pace.next(), Time::from_millis(5250));
        pace.read(100_000, Time::from_millis(5250));
        assert_eq!(pace.next(), Time::from_millis(5350));
        pace.read(100_000, Time::from_millis(60_000));
        assert_eq!(pace.next(), Time::from_millis(60_100));
        assert_eq!(Pace::new(1).stretch(), 1);
    }

    #[test]
    fn a_time_that_is_over_wakes_nobody() {
        let mut pace = Pace::new(1_000);
        assert_eq!(pace.timer(Time::ZERO), None);
        pace.read(1_000, Time::from_millis(5_000));
        let over = Time::from_millis(6_000);
        assert_eq!((pace.timer(Time::from_millis(5_500)), pace.timer(over)), (Some(over), None));
    }
}
