//! `ErrorNotifier`: where trouble is told, once per episode.

use std::fmt;

/// What kind of trouble. The names are those that users of the Elixir library match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotificationKind {
    /// Deliveries of a topic stopped; events are kept: `KafkaBatcherProducerError`.
    ProducerError,
    /// Events are final and not delivered, or in doubt: `KafkaBatcherProducerError`, as in the Elixir library.
    EventsLost,
    /// Kafka has taken nothing of a partition, or said nothing of a topic, for `spool_after`; its events go to disk:
    /// `KafkaBatcherSpooling`.
    Spooling,
    /// The spool does not work (full, failing, damaged), or holds something strange: `KafkaBatcherSpoolError`.
    SpoolError,
    /// Events that Kafka will never take were put aside: `KafkaBatcherDeadLettered`.
    DeadLettered,
    /// A collector cannot go on because of a mistake of this library's, and accepts no events any more:
    /// `KafkaBatcherCollectorFailed`.
    CollectorFailed,
    /// The topic's producer cannot start (unknown topic, no permission): `KafkaBatcherProducerStartFailed`.
    ProducerStartFailed,
    /// The cluster cannot be reached: `KafkaBatcherClientStartFailed`.
    ClientStartFailed,
    /// What was told before has passed.
    Recovered,
}

impl NotificationKind {
    /// The name as the Elixir library has it.
    pub fn as_str(self) -> &'static str {
        match self {
            NotificationKind::ProducerError | NotificationKind::EventsLost => "KafkaBatcherProducerError",
            NotificationKind::Spooling => "KafkaBatcherSpooling",
            NotificationKind::SpoolError => "KafkaBatcherSpoolError",
            NotificationKind::DeadLettered => "KafkaBatcherDeadLettered",
            NotificationKind::CollectorFailed => "KafkaBatcherCollectorFailed",
            NotificationKind::ProducerStartFailed => "KafkaBatcherProducerStartFailed",
            NotificationKind::ClientStartFailed => "KafkaBatcherClientStartFailed",
            NotificationKind::Recovered => "KafkaBatcherRecovered",
        }
    }
}

impl fmt::Display for NotificationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One piece of news for an operator. Never holds a payload or a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notification {
    /// What kind.
    pub kind: NotificationKind,
    /// The topic; `None`: the cluster.
    pub topic: Option<String>,
    /// The partition, where it is about one.
    pub partition: Option<i32>,
    /// What happened, and what it means for the events.
    pub message: String,
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind)?;
        match (&self.topic, self.partition) {
            (Some(topic), Some(partition)) => write!(f, "topic {topic:?}, partition {partition}: ")?,
            (Some(topic), None) => write!(f, "topic {topic:?}: ")?,
            (None, _) => {}
        }
        f.write_str(&self.message)
    }
}

/// Is told of trouble once when it begins and once when it has passed.
///
/// Called from the batcher's tasks: return soon. A panic in here is caught and logged.
///
/// ```
/// use kafka_batcher::{ErrorNotifier, Notification};
///
/// struct Pager;
/// impl ErrorNotifier for Pager {
///     fn report(&self, notification: &Notification) {
///         eprintln!("{notification}");
///     }
/// }
/// ```
pub trait ErrorNotifier: Send + Sync + 'static {
    /// Takes the news.
    fn report(&self, notification: &Notification);
}

/// Logs through `tracing`: error where events are lost or an operator is needed, warn where they are safe, info where
/// it has passed.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogNotifier;

impl ErrorNotifier for LogNotifier {
    fn report(&self, notification: &Notification) {
        let Notification { kind, topic, partition, message } = notification;
        let topic = topic.as_deref().unwrap_or("-");
        match kind {
            NotificationKind::ProducerError => tracing::warn!(%kind, topic, partition, "{message}"),
            NotificationKind::Spooling => tracing::warn!(%kind, topic, partition, "{message}"),
            NotificationKind::SpoolError | NotificationKind::DeadLettered => {
                tracing::error!(%kind, topic, partition, "{message}");
            }
            NotificationKind::CollectorFailed => tracing::error!(%kind, topic, "{message}"),
            NotificationKind::EventsLost => tracing::error!(%kind, topic, partition, "{message}"),
            NotificationKind::ProducerStartFailed => tracing::error!(%kind, topic, "{message}"),
            NotificationKind::ClientStartFailed => tracing::warn!(%kind, "{message}"),
            NotificationKind::Recovered => tracing::info!(%kind, topic, partition, "{message}"),
        }
    }
}

/// Reports, whatever the user's code does.
pub(crate) fn notify(notifier: &dyn ErrorNotifier, notification: &Notification) {
    let report = std::panic::AssertUnwindSafe(|| notifier.report(notification));
    if std::panic::catch_unwind(report).is_err() {
        tracing::error!(kind = %notification.kind, "the error notifier panicked");
    }
}
