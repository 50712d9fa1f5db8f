//! What the storage answers, and what an earlier process left.

use std::collections::BTreeMap;

use super::super::entry::{Entry, Place, State};
use super::super::{Outbox, OutboxEvent};
use super::{Call, Rejecting, Saving, Stretch};
use crate::batch::{RecordBatch, Stamp};
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
            // That they are durable was told when they came to the lane's disk, by this process or an earlier one.
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
        self.excuse_kafka(now);
        let Some(saving) = self.spool.saving.take_if(|saving| saving.ticket == ticket) else { return };
        let Saving { items, numbers, bytes, .. } = saving;
        let positions = match result {
            Ok(positions) => positions,
            Err(StorageError::Full(_)) if self.drops_oldest() => {
                if bytes > ROOM_BYTES && items.len() > 1 {
                    // A smaller one may fit, or costs less of what is there.
                    self.spool.halvings += 1;
                } else if !self.make_room(bytes, 0, now) {
                    self.no_room(bytes, now);
                }
                return;
            }
            Err(error) => return self.storage_failed(Call::Save, &error, now),
        };
        self.storage_works(Call::Save);
        if !self.keeps() {
            return self.discarded(&numbers);
        }
        let wall_ms = self.wall_ms(now);
        let mut saved = BTreeMap::new();
        for ((id, events), position) in items.into_iter().zip(positions) {
            self.spool.end = self.spool.end.max(position + events);
            self.spool.own_from.get_or_insert(position);
            saved.insert(id, position);
            if let Some(stamp) = numbers.get(&id).copied().flatten() {
                self.note_on_disk(stamp, position + events);
            }
        }
        for entry in self.entries.iter_mut().chain(&mut self.behind) {
            let Some(position) = saved.remove(&entry.id) else { continue };
            entry.place = Place::Disk { position, numbers: numbers.get(&entry.id).copied().flatten() };
            entry.accepted_by = wall_ms;
            self.events.push_back(OutboxEvent::Durable { batch: entry.batch.clone() });
        }
        // What was acknowledged meanwhile is settled, and the disk is to forget it.
        self.settled_some |= !saved.is_empty();
        self.move_behind_along();
    }

    /// The answer to [`Action::Renumber`](crate::Action::Renumber).
    pub fn on_renumbered(&mut self, ticket: u64, result: Result<(), StorageError>, now: Time) {
        self.excuse_kafka(now);
        let Some((_, items)) = self.spool.renumbering.take_if(|(t, _)| *t == ticket) else { return };
        if let Err(error) = result {
            return self.storage_failed(Call::Renumber, &error, now);
        }
        self.storage_works(Call::Renumber);
        let stamps: BTreeMap<u64, Stamp> = items.into_iter().collect();
        let mut through = None;
        for entry in &mut self.entries {
            let events = entry.events();
            if let Place::Disk { position, numbers } = &mut entry.place
                && let Some(stamp) = stamps.get(&entry.id)
            {
                *numbers = Some(*stamp);
                through = Some((*stamp, *position + events));
            }
        }
        // They are of one run, and in order.
        if let Some((stamp, through)) = through {
            self.note_on_disk(stamp, through);
        }
    }

    /// The answer to [`Action::Read`](crate::Action::Read).
    pub fn on_read(&mut self, ticket: u64, result: Result<ReadBack, StorageError>, now: Time) {
        self.excuse_kafka(now);
        if self.spool.reading.take_if(|(asked, _)| *asked == ticket).is_none() {
            return;
        }
        let back = match result {
            Ok(back) => back,
            Err(error) => return self.storage_failed(Call::Read, &error, now),
        };
        self.storage_works(Call::Read);
        let from = self.spool.gap.first;
        self.spool.gap.first = self.spool.gap.first.max(back.next);
        self.has_looked();
        // What was saved behind the gap and is in memory still may be in the answer, and is no part of the gap: it lies behind the
        // gap's end, or, if nothing of this process is in there, behind what was found. While the very first save is not answered, that
        // place is not known, and only the count tells: of the gap what is not damaged.
        let (end, damaged) = match (self.spool.gap.end, self.spool.own_from) {
            (0, None) => (u64::MAX, back.damage.iter().map(|(events, _)| *events).sum()),
            (0, Some(own)) => (own, 0),
            (end, _) => (end, 0),
        };
        let mut given = 0;
        for stored in back.batches {
            let events = u64::from(stored.batch.count());
            if self.spool.kept.get(&stored.position).is_some_and(|kept| kept.settled) {
                // It was delivered before those in front of it, and its events are counted.
                given += 1;
                continue;
            }
            if stored.position >= end || self.spool.gap.events < events + damaged {
                break;
            }
            given += 1;
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
        if damage.is_empty() {
            return;
        }
        let until = if nothing { u64::MAX } else { back.next };
        let mut spans = self.take_lost(from, until);
        for (events, message) in damage {
            let events = events.min(self.spool.gap.events);
            self.spool.gap.take(events, 0);
            self.tally.lost += events;
            let spans = std::mem::take(&mut spans);
            self.events.push_back(OutboxEvent::Damaged { events, message, spans });
        }
    }

    /// The answer to [`Action::Reject`](crate::Action::Reject) and to [`Action::Drop`](crate::Action::Drop).
    pub fn on_rejected(&mut self, ticket: u64, result: Result<(), StorageError>, now: Time) {
        self.excuse_kafka(now);
        let Some(mut rejecting) = self.spool.rejecting.take_if(|r| r.ticket == Some(ticket)) else { return };
        let more = std::mem::take(&mut self.spool.more_letters);
        if let Err(error) = result {
            rejecting.letters.extend(more);
            self.spool.rejecting = Some(Rejecting { ticket: None, ..rejecting });
            return self.storage_failed(Call::Reject, &error, now);
        }
        if !more.is_empty() {
            self.spool.rejecting = Some(Rejecting { letters: more, ..Rejecting::default() });
        }
        self.storage_works(Call::Reject);
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
        self.excuse_kafka(now);
        let Some((_, through)) = self.spool.committing.take_if(|(t, _)| *t == ticket) else { return };
        match result {
            Ok(()) => {
                self.spool.durably_committed = self.spool.durably_committed.max(through);
                self.storage_works(Call::Commit);
            }
            Err(error) => self.storage_failed(Call::Commit, &error, now),
        }
    }
}
