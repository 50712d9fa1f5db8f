//! `Dispatcher`: the task of one topic. It owns the topic's outboxes and performs their actions.
//!
//! It decides nothing about order or identity: what is sealed goes to its partition's [`Outbox`], what the outbox says
//! is done, what happened is told to it. What it does decide: which batches share a request (all that go to one broker
//! at one time), how many requests to a broker are under way, and when to look again (one timer).

mod compressing;
mod failing;
mod measuring;
mod outcomes;
mod pace;
mod sending;
mod spooling;
#[cfg(test)]
mod tests;
mod unassigned;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kafka_batcher_core::partitioner::{Placement, TopicNotice};
use kafka_batcher_core::{
    Compression, FailureReason, Leader, Outbox, OutboxSettings, ProduceAnswer, ProducerIdentity,
    ProducerState, ReadBack, Sealed, StorageError, Time, TopicId,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use self::compressing::{Mark, Stage};
#[cfg(test)]
pub(crate) use self::failing::tests::panic_if_planted;
use self::measuring::{Attempt, Meter};
use self::outcomes::{Loss, Losses, lost};
use self::pace::Pace;
use self::sending::UnderWay;
use self::spooling::{PendingRead, Stored};
use self::unassigned::{Gone, Unassigned, Written};
use crate::compression::CompressionPool;
use crate::config::CollectorSettings;
use crate::connection_manager::{ConnectionManager, TopicHealth};
use crate::error_notifier::NotificationKind;
use crate::identity::Identity;
use crate::metrics::{Latency, Report};
use crate::panics;
use crate::producer::{BoxFuture, PartitionBatch, Producer, TopicInfo};
use crate::storage::TempStorage;
use crate::topic::{PLACEMENT_HEADER, Topic, UNASSIGNED};

/// A timer of tokio's goes off up to a millisecond late, and `max_wait_time` is what an event waits at most: so what is due within that
/// time is due, and the timer is asked for so much earlier. Without it requests went out every 7 ms with a linger of 5: at 10 000 events/s
/// on Kafka 4.6 and 10.4 ms at p50 and p99, with it 3.8 and 7.4, for 2.9 and 3.6 CPU s for 10^6 (medians of three in turns).
const TIMER_LATE: Duration = Duration::from_millis(1);

/// How long the disk may take, once the time to deliver is over, to take what is left.
const SPILLING: Duration = Duration::from_secs(10);

/// How often the operator is told of events that are lost or put aside for one reason.
const LOSSES_TOLD_EVERY: Duration = Duration::from_secs(10);

/// What a dispatcher is asked to do.
pub(crate) enum Command {
    /// Seal all, and answer when everything accepted so far is settled.
    Flush(oneshot::Sender<()>),
    /// Answer with the accounts as they are now.
    Report(oneshot::Sender<Report>),
    /// Publish the accounts as they are now, and say when that is done.
    Publish(oneshot::Sender<()>),
    /// The collector cannot go on, for this reason.
    Fail(String),
    /// The topic is closed: deliver what is left until then, give up on the rest, answer with the accounts.
    Close { deadline: Time, done: oneshot::Sender<Report> },
}

/// What a request led to.
enum Done {
    Compressed {
        partition: i32,
        ordinal: u64,
    },
    Produced {
        node: i32,
        large: bool,
        sent: Vec<(i32, u64)>,
        answers: Vec<ProduceAnswer>,
        attempt: Option<Attempt>,
    },
    Described {
        partition: i32,
        state: ProducerState,
        leader: Option<Leader>,
    },
    Identified {
        partition: i32,
        answer: Result<ProducerIdentity, String>,
    },
    Retention {
        partition: i32,
        retention: Option<Duration>,
    },
    Stored(Stored),
    LaneRead(Result<ReadBack, StorageError>),
    Regrouped(Written),
    LaneExpired(Result<Gone, StorageError>),
    LanePutAside(Result<(), StorageError>),
}

/// Why a dispatcher has nothing to do any more.
enum Ended {
    /// It was told to close, and has.
    Closed,
    /// The batcher was dropped.
    Dropped,
    Failed(String),
}

/// Requests in the making, by node and acks: whose batch it is and under which ticket, and the batches themselves.
type Groups = HashMap<(i32, i16), (Vec<(i32, u64)>, Vec<PartitionBatch>)>;

/// One partition as the dispatcher sees it.
struct Lane {
    /// What is compressed before it goes to the outbox.
    stage: Stage,
    outbox: Outbox,
    /// The outbox wants to be asked again: something happened to it.
    dirty: bool,
    /// When it was asked last, its leader had enough requests under way.
    crowded: bool,
    /// Who led it when that was asked last.
    node: Option<i32>,
    retry_at: Option<Time>,
    troubled: bool,
    /// Its batches go to the spool, and the operator knows.
    spooling: bool,
    /// The disk is full, and another lane is to make room.
    needs_room: bool,
    /// Its open batch is due, and waits until it could go (`could_go`).
    held: bool,
    /// Its open batch is to be sealed for its memory, as soon as it can go: somebody was refused for want of it.
    wanted: bool,
    /// It panicked, and is left alone.
    given_up: bool,
}

/// Somebody waits until what was accepted before is settled.
struct Barrier {
    /// For each partition, the first batch that need not be.
    marks: Vec<Mark>,
    /// The unassigned batches among it have not been placed yet.
    unassigned: bool,
    done: oneshot::Sender<()>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// The time to deliver is over: what is left goes to the spool.
    Spilling,
    /// That time is over, too: nothing is waited for any more.
    GivenUp,
}

struct Closing {
    deadline: Time,
    /// The deadline has passed, and what is left goes to the spool until then.
    spilling_until: Option<Time>,
    done: Vec<oneshot::Sender<Report>>,
}

/// What a dispatcher is made of.
pub(crate) struct Parts {
    pub(crate) topic: Arc<Topic>,
    pub(crate) producer: Arc<dyn Producer>,
    /// Where batches go while Kafka does not take them. With it go the outbox's spool settings.
    pub(crate) storage: Option<Arc<dyn TempStorage>>,
    pub(crate) manager: Arc<ConnectionManager>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) outbox: OutboxSettings,
    pub(crate) compression: Arc<CompressionPool>,
    /// How many bytes a second may be read back from the storage.
    pub(crate) replay_rate: Option<u64>,
    pub(crate) request_timeout: Duration,
    pub(crate) max_request_size: usize,
    pub(crate) info: watch::Receiver<Option<TopicInfo>>,
    pub(crate) refresh: Arc<Notify>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) seed: u64,
}

pub(crate) struct Dispatcher {
    parts: Parts,
    lanes: Vec<Lane>,
    /// Sealed batches, just taken from the topic's queue.
    inbox: VecDeque<Sealed>,
    /// Batches of a topic that is not known yet.
    unassigned: Unassigned,
    /// None once the end has begun.
    compression: Compression,
    /// The partitions of batches that are to be compressed, in the order of sealing; and how many are being.
    to_compress: VecDeque<i32>,
    compressing: usize,
    /// When the pool was last seen to do something, how much it had done then, and that it does nothing any more was told.
    pool_answered_at: Time,
    pool_done: u64,
    pool_stuck: bool,
    /// The storage has said what an earlier process left; before that nothing is sent.
    opened: bool,
    open_again_at: Option<Time>,
    end: End,
    /// Who asked for a report before the storage was open.
    reports: Vec<oneshot::Sender<Report>>,
    /// Reads that wait for memory, or for their time.
    reads: VecDeque<PendingRead>,
    pace: Option<Pace>,
    /// Reads under way, by partition and ticket, and how many bytes they may give.
    reading: HashMap<(i32, u64), usize>,
    /// Until when it holds that a partition makes room on the full disk, or that none can.
    looked_for_room: Option<(Time, bool)>,
    /// The partitions that have read beyond the bound, one for each broker, and their tickets. A broker that is gone does not keep
    /// others' partitions waiting.
    reads_beyond: Vec<(i32, u64)>,
    /// Of how few partitions the operator was told.
    told_fewer: Option<i32>,
    /// The partition count that the storage knows.
    remembered_partitions: i32,
    cluster: Option<String>,
    cluster_known: bool,
    /// How long the topic keeps events, and when it said so.
    retention: Option<(Time, Option<Duration>)>,
    /// For whom the spool does not work, and whether for want of room: partitions, and the lane without. The operator was told.
    spool_troubled: BTreeMap<i32, bool>,
    /// Calls of the storage that are under way, by partition and ticket, and when they should be answered.
    calls: BTreeMap<(i32, u64), Time>,
    /// Of the dead letters, those that the storage had to drop.
    dropped_letters: u64,
    requests: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Calls of the storage that are under way. Apart from the requests, because they can be waited for without a runtime.
    storing: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Produce requests under way, by node.
    under_way: HashMap<i32, UnderWay>,
    /// When batches that had to wait were last looked at.
    looked_at_held: Time,
    /// How late its timer may go off.
    timer_late: Duration,
    /// With `adaptive_linger`: the least time between a request to a broker and one before its batches' time, as the early timer needs it.
    early_gap: Option<Duration>,
    /// What the slots say of it is not true any more.
    early_changed: bool,
    barriers: Vec<Barrier>,
    closing: Option<Closing>,
    /// It was told to close, and has.
    finished: bool,
    /// It cannot go on.
    failed: Option<String>,
    /// The partition that was dealt with last; known when something panics.
    touched: i32,
    /// How many partitions are in trouble; the operator is told of the first and of the end.
    troubled: usize,
    /// The operator was told that somebody must act.
    needs_somebody: bool,
    /// Events that failed, or were put aside, by kind and reason.
    losses: BTreeMap<(Loss, String), Losses>,
    /// The operator was told that the spool holds numbers of another topic or cluster.
    foreign_told: bool,
    /// The topic whose coming in the place of another was told.
    recreated_told: Option<TopicId>,
    /// Of the pool's shortages, those that were met.
    shortages: u64,
    /// What is recorded of all this, if anything is.
    meter: Option<Meter>,
    /// Events in the batches that were taken from the topic's queue.
    taken: u64,
    /// What was counted outside of outboxes: batches, reasons, events lost in the unassigned lane.
    own: Report,
    /// Apart from the counts, which are read often: its thousands of counters are not.
    latency: Latency,
}

/// With `adaptive_linger`. Half of the linger: at 10 000 events/s that takes a third off the median latency, for a third more CPU (DESIGN,
/// The adaptive linger). It is a least time, and whoever looks looks as much too early as is added here.
fn early_gap(settings: &CollectorSettings) -> Option<Duration> {
    settings.adaptive_linger.then(|| settings.max_wait_time / 2 + timer_late(settings))
}

/// At most a fifth of the linger: a short one is not to become none. Nothing where there is a `min_delay`, which is a least time.
fn timer_late(settings: &CollectorSettings) -> Duration {
    if settings.min_delay.is_zero() { TIMER_LATE.min(settings.max_wait_time / 5) } else { Duration::ZERO }
}

impl Dispatcher {
    pub(crate) fn new(parts: Parts) -> Self {
        Dispatcher {
            meter: parts.topic.telemetry.clone().map(Meter::new),
            early_gap: early_gap(&parts.topic.settings),
            timer_late: timer_late(&parts.topic.settings),
            compression: parts.topic.compression,
            pace: parts.replay_rate.map(Pace::new),
            to_compress: VecDeque::new(),
            compressing: 0,
            pool_answered_at: Time::ZERO,
            pool_done: 0,
            pool_stuck: false,
            parts,
            lanes: Vec::new(),
            inbox: VecDeque::new(),
            unassigned: Unassigned::default(),
            opened: false,
            open_again_at: None,
            end: End::NotYet,
            reports: Vec::new(),
            reads: VecDeque::new(),
            reading: HashMap::new(),
            reads_beyond: Vec::new(),
            looked_for_room: None,
            told_fewer: None,
            remembered_partitions: 0,
            cluster: None,
            cluster_known: false,
            retention: None,
            spool_troubled: BTreeMap::new(),
            calls: BTreeMap::new(),
            dropped_letters: 0,
            requests: FuturesUnordered::new(),
            storing: FuturesUnordered::new(),
            finished: false,
            failed: None,
            touched: UNASSIGNED,
            under_way: HashMap::new(),
            looked_at_held: Time::ZERO,
            early_changed: true,
            barriers: Vec::new(),
            closing: None,
            troubled: 0,
            needs_somebody: false,
            losses: BTreeMap::new(),
            foreign_told: false,
            recreated_told: None,
            shortages: 0,
            taken: 0,
            own: Report { latency: Latency::none(), ..Report::default() },
            latency: Latency::default(),
        }
    }

    /// Runs until it was told to close and has, or cannot go on.
    pub(crate) async fn run(mut self) {
        let reason = match AssertUnwindSafe(self.serve()).catch_unwind().await {
            Ok(Ended::Closed) => return self.finish(),
            Ok(Ended::Dropped) => return,
            Ok(Ended::Failed(reason)) => reason,
            Err(panic) => {
                let said = panics::message(panic.as_ref());
                format!("a mistake in kafka-batcher itself, please report it: {said}")
            }
        };
        self.fail(reason).await;
    }

    async fn serve(&mut self) -> Ended {
        let mut metadata = self.parts.producer.metadata_version();
        let mut metadata_changes = true;
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        let topic = self.parts.topic.clone();
        let mut health = self.parts.manager.health.subscribe();
        self.learn_cluster();
        match self.parts.storage {
            Some(_) => self.open_storage(),
            None => {
                self.opened = true;
                self.learn_partitions();
            }
        }
        loop {
            self.collect();
            self.look_after_pool();
            self.drive();
            self.say_how_early();
            let done = self.is_done();
            self.tell_losses(done);
            if done {
                return Ended::Closed;
            }
            if let Some(reason) = self.failed.take() {
                return Ended::Failed(reason);
            }
            let publication = self.publish_when_due();
            let work = self.next_timer();
            let next = work.into_iter().chain(publication).min();
            if let Some(next) = next {
                timer.as_mut().reset(topic.clock.instant(next));
            }
            let mut changed = true;
            tokio::select! {
                Some(done) = self.requests.next(), if !self.requests.is_empty() => self.on_done(done),
                Some(done) = self.storing.next(), if !self.storing.is_empty() => self.on_done(done),
                () = topic.wake.notified() => {}
                () = &mut timer, if next.is_some() => {
                    changed = work.is_some_and(|at| at <= topic.clock.now());
                }
                Some(command) = self.parts.commands.recv() => self.on_command(command),
                changed = self.parts.info.changed() => match changed {
                    Ok(()) => self.learn_partitions(),
                    // The watcher is gone only when the batcher was dropped.
                    Err(_) => return Ended::Dropped,
                },
                Ok(()) = health.changed(), if self.parts.storage.is_some() => self.learn_cluster(),
                changed = metadata.changed(), if metadata_changes => match changed {
                    Ok(()) => self.metadata_changed(),
                    // Such a producer says nothing of changes; outboxes without a leader look again by themselves.
                    Err(_) => metadata_changes = false,
                },
            }
            self.note_change(changed);
            // What else has been answered meanwhile goes into the same round.
            while let Some(Some(done)) = self.requests.next().now_or_never() {
                self.on_done(done);
            }
            while let Some(Some(done)) = self.storing.next().now_or_never() {
                self.on_done(done);
            }
        }
    }

    fn next_timer(&self) -> Option<Time> {
        let retry = self.lanes.iter().filter_map(|lane| lane.retry_at).min();
        let now = self.parts.topic.clock.now();
        let deadline = self.closing.as_ref().map(|c| c.spilling_until.unwrap_or(c.deadline));
        let spool = self.unassigned_timer(now);
        let losses = self.losses.values().filter_map(Losses::due).min();
        let slow = self.calls.values().copied().min();
        let pace = self.pace.as_ref().filter(|_| !self.reads.is_empty()).and_then(|pace| pace.timer(now));
        let late = self.timer_late.as_micros() as u64;
        let due =
            self.parts.topic.next_due().map(|due| Time::from_micros(due.as_micros().saturating_sub(late)));
        let pool = self.pool_due();
        let silent = self.next_silence();
        let timers = [due, retry, deadline, spool, self.open_again_at, losses, slow, pace, pool, silent];
        timers.into_iter().flatten().min()
    }

    // ---- in ---------------------------------------------------------------------------------------------------------

    /// Seals what is due, and hands what is sealed to the outboxes.
    pub(super) fn collect(&mut self) {
        // Before the look at what is open: whoever opens a batch behind that look finds what is said here.
        self.say_how_early();
        let topic = self.parts.topic.clone();
        let now = topic.clock.now();
        self.look_at_held(now);
        let shortages = topic.pool.shortages();
        if shortages != self.shortages {
            for (partition, lane) in (0i32..).zip(&mut self.lanes) {
                lane.wanted |= !lane.has_unsent() && topic.is_open(partition);
            }
        }
        self.seal_for_memory(topic.pool.waiting() > 0, now);
        let could_go = |partition: i32| self.could_go(partition, now);
        let due_by = now + self.timer_late;
        if topic.next_due().is_some_and(|due| due <= due_by) {
            let node =
                |partition| self.parts.producer.leader(&topic.name, partition).map(|leader| leader.node);
            let early = |partition| self.early(partition);
            for partition in topic.seal_due(due_by, could_go, node, early) {
                if let Some(lane) =
                    usize::try_from(partition).ok().and_then(|partition| self.lanes.get_mut(partition))
                {
                    lane.held = true;
                }
            }
        }
        self.shortages = shortages;
        topic.take_queue(&mut self.inbox);
        while let Some(sealed) = self.inbox.pop_front() {
            self.own.sealed(&sealed);
            self.measure_sealed(&sealed);
            self.taken += u64::from(sealed.batch.count());
            if sealed.partition != UNASSIGNED {
                self.enqueue(sealed.partition, sealed.batch, sealed.opened);
            } else if topic.slots.count() == 0 {
                self.unassigned.memory.push_back(sealed);
            } else {
                self.regroup(sealed);
            }
        }
    }

    /// Seals for memory what can go at once: all of it while somebody waits for memory, and what was open when somebody was refused.
    fn seal_for_memory(&mut self, waited_for: bool, now: Time) {
        let wanted = (0i32..).zip(&self.lanes).filter(|(_, lane)| lane.wanted || waited_for);
        let going: Vec<i32> = wanted
            .map(|(partition, _)| partition)
            .filter(|partition| self.could_go(*partition, now))
            .collect();
        if going.is_empty() {
            return;
        }
        // Where the topic is collected as a whole, one of them seals for all.
        let whole = !self.parts.topic.settings.collect_by_partition;
        for (partition, lane) in (0i32..).zip(&mut self.lanes) {
            lane.wanted &= !whole && going.binary_search(&partition).is_err();
        }
        self.parts.topic.seal_for_memory(&going);
    }

    /// The number of partitions is known, or has grown.
    pub(super) fn learn_partitions(&mut self) {
        self.parts.info.mark_unchanged();
        // At the end what has no partition goes to the spool as it is.
        if !self.opened || self.end != End::NotYet {
            return;
        }
        let partitions = self.partitions_known();
        let known = self.parts.info.borrow().as_ref().map(|info| info.partitions);
        if let Some(known) = known {
            self.tell_fewer(known);
            self.keep_partitions(known);
        }
        if partitions == 0 {
            return;
        }
        self.add_lanes(partitions);
        if self.unassigned.disk.events > 0 || self.unassigned.is_busy() {
            // What is on disk goes first; it comes here again.
            return;
        }
        let count = usize::try_from(partitions).unwrap_or(0);
        let topic = self.parts.topic.clone();
        if count > usize::try_from(topic.slots.count()).unwrap_or(0) {
            // First the lanes, then the slots: whatever is sealed finds its outbox.
            topic.set_partitions(partitions);
        }
        for sealed in std::mem::take(&mut self.unassigned.memory) {
            self.regroup(sealed);
        }
        // What the lane held until now was queued by `set_partitions`; it belongs before what a flush waits for.
        self.collect();
        for barrier in self.barriers.iter_mut().filter(|barrier| barrier.unassigned) {
            barrier.unassigned = false;
            barrier.marks = self.lanes.iter().map(Lane::mark).collect();
        }
        // Said only now: who sees that the topic is ready finds its partitions.
        let (partitions, troubled) = (self.lanes.len() as i32, self.troubled);
        self.parts.manager.set_topic(&topic.name, |health| {
            // What was said of deliveries stands until they go on; what an earlier process knew is no news.
            if troubled == 0 && known.is_some() {
                *health = TopicHealth::Ready { partitions };
            }
        });
        self.metadata_changed();
    }

    /// A topic that was deleted and created again with fewer partitions: nobody leads the others.
    fn tell_fewer(&mut self, known: i32) {
        let had = self.lanes.len() as i32;
        if known >= had {
            self.told_fewer = None;
            return;
        }
        if self.told_fewer.replace(known) == Some(known) {
            return;
        }
        let message = format!(
            "the topic has {known} partitions now, and had {had}: it was deleted and created again with fewer; what is placed \
             in the others waits until there are as many again (kafka-topics --alter --partitions {had}). Start this process \
             again, and new events go to those that there are"
        );
        self.tell(NotificationKind::ProducerError, None, message);
    }

    /// How many partitions the topic has, as far as anybody ever knew; 0: nobody did.
    pub(super) fn partitions_known(&self) -> i32 {
        let told = self.parts.info.borrow().as_ref().map_or(0, |info| info.partitions);
        told.max(if self.opened { self.remembered_partitions } else { 0 })
    }

    /// An outbox for each partition there is, before anything can be given to it.
    pub(super) fn add_lanes(&mut self, partitions: i32) {
        for partition in self.lanes.len()..usize::try_from(partitions).unwrap_or(0) {
            let lane = self.lane(partition);
            self.lanes.push(lane);
        }
    }

    fn lane(&self, partition: usize) -> Lane {
        let topic = &self.parts.topic;
        let seed = self.parts.seed.wrapping_add(partition as u64);
        let share = kafka_batcher_core::Share::new(usize::MAX);
        let mut outbox = Outbox::new(self.parts.outbox, topic.pool.clone(), share, seed);
        if let Some(id) = &self.cluster {
            outbox.on_cluster(kafka_batcher_core::ClusterId(id.as_str().into()));
        }
        Lane {
            stage: Stage::default(),
            outbox,
            dirty: false,
            crowded: false,
            node: None,
            retry_at: None,
            troubled: false,
            spooling: false,
            needs_room: false,
            held: false,
            wanted: false,
            given_up: false,
        }
    }

    /// Places the events of a batch that was collected before the topic was known.
    fn regroup(&mut self, sealed: Sealed) {
        let topic = self.parts.topic.clone();
        let mut place = |record: &kafka_batcher_core::Record<'_>, kept: Option<&[u8]>| {
            let kept = kept.and_then(Placement::decode);
            let partitions = topic.slots.count();
            topic.place_late(record, kept, partitions).map_err(|error| error.to_string())
        };
        let spare = kafka_batcher_core::Share::new(usize::MAX);
        let mut chunk = |_, size| topic.pool.acquire_reserve(&spare, size);
        match sealed.batch.regroup(PLACEMENT_HEADER, &mut place, &mut chunk) {
            Ok(regrouped) => {
                for (partition, batch) in regrouped.assigned {
                    self.enqueue(partition, batch, sealed.opened);
                    self.parts.topic.notice(TopicNotice::Sealed(partition));
                }
                for (batch, reason) in regrouped.refused {
                    self.lane_refuses(batch, reason);
                }
            }
            Err(error) => self.give_up(&sealed.batch, FailureReason::Internal, error.to_string()),
        }
    }

    /// Leaders may have moved: every outbox is asked again.
    fn metadata_changed(&mut self) {
        self.early_changed = true;
        let topic = &self.parts.topic;
        for (partition, lane) in (0i32..).zip(&mut self.lanes) {
            lane.dirty = true;
            lane.node = self.parts.producer.leader(&topic.name, partition).map(|leader| leader.node);
            let led = lane.node.is_some();
            if let Some(slot) = topic.slots.get(partition)
                && slot.available.swap(led, std::sync::atomic::Ordering::Relaxed)
                && !led
            {
                topic.notice(TopicNotice::LeaderLost(partition));
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Flush(done) => {
                self.parts.topic.seal_all(kafka_batcher_core::FlushReason::Flush);
                self.collect();
                let marks = self.lanes.iter().map(Lane::mark).collect();
                let unassigned = !self.unassigned.memory.is_empty();
                self.barriers.push(Barrier { marks, unassigned, done });
            }
            Command::Report(done) => {
                self.collect();
                // What an earlier process left is not known before the storage has said it.
                if self.opened || !self.spool_troubled.is_empty() {
                    let _ = done.send(self.report());
                } else {
                    self.reports.push(done);
                }
            }
            Command::Publish(done) => {
                self.collect();
                self.publish();
                let _ = done.send(());
            }
            Command::Fail(reason) => self.failed = Some(reason),
            Command::Close { deadline, done } => {
                self.collect();
                self.lanes.iter_mut().for_each(|lane| {
                    lane.outbox.close();
                    lane.dirty = true;
                });
                match &mut self.closing {
                    None => {
                        self.closing = Some(Closing { deadline, spilling_until: None, done: vec![done] });
                    }
                    // Somebody else asks, too, and whoever is in more of a hurry has a reason.
                    Some(closing) => {
                        closing.deadline = closing.deadline.min(deadline);
                        closing.done.push(done);
                    }
                }
            }
        }
    }

    fn on_done(&mut self, done: Done) {
        let now = self.parts.topic.clock.now();
        match done {
            Done::Produced { node, large, sent, answers, attempt } => {
                if let Some(attempt) = &attempt {
                    self.measure_answers(node, &sent, &answers, attempt);
                }
                let idle = self.under_way.entry(node).or_default().answered(large, now);
                if idle && self.early_gap.is_some() {
                    self.early_changed = true;
                    self.parts.topic.look_again();
                }
                for lane in self.lanes.iter_mut().filter(|lane| lane.crowded) {
                    lane.dirty = true;
                }
                let mut answers = answers.into_iter();
                for (partition, ticket) in sent {
                    // A producer that answers for fewer batches than it was given leaves the others in doubt.
                    let answer = answers.next().unwrap_or_else(|| lost("the producer gave no answer"));
                    if let Some(error) = measuring::error_of(Some(&answer.result)) {
                        tracing::debug!(partition, node, error, "a batch was not acknowledged");
                    }
                    if let Some(lane) = self.lane_mut(partition) {
                        lane.outbox.on_produced(ticket, answer, now);
                        lane.dirty = true;
                    }
                    self.take_events(partition, now);
                }
            }
            Done::Compressed { partition, ordinal } => self.compressed(partition, ordinal),
            Done::Stored(stored) => self.on_stored(stored),
            Done::LaneRead(read) => self.lane_read(read),
            Done::Regrouped(written) => self.regrouped(written),
            Done::LaneExpired(gone) => self.lane_expired(gone),
            Done::LanePutAside(result) => self.letters_put_aside(result),
            Done::Described { partition, state, leader } => {
                if let Some(lane) = self.lane_mut(partition) {
                    lane.outbox.on_described_by(leader, state, now);
                    lane.dirty = true;
                }
                self.take_events(partition, now);
            }
            Done::Retention { partition, retention } => {
                if self.retention.is_none_or(|(said, _)| said + self.parts.outbox.backoff.max <= now) {
                    self.retention = Some((now, retention));
                }
                if let Some(lane) = self.lane_mut(partition) {
                    lane.outbox.on_retention(retention);
                    lane.dirty = true;
                }
            }
            Done::Identified { partition, answer } => {
                if let Some(lane) = self.lane_mut(partition) {
                    match answer {
                        Ok(identity) => lane.outbox.on_identity(identity),
                        Err(message) => lane.outbox.on_identity_failed(message, now),
                    }
                    lane.dirty = true;
                }
                self.take_events(partition, now);
            }
        }
    }

    fn lane_mut(&mut self, partition: i32) -> Option<&mut Lane> {
        self.touched = partition;
        self.lanes.get_mut(usize::try_from(partition).ok()?)
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    fn settle_barriers(&mut self) {
        let lanes = &self.lanes;
        let unassigned_settled = self.unassigned.is_safe();
        // They are of no partition, and were before any mark.
        let letters_settled = !self.unassigned.has_letters();
        let (done, waiting) = std::mem::take(&mut self.barriers).into_iter().partition(|barrier| {
            let settled = |(mark, lane): (&Mark, &Lane)| lane.settled_below(*mark);
            // What waits unassigned is on disk, or was given up by order, when it is in memory no more.
            (!barrier.unassigned || unassigned_settled)
                && letters_settled
                && barrier.marks.iter().zip(lanes).all(settled)
        });
        self.barriers = waiting;
        for barrier in Vec::<Barrier>::into_iter(done) {
            // Who asked may have gone.
            let _ = barrier.done.send(());
        }
    }

    /// The time to deliver is over. With a spool, what is left goes there first.
    pub(super) fn end(&mut self, now: Time) {
        self.stop_compressing();
        let Some(closing) = &mut self.closing else { return };
        match closing.spilling_until {
            // A spool that is not open yet may be in time.
            None if self.parts.storage.is_some() => {
                closing.spilling_until = Some(now + SPILLING);
                self.end = End::Spilling;
                for partition in 0..self.lanes.len() as i32 {
                    if let Some(lane) = self.lane_mut(partition) {
                        lane.outbox.spill();
                        lane.dirty = true;
                    }
                    self.take_events(partition, now);
                }
                self.drive_unassigned(now);
            }
            Some(until) if until > now => {}
            _ => self.abandon(now),
        }
    }

    /// Over, now.
    fn abandon(&mut self, now: Time) {
        self.stop_compressing();
        self.end = End::GivenUp;
        // Nobody knows whether what is being saved will lie on disk.
        let saving = self.unassigned.being_saved();
        for (n, sealed) in std::mem::take(&mut self.unassigned.memory).into_iter().enumerate() {
            let why = self.parts.manager.why_unknown(&self.parts.topic.name);
            let message = format!("the topic's partitions were never known: {why}");
            match n < saving {
                true => self.give_up_in_doubt(&sealed.batch, message),
                false => self.give_up(&sealed.batch, FailureReason::Shutdown, message),
            }
        }
        self.give_up_lane_letters();
        for partition in 0..self.lanes.len() as i32 {
            if let Some(lane) = self.lane_mut(partition) {
                lane.outbox.abandon();
            }
            self.take_events(partition, now);
        }
    }

    fn is_done(&self) -> bool {
        self.closing.is_some()
            && (self.opened || self.end != End::NotYet)
            && self.unassigned.is_safe()
            && (self.end != End::NotYet || self.unassigned.disk.events == 0)
            && (self.end == End::GivenUp || !self.unassigned.is_busy())
            && self.lanes.iter().all(|lane| lane.given_up || lane.stage.is_empty() && lane.outbox.is_empty())
    }

    fn finish(mut self) {
        self.finished = true;
        self.settle_barriers();
        self.leave_unassigned();
        self.publish();
        let report = self.report();
        self.parts.topic.keep_final_report(report.clone());
        for done in self.closing.take().map(|closing| closing.done).unwrap_or_default() {
            // Who asked may have gone.
            let _ = done.send(report.clone());
        }
    }

    /// What became of every event so far.
    pub(super) fn report(&self) -> Report {
        Report { latency: self.latency.clone(), ..self.counts() }
    }

    /// The same without the latencies.
    pub(super) fn counts(&self) -> Report {
        let topic = &self.parts.topic;
        let mut report = self.own.clone();
        // Counted where callers are answered, and once: they go on meanwhile. What was not taken from them yet waits; of what was
        // taken, whoever has it says what became of it.
        report.accepted = topic.accepted();
        report.in_memory += report.accepted.saturating_sub(self.taken) + self.unassigned.events_in_memory();
        report.in_memory += self.lanes.iter().map(|lane| lane.stage.events()).sum::<u64>();
        report.recovered += self.unassigned.recovered;
        report.spooled += self.unassigned.disk.events;
        self.lanes.iter().for_each(|lane| report.add_tally(&lane.outbox.tally()));
        // What is not kept any more is no dead letter.
        let dropped = self.dropped_letters.min(report.dead_lettered);
        report.dead_lettered -= dropped;
        report.lost += dropped;
        report.refused = topic.refused();
        report.replay_bytes = self.replay_bytes() as u64;
        report
    }
}

impl Drop for Dispatcher {
    /// Ended before its time, with the batcher or the runtime: what is left goes to the spool if there is one, and what it
    /// does not take is given up, so that nobody waits for ever for an outcome that nobody will bring.
    fn drop(&mut self) {
        self.parts.topic.close();
        self.stop_compressing();
        self.collect();
        self.spill_at_last();
        self.abandon(self.parts.topic.clock.now());
        self.leave_unassigned();
        self.tell_losses(true);
        self.publish();
        self.parts.topic.keep_final_report(self.report());
    }
}
