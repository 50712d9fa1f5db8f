//! Proof by a batch that is still on disk: everything in memory is passed over until the one that can prove it is found.

use super::super::entry::{Entry, Place};
use super::super::{Outbox, OutboxEvent};

impl Outbox {
    /// True if the batch that would prove the head may still lie on disk: everything in memory is of the run and in
    /// doubt, and there is more.
    pub(in super::super) fn may_seek(&self, run: u64) -> bool {
        let plain = |e: &Entry| e.is_doubtful_in(run) && e.place != Place::Memory && e.verdict.is_none();
        self.spool.gap.events > 0
            && !self.is_given_up(run)
            && self.entries.iter().enumerate().all(|(at, entry)| {
                // The head's 45 is what began this.
                plain(entry) || (at == 0 && entry.is_doubtful_in(run) && entry.place != Place::Memory)
            })
    }

    /// Passes over everything in memory: it is on disk, and a younger batch will prove it or not.
    pub(in super::super) fn pass(&mut self) {
        let mut passed = self.spool.passed.take().unwrap_or_default();
        while let Some(entry) = self.entries.pop_front() {
            if let Some(position) = entry.position() {
                self.keep(&entry, position);
                passed.put_behind(position, entry.events(), entry.accepted_by);
            }
        }
        self.spool.passed = Some(passed);
    }

    /// The search has ended without a proof: what was passed over lies before the gap again.
    pub(in super::super) fn rewind(&mut self) {
        let Some(passed) = self.spool.passed.take() else { return };
        // What is being read lies further down than what comes next now.
        self.spool.reading = None;
        while self.entries.back().is_some_and(|entry| entry.place == Place::Memory) {
            if let Some(entry) = self.entries.pop_back() {
                self.behind.push_front(entry);
            }
        }
        while !self.entries.is_empty() {
            self.drop_youngest();
        }
        if self.spool.gap.events == 0 {
            self.spool.gap.end = passed.end;
        }
        (self.spool.gap.first, self.spool.gap.since) = (passed.first, passed.since);
        self.spool.gap.events += passed.events;
        self.spool.gap.batches += passed.batches;
    }

    /// The search has found its proof: everything that was passed over is in the log.
    pub(in super::super) fn prove_passed(&mut self) {
        let Some(passed) = self.spool.passed.take() else { return };
        self.tally.delivered += passed.events;
        self.tally.proven += passed.events;
        self.settled_some = true;
        let rest = self.spool.kept.split_off(&passed.end);
        let proven = std::mem::replace(&mut self.spool.kept, rest);
        let spans = proven.into_values().map(|kept| kept.spans).filter(|spans| !spans.is_empty()).collect();
        let positions = passed.first..passed.end;
        self.events.push_back(OutboxEvent::ProvenOnDisk { events: passed.events, spans, positions });
    }
}
