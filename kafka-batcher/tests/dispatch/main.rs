//! The dispatcher between callers, a storage and a cluster that misbehave: what user code that panics, a partition that
//! nobody leads, or a topic that is not there may cost, and what it may not.

mod filling;
mod lane;
mod leaders;
mod odd;
mod panics;
mod replay;
mod said;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_batcher::{Builder, ErrorNotifier, KafkaBatcher, Notification, NotificationKind, Record};
use kafka_batcher_broker::EmbeddedKafka;

const TOPIC: &str = "flights";

/// Keeps what was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Notification>>>);

impl ErrorNotifier for Told {
    fn report(&self, notification: &Notification) {
        self.0.lock().unwrap().push(notification.clone());
    }
}

impl Told {
    /// The messages of this kind so far.
    fn of(&self, kind: NotificationKind) -> Vec<String> {
        let told = self.0.lock().unwrap();
        told.iter().filter(|told| told.kind == kind).map(|told| told.message.clone()).collect()
    }
}

/// A batcher for this broker, its pauses short.
fn builder(kafka: &EmbeddedKafka, told: &Told) -> Builder {
    builder_at(&kafka.bootstrap(), told)
}

/// The same, for a broker that may be stopped.
fn builder_at(bootstrap: &str, told: &Told) -> Builder {
    KafkaBatcher::builder([bootstrap])
        .settings(|s| {
            s.retry_backoff = Duration::from_millis(5);
            s.retry_backoff_max = Duration::from_millis(50);
        })
        .collector_defaults(|d| d.batch_size = 10)
        .error_notifier(told.clone())
        .spool_after(Duration::from_millis(50))
}

fn to(partition: i32, value: &str) -> Record<'_> {
    Record::value(value).with_partition(partition)
}
