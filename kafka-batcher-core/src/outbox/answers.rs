//! What an answer to a Produce request does: settle, prove, hold, pause, or leave a verdict for the head.

use super::entry::{Doubt, Entry, Established, Exposure, Identity, Pause, Place, State, Verdict};
use super::judge::distance;
use super::{OnExpiredTimestamp, Outbox, OutboxEvent, Trouble, identify};
use crate::batch::RecordBatch;
use crate::delivery::{Leader, ProduceAnswer, ProduceResult, ProducerIdentity, Refusal};
use crate::error::{DeliveryError, FailureReason, Persisted};
use crate::error_code::{ErrorClass, ErrorCode};
use crate::time::Time;

/// So many refusals of our numbers in a row are met at once: a broker that restarted calls for two. After that the
/// backoff rules, or a broker that refuses every number would be asked without pause.
const STUMBLES_AT_ONCE: u32 = 3;

/// A time that lies so close to now is not refused because it is old.
const SAME_TIME_MS: i64 = 60_000;

impl Outbox {
    /// The answer to the [`Action::Produce`](super::Action::Produce) with this ticket. Every ticket is answered once;
    /// another is ignored.
    pub fn on_produced(&mut self, ticket: u64, answer: ProduceAnswer, now: Time) {
        let Some(at) = self.entries.iter().position(|entry| entry.ticket() == Some(ticket)) else { return };
        let Some((Exposure::InFlight { doubtful, to, admitted, spooled, .. }, on_disk)) =
            self.entries.get(at).map(|entry| (entry.exposure, entry.place != Place::Memory))
        else {
            return;
        };
        self.in_flight -= 1;
        let trouble = match answer.result {
            ProduceResult::Acked { .. } if on_disk && !spooled && self.settings.required_acks == 0 => {
                // It was saved while it was on its way to the socket, and the socket is no reason to give up what is durable: it is
                // sent once more, and all replicas acknowledge it.
                self.came_back(at, true);
                return;
            }
            ProduceResult::Acked { base_offset } => return self.acked(at, base_offset, answer.leader),
            ProduceResult::Refused(refusal) => {
                return self.refused(at, refusal, doubtful, answer.leader.unwrap_or(to), now);
            }
            ProduceResult::NotSent { message } => {
                self.tally.possible_duplicates -= admitted;
                if self.came_back(at, doubtful) {
                    return;
                }
                Trouble::Unreachable { message }
            }
            ProduceResult::Lost { message } => {
                #[cfg(test)]
                {
                    if super::simulator::planted(super::simulator::Mutation::CommitBeforeAck) {
                        return self.acked(at, None, answer.leader);
                    }
                }
                if self.came_back(at, true) {
                    return;
                }
                self.entries.iter_mut().skip(at).take(1).for_each(|entry| entry.strayed = true);
                Trouble::NoAnswer { message }
            }
        };
        self.retreat();
        self.back_off(trouble, answer.leader, now);
    }

    /// An attempt was not acknowledged; `maybe`: it, or one before, may have written. True: it is settled all the same.
    fn came_back(&mut self, at: usize, maybe: bool) -> bool {
        if let Some(run) = &mut self.run {
            run.established = None;
        }
        let Some(entry) = self.entries.get_mut(at) else { return true };
        entry.exposure = if maybe { Exposure::Doubtful } else { Exposure::Unwritten };
        #[cfg(test)]
        {
            if maybe && super::simulator::planted(super::simulator::Mutation::ResendWithNewNumbers) {
                entry.exposure = Exposure::Unwritten;
                self.end_run();
                return false;
            }
        }
        let run = self.run.as_ref().filter(|run| entry.run == Some(run.ordinal));
        let acked_through = run.and_then(|run| run.acked_through);
        let vouched = acked_through.is_some_and(|last| distance(last, entry.batch.last_sequence()) >= 0);
        if vouched && maybe {
            // A younger batch of the run was acknowledged meanwhile.
            if let Some(entry) = self.entries.remove(at) {
                self.proven(entry);
            }
            return true;
        }
        if vouched {
            let excused = self.entries.get(at).is_some_and(Self::may_have_gone_before);
            self.overtaken(!excused);
        }
        false
    }

    /// One that may be in the log under numbers that were given up is counted as that; which numbers an earlier process gave
    /// up, nobody knows.
    pub(super) fn may_have_gone_before(entry: &Entry) -> bool {
        entry.haunted || entry.inherited
    }

    // ---- acknowledged -----------------------------------------------------------------------------------------------

    fn acked(&mut self, at: usize, base_offset: Option<i64>, leader: Option<Leader>) {
        let Some(entry) = self.entries.remove(at) else { return };
        self.spool.away_since = None;
        // A batch accepted by another leader than the one that raised the question answers nothing.
        let same = |asked: Leader| leader.is_none_or(|leader| leader == asked);
        #[cfg(test)]
        let same =
            |asked| same(asked) || super::simulator::planted(super::simulator::Mutation::ProofAcrossLeaders);
        if self.settings.idempotent && self.doubt.bound_to().is_none_or(same) {
            let last = entry.batch.last_sequence();
            if let Some(run) = self.run.as_mut().filter(|run| entry.run == Some(run.ordinal)) {
                if run.acked_through.is_none_or(|through| distance(last, through) > 0) {
                    run.acked_through = Some(last);
                }
                if let Some(leader) = leader {
                    run.established = Some(Established { leader, event_time: entry.batch.max_timestamp() });
                }
            }
            self.prove_before(at, entry.run);
            if let Doubt::Proving { run, .. } | Doubt::Stepping { run, .. } = self.doubt
                && entry.run == Some(run)
            {
                self.prove_passed();
            }
        }
        self.deliver(entry, base_offset);
        self.doubt = Doubt::None;
        self.stumbles = 0;
        self.backoff.reset();
        self.state = match self.state {
            State::Spooling(_) => State::Replaying,
            state => state.with(None),
        };
        if self.trouble.take().is_some() {
            self.events.push_back(OutboxEvent::Recovered);
        }
    }

    /// A batch of `run` was taken by the broker: what is in doubt before it *in its run* is written (DESIGN.md, Delivery).
    /// What was definitely refused before it is not: that would be a reordering, which is counted.
    fn prove_before(&mut self, at: usize, run: Option<u64>) {
        let mut overtaken = false;
        let mut i = 0;
        for _ in 0..at {
            let Some(entry) = self.entries.get(i) else { break };
            match entry.exposure {
                Exposure::Doubtful if entry.run == run => {
                    if let Some(entry) = self.entries.remove(i) {
                        self.proven(entry);
                    }
                    continue;
                }
                Exposure::Unwritten => overtaken |= !Self::may_have_gone_before(entry),
                Exposure::Doubtful | Exposure::InFlight { .. } => {}
            }
            i += 1;
        }
        if overtaken {
            self.overtaken(true);
        }
    }

    /// A younger batch is in the log, an older one is not: the older goes in a new run, and nobody hides it (unless it was
    /// counted as a possible duplicate: then it may have gone first).
    fn overtaken(&mut self, counted: bool) {
        self.tally.reorderings += u64::from(counted);
        self.end_run();
        for entry in self.entries.iter_mut().filter(|entry| entry.exposure == Exposure::Unwritten) {
            entry.verdict.take_if(|verdict| matches!(verdict, Verdict::OutOfOrder(_)));
        }
    }

    // ---- refused ----------------------------------------------------------------------------------------------------

    fn refused(&mut self, at: usize, refusal: Refusal, doubtful: bool, leader: Leader, now: Time) {
        let code = refusal.code;
        #[cfg(test)]
        {
            let younger = code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER && at > 0;
            if younger && super::simulator::planted(super::simulator::Mutation::JudgeYoungerAtOnce) {
                return self.acked(at, None, None);
            }
        }
        // Written before, offset forgotten.
        if code == ErrorCode::DUPLICATE_SEQUENCE_NUMBER && self.settings.idempotent {
            return self.acked(at, None, None);
        }
        #[allow(unused_mut, reason = "tests plant a mutation here")]
        let mut maybe = doubtful || self.may_be_written(code);
        #[cfg(test)]
        {
            let clear = matches!(code.class(), ErrorClass::TooLarge | ErrorClass::Rejected);
            maybe &= !(clear && super::simulator::planted(super::simulator::Mutation::RefusalIsProof));
        }
        if self.came_back(at, maybe) {
            return;
        }
        match code.class() {
            _ if code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER && self.settings.idempotent => {
                if self.out_of_order(at, leader) {
                    self.stumble(refusal, leader, now);
                }
            }
            ErrorClass::Fatal if self.settings.idempotent => {
                self.set_verdict(at, Verdict::Fenced, now);
                self.stumble(refusal, leader, now);
            }
            ErrorClass::TooLarge => self.set_verdict(at, Verdict::TooLarge(refusal), now),
            ErrorClass::Rejected => match self.verdict_on_time(at, &refusal, now) {
                Some(OnExpiredTimestamp::Hold) => self.hold(refusal, leader, now),
                Some(OnExpiredTimestamp::RestampTime) => self.set_verdict(at, Verdict::OldTime(refusal), now),
                Some(OnExpiredTimestamp::DeadLetter) | None => {
                    self.set_verdict(at, Verdict::Rejected(refusal), now);
                }
            },
            ErrorClass::Retriable => {
                self.retreat();
                self.back_off(Trouble::Refused(refusal), Some(leader), now);
            }
            ErrorClass::Unavailable | ErrorClass::Fatal => self.hold(refusal, leader, now),
        }
    }

    fn hold(&mut self, refusal: Refusal, leader: Leader, now: Time) {
        self.retreat();
        self.back_off(Trouble::Held(refusal), Some(leader), now);
    }

    /// What the user wants done about it, if the broker refuses a time that this process gave.
    fn verdict_on_time(&self, at: usize, refusal: &Refusal, now: Time) -> Option<OnExpiredTimestamp> {
        if !self.refuses_our_time(at, refusal) {
            return None;
        }
        let batch = &self.entries.get(at)?.batch;
        let another = self.wall_ms(now).saturating_sub(batch.max_timestamp()) > SAME_TIME_MS;
        match self.settings.on_expired_timestamp {
            // Of now, or of the future: it would be refused again.
            OnExpiredTimestamp::RestampTime if !another => Some(OnExpiredTimestamp::Hold),
            mode => Some(mode),
        }
    }

    /// With acks = 1 nobody waits for replicas, so a moved leader answers before it writes, not after.
    fn may_be_written(&self, code: ErrorCode) -> bool {
        let moved = matches!(code, ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        code.persisted() == Persisted::Maybe && (self.settings.idempotent || !moved)
    }

    /// 32 of a time that we assigned: not the event's fault, so nothing is rejected for it. A batch of both kinds in
    /// which the broker names nobody is halved until it is known whose time it is.
    fn refuses_our_time(&self, at: usize, refusal: &Refusal) -> bool {
        let Some(batch) = self.entries.get(at).map(|entry| &entry.batch) else { return false };
        if refusal.code != ErrorCode::INVALID_TIMESTAMP {
            return false;
        }
        let mut named =
            refusal.record_errors.iter().map(|(i, _)| *i).filter(|i| *i < batch.count()).peekable();
        match named.peek() {
            Some(_) => named.any(|i| !batch.time_given(i)),
            None => !batch.any_time_given(),
        }
    }

    /// Our numbers were refused, once more.
    fn stumble(&mut self, refusal: Refusal, leader: Leader, now: Time) {
        self.stumbles += 1;
        if self.stumbles > STUMBLES_AT_ONCE {
            self.back_off(Trouble::Refused(refusal), Some(leader), now);
        }
    }

    /// A batch that was sent again for proof got no answer to that question: ask anew, after the pause.
    fn retreat(&mut self) {
        if self.doubt != Doubt::None {
            self.doubt = Doubt::Ask;
        }
    }

    pub(super) fn back_off(&mut self, trouble: Trouble, leader: Option<Leader>, now: Time) {
        let graver =
            self.trouble.as_ref().is_none_or(|old| trouble.needs_somebody() && !old.needs_somebody());
        if graver {
            self.events.push_back(OutboxEvent::Troubled(trouble.clone()));
            self.trouble = Some(trouble);
        }
        // Several batches of one broken connection are one failure.
        if self.state.pause().is_some_and(|pause| now < pause.until) {
            return;
        }
        let pause = Pause { until: now + self.backoff.next_delay(), failed: leader.map(identify) };
        self.state = self.state.with(Some(pause));
    }

    // ---- the end of a run -------------------------------------------------------------------------------------------

    /// The next batch that is stamped begins a new run: our own id with the partition's next epoch (DESIGN.md, Delivery), or a
    /// new id once the epochs are used up.
    pub(super) fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        if run.foreign {
            // An id that this process did not obtain is never bumped.
            return;
        }
        match run.identity.epoch.checked_add(1) {
            Some(epoch) => self.identity = Identity::Bumped(ProducerIdentity { epoch, ..run.identity }),
            None => self.forget_identity(run.identity.id),
        }
    }

    /// This id begins no run any more.
    pub(super) fn forget_identity(&mut self, id: i64) {
        self.spent.add(id);
        self.run.take_if(|run| run.identity.id == id);
        if matches!(self.identity, Identity::Fresh(own) | Identity::Bumped(own) if own.id == id) {
            self.identity = Identity::None;
        }
    }

    // ---- settling ---------------------------------------------------------------------------------------------------

    fn proven(&mut self, entry: Entry) {
        self.tally.proven += u64::from(entry.batch.count());
        self.deliver(entry, None);
    }

    fn deliver(&mut self, entry: Entry, base_offset: Option<i64>) {
        self.keep_settled(&entry);
        self.tally.delivered += entry.events();
        self.settled_some = true;
        self.events.push_back(OutboxEvent::Delivered {
            base_offset,
            opened: entry.opened,
            attempts: entry.attempts,
            durable: entry.place != Place::Memory,
            batch: entry.batch,
        });
    }

    /// `batch` is what fails of the entry; if it may have gone before, an attempt of it, under numbers that were given up, may lie
    /// in the log.
    pub(super) fn fail(
        &mut self,
        entry: &Entry,
        batch: RecordBatch,
        reason: FailureReason,
        code: Option<i16>,
        message: String,
    ) {
        let persisted = if Self::may_have_gone_before(entry) { Persisted::Maybe } else { Persisted::No };
        let error = DeliveryError { reason, persisted, code, message };
        self.settled_some = true;
        if self.put_aside(batch.clone(), entry.position(), error.clone()) {
            return;
        }
        match persisted {
            Persisted::No => self.tally.lost += u64::from(batch.count()),
            Persisted::Maybe => self.tally.in_doubt += u64::from(batch.count()),
        }
        self.events.push_back(OutboxEvent::Failed { batch, error, durable: entry.place != Place::Memory });
    }

    pub(super) fn in_doubt(&mut self, entry: &Entry) {
        self.tally.in_doubt += entry.events();
        self.settled_some = true;
        let durable = entry.place != Place::Memory;
        self.events.push_back(OutboxEvent::InDoubt { batch: entry.batch.clone(), durable });
    }
}
