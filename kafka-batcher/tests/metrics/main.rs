//! Metrics as Prometheus sees them: the text that is served, read by code that shares nothing with what wrote it.

mod accounts;
mod outage;
mod recorded;
mod registry;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use kafka_batcher::{Builder, KafkaBatcher, TextFormat};
use kafka_batcher_broker::EmbeddedKafka;
use kafka_batcher_testkit::Scrape;

const TOPIC: &str = "flights";
const PREFIX: &str = "kafka_batcher";

/// A builder for this broker, its pauses short.
fn builder(kafka: &EmbeddedKafka) -> Builder {
    KafkaBatcher::builder([kafka.bootstrap()]).settings(|settings| {
        settings.retry_backoff = Duration::from_millis(5);
        settings.retry_backoff_max = Duration::from_millis(50);
        settings.request_timeout = Duration::from_secs(5);
    })
}

async fn scrape(batcher: &KafkaBatcher) -> Scrape {
    Scrape::parse(&batcher.metrics_text(TextFormat::Prometheus).await)
}

/// Scrapes until it says so. Every scrape must add up, and no counter may fall.
async fn scrape_until(batcher: &KafkaBatcher, last: &mut Scrape, mut says: impl FnMut(&Scrape) -> bool) {
    loop {
        let now = scrape(batcher).await;
        now.balances(PREFIX, TOPIC);
        now.follows(last);
        *last = now;
        if says(last) {
            return;
        }
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}
