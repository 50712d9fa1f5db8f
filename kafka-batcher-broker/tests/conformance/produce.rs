//! Produce as it goes well, and its answer in every version.

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiVersionsRequest, ProduceRequest};
use uuid::Uuid;

use crate::support::batch::{Rec, split};
use crate::support::{Batch, name, now, produce_request, rec};
use crate::{Case, Target, fresh_name};

pub(crate) const CASES: &[Case] = &[
    ("every version of Produce writes and tells where", every_version),
    ("many partitions of many topics in one request", many_partitions),
    ("what was written is read back byte by byte, with its nulls, headers and times", bytes_kept),
    ("acks 0 is not answered, and an error under it costs the connection", acks_zero),
    ("acks 1 is answered, and acks 2 is refused with 21", other_acks),
    ("a topic or partition that does not exist is error 3, an unknown topic id 100", unknown_places),
    ("any leader epoch in a batch is fine and is overwritten", any_leader_epoch),
    ("the broker gives the time in a topic of LogAppendTime", log_append_time),
    ("a wrong largest time in the header is put right", max_time_corrected),
    ("offset deltas of an uncompressed batch are not looked at", offset_deltas),
    ("bytes behind the batch that are no batch are ignored", trailing_bytes),
    ("pipelined requests are answered in their order", pipelined),
];

fn every_version(target: &dyn Target) {
    let mut client = target.client();
    let topic = fresh_name();
    let id = client.create(&topic, 1, &[]);
    for version in 3..=13 {
        let batch = Batch::of([rec("a"), rec("b")]).bytes();
        let answer = client.produce_as(version, &topic, id, 0, Some(batch), -1);
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, i64::from(version - 3) * 2),
            "version {version}"
        );
        assert_eq!(answer.log_append_time_ms, -1);
        if version >= 5 {
            assert_eq!(answer.log_start_offset, 0);
        }
        assert!(answer.record_errors.is_empty());
        assert_eq!(answer.error_message, None);
    }
    assert_eq!(client.end(&topic, 0), 22);
}

fn many_partitions(target: &dyn Target) {
    let (mut client, one) = target.topic(3);
    let (_, two) = target.topic(2);
    let data = |partition: i32| {
        let batch = Batch::of([rec(format!("{partition}"))]).bytes();
        PartitionProduceData::default().with_index(partition).with_records(Some(batch))
    };
    let topic = |topic: &str, count| {
        TopicProduceData::default().with_name(name(topic)).with_partition_data((0..count).map(data).collect())
    };
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic(&one, 4), topic(&two, 2)]);
    let answer = client.call(9, &request);
    let codes: Vec<Vec<i16>> = answer
        .responses
        .iter()
        .map(|topic| {
            let mut partitions: Vec<_> =
                topic.partition_responses.iter().map(|p| (p.index, p.error_code)).collect();
            partitions.sort_unstable();
            partitions.into_iter().map(|(_, code)| code).collect()
        })
        .collect();
    let by_name = |wanted: &str| {
        answer.responses.iter().position(|topic| topic.name == name(wanted)).map(|at| &codes[at])
    };
    // Kafka may answer a topic in two parts: what it refused at once, and the rest.
    let all: usize = codes.iter().map(Vec::len).sum();
    assert_eq!(all, 6);
    assert_eq!(codes.concat().iter().filter(|code| **code == 3).count(), 1, "{codes:?}");
    assert_eq!(codes.concat().iter().filter(|code| **code == 0).count(), 5, "{codes:?}");
    assert!(by_name(&one).is_some() && by_name(&two).is_some());
    assert_eq!((client.end(&one, 2), client.end(&two, 1)), (1, 1));
}

fn bytes_kept(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let mut batch = Batch::of([
        Rec { key: None, value: None, ..Rec::default() },
        Rec { key: Some(vec![]), value: Some(vec![]), time_delta: -5, ..Rec::default() },
        Rec {
            key: Some(b"k".to_vec()),
            value: Some(vec![0xff; 300]),
            headers: vec![
                (b"h".to_vec(), Some(b"1".to_vec())),
                (b"h".to_vec(), None),
                (b"".to_vec(), Some(vec![])),
            ],
            time_delta: 7,
            ..Rec::default()
        },
    ]);
    assert_eq!(client.put(&topic, 0, batch.bytes()), (0, 0));
    batch.base_time = now() - 1_000_000_000;
    assert_eq!(client.put(&topic, 0, batch.bytes()), (0, 3), "an old time is fine");
    let read = split(&client.read_all(&topic, 0));
    assert_eq!(read.len(), 2);
    assert!(read.iter().all(|batch| batch.intact));
    // All but offset and leader epoch, which the broker gives.
    assert_eq!(read[1].bytes[16..], batch.bytes()[16..]);
    assert_eq!((read[0].base_offset, read[1].base_offset), (0, 3));
}

fn acks_zero(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let request = |partition| {
        produce_request(9, &topic, Uuid::nil(), partition, Some(Batch::of([rec("x")]).bytes()), 0)
    };
    client.send(9, &request(0)).unwrap();
    // The next answer on the connection is that of the next request.
    assert_eq!(client.call(0, &ApiVersionsRequest::default()).error_code, 0);
    assert_eq!(client.end(&topic, 0), 1);
    client.send(9, &request(7)).unwrap();
    assert!(client.is_closed());
}

fn other_acks(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let batch = || Some(Batch::of([rec("x")]).bytes());
    assert_eq!(client.produce_as(9, &topic, Uuid::nil(), 0, batch(), 1).error_code, 0);
    for acks in [2, -2] {
        let answer = client.produce_as(9, &topic, Uuid::nil(), 0, batch(), acks);
        assert_eq!((answer.error_code, answer.base_offset), (21, -1));
    }
    assert_eq!(client.end(&topic, 0), 1);
}

fn unknown_places(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let batch = Batch::of([rec("x")]).bytes();
    assert_eq!(client.put(&topic, 5, batch.clone()), (3, -1));
    assert_eq!(client.put(&fresh_name(), 0, batch.clone()), (3, -1));
    let unknown = Uuid::from_u128(0xabcd);
    assert_eq!(client.produce_as(13, "", unknown, 0, Some(batch.clone()), -1).error_code, 100);
    let id = client.metadata(&topic).topics[0].topic_id;
    assert_eq!(client.produce_as(13, "", id, 5, Some(batch), -1).error_code, 3);
}

fn any_leader_epoch(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    for (offset, leader_epoch) in [-1, 0, 77, i32::MIN].into_iter().enumerate() {
        let batch = Batch { leader_epoch, ..Batch::of([rec("x")]) };
        assert_eq!(client.put(&topic, 0, batch.bytes()), (0, offset as i64));
    }
    for batch in split(&client.read_all(&topic, 0)) {
        assert_eq!(batch.bytes[12..16], [0; 4], "the leader's epoch is 0");
    }
}

fn log_append_time(target: &dyn Target) {
    let mut client = target.client();
    let topic = fresh_name();
    client.create(&topic, 1, &[("message.timestamp.type", "LogAppendTime")]);
    let before = now();
    let batch = Batch { base_time: 5, ..Batch::of([rec("x"), rec("y")]) };
    let answer = client.produce(&topic, 0, batch.bytes());
    assert_eq!((answer.error_code, answer.base_offset), (0, 0));
    assert!((before - 1..=now() + 1).contains(&answer.log_append_time_ms), "{}", answer.log_append_time_ms);
    let read = split(&client.read_all(&topic, 0));
    assert!(read[0].intact);
    assert_eq!(read[0].attributes & 0x08, 0x08);
    assert_eq!(read[0].max_time, answer.log_append_time_ms);
    // A time far ahead is no matter: it is not the one that counts.
    let ahead = Batch { base_time: now() + 100_000_000, ..Batch::of([rec("x")]) };
    assert_eq!(client.put(&topic, 0, ahead.bytes()), (0, 2));
}

fn max_time_corrected(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let mut batch = Batch::of([rec("x"), Rec { time_delta: 9, ..rec("y") }]);
    batch.max_time = Some(3);
    assert_eq!(client.put(&topic, 0, batch.bytes()), (0, 0));
    let read = split(&client.read_all(&topic, 0));
    assert_eq!((read[0].max_time, read[0].intact), (batch.base_time + 9, true));
}

fn offset_deltas(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let odd = |offset_delta| Rec { offset_delta: Some(offset_delta), ..rec("x") };
    assert_eq!(client.put(&topic, 0, Batch::of([odd(7), odd(7)]).bytes()), (0, 0));
    assert_eq!(client.end(&topic, 0), 2);
}

fn trailing_bytes(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let batch = Batch::of([rec("x")]).bytes();
    let followed: Bytes = [&batch[..], &[0; 7]].concat().into();
    assert_eq!(client.put(&topic, 0, followed), (0, 0));
    let cut: Bytes = [&batch[..], &batch[..batch.len() - 1]].concat().into();
    assert_eq!(client.put(&topic, 0, cut), (0, 1), "a second batch that is not whole");
    assert_eq!(client.end(&topic, 0), 2);
}

fn pipelined(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let numbers: Vec<i32> = (0..20)
        .map(|n| {
            let batch = Batch::of([rec(format!("{n}"))]).bytes();
            client.send(9, &produce_request(9, &topic, Uuid::nil(), 0, Some(batch), -1)).unwrap()
        })
        .collect();
    for (offset, number) in numbers.into_iter().enumerate() {
        let answer = client.receive::<ProduceRequest>(9, number).unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, offset as i64);
    }
}
