//! A broker that takes requests and answers none, while as many are under way to it as may be: whatever waits behind them
//! must reach the disk all the same.

use std::time::Duration;

use kafka_batcher::{Collector, KafkaBatcher, NotificationKind, Receipt, Record};

use crate::support::ready;
use crate::{LONG, Site, TOPIC, everywhere};

/// No request is given up for its age while a test runs.
const HOURS: Duration = Duration::from_secs(7_200);
/// Requests of a topic to one broker.
const REQUESTS: u64 = 5;
/// Events of a batch.
const BATCH: u64 = 10;

async fn send(site: &mut Site, collector: &Collector, events: u64) -> Vec<(u32, Receipt)> {
    let mut receipts = Vec::new();
    for _ in 0..events {
        let number = site.sent;
        site.sent += 1;
        let (key, value) = (format!("key-{}", number % 7), number.to_string());
        let record = Record::keyed(&key, &value).with_partition(0);
        receipts.push((number, collector.send(record).await.expect("the event is accepted")));
    }
    receipts
}

/// An established run, a broker that answers nothing any more, five requests of a batch each under way, and a hundred
/// events more.
async fn stuck(site: &mut Site, spool_after: Duration) -> (KafkaBatcher, Collector, Vec<(u32, Receipt)>) {
    let storage = site.life().await;
    let builder = site.settings().storage(storage).settings(|s| s.request_timeout = HOURS);
    let batcher = builder.spool_after(spool_after).start().await.expect("it starts");
    let collector = batcher.collector(TOPIC).build().expect("the collector starts");
    ready(&batcher, TOPIC).await;
    let before = send(site, &collector, 30).await;
    for (_, receipt) in &before {
        crate::support::outcome(receipt).await.expect("it is delivered");
    }
    site.drained(&batcher).await;
    site.kafka.freeze(1).expect("a broker");
    let mut receipts = Vec::new();
    for request in 1..=REQUESTS {
        receipts.append(&mut send(site, &collector, BATCH).await);
        let under_way = async {
            // A machine that is busy elsewhere may take longer than Kafka has until it counts as away; then not all are sent.
            let away = || site.told.count(NotificationKind::Spooling) > 0;
            while batcher.report().await.in_flight < BATCH * request && !away() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, under_way).await.expect("it is sent");
    }
    receipts.append(&mut send(site, &collector, 100).await);
    (batcher, collector, receipts)
}

async fn thaw_and_check(site: &Site, batcher: &KafkaBatcher) {
    site.kafka.thaw(1).expect("a broker");
    site.drained(batcher).await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!(report.possible_duplicates, 0, "{report:?}");
    site.check();
}

#[tokio::test]
async fn what_waits_behind_requests_that_nobody_answers_is_on_disk_after_spool_after() {
    for mut site in everywhere() {
        let (batcher, _collector, receipts) = stuck(&mut site, Duration::from_millis(500)).await;
        site.durable(&receipts).await;
        thaw_and_check(&site, &batcher).await;
    }
}

#[tokio::test]
async fn shutdown_puts_on_disk_what_waits_behind_requests_that_nobody_answers() {
    for mut site in everywhere() {
        let (batcher, collector, receipts) = stuck(&mut site, HOURS).await;
        let report = batcher.shutdown(Duration::ZERO).await;
        assert!(report.balances() && report.lost + report.in_doubt == 0, "{report:?}");
        assert_eq!(report.spooled, receipts.len() as u64, "{report:?}");
        site.durable(&receipts).await;
        drop((batcher, collector));
        site.kafka.thaw(1).expect("a broker");
        let (batcher, _collector) = site.start().await;
        thaw_and_check(&site, &batcher).await;
    }
}
