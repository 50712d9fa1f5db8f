//! What the tests of the library share: an embedded broker, a batcher that talks to it, and what arrived.

#![allow(dead_code)] // each test binary uses its own part of it

pub(crate) mod rates;

use std::time::Duration;

use kafka_batcher::{CollectorSettings, KafkaBatcher, Settings};
use kafka_batcher_broker::EmbeddedKafka;

/// Longer than anything takes, so that only what hangs runs into it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// One broker with one topic `flights` of this many partitions.
pub(crate) fn kafka(partitions: i32) -> EmbeddedKafka {
    EmbeddedKafka::builder().topic("flights", partitions).start().expect("the embedded broker starts")
}

/// A batcher for that broker, its pauses short.
pub(crate) async fn batcher(kafka: &EmbeddedKafka) -> KafkaBatcher {
    batcher_with(&kafka.bootstrap(), |_, _| {}).await
}

/// A batcher with settings of the test's own.
pub(crate) async fn batcher_with(
    bootstrap: &str,
    change: impl FnOnce(&mut Settings, &mut CollectorSettings),
) -> KafkaBatcher {
    let mut settings = Settings::default();
    settings.retry_backoff = Duration::from_millis(5);
    settings.retry_backoff_max = Duration::from_millis(50);
    settings.request_timeout = Duration::from_secs(5);
    let mut defaults = CollectorSettings::default();
    change(&mut settings, &mut defaults);
    KafkaBatcher::builder(bootstrap.split(','))
        .settings(|s| {
            *s = {
                let mut new = settings;
                new.endpoints.clone_from(&s.endpoints);
                new
            }
        })
        .collector_defaults(|d| *d = defaults)
        .start()
        .await
        .expect("the batcher starts")
}

/// The values of a partition, in the order of offsets.
pub(crate) fn values(kafka: &EmbeddedKafka, partition: i32) -> Vec<String> {
    let value =
        |bytes: Option<bytes::Bytes>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    kafka.log("flights", partition).into_iter().map(|record| value(record.value)).collect()
}

/// Waits until something that only this process knows has happened. Gives way in between, to
/// tasks and threads alike; nothing hangs on how long it takes.
pub(crate) async fn until(mut happened: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !happened() {
        assert!(start.elapsed() < LONG, "it did not happen within {LONG:?}");
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}

/// The outcome of an event. It takes as long as it takes, but not for ever.
pub(crate) async fn outcome(
    receipt: &kafka_batcher::Receipt,
) -> Result<kafka_batcher::Delivery, kafka_batcher::ReceiptError> {
    tokio::time::timeout(LONG, receipt.delivered()).await.expect("the event's outcome becomes known")
}

/// Waits until the topic's partitions are known: events go to their slots from then on, not to the unassigned lane.
pub(crate) async fn ready(batcher: &KafkaBatcher, topic: &str) {
    let mut health = batcher.health();
    let known = |health: &kafka_batcher::Health| {
        matches!(health.topics.get(topic), Some(kafka_batcher::TopicHealth::Ready { .. }))
    };
    health.wait_for(known).await.expect("the batcher lives");
    // Told by the watcher; the dispatcher answers after it has learnt the same.
    let _ = batcher.report().await;
}
