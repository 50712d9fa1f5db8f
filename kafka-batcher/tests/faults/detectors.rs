//! The comparison itself: planted loss, duplicates and disorder are seen, each as what it is.

use kafka_batcher::Record;
use kafka_batcher_broker::{Api, Fault};

use crate::exchange::{Plan, Run, TOPIC};
use crate::support::{LONG, batcher_with};

#[tokio::test]
async fn a_log_cut_after_the_acknowledgement_shows_as_lost() {
    let run = Plan::one_broker().run(|_| {}).await;
    run.assert_unharmed();
    let end = |run: &Run| run.kafka.offsets(TOPIC, 1).expect("a partition").1;
    let before = end(&run);
    run.kafka.truncate_log(TOPIC, 1, before - 120).expect("a partition");
    let cut = usize::try_from(before - end(&run)).expect("fewer");
    let tally = run.tally();
    assert!(cut >= 120);
    assert_eq!((tally.lost, tally.duplicated, tally.reordered), (cut, 0, 0), "{tally}");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.assert_unharmed()));
    assert!(caught.is_err());
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.assert_receipts_agree_with_the_log()));
    assert!(caught.is_err(), "receipts name what is gone");
}

#[tokio::test]
async fn a_log_cut_while_events_flow_loses_what_was_acknowledged_and_nothing_else() {
    for k in 3..12 {
        let cut = |kafka: &kafka_batcher_broker::EmbeddedKafka| {
            let end = kafka.offsets(TOPIC, 0).expect("a partition").1;
            kafka.truncate_log(TOPIC, 0, (end - 60).max(0)).expect("a partition");
        };
        let mut id = None;
        let fault = Fault::call_before(cut).on(Api::Produce).partition(TOPIC, 0).nth(k);
        let run = Plan::one_broker().run(|kafka| id = Some(kafka.inject(fault))).await;
        assert_eq!(id.map(|id| run.kafka.fault_hits(id)), Some(1));
        let tally = run.tally();
        assert_eq!((tally.duplicated, tally.reordered, tally.unexpected), (0, 0, 0), "{k}: {tally}");
        assert!((1..=130).contains(&tally.lost), "{k}: {tally}");
        run.assert_accounts();
        assert!(run.report.all_delivered(), "all were acknowledged once: {:?}", run.report);
    }
}

#[tokio::test]
async fn acks_zero_and_a_lost_request_show_as_lost() {
    let plan = Plan::one_broker().with(|_, defaults| defaults.required_acks = 0);
    let run = plan
        .run(|kafka| {
            kafka.inject(Fault::lose_request().on(Api::Produce).nth(4));
        })
        .await;
    let tally = run.tally();
    assert!(tally.lost > 0 && tally.duplicated == 0 && tally.reordered == 0, "{tally}");
}

#[tokio::test]
async fn what_another_producer_sends_again_shows_as_duplicated() {
    let run = Plan::short().run(|_| {}).await;
    run.assert_unharmed();
    send_by_another(&run.kafka, &[0, 2]).await;
    let tally = run.tally();
    assert_eq!((tally.lost, tally.duplicated, tally.reordered), (0, 2, 0), "{tally}");
}

#[tokio::test]
async fn what_is_written_behind_a_younger_one_shows_as_reordered() {
    let run = Plan::short().run(|_| {}).await;
    let last: Vec<u32> = run.log()[&0].iter().rev().take(2).copied().collect();
    let end = run.kafka.offsets(TOPIC, 0).expect("a partition").1;
    run.kafka.truncate_log(TOPIC, 0, end - 1).expect("a partition");
    let cut: Vec<u32> = run.accepted()[&0].iter().copied().filter(|e| !run.log()[&0].contains(e)).collect();
    assert!(cut.ends_with(&[last[1], last[0]]), "{cut:?} were cut");
    let mut turned = cut.clone();
    turned.swap(0, 1);
    send_by_another(&run.kafka, &turned).await;
    let tally = run.tally();
    assert_eq!((tally.lost, tally.duplicated, tally.reordered), (0, 0, 1), "{tally}");
}

async fn send_by_another(kafka: &kafka_batcher_broker::EmbeddedKafka, events: &[u32]) {
    let another = batcher_with(&kafka.bootstrap(), |_, _| {}).await;
    let flights = another.collector(TOPIC).build().expect("a collector");
    for event in events {
        flights.add_event(Record::value(&event.to_string()).with_partition(0)).await.expect("accepted");
    }
    assert!(another.shutdown(LONG).await.all_delivered());
}
