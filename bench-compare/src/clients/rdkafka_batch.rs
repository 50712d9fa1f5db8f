//! librdkafka's `rd_kafka_produce_batch`, which rust-rdkafka has only as an `extern "C"` function: many events in one call. All else is
//! `ThreadedProducer`'s: its thread, its delivery callback, its settings.

#![allow(unsafe_code)] // There is no other way to this function.

use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rdkafka::bindings::{
    RD_KAFKA_MSG_F_COPY, rd_kafka_message_t, rd_kafka_produce_batch, rd_kafka_topic_destroy,
    rd_kafka_topic_new, rd_kafka_topic_t,
};
use rdkafka::producer::{Producer, ThreadedProducer};
use rdkafka::types::RDKafkaRespErr;

use super::rdkafka::{Outcomes, QUEUE_FULL, Threaded};
use crate::drive::{Client, Lane};
use crate::job::Job;
use crate::ledger::Ledger;
use crate::load::Event;

/// Events in one call.
const EVENTS: usize = 1_000;

/// `RD_KAFKA_PARTITION_UA`: the partitioner decides.
const UNASSIGNED: i32 = -1;

/// `rd_kafka_produce_batch` on a `ThreadedProducer`.
pub(crate) struct Batches {
    topic: Arc<Topic>,
    inner: Threaded,
}

/// A handle of librdkafka's, and the client that it belongs to.
struct Topic {
    handle: *mut rd_kafka_topic_t,
    _client: Arc<ThreadedProducer<Outcomes>>,
}

// SAFETY: librdkafka's handles may be used from any thread (INTRODUCTION.md, "Threads and callbacks").
unsafe impl Send for Topic {}
// SAFETY: the same.
unsafe impl Sync for Topic {}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: it came from `rd_kafka_topic_new`, is destroyed once, and its client still lives: the other field.
        unsafe { rd_kafka_topic_destroy(self.handle) }
    }
}

impl Client for Batches {
    type Lane = Batch;

    fn version() -> String {
        Threaded::version()
    }

    fn settings(job: &Job) -> Vec<(&'static str, String)> {
        let mut settings = Threaded::settings(job);
        settings.push(("(events in one call)", EVENTS.to_string()));
        settings
    }

    async fn connect(job: &Job, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let inner = Threaded::connect(job, ledger).await?;
        let name = CString::new(job.topic.as_str())?;
        let client = inner.producer.clone();
        // SAFETY: the client lives as long as the topic, which holds it; the name is copied.
        let topic = unsafe { rd_kafka_topic_new(client.client().native_ptr(), name.as_ptr(), null_mut()) };
        ensure!(!topic.is_null(), "librdkafka gives no handle of the topic");
        Ok(Batches { topic: Arc::new(Topic { handle: topic, _client: client }), inner })
    }

    fn lane(&self) -> anyhow::Result<Batch> {
        Ok(Batch {
            topic: self.topic.clone(),
            ledger: self.inner.ledger.clone(),
            messages: Messages(Vec::with_capacity(EVENTS)),
        })
    }

    async fn settle(&self) -> anyhow::Result<()> {
        self.inner.settle().await
    }

    async fn close(self) -> anyhow::Result<()> {
        drop(self.topic);
        self.inner.close().await
    }
}

pub(crate) struct Batch {
    topic: Arc<Topic>,
    ledger: Arc<Ledger>,
    messages: Messages,
}

/// What is not handed over yet.
struct Messages(Vec<rd_kafka_message_t>);

// SAFETY: their pointers are to keys and values that live as long as the process.
unsafe impl Send for Messages {}

impl Batch {
    /// Hands all of them over, however often the queue is full.
    async fn hand_over(&mut self) -> anyhow::Result<()> {
        while !self.messages.0.is_empty() {
            let messages = &mut self.messages.0;
            let count = i32::try_from(messages.len()).context("a batch of that size")?;
            // SAFETY: so many messages lie there; keys and values live as long as the process, and are copied.
            let taken = unsafe {
                rd_kafka_produce_batch(
                    self.topic.handle,
                    UNASSIGNED,
                    RD_KAFKA_MSG_F_COPY,
                    messages.as_mut_ptr(),
                    count,
                )
            };
            if taken == count {
                // Only otherwise are there errors to look for (rdkafka.h).
                messages.clear();
                return Ok(());
            }
            let refused = |message: &&rd_kafka_message_t| {
                !matches!(
                    message.err,
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
                        | RDKafkaRespErr::RD_KAFKA_RESP_ERR__QUEUE_FULL
                )
            };
            if let Some(refused) = messages.iter().find(refused) {
                bail!("librdkafka refuses an event: {:?}", refused.err);
            }
            messages.retain(|message| message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
            ensure!(
                messages.len() as i32 == count - taken,
                "{taken} of {count} were taken, {} were not",
                messages.len()
            );
            if !messages.is_empty() {
                tokio::time::sleep(QUEUE_FULL).await;
            }
        }
        Ok(())
    }
}

impl Lane for Batch {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        self.messages.0.push(rd_kafka_message_t {
            err: RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
            rkt: null_mut(),
            partition: UNASSIGNED,
            payload: event.value.as_ptr().cast_mut().cast(),
            len: event.value.len(),
            key: event.key.as_ptr().cast_mut().cast(),
            key_len: event.key.len(),
            offset: 0,
            // As rust-rdkafka hands it to the delivery callback: a number as it is.
            _private: std::ptr::without_provenance_mut(self.ledger.stamp().0),
        });
        if self.messages.0.len() < EVENTS {
            return Ok(());
        }
        self.hand_over().await
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        self.hand_over().await
    }
}
