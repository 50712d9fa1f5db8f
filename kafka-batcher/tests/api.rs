//! The public surface, promise by promise: start and shutdown, flush, collectors, settings, and how events end.

mod support;

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use kafka_batcher::flusher::FlushFn;
use kafka_batcher::partitioner::{KeyHash, Strategy};
use kafka_batcher::{
    AddError, AddedHeaders, BuildError, FailureReason, Header, Interceptor, KafkaBatcher, Persisted,
    ReceiptError, Record,
};
use kafka_batcher_broker::{Api, EmbeddedKafka, Fault, TopicSpec};
use support::{LONG, batcher, batcher_with, kafka, outcome, ready, until, values};

// ---- flush --------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_flush_waits_for_what_was_accepted_before_it_and_for_nothing_later() {
    let kafka = kafka(2);
    let batcher = batcher_with(&kafka.bootstrap(), |s, d| {
        s.request_timeout = LONG;
        d.max_wait_time = LONG;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.freeze(1).unwrap();
    let before = flights.send(Record::value("before").with_partition(0)).await.unwrap();
    let mut flush = pin!(flights.flush());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(flush.as_mut().poll(&mut cx).is_pending());
    // Commands are taken in order: the flush has been, when this has.
    let _ = batcher.report().await;
    // The intake goes on meanwhile; this one stays in its open batch.
    let after = flights.send(Record::value("after").with_partition(1)).await.unwrap();
    assert!(flush.as_mut().poll(&mut cx).is_pending() && before.try_delivered().is_none());
    kafka.thaw(1).unwrap();
    flush.await;
    assert!(before.try_delivered().unwrap().is_ok());
    assert!(after.try_delivered().is_none());
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!((report.flush_reasons["flush"], report.flush_reasons["shutdown"]), (1, 1));
}

#[tokio::test]
async fn flushes_of_nothing_and_of_everything_resolve() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_wait_time = LONG).await;
    batcher.flush().await;
    let flights = batcher.collector("flights").build().unwrap();
    flights.flush().await;
    let receipt = flights.send("v").await.unwrap();
    batcher.flush().await;
    assert!(receipt.try_delivered().unwrap().is_ok());
    flights.flush().await;
    assert!(batcher.shutdown(LONG).await.all_delivered());
    flights.flush().await;
    batcher.flush().await;
}

// ---- the end ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn after_a_shutdown_everything_says_closed_and_the_report_stays_the_same() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    flights.add_event("v").await.unwrap();
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");

    assert!(matches!(flights.add_event("late").await, Err(AddError::Closed)));
    assert!(matches!(flights.send("late").await, Err(AddError::Closed)));
    assert!(matches!(flights.try_add_event("late"), Err(AddError::Closed)));
    assert!(matches!(flights.blocking_add_event("late"), Err(AddError::Closed)));
    assert!(matches!(flights.typed::<str>().add_event("late").await, Err(AddError::Closed)));
    assert_eq!(batcher.collector("other").build().unwrap_err(), BuildError::Closed);
    assert_eq!(batcher.shutdown(LONG).await, report);
    assert_eq!(batcher.report().await, report);
    assert_eq!(values(&kafka, 0), ["v"]);
}

/// Two parts of a program may both think that they end it. There was a time when the first of them was told that nothing
/// had ever been accepted, and the connections were closed under the second one's deliveries.
#[tokio::test]
async fn two_shutdowns_at_once_wait_for_the_same_end_and_answer_the_same() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |s, _| s.request_timeout = LONG).await;
    let flights = batcher.collector("flights").build().unwrap();
    let others = batcher.collector("others").build().unwrap();
    ready(&batcher, "flights").await;
    kafka.freeze(1).unwrap();
    for i in 0..10 {
        flights.add_event(&i.to_string()).await.unwrap();
    }
    let mut first = pin!(batcher.shutdown(LONG));
    let mut second = pin!(batcher.shutdown(LONG));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut cx).is_pending());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    assert!(matches!(others.try_add_event("late"), Err(AddError::Closed)));
    kafka.thaw(1).unwrap();
    let (first, second) = tokio::join!(first, second);
    assert!(first.all_delivered() && first.accepted == 10, "{first:?}");
    assert_eq!((second.accepted, second.delivered), (10, 10));
    assert_eq!(batcher.report().await.delivered, 10);
}

#[tokio::test]
async fn a_second_shutdown_in_more_of_a_hurry_ends_the_first_one() {
    let kafka = kafka(1);
    let bootstrap = kafka.bootstrap();
    kafka.stop_broker(1).unwrap();
    let batcher = batcher_with(&bootstrap, |_, _| {}).await;
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send("v").await.unwrap();
    let (patient, hasty) = tokio::join!(batcher.shutdown(LONG * 60), batcher.shutdown(Duration::ZERO));
    for report in [patient, hasty] {
        assert!(report.balances() && !report.all_delivered(), "{report:?}");
        assert_eq!((report.accepted, report.lost), (1, 1));
    }
    match receipt.try_delivered() {
        Some(Err(ReceiptError::Failed(error))) => {
            assert_eq!((error.reason, error.persisted), (FailureReason::Shutdown, Persisted::No));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_shutdown_cannot_deliver_in_time_is_counted_and_its_receipts_say_so() {
    let kafka = kafka(2);
    let batcher = batcher_with(&kafka.bootstrap(), |s, _| s.request_timeout = LONG).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    let missing = batcher.collector("missing").build().unwrap();
    let never_sent = missing.send("a").await.unwrap();
    let sent = kafka.inject(Fault::never_answer().on(Api::Produce).partition("flights", 1).always());
    let in_doubt = flights.send(Record::value("b").with_partition(1)).await.unwrap();
    until(|| kafka.fault_hits(sent) == 1).await;
    let report = batcher.shutdown(Duration::ZERO).await;
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.accepted, report.delivered, report.lost, report.in_doubt), (2, 0, 1, 1));
    let persisted = |receipt: &kafka_batcher::Receipt| match receipt.try_delivered() {
        Some(Err(ReceiptError::Failed(error))) => error.persisted,
        other => panic!("{other:?}"),
    };
    assert_eq!(persisted(&never_sent), Persisted::No);
    assert_eq!(persisted(&in_doubt), Persisted::Maybe);
}

// ---- collectors and runtimes --------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_topic_has_one_collector_and_more_topics_may_come_at_any_time() {
    let kafka = EmbeddedKafka::builder().topic("flights", 1).topic("arrivals", 2).start().unwrap();
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    flights.add_event("v").await.unwrap();
    let again = batcher.collector("flights").build().unwrap_err();
    assert_eq!(again, BuildError::DuplicateCollector("flights".to_owned()));
    assert!(again.to_string().contains("clone"), "{again}");
    flights.flush().await;
    let arrivals = batcher.collector("arrivals").build().unwrap();
    let clone = arrivals.clone();
    tokio::spawn(async move { clone.add_event("w").await }).await.unwrap().unwrap();
    assert_eq!((flights.topic(), arrivals.topic()), ("flights", "arrivals"));
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
    assert_eq!(report.accepted, 2);
}

#[tokio::test]
async fn a_collector_that_cannot_be_names_every_mistake() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let error = batcher
        .collector("no/such name")
        .settings(|s| {
            s.batch_size = 0;
            s.required_acks = 2;
        })
        .build()
        .unwrap_err()
        .to_string();
    for key in ["topic_name", "batch_size", "required_acks"] {
        assert!(error.contains(key), "{error}");
    }
    // The name is free still.
    batcher.collector("flights").build().unwrap();
    let _ = batcher.shutdown(LONG).await;
}

async fn a_thousand_events(kafka: &EmbeddedKafka) {
    let batcher = batcher(kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    let producers: Vec<_> = (0..10)
        .map(|producer| {
            let flights = flights.clone();
            tokio::spawn(async move {
                for i in 0..100 {
                    flights.add_event((&format!("k{producer}"), &i.to_string())).await.unwrap();
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.accepted == 1000, "{report:?}");
}

#[test]
fn runtimes_of_one_thread_and_of_many_do() {
    for mut runtime in
        [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()]
    {
        let kafka = kafka(3);
        runtime.enable_all().build().unwrap().block_on(a_thousand_events(&kafka));
        assert_eq!((0..3).map(|p| values(&kafka, p).len()).sum::<usize>(), 1000);
    }
}

#[test]
fn a_program_without_a_runtime_starts_sends_and_shuts_down() {
    let kafka = kafka(2);
    assert_eq!(
        KafkaBatcher::builder([kafka.bootstrap()]).start().now_or_never().unwrap().unwrap_err(),
        BuildError::NoRuntime
    );
    let batcher = KafkaBatcher::builder([kafka.bootstrap()]).start_blocking().unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let flights = flights.clone();
            std::thread::spawn(move || {
                for i in 0..250 {
                    flights.blocking_add_event(("k", &i.to_string())).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let receipt = flights.blocking_send("last").unwrap();
    let report = batcher.shutdown_blocking(LONG);
    assert!(report.all_delivered() && report.accepted == 1001, "{report:?}");
    assert!(receipt.try_delivered().unwrap().is_ok());
    assert_eq!(batcher.shutdown_blocking(LONG), report, "again, with its thread gone");
    assert!(matches!(flights.blocking_add_event("late"), Err(AddError::Closed)));
}

#[test]
fn a_batcher_with_a_thread_of_its_own_may_be_dropped() {
    let kafka = kafka(1);
    let batcher = KafkaBatcher::builder([kafka.bootstrap()]).start_blocking().unwrap();
    let flights = batcher.collector("flights").build().unwrap();
    flights.blocking_add_event("v").unwrap();
    drop(batcher);
    assert!(matches!(flights.blocking_add_event("late"), Err(AddError::Closed)));
}

// ---- settings -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_collectors_settings_win_over_the_applications_and_those_over_the_built_in_ones() {
    let kafka = kafka(1);
    let batcher = KafkaBatcher::builder([kafka.bootstrap()])
        .settings(|s| s.client_id = "tests".to_owned())
        .collector_defaults(|d| {
            d.batch_size = 7;
            d.collect_by_partition = false;
            d.max_wait_time = Duration::from_millis(70);
        })
        .start()
        .await
        .unwrap();
    let _flights = batcher
        .collector("flights")
        .settings(|s| {
            // Values without "truth" count as much as any other.
            s.max_wait_time = Duration::ZERO;
            s.batch_size = 8;
        })
        .partition_strategy(Strategy::RoundRobin)
        .build()
        .unwrap();
    let _others = batcher.collector("others").build().unwrap();
    let flights = batcher.collector_settings("flights").unwrap();
    assert_eq!((flights.batch_size, flights.max_wait_time), (8, Duration::ZERO));
    assert!(!flights.collect_by_partition && flights.required_acks == -1);
    assert_eq!(flights.partition_strategy, Strategy::RoundRobin);
    let others = batcher.collector_settings("others").unwrap();
    assert_eq!((others.batch_size, others.max_wait_time), (7, Duration::from_millis(70)));
    assert_eq!(batcher.collector_settings("nobody's"), None);
    assert_eq!(batcher.effective_settings().client_id, "tests");
    assert_eq!(batcher.effective_settings().endpoints, [kafka.bootstrap()]);
    let _ = batcher.shutdown(LONG).await;
}

#[tokio::test]
async fn each_strategy_puts_keys_where_it_says_and_takes_turns_where_it_says() {
    const HASHES: [(&str, Strategy, KeyHash); 4] = [
        ("murmur2", Strategy::Murmur2, KeyHash::Murmur2),
        ("phash2", Strategy::Phash2, KeyHash::Phash2),
        ("crc32", Strategy::Crc32, KeyHash::Crc32),
        ("fnv1a", Strategy::Fnv1a, KeyHash::Fnv1a),
    ];
    let mut kafka = EmbeddedKafka::builder().topic("turns", 4);
    for (topic, ..) in HASHES {
        kafka = kafka.topic(topic, 7);
    }
    let kafka = kafka.start().unwrap();
    let batcher = batcher(&kafka).await;
    for (topic, strategy, hash) in HASHES {
        let collector = batcher.collector(topic).partition_strategy(strategy);
        let collector = collector.settings(|s| s.max_wait_time = LONG).build().unwrap();
        ready(&batcher, topic).await;
        // Each three times in the same batches: the first of a batch goes another way in than those behind it. And one with a header,
        // which goes that way wherever it stands.
        let headers = [Header::new("h", "v")];
        let mut sent = Vec::new();
        for i in 0..200 {
            let key = format!("key-{}", i % 50);
            let headers = if i < 150 { &headers[..0] } else { &headers[..] };
            let record = Record::keyed(&key, "v").with_headers(headers);
            let receipt = collector.send(record).await.unwrap();
            sent.push((key, receipt));
        }
        collector.flush().await;
        for (key, receipt) in sent {
            let place = receipt.delivered().await.unwrap();
            assert_eq!(place.partition as u32, hash.hash(key.as_bytes()) % 7, "{topic} {key}");
        }
    }
    // Exactly in turn, though now and then an event needs more memory and tries again.
    let turns = batcher.collector("turns").partition_strategy(Strategy::RoundRobin).build().unwrap();
    ready(&batcher, "turns").await;
    for _ in 0..400 {
        turns.add_event(&[0; 1000]).await.unwrap();
    }
    assert!(batcher.shutdown(LONG).await.all_delivered());
    assert_eq!((0..4).map(|p| kafka.log("turns", p).len()).collect::<Vec<_>>(), [100; 4]);
}

// ---- batches ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_reason_of_each_batch_is_counted() {
    let kafka = EmbeddedKafka::builder()
        .topic("count", 1)
        .topic("bytes", 1)
        .topic("wait", 1)
        .topic("flusher", 1)
        .topic("flush", 1)
        .topic("topic", 3)
        .topic("shutdown", 1)
        .start()
        .unwrap();
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_wait_time = LONG).await;
    for topic in ["count", "bytes", "wait", "flusher", "flush", "topic", "shutdown"] {
        let mut builder = batcher.collector(topic).settings(|s| match topic {
            "count" => s.batch_size = 5,
            "bytes" => s.max_batch_bytesize = 1000,
            "wait" => s.max_wait_time = Duration::from_millis(1),
            "topic" => {
                s.collect_by_partition = false;
                s.batch_size = 3;
            }
            _ => {}
        });
        if topic == "flusher" {
            builder = builder.flusher(FlushFn::new(|_, value| value == Some(b"now")));
        }
        let collector = builder.build().unwrap();
        ready(&batcher, topic).await;
        let add = async |value: &str, partition: i32| {
            collector.send(Record::value(value).with_partition(partition)).await.unwrap()
        };
        match topic {
            "count" => {
                let mut last = None;
                for _ in 0..10 {
                    last = Some(add("v", 0).await);
                }
                outcome(&last.unwrap()).await.unwrap();
            }
            "bytes" => {
                let first = add(&"v".repeat(600), 0).await;
                add(&"v".repeat(600), 0).await.try_delivered();
                outcome(&first).await.unwrap();
                collector.flush().await;
            }
            "wait" => {
                outcome(&add("v", 0).await).await.unwrap();
            }
            "flusher" => {
                let _ = add("later", 0).await;
                outcome(&add("now", 0).await).await.unwrap();
            }
            "flush" => {
                let _ = add("v", 0).await;
                collector.flush().await;
            }
            "topic" => {
                let (first, _, last) = (add("v", 0).await, add("v", 1).await, add("v", 2).await);
                outcome(&first).await.unwrap();
                outcome(&last).await.unwrap();
            }
            _ => drop(add("v", 0).await),
        }
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    let expected = [
        ("bytes", 1),
        ("count", 3), // two of topic "count", one of topic "topic"
        ("flush", 2), // what the byte limit left open, and its own
        ("flusher", 1),
        ("shutdown", 1),
        ("topic", 2),
        ("wait", 1),
    ];
    assert_eq!(report.flush_reasons.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(report.batches, 11);
    assert_eq!(report.batches, kafka.stats().batches);
    assert_eq!(report.bytes, kafka.stats().bytes);
    assert_eq!(report.accepted, kafka.stats().records);
    assert!(report.latency.quantile(0.99) > Duration::ZERO);
}

#[tokio::test]
async fn an_event_that_is_too_large_for_the_broker_fails_alone_in_the_brokers_words() {
    let topic = TopicSpec::new("flights", 1).config("max.message.bytes", "1000");
    let kafka = EmbeddedKafka::builder().topic_spec(topic).start().unwrap();
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_wait_time = LONG).await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    let mut receipts = Vec::new();
    for i in 0..40 {
        let size = if i == 17 { 5000 } else { 100 };
        receipts.push(flights.send(&format!("{i:<size$}")).await.unwrap());
    }
    flights.flush().await;
    for (i, receipt) in receipts.iter().enumerate() {
        match (i, outcome(receipt).await) {
            (17, Err(ReceiptError::Failed(error))) => {
                assert_eq!((error.reason, error.persisted), (FailureReason::TooLarge, Persisted::No));
                assert_eq!(error.code, Some(10));
                let words = error.to_string();
                assert!(words.contains("too large") && words.contains("10"), "{words}");
            }
            (_, Ok(place)) => assert_eq!(place.offset, Some(i as i64 - i64::from(i > 17))),
            (_, other) => panic!("{i}: {other:?}"),
        }
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances() && report.lost == 1 && report.delivered == 39, "{report:?}");
    assert_eq!(report.reorderings + report.possible_duplicates + report.in_doubt, 0);
    let expected: Vec<String> = (0..40).filter(|i| *i != 17).map(|i| i.to_string()).collect();
    let found: Vec<String> = values(&kafka, 0).iter().map(|v| v.trim().to_owned()).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn without_acknowledgements_delivered_means_sent_and_nothing_is_durable() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.required_acks = 0).await;
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send("v").await.unwrap();
    let place = outcome(&receipt).await.unwrap();
    assert_eq!((place.partition, place.offset), (0, None));
    assert_eq!(receipt.durable().await, Err(ReceiptError::NotAcknowledged));
    let _ = batcher.shutdown(LONG).await;
    until(|| values(&kafka, 0) == ["v"]).await;
}

#[tokio::test]
async fn a_receipt_may_be_asked_by_several_and_be_dropped_unasked() {
    let kafka = kafka(1);
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_wait_time = LONG).await;
    let flights = batcher.collector("flights").build().unwrap();
    drop(flights.send("unasked").await.unwrap());
    let receipt = flights.send("asked").await.unwrap();
    let mut given_up = pin!(receipt.delivered());
    assert!(matches!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let receipt = receipt.clone();
            tokio::spawn(async move { receipt.delivered().await })
        })
        .collect();
    flights.flush().await;
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap().unwrap().offset, Some(1));
    }
    receipt.durable().await.unwrap();
    assert_eq!(receipt.try_delivered().unwrap().unwrap().offset, Some(1));
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// Adds two headers, the second null; dies of an event without a value.
struct Traced;

impl Interceptor for Traced {
    fn on_event(&self, event: &Record<'_>, headers: &mut AddedHeaders) {
        headers.add("trace", Some(event.value.expect("a value")));
        headers.add("null", None);
    }
}

#[tokio::test]
async fn an_interceptors_headers_stand_behind_the_events_own_whichever_way_it_comes() {
    #[derive(serde::Serialize)]
    struct Typed(u32);
    let kafka = EmbeddedKafka::builder().start().unwrap();
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").interceptor(Traced).build().unwrap();
    let own = [Header::new("own", "1")];
    // Before the topic is known, with a header of the library's own that is stripped later; and after.
    for round in 0..2 {
        flights.add_event(Record::value("a").with_headers(&own).with_partition(0)).await.unwrap();
        flights.try_add_event("b").unwrap();
        flights.typed::<Typed>().add_event(&Typed(7)).await.unwrap();
        let error = flights.add_event(Record::tombstone("k")).await.unwrap_err();
        assert!(matches!(error, AddError::Panicked { what: "interceptor", .. }), "{error}");
        if round == 0 {
            kafka.create_topic(TopicSpec::new("flights", 1)).unwrap();
            ready(&batcher, "flights").await;
        }
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.refused == 2, "{report:?}");
    let seen: Vec<Vec<(String, Option<bytes::Bytes>)>> = kafka
        .log("flights", 0)
        .into_iter()
        .map(|record| {
            record
                .headers
                .into_iter()
                .map(|h| (String::from_utf8_lossy(&h.key).into_owned(), h.value))
                .collect()
        })
        .collect();
    let header = |name: &str, value: Option<&'static str>| (name.to_owned(), value.map(bytes::Bytes::from));
    let expected = [
        vec![header("own", Some("1")), header("trace", Some("a")), header("null", None)],
        vec![header("trace", Some("b")), header("null", None)],
        vec![header("trace", Some("7")), header("null", None)],
    ];
    assert_eq!(seen, [expected.clone(), expected].concat());
}

#[tokio::test]
async fn every_form_of_an_event_is_taken() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    let headers = [Header::new("h", "1")];
    let results = flights
        .add_events([
            Record::from("value"),
            Record::from(("key", "value")),
            Record::from((&headers[..], "key", "value")),
            Record::tombstone("key").with_timestamp(7),
        ])
        .await;
    assert!(results.iter().all(Result::is_ok));
    flights.add_event(&vec![0xff, 0xfe]).await.unwrap();
    flights.add_event(&String::from("owned")).await.unwrap();
    assert!(batcher.shutdown(LONG).await.all_delivered());
    let log = kafka.log("flights", 0);
    assert_eq!(log.len(), 6);
    assert_eq!(log[2].headers.len(), 1);
    assert_eq!((log[3].value.as_deref(), log[3].timestamp), (None, 7));
    assert_eq!(log[4].value.as_deref(), Some(&[0xff, 0xfe][..]));
}
