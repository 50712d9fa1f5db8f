//! Which partition an event goes to.
//!
//! The decision has two steps, because the number of partitions may be unknown when an event is accepted (Kafka
//! was never seen yet) and may have grown when it is placed:
//!
//! 1. at acceptance a [`Partitioner`] turns the event into a [`Placement`], which does **not** depend on the number
//!    of partitions: a hash to be reduced later, an explicit partition, or "no key";
//! 2. as soon as the topic is known, [`Assigner::place`] turns the placement into a partition: a hash modulo the
//!    count, an explicit number as it is, and an event without a key where the strategy or [`Sticky`] puts it.
//!
//! [`Assigner::partition`] does both at once, which is the hot path: no allocation, no lock except when the sticky
//! partition is switched (once in up to 64 KiB).
//!
//! It promises that a partition which does not exist is an error of that one event ([`PartitionError::OutOfRange`]),
//! never a panic and never another partition. It refuses to place anything while the count is unknown
//! ([`PartitionError::CountUnknown`]): such events belong in the topic's unassigned lane. It does not contain panics
//! of a user's partitioner; who calls it does.
//!
//! | Strategy | With a key | Without a key | Same as |
//! |---|---|---|---|
//! | [`Murmur2`] | murmur2, 31 bits, modulo count | sticky | the Java client's default |
//! | [`Crc32`] | CRC-32 modulo count | sticky; an empty key counts as none | librdkafka's `consistent_random` |
//! | [`Fnv1a`] | FNV-1a, absolute value, modulo count | sticky | librdkafka's `fnv1a_random`, Sarama's default |
//! | [`Phash2`] | `erlang:phash2(Key, Count)` | as the empty key | kafka_batcher's `:md5` |
//! | [`Sticky`] | key ignored | see there | KIP-794 |
//! | [`RoundRobin`] | key ignored | one after another | the Java client's `RoundRobinPartitioner` |
//! | [`Random`] | key ignored | drawn for each event | kafka_batcher's `:random` |
//! | [`PartitionFn`] | a closure decides | sticky | kafka_batcher's `partition_fn` |

mod assigner;
mod closure;
mod crc32;
mod keyed;
mod murmur2;
mod phash2;
mod spread;
mod sticky;
mod strategy;
mod topic_load;

pub use assigner::Assigner;
pub use closure::PartitionFn;
pub use keyed::{Crc32, Fnv1a, KeyHash, Murmur2, Phash2};
pub use phash2::ErlangTerm;
pub use spread::{Random, RoundRobin};
pub use sticky::{STICKY_SWITCH_BYTES, Sticky};
pub use strategy::{Strategy, UnknownStrategy, strategy_by_name};
pub use topic_load::TopicLoad;

/// What a user's code may fail with; boxed, so that any error type fits.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a partitioner sees of one event.
#[derive(Debug, Clone, Copy)]
pub struct PartitionInput<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The record key; `None` is a null key, which differs from an empty one.
    pub key: Option<&'a [u8]>,
    /// The record value; `None` is a null value (a tombstone).
    pub value: Option<&'a [u8]>,
    /// Bytes that the event adds to its batch; only [`Sticky`] counts them. [`PartitionInput::new`] sets key plus
    /// value, which is near enough where there are no headers.
    pub size: usize,
}

impl<'a> PartitionInput<'a> {
    /// An event of a topic, its size taken from key and value.
    #[must_use]
    pub fn new(topic: &'a str, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Self {
        let size = key.map_or(0, <[u8]>::len).saturating_add(value.map_or(0, <[u8]>::len));
        Self { topic, key, value, size }
    }

    /// The same event with its exact encoded size in bytes.
    #[must_use]
    pub fn with_size(mut self, bytes: usize) -> Self {
        self.size = bytes;
        self
    }
}

/// What a closure (or a typed collector) answers: by what the event is to be partitioned.
///
/// It never depends on the number of partitions, so that an event accepted before Kafka was seen can be placed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKey<'a> {
    /// Hash these bytes as a record key would be; events with the same bytes share a partition.
    Bytes(&'a [u8]),
    /// The result of a hash of the caller's own, reduced modulo the number of partitions.
    Hash(u32),
    /// This partition; one that does not exist is an error of this event.
    Explicit(i32),
    /// No preference: the sticky partition.
    Keyless,
}

impl PartitionKey<'_> {
    /// The placement that this key means when its bytes are hashed with `hash`.
    #[must_use]
    pub fn placement(self, hash: KeyHash) -> Placement {
        match self {
            Self::Bytes(bytes) => Placement::Hash(hash.hash(bytes)),
            Self::Hash(value) => Placement::Hash(value),
            Self::Explicit(partition) => Placement::Explicit(partition),
            Self::Keyless => Placement::Keyless,
        }
    }
}

/// Where an event belongs, before the number of partitions is known.
///
/// Small and owned, so that it can wait with the event in the unassigned lane; [`encode`](Self::encode) gives the
/// bytes for the lane's reserved header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The partition is this value modulo the number of partitions.
    Hash(u32),
    /// Exactly this partition.
    Explicit(i32),
    /// Anywhere: the strategy's own rule, else the sticky partition.
    Keyless,
}

impl Placement {
    /// Five bytes: a tag (0 keyless, 1 hash, 2 explicit), then the value, big-endian.
    #[must_use]
    pub fn encode(self) -> [u8; 5] {
        let (tag, [a, b, c, d]) = match self {
            Self::Keyless => (0, [0; 4]),
            Self::Hash(hash) => (1, hash.to_be_bytes()),
            Self::Explicit(partition) => (2, partition.to_be_bytes()),
        };
        [tag, a, b, c, d]
    }

    /// The reverse of [`encode`](Self::encode); `None` for bytes that it never writes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [0, 0, 0, 0, 0] => Some(Self::Keyless),
            [1, a, b, c, d] => Some(Self::Hash(u32::from_be_bytes([a, b, c, d]))),
            [2, a, b, c, d] => Some(Self::Explicit(i32::from_be_bytes([a, b, c, d]))),
            _ => None,
        }
    }
}

/// From what a partitioner derives its placements; the unassigned lane needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementSource {
    /// From the record key alone (or from nothing of the event): the placement can be derived again from the stored
    /// record, nothing has to be kept with it.
    RecordKey,
    /// From anything else: the placement is kept with the event until it is placed.
    WholeEvent,
}

/// What happened to the topic that a partitioner may want to react to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicNotice {
    /// The open batch of this partition was sealed.
    Sealed(i32),
    /// All open batches of the topic were sealed together (`collect_by_partition = false`).
    TopicSealed,
    /// This partition has no leader any more.
    LeaderLost(i32),
}

/// What a partitioner may ask about the topic while it places an event without a key.
///
/// Every answer is a snapshot; it may be old by the time it is used. Implementations only read atomics: they are
/// called once per event (`partition_count`) or once per partition at a sticky switch (the others).
pub trait TopicView: Sync {
    /// Number of partitions; 0 while it is unknown.
    fn partition_count(&self) -> u32;
    /// Whether the partition has a leader. `false` for a partition that does not exist.
    fn is_available(&self, partition: i32) -> bool;
    /// Bytes that wait or are in flight for the partition. 0 for a partition that does not exist.
    fn queued_bytes(&self, partition: i32) -> u64;
}

/// Chooses partitions; one of the five seams that users may fill.
///
/// [`placement`](Self::placement) is called for every event that names no partition itself, by the thread that adds
/// the event and outside any lock. It must be quick, and it must not depend on the number of partitions.
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::partitioner::{PartitionError, PartitionInput, Partitioner, Placement};
///
/// /// Keys look like `<tenant>/<id>`; a tenant's events stay together.
/// struct ByTenant;
///
/// impl Partitioner for ByTenant {
///     fn placement(&self, event: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
///         let key = event.key.ok_or_else(|| PartitionError::failed("every event needs a key"))?;
///         let tenant = key.split(|byte| *byte == b'/').next().unwrap_or(key);
///         Ok(Placement::Hash(kafka_batcher_core::partitioner::KeyHash::Murmur2.hash(tenant)))
///     }
/// }
/// # let event = PartitionInput::new("t", None, None);
/// # assert!(ByTenant.placement(&event).is_err());
/// ```
pub trait Partitioner: Send + Sync {
    /// The event's placement, independent of the number of partitions.
    ///
    /// # Errors
    /// Whatever the partitioner cannot decide: the event is refused with this error, its neighbours are unharmed.
    fn placement(&self, event: &PartitionInput<'_>) -> Result<Placement, PartitionError>;

    /// The partition of an event whose placement is [`Placement::Keyless`], now that the topic is known.
    ///
    /// `Ok(None)`, the default, leaves it to [`Sticky`]. The answer is checked against the count.
    ///
    /// # Errors
    /// As [`placement`](Self::placement): for this event alone.
    fn pick(&self, event: &PartitionInput<'_>, topic: &dyn TopicView) -> Result<Option<i32>, PartitionError> {
        let _ = (event, topic);
        Ok(None)
    }

    /// From what the placements are derived; the default, [`PlacementSource::WholeEvent`], is always right.
    fn source(&self) -> PlacementSource {
        PlacementSource::WholeEvent
    }

    /// Told about seals and lost leaders, under the partition's lock: note it and return.
    fn observe(&self, notice: TopicNotice) {
        let _ = notice;
    }

    /// The name shown in the effective configuration.
    fn name(&self) -> &str {
        "custom"
    }
}

/// Why an event got no partition. It was not accepted, and nothing else was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The partition does not exist.
    #[error("partition {partition} does not exist: topic `{topic}` has partitions 0 to {}", .count.saturating_sub(1))]
    OutOfRange {
        /// The topic.
        topic: Box<str>,
        /// What the record or the partitioner named.
        partition: i32,
        /// How many partitions the topic has; at least 1.
        count: u32,
    },
    /// The number of partitions is not known yet: the event belongs in the unassigned lane.
    #[error("the number of partitions of topic `{topic}` is not known yet")]
    CountUnknown {
        /// The topic.
        topic: Box<str>,
    },
    /// The partitioner could not decide.
    #[error("the partitioner failed: {source}")]
    Failed {
        /// What it said.
        source: BoxError,
    },
}

impl PartitionError {
    /// A failure of a partitioner, from any error or message.
    pub fn failed(source: impl Into<BoxError>) -> Self {
        Self::Failed { source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_survives_its_header_encoding() {
        for placement in [
            Placement::Keyless,
            Placement::Hash(0),
            Placement::Hash(u32::MAX),
            Placement::Explicit(0),
            Placement::Explicit(-1),
            Placement::Explicit(i32::MAX),
        ] {
            assert_eq!(Placement::decode(&placement.encode()), Some(placement));
        }
    }

    #[test]
    fn bytes_that_are_no_placement_are_refused() {
        for bytes in [&b""[..], &[0], &[1, 2, 3, 4], &[1, 2, 3, 4, 5, 6], &[3, 0, 0, 0, 0], &[0, 0, 0, 0, 1]]
        {
            assert_eq!(Placement::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_size_of_an_event_is_key_plus_value_unless_told() {
        let event = PartitionInput::new("t", Some(b"abc"), Some(b"defg"));
        assert_eq!(event.size, 7);
        assert_eq!(event.with_size(100).size, 100);
        assert_eq!(PartitionInput::new("t", None, None).size, 0);
    }
}
