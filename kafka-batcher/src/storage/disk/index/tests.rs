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
        let holes = facts.iter().map(|fact| match fact {
            Fact::Hole { at } => at.count,
            other => panic!("a hole: {other:?}"),
        });
        holes.sum::<u32>()
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

/// Events that wait, told the slow way.
fn told(lane: &Lane, entries: &[Entry]) -> u64 {
    entries.iter().flat_map(|entry| lane.pieces(entry)).map(|piece| u64::from(piece.count)).sum()
}

#[test]
fn whatever_is_said_of_the_events_of_a_batch_they_are_as_the_last_word_says_and_counted() {
    // Against one word an event, in many rows of words.
    let mut random = 7u64;
    let mut below = |n: u32| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u32 % n
    };
    for _ in 0..2_000 {
        let (mut lane, mut settled) = (Lane::default(), 0);
        lane.push(entry(100, 12));
        let mut wanted: Vec<Option<Option<(Stamp, u32)>>> = vec![Some(None); 12];
        for word in 0..below(12) {
            let (first, hole) = (below(12), below(3) == 0);
            let count = 1 + below(12 - first);
            let numbers = (!hole).then_some((stamp(100 * word as i32), word));
            // What has no event left is not there any more.
            lane.change(&events(100 + u64::from(first), count), numbers, below(3), &mut |_| {});
            for at in first..first + count {
                let one = wanted[at as usize].as_mut();
                match numbers {
                    Some((_, origin)) => {
                        let first_sequence = 100 * word as i32 + (at - first) as i32;
                        if let Some(one) = one {
                            *one = Some((stamp(first_sequence), origin));
                        }
                    }
                    None => wanted[at as usize] = None,
                }
            }
            if below(4) == 0 {
                settled = below(12).max(settled);
                lane.settle(100 + u64::from(settled), &mut |_| {});
            }
            wanted.iter_mut().take(settled as usize).for_each(|one| *one = None);
            let waits = wanted.iter().flatten().count() as u64;
            assert_eq!((lane.backlog(200).events, lane.is_empty()), (waits, waits == 0));
            let first = wanted.iter().position(Option::is_some).map_or(200, |at| 100 + at as u64);
            assert_eq!(lane.backlog(200).first, first);
            let mut seen = vec![None; 12];
            for piece in lane.pieces(&entry(100, 12)) {
                for at in 0..piece.count {
                    let numbers =
                        piece.numbers.map(|(own, origin)| (stamp(own.first_sequence + at as i32), origin));
                    seen[(piece.first + at) as usize] = Some(numbers);
                }
            }
            if waits == 0 {
                break;
            }
            assert_eq!(seen, wanted);
            assert_eq!(told(&lane, &[entry(100, 12)]), waits);
        }
    }
}

#[test]
fn a_word_costs_what_it_overrules_however_much_was_said_of_the_batch() {
    // Of 2 000 events half were refused: under the lock for two seconds, for ten thousand minutes: each hole counted all
    // the others, twice, and each of those looked at all of them.
    let cost = |events_of: u32| {
        let before = changes::STEPS.get();
        let mut lane = Lane::default();
        lane.push(entry(0, events_of));
        for at in (0..events_of).step_by(2) {
            lane.change(&events(at.into(), 1), None, 0, &mut |_| {});
            assert_eq!(lane.backlog(0).first, 1);
        }
        for at in (1..events_of).step_by(2) {
            lane.change(&events(at.into(), 1), Some((stamp(at as i32), 0)), 0, &mut |_| {});
        }
        assert_eq!(lane.pieces(&entry(0, events_of)).len() as u32, events_of / 2);
        for at in 0..events_of {
            lane.settle(u64::from(at) + 1, &mut |_| {});
        }
        assert!(lane.is_empty() && lane.backlog(9).events == 0);
        changes::STEPS.get() - before
    };
    let (some, more) = (cost(1_000), cost(8_000));
    println!("{some} steps for 1 000 events, {more} for 8 000");
    assert!(some > 1_000 && more <= 9 * some, "{some} steps for 1 000 events, {more} for 8 000");
}

#[test]
fn a_batch_in_the_midst_of_many_is_found_without_looking_at_them() {
    let mut lane = Lane::default();
    (0..1_000).for_each(|n| lane.push(entry(2 * n, 2)));
    let mut freed = Vec::new();
    lane.change(&events(1_000, 2), None, 0, &mut |entry| freed.push(entry.position));
    assert_eq!(freed, [1_000]);
    assert_eq!((lane.backlog(0).events, lane.backlog(0).batches), (1_998, 999));
    assert_eq!(lane.holding(1_000, 2), None);
}

#[test]
fn the_batches_of_a_segment_are_found_without_looking_at_the_others() {
    // Cleaning looked at all of them, twice for each segment, while others waited for the state.
    let mut lane = Lane::default();
    (0..10_000).for_each(|n| lane.push(Entry { segment: n as u32 / 10, ..entry(2 * n, 2) }));
    let before = changes::STEPS.get();
    let found: Vec<u64> = lane.in_segment(500).map(|entry| entry.position).collect();
    assert_eq!(found, (5_000..5_010).map(|n| 2 * n).collect::<Vec<u64>>());
    assert_eq!(lane.in_segment_mut(1_000).count(), 0);
    let steps = changes::STEPS.get() - before;
    assert!(steps < 60, "{steps}");
}
