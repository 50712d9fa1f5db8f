//! Record batches as bytes at a place in a segment: reading a header without trusting it, writing one, encoding the
//! small batches that the storage makes itself (control batches, dead letters).

use kafka_batcher_core::{HEADER_LEN, RecordBatch};

/// The partition field of a control batch, for whoever reads the log with Kafka's tools.
pub(super) const CONTROL_PARTITION: i32 = -2;
/// The producer epoch of a control batch, with producer id -1: under the CRC, and no batch of events has it.
const CONTROL_EPOCH: i16 = -2;
/// Bytes before the part that a batch's length field counts.
const LOG_OVERHEAD: usize = 12;
/// Where the part under the CRC begins.
pub(super) const CRC_START: usize = 21;
/// `HEADER_LEN` as the header's length in a batch's `u32` length.
const LEAST: usize = HEADER_LEN;

/// `N` bytes at `at`; zeros where there are none, which callers exclude.
pub(super) fn at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// What the header of a batch in a segment says, its CRC verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Outside the CRC.
    pub(super) position: u64,
    /// Outside the CRC.
    pub(super) partition: i32,
    pub(super) length: u32,
    pub(super) count: u32,
    pub(super) crc: u32,
    pub(super) control: bool,
    /// It has a producer id.
    pub(super) stamped: bool,
}

/// What stands at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framed {
    /// A batch, whole.
    Whole(Frame),
    /// What could be the beginning of a batch that was never written to its end.
    CutOff,
    /// No batch.
    Bad,
}

/// The CRC-32C of a batch of this length that begins `bytes`; `None` if they are too few.
pub(super) fn crc_of(bytes: &[u8], length: u32) -> Option<u32> {
    #[cfg(test)]
    HASHED.set(HASHED.get() + u64::from(length));
    bytes.get(CRC_START..length as usize).map(crc32c::crc32c)
}

#[cfg(test)]
std::thread_local! {
    /// Bytes over which a CRC was computed.
    pub(super) static HASHED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Reads the header of the batch that begins `bytes`, which reach to the end of the segment, and verifies its CRC.
///
/// A length lies outside the CRC: one that is damaged may reach over all of the segment, and thousands of them cost a CRC of
/// that each. So many bytes as `in_vain` says may be spent on lengths that look wrong; then those are believed to be.
pub(super) fn frame(bytes: &[u8], in_vain: &mut usize) -> Framed {
    if bytes.iter().take(LEAST).all(|byte| *byte == 0) {
        // What a file system may leave behind the last write that it finished.
        return if bytes.iter().all(|byte| *byte == 0) { Framed::CutOff } else { Framed::Bad };
    }
    if bytes.len() > 16 && bytes.get(16) != Some(&2) {
        return Framed::Bad;
    }
    if bytes.len() < LEAST {
        return Framed::CutOff;
    }
    let length = i32::from_be_bytes(at(bytes, 8));
    let Some(length) = u32::try_from(length).ok().map(|l| l + LOG_OVERHEAD as u32) else {
        return Framed::Bad;
    };
    if (length as usize) < LEAST {
        return Framed::Bad;
    }
    let crc = u32::from_be_bytes(at(bytes, 17));
    if length as usize > bytes.len() {
        // Cut off, or only its length is wrong: that lies outside the CRC, so the rest of the batch can tell.
        let rest = u32::try_from(bytes.len()).ok().filter(|_| *in_vain >= bytes.len());
        return match rest.filter(|rest| crc_of(bytes, *rest) == Some(crc)) {
            Some(rest) => whole(bytes, rest, crc),
            None => {
                *in_vain = in_vain.saturating_sub(bytes.len());
                Framed::CutOff
            }
        };
    }
    if *in_vain < length as usize && !something_follows(bytes, length as usize) {
        return Framed::Bad;
    }
    if crc_of(bytes, length) == Some(crc) {
        return whole(bytes, length, crc);
    }
    *in_vain = in_vain.saturating_sub(length as usize);
    Framed::Bad
}

/// Whether at this byte the segment ends or something stands that looks like a batch, as behind every batch that is whole.
fn something_follows(bytes: &[u8], length: usize) -> bool {
    let next = bytes.get(length..).unwrap_or_default();
    // Magic 2, and of the attributes none that nobody uses.
    next.is_empty() || (next.get(16) == Some(&2) && next.get(21) == Some(&0))
}

fn whole(bytes: &[u8], length: u32, crc: u32) -> Framed {
    Framed::Whole(Frame {
        position: u64::from_be_bytes(at(bytes, 0)),
        partition: i32::from_be_bytes(at(bytes, 12)),
        length,
        count: u32::from_be_bytes(at(bytes, 57)),
        crc,
        control: is_control(bytes),
        stamped: bytes.get(43..51) != Some(&[0xff; 8]),
    })
}

/// Whether the bytes begin with the header of a control batch, as far as that lies under the CRC.
pub(super) fn is_control(bytes: &[u8]) -> bool {
    bytes.get(16) == Some(&2)
        && bytes.get(51..53) == Some(&CONTROL_EPOCH.to_be_bytes())
        && bytes.get(43..51) == Some(&[0xff; 8])
}

/// Positions lie below: no log comes this far, and a number beyond is damage. So what is added to a position does not overflow, and
/// each is an offset to Kafka.
pub(super) const POSITIONS: u64 = 1 << 62;

/// Where a batch's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) position: u64,
    pub(super) partition: i32,
}

/// Writes position, length, partition, magic and CRC over a header: everything that lies outside the CRC.
pub(super) fn heal(header: &mut [u8], place: Place, length: u32, crc: u32) {
    if let Some(header) = header.first_chunk_mut::<CRC_START>() {
        header[0..8].copy_from_slice(&place.position.to_be_bytes());
        header[8..12].copy_from_slice(&length.saturating_sub(LOG_OVERHEAD as u32).to_be_bytes());
        header[12..16].copy_from_slice(&place.partition.to_be_bytes());
        header[16] = 2;
        header[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// A batch's header with its place written in, and its CRC.
pub(super) fn placed_header(batch: &RecordBatch, place: Place) -> ([u8; HEADER_LEN], u32) {
    let mut header = batch.header();
    let crc = u32::from_be_bytes(at(&header, 17));
    heal(&mut header, place, batch.encoded_len() as u32, crc);
    (header, crc)
}

/// A record of a batch that the storage makes itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain<'a> {
    pub(super) timestamp: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// An uncompressed batch of these records, without a stamp; as a control batch, if so asked.
pub(super) fn encode(place: Place, control: bool, records: &[Plain<'_>]) -> Vec<u8> {
    let base = records.first().map_or(0, |record| record.timestamp);
    let max = records.iter().map(|record| record.timestamp).max().unwrap_or(base);
    let mut out = vec![0; LEAST];
    let mut one = Vec::new();
    for (index, record) in (0i64..).zip(records) {
        one.clear();
        one.push(0);
        varint(&mut one, record.timestamp.wrapping_sub(base));
        varint(&mut one, index);
        nullable(&mut one, record.key);
        nullable(&mut one, record.value);
        varint(&mut one, record.headers.len() as i64);
        for (name, value) in &record.headers {
            nullable(&mut one, Some(name.as_bytes()));
            nullable(&mut one, *value);
        }
        varint(&mut out, one.len() as i64);
        out.extend_from_slice(&one);
    }
    let count = records.len() as u32;
    let epoch: i16 = if control { CONTROL_EPOCH } else { -1 };
    if let Some(header) = out.first_chunk_mut::<HEADER_LEN>() {
        header[23..27].copy_from_slice(&count.saturating_sub(1).to_be_bytes());
        header[27..35].copy_from_slice(&base.to_be_bytes());
        header[35..43].copy_from_slice(&max.to_be_bytes());
        header[43..51].copy_from_slice(&(-1i64).to_be_bytes());
        header[51..53].copy_from_slice(&epoch.to_be_bytes());
        header[53..57].copy_from_slice(&(-1i32).to_be_bytes());
        header[57..61].copy_from_slice(&count.to_be_bytes());
    }
    let length = out.len() as u32;
    let crc = crc_of(&out, length).unwrap_or_default();
    heal(&mut out, place, length, crc);
    out
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}
