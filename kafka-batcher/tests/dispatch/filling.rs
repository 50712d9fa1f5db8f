//! Batches that are due while their broker has enough to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
use kafka_batcher::producer::{
    BoxFuture, ClusterInfo, MissingTopic, ProduceRequest, Producer, ProducerError, TopicInfo,
};
use kafka_batcher::{Builder, Codec, Collector, KafkaBatcher, MemoryStorage, Settings, SpoolMode};
use kafka_batcher_broker::EmbeddedKafka;
use kafka_batcher_core::{Leader, ProduceAnswer, ProducerIdentity, ProducerState};
use tokio::sync::watch;

use super::support::{LONG, kafka, ready, until, values};
use super::{TOPIC, Told, builder, builder_at, to};

/// The native producer, but answers to Produce requests are kept until they are let through.
#[derive(Clone)]
struct Gated {
    native: Arc<NativeProducer>,
    requests: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
}

impl Gated {
    fn new(kafka: &EmbeddedKafka) -> Self {
        Gated::with(ClientSettings::new(kafka.bootstrap().split(',')))
    }

    fn with(settings: ClientSettings) -> Self {
        let native = Arc::new(NativeProducer::new(settings).unwrap());
        Gated { native, requests: Arc::default(), open: watch::Sender::new(false) }
    }

    async fn has_requests(&self, n: usize) {
        until(|| self.requests.load(Ordering::SeqCst) == n).await;
    }

    /// Fills the broker: as many requests as go to one, one event each.
    async fn has_enough_to_do(&self, flights: &Collector) {
        for n in 0..5 {
            flights.add_event(to(n, "before")).await.unwrap();
            self.has_requests(n as usize + 1).await;
        }
    }
}

impl Producer for Gated {
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
        self.native.connect()
    }

    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
        self.native.topic(topic, missing)
    }

    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
        self.native.init_producer_id()
    }

    fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let answers = self.native.produce(request);
        Box::pin(async move {
            let answers = answers.await;
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
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

/// So that no broker is one that may be away.
fn patient(settings: &mut Settings) {
    settings.request_timeout = 10 * LONG;
}

/// A batcher that sends at once, and a collector whose topic is known.
async fn started(builder: Builder, producer: &Gated) -> (KafkaBatcher, Collector) {
    let builder = builder.producer(producer.clone()).settings(patient);
    let batcher = builder.collector_defaults(|d| d.max_wait_time = Duration::ZERO).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    (batcher, flights)
}

/// Adds these events to one partition, and answers how many batches were sealed so far. After each event its dispatcher has looked, for
/// it has answered since.
async fn added(batcher: &KafkaBatcher, flights: &Collector, partition: i32, values: &[&str]) -> u64 {
    for value in values {
        flights.add_event(to(partition, value)).await.unwrap();
        batcher.report().await;
    }
    batcher.report().await.flush_reasons.values().sum()
}

/// Sealed, the first of them would have waited for an answer all the same, and the others behind it, in batches of their own.
#[tokio::test]
async fn what_comes_while_its_broker_has_enough_to_do_goes_into_one_batch() {
    for required_acks in [-1, 0] {
        let kafka = kafka(6);
        let producer = Gated::new(&kafka);
        let builder =
            builder(&kafka, &Told::default()).collector_defaults(|d| d.required_acks = required_acks);
        let (batcher, flights) = started(builder, &producer).await;
        producer.has_enough_to_do(&flights).await;
        let sealed = added(&batcher, &flights, 5, &["a", "b", "c"]).await;
        assert_eq!(sealed, 5, "acks {required_acks}");
        producer.open.send_replace(true);
        producer.has_requests(6).await;
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        assert_eq!((report.batches, values(&kafka, 5).join("")), (6, "abc".to_owned()));
    }
}

/// What somebody waits for is sealed, whatever the broker has to do; so is what is open at the end.
#[tokio::test]
async fn a_flush_seals_what_waits_for_a_busy_broker() {
    for by_partition in [true, false] {
        let kafka = kafka(6);
        let producer = Gated::new(&kafka);
        let batcher = builder(&kafka, &Told::default())
            .producer(producer.clone())
            .collector_defaults(|d| {
                (d.max_wait_time, d.collect_by_partition) = (Duration::ZERO, by_partition)
            })
            .start()
            .await
            .unwrap();
        let flights = batcher.collector(TOPIC).build().unwrap();
        ready(&batcher, TOPIC).await;
        producer.has_enough_to_do(&flights).await;
        let sealed = added(&batcher, &flights, 5, &["a", "b"]).await;
        assert_eq!(sealed, 5, "by partition: {by_partition}");
        tokio::join!(flights.flush(), async {
            let sealed = || async { batcher.report().await.flush_reasons.values().sum::<u64>() };
            while sealed().await == 5 {}
            producer.open.send_replace(true);
        });
        let report = batcher.shutdown(LONG).await;
        assert_eq!((report.delivered, report.batches, report.balances()), (7, 6, true), "{report:?}");
    }
}

/// Only what would go to the busy one.
#[tokio::test]
async fn a_busy_broker_holds_up_no_other_ones_batches() {
    let kafka = EmbeddedKafka::builder().brokers(2).topic(TOPIC, 7).start().unwrap();
    for partition in 0..7 {
        kafka.move_leader(TOPIC, partition, if partition == 6 { 2 } else { 1 }).unwrap();
    }
    let producer = Gated::new(&kafka);
    let bootstrap = kafka.bootstrap();
    let builder = builder_at(bootstrap.split_once(',').unwrap().0, &Told::default());
    let (batcher, flights) = started(builder, &producer).await;
    producer.has_enough_to_do(&flights).await;
    assert_eq!(added(&batcher, &flights, 5, &["waits"]).await, 5);
    flights.add_event(to(6, "goes")).await.unwrap();
    producer.has_requests(6).await;
    producer.open.send_replace(true);
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// A batcher whose broker has enough to do and whose memory is full, for somebody was refused; and how many events it has taken.
async fn short_of_memory(kafka: &EmbeddedKafka, producer: &Gated) -> (KafkaBatcher, Collector, u64) {
    let builder = builder(kafka, &Told::default()).settings(|s| s.memory = 4 << 20);
    let builder = builder.producer(producer.clone()).settings(patient);
    let batcher = builder.collector_defaults(|d| d.max_wait_time = 10 * LONG).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    for n in 0..5 {
        // Ten make a batch.
        for _ in 0..10 {
            flights.add_event(to(n, "before")).await.unwrap();
        }
        producer.has_requests(n as usize + 1).await;
    }
    let value = "x".repeat(100_000);
    let taken = (5..13).cycle().take_while(|n| flights.try_add_event(to(*n, &value)).is_ok()).count();
    assert!(taken < 80, "memory was never short, or batches were full: {taken}");
    assert_eq!(added(&batcher, &flights, 0, &[]).await, 5);
    (batcher, flights, 50 + taken as u64)
}

/// Who was refused for want of memory does not ask again: what was open then is sealed for it when the broker has less to do, long before it
/// is due.
#[tokio::test]
async fn a_shortage_that_a_busy_broker_kept_from_being_met_is_met_later() {
    let kafka = kafka(13);
    let producer = Gated::new(&kafka);
    let (batcher, _, taken) = short_of_memory(&kafka, &producer).await;
    producer.open.send_replace(true);
    until(|| producer.requests.load(Ordering::SeqCst) > 5).await;
    let report = batcher.shutdown(LONG).await;
    assert_eq!((report.delivered, report.lost), (taken, 0));
    assert!(report.flush_reasons.contains_key("memory"), "{:?}", report.flush_reasons);
}

/// What was open then was sealed for another reason; what comes behind it is not in its debt, nor is what comes where nothing was open.
#[tokio::test]
async fn a_shortage_that_is_met_otherwise_seals_nothing_later() {
    let kafka = kafka(13);
    let producer = Gated::new(&kafka);
    let (batcher, flights, taken) = short_of_memory(&kafka, &producer).await;
    tokio::join!(flights.flush(), async {
        while !batcher.report().await.flush_reasons.contains_key("flush") {}
        flights.try_add_event(to(5, "behind it")).unwrap();
        flights.try_add_event(to(0, "where nothing was open")).unwrap();
        producer.open.send_replace(true);
    });
    let report = batcher.report().await;
    assert_eq!((report.delivered, report.in_memory), (taken, 2), "{report:?}");
    assert!(!report.flush_reasons.contains_key("memory"), "{:?}", report.flush_reasons);
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// A batcher whose requests may hold 20 000 bytes, with two of these sizes under way.
async fn two_under_way(
    kafka: &EmbeddedKafka,
    producer: &Gated,
    sizes: [usize; 2],
) -> (KafkaBatcher, Collector) {
    let builder = builder(kafka, &Told::default())
        .settings(|s| s.max_request_size = 20_000)
        .collector_defaults(|d| d.max_batch_bytesize = 20_000);
    let (batcher, flights) = started(builder, producer).await;
    for (n, size) in (0..).zip(sizes) {
        flights.add_event(to(n, &"x".repeat(size))).await.unwrap();
        producer.has_requests(n as usize + 1).await;
    }
    (batcher, flights)
}

#[tokio::test]
async fn two_requests_are_enough_if_both_hold_half_of_what_one_may() {
    for (sizes, enough) in [([10_000, 10_000], true), ([9_800, 9_800], false), ([19_900, 10], false)] {
        let kafka = kafka(3);
        let producer = Gated::new(&kafka);
        let (batcher, flights) = two_under_way(&kafka, &producer, sizes).await;
        let sealed = added(&batcher, &flights, 2, &["a", "b", "c"]).await;
        assert_eq!(sealed == 2, enough, "{sizes:?}: {sealed}");
        producer.open.send_replace(true);
        assert!(batcher.shutdown(LONG).await.all_delivered());
    }
}

/// Whatever sealed it; and once they are answered they count no more.
#[tokio::test]
async fn what_is_sealed_waits_for_two_large_requests_until_one_is_answered() {
    let kafka = kafka(3);
    let producer = Gated::new(&kafka);
    let (batcher, flights) = two_under_way(&kafka, &producer, [10_000, 10_000]).await;
    flights.add_event(to(2, "a")).await.unwrap();
    tokio::join!(flights.flush(), async {
        while !batcher.report().await.flush_reasons.contains_key("flush") {}
        assert_eq!(producer.requests.load(Ordering::SeqCst), 2);
        producer.open.send_replace(true);
    });
    producer.has_requests(3).await;
    producer.open.send_replace(false);
    for n in 0..3 {
        flights.add_event(to(n, "small")).await.unwrap();
        producer.has_requests(n as usize + 4).await;
    }
    producer.open.send_replace(true);
    let report = batcher.shutdown(LONG).await;
    assert_eq!((report.delivered, report.batches, report.balances()), (6, 6, true), "{report:?}");
}

/// Where something is done with a batch before it is sent, it is done meanwhile.
#[tokio::test]
async fn what_is_compressed_or_saved_first_is_not_kept_open() {
    for always in [false, true] {
        let kafka = kafka(6);
        let producer = Gated::new(&kafka);
        let builder = builder(&kafka, &Told::default())
            .producer(producer.clone())
            .collector_defaults(|d| d.max_wait_time = Duration::ZERO);
        let builder = match always {
            true => builder.storage(MemoryStorage::default()).spool_mode(SpoolMode::Always).spool_after(LONG),
            false => builder.collector_defaults(|d| d.compression = Codec::Lz4),
        };
        let (batcher, flights) = started(builder, &producer).await;
        producer.has_enough_to_do(&flights).await;
        assert!(added(&batcher, &flights, 5, &["a", "b", "c"]).await > 5, "always: {always}");
        producer.open.send_replace(true);
        assert!(batcher.shutdown(LONG).await.all_delivered());
    }
}

/// It may be away: what is open would not be saved although the spool is there for it.
#[tokio::test]
async fn what_waits_for_a_broker_that_answers_nothing_is_saved() {
    let kafka = kafka(6);
    let producer = Gated::new(&kafka);
    let builder = builder(&kafka, &Told::default()).storage(MemoryStorage::default());
    let (batcher, flights) = started(builder, &producer).await;
    producer.has_enough_to_do(&flights).await;
    let receipt = flights.send(to(5, "v")).await.unwrap();
    tokio::time::timeout(LONG, receipt.durable()).await.expect("it is saved").unwrap();
    producer.open.send_replace(true);
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// The first of the two times that are over when it may be away; without a spool there is but one.
#[tokio::test]
async fn what_waits_for_a_broker_that_answers_nothing_waits_for_a_part_of_the_request_timeout() {
    for spool in [false, true] {
        let kafka = kafka(6);
        let producer = Gated::new(&kafka);
        let builder = builder(&kafka, &Told::default())
            .producer(producer.clone())
            .settings(|s| s.request_timeout = Duration::from_secs(10))
            .collector_defaults(|d| d.max_wait_time = Duration::ZERO);
        let builder = match spool {
            true => builder.storage(MemoryStorage::default()).spool_after(10 * LONG),
            false => builder,
        };
        let batcher = builder.start().await.unwrap();
        let flights = batcher.collector(TOPIC).build().unwrap();
        ready(&batcher, TOPIC).await;
        producer.has_enough_to_do(&flights).await;
        flights.add_event(to(5, "v")).await.unwrap();
        let sealed = async { while added(&batcher, &flights, 5, &[]).await < 6 {} };
        tokio::time::timeout(Duration::from_secs(9), sealed).await.expect("it is sealed");
        producer.open.send_replace(true);
        assert!(batcher.shutdown(LONG).await.all_delivered());
    }
}

/// It goes to another broker now, which has nothing to do.
#[tokio::test]
async fn what_waits_for_a_busy_broker_goes_when_another_one_leads() {
    let kafka = EmbeddedKafka::builder().brokers(2).topic(TOPIC, 6).start().unwrap();
    for partition in 0..6 {
        kafka.move_leader(TOPIC, partition, 1).unwrap();
    }
    let mut settings = ClientSettings::new(kafka.bootstrap().split(','));
    settings.metadata_max_age = Duration::from_millis(50);
    let producer = Gated::with(settings);
    let bootstrap = kafka.bootstrap();
    let builder = builder_at(bootstrap.split_once(',').unwrap().0, &Told::default());
    let (batcher, flights) = started(builder, &producer).await;
    producer.has_enough_to_do(&flights).await;
    assert_eq!(added(&batcher, &flights, 5, &["waits"]).await, 5);
    kafka.move_leader(TOPIC, 5, 2).unwrap();
    producer.has_requests(6).await;
    producer.open.send_replace(true);
    assert!(batcher.shutdown(LONG).await.all_delivered());
}
