//! The bytes and the decisions of [kafka-batcher](https://docs.rs/kafka-batcher), without a clock, I/O or a runtime.
//!
//! Everything in here is a value that is told what happened and says what to do next: time comes in as an argument,
//! deadlines go out as values, so that every rule is tested in virtual time, and any runtime could drive it. That
//! promise is checked: `clippy.toml` of this crate disallows clocks, sleeps, threads, files and sockets.
//!
//! The map, along the path of an event:
//!
//! - [`Record`]: one event, borrowed from the caller;
//! - [`partitioner`]: which partition it goes to; [`flusher`]: whether it must go at once; [`Interceptor`]: what
//!   headers it gets;
//! - [`BufferPool`]: the memory bound, in bytes;
//! - [`Accumulator`]: when a batch is ready;
//! - [`RecordBatch`]: Kafka's record batch, the memory, wire and disk format in one; [`Compressor`]: makes it smaller;
//! - [`ErrorCode`]: every error of the protocol, classed once;
//! - [`wire`]: Kafka's requests and answers as bytes;
//! - [`Backoff`]: how long to wait before trying again;
//! - [`Completion`]: how an outcome reaches a receipt;
//! - [`Stored`], [`ToSave`], [`Numbers`]: the words between the outbox and a storage.

// But for one instruction: prefetch.rs.
#![deny(unsafe_code)]

mod accumulator;
mod backoff;
mod batch;
mod buffer_pool;
mod completion;
mod delivery;
mod error;
mod error_code;
pub mod flusher;
mod interceptor;
#[doc(hidden)]
pub mod nearest;
mod outbox;
pub mod partitioner;
mod prefetch;
mod record;
mod rng;
mod spool;
mod time;
mod varint;
pub mod wire;

pub use accumulator::{
    Accumulator, AccumulatorSettings, FillEstimate, FlushReason, Offer, PushError, Pushed, Ready, Sealed,
};
pub use backoff::{Backoff, BackoffSettings, BackoffSettingsError};
pub use batch::{
    Codec, Compression, CompressionError, Compressor, Fitted, HEADER_LEN, MAX_UNCOMPRESSED, OwnedHeader,
    OwnedRecord, Place, RecordBatch, Regrouped, Stamp, sequence_add,
};
pub use buffer_pool::{Acquire, BufferPool, Chunk, MAX_CHUNK, MIN_CHUNK, Share};
pub use completion::{Completion, Durable, Outcome, Span, Spans};
pub use delivery::{Leader, ProduceAnswer, ProduceResult, ProducerIdentity, ProducerState, Refusal, TopicId};
pub use error::{DecodeError, DeliveryError, FailureReason, Persisted, RecordError};
pub use error_code::{ErrorClass, ErrorCode};
pub use interceptor::{AddedHeaders, Interceptor};
pub use outbox::{
    Action, OnExpiredTimestamp, OnFull, Outbox, OutboxEvent, OutboxSettings, SpoolMode, SpoolSettings, Tally,
    Trouble,
};
pub use record::{Header, Record, TopicPartition};
pub use spool::{
    Backlog, ClusterId, DeadLetter, Numbers, Origin, ReadBack, Renumbered, StorageError, Stored, ToSave,
};
pub use time::Time;
