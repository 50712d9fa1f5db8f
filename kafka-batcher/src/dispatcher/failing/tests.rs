//! Panics of our own, planted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_batcher_broker::{EmbeddedKafka, ProducerMemory};
use kafka_batcher_core::{FailureReason, Record};

use crate::dispatcher::Command;
use crate::{
    AddError, Builder, ErrorNotifier, KafkaBatcher, MemoryStorage, Notification, NotificationKind, Receipt,
    ReceiptError, TopicHealth,
};

/// Topics and partitions whose outbox is not to be asked; partition -1: topics that are not to be watched.
static PLANTED: Mutex<BTreeSet<(String, i32)>> = Mutex::new(BTreeSet::new());

fn planted() -> std::sync::MutexGuard<'static, BTreeSet<(String, i32)>> {
    PLANTED.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn panic_if_planted(topic: &str, partition: i32) {
    let panics = planted().contains(&(topic.to_owned(), partition));
    assert!(!panics, "planted in partition {partition}");
}

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Notification>>>);

impl ErrorNotifier for Told {
    fn report(&self, notification: &Notification) {
        self.0.lock().unwrap().push(notification.clone());
    }
}

impl Told {
    fn of(&self, kind: NotificationKind) -> Vec<String> {
        let told = self.0.lock().unwrap();
        told.iter().filter(|told| told.kind == kind).map(|told| told.message.clone()).collect()
    }
}

fn builder(kafka: &EmbeddedKafka, told: &Told) -> Builder {
    KafkaBatcher::builder([kafka.bootstrap()])
        .error_notifier(told.clone())
        .spool_after(Duration::from_secs(60))
}

async fn ready(batcher: &KafkaBatcher, topic: &str) {
    let ready = |health: &crate::Health| matches!(health.topics.get(topic), Some(TopicHealth::Ready { .. }));
    batcher.health().wait_for(ready).await.unwrap();
    let _ = batcher.report().await;
}

async fn failed(batcher: &KafkaBatcher, topic: &str) -> String {
    let mut health = batcher.health();
    let failed =
        |health: &crate::Health| matches!(health.topics.get(topic), Some(TopicHealth::Failed { .. }));
    let health = health.wait_for(failed).await.unwrap();
    let TopicHealth::Failed { message } = &health.topics[topic] else { unreachable!("waited for") };
    message.clone()
}

async fn outcome(receipt: &Receipt) -> Result<crate::Delivery, ReceiptError> {
    tokio::time::timeout(Duration::from_secs(60), receipt.delivered()).await.expect("it becomes known")
}

fn reason(outcome: Result<crate::Delivery, ReceiptError>) -> FailureReason {
    match outcome {
        Err(ReceiptError::Failed(error)) => error.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_collector_that_fails_says_so_to_callers_and_operator_and_the_next_process_delivers_what_it_had() {
    let topic = "fails";
    let kafka = EmbeddedKafka::builder().topic(topic, 3).start().unwrap();
    let (told, memory) = (Told::default(), MemoryStorage::default());
    let batcher = builder(&kafka, &told).storage(memory.clone()).start().await.unwrap();
    let fails = batcher.collector(topic).build().unwrap();
    ready(&batcher, topic).await;
    outcome(&fails.send(Record::value("first").with_partition(0)).await.unwrap()).await.unwrap();
    kafka.stop_broker(1).unwrap();
    let mut receipts = Vec::new();
    for i in 0..30 {
        receipts.push(fails.send(Record::value(&i.to_string()).with_partition(i % 3)).await.unwrap());
    }
    assert!(fails.commands.send(Command::Fail("its watcher panicked".to_owned())).is_ok());
    assert_eq!(failed(&batcher, topic).await, "its watcher panicked");
    for receipt in &receipts {
        receipt.durable().await.unwrap();
        assert_eq!(reason(outcome(receipt).await), FailureReason::Spooled);
    }
    match fails.add_event("late").await {
        Err(error @ AddError::Failed { .. }) => {
            assert!(error.to_string().contains("its watcher panicked"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    fails.flush().await;
    assert!(!batcher.health().borrow().is_ready());
    let said = told.of(NotificationKind::CollectorFailed);
    assert!(said.len() == 1 && said[0].contains("its watcher panicked"), "{said:?}");
    let report = batcher.shutdown(Duration::from_secs(60)).await;
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.delivered, report.spooled, report.lost, report.refused), (1, 30, 0, 1), "{report:?}");
    // Nothing that others say afterwards hides it.
    assert!(matches!(batcher.health().borrow().topics[topic], TopicHealth::Failed { .. }));

    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    let batcher = builder(&kafka, &Told::default()).storage(memory).start().await.unwrap();
    let _next = batcher.collector(topic).build().unwrap();
    ready(&batcher, topic).await;
    let report = batcher.shutdown(Duration::from_secs(60)).await;
    assert!(report.all_delivered() && report.recovered == 30, "{report:?}");
    for partition in 0..3 {
        let log = kafka.log(topic, partition).into_iter();
        let log: Vec<_> = log
            .map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap())
            .filter(|v| v != "first")
            .collect();
        let expected: Vec<_> = (0..10).map(|i| (3 * i + partition).to_string()).collect();
        assert_eq!(log, expected);
    }
}

#[tokio::test]
async fn a_panic_in_one_partition_costs_at_most_the_events_of_that_one() {
    let topic = "panics";
    let kafka = EmbeddedKafka::builder().topic(topic, 3).start().unwrap();
    let (told, memory) = (Told::default(), MemoryStorage::default());
    let batcher = builder(&kafka, &told).storage(memory.clone()).start().await.unwrap();
    let panics = batcher.collector(topic).build().unwrap();
    ready(&batcher, topic).await;
    // It panics when it is first asked, and again when it is to be saved.
    planted().insert((topic.to_owned(), 1));
    kafka.stop_broker(1).unwrap();
    let mut receipts = Vec::new();
    for i in 0..3 {
        receipts.push(panics.send(Record::value("v").with_partition(i)).await.unwrap());
    }
    let reasons = [outcome(&receipts[0]).await, outcome(&receipts[1]).await, outcome(&receipts[2]).await];
    let reasons = reasons.map(reason);
    assert_eq!(reasons, [FailureReason::Spooled, FailureReason::Shutdown, FailureReason::Spooled]);
    assert!(failed(&batcher, topic).await.contains("planted in partition 1"));
    assert_eq!(told.of(NotificationKind::CollectorFailed).len(), 1);
    assert_eq!(told.of(NotificationKind::EventsLost).len(), 1, "{:?}", told.0);
    let report = batcher.shutdown(Duration::from_secs(60)).await;
    assert!(report.balances() && (report.spooled, report.lost) == (2, 1), "{report:?}");
}

#[tokio::test]
async fn without_a_spool_what_a_failed_collector_had_is_lost_counted_and_told() {
    let topic = "loses";
    let kafka = EmbeddedKafka::builder().topic(topic, 1).start().unwrap();
    let told = Told::default();
    let batcher = builder(&kafka, &told).start().await.unwrap();
    let loses = batcher.collector(topic).build().unwrap();
    ready(&batcher, topic).await;
    planted().insert((topic.to_owned(), 0));
    let receipt = loses.send("v").await.unwrap();
    assert_eq!(reason(outcome(&receipt).await), FailureReason::Shutdown);
    failed(&batcher, topic).await;
    let report = batcher.shutdown(Duration::from_secs(60)).await;
    assert!(report.balances() && report.lost == 1, "{report:?}");
    let said = told.of(NotificationKind::CollectorFailed);
    assert!(said[0].contains("there is no spool"), "{said:?}");
    assert_eq!(told.of(NotificationKind::EventsLost).len(), 1);
}

#[tokio::test]
async fn a_watcher_that_panics_more_often_than_max_restart_allows_ends_its_collector_and_no_other() {
    let kafka = EmbeddedKafka::builder().topic("unwatched", 1).topic("watched", 1).start().unwrap();
    let told = Told::default();
    let builder = builder(&kafka, &told).settings(|s| s.max_restart = 3);
    let batcher = builder.storage(MemoryStorage::default()).start().await.unwrap();
    planted().insert(("unwatched".to_owned(), -1));
    let unwatched = batcher.collector("unwatched").build().unwrap();
    let watched = batcher.collector("watched").build().unwrap();
    let safe = unwatched.send("v").await.unwrap();
    let why = failed(&batcher, "unwatched").await;
    assert!(why.contains("more than 3 times") && why.contains("planted"), "{why}");
    safe.durable().await.unwrap();
    outcome(&watched.send("v").await.unwrap()).await.unwrap();
    let report = batcher.shutdown(Duration::from_secs(60)).await;
    assert!(report.balances() && (report.delivered, report.spooled) == (1, 1), "{report:?}");
}
