//! The path of an event through the public API into an embedded broker and back.

mod support;

use std::time::Duration;

use kafka_batcher::{Header, Record};
use kafka_batcher_broker::{Api, EmbeddedKafka, Fault};
use support::{LONG, batcher, batcher_with, kafka, outcome, values};

#[tokio::test]
async fn one_event_goes_the_whole_way_and_its_receipt_says_where() {
    let kafka = kafka(3);
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    let receipt = flights.send(("SEA", r#"{"delay":66}"#)).await.unwrap();
    let place = receipt.delivered().await.unwrap();
    let record = kafka.log("flights", place.partition).remove(0);
    assert_eq!(place.offset, Some(0));
    assert_eq!(
        (record.key.as_deref(), record.value.as_deref()),
        (Some(&b"SEA"[..]), Some(&br#"{"delay":66}"#[..]))
    );
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!((report.accepted, report.batches), (1, 1));
}

#[tokio::test]
async fn ten_thousand_events_arrive_once_and_in_order_per_partition() {
    let kafka = kafka(4);
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").settings(|s| s.batch_size = 100).build().unwrap();
    for i in 0..10_000 {
        let event = i.to_string();
        flights.add_event(Record::value(&event).with_partition(i % 4)).await.unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    for partition in 0..4 {
        let expected: Vec<String> = (0..2500).map(|i| (i * 4 + partition).to_string()).collect();
        assert_eq!(values(&kafka, partition), expected);
    }
    assert_eq!(report.possible_duplicates + report.reorderings + report.in_doubt + report.lost, 0);
}

#[tokio::test]
async fn null_and_empty_headers_and_times_arrive_as_they_were_given() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").build().unwrap();
    let headers = [Header::new("a", "1"), Header::null("a"), Header::new("a", "")];
    flights
        .add_event(Record::tombstone("k").with_headers(&headers).with_timestamp(1_500_000_000_000))
        .await
        .unwrap();
    flights.add_event((&headers[..0], "", "")).await.unwrap();
    flights.flush().await;
    let log = kafka.log("flights", 0);
    assert_eq!((log[0].key.as_deref(), log[0].value.as_deref()), (Some(&b"k"[..]), None));
    assert_eq!(log[0].timestamp, 1_500_000_000_000);
    let values: Vec<_> = log[0].headers.iter().map(|h| h.value.as_deref().map(<[u8]>::to_vec)).collect();
    assert_eq!(values, [Some(b"1".to_vec()), None, Some(Vec::new())]);
    assert_eq!((log[1].key.as_deref(), log[1].value.as_deref()), (Some(&b""[..]), Some(&b""[..])));
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

#[tokio::test]
async fn events_of_a_topic_nobody_knows_yet_are_placed_in_order_once_it_is_there() {
    // No topic, no partitions: everything waits in the unassigned lane.
    let kafka = kafka_batcher_broker::EmbeddedKafka::builder().start().unwrap();
    let batcher = batcher(&kafka).await;
    let flights = batcher.collector("flights").settings(|s| s.batch_size = 7).build().unwrap();
    for i in 0..100 {
        let key = format!("key-{}", i % 5);
        flights.add_event((&key, &i.to_string())).await.unwrap();
    }
    flights.add_event(Record::value("explicit").with_partition(2)).await.unwrap();
    // A header of the user's own that looks like what is kept with an event stays, and decides nothing.
    let theirs =
        [kafka_batcher::Header { name: "__kafka_batcher.placement", value: Some(b"\x01\0\0\0\x01") }];
    let keyed = Record { headers: &theirs, ..Record::keyed("key-0", "theirs") };
    flights.add_event(keyed).await.unwrap();
    let nowhere = {
        let record = Record::value("nowhere").with_partition(99);
        flights.send(record).await.unwrap()
    };
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("flights", 3)).unwrap();
    let error = nowhere.delivered().await.unwrap_err();
    assert!(error.to_string().contains("partition"), "{error}");
    let report = batcher.shutdown(LONG).await;
    assert!(report.balances(), "{report:?}");
    assert_eq!((report.delivered, report.lost), (102, 1));
    let mut seen = Vec::new();
    for partition in 0..3 {
        let mut last = std::collections::HashMap::new();
        for record in kafka.log("flights", partition) {
            let theirs = record.value.as_deref() == Some(b"theirs");
            assert_eq!(record.headers.len(), usize::from(theirs), "what was kept is stripped, and no more");
            let Some(key) = record.key.filter(|_| !theirs) else { continue };
            let value: i32 = std::str::from_utf8(&record.value.unwrap()).unwrap().parse().unwrap();
            assert!(last.insert(key.clone(), value).is_none_or(|before| before < value), "order of a key");
            seen.push(value);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    assert!(values(&kafka, 2).contains(&"explicit".to_owned()));
}

#[tokio::test]
async fn a_topic_collected_as_a_whole_is_sealed_as_a_whole() {
    let kafka = kafka(3);
    let batcher = batcher_with(&kafka.bootstrap(), |_, defaults| {
        defaults.collect_by_partition = false;
        defaults.batch_size = 6;
        defaults.max_wait_time = LONG;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    let mut receipts = Vec::new();
    // The partitions must be known, or the events wait in the unassigned lane.
    while batcher.health().borrow().topics["flights"] == kafka_batcher::TopicHealth::Connecting {
        tokio::task::yield_now().await;
    }
    for i in 0..6 {
        receipts.push(flights.send(Record::value("v").with_partition(i % 3)).await.unwrap());
    }
    for receipt in receipts {
        receipt.delivered().await.unwrap();
    }
    let report = batcher.shutdown(LONG).await;
    assert_eq!(report.batches, 3);
    assert_eq!(report.flush_reasons.get("count"), Some(&1));
    assert_eq!(report.flush_reasons.get("topic"), Some(&2));
}

/// An hour is what nothing here waits for: what is delivered before a flush went before its time.
#[tokio::test]
async fn with_an_adaptive_linger_an_event_goes_at_once_while_its_broker_is_idle_and_waits_while_it_is_not() {
    let kafka = kafka(2);
    let batcher = batcher(&kafka).await;
    let flights = batcher
        .collector("flights")
        .settings(|s| (s.max_wait_time, s.adaptive_linger) = (Duration::from_secs(3600), true))
        .build()
        .unwrap();
    support::ready(&batcher, "flights").await;
    let silence = kafka.inject(Fault::never_serve().on(Api::Produce).always());
    let first = flights.send(Record::value("1").with_partition(0)).await.unwrap();
    let under_way = async { while batcher.report().await.in_flight == 0 {} };
    tokio::time::timeout(LONG, under_way).await.expect("it is sent");
    // Both wait: for what is under way there, and then because half an hour is not over since.
    for (partition, value) in [(0, "2"), (1, "3")] {
        flights.add_event(Record::value(value).with_partition(partition)).await.unwrap();
    }
    let report = batcher.report().await;
    assert_eq!(
        (report.in_flight, report.in_memory, report.flush_reasons["broker_ready"]),
        (1, 2, 1),
        "{report:?}"
    );
    kafka.remove_fault(silence);
    outcome(&first).await.expect("it is delivered");
    let report = batcher.report().await;
    assert_eq!((report.delivered, report.in_memory), (1, 2), "{report:?}");
    flights.flush().await;
    assert_eq!((values(&kafka, 0), values(&kafka, 1)), (vec!["1".into(), "2".into()], vec!["3".into()]));
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

#[tokio::test]
async fn with_an_adaptive_linger_a_broker_that_hangs_makes_no_other_wait() {
    let kafka = EmbeddedKafka::builder().brokers(2).topic("flights", 2).start().unwrap();
    let batcher = batcher(&kafka).await;
    let flights = batcher
        .collector("flights")
        .settings(|s| (s.max_wait_time, s.adaptive_linger) = (Duration::from_secs(3600), true))
        .build()
        .unwrap();
    for (partition, broker) in [(0, 1), (1, 2)] {
        kafka.move_leader("flights", partition, broker).unwrap();
    }
    support::ready(&batcher, "flights").await;
    let silence = kafka.inject(Fault::never_serve().on(Api::Produce).broker(1).always());
    flights.add_event(Record::value("1").with_partition(0)).await.unwrap();
    let under_way = async { while batcher.report().await.in_flight == 0 {} };
    tokio::time::timeout(LONG, under_way).await.expect("it is sent");
    let other = flights.send(Record::value("2").with_partition(1)).await.unwrap();
    outcome(&other).await.expect("its broker has nothing to do");
    kafka.remove_fault(silence);
    assert!(batcher.shutdown(LONG).await.all_delivered());
}

/// The other half of the rule, with a time that passes soon: each event alone, and each a round trip after half the linger.
#[tokio::test]
async fn with_an_adaptive_linger_half_of_it_between_requests_is_enough() {
    let kafka = kafka(1);
    let batcher = batcher(&kafka).await;
    let flights = batcher
        .collector("flights")
        .settings(|s| (s.max_wait_time, s.adaptive_linger) = (Duration::from_secs(2), true))
        .build()
        .unwrap();
    support::ready(&batcher, "flights").await;
    let began = std::time::Instant::now();
    for n in 0..3 {
        outcome(&flights.send(&n.to_string()).await.unwrap()).await.expect("it is delivered");
    }
    // Between three requests lie two halves; no less, however quick the broker is.
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let report = batcher.shutdown(LONG).await;
    assert_eq!((report.delivered, report.flush_reasons.get("wait")), (3, None), "{report:?}");
}
