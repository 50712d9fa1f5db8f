//! The limits of an accumulator.

use std::time::Duration;

/// When a batch is ready. [`Default`] gives the product's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccumulatorSettings {
    /// Events that make a batch ready (10 000). More: fewer, larger requests; fewer: less latency where the rate is
    /// high. Counts over the topic where its partitions are collected together.
    pub batch_size: u32,
    /// The most a batch may be, in encoded bytes, header included (1 000 000); with [`FillEstimate`](super::FillEstimate) as
    /// it will be on the wire. Must not exceed the topic's
    /// `max.message.bytes`. An event that does not fit a batch of its own is refused.
    pub max_batch_bytesize: usize,
    /// The longest an event waits for others (5 ms), from its acceptance; what other clients call linger.
    pub max_wait_time: Duration,
    /// The shortest time from any seal to one by count (0): holds back small batches at high rates. Useless if longer
    /// than `max_wait_time`.
    pub min_delay: Duration,
}

impl Default for AccumulatorSettings {
    fn default() -> Self {
        Self {
            batch_size: 10_000,
            max_batch_bytesize: 1_000_000,
            max_wait_time: Duration::from_millis(5),
            min_delay: Duration::ZERO,
        }
    }
}

impl AccumulatorSettings {
    pub(super) fn within_format(self) -> Self {
        Self {
            batch_size: self.batch_size.max(1),
            // The batch's length field is a signed 32-bit number.
            max_batch_bytesize: self.max_batch_bytesize.min(i32::MAX as usize),
            ..self
        }
    }
}
