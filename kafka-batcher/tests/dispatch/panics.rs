//! User code that panics, and a producer that says less than it could.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
use kafka_batcher::producer::{
    BoxFuture, ClusterInfo, MissingTopic, ProduceRequest, Producer, ProducerError, TopicInfo,
};
use kafka_batcher::{MemoryStorage, NotificationKind, SpoolMode, TopicHealth};
use kafka_batcher_broker::ProducerMemory;
use kafka_batcher_core::{Leader, ProduceAnswer, ProducerIdentity, ProducerState};
use tokio::sync::watch;

use crate::odd::{Call, Odd};
use crate::support::{LONG, kafka, outcome, ready, values};
use crate::{TOPIC, Told, builder, builder_at, to};

/// The storage panicked before its future was there, and the topic's task died of it: its receipts failed, every later event
/// was refused as if somebody had shut the batcher down, and nobody was told.
#[tokio::test]
async fn a_storage_that_panics_at_once_costs_that_call_and_no_event() {
    for mode in [SpoolMode::OnFailure, SpoolMode::Always] {
        let kafka = kafka(2);
        let (told, bootstrap) = (Told::default(), kafka.bootstrap());
        // The lane's calls first: Kafka is unknown.
        kafka.stop_broker(1).unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let asked = calls.clone();
        let storage = Odd::new(MemoryStorage::default(), move |call| {
            let n = asked.fetch_add(1, Ordering::SeqCst);
            // A few times: each costs a second's pause.
            assert!(n > 6 || n % 2 == 1 || matches!(call, Call::Gave { .. }), "{call:?}: a mood");
            Ok(())
        });
        let batcher = builder_at(&bootstrap, &told).spool_mode(mode).storage(storage).start().await.unwrap();
        let flights = batcher.collector(TOPIC).build().unwrap();
        let mut receipts = Vec::new();
        for i in 0..20 {
            receipts.push(flights.send(to(i % 2, &i.to_string())).await.unwrap());
        }
        for receipt in &receipts {
            tokio::time::timeout(LONG, receipt.durable()).await.expect("in time").unwrap();
        }
        kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
        for i in 20..40 {
            receipts.push(flights.send(to(i % 2, &i.to_string())).await.unwrap());
        }
        for receipt in &receipts {
            outcome(receipt).await.unwrap();
        }
        for partition in 0..2 {
            let expected: Vec<_> = (0..20).map(|i| (2 * i + partition).to_string()).collect();
            assert_eq!(values(&kafka, partition), expected);
        }
        assert!(told.of(NotificationKind::SpoolError)[0].contains("panicked"), "{:?}", told.0);
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        assert!(calls.load(Ordering::SeqCst) > 4);
    }
}

/// The native producer, but its metadata's version has no sender any more.
struct Silent(NativeProducer);

impl Producer for Silent {
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
        self.0.connect()
    }

    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
        self.0.topic(topic, missing)
    }

    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
        self.0.init_producer_id()
    }

    fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
        self.0.produce(request)
    }

    fn describe_producer<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        producer_id: i64,
    ) -> BoxFuture<'a, (ProducerState, Option<Leader>)> {
        self.0.describe_producer(topic, partition, producer_id)
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.0.leader(topic, partition)
    }

    fn metadata_version(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.close()
    }
}

/// The topic's task took the missing sender for the end, and ended: every event was refused as after a shutdown.
#[tokio::test]
async fn a_producer_whose_metadata_never_changes_delivers_and_finds_leaders_that_come_later() {
    let kafka = kafka(2);
    kafka.remove_leader(TOPIC, 1).unwrap();
    let producer = Silent(NativeProducer::new(ClientSettings::new([kafka.bootstrap()])).unwrap());
    let batcher = builder(&kafka, &Told::default()).producer(producer).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    outcome(&flights.send(to(0, "led")).await.unwrap()).await.unwrap();
    let waits = flights.send(to(1, "not yet")).await.unwrap();
    kafka.move_leader(TOPIC, 1, 1).unwrap();
    outcome(&waits).await.unwrap();
    assert!(matches!(batcher.health().borrow().topics[TOPIC], TopicHealth::Ready { .. }));
    assert!(batcher.shutdown(LONG).await.all_delivered());
}
