//! The sticky partition of KIP-794: events without a key stay on one partition until a batch's worth of them is there.
//!
//! It leaves the partition when its batch is sealed (or, in topic mode, when the topic's are), when it lost its leader,
//! or after [`STICKY_SWITCH_BYTES`], and goes to one drawn by inverse queued bytes: with queues of 0, 3 and 1 bytes,
//! the weights are 4, 1 and 3 (Kafka's `BuiltInPartitioner`, which counts batches instead of bytes). A broker that
//! falls behind so gets less. Partitions without a leader are never drawn, unless none has one.
//!
//! Cost: one `fetch_add` per event. The partition and the bytes it has got lie in one atomic word, so they are read
//! and counted by the same instruction; a lock is taken by those few who find the partition due for a switch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{
    PartitionError, PartitionInput, Partitioner, Placement, PlacementSource, TopicNotice, TopicView,
};
use crate::rng::SplitMix64;

/// Bytes after which the sticky partition is left even if nothing was sealed.
///
/// With batches of up to 1 MB, waiting for a full batch would keep every thread on one partition's lock and one
/// broker; with less than this, batches of a loaded topic would go out in fragments.
pub const STICKY_SWITCH_BYTES: usize = 64 * 1024;

/// A draw table serves up to `partitions / 64` draws: a rebuild visits every partition, so a draw costs at most 64
/// visits (some hundred nanoseconds) however many partitions there are. Longer, and queues would be seen too late.
const VISITS_PER_DRAW: usize = 64;

/// The sticky partition of one topic, shared by all who add events to it. As a [`Partitioner`] it ignores keys.
#[derive(Debug)]
pub struct Sticky {
    /// The current partition in the upper half, the bytes that went to it in the lower. The bytes at or above
    /// `switch_after` mean: leave. They cannot run into the upper half: each adds at most `switch_after` (2^16), and
    /// only those who wait for `draw` add to a partition that is due, so it would take 2^16 of them.
    state: AtomicU64,
    switch_after: u32,
    /// Guards the writing of a new partition into `state`.
    draw: Mutex<Draw>,
}

impl Sticky {
    /// A sticky partition that is left after the smaller of `max_batch_bytesize` and [`STICKY_SWITCH_BYTES`], drawing
    /// from the given seed.
    #[must_use]
    pub fn new(max_batch_bytesize: usize, seed: u64) -> Self {
        let switch_after = max_batch_bytesize.clamp(1, STICKY_SWITCH_BYTES) as u32;
        // Due from the start: the first event draws the first partition.
        let state = AtomicU64::new(u64::from(switch_after));
        Self { state, switch_after, draw: Mutex::new(Draw::new(seed)) }
    }

    /// The partition for an event of `size` bytes; `None` while the topic's partitions are unknown.
    #[must_use]
    pub fn next(&self, size: usize, topic: &dyn TopicView) -> Option<i32> {
        let count = topic.partition_count();
        if count == 0 {
            return None;
        }
        let bytes = self.countable(size);
        let seen = self.state.fetch_add(bytes, Ordering::Relaxed);
        if self.is_current(seen, count) {
            return Some(partition_of(seen));
        }
        Some(self.switch(bytes, count, topic))
    }

    /// Leaves `partition` if it is the current one: the next event draws.
    pub fn leave(&self, partition: i32) {
        let mut seen = self.state.load(Ordering::Relaxed);
        // A compare-exchange, since between the load and the write somebody may have switched, and the new partition
        // has done nothing to be left for.
        while partition_of(seen) == partition && bytes_of(seen) < self.switch_after {
            let due = seen + u64::from(self.switch_after);
            match self.state.compare_exchange_weak(seen, due, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Leaves whichever partition is current.
    pub fn leave_any(&self) {
        self.leave(partition_of(self.state.load(Ordering::Relaxed)));
    }

    #[cold]
    fn switch(&self, bytes: u64, count: u32, topic: &dyn TopicView) -> i32 {
        let mut draw = self.draw.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have switched while we waited for the lock; then our bytes were counted for the partition that
        // was left, and are counted again for the one we join.
        let seen = self.state.load(Ordering::Relaxed);
        if self.is_current(seen, count) {
            let joined = self.state.fetch_add(bytes, Ordering::Relaxed);
            if self.is_current(joined, count) {
                return partition_of(joined);
            }
        }
        let partition = draw.next(topic);
        // What others add between our load and this store is lost with the old partition: they saw it due, so they
        // come here next, and count again.
        self.state.store((u64::from(partition as u32) << 32) | bytes, Ordering::Relaxed);
        partition
    }

    fn is_current(&self, state: u64, count: u32) -> bool {
        bytes_of(state) < self.switch_after && (state >> 32) < u64::from(count)
    }

    /// An event counts at least 1, so that a stream of empty events moves on, too.
    fn countable(&self, size: usize) -> u64 {
        size.clamp(1, self.switch_after as usize) as u64
    }
}

fn partition_of(state: u64) -> i32 {
    (state >> 32) as i32
}

fn bytes_of(state: u64) -> u32 {
    state as u32
}

impl Partitioner for Sticky {
    fn placement(&self, _event: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
        Ok(Placement::Keyless)
    }

    fn pick(&self, event: &PartitionInput<'_>, topic: &dyn TopicView) -> Result<Option<i32>, PartitionError> {
        Ok(self.next(event.size, topic))
    }

    fn source(&self) -> PlacementSource {
        PlacementSource::RecordKey
    }

    fn observe(&self, notice: TopicNotice) {
        match notice {
            TopicNotice::Sealed(partition) | TopicNotice::LeaderLost(partition) => self.leave(partition),
            TopicNotice::TopicSealed => self.leave_any(),
        }
    }

    fn name(&self) -> &str {
        "sticky"
    }
}

/// The cumulative-frequency table and the generator that draws from it.
#[derive(Debug)]
struct Draw {
    rng: SplitMix64,
    /// Ascending; entry `i` is the sum of the weights of `partitions[..=i]`.
    cumulative: Vec<u64>,
    /// The partitions that had a leader when the table was built.
    partitions: Vec<i32>,
    /// The partition count that the table was built for.
    count: u32,
    draws_left: usize,
}

impl Draw {
    fn new(seed: u64) -> Self {
        let (cumulative, partitions) = (Vec::new(), Vec::new());
        Self { rng: SplitMix64::new(seed), cumulative, partitions, count: 0, draws_left: 0 }
    }

    fn next(&mut self, topic: &dyn TopicView) -> i32 {
        let count = topic.partition_count();
        if self.draws_left > 0 && self.count == count {
            self.draws_left -= 1;
            // The table may be a few draws old: a partition that lost its leader since then calls for a new one.
            if let Some(partition) = self.pick().filter(|partition| topic.is_available(*partition)) {
                return partition;
            }
        }
        self.rebuild(count, topic);
        match self.pick() {
            Some(partition) => partition,
            // Nobody leads anything: any partition is as good, as in Kafka.
            None => self.rng.below(u64::from(count)) as i32,
        }
    }

    /// A partition with the probability of its weight; `None` from an empty table.
    fn pick(&mut self) -> Option<i32> {
        let total = *self.cumulative.last()?;
        let drawn = self.rng.below(total);
        let index = self.cumulative.partition_point(|sum| *sum <= drawn);
        self.partitions.get(index).copied()
    }

    fn rebuild(&mut self, count: u32, topic: &dyn TopicView) {
        self.draws_left = 0;
        self.cumulative.clear();
        self.partitions.clear();
        // No sum of weights exceeds u64 whatever a view says.
        let most = u64::MAX / u64::from(count.max(1)) - 1;
        let mut longest = 0;
        for partition in 0..i32::try_from(count).unwrap_or(i32::MAX) {
            if topic.is_available(partition) {
                let queued = topic.queued_bytes(partition).min(most);
                longest = longest.max(queued);
                self.partitions.push(partition);
                self.cumulative.push(queued);
            }
        }
        let mut sum = 0;
        for entry in &mut self.cumulative {
            sum += longest + 1 - *entry;
            *entry = sum;
        }
        self.count = count;
        self.draws_left = self.partitions.len() / VISITS_PER_DRAW;
    }
}

#[cfg(test)]
mod tests {
    use super::super::TopicLoad;
    use super::*;

    const BATCH: usize = 1_000;

    fn topic_with_queues(queues: &[u64]) -> TopicLoad {
        let topic = TopicLoad::new(queues.len() as u32);
        for (partition, queued) in queues.iter().enumerate() {
            topic.set_queued_bytes(partition as i32, *queued);
        }
        topic
    }

    /// How often each partition is drawn, by events so large that each one switches.
    fn draws(sticky: &Sticky, topic: &TopicLoad, events: usize) -> Vec<usize> {
        let mut drawn = vec![0; topic.partition_count() as usize];
        for _ in 0..events {
            let partition = sticky.next(BATCH, topic).expect("the count is known");
            drawn[partition as usize] += 1;
        }
        drawn
    }

    /// Four standard deviations around the expected share; the seed is fixed, so it passes always or never.
    fn assert_share(drawn: usize, events: usize, share: f64) {
        let expected = events as f64 * share;
        let deviation = (events as f64 * share * (1.0 - share)).sqrt();
        assert!(
            (drawn as f64 - expected).abs() < 4.0 * deviation,
            "{drawn} of {events}, expected {expected}"
        );
    }

    /// The example in the comments of Kafka's `BuiltInPartitioner`.
    #[test]
    fn the_draw_table_of_queues_0_3_1_is_4_5_8() {
        let mut draw = Draw::new(1);
        draw.rebuild(3, &topic_with_queues(&[0, 3, 1]));
        assert_eq!(draw.cumulative, [4, 5, 8]);
    }

    #[test]
    fn partitions_are_drawn_by_inverse_queued_bytes() {
        let events = 80_000;
        let drawn = draws(&Sticky::new(BATCH, 42), &topic_with_queues(&[0, 3, 1]), events);
        for (drawn, weight) in drawn.into_iter().zip([4.0, 1.0, 3.0]) {
            assert_share(drawn, events, weight / 8.0);
        }
    }

    #[test]
    fn equal_queues_are_drawn_equally_however_many_partitions_there_are() {
        for count in [1, 2, 16, 200, 1_000] {
            let events = 200_000;
            let drawn = draws(&Sticky::new(BATCH, 7), &topic_with_queues(&vec![5_000; count]), events);
            let chi_square: f64 = drawn
                .iter()
                .map(|drawn| {
                    (*drawn as f64 - events as f64 / count as f64).powi(2) / (events as f64 / count as f64)
                })
                .sum();
            // Mean count - 1, variance 2 (count - 1).
            let freedom = count as f64 - 1.0;
            assert!(chi_square <= freedom + 5.0 * (2.0 * freedom).sqrt(), "{count}: {chi_square}");
        }
    }

    #[test]
    fn a_partition_without_leader_is_never_drawn_unless_none_has_one() {
        let topic = topic_with_queues(&[0, 0, 900, 0]);
        topic.set_available(0, false);
        topic.set_available(3, false);
        let sticky = Sticky::new(BATCH, 1);
        let drawn = draws(&sticky, &topic, 10_000);
        assert_eq!((drawn[0], drawn[3]), (0, 0));
        assert_share(drawn[2], 10_000, 1.0 / 902.0);

        topic.set_available(1, false);
        topic.set_available(2, false);
        let drawn = draws(&sticky, &topic, 10_000);
        assert!(drawn.iter().all(|drawn| *drawn > 2_000), "{drawn:?}");
    }

    #[test]
    fn a_leader_lost_while_the_draw_table_is_in_use_is_not_drawn_from_it() {
        let topic = topic_with_queues(&[0; 640]);
        let sticky = Sticky::new(BATCH, 3);
        draws(&sticky, &topic, 1);
        for partition in 0..639 {
            topic.set_available(partition, false);
        }
        assert_eq!(draws(&sticky, &topic, 20)[639], 20);
    }

    #[test]
    fn events_stay_on_one_partition_until_its_bytes_are_reached() {
        let topic = topic_with_queues(&[0; 1_000]);
        let sticky = Sticky::new(BATCH, 5);
        let mut runs = vec![(sticky.next(100, &topic).expect("known"), 1)];
        for _ in 1..10_000 {
            let partition = sticky.next(100, &topic).expect("known");
            match runs.last_mut() {
                Some((current, events)) if *current == partition => *events += 1,
                _ => runs.push((partition, 1)),
            }
        }
        runs.pop();
        // The same partition drawn twice in a row makes a double run; one in 1 000.
        assert!(runs.iter().all(|(_, events)| events % 10 == 0), "{runs:?}");
        assert!(runs.len() > 950);
    }

    #[test]
    fn large_batches_do_not_hold_it_beyond_64_kib() {
        let sticky = Sticky::new(1_000_000, 5);
        assert_eq!(sticky.switch_after as usize, STICKY_SWITCH_BYTES);
        assert_eq!(Sticky::new(0, 5).switch_after, 1);
    }

    #[test]
    fn a_seal_of_the_current_partition_switches_and_one_of_another_does_not() {
        let topic = topic_with_queues(&[0; 1_000]);
        let sticky = Sticky::new(BATCH, 11);
        let first = sticky.next(1, &topic).expect("known");
        sticky.observe(TopicNotice::Sealed((first + 1) % 1_000));
        assert_eq!(sticky.next(1, &topic), Some(first));
        sticky.observe(TopicNotice::Sealed(first));
        let second = sticky.next(1, &topic).expect("known");
        assert_ne!(second, first);
        // Again for the partition that was left: the new one stays.
        sticky.observe(TopicNotice::Sealed(first));
        assert_eq!(sticky.next(1, &topic), Some(second));
        sticky.observe(TopicNotice::LeaderLost(second));
        let third = sticky.next(1, &topic).expect("known");
        assert_ne!(third, second);
    }

    #[test]
    fn in_topic_mode_every_seal_switches() {
        let topic = topic_with_queues(&[0; 1_000]);
        let sticky = Sticky::new(BATCH, 13);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            seen.insert(sticky.next(1, &topic).expect("known"));
            sticky.observe(TopicNotice::TopicSealed);
            sticky.observe(TopicNotice::TopicSealed);
        }
        assert!(seen.len() > 40, "{seen:?}");
    }

    #[test]
    fn a_topic_that_grows_is_drawn_from_whole_and_one_that_shrinks_is_never_overrun() {
        let sticky = Sticky::new(BATCH, 17);
        let drawn = draws(&sticky, &topic_with_queues(&[0; 200]), 1_000);
        assert!(drawn[100..].iter().sum::<usize>() > 0);
        // A topic deleted and made anew, while the sticky partition is one of the old and far from due.
        sticky.leave_any();
        assert!(sticky.next(1, &topic_with_queues(&[0; 200])).is_some_and(|partition| partition >= 2));
        let small = topic_with_queues(&[0; 2]);
        for _ in 0..100 {
            assert!(sticky.next(1, &small).is_some_and(|partition| partition < 2));
        }
        assert_eq!(sticky.next(1, &topic_with_queues(&[])), None);
    }

    #[test]
    fn absurd_queue_lengths_do_not_overflow() {
        let topic = topic_with_queues(&[u64::MAX, u64::MAX, 0]);
        let drawn = draws(&Sticky::new(BATCH, 19), &topic, 10_000);
        assert_eq!(drawn, [0, 0, 10_000]);
    }

    #[test]
    fn the_same_seed_gives_the_same_partitions() {
        let topic = topic_with_queues(&[0, 10, 20, 30]);
        let run = |seed| {
            let sticky = Sticky::new(BATCH, seed);
            (0..100).map(|_| sticky.next(BATCH, &topic)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
