//! What the outbox keeps in mind: its state, the batches on their way, the run, the identity, the doubt.

use std::collections::BTreeSet;

use crate::batch::{RecordBatch, Stamp, sequence_add};
use crate::delivery::{Leader, ProducerIdentity, ProducerState, Refusal};
use crate::spool::Origin;
use crate::time::Time;

/// Where the outbox is (DESIGN.md, "Delivery", has the table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Batches go out as they come.
    Direct,
    /// After an error: nothing goes out during the pause.
    Backoff(Pause),
    /// Kafka is away: what is in memory moves to the spool. Nothing goes out; after the pause comes the probe.
    Spooling(Option<Pause>),
    /// The spool holds batches of this partition, and they go out, oldest first.
    Replaying,
    /// Nothing new comes in; what is left goes out, from memory and spool, with the same pauses.
    Closing(Option<Pause>),
    /// The time for closing is over: what is left moves to the spool, and nothing goes out any more.
    Ending,
}

impl State {
    pub(super) fn pause(self) -> Option<Pause> {
        match self {
            State::Direct | State::Replaying | State::Ending => None,
            State::Backoff(pause) => Some(pause),
            State::Spooling(pause) | State::Closing(pause) => pause,
        }
    }

    /// The same state with this pause, or with none.
    pub(super) fn with(self, pause: Option<Pause>) -> State {
        match self {
            State::Closing(_) => State::Closing(pause),
            State::Direct | State::Backoff(_) => pause.map_or(State::Direct, State::Backoff),
            State::Replaying => pause.map_or(State::Replaying, |pause| State::Spooling(Some(pause))),
            State::Spooling(_) => State::Spooling(pause),
            State::Ending => State::Ending,
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
    /// possible duplicates were counted for this attempt; `spooled`: it was on disk when it was sent, so all replicas acknowledge it.
    InFlight { ticket: u64, doubtful: bool, to: Leader, admitted: u64, spooled: bool },
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
    /// 32 of a time that this process gave, and it may give another.
    OldTime(Refusal),
    /// 47, 59, 90: the numbers are not accepted any more.
    Fenced,
}

/// Where a batch lies besides memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere.
    Memory,
    /// On disk, its first event at this position; the numbers that the disk has for it.
    Disk { position: u64, numbers: Option<Stamp> },
}

/// One batch on its way.
#[derive(Debug)]
pub(super) struct Entry {
    /// Names it within this outbox.
    pub(super) id: u64,
    pub(super) batch: RecordBatch,
    pub(super) place: Place,
    /// Where its numbers mean something, if it was read from disk with numbers of another process.
    pub(super) origin: Option<Origin>,
    /// Its bytes were read from disk: they lie outside of the memory that accepted events have.
    pub(super) read_back: bool,
    /// In the order of acceptance; parts of a split batch share it.
    pub(super) ordinal: u64,
    /// Acceptance of its oldest event; `None`: in an earlier process.
    pub(super) opened: Option<Time>,
    /// All its events were accepted by then, in Unix milliseconds; 0: not known, or not yet looked at.
    pub(super) accepted_by: i64,
    /// What the wall clock said, when it was first looked at, for `Time` zero: its events' times are held against that, or a
    /// clock that is set forward would make everything in memory too old at once.
    pub(super) epoch_ms: i64,
    pub(super) exposure: Exposure,
    /// The run whose numbers it carries.
    pub(super) run: Option<u64>,
    pub(super) verdict: Option<Verdict>,
    pub(super) attempts: u32,
    /// How often the broker called it out of order and then, asked, contradicted itself.
    pub(super) contradictions: u8,
    /// A refusal of the whole batch without a culprit was met with new numbers once already.
    pub(super) restamped: bool,
    /// An earlier process gave it numbers, which may not have been its last word, nor these its first.
    pub(super) inherited: bool,
    /// A request with it under its present numbers got no answer, and may come in late.
    pub(super) strayed: bool,
    /// It may lie in the log under numbers that were given up, or as an attempt without numbers. (It was counted among
    /// the possible duplicates then.)
    pub(super) haunted: bool,
}

impl Entry {
    pub(super) fn new(id: u64, batch: RecordBatch, ordinal: u64, opened: Option<Time>) -> Self {
        Entry {
            id,
            batch,
            place: Place::Memory,
            origin: None,
            read_back: false,
            ordinal,
            opened,
            accepted_by: 0,
            epoch_ms: 0,
            exposure: Exposure::Unwritten,
            run: None,
            verdict: None,
            attempts: 0,
            contradictions: 0,
            restamped: false,
            inherited: false,
            strayed: false,
            haunted: false,
        }
    }

    /// A piece of this one (the batch split or cut), not yet sent: `at` is its first event.
    pub(super) fn piece(&self, id: u64, batch: RecordBatch, at: u32) -> Self {
        let (attempts, inherited) = (self.attempts, self.inherited);
        let (strayed, haunted) = (self.strayed, self.haunted);
        let place = match self.place {
            Place::Memory => Place::Memory,
            Place::Disk { position, numbers } => Place::Disk {
                position: position + u64::from(at),
                numbers: numbers
                    .map(|stamp| Stamp { first_sequence: sequence_add(stamp.first_sequence, at), ..stamp }),
            },
        };
        let (origin, accepted_by) = (self.origin.clone(), self.accepted_by);
        Entry {
            read_back: self.read_back,
            epoch_ms: self.epoch_ms,
            accepted_by,
            attempts,
            inherited,
            strayed,
            haunted,
            place,
            origin,
            ..Entry::new(id, batch, self.ordinal, self.opened)
        }
    }

    /// Position of its first event on disk.
    pub(super) fn position(&self) -> Option<u64> {
        match self.place {
            Place::Memory => None,
            Place::Disk { position, .. } => Some(position),
        }
    }

    pub(super) fn events(&self) -> u64 {
        u64::from(self.batch.count())
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
    /// It was begun by an earlier process: what has its numbers keeps them, and nothing joins it.
    pub(super) foreign: bool,
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
/// over one connection (DESIGN.md, Delivery): a broker that restarted between two of them may have forgotten the id,
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
    /// The batch of this run that ends with this sequence is looked for on disk.
    Seeking {
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
    /// What was passed over for it stays so: the batch that proves it is looked for further down the disk.
    pub(super) fn looks_down_the_disk(&self) -> bool {
        matches!(self, Doubt::Seeking { .. } | Doubt::Proving { .. } | Doubt::Stepping { .. })
    }

    /// Who gave the answers so far that its outcome will rest on.
    pub(super) fn bound_to(&self) -> Option<Leader> {
        match self {
            Doubt::None | Doubt::Ask | Doubt::Asked(_) => None,
            Doubt::Answered(leader, _)
            | Doubt::Seeking { leader, .. }
            | Doubt::Proving { leader, .. }
            | Doubt::Stepping { leader, .. } => Some(*leader),
        }
    }
}
