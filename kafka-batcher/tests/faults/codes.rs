//! Every error code of the protocol, once, at every Produce: what passes by itself must not show.

use kafka_batcher_broker::{Api, Fault};
use kafka_batcher_core::{ErrorClass, ErrorCode, Persisted};

use crate::exchange::{Plan, Run};

/// Codes that speak of order and identity, and are tested as such.
const NUMBERS: [i16; 5] = [45, 46, 47, 59, 90];

fn codes(wanted: impl Fn(ErrorCode) -> bool) -> Vec<i16> {
    let numbers = |code: &ErrorCode| !NUMBERS.contains(&code.0);
    ErrorCode::ALL.iter().copied().filter(numbers).filter(|code| wanted(*code)).map(|code| code.0).collect()
}

#[tokio::test]
async fn a_retriable_code_before_the_append_does_not_show() {
    let codes = codes(|code| code.class() == ErrorClass::Retriable);
    assert!(codes.len() > 30);
    let faults: Vec<Fault> = codes.iter().map(|code| Fault::answer(*code).on(Api::Produce)).collect();
    Plan::short().unharmed_at_every_point(4, &faults).await;
}

#[tokio::test]
async fn a_code_that_a_broker_may_answer_after_the_append_does_not_show() {
    // The others come from checks that Kafka makes before it writes.
    let codes = codes(|code| code.persisted() == Persisted::Maybe);
    assert_eq!(codes, [-1, 3, 6, 7, 13, 20, 56]);
    let faults: Vec<Fault> =
        codes.iter().map(|code| Fault::answer_after_append(*code).on(Api::Produce)).collect();
    Plan::short().unharmed_at_every_point(4, &faults).await;
}

#[tokio::test]
async fn a_code_that_says_maybe_is_cleared_up_for_each_partition_alone() {
    let codes = codes(|code| code.persisted() == Persisted::Maybe);
    for code in codes {
        for fault in [Fault::answer(code), Fault::answer_after_append(code)] {
            let fault = fault.on(Api::Produce).partition("flights", 1).times(3);
            Plan::short().at_every_point(4, &fault, |_| {}, Run::assert_unharmed).await;
        }
    }
}

#[tokio::test]
async fn a_code_that_needs_somebody_holds_the_events_until_it_is_over() {
    let codes = codes(|code| code.class() == ErrorClass::Unavailable && code.persisted() == Persisted::No);
    // The first batch, and one in the middle, of each code; and a code of the future at every point.
    for code in codes {
        for k in [1, 5] {
            let fault = Fault::answer(code).on(Api::Produce).nth(k).times(2);
            let run = Plan::short()
                .run(|kafka| {
                    kafka.inject(fault);
                })
                .await;
            run.assert_unharmed();
        }
    }
    let future =
        [Fault::answer(30_000).on(Api::Produce), Fault::answer_after_append(30_000).on(Api::Produce)];
    Plan::short().unharmed_at_every_point(4, &future).await;
}

#[tokio::test]
async fn a_code_about_our_numbers_that_is_not_true_does_not_show() {
    for code in [45, 47, 59, 90] {
        let fault = Fault::answer(code).on(Api::Produce);
        Plan::one_broker().at_every_point(10, &fault, |_| {}, Run::assert_unharmed).await;
        let fault = fault.partition("flights", 1);
        Plan::one_broker().at_every_point(10, &fault, |_| {}, Run::assert_unharmed).await;
    }
}

#[tokio::test]
async fn a_refusal_without_a_culprit_ends_the_run_and_costs_nothing_when_it_is_not_repeated() {
    for code in [10, 18, 32, 87] {
        let fault = Fault::answer(code).on(Api::Produce);
        Plan::one_broker().at_every_point(10, &fault, |_| {}, Run::assert_unharmed).await;
        let fault = fault.partition("flights", 1);
        Plan::one_broker().at_every_point(10, &fault, |_| {}, Run::assert_unharmed).await;
    }
}
