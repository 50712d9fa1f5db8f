//! Tests of the index: pieces, holes, what is given up.

use super::*;

fn entry(position: u64, count: u32) -> Entry {
    Entry { position, offset: 0, length: 100, count, crc: 7, segment: 0, origin: NEVER_SENT }
}

fn events(position: u64, count: u32) -> Events {
    Events { place: Place { position, partition: 0 }, count, crc: 7 }
}

fn stamp(first_sequence: i32) -> Stamp {
    Stamp { producer_id: 1, epoch: 0, first_sequence }
}

#[test]
fn an_entry_takes_32_bytes() {
    assert_eq!(size_of::<Entry>(), 32);
}

#[test]
fn pieces_are_cut_where_numbers_and_holes_begin_and_end_and_the_latest_numbers_hold() {
    let mut lane = Lane::default();
    lane.push(entry(10, 10));
    lane.change(&events(10, 10), Some((stamp(100), 3)), 0, &mut |_| {});
    lane.change(&events(14, 2), None, 0, &mut |_| {});
    lane.change(&events(16, 4), Some((stamp(0), 4)), 0, &mut |_| {});
    lane.settle(11, &mut |_| {});
    let piece =
        |first, count, sequence, origin| Piece { first, count, numbers: Some((stamp(sequence), origin)) };
    assert_eq!(lane.pieces(&entry(10, 10)), [piece(1, 3, 101, 3), piece(6, 4, 0, 4)]);
    assert_eq!(lane.backlog(99), Backlog { events: 7, batches: 1, bytes: 100, first: 11, oldest_ms: 0 });
}

#[test]
fn a_renumbering_does_not_fill_a_hole() {
    let mut lane = Lane::default();
    lane.push(entry(0, 3));
    lane.change(&events(1, 1), None, 0, &mut |_| {});
    lane.change(&events(0, 3), Some((stamp(5), 0)), 0, &mut |_| {});
    let counts: Vec<_> = lane.pieces(&entry(0, 3)).iter().map(|p| (p.first, p.count)).collect();
    assert_eq!(counts, [(0, 1), (2, 1)]);
}

#[test]
fn a_batch_of_holes_only_does_not_wait_and_its_holes_are_carried_until_it_is_settled() {
    let (mut lane, mut freed) = (Lane::default(), Vec::new());
    lane.push(entry(0, 2));
    lane.push(entry(2, 2));
    lane.change(&events(0, 1), None, 5, &mut |e| freed.push(e.position));
    assert_eq!(freed, [0u64; 0], "an event is left");
    lane.change(&events(1, 1), None, 5, &mut |e| freed.push(e.position));
    assert_eq!(freed, [0]);
    assert_eq!(lane.backlog(9), Backlog { events: 2, batches: 1, bytes: 100, first: 2, oldest_ms: 0 });
    let carried = |lane: &Lane| {
        let mut facts = Vec::new();
        lane.carry(0, &[5], &|_| kafka_batcher_core::Origin::default(), &mut facts);
        facts.len()
    };
    assert_eq!(carried(&lane), 2);
    lane.settle(2, &mut |_| {});
    assert_eq!(carried(&lane), 0);
}

#[test]
fn what_is_settled_in_the_middle_of_a_batch_is_counted_once() {
    let (mut lane, mut freed) = (Lane::default(), 0);
    lane.push(entry(0, 4));
    lane.change(&events(3, 1), None, 0, &mut |_| {});
    lane.settle(2, &mut |_| freed += 1);
    assert_eq!((lane.backlog(9).events, lane.backlog(9).first, freed), (1, 2, 0));
    lane.settle(3, &mut |_| freed += 1);
    assert_eq!((lane.backlog(9).events, lane.backlog(9).batches, freed), (0, 0, 1));
}

#[test]
fn a_change_bound_to_other_bytes_changes_nothing() {
    let mut lane = Lane::default();
    lane.push(entry(0, 4));
    lane.change(&Events { crc: 8, ..events(0, 4) }, None, 0, &mut |_| {});
    assert_eq!(lane.backlog(9).events, 4);
}
