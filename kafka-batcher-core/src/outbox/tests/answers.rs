//! Without numbers (acks 0 and 1), and answers with a meaning of their own.

use super::*;

fn plain() -> Bench {
    Bench::with(OutboxSettings { idempotent: false, ..settings() })
}

#[test]
fn without_numbers_a_second_batch_in_flight_could_overtake() {
    let mut bench = plain();
    (0..3).for_each(|_| bench.seal(1));
    let sent = bench.one();
    assert_eq!(sent.numbers(), (-1, -1, -1, 1));
    bench.ack(&sent, 0);
    bench.one();
}

#[test]
fn without_numbers_every_resend_after_a_lost_answer_is_a_possible_duplicate() {
    let mut bench = plain();
    bench.seal(3);
    let sent = bench.one();
    bench.lose_all(&[sent]);
    let again = bench.one();
    assert_eq!(bench.outbox.tally().possible_duplicates, 3);
    bench.lose_all(&[again]);
    bench.one();
    assert_eq!(bench.outbox.tally().possible_duplicates, 6);
}

#[test]
fn a_resend_that_never_left_is_no_duplicate() {
    let mut bench = plain();
    bench.seal(3);
    let sent = bench.one();
    bench.lose_all(&[sent]);
    let again = bench.one();
    bench.answer(&again, ProduceResult::NotSent { message: "refused".to_owned() });
    assert_eq!(bench.outbox.tally().possible_duplicates, 0);
    bench.sleep();
    bench.one();
    assert_eq!(bench.outbox.tally().possible_duplicates, 3);
}

#[test]
fn without_replicas_to_wait_for_a_moved_leader_leaves_no_doubt() {
    let mut bench = plain();
    bench.seal(3);
    let sent = bench.one();
    bench.refuse(&sent, 6);
    bench.sleep();
    bench.one();
    assert_eq!(bench.outbox.tally().possible_duplicates, 0);
}

#[test]
fn without_numbers_a_batch_too_large_is_split_and_nobody_is_asked() {
    let mut bench = plain();
    bench.seal(3);
    let sent = bench.one();
    bench.lose_all(&[sent]);
    let again = bench.one();
    bench.refuse(&again, 10);
    let left = bench.one();
    assert_eq!(left.numbers(), (-1, -1, -1, 1));
    bench.refuse(&left, 10);
    bench.one();
    // The attempt whose answer was lost may have written it.
    let tally = bench.outbox.tally();
    assert_eq!((tally.lost, tally.in_doubt), (0, 1));
}

#[test]
fn acks_0_has_no_offset() {
    let mut bench = plain();
    bench.seal(2);
    let sent = bench.one();
    bench.answer(&sent, ProduceResult::Acked { base_offset: None });
    assert!(matches!(bench.events()[..], [OutboxEvent::Delivered { base_offset: None, .. }]));
}

#[test]
fn a_duplicate_that_the_broker_names_is_written() {
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.lose_all(&sent);
    let again = bench.one();
    bench.events();
    bench.refuse(&again, 46);
    let written = |event: &OutboxEvent| matches!(event, OutboxEvent::Delivered { base_offset: None, .. });
    assert!(bench.events().iter().any(written));
}

#[test]
fn a_ticket_answered_twice_settles_one_batch() {
    let (mut bench, sent) = Bench::flying(&[2, 2]);
    bench.ack(&sent[0], 1);
    bench.ack(&sent[0], 1);
    bench.lose(&sent[0]);
    let tally = bench.outbox.tally();
    assert_eq!((tally.delivered, tally.in_flight, bench.outbox.in_flight()), (3, 2, 1));
}

#[test]
fn a_batch_that_waits_for_its_replicas_when_the_leader_moves_may_be_written() {
    // 6 in answer to acks = all: the new leader may hold it, and recognises it.
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.refuse(&sent[0], 6);
    bench.outbox.close();
    bench.outbox.abandon();
    assert_eq!(bench.outbox.tally().in_doubt, 2);
}
