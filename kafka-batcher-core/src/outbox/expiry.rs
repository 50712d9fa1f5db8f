//! What is not delivered because of its age, or because newer events need its room: by the user's order only.
//!
//! Three orders there are: `delivery_timeout` (to the dead letters, or, without a spool, failed), the spool's `max_age`
//! and `on_full = drop_oldest` (lost, and counted). And one age at which the outbox stops by itself: events that the
//! topic's retention would delete at once are held.
//!
//! What goes leaves a hole, and holes end runs (DESIGN.md, Delivery): nothing goes while anything of the partition is in
//! flight or asked about, and never what may be in the log already.

use std::time::Duration;

use super::entry::{Doubt, Entry, Exposure, Place, State};
use super::spooling::{Call, Rejecting};
use super::{Action, OnFull, Outbox, Trouble};
use crate::error::{DeliveryError, FailureReason, Persisted};
use crate::spool::DeadLetter;
use crate::time::Time;

/// Events of one batch expire together if their ages differ by less than this part of the time they have: expired one by
/// one, a batch that filled for a minute would be cut thousands of times.
const GRAIN: i64 = 16;
/// How long what lies behind a batch that must not go is left alone, at least.
const BLOCKED_FOR: Duration = Duration::from_secs(1);
/// So many bytes are dropped at once at least: each time costs an fsync.
pub(super) const ROOM_BYTES: u64 = 256 << 10;

/// How long the topic keeps events, by their own time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Retention {
    #[default]
    Unknown,
    Asked,
    /// `None`: for ever, or nobody can say.
    Known(Option<Duration>),
}

/// What is known of time, age and room.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// What the wall clock says when `Time` is zero.
    epoch_ms: i64,
    /// Bytes that are wanted of the spool for newer events.
    room: u64,
    /// So many events stay, however much room is wanted.
    stays: u64,
    /// More was read, and not looked at yet.
    looked: bool,
    /// What lies first on disk must not go; looked at again then.
    blocked_until: Option<Time>,
    retention: Retention,
}

impl Expiry {
    pub(super) fn look_at_the_clock(&mut self, now: Time, unix_ms: i64) {
        self.epoch_ms = unix_ms - millis(now);
    }
}

fn millis(time: Time) -> i64 {
    i64::try_from(time.as_micros() / 1_000).unwrap_or(i64::MAX)
}

fn as_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Outbox {
    /// How long the topic keeps events: the answer to [`Action::AskRetention`](crate::Action::AskRetention); `None`: for ever, by another rule than
    /// their own time, or nobody can say.
    pub fn on_retention(&mut self, retention: Option<Duration>) {
        if self.expiry.retention == Retention::Asked {
            self.expiry.retention = Retention::Known(retention);
        }
    }

    /// A time of this process on the wall clock, in Unix milliseconds.
    pub(super) fn wall_ms(&self, time: Time) -> i64 {
        self.expiry.epoch_ms.saturating_add(millis(time))
    }

    /// The storage is full, and newer events need so many bytes of it: drops some of the oldest, where that is ordered
    /// ([`OnFull::DropOldest`]), but not more than half of what there is, and never below `stays` events. False: there is
    /// nothing, or it was just looked in vain.
    pub fn make_room(&mut self, bytes: u64, stays: u64, now: Time) -> bool {
        let spooled = self.tally().spooled;
        let blocked = self.expiry.blocked_until.is_some_and(|until| now < until);
        let makes = self.drops_oldest() && spooled > stays && !blocked && self.state != State::Ending;
        if makes {
            // Half of it at most, and then the save is tried again.
            (self.expiry.room, self.expiry.stays) = (bytes.max(ROOM_BYTES), stays.max(spooled / 2));
            // What was read before was not looked at for this.
            self.expiry.looked = false;
        }
        makes
    }

    /// Another partition has made room: see [`OutboxEvent::NeedsRoom`](super::OutboxEvent::NeedsRoom).
    pub fn on_room_made(&mut self) {
        self.spool.condition.try_again(Call::Save);
    }

    pub(super) fn drops_oldest(&self) -> bool {
        self.settings.spool.is_some_and(|spool| spool.on_full == OnFull::DropOldest)
    }

    /// Saves wait until there is room.
    pub(super) fn makes_room(&self) -> bool {
        self.expiry.room > 0 && self.state != State::Ending
    }

    /// Whether something of this partition waits for room.
    pub(super) fn has_unsaved(&self) -> bool {
        self.behind.back().or(self.entries.back()).is_some_and(|entry| entry.place == Place::Memory)
    }

    pub(super) fn has_looked(&mut self) {
        self.expiry.looked = true;
    }

    /// When the next event is too old, as far as anything can be done about it then.
    pub(super) fn expiry_deadline(&self, now: Time) -> Option<Time> {
        let ends = [self.settings.delivery_timeout, self.settings.spool.and_then(|spool| spool.max_age)];
        if ends == [None, None] || !self.may_expire() {
            return None;
        }
        let mut due: Option<i64> = None;
        let mut at = |ms: i64| due = Some(due.map_or(ms, |due| due.min(ms)));
        if let Some(timeout) = self.settings.delivery_timeout.map(as_millis) {
            for entry in self.entries.iter().chain(&self.behind).filter(|entry| self.may_go(entry)) {
                if let (Place::Memory, Some(opened)) = (&entry.place, entry.opened) {
                    at(self.wall_ms(opened).saturating_add(timeout).saturating_add(timeout / GRAIN));
                }
            }
        }
        for age in ends.into_iter().flatten().map(as_millis) {
            let on_disk = self.entries.iter().filter(|entry| entry.place != Place::Memory);
            let on_disk = on_disk.filter(|entry| self.may_go(entry)).map(|entry| entry.accepted_by);
            let gap = Some(self.spool.gap).filter(|gap| gap.events > 0).map(|gap| gap.since);
            on_disk.chain(gap).filter(|since| *since > 0).for_each(|since| at(since.saturating_add(age)));
        }
        let due_in = due?.saturating_sub(self.wall_ms(now)).max(0);
        let due = now + Duration::from_millis(due_in.unsigned_abs());
        // What is due already and still here is waited for.
        let blocked = self.expiry.blocked_until.filter(|until| *until > due);
        Some(blocked.unwrap_or(due)).filter(|due| *due > now)
    }

    /// Nothing is in flight, and nobody was asked anything.
    fn may_expire(&self) -> bool {
        self.in_flight == 0
            && self.doubt == Doubt::None
            && self.spool.rejecting.is_none()
            && self.spool.passed.is_none()
            && self.state != State::Ending
    }

    /// It is certainly not in the log, and nothing is being done with it.
    pub(super) fn may_go(&self, entry: &Entry) -> bool {
        #[cfg(test)]
        {
            if super::simulator::planted(super::simulator::Mutation::DropWhatIsInDoubt) {
                return entry.ticket().is_none() && !self.is_saving(entry.id);
            }
        }
        entry.exposure == Exposure::Unwritten && entry.verdict.is_none() && !self.is_saving(entry.id)
    }

    /// Lets go of what is too old, and of what is in the way.
    pub(super) fn expire(&mut self, now: Time, unix_ms: i64) {
        let spool = self.settings.spool;
        let max_age = spool.and_then(|spool| spool.max_age);
        if (self.settings.delivery_timeout.is_none() && max_age.is_none() && self.expiry.room == 0)
            || !self.may_expire()
        {
            return;
        }
        for entry in self.entries.iter_mut().chain(&mut self.behind).filter(|entry| entry.accepted_by == 0) {
            if entry.opened.is_some() {
                (entry.accepted_by, entry.epoch_ms) = (unix_ms, self.expiry.epoch_ms);
            }
        }
        let mut gone = false;
        if let Some(timeout) = self.settings.delivery_timeout.map(as_millis) {
            gone |= self.expire_undelivered(timeout, unix_ms);
        }
        gone |= self.drop_spooled(max_age.map(as_millis), unix_ms);
        let looked = std::mem::take(&mut self.expiry.looked);
        let nowhere_to_look = self.spool.gap.events == 0 && self.spool.reading.is_none();
        if gone {
            // What follows would have to be out of order otherwise.
            self.hole();
            self.expiry.blocked_until = None;
        } else if looked || nowhere_to_look {
            let pause = self.settings.delivery_timeout.unwrap_or_default() / GRAIN as u32;
            self.expiry.blocked_until = Some(now + pause.max(BLOCKED_FOR));
            let wanted = std::mem::take(&mut self.expiry.room);
            if wanted > 0 && self.has_unsaved() {
                self.no_room(wanted, now);
            }
        }
    }

    /// Whether an event of this one may not be sent any more.
    pub(super) fn is_expired(&self, entry: &Entry, unix_ms: i64) -> bool {
        self.settings.delivery_timeout.map(as_millis).is_some_and(|timeout| {
            self.may_go(entry) && self.expired_events(entry, unix_ms.saturating_sub(timeout), timeout) > 0
        })
    }

    /// `delivery_timeout`.
    fn expire_undelivered(&mut self, timeout: i64, unix_ms: i64) -> bool {
        let limit = unix_ms.saturating_sub(timeout);
        let mut gone = false;
        for behind in [false, true] {
            let mut at = 0;
            loop {
                let list = if behind { &self.behind } else { &self.entries };
                let Some(entry) = list.get(at) else { break };
                let expired = if self.may_go(entry) { self.expired_events(entry, limit, timeout) } else { 0 };
                if expired == 0 {
                    at += 1;
                    continue;
                }
                let cut = (expired < entry.batch.count())
                    .then(|| entry.batch.split(expired, &mut self.reserve()).ok())
                    .flatten();
                let id = self.next_id();
                let list = if behind { &mut self.behind } else { &mut self.entries };
                let Some(entry) = list.remove(at) else { break };
                let batch = match cut {
                    None => entry.batch.clone(),
                    Some((old, young)) => {
                        let mut rest = entry.piece(id, young, expired);
                        rest.run = None;
                        // The first of them is at least that young.
                        rest.opened = entry.opened.map(|opened| opened.max(self.time_of(limit)));
                        let list = if behind { &mut self.behind } else { &mut self.entries };
                        list.insert(at, rest);
                        at += 1;
                        old
                    }
                };
                self.fail(&entry, batch, FailureReason::Expired, None, String::new());
                gone = true;
            }
        }
        gone
    }

    /// How many events at the batch's beginning were accepted before `limit`. Of those in memory whose time we gave, that
    /// time says it; all others count by the youngest of their batch.
    fn expired_events(&self, entry: &Entry, limit: i64, timeout: i64) -> u32 {
        let count = entry.batch.count();
        // In memory time is what passed since, whatever the clock on the wall was set to meanwhile.
        let set_by = match (&entry.place, entry.epoch_ms) {
            (Place::Memory, epoch) if epoch != 0 => self.expiry.epoch_ms.saturating_sub(epoch),
            _ => 0,
        };
        let wall_limit = limit;
        let limit = limit.saturating_sub(set_by);
        if entry.accepted_by > 0 && entry.accepted_by <= limit {
            return count;
        }
        let (Place::Memory, Some(opened)) = (&entry.place, entry.opened) else { return 0 };
        if self.wall_ms(opened) > wall_limit.saturating_sub(timeout / GRAIN) {
            return 0;
        }
        let Ok(records) = entry.batch.records() else { return 0 };
        let old = |(i, record): &(u32, crate::OwnedRecord)| {
            record.timestamp <= limit && !entry.batch.time_given(*i)
        };
        (0u32..).zip(records).filter(old).last().map_or(0, |(i, _)| i + 1)
    }

    /// The other way round: what a wall clock's time was in this process.
    fn time_of(&self, unix_ms: i64) -> Time {
        let ms = u64::try_from(unix_ms.saturating_sub(self.expiry.epoch_ms)).unwrap_or(0);
        Time::from_millis(ms)
    }

    /// `max_age`, and room for newer events.
    fn drop_spooled(&mut self, max_age: Option<i64>, unix_ms: i64) -> bool {
        if self.spool.rejecting.is_some() {
            return false;
        }
        let (mut first, mut letters) = (None, Vec::new());
        let mut left = self.tally().spooled;
        for (at, entry) in self.entries.iter().enumerate() {
            let too_old = max_age
                .is_some_and(|age| entry.accepted_by > 0 && entry.accepted_by <= unix_ms.saturating_sub(age));
            let in_the_way = self.expiry.room > 0 && left > self.expiry.stays;
            let goes = entry.place != Place::Memory && self.may_go(entry) && (too_old || in_the_way);
            match (goes, first) {
                (true, _) => first = first.or(Some(at)),
                (false, None) => continue,
                // They go as one stretch.
                (false, Some(_)) => break,
            }
            let reason = if too_old { FailureReason::MaxAge } else { FailureReason::DroppedOldest };
            self.expiry.room = self.expiry.room.saturating_sub(entry.batch.encoded_len() as u64);
            left = left.saturating_sub(entry.events());
            let persisted = if Self::may_have_gone_before(entry) { Persisted::Maybe } else { Persisted::No };
            let error = DeliveryError { reason, persisted, code: None, message: String::new() };
            let (batch, position) = (entry.batch.clone(), entry.position());
            letters.push(DeadLetter { batch, position, error });
        }
        if left <= self.expiry.stays {
            self.expiry.room = 0;
        }
        let Some(first) = first else { return false };
        self.entries.drain(first..first + letters.len());
        self.spool.rejecting = Some(Rejecting { letters, dropped: true, ..Rejecting::default() });
        true
    }

    /// Whether what lies first on disk must be read because of its age, or to make room.
    pub(super) fn reads_to_expire(&self, now: Time) -> bool {
        let gap = self.spool.gap;
        if gap.events == 0 || !self.may_expire() || self.expiry.blocked_until.is_some_and(|until| now < until)
        {
            return false;
        }
        let ends = [self.settings.delivery_timeout, self.settings.spool.and_then(|spool| spool.max_age)];
        let over =
            |age: Duration| gap.since > 0 && gap.since.saturating_add(as_millis(age)) <= self.wall_ms(now);
        self.expiry.room > 0 || ends.into_iter().flatten().any(over)
    }

    /// What is older than the topic keeps events is held: Kafka would acknowledge and delete it (DESIGN.md, Delivery).
    pub(super) fn check_retention(&mut self, now: Time, unix_ms: i64) -> Option<Action> {
        let spool = self.settings.spool.filter(|spool| !spool.replay_expired)?;
        let head = self.entries.front().filter(|head| head.place != Place::Memory)?;
        let age =
            Duration::from_millis(u64::try_from(unix_ms.saturating_sub(head.batch.max_timestamp())).ok()?);
        // A younger one was not deleted by any rule that makes sense.
        if age < spool.after {
            return None;
        }
        match self.expiry.retention {
            Retention::Unknown => {
                self.expiry.retention = Retention::Asked;
                Some(Action::AskRetention)
            }
            Retention::Asked => Some(Action::Wait { until: None }),
            Retention::Known(Some(retention)) if age >= retention => {
                // Asked again after the pause: somebody may have raised it.
                self.expiry.retention = Retention::Unknown;
                self.back_off(Trouble::PastRetention { age, retention }, None, now);
                Some(Action::Wait { until: self.state.pause().map(|pause| pause.until) })
            }
            Retention::Known(_) => None,
        }
    }
}
