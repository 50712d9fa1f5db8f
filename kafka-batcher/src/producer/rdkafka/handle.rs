//! One client of librdkafka, and the thread that hands batches over to it.
//!
//! Librdkafka takes events one by one, and copies each: so a batch is decoded and handed over on a thread of the handle's own, in the
//! order of the calls. Acknowledgements and codec belong to a client of librdkafka, so there is a handle for each combination that
//! is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use kafka_batcher_core::{OwnedHeader, OwnedRecord, ProduceResult};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig, ThreadedProducer};
use tokio::sync::oneshot;

use super::context::{Context, Event, Open, Shared};
use super::properties::{Properties, Purpose, words};
use super::tally::Fate;
use crate::producer::PartitionBatch;

/// How long the reports of what was thrown away may take when a handle ends: they are there already.
const LAST_REPORTS: Duration = Duration::from_secs(1);

/// A batch to hand over, and where its outcome is waited for.
struct Job {
    batch: PartitionBatch,
    answer: oneshot::Sender<ProduceResult>,
}

/// A client of librdkafka for one purpose. Dropped, it throws away what is under way, which is then answered as lost.
pub(super) struct Handle {
    pub(super) purpose: Purpose,
    jobs: mpsc::Sender<Job>,
    spent: Arc<AtomicBool>,
    /// Resolves when its connections are closed.
    ended: oneshot::Receiver<()>,
}

impl Handle {
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(
        purpose: Purpose,
        properties: Arc<Properties>,
        shared: Arc<Shared>,
        closed: Arc<AtomicBool>,
    ) -> std::io::Result<Handle> {
        let context = Context::new(shared);
        let spent = context.spent.clone();
        let (jobs, taken) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name("kafka-batcher-rdkafka".to_owned()).spawn(move || {
            run(purpose, &properties, context, &taken, &closed);
            drop(end);
        })?;
        Ok(Handle { purpose, jobs, spent, ended })
    }

    /// It can do nothing any more.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::SeqCst)
    }

    /// Has the batch handed over behind all earlier ones. Whoever waits hears of it exactly once.
    pub(super) fn produce(&self, batch: PartitionBatch) -> oneshot::Receiver<ProduceResult> {
        let (answer, outcome) = oneshot::channel();
        if let Err(mpsc::SendError(job)) = self.jobs.send(Job { batch, answer }) {
            not_sent(job, "the thread that hands batches to librdkafka has ended");
        }
        outcome
    }

    /// Ends it; resolves when its connections are closed.
    pub(super) async fn end(self) {
        drop(self.jobs);
        // An error says so just as well.
        let _ = self.ended.await;
    }
}

fn not_sent(job: Job, message: &str) {
    let _ = job.answer.send(ProduceResult::NotSent { message: message.to_owned() });
}

fn run(
    purpose: Purpose,
    properties: &Properties,
    context: Context,
    jobs: &mpsc::Receiver<Job>,
    closed: &AtomicBool,
) {
    let spent = context.spent.clone();
    let made = properties.config_for(purpose).and_then(|(config, secrets)| {
        context.shared.keep_secret(secrets.clone());
        let made: Result<ThreadedProducer<Context>, _> = config.create_with_context(context);
        made.map_err(|error| words(&error, &secrets))
    });
    let producer = match made {
        Ok(producer) => producer,
        Err(words) => {
            // The next batch is for a new one.
            spent.store(true, Ordering::SeqCst);
            jobs.iter().for_each(|job| not_sent(job, &words));
            return;
        }
    };
    for job in jobs {
        match closed.load(Ordering::SeqCst) {
            true => not_sent(job, super::CLOSED),
            false => hand_over(&producer, job),
        }
    }
    producer.purge(PurgeConfig::default().queue().inflight());
    // What is not reported by then never will be.
    let _ = producer.flush(LAST_REPORTS);
}

fn hand_over(producer: &ThreadedProducer<Context>, job: Job) {
    let Job { batch, answer } = job;
    let records = match batch.batch.records() {
        Ok(records) if !records.is_empty() => records,
        Ok(_) => {
            let _ = answer.send(ProduceResult::NotSent { message: "the batch holds no events".to_owned() });
            return;
        }
        Err(error) => {
            let message =
                format!("the batch for {}-{} cannot be read: {error}", batch.topic, batch.partition);
            let _ = answer.send(ProduceResult::NotSent { message });
            return;
        }
    };
    let open = Open::new(records.len() as u32, answer);
    let mut stopped: Option<Fate> = None;
    for (index, record) in (0..).zip(records) {
        let event = Box::new(Event { batch: open.clone(), index });
        // One that was not taken must not be overtaken by those behind it.
        if let Some(fate) = &stopped {
            event.meets(fate.clone());
            continue;
        }
        if let Err((error, event)) = send(producer, &batch, &record, event) {
            let fate = Fate::NotTaken(format!("librdkafka does not take the event: {error}"));
            event.meets(fate.clone());
            stopped = Some(fate);
        }
    }
}

fn send(
    producer: &ThreadedProducer<Context>,
    to: &PartitionBatch,
    record: &OwnedRecord,
    event: Box<Event>,
) -> Result<(), (KafkaError, Box<Event>)> {
    let mut message: BaseRecord<'_, [u8], [u8], Box<Event>> = BaseRecord::with_opaque_to(&to.topic, event)
        .partition(to.partition)
        .timestamp(time(record.timestamp));
    message.key = record.key.as_deref();
    message.payload = record.value.as_deref();
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let add = |headers: OwnedHeaders, header: &OwnedHeader| {
            headers.insert(Header { key: &header.name, value: header.value.as_deref() })
        };
        message.headers = Some(record.headers.iter().fold(headers, add));
    }
    producer.send(message).map_err(|(error, message)| (error, message.delivery_opaque))
}

/// Librdkafka takes 0 for the time of now: the first millisecond of 1970 is the next one to it.
fn time(unix_ms: i64) -> i64 {
    if unix_ms == 0 { 1 } else { unix_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_millisecond_of_all_is_not_the_time_of_now() {
        assert_eq!([-1, 0, 1, 1_000].map(time), [-1, 1, 1, 1_000]);
    }
}
