//! The stage between sealing and the outbox where batches are compressed, if they are.
//!
//! Several at once, but handed to their outbox in the order in which they were sealed; for the outbox a compressed batch is a
//! batch. What is in here counts as in memory. Once the time to deliver is over nothing is compressed any more, and what is in
//! here goes on as it is. Without a codec a batch never comes here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher_core::{Codec, Compression, FailureReason, RecordBatch, Time};

use super::{Dispatcher, Done, Lane};
use crate::compression::{How, Job};
use crate::storage::UNASSIGNED;

/// No pool is thought to be stuck sooner: a machine with ten times more to do than it can takes seconds to begin with anything, and
/// batches that wait so long are not in danger, only late.
const POOL_PATIENCE: Duration = Duration::from_secs(5);

/// What of one partition is being compressed, or waits for it; oldest first.
#[derive(Default)]
pub(super) struct Stage {
    jobs: VecDeque<Staged>,
    /// How many of `jobs`, from the front, have been begun.
    begun: usize,
    /// How many batches have gone from here to the outbox.
    handed: u64,
}

struct Staged {
    job: Arc<Job>,
    opened: Time,
    events: u32,
    /// Its size before.
    plain: usize,
    done: bool,
}

/// Which batches somebody waits for: all before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// So many have gone from the stage to the outbox.
    Stage(u64),
    /// The outbox has given it this ordinal.
    Outbox(u64),
}

impl Stage {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn events(&self) -> u64 {
        self.jobs.iter().map(|staged| u64::from(staged.events)).sum()
    }

    /// Acceptance of the oldest event.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.jobs.front().map(|staged| staged.opened)
    }

    fn push(&mut self, batch: RecordBatch, how: How, opened: Time) {
        let (events, plain) = (batch.count(), batch.encoded_len());
        self.jobs.push_back(Staged { job: Job::new(batch, how), opened, events, plain, done: false });
    }

    fn ordinal_behind(&self) -> u64 {
        self.handed + self.jobs.len() as u64
    }
}

impl Lane {
    /// True if a batch waits, to be sent or to be saved: one that came in now would only wait behind it.
    pub(super) fn has_unsent(&self) -> bool {
        !self.stage.is_empty() || self.outbox.has_unsent()
    }

    /// Stands for everything that was sealed so far.
    pub(super) fn mark(&self) -> Mark {
        match self.stage.is_empty() {
            true => Mark::Outbox(self.outbox.next_ordinal()),
            false => Mark::Stage(self.stage.ordinal_behind()),
        }
    }

    pub(super) fn settled_below(&self, mark: Mark) -> bool {
        match mark {
            Mark::Stage(_) => false,
            Mark::Outbox(ordinal) => self.outbox.settled_below(ordinal),
        }
    }
}

impl Dispatcher {
    /// How batches are compressed, if [`Dispatcher::compresses`].
    pub(super) fn how(&self) -> How {
        let topic = &self.parts.topic;
        let (limit, memory) = (topic.settings.max_batch_bytesize, topic.pool.clone());
        How { compression: self.compression, limit, memory }
    }

    /// False: they are not, or not any more.
    pub(super) fn compresses(&self) -> bool {
        self.compression.codec() != Codec::None
    }

    /// A sealed batch on its way to its outbox, by way of a codec if there is one.
    pub(super) fn enqueue(&mut self, partition: i32, batch: RecordBatch, opened: Time) {
        let (how, compresses) = (self.how(), self.compresses());
        let Some(lane) = self.lane_mut(partition) else {
            // Slots and lanes grow together; an event must not vanish if that is ever wrong.
            return self.give_up(&batch, FailureReason::Internal, "its partition has no outbox".to_owned());
        };
        lane.wanted = false;
        if compresses {
            lane.stage.push(batch, how, opened);
            self.to_compress.push_back(partition);
            return self.begin_compressing();
        }
        for batch in how.plain(batch) {
            lane.outbox.on_sealed(batch, opened);
        }
        lane.dirty = true;
    }

    /// The batches of a step of regrouping, on their way through a codec: all of them together, and their order is kept.
    pub(super) fn compress_lane(&mut self, batches: Vec<RecordBatch>) {
        let (how, opened) = (self.how(), self.parts.topic.clock.now());
        for batch in batches {
            self.unassigned.stage.push(batch, how.clone(), opened);
            self.to_compress.push_back(UNASSIGNED);
        }
        self.begin_compressing();
    }

    fn stage_mut(&mut self, partition: i32) -> Option<&mut Stage> {
        match partition {
            UNASSIGNED => Some(&mut self.unassigned.stage),
            _ => self.lane_mut(partition).map(|lane| &mut lane.stage),
        }
    }

    /// Begins as many as may run at once; they are of all partitions, in the order of sealing.
    fn begin_compressing(&mut self) {
        if self.compressing == 0 {
            self.pool_answered_at = self.parts.topic.clock.now();
        }
        while self.compressing < self.parts.compression.size() {
            let Some(partition) = self.to_compress.pop_front() else { return };
            let Some(stage) = self.stage_mut(partition) else { continue };
            let Some(staged) = stage.jobs.get(stage.begun) else { continue };
            let (job, ordinal) = (staged.job.clone(), stage.handed + stage.begun as u64);
            stage.begun += 1;
            self.compressing += 1;
            let pool = self.parts.compression.clone();
            self.spawn(async move {
                pool.run(job).await;
                Done::Compressed { partition, ordinal }
            });
        }
    }

    pub(super) fn compressed(&mut self, partition: i32, ordinal: u64) {
        self.compressing = self.compressing.saturating_sub(1);
        (self.pool_answered_at, self.pool_stuck) = (self.parts.topic.clock.now(), false);
        self.begin_compressing();
        let Some(stage) = self.stage_mut(partition) else { return };
        // It may have been taken back meanwhile.
        let at = ordinal.checked_sub(stage.handed).and_then(|at| usize::try_from(at).ok());
        if let Some(staged) = at.and_then(|at| stage.jobs.get_mut(at)) {
            staged.done = true;
        }
        if partition != UNASSIGNED {
            while self.hand_over(partition, |staged| staged.done) {}
        } else if self.unassigned.stage.jobs.iter().all(|staged| staged.done) {
            self.hand_over_lane();
        }
    }

    /// The step goes on with what its batches have become.
    fn hand_over_lane(&mut self) {
        let stage = &mut self.unassigned.stage;
        if stage.is_empty() {
            return;
        }
        (stage.handed, stage.begun) = (stage.ordinal_behind(), 0);
        let batches = stage.jobs.drain(..).map(|staged| staged.job.take().0).collect();
        self.lane_compressed(batches);
    }

    /// The partition's oldest batch goes to the outbox, if it is one of these.
    fn hand_over(&mut self, partition: i32, which: impl Fn(&Staged) -> bool) -> bool {
        let Some(lane) = self.lane_mut(partition) else { return false };
        if !lane.stage.jobs.front().is_some_and(which) {
            return false;
        }
        let Some(staged) = lane.stage.jobs.pop_front() else { return false };
        lane.stage.begun = lane.stage.begun.saturating_sub(1);
        lane.stage.handed += 1;
        lane.dirty = true;
        let (batches, compressed) = staged.job.take();
        let wire = batches.iter().map(RecordBatch::encoded_len).sum();
        for batch in batches {
            lane.outbox.on_sealed(batch, staged.opened);
        }
        let (gone, here) = (Mark::Stage(lane.stage.handed), Mark::Outbox(lane.outbox.next_ordinal()));
        for barrier in &mut self.barriers {
            let mark = usize::try_from(partition).ok().and_then(|p| barrier.marks.get_mut(p));
            mark.into_iter().filter(|mark| **mark == gone).for_each(|mark| *mark = here);
        }
        if let (true, Some(fill)) = (compressed, &self.parts.topic.fill) {
            fill.observe(staged.plain, wire);
        }
        true
    }

    /// From now on batches go as they are, those first that wait here.
    pub(super) fn stop_compressing(&mut self) {
        self.compression = Compression::NONE;
        self.take_all_back();
    }

    fn take_all_back(&mut self) {
        self.to_compress.clear();
        for partition in 0..self.lanes.len() as i32 {
            while self.hand_over(partition, |_| true) {}
        }
        self.hand_over_lane();
    }

    /// By when the pool should have begun with something, or be done with it.
    pub(super) fn pool_due(&self) -> Option<Time> {
        let after = self.parts.outbox.spool.map_or(self.parts.request_timeout, |spool| spool.after);
        let mut stages = self.lanes.iter().map(|lane| &lane.stage).chain([&self.unassigned.stage]);
        let waits = stages.any(|stage| !stage.is_empty());
        waits.then(|| self.pool_answered_at + after.max(POOL_PATIENCE))
    }

    /// The runtime's blocking threads may all be busy, with the program's own work, and for ever: what waits for one goes as it is.
    pub(super) fn look_after_pool(&mut self) {
        let now = self.parts.topic.clock.now();
        if self.pool_due().is_none_or(|due| due > now) {
            return;
        }
        // Whoever it works for.
        let done = self.parts.compression.done();
        if self.parts.compression.is_working() || std::mem::replace(&mut self.pool_done, done) != done {
            self.pool_answered_at = now;
            return;
        }
        if !std::mem::replace(&mut self.pool_stuck, true) {
            tracing::warn!(
                topic = &*self.parts.topic.name,
                "no thread is free to compress batches, they are sent uncompressed until one is: the runtime's blocking threads are \
                 busy; give it more (max_blocking_threads), or block fewer"
            );
        }
        self.take_all_back();
    }
}

#[cfg(test)]
mod tests;
