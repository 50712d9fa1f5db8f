//! Code of the user's that panics, fails or answers nonsense costs that event or that attempt an error: never a task, a
//! lock, a neighbour, or an event that was accepted.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kafka_batcher::flusher::{FlushError, FlushFn};
use kafka_batcher::partitioner::{
    PartitionError, PartitionFn, PartitionInput, PartitionKey, Placement, PlacementSource, TopicNotice,
    TopicView,
};
use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
use kafka_batcher::producer::{
    BoxFuture, ClusterInfo, MissingTopic, ProduceRequest, Producer, ProducerError, TopicInfo,
};
use kafka_batcher::{
    AddError, BatchFlusher, ClusterHealth, ErrorNotifier, KafkaBatcher, Notification, Partitioner, Record,
    TopicHealth,
};
use kafka_batcher_broker::{EmbeddedKafka, TopicSpec};
use kafka_batcher_core::{ErrorClass, Leader, ProduceAnswer, ProducerIdentity, ProducerState};
use support::{LONG, batcher, kafka, outcome, ready, values};
use tokio::sync::watch;

/// Panics wherever it is asked, except for an event that it places.
struct Hostile;

impl Partitioner for Hostile {
    fn placement(&self, event: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
        match event.value.unwrap_or_default() {
            b"panic" => panic!("placement"),
            b"fail" => Err(PartitionError::failed("no place")),
            b"keyless" => Ok(Placement::Keyless),
            _ => Ok(Placement::Explicit(0)),
        }
    }

    fn pick(&self, _: &PartitionInput<'_>, _: &dyn TopicView) -> Result<Option<i32>, PartitionError> {
        panic!("pick")
    }

    fn source(&self) -> PlacementSource {
        panic!("source")
    }

    fn observe(&self, _: TopicNotice) {
        panic!("observe")
    }

    fn name(&self) -> &str {
        panic!("name")
    }
}

#[tokio::test]
async fn a_partitioner_that_panics_everywhere_costs_only_the_events_it_was_asked_about() {
    // Both ways: through the lane of a topic that is not known yet, and to its partitions.
    let kafka = EmbeddedKafka::builder().start().unwrap();
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").partitioner(Hostile).build().unwrap();
    let panicked = |error: AddError, message: &str| match error {
        AddError::Panicked { what: "partitioner", message: said } => assert_eq!(said, message),
        other => panic!("{other:?}"),
    };
    flights.add_event("one").await.unwrap();
    panicked(flights.add_event("panic").await.unwrap_err(), "placement");
    assert!(flights.add_event("fail").await.unwrap_err().to_string().contains("no place"));
    flights.add_event("two").await.unwrap();
    // It is placed only when the topic is there, and then that costs it.
    let late = flights.send("keyless").await.unwrap();
    kafka.create_topic(TopicSpec::new("flights", 2)).unwrap();
    let error = outcome(&late).await.unwrap_err().to_string();
    assert!(error.contains("pick"), "{error}");
    ready(&batcher, "flights").await;
    panicked(flights.add_event("keyless").await.unwrap_err(), "pick");
    panicked(
        flights
            .typed::<str>()
            .flush_when(|_| true)
            .add_event("x")
            .await
            .err()
            .unwrap_or(AddError::Panicked { what: "partitioner", message: "it is placed".to_owned() }),
        "it is placed",
    );
    kafka.remove_leader("flights", 1).unwrap();
    flights.add_event("three").await.unwrap();
    kafka.move_leader("flights", 1, 1).unwrap();
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.delivered, report.lost, report.refused), (4, 1, 3));
    assert_eq!(values(&kafka, 0), ["one", "two", "\"x\"", "three"]);
}

#[tokio::test]
async fn user_code_is_asked_once_for_an_event_however_often_memory_is_brought_for_it() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let (placed, flushed, encoded) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    struct Counted(Arc<AtomicU64>);
    impl serde::Serialize for Counted {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.fetch_add(1, Ordering::SeqCst);
            serializer.serialize_str(&format!("{:1000}", ""))
        }
    }
    let (place, flush) = (placed.clone(), flushed.clone());
    let flights = batcher
        .collector("flights")
        .partitioner(PartitionFn::new(move |_| {
            place.fetch_add(1, Ordering::SeqCst);
            PartitionKey::Explicit(0)
        }))
        .flusher(FlushFn::new(move |_, _| {
            flush.fetch_add(1, Ordering::SeqCst);
            false
        }))
        .build()
        .unwrap();
    ready(&batcher, "flights").await;
    let typed = flights.typed::<Counted>();
    for i in 0..1000 {
        match i % 4 {
            0 => typed.add_event(&Counted(encoded.clone())).await.unwrap(),
            1 => typed.try_add_event(&Counted(encoded.clone())).unwrap(),
            2 => flights.try_add_event(&[0; 1000]).unwrap(),
            _ => flights.add_event(&[0; 1000]).await.unwrap(),
        }
    }
    assert!(batcher.shutdown(LONG).await.all_delivered());
    let asked = [placed, flushed, encoded].map(|n| n.load(Ordering::SeqCst));
    assert_eq!(asked, [1000, 1000, 500]);
}

#[tokio::test]
async fn a_flusher_that_panics_or_fails_costs_that_event_and_flushes_nothing() {
    struct Moody;
    impl BatchFlusher for Moody {
        fn should_flush(&self, _: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, FlushError> {
            match value.unwrap_or_default() {
                b"panic" => panic!("should_flush"),
                b"fail" => Err(FlushError::new("cannot say")),
                b"flush" => Ok(true),
                _ => Ok(false),
            }
        }
    }
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let flights =
        batcher.collector("flights").settings(|s| s.max_wait_time = LONG).flusher(Moody).build().unwrap();
    ready(&batcher, "flights").await;
    let first = flights.send("first").await.unwrap();
    let error = flights.add_event("panic").await.unwrap_err();
    assert!(matches!(&error, AddError::Panicked { what: "flusher", message } if message == "should_flush"));
    let error = flights.add_event("fail").await.unwrap_err();
    assert!(matches!(&error, AddError::Flusher(_)) && error.to_string().contains("cannot say"), "{error}");
    assert_eq!(batcher.report().await.flush_reasons.len(), 0);
    flights.add_event("flush").await.unwrap();
    outcome(&first).await.unwrap();
    let report = batcher.shutdown(LONG).await;
    assert_eq!((report.delivered, report.refused, report.batches), (2, 2, 1));
    assert_eq!(report.flush_reasons.get("flusher"), Some(&1));
}

#[tokio::test]
async fn the_rules_of_a_typed_collector_cost_their_event_alone() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let flights = batcher
        .collector("flights")
        .build()
        .unwrap()
        .typed::<i32>()
        .key(|n| if *n == 1 { panic!("key") } else { Some(n.to_string().into_bytes().into()) })
        .partition_by(|n| match n {
            2 => panic!("partition_by"),
            3 => PartitionKey::Explicit(99),
            _ => PartitionKey::Keyless,
        })
        .flush_when(|n| if *n == 4 { panic!("flush_when") } else { *n == 5 });
    ready(&batcher, "flights").await;
    for n in 0..6 {
        let result = flights.add_event(&n).await;
        match n {
            1 | 2 | 4 => assert!(matches!(result, Err(AddError::Panicked { .. })), "{n}: {result:?}"),
            3 => assert!(matches!(result, Err(AddError::Partition(_))), "{n}: {result:?}"),
            _ => result.unwrap(),
        }
    }
    let report = batcher.shutdown(LONG).await;
    assert_eq!((report.delivered, report.refused), (2, 4));
    assert_eq!(values(&kafka, 0), ["0", "5"]);
}

#[tokio::test]
async fn a_collectors_flusher_is_asked_although_a_typed_one_places_events_itself() {
    let kafka = kafka(2);
    let batcher = batcher(&kafka).await;
    let flights = batcher
        .collector("flights")
        .settings(|s| s.max_wait_time = LONG)
        .flusher(FlushFn::new(|_, value| value == Some(b"7")))
        .build()
        .unwrap()
        .typed::<i32>()
        .partition_by(|_| PartitionKey::Explicit(1));
    ready(&batcher, "flights").await;
    flights.add_event(&6).await.unwrap();
    let receipt = flights.send(&7).await.unwrap();
    assert_eq!(outcome(&receipt).await.unwrap().partition, 1);
    assert_eq!(batcher.shutdown(LONG).await.flush_reasons.get("flusher"), Some(&1));
}

#[tokio::test]
async fn a_notifier_that_panics_is_told_the_next_time_all_the_same() {
    #[derive(Clone, Default)]
    struct Panics(Arc<Mutex<Vec<String>>>);
    impl ErrorNotifier for Panics {
        fn report(&self, notification: &Notification) {
            self.0.lock().unwrap().push(notification.kind.to_string());
            panic!("at the news");
        }
    }
    let kafka = kafka(1);
    let bootstrap = kafka.bootstrap();
    kafka.stop_broker(1).unwrap();
    let told = Panics::default();
    let batcher = KafkaBatcher::builder([bootstrap]).error_notifier(told.clone()).start().await.unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send("v").await.unwrap();
    support::until(|| !told.0.lock().unwrap_or_else(|e| e.into_inner()).is_empty()).await;
    kafka.restart_broker(1, kafka_batcher_broker::ProducerMemory::LastBatch).unwrap();
    outcome(&receipt).await.unwrap();
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// The native producer, except that a call panics from time to time: before or within its future.
struct Flaky {
    inner: NativeProducer,
    calls: AtomicU64,
    panics: Arc<AtomicU64>,
}

impl Flaky {
    fn new(bootstrap: &str, panics: Arc<AtomicU64>) -> Self {
        let inner = NativeProducer::new(ClientSettings::new([bootstrap])).unwrap();
        Flaky { inner, calls: AtomicU64::new(0), panics }
    }

    /// A quarter of the calls panics, without a rhythm that could meet the same call for ever.
    fn moody(&self) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0 {
            self.panics.fetch_add(1, Ordering::SeqCst);
            panic!("a mood");
        }
    }
}

impl Producer for Flaky {
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
        self.moody();
        self.inner.connect()
    }

    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
        Box::pin(async move {
            self.moody();
            self.inner.topic(topic, missing).await
        })
    }

    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
        self.moody();
        self.inner.init_producer_id()
    }

    fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
        let call = self.calls.load(Ordering::SeqCst);
        if call.is_multiple_of(2) {
            self.moody();
        }
        Box::pin(async move {
            let answers = self.inner.produce(request).await;
            // Written, and then the answer is lost.
            self.moody();
            answers
        })
    }

    fn describe_producer<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        producer_id: i64,
    ) -> BoxFuture<'a, (ProducerState, Option<Leader>)> {
        self.moody();
        self.inner.describe_producer(topic, partition, producer_id)
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.moody();
        self.inner.leader(topic, partition)
    }

    fn metadata_version(&self) -> watch::Receiver<u64> {
        self.inner.metadata_version()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.panics.fetch_add(1, Ordering::SeqCst);
        panic!("to the end")
    }
}

#[tokio::test]
async fn a_producer_that_panics_costs_attempts_and_no_event_is_lost_doubled_or_reordered() {
    let kafka = kafka(2);
    let panics = Arc::new(AtomicU64::new(0));
    let batcher = KafkaBatcher::builder([kafka.bootstrap()])
        .producer(Flaky::new(&kafka.bootstrap(), panics.clone()))
        .settings(|s| {
            s.retry_backoff = std::time::Duration::from_millis(1);
            s.retry_backoff_max = std::time::Duration::from_millis(5);
        })
        .collector_defaults(|d| d.batch_size = 10)
        .start()
        .await
        .unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    for i in 0..400 {
        flights.add_event(Record::value(&i.to_string()).with_partition(i % 2)).await.unwrap();
    }
    flights.flush().await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    for partition in 0..2 {
        let expected: Vec<String> = (0..200).map(|i| (2 * i + partition).to_string()).collect();
        assert_eq!(values(&kafka, partition), expected);
    }
    assert!(panics.load(Ordering::SeqCst) > 10, "it is the panics that are tested");
}

/// Takes everything and answers too little.
struct Mute {
    native: NativeProducer,
    /// So many requests get no answer.
    answers_missing: AtomicU64,
    /// While it is true nothing is known of any topic, and no broker's code says why.
    catalogue_down: Arc<AtomicBool>,
}

impl Mute {
    fn new(kafka: &EmbeddedKafka, answers_missing: u64) -> Self {
        let native = NativeProducer::new(ClientSettings::new([kafka.bootstrap()])).unwrap();
        Mute { native, answers_missing: AtomicU64::new(answers_missing), catalogue_down: Arc::default() }
    }
}

impl Producer for Mute {
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
        self.native.connect()
    }

    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
        if self.catalogue_down.load(Ordering::SeqCst) {
            let message = "the catalogue of topics is down".to_owned();
            let error = ProducerError { class: ErrorClass::Unavailable, code: None, message };
            return Box::pin(std::future::ready(Err(error)));
        }
        self.native.topic(topic, missing)
    }

    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
        self.native.init_producer_id()
    }

    fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
        Box::pin(async move {
            let mut answers = self.native.produce(request).await;
            let missing = |left: u64| left.checked_sub(1);
            if self.answers_missing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, missing).is_ok() {
                answers.clear();
            }
            answers
        })
    }

    fn describe_producer<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        producer_id: i64,
    ) -> BoxFuture<'a, (ProducerState, Option<Leader>)> {
        self.native.describe_producer(topic, partition, producer_id)
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.native.leader(topic, partition)
    }

    fn metadata_version(&self) -> watch::Receiver<u64> {
        self.native.metadata_version()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.native.close()
    }
}

#[tokio::test]
async fn a_batch_that_the_producer_does_not_answer_for_is_in_doubt_and_not_lost() {
    let kafka = kafka(1);
    let batcher = KafkaBatcher::builder([kafka.bootstrap()])
        .producer(Mute::new(&kafka, 3))
        .settings(|s| s.retry_backoff = std::time::Duration::from_millis(1))
        .start()
        .await
        .unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send("once").await.unwrap();
    assert_eq!(outcome(&receipt).await.unwrap().partition, 0);
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(values(&kafka, 0), ["once"]);
}

/// A producer of the user's need not have a broker's code for what goes wrong: the topic is said to be unavailable in its own words,
/// not the cluster, which answers; and its events wait.
#[tokio::test]
async fn a_topic_that_fails_without_a_code_is_told_in_its_producers_words_and_its_events_wait() {
    let kafka = kafka(1);
    let mute = Mute::new(&kafka, 0);
    let down = mute.catalogue_down.clone();
    down.store(true, Ordering::SeqCst);
    let batcher = KafkaBatcher::builder([kafka.bootstrap()])
        .producer(mute)
        .settings(|s| s.retry_backoff = std::time::Duration::from_millis(1))
        .start()
        .await
        .unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send("once").await.unwrap();
    let mut health = batcher.health();
    let said = health.wait_for(|health| {
        let topic = health.topics.get("flights");
        let words = |message: &str| message.contains("the catalogue of topics is down");
        matches!(topic, Some(TopicHealth::Unavailable { message }) if words(message))
            && matches!(health.cluster, ClusterHealth::Connected(_))
    });
    drop(tokio::time::timeout(LONG, said).await.expect("it is said").unwrap());
    assert!(receipt.try_delivered().is_none());
    down.store(false, Ordering::SeqCst);
    assert_eq!(outcome(&receipt).await.unwrap().partition, 0);
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(values(&kafka, 0), ["once"]);
}
