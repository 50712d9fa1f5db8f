//! Asks the outboxes what to do, and does it: which batches share a request, and how many requests are under way.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kafka_batcher_core::{Action, Codec, Time};

use super::{Dispatcher, Done, Groups};
use crate::producer::{PartitionBatch, ProduceRequest};

/// Produce requests to one broker under way for one topic. One keeps the wire idle for a round trip; a few fill it;
/// more only take batches away from the requests to come. What `max.in.flight.requests.per.connection` is elsewhere.
const REQUESTS_PER_BROKER: usize = 5;

/// So many fill it, if each of them is large: half of what a request may hold (`max_request_size`), or more. A small one beside a large one
/// does not, for it is answered with it, and the wire is idle then. Without this bound all of the memory is soon under way in five
/// requests, what an answer frees goes out at once in as many small batches as there are partitions, and it stays so. On Kafka, medians of
/// six in turns: CPU s for 10^6 events 0.310 without, 0.265 with it, and 0.242 where batches go on filling besides, 1.0, 1.15 and 1.25
/// million events/s, with 1 000 partitions; 0.162, 0.146 and 0.134 with 200. With 16 there is no difference.
const LARGE_REQUESTS_PER_BROKER: usize = 2;

/// What is under way to one broker.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    requests: usize,
    /// How many of them are large.
    large: usize,
    /// When the last request was sent, and when one was last sent or answered.
    sent: Time,
    moved: Time,
}

impl UnderWay {
    fn sent(&mut self, large: bool, now: Time) {
        let (requests, large) = (self.requests + 1, self.large + usize::from(large));
        *self = UnderWay { requests, large, sent: now, moved: now };
    }

    /// True if nothing is under way any more.
    pub(super) fn answered(&mut self, large: bool, now: Time) -> bool {
        self.requests = self.requests.saturating_sub(1);
        self.large = self.large.saturating_sub(usize::from(large));
        self.moved = now;
        self.requests == 0
    }

    fn is_enough(&self) -> bool {
        self.requests >= REQUESTS_PER_BROKER || self.large >= LARGE_REQUESTS_PER_BROKER
    }
}

impl Dispatcher {
    /// Asks the outboxes to which something happened what to do, and does it, until none of them has anything.
    pub(super) fn drive(&mut self) {
        let now = self.parts.topic.clock.now();
        let unix_ms = self.parts.topic.clock.unix_ms();
        for lane in &mut self.lanes {
            if lane.retry_at.is_some_and(|at| at <= now) {
                lane.retry_at = None;
                lane.dirty = true;
            }
        }
        self.tell_slow_calls(now);
        self.ask_all(now, unix_ms);
        self.look_at_held(now);
        if self.open_again_at.is_some_and(|at| at <= now) {
            self.open_again_at = None;
            self.open_storage();
        }
        self.start_reads(now);
        self.drive_unassigned(now);
        self.settle_barriers();
        if self.closing.as_ref().is_some_and(|closing| closing.deadline <= now) {
            self.end(now);
            // What the end wants of the storage is begun at once: nothing else may ever wake this task.
            self.ask_all(now, unix_ms);
        }
    }

    /// Asks every outbox to which something happened, until none of them has anything to do.
    fn ask_all(&mut self, now: Time, unix_ms: i64) {
        // A request holds one batch of a partition: what an outbox has besides goes into the next round's.
        loop {
            let mut groups = Groups::new();
            let mut progress = false;
            for partition in 0..self.lanes.len() {
                if self.lanes.get(partition).is_some_and(|lane| lane.dirty && !lane.given_up) {
                    progress |= self.ask(partition as i32, now, unix_ms, &mut groups);
                }
            }
            for ((node, acks), (sent, batches)) in groups {
                self.produce(node, acks, sent, batches);
            }
            if !progress {
                break;
            }
        }
    }

    /// One question to one outbox. True: it may have more to say.
    fn ask(&mut self, partition: i32, now: Time, unix_ms: i64, groups: &mut Groups) -> bool {
        self.touched = partition;
        #[cfg(test)]
        super::panic_if_planted(&self.parts.topic.name, partition);
        let leader = self.parts.producer.leader(&self.parts.topic.name, partition);
        // Numbers on disk mean something only in their cluster, so that must be known first.
        let leader = leader.filter(|_| self.parts.storage.is_none() || self.cluster_known);
        let crowded =
            leader.and_then(|leader| self.under_way.get(&leader.node)).is_some_and(UnderWay::is_enough);
        let look_again = now + self.parts.outbox.backoff.max;
        let Some(lane) = self.lane_mut(partition) else { return false };
        // It is asked again when a request has been answered.
        lane.crowded = crowded;
        lane.node = leader.map(|leader| leader.node);
        let action = match crowded {
            true => lane.outbox.poll_action_without_requests(leader, now, unix_ms),
            false => lane.outbox.poll_action(leader, now, unix_ms),
        };
        let more = match action {
            Action::Wait { until } => {
                lane.dirty = false;
                lane.retry_at = until;
                let stuck = leader.is_none() && !lane.outbox.is_empty();
                if stuck {
                    // A leader found is told by the metadata's version. Should a producer forget that once, a partition
                    // must not wait for ever.
                    lane.retry_at = Some(until.unwrap_or(look_again));
                    self.parts.refresh.notify_one();
                }
                false
            }
            action @ (Action::Save { .. }
            | Action::Renumber { .. }
            | Action::Read { .. }
            | Action::Reject { .. }
            | Action::Drop { .. }
            | Action::Commit { .. }) => {
                self.store(partition, action);
                true
            }
            Action::Produce { ticket, batch, spooled } => {
                let node = leader.map_or(-1, |leader| leader.node);
                // Behind others it may go only where they went.
                let only_to = leader.filter(|_| lane.outbox.in_flight() > 1);
                // What is on disk is given up only for what all replicas have.
                let acks = if spooled { -1 } else { self.parts.topic.settings.required_acks };
                let (sent, batches) = groups.entry((node, acks)).or_default();
                sent.push((partition, ticket));
                batches.push(PartitionBatch {
                    topic: self.parts.topic.name.clone(),
                    partition,
                    batch,
                    leader: only_to,
                });
                true
            }
            Action::Describe { producer_id } => {
                let (producer, topic) = (self.parts.producer.clone(), self.parts.topic.name.clone());
                self.spawn(async move {
                    let (state, leader) = producer.describe_producer(&topic, partition, producer_id).await;
                    Done::Described { partition, state, leader }
                });
                true
            }
            Action::AskRetention => {
                if let Some((said, retention)) = self.retention
                    && now < said + self.parts.outbox.backoff.max
                {
                    self.on_done(Done::Retention { partition, retention });
                    return true;
                }
                let (producer, topic) = (self.parts.producer.clone(), self.parts.topic.name.clone());
                self.spawn(async move {
                    let retention = producer.retention(&topic).await;
                    Done::Retention { partition, retention }
                });
                true
            }
            Action::InitProducerId { other_than } => {
                let (producer, identity) = (self.parts.producer.clone(), self.parts.identity.clone());
                self.spawn(async move {
                    let answer = identity.get(producer.as_ref(), other_than).await;
                    Done::Identified { partition, answer }
                });
                true
            }
        };
        self.take_events(partition, now);
        more
    }

    /// Whether a batch of this partition, sealed now, would be sent or saved at once. If not, it had better go on filling. Asks nobody else:
    /// it is called under the partition's lock.
    pub(super) fn could_go(&self, partition: i32, now: Time) -> bool {
        let lane = usize::try_from(partition).ok().and_then(|partition| self.lanes.get(partition));
        lane.is_some_and(|lane| {
            !lane.has_unsent()
                && (lane.outbox.saves_what_comes(now)
                    || !lane.node.is_some_and(|node| self.holds_up(node, now)))
        })
    }

    /// Whether this broker has enough to do, and answers. Batches that are compressed need not wait for it: that is done meanwhile.
    fn holds_up(&self, node: i32, now: Time) -> bool {
        self.parts.topic.compression.codec() == Codec::None
            && self
                .under_way
                .get(&node)
                .is_some_and(|under_way| under_way.is_enough() && now < self.silent_from(under_way))
    }

    /// From when on a broker that answers nothing may be away. What is open is not saved, does not make Kafka count as away and does not grow
    /// too old, so it must be sealed well before the first of `spool_after` and `request_timeout` is over. Each answer begins that time anew:
    /// with the few that are under way one that falls silent little by little keeps a batch open for less than one of the two.
    fn silent_from(&self, under_way: &UnderWay) -> Time {
        let spool_after = self.parts.outbox.spool.map(|spool| spool.after);
        let timeout = self.parts.request_timeout;
        under_way.moved + spool_after.map_or(timeout, |after| after.min(timeout)) / REQUESTS_PER_BROKER as u32
    }

    /// When a broker that held batches up at the last look will be one that may be away.
    pub(super) fn next_silence(&self) -> Option<Time> {
        let holding = self.under_way.iter().filter(|(node, _)| self.holds_up(**node, self.looked_at_held));
        holding.map(|(_, under_way)| self.silent_from(under_way)).min()
    }

    /// Open batches that were due and had to wait are due again if they can go now.
    pub(super) fn look_at_held(&mut self, now: Time) {
        self.looked_at_held = now;
        for partition in 0..self.lanes.len() {
            if self.lanes.get(partition).is_some_and(|lane| lane.held)
                && self.could_go(partition as i32, now)
                && let Some(lane) = self.lanes.get_mut(partition)
            {
                lane.held = false;
                self.parts.topic.look_again();
            }
        }
    }

    /// With `adaptive_linger`: from when on an open batch of this partition may go before its time; `None` while its broker has
    /// something to do, or anything of the partition is not delivered yet: trouble is no reason for haste.
    pub(super) fn early(&self, partition: i32) -> Option<Time> {
        let gap = self.early_gap?;
        let lane = self.lanes.get(usize::try_from(partition).ok()?)?;
        let idle = lane.stage.is_empty() && lane.outbox.is_empty();
        if idle { self.broker_early(partition, gap) } else { None }
    }

    /// The same by its broker alone.
    fn broker_early(&self, partition: i32, gap: Duration) -> Option<Time> {
        let node = self.parts.producer.leader(&self.parts.topic.name, partition)?.node;
        match self.under_way.get(&node) {
            None => Some(Time::ZERO),
            Some(under_way) => (under_way.requests == 0).then(|| under_way.sent + gap),
        }
    }

    /// Tells those who open batches when their broker would take them.
    pub(super) fn say_how_early(&mut self) {
        let Some(gap) = self.early_gap.filter(|_| std::mem::take(&mut self.early_changed)) else { return };
        for partition in 0..self.parts.topic.slots.count() {
            if let Some(slot) = self.parts.topic.slots.get(partition) {
                let early = self.broker_early(partition, gap).map_or(u64::MAX, Time::as_micros);
                slot.early.store(early, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn spawn(&mut self, request: impl Future<Output = Done> + Send + 'static) {
        self.requests.push(Box::pin(request));
    }

    fn produce(&mut self, node: i32, acks: i16, sent: Vec<(i32, u64)>, batches: Vec<PartitionBatch>) {
        let now = self.parts.topic.clock.now();
        let bytes: usize = batches.iter().map(|batch| batch.batch.encoded_len()).sum();
        let large = bytes >= self.parts.max_request_size / 2;
        self.under_way.entry(node).or_default().sent(large, now);
        if self.early_gap.is_some() {
            self.early_changed = true;
        }
        let producer = self.parts.producer.clone();
        let attempt = self.measure_attempt(&batches);
        let request = ProduceRequest { acks, timeout: self.parts.request_timeout, batches };
        self.spawn(async move {
            let answers = producer.produce(request).await;
            Done::Produced { node, large, sent, answers, attempt }
        });
    }
}
