//! Every producer of ours passes the suite that a third one would run, and producers that are wrong on purpose do not.

#[path = "producer_conformance/wrong.rs"]
mod wrong;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_batcher::producer::conformance::{CASES, Case, Cluster, Logged, OwnedHeader, OwnedRecord};
use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
use kafka_batcher::producer::{BoxFuture, MissingTopic};
use kafka_batcher::{Producer, RecordBatch};
use kafka_batcher_broker::{AutoCreate, EmbeddedKafka, ProducerMemory, TopicSpec};
use wrong::{WRONG, Wrong, WrongProducer};

/// Makes a producer from settings.
type Make = fn(ClientSettings) -> Box<dyn Producer>;

fn native(settings: ClientSettings) -> Box<dyn Producer> {
    Box::new(NativeProducer::new(settings).expect("good settings"))
}

#[cfg(feature = "rdkafka")]
fn librdkafka(settings: ClientSettings) -> Box<dyn Producer> {
    use kafka_batcher::producer::rdkafka::RdkafkaProducer;
    Box::new(RdkafkaProducer::new(settings).expect("good settings"))
}

/// Short pauses and short patience, so that tests do not wait for what does not come.
fn settings(kafka: &EmbeddedKafka) -> ClientSettings {
    let mut settings = ClientSettings::new(kafka.bootstrap().split(','));
    settings.retry_backoff = Duration::from_millis(5);
    settings.retry_backoff_max = Duration::from_millis(50);
    settings.request_timeout = Duration::from_secs(3);
    settings.connect_timeout = Duration::from_secs(3);
    settings
}

/// The embedded broker, whose logs are looked at from inside.
struct Embedded {
    kafka: EmbeddedKafka,
    make: Make,
    wrong: Wrong,
    patience: Duration,
    topics: AtomicU32,
}

impl Embedded {
    fn new(make: Make, wrong: Wrong, patience: Duration) -> Self {
        let kafka = EmbeddedKafka::start().expect("a broker");
        Embedded { kafka, make, wrong, patience, topics: AtomicU32::new(0) }
    }
}

/// An event as the broker's own decoder reads it.
fn owned(found: kafka_batcher_broker::Record) -> OwnedRecord {
    let bytes = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| bytes.to_vec());
    let header = |header: &kafka_batcher_broker::Header| OwnedHeader {
        name: String::from_utf8(header.key.to_vec()).expect("text"),
        value: bytes(&header.value),
    };
    OwnedRecord {
        timestamp: found.timestamp,
        key: bytes(&found.key),
        value: bytes(&found.value),
        headers: found.headers.iter().map(header).collect(),
    }
}

impl Cluster for Embedded {
    fn producer(&self) -> Box<dyn Producer> {
        WrongProducer::wrap((self.make)(settings(&self.kafka)), self.wrong)
    }

    fn topic(&self, partitions: i32, max_batch_bytes: Option<usize>) -> BoxFuture<'_, String> {
        let name = format!("topic-{}", self.topics.fetch_add(1, Ordering::SeqCst));
        let mut topic = TopicSpec::new(&name, partitions);
        if let Some(bytes) = max_batch_bytes {
            topic = topic.config("max.message.bytes", bytes.to_string());
        }
        self.kafka.create_topic(topic).expect("created");
        Box::pin(std::future::ready(name))
    }

    fn log<'a>(&'a self, topic: &'a str, partition: i32) -> BoxFuture<'a, Vec<Logged>> {
        let mut log = Vec::new();
        for batch in self.kafka.batches(topic, partition) {
            let header = &batch.header;
            let records = match batch.records() {
                Some(records) => records.into_iter().map(owned).collect(),
                // The broker opens no codec; a real Kafka's consumer does, in its own test.
                None => {
                    RecordBatch::decode(&batch.bytes).and_then(|(batch, _)| batch.records()).expect("records")
                }
            };
            for (n, record) in (0..).zip(records) {
                let numbers = Some((header.producer_id, header.producer_epoch, header.base_sequence + n));
                log.push(Logged { offset: header.base_offset + i64::from(n), record, numbers });
            }
        }
        Box::pin(std::future::ready(log))
    }

    fn stop(&self) -> BoxFuture<'_, bool> {
        self.kafka.kill_broker(1).expect("a broker");
        Box::pin(std::future::ready(true))
    }

    fn start(&self) -> BoxFuture<'_, ()> {
        self.kafka.restart_broker(1, ProducerMemory::LastBatch).expect("a broker");
        Box::pin(std::future::ready(()))
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

/// Longer than anything takes, so that only what hangs runs into it.
const LONG: Duration = Duration::from_secs(120);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn conforms(make: Make) {
    for (name, case) in CASES {
        println!("{name}");
        runtime().block_on(case(&Embedded::new(make, Wrong::Not, LONG)));
    }
}

#[test]
fn native_conforms() {
    conforms(native);
}

#[cfg(feature = "rdkafka")]
#[test]
fn librdkafka_conforms() {
    conforms(librdkafka);
}

/// The first case that a producer fails: what hangs would do so in most of them.
fn failed(wrong: Wrong) -> Option<&'static str> {
    let fails = |(_, case): &&(&str, Case)| {
        // It is in the way of nothing else, and what hangs is wrong after a shorter time, too.
        let cluster = Embedded::new(native, wrong, Duration::from_secs(4));
        let run = AssertUnwindSafe(|| runtime().block_on(case(&cluster)));
        std::panic::catch_unwind(run).is_err()
    };
    CASES.iter().find(fails).map(|(name, _)| *name)
}

#[test]
fn a_producer_that_is_wrong_on_purpose_is_found_out() {
    let mut unnoticed = Vec::new();
    for wrong in WRONG {
        match failed(*wrong) {
            Some(case) => println!("{wrong:?}: {case}"),
            None => unnoticed.push(wrong),
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed {unnoticed:?}");
}

/// Whoever may create topics gets one, and whoever may not does not, from the same producer.
fn creates_only_if_it_may(make: Make) {
    let kafka =
        EmbeddedKafka::builder().auto_create(AutoCreate::On).default_partitions(2).start().expect("a broker");
    runtime().block_on(async {
        let producer = make(settings(&kafka));
        let error = producer.topic("refused", MissingTopic::Refuse).await.expect_err("it does not exist");
        assert!(error.message.contains("allow_topic_auto_creation"), "{error}");
        let created = async {
            loop {
                if let Ok(info) = producer.topic("created", MissingTopic::Create).await {
                    return info;
                }
            }
        };
        let info = tokio::time::timeout(LONG, created).await.expect("it is created");
        assert_eq!(info.partitions, 2);
        producer.close().await;
    });
    assert_eq!((kafka.partition_count("refused"), kafka.partition_count("created")), (0, 2));
}

#[test]
fn the_native_client_creates_a_topic_only_if_it_may() {
    creates_only_if_it_may(native);
}

#[cfg(feature = "rdkafka")]
#[test]
fn librdkafka_creates_a_topic_only_if_it_may() {
    creates_only_if_it_may(librdkafka);
}

#[cfg(feature = "rdkafka")]
#[test]
fn one_word_in_a_file_chooses_librdkafka() {
    use kafka_batcher::{Builder, Config, Record};

    let kafka = EmbeddedKafka::builder().topic("flights", 2).start().expect("a broker");
    let text = format!(
        "endpoints = [\"{}\"]\nproducer = \"rdkafka\"\ncompression = \"zstd\"\n[[collectors]]\ntopic_name = \"flights\"\n",
        kafka.bootstrap()
    );
    let report = runtime().block_on(async {
        let builder = Builder::from_config(&Config::from_toml(&text, "k.toml")).expect("no mistakes");
        let batcher = builder.start().await.expect("it starts");
        let collector = batcher.get_collector("flights").expect("a collector");
        for event in 0..1_000 {
            let value = format!("{event}");
            collector.add_event(Record::value(&value).with_partition(event % 2)).await.expect("accepted");
        }
        batcher.shutdown(LONG).await
    });
    assert!(report.all_delivered() && report.balances() && report.delivered == 1_000, "{report:?}");
    for partition in 0..2 {
        let mut expected = (partition..1_000).step_by(2).map(|event| event.to_string());
        for batch in kafka.batches("flights", partition) {
            // Librdkafka numbers what it sends, and not with our numbers: they are kept nowhere.
            assert!(batch.header.producer_id >= 0, "{:?}", batch.header);
            let (batch, _) = RecordBatch::decode(&batch.bytes).expect("a batch");
            for record in batch.records().expect("records") {
                assert_eq!(record.value.map(String::from_utf8), expected.next().map(Ok));
            }
        }
        assert_eq!(expected.next(), None, "partition {partition}");
    }
}
