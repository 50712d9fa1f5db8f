//! A producer whose panics are answers: whatever it does, it costs that attempt and never the task that asked.
//!
//! A panic while producing leaves in doubt what was handed over: it may have been written. One in a question is a failed
//! question, to be asked again.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::FutureExt;
use kafka_batcher_core::{ErrorClass, Leader, ProduceAnswer, ProduceResult, ProducerIdentity, ProducerState};
use tokio::sync::watch;

use crate::panics;
use crate::producer::{
    BoxFuture, ClusterInfo, MissingTopic, ProduceRequest, Producer, ProducerError, TopicInfo,
};

/// See the module's documentation.
pub(crate) struct Contained {
    inner: Arc<dyn Producer>,
    /// Never changes; for a producer that panics instead of giving its own. Kept, since a closed one means the end.
    no_metadata: watch::Sender<u64>,
}

impl Contained {
    pub(crate) fn new(inner: Arc<dyn Producer>) -> Self {
        Contained { inner, no_metadata: watch::Sender::new(0) }
    }

    fn now<T>(&self, otherwise: T, call: impl FnOnce(&dyn Producer) -> T) -> T {
        match catch_unwind(AssertUnwindSafe(|| call(self.inner.as_ref()))) {
            Ok(answer) => answer,
            Err(panic) => {
                said(panic.as_ref());
                otherwise
            }
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let message = format!("the producer panicked: {}", panics::message(panic));
    tracing::error!("{message}");
    message
}

fn failed(panic: &(dyn Any + Send)) -> ProducerError {
    ProducerError { class: ErrorClass::Retriable, code: None, message: said(panic) }
}

/// Runs `call`, the making of its future included; a panic is answered by `otherwise`.
fn guarded<'a, T: 'a, F: Future<Output = T> + Send + 'a>(
    call: F,
    otherwise: impl FnOnce(&(dyn Any + Send)) -> T + Send + 'a,
) -> BoxFuture<'a, T> {
    Box::pin(async move {
        match AssertUnwindSafe(call).catch_unwind().await {
            Ok(answer) => answer,
            Err(panic) => otherwise(panic.as_ref()),
        }
    })
}

impl Producer for Contained {
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
        guarded(async { self.inner.connect().await }, |panic| Err(failed(panic)))
    }

    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
        guarded(async move { self.inner.topic(topic, missing).await }, |panic| Err(failed(panic)))
    }

    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
        guarded(async { self.inner.init_producer_id().await }, |panic| Err(failed(panic)))
    }

    fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
        let batches = request.batches.len();
        guarded(async move { self.inner.produce(request).await }, move |panic| {
            let result = ProduceResult::Lost { message: said(panic) };
            vec![ProduceAnswer { result, leader: None }; batches]
        })
    }

    fn describe_producer<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        producer_id: i64,
    ) -> BoxFuture<'a, (ProducerState, Option<Leader>)> {
        let describe = async move { self.inner.describe_producer(topic, partition, producer_id).await };
        guarded(describe, |panic| (ProducerState::Failed { message: said(panic) }, None))
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.now(None, |inner| inner.leader(topic, partition))
    }

    fn metadata_version(&self) -> watch::Receiver<u64> {
        self.now(self.no_metadata.subscribe(), |inner| inner.metadata_version())
    }

    fn accepts_stamped(&self) -> bool {
        self.now(false, |inner| inner.accepts_stamped())
    }

    fn in_flight(&self, node: i32) -> Option<usize> {
        self.now(None, |inner| inner.in_flight(node))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        guarded(async { self.inner.close().await }, |panic| drop(said(panic)))
    }
}
