//! The operator's orders for events that have no partition yet: `delivery_timeout`, `max_age`, and `drop_oldest` where the
//! spool is full. What outbox/expiry.rs does for a partition, without its cares: nothing of the lane was ever sent.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_batcher_core::{
    DeadLetter, DeliveryError, FailureReason, OnFull, Persisted, ReadBack, RecordBatch, StorageError, Time,
    TopicPartition,
};

use super::super::outcomes::error_of;
use super::super::spooling::{LANE_CALL, guarded};
use super::super::{Dispatcher, Done};
use crate::storage::UNASSIGNED;

/// Open batches are looked at so often in the time they have.
const GRAIN: u32 = 16;
/// So many bytes are looked at, and dropped, in one step at least: each step costs an fsync.
const STEP_BYTES: usize = 256 << 10;

/// One step, done.
pub(in super::super) struct Gone {
    /// Batches at the front of memory, now dead letters.
    from_memory: usize,
    /// Where the lane on disk begins now, and since when its oldest waits there.
    through: u64,
    oldest_ms: i64,
    /// What went from disk, why, and whether it was found at the start.
    batches: Vec<(RecordBatch, DeliveryError, bool)>,
    /// Where they lay.
    read: BTreeSet<u64>,
    damage: Vec<(u64, String)>,
}

impl Dispatcher {
    /// Begins a step where something is too old or in the way; true if there is one under way now.
    pub(super) fn expire_lane(&mut self, now: Time) -> bool {
        let from_memory = self.lane_expired_in_memory(now);
        if !self.keeps() {
            for sealed in self.unassigned.memory.drain(..from_memory).collect::<Vec<_>>() {
                self.give_up(&sealed.batch, FailureReason::Expired, String::new());
            }
            return false;
        }
        let unix_ms = self.parts.topic.clock.unix_ms();
        let lane = &self.unassigned;
        let wanted = if lane.disk.events > 0 { lane.wanted } else { 0 };
        let too_old = self.lane_expires_ms().is_some_and(|at| at <= unix_ms);
        if from_memory == 0 && wanted == 0 && !too_old {
            return false;
        }
        let Some(storage) = self.storage() else { return false };
        let place = TopicPartition::new(&*self.parts.topic.name, UNASSIGNED);
        let (timeout, max_age) = self.lane_ages();
        let from_disk = wanted > 0 || too_old;
        let (first, oldest_ms, mut left) = (lane.disk.first, lane.disk.oldest_ms, lane.disk.events);
        let (stays, recovered_below) = (left / 2, lane.recovered_below);
        let claims = lane.claims.clone();
        let of_memory = lane.memory.iter().take(from_memory);
        let mut letters: Vec<DeadLetter> = of_memory
            .map(|sealed| DeadLetter { batch: sealed.batch.clone(), position: None, error: expired() })
            .collect();
        self.unassigned.expiring = true;
        self.expect_answer(UNASSIGNED, LANE_CALL);
        let step = async move {
            let mut gone = Gone {
                from_memory,
                through: first,
                oldest_ms,
                batches: Vec::new(),
                read: BTreeSet::new(),
                damage: Vec::new(),
            };
            let mut dropped = None;
            // A step puts aside or drops, not both: if the second failed, the first would be done again.
            let mut puts_aside = Some(true).filter(|_| from_memory > 0);
            if from_disk {
                let bytes = STEP_BYTES.max(usize::try_from(wanted).unwrap_or(0));
                let ReadBack { batches, next, damage } = storage.read(&place, first, bytes).await?;
                (gone.through, gone.damage) = (next, damage);
                if batches.is_empty() && gone.damage.is_empty() {
                    gone.damage.push((u64::MAX, "the storage does not have them any more".to_owned()));
                }
                for mut stored in batches {
                    let over = |age: Option<i64>| {
                        age.is_some_and(|age| stored.saved_ms > 0 && stored.saved_ms + age <= unix_ms)
                    };
                    let reason = match (over(timeout), over(max_age)) {
                        (true, _) => FailureReason::Expired,
                        (false, true) => FailureReason::MaxAge,
                        (false, false) if wanted > 0 && left > stays => FailureReason::DroppedOldest,
                        (false, false) => {
                            (gone.through, gone.oldest_ms) = (stored.position, stored.saved_ms);
                            break;
                        }
                    };
                    if *puts_aside.get_or_insert(reason == FailureReason::Expired)
                        != (reason == FailureReason::Expired)
                    {
                        (gone.through, gone.oldest_ms) = (stored.position, stored.saved_ms);
                        break;
                    }
                    gone.oldest_ms = stored.saved_ms;
                    gone.read.insert(stored.position);
                    left = left.saturating_sub(u64::from(stored.batch.count()));
                    if let Some(spans) = claims.get(&stored.position) {
                        stored.batch.set_spans(spans.clone());
                    }
                    let error = error_of(reason, Persisted::No, String::new());
                    if reason == FailureReason::Expired {
                        let (batch, position) = (stored.batch.clone(), Some(stored.position));
                        letters.push(DeadLetter { batch, position, error: error.clone() });
                    } else {
                        dropped = Some(dropped.unwrap_or(stored.position));
                    }
                    gone.batches.push((stored.batch, error, stored.position < recovered_below));
                }
            }
            if !letters.is_empty() {
                storage.reject(&place, letters).await?;
            }
            if let Some(from) = dropped {
                storage.drop_events(&place, from, gone.through).await?;
            }
            Ok(gone)
        };
        self.spawn_storing(async move { Done::LaneExpired(guarded(step).await) });
        true
    }

    pub(in super::super) fn lane_expired(&mut self, gone: Result<Gone, StorageError>) {
        let now = self.parts.topic.clock.now();
        self.unassigned.expiring = false;
        self.calls.remove(&(UNASSIGNED, LANE_CALL));
        let gone = match gone {
            Ok(gone) => gone,
            Err(error) => return self.lane_failed(&error, now),
        };
        self.lane_works();
        let lane = &mut self.unassigned;
        lane.wanted = 0;
        // The end may have taken them meanwhile.
        let taken = gone.from_memory.min(lane.memory.len());
        let letters: Vec<_> = lane.memory.drain(..taken).collect();
        (lane.disk.first, lane.disk.oldest_ms) = (gone.through, gone.oldest_ms);
        self.settle_claims(gone.through, &gone.read, &gone.damage);
        self.lane_damaged(gone.damage);
        for sealed in letters {
            self.lane_dead_letter(&sealed.batch, expired(), false);
        }
        for (batch, error, found) in gone.batches {
            let events = u64::from(batch.count());
            let lane = &mut self.unassigned;
            lane.disk.events = lane.disk.events.saturating_sub(events);
            if found {
                lane.recovered = lane.recovered.saturating_sub(events);
                self.own.recovered += events;
            }
            if error.reason == FailureReason::Expired {
                self.lane_dead_letter(&batch, error, true);
            } else {
                self.own.lost += events;
                self.lose(&batch, error, None, true);
            }
        }
        self.count_dropped_letters();
    }

    /// What could not be saved wants so many bytes of the spool; true if something on disk may go for it.
    pub(super) fn lane_makes_room(&mut self, bytes: u64) -> bool {
        let drops = self.parts.outbox.spool.is_some_and(|spool| spool.on_full == OnFull::DropOldest);
        let makes = drops && self.unassigned.disk.events > 0;
        if makes {
            self.unassigned.wanted = bytes;
        }
        makes
    }

    /// When there is something to expire next, unless that is now.
    pub(super) fn lane_expiry_timer(&self, now: Time) -> Option<Time> {
        let lane = &self.unassigned;
        let timeout = self.parts.outbox.delivery_timeout;
        let open = timeout.and_then(|timeout| lane.open_since.map(|since| since + timeout / GRAIN));
        let first = lane.memory.front();
        let sealed =
            timeout.and_then(|timeout| first.map(|sealed| sealed.opened + timeout + timeout / GRAIN));
        let on_disk = self.lane_expires_ms().map(|at| {
            let left = at.saturating_sub(self.parts.topic.clock.unix_ms());
            now + Duration::from_millis(u64::try_from(left).unwrap_or(0))
        });
        [open, sealed, on_disk].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// `delivery_timeout` and `max_age`, in milliseconds.
    fn lane_ages(&self) -> (Option<i64>, Option<i64>) {
        let millis = |age: Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let orders = &self.parts.outbox;
        (orders.delivery_timeout.map(millis), orders.spool.and_then(|spool| spool.max_age).map(millis))
    }

    /// When the oldest on disk is too old, on the wall clock.
    fn lane_expires_ms(&self) -> Option<i64> {
        let disk = &self.unassigned.disk;
        let (timeout, max_age) = self.lane_ages();
        let age = [timeout, max_age].into_iter().flatten().min()?;
        (disk.events > 0 && disk.oldest_ms > 0).then(|| disk.oldest_ms.saturating_add(age))
    }

    /// How many batches at the front of memory have had their time. They are sealed often enough that the events of one are
    /// of an age.
    fn lane_expired_in_memory(&mut self, now: Time) -> usize {
        let Some(timeout) = self.parts.outbox.delivery_timeout else { return 0 };
        let topic = self.parts.topic.clone();
        let open = topic.lane_events() > 0;
        let since = self.unassigned.open_since.filter(|_| open).or(open.then_some(now));
        self.unassigned.open_since = since;
        if since.is_some_and(|since| since + timeout / GRAIN <= now) {
            self.unassigned.open_since = None;
            topic.seal_lane();
            self.collect();
        }
        let over = |opened: Time| opened + timeout + timeout / GRAIN <= now;
        self.unassigned.memory.iter().take_while(|sealed| over(sealed.opened)).count()
    }

    pub(super) fn lane_dead_letter(&mut self, batch: &RecordBatch, error: DeliveryError, durable: bool) {
        self.own.dead_lettered += u64::from(batch.count());
        self.dead_lettered(batch, error, None, durable);
    }
}

fn expired() -> DeliveryError {
    error_of(FailureReason::Expired, Persisted::No, String::new())
}
