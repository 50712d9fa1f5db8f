//! Discard mode, whose answers are written by hand: read back by the codec.

mod support;

use bytes::Bytes;
use kafka_batcher_broker::{Api, EmbeddedKafka, Fault, Storage};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use support::{Batch, Client, name, produce_request, rec};
use uuid::Uuid;

fn broker() -> (EmbeddedKafka, Client) {
    let kafka = EmbeddedKafka::builder()
        .brokers(2)
        .topic("t", 4)
        .storage(Storage::Discard)
        .start()
        .expect("a broker");
    let client = Client::connect(kafka.address(1).expect("broker 1")).expect("a connection");
    (kafka, client)
}

fn batch(records: usize, size: usize) -> Bytes {
    Batch::of((0..records).map(|_| rec(vec![b'x'; size]))).bytes()
}

#[test]
fn every_version_is_acknowledged_with_growing_offsets_and_nothing_is_kept() {
    let (kafka, mut client) = broker();
    let id = kafka.topic_id("t").unwrap();
    for version in 3..=13 {
        let answer = client.produce_as(version, "t", id, 0, Some(batch(3, 10)), -1);
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, i64::from(version - 3) * 3),
            "version {version}"
        );
        assert_eq!((answer.log_append_time_ms, answer.error_message), (-1, None));
    }
    assert_eq!(kafka.offsets("t", 0), Some((0, 33)));
    assert_eq!(client.end("t", 0), 33);
    assert!(kafka.log("t", 0).is_empty());
    let stats = kafka.stats();
    assert_eq!((stats.batches, stats.records, stats.requests(Api::Produce)), (11, 33, 11));
}

#[test]
fn large_and_small_batches_of_many_partitions_come_through_pipelined() {
    let (kafka, mut client) = broker();
    kafka.move_leader("t", 1, 1).unwrap();
    kafka.move_leader("t", 3, 1).unwrap();
    let sizes = [1, 100, 70_000, 3_000_000];
    let data = |(index, size): (usize, &usize)| {
        PartitionProduceData::default().with_index(index as i32).with_records(Some(batch(2, *size)))
    };
    let topic = TopicProduceData::default()
        .with_name(name("t"))
        .with_partition_data(sizes.iter().enumerate().map(data).collect());
    for version in [7, 9] {
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(1).with_topic_data(vec![topic.clone()]);
        let numbers: Vec<i32> = (0..6).map(|_| client.send(version, &request).unwrap()).collect();
        for number in numbers {
            let answer = client.receive::<ProduceRequest>(version, number).unwrap();
            let codes: Vec<i16> =
                answer.responses[0].partition_responses.iter().map(|p| p.error_code).collect();
            assert_eq!(codes, [0, 0, 0, 0]);
        }
    }
    for partition in 0..4 {
        assert_eq!(kafka.offsets("t", partition), Some((0, 24)));
    }
}

#[test]
fn what_cannot_be_taken_is_refused() {
    let (kafka, mut client) = broker();
    assert_eq!(client.put("t", 1, batch(1, 1)).0, 6, "led by the other broker");
    assert_eq!(client.put("t", 9, batch(1, 1)).0, 3);
    assert_eq!(client.put("u", 0, batch(1, 1)).0, 3);
    assert_eq!(client.produce_as(13, "", Uuid::from_u128(9), 0, Some(batch(1, 1)), -1).error_code, 100);
    assert_eq!(client.put("t", 0, batch(1, 1).slice(..40)).0, 2);
    assert_eq!(client.produce_as(9, "t", Uuid::nil(), 0, None, -1).error_code, 2);
    kafka.move_leader("t", 1, 1).unwrap();
    assert_eq!(client.put("t", 1, batch(1, 1)).0, 0, "what was looked up is looked up again");
    assert_eq!(kafka.stats().refused, 6);
}

#[test]
fn acks_0_is_not_answered_and_faults_work_here_too() {
    let (kafka, mut client) = broker();
    client.send(9, &produce_request(9, "t", Uuid::nil(), 0, Some(batch(1, 50_000)), 0)).unwrap();
    assert_eq!(client.put("t", 0, batch(1, 50_000)), (0, 1));
    kafka.inject(Fault::answer(7).on(Api::Produce));
    assert_eq!(client.put("t", 0, batch(1, 50_000)).0, 7);
    assert_eq!(client.put("t", 0, batch(1, 50_000)), (0, 2));
    kafka.inject(Fault::lose_answer().on(Api::Produce));
    assert!(client.try_call(9, &produce_request(9, "t", Uuid::nil(), 0, Some(batch(1, 1)), -1)).is_err());
    assert_eq!(kafka.offsets("t", 0), Some((0, 4)));
    client = Client::connect(kafka.address(1).unwrap()).unwrap();
    client.send(9, &produce_request(9, "t", Uuid::nil(), 1, Some(batch(1, 1)), 0)).unwrap();
    assert!(client.is_closed(), "an error under acks 0");
}

#[test]
fn a_request_that_is_no_produce_at_all_costs_the_connection() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0, 0, 0, 30, 0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ] {
        let (_kafka, mut client) = broker();
        client.send_bytes(bytes).unwrap();
        client.send_bytes(&[0xff; 40]).unwrap();
        assert!(client.is_closed());
    }
}
