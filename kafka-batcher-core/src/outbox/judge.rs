//! Doubt and proof: what to do about a refusal, and about a batch of which nobody knows whether it was written.
//!
//! Everything in here happens at the head, with nothing of the partition in flight (DESIGN.md, Delivery):
//! a broker's 45, its refusal of a batch that may be written already, and the end of a run all mean one thing first,
//! to find out what the log holds. DESIGN.md, "Delivery", has the table.

use super::entry::{Doubt, Entry, Exposure, Place, Verdict};
use super::{Action, FORGOTTEN_AFTER_MS, Outbox};
use crate::batch::{Stamp, sequence_add};
use crate::delivery::{Leader, ProducerState};
use crate::error::FailureReason;
use crate::time::Time;

/// How often a broker may contradict itself about a batch (out of order, and next in line; held, and not recognised)
/// before its numbers are given up. The first time, a straggling request of ours may have come in between.
const MAX_CONTRADICTIONS: u8 = 2;

/// How far `a` lies behind `b` in sequence numbers, which wrap at 2^31.
pub(super) fn distance(a: i32, b: i32) -> i64 {
    let d = (i64::from(a) - i64::from(b)) & 0x7fff_ffff;
    if d >= 1 << 30 { d - (1 << 31) } else { d }
}

/// The broker may have forgotten the id that these events were sent under.
fn is_old(entry: &Entry, unix_ms: i64) -> bool {
    unix_ms.saturating_sub(entry.batch.max_timestamp()) >= FORGOTTEN_AFTER_MS
}

/// What is asked about: the batch at `at`, by its numbers.
struct Subject {
    at: usize,
    run: u64,
    stamp: Stamp,
    last: i32,
    doubtful: bool,
    judged: bool,
    out_of_order: bool,
}

impl Outbox {
    /// What has to be cleared before the head can be sent, if anything.
    pub(super) fn judge(&mut self, leader: Leader, now: Time, unix_ms: i64) -> Option<Action> {
        #[cfg(test)]
        let mut rounds = 0;
        loop {
            #[cfg(test)]
            {
                rounds += 1;
                assert!(rounds < 1_000, "judging goes round for ever: {:?}, {:?}", self.doubt, self.entries);
            }
            self.forget_other_leaders(leader);
            if !self.doubt.looks_down_the_disk() {
                self.rewind();
            }
            if self.letters_first() {
                return None;
            }
            if self.entries.is_empty() && !self.doubt.looks_down_the_disk() {
                return None;
            }
            match std::mem::replace(&mut self.doubt, Doubt::None) {
                Doubt::None => {
                    if let Some(action) = self.adopt() {
                        return Some(action);
                    }
                    let cuts = |v: &Verdict| {
                        matches!(v, Verdict::TooLarge(_) | Verdict::Rejected(_) | Verdict::OldTime(_))
                    };
                    if self.entries.front().is_some_and(|head| {
                        head.verdict.as_ref().is_some_and(cuts) && self.is_saving(head.id)
                    }) {
                        return Some(Action::Wait { until: None });
                    }
                    if !self.judge_head(unix_ms) {
                        return None;
                    }
                }
                Doubt::Seeking { leader, run, last_sequence } => {
                    if let Some(action) = self.seek(leader, run, last_sequence, now) {
                        return Some(action);
                    }
                }
                Doubt::Ask => {
                    if let Some(subject) = self.subject() {
                        self.doubt = Doubt::Asked(leader);
                        return Some(Action::Describe { producer_id: subject.stamp.producer_id });
                    }
                }
                Doubt::Asked(asked) => {
                    self.doubt = Doubt::Asked(asked);
                    return Some(Action::Wait { until: None });
                }
                Doubt::Answered(_, answer) => self.answered(answer, leader, unix_ms),
                Doubt::Proving { leader, run, last_sequence } => {
                    let ends_there =
                        |e: &Entry| e.run == Some(run) && e.batch.last_sequence() == last_sequence;
                    if let Some(at) = self.entries.iter().position(ends_there) {
                        self.doubt = Doubt::Proving { leader, run, last_sequence };
                        return Some(self.fly_if_ready(at, leader, unix_ms));
                    }
                }
                Doubt::Stepping { leader, run, next } => {
                    match self.entries.iter().skip(next).position(|entry| entry.is_doubtful_in(run)) {
                        Some(ahead) => {
                            self.doubt = Doubt::Stepping { leader, run, next: next + ahead };
                            return Some(self.fly_if_ready(next + ahead, leader, unix_ms));
                        }
                        None => {
                            if let Some(action) = self.step_on(leader, run, now) {
                                return Some(action);
                            }
                        }
                    }
                }
            }
        }
    }

    fn fly_if_ready(&mut self, at: usize, leader: Leader, unix_ms: i64) -> Action {
        if self.ready(at) { self.fly(at, leader, unix_ms) } else { self.make_ready() }
    }

    /// Looks for the batch that ends with this sequence, further and further down the disk.
    fn seek(&mut self, leader: Leader, run: u64, last_sequence: i32, now: Time) -> Option<Action> {
        let ends_there = |e: &Entry| e.is_doubtful_in(run) && e.batch.last_sequence() == last_sequence;
        if self.entries.iter().any(ends_there) {
            self.doubt = Doubt::Proving { leader, run, last_sequence };
            return None;
        }
        if self.may_seek(run) {
            self.pass();
            self.doubt = Doubt::Seeking { leader, run, last_sequence };
            return Some(self.poll_storage(true, now).unwrap_or(Action::Wait { until: None }));
        }
        // Not there: what the broker holds under these numbers is not what lies here.
        self.rewind();
        self.mark_given_up(run);
        self.give_up_numbers(run);
        None
    }

    /// None of those in memory was taken: the next of the run lie further down the disk, or there is none.
    fn step_on(&mut self, leader: Leader, run: u64, now: Time) -> Option<Action> {
        if self.may_seek(run) {
            self.pass();
            self.doubt = Doubt::Stepping { leader, run, next: 0 };
            return Some(self.poll_storage(true, now).unwrap_or(Action::Wait { until: None }));
        }
        self.rewind();
        self.give_up_numbers(run);
        None
    }

    /// All answers come from one leader, the 45 that began it included: begin again with this one. (A broker that said
    /// 45, restarted and forgot the id would take a younger batch, and so "prove" the head that it does not have.)
    fn forget_other_leaders(&mut self, leader: Leader) {
        #[cfg(test)]
        {
            if super::simulator::planted(super::simulator::Mutation::ProofAcrossLeaders) {
                return;
            }
        }
        let judged_by = self.entries.front_mut().map(|head| &mut head.verdict);
        let other_verdict = judged_by
            .and_then(|verdict| verdict.take_if(|v| matches!(v, Verdict::OutOfOrder(by) if *by != leader)));
        if other_verdict.is_some() || self.doubt.bound_to().is_some_and(|bound| bound != leader) {
            self.doubt = Doubt::None;
        }
    }

    /// Acts upon the head's verdict. True: something changed, judge again.
    fn judge_head(&mut self, unix_ms: i64) -> bool {
        if !self.settings.idempotent {
            return self.judge_unnumbered_head(unix_ms);
        }
        let current = self.run.as_ref().map(|run| run.ordinal);
        let Some(head) = self.entries.front_mut() else { return false };
        let doubtful = head.exposure == Exposure::Doubtful;
        match head.verdict.take() {
            None => {
                // Behind a hole, and before the first batch of a new run, nothing older may be in doubt.
                let outside = head.run.is_none() || head.run != current;
                let unclear =
                    outside && self.entries.iter().any(|entry| entry.exposure == Exposure::Doubtful);
                if unclear {
                    self.doubt = Doubt::Ask;
                }
                unclear
            }
            Some(verdict @ Verdict::OutOfOrder(_)) => {
                head.verdict = Some(verdict);
                self.doubt = Doubt::Ask;
                true
            }
            Some(verdict @ (Verdict::TooLarge(_) | Verdict::Rejected(_) | Verdict::OldTime(_)))
                if doubtful =>
            {
                // The broker checks size and time before it looks for duplicates: its refusal of a batch that may be
                // written settles nothing.
                head.verdict = Some(verdict);
                self.doubt = Doubt::Ask;
                true
            }
            Some(Verdict::Fenced) => {
                // Superseded, taken over, or forgotten: whatever it is, an id of our own that nobody knows is not.
                let (producer_id, run) = (head.batch.stamp().producer_id, head.run);
                if let Some(run) = run {
                    self.give_up_numbers(run);
                }
                self.forget_identity(producer_id);
                true
            }
            Some(Verdict::TooLarge(refusal)) => {
                self.split_or_fail(FailureReason::TooLarge, &refusal);
                true
            }
            Some(Verdict::Rejected(refusal)) => {
                self.cut(&refusal);
                true
            }
            Some(Verdict::OldTime(refusal)) => {
                self.give_new_time(&refusal, unix_ms);
                true
            }
        }
    }

    /// Without numbers there is nothing to ask for.
    fn judge_unnumbered_head(&mut self, unix_ms: i64) -> bool {
        match self.entries.front_mut().and_then(|head| head.verdict.take()) {
            Some(Verdict::TooLarge(refusal)) => self.split_or_fail(FailureReason::TooLarge, &refusal),
            Some(Verdict::Rejected(refusal)) => self.cut(&refusal),
            Some(Verdict::OldTime(refusal)) => self.give_new_time(&refusal, unix_ms),
            Some(Verdict::OutOfOrder(_) | Verdict::Fenced) | None => return false,
        }
        true
    }

    // ---- asking -----------------------------------------------------------------------------------------------------

    /// The batch in question: a head that was called out of order or refused, or the first that may be written.
    fn subject(&self) -> Option<Subject> {
        let judged = self.entries.front().is_some_and(|head| head.verdict.is_some());
        let doubtful = |entry: &Entry| entry.exposure == Exposure::Doubtful;
        let at = if judged { 0 } else { self.entries.iter().position(doubtful)? };
        let entry = self.entries.get(at)?;
        Some(Subject {
            at,
            run: entry.run?,
            stamp: entry.batch.stamp(),
            last: entry.batch.last_sequence(),
            doubtful: doubtful(entry),
            judged,
            out_of_order: matches!(entry.verdict, Some(Verdict::OutOfOrder(_))),
        })
    }

    /// Acts upon what the leader knows of the id: DESIGN.md, Delivery.
    fn answered(&mut self, answer: ProducerState, leader: Leader, unix_ms: i64) {
        let Some(subject) = self.subject() else { return };
        let Subject { at, run, stamp, last, doubtful, judged, out_of_order } = subject;
        match answer {
            ProducerState::Failed { .. } => self.doubt = Doubt::Ask,
            // Of events so old that the broker forgets their id at any moment, one that is taken proves nothing.
            ProducerState::Unanswerable
                if at == 0 && (out_of_order || !judged) && !self.is_old(at, unix_ms) =>
            {
                // One that was called out of order just now need not be tried again.
                self.doubt = Doubt::Stepping { leader, run, next: usize::from(out_of_order) };
            }
            // To try a younger one first proves something only if the broker is known to know the id, as it is after 45:
            // one that has forgotten it takes anything, and what is older would be overtaken or lost.
            ProducerState::Unanswerable => self.give_up_numbers(run),
            // A sequence of -1: the id is known by something other than data.
            ProducerState::Unknown | ProducerState::Known { last_sequence: ..0, .. } => {
                self.count_possible(run);
                if !out_of_order {
                    self.not_written(run);
                } else if self.contradicted(at) {
                    self.give_up_numbers(run);
                } else if let Some(entry) = self.entries.get_mut(at) {
                    // An id that the partition does not know is taken with any first sequence.
                    entry.verdict = None;
                }
            }
            ProducerState::Known { epoch, .. } if epoch > stamp.epoch => {
                // Somebody else goes on with our id: whatever the log holds under it proves nothing about us.
                self.give_up_numbers(run);
                self.forget_identity(stamp.producer_id);
            }
            ProducerState::Known { epoch, last_sequence }
                if epoch == stamp.epoch && distance(last_sequence, last) >= 0 =>
            {
                let ends_there =
                    |e: &Entry| e.is_doubtful_in(run) && e.batch.last_sequence() == last_sequence;
                if self.entries.iter().any(ends_there) {
                    self.doubt = Doubt::Proving { leader, run, last_sequence };
                } else if doubtful && at == 0 && self.may_seek(run) {
                    self.doubt = Doubt::Seeking { leader, run, last_sequence };
                } else if doubtful {
                    self.settle_unknowable(run, last_sequence);
                } else {
                    // Held, although every answer said no: a straggler of ours came in late, or the numbers are not
                    // ours alone.
                    self.count_held(run, last_sequence);
                    self.give_up_numbers(run);
                    self.forget_identity(stamp.producer_id);
                }
            }
            ProducerState::Known { epoch, last_sequence }
                if epoch == stamp.epoch && distance(last_sequence, stamp.first_sequence) >= 0 =>
            {
                // It ends within this batch, which was sent in pieces before it came back from disk in one. The piece that
                // ends there proves itself; the rest is not written.
                let written = distance(last_sequence, stamp.first_sequence) + 1;
                let halved = doubtful && u32::try_from(written).is_ok_and(|events| self.halve(at, events));
                if halved {
                    self.doubt = Doubt::Proving { leader, run, last_sequence };
                } else {
                    self.count_held(run, last_sequence);
                    self.give_up_numbers(run);
                    self.forget_identity(stamp.producer_id);
                }
            }
            ProducerState::Known { epoch, last_sequence } => {
                self.count_forgotten(run, unix_ms);
                self.not_written(run);
                let next_in_line = epoch == stamp.epoch && distance(stamp.first_sequence, last_sequence) == 1;
                if !out_of_order {
                    return;
                }
                if next_in_line
                    && !self.contradicted(at)
                    && let Some(entry) = self.entries.get_mut(at)
                {
                    // It would be taken now; what stood in the way has gone.
                    entry.verdict = None;
                } else {
                    // The log ends before the head although the head was next: it was cut.
                    self.give_up_numbers(run);
                }
            }
        }
    }

    /// One more contradiction about the batch at `at`; true: one too many.
    fn contradicted(&mut self, at: usize) -> bool {
        self.entries.get_mut(at).is_none_or(|entry| {
            entry.contradictions = entry.contradictions.saturating_add(1);
            entry.contradictions >= MAX_CONTRADICTIONS
        })
    }

    fn doubtful_in(&mut self, run: u64) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().filter(move |entry| entry.is_doubtful_in(run))
    }

    /// Nothing of `run` that is in doubt lies in the log.
    fn not_written(&mut self, run: u64) {
        self.doubtful_in(run).for_each(|entry| entry.exposure = Exposure::Unwritten);
    }

    fn is_old(&self, at: usize, unix_ms: i64) -> bool {
        self.entries.get(at).is_some_and(|entry| is_old(entry, unix_ms))
    }

    /// What of `run` is so old that the broker may have forgotten that it wrote it, and then taken a part of it again: that
    /// it does not hold the rest under these numbers says nothing.
    fn count_forgotten(&mut self, run: u64, unix_ms: i64) {
        let mut events = 0;
        for entry in self.doubtful_in(run) {
            if is_old(entry, unix_ms) {
                (entry.haunted, entry.strayed) = (true, false);
                events += entry.events();
            }
        }
        self.tally.possible_duplicates += events;
    }

    /// What of `run` is in doubt is about to be sent again although it may lie in the log.
    fn count_possible(&mut self, run: u64) {
        let mut events = 0;
        for entry in self.doubtful_in(run) {
            (entry.haunted, entry.strayed) = (true, false);
            events += u64::from(entry.batch.count());
        }
        self.tally.possible_duplicates += events;
    }

    /// The log holds the numbers of `run` up to `last_sequence`, also those of batches that count as not written.
    fn count_held(&mut self, run: u64, last_sequence: i32) {
        for entry in self.entries.iter_mut().filter(|entry| entry.run == Some(run)) {
            if distance(last_sequence, entry.batch.stamp().first_sequence) >= 0 {
                (entry.haunted, entry.strayed) = (true, false);
                self.tally.possible_duplicates += u64::from(entry.batch.count());
            }
        }
    }

    /// The numbers of `run` lead nowhere: all that carries them is stamped anew.
    fn give_up_numbers(&mut self, run: u64) {
        self.doubt = Doubt::None;
        self.mark_given_up(run);
        self.count_possible(run);
        self.not_written(run);
        for entry in self.entries.iter_mut().filter(|entry| entry.run == Some(run)) {
            entry.verdict.take_if(|verdict| matches!(verdict, Verdict::OutOfOrder(_) | Verdict::Fenced));
        }
        if self.run.as_ref().is_some_and(|current| current.ordinal == run) {
            self.end_run();
        }
    }

    /// The broker holds numbers up to `last_sequence` and will not recognise the batch that ends there: what is in
    /// doubt up to there stays so, and says so.
    fn settle_unknowable(&mut self, run: u64, last_sequence: i32) {
        // What is on disk is not given up for a doubt: rather twice than not at all, and counted.
        if self.entries.iter().any(|entry| entry.is_doubtful_in(run) && entry.place != Place::Memory) {
            self.mark_given_up(run);
            return self.give_up_numbers(run);
        }
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            let covered =
                entry.is_doubtful_in(run) && distance(last_sequence, entry.batch.last_sequence()) >= 0;
            if !covered {
                at += 1;
            } else if let Some(entry) = self.entries.remove(at) {
                self.in_doubt(&entry);
            }
        }
    }

    // ---- what a refusal means while a doubt is being cleared ----------------------------------------------------------

    /// 45: on a younger batch it means "not written, wait for the head"; on the head, that the log must be asked. True:
    /// it is a verdict now.
    pub(super) fn out_of_order(&mut self, at: usize, leader: Leader) -> bool {
        match std::mem::replace(&mut self.doubt, Doubt::None) {
            Doubt::Stepping { leader, run, .. } => self.doubt = Doubt::Stepping { leader, run, next: at + 1 },
            Doubt::Proving { leader: asked, run, last_sequence } => {
                if asked == leader && self.contradicted(at) {
                    self.settle_unknowable(run, last_sequence);
                } else {
                    self.doubt = Doubt::Ask;
                }
            }
            other => {
                self.doubt = other;
                if at == 0 && self.in_flight == 0 {
                    self.entries
                        .iter_mut()
                        .take(1)
                        .for_each(|e| e.verdict = Some(Verdict::OutOfOrder(leader)));
                    return true;
                }
            }
        }
        false
    }

    /// Keeps a refusal until the batch is the head, alone. A refusal in answer to a proof is no proof.
    pub(super) fn set_verdict(&mut self, at: usize, verdict: Verdict, now: Time) {
        let fenced = matches!(verdict, Verdict::Fenced);
        let old = self.is_old(at, self.wall_ms(now));
        let Some(entry) = self.entries.get_mut(at) else { return };
        let producer_id = entry.batch.stamp().producer_id;
        entry.verdict = Some(verdict);
        match std::mem::replace(&mut self.doubt, Doubt::None) {
            // That is said of the whole run: nothing of it is to be found out any more.
            Doubt::Stepping { run, .. } | Doubt::Proving { run, .. } if fenced => {
                self.give_up_numbers(run);
                self.forget_identity(producer_id);
            }
            // Only 45 shows that the broker knows the id; after another refusal of the first step it may know nothing, and
            // take a younger batch before this one.
            Doubt::Stepping { run, .. } if at == 0 => self.give_up_numbers(run),
            Doubt::Stepping { leader, run, .. } => {
                self.doubt = Doubt::Stepping { leader, run, next: at + 1 };
            }
            Doubt::Proving { leader, run, last_sequence } => {
                // The broker would not even look whether it holds it. Whether it takes the one that follows says as
                // much: that is next in line only if all before it is there. Unless it may have forgotten the id since it was
                // asked: then it takes anything.
                match self.follower(at, run, last_sequence).filter(|_| !old) {
                    Some(last_sequence) => self.doubt = Doubt::Proving { leader, run, last_sequence },
                    None => self.settle_unknowable(run, last_sequence),
                }
            }
            _ => {}
        }
    }

    /// The last sequence of the batch behind `at`, if it continues `run` directly. Nothing may be sent past a batch that
    /// is certainly not written.
    fn follower(&mut self, at: usize, run: u64, last_sequence: i32) -> Option<i32> {
        if self.entries.get(at)?.exposure != Exposure::Doubtful {
            return None;
        }
        let current = self.run.as_ref().is_some_and(|current| current.ordinal == run);
        let foreign = self.run.as_ref().is_some_and(|run| run.foreign);
        if current && !foreign && self.entries.get(at + 1)?.run.is_none() {
            let _ = self.stamp(at + 1);
        }
        let next = self.entries.get(at + 1)?;
        let continues =
            next.run == Some(run) && next.batch.stamp().first_sequence == sequence_add(last_sequence, 1);
        (continues && next.verdict.is_none()).then(|| next.batch.last_sequence())
    }
}
