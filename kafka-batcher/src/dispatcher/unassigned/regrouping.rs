//! Regrouping: a piece of the lane is read from disk, its events are placed, their batches compressed if they are to be, and it goes
//! to its partitions in one durable step.

use std::collections::BTreeSet;

use kafka_batcher_core::partitioner::{Placement, TopicNotice};
use kafka_batcher_core::{
    Chunk, DeadLetter, DecodeError, FailureReason, Persisted, ReadBack, Record, RecordBatch, StorageError,
    TopicPartition,
};

use super::super::outcomes::error_of;
use super::super::spooling::{LANE_CALL, guarded};
use super::super::{Dispatcher, Done};
use crate::storage::UNASSIGNED;
use crate::topic::PLACEMENT_HEADER;

/// What is regrouped in one step.
pub(in crate::dispatcher) struct Step {
    /// Where the lane begins now.
    through: u64,
    /// Of how many partitions it knows.
    partitions: i32,
    placed: Vec<Placed>,
    /// Events that have no partition, and whether they were found at the start.
    rejected: Vec<(DeadLetter, bool)>,
    /// Of those, the ones to put aside: others were when this step failed once.
    letters: Vec<DeadLetter>,
    /// Where each batch lay that was read.
    read: BTreeSet<u64>,
    events: u64,
    recovered: u64,
    damage: Vec<(u64, String)>,
}

struct Placed {
    partition: i32,
    batch: RecordBatch,
    /// It was found at the start.
    found: bool,
}

/// A step that is written, and the positions that its batches have now.
pub(in crate::dispatcher) type Written = Result<(Step, Vec<u64>), Stuck>;

/// A step of regrouping that failed.
pub(in crate::dispatcher) struct Stuck {
    error: StorageError,
    /// Where the lane would have begun, and how many partitions the step knew, if its dead letters were put aside before.
    aside: Option<(u64, i32)>,
}

impl Dispatcher {
    /// Reads the oldest of the lane from disk, to give it to its partitions.
    pub(super) fn regroup_step(&mut self) {
        let Some(storage) = self.storage() else { return };
        self.unassigned.regrouping = true;
        self.expect_answer(UNASSIGNED, LANE_CALL);
        let lane = TopicPartition::new(&*self.parts.topic.name, UNASSIGNED);
        let (from, step_bytes) = (self.unassigned.disk.first, self.unassigned.step_bytes());
        self.spawn_storing(async move {
            Done::LaneRead(guarded(async { storage.read(&lane, from, step_bytes).await }).await)
        });
    }

    pub(in crate::dispatcher) fn lane_read(&mut self, read: Result<ReadBack, StorageError>) {
        self.calls.remove(&(UNASSIGNED, LANE_CALL));
        let placed = read
            .and_then(|read| self.place_lane(read).map_err(|error| StorageError::Failed(error.to_string())));
        let mut step = match placed {
            Ok(step) => step,
            Err(error) => return self.step_failed(Stuck { error, aside: None }),
        };
        if !self.compresses() || step.placed.is_empty() {
            return self.write_step(step);
        }
        // A codec writes over a batch that nobody else holds.
        let apart = |Placed { partition, batch, found }| ((partition, found), batch);
        let (targets, batches): (Vec<_>, Vec<_>) = step.placed.drain(..).map(apart).unzip();
        self.unassigned.step = Some((step, targets));
        self.compress_lane(batches);
    }

    /// Gives the events that were read to their partitions.
    fn place_lane(&mut self, read: ReadBack) -> Result<Step, DecodeError> {
        // What was put aside once is left out again, not put aside again: once a second while the disk fails.
        let (aside, partitions) = self.unassigned.aside.unwrap_or((0, self.partitions_known()));
        self.add_lanes(partitions);
        let topic = &self.parts.topic;
        let mut step = Step {
            through: read.next,
            partitions,
            placed: Vec::new(),
            rejected: Vec::new(),
            letters: Vec::new(),
            read: BTreeSet::new(),
            events: 0,
            recovered: 0,
            damage: read.damage,
        };
        for stored in read.batches {
            let mut batch = stored.batch;
            let found = stored.position < self.unassigned.recovered_below;
            step.read.insert(stored.position);
            step.events += u64::from(batch.count());
            step.recovered += if found { u64::from(batch.count()) } else { 0 };
            if let Some(spans) = self.unassigned.claims.get(&stored.position) {
                batch.set_spans(spans.clone());
            }
            let mut place = |record: &Record<'_>, kept: Option<&[u8]>| {
                let kept = kept.and_then(Placement::decode);
                topic.place_late(record, kept, partitions).map_err(|error| error.to_string())
            };
            let regrouped =
                batch.regroup(PLACEMENT_HEADER, &mut place, &mut |_, size| Chunk::unpooled(size))?;
            for (partition, batch) in regrouped.assigned {
                topic.notice(TopicNotice::Sealed(partition));
                step.placed.push(Placed { partition, batch, found });
            }
            for (batch, reason) in regrouped.refused {
                let error = error_of(FailureReason::NoSuchPartition, Persisted::No, reason);
                let letter = DeadLetter { batch, position: None, error };
                if stored.position >= aside {
                    step.letters.push(letter.clone());
                }
                step.rejected.push((letter, found));
            }
        }
        Ok(step)
    }

    /// The step's batches have come out of the codec's stage, as many as went in, each perhaps in parts.
    pub(in crate::dispatcher) fn lane_compressed(&mut self, batches: Vec<Vec<RecordBatch>>) {
        let Some((mut step, targets)) = self.unassigned.step.take() else { return };
        for ((partition, found), parts) in targets.into_iter().zip(batches) {
            step.placed.extend(parts.into_iter().map(|batch| Placed { partition, batch, found }));
        }
        self.write_step(step);
    }

    fn write_step(&mut self, mut step: Step) {
        let Some(storage) = self.storage() else { return };
        self.expect_answer(UNASSIGNED, LANE_CALL);
        let topic = self.parts.topic.name.clone();
        let aside = self.unassigned.aside.map_or(0, |(through, _)| through);
        self.spawn_storing(async move {
            let lane = TopicPartition::new(&*topic, UNASSIGNED);
            let letters = std::mem::take(&mut step.letters);
            if !letters.is_empty()
                && let Err(error) = guarded(async { storage.reject(&lane, letters).await }).await
            {
                return Done::Regrouped(Err(Stuck { error, aside: None }));
            }
            let batches = step.placed.iter().map(|placed| (placed.partition, placed.batch.clone())).collect();
            let written = guarded(async { storage.regroup(&topic, step.through, batches).await }).await;
            let aside = Some((step.through.max(aside), step.partitions));
            Done::Regrouped(
                written.map(|positions| (step, positions)).map_err(|error| Stuck { error, aside }),
            )
        });
    }

    fn step_failed(&mut self, Stuck { error, aside }: Stuck) {
        self.unassigned.regrouping = false;
        self.unassigned.aside = aside.or(self.unassigned.aside);
        self.lane_failed(&error, self.parts.topic.clock.now());
    }

    pub(in crate::dispatcher) fn regrouped(&mut self, written: Written) {
        let now = self.parts.topic.clock.now();
        self.calls.remove(&(UNASSIGNED, LANE_CALL));
        let (step, positions) = match written {
            Ok(written) => written,
            Err(stuck) => return self.step_failed(stuck),
        };
        self.unassigned.regrouping = false;
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
        for (DeadLetter { batch, error, .. }, found) in step.rejected {
            self.own.recovered += if found { u64::from(batch.count()) } else { 0 };
            self.lane_dead_letter(&batch, error, true);
        }
        self.count_dropped_letters();
        for (Placed { partition, batch, found }, position) in step.placed.into_iter().zip(positions) {
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
