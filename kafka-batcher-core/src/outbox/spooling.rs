//! What of a partition lies on disk, and what moves there and back.
//!
//! In the order of acceptance a partition's batches are: what was passed over while a proof is sought (on disk), the
//! entries (in memory, perhaps on disk as well), the *gap* (on disk only), and what came in behind the gap. Batches
//! that are not on disk are always the youngest. Everything that keeps the order follows from that: what is saved goes to
//! the tail, what is read comes from the gap's beginning, and nothing behind the gap is sent before the gap is empty.
//!
//! The files: here the stretches, when Kafka counts as away, and what is read and committed; `save.rs` what goes to disk
//! and what must be there before it is sent; `inputs.rs` the storage's answers; `condition.rs` what is the matter with it; `kept.rs` what is remembered of a batch
//! whose bytes are on disk only; `runs.rs` numbers of earlier processes; `seek.rs` proof by a batch further down the disk;
//! `end.rs` dead letters and the end.

mod condition;
mod end;
mod inputs;
mod kept;
mod runs;
mod save;
mod seek;

use std::collections::BTreeMap;

pub(super) use self::condition::Call;
use self::condition::Condition;
use self::kept::Kept;
use self::runs::KnownRun;
use super::entry::{Doubt, Entry, Place, State};
use super::{Action, Outbox, OutboxEvent, REMEMBERED, SpoolMode, SpoolSettings, Trouble};
use crate::batch::Stamp;
use crate::spool::DeadLetter;
use crate::time::Time;

/// So close to the tail new batches wait in memory: otherwise each would go to disk just to be read back, and a busy
/// partition would never catch up (DESIGN.md, Delivery).
const NEAR_TAIL: u64 = REMEMBERED as u64;
/// Batches in memory below which more are read.
const READ_AHEAD: usize = 2 * REMEMBERED as usize;
/// Bytes asked for by one read.
const READ_BYTES: usize = 1 << 20;
/// Bytes handed over by one save, or one batch if that is more: the next save follows when it is durable.
const SAVE_BYTES: usize = 8 << 20;
/// How long a storage that failed is left alone.
const STORAGE_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// A stretch that is only on disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stretch {
    /// Position of its first event.
    pub(super) first: u64,
    pub(super) events: u64,
    pub(super) batches: u64,
    /// Behind its last event, as far as it was put together here; 0: all of it was found.
    end: u64,
    /// Its first events were not accepted before that, in Unix milliseconds; 0: not known.
    pub(super) since: i64,
}

impl Stretch {
    /// A batch that lies before all of it.
    fn put_before(&mut self, position: u64, events: u64, accepted_by: i64) {
        if self.events == 0 {
            self.end = position + events;
        }
        self.first = position;
        self.since = accepted_by;
        self.events += events;
        self.batches += 1;
    }

    /// A batch that lies behind all of it.
    fn put_behind(&mut self, position: u64, events: u64, accepted_by: i64) {
        if self.events == 0 {
            self.first = position;
            self.since = accepted_by;
        }
        if self.since == 0 {
            // Nobody knows how old the first are: then this is when somebody must look.
            self.since = accepted_by;
        }
        self.events += events;
        self.batches += 1;
        self.end = position + events;
    }

    fn take(&mut self, events: u64, batches: u64) {
        self.events = self.events.saturating_sub(events);
        // Batches are counted to know how close the tail is; pieces of one count as several.
        self.batches = self.batches.saturating_sub(batches).max(u64::from(self.events > 0));
        if self.events == 0 {
            self.batches = 0;
        }
    }
}

/// Events that leave for good: to the dead letters, or nowhere.
#[derive(Debug, Default)]
pub(super) struct Rejecting {
    pub(super) ticket: Option<u64>,
    pub(super) letters: Vec<DeadLetter>,
    /// They are not to be kept.
    pub(super) dropped: bool,
}

/// Batches that are being saved.
#[derive(Debug)]
struct Saving {
    ticket: u64,
    bytes: u64,
    /// In order: the entry, and its events.
    items: Vec<(u64, u64)>,
    /// By entry: the numbers that it is saved with.
    numbers: BTreeMap<u64, Option<Stamp>>,
}

/// What the outbox knows of its partition's place in the spool. See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Spool {
    pub(super) gap: Stretch,
    /// Passed over: a younger batch of the same run is to prove it.
    pub(super) passed: Option<Stretch>,
    /// Behind the youngest event that was ever saved or read.
    end: u64,
    /// Position of the first event that this process saved; what lies below was found.
    own_from: Option<u64>,
    committed: u64,
    durably_committed: u64,
    saving: Option<Saving>,
    /// How often a save is halved before it is tried: a nearly full disk has room for a small one.
    halvings: u32,
    renumbering: Option<(u64, Vec<(u64, Stamp)>)>,
    /// The read that was asked for, and when.
    pub(super) reading: Option<(u64, Time)>,
    committing: Option<(u64, u64)>,
    pub(super) rejecting: Option<Rejecting>,
    /// What is to be put aside once the call that is under way has been answered.
    pub(super) more_letters: Vec<DeadLetter>,
    pub(super) condition: Condition,
    kept: BTreeMap<u64, Kept>,
    runs: Vec<KnownRun>,
    /// Since when nothing was acknowledged although something waits.
    pub(super) away_since: Option<Time>,
    foreign_told: bool,
    /// A run began although the end of the one before was not durable, because the disk was bad.
    pub(super) risked: bool,
}

impl Outbox {
    /// Bytes of batches in memory that were read from disk: besides what the pool counts.
    pub fn replay_bytes(&self) -> usize {
        self.entries.iter().filter(|entry| entry.read_back).map(|entry| entry.batch.encoded_len()).sum()
    }

    /// Is there anything on disk that is not in memory?
    pub(super) fn has_gap(&self) -> bool {
        self.spool.gap.events > 0 || self.spool.passed.is_some()
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_entry += 1;
        self.next_entry
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket - 1
    }

    /// True if nothing was acknowledged for `spool_after` although something waits.
    fn is_away(&self, spool: SpoolSettings, now: Time) -> bool {
        self.spool.away_since.is_some_and(|since| since + spool.after <= now)
    }

    /// When the outbox must look again for the spool's sake.
    pub(super) fn spool_deadline(&self, now: Time) -> Option<Time> {
        let spool = self.settings.spool?;
        let away = self.spool.away_since.map(|since| since + spool.after).filter(|at| *at > now);
        let away = away.filter(|_| !matches!(self.state, State::Spooling(_) | State::Ending));
        let away = away.filter(|_| !self.waits_for_storage(spool, now));
        // A read that takes longer is no excuse any more.
        let read = self.spool.reading.map(|(_, asked)| asked + spool.after).filter(|at| *at > now);
        [away, read, self.spool.condition.next_try()].into_iter().flatten().min()
    }

    /// Notes since when nothing was acknowledged; after `spool_after` of that, Kafka is away.
    pub(super) fn notice_away(&mut self, now: Time) {
        let Some(spool) = self.settings.spool else { return };
        if self.entries.is_empty() && self.behind.is_empty() && !self.has_gap() {
            self.spool.away_since = None;
            return;
        }
        self.spool.away_since.get_or_insert(now);
        self.excuse_kafka_so_far(now);
        if !self.is_away(spool, now) {
            return;
        }
        if let State::Direct | State::Backoff(_) = self.state {
            self.state = State::Spooling(self.state.pause());
            if self.trouble.is_none() {
                let message = format!("nothing was acknowledged for {:?}", spool.after);
                let trouble = Trouble::NoAnswer { message };
                self.events.push_back(OutboxEvent::Troubled(trouble.clone()));
                self.trouble = Some(trouble);
            }
            self.events.push_back(OutboxEvent::Spooling);
        }
    }

    /// The storage's part of `poll_action`.
    pub(super) fn poll_storage(&mut self, reachable: bool, now: Time) -> Option<Action> {
        let spool = self.settings.spool?;
        self.spool.condition.look_at_the_clock(now);
        self.move_along(spool, now);
        self.forget_needless_trouble(spool, now);
        let action = self.reject().or_else(|| self.save(spool, now)).or_else(|| self.renumber());
        if action.is_some() {
            return action;
        }
        if let State::Ending = self.state {
            if self.spool.saving.is_none() && self.spool.rejecting.is_none() && !self.has_unsaved() {
                self.leave();
            }
        } else if let Some(action) = self.read(reachable, now) {
            return Some(action);
        }
        self.commit()
    }

    /// What is on disk and not about to be sent leaves memory; what is behind an empty gap comes forward.
    fn move_along(&mut self, spool: SpoolSettings, now: Time) {
        self.move_behind_along();
        let asked = matches!(self.doubt, Doubt::Asked(_));
        // A question about the head is not forgotten during a pause, or it would be raised anew by every probe.
        let open_question =
            self.doubt != Doubt::None || self.entries.front().is_some_and(|head| head.verdict.is_some());
        let crowded = self.is_away(spool, now) && self.entries.len() > READ_AHEAD;
        let busy = self.spool.reading.is_some() || self.spool.renumbering.is_some();
        let idle = !busy && self.spool.passed.is_none() && !asked;
        let least = match self.state {
            State::Spooling(_) if !open_question => 0,
            State::Spooling(_) => READ_AHEAD,
            _ if crowded => READ_AHEAD,
            _ => usize::MAX,
        };
        while idle && self.entries.len() > least && self.behind_is_behind_the_gap() {
            // New numbers that are not on disk yet would be forgotten, and leave a hole in their run.
            let current = self.run.as_ref().map(|run| run.ordinal);
            let leaves = |entry: &Entry| match entry.place {
                Place::Memory => false,
                Place::Disk { numbers, .. } => {
                    let renumbered = entry.run.is_none()
                        || entry.run != current
                        || numbers == Some(entry.batch.stamp())
                        || !self.settings.idempotent;
                    entry.ticket().is_none() && renumbered
                }
            };
            if !self.entries.back().is_some_and(leaves) {
                break;
            }
            self.drop_youngest();
        }
        if self.state == State::Replaying && !self.has_gap() {
            let on_disk = self.entries.iter().any(|entry| entry.place != Place::Memory);
            if spool.mode == SpoolMode::Always || !on_disk {
                self.state = State::Direct;
            }
        }
    }

    /// What is on disk behind the gap is a part of it. At once: it may be in the answer to a read that is under way, and nothing
    /// else may be done with it meanwhile.
    fn move_behind_along(&mut self) {
        if self.spool.gap.events == 0 && self.spool.reading.is_none() && self.spool.passed.is_none() {
            self.entries.append(&mut self.behind);
        }
        while self.behind.front().is_some_and(|entry| entry.place != Place::Memory) {
            let Some(entry) = self.behind.pop_front() else { break };
            if let Some(position) = entry.position() {
                self.keep(&entry, position);
                self.spool.gap.put_behind(position, entry.events(), entry.accepted_by);
            }
        }
    }

    /// Nothing lies between the entries and the gap.
    fn behind_is_behind_the_gap(&self) -> bool {
        self.behind.is_empty() || self.spool.gap.events > 0
    }

    fn read(&mut self, reachable: bool, now: Time) -> Option<Action> {
        let sends = matches!(self.state, State::Replaying | State::Closing(_));
        let pausing = self.state.pause().is_some_and(|pause| now < pause.until);
        let wanted = (sends && reachable && !pausing) || self.reads_to_expire(now);
        let room = self.entries.len() < READ_AHEAD && self.spool.rejecting.is_none();
        if !wanted || !room || self.spool.gap.events == 0 || self.spool.reading.is_some() {
            return None;
        }
        if !self.spool.condition.may_call(Call::Read) {
            return None;
        }
        let ticket = self.ticket();
        self.spool.reading = Some((ticket, now));
        Some(Action::Read { ticket, from: self.spool.gap.first, max_bytes: READ_BYTES })
    }

    fn reject(&mut self) -> Option<Action> {
        self.spool.rejecting.as_ref().filter(|rejecting| rejecting.ticket.is_none())?;
        if !self.spool.condition.may_call(Call::Reject) {
            return None;
        }
        let ticket = self.ticket();
        let rejecting = self.spool.rejecting.as_mut()?;
        rejecting.ticket = Some(ticket);
        if !rejecting.dropped {
            return Some(Action::Reject { ticket, letters: rejecting.letters.clone() });
        }
        let from = rejecting.letters.first().and_then(|letter| letter.position)?;
        let last = rejecting.letters.last()?;
        let through = last.position? + u64::from(last.batch.count());
        Some(Action::Drop { ticket, from, through })
    }

    /// Position below which everything is settled.
    fn floor(&self) -> u64 {
        let letters = self.letters();
        let gap = Some(self.spool.gap).filter(|gap| gap.events > 0);
        let stretches = gap.into_iter().chain(self.spool.passed).map(|stretch| stretch.first);
        let entries = self.entries.iter().chain(&self.behind);
        #[cfg(test)]
        let entries = entries.filter(|entry| {
            entry.attempts == 0 || !super::simulator::planted(super::simulator::Mutation::SettleWhenSent)
        });
        let entries = entries.filter_map(Entry::position);
        letters
            .filter_map(|letter| letter.position)
            .chain(stretches)
            .chain(entries)
            .min()
            .unwrap_or(self.spool.end)
    }

    fn commit(&mut self) -> Option<Action> {
        // Looked for only when it may have moved: a walk over the entries for each call would be dear.
        if !std::mem::take(&mut self.settled_some) {
            return None;
        }
        let through = self.floor();
        if through <= self.spool.committed {
            return None;
        }
        self.spool.committed = through;
        self.spool.kept = self.spool.kept.split_off(&through);
        Some(Action::Commit { through, ticket: None })
    }

    /// Before a new run begins, the end of the one before must be durable: after a crash, batches of it would be sent
    /// again that the broker, having seen the new one, can only refuse as fenced, and nobody could tell that they are
    /// written.
    pub(super) fn commit_before_new_run(&mut self) -> Option<Action> {
        self.settings.spool?;
        let condition = &self.spool.condition;
        if !condition.may_call(Call::Commit) || condition.is_silent(Call::Commit) {
            // A disk that is bad does not stop deliveries. If this process is killed before it is well again, what was
            // delivered before the new run is sent again behind it.
            self.spool.risked |= self.floor() > self.spool.durably_committed;
            return None;
        }
        if self.spool.committing.is_some() {
            return Some(Action::Wait { until: None });
        }
        let through = self.floor();
        if through <= self.spool.durably_committed {
            return None;
        }
        let ticket = self.ticket();
        self.spool.committing = Some((ticket, through));
        self.spool.committed = self.spool.committed.max(through);
        Some(Action::Commit { through, ticket: Some(ticket) })
    }
}
