//! A small Kafka broker inside a process, for trying and for testing: no Java, no container, no port to agree on, ready in a millisecond.
//!
//! It speaks Kafka's protocol over real sockets, so the client under test is the one that goes to production, and it answers as Apache
//! Kafka 4 was seen to answer: one conformance suite (`tests/conformance`) asks both the same questions. What a real cluster does once in a
//! bad week, a test orders by a call: a lost acknowledgement, a moved leader, a broker that accepts and never answers.
//!
//! ```
//! use kafka_batcher_broker::{Api, EmbeddedKafka, Fault, ProducerMemory};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kafka = EmbeddedKafka::builder().brokers(3).topic("flights", 4).start()?;
//! let bootstrap = kafka.bootstrap(); // "127.0.0.1:40123,..." for your client
//!
//! // The second Produce that touches partition 0 is written, and its answer is lost.
//! let lost = kafka.inject(Fault::lose_answer().on(Api::Produce).partition("flights", 0).nth(2));
//! kafka.move_leader("flights", 1, 3)?;
//! kafka.stop_broker(2)?;
//! kafka.restart_broker(2, ProducerMemory::LastBatch)?;
//!
//! // ... let your client send ...
//!
//! for record in kafka.log("flights", 0) {
//!     println!("{} {:?}", record.offset, record.value);
//! }
//! println!("hit {} times; {:?}", kafka.fault_hits(lost), kafka.stats());
//! # drop(bootstrap);
//! # Ok(()) }
//! ```
//!
//! # What is here
//!
//! - [`EmbeddedKafka`], described by a [`Builder`]: 1 to n brokers, on a thread of their own ([`Builder::start`]) or in your tokio runtime of
//!   any flavour ([`Builder::start_on`]). Every call on it is synchronous and done when it returns.
//! - The requests of [`Api`], each in all its versions that Kafka 4.1 and the codec have.
//! - Validation of record batches as Kafka does it, in its order, with code of this crate's own: length, magic, base offset, size, CRC-32C,
//!   counts, every record, times; error codes 2, 10, 32, 87 and the index of the record. [`Strictness::Pedantic`] refuses more than Kafka.
//! - The memory of idempotent producers, by partition: the last five batches, epochs, sequences that wrap, expiry by event time,
//!   what a restart leaves ([`ProducerMemory`]).
//! - [`Fault`]s on a running cluster, by kind of request, broker, topic, partition and count.
//! - [`Storage::Discard`]: acknowledges and keeps nothing, for benchmarks of clients.
//!
//! # What it does not do
//!
//! - *No consumer groups, no stored offsets, no transactions, no share groups.* FindCoordinator is answered 15, a transactional id 53, a
//!   transactional batch 48. Consumers name their partitions (`kcat -C`; `kafka-console-consumer --partition 0`; `assign` in Java).
//! - *No TLS, no SASL, no ACLs, no quotas.* An authorization error or a throttle time comes only from a fault.
//! - *No disk.* Logs live in memory and only in whole batches; they survive a broker's restart and not the cluster's end. There are no
//!   segments, no compaction, and retention only when a test asks for it ([`EmbeddedKafka::apply_retention`]).
//! - *No replication.* The brokers of a cluster share one copy of each log; a leader is a name on it. Acknowledged data is lost only by
//!   [`EmbeddedKafka::truncate_log`]. `min.insync.replicas` counts running brokers.
//! - *No codecs.* Compressed batches (gzip, Snappy, LZ4, zstd) are taken as they are: header, size, CRC and first and largest time are judged,
//!   their records are not, and [`EmbeddedKafka::log`] does not show them ([`EmbeddedKafka::batches`] does). A search by time ends at the
//!   first offset of such a batch. `compression.type` changes nothing.
//! - *No fetch sessions* (every answer says session 0, so clients send whole requests), *no fetching from followers*, no tiered storage.
//! - *No formats before magic 2*, no Produce before version 3, no Fetch before 4, as in Kafka 4.
//! - *No configuration changes over the wire* (AlterConfigs, CreatePartitions, DeleteRecords): [`EmbeddedKafka::set_topic_config`] and
//!   [`EmbeddedKafka::grow_topic`] do it from the test.
//! - *Not for production.* It trusts its clients with memory, and believes whoever says anything.

mod api;
mod builder;
mod cluster;
mod connection;
mod control;
mod discard;
mod error_code;
mod faults;
mod handlers;
mod log;
mod producer_state;
mod record;
mod start;
mod state;
mod stats;
mod topic_config;
mod validate;
mod window;

pub use api::Api;
pub use builder::{AutoCreate, Builder, Storage, TopicSpec};
pub use cluster::{ControlError, EmbeddedKafka};
pub use error_code::ErrorCode;
pub use faults::{Fault, FaultId};
pub use log::LogBatch;
pub use producer_state::ProducerMemory;
pub use record::{BatchHeader, Compression, Header, Record};
pub use start::StartError;
pub use stats::Stats;
pub use uuid::Uuid;
pub use validate::Strictness;
