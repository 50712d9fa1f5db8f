//! What the outboxes say became of batches: receipts, counts, and what an operator is told, once an episode.

use std::sync::Arc;

use kafka_batcher_core::{
    DeliveryError, FailureReason, OutboxEvent, Persisted, ProduceAnswer, ProduceResult, RecordBatch, Time,
    Trouble,
};

use super::Dispatcher;
use crate::connection_manager::TopicHealth;
use crate::error_notifier::NotificationKind;

impl Dispatcher {
    pub(super) fn take_events(&mut self, partition: i32, now: Time) {
        loop {
            let Some(event) = self.lane_mut(partition).and_then(|lane| lane.outbox.poll_event()) else {
                return;
            };
            match event {
                OutboxEvent::Delivered { batch, base_offset, opened, .. } => {
                    batch.spans().delivered(partition, base_offset);
                    self.parts.topic.settled(batch.count());
                    self.own.batches += 1;
                    self.own.bytes += batch.encoded_len() as u64;
                    if let Some(opened) = opened {
                        self.own.latency.record(now.since(opened), u64::from(batch.count()));
                    }
                }
                OutboxEvent::Failed { batch, error, .. } => self.lose(&batch, error, Some(partition)),
                OutboxEvent::InDoubt { batch, .. } => {
                    let message = "no answer settled whether it was written".to_owned();
                    let error = error_of(FailureReason::Unknowable, Persisted::Maybe, message);
                    self.lose(&batch, error, Some(partition));
                }
                OutboxEvent::Troubled(trouble) => self.troubled(partition, &trouble),
                OutboxEvent::Recovered => self.recovered(partition),
                OutboxEvent::TopicRecreated => {
                    let message =
                        "the topic was deleted and created again; what was undelivered goes to the new one";
                    self.tell(NotificationKind::ProducerError, Some(partition), message.to_owned());
                }
                _ => {}
            }
        }
    }

    fn troubled(&mut self, partition: i32, trouble: &Trouble) {
        self.parts.refresh.notify_one();
        self.parts.manager.doubts.notify_one();
        let Some(lane) = self.lane_mut(partition) else { return };
        let new = !std::mem::replace(&mut lane.troubled, true);
        self.troubled += usize::from(new);
        // Once for the topic, and once more if it turns out that waiting will not help.
        let graver = trouble.needs_somebody() && !std::mem::replace(&mut self.needs_somebody, true);
        if (new && self.troubled == 1) || graver {
            let message = format!(
                "deliveries to partition {partition} have stopped: {trouble}; events are kept and tried again"
            );
            self.parts.manager.set_topic(&self.parts.topic.name, |health| {
                *health = TopicHealth::Troubled { message: message.clone() };
            });
            self.tell(NotificationKind::ProducerError, Some(partition), message);
        }
    }

    fn recovered(&mut self, partition: i32) {
        let partitions = self.lanes.len() as i32;
        let Some(lane) = self.lane_mut(partition) else { return };
        if !std::mem::take(&mut lane.troubled) {
            return;
        }
        self.troubled -= 1;
        if self.troubled == 0 {
            self.needs_somebody = false;
            self.parts.manager.set_topic(&self.parts.topic.name, |health| {
                *health = TopicHealth::Ready { partitions };
            });
            self.tell(NotificationKind::Recovered, None, "deliveries go on".to_owned());
        }
    }

    fn tell(&self, kind: NotificationKind, partition: Option<i32>, message: String) {
        self.parts.manager.tell(kind, Some(&self.parts.topic.name), partition, message);
    }

    /// Fails events that no outbox holds; they are certainly not in the log.
    pub(super) fn give_up(&mut self, batch: &RecordBatch, reason: FailureReason, message: String) {
        self.own.lost += u64::from(batch.count());
        self.lose(batch, error_of(reason, Persisted::No, message), None);
    }

    /// These events are final, and not delivered.
    fn lose(&mut self, batch: &RecordBatch, error: DeliveryError, partition: Option<i32>) {
        let loss = self.losses.entry(error.to_string()).or_insert((0, partition));
        loss.0 += u64::from(batch.count());
        // Of several partitions, none is named.
        loss.1 = loss.1.filter(|known| Some(*known) == partition);
        batch.spans().failed(&Arc::new(error));
        self.parts.topic.settled(batch.count());
    }

    /// Tells of the losses since the last call, once for each reason however many batches it took.
    pub(super) fn tell_losses(&mut self) {
        for (error, (events, partition)) in std::mem::take(&mut self.losses) {
            let message = format!("{events} events are not delivered: {error}");
            self.tell(NotificationKind::EventsLost, partition, message);
        }
    }
}

pub(super) fn lost(message: &str) -> ProduceAnswer {
    ProduceAnswer { result: ProduceResult::Lost { message: message.to_owned() }, leader: None }
}

pub(super) fn error_of(reason: FailureReason, persisted: Persisted, message: String) -> DeliveryError {
    DeliveryError { reason, persisted, code: None, message }
}
