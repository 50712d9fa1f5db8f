//! [`PartitionFn`]: a closure as partitioner; the Elixir library's `partition_fn`.

use super::{BoxError, KeyHash, PartitionError, PartitionInput, PartitionKey, Partitioner, Placement};

/// A partitioner made of a closure that answers a [`PartitionKey`].
///
/// The Elixir library's function was given the number of partitions and answered an index. This one is not, so that it can
/// answer while Kafka was never seen: where the old one said `rem(x, count)`, say [`PartitionKey::Hash`]`(x)`.
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::partitioner::{ErlangTerm, PartitionFn, PartitionKey};
///
/// // Of the Elixir library: `fn _topic, count, _key, value -> :erlang.phash2(value["client_id"], count) end`, here for values
/// // that are the number itself.
/// let by_client = PartitionFn::fallible(|event| {
///     let id: i128 = std::str::from_utf8(event.value.unwrap_or_default())?.trim().parse()?;
///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(PartitionKey::Hash(ErlangTerm::Integer(id).hash()))
/// });
///
/// // By a part of the key, hashed as the Java client hashes keys.
/// let by_prefix = PartitionFn::new(|event| match event.key {
///     Some(key) => PartitionKey::Bytes(key.get(..3).unwrap_or(key)),
///     None => PartitionKey::Keyless,
/// });
/// ```
pub struct PartitionFn {
    decide: Box<Decide>,
    hash: KeyHash,
}

type Decide = dyn for<'e> Fn(&PartitionInput<'e>) -> Result<PartitionKey<'e>, BoxError> + Send + Sync;

impl PartitionFn {
    /// A closure that always knows.
    pub fn new<F>(decide: F) -> Self
    where
        F: for<'e> Fn(&PartitionInput<'e>) -> PartitionKey<'e> + Send + Sync + 'static,
    {
        Self { decide: Box::new(move |event| Ok(decide(event))), hash: KeyHash::default() }
    }

    /// A closure that may fail; its error refuses that event alone.
    pub fn fallible<F, E>(decide: F) -> Self
    where
        F: for<'e> Fn(&PartitionInput<'e>) -> Result<PartitionKey<'e>, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        Self { decide: Box::new(move |event| decide(event).map_err(Into::into)), hash: KeyHash::default() }
    }

    /// How [`PartitionKey::Bytes`] is hashed; murmur2 unless told.
    #[must_use]
    pub fn hashed_by(mut self, hash: KeyHash) -> Self {
        self.hash = hash;
        self
    }
}

impl std::fmt::Debug for PartitionFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionFn").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Partitioner for PartitionFn {
    fn placement(&self, event: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
        let key = (self.decide)(event).map_err(PartitionError::failed)?;
        Ok(key.placement(self.hash))
    }

    fn name(&self) -> &str {
        "partition_fn"
    }
}
