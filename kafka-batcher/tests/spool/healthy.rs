//! One partition, or one topic, is in trouble: the others never notice.

use std::time::Duration;

use kafka_batcher::{
    AddError, Collector, KafkaBatcher, Notification, NotificationKind, Receipt, Record, SpoolMode,
};
use kafka_batcher_broker::TopicSpec;

use crate::support::{outcome, ready, until};
use crate::{LONG, PARTITIONS, Site, TOPIC, everywhere};

/// Another topic of the same cluster.
const OTHER: &str = "trains";

#[tokio::test]
async fn a_partition_without_a_leader_goes_to_disk_and_its_neighbours_are_saved_and_delivered_meanwhile() {
    for mut site in everywhere() {
        // Long enough for a busy machine not to make its neighbours wait as long.
        let settings = site.settings().spool_after(Duration::from_secs(1));
        let batcher = settings.storage(site.life().await).start().await.expect("it starts");
        let collector = batcher.collector(TOPIC).build().expect("the collector starts");
        ready(&batcher, TOPIC).await;
        site.kafka.remove_leader(TOPIC, 0).expect("a partition");
        let mut receipts = Vec::new();
        for number in 0..300 {
            let (key, value) = (format!("key-{}", number % 7), number.to_string());
            let record = Record { partition: Some(number % PARTITIONS), ..Record::keyed(&key, &value) };
            let receipt = collector.send(record).await.expect("accepted");
            receipts.push((number as u32, receipt));
        }
        site.sent = 300;
        let of = |partition: i32| receipts.iter().filter(move |(n, _)| *n as i32 % PARTITIONS == partition);
        for (_, receipt) in (1..PARTITIONS).flat_map(of) {
            assert_ne!(outcome(receipt).await.expect("a neighbour is delivered").partition, 0);
        }
        for (_, receipt) in of(0) {
            let durable = tokio::time::timeout(LONG, receipt.durable()).await;
            durable.expect("it becomes durable").expect("it is on disk");
            assert!(receipt.try_delivered().is_none(), "nobody leads its partition");
        }
        let report = batcher.report().await;
        assert_eq!((report.delivered, report.spooled), (200, 100), "{report:?}");
        // What a neighbour has on disk was written ahead.
        let expected = match site.mode {
            SpoolMode::Always => vec![(0, 100), (1, 100), (2, 100)],
            _ => vec![(0, 100)],
        };
        assert_eq!(site.fate.saved(), expected);
        site.kafka.move_leader(TOPIC, 0, 1).expect("a partition");
        site.durable(&receipts).await;
        for (_, receipt) in of(0) {
            outcome(receipt).await.expect("it is delivered");
        }
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        for told in site.told.0.lock().unwrap().iter() {
            assert_eq!(told.partition.unwrap_or(0), 0, "{told:?}");
        }
        assert_eq!(site.told.spooling_episodes(), usize::from(site.mode == SpoolMode::OnFailure));
        site.check();
    }
}

/// Fills what a topic may have of the memory; answers what was accepted.
async fn fill(collector: &Collector) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    let value = "x".repeat(1_000);
    for partition in 0..PARTITIONS {
        loop {
            let record = Record { partition: Some(partition), ..Record::value(&value) };
            match collector.try_send(record) {
                Ok(receipt) => receipts.push(receipt),
                Err(AddError::Full { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    receipts
}

/// Both topics, with little memory.
async fn two_topics(site: &Site) -> (KafkaBatcher, Collector, Collector) {
    site.kafka.create_topic(TopicSpec::new(OTHER, PARTITIONS)).expect("a topic");
    let settings = site.settings().settings(|s| s.memory = 16 << 20);
    let batcher = settings.storage(site.life().await).start().await.expect("it starts");
    let healthy = batcher.collector(TOPIC).build().expect("the collector starts");
    let ill = batcher.collector(OTHER).build().expect("the collector starts");
    ready(&batcher, TOPIC).await;
    ready(&batcher, OTHER).await;
    (batcher, healthy, ill)
}

#[tokio::test]
async fn a_topic_whose_storage_fails_while_kafka_is_away_keeps_its_events_in_memory_and_another_goes_on_to_disk()
 {
    for mut site in everywhere() {
        let (batcher, healthy, ill) = two_topics(&site).await;
        site.fate.set_ill(Some(OTHER));
        site.stop_kafka();
        let kept = fill(&ill).await;
        until(|| site.told.count(NotificationKind::SpoolError) > 0).await;
        let saved = site.send(&healthy, 300).await;
        site.durable(&saved).await;
        assert!(kept.iter().all(|receipt| receipt.try_durable().is_none()), "nothing of it is durable");
        assert!(kept.len() > 1_000, "{}", kept.len());
        site.fate.set_ill(None);
        for receipt in &kept {
            receipt.durable().await.expect("its storage works again");
        }
        site.start_kafka();
        site.drained(&batcher).await;
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        let told = site.told.0.lock().unwrap().clone();
        // A disk may take its time besides, on a machine that is busy elsewhere.
        let fails = |told: &&Notification| {
            told.kind == NotificationKind::SpoolError
                && !told.message.contains("what needs it waits in memory")
        };
        let errors: Vec<_> = told.iter().filter(fails).collect();
        assert_eq!(errors.len(), 1, "once: {errors:?}");
        assert_eq!(errors[0].topic.as_deref(), Some(OTHER));
        site.check();
    }
}

#[tokio::test]
async fn a_topic_that_nobody_takes_and_whose_storage_fails_fills_its_part_of_the_memory_and_another_is_delivered()
 {
    for mut site in everywhere() {
        let (batcher, healthy, ill) = two_topics(&site).await;
        site.fate.set_ill(Some(OTHER));
        for partition in 0..PARTITIONS {
            site.kafka.remove_leader(OTHER, partition).expect("a partition");
        }
        let kept = fill(&ill).await;
        until(|| site.told.count(NotificationKind::SpoolError) > 0).await;
        let receipts = site.send(&healthy, 300).await;
        for (_, receipt) in &receipts {
            outcome(receipt).await.expect("it is delivered");
        }
        site.durable(&receipts).await;
        assert!(kept.iter().all(|receipt| receipt.try_durable().is_none()), "nothing of it is durable");
        site.fate.set_ill(None);
        for partition in 0..PARTITIONS {
            site.kafka.move_leader(OTHER, partition, 1).expect("a partition");
        }
        for receipt in &kept {
            outcome(receipt).await.expect("it is delivered");
        }
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        site.check();
    }
}
