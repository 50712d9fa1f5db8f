//! Runs that came from disk: numbers that an earlier process gave, perhaps for another topic or cluster.

use std::collections::BTreeSet;

use super::super::entry::{Exposure, Run};
use super::super::{Action, Outbox, OutboxEvent, Trouble};
use crate::batch::Stamp;
use crate::delivery::{ProducerIdentity, TopicId};
use crate::spool::Numbers;
use crate::time::Time;

/// A run that the outbox has seen.
#[derive(Debug)]
pub(in crate::outbox) struct KnownRun {
    producer_id: i64,
    epoch: i16,
    topic: TopicId,
    ordinal: u64,
    foreign: bool,
    /// Its numbers lead nowhere.
    given_up: bool,
    /// Behind the last event that lies on disk under its numbers, as far as is known.
    through: u64,
}

impl Outbox {
    /// The run that these numbers belong to.
    pub(super) fn run_of(&mut self, numbers: &Numbers) -> u64 {
        let Stamp { producer_id, epoch, .. } = numbers.stamp;
        let topic = numbers.origin.topic;
        let known =
            |run: &&KnownRun| run.producer_id == producer_id && run.epoch == epoch && run.topic == topic;
        // What is read comes in the order of runs.
        if let Some(run) = self.spool.runs.iter().rev().find(known) {
            return run.ordinal;
        }
        let ordinal = self.next_run;
        self.next_run += 1;
        let run = KnownRun { producer_id, epoch, topic, ordinal, foreign: true, given_up: false, through: 0 };
        self.spool.runs.push(run);
        ordinal
    }

    /// Events under these numbers lie on disk up to there.
    pub(super) fn note_on_disk(&mut self, stamp: Stamp, through: u64) {
        let known = |run: &&mut KnownRun| run.producer_id == stamp.producer_id && run.epoch == stamp.epoch;
        if let Some(run) = self.spool.runs.iter_mut().rev().find(known) {
            run.through = run.through.max(through);
        }
    }

    /// Forgets runs of ours of which nothing is left: there is one more for every hole. (Of those found on disk nobody knows where
    /// they end.)
    fn forget_old_runs(&mut self) {
        let spool = &self.spool;
        if spool.saving.is_some() || spool.renumbering.is_some() || spool.reading.is_some() {
            return;
        }
        let in_mind: BTreeSet<u64> =
            self.entries.iter().chain(&self.behind).filter_map(|entry| entry.run).collect();
        let (committed, current) = (spool.committed, self.run.as_ref().map(|run| run.ordinal));
        self.spool.runs.retain(|run| {
            let left = run.through > committed || in_mind.contains(&run.ordinal);
            run.foreign || left || Some(run.ordinal) == current
        });
    }

    /// A run of our own has begun: what of it comes back from disk is known again.
    pub(in super::super) fn remember_run(&mut self, ordinal: u64, producer_id: i64, epoch: i16) {
        if self.settings.spool.is_some() {
            self.forget_old_runs();
            let topic = self.origin.topic;
            let run =
                KnownRun { producer_id, epoch, topic, ordinal, foreign: false, given_up: false, through: 0 };
            self.spool.runs.push(run);
        }
    }

    /// How many runs are kept in mind.
    #[cfg(test)]
    pub(in super::super) fn known_runs(&self) -> usize {
        self.spool.runs.len()
    }

    pub(in super::super) fn mark_given_up(&mut self, run: u64) {
        self.spool
            .runs
            .iter_mut()
            .rev()
            .filter(|known| known.ordinal == run)
            .for_each(|known| known.given_up = true);
    }

    pub(in super::super) fn is_given_up(&self, run: u64) -> bool {
        self.spool.runs.iter().rev().find(|known| known.ordinal == run).is_some_and(|known| known.given_up)
    }

    /// The head has numbers that an earlier process gave it: they stay, and its run goes on as the current one, one batch
    /// at a time until it is established, so that late requests of that process are recognised.
    pub(in super::super) fn adopt(&mut self) -> Option<Action> {
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
            identity: ProducerIdentity { id, epoch },
            next_sequence: 0,
            established: None,
            acked_through: None,
            foreign: true,
        });
        None
    }

    /// What was stamped for another topic or cluster gets new numbers here (DESIGN.md, Delivery).
    pub(in super::super) fn check_origins(&mut self, now: Time) -> Option<Action> {
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
}
