//! rust-rdkafka, the safe interface to librdkafka.
//!
//! Tuning as librdkafka's INTRODUCTION.md advises for throughput: a linger, large batches, a queue long enough to fill them; the rest is its
//! default.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{
    BaseRecord, FutureProducer, FutureRecord, Producer, ProducerContext, ThreadedProducer,
};

use crate::clients::pending::Pending;
use crate::drive::{Client, Lane};
use crate::job::{Codec, Job};
use crate::ledger::{Ledger, Stamp};
use crate::load::Event;
use crate::versions::locked;

/// How long a start and a flush may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause before an event is tried again for which there is no room in the queue.
pub(super) const QUEUE_FULL: Duration = Duration::from_millis(1);

fn version() -> String {
    format!("rdkafka {}, librdkafka {}", locked("rdkafka"), rdkafka::util::get_rdkafka_version().1)
}

fn settings(job: &Job) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("acks", "all".to_owned()),
        ("enable.idempotence", "true".to_owned()),
        ("partitioner", "murmur2_random".to_owned()),
        ("linger.ms", format!("{}", job.linger.as_secs_f64() * 1e3)),
        ("batch.num.messages", job.batch_events.to_string()),
        ("batch.size", job.batch_bytes.to_string()),
        ("queue.buffering.max.messages", job.window().to_string()),
        ("queue.buffering.max.kbytes", (job.memory / 1024).to_string()),
        ("compression.type", job.codec.to_string()),
    ];
    if job.codec == Codec::Zstd {
        settings.push(("compression.level", "1".to_owned()));
    }
    settings
}

fn config(job: &Job) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &job.brokers).set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in settings(job) {
        config.set(name, value);
    }
    config
}

// ---- callbacks ------------------------------------------------------------------------------------------------------

/// Where the delivery callback of each event ends.
pub(crate) struct Outcomes(Arc<Ledger>);

impl ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, stamp: usize) {
        match result {
            Ok(_) => self.0.acknowledged(Stamp(stamp)),
            Err((error, _)) => self.0.failed(error),
        }
    }
}

/// `ThreadedProducer`.
pub(crate) struct Threaded {
    pub(super) producer: Arc<ThreadedProducer<Outcomes>>,
    topic: &'static str,
    pub(super) ledger: Arc<Ledger>,
}

impl Client for Threaded {
    type Lane = Called;

    fn version() -> String {
        version()
    }

    fn settings(job: &Job) -> Vec<(&'static str, String)> {
        settings(job)
    }

    async fn connect(job: &Job, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let producer: ThreadedProducer<_> = config(job).create_with_context(Outcomes(ledger.clone()))?;
        producer.client().fetch_metadata(Some(&job.topic), PATIENCE).context("the topic's metadata")?;
        Ok(Threaded { producer: Arc::new(producer), topic: job.topic.clone().leak(), ledger })
    }

    fn lane(&self) -> anyhow::Result<Called> {
        Ok(Called { producer: self.producer.clone(), topic: self.topic, ledger: self.ledger.clone() })
    }

    async fn settle(&self) -> anyhow::Result<()> {
        flush(self.producer.clone(), |producer| producer.flush(PATIENCE)).await
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Flushing blocks its thread.
async fn flush<P: Send + 'static>(
    producer: P,
    flush: impl FnOnce(&P) -> Result<(), KafkaError> + Send + 'static,
) -> anyhow::Result<()> {
    let flushed = tokio::task::spawn_blocking(move || flush(&producer)).await;
    flushed.context("the thread that flushes died")?.context("not everything was flushed")
}

pub(crate) struct Called {
    producer: Arc<ThreadedProducer<Outcomes>>,
    topic: &'static str,
    ledger: Arc<Ledger>,
}

impl Lane for Called {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        let stamp = self.ledger.stamp();
        let mut record = BaseRecord::with_opaque_to(self.topic, stamp.0).key(event.key).payload(event.value);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    tokio::time::sleep(QUEUE_FULL).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
}

// ---- futures --------------------------------------------------------------------------------------------------------

/// `FutureProducer`.
pub(crate) struct Futures {
    producer: FutureProducer<DefaultClientContext>,
    topic: &'static str,
    window: usize,
    ledger: Arc<Ledger>,
}

type Outcome = BoxFuture<'static, Result<Stamp, String>>;

impl Client for Futures {
    type Lane = Awaited;

    fn version() -> String {
        version()
    }

    fn settings(job: &Job) -> Vec<(&'static str, String)> {
        let mut settings = settings(job);
        settings.push(("(futures open at once)", window(job).to_string()));
        settings
    }

    async fn connect(job: &Job, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let producer: FutureProducer<DefaultClientContext> = config(job).create()?;
        producer.client().fetch_metadata(Some(&job.topic), PATIENCE).context("the topic's metadata")?;
        let window = window(job) / job.lanes as usize;
        Ok(Futures { producer, topic: job.topic.clone().leak(), window, ledger })
    }

    fn lane(&self) -> anyhow::Result<Awaited> {
        let pending = Pending::new(self.window, self.ledger.clone());
        Ok(Awaited {
            producer: self.producer.clone(),
            topic: self.topic,
            ledger: self.ledger.clone(),
            pending,
        })
    }

    async fn settle(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A future for each event costs memory of its own: a fifth of what the queue may hold keeps it full all the same.
fn window(job: &Job) -> usize {
    (job.window() / 5).max(1)
}

pub(crate) struct Awaited {
    producer: FutureProducer<DefaultClientContext>,
    topic: &'static str,
    ledger: Arc<Ledger>,
    pending: Pending<Outcome>,
}

impl Lane for Awaited {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        let stamp = self.ledger.stamp();
        let mut record = FutureRecord::to(self.topic).key(event.key).payload(event.value);
        let delivery = loop {
            match self.producer.send_result(record) {
                Ok(delivery) => break delivery,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    tokio::time::sleep(QUEUE_FULL).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        };
        let outcome = async move {
            match delivery.await {
                Ok(Ok(_)) => Ok(stamp),
                Ok(Err((error, _))) => Err(error.to_string()),
                Err(cancelled) => Err(cancelled.to_string()),
            }
        };
        self.pending.push(outcome.boxed()).await;
        Ok(())
    }

    async fn watch(&mut self) -> anyhow::Result<Infallible> {
        self.pending.watch().await
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        self.pending.drain().await;
        Ok(())
    }
}
