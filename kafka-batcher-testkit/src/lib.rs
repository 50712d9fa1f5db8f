//! What the tests of kafka-batcher share: a real Apache Kafka, foreign readers of what lies in it, and counting what
//! arrived.
//!
//! - [`Suite`]: the `main` of a test binary whose tests need a real Kafka. Where there is none they are listed as
//!   ignored, with the reason; with `KAFKA_BATCHER_REQUIRE_KAFKA=1` (as `.ci/run` sets it) they fail instead.
//! - [`RealKafka`]: one or three brokers of Apache Kafka, started by `dev/kafka` and gone with the value; topics,
//!   leaders, kills, restarts, freezes; Kafka's own consumer and producer.
//! - [`LogDump`]: Kafka's DumpLogSegments, parsed; an error when any batch is not `isvalid: true`.
//! - [`Kcat`]: a C client (librdkafka), where it is installed.
//! - [`Scrape`]: Prometheus' text format, read; whether its accounts add up and its counters only rise.
//! - [`Tally`]: lost, duplicated, reordered, unexpected: per partition, exact.
//!
//! It shares no code with the crates under test, so that one bug cannot hide in both. Nothing here downloads anything:
//! `dev/kafka fetch` does.
//!
//! All calls block. In an async test use a runtime with a thread to spare, or `spawn_blocking`.

mod admin;
mod availability;
mod cluster;
mod contents;
mod error;
mod harness;
mod kcat;
mod log_dump;
mod scrape;
mod tally;
mod topics;

pub use availability::{Unavailable, kafka_is_required, real_kafka_or_reason};
pub use cluster::{Options, RealKafka, Signal};
pub use contents::{Consumed, Headers, Isolation, PartitionOffsets, ProducerEntry, ToProduce, Transaction};
pub use error::Error;
pub use harness::{Outcome, Suite};
pub use kcat::{Kcat, KcatMessage};
pub use log_dump::{Batch, LogDump};
pub use scrape::Scrape;
pub use tally::{Discrepancy, Tally};
pub use topics::{NodeAddress, PartitionState, TopicState};
