//! Refused for good: split, cut, held (DESIGN.md, Delivery).

use super::*;
use crate::error::{FailureReason, Persisted};

fn failures(bench: &mut Bench) -> Vec<(FailureReason, u32)> {
    let failure = |event| match event {
        OutboxEvent::Failed { batch, error, .. } => {
            assert_eq!(error.persisted, Persisted::No);
            Some((error.reason, batch.count()))
        }
        _ => None,
    };
    bench.events().into_iter().filter_map(failure).collect()
}

#[test]
fn a_split_that_gave_new_numbers_would_swallow_or_double_events() {
    let (mut bench, sent) = Bench::flying(&[5, 1]);
    bench.refuse(&sent[0], 10);
    bench.refuse(&sent[1], 45);
    let left = bench.one();
    assert_eq!(left.numbers(), (100, 0, 1, 2));
    bench.ack(&left, 1);
    assert_eq!(bench.poll().numbers(), [(100, 0, 3, 3), (100, 0, 6, 1)]);
}

#[test]
fn a_flush_is_not_over_while_a_part_of_its_batch_is_left() {
    let (mut bench, sent) = Bench::flying(&[4]);
    let mark = bench.outbox.next_ordinal();
    bench.refuse(&sent[0], 10);
    let left = bench.one();
    bench.ack(&left, 1);
    assert!(!bench.outbox.settled_below(mark));
    let right = bench.one();
    bench.ack(&right, 3);
    assert!(bench.outbox.settled_below(mark));
}

#[test]
fn a_single_event_too_large_fails_and_its_neighbours_arrive_in_order() {
    let (mut bench, sent) = Bench::flying(&[3]);
    bench.refuse(&sent[0], 10);
    let first = bench.one();
    assert_eq!(first.numbers(), (100, 0, 1, 1));
    bench.refuse(&first, 10);
    // The hole ends the run.
    let rest = bench.one();
    assert_eq!(failures(&mut bench), [(FailureReason::TooLarge, 1)]);
    assert_eq!(rest.numbers(), (100, 1, 0, 2));
    bench.ack(&rest, 1);
    assert_eq!(bench.delivered(), 3);
}

#[test]
fn a_younger_batch_too_large_waits_for_the_head() {
    let (mut bench, sent) = Bench::flying(&[1, 4]);
    bench.refuse(&sent[1], 10);
    assert!(bench.poll().sent.is_empty());
    bench.ack(&sent[0], 1);
    assert_eq!(bench.poll().numbers(), [(100, 0, 2, 2), (100, 0, 4, 2)]);
}

#[test]
fn a_poisoned_record_that_the_broker_names_would_take_its_neighbours_along() {
    let (mut bench, sent) = Bench::flying(&[4, 2]);
    bench.refuse_records(&sent[0], 87, &[1, 3, 77]);
    bench.refuse(&sent[1], 45);
    let rest = bench.one();
    assert_eq!(failures(&mut bench), [(FailureReason::Rejected, 1), (FailureReason::Rejected, 1)]);
    assert_eq!(rest.numbers(), (100, 1, 0, 2));
    bench.ack(&rest, 1);
    assert_eq!(bench.one().numbers(), (100, 1, 2, 2));
}

#[test]
fn a_whole_batch_refused_without_a_culprit_may_have_a_header_of_ours_to_blame() {
    let (mut bench, sent) = Bench::flying(&[4]);
    bench.refuse(&sent[0], 87);
    // First new numbers, then halves, down to the record.
    let restamped = bench.one();
    assert_eq!(restamped.numbers(), (100, 1, 0, 4));
    bench.refuse(&restamped, 87);
    let left = bench.one();
    assert_eq!(left.numbers(), (100, 1, 0, 2));
    bench.ack(&left, 1);
    let right = bench.one();
    assert_eq!(right.numbers(), (100, 1, 2, 2));
    bench.refuse(&right, 87);
    let third = bench.one();
    assert_eq!(third.numbers(), (100, 1, 2, 1));
    bench.refuse(&third, 87);
    let fourth = bench.one();
    assert_eq!(failures(&mut bench), [(FailureReason::Rejected, 1)]);
    assert_eq!(fourth.numbers(), (100, 2, 0, 1));
    bench.ack(&fourth, 3);
    assert_eq!((bench.delivered(), bench.outbox.tally().lost), (4, 1));
}

#[test]
fn a_refused_time_that_we_assigned_is_not_the_events_fault() {
    let (mut bench, sent) = Bench::flying(&[2, 1]);
    bench.refuse_records(&sent[0], 32, &[0, 1]);
    bench.refuse(&sent[1], 45);
    assert!(matches!(bench.troubles()[..], [Trouble::Held(_)]));
    let until = bench.poll().until.expect("it is held, and tried again");
    bench.now = until;
    let again = bench.one();
    assert_eq!(again.numbers(), sent[0].numbers());
    bench.ack(&again, 1);
    assert_eq!((bench.delivered(), bench.outbox.tally().lost), (3, 0));
}

#[test]
fn a_refused_time_that_the_user_gave_would_hold_the_partition_for_ever() {
    let mut bench = Bench::established();
    let given = batch_of(&[None, Some(1), None], bench.unix_ms);
    bench.outbox.on_sealed(given, bench.now);
    let sent = bench.one();
    bench.refuse_records(&sent, 32, &[1]);
    assert_eq!(bench.one().numbers(), (100, 1, 0, 2));
    assert_eq!(failures(&mut bench), [(FailureReason::Rejected, 1)]);
}

#[test]
fn among_given_and_assigned_times_the_refused_one_is_found_by_halving() {
    let mut bench = Bench::established();
    let mixed = batch_of(&[None, Some(1)], bench.unix_ms);
    bench.outbox.on_sealed(mixed, bench.now);
    let sent = bench.one();
    bench.refuse(&sent, 32);
    // Nobody is named. Halved, each keeps whose time it is.
    let ours = bench.one();
    assert_eq!(ours.numbers(), (100, 0, 1, 1));
    bench.refuse(&ours, 32);
    assert_eq!(failures(&mut bench), []);
    bench.sleep();
    let ours = bench.one();
    bench.ack(&ours, 1);
    let given = bench.one();
    bench.refuse(&given, 32);
    assert!(bench.poll().sent.is_empty());
    assert_eq!(failures(&mut bench), [(FailureReason::Rejected, 1)]);
}

#[test]
fn a_missing_permission_holds_the_batch_and_is_told_once() {
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.refuse(&sent[0], 29);
    for _ in 0..3 {
        bench.sleep();
        let again = bench.one();
        assert_eq!(again.numbers(), sent[0].numbers());
        bench.refuse(&again, 29);
    }
    assert!(matches!(bench.troubles()[..], [Trouble::Held(_)]));
    bench.sleep();
    let again = bench.one();
    bench.ack(&again, 1);
    assert!(bench.events().iter().any(|event| matches!(event, OutboxEvent::Recovered)));
}

#[test]
fn a_trouble_that_needs_somebody_is_told_although_a_passing_one_was_told_before() {
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.lose_all(&sent);
    let again = bench.one();
    bench.refuse(&again, 29);
    bench.sleep();
    let again = bench.one();
    bench.lose(&again);
    assert!(matches!(bench.troubles()[..], [Trouble::NoAnswer { .. }, Trouble::Held(_)]));
    assert!(matches!(bench.outbox.trouble(), Some(Trouble::Held(_))));
}

#[test]
fn a_code_that_nobody_knows_loses_nothing() {
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.refuse(&sent[0], 9_999);
    bench.sleep();
    assert_eq!(bench.one().numbers(), sent[0].numbers());
}
