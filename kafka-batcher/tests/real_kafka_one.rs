//! The library against a real Kafka of one broker: real data as Kafka's own tools read it, and a broker that dies, freezes and forgets.

#[path = "real_kafka_one/kinds.rs"]
mod kinds;
#[path = "real_kafka/mod.rs"]
mod real_kafka;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kafka_batcher::{ReceiptError, Record, TopicHealth};
use kafka_batcher_testkit::{Error, Isolation, Options, RealKafka, Signal, Suite, Tally};
use real_kafka::{Flow, LONG, batcher, kills, runtime, text};

fn main() -> ExitCode {
    Suite::new(Options::one_broker())
        .test("all flights arrive once by java's eyes, where java puts their keys, in order", flights)
        .test("all earthquakes arrive once by java's eyes, where java puts their keys, in order", earthquakes)
        .test("events wait for a topic that is created later, and go where java puts their keys", missing)
        .test("acks 1 and acks 0 arrive in order when nothing fails", other_acks)
        .test("a topic that grows is used as java would use it, and nothing is lost", growing)
        .test(
            "a topic that is deleted and created again takes what waited for it, once and in order",
            recreated,
        )
        .test("a topic whose time is the broker's takes everything once and in order", kinds::log_append_time)
        .test("a compacted topic gets tombstones, and refuses only the event without a key", kinds::compacted)
        .test_alone("two thousand partitions are served", kinds::two_thousand_partitions)
        .test_alone("a broker killed and restarted while events flow does not show", killed)
        .test_alone("a broker killed again and again beside a spool does not show", killed_beside_a_spool)
        .test_alone("a broker frozen beyond the request's time and thawed does not show", frozen)
        .test_alone("a broker that served in its sleep and was killed then does not show", frozen_and_killed)
        .run()
}

// ---- real data ----------------------------------------------------------------------------------------------------------

fn flights(kafka: &RealKafka) -> Result<(), Error> {
    all_of(kafka, "flights", &["origin"], 20_000)
}

fn earthquakes(kafka: &RealKafka) -> Result<(), Error> {
    all_of(kafka, "earthquakes", &["properties", "net"], 1_707)
}

/// Keys and values by partition.
type Contents<'a> = BTreeMap<i32, Vec<(&'a [u8], &'a [u8])>>;

/// Sends a whole file, a line an event, and lets Kafka's own consumers and DumpLogSegments judge.
fn all_of(kafka: &RealKafka, name: &str, key: &[&str], count: usize) -> Result<(), Error> {
    const PARTITIONS: u32 = 7;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data").join(format!("{name}.ndjson"));
    let data = std::fs::read_to_string(path).expect("the data are part of the repository");
    let lines: Vec<&str> = data.lines().collect();
    assert_eq!(lines.len(), count);
    let keys: Vec<String> = lines.iter().map(|line| key_of(line, key)).collect();

    let topic = kafka.fresh_topic(name, PARTITIONS, &[])?;
    let report = runtime().block_on(async {
        let batcher = batcher(kafka, |_, defaults| defaults.batch_size = 500).await;
        let collector = batcher.collector(&topic).build().expect("a collector");
        for (key, line) in keys.iter().zip(&lines) {
            collector.add_event((key, *line)).await.expect("accepted");
        }
        batcher.shutdown(LONG).await
    });
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    assert_eq!(report.accepted, count as u64);

    let different: Vec<&String> = keys.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let java: BTreeMap<&String, i32> =
        different.iter().copied().zip(kafka.partition_for_key(&different, PARTITIONS)?).collect();
    let mut expected = Contents::new();
    for (key, line) in keys.iter().zip(&lines) {
        expected.entry(java[key]).or_default().push((key.as_bytes(), line.as_bytes()));
    }
    let read = kafka.consume(&topic, Isolation::Committed)?;
    let mut seen = Contents::new();
    for record in &read {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        seen.entry(record.partition).or_default().push((key.expect("a key"), value.expect("a value")));
    }
    let tally = Tally::compare(&expected, &seen);
    println!("{name}: {tally}; {} batches, {} keys", report.batches, different.len());
    tally.assert_clean();

    let mut by_console = kafka.console_consumer(&topic, count)?;
    let mut sent: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    by_console.sort_unstable();
    sent.sort_unstable();
    assert!(by_console.iter().map(Vec::as_slice).eq(sent.iter().copied()), "bytes, by the console consumer");

    if kafka.is_ours() {
        // An error if any batch is not valid.
        let dump = kafka.dump_log(&topic)?;
        assert_eq!((dump.records(), dump.batches.len() as u64), (count as u64, report.batches));
        assert_eq!(dump.batches.iter().map(|batch| batch.size).sum::<u64>(), report.bytes);
        assert!(dump.batches.iter().all(|batch| batch.magic == 2 && batch.producer_id >= 0));
    }
    Ok(())
}

fn key_of(line: &str, path: &[&str]) -> String {
    let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let found = path.iter().fold(&json, |value, name| &value[name]);
    found.as_str().expect("a string").to_owned()
}

// ---- topics -------------------------------------------------------------------------------------------------------------

fn missing(kafka: &RealKafka) -> Result<(), Error> {
    let topic = format!("{}-late", kafka.fresh_topic("missing", 1, &[])?);
    let runtime = runtime();
    let keys: Vec<String> = (0..53).map(|n| format!("key-{n}")).collect();
    let (batcher, receipts) = runtime.block_on(async {
        let batcher = batcher(kafka, |_, defaults| defaults.batch_size = 10).await;
        let collector = batcher.collector(&topic).build().expect("a collector");
        let mut receipts = Vec::new();
        for event in 0..1000 {
            let sent = collector.send((&keys[event % keys.len()], &event.to_string())).await;
            receipts.push(sent.expect("accepted although there is no topic"));
        }
        let is_missing = |health: &kafka_batcher::Health| match &health.topics[&topic] {
            TopicHealth::Unavailable { message } => {
                message.contains("does not exist") && message.contains(&topic)
            }
            _ => false,
        };
        batcher.health().wait_for(is_missing).await.expect("the batcher lives");
        (batcher, receipts)
    });
    kafka.create_topic(&topic, 5, 1, &[])?;
    let report = runtime.block_on(async {
        for receipt in &receipts {
            receipt.delivered().await.expect("delivered once the topic is there");
        }
        batcher.shutdown(LONG).await
    });
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    let java = kafka.partition_for_key(&keys, 5)?;
    let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for event in 0..1000 {
        expected.entry(java[event % keys.len()]).or_default().push(event.to_string());
    }
    tally_of(kafka, &topic, &expected)?.assert_clean();
    Ok(())
}

fn tally_of(kafka: &RealKafka, topic: &str, expected: &BTreeMap<i32, Vec<String>>) -> Result<Tally, Error> {
    let mut seen: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for record in kafka.consume(topic, Isolation::Committed)? {
        seen.entry(record.partition).or_default().push(text(&record).to_owned());
    }
    Ok(Tally::compare(expected, &seen))
}

fn other_acks(kafka: &RealKafka) -> Result<(), Error> {
    // One topic, acks 1 first: a Kafka tells of a new topic before it takes batches for it, and without acknowledgements it closes the
    // connection then, and whatever was written to it is gone.
    let topic = kafka.fresh_topic("acks", 3, &[])?;
    let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (acks, events) in [(1, 0..9000), (0, 9000..18_000)] {
        let report = runtime().block_on(async {
            let batcher = batcher(kafka, |settings, defaults| {
                // What is sent again has no numbers here.
                settings.request_timeout = LONG;
                defaults.required_acks = acks;
                defaults.batch_size = 100;
            })
            .await;
            let collector = batcher.collector(&topic).build().expect("a collector");
            let mut last = None;
            for event in events.clone() {
                let value = event.to_string();
                let sent = collector.send(Record::value(&value).with_partition(event % 3)).await;
                last = Some(sent.expect("accepted"));
                expected.entry(event % 3).or_default().push(value);
            }
            let last = last.expect("a receipt");
            let place = last.delivered().await.expect("delivered");
            assert_eq!(place.offset, (acks == 1).then_some(2999));
            assert_eq!(last.durable().await.err(), (acks == 0).then_some(ReceiptError::NotAcknowledged));
            batcher.shutdown(LONG).await
        });
        assert!(report.balances() && report.all_delivered(), "{report:?}");
    }
    // Without acknowledgements the broker may still be reading what was written to the socket.
    for _ in 0..5000 {
        if kafka.offsets(&topic)?.iter().map(|partition| partition.latest).sum::<i64>() == 18_000 {
            break;
        }
    }
    let tally = tally_of(kafka, &topic, &expected)?;
    println!("acks 1 and 0: {tally}");
    tally.assert_clean();
    Ok(())
}

fn growing(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("growing", 2, &[])?;
    let keys: Vec<String> = (0..40).map(|n| format!("key-{n}")).collect();
    let runtime = runtime();
    let batcher = runtime.block_on(batcher(kafka, |settings, defaults| {
        settings.metadata_max_age = Duration::from_millis(100);
        defaults.batch_size = 20;
    }));
    let collector = batcher.collector(&topic).build().expect("a collector");
    let mut receipts = Vec::new();
    let mut send = |events: usize| {
        runtime.block_on(async {
            for _ in 0..events {
                let event = receipts.len();
                let sent = collector.send((&keys[event % keys.len()], &event.to_string())).await;
                receipts.push(sent.expect("accepted"));
            }
            receipts[receipts.len() - 1].delivered().await.expect("delivered").partition
        })
    };
    send(2000);
    kafka.grow_topic(&topic, 5)?;
    // Its last key goes to a new partition once the batcher knows of them.
    let java = kafka.partition_for_key(&keys, 5)?;
    let newcomer = java.iter().position(|partition| *partition >= 2).expect("some key moves");
    while send(newcomer + 1) < 2 {
        send(keys.len() - newcomer - 1);
    }
    let first_after = receipts.len().next_multiple_of(keys.len());
    let mut send = |events: usize| {
        runtime.block_on(async {
            for _ in 0..events {
                let event = receipts.len();
                let sent = collector.send((&keys[event % keys.len()], &event.to_string())).await;
                receipts.push(sent.expect("accepted"));
            }
        });
    };
    send(2000);
    let report = runtime.block_on(batcher.shutdown(LONG));
    assert!(report.balances() && report.all_delivered(), "{report:?}");

    // Where each event went is what its receipt says; those after the change went where Java puts them.
    let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (event, receipt) in receipts.iter().enumerate() {
        let partition = receipt.try_delivered().expect("settled").expect("delivered").partition;
        if event >= first_after {
            assert_eq!(partition, java[event % keys.len()], "event {event}");
        }
        expected.entry(partition).or_default().push(event.to_string());
    }
    assert_eq!(expected.len(), 5, "all partitions are used");
    let tally = tally_of(kafka, &topic, &expected)?;
    println!("growing: {tally}");
    tally.assert_clean();
    Ok(())
}

fn recreated(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("recreated", 3, &[])?;
    let runtime = runtime();
    let batcher = runtime.block_on(batcher(kafka, |_, defaults| defaults.batch_size = 20));
    let collector = batcher.collector(&topic).build().expect("a collector");
    let send = |from: i32, to: i32| {
        runtime.block_on(async {
            for event in from..to {
                let value = event.to_string();
                collector.add_event(Record::value(&value).with_partition(event % 3)).await.expect("accepted");
            }
        });
    };
    send(0, 600);
    runtime.block_on(collector.flush());
    let old = kafka.describe(&topic)?.topic_id;
    kafka.delete_topic(&topic)?;
    send(600, 2400);
    kafka.create_topic(&topic, 3, 1, &[])?;
    assert_ne!(kafka.describe(&topic)?.topic_id, old);
    send(2400, 3000);
    let report = runtime.block_on(batcher.shutdown(LONG));
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    assert_eq!((report.possible_duplicates, report.reorderings), (0, 0), "{report:?}");
    let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for event in 600..3000 {
        expected.entry(event % 3).or_default().push(event.to_string());
    }
    let tally = tally_of(kafka, &topic, &expected)?;
    println!("recreated: {tally}");
    tally.assert_clean();
    Ok(())
}

// ---- the broker dies, freezes, forgets ------------------------------------------------------------------------------------

fn killed(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("killed", 4, &[])?;
    let runtime = runtime();
    let flow = runtime.block_on(Flow::start(kafka, &topic, 4, 20_000, |_, _| {}));
    for signal in [Signal::Kill, Signal::Term, Signal::Kill] {
        runtime.block_on(flow.more(500));
        flow.burst(4000);
        kafka.kill(1, signal)?;
        flow.burst(2000);
        kafka.restart(1)?;
        runtime.block_on(flow.more(6000));
    }
    runtime.block_on(flow.finish(kafka, "killed twice, stopped once")).map(drop)
}

/// Every other time it stays away until events lie on disk.
fn killed_beside_a_spool(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("killed-spool", 4, &[])?;
    let runtime = runtime();
    let flow = runtime.block_on(Flow::with_spool(kafka, &topic, 4, 20_000));
    for kill in 0..kills() {
        runtime.block_on(flow.more(500));
        flow.burst(4000);
        kafka.kill(1, Signal::Kill)?;
        flow.burst(2000);
        if kill % 2 == 0 {
            runtime.block_on(flow.spooled());
        }
        kafka.restart(1)?;
        runtime.block_on(flow.more(6000));
    }
    runtime.block_on(flow.finish(kafka, &format!("killed {} times beside a spool", kills()))).map(drop)
}

/// Freezes the broker in the midst of a burst, and resolves when the batcher has given up on its requests.
fn freeze_until_given_up(kafka: &RealKafka, flow: &Flow, topic: &str) -> Result<(), Error> {
    let runtime = tokio::runtime::Handle::current();
    runtime.block_on(flow.more(500));
    flow.burst(4000);
    kafka.freeze(1)?;
    flow.burst(2000);
    runtime.block_on(async {
        let troubled =
            |health: &kafka_batcher::Health| matches!(health.topics[topic], TopicHealth::Troubled { .. });
        flow.batcher().health().wait_for(troubled).await.expect("the batcher lives");
    });
    Ok(())
}

fn frozen(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("frozen", 4, &[])?;
    let runtime = runtime();
    let _within = runtime.enter();
    let flow = runtime.block_on(Flow::start(kafka, &topic, 4, 20_000, |_, _| {}));
    for _ in 0..3 {
        freeze_until_given_up(kafka, &flow, &topic)?;
        // What lay in the sockets is served now, and nobody hears the answers.
        kafka.thaw(1)?;
        runtime.block_on(flow.more(5000));
    }
    runtime.block_on(flow.finish(kafka, "frozen three times")).map(drop)
}

fn frozen_and_killed(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("frozen-killed", 4, &[])?;
    let runtime = runtime();
    let _within = runtime.enter();
    let flow = runtime.block_on(Flow::start(kafka, &topic, 4, 20_000, |_, _| {}));
    for signal in [Signal::Kill, Signal::Term] {
        freeze_until_given_up(kafka, &flow, &topic)?;
        kafka.thaw(1)?;
        // Restarted it knows the last batch of each producer only.
        kafka.kill(1, signal)?;
        kafka.restart(1)?;
        runtime.block_on(flow.more(5000));
    }
    runtime.block_on(flow.finish(kafka, "frozen, thawed, killed, restarted, twice")).map(drop)
}
