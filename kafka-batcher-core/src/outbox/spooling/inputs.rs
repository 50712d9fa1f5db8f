//! What the storage answers, and what an earlier process left.

use super::super::entry::{Entry, Place, State};
use super::super::{Outbox, OutboxEvent};
use super::{Rejecting, SAVE_BYTES, STORAGE_PAUSE, Stretch};
use crate::batch::RecordBatch;
use crate::outbox::expiry::ROOM_BYTES;
use crate::spool::{Backlog, ClusterId, DeadLetter, ReadBack, StorageError};
use crate::time::Time;

impl Outbox {
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
        self.spool.gap = Stretch {
            first: backlog.first,
            events: backlog.events,
            batches: backlog.batches.max(1),
            end: 0,
            since: backlog.oldest_ms,
        };
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
            self.spool.gap.put_behind(position, events, 0);
        }
        self.state = match self.state {
            State::Direct if self.has_gap() => State::Replaying,
            State::Backoff(pause) if self.has_gap() => State::Spooling(Some(pause)),
            state => state,
        };
    }

    /// The answer to [`Action::Save`](crate::Action::Save): the positions of the batches, in order.
    pub fn on_saved(&mut self, ticket: u64, result: Result<Vec<u64>, StorageError>, now: Time) {
        let Some((_, items)) = self.spool.saving.take_if(|(t, _)| *t == ticket) else { return };
        let positions = match result {
            Ok(positions) => positions,
            Err(StorageError::Full(_)) if self.drops_oldest() => {
                let bytes = items.iter().map(|item| item.bytes).sum();
                if bytes > ROOM_BYTES && items.len() > 1 {
                    // A smaller one may fit, or costs less of what is there.
                    self.spool.halvings += 1;
                } else if !self.make_room(bytes, 0, now) {
                    self.no_room(bytes, now);
                }
                return;
            }
            Err(error) => return self.storage_failed(&error, now),
        };
        self.storage_works();
        let wall_ms = self.wall_ms(now);
        for (item, position) in items.into_iter().zip(positions) {
            self.spool.end = self.spool.end.max(position + item.events);
            self.spool.own_from.get_or_insert(position);
            let mut all = self.entries.iter_mut().chain(&mut self.behind);
            // One that was acknowledged meanwhile is settled.
            if let Some(entry) = all.find(|entry| entry.id == item.id) {
                entry.place = Place::Disk { position, numbers: item.numbers };
                entry.accepted_by = wall_ms;
                self.events.push_back(OutboxEvent::Durable { batch: entry.batch.clone() });
            }
        }
    }

    /// The answer to [`Action::Renumber`](crate::Action::Renumber).
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

    /// The answer to [`Action::Read`](crate::Action::Read).
    pub fn on_read(&mut self, ticket: u64, result: Result<ReadBack, StorageError>, now: Time) {
        if self.spool.reading.take_if(|t| *t == ticket).is_none() {
            return;
        }
        let back = match result {
            Ok(back) => back,
            Err(error) => return self.storage_failed(&error, now),
        };
        self.spool.gap.first = self.spool.gap.first.max(back.next);
        self.has_looked();
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

    /// The answer to [`Action::Reject`](crate::Action::Reject) and to [`Action::Drop`](crate::Action::Drop).
    pub fn on_rejected(&mut self, ticket: u64, result: Result<(), StorageError>, now: Time) {
        let Some(rejecting) = self.spool.rejecting.take_if(|r| r.ticket == Some(ticket)) else { return };
        if let Err(error) = result {
            self.spool.rejecting = Some(Rejecting { ticket: None, ..rejecting });
            return self.storage_failed(&error, now);
        }
        self.storage_works();
        self.settled_some = true;
        for DeadLetter { batch, position, error } in rejecting.letters {
            let events = u64::from(batch.count());
            let durable = position.is_some();
            if rejecting.dropped {
                self.tally.lost += events;
                self.events.push_back(OutboxEvent::Failed { batch, error, durable });
            } else {
                self.tally.dead_lettered += events;
                self.events.push_back(OutboxEvent::DeadLettered { batch, error, durable });
            }
        }
    }

    /// The answer to an [`Action::Commit`](crate::Action::Commit) with a ticket.
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

    pub(super) fn storage_failed(&mut self, error: &StorageError, now: Time) {
        self.spool.failing = Some(now + STORAGE_PAUSE);
        if let StorageError::Full(_) = error {
            self.spool.halvings = (self.spool.halvings + 1).min(SAVE_BYTES.ilog2());
        }
        if !std::mem::replace(&mut self.spool.told, true) {
            let full = matches!(error, StorageError::Full(_));
            self.events.push_back(OutboxEvent::SpoolTroubled { full, message: error.to_string() });
        }
    }

    /// The storage is full, and nothing of this partition can be dropped.
    pub(in super::super) fn no_room(&mut self, bytes: u64, now: Time) {
        self.spool.failing = Some(now + STORAGE_PAUSE);
        self.spool.halvings = (self.spool.halvings + 1).min(SAVE_BYTES.ilog2());
        self.events.push_back(OutboxEvent::NeedsRoom { bytes });
    }

    /// Nothing of any partition can be dropped: see [`OutboxEvent::NeedsRoom`].
    pub fn no_room_anywhere(&mut self) {
        if !std::mem::replace(&mut self.spool.told, true) {
            let message = "the storage is full, and nothing in it can be dropped".to_owned();
            self.events.push_back(OutboxEvent::SpoolTroubled { full: true, message });
        }
    }

    pub(super) fn storage_works(&mut self) {
        self.spool.failing = None;
        self.spool.halvings = self.spool.halvings.saturating_sub(1);
        if std::mem::take(&mut self.spool.told) {
            self.events.push_back(OutboxEvent::SpoolRecovered);
        }
    }
}
