//! What holds while a batch is being compressed. A test that wants it to stay there takes all permits of the pool.

use std::time::Duration;

use kafka_batcher_broker::EmbeddedKafka;
use kafka_batcher_core::{Codec, FailureReason, Record, RecordBatch};

use crate::dispatcher::Command;
use crate::{Builder, Collector, Delivery, KafkaBatcher, MemoryStorage, Receipt, ReceiptError, TopicHealth};

const LONG: Duration = Duration::from_secs(60);
const TOPIC: &str = "flights";

fn kafka(partitions: i32) -> EmbeddedKafka {
    EmbeddedKafka::builder().topic(TOPIC, partitions).start().unwrap()
}

fn builder(kafka: &EmbeddedKafka) -> Builder {
    KafkaBatcher::builder([kafka.bootstrap()]).spool_after(LONG).collector_defaults(|c| {
        c.compression = Codec::Zstd;
        c.max_wait_time = Duration::from_millis(1);
    })
}

async fn start(builder: Builder) -> (KafkaBatcher, Collector) {
    let batcher = builder.start().await.unwrap();
    let collector = batcher.collector(TOPIC).build().unwrap();
    let ready = |health: &crate::Health| matches!(health.topics.get(TOPIC), Some(TopicHealth::Ready { .. }));
    batcher.health().wait_for(ready).await.unwrap();
    let _ = batcher.report().await;
    (batcher, collector)
}

/// So many events, each of 100 bytes and more, to these partitions in turn.
async fn send(collector: &Collector, events: u32, partitions: u32) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for n in 0..events {
        let value = format!("{n:>6} {:100}", "the same words again and again");
        let record = Record::value(&value).with_partition((n % partitions) as i32);
        receipts.push(collector.send(record).await.unwrap());
    }
    receipts
}

/// The numbers of a partition's events in the log, and by which codecs its batches are compressed.
fn log(kafka: &EmbeddedKafka, partition: i32) -> (Vec<u32>, Vec<Codec>) {
    let batches = kafka.batches(TOPIC, partition).into_iter();
    let batches: Vec<_> = batches.map(|batch| RecordBatch::decode(&batch.bytes).unwrap().0).collect();
    let number = |value: Vec<u8>| String::from_utf8(value).unwrap()[..6].trim().parse().unwrap();
    let numbers = batches.iter().flat_map(|b| b.records().unwrap()).map(|r| number(r.value.unwrap()));
    (numbers.collect(), batches.iter().map(RecordBatch::codec).collect())
}

async fn outcome(receipt: &Receipt) -> Result<Delivery, ReceiptError> {
    tokio::time::timeout(LONG, receipt.delivered()).await.expect("it becomes known")
}

fn reason(outcome: Result<Delivery, ReceiptError>) -> FailureReason {
    match outcome {
        Err(ReceiptError::Failed(error)) => error.reason,
        other => panic!("{other:?}"),
    }
}

/// Resolves when so many events were sealed and taken by the dispatcher, and are still in memory.
async fn staged(batcher: &KafkaBatcher, collector: &Collector, events: u64) {
    while collector.topic.oldest().is_some() {
        tokio::task::yield_now().await;
    }
    let report = batcher.report().await;
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.accepted, report.in_memory), (events, events), "{report:?}");
}

#[tokio::test]
async fn what_is_being_compressed_is_in_memory_and_a_flush_waits_for_it_and_not_for_what_comes_later() {
    let kafka = kafka(2);
    let (batcher, collector) = start(builder(&kafka)).await;
    let held = batcher.compression().hold().await;
    send(&collector, 10, 2).await;
    staged(&batcher, &collector, 10).await;
    let mut flush = Box::pin(collector.flush());
    let begun = tokio::time::timeout(Duration::ZERO, &mut flush).await;
    assert!(begun.is_err(), "nothing of it is delivered");
    // Asked behind the flush, so that its marks are set.
    let _ = batcher.report().await;
    drop(held);
    flush.await;
    assert_eq!(batcher.report().await.delivered, 10);
    for partition in 0..2 {
        let (numbers, codecs) = log(&kafka, partition);
        assert_eq!(numbers, (0..10).filter(|n| n % 2 == partition as u32).collect::<Vec<_>>());
        assert!(codecs.iter().all(|codec| *codec == Codec::Zstd), "{codecs:?}");
    }
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_reach_their_outbox_in_the_order_of_sealing_whichever_is_done_first() {
    let kafka = kafka(3);
    // One of fifty events takes longer than one of three.
    let (batcher, collector) = start(builder(&kafka).collector_defaults(|c| {
        c.compression = Codec::Gzip;
        c.compression_level = Some(9);
        c.batch_size = 3;
    }))
    .await;
    for round in 0..40 {
        for n in 0..150 {
            let n = 150 * round + n;
            let words = if round % 2 == 0 { "w".repeat(2_000) } else { n.to_string() };
            let value = format!("{n:>6} {words}");
            collector.add_event(Record::value(&value).with_partition(n % 3)).await.unwrap();
        }
    }
    assert!(batcher.shutdown(LONG).await.all_delivered());
    for partition in 0..3 {
        let (numbers, codecs) = log(&kafka, partition as i32);
        assert_eq!(numbers, (0..6_000).filter(|n| n % 3 == partition).collect::<Vec<_>>());
        assert!(codecs.contains(&Codec::Gzip));
    }
}

#[tokio::test]
async fn at_the_deadline_what_is_not_compressed_yet_is_saved_as_it_is() {
    let (kafka, memory) = (kafka(2), MemoryStorage::default());
    let (batcher, collector) = start(builder(&kafka).storage(memory.clone())).await;
    let held = batcher.compression().hold().await;
    let receipts = send(&collector, 10, 2).await;
    staged(&batcher, &collector, 10).await;
    let report = batcher.shutdown(Duration::ZERO).await;
    assert!(report.balances() && (report.spooled, report.lost) == (10, 0), "{report:?}");
    for receipt in &receipts {
        receipt.durable().await.unwrap();
        assert_eq!(reason(outcome(receipt).await), FailureReason::Spooled);
    }
    drop(held);
    let (batcher, _collector) = start(builder(&kafka).storage(memory)).await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.recovered == 10, "{report:?}");
    let (numbers, codecs) = log(&kafka, 1);
    assert_eq!(numbers, [1, 3, 5, 7, 9]);
    assert!(codecs.iter().all(|codec| *codec == Codec::None), "{codecs:?}");
}

#[tokio::test]
async fn what_is_taken_back_is_saved_and_replayed_in_batches_within_the_limit() {
    let (kafka, memory) = (kafka(1), MemoryStorage::default());
    let (batcher, collector) = start(builder(&kafka).storage(memory.clone()).collector_defaults(|c| {
        c.max_batch_bytesize = 1_000;
        c.max_wait_time = LONG;
    }))
    .await;
    let fill = collector.topic.fill.as_ref().expect("there is a codec");
    (0..1_000).for_each(|_| fill.observe(1_000, 100));
    let held = batcher.compression().hold().await;
    let receipts = send(&collector, 50, 1).await;
    assert_eq!(batcher.report().await.batches, 0, "all of them are in one batch");
    let report = batcher.shutdown(Duration::ZERO).await;
    assert!(report.balances() && (report.spooled, report.lost) == (50, 0), "{report:?}");
    for receipt in &receipts {
        receipt.durable().await.unwrap();
    }
    drop(held);
    let (batcher, _collector) = start(builder(&kafka).storage(memory)).await;
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(log(&kafka, 0).0, (0..50).collect::<Vec<_>>());
    let sizes: Vec<_> = kafka.batches(TOPIC, 0).iter().map(|batch| batch.bytes.len()).collect();
    assert!(sizes.iter().all(|size| *size <= 1_000), "{sizes:?}");
}

#[tokio::test]
async fn without_a_spool_what_is_not_compressed_at_the_deadline_is_lost_and_who_waits_is_told() {
    let kafka = kafka(1);
    let (batcher, collector) = start(builder(&kafka)).await;
    let _held = batcher.compression().hold().await;
    let receipts = send(&collector, 10, 1).await;
    staged(&batcher, &collector, 10).await;
    let report = batcher.shutdown(Duration::ZERO).await;
    assert!(report.balances() && report.lost == 10, "{report:?}");
    for receipt in &receipts {
        assert_eq!(reason(outcome(receipt).await), FailureReason::Shutdown);
    }
}

#[tokio::test]
async fn what_is_being_compressed_when_the_batcher_is_dropped_is_saved_too() {
    let (kafka, memory) = (kafka(1), MemoryStorage::default());
    let (batcher, collector) = start(builder(&kafka).storage(memory.clone())).await;
    let held = batcher.compression().hold().await;
    let receipts = send(&collector, 10, 1).await;
    staged(&batcher, &collector, 10).await;
    drop((batcher, collector));
    for receipt in &receipts {
        tokio::time::timeout(LONG, receipt.durable()).await.expect("it becomes known").unwrap();
    }
    drop(held);
    let (batcher, _collector) = start(builder(&kafka).storage(memory)).await;
    assert_eq!(batcher.shutdown(LONG).await.delivered, 10);
    assert_eq!(log(&kafka, 0).0, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_collector_that_fails_saves_what_is_being_compressed() {
    let (kafka, memory) = (kafka(1), MemoryStorage::default());
    let (batcher, collector) = start(builder(&kafka).storage(memory.clone())).await;
    let _held = batcher.compression().hold().await;
    let receipts = send(&collector, 10, 1).await;
    staged(&batcher, &collector, 10).await;
    assert!(collector.commands.send(Command::Fail("planted".to_owned())).is_ok());
    for receipt in &receipts {
        tokio::time::timeout(LONG, receipt.durable()).await.expect("it becomes known").unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances() && (report.spooled, report.lost) == (10, 0), "{report:?}");
}

#[tokio::test]
async fn what_no_thread_begins_to_compress_is_sent_as_it_is_and_later_batches_are_compressed_again() {
    let kafka = kafka(2);
    let (batcher, collector) =
        start(builder(&kafka).storage(MemoryStorage::default()).spool_after(Duration::from_millis(1))).await;
    let held = batcher.compression().hold().await;
    for receipt in &send(&collector, 10, 2).await {
        outcome(receipt).await.unwrap();
    }
    let (numbers, codecs) = log(&kafka, 0);
    assert_eq!(numbers, [0, 2, 4, 6, 8]);
    assert!(codecs.iter().all(|codec| *codec == Codec::None), "{codecs:?}");
    drop(held);
    // Once the pool has answered again.
    while log(&kafka, 0).1.last() != Some(&Codec::Zstd) {
        for receipt in &send(&collector, 2, 1).await {
            outcome(receipt).await.unwrap();
        }
    }
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// Events of an unknown topic, on disk: the next start regroups them.
async fn left_in_the_lane(memory: &MemoryStorage, events: u32) {
    let nobody = builder(&kafka(1)).storage(memory.clone());
    let batcher = nobody.settings(|s| s.endpoints = vec!["127.0.0.1:1".to_owned()]).start().await.unwrap();
    let collector = batcher.collector(TOPIC).build().unwrap();
    send(&collector, events, 1).await;
    let report = batcher.shutdown(Duration::ZERO).await;
    assert_eq!((report.spooled, report.lost), (u64::from(events), 0), "{report:?}");
}

#[tokio::test]
async fn what_is_regrouped_goes_as_it_is_if_no_thread_compresses_it() {
    let (kafka, memory) = (kafka(1), MemoryStorage::default());
    left_in_the_lane(&memory, 10).await;
    let builder = builder(&kafka).storage(memory).spool_after(Duration::from_millis(1));
    let batcher = builder.start().await.unwrap();
    let _held = batcher.compression().hold().await;
    let _collector = batcher.collector(TOPIC).build().unwrap();
    let delivered = async {
        while batcher.report().await.delivered < 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, delivered).await.expect("what is on disk goes on without a codec");
    let (numbers, codecs) = log(&kafka, 0);
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    assert!(codecs.iter().all(|codec| *codec == Codec::None), "{codecs:?}");
}

#[tokio::test]
async fn at_the_deadline_a_step_of_regrouping_waits_for_no_codec() {
    let (kafka, memory) = (kafka(1), MemoryStorage::default());
    left_in_the_lane(&memory, 10).await;
    let batcher = builder(&kafka).storage(memory).start().await.unwrap();
    let _held = batcher.compression().hold().await;
    let _collector = batcher.collector(TOPIC).build().unwrap();
    // The pool is asked: the step is under way.
    while batcher.compression().asked() == 0 {
        tokio::task::yield_now().await;
    }
    let report =
        tokio::time::timeout(LONG / 6, batcher.shutdown(Duration::ZERO)).await.expect("it ends at once");
    assert!(report.balances() && report.spooled == 10, "{report:?}");
}

#[tokio::test]
async fn without_a_codec_nobody_asks_the_pool() {
    let kafka = kafka(1);
    let (batcher, collector) =
        start(builder(&kafka).collector_defaults(|c| c.compression = Codec::None)).await;
    let _held = batcher.compression().hold().await;
    for receipt in &send(&collector, 10, 1).await {
        outcome(receipt).await.unwrap();
    }
    assert_eq!(log(&kafka, 0).1.first(), Some(&Codec::None));
}
