//! What lies in the spool meets another log than it was meant for: a topic created anew, a log that was cut, another cluster.

use std::time::Duration;

use kafka_batcher::{NotificationKind, SpoolMode};
use kafka_batcher_broker::ProducerMemory;

use crate::support::ready;
use crate::{Site, everywhere};

#[tokio::test]
async fn a_topic_created_anew_gets_what_was_not_delivered_under_new_numbers() {
    for mut site in everywhere() {
        let (batcher, collector) = site.start().await;
        ready(&batcher, crate::TOPIC).await;
        let before = site.send(&collector, 50).await;
        site.durable(&before).await;
        batcher.flush().await;
        site.drained(&batcher).await;
        site.stop_kafka();
        let during = site.send(&collector, 100).await;
        site.durable.clear();
        site.durable(&during).await;
        let report = batcher.shutdown(Duration::ZERO).await;
        assert!(report.spooled > 0 && report.lost == 0, "{report:?}");
        site.kafka.recreate_topic(crate::TOPIC).unwrap();
        site.start_kafka();
        let (batcher, collector) = site.start().await;
        let after = site.send(&collector, 50).await;
        site.durable(&after).await;
        site.drained(&batcher).await;
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        // One piece of news, however many partitions.
        let told = site.told.0.lock().unwrap().clone();
        assert!(
            told.iter().filter(|told| told.message.contains("get new numbers")).count() <= 1,
            "{told:#?}"
        );
        site.check();
    }
}

#[tokio::test]
async fn a_log_that_was_cut_while_nobody_looked_is_continued_in_a_new_run() {
    for mut site in [Site::new(SpoolMode::Always), Site::on_disk(SpoolMode::Always)] {
        let (batcher, collector) = site.start().await;
        ready(&batcher, crate::TOPIC).await;
        let before = site.send(&collector, 70).await;
        site.durable(&before).await;
        site.drained(&batcher).await;
        site.stop_kafka();
        let during = site.send(&collector, 100).await;
        site.durable(&during).await;
        site.kill(batcher, collector).await;
        for partition in 0..crate::PARTITIONS {
            let (_, end) = site.kafka.offsets(crate::TOPIC, partition).unwrap();
            site.kafka.truncate_log(crate::TOPIC, partition, end / 2).unwrap();
        }
        let there: Vec<u32> = site.log().concat();
        site.start_kafka();
        let (batcher, _collector) = site.start().await;
        site.drained(&batcher).await;
        let report = batcher.shutdown(crate::LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        // What Kafka itself lost of what it had acknowledged is not ours to bring back.
        let during: Vec<u32> = during.into_iter().map(|(number, _)| number).collect();
        site.durable = there.into_iter().chain(during).collect();
        let log = site.log().concat();
        for number in &site.durable {
            assert!(log.contains(number), "event {number} was durable");
        }
    }
}

#[tokio::test]
async fn what_was_sent_to_another_cluster_is_held_and_told_until_somebody_consents() {
    let mut site = Site::on_disk(SpoolMode::Always);
    let (batcher, collector) = site.start().await;
    ready(&batcher, crate::TOPIC).await;
    let before = site.send(&collector, 20).await;
    site.durable(&before).await;
    site.drained(&batcher).await;
    // Sent, and never answered.
    site.kafka.freeze(1).unwrap();
    let held = site.send(&collector, 30).await;
    site.durable.clear();
    site.durable(&held).await;
    let report = batcher.shutdown(Duration::from_millis(300)).await;
    assert_eq!(report.lost + report.in_doubt, 0, "{report:?}");
    site.kafka.thaw(1).unwrap();
    site.kafka.replace_cluster();
    site.kafka.restart_broker(1, ProducerMemory::Nothing).unwrap();
    drop((batcher, collector));
    let (batcher, collector) = site.start().await;
    crate::support::until(|| {
        let told = site.told.0.lock().unwrap();
        told.iter().any(|told| {
            told.kind == NotificationKind::ProducerError && told.message.contains("another cluster")
        })
    })
    .await;
    assert!(batcher.report().await.spooled > 0);
    let report = batcher.shutdown(Duration::ZERO).await;
    assert!(report.spooled > 0 && report.delivered == 0, "{report:?}");
    drop((batcher, collector));
    let batcher = site.builder().replay_to_other_cluster(true).start().await.unwrap();
    let _collector = batcher.collector(crate::TOPIC).build().unwrap();
    site.drained(&batcher).await;
    let report = batcher.shutdown(crate::LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
}
