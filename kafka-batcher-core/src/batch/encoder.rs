//! Builds a batch in place: the exact size of a record is known before a byte of it is written, its bytes are copied
//! once into the partition's current chunk, and the header is made when the batch is sealed.

use std::sync::Arc;

use super::{Body, Fixed, HEADER_LEN, OwnedRecord, RecordBatch, Stamp};
use crate::buffer_pool::{Chunk, MAX_CHUNK, MIN_CHUNK};
use crate::completion::{Completion, Spans};
use crate::error::RecordError;
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
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// The chunk being filled: inline, so that an append follows one pointer less.
    current: Option<Chunk>,
    full: Vec<Chunk>,
    len: usize,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    completion: Option<Arc<Completion>>,
}

impl Encoder {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size on the wire if it were sealed now, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        HEADER_LEN + self.len
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
        self.full.extend(self.current.replace(chunk));
    }

    /// Bytes left in the current chunk.
    pub(crate) fn chunk_remaining(&self) -> usize {
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

    /// Appends the record if it is an ordinary one and at most `room` bytes long, and returns its size; otherwise
    /// changes nothing. `room` must lie within the current chunk.
    ///
    /// This is the hot path, and the same bytes as [`Encoder::append`] writes. An ordinary record has no headers and
    /// only lengths and deltas whose varints take one or two bytes (the offset: three); those are put together in
    /// registers and stored with three fixed-size writes, each of which may reach into bytes that the next one fills.
    #[inline]
    pub(crate) fn append_short(&mut self, record: &Record<'_>, timestamp: i64, room: usize) -> Option<usize> {
        let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
        let key_zigzag = if record.key.is_some() { (key.len() as u64) << 1 } else { varint::MINUS_ONE };
        let value_zigzag = if record.value.is_some() { (value.len() as u64) << 1 } else { varint::MINUS_ONE };
        let time_zigzag = varint::zigzag(timestamp.wrapping_sub(self.base_timestamp));
        let offset_zigzag = u64::from(self.count) << 1;
        if (key_zigzag | value_zigzag | time_zigzag) >= varint::SHORT
            || offset_zigzag >= varint::MEDIUM
            || !record.headers.is_empty()
        {
            return None;
        }
        let (time_bits, time_len) = varint::short(time_zigzag);
        let (offset_bits, offset_len) = varint::medium(offset_zigzag);
        let (key_bits, key_len) = varint::short(key_zigzag);
        let (value_bits, value_len) = varint::short(value_zigzag);
        // Attributes before, the header count behind.
        let body = 2 + time_len + offset_len + key_len + key.len() + value_len + value.len();
        let (len_bits, len_len) = varint::short((body as u64) << 1);
        let size = len_len + body;
        // The first write takes eight bytes; a record has at least seven.
        if size > room || size < 8 || (body as u64) << 1 >= varint::SHORT {
            return None;
        }
        let out = self.current.as_mut()?.claim(size);
        let time_at = len_len + 1;
        let offset_at = time_at + time_len;
        let key_len_at = offset_at + offset_len;
        let key_at = key_len_at + key_len;
        // 2 + 1 + 2 + 3 bytes at most: one word.
        let head = len_bits | time_bits << (8 * time_at) | offset_bits << (8 * offset_at);
        out[..8].copy_from_slice(&head.to_le_bytes());
        out[key_len_at..key_len_at + 2].copy_from_slice(&(key_bits as u16).to_le_bytes());
        let value_len_at = copy(out, key_at, key);
        out[value_len_at..value_len_at + 2].copy_from_slice(&(value_bits as u16).to_le_bytes());
        let headers_at = copy(out, value_len_at + value_len, value);
        out[headers_at] = 0;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
        self.len += size;
        Some(size)
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
        self.count += 1;
        self.len += size;
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
    }

    /// Seals the batch and leaves this encoder empty. `None` if there is nothing in it.
    pub(crate) fn seal(&mut self) -> Option<RecordBatch> {
        if self.count == 0 {
            return None;
        }
        let mut done = std::mem::take(self);
        done.full.extend(done.current);
        Some(RecordBatch {
            fixed: Fixed {
                attributes: 0,
                base_timestamp: done.base_timestamp,
                max_timestamp: done.max_timestamp,
                count: done.count,
            },
            body: Arc::new(Body::new(done.full)),
            stamp: Stamp::NONE,
            spans: Spans::whole(done.completion, done.count),
        })
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

fn put_headers(record: &Record<'_>, out: &mut [u8], at: usize) {
    let mut end = varint::put(out, at, record.headers.len() as i64);
    for header in record.headers {
        end = varint::put(out, end, header.name.len() as i64);
        end = copy(out, end, header.name.as_bytes());
        end = varint::put(out, end, nullable(header.value));
        end = copy(out, end, header.value.unwrap_or_default());
    }
}

/// One batch of all these records, in one chunk.
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
    encoder.seal().unwrap_or_else(|| RecordBatch {
        body: Arc::new(Body::new(Vec::new())),
        fixed: Fixed { attributes: 0, base_timestamp: 0, max_timestamp: 0, count: 0 },
        stamp: Stamp::NONE,
        spans: Spans::default(),
    })
}
