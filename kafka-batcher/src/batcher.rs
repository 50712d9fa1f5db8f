//! `KafkaBatcher`: owns everything, and is the one thing to start and to shut down.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use kafka_batcher_core::{BufferPool, OutboxSettings, Share, SpoolMode, SpoolSettings};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::builder::{Builder, Choices, CollectorBuilder};
use crate::clock::Clock;
use crate::collector::Collector;
use crate::compression::CompressionPool;
use crate::config::{AT_LEAST_ONCE, CollectorMissingError, CollectorSettings, Config, Settings};
use crate::connection_manager::{ConnectionManager, Health, SpoolHealth, TopicHealth};
use crate::dispatcher::{Command, Dispatcher, Parts};
use crate::error::BuildError;
use crate::identity::Identity;
use crate::metrics::Report;
use crate::panics;
use crate::producer::contained::Contained;
use crate::producer::{BoxFuture, MissingTopic, Producer};
use crate::registry::Registry;
use crate::storage::TempStorage;
use crate::supervisor::supervise;
use crate::telemetry::{Sink, Telemetry, TextFormat, Whole};
use crate::topic::Topic;

/// Accumulates events per partition and delivers them in batches. Cheap to clone; all clones are the same batcher.
///
/// Call [`KafkaBatcher::shutdown`] before the process ends: it delivers what is left and says what became of it.
/// Dropping the last clone without it loses what is still in memory, and says so in the log. With a spool that tries its best
/// first: the thread on which the runtime ends the batcher's tasks waits up to two seconds a topic until what was in memory
/// is on disk.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use kafka_batcher::KafkaBatcher;
///
/// let batcher = KafkaBatcher::builder(["127.0.0.1:9092"]).start().await?;
/// let flights = batcher.collector("flights").build()?;
/// flights.add_event(("SEA", r#"{"delay":66}"#)).await?;
/// let report = batcher.shutdown(std::time::Duration::from_secs(10)).await;
/// assert!(report.all_delivered());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KafkaBatcher {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    defaults: CollectorSettings,
    registry: Arc<Registry>,
    runtime: Handle,
    /// Ends the thread that `start_blocking` made, if it did.
    stop: Mutex<Option<oneshot::Sender<()>>>,
    clock: Clock,
    pool: BufferPool,
    /// What events of topics that are not known yet may hold of it, all together: half.
    lanes: Share,
    producer: Arc<dyn Producer>,
    storage: Option<Arc<dyn TempStorage>>,
    spool: SpoolSettings,
    replay_rate: Option<u64>,
    manager: Arc<ConnectionManager>,
    health: watch::Receiver<Health>,
    identity: Arc<Identity>,
    seed: AtomicU64,
    closed: AtomicBool,
    metrics: Sink,
    state: Mutex<State>,
    /// Topics to wake when memory runs out.
    topics: Topics,
    compression: Arc<CompressionPool>,
}

type Topics = Arc<Mutex<Vec<Weak<Topic>>>>;

/// How long a producer may take to close once every outcome is known. The native one takes milliseconds.
const CLOSING: Duration = Duration::from_secs(1);

/// How long a storage may take to close: everything that was called durable is already, and what it still writes down spares
/// resends. One that is still being opened (a recovery may take long) goes on by itself, or ends with the process.
const CLOSING_STORAGE: Duration = Duration::from_secs(10);

/// How long a scrape waits for the accounts of now.
const PUBLISHING: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    topics: BTreeMap<String, Running>,
    tasks: Vec<JoinHandle<()>>,
    /// What is recorded, if anything is.
    telemetry: Option<Telemetry>,
    /// The storage is being closed, or has been; whoever shuts down waits for the same.
    storage_closing: Option<Shared<BoxFuture<'static, ()>>>,
    /// The last word, once shut down.
    report: Option<Report>,
}

struct Running {
    topic: Arc<Topic>,
    commands: mpsc::UnboundedSender<Command>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KafkaBatcher {
    /// A builder for a batcher that finds its cluster at these addresses (`host:port`).
    pub fn builder(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        Builder::new(endpoints.into_iter().map(Into::into).collect())
    }

    /// Starts what a configuration file says, with all its collectors, on the current tokio runtime; the environment
    /// (`KAFKA_BATCHER__...`) has the last word. A program with partitioners, flushers, notifiers, storages or producers of
    /// its own uses [`Builder::from_config`].
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let batcher = kafka_batcher::KafkaBatcher::from_config("kafka-batcher.toml").await?;
    /// batcher.get_collector("flights")?.add_event(("SEA", r#"{"delay":66}"#)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Builder::start`]; a file that cannot be read is [`BuildError::BadConfig`], too. Cancel-safe, as that is.
    pub async fn from_config(path: impl AsRef<Path>) -> Result<KafkaBatcher, BuildError> {
        Builder::from_config(&Config::from_file(path)?.with_environment())?.start().await
    }

    pub(crate) fn launch(
        choices: Choices,
        runtime: Handle,
        stop: Option<oneshot::Sender<()>>,
    ) -> Result<Self, BuildError> {
        let Choices {
            settings,
            defaults,
            registry,
            producer,
            storage,
            mut spool,
            replay_rate,
            notifier,
            metrics,
            seed,
        } = choices;
        if storage.as_ref().is_some_and(|storage| !storage.keeps()) {
            // With write-ahead every event would be lost before it is sent.
            (spool.keeps, spool.mode) = (false, SpoolMode::OnFailure);
        }
        if storage.is_none() {
            tracing::info!(
                "there is no spool: what is in memory is lost if this process dies, or Kafka is away for too long"
            );
        }
        let producer: Arc<dyn Producer> = Arc::new(Contained::new(producer));
        if !producer.accepts_stamped() {
            tracing::warn!("{AT_LEAST_ONCE}");
        }
        let clock = Clock::start();
        let topics = Topics::default();
        let to_wake = topics.clone();
        let pool = BufferPool::with_hook(settings.memory, move || {
            lock(&to_wake).iter().filter_map(Weak::upgrade).for_each(|topic| topic.wake.notify_one());
        });
        let (health, watched) = watch::channel(Health::default());
        let manager = Arc::new(ConnectionManager {
            producer: producer.clone(),
            notifier,
            health,
            backoff: settings.backoff(),
            metadata_max_age: settings.metadata_max_age,
            doubts: Notify::new(),
        });
        let whole = Whole { pool: pool.clone(), producer: producer.clone(), storage: storage.clone() };
        let telemetry = match defaults.telemetry {
            true => Some(Telemetry::register(metrics.clone(), clock, watched.clone(), Some(whole))?),
            false => None,
        };
        let connecting = runtime.spawn(manager.clone().run_for_ever(seed, settings.max_restart, clock));
        tracing::info!(endpoints = settings.endpoints.join(","), "started");
        let inner = Inner {
            // Of any collector at least one batch fits: two fit into the whole (`CollectorSettings::check`).
            lanes: Share::new(settings.partition_cap(&defaults).max(pool.limit() / 2)),
            settings,
            defaults,
            registry,
            runtime,
            stop: Mutex::new(stop),
            clock,
            pool,
            producer,
            storage,
            spool,
            replay_rate,
            manager,
            health: watched,
            identity: Arc::new(Identity::default()),
            seed: AtomicU64::new(seed),
            closed: AtomicBool::new(false),
            metrics,
            state: Mutex::new(State { tasks: vec![connecting], telemetry, ..State::default() }),
            topics,
            compression: Arc::new(CompressionPool::new()),
        };
        Ok(KafkaBatcher { inner: Arc::new(inner) })
    }

    /// A collector for a topic; may be called at any time, once for each topic.
    pub fn collector(&self, topic: impl Into<String>) -> CollectorBuilder {
        CollectorBuilder::new(self.clone(), topic.into(), self.inner.defaults.clone())
    }

    /// The collector of this topic that runs: one of the configuration's, or one built before.
    ///
    /// # Errors
    /// There is none; the error names those that there are.
    pub fn get_collector(&self, topic: &str) -> Result<Collector, CollectorMissingError> {
        let state = lock(&self.inner.state);
        match state.topics.get(topic) {
            Some(running) => Ok(self.collector_of(running)),
            None => Err(CollectorMissingError {
                topic: topic.to_owned(),
                known: state.topics.keys().cloned().collect(),
            }),
        }
    }

    fn collector_of(&self, running: &Running) -> Collector {
        Collector {
            topic: running.topic.clone(),
            commands: running.commands.clone(),
            max_block: self.inner.settings.max_block,
        }
    }

    /// Starts the collectors of a configuration.
    pub(crate) fn with_collectors(
        self,
        collectors: BTreeMap<String, CollectorSettings>,
    ) -> Result<Self, BuildError> {
        for (topic, settings) in collectors {
            CollectorBuilder::new(self.clone(), topic, settings).build()?;
        }
        Ok(self)
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// A number that no other part of this batcher was seeded with.
    pub(crate) fn next_seed(&self) -> u64 {
        self.inner.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    pub(crate) fn add_topic(
        &self,
        make: impl FnOnce(BufferPool, Share, Clock) -> Topic,
    ) -> Result<Collector, BuildError> {
        let inner = &*self.inner;
        let mut state = lock(&inner.state);
        if inner.closed.load(Ordering::SeqCst) {
            return Err(BuildError::Closed);
        }
        let mut topic = make(inner.pool.clone(), inner.lanes.clone(), inner.clock);
        if state.topics.contains_key(&*topic.name) {
            return Err(BuildError::DuplicateCollector(topic.name.to_string()));
        }
        if topic.settings.telemetry {
            let telemetry = match state.telemetry.take() {
                Some(telemetry) => telemetry,
                // Off for all but this one.
                None => Telemetry::register(inner.metrics.clone(), inner.clock, inner.health.clone(), None)?,
            };
            let telemetry = state.telemetry.insert(telemetry).topic(topic.name.clone());
            topic.refused = telemetry.refused.clone();
            topic.telemetry = Some(telemetry);
        }
        let topic = Arc::new(topic);
        let (commands, inbox) = mpsc::unbounded_channel();
        let (found, info) = watch::channel(None);
        let refresh = Arc::new(Notify::new());
        let seed = self.next_seed();
        inner.manager.set_topic(&topic.name, |health| *health = TopicHealth::Connecting);
        if inner.storage.is_some() {
            inner.manager.set_spool(&topic.name, SpoolHealth::Opening);
        }
        let missing = match topic.settings.allow_topic_auto_creation {
            true => MissingTopic::Create,
            false => MissingTopic::Refuse,
        };
        let watching = {
            let (manager, name, refresh) = (inner.manager.clone(), topic.name.clone(), refresh.clone());
            move || manager.clone().watch_topic(name.clone(), missing, found.clone(), refresh.clone(), seed)
        };
        let (max_restart, clock, failing) = (inner.settings.max_restart, inner.clock, commands.clone());
        let watcher = async move {
            let what = "the task that watches the topic";
            if let Err(reason) = supervise(what, max_restart, clock, &watching).await {
                // If nobody is there to take it, there is nothing left that could fail.
                let _ = failing.send(Command::Fail(reason));
            }
            // What it found out is kept until the batcher goes.
            std::future::pending::<()>().await;
        };
        let dispatcher = Dispatcher::new(Parts {
            topic: topic.clone(),
            producer: inner.producer.clone(),
            manager: inner.manager.clone(),
            identity: inner.identity.clone(),
            storage: inner.storage.clone(),
            outbox: OutboxSettings {
                idempotent: topic.settings.idempotent() && inner.producer.accepts_stamped(),
                max_in_flight: inner.settings.max_in_flight,
                backoff: inner.settings.backoff(),
                first_sequence: 0,
                delivery_timeout: topic.settings.delivery_timeout,
                on_expired_timestamp: topic.settings.on_expired_timestamp,
                required_acks: topic.settings.required_acks,
                spool: inner.storage.as_ref().map(|_| inner.spool),
            },
            compression: inner.compression.clone(),
            replay_rate: inner.replay_rate,
            request_timeout: inner.settings.request_timeout,
            max_request_size: inner.settings.max_request_size,
            info,
            refresh,
            commands: inbox,
            seed,
        });
        lock(&inner.topics).push(Arc::downgrade(&topic));
        // Whatever its tasks say is said of this topic.
        let span = tracing::info_span!("collector", topic = &*topic.name);
        span.in_scope(|| tracing::info!("collecting"));
        state.tasks.push(inner.runtime.spawn(watcher.instrument(span.clone())));
        state.tasks.push(inner.runtime.spawn(dispatcher.run().instrument(span)));
        let running = Running { topic: topic.clone(), commands };
        let collector = self.collector_of(&running);
        state.topics.insert(topic.name.to_string(), running);
        Ok(collector)
    }

    #[cfg(test)]
    pub(crate) fn compression(&self) -> &CompressionPool {
        &self.inner.compression
    }

    /// Bytes of memory that events hold now, over all topics: accepted and not delivered yet. The bound is
    /// [`Settings::memory`].
    pub fn memory_used(&self) -> usize {
        self.inner.pool.used()
    }

    /// How it stands with the cluster and each topic; the receiver sees every change.
    ///
    /// ```no_run
    /// # async fn run(batcher: kafka_batcher::KafkaBatcher) {
    /// let mut health = batcher.health();
    /// println!("{:?}", health.borrow().cluster);                 // as it is now
    /// let _ = health.wait_for(|health| health.is_ready()).await; // when everything can be written to
    /// # }
    /// ```
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.clone()
    }

    /// The settings in effect.
    pub fn effective_settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The settings in effect for a topic's collector; `None` if there is none.
    pub fn collector_settings(&self, topic: &str) -> Option<CollectorSettings> {
        lock(&self.inner.state).topics.get(topic).map(|running| running.topic.settings.clone())
    }

    /// Flushes every collector; see [`Collector::flush`]. Cancel-safe, as that is.
    pub async fn flush(&self) {
        let asked = self.ask(Command::Flush);
        for (_, settled) in asked {
            let _ = settled.await;
        }
    }

    /// What became of every event so far. At the start it waits until the spool has said what an earlier process left. Cancel-safe.
    pub async fn report(&self) -> Report {
        if let Some(report) = &lock(&self.inner.state).report {
            return report.clone();
        }
        let mut sum = Report::default();
        for (topic, answer) in self.ask(Command::Report) {
            match answer.await {
                Ok(report) => sum.add(&report),
                // The dispatcher has ended; its last word is kept.
                Err(_) => sum.add(&topic.final_report()),
            }
        }
        sum
    }

    /// The metrics as text, all accounts of now: the content of the registry, which is [`Builder::metrics_registry`]'s if one was
    /// given. For a server of your own: answer with [`TextFormat::content_type`], in the format that [`TextFormat::from_accept`]
    /// finds. After a shutdown it says the last values. With `telemetry = false` it says nothing. Cancel-safe.
    ///
    /// A topic whose task is busy with user code for longer than a second is shown as it last was.
    pub async fn metrics_text(&self, format: TextFormat) -> String {
        let asked = self.ask(Command::Publish);
        let deadline = tokio::time::Instant::now() + PUBLISHING;
        for (_, answer) in asked {
            // A dispatcher that has ended has published its last word.
            let _ = tokio::time::timeout_at(deadline, answer).await;
        }
        format.encode(&self.inner.metrics.registry.gather())
    }

    #[cfg(test)]
    pub(crate) fn records(&self) -> bool {
        lock(&self.inner.state).telemetry.is_some()
    }

    fn ask<T>(
        &self,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Vec<(Arc<Topic>, oneshot::Receiver<T>)> {
        let state = lock(&self.inner.state);
        let running = state.topics.values();
        running
            .map(|running| {
                let (answer, answered) = oneshot::channel();
                // If nobody is there to take it, the answer's sender is dropped with it.
                let _ = running.commands.send(command(answer));
                (running.topic.clone(), answered)
            })
            .collect()
    }

    /// Accepts no more events, delivers what is left for at most `timeout` (`None`: the setting `shutdown_timeout`), leaves
    /// the rest in the spool (without one: gives up on it), disconnects, and says what became of every event. Called again, also while the first call is waiting, it answers the same; of several
    /// calls the earliest deadline holds.
    ///
    /// With a spool it may take ten seconds longer until that has what is left, and ten more until it is closed: a disk that does
    /// not answer, or a long recovery, is not waited for.
    ///
    /// Not cancel-safe: a dropped call has stopped the intake, and the rest may not have happened.
    #[must_use = "the report says whether events were lost"]
    pub async fn shutdown(&self, timeout: impl Into<Option<Duration>>) -> Report {
        let inner = &*self.inner;
        let timeout = timeout.into().unwrap_or(inner.settings.shutdown_timeout);
        let topics: Vec<Arc<Topic>> = {
            let state = lock(&inner.state);
            inner.closed.store(true, Ordering::SeqCst);
            state.topics.values().map(|running| running.topic.clone()).collect()
        };
        // First the intake of all topics, then deliveries: no topic goes on while another one is closing.
        topics.iter().for_each(|topic| topic.close());
        inner.manager.set_closing();
        let deadline = inner.clock.now() + timeout;
        let mut sum = Report::default();
        for (topic, done) in self.ask(|done| Command::Close { deadline, done }) {
            // No answer: the dispatcher has ended, for another caller's sake, and its last word is kept.
            let _ = done.await;
            sum.add(&topic.final_report());
        }
        // Before the producer is closed: nobody connects any more.
        lock(&inner.state).tasks.drain(..).for_each(|task| task.abort());
        if tokio::time::timeout(CLOSING, inner.producer.close()).await.is_err() {
            tracing::warn!(
                "the producer did not close within {CLOSING:?}; its connections end with the process"
            );
        }
        self.close_storage().await;
        if lock(&inner.state).report.replace(sum.clone()).is_none() {
            tracing::info!("shut down: {sum}");
        }
        sum
    }

    /// Closes the storage, once, however often it is asked for and whoever gives up waiting.
    async fn close_storage(&self) {
        let Some(storage) = self.inner.storage.clone() else { return };
        let close = move || {
            let closing = async move {
                // User code: it may panic, at once or later, and it may never be done.
                let close = std::panic::AssertUnwindSafe(async move { storage.close().await }).catch_unwind();
                match tokio::time::timeout(CLOSING_STORAGE, close).await {
                    Ok(Ok(())) => {}
                    Ok(Err(panic)) => {
                        let message = panics::message(panic.as_ref());
                        tracing::error!("the storage panicked when it was closed: {message}");
                    }
                    Err(_) => tracing::warn!(
                        "the storage did not close within {CLOSING_STORAGE:?}; what it has not written down yet may be sent \
                         again after the next start"
                    ),
                }
            };
            let closing: BoxFuture<'static, ()> = Box::pin(closing);
            closing.shared()
        };
        let closing = lock(&self.inner.state).storage_closing.get_or_insert_with(close).clone();
        closing.await;
    }

    /// Ends the batcher's own thread, where there is one.
    fn stop(&self) {
        if let Some(stop) = lock(&self.inner.stop).take() {
            let _ = stop.send(());
        }
    }

    /// As [`KafkaBatcher::shutdown`], for a thread without a runtime.
    ///
    /// # Panics
    /// Within an asynchronous task, as every blocking call of tokio's.
    #[must_use = "the report says whether events were lost"]
    pub fn shutdown_blocking(&self, timeout: impl Into<Option<Duration>>) -> Report {
        let report = self.inner.runtime.block_on(self.shutdown(timeout));
        self.stop();
        report
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let left: u64 = state.topics.values().map(|running| running.topic.unsettled()).sum();
        if state.report.is_none() {
            if left > 0 && self.storage.is_some() {
                // How that ends, the dispatchers say.
                tracing::warn!(
                    events = left,
                    "the batcher was dropped without shutdown; what was not delivered yet goes to the spool"
                );
            } else if left > 0 {
                tracing::error!(
                    events = left,
                    "the batcher was dropped without shutdown; what was not delivered yet is lost"
                );
            }
            state.topics.values().for_each(|running| running.topic.close());
            state.tasks.drain(..).for_each(|task| task.abort());
        }
        // Dropping the sender of `stop` ends the thread that waits for it.
    }
}

impl fmt::Debug for KafkaBatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBatcher")
            .field("endpoints", &self.inner.settings.endpoints)
            .finish_non_exhaustive()
    }
}
