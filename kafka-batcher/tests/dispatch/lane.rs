//! The unassigned lane: events of a topic that nobody knew when they came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_batcher::storage::StorageError;
use kafka_batcher::{MemoryStorage, SpoolMode};
use kafka_batcher_broker::ProducerMemory;

use crate::odd::{Call, Odd};
use crate::support::{LONG, kafka, outcome, ready};
use crate::{TOPIC, Told, builder, builder_at, to};

/// Put aside, then regrouped: where the second failed, both were done again a second later, and one stray event became a dead
/// letter a second.
#[tokio::test]
async fn a_stray_event_is_one_dead_letter_however_often_its_lane_cannot_be_regrouped() {
    let kafka = kafka(1);
    let (told, bootstrap) = (Told::default(), kafka.bootstrap());
    kafka.stop_broker(1).unwrap();
    let memory = MemoryStorage::default();
    let failures = Arc::new(AtomicU64::new(0));
    let failed = failures.clone();
    let storage = Odd::new(memory.clone(), move |call| match call {
        Call::Regroup if failed.fetch_add(1, Ordering::SeqCst) < 2 => {
            Err(StorageError::Failed("a bad moment".to_owned()))
        }
        _ => Ok(()),
    });
    let builder = builder_at(&bootstrap, &told).spool_mode(SpoolMode::Always).storage(storage);
    let batcher = builder.start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    let stray = flights.send(to(99, "stray")).await.unwrap();
    stray.durable().await.unwrap();
    let other = flights.send(to(0, "not")).await.unwrap();
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    outcome(&other).await.unwrap();
    outcome(&stray).await.unwrap_err();
    assert!(failures.load(Ordering::SeqCst) > 2);
    assert_eq!(memory.dead_letters(TOPIC).len(), 1);
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances() && (report.delivered, report.dead_lettered) == (1, 1), "{report:?}");
}

/// Only what had come to disk before its topic was known became a dead letter; what was in memory still was lost, beside a
/// spool that works.
#[tokio::test]
async fn a_stray_event_is_a_dead_letter_too_if_it_has_not_come_to_disk_before_its_topic_is_known() {
    let kafka = kafka(1);
    let (told, bootstrap) = (Told::default(), kafka.bootstrap());
    kafka.stop_broker(1).unwrap();
    let memory = MemoryStorage::default();
    let rejects = Arc::new(AtomicU64::new(0));
    let asked = rejects.clone();
    let storage = Odd::new(memory.clone(), move |call| match call {
        Call::Reject if asked.fetch_add(1, Ordering::SeqCst) == 0 => {
            Err(StorageError::Failed("a bad moment".to_owned()))
        }
        _ => Ok(()),
    });
    let batcher = builder_at(&bootstrap, &told).spool_after(LONG).storage(storage).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    let stray = flights.send(to(99, "stray")).await.unwrap();
    let other = flights.send(to(0, "not")).await.unwrap();
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    outcome(&other).await.unwrap();
    // What is asked for now waits for the dead letter.
    flights.flush().await;
    assert_eq!(memory.dead_letters(TOPIC).len(), 1);
    outcome(&stray).await.unwrap_err();
    let report = batcher.shutdown(LONG).await;
    assert!(
        report.balances() && (report.delivered, report.dead_lettered, report.lost) == (1, 1, 0),
        "{report:?}"
    );
}

/// Each topic that was not there might hold half of the memory: two of them left nothing to those that are.
#[tokio::test]
async fn topics_that_are_not_there_leave_memory_to_one_that_is() {
    let kafka = kafka(1);
    let builder = builder(&kafka, &Told::default()).settings(|s| s.memory = 4 << 20);
    let batcher = builder.start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    let value = "x".repeat(20_000);
    for topic in ["typo-1", "typo-2", "typo-3"] {
        let typo = batcher.collector(topic).build().unwrap();
        while typo.try_add_event(("k", &value)).is_ok() {}
    }
    flights.try_add_event(("k", &value)).unwrap();
    flights.flush().await;
    let report = batcher.shutdown(Duration::ZERO).await;
    assert!(report.balances() && report.delivered == 1 && report.lost > 50, "{report:?}");
}

/// They were "put aside as dead letters", and lay nowhere.
#[tokio::test]
async fn what_a_storage_that_keeps_nothing_gets_of_the_lane_is_lost_and_no_dead_letter() {
    let kafka = kafka(1);
    let (told, bootstrap) = (Told::default(), kafka.bootstrap());
    kafka.stop_broker(1).unwrap();
    let storage = kafka_batcher::Discard::default();
    let batcher = builder_at(&bootstrap, &told).spool_after(LONG).storage(storage).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    let stray = flights.send(to(99, "stray")).await.unwrap();
    let other = flights.send(to(0, "not")).await.unwrap();
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    outcome(&other).await.unwrap();
    outcome(&stray).await.unwrap_err();
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.delivered, report.lost, report.dead_lettered), (1, 1, 0), "{report:?}");
}

/// Nobody asked the storage what it had dropped for them.
#[tokio::test]
async fn dead_letters_that_go_for_later_ones_of_the_lane_are_told_as_lost() {
    let kafka = kafka(1);
    let (told, bootstrap) = (Told::default(), kafka.bootstrap());
    let dir = tempfile::tempdir().unwrap();
    // Each run's letters are a file of their own; the oldest go as files.
    for _ in 0..3 {
        kafka.stop_broker(1).unwrap();
        let mut disk = kafka_batcher::DiskSettings::new(dir.path());
        disk.dead_letter_bytes = 3_000;
        let batcher = builder_at(&bootstrap, &told).spool_after(LONG).spool_with(disk).start().await.unwrap();
        let flights = batcher.collector(TOPIC).build().unwrap();
        let mut strays = Vec::new();
        for n in 0..20 {
            strays.push(flights.send(to(99, &format!("stray {n} {}", "x".repeat(200)))).await.unwrap());
        }
        kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
        for stray in &strays {
            outcome(stray).await.unwrap_err();
        }
        let report = batcher.shutdown(LONG).await;
        assert!(report.balances() && report.dead_lettered == 20, "{report:?}");
    }
    let spool = kafka_batcher::storage::disk::Spool::open(dir.path()).unwrap();
    let kept = spool.dead_letters(TOPIC).unwrap().batches;
    assert!(kept.iter().map(|batch| batch.count).sum::<u32>() < 60, "some have gone");
    let lost = told.of(kafka_batcher::NotificationKind::EventsLost);
    assert!(lost.iter().any(|message| message.contains("dead letters, the oldest, are lost")), "{lost:?}");
}
