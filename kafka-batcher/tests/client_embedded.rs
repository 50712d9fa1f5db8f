//! The native producer against the embedded broker: the way through, and everything that goes wrong on it.

mod client_support;

use std::time::{Duration, Instant};

use client_support::*;
use kafka_batcher::producer::native::NativeProducer;
use kafka_batcher::producer::{MissingTopic, ProduceRequest, Producer};
use kafka_batcher_broker::{Api, AutoCreate, EmbeddedKafka, ErrorCode as Code, Fault, ProducerMemory};
use kafka_batcher_core::{ErrorClass, ErrorCode, ProduceResult, ProducerState, TopicId};

fn one_broker(partitions: i32) -> EmbeddedKafka {
    EmbeddedKafka::builder().topic("flights", partitions).start().unwrap()
}

async fn ready(kafka: &EmbeddedKafka) -> NativeProducer {
    let producer = producer(&kafka.bootstrap());
    producer.connect().await.unwrap();
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    producer
}

fn values(kafka: &EmbeddedKafka, topic: &str, partition: i32) -> Vec<Vec<u8>> {
    kafka.log(topic, partition).into_iter().map(|record| record.value.unwrap().to_vec()).collect()
}

#[tokio::test]
async fn one_request_a_broker_carries_all_its_partitions_of_all_topics() {
    let kafka = EmbeddedKafka::builder().brokers(3).topic("flights", 8).topic("a", 3).start().unwrap();
    let producer = ready(&kafka).await;
    let cluster = producer.connect().await.unwrap();
    assert_eq!((cluster.brokers.len(), cluster.cluster_id), (3, Some(kafka.cluster_id())));
    assert_eq!(producer.topic("a", MissingTopic::Refuse).await.unwrap().partitions, 3);

    // Interleaved on purpose: topics and leaders in any order.
    let places: Vec<(&str, i32)> =
        (0..8).flat_map(|n| [("flights", n), ("a", n)]).filter(|(t, n)| *t != "a" || *n < 3).collect();
    let batches = places.iter().map(|(topic, n)| to(topic, *n, one(format!("{topic} {n}")))).collect();
    let before = kafka.stats();
    let answers = producer.produce(request(batches)).await;
    for ((topic, n), answer) in places.iter().zip(&answers) {
        assert_eq!(offset(answer), 0, "{topic}-{n}");
        let leader = answer.leader.unwrap();
        assert_eq!(Some((leader.node, leader.epoch)), kafka.leader(topic, *n));
        assert_eq!(leader.topic_id, TopicId(*kafka.topic_id(topic).unwrap().as_bytes()));
        assert_eq!(values(&kafka, topic, *n), [format!("{topic} {n}").into_bytes()]);
    }
    assert_eq!(produce_requests(&kafka) - requests_in(&before), 3);
}

fn requests_in(stats: &kafka_batcher_broker::Stats) -> u64 {
    stats.requests(Api::Produce)
}

fn produce_requests(kafka: &EmbeddedKafka) -> u64 {
    requests_in(&kafka.stats())
}

#[tokio::test]
async fn any_bootstrap_address_that_answers_is_enough() {
    let kafka = one_broker(1);
    let producer = producer(&format!("127.0.0.1:1,no-such-host.invalid,{}", kafka.bootstrap()));
    assert_eq!(producer.connect().await.unwrap().brokers.len(), 1);
}

#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    let kafka = one_broker(1);
    // It stands for 127.0.0.1 and, on most machines before that, for ::1, where nothing listens.
    let port = kafka.address(1).unwrap().port();
    let producer = producer(&format!("localhost:{port}"));
    assert_eq!(producer.connect().await.unwrap().brokers.len(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_written_in_the_order_of_the_calls() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    offset(&send(&producer, to("flights", 0, one("first"))).await);
    let calls: Vec<_> =
        (1..50).map(|n| producer.produce(request(vec![to("flights", 0, one(format!("{n}")))]))).collect();
    // Awaited last to first: the order is that of the calls.
    let mut offsets = Vec::new();
    for call in calls.into_iter().rev() {
        offsets.push(offset(&call.await[0]));
    }
    offsets.reverse();
    assert_eq!(offsets, (1..50).collect::<Vec<i64>>());
}

#[tokio::test]
async fn requests_that_go_out_in_several_are_written_in_the_order_of_the_calls_too() {
    let kafka = one_broker(3);
    let mut settings = settings(&kafka.bootstrap());
    settings.max_request_size = 100_000;
    let producer = NativeProducer::new(settings).unwrap();
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    offset(&send(&producer, to("flights", 0, one("before"))).await);
    let large = |n: u8| (0..3).map(|p| to("flights", p, one(vec![n; 60_000]))).collect();
    let several = producer.produce(request(large(1)));
    let single = producer.produce(request(vec![to("flights", 2, one("after"))]));
    // Awaited last to first: the order is that of the calls.
    assert_eq!(offset(&single.await[0]), 1);
    assert_eq!(several.await.iter().map(offset).collect::<Vec<_>>(), [1, 0, 0]);
}

#[tokio::test]
async fn a_request_above_the_limit_goes_out_in_several() {
    let kafka = one_broker(16);
    let mut settings = settings(&kafka.bootstrap());
    settings.max_request_size = 300_000;
    let producer = NativeProducer::new(settings).unwrap();
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    let value = |n: i32| vec![n as u8; 90_000];
    let batches = (0..16).map(|n| to("flights", n, one(value(n)))).collect();
    let answers = producer.produce(request(batches)).await;
    for (n, answer) in (0..).zip(&answers) {
        assert_eq!(offset(answer), 0);
        assert_eq!(values(&kafka, "flights", n), [value(n)]);
    }
    // Three of 90 000 bytes fit.
    assert_eq!(produce_requests(&kafka), 6);
}

#[tokio::test]
async fn a_batch_that_fits_no_request_is_refused_alone_and_its_neighbours_are_written() {
    let kafka = one_broker(3);
    let mut settings = settings(&kafka.bootstrap());
    settings.max_request_size = 100_000;
    let producer = NativeProducer::new(settings).unwrap();
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    let batches = vec![
        to("flights", 0, one("small")),
        to("flights", 1, one(vec![0; 200_000])),
        to("flights", 2, one("small")),
    ];
    let answers = producer.produce(request(batches)).await;
    assert_eq!((offset(&answers[0]), offset(&answers[2])), (0, 0));
    let ProduceResult::Refused(refusal) = &answers[1].result else { panic!("{answers:?}") };
    assert_eq!(refusal.code, ErrorCode::MESSAGE_TOO_LARGE);
    assert!(refusal.message.as_ref().unwrap().contains("max_request_size"), "{refusal}");
    assert_eq!(values(&kafka, "flights", 1).len(), 0);
}

#[tokio::test]
async fn requests_far_larger_than_the_sockets_buffer_arrive_whole() {
    let kafka = one_broker(8);
    let producer = ready(&kafka).await;
    let value =
        |n: i32, round: i32| -> Vec<u8> { (0..900_000).map(|at| (at * 7 + n + round) as u8).collect() };
    let calls: Vec<_> = (0..3)
        .map(|round| {
            let batches = (0..8).map(|n| to("flights", n, one(value(n, round)))).collect();
            producer.produce(request(batches))
        })
        .collect();
    for (round, call) in (0..).zip(calls) {
        assert!(call.await.iter().all(|answer| offset(answer) == round));
    }
    for n in 0..8 {
        assert_eq!(values(&kafka, "flights", n), (0..3).map(|round| value(n, round)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn without_acks_a_batch_is_delivered_when_it_is_written() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    let no_acks = ProduceRequest { acks: 0, ..request(vec![to("flights", 0, one("unasked"))]) };
    let answers = producer.produce(no_acks).await;
    assert_eq!(answers[0].result, ProduceResult::Acked { base_offset: None });
    assert!(answers[0].leader.is_some());
    // The next answer on the connection belongs to the next request, not to this one.
    assert_eq!(offset(&send(&producer, to("flights", 0, one("asked"))).await), 1);
    assert_eq!(values(&kafka, "flights", 0), [b"unasked".to_vec(), b"asked".to_vec()]);
}

#[tokio::test]
async fn a_broker_that_refuses_what_needs_no_answer_closes_and_nobody_is_sent_after_sasl() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    kafka.inject(Fault::lose_request().on(Api::Produce));
    let send = |acks| producer.produce(ProduceRequest { acks, ..request(vec![to("flights", 0, one("x"))]) });
    let (unasked, asked) = tokio::join!(send(0), send(1));
    assert_eq!(unasked[0].result, ProduceResult::Acked { base_offset: None });
    let ProduceResult::Lost { message } = &asked[0].result else { panic!("{asked:?}") };
    assert!(message.contains("with required_acks = 0") && !message.contains("SASL"), "{message}");
}

#[tokio::test]
async fn a_missing_topic_is_named_with_what_to_do() {
    let kafka = one_broker(1);
    let producer = producer(&kafka.bootstrap());
    let error = producer.topic("fligths", MissingTopic::Refuse).await.unwrap_err();
    assert_eq!((error.class, error.code), (ErrorClass::Unavailable, Some(ErrorCode(3))));
    assert!(
        error.message.contains("\"fligths\" does not exist") && error.message.contains("--create"),
        "{error}"
    );

    let error = producer.topic("bad name!", MissingTopic::Refuse).await.unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::INVALID_TOPIC_EXCEPTION), "{error}");
    assert!(error.message.contains("a-z A-Z 0-9"), "{error}");
    assert_eq!(kafka.topic_id("fligths"), None);
}

#[tokio::test]
async fn a_missing_topic_is_created_where_both_sides_allow_it() {
    let kafka = EmbeddedKafka::builder().auto_create(AutoCreate::On).start().unwrap();
    let producer = producer(&kafka.bootstrap());
    let mut found = producer.topic("new", MissingTopic::Create).await;
    for _ in 0..100 {
        match found {
            Err(error) if error.class == ErrorClass::Retriable => {
                found = producer.topic("new", MissingTopic::Create).await;
            }
            _ => break,
        }
    }
    assert!(found.unwrap().partitions > 0);
    assert_eq!(offset(&send(&producer, to("new", 0, one("x"))).await), 0);
}

#[tokio::test]
async fn nothing_is_sent_where_no_leader_is_known() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    for (topic, partition) in [("flights", 1), ("flights", -1), ("unheard-of", 0)] {
        let answer = send(&producer, to(topic, partition, one("x"))).await;
        let ProduceResult::NotSent { message } = &answer.result else { panic!("{answer:?}") };
        assert!(message.contains(&format!("{topic}-{partition}")), "{message}");
        assert_eq!(answer.leader, None);
    }
}

#[tokio::test]
async fn a_moved_leader_is_followed() {
    let kafka = EmbeddedKafka::builder().brokers(3).topic("flights", 1).start().unwrap();
    let producer = ready(&kafka).await;
    for round in 0..3 {
        let (old, epoch) = kafka.leader("flights", 0).unwrap();
        offset(&send(&producer, to("flights", 0, one("x"))).await);
        let new = old % 3 + 1;
        kafka.move_leader("flights", 0, new).unwrap();
        let answer = send(&producer, to("flights", 0, one("x"))).await;
        let ProduceResult::Refused(refusal) = &answer.result else { panic!("{round}: {answer:?}") };
        assert_eq!(refusal.code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
        assert_eq!(answer.leader.unwrap().node, old);
        until(&producer, "the new leader", |producer| {
            producer.leader("flights", 0).is_some_and(|leader| leader.node == new && leader.epoch > epoch)
        })
        .await;
    }
    assert_eq!(values(&kafka, "flights", 0).len(), 3);
}

#[tokio::test]
async fn a_lost_answer_is_a_loss_and_the_connection_has_a_new_number_by_then() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    offset(&send(&producer, to("flights", 0, one("before"))).await);
    let before = producer.leader("flights", 0).unwrap();
    for (fault, written) in [(Fault::lose_answer(), 1), (Fault::lose_request(), 0)] {
        let length = values(&kafka, "flights", 0).len();
        kafka.inject(fault.on(Api::Produce));
        let meant = producer.leader("flights", 0);
        let answer = send(&producer, to("flights", 0, one("in doubt"))).await;
        let ProduceResult::Lost { message } = &answer.result else { panic!("{answer:?}") };
        assert!(message.contains("broker 1 at 127.0.0.1:"), "{message}");
        assert_eq!(answer.leader, meant);
        assert_eq!(values(&kafka, "flights", 0).len(), length + written);
        assert!(producer.leader("flights", 0).unwrap().connection > meant.unwrap().connection);
        // The next one goes over a new connection, quietly.
        offset(&send(&producer, to("flights", 0, one("after"))).await);
    }
    assert_eq!(producer.leader("flights", 0).unwrap().connection, before.connection + 2);
}

#[tokio::test]
async fn a_batch_meant_for_a_connection_that_is_gone_is_not_sent() {
    let kafka = one_broker(2);
    let producer = ready(&kafka).await;
    offset(&send(&producer, to("flights", 0, one("before"))).await);
    let meant = producer.leader("flights", 0);
    kafka.inject(Fault::lose_request().on(Api::Produce));
    send(&producer, to("flights", 0, one("lost"))).await;

    let mut late = to("flights", 0, one("late"));
    late.leader = meant;
    let mut right = to("flights", 1, one("right"));
    right.leader = producer.leader("flights", 1);
    let answers = producer.produce(request(vec![late, right])).await;
    assert!(matches!(answers[0].result, ProduceResult::NotSent { .. }), "{answers:?}");
    assert_eq!(offset(&answers[1]), 0);
    assert_eq!(values(&kafka, "flights", 0), [b"before"]);
}

#[tokio::test]
async fn every_request_in_flight_is_lost_with_its_connection_and_each_is_answered() {
    let kafka = one_broker(4);
    let producer = ready(&kafka).await;
    offset(&send(&producer, to("flights", 0, one("before"))).await);
    let hit = kafka.inject(Fault::lose_request().on(Api::Produce));
    let calls: Vec<_> = (0..4).map(|n| producer.produce(request(vec![to("flights", n, one("x"))]))).collect();
    assert!(producer.in_flight(1).is_some_and(|n| n <= 4));
    let mut lost = 0;
    for (n, call) in (0..).zip(calls) {
        let result = &call.await[0].result;
        let written = values(&kafka, "flights", n).iter().filter(|value| value.as_slice() == b"x").count();
        match result {
            ProduceResult::Lost { .. } => lost += 1,
            ProduceResult::NotSent { .. } => assert_eq!(written, 0),
            // Handed over when the end of the connection had been noticed: it went over the next one.
            other => assert_eq!(*other, ProduceResult::Acked { base_offset: Some(i64::from(n == 0)) }),
        }
    }
    assert!(lost >= 1);
    assert_eq!(kafka.fault_hits(hit), 1);
    assert_eq!(producer.in_flight(1), Some(0));
}

#[tokio::test]
async fn a_broker_that_never_answers_is_given_up_after_request_timeout() {
    let kafka = one_broker(1);
    let mut settings = settings(&kafka.bootstrap());
    settings.request_timeout = Duration::from_millis(100);
    let producer = NativeProducer::new(settings).unwrap();
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    kafka.inject(Fault::never_answer().on(Api::Produce));
    let answer = send(&producer, to("flights", 0, one("x"))).await;
    let ProduceResult::Lost { message } = &answer.result else { panic!("{answer:?}") };
    assert!(message.contains("no answer within 100ms (request_timeout)"), "{message}");
    assert_eq!(offset(&send(&producer, to("flights", 0, one("y"))).await), 1);
}

#[tokio::test]
async fn what_was_not_written_when_the_connection_ends_is_not_sent() {
    let kafka = one_broker(1);
    let mut settings = settings(&kafka.bootstrap());
    settings.request_timeout = Duration::from_millis(300);
    let producer = NativeProducer::new(settings).unwrap();
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    offset(&send(&producer, to("flights", 0, one("before"))).await);
    // It reads no more: the socket's buffers fill, the rest waits here.
    kafka.freeze(1).unwrap();
    let calls: Vec<_> =
        (0..40).map(|_| producer.produce(request(vec![to("flights", 0, one(vec![7; 900_000]))]))).collect();
    let mut names = String::new();
    for call in calls {
        names.push(match &call.await[0].result {
            ProduceResult::Lost { .. } => 'L',
            ProduceResult::NotSent { .. } => 'N',
            other => panic!("{other:?}"),
        });
    }
    // First all that was written or begun, then all of which no byte left.
    assert!(names.starts_with('L') && names.ends_with('N') && !names.contains("NL"), "{names}");
    kafka.thaw(1).unwrap();
}

#[tokio::test]
async fn an_idle_connection_that_the_broker_closes_is_not_noticed() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    for n in 0..5 {
        assert_eq!(offset(&send(&producer, to("flights", 0, one("x"))).await), n);
        let before = producer.leader("flights", 0).unwrap().connection;
        kafka.drop_connections(1).unwrap();
        until(&producer, "the end of the connection", |producer| {
            producer.leader("flights", 0).unwrap().connection == before + 1
        })
        .await;
        // The questions' connection, too.
        producer.init_producer_id().await.unwrap();
    }
}

#[tokio::test]
async fn when_all_brokers_were_gone_the_cluster_is_found_again() {
    let kafka = EmbeddedKafka::builder().brokers(2).topic("flights", 2).start().unwrap();
    let producer = ready(&kafka).await;
    offset(&send(&producer, to("flights", 0, one("before"))).await);
    for id in [1, 2] {
        kafka.kill_broker(id).unwrap();
    }
    let error = producer.topic("flights", MissingTopic::Refuse).await.unwrap_err();
    assert!(error.message.contains("no bootstrap address answers"), "{error}");
    assert!(error.message.contains("connection refused"), "{error}");
    for id in [1, 2] {
        kafka.restart_broker(id, ProducerMemory::LastBatch).unwrap();
    }
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    let mut answer = send(&producer, to("flights", 0, one("after"))).await;
    while matches!(answer.result, ProduceResult::NotSent { .. }) {
        // The pause after a failed attempt to connect, a few milliseconds here.
        tokio::task::yield_now().await;
        answer = send(&producer, to("flights", 0, one("after"))).await;
    }
    assert_eq!(offset(&answer), 1);
}

#[tokio::test]
async fn new_partitions_are_found_without_a_reason_when_metadata_is_old() {
    let kafka = one_broker(1);
    let mut settings = settings(&kafka.bootstrap());
    settings.metadata_max_age = Duration::from_millis(20);
    let producer = NativeProducer::new(settings).unwrap();
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    kafka.grow_topic("flights", 4).unwrap();
    until(&producer, "partition 3", |producer| producer.leader("flights", 3).is_some()).await;
    assert_eq!(offset(&send(&producer, to("flights", 3, one("x"))).await), 0);
}

#[tokio::test]
async fn a_recreated_topic_shows_its_new_id() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    offset(&send(&producer, to("flights", 0, one("old"))).await);
    let old = producer.leader("flights", 0).unwrap();
    let id = kafka.recreate_topic("flights").unwrap();
    // Sent by the old id: not written to the new topic by mistake.
    let answer = send(&producer, to("flights", 0, one("for the old one"))).await;
    let ProduceResult::Refused(refusal) = &answer.result else { panic!("{answer:?}") };
    assert_eq!(refusal.code, ErrorCode::UNKNOWN_TOPIC_ID);
    assert_eq!(answer.leader.unwrap().topic_id, old.topic_id);
    until(&producer, "the new id", |producer| {
        producer.leader("flights", 0).is_some_and(|leader| leader.topic_id == TopicId(*id.as_bytes()))
    })
    .await;
    assert_eq!(offset(&send(&producer, to("flights", 0, one("new"))).await), 0);
}

#[tokio::test]
async fn producer_ids_are_new_each_time_and_never_minus_one() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    let first = producer.init_producer_id().await.unwrap();
    let second = producer.init_producer_id().await.unwrap();
    assert!(first.id >= 0 && second.id > first.id && first.epoch == 0);

    kafka.inject(Fault::answer(Code::CLUSTER_AUTHORIZATION_FAILED).on(Api::InitProducerId));
    let error = producer.init_producer_id().await.unwrap_err();
    let class = ErrorClass::Unavailable;
    assert_eq!((error.class, error.code.unwrap().class()), (class, class), "{error}");
}

#[tokio::test]
async fn the_leader_is_asked_what_it_knows_of_a_producer() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    let identity = producer.init_producer_id().await.unwrap();
    let ask = || producer.describe_producer("flights", 0, identity.id);
    assert_eq!(ask().await.0, ProducerState::Unknown);
    let numbered = batch((identity.id, identity.epoch, 0), &[b"a", b"b", b"c"]);
    assert_eq!(offset(&send(&producer, to("flights", 0, numbered)).await), 0);
    let (state, asked) = ask().await;
    assert_eq!(state, ProducerState::Known { epoch: identity.epoch, last_sequence: 2 });
    assert_eq!(asked, producer.leader("flights", 0));

    kafka.inject(Fault::answer(Code::NOT_LEADER_OR_FOLLOWER).on(Api::DescribeProducers));
    assert!(matches!(ask().await.0, ProducerState::Failed { .. }));
    kafka.inject(Fault::lose_answer().on(Api::DescribeProducers));
    assert!(matches!(ask().await.0, ProducerState::Failed { .. }));
    kafka.refuse_describe_producers();
    assert_eq!(ask().await.0, ProducerState::Unanswerable);
    assert!(matches!(
        producer.describe_producer("flights", 9, 1).await,
        (ProducerState::Failed { .. }, None)
    ));
}

#[tokio::test]
async fn a_refusal_keeps_the_brokers_code_and_hits_only_its_partition() {
    let kafka = one_broker(3);
    let producer = ready(&kafka).await;
    for code in [Code::MESSAGE_TOO_LARGE, Code::NOT_ENOUGH_REPLICAS, Code::INVALID_RECORD] {
        kafka.inject(Fault::answer(code).on(Api::Produce).partition("flights", 1));
        let batches = (0..3).map(|n| to("flights", n, one("x"))).collect();
        let answers = producer.produce(request(batches)).await;
        offset(&answers[0]);
        offset(&answers[2]);
        let ProduceResult::Refused(refusal) = &answers[1].result else { panic!("{answers:?}") };
        assert_eq!(refusal.code.0, code.0);
    }
}

#[tokio::test]
async fn a_throttled_connection_is_silent_for_as_long_as_the_broker_asked() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    let silence = Duration::from_millis(100);
    kafka.inject(Fault::throttle(silence).on(Api::Produce));
    let asked = Instant::now();
    offset(&send(&producer, to("flights", 0, one("x"))).await);
    let calls: Vec<_> =
        (0..3).map(|n| producer.produce(request(vec![to("flights", 0, one(format!("{n}")))]))).collect();
    for (n, call) in (1..).zip(calls) {
        assert_eq!(offset(&call.await[0]), n);
    }
    // A lower bound only: that is the promise.
    assert!(asked.elapsed() >= silence);
}

#[tokio::test]
async fn an_advertised_address_that_cannot_be_reached_is_explained() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let kafka =
        EmbeddedKafka::builder().topic("flights", 1).advertised(1, "localhost", closed).start().unwrap();
    let producer = producer(&kafka.bootstrap());
    producer.topic("flights", MissingTopic::Refuse).await.unwrap();
    let answer = send(&producer, to("flights", 0, one("x"))).await;
    let ProduceResult::NotSent { message } = &answer.result else { panic!("{answer:?}") };
    let advertised = format!("localhost:{closed}");
    for part in [&kafka.bootstrap(), &advertised, "advertised.listeners", "connection refused"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[tokio::test]
async fn closing_answers_everything_and_nothing_is_sent_afterwards() {
    let kafka = one_broker(1);
    let producer = ready(&kafka).await;
    offset(&send(&producer, to("flights", 0, one("before"))).await);
    kafka.inject(Fault::never_answer().on(Api::Produce));
    let call = producer.produce(request(vec![to("flights", 0, one("x"))]));
    producer.close().await;
    assert!(matches!(call.await[0].result, ProduceResult::Lost { .. }));
    let answer = send(&producer, to("flights", 0, one("late"))).await;
    assert!(matches!(answer.result, ProduceResult::NotSent { .. }), "{answer:?}");
    let error = producer.connect().await.unwrap_err();
    assert!(error.message.contains("the producer is closed"), "{error}");
}

/// Callers write by themselves, a task reads, another may write on, the broker ends connections at any moment: whatever
/// meets, each batch has one answer, and the answer is true.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_and_dying_connections_leave_every_batch_with_a_true_answer() {
    let kafka = std::sync::Arc::new(one_broker(8));
    let producer = std::sync::Arc::new(ready(&kafka).await);
    let callers: Vec<_> = (0..8)
        .map(|partition| {
            let (producer, kafka) = (producer.clone(), kafka.clone());
            tokio::spawn(async move {
                let mut told = Vec::new();
                for n in 0..150 {
                    if n % 30 == 7 {
                        kafka.drop_connections(1).unwrap();
                    }
                    // Now and then more than the socket takes at once.
                    let value =
                        format!("{partition} {n} {}", "x".repeat(if n % 10 == 3 { 800_000 } else { 10 }));
                    let result = send(&producer, to("flights", partition, one(&value))).await.result;
                    told.push((value.into_bytes(), result));
                }
                (partition, told)
            })
        })
        .collect();
    let mut acked = 0;
    for caller in callers {
        let (partition, told) = caller.await.unwrap();
        let log = values(&kafka, "flights", partition);
        for (value, result) in told {
            let at: Vec<usize> = (0..log.len()).filter(|at| log[*at] == value).collect();
            match result {
                ProduceResult::Acked { base_offset } => {
                    acked += 1;
                    assert_eq!(at, [base_offset.unwrap() as usize]);
                }
                ProduceResult::NotSent { .. } => assert!(at.is_empty()),
                ProduceResult::Lost { .. } => assert!(at.len() <= 1),
                ProduceResult::Refused(refusal) => panic!("{refusal}"),
            }
        }
    }
    assert!(acked > 600, "{acked}");
    assert_eq!(producer.in_flight(1), Some(0));
}

#[tokio::test]
async fn a_cluster_that_is_starting_is_asked_again_for_a_producer_id_and_nobody_is_told() {
    let kafka = EmbeddedKafka::builder().topic("t", 1).start().unwrap();
    kafka.inject(Fault::answer(14).on(Api::InitProducerId).times(3));
    let mut settings = kafka_batcher::producer::native::ClientSettings::new([kafka.bootstrap()]);
    settings.retry_backoff = Duration::from_millis(1);
    let producer = NativeProducer::new(settings).unwrap();
    producer.init_producer_id().await.unwrap();
    // Not one that says no for another reason.
    kafka.inject(Fault::answer(31).on(Api::InitProducerId).times(1));
    let error = producer.init_producer_id().await.unwrap_err();
    assert_eq!(error.code.map(|code| code.0), Some(31));
}
