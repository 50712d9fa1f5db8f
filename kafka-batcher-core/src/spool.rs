//! The words between the outbox and a storage: what is saved, under which numbers, and what is read back.
//!
//! A *position* names an event within a topic's log: a batch at position `p` with `n` events holds the positions
//! `p..p + n`, and no position is ever used twice. Positions of one partition ascend in the order of acceptance; those of
//! several partitions interleave.

use std::sync::Arc;

use crate::batch::{RecordBatch, Stamp};
use crate::delivery::TopicId;
use crate::error::DeliveryError;

/// A cluster's id, as its brokers say it; two clusters may give the same producer id to different producers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub Arc<str>);

/// Where numbers mean something: one topic of one cluster. `None`: not known when the numbers were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// The topic; all zero where the broker gives no ids.
    pub topic: TopicId,
}

/// The numbers of a batch, and where they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Producer id, epoch, sequence of the first event.
    pub stamp: Stamp,
    /// Where they mean something.
    pub origin: Origin,
}

/// A batch to be saved at its partition's tail.
#[derive(Clone, Debug)]
pub struct ToSave {
    /// The batch; its bytes carry the stamp of `numbers`, or none. Whose time its events have
    /// ([`RecordBatch::times_given`]) is no part of the bytes, and to be kept beside them.
    pub batch: RecordBatch,
    /// The numbers that it was, or is about to be, sent under; `None`: never sent.
    pub numbers: Option<Numbers>,
}

/// Saved events that got other numbers: durable before the first of them is sent under these (DESIGN.md, Delivery).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renumbered {
    /// Position of the first event.
    pub position: u64,
    /// How many events, within one saved batch.
    pub count: u32,
    /// The numbers.
    pub numbers: Numbers,
}

/// A batch as it is read back.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Position of its first event.
    pub position: u64,
    /// The batch: all events of one saved batch that have the same numbers.
    pub batch: RecordBatch,
    /// The latest numbers that it was saved with or renumbered to; the batch's own stamp may be older. `None`: never
    /// sent.
    pub numbers: Option<Numbers>,
    /// When it was handed to the storage, in milliseconds since the Unix epoch; a storage may round down to a tenth of a
    /// second. 0: not known.
    pub saved_ms: i64,
}

/// What was read back.
#[derive(Clone, Debug, Default)]
pub struct ReadBack {
    /// The batches, in order.
    pub batches: Vec<Stored>,
    /// Where to read on: every waiting event below has been given out, or was found damaged.
    pub next: u64,
    /// Events that were lost to damage on the way, and where: one line each.
    pub damage: Vec<(u64, String)>,
}

/// An event that Kafka will never take.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The event, as a batch of its own.
    pub batch: RecordBatch,
    /// Its position, if it was saved: it leaves a hole there.
    pub position: Option<u64>,
    /// Why.
    pub error: DeliveryError,
}

/// What a storage holds of a partition and nobody has committed or rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events.
    pub events: u64,
    /// Batches.
    pub batches: u64,
    /// Encoded bytes.
    pub bytes: u64,
    /// Position of the oldest of them; where nothing waits, the next to be given.
    pub first: u64,
    /// When the oldest of them was saved: see [`Stored::saved_ms`]. 0: not known, or nothing waits.
    pub oldest_ms: i64,
}

/// Why a storage could not do what it was asked. Nothing of what was asked happened then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No room: its own bound is reached, or the disk is full. The words say how much was to be written, how much is used
    /// and free, which bound it is, and what to do.
    #[error("the storage is full: {0}")]
    Full(String),
    /// The medium failed.
    #[error("the storage failed: {0}")]
    Failed(String),
}
