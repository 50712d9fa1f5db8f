//! Record batches written and read by hand, so that anything can be wrong in them.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a time before the year 292 million")
}

/// One record to be written.
#[derive(Clone, Default)]
pub(crate) struct Rec {
    pub(crate) time_delta: i64,
    /// `None`: its place in the batch.
    pub(crate) offset_delta: Option<i32>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A record with this value.
pub(crate) fn rec(value: impl Into<Vec<u8>>) -> Rec {
    Rec { value: Some(value.into()), ..Rec::default() }
}

/// A batch to be written; everything that a test does not set is right.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) base_offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) magic: i8,
    pub(crate) attributes: i16,
    pub(crate) base_time: i64,
    pub(crate) max_time: Option<i64>,
    pub(crate) producer: (i64, i16),
    pub(crate) sequence: i32,
    pub(crate) count: Option<i32>,
    pub(crate) last_offset_delta: Option<i32>,
    pub(crate) crc_change: u32,
    pub(crate) records: Vec<Rec>,
}

impl Batch {
    /// Records without a producer id, of now.
    pub(crate) fn of(values: impl IntoIterator<Item = Rec>) -> Self {
        Self {
            base_offset: 0,
            leader_epoch: -1,
            magic: 2,
            attributes: 0,
            base_time: now(),
            max_time: None,
            producer: (-1, -1),
            sequence: -1,
            count: None,
            last_offset_delta: None,
            crc_change: 0,
            records: values.into_iter().collect(),
        }
    }

    /// `count` records of an idempotent producer from `sequence` on; `word` makes their content.
    pub(crate) fn from(producer: (i64, i16), sequence: i32, count: usize, word: &str) -> Self {
        let values = (0..count).map(|n| rec(format!("{word} {n}")));
        Self { producer, sequence, ..Self::of(values) }
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.with_body(&self.body())
    }

    /// The records as they are written.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (index, record) in self.records.iter().enumerate() {
            let mut one = vec![0];
            varint(&mut one, record.time_delta);
            varint(&mut one, i64::from(record.offset_delta.unwrap_or(index as i32)));
            nullable(&mut one, record.key.as_deref());
            nullable(&mut one, record.value.as_deref());
            varint(&mut one, record.headers.len() as i64);
            for (key, value) in &record.headers {
                nullable(&mut one, Some(key));
                nullable(&mut one, value.as_deref());
            }
            varint(&mut body, one.len() as i64);
            body.extend_from_slice(&one);
        }
        body
    }

    /// The batch with this for its records.
    pub(crate) fn with_body(&self, body: &[u8]) -> Bytes {
        let count = self.count.unwrap_or(self.records.len() as i32);
        let times = self.records.iter().map(|record| self.base_time + record.time_delta);
        let max_time = self.max_time.unwrap_or_else(|| times.max().unwrap_or(-1));
        let mut covered = Vec::new();
        covered.extend_from_slice(&self.attributes.to_be_bytes());
        covered.extend_from_slice(&self.last_offset_delta.unwrap_or(count - 1).to_be_bytes());
        covered.extend_from_slice(&self.base_time.to_be_bytes());
        covered.extend_from_slice(&max_time.to_be_bytes());
        covered.extend_from_slice(&self.producer.0.to_be_bytes());
        covered.extend_from_slice(&self.producer.1.to_be_bytes());
        covered.extend_from_slice(&self.sequence.to_be_bytes());
        covered.extend_from_slice(&count.to_be_bytes());
        covered.extend_from_slice(body);
        let mut batch = Vec::new();
        batch.extend_from_slice(&self.base_offset.to_be_bytes());
        batch.extend_from_slice(&(covered.len() as i32 + 9).to_be_bytes());
        batch.extend_from_slice(&self.leader_epoch.to_be_bytes());
        batch.push(self.magic as u8);
        batch.extend_from_slice(&(crc32c::crc32c(&covered) ^ self.crc_change).to_be_bytes());
        batch.extend_from_slice(&covered);
        batch.into()
    }
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint(out, -1),
        Some(bytes) => {
            varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// A batch as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadBatch {
    pub(crate) base_offset: i64,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) max_time: i64,
    pub(crate) producer: (i64, i16),
    pub(crate) sequence: i32,
    pub(crate) count: i32,
    /// Whether the CRC is that of the bytes.
    pub(crate) intact: bool,
    pub(crate) bytes: Bytes,
}

/// The whole batches in what a Fetch brought; what is cut at the end is left out.
pub(crate) fn split(records: &Bytes) -> Vec<ReadBatch> {
    let mut batches = Vec::new();
    let mut rest = records.clone();
    while rest.len() >= 61 {
        let at = |from: usize, to: usize| rest[from..to].to_vec();
        let i32_at = |from: usize| i32::from_be_bytes(at(from, from + 4).try_into().expect("4 bytes"));
        let i64_at = |from: usize| i64::from_be_bytes(at(from, from + 8).try_into().expect("8 bytes"));
        let i16_at = |from: usize| i16::from_be_bytes(at(from, from + 2).try_into().expect("2 bytes"));
        let size = i32_at(8) as usize + 12;
        if size > rest.len() {
            break;
        }
        batches.push(ReadBatch {
            base_offset: i64_at(0),
            attributes: i16_at(21),
            last_offset_delta: i32_at(23),
            max_time: i64_at(35),
            producer: (i64_at(43), i16_at(51)),
            sequence: i32_at(53),
            count: i32_at(57),
            intact: i32_at(17) as u32 == crc32c::crc32c(&rest[21..size]),
            bytes: rest.slice(..size),
        });
        rest = rest.slice(size..);
    }
    batches
}
