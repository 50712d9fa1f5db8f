//! What a batcher says when it is dropped without a shutdown. Alone in its program: what is logged is logged for all of it.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kafka_batcher::AddError;
use support::{LONG, batcher, batcher_with, kafka, outcome};

/// Counts what is logged as an error, and keeps the number of events that it speaks of.
#[derive(Default)]
struct Errors {
    logged: AtomicU64,
    events: AtomicU64,
}

struct ErrorsOf(Arc<Errors>);

impl tracing::Subscriber for ErrorsOf {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Read<'a>(&'a Errors);
        impl tracing::field::Visit for Read<'_> {
            fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
                if field.name() == "events" {
                    self.0.events.store(value, Ordering::SeqCst);
                }
            }
            fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
        }
        self.0.logged.fetch_add(1, Ordering::SeqCst);
        event.record(&mut Read(&self.0));
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_batcher_dropped_without_shutdown_says_in_the_log_how_many_events_are_lost() {
    let errors = Arc::new(Errors::default());
    tracing::subscriber::set_global_default(ErrorsOf(errors.clone())).unwrap();
    let kafka = kafka(1);
    // Everything delivered: nothing to say.
    let quiet = batcher(&kafka).await;
    let flights = quiet.collector("flights").build().unwrap();
    outcome(&flights.send("v").await.unwrap()).await.unwrap();
    drop(quiet);
    assert_eq!(errors.logged.load(Ordering::SeqCst), 0);
    assert!(matches!(flights.add_event("late").await, Err(AddError::Closed)));

    // A clone keeps it alive; the last one ends it.
    let batcher = batcher_with(&kafka.bootstrap(), |_, d| d.max_wait_time = LONG).await;
    let clone = batcher.clone();
    let flights = batcher.collector("flights").build().unwrap();
    drop(batcher);
    for _ in 0..3 {
        flights.add_event("v").await.unwrap();
    }
    let receipt = flights.send("v").await.unwrap();
    assert_eq!(errors.logged.load(Ordering::SeqCst), 0);
    drop(clone);
    assert_eq!((errors.logged.load(Ordering::SeqCst), errors.events.load(Ordering::SeqCst)), (1, 4));
    assert!(matches!(flights.add_event("late").await, Err(AddError::Closed)));
    // Who waits for one of them is told, too.
    assert!(outcome(&receipt).await.is_err());
}
