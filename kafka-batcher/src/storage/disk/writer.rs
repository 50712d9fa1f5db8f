//! The writer: one thread, which alone writes logs. It drains its queue into one write and one fdatasync for each topic,
//! then answers everybody who waits.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kafka_batcher_core::{DeadLetter, StorageError};
use tokio::sync::oneshot;

use super::control::Fact;
use super::dead_letters::DeadLetters;
use super::log::{Draft, Log, Unwritten, Written};
use super::place::SpoolDir;
use super::tidy::tidy_with_reserve;
use super::topic::{Segment, Topic};
use super::work::{Work, check_renumbered, draft_work};
use crate::storage::UNASSIGNED;

/// Bytes that are drained into one group at the most, so that who comes late does not wait for everybody's bytes.
pub(super) const GROUP_BYTES: usize = 8 << 20;
/// Room that is left, when batches without a partition are saved, for giving them one: a batch and what goes with it.
const REGROUP_BYTES: u64 = 2 << 20;
/// After so long without work, what was settled is written down.
const IDLE: Duration = Duration::from_secs(1);
/// After so many commits, or so many settled bytes, it is written down in the midst of work.
const COMMITS: u64 = 64;
const SETTLED_BYTES: u64 = 1 << 20;

/// Who waits for the positions of what was saved.
pub(super) type Answer = oneshot::Sender<Result<Vec<u64>, StorageError>>;

/// What is asked of each topic.
type Asked<T> = Vec<(Arc<Topic>, Vec<T>)>;

/// What may be asked of the writer.
#[derive(Debug)]
pub(super) enum Job {
    /// A topic's log was recovered; it is written from now on.
    Adopt(Box<Owned>),
    /// Something is to be written.
    Write { topic: Arc<Topic>, work: Work, done: Answer },
    /// Something was settled: write it down when there is nothing better to do.
    Settled,
    /// Something was settled: write it down now, and say when that is durable.
    Checkpoint { topic: Arc<Topic>, done: Answer },
    /// Somebody looks at how much room there is: see to it for the next time.
    Look,
    /// Write down what was settled and end.
    Close,
}

#[derive(Debug)]
pub(super) struct Owned {
    pub(super) topic: Arc<Topic>,
    pub(super) log: Log,
    letters: Option<DeadLetters>,
    /// The last write failed: the directory may be gone.
    failed: bool,
    /// Cleaning fails: when it last did, in milliseconds since the Unix epoch. Told once.
    pub(super) unclean: Option<i64>,
    /// The last attempt to write down what was settled failed. Told once.
    pub(super) untidy: bool,
}

impl Owned {
    pub(super) fn new(topic: Arc<Topic>, log: Log, letters: Option<DeadLetters>) -> Self {
        Owned { topic, log, letters, failed: false, unclean: None, untidy: false }
    }
}

impl Owned {
    /// Something was settled that is not written down: because that failed, or it came meanwhile. Nobody wakes the writer
    /// for it, as long as it was told of the first.
    pub(super) fn is_unsettled(&self) -> bool {
        self.topic.state().commits > 0
    }

    /// What was kept of dead letters in this group stays, or is taken back.
    fn settle_letters(&mut self, stays: bool) {
        if let Some(letters) = &mut self.letters {
            let dropped = letters.settle(stays);
            let mut state = self.topic.state();
            state.dropped_letters.own += dropped.own;
            state.dropped_letters.earlier += dropped.earlier;
        }
    }
}

/// The writer's own.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) place: Arc<SpoolDir>,
    pub(super) topics: HashMap<String, Owned>,
    pub(super) unsettled: bool,
}

impl Writer {
    pub(super) fn new(place: Arc<SpoolDir>) -> Self {
        Writer { place, topics: HashMap::new(), unsettled: false }
    }

    /// Works until it is told to close, or nobody can ask any more.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let next = if self.unsettled {
                jobs.recv_timeout(IDLE)
            } else {
                jobs.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            };
            match next {
                Ok(job) => {
                    if !self.round(job, jobs) {
                        break;
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.unsettled = false;
                    self.tidy(true);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.tidy(true);
        self.say_ends();
        self.topics.values_mut().for_each(|owned| owned.log.retire());
    }

    /// Takes what waits in the queue and does it; false if that was the last.
    fn round(&mut self, first: Job, jobs: &mpsc::Receiver<Job>) -> bool {
        let mut groups: Asked<(Work, Answer)> = Vec::new();
        let mut checkpoints: Asked<Answer> = Vec::new();
        let (mut next, mut bytes, mut open) = (Some(first), 0, true);
        while let Some(job) = next.take() {
            match job {
                Job::Adopt(owned) => {
                    self.topics.insert(owned.topic.name.clone(), *owned);
                }
                Job::Write { topic, work, done } => {
                    bytes += work.bytes();
                    gather(&mut groups, topic, (work, done));
                }
                Job::Settled => self.unsettled = true,
                Job::Checkpoint { topic, done } => gather(&mut checkpoints, topic, done),
                Job::Look => {
                    // Before: who looks from now on is to be answered anew.
                    self.place.look_asked.store(false, Ordering::Relaxed);
                    let _ = self.place.space();
                }
                Job::Close => {
                    open = false;
                    break;
                }
            }
            if bytes < GROUP_BYTES {
                next = jobs.try_recv().ok();
            }
        }
        for (topic, group) in groups {
            for part in regroups_alone(group) {
                self.commit(&topic.name, part);
            }
        }
        for (topic, waiting) in checkpoints {
            let written = self.tidy_one(&topic.name);
            for done in waiting {
                let _ = done.send(written.clone());
            }
        }
        self.tidy(false);
        // A spool that is never idle gets it back, too.
        self.place.keep_reserve();
        open
    }

    /// Writes one group and answers who waits for it.
    fn commit(&mut self, name: &str, group: Vec<(Work, Answer)>) {
        let Some(mut owned) = self.topics.remove(name) else {
            for (_, done) in group {
                let words = format!("the log of {name} is not open: this is a bug");
                let _ = done.send(Err(StorageError::Failed(words)));
            }
            return;
        };
        // Each group sees for itself that its file is still there; a new file must not be made in another's directory.
        let gone = owned.failed || (owned.log.active().is_none() && !self.place.is_held());
        if gone && let Err(error) = self.place.make_again(&owned.topic.dir) {
            group.into_iter().for_each(|(_, done)| drop(done.send(Err(error.clone()))));
            self.topics.insert(name.to_owned(), owned);
            return;
        }
        // The reserve is for what only says something about what is stored: it must not wait for the others' room.
        let (works, waiting) = self.admit(&mut owned, group);
        let mut retried = Vec::new();
        let mut written = self.write(&mut owned, works, waiting, &mut retried);
        if !retried.is_empty() && self.place.give_up_reserve() {
            tracing::warn!(topic = name, "the disk is full; the reserve is used so that the spool can drain");
            let (works, waiting) = std::mem::take(&mut retried).into_iter().unzip();
            written = self.write(&mut owned, works, waiting, &mut retried);
            self.unsettled = true;
        }
        if let Err(unwritten) = written {
            owned.settle_letters(false);
            for (_, done) in retried {
                let _ = done.send(Err(unwritten.error.clone()));
            }
        }
        self.unsettled |= owned.is_unsettled();
        self.topics.insert(name.to_owned(), owned);
    }

    /// Answers what is out of bounds or makes no sense; writes dead letters, which come before their holes. What is left is
    /// to be written.
    fn admit(&self, owned: &mut Owned, group: Vec<(Work, Answer)>) -> (Vec<Work>, Vec<Answer>) {
        let (mut works, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (work, done) in group {
            let admitted = match &work {
                Work::Save { partition, .. } => {
                    let own = work.bytes() as u64;
                    let room = room_for(&self.place, *partition, bytes, own);
                    if room.is_ok() {
                        bytes += own;
                    }
                    room
                }
                Work::Renumber { partition, numbers } => check_renumbered(owned, *partition, numbers),
                Work::Reject { partition, letters } => self.keep_letters(owned, *partition, letters),
                Work::Drop { partition, from, through } => {
                    self.begin_segment(owned, *partition, *from..*through);
                    Ok(())
                }
                Work::Regroup { .. } | Work::Partitions(_) => Ok(()),
            };
            match admitted {
                Ok(()) => {
                    works.push(work);
                    waiting.push(done);
                }
                Err(error) => {
                    let _ = done.send(Err(error));
                }
            }
        }
        (works, waiting)
    }

    /// A segment is deleted or cleaned when it is written no more: where room is short, what is given up must not wait for
    /// that.
    fn begin_segment(&self, owned: &mut Owned, partition: i32, dropped: Range<u64>) {
        let active = owned.log.active();
        let lies_in_it = owned.topic.state().lanes.get(&partition).is_some_and(|lane| {
            let mut entries = lane.from(dropped.start).take_while(|entry| entry.position < dropped.end);
            entries.any(|entry| Some(entry.segment) == active)
        });
        if lies_in_it && self.place.is_tight() {
            owned.log.retire();
        }
    }

    fn keep_letters(
        &self,
        owned: &mut Owned,
        partition: i32,
        letters: &[DeadLetter],
    ) -> Result<(), StorageError> {
        let log = match &mut owned.letters {
            Some(log) => log,
            None => owned.letters.insert(DeadLetters::open(&self.place, &owned.topic.name)?),
        };
        match log.keep(partition, letters) {
            Err(unwritten) if unwritten.full && self.place.give_up_reserve() => log.keep(partition, letters),
            kept => kept,
        }
        .map_err(|unwritten| unwritten.error)
    }

    /// Writes what was admitted and answers. If that fails, what may be tried again with the reserve is handed back
    /// in `again`, the rest answered with the error.
    fn write(
        &self,
        owned: &mut Owned,
        works: Vec<Work>,
        waiting: Vec<Answer>,
        again: &mut Vec<(Work, Answer)>,
    ) -> Result<(), Unwritten> {
        let mut draft = Draft::default();
        owned.failed = false;
        let counts: Vec<usize> = works.iter().map(|work| draft_work(owned, work, &mut draft)).collect();
        match write_draft(&self.place, owned, draft) {
            Ok(positions) => {
                owned.settle_letters(true);
                let mut positions = positions.into_iter();
                // Who gave events up needs their room, and is answered when it is there.
                if works.iter().any(|work| matches!(work, Work::Drop { .. }))
                    && let Err(error) = tidy_with_reserve(&self.place, owned, false)
                {
                    tracing::warn!(topic = owned.topic.name, %error, "cannot give the room of dropped events back");
                }
                for (count, done) in counts.into_iter().zip(waiting) {
                    let _ = done.send(Ok(positions.by_ref().take(count).collect()));
                }
                Ok(())
            }
            Err(unwritten) => {
                owned.failed = true;
                if !unwritten.full {
                    owned.settle_letters(false);
                }
                for (work, done) in works.into_iter().zip(waiting) {
                    if work.is_control() && unwritten.full {
                        again.push((work, done));
                    } else {
                        let _ = done.send(Err(unwritten.error.clone()));
                    }
                }
                Err(unwritten)
            }
        }
    }

    /// Whether a topic has settled so much that it is worth writing down in the midst of work.
    pub(super) fn is_due(owned: &Owned) -> bool {
        let state = owned.topic.state();
        state.commits >= COMMITS || state.settled >= SETTLED_BYTES
    }
}

/// Whether there is room for so many bytes of a partition behind `before` others.
pub(super) fn room_for(place: &SpoolDir, partition: i32, before: u64, own: u64) -> Result<(), StorageError> {
    // What has no partition yet is written once more when it gets one, before the room it takes comes back: a disk filled to
    // the brim with it could never be drained.
    // On a small disk what goes with it is less, as segments are: 4 MiB would never have held a batch of 1 MB.
    let slack = REGROUP_BYTES.min(place.segment_bytes);
    let again = if partition == UNASSIGNED { own + slack } else { 0 };
    place.room_for(before + own, again)
}

/// A regrouping is a group of its own: where a power loss leaves only a part of it, all of it is taken back, and nothing else
/// may go with it.
fn regroups_alone(asked: Vec<(Work, Answer)>) -> Vec<Vec<(Work, Answer)>> {
    let mut parts: Vec<Vec<(Work, Answer)>> = Vec::new();
    let mut alone = true;
    for one in asked {
        let regroups = matches!(one.0, Work::Regroup { .. });
        match parts.last_mut().filter(|_| !alone && !regroups) {
            Some(part) => part.push(one),
            None => parts.push(vec![one]),
        }
        alone = regroups;
    }
    parts
}

/// Adds to what is asked of a topic.
fn gather<T>(groups: &mut Asked<T>, topic: Arc<Topic>, one: T) {
    match groups.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &topic)) {
        Some((_, group)) => group.push(one),
        None => groups.push((topic, vec![one])),
    }
}

/// Writes a draft, if there is anything in it, with what the log does not say yet: hints become durable for a few bytes.
/// The positions of its batches.
pub(super) fn write_draft(
    place: &SpoolDir,
    owned: &mut Owned,
    mut draft: Draft,
) -> Result<Vec<u64>, Unwritten> {
    if draft.is_empty() {
        return Ok(Vec::new());
    }
    let partitions = |fact: &Fact| matches!(fact, Fact::Partitions(_));
    let said = draft.facts.iter().any(partitions);
    let facts = owned.topic.state().unlogged(&[], 0);
    draft.facts.extend(facts.into_iter().filter(|fact| !(said && partitions(fact))));
    write_whole(place, owned, &draft)
}

/// Writes a draft and takes it in. The positions of its batches.
pub(super) fn write_whole(place: &SpoolDir, owned: &mut Owned, draft: &Draft) -> Result<Vec<u64>, Unwritten> {
    let written = owned.log.write(draft)?;
    place.added(written.added);
    place.synced(written.synced_in);
    let positions = written.members.iter().map(|(_, member)| member.place.position).collect();
    take_in(&owned.topic, written);
    Ok(positions)
}

/// What was written is known from now on.
fn take_in(topic: &Topic, written: Written) {
    let Written { id, base, path, length, from, control, next, time, given, members, facts, .. } = written;
    let mut state = topic.state();
    let new = Segment { length, control, ..Segment::new(id, base, path) };
    let segment = state.segments.entry(id).or_insert(new);
    (segment.length, segment.control) = (length, control);
    for (offset, member) in &members {
        state.add(member, id, *offset);
    }
    state.times.note(from, time);
    given.into_iter().for_each(|range| state.given.note(range));
    for fact in &facts {
        state.apply(fact, (control, id));
    }
    (state.next, state.end) = (next, next);
}
