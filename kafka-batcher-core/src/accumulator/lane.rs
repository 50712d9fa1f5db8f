//! The open batches of an accumulator, and which of them are open.

use crate::batch::HEADER_LEN;
use crate::batch::encoder::{Encoder, SMALLEST_MAX};
use crate::buffer_pool::MIN_CHUNK;
use crate::time::Time;

/// One partition's open batch.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) partition: i32,
    pub(super) encoder: Encoder,
    /// Acceptance of the oldest event; means nothing while nothing is open.
    pub(super) opened: Time,
}

impl Lane {
    fn new(partition: i32, sums: bool) -> Self {
        Lane { partition, encoder: Encoder::summing(sums), opened: Time::ZERO }
    }

    /// Bytes of the batch so far, and the size of the chunk that a record of `size` bytes needs, if it needs one.
    pub(super) fn memory_for(&self, size: usize) -> (usize, Option<usize>) {
        (self.encoder.encoded_len(), self.encoder.chunk_needed(size))
    }

    /// To be called after an event that was not appended the short way: allows that until the batch may be full.
    pub(super) fn update_room(&mut self, limit: usize) {
        let below_full = limit.saturating_sub(self.encoder.encoded_len() + SMALLEST_MAX);
        self.encoder.set_room(below_full);
    }

    /// True if not even the smallest event fits any more.
    pub(super) fn is_full(&self, limit: usize) -> bool {
        !self.encoder.is_empty() && self.encoder.encoded_len() + self.encoder.smallest_next() > limit
    }
}

/// The chunk that a batch begins with if its first record takes `size` bytes.
pub(super) fn first_chunk(size: usize) -> usize {
    size.max(MIN_CHUNK)
}

/// All lanes of an accumulator.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Inline: most accumulators have only this one, which then lies beside its lock and not in a heap block whose
    /// cache line it would share with another partition's.
    first: Lane,
    more: Vec<Lane>,
    /// Indexes of those with an open batch, in the order of their opening, so that sealing costs what is open and
    /// not what exists.
    open: Vec<usize>,
    /// Whether records are summed as they come.
    sums: bool,
}

impl Lanes {
    pub(super) fn new(partition: i32) -> Self {
        Lanes { first: Lane::new(partition, true), more: Vec::new(), open: Vec::with_capacity(1), sums: true }
    }

    /// Their records are not summed from now on.
    pub(super) fn sum_no_more(&mut self) {
        self.sums = false;
        std::iter::once(&mut self.first).chain(&mut self.more).for_each(|lane| lane.encoder.sum_no_more());
    }

    pub(super) fn add(&mut self, partition: i32) -> usize {
        self.more.push(Lane::new(partition, self.sums));
        self.open.reserve(self.len() - self.open.len());
        self.more.len()
    }

    pub(super) fn len(&self) -> usize {
        1 + self.more.len()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Lane> {
        match index.checked_sub(1) {
            None => Some(&mut self.first),
            Some(index) => self.more.get_mut(index),
        }
    }

    fn get(&self, index: usize) -> Option<&Lane> {
        match index.checked_sub(1) {
            None => Some(&self.first),
            Some(index) => self.more.get(index),
        }
    }

    /// The lanes with an open batch.
    pub(super) fn open(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.open.iter().filter_map(|&index| Some((index, self.get(index)?)))
    }

    /// A lane is about to get the first event of a batch.
    pub(super) fn opened(&mut self, index: usize, at: Time) {
        self.open.push(index);
        if let Some(lane) = self.get_mut(index) {
            lane.opened = at;
        }
    }

    /// A lane's batch is taken out.
    pub(super) fn closed(&mut self, index: usize) {
        self.open.retain(|&open| open != index);
    }

    /// Takes the list of open lanes, to be given back, emptied, for its memory.
    pub(super) fn take_open(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.open)
    }

    pub(super) fn give_back(&mut self, mut list: Vec<usize>) {
        list.clear();
        self.open = list;
    }
}

const _: () = assert!(HEADER_LEN + SMALLEST_MAX < MIN_CHUNK);
