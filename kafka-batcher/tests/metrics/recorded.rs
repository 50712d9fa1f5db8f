//! What is recorded by the batch and by the request.

use std::time::Duration;

use kafka_batcher::config::Config;
use kafka_batcher::{Builder, FailureReason, ReceiptError};
use kafka_batcher_broker::{Api, ErrorCode, Fault};

use super::{PREFIX, TOPIC, builder, scrape};
use crate::support::{LONG, kafka, outcome, ready};

#[tokio::test]
async fn the_elixir_librarys_histograms_have_its_names_labels_and_buckets_where_it_is_asked_for() {
    let kafka = kafka(3);
    let config = format!(
        "endpoints = [\"{}\"]\n[metrics]\nprefix = \"prom_ex_kafka\"\nproducer_buckets = \"prom_ex\"\n\
         kafka_topic_aliases = {{ flights = \"f\" }}\n[[collectors]]\ntopic_name = \"flights\"\n",
        kafka.bootstrap()
    );
    let batcher = Builder::from_config(&Config::from_toml(&config, "k.toml")).unwrap().start().await.unwrap();
    let flights = batcher.get_collector(TOPIC).unwrap();
    ready(&batcher, TOPIC).await;
    for partition in [0, 0, 2] {
        let mut event = kafka_batcher::Record::from("value");
        event.partition = Some(partition);
        let receipt = flights.send(event).await.unwrap();
        outcome(&receipt).await.unwrap();
    }
    let scrape = scrape(&batcher).await;
    scrape.balances("prom_ex_kafka", TOPIC);
    let labels = [("topic", "flights"), ("partition", "0"), ("topic_alias", "f")];
    let histograms =
        ["producer_duration_seconds", "producer_batch_messages_count", "producer_batch_total_size_byte"];
    for name in histograms.map(|name| format!("prom_ex_kafka_{name}")) {
        assert_eq!(scrape.value(&format!("{name}_count"), &labels), 2.0);
        assert_eq!(scrape.value(&format!("{name}_count"), &[("partition", "2")]), 1.0);
        // Of a partition without batches there is nothing.
        assert_eq!(scrape.get(&format!("{name}_count"), &[("partition", "1")]), None);
        assert!(scrape.value(&format!("{name}_sum"), &labels) > 0.0);
    }
    // All of its buckets, and +Inf, for two partitions.
    assert_eq!(scrape.series("prom_ex_kafka_producer_duration_seconds_bucket"), 2 * 11);
    assert_eq!(scrape.series("prom_ex_kafka_producer_batch_messages_count_bucket"), 2 * 10);
    assert_eq!(scrape.series("prom_ex_kafka_producer_batch_total_size_byte_bucket"), 2 * 8);
    for (name, bound) in [
        ("producer_duration_seconds", "100"),
        ("producer_batch_messages_count", "15"),
        ("producer_batch_total_size_byte", "2000"),
    ] {
        let name = format!("prom_ex_kafka_{name}_bucket");
        assert_eq!(scrape.value(&name, &[("partition", "0"), ("le", bound)]), 2.0);
    }
    drop(batcher.shutdown(LONG).await);
}

/// The story: the plain bytes of a batch were compared with the bound of its compressed ones, so every batch of a topic that
/// compresses well was called full.
#[tokio::test]
async fn how_full_a_batch_is_counts_the_bytes_that_would_fill_it_with_its_codec() {
    let kafka = kafka(1);
    let batcher = builder(&kafka).start().await.unwrap();
    let flights = batcher.collector(TOPIC).settings(|s| {
        s.compression = kafka_batcher::Codec::Zstd;
        s.max_batch_bytesize = 4_000;
        s.max_wait_time = LONG;
    });
    let flights = flights.build().unwrap();
    ready(&batcher, TOPIC).await;
    // It learns by half a percent a batch that they shrink to almost nothing.
    let event = "x".repeat(3_000);
    for _ in 0..200 {
        flights.add_event(&*event).await.unwrap();
        flights.flush().await;
    }
    let fill = |scrape: &kafka_batcher_testkit::Scrape| {
        ["count", "sum"].map(|what| scrape.value(&format!("kafka_batcher_batch_fill_ratio_{what}"), &[]))
    };
    let [batches, before] = fill(&scrape(&batcher).await);
    assert_eq!(batches, 200.0);
    flights.add_event(&*event).await.unwrap();
    flights.flush().await;
    let [batches, after] = fill(&scrape(&batcher).await);
    assert_eq!(batches, 201.0);
    // Of 4 000 wire bytes it were three quarters.
    assert!((0.001..0.5).contains(&(after - before)), "{before} {after}");
    drop(batcher.shutdown(LONG).await);
}

#[tokio::test]
async fn failures_are_measured_and_each_attempt_once() {
    let kafka = kafka(1);
    let batcher = builder(&kafka).start().await.unwrap();
    let flights = batcher.collector(TOPIC).settings(|s| s.collect_by_partition = false).build().unwrap();
    ready(&batcher, TOPIC).await;
    kafka.inject(Fault::answer(ErrorCode::NOT_LEADER_OR_FOLLOWER).on(Api::Produce).times(2));
    outcome(&flights.send("tried three times").await.unwrap()).await.unwrap();
    kafka.inject(Fault::answer(ErrorCode::MESSAGE_TOO_LARGE).on(Api::Produce));
    let refused = outcome(&flights.send("refused for good").await.unwrap()).await;
    assert!(
        matches!(&refused, Err(ReceiptError::Failed(error)) if error.reason == FailureReason::TooLarge),
        "{refused:?}"
    );
    kafka.inject(Fault::lose_answer().on(Api::Produce));
    outcome(&flights.send("answered at the second attempt").await.unwrap()).await.unwrap();
    let scrape = scrape(&batcher).await;
    scrape.balances(PREFIX, TOPIC);
    let error = |error| scrape.value("kafka_batcher_produce_errors_total", &[("error", error)]);
    assert_eq!(error("NOT_LEADER_OR_FOLLOWER"), 2.0);
    assert_eq!(error("MESSAGE_TOO_LARGE"), 1.0);
    assert_eq!(error("no_answer"), 1.0);
    // Two that were acknowledged, and every error.
    let attempts = 2.0 + scrape.value("kafka_batcher_produce_errors_total", &[]);
    let counted = |name: &str| scrape.value(&format!("kafka_batcher_{name}_count"), &[]);
    assert_eq!(counted("producer_duration_seconds"), attempts);
    assert_eq!(counted("producer_batch_messages_count"), attempts);
    assert_eq!(scrape.value("kafka_batcher_producer_batch_messages_count_sum", &[]), attempts);
    assert_eq!(counted("broker_request_duration_seconds"), attempts);
    assert_eq!(counted("batch_fill_ratio"), 3.0);
    assert_eq!(counted("delivery_latency_seconds"), 2.0);
    assert_eq!(scrape.value("kafka_batcher_events_lost_total", &[]), 1.0);
    assert_eq!(scrape.value("kafka_batcher_broker_reconnects_total", &[]), 1.0);
    assert_eq!(scrape.value("kafka_batcher_broker_connected", &[]), 1.0);
    drop(batcher.shutdown(LONG).await);
}

#[tokio::test]
async fn partitions_beyond_the_bound_share_a_label_value() {
    let kafka = kafka(5);
    let batcher = builder(&kafka).metrics(|metrics| metrics.max_partitions = 2).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    for partition in 0..5 {
        let mut event = kafka_batcher::Record::from("value");
        event.partition = Some(partition);
        outcome(&flights.send(event).await.unwrap()).await.unwrap();
    }
    let scrape = scrape(&batcher).await;
    let name = "kafka_batcher_producer_duration_seconds_count";
    assert_eq!(scrape.series(name), 3);
    assert_eq!(scrape.value(name, &[("partition", "1")]), 1.0);
    assert_eq!(scrape.value(name, &[("partition", "other")]), 3.0);
    drop(batcher.shutdown(LONG).await);
}

#[tokio::test]
async fn the_silence_that_a_broker_asks_for_is_counted() {
    let kafka = kafka(1);
    let batcher = builder(&kafka).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    kafka.inject(Fault::throttle(Duration::from_millis(30)).on(Api::Produce));
    outcome(&flights.send("throttled").await.unwrap()).await.unwrap();
    assert_eq!(scrape(&batcher).await.value("kafka_batcher_broker_throttled_seconds_total", &[]), 0.03);
    drop(batcher.shutdown(LONG).await);
}
