//! What can go wrong between a test and its Kafka. Nobody branches on these: they are written for who reads the failure.

use crate::Unavailable;

/// Why a call of this crate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no real Kafka to be had here.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A program of ours, of Kafka's or kcat ended with an error.
    #[error("{command} failed ({status}): {output}")]
    Program {
        /// The program and its arguments.
        command: String,
        /// Its exit status.
        status: String,
        /// What it had to say, standard error first.
        output: String,
    },
    /// Kafka's admin client, consumer or producer refused.
    #[error("{command}: {kind}: {message}")]
    Kafka {
        /// The command as it was sent to `dev/java/Admin.java`.
        command: String,
        /// The simple name of the Java exception, e.g. `TopicExistsException`.
        kind: String,
        /// The words of the exception.
        message: String,
    },
    /// What `KAFKA_BATCHER_TEST_BROKERS` names is no Kafka that serves.
    #[error("KAFKA_BATCHER_TEST_BROKERS={address}: no Kafka serves there: {source}")]
    NotServing {
        /// The value of the variable.
        address: String,
        /// What the admin client said.
        source: Box<Error>,
    },
    /// The admin client has ended or does not answer; its last words are on standard error.
    #[error("the admin client {0}")]
    AdminGone(String),
    /// The brokers are those of `KAFKA_BATCHER_TEST_BROKERS`: not ours to stop, restart, freeze, or read the disks of.
    #[error("KAFKA_BATCHER_TEST_BROKERS names a running Kafka, which the tests do not control ({0})")]
    NotOurs(&'static str),
    /// A log on disk holds what should not be there.
    #[error("{0}")]
    BadLog(String),
    /// A program's output is not what this crate understands.
    #[error("{what} is not understood: {text}")]
    NotUnderstood {
        /// Which output.
        what: &'static str,
        /// The part that is not understood.
        text: String,
    },
    /// A file or a program could not be used at all.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system answered.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
