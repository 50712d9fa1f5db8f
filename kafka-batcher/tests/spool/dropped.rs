//! A batcher that is dropped without shutdown puts what it has in memory into the spool, as far as that takes it at once.

use kafka_batcher::{FailureReason, KafkaBatcher, MemoryStorage, ReceiptError, SpoolMode};

use crate::mortal::{Fate, Mortal};
use crate::support::{outcome, ready};
use crate::{Kept, LONG, Site, TOPIC};

/// Kafka does not count as away yet, so that everything is in memory.
async fn with_all_in_memory(site: &Site) -> KafkaBatcher {
    site.builder().spool_after(LONG).start().await.expect("it starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_memory_and_in_flight_is_delivered_by_the_next_process() {
    for storage in [Site::new, Site::on_disk] {
        for freeze in [false, true] {
            let mut site = storage(SpoolMode::OnFailure);
            let batcher = with_all_in_memory(&site).await;
            let collector = batcher.collector(TOPIC).build().expect("the collector starts");
            ready(&batcher, TOPIC).await;
            match freeze {
                true => site.kafka.freeze(1).expect("a broker"),
                false => site.stop_kafka(),
            }
            let receipts = site.send(&collector, 1_000).await;
            drop((batcher, collector));
            site.durable(&receipts).await;
            for (_, receipt) in &receipts {
                let Err(ReceiptError::Failed(error)) = outcome(receipt).await else {
                    panic!("not delivered")
                };
                assert_eq!(error.reason, FailureReason::Spooled);
            }
            match freeze {
                true => site.kafka.thaw(1).expect("a broker"),
                false => site.start_kafka(),
            }
            let (batcher, collector) = site.start().await;
            site.send(&collector, 10).await;
            site.drained(&batcher).await;
            let report = batcher.shutdown(LONG).await;
            assert!(report.balances() && report.all_delivered(), "{report:?}");
            assert_eq!((report.recovered, report.accepted), (1_000, 10), "{report:?}");
            site.check();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_partition_is_known_for_is_delivered_by_the_next_process_too() {
    let mut site = Site::on_disk(SpoolMode::OnFailure);
    site.stop_kafka();
    let batcher = with_all_in_memory(&site).await;
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    // The storage has said what it holds.
    let _ = batcher.report().await;
    let receipts = site.send(&collector, 100).await;
    drop((batcher, collector));
    site.durable(&receipts).await;
    site.start_kafka();
    let (batcher, _collector) = site.start().await;
    site.drained(&batcher).await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances() && report.recovered == 100 && report.delivered == 100, "{report:?}");
    site.check();
}

/// What a program does that returns from `main` on an error.
#[test]
fn it_is_saved_too_when_the_runtime_ends_with_the_batcher() {
    for threads in [1, 2] {
        let mut site = Site::on_disk(SpoolMode::OnFailure);
        let runtime = || match threads {
            1 => tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
            _ => tokio::runtime::Runtime::new().expect("a runtime"),
        };
        let process = runtime();
        let receipts = process.block_on(async {
            let batcher = with_all_in_memory(&site).await;
            let collector = batcher.collector(TOPIC).build().expect("the collector starts");
            ready(&batcher, TOPIC).await;
            site.stop_kafka();
            site.send(&collector, 1_000).await
        });
        drop(process);
        runtime().block_on(async {
            site.durable(&receipts).await;
            site.start_kafka();
            let (batcher, _collector) = site.start().await;
            site.drained(&batcher).await;
            let report = batcher.shutdown(LONG).await;
            assert!(report.balances() && report.delivered == 1_000, "{report:?}");
            site.check();
        });
    }
}

#[tokio::test]
async fn a_storage_that_takes_nothing_is_not_waited_for_and_whoever_waits_is_told() {
    let site = Site::new(SpoolMode::OnFailure);
    let Kept::Memory(memory) = &site.storage else { unreachable!("it is in memory") };
    let fate = Fate::default();
    let storage = Mortal::new(Box::new(MemoryStorage::clone(memory)), fate.clone());
    let batcher = site.settings().storage(storage).spool_after(LONG).start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    ready(&batcher, TOPIC).await;
    site.stop_kafka();
    let receipt = collector.send("v").await.expect("accepted");
    fate.kill();
    drop((batcher, collector));
    let Err(ReceiptError::Failed(error)) = outcome(&receipt).await else { panic!("not delivered") };
    assert_eq!(error.reason, FailureReason::Shutdown);
}
