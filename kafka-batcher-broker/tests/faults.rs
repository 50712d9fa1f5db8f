//! The faults, seen from a raw client: what was written, what was answered, and what happened to the connection.

mod support;

use std::time::Duration;

use kafka_batcher_broker::{Api, EmbeddedKafka, ErrorCode, Fault, ProducerMemory};
use kafka_protocol::messages::{ApiVersionsRequest, InitProducerIdRequest, ProduceRequest, ProducerId};
use support::{Batch, Client, produce_request, rec, until};
use uuid::Uuid;

fn cluster(brokers: usize, partitions: i32) -> EmbeddedKafka {
    EmbeddedKafka::builder().brokers(brokers).topic("t", partitions).start().expect("a cluster")
}

/// A client of broker `id`.
fn to(kafka: &EmbeddedKafka, id: i32) -> Client {
    Client::connect(kafka.address(id).expect("a broker")).expect("a connection")
}

fn one(word: &str) -> bytes::Bytes {
    Batch::of([rec(word)]).bytes()
}

fn values(kafka: &EmbeddedKafka, partition: i32) -> Vec<String> {
    let value = |record: kafka_batcher_broker::Record| record.value.expect("a value").to_vec();
    kafka.log("t", partition).into_iter().map(value).map(|v| String::from_utf8(v).expect("text")).collect()
}

fn try_put(client: &mut Client, word: &str) -> std::io::Result<i16> {
    let request = produce_request(9, "t", Uuid::nil(), 0, Some(one(word)), -1);
    Ok(client.try_call(9, &request)?.responses[0].partition_responses[0].error_code)
}

#[test]
fn at_every_point_a_lost_request_is_not_written_and_a_lost_answer_is() {
    for k in 1..=4 {
        for (fault, written) in [(Fault::lose_request(), false), (Fault::lose_answer(), true)] {
            let kafka = cluster(1, 1);
            let id = kafka.inject(fault.on(Api::Produce).partition("t", 0).nth(k));
            let mut client = to(&kafka, 1);
            for n in 1..=4 {
                let answer = try_put(&mut client, &n.to_string());
                if n == k {
                    assert!(answer.is_err(), "{k}: {answer:?}");
                    client = to(&kafka, 1);
                } else {
                    assert_eq!(answer.unwrap(), 0);
                }
            }
            let expected: Vec<String> =
                (1..=4).filter(|n| *n != k || written).map(|n: u64| n.to_string()).collect();
            assert_eq!(values(&kafka, 0), expected);
            assert_eq!((kafka.fault_hits(id), kafka.stats().faults), (1, 1));
            assert_eq!(kafka.stats().requests(Api::Produce), 4);
        }
    }
}

#[test]
fn at_every_point_a_broker_can_be_stopped_before_or_after_it_writes() {
    for k in 1..=3 {
        for after in [false, true] {
            let kafka = cluster(1, 1);
            let stop = |kafka: &EmbeddedKafka| kafka.stop_broker(1).expect("broker 1");
            let fault = if after { Fault::call_after(stop) } else { Fault::call_before(stop) };
            kafka.inject(fault.on(Api::Produce).nth(k));
            let mut client = to(&kafka, 1);
            for n in 1..k {
                assert_eq!(try_put(&mut client, &n.to_string()).unwrap(), 0);
            }
            assert!(try_put(&mut client, "last").is_err());
            assert!(Client::connect(kafka.address(1).unwrap()).is_err(), "nothing listens");
            let expected = k - 1 + u64::from(after);
            assert_eq!(values(&kafka, 0).len() as u64, expected);
            kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
            assert_eq!(try_put(&mut to(&kafka, 1), "again").unwrap(), 0, "on the same port");
            assert_eq!(kafka.log("t", 0).len() as u64, expected + 1);
        }
    }
}

#[test]
fn an_ordered_error_spares_the_neighbours_and_writes_nothing_unless_asked_to() {
    let kafka = cluster(1, 2);
    let mut client = to(&kafka, 1);
    kafka.inject(Fault::answer(19).on(Api::Produce).partition("t", 1).times(2));
    assert_eq!(client.put("t", 0, one("a")).0, 0);
    assert_eq!(client.put("t", 1, one("a")), (19, -1));
    assert_eq!(client.put("t", 1, one("a")).0, 19);
    assert_eq!(client.put("t", 1, one("b")), (0, 0));
    kafka.inject(Fault::answer_after_append(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND).on(Api::Produce));
    assert_eq!(client.put("t", 1, one("c")).0, 20);
    assert_eq!(values(&kafka, 1), ["b", "c"]);
    assert_eq!(kafka.stats().refused, 0, "the broker itself refused nothing");
}

#[test]
fn any_api_can_be_made_to_fail() {
    let kafka = cluster(1, 1);
    let mut client = to(&kafka, 1);
    kafka.inject(Fault::answer(15).on(Api::InitProducerId));
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(1)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let answer = client.call(4, &request);
    assert_eq!((answer.error_code, answer.producer_id.0, answer.producer_epoch), (15, -1, -1));
    assert_eq!(client.producer_id(), 0, "the next one is served, and ids begin at 0");
    let refusal = kafka.refuse_describe_producers();
    assert_eq!(client.describe_producers("t", 0).error_code, 29);
    assert_eq!(client.describe_producers("t", 0).error_code, 29);
    kafka.remove_fault(refusal);
    assert_eq!(client.describe_producers("t", 0).error_code, 0);
    kafka.inject(Fault::answer(5).on(Api::Metadata).topic("t"));
    assert_eq!(client.metadata("t").topics[0].error_code, 5);
    kafka.inject(Fault::answer(35).on(Api::ApiVersions));
    assert_eq!(client.call(0, &ApiVersionsRequest::default()).error_code, 35);
    kafka.inject(Fault::answer(7).on(Api::ListOffsets));
    assert_eq!(client.list_offset("t", 0, -1).error_code, 7);
    kafka.inject(Fault::answer(56).on(Api::Fetch));
    assert_eq!(client.fetch("t", 0, 0).error_code, 56);
    kafka.inject(Fault::answer(44).on(Api::CreateTopics));
    assert_eq!(client.try_create("u", 1, &[]), 44);
}

#[test]
fn a_silenced_connection_stays_open_and_only_never_answer_writes() {
    let kafka = cluster(1, 1);
    kafka.inject(Fault::never_serve().on(Api::Produce));
    kafka.inject(Fault::never_answer().on(Api::Produce).nth(2));
    let (mut first, mut second) = (to(&kafka, 1), to(&kafka, 1));
    let send = |client: &mut Client, word| {
        client.send(9, &produce_request(9, "t", Uuid::nil(), 0, Some(one(word)), -1)).unwrap();
    };
    send(&mut first, "never served");
    until(|| kafka.stats().faults == 1);
    send(&mut second, "never answered");
    until(|| kafka.log("t", 0).len() == 1);
    send(&mut second, "behind it");
    // Others go on, and nothing more comes of the two.
    assert_eq!(try_put(&mut to(&kafka, 1), "third").unwrap(), 0);
    assert_eq!(values(&kafka, 0), ["never answered", "third"]);
    until(|| kafka.open_connections(1) == 2);
}

#[test]
fn a_frozen_broker_says_nothing_until_it_is_thawed() {
    let kafka = cluster(2, 1);
    let mut client = to(&kafka, 1);
    assert_eq!(try_put(&mut client, "before").unwrap(), 0);
    kafka.freeze(1).unwrap();
    let number = client.send(9, &produce_request(9, "t", Uuid::nil(), 0, Some(one("frozen")), -1)).unwrap();
    // It accepts, too.
    let mut other = to(&kafka, 1);
    let waiting = other.send(0, &ApiVersionsRequest::default()).unwrap();
    assert_eq!(to(&kafka, 2).metadata("t").brokers.len(), 2, "its neighbour is well");
    assert_eq!(values(&kafka, 0), ["before"]);
    kafka.thaw(1).unwrap();
    let answer = client.receive::<ProduceRequest>(9, number).unwrap();
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 1);
    assert_eq!(other.receive::<ApiVersionsRequest>(0, waiting).unwrap().error_code, 0);
}

#[test]
fn a_delayed_request_holds_back_its_own_connection_and_no_other() {
    let kafka = cluster(1, 1);
    kafka.inject(Fault::delay(Duration::from_secs(3600)).on(Api::Produce));
    kafka.inject(Fault::delay_answer(Duration::from_secs(3600)).on(Api::Produce).nth(2));
    let (mut before, mut after) = (to(&kafka, 1), to(&kafka, 1));
    let send = |client: &mut Client, word| {
        client.send(9, &produce_request(9, "t", Uuid::nil(), 0, Some(one(word)), -1)).unwrap();
    };
    send(&mut before, "waits");
    until(|| kafka.stats().faults == 1);
    send(&mut after, "written");
    until(|| kafka.log("t", 0).len() == 1);
    assert_eq!(try_put(&mut to(&kafka, 1), "third").unwrap(), 0);
    assert_eq!(values(&kafka, 0), ["written", "third"]);
}

#[test]
fn a_throttled_answer_says_so() {
    let kafka = cluster(1, 1);
    kafka.inject(Fault::throttle(Duration::from_millis(20)).on(Api::Produce));
    let mut client = to(&kafka, 1);
    let mut put =
        || client.call(9, &produce_request(9, "t", Uuid::nil(), 0, Some(one("x")), -1)).throttle_time_ms;
    assert_eq!((put(), put()), (20, 0));
}

#[test]
fn an_idle_connection_can_be_dropped_while_the_broker_listens_on() {
    let kafka = cluster(1, 1);
    let mut client = to(&kafka, 1);
    assert_eq!(try_put(&mut client, "a").unwrap(), 0);
    kafka.drop_connections(1).unwrap();
    assert!(client.is_closed());
    assert_eq!(try_put(&mut to(&kafka, 1), "b").unwrap(), 0);
}
