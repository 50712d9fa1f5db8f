//! The model of a storage: what it answered for is there, also after a crash; what it was asked and did not answer for is
//! there as a whole or not at all; commits that nobody waits for may be forgotten.

use std::collections::BTreeMap;

use crate::RecordBatch;
use crate::batch::sequence_add;
use crate::buffer_pool::Chunk;
use crate::spool::{Backlog, DeadLetter, Numbers, ReadBack, Renumbered, Stored, ToSave};

/// Events of one saved batch that have the same numbers.
#[derive(Clone, Debug)]
struct Piece {
    batch: RecordBatch,
    numbers: Option<Numbers>,
    saved_ms: i64,
}

/// What lies on disk of one partition.
#[derive(Clone, Debug, Default)]
struct Part {
    pieces: BTreeMap<u64, Piece>,
    settled: u64,
    durably: u64,
    dead_letters: Vec<RecordBatch>,
}

/// A call that changes something.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Save(Vec<ToSave>),
    Renumber(Vec<Renumbered>),
    Reject(Vec<DeadLetter>),
    Drop { from: u64, through: u64 },
    Commit { through: u64, durable: bool },
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    next: u64,
    parts: Vec<Part>,
}

impl Store {
    pub(super) fn new(partitions: usize) -> Self {
        Store { next: 0, parts: vec![Part::default(); partitions] }
    }

    /// Performs a change as a whole; answers positions, where there are any.
    pub(super) fn change(&mut self, p: usize, change: Change, unix_ms: i64) -> Vec<u64> {
        match change {
            Change::Save(batches) => {
                batches.into_iter().map(|saved| self.append(p, saved, unix_ms)).collect()
            }
            Change::Renumber(numbers) => {
                numbers.into_iter().for_each(|renumbered| self.parts[p].renumber(&renumbered));
                Vec::new()
            }
            Change::Reject(letters) => {
                for letter in letters {
                    self.parts[p].dead_letters.push(letter.batch.clone());
                    let Some(position) = letter.position else { continue };
                    self.parts[p].cut_at(position);
                    self.parts[p].cut_at(position + u64::from(letter.batch.count()));
                    self.parts[p].pieces.remove(&position);
                }
                Vec::new()
            }
            Change::Drop { from, through } => {
                let part = &mut self.parts[p];
                part.cut_at(from);
                part.cut_at(through);
                let mut rest = part.pieces.split_off(&from);
                part.pieces.append(&mut rest.split_off(&through));
                Vec::new()
            }
            Change::Commit { through, durable } => {
                let part = &mut self.parts[p];
                part.cut_at(through);
                part.settled = part.settled.max(through);
                if durable {
                    part.durably = part.settled;
                }
                Vec::new()
            }
        }
    }

    fn append(&mut self, p: usize, saved: ToSave, unix_ms: i64) -> u64 {
        let position = self.next;
        // Positions of several partitions interleave, and control records take some.
        self.next += u64::from(saved.batch.count()) + u64::from(saved.batch.count() % 2);
        let mut batch = saved.batch;
        batch.set_spans(crate::Spans::default());
        self.parts[p].pieces.insert(position, Piece { batch, numbers: saved.numbers, saved_ms: unix_ms });
        position
    }

    pub(super) fn read(&mut self, p: usize, from: u64) -> ReadBack {
        self.parts[p].cut_at(from);
        let mut back = ReadBack { next: from, ..ReadBack::default() };
        let part = &self.parts[p];
        for (position, piece) in part.pieces.range(from.max(part.settled)..).take(4) {
            back.next = position + u64::from(piece.batch.count());
            let Piece { batch, numbers, saved_ms } = piece.clone();
            back.batches.push(Stored { position: *position, batch, numbers, saved_ms });
        }
        back
    }

    /// After a crash, in which hints are forgotten or not.
    pub(super) fn reopen(&mut self, forget_hints: bool) {
        for part in &mut self.parts {
            part.settled = if forget_hints { part.durably } else { part.settled };
            part.durably = part.settled;
            part.pieces = part.pieces.split_off(&part.settled);
        }
        self.next += 100;
    }

    pub(super) fn backlog(&self, p: usize) -> Backlog {
        let waiting = self.parts[p].pieces.range(self.parts[p].settled..);
        let mut backlog = Backlog { first: self.next, ..Backlog::default() };
        for (position, piece) in waiting {
            if *position < backlog.first {
                (backlog.first, backlog.oldest_ms) = (*position, piece.saved_ms);
            }
            backlog.events += u64::from(piece.batch.count());
            backlog.batches += 1;
        }
        backlog
    }

    pub(super) fn dead_letters(&self, p: usize) -> &[RecordBatch] {
        &self.parts[p].dead_letters
    }

    /// A save for which there is no room.
    pub(super) fn has_no_room(&self, change: &Change, capacity: u64) -> bool {
        let Change::Save(batches) = change else { return false };
        let waiting = |part: &Part| -> u64 {
            part.pieces.range(part.settled..).map(|(_, piece)| u64::from(piece.batch.count())).sum()
        };
        let held: u64 = self.parts.iter().map(waiting).sum();
        held + batches.iter().map(|saved| u64::from(saved.batch.count())).sum::<u64>() > capacity
    }

    /// What such a drop takes.
    pub(super) fn dropped_by(&self, p: usize, from: u64, through: u64) -> Vec<RecordBatch> {
        let mut after = self.clone();
        after.parts[p].cut_at(from);
        after.parts[p].cut_at(through);
        after.between(p, from..through)
    }

    /// The batches that lie in this range of positions, settled or not.
    pub(super) fn between(&self, p: usize, range: std::ops::Range<u64>) -> Vec<RecordBatch> {
        self.parts[p].pieces.range(range).map(|(_, piece)| piece.batch.clone()).collect()
    }
}

impl Part {
    /// Makes `position` the beginning of a piece.
    fn cut_at(&mut self, position: u64) {
        let Some((&first, piece)) = self.pieces.range(..position).next_back() else { return };
        let at = (position - first) as u32;
        if at >= piece.batch.count() {
            return;
        }
        let (left, right) = piece.batch.split(at, &mut Chunk::unpooled).expect("it is valid");
        let (numbers, saved_ms) = (piece.numbers.clone(), piece.saved_ms);
        let behind = numbers.clone().map(|mut numbers| {
            numbers.stamp.first_sequence = sequence_add(numbers.stamp.first_sequence, at);
            numbers
        });
        self.pieces.insert(first, Piece { batch: left, numbers, saved_ms });
        self.pieces.insert(position, Piece { batch: right, numbers: behind, saved_ms });
    }

    fn renumber(&mut self, renumbered: &Renumbered) {
        let Renumbered { position, count, numbers } = renumbered;
        let end = position + u64::from(*count);
        self.cut_at(*position);
        self.cut_at(end);
        for (first, piece) in self.pieces.range_mut(position..&end) {
            let mut numbers = numbers.clone();
            let at = (first - position) as u32;
            numbers.stamp.first_sequence = sequence_add(numbers.stamp.first_sequence, at);
            piece.numbers = Some(numbers);
        }
    }
}
