//! Runs: one number one event, one in flight until established, holes, wraps (DESIGN.md, Delivery).

use super::*;

#[test]
fn before_the_first_acknowledgement_successors_would_overtake_a_refused_head() {
    // Seen: a fresh id, pipelined 0, 3, 6, of which 0 was too large: 10, ok, ok.
    let mut bench = Bench::new();
    (0..3).for_each(|_| bench.seal(3));
    let head = bench.one();
    bench.ack(&head, 0);
    assert_eq!(bench.poll().numbers(), [(100, 0, 3, 3), (100, 0, 6, 3)]);
}

#[test]
fn a_sixth_batch_in_flight_would_not_be_recognised_after_a_lost_answer() {
    let mut bench = Bench::with(OutboxSettings { max_in_flight: 50, ..settings() });
    (0..9).for_each(|_| bench.seal(1));
    let head = bench.one();
    bench.ack(&head, 0);
    let sent = bench.poll().sent;
    assert_eq!(sent.len(), 5);
    bench.ack(&sent[0], 1);
    assert_eq!(bench.one().numbers(), (100, 0, 6, 1));
}

#[test]
fn a_setting_of_two_in_flight_is_kept() {
    let mut bench = Bench::with(OutboxSettings { max_in_flight: 2, ..settings() });
    (0..4).for_each(|_| bench.seal(1));
    let head = bench.one();
    bench.ack(&head, 0);
    assert_eq!(bench.poll().sent.len(), 2);
}

/// After a change of `what` in the leader, one batch goes alone until it is acknowledged there.
fn goes_alone_after(what: impl Fn(&mut Leader)) {
    let mut bench = Bench::established();
    what(&mut bench.leader);
    (0..3).for_each(|_| bench.seal(1));
    let head = bench.one();
    bench.ack(&head, 1);
    assert_eq!(bench.poll().sent.len(), 2);
}

#[test]
fn another_leader_may_not_know_the_run_and_would_take_a_younger_batch_first() {
    goes_alone_after(|leader| leader.node = 2);
    goes_alone_after(|leader| leader.epoch += 1);
}

#[test]
fn over_another_connection_a_younger_batch_could_arrive_first() {
    goes_alone_after(|leader| leader.connection += 1);
}

#[test]
fn in_a_recreated_topic_nobody_knows_the_run() {
    goes_alone_after(|leader| leader.topic_id = TopicId([4; 16]));
}

#[test]
fn while_batches_are_in_flight_to_the_old_leader_none_goes_to_the_new_one() {
    let (mut bench, sent) = Bench::flying(&[1, 1]);
    let old = bench.leader;
    bench.leader = Leader { node: 2, epoch: 8, ..old };
    bench.seal(1);
    assert!(bench.poll().sent.is_empty());
    let answer = ProduceAnswer { result: ProduceResult::Acked { base_offset: Some(1) }, leader: Some(old) };
    bench.outbox.on_produced(sent[0].ticket, answer, bench.now);
    assert!(bench.poll().sent.is_empty());
}

#[test]
fn an_error_un_establishes_the_run() {
    let (mut bench, sent) = Bench::flying(&[1, 1]);
    bench.refuse(&sent[0], 19);
    bench.refuse(&sent[1], 45);
    bench.sleep();
    assert_eq!(bench.one().numbers(), (100, 0, 1, 1));
}

#[test]
fn events_older_than_an_hour_go_one_at_a_time_because_the_broker_may_forget_the_id_at_any_moment() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        let old = batch(1, bench.unix_ms - HOUR - 1);
        bench.outbox.on_sealed(old, bench.now);
    }
    let head = bench.one();
    bench.ack(&head, 0);
    let second = bench.one();
    bench.ack(&second, 1);
    assert_eq!(bench.one().numbers(), (100, 0, 2, 1));
}

#[test]
fn establishment_fades_with_the_time_of_the_events() {
    let mut bench = Bench::established();
    bench.unix_ms += HOUR;
    (0..2).for_each(|_| bench.seal(1));
    bench.one();
}

#[test]
fn a_resend_with_new_numbers_would_be_written_twice() {
    let (mut bench, sent) = Bench::flying(&[2, 3]);
    bench.lose_all(&sent);
    let again = bench.one();
    assert_eq!(again.numbers(), sent[0].numbers());
    bench.ack(&again, 1);
    assert_eq!(bench.one().numbers(), sent[1].numbers());
}

#[test]
fn a_sequence_that_does_not_wrap_at_2_to_the_31_looks_like_poison() {
    let mut bench = Bench::with(OutboxSettings { first_sequence: i32::MAX - 1, ..settings() });
    bench.seal(3);
    bench.seal(2);
    let head = bench.one();
    assert_eq!(head.numbers(), (100, 0, i32::MAX - 1, 3));
    bench.ack(&head, 0);
    let next = bench.one();
    assert_eq!(next.numbers(), (100, 0, 1, 2));
    // And doubt across the wrap is cleared as anywhere: 2 is beyond i32::MAX - 1.
    bench.lose_all(&[next]);
    let again = bench.one();
    bench.refuse(&again, 45);
    bench.asks();
    bench.knows(0, 2);
    let proof = bench.one();
    bench.ack(&proof, 3);
    assert_eq!(bench.delivered(), 5);
}

#[test]
fn behind_a_hole_the_old_run_would_be_out_of_order_for_ever() {
    let (mut bench, sent) = Bench::flying(&[1, 2, 2]);
    bench.refuse_records(&sent[0], 87, &[0]);
    bench.refuse(&sent[1], 45);
    bench.refuse(&sent[2], 45);
    // A new run: the own id, the partition's next epoch, from 0, and again alone.
    let head = bench.one();
    assert_eq!(head.numbers(), (100, 1, 0, 2));
    bench.ack(&head, 1);
    assert_eq!(bench.one().numbers(), (100, 1, 2, 2));
    assert_eq!(bench.outbox.tally().lost, 1);
}

#[test]
fn what_was_stamped_in_the_old_run_goes_five_deep_again_once_the_new_one_is_established() {
    let (mut bench, sent) = Bench::flying(&[1, 1, 1, 1]);
    bench.refuse_records(&sent[0], 87, &[0]);
    sent[1..].iter().for_each(|sent| bench.refuse(sent, 45));
    let head = bench.one();
    bench.ack(&head, 1);
    assert_eq!(bench.poll().numbers(), [(100, 1, 1, 1), (100, 1, 2, 1)]);
}

#[test]
fn a_batch_in_doubt_behind_a_hole_is_not_sent_in_a_new_run_before_the_doubt_is_cleared() {
    let (mut bench, sent) = Bench::flying(&[1, 2]);
    bench.refuse_records(&sent[0], 87, &[0]);
    bench.lose(&sent[1]);
    bench.sleep();
    bench.asks();
    bench.knows(0, 0);
    assert_eq!(bench.one().numbers(), (100, 1, 0, 2));
    assert_eq!(bench.outbox.tally().possible_duplicates, 0);
}

#[test]
fn a_broker_that_closes_each_connection_is_not_asked_without_pause() {
    let mut bench = Bench::new();
    bench.seal(1);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let sent = bench.one();
        bench.lose(&sent);
        // The connection is new each time; that alone is nobody new to ask.
        bench.leader.connection += 1;
        let until = bench.poll().until.expect("a pause");
        pauses.push(until.since(bench.now).as_millis());
        bench.now = until;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
}

#[test]
fn a_new_leader_is_asked_at_once_also_while_closing() {
    for closing in [false, true] {
        let (mut bench, sent) = Bench::flying(&[1]);
        bench.refuse(&sent[0], 6);
        if closing {
            bench.outbox.close();
        }
        assert!(bench.poll().until.is_some());
        (bench.leader.node, bench.leader.epoch) = (2, 8);
        bench.one();
    }
}

#[test]
fn a_question_asked_too_often_does_no_harm() {
    let (mut bench, sent) = Bench::flying(&[1, 1]);
    for _ in 0..10 {
        assert!(bench.poll().sent.is_empty());
    }
    bench.lose(&sent[0]);
    for _ in 0..10 {
        let until = bench.poll().until;
        assert_eq!(until, Some(bench.now + Duration::from_millis(100)));
    }
}

#[test]
fn without_a_known_leader_only_a_leader_helps() {
    let mut bench = Bench::new();
    bench.seal(1);
    let action = bench.outbox.poll_action(None, bench.now, UNIX_MS);
    // It is asked again once, to be able to say so.
    let Action::Wait { until: Some(until) } = action else { panic!("{action:?}") };
    bench.now = until;
    let action = bench.outbox.poll_action(None, bench.now, UNIX_MS);
    assert!(matches!(action, Action::Wait { until: None }));
    bench.one();
}

#[test]
fn a_topic_deleted_and_created_again_gets_what_was_not_delivered_in_a_new_run() {
    let (mut bench, sent) = Bench::flying(&[2, 2]);
    bench.refuse(&sent[0], 100);
    bench.lose(&sent[1]);
    bench.leader.topic_id = TopicId([4; 16]);
    bench.sleep();
    let head = bench.one();
    assert_eq!(head.numbers(), (100, 1, 0, 2));
    assert_eq!(bench.events().iter().filter(|e| matches!(e, OutboxEvent::TopicRecreated)).count(), 1);
    bench.ack(&head, 0);
    assert_eq!(bench.one().numbers(), (100, 1, 2, 2));
}

#[test]
fn a_broker_without_topic_ids_does_not_recreate_the_topic_at_every_answer() {
    let (mut bench, sent) = Bench::flying(&[2]);
    bench.leader.topic_id = TopicId::default();
    bench.lose_all(&sent);
    assert_eq!(bench.one().numbers(), sent[0].numbers());
}
