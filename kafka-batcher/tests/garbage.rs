//! Random and damaged input for everything that reads what others wrote: the functions that the fuzzer calls (`fuzz/`), so that they
//! run with every change.

#[allow(unreachable_pub)] // a crate of its own elsewhere
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

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
    fn no_configuration_makes_its_reader_panic_and_what_is_shown_is_read_back(text in lines()) {
        fuzz::config(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_segment_keeps_a_spool_from_being_opened_and_read(segment in damaged_segment()) {
        fuzz::spool(&segment, None);
    }

    #[test]
    fn no_checkpoint_keeps_a_spool_from_being_opened_and_read(checkpoint in vec(any::<u8>(), 0..200)) {
        fuzz::spool(fuzz::GOOD_SEGMENT, Some(&checkpoint));
    }
}
