//! What the dispatcher records and publishes for whoever watches. By the batch and by the request, never by the event; nothing
//! is decided by it, and with `telemetry = false` none of it exists.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher_core::{ProduceAnswer, ProduceResult, Sealed, Time};
use prometheus::Histogram;

use super::Dispatcher;
use crate::producer::PartitionBatch;
use crate::storage::UNASSIGNED;
use crate::telemetry::{Age, Snapshot, TopicTelemetry};

/// How often the accounts are published for a registry that nobody asks us for.
const PUBLISHED_EVERY: Duration = Duration::from_secs(1);

/// The dispatcher's own part of its topic's metrics.
pub(super) struct Meter {
    topic: Arc<TopicTelemetry>,
    /// Attempts: duration, events, bytes.
    partitions: HashMap<i32, [Histogram; 3]>,
    /// Requests.
    brokers: HashMap<i32, Histogram>,
    published: Option<Time>,
    /// Something may have happened since.
    changed: bool,
}

/// A request under way: since when, and events and bytes of each batch.
pub(super) struct Attempt {
    at: Time,
    sizes: Vec<(u32, usize)>,
}

impl Meter {
    pub(super) fn new(topic: Arc<TopicTelemetry>) -> Self {
        let (partitions, brokers) = (HashMap::new(), HashMap::new());
        Meter { topic, partitions, brokers, published: None, changed: true }
    }

    /// When the accounts are to be published; `None`: nothing happens, or nobody looks without asking. `open`: a batch is
    /// filling, which the dispatcher does not hear of.
    fn due(&self, open: bool) -> Option<Time> {
        let again = self.published.map_or(Time::ZERO, |published| published + PUBLISHED_EVERY);
        (self.topic.ticks && (self.changed || open)).then_some(again)
    }
}

/// One word for why an attempt was not acknowledged; `None`: it was.
pub(super) fn error_of(answer: Option<&ProduceResult>) -> Option<&'static str> {
    match answer {
        Some(ProduceResult::Acked { .. }) => None,
        Some(ProduceResult::Refused(refusal)) => Some(refusal.code.name()),
        Some(ProduceResult::NotSent { .. }) => Some("not_sent"),
        Some(ProduceResult::Lost { .. }) | None => Some("no_answer"),
    }
}

impl Dispatcher {
    /// A batch became ready.
    pub(super) fn measure_sealed(&self, sealed: &Sealed) {
        let Some(meter) = &self.meter else { return };
        let topic = &self.parts.topic;
        let events = f64::from(sealed.batch.count()) / f64::from(topic.settings.batch_size);
        // Nothing is compressed yet, and with a codec the bound is one of bytes on the wire. The unassigned lane expects nothing to
        // shrink.
        let learned = topic.fill.as_ref().filter(|_| sealed.partition != UNASSIGNED);
        let full = learned.map_or(topic.settings.max_batch_bytesize, |fill| fill.limit());
        let bytes = sealed.batch.encoded_len() as f64 / full as f64;
        meter.topic.fill.observe(events.max(bytes).min(1.0));
    }

    /// A request is about to be sent.
    pub(super) fn measure_attempt(&self, batches: &[PartitionBatch]) -> Option<Attempt> {
        self.meter.as_ref()?;
        let sizes = batches.iter().map(|batch| (batch.batch.count(), batch.batch.encoded_len()));
        Some(Attempt { at: self.parts.topic.clock.now(), sizes: sizes.collect() })
    }

    /// It was answered, each batch for itself.
    pub(super) fn measure_answers(
        &mut self,
        node: i32,
        sent: &[(i32, u64)],
        answers: &[ProduceAnswer],
        attempt: &Attempt,
    ) {
        let took = self.parts.topic.clock.now().since(attempt.at).as_secs_f64();
        let Some(Meter { topic, partitions, brokers, .. }) = &mut self.meter else { return };
        brokers.entry(node).or_insert_with(|| topic.broker(node)).observe(took);
        for (at, ((partition, _), (events, bytes))) in sent.iter().zip(&attempt.sizes).enumerate() {
            let [duration, messages, size] =
                partitions.entry(*partition).or_insert_with(|| topic.partition(*partition));
            duration.observe(took);
            messages.observe(f64::from(*events));
            size.observe(*bytes as f64);
            let answer = answers.get(at).map(|answer| &answer.result);
            error_of(answer).into_iter().for_each(|error| topic.failed(error));
        }
    }

    /// A batch is in Kafka whose oldest event was accepted so long ago.
    pub(super) fn measure_latency(&self, latency: Duration) {
        self.meter.iter().for_each(|meter| meter.topic.latency.observe(latency.as_secs_f64()));
    }

    /// Something may have happened, or time alone has passed.
    pub(super) fn note_change(&mut self, changed: bool) {
        self.meter.iter_mut().for_each(|meter| meter.changed |= changed);
    }

    /// Publishes the accounts if that is due; when it is due again.
    pub(super) fn publish_when_due(&mut self) -> Option<Time> {
        let (now, open) = (self.parts.topic.clock.now(), self.parts.topic.next_due().is_some());
        if self.meter.as_ref()?.due(open)? <= now {
            self.publish();
        }
        self.meter.as_ref()?.due(open)
    }

    /// Publishes the accounts, all of this instant.
    pub(super) fn publish(&mut self) {
        if self.meter.is_none() {
            return;
        }
        let topic = &self.parts.topic;
        let (now, unix_ms) = (topic.clock.now(), topic.clock.unix_ms());
        let report = self.counts();
        let in_flight = self.lanes.iter().map(|lane| u64::from(lane.outbox.in_flight())).sum();
        let (mut oldest, mut spooled): (Option<Duration>, Option<Duration>) = (None, None);
        for lane in &self.lanes {
            let (all, on_disk) = lane.outbox.oldest(now, unix_ms);
            (oldest, spooled) = (oldest.max(all), spooled.max(on_disk));
        }
        spooled = spooled.max(self.unassigned.oldest_on_disk(unix_ms));
        let staged = self.lanes.iter().filter_map(|lane| lane.stage.oldest()).min();
        let waiting =
            [topic.oldest(), self.unassigned.oldest_in_memory(), staged].into_iter().flatten().min();
        oldest = oldest.max(spooled).max(waiting.map(|since| now.since(since)));
        let age = |was: Duration| Age { was, at: now };
        let snapshot = Snapshot {
            dead_lettered: report.dead_lettered + self.dropped_letters,
            report,
            batches_in_flight: in_flight,
            oldest: oldest.map(age),
            spool_oldest: spooled.map(age),
        };
        if let Some(meter) = &mut self.meter {
            meter.topic.publish(snapshot);
            (meter.published, meter.changed) = (Some(now), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KafkaBatcher;

    #[tokio::test]
    async fn where_nothing_happens_and_nobody_looks_no_timer_runs() {
        for shared in [true, false] {
            let builder = KafkaBatcher::builder(["127.0.0.1:1"]);
            let builder = match shared {
                true => builder.metrics_registry(prometheus::Registry::new()),
                false => builder,
            };
            let batcher = builder.start().await.unwrap();
            let flights = batcher.collector("flights").build().unwrap();
            let mut meter = Meter::new(flights.topic.telemetry.clone().unwrap());
            let published = Time::from_millis(5_000);
            let again = shared.then_some(published + PUBLISHED_EVERY);
            assert_eq!(meter.due(false), shared.then_some(Time::ZERO));
            (meter.published, meter.changed) = (Some(published), false);
            assert_eq!((meter.due(false), meter.due(true)), (None, again));
            meter.changed = true;
            assert_eq!(meter.due(false), again);
            drop(batcher.shutdown(Duration::ZERO).await);
        }
    }
}
