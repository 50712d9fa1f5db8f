//! A small Kafka broker inside a process, for trying and for testing.
#![warn(missing_docs)]

mod api;
mod builder;
mod cluster;
mod connection;
mod discard;
mod error_code;
mod faults;
mod handlers;
mod log;
mod producer_state;
mod record;
mod state;
mod stats;
mod topic_config;
mod validate;

pub use api::Api;
pub use builder::{AutoCreate, Builder, Storage, TopicSpec};
pub use cluster::{ControlError, EmbeddedKafka, StartError};
pub use error_code::ErrorCode;
pub use faults::{Fault, FaultId};
pub use log::LogBatch;
pub use producer_state::ProducerMemory;
pub use record::{BatchHeader, Compression, Header, Record};
pub use stats::Stats;
pub use uuid::Uuid;
pub use validate::Strictness;
