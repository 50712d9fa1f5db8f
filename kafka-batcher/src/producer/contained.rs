//! A producer whose panics are answers: whatever it does, it costs that attempt and never the task that asked.
//!
//! A panic while producing leaves in doubt what was handed over: it may have been written. One in a question is a failed
//! question, to be asked again.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use kafka_batcher_core::{ErrorClass, Leader, ProduceAnswer, ProduceResult, ProducerIdentity, ProducerState};
use tokio::sync::watch;

use crate::panics;
use crate::producer::{
    BoxFuture, BrokerState, ClusterInfo, MissingTopic, ProduceRequest, Producer, ProducerError, TopicInfo,
};

/// See the module's documentation.
pub(crate) struct Contained {
    inner: Arc<dyn Producer>,
    /// Never changes; for a producer that panics instead of giving its own.
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
        let in_doubt = move |panic: &(dyn Any + Send)| {
            let result = ProduceResult::Lost { message: said(panic) };
            vec![ProduceAnswer { result, leader: None }; batches]
        };
        // Called now and not when the future is first polled: requests go out in the order of the calls.
        match catch_unwind(AssertUnwindSafe(|| self.inner.produce(request))) {
            Ok(answers) => guarded(answers, in_doubt),
            Err(panic) => Box::pin(std::future::ready(in_doubt(panic.as_ref()))),
        }
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

    fn retention<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Option<Duration>> {
        guarded(async move { self.inner.retention(topic).await }, |panic| {
            said(panic);
            None
        })
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.now(None, |inner| inner.leader(topic, partition))
    }

    fn brokers(&self) -> Vec<BrokerState> {
        self.now(Vec::new(), |inner| inner.brokers())
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes calls of `produce`, by their acks; panics at once for 1, and in the future for 0.
    #[derive(Default)]
    struct Noting(Mutex<Vec<i16>>);

    impl Producer for Noting {
        fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
            panic!("not asked in this test")
        }
        fn topic<'a>(
            &'a self,
            _: &'a str,
            _: MissingTopic,
        ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
            panic!("not asked in this test")
        }
        fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
            panic!("not asked in this test")
        }
        fn produce(&self, request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
            self.0.lock().unwrap().push(request.acks);
            assert_ne!(request.acks, 1, "at once");
            Box::pin(async move {
                assert_ne!(request.acks, 0, "later");
                Vec::new()
            })
        }
        fn describe_producer<'a>(
            &'a self,
            _: &'a str,
            _: i32,
            _: i64,
        ) -> BoxFuture<'a, (ProducerState, Option<Leader>)> {
            panic!("not asked in this test")
        }
        fn leader(&self, _: &str, _: i32) -> Option<Leader> {
            panic!("not asked in this test")
        }
        fn metadata_version(&self) -> watch::Receiver<u64> {
            panic!("not asked in this test")
        }
        fn close(&self) -> BoxFuture<'_, ()> {
            panic!("not asked in this test")
        }
    }

    fn request(acks: i16) -> ProduceRequest {
        let piece = crate::client::tests::piece(&[("t", 0)]);
        let batches = piece.items.into_iter().map(|item| item.batch).collect();
        ProduceRequest { acks, timeout: Duration::from_secs(1), batches }
    }

    #[tokio::test]
    async fn a_request_is_handed_on_when_it_is_called_for_and_a_panic_leaves_it_in_doubt_whenever_it_comes() {
        let inner = Arc::new(Noting::default());
        let contained = Contained::new(inner.clone());
        let calls = [-1, 1, 0].map(|acks| contained.produce(request(acks)));
        assert_eq!(*inner.0.lock().unwrap(), [-1, 1, 0]);
        let mut said = Vec::new();
        for call in calls {
            said.push(call.await.into_iter().map(|answer| answer.result).collect::<Vec<_>>());
        }
        assert_eq!(said[0], []);
        for (results, when) in said[1..].iter().zip(["at once", "later"]) {
            let [ProduceResult::Lost { message }] = &results[..] else { panic!("{results:?}") };
            assert!(message.contains(when), "{message}");
        }
    }
}
