//! Regrouping: a piece of the lane is read from disk, its events are placed, and it goes to its partitions in one durable step.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kafka_batcher_core::partitioner::{Placement, TopicNotice};
use kafka_batcher_core::{
    DeadLetter, DeliveryError, FailureReason, Persisted, ReadBack, RecordBatch, StorageError, Time,
    TopicPartition,
};
use tokio::sync::watch;

use super::super::spooling::{LANE_CALL, guarded};
use super::super::{Dispatcher, Done};
use crate::clock::Clock;
use crate::compression::{CompressionPool, How, Job};
use crate::storage::UNASSIGNED;
use crate::topic::PLACEMENT_HEADER;

/// The batch of a step that waits for a codec, and the means to end that: it goes uncompressed, then. Cheap to clone.
#[derive(Clone)]
pub(in crate::dispatcher) struct Codec {
    plain: watch::Sender<bool>,
    waits: Arc<Mutex<Option<Waiting>>>,
}

struct Waiting {
    since: Time,
    job: Arc<Job>,
}

impl Default for Codec {
    fn default() -> Self {
        Codec { plain: watch::Sender::new(false), waits: Arc::default() }
    }
}

impl Codec {
    fn waits(&self) -> std::sync::MutexGuard<'_, Option<Waiting>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch waits for a codec, or is being compressed.
    pub(in crate::dispatcher) fn is_awaited(&self) -> bool {
        self.waits().is_some()
    }

    /// Since when a batch waits for a codec that has not begun with it.
    pub(in crate::dispatcher) fn waits_since(&self) -> Option<Time> {
        self.waits().as_ref().filter(|waiting| !waiting.job.is_worked_at()).map(|waiting| waiting.since)
    }

    /// It has reason to wait on.
    pub(in crate::dispatcher) fn wait_from(&self, now: Time) {
        self.waits().iter_mut().for_each(|waiting| waiting.since = now);
    }

    /// What waits, and what comes later in this step, goes as it is.
    pub(in crate::dispatcher) fn give_up(&self) {
        self.plain.send_replace(true);
    }

    async fn compress(
        &self,
        pool: &Arc<CompressionPool>,
        batch: RecordBatch,
        how: &How,
        clock: &Clock,
    ) -> Vec<RecordBatch> {
        let job = Job::new(batch, how.clone());
        *self.waits() = Some(Waiting { since: clock.now(), job: job.clone() });
        let mut plain = self.plain.subscribe();
        tokio::select! {
            biased;
            _ = plain.wait_for(|plain| *plain) => {}
            () = pool.clone().run(job.clone()) => {}
        }
        *self.waits() = None;
        job.take().0
    }
}

/// A step of regrouping that failed.
pub(in crate::dispatcher) struct Stuck {
    pub(in crate::dispatcher) error: StorageError,
    /// Where the lane would have begun, if its dead letters were put aside before.
    pub(in crate::dispatcher) aside: Option<u64>,
}

impl From<StorageError> for Stuck {
    fn from(error: StorageError) -> Self {
        Stuck { error, aside: None }
    }
}

/// One step of regrouping, done.
pub(in crate::dispatcher) struct Step {
    /// Where the lane begins now.
    through: u64,
    /// Batches with their partitions and positions, and whether they were found at the start.
    placed: Vec<(i32, u64, RecordBatch, bool)>,
    /// Events that have no partition, put aside, and whether they were found at the start.
    rejected: Vec<(RecordBatch, DeliveryError, bool)>,
    /// Where each batch lay that was read.
    read: BTreeSet<u64>,
    events: u64,
    recovered: u64,
    damage: Vec<(u64, String)>,
}

impl Dispatcher {
    /// Reads the oldest of the lane from disk and gives it to its partitions.
    pub(super) fn regroup_step(&mut self) {
        let Some(storage) = self.storage() else { return };
        self.unassigned.regrouping = true;
        self.expect_answer(UNASSIGNED, LANE_CALL);
        let topic = self.parts.topic.clone();
        // What was put aside once is left out again, not put aside again: once a second while the disk fails.
        let (aside, partitions) = self.unassigned.aside.unwrap_or((0, self.partitions_known()));
        self.add_lanes(partitions);
        let lane = TopicPartition::new(&*topic.name, UNASSIGNED);
        let from = self.unassigned.disk.first;
        let step_bytes = self.unassigned.step_bytes();
        let recovered_below = self.unassigned.recovered_below;
        let claims = self.unassigned.claims.clone();
        let (pool, how) = (self.parts.compression.clone(), self.compresses().then(|| self.how()));
        self.unassigned.codec = Codec::default();
        let codec = self.unassigned.codec.clone();
        if self.pool_stuck {
            codec.give_up();
        }
        let step = async move {
            let ReadBack { batches, next, damage } = storage.read(&lane, from, step_bytes).await?;
            let mut step = Step {
                through: next,
                placed: Vec::new(),
                rejected: Vec::new(),
                read: BTreeSet::new(),
                events: 0,
                recovered: 0,
                damage,
            };
            let mut letters = Vec::new();
            for stored in batches {
                let found = stored.position < recovered_below;
                step.read.insert(stored.position);
                step.events += u64::from(stored.batch.count());
                step.recovered += if found { u64::from(stored.batch.count()) } else { 0 };
                let mut batch = stored.batch;
                if let Some(spans) = claims.get(&stored.position) {
                    batch.set_spans(spans.clone());
                }
                let mut place = |record: &kafka_batcher_core::Record<'_>, kept: Option<&[u8]>| {
                    let kept = kept.and_then(Placement::decode);
                    topic.place_late(record, kept, partitions).map_err(|error| error.to_string())
                };
                let mut chunk = |_, size| kafka_batcher_core::Chunk::unpooled(size);
                let regrouped = batch
                    .regroup(PLACEMENT_HEADER, &mut place, &mut chunk)
                    .map_err(|error| StorageError::Failed(error.to_string()))?;
                for (partition, batch) in regrouped.assigned {
                    topic.notice(TopicNotice::Sealed(partition));
                    let batches = match &how {
                        Some(how) => codec.compress(&pool, batch, how, &topic.clock).await,
                        None => vec![batch],
                    };
                    step.placed.extend(batches.into_iter().map(|batch| (partition, 0, batch, found)));
                }
                for (batch, reason) in regrouped.refused {
                    let error = DeliveryError {
                        reason: FailureReason::NoSuchPartition,
                        persisted: Persisted::No,
                        code: None,
                        message: reason,
                    };
                    if stored.position >= aside {
                        letters.push(DeadLetter {
                            batch: batch.clone(),
                            position: None,
                            error: error.clone(),
                        });
                    }
                    step.rejected.push((batch, error, found));
                }
            }
            if !letters.is_empty() {
                storage.reject(&lane, letters).await?;
            }
            let batches =
                step.placed.iter().map(|(partition, _, batch, _)| (*partition, batch.clone())).collect();
            let regrouped =
                guarded(async { storage.regroup(&topic.name, step.through, batches).await }).await;
            let positions = match regrouped {
                Ok(positions) => positions,
                Err(error) => return Err(Stuck { error, aside: Some(step.through.max(aside)) }),
            };
            for (placed, position) in step.placed.iter_mut().zip(positions) {
                placed.1 = position;
            }
            Ok(step)
        };
        self.spawn_storing(async move {
            // What it caught itself is an answer, too.
            let step = guarded(async move { Ok(step.await) }).await;
            Done::Regrouped(step.unwrap_or_else(|error| Err(error.into())))
        });
    }

    pub(in crate::dispatcher) fn regrouped(&mut self, step: Result<Step, Stuck>) {
        let now = self.parts.topic.clock.now();
        self.unassigned.regrouping = false;
        self.calls.remove(&(UNASSIGNED, LANE_CALL));
        let step = match step {
            Ok(step) => step,
            Err(Stuck { error, aside }) => {
                if let Some(through) = aside {
                    self.unassigned.aside = Some((through, self.partitions_known()));
                }
                return self.lane_failed(&error, now);
            }
        };
        self.lane_works();
        let lane = &mut self.unassigned;
        lane.aside.take_if(|(through, _)| *through <= step.through);
        let read_nothing = step.events == 0 && step.damage.is_empty();
        lane.disk.first = step.through;
        lane.disk.events = lane.disk.events.saturating_sub(step.events);
        lane.recovered = lane.recovered.saturating_sub(step.recovered);
        self.settle_claims(step.through, &step.read, &step.damage);
        let lane = &mut self.unassigned;
        let mut damage = step.damage;
        if read_nothing && lane.disk.events > 0 {
            damage.push((lane.disk.events, "the storage does not have them any more".to_owned()));
        }
        self.lane_damaged(damage);
        for (batch, error, found) in step.rejected {
            self.own.recovered += if found { u64::from(batch.count()) } else { 0 };
            self.lane_dead_letter(&batch, error, true);
        }
        self.count_dropped_letters();
        for (partition, position, batch, found) in step.placed {
            if let Some(lane) = self.lane_mut(partition) {
                lane.outbox.on_regrouped(vec![(position, batch)], !found);
                lane.dirty = true;
            }
            self.take_events(partition, now);
        }
        if self.unassigned.disk.events == 0 {
            // Now what is in memory, and then slots.
            self.learn_partitions();
        }
    }
}
