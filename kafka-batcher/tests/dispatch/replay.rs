//! What replay may hold in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_batcher::{DiskSettings, DiskStorage};
use kafka_batcher_broker::{Api, EmbeddedKafka, Fault, ProducerMemory, TopicSpec};

use crate::odd::{Call, Odd};
use crate::support::{LONG, kafka, ready};
use crate::{TOPIC, Told, builder_at, to};

/// Every partition that had nothing to send read 1 MiB, whatever the others held: 300 of them took 176 MB beside a memory
/// bound of 8 MiB.
#[tokio::test]
async fn what_is_read_back_is_bounded_whatever_the_number_of_partitions_and_all_of_it_arrives() {
    const PARTITIONS: i32 = 40;
    const BATCH: usize = 100_000;
    let kafka = kafka(PARTITIONS);
    let (told, bootstrap) = (Told::default(), kafka.bootstrap());
    let reads = Arc::new(AtomicU64::new(0));
    let seen = reads.clone();
    // The storage in memory keeps the batches' own memory.
    let dir = tempfile::tempdir().unwrap();
    let mut settings = DiskSettings::new(dir.path());
    settings.min_free_bytes = Some(0);
    let disk = DiskStorage::new(settings).unwrap();
    let storage = Odd::new(disk, move |call| {
        seen.fetch_add(u64::from(matches!(call, Call::Gave { bytes } if bytes > 0)), Ordering::SeqCst);
        Ok(())
    });
    let builder = builder_at(&bootstrap, &told)
        .storage(storage)
        .settings(|s| (s.memory, s.request_timeout) = (2 << 20, Duration::from_secs(1)));
    let builder = builder.collector_defaults(|d| (d.batch_size, d.max_batch_bytesize) = (1, BATCH + 1_000));
    let batcher = builder.start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    kafka.stop_broker(1).unwrap();
    let value = "x".repeat(BATCH - 200);
    for i in 0..2 * PARTITIONS {
        flights.add_event(to(i % PARTITIONS, &value)).await.unwrap();
    }
    tokio::time::timeout(LONG, flights.flush()).await.expect("all of it is saved");
    assert_eq!(batcher.report().await.spooled, 2 * PARTITIONS as u64);
    // Nothing is acknowledged for a while: whatever may read, reads.
    let silence = kafka.inject(Fault::never_serve().on(Api::Produce).always());
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    let bound = ((2 << 20) / 4 + BATCH) as u64;
    let within = |report: &kafka_batcher::Report| {
        assert!(report.replay_bytes <= bound, "{} of {bound} bytes", report.replay_bytes);
    };
    let reads_begin = async { while batcher.report().await.replay_bytes < 3 * BATCH as u64 - 1_000 {} };
    tokio::time::timeout(LONG, reads_begin).await.expect("it reads");
    for _ in 0..200 {
        within(&batcher.report().await);
    }
    kafka.remove_fault(silence);
    let all_arrive = async {
        loop {
            let report = batcher.report().await;
            within(&report);
            if report.delivered == 2 * PARTITIONS as u64 {
                break;
            }
        }
    };
    tokio::time::timeout(LONG, all_arrive).await.expect("everything arrives");
    assert!(reads.load(Ordering::SeqCst) >= PARTITIONS as u64);
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances() && report.replay_bytes == 0, "{report:?}");
}

/// One partition of all of them read beyond the bound: while it waited for a broker that is silent, no partition of any other broker
/// was read, nor delivered.
#[tokio::test]
async fn a_broker_that_is_silent_holds_what_is_read_for_it_and_another_gets_its_own_all_the_same() {
    const PARTITIONS: i32 = 12;
    const BATCH: usize = 100_000;
    // Even partitions on one broker, odd ones on the other.
    let topic = TopicSpec::new(TOPIC, PARTITIONS).replication(1);
    let kafka = EmbeddedKafka::builder().brokers(2).topic_spec(topic).start().unwrap();
    let (told, dir) = (Told::default(), tempfile::tempdir().unwrap());
    let builder = builder_at(&kafka.address(1).unwrap().to_string(), &told)
        .spool(dir.path())
        .spool_settings(|s| s.min_free_bytes = Some(0))
        .settings(|s| (s.memory, s.request_timeout) = (2 << 20, 10 * LONG));
    let builder = builder.collector_defaults(|d| (d.batch_size, d.max_batch_bytesize) = (1, BATCH + 1_000));
    let batcher = builder.start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    [1, 2].iter().for_each(|id| kafka.stop_broker(*id).unwrap());
    let value = "x".repeat(BATCH - 200);
    for i in 0..2 * PARTITIONS {
        flights.add_event(to(i % PARTITIONS, &value)).await.unwrap();
    }
    tokio::time::timeout(LONG, flights.flush()).await.expect("all of it is saved");
    assert_eq!(batcher.report().await.spooled, 2 * PARTITIONS as u64);
    let silence = kafka.inject(Fault::never_serve().on(Api::Produce).broker(1).always());
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    // Not one batch more fits into a quarter of the memory.
    let full = ((2 << 20) / 4 - (BATCH + 1_000)) as u64;
    let reads = async { while batcher.report().await.replay_bytes <= full {} };
    tokio::time::timeout(LONG, reads).await.expect("it reads for the silent one");
    kafka.restart_broker(2, ProducerMemory::LastBatch).unwrap();
    let arrives = async { while batcher.report().await.delivered < PARTITIONS as u64 {} };
    tokio::time::timeout(LONG, arrives).await.expect("the other broker gets its own");
    kafka.remove_fault(silence);
    // What it was sent goes again over a new connection.
    kafka.stop_broker(1).unwrap();
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    let report = batcher.shutdown(LONG).await;
    assert!(
        report.all_delivered() && report.balances() && report.delivered == 2 * PARTITIONS as u64,
        "{report:?}"
    );
}

/// The rate is so low that what the first read brought is not paid for before the test is over. What an earlier process left is
/// looked at, because none of it is in memory and needs no read.
#[tokio::test]
async fn a_bound_on_the_rate_of_replay_holds_what_is_read_until_its_time() {
    const EVENTS: u64 = 200;
    let kafka = kafka(2);
    let (told, bootstrap) = (Told::default(), kafka.bootstrap());
    let start = async |rate: Option<u64>, dir: &std::path::Path| {
        let builder = builder_at(&bootstrap, &told).spool(dir).collector_defaults(|d| d.batch_size = 1);
        let builder = builder.spool_settings(|s| (s.replay_rate, s.min_free_bytes) = (rate, Some(0)));
        let batcher = builder.start().await.unwrap();
        let flights = batcher.collector(TOPIC).build().unwrap();
        (batcher, flights)
    };
    let dir = tempfile::tempdir().unwrap();
    let (batcher, flights) = start(None, dir.path()).await;
    ready(&batcher, TOPIC).await;
    kafka.stop_broker(1).unwrap();
    for i in 0..EVENTS as i32 {
        flights.add_event(to(i % 2, "x")).await.unwrap();
    }
    assert_eq!(batcher.shutdown(Duration::ZERO).await.spooled, EVENTS);
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    let (batcher, _flights) = start(Some(1), dir.path()).await;
    let first = async {
        while batcher.report().await.delivered == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, first).await.expect("the first read is delivered");
    let report = batcher.shutdown(Duration::from_millis(200)).await;
    assert_eq!((report.delivered, report.spooled), (1, EVENTS - 1), "{report:?}");
    // The rest goes at once where nobody says otherwise.
    let (batcher, _flights) = start(None, dir.path()).await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.delivered == EVENTS - 1, "{report:?}");
}
