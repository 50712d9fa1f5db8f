//! What the dispatcher and its topic count together.

use std::time::Duration;

use kafka_batcher_broker::{EmbeddedKafka, ProducerMemory};
use kafka_batcher_core::Record;

use crate::{CollectorSettings, KafkaBatcher, MemoryStorage};

/// Events of the unassigned lane were counted as settled when they came to disk, and again when they got their partition: as
/// many later ones did not count as open, and a batcher that was dropped said nothing of losing them.
#[tokio::test]
async fn an_event_that_waited_for_its_topic_on_disk_is_settled_once() {
    let kafka = EmbeddedKafka::builder().topic("flights", 1).start().unwrap();
    let bootstrap = kafka.bootstrap();
    kafka.stop_broker(1).unwrap();
    let builder = KafkaBatcher::builder([bootstrap]).settings(|s| {
        (s.retry_backoff, s.retry_backoff_max) = (Duration::from_millis(5), Duration::from_millis(50));
    });
    let storage = MemoryStorage::default();
    let batcher = builder.storage(storage).spool_after(Duration::from_millis(50)).start().await.unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    let mut receipts = Vec::new();
    for _ in 0..10 {
        receipts.push(flights.send(Record::value("v")).await.unwrap());
    }
    for receipt in &receipts {
        receipt.durable().await.unwrap();
    }
    assert_eq!(flights.topic.unsettled(), 0);
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    for receipt in &receipts {
        receipt.delivered().await.unwrap();
    }
    let late = flights.send(Record::value("late")).await.unwrap();
    // Nothing else has run since.
    assert_eq!(flights.topic.unsettled(), 1);
    late.delivered().await.unwrap();
    assert_eq!(flights.topic.unsettled(), 0);
}

#[test]
fn a_timer_is_asked_for_early_but_a_short_linger_is_not_made_none_and_a_least_time_is_kept() {
    let late = |max_wait_time: u64, min_delay: u64| {
        let [max_wait_time, min_delay] = [max_wait_time, min_delay].map(Duration::from_millis);
        super::timer_late(&CollectorSettings { max_wait_time, min_delay, ..Default::default() }).as_micros()
    };
    assert_eq!([late(0, 0), late(1, 0), late(5, 0), late(60_000, 0), late(5, 1)], [0, 200, 1000, 1000, 0]);
    let settings = |adaptive_linger| CollectorSettings { adaptive_linger, ..Default::default() };
    let gap =
        |adaptive| super::early_gap(&settings(adaptive)).map(|gap| gap - super::timer_late(&settings(true)));
    assert_eq!([gap(true), gap(false)], [Some(settings(true).max_wait_time / 2), None]);
}
