//! Topics of other kinds than the usual: whose time is the broker's, that are compacted, that have thousands of partitions.

use std::collections::BTreeMap;

use kafka_batcher::Record;
use kafka_batcher_testkit::{Error, Isolation, RealKafka, Tally};

use crate::real_kafka::{LONG, batcher, runtime, text};

/// The broker puts its own time into each batch's header, and answers with it.
pub(crate) fn log_append_time(kafka: &RealKafka) -> Result<(), Error> {
    const LONG_AGO: i64 = 1_000_000_000_000;
    let topic = kafka.fresh_topic("append-time", 1, &[("message.timestamp.type", "LogAppendTime")])?;
    let runtime = runtime();
    let report = runtime.block_on(async {
        let batcher = batcher(kafka, |_, defaults| defaults.batch_size = 10).await;
        let collector = batcher.collector(&topic).build().expect("a collector");
        for event in 0..1000 {
            let value = event.to_string();
            let record = Record { timestamp: Some(LONG_AGO), ..Record::value(&value) };
            collector.add_event(record).await.expect("accepted");
        }
        batcher.shutdown(LONG).await
    });
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    let read = kafka.consume(&topic, Isolation::Committed)?;
    assert!(read.iter().map(text).eq((0..1000).map(|event| event.to_string())), "all, once, in order");
    assert!(
        read.iter().all(|record| record.timestamp_type == "LogAppendTime" && record.timestamp > LONG_AGO)
    );
    Ok(())
}

/// A null value deletes its key, an empty one does not; and a record without a key is refused there, alone.
pub(crate) fn compacted(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("compacted", 1, &[("cleanup.policy", "compact")])?;
    let report = runtime().block_on(async {
        let batcher = batcher(kafka, |_, _| {}).await;
        let collector = batcher.collector(&topic).build().expect("a collector");
        let before = collector.send(Record::keyed("kept", "before")).await.expect("accepted");
        let refused =
            collector.send("no key").await.expect("accepted: the library does not know the topic's policy");
        let empty = collector.send(Record::keyed("kept", "")).await.expect("accepted");
        let tombstone =
            collector.send(Record { key: Some(b"gone"), ..Record::default() }).await.expect("accepted");
        for receipt in [before, empty, tombstone] {
            receipt.delivered().await.expect("its neighbours are delivered");
        }
        let why = refused.delivered().await.expect_err("a compacted topic takes no record without a key");
        assert!(why.to_string().contains("INVALID_RECORD"), "{why}");
        batcher.shutdown(LONG).await
    });
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.delivered, report.lost), (3, 1), "no spool, so there is no place to put it aside");
    let read = kafka.consume(&topic, Isolation::Committed)?;
    let seen: Vec<_> = read.iter().map(|record| (record.key.as_deref(), record.value.as_deref())).collect();
    let (kept, gone): (&[u8], &[u8]) = (b"kept", b"gone");
    assert_eq!(seen, [(Some(kept), Some(&b"before"[..])), (Some(kept), Some(&b""[..])), (Some(gone), None)]);
    Ok(())
}

pub(crate) fn two_thousand_partitions(kafka: &RealKafka) -> Result<(), Error> {
    const PARTITIONS: i32 = 2000;
    const EVENTS: i32 = 20_000;
    let topic = kafka.fresh_topic("wide", PARTITIONS as u32, &[])?;
    let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    let report = runtime().block_on(async {
        let batcher = batcher(kafka, |_, _| {}).await;
        let collector = batcher.collector(&topic).build().expect("a collector");
        for event in 0..EVENTS {
            let (partition, value) = (event % PARTITIONS, event.to_string());
            let sent = collector.add_event(Record::value(&value).with_partition(partition)).await;
            sent.expect("accepted");
            expected.entry(partition).or_default().push(value);
        }
        batcher.shutdown(LONG).await
    });
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    let mut seen: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for record in kafka.consume(&topic, Isolation::Committed)? {
        seen.entry(record.partition).or_default().push(text(&record).to_owned());
    }
    let tally = Tally::compare(&expected, &seen);
    println!("{PARTITIONS} partitions: {tally}; {} batches", report.batches);
    tally.assert_clean();
    kafka.delete_topic(&topic)
}
