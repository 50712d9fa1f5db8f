//! The unassigned lane, behind its accumulator: batches of a topic whose partitions nobody knows yet.
//!
//! Order (DESIGN.md, Delivery): while the lane holds anything, on disk or in memory, every new event of the topic
//! queues behind it. What is on disk is regrouped first, piece by piece, each piece in one durable step that appends the
//! regrouped batches to their partitions and settles the lane's part; then what is in memory; then slots appear.

mod expiry;
mod regrouping;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher_core::{
    Backlog, DeadLetter, FailureReason, Persisted, RecordBatch, Sealed, Spans, SpoolMode, StorageError, Time,
    ToSave, TopicPartition,
};

pub(super) use self::expiry::Gone;
pub(super) use self::regrouping::{Step, Written};

use super::compressing::Stage;
use super::outcomes::error_of;
use super::spooling::{LANE_CALL, Stored, guarded};
use super::{Dispatcher, Done, End};
use crate::error_notifier::NotificationKind;
use crate::storage::UNASSIGNED;

/// Bytes of the lane that are saved, or regrouped, in one step; less where the disk has no room for so many.
const STEP_BYTES: usize = 4 << 20;
/// How long a storage that failed is left alone.
const STORAGE_PAUSE: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Unassigned {
    /// In memory, oldest first; behind everything that is on disk.
    pub(super) memory: VecDeque<Sealed>,
    /// On disk.
    pub(super) disk: Backlog,
    /// Of those on disk, the events found at the start: what lies below this position.
    recovered_below: u64,
    pub(super) recovered: u64,
    /// Who waits for what is on disk, by position.
    claims: BTreeMap<u64, Spans>,
    /// Events that turned out to have no partition before they came to disk, to be put aside.
    letters: Vec<DeadLetter>,
    /// So many of them are being put aside.
    putting_aside: Option<usize>,
    /// Batches that are being saved.
    saving: Option<usize>,
    /// A step is under way.
    regrouping: bool,
    /// That step, while its batches are compressed; and of each its partition, and whether it was found at the start.
    step: Option<(Step, Vec<(i32, bool)>)>,
    /// Where they are.
    pub(super) stage: Stage,
    /// Something is being put aside or dropped.
    expiring: bool,
    /// What of the lane below this position has no partition was put aside, but the step that did it failed later; and of
    /// how many partitions it knew then.
    aside: Option<(u64, i32)>,
    /// Bytes that are wanted of the spool for newer events.
    wanted: u64,
    /// Since when the open batch is known to be open.
    open_since: Option<Time>,
    /// How often a step is halved before it is tried: a nearly full disk has room for a small one, and a step that is done
    /// gives room back.
    halvings: u32,
    /// The operator knows that its events go to the spool.
    told: bool,
    /// Since when something waits.
    pub(super) since: Option<Time>,
    /// The storage failed, and is left alone until then.
    pub(super) failing: Option<Time>,
}

impl Unassigned {
    pub(super) fn on_recovered(&mut self, backlog: Backlog) {
        self.disk = backlog;
        self.recovered = backlog.events;
        self.recovered_below = u64::MAX;
    }

    fn step_bytes(&self) -> usize {
        STEP_BYTES >> self.halvings
    }

    pub(super) fn is_busy(&self) -> bool {
        self.saving.is_some() || self.regrouping || self.expiring || self.putting_aside.is_some()
    }

    /// Batches at the front of memory that are being saved.
    pub(super) fn being_saved(&self) -> usize {
        self.saving.unwrap_or(0)
    }

    /// True if nothing of the lane is in memory only.
    pub(super) fn is_safe(&self) -> bool {
        self.memory.is_empty() && self.letters.is_empty()
    }

    pub(super) fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }

    /// Acceptance of the oldest event of it in memory.
    pub(super) fn oldest_in_memory(&self) -> Option<Time> {
        self.memory.front().map(|sealed| sealed.opened)
    }

    /// How long the oldest of it on disk has waited, where that is known.
    pub(super) fn oldest_on_disk(&self, unix_ms: i64) -> Option<Duration> {
        let known = self.disk.events > 0 && self.disk.oldest_ms > 0;
        let age = unix_ms.saturating_sub(self.disk.oldest_ms).max(0).unsigned_abs();
        known.then(|| Duration::from_millis(age))
    }

    pub(super) fn events_in_memory(&self) -> u64 {
        let letters = self.letters.iter().map(|letter| &letter.batch);
        let batches = self.memory.iter().map(|sealed| &sealed.batch).chain(letters);
        batches.map(|batch| u64::from(batch.count())).sum()
    }
}

impl Dispatcher {
    /// Moves the lane on: to disk while the topic is unknown, to its partitions when it is known.
    pub(super) fn drive_unassigned(&mut self, now: Time) {
        if !self.opened {
            return;
        }
        self.unassigned.failing.take_if(|until| *until <= now);
        if self.unassigned.is_busy() || self.unassigned.failing.is_some() {
            return;
        }
        if self.put_letters_aside() {
            return;
        }
        if self.partitions_known() > 0 && self.end == End::NotYet {
            if self.unassigned.disk.events > 0 {
                self.regroup_step();
            } else if self.parts.topic.slots.count() < self.partitions_known() {
                // They became known while something was being saved.
                self.learn_partitions();
            }
            return;
        }
        if self.expire_lane(now) || self.parts.storage.is_none() {
            return;
        }
        let topic = self.parts.topic.clone();
        let waiting = !self.unassigned.memory.is_empty() || topic.lane_events() > 0;
        self.unassigned.since = self.unassigned.since.filter(|_| waiting).or(waiting.then_some(now));
        if self.lane_is_due(now) {
            topic.seal_lane();
            self.collect();
        }
        if !self.unassigned.memory.is_empty() && self.lane_is_due(now) {
            self.save_lane();
        }
    }

    /// Whether there is a storage that keeps what it is given.
    pub(super) fn keeps(&self) -> bool {
        self.parts.storage.is_some() && self.parts.outbox.spool.is_some_and(|spool| spool.keeps)
    }

    /// This event of the lane names a partition that does not exist.
    pub(super) fn lane_refuses(&mut self, batch: RecordBatch, reason: String) {
        if !self.keeps() {
            return self.give_up(&batch, FailureReason::NoSuchPartition, reason);
        }
        let error = error_of(FailureReason::NoSuchPartition, Persisted::No, reason);
        self.unassigned.letters.push(DeadLetter { batch, position: None, error });
    }

    /// True if a step is under way now.
    fn put_letters_aside(&mut self) -> bool {
        let letters = self.unassigned.letters.clone();
        let Some(storage) = self.storage().filter(|_| !letters.is_empty()) else { return false };
        self.unassigned.putting_aside = Some(letters.len());
        self.expect_answer(UNASSIGNED, LANE_CALL);
        let place = TopicPartition::new(&*self.parts.topic.name, UNASSIGNED);
        self.spawn_storing(async move {
            Done::LanePutAside(guarded(async { storage.reject(&place, letters).await }).await)
        });
        true
    }

    pub(super) fn letters_put_aside(&mut self, result: Result<(), StorageError>) {
        let now = self.parts.topic.clock.now();
        self.calls.remove(&(UNASSIGNED, LANE_CALL));
        let count = self.unassigned.putting_aside.take().unwrap_or(0);
        if let Err(error) = result {
            return self.lane_failed(&error, now);
        }
        self.lane_works();
        // The end may have taken them meanwhile.
        let count = count.min(self.unassigned.letters.len());
        for DeadLetter { batch, error, .. } in self.unassigned.letters.drain(..count).collect::<Vec<_>>() {
            self.lane_dead_letter(&batch, error, false);
        }
        self.count_dropped_letters();
    }

    /// The end: there is no time to put them aside.
    pub(super) fn give_up_lane_letters(&mut self) {
        for DeadLetter { batch, error, .. } in std::mem::take(&mut self.unassigned.letters) {
            self.give_up(&batch, error.reason, error.message);
        }
    }

    fn lane_is_due(&self, now: Time) -> bool {
        let Some(spool) = self.parts.outbox.spool else { return false };
        let away = self.unassigned.since.is_some_and(|since| since + spool.after <= now);
        spool.mode == SpoolMode::Always || away || self.unassigned.disk.events > 0 || self.end != End::NotYet
    }

    /// When [`Dispatcher::drive_unassigned`] has something to do by itself.
    pub(super) fn unassigned_timer(&self, now: Time) -> Option<Time> {
        let after = self.parts.outbox.spool.map(|spool| spool.after);
        let away =
            self.unassigned.since.zip(after).map(|(since, after)| since + after).filter(|at| *at > now);
        [away, self.unassigned.failing, self.lane_expiry_timer(now)].into_iter().flatten().min()
    }

    fn save_lane(&mut self) {
        let Some(storage) = self.storage() else { return };
        let (mut bytes, step_bytes) = (0, self.unassigned.step_bytes());
        // A disk that has not room for all of it may have room for some.
        let batches: Vec<ToSave> = self
            .unassigned
            .memory
            .iter()
            .take_while(|sealed| {
                let first = bytes == 0;
                bytes += sealed.batch.encoded_len();
                first || bytes <= step_bytes
            })
            .map(|sealed| ToSave { batch: sealed.batch.clone(), numbers: None })
            .collect();
        self.unassigned.saving = Some(batches.len());
        self.expect_answer(UNASSIGNED, LANE_CALL);
        let place = TopicPartition::new(&*self.parts.topic.name, UNASSIGNED);
        self.spawn_storing(async move {
            let result = guarded(async { storage.save_batch(&place, batches).await }).await;
            Done::Stored(Stored::Saved { partition: UNASSIGNED, ticket: LANE_CALL, result })
        });
    }

    pub(super) fn unassigned_saved(
        &mut self,
        _ticket: u64,
        result: Result<Vec<u64>, StorageError>,
        now: Time,
    ) {
        self.calls.remove(&(UNASSIGNED, LANE_CALL));
        let Some(count) = self.unassigned.saving.take() else { return };
        let saved = self.unassigned.memory.iter().take(count);
        let saved_bytes = saved.map(|sealed| sealed.batch.encoded_len()).sum();
        let positions = match result {
            Ok(positions) => positions,
            // There may be room for some of it.
            Err(StorageError::Full(_)) if count > 1 => return self.save_less_than(saved_bytes),
            Err(StorageError::Full(_)) if self.lane_makes_room(saved_bytes as u64) => return,
            Err(error) => return self.lane_failed(&error, now),
        };
        self.lane_works();
        let unix_ms = self.parts.topic.clock.unix_ms();
        if !self.keeps() {
            let saved = count.min(self.unassigned.memory.len());
            for sealed in self.unassigned.memory.drain(..saved).collect::<Vec<_>>() {
                self.give_up(&sealed.batch, FailureReason::Discarded, String::new());
            }
            return;
        }
        let lane = &mut self.unassigned;
        // The end may have taken them meanwhile.
        let saved = count.min(lane.memory.len());
        for (sealed, position) in lane.memory.drain(..saved).zip(positions) {
            let batch = sealed.batch;
            lane.recovered_below = lane.recovered_below.min(position);
            if lane.disk.events == 0 {
                (lane.disk.first, lane.disk.oldest_ms) = (position, unix_ms);
            }
            lane.disk.events += u64::from(batch.count());
            if !batch.spans().is_empty() {
                lane.claims.insert(position, batch.spans().clone());
            }
            batch.spans().durable();
            self.parts.topic.settled(batch.count());
        }
        self.tell_lane_spools(now);
    }

    /// Once: when the topic is known there is no lane any more.
    fn tell_lane_spools(&mut self, now: Time) {
        let away = self.parts.outbox.spool.filter(|spool| spool.mode != SpoolMode::Always);
        let Some(spool) = away.filter(|_| self.end == End::NotYet) else { return };
        // It may be saved for another reason: behind what an earlier process left.
        if self.unassigned.since.is_none_or(|since| since + spool.after > now) {
            return;
        }
        if !std::mem::replace(&mut self.unassigned.told, true) {
            let why = self.parts.manager.why_unknown(&self.parts.topic.name);
            let after = spool.after;
            let message = format!(
                "the topic's partitions are not known after {after:?}: events go to the spool until they are ({why})"
            );
            self.tell(NotificationKind::Spooling, None, message);
        }
    }

    /// The end: whoever waits for the delivery of what is on disk is told that it is safe there.
    pub(super) fn leave_unassigned(&mut self) {
        let error = Arc::new(error_of(FailureReason::Spooled, Persisted::No, String::new()));
        std::mem::take(&mut self.unassigned.claims).values().for_each(|spans| spans.failed(&error));
    }

    fn save_less_than(&mut self, bytes: usize) {
        let halvings = (STEP_BYTES / bytes.max(1)).max(1).ilog2() + 1;
        self.unassigned.halvings = halvings.max(self.unassigned.halvings + 1).min(STEP_BYTES.ilog2());
    }

    fn lane_failed(&mut self, error: &StorageError, now: Time) {
        self.unassigned.failing = Some(now + STORAGE_PAUSE);
        if let StorageError::Full(_) = error {
            self.unassigned.halvings = (self.unassigned.halvings + 1).min(STEP_BYTES.ilog2());
        }
        let full = matches!(error, StorageError::Full(_));
        self.spool_troubled(UNASSIGNED, full, false, &error.to_string());
    }

    fn lane_works(&mut self) {
        self.unassigned.failing = None;
        self.unassigned.halvings = self.unassigned.halvings.saturating_sub(1);
        self.spool_works(UNASSIGNED);
    }

    /// The lane begins at `through` now; who waits for what was not read of it is told that it is lost.
    fn settle_claims(&mut self, through: u64, read: &BTreeSet<u64>, damage: &[(u64, String)]) {
        let rest = self.unassigned.claims.split_off(&through);
        let message = damage.first().map(|(_, message)| message.clone()).unwrap_or_default();
        let error = Arc::new(error_of(FailureReason::Damaged, Persisted::No, message));
        for (position, spans) in std::mem::replace(&mut self.unassigned.claims, rest) {
            if !read.contains(&position) {
                spans.failed(&error);
            }
        }
    }

    fn lane_damaged(&mut self, damage: Vec<(u64, String)>) {
        for (events, message) in damage {
            let lane = &mut self.unassigned;
            let events = events.min(lane.disk.events);
            lane.disk.events -= events;
            // They count as found and lost, or as accepted and lost.
            let found = events.min(lane.recovered);
            lane.recovered -= found;
            self.own.recovered += found;
            self.own.lost += events;
            if self.unassigned.disk.events == 0 {
                self.settle_claims(u64::MAX, &BTreeSet::new(), &[(events, message.clone())]);
            }
            let message = format!("{events} events of the spool are lost: {message}");
            self.tell(NotificationKind::EventsLost, None, message);
        }
    }
}
