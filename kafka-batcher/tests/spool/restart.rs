//! The process dies, or ends, with events on disk.

use std::time::Duration;

use kafka_batcher::{FailureReason, NotificationKind, ReceiptError, SpoolMode};

use crate::support::{outcome, ready, until};
use crate::{Site, everywhere};

#[tokio::test]
async fn what_is_durable_survives_the_process_and_arrives_once_and_in_order() {
    for mut site in everywhere() {
        let (batcher, collector) = site.start().await;
        ready(&batcher, crate::TOPIC).await;
        let before = site.send(&collector, 50).await;
        site.durable(&before).await;
        site.stop_kafka();
        let during = site.send(&collector, 200).await;
        site.durable(&during).await;
        site.kill(batcher, collector).await;
        site.start_kafka();
        let (batcher, collector) = site.start().await;
        let after = site.send(&collector, 50).await;
        site.durable(&after).await;
        site.drained(&batcher).await;
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.recovered > 0 && report.all_delivered() && report.balances(), "{report:?}");
        site.check();
    }
}

#[tokio::test]
async fn with_write_ahead_a_process_killed_while_kafka_is_well_writes_nothing_twice() {
    // Acknowledged batches come back from disk, because commits are only hints: the broker recognises them, or proves
    // them by a later one of their run.
    for kills in 1..4 {
        for mut site in [Site::new(SpoolMode::Always), Site::on_disk(SpoolMode::Always)] {
            for _ in 0..kills {
                let (batcher, collector) = site.start().await;
                let receipts = site.send(&collector, 400).await;
                site.durable(&receipts).await;
                site.kill(batcher, collector).await;
            }
            let (batcher, _collector) = site.start().await;
            site.drained(&batcher).await;
            let report = batcher.shutdown(crate::LONG).await;
            assert!(report.all_delivered() && report.balances(), "{report:?}");
            site.check();
        }
    }
}

#[tokio::test]
async fn shutdown_puts_what_is_left_on_disk_and_the_next_start_delivers_it() {
    for mut site in everywhere() {
        let (batcher, collector) = site.start().await;
        ready(&batcher, crate::TOPIC).await;
        site.stop_kafka();
        let receipts = site.send(&collector, 100).await;
        until(|| site.told.count(NotificationKind::ProducerError) > 0).await;
        let report = batcher.shutdown(Duration::ZERO).await;
        // Once it was told there, when all was on disk, that deliveries go on: a pager would have closed itself.
        let told = site.told.0.lock().unwrap().clone();
        let mut recovered = told.iter().filter(|told| told.kind == NotificationKind::Recovered);
        // A disk may have taken its time, on a machine that is busy elsewhere.
        assert!(recovered.all(|told| told.message == "the spool works again"), "{told:?}");
        assert!(report.balances() && report.spooled == 100 && report.lost == 0, "{report:?}");
        site.durable(&receipts).await;
        for (_, receipt) in &receipts {
            let Err(ReceiptError::Failed(error)) = outcome(receipt).await else { panic!("not delivered") };
            assert_eq!(error.reason, FailureReason::Spooled);
        }
        assert_eq!(batcher.shutdown(Duration::ZERO).await.spooled, 100, "twice is harmless");
        site.start_kafka();
        let (batcher, collector) = site.start().await;
        drop(collector);
        site.drained(&batcher).await;
        let report = batcher.shutdown(crate::LONG).await;
        assert_eq!((report.recovered, report.delivered), (100, 100), "{report:?}");
        site.check();
    }
}
