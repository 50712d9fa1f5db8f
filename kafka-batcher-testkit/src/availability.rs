//! The one place that knows whether a real Kafka can be had, and what it means when it cannot.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The environment variable that names a running Kafka to be used instead of one of our own: `host:port,...`.
pub(crate) const RUNNING: &str = "KAFKA_BATCHER_TEST_BROKERS";

/// There is no real Kafka to be had: the reason, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("needs a real Kafka: {reason}")]
pub struct Unavailable {
    reason: String,
}

/// The bootstrap string of the running Kafka that the environment names, if it names one.
pub(crate) fn running_brokers() -> Option<String> {
    std::env::var(RUNNING).ok().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty())
}

/// Whether a missing Kafka is a failure (`KAFKA_BATCHER_REQUIRE_KAFKA=1`, as `.ci/run` sets it) and not a reason to
/// ignore a test.
pub fn kafka_is_required() -> bool {
    std::env::var("KAFKA_BATCHER_REQUIRE_KAFKA").is_ok_and(|v| !v.is_empty() && v != "0")
}

/// Whether [`RealKafka::start`](crate::RealKafka::start) could work here. Starts and downloads nothing.
///
/// # Errors
/// What is missing (Java, the jars) and how to get it. Also a running Kafka (`KAFKA_BATCHER_TEST_BROKERS`) needs both,
/// for the admin client.
pub fn real_kafka_or_reason() -> Result<(), Unavailable> {
    let answer = script("check").stderr(Stdio::inherit()).output().map_err(|e| Unavailable {
        reason: format!("dev/kafka cannot be run ({e}); it is a bash script and part of the repository"),
    })?;
    if answer.status.success() {
        return Ok(());
    }
    Err(Unavailable { reason: String::from_utf8_lossy(&answer.stdout).trim().to_owned() })
}

/// `dev/kafka COMMAND`, to be completed by the caller; reads nothing from our standard input.
pub(crate) fn script(command: &str) -> Command {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "dev", "kafka"].iter().collect();
    let mut c = Command::new(path);
    c.arg(command).stdin(Stdio::null());
    c
}
