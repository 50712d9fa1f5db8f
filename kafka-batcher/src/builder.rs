//! `Builder` and `CollectorBuilder`: settings and user code, checked as a whole before anything starts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher_core::flusher::BatchFlusher;
use kafka_batcher_core::partitioner::{Assigner, Partitioner, Sticky, Strategy};
use kafka_batcher_core::{BackoffSettings, Interceptor, OnFull, SpoolMode, SpoolSettings};
use tokio::runtime::Handle;

use crate::batcher::KafkaBatcher;
use crate::client::{ClientSettings, ClientSettingsError, TokenProvider};
use crate::collector::Collector;
use crate::config;
use crate::config::{
    BadConfigError, CollectorSettings, Config, LOG, MetricsConfig, Mistake, NATIVE, Places, RDKAFKA,
    Resolved, SaslConfig, Settings, SpoolConfig, SslConfig,
};
use crate::error::BuildError;
use crate::error_notifier::{ErrorNotifier, LogNotifier};
use crate::producer::Producer;
use crate::producer::native::NativeProducer;
use crate::registry::{Chosen, Registry};
use crate::storage::{DiskSettings, DiskStorage, TempStorage};
use crate::telemetry::Sink;
use crate::topic::Topic;

impl Settings {
    pub(crate) fn backoff(&self) -> BackoffSettings {
        BackoffSettings {
            initial: self.retry_backoff,
            max: self.retry_backoff_max,
            ..BackoffSettings::default()
        }
    }

    /// What of them concerns the client.
    fn client(&self) -> ClientSettings {
        let mut client = ClientSettings::new(self.endpoints.iter().cloned());
        client.client_id.clone_from(&self.client_id);
        client.request_timeout = self.request_timeout;
        client.connect_timeout = self.connect_timeout;
        client.metadata_max_age = self.metadata_max_age;
        client.retry_backoff = self.retry_backoff;
        client.retry_backoff_max = self.retry_backoff_max;
        client.max_request_size = self.max_request_size;
        client
    }
}

/// What a batcher is started with.
pub(crate) struct Choices {
    pub(crate) settings: Settings,
    pub(crate) defaults: CollectorSettings,
    pub(crate) registry: Arc<Registry>,
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) storage: Option<Arc<dyn TempStorage>>,
    pub(crate) spool: SpoolSettings,
    pub(crate) replay_rate: Option<u64>,
    pub(crate) notifier: Arc<dyn ErrorNotifier>,
    pub(crate) metrics: Sink,
    pub(crate) seed: u64,
}

/// Builds a [`KafkaBatcher`].
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    settings: Settings,
    defaults: CollectorSettings,
    spool: SpoolConfig,
    ssl: SslConfig,
    sasl: SaslConfig,
    /// Started with the batcher.
    collectors: BTreeMap<String, CollectorSettings>,
    registry: Registry,
    producer: Option<Arc<dyn Producer>>,
    storage: Option<Arc<dyn TempStorage>>,
    notifier: Option<Arc<dyn ErrorNotifier>>,
    metrics: MetricsConfig,
    metrics_registry: Option<prometheus::Registry>,
    /// Where a configuration says what is said here.
    places: Places,
}

impl Builder {
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        let mut nothing_said = Resolved::default();
        nothing_said.settings.endpoints = endpoints;
        Builder::from(nothing_said)
    }

    /// What a configuration says, with all its collectors. Register what it chooses by name before you start.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use kafka_batcher::{Builder, Config, flusher::FlushFn};
    ///
    /// let config = Config::from_file("kafka-batcher.toml")?.with_environment();
    /// let batcher = Builder::from_config(&config)?
    ///     .register_flusher("alarms", FlushFn::new(|key, _| key == Some(b"alarm")))
    ///     .start()
    ///     .await?;
    /// let flights = batcher.get_collector("flights")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`BuildError::BadConfig`] with every mistake at once.
    pub fn from_config(config: &Config) -> Result<Self, BuildError> {
        Ok(Builder::from(config.resolve()?))
    }

    /// Changes application-wide settings.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        config::change(&mut self.places.whole, &mut self.settings, change);
        self
    }

    /// Changes what every collector starts from that no configuration speaks of.
    pub fn collector_defaults(mut self, change: impl FnOnce(&mut CollectorSettings)) -> Self {
        change(&mut self.defaults);
        self
    }

    /// Tells this notifier of trouble instead of the one that the settings name (the log).
    pub fn error_notifier(mut self, notifier: impl ErrorNotifier) -> Self {
        self.notifier = Some(Arc::new(notifier));
        self
    }

    /// Changes how metrics are called and grouped.
    pub fn metrics(mut self, change: impl FnOnce(&mut MetricsConfig)) -> Self {
        config::change(&mut self.places.metrics, &mut self.metrics, change);
        self
    }

    /// Puts the metrics into this registry of the program's, beside its own: whoever serves it serves them. It is one of the crate
    /// `prometheus` in the version that this crate hands on, [`kafka_batcher::prometheus`](crate::prometheus).
    ///
    /// What is gathered there is at most a second old while something goes on (each topic's accounts all of one instant, so that
    /// they add up), and exact when nothing does; [`KafkaBatcher::metrics_text`] gives the registry's content with the accounts of
    /// now. The metrics leave the registry when the batcher is dropped. Two batchers need registries, or prefixes, of their own:
    /// otherwise the second is [`BuildError::Metrics`].
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use kafka_batcher::{KafkaBatcher, prometheus};
    ///
    /// let registry = prometheus::Registry::new();
    /// let batcher = KafkaBatcher::builder(["127.0.0.1:9092"]).metrics_registry(registry.clone()).start().await?;
    /// let families = registry.gather();
    /// # Ok(()) }
    /// ```
    pub fn metrics_registry(mut self, registry: prometheus::Registry) -> Self {
        self.metrics_registry = Some(registry);
        self
    }

    /// Delivers through this producer instead of the native one; the endpoints are then its own affair.
    pub fn producer(mut self, producer: impl Producer) -> Self {
        self.producer = Some(Arc::new(producer));
        self
    }

    /// Lets `partition_fn = "name"` mean this partitioner. A later one of the same name takes its place; so with all of
    /// these.
    pub fn register_partitioner(
        mut self,
        name: impl Into<String>,
        partitioner: impl Partitioner + 'static,
    ) -> Self {
        self.registry.partitioners.insert(name, Arc::new(partitioner));
        self
    }

    /// Lets `batch_flusher = "name"` mean this flusher.
    pub fn register_flusher(mut self, name: impl Into<String>, flusher: impl BatchFlusher + 'static) -> Self {
        self.registry.flushers.insert(name, Arc::new(flusher));
        self
    }

    /// Lets `interceptor = "name"` mean this interceptor.
    pub fn register_interceptor(
        mut self,
        name: impl Into<String>,
        interceptor: impl Interceptor + 'static,
    ) -> Self {
        self.registry.interceptors.insert(name, Arc::new(interceptor));
        self
    }

    /// Lets `error_notifier = "name"` mean this notifier.
    pub fn register_error_notifier(mut self, name: impl Into<String>, notifier: impl ErrorNotifier) -> Self {
        self.registry.notifiers.insert(name, Arc::new(notifier));
        self
    }

    /// Lets `storage = "name"` in the table `[spool]` mean this storage.
    pub fn register_storage(mut self, name: impl Into<String>, storage: impl TempStorage) -> Self {
        self.registry.storages.insert(name, Arc::new(storage));
        self
    }

    /// Lets `producer = "name"` mean this producer.
    pub fn register_producer(mut self, name: impl Into<String>, producer: impl Producer) -> Self {
        self.registry.producers.insert(name, Arc::new(producer));
        self
    }

    /// Lets `token_provider = "name"` in the table `[sasl]` mean this provider.
    pub fn register_token_provider(mut self, name: impl Into<String>, provider: impl TokenProvider) -> Self {
        self.registry.token_providers.insert(name, Arc::new(provider));
        self
    }

    /// Speaks TLS to the brokers, with whatever is set here: nothing, for the machine's own root certificates.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use kafka_batcher::{KafkaBatcher, SaslMechanism};
    ///
    /// let batcher = KafkaBatcher::builder(["kafka.example.org:9093"])
    ///     .ssl(|ssl| ssl.ca_file = Some("/etc/kafka/ca.pem".into()))
    ///     .sasl(|sasl| {
    ///         sasl.mechanism = Some(SaslMechanism::ScramSha512);
    ///         sasl.login = Some("flights".to_owned());
    ///         sasl.password_file = Some("/run/secrets/kafka".into());
    ///     })
    ///     .start()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn ssl(mut self, change: impl FnOnce(&mut SslConfig)) -> Self {
        self.ssl.enabled = Some(true);
        config::change(&mut self.places.ssl, &mut self.ssl, change);
        self
    }

    /// Says who this client is to the brokers.
    pub fn sasl(mut self, change: impl FnOnce(&mut SaslConfig)) -> Self {
        self.sasl.enabled = Some(true);
        config::change(&mut self.places.sasl, &mut self.sasl, change);
        self
    }

    /// Keeps events safe in this directory while Kafka does not take them, and delivers them later, in order. What an
    /// earlier process left there is delivered first. One process at a time may use a directory; put it on a disk of its own,
    /// not on a network file system.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let batcher = kafka_batcher::KafkaBatcher::builder(["127.0.0.1:9092"]).spool("/var/spool/flights").start().await?;
    /// # Ok(()) }
    /// ```
    pub fn spool(mut self, dir: impl Into<PathBuf>) -> Self {
        self.spool.dir = Some(dir.into());
        self
    }

    /// The same, with bounds of your own.
    pub fn spool_with(mut self, settings: DiskSettings) -> Self {
        let DiskSettings {
            dir,
            max_bytes,
            min_free_bytes,
            segment_bytes,
            dead_letter_bytes,
            reserve_bytes,
            // The mode says.
            direct_io: _,
        } = settings;
        self.spool = SpoolConfig {
            dir: Some(dir),
            max_bytes,
            min_free_bytes,
            segment_bytes,
            dead_letter_bytes,
            reserve_bytes,
            ..self.spool
        };
        self
    }

    /// Changes the spool's settings, all of them in one place.
    pub fn spool_settings(mut self, change: impl FnOnce(&mut SpoolConfig)) -> Self {
        config::change(&mut self.places.spool, &mut self.spool, change);
        self
    }

    /// Keeps batches in this storage while Kafka does not take them, in place of a directory.
    pub fn storage(mut self, storage: impl TempStorage) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// When batches go to the storage: only when Kafka takes none (the default), or always before they are sent.
    pub fn spool_mode(mut self, mode: SpoolMode) -> Self {
        self.spool.mode = Some(mode);
        self
    }

    /// How long Kafka may take nothing of a partition before its batches go to the storage (default 5 s).
    pub fn spool_after(mut self, after: Duration) -> Self {
        self.spool.spool_after = after;
        self
    }

    /// How old an event in the storage may become (default: any age); then it is dropped, counted as lost and told, unless
    /// it may be in Kafka already. Counted from when it was saved.
    pub fn spool_max_age(mut self, age: Duration) -> Self {
        self.spool.max_age = Some(age);
        self
    }

    /// What happens when the storage is full (default: events stay in memory, and then callers wait).
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.spool.on_full = on_full;
        self
    }

    /// Sends what is older than its topic keeps events, too (default: it is held, since Kafka would acknowledge and delete
    /// it).
    pub fn replay_expired(mut self, consent: bool) -> Self {
        self.spool.replay_expired = consent;
        self
    }

    /// Consents to sending what the storage holds for another cluster to this one (default: it is held).
    pub fn replay_to_other_cluster(mut self, consent: bool) -> Self {
        self.spool.replay_to_other_cluster = consent;
        self
    }

    /// Starts the batcher on the current tokio runtime, with the collectors of its configuration. Kafka being down is no
    /// error: events are accepted, and delivered when it is back.
    ///
    /// Cancel-safe: it is done when it was polled once.
    ///
    /// # Errors
    /// [`BuildError::BadConfig`] with every mistake at once; [`BuildError::NoRuntime`] outside of a tokio runtime;
    /// [`BuildError::Spool`] if the directory cannot be used; [`BuildError::Metrics`] if another batcher has its metrics in the
    /// registry.
    // Async although nothing is awaited yet: callers must not have to change.
    #[allow(clippy::unused_async)]
    pub async fn start(mut self) -> Result<KafkaBatcher, BuildError> {
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let collectors = std::mem::take(&mut self.collectors);
        KafkaBatcher::launch(self.check(&runtime, &collectors)?, runtime, None)?.with_collectors(collectors)
    }

    /// Starts the batcher on a runtime and a thread of its own, for programs that are not asynchronous.
    ///
    /// # Errors
    /// As [`Builder::start`]; also if the thread cannot be started.
    pub fn start_blocking(mut self) -> Result<KafkaBatcher, BuildError> {
        let failed = |error: std::io::Error| BuildError::Thread(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let collectors = std::mem::take(&mut self.collectors);
        let choices = self.check(&handle, &collectors)?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let run = move || {
            // Drives every task until it is told to stop, or the batcher is gone.
            let _ = runtime.block_on(stopped);
        };
        std::thread::Builder::new().name("kafka-batcher".to_owned()).spawn(run).map_err(failed)?;
        KafkaBatcher::launch(choices, handle, Some(stop))?.with_collectors(collectors)
    }

    fn check(
        self,
        runtime: &Handle,
        collectors: &BTreeMap<String, CollectorSettings>,
    ) -> Result<Choices, BuildError> {
        let Builder {
            settings,
            defaults,
            spool,
            ssl,
            sasl,
            metrics,
            registry,
            producer,
            storage,
            notifier,
            places,
            ..
        } = self;
        let mut mistakes = settings.check();
        mistakes.extend(spool.check(storage.is_some()));
        mistakes.extend(ssl.check());
        mistakes.extend(sasl.check(&ssl).err().into_iter().flat_map(|error| error.0));
        mistakes.extend(metrics.check());
        let producer = match (producer, settings.producer.as_str()) {
            // Without librdkafka it is a mistake that was found already.
            (None, NATIVE | RDKAFKA) => None,
            (None, name) => registry.producers.find("producer", name, &mut mistakes),
            (given, _) => given,
        };
        let notifier = match (notifier, settings.error_notifier.as_str()) {
            (None, LOG) => Some(Arc::new(LogNotifier) as Arc<dyn ErrorNotifier>),
            (None, name) => registry.notifiers.find("error_notifier", name, &mut mistakes),
            (given, _) => given,
        };
        let mut elsewhere = Vec::new();
        let storage = match (storage, &spool.storage) {
            (None, Some(name)) => registry.storages.find("storage", name, &mut elsewhere),
            (given, _) => given,
        };
        mistakes.extend(elsewhere.into_iter().map(Mistake::in_spool));
        let mut elsewhere = Vec::new();
        let token_provider = match &sasl.token_provider {
            Some(name) if sasl.is_on() => {
                registry.token_providers.find("token_provider", name, &mut elsewhere)
            }
            _ => None,
        };
        mistakes.extend(elsewhere.into_iter().map(|mistake| mistake.in_table("sasl")));
        for (topic, settings) in collectors {
            let mut wrong = Vec::new();
            registry.choose(settings, &mut wrong);
            mistakes.extend(wrong.into_iter().map(|mistake| mistake.in_collector(topic)));
        }
        if producer.is_some() {
            // They are its own affair.
            mistakes.retain(|mistake| mistake.key != "endpoints");
        }
        let (Some(notifier), []) = (notifier, mistakes.as_slice()) else {
            let placed = mistakes.into_iter().map(|mistake| places.place(mistake));
            return Err(BadConfigError(placed.collect()).into());
        };
        let producer = match producer {
            Some(producer) => producer,
            None => {
                let _inside = runtime.enter();
                let client = ClientSettings { ssl, sasl, token_provider, ..settings.client() };
                built_in(&settings.producer, client).map_err(|error| {
                    BadConfigError(error.mistakes.into_iter().map(|m| Mistake::of("client", m)).collect())
                })?
            }
        };
        let storage = match (storage, &spool.dir) {
            _ if spool.mode.is_none() => None,
            (None, Some(dir)) => {
                let disk = DiskStorage::new(DiskSettings::of(dir, &spool)).map_err(BuildError::Spool)?;
                Some(Arc::new(disk) as Arc<dyn TempStorage>)
            }
            (storage, _) => storage,
        };
        Ok(Choices {
            spool: spool.core(),
            replay_rate: spool.replay_rate,
            settings,
            defaults,
            registry: Arc::new(registry),
            producer,
            storage,
            notifier,
            metrics: Sink {
                config: metrics,
                shared: self.metrics_registry.is_some(),
                registry: self.metrics_registry.unwrap_or_default(),
            },
            seed: random_seed(),
        })
    }
}

/// One of the producers that need no registering.
fn built_in(name: &str, client: ClientSettings) -> Result<Arc<dyn Producer>, ClientSettingsError> {
    #[cfg(feature = "rdkafka")]
    if name == RDKAFKA {
        return Ok(Arc::new(crate::producer::rdkafka::RdkafkaProducer::new(client)?));
    }
    debug_assert_eq!(name, NATIVE, "whatever else there is was found or is a mistake");
    Ok(Arc::new(NativeProducer::new(client)?))
}

/// Jitter must differ from process to process, or a fleet comes back as one.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl From<Resolved> for Builder {
    fn from(resolved: Resolved) -> Self {
        let Resolved { settings, spool, ssl, sasl, metrics, defaults, collectors, places, .. } = resolved;
        Builder {
            settings,
            defaults,
            spool,
            ssl,
            sasl,
            collectors,
            registry: Registry::default(),
            producer: None,
            storage: None,
            notifier: None,
            metrics,
            metrics_registry: None,
            places,
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Builds a [`Collector`].
#[must_use = "a builder does nothing until it is built"]
pub struct CollectorBuilder {
    batcher: KafkaBatcher,
    topic: String,
    settings: CollectorSettings,
    given: Chosen,
}

impl CollectorBuilder {
    pub(crate) fn new(batcher: KafkaBatcher, topic: String, settings: CollectorSettings) -> Self {
        CollectorBuilder { batcher, topic, settings, given: Chosen::default() }
    }

    /// Changes this collector's settings.
    pub fn settings(mut self, change: impl FnOnce(&mut CollectorSettings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Chooses the partition by one of the built-in strategies.
    pub fn partition_strategy(mut self, strategy: Strategy) -> Self {
        self.settings.partition_strategy = strategy;
        self
    }

    /// Chooses the partition by this partitioner. A panic or an error in it costs that event an error.
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.given.partitioner = Some(Arc::new(partitioner));
        self
    }

    /// Asks this flusher after each event whether its batch must go at once.
    pub fn flusher(mut self, flusher: impl BatchFlusher + 'static) -> Self {
        self.given.flusher = Some(Arc::new(flusher));
        self
    }

    /// Has this interceptor add headers to each event, such as a trace's. A panic in it costs that event an error.
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        self.given.interceptor = Some(Arc::new(interceptor));
        self
    }

    /// Starts the collector. The topic need not be known, nor Kafka be there.
    ///
    /// # Errors
    /// [`BuildError::BadConfig`] with every mistake at once, [`BuildError::DuplicateCollector`],
    /// [`BuildError::Closed`]; [`BuildError::Metrics`] for the first one, if another batcher has its metrics in the registry.
    pub fn build(self) -> Result<Collector, BuildError> {
        let application = self.batcher.settings().clone();
        let mut mistakes = Vec::new();
        let chosen = self.batcher.registry().choose(&self.settings, &mut mistakes);
        let mut mistakes: Vec<_> = mistakes.into_iter().map(|m| m.in_collector(&self.topic)).collect();
        mistakes.extend(self.settings.check(&self.topic, &application));
        if !mistakes.is_empty() {
            return Err(BadConfigError(mistakes).into());
        }
        for warning in self.settings.warnings() {
            tracing::warn!(topic = self.topic, "{warning}");
        }
        let CollectorBuilder { batcher, topic, settings, given } = self;
        let Chosen { partitioner, flusher, interceptor } = given.or(chosen);
        let seed = batcher.next_seed();
        let user_partitioner = partitioner.is_some();
        let assigner = match partitioner {
            Some(own) => Assigner::shared(own, Sticky::new(settings.max_batch_bytesize, seed)),
            None => settings.partition_strategy.assigner(settings.max_batch_bytesize, seed),
        };
        let cap = application.partition_cap(&settings);
        batcher.add_topic(|pool, lanes, clock| {
            Topic::new(
                topic.into(),
                settings,
                pool,
                cap,
                lanes,
                clock,
                assigner,
                user_partitioner,
                flusher,
                interceptor,
            )
        })
    }
}

impl fmt::Debug for CollectorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorBuilder").field("topic", &self.topic).finish_non_exhaustive()
    }
}
