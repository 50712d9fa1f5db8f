//! Batches of which many events are refused: what that costs.

use kafka_batcher_core::Chunk;

use super::super::control::Fact;
use super::super::index::{Entry, NEVER_SENT, Piece};
use super::super::reader::give;
use super::room::letter;
use super::*;

/// Bytes of memory that giving out every other event of a batch of so many asks for.
fn asked(events: u32) -> usize {
    let names: Vec<String> = (0..events).map(|i| format!("{i:05}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let batch = batch(&names, None);
    let length = batch.encoded_len() as u32;
    let entry =
        Entry { position: 10, offset: 0, length, count: events, crc: 0, segment: 0, origin: NEVER_SENT };
    let piece = |first| (Piece { first, count: 1, numbers: None }, None);
    let pieces: Vec<_> = (0..events).step_by(2).map(piece).collect();
    let (mut bytes, mut out) = (0, Vec::new());
    let mut chunk = |size: usize| {
        bytes += size;
        Chunk::unpooled(size)
    };
    give(&batch, &entry, &pieces, None, 0, &mut chunk, &mut out).unwrap();
    assert_eq!(values(&out), (0..events).step_by(2).map(|i| format!("{i:05}")).collect::<Vec<_>>());
    assert_eq!(out.last().map(|given| given.position), Some(10 + u64::from(events) - 2));
    bytes
}

#[test]
fn what_is_left_of_a_batch_with_many_holes_is_given_out_without_writing_the_rest_again_for_each() {
    let (some, more) = (asked(100), asked(800));
    println!("{some} bytes for 100 events, {more} for 800");
    assert!(more <= 9 * some, "{some} bytes for 100 events, {more} for 800");
}

#[test]
fn letters_that_lie_side_by_side_in_a_batch_are_one_hole_and_those_of_two_batches_are_two() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let saved = save(&storage, 0, vec![fresh(&["a", "b", "c", "d"]), fresh(&["e", "f"])]);
    let bad = |at: u64| letter("bad", Some(saved[0] + at));
    let next = || storage.topic("t").unwrap().state().next;
    let before = next();
    wait(storage.reject(&partition(0), [1, 2, 3, 4].map(bad).into())).unwrap();
    assert_eq!(
        next() - before,
        1 + 2,
        "a control batch has a position of its own, and one for each of two words"
    );
    let mut holes = Vec::new();
    {
        let topic = storage.topic("t").unwrap();
        let state = topic.state();
        state.lanes[&0].carry(
            0,
            &state.segments.keys().copied().collect::<Vec<_>>(),
            &|_| origin("x"),
            &mut holes,
        );
    }
    let holes: Vec<(u64, u32)> = holes
        .iter()
        .map(|fact| match fact {
            Fact::Hole { at } => (at.place.position, at.count),
            other => panic!("a hole: {other:?}"),
        })
        .collect();
    assert_eq!(holes, [(1, 3), (4, 1)]);
    let told = fs.disk().after_kill();
    drop(storage);
    let (_, storage, _) = start(told, settings());
    assert_eq!(waiting(&storage, 0), ["a", "f"]);
}
