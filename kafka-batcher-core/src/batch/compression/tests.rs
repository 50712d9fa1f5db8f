//! Round trips, what other producers write, and what nobody should.

use std::io::Write;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::batch::encoder::encode_all;
use crate::batch::{CRC_START, HEADER_LEN, RecordBatch, Stamp};
use crate::buffer_pool::Chunk;
use crate::completion::{Completion, Outcome, Spans};
use crate::error::DecodeError;
use crate::{BufferPool, OwnedRecord, Share};

const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn every_way() -> Vec<Compression> {
    let levels: [(Codec, &[i32]); 2] = [(Codec::Gzip, &[1, 9]), (Codec::Zstd, &[-100, -5, 1, 3, 19, 22])];
    let with = |(codec, levels): (Codec, &'static [i32])| {
        levels.iter().map(move |level| Compression::new(codec, Some(*level)).unwrap())
    };
    CODECS
        .map(|codec| Compression::new(codec, None).unwrap())
        .into_iter()
        .chain(levels.into_iter().flat_map(with))
        .collect()
}

fn record(value: impl Into<Vec<u8>>) -> OwnedRecord {
    OwnedRecord { timestamp: 1_700_000_000_000, key: None, value: Some(value.into()), headers: Vec::new() }
}

fn plain(records: &[OwnedRecord]) -> RecordBatch {
    encode_all(records, &mut Chunk::unpooled)
}

fn flights(n: usize) -> Vec<OwnedRecord> {
    (0..n)
        .map(|i| record(format!(r#"{{"flight":"AS{i}","from":"SEA","to":"ANC","delay":{}}}"#, i % 60)))
        .collect()
}

/// Bytes that do not shrink.
fn noise(n: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    (0..n).map(|_| next()).collect()
}

fn compressed(batch: &RecordBatch, how: Compression) -> RecordBatch {
    let (mut compressor, mut batch) = (Compressor::new(), batch.clone());
    assert!(compressor.compress(&batch, how).is_some(), "{how}");
    assert!(compressor.put_into(&mut batch));
    batch
}

/// A batch of so many records whose body is this.
fn around(codec: Codec, count: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = plain(&[record("x")]).header().to_vec();
    bytes.extend_from_slice(body);
    let length = (bytes.len() - 12) as u32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[21..23].copy_from_slice(&codec.bits().to_be_bytes());
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    signed(bytes)
}

fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes[CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn body(batch: &RecordBatch) -> Vec<u8> {
    batch.to_bytes().split_off(HEADER_LEN)
}

#[test]
fn every_codec_at_every_level_gives_back_what_went_in_and_says_so_in_the_header() {
    let records = flights(2_000);
    let batch = plain(&records);
    for how in every_way() {
        let small = compressed(&batch, how);
        assert!(small.encoded_len() < batch.encoded_len(), "{how}");
        assert_eq!((small.codec(), small.count()), (how.codec(), 2_000));
        assert_eq!(small.records().unwrap(), records, "{how}");
        let bytes = small.to_bytes();
        assert_eq!((bytes.len(), bytes[22] & 7), (small.encoded_len(), how.codec() as u8));
        let (read, used) = RecordBatch::decode(&bytes).unwrap();
        assert_eq!(
            (used, read.records().unwrap() == records, read.to_bytes() == bytes),
            (bytes.len(), true, true)
        );
    }
}

#[test]
fn one_compressor_serves_all_codecs_and_what_did_not_shrink_leaves_nothing_behind() {
    let (shrinks, does_not) = (plain(&flights(500)), plain(&[record(noise(200_000, 7))]));
    let mut compressor = Compressor::new();
    for round in 0..3 {
        for how in every_way() {
            assert_eq!(compressor.compress(&does_not, how), None, "{how}, round {round}");
            let mut batch = shrinks.clone();
            assert!(compressor.compress(&batch, how).is_some(), "{how}, round {round}");
            assert!(compressor.put_into(&mut batch));
            assert_eq!(batch.records().unwrap(), shrinks.records().unwrap(), "{how}, round {round}");
        }
    }
}

#[test]
fn memory_is_charged_for_what_was_accepted_and_the_compressed_bytes_lie_in_it() {
    let (pool, share) = (BufferPool::new(1 << 20), Share::new(1 << 20));
    let mut batch = encode_all(&flights(3_000), &mut |size| pool.acquire_reserve(&share, size));
    let (used, how) = (pool.used(), Compression::new(Codec::Zstd, None).unwrap());
    let mut compressor = Compressor::new();
    compressor.compress(&batch, how).unwrap();
    assert!(compressor.put_into(&mut batch));
    assert_eq!((pool.used(), batch.memory()), (used, used));
    drop(batch);
    assert_eq!(pool.used(), 0);
}

#[test]
fn a_batch_that_somebody_else_holds_is_not_written_over() {
    let batch = plain(&flights(100));
    let other = batch.clone();
    let small = compressed(&batch, Compression::new(Codec::Lz4, None).unwrap());
    assert_eq!((other.codec(), small.codec()), (Codec::None, Codec::Lz4));
    assert_eq!(other.records().unwrap(), small.records().unwrap());
}

#[test]
fn pieces_of_a_compressed_batch_are_compressed_and_keep_numbers_and_receipts() {
    let records = flights(1_000);
    let completion = Arc::new(Completion::new());
    let mut batch = plain(&records);
    batch.set_spans(Spans::whole(Some(completion.clone()), 1_000));
    let mut small = compressed(&batch, Compression::new(Codec::Zstd, Some(3)).unwrap());
    small.set_stamp(Stamp { producer_id: 7, epoch: 1, first_sequence: 40 });
    let (left, right) = small.split(300, &mut Chunk::unpooled).unwrap();
    assert_eq!([left.codec(), right.codec()], [Codec::Zstd; 2]);
    assert_eq!(right.stamp().first_sequence, 340);
    assert_eq!(right.records().unwrap(), &records[300..]);
    let parts = small.parts(&[0..10, 500..1_000], &mut Chunk::unpooled).unwrap();
    assert_eq!((parts[1].codec(), parts[1].stamp().first_sequence), (Codec::Zstd, 540));
    let (rest, cut) = small.cut_out(&[500], &mut Chunk::unpooled).unwrap();
    let rest = rest.unwrap();
    assert_eq!((rest.codec(), rest.count(), cut[0].codec()), (Codec::Zstd, 999, Codec::None));
    assert_eq!(cut[0].records().unwrap(), &records[500..501]);
    rest.spans().delivered(0, Some(10));
    assert_eq!(completion.get(501), Some(Outcome::Delivered { partition: 0, offset: Some(510) }));
}

#[test]
fn a_batch_beyond_the_limit_is_cut_once_into_parts_that_are_not_and_receipts_follow() {
    let mut records = flights(400);
    // Half of each shrinks, half does not.
    records
        .iter_mut()
        .enumerate()
        .for_each(|(i, r)| r.value.as_mut().unwrap().extend(noise(64, i as u64 + 1)));
    let completion = Arc::new(Completion::new());
    for how in every_way() {
        let mut batch = plain(&records);
        batch.set_spans(Spans::whole(Some(completion.clone()), 400));
        crate::batch::tests::DECODED.set(0);
        let Fitted::Parts(parts) = Compressor::new().fit(&batch, how, 9_000, &mut Chunk::unpooled).unwrap()
        else {
            panic!("{how}: it takes more than 9 000 bytes");
        };
        // Each level of halving would read them all again, and there would be two at least. A part that shrinks less than
        // the whole is cut again, alone.
        let decoded = crate::batch::tests::DECODED.get();
        assert!((400..800).contains(&decoded), "{how}: {decoded}");
        assert!(parts.len() > 2, "{how}: {}", parts.len());
        assert!(parts.iter().all(|part| part.encoded_len() <= 9_000), "{how}");
        let all: Vec<_> = parts.iter().flat_map(|part| part.records().unwrap()).collect();
        assert_eq!(all, records, "{how}");
        assert!(parts.iter().all(|part| !part.spans().is_empty()));
    }
    // Nothing helps where a single event is too large.
    let how = Compression::new(Codec::Zstd, None).unwrap();
    let alone = plain(&[record(noise(5_000, 3))]);
    assert!(matches!(Compressor::new().fit(&alone, how, 1_000, &mut Chunk::unpooled), Ok(Fitted::Plain)));
}

#[test]
fn a_plain_batch_is_cut_by_the_sizes_of_its_events_and_keeps_numbers_and_receipts() {
    let records: Vec<_> = (0..600u64)
        .map(|i| OwnedRecord {
            timestamp: 1_700_000_000_000 + 90_000 * (i as i64 % 7),
            ..record(noise(1 + (i * i % 900) as usize, i))
        })
        .collect();
    let completion = Arc::new(Completion::new());
    let mut batch = plain(&records);
    batch.set_spans(Spans::whole(Some(completion.clone()), 600));
    batch.set_stamp(Stamp { producer_id: 7, epoch: 1, first_sequence: 40 });
    let pieces = batch.cut_to(5_000, &mut Chunk::unpooled).unwrap();
    let mut first = 0;
    for (n, piece) in pieces.iter().enumerate() {
        assert_eq!((piece.codec(), piece.stamp().first_sequence), (Codec::None, 40 + first));
        let end = first as usize + piece.count() as usize;
        assert_eq!(piece.records().unwrap(), records[first as usize..end]);
        // As full as it can be: with the next event it would be too large.
        assert!(piece.encoded_len() <= 5_000, "{n}: {}", piece.encoded_len());
        if end < 600 {
            assert!(plain(&records[first as usize..=end]).encoded_len() > 5_000, "{n}");
        }
        first = end as i32;
    }
    assert_eq!(first, 600);
    pieces[1].spans().delivered(0, Some(10));
    assert!(completion.get(pieces[0].count()).is_some() && completion.get(0).is_none());
    // What fits stays whole; an event alone does not become smaller.
    assert_eq!(batch.cut_to(batch.encoded_len(), &mut Chunk::unpooled).unwrap().len(), 1);
    assert_eq!(batch.cut_to(0, &mut Chunk::unpooled).unwrap().len(), 600);
}

#[test]
fn what_was_made_of_one_batch_is_put_into_no_other_and_only_once() {
    let how = Compression::new(Codec::Zstd, None).unwrap();
    let (mut batch, mut other) = (plain(&flights(100)), plain(&flights(100)));
    let mut compressor = Compressor::new();
    compressor.compress(&batch, how).unwrap();
    assert!(!compressor.put_into(&mut other));
    compressor.compress(&batch, how).unwrap();
    assert!(compressor.put_into(&mut batch) && !compressor.put_into(&mut batch));
    assert_eq!((other.codec(), other.records().unwrap()), (Codec::None, batch.records().unwrap()));
}

#[test]
fn a_compressor_at_rest_keeps_no_large_buffer() {
    let mut compressor = Compressor::new();
    for how in every_way() {
        compressor.compress(&plain(&[record(vec![0; 4 << 20])]), how).unwrap();
        assert!(compressor.out.capacity() >= 4 << 20, "{how}");
        compressor.rest();
        assert!(compressor.out.capacity() <= 1 << 20, "{how}: {}", compressor.out.capacity());
    }
}

#[test]
fn pieces_are_compressed_at_a_fast_level() {
    for (how, level) in every_way().into_iter().filter_map(|how| Some((how, how.level()?))) {
        let (left, right) = compressed(&plain(&flights(200)), how).split(100, &mut Chunk::unpooled).unwrap();
        assert_eq!(
            [left, right].map(|half| half.fixed.compression.level()),
            [Some(level.min(1)); 2],
            "{how}"
        );
    }
}

#[test]
fn what_other_producers_write_is_read() {
    let records = flights(5_000);
    let batch = plain(&records);
    let plain_body = body(&batch);
    // librdkafka: one block of Snappy, no framing.
    let raw = snap::raw::Encoder::new().compress_vec(&plain_body).unwrap();
    // Java: zstd without the content's size, and more than four times as much as it takes.
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    zstd.write_all(&plain_body).unwrap();
    let zstd = zstd.finish().unwrap();
    assert_eq!(zstd::zstd_safe::get_frame_content_size(&zstd).unwrap(), None);
    assert!(plain_body.len() > 4 * zstd.len());
    let lz4 = |info| {
        let mut lz4 = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        lz4.write_all(&plain_body).unwrap();
        lz4.finish().unwrap()
    };
    use lz4_flex::frame::{BlockMode, BlockSize, FrameInfo};
    let librdkafka =
        FrameInfo::new().block_size(BlockSize::Max64KB).block_checksums(true).content_checksum(true);
    let linked = FrameInfo::new().block_mode(BlockMode::Linked).content_size(Some(plain_body.len() as u64));
    for (codec, body) in
        [(Codec::Snappy, raw), (Codec::Zstd, zstd), (Codec::Lz4, lz4(librdkafka)), (Codec::Lz4, lz4(linked))]
    {
        let (read, _) =
            RecordBatch::decode(&around(codec, 5_000, &body)).unwrap_or_else(|e| panic!("{codec}: {e}"));
        assert_eq!(read.records().unwrap().len(), records.len());
    }
}

#[test]
fn a_few_bytes_that_claim_gigabytes_or_hold_them_are_an_error() {
    // Snappy's claim of 4 GiB - 1 in front of a copy; the same within a block of xerial's.
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x04, b'a', b'b'];
    let framed = [&XERIAL_HEADER[..], &8u32.to_be_bytes(), &claim].concat();
    // zstd: a frame header with a content size of 2^62, and one with a window of 3.75 GiB and no size.
    let sized = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 62).to_le_bytes(), &[1, 0, 0]].concat();
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xaf, 1, 0, 0];
    for (codec, body) in
        [(Codec::Snappy, &claim[..]), (Codec::Snappy, &framed), (Codec::Zstd, &sized), (Codec::Zstd, &window)]
    {
        let mut kib = body.to_vec();
        kib.resize(1024 - HEADER_LEN, 0);
        for body in [body, &kib] {
            let error = RecordBatch::decode(&around(codec, 1, body)).expect_err("it holds nothing");
            let refused = matches!(
                error,
                // An empty frame with a huge window is a frame.
                DecodeError::HoldsTooMuch { .. }
                    | DecodeError::BadCompression { .. }
                    | DecodeError::BadCount { .. }
            );
            assert!(refused, "{codec}: {error}");
        }
    }
    // True bombs: 65 MiB of zeros, by every codec that gets them small.
    let zeros = vec![0u8; MAX_UNCOMPRESSED + (1 << 20)];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&zeros).unwrap();
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&zeros).unwrap();
    let block = snap::raw::Encoder::new().compress_vec(&zeros[..1 << 20]).unwrap();
    let one = [&(block.len() as u32).to_be_bytes()[..], &block].concat();
    let xerial = [&XERIAL_HEADER[..], &one.repeat(65)].concat();
    for (codec, bomb) in [
        (Codec::Gzip, gzip.finish().unwrap()),
        (Codec::Lz4, lz4.finish().unwrap()),
        (Codec::Snappy, xerial),
        (Codec::Zstd, zstd::bulk::compress(&zeros, 1).unwrap()),
        (Codec::Zstd, zstd::stream::encode_all(&zeros[..], 1).unwrap()),
    ] {
        let error = RecordBatch::decode(&around(codec, 1, &bomb)).expect_err("too much");
        assert_eq!(error, DecodeError::HoldsTooMuch { codec, limit: MAX_UNCOMPRESSED });
    }
}

#[test]
fn what_is_cut_off_or_followed_by_something_or_counted_wrong_is_an_error() {
    let batch = plain(&flights(50));
    for how in every_way() {
        let body = body(&compressed(&batch, how));
        for cut in 0..body.len() {
            let bytes = around(how.codec(), 50, &body[..cut]);
            assert!(RecordBatch::decode(&bytes).is_err(), "{how}, cut at {cut} of {}", body.len());
        }
        for tail in [&[0][..], &[0; 9], b"garbage", &body] {
            let bytes = around(how.codec(), 50, &[&body[..], tail].concat());
            assert!(RecordBatch::decode(&bytes).is_err(), "{how}, {tail:?} behind it");
        }
        for count in [1, 49, 51, 1 << 20, i32::MAX as u32] {
            let error = RecordBatch::decode(&around(how.codec(), count, &body)).expect_err("it holds 50");
            let wrong = matches!(
                error,
                DecodeError::BadCount { .. } | DecodeError::BadRecord { .. } | DecodeError::TrailingBytes(_)
            );
            assert!(wrong, "{how}, {count} records: {error}");
        }
        // Another codec's bytes.
        for other in CODECS.into_iter().filter(|other| *other != how.codec()) {
            assert!(RecordBatch::decode(&around(other, 50, &body)).is_err(), "{how} as {other}");
        }
    }
    for bits in 5..8 {
        let mut bytes = batch.to_bytes();
        bytes[22] = bits;
        assert_eq!(RecordBatch::decode(&signed(bytes)).unwrap_err(), DecodeError::Codec(bits.into()));
    }
}

#[test]
fn a_level_is_one_that_the_codec_has() {
    for (codec, level) in [(Codec::Gzip, 0), (Codec::Gzip, 10), (Codec::Zstd, 23), (Codec::Zstd, -131_073)] {
        let error = Compression::new(codec, Some(level)).unwrap_err();
        assert!(matches!(error, CompressionError::LevelOutOfRange { .. }), "{error}");
    }
    for codec in [Codec::None, Codec::Snappy, Codec::Lz4] {
        assert!(matches!(Compression::new(codec, Some(1)), Err(CompressionError::NoLevels { .. })));
    }
    assert_eq!(Compression::new(Codec::Zstd, None).unwrap().to_string(), "zstd:1");
    assert_eq!(Compression::new(Codec::Lz4, None).unwrap().to_string(), "lz4");
    assert_eq!("ZSTD".parse(), Ok(Codec::Zstd));
    assert!("zip".parse::<Codec>().is_err());
}

const XERIAL_HEADER: [u8; 16] = super::compressor::XERIAL;

proptest! {
    #[test]
    fn whatever_is_in_the_events_comes_back(
        values in vec(vec(any::<u8>(), 0..2_000), 1..60), repeat in 1usize..4, way: prop::sample::Index,
    ) {
        let records: Vec<_> = values.iter().map(|value| record(value.repeat(repeat))).collect();
        let mut read = plain(&records);
        let ways = every_way();
        let how = *way.get(&ways);
        let mut compressor = Compressor::new();
        if compressor.compress(&read, how).is_some() {
            prop_assert!(compressor.put_into(&mut read));
        }
        prop_assert_eq!(read.records().unwrap(), records.clone());
        let (decoded, _) = RecordBatch::decode(&read.to_bytes()).unwrap();
        prop_assert_eq!(decoded.records().unwrap(), records);
    }

    #[test]
    fn no_bytes_make_a_codec_panic_or_give_more_than_its_limit(bytes in vec(any::<u8>(), 0..600), codec in 1usize..5) {
        let _ = RecordBatch::decode(&around(Codec::ALL[codec], 3, &bytes));
        if let Ok(out) = decompress(Codec::ALL[codec], &bytes, 1_000) {
            prop_assert!(out.len() <= 1_000);
        }
    }

    #[test]
    fn damage_behind_a_right_crc_is_an_error_or_a_valid_batch(
        ats in vec(any::<prop::sample::Index>(), 1..4), tos in vec(any::<u8>(), 4), way: prop::sample::Index,
    ) {
        let ways = every_way();
        let how = *way.get(&ways);
        let mut bytes = compressed(&plain(&flights(40)), how).to_bytes();
        for (at, to) in ats.iter().zip(tos) {
            let at = HEADER_LEN + at.index(bytes.len() - HEADER_LEN);
            bytes[at] = to;
        }
        if let Ok((batch, _)) = RecordBatch::decode(&signed(bytes)) {
            prop_assert_eq!(batch.records().unwrap().len(), batch.count() as usize);
        }
    }
}
