//! [`NativeProducer`]: delivers over this crate's own Kafka client, in pure Rust.
//!
//! Promises what [`Producer`] asks for, and: batches go out with the very bytes they were stamped with, many partitions
//! in one request, written straight from their memory. Connections are made when they are first needed and made again
//! when they are next needed; a broker closing an idle one is not noticed.
//!
//! Refuses: brokers before Kafka 0.11 (2017), whose logs do not know the record batches written here.

pub(super) mod questions;
mod route;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_batcher_core::{Leader, ProduceAnswer, ProducerIdentity, ProducerState};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use self::route::{Plan, Routed, Sending};
use super::{
    BoxFuture, BrokerState, ClusterInfo, MissingTopic, ProduceRequest, Producer, ProducerError, TopicInfo,
};
pub use crate::client::{ClientSettings, ClientSettingsError, Endpoint, EndpointError};

use crate::client::{Client, Piece, backoff_of, keep_fresh, lost, not_sent};

/// A [`Producer`] over this crate's own client.
///
/// ```no_run
/// use kafka_batcher::producer::Producer;
/// use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let producer = NativeProducer::new(ClientSettings::new(["127.0.0.1:9092"]))?;
/// let cluster = producer.connect().await?;
/// println!("{} brokers", cluster.brokers.len());
/// producer.close().await;
/// # Ok(())
/// # }
/// ```
pub struct NativeProducer {
    client: Arc<Client>,
    /// The task that keeps metadata fresh, once there is a runtime to run it.
    keeper: Mutex<Option<AbortHandle>>,
}

impl NativeProducer {
    /// Reads the settings; connects to nothing yet, and needs no runtime yet.
    ///
    /// # Errors
    /// Every setting that cannot be, all at once.
    pub fn new(settings: ClientSettings) -> Result<Self, ClientSettingsError> {
        let bootstrap = settings.check()?;
        Ok(NativeProducer { client: Arc::new(Client::new(settings, bootstrap)), keeper: Mutex::new(None) })
    }

    fn start_keeper(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.is_none() && !self.client.is_closed() {
            let settings = &self.client.settings;
            let (max_age, backoff) = (settings.metadata_max_age, backoff_of(settings));
            let task =
                keep_fresh(Arc::downgrade(&self.client), self.client.cluster.clone(), max_age, backoff);
            *keeper = Some(tokio::spawn(task).abort_handle());
        }
    }

    fn stop_keeper(&self) {
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
    }
}

impl std::fmt::Debug for NativeProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeProducer").field("settings", &self.client.settings).finish_non_exhaustive()
    }
}

impl Drop for NativeProducer {
    /// Closes what it can. What is in flight is answered as lost.
    fn drop(&mut self) {
        self.stop_keeper();
        self.client.shut();
    }
}

impl Producer for NativeProducer {
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
        Box::pin(async {
            self.start_keeper();
            self.client.metadata(&self.client.cluster.topics(), MissingTopic::Refuse).await?;
            Ok(self.client.cluster.info())
        })
    }

    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
        Box::pin(async move {
            self.start_keeper();
            questions::topic(&self.client, topic, missing).await
        })
    }

    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
        Box::pin(questions::init_producer_id(&self.client))
    }

    fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
        // Planned and, if the connection is there, written now and not when the future is first polled: so requests
        // go out in the order of the calls.
        match Plan::of(request, &self.client) {
            Plan::Whole(routed) => match routed.send_now() {
                Ok(sending) => Box::pin(sending.answers()),
                Err(routed) => Box::pin(async { send_later(&self.client, routed).await.answers().await }),
            },
            Plan::Parts(parts) => {
                let begun = parts.send_now();
                Box::pin(begun.answers(&self.client))
            }
        }
    }

    fn describe_producer<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        producer_id: i64,
    ) -> BoxFuture<'a, (ProducerState, Option<Leader>)> {
        Box::pin(questions::describe_producer(&self.client, topic, partition, producer_id))
    }

    fn retention<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Option<Duration>> {
        Box::pin(questions::retention(&self.client, topic))
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.client.cluster.leader(topic, partition)
    }

    fn metadata_version(&self) -> watch::Receiver<u64> {
        self.client.cluster.version()
    }

    fn in_flight(&self, node: i32) -> Option<usize> {
        let node = self.client.cluster.node(node)?;
        Some(node.connection().map_or(0, |connection| connection.in_flight()))
    }

    fn brokers(&self) -> Vec<BrokerState> {
        self.client.cluster.nodes().iter().map(|node| node.state()).collect()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.stop_keeper();
            self.client.close().await;
        })
    }
}

/// A request under way.
struct Sent {
    piece: Arc<Piece>,
    answer: oneshot::Receiver<Vec<ProduceAnswer>>,
}

impl Sent {
    async fn answers(self) -> Vec<ProduceAnswer> {
        match self.answer.await {
            Ok(answers) => answers,
            Err(_) => lost(&self.piece, "the connection was closed before the request was answered"),
        }
    }
}

/// Why no connection to a broker is waited for any more.
fn moved_on(node: i32) -> Arc<str> {
    format!("broker {node} does not answer, and another one leads by now").into()
}

/// Connects first, as long as that broker is the one to send to.
async fn send_later(client: &Client, routed: Routed) -> Sending {
    let Routed { node, piece } = routed;
    let id = piece.items.first().map_or(-1, |item| item.leader.node);
    let places: Vec<_> =
        piece.items.iter().map(|item| (item.batch.topic.clone(), item.batch.partition)).collect();
    let mut piece = Some(piece);
    let sent = tokio::select! {
        biased;
        sent = client.with_node(&node, |connection| piece.take().map(|piece| route::send(connection, piece))) => sent,
        () = client.cluster.led_elsewhere(id, &places) => Err(moved_on(id)),
    };
    match (sent, piece) {
        (Ok(Some(sending)), _) => sending,
        (Err(why), Some(piece)) => Sending::Answered(not_sent(&piece, &why)),
        // Not to be: the piece is gone exactly if it was sent.
        (Ok(None), _) | (Err(_), None) => Sending::Answered(Vec::new()),
    }
}
