//! Kafka has been unknown since the process started: nobody knows how many partitions the topic has.

use std::time::Duration;

use kafka_batcher::{NotificationKind, Record, SpoolMode};

use crate::mortal::{Death, Moment};
use crate::support::{outcome, until};
use crate::{LONG, Site, TOPIC, everywhere};

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
async fn a_lane_that_goes_to_disk_is_told_once_and_one_that_goes_behind_a_backlog_is_no_news_yet() {
    for mut site in everywhere() {
        site.stop_kafka();
        let (batcher, collector) = site.start().await;
        for _ in 0..3 {
            let receipts = site.send(&collector, 20).await;
            site.durable(&receipts).await;
        }
        // Where every event is written first, that says nothing.
        let told = usize::from(site.mode == SpoolMode::OnFailure);
        until(|| site.told.count(NotificationKind::Spooling) >= told).await;
        site.kill(batcher, collector).await;
        let storage = site.life().await;
        let patient = site.settings().spool_after(Duration::from_secs(3600)).storage(storage);
        let batcher = patient.start().await.expect("it starts");
        let collector = batcher.collector(TOPIC).build().expect("the collector starts");
        let receipts = site.send(&collector, 20).await;
        site.durable(&receipts).await;
        assert_eq!(site.told.count(NotificationKind::Spooling), told, "{:?}", site.told.0);
        site.start_kafka();
        site.drained(&batcher).await;
        assert!(batcher.shutdown(LONG).await.all_delivered());
        site.check();
    }
}

/// A process that is killed at its storage's `call`-th call, which together with its successor brings a lane to its end; half
/// of the lane is its own, and with `found` as much was found. Answers whether it was killed at all.
async fn dies_at(site: &mut Site, call: u64, moment: Moment, found: bool) -> bool {
    // A batch at once: the lane takes several steps.
    site.lane_bytes = 1;
    site.stop_kafka();
    if found {
        let (batcher, collector) = site.start().await;
        let receipts = site.send(&collector, 45).await;
        site.durable(&receipts).await;
        site.kill(batcher, collector).await;
    }
    // What it still does in this process after its death, it must not do to Kafka.
    let kafka = site.kafka.clone();
    let then = Box::new(move || kafka.stop_broker(1).expect("a broker"));
    site.fate.dies(Death { call, moment, then });
    let (batcher, collector) = site.start().await;
    let mut receipts = Vec::new();
    for _ in 0..3 {
        receipts.extend(site.send(&collector, 15).await);
        until(|| site.fate.is_dead() || receipts.iter().all(|(_, r)| r.try_durable().is_some())).await;
    }
    if !site.fate.is_dead() {
        site.start_kafka();
    }
    receipts.extend(site.send(&collector, 15).await);
    let fate = site.fate.clone();
    tokio::select! {
        () = site.drained(&batcher) => assert!(fate.regroups() >= 4, "{} steps", fate.regroups()),
        () = until(|| fate.is_dead()) => {}
    }
    let durable = receipts.iter().filter(|(_, receipt)| matches!(receipt.try_durable(), Some(Ok(()))));
    site.durable.extend(durable.map(|(number, _)| *number));
    let killed = site.fate.is_dead();
    site.kill(batcher, collector).await;
    site.start_kafka();
    let (batcher, collector) = site.start().await;
    let after = site.send(&collector, 15).await;
    site.durable(&after).await;
    site.drained(&batcher).await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!((report.possible_duplicates, report.reorderings), (0, 0), "{report:?}");
    site.check();
    killed
}

/// Every call there is, of a process with this storage and mode.
async fn dies_at_any_call(site: impl Fn() -> Site, found: bool) {
    for moment in [Moment::Before, Moment::After] {
        for call in 1.. {
            println!("{moment:?} call {call}");
            if !dies_at(&mut site(), call, moment, found).await {
                // It was asked for more than that: opening, three times saving, six steps, replay.
                assert!(call > 30, "hardly a call: {call}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn killed_at_any_call_while_a_lane_in_memory_is_saved_and_regrouped_nothing_durable_is_lost_or_doubled()
{
    dies_at_any_call(|| Site::new(SpoolMode::OnFailure), false).await;
    dies_at_any_call(|| Site::new(SpoolMode::Always), true).await;
}

#[tokio::test]
async fn killed_at_any_call_while_a_lane_on_disk_is_saved_and_regrouped_nothing_durable_is_lost_or_doubled() {
    dies_at_any_call(|| Site::on_disk(SpoolMode::Always), false).await;
    dies_at_any_call(|| Site::on_disk(SpoolMode::OnFailure), true).await;
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
