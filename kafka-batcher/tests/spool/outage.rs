//! Kafka goes away, and comes back while the process lives.

use kafka_batcher::storage::StorageError;
use kafka_batcher::storage::disk::Spool;
use kafka_batcher::{DiskSettings, FailureReason, NotificationKind, ReceiptError, SpoolMode};

use crate::support::{outcome, ready};
use crate::{Site, everywhere};

#[tokio::test]
async fn while_kafka_is_well_nothing_touches_the_disk() {
    // On a machine that is busy elsewhere Kafka may seem away for a moment; not each time.
    for _ in 0..20 {
        let mut site = Site::new(SpoolMode::OnFailure);
        let (batcher, collector) = site.start().await;
        ready(&batcher, crate::TOPIC).await;
        let receipts = site.send(&collector, 500).await;
        site.durable(&receipts).await;
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        site.check();
        if site.told.spooling_episodes() == 0 {
            assert_eq!(site.memory().saves(), 0);
            return;
        }
    }
    panic!("each time events went to disk");
}

#[tokio::test]
async fn what_comes_while_kafka_is_away_is_on_disk_and_arrives_once_and_in_order_when_it_is_back() {
    for mut site in everywhere() {
        let (batcher, collector) = site.start().await;
        ready(&batcher, crate::TOPIC).await;
        let before = site.send(&collector, 100).await;
        site.durable(&before).await;
        site.stop_kafka();
        let during = site.send(&collector, 300).await;
        site.durable(&during).await;
        let report = batcher.report().await;
        assert!(report.spooled > 0 && report.balances(), "{report:?}");
        site.start_kafka();
        let after = site.send(&collector, 100).await;
        for (_, receipt) in before.iter().chain(&during).chain(&after) {
            outcome(receipt).await.expect("it is delivered");
        }
        site.durable(&after).await;
        site.drained(&batcher).await;
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        assert_eq!(report.possible_duplicates, 0, "{report:?}");
        // A machine that is busy elsewhere may have made short episodes of its own.
        assert!(site.told.spooling_episodes() >= 1, "{:?}", site.told.0);
        site.check();
    }
}

#[tokio::test]
async fn a_frozen_broker_counts_as_away_although_no_error_comes() {
    let mut site = Site::new(SpoolMode::OnFailure);
    let (batcher, collector) = site.start().await;
    ready(&batcher, crate::TOPIC).await;
    site.kafka.freeze(1).unwrap();
    let receipts = site.send(&collector, 200).await;
    site.durable(&receipts).await;
    site.kafka.thaw(1).unwrap();
    for (_, receipt) in &receipts {
        outcome(receipt).await.expect("it is delivered");
    }
    site.drained(&batcher).await;
    assert!(batcher.shutdown(crate::LONG).await.all_delivered());
    site.check();
}

#[tokio::test]
async fn a_full_disk_keeps_events_in_memory_and_says_so_once() {
    let mut site = Site::new(SpoolMode::OnFailure);
    let (batcher, collector) = site.start().await;
    ready(&batcher, crate::TOPIC).await;
    site.memory().fail_with(Some(StorageError::Full("the test's disk".to_owned())));
    site.stop_kafka();
    let receipts = site.send(&collector, 100).await;
    crate::support::until(|| site.told.count(NotificationKind::SpoolError) > 0).await;
    assert!(receipts.iter().all(|(_, receipt)| receipt.try_durable().is_none()), "nothing is durable");
    site.memory().fail_with(None);
    site.durable(&receipts).await;
    site.start_kafka();
    site.drained(&batcher).await;
    let report = batcher.shutdown(crate::LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!(site.told.count(NotificationKind::SpoolError), 1);
    site.check();
}

#[tokio::test]
async fn with_write_ahead_a_failing_disk_does_not_stop_deliveries() {
    let mut site = Site::new(SpoolMode::Always);
    let (batcher, collector) = site.start().await;
    ready(&batcher, crate::TOPIC).await;
    site.memory().fail_with(Some(StorageError::Failed("the test's disk".to_owned())));
    let receipts = site.send(&collector, 100).await;
    site.durable(&receipts).await;
    for (_, receipt) in &receipts {
        outcome(receipt).await.expect("it is delivered");
    }
    site.memory().fail_with(None);
    let report = batcher.shutdown(crate::LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    site.check();
}

#[tokio::test]
async fn an_event_that_kafka_will_never_take_is_put_aside_and_its_neighbours_arrive_in_order() {
    for mode in [SpoolMode::OnFailure, SpoolMode::Always] {
        let mut site = Site::new(mode);
        let (batcher, collector) = site.start().await;
        ready(&batcher, crate::TOPIC).await;
        site.kafka.set_topic_config(crate::TOPIC, "max.message.bytes", "300").unwrap();
        let before = site.send(&collector, 35).await;
        let large = collector.send(("key-1", &"x".repeat(400))).await.expect("it is accepted");
        let after = site.send(&collector, 35).await;
        for (_, receipt) in before.iter().chain(&after) {
            outcome(receipt).await.expect("it is delivered");
        }
        let Err(ReceiptError::Failed(error)) = outcome(&large).await else { panic!("it is too large") };
        assert_eq!(error.reason, FailureReason::TooLarge);
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.balances() && report.lost == 0, "{report:?}");
        assert_eq!((report.dead_lettered, report.delivered), (1, 70), "{report:?}");
        let letters = site.memory().dead_letters(crate::TOPIC);
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].batch.records().unwrap()[0].value.as_ref().map(Vec::len), Some(400));
        assert_eq!(site.told.count(NotificationKind::DeadLettered), 1);
        site.check();
    }
}

#[tokio::test]
async fn dead_letters_that_go_for_later_ones_are_lost_and_told_and_nobody_claims_that_they_are_kept() {
    // The log said so, once for each file; the report went on counting them among the dead letters.
    let site = Site::new(SpoolMode::OnFailure);
    let dir = tempfile::tempdir().expect("a directory");
    // Twice: the second process finds the letters of the first, which are no events of its own until they are lost. (That they
    // were was told, and counted nowhere.)
    let mut left = 0;
    for round in 0..2 {
        let mut disk = DiskSettings::new(dir.path());
        disk.dead_letter_bytes = 4_000;
        let batcher = site.settings().spool_with(disk).start().await.expect("it starts");
        let collector = batcher.collector(crate::TOPIC).build().expect("the collector starts");
        ready(&batcher, crate::TOPIC).await;
        site.kafka.set_topic_config(crate::TOPIC, "max.message.bytes", "300").unwrap();
        for _ in 0..20 {
            let large = collector.send(("key-1", &"x".repeat(400))).await.expect("it is accepted");
            assert!(outcome(&large).await.is_err());
        }
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.balances() && report.lost > 0, "{report:?}");
        let scan = Spool::open(dir.path()).unwrap().dead_letters(crate::TOPIC).unwrap();
        let held: u64 = scan.batches.iter().map(|batch| u64::from(batch.count)).sum();
        let expected = (left, held, 20 + left - held);
        assert_eq!((report.recovered, report.dead_lettered, report.lost), expected, "{report:?}");
        left = held;
        let told = site.told.0.lock().unwrap();
        let lost = told.iter().filter(|told| told.kind == NotificationKind::EventsLost).collect::<Vec<_>>();
        assert!(
            !lost.is_empty() && lost.iter().all(|told| told.message.contains("dead_letter_bytes")),
            "{lost:?}"
        );
        let earlier = lost.iter().any(|told| !told.message.contains("(0 of them were put aside"));
        assert_eq!(earlier, round == 1, "{lost:?}");
    }
}

/// An acknowledgement that names an offset is none of acks = 0.
#[tokio::test]
async fn what_comes_from_the_spool_is_acknowledged_by_all_replicas_whatever_the_topics_acks() {
    for mut site in everywhere() {
        let storage = site.life().await;
        let builder = site.settings().collector_defaults(|c| c.required_acks = 0).storage(storage);
        let batcher = builder.start().await.expect("it starts");
        let collector = batcher.collector(crate::TOPIC).build().expect("the collector starts");
        ready(&batcher, crate::TOPIC).await;
        site.stop_kafka();
        let receipts = site.send(&collector, 50).await;
        site.durable(&receipts).await;
        site.start_kafka();
        for (number, receipt) in &receipts {
            let delivery = outcome(receipt).await.expect("it is delivered");
            assert!(delivery.offset.is_some(), "event {number}: {delivery:?}");
        }
        site.drained(&batcher).await;
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
    }
}
