//! A storage that does not answer, or not in time: nobody waits for it for ever.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use kafka_batcher::{
    Collector, FailureReason, KafkaBatcher, Notification, NotificationKind, Persisted, ReceiptError, Report,
    SpoolMode,
};

use crate::gated::{Call, Gated};
use crate::support::{LONG, outcome, ready, until};
use crate::{Site, TOPIC};

fn gated(site: &Site) -> Gated {
    Gated::new(site.memory().clone())
}

/// Shuts down at once; it takes as long as it takes, but not for ever.
async fn shutdown(batcher: &KafkaBatcher) -> Report {
    let report = batcher.shutdown(Duration::ZERO);
    tokio::time::timeout(LONG, report).await.expect("nothing that hangs is waited for")
}

#[tokio::test]
async fn shutdown_gives_up_on_a_save_of_events_without_a_partition_that_is_never_answered() {
    let site = Site::new(SpoolMode::Always);
    site.stop_kafka();
    let storage = gated(&site);
    storage.gates.hold(Call::Save);
    let batcher = site.settings().storage(storage.clone()).start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    let receipt = collector.send(("key-0", "0")).await.expect("accepted");
    until(|| storage.gates.waiting() > 0).await;
    let report = shutdown(&batcher).await;
    // The storage may have it, or get it; then the next start delivers it.
    assert_eq!((report.in_doubt, report.lost, report.accepted), (1, 0, 1), "{report:?}");
    assert!(report.balances(), "{report:?}");
    let Err(ReceiptError::Failed(error)) = outcome(&receipt).await else { panic!("not delivered") };
    assert_eq!((error.reason, error.persisted), (FailureReason::Shutdown, Persisted::Maybe));
}

#[tokio::test]
async fn what_is_in_memory_when_shutdown_comes_before_the_spool_is_open_is_saved_when_it_is() {
    for stop in [true, false] {
        let mut site = Site::new(SpoolMode::OnFailure);
        if stop {
            site.stop_kafka();
        }
        let storage = gated(&site);
        storage.gates.hold(Call::Open);
        let batcher = site.settings().storage(storage.clone()).start().await.expect("it starts");
        let collector = batcher.collector(TOPIC).build().expect("the collector starts");
        let receipts = site.send(&collector, 30).await;
        until(|| storage.gates.waiting() > 0).await;
        let open = async {
            // The dispatcher is told to end meanwhile, more than once round.
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            storage.gates.release();
        };
        let (report, ()) = tokio::join!(shutdown(&batcher), open);
        assert_eq!((report.spooled, report.lost, report.in_doubt), (30, 0, 0), "{report:?}");
        site.durable(&receipts).await;
        drop((batcher, collector));
        if stop {
            site.start_kafka();
        }
        let (batcher, _collector) = site.start().await;
        site.drained(&batcher).await;
        let report = batcher.shutdown(LONG).await;
        assert!(report.balances() && report.recovered == 30 && report.delivered == 30, "{report:?}");
        site.check();
    }
}

#[tokio::test]
async fn shutdown_waits_for_no_recovery_if_there_is_nothing_to_save() {
    let site = Site::new(SpoolMode::OnFailure);
    let storage = gated(&site);
    storage.gates.hold(Call::Open);
    let batcher = site.settings().storage(storage.clone()).start().await.expect("it starts");
    let _collector = batcher.collector(TOPIC).build().expect("the collector starts");
    until(|| storage.gates.waiting() > 0).await;
    let report = shutdown(&batcher).await;
    assert_eq!(report, Report::default());
}

#[tokio::test]
async fn a_storage_that_never_closes_would_keep_shutdown_from_its_end_and_is_closed_once() {
    let site = Site::new(SpoolMode::OnFailure);
    let storage = gated(&site);
    storage.gates.hold(Call::Close);
    let batcher = site.settings().storage(storage.clone()).start().await.expect("it starts");
    let (one, two) = tokio::join!(shutdown(&batcher), shutdown(&batcher));
    assert_eq!(one, two);
    let _ = shutdown(&batcher).await;
    assert_eq!(storage.gates.closes(), 1);
}

#[tokio::test]
async fn a_storage_that_panics_when_it_is_closed_does_not_take_the_report_along() {
    let site = Site::new(SpoolMode::OnFailure);
    let storage = gated(&site);
    storage.gates.close_panics.store(true, SeqCst);
    let batcher = site.settings().storage(storage.clone()).start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    let receipt = collector.send(("key-0", "0")).await.expect("accepted");
    outcome(&receipt).await.expect("it is delivered");
    assert!(shutdown(&batcher).await.all_delivered());
}

/// A batcher whose partitions are known, with a run in each of them.
async fn running(site: &mut Site, storage: &Gated) -> (KafkaBatcher, Collector) {
    let batcher = site.settings().storage(storage.clone()).start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    ready(&batcher, TOPIC).await;
    let receipts = site.send(&collector, 70).await;
    for (_, receipt) in &receipts {
        outcome(receipt).await.expect("it is delivered");
    }
    site.drained(&batcher).await;
    (batcher, collector)
}

#[tokio::test]
async fn a_save_that_is_never_answered_stops_no_deliveries_while_kafka_is_well() {
    for mode in [SpoolMode::Always, SpoolMode::OnFailure] {
        let mut site = Site::new(mode);
        let storage = gated(&site);
        let (batcher, collector) = running(&mut site, &storage).await;
        storage.gates.hold(Call::Save);
        if mode == SpoolMode::OnFailure {
            site.stop_kafka();
        }
        let mut receipts = site.send(&collector, 70).await;
        let silent = |told: &&Notification| {
            told.kind == NotificationKind::SpoolError && told.message.contains("does not answer")
        };
        until(|| site.told.0.lock().unwrap().iter().any(|told| silent(&told))).await;
        if mode == SpoolMode::OnFailure {
            site.start_kafka();
        }
        receipts.append(&mut site.send(&collector, 70).await);
        // There durable means acknowledged now.
        site.durable(&receipts).await;
        for (_, receipt) in &receipts {
            outcome(receipt).await.expect("it is delivered");
        }
        assert_eq!(site.told.0.lock().unwrap().iter().filter(silent).count(), 1);
        storage.gates.release();
        until(|| site.told.0.lock().unwrap().iter().any(|told| told.message.contains("works again"))).await;
        site.drained(&batcher).await;
        let report = batcher.shutdown(LONG).await;
        assert!(report.balances() && report.all_delivered(), "{report:?}");
        assert_eq!(report.possible_duplicates, 0, "{report:?}");
        site.check();
    }
}

#[tokio::test]
async fn a_report_is_given_although_the_spool_does_not_open_and_that_is_told() {
    let site = Site::new(SpoolMode::OnFailure);
    let storage = gated(&site);
    storage.gates.hold(Call::Open);
    let patient = Duration::from_millis(50);
    let builder = site.settings().storage(storage.clone()).settings(|s| s.request_timeout = patient);
    let batcher = builder.start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    let receipt = collector.send(("key-0", "0")).await.expect("accepted");
    let report = tokio::time::timeout(LONG, batcher.report()).await.expect("it is given");
    assert_eq!((report.accepted, report.in_memory), (1, 1), "{report:?}");
    assert_eq!(site.told.count(NotificationKind::SpoolError), 1);
    storage.gates.release();
    outcome(&receipt).await.expect("it is delivered");
}

#[tokio::test]
async fn a_poisoned_event_that_the_disk_does_not_take_does_not_stop_its_partition() {
    let mut site = Site::new(SpoolMode::OnFailure);
    let storage = gated(&site);
    let (batcher, collector) = running(&mut site, &storage).await;
    site.kafka.set_topic_config(TOPIC, "max.message.bytes", "300").unwrap();
    storage.gates.rejects_fail.store(true, SeqCst);
    let large = collector.send(("key-1", &"x".repeat(400))).await.expect("it is accepted");
    let after = site.send(&collector, 35).await;
    for (_, receipt) in &after {
        outcome(receipt).await.expect("it is delivered");
    }
    assert!(large.try_delivered().is_none(), "it is not put aside yet");
    storage.gates.rejects_fail.store(false, SeqCst);
    let Err(ReceiptError::Failed(error)) = outcome(&large).await else { panic!("it is too large") };
    assert_eq!(error.reason, FailureReason::TooLarge);
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances() && report.dead_lettered == 1 && report.lost == 0, "{report:?}");
    site.check();
}
