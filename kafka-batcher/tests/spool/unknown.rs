//! Kafka has been unknown since the process started: nobody knows how many partitions the topic has.

use kafka_batcher::{NotificationKind, Record, SpoolMode};

use crate::support::outcome;
use crate::{Site, everywhere};

#[tokio::test]
async fn events_of_an_unknown_topic_go_to_disk_and_keep_the_order_of_their_keys() {
    for kills in 0..3u64 {
        for mut site in everywhere() {
            site.stop_kafka();
            let (mut batcher, mut collector) = site.start().await;
            let mut receipts = site.send(&collector, 100).await;
            site.durable(&receipts).await;
            for _ in 0..kills {
                site.kill(batcher, collector).await;
                (batcher, collector) = site.start().await;
                receipts = site.send(&collector, 50).await;
                site.durable(&receipts).await;
            }
            site.start_kafka();
            let after = site.send(&collector, 100).await;
            site.durable(&after).await;
            for (_, receipt) in receipts.iter().chain(&after) {
                outcome(receipt).await.expect("it is delivered");
            }
            site.drained(&batcher).await;
            let report = batcher.shutdown(crate::LONG).await;
            assert!(report.all_delivered() && report.balances(), "{report:?}");
            assert_eq!(report.recovered, if kills == 0 { 0 } else { 50 + kills * 50 }, "{report:?}");
            site.check();
        }
    }
}

#[tokio::test]
async fn an_explicit_partition_that_turns_out_not_to_exist_is_a_dead_letter() {
    for kills in 0..2u64 {
        let mut site = Site::new(SpoolMode::Always);
        site.stop_kafka();
        let (mut batcher, mut collector) = site.start().await;
        let receipts = site.send(&collector, 10).await;
        let stray = Record { partition: Some(99), ..Record::value("stray") };
        let stray = collector.send(stray).await.expect("nobody knows better yet");
        site.durable(&receipts).await;
        stray.durable().await.expect("it is on disk");
        if kills > 0 {
            site.kill(batcher, collector).await;
            (batcher, collector) = site.start().await;
        }
        site.start_kafka();
        site.drained(&batcher).await;
        assert!(kills > 0 || outcome(&stray).await.is_err());
        assert!(batcher.report().await.balances());
        drop(collector);
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.balances() && report.dead_lettered == 1 && report.delivered == 10, "{report:?}");
        assert_eq!(report.recovered, 11 * kills, "{report:?}");
        assert_eq!(site.memory().dead_letters(crate::TOPIC).len(), 1);
        assert_eq!(site.told.count(NotificationKind::DeadLettered), 1);
        site.check();
    }
}
