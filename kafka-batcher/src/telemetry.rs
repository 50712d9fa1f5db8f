//! Metrics: what is recorded as it happens, what is read when somebody looks, and how both reach a registry.
//!
//! Nothing is recorded per event. What happens to a batch or a request goes into histograms ([`TopicTelemetry`]); the accounts
//! are published by each topic's dispatcher, all of one instant ([`Snapshot`]), so that they add up in every scrape; memory,
//! brokers, health and disk are asked when somebody looks. With `telemetry = false` none of these objects exists.
//!
//! Who serves the metrics asks the dispatchers first, so that a scrape is fresh ([`KafkaBatcher::metrics_text`]). A registry of the
//! program's own is gathered without that; for its sake a dispatcher publishes once a second while something goes on, and once
//! after.
//!
//! [`KafkaBatcher::metrics_text`]: crate::KafkaBatcher::metrics_text

pub(crate) mod families;
mod text;
mod topic;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_batcher_core::BufferPool;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, Registry};
use tokio::sync::watch;

pub use self::text::TextFormat;
pub(crate) use self::topic::{Age, Snapshot, TopicTelemetry};

use self::families::{ALL, Family, Kind};
use self::topic::{Recorded, opts};
use crate::clock::Clock;
use crate::config::MetricsConfig;
use crate::connection_manager::{ClusterHealth, Health, SpoolHealth, TopicHealth};
use crate::error::BuildError;
use crate::producer::Producer;
use crate::storage::TempStorage;

/// What belongs to no topic: asked when somebody looks.
pub(crate) struct Whole {
    pub(crate) pool: BufferPool,
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) storage: Option<Arc<dyn TempStorage>>,
}

/// Where the metrics go.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) config: MetricsConfig,
    pub(crate) registry: Registry,
    /// The registry is the program's: it gathers when it likes.
    pub(crate) shared: bool,
}

/// A batcher's metrics, and that they are registered.
pub(crate) struct Telemetry {
    sink: Sink,
    all: Arc<All>,
}

struct All {
    prefix: String,
    clock: Clock,
    health: watch::Receiver<Health>,
    recorded: Arc<Recorded>,
    whole: Option<Whole>,
    topics: Mutex<Vec<Arc<TopicTelemetry>>>,
    descs: Vec<Desc>,
}

impl Telemetry {
    /// Registers them. `whole`: memory, brokers and disk too.
    pub(crate) fn register(
        sink: Sink,
        clock: Clock,
        health: watch::Receiver<Health>,
        whole: Option<Whole>,
    ) -> Result<Self, BuildError> {
        let failed = |error: prometheus::Error| BuildError::Metrics(error.to_string());
        let recorded = Arc::new(Recorded::new(&sink.config).map_err(failed)?);
        let describe = |family: &&Family| {
            let labels = family.labels.iter().map(|label| (*label).to_owned()).collect();
            let name = format!("{}_{}", sink.config.prefix, family.name);
            Desc::new(name, family.help.to_owned(), labels, std::collections::HashMap::new())
        };
        let descs = ALL.iter().map(describe).collect::<Result<_, _>>().map_err(failed)?;
        let prefix = sink.config.prefix.clone();
        let all = All { prefix, clock, health, recorded, whole, topics: Mutex::default(), descs };
        let all = Arc::new(all);
        sink.registry.register(Box::new(Registered(all.clone()))).map_err(failed)?;
        // Only now is there anything to take back, and anybody who reads what is observed.
        if let Some(storage) = all.whole.as_ref().and_then(|whole| whole.storage.as_ref()) {
            let fsync = all.recorded.fsync();
            let told = Box::new(move |took: Duration| fsync.observe(took.as_secs_f64()));
            // The code of a user's storage: without it there is one metric less.
            let _ = catch_unwind(AssertUnwindSafe(|| storage.observe_fsyncs(told)));
        }
        Ok(Telemetry { sink, all })
    }

    /// Begins to record a topic.
    pub(crate) fn topic(&self, name: Arc<str>) -> Arc<TopicTelemetry> {
        let Sink { config, shared, .. } = &self.sink;
        let topic = TopicTelemetry::new(name, config, self.all.recorded.clone(), *shared);
        let topic = Arc::new(topic);
        self.all.topics().push(topic.clone());
        topic
    }
}

impl Drop for Telemetry {
    /// The registry may outlive the batcher, and another one want the names.
    fn drop(&mut self) {
        let _ = self.sink.registry.unregister(Box::new(Registered(self.all.clone())));
    }
}

struct Registered(Arc<All>);

impl Collector for Registered {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect()
    }
}

impl All {
    fn topics(&self) -> MutexGuard<'_, Vec<Arc<TopicTelemetry>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut scrape = Scrape { prefix: &self.prefix, counters: BTreeMap::new(), gauges: BTreeMap::new() };
        let now = self.clock.now();
        let topics = self.topics().clone();
        topics.iter().for_each(|topic| topic.put(&mut scrape, now));
        let health = self.health.borrow().clone();
        topics.iter().for_each(|topic| put_health(&mut scrape, &health, topic.name()));
        let connected = matches!(health.cluster, ClusterHealth::Connected(_));
        scrape.put(families::CONNECTED, &[], f64::from(u8::from(connected)));
        scrape.put(families::BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
        if let Some(whole) = &self.whole {
            whole.put(&mut scrape);
        }
        let mut families = self.recorded.collect();
        families.extend(scrape.counters.values().flat_map(Collector::collect));
        families.extend(scrape.gauges.values().flat_map(Collector::collect));
        families
    }
}

fn put_health(scrape: &mut Scrape<'_>, health: &Health, topic: &str) {
    let now = health.topics.get(topic).map_or("connecting", TopicHealth::word);
    for state in TopicHealth::WORDS {
        scrape.put(families::HEALTH, &[topic, state], f64::from(u8::from(state == now)));
    }
    if let Some(spool) = health.spools.get(topic) {
        scrape.put(families::SPOOL_HEALTHY, &[topic], f64::from(u8::from(spool.works())));
        let opening = *spool == SpoolHealth::Opening;
        scrape.put(families::SPOOL_OPENING, &[topic], f64::from(u8::from(opening)));
    }
}

impl Whole {
    fn put(&self, scrape: &mut Scrape<'_>) {
        let pool = &self.pool;
        scrape.put(families::MEMORY_USED, &[], pool.used() as f64);
        scrape.put(families::MEMORY_LIMIT, &[], pool.limit() as f64);
        scrape.put(families::MEMORY_WAITING, &[], pool.waiting() as f64);
        for broker in self.producer.brokers() {
            let label = broker.node.to_string();
            let values = [
                (families::BROKER_CONNECTED, f64::from(u8::from(broker.connected))),
                (families::BROKER_IN_FLIGHT, broker.in_flight as f64),
                (families::RECONNECTS, broker.connections.saturating_sub(1) as f64),
                (families::CONNECT_FAILURES, broker.failures as f64),
                (families::THROTTLED, broker.throttled.as_secs_f64()),
            ];
            values.into_iter().for_each(|(family, value)| scrape.put(family, &[&label], value));
        }
        // The code of a user's storage.
        let usage = |storage: &Arc<dyn TempStorage>| catch_unwind(AssertUnwindSafe(|| storage.usage()));
        let Some(usage) = self.storage.as_ref().and_then(|storage| usage(storage).ok().flatten()) else {
            return;
        };
        let bytes = [
            (families::SPOOL_BYTES, Some(usage.bytes)),
            (families::SPOOL_LIMIT, Some(usage.max_bytes)),
            (families::SPOOL_FREE, usage.free_bytes),
            (families::SPOOL_KEPT_FREE, Some(usage.min_free_bytes)),
        ];
        for (family, bytes) in bytes.into_iter().filter_map(|(family, bytes)| Some((family, bytes?))) {
            scrape.put(family, &[], bytes as f64);
        }
    }
}

/// The values that one look at everything gives.
pub(crate) struct Scrape<'a> {
    prefix: &'a str,
    counters: BTreeMap<&'static str, CounterVec>,
    gauges: BTreeMap<&'static str, GaugeVec>,
}

impl Scrape<'_> {
    fn put(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        let Family { name, kind, labels: names, .. } = family;
        let opts = || opts(self.prefix, family);
        // Neither fails: the prefix was checked, and each family is given the labels that it has.
        match kind {
            Kind::Counter => {
                if !self.counters.contains_key(name)
                    && let Ok(made) = CounterVec::new(opts(), names)
                {
                    self.counters.insert(name, made);
                }
                let metric = self.counters.get(name).map(|vec| vec.get_metric_with_label_values(labels));
                metric.and_then(Result::ok).into_iter().for_each(|metric| metric.inc_by(value));
            }
            Kind::Gauge => {
                if !self.gauges.contains_key(name)
                    && let Ok(made) = GaugeVec::new(opts(), names)
                {
                    self.gauges.insert(name, made);
                }
                let metric = self.gauges.get(name).map(|vec| vec.get_metric_with_label_values(labels));
                metric.and_then(Result::ok).into_iter().for_each(|metric| metric.set(value));
            }
            // They are recorded, not read.
            Kind::Histogram => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::KafkaBatcher;

    #[tokio::test]
    async fn without_telemetry_what_records_does_not_exist() {
        for (all, own) in [(true, true), (true, false), (false, true), (false, false)] {
            let batcher = KafkaBatcher::builder(["127.0.0.1:1"]).collector_defaults(|s| s.telemetry = all);
            let batcher = batcher.start().await.unwrap();
            let flights = batcher.collector("flights").settings(|s| s.telemetry = own).build().unwrap();
            // The dispatcher has a meter exactly if its topic has this.
            assert_eq!(flights.topic.telemetry.is_some(), own);
            assert_eq!(batcher.records(), all || own);
            drop(batcher.shutdown(std::time::Duration::ZERO).await);
        }
    }
}
