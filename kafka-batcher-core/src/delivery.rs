//! The words in which a producer tells the outbox what happened to a batch.

use std::fmt;

use crate::error_code::ErrorCode;

/// A topic's id (KIP-516); all zero where the broker gives none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub [u8; 16]);

/// Who leads a partition, over which connection: all that must stay the same for a run to stay *established*
/// (DESIGN.md, Delivery).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The broker's node id.
    pub node: i32,
    /// The leader epoch (KIP-101); -1 where the broker gives none.
    pub epoch: i32,
    /// The id of the topic as it is now: a topic deleted and created again has another.
    pub topic_id: TopicId,
    /// Counts the connections made to that node; requests of one connection are answered in order.
    pub connection: u64,
}

/// A producer id and the epoch that came with it, from InitProducerId (KIP-98). Never -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerIdentity {
    /// The producer id.
    pub id: i64,
    /// Its first epoch.
    pub epoch: i16,
}

/// What became of one batch of a Produce request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProduceResult {
    /// Written, by the acknowledgement asked for.
    Acked {
        /// Offset of the batch's first event; `None` where the broker does not say (acks = 0).
        base_offset: Option<i64>,
    },
    /// The broker answered with an error.
    Refused(Refusal),
    /// The request, or a part of it, was written to the socket, and no answer came: time-out, connection lost.
    Lost {
        /// What happened, in words.
        message: String,
    },
    /// Certainly not written: no byte of the request left (no connection, no leader known).
    NotSent {
        /// What happened, in words.
        message: String,
    },
}

/// An error answer of a broker for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// The broker's words, if it had any (KIP-467).
    pub message: Option<String>,
    /// Which records are at fault, by their index in the batch, with the broker's words (KIP-467). Often empty.
    pub record_errors: Vec<(u32, Option<String>)>,
}

impl Refusal {
    /// A refusal with a code and nothing else.
    pub fn code(code: ErrorCode) -> Self {
        Refusal { code, message: None, record_errors: Vec::new() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.code.name(), self.code.0)?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

/// What became of one batch, and who answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceAnswer {
    /// What happened.
    pub result: ProduceResult,
    /// The leader that the request was sent to, with its connection; `None` if it was not sent.
    pub leader: Option<Leader>,
}

/// What a partition's leader knows of a producer id (DescribeProducers, KIP-664).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProducerState {
    /// The partition knows the id.
    Known {
        /// The epoch it saw last.
        epoch: i16,
        /// The sequence of the last event it holds in that epoch.
        last_sequence: i32,
    },
    /// The partition does not know the id.
    Unknown,
    /// The broker is too old to say, or does not let us ask (it needs READ on the topic).
    Unanswerable,
    /// No answer this time; ask again.
    Failed {
        /// What happened, in words.
        message: String,
    },
}
