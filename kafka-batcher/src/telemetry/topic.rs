//! What is recorded of one topic, and the accounts that its dispatcher publishes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_batcher_core::{FlushReason, Time};
use prometheus::core::Collector;
use prometheus::{CounterVec, Histogram, HistogramVec};

use super::Scrape;
use super::families::*;
use crate::config::MetricsConfig;
use crate::metrics::Report;

/// The accounts of a topic, all of one instant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Without the latencies: they are in a histogram of their own.
    pub(crate) report: Report,
    /// Dead letters that were put aside, those included that are lost since.
    pub(crate) dead_lettered: u64,
    pub(crate) batches_in_flight: u64,
    /// Of the oldest event that is not acknowledged; of the oldest in the spool.
    pub(crate) oldest: Option<Age>,
    pub(crate) spool_oldest: Option<Age>,
}

/// How old something was at some time. Not the time of its beginning: that may lie before the beginning of all times, the start of
/// this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    pub(crate) was: Duration,
    pub(crate) at: Time,
}

impl Age {
    fn seconds(self, now: Time) -> f64 {
        (self.was + now.since(self.at)).as_secs_f64()
    }
}

/// What of all topics and brokers is recorded as it happens. The registry reads it.
pub(super) struct Recorded {
    duration: HistogramVec,
    messages: HistogramVec,
    bytes: HistogramVec,
    fill: HistogramVec,
    latency: HistogramVec,
    memory_wait: HistogramVec,
    requests: HistogramVec,
    errors: CounterVec,
    fsync: HistogramVec,
}

/// Seconds: from what a broker in the same rack needs to what only an outage does.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds that events wait: also for minutes and hours.
const WAITS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0];
const RATIOS: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0];

impl Recorded {
    pub(super) fn new(config: &MetricsConfig) -> prometheus::Result<Self> {
        let histogram = |family: &Family, buckets: &[f64]| {
            let opts =
                prometheus::HistogramOpts::from(opts(&config.prefix, family)).buckets(buckets.to_vec());
            HistogramVec::new(opts, family.labels)
        };
        let buckets = &config.producer_buckets;
        Ok(Recorded {
            duration: histogram(DURATION, &buckets.duration)?,
            messages: histogram(MESSAGES, &buckets.messages_count)?,
            bytes: histogram(BYTES, &buckets.byte_size)?,
            fill: histogram(FILL, RATIOS)?,
            latency: histogram(LATENCY, WAITS)?,
            memory_wait: histogram(MEMORY_WAIT, WAITS)?,
            requests: histogram(REQUESTS, SECONDS)?,
            errors: CounterVec::new(opts(&config.prefix, ERRORS), ERRORS.labels)?,
            fsync: histogram(FSYNC, SECONDS)?,
        })
    }

    pub(super) fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        let Recorded { duration, messages, bytes, fill, latency, memory_wait, requests, errors, fsync } =
            self;
        let histograms = [duration, messages, bytes, fill, latency, memory_wait, requests, fsync];
        histograms.into_iter().flat_map(Collector::collect).chain(errors.collect()).collect()
    }

    pub(super) fn fsync(&self) -> Histogram {
        self.fsync.with_label_values::<&str>(&[])
    }
}

/// The name with its prefix, and the words.
pub(super) fn opts(prefix: &str, family: &Family) -> prometheus::Opts {
    prometheus::Opts::new(format!("{prefix}_{}", family.name), family.help)
}

/// One topic's. It is there exactly if the topic's collector has `telemetry`.
pub(crate) struct TopicTelemetry {
    name: Arc<str>,
    alias: String,
    /// So many partitions have a label value of their own.
    partitions: u32,
    /// Somebody gathers the registry without asking for fresh accounts first.
    pub(crate) ticks: bool,
    recorded: Arc<Recorded>,
    snapshot: Mutex<Snapshot>,
    /// Events never accepted. Outside of the equation, so it needs no snapshot: callers count, also when the topic's task hears
    /// nothing of it or has ended.
    pub(crate) refused: Arc<AtomicU64>,
    pub(crate) fill: Histogram,
    pub(crate) latency: Histogram,
    memory_wait: Histogram,
}

impl TopicTelemetry {
    pub(super) fn new(
        name: Arc<str>,
        config: &MetricsConfig,
        recorded: Arc<Recorded>,
        ticks: bool,
    ) -> TopicTelemetry {
        let alias = config.kafka_topic_aliases.get(&*name).map_or(&*name, String::as_str).to_owned();
        TopicTelemetry {
            alias,
            partitions: config.max_partitions,
            ticks,
            fill: recorded.fill.with_label_values(&[&*name]),
            latency: recorded.latency.with_label_values(&[&*name]),
            memory_wait: recorded.memory_wait.with_label_values(&[&*name]),
            recorded,
            snapshot: Mutex::default(),
            refused: Arc::default(),
            name,
        }
    }

    /// The accounts of now; a scrape sees these until the next.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// A caller has waited for memory, in vain or not.
    pub(crate) fn waited_for_memory(&self, waited: Duration) {
        self.memory_wait.observe(waited.as_secs_f64());
    }

    /// Where attempts of this partition's batches are observed: duration, events, bytes.
    pub(crate) fn partition(&self, partition: i32) -> [Histogram; 3] {
        let own = u32::try_from(partition).is_ok_and(|partition| partition < self.partitions);
        let label = if own { partition.to_string() } else { "other".to_owned() };
        let labels = [&*self.name, &label, &self.alias];
        let Recorded { duration, messages, bytes, .. } = &*self.recorded;
        [duration, messages, bytes].map(|family| family.with_label_values(&labels))
    }

    /// Where requests to this broker are observed.
    pub(crate) fn broker(&self, node: i32) -> Histogram {
        self.recorded.requests.with_label_values(&[node.to_string()])
    }

    /// An attempt was not acknowledged.
    pub(crate) fn failed(&self, error: &str) {
        self.recorded.errors.with_label_values(&[&*self.name, error]).inc();
    }

    /// Puts the accounts into a scrape.
    pub(super) fn put(&self, scrape: &mut Scrape<'_>, now: Time) {
        let snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Snapshot { report, dead_lettered, batches_in_flight, oldest, spool_oldest } = snapshot;
        let topic = &*self.name;
        let counts = [
            (ACCEPTED, report.accepted),
            (RECOVERED, report.recovered),
            (DELIVERED, report.delivered),
            (LOST, report.lost),
            (REFUSED, self.refused.load(Ordering::Relaxed)),
            (DEAD_LETTERED, dead_lettered),
            (IN_DOUBT, report.in_doubt),
            (DUPLICATES, report.possible_duplicates),
            (REORDERINGS, report.reorderings),
            (BATCHES, report.batches),
            (BATCH_BYTES, report.bytes),
            (IN_FLIGHT, batches_in_flight),
            (REPLAY_MEMORY, report.replay_bytes),
        ];
        counts.into_iter().for_each(|(family, count)| scrape.put(family, &[topic], count as f64));
        let states = [
            ("in_memory", report.in_memory),
            ("in_flight", report.in_flight),
            ("spooled", report.spooled),
            ("dead_lettered", report.dead_lettered),
            ("in_doubt", report.in_doubt),
        ];
        states.into_iter().for_each(|(state, count)| scrape.put(EVENTS, &[topic, state], count as f64));
        // All of them, or a rate would miss the first.
        for reason in FlushReason::ALL.map(FlushReason::as_str) {
            let count = report.flush_reasons.get(reason).copied().unwrap_or(0);
            scrape.put(SEALED, &[topic, reason], count as f64);
        }
        for (family, age) in [(OLDEST, oldest), (SPOOL_OLDEST, spool_oldest)] {
            scrape.put(family, &[topic], age.map_or(0.0, |age| age.seconds(now)));
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Latency;
    use crate::{KafkaBatcher, TextFormat};

    #[test]
    fn what_is_older_than_this_process_has_its_own_age() {
        let age = Age { was: Duration::from_secs(3600), at: Time::from_millis(10) };
        assert_eq!(age.seconds(Time::from_millis(1_010)), 3601.0);
    }

    #[tokio::test]
    async fn what_is_published_carries_no_distribution_of_latencies() {
        // Each publication and each scrape cloned its thousands of counters, for nobody.
        let batcher = KafkaBatcher::builder(["127.0.0.1:1"]).start().await.unwrap();
        let flights = batcher.collector("flights").build().unwrap();
        flights.add_event("value").await.unwrap();
        drop(batcher.metrics_text(TextFormat::Prometheus).await);
        let published = flights.topic.telemetry.as_ref().unwrap().snapshot.lock().unwrap().clone();
        assert_eq!((published.report.accepted, published.report.latency), (1, Latency::none()));
        assert!(batcher.report().await.latency != Latency::none());
        drop(batcher.shutdown(Duration::ZERO).await);
    }
}
