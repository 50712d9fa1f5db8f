//! Producer ids and epochs (DESIGN.md, Delivery).

use super::*;

fn action(bench: &mut Bench) -> Action {
    bench.outbox.poll_action(Some(bench.leader), bench.now, bench.unix_ms)
}

#[test]
fn an_id_of_minus_one_stamped_would_turn_idempotence_off() {
    let mut bench = Bench::new();
    bench.seal(1);
    assert!(matches!(action(&mut bench), Action::InitProducerId { other_than: None }));
    bench.outbox.on_identity(ProducerIdentity { id: -1, epoch: -1 });
    // Refused, told, and asked for again after a pause.
    let Action::Wait { until: Some(until) } = action(&mut bench) else { panic!("it must wait") };
    assert!(matches!(bench.troubles()[..], [Trouble::NoIdentity { .. }]));
    bench.now = until;
    assert_eq!(bench.one().numbers(), (100, 0, 0, 1));
}

#[test]
fn a_cluster_that_refuses_an_id_holds_the_batches_and_is_asked_again() {
    let mut bench = Bench::new();
    bench.seal(1);
    assert!(matches!(action(&mut bench), Action::InitProducerId { .. }));
    bench.outbox.on_identity_failed("31 CLUSTER_AUTHORIZATION_FAILED".to_owned(), bench.now);
    assert!(matches!(action(&mut bench), Action::Wait { until: Some(_) }));
    assert!(matches!(bench.troubles()[..], [Trouble::NoIdentity { .. }]));
    bench.sleep();
    let sent = bench.one();
    assert_eq!(sent.numbers(), (100, 0, 0, 1));
    bench.ack(&sent, 0);
    assert_eq!(bench.delivered(), 1);
}

#[test]
fn the_identity_is_asked_for_once() {
    let mut bench = Bench::new();
    bench.seal(1);
    assert!(matches!(action(&mut bench), Action::InitProducerId { .. }));
    bench.seal(1);
    assert!(matches!(action(&mut bench), Action::Wait { until: None }));
}

#[test]
fn an_epoch_beyond_32767_would_be_negative() {
    let mut bench = Bench::new();
    bench.first_epoch = i16::MAX;
    bench.seal(1);
    bench.seal(1);
    let poison = bench.one();
    assert_eq!(poison.numbers(), (100, i16::MAX, 0, 1));
    bench.refuse_records(&poison, 87, &[0]);
    // The epochs are used up: another id.
    bench.first_epoch = 0;
    assert_eq!(bench.one().numbers(), (101, 0, 0, 1));
}

#[test]
fn an_id_that_is_used_up_and_comes_again_would_give_its_numbers_twice() {
    let (mut bench, sent) = Bench::flying(&[1]);
    bench.refuse(&sent[0], 47);
    assert!(matches!(action(&mut bench), Action::InitProducerId { other_than: Some(100) }));
    bench.outbox.on_identity(ProducerIdentity { id: 100, epoch: 0 });
    assert!(matches!(action(&mut bench), Action::Wait { until: Some(_) }));
    bench.sleep();
    assert_eq!(bench.one().numbers(), (101, 0, 0, 1));
}

#[test]
fn an_identity_that_nobody_asked_for_would_begin_the_same_run_again() {
    let (mut bench, sent) = Bench::flying(&[1, 1]);
    bench.refuse_records(&sent[0], 87, &[0]);
    bench.refuse(&sent[1], 45);
    bench.outbox.on_identity(ProducerIdentity { id: 100, epoch: 0 });
    assert_eq!(bench.one().numbers(), (100, 1, 0, 1));
}

#[test]
fn fenced_or_forgotten_numbers_are_not_the_end() {
    for code in [47, 59, 90] {
        let (mut bench, sent) = Bench::flying(&[2]);
        bench.refuse(&sent[0], code);
        assert_eq!(bench.one().numbers(), (101, 0, 0, 2), "code {code}");
        assert_eq!(bench.outbox.tally().possible_duplicates, 0);
    }
}

#[test]
fn a_fenced_batch_that_may_be_written_is_admitted_as_a_possible_duplicate() {
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.lose_all(&sent);
    let again = bench.one();
    bench.refuse(&again, 47);
    bench.one();
    assert_eq!(bench.outbox.tally().possible_duplicates, 2);
}

#[test]
fn somebody_who_goes_on_with_our_id_proves_nothing_about_us() {
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.lose_all(&sent);
    let again = bench.one();
    bench.refuse(&again, 45);
    bench.asks();
    bench.knows(9, 500);
    assert_eq!(bench.one().numbers(), (101, 0, 0, 2));
    assert_eq!(bench.outbox.tally().possible_duplicates, 2);
}

#[test]
fn a_broker_that_refuses_every_number_is_not_asked_without_pause() {
    let mut bench = Bench::new();
    bench.seal(1);
    let mut rounds = 0;
    loop {
        let mut round = bench.poll();
        let Some(sent) = round.sent.pop() else {
            assert!(round.until.is_some());
            break;
        };
        bench.refuse(&sent, 47);
        rounds += 1;
        assert!(rounds < 10);
    }
    assert_eq!(bench.troubles().len(), 1);
}
