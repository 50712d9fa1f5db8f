//! Typed collectors: values of a type, placed and added in every way that the collector below knows.

use std::time::Duration;

use kafka_batcher::{KafkaBatcher, TypedCollector};
use kafka_batcher_broker::EmbeddedKafka;
use kafka_batcher_core::partitioner::{PartitionKey, Strategy};

const LONG: Duration = Duration::from_secs(30);

fn kafka() -> EmbeddedKafka {
    let builder = EmbeddedKafka::builder().topic("flights", 64);
    Strategy::ALL
        .iter()
        .fold(builder, |builder, strategy| builder.topic(strategy.name(), 64))
        .start()
        .unwrap()
}

#[tokio::test]
async fn the_bytes_that_a_value_is_placed_by_go_where_a_key_of_these_bytes_goes() {
    let kafka = kafka();
    let batcher = KafkaBatcher::builder([kafka.bootstrap()]).start().await.unwrap();
    for strategy in [Strategy::Murmur2, Strategy::Phash2, Strategy::Crc32, Strategy::Fnv1a] {
        let flights = batcher.collector(strategy.name()).partition_strategy(strategy).build().unwrap();
        let placed: TypedCollector<str> =
            flights.typed::<str>().partition_by(|origin| PartitionKey::Bytes(origin.as_bytes()));
        let keyed = flights.typed::<str>().key(|origin| Some(origin.as_bytes().into()));
        // Once it is delivered, the topic's partitions are known.
        keyed.send("first").await.unwrap().delivered().await.unwrap();
        for origin in ["SEA", "JFK", "LAX"] {
            let by_key = keyed.send(origin).await.unwrap().delivered().await.unwrap().partition;
            let by_place = placed.send(origin).await.unwrap().delivered().await.unwrap().partition;
            assert_eq!(by_place, by_key, "{strategy:?} {origin}");
        }
    }
    assert_eq!(batcher.shutdown(LONG).await.in_doubt, 0);
}

#[tokio::test]
async fn a_value_is_added_in_every_way_that_bytes_are() {
    let kafka = kafka();
    let batcher = KafkaBatcher::builder([kafka.bootstrap()]).start().await.unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    let flights = flights.typed::<i32>().partition_by(|_| PartitionKey::Explicit(7));
    // Once it is delivered, the topic's partitions are known.
    flights.send(&0).await.unwrap().delivered().await.unwrap();
    flights.try_add_event(&1).unwrap();
    let tried = flights.try_send(&2).unwrap();
    let elsewhere = flights.clone();
    let blocking = tokio::task::spawn_blocking(move || {
        elsewhere.blocking_add_event(&3)?;
        elsewhere.blocking_send(&4)
    });
    let blocked = blocking.await.unwrap().unwrap();
    for receipt in [tried, blocked] {
        assert_eq!(receipt.delivered().await.unwrap().partition, 7);
    }
    assert_eq!(batcher.shutdown(LONG).await.in_doubt, 0);
    let values: Vec<_> = kafka.log("flights", 7).into_iter().map(|record| record.value.unwrap()).collect();
    assert!(values.ends_with(&["1".into(), "2".into(), "3".into(), "4".into()]), "{values:?}");
}

#[tokio::test]
async fn a_value_that_came_before_its_topic_was_known_goes_where_it_was_placed() {
    let kafka = kafka();
    let batcher = KafkaBatcher::builder([kafka.bootstrap()]).start().await.unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    // No other task has run since: nobody knows the topic yet.
    let receipt = flights.typed::<i32>().partition_by(|_| PartitionKey::Explicit(7)).try_send(&0).unwrap();
    assert_eq!(receipt.delivered().await.unwrap().partition, 7);
    assert_eq!(batcher.shutdown(LONG).await.in_doubt, 0);
}
