//! [`RdkafkaProducer`]: delivers through librdkafka, the C client that most other languages use; behind the cargo feature
//! `rdkafka`, which builds its source.
//!
//! - `properties`: our settings in librdkafka's words;
//! - `handle`: a client of librdkafka, and the thread that hands batches over to it;
//! - `context`: what librdkafka tells by itself; `tally`: what becomes of a batch whose events are reported one by one;
//! - `asker`, `known`: questions to the cluster, and what is known of leaders.

mod asker;
mod context;
mod handle;
mod known;
mod properties;
mod tally;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_batcher_core::{
    Backoff, ErrorClass, ErrorCode, Leader, ProduceAnswer, ProduceResult, ProducerIdentity, ProducerState,
    Refusal,
};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::asker::Asker;
use self::context::Shared;
use self::handle::Handle;
use self::known::Known;
use self::properties::{Properties, Purpose};
use super::native::questions::{kept_for, refusal};
use super::{
    BoxFuture, ClusterInfo, MissingTopic, PartitionBatch, ProduceRequest, Producer, ProducerError, TopicInfo,
};
use crate::client::{ClientSettings, ClientSettingsError, backoff_of};

/// What is said of a batch that comes too late.
const CLOSED: &str = "the producer is closed";

/// How long `close` waits for the connections to be closed. What was in flight is answered long before.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long beyond twice its own time librdkafka may leave a batch without a report. It looks for events whose time is over once a
/// second.
const GRACE: Duration = Duration::from_secs(5);

/// A [`Producer`] over librdkafka ([rust-rdkafka](https://docs.rs/rdkafka)).
///
/// # What it promises, and what not
///
/// It is **at-least-once**: [`Producer::accepts_stamped`] is `false`. Librdkafka makes the batches and the numbers in them by itself
/// and tells neither, so no number is kept on disk, and none outlives the process. A batch that was not answered (the connection was
/// lost, `request_timeout` is over, the process ended) is sent again, and **may be written twice**. While one handle of
/// librdkafka lives, what it sends again by itself with `required_acks = -1` is written once
/// ([`enable.idempotence`](https://github.com/confluentinc/librdkafka/blob/v2.12.1/INTRODUCTION.md#idempotent-producer), KIP-98);
/// with 1 or 0 it sends nothing again.
///
/// All else holds: order by partition, one answer for each batch, which is in doubt where it may have been written in part; the spool
/// takes what Kafka does not, and its replay is at-least-once. One batch of a partition is under way at a time
/// (`max_in_flight` does nothing), which costs throughput where the way to the broker is long.
///
/// Not as the native producer does it:
/// - events are decoded, handed over one by one and copied: librdkafka's memory comes on top of `memory`, for what is in flight;
/// - a compressed batch is decompressed, and compressed again by librdkafka: with the collector's codec and its level, from 1 to 12;
/// - a batch waits 5 ms in librdkafka, so that it goes out in one piece; one of 5 000 events may go out in two or three, and several
///   of one partition handed over at once may go out in one;
/// - an event with the time 0 (the first millisecond of 1970) gets the time 1: for librdkafka 0 is now;
/// - a refusal that passes (6, 7, 19, 20) is not seen: librdkafka tries again until `request_timeout` is over;
/// - a topic that was deleted and created anew is not recognised as another, since librdkafka does not tell its id;
/// - certificates and the password are read when a handle of librdkafka is made, not at each connection; tokens (`oauthbearer`)
///   and `ssl.server_name` are a mistake;
/// - [`Producer::brokers`] and [`Producer::in_flight`] know nothing.
///
/// ```no_run
/// use kafka_batcher::KafkaBatcher;
/// use kafka_batcher::producer::native::ClientSettings;
/// use kafka_batcher::producer::rdkafka::RdkafkaProducer;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = ClientSettings::new(["127.0.0.1:9092"]);
/// let producer = RdkafkaProducer::new(settings)?.with("socket.keepalive.enable", "true")?;
/// let batcher = KafkaBatcher::builder(["127.0.0.1:9092"]).producer(producer).start().await?;
/// # Ok(())
/// # }
/// ```
///
/// A configuration file says `producer = "rdkafka"`.
pub struct RdkafkaProducer {
    inner: Arc<Inner>,
    /// The task that keeps leaders fresh, once there is a runtime to run it.
    keeper: Mutex<Option<AbortHandle>>,
}

struct Inner {
    properties: Arc<Properties>,
    shared: Arc<Shared>,
    known: Known,
    asker: Asker,
    /// Asks for topics that the broker may create.
    creator: Asker,
    handles: Mutex<Vec<Handle>>,
    closed: Arc<AtomicBool>,
}

impl RdkafkaProducer {
    /// Reads the settings, and has librdkafka look at them; connects to nothing yet, and needs no runtime yet.
    ///
    /// # Errors
    /// Every setting that cannot be, or that librdkafka cannot do, all at once.
    pub fn new(settings: ClientSettings) -> Result<Self, ClientSettingsError> {
        Properties::new(settings).map(Self::of)
    }

    /// Sets any [property of librdkafka's](https://github.com/confluentinc/librdkafka/blob/v2.12.1/CONFIGURATION.md) besides, or in
    /// place of what follows from the settings.
    ///
    /// # Errors
    /// There is no such property, it cannot have this value, or the answers to the batches depend on it. The error names it, and does
    /// not repeat the value.
    pub fn with(self, name: &str, value: &str) -> Result<Self, ClientSettingsError> {
        Properties::clone(&self.inner.properties).with(name, value).map(Self::of)
    }

    fn of(properties: Properties) -> Self {
        let (properties, shared) = (Arc::new(properties), Shared::new(Vec::new()));
        let asker = |creates| Asker::new(properties.clone(), shared.clone(), creates);
        let (asker, creator) = (asker(false), asker(true));
        let inner = Inner {
            properties,
            shared,
            known: Known::new(),
            asker,
            creator,
            handles: Mutex::default(),
            closed: Arc::default(),
        };
        RdkafkaProducer { inner: Arc::new(inner), keeper: Mutex::default() }
    }

    fn start_keeper(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.is_none() && !self.inner.is_closed() {
            let task = keep_fresh(self.inner.clone());
            *keeper = Some(tokio::spawn(task).abort_handle());
        }
    }

    /// Nothing new is taken; gives back what still runs.
    fn shut(&self) -> Vec<Handle> {
        self.inner.closed.store(true, Ordering::SeqCst);
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
        let handles = std::mem::take(&mut *self.inner.handles.lock().unwrap_or_else(PoisonError::into_inner));
        self.inner.asker.retire();
        self.inner.creator.retire();
        handles
    }
}

impl std::fmt::Debug for RdkafkaProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RdkafkaProducer")
            .field("settings", &self.inner.properties.settings)
            .field("properties", &self.inner.properties.own_names())
            .finish_non_exhaustive()
    }
}

impl Drop for RdkafkaProducer {
    /// What is in flight is answered as lost, by the threads that end then.
    fn drop(&mut self) {
        drop(self.shut());
    }
}

impl Producer for RdkafkaProducer {
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
        Box::pin(async {
            self.inner.check_open()?;
            self.start_keeper();
            // Librdkafka can ask for all topics or for one.
            self.inner.ask(self.inner.known.topics().into_iter().next()).await
        })
    }

    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
        Box::pin(async move {
            self.inner.check_open()?;
            self.start_keeper();
            self.inner.topic(topic, missing).await
        })
    }

    /// Librdkafka keeps its producer id to itself.
    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
        let message = "librdkafka numbers its messages itself and gives its producer id to nobody; for batches that keep their \
                       numbers choose the native producer";
        let error = ProducerError { class: ErrorClass::Unavailable, code: None, message: message.to_owned() };
        Box::pin(std::future::ready(Err(error)))
    }

    fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
        // Handed over now and not when the future is first polled: so batches go out in the order of the calls.
        let sent: Vec<_> =
            request.batches.into_iter().map(|batch| self.inner.send(request.acks, batch)).collect();
        let patience = self.inner.properties.settings.request_timeout * 2 + GRACE;
        Box::pin(answers(&self.inner.known, sent, Instant::now() + patience, patience))
    }

    /// Librdkafka does not ask so.
    fn describe_producer<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        _: i64,
    ) -> BoxFuture<'a, (ProducerState, Option<Leader>)> {
        Box::pin(std::future::ready((ProducerState::Unanswerable, self.leader(topic, partition))))
    }

    fn retention<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Option<Duration>> {
        Box::pin(async move {
            let configs = self.inner.asker.topic_configs(topic).await?;
            kept_for(|key| {
                configs.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.as_deref())
            })
        })
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.inner.known.leader(topic, partition)
    }

    fn metadata_version(&self) -> watch::Receiver<u64> {
        self.inner.known.version()
    }

    fn accepts_stamped(&self) -> bool {
        false
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let ends = self.shut().into_iter().map(Handle::end);
            // Beyond that they end by themselves.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, futures_util::future::join_all(ends)).await;
        })
    }
}

/// A batch that was handed over, or answered at once.
enum Sent {
    Waits(oneshot::Receiver<ProduceResult>, Leader),
    Answered(ProduceResult),
}

/// Waits for all of them. One that librdkafka forgets is in doubt.
async fn answers(known: &Known, sent: Vec<Sent>, until: Instant, patience: Duration) -> Vec<ProduceAnswer> {
    let mut answers = Vec::with_capacity(sent.len());
    for sent in sent {
        let (result, leader) = match sent {
            Sent::Answered(result) => (result, None),
            Sent::Waits(outcome, leader) => {
                let result = match tokio::time::timeout_at(until, outcome).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => lost("librdkafka ended before the batch was answered".to_owned()),
                    Err(_) => lost(format!("librdkafka has not reported on the batch within {patience:?}")),
                };
                (result, Some(leader))
            }
        };
        if !matches!(result, ProduceResult::Acked { .. }) {
            known.want_refresh();
        }
        let leader = leader.filter(|_| !matches!(result, ProduceResult::NotSent { .. }));
        answers.push(ProduceAnswer { result, leader });
    }
    answers
}

fn lost(message: String) -> ProduceResult {
    ProduceResult::Lost { message }
}

impl Inner {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn check_open(&self) -> Result<(), ProducerError> {
        match self.is_closed() {
            true => {
                let message = CLOSED.to_owned();
                Err(ProducerError { class: ErrorClass::Fatal, code: None, message })
            }
            false => Ok(()),
        }
    }

    /// Hands a batch over, if there is somebody to send it to.
    fn send(&self, acks: i16, batch: PartitionBatch) -> Sent {
        let not_sent = |message: String| Sent::Answered(ProduceResult::NotSent { message });
        let (size, limit) = (batch.batch.encoded_len(), self.properties.settings.max_request_size);
        let leader = self.known.leader(&batch.topic, batch.partition);
        match leader {
            _ if size > limit => Sent::Answered(ProduceResult::Refused(Refusal {
                message: Some(format!(
                    "a batch of {size} bytes does not fit a request of {limit} bytes (max_request_size)"
                )),
                ..Refusal::code(ErrorCode::MESSAGE_TOO_LARGE)
            })),
            None => not_sent(format!("nobody is known to lead {}-{}", batch.topic, batch.partition)),
            Some(leader) if batch.leader.is_some_and(|meant| meant != leader) => {
                not_sent(format!("{}-{} is led by broker {} now", batch.topic, batch.partition, leader.node))
            }
            Some(leader) => {
                let purpose = Purpose { acks, compression: batch.batch.compression() };
                match self.hand_over(purpose, batch) {
                    Ok(outcome) => Sent::Waits(outcome, leader),
                    Err(message) => not_sent(message),
                }
            }
        }
    }

    fn hand_over(
        &self,
        purpose: Purpose,
        batch: PartitionBatch,
    ) -> Result<oneshot::Receiver<ProduceResult>, String> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        // Who closes takes them away behind this.
        if self.is_closed() {
            return Err(CLOSED.to_owned());
        }
        handles.retain(|handle| !handle.is_spent());
        if let Some(handle) = handles.iter().find(|handle| handle.purpose == purpose) {
            return Ok(handle.produce(batch));
        }
        let (properties, shared) = (self.properties.clone(), self.shared.clone());
        let handle = Handle::start(purpose, properties, shared, self.closed.clone());
        let handle = handle.map_err(|error| format!("there is no thread for librdkafka: {error}"))?;
        let outcome = handle.produce(batch);
        handles.push(handle);
        Ok(outcome)
    }

    /// Asks for the cluster and perhaps a topic, and learns who leads it.
    async fn ask(&self, topic: Option<Arc<str>>) -> Result<ClusterInfo, ProducerError> {
        let answer = self.asker.ask(topic.clone()).await?;
        if let (Some(topic), Some((code, leaders))) = (topic, answer.topic)
            && matches!(code, ErrorCode(0) | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        {
            self.known.learn(&topic, leaders);
        }
        Ok(answer.info)
    }

    async fn topic(&self, topic: &str, missing: MissingTopic) -> Result<TopicInfo, ProducerError> {
        let asker = match missing {
            MissingTopic::Refuse => &self.asker,
            MissingTopic::Create => &self.creator,
        };
        let failed = |message| Err(ProducerError { class: ErrorClass::Retriable, code: None, message });
        let Some((code, leaders)) = asker.ask(Some(topic.into())).await?.topic else {
            return failed(format!("the cluster's answer leaves out topic {topic:?}"));
        };
        if code.0 != 0 {
            return Err(refusal(code, topic, missing));
        }
        let partitions = i32::try_from(leaders.len()).unwrap_or(i32::MAX);
        if partitions == 0 {
            return failed(format!("topic {topic:?} has no partitions yet"));
        }
        self.known.learn(topic, leaders);
        Ok(TopicInfo { topic_id: Default::default(), partitions })
    }
}

/// Asks for all topics again when they are old, or somebody has reason to think that they have changed. Ended with the producer.
async fn keep_fresh(inner: Arc<Inner>) {
    let settings = &inner.properties.settings;
    let mut backoff = Backoff::new(backoff_of(settings), 0);
    loop {
        // Being old is reason enough.
        let _ = tokio::time::timeout(settings.metadata_max_age, inner.known.wanted.notified()).await;
        for topic in inner.known.topics() {
            match inner.ask(Some(topic)).await {
                Ok(_) => backoff.reset(),
                Err(error) => {
                    tracing::debug!(%error, "the leaders cannot be asked for");
                    break;
                }
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
