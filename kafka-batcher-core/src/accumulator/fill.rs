//! `FillEstimate`: how many plain bytes make a full batch where batches are compressed.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::batch::{HEADER_LEN, MAX_UNCOMPRESSED};

/// By how much the estimate rises at least when a batch shrank less than expected, and falls at most when one shrank more. Kafka's
/// (`CompressionRatioEstimator.java`): quick to deteriorate, slow to improve, because a batch that turns out too large costs a
/// second compression, and one that turns out small a little room.
///
/// Ours differs where Kafka's lets every batch say the same: a few events shrink less than many, or not at all, and say nothing of
/// how full a full batch becomes. So the estimate rises only by a batch of half the limit or more, or by one that turned out
/// too large, and falls by the less the smaller the batch was.
const DETERIORATES: f32 = 0.05;
const IMPROVES: f32 = 0.005;
/// Kafka's margin over the estimate (`MemoryRecordsBuilder.java`, `COMPRESSION_RATE_ESTIMATION_FACTOR`).
const MARGIN: f32 = 1.05;

/// Learns how much the batches of one topic shrink under its codec. Shared by the topic's accumulators, which ask it, and by
/// whoever compresses, who alone tells it.
#[derive(Debug)]
pub struct FillEstimate {
    /// The most a batch should take on the wire, and the most it may take in memory.
    wire: usize,
    memory: usize,
    /// An `f32`: compressed over plain.
    ratio: AtomicU32,
    /// What follows from it.
    limit: AtomicUsize,
}

impl FillEstimate {
    /// Batches should take `wire` bytes when compressed, and in no case more than `memory` before it (nor [`MAX_UNCOMPRESSED`]);
    /// `wire` plain bytes are always allowed. Begins as if nothing shrank.
    pub fn new(wire: usize, memory: usize) -> Self {
        let memory = memory.min(MAX_UNCOMPRESSED).max(wire);
        FillEstimate { wire, memory, ratio: AtomicU32::new(1f32.to_bits()), limit: AtomicUsize::new(wire) }
    }

    /// The estimated ratio, compressed over plain: 1 at the beginning, and never above it.
    pub fn ratio(&self) -> f32 {
        f32::from_bits(self.ratio.load(Ordering::Relaxed))
    }

    /// How many plain bytes make a full batch now, header included.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// A batch of `plain` bytes takes `wire` on the wire, headers included; as many, if it did not shrink.
    pub fn observe(&self, plain: usize, wire: usize) {
        let records = |bytes: usize| bytes.saturating_sub(HEADER_LEN).max(1) as f32;
        let (known, seen) = (self.ratio(), records(wire) / records(plain));
        let ratio = if seen <= known {
            seen.max(known - IMPROVES * (plain as f32 / self.wire as f32).min(1.0))
        } else if plain >= self.wire / 2 || wire > self.wire {
            seen.max(known + DETERIORATES)
        } else {
            return;
        };
        let ratio = ratio.min(1.0);
        let limit = records(self.wire) / (ratio * MARGIN);
        self.ratio.store(ratio.to_bits(), Ordering::Relaxed);
        self.limit.store((HEADER_LEN + limit as usize).clamp(self.wire, self.memory), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_careful_improves_slowly_and_deteriorates_at_once() {
        let fill = FillEstimate::new(1_000_000, 8_000_000);
        assert_eq!(fill.limit(), 1_000_000);
        fill.observe(1_000_000, 250_000);
        assert!((fill.ratio() - 0.995).abs() < 1e-6);
        (0..200).for_each(|_| fill.observe(1_000_000, 250_000));
        assert!((fill.ratio() - 0.25).abs() < 1e-3);
        // Full at 1 000 000 on the wire, with 5 % to spare.
        assert!((3_750_000..3_850_000).contains(&fill.limit()), "{}", fill.limit());
        fill.observe(1_000_000, 260_000);
        assert!((fill.ratio() - 0.30).abs() < 1e-3);
        fill.observe(1_000_000, 1_000_000);
        assert_eq!((fill.ratio(), fill.limit()), (1.0, 1_000_000));
    }

    #[test]
    fn a_small_batch_that_does_not_shrink_changes_nothing_and_one_that_does_changes_little() {
        let fill = FillEstimate::new(1_000_000, 8_000_000);
        (0..200).for_each(|_| fill.observe(1_000_000, 250_000));
        let limit = fill.limit();
        fill.observe(100, 100);
        fill.observe(499_999, 499_999);
        assert_eq!(fill.limit(), limit);
        let ratio = fill.ratio();
        fill.observe(100_000, 1_000);
        assert!((ratio - fill.ratio() - 0.0005).abs() < 1e-6, "{ratio} -> {}", fill.ratio());
        // One that mattered, and one that turned out too large.
        fill.observe(500_000, 500_000);
        assert_eq!((fill.ratio(), fill.limit()), (1.0, 1_000_000));
        (0..200).for_each(|_| fill.observe(1_000_000, 250_000));
        fill.observe(4_000_000, 1_200_000);
        assert!((fill.ratio() - 0.3).abs() < 1e-3);
    }

    #[test]
    fn it_never_asks_for_more_memory_than_it_may_nor_for_less_than_a_plain_batch() {
        let fill = FillEstimate::new(1_000_000, 3_000_000);
        (0..1_000).for_each(|_| fill.observe(1_000_000, 5_000));
        assert_eq!(fill.limit(), 3_000_000);
        assert_eq!(FillEstimate::new(1_000_000, 10).limit(), 1_000_000);
        let huge = FillEstimate::new(1_000_000, usize::MAX);
        (0..1_000).for_each(|_| huge.observe(1_000_000, 100));
        assert_eq!(huge.limit(), MAX_UNCOMPRESSED);
    }
}
