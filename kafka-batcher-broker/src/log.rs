//! One partition's log: batches in memory, at their offsets, with the producers that wrote them.
//!
//! There is one copy. Brokers of a cluster share it, and "leader" is only a name on it; so a change of leader never loses what was
//! acknowledged, unless a test truncates the log on purpose.

use bytes::{Bytes, BytesMut};

use crate::producer_state::{Judgement, ProducerStates};
use crate::record::{self, BatchHeader, Compression, HEADER_LEN, Record};
use crate::topic_config::{TimestampType, TopicConfig};
use crate::validate::{Refusal, ValidBatch};

/// A batch as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogBatch {
    /// Its header, with the offset and the leader epoch that the broker gave.
    pub header: BatchHeader,
    /// The whole batch, as a consumer gets it.
    pub bytes: Bytes,
}

impl LogBatch {
    /// Its records, read by this crate's own decoder; `None` where they are compressed, since this crate opens no codec.
    #[must_use]
    pub fn records(&self) -> Option<Vec<Record>> {
        if self.header.compression() != Compression::None {
            return None;
        }
        record::decode(&self.header, &self.bytes.slice(HEADER_LEN..)).ok()
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    New {
        base_offset: i64,
        log_append_time: i64,
    },
    /// Recognised. Kafka answers the old offset, and the old batch's time where a new one has -1.
    Duplicate {
        base_offset: i64,
        log_append_time: i64,
    },
}

/// One partition's log.
#[derive(Debug, Default)]
pub(crate) struct PartitionLog {
    batches: Vec<LogBatch>,
    start: i64,
    end: i64,
    pub(crate) producers: ProducerStates,
    /// `(leader epoch, offset at which it began)`, ascending.
    epochs: Vec<(i32, i64)>,
}

impl PartitionLog {
    /// Offset of the first record that is still there.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// Offset that the next record will get; also the high watermark.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    pub(crate) fn batches(&self) -> &[LogBatch] {
        &self.batches
    }

    /// Judges by producer, then writes.
    pub(crate) fn append(
        &mut self,
        batch: &ValidBatch,
        config: &TopicConfig,
        leader_epoch: i32,
        now: i64,
    ) -> Result<Appended, Refusal> {
        let mut header = batch.header;
        if header.producer_id >= 0
            && let Judgement::Duplicate(known) =
                self.producers.judge(&header).map_err(|(code, why)| Refusal::new(code, why))?
        {
            return Ok(Appended::Duplicate {
                base_offset: known.base_offset,
                log_append_time: known.timestamp,
            });
        }
        let mut bytes = BytesMut::from(&batch.bytes[..]);
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        header.base_offset = self.end;
        header.leader_epoch = leader_epoch;
        put(0, &header.base_offset.to_be_bytes());
        put(12, &header.leader_epoch.to_be_bytes());
        let (attributes, max_timestamp, log_append_time) = match config.timestamp_type {
            TimestampType::CreateTime => (header.attributes & !0x08, batch.max_timestamp, -1),
            TimestampType::LogAppendTime => (header.attributes | 0x08, now, now),
        };
        // Only these two lie under the CRC, so only they make it new.
        if (attributes, max_timestamp) != (header.attributes, header.max_timestamp) {
            header.attributes = attributes;
            header.max_timestamp = max_timestamp;
            put(21, &attributes.to_be_bytes());
            put(35, &max_timestamp.to_be_bytes());
            header.crc = crc32c::crc32c(bytes.get(21..).unwrap_or_default());
            if let Some(place) = bytes.get_mut(17..21) {
                place.copy_from_slice(&header.crc.to_be_bytes());
            }
        }
        if self.epochs.last().is_none_or(|(epoch, _)| *epoch < leader_epoch) {
            self.epochs.push((leader_epoch, self.end));
        }
        if header.producer_id >= 0 {
            self.producers.remember(&header, header.max_timestamp);
        }
        self.end = header.last_offset() + 1;
        self.batches.push(LogBatch { header, bytes: bytes.freeze() });
        Ok(Appended::New { base_offset: header.base_offset, log_append_time })
    }

    /// Whole batches from the one that holds `offset`, up to `max_bytes`; with `at_least_one` the first one even if it is larger (KIP-74).
    pub(crate) fn read(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> (Vec<Bytes>, usize) {
        let from = self.batches.partition_point(|batch| batch.header.last_offset() < offset);
        let mut taken = Vec::new();
        let mut size = 0_usize;
        for batch in self.batches.get(from..).unwrap_or_default() {
            let first = taken.is_empty() && at_least_one;
            if !first && size.saturating_add(batch.bytes.len()) > max_bytes {
                break;
            }
            size += batch.bytes.len();
            taken.push(batch.bytes.clone());
        }
        (taken, size)
    }

    /// The first record with a time of `timestamp` or later: `(offset, time, leader epoch)`.
    pub(crate) fn offset_for_time(&self, timestamp: i64) -> Option<(i64, i64, i32)> {
        self.batches.iter().filter(|batch| batch.header.max_timestamp >= timestamp).find_map(|batch| {
            let (header, epoch) = (&batch.header, batch.header.leader_epoch);
            match batch.records() {
                Some(records) => records
                    .iter()
                    .find(|record| record.timestamp >= timestamp && record.offset >= self.start)
                    .map(|record| (record.offset, record.timestamp, epoch)),
                None => Some((header.base_offset.max(self.start), header.max_timestamp, epoch)),
            }
        })
    }

    /// The record with the largest time (KIP-734): `(offset, time, leader epoch)`.
    pub(crate) fn offset_of_max_time(&self) -> Option<(i64, i64, i32)> {
        let max = self.batches.iter().map(|batch| batch.header.max_timestamp).max()?;
        self.offset_for_time(max)
    }

    /// The largest epoch not above `epoch` and where it ended: `(epoch, end offset)`; `None` if it is unknown.
    pub(crate) fn epoch_end(&self, epoch: i32, current: i32) -> Option<(i32, i64)> {
        if epoch == current {
            return Some((epoch, self.end));
        }
        if epoch > current {
            return None;
        }
        let next = self.epochs.partition_point(|(known, _)| *known <= epoch);
        let (found, _) = self.epochs.get(next.checked_sub(1)?)?;
        Some((*found, self.epochs.get(next).map_or(self.end, |(_, start)| *start)))
    }

    pub(crate) fn epoch_at(&self, offset: i64) -> i32 {
        let next = self.epochs.partition_point(|(_, start)| *start <= offset);
        next.checked_sub(1).and_then(|at| self.epochs.get(at)).map_or(-1, |(epoch, _)| *epoch)
    }

    /// Cuts the log so that it ends at `offset` or before it (only whole batches go); producers are remembered from what is left.
    pub(crate) fn truncate(&mut self, offset: i64) {
        self.batches.retain(|batch| batch.header.last_offset() < offset);
        self.end =
            self.batches.last().map_or(self.start.min(offset.max(0)), |batch| batch.header.last_offset() + 1);
        self.start = self.start.min(self.end);
        self.epochs.retain(|(_, start)| *start < self.end);
        self.producers.clear();
        for batch in &self.batches {
            if batch.header.producer_id >= 0 {
                self.producers.remember(&batch.header, batch.header.max_timestamp);
            }
        }
    }

    /// Deletes the batches at the beginning that are older than `retention_ms` by their own times; -1 keeps all. Answers how many went.
    pub(crate) fn apply_retention(&mut self, now: i64, retention_ms: i64) -> usize {
        if retention_ms < 0 {
            return 0;
        }
        let old = |batch: &LogBatch| now.saturating_sub(batch.header.max_timestamp) > retention_ms;
        let kept = self.batches.iter().position(|batch| !old(batch)).unwrap_or(self.batches.len());
        self.batches.drain(..kept);
        self.start = self.batches.first().map_or(self.end, |batch| batch.header.base_offset);
        kept
    }
}
