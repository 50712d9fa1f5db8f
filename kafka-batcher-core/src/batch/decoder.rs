//! Reads record batches and trusts nothing in them: no length is used before it is checked against what is there, and
//! no allocation is larger than the input justifies, or, of a compressed batch, than any batch may be.

use super::compression::{Codec, Compression, MAX_UNCOMPRESSED, decompress};
use super::sum;
use super::{Body, CRC_START, Fixed, HEADER_LEN, LOG_OVERHEAD, RecordBatch, Stamp};
use crate::buffer_pool::Chunk;
use crate::completion::Spans;
use crate::error::DecodeError;
use crate::record::{Header, Record};
use crate::varint;

/// The smallest record on the wire: length, attributes, timestamp delta, offset delta, key length, value length,
/// header count; a byte each.
const MIN_RECORD: usize = 7;

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key; `None` is null.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is null.
    pub value: Option<Vec<u8>>,
    /// Headers in order, duplicates kept.
    pub headers: Vec<OwnedHeader>,
}

/// A header that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedHeader {
    /// The name.
    pub name: String,
    /// The value; `None` is null.
    pub value: Option<Vec<u8>>,
}

impl OwnedRecord {
    /// Calls `with` with the borrowed view of this record.
    pub fn view<T>(&self, with: impl FnOnce(&Record<'_>) -> T) -> T {
        let headers: Vec<Header<'_>> =
            self.headers.iter().map(|h| Header { name: &h.name, value: h.value.as_deref() }).collect();
        with(&Record {
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
            timestamp: Some(self.timestamp),
            partition: None,
        })
    }
}

/// Fixed-width fields of the header, whose length the caller has checked.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(slice) = bytes.get(at..at + N) {
        out.copy_from_slice(slice);
    }
    out
}

pub(super) fn decode(
    bytes: &[u8],
    memory: &mut dyn FnMut(usize) -> Chunk,
) -> Result<(RecordBatch, usize), DecodeError> {
    if bytes.len() < HEADER_LEN {
        return Err(DecodeError::Truncated { have: bytes.len(), need: HEADER_LEN });
    }
    let length = i32::from_be_bytes(field(bytes, 8));
    let total = usize::try_from(length).ok().map(|l| l + LOG_OVERHEAD).filter(|total| *total >= HEADER_LEN);
    let total = total.ok_or(DecodeError::BadLength(length))?;
    let magic = i8::from_be_bytes(field(bytes, 16));
    if magic != 2 {
        return Err(DecodeError::BadMagic(magic));
    }
    let whole = bytes.get(..total).ok_or(DecodeError::Truncated { have: bytes.len(), need: total })?;
    let found = u32::from_be_bytes(field(whole, 17));
    let computed = sum::crc32c(whole.get(CRC_START..).unwrap_or_default());
    if found != computed {
        return Err(DecodeError::BadCrc { found, computed });
    }
    let attributes = i16::from_be_bytes(field(whole, 21));
    let codec = Codec::of_attributes(attributes).ok_or(DecodeError::Codec(attributes & 7))?;
    let last_offset_delta = i32::from_be_bytes(field(whole, 23));
    let count_said = i32::from_be_bytes(field(whole, 57));
    let body = whole.get(HEADER_LEN..).unwrap_or_default();
    let plausible = |most: usize| {
        let count = u32::try_from(count_said).ok().filter(|&n| {
            n > 0 && i64::from(n) - 1 == i64::from(last_offset_delta) && n as usize <= most / MIN_RECORD
        });
        count.ok_or(DecodeError::BadCount { count: count_said, last_offset_delta })
    };
    let base_timestamp = i64::from_be_bytes(field(whole, 27));
    let count = if codec == Codec::None {
        let count = plausible(body.len())?;
        check_records(body, count, base_timestamp, |_| {})?;
        count
    } else {
        plausible(MAX_UNCOMPRESSED)?;
        let plain = decompress(codec, body, MAX_UNCOMPRESSED)?;
        let count = plausible(plain.len())?;
        check_records(&plain, count, base_timestamp, |_| {})?;
        count
    };
    let mut chunks = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let mut chunk = memory(rest.len());
        let fits = rest.len().min(chunk.capacity()).max(1);
        let (here, later) = rest.split_at(fits);
        chunk.claim(fits).copy_from_slice(here);
        chunks.push(chunk);
        rest = later;
    }
    let batch = RecordBatch {
        body: std::sync::Arc::new(Body::new(chunks, Vec::new())),
        fixed: Fixed {
            attributes,
            compression: Compression::of(codec),
            base_timestamp,
            max_timestamp: i64::from_be_bytes(field(whole, 35)),
            count,
        },
        stamp: Stamp {
            producer_id: i64::from_be_bytes(field(whole, 43)),
            epoch: i16::from_be_bytes(field(whole, 51)),
            first_sequence: i32::from_be_bytes(field(whole, 53)),
        },
        crc: std::sync::OnceLock::new(),
        spans: Spans::default(),
    };
    Ok((batch, total))
}

pub(super) fn records(body: &[u8], count: u32, base_timestamp: i64) -> Result<Vec<OwnedRecord>, DecodeError> {
    let mut out = Vec::with_capacity((count as usize).min(body.len() / MIN_RECORD));
    check_records(body, count, base_timestamp, |record| out.push(record.to_owned()))?;
    Ok(out)
}

/// A record whose bytes lie in the batch: checking a batch allocates nothing for its records.
struct Parsed<'a> {
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    /// Checked; read again where somebody wants them.
    headers: &'a [u8],
    header_count: usize,
}

impl Parsed<'_> {
    fn to_owned(&self) -> OwnedRecord {
        let mut headers = Vec::with_capacity(self.header_count);
        let mut rest = self.headers;
        while let Ok((name, value, after)) = header(rest) {
            headers.push(OwnedHeader { name: name.to_owned(), value: value.map(<[u8]>::to_vec) });
            rest = after;
        }
        OwnedRecord {
            timestamp: self.timestamp,
            key: self.key.map(<[u8]>::to_vec),
            value: self.value.map(<[u8]>::to_vec),
            headers,
        }
    }
}

/// Parses `count` records that must fill `body` exactly.
fn check_records(
    mut body: &[u8],
    count: u32,
    base_timestamp: i64,
    mut each: impl FnMut(Parsed<'_>),
) -> Result<(), DecodeError> {
    for index in 0..count {
        let bad = |what| DecodeError::BadRecord { index, what };
        let (length, rest) = varint::get(body).ok_or(bad("its length is cut off"))?;
        let length = usize::try_from(length).map_err(|_| bad("its length is negative"))?;
        let (record, rest) = rest.split_at_checked(length).ok_or(bad("it is longer than the batch"))?;
        each(parse(record, index, base_timestamp).map_err(bad)?);
        body = rest;
    }
    if body.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(body.len())) }
}

fn parse(record: &[u8], index: u32, base_timestamp: i64) -> Result<Parsed<'_>, &'static str> {
    let (_attributes, rest) = record.split_first().ok_or("it is empty")?;
    let (timestamp_delta, rest) = varint::get(rest).ok_or("its timestamp delta is cut off")?;
    let (offset_delta, rest) = varint::get(rest).ok_or("its offset delta is cut off")?;
    if offset_delta != i64::from(index) {
        return Err("its offset delta is not its position");
    }
    let (key, rest) = nullable(rest).ok_or("its key is longer than the record")?;
    let (value, rest) = nullable(rest).ok_or("its value is longer than the record")?;
    let (header_count, headers) = varint::get(rest).ok_or("its header count is cut off")?;
    let header_count = usize::try_from(header_count).map_err(|_| "its header count is negative")?;
    // A header takes two bytes at least.
    if header_count > headers.len() / 2 {
        return Err("it claims more headers than fit");
    }
    let mut rest = headers;
    for _ in 0..header_count {
        (_, _, rest) = header(rest)?;
    }
    if !rest.is_empty() {
        return Err("bytes follow its headers");
    }
    let timestamp = base_timestamp.wrapping_add(timestamp_delta);
    Ok(Parsed { timestamp, key, value, headers, header_count })
}

/// A header's name and value, and the bytes behind it.
type HeaderAndRest<'a> = (&'a str, Option<&'a [u8]>, &'a [u8]);

fn header(bytes: &[u8]) -> Result<HeaderAndRest<'_>, &'static str> {
    let (name, after) = nullable(bytes).ok_or("a header name is longer than the record")?;
    let name = std::str::from_utf8(name.ok_or("a header name is null")?)
        .map_err(|_| "a header name is not UTF-8")?;
    let (value, after) = nullable(after).ok_or("a header value is longer than the record")?;
    Ok((name, value, after))
}

/// A varint length (-1: null) and that many bytes.
fn nullable(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = varint::get(bytes)?;
    if length == -1 {
        return Some((None, rest));
    }
    let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((Some(value), rest))
}
