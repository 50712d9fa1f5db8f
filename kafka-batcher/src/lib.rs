//! Batches events for Kafka: accumulates them per partition, sends them, keeps their order, accounts for every one.
//!
//! Applications emit events one at a time; Kafka is fast only with batches. A [`Collector`] takes events one at a time
//! and copies each once, into its place in the batch that goes on the wire; a batch is sent when it has enough events
//! or bytes, when its oldest event has waited long enough, or when somebody says so; and while Kafka is down, slow or
//! refuses, events wait in order: on disk, where a directory is given, else in memory up to a bound.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use kafka_batcher::KafkaBatcher;
//!
//! let batcher = KafkaBatcher::builder(["127.0.0.1:9092"]).start().await?;
//! let flights = batcher.collector("flights").build()?;
//!
//! flights.add_event(("SEA", r#"{"delay":66}"#)).await?;               // accepted: in memory, in order
//! let receipt = flights.send(("SEA", r#"{"delay":-5}"#)).await?;      // the same, with a claim on the outcome
//! let place = receipt.delivered().await?;                             // in Kafka
//! println!("partition {}, offset {:?}", place.partition, place.offset);
//!
//! let report = batcher.shutdown(Duration::from_secs(10)).await;       // delivers what is left
//! assert!(report.all_delivered());
//! # Ok(()) }
//! ```
//!
//! # What is promised
//!
//! *Accepted* is in memory, in order, to be delivered or accounted for; it dies with the process. *Durable* does not:
//! acknowledged by Kafka, or on disk in the spool ([`Builder::spool`]), where events go while Kafka takes none, and from where
//! they are delivered later, before anything newer.
//!
//! At-least-once and ordered per partition, always. Written once (into the log) with the native producer and
//! `required_acks = -1`, to the same cluster and topic, with event times younger than the broker's
//! `producer.id.expiration.ms` (or LogAppendTime) and without unclean leader election; through restarts of this process, too,
//! for what was durable. What may have been written twice is counted.
//!
//! # The map
//!
//! - [`KafkaBatcher`], [`Builder`]: start and shut down; [`Config`]: a file, the environment; [`Settings`],
//!   [`CollectorSettings`], [`SpoolConfig`], [`SslConfig`], [`SaslConfig`]: every setting, its unit and default; [`Health`], [`Report`]: how it is and what became of every event;
//! - metrics: [`KafkaBatcher::metrics_text`], or a registry of your own ([`Builder::metrics_registry`]); [`MetricsConfig`];
//! - [`Collector`], [`TypedCollector`], [`Record`], [`Receipt`]: events in, outcomes out;
//! - the seams that may be filled: [`Producer`], [`TempStorage`], [`ErrorNotifier`], [`Partitioner`](partitioner),
//!   [`BatchFlusher`](flusher).

#![forbid(unsafe_code)]

mod batcher;
mod builder;
mod client;
mod clock;
mod collector;
mod compression;
pub mod config;
mod connection_manager;
mod dispatcher;
mod error;
mod error_notifier;
mod identity;
mod metrics;
mod panics;
pub mod producer;
mod receipt;
mod registry;
mod secret;
mod slots;
pub mod storage;
mod supervisor;
mod telemetry;
mod topic;
mod typed;

pub use batcher::KafkaBatcher;
pub use builder::{Builder, CollectorBuilder};
pub use client::{SaslMechanism, Token, TokenProvider};
pub use collector::Collector;
pub use config::{
    BadConfigError, CollectorMissingError, CollectorSettings, Config, MetricsConfig, SaslConfig,
    SaslConfigError, Settings, SpoolConfig, SslConfig,
};
pub use connection_manager::{ClusterHealth, Health, SpoolHealth, TopicHealth};
pub use error::{AddError, BuildError, ReceiptError};
pub use error_notifier::{ErrorNotifier, LogNotifier, Notification, NotificationKind};
pub use kafka_batcher_core::flusher::BatchFlusher;
pub use kafka_batcher_core::partitioner::Partitioner;
pub use kafka_batcher_core::{
    AddedHeaders, Codec, Compression, CompressionError, DeliveryError, FailureReason, Header, Interceptor,
    OnExpiredTimestamp, OnFull, Persisted, Record, RecordBatch, RecordError, SpoolMode, TopicPartition,
    flusher, partitioner,
};
pub use metrics::{Latency, Report};
pub use producer::Producer;
/// The crate whose registry metrics go into; part of this crate's interface.
pub use prometheus;
pub use receipt::{Delivery, Receipt};
pub use secret::Secret;
pub use storage::{Discard, DiskSettings, DiskStorage, MemoryStorage, TempStorage};
pub use telemetry::TextFormat;
pub use typed::TypedCollector;

/// The README's examples, compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../MIGRATING.md")]
struct Readme;
