//! What became of the events of one client: acknowledged, failed, and after what time, event by event.
//!
//! Every client reports here when it learns of an acknowledgement, in the way that its interface offers (a callback, a future, a
//! receipt); what is done with it is the same for all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::line::Latency;

/// When an event was given to its client: nanoseconds since the ledger was opened, or 0 where nobody asks. As large as the pointer
/// that librdkafka hands back with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(pub(crate) usize);

/// Shared by everything that learns of outcomes.
pub(crate) struct Ledger {
    opened: Instant,
    /// Whether events are stamped: only where there is a rate. Without one a latency says how long the queue is, and reading the
    /// clock would be a part of what is measured.
    stamping: bool,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    first_error: Mutex<Option<String>>,
    recording: AtomicBool,
    /// Microseconds, three significant digits, up to a minute.
    latency: Mutex<Option<Histogram<u64>>>,
}

/// The longest latency that is told apart from longer ones, in microseconds.
const LONGEST: u64 = 60_000_000;

impl Ledger {
    pub(crate) fn new(stamping: bool) -> Ledger {
        Ledger {
            opened: Instant::now(),
            stamping,
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            first_error: Mutex::new(None),
            recording: AtomicBool::new(false),
            latency: Mutex::new(Histogram::new_with_bounds(1, LONGEST, 3).ok().filter(|_| stamping)),
        }
    }

    /// For an event that is about to be given to the client.
    #[inline]
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp(if self.stamping { (self.opened.elapsed().as_nanos() as usize).max(1) } else { 0 })
    }

    /// The event of this stamp was acknowledged just now.
    #[inline]
    pub(crate) fn acknowledged(&self, stamp: Stamp) {
        self.acknowledged_many([stamp]);
    }

    /// These were acknowledged together, just now.
    pub(crate) fn acknowledged_many(
        &self,
        stamps: impl IntoIterator<Item = Stamp, IntoIter: ExactSizeIterator>,
    ) {
        let stamps = stamps.into_iter();
        self.count(stamps.len() as u64);
        if !self.recording.load(Ordering::Relaxed) {
            return;
        }
        let now = self.opened.elapsed().as_nanos() as usize;
        if let Some(latency) = self.latency.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            for Stamp(stamp) in stamps {
                latency.saturating_record((now.saturating_sub(stamp) as u64 / 1000).max(1));
            }
        }
    }

    /// So many were acknowledged; of each nothing more is known.
    pub(crate) fn count(&self, events: u64) {
        self.acknowledged.fetch_add(events, Ordering::Relaxed);
    }

    /// An event failed, for this reason.
    pub(crate) fn failed(&self, error: impl ToString) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| error.to_string());
    }

    /// From now on latencies count: what went before was warm-up.
    pub(crate) fn begin(&self) {
        self.recording.store(self.stamping, Ordering::Relaxed);
    }

    /// Acknowledged so far, warm-up included.
    pub(crate) fn total(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Failed so far, and the first reason.
    pub(crate) fn failures(&self) -> (u64, Option<String>) {
        let error = self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.failed.load(Ordering::Acquire), error)
    }

    /// The distribution; none where events were not stamped, or their client tells no outcomes.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.as_ref().filter(|latency| !latency.is_empty()).map(|latency| Latency {
            events: latency.len(),
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            p999_us: latency.value_at_quantile(0.999),
            max_us: latency.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_before_the_beginning_is_counted_and_in_no_latency() {
        let ledger = Ledger::new(true);
        ledger.acknowledged(ledger.stamp());
        assert_eq!((ledger.total(), ledger.latency()), (1, None));
        ledger.begin();
        ledger.acknowledged_many([ledger.stamp(), ledger.stamp()]);
        assert_eq!((ledger.total(), ledger.latency().unwrap().events), (3, 2));
    }

    #[test]
    fn nothing_is_stamped_without_a_rate() {
        let ledger = Ledger::new(false);
        ledger.begin();
        assert_eq!(ledger.stamp(), Stamp(0));
        ledger.acknowledged(ledger.stamp());
        assert_eq!((ledger.total(), ledger.latency()), (1, None));
    }

    #[test]
    fn failures_are_counted_and_the_first_reason_is_kept() {
        let ledger = Ledger::new(false);
        ledger.failed("no leader");
        ledger.failed("no time");
        assert_eq!(ledger.failures(), (2, Some("no leader".to_owned())));
    }
}
