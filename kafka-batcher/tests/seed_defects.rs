//! What kafka_batcher, the predecessor in Elixir, got wrong, each as a test of the right behaviour. The numbers are those
//! of the list of its defects; each test begins with what happened there.
//!
//! Here are the defects that show on the way from a caller to Kafka. Those about the disk and about secrets have their
//! tests where these live.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_batcher::flusher::FlushFn;
use kafka_batcher::partitioner::{PartitionError, PartitionFn, PartitionKey};
use kafka_batcher::{AddError, ClusterHealth, Record, RecordError, TopicHealth};
use kafka_batcher_broker::{Api, EmbeddedKafka, ErrorCode, Fault, ProducerMemory, TopicSpec};
use support::{LONG, batcher, batcher_with, kafka, outcome, ready, until, values};

/// A value of this many bytes that begins with a name.
fn value(name: &str, size: usize) -> String {
    format!("{name:.<size$}")
}

// ---- 1 ------------------------------------------------------------------------------------------------------------------

/// 1. There, an event above the limit was dropped and answered `:ok`; where the accumulator was idle, the *next* event
/// crashed it.
#[tokio::test]
async fn an_event_above_the_limit_is_refused_with_its_size_and_the_next_one_is_unharmed() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_batch_bytesize = 1000).await;
    let flights = batcher.collector("flights").build().unwrap();
    for wait in ["idle", "with an open batch"] {
        match flights.add_event(&value("large", 1000)).await.unwrap_err() {
            AddError::Record(RecordError::TooLarge { size, limit, .. }) => {
                assert!(limit == 1000 && size > 1000 && size < 1100, "{wait}: {size} of {limit}");
            }
            other => panic!("{wait}: {other}"),
        }
        flights.add_event(wait).await.unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!((report.accepted, report.refused), (2, 2));
    assert_eq!(values(&kafka, 0), ["idle", "with an open batch"]);
}

/// 1, its other side: the limit itself is allowed, to the byte.
#[tokio::test]
async fn an_event_of_exactly_the_limit_fits_and_one_byte_more_does_not() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_batch_bytesize = 1000).await;
    let flights = batcher.collector("flights").build().unwrap();
    let Err(AddError::Record(RecordError::TooLarge { size, .. })) =
        flights.add_event(&value("probe", 1000)).await
    else {
        panic!("a value of the limit's size leaves no room for the batch's header");
    };
    let fits = 1000 - (size - 1000);
    flights.add_event(&value("exact", fits)).await.unwrap();
    assert!(flights.add_event(&value("over", fits + 1)).await.is_err());
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!((report.accepted, report.refused, report.bytes), (1, 2, 1000));
    assert_eq!(values(&kafka, 0), [value("exact", fits)]);
}

// ---- 2, 3 ---------------------------------------------------------------------------------------------------------------

/// 2. There, the event that did not fit into the open batch had no timer: it lay until another event came, measured: ten
/// times `max_wait_time`.
#[tokio::test]
async fn an_event_that_splits_a_batch_goes_out_by_its_own_deadline_without_another_event() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| {
        d.max_batch_bytesize = 1000;
        d.max_wait_time = Duration::from_millis(20);
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    let first = flights.send(&value("first", 600)).await.unwrap();
    let second = flights.send(&value("second", 600)).await.unwrap();
    outcome(&first).await.unwrap();
    outcome(&second).await.unwrap();
    let report = batcher.shutdown(LONG).await;
    assert_eq!(report.batches, 2);
    assert_eq!(report.flush_reasons.get("wait"), Some(&1), "{:?}", report.flush_reasons);
}

/// 3. There, the event that did not fit into the open batch was never shown to the flusher.
#[tokio::test]
async fn an_event_that_splits_a_batch_is_shown_to_the_flusher_and_flushed() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| {
        d.max_batch_bytesize = 1000;
        d.max_wait_time = LONG;
    })
    .await;
    let shown = Arc::new(Mutex::new(Vec::new()));
    let seen = shown.clone();
    let flusher = FlushFn::new(move |_, value| {
        let value = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        let urgent = value.starts_with("urgent");
        seen.lock().unwrap().push(value);
        urgent
    });
    let flights = batcher.collector("flights").flusher(flusher).build().unwrap();
    ready(&batcher, "flights").await;
    flights.add_event(&value("first", 600)).await.unwrap();
    let urgent = flights.send(&value("urgent", 600)).await.unwrap();
    outcome(&urgent).await.unwrap();
    assert_eq!(*shown.lock().unwrap(), [value("first", 600), value("urgent", 600)]);
    let report = batcher.shutdown(LONG).await;
    assert_eq!(report.batches, 2);
    assert_eq!(report.flush_reasons.get("bytes"), Some(&1));
    assert_eq!(report.flush_reasons.get("flusher"), Some(&1));
}

// ---- 5 ------------------------------------------------------------------------------------------------------------------

/// 5. There, with Kafka down at boot every event was refused.
#[tokio::test]
async fn events_are_accepted_while_kafka_is_down_at_start_and_delivered_when_it_comes() {
    let kafka = kafka(2);
    let bootstrap = kafka.bootstrap();
    kafka.stop_broker(1).unwrap();
    let batcher = batcher_with(&bootstrap, |_, _| {}).await;
    let flights = batcher.collector("flights").build().unwrap();
    for i in 0..100 {
        flights.add_event(Record::value(&i.to_string()).with_partition(i % 2)).await.unwrap();
    }
    let down = |h: &kafka_batcher::Health| matches!(h.cluster, ClusterHealth::Unreachable { .. });
    batcher.health().wait_for(down).await.unwrap();
    assert_eq!(batcher.report().await.in_memory, 100);
    kafka.restart_broker(1, ProducerMemory::LastBatch).unwrap();
    flights.flush().await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    for partition in 0..2 {
        let expected: Vec<String> = (0..50).map(|i| (2 * i + partition).to_string()).collect();
        assert_eq!(values(&kafka, partition), expected);
    }
}

/// 5. There, while one partition was "locked" by a failure, new events of the whole topic were refused.
#[tokio::test]
async fn a_partition_without_a_leader_stops_neither_the_intake_nor_its_neighbours() {
    let kafka = kafka(2);
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.remove_leader("flights", 0).unwrap();
    let mut stuck = Vec::new();
    for i in 0..10 {
        stuck.push(flights.send(Record::value(&i.to_string()).with_partition(0)).await.unwrap());
        let healthy = flights.send(Record::value(&i.to_string()).with_partition(1)).await.unwrap();
        assert_eq!(outcome(&healthy).await.unwrap().partition, 1);
    }
    assert!(stuck.iter().all(|receipt| receipt.try_delivered().is_none()));
    kafka.move_leader("flights", 0, 1).unwrap();
    for (i, receipt) in stuck.iter().enumerate() {
        assert_eq!(outcome(receipt).await.unwrap().offset, Some(i as i64));
    }
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

// ---- 4, 6 --------------------------------------------------------------------------------------------------------------

/// 4. There, the final flush ran after the client had been stopped, and an exit signal flushed twice.
#[tokio::test]
async fn what_is_open_at_shutdown_is_delivered_once_with_the_client_still_up() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_wait_time = LONG).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    for event in ["a", "b", "c"] {
        flights.add_event(event).await.unwrap();
    }
    // Two signals at once, and one more.
    let (first, second) = tokio::join!(batcher.shutdown(LONG), batcher.shutdown(LONG));
    assert!(first.all_delivered() && second.all_delivered(), "{first:?} {second:?}");
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(values(&kafka, 0), ["a", "b", "c"]);
}

/// 6. There, nobody drained the storage, and batches that came after a failed one overtook it.
#[tokio::test]
async fn a_batch_that_went_to_the_storage_is_replayed_and_never_overtaken() {
    let kafka = kafka(1);
    let batcher = kafka_batcher::KafkaBatcher::builder([kafka.bootstrap()])
        .settings(|s| s.retry_backoff = Duration::from_millis(5))
        .collector_defaults(|c| c.batch_size = 1)
        .storage(kafka_batcher::MemoryStorage::default())
        .spool_after(Duration::from_millis(10))
        .start()
        .await
        .unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.stop_broker(1).unwrap();
    let stored = flights.send("stored").await.unwrap();
    stored.durable().await.unwrap();
    assert_eq!(batcher.report().await.spooled, 1);
    let later = flights.send("later").await.unwrap();
    kafka.restart_broker(1, kafka_batcher_broker::ProducerMemory::LastBatch).unwrap();
    outcome(&later).await.unwrap();
    outcome(&stored).await.unwrap();
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(values(&kafka, 0), ["stored", "later"]);
}

// ---- 7, 8 ---------------------------------------------------------------------------------------------------------------

/// 7. There, when one partition of a batch failed, the partitions already acknowledged were stored and sent again.
#[tokio::test]
async fn a_partition_that_was_acknowledged_is_not_sent_again_when_its_neighbour_fails() {
    let kafka = kafka(3);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| {
        d.collect_by_partition = false;
        d.batch_size = 3;
        d.max_wait_time = LONG;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    let refusal = Fault::answer(ErrorCode::NOT_ENOUGH_REPLICAS).on(Api::Produce).partition("flights", 1);
    let refused = kafka.inject(refusal.times(3));
    let touching = |partition| {
        kafka.inject(Fault::call_after(|_| ()).on(Api::Produce).partition("flights", partition).always())
    };
    let touched = [touching(0), touching(1), touching(2)];
    let mut receipts = Vec::new();
    for partition in 0..3 {
        receipts.push(flights.send(Record::value("v").with_partition(partition)).await.unwrap());
    }
    for receipt in &receipts {
        outcome(receipt).await.unwrap();
    }
    assert_eq!(kafka.fault_hits(refused), 3);
    assert_eq!(touched.map(|fault| kafka.fault_hits(fault)), [1, 4, 1]);
    assert_eq!((0..3).map(|p| values(&kafka, p).len()).collect::<Vec<_>>(), [1, 1, 1]);
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!((report.possible_duplicates, kafka.stats().duplicates), (0, 0));
}

/// 8. There, a list call stopped midway and did not say what was accepted.
#[tokio::test]
async fn a_list_is_answered_event_by_event_and_one_that_is_refused_stops_no_other() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_batch_bytesize = 1000).await;
    let flights = batcher.collector("flights").build().unwrap();
    let large = value("large", 5000);
    let results = flights.add_events(["a", "b", large.as_str(), "c"]).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(values(&kafka, 0), ["a", "b", "c"]);
}

/// 8. There, a caller got an error although its event had been stored for later, and so sent it again.
#[tokio::test]
async fn an_event_that_was_accepted_is_no_error_though_its_first_attempts_fail() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    let failing = kafka.inject(Fault::answer(ErrorCode::NOT_ENOUGH_REPLICAS).on(Api::Produce).times(5));
    let receipt = flights.send("once").await.unwrap();
    assert_eq!(outcome(&receipt).await.unwrap().offset, Some(0));
    assert_eq!(kafka.fault_hits(failing), 5);
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(values(&kafka, 0), ["once"]);
}

// ---- 9 ------------------------------------------------------------------------------------------------------------------

/// 9. There, calls were nested and synchronous: with a produce of 5 ms, one batch was in flight for each topic, and ten
/// partitions were no faster than one (4 838 events a second after 4 985).
#[tokio::test]
async fn a_slow_produce_holds_up_no_caller_and_batches_of_all_partitions_are_in_flight_at_once() {
    const PARTITIONS: i32 = 10;
    let kafka = kafka(PARTITIONS);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| {
        d.batch_size = 5;
        d.max_wait_time = LONG;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.inject(Fault::delay(Duration::from_millis(5)).on(Api::Produce).always());
    // A partition's first batch goes alone; then five may be in flight.
    for i in 0..PARTITIONS * 5 {
        flights.add_event(Record::value("first").with_partition(i / 5)).await.unwrap();
    }
    flights.flush().await;
    let before = kafka.stats().requests(Api::Produce);
    let (mut in_flight, mut events) = (0, 0);
    for round in 0..40 {
        for partition in 0..PARTITIONS {
            for i in 0..5 {
                // Never waits, whatever Kafka does: it is not even asynchronous.
                let event = format!("{}", round * 5 + i);
                flights.try_add_event(Record::value(&event).with_partition(partition)).unwrap();
                events += 1;
            }
        }
        in_flight = in_flight.max(batcher.report().await.in_flight);
    }
    flights.flush().await;
    let (requests, batches) = (kafka.stats().requests(Api::Produce) - before, events / 5);
    assert_eq!(events, 2000);
    // One batch of five events for each of ten partitions would be 50.
    assert!(in_flight > 50, "at most {in_flight} events were in flight");
    assert!(requests * 2 < batches, "{requests} requests for {batches} batches: they shared none");
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.reorderings == 0, "{report:?}");
    for partition in 0..PARTITIONS {
        let expected: Vec<String> = (0..200).map(|i| i.to_string()).collect();
        assert_eq!(values(&kafka, partition)[5..], expected);
    }
}

/// 9. There, a produce of more than 5 s killed the caller while the batch was being delivered.
#[tokio::test]
async fn a_produce_that_outlasts_its_time_is_sent_again_and_written_once() {
    let kafka = kafka(1);
    let batcher =
        batcher_with(&kafka.bootstrap(), |s, _| s.request_timeout = Duration::from_millis(200)).await;
    let flights = batcher.collector("flights").build().unwrap();
    let silent = kafka.inject(Fault::never_answer().on(Api::Produce));
    let receipt = flights.send("slow").await.unwrap();
    flights.add_event("next").await.unwrap();
    assert_eq!(outcome(&receipt).await.unwrap().partition, 0);
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!(kafka.fault_hits(silent), 1);
    assert_eq!(values(&kafka, 0), ["slow", "next"]);
}

// ---- 11 -----------------------------------------------------------------------------------------------------------------

/// 11. There, an empty value was sent as null, which deletes its key on a compacted topic, and a null key crashed the
/// batch. Both ways in: to a partition, and through the lane of a topic that is not known yet.
#[tokio::test]
async fn an_empty_value_stays_empty_and_a_null_key_is_null() {
    let kafka = EmbeddedKafka::builder().start().unwrap();
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    let add = async || {
        flights.add_event(("key", "")).await.unwrap();
        flights.add_event("no key").await.unwrap();
        flights.add_event(Record::tombstone("key")).await.unwrap();
        flights.add_event(("", "empty key")).await.unwrap();
    };
    add().await;
    kafka.create_topic(TopicSpec::new("flights", 1)).unwrap();
    ready(&batcher, "flights").await;
    add().await;
    assert!(batcher.shutdown(LONG).await.all_delivered());
    let text = |bytes: Option<bytes::Bytes>| bytes.map(|b| String::from_utf8(b.to_vec()).unwrap());
    let log: Vec<_> = kafka.log("flights", 0).into_iter().map(|r| (text(r.key), text(r.value))).collect();
    let some = |s: &str| Some(s.to_owned());
    let expected =
        [(some("key"), some("")), (None, some("no key")), (some("key"), None), (some(""), some("empty key"))];
    assert_eq!(log, [&expected[..], &expected[..]].concat());
}

// ---- 12 -----------------------------------------------------------------------------------------------------------------

/// 12. There, a partition function that raised or answered a number out of range crashed the collector and its caller.
#[tokio::test]
async fn a_partition_function_that_fails_costs_that_event_alone() {
    let kafka = kafka(3);
    let batcher = batcher(&kafka).await;
    let choose = PartitionFn::fallible(|event| match event.value.unwrap_or_default() {
        b"far" => Ok(PartitionKey::Explicit(3)),
        b"negative" => Ok(PartitionKey::Explicit(-1)),
        b"raises" => Err("no idea"),
        b"panics" => panic!("at the disco"),
        _ => Ok(PartitionKey::Explicit(2)),
    });
    let flights = batcher.collector("flights").partitioner(choose).build().unwrap();
    ready(&batcher, "flights").await;
    for bad in ["far", "negative", "raises", "panics"] {
        flights.add_event("before").await.unwrap();
        let error = flights.add_event(bad).await.unwrap_err();
        match bad {
            "far" | "negative" => assert!(
                matches!(&error, AddError::Partition(PartitionError::OutOfRange { count: 3, .. })),
                "{bad}: {error:?}"
            ),
            "raises" => assert!(error.to_string().contains("no idea"), "{error}"),
            _ => assert!(
                matches!(&error, AddError::Panicked { what: "partitioner", message } if message == "at the disco"),
                "{error:?}"
            ),
        }
        flights.add_event("after").await.unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!((report.accepted, report.refused), (8, 4));
    assert_eq!(values(&kafka, 2), ["before", "after"].repeat(4));
}

/// 12. There, a flusher or an encoder that raised crashed the collector and its caller.
#[tokio::test]
async fn a_flusher_or_an_encoder_that_fails_costs_that_event_alone() {
    struct Stubborn(&'static str);
    impl serde::Serialize for Stubborn {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0 {
                "encoder raises" => Err(serde::ser::Error::custom("not like this")),
                "encoder panics" => panic!("in the encoder"),
                text => serializer.serialize_str(text),
            }
        }
    }
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let flusher = FlushFn::fallible(|_, value| match value.unwrap_or_default() {
        b"\"flusher raises\"" => Err("cannot say"),
        b"\"flusher panics\"" => panic!("in the flusher"),
        _ => Ok(false),
    });
    let flights = batcher.collector("flights").flusher(flusher).build().unwrap().typed::<Stubborn>();
    for (bad, words) in [
        ("flusher raises", "cannot say"),
        ("flusher panics", "the flusher panicked for this event: in the flusher"),
        ("encoder raises", "not like this"),
        ("encoder panics", "the encoder panicked for this event: in the encoder"),
    ] {
        flights.add_event(&Stubborn("before")).await.unwrap();
        let error = flights.add_event(&Stubborn(bad)).await.unwrap_err().to_string();
        assert!(error.contains(words), "{bad}: {error}");
        flights.add_event(&Stubborn("after")).await.unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!((report.accepted, report.refused), (8, 4));
    assert_eq!(values(&kafka, 0), ["\"before\"", "\"after\""].repeat(4));
}

// ---- 14 -----------------------------------------------------------------------------------------------------------------

/// 14. There, `min_delay` was measured with the wall clock and looked at again only when the next event came.
#[tokio::test]
async fn a_full_batch_held_back_by_min_delay_goes_out_without_another_event() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| {
        d.batch_size = 2;
        d.min_delay = Duration::from_millis(200);
        d.max_wait_time = LONG;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    let mut receipts = Vec::new();
    for event in ["a", "b", "c", "d"] {
        receipts.push(flights.send(event).await.unwrap());
    }
    for receipt in &receipts {
        outcome(receipt).await.unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert_eq!(report.flush_reasons.get("count"), Some(&2), "{:?}", report.flush_reasons);
    assert_eq!(values(&kafka, 0), ["a", "b", "c", "d"]);
}

// ---- 15 -----------------------------------------------------------------------------------------------------------------

/// 15. There, the number of partitions was asked once and believed for ever.
#[tokio::test]
async fn partitions_that_are_added_later_are_used() {
    let kafka = kafka(1);
    let batcher =
        batcher_with(&kafka.bootstrap(), |s, _| s.metadata_max_age = Duration::from_millis(20)).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    let on_the_last = Record::value("new").with_partition(3);
    let error = flights.add_event(on_the_last).await.unwrap_err();
    assert!(matches!(error, AddError::Partition(PartitionError::OutOfRange { count: 1, .. })), "{error}");
    kafka.grow_topic("flights", 4).unwrap();
    let four = |h: &kafka_batcher::Health| h.topics["flights"] == TopicHealth::Ready { partitions: 4 };
    batcher.health().wait_for(four).await.unwrap();
    let receipt = flights.send(on_the_last).await.unwrap();
    assert_eq!(outcome(&receipt).await.unwrap().partition, 3);
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!(values(&kafka, 3), ["new"]);
}

/// 15. There, a topic without partitions started accumulators for the partitions 0 and -1, and one topic that could not
/// start blocked all that came after it.
#[tokio::test]
async fn a_topic_that_is_missing_keeps_its_events_and_holds_up_no_other() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let missing = batcher.collector("arrivals").build().unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    let early = missing.send(Record::keyed("k", "early")).await.unwrap();
    let unavailable = |h: &kafka_batcher::Health| matches!(&h.topics["arrivals"], TopicHealth::Unavailable { message } if message.contains("arrivals"));
    batcher.health().wait_for(unavailable).await.unwrap();
    let receipt = flights.send("not held up").await.unwrap();
    outcome(&receipt).await.unwrap();
    assert!(early.try_delivered().is_none());
    kafka.create_topic(TopicSpec::new("arrivals", 1)).unwrap();
    assert_eq!(outcome(&early).await.unwrap().partition, 0);
    until(|| batcher.health().borrow().is_ready()).await;
    assert!(batcher.shutdown(LONG).await.all_delivered());
}
