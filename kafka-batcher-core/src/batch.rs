//! `RecordBatch`: Kafka's record batch, format v2 (magic 2), from the first byte appended to the acknowledgement.
//!
//! The same bytes are the memory, the wire and the disk format (KIP-98; `DefaultRecordBatch.java`). Byte table of the
//! header, big-endian, followed by the records:
//!
//! | offset | bytes | field | whose |
//! |---:|---:|---|---|
//! | 0 | 8 | base offset | 0 on the wire; the broker assigns |
//! | 8 | 4 | length of all that follows | seal |
//! | 12 | 4 | partition leader epoch | any; the broker assigns |
//! | 16 | 1 | magic = 2 | |
//! | 17 | 4 | CRC-32C of everything from offset 21 on | [`RecordBatch::header`] |
//! | 21 | 2 | attributes: codec 0-2, timestamp type 3, transactional 4, control 5 | seal |
//! | 23 | 4 | last offset delta = records - 1 | seal |
//! | 27 | 8 | base timestamp: of the first record | seal |
//! | 35 | 8 | max timestamp | seal |
//! | 43 | 8 | producer id, -1 without | stamp |
//! | 51 | 2 | producer epoch | stamp |
//! | 53 | 4 | base sequence | stamp |
//! | 57 | 4 | number of records | seal |
//!
//! A sealed batch is immutable but for its [`Stamp`]; its body is shared, so that a request in flight, a retry and the
//! outbox hold the same bytes. The CRC covers the stamp, so it is completed after stamping, off every lock, once for as
//! long as the stamp stays; of the records most is summed as they are appended, for they are in the cache then (`batch/sum.rs`).
//!
//! With a codec ([`Compressor`]) the records are one compressed block, and the header tells of the records in it. It is then
//! compressed before it is stamped, and its pieces, should it ever be split, are compressed again, fast.

pub(crate) mod compression;
pub(crate) mod decoder;
pub(crate) mod encoder;
mod regroup;
mod sum;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

pub use self::compression::{Codec, Compression, CompressionError, Compressor, Fitted, MAX_UNCOMPRESSED};
pub use self::decoder::{OwnedHeader, OwnedRecord};
pub use self::regroup::{Place, Regrouped};
use self::sum::Sum;
use crate::buffer_pool::Chunk;
use crate::completion::Spans;
use crate::error::DecodeError;

/// Length of a record batch's header, in bytes.
pub const HEADER_LEN: usize = 61;
/// Bytes before the part that the length field counts.
pub(crate) const LOG_OVERHEAD: usize = 12;
/// Where the part under the CRC begins.
pub(crate) const CRC_START: usize = 21;

/// Numbers by which a broker knows a batch again: producer id, epoch and the sequence of its first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The producer id, from InitProducerId.
    pub producer_id: i64,
    /// The epoch of the run.
    pub epoch: i16,
    /// The sequence number of the batch's first event.
    pub first_sequence: i32,
}

impl Stamp {
    /// What an unstamped batch carries: no identity.
    pub const NONE: Stamp = Stamp { producer_id: -1, epoch: -1, first_sequence: -1 };
}

/// `first + n` in a producer's sequence numbers, which wrap from 2^31 - 1 to 0 (an overflow to a negative number would
/// be answered with 87 INVALID_RECORD and look like a poisoned record).
pub fn sequence_add(first: i32, n: u32) -> i32 {
    ((i64::from(first) + i64::from(n)) & 0x7fff_ffff) as i32
}

/// A sealed batch of records. Cheap to clone: the records are shared.
#[derive(Clone)]
pub struct RecordBatch {
    body: Arc<Body>,
    fixed: Fixed,
    stamp: Stamp,
    /// Of the bytes with this stamp.
    crc: OnceLock<u32>,
    spans: Spans,
}

/// What seal decides and nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    attributes: i16,
    /// How its records are compressed, and its pieces are to be.
    compression: Compression,
    base_timestamp: i64,
    max_timestamp: i64,
    count: u32,
}

/// Tells a batch and its clones from other batches, for as long as one of them lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    body: usize,
    len: usize,
    fixed: Fixed,
}

/// The encoded records, in chunks. Compressed ones fill the first of them; the others are kept, since memory is charged for
/// what was accepted.
struct Body {
    chunks: Vec<Chunk>,
    len: usize,
    /// Of the first records, as far as they were summed.
    sum: Sum,
    /// The events whose time the user gave, as ascending ranges of indices; all others got theirs at acceptance.
    given: Vec<Range<u32>>,
}

impl Body {
    fn new(chunks: Vec<Chunk>, given: Vec<Range<u32>>) -> Self {
        let len = chunks.iter().map(|chunk| chunk.written().len()).sum();
        Body { chunks, len, sum: Sum::default(), given }
    }
}

impl RecordBatch {
    /// Number of events.
    pub fn count(&self) -> u32 {
        self.fixed.count
    }

    /// How its records are compressed.
    pub fn codec(&self) -> Codec {
        self.fixed.compression.codec()
    }

    /// The same with its level; of a batch that was read back that is the codec's default, since nobody knows it.
    pub fn compression(&self) -> Compression {
        self.fixed.compression
    }

    /// Size on the wire, header included, in bytes.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.body.len
    }

    /// Bytes of the memory bound that it holds.
    pub fn memory(&self) -> usize {
        self.body.chunks.iter().map(Chunk::capacity).sum()
    }

    /// Time of the first event, in milliseconds since the Unix epoch.
    pub fn base_timestamp(&self) -> i64 {
        self.fixed.base_timestamp
    }

    /// Time of the latest event, in milliseconds since the Unix epoch.
    pub fn max_timestamp(&self) -> i64 {
        self.fixed.max_timestamp
    }

    /// The numbers it carries; [`Stamp::NONE`] before it has any.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The same events without numbers: for who wants them elsewhere, and not as this producer's.
    pub fn unstamped(&self) -> RecordBatch {
        let mut plain = self.clone();
        plain.set_stamp(Stamp::NONE);
        plain
    }

    /// Gives it numbers. Who may do so, and when, is decided by the outbox alone.
    pub(crate) fn set_stamp(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.crc = OnceLock::new();
    }

    fn known(&self) -> Known {
        Known { body: Arc::as_ptr(&self.body).addr(), len: self.body.len, fixed: self.fixed }
    }

    /// Puts these compressed records in the place of its plain ones. Its memory is written over; where somebody shares that,
    /// it gets memory outside of the pool.
    fn replace_records(&mut self, compressed: &[u8], how: Compression) {
        if Arc::get_mut(&mut self.body).is_none() {
            let chunk = Chunk::unpooled(compressed.len());
            self.body = Arc::new(Body::new(vec![chunk], self.body.given.clone()));
        }
        let Some(body) = Arc::get_mut(&mut self.body) else { return };
        body.len = compressed.len();
        body.sum = Sum::default();
        let mut rest = compressed;
        for chunk in &mut body.chunks {
            chunk.clear();
            let (here, later) = rest.split_at(rest.len().min(chunk.capacity()));
            chunk.claim(here.len()).copy_from_slice(here);
            rest = later;
        }
        self.fixed.compression = how;
        self.fixed.attributes |= how.codec().bits();
        self.crc = OnceLock::new();
    }

    /// Gives its latest event this time, and all others one as far from it as before.
    pub(crate) fn shift_time_to(&mut self, unix_ms: i64) {
        let by = unix_ms.saturating_sub(self.fixed.max_timestamp);
        self.fixed.base_timestamp = self.fixed.base_timestamp.saturating_add(by);
        self.fixed.max_timestamp = unix_ms;
        self.crc = OnceLock::new();
    }

    /// Whether the user gave event `index` its time. Of a batch that was decoded nobody knows unless its storage says so:
    /// false, as if we had given it, so that a refused time holds the event rather than rejects it.
    pub(crate) fn time_given(&self, index: u32) -> bool {
        let at = self.body.given.partition_point(|range| range.end <= index);
        self.body.given.get(at).is_some_and(|range| range.contains(&index))
    }

    /// The events whose time the user gave, as ascending ranges of indices; all others got theirs at acceptance. It is no
    /// part of the bytes: a storage keeps it beside them.
    pub fn times_given(&self) -> &[Range<u32>] {
        &self.body.given
    }

    /// Says so of a batch that was just encoded or decoded; of one that has been cloned it says nothing.
    pub fn set_times_given(&mut self, given: Vec<Range<u32>>) {
        if let Some(body) = Arc::get_mut(&mut self.body) {
            body.given = given;
        }
    }

    /// Whether the user gave any of its events a time.
    pub(crate) fn any_time_given(&self) -> bool {
        !self.body.given.is_empty()
    }

    /// Which receipts wait for which of its events.
    pub fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Says who waits for which of its events: of a batch that was read back.
    pub fn set_spans(&mut self, spans: Spans) {
        self.spans = spans;
    }

    /// The header as it goes on the wire, with base offset 0 and the CRC, which is computed at the first call.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        let mut h = [0u8; HEADER_LEN];
        let length = (self.encoded_len() - LOG_OVERHEAD) as i32;
        h[8..12].copy_from_slice(&length.to_be_bytes());
        h[12..16].copy_from_slice(&(-1i32).to_be_bytes());
        h[16] = 2;
        h[21..23].copy_from_slice(&self.fixed.attributes.to_be_bytes());
        h[23..27].copy_from_slice(&(self.fixed.count as i32 - 1).to_be_bytes());
        h[27..35].copy_from_slice(&self.fixed.base_timestamp.to_be_bytes());
        h[35..43].copy_from_slice(&self.fixed.max_timestamp.to_be_bytes());
        h[43..51].copy_from_slice(&self.stamp.producer_id.to_be_bytes());
        h[51..53].copy_from_slice(&self.stamp.epoch.to_be_bytes());
        h[53..57].copy_from_slice(&self.stamp.first_sequence.to_be_bytes());
        h[57..61].copy_from_slice(&self.fixed.count.to_be_bytes());
        let crc = *self.crc.get_or_init(|| {
            let sum = self.body.sum;
            let mut summed = sum.len();
            let records = self.body().map(|piece| {
                let rest = piece.get(summed..).unwrap_or_default();
                summed -= piece.len() - rest.len();
                rest
            });
            records.fold(sum.behind(sum::crc32c(&h[CRC_START..])), sum::append)
        });
        h[17..21].copy_from_slice(&crc.to_be_bytes());
        h
    }

    /// Computes the CRC now: to be called off the lock, before the batch is handed to a socket's task.
    pub fn finish(&self) {
        let _ = self.header();
    }

    /// The encoded records, piece by piece, as they follow the header on the wire. A piece may be empty.
    pub fn body(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.body.chunks.iter().map(Chunk::written)
    }

    /// Header and records in one piece. Copies: for tests and tools, not for the hot path.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.extend_from_slice(&self.header());
        self.body().for_each(|piece| out.extend_from_slice(piece));
        out
    }

    /// Reads a batch from `bytes`, trusting nothing in them: lengths, counts, CRC and every record are checked.
    /// Returns it with the number of bytes it took. Its memory is outside the pool.
    ///
    /// # Errors
    /// [`DecodeError`] says what is wrong with which record. One that is compressed stays so, and is opened to be checked; more
    /// than [`MAX_UNCOMPRESSED`] bytes it must not hold.
    pub fn decode(bytes: &[u8]) -> Result<(RecordBatch, usize), DecodeError> {
        decoder::decode(bytes, &mut Chunk::unpooled)
    }

    /// The same, in memory of the caller's: `memory` is asked for so many bytes, as often as it gives fewer, and gives at
    /// least one.
    ///
    /// # Errors
    /// As [`RecordBatch::decode`].
    pub fn decode_in(
        bytes: &[u8],
        memory: &mut dyn FnMut(usize) -> Chunk,
    ) -> Result<(RecordBatch, usize), DecodeError> {
        decoder::decode(bytes, memory)
    }

    /// The records, decoded and owned. Copies the body once: for split, cut and regroup, which are rare.
    ///
    /// # Errors
    /// Only if the bytes are not what an encoder wrote.
    pub fn records(&self) -> Result<Vec<OwnedRecord>, DecodeError> {
        #[cfg(test)]
        tests::DECODED.set(tests::DECODED.get() + self.fixed.count);
        let mut bytes = Vec::with_capacity(self.body.len);
        self.body().for_each(|piece| bytes.extend_from_slice(piece));
        let bytes = match self.codec() {
            Codec::None => bytes,
            codec => compression::decompress(codec, &bytes, MAX_UNCOMPRESSED)?,
        };
        decoder::records(&bytes, self.fixed.count, self.fixed.base_timestamp)
    }

    /// Two batches out of one: events `..at` and `at..`, each event keeping its sequence number (DESIGN.md, Delivery).
    /// Of a compressed batch they are compressed, too, at a fast level, if they get smaller by it. `chunk` gives memory of at least the size asked for.
    ///
    /// # Errors
    /// If the batch's own bytes cannot be read.
    pub fn split(
        &self,
        at: u32,
        chunk: &mut dyn FnMut(usize) -> Chunk,
    ) -> Result<(RecordBatch, RecordBatch), DecodeError> {
        let records = self.records()?;
        let (left, right) = records.split_at((at as usize).min(records.len()));
        let mut compressor = Compressor::new();
        let left = self.part(left, 0, chunk, &mut compressor);
        let right = self.part(right, at, chunk, &mut compressor);
        Ok((left, right))
    }

    /// The same for any number of pieces at once: each stretch of events as a batch of its own, each event keeping its
    /// sequence number. The batch is decoded once, however many there are. What lies outside the batch is left out.
    ///
    /// # Errors
    /// If the batch's own bytes cannot be read.
    pub fn parts(
        &self,
        stretches: &[Range<u32>],
        chunk: &mut dyn FnMut(usize) -> Chunk,
    ) -> Result<Vec<RecordBatch>, DecodeError> {
        let count = self.fixed.count;
        if stretches.iter().all(|stretch| *stretch == (0..count)) {
            return Ok(stretches.iter().map(|_| self.clone()).collect());
        }
        Ok(self.pieces(&self.records()?, stretches, chunk))
    }

    /// A plain batch in consecutive ones of at most `limit` bytes each, header included, as few as it takes; a single event may
    /// take more. Each event keeps its sequence number and who waits for it. One that is small enough, or compressed, stays whole.
    ///
    /// # Errors
    /// If the batch's own bytes cannot be read.
    pub fn cut_to(
        &self,
        limit: usize,
        chunk: &mut dyn FnMut(usize) -> Chunk,
    ) -> Result<Vec<RecordBatch>, DecodeError> {
        if self.encoded_len() <= limit || self.codec() != Codec::None {
            return Ok(vec![self.clone()]);
        }
        let records = self.records()?;
        Ok(self.pieces(&records, &encoder::stretches(&records, limit), chunk))
    }

    fn pieces(
        &self,
        records: &[OwnedRecord],
        stretches: &[Range<u32>],
        chunk: &mut dyn FnMut(usize) -> Chunk,
    ) -> Vec<RecordBatch> {
        let (count, mut compressor) = (self.fixed.count, Compressor::new());
        let part = |stretch: &Range<u32>| {
            let (first, end) = (stretch.start.min(count), stretch.end.min(count));
            let records = records.get(first as usize..end as usize).unwrap_or_default();
            self.part(records, first, &mut *chunk, &mut compressor)
        };
        stretches.iter().map(part).collect()
    }

    /// This batch without the events at `indices` (ascending, within the batch), unstamped, or `None` if nothing is
    /// left; and each of those events as a plain batch of its own.
    ///
    /// # Errors
    /// If the batch's own bytes cannot be read.
    pub(crate) fn cut_out(
        &self,
        indices: &[u32],
        chunk: &mut dyn FnMut(usize) -> Chunk,
    ) -> Result<(Option<RecordBatch>, Vec<RecordBatch>), DecodeError> {
        let records = self.records()?;
        let (mut rest, mut spans, mut given) = (Vec::new(), Spans::default(), Vec::new());
        let mut cut = Vec::with_capacity(indices.len());
        for (i, record) in (0u32..).zip(records) {
            let span = self.spans.slice(i..i + 1);
            if indices.binary_search(&i).is_ok() {
                let mut batch = encoder::encode_all(&[record], chunk);
                batch.set_times_given(self.time_given(i).then_some(0..1).into_iter().collect());
                batch.spans = span;
                cut.push(batch);
            } else {
                let at = rest.len() as u32;
                spans.append(at, span, 1);
                if self.time_given(i) {
                    encoder::mark_given(&mut given, at);
                }
                rest.push(record);
            }
        }
        let rest = (!rest.is_empty()).then(|| {
            let mut batch = encoder::encode_all(&rest, chunk);
            batch.set_times_given(given);
            batch.spans = spans;
            self.compress_as_this(&mut batch, &mut Compressor::new());
            batch
        });
        Ok((rest, cut))
    }

    /// A batch of some consecutive records of this one, the first of them its event `first`.
    fn part(
        &self,
        records: &[OwnedRecord],
        first: u32,
        chunk: &mut dyn FnMut(usize) -> Chunk,
        compressor: &mut Compressor,
    ) -> RecordBatch {
        let end = first + records.len() as u32;
        // Ascending: a batch is cut into pieces without all of the list being looked at for each.
        let from = self.body.given.partition_point(|range| range.end <= first);
        let given = self.body.given.iter().skip(from).take_while(|range| range.start < end);
        let given = given.map(|range| range.start.max(first) - first..range.end.min(end) - first).collect();
        let mut batch = encoder::encode_all(records, chunk);
        batch.set_times_given(given);
        batch.spans = self.spans.slice(first..end);
        self.compress_as_this(&mut batch, compressor);
        if self.stamp != Stamp::NONE {
            batch.stamp =
                Stamp { first_sequence: sequence_add(self.stamp.first_sequence, first), ..self.stamp };
        }
        batch
    }

    /// A piece of this batch is compressed by its codec, at a fast level: whoever cuts it answers at once.
    fn compress_as_this(&self, piece: &mut RecordBatch, compressor: &mut Compressor) {
        if compressor.compress(piece, self.fixed.compression.fast()).is_some() {
            // Otherwise it stays as it is, which is no mistake.
            let _ = compressor.put_into(piece);
        }
    }

    /// The sequence number of its last event; meaningless if unstamped.
    pub fn last_sequence(&self) -> i32 {
        sequence_add(self.stamp.first_sequence, self.fixed.count.saturating_sub(1))
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("count", &self.fixed.count)
            .field("encoded_len", &self.encoded_len())
            .field("stamp", &self.stamp)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "batch/tests.rs"]
pub(crate) mod tests;
