//! The strategies that ignore the key and choose anew for each event: round robin and random.
//!
//! Both spoil batching (every partition gets a small batch, where [`Sticky`](super::Sticky) fills one); they are here
//! because the Elixir library and the Java client have them. Both skip partitions without a leader while any other has one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{PartitionError, PartitionInput, Partitioner, Placement, PlacementSource, TopicView};
use crate::rng::SharedSplitMix64;

/// One partition after another, as the Java client's `RoundRobinPartitioner`.
#[derive(Debug, Default)]
pub struct RoundRobin {
    ticket: AtomicU64,
}

impl RoundRobin {
    /// Begins at partition 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins anywhere: many short-lived processes that all began at 0 would load the first partitions most.
    #[must_use]
    pub fn starting_at(ticket: u64) -> Self {
        Self { ticket: AtomicU64::new(ticket) }
    }

    fn next(&self, topic: &dyn TopicView) -> Option<i32> {
        let count = topic.partition_count();
        let take = || (self.ticket.fetch_add(1, Ordering::Relaxed) % u64::from(count)) as i32;
        if count == 0 {
            return None;
        }
        let first = take();
        let mut partition = first;
        // A partition without a leader costs its ticket instead of giving its turn to its neighbour, which would get
        // twice its share.
        for _ in 0..count {
            if topic.is_available(partition) {
                return Some(partition);
            }
            partition = take();
        }
        Some(first)
    }
}

impl Partitioner for RoundRobin {
    fn placement(&self, _event: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
        Ok(Placement::Keyless)
    }

    fn pick(
        &self,
        _event: &PartitionInput<'_>,
        topic: &dyn TopicView,
    ) -> Result<Option<i32>, PartitionError> {
        Ok(self.next(topic))
    }

    fn source(&self) -> PlacementSource {
        PlacementSource::RecordKey
    }

    fn name(&self) -> &str {
        "round_robin"
    }
}

/// A partition drawn for each event: the Elixir library's `:random`.
#[derive(Debug)]
pub struct Random {
    rng: SharedSplitMix64,
}

impl Random {
    /// Draws from the given seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: SharedSplitMix64::new(seed) }
    }

    fn next(&self, topic: &dyn TopicView) -> Option<i32> {
        let count = topic.partition_count();
        if count == 0 {
            return None;
        }
        let first = self.rng.below(u64::from(count)) as i32;
        if topic.is_available(first) {
            return Some(first);
        }
        // Uniform among those that have a leader.
        let all = || 0..i32::try_from(count).unwrap_or(i32::MAX);
        let available = all().filter(|partition| topic.is_available(*partition)).count();
        let chosen = self.rng.below(available as u64) as usize;
        Some(all().filter(|partition| topic.is_available(*partition)).nth(chosen).unwrap_or(first))
    }
}

impl Partitioner for Random {
    fn placement(&self, _event: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
        Ok(Placement::Keyless)
    }

    fn pick(
        &self,
        _event: &PartitionInput<'_>,
        topic: &dyn TopicView,
    ) -> Result<Option<i32>, PartitionError> {
        Ok(self.next(topic))
    }

    fn source(&self) -> PlacementSource {
        PlacementSource::RecordKey
    }

    fn name(&self) -> &str {
        "random"
    }
}

#[cfg(test)]
mod tests {
    use super::super::TopicLoad;
    use super::*;

    #[test]
    fn round_robin_takes_every_partition_in_turn() {
        let topic = TopicLoad::new(3);
        let strategy = RoundRobin::new();
        let taken: Vec<_> = (0..7).map(|_| strategy.next(&topic)).collect();
        assert_eq!(taken, [0, 1, 2, 0, 1, 2, 0].map(Some));
        assert_eq!(RoundRobin::starting_at(5).next(&topic), Some(2));
    }

    #[test]
    fn round_robin_shares_the_turns_of_a_leaderless_partition_among_all() {
        let topic = TopicLoad::new(4);
        topic.set_available(1, false);
        let strategy = RoundRobin::new();
        let mut taken = [0; 4];
        for _ in 0..300 {
            taken[strategy.next(&topic).expect("known") as usize] += 1;
        }
        assert_eq!(taken, [100, 0, 100, 100]);
    }

    #[test]
    fn with_no_leader_anywhere_round_robin_still_takes_turns_and_random_still_draws() {
        let topic = TopicLoad::new(3);
        (0..3).for_each(|partition| topic.set_available(partition, false));
        let strategy = RoundRobin::new();
        assert!(strategy.next(&topic).is_some_and(|partition| partition < 3));
        assert!(Random::new(1).next(&topic).is_some_and(|partition| partition < 3));
    }

    #[test]
    fn random_draws_evenly_from_the_partitions_that_have_a_leader() {
        let topic = TopicLoad::new(5);
        topic.set_available(2, false);
        let strategy = Random::new(99);
        let mut drawn = [0i32; 5];
        for _ in 0..40_000 {
            drawn[strategy.next(&topic).expect("known") as usize] += 1;
        }
        assert_eq!(drawn[2], 0);
        for partition in [0, 1, 3, 4] {
            // 10 000 expected, standard deviation 87; the seed is fixed.
            assert!((drawn[partition] - 10_000).abs() < 350, "{drawn:?}");
        }
    }

    #[test]
    fn nothing_is_placed_while_the_count_is_unknown() {
        let topic = TopicLoad::new(0);
        assert_eq!(RoundRobin::new().next(&topic), None);
        assert_eq!(Random::new(1).next(&topic), None);
    }
}
