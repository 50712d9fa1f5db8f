//! What an operator sees: `health()` at every turn, and the notifier once for each episode.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_batcher::{
    ClusterHealth, ErrorNotifier, Health, KafkaBatcher, Notification, NotificationKind, TopicHealth,
};
use kafka_batcher_broker::{Api, EmbeddedKafka, ErrorCode, Fault, ProducerMemory, TopicSpec};
use support::{LONG, kafka, outcome, until};

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Notification>>>);

impl ErrorNotifier for Told {
    fn report(&self, notification: &Notification) {
        self.0.lock().unwrap().push(notification.clone());
    }
}

impl Told {
    fn kinds(&self) -> Vec<NotificationKind> {
        self.0.lock().unwrap().iter().map(|n| n.kind).collect()
    }

    fn messages(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|n| n.message.clone()).collect()
    }
}

async fn told_batcher(bootstrap: &str) -> (KafkaBatcher, Told) {
    let told = Told::default();
    let batcher = KafkaBatcher::builder([bootstrap])
        .settings(|s| {
            s.retry_backoff = Duration::from_millis(1);
            s.retry_backoff_max = Duration::from_millis(5);
        })
        .error_notifier(told.clone())
        .start()
        .await
        .unwrap();
    (batcher, told)
}

async fn see(batcher: &KafkaBatcher, seen: impl FnMut(&Health) -> bool) -> Health {
    let mut health = batcher.health();
    let found = tokio::time::timeout(LONG, health.wait_for(seen)).await;
    match found {
        Ok(health) => health.unwrap().clone(),
        Err(_) => panic!("not seen; it is {:?}", batcher.health().borrow()),
    }
}

#[tokio::test]
async fn without_kafka_at_start_health_names_the_address_and_then_becomes_ready() {
    let kafka = kafka(3);
    let bootstrap = kafka.bootstrap();
    kafka.stop_broker(1).unwrap();
    let (batcher, told) = told_batcher(&bootstrap).await;
    let _flights = batcher.collector("flights").build().unwrap();
    let down = see(&batcher, |h| matches!(h.cluster, ClusterHealth::Unreachable { .. })).await;
    assert!(!down.is_ready());
    match &down.cluster {
        ClusterHealth::Unreachable { message, .. } => assert!(message.contains(&bootstrap), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(down.topics["flights"], TopicHealth::Connecting);
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    let up = see(&batcher, Health::is_ready).await;
    assert_eq!(up.topics["flights"], TopicHealth::Ready { partitions: 3 });
    match &up.cluster {
        ClusterHealth::Connected(info) => {
            assert_eq!(info.brokers, [(1, bootstrap.clone())]);
            assert_eq!(info.cluster_id.as_deref(), Some(kafka.cluster_id().as_str()));
        }
        other => panic!("{other:?}"),
    }
    let _ = batcher.shutdown(LONG).await;
    assert_eq!(told.kinds(), [NotificationKind::ClientStartFailed, NotificationKind::Recovered]);
    assert!(told.messages()[0].contains(&bootstrap), "{:?}", told.messages());
}

#[tokio::test]
async fn a_cluster_that_fails_many_times_over_is_told_once_and_so_is_its_return() {
    let kafka = kafka(1);
    let failing = kafka.inject(Fault::lose_request().on(Api::ApiVersions).always());
    let (batcher, told) = told_batcher(&kafka.bootstrap()).await;
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send("v").await.unwrap();
    until(|| kafka.fault_hits(failing) >= 10).await;
    kafka.clear_faults();
    outcome(&receipt).await.unwrap();
    see(&batcher, Health::is_ready).await;
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(told.kinds(), [NotificationKind::ClientStartFailed, NotificationKind::Recovered]);
}

#[tokio::test]
async fn a_topic_that_is_missing_is_told_once_with_its_name_and_so_is_its_coming() {
    let kafka = EmbeddedKafka::builder().start().unwrap();
    let (batcher, told) = told_batcher(&kafka.bootstrap()).await;
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send("v").await.unwrap();
    let missing = see(&batcher, |h| matches!(h.topics["flights"], TopicHealth::Unavailable { .. })).await;
    match &missing.topics["flights"] {
        TopicHealth::Unavailable { message } => assert!(message.contains("flights"), "{message}"),
        other => panic!("{other:?}"),
    }
    let asked = kafka.stats().requests(Api::Metadata);
    until(|| kafka.stats().requests(Api::Metadata) >= asked + 5).await;
    kafka.create_topic(TopicSpec::new("flights", 2)).unwrap();
    outcome(&receipt).await.unwrap();
    let there = see(&batcher, Health::is_ready).await;
    assert_eq!(there.topics["flights"], TopicHealth::Ready { partitions: 2 });
    let _ = batcher.shutdown(LONG).await;
    assert_eq!(told.kinds(), [NotificationKind::ProducerStartFailed, NotificationKind::Recovered]);
    assert!(told.0.lock().unwrap().iter().all(|n| n.topic.as_deref() == Some("flights")));
}

#[tokio::test]
async fn deliveries_that_fail_again_and_again_are_told_once_and_so_is_their_going_on() {
    let kafka = kafka(2);
    let (batcher, told) = told_batcher(&kafka.bootstrap()).await;
    let flights = batcher.collector("flights").build().unwrap();
    see(&batcher, Health::is_ready).await;
    let failing = kafka.inject(Fault::answer(ErrorCode::NOT_ENOUGH_REPLICAS).on(Api::Produce).always());
    let mut receipts = Vec::new();
    for i in 0..10 {
        let record = kafka_batcher::Record::value("v").with_partition(i % 2);
        receipts.push(flights.send(record).await.unwrap());
    }
    until(|| kafka.fault_hits(failing) >= 10).await;
    let troubled = see(&batcher, |h| matches!(h.topics["flights"], TopicHealth::Troubled { .. })).await;
    match &troubled.topics["flights"] {
        TopicHealth::Troubled { message } => assert!(message.contains("NOT_ENOUGH_REPLICAS"), "{message}"),
        other => panic!("{other:?}"),
    }
    kafka.clear_faults();
    for receipt in &receipts {
        outcome(receipt).await.unwrap();
    }
    see(&batcher, Health::is_ready).await;
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(
        told.kinds(),
        [NotificationKind::ProducerError, NotificationKind::Recovered],
        "{:?}",
        told.messages()
    );
}

/// The story: with Describe granted and Write not, the topic is known, so it was called troubled only, and `/ready` said that all
/// is well while memory filled up.
#[tokio::test]
async fn a_topic_that_may_be_seen_and_not_written_to_is_blocked_until_somebody_grants_it() {
    let kafka = kafka(2);
    let (batcher, told) = told_batcher(&kafka.bootstrap()).await;
    let flights = batcher.collector("flights").build().unwrap();
    see(&batcher, Health::is_ready).await;
    // A passing trouble comes first, and is no reason to send anybody away.
    let passing = kafka.inject(Fault::answer(ErrorCode::NOT_ENOUGH_REPLICAS).on(Api::Produce).always());
    let receipt = flights.send("v").await.unwrap();
    until(|| kafka.fault_hits(passing) >= 2).await;
    let troubled = see(&batcher, |h| matches!(h.topics["flights"], TopicHealth::Troubled { .. })).await;
    assert_eq!(troubled.blocked("flights"), None);
    // First the one and then the other, or what is under way may pass between them.
    let forbidden =
        kafka.inject(Fault::answer(ErrorCode::TOPIC_AUTHORIZATION_FAILED).on(Api::Produce).always());
    kafka.remove_fault(passing);
    let blocked = see(&batcher, |h| h.blocked("flights").is_some()).await;
    assert!(matches!(blocked.topics["flights"], TopicHealth::Unavailable { .. }), "{blocked:?}");
    let why = blocked.blocked("flights").unwrap();
    assert!(why.contains("TOPIC_AUTHORIZATION_FAILED"), "{why}");
    // That its partitions are known does not mend it.
    let tried = kafka.fault_hits(forbidden);
    until(|| kafka.fault_hits(forbidden) >= tried + 3).await;
    assert!(batcher.health().borrow().blocked("flights").is_some());
    kafka.clear_faults();
    outcome(&receipt).await.unwrap();
    let well = see(&batcher, Health::is_ready).await;
    assert_eq!(well.blocked("flights"), None);
    let _ = batcher.shutdown(LONG).await;
    let both =
        [NotificationKind::ProducerError, NotificationKind::ProducerError, NotificationKind::Recovered];
    assert_eq!(told.kinds(), both, "{:?}", told.messages());
}

#[tokio::test]
async fn who_shuts_down_is_blocked_and_not_ready_and_says_why() {
    let kafka = kafka(1);
    let (batcher, _) = told_batcher(&kafka.bootstrap()).await;
    let flights = batcher.collector("flights").build().unwrap();
    see(&batcher, Health::is_ready).await;
    // It cannot end while Kafka takes nothing.
    kafka.inject(Fault::answer(ErrorCode::NOT_ENOUGH_REPLICAS).on(Api::Produce).always());
    let receipt = flights.send("v").await.unwrap();
    let closing = batcher.clone();
    let shutdown = tokio::spawn(async move { closing.shutdown(LONG).await });
    let seen = see(&batcher, |health| health.closing).await;
    assert!(!seen.is_ready() && !shutdown.is_finished());
    let why = seen.blocked("flights").unwrap();
    assert!(why.contains("shuts down"), "{why}");
    kafka.clear_faults();
    outcome(&receipt).await.unwrap();
    assert!(shutdown.await.unwrap().all_delivered());
    // And so it stays.
    assert!(batcher.health().borrow().blocked("flights").is_some());
}

#[tokio::test]
async fn events_that_are_lost_are_told_with_their_number_and_the_reason() {
    let topic = TopicSpec::new("flights", 1).config("max.message.bytes", "1000");
    let kafka = EmbeddedKafka::builder().topic_spec(topic).start().unwrap();
    let (batcher, told) = told_batcher(&kafka.bootstrap()).await;
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send(&format!("{:5000}", "")).await.unwrap();
    assert!(outcome(&receipt).await.is_err());
    let report = batcher.shutdown(LONG).await;
    assert_eq!((report.lost, report.delivered), (1, 0));
    let messages = told.messages();
    assert!(messages.iter().any(|m| m.contains("1 event") && m.contains("too large")), "{messages:?}");
}
