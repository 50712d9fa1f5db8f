//! The end: deliver what is left, account for the rest.

use super::*;
use crate::error::{FailureReason, Persisted};

fn identity_holds(tally: Tally) {
    let sum = tally.delivered + tally.lost + tally.in_doubt + tally.in_memory + tally.in_flight;
    assert_eq!(tally.accepted, sum, "{tally:?}");
}

#[test]
fn closing_delivers_what_is_left_with_the_same_pauses() {
    let mut bench = Bench::established();
    (0..3).for_each(|_| bench.seal(1));
    bench.outbox.close();
    let sent = bench.poll().sent;
    assert_eq!(sent.len(), 3);
    bench.lose(&sent[0]);
    bench.lose(&sent[1]);
    bench.lose(&sent[2]);
    assert_eq!(bench.poll().until, Some(bench.now + Duration::from_millis(100)));
    bench.sleep();
    let head = bench.one();
    bench.ack(&head, 1);
    for sent in bench.poll().sent {
        bench.ack(&sent, 2);
    }
    assert!(bench.outbox.is_empty());
    assert_eq!(bench.delivered(), 4);
}

#[test]
fn closing_does_not_forget_the_pause_it_began_in() {
    let (mut bench, sent) = Bench::flying(&[1]);
    bench.lose(&sent[0]);
    let until = bench.poll().until;
    bench.outbox.close();
    bench.outbox.close();
    assert_eq!(bench.poll().until, until);
}

#[test]
fn what_may_be_written_is_not_called_lost_and_what_is_not_is_not_called_in_doubt() {
    let (mut bench, sent) = Bench::flying(&[1, 2, 3]);
    bench.seal(4);
    bench.lose(&sent[0]);
    bench.refuse(&sent[1], 45);
    bench.outbox.close();
    bench.outbox.abandon();
    let tally = bench.outbox.tally();
    // 1 was lost on the way, 3 is in flight; 2 was refused, 4 never sent.
    assert_eq!((tally.in_doubt, tally.lost, tally.delivered), (4, 6, 1));
    identity_holds(tally);
    let failed: Vec<(FailureReason, Persisted)> = bench
        .events()
        .into_iter()
        .filter_map(|event| match event {
            OutboxEvent::Failed { error, .. } => Some((error.reason, error.persisted)),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [(FailureReason::Shutdown, Persisted::No); 2]);
    // Its answer comes too late to count.
    bench.ack(&sent[2], 9);
    assert_eq!(bench.outbox.tally(), tally);
}

#[test]
fn numbers_given_up_in_doubt_are_not_called_lost_when_time_is_over() {
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.lose_all(&sent);
    let again = bench.one();
    bench.refuse(&again, 47);
    assert!(matches!(
        bench.outbox.poll_action(Some(bench.leader), bench.now, UNIX_MS),
        Action::InitProducerId { .. }
    ));
    bench.outbox.abandon();
    let tally = bench.outbox.tally();
    assert_eq!((tally.in_doubt, tally.lost), (2, 0));
}

#[test]
fn the_identity_of_accounting_holds_at_every_step() {
    let mut bench = Bench::new();
    identity_holds(bench.outbox.tally());
    for events in 1..6 {
        bench.seal(events);
        identity_holds(bench.outbox.tally());
    }
    let head = bench.one();
    identity_holds(bench.outbox.tally());
    bench.ack(&head, 0);
    let sent = bench.poll().sent;
    bench.refuse(&sent[0], 10);
    identity_holds(bench.outbox.tally());
    sent[1..].iter().for_each(|sent| bench.lose(sent));
    identity_holds(bench.outbox.tally());
    bench.outbox.abandon();
    identity_holds(bench.outbox.tally());
    assert_eq!(bench.outbox.tally().accepted, 15);
}
