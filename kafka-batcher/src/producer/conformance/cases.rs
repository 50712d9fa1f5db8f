//! The sentences of the trait, one by one.

use std::sync::Arc;

use kafka_batcher_core::{Codec, Compression, Compressor, ErrorCode, ProduceResult};

use super::{
    Cluster, Logged, OwnedHeader, OwnedRecord, batch, event, learn, now, offset, ready, request, send, to,
    values,
};
use crate::producer::{MissingTopic, Producer};
use crate::storage::conformance::sealed;

pub(super) async fn connects_twice(cluster: &dyn Cluster) {
    let topic = cluster.topic(1, None).await;
    let producer = cluster.producer();
    learn(&*producer, &topic).await;
    let first = producer.connect().await.unwrap_or_else(|error| panic!("it connects: {error}"));
    let second = producer.connect().await.unwrap_or_else(|error| panic!("it is connected: {error}"));
    assert!(!first.brokers.is_empty(), "a cluster has brokers: {first:?}");
    assert_eq!(first, second);
    producer.close().await;
}

pub(super) async fn unknown_topic(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    let missing = format!("{topic}-missing");
    for _ in 0..2 {
        let Err(error) = producer.topic(&missing, MissingTopic::Refuse).await else {
            panic!("{missing:?} does not exist, and asking for it does not create it");
        };
        assert!(error.message.contains(&missing), "the error says which topic: {error}");
    }
    assert_eq!(producer.leader(&missing, 0), None, "nobody leads it");
    producer.close().await;
}

pub(super) async fn topic(cluster: &dyn Cluster) {
    let topic = cluster.topic(3, None).await;
    let producer = cluster.producer();
    let version = producer.metadata_version();
    let before = *version.borrow();
    assert_eq!(producer.leader(&topic, 0), None, "nobody has asked yet");
    assert_eq!(learn(&*producer, &topic).await, 3, "partitions");
    assert_ne!(*version.borrow(), before, "the version moves when leaders come to be known");
    let info = producer.connect().await.unwrap_or_else(|error| panic!("it connects: {error}"));
    for partition in 0..3 {
        let leader = producer.leader(&topic, partition).map(|leader| leader.node);
        assert!(info.brokers.iter().any(|(node, _)| Some(*node) == leader), "{leader:?} is one of {info:?}");
    }
    assert_eq!(producer.leader(&topic, 3), None, "there is no partition 3");
    producer.close().await;
}

pub(super) async fn answers_in_order(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 3).await;
    // One event lies in partition 1 already, two in partition 2.
    send(&*producer, to(&topic, 1, batch(&["b0"]))).await;
    send(&*producer, to(&topic, 2, batch(&["c0", "c1"]))).await;
    let batches = vec![
        to(&topic, 2, batch(&["c2"])),
        to(&topic, 0, batch(&["a0", "a1", "a2"])),
        to(&topic, 1, batch(&["b1", "b2"])),
    ];
    let answers = producer.produce(request(-1, batches)).await;
    assert_eq!(answers.len(), 3, "one answer for each batch: {answers:?}");
    assert_eq!(answers.iter().map(offset).collect::<Vec<_>>(), [2, 0, 1], "where each begins");
    for (answer, partition) in answers.iter().zip([2, 0, 1]) {
        let node = answer.leader.map(|leader| leader.node);
        let leads = producer.leader(&topic, partition).map(|leader| leader.node);
        assert_eq!(node, leads, "the answer says who gave it: {answer:?}");
    }
    for (partition, expected) in
        [(0, vec!["a0", "a1", "a2"]), (1, vec!["b0", "b1", "b2"]), (2, vec!["c0", "c1", "c2"])]
    {
        let log = cluster.log(&topic, partition).await;
        assert_eq!(values(&log), expected, "partition {partition}");
        assert!((0..).zip(&log).all(|(at, logged)| logged.offset == at), "{log:?}");
    }
    producer.close().await;
}

pub(super) async fn every_kind_of_event(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 2).await;
    let header = |name: &str, value: Option<&[u8]>| OwnedHeader {
        name: name.to_owned(),
        value: value.map(<[u8]>::to_vec),
    };
    let kinds: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"\0\xff bytes")];
    let headers = [
        vec![],
        vec![header("h", None), header("h", Some(b"")), header("h", Some(b"\0\xff"))],
        vec![header("", Some(b"no name")), header("grüße", Some(b"z")), header("a", Some(b"a"))],
    ];
    let mut records = Vec::new();
    for key in kinds {
        for value in kinds {
            for headers in &headers {
                // Neither in order nor all different.
                let timestamp = now() - [0, 60_000, 7][records.len() % 3];
                let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                records.push(OwnedRecord {
                    timestamp,
                    key: owned(key),
                    value: owned(value),
                    headers: headers.clone(),
                });
            }
        }
    }
    // By themselves, too: each kind may be the first of a batch.
    let answer = send(&*producer, to(&topic, 0, sealed(&records))).await;
    assert_eq!(offset(&answer), 0);
    for record in &records {
        send(&*producer, to(&topic, 1, sealed(std::slice::from_ref(record)))).await;
    }
    for partition in 0..2 {
        let log: Vec<_> =
            cluster.log(&topic, partition).await.into_iter().map(|logged| logged.record).collect();
        for (found, sent) in log.iter().zip(&records) {
            assert_eq!(found, sent, "in the log, and as it was sent");
        }
        assert_eq!(log.len(), records.len());
    }
    producer.close().await;
}

pub(super) async fn large_batch(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    let names: Vec<_> = (0..5_000).map(|n| format!("{n} {}", "x".repeat(n % 150))).collect();
    let records: Vec<_> = names.iter().map(|name| event(name.as_str())).collect();
    let answer = send(&*producer, to(&topic, 0, sealed(&records))).await;
    assert!(matches!(answer.result, ProduceResult::Acked { .. }), "{answer:?}");
    assert!(values(&cluster.log(&topic, 0).await) == names, "all events, in order");
    producer.close().await;
}

pub(super) async fn keeps_the_order(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 2).await;
    // Its connection is up from then on.
    send(&*producer, to(&topic, 0, batch(&["first"]))).await;
    let names: Vec<_> = (0..60).map(|n| format!("{n}")).collect();
    let call = |name: &String| {
        let both = vec![to(&topic, 0, batch(&[name, "and"])), to(&topic, 1, batch(&[name]))];
        producer.produce(request(-1, both))
    };
    let calls: Vec<_> = names.iter().map(call).collect();
    for (n, answers) in (0..).zip(futures_util::future::join_all(calls).await) {
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert_eq!((offset(&answers[0]), offset(&answers[1])), (1 + 2 * n, n), "the places of call {n}");
    }
    let expected: Vec<_> = names.iter().flat_map(|name| [name.clone(), "and".to_owned()]).collect();
    assert_eq!(values(&cluster.log(&topic, 0).await)[1..], expected);
    assert_eq!(values(&cluster.log(&topic, 1).await), names);
    producer.close().await;
}

pub(super) async fn every_acks(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 3).await;
    for (partition, acks) in [(0, -1), (1, 1), (2, 0)] {
        for name in ["a", "b"] {
            let answers = producer.produce(request(acks, vec![to(&topic, partition, batch(&[name]))])).await;
            assert_eq!(answers.len(), 1, "{answers:?}");
            match (acks, &answers[0].result) {
                (0, ProduceResult::Acked { base_offset: None }) => {}
                (0, other) => panic!("with acks = 0 nobody says where it lies: {other:?}"),
                _ => assert_eq!(offset(&answers[0]), i64::from(name == "b")),
            }
            // Without an acknowledgement it is written a little later.
            let mut log = cluster.log(&topic, partition).await;
            while acks == 0 && log.len() <= usize::from(name == "b") {
                tokio::task::yield_now().await;
                log = cluster.log(&topic, partition).await;
            }
            assert_eq!(values(&log), &["a", "b"][..=usize::from(name == "b")], "acks {acks}");
        }
    }
    producer.close().await;
}

/// What no codec makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

pub(super) async fn too_large(cluster: &dyn Cluster) {
    let topic = cluster.topic(3, Some(2_000)).await;
    let producer = cluster.producer();
    learn(&*producer, &topic).await;
    for _ in 0..2 {
        let large = sealed(&[event(noise(4_000))]);
        let batches = vec![to(&topic, 0, batch(&["a"])), to(&topic, 1, large), to(&topic, 2, batch(&["c"]))];
        let answers = producer.produce(request(-1, batches)).await;
        assert_eq!(answers.len(), 3, "{answers:?}");
        match &answers[1].result {
            ProduceResult::Refused(refusal) if refusal.code == ErrorCode::MESSAGE_TOO_LARGE => {}
            other => panic!("it is refused with 10: {other:?}"),
        }
        offset(&answers[0]);
        offset(&answers[2]);
    }
    for (partition, expected) in [(0, vec!["a", "a"]), (1, vec![]), (2, vec!["c", "c"])] {
        assert_eq!(values(&cluster.log(&topic, partition).await), expected, "partition {partition}");
    }
    producer.close().await;
}

pub(super) async fn no_such_partition(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    let answers =
        producer.produce(request(-1, vec![to(&topic, 7, batch(&["x"])), to(&topic, 0, batch(&["a"]))])).await;
    assert_eq!(answers.len(), 2, "{answers:?}");
    let acked = matches!(answers[0].result, ProduceResult::Acked { .. });
    assert!(!acked, "there is no partition 7: {answers:?}");
    assert_eq!(offset(&answers[1]), 0);
    assert_eq!(values(&cluster.log(&topic, 0).await), ["a"]);
    producer.close().await;
}

pub(super) async fn every_codec(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    let mut expected = Vec::new();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd, Codec::None] {
        let names: Vec<_> = (0..100).map(|n| format!("{codec} {}", n % 7)).collect();
        let mut batch = sealed(&names.iter().map(|name| event(name.as_str())).collect::<Vec<_>>());
        let compression = Compression::new(codec, None).unwrap_or_else(|error| panic!("{error}"));
        let mut compressor = Compressor::new();
        if compressor.compress(&batch, compression).is_some() {
            assert!(compressor.put_into(&mut batch), "the suite's own batch");
        }
        assert_eq!(batch.codec(), codec, "the suite's own batch");
        let answer = send(&*producer, to(&topic, 0, batch)).await;
        assert_eq!(offset(&answer), expected.len() as i64, "{codec}");
        expected.extend(names);
    }
    let log = values(&cluster.log(&topic, 0).await);
    for codec in Codec::ALL {
        let of = |names: &[String]| names.iter().filter(|name| name.starts_with(codec.name())).count();
        assert_eq!(of(&log), of(&expected), "events of {codec} that were read back");
    }
    assert!(log == expected, "in their order");
    producer.close().await;
}

pub(super) async fn at_once(cluster: &dyn Cluster) {
    const TASKS: i32 = 4;
    const CALLS: usize = 25;
    let (producer, topic) = ready(cluster, TASKS).await;
    let producer: Arc<dyn Producer> = producer.into();
    let task = |partition: i32| {
        let (producer, topic) = (producer.clone(), topic.clone());
        tokio::spawn(async move {
            for n in 0..CALLS {
                let answer =
                    send(&*producer, to(&topic, partition, batch(&[&format!("{partition} {n}")]))).await;
                assert_eq!(offset(&answer), n as i64);
            }
        })
    };
    for ended in (0..TASKS).map(task).collect::<Vec<_>>() {
        ended.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    for partition in 0..TASKS {
        let expected: Vec<_> = (0..CALLS).map(|n| format!("{partition} {n}")).collect();
        assert_eq!(values(&cluster.log(&topic, partition).await), expected);
    }
    producer.close().await;
}

pub(super) async fn named_leader(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    send(&*producer, to(&topic, 0, batch(&["a"]))).await;
    let leader = producer.leader(&topic, 0).unwrap_or_else(|| panic!("somebody leads"));
    let mut meant = to(&topic, 0, batch(&["b"]));
    meant.leader = Some(leader);
    assert_eq!(offset(&send(&*producer, meant).await), 1, "it is the one that is meant");
    let mut others = [leader; 3];
    others[0].connection += 1;
    others[1].epoch += 1;
    others[2].node += 1;
    for other in others {
        let mut meant = to(&topic, 0, batch(&["x"]));
        meant.leader = Some(other);
        let answer = send(&*producer, meant).await;
        let not_sent = matches!(answer.result, ProduceResult::NotSent { .. });
        assert!(not_sent, "{leader:?} leads, and not {other:?}: {answer:?}");
    }
    assert_eq!(values(&cluster.log(&topic, 0).await), ["a", "b"]);
    producer.close().await;
}

pub(super) async fn closes_twice(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    send(&*producer, to(&topic, 0, batch(&["a"]))).await;
    producer.close().await;
    producer.close().await;
    let answer = send(&*producer, to(&topic, 0, batch(&["x"]))).await;
    assert!(matches!(answer.result, ProduceResult::NotSent { .. }), "it is closed: {answer:?}");
    let log: Vec<Logged> = cluster.log(&topic, 0).await;
    assert_eq!(values(&log), ["a"]);
    // Another one is not concerned.
    let other = cluster.producer();
    learn(&*other, &topic).await;
    assert_eq!(offset(&send(&*other, to(&topic, 0, batch(&["b"]))).await), 1);
    other.close().await;
}
