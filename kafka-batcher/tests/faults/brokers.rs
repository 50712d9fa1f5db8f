//! Brokers that stop, die, restart with and without their memory, and leaders that move.

use kafka_batcher_broker::{Api, EmbeddedKafka, Fault, ProducerMemory};

use crate::exchange::{Plan, Run, TOPIC};
use crate::support::LONG;

/// The same, before the request is served and before it is answered.
fn both(action: impl Fn(&EmbeddedKafka) + Send + Sync + Clone + 'static) -> [Fault; 2] {
    [Fault::call_before(action.clone()).on(Api::Produce), Fault::call_after(action).on(Api::Produce)]
}

fn restart_all(memory: ProducerMemory) -> impl Fn(&EmbeddedKafka) + Send + Sync + Clone {
    move |kafka| {
        for (broker, _) in (1..).zip(kafka.addresses()) {
            kafka.restart_broker(broker, memory).expect("a broker");
        }
    }
}

#[tokio::test]
async fn a_restart_that_remembers_the_last_batch_does_not_show() {
    for memory in [ProducerMemory::LastBatch, ProducerMemory::Whole] {
        for plan in [Plan::one_broker(), Plan::three_brokers()] {
            plan.unharmed_at_every_point(10, &both(restart_all(memory))).await;
        }
    }
}

#[tokio::test]
async fn a_restart_that_forgets_everything_loses_and_reorders_nothing_and_writes_twice_what_was_in_doubt_at_most()
 {
    // No client can tell a resend that was recognised from one that was taken for new; a Kafka forgets like this only by event time, or
    // when it loses its disk.
    for fault in both(restart_all(ProducerMemory::Nothing)) {
        let plan = Plan::one_broker();
        let check = |run: &Run| {
            let tally = run.assert_at_least_once();
            let in_flight = 5 * plan.batch_size as usize * plan.partitions as usize;
            assert!(tally.duplicated <= in_flight, "{tally}");
        };
        plan.at_every_point(10, &fault, |_| {}, check).await;
    }
}

#[tokio::test]
async fn restarts_in_a_row_do_not_show() {
    for fault in both(restart_all(ProducerMemory::LastBatch)) {
        Plan::one_broker().at_every_point(10, &fault.times(4), |_| {}, Run::assert_unharmed).await;
    }
}

#[tokio::test]
async fn a_restart_where_producers_may_not_be_described_does_not_show() {
    for fault in both(restart_all(ProducerMemory::LastBatch)) {
        let refused = |kafka: &EmbeddedKafka| {
            kafka.refuse_describe_producers();
        };
        Plan::one_broker().at_every_point(10, &fault, refused, Run::assert_unharmed).await;
    }
}

#[tokio::test]
async fn lost_answers_where_producers_may_not_be_described_do_not_show() {
    for fault in [Fault::lose_request(), Fault::lose_answer()] {
        let fault = fault.on(Api::Produce).times(2);
        let refused = |kafka: &EmbeddedKafka| {
            kafka.refuse_describe_producers();
        };
        Plan::one_broker().at_every_point(10, &fault, refused, Run::assert_unharmed).await;
    }
}

/// Stops the broker that leads partition 0 by `stop`; at the second Metadata after that it is back.
fn stop_for_a_while(
    stop: fn(&EmbeddedKafka, i32),
    restart: fn(&EmbeddedKafka, i32),
) -> impl Fn(&EmbeddedKafka) + Send + Sync + Clone + 'static {
    move |kafka| {
        let Some((leader, _)) = kafka.leader(TOPIC, 0) else { return };
        stop(kafka, leader);
        kafka.inject(Fault::call_before(move |kafka| restart(kafka, leader)).on(Api::Metadata).nth(2));
    }
}

fn back(kafka: &EmbeddedKafka, broker: i32) {
    kafka.restart_broker(broker, ProducerMemory::LastBatch).expect("a broker");
}

#[tokio::test]
async fn a_broker_that_is_stopped_for_a_while_does_not_show() {
    let stop = |kafka: &EmbeddedKafka, broker| kafka.stop_broker(broker).expect("a broker");
    Plan::three_brokers().unharmed_at_every_point(10, &both(stop_for_a_while(stop, back))).await;
}

#[tokio::test]
async fn a_broker_that_dies_unnoticed_for_a_while_does_not_show() {
    let kill = |kafka: &EmbeddedKafka, broker| kafka.kill_broker(broker).expect("a broker");
    let noticed_and_back = |kafka: &EmbeddedKafka, broker: i32| {
        kafka.notice_deaths();
        back(kafka, broker);
    };
    let plan = Plan::three_brokers();
    plan.unharmed_at_every_point(10, &both(stop_for_a_while(kill, noticed_and_back))).await;
    plan.unharmed_at_every_point(10, &both(stop_for_a_while(kill, back))).await;
}

#[tokio::test]
async fn a_frozen_broker_is_left_when_its_time_is_over_and_what_it_serves_later_does_not_show() {
    // The client's connections to it end with the request's time; what it had read is served when it is thawed.
    let freeze = |kafka: &EmbeddedKafka, broker| kafka.freeze(broker).expect("a broker");
    let thaw = |kafka: &EmbeddedKafka, broker| kafka.thaw(broker).expect("a broker");
    let plan = Plan::three_brokers().impatient();
    plan.unharmed_at_every_point(10, &both(stop_for_a_while(freeze, thaw))).await;
}

#[tokio::test]
async fn a_frozen_leader_is_left_for_the_new_one_whatever_a_connection_may_take() {
    // The story: the leader froze, its connection was given up, the batch waited for the next one (the system accepts it, the broker says
    // nothing) for all of `connect_timeout`, and nobody asked it to come out when another broker took over.
    let patient = |settings: &mut kafka_batcher::Settings, _: &mut _| settings.connect_timeout = 10 * LONG;
    let freeze_for_good = |kafka: &EmbeddedKafka| {
        let Some((frozen, _)) = kafka.leader(TOPIC, 0) else { return };
        kafka.freeze(frozen).expect("a broker");
        // The cluster notices late: the client must have asked several times, whatever else it waits for.
        let elect = move |kafka: &EmbeddedKafka| {
            for partition in 0..6 {
                if kafka.leader(TOPIC, partition).is_some_and(|(leader, _)| leader == frozen) {
                    kafka.move_leader(TOPIC, partition, frozen % 3 + 1).expect("a partition");
                }
            }
        };
        kafka.inject(Fault::call_after(elect).on(Api::Metadata).nth(6));
    };
    let plan = Plan::three_brokers().impatient().with(patient);
    plan.unharmed_at_every_point(10, &both(freeze_for_good)).await;
}

#[tokio::test]
async fn leaders_that_move_do_not_show() {
    let move_on = |kafka: &EmbeddedKafka| {
        for partition in 0..6 {
            let leader = kafka.leader(TOPIC, partition).map_or(1, |(leader, _)| leader);
            kafka.move_leader(TOPIC, partition, leader % 3 + 1).expect("a partition");
        }
    };
    let plan = Plan::three_brokers();
    plan.unharmed_at_every_point(10, &both(move_on)).await;
    for fault in both(move_on) {
        plan.at_every_point(10, &fault.times(5), |_| {}, Run::assert_unharmed).await;
    }
}

#[tokio::test]
async fn a_partition_without_a_leader_for_a_while_does_not_show() {
    let orphan = |kafka: &EmbeddedKafka| {
        let leader = kafka.leader(TOPIC, 1).map_or(1, |(leader, _)| leader);
        kafka.remove_leader(TOPIC, 1).expect("a partition");
        let give_back = move |kafka: &EmbeddedKafka| drop(kafka.move_leader(TOPIC, 1, leader));
        kafka.inject(Fault::call_before(give_back).on(Api::Metadata).nth(2));
    };
    for plan in [Plan::one_broker(), Plan::three_brokers()] {
        plan.unharmed_at_every_point(10, &both(orphan)).await;
    }
}

#[tokio::test]
async fn a_leader_that_moves_while_an_answer_is_lost_does_not_show() {
    // The next question goes to another broker than the one that wrote; it holds the same log.
    for lose in [Fault::lose_request(), Fault::lose_answer()] {
        for k in 1..12 {
            let lose = lose.clone().on(Api::Produce).nth(k).times(2);
            let run = Plan::three_brokers()
                .run(|kafka| {
                    kafka.inject(lose);
                    let swap = |kafka: &EmbeddedKafka| {
                        for partition in 0..6 {
                            let leader = kafka.leader(TOPIC, partition).map_or(1, |(leader, _)| leader);
                            kafka.move_leader(TOPIC, partition, (leader + 1) % 3 + 1).expect("a partition");
                        }
                    };
                    kafka.inject(Fault::call_after(swap).on(Api::Produce).nth(k));
                })
                .await;
            run.assert_unharmed();
        }
    }
}
