//! The outbox's words: its states, what it holds of a batch, what it says to its driver.

use std::fmt;

use crate::backoff::BackoffSettings;
use crate::batch::RecordBatch;
use crate::delivery::{Leader, ProducerIdentity, Refusal, TopicId};
use crate::error::DeliveryError;
use crate::time::Time;

/// What an outbox is told about how to deliver.
#[derive(Clone, Copy, Debug)]
pub struct OutboxSettings {
    /// Stamp batches with producer id, epoch and sequence (acks = all), so that a resend is recognised. Without it a
    /// resend after a lost answer may write twice, and one batch is in flight at a time.
    pub idempotent: bool,
    /// Batches of this partition in flight at most, once its run is established. A broker recognises the last five.
    pub max_in_flight: u32,
    /// How long to wait after an error.
    pub backoff: BackoffSettings,
    /// The first sequence number of a run: 0. Tests of the wrap start elsewhere.
    pub first_sequence: i32,
}

/// What the driver has to do now.
#[derive(Debug)]
#[must_use]
pub enum Action {
    /// Send this batch to the partition's leader, and report with the ticket.
    Produce {
        /// Names this attempt.
        ticket: u64,
        /// Stamped, its CRC computed.
        batch: RecordBatch,
    },
    /// Ask the partition's leader what it knows of this producer id, and report to [`super::Outbox::on_described`].
    Describe {
        /// The id to ask for.
        producer_id: i64,
    },
    /// Bring an identity, [`super::Outbox::on_identity`]: one that this process obtained itself. Outboxes of other
    /// partitions may share it.
    InitProducerId {
        /// Not this one: it is used up.
        other_than: Option<i64>,
    },
    /// Nothing to do until an input, another leader, or this time.
    Wait {
        /// When to call again at the latest.
        until: Option<Time>,
    },
}

/// What happened to batches.
#[derive(Debug)]
#[non_exhaustive]
pub enum OutboxEvent {
    /// In the log, by the acknowledgement asked for.
    Delivered {
        /// The batch.
        batch: RecordBatch,
        /// Offset of its first event; `None`: written, where is not known (acks = 0, or proven by a later batch).
        base_offset: Option<i64>,
        /// Acceptance of its oldest event.
        opened: Time,
        /// How often it was sent.
        attempts: u32,
    },
    /// Will not be delivered, and is not in the log.
    Failed {
        /// The events that fail.
        batch: RecordBatch,
        /// Why.
        error: DeliveryError,
    },
    /// Will not be tried again, and may be in the log.
    InDoubt {
        /// The events whose outcome cannot be known.
        batch: RecordBatch,
    },
    /// Deliveries have stopped; told once, until [`OutboxEvent::Recovered`].
    Troubled(Trouble),
    /// An acknowledgement came after trouble.
    Recovered,
    /// The topic was deleted and created again; what was undelivered goes to the new one.
    TopicRecreated,
}

/// Why deliveries do not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// The leader could not be reached; nothing was written.
    Unreachable {
        /// What happened.
        message: String,
    },
    /// A request was written and no answer came.
    NoAnswer {
        /// What happened.
        message: String,
    },
    /// The cluster gave no producer id.
    NoIdentity {
        /// What happened.
        message: String,
    },
    /// The broker refused, as brokers do when leaders move or replicas are missing.
    Refused(Refusal),
    /// The broker refused, and somebody must act (permission, missing topic): the batches are held.
    Held(Refusal),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unreachable { message } => write!(f, "the broker cannot be reached: {message}"),
            Trouble::NoAnswer { message } => write!(f, "no answer from the broker: {message}"),
            Trouble::NoIdentity { message } => write!(f, "the cluster gave no producer id: {message}"),
            Trouble::Refused(refusal) => write!(f, "the broker refused: {refusal}"),
            Trouble::Held(refusal) => write!(f, "the broker refused until somebody acts: {refusal}"),
        }
    }
}

/// Events by what became of them. `accepted = delivered + lost + in_doubt + in_memory + in_flight` at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Came in.
    pub accepted: u64,
    /// Are in the log.
    pub delivered: u64,
    /// Failed for good; not in the log.
    pub lost: u64,
    /// May be in the log; nobody knows.
    pub in_doubt: u64,
    /// Wait here.
    pub in_memory: u64,
    /// Are on their way.
    pub in_flight: u64,
    /// Of the delivered: known to be so by a later batch, not by an answer of their own.
    pub proven: u64,
    /// Sent again under circumstances in which the first attempt may lie in the log too.
    pub possible_duplicates: u64,
    /// Times a younger batch was written before an older one.
    pub reorderings: u64,
}

/// Where the outbox is. Spooling and Replaying join when there is a disk (DESIGN.md has their rows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Batches go out as they come.
    Direct,
    /// After an error: nothing goes out until then, unless somebody other than who failed leads the partition.
    Backoff { until: Time, failed: Option<(i32, i32)> },
    /// Nothing new comes in; what is left goes out, with the same pauses.
    Closing { retry_at: Option<Time> },
}

/// May the batch lie in the log?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    /// Certainly not.
    Unwritten,
    /// A request with it is on its way; `doubtful`: an earlier one may have written it.
    InFlight { ticket: u64, doubtful: bool },
    /// Perhaps: an answer is missing.
    Doubtful,
}

/// A refusal that is acted upon only when the batch is the head and nothing of the partition is in flight.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// 45.
    OutOfOrder,
    /// 10, 18.
    TooLarge(Refusal),
    /// 32, 87.
    Rejected(Refusal),
    /// 47, 59, 90: the numbers are not accepted any more.
    Fenced,
}

/// One batch on its way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) batch: RecordBatch,
    /// In the order of acceptance; parts of a split batch share it.
    pub(super) ordinal: u64,
    pub(super) opened: Time,
    pub(super) exposure: Exposure,
    /// The run whose numbers it carries.
    pub(super) run: Option<u64>,
    pub(super) verdict: Option<Verdict>,
    pub(super) attempts: u32,
    /// How often the broker was asked about it without an end.
    pub(super) asked: u8,
    /// A whole-batch refusal without a culprit was met with new numbers once already.
    pub(super) restamped: bool,
    /// Counted among the possible duplicates.
    pub(super) counted: bool,
}

impl Entry {
    pub(super) fn new(batch: RecordBatch, ordinal: u64, opened: Time) -> Self {
        Entry {
            batch,
            ordinal,
            opened,
            exposure: Exposure::Unwritten,
            run: None,
            verdict: None,
            attempts: 0,
            asked: 0,
            restamped: false,
            counted: false,
        }
    }

    pub(super) fn ticket(&self) -> Option<u64> {
        match self.exposure {
            Exposure::InFlight { ticket, .. } => Some(ticket),
            Exposure::Unwritten | Exposure::Doubtful => None,
        }
    }
}

/// A contiguous range of sequences of one producer id and epoch in one partition of one topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) ordinal: u64,
    pub(super) identity: ProducerIdentity,
    pub(super) next_sequence: i32,
    pub(super) topic_id: Option<TopicId>,
    pub(super) established: Option<Established>,
}

/// The acknowledgement that established a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Established {
    pub(super) leader: Leader,
    pub(super) event_time: i64,
}

/// How far the clearing of a doubt has come. Only while nothing is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    None,
    /// The broker is to be asked.
    Ask,
    /// It was asked.
    Asked,
    /// The batch of this run that ends with this sequence is sent again: recognised, it proves all before it.
    Proving {
        run: u64,
        last_sequence: i32,
    },
    /// The broker cannot be asked: the doubtful batches of this run are tried one at a time, from this index on.
    Stepping {
        run: u64,
        next: usize,
    },
}
