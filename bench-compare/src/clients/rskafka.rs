//! rskafka: a `BatchProducer` for each partition, as its documentation builds one.
//!
//! It has no partitioner, so kafka-batcher's murmur2 chooses; it has no idempotence; its records own their bytes, so each event is
//! copied into them. `PartitionClient::produce` alone is no client for events: whoever calls it has to batch.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kafka_batcher::partitioner::KeyHash;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::client::producer::aggregator::RecordAggregator;
use rskafka::client::producer::{BatchProducer, BatchProducerBuilder};
use rskafka::record::Record;

use crate::clients::pending::Pending;
use crate::drive::{Client, Lane};
use crate::job::{Codec, Job};
use crate::ledger::{Ledger, Stamp};
use crate::load::Event;
use crate::versions::locked;

type Producers = Arc<Vec<Arc<BatchProducer<RecordAggregator>>>>;

pub(crate) struct Rskafka {
    producers: Producers,
    window: usize,
    ledger: Arc<Ledger>,
}

/// What makes a batch: its aggregator counts the bytes of keys and values alone.
fn batch_bytes(job: &Job) -> usize {
    job.batch_bytes.min(job.batch_events * (job.size + job.key_size))
}

/// As for rdkafka's futures.
fn window(job: &Job) -> usize {
    (job.window() / 5).max(1)
}

impl Client for Rskafka {
    type Lane = Awaited;

    fn version() -> String {
        format!("rskafka {}", locked("rskafka"))
    }

    fn settings(job: &Job) -> Vec<(&'static str, String)> {
        vec![
            ("acks", "all (it has no other)".to_owned()),
            ("linger", format!("{:?}", job.linger)),
            ("RecordAggregator", batch_bytes(job).to_string()),
            ("compression", format!("{} (its own level)", job.codec)),
            ("(futures open at once)", window(job).to_string()),
        ]
    }

    async fn connect(job: &Job, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let brokers = job.brokers.split(',').map(str::to_owned).collect();
        let client = ClientBuilder::new(brokers).client_id("bench-compare").build().await?;
        let compression = match job.codec {
            Codec::None => Compression::NoCompression,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
        };
        let mut producers = Vec::new();
        for partition in 0..job.partitions {
            let partition = i32::try_from(partition)?;
            let one = client.partition_client(&job.topic, partition, UnknownTopicHandling::Retry).await;
            let one = one.with_context(|| format!("partition {partition}"))?;
            let builder = BatchProducerBuilder::new(Arc::new(one));
            let builder = builder.with_linger(job.linger).with_compression(compression);
            producers.push(Arc::new(builder.build(RecordAggregator::new(batch_bytes(job)))));
        }
        let window = window(job) / job.lanes as usize;
        Ok(Rskafka { producers: Arc::new(producers), window, ledger })
    }

    fn lane(&self) -> anyhow::Result<Awaited> {
        let pending = Pending::new(self.window, self.ledger.clone());
        Ok(Awaited { producers: self.producers.clone(), ledger: self.ledger.clone(), pending })
    }

    async fn settle(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}

pub(crate) struct Awaited {
    producers: Producers,
    ledger: Arc<Ledger>,
    pending: Pending<BoxFuture<'static, Result<Stamp, String>>>,
}

impl Lane for Awaited {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        let stamp = self.ledger.stamp();
        let partition = KeyHash::Murmur2.hash(event.key) as usize % self.producers.len();
        let producer = self.producers[partition].clone();
        let record = Record {
            key: Some(event.key.to_vec()),
            value: Some(event.value.to_vec()),
            headers: BTreeMap::new(),
            timestamp: chrono::Utc::now(),
        };
        let outcome = async move {
            let produced = producer.produce(record).await;
            produced.map(|_| stamp).map_err(|error| error.to_string())
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
