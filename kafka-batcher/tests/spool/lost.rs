//! What a storage does not give back, or never keeps: it is counted, and whoever waits for it is told.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use kafka_batcher::{Discard, FailureReason, Receipt, ReceiptError, SpoolMode};

use crate::gated::Gated;
use crate::support::{LONG, outcome, ready};
use crate::{Site, TOPIC};

/// How many were delivered, and how many failed for this reason; the others make it panic.
async fn outcomes(receipts: &[(u32, Receipt)], reason: FailureReason) -> (u64, u64) {
    let (mut delivered, mut failed) = (0, 0);
    for (number, receipt) in receipts {
        match outcome(receipt).await {
            Ok(_) => delivered += 1,
            Err(ReceiptError::Failed(error)) if error.reason == reason => failed += 1,
            Err(error) => panic!("event {number}: {error}"),
        }
    }
    (delivered, failed)
}

#[tokio::test]
async fn who_waits_for_a_damaged_event_is_told_that_it_is_lost() {
    for known in [true, false] {
        let mut site = Site::new(SpoolMode::OnFailure);
        let storage = Gated::new(site.memory().clone());
        if !known {
            site.stop_kafka();
        }
        let batcher = site.settings().storage(storage.clone()).start().await.expect("it starts");
        let collector = batcher.collector(TOPIC).build().expect("the collector starts");
        if known {
            ready(&batcher, TOPIC).await;
            site.stop_kafka();
        }
        let receipts = site.send(&collector, 100).await;
        site.durable(&receipts).await;
        storage.gates.damage.store(true, SeqCst);
        site.start_kafka();
        let (delivered, lost) = outcomes(&receipts, FailureReason::Damaged).await;
        assert!(lost > 0 && delivered + lost == 100, "{delivered} delivered, {lost} lost");
        site.drained(&batcher).await;
        let report = batcher.shutdown(LONG).await;
        assert!(report.balances(), "{report:?}");
        assert_eq!((report.delivered, report.lost), (delivered, lost), "{report:?}");
    }
}

#[tokio::test]
async fn what_is_given_to_discard_is_lost_and_not_in_a_spool() {
    for known in [true, false] {
        for mode in [SpoolMode::OnFailure, SpoolMode::Always] {
            let mut site = Site::new(mode);
            if !known {
                site.stop_kafka();
            }
            let mut builder = site.settings().storage(Discard::default());
            if known {
                // What Kafka takes a moment to acknowledge is not given to it.
                builder = builder.spool_after(LONG);
            }
            let batcher = builder.start().await.expect("it starts");
            let collector = batcher.collector(TOPIC).build().expect("the collector starts");
            let mut delivered = 0;
            if known {
                ready(&batcher, TOPIC).await;
                let receipts = site.send(&collector, 20).await;
                (delivered, _) = outcomes(&receipts, FailureReason::Discarded).await;
                assert_eq!(delivered, 20);
                site.stop_kafka();
            }
            let receipts = site.send(&collector, 50).await;
            if !known {
                let (_, lost) = outcomes(&receipts, FailureReason::Discarded).await;
                assert_eq!(lost, 50);
            }
            let report = batcher.shutdown(Duration::ZERO).await;
            for (_, receipt) in &receipts {
                assert!(outcome(receipt).await.is_err());
                assert!(receipt.durable().await.is_err(), "nothing of it is durable");
            }
            assert!(report.balances(), "{report:?}");
            assert_eq!((report.spooled, report.delivered), (0, delivered), "{report:?}");
            assert_eq!(report.lost + report.in_doubt, 50, "{report:?}");
        }
    }
}
