//! What an operator sees while Kafka is away, and when it is back.

use std::time::Duration;

use kafka_batcher_broker::ProducerMemory;
use kafka_batcher_testkit::Scrape;

use super::{TOPIC, builder, scrape_until};
use crate::support::{LONG, kafka, ready};

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn while_kafka_is_away_the_metrics_say_so_and_when_it_is_back_they_return() {
    let kafka = kafka(2);
    let dir = tempfile::tempdir().unwrap();
    let batcher =
        builder(&kafka).spool(dir.path()).spool_after(Duration::from_millis(50)).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    let mut last = Scrape::default();
    let gauge = |name: &str, scrape: &Scrape| scrape.value(&format!("kafka_batcher_{name}"), &[]);
    let ready_now = |scrape: &Scrape| scrape.value("kafka_batcher_topic_health", &[("state", "ready")]);
    for n in 0..100 {
        flights.add_event(format!("before {n}").as_str()).await.unwrap();
    }
    scrape_until(&batcher, &mut last, |scrape| gauge("events_delivered_total", scrape) == 100.0).await;
    assert_eq!((gauge("cluster_connected", &last), ready_now(&last)), (1.0, 1.0));
    assert_eq!((gauge("spool_healthy", &last), gauge("spool_oldest_age_seconds", &last)), (1.0, 0.0));

    kafka.kill_broker(1).unwrap();
    for n in 0..100 {
        flights.add_event(format!("during {n}").as_str()).await.unwrap();
    }
    scrape_until(&batcher, &mut last, |scrape| {
        gauge("oldest_undelivered_age_seconds", scrape) > 0.0
            && scrape.value("kafka_batcher_events", &[("state", "spooled")]) == 100.0
            && gauge("cluster_connected", scrape) == 0.0
            && gauge("broker_connected", scrape) == 0.0
            && ready_now(scrape) == 0.0
            && scrape.get("kafka_batcher_produce_errors_total", &[]).is_some_and(|errors| errors > 0.0)
            && gauge("broker_connect_failures_total", scrape) > 0.0
    })
    .await;
    assert!(gauge("spool_bytes", &last) > 0.0 && gauge("spool_disk_free_bytes", &last) > 0.0, "{last:?}");
    assert!(gauge("spool_fsync_duration_seconds_count", &last) > 0.0, "{last:?}");
    let age = gauge("spool_oldest_age_seconds", &last);
    scrape_until(&batcher, &mut last, |scrape| gauge("spool_oldest_age_seconds", scrape) > age).await;

    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    scrape_until(&batcher, &mut last, |scrape| {
        gauge("events_delivered_total", scrape) == 200.0
            && gauge("cluster_connected", scrape) == 1.0
            && ready_now(scrape) == 1.0
    })
    .await;
    assert_eq!(gauge("events", &last), 0.0);
    assert_eq!(
        (gauge("oldest_undelivered_age_seconds", &last), gauge("spool_oldest_age_seconds", &last)),
        (0.0, 0.0)
    );
    assert!(gauge("broker_reconnects_total", &last) >= 1.0);
    assert_eq!(gauge("broker_connected", &last), 1.0);
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// From memory to disk as they are, found there by the next process, given their partitions, one of them put aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn events_whose_topic_nobody_knows_are_in_the_accounts_at_every_step() {
    let kafka = kafka_batcher_broker::EmbeddedKafka::builder().start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = || builder(&kafka).spool(dir.path()).spool_after(Duration::from_millis(20)).start();
    let events = |state: &str, scrape: &Scrape| {
        scrape.value("kafka_batcher_events", &[("topic", TOPIC), ("state", state)])
    };
    let counted =
        |name: &str, scrape: &Scrape| scrape.value(&format!("kafka_batcher_events_{name}_total"), &[]);

    let first = start().await.unwrap();
    let flights = first.collector(TOPIC).build().unwrap();
    for n in 0..50 {
        flights.add_event(format!("{n}").as_str()).await.unwrap();
    }
    let mut nowhere = kafka_batcher::Record::from("nowhere");
    nowhere.partition = Some(99);
    flights.add_event(nowhere).await.unwrap();
    let mut last = Scrape::default();
    scrape_until(&first, &mut last, |scrape| events("spooled", scrape) == 51.0).await;
    let age = last.value("kafka_batcher_spool_oldest_age_seconds", &[]);
    assert!(age > 0.0);
    drop(first.shutdown(Duration::ZERO).await);
    drop((flights, first));

    let second = start().await.unwrap();
    let flights = second.collector(TOPIC).build().unwrap();
    let mut last = Scrape::default();
    scrape_until(&second, &mut last, |scrape| counted("recovered", scrape) == 51.0).await;
    // It did not begin to wait when this process began.
    assert!(last.value("kafka_batcher_spool_oldest_age_seconds", &[]) >= age);
    flights.add_event("newer").await.unwrap();
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new(TOPIC, 2)).unwrap();
    scrape_until(&second, &mut last, |scrape| counted("delivered", scrape) == 51.0).await;
    assert_eq!((events("dead_lettered", &last), counted("dead_lettered", &last)), (1.0, 1.0));
    assert_eq!((counted("recovered", &last), counted("accepted", &last)), (51.0, 1.0));
    assert_eq!(last.value("kafka_batcher_spool_oldest_age_seconds", &[]), 0.0);
    drop(second.shutdown(LONG).await);
}
