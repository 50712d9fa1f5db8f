//! The native producer against a real Kafka of three brokers; what it wrote is read back by Kafka's own Java tools.

mod client_support;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use client_support::*;
use kafka_batcher::producer::native::NativeProducer;
use kafka_batcher::producer::{MissingTopic, ProduceRequest, Producer};
use kafka_batcher_core::{
    ErrorClass, ErrorCode, ProduceAnswer, ProduceResult, ProducerIdentity, ProducerState, TopicId,
};
use kafka_batcher_testkit::{Error, Isolation, Options, Outcome, RealKafka, Signal, Suite, Tally};

fn main() -> ExitCode {
    // Longer than a busy broker is silent.
    Suite::new(Options::three_brokers().session_timeout(Duration::from_secs(6)))
        .test("batches of many partitions are valid on disk and read by java", many_partitions)
        .test("the partition knows the numbers of a batch and recognises its resend", recognised)
        .test("a missing topic a bad name and a batch too large are refused as they should be", refusals)
        .test("acks 0 and 1 are written", acks)
        .test("a moved leader and new partitions are followed", moves)
        .test("a recreated topic takes nothing by its old id", recreated)
        .test_alone("when a leader is killed the next one is found", killed)
        .run()
}

/// Runs a test's async part.
fn within<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

async fn ready(kafka: &RealKafka, topic: &str) -> NativeProducer {
    let producer = producer(kafka.bootstrap());
    assert_eq!(producer.connect().await.unwrap().brokers.len(), 3);
    producer.topic(topic, MissingTopic::Refuse).await.unwrap();
    producer
}

/// Sends again and again. That nothing was written before the acknowledgement is seen by the offset.
async fn send_until_acked(
    producer: &NativeProducer,
    topic: &str,
    partition: i32,
    value: &str,
) -> ProduceAnswer {
    loop {
        let answer = send(producer, to(topic, partition, one(value))).await;
        if matches!(answer.result, ProduceResult::Acked { .. }) {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

/// A producer id; a Kafka that has just started says for a while that it cannot give one.
async fn identity(producer: &NativeProducer) -> ProducerIdentity {
    loop {
        match producer.init_producer_id().await {
            Ok(identity) => return identity,
            Err(error) => assert_eq!(error.class, ErrorClass::Retriable, "{error}"),
        }
    }
}

fn many_partitions(kafka: &RealKafka) -> Result<Outcome, Error> {
    let topic = kafka.fresh_topic("many", 12, &[])?;
    let mut expected: BTreeMap<i32, Vec<Vec<u8>>> = BTreeMap::new();
    within(async {
        let producer = ready(kafka, &topic).await;
        let identity = identity(&producer).await;
        for round in 0..5 {
            let mut groups: BTreeMap<i32, Vec<_>> = BTreeMap::new();
            for partition in 0..12 {
                let values: Vec<Vec<u8>> = (0..20)
                    .map(|n| format!("{round} {partition} {n} {}", "x".repeat(n * 300)).into_bytes())
                    .collect();
                let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
                let numbered = batch((identity.id, identity.epoch, round * 20), &slices);
                let leader = producer.leader(&topic, partition).unwrap();
                groups.entry(leader.node).or_default().push(to(&topic, partition, numbered));
                expected.entry(partition).or_default().extend(values);
            }
            assert_eq!(groups.len(), 3);
            for batches in groups.into_values() {
                let n = batches.len();
                let answers = producer.produce(request(batches)).await;
                assert_eq!(answers.len(), n);
                assert!(answers.iter().all(|answer| offset(answer) == i64::from(round) * 20), "{answers:?}");
            }
        }
        producer.close().await;
    });
    let mut seen: BTreeMap<i32, Vec<Vec<u8>>> = BTreeMap::new();
    for record in kafka.consume(&topic, Isolation::Committed)? {
        seen.entry(record.partition).or_default().push(record.value.unwrap_or_default());
    }
    Tally::compare(&expected, &seen).assert_clean();
    if kafka.is_ours() {
        let dump = kafka.dump_log(&topic)?;
        assert_eq!((dump.records(), dump.batches.len()), (1200, 60));
    }
    Ok(Outcome::Passed)
}

fn recognised(kafka: &RealKafka) -> Result<Outcome, Error> {
    let topic = kafka.fresh_topic("numbers", 1, &[])?;
    within(async {
        let producer = ready(kafka, &topic).await;
        let identity = identity(&producer).await;
        assert_ne!(producer.init_producer_id().await.unwrap(), identity);
        let ask = || producer.describe_producer(&topic, 0, identity.id);
        assert_eq!(ask().await.0, ProducerState::Unknown);
        let numbered = |first| batch((identity.id, identity.epoch, first), &[b"a", b"b"]);
        for (first, at) in [(0, 0), (2, 2), (0, 0), (4, 4)] {
            assert_eq!(offset(&send(&producer, to(&topic, 0, numbered(first))).await), at);
        }
        let (state, asked) = ask().await;
        assert_eq!(state, ProducerState::Known { epoch: identity.epoch, last_sequence: 5 });
        assert_eq!(asked, producer.leader(&topic, 0));
        let gap = send(&producer, to(&topic, 0, numbered(10))).await;
        let ProduceResult::Refused(refusal) = gap.result else { panic!("{gap:?}") };
        assert_eq!(refusal.code, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    });
    assert_eq!(kafka.producers(&topic, 0)?.len(), 1);
    Ok(Outcome::Passed)
}

fn refusals(kafka: &RealKafka) -> Result<Outcome, Error> {
    let topic = kafka.fresh_topic("small", 2, &[("max.message.bytes", "2000")])?;
    within(async {
        let producer = ready(kafka, &topic).await;
        let error = producer.topic("not-there", MissingTopic::Refuse).await.unwrap_err();
        assert_eq!(error.code, Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{error}");
        let error = producer.topic("no good!", MissingTopic::Refuse).await.unwrap_err();
        assert_eq!(error.code, Some(ErrorCode::INVALID_TOPIC_EXCEPTION), "{error}");
        let large = vec![to(&topic, 0, one(vec![7; 5000])), to(&topic, 1, one("small"))];
        let mut answers = Vec::new();
        for batch in large {
            answers.push(send(&producer, batch).await);
        }
        let ProduceResult::Refused(refusal) = &answers[0].result else { panic!("{answers:?}") };
        assert_eq!(refusal.code, ErrorCode::MESSAGE_TOO_LARGE);
        assert_eq!(offset(&answers[1]), 0);
    });
    Ok(Outcome::Passed)
}

fn acks(kafka: &RealKafka) -> Result<Outcome, Error> {
    let topic = kafka.fresh_topic("acks", 1, &[])?;
    within(async {
        let producer = ready(kafka, &topic).await;
        for acks in [0, 1, 0, 1] {
            let batches = vec![to(&topic, 0, one(format!("{acks}")))];
            let answers = producer.produce(ProduceRequest { acks, ..request(batches) }).await;
            assert!(matches!(answers[0].result, ProduceResult::Acked { .. }), "{answers:?}");
        }
        // What was written without an answer came before what was answered.
        assert_eq!(offset(&send(&producer, to(&topic, 0, one("last"))).await), 4);
    });
    assert_eq!(kafka.consume(&topic, Isolation::Committed)?.len(), 5);
    Ok(Outcome::Passed)
}

fn moves(kafka: &RealKafka) -> Result<Outcome, Error> {
    let topic = kafka.fresh_topic("moves", 1, &[])?;
    within(async {
        let producer = ready(kafka, &topic).await;
        offset(&send(&producer, to(&topic, 0, one("before"))).await);
        let old = producer.leader(&topic, 0).unwrap();
        let new = old.node % 3 + 1;
        tokio::task::block_in_place(|| kafka.move_leader(&topic, 0, new)).unwrap();
        let answer = send_until_acked(&producer, &topic, 0, "after").await;
        assert_eq!(offset(&answer), 1);
        let leader = answer.leader.unwrap();
        assert!(leader.node == new && leader.epoch > old.epoch, "{old:?} {leader:?}");
        tokio::task::block_in_place(|| kafka.grow_topic(&topic, 3)).unwrap();
        let mut found = producer.topic(&topic, MissingTopic::Refuse).await.unwrap();
        while found.partitions < 3 {
            found = producer.topic(&topic, MissingTopic::Refuse).await.unwrap();
        }
        until(&producer, "leaders of all", |producer| {
            (0..3).all(|partition| producer.leader(&topic, partition).is_some())
        })
        .await;
        offset(&send(&producer, to(&topic, 2, one("new"))).await);
    });
    Ok(Outcome::Passed)
}

fn recreated(kafka: &RealKafka) -> Result<Outcome, Error> {
    let topic = kafka.fresh_topic("again", 1, &[])?;
    within(async {
        let producer = ready(kafka, &topic).await;
        offset(&send(&producer, to(&topic, 0, one("old"))).await);
        let old = producer.leader(&topic, 0).unwrap().topic_id;
        assert_ne!(old, TopicId::default());
        tokio::task::block_in_place(|| {
            kafka.delete_topic(&topic).unwrap();
            kafka.create_topic(&topic, 1, 3, &[]).unwrap();
        });
        let answer = send_until_acked(&producer, &topic, 0, "new").await;
        assert_eq!(offset(&answer), 0);
        // Before Produce v13 a topic is known by its name alone (KIP-516).
        assert!(kafka.is_older_than((4, 1)) || answer.leader.unwrap().topic_id != old);
    });
    assert_eq!(kafka.consume(&topic, Isolation::Committed)?.len(), 1);
    Ok(Outcome::Passed)
}

fn killed(kafka: &RealKafka) -> Result<Outcome, Error> {
    if !kafka.is_ours() {
        return Ok(Outcome::lacks("a Kafka that may be killed"));
    }
    let topic = kafka.fresh_topic("killed", 3, &[])?;
    within(async {
        let mut settings = settings(kafka.bootstrap());
        settings.request_timeout = Duration::from_secs(10);
        let producer = NativeProducer::new(settings).unwrap();
        producer.topic(&topic, MissingTopic::Refuse).await.unwrap();
        for partition in 0..3 {
            offset(&send(&producer, to(&topic, partition, one("before"))).await);
        }
        let old = producer.leader(&topic, 0).unwrap();
        let node = u8::try_from(old.node).unwrap();
        tokio::task::block_in_place(|| kafka.kill(node, Signal::Kill)).unwrap();
        let answer = send_until_acked(&producer, &topic, 0, "after").await;
        assert_ne!(answer.leader.unwrap().node, old.node);
        assert_eq!(offset(&answer), 1);
        tokio::task::block_in_place(|| kafka.restart(node)).unwrap();
    });
    Ok(Outcome::Passed)
}
