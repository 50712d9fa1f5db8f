//! What happens when Kafka takes less than is produced: callers wait or are told `Full`, the bound on memory holds, nobody
//! starves, nothing is lost, and what one partition cannot get rid of does not hold up the others.

mod support;

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Waker};
use std::time::Duration;

use kafka_batcher::{AddError, Collector, KafkaBatcher, Record};
use kafka_batcher_broker::EmbeddedKafka;
use support::{LONG, batcher_with, kafka, outcome, ready, until, values};

const MEMORY: usize = 4 << 20;

/// 4 MiB of memory, batches of 100 kB, and requests that wait as long as the broker is stalled.
async fn small(kafka: &EmbeddedKafka) -> KafkaBatcher {
    batcher_with(&kafka.bootstrap(), |s, d| {
        s.memory = MEMORY;
        s.request_timeout = LONG;
        d.max_batch_bytesize = 100_000;
    })
    .await
}

/// An event of about a kilobyte that says who sent it and which of theirs it is.
fn event(producer: usize, n: usize) -> String {
    format!("{producer}/{n}/{:1000}", "")
}

/// Checks that each producer's events lie in each partition in the order of sending, once each, and counts them.
fn counts(kafka: &EmbeddedKafka, partitions: i32) -> HashMap<usize, usize> {
    let mut counts = HashMap::new();
    for partition in 0..partitions {
        let mut last: HashMap<usize, usize> = HashMap::new();
        for value in values(kafka, partition) {
            let mut words = value.split('/').map(|word| word.trim().parse::<usize>());
            let (Some(Ok(producer)), Some(Ok(n))) = (words.next(), words.next()) else {
                panic!("not one of ours: {value:.20}");
            };
            assert!(
                last.insert(producer, n).is_none_or(|before| before < n),
                "{producer}: {n} is out of order"
            );
            *counts.entry(producer).or_default() += 1;
        }
    }
    counts
}

/// Adds events to a partition until there is no room for one more, and answers how many there were.
async fn fill(flights: &Collector, producer: usize, partition: i32) -> usize {
    for n in 0.. {
        let event = event(producer, n);
        match flights.try_add_event(Record::value(&event).with_partition(partition)) {
            Ok(()) => {}
            Err(AddError::Full { used, limit, waited }) => {
                assert!(used <= limit && limit == MEMORY && waited.is_zero(), "{used} of {limit}");
                return n;
            }
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!("memory ends before numbers do")
}

/// Polls a future once.
fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_producers_before_a_stalled_broker_keep_the_bound_and_all_get_through_afterwards() {
    const PRODUCERS: usize = 50;
    const EVENTS: usize = 200;
    let kafka = kafka(4);
    let batcher = small(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.freeze(1).unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (flights, batcher, accepted) = (flights.clone(), batcher.clone(), accepted.clone());
            tokio::spawn(async move {
                for n in 0..EVENTS {
                    let event = event(producer, n);
                    flights.add_event(Record::value(&event).with_partition((n % 4) as i32)).await.unwrap();
                    accepted.fetch_add(1, Ordering::SeqCst);
                    assert!(batcher.memory_used() <= MEMORY, "{}", batcher.memory_used());
                }
            })
        })
        .collect();
    // 10 MB do not fit into 4 MiB: all come to stand. No share of the memory has room, so nobody else is served either.
    let mut probes = 0;
    until(|| {
        probes += 1;
        let probe = event(PRODUCERS, probes);
        (0..4).all(|p| flights.try_add_event(Record::value(&probe).with_partition(p)).is_err())
    })
    .await;
    let stalled_at = accepted.load(Ordering::SeqCst);
    assert!(stalled_at < PRODUCERS * EVENTS && batcher.memory_used() <= MEMORY, "{stalled_at}");
    assert!(tasks.iter().any(|task| !task.is_finished()));

    kafka.thaw(1).unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!(report.reorderings + report.possible_duplicates, 0);
    let counts = counts(&kafka, 4);
    assert!((0..PRODUCERS).all(|producer| counts[&producer] == EVENTS), "{counts:?}");
    assert_eq!(batcher.memory_used(), 0, "what is delivered holds no memory");
}

#[tokio::test]
async fn an_event_that_finds_memory_full_stays_with_its_caller_and_goes_when_there_is_room() {
    let kafka = kafka(1);
    let batcher = small(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.freeze(1).unwrap();
    let fitted = fill(&flights, 0, 0).await;
    let late = event(0, fitted);
    let error = flights.try_add_event(Record::value(&late).with_partition(0)).unwrap_err();
    assert!(matches!(error, AddError::Full { .. }), "{error}");
    assert!(error.to_string().contains("memory is full"), "{error}");
    kafka.thaw(1).unwrap();
    // The same event, which nobody took.
    flights.add_event(Record::value(&late).with_partition(0)).await.unwrap();
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.refused >= 2, "{report:?}");
    assert_eq!(counts(&kafka, 1)[&0], fitted + 1);
}

#[tokio::test]
async fn add_event_answers_full_once_max_block_is_over_and_says_how_long_it_waited() {
    let kafka = kafka(1);
    let max_block = Duration::from_millis(10);
    let batcher = batcher_with(&kafka.bootstrap(), |s, d| {
        s.memory = MEMORY;
        s.request_timeout = LONG;
        s.max_block = max_block;
        d.max_batch_bytesize = 100_000;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.freeze(1).unwrap();
    let fitted = fill(&flights, 0, 0).await;
    let late = event(0, fitted);
    let record = Record::value(&late).with_partition(0);
    match flights.add_event(record).await {
        Err(AddError::Full { waited, .. }) => assert_eq!(waited, max_block),
        other => panic!("{other:?}"),
    }
    let results = flights.add_events([record, record]).await;
    assert!(results.iter().all(|result| matches!(result, Err(AddError::Full { .. }))), "{results:?}");
    kafka.thaw(1).unwrap();
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!(report.accepted, fitted as u64);
}

/// What says "for ever" is more than a clock can count.
#[tokio::test]
async fn max_block_and_request_timeout_may_be_for_ever() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |s, d| {
        s.memory = MEMORY;
        (s.request_timeout, s.max_block) = (Duration::MAX, Duration::MAX);
        d.max_batch_bytesize = 100_000;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    tokio::time::timeout(LONG, ready(&batcher, "flights")).await.expect("its connections live");
    kafka.freeze(1).unwrap();
    let fitted = fill(&flights, 0, 0).await;
    let late = event(0, fitted);
    let record = Record::value(&late).with_partition(0);
    let mut waiting = pin!(flights.add_event(record));
    assert!(poll_once(waiting.as_mut()).is_none(), "it waits for memory");
    let (collector, value) = (flights.clone(), late.clone());
    let blocked = tokio::task::spawn_blocking(move || {
        collector.blocking_add_event(Record::value(&value).with_partition(0))
    });
    kafka.thaw(1).unwrap();
    waiting.await.expect("there is memory again");
    blocked.await.expect("it does not panic").expect("there is memory again");
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!(report.accepted, fitted as u64 + 2);
}

#[tokio::test]
async fn an_add_event_that_is_dropped_while_it_waits_has_accepted_nothing() {
    let kafka = kafka(1);
    let batcher = small(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.freeze(1).unwrap();
    let fitted = fill(&flights, 0, 0).await;
    let given_up = event(99, 0);
    assert!(poll_once(flights.add_event(Record::value(&given_up).with_partition(0))).is_none());
    let receipt = poll_once(flights.send(Record::value(&given_up).with_partition(0)));
    assert!(receipt.is_none());
    // One that waits behind those that gave up is not held up by them.
    let last = event(0, fitted);
    let mut waiting = pin!(flights.send(Record::value(&last).with_partition(0)));
    assert!(poll_once(waiting.as_mut()).is_none());
    kafka.thaw(1).unwrap();
    outcome(&waiting.await.unwrap()).await.unwrap();
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!(report.accepted, fitted as u64 + 1);
    assert_eq!(counts(&kafka, 1), HashMap::from([(0, fitted + 1)]));
}

#[tokio::test]
async fn a_stuck_partition_fills_its_share_and_holds_up_only_those_who_write_to_it() {
    const EVENTS: usize = 5000;
    let kafka = kafka(2);
    let batcher = small(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.remove_leader("flights", 0).unwrap();
    let stuck = fill(&flights, 0, 0).await;
    assert!(batcher.memory_used() <= MEMORY / 2, "one partition may not hold it all");
    let waiting = tokio::spawn({
        let (flights, event) = (flights.clone(), event(0, stuck));
        async move { flights.add_event(Record::value(&event).with_partition(0)).await }
    });
    // More than all memory goes past it.
    for n in 0..EVENTS {
        let event = event(1, n);
        flights.add_event(Record::value(&event).with_partition(1)).await.unwrap();
        assert!(batcher.memory_used() <= MEMORY);
    }
    until(|| values(&kafka, 1).len() == EVENTS).await;
    assert!(!waiting.is_finished());
    kafka.move_leader("flights", 0, 1).unwrap();
    waiting.await.unwrap().unwrap();
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!(counts(&kafka, 2), HashMap::from([(0, stuck + 1), (1, EVENTS)]));
    // Who waits for the stuck partition is no reason to seal what others fill.
    let mean = report.accepted / report.batches;
    assert!(mean >= 20, "batches of {mean} events: {:?}", report.flush_reasons);
}

#[test]
fn threads_wait_before_a_stalled_broker_and_all_get_through_afterwards() {
    const THREADS: usize = 8;
    const EVENTS: usize = 1000;
    let kafka = kafka(2);
    let batcher = KafkaBatcher::builder([kafka.bootstrap()])
        .settings(|s| {
            s.memory = MEMORY;
            s.request_timeout = LONG;
        })
        .collector_defaults(|d| d.max_batch_bytesize = 100_000)
        .start_blocking()
        .unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    // The partitions are known before the broker stalls.
    let first = flights.blocking_send(event(THREADS, 0).as_str()).unwrap();
    while first.try_delivered().is_none() {
        std::thread::yield_now();
    }
    kafka.freeze(1).unwrap();
    let (start, over) = (Arc::new(Barrier::new(THREADS + 1)), Arc::new(AtomicBool::new(false)));
    let threads: Vec<_> = (0..THREADS)
        .map(|producer| {
            let (flights, batcher) = (flights.clone(), batcher.clone());
            let (start, over) = (start.clone(), over.clone());
            std::thread::spawn(move || {
                start.wait();
                for n in 0..EVENTS {
                    let event = event(producer, n);
                    flights.blocking_add_event(Record::value(&event).with_partition((n % 2) as i32)).unwrap();
                    if batcher.memory_used() > MEMORY {
                        over.store(true, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    start.wait();
    // 8 MB do not fit.
    let probes = Cell::new(1);
    let full = |p| {
        probes.set(probes.get() + 1);
        flights.try_add_event(Record::value(&event(THREADS, probes.get())).with_partition(p)).is_err()
    };
    while !(full(0) && full(1)) {
        std::thread::yield_now();
    }
    assert!(threads.iter().any(|thread| !thread.is_finished()));
    kafka.thaw(1).unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    let report = batcher.shutdown_blocking(LONG);
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert!(!over.load(Ordering::SeqCst), "more memory than the bound was held");
    let counts = counts(&kafka, 2);
    assert!((0..THREADS).all(|producer| counts[&producer] == EVENTS), "{counts:?}");
}

#[tokio::test]
async fn open_batches_that_hold_the_memory_are_sealed_for_those_who_wait() {
    const PARTITIONS: usize = 64;
    let kafka = kafka(PARTITIONS as i32);
    // Nothing else would seal: batches do not fill, and nothing is ever due.
    let batcher = batcher_with(&kafka.bootstrap(), |s, d| {
        s.memory = 1 << 20;
        d.max_batch_bytesize = 100_000;
        d.batch_size = 1_000_000;
        d.max_wait_time = LONG * 60;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    for n in 0..60 {
        for partition in 0..PARTITIONS {
            let event = event(0, n * PARTITIONS + partition);
            flights.add_event(Record::value(&event).with_partition(partition as i32)).await.unwrap();
            assert!(batcher.memory_used() <= 1 << 20);
        }
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert!(report.flush_reasons["memory"] > 0, "{:?}", report.flush_reasons);
    assert_eq!(counts(&kafka, PARTITIONS as i32)[&0], 60 * PARTITIONS);
}

#[tokio::test]
async fn events_of_an_unknown_topic_are_bounded_too_and_are_placed_with_one_batch_of_memory_more_at_most() {
    const PARTITIONS: i32 = 16;
    let kafka = EmbeddedKafka::builder().start().unwrap();
    let batcher = small(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    let mut accepted = 0;
    let error = loop {
        let event = event(0, accepted);
        match flights.try_add_event(Record::value(&event).with_partition(accepted as i32 % PARTITIONS)) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AddError::Full { .. }) && batcher.memory_used() <= MEMORY, "{error}");
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("flights", PARTITIONS)).unwrap();
    let mut most = 0;
    until(|| {
        most = most.max(batcher.memory_used());
        (0..PARTITIONS).map(|p| values(&kafka, p).len()).sum::<usize>() == accepted
    })
    .await;
    assert!(most <= MEMORY + 100_000 + PARTITIONS as usize * 2048, "{most}");
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!(counts(&kafka, PARTITIONS)[&0], accepted);
}
