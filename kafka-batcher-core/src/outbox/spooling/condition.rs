//! How the storage is: which kinds of calls fail or are not answered, when they are tried again, and what the operator is told.
//!
//! Each kind counts by itself. A disk that is full takes no batch and gives every batch back; if any call that succeeds said
//! "it works again", it would be told once a second that it does not. An episode begins with the first kind in trouble and ends
//! with the last.

use std::collections::BTreeMap;
use std::fmt;

use super::super::entry::State;
use super::super::{Outbox, OutboxEvent, SpoolMode, SpoolSettings};
use super::{SAVE_BYTES, STORAGE_PAUSE};
use crate::spool::StorageError;
use crate::time::Time;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Call {
    Save,
    Renumber,
    Read,
    Reject,
    Commit,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Save => "save events",
            Call::Renumber => "keep new numbers",
            Call::Read => "read events",
            Call::Reject => "put events aside",
            Call::Commit => "forget what was delivered",
        })
    }
}

/// What is the matter with a kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    /// The last one failed; none is made until then.
    Paused(Time),
    /// The last one failed, and it may be tried again.
    Failed,
    /// One is under way, and should have been answered long ago.
    Silent,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(in super::super) struct Condition {
    bad: BTreeMap<Call, Bad>,
    /// The operator knows that something is the matter.
    told: bool,
}

impl Condition {
    /// Lets pauses end.
    pub(super) fn look_at_the_clock(&mut self, now: Time) {
        for bad in self.bad.values_mut() {
            if matches!(bad, Bad::Paused(until) if *until <= now) {
                *bad = Bad::Failed;
            }
        }
    }

    /// When something may be tried again.
    pub(super) fn next_try(&self) -> Option<Time> {
        let paused = |bad: &Bad| if let Bad::Paused(until) = bad { Some(*until) } else { None };
        self.bad.values().filter_map(paused).min()
    }

    pub(super) fn may_call(&self, call: Call) -> bool {
        !matches!(self.bad.get(&call), Some(Bad::Paused(_)))
    }

    /// The last word on such calls was an error, or is missing.
    pub(in super::super) fn is_bad(&self, call: Call) -> bool {
        self.bad.contains_key(&call)
    }

    pub(super) fn is_silent(&self, call: Call) -> bool {
        self.bad.get(&call) == Some(&Bad::Silent)
    }

    pub(super) fn pause(&mut self, call: Call, now: Time) {
        self.bad.insert(call, Bad::Paused(now + STORAGE_PAUSE));
    }

    /// What failed for want of room may be tried again at once.
    pub(in super::super) fn try_again(&mut self, call: Call) {
        if !self.may_call(call) {
            self.bad.insert(call, Bad::Failed);
        }
    }
}

impl Outbox {
    /// The call of the storage with this ticket has not been answered for so long that nobody should wait for it. It is
    /// still under way, and its answer counts when it comes. Ignored if there is no such call.
    pub fn on_storage_slow(&mut self, ticket: u64, now: Time) {
        let Some(call) = self.call_with(ticket) else { return };
        // From now on what waited for it may be Kafka's.
        self.excuse_kafka(now);
        self.spool.condition.bad.insert(call, Bad::Silent);
        self.tell_trouble(false, true, format!("it does not answer when asked to {call}"));
    }

    fn call_with(&self, ticket: u64) -> Option<Call> {
        let spool = &self.spool;
        let under_way = [
            (Call::Save, spool.saving.as_ref().map(|saving| saving.ticket)),
            (Call::Renumber, spool.renumbering.as_ref().map(|(ticket, _)| *ticket)),
            (Call::Read, spool.reading.map(|(ticket, _)| ticket)),
            (Call::Reject, spool.rejecting.as_ref().and_then(|rejecting| rejecting.ticket)),
            (Call::Commit, spool.committing.map(|(ticket, _)| ticket)),
        ];
        under_way.into_iter().find(|(_, other)| *other == Some(ticket)).map(|(call, _)| call)
    }

    fn tell_trouble(&mut self, full: bool, slow: bool, message: String) {
        if !std::mem::replace(&mut self.spool.condition.told, true) {
            self.events.push_back(OutboxEvent::SpoolTroubled { full, slow, message });
        }
    }

    pub(super) fn storage_failed(&mut self, call: Call, error: &StorageError, now: Time) {
        self.spool.condition.pause(call, now);
        let full = matches!(error, StorageError::Full(_));
        if full {
            self.spool.halvings = (self.spool.halvings + 1).min(SAVE_BYTES.ilog2());
        }
        self.tell_trouble(full, false, error.to_string());
    }

    /// The storage is full, and nothing of this partition can be dropped.
    pub(in super::super) fn no_room(&mut self, bytes: u64, now: Time) {
        self.spool.condition.pause(Call::Save, now);
        self.spool.halvings = (self.spool.halvings + 1).min(SAVE_BYTES.ilog2());
        self.events.push_back(OutboxEvent::NeedsRoom { bytes });
    }

    /// Nothing of any partition can be dropped: see [`OutboxEvent::NeedsRoom`].
    pub fn no_room_anywhere(&mut self) {
        let message = "the storage is full, and nothing in it can be dropped".to_owned();
        self.tell_trouble(true, false, message);
    }

    pub(super) fn storage_works(&mut self, call: Call) {
        self.spool.halvings = self.spool.halvings.saturating_sub(1);
        self.spool.condition.bad.remove(&call);
        if call != Call::Read && !self.spool.condition.is_silent(Call::Commit) {
            // What takes this takes a commit, too, and none may be wanted for long.
            self.spool.condition.bad.remove(&Call::Commit);
        }
        self.tell_recovery();
    }

    /// Trouble with calls that nobody needs any more is over.
    pub(super) fn forget_needless_trouble(&mut self, spool: SpoolSettings, now: Time) {
        if self.spool.condition.bad.is_empty() {
            return;
        }
        // A probe is no sign yet that Kafka takes anything.
        let well = self.trouble.is_none() && !self.is_away(spool, now);
        let direct =
            spool.mode == SpoolMode::OnFailure && self.state == State::Direct && !self.has_gap() && well;
        let idle = self.is_empty();
        // One that is silent is needed until it is answered.
        self.spool.condition.bad.retain(|call, bad| {
            let needless = idle || (direct && matches!(call, Call::Save | Call::Commit));
            *bad == Bad::Silent || !needless
        });
        self.tell_recovery();
    }

    fn tell_recovery(&mut self) {
        let condition = &mut self.spool.condition;
        if condition.bad.is_empty() && std::mem::take(&mut condition.told) {
            self.events.push_back(OutboxEvent::SpoolRecovered);
        }
    }

    /// True if it is the storage, not Kafka, that the head waits for. A read is no excuse for longer than `spool_after`: it may
    /// wait for memory that others hold until Kafka is back, and what came behind it would wait in memory as long.
    pub(super) fn waits_for_storage(&self, settings: SpoolSettings, now: Time) -> bool {
        let spool = &self.spool;
        if self.in_flight > 0 || self.state.pause().is_some() || matches!(self.state, State::Spooling(_)) {
            return false;
        }
        match self.entries.front() {
            None => spool.reading.is_some_and(|(_, asked)| now < asked + settings.after),
            Some(head) => {
                let written = self.is_saving(head.id) || spool.renumbering.is_some();
                let new_run = self.run.is_none() && !spool.condition.is_silent(Call::Commit);
                (written && !self.ready(0)) || self.letters_first() || (new_run && spool.committing.is_some())
            }
        }
    }

    /// Kafka does not count as away for the time in which the head waits for the storage: said when that is over.
    pub(super) fn excuse_kafka(&mut self, now: Time) {
        self.excuse_kafka_until(now, now);
    }

    /// The same while it waits. A read is excused from its beginning on: to be asked meanwhile makes its excuse no longer.
    pub(super) fn excuse_kafka_so_far(&mut self, now: Time) {
        let reading = self.spool.reading.filter(|_| self.entries.is_empty());
        self.excuse_kafka_until(reading.map_or(now, |(_, asked)| asked), now);
    }

    fn excuse_kafka_until(&mut self, until: Time, now: Time) {
        let Some((settings, since)) = self.settings.spool.zip(self.spool.away_since) else { return };
        if self.waits_for_storage(settings, now) {
            self.spool.away_since = Some(since.max(until));
        }
    }
}
