//! A cluster's life, seen from a raw client: leaders, stops and restarts, topics, time, start and end.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kafka_batcher_broker::{EmbeddedKafka, ErrorCode, ProducerMemory, StartError, Strictness, TopicSpec};
use kafka_protocol::messages::MetadataRequest;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use support::batch::Rec;
use support::{Batch, Client, fetch_request, fetched, name, produce_request, rec};
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
fn a_moved_leader_is_told_everywhere_and_producers_stay_known() {
    let kafka = cluster(3, 1);
    assert_eq!(kafka.leader("t", 0), Some((1, 0)));
    let (mut old, mut new) = (to(&kafka, 1), to(&kafka, 2));
    let batch = |n: i32| Batch::from((77, 0), n, 1, "w").bytes();
    for n in 0..5 {
        assert_eq!(old.put("t", 0, batch(n)), (0, i64::from(n)));
    }
    kafka.move_leader("t", 0, 2).unwrap();
    let answer = old.call(10, &produce_request(10, "t", Uuid::nil(), 0, Some(batch(5)), -1));
    let refused = &answer.responses[0].partition_responses[0];
    assert_eq!((refused.error_code, refused.base_offset), (6, -1));
    assert_eq!((refused.current_leader.leader_id.0, refused.current_leader.leader_epoch), (2, 1));
    assert_eq!(answer.node_endpoints[0].port, i32::from(kafka.address(2).unwrap().port()));
    assert_eq!(old.fetch("t", 0, 0).error_code, 6);
    assert_eq!(old.list_offset("t", 0, -1).error_code, 6);
    assert_eq!(old.describe_producers("t", 0).error_code, 6);
    let partition = old.metadata("t").topics.remove(0).partitions.remove(0);
    assert_eq!((partition.leader_id.0, partition.leader_epoch), (2, 1));
    for n in 0..5 {
        assert_eq!(new.put("t", 0, batch(n)), (0, i64::from(n)), "all five are recognised by the new leader");
    }
    assert_eq!(new.put("t", 0, batch(5)), (0, 5));
    let mut fenced = fetch_request("t", Uuid::nil(), 0, 0);
    fenced.topics[0].partitions[0].current_leader_epoch = 0;
    assert_eq!(fetched(new.call(12, &fenced)).error_code, 74);
}

#[test]
fn a_stopped_broker_hands_over_and_a_killed_one_is_missed_only_later() {
    let kafka = cluster(3, 3);
    let mut client = to(&kafka, 3);
    let mut seen = || {
        let answer = client.metadata("t");
        let leaders: Vec<i32> = answer.topics[0].partitions.iter().map(|p| p.leader_id.0).collect();
        (answer.brokers.len(), leaders)
    };
    assert_eq!(seen(), (3, vec![1, 2, 3]));
    kafka.stop_broker(1).unwrap();
    assert_eq!(seen(), (2, vec![2, 2, 3]));
    kafka.kill_broker(2).unwrap();
    assert_eq!(seen(), (2, vec![2, 2, 3]), "nobody has noticed");
    assert!(Client::connect(kafka.address(2).unwrap()).is_err());
    kafka.notice_deaths();
    assert_eq!(seen(), (1, vec![3, 3, 3]));
    kafka.restart_broker(1, ProducerMemory::Whole).unwrap();
    kafka.restart_broker(2, ProducerMemory::Whole).unwrap();
    assert_eq!(seen(), (3, vec![3, 3, 3]), "leaders do not go back by themselves");
    kafka.stop_broker(3).unwrap();
    kafka.remove_leader("t", 0).unwrap();
    let partition = to(&kafka, 1).metadata("t").topics.remove(0).partitions.remove(0);
    assert_eq!((partition.error_code, partition.leader_id.0), (5, -1));
}

#[test]
fn too_few_replicas_refuse_acks_all_with_19_and_take_acks_1() {
    let kafka = EmbeddedKafka::builder()
        .brokers(3)
        .topic_spec(TopicSpec::new("t", 1).config("min.insync.replicas", "2"))
        .start()
        .unwrap();
    let mut client = to(&kafka, 1);
    kafka.stop_broker(2).unwrap();
    assert_eq!(try_put(&mut client, "two left").unwrap(), 0);
    kafka.stop_broker(3).unwrap();
    assert_eq!(try_put(&mut client, "one left").unwrap(), 19);
    assert_eq!(client.produce_as(9, "t", Uuid::nil(), 0, Some(one("x")), 1).error_code, 0);
}

#[test]
fn a_restart_can_forget_every_producer() {
    let kafka = cluster(1, 1);
    let batch = Batch::from((5, 0), 0, 1, "w").bytes();
    assert_eq!(to(&kafka, 1).put("t", 0, batch.clone()), (0, 0));
    kafka.restart_broker(1, ProducerMemory::Nothing).unwrap();
    assert_eq!(to(&kafka, 1).put("t", 0, batch), (0, 1), "written a second time");
}

#[test]
fn a_truncated_log_forgets_the_producers_of_what_is_gone() {
    let kafka = cluster(1, 1);
    let mut client = to(&kafka, 1);
    let batch = |n: i32| Batch::from((5, 0), n * 2, 2, "w").bytes();
    for n in 0..3 {
        client.put("t", 0, batch(n));
    }
    kafka.truncate_log("t", 0, 3).unwrap();
    assert_eq!(kafka.offsets("t", 0), Some((0, 2)), "the batch that reaches over offset 3 is gone whole");
    assert_eq!(client.describe_producers("t", 0).active_producers[0].last_sequence, 1);
    assert_eq!(client.put("t", 0, batch(2)), (45, -1));
    assert_eq!(client.put("t", 0, batch(1)), (0, 2), "written again");
    kafka.truncate_log("t", 0, 0).unwrap();
    assert!(client.describe_producers("t", 0).active_producers.is_empty());
}

#[test]
fn a_topic_made_anew_and_a_cluster_replaced_have_new_ids_and_empty_logs() {
    let kafka = cluster(1, 2);
    let mut client = to(&kafka, 1);
    let old = kafka.topic_id("t").unwrap();
    assert_eq!(client.producer_id(), 0);
    client.put("t", 0, one("x"));
    let new = kafka.recreate_topic("t").unwrap();
    assert_ne!(old, new);
    assert_eq!(client.produce_as(13, "", old, 0, Some(one("x")), -1).error_code, 100);
    assert_eq!(client.produce_as(13, "", new, 0, Some(one("x")), -1).base_offset, 0);
    let cluster = kafka.cluster_id();
    kafka.replace_cluster();
    assert_ne!(kafka.cluster_id(), cluster);
    assert!(client.is_closed());
    let mut client = to(&kafka, 1);
    assert_eq!(client.metadata("t").cluster_id.as_deref(), Some(kafka.cluster_id().as_str()));
    assert_ne!(kafka.topic_id("t"), Some(new));
    assert_eq!((client.producer_id(), kafka.offsets("t", 0)), (0, Some((0, 0))), "ids begin again");
    kafka.grow_topic("t", 5).unwrap();
    assert_eq!(client.metadata("t").topics[0].partitions.len(), 5);
    assert_eq!(client.put("t", 4, one("x")), (0, 0));
}

#[test]
fn an_advertised_address_is_told_whether_it_can_be_reached_or_not() {
    let kafka = EmbeddedKafka::builder().brokers(2).advertised(1, "kafka", 9092).start().unwrap();
    let brokers = |kafka: &EmbeddedKafka| -> Vec<(String, i32)> {
        let answer = to(kafka, 1).call(12, &MetadataRequest::default().with_topics(None));
        answer.brokers.iter().map(|broker| (broker.host.to_string(), broker.port)).collect()
    };
    let port = |id| i32::from(kafka.address(id).unwrap().port());
    assert_eq!(brokers(&kafka), [("kafka".to_owned(), 9092), ("127.0.0.1".to_owned(), port(2))]);
    kafka.set_advertised(1, None).unwrap();
    assert_eq!(brokers(&kafka)[0], ("127.0.0.1".to_owned(), port(1)));
}

#[test]
fn time_is_the_tests_own_for_bounds_expiry_and_retention() {
    let time = Arc::new(AtomicI64::new(1_000_000_000));
    let clock = Arc::clone(&time);
    let kafka = EmbeddedKafka::builder()
        .topic_spec(TopicSpec::new("t", 1).config("retention.ms", "5000"))
        .producer_id_expiration(Duration::from_millis(1000), Duration::from_secs(3600))
        .clock(move || clock.load(Ordering::Relaxed))
        .start()
        .unwrap();
    let mut client = to(&kafka, 1);
    let batch = Batch { base_time: 1_000_000_000, ..Batch::from((5, 0), 0, 1, "w") };
    let ahead = Batch { base_time: 1_000_000_000 + 3_600_001, ..Batch::of([rec("x")]) };
    assert_eq!(client.put("t", 0, ahead.bytes()).0, 32);
    assert_eq!(client.put("t", 0, batch.bytes()), (0, 0));
    time.store(1_000_000_999, Ordering::Relaxed);
    kafka.expire_producers();
    assert_eq!(client.put("t", 0, batch.bytes()), (0, 0), "recognised");
    time.store(1_000_001_000, Ordering::Relaxed);
    kafka.expire_producers();
    assert_eq!(client.put("t", 0, batch.bytes()), (0, 1), "forgotten");
    time.store(1_000_005_001, Ordering::Relaxed);
    assert_eq!(kafka.apply_retention(), 2);
    assert_eq!(kafka.offsets("t", 0), Some((2, 2)));
    assert_eq!(client.fetch("t", 0, 0).error_code, 1);
}

#[test]
fn a_pedantic_broker_refuses_what_kafka_lets_pass() {
    let kafka = EmbeddedKafka::builder().topic("t", 1).strictness(Strictness::Pedantic).start().unwrap();
    let mut client = to(&kafka, 1);
    let odd = Batch::of([Rec { offset_delta: Some(3), ..rec("x") }]);
    assert_eq!(client.put("t", 0, odd.bytes()).0, 87);
    let late = Batch { max_time: Some(5), ..Batch::of([rec("x")]) };
    assert_eq!(client.put("t", 0, late.bytes()).0, 87);
    let trailing = [&one("x")[..], &[0]].concat();
    assert_eq!(client.put("t", 0, trailing.into()).0, 87);
    assert_eq!(client.put("t", 0, one("x")), (0, 0));
}

#[test]
fn it_starts_inside_and_outside_of_any_runtime_and_ends_with_its_last_owner() {
    let outside = cluster(1, 1);
    let address = outside.address(1).unwrap();
    let clone = outside.clone();
    drop(outside);
    assert_eq!(try_put(&mut to(&clone, 1), "x").unwrap(), 0);
    drop(clone);
    assert!(Client::connect(address).is_err(), "gone");
    for mut builder in
        [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()]
    {
        let runtime = builder.enable_all().build().unwrap();
        let address = runtime.block_on(async {
            // On its own thread, called from async code; blocking calls to it are answered.
            let own = cluster(1, 1);
            assert_eq!(try_put(&mut to(&own, 1), "x").unwrap(), 0);
            // In this runtime.
            let shared =
                EmbeddedKafka::builder().topic("t", 1).start_on(tokio::runtime::Handle::current()).unwrap();
            let address = shared.address(1).unwrap();
            let put = tokio::task::spawn_blocking(move || {
                try_put(&mut Client::connect(address).unwrap(), "x").unwrap()
            });
            assert_eq!(put.await.unwrap(), 0);
            assert_eq!(values(&shared, 0), ["x"]);
            address
        });
        assert!(Client::connect(address).is_err(), "gone");
    }
}

#[test]
fn what_cannot_start_says_why() {
    let first = cluster(1, 1);
    let port = first.address(1).unwrap().port();
    let error = EmbeddedKafka::builder().ports([port]).start().expect_err("the port is taken");
    assert!(matches!(error, StartError::Listen { broker: 1, .. }), "{error}");
    assert!(error.to_string().contains(&port.to_string()));
    let error = EmbeddedKafka::builder().topic("no spaces", 1).start().expect_err("a bad name");
    assert!(matches!(error, StartError::Topic { code: ErrorCode::INVALID_TOPIC_EXCEPTION, .. }), "{error}");
}

#[test]
fn a_port_is_kept_while_its_broker_is_down() {
    let kafka = cluster(1, 1);
    let port = kafka.address(1).unwrap().port();
    for _ in 0..20 {
        kafka.stop_broker(1).unwrap();
        assert!(Client::connect(("127.0.0.1", port)).is_err());
        kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
        assert_eq!(kafka.address(1).unwrap().port(), port);
        assert_eq!(try_put(&mut to(&kafka, 1), "x").unwrap(), 0);
    }
    assert_eq!(kafka.log("t", 0).len(), 20);
}

#[test]
fn without_auto_creation_nothing_is_made_by_asking() {
    let kafka = cluster(1, 1);
    let asked = MetadataRequestTopic::default().with_name(Some(name("other")));
    let request =
        MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(true);
    for _ in 0..2 {
        assert_eq!(to(&kafka, 1).call(12, &request).topics[0].error_code, 3);
    }
    assert_eq!(kafka.partition_count("other"), 0);
}
