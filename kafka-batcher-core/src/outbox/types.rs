//! The outbox's words: what it is told at the start, what it says to its driver, how it counts.

use std::fmt;
use std::time::Duration;

use crate::backoff::BackoffSettings;
use crate::batch::RecordBatch;
use crate::completion::Spans;
use crate::delivery::Refusal;
use crate::error::{DeliveryError, Persisted};
use crate::spool::{DeadLetter, Renumbered, ToSave};
use crate::time::Time;

/// What an outbox is told about how to deliver.
#[derive(Clone, Copy, Debug)]
pub struct OutboxSettings {
    /// Stamp batches with producer id, epoch and sequence (acks = all), so that a resend is recognised. Without it a
    /// resend after a lost answer may write twice, and one batch is in flight at a time.
    pub idempotent: bool,
    /// Batches of this partition in flight at most, once its run is established; more than five count as five, because
    /// a broker recognises the last five.
    pub max_in_flight: u32,
    /// How long to wait after an error.
    pub backoff: BackoffSettings,
    /// The first sequence number under a new producer id: 0. Tests of the wrap start elsewhere.
    pub first_sequence: i32,
    /// How long after its acceptance an event may still be sent for the first time, or again after a refusal; then it goes
    /// to the dead letters, or fails where there is no spool. `None`: for ever. Checked to a sixteenth of it.
    pub delivery_timeout: Option<Duration>,
    /// What becomes of an event whose time, given by this process, the broker refuses (32).
    pub on_expired_timestamp: OnExpiredTimestamp,
    /// What acknowledges a batch that does not come from the spool: -1 all replicas, 1 the leader, 0 the socket. The last is none
    /// that anything on disk may be given up for.
    pub required_acks: i16,
    /// How the spool is used; `None`: there is none, and what is in memory dies with the process.
    pub spool: Option<SpoolSettings>,
}

/// What becomes of an event whose time the broker refuses (32 INVALID_TIMESTAMP) although its user gave it none
/// (DESIGN.md, Delivery).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpiredTimestamp {
    /// Its partition waits until somebody acts.
    #[default]
    Hold,
    /// It is sent with the time of now, in a new run; events of one batch keep their distances.
    RestampTime,
    /// It goes to the dead letters, as an event does to which its user gave such a time.
    DeadLetter,
}

impl fmt::Display for OnExpiredTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnExpiredTimestamp::Hold => "hold",
            OnExpiredTimestamp::RestampTime => "restamp_time",
            OnExpiredTimestamp::DeadLetter => "dead_letter",
        })
    }
}

impl fmt::Display for OnFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnFull::Backpressure => "backpressure",
            OnFull::Reject => "reject",
            OnFull::DropOldest => "drop_oldest",
        })
    }
}

impl fmt::Display for SpoolMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpoolMode::OnFailure => "on_failure",
            SpoolMode::Always => "always",
        })
    }
}

/// What happens when the storage is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// Events stay in memory, and once that is full callers wait (`max_block`).
    #[default]
    Backpressure,
    /// The same, but callers do not wait: they are refused at once.
    Reject,
    /// The partition's oldest spooled events make room, unless they may be in the log already. They are lost, and counted.
    DropOldest,
}

/// When batches go to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolMode {
    /// When Kafka has taken none of the partition's for so long.
    OnFailure,
    /// Before they are first sent (write-ahead).
    Always,
}

/// How the spool is used.
#[derive(Clone, Copy, Debug)]
pub struct SpoolSettings {
    /// When batches go there.
    pub mode: SpoolMode,
    /// How long no acknowledgement may come, although something waits for one, until Kafka counts as away: `spool_after`.
    pub after: Duration,
    /// Send what was stamped for another cluster to this one.
    pub other_cluster: bool,
    /// How old a spooled event may become; then it is dropped, unless it may be in the log already. `None`: for ever.
    pub max_age: Option<Duration>,
    /// What happens when the storage is full.
    pub on_full: OnFull,
    /// Send events that are older than the topic's retention, too: Kafka acknowledges and deletes them.
    pub replay_expired: bool,
    /// The storage keeps what it is given. If it does not, what is "saved" is lost, and what is not wanted is not put aside.
    pub keeps: bool,
}

impl SpoolSettings {
    /// This mode, nothing given up and nothing forced.
    pub fn new(mode: SpoolMode, after: Duration) -> Self {
        SpoolSettings {
            mode,
            after,
            other_cluster: false,
            max_age: None,
            on_full: OnFull::default(),
            replay_expired: false,
            keeps: true,
        }
    }
}

/// What the driver has to do now.
#[derive(Debug)]
#[must_use]
pub enum Action {
    /// Send this batch to the partition's leader, and report with the ticket. If other batches of the partition are in
    /// flight, it goes over the connection of the leader that `poll_action` was told, or not at all
    /// (`ProduceResult::NotSent`): only one connection keeps their order.
    Produce {
        /// Names this attempt.
        ticket: u64,
        /// Stamped, its CRC computed.
        batch: RecordBatch,
        /// It comes from the spool: to be sent with acks = all, whatever the topic's setting (DESIGN.md, Delivery).
        spooled: bool,
    },
    /// Ask the partition's leader what it knows of this producer id, and report to
    /// [`on_described_by`](super::Outbox::on_described_by).
    Describe {
        /// The id to ask for.
        producer_id: i64,
    },
    /// Bring an identity, [`on_identity`](super::Outbox::on_identity): one that this process obtained itself. Outboxes
    /// of other partitions may share it, but never two outboxes of one partition, not even one after the other: both
    /// would begin with the same numbers.
    InitProducerId {
        /// Not this one: it is used up.
        other_than: Option<i64>,
    },
    /// Save these at the partition's tail, all or none, and report to [`on_saved`](super::Outbox::on_saved).
    Save {
        /// Names this call.
        ticket: u64,
        /// The batches, in order.
        batches: Vec<ToSave>,
    },
    /// Make these numbers durable, and report to [`on_renumbered`](super::Outbox::on_renumbered).
    Renumber {
        /// Names this call.
        ticket: u64,
        /// The numbers.
        numbers: Vec<Renumbered>,
    },
    /// Read what lies on disk from there on, about so much, and report to [`on_read`](super::Outbox::on_read). May be
    /// delayed for want of memory.
    Read {
        /// Names this call.
        ticket: u64,
        /// Position of the first event wanted.
        from: u64,
        /// Bytes wanted, or one batch if that is more.
        max_bytes: usize,
    },
    /// Put these events aside, and report to [`on_rejected`](super::Outbox::on_rejected).
    Reject {
        /// Names this call.
        ticket: u64,
        /// The events.
        letters: Vec<DeadLetter>,
    },
    /// These events are lost by order (`max_age`, [`OnFull::DropOldest`]): forget everything of the partition in
    /// `[from, through)`, durably, and report to [`on_rejected`](super::Outbox::on_rejected).
    Drop {
        /// Names this call.
        ticket: u64,
        /// Position of the first of them.
        from: u64,
        /// Behind the last of them.
        through: u64,
    },
    /// Ask how long the topic keeps events, and report to [`on_retention`](super::Outbox::on_retention).
    AskRetention,
    /// Everything of the partition below `through` is settled. If `ticket` is there, make that durable and report to
    /// [`on_committed`](super::Outbox::on_committed); else it is a hint, and nobody waits.
    Commit {
        /// Position of the first event that is not.
        through: u64,
        /// Names this call, if it is to be answered.
        ticket: Option<u64>,
    },
    /// Nothing to do until an input, another leader, or this time. Without a time, only those help.
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
        /// Acceptance of its oldest event; `None`: in an earlier process.
        opened: Option<Time>,
        /// How often it was sent, since it was last read from the spool.
        attempts: u32,
        /// [`OutboxEvent::Durable`] was told of it before, or by an earlier process.
        durable: bool,
    },
    /// Will not be delivered.
    Failed {
        /// The events that fail.
        batch: RecordBatch,
        /// Why, and whether they may lie in the log all the same (an earlier attempt of theirs was never answered).
        /// Counted as lost or, if they may, as in doubt.
        error: DeliveryError,
        /// [`OutboxEvent::Durable`] was told of it before, or by an earlier process.
        durable: bool,
    },
    /// These events are on disk now: they survive this process.
    Durable {
        /// The events.
        batch: RecordBatch,
    },
    /// Kafka will never take these events; they were put aside, durably.
    DeadLettered {
        /// The events.
        batch: RecordBatch,
        /// Why.
        error: DeliveryError,
        /// [`OutboxEvent::Durable`] was told of it before, or by an earlier process.
        durable: bool,
    },
    /// The end: these events are on disk, and the next start delivers them.
    LeftInSpool {
        /// Who waits for them.
        spans: Spans,
    },
    /// So many events are in the log, proven by a younger batch, without having been read back from disk.
    ProvenOnDisk {
        /// Events.
        events: u64,
        /// Who waits for them.
        spans: Vec<Spans>,
        /// The positions that they lie between.
        positions: std::ops::Range<u64>,
    },
    /// The storage gave back less than it was given: so many events are lost.
    Damaged {
        /// Events.
        events: u64,
        /// Where, and what happened.
        message: String,
        /// Who waits for them, and whether they may lie in the log all the same.
        spans: Vec<(Spans, Persisted)>,
    },
    /// Batches go to the spool from now on. Told once an episode; its end is [`OutboxEvent::Recovered`].
    Spooling,
    /// The storage fails or does not answer; events stay in memory. Told once an episode.
    SpoolTroubled {
        /// For want of room.
        full: bool,
        /// It did not fail: it does not answer.
        slow: bool,
        /// Its words, or what it was asked for.
        message: String,
    },
    /// The storage is full, and this partition has nothing to drop: another one of the topic should make room
    /// ([`make_room`](super::Outbox::make_room)); if none can, that is to be told with
    /// [`no_room_anywhere`](super::Outbox::no_room_anywhere).
    NeedsRoom {
        /// So much.
        bytes: u64,
    },
    /// The storage takes batches again.
    SpoolRecovered,
    /// What was stamped for another topic or an unknown cluster gets new numbers. Told once.
    ForeignNumbers,
    /// Will not be tried again, and may be in the log.
    InDoubt {
        /// The events whose outcome cannot be known.
        batch: RecordBatch,
        /// [`OutboxEvent::Durable`] was told of it before, or by an earlier process.
        durable: bool,
    },
    /// Deliveries have stopped. Told once, and once more if it turns out that somebody must act
    /// ([`Trouble::needs_somebody`]); then [`OutboxEvent::Recovered`] comes first.
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
    /// Nobody is known to lead the partition, although something waits.
    NoLeader {
        /// For so long.
        waited: Duration,
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
    /// The spool holds batches that were sent to another cluster before; consent is needed to send them to this one.
    OtherCluster {
        /// The cluster that they were meant for.
        of: String,
    },
    /// What waits in the spool is older than the topic keeps events: Kafka would acknowledge and delete it.
    PastRetention {
        /// How old it is, by its events' own time.
        age: Duration,
        /// How long the topic keeps events.
        retention: Duration,
    },
}

impl Trouble {
    /// True if it does not pass by itself: somebody must act.
    pub fn needs_somebody(&self) -> bool {
        match self {
            Trouble::Held(_)
            | Trouble::NoIdentity { .. }
            | Trouble::OtherCluster { .. }
            | Trouble::PastRetention { .. } => true,
            Trouble::Unreachable { .. }
            | Trouble::NoAnswer { .. }
            | Trouble::NoLeader { .. }
            | Trouble::Refused(_) => false,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unreachable { message } => write!(f, "the broker cannot be reached: {message}"),
            Trouble::NoAnswer { message } => write!(f, "no answer from the broker: {message}"),
            Trouble::NoLeader { waited } => write!(f, "no leader of it has been known for {waited:?}"),
            Trouble::NoIdentity { message } => write!(f, "the cluster gave no producer id: {message}"),
            Trouble::Refused(refusal) => write!(f, "the broker refused: {refusal}"),
            Trouble::OtherCluster { of } => write!(
                f,
                "the spool holds batches that were sent to another cluster ({of}); they wait for it, or for consent"
            ),
            Trouble::PastRetention { age, retention } => write!(
                f,
                "the spool holds events that are {} h old, and the topic keeps events for {} h (retention.ms): Kafka would \
                 acknowledge and delete them; raise the topic's retention.ms, or consent to sending them all the same \
                 (replay_expired, or spool replay --force)",
                age.as_secs() / 3_600,
                retention.as_secs() / 3_600,
            ),
            Trouble::Held(refusal) => write!(f, "the broker refused until somebody acts: {refusal}"),
        }
    }
}

/// Events by what became of them. At any time
/// `accepted + recovered = delivered + in_memory + in_flight + spooled + dead_lettered + in_doubt + lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Came in.
    pub accepted: u64,
    /// Were found in the spool.
    pub recovered: u64,
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
    /// Are on disk, and not on their way.
    pub spooled: u64,
    /// Were put aside.
    pub dead_lettered: u64,
    /// Of the delivered: known to be so by a later batch, not by an answer of their own.
    pub proven: u64,
    /// Sent again, counted at every time, under circumstances in which an attempt before may lie in the log too: the log
    /// holds at most so many events more than were delivered.
    pub possible_duplicates: u64,
    /// Times a younger batch was written before an older one.
    pub reorderings: u64,
}
