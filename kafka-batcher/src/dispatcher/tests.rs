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

/// Each batch of a stream woke the dispatcher when it was opened, and again when it was due.
#[tokio::test]
async fn the_next_batch_of_a_stream_wakes_nobody_when_it_is_opened() {
    let kafka = EmbeddedKafka::builder().topic("flights", 1).start().unwrap();
    let batcher = KafkaBatcher::builder([kafka.bootstrap()]).start().await.unwrap();
    let wait = Duration::from_secs(1);
    let flights = batcher.collector("flights").settings(|s| s.max_wait_time = wait).build().unwrap();
    let topic = flights.topic.clone();
    // Its batches are those of a partition then.
    flights.send("known").await.unwrap().delivered().await.unwrap();
    let first = flights.send("first").await.unwrap();
    let due = topic.clock.now() + wait;
    first.delivered().await.unwrap();
    let armed = topic.next_due();
    assert!(armed.is_some_and(|at| at > due), "{armed:?}, and the batch was due before {due:?}");
    let second = flights.send("second").await.unwrap();
    assert_eq!(topic.next_due(), armed);
    second.delivered().await.unwrap();
    // Nothing comes any more: one look in vain, and no more.
    let quiet = async {
        while topic.next_due().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), quiet).await.unwrap();
    assert!(batcher.shutdown(Duration::from_secs(60)).await.all_delivered());
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
