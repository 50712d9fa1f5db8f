//! Producer ids that are not given, and numbers without an id.

use kafka_batcher_broker::{Api, Fault};

use crate::exchange::{Plan, Run};

#[tokio::test]
async fn a_producer_id_that_is_refused_for_a_while_does_not_show() {
    for code in [7, 14, 15, 16, 31, 41, -1] {
        let fault = Fault::answer(code).on(Api::InitProducerId).times(3);
        Plan::short().at_every_point(1, &fault, |_| {}, Run::assert_unharmed).await;
    }
}

#[tokio::test]
async fn without_idempotence_a_lost_answer_shows_and_is_counted() {
    let plan = Plan::one_broker().with(|_, defaults| defaults.enable_idempotence = Some(false));
    let duplicated = std::cell::Cell::new(0);
    let fault = Fault::lose_answer().on(Api::Produce);
    let check = |run: &Run| {
        run.assert_at_least_once_and_counted();
        duplicated.set(duplicated.get() + run.tally().duplicated);
    };
    let points = plan.at_every_point(10, &fault, |_| {}, check).await;
    assert!(duplicated.get() as u64 >= points, "something is there twice for each of {points} points");
}

#[tokio::test]
async fn without_idempotence_a_lost_request_is_sent_again_and_order_holds() {
    for change in [
        (|_: &mut _, defaults: &mut kafka_batcher::CollectorSettings| defaults.required_acks = 1)
            as fn(&mut _, &mut _),
        |_, defaults| defaults.enable_idempotence = Some(false),
    ] {
        let plan = Plan::one_broker().with(change);
        let fault = Fault::lose_request().on(Api::Produce);
        plan.at_every_point(10, &fault, |_| {}, Run::assert_at_least_once_and_counted).await;
    }
}
