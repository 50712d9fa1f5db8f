//! `Slots`: a topic's partitions, each with the lock that callers append under.
//!
//! Partitions are only ever added, and callers look one up for every event: so the table grows in segments that never
//! move, and reading it takes one atomic load and no lock.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kafka_batcher_core::{Accumulator, AccumulatorSettings, FillEstimate, Share};

/// The first half of them are each as large as one growth (one `kafka-topics --alter --partitions`), the others double.
const MAX_SEGMENTS: usize = 64;

/// One partition. Aligned to two cache lines, which the prefetcher takes together: neighbours must not slow each other.
#[repr(align(128))]
pub(crate) struct Slot {
    /// Its open batch; unused where the topic is collected as a whole.
    accumulator: Mutex<Accumulator>,
    /// What it holds of the memory.
    pub(crate) share: Share,
    /// Whether it has a leader; only the dispatcher writes.
    pub(crate) available: AtomicBool,
    /// From when on the dispatcher would send a batch that opens now, in microseconds of the clock; `u64::MAX`: not before its time. Only the
    /// dispatcher writes.
    pub(crate) early: AtomicU64,
}

struct Segment {
    first: i32,
    slots: Box<[Slot]>,
}

pub(crate) struct Slots {
    limits: AccumulatorSettings,
    /// Where batches are compressed: when they are full.
    fill: Option<Arc<FillEstimate>>,
    cap: usize,
    /// 0: not known. Written last, so that who sees a count finds the slots.
    count: AtomicI32,
    segments: [OnceLock<Segment>; MAX_SEGMENTS],
    /// One accumulator for all partitions, where the limits count over the topic.
    whole: Option<Mutex<Accumulator>>,
}

impl Slots {
    pub(crate) fn new(
        limits: AccumulatorSettings,
        fill: Option<Arc<FillEstimate>>,
        by_partition: bool,
        cap: usize,
    ) -> Self {
        Slots {
            whole: (!by_partition).then(|| accumulator(limits, fill.as_ref(), 0)),
            fill,
            limits,
            cap,
            count: AtomicI32::new(0),
            segments: [const { OnceLock::new() }; MAX_SEGMENTS],
        }
    }

    /// Number of partitions; 0: not known.
    #[inline]
    pub(crate) fn count(&self) -> i32 {
        self.count.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn get(&self, partition: i32) -> Option<&Slot> {
        let first = self.segments[0].get()?;
        match first.slots.get(partition as usize) {
            Some(slot) => Some(slot),
            None => self.get_later(partition),
        }
    }

    #[inline(never)]
    fn get_later(&self, partition: i32) -> Option<&Slot> {
        // A late segment may be larger than what there is.
        if partition >= self.count() {
            return None;
        }
        self.segments.iter().map_while(OnceLock::get).find_map(|segment| {
            segment.slots.get(usize::try_from(partition.checked_sub(segment.first)?).ok()?)
        })
    }

    /// Makes it `count` partitions. Only the dispatcher calls it; fewer than before is ignored: Kafka never does that
    /// to a topic, and one that was recreated keeps what it has until a restart.
    pub(crate) fn grow(&self, count: i32) {
        let before = self.count();
        if count <= before {
            return;
        }
        if let Some(whole) = &self.whole {
            let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
            // Lane 0 is there from the beginning.
            (before.max(1)..count).for_each(|partition| {
                whole.add_lane(partition);
            });
        }
        let used = self.segments.iter().map_while(OnceLock::get);
        let (used, first) =
            used.fold((0, 0), |(used, _), segment| (used + 1, segment.first + segment.slots.len() as i32));
        if count > first {
            let least = count - first;
            // Half of the segments are for growing by a few; then each doubles what is there, so that they never run out.
            let more = if used < MAX_SEGMENTS / 2 { least } else { least.max(first.min(i32::MAX - first)) };
            let slot = |partition| Slot {
                accumulator: accumulator(self.limits, self.fill.as_ref(), partition),
                share: Share::new(self.cap),
                available: AtomicBool::new(true),
                early: AtomicU64::new(u64::MAX),
            };
            let segment = Segment { first, slots: (first..first + more).map(slot).collect() };
            let free = self.segments.get(used);
            if free.is_none_or(|free| free.set(segment).is_err()) {
                return;
            }
        }
        self.count.store(count, Ordering::Release);
    }

    /// The accumulator of a partition, and its lane in there.
    #[inline]
    pub(crate) fn accumulator<'a>(
        &'a self,
        slot: &'a Slot,
        partition: i32,
    ) -> (&'a Mutex<Accumulator>, usize) {
        match &self.whole {
            None => (&slot.accumulator, 0),
            Some(whole) => (whole, partition as usize),
        }
    }

    /// Every accumulator, in the order of partitions.
    pub(crate) fn each(&self, mut with: impl FnMut(&Mutex<Accumulator>)) {
        match &self.whole {
            Some(whole) => with(whole),
            None => {
                let segments = self.segments.iter().map_while(OnceLock::get);
                segments.flat_map(|segment| &segment.slots).for_each(|slot| with(&slot.accumulator));
            }
        }
    }
}

fn accumulator(
    limits: AccumulatorSettings,
    fill: Option<&Arc<FillEstimate>>,
    partition: i32,
) -> Mutex<Accumulator> {
    let accumulator = Accumulator::new(limits, partition);
    Mutex::new(match fill {
        Some(fill) => accumulator.filled_by(fill.clone()),
        None => accumulator,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_come_later_are_found_and_the_old_ones_stay_where_they_were() {
        let slots = Slots::new(AccumulatorSettings::default(), None, true, 1 << 20);
        assert!(slots.get(0).is_none() && slots.count() == 0);
        slots.grow(3);
        let before: *const Slot = slots.get(2).unwrap();
        slots.grow(10);
        slots.grow(4);
        assert_eq!(slots.count(), 10);
        assert!(std::ptr::eq(before, slots.get(2).unwrap()));
        assert!(slots.get(9).is_some() && slots.get(10).is_none() && slots.get(-1).is_none());
        let mut n = 0;
        slots.each(|_| n += 1);
        assert_eq!(n, 10);
    }

    #[test]
    fn a_topic_that_grows_by_one_for_ever_gets_every_partition_and_no_more() {
        // The 65th growth did nothing, without a word, and its topic's task asked for it again without pause.
        for by_partition in [true, false] {
            let slots = Slots::new(AccumulatorSettings::default(), None, by_partition, 1 << 20);
            for count in 1..200 {
                slots.grow(count);
                assert_eq!(slots.count(), count);
                assert!(slots.get(count - 1).is_some() && slots.get(count).is_none(), "{count}");
            }
            let before: *const Slot = slots.get(150).unwrap();
            slots.grow(10_000);
            assert!(std::ptr::eq(before, slots.get(150).unwrap()) && slots.get(9_999).is_some());
        }
    }

    #[test]
    fn a_topic_collected_as_a_whole_has_one_accumulator_with_a_lane_for_each_partition() {
        let slots = Slots::new(AccumulatorSettings::default(), None, false, 1 << 20);
        slots.grow(3);
        slots.grow(5);
        let mut lanes = 0;
        slots.each(|accumulator| lanes += accumulator.lock().unwrap().lanes());
        assert_eq!(lanes, 5);
        assert_eq!(slots.accumulator(slots.get(4).unwrap(), 4).1, 4);
    }
}
