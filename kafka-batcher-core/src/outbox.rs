//! `Outbox`: the delivery order of one partition, decided in one place.
//!
//! What it is for: sealed batches come in, in the order of acceptance; out go the actions by which each of them is
//! written once, in that order, whatever the broker, the network and the leader do: [`Action::Produce`],
//! [`Action::Describe`], [`Action::InitProducerId`]. Stamping, retry, commit and proof happen here and nowhere else.
//!
//! What it promises: the rules of delivery (DESIGN.md, "Delivery", holds the table *state x input -> actions* that
//! this file implements). In short:
//!
//! - one number, one event: a stamp stays with its bytes through every retry; what gets new numbers is certainly not
//!   in the log under the old ones, or is counted as a possible duplicate;
//! - more than one batch in flight only while the run is *established*; after any error the head goes alone;
//! - 45 is judged only at the head, with nothing else in flight, and by asking the broker, not by guessing;
//! - an event that is refused for good ends the run: what follows gets new numbers.
//!
//! What it refuses: to read a clock, to do I/O, and to drop anything in silence.

mod judge;
mod types;

use std::collections::VecDeque;

pub use self::types::{Action, OutboxEvent, OutboxSettings, Tally, Trouble};
use self::types::{Doubt, Entry, Established, Exposure, Run, State, Verdict};
use crate::backoff::Backoff;
use crate::batch::{RecordBatch, Stamp, sequence_add};
use crate::buffer_pool::{BufferPool, Share};
use crate::delivery::{
    Leader, ProduceAnswer, ProduceResult, ProducerIdentity, ProducerState, Refusal, TopicId,
};
use crate::error::{DeliveryError, FailureReason, Persisted};
use crate::error_code::{ErrorClass, ErrorCode};
use crate::time::Time;

/// How far back, in event time, an acknowledgement may lie for the run to count as established. A broker forgets a
/// producer id by event time (`producer.id.expiration.ms`, 24 h); an hour leaves room for clocks that disagree.
const ESTABLISHED_FOR_MS: i64 = 3_600_000;

/// The delivery order of one partition. See the module's documentation.
pub struct Outbox {
    settings: OutboxSettings,
    state: State,
    /// What is not settled yet, oldest first. Entries in flight come first unless one of them was answered with an error.
    entries: VecDeque<Entry>,
    in_flight: u32,
    /// The run that the next unstamped batch joins.
    run: Option<Run>,
    /// Names runs within this outbox; never reused.
    next_run: u64,
    /// The identity that runs are made from; `None` until the driver brought one.
    identity: Option<ProducerIdentity>,
    /// An identity that must not be used for a new run: its epochs are used up, or somebody else uses it.
    spent: Option<i64>,
    /// Whether the driver was asked for an identity and has not answered.
    identity_asked: bool,
    doubt: Doubt,
    backoff: Backoff,
    next_ticket: u64,
    next_ordinal: u64,
    events: VecDeque<OutboxEvent>,
    tally: Tally,
    /// The trouble that the operator was told of; cleared by the next acknowledgement.
    trouble: Option<Trouble>,
    pool: BufferPool,
    share: Share,
}

impl Outbox {
    /// An empty outbox. `seed` is for the jitter of the backoff; `pool` and `share` give the memory to split batches in.
    pub fn new(settings: OutboxSettings, pool: BufferPool, share: Share, seed: u64) -> Self {
        Outbox {
            backoff: Backoff::new(settings.backoff, seed),
            settings,
            state: State::Direct,
            entries: VecDeque::new(),
            in_flight: 0,
            run: None,
            next_run: 0,
            identity: None,
            spent: None,
            identity_asked: false,
            doubt: Doubt::None,
            next_ticket: 0,
            next_ordinal: 0,
            events: VecDeque::new(),
            tally: Tally::default(),
            trouble: None,
            pool,
            share,
        }
    }

    // ---- what the driver asks -------------------------------------------------------------------------------------

    /// What has become of the batches so far, and what is left.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally;
        for entry in &self.entries {
            match entry.exposure {
                Exposure::InFlight { .. } => tally.in_flight += u64::from(entry.batch.count()),
                Exposure::Unwritten | Exposure::Doubtful => tally.in_memory += u64::from(entry.batch.count()),
            }
        }
        tally
    }

    /// True if nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Encoded bytes that wait or are in flight.
    pub fn queued_bytes(&self) -> usize {
        self.entries.iter().map(|e| e.batch.encoded_len()).sum()
    }

    /// Batches in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The number that the next batch to come in will get: a mark for flush.
    pub fn next_ordinal(&self) -> u64 {
        self.next_ordinal
    }

    /// True if every batch numbered below `ordinal` is settled.
    pub fn settled_below(&self, ordinal: u64) -> bool {
        self.entries.front().is_none_or(|entry| entry.ordinal >= ordinal)
    }

    /// The trouble it is in, until the next acknowledgement.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Acceptance of the oldest event that is not settled.
    pub fn oldest(&self) -> Option<Time> {
        self.entries.front().map(|entry| entry.opened)
    }

    // ---- inputs -----------------------------------------------------------------------------------------------------

    /// A sealed batch, the youngest of its partition; `opened` is the acceptance of its oldest event.
    pub fn on_sealed(&mut self, batch: RecordBatch, opened: Time) {
        self.tally.accepted += u64::from(batch.count());
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.entries.push_back(Entry::new(batch, ordinal, opened));
    }

    /// The identity that [`Action::InitProducerId`] asked for.
    pub fn on_identity(&mut self, identity: ProducerIdentity) {
        self.identity_asked = false;
        if identity.id >= 0 && self.spent != Some(identity.id) {
            self.identity = Some(identity);
        }
    }

    /// The identity could not be had: wait, then ask again.
    pub fn on_identity_failed(&mut self, message: String, now: Time) {
        self.identity_asked = false;
        self.back_off(Trouble::NoIdentity { message }, None, now);
    }

    /// The answer to the [`Action::Produce`] with this ticket. Every ticket is answered once; another is ignored.
    pub fn on_produced(&mut self, ticket: u64, answer: ProduceAnswer, now: Time) {
        let Some(at) = self.entries.iter().position(|entry| entry.ticket() == Some(ticket)) else { return };
        let Some(entry) = self.entries.get_mut(at) else { return };
        let doubtful = matches!(entry.exposure, Exposure::InFlight { doubtful: true, .. });
        self.in_flight -= 1;
        let back = |maybe: bool| if maybe { Exposure::Doubtful } else { Exposure::Unwritten };
        match answer.result {
            ProduceResult::Acked { base_offset } => self.acked(at, base_offset, answer.leader),
            ProduceResult::NotSent { message } => {
                entry.exposure = back(doubtful);
                self.unestablish();
                self.retreat();
                self.back_off(Trouble::Unreachable { message }, answer.leader, now);
            }
            ProduceResult::Lost { message } => {
                entry.exposure = Exposure::Doubtful;
                self.unestablish();
                self.retreat();
                self.back_off(Trouble::NoAnswer { message }, answer.leader, now);
            }
            ProduceResult::Refused(refusal) => {
                let maybe = doubtful || refusal.code.persisted() == Persisted::Maybe;
                entry.exposure = back(maybe);
                self.unestablish();
                self.refused(at, refusal, answer.leader, now);
            }
        }
    }

    /// The answer to [`Action::Describe`].
    pub fn on_described(&mut self, state: ProducerState, now: Time) {
        if matches!(self.doubt, Doubt::Asked) {
            self.described(state, now);
        }
    }

    /// Nothing new will come; deliver what is left. Until [`Outbox::abandon`], if it comes to that.
    pub fn close(&mut self) {
        let retry_at = match self.state {
            State::Backoff { until, .. } => Some(until),
            State::Direct => None,
            State::Closing { .. } => return,
        };
        self.state = State::Closing { retry_at };
    }

    /// The time for closing is over: what was never written is failed, what may have been is in doubt. No spool is
    /// there to keep it.
    pub fn abandon(&mut self) {
        self.in_flight = 0;
        self.doubt = Doubt::None;
        while let Some(entry) = self.entries.pop_front() {
            match entry.exposure {
                Exposure::Unwritten => {
                    let message = self.trouble.as_ref().map(ToString::to_string).unwrap_or_default();
                    self.fail(entry.batch, FailureReason::Shutdown, None, message);
                }
                Exposure::InFlight { .. } | Exposure::Doubtful => self.in_doubt(entry.batch),
            }
        }
    }

    // ---- outputs ----------------------------------------------------------------------------------------------------

    /// What happened to batches since the last call; to be called until `None`.
    pub fn poll_event(&mut self) -> Option<OutboxEvent> {
        self.events.pop_front()
    }

    /// What to do now; to be called again until it says [`Action::Wait`], and again after every input, when the time
    /// it gave has come, and when the leader changes. Spurious calls are harmless. `leader` is who leads the partition
    /// as far as is known; `unix_ms` is the wall clock, to be held against event times.
    pub fn poll_action(&mut self, leader: Option<Leader>, now: Time, unix_ms: i64) -> Action {
        if let Some(until) = self.waiting_until(leader, now) {
            return Action::Wait { until: Some(until) };
        }
        let Some(leader) = leader else { return Action::Wait { until: None } };
        if self.entries.is_empty() {
            return Action::Wait { until: None };
        }
        if self.in_flight == 0 {
            self.notice_other_topic(leader);
            if let Some(action) = self.judge() {
                return action;
            }
        }
        self.send_next(leader, unix_ms).unwrap_or(Action::Wait { until: None })
    }

    /// The end of the backoff, if it still holds. A leader other than the one that failed ends it early: there is
    /// somebody new to ask.
    fn waiting_until(&mut self, leader: Option<Leader>, now: Time) -> Option<Time> {
        match self.state {
            State::Direct | State::Closing { retry_at: None } => None,
            State::Backoff { until, failed } => {
                let moved = failed.is_some() && leader.map(identify).is_some_and(|l| Some(l) != failed);
                if now < until && !moved {
                    return Some(until);
                }
                self.state = State::Direct;
                None
            }
            State::Closing { retry_at: Some(until) } if now < until => Some(until),
            State::Closing { .. } => {
                self.state = State::Closing { retry_at: None };
                None
            }
        }
    }

    /// A topic deleted and created again is another log: nothing of the old one counts there (delivery-rules.md 1.7).
    fn notice_other_topic(&mut self, leader: Leader) {
        let Some(run) = &mut self.run else { return };
        match run.topic_id {
            None => run.topic_id = Some(leader.topic_id),
            Some(known) if known == leader.topic_id => {}
            // A broker that gives no ids has nothing to say about it.
            Some(known) if known == TopicId::default() || leader.topic_id == TopicId::default() => {}
            Some(_) => {
                self.end_run();
                self.doubt = Doubt::None;
                for entry in &mut self.entries {
                    entry.exposure = Exposure::Unwritten;
                    entry.verdict = None;
                }
                self.events.push_back(OutboxEvent::TopicRecreated);
            }
        }
    }

    /// The next batch to send, if one may be sent now.
    fn send_next(&mut self, leader: Leader, unix_ms: i64) -> Option<Action> {
        let at = self.in_flight as usize;
        // Those in flight are the first `at` entries, or an older one was answered with an error: drain first.
        let head_is_flying = self.entries.iter().take(at).all(|e| e.ticket().is_some());
        let entry = self.entries.get(at)?;
        if !head_is_flying || entry.verdict.is_some() {
            return None;
        }
        if at > 0 {
            let same_run = self.settings.idempotent
                && (entry.run.is_none() || entry.run == self.run.as_ref().map(|run| run.ordinal))
                && self
                    .entries
                    .get(at - 1)
                    .is_some_and(|e| e.run == self.run.as_ref().map(|run| run.ordinal));
            if !same_run
                || !self.established(leader, unix_ms)
                || self.in_flight >= self.settings.max_in_flight
            {
                return None;
            }
        }
        if self.settings.idempotent
            && let Some(action) = self.stamp(at, leader)
        {
            return Some(action);
        }
        Some(self.fly(at))
    }

    fn established(&self, leader: Leader, unix_ms: i64) -> bool {
        let established = self.run.as_ref().and_then(|run| run.established);
        established
            .is_some_and(|e| e.leader == leader && unix_ms.saturating_sub(e.event_time) < ESTABLISHED_FOR_MS)
    }

    /// Makes sure that entry `at` carries numbers of a run; asks for an identity where there is none.
    fn stamp(&mut self, at: usize, leader: Leader) -> Option<Action> {
        let current = self.run.as_ref().map(|run| run.ordinal);
        let entry = self.entries.get(at)?;
        // What may lie in the log keeps its numbers until that is known; so does what belongs to the current run.
        if entry.exposure == Exposure::Doubtful || (entry.run.is_some() && entry.run == current) {
            return None;
        }
        if self.run.is_none() {
            let Some(identity) = self.identity else {
                return Some(self.ask_identity());
            };
            let ordinal = self.next_run;
            self.next_run += 1;
            self.run = Some(Run {
                ordinal,
                identity,
                next_sequence: self.settings.first_sequence,
                topic_id: Some(leader.topic_id),
                established: None,
            });
        }
        let (run, entry) = (self.run.as_mut()?, self.entries.get_mut(at)?);
        entry.batch.set_stamp(Stamp {
            producer_id: run.identity.id,
            epoch: run.identity.epoch,
            first_sequence: run.next_sequence,
        });
        entry.run = Some(run.ordinal);
        run.next_sequence = sequence_add(run.next_sequence, entry.batch.count());
        None
    }

    fn ask_identity(&mut self) -> Action {
        if self.identity_asked {
            return Action::Wait { until: None };
        }
        self.identity_asked = true;
        Action::InitProducerId { other_than: self.spent }
    }

    /// Sends entry `at` as it is.
    fn fly(&mut self, at: usize) -> Action {
        let Some(entry) = self.entries.get_mut(at) else { return Action::Wait { until: None } };
        let doubtful = entry.exposure == Exposure::Doubtful;
        if doubtful && !self.settings.idempotent && !entry.counted {
            entry.counted = true;
            self.tally.possible_duplicates += u64::from(entry.batch.count());
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        entry.exposure = Exposure::InFlight { ticket, doubtful };
        entry.attempts += 1;
        self.in_flight += 1;
        entry.batch.finish();
        Action::Produce { ticket, batch: entry.batch.clone() }
    }

    // ---- outcomes ---------------------------------------------------------------------------------------------------

    fn acked(&mut self, at: usize, base_offset: Option<i64>, leader: Option<Leader>) {
        let Some(entry) = self.entries.remove(at) else { return };
        if let (Some(run), Some(leader)) = (&mut self.run, leader)
            && self.settings.idempotent
            && entry.run == Some(run.ordinal)
        {
            run.established = Some(Established { leader, event_time: entry.batch.max_timestamp() });
        }
        if self.settings.idempotent {
            self.prove_before(at, entry.run);
        }
        self.deliver(entry, base_offset);
        self.doubt = Doubt::None;
        self.backoff.reset();
        self.state = match self.state {
            State::Closing { .. } => State::Closing { retry_at: None },
            State::Direct | State::Backoff { .. } => State::Direct,
        };
        if self.trouble.take().is_some() {
            self.events.push_back(OutboxEvent::Recovered);
        }
    }

    /// A batch of `run` was taken by the broker: what is in doubt before it *in its run* is written (delivery-rules.md
    /// 2.2, 2.3). What was definitely refused before it is not: that would be a reordering, which is counted (2.5).
    fn prove_before(&mut self, at: usize, run: Option<u64>) {
        let mut overtaken = false;
        let mut i = 0;
        let mut left = at;
        while left > 0 {
            left -= 1;
            let Some(entry) = self.entries.get(i) else { break };
            match entry.exposure {
                Exposure::Doubtful if entry.run == run => {
                    if let Some(entry) = self.entries.remove(i) {
                        self.tally.proven += u64::from(entry.batch.count());
                        self.deliver(entry, None);
                    }
                    continue;
                }
                Exposure::Unwritten => overtaken = true,
                Exposure::Doubtful | Exposure::InFlight { .. } => {}
            }
            i += 1;
        }
        if overtaken {
            self.tally.reorderings += 1;
            self.end_run();
        }
    }

    fn refused(&mut self, at: usize, refusal: Refusal, leader: Option<Leader>, now: Time) {
        let alone = self.in_flight == 0;
        match refusal.code {
            // Written before, offset forgotten.
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER if self.settings.idempotent => {
                return self.acked(at, None, None);
            }
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER if self.settings.idempotent => {
                self.out_of_order(at, alone);
            }
            code if code.class() == ErrorClass::Fatal && self.settings.idempotent => {
                self.set_verdict(at, Verdict::Fenced);
            }
            code => match code.class() {
                ErrorClass::TooLarge => self.set_verdict(at, Verdict::TooLarge(refusal)),
                ErrorClass::Rejected => self.set_verdict(at, Verdict::Rejected(refusal)),
                ErrorClass::Retriable => {
                    self.retreat();
                    self.back_off(Trouble::Refused(refusal), leader, now);
                }
                ErrorClass::Unavailable | ErrorClass::Fatal => {
                    self.retreat();
                    self.back_off(Trouble::Held(refusal), leader, now);
                }
            },
        }
    }

    /// A batch that was sent again for proof got no answer to that question: ask anew, after the pause.
    fn retreat(&mut self) {
        if self.doubt != Doubt::None {
            self.doubt = Doubt::Ask;
        }
    }

    fn back_off(&mut self, trouble: Trouble, leader: Option<Leader>, now: Time) {
        if self.trouble.is_none() {
            self.events.push_back(OutboxEvent::Troubled(trouble.clone()));
        }
        self.trouble = Some(trouble);
        // Several batches of one broken connection are one failure.
        if let State::Backoff { until, .. } | State::Closing { retry_at: Some(until) } = self.state
            && now < until
        {
            return;
        }
        let until = now + self.backoff.next_delay();
        self.state = match self.state {
            State::Closing { .. } => State::Closing { retry_at: Some(until) },
            State::Direct | State::Backoff { .. } => State::Backoff { until, failed: leader.map(identify) },
        };
    }

    fn unestablish(&mut self) {
        if let Some(run) = &mut self.run {
            run.established = None;
        }
    }

    /// The next batch that is stamped begins a new run: our own id with the partition's next epoch (delivery-rules.md
    /// 1.3), or a new id once the epochs are used up.
    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        match run.identity.epoch.checked_add(1) {
            Some(epoch) => self.identity = Some(ProducerIdentity { epoch, ..run.identity }),
            None => self.forget_identity(run.identity.id),
        }
    }

    fn forget_identity(&mut self, id: i64) {
        self.run = None;
        self.identity = None;
        self.spent = Some(id);
    }

    // ---- settling ---------------------------------------------------------------------------------------------------

    fn deliver(&mut self, entry: Entry, base_offset: Option<i64>) {
        self.tally.delivered += u64::from(entry.batch.count());
        self.events.push_back(OutboxEvent::Delivered {
            batch: entry.batch,
            base_offset,
            opened: entry.opened,
            attempts: entry.attempts,
        });
    }

    fn fail(&mut self, batch: RecordBatch, reason: FailureReason, code: Option<i16>, message: String) {
        self.tally.lost += u64::from(batch.count());
        let error = DeliveryError { reason, persisted: Persisted::No, code, message };
        self.events.push_back(OutboxEvent::Failed { batch, error });
    }

    fn in_doubt(&mut self, batch: RecordBatch) {
        self.tally.in_doubt += u64::from(batch.count());
        self.events.push_back(OutboxEvent::InDoubt { batch });
    }
}

/// What of a leader decides whether there is somebody new to ask: not the connection, or a broker that accepts and
/// closes would be asked without pause.
fn identify(leader: Leader) -> (i32, i32) {
    (leader.node, leader.epoch)
}

#[cfg(test)]
mod tests;
