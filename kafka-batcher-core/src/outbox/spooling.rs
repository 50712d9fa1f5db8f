//! What of a partition lies on disk, and what moves there and back.
//!
//! In the order of acceptance a partition's batches are: what was passed over while a proof is sought (on disk), the
//! entries (in memory, perhaps on disk as well), the *gap* (on disk only), and what came in behind the gap. Batches
//! that are not on disk are always the youngest. Everything that keeps the order follows from that: what is saved goes to
//! the tail, what is read comes from the gap's beginning, and nothing behind the gap is sent before the gap is empty.

use std::collections::BTreeMap;

use super::entry::{Doubt, Entry, Exposure, Place, Run, State};
use super::{Action, Outbox, OutboxEvent, REMEMBERED, SpoolMode, SpoolSettings, Trouble};
use crate::batch::{RecordBatch, Stamp};
use crate::completion::Spans;
use crate::delivery::TopicId;
use crate::error::{DeliveryError, FailureReason, Persisted};
use crate::spool::{
    Backlog, ClusterId, DeadLetter, Numbers, ReadBack, Renumbered, StorageError, Stored, ToSave,
};
use crate::time::Time;

/// So close to the tail new batches wait in memory: otherwise each would go to disk just to be read back, and a busy
/// partition would never catch up (delivery-rules.md 6.5).
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
    /// Behind its last event, as far as it was put together here.
    end: u64,
}

impl Stretch {
    /// A batch that lies before all of it.
    fn put_before(&mut self, position: u64, events: u64) {
        self.first = position;
        self.events += events;
        self.batches += 1;
    }

    /// A batch that lies behind all of it.
    fn put_behind(&mut self, position: u64, events: u64) {
        if self.events == 0 {
            self.first = position;
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

/// What is remembered of a batch whose bytes are on disk only, where it differs from what its bytes say.
#[derive(Debug)]
struct Kept {
    /// How many events it has.
    count: u32,
    spans: Spans,
    opened: Option<Time>,
    exposure: Exposure,
    haunted: bool,
    restamped: bool,
    attempts: u32,
    contradictions: u8,
    /// It was delivered while those before it were not; it is not sent again.
    settled: bool,
}

/// A run that the outbox has seen.
#[derive(Debug)]
struct KnownRun {
    producer_id: i64,
    epoch: i16,
    topic: TopicId,
    ordinal: u64,
    foreign: bool,
    /// Its numbers lead nowhere.
    given_up: bool,
}

/// Events that Kafka will never take, on their way to the dead letters.
#[derive(Debug)]
pub(super) struct Rejecting {
    ticket: Option<u64>,
    pub(super) letters: Vec<DeadLetter>,
}

/// A batch that is being saved.
#[derive(Debug)]
struct Saving {
    id: u64,
    events: u64,
    numbers: Option<Stamp>,
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
    saving: Option<(u64, Vec<Saving>)>,
    /// How often a save is halved before it is tried: a nearly full disk has room for a small one.
    halvings: u32,
    renumbering: Option<(u64, Vec<(u64, Stamp)>)>,
    reading: Option<u64>,
    committing: Option<(u64, u64)>,
    pub(super) rejecting: Option<Rejecting>,
    /// The storage failed and is left alone until then.
    failing: Option<Time>,
    /// The operator knows that it fails.
    told: bool,
    kept: BTreeMap<u64, Kept>,
    runs: Vec<KnownRun>,
    /// Since when nothing was acknowledged although something waits.
    pub(super) away_since: Option<Time>,
    foreign_told: bool,
    /// A run began although the end of the one before was not durable, because the disk was bad.
    pub(super) risked: bool,
}

impl Outbox {
    // ---- inputs -----------------------------------------------------------------------------------------------------

    /// The cluster that is talked to, as soon as it is known.
    pub fn on_cluster(&mut self, cluster: ClusterId) {
        self.origin.cluster = Some(cluster);
    }

    /// What an earlier process left of this partition. To be told before anything else.
    pub fn on_recovered(&mut self, backlog: Backlog) {
        if backlog.events == 0 {
            return;
        }
        self.tally.recovered += backlog.events;
        self.spool.gap =
            Stretch { first: backlog.first, events: backlog.events, batches: backlog.batches.max(1), end: 0 };
        self.spool.end = backlog.first;
        self.spool.committed = backlog.first;
        self.spool.durably_committed = backlog.first;
        self.state = State::Replaying;
    }

    /// Batches of the unassigned lane that were given to this partition and lie at its tail, with their positions. They
    /// were accepted now if `accepted`, else found in the spool.
    pub fn on_regrouped(&mut self, batches: Vec<(u64, RecordBatch)>, accepted: bool) {
        for (position, batch) in batches {
            let events = u64::from(batch.count());
            match accepted {
                true => self.tally.accepted += events,
                false => self.tally.recovered += events,
            }
            self.events.push_back(OutboxEvent::Durable { batch: batch.clone() });
            let id = self.next_id();
            let place = Place::Disk { position, numbers: None };
            self.spool.end = self.spool.end.max(position + events);
            self.spool.own_from.get_or_insert(position);
            let entry = Entry { place, ..Entry::new(id, batch, 0, None) };
            self.keep(&entry, position);
            // Everything newer waits until the lane is empty, so nothing is behind.
            self.spool.gap.put_behind(position, events);
        }
        self.state = match self.state {
            State::Direct if self.has_gap() => State::Replaying,
            State::Backoff(pause) if self.has_gap() => State::Spooling(Some(pause)),
            state => state,
        };
    }

    /// The answer to [`Action::Save`]: the positions of the batches, in order.
    pub fn on_saved(&mut self, ticket: u64, result: Result<Vec<u64>, StorageError>, now: Time) {
        let Some((_, items)) = self.spool.saving.take_if(|(t, _)| *t == ticket) else { return };
        let positions = match result {
            Ok(positions) => positions,
            Err(error) => return self.storage_failed(&error, now),
        };
        self.storage_works();
        for (item, position) in items.into_iter().zip(positions) {
            self.spool.end = self.spool.end.max(position + item.events);
            self.spool.own_from.get_or_insert(position);
            let mut all = self.entries.iter_mut().chain(&mut self.behind);
            // One that was acknowledged meanwhile is settled.
            if let Some(entry) = all.find(|entry| entry.id == item.id) {
                entry.place = Place::Disk { position, numbers: item.numbers };
                self.events.push_back(OutboxEvent::Durable { batch: entry.batch.clone() });
            }
        }
    }

    /// The answer to [`Action::Renumber`].
    pub fn on_renumbered(&mut self, ticket: u64, result: Result<(), StorageError>, now: Time) {
        let Some((_, items)) = self.spool.renumbering.take_if(|(t, _)| *t == ticket) else { return };
        if let Err(error) = result {
            return self.storage_failed(&error, now);
        }
        self.storage_works();
        for (id, stamp) in items {
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id)
                && let Place::Disk { numbers, .. } = &mut entry.place
            {
                *numbers = Some(stamp);
            }
        }
    }

    /// The answer to [`Action::Read`].
    pub fn on_read(&mut self, ticket: u64, result: Result<ReadBack, StorageError>, now: Time) {
        if self.spool.reading.take_if(|t| *t == ticket).is_none() {
            return;
        }
        let back = match result {
            Ok(back) => back,
            Err(error) => return self.storage_failed(&error, now),
        };
        self.spool.gap.first = self.spool.gap.first.max(back.next);
        let mut given = 0;
        for stored in back.batches {
            given += 1;
            let events = u64::from(stored.batch.count());
            if self.spool.kept.get(&stored.position).is_some_and(|kept| kept.settled) {
                // It was delivered before those in front of it, and its events are counted.
                continue;
            }
            if self.spool.gap.events < events {
                // Saved a moment ago, and not answered yet: it is in memory still.
                break;
            }
            self.spool.gap.take(events, 0);
            self.spool.end = self.spool.end.max(stored.position + events);
            let entry = self.read_back(stored);
            self.entries.push_back(entry);
        }
        self.spool.gap.take(0, given);
        let nothing = given == 0 && back.damage.is_empty();
        let mut damage = back.damage;
        if nothing && self.spool.gap.events > 0 {
            damage.push((self.spool.gap.events, "the storage does not have them any more".to_owned()));
        }
        for (events, message) in damage {
            let events = events.min(self.spool.gap.events);
            self.spool.gap.take(events, 0);
            self.tally.lost += events;
            self.events.push_back(OutboxEvent::Damaged { events, message });
        }
    }

    /// The answer to [`Action::Reject`].
    pub fn on_rejected(&mut self, ticket: u64, result: Result<(), StorageError>, now: Time) {
        let Some(rejecting) = self.spool.rejecting.take_if(|r| r.ticket == Some(ticket)) else { return };
        if let Err(error) = result {
            self.spool.rejecting = Some(Rejecting { ticket: None, ..rejecting });
            return self.storage_failed(&error, now);
        }
        self.storage_works();
        self.settled_some = true;
        for DeadLetter { batch, position, error } in rejecting.letters {
            self.tally.dead_lettered += u64::from(batch.count());
            let durable = position.is_some();
            self.events.push_back(OutboxEvent::DeadLettered { batch, error, durable });
        }
    }

    /// The answer to an [`Action::Commit`] with a ticket.
    pub fn on_committed(&mut self, ticket: u64, result: Result<(), StorageError>, now: Time) {
        let Some((_, through)) = self.spool.committing.take_if(|(t, _)| *t == ticket) else { return };
        match result {
            Ok(()) => {
                self.spool.durably_committed = self.spool.durably_committed.max(through);
                self.storage_works();
            }
            Err(error) => self.storage_failed(&error, now),
        }
    }

    fn storage_failed(&mut self, error: &StorageError, now: Time) {
        self.spool.failing = Some(now + STORAGE_PAUSE);
        if let StorageError::Full(_) = error {
            self.spool.halvings = (self.spool.halvings + 1).min(SAVE_BYTES.ilog2());
        }
        if !std::mem::replace(&mut self.spool.told, true) {
            self.events.push_back(OutboxEvent::SpoolTroubled { message: error.to_string() });
        }
    }

    fn storage_works(&mut self) {
        self.spool.failing = None;
        self.spool.halvings = self.spool.halvings.saturating_sub(1);
        if std::mem::take(&mut self.spool.told) {
            self.events.push_back(OutboxEvent::SpoolRecovered);
        }
    }

    // ---- what to do -------------------------------------------------------------------------------------------------

    /// Bytes of batches in memory that are on disk as well.
    pub fn replay_bytes(&self) -> usize {
        let on_disk = self.entries.iter().filter(|entry| entry.place != Place::Memory);
        on_disk.map(|entry| entry.batch.encoded_len()).sum()
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

    /// True while the entry is being saved: what comes of that speaks of it as it is.
    pub(super) fn is_saving(&self, id: u64) -> bool {
        self.saved_as(id).is_some()
    }

    /// The numbers under which the entry is being saved, if it is.
    fn saved_as(&self, id: u64) -> Option<Option<Stamp>> {
        let (_, items) = self.spool.saving.as_ref()?;
        items.iter().find(|item| item.id == id).map(|item| item.numbers)
    }

    /// When the outbox must look again for the spool's sake.
    pub(super) fn spool_deadline(&self, now: Time) -> Option<Time> {
        let spool = self.settings.spool?;
        let away = self.spool.away_since.map(|since| since + spool.after).filter(|at| *at > now);
        let away = away.filter(|_| !matches!(self.state, State::Spooling(_) | State::Ending));
        [away, self.spool.failing].into_iter().flatten().min()
    }

    /// Notes since when nothing was acknowledged; after `spool_after` of that, Kafka is away.
    pub(super) fn notice_away(&mut self, now: Time) {
        let Some(spool) = self.settings.spool else { return };
        if self.entries.is_empty() && self.behind.is_empty() && !self.has_gap() {
            self.spool.away_since = None;
            return;
        }
        self.spool.away_since.get_or_insert(now);
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
        if self.spool.failing.is_some_and(|until| until <= now) {
            self.spool.failing = None;
        }
        self.move_along(spool, now);
        if self.spool.failing.is_none() {
            let action = self.reject().or_else(|| self.save(spool, now)).or_else(|| self.renumber());
            if action.is_some() {
                return action;
            }
            if let State::Ending = self.state {
                if self.spool.saving.is_none() && self.spool.rejecting.is_none() {
                    self.leave();
                }
            } else if let Some(action) = self.read(reachable, now) {
                return Some(action);
            }
        }
        self.commit()
    }

    /// What is on disk and not about to be sent leaves memory; what is behind an empty gap comes forward.
    fn move_along(&mut self, spool: SpoolSettings, now: Time) {
        if self.spool.gap.events == 0 && self.spool.reading.is_none() && self.spool.passed.is_none() {
            self.entries.append(&mut self.behind);
        }
        while self.behind.front().is_some_and(|entry| entry.place != Place::Memory) {
            let Some(entry) = self.behind.pop_front() else { break };
            if let Some(position) = entry.position() {
                self.keep(&entry, position);
                self.spool.gap.put_behind(position, entry.events());
            }
        }
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

    /// Nothing lies between the entries and the gap.
    fn behind_is_behind_the_gap(&self) -> bool {
        self.behind.is_empty() || self.spool.gap.events > 0
    }

    /// The youngest entry, which is on disk, leaves memory.
    fn drop_youngest(&mut self) {
        let Some(entry) = self.entries.pop_back() else { return };
        if let Some(position) = entry.position() {
            self.keep(&entry, position);
            self.spool.gap.put_before(position, entry.events());
        }
    }

    /// Remembers of a batch what its bytes on disk do not say.
    fn keep(&mut self, entry: &Entry, position: u64) {
        let numbered = matches!(entry.place, Place::Disk { numbers: Some(_), .. });
        let says = if numbered { Exposure::Doubtful } else { Exposure::Unwritten };
        let plain = entry.batch.spans().is_empty()
            && entry.exposure == says
            && !entry.haunted
            && !entry.restamped
            && entry.contradictions == 0;
        if !plain {
            let kept = Kept {
                count: entry.batch.count(),
                spans: entry.batch.spans().clone(),
                opened: entry.opened,
                exposure: entry.exposure,
                haunted: entry.haunted,
                restamped: entry.restamped,
                attempts: entry.attempts,
                contradictions: entry.contradictions,
                settled: false,
            };
            self.spool.kept.insert(position, kept);
        }
    }

    /// Whether an earlier process left what lies there.
    fn is_found(&self, position: u64) -> bool {
        self.spool.own_from.is_none_or(|own| position < own)
    }

    pub(super) fn was_found(&self, entry: &Entry) -> bool {
        entry.position().is_some_and(|position| self.is_found(position))
    }

    /// What is remembered of these events. They may have left memory in pieces and come back in one: then it is put together,
    /// and whether all of them were certainly not written is not known any more.
    fn take_kept(&mut self, position: u64, count: u32, says: Exposure) -> Option<Kept> {
        let end = position + u64::from(count);
        let mut pieces = self.spool.kept.split_off(&position);
        self.spool.kept.append(&mut pieces.split_off(&end));
        if pieces.get(&position).is_some_and(|kept| kept.count == count) {
            return pieces.remove(&position);
        }
        let mut whole: Option<Kept> = None;
        let mut covered = 0;
        for (first, piece) in pieces {
            let at = (first - position) as u32;
            let whole = whole.get_or_insert(Kept {
                count,
                spans: Spans::default(),
                opened: None,
                exposure: says,
                haunted: false,
                restamped: false,
                attempts: 0,
                contradictions: 0,
                settled: false,
            });
            if at > covered {
                whole.spans.append(covered, Spans::default(), at - covered);
            }
            whole.spans.append(at, piece.spans, piece.count);
            covered = at + piece.count;
            if piece.exposure == Exposure::Doubtful {
                whole.exposure = Exposure::Doubtful;
            }
            whole.haunted |= piece.haunted;
            whole.attempts = whole.attempts.max(piece.attempts);
        }
        if let Some(whole) = whole.as_mut().filter(|_| count > covered) {
            whole.spans.append(covered, Spans::default(), count - covered);
        }
        whole
    }

    /// A batch comes back into memory.
    fn read_back(&mut self, stored: Stored) -> Entry {
        let Stored { position, mut batch, numbers } = stored;
        let numbers = numbers.filter(|_| self.settings.idempotent);
        // Without numbers nobody knows whether an earlier process sent it.
        let unknown = self.is_found(position) && !self.settings.idempotent;
        batch.set_stamp(numbers.as_ref().map_or(Stamp::NONE, |numbers| numbers.stamp));
        let run = numbers.as_ref().map(|numbers| self.run_of(numbers));
        let id = self.next_id();
        let mut entry = Entry {
            place: Place::Disk { position, numbers: numbers.as_ref().map(|numbers| numbers.stamp) },
            exposure: if run.is_some() || unknown { Exposure::Doubtful } else { Exposure::Unwritten },
            run,
            origin: numbers.map(|numbers| numbers.origin),
            ..Entry::new(id, batch, 0, None)
        };
        if let Some(kept) = self.take_kept(position, entry.batch.count(), entry.exposure) {
            entry.batch.set_spans(kept.spans);
            entry.opened = kept.opened;
            entry.exposure = kept.exposure;
            entry.haunted = kept.haunted;
            entry.restamped = kept.restamped;
            entry.attempts = kept.attempts;
            entry.contradictions = kept.contradictions;
        }
        #[cfg(test)]
        {
            if super::simulator::planted(super::simulator::Mutation::RestampWhatIsRead) {
                entry.exposure = Exposure::Unwritten;
            }
        }
        if run.is_some_and(|run| self.is_given_up(run)) && entry.exposure == Exposure::Doubtful {
            // The same as for those of its run that were in memory when the numbers were given up.
            entry.exposure = Exposure::Unwritten;
            entry.haunted = true;
            self.tally.possible_duplicates += entry.events();
        }
        entry
    }

    fn wants_save(&self, spool: SpoolSettings, now: Time) -> bool {
        let youngest = self.behind.back().or(self.entries.back());
        if self.spool.saving.is_some() || !youngest.is_some_and(|entry| entry.place == Place::Memory) {
            return false;
        }
        spool.mode == SpoolMode::Always
            || match self.state {
                State::Direct | State::Backoff(_) => false,
                State::Spooling(_) | State::Ending => true,
                State::Replaying | State::Closing(_) => {
                    self.spool.gap.batches > NEAR_TAIL || self.is_away(spool, now)
                }
            }
    }

    fn save(&mut self, spool: SpoolSettings, now: Time) -> Option<Action> {
        if !self.wants_save(spool, now) {
            return None;
        }
        self.stamp_ahead();
        let current = self.run.as_ref().map(|run| run.ordinal);
        let (mut batches, mut items, mut bytes) = (Vec::new(), Vec::new(), 0);
        for entry in self.entries.iter().chain(&self.behind) {
            if entry.place != Place::Memory {
                continue;
            }
            bytes += entry.batch.encoded_len();
            if bytes > SAVE_BYTES >> self.spool.halvings && !batches.is_empty() {
                break;
            }
            // Numbers under which it certainly was not written and will not be sent are nobody's.
            let obsolete = entry.exposure == Exposure::Unwritten && entry.run != current;
            let mut batch = entry.batch.clone();
            let numbers = match entry.run.filter(|_| !obsolete && self.settings.idempotent) {
                Some(_) => Some(Numbers { stamp: batch.stamp(), origin: self.origin.clone() }),
                None => {
                    batch.set_stamp(Stamp::NONE);
                    None
                }
            };
            let stamp = numbers.as_ref().map(|numbers| numbers.stamp);
            items.push(Saving { id: entry.id, events: entry.events(), numbers: stamp });
            batches.push(ToSave { batch, numbers });
        }
        let ticket = self.ticket();
        self.spool.saving = Some((ticket, items));
        Some(Action::Save { ticket, batches })
    }

    /// Gives numbers of the current run to what is about to be saved, so that it need not be written twice.
    fn stamp_ahead(&mut self) {
        let Some(run) = self.run.as_ref().filter(|run| !run.foreign) else { return };
        let ordinal = run.ordinal;
        if !self.settings.idempotent || self.state != State::Direct || self.doubt != Doubt::None {
            return;
        }
        for at in 0..self.entries.len() {
            let Some(entry) = self.entries.get(at) else { return };
            if entry.verdict.is_some()
                || (entry.run != Some(ordinal) && entry.exposure != Exposure::Unwritten)
            {
                return;
            }
            // With a current run this only counts on.
            if self.stamp(at).is_some() {
                return;
            }
        }
    }

    /// Whether entry `at` may be sent as far as the disk is concerned: what gets new numbers has them on disk first
    /// (delivery-rules.md 6.6), and with `always` everything is there first.
    pub(super) fn ready(&self, at: usize) -> bool {
        #[cfg(test)]
        {
            if super::simulator::planted(super::simulator::Mutation::SendBeforeRenumbered) {
                return true;
            }
        }
        let (Some(spool), Some(entry)) = (self.settings.spool, self.entries.get(at)) else { return true };
        match entry.place {
            // What is being saved is sent under the numbers it is saved with, or not yet: a crash would leave it on disk
            // under none, and nobody would know that it was sent.
            // Until it is answered nobody knows whether it is on disk.
            Place::Memory if spool.mode == SpoolMode::Always => {
                self.spool.failing.is_some() && !self.is_saving(entry.id)
            }
            Place::Memory => match self.saved_as(entry.id) {
                Some(numbers) => !self.settings.idempotent || numbers == Some(entry.batch.stamp()),
                None => true,
            },
            Place::Disk { numbers, .. } => !self.settings.idempotent || numbers == Some(entry.batch.stamp()),
        }
    }

    /// What must happen before an entry that is not ready can be sent.
    pub(super) fn make_ready(&mut self) -> Action {
        let action = if self.spool.failing.is_none() { self.renumber() } else { None };
        action.unwrap_or(Action::Wait { until: self.spool.failing })
    }

    fn renumber(&mut self) -> Option<Action> {
        if self.spool.renumbering.is_some() || !self.settings.idempotent {
            return None;
        }
        let current = self.run.as_ref().map(|run| run.ordinal);
        let (mut items, mut out) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let Place::Disk { position, numbers } = entry.place else { continue };
            let stamp = entry.batch.stamp();
            let due = entry.run.is_some() && entry.run == current && numbers != Some(stamp);
            if due && entry.exposure == Exposure::Unwritten {
                items.push((entry.id, stamp));
                let numbers = Numbers { stamp, origin: self.origin.clone() };
                out.push(Renumbered { position, count: entry.batch.count(), numbers });
            }
        }
        if out.is_empty() {
            return None;
        }
        let ticket = self.ticket();
        self.spool.renumbering = Some((ticket, items));
        Some(Action::Renumber { ticket, numbers: out })
    }

    fn read(&mut self, reachable: bool, now: Time) -> Option<Action> {
        let sends = matches!(self.state, State::Replaying | State::Closing(_));
        let pausing = self.state.pause().is_some_and(|pause| now < pause.until);
        let room = self.entries.len() < READ_AHEAD && self.spool.rejecting.is_none();
        if !sends
            || !reachable
            || pausing
            || !room
            || self.spool.gap.events == 0
            || self.spool.reading.is_some()
        {
            return None;
        }
        let ticket = self.ticket();
        self.spool.reading = Some(ticket);
        Some(Action::Read { ticket, from: self.spool.gap.first, max_bytes: READ_BYTES })
    }

    fn reject(&mut self) -> Option<Action> {
        self.spool.rejecting.as_ref().filter(|rejecting| rejecting.ticket.is_none())?;
        let ticket = self.ticket();
        let rejecting = self.spool.rejecting.as_mut()?;
        rejecting.ticket = Some(ticket);
        Some(Action::Reject { ticket, letters: rejecting.letters.clone() })
    }

    /// Position below which everything is settled.
    fn floor(&self) -> u64 {
        let letters = self.spool.rejecting.iter().flat_map(|rejecting| &rejecting.letters);
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
        if self.spool.failing.is_some() {
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

    // ---- numbers of earlier processes ---------------------------------------------------------------------------------

    /// The run that these numbers belong to.
    fn run_of(&mut self, numbers: &Numbers) -> u64 {
        let Stamp { producer_id, epoch, .. } = numbers.stamp;
        let topic = numbers.origin.topic;
        let known =
            |run: &&KnownRun| run.producer_id == producer_id && run.epoch == epoch && run.topic == topic;
        if let Some(run) = self.spool.runs.iter().find(known) {
            return run.ordinal;
        }
        let ordinal = self.next_run;
        self.next_run += 1;
        let run = KnownRun { producer_id, epoch, topic, ordinal, foreign: true, given_up: false };
        self.spool.runs.push(run);
        ordinal
    }

    /// A run of our own has begun: what of it comes back from disk is known again.
    pub(super) fn remember_run(&mut self, ordinal: u64, producer_id: i64, epoch: i16) {
        if self.settings.spool.is_some() {
            let topic = self.origin.topic;
            let run = KnownRun { producer_id, epoch, topic, ordinal, foreign: false, given_up: false };
            self.spool.runs.push(run);
        }
    }

    pub(super) fn mark_given_up(&mut self, run: u64) {
        self.spool
            .runs
            .iter_mut()
            .filter(|known| known.ordinal == run)
            .for_each(|known| known.given_up = true);
    }

    pub(super) fn is_given_up(&self, run: u64) -> bool {
        self.spool.runs.iter().any(|known| known.ordinal == run && known.given_up)
    }

    /// The head has numbers that an earlier process gave it: they stay, and its run goes on as the current one, one batch
    /// at a time until it is established, so that late requests of that process are recognised.
    pub(super) fn adopt(&mut self) -> Option<Action> {
        let head = self.entries.front()?;
        let ordinal = head.run.filter(|run| Some(*run) != self.run.as_ref().map(|run| run.ordinal))?;
        let Stamp { producer_id: id, epoch, .. } = head.batch.stamp();
        let known = |run: &KnownRun| run.ordinal == ordinal && run.foreign && !run.given_up;
        if head.exposure != Exposure::Doubtful || head.verdict.is_some() || !self.spool.runs.iter().any(known)
        {
            return None;
        }
        if let Some(action) = self.commit_before_new_run() {
            return Some(action);
        }
        self.end_run();
        self.run = Some(Run {
            ordinal,
            identity: crate::delivery::ProducerIdentity { id, epoch },
            next_sequence: 0,
            established: None,
            acked_through: None,
            foreign: true,
        });
        None
    }

    /// What was stamped for another topic or cluster gets new numbers here (delivery-rules.md 1.7).
    pub(super) fn check_origins(&mut self, now: Time) -> Option<Action> {
        let consent = self.settings.spool.is_some_and(|spool| spool.other_cluster);
        let mut foreign = false;
        let mut possible = 0;
        for entry in &mut self.entries {
            let Some(origin) = &entry.origin else { continue };
            let topic_differs = origin.topic != self.origin.topic
                && origin.topic != TopicId::default()
                && self.origin.topic != TopicId::default();
            match (&origin.cluster, &self.origin.cluster) {
                (Some(theirs), Some(ours)) if theirs != ours && !consent => {
                    let of = theirs.0.to_string();
                    self.back_off(Trouble::OtherCluster { of }, None, now);
                    return Some(Action::Wait { until: self.state.pause().map(|pause| pause.until) });
                }
                (Some(theirs), Some(ours)) if theirs == ours && !topic_differs => continue,
                (Some(_), Some(_)) => {}
                // Of a cluster that nobody knows it may be this one.
                _ if !topic_differs => {
                    entry.haunted = true;
                    possible += entry.events();
                }
                _ => {}
            }
            foreign = true;
            entry.origin = None;
            entry.run = None;
            entry.exposure = Exposure::Unwritten;
            entry.verdict = None;
        }
        self.tally.possible_duplicates += possible;
        if foreign && !std::mem::replace(&mut self.spool.foreign_told, true) {
            self.events.push_back(OutboxEvent::ForeignNumbers);
        }
        None
    }

    // ---- proof by a batch that is still on disk -----------------------------------------------------------------------

    /// True if the batch that would prove the head may still lie on disk: everything in memory is of the run and in
    /// doubt, and there is more.
    pub(super) fn may_seek(&self, run: u64) -> bool {
        let plain = |e: &Entry| e.is_doubtful_in(run) && e.place != Place::Memory && e.verdict.is_none();
        self.spool.gap.events > 0
            && !self.is_given_up(run)
            && self.entries.iter().enumerate().all(|(at, entry)| {
                // The head's 45 is what began this.
                plain(entry) || (at == 0 && entry.is_doubtful_in(run) && entry.place != Place::Memory)
            })
    }

    /// Passes over everything in memory: it is on disk, and a younger batch will prove it or not.
    pub(super) fn pass(&mut self) {
        let mut passed = self.spool.passed.take().unwrap_or_default();
        while let Some(entry) = self.entries.pop_front() {
            if let Some(position) = entry.position() {
                self.keep(&entry, position);
                passed.put_behind(position, entry.events());
            }
        }
        self.spool.passed = Some(passed);
    }

    /// The search has ended without a proof: what was passed over lies before the gap again.
    pub(super) fn rewind(&mut self) {
        let Some(passed) = self.spool.passed.take() else { return };
        // What is being read lies further down than what comes next now.
        self.spool.reading = None;
        while self.entries.back().is_some_and(|entry| entry.place == Place::Memory) {
            if let Some(entry) = self.entries.pop_back() {
                self.behind.push_front(entry);
            }
        }
        while !self.entries.is_empty() {
            self.drop_youngest();
        }
        self.spool.gap.first = passed.first;
        self.spool.gap.events += passed.events;
        self.spool.gap.batches += passed.batches;
    }

    /// The search has found its proof: everything that was passed over is in the log.
    pub(super) fn prove_passed(&mut self) {
        let Some(passed) = self.spool.passed.take() else { return };
        self.tally.delivered += passed.events;
        self.tally.proven += passed.events;
        self.settled_some = true;
        let rest = self.spool.kept.split_off(&passed.end);
        let proven = std::mem::replace(&mut self.spool.kept, rest);
        let spans = proven.into_values().map(|kept| kept.spans).filter(|spans| !spans.is_empty()).collect();
        let positions = passed.first..passed.end;
        self.events.push_back(OutboxEvent::ProvenOnDisk { events: passed.events, spans, positions });
    }

    /// This batch was delivered. If others lie before it that may be read again, it would be read with them.
    pub(super) fn keep_settled(&mut self, entry: &Entry) {
        let Some(position) = entry.position() else { return };
        let before = self.entries.front().and_then(Entry::position).is_some_and(|first| first < position);
        if !before && self.spool.passed.is_none() {
            return;
        }
        let kept = Kept {
            count: entry.batch.count(),
            spans: Spans::default(),
            opened: None,
            exposure: Exposure::Unwritten,
            haunted: false,
            restamped: false,
            attempts: 0,
            contradictions: 0,
            settled: true,
        };
        self.spool.kept.insert(position, kept);
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    /// True if a batch must go to the dead letters rather than be lost.
    pub(super) fn put_aside(
        &mut self,
        batch: RecordBatch,
        position: Option<u64>,
        error: DeliveryError,
    ) -> bool {
        if self.settings.spool.is_none() || matches!(error.reason, FailureReason::Shutdown) {
            return false;
        }
        let letter = DeadLetter { batch, position, error };
        let rejecting = self.spool.rejecting.get_or_insert(Rejecting { ticket: None, letters: Vec::new() });
        rejecting.letters.push(letter);
        true
    }

    /// Everything that is left is on disk: whoever waits is told, and nothing is in memory any more.
    pub(super) fn leave(&mut self) {
        self.in_flight = 0;
        self.doubt = Doubt::None;
        self.rewind();
        while self.entries.back().is_some_and(|entry| entry.place != Place::Memory) {
            self.drop_youngest();
        }
        for kept in std::mem::take(&mut self.spool.kept).into_values() {
            if !kept.spans.is_empty() {
                self.events.push_back(OutboxEvent::LeftInSpool { spans: kept.spans });
            }
        }
    }

    /// Dead letters that could not be put aside in time.
    pub(super) fn give_up_letters(&mut self) {
        let Some(rejecting) = self.spool.rejecting.take() else { return };
        for DeadLetter { batch, position, error } in rejecting.letters {
            let events = u64::from(batch.count());
            if let Some(position) = position {
                // It is on disk still, and the next start will find out again.
                self.spool.gap.put_before(position, events);
                self.events.push_back(OutboxEvent::LeftInSpool { spans: batch.spans().clone() });
            } else {
                match error.persisted {
                    Persisted::No => self.tally.lost += events,
                    Persisted::Maybe => self.tally.in_doubt += events,
                }
                self.events.push_back(OutboxEvent::Failed { batch, error, durable: false });
            }
        }
    }
}
