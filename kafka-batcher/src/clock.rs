//! The one place of this crate that reads a clock.
//!
//! Deadlines run on the monotonic clock, read when a batch opens and when the dispatcher wakes. An event's timestamp
//! is the kernel's *coarse* real-time clock (`CLOCK_REALTIME_COARSE` on Linux): a millisecond that the kernel keeps in
//! shared memory, at most 4 ms old, a few nanoseconds to read, and nothing of ours has to tick to keep it fresh.

use std::time::{Duration, Instant};

use kafka_batcher_core::Time;

/// Nobody lives to see more, and a clock can count it.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// The instant so long after this one. `Duration::MAX`, which says "for ever", is more than a clock can count.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    now + by.min(FAR)
}

/// Monotonic time since its creation, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    /// The monotonic clock, exactly.
    pub(crate) fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The runtime's instant that `time` stands for.
    pub(crate) fn instant(&self, time: Time) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin + time.since(Time::ZERO).min(self.origin.elapsed() + FAR))
    }

    /// Milliseconds since the Unix epoch, coarsely.
    #[inline]
    pub(crate) fn unix_ms(&self) -> i64 {
        coarse_unix_ms()
    }
}

// Through libc: rustix's own way to the vDSO ends under valgrind with a signal 11.
#[cfg(target_os = "linux")]
#[inline]
fn coarse_unix_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

#[cfg(not(target_os = "linux"))]
fn coarse_unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clock_is_the_wall_clock() {
        let exact =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        let (before, coarse, after) = (exact(), Clock::start().unix_ms(), exact());
        // A tick of the kernel's, 10 ms at the most, is what it may lag behind.
        assert!(before - 20 <= coarse && coarse <= after, "{before} {coarse} {after}");
    }
}
