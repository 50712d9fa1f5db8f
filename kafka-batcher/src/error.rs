//! One error type for each thing a caller can ask for.

use std::fmt;
use std::time::Duration;

use kafka_batcher_core::flusher::FlushError;
use kafka_batcher_core::partitioner::PartitionError;
use kafka_batcher_core::{DeliveryError, RecordError, StorageError};

use crate::config::BadConfigError;

/// Why an event was not accepted. It is not in any batch; events before and after it are unharmed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The event can never be sent: it alone would be larger than `max_batch_bytesize`.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Memory is full: the broker takes less than is produced, or nothing. From `try_add_event`: now; from
    /// `add_event`: for `max_block`, unless the spool is full and callers are not to wait for it (`OnFull::Reject`).
    #[error(
        "memory is full ({used} of {limit} bytes): Kafka takes less than is produced{}; try again later, \
         or raise `memory`", Waited(*.waited)
    )]
    Full {
        /// Bytes held by events.
        used: usize,
        /// The bound.
        limit: usize,
        /// How long the caller waited, to the millisecond.
        waited: Duration,
    },
    /// The batcher was shut down.
    #[error("the batcher has been shut down; no event is accepted any more")]
    Closed,
    /// The collector cannot go on; [`TopicHealth::Failed`](crate::TopicHealth::Failed). Start the process again.
    #[error("the collector has failed, and accepts no event any more: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// The partitioner failed for this event, or chose a partition that does not exist.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The flusher failed for this event.
    #[error("the flusher failed for this event: {0}")]
    Flusher(#[source] FlushError),
    /// The event could not be encoded.
    #[error("the event could not be encoded: {0}")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A partitioner, flusher, encoder or interceptor of the user's panicked for this event.
    #[error("the {what} panicked for this event: {message}")]
    Panicked {
        /// "partitioner", "flusher", "encoder" or "interceptor".
        what: &'static str,
        /// The panic's message.
        message: String,
    },
}

struct Waited(Duration);

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() { Ok(()) } else { write!(f, ", for {:?} already", self.0) }
    }
}

/// Why a receipt did not resolve to a delivery.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// This process will not deliver the event, or nobody knows whether it was delivered. With
    /// [`FailureReason::Spooled`](crate::FailureReason::Spooled) it is safe in the spool, and the next process delivers it.
    #[error(transparent)]
    Failed(#[from] DeliveryError),
    /// The topic has `required_acks = 0`: nobody acknowledges, so nothing is ever known to be durable.
    #[error("required_acks is 0: the broker acknowledges nothing, so the event is not known to be durable")]
    NotAcknowledged,
}

/// Why a batcher or a collector could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Settings that cannot be; all of them.
    #[error(transparent)]
    BadConfig(#[from] BadConfigError),
    /// There is a collector of that topic already.
    #[error("topic {0:?} has a collector already; clone that one")]
    DuplicateCollector(String),
    /// The batcher was shut down.
    #[error("the batcher has been shut down")]
    Closed,
    /// [`Builder::start`](crate::Builder::start) needs to be called within a tokio runtime.
    #[error("no tokio runtime here; call this from within one, or use `start_blocking`")]
    NoRuntime,
    /// The spool's directory cannot be used: another process has it, a newer version wrote it, or the disk fails.
    #[error("the spool cannot be used: {0}")]
    Spool(#[source] StorageError),
    /// The registry refuses the metrics: another batcher of this process has registered its own there under the same prefix.
    #[error("the metrics cannot be registered: {0}; give each batcher a registry or a prefix of its own")]
    Metrics(String),
    /// The thread of `start_blocking` could not be started.
    #[error("the batcher's own thread could not be started: {0}")]
    Thread(String),
}
