//! Reading record batches (magic 2), with code of this crate's own.
//!
//! It trusts no length, allocates nothing while it walks, and shares no line with any encoder that it is used to test. Layout:
//!
//! ```text
//!  0 base offset i64      16 magic i8            27 base timestamp i64   51 producer epoch i16
//!  8 batch length i32     17 crc u32 (of 21..)   35 max timestamp i64    53 base sequence i32
//! 12 leader epoch i32     21 attributes i16      43 producer id i64      57 record count i32
//!                         23 last offset delta i32                       61 records
//! ```
//!
//! (KIP-98; `DefaultRecordBatch` and `DefaultRecord` in Kafka's sources.)

use bytes::Bytes;

/// Bytes of a batch before its records.
pub(crate) const HEADER_LEN: usize = 61;
/// Base offset and batch length, which the batch length itself does not count.
pub(crate) const LOG_OVERHEAD: usize = 12;

/// How the records of a batch are compressed (attributes, bits 0 to 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// As they are.
    None,
    /// gzip.
    Gzip,
    /// Snappy, in xerial framing.
    Snappy,
    /// LZ4, frame format.
    Lz4,
    /// Zstandard.
    Zstd,
    /// A codec number that Kafka does not know.
    Unknown(u8),
}

/// The header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes of the whole batch, the 12 before the length's end included.
    pub size: usize,
    /// Leader epoch that wrote it.
    pub leader_epoch: i32,
    /// Format; 2.
    pub magic: i8,
    /// CRC-32C as it stands in the header.
    pub crc: u32,
    /// Attribute bits.
    pub attributes: i16,
    /// Offset of the last record less that of the first.
    pub last_offset_delta: i32,
    /// Milliseconds since 1970.
    pub base_timestamp: i64,
    /// Milliseconds since 1970.
    pub max_timestamp: i64,
    /// -1: none.
    pub producer_id: i64,
    /// -1: none.
    pub producer_epoch: i16,
    /// -1: none.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl BatchHeader {
    /// Reads the header at the beginning of `bytes`; `None` if they are fewer than a header, or if the length in it is negative.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let length = i32::from_be_bytes(be(bytes, 8)?);
        Some(Self {
            base_offset: i64::from_be_bytes(be(bytes, 0)?),
            size: usize::try_from(length).ok()?.checked_add(LOG_OVERHEAD)?,
            leader_epoch: i32::from_be_bytes(be(bytes, 12)?),
            magic: i8::from_be_bytes(be(bytes, 16)?),
            crc: u32::from_be_bytes(be(bytes, 17)?),
            attributes: i16::from_be_bytes(be(bytes, 21)?),
            last_offset_delta: i32::from_be_bytes(be(bytes, 23)?),
            base_timestamp: i64::from_be_bytes(be(bytes, 27)?),
            max_timestamp: i64::from_be_bytes(be(bytes, 35)?),
            producer_id: i64::from_be_bytes(be(bytes, 43)?),
            producer_epoch: i16::from_be_bytes(be(bytes, 51)?),
            base_sequence: i32::from_be_bytes(be(bytes, 53)?),
            record_count: i32::from_be_bytes(be(bytes, 57)?),
        })
    }

    /// The codec of the records.
    #[must_use]
    pub fn compression(&self) -> Compression {
        match self.attributes & 0x07 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            other => Compression::Unknown(other as u8),
        }
    }

    /// Whether the times in it were given by the broker (attribute bit 3).
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    /// Attribute bit 4.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Attribute bit 5.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// The sequence of the last record: sequences wrap from 2^31 - 1 to 0.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.last_offset_delta)
    }

    /// The offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }
}

/// `sequence + n` as Kafka counts: modulo 2^31; -1 stays -1 (no sequence at all).
pub(crate) fn add_sequence(sequence: i32, n: i32) -> i32 {
    if sequence < 0 {
        return sequence;
    }
    ((i64::from(sequence) + i64::from(n)) & i64::from(i32::MAX)) as i32
}

/// One record, borrowed from its batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordView<'a> {
    pub(crate) offset_delta: i32,
    pub(crate) timestamp_delta: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) header_count: usize,
    headers: &'a [u8],
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name: bytes, since a client may write others than UTF-8.
    pub key: Bytes,
    /// `None` is Kafka's null, which is not the empty value.
    pub value: Option<Bytes>,
}

/// One record as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, by the client or, with `LogAppendTime`, by the broker.
    pub timestamp: i64,
    /// `None` is Kafka's null, which is not the empty key.
    pub key: Option<Bytes>,
    /// `None` is Kafka's null, a tombstone.
    pub value: Option<Bytes>,
    /// In their order, duplicates kept.
    pub headers: Vec<Header>,
    /// `(producer id, epoch, sequence)` of an idempotent producer.
    pub producer: Option<(i64, i16, i32)>,
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], String> {
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            return Err(format!("{what} of {n} bytes, but only {} are left", self.rest.len()));
        };
        self.rest = rest;
        Ok(head)
    }

    fn varlong(&mut self, what: &str) -> Result<i64, String> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let [byte] = *self.take(1, what)? else { return Err(format!("{what}: no byte")) };
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(format!("{what}: a varint of more than 10 bytes"))
    }

    fn varint(&mut self, what: &str) -> Result<i32, String> {
        let value = self.varlong(what)?;
        i32::try_from(value).map_err(|_| format!("{what}: {value} does not fit 32 bits"))
    }

    /// A length and so many bytes; a negative length is null.
    fn nullable(&mut self, what: &str) -> Result<Option<&'a [u8]>, String> {
        match usize::try_from(self.varint(what)?) {
            Ok(len) => self.take(len, what).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn record(&mut self) -> Result<RecordView<'a>, String> {
        let size = self.varint("record size")?;
        let size = usize::try_from(size).map_err(|_| format!("record size {size} is negative"))?;
        let mut body = Cursor { rest: self.take(size, "record")? };
        body.take(1, "record attributes")?;
        let timestamp_delta = body.varlong("timestamp delta")?;
        let offset_delta = body.varint("offset delta")?;
        let key = body.nullable("key")?;
        let value = body.nullable("value")?;
        let count = body.varint("header count")?;
        let header_count = usize::try_from(count).map_err(|_| format!("header count {count} is negative"))?;
        // Each header takes two bytes at least, so a count beyond that cannot be true, and walking is bounded by the bytes there are.
        let headers = body.rest;
        for _ in 0..header_count {
            if body.nullable("header key")?.is_none() {
                return Err("a header key is null".to_owned());
            }
            body.nullable("header value")?;
        }
        if !body.rest.is_empty() {
            return Err(format!("{} bytes are left over inside a record", body.rest.len()));
        }
        Ok(RecordView { offset_delta, timestamp_delta, key, value, header_count, headers })
    }
}

impl RecordView<'_> {
    fn owned_headers(&self, slice: &impl Fn(&[u8]) -> Bytes) -> Vec<Header> {
        let mut cursor = Cursor { rest: self.headers };
        (0..self.header_count)
            .filter_map(|_| {
                let key = cursor.nullable("header key").ok()??;
                let value = cursor.nullable("header value").ok()?;
                Some(Header { key: slice(key), value: value.map(slice) })
            })
            .collect()
    }
}

/// Walks `count` records of an uncompressed body and calls `each` with every one.
///
/// # Errors
/// What is wrong, when the bytes are not exactly `count` records.
pub(crate) fn walk<'a>(
    body: &'a [u8],
    count: i32,
    mut each: impl FnMut(RecordView<'a>),
) -> Result<(), String> {
    let mut cursor = Cursor { rest: body };
    for index in 0..count {
        let record = cursor.record().map_err(|why| format!("record {index} of {count}: {why}"))?;
        each(record);
    }
    if cursor.rest.is_empty() {
        Ok(())
    } else {
        Err(format!("{} bytes follow the last record", cursor.rest.len()))
    }
}

/// The records of a whole batch with the offsets and times that a consumer sees; `body` is the batch's records, uncompressed.
pub(crate) fn decode(header: &BatchHeader, body: &Bytes) -> Result<Vec<Record>, String> {
    let slice = |part: &[u8]| body.slice_ref(part);
    let mut records = Vec::new();
    walk(body, header.record_count, |view| {
        records.push(Record {
            offset: header.base_offset.saturating_add(i64::from(view.offset_delta)),
            timestamp: if header.is_log_append_time() {
                header.max_timestamp
            } else {
                header.base_timestamp.saturating_add(view.timestamp_delta)
            },
            key: view.key.map(slice),
            value: view.value.map(slice),
            headers: view.owned_headers(&slice),
            producer: (header.producer_id >= 0).then(|| {
                let sequence = add_sequence(header.base_sequence, view.offset_delta);
                (header.producer_id, header.producer_epoch, sequence)
            }),
        });
    })?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_wraps_to_zero_after_the_largest_i32() {
        assert_eq!(add_sequence(i32::MAX, 1), 0);
        assert_eq!(add_sequence(i32::MAX - 1, 3), 1);
        assert_eq!(add_sequence(5, 0), 5);
        assert_eq!(add_sequence(-1, 7), -1);
    }

    #[test]
    fn a_record_that_claims_more_bytes_than_there_are_is_refused_and_not_read() {
        for body in [&[0xfe_u8, 0xff, 0xff, 0xff, 0x0f][..], &[0x02], &[0x03], &[0xff; 12], &[]] {
            assert!(walk(body, 1, |_| ()).is_err(), "{body:?}");
        }
    }

    #[test]
    fn bytes_after_the_last_record_are_refused() {
        // size 6: attributes, time delta, offset delta, null key, empty value, no headers
        let body = [12, 0, 0, 0, 1, 0, 0];
        assert!(walk(&body, 1, |view| assert_eq!((view.key, view.value), (None, Some(&[][..])))).is_ok());
        assert!(walk(&[&body[..], &[0]].concat(), 1, |_| ()).is_err());
    }
}
