//! What is said in the log at a start.

use std::sync::{Arc, Mutex};

use kafka_batcher::{MemoryStorage, Settings};

use crate::support::kafka;
use crate::{Told, builder};

/// Keeps what this thread logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Log {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
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
async fn without_a_spool_a_start_says_once_that_there_is_none() {
    let kafka = kafka(1);
    let log = Log::default();
    let _here = tracing::subscriber::set_default(log.clone());
    let said = || log.0.lock().unwrap().iter().filter(|line| line.contains("there is no spool")).count();
    let with = builder(&kafka, &Told::default()).storage(MemoryStorage::default()).start().await.unwrap();
    assert_eq!((said(), with.effective_settings().memory), (0, Settings::default().memory));
    let without = builder(&kafka, &Told::default()).start().await.unwrap();
    let _flights = without.collector(crate::TOPIC).build().unwrap();
    assert_eq!(said(), 1);
}
