//! Requests and answers that get lost, late, or never come.

use std::time::Duration;

use kafka_batcher_broker::{Api, EmbeddedKafka, Fault};

use crate::exchange::{Plan, Run, confuse};

/// Every kind of request that a producer makes without being in doubt, with the least number of points it must have.
const ASKED: [(Api, u64); 4] =
    [(Api::Produce, 10), (Api::Metadata, 1), (Api::InitProducerId, 1), (Api::ApiVersions, 1)];

fn drop_all(kafka: &EmbeddedKafka) {
    for broker in 1..=3 {
        // With one broker there is no second.
        let _ = kafka.drop_connections(broker);
    }
}

fn lossy() -> Vec<Fault> {
    vec![
        Fault::lose_request(),
        Fault::lose_answer(),
        Fault::call_before(drop_all),
        Fault::call_after(drop_all),
    ]
}

fn slow() -> Vec<Fault> {
    let by = Duration::from_millis(2);
    vec![Fault::delay(by), Fault::delay_answer(by), Fault::throttle(by)]
}

async fn everywhere(plan: &Plan, faults: Vec<Fault>) {
    for (api, least) in ASKED {
        let faults: Vec<Fault> = faults.iter().map(|fault| fault.clone().on(api)).collect();
        plan.unharmed_at_every_point(least, &faults).await;
    }
}

#[tokio::test]
async fn one_broker_lost_requests_lost_answers_and_dropped_connections_do_not_show() {
    everywhere(&Plan::one_broker(), lossy()).await;
}

#[tokio::test]
async fn three_brokers_lost_requests_lost_answers_and_dropped_connections_do_not_show() {
    everywhere(&Plan::three_brokers(), lossy()).await;
}

#[tokio::test]
async fn delays_and_throttling_do_not_show() {
    everywhere(&Plan::one_broker(), slow()).await;
    everywhere(&Plan::three_brokers(), slow()).await;
}

#[tokio::test]
async fn a_broker_that_goes_silent_is_left_when_its_time_is_over() {
    let silent = || vec![Fault::never_serve(), Fault::never_answer()];
    everywhere(&Plan::one_broker().impatient(), silent()).await;
    everywhere(&Plan::three_brokers().impatient(), silent()).await;
}

#[tokio::test]
async fn the_question_that_settles_a_doubt_may_get_lost_too() {
    let plan = Plan::one_broker();
    for fault in lossy().into_iter().chain(slow()) {
        let fault = fault.on(Api::DescribeProducers);
        plan.at_every_point(1, &fault, confuse, Run::assert_once).await;
    }
    let plan = plan.impatient();
    for fault in [Fault::never_serve(), Fault::never_answer()] {
        let fault = fault.on(Api::DescribeProducers);
        plan.at_every_point(1, &fault, confuse, Run::assert_once).await;
    }
}

#[tokio::test]
async fn every_answer_but_the_last_of_many_may_get_lost() {
    for fault in [Fault::lose_request(), Fault::lose_answer()] {
        let plan = Plan::one_broker();
        plan.at_every_point(10, &fault.on(Api::Produce).times(7), |_| {}, Run::assert_unharmed).await;
    }
}
