//! Property tests of the byte format: what goes in comes out, exactly as long as foretold, however it is split.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::encoder::{Encoder, Measured};
use super::*;
use crate::{Header, Outcome, Record};

std::thread_local! {
    /// Events that were decoded, for tests that hold them against what had to be.
    pub(crate) static DECODED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[test]
fn parts_are_what_splitting_again_and_again_gives_and_nothing_lies_outside_the_batch() {
    let records: Vec<OwnedRecord> = (0..7)
        .map(|i| OwnedRecord { timestamp: i, key: None, value: Some(vec![i as u8]), headers: Vec::new() })
        .collect();
    let mut whole = encode(&records);
    whole.set_times_given(vec![1..3, 4..5]);
    whole.stamp = Stamp { producer_id: 1, epoch: 0, first_sequence: i32::MAX - 3 };
    let (left, right) = whole.split(3, &mut Chunk::unpooled).unwrap();
    let (middle, right) = right.split(2, &mut Chunk::unpooled).unwrap();
    let parts = whole.parts(&[0..3, 3..5, 5..7, 6..9, 9..12], &mut Chunk::unpooled).unwrap();
    let seen = |batch: &RecordBatch| (batch.records().unwrap(), batch.stamp(), batch.times_given().to_vec());
    assert_eq!(
        parts.iter().take(3).map(seen).collect::<Vec<_>>(),
        [left, middle, right].iter().map(seen).collect::<Vec<_>>()
    );
    assert_eq!([parts[3].count(), parts[4].count()], [1, 0]);
}

fn owned_record() -> impl Strategy<Value = OwnedRecord> {
    let bytes = || option::of(vec(any::<u8>(), 0..300));
    let header = ("[a-zé]{0,8}", bytes()).prop_map(|(name, value)| OwnedHeader { name, value });
    (-1i64..4_000_000_000_000, bytes(), bytes(), vec(header, 0..4))
        .prop_map(|(timestamp, key, value, headers)| OwnedRecord { timestamp, key, value, headers })
}

/// Encodes as the accumulator does, and checks the size foretold at every record.
fn encode(records: &[OwnedRecord]) -> RecordBatch {
    let mut encoder = Encoder::default();
    for owned in records {
        owned.view(|record| push(&mut encoder, record, owned.timestamp));
    }
    encoder.seal().unwrap()
}

fn push(encoder: &mut Encoder, record: &Record<'_>, timestamp: i64) {
    let measured = Measured::of(record).unwrap();
    let size = encoder.size_of_next(measured, timestamp);
    if encoder.is_empty() {
        assert_eq!(measured.alone(), HEADER_LEN + size);
    }
    if let Some(capacity) = encoder.chunk_needed(size) {
        encoder.add_chunk(Chunk::unpooled(capacity));
    }
    encoder.append(record, timestamp, measured, size);
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_and_has_the_size_foretold(records in vec(owned_record(), 1..40)) {
        let batch = encode(&records);
        let bytes = batch.to_bytes();
        prop_assert_eq!(bytes.len(), batch.encoded_len());
        let (read, used) = RecordBatch::decode(&bytes).unwrap();
        prop_assert_eq!(used, bytes.len());
        prop_assert_eq!(read.records().unwrap(), records.clone());
        prop_assert_eq!(batch.records().unwrap(), records.clone());
        prop_assert_eq!(batch.base_timestamp(), records[0].timestamp);
        prop_assert_eq!(Some(batch.max_timestamp()), records.iter().map(|r| r.timestamp).max());
        prop_assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn any_split_keeps_every_event_its_number(records in vec(owned_record(), 2..20), at in 1usize..19, first: i32) {
        let at = at.min(records.len() - 1);
        let mut batch = encode(&records);
        let first = first & 0x7fff_ffff;
        batch.set_stamp(Stamp { producer_id: 7, epoch: 3, first_sequence: first });
        let (left, right) = batch.split(at as u32, &mut Chunk::unpooled).unwrap();
        prop_assert_eq!(left.records().unwrap(), &records[..at]);
        prop_assert_eq!(right.records().unwrap(), &records[at..]);
        prop_assert_eq!(left.stamp(), batch.stamp());
        prop_assert_eq!(right.stamp().first_sequence, sequence_add(first, at as u32));
        prop_assert_eq!(right.last_sequence(), batch.last_sequence());
        prop_assert!(right.stamp().first_sequence >= 0);
        for part in [&left, &right] {
            prop_assert!(RecordBatch::decode(&part.to_bytes()).is_ok());
        }
    }

    #[test]
    fn a_new_stamp_gives_the_same_crc_as_writing_it_all_again(records in vec(owned_record(), 1..5), id: i64, seq: i32) {
        let mut batch = encode(&records);
        batch.finish();
        batch.set_stamp(Stamp { producer_id: id, epoch: 1, first_sequence: seq });
        let bytes = batch.to_bytes();
        prop_assert_eq!(&bytes[17..21], &crc32c::crc32c(&bytes[21..]).to_be_bytes());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = RecordBatch::decode(&bytes);
    }

    #[test]
    fn damage_behind_a_right_crc_is_an_error_or_a_valid_batch(
        records in vec(owned_record(), 1..6), at: prop::sample::Index, to: u8
    ) {
        let mut bytes = encode(&records).to_bytes();
        let at = CRC_START + at.index(bytes.len() - CRC_START);
        bytes[at] = to;
        let crc = crc32c::crc32c(&bytes[CRC_START..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        if let Ok((batch, _)) = RecordBatch::decode(&bytes) {
            prop_assert_eq!(batch.records().unwrap().len(), batch.count() as usize);
        }
    }

    #[test]
    fn sequences_wrap_to_zero_and_never_turn_negative(first in 0i32.., n: u32) {
        let expected = (first as u64 + u64::from(n)) % (1 << 31);
        prop_assert_eq!(sequence_add(first, n) as u64, expected);
    }
}

#[test]
fn every_single_damaged_byte_under_the_crc_is_found() {
    let record = OwnedRecord { timestamp: 1, key: None, value: Some(b"value".to_vec()), headers: vec![] };
    let bytes = encode(&[record]).to_bytes();
    for at in 16..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(RecordBatch::decode(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn a_batch_that_claims_two_billion_records_is_an_error_not_an_allocation() {
    let record = OwnedRecord { timestamp: 1, key: None, value: None, headers: vec![] };
    let mut bytes = encode(&[record]).to_bytes();
    bytes[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    assert!(matches!(RecordBatch::decode(&bytes), Err(crate::DecodeError::BadCount { count: i32::MAX, .. })));
}

#[test]
fn records_larger_than_a_chunk_get_one_of_their_own() {
    let large = vec![7u8; 300_000];
    let mut encoder = Encoder::default();
    let headers = [Header::null("h"), Header::new("h", "")];
    for value in [&b"small"[..], &large, b"after"] {
        push(&mut encoder, &Record::value(value).with_headers(&headers), 5);
    }
    let batch = encoder.seal().unwrap();
    let records = batch.records().unwrap();
    assert_eq!(records[1].value.as_deref(), Some(&large[..]));
    assert_eq!(records[2].headers.len(), 2);
    assert_eq!(
        (records[2].headers[0].value.as_deref(), records[2].headers[1].value.as_deref()),
        (None, Some(&b""[..]))
    );
}

/// Part of a batch is summed when it is appended, part when a chunk is full, the rest when the header is made.
#[test]
fn a_crc_that_grew_with_the_batch_is_that_of_its_bytes() {
    let headers = [Header::new("h", "v")];
    for (sums, count) in
        [(true, 1), (true, 30), (true, 31), (true, 32), (true, 700), (true, 2000), (false, 2000)]
    {
        let mut encoder = Encoder::summing(sums);
        let mut before = None;
        for n in 0..count {
            let value = [n as u8; 120];
            let record = Record::value(&value);
            let record = if n % 50 == 7 { record.with_headers(&headers) } else { record };
            encoder.set_room(usize::MAX);
            if !encoder.append_short(&record, 5) {
                push(&mut encoder, &record, 5);
            }
        }
        let mut batch = encoder.seal().unwrap();
        assert_eq!(batch.body.sum.len() > 0, sums && count > 1, "{count}");
        for stamp in [Stamp::NONE, Stamp { producer_id: 7, epoch: 1, first_sequence: 3 }] {
            batch.set_stamp(stamp);
            let bytes = batch.to_bytes();
            assert_eq!(bytes[17..21], crc32c::crc32c(&bytes[CRC_START..]).to_be_bytes(), "{count}");
            assert_ne!(before.replace(bytes[17..21].to_owned()).as_deref(), Some(&bytes[17..21]));
        }
        // Those whose records are compressed after all are summed anew.
        let mut compressor = Compressor::new();
        if compressor.compress(&batch, Compression::of(Codec::Lz4)).is_some() {
            assert!(compressor.put_into(&mut batch));
        }
        let bytes = batch.to_bytes();
        assert_eq!(bytes[17..21], crc32c::crc32c(&bytes[CRC_START..]).to_be_bytes(), "{count}, compressed");
        assert!(encoder.is_empty() && encoder.seal().is_none());
    }
}

#[test]
fn receipts_of_a_split_batch_get_their_own_offsets() {
    let mut encoder = Encoder::default();
    for _ in 0..4 {
        push(&mut encoder, &Record::value("v"), 5);
    }
    let (completion, _) = encoder.receipt();
    let (left, right) = encoder.seal().unwrap().split(1, &mut Chunk::unpooled).unwrap();
    left.spans().delivered(0, Some(9));
    right.spans().delivered(0, Some(40));
    assert_eq!(completion.get(0), Some(Outcome::Delivered { partition: 0, offset: Some(9) }));
    assert_eq!(completion.get(3), Some(Outcome::Delivered { partition: 0, offset: Some(42) }));
}
