//! What every producer must do, as code: run it against yours.
//!
//! ```no_run
//! use kafka_batcher::Producer;
//! use kafka_batcher::producer::BoxFuture;
//! use kafka_batcher::producer::conformance::{CASES, Cluster, Logged};
//! use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
//!
//! # fn create_topic(_: i32, _: Option<usize>) -> String { String::new() }
//! # fn read_with_another_client(_: &str, _: i32) -> Vec<Logged> { Vec::new() }
//! struct Mine;
//! impl Cluster for Mine {
//!     fn producer(&self) -> Box<dyn Producer> {
//!         Box::new(NativeProducer::new(ClientSettings::new(["127.0.0.1:9092"])).unwrap())
//!     }
//!     fn topic(&self, partitions: i32, max_batch_bytes: Option<usize>) -> BoxFuture<'_, String> {
//!         Box::pin(async move { create_topic(partitions, max_batch_bytes) })
//!     }
//!     fn log<'a>(&'a self, topic: &'a str, partition: i32) -> BoxFuture<'a, Vec<Logged>> {
//!         Box::pin(async move { read_with_another_client(topic, partition) })
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! for (name, case) in CASES {
//!     println!("{name}");
//!     case(&Mine).await;
//! }
//! # });
//! ```
//!
//! A case panics with what is wrong, and with its name when it does not end in time. The more of [`Cluster`] you fill, the more is
//! shown: numbers in the log, and a broker that goes away.

mod cases;
mod outage;
mod stamped;

use std::time::Duration;

pub use kafka_batcher_core::{OwnedHeader, OwnedRecord};
use kafka_batcher_core::{ProduceAnswer, ProduceResult, RecordBatch};

use super::{BoxFuture, MissingTopic, PartitionBatch, ProduceRequest, Producer};
use crate::storage::conformance::sealed;

/// A cluster, a producer for it, and a look at its logs that has nothing to do with the producer.
pub trait Cluster: Sync {
    /// A new producer. What it waits for by itself (a request's answer, a connection) should be a few seconds.
    fn producer(&self) -> Box<dyn Producer>;

    /// A new topic of so many partitions, under a name that nobody used before, whose leaders take batches when it resolves; where a size
    /// is given, it takes no batch that is larger (`max.message.bytes`).
    fn topic(&self, partitions: i32, max_batch_bytes: Option<usize>) -> BoxFuture<'_, String>;

    /// All that lies in a partition, in order.
    fn log<'a>(&'a self, topic: &'a str, partition: i32) -> BoxFuture<'a, Vec<Logged>>;

    /// Takes all brokers away: from when it resolves nobody answers any more. False: they cannot be, and what follows from it is not
    /// shown.
    fn stop(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Brings them back, with their logs.
    fn start(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// How long a case may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
}

/// An event in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where it lies.
    pub offset: i64,
    /// The event.
    pub record: OwnedRecord,
    /// Producer id, epoch and its sequence; `None`: they cannot be seen, and are not looked at.
    pub numbers: Option<(i64, i16, i32)>,
}

/// A case: given a cluster, it panics with what is wrong.
pub type Case = for<'a> fn(&'a dyn Cluster) -> BoxFuture<'a, ()>;

macro_rules! cases {
    ($($name:literal $module:ident::$case:ident;)*) => {
        /// All cases, by what they show.
        pub const CASES: &[(&str, Case)] = &[
            $(($name, |cluster| Box::pin(in_time($name, cluster, $module::$case(cluster)))),)*
        ];
    };
}

cases! {
    "whoever connects twice finds the same cluster" cases::connects_twice;
    "a topic that does not exist is refused" cases::unknown_topic;
    "a topic's partitions and leaders are known, and the version says that they came to be" cases::topic;
    "each batch has one answer, in the order of the request, with the place where it lies" cases::answers_in_order;
    "keys, values, headers and times of every kind arrive as they were" cases::every_kind_of_event;
    "a large batch arrives whole and in order" cases::large_batch;
    "batches handed over without waiting keep their order" cases::keeps_the_order;
    "every acknowledgement that can be asked for is given" cases::every_acks;
    "a batch too large for the topic is refused with 10, and its neighbours are written" cases::too_large;
    "a batch for a partition that does not exist is answered, and its neighbour is written" cases::no_such_partition;
    "what every codec compressed is read back" cases::every_codec;
    "calls may come from several tasks at once" cases::at_once;
    "a batch that is meant for another leader is not sent" cases::named_leader;
    "a closed producer sends nothing, and may be closed again" cases::closes_twice;
    "where batches are sent as they were stamped, the log holds these numbers" stamped::numbers_in_the_log;
    "where batches are sent as they were stamped, one that is sent twice is written once" stamped::written_once;
    "where batches are sent as they were stamped, the partition's leader knows the producer" stamped::described;
    "while nobody answers every batch is answered, as lost or not sent, and afterwards all is well" outage::gone_and_back;
    "what is in flight when the producer is closed is answered" outage::closed_in_flight;
}

async fn in_time(name: &str, cluster: &dyn Cluster, case: impl Future<Output = ()>) {
    let patience = cluster.patience();
    if tokio::time::timeout(patience, case).await.is_err() {
        panic!("{name}: it did not end within {patience:?}");
    }
}

/// How long a broker may wait for its replicas.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A topic that the producer knows, and whose leaders it knows.
async fn ready(cluster: &dyn Cluster, partitions: i32) -> (Box<dyn Producer>, String) {
    let topic = cluster.topic(partitions, None).await;
    let producer = cluster.producer();
    learn(&*producer, &topic).await;
    (producer, topic)
}

/// Asks for a topic until all that it takes is known: one that was just created may have no leaders yet, and a cluster that is
/// starting may not answer. [`in_time`] ends it.
async fn learn(producer: &dyn Producer, topic: &str) -> i32 {
    loop {
        if producer.connect().await.is_ok()
            && let Ok(info) = producer.topic(topic, MissingTopic::Refuse).await
            && (0..info.partitions).all(|partition| producer.leader(topic, partition).is_some())
        {
            return info.partitions;
        }
        tokio::task::yield_now().await;
    }
}

/// An event of this value, with a time of about now.
fn event(value: impl Into<Vec<u8>>) -> OwnedRecord {
    OwnedRecord { timestamp: now(), key: None, value: Some(value.into()), headers: Vec::new() }
}

fn now() -> i64 {
    crate::clock::Clock::start().unix_ms()
}

/// A batch of these values.
fn batch(values: &[&str]) -> RecordBatch {
    sealed(&values.iter().map(|value| event(*value)).collect::<Vec<_>>())
}

fn to(topic: &str, partition: i32, batch: RecordBatch) -> PartitionBatch {
    PartitionBatch { topic: topic.into(), partition, batch, leader: None }
}

fn request(acks: i16, batches: Vec<PartitionBatch>) -> ProduceRequest {
    ProduceRequest { acks, timeout: TIMEOUT, batches }
}

/// Sends one batch; its only answer.
async fn send(producer: &dyn Producer, batch: PartitionBatch) -> ProduceAnswer {
    let mut answers = producer.produce(request(-1, vec![batch])).await;
    assert_eq!(answers.len(), 1, "one batch has one answer: {answers:?}");
    answers.remove(0)
}

/// Where an acknowledged batch begins.
fn offset(answer: &ProduceAnswer) -> i64 {
    match answer.result {
        ProduceResult::Acked { base_offset: Some(offset) } => offset,
        _ => panic!("it is acknowledged, with its place: {answer:?}"),
    }
}

fn values(log: &[Logged]) -> Vec<String> {
    let text = |logged: &Logged| match &logged.record.value {
        Some(value) => String::from_utf8_lossy(value).into_owned(),
        None => "(null)".to_owned(),
    };
    log.iter().map(text).collect()
}
