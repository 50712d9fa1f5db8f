//! What becomes of a batch that is refused for good: halved with its numbers kept, or its culprits cut out.
//!
//! Only for the head, with nothing of the partition in flight or in doubt before it; `judge.rs` sees to that.

use std::collections::BTreeMap;

use super::Outbox;
use super::entry::{Entry, Place};
use crate::buffer_pool::Chunk;
use crate::delivery::Refusal;
use crate::error::FailureReason;
use crate::error_code::ErrorCode;

impl Outbox {
    pub(super) fn reserve(&self) -> impl FnMut(usize) -> Chunk + use<> {
        let (pool, share) = (self.pool.clone(), self.share.clone());
        move |size| pool.acquire_reserve(&share, size)
    }

    /// Halves the head, every event keeping its number (DESIGN.md, Delivery); a single event fails.
    pub(super) fn split_or_fail(&mut self, reason: FailureReason, refusal: &Refusal) {
        let Some(entry) = self.entries.pop_front() else { return };
        let count = entry.batch.count();
        if count <= 1 {
            return self.give_up(&entry, reason, refusal, refusal.message.clone().unwrap_or_default());
        }
        match entry.batch.split(count / 2, &mut self.reserve()) {
            Ok((left, right)) => {
                for (batch, at) in [(right, count / 2), (left, 0)] {
                    let (run, restamped, id) = (entry.run, entry.restamped, self.next_id());
                    self.entries.push_front(Entry { run, restamped, ..entry.piece(id, batch, at) });
                }
            }
            Err(error) => self.give_up(&entry, FailureReason::Internal, refusal, error.to_string()),
        }
    }

    /// Splits the entry at `at`, whose first `events` are in doubt while the rest is not written; numbers stay. False: its
    /// bytes cannot be read.
    pub(super) fn halve(&mut self, at: usize, events: u32) -> bool {
        let Some(Ok((left, right))) =
            self.entries.get(at).map(|entry| entry.batch.split(events, &mut self.reserve()))
        else {
            return false;
        };
        let (left_id, right_id) = (self.next_id(), self.next_id());
        let Some(entry) = self.entries.remove(at) else { return false };
        let run = entry.run;
        let left = Entry { run, exposure: entry.exposure, verdict: None, ..entry.piece(left_id, left, 0) };
        let right = Entry { run, ..entry.piece(right_id, right, events) };
        self.entries.insert(at, right);
        self.entries.insert(at, left);
        true
    }

    /// Cuts the culprits out of the head. Their neighbours keep their order and get new numbers.
    pub(super) fn cut(&mut self, refusal: &Refusal) {
        let Some(head) = self.entries.front_mut() else { return };
        let culprits: BTreeMap<u32, Option<String>> =
            refusal.record_errors.iter().filter(|(i, _)| *i < head.batch.count()).cloned().collect();
        if culprits.is_empty() {
            // Nobody is named. Of an invalid record our own header is the first suspect (a sequence that overflowed
            // looks like one); only then the records, by halving.
            let header = refusal.code == ErrorCode::INVALID_RECORD && self.settings.idempotent;
            if header && !std::mem::replace(&mut head.restamped, true) {
                return self.end_run();
            }
            return self.split_or_fail(FailureReason::Rejected, refusal);
        }
        let Some(entry) = self.entries.pop_front() else { return };
        let indices: Vec<u32> = culprits.keys().copied().collect();
        if entry.place != Place::Memory {
            return self.cut_saved(entry, culprits, refusal);
        }
        match entry.batch.cut_out(&indices, &mut self.reserve()) {
            Ok((rest, culprit_batches)) => {
                if let Some(rest) = rest {
                    let id = self.next_id();
                    self.entries.push_front(entry.piece(id, rest, 0));
                }
                for (batch, words) in culprit_batches.into_iter().zip(culprits.into_values()) {
                    let words = words.or_else(|| refusal.message.clone()).unwrap_or_default();
                    self.fail(&entry, batch, FailureReason::Rejected, Some(refusal.code.0), words);
                }
                self.hole();
            }
            Err(error) => self.give_up(&entry, FailureReason::Internal, refusal, error.to_string()),
        }
    }

    /// The same for a batch that is on disk: its neighbours become batches of consecutive events, so that each is a stretch
    /// of what was saved and can be found again after a crash with the numbers it was sent under.
    fn cut_saved(&mut self, entry: Entry, culprits: BTreeMap<u32, Option<String>>, refusal: &Refusal) {
        let count = entry.batch.count();
        let ends = culprits.keys().flat_map(|i| [*i, *i + 1]).filter(|at| (1..count).contains(at));
        let mut cuts: Vec<u32> = std::iter::once(0).chain(ends).chain([count]).collect();
        cuts.dedup();
        let stretches: Vec<_> =
            cuts.iter().zip(cuts.iter().skip(1)).map(|(first, end)| *first..*end).collect();
        let batches = match entry.batch.parts(&stretches, &mut self.reserve()) {
            Ok(batches) => batches,
            Err(error) => {
                return self.give_up(&entry, FailureReason::Internal, refusal, error.to_string());
            }
        };
        let pieces = stretches.into_iter().map(|stretch| stretch.start).zip(batches);
        // The youngest first: each is put before the others.
        let mut letters = Vec::new();
        for (at, batch) in pieces.rev() {
            let id = self.next_id();
            let mut piece = entry.piece(id, batch, at);
            match culprits.get(&at) {
                Some(words) => {
                    let words = words.clone().or_else(|| refusal.message.clone()).unwrap_or_default();
                    letters.push((piece, words));
                }
                None => {
                    // New numbers follow; until then it carries none that count.
                    piece.run = None;
                    self.entries.push_front(piece);
                }
            }
        }
        for (piece, words) in letters.into_iter().rev() {
            let code = Some(refusal.code.0);
            self.fail(&piece, piece.batch.clone(), FailureReason::Rejected, code, words);
        }
        self.hole();
    }

    /// The broker refuses the head's time, which this process gave: another one, in a new run. Of a batch in which the user
    /// gave some times, too, the halves are tried until it is known whose time it is.
    pub(super) fn give_new_time(&mut self, refusal: &Refusal, unix_ms: i64) {
        let Some(head) = self.entries.front_mut() else { return };
        if head.batch.any_time_given() && head.batch.count() > 1 {
            return self.split_or_fail(FailureReason::Rejected, refusal);
        }
        head.batch.shift_time_to(unix_ms);
        head.run = None;
        self.end_run();
    }

    fn give_up(&mut self, entry: &Entry, reason: FailureReason, refusal: &Refusal, message: String) {
        let code = Some(refusal.code.0);
        self.fail(entry, entry.batch.clone(), reason, code, message);
        self.hole();
    }

    /// Numbers are missing now: what follows starts a new run (DESIGN.md, Delivery).
    pub(super) fn hole(&mut self) {
        #[cfg(test)]
        {
            if super::simulator::planted(super::simulator::Mutation::HoleKeepsRun) {
                return;
            }
        }
        self.end_run();
    }
}
