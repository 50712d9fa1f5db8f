//! Builds a batch in place: the exact size of a record is known before a byte of it is written, its bytes are copied
//! once into the partition's current chunk, and the header is made when the batch is sealed.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::sum::{self, Sum};
use super::{Body, Compression, Fixed, HEADER_LEN, OwnedRecord, RecordBatch, Stamp};
use crate::buffer_pool::{Chunk, MAX_CHUNK, MIN_CHUNK};
use crate::completion::{Completion, Spans};
use crate::error::RecordError;
use crate::prefetch;
use crate::record::Record;
use crate::varint;

/// Key, value and headers, as encoded: what of a record's size depends on the record alone. The rest (its own length,
/// timestamp delta, offset delta) depends on its place in the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    payload: usize,
}

/// Room for everything of a record up to its key: length, attributes, timestamp delta, offset delta, key length.
const PREFIX: usize = 5 + 1 + 10 + 5 + 5;

impl Measured {
    /// # Errors
    /// [`RecordError::Unencodable`] if a length does not fit 32 bits.
    #[inline]
    pub(crate) fn of(record: &Record<'_>) -> Result<Self, RecordError> {
        let key = record.key.map_or(0, <[u8]>::len);
        let value = record.value.map_or(0, <[u8]>::len);
        let mut payload = key + value;
        if !record.headers.is_empty() {
            payload += headers_len(record)?;
        }
        // One comparison for all parts; which one it was is found out only when it failed.
        if payload > MAX_PAYLOAD {
            return Err(unencodable(record, payload));
        }
        payload += varint::len(nullable(record.key)) + varint::len(nullable(record.value));
        payload += varint::len(record.headers.len() as i64);
        Ok(Measured { payload })
    }

    /// Size of a batch of only this record, in bytes.
    pub(crate) fn alone(self) -> usize {
        let body = self.body(0, 0);
        HEADER_LEN + varint::len(body as i64) + body
    }

    fn body(self, timestamp_delta: i64, offset_delta: u32) -> usize {
        1 + varint::len(timestamp_delta) + varint::len(i64::from(offset_delta)) + self.payload
    }
}

/// Leaves room for the few bytes around the payload below the format's 2^31 - 1.
const MAX_PAYLOAD: usize = i32::MAX as usize - 1024;

fn nullable(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| bytes.len() as i64)
}

#[cold]
fn unencodable(record: &Record<'_>, payload: usize) -> RecordError {
    let parts = [("key", record.key), ("value", record.value)];
    let part = parts.into_iter().find(|(_, bytes)| bytes.is_some_and(|b| b.len() > MAX_PAYLOAD));
    let (part, size) =
        part.map_or(("payload", payload), |(part, bytes)| (part, bytes.map_or(0, <[u8]>::len)));
    RecordError::Unencodable { part, size }
}

#[inline(never)]
fn headers_len(record: &Record<'_>) -> Result<usize, RecordError> {
    if record.headers.len() > i32::MAX as usize {
        return Err(RecordError::Unencodable { part: "headers", size: record.headers.len() });
    }
    let one = |h: &crate::Header<'_>| {
        varint::len(h.name.len() as i64)
            + h.name.len()
            + varint::len(nullable(h.value))
            + h.value.map_or(0, <[u8]>::len)
    };
    Ok(record.headers.iter().map(one).sum())
}

/// The most that [`Encoder::smallest_next`] can say.
pub(crate) const SMALLEST_MAX: usize = 6 + 5;

/// The open batch of one partition.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// The chunk being filled: inline, so that an append follows one pointer less.
    current: Option<Chunk>,
    full: Vec<Chunk>,
    /// Bytes written in `full`.
    full_len: usize,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    completion: Option<Arc<Completion>>,
    /// The events whose time the user gave, as ranges of indices.
    given: Vec<Range<u32>>,
    next: Next,
    /// The current chunk may be filled up to here by `append_short` and `append_within`.
    short_end: usize,
    /// Of all full chunks, and of the current one's first `summed` bytes.
    sum: Sum,
    summed: usize,
    /// So many bytes of a chunk are summed at once; never where the records will be compressed, for others go on the wire then.
    sum_step: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder::summing(true)
    }
}

/// Attributes, timestamp delta and offset delta of the next record, as encoded, if it has the same time as the one
/// before it. Successive offsets differ by 2 in the varint's first byte, so that keeping them ready takes one addition.
#[derive(Default)]
struct Next {
    timestamp: i64,
    bits: u64,
    /// What `bits` grows by from one record to the next.
    step: u64,
    /// Length in bytes: at most 5.
    width: u8,
    /// Where in a word the next byte goes.
    key_shift: u8,
    /// Good while fewer records than this are in the batch.
    until: u32,
}

impl std::fmt::Debug for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A cache is no state: it may differ where nothing else does.
        f.write_str("..")
    }
}

/// With a value of this length and a key below 64 bytes, every length of a record takes at most two bytes as a varint.
const SHORT_VALUE: usize = varint::SHORT as usize / 2 - 128;

/// Whether it is an ordinary record, as [`Encoder::append_short`] takes it.
#[inline(always)]
pub(crate) fn is_short(record: &Record<'_>) -> bool {
    record.value.is_some_and(|value| value.len() <= SHORT_VALUE)
        && record.key.is_none_or(|key| key.len() < 64)
        && record.headers.is_empty()
        && record.timestamp.is_none()
}

impl Encoder {
    /// With an empty batch. Whether records are summed as they come (`batch/sum.rs`): of no use where they will be compressed.
    pub(crate) fn summing(sums: bool) -> Self {
        Encoder {
            current: None,
            full: Vec::new(),
            full_len: 0,
            count: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            completion: None,
            given: Vec::new(),
            next: Next::default(),
            short_end: 0,
            sum: Sum::default(),
            summed: 0,
            sum_step: if sums { sum::STEP } else { usize::MAX },
        }
    }

    /// What comes from now on is not summed.
    pub(crate) fn sum_no_more(&mut self) {
        self.sum_step = usize::MAX;
    }

    fn sums(&self) -> bool {
        self.sum_step != usize::MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size on the wire if it were sealed now, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        HEADER_LEN + self.full_len + self.chunk_written()
    }

    /// Exactly how many bytes the record would add.
    #[inline]
    pub(crate) fn size_of_next(&self, measured: Measured, timestamp: i64) -> usize {
        let body = measured.body(self.timestamp_delta(timestamp), self.count);
        varint::len(body as i64) + body
    }

    #[inline]
    fn timestamp_delta(&self, timestamp: i64) -> i64 {
        if self.count == 0 { 0 } else { timestamp.wrapping_sub(self.base_timestamp) }
    }

    /// How large a chunk must be handed over before a record of `size` bytes fits; `None` if it fits as it is.
    ///
    /// Chunks double from [`MIN_CHUNK`] to [`MAX_CHUNK`], so that an idle partition costs little and a busy one has
    /// few pieces; a larger record gets a chunk of its own size. A record never lies across two chunks: that wastes
    /// at most one record's size a chunk and spares the append a second path.
    #[inline]
    pub(crate) fn chunk_needed(&self, size: usize) -> Option<usize> {
        match &self.current {
            Some(chunk) if size <= chunk.remaining() => None,
            Some(chunk) => Some((chunk.capacity() * 2).clamp(MIN_CHUNK, MAX_CHUNK).max(size)),
            None => Some(size.max(MIN_CHUNK)),
        }
    }

    pub(crate) fn add_chunk(&mut self, chunk: Chunk) {
        if self.sums() {
            self.sum_up();
        }
        self.summed = 0;
        self.full_len += self.chunk_written();
        self.full.extend(self.current.replace(chunk));
        self.short_end = 0;
    }

    /// Sums what was written since.
    #[inline(never)]
    fn sum_up(&mut self) {
        if let Some(chunk) = &self.current {
            let written = chunk.written();
            self.sum.append(written.get(self.summed..).unwrap_or_default());
            self.summed = written.len();
        }
    }

    fn sum_up_when_due(&mut self) {
        if self.chunk_written() - self.summed >= self.sum_step {
            self.sum_up();
        }
    }

    fn chunk_written(&self) -> usize {
        self.current.as_ref().map_or(0, |chunk| chunk.written().len())
    }

    fn chunk_remaining(&self) -> usize {
        self.current.as_ref().map_or(0, Chunk::remaining)
    }

    /// Size of the smallest record that could come next: no key, no value, no header. At most [`SMALLEST_MAX`].
    pub(crate) fn smallest_next(&self) -> usize {
        // Length, attributes, timestamp delta, key length, value length, header count: one byte each.
        6 + varint::len(i64::from(self.count))
    }

    /// What the receipt of the event appended last waits for: the batch's completion (made when the first receipt is
    /// asked for) and the event's index in it.
    #[inline]
    pub(crate) fn receipt(&mut self) -> (Arc<Completion>, u32) {
        let completion = self.completion.get_or_insert_with(new_completion).clone();
        (completion, self.count.saturating_sub(1))
    }

    /// Lets [`Encoder::append_short`] and [`Encoder::append_within`] append at most this many bytes, from now on and in all: as far as nobody need be
    /// asked. What lies beyond the current chunk counts for nothing.
    pub(crate) fn set_room(&mut self, bytes: usize) {
        let written = self.chunk_written();
        self.short_end = written + bytes.min(self.chunk_remaining());
    }

    /// Appends the record if it is an ordinary one for which there is room ([`Encoder::set_room`]); otherwise changes
    /// nothing and says so.
    ///
    /// This is the hot path; it writes the same bytes as [`Encoder::append`]. An ordinary record has no headers and
    /// no time of its own, a key shorter than 64 bytes or none, and a value of up to 8 000. Whatever stands before its key is put together
    /// in a register and stored in one write of eight bytes, which may reach into what is filled afterwards.
    #[inline(always)]
    pub(crate) fn append_short(&mut self, record: &Record<'_>, timestamp: i64) -> bool {
        if !is_short(record) {
            return false;
        }
        let Some(value) = record.value else { return false };
        // A null key has length -1, which is 1 in the varint.
        let (key, key_bits) =
            record.key.map_or((&[][..], varint::MINUS_ONE), |key| (key, (key.len() as u64) << 1));
        if (timestamp != self.next.timestamp || self.count >= self.next.until) && !self.foretell(timestamp) {
            return false;
        }
        let (value_bits, value_width) = varint::short((value.len() as u64) << 1);
        // The key's length before it, the number of headers behind the value.
        let body = usize::from(self.next.width) + 1 + key.len() + value_width + value.len() + 1;
        let (len_bits, len_width) = varint::short((body as u64) << 1);
        let size = len_width + body;
        // The first write takes eight bytes; a record has at least seven.
        if size < 8 {
            return false;
        }
        let Some(out) = self.current.as_mut().and_then(|chunk| chunk.claim_before(size, self.short_end))
        else {
            return false;
        };
        let head = len_bits | (self.next.bits | key_bits << self.next.key_shift) << (8 * len_width);
        let key_at = len_width + usize::from(self.next.width) + 1;
        self.next.bits += self.next.step;
        self.count += 1;
        if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
        }
        out[..8].copy_from_slice(&head.to_le_bytes());
        let key_end = key_at + key.len();
        copy_short(&mut out[key_at..key_end], key);
        out[key_end..key_end + 2].copy_from_slice(&(value_bits as u16).to_le_bytes());
        let value_at = key_end + value_width;
        let value_end = value_at + value.len();
        out[value_end] = 0;
        // Last, so that little need be kept over the call.
        out[value_at..value_end].copy_from_slice(value);
        prefetch::for_writing(out.as_ptr_range().end);
        self.sum_up_when_due();
        true
    }

    /// As [`Encoder::append_short`], for any record: with headers, a long key, a long value.
    #[inline(never)]
    pub(crate) fn append_within(&mut self, record: &Record<'_>, timestamp: i64) -> bool {
        let Ok(measured) = Measured::of(record) else { return false };
        let size = self.size_of_next(measured, timestamp);
        // The first record of a batch finds no room.
        let fits = self.chunk_written() + size <= self.short_end;
        if fits {
            self.append(record, timestamp, measured, size);
        }
        fits
    }

    /// Puts together what stands between the length and the key of the next record, if that is possible.
    #[inline(never)]
    fn foretell(&mut self, timestamp: i64) -> bool {
        let time = varint::zigzag(timestamp.wrapping_sub(self.base_timestamp));
        let offset = u64::from(self.count) << 1;
        if self.count == 0 || time >= varint::SHORT || offset >= varint::MEDIUM {
            return false;
        }
        let (time_bits, time_width) = varint::short(time);
        let (offset_bits, offset_width) = varint::medium(offset);
        let width = 1 + time_width + offset_width;
        // With two bytes of length before it and one of the key's behind, it must fit a word.
        if width > 5 {
            return false;
        }
        let offset_at = 8 * (1 + time_width);
        self.next = Next {
            timestamp,
            // Attributes, the lowest byte, are 0.
            bits: time_bits << 8 | offset_bits << offset_at,
            step: 2 << offset_at,
            width: width as u8,
            key_shift: 8 * width as u8,
            // From there on the offset's first byte carries into its second.
            until: (self.count | 63) + 1,
        };
        true
    }

    /// Appends a record of exactly `size` bytes (from [`Encoder::size_of_next`]) for which there is room
    /// ([`Encoder::chunk_needed`] said `None`, or its chunk was added).
    #[inline]
    pub(crate) fn append(&mut self, record: &Record<'_>, timestamp: i64, measured: Measured, size: usize) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        } else if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
        }
        let delta = self.timestamp_delta(timestamp);
        let mut prefix = [0u8; PREFIX];
        let mut at = varint::put(&mut prefix, 0, measured.body(delta, self.count) as i64);
        at += 1; // attributes: none are defined
        at = varint::put(&mut prefix, at, delta);
        at = varint::put(&mut prefix, at, i64::from(self.count));
        at = varint::put(&mut prefix, at, nullable(record.key));
        if record.timestamp.is_some() {
            mark_given(&mut self.given, self.count);
        }
        self.count += 1;
        // Stays right for the time that it was made for.
        self.next.bits = self.next.bits.wrapping_add(self.next.step);
        let Some(chunk) = &mut self.current else { return };
        let out = chunk.claim(size);
        let mut end = copy(out, 0, &prefix[..at]);
        end = copy(out, end, record.key.unwrap_or_default());
        end = varint::put(out, end, nullable(record.value));
        end = copy(out, end, record.value.unwrap_or_default());
        if record.headers.is_empty() {
            out[end] = 0;
        } else {
            put_headers(record, out, end);
        }
        self.sum_up_when_due();
    }

    /// Seals the batch and leaves this encoder empty. `None` if there is nothing in it.
    pub(crate) fn seal(&mut self) -> Option<RecordBatch> {
        if self.count == 0 {
            return None;
        }
        let empty = Encoder::summing(self.sums());
        let mut done = std::mem::replace(self, empty);
        done.full.extend(done.current);
        Some(RecordBatch {
            fixed: Fixed {
                attributes: 0,
                compression: Compression::NONE,
                base_timestamp: done.base_timestamp,
                max_timestamp: done.max_timestamp,
                count: done.count,
            },
            body: Arc::new(Body { sum: done.sum, ..Body::new(done.full, done.given) }),
            stamp: Stamp::NONE,
            crc: OnceLock::new(),
            spans: Spans::whole(done.completion, done.count),
        })
    }
}

/// Notes that the time of event `index`, appended now, is the user's: a broker that refuses it refuses the event, while
/// a time of ours that is refused holds the partition (DESIGN.md, Delivery).
#[cold]
#[inline(never)]
pub(super) fn mark_given(given: &mut Vec<Range<u32>>, index: u32) {
    match given.last_mut() {
        Some(range) if range.end == index => range.end += 1,
        _ => given.push(index..index + 1),
    }
}

#[cold]
#[inline(never)]
fn new_completion() -> Arc<Completion> {
    Arc::new(Completion::new())
}

#[inline]
fn copy(out: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let end = at + bytes.len();
    out[at..end].copy_from_slice(bytes);
    end
}

/// As `copy_from_slice`, for slices that are mostly short: keys. Two overlapping words instead of a call.
#[inline(always)]
fn copy_short(to: &mut [u8], from: &[u8]) {
    if from.len() <= 16
        && let (Some(first), Some(last)) = (from.first_chunk::<8>(), from.last_chunk::<8>())
    {
        if let Some(to) = to.first_chunk_mut() {
            *to = *first;
        }
        if let Some(to) = to.last_chunk_mut() {
            *to = *last;
        }
    } else {
        to.copy_from_slice(from);
    }
}

fn put_headers(record: &Record<'_>, out: &mut [u8], at: usize) {
    let mut end = varint::put(out, at, record.headers.len() as i64);
    for header in record.headers {
        end = varint::put(out, end, header.name.len() as i64);
        end = copy(out, end, header.name.as_bytes());
        end = varint::put(out, end, nullable(header.value));
        end = copy(out, end, header.value.unwrap_or_default());
    }
}

/// Consecutive stretches of these records, each a plain batch of at most `limit` bytes, header included; one of a single record
/// may take more.
pub(super) fn stretches(records: &[OwnedRecord], limit: usize) -> Vec<Range<u32>> {
    let (mut done, mut open, mut base, mut size) = (Vec::new(), 0..0, 0, HEADER_LEN);
    for record in records {
        // Records that were decoded from a batch fit one.
        let measured = record.view(Measured::of).unwrap_or(Measured { payload: 0 });
        let adds = |base: i64, offset: u32| {
            let body = measured.body(record.timestamp.wrapping_sub(base), offset);
            varint::len(body as i64) + body
        };
        let mut next = adds(base, open.end - open.start);
        if open.is_empty() || size + next > limit {
            let end = open.end;
            done.extend(Some(std::mem::replace(&mut open, end..end)).filter(|full| !full.is_empty()));
            (base, size, next) = (record.timestamp, HEADER_LEN, adds(record.timestamp, 0));
        }
        size += next;
        open.end += 1;
    }
    done.extend(Some(open).filter(|last| !last.is_empty()));
    done
}

/// One batch of all these records, in one chunk. Whose times the user gave is not said in `records`:
/// the caller knows.
pub(super) fn encode_all(records: &[OwnedRecord], chunk: &mut dyn FnMut(usize) -> Chunk) -> RecordBatch {
    let mut encoder = Encoder::default();
    let mut size = 0;
    for record in records {
        // A bound is enough here: the prefix of any record.
        size += PREFIX + record.view(|r| Measured::of(r).map_or(0, |m| m.payload));
    }
    encoder.add_chunk(chunk(size));
    for record in records {
        record.view(|r| {
            // Records that were decoded from a batch fit one.
            if let Ok(measured) = Measured::of(r) {
                let size = encoder.size_of_next(measured, record.timestamp);
                encoder.append(r, record.timestamp, measured, size);
            }
        });
    }
    encoder.given = Vec::new();
    encoder.seal().unwrap_or_else(|| RecordBatch {
        body: Arc::new(Body::new(Vec::new(), Vec::new())),
        fixed: Fixed {
            attributes: 0,
            compression: Compression::NONE,
            base_timestamp: 0,
            max_timestamp: 0,
            count: 0,
        },
        stamp: Stamp::NONE,
        crc: OnceLock::new(),
        spans: Spans::default(),
    })
}
