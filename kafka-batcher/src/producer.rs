//! The seam to Kafka: what the dispatcher needs of a client, and no more.
//!
//! [`Producer`] knows brokers and connections, never order or identity: those are the outbox's. What a producer
//! promises in return: every batch handed to [`Producer::produce`] is answered exactly once, and an answer says
//! whether the batch may have been written.
//!
//! Two fill it: [`native`], this crate's own client, and `rdkafka`, over librdkafka, in builds with the cargo feature of that name. A
//! third may be anybody's: [`conformance`] says whether it is right.

pub mod conformance;
pub(crate) mod contained;
pub mod native;
#[cfg(feature = "rdkafka")]
pub mod rdkafka;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher_core::{
    ErrorClass, ErrorCode, Leader, ProduceAnswer, ProducerIdentity, ProducerState, RecordBatch, TopicId,
};
use tokio::sync::watch;

/// A boxed future, so that [`Producer`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A client of a Kafka cluster, as the dispatcher sees it. Object-safe; all methods take `&self` and may be called
/// from several tasks at once.
pub trait Producer: Send + Sync + 'static {
    /// Connects to the cluster, or finds that it is connected already.
    ///
    /// # Errors
    /// If none of the bootstrap addresses answers; the caller backs off and calls again.
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>>;

    /// What the cluster knows of a topic, asked now; the answer also becomes what [`Producer::leader`] says.
    ///
    /// # Errors
    /// If the topic does not exist (and may not be created), or nobody answers.
    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>>;

    /// A producer id of its own (InitProducerId without a transactional id): a new one at every call.
    ///
    /// # Errors
    /// If the cluster does not give one (31 CLUSTER_AUTHORIZATION_FAILED, starting up, unreachable).
    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>>;

    /// Sends batches, all of them to one leader and at most one for each partition, in one request if they fit, and
    /// resolves when all are answered: one answer for each batch, in the order of the request.
    ///
    /// Requests to one leader are sent in the order of the calls, once its connection is up and as long as it lives. A batch that names
    /// the leader it is meant for is sent to that one over that connection, or answered [`ProduceResult::NotSent`].
    ///
    /// [`ProduceResult::NotSent`]: kafka_batcher_core::ProduceResult::NotSent
    ///
    /// Not cancel-safe: what was handed over may be written although the future is dropped; nobody does.
    fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>>;

    /// What the partition's leader knows of `producer_id` (DescribeProducers). The answer comes with the leader asked.
    fn describe_producer<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        producer_id: i64,
    ) -> BoxFuture<'a, (ProducerState, Option<Leader>)>;

    /// How long the topic keeps events by their own time (`retention.ms`); `None`: for ever, by another rule, or it cannot
    /// be said (DescribeConfigs needs DESCRIBE_CONFIGS on the topic).
    fn retention<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Option<Duration>> {
        let _ = topic;
        Box::pin(std::future::ready(None))
    }

    /// Who leads the partition, as far as is known now. `None`: nobody known. Cheap: called for every batch.
    fn leader(&self, topic: &str, partition: i32) -> Option<Leader>;

    /// Changes whenever [`Producer::leader`] may have come to say something else. Whose sender is gone says nothing: a leader
    /// that was found is then noticed when the longest pause between two attempts (`retry_backoff_max`) is over.
    fn metadata_version(&self) -> watch::Receiver<u64>;

    /// Whether batches are sent with the bytes and numbers they were stamped with. A producer that stamps anew
    /// (librdkafka) is at-least-once, and says `false`.
    fn accepts_stamped(&self) -> bool {
        true
    }

    /// Requests in flight to a broker; `None`: not known.
    fn in_flight(&self, node: i32) -> Option<usize> {
        let _ = node;
        None
    }

    /// What is known of each broker that this producer ever talked to, for the metrics. Read at every scrape, by the thread that
    /// gathers the registry, which may be one of the runtime's, with the registry locked: it must not block, nor use the registry.
    fn brokers(&self) -> Vec<BrokerState> {
        Vec::new()
    }

    /// Closes every connection. What is in flight is answered as lost.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// How a producer stands with one broker. More may be asked for later: a producer of your own begins with the default.
///
/// ```
/// use kafka_batcher::producer::BrokerState;
///
/// let mut broker = BrokerState::default();
/// (broker.node, broker.connected) = (1, true);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerState {
    /// The broker's node id.
    pub node: i32,
    /// There is a connection now.
    pub connected: bool,
    /// Requests that are not answered.
    pub in_flight: usize,
    /// Connections made so far.
    pub connections: u64,
    /// Attempts to connect that failed so far.
    pub failures: u64,
    /// For how long the broker asked to be sent nothing so far (KIP-219).
    pub throttled: Duration,
}

/// A Produce request for one leader.
#[derive(Debug)]
pub struct ProduceRequest {
    /// 0, 1 or -1 (all).
    pub acks: i16,
    /// How long the broker may wait for its replicas.
    pub timeout: Duration,
    /// The batches, at most one for each partition.
    pub batches: Vec<PartitionBatch>,
}

/// A batch and the partition it goes to.
#[derive(Clone, Debug)]
pub struct PartitionBatch {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The batch: sealed, stamped, its CRC computed.
    pub batch: RecordBatch,
    /// Send it only if this is still the partition's leader, connection and all; `None`: to whoever leads. Without it,
    /// the story goes: the batches before this one are lost with their connection; before the sender hears of it, this
    /// one is sent over the next connection to a leader that does not know the run (the topic was recreated), which
    /// takes any first sequence, and the order is lost (DESIGN.md, Delivery).
    pub leader: Option<Leader>,
}

/// What to do about a topic that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingTopic {
    /// Say so.
    Refuse,
    /// Let the broker create it, if it is allowed to (`auto.create.topics.enable`).
    Create,
}

/// What is known of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The cluster's id, where the broker gives one.
    pub cluster_id: Option<String>,
    /// The brokers' node ids and addresses.
    pub brokers: Vec<(i32, String)>,
}

/// What is known of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id.
    pub topic_id: TopicId,
    /// How many partitions it has; at least 1.
    pub partitions: i32,
}

/// Why a call to the cluster failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerError {
    /// Try again soon, or must somebody act?
    pub class: ErrorClass,
    /// The broker's code, if one spoke.
    pub code: Option<ErrorCode>,
    /// What happened, where, and what to do about it.
    pub message: String,
}

impl fmt::Display for ProducerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ProducerError {}
