//! The testkit itself against a real Kafka of three brokers: if one of these is wrong, so is what every other test says.

use std::collections::BTreeMap;
use std::process::ExitCode;

use kafka_batcher_testkit::{
    Error, Isolation, Kcat, Options, Outcome, RealKafka, Signal, Suite, Tally, ToProduce, Transaction,
};

fn main() -> ExitCode {
    Suite::new(Options::three_brokers())
        .test("what java produces java and kcat read back byte for byte", java_to_java_and_kcat)
        .test("what kcat produces compressed is read by java and valid on disk", kcat_to_java)
        .test("lines pass the console producer and the console consumer", console)
        .test("records of an aborted transaction are seen uncommitted only", transactions)
        .test("java says where a key goes and what its murmur2 is", keys)
        .test("topics are created grown configured and deleted", topics)
        .test("a refusal of kafka names its exception", refusals)
        .test("a leader moves to the broker asked for", leader_moves)
        .test("the partition knows its idempotent producer", producers)
        .test_alone("a flipped byte on disk is not valid", flipped_byte)
        .test_alone("a frozen broker loses its leaders and comes back", freeze)
        .test_alone("killed brokers lose their leaders and catch up after restart", kill_and_restart)
        .test_alone("what a test leaves down is mended for the next", left_down)
        .test_alone("all brokers serve after the test before", all_serve)
        .run()
}

fn record(partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> ToProduce {
    ToProduce {
        partition: Some(partition),
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        ..ToProduce::default()
    }
}

fn java_to_java_and_kcat(kafka: &RealKafka) -> Result<Outcome, Error> {
    let topic = kafka.fresh_topic("java", 2, &[])?;
    let mut sent = vec![
        record(0, None, Some(b"")),
        record(1, Some(b""), None),
        record(0, Some(b"k\n"), Some(&[0, 255, b'\n', 10])),
    ];
    sent[2].timestamp = Some(1_700_000_000_123);
    sent[2].headers =
        vec![("h".into(), None), ("h".into(), Some(vec![0xff])), ("e".into(), Some(Vec::new()))];
    let offsets = kafka.produce(&topic, &sent, Transaction::None, &[])?;
    assert_eq!(offsets, vec![(0, 0), (1, 0), (0, 1)]);

    let read = kafka.consume(&topic, Isolation::Committed)?;
    assert_eq!(read.len(), 3);
    for (record, from) in read.iter().zip([&sent[0], &sent[2], &sent[1]]) {
        assert_eq!((&record.key, &record.value, &record.headers), (&from.key, &from.value, &from.headers));
        assert_eq!(Some(record.partition), from.partition);
    }
    assert_eq!((read[1].timestamp, read[1].timestamp_type.as_str()), (1_700_000_000_123, "CreateTime"));

    let kcat = match Kcat::find() {
        Ok(kcat) => kcat,
        Err(outcome) => return Ok(outcome),
    };
    for (by_kcat, by_java) in kcat.consume(kafka.bootstrap(), &topic)?.iter().zip(&read) {
        assert_eq!(
            (by_kcat.partition, by_kcat.offset, by_kcat.timestamp, &by_kcat.key, &by_kcat.value),
            (by_java.partition, by_java.offset, by_java.timestamp, &by_java.key, &by_java.value)
        );
    }
    Ok(Outcome::Passed)
}

fn kcat_to_java(kafka: &RealKafka) -> Result<Outcome, Error> {
    let kcat = match Kcat::find() {
        Ok(kcat) => kcat,
        Err(outcome) => return Ok(outcome),
    };
    let topic = kafka.fresh_topic("kcat", 4, &[])?;
    let lines: String = (0..5000).map(|n| format!("key-{}\tvalue {n}\n", n % 97)).collect();
    let args =
        ["-K", "\t", "-z", "zstd", "-X", "enable.idempotence=true", "-X", "partitioner=murmur2_random"];
    kcat.produce(kafka.bootstrap(), &topic, &args, lines.as_bytes())?;

    let names: Vec<String> = (0..97).map(|n| format!("key-{n}")).collect();
    let places = kafka.partition_for_key(&names, 4)?;
    let mut expected: BTreeMap<i32, Vec<Vec<u8>>> = BTreeMap::new();
    for n in 0..5000 {
        expected.entry(places[n % 97]).or_default().push(format!("value {n}").into_bytes());
    }
    let mut seen: BTreeMap<i32, Vec<Vec<u8>>> = BTreeMap::new();
    for record in kafka.consume(&topic, Isolation::Uncommitted)? {
        seen.entry(record.partition).or_default().push(record.value.unwrap_or_default());
    }
    Tally::compare(&expected, &seen).assert_clean();
    if let Some(list) = seen.values_mut().next() {
        list.swap(0, 1);
        list.pop();
    }
    let spoilt = Tally::compare(&expected, &seen);
    assert_eq!(
        (spoilt.lost, spoilt.duplicated, spoilt.reordered, spoilt.unexpected),
        (1, 0, 1, 0),
        "{spoilt}"
    );

    if kafka.is_ours() {
        let dump = kafka.dump_log(&topic)?;
        assert_eq!(dump.records(), 5000);
        for b in &dump.batches {
            assert_eq!((b.magic, b.compress_codec.as_str(), b.is_transactional), (2, "zstd", false), "{b:?}");
            assert!(b.producer_id >= 0 && b.producer_epoch == 0, "{b:?}");
            assert_eq!(b.last_sequence - b.base_sequence, b.count as i32 - 1, "{b:?}");
        }
        // Each replica holds the same bytes, whoever leads.
        let of_first: Vec<u32> = kafka.dump_replica(1, &topic, 0)?.batches.iter().map(|b| b.crc).collect();
        let of_leader: Vec<u32> = dump.partition(0).map(|b| b.crc).collect();
        assert_eq!(of_first, of_leader);
    }
    Ok(Outcome::Passed)
}

fn console(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("console", 1, &[])?;
    let values: Vec<String> = (0..20).map(|n| format!("line {n} ä")).collect();
    kafka.console_producer(&topic, &values)?;
    let read = kafka.console_consumer(&topic, 20)?;
    assert_eq!(read, values.iter().map(|v| v.as_bytes().to_vec()).collect::<Vec<_>>());
    Ok(())
}

fn transactions(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("transactions", 1, &[])?;
    kafka.produce(&topic, &[record(0, None, Some(b"kept"))], Transaction::Commit, &[])?;
    kafka.produce(&topic, &[record(0, None, Some(b"aborted"))], Transaction::Abort, &[])?;
    let values = |isolation| -> Result<Vec<_>, Error> {
        Ok(kafka.consume(&topic, isolation)?.into_iter().filter_map(|r| r.value).collect())
    };
    assert_eq!(values(Isolation::Committed)?, vec![b"kept".to_vec()]);
    assert_eq!(values(Isolation::Uncommitted)?, vec![b"kept".to_vec(), b"aborted".to_vec()]);
    // Each transaction ends with a marker, which takes an offset, and is written after the client was told.
    while kafka.offsets(&topic)?[0].latest < 4 {}
    assert_eq!(kafka.offsets(&topic)?[0].latest, 4);
    Ok(())
}

fn keys(kafka: &RealKafka) -> Result<(), Error> {
    // Kafka's own UtilsTest.
    assert_eq!(
        kafka.murmur2(&["21", "foobar", "a-little-bit-long-string"])?,
        vec![-973_932_308, -790_332_482, -985_981_536]
    );
    // The same by hand: murmur2 without its sign, modulo the count.
    assert_eq!(kafka.partition_for_key(&["21"], 16)?, vec![(-973_932_308_i32 & i32::MAX) % 16]);
    Ok(())
}

fn topics(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("topics", 1, &[("max.message.bytes", "5000")])?;
    assert!(kafka.topics()?.contains(&topic));
    let too_large = kafka.produce(&topic, &[record(0, None, Some(&[0; 6000]))], Transaction::None, &[]);
    assert!(
        matches!(&too_large, Err(Error::Kafka { kind, .. }) if kind == "RecordTooLargeException"),
        "{too_large:?}"
    );
    kafka.alter_topic_configs(&topic, &[("max.message.bytes", "7000")])?;
    kafka.produce(&topic, &[record(0, None, Some(&[0; 6000]))], Transaction::None, &[])?;
    kafka.grow_topic(&topic, 3)?;
    assert_eq!(kafka.describe(&topic)?.partitions.len(), 3);
    kafka.delete_topic(&topic)?;
    assert!(!kafka.topics()?.contains(&topic));
    Ok(())
}

fn refusals(kafka: &RealKafka) -> Result<(), Error> {
    let unknown = kafka.describe("no-such-topic");
    assert!(
        matches!(&unknown, Err(Error::Kafka { kind, .. }) if kind == "UnknownTopicOrPartitionException"),
        "{unknown:?}"
    );
    let invalid = kafka.create_topic("no good name", 1, 1, &[]);
    assert!(
        matches!(&invalid, Err(Error::Kafka { kind, .. }) if kind == "InvalidTopicException"),
        "{invalid:?}"
    );
    Ok(())
}

fn leader_moves(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("moves", 2, &[])?;
    for node in kafka.nodes()? {
        kafka.move_leader(&topic, 1, node.id)?;
        assert_eq!(kafka.leader(&topic, 1)?, node.id);
    }
    Ok(())
}

fn producers(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("producers", 1, &[])?;
    assert_eq!(kafka.producers(&topic, 0)?, Vec::new());
    let three = vec![record(0, None, Some(b"x")); 3];
    kafka.produce(&topic, &three, Transaction::None, &[])?;
    let known = kafka.producers(&topic, 0)?;
    assert_eq!(known.iter().map(|p| (p.epoch, p.last_sequence)).collect::<Vec<_>>(), vec![(0, 2)]);
    Ok(())
}

fn flipped_byte(kafka: &RealKafka) -> Result<(), Error> {
    use std::os::unix::fs::FileExt;
    let topic = kafka.fresh_topic("flipped", 1, &[])?;
    kafka.produce(&topic, &[record(0, None, Some(b"some value"))], Transaction::None, &[])?;
    let whole = kafka.dump_log(&topic)?;
    let batch = &whole.batches[0];
    let file = std::fs::OpenOptions::new().write(true).open(&batch.file).expect("the segment");
    file.write_all_at(b"?", batch.size - 3).expect("one byte");
    let flipped = kafka.dump_log(&topic);
    assert!(matches!(&flipped, Err(Error::BadLog(why)) if why.contains("not valid")), "{flipped:?}");
    kafka.delete_topic(&topic)
}

fn freeze(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("frozen", 1, &[])?;
    kafka.move_leader(&topic, 0, 2)?;
    kafka.freeze(2)?;
    let state = kafka.wait_leader_other_than(&topic, 0, 2)?;
    assert_ne!(state.partitions[0].leader, 2);
    kafka.thaw(2)?;
    kafka.wait_isr(&topic, 3)?;
    Ok(())
}

fn kill_and_restart(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("killed", 1, &[])?;
    for (node, signal) in [(1, Signal::Term), (2, Signal::Kill), (3, Signal::Kill)] {
        kafka.move_leader(&topic, 0, i32::from(node))?;
        kafka.kill(node, signal)?;
        kafka.wait_leader_other_than(&topic, 0, i32::from(node))?;
        // min.insync.replicas = 2: the two that are left take it.
        kafka.produce(&topic, &[record(0, None, Some(&[node]))], Transaction::None, &[])?;
        kafka.restart(node)?;
        kafka.wait_isr(&topic, 3)?;
    }
    let values: Vec<_> =
        kafka.consume(&topic, Isolation::Committed)?.into_iter().filter_map(|r| r.value).collect();
    assert_eq!(values, vec![vec![1], vec![2], vec![3]]);
    Ok(())
}

fn left_down(kafka: &RealKafka) -> Result<(), Error> {
    kafka.kill(3, Signal::Kill)?;
    kafka.freeze(1)
}

fn all_serve(kafka: &RealKafka) -> Result<(), Error> {
    let mut ids: Vec<i32> = kafka.nodes()?.iter().map(|n| n.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, vec![1, 2, 3]);
    Ok(())
}
