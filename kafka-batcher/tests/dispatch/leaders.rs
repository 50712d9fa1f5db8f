//! Partitions that nobody leads.

use kafka_batcher_broker::{Api, Fault};

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
