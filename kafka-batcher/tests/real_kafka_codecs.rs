//! Compressed batches and a real Kafka: what is written is read by Kafka's Java consumer, kcat and DumpLogSegments, what other
//! producers wrote is read here, and everything that happens to a plain batch happens to a compressed one.

#[path = "support/killed.rs"]
mod killed;
#[path = "real_kafka/mod.rs"]
#[allow(dead_code)] // other test binaries use the rest of it
mod real_kafka;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kafka_batcher::{
    Codec, CollectorSettings, FailureReason, Health, KafkaBatcher, ReceiptError, Record, RecordBatch, Report,
    SpoolMode, TopicHealth,
};
use kafka_batcher_testkit::{Error, Isolation, Kcat, Options, Outcome, RealKafka, Signal, Suite, Tally};
use real_kafka::{LONG, batcher, runtime, text};

/// Codecs and levels.
const WAYS: [(Codec, Option<i32>); 10] = [
    (Codec::Gzip, None),
    (Codec::Gzip, Some(1)),
    (Codec::Gzip, Some(9)),
    (Codec::Snappy, None),
    (Codec::Lz4, None),
    (Codec::Zstd, None),
    (Codec::Zstd, Some(-5)),
    (Codec::Zstd, Some(3)),
    (Codec::Zstd, Some(19)),
    (Codec::Zstd, Some(22)),
];
const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const PARTITIONS: u32 = 3;

fn main() -> ExitCode {
    Suite::new(Options::one_broker())
        .test("what is compressed, by every codec at every kind of level, is read by java, kcat and DumpLogSegments", every_way)
        .test("a topic with a compression of its own, or with times of its own, takes what is compressed otherwise", other_topics)
        .test("what java and kcat compress is read here", others_batches)
        .test("a batch fills until it takes its bytes on the wire, and none takes more", fills_to_the_wire)
        .test("what does not shrink goes plain", plain)
        .test("a poisoned record is cut out of a compressed batch and its neighbours arrive", poison)
        .test("a compressed batch too large for the topic is split, and arrives compressed", too_large)
        .test("events that wait for their topic are compressed when it is there", waited)
        .test_alone("compressed batches are replayed after an outage and after a kill, with the bytes they had", replayed)
        .run()
}

fn lines(count: usize) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights.ndjson");
    let data = std::fs::read_to_string(path).expect("the data are part of the repository");
    data.lines().cycle().take(count).map(str::to_owned).collect()
}

/// The topic's partitions are known. What comes sooner waits all together, and is regrouped into batches of other sizes.
async fn ready(batcher: &KafkaBatcher, topic: &str) {
    let ready = |health: &Health| matches!(health.topics.get(topic), Some(TopicHealth::Ready { .. }));
    batcher.health().wait_for(ready).await.expect("the batcher lives");
}

/// Sends all lines, in turn to each partition, and ends.
async fn send_all(batcher: KafkaBatcher, topic: &str, lines: &[String]) -> Report {
    let collector = batcher.collector(topic).build().expect("a collector");
    ready(&batcher, topic).await;
    for (line, partition) in lines.iter().zip((0..PARTITIONS as i32).cycle()) {
        collector.add_event(Record::value(line).with_partition(partition)).await.expect("accepted");
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    report
}

fn compresses(settings: &mut CollectorSettings, (codec, level): (Codec, Option<i32>)) {
    settings.compression = codec;
    settings.compression_level = level;
    settings.batch_size = 700;
    settings.max_wait_time = Duration::from_millis(50);
}

fn by_partition(lines: &[String]) -> BTreeMap<i32, Vec<&str>> {
    let mut expected: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
    for (line, partition) in lines.iter().zip((0..PARTITIONS as i32).cycle()) {
        expected.entry(partition).or_default().push(line);
    }
    expected
}

/// By Java's consumer, record by record.
fn java_reads(kafka: &RealKafka, topic: &str, lines: &[String]) -> Result<(), Error> {
    let read = kafka.consume(topic, Isolation::Committed)?;
    let mut seen: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
    for record in &read {
        seen.entry(record.partition).or_default().push(text(record));
    }
    Tally::compare(&by_partition(lines), &seen).assert_clean();
    Ok(())
}

fn every_way(kafka: &RealKafka) -> Result<Outcome, Error> {
    let kcat = match Kcat::find() {
        Ok(kcat) => kcat,
        Err(outcome) => return Ok(outcome),
    };
    let lines = lines(6_000);
    for way in WAYS {
        let topic = kafka.fresh_topic("codec", PARTITIONS, &[])?;
        let report = runtime().block_on(async {
            let batcher = batcher(kafka, |_, defaults| compresses(defaults, way)).await;
            send_all(batcher, &topic, &lines).await
        });
        java_reads(kafka, &topic, &lines)?;
        let read = kcat.consume(kafka.bootstrap(), &topic)?;
        let mut seen: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
        for message in &read {
            let value = message.value.as_deref().expect("a value");
            seen.entry(message.partition).or_default().push(std::str::from_utf8(value).expect("text"));
        }
        Tally::compare(&by_partition(&lines), &seen).assert_clean();
        if kafka.is_ours() {
            // An error if any batch is not valid.
            let dump = kafka.dump_log(&topic)?;
            assert_eq!((dump.records(), dump.batches.len() as u64), (6_000, report.batches));
            assert_eq!(dump.batches.iter().map(|batch| batch.size).sum::<u64>(), report.bytes);
            for batch in &dump.batches {
                assert_eq!((batch.magic, batch.compress_codec.as_str()), (2, way.0.name()), "{batch:?}");
                assert!(batch.producer_id >= 0 && batch.base_sequence >= 0, "{batch:?}");
            }
            let plain: usize = lines.iter().map(String::len).sum();
            println!(
                "{way:?}: {} batches, {:.3} of the plain size",
                report.batches,
                report.bytes as f64 / plain as f64
            );
            assert!((report.bytes as usize) < plain / 2);
        }
    }
    Ok(Outcome::Passed)
}

fn other_topics(kafka: &RealKafka) -> Result<(), Error> {
    let lines = lines(2_000);
    for (name, value, codec) in [
        ("compression.type", "gzip", Some("gzip")),
        ("compression.type", "lz4", Some("lz4")),
        ("compression.type", "snappy", Some("snappy")),
        ("compression.type", "zstd", Some("zstd")),
        ("compression.type", "uncompressed", Some("none")),
        ("message.timestamp.type", "LogAppendTime", None),
    ] {
        for way in CODECS {
            let topic = kafka.fresh_topic("other", PARTITIONS, &[(name, value)])?;
            runtime().block_on(async {
                let batcher = batcher(kafka, |_, defaults| compresses(defaults, (way, None))).await;
                send_all(batcher, &topic, &lines).await
            });
            java_reads(kafka, &topic, &lines)?;
            if kafka.is_ours() {
                let wanted = codec.unwrap_or(way.name());
                let dump = kafka.dump_log(&topic)?;
                assert!(dump.batches.iter().all(|batch| batch.compress_codec == wanted), "{way} to {value}");
            }
        }
    }
    Ok(())
}

/// The batches of a topic of one partition, from Kafka's own disk, through our decoder.
fn read_here(kafka: &RealKafka, topic: &str) -> Result<Vec<RecordBatch>, Error> {
    let mut batches = Vec::new();
    for file in kafka.segments(1, topic, 0)? {
        let bytes = std::fs::read(&file).expect("a segment");
        let mut rest = &bytes[..];
        // Kafka allocates no more than it has written, unless asked to.
        while !rest.is_empty() {
            let (batch, used) = RecordBatch::decode(rest).unwrap_or_else(|error| panic!("{topic}: {error}"));
            batches.push(batch);
            rest = &rest[used..];
        }
    }
    Ok(batches)
}

fn others_batches(kafka: &RealKafka) -> Result<Outcome, Error> {
    let kcat = match Kcat::find() {
        Ok(kcat) if kafka.is_ours() => kcat,
        Ok(_) => return Ok(Outcome::Passed),
        Err(outcome) => return Ok(outcome),
    };
    let lines = lines(3_000);
    let input = lines.join("\n") + "\n";
    for codec in CODECS {
        for by_java in [true, false] {
            let topic = kafka.fresh_topic("theirs", 1, &[])?;
            if by_java {
                let args =
                    ["--bootstrap-server", kafka.bootstrap(), "--topic", &topic, "--batch-size", "200000"];
                let packed = [&args[..], &["--compression-codec", codec.name()]].concat();
                kafka.tool("org.apache.kafka.tools.ConsoleProducer", &packed, input.as_bytes())?;
            } else {
                kcat.produce(kafka.bootstrap(), &topic, &["-z", codec.name()], input.as_bytes())?;
            }
            let batches = read_here(kafka, &topic)?;
            assert!(batches.iter().any(|batch| batch.codec() == codec), "{codec}, by java: {by_java}");
            let values: Vec<_> = batches
                .iter()
                .flat_map(|b| b.records().expect("they are valid"))
                .filter_map(|r| r.value)
                .collect();
            assert!(
                values.iter().map(Vec::as_slice).eq(lines.iter().map(String::as_bytes)),
                "{codec}, {by_java}"
            );
            // And what we make of them again is read as well.
            let (left, right) = batches[0]
                .split(batches[0].count() / 2, &mut |n| kafka_batcher_core::Chunk::unpooled(n))
                .expect("they are valid");
            assert_eq!(left.count() + right.count(), batches[0].count());
        }
    }
    Ok(Outcome::Passed)
}

fn fills_to_the_wire(kafka: &RealKafka) -> Result<(), Error> {
    const LIMIT: usize = 40_000;
    if !kafka.is_ours() {
        return Ok(());
    }
    let lines = lines(200_000);
    for codec in [Codec::Lz4, Codec::Zstd] {
        let topic = kafka.fresh_topic("filled", PARTITIONS, &[("max.message.bytes", "40000")])?;
        let report = runtime().block_on(async {
            let batcher = batcher(kafka, |_, defaults| {
                compresses(defaults, (codec, None));
                defaults.batch_size = 100_000;
                defaults.max_batch_bytesize = LIMIT;
                defaults.max_wait_time = Duration::from_secs(5);
            })
            .await;
            send_all(batcher, &topic, &lines).await
        });
        java_reads(kafka, &topic, &lines)?;
        let dump = kafka.dump_log(&topic)?;
        let sizes: Vec<u64> = dump.partition(0).map(|batch| batch.size).collect();
        let late = &sizes[sizes.len() * 7 / 8..sizes.len() - 1];
        let mean = late.iter().sum::<u64>() / late.len() as u64;
        println!(
            "{codec}: {} batches, first {}, late ones {mean} bytes on average",
            report.batches, sizes[0]
        );
        assert!(dump.batches.iter().all(|batch| batch.size <= LIMIT as u64), "{sizes:?}");
        // The first is full when its plain bytes are; late ones when their compressed bytes are.
        assert!(sizes[0] < LIMIT as u64 / 2 && mean > LIMIT as u64 * 7 / 10, "{sizes:?}");
    }
    Ok(())
}

fn plain(kafka: &RealKafka) -> Result<(), Error> {
    let mut seed = 88_172_645_463_325_252_u64;
    let mut noise = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        char::from(b'!' + (seed % 90) as u8)
    };
    // Six bits and a half a byte: nothing that these codecs make smaller, but gzip's and zstd's entropy coding by a little.
    let lines: Vec<String> = (0..900).map(|_| (0..400).map(|_| noise()).collect()).collect();
    for codec in [Codec::Snappy, Codec::Lz4] {
        let topic = kafka.fresh_topic("noise", PARTITIONS, &[])?;
        runtime().block_on(async {
            let batcher = batcher(kafka, |_, defaults| compresses(defaults, (codec, None))).await;
            send_all(batcher, &topic, &lines).await
        });
        java_reads(kafka, &topic, &lines)?;
        if kafka.is_ours() {
            assert!(
                kafka.dump_log(&topic)?.batches.iter().all(|batch| batch.compress_codec == "none"),
                "{codec}"
            );
        }
    }
    Ok(())
}

fn poison(kafka: &RealKafka) -> Result<(), Error> {
    for codec in CODECS {
        let topic = kafka.fresh_topic("poison", 1, &[("cleanup.policy", "compact")])?;
        let outcomes = runtime().block_on(async {
            let batcher = batcher(kafka, |_, defaults| {
                compresses(defaults, (codec, None));
                defaults.max_wait_time = Duration::from_secs(60);
                defaults.batch_size = 1_000;
            })
            .await;
            let collector = batcher.collector(&topic).build().expect("a collector");
            ready(&batcher, &topic).await;
            let mut receipts = Vec::new();
            for (n, line) in lines(1_000).iter().enumerate() {
                let key = format!("key-{n}");
                // A compacted topic takes no event without a key.
                let record = if n == 500 { Record::value(line) } else { Record::keyed(&key, line) };
                receipts.push(collector.send(record).await.expect("accepted"));
            }
            let report = batcher.shutdown(LONG).await;
            assert!(report.balances() && (report.delivered, report.lost) == (999, 1), "{report:?}");
            receipts.iter().map(|receipt| receipt.try_delivered().expect("it is over")).collect::<Vec<_>>()
        });
        for (n, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(delivery) if n != 500 => assert_eq!(delivery.offset, Some(n as i64 - i64::from(n > 500))),
                Err(ReceiptError::Failed(error)) if n == 500 => {
                    assert_eq!(error.reason, FailureReason::Rejected)
                }
                other => panic!("event {n}: {other:?}"),
            }
        }
        let read = kafka.consume(&topic, Isolation::Committed)?;
        assert_eq!(read.len(), 999);
        if kafka.is_ours() {
            let dump = kafka.dump_log(&topic)?;
            let found: Vec<_> = dump.batches.iter().map(|b| (b.compress_codec.as_str(), b.count)).collect();
            assert_eq!(found, [(codec.name(), 999)]);
        }
    }
    Ok(())
}

fn too_large(kafka: &RealKafka) -> Result<(), Error> {
    let lines = lines(6_000);
    for codec in CODECS {
        let topic = kafka.fresh_topic("large", PARTITIONS, &[("max.message.bytes", "9000")])?;
        runtime().block_on(async {
            let batcher = batcher(kafka, |_, defaults| {
                compresses(defaults, (codec, None));
                defaults.batch_size = 6_000;
                defaults.max_wait_time = Duration::from_secs(60);
            })
            .await;
            send_all(batcher, &topic, &lines).await
        });
        java_reads(kafka, &topic, &lines)?;
        if kafka.is_ours() {
            let dump = kafka.dump_log(&topic)?;
            assert!(dump.batches.len() > 3 * PARTITIONS as usize, "{codec}: {} batches", dump.batches.len());
            assert!(
                dump.batches.iter().all(|b| b.compress_codec == codec.name() && b.size <= 9_000),
                "{codec}"
            );
        }
    }
    Ok(())
}

fn waited(kafka: &RealKafka) -> Result<(), Error> {
    let lines = lines(3_000);
    let topic = format!("{}-late", kafka.fresh_topic("waited", 1, &[])?);
    let runtime = runtime();
    let collect = |dir: Option<&Path>| {
        runtime.block_on(async {
            let mut builder = KafkaBatcher::builder(kafka.addresses())
                .settings(|s| s.retry_backoff_max = Duration::from_millis(250))
                .collector_defaults(|c| compresses(c, (Codec::Zstd, None)));
            if let Some(dir) = dir {
                builder = builder.spool(dir).spool_mode(SpoolMode::Always);
            }
            let batcher = builder.start().await.expect("the batcher starts");
            let collector = batcher.collector(&topic).build().expect("a collector");
            for (line, partition) in lines.iter().zip((0..PARTITIONS as i32).cycle()) {
                collector.add_event(Record::value(line).with_partition(partition)).await.expect("accepted");
            }
            batcher
        })
    };
    for on_disk in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let batcher = collect(on_disk.then_some(dir.path()));
        if on_disk {
            runtime.block_on(async {
                while batcher.report().await.spooled < 3_000 {
                    tokio::task::yield_now().await;
                }
            });
        }
        kafka.create_topic(&topic, PARTITIONS, 1, &[])?;
        let report = runtime.block_on(async {
            let drained = async {
                loop {
                    let report = batcher.report().await;
                    if report.delivered == 3_000 {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(LONG, drained).await.expect("they are delivered");
            batcher.shutdown(LONG).await
        });
        assert!(report.balances() && report.all_delivered(), "{report:?}");
        java_reads(kafka, &topic, &lines)?;
        if kafka.is_ours() {
            let dump = kafka.dump_log(&topic)?;
            assert!(dump.batches.iter().all(|batch| batch.compress_codec == "zstd"), "on disk: {on_disk}");
        }
        kafka.delete_topic(&topic)?;
    }
    Ok(())
}

fn replayed(kafka: &RealKafka) -> Result<(), Error> {
    if !kafka.is_ours() {
        return Ok(());
    }
    for mode in [SpoolMode::OnFailure, SpoolMode::Always] {
        for (way, signal) in CODECS.into_iter().zip([Signal::Term, Signal::Kill].into_iter().cycle()) {
            let topic = kafka.fresh_topic("replayed", PARTITIONS, &[])?;
            let lines = lines(9_000);
            let dir = tempfile::tempdir().expect("a directory");
            let start = |dir: &Path| {
                let dir = dir.to_owned();
                let topic = topic.clone();
                async move {
                    let batcher = KafkaBatcher::builder(kafka.addresses())
                        .settings(|s| {
                            s.retry_backoff = Duration::from_millis(20);
                            s.retry_backoff_max = Duration::from_millis(250);
                            s.request_timeout = Duration::from_secs(2);
                        })
                        .collector_defaults(|c| {
                            compresses(c, (way, None));
                            // All batches are full ones: what holds only a few events may not shrink, and then goes plain.
                            c.batch_size = 50;
                            c.max_wait_time = LONG;
                        })
                        .spool(dir)
                        .spool_mode(mode)
                        .spool_after(Duration::from_millis(200))
                        .start()
                        .await
                        .expect("it starts");
                    let collector = batcher.collector(topic.as_str()).build().expect("a collector");
                    ready(&batcher, &topic).await;
                    (batcher, collector)
                }
            };
            let runtime = runtime();
            let (batcher, collector) = runtime.block_on(start(dir.path()));
            let send = |collector: kafka_batcher::Collector, range: std::ops::Range<usize>| {
                let lines = &lines;
                async move {
                    let mut receipts = Vec::new();
                    for n in range {
                        let partition = n as i32 % PARTITIONS as i32;
                        let record = Record::value(&lines[n]).with_partition(partition);
                        receipts.push(collector.send(record).await.expect("accepted"));
                    }
                    for receipt in &receipts {
                        let durable = tokio::time::timeout(LONG, receipt.durable()).await;
                        durable.expect("it becomes durable").expect("it is durable");
                    }
                }
            };
            runtime.block_on(send(collector.clone(), 0..3_000));
            kafka.kill(1, signal)?;
            runtime.block_on(send(collector.clone(), 3_000..6_000));
            // Dropped, a batcher saves what it has in memory, and writes down what it knows to be delivered; killed, it does not.
            let left = killed::what_a_kill_leaves(dir.path());
            drop((batcher, collector));
            drop(runtime);
            kafka.restart(1)?;
            let runtime = self::runtime();
            let report = runtime.block_on(async {
                let (batcher, collector) = start(left.path()).await;
                send(collector, 6_000..9_000).await;
                while !batcher.report().await.all_delivered() {
                    tokio::task::yield_now().await;
                }
                batcher.shutdown(LONG).await
            });
            assert!(report.balances() && report.all_delivered() && report.recovered > 0, "{report:?}");
            assert_eq!(report.possible_duplicates, 0, "{report:?}");
            java_reads(kafka, &topic, &lines)?;
            let dump = kafka.dump_log(&topic)?;
            assert!(dump.batches.iter().all(|batch| batch.compress_codec == way.name()), "{way} {mode:?}");
            println!(
                "{way} {mode:?} {signal:?}: {} found on disk, all there once, in order",
                report.recovered
            );
        }
    }
    Ok(())
}
