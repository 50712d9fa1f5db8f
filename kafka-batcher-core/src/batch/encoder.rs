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
    let (part, size) = part.map_or(("payload", payload), |(part, bytes)| (part, bytes.map_or(0, <[u8]>::len)));
    RecordError::Unencodable { part, size }
}

#[inline(never)]
fn headers_len(record: &Record<'_>) -> Result<usize, RecordError> {
    if record.headers.len() > i32::MAX as usize {
        return Err(RecordError::Unencodable { part: "headers", size: record.headers.len() });
    }
    let one = |h: &crate::Header<'_>| {
        varint::len(h.name.len() as i64) + h.name.len() + varint::len(nullable(h.value)) + h.value.map_or(0, <[u8]>::len)
    };
    Ok(record.headers.iter().map(one).sum())
}

/// The open batch of one partition.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    chunks: Vec<Chunk>,
    len: usize,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    completion: Option<Arc<Completion>>,
}

impl Encoder {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

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
        match self.chunks.last() {
            Some(chunk) if size <= chunk.remaining() => None,
            Some(chunk) => Some((chunk.capacity() * 2).clamp(MIN_CHUNK, MAX_CHUNK).max(size)),
            None => Some(size.max(MIN_CHUNK)),
        }
    }

    pub(crate) fn add_chunk(&mut self, chunk: Chunk) {
        self.chunks.push(chunk);
    }

    /// The completion that receipts of this batch wait for; made when the first receipt is asked for.
    pub(crate) fn completion(&mut self) -> Arc<Completion> {
        self.completion.get_or_insert_with(|| Arc::new(Completion::new())).clone()
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
        let Some(chunk) = self.chunks.last_mut() else { return };
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
        let done = std::mem::take(self);
        Some(RecordBatch {
            fixed: Fixed {
                attributes: 0,
                base_timestamp: done.base_timestamp,
                max_timestamp: done.max_timestamp,
                count: done.count,
            },
            body: Arc::new(Body::new(done.chunks)),
            stamp: Stamp::NONE,
            spans: Spans::whole(done.completion, done.count),
        })
    }
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
