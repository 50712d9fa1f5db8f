//! [`Assigner`]: asks the partitioner, checks what it says, and falls back to the sticky partition.

use std::sync::Arc;

use super::{
    PartitionError, PartitionInput, Partitioner, Placement, PlacementSource, Sticky, TopicNotice, TopicView,
};

/// Decides the partition of every event of one topic. Cheap to clone; clones share the sticky partition.
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::partitioner::{Assigner, Murmur2, PartitionInput, Sticky, TopicLoad};
///
/// let assigner = Assigner::new(Murmur2, Sticky::new(1_000_000, 42));
/// let topic = TopicLoad::new(16);
/// let sea = assigner.partition(&PartitionInput::new("flights", Some(b"SEA"), None), &topic)?;
/// assert_eq!(sea, assigner.partition(&PartitionInput::new("flights", Some(b"SEA"), None), &topic)?);
/// # Ok::<_, kafka_batcher_core::partitioner::PartitionError>(())
/// ```
#[derive(Clone)]
pub struct Assigner {
    partitioner: Arc<dyn Partitioner>,
    sticky: Arc<Sticky>,
}

impl Assigner {
    /// Asks `partitioner`, and `sticky` for the events that it leaves open.
    pub fn new(partitioner: impl Partitioner + 'static, sticky: Sticky) -> Self {
        Self::shared(Arc::new(partitioner), sticky)
    }

    /// The same for a partitioner that is already shared.
    #[must_use]
    pub fn shared(partitioner: Arc<dyn Partitioner>, sticky: Sticky) -> Self {
        Self { partitioner, sticky: Arc::new(sticky) }
    }

    /// Step one, at acceptance: the placement, which does not depend on the number of partitions.
    ///
    /// # Errors
    /// [`PartitionError::Failed`], or what else the partitioner says.
    pub fn placement(&self, event: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
        self.partitioner.placement(event)
    }

    /// Step two, as soon as the topic is known: the partition of an event with this placement.
    ///
    /// # Errors
    /// [`PartitionError::CountUnknown`] while the view has no partitions; [`PartitionError::OutOfRange`] for a
    /// partition that does not exist; what a user's [`Partitioner::pick`] says.
    pub fn place(
        &self,
        placement: Placement,
        event: &PartitionInput<'_>,
        topic: &dyn TopicView,
    ) -> Result<i32, PartitionError> {
        let count = topic.partition_count();
        if count == 0 {
            return Err(PartitionError::CountUnknown { topic: event.topic.into() });
        }
        let partition = match placement {
            // Below the count, and no topic has more than i32::MAX partitions.
            Placement::Hash(hash) => (hash % count) as i32,
            Placement::Explicit(partition) => partition,
            Placement::Keyless => match self.partitioner.pick(event, topic)? {
                Some(partition) => partition,
                None => self.sticky.next(event.size, topic).unwrap_or(0),
            },
        };
        match u32::try_from(partition) {
            Ok(index) if index < count => Ok(partition),
            _ => Err(PartitionError::OutOfRange { topic: event.topic.into(), partition, count }),
        }
    }

    /// Both steps at once.
    ///
    /// # Errors
    /// Those of [`placement`](Self::placement) and [`place`](Self::place).
    pub fn partition(
        &self,
        event: &PartitionInput<'_>,
        topic: &dyn TopicView,
    ) -> Result<i32, PartitionError> {
        self.place(self.placement(event)?, event, topic)
    }

    /// Whether an event that waits for the topic can be placed from its stored record alone.
    #[must_use]
    pub fn source(&self) -> PlacementSource {
        self.partitioner.source()
    }

    /// Tells the partitioner and the sticky partition; cheap enough for under a partition's lock.
    pub fn observe(&self, notice: TopicNotice) {
        self.partitioner.observe(notice);
        self.sticky.observe(notice);
    }

    /// The name of the partitioner.
    #[must_use]
    pub fn name(&self) -> &str {
        self.partitioner.name()
    }
}

impl std::fmt::Debug for Assigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, sticky) = (self.partitioner.name(), &self.sticky);
        f.debug_struct("Assigner").field("partitioner", &name).field("sticky", sticky).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BoxError, Murmur2, PartitionFn, PartitionKey, RoundRobin, TopicLoad};
    use super::*;

    fn assigner(partitioner: impl Partitioner + 'static) -> Assigner {
        Assigner::new(partitioner, Sticky::new(1_000_000, 1))
    }

    fn event(key: Option<&'static [u8]>) -> PartitionInput<'static> {
        PartitionInput::new("flights", key, Some(b"value"))
    }

    /// Row 12 of the seed's defects: a partition function out of range crashed collector and caller.
    #[test]
    fn a_partition_out_of_range_is_an_error_of_that_event_alone() {
        let by_key = PartitionFn::new(|event| match event.key {
            Some(key) => PartitionKey::Explicit(i32::from(key[0]) - 1),
            None => PartitionKey::Explicit(i32::MIN),
        });
        let (assigner, topic) = (assigner(by_key), TopicLoad::new(3));
        assert_eq!(assigner.partition(&event(Some(&[1])), &topic).ok(), Some(0));
        for (key, partition) in [(Some(&[0u8][..]), -1), (Some(&[4]), 3), (None, i32::MIN)] {
            let error = assigner.partition(&event(key), &topic).expect_err("it does not exist");
            let message = error.to_string();
            assert!(
                matches!(error, PartitionError::OutOfRange { partition: p, count: 3, .. } if p == partition)
            );
            assert!(message.ends_with("does not exist: topic `flights` has partitions 0 to 2"), "{message}");
        }
        assert_eq!(assigner.partition(&event(Some(&[3])), &topic).ok(), Some(2));
    }

    #[test]
    fn a_strategy_of_the_users_own_that_picks_out_of_range_is_caught_too() {
        struct Wrong;
        impl Partitioner for Wrong {
            fn placement(&self, _: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
                Ok(Placement::Keyless)
            }
            fn pick(
                &self,
                _: &PartitionInput<'_>,
                topic: &dyn TopicView,
            ) -> Result<Option<i32>, PartitionError> {
                Ok(Some(topic.partition_count() as i32))
            }
        }
        let error =
            assigner(Wrong).partition(&event(None), &TopicLoad::new(3)).expect_err("it does not exist");
        assert!(matches!(error, PartitionError::OutOfRange { partition: 3, .. }));
    }

    #[test]
    fn a_closure_that_fails_says_why_and_harms_no_other_event() {
        let strict = PartitionFn::fallible(|event| match event.key {
            Some(key) => Ok(PartitionKey::Bytes(key)),
            None => Err(BoxError::from("an event without a key")),
        });
        let (assigner, topic) = (assigner(strict), TopicLoad::new(3));
        let error = assigner.partition(&event(None), &topic).expect_err("it fails");
        assert_eq!(error.to_string(), "the partitioner failed: an event without a key");
        assert!(assigner.partition(&event(Some(b"k")), &topic).is_ok());
    }

    #[test]
    fn the_placement_of_a_key_is_the_same_before_and_after_the_topic_is_known() {
        let assigner = assigner(Murmur2);
        let sea = event(Some(b"SEA"));
        let placement = assigner.placement(&sea).expect("keyed");
        let unknown = assigner.place(placement, &sea, &TopicLoad::new(0));
        assert!(matches!(unknown, Err(PartitionError::CountUnknown { .. })));
        for count in [1, 16, 200] {
            let topic = TopicLoad::new(count);
            let (late, direct) = (assigner.place(placement, &sea, &topic), assigner.partition(&sea, &topic));
            assert_eq!(late.ok(), direct.ok());
        }
    }

    #[test]
    fn an_event_without_a_key_goes_to_the_sticky_partition_until_a_seal() {
        let (assigner, topic) = (assigner(Murmur2), TopicLoad::new(1_000));
        let first = assigner.partition(&event(None), &topic).expect("placed");
        assert_eq!(assigner.partition(&event(None), &topic).ok(), Some(first));
        assigner.observe(TopicNotice::Sealed(first));
        assert_ne!(assigner.partition(&event(None), &topic).ok(), Some(first));
    }

    #[test]
    fn a_strategy_that_spreads_is_asked_before_the_sticky_partition() {
        let (assigner, topic) = (assigner(RoundRobin::new()), TopicLoad::new(3));
        let taken: Vec<_> = (0..4).map(|_| assigner.partition(&event(Some(b"k")), &topic).ok()).collect();
        assert_eq!(taken, [0, 1, 2, 0].map(Some));
    }
}
