//! What a partition remembers of idempotent producers, and what it answers by it.
//!
//! The rules are those of Kafka's `ProducerStateManager`, `ProducerStateEntry` and `ProducerAppendInfo` (KIP-98, KIP-360), as a real Kafka 4.1
//! was seen to apply them; the conformance suite asks both. The surprising ones:
//!
//! - only first and last sequence identify a batch: another content under the same numbers is a duplicate too, and is swallowed;
//! - a producer that the partition does not know may begin anywhere;
//! - a higher epoch with sequence 0 is believed, whoever invented it;
//! - memory fades by the *time of the events*, not by the clock that passed since.

use std::collections::{BTreeMap, VecDeque};

use crate::error_code::ErrorCode;
use crate::record::{BatchHeader, add_sequence};

/// Batches of a producer that a partition recognises when they come again (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const REMEMBERED: usize = 5;

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchMemory {
    pub(crate) first_sequence: i32,
    pub(crate) last_sequence: i32,
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) timestamp: i64,
}

/// One producer of a partition.
#[derive(Debug, Clone)]
pub(crate) struct ProducerEntry {
    pub(crate) epoch: i16,
    /// Oldest first; never empty.
    batches: VecDeque<BatchMemory>,
    pub(crate) last_timestamp: i64,
}

impl ProducerEntry {
    pub(crate) fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(-1, |batch| batch.last_sequence)
    }
}

/// What is to be done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// New: write it.
    Append,
    /// Recognised: answer no error and these old numbers.
    Duplicate(BatchMemory),
}

/// How much a broker still knows after its restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProducerMemory {
    /// The last batch of every producer, as a Kafka reads it back from its snapshot.
    #[default]
    LastBatch,
    /// Nothing: as if the snapshot were lost. Every (id, epoch) is unknown and may begin anywhere.
    Nothing,
    /// All five: a change of leader, or a restart that loses nothing.
    Whole,
}

/// All producers of one partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProducerStates {
    entries: BTreeMap<i64, ProducerEntry>,
}

impl ProducerStates {
    /// Judges a batch that has a producer id.
    ///
    /// # Errors
    /// 47 `INVALID_PRODUCER_EPOCH` for an epoch below the known one, 45 `OUT_OF_ORDER_SEQUENCE_NUMBER` for a gap, an overlap or something older
    /// than the five.
    pub(crate) fn judge(&self, header: &BatchHeader) -> Result<Judgement, (ErrorCode, String)> {
        let Some(entry) = self.entries.get(&header.producer_id) else { return Ok(Judgement::Append) };
        let (first, last) = (header.base_sequence, header.last_sequence());
        let who = format!("producer {} epoch {}", header.producer_id, header.producer_epoch);
        if header.producer_epoch == entry.epoch
            && let Some(known) =
                entry.batches.iter().find(|b| b.first_sequence == first && b.last_sequence == last)
        {
            return Ok(Judgement::Duplicate(*known));
        }
        if header.producer_epoch < entry.epoch {
            let why = format!("{who}: the last seen epoch is {}", entry.epoch);
            return Err((ErrorCode::INVALID_PRODUCER_EPOCH, why));
        }
        let expected =
            if header.producer_epoch == entry.epoch { add_sequence(entry.last_sequence(), 1) } else { 0 };
        if first != expected {
            let why = format!("{who}: {first} (incoming sequence), {expected} (expected)");
            return Err((ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, why));
        }
        Ok(Judgement::Append)
    }

    /// Remembers a batch that was written at `header.base_offset`; `timestamp` is its largest time.
    pub(crate) fn remember(&mut self, header: &BatchHeader, timestamp: i64) {
        let entry = self.entries.entry(header.producer_id).or_insert_with(|| ProducerEntry {
            epoch: header.producer_epoch,
            batches: VecDeque::with_capacity(REMEMBERED),
            last_timestamp: timestamp,
        });
        if entry.epoch != header.producer_epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        if entry.batches.len() == REMEMBERED {
            entry.batches.pop_front();
        }
        entry.batches.push_back(BatchMemory {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            timestamp,
        });
        entry.last_timestamp = timestamp;
    }

    /// Forgets producers whose last event is `expiration_ms` old or older (`producer.id.expiration.ms`; event time).
    pub(crate) fn expire(&mut self, now: i64, expiration_ms: i64) {
        self.entries.retain(|_, entry| now.saturating_sub(entry.last_timestamp) < expiration_ms);
    }

    /// What a restart leaves.
    pub(crate) fn restart(&mut self, memory: ProducerMemory) {
        match memory {
            ProducerMemory::Whole => {}
            ProducerMemory::Nothing => self.entries.clear(),
            ProducerMemory::LastBatch => {
                for entry in self.entries.values_mut() {
                    let last = entry.batches.pop_back();
                    entry.batches.clear();
                    entry.batches.extend(last);
                }
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, &ProducerEntry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, first: i32, count: i32, base_offset: i64) -> BatchHeader {
        BatchHeader {
            base_offset,
            size: 0,
            leader_epoch: 0,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: first,
            record_count: count,
        }
    }

    fn code(states: &ProducerStates, header: BatchHeader) -> i16 {
        states.judge(&header).err().map_or(0, |(code, _)| code.0)
    }

    fn written(batches: impl IntoIterator<Item = BatchHeader>) -> ProducerStates {
        let mut states = ProducerStates::default();
        for header in batches {
            assert_eq!(states.judge(&header), Ok(Judgement::Append));
            states.remember(&header, header.base_offset);
        }
        states
    }

    #[test]
    fn the_last_five_batches_are_recognised_and_the_sixth_is_out_of_order() {
        let states = written((0..6).map(|n| batch(0, n * 2, 2, i64::from(n) * 2)));
        assert_eq!(code(&states, batch(0, 0, 2, 0)), 45);
        for n in 1..6 {
            let Ok(Judgement::Duplicate(known)) = states.judge(&batch(0, n * 2, 2, 0)) else {
                panic!("batch {n} was not recognised")
            };
            assert_eq!(known.base_offset, i64::from(n) * 2);
        }
        assert_eq!(code(&states, batch(0, 13, 1, 0)), 45, "a gap");
        assert_eq!(code(&states, batch(0, 11, 2, 0)), 45, "an overlap");
        assert_eq!(code(&states, batch(0, 10, 1, 0)), 45, "a part of a written batch");
        assert_eq!(code(&states, batch(0, 12, 1, 0)), 0);
    }

    #[test]
    fn a_higher_epoch_begins_at_zero_and_fences_the_old_one() {
        let mut states = written([batch(0, 0, 3, 0)]);
        assert_eq!(code(&states, batch(1, 3, 1, 0)), 45);
        let new = batch(1, 0, 1, 3);
        assert_eq!(states.judge(&new), Ok(Judgement::Append));
        states.remember(&new, 0);
        assert_eq!(code(&states, batch(0, 3, 1, 0)), 47);
        assert_eq!(code(&states, batch(0, 0, 3, 0)), 47, "its own batch of before, too");
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere_and_the_count_wraps() {
        let states = written([batch(4, i32::MAX - 1, 4, 0), batch(4, 2, 1, 4)]);
        assert_eq!(code(&states, batch(4, 3, 1, 0)), 0);
    }

    #[test]
    fn a_restart_leaves_the_last_batch_or_nothing() {
        let whole = written((0..3).map(|n| batch(0, n, 1, i64::from(n))));
        let mut restarted = whole.clone();
        restarted.restart(ProducerMemory::LastBatch);
        assert_eq!(code(&restarted, batch(0, 1, 1, 0)), 45);
        assert!(matches!(restarted.judge(&batch(0, 2, 1, 0)), Ok(Judgement::Duplicate(_))));
        assert_eq!(code(&restarted, batch(0, 3, 1, 0)), 0);
        let mut forgetful = whole;
        forgetful.restart(ProducerMemory::Nothing);
        assert_eq!(forgetful.judge(&batch(0, 1, 1, 0)), Ok(Judgement::Append));
    }

    #[test]
    fn expiry_runs_on_the_time_of_the_last_event() {
        let mut states = ProducerStates::default();
        states.remember(&batch(0, 0, 1, 0), 1_000);
        states.expire(1_099, 100);
        assert!(matches!(states.judge(&batch(0, 0, 1, 0)), Ok(Judgement::Duplicate(_))));
        states.expire(1_100, 100);
        assert_eq!(states.judge(&batch(0, 0, 1, 0)), Ok(Judgement::Append));
    }
}
