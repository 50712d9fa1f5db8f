//! Stock clients against the embedded broker: kcat (librdkafka) and Kafka's own Java tools. What is not installed is listed as ignored, with the
//! reason.

use std::process::ExitCode;

use kafka_batcher_broker::{Api, AutoCreate, Compression, EmbeddedKafka};
use kafka_batcher_testkit::{Kcat, Options, Outcome, RealKafka, Suite};

/// Real events, a line each; the first 500 are enough to fill several batches.
fn events() -> Vec<u8> {
    let all = include_bytes!("../../data/flights.ndjson");
    let end = all
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(499)
        .map_or(all.len(), |(at, _)| at + 1);
    all[..end].to_vec()
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<_> =
        bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(Vec::from).collect();
    lines.sort();
    lines
}

fn broker() -> EmbeddedKafka {
    EmbeddedKafka::builder().auto_create(AutoCreate::On).default_partitions(3).start().expect("a broker")
}

fn logged(kafka: &EmbeddedKafka, topic: &str) -> Vec<Vec<u8>> {
    let partitions = i32::try_from(kafka.partition_count(topic)).expect("a few");
    let records = (0..partitions).flat_map(|partition| kafka.log(topic, partition));
    let mut values: Vec<_> = records.map(|record| record.value.expect("a value").to_vec()).collect();
    values.sort();
    values
}

fn main() -> ExitCode {
    let mut suite = Suite::new(Options::one_broker())
        .plain("kcat writes, idempotent, and reads it back", || with_kcat(kcat_round_trip))
        .plain("kcat makes a topic by asking for it", || with_kcat(kcat_auto_creates))
        .plain("kcat finds an offset by its time", || with_kcat(kcat_offsets))
        .test("Kafka's own producer and consumer work with this broker", java_round_trip)
        .test("Kafka's own admin tools work with this broker", java_admin);
    for (codec, compression) in [
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ] {
        let name = format!("kcat writes {codec} and reads it back");
        suite = suite.plain(&name, move || with_kcat(|kcat| kcat_compressed(kcat, codec, compression)));
    }
    suite.run()
}

fn with_kcat(test: impl FnOnce(&Kcat)) -> Outcome {
    match Kcat::find() {
        Ok(kcat) => {
            test(&kcat);
            Outcome::Passed
        }
        Err(lacking) => lacking,
    }
}

fn kcat_round_trip(kcat: &Kcat) {
    let kafka = broker();
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("flights", 3)).expect("a topic");
    let idempotent = ["-X", "enable.idempotence=true"];
    kcat.produce(&kafka.bootstrap(), "flights", &idempotent, &events()).expect("kcat -P");
    assert_eq!(logged(&kafka, "flights"), lines(&events()));
    assert!((0..3).flat_map(|p| kafka.log("flights", p)).all(|record| record.producer.is_some()));
    let read = kcat.consume(&kafka.bootstrap(), "flights").expect("kcat -C");
    let mut values: Vec<_> = read.into_iter().map(|message| message.value.expect("a value")).collect();
    values.sort();
    assert_eq!(values, lines(&events()));
}

fn kcat_auto_creates(kcat: &Kcat) {
    let kafka = broker();
    kcat.produce(&kafka.bootstrap(), "made-by-asking", &[], b"one\ntwo\n").expect("kcat -P");
    assert_eq!(kafka.partition_count("made-by-asking"), 3);
    assert_eq!(logged(&kafka, "made-by-asking"), [b"one".to_vec(), b"two".to_vec()]);
}

fn kcat_offsets(kcat: &Kcat) {
    let kafka = broker();
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("t", 1)).expect("a topic");
    kcat.produce(&kafka.bootstrap(), "t", &[], b"one\ntwo\n").expect("kcat -P");
    let second = kafka.log("t", 0)[1].timestamp;
    let answer = kcat.run(&["-Q", "-b", &kafka.bootstrap(), "-t", &format!("t:0:{}", second + 1)], &[]);
    let answer = String::from_utf8_lossy(&answer.expect("kcat -Q")).into_owned();
    assert!(answer.contains("offset -1") || answer.contains("offset 2"), "nothing is so late: {answer}");
    let answer = kcat.run(&["-Q", "-b", &kafka.bootstrap(), "-t", "t:0:1"], &[]).expect("kcat -Q");
    assert!(String::from_utf8_lossy(&answer).contains("offset 0"));
}

fn kcat_compressed(kcat: &Kcat, codec: &str, compression: Compression) {
    let kafka = broker();
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("packed", 1)).expect("a topic");
    let idempotent = ["-z", codec, "-X", "enable.idempotence=true"];
    kcat.produce(&kafka.bootstrap(), "packed", &idempotent, &events()).expect("kcat -P");
    let batches = kafka.batches("packed", 0);
    assert!(batches.iter().any(|batch| batch.header.compression() == compression), "{batches:?}");
    let count: i32 = batches.iter().map(|batch| batch.header.record_count).sum();
    assert_eq!(count, 500);
    let read = kcat.consume(&kafka.bootstrap(), "packed").expect("kcat -C");
    let values: Vec<_> = read.into_iter().map(|message| message.value.expect("a value")).collect();
    assert_eq!(values.join(&b'\n'), events().strip_suffix(b"\n").expect("a last line").to_vec());
}

/// Only the tools of `real` are used, against our address.
fn java_round_trip(real: &RealKafka) {
    let kafka = broker();
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("flights", 1)).expect("a topic");
    let bootstrap = kafka.bootstrap();
    let to = ["--bootstrap-server", &bootstrap, "--topic", "flights"];
    real.tool("org.apache.kafka.tools.ConsoleProducer", &to, &events()).expect("the console producer");
    assert_eq!(logged(&kafka, "flights"), lines(&events()));
    assert!(kafka.stats().requests(Api::InitProducerId) > 0, "it is idempotent by default");
    // With a partition named it needs no group.
    let from = ["--partition", "0", "--offset", "earliest", "--max-messages", "500", "--timeout-ms", "20000"];
    let read = real.tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &[&to[..], &from].concat(), &[]);
    assert_eq!(lines(&read.expect("the console consumer")), lines(&events()));
    // It reads what Java packed, too.
    let packed = ["--bootstrap-server", &bootstrap, "--topic", "packed", "--compression-codec", "zstd"];
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("packed", 1)).expect("a topic");
    real.tool("org.apache.kafka.tools.ConsoleProducer", &packed, &events()).expect("the console producer");
    let read = real.tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        &[&["--bootstrap-server", &bootstrap, "--topic", "packed"], &from[..]].concat(),
        &[],
    );
    assert_eq!(lines(&read.expect("the console consumer")), lines(&events()));
}

fn java_admin(real: &RealKafka) {
    let kafka = EmbeddedKafka::builder().brokers(3).start().expect("a cluster");
    let bootstrap = kafka.bootstrap();
    let server = ["--bootstrap-server", &bootstrap];
    let create = ["--create", "--topic", "made", "--partitions", "4", "--replication-factor", "2"];
    let config = ["--config", "retention.ms=777"];
    let topics = "org.apache.kafka.tools.TopicCommand";
    real.tool(topics, &[&server[..], &create, &config].concat(), &[]).expect("kafka-topics --create");
    assert_eq!(kafka.partition_count("made"), 4);
    let told = real.tool(topics, &[&server[..], &["--describe", "--topic", "made"]].concat(), &[]);
    let told = String::from_utf8_lossy(&told.expect("kafka-topics --describe")).into_owned();
    assert!(told.contains("PartitionCount: 4") && told.contains("retention.ms=777"), "{told}");
    let gone = [&server[..], &["--delete", "--topic", "made"]].concat();
    real.tool(topics, &gone, &[]).expect("kafka-topics --delete");
    assert_eq!(kafka.partition_count("made"), 0);
}
