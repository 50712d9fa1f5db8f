//! `ConnectionManager`: keeps the producer connected, finds out about topics, says how they are.
//!
//! Kafka being down is a state, not an error: it is tried again with a growing, jittered pause, told once when it
//! begins and once when it has passed. Each topic is watched by a task of its own, so one that is missing or forbidden
//! never holds up another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher_core::{Backoff, BackoffSettings, ErrorClass, ErrorCode};
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::error_notifier::{ErrorNotifier, Notification, NotificationKind, notify};
use crate::producer::{ClusterInfo, MissingTopic, Producer, ProducerError, TopicInfo};
use crate::supervisor::supervise;

/// How the batcher stands with the cluster; see [`KafkaBatcher::health`](crate::KafkaBatcher::health).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The batcher shuts down, or has: it accepts no more events.
    pub closing: bool,
    /// The cluster as a whole.
    pub cluster: ClusterHealth,
    /// Each topic that has a collector.
    pub topics: BTreeMap<String, TopicHealth>,
    /// The spool, as each topic finds it; empty where there is none.
    pub spools: BTreeMap<String, SpoolHealth>,
}

impl Health {
    /// True if the cluster answers and every topic can be written to.
    pub fn is_ready(&self) -> bool {
        !self.closing
            && matches!(self.cluster, ClusterHealth::Connected(_))
            && self.topics.values().all(|topic| matches!(topic, TopicHealth::Ready { .. }))
    }

    /// True if a collector has failed: only a new process helps.
    pub fn has_failed(&self) -> bool {
        self.topics.values().any(|topic| matches!(topic, TopicHealth::Failed { .. }))
    }

    /// Why events of this topic are refused or would only pile up in memory; `None`: they go to Kafka, or to the spool. Trouble that passes by
    /// itself ([`TopicHealth::Troubled`]) is no reason: a leader that moves would turn traffic away from every process.
    pub fn blocked(&self, topic: &str) -> Option<String> {
        if self.closing {
            return Some("it shuts down, and accepts no more events".to_owned());
        }
        let unsafe_because = match (&self.cluster, self.topics.get(topic)) {
            (_, Some(TopicHealth::Failed { message })) => return Some(message.clone()),
            (ClusterHealth::Unreachable { message, .. }, _) => message.clone(),
            (ClusterHealth::Connecting, _) => "the cluster has not answered yet".to_owned(),
            (_, Some(TopicHealth::Ready { .. } | TopicHealth::Troubled { .. })) => return None,
            (_, Some(TopicHealth::Unavailable { message })) => message.clone(),
            (_, Some(TopicHealth::Connecting)) => "the topic is not known yet".to_owned(),
            (_, None) => "it has no collector".to_owned(),
        };
        match self.spools.get(topic) {
            Some(SpoolHealth::Works) => None,
            Some(SpoolHealth::Opening) => Some(format!("{unsafe_because}; the spool is not open yet")),
            Some(SpoolHealth::Troubled { message }) => {
                Some(format!("{unsafe_because}; the spool: {message}"))
            }
            None => Some(unsafe_because),
        }
    }
}

/// Whether the spool takes what a topic gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpoolHealth {
    /// What an earlier process left is being read.
    Opening,
    /// It does.
    Works,
    /// It is full, fails, or does not answer; it is tried again all the time.
    Troubled {
        /// Its words.
        message: String,
    },
}

impl SpoolHealth {
    pub(crate) fn works(&self) -> bool {
        *self == SpoolHealth::Works
    }
}

/// Whether the cluster answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterHealth {
    /// Nobody has answered yet, and nothing has failed yet.
    #[default]
    Connecting,
    /// It answers.
    Connected(ClusterInfo),
    /// It does not; events are accepted as long as there is memory.
    Unreachable {
        /// Why, where, and what to do.
        message: String,
        /// Trying again will hardly help before somebody acts: it does not let this client in (login, certificate).
        shut_out: bool,
    },
}

/// Whether a topic can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicHealth {
    /// Not known yet.
    Connecting,
    /// Known; batches flow.
    Ready {
        /// How many partitions it has.
        partitions: i32,
    },
    /// Deliveries to at least one of its partitions have stopped, for now: it passes by itself.
    Troubled {
        /// Why.
        message: String,
    },
    /// It, or at least one of its partitions, cannot be written to until somebody acts: it is missing or forbidden, or events
    /// wait for another cluster, a longer retention, a producer id.
    Unavailable {
        /// Why.
        message: String,
    },
    /// Its collector cannot go on, and accepts no events any more; what it had goes to the spool. For good: the next process
    /// delivers it.
    Failed {
        /// Why.
        message: String,
    },
}

impl TopicHealth {
    /// The words for them, in metrics and answers.
    pub(crate) const WORDS: [&'static str; 5] = ["connecting", "ready", "troubled", "unavailable", "failed"];

    /// One word for it: `connecting`, `ready`, `troubled`, `unavailable` or `failed`.
    pub fn word(&self) -> &'static str {
        let [connecting, ready, troubled, unavailable, failed] = Self::WORDS;
        match self {
            TopicHealth::Connecting => connecting,
            TopicHealth::Ready { .. } => ready,
            TopicHealth::Troubled { .. } => troubled,
            TopicHealth::Unavailable { .. } => unavailable,
            TopicHealth::Failed { .. } => failed,
        }
    }
}

/// So often a topic that is being created may be found missing or without a leader: some three seconds by the default
/// pauses. Kafka always answers so at first, and nobody should be called for it.
const BIRTH_ATTEMPTS: u32 = 5;

/// Whether a topic that is just being created would be answered so.
fn is_birth(error: &ProducerError, missing: MissingTopic) -> bool {
    match error.code {
        Some(ErrorCode::LEADER_NOT_AVAILABLE) => true,
        Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => missing == MissingTopic::Create,
        _ => false,
    }
}

/// Whether nobody answered, or nobody lets this client in: the whole cluster's trouble, and not one topic's.
fn concerns_cluster(error: &ProducerError, cluster: &ClusterHealth) -> bool {
    match error.code {
        None if error.class == ErrorClass::Retriable => true,
        // Somebody must act, and where the cluster answers that is about the topic.
        None => !matches!(cluster, ClusterHealth::Connected(_)),
        Some(code) => matches!(
            code,
            ErrorCode::SASL_AUTHENTICATION_FAILED
                | ErrorCode::UNSUPPORTED_SASL_MECHANISM
                | ErrorCode::ILLEGAL_SASL_STATE
        ),
    }
}

/// See the module's documentation. One for each batcher.
pub(crate) struct ConnectionManager {
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) notifier: Arc<dyn ErrorNotifier>,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) backoff: BackoffSettings,
    pub(crate) metadata_max_age: Duration,
    /// Somebody has reason to think that the cluster is gone.
    pub(crate) doubts: Notify,
}

impl ConnectionManager {
    fn backoff(&self, seed: u64) -> Backoff {
        Backoff::new(self.backoff, seed)
    }

    /// Keeps [`ConnectionManager::run`] going whatever it does: nothing depends on what it knows. Runs until it is aborted.
    pub(crate) async fn run_for_ever(self: Arc<Self>, seed: u64, max_restart: u32, clock: Clock) {
        let mut told = false;
        loop {
            let run = || self.clone().run(seed);
            let ended = supervise("the task of the cluster's connection", max_restart, clock, run).await;
            if let Err(message) = ended
                && !std::mem::replace(&mut told, true)
            {
                self.tell(NotificationKind::ClientStartFailed, None, None, message);
            }
            tokio::time::sleep(self.backoff.max).await;
        }
    }

    /// Connects, and again whenever a topic's watcher has doubts. Runs until it is aborted.
    pub(crate) async fn run(self: Arc<Self>, seed: u64) {
        let mut backoff = self.backoff(seed);
        let mut told = false;
        loop {
            match self.producer.connect().await {
                Ok(info) => {
                    backoff.reset();
                    self.set_cluster(ClusterHealth::Connected(info));
                    if std::mem::take(&mut told) {
                        self.tell(
                            NotificationKind::Recovered,
                            None,
                            None,
                            "the cluster answers again".to_owned(),
                        );
                    }
                    self.doubts.notified().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "the cluster cannot be reached");
                    let shut_out = error.class == ErrorClass::Unavailable;
                    self.set_cluster(ClusterHealth::Unreachable { message: error.message.clone(), shut_out });
                    if !std::mem::replace(&mut told, true) {
                        self.tell(NotificationKind::ClientStartFailed, None, None, error.message);
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Finds out how many partitions a topic has, and again when asked by `refresh` or when the answer has become old.
    /// Runs until it is aborted.
    pub(crate) async fn watch_topic(
        self: Arc<Self>,
        topic: Arc<str>,
        missing: MissingTopic,
        found: watch::Sender<Option<TopicInfo>>,
        refresh: Arc<Notify>,
        seed: u64,
    ) {
        let mut backoff = self.backoff(seed);
        let mut told = false;
        let mut changes = self.producer.metadata_version();
        loop {
            changes.mark_unchanged();
            #[cfg(test)]
            crate::dispatcher::panic_if_planted(&topic, crate::storage::UNASSIGNED);
            match self.producer.topic(&topic, missing).await {
                Ok(info) => {
                    let partitions = info.partitions;
                    // Who asks again and again learns less and less: a partition without a leader is asked about by every
                    // event for it.
                    if found.borrow().as_ref() != Some(&info) || changes.has_changed().unwrap_or(false) {
                        backoff.reset();
                    }
                    if std::mem::take(&mut told) {
                        let message = format!("the topic has {partitions} partitions and can be written to");
                        self.tell(NotificationKind::Recovered, Some(&topic), None, message);
                    }
                    // The dispatcher says that the topic is ready, once it is.
                    let unready = self.topic_is_unready(&topic);
                    found.send_if_modified(|known| {
                        let new = known.as_ref() != Some(&info);
                        *known = Some(info);
                        new || unready
                    });
                    let asked = tokio::time::Instant::now();
                    let _ = tokio::time::timeout(self.metadata_max_age, refresh.notified()).await;
                    if asked.elapsed() > self.backoff.max {
                        backoff.reset();
                    }
                }
                Err(error) if is_birth(&error, missing) && backoff.attempts() < BIRTH_ATTEMPTS => {
                    tracing::debug!(topic = &*topic, %error, "the topic is not there yet");
                }
                Err(error) => self.topic_failed(&topic, &error, &mut told),
            }
            // Also after a success: who asks again at once has learnt nothing new since.
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn topic_failed(&self, topic: &Arc<str>, error: &ProducerError, told: &mut bool) {
        let message = error.message.clone();
        let of_cluster = concerns_cluster(error, &self.health.borrow().cluster);
        if of_cluster || error.code.is_none() {
            self.doubts.notify_one();
        }
        if of_cluster {
            // Told by the cluster's task, not once more for each topic.
            return;
        }
        self.set_topic(topic, |health| *health = TopicHealth::Unavailable { message: message.clone() });
        if !std::mem::replace(told, true) {
            self.tell(NotificationKind::ProducerStartFailed, Some(topic), None, message);
        }
    }

    /// Why nothing is known of a topic, in the words of whoever tried.
    pub(crate) fn why_unknown(&self, topic: &str) -> String {
        let health = self.health.borrow();
        match (&health.cluster, health.topics.get(topic)) {
            (_, Some(TopicHealth::Unavailable { message })) => message.clone(),
            (ClusterHealth::Unreachable { message, .. }, _) => message.clone(),
            _ => "nobody has answered yet".to_owned(),
        }
    }

    fn topic_is_unready(&self, topic: &str) -> bool {
        !matches!(self.health.borrow().topics.get(topic), Some(TopicHealth::Ready { .. }))
    }

    /// No more events are accepted.
    pub(crate) fn set_closing(&self) {
        self.health.send_if_modified(|health| !std::mem::replace(&mut health.closing, true));
    }

    fn set_cluster(&self, new: ClusterHealth) {
        self.health.send_if_modified(|health| {
            let changed = health.cluster != new;
            health.cluster = new;
            changed
        });
    }

    /// Changes what is said of a topic.
    pub(crate) fn set_topic(&self, topic: &str, change: impl FnOnce(&mut TopicHealth)) {
        self.health.send_if_modified(|health| {
            let entry = health.topics.entry(topic.to_owned()).or_insert(TopicHealth::Connecting);
            if let TopicHealth::Failed { .. } = entry {
                return false;
            }
            let before = entry.clone();
            change(entry);
            *entry != before
        });
    }

    /// Says how a topic finds the spool.
    pub(crate) fn set_spool(&self, topic: &str, new: SpoolHealth) {
        self.health.send_if_modified(|health| {
            let changed = health.spools.get(topic) != Some(&new);
            health.spools.insert(topic.to_owned(), new);
            changed
        });
    }

    pub(crate) fn tell(
        &self,
        kind: NotificationKind,
        topic: Option<&str>,
        partition: Option<i32>,
        message: String,
    ) {
        let notification = Notification { kind, topic: topic.map(str::to_owned), partition, message };
        notify(self.notifier.as_ref(), &notification);
    }
}
