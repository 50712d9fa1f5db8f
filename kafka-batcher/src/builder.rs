//! `Builder` and `CollectorBuilder`: settings and user code, checked as a whole before anything starts.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher_core::flusher::BatchFlusher;
use kafka_batcher_core::partitioner::{Assigner, Partitioner, Sticky, Strategy};
use kafka_batcher_core::{BackoffSettings, OnFull, SpoolMode, SpoolSettings};
use tokio::runtime::Handle;

use crate::batcher::KafkaBatcher;
use crate::client::ClientSettings;
use crate::collector::Collector;
use crate::config::{CollectorSettings, Mistake, Settings};
use crate::error::BuildError;
use crate::error_notifier::{ErrorNotifier, LogNotifier};
use crate::producer::Producer;
use crate::producer::native::NativeProducer;
use crate::storage::{DiskSettings, DiskStorage, TempStorage};
use crate::topic::Topic;

impl Settings {
    pub(crate) fn backoff(&self) -> BackoffSettings {
        BackoffSettings {
            initial: self.retry_backoff,
            max: self.retry_backoff_max,
            ..BackoffSettings::default()
        }
    }

    /// What of them concerns the native client.
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
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) storage: Option<Arc<dyn TempStorage>>,
    pub(crate) spool: SpoolSettings,
    pub(crate) notifier: Arc<dyn ErrorNotifier>,
    pub(crate) seed: u64,
}

/// Builds a [`KafkaBatcher`].
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    settings: Settings,
    defaults: CollectorSettings,
    producer: Option<Arc<dyn Producer>>,
    storage: Option<Arc<dyn TempStorage>>,
    disk: Option<DiskSettings>,
    spool: SpoolSettings,
    notifier: Arc<dyn ErrorNotifier>,
}

impl Builder {
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        Builder {
            settings: Settings { endpoints, ..Settings::default() },
            defaults: CollectorSettings::default(),
            producer: None,
            storage: None,
            disk: None,
            spool: spool_defaults(),
            notifier: Arc::new(LogNotifier),
        }
    }

    /// Changes application-wide settings.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Changes what every collector starts from.
    pub fn collector_defaults(mut self, change: impl FnOnce(&mut CollectorSettings)) -> Self {
        change(&mut self.defaults);
        self
    }

    /// Tells this notifier of trouble instead of the log.
    pub fn error_notifier(mut self, notifier: impl ErrorNotifier) -> Self {
        self.notifier = Arc::new(notifier);
        self
    }

    /// Delivers through this producer instead of the native one; the endpoints are then its own affair.
    pub fn producer(mut self, producer: impl Producer) -> Self {
        self.producer = Some(Arc::new(producer));
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
        self.disk = Some(DiskSettings::new(dir));
        self
    }

    /// The same, with bounds of your own.
    pub fn spool_with(mut self, settings: DiskSettings) -> Self {
        self.disk = Some(settings);
        self
    }

    /// Keeps batches in this storage while Kafka does not take them, in place of a directory.
    pub fn storage(mut self, storage: impl TempStorage) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// When batches go to the storage: only when Kafka takes none (the default), or always before they are sent.
    pub fn spool_mode(mut self, mode: SpoolMode) -> Self {
        self.spool.mode = mode;
        self
    }

    /// How long Kafka may take nothing of a partition before its batches go to the storage (default 5 s).
    pub fn spool_after(mut self, after: Duration) -> Self {
        self.spool.after = after;
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
        self.spool.other_cluster = consent;
        self
    }

    /// Starts the batcher on the current tokio runtime. Kafka being down is no error: events are accepted, and
    /// delivered when it is back.
    ///
    /// # Errors
    /// [`BuildError::BadConfig`] with every mistake at once; [`BuildError::Spool`] if the directory cannot be used.
    // Async although nothing is awaited yet: callers must not have to change.
    #[allow(clippy::unused_async)]
    pub async fn start(self) -> Result<KafkaBatcher, BuildError> {
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        Ok(KafkaBatcher::launch(self.check(&runtime)?, runtime, None))
    }

    /// Starts the batcher on a runtime and a thread of its own, for programs that are not asynchronous.
    ///
    /// # Errors
    /// As [`Builder::start`]; also if the thread cannot be started.
    pub fn start_blocking(self) -> Result<KafkaBatcher, BuildError> {
        let failed = |error: std::io::Error| BuildError::Thread(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let choices = self.check(&handle)?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let run = move || {
            // Drives every task until it is told to stop, or the batcher is gone.
            let _ = runtime.block_on(stopped);
        };
        std::thread::Builder::new().name("kafka-batcher".to_owned()).spawn(run).map_err(failed)?;
        Ok(KafkaBatcher::launch(choices, handle, Some(stop)))
    }

    fn check(self, runtime: &Handle) -> Result<Choices, BuildError> {
        let mut mistakes = self.settings.check();
        if self.producer.is_some() {
            mistakes.retain(|mistake| mistake.key != "endpoints");
        }
        if !mistakes.is_empty() {
            return Err(BuildError::BadConfig(mistakes));
        }
        let producer = match self.producer {
            Some(producer) => producer,
            None => {
                let _inside = runtime.enter();
                let native = NativeProducer::new(self.settings.client()).map_err(|error| {
                    let mistake = |message| Mistake { key: "client", topic: None, message };
                    BuildError::BadConfig(error.mistakes.into_iter().map(mistake).collect())
                })?;
                Arc::new(native)
            }
        };
        let storage = match (self.storage, self.disk) {
            (None, Some(disk)) => {
                let disk = DiskStorage::new(disk).map_err(BuildError::Spool)?;
                Some(Arc::new(disk) as Arc<dyn TempStorage>)
            }
            (storage, _) => storage,
        };
        Ok(Choices {
            settings: self.settings,
            defaults: self.defaults,
            producer,
            storage,
            spool: self.spool,
            notifier: self.notifier,
            seed: random_seed(),
        })
    }
}

/// Jitter must differ from process to process, or a fleet comes back as one.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// How a spool is used unless somebody says otherwise.
pub(crate) fn spool_defaults() -> SpoolSettings {
    SpoolSettings::new(SpoolMode::OnFailure, Duration::from_secs(5))
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
    partitioner: Option<Arc<dyn Partitioner>>,
    flusher: Option<Arc<dyn BatchFlusher>>,
}

impl CollectorBuilder {
    pub(crate) fn new(batcher: KafkaBatcher, topic: String, settings: CollectorSettings) -> Self {
        CollectorBuilder { batcher, topic, settings, partitioner: None, flusher: None }
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
        self.partitioner = Some(Arc::new(partitioner));
        self
    }

    /// Asks this flusher after each event whether its batch must go at once.
    pub fn flusher(mut self, flusher: impl BatchFlusher + 'static) -> Self {
        self.flusher = Some(Arc::new(flusher));
        self
    }

    /// Starts the collector. The topic need not be known, nor Kafka be there.
    ///
    /// # Errors
    /// [`BuildError::BadConfig`] with every mistake at once, [`BuildError::DuplicateCollector`],
    /// [`BuildError::Closed`].
    pub fn build(self) -> Result<Collector, BuildError> {
        let application = self.batcher.settings().clone();
        let mistakes = self.settings.check(&self.topic, &application);
        if !mistakes.is_empty() {
            return Err(BuildError::BadConfig(mistakes));
        }
        if self.settings.min_delay > self.settings.max_wait_time {
            tracing::warn!(topic = self.topic, "min_delay is longer than max_wait_time and so does nothing");
        }
        let CollectorBuilder { batcher, topic, settings, partitioner, flusher } = self;
        let seed = batcher.next_seed();
        let user_partitioner = partitioner.is_some();
        let assigner = match partitioner {
            Some(own) => Assigner::shared(own, Sticky::new(settings.max_batch_bytesize, seed)),
            None => settings.partition_strategy.assigner(settings.max_batch_bytesize, seed),
        };
        let cap = application.partition_cap(&settings);
        batcher.add_topic(|pool, clock| {
            Topic::new(topic.into(), settings, pool, cap, clock, assigner, user_partitioner, flusher)
        })
    }
}

impl fmt::Debug for CollectorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorBuilder").field("topic", &self.topic).finish_non_exhaustive()
    }
}
