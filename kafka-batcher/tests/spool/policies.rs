//! What the operator may order: how old an event may become, what happens when the disk is full, what Kafka would delete.

use std::time::Duration;

use kafka_batcher::{
    AddError, Collector, DiskSettings, FailureReason, KafkaBatcher, NotificationKind, OnExpiredTimestamp,
    OnFull, ReceiptError, SpoolMode,
};

use crate::support::{outcome, ready, until};
use crate::{LONG, Site, TOPIC};

/// How one receipt ended, if it failed.
async fn failure(receipt: &kafka_batcher::Receipt) -> FailureReason {
    match outcome(receipt).await {
        Err(ReceiptError::Failed(error)) => error.reason,
        other => panic!("{other:?}"),
    }
}

/// A batcher whose Kafka is away: before or after the topic's partitions became known.
async fn away(site: &mut Site, builder: kafka_batcher::Builder, known: bool) -> (KafkaBatcher, Collector) {
    if !known {
        site.stop_kafka();
    }
    let batcher = builder.start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    if known {
        ready(&batcher, TOPIC).await;
        site.stop_kafka();
    }
    (batcher, collector)
}

#[tokio::test]
async fn an_event_that_is_not_delivered_in_time_is_a_dead_letter_with_a_spool_and_fails_without() {
    /// Long enough for a busy machine to deliver what is young.
    const TIMEOUT: Duration = Duration::from_secs(2);
    let timeouts = |builder: kafka_batcher::Builder| {
        builder
            .settings(|s| {
                s.request_timeout = TIMEOUT / 4;
                s.retry_backoff = Duration::from_millis(5);
                s.retry_backoff_max = Duration::from_millis(50);
            })
            .collector_defaults(|c| c.delivery_timeout = Some(TIMEOUT))
    };
    for (spooled, known) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut site = Site::new(SpoolMode::OnFailure);
        let builder = match spooled {
            true => site.builder(),
            false => KafkaBatcher::builder([site.bootstrap.clone()]).error_notifier(site.told.clone()),
        };
        let (batcher, collector) = away(&mut site, timeouts(builder), known).await;
        let receipts = site.send(&collector, 30).await;
        for (_, receipt) in &receipts {
            assert_eq!(failure(receipt).await, FailureReason::Expired);
        }
        site.start_kafka();
        ready(&batcher, TOPIC).await;
        let after = site.send(&collector, 10).await;
        for (_, receipt) in &after {
            outcome(receipt).await.expect("a young one is delivered");
        }
        let report = batcher.shutdown(LONG).await;
        assert!(report.balances(), "{report:?}");
        let expected = if spooled { (30, 0) } else { (0, 30) };
        assert_eq!((report.dead_lettered, report.lost), expected, "{report:?}");
        if spooled {
            assert_eq!(site.memory().dead_letters(TOPIC).iter().map(|l| l.batch.count()).sum::<u32>(), 30);
        }
        site.check();
    }
}

#[tokio::test]
async fn an_event_that_grows_too_old_in_the_spool_is_dropped_counted_and_told() {
    for known in [true, false] {
        let mut site = Site::new(SpoolMode::OnFailure);
        let builder = site.builder().spool_max_age(Duration::from_millis(50));
        let (batcher, collector) = away(&mut site, builder, known).await;
        let receipts = site.send(&collector, 40).await;
        for (_, receipt) in &receipts {
            receipt.durable().await.expect("it was durable, for a time");
            assert_eq!(failure(receipt).await, FailureReason::MaxAge);
        }
        until(|| site.told.count(NotificationKind::EventsLost) > 0).await;
        collector.flush().await;
        site.start_kafka();
        let report = batcher.shutdown(LONG).await;
        assert!(report.balances(), "{report:?}");
        assert_eq!((report.lost, report.delivered), (40, 0), "{report:?}");
        assert!(site.log().iter().all(Vec::is_empty), "what is said to be lost is not in Kafka");
    }
}

/// What an earlier process left without a partition grows too old while Kafka is still away.
#[tokio::test]
async fn what_was_found_without_a_partition_is_dropped_by_its_age_too_and_counts_as_found_and_lost() {
    let mut site = Site::on_disk(SpoolMode::Always);
    site.stop_kafka();
    let (batcher, collector) = site.start().await;
    let receipts = site.send(&collector, 20).await;
    site.durable(&receipts).await;
    site.kill(batcher, collector).await;
    let builder = site.builder().spool_max_age(Duration::from_millis(1));
    let batcher = builder.start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    until(|| site.told.count(NotificationKind::EventsLost) > 0).await;
    drop(collector);
    let report = batcher.shutdown(Duration::ZERO).await;
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.recovered, report.lost, report.accepted), (20, 20, 0), "{report:?}");
}

#[tokio::test]
async fn a_full_spool_that_drops_the_oldest_takes_every_event_and_delivers_the_newest_in_order() {
    for known in [true, false] {
        let mut site = Site::on_disk(SpoolMode::OnFailure);
        let crate::Kept::Disk(dir) = &site.storage else { panic!("it is on disk") };
        let mut disk = DiskSettings::new(dir.path());
        (disk.max_bytes, disk.segment_bytes, disk.reserve_bytes) = (1 << 20, 64 << 10, 64 << 10);
        (disk.min_free_bytes, disk.dead_letter_bytes) = (Some(0), 64 << 10);
        let builder = site.builder().spool_with(disk).on_full(OnFull::DropOldest);
        let (batcher, collector) = away(&mut site, builder.settings(|s| s.memory = 8 << 20), known).await;
        // Some ten times what the spool holds.
        let mut receipts = Vec::new();
        for number in 0..40_000u32 {
            let value = format!("{number:0>250}");
            let record = (format!("key-{}", number % 7), value);
            receipts.push(collector.send((&record.0, &record.1)).await.expect("nobody waits for long"));
        }
        collector.flush().await;
        site.start_kafka();
        site.drained(&batcher).await;
        let report = batcher.shutdown(LONG).await;
        assert!(report.balances() && report.in_doubt == 0, "{report:?}");
        assert!(report.lost > 20_000 && report.delivered > 500, "{report:?}");
        assert_eq!(report.lost + report.delivered, 40_000, "{report:?}");
        // What is lost is the older part of each key, what arrived comes once and in order.
        let mut arrived: Vec<Vec<u32>> = vec![Vec::new(); 7];
        for number in site.log().into_iter().flatten() {
            arrived[number as usize % 7].push(number);
        }
        assert_eq!(arrived.iter().map(Vec::len).sum::<usize>() as u64, report.delivered);
        for numbers in &arrived {
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "out of order: {numbers:?}");
        }
        assert!(
            arrived.iter().all(|numbers| numbers.last().is_some_and(|last| *last > 39_980)),
            "the newest is there"
        );
    }
}

#[tokio::test]
async fn a_full_spool_that_rejects_refuses_at_once_and_nothing_that_was_accepted_is_lost() {
    let site = Site::new(SpoolMode::OnFailure);
    let builder = site.builder().on_full(OnFull::Reject);
    let hours = Duration::from_secs(7_200);
    let batcher =
        builder.settings(|s| (s.memory, s.max_block) = (4 << 20, hours)).start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    ready(&batcher, TOPIC).await;
    site.memory().fail_with(Some(kafka_batcher::storage::StorageError::Full("the test's disk".to_owned())));
    site.stop_kafka();
    let value = "x".repeat(10_000);
    let mut accepted = 0;
    let refused = loop {
        match collector.add_event(("key", &value)).await {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AddError::Full { waited, .. } if waited < hours), "{refused}");
    assert!(accepted > 50, "memory is used first: {accepted}");
    site.memory().fail_with(None);
    site.start_kafka();
    until(|| site.told.count(NotificationKind::Recovered) > 0).await;
    collector.flush().await;
    collector.add_event(("key", "again")).await.expect("there is room again");
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    assert_eq!(report.delivered, accepted + 1, "{report:?}");
}

#[tokio::test]
async fn what_kafka_would_delete_at_once_is_held_and_told_until_somebody_consents() {
    for mode in [SpoolMode::OnFailure, SpoolMode::Always] {
        let mut site = Site::on_disk(mode);
        let (batcher, collector) = site.start().await;
        ready(&batcher, TOPIC).await;
        site.stop_kafka();
        let mut receipts = Vec::new();
        for number in 0..20u32 {
            let (key, value) = (format!("key-{}", number % 7), number.to_string());
            let record = kafka_batcher::Record {
                timestamp: Some(1_000),
                ..kafka_batcher::Record::keyed(&key, &value)
            };
            receipts.push(collector.send(record).await.expect("accepted"));
        }
        for receipt in &receipts {
            receipt.durable().await.expect("it is on disk");
        }
        site.kill(batcher, collector).await;
        site.start_kafka();
        site.kafka.set_topic_config(TOPIC, "retention.ms", "3600000").unwrap();
        let (batcher, collector) = site.start().await;
        until(|| site.told.0.lock().unwrap().iter().any(|told| told.message.contains("retention.ms"))).await;
        assert!(site.log().iter().all(Vec::is_empty), "nothing of it is sent");
        site.kill(batcher, collector).await;
        let batcher = loop {
            // The one before lets go of the directory when the runtime drops its tasks.
            match site.builder().replay_expired(true).start().await {
                Ok(batcher) => break batcher,
                Err(kafka_batcher::BuildError::Spool(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        let _collector = batcher.collector(TOPIC).build().expect("the collector starts");
        site.drained(&batcher).await;
        let report = batcher.shutdown(LONG).await;
        assert!(report.balances() && report.delivered == 20, "{report:?}");
    }
}

/// Only the disk knows it then.
#[tokio::test]
async fn after_a_restart_a_refused_time_that_the_user_gave_is_a_dead_letter_and_not_restamped() {
    let mut site = Site::on_disk(SpoolMode::Always);
    site.kafka.set_topic_config(TOPIC, "message.timestamp.before.max.ms", "60000").unwrap();
    site.stop_kafka();
    let (batcher, collector) = site.start().await;
    let hour_ago = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64 - 3_600_000;
    for number in 0..20u32 {
        let (key, value) = (format!("key-{}", number % 7), number.to_string());
        let timestamp = (number % 5 == 0).then_some(hour_ago);
        let record = kafka_batcher::Record { timestamp, ..kafka_batcher::Record::keyed(&key, &value) };
        collector.send(record).await.expect("accepted").durable().await.expect("on disk");
    }
    site.kill(batcher, collector).await;
    site.start_kafka();
    let restamp = OnExpiredTimestamp::RestampTime;
    let builder = site.builder().collector_defaults(|c| c.on_expired_timestamp = restamp);
    let batcher = builder.start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    site.drained(&batcher).await;
    drop(collector);
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.recovered, report.delivered, report.dead_lettered), (20, 16, 4), "{report:?}");
    assert!(site.log().iter().flatten().all(|number| number % 5 != 0), "{:?}", site.log());
}
