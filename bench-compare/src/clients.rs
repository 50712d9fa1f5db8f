//! The clients in Rust, each through its public interface, tuned as its own documentation says.

pub(crate) mod floor;
pub(crate) mod nothing;
pub(crate) mod ours;
mod pending;
pub(crate) mod rdkafka;
pub(crate) mod rdkafka_batch;
pub(crate) mod rskafka;
