//! How batches form while the broker is slow or away: an open batch that could only wait behind others goes on filling.

mod support;

use std::time::Duration;

use kafka_batcher::{Record, TopicHealth};
use kafka_batcher_broker::{Api, Fault};
use support::{LONG, batcher_with, kafka};

async fn ready(batcher: &kafka_batcher::KafkaBatcher) {
    let mut health = batcher.health();
    let is_ready =
        |h: &kafka_batcher::Health| matches!(h.topics.get("flights"), Some(TopicHealth::Ready { .. }));
    health.wait_for(is_ready).await.unwrap();
}

/// The story: every 5 ms the linger sealed a batch of a few events, behind hundreds that were waiting; a request
/// carries one batch of a partition, so with 100 ms to an answer the backlog grew without end although the broker
/// could take a thousand times as much.
#[tokio::test]
async fn a_slow_broker_gets_fuller_batches_not_more_of_them() {
    let kafka = kafka(1);
    kafka.inject(Fault::delay_answer(Duration::from_millis(20)).on(Api::Produce).always());
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_wait_time = Duration::ZERO).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher).await;
    for i in 0..2000 {
        flights.add_event(&i.to_string()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    // Without waiting at all, every event could have been a batch of its own.
    assert!(report.batches < 200, "{} batches", report.batches);
    assert_eq!(support::values(&kafka, 0), (0..2000).map(|i| i.to_string()).collect::<Vec<_>>());
}

/// The story: sealed every 5 ms, 100 KB of events in 2 KiB chunks held a megabyte while nobody knew the topic.
#[tokio::test]
async fn while_the_topic_is_unknown_memory_follows_the_bytes_held() {
    let kafka = kafka_batcher_broker::EmbeddedKafka::builder().start().unwrap();
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_wait_time = Duration::ZERO).await;
    let flights = batcher.collector("flights").build().unwrap();
    let value = "x".repeat(100);
    for _ in 0..1000 {
        flights.add_event(&value).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(batcher.memory_used() < 400_000, "{} bytes for 100 000", batcher.memory_used());
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("flights", 3)).unwrap();
    let report = batcher.shutdown(LONG).await;
    assert_eq!((report.delivered, report.balances()), (1000, true));
}

/// The story: who never waits never said that memory was short; with a long linger the half-full batches of a healthy
/// broker held it all, and every try was refused until the linger was over.
#[tokio::test]
async fn memory_that_only_trying_callers_exhaust_is_sealed_and_comes_back() {
    let kafka = kafka(64);
    let batcher = batcher_with(&kafka.bootstrap(), |s, d| {
        s.memory = 4 << 20;
        d.max_wait_time = LONG;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher).await;
    let value = "x".repeat(1000);
    let mut refused = 0;
    // Far more than memory holds: it can only be accepted if what is full is sent.
    for i in 0..20_000 {
        while flights.try_add_event(Record::value(&value).with_partition(i % 64)).is_err() {
            refused += 1;
            tokio::task::yield_now().await;
        }
    }
    assert!(refused > 0, "memory was never short: the test shows nothing");
    let report = batcher.shutdown(LONG).await;
    assert_eq!((report.delivered, report.balances()), (20_000, true));
}

/// The story: the waiting events were counted twice, with callers adding in between, and the two sides of the
/// equation differed by thousands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accounts_balance_while_callers_go_on() {
    let kafka = kafka(4);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| {
        d.batch_size = 50;
        d.max_wait_time = LONG;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher).await;
    let adding = tokio::spawn(async move {
        for i in 0..50_003 {
            flights.add_event(Record::value("v").with_partition(i % 4)).await.unwrap();
        }
    });
    while !adding.is_finished() {
        let report = batcher.report().await;
        assert!(report.balances(), "{report:?}");
    }
    // What waits stands on both sides of a live report, so the equation alone would not miss it: the last three are open.
    assert_eq!(batcher.report().await.accepted, 50_003);
    assert_eq!(batcher.shutdown(LONG).await.delivered, 50_003);
}

/// The story: a dispatcher that ended with its runtime left no account, and its events counted as none.
#[test]
fn a_batcher_whose_runtime_is_gone_says_what_was_lost() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let batcher = first.block_on(async {
        let batcher = batcher_with("127.0.0.1:1", |_, _| {}).await;
        let flights = batcher.collector("flights").build().unwrap();
        for _ in 0..10 {
            flights.try_add_event("v").unwrap();
        }
        tokio::task::yield_now().await;
        batcher
    });
    drop(first);
    let report = runtime().block_on(batcher.shutdown(LONG));
    assert_eq!((report.accepted, report.lost, report.all_delivered()), (10, 10, false));
}
