//! Random and damaged input for everything that reads what others wrote: the functions that the fuzzer calls (`fuzz/`), so that they
//! run with every change.

#[allow(unreachable_pub)] // a crate of its own elsewhere
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use kafka_batcher_core::{Codec, Compression, Compressor, HEADER_LEN, RecordBatch};
use proptest::collection::vec;
use proptest::prelude::*;

/// A good segment with some bytes changed, and cut or continued.
fn damaged_segment() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    (changes, any::<prop::sample::Index>(), vec(any::<u8>(), 0..200)).prop_map(|(changes, end, more)| {
        let mut segment = fuzz::GOOD_SEGMENT.to_vec();
        for (at, byte) in changes {
            let at = at.index(segment.len());
            segment[at] = byte;
        }
        segment.truncate(end.index(fuzz::GOOD_SEGMENT.len()) + 1);
        segment.extend(more);
        segment
    })
}

/// Some records, compressed by one of the codecs, with some bytes of the body changed: as [`fuzz::compressed`] takes it.
fn damaged_body() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (1..Codec::ALL.len(), 1u8..60, changes).prop_map(|(codec, count, changes)| {
        // Length, attributes, the deltas, a null key, a value of four bytes, no headers.
        let records: Vec<u8> =
            (0..count).flat_map(|n| [20, 0, 0, 2 * n, 1, 8, b'a', b'b', b'a', b'b', 0]).collect();
        let bytes = fuzz::around(Codec::None, count.into(), &records);
        let (mut batch, _) = RecordBatch::decode(&bytes).expect("a batch");
        let how = Compression::new(Codec::ALL[codec], None).expect("its default level");
        let mut compressor = Compressor::new();
        if compressor.compress(&batch, how).is_some() {
            // It stays plain if it does not become smaller.
            let _ = compressor.put_into(&mut batch);
        }
        let mut body = batch.to_bytes().split_off(HEADER_LEN);
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        [&[codec as u8 - 1, 0, count][..], &body].concat()
    })
}

/// Lines as a file has them, some of them of names that there are.
fn lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "(endpoints|memory|linger|batch_size|compression|telemetry|ssl) = (\"k:9092\"|7|-1|true|\"10MiB\"|\"zstd\"|\\[\\])",
        "\\[(spool|ssl|sasl|metrics|other)\\]|\\[\\[collectors\\]\\]",
        "(topic_name|dir|mode|mechanism|password|prefix) = \"[a-z_0-9/]{0,12}\"",
        "\\PC{0,20}",
    ];
    vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_of_a_broker_makes_a_reader_panic(api: u8, version: u8, bytes in vec(any::<u8>(), 0..300)) {
        fuzz::responses(api, version, &bytes);
    }

    #[test]
    fn no_bytes_are_a_batch_that_cannot_be_written_again(bytes in damaged_segment()) {
        fuzz::record_batch(&bytes);
    }

    #[test]
    fn no_compressed_bytes_behind_a_right_header_make_a_codec_panic(
        damaged in damaged_body(), any in vec(any::<u8>(), 0..300),
    ) {
        fuzz::compressed(&damaged);
        fuzz::compressed(&any);
    }

    #[test]
    fn no_configuration_makes_its_reader_panic_and_what_is_shown_is_read_back(text in lines()) {
        fuzz::config(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_segment_keeps_a_spool_from_being_opened_and_read(segment in damaged_segment()) {
        fuzz::spool(&segment, None);
        fuzz::groups(&segment);
    }

    #[test]
    fn no_checkpoint_keeps_a_spool_from_being_opened_and_read(checkpoint in vec(any::<u8>(), 0..200)) {
        fuzz::spool(fuzz::GOOD_SEGMENT, Some(&checkpoint));
        let known = [&b"kbspoolc\0\0\0\x01"[..], &checkpoint].concat();
        fuzz::checkpoint(&known);
    }
}

/// The fuzzer's story: a checkpoint whose CRC is right says that all positions are used up. The next was 2^64 - 1; the first event that
/// was saved behind it took the writer's sum over the end of what a number can be, so that positions began at 0 again.
#[test]
fn a_checkpoint_that_leaves_no_position_is_damaged_and_the_spool_goes_on() {
    for number in [u64::MAX, i64::MAX as u64, 1 << 62, (1 << 62) - 1, (1 << 62) - 4] {
        let number = number.to_be_bytes();
        let (one, three) = (1u32.to_be_bytes(), 3i32.to_be_bytes());
        let fields = [b"kbspoolc", &one[..], &number, &number, &three, &one, &three, &number, &[0; 4]];
        fuzz::checkpoint(&fields.concat());
    }
}

/// The fuzzer's story: the first groups of a log are damaged, and its last is a regrouping that is not whole. That one did not happen,
/// and is cut off; what is left are damaged bytes in a segment named 0, and the next position was 0, too. So each write wanted a segment
/// of a name that there was, and nothing could be saved any more.
#[test]
fn a_torn_regrouping_behind_nothing_but_damage_does_not_keep_a_spool_from_being_written() {
    fuzz::spool(include_bytes!("fixtures/garbage/regrouping_torn_behind_damage_1.log"), None);
    fuzz::spool(include_bytes!("fixtures/garbage/regrouping_torn_behind_damage_3.log"), None);
    fuzz::groups(include_bytes!("fixtures/garbage/regrouping_torn_behind_damage_2.log"));
}
