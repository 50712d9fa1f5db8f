//! Where the metrics are, and where they are not.

use kafka_batcher::{BuildError, TextFormat, prometheus};
use kafka_batcher_testkit::Scrape;

use super::{PREFIX, TOPIC, builder};
use crate::support::{LONG, kafka, outcome, ready};

fn gather(registry: &prometheus::Registry) -> Scrape {
    Scrape::parse(&prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap())
}

/// Nobody asks the batcher for anything here: it publishes by itself, once more when nothing goes on any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_of_the_programs_own_comes_to_the_last_value_by_itself() {
    let kafka = kafka(2);
    let registry = prometheus::Registry::new();
    let own = prometheus::IntCounter::new("own_total", "The program's.").unwrap();
    registry.register(Box::new(own)).unwrap();
    let batcher = builder(&kafka).metrics_registry(registry.clone()).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    for n in 0..10 {
        outcome(&flights.send(format!("{n}").as_str()).await.unwrap()).await.unwrap();
    }
    let delivered = || gather(&registry).value("kafka_batcher_events_delivered_total", &[]);
    crate::support::until(|| delivered() == 10.0).await;
    // An open batch of which the dispatcher hears nothing.
    let slow = batcher.collector("slow").settings(|s| s.max_wait_time = LONG).build().unwrap();
    slow.try_add_event("first").unwrap();
    let accepted =
        || gather(&registry).get("kafka_batcher_events_accepted_total", &[("topic", "slow")]).unwrap_or(0.0);
    crate::support::until(|| accepted() == 1.0).await;
    slow.try_add_event("second").unwrap();
    crate::support::until(|| accepted() == 2.0).await;
    assert_eq!(gather(&registry).value("own_total", &[]), 0.0);
    // Nobody creates its topic.
    drop(batcher.shutdown(std::time::Duration::ZERO).await);
    drop((flights, slow, batcher));
    // They leave with it.
    let names: Vec<_> = gather(&registry).names().map(str::to_owned).collect();
    assert_eq!(names, ["own_total"]);
}

/// The story: a refused caller changes nothing that the topic's task hears of, so nothing was published, and the counter of the
/// program's own registry stood still while every event was refused.
#[tokio::test]
async fn who_is_refused_is_counted_at_once_in_a_registry_of_the_programs_own() {
    let kafka = kafka(1);
    let registry = prometheus::Registry::new();
    let batcher = builder(&kafka).metrics_registry(registry.clone()).start().await.unwrap();
    let flights = batcher.collector(TOPIC).build().unwrap();
    ready(&batcher, TOPIC).await;
    let refused = || gather(&registry).value("kafka_batcher_events_refused_total", &[]);
    let large = vec![b'x'; 2_000_000];
    for n in 1..=5 {
        flights.try_add_event(large.as_slice()).unwrap_err();
        assert_eq!(refused(), f64::from(n));
    }
    // Nor does it need the task to live.
    drop(batcher.shutdown(LONG).await);
    flights.try_add_event("late").unwrap_err();
    assert_eq!(refused(), 6.0);
}

#[tokio::test]
async fn two_batchers_of_one_registry_need_prefixes_of_their_own() {
    let kafka = kafka(1);
    let registry = prometheus::Registry::new();
    let first = builder(&kafka).metrics_registry(registry.clone()).start().await.unwrap();
    let second = builder(&kafka).metrics_registry(registry.clone()).start().await;
    assert!(matches!(second, Err(BuildError::Metrics(_))), "{second:?}");
    let other = builder(&kafka).metrics_registry(registry.clone()).metrics(|m| m.prefix = "b".to_owned());
    let other = other.start().await.unwrap();
    let both = gather(&registry);
    assert_eq!(
        (both.series("kafka_batcher_memory_limit_bytes"), both.series("b_memory_limit_bytes")),
        (1, 1)
    );
    drop(first.shutdown(LONG).await);
    drop(first);
    // Its names are free again.
    let again = builder(&kafka).metrics_registry(registry).start().await.unwrap();
    drop((again.shutdown(LONG).await, other.shutdown(LONG).await));
}

#[tokio::test]
async fn without_telemetry_nothing_is_registered_and_a_collector_decides_for_itself() {
    let kafka = kafka(1);
    for (all, own) in [(false, false), (false, true), (true, false)] {
        let registry = prometheus::Registry::new();
        let batcher = builder(&kafka).metrics_registry(registry.clone());
        let batcher = batcher.collector_defaults(|s| s.telemetry = all).start().await.unwrap();
        let flights = batcher.collector(TOPIC).settings(|s| s.telemetry = own).build().unwrap();
        ready(&batcher, TOPIC).await;
        outcome(&flights.send("value").await.unwrap()).await.unwrap();
        let text = batcher.metrics_text(TextFormat::Prometheus).await;
        let found = Scrape::parse(&text);
        let topics = found.series("kafka_batcher_events_accepted_total");
        assert_eq!(
            (topics, found.series("kafka_batcher_memory_limit_bytes")),
            (own.into(), all.into()),
            "{text}"
        );
        assert_eq!(text.contains(TOPIC), own, "{text}");
        assert_eq!(text.is_empty(), !all && !own, "{text}");
        if own {
            found.balances(PREFIX, TOPIC);
        }
        // A registry that has them not can be anybody's.
        let free = prometheus::IntGauge::new("kafka_batcher_memory_limit_bytes", "Somebody's.").unwrap();
        assert_eq!(registry.register(Box::new(free)).is_ok(), !all && !own);
        drop(batcher.shutdown(LONG).await);
    }
}
