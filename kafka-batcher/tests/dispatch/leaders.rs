//! Partitions that nobody leads.

use kafka_batcher::{MemoryStorage, NotificationKind};
use kafka_batcher_broker::{Api, EmbeddedKafka, Fault};

use crate::support::{LONG, kafka, outcome, ready, values};
use crate::{TOPIC, Told, builder, to};

/// Of a topic that is collected as a whole only partition 0 was looked at again: where that had no leader, an open batch that
/// had become due while the others were busy was never sealed.
#[tokio::test]
async fn a_partition_0_without_a_leader_does_not_hold_up_a_topic_that_is_collected_as_a_whole() {
    let kafka = kafka(2);
    kafka.remove_leader(TOPIC, 0).unwrap();
    let builder = builder(&kafka, &Told::default());
    let builder = builder.collector_defaults(|d| {
        (d.collect_by_partition, d.batch_size, d.max_wait_time) = (false, 10_000, std::time::Duration::ZERO);
    });
    let batcher = builder.start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    flights.add_event(to(0, "stuck")).await.unwrap();
    // The first request is answered only after two more events have come: the second waits for its answer, since nothing is
    // established before it; the third for the second, still open.
    let (held, release) = (std::sync::Arc::new(tokio::sync::Notify::new()), std::sync::mpsc::channel::<()>());
    let (seen, waits) = (held.clone(), std::sync::Mutex::new(release.1));
    kafka.inject(
        Fault::call_before(move |_| {
            seen.notify_one();
            let _ = waits.lock().unwrap().recv();
        })
        .on(Api::Produce)
        .times(1),
    );
    let first = flights.send(to(1, "first")).await.unwrap();
    held.notified().await;
    // Who asks for a report has what is due sealed, or held.
    let sealed = async || batcher.report().await.flush_reasons.values().sum::<u64>();
    let second = flights.send(to(1, "second")).await.unwrap();
    assert_eq!(sealed().await, 3);
    let third = flights.send(to(1, "third")).await.unwrap();
    assert_eq!(sealed().await, 3);
    release.0.send(()).unwrap();
    for receipt in [first, second, third] {
        outcome(&receipt).await.unwrap();
    }
    assert_eq!(values(&kafka, 1), ["first", "second", "third"]);
    kafka.move_leader(TOPIC, 0, 1).unwrap();
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// With fewer partitions than were remembered, events for those that are gone waited for ever, and nobody said why.
#[tokio::test]
async fn a_topic_that_comes_back_with_fewer_partitions_is_told_and_the_next_start_uses_those_that_there_are()
{
    let memory = MemoryStorage::default();
    let start = async |kafka: &EmbeddedKafka, told: &Told| {
        let batcher = builder(kafka, told).storage(memory.clone()).start().await.unwrap();
        let flights = batcher.collector(TOPIC).build().unwrap();
        ready(&batcher, TOPIC).await;
        (batcher, flights)
    };
    let (batcher, flights) = start(&kafka(4), &Told::default()).await;
    drop(flights);
    assert!(batcher.shutdown(LONG).await.all_delivered());
    let (fewer, told) = (kafka(2), Told::default());
    let (batcher, _flights) = start(&fewer, &told).await;
    let said = told.of(NotificationKind::ProducerError);
    assert!(said.len() == 1 && said[0].contains("has 2 partitions now, and had 4"), "{said:?}");
    assert!(batcher.shutdown(LONG).await.all_delivered());
    let told = Told::default();
    let (batcher, flights) = start(&fewer, &told).await;
    for key in 0..20 {
        flights.add_event((&*key.to_string(), "v")).await.unwrap();
    }
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(told.of(NotificationKind::ProducerError), [""; 0]);
}
