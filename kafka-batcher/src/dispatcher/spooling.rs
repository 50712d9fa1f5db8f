//! The storage's side of the dispatcher: performs what the outboxes ask of the disk, and tells them what came of it.
//!
//! Like the rest of the dispatcher it decides nothing about order or identity. What it does decide: how much of the
//! disk is held in memory at once for replay.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use kafka_batcher_core::{Action, ClusterId, ReadBack, StorageError, Time, TopicPartition};

use super::{Closing, Dispatcher, Done, End, Lane, Pace};
use crate::connection_manager::{ClusterHealth, SpoolHealth};
use crate::error_notifier::NotificationKind;
use crate::panics;
use crate::storage::{Recovered, TempStorage, UNASSIGNED};

/// Bytes that all partitions of a topic together may hold in memory for replay, besides the memory bound; a quarter of that
/// bound, if that is less. Beyond it one partition of each broker at a time reads, a batch, when it has nothing to send: replay
/// must not stop for want of the memory that replay would free, and what a silent broker's partitions hold is not freed.
const REPLAY_BYTES: usize = 16 << 20;

/// How long a call of the storage may take until it counts as not answered, at least: a disk is not held to a `spool_after` of
/// milliseconds. What does not need the call goes on then, and the operator is told.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Stands for a ticket where the unassigned lane has a call under way; it has one at a time.
pub(super) const LANE_CALL: u64 = 0;
/// The same for the opening of the storage.
const OPENING: u64 = 1;

/// How long the thread that drops a batcher waits for the storage.
const LAST_SPILL: Duration = Duration::from_secs(2);

/// How long it holds that a partition makes room for others, or that none can: as long as a storage is left alone that said
/// that it is full.
const ROOM_HOLDS: Duration = Duration::from_secs(1);

/// Wakes a thread that waits for a future.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A read that an outbox asked for and that waits for memory.
pub(super) struct PendingRead {
    partition: i32,
    ticket: u64,
    from: u64,
    max_bytes: usize,
}

/// What a call of the storage led to.
pub(super) enum Stored {
    Opened(Result<Recovered, StorageError>),
    Saved {
        partition: i32,
        ticket: u64,
        result: Result<Vec<u64>, StorageError>,
    },
    Renumbered {
        partition: i32,
        ticket: u64,
        result: Result<(), StorageError>,
    },
    Read {
        partition: i32,
        ticket: u64,
        result: Result<ReadBack, StorageError>,
    },
    Rejected {
        partition: i32,
        ticket: u64,
        result: Result<(), StorageError>,
    },
    Committed {
        partition: i32,
        ticket: Option<u64>,
        result: Result<(), StorageError>,
    },
    /// Nobody waits for it.
    Kept(Result<(), StorageError>),
}

/// Awaits user code that may panic. The call itself belongs inside of `call`, too (`async move { storage.read(..).await }`):
/// a storage may panic before it has given its future away, and that must not cost more than that call either.
pub(super) async fn guarded<T>(
    call: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| {
        Err(StorageError::Failed(format!("the storage panicked: {}", panics::message(panic.as_ref()))))
    })
}

impl Dispatcher {
    pub(super) fn storage(&self) -> Option<Arc<dyn TempStorage>> {
        self.parts.storage.clone()
    }

    pub(super) fn spawn_storing(&mut self, call: impl Future<Output = Done> + Send + 'static) {
        self.storing.push(Box::pin(call));
    }

    /// The batcher was dropped without shutdown: what is in memory goes to the spool, as far as that takes it at once.
    ///
    /// Drop cannot wait for a task, and the runtime may be going, too; so this thread waits for the storage, and for
    /// nothing else.
    pub(super) fn spill_at_last(&mut self) {
        // After a panic nobody knows what state it is in.
        let in_order = self.opened && !std::thread::panicking();
        if self.finished || !in_order || self.parts.storage.is_none() {
            return;
        }
        // Whatever they would answer comes too late, and their timers may have gone with the runtime.
        self.requests.clear();
        self.under_way.clear();
        let begun = Instant::now();
        let deadline = self.parts.topic.clock.now();
        let closing =
            self.closing.get_or_insert_with(|| Closing { deadline, spilling_until: None, done: Vec::new() });
        closing.deadline = deadline;
        self.end(deadline);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        while let Some(left) = LAST_SPILL.checked_sub(begun.elapsed()) {
            self.drive();
            if self.is_done() {
                break;
            }
            let stored = std::future::poll_fn(|context| self.storing.poll_next_unpin(context));
            // Outside of a task nobody renews tokio's budget.
            match std::pin::pin!(tokio::task::unconstrained(stored)).poll(&mut context) {
                Poll::Ready(Some(done)) => self.on_done(done),
                // The storage does not take it, and there is no time to try again.
                Poll::Ready(None) => break,
                Poll::Pending => std::thread::park_timeout(left),
            }
        }
        let events = self.parts.topic.unsettled();
        if events > 0 {
            tracing::error!(
                topic = &*self.parts.topic.name,
                events,
                "the batcher was dropped without shutdown, and the spool did not take what was in memory: it is lost"
            );
        }
    }

    /// A call is under way, and should be answered within `spool_after`.
    pub(super) fn expect_answer(&mut self, partition: i32, ticket: u64) {
        let after = self.parts.outbox.spool.map(|spool| spool.after).unwrap_or_default();
        let by = self.parts.topic.clock.now() + after.max(PATIENCE);
        self.calls.insert((partition, ticket), by);
    }

    /// Tells of calls that should have been answered by now.
    pub(super) fn tell_slow_calls(&mut self, now: Time) {
        if self.calls.values().all(|by| *by > now) {
            return;
        }
        let (late, rest) = std::mem::take(&mut self.calls).into_iter().partition(|(_, by)| *by <= now);
        self.calls = rest;
        for (partition, ticket) in BTreeMap::<(i32, u64), Time>::into_keys(late) {
            match (partition, ticket) {
                (UNASSIGNED, OPENING) => {
                    let message = format!(
                        "it is not open after {:?}, and nothing is delivered before it is",
                        self.parts.request_timeout
                    );
                    self.spool_troubled(UNASSIGNED, false, true, &message);
                    self.answer_reports();
                }
                (UNASSIGNED, _) => {
                    let message = "it does not answer, and events without a partition wait for it";
                    self.spool_troubled(UNASSIGNED, false, true, message);
                }
                (partition, ticket) => {
                    if let Some(lane) = self.lane_mut(partition) {
                        lane.outbox.on_storage_slow(ticket, now);
                        lane.dirty = true;
                    }
                    self.take_events(partition, now);
                }
            }
        }
    }

    /// Asks what an earlier process left.
    pub(super) fn open_storage(&mut self) {
        let Some(storage) = self.storage() else { return };
        // A recovery reads the whole of the disk: it has as long as a broker has for an answer.
        let by = self.parts.topic.clock.now() + self.parts.request_timeout;
        self.calls.insert((UNASSIGNED, OPENING), by);
        let topic = self.parts.topic.name.clone();
        self.spawn_storing(async move {
            Done::Stored(Stored::Opened(guarded(async { storage.open(&topic).await }).await))
        });
    }

    fn opened(&mut self, result: Result<Recovered, StorageError>) {
        self.calls.remove(&(UNASSIGNED, OPENING));
        self.on_opened(result);
        self.answer_reports();
    }

    /// What an earlier process left is known, or nobody knows when it will be.
    fn answer_reports(&mut self) {
        for asked in std::mem::take(&mut self.reports) {
            // Who asked may have gone.
            let _ = asked.send(self.report());
        }
    }

    fn on_opened(&mut self, result: Result<Recovered, StorageError>) {
        let recovered = match result {
            Ok(recovered) => recovered,
            Err(error) => {
                let health = SpoolHealth::Troubled { message: error.to_string() };
                self.parts.manager.set_spool(&self.parts.topic.name, health);
                if self.spool_troubled.insert(UNASSIGNED, false).is_none() {
                    let message =
                        format!("the spool cannot be opened, nothing is delivered before it can: {error}");
                    self.tell(NotificationKind::SpoolError, None, message);
                }
                let (timer, again) = (self.parts.topic.clock.now(), self.parts.outbox.backoff.initial);
                self.open_again_at = Some(timer + again.max(Duration::from_secs(1)));
                return;
            }
        };
        if self.spool_troubled.remove(&UNASSIGNED).is_some() {
            self.tell(NotificationKind::Recovered, None, "the spool is open".to_owned());
        }
        for line in &recovered.damage {
            self.tell(NotificationKind::SpoolError, None, format!("found in the spool: {line}"));
        }
        if recovered.missing > 0 {
            let events = recovered.missing;
            self.own.recovered += events;
            self.own.lost += events;
            let first = recovered.damage.first().map_or("", String::as_str);
            let more = match recovered.damage.len() {
                0 | 1 => String::new(),
                all => format!(", and {} more", all - 1),
            };
            let message =
                format!("{events} events that waited in the spool are lost, or fewer: {first}{more}");
            self.tell(NotificationKind::EventsLost, None, message);
        }
        let last = recovered.backlogs.iter().map(|(partition, _)| partition + 1).max().unwrap_or(0);
        let known = recovered.partitions.unwrap_or(0);
        self.remembered_partitions = known;
        self.add_lanes(known.max(last));
        for (partition, backlog) in recovered.backlogs {
            if partition == UNASSIGNED {
                self.unassigned.on_recovered(backlog);
            } else if let Some(lane) = self.lane_mut(partition) {
                lane.outbox.on_recovered(backlog);
                lane.dirty = true;
            }
        }
        self.opened = true;
        self.parts.manager.set_spool(&self.parts.topic.name, SpoolHealth::Works);
        if self.end == End::NotYet {
            return self.learn_partitions();
        }
        // It was too late for what was found; what is in memory is saved now.
        for lane in &mut self.lanes {
            lane.outbox.spill();
            lane.dirty = true;
        }
    }

    /// The cluster, once it is known: outboxes with a spool wait for it, since numbers mean something only there.
    pub(super) fn learn_cluster(&mut self) {
        if self.parts.storage.is_none() {
            return;
        }
        let health = self.parts.manager.health.borrow().cluster.clone();
        let ClusterHealth::Connected(info) = health else { return };
        self.cluster_known = true;
        if self.cluster != info.cluster_id {
            self.cluster.clone_from(&info.cluster_id);
            let Some(id) = info.cluster_id else { return };
            for lane in &mut self.lanes {
                lane.outbox.on_cluster(ClusterId(id.as_str().into()));
                lane.dirty = true;
            }
        }
    }

    /// Performs an action that concerns the storage.
    pub(super) fn store(&mut self, partition: i32, action: Action) {
        let Some(storage) = self.storage() else { return };
        let place = TopicPartition::new(&*self.parts.topic.name, partition);
        if let Action::Save { ticket, .. }
        | Action::Renumber { ticket, .. }
        | Action::Reject { ticket, .. }
        | Action::Drop { ticket, .. }
        | Action::Commit { ticket: Some(ticket), .. } = &action
        {
            self.expect_answer(partition, *ticket);
        }
        match action {
            Action::Save { ticket, batches } => self.spawn_storing(async move {
                let result = guarded(async { storage.save_batch(&place, batches).await }).await;
                Done::Stored(Stored::Saved { partition, ticket, result })
            }),
            Action::Renumber { ticket, numbers } => self.spawn_storing(async move {
                let result = guarded(async { storage.renumber(&place, numbers).await }).await;
                Done::Stored(Stored::Renumbered { partition, ticket, result })
            }),
            Action::Read { ticket, from, max_bytes } => {
                self.reads.push_back(PendingRead { partition, ticket, from, max_bytes });
            }
            Action::Reject { ticket, letters } => self.spawn_storing(async move {
                let result = guarded(async { storage.reject(&place, letters).await }).await;
                Done::Stored(Stored::Rejected { partition, ticket, result })
            }),
            Action::Drop { ticket, from, through } => self.spawn_storing(async move {
                let result = guarded(async { storage.drop_events(&place, from, through).await }).await;
                Done::Stored(Stored::Rejected { partition, ticket, result })
            }),
            Action::Commit { through, ticket } => self.spawn_storing(async move {
                let result = guarded(async { storage.commit(&place, through, ticket.is_some()).await }).await;
                Done::Stored(Stored::Committed { partition, ticket, result })
            }),
            Action::Produce { .. }
            | Action::Describe { .. }
            | Action::InitProducerId { .. }
            | Action::AskRetention
            | Action::Wait { .. } => {}
        }
    }

    /// The disk is full and this partition has nothing to drop: the one that has most on it makes room. None goes below what
    /// each would have if all had the same: a quiet partition keeps its newest events beside a loud one.
    pub(super) fn make_room(&mut self, partition: i32, bytes: u64, now: Time) {
        // A look at every partition for each that asks would be dear where there are many: one look serves all of them, until
        // there is room or a second is over.
        let looked = self.looked_for_room.filter(|(until, _)| now < *until);
        let makes = match looked {
            Some((_, makes)) => makes,
            None => self.look_for_room(partition, bytes, now),
        };
        self.looked_for_room = looked.or(Some((now + ROOM_HOLDS, makes)));
        match self.lane_mut(partition) {
            Some(lane) if makes => lane.needs_room = true,
            Some(lane) => lane.outbox.no_room_anywhere(),
            None => {}
        }
    }

    /// True if another partition makes room.
    fn look_for_room(&mut self, partition: i32, bytes: u64, now: Time) -> bool {
        let spooled: Vec<u64> = self.lanes.iter().map(|lane| lane.outbox.tally().spooled).collect();
        let share = spooled.iter().sum::<u64>() / spooled.len().max(1) as u64;
        let others = (0i32..).zip(spooled).filter(|(other, spooled)| *other != partition && *spooled > share);
        let mut others: Vec<(i32, u64)> = others.collect();
        others.sort_unstable_by_key(|(_, spooled)| std::cmp::Reverse(*spooled));
        others.into_iter().any(|(other, _)| {
            let Some(lane) = self.lane_mut(other) else { return false };
            let makes = lane.outbox.make_room(bytes, share, now);
            lane.dirty |= makes;
            makes
        })
    }

    /// Bytes of what was read back and is not delivered yet.
    pub(super) fn replay_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.outbox.replay_bytes()).sum()
    }

    /// Starts the reads that there is memory for, and whose time has come. With a bound on the rate they go one by one: what a read
    /// brings is known when it is there.
    pub(super) fn start_reads(&mut self, now: Time) {
        if self.reads.is_empty() {
            return;
        }
        let stretch = self.pace.as_ref().map(Pace::stretch);
        if self.pace.as_ref().is_some_and(|pace| pace.next() > now || !self.reading.is_empty()) {
            return;
        }
        let Some(storage) = self.storage() else { return };
        let bound = REPLAY_BYTES.min(self.parts.topic.pool.limit() / 4);
        // What a read gives is known when it is there: until then it counts as what it may be.
        let batch = self.parts.topic.settings.max_batch_bytesize;
        let mut held = self.replay_bytes() + self.reading.values().sum::<usize>();
        let idle = |lanes: &[Lane], partition: i32| {
            let lane = usize::try_from(partition).ok().and_then(|p| lanes.get(p));
            lane.is_none_or(|lane| lane.outbox.replay_bytes() == 0)
        };
        self.reads_beyond.retain(|(partition, ticket)| {
            self.reading.contains_key(&(*partition, *ticket)) || !idle(&self.lanes, *partition)
        });
        let mut waiting = std::mem::take(&mut self.reads);
        while let Some(read) = waiting.pop_front() {
            let PendingRead { partition, ticket, from, mut max_bytes } = read;
            max_bytes = max_bytes.min(stretch.unwrap_or(usize::MAX));
            if held + batch <= bound {
                max_bytes = max_bytes.min(bound - held);
            } else {
                let (producer, topic) = (&self.parts.producer, &self.parts.topic.name);
                let node = |partition| producer.leader(topic, partition).map(|leader| leader.node);
                // By who leads now: a partition may have moved away from the broker that it waits for.
                let taken = self.reads_beyond.iter().any(|(other, _)| node(*other) == node(partition));
                if taken || !idle(&self.lanes, partition) {
                    self.reads.push_back(read);
                    continue;
                }
                self.reads_beyond.push((partition, ticket));
                max_bytes = 1;
            }
            held += max_bytes.max(batch);
            self.reading.insert((partition, ticket), max_bytes.max(batch));
            self.expect_answer(partition, ticket);
            let place = TopicPartition::new(&*self.parts.topic.name, partition);
            let storage = storage.clone();
            self.spawn_storing(async move {
                let result = guarded(async { storage.read(&place, from, max_bytes).await }).await;
                Done::Stored(Stored::Read { partition, ticket, result })
            });
            if stretch.is_some() {
                self.reads.append(&mut waiting);
            }
        }
    }

    pub(super) fn on_stored(&mut self, stored: Stored) {
        let now = self.parts.topic.clock.now();
        let partition = match stored {
            Stored::Opened(result) => return self.opened(result),
            Stored::Kept(result) => {
                if let Err(error) = result {
                    tracing::warn!(topic = &*self.parts.topic.name, %error, "the spool did not keep a hint");
                }
                return;
            }
            Stored::Saved { partition: UNASSIGNED, ticket, result } => {
                return self.unassigned_saved(ticket, result, now);
            }
            Stored::Saved { partition, .. }
            | Stored::Renumbered { partition, .. }
            | Stored::Read { partition, .. }
            | Stored::Rejected { partition, .. }
            | Stored::Committed { partition, .. } => partition,
        };
        if let Stored::Saved { ticket, .. }
        | Stored::Renumbered { ticket, .. }
        | Stored::Read { ticket, .. }
        | Stored::Rejected { ticket, .. }
        | Stored::Committed { ticket: Some(ticket), .. } = &stored
        {
            self.calls.remove(&(partition, *ticket));
        }
        if let Stored::Read { ticket, result, .. } = &stored {
            self.reading.remove(&(partition, *ticket));
            if let (Some(pace), Ok(read)) = (&mut self.pace, result) {
                pace.read(read.batches.iter().map(|stored| stored.batch.encoded_len()).sum(), now);
            }
        }
        if let Stored::Rejected { result: Ok(()), .. } = stored {
            self.count_dropped_letters();
            self.looked_for_room = None;
            for lane in self.lanes.iter_mut().filter(|lane| lane.needs_room) {
                lane.needs_room = false;
                lane.outbox.on_room_made();
                lane.dirty = true;
            }
        }
        let Some(lane) = self.lane_mut(partition) else { return };
        match stored {
            Stored::Saved { ticket, result, .. } => lane.outbox.on_saved(ticket, result, now),
            Stored::Renumbered { ticket, result, .. } => lane.outbox.on_renumbered(ticket, result, now),
            Stored::Read { ticket, result, .. } => lane.outbox.on_read(ticket, result, now),
            Stored::Rejected { ticket, result, .. } => lane.outbox.on_rejected(ticket, result, now),
            Stored::Committed { ticket: Some(ticket), result, .. } => {
                lane.outbox.on_committed(ticket, result, now);
            }
            Stored::Committed { .. } | Stored::Opened(_) | Stored::Kept(_) => return,
        }
        lane.dirty = true;
        self.take_events(partition, now);
    }

    /// Keeps in mind how many partitions there are: at a start without Kafka, events need not wait unassigned.
    pub(super) fn keep_partitions(&mut self, partitions: i32) {
        let Some(storage) = self.storage() else { return };
        if partitions == self.remembered_partitions {
            return;
        }
        self.remembered_partitions = partitions;
        let topic = self.parts.topic.name.clone();
        self.spawn_storing(async move {
            Done::Stored(Stored::Kept(
                guarded(async { storage.keep_partitions(&topic, partitions).await }).await,
            ))
        });
    }
}
