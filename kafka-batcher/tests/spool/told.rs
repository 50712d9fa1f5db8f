//! What the operator is told, and how often.

use std::time::Duration;

use kafka_batcher::{FailureReason, Notification, NotificationKind, ReceiptError, Record, SpoolMode};

use crate::support::{LONG, outcome, ready};
use crate::{PARTITIONS, Site, TOPIC};

fn told_of(site: &Site, words: &str) -> Vec<Notification> {
    let told = site.told.0.lock().unwrap();
    told.iter().filter(|told| told.message.contains(words)).cloned().collect()
}

#[tokio::test]
async fn events_that_expire_one_after_the_other_are_told_together() {
    const EVENTS: usize = 20;
    let site = Site::new(SpoolMode::OnFailure);
    let batcher = site
        .settings()
        .settings(|s| s.request_timeout = Duration::from_millis(20))
        .collector_defaults(|c| c.delivery_timeout = Some(Duration::from_millis(40)))
        .start()
        .await
        .expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    ready(&batcher, TOPIC).await;
    site.stop_kafka();
    for number in 0..EVENTS {
        let partition = number as i32 % PARTITIONS;
        let record = Record::value("v").with_partition(partition);
        let receipt = collector.send(record).await.expect("accepted");
        let Err(ReceiptError::Failed(error)) = outcome(&receipt).await else { panic!("Kafka is away") };
        assert!(matches!(error.reason, FailureReason::Expired | FailureReason::Unknowable), "{error}");
    }
    let report = batcher.shutdown(Duration::ZERO).await;
    assert_eq!(report.lost + report.in_doubt, EVENTS as u64, "{report:?}");
    let told = told_of(&site, "events are not delivered");
    // At once, at the end, and every ten seconds on a machine that is very slow; of each reason.
    assert!(told.len() <= EVENTS / 2, "{told:#?}");
    let events: usize = told
        .iter()
        .map(|told| told.message.split(' ').next().expect("words").parse::<usize>().expect("a number"))
        .sum();
    assert_eq!(events, EVENTS, "all of them are told: {told:#?}");
}

#[tokio::test]
async fn a_topic_created_anew_is_one_piece_of_news_however_many_partitions_it_has() {
    let mut site = Site::new(SpoolMode::OnFailure);
    let (batcher, collector) = site.start().await;
    ready(&batcher, TOPIC).await;
    let before = site.send(&collector, 70).await;
    site.durable(&before).await;
    site.durable.clear();
    site.drained(&batcher).await;
    site.stop_kafka();
    let during = site.send(&collector, 70).await;
    site.durable(&during).await;
    site.kafka.recreate_topic(TOPIC).unwrap();
    site.start_kafka();
    let after = site.send(&collector, 70).await;
    site.durable(&after).await;
    site.drained(&batcher).await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    let told = told_of(&site, "deleted and created again");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!((told[0].kind, told[0].partition), (NotificationKind::ProducerError, None));
    site.check();
}
