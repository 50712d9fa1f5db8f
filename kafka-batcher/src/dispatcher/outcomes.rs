//! What the outboxes say became of batches: receipts, counts, and what an operator is told, once an episode.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kafka_batcher_core::{
    DeliveryError, FailureReason, OnFull, OutboxEvent, Persisted, ProduceAnswer, ProduceResult, RecordBatch,
    Time, Trouble,
};

use super::{Dispatcher, End, LOSSES_TOLD_EVERY};
use crate::connection_manager::{SpoolHealth, TopicHealth};
use crate::error_notifier::NotificationKind;
use crate::storage::DroppedLetters;

/// What became of events that are final and not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    Lost,
    PutAside,
}

/// Events that are final and not delivered, for one reason.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Since the operator was told.
    events: u64,
    /// Theirs; of several partitions none is named.
    partition: Option<i32>,
    /// What was said of the first of them.
    words: String,
    told: Option<Time>,
}

impl Losses {
    /// When they are to be told; `None`: there are none.
    pub(super) fn due(&self) -> Option<Time> {
        (self.events > 0).then(|| self.told.map_or(Time::ZERO, |told| told + LOSSES_TOLD_EVERY))
    }

    fn add(&mut self, events: u64, partition: Option<i32>, error: &DeliveryError) {
        if self.events == 0 {
            (self.partition, self.words) = (partition, error.to_string());
        }
        self.events += events;
        self.partition = self.partition.filter(|known| Some(*known) == partition);
    }
}

impl Dispatcher {
    pub(super) fn take_events(&mut self, partition: i32, now: Time) {
        loop {
            let Some(event) = self.lane_mut(partition).and_then(|lane| lane.outbox.poll_event()) else {
                return;
            };
            match event {
                OutboxEvent::Delivered { batch, base_offset, opened, durable, .. } => {
                    batch.spans().delivered(partition, base_offset);
                    self.settled(&batch, durable);
                    self.own.batches += 1;
                    self.own.bytes += batch.encoded_len() as u64;
                    if let Some(opened) = opened {
                        self.latency.record(now.since(opened), u64::from(batch.count()));
                        self.measure_latency(now.since(opened));
                    }
                }
                OutboxEvent::Failed { batch, error, durable } => {
                    self.lose(&batch, error, Some(partition), durable);
                }
                OutboxEvent::InDoubt { batch, durable } => {
                    let message = "no answer settled whether it was written".to_owned();
                    let error = error_of(FailureReason::Unknowable, Persisted::Maybe, message);
                    self.lose(&batch, error, Some(partition), durable);
                }
                OutboxEvent::Durable { batch } => {
                    batch.spans().durable();
                    self.parts.topic.settled(batch.count());
                }
                OutboxEvent::ProvenOnDisk { spans, .. } => {
                    spans.iter().for_each(|spans| spans.delivered(partition, None));
                }
                OutboxEvent::DeadLettered { batch, error, durable } => {
                    self.dead_lettered(&batch, error, Some(partition), durable);
                }
                OutboxEvent::LeftInSpool { spans } => {
                    let error = error_of(FailureReason::Spooled, Persisted::No, String::new());
                    spans.failed(&Arc::new(error));
                }
                OutboxEvent::Damaged { events, message, spans } => {
                    for (spans, persisted) in spans {
                        let error = error_of(FailureReason::Damaged, persisted, message.clone());
                        spans.failed(&Arc::new(error));
                    }
                    let message = format!("{events} events of the spool are lost: {message}");
                    self.tell(NotificationKind::EventsLost, Some(partition), message);
                }
                OutboxEvent::Spooling => self.spooling(partition),
                OutboxEvent::SpoolTroubled { full, slow, message } => {
                    self.spool_troubled(partition, full, slow, &message);
                }
                OutboxEvent::NeedsRoom { bytes } => self.make_room(partition, bytes, now),
                OutboxEvent::SpoolRecovered => self.spool_works(partition),
                OutboxEvent::ForeignNumbers => self.foreign_numbers(),
                OutboxEvent::Troubled(trouble) => self.troubled(partition, &trouble),
                OutboxEvent::Recovered => self.recovered(partition),
                OutboxEvent::TopicRecreated => self.topic_recreated(partition),
                _ => {}
            }
        }
    }

    /// Every partition says so by itself, and it is one piece of news.
    fn foreign_numbers(&mut self) {
        if !std::mem::replace(&mut self.foreign_told, true) {
            let message = format!(
                "the spool holds batches that were sent to another topic of this name, or to a cluster that is not known; they \
                 get new numbers ({} events wait in the spool)",
                self.counts().spooled
            );
            self.tell(NotificationKind::SpoolError, None, message);
        }
    }

    /// The same, for each time that it happens.
    fn topic_recreated(&mut self, partition: i32) {
        let leader = self.parts.producer.leader(&self.parts.topic.name, partition);
        let topic = leader.map(|leader| leader.topic_id);
        if topic.is_none() || topic != self.recreated_told {
            self.recreated_told = topic;
            let report = self.counts();
            let message = format!(
                "the topic was deleted and created again; what was undelivered ({} events) goes to the new one",
                report.in_memory + report.in_flight + report.spooled
            );
            self.tell(NotificationKind::ProducerError, None, message);
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
                let message = message.clone();
                *health = match graver {
                    true => TopicHealth::Unavailable { message },
                    false => TopicHealth::Troubled { message },
                };
            });
            self.tell(NotificationKind::ProducerError, Some(partition), message);
        }
    }

    fn recovered(&mut self, partition: i32) {
        // Nothing waits any more then, because it was put on disk or given up.
        if self.end != End::NotYet {
            return;
        }
        let partitions = self.lanes.len() as i32;
        let Some(lane) = self.lane_mut(partition) else { return };
        lane.spooling = false;
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

    /// Batches of a partition go to the spool; told once for the topic.
    fn spooling(&mut self, partition: i32) {
        let Some(lane) = self.lane_mut(partition) else { return };
        let new = !std::mem::replace(&mut lane.spooling, true);
        if new && self.lanes.iter().filter(|lane| lane.spooling).count() == 1 {
            let after = self.parts.outbox.spool.map(|spool| spool.after).unwrap_or_default();
            let message = format!(
                "Kafka has taken nothing of partition {partition} for {after:?}: events go to the spool until it does"
            );
            self.tell(NotificationKind::Spooling, Some(partition), message);
        }
    }

    /// The storage fails or does not answer; told once for the topic.
    pub(super) fn spool_troubled(&mut self, partition: i32, full: bool, slow: bool, message: &str) {
        let first = self.spool_troubled.is_empty();
        self.spool_troubled.insert(partition, full);
        self.refuse_if_full();
        let health = SpoolHealth::Troubled { message: message.to_owned() };
        self.parts.manager.set_spool(&self.parts.topic.name, health);
        if first {
            let message = match slow {
                true => format!("the spool: {message}; what needs it waits in memory until it does"),
                false => format!("{message}; events stay in memory, and it is tried again every second"),
            };
            self.tell(NotificationKind::SpoolError, None, message);
        }
    }

    pub(super) fn spool_works(&mut self, partition: i32) {
        let troubled = self.spool_troubled.remove(&partition).is_some();
        self.refuse_if_full();
        if troubled && self.spool_troubled.is_empty() {
            self.parts.manager.set_spool(&self.parts.topic.name, SpoolHealth::Works);
            self.tell(NotificationKind::Recovered, None, "the spool works again".to_owned());
        }
    }

    fn refuse_if_full(&self) {
        let refuse = self.parts.outbox.spool.is_some_and(|spool| spool.on_full == OnFull::Reject);
        self.parts.topic.refuse_when_full(refuse && self.spool_troubled.values().any(|full| *full));
    }

    /// These events are final, not delivered, and kept aside.
    pub(super) fn dead_lettered(
        &mut self,
        batch: &RecordBatch,
        error: DeliveryError,
        partition: Option<i32>,
        durable: bool,
    ) {
        self.note_loss(Loss::PutAside, batch, &error, partition);
        batch.spans().failed(&Arc::new(error));
        self.settled(batch, durable);
    }

    /// Letters were kept: others may have had to go for them, and are lost.
    pub(super) fn count_dropped_letters(&mut self) {
        let Some(storage) = self.storage() else { return };
        let topic = &*self.parts.topic.name;
        // The code of a user's storage.
        let asked = catch_unwind(AssertUnwindSafe(|| storage.take_dropped_letters(topic)));
        let DroppedLetters { own, earlier } = asked.unwrap_or_default();
        if own + earlier > 0 {
            self.dropped_letters += own;
            // Nobody counted these yet: they were settled, for the process that put them aside.
            self.own.recovered += earlier;
            self.own.lost += earlier;
            let message = format!(
                "{} dead letters, the oldest, are lost: they were dropped to keep later ones ({earlier} of them were put aside by earlier processes); raise dead_letter_bytes to keep more",
                own + earlier
            );
            self.tell(NotificationKind::EventsLost, None, message);
        }
    }

    /// The outcome of these events is final; those on disk were counted when they came there.
    fn settled(&self, batch: &RecordBatch, durable: bool) {
        if !durable {
            self.parts.topic.settled(batch.count());
        }
    }

    pub(super) fn tell(&self, kind: NotificationKind, partition: Option<i32>, message: String) {
        self.parts.manager.tell(kind, Some(&self.parts.topic.name), partition, message);
    }

    /// Fails events that no outbox holds; they are certainly not in the log.
    pub(super) fn give_up(&mut self, batch: &RecordBatch, reason: FailureReason, message: String) {
        self.own.lost += u64::from(batch.count());
        self.lose(batch, error_of(reason, Persisted::No, message), None, false);
    }

    /// Gives up events that no outbox holds, and that may lie in the spool: the next start would deliver them.
    pub(super) fn give_up_in_doubt(&mut self, batch: &RecordBatch, message: String) {
        self.own.in_doubt += u64::from(batch.count());
        self.lose(batch, error_of(FailureReason::Shutdown, Persisted::Maybe, message), None, false);
    }

    /// These events are final, and not delivered.
    pub(super) fn lose(
        &mut self,
        batch: &RecordBatch,
        error: DeliveryError,
        partition: Option<i32>,
        durable: bool,
    ) {
        self.note_loss(Loss::Lost, batch, &error, partition);
        batch.spans().failed(&Arc::new(error));
        self.settled(batch, durable);
    }

    /// To be told with others of its kind.
    fn note_loss(&mut self, loss: Loss, batch: &RecordBatch, error: &DeliveryError, partition: Option<i32>) {
        // Not by its free words: a broker may say something else of each event.
        let reason = DeliveryError { message: String::new(), ..error.clone() };
        let losses = self.losses.entry((loss, reason.to_string())).or_default();
        losses.add(u64::from(batch.count()), partition, error);
    }

    /// Tells of what is lost or put aside: of each reason at once, then every ten seconds at most, or once more when `all` is to
    /// be told.
    pub(super) fn tell_losses(&mut self, all: bool) {
        let now = self.parts.topic.clock.now();
        let mut told = Vec::new();
        for ((loss, _), losses) in &mut self.losses {
            if losses.due().is_none_or(|due| due > now && !all) {
                continue;
            }
            losses.told = Some(now);
            let (events, words) = (std::mem::take(&mut losses.events), std::mem::take(&mut losses.words));
            told.push((*loss, losses.partition, events, words));
        }
        for (loss, partition, events, words) in told {
            let (kind, became) = match loss {
                Loss::Lost => (NotificationKind::EventsLost, "are not delivered"),
                Loss::PutAside => (NotificationKind::DeadLettered, "were put aside as dead letters"),
            };
            self.tell(kind, partition, format!("{events} events {became}: {words}"));
        }
    }
}

pub(super) fn lost(message: &str) -> ProduceAnswer {
    ProduceAnswer { result: ProduceResult::Lost { message: message.to_owned() }, leader: None }
}

pub(super) fn error_of(reason: FailureReason, persisted: Persisted, message: String) -> DeliveryError {
    DeliveryError { reason, persisted, code: None, message }
}
