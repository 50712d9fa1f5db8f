//! Sealing: an open batch becomes a [`Sealed`] one, with the reason for it.

use std::collections::VecDeque;

use super::lane::Lane;
use super::{Accumulator, CountGate, Now};
use crate::batch::RecordBatch;
use crate::time::Time;

/// Why a batch was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FlushReason {
    /// `batch_size` events were open, and `min_delay` was over.
    Count,
    /// The next event would have made it larger than `max_batch_bytesize`, or no event fits any more.
    Bytes,
    /// Its oldest event had waited for `max_wait_time`.
    Wait,
    /// The flusher asked for it at one of its events.
    Flusher,
    /// The application called `flush()`.
    Flush,
    /// Its topic is collected together, and the count, wait or flusher of another partition sealed all of them.
    Topic,
    /// The batcher is shutting down.
    Shutdown,
    /// A request to the partition's broker was about to be sent anyway.
    BrokerReady,
    /// Memory was short: half-full batches must not hold what others wait for.
    Memory,
}

impl FlushReason {
    /// All of them, in the order of their declaration.
    pub const ALL: [FlushReason; 9] = [
        FlushReason::Count,
        FlushReason::Bytes,
        FlushReason::Wait,
        FlushReason::Flusher,
        FlushReason::Flush,
        FlushReason::Topic,
        FlushReason::Shutdown,
        FlushReason::BrokerReady,
        FlushReason::Memory,
    ];

    /// Its name in metrics and summaries.
    pub const fn as_str(self) -> &'static str {
        match self {
            FlushReason::Count => "count",
            FlushReason::Bytes => "bytes",
            FlushReason::Wait => "wait",
            FlushReason::Flusher => "flusher",
            FlushReason::Flush => "flush",
            FlushReason::Topic => "topic",
            FlushReason::Shutdown => "shutdown",
            FlushReason::BrokerReady => "broker_ready",
            FlushReason::Memory => "memory",
        }
    }
}

/// A batch on its way out of the accumulator.
#[derive(Debug)]
#[must_use = "its events would be lost"]
pub struct Sealed {
    /// The partition it is for; -1: not assigned yet.
    pub partition: i32,
    /// Its events.
    pub batch: RecordBatch,
    /// Why it was sealed.
    pub reason: FlushReason,
    /// When its oldest event was accepted.
    pub opened: Time,
}

/// Sealed batches that nobody has taken out yet. Empty but during one hold of the lock.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Sealed>);

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<Sealed> {
        self.0.pop_front()
    }

    /// Seals the lane's batch and returns how many events were in it.
    fn seal(&mut self, lane: &mut Lane, reason: FlushReason) -> u64 {
        let Some(batch) = lane.encoder.seal() else { return 0 };
        let events = u64::from(batch.count());
        self.0.push_back(Sealed { partition: lane.partition, batch, reason, opened: lane.opened });
        events
    }
}

impl Accumulator {
    /// Seals one lane and leaves the others open: only the byte limit does that.
    #[cold]
    #[inline(never)]
    pub(super) fn seal_lane(&mut self, index: usize, reason: FlushReason, now: &mut Now<'_>) {
        self.remember_seal(now);
        if let Some(lane) = self.lanes.get_mut(index) {
            let events = self.outbound.seal(lane, reason);
            self.events -= events;
            self.sealed += events;
        }
        self.lanes.closed(index);
        // The oldest event may have left, and the count may be below the limit again.
        self.oldest = self.lanes.open().map(|(_, lane)| lane.opened).min().unwrap_or_default();
        let gate = match (self.gate, self.last_seal) {
            (CountGate::Delayed { lane, .. }, Some(seal))
                if self.events >= u64::from(self.settings.batch_size) =>
            {
                CountGate::Delayed { until: seal + self.settings.min_delay, lane }
            }
            _ => CountGate::Counting,
        };
        self.set_gate(gate);
    }

    /// Seals all open lanes because of what happened in lane `tripped`.
    #[cold]
    #[inline(never)]
    pub(super) fn seal_topic(&mut self, tripped: usize, reason: FlushReason, now: &mut Now<'_>) {
        self.remember_seal(now);
        // The lane may have been sealed by its bytes while the count waited for `min_delay`.
        let still_open = self.lanes.open().any(|(index, _)| index == tripped);
        let tripped =
            if still_open { Some(tripped) } else { self.lanes.open().next().map(|(index, _)| index) };
        self.seal_all(|index, _| if Some(index) == tripped { reason } else { FlushReason::Topic });
    }

    #[cold]
    #[inline(never)]
    pub(super) fn seal_open(&mut self, now: Time, reason: impl Fn(usize, &Lane) -> FlushReason) {
        if self.events > 0 {
            self.remember_seal(&mut Now { clock: &mut || now, read: Some(now) });
            self.seal_all(reason);
        }
    }

    fn seal_all(&mut self, reason: impl Fn(usize, &Lane) -> FlushReason) {
        let open = self.lanes.take_open();
        for &index in &open {
            if let Some(lane) = self.lanes.get_mut(index) {
                let reason = reason(index, lane);
                self.outbound.seal(lane, reason);
            }
        }
        self.lanes.give_back(open);
        self.sealed += std::mem::take(&mut self.events);
        self.set_gate(CountGate::Counting);
    }

    fn remember_seal(&mut self, now: &mut Now<'_>) {
        // Without a `min_delay` nobody asks, and the clock need not be read.
        if !self.settings.min_delay.is_zero() {
            self.last_seal = Some(now.get());
        }
    }
}
