//! Two clients, ours and librdkafka, against a real Kafka, read back by Kafka's Java consumer: both pass the suite that every producer
//! must pass, and what is promised of a batcher over librdkafka holds when the broker freezes, dies and comes back.

#[path = "security/mod.rs"]
#[allow(dead_code)] // other test binaries use the rest of it
mod security;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher::producer::BoxFuture;
use kafka_batcher::producer::conformance::{CASES, Cluster, Logged, OwnedHeader, OwnedRecord};
use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
use kafka_batcher::producer::rdkafka::RdkafkaProducer;
use kafka_batcher::{ClusterHealth, Codec, KafkaBatcher, NotificationKind, Producer, Receipt, Report};
use kafka_batcher_testkit::{Error, Isolation, Options, RealKafka, Signal, Suite};
use security::{
    LONG, PLANTED, Told, batcher, ca, check, config, deliver, log_of, numbered, one_thread, runtime, sasl,
};
use tokio::task::block_in_place;

fn main() -> ExitCode {
    Suite::new(Options::secured())
        .test_alone("the native client passes the suite for producers by java's eyes", |kafka| {
            conforms(kafka, |settings| Box::new(NativeProducer::new(settings).expect("good settings")))
        })
        .test_alone("librdkafka passes the suite for producers by java's eyes", |kafka| {
            conforms(kafka, |settings| Box::new(RdkafkaProducer::new(settings).expect("good settings")))
        })
        .test("librdkafka's batches have the codec of their collector; into how many of them ours fall is printed", codecs)
        .test_alone("over librdkafka nothing is lost when the broker freezes, dies and comes back, and order stays", outages)
        .test("over SASL_SSL librdkafka delivers with each mechanism", ways_in)
        .test("whom the broker does not let in is told why by librdkafka, too", ways_out)
        .test("a wrong password in a file holds the events, and the right one lets them out through librdkafka, too", mended)
        .run()
}

/// Short pauses and short patience, so that tests do not wait for what does not come.
fn settings(kafka: &RealKafka) -> ClientSettings {
    let mut settings = ClientSettings::new(kafka.addresses());
    settings.retry_backoff = Duration::from_millis(20);
    settings.retry_backoff_max = Duration::from_millis(250);
    settings.request_timeout = Duration::from_secs(5);
    settings.connect_timeout = Duration::from_secs(5);
    settings
}

/// A real Kafka, looked into by Java's consumer.
struct Real<'a> {
    kafka: &'a RealKafka,
    make: fn(ClientSettings) -> Box<dyn Producer>,
}

impl Cluster for Real<'_> {
    fn producer(&self) -> Box<dyn Producer> {
        (self.make)(settings(self.kafka))
    }

    fn topic(&self, partitions: i32, max_batch_bytes: Option<usize>) -> BoxFuture<'_, String> {
        Box::pin(async move {
            let bytes = max_batch_bytes.map(|bytes| bytes.to_string());
            let config = bytes.as_deref().map(|bytes| ("max.message.bytes", bytes));
            let config: Vec<_> = config.into_iter().collect();
            let topic = block_in_place(|| self.kafka.fresh_topic("suite", partitions as u32, &config))
                .expect("created");
            // Who leads it knows that it does once it has answered this.
            block_in_place(|| self.kafka.offsets(&topic)).expect("answered");
            topic
        })
    }

    fn log<'a>(&'a self, topic: &'a str, partition: i32) -> BoxFuture<'a, Vec<Logged>> {
        Box::pin(async move { block_in_place(|| log(self.kafka, topic, partition)).expect("read") })
    }

    fn stop(&self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            block_in_place(|| self.kafka.kill(1, Signal::Kill)).expect("killed");
            true
        })
    }

    fn start(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { block_in_place(|| self.kafka.restart(1)).expect("restarted") })
    }
}

fn log(kafka: &RealKafka, topic: &str, partition: i32) -> Result<Vec<Logged>, Error> {
    let consumed = kafka.consume(topic, Isolation::Committed)?;
    let found: Vec<_> = consumed.into_iter().filter(|record| record.partition == partition).collect();
    // A consumer does not see them, and DumpLogSegments takes a second: so only where the suite looks at numbers.
    let dump = match found.len() {
        3 => Some(kafka.dump_log(topic)?),
        _ => None,
    };
    let numbers = |offset: i64| {
        let batches: Vec<_> = dump.as_ref()?.partition(partition).collect();
        let batch = batches.iter().find(|batch| (batch.base_offset..=batch.last_offset).contains(&offset))?;
        let sequence = batch.base_sequence + (offset - batch.base_offset) as i32;
        let epoch = i16::try_from(batch.producer_epoch).expect("16 bits everywhere else");
        Some((batch.producer_id, epoch, sequence))
    };
    let logged = |record: kafka_batcher_testkit::Consumed| Logged {
        offset: record.offset,
        numbers: numbers(record.offset),
        record: OwnedRecord {
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(|(name, value)| OwnedHeader { name, value }).collect(),
        },
    };
    Ok(found.into_iter().map(logged).collect())
}

fn conforms(kafka: &RealKafka, make: fn(ClientSettings) -> Box<dyn Producer>) {
    for (name, case) in CASES {
        println!("{name}");
        runtime().block_on(case(&Real { kafka, make }));
    }
}

fn codecs(kafka: &RealKafka) -> Result<(), Error> {
    if !kafka.is_ours() {
        return Ok(());
    }
    for codec in Codec::ALL {
        let topic = kafka.fresh_topic("pieces", 1, &[])?;
        let report = runtime().block_on(async {
            let producer = RdkafkaProducer::new(settings(kafka)).expect("good settings");
            let builder = KafkaBatcher::builder(kafka.addresses()).producer(producer);
            let builder = builder.collector_defaults(|defaults| {
                defaults.compression = codec;
                defaults.batch_size = 1_000;
                defaults.max_wait_time = Duration::from_secs(1);
            });
            let batcher = builder.start().await.expect("it starts");
            let collector = batcher.collector(&topic).build().expect("a collector");
            for event in 0..10_000 {
                collector.add_event(&format!("{event} {event:0>190}")).await.expect("accepted");
            }
            batcher.shutdown(LONG).await
        });
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        let dump = kafka.dump_log(&topic)?;
        println!("{codec}: {} batches of ours, {} of librdkafka's", report.batches, dump.batches.len());
        assert_eq!(dump.records(), 10_000);
        assert!(dump.batches.iter().all(|batch| batch.compress_codec == codec.name()), "{codec}: {dump:?}");
    }
    Ok(())
}

const KEYS: u32 = 7;

/// Sends these events, each with the key of its number, and waits until the last of them is safe somewhere.
async fn send(collector: &kafka_batcher::Collector, events: std::ops::Range<u32>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for event in events {
        let (key, value) = (format!("key-{}", event % KEYS), event.to_string());
        receipts.push(collector.send((&key, &value)).await.expect("no caller sees an error"));
    }
    receipts
}

async fn each(receipts: &[Receipt], durable: bool) {
    for receipt in receipts {
        let safe = async {
            match durable {
                true => receipt.durable().await.map(drop),
                false => receipt.delivered().await.map(drop),
            }
        };
        tokio::time::timeout(LONG, safe).await.expect("in time").expect("no caller sees an error");
    }
}

fn outages(kafka: &RealKafka) -> Result<(), Error> {
    const EVENTS: u32 = 8_000;
    let topic = kafka.fresh_topic("outages", 3, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let report = runtime().block_on(async {
        let mut settings = settings(kafka);
        settings.request_timeout = Duration::from_millis(1_500);
        let builder = KafkaBatcher::builder(kafka.addresses())
            .settings(|s| {
                s.retry_backoff = Duration::from_millis(20);
                s.retry_backoff_max = Duration::from_millis(250);
                s.request_timeout = settings.request_timeout;
            })
            .producer(RdkafkaProducer::new(settings).expect("good settings"))
            .collector_defaults(|defaults| defaults.batch_size = 50)
            .spool(dir.path())
            .spool_after(Duration::from_millis(300));
        let batcher = builder.start().await.expect("it starts");
        let collector = batcher.collector(&topic).build().expect("a collector");
        each(&send(&collector, 0..2_000).await, false).await;
        block_in_place(|| kafka.freeze(1)).expect("frozen");
        each(&send(&collector, 2_000..4_000).await, true).await;
        assert!(batcher.report().await.spooled > 0, "it lasts long enough for the spool");
        block_in_place(|| kafka.thaw(1)).expect("thawed");
        each(&send(&collector, 4_000..5_000).await, false).await;
        block_in_place(|| kafka.kill(1, Signal::Kill)).expect("killed");
        each(&send(&collector, 5_000..7_000).await, true).await;
        assert!(batcher.report().await.spooled > 0, "it lasts long enough for the spool");
        block_in_place(|| kafka.restart(1)).expect("restarted");
        each(&send(&collector, 7_000..EVENTS).await, false).await;
        batcher.shutdown(LONG).await
    });
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    first_appearances(kafka, &topic, EVENTS, &report)
}

/// Every event is there; those of a key first appear in their order; what is there again is counted.
fn first_appearances(kafka: &RealKafka, topic: &str, events: u32, report: &Report) -> Result<(), Error> {
    let mut seen: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
    let mut surplus = 0;
    for record in kafka.consume(topic, Isolation::Committed)? {
        let event: u32 =
            String::from_utf8(record.value.unwrap_or_default()).expect("text").parse().expect("a number");
        let of_key = seen.entry(record.key.unwrap_or_default()).or_default();
        match of_key.contains(&event) {
            true => surplus += 1,
            false => of_key.push(event),
        }
    }
    println!(
        "{surplus} events are there twice; {} were told as possible duplicates",
        report.possible_duplicates
    );
    for key in 0..KEYS {
        let expected: Vec<u32> = (key..events).step_by(KEYS as usize).collect();
        let found = seen.remove(format!("key-{key}").as_bytes()).unwrap_or_default();
        assert!(
            found == expected,
            "key {key}: {} of {} events, in order by first appearance",
            found.len(),
            expected.len()
        );
    }
    assert!(seen.is_empty(), "nobody sent these: {seen:?}");
    assert!(surplus <= report.possible_duplicates, "{surplus} events are there twice: {report:?}");
    Ok(())
}

/// The line that chooses librdkafka, above the tables.
fn over_librdkafka(tables: &str) -> String {
    format!("producer = \"rdkafka\"\nconnect_timeout = \"5s\"\n{tables}")
}

fn ways_in(kafka: &RealKafka) -> Result<(), Error> {
    for mechanism in ["plain", "scram_sha_256", "scram_sha_512"] {
        let topic = kafka.fresh_topic("way-in", 1, &[])?;
        let tables = over_librdkafka(&(ca(kafka)? + &sasl(mechanism, "alice", "alice-secret")));
        let told = Arc::new(Told::default());
        let report = runtime().block_on(async {
            let batcher = batcher(&config(kafka, "SASL_SSL", &tables, &[&topic]), &told).await;
            deliver(&batcher, &topic, 0..500).await;
            batcher.shutdown(LONG).await
        });
        assert!(report.all_delivered() && report.balances(), "{mechanism}: {report:?}");
        check(kafka, &topic, 0..500)?;
        assert!(told.all().is_empty(), "{mechanism}: {:?}", told.all());
    }
    Ok(())
}

fn ways_out(kafka: &RealKafka) -> Result<(), Error> {
    let wrong = |mechanism: &str| sasl(mechanism, "alice", PLANTED);
    let other_ca = format!("[ssl]\nca_file = {:?}\n", kafka.security_file("other-ca.pem")?);
    for (listener, tables, words) in [
        ("SASL_SSL", ca(kafka)? + &wrong("plain"), vec!["does not let \"alice\" in (PLAIN)", "sasl.login"]),
        (
            "SASL_SSL",
            ca(kafka)? + &wrong("scram_sha_512"),
            vec!["does not let \"alice\" in (SCRAM-SHA-512)", "password"],
        ),
        ("SSL", other_ca, vec!["no broker answers librdkafka at 127.0.0.1", "certificate"]),
    ] {
        let said = security::refusal(kafka, listener, &over_librdkafka(&tables));
        println!("{listener}: {said}");
        for word in words {
            assert!(said.contains(word), "{listener}: {word:?} is missing: {said}");
        }
        assert!(!said.contains(PLANTED), "{said}");
    }
    Ok(())
}

fn mended(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("mended", 1, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, PLANTED).expect("written");
    let tables = ca(kafka)?
        + &format!("[sasl]\nmechanism = \"scram_sha_512\"\nlogin = \"alice\"\npassword_file = {secret:?}\n");
    let told = Arc::new(Told::default());
    let (report, log) = log_of(|_| {
        one_thread().block_on(async {
            let batcher =
                batcher(&config(kafka, "SASL_SSL", &over_librdkafka(&tables), &[&topic]), &told).await;
            let collector = batcher.get_collector(&topic).expect("a collector");
            let first = collector.send(numbered(0)).await.expect("accepted");
            let unreachable =
                |health: &kafka_batcher::Health| matches!(health.cluster, ClusterHealth::Unreachable { .. });
            batcher.health().wait_for(unreachable).await.expect("the batcher lives");
            std::fs::write(&secret, "alice-secret\n").expect("written");
            first.delivered().await.expect("delivered");
            batcher.shutdown(LONG).await
        })
    });
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    check(kafka, &topic, 0..1)?;
    let said = told.of(NotificationKind::ClientStartFailed);
    assert!(said[0].contains("does not let \"alice\" in"), "{said:?}");
    for secret in [PLANTED, "alice-secret"] {
        assert!(
            !log.contains(secret) && !format!("{:?}{report:?}", told.all()).contains(secret),
            "{secret} is shown"
        );
    }
    Ok(())
}
