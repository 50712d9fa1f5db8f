//! Doubt and proof: what to do about a refusal, and about a batch of which nobody knows whether it was written.
//!
//! Everything in here happens at the head, with nothing of the partition in flight (delivery-rules.md section 2):
//! a broker's 45, its refusal of a batch that may be written already, and the end of a run all mean one thing first,
//! to find out what the log holds.

use std::collections::BTreeMap;

use super::Outbox;
use super::types::{Action, Doubt, Entry, Exposure, Trouble, Verdict};
use crate::buffer_pool::Chunk;
use crate::delivery::{ProducerState, Refusal};
use crate::error::FailureReason;
use crate::time::Time;

/// How often the broker is asked about the same batch before its numbers are given up.
const MAX_ASKED: u8 = 3;

/// How far `a` lies behind `b` in sequence numbers, which wrap at 2^31.
fn distance(a: i32, b: i32) -> i64 {
    let d = (i64::from(a) - i64::from(b)) & 0x7fff_ffff;
    if d >= 1 << 30 { d - (1 << 31) } else { d }
}

impl Outbox {
    /// What has to be cleared before the head can be sent, if anything.
    pub(super) fn judge(&mut self) -> Option<Action> {
        loop {
            match self.doubt {
                Doubt::Ask => return self.ask(),
                Doubt::Asked => return Some(Action::Wait { until: None }),
                Doubt::Proving { run, last_sequence } => {
                    match self.find(|e| e.run == Some(run) && e.batch.last_sequence() == last_sequence) {
                        Some(at) => return Some(self.fly(at)),
                        None => self.doubt = Doubt::None,
                    }
                }
                Doubt::Stepping { run, next } => {
                    let candidate = |e: &Entry| e.run == Some(run) && e.exposure == Exposure::Doubtful;
                    match self.entries.iter().skip(next).position(candidate) {
                        Some(ahead) => {
                            self.doubt = Doubt::Stepping { run, next: next + ahead };
                            return Some(self.fly(next + ahead));
                        }
                        None => self.give_up_numbers(run),
                    }
                }
                Doubt::None => {
                    if !self.judge_head() {
                        return None;
                    }
                }
            }
        }
    }

    fn find(&self, mut which: impl FnMut(&Entry) -> bool) -> Option<usize> {
        self.entries.iter().position(|entry| which(entry))
    }

    /// Acts upon the head's verdict. True: something changed, judge again.
    fn judge_head(&mut self) -> bool {
        let current = self.run.as_ref().map(|run| run.ordinal);
        let Some(head) = self.entries.front_mut() else { return false };
        let doubtful = self.settings.idempotent && head.exposure == Exposure::Doubtful;
        match head.verdict.take() {
            None => {
                // What gets new numbers goes out only when nothing of the old ones is in doubt (delivery-rules.md 1.3).
                let needs_new =
                    head.exposure == Exposure::Unwritten && (head.run.is_none() || head.run != current);
                let behind = self.entries.iter().skip(1).any(|e| e.exposure == Exposure::Doubtful);
                let clear = needs_new && behind && self.settings.idempotent;
                if clear {
                    self.doubt = Doubt::Ask;
                }
                clear
            }
            Some(verdict @ Verdict::OutOfOrder) => {
                head.verdict = Some(verdict);
                self.doubt = Doubt::Ask;
                true
            }
            Some(verdict @ (Verdict::TooLarge(_) | Verdict::Rejected(_))) if doubtful => {
                // The broker checks size and time before it looks for duplicates: its refusal of a batch that may be
                // written settles nothing (delivery-rules.md 2.4).
                head.verdict = Some(verdict);
                self.doubt = Doubt::Ask;
                true
            }
            Some(Verdict::Fenced) => {
                let (stamp, run) = (head.batch.stamp(), head.run);
                // An older epoch of our own is superseded, the newest one taken over by somebody: both need new numbers.
                if let Some(run) = run {
                    self.give_up_numbers(run);
                }
                if self.identity.is_some_and(|identity| identity.id == stamp.producer_id) {
                    self.forget_identity(stamp.producer_id);
                }
                true
            }
            Some(Verdict::TooLarge(refusal)) => {
                self.split_or_fail(FailureReason::TooLarge, &refusal);
                true
            }
            Some(Verdict::Rejected(refusal)) => {
                self.cut(refusal);
                true
            }
        }
    }

    // ---- asking -----------------------------------------------------------------------------------------------------

    /// The batch in question: a head that was called out of order or refused, or the first that may be written.
    fn subject(&self) -> Option<usize> {
        if self.entries.front().is_some_and(|head| head.verdict.is_some()) {
            return Some(0);
        }
        self.find(|e| e.exposure == Exposure::Doubtful)
    }

    fn ask(&mut self) -> Option<Action> {
        let entry = self.subject().and_then(|at| self.entries.get_mut(at));
        let Some(entry) = entry else {
            self.doubt = Doubt::None;
            return None;
        };
        entry.asked = entry.asked.saturating_add(1);
        self.doubt = Doubt::Asked;
        Some(Action::Describe { producer_id: entry.batch.stamp().producer_id })
    }

    pub(super) fn described(&mut self, state: ProducerState, now: Time) {
        self.doubt = Doubt::None;
        let Some(at) = self.subject() else { return };
        let Some(entry) = self.entries.get_mut(at) else { return };
        let (stamp, last, run, asked) =
            (entry.batch.stamp(), entry.batch.last_sequence(), entry.run, entry.asked);
        let out_of_order = matches!(entry.verdict, Some(Verdict::OutOfOrder));
        let doubtful = entry.exposure == Exposure::Doubtful;
        let Some(run_ordinal) = run else { return };
        match state {
            ProducerState::Failed { message } => {
                entry.asked -= 1;
                self.doubt = Doubt::Ask;
                self.back_off(Trouble::NoAnswer { message }, None, now);
            }
            ProducerState::Unanswerable => {
                // One that was refused just now need not be tried again.
                let next = if entry.verdict.is_some() { at + 1 } else { at };
                self.doubt = Doubt::Stepping { run: run_ordinal, next };
            }
            ProducerState::Unknown if out_of_order && asked < MAX_ASKED => {
                // An id that the partition does not know is taken with any first sequence.
                entry.verdict = None;
                self.count_possible(run_ordinal);
            }
            ProducerState::Unknown if out_of_order => self.give_up_numbers(run_ordinal),
            ProducerState::Unknown => {
                self.count_possible(run_ordinal);
                self.not_written(run_ordinal);
            }
            ProducerState::Known { epoch, .. } if epoch > stamp.epoch => {
                // Somebody else goes on with our id: whatever the log holds under it proves nothing about us.
                self.give_up_numbers(run_ordinal);
                self.forget_identity(stamp.producer_id);
            }
            ProducerState::Known { epoch, .. } if epoch < stamp.epoch => {
                // Nothing of this run is in the log.
                self.not_written(run_ordinal);
                self.after_cut_log(out_of_order);
            }
            ProducerState::Known { last_sequence, .. } if distance(last_sequence, last) >= 0 => {
                let ends_there = |e: &Entry| {
                    e.run == run
                        && e.exposure == Exposure::Doubtful
                        && e.batch.last_sequence() == last_sequence
                };
                if !doubtful {
                    // Our numbers, and we never wrote them: they are not ours alone.
                    self.give_up_numbers(run_ordinal);
                    self.forget_identity(stamp.producer_id);
                } else if asked < MAX_ASKED && self.entries.iter().any(ends_there) {
                    self.doubt = Doubt::Proving { run: run_ordinal, last_sequence };
                } else {
                    self.settle_unknowable(run_ordinal, last_sequence);
                }
            }
            ProducerState::Known { last_sequence, .. } => {
                self.not_written(run_ordinal);
                let next_in_line = distance(stamp.first_sequence, last_sequence) == 1;
                if out_of_order && next_in_line && asked < MAX_ASKED {
                    // It would be taken now; what stood in the way has gone.
                    if let Some(entry) = self.entries.get_mut(at) {
                        entry.verdict = None;
                    }
                } else {
                    self.after_cut_log(out_of_order);
                }
            }
        }
    }

    /// The log ends before the head although the head was next: it was cut, and what was there went with it.
    fn after_cut_log(&mut self, out_of_order: bool) {
        if out_of_order {
            if let Some(head) = self.entries.front_mut() {
                head.verdict = None;
            }
            self.end_run();
        }
    }

    /// Nothing of `run` that is in doubt lies in the log.
    fn not_written(&mut self, run: u64) {
        for entry in
            self.entries.iter_mut().filter(|e| e.run == Some(run) && e.exposure == Exposure::Doubtful)
        {
            entry.exposure = Exposure::Unwritten;
        }
    }

    /// What of `run` is in doubt is about to be sent again although it may lie in the log.
    fn count_possible(&mut self, run: u64) {
        for entry in
            self.entries.iter_mut().filter(|e| e.run == Some(run) && e.exposure == Exposure::Doubtful)
        {
            if !std::mem::replace(&mut entry.counted, true) {
                self.tally.possible_duplicates += u64::from(entry.batch.count());
            }
        }
    }

    /// The numbers of `run` lead nowhere: all that carries them is stamped anew.
    fn give_up_numbers(&mut self, run: u64) {
        self.doubt = Doubt::None;
        self.count_possible(run);
        self.not_written(run);
        for entry in self.entries.iter_mut().filter(|e| e.run == Some(run)) {
            if matches!(entry.verdict, Some(Verdict::OutOfOrder | Verdict::Fenced)) {
                entry.verdict = None;
            }
        }
        if self.run.as_ref().is_some_and(|current| current.ordinal == run) {
            self.end_run();
        }
    }

    /// The broker holds numbers up to `last_sequence` and will not recognise the batch that ends there: what is in
    /// doubt up to there stays so, and says so.
    fn settle_unknowable(&mut self, run: u64, last_sequence: i32) {
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            let covered = entry.run == Some(run)
                && entry.exposure == Exposure::Doubtful
                && distance(last_sequence, entry.batch.last_sequence()) >= 0;
            if covered {
                if let Some(entry) = self.entries.remove(at) {
                    self.in_doubt(entry.batch);
                }
            } else {
                at += 1;
            }
        }
    }

    // ---- refusals ---------------------------------------------------------------------------------------------------

    /// 45: on a younger batch it means "not written, wait for the head"; on the head, that the log must be asked.
    pub(super) fn out_of_order(&mut self, at: usize, alone: bool) {
        match self.doubt {
            Doubt::Stepping { run, .. } => self.doubt = Doubt::Stepping { run, next: at + 1 },
            Doubt::Proving { .. } => self.doubt = Doubt::Ask,
            Doubt::None | Doubt::Ask | Doubt::Asked => {
                if at == 0 && alone {
                    self.set_verdict(at, Verdict::OutOfOrder);
                }
            }
        }
    }

    /// Keeps a refusal until the batch is the head, alone. A refusal in answer to a proof is no proof.
    pub(super) fn set_verdict(&mut self, at: usize, verdict: Verdict) {
        match self.doubt {
            Doubt::Stepping { run, .. } => self.doubt = Doubt::Stepping { run, next: at + 1 },
            Doubt::Proving { run, last_sequence } => {
                self.doubt = Doubt::None;
                self.settle_unknowable(run, last_sequence);
                return;
            }
            Doubt::None | Doubt::Ask | Doubt::Asked => {}
        }
        if let Some(entry) = self.entries.get_mut(at) {
            entry.verdict = Some(verdict);
        }
    }

    fn reserve(&self) -> impl FnMut(usize) -> Chunk + use<> {
        let (pool, share) = (self.pool.clone(), self.share.clone());
        move |size| pool.acquire_reserve(&share, size)
    }

    /// Halves the head, every event keeping its number; a single event fails, which ends the run.
    fn split_or_fail(&mut self, reason: FailureReason, refusal: &Refusal) {
        let Some(entry) = self.entries.pop_front() else { return };
        let count = entry.batch.count();
        let halves = if count > 1 { entry.batch.split(count / 2, &mut self.reserve()).ok() } else { None };
        match halves {
            Some((left, right)) => {
                for batch in [right, left] {
                    let part = Entry {
                        run: entry.run,
                        attempts: entry.attempts,
                        restamped: entry.restamped,
                        ..Entry::new(batch, entry.ordinal, entry.opened)
                    };
                    self.entries.push_front(part);
                }
            }
            None => {
                let message = refusal.message.clone().unwrap_or_default();
                self.fail(entry.batch, reason, Some(refusal.code.0), message);
                self.end_run();
            }
        }
    }

    /// Cuts the culprits out of the head. Their neighbours keep their order and get new numbers.
    fn cut(&mut self, refusal: Refusal) {
        let Some(head) = self.entries.front_mut() else { return };
        let culprits: BTreeMap<u32, Option<String>> =
            refusal.record_errors.iter().filter(|(i, _)| *i < head.batch.count()).cloned().collect();
        if culprits.is_empty() {
            // Nobody is named. Our own header is the first suspect (a sequence that overflowed looks like a poisoned
            // record); only then the records, by halving.
            if !head.restamped && self.settings.idempotent {
                head.restamped = true;
                self.end_run();
            } else {
                self.split_or_fail(FailureReason::Rejected, &refusal);
            }
            return;
        }
        let Some(entry) = self.entries.pop_front() else { return };
        let indices: Vec<u32> = culprits.keys().copied().collect();
        match entry.batch.cut_out(&indices, &mut self.reserve()) {
            Ok((rest, cut)) => {
                if let Some(rest) = rest {
                    let rest =
                        Entry { attempts: entry.attempts, ..Entry::new(rest, entry.ordinal, entry.opened) };
                    self.entries.push_front(rest);
                }
                for (batch, words) in cut.into_iter().zip(culprits.into_values()) {
                    let message = words.or_else(|| refusal.message.clone()).unwrap_or_default();
                    self.fail(batch, FailureReason::Rejected, Some(refusal.code.0), message);
                }
            }
            Err(error) => {
                self.fail(entry.batch, FailureReason::Internal, Some(refusal.code.0), error.to_string());
            }
        }
        self.end_run();
    }
}
