//! The command against a real Kafka, read back by Kafka's own Java tools: real data, its count, its bytes, the order
//! per key, the partition of every key, and the log on disk.

#[path = "support/http.rs"]
mod web;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use kafka_batcher_testkit::{Error, Isolation, Options, RealKafka, Scrape, Suite, Tally};
use serde_json::Value;

const FLIGHTS: &str = include_str!("../../data/flights.ndjson");
const EARTHQUAKES: &str = include_str!("../../data/earthquakes.ndjson");

fn main() -> ExitCode {
    Suite::new(Options::one_broker())
        .test("20 000 flights by the command lie where java puts them", |kafka| {
            real_data(kafka, "flights", FLIGHTS, "origin", "/origin")
        })
        .test("1 707 earthquakes by the command lie where java puts them", |kafka| {
            real_data(kafka, "earthquakes", EARTHQUAKES, "/properties/net", "/properties/net")
        })
        .test("a receipt names the place where java finds the line", receipts)
        .test("the metrics count what java finds", metrics)
        .test("a tombstone and a header are what java reads", tombstone)
        .test("a missing topic is named with what to do", missing_topic)
        .test("segments that are exported from a spool are what kafka reads", exported)
        .run()
}

/// Java finds every batch valid, the offsets without a gap, every event.
fn exported(_: &RealKafka) -> Result<(), Error> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let command = |args: &[&str], input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kafka-batcher"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts");
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("it reads");
        child.wait().expect("it ends").code()
    };
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").to_string();
    let spool = path("spool");
    let produce = ["produce", "-b", &nobody, "--topic", "flights", "--spool", &spool];
    let hasty = ["--spool-after", "20ms", "--shutdown-timeout", "200ms"];
    assert_eq!(command(&[&produce[..], &hasty].concat(), FLIGHTS), Some(3));
    let to = path("exported");
    assert_eq!(command(&["spool", "export", &spool, "--format", "segments", "--to", &to], ""), Some(0));
    let log = dir.path().join("exported/flights-unassigned").join(format!("{:020}.log", 0));
    let dump = kafka_batcher_testkit::LogDump::of_files(&[log])?;
    println!("exported: {} events in {} batches", dump.records(), dump.batches.len());
    assert_eq!(dump.records(), 20_000);
    let mut next = 0;
    for batch in &dump.batches {
        assert_eq!((batch.base_offset, batch.producer_id), (next, -1));
        next += i64::from(batch.count);
    }
    Ok(())
}

/// Keys and values in order.
type ByPartition = BTreeMap<i32, Vec<(Vec<u8>, Vec<u8>)>>;

struct Ran {
    code: Option<i32>,
    objects: Vec<Value>,
    stderr: String,
}

fn produce(kafka: &RealKafka, topic: &str, args: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kafka-batcher"))
        .args(["produce", "-b", kafka.bootstrap(), "--topic", topic, "--summary", "json"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("the command ends");
    writer.join().expect("the writer ends");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Ran {
        code: output.status.code(),
        objects: text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The key of a line as it should be, by a JSON parser that is not ours.
fn key_of(line: &str, pointer: &str) -> Vec<u8> {
    let value: Value = serde_json::from_str(line).expect("JSON");
    value.pointer(pointer).and_then(Value::as_str).expect("a key").as_bytes().to_vec()
}

fn real_data(kafka: &RealKafka, name: &str, data: &str, field: &str, pointer: &str) -> Result<(), Error> {
    const PARTITIONS: u32 = 6;
    let topic = kafka.fresh_topic(name, PARTITIONS, &[])?;
    let ran = produce(kafka, &topic, &["--key-field", field], data);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let summary = ran.objects.last().expect("a summary");
    let count = data.lines().count();
    assert_eq!(summary["delivered"].as_u64(), Some(count as u64));

    let lines: Vec<(Vec<u8>, &str)> = data.lines().map(|line| (key_of(line, pointer), line)).collect();
    let keys: Vec<&[u8]> = lines.iter().map(|(key, _)| key.as_slice()).collect();
    let places = kafka.partition_for_key(&keys, PARTITIONS)?;
    let mut expected: ByPartition = BTreeMap::new();
    for ((key, line), place) in lines.iter().zip(places) {
        expected.entry(place).or_default().push((key.clone(), line.as_bytes().to_vec()));
    }
    let mut seen: ByPartition = BTreeMap::new();
    for record in kafka.consume(&topic, Isolation::Committed)? {
        let pair = (record.key.expect("a key"), record.value.expect("a value"));
        seen.entry(record.partition).or_default().push(pair);
    }
    // Count, bytes, partition as Java's, and the order within each partition, and so of each key.
    Tally::compare(&expected, &seen).assert_clean();

    let mut console: Vec<Vec<u8>> = kafka.console_consumer(&topic, count)?;
    let mut sent: Vec<Vec<u8>> = data.lines().map(|line| line.as_bytes().to_vec()).collect();
    console.sort();
    sent.sort();
    assert!(console == sent, "the console consumer reads other lines");

    if kafka.is_ours() {
        // An error if any batch is not valid.
        let dump = kafka.dump_log(&topic)?;
        assert_eq!(dump.records() as usize, count);
        assert!(dump.batches.iter().all(|batch| batch.producer_id >= 0), "idempotent");
        assert_eq!(summary["batches"].as_u64(), Some(dump.batches.len() as u64));
    }
    Ok(())
}

fn receipts(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("receipts", 3, &[])?;
    let input: String = (1..=2000).map(|n| format!("{n}\n")).collect();
    let ran = produce(kafka, &topic, &["--receipts=delivered", "--partitioner", "round_robin"], &input);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut by_place: BTreeMap<(i64, i64), u64> = BTreeMap::new();
    for receipt in ran.objects.iter().filter(|object| object["type"] == "receipt") {
        let place = (receipt["partition"].as_i64().expect("p"), receipt["offset"].as_i64().expect("o"));
        assert_eq!(by_place.insert(place, receipt["line"].as_u64().expect("a line")), None, "{receipt}");
    }
    let read = kafka.consume(&topic, Isolation::Committed)?;
    assert_eq!((read.len(), by_place.len()), (2000, 2000));
    for record in read {
        let line = by_place.get(&(i64::from(record.partition), record.offset)).expect("a receipt");
        assert_eq!(record.value.expect("a value"), line.to_string().into_bytes());
    }
    Ok(())
}

/// What is scraped while the command lives is held against the log as Kafka's own tools see it.
fn metrics(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("metrics", 3, &[])?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_kafka-batcher"))
        .args(["produce", "-b", kafka.bootstrap(), "--topic", &topic, "--receipts=delivered"])
        .args(["--metrics-addr", "127.0.0.1:0", "--partitioner", "round_robin", "--batch-size", "100"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let said = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let address =
        said.map_while(Result::ok).find_map(|line| web::metrics_address(&line)).expect("an address");
    let mut stdin = child.stdin.take().expect("stdin");
    let input: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
    stdin.write_all(input.as_bytes()).expect("it reads");
    let receipts = BufReader::new(child.stdout.take().expect("stdout")).lines().take(5000);
    assert_eq!(receipts.map_while(Result::ok).count(), 5000);
    let scrape = Scrape::parse(&web::get(&address, "/metrics").body);
    drop(stdin);
    child.kill().and_then(|()| child.wait()).expect("it ends");
    scrape.balances("kafka_batcher", &topic);
    let of = |name: &str| scrape.value(&format!("kafka_batcher_{name}"), &[("topic", &topic)]) as u64;
    assert_eq!(kafka.consume(&topic, Isolation::Committed)?.len() as u64, of("events_delivered_total"));
    if kafka.is_ours() {
        let dump = kafka.dump_log(&topic)?;
        assert_eq!((dump.records(), dump.batches.len() as u64), (5000, of("batches_delivered_total")));
        assert_eq!(dump.batches.iter().map(|batch| batch.size).sum::<u64>(), of("delivered_bytes_total"));
        // Each attempt is observed, and each error was one.
        let errors = scrape.get("kafka_batcher_produce_errors_total", &[]).unwrap_or(0.0) as u64;
        let attempts = of("producer_duration_seconds_count");
        assert_eq!(
            (attempts, of("producer_batch_messages_count_count")),
            (dump.batches.len() as u64 + errors, attempts)
        );
        if errors == 0 {
            assert_eq!(of("producer_batch_messages_count_sum"), 5000);
            assert_eq!(of("producer_batch_total_size_byte_sum"), of("delivered_bytes_total"));
        }
        println!("metrics: {} batches, {errors} errors", dump.batches.len());
    }
    Ok(())
}

fn tombstone(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("tombstone", 1, &[])?;
    let args = ["--key-separator", "=", "--null-value", "NULL", "--header", "h=1", "--header", "h="];
    let ran = produce(kafka, &topic, &args, "k=NULL\nk=\n=v\nno key\n");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let read = kafka.consume(&topic, Isolation::Committed)?;
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let pairs: Vec<_> = read.iter().map(|record| (record.key.clone(), record.value.clone())).collect();
    assert_eq!(
        pairs,
        [(bytes("k"), None), (bytes("k"), bytes("")), (bytes(""), bytes("v")), (None, bytes("no key"))]
    );
    let headers = vec![("h".to_owned(), bytes("1")), ("h".to_owned(), bytes(""))];
    assert!(read.iter().all(|record| record.headers == headers));
    Ok(())
}

fn missing_topic(kafka: &RealKafka) -> Result<(), Error> {
    let ran = produce(kafka, "nobody-made-this-topic", &[], "a\n");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for words in ["nobody-made-this-topic", "--allow-topic-auto-creation"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    Ok(())
}
