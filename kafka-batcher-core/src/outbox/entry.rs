//! What the outbox keeps in mind: its state, the batches on their way, the run, the identity, the doubt.

use std::collections::BTreeSet;

use crate::batch::RecordBatch;
use crate::delivery::{Leader, ProducerIdentity, ProducerState, Refusal};
use crate::time::Time;

/// Where the outbox is. Spooling and Replaying join when there is a disk (DESIGN.md, "Delivery", has their rows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Batches go out as they come.
    Direct,
    /// After an error: nothing goes out during the pause.
    Backoff(Pause),
    /// Nothing new comes in; what is left goes out, with the same pauses.
    Closing(Option<Pause>),
}

impl State {
    pub(super) fn pause(self) -> Option<Pause> {
        match self {
            State::Direct => None,
            State::Backoff(pause) => Some(pause),
            State::Closing(pause) => pause,
        }
    }

    /// The same state with this pause, or with none.
    pub(super) fn with(self, pause: Option<Pause>) -> State {
        match self {
            State::Closing(_) => State::Closing(pause),
            State::Direct | State::Backoff(_) => pause.map_or(State::Direct, State::Backoff),
        }
    }
}

/// A wait after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) until: Time,
    /// Node and epoch of the leader that failed: another one ends the pause early, there is somebody new to ask. Not
    /// the connection, or a broker that accepts and closes would be asked without pause.
    pub(super) failed: Option<(i32, i32)>,
}

/// May the batch lie in the log?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    /// Certainly not under the numbers it carries.
    Unwritten,
    /// A request with it is on its way, to this leader; `doubtful`: an earlier one may have written it; `admitted`: so many
    /// possible duplicates were counted for this attempt.
    InFlight { ticket: u64, doubtful: bool, to: Leader, admitted: u64 },
    /// Perhaps: an answer is missing.
    Doubtful,
}

/// A refusal that is acted upon only when the batch is the head and nothing of the partition is in flight.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// 45, by this leader. It means nothing about another one's log.
    OutOfOrder(Leader),
    /// 10, 18.
    TooLarge(Refusal),
    /// 32 (of a time that the user gave), 87.
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
    /// How often the broker called it out of order and then, asked, contradicted itself.
    pub(super) contradictions: u8,
    /// A refusal of the whole batch without a culprit was met with new numbers once already.
    pub(super) restamped: bool,
    /// It may lie in the log under numbers that were given up, or as an attempt without numbers. (It was counted among
    /// the possible duplicates then.)
    pub(super) haunted: bool,
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
            contradictions: 0,
            restamped: false,
            haunted: false,
        }
    }

    /// A piece of this one (the batch split or cut), not yet sent.
    pub(super) fn piece(&self, batch: RecordBatch) -> Self {
        let (attempts, haunted) = (self.attempts, self.haunted);
        Entry { attempts, haunted, ..Entry::new(batch, self.ordinal, self.opened) }
    }

    pub(super) fn ticket(&self) -> Option<u64> {
        match self.exposure {
            Exposure::InFlight { ticket, .. } => Some(ticket),
            Exposure::Unwritten | Exposure::Doubtful => None,
        }
    }

    pub(super) fn is_doubtful_in(&self, run: u64) -> bool {
        self.run == Some(run) && self.exposure == Exposure::Doubtful
    }
}

/// A contiguous range of sequences of one producer id and epoch in one partition of one topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) ordinal: u64,
    pub(super) identity: ProducerIdentity,
    pub(super) next_sequence: i32,
    pub(super) established: Option<Established>,
    /// The highest sequence acknowledged: everything of the run up to there is in the log, whatever a later answer to
    /// an older request may fail to say (answers can be reported in another order than they came in).
    pub(super) acked_through: Option<i32>,
}

/// The acknowledgement that established a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Established {
    pub(super) leader: Leader,
    pub(super) event_time: i64,
}

/// Where the numbers of the next run come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The driver is to be asked.
    None,
    /// It was asked.
    Asked,
    /// It brought one that must not be used; the reason.
    Refused(String),
    /// Never used in this partition.
    Fresh(ProducerIdentity),
    /// That of the run before, with the next epoch.
    Bumped(ProducerIdentity),
}

/// Producer ids that must not begin a run here any more: their epochs are used up, or somebody else uses them. Grows by
/// one at such an event, which is rare and, repeated, slowed by the backoff.
#[derive(Debug, Default)]
pub(super) struct Spent {
    ids: BTreeSet<i64>,
    pub(super) latest: Option<i64>,
}

impl Spent {
    pub(super) fn add(&mut self, id: i64) {
        self.ids.insert(id);
        self.latest = Some(id);
    }

    pub(super) fn has(&self, id: i64) -> bool {
        self.ids.contains(&id)
    }
}

/// How far the clearing of a doubt has come; only while nothing else is in flight. All answers must come from one leader,
/// over one connection (delivery-rules.md 2.3): a broker that restarted between two of them may have forgotten the id,
/// accept what it would have had to recognise, and so "prove" what is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    None,
    /// The broker is to be asked.
    Ask,
    /// It was asked.
    Asked(Leader),
    /// It answered.
    Answered(Leader, ProducerState),
    /// The batch of this run that ends with this sequence is sent again: recognised, it proves all before it.
    Proving {
        leader: Leader,
        run: u64,
        last_sequence: i32,
    },
    /// The broker cannot be asked: the doubtful batches of this run are tried one at a time, from this index on.
    Stepping {
        leader: Leader,
        run: u64,
        next: usize,
    },
}

impl Doubt {
    /// Who gave the answers so far that its outcome will rest on.
    pub(super) fn bound_to(&self) -> Option<Leader> {
        match self {
            Doubt::None | Doubt::Ask | Doubt::Asked(_) => None,
            Doubt::Answered(leader, _) | Doubt::Proving { leader, .. } | Doubt::Stepping { leader, .. } => {
                Some(*leader)
            }
        }
    }
}
