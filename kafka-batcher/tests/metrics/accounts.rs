//! The accounts add up in every scrape, whatever goes on meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};

use kafka_batcher::{KafkaBatcher, prometheus};
use kafka_batcher_testkit::Scrape;

use super::{PREFIX, TOPIC, builder, scrape, scrape_until};
use crate::support::{LONG, kafka, ready};

/// The story: an event that was sealed between two looks, at what is open and at what is queued, was in neither; so the count of
/// accepted events fell, and Prometheus takes that for a restart and a rate of millions.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_accounts_add_up_in_every_scrape_and_no_counter_falls_while_callers_go_on() {
    let kafka = kafka(4);
    let registry = prometheus::Registry::new();
    let batcher = builder(&kafka).metrics_registry(registry.clone()).start().await.unwrap();
    let flights = batcher.collector(TOPIC).settings(|s| s.batch_size = 50).build().unwrap();
    ready(&batcher, TOPIC).await;
    let callers = (0..4).map(|caller| {
        let flights = flights.clone();
        tokio::spawn(async move {
            for n in 0..25_000u32 {
                flights.add_event((format!("{caller}-{n}").as_str(), "value")).await.unwrap();
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let (mut last, mut gathered) = (Scrape::default(), Scrape::default());
    let scrapes = AtomicU32::new(0);
    scrape_until(&batcher, &mut last, |scrape| {
        scrapes.fetch_add(1, Ordering::Relaxed);
        // What somebody sees who only has the registry adds up, too.
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let now = Scrape::parse(&text);
        now.balances(PREFIX, TOPIC);
        now.follows(&gathered);
        gathered = now;
        scrape.value("kafka_batcher_events_delivered_total", &[]) == 100_000.0
    })
    .await;
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(scrapes.load(Ordering::Relaxed) > 10);
    assert_eq!(last.value("kafka_batcher_events_accepted_total", &[]), 100_000.0);
    assert_eq!(last.value("kafka_batcher_events", &[]), 0.0);
    assert_eq!(last.value("kafka_batcher_oldest_undelivered_age_seconds", &[]), 0.0);
    assert!(last.value("kafka_batcher_batches_sealed_total", &[("reason", "count")]) > 0.0);
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered());
    // The last word stays.
    let after = scrape(&batcher).await;
    after.balances(PREFIX, TOPIC);
    after.follows(&last);
    assert_eq!(after.value("kafka_batcher_batches_delivered_total", &[]), report.batches as f64);
    assert_eq!(after.value("kafka_batcher_delivered_bytes_total", &[]), report.bytes as f64);
}

#[tokio::test]
async fn an_event_is_counted_and_ages_before_anybody_knows_its_topic() {
    let kafka = kafka_batcher_broker::EmbeddedKafka::builder().start().unwrap();
    let batcher = builder(&kafka).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    flights.add_event("one").await.unwrap();
    let mut last = Scrape::default();
    scrape_until(&batcher, &mut last, |scrape| {
        scrape.value("kafka_batcher_oldest_undelivered_age_seconds", &[]) > 0.0
            && scrape.value("kafka_batcher_topic_health", &[("state", "unavailable")]) == 1.0
    })
    .await;
    assert_eq!(last.value("kafka_batcher_events", &[("state", "in_memory")]), 1.0);
    let report = batcher.shutdown(std::time::Duration::ZERO).await;
    assert_eq!(report.lost, 1);
    scrape_until(&batcher, &mut last, |scrape| scrape.value("kafka_batcher_events_lost_total", &[]) == 1.0)
        .await;
}

#[tokio::test]
async fn what_is_refused_and_who_waits_for_memory_is_counted() {
    let kafka = kafka(1);
    let batcher: KafkaBatcher = builder(&kafka)
        .settings(|settings| {
            settings.memory = 4 << 20;
            settings.max_block = std::time::Duration::from_millis(1);
        })
        .start()
        .await
        .unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    kafka.inject(kafka_batcher_broker::Fault::never_answer().on(kafka_batcher_broker::Api::Produce).always());
    let large = vec![b'x'; 200_000];
    assert!(flights.add_event(vec![b'x'; 2_000_000].as_slice()).await.is_err());
    while flights.add_event(large.as_slice()).await.is_ok() {}
    let last = scrape(&batcher).await;
    last.balances(PREFIX, TOPIC);
    assert_eq!(last.value("kafka_batcher_events_refused_total", &[]), 2.0);
    assert_eq!(last.value("kafka_batcher_memory_wait_seconds_count", &[]), 1.0);
    assert!(last.value("kafka_batcher_memory_wait_seconds_sum", &[]) >= 0.001);
    assert!(last.value("kafka_batcher_memory_used_bytes", &[]) > 1_000_000.0);
    assert_eq!(last.value("kafka_batcher_memory_limit_bytes", &[]), f64::from(4 << 20));
    drop(batcher.shutdown(std::time::Duration::ZERO).await);
    scrape(&batcher).await.balances(PREFIX, TOPIC);
}
