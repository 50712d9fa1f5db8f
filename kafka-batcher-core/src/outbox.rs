//! `Outbox`: the delivery order of one partition, decided in one place.
//!
//! What it is for: sealed batches come in, in the order of acceptance; out go the actions by which each of them is
//! written once, in that order, whatever the broker, the network and the leader do: [`Action::Produce`],
//! [`Action::Describe`], [`Action::InitProducerId`]. Stamping, retry, commit and proof happen here and nowhere else.
//!
//! What it promises: the rules of delivery (DESIGN.md, "Delivery", holds the table *state x input -> actions* that
//! this file implements, and names the test of each rule). In short:
//!
//! - one number, one event: a stamp stays with its bytes through every retry; what gets new numbers is certainly not
//!   in the log under the old ones, or is counted as a possible duplicate;
//! - more than one batch in flight only while the run is *established*; after any error the head goes alone;
//! - 45 is judged only at the head, with nothing else in flight, and by asking the broker, not by guessing;
//! - an event that is refused for good ends the run: what follows gets new numbers.
//!
//! What it refuses: to read a clock, to do I/O, and to drop anything in silence.
//!
//! The files: here the inputs, the outputs and what is sent next; `spooling.rs` what lies on disk and moves there and back;
//! `answers.rs` what an answer does; `expiry.rs` what goes by the user's order; `judge.rs` doubt and proof; `cut.rs` the batch that is refused for good; `entry.rs` what is kept in mind; `types.rs` the words.

mod answers;
mod cut;
mod entry;
mod expiry;
mod judge;
mod spooling;
mod types;

use std::collections::VecDeque;
use std::time::Duration;

use self::entry::{Doubt, Entry, Exposure, Identity, Place, Run, Spent, State};
use self::expiry::Expiry;
use self::spooling::Spool;
pub use self::types::{
    Action, OnExpiredTimestamp, OnFull, OutboxEvent, OutboxSettings, SpoolMode, SpoolSettings, Tally, Trouble,
};
use crate::backoff::Backoff;
use crate::batch::{RecordBatch, Stamp, sequence_add};
use crate::buffer_pool::{BufferPool, Share};
use crate::delivery::{Leader, ProducerIdentity, ProducerState, TopicId};
use crate::error::FailureReason;
use crate::spool::Origin;
use crate::time::Time;

/// How far back, in event time, an acknowledgement may lie for the run to count as established. A broker forgets a
/// producer id by event time (`producer.id.expiration.ms`, 24 h); an hour leaves room for clocks that disagree.
const ESTABLISHED_FOR_MS: i64 = 3_600_000;

/// From this age of its events on, a resend may be written twice, because the broker may have forgotten the id: the
/// default of `producer.id.expiration.ms` less the same hour.
const FORGOTTEN_AFTER_MS: i64 = 23 * 3_600_000;

/// How long a partition may have no leader, although something waits, until that is told; with a spool its `spool_after`
/// says. An election takes less, and nobody should be called for it.
const LEADERLESS_FOR: Duration = Duration::from_secs(5);

/// How many batches of a producer a broker recognises (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const REMEMBERED: u32 = 5;

/// The delivery order of one partition. See the module's documentation.
pub struct Outbox {
    settings: OutboxSettings,
    state: State,
    /// What is not settled yet, oldest first. Entries in flight come first unless one of them was answered with an error.
    entries: VecDeque<Entry>,
    /// What came in while the spool holds older ones that are not in memory.
    behind: VecDeque<Entry>,
    spool: Spool,
    expiry: Expiry,
    /// Something was settled since the spool was last told.
    settled_some: bool,
    in_flight: u32,
    /// Where numbers given now mean something.
    origin: Origin,
    /// The topic that the entries' numbers belong to.
    topic: Option<TopicId>,
    /// The run that the next unstamped batch joins.
    run: Option<Run>,
    /// Names runs within this outbox; never reused.
    next_run: u64,
    /// Where the next run's numbers come from.
    identity: Identity,
    spent: Spent,
    doubt: Doubt,
    backoff: Backoff,
    /// Since when nobody is known to lead the partition, although something waits.
    leaderless_since: Option<Time>,
    /// Refusals of our numbers since the last acknowledgement: the first few are met at once, the rest after a pause.
    stumbles: u32,
    next_ticket: u64,
    next_ordinal: u64,
    next_entry: u64,
    events: VecDeque<OutboxEvent>,
    tally: Tally,
    /// The gravest trouble since the last acknowledgement: what the operator was told.
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
            behind: VecDeque::new(),
            spool: Spool::default(),
            expiry: Expiry::default(),
            settled_some: false,
            in_flight: 0,
            origin: Origin::default(),
            topic: None,
            run: None,
            next_run: 0,
            identity: Identity::None,
            spent: Spent::default(),
            doubt: Doubt::None,
            leaderless_since: None,
            stumbles: 0,
            next_ticket: 0,
            next_ordinal: 0,
            next_entry: 0,
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
        for entry in self.entries.iter().chain(&self.behind) {
            match (entry.exposure, &entry.place) {
                (Exposure::InFlight { .. }, _) => tally.in_flight += entry.events(),
                (_, Place::Memory) => tally.in_memory += entry.events(),
                (_, Place::Disk { .. }) => tally.spooled += entry.events(),
            }
        }
        for letter in self.letters() {
            match letter.position {
                None => tally.in_memory += u64::from(letter.batch.count()),
                Some(_) => tally.spooled += u64::from(letter.batch.count()),
            }
        }
        tally.spooled += self.spool.gap.events + self.spool.passed.map_or(0, |passed| passed.events);
        tally
    }

    /// How long the oldest event has waited that is neither acknowledged nor given up, and the oldest of those on disk; what an
    /// earlier process left is as old as its time on disk. `None`: nothing waits, or nobody knows since when. For whoever watches;
    /// nothing is decided by it.
    pub fn oldest(&self, now: Time, unix_ms: i64) -> (Option<Duration>, Option<Duration>) {
        let by_wall = |since: i64| {
            let age = unix_ms.saturating_sub(since).max(0).unsigned_abs();
            (since > 0).then(|| Duration::from_millis(age))
        };
        let age = |entry: &Entry| entry.opened.map(|opened| now.since(opened)).or(by_wall(entry.accepted_by));
        let stretches = [Some(self.spool.gap), self.spool.passed];
        let stretches = stretches.into_iter().flatten().filter(|stretch| stretch.events > 0);
        let stretches = stretches.filter_map(|stretch| by_wall(stretch.since)).max();
        let entries = || self.entries.iter().chain(&self.behind);
        let saved = entries().filter(|entry| entry.place != Place::Memory).filter_map(age).max();
        let on_disk = saved.max(stretches);
        (entries().filter_map(age).max().max(on_disk), on_disk)
    }

    /// True if nothing is left to do: nothing in memory, and, until the time for closing is over, nothing on disk.
    pub fn is_empty(&self) -> bool {
        let idle = self.entries.is_empty() && self.behind.is_empty() && self.spool.rejecting.is_none();
        idle && (self.state == State::Ending || !self.has_gap())
    }

    /// True if a batch in memory waits, to be sent or to be saved: one that came in now would only wait behind it.
    pub fn has_unsent(&self) -> bool {
        let youngest_waits =
            self.behind.back().or(self.entries.back()).is_some_and(|e| e.place == Place::Memory);
        match self.state {
            State::Spooling(_) | State::Ending => youngest_waits,
            _ if self.has_gap() => youngest_waits,
            _ => self.entries.len() > self.in_flight as usize,
        }
    }

    /// Batches in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The number that the next batch to come in will get: a mark for flush.
    pub fn next_ordinal(&self) -> u64 {
        self.next_ordinal
    }

    /// True if every batch numbered below `ordinal` is settled or durable.
    pub fn settled_below(&self, ordinal: u64) -> bool {
        // What is not on disk is the youngest, and in order.
        let mut all = self.entries.iter().chain(&self.behind);
        let letters = self.letters().all(|letter| letter.position.is_some());
        letters && all.find(|entry| entry.place == Place::Memory).is_none_or(|entry| entry.ordinal >= ordinal)
    }

    /// The gravest trouble since the last acknowledgement.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// All that it has in mind, for a trace.
    #[cfg(test)]
    fn describe(&self) -> String {
        let Outbox { state, doubt, entries, behind, spool, .. } = self;
        format!("{state:?}, {doubt:?}, {spool:?}, {entries:#?}, behind {behind:?}")
    }

    // ---- inputs (answers to Produce: answers.rs) ----------------------------------------------------------------------

    /// A sealed batch, the youngest of its partition; `opened` is the acceptance of its oldest event.
    pub fn on_sealed(&mut self, batch: RecordBatch, opened: Time) {
        self.tally.accepted += u64::from(batch.count());
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        let id = self.next_id();
        let entry = Entry::new(id, batch, ordinal, Some(opened));
        #[allow(unused_mut, reason = "tests plant a mutation here")]
        let mut older_on_disk = self.has_gap() || !self.behind.is_empty();
        #[cfg(test)]
        {
            older_on_disk &= !simulator::planted(simulator::Mutation::OvertakeTheSpool);
        }
        match older_on_disk {
            true => self.behind.push_back(entry),
            false => self.entries.push_back(entry),
        }
    }

    /// The identity that [`Action::InitProducerId`] asked for. Ignored if none was asked for.
    pub fn on_identity(&mut self, identity: ProducerIdentity) {
        if self.identity != Identity::Asked {
            return;
        }
        self.identity = if identity.id < 0 || identity.epoch < 0 {
            // Brokers that start answer so; stamping it would turn idempotence off without a word.
            Identity::Refused(format!("it answered with producer id {}", identity.id))
        } else if self.spent.has(identity.id) {
            // From now on it is the one not to be given.
            self.spent.add(identity.id);
            Identity::Refused(format!("producer id {} came again, and is used up", identity.id))
        } else {
            Identity::Fresh(identity)
        };
    }

    /// The identity could not be had: wait, then ask again.
    pub fn on_identity_failed(&mut self, message: String, now: Time) {
        if self.identity == Identity::Asked {
            self.identity = Identity::None;
            self.back_off(Trouble::NoIdentity { message }, None, now);
        }
    }

    /// The answer to [`Action::Describe`], by the leader that `poll_action` was told when it asked for it. A driver that
    /// knows who answered calls [`Outbox::on_described_by`].
    pub fn on_described(&mut self, state: ProducerState, now: Time) {
        let Doubt::Asked(leader) = self.doubt else { return };
        self.doubt = match state {
            ProducerState::Failed { message } => {
                self.back_off(Trouble::NoAnswer { message }, None, now);
                Doubt::Ask
            }
            // Judged when it is known that it still leads.
            answer => Doubt::Answered(leader, answer),
        };
    }

    /// The answer to [`Action::Describe`], and who gave it: another leader than was to be asked proves nothing.
    pub fn on_described_by(&mut self, leader: Option<Leader>, state: ProducerState, now: Time) {
        match self.doubt {
            Doubt::Asked(asked) if leader.is_some_and(|leader| leader != asked) => self.doubt = Doubt::Ask,
            _ => self.on_described(state, now),
        }
    }

    /// Nothing new will come; deliver what is left. Until [`Outbox::spill`] or [`Outbox::abandon`], if it comes to that.
    pub fn close(&mut self) {
        if self.state != State::Ending {
            self.state = State::Closing(self.state.pause());
        }
    }

    /// The time for closing is over: nothing is sent any more, and everything that is left goes to the spool, what is in
    /// flight, too. When that is done the outbox is empty. Without a spool that keeps anything the same as [`Outbox::abandon`].
    pub fn spill(&mut self) {
        match self.keeps() {
            true => self.state = State::Ending,
            false => self.abandon(),
        }
    }

    /// Over, now: what is in memory only is failed if it was certainly never written, else in doubt; what is on disk stays
    /// there.
    pub fn abandon(&mut self) {
        self.state = State::Ending;
        self.give_up_letters();
        self.in_flight = 0;
        self.doubt = Doubt::None;
        self.rewind();
        let message = self.trouble.as_ref().map(ToString::to_string).unwrap_or_default();
        let in_memory = |entry: &Entry| entry.place == Place::Memory;
        let first = self.entries.iter().position(in_memory).unwrap_or(self.entries.len());
        let mut lost = self.entries.split_off(first);
        let first = self.behind.iter().position(in_memory).unwrap_or(self.behind.len());
        lost.append(&mut self.behind.split_off(first));
        for mut entry in lost {
            // Nobody knows whether what is being saved will lie on disk; then the next process delivers it.
            entry.haunted |= self.is_saving(entry.id);
            match entry.exposure {
                Exposure::Unwritten if !entry.haunted || self.is_saving(entry.id) => {
                    self.fail(&entry, entry.batch.clone(), FailureReason::Shutdown, None, message.clone());
                }
                _ => self.in_doubt(&entry),
            }
        }
        self.entries.append(&mut self.behind);
        self.leave();
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
        self.poll(leader, now, unix_ms, true)
    }

    /// As [`Outbox::poll_action`] while no request may go to the leader, because enough are under way: everything that needs
    /// none goes on, the storage's part above all. A broker that does not answer would otherwise keep from the disk what waits
    /// for it. [`Outbox::poll_action`] is to be called as soon as a request may go.
    pub fn poll_action_without_requests(
        &mut self,
        leader: Option<Leader>,
        now: Time,
        unix_ms: i64,
    ) -> Action {
        self.poll(leader, now, unix_ms, false)
    }

    fn poll(&mut self, leader: Option<Leader>, now: Time, unix_ms: i64, requests: bool) -> Action {
        if let Identity::Refused(message) = &self.identity {
            let message = message.clone();
            self.identity = Identity::None;
            self.back_off(Trouble::NoIdentity { message }, None, now);
        }
        self.expiry.look_at_the_clock(now, unix_ms);
        self.notice_no_leader(leader, now);
        self.notice_away(now);
        self.expire(now, unix_ms);
        if let Some(action) = self.poll_storage(leader.is_some(), now) {
            return action;
        }
        // What was in trouble has found its end, delivered or not.
        if self.is_empty() && self.trouble.take().is_some() {
            self.events.push_back(OutboxEvent::Recovered);
        }
        let action = match (self.pausing_until(leader, now), leader) {
            (Some(until), _) => Action::Wait { until: Some(until) },
            (None, Some(leader)) if requests => self.poll_delivery(leader, now, unix_ms),
            (None, _) => Action::Wait { until: None },
        };
        match action {
            Action::Wait { until } => {
                let leader = self.leaderless_deadline();
                let until = [until, leader, self.spool_deadline(now), self.expiry_deadline(now)];
                Action::Wait { until: until.into_iter().flatten().min() }
            }
            action => action,
        }
    }

    /// What is to be sent or asked now.
    fn poll_delivery(&mut self, leader: Leader, now: Time, unix_ms: i64) -> Action {
        let wait = Action::Wait { until: None };
        match self.state {
            State::Ending => return wait,
            State::Spooling(_) if self.in_flight > 0 => return wait,
            // The pause is over: the probe.
            State::Spooling(_) => {
                self.state = State::Replaying;
                if let Some(action) = self.poll_storage(true, now) {
                    return action;
                }
            }
            _ => {}
        }
        if matches!(self.doubt, Doubt::Asked(_)) || self.letters_first() {
            return wait;
        }
        if self.in_flight == 0 {
            self.notice_other_topic(leader);
            let check = self.check_origins(now).or_else(|| self.check_retention(now, unix_ms));
            if let Some(action) = check.or_else(|| self.judge(leader, now, unix_ms)) {
                return action;
            }
        }
        if self.entries.is_empty() || self.letters_first() {
            return self.poll_storage(true, now).unwrap_or(wait);
        }
        self.send_next(leader, unix_ms).unwrap_or(wait)
    }

    /// A partition that nobody leads raises no error: what waits just waits, and somebody must be told.
    fn notice_no_leader(&mut self, leader: Option<Leader>, now: Time) {
        if leader.is_some() || self.is_empty() || self.state == State::Ending {
            self.leaderless_since = None;
            return;
        }
        let since = *self.leaderless_since.get_or_insert(now);
        if self.leaderless_deadline().is_some_and(|at| at <= now) {
            let trouble = Trouble::NoLeader { waited: now.since(since) };
            self.events.push_back(OutboxEvent::Troubled(trouble.clone()));
            self.trouble = Some(trouble);
        }
    }

    /// When that is to be told.
    fn leaderless_deadline(&self) -> Option<Time> {
        let after = self.settings.spool.map_or(LEADERLESS_FOR, |spool| spool.after);
        let silent = self.trouble.is_none() && !self.is_empty();
        self.leaderless_since.filter(|_| silent).map(|since| since + after)
    }

    /// The end of the pause, if it still holds.
    fn pausing_until(&mut self, leader: Option<Leader>, now: Time) -> Option<Time> {
        let pause = self.state.pause()?;
        let moved = pause.failed.is_some_and(|failed| leader.is_some_and(|l| identify(l) != failed));
        if now < pause.until && !moved {
            return Some(pause.until);
        }
        self.state = self.state.with(None);
        None
    }

    /// A topic deleted and created again is another log: nothing of the old one counts there (DESIGN.md, Delivery).
    fn notice_other_topic(&mut self, leader: Leader) {
        // A broker that gives no ids has nothing to say about it.
        if leader.topic_id == TopicId::default() {
            return;
        }
        let known = self.topic.replace(leader.topic_id);
        self.origin.topic = leader.topic_id;
        if known.is_some_and(|known| known != leader.topic_id) {
            self.end_run();
            self.doubt = Doubt::None;
            self.rewind();
            for entry in &mut self.entries {
                entry.exposure = Exposure::Unwritten;
                entry.verdict = None;
            }
            self.events.push_back(OutboxEvent::TopicRecreated);
        }
    }

    /// The next batch to send, if one may be sent now.
    fn send_next(&mut self, leader: Leader, unix_ms: i64) -> Option<Action> {
        let at = self.in_flight as usize;
        // Those in flight are the first `at` entries, or an older one was answered with an error: drain first.
        let drained = self.entries.iter().take(at).all(|entry| entry.ticket().is_some());
        if !drained || self.entries.get(at)?.verdict.is_some() {
            return None;
        }
        if at > 0 && !self.may_follow(at, leader, unix_ms) {
            return None;
        }
        if self.settings.idempotent
            && let Some(action) = self.stamp(at)
        {
            return Some(action);
        }
        if !self.ready(at) {
            self.stamp_behind(at);
            return Some(self.make_ready());
        }
        Some(self.fly(at, leader, unix_ms))
    }

    /// Gives numbers to what follows entry `at`, too, so that they are made durable together.
    fn stamp_behind(&mut self, at: usize) {
        if !self.settings.idempotent {
            return;
        }
        let current = self.run.as_ref().map(|run| run.ordinal);
        for next in at + 1..self.entries.len() {
            let (Some(before), Some(entry)) = (self.entries.get(next - 1), self.entries.get(next)) else {
                return;
            };
            let follows = before.run == current && before.verdict.is_none() && entry.verdict.is_none();
            if !follows || entry.exposure != Exposure::Unwritten || self.stamp(next).is_some() {
                return;
            }
        }
    }

    /// Whether entry `at` may go while others are in flight (DESIGN.md, Delivery).
    fn may_follow(&self, at: usize, leader: Leader, unix_ms: i64) -> bool {
        let Some(run) = &self.run else { return false };
        let (Some(before), Some(entry)) = (self.entries.get(at - 1), self.entries.get(at)) else {
            return false;
        };
        let same_run = before.run == Some(run.ordinal)
            && (entry.run == Some(run.ordinal) || (entry.exposure == Exposure::Unwritten && !run.foreign));
        #[allow(unused_mut, reason = "tests plant a mutation here")]
        let mut established = run
            .established
            .is_some_and(|e| e.leader == leader && unix_ms.saturating_sub(e.event_time) < ESTABLISHED_FOR_MS);
        #[cfg(test)]
        {
            established |= simulator::planted(simulator::Mutation::PipelineBeforeEstablished);
        }
        // One that is too old to be sent waits until nothing is in flight, and goes.
        self.settings.idempotent
            && self.doubt == Doubt::None
            && !self.is_expired(entry, unix_ms)
            && self.in_flight < self.settings.max_in_flight.min(REMEMBERED)
            && same_run
            && established
    }

    /// Makes sure that entry `at` carries numbers of a run; asks for an identity where there is none.
    fn stamp(&mut self, at: usize) -> Option<Action> {
        let current = self.run.as_ref().map(|run| run.ordinal);
        let entry = self.entries.get(at)?;
        // What may lie in the log keeps its numbers until that is known; so does what belongs to the current run.
        if entry.exposure == Exposure::Doubtful || (entry.run.is_some() && entry.run == current) {
            return None;
        }
        if self.run.as_ref().is_some_and(|run| run.foreign) {
            // What an earlier process began ends with what it numbered.
            self.end_run();
        }
        if self.run.is_none() {
            if let Some(action) = self.commit_before_new_run() {
                return Some(action);
            }
            let (identity, next_sequence) = match std::mem::replace(&mut self.identity, Identity::None) {
                Identity::Fresh(identity) => (identity, self.settings.first_sequence),
                Identity::Bumped(identity) => (identity, 0),
                Identity::None => {
                    self.identity = Identity::Asked;
                    return Some(Action::InitProducerId { other_than: self.spent.latest });
                }
                waiting @ (Identity::Asked | Identity::Refused(_)) => {
                    self.identity = waiting;
                    return Some(Action::Wait { until: None });
                }
            };
            let ordinal = self.next_run;
            self.next_run += 1;
            self.remember_run(ordinal, identity.id, identity.epoch);
            self.run = Some(Run {
                ordinal,
                identity,
                next_sequence,
                established: None,
                acked_through: None,
                foreign: false,
            });
        }
        let (run, entry) = (self.run.as_mut()?, self.entries.get_mut(at)?);
        let fenced = entry.batch.stamp().producer_id == run.identity.id;
        if std::mem::take(&mut entry.strayed) && !fenced {
            // It was found not to be in the log under its old numbers, and a late request may bring it there still.
            entry.haunted = true;
            self.tally.possible_duplicates += entry.events();
        }
        entry.batch.set_stamp(Stamp {
            producer_id: run.identity.id,
            epoch: run.identity.epoch,
            first_sequence: run.next_sequence,
        });
        entry.run = Some(run.ordinal);
        // Or the numbers of before would be found to be foreign, and these be taken away again.
        entry.origin = None;
        run.next_sequence = sequence_add(run.next_sequence, entry.batch.count());
        None
    }

    /// Sends entry `at` as it is.
    fn fly(&mut self, at: usize, leader: Leader, unix_ms: i64) -> Action {
        let Some(entry) = self.entries.get_mut(at) else { return Action::Wait { until: None } };
        let doubtful = entry.exposure == Exposure::Doubtful;
        let recognised = self.settings.idempotent
            && unix_ms.saturating_sub(entry.batch.max_timestamp()) < FORGOTTEN_AFTER_MS;
        let admitted = if doubtful && !recognised { u64::from(entry.batch.count()) } else { 0 };
        self.tally.possible_duplicates += admitted;
        entry.haunted |= admitted > 0;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let spooled = entry.place != Place::Memory;
        entry.exposure = Exposure::InFlight { ticket, doubtful, to: leader, admitted, spooled };
        entry.attempts += 1;
        self.in_flight += 1;
        entry.batch.finish();
        Action::Produce { ticket, batch: entry.batch.clone(), spooled }
    }
}

/// What of a leader decides whether there is somebody new to ask.
fn identify(leader: Leader) -> (i32, i32) {
    (leader.node, leader.epoch)
}

#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
