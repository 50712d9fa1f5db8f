//! What a topic's collectors and its dispatcher share: slots to append to, the queue of sealed batches, the wake-up.
//!
//! The way in is [`Topic::choose`], which asks partitioner and flusher (user code, outside any lock, and once for each
//! event, however often memory must be brought), then [`Topic::push`]: lock that partition's slot, push,
//! queue what was sealed *while still holding the lock* (or two callers could queue one partition's batches in the
//! wrong order), unlock, wake the dispatcher if there is something new for it. It knows no producer and no disk.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use kafka_batcher_core::flusher::BatchFlusher;
use kafka_batcher_core::partitioner::{
    Assigner, KeyHash, PartitionError, PartitionInput, Placement, PlacementSource, TopicNotice, TopicView,
};
use kafka_batcher_core::{
    Accumulator, AddedHeaders, BufferPool, Chunk, Codec, Compression, FillEstimate, FlushReason, Header,
    Interceptor, Offer, PushError, Ready, Record, Sealed, Share, Time,
};
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::config::CollectorSettings;
use crate::error::AddError;
use crate::metrics::Report;
use crate::panics;
use crate::receipt::Receipt;
use crate::slots::{Slot, Slots};
use crate::telemetry::TopicTelemetry;

/// With a longer `max_wait_time` than this the next batch of a stream wakes its dispatcher when it is opened: that is seldom enough, and a
/// process with nothing to do comes to rest sooner.
const STREAM: Duration = Duration::from_secs(1);

/// The header that keeps an event's placement while its topic is unknown. Stripped when it is placed.
pub(crate) const PLACEMENT_HEADER: &str = "__kafka_batcher.placement";

pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) settings: CollectorSettings,
    pub(crate) compression: Compression,
    /// Where there is a codec: what was learned of how much batches shrink. Only the dispatcher tells it.
    pub(crate) fill: Option<Arc<FillEstimate>>,
    pub(crate) pool: BufferPool,
    pub(crate) clock: Clock,
    pub(crate) assigner: Assigner,
    /// The partitioner is the user's: it may panic, and is not told of seals under a lock.
    user_partitioner: bool,
    /// From what placements come. Asked once, since it is needed under a lock.
    source: PlacementSource,
    flusher: Option<Arc<dyn BatchFlusher>>,
    interceptor: Option<Arc<dyn Interceptor>>,
    /// What places events with a key, where no code of the user's is asked about any.
    short: Option<KeyHash>,
    pub(crate) slots: Slots,
    /// Where events wait while nobody knows how many partitions the topic has. Its lock also guards the change.
    lane: Mutex<Accumulator>,
    /// Of the memory, one for the lanes of all topics: those that are not there leave their part to those that are.
    lane_share: Share,
    /// Sealed batches on their way to the dispatcher, in the order of sealing. Locked after a slot, never before.
    queue: Mutex<VecDeque<Sealed>>,
    pub(crate) wake: Notify,
    /// When the dispatcher will look by itself, in microseconds of the clock.
    armed: AtomicU64,
    closed: AtomicBool,
    /// Why it was closed, where nobody asked for that.
    failed: OnceLock<String>,
    /// The storage is full, and callers are not to wait for memory then.
    refusing: watch::Sender<bool>,
    /// The metrics read it, where there are any.
    pub(crate) refused: Arc<AtomicU64>,
    /// What is recorded of it, if anything is.
    pub(crate) telemetry: Option<Arc<TopicTelemetry>>,
    /// Events whose outcome is final; only the dispatcher writes.
    settled_events: AtomicU64,
    /// The dispatcher's last word.
    final_report: Mutex<Report>,
}

/// An event that was not taken, for want of memory or for good.
pub(crate) enum NotAdded {
    /// Bring a chunk of this size out of the pool for this share, and call again.
    NeedsChunk {
        size: usize,
        least: usize,
        share: Share,
    },
    Refused(AddError),
}

impl From<AddError> for NotAdded {
    fn from(error: AddError) -> Self {
        NotAdded::Refused(error)
    }
}

/// What user code decided about an event.
pub(crate) struct Chosen<'a> {
    target: Target<'a>,
    flush_after: bool,
    /// Boxed: it is rare, and this is moved about for every event.
    headers: Option<Box<AddedHeaders>>,
}

/// Where an event goes.
#[derive(Clone, Copy)]
enum Target<'a> {
    Slot(&'a Slot, i32),
    /// The topic is not known yet.
    Lane(Placement),
}

impl Topic {
    #[allow(clippy::too_many_arguments)] // one caller, and no two of them belong together
    pub(crate) fn new(
        name: Arc<str>,
        settings: CollectorSettings,
        pool: BufferPool,
        partition_cap: usize,
        lane_share: Share,
        clock: Clock,
        assigner: Assigner,
        user_partitioner: bool,
        flusher: Option<Arc<dyn BatchFlusher>>,
        interceptor: Option<Arc<dyn Interceptor>>,
    ) -> Self {
        // Checked before (`CollectorSettings::check`).
        let compression = settings.codec().unwrap_or(Compression::NONE);
        // One batch fills while another goes out.
        let fill = (compression.codec() != Codec::None)
            .then(|| Arc::new(FillEstimate::new(settings.max_batch_bytesize, partition_cap / 2)));
        let by_partition = settings.collect_by_partition;
        let asks_nobody = !user_partitioner && flusher.is_none() && interceptor.is_none();
        Topic {
            short: settings.partition_strategy.key_hash().filter(|_| asks_nobody),
            slots: Slots::new(settings.accumulator(), fill.clone(), by_partition, partition_cap),
            compression,
            fill,
            lane: Mutex::new(Accumulator::new(settings.accumulator(), UNASSIGNED)),
            lane_share,
            name,
            settings,
            pool,
            clock,
            // What is kept with each event is right in any case.
            source: contained("partitioner", || assigner.source()).unwrap_or(PlacementSource::WholeEvent),
            assigner,
            user_partitioner,
            flusher,
            interceptor,
            queue: Mutex::new(VecDeque::new()),
            wake: Notify::new(),
            armed: AtomicU64::new(u64::MAX),
            closed: AtomicBool::new(false),
            failed: OnceLock::new(),
            refusing: watch::Sender::new(false),
            refused: Arc::default(),
            telemetry: None,
            settled_events: AtomicU64::new(0),
            final_report: Mutex::new(Report::default()),
        }
    }

    // ---- the callers' side ------------------------------------------------------------------------------------------

    /// The short way in, for ordinary events (with a key, without headers or a time or a place of their own) of a topic that is known
    /// and that no code of the user's has a word in, while their batch has room. Says whether the event was taken; if not, nothing has
    /// happened, and [`Topic::choose`] and [`Topic::push`] take it or say why not. They would do the same, in twice the instructions.
    #[inline]
    pub(crate) fn take_short(&self, record: &Record<'_>) -> bool {
        self.take_short_then(record, |_, _| true).unwrap_or(false)
    }

    /// The same, with a receipt.
    #[inline]
    pub(crate) fn take_short_with_receipt(&self, record: &Record<'_>) -> Option<Receipt> {
        let (completion, index) =
            self.take_short_then(record, |accumulator, lane| accumulator.receipt(lane))??;
        Some(Receipt::new(completion, index, self.settings.required_acks != 0))
    }

    #[inline(always)]
    fn take_short_then<T>(
        &self,
        record: &Record<'_>,
        then: impl FnOnce(&mut Accumulator, usize) -> T,
    ) -> Option<T> {
        let (hash, key) = (self.short?, record.key?);
        if record.partition.is_some() || !Accumulator::is_short(record) {
            return None;
        }
        let count = self.slots.count().cast_unsigned();
        // What becomes of an empty key is the strategy's affair.
        if key.is_empty() || count == 0 {
            return None;
        }
        // Below the count, and no topic has more than i32::MAX partitions.
        let partition = (hash.hash(key) % count) as i32;
        let (lock, lane) = self.slots.accumulator(self.slots.get(partition)?, partition);
        let timestamp = self.clock.unix_ms();
        let mut accumulator = lock.lock().unwrap_or_else(PoisonError::into_inner);
        // As in `push_locked`.
        let taken = !self.closed.load(Ordering::Relaxed) && accumulator.push_short(lane, record, timestamp);
        taken.then(|| then(&mut accumulator, lane))
    }

    /// Asks the user's code where an event goes and whether it flushes.
    #[inline]
    pub(crate) fn choose(&self, record: &Record<'_>) -> Result<Chosen<'_>, AddError> {
        let input = self.input(record);
        let placement = match record.partition {
            Some(partition) => Placement::Explicit(partition),
            None => self.asked(|| self.assigner.placement(&input))?,
        };
        self.chosen(record, &input, placement, false)
    }

    /// As [`Topic::choose`], with the caller's own word on it (typed collectors): a placement wins over the partitioner's;
    /// either flusher may flush.
    pub(crate) fn choose_typed(
        &self,
        record: &Record<'_>,
        placement: Option<Placement>,
        flush_after: bool,
    ) -> Result<Chosen<'_>, AddError> {
        let input = self.input(record);
        let placement = match placement {
            Some(placement) => placement,
            None => self.asked(|| self.assigner.placement(&input))?,
        };
        self.chosen(record, &input, placement, flush_after)
    }

    #[inline]
    fn chosen(
        &self,
        record: &Record<'_>,
        input: &PartitionInput<'_>,
        placement: Placement,
        flush_after: bool,
    ) -> Result<Chosen<'_>, AddError> {
        let target = self.asked(|| self.place(placement, input))?;
        let flush_after = match &self.flusher {
            Some(flusher) if !flush_after => self.ask_flusher(flusher.as_ref(), record)?,
            _ => flush_after,
        };
        let headers = match &self.interceptor {
            Some(interceptor) => self.ask_interceptor(interceptor.as_ref(), record)?,
            None => None,
        };
        Ok(Chosen { target, flush_after, headers })
    }

    /// Takes one event, or says what is missing. `spare` is the chunk brought along.
    #[inline]
    pub(crate) fn push(
        &self,
        chosen: &Chosen<'_>,
        record: &Record<'_>,
        spare: &mut Option<Chunk>,
        want_receipt: bool,
    ) -> Result<Option<Receipt>, NotAdded> {
        let Chosen { target, flush_after, .. } = *chosen;
        match &chosen.headers {
            None => self.push_to(target, flush_after, record, spare, want_receipt),
            Some(added) => {
                let headers = added.behind(record.headers);
                let record = Record { headers: &headers, ..*record };
                self.push_to(target, flush_after, &record, spare, want_receipt)
            }
        }
    }

    #[inline]
    fn push_to(
        &self,
        target: Target<'_>,
        flush_after: bool,
        record: &Record<'_>,
        spare: &mut Option<Chunk>,
        want_receipt: bool,
    ) -> Result<Option<Receipt>, NotAdded> {
        let timestamp = record.timestamp.unwrap_or_else(|| self.clock.unix_ms());
        match target {
            Target::Slot(slot, partition) => {
                let (lock, lane) = self.slots.accumulator(slot, partition);
                let offer = Offer { lane, record, timestamp, flush_after, want_receipt };
                let accumulator = lock.lock().unwrap_or_else(PoisonError::into_inner);
                self.push_locked(accumulator, &offer, Some(slot), spare)
            }
            Target::Lane(placement) => {
                self.push_lane(record, timestamp, placement, flush_after, spare, want_receipt)
            }
        }
    }

    #[inline]
    fn push_locked(
        &self,
        mut accumulator: MutexGuard<'_, Accumulator>,
        offer: &Offer<'_>,
        slot: Option<&Slot>,
        spare: &mut Option<Chunk>,
    ) -> Result<Option<Receipt>, NotAdded> {
        // Under the lock, so that nothing can be accepted after the dispatcher has sealed for the last time.
        if self.closed.load(Ordering::Relaxed) {
            drop(accumulator);
            return Err(self.refuse(self.why_closed()).into());
        }
        match accumulator.push(*offer, spare, || self.clock.now()) {
            Ok(pushed) => {
                if pushed.ready != Ready::No {
                    self.has_news(accumulator, pushed.ready, slot);
                }
                let acknowledged = self.settings.required_acks != 0;
                Ok(pushed.receipt.map(|(completion, index)| Receipt::new(completion, index, acknowledged)))
            }
            Err(PushError::NeedsChunk { size, least }) => {
                let share = slot.map_or(&self.lane_share, |slot| &slot.share);
                Err(NotAdded::NeedsChunk { size, least, share: share.clone() })
            }
            Err(PushError::Record(error)) => {
                drop(accumulator);
                Err(self.refuse(AddError::Record(error)).into())
            }
            // A lane is added before its partition can be chosen.
            Err(error) => {
                drop(accumulator);
                Err(self.refuse(AddError::Encode(error.to_string().into())).into())
            }
        }
    }

    /// Something was sealed, or a deadline came earlier.
    #[inline(never)]
    fn has_news(&self, mut accumulator: MutexGuard<'_, Accumulator>, ready: Ready, slot: Option<&Slot>) {
        let deadline = accumulator.poll_timeout();
        let notices = if ready == Ready::Sealed { self.take_sealed(&mut accumulator) } else { Vec::new() };
        drop(accumulator);
        self.observe(&notices);
        if ready == Ready::Sealed {
            self.wake.notify_one();
        } else if let Some(deadline) = deadline {
            let early = slot.map_or(u64::MAX, |slot| slot.early.load(Ordering::Relaxed));
            self.arm(deadline.min(Time::from_micros(early)));
        }
    }

    fn arm(&self, deadline: Time) {
        let at = deadline.as_micros();
        if at < self.armed.load(Ordering::Acquire) && at < self.armed.fetch_min(at, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Moves what an accumulator sealed to the queue; its lock is held.
    fn take_sealed(&self, accumulator: &mut Accumulator) -> Vec<i32> {
        let mut partitions = Vec::new();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sealed) = accumulator.poll_sealed() {
            if sealed.partition != UNASSIGNED {
                partitions.push(sealed.partition);
            }
            queue.push_back(sealed);
        }
        partitions
    }

    /// Tells the partitioner; it may be the user's, so no lock is held.
    fn observe(&self, partitions: &[i32]) {
        if partitions.is_empty() {
            return;
        }
        if self.settings.collect_by_partition {
            partitions.iter().for_each(|partition| self.notice(TopicNotice::Sealed(*partition)));
        } else {
            self.notice(TopicNotice::TopicSealed);
        }
    }

    /// Tells the partitioner what happened to the topic. No lock may be held.
    pub(crate) fn notice(&self, notice: TopicNotice) {
        if !self.user_partitioner {
            self.assigner.observe(notice);
        } else if let Err(panicked) = contained("partitioner", || self.assigner.observe(notice)) {
            tracing::warn!(topic = &*self.name, ?notice, "told of a change: {panicked}");
        }
    }

    // ---- user code --------------------------------------------------------------------------------------------------

    fn input<'a>(&'a self, record: &Record<'a>) -> PartitionInput<'a> {
        PartitionInput::new(&self.name, record.key, record.value)
    }

    /// Asks the partitioner something about one event; its failure is that event's.
    #[inline]
    fn asked<T>(&self, ask: impl FnOnce() -> Result<T, PartitionError>) -> Result<T, AddError> {
        let answer = if self.user_partitioner {
            contained("partitioner", ask).map_err(|panicked| self.refuse(panicked))?
        } else {
            ask()
        };
        answer.map_err(|error| self.refuse(AddError::Partition(error)))
    }

    #[inline]
    fn place(&self, placement: Placement, input: &PartitionInput<'_>) -> Result<Target<'_>, PartitionError> {
        if self.slots.count() == 0 {
            return Ok(Target::Lane(placement));
        }
        let partition = self.assigner.place(placement, input, self)?;
        match self.slots.get(partition) {
            Some(slot) => Ok(Target::Slot(slot, partition)),
            None => Err(PartitionError::OutOfRange {
                topic: (*self.name).into(),
                partition,
                count: self.partition_count(),
            }),
        }
    }

    fn ask_flusher(&self, flusher: &dyn BatchFlusher, record: &Record<'_>) -> Result<bool, AddError> {
        match contained("flusher", || flusher.should_flush(record.key, record.value)) {
            Ok(Ok(flush)) => Ok(flush),
            Ok(Err(error)) => Err(self.refuse(AddError::Flusher(error))),
            Err(panicked) => Err(self.refuse(panicked)),
        }
    }

    fn ask_interceptor(
        &self,
        interceptor: &dyn Interceptor,
        record: &Record<'_>,
    ) -> Result<Option<Box<AddedHeaders>>, AddError> {
        let mut headers = AddedHeaders::default();
        contained("interceptor", || interceptor.on_event(record, &mut headers))
            .map_err(|panicked| self.refuse(panicked))?;
        Ok((!headers.is_empty()).then(|| Box::new(headers)))
    }

    /// Counts a refusal.
    pub(crate) fn refuse(&self, error: AddError) -> AddError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        error
    }

    /// Whether callers that find no memory are refused at once.
    pub(crate) fn refuse_when_full(&self, refuse: bool) {
        self.refusing.send_if_modified(|now| std::mem::replace(now, refuse) != refuse);
    }

    /// Resolves when they are.
    pub(crate) async fn refuses(&self) {
        // It lives as long as the topic.
        let _ = self.refusing.subscribe().wait_for(|refusing| *refusing).await;
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    // ---- the unassigned lane ----------------------------------------------------------------------------------------

    #[inline(never)]
    fn push_lane(
        &self,
        record: &Record<'_>,
        timestamp: i64,
        placement: Placement,
        flush_after: bool,
        spare: &mut Option<Chunk>,
        want_receipt: bool,
    ) -> Result<Option<Receipt>, NotAdded> {
        // Where the record's own key says the same later, nothing needs to be kept. It does not if the record itself or
        // a typed collector's rule said where to. Nor if one of the record's own headers would be taken for what was kept.
        let derived = record.partition.is_none()
            && self.source == PlacementSource::RecordKey
            && record.headers.first().is_none_or(|header| header.name != PLACEMENT_HEADER)
            && self.asked(|| self.assigner.placement(&self.input(record)))? == placement;
        let lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        // The partitions may have become known between the choice of the lane and its lock.
        if self.slots.count() != 0 {
            drop(lane);
            let input = self.input(record);
            let target = self.asked(|| self.place(placement, &input))?;
            return self.push_to(target, flush_after, record, spare, want_receipt);
        }
        let kept = placement.encode();
        let mut headers = Vec::new();
        if !derived {
            headers.push(Header { name: PLACEMENT_HEADER, value: Some(&kept) });
            headers.extend_from_slice(record.headers);
        }
        let record = if derived { *record } else { Record { headers: &headers, ..*record } };
        let offer = Offer { lane: 0, record: &record, timestamp, flush_after, want_receipt };
        self.push_locked(lane, &offer, None, spare)
    }

    /// The topic turns out to have `count` partitions (or more than before). What waits in the lane is sealed and
    /// queued before anything can go to a slot, so the dispatcher gets it first.
    pub(crate) fn set_partitions(&self, count: i32) {
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.seal(FlushReason::BrokerReady, self.clock.now());
        self.take_sealed(&mut lane);
        self.slots.grow(count);
        drop(lane);
        self.wake.notify_one();
    }

    // ---- the dispatcher's side --------------------------------------------------------------------------------------

    /// When [`Topic::seal_due`] is to be called.
    pub(crate) fn next_due(&self) -> Option<Time> {
        match self.armed.load(Ordering::Acquire) {
            u64::MAX => None,
            at => Some(Time::from_micros(at)),
        }
    }

    /// Events that wait open in the lane.
    pub(crate) fn lane_events(&self) -> u64 {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner).open_events()
    }

    /// Seals what is open in the lane: it has nowhere to go but to disk.
    pub(crate) fn seal_lane(&self) {
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.seal(FlushReason::Wait, self.clock.now());
        self.take_sealed(&mut lane);
    }

    /// Seals everything that is open, lane included.
    pub(crate) fn seal_all(&self, reason: FlushReason) {
        let now = self.clock.now();
        self.each_accumulator(|accumulator| accumulator.seal(reason, now));
    }

    /// Somebody waits for memory: seals the open batches of these partitions, which would be sent at once. One that waits for others, or
    /// for its broker, frees nothing by being sealed, and had better go on filling.
    pub(crate) fn seal_for_memory(&self, partitions: &[i32]) {
        let now = self.clock.now();
        let mut told = Vec::new();
        for &partition in partitions {
            let Some(slot) = self.slots.get(partition) else { continue };
            let (lock, _) = self.slots.accumulator(slot, partition);
            let mut accumulator = lock.lock().unwrap_or_else(PoisonError::into_inner);
            accumulator.seal(FlushReason::Memory, now);
            told.extend(self.take_sealed(&mut accumulator));
        }
        self.observe(&told);
    }

    /// Whether anything is open in this partition's batch.
    pub(crate) fn is_open(&self, partition: i32) -> bool {
        self.slots.get(partition).is_some_and(|slot| {
            let (lock, _) = self.slots.accumulator(slot, partition);
            lock.lock().unwrap_or_else(PoisonError::into_inner).open_events() > 0
        })
    }

    /// No event is accepted after this; what is open is sealed.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.seal_all(FlushReason::Shutdown);
    }

    /// The same, because the collector cannot go on.
    pub(crate) fn fail(&self, reason: &str) {
        self.failed.get_or_init(|| reason.to_owned());
        self.close();
    }

    #[cold]
    fn why_closed(&self) -> AddError {
        match self.failed.get() {
            Some(reason) => AddError::Failed { reason: reason.clone() },
            None => AddError::Closed,
        }
    }

    /// Seals what is due at `by` and could go, and arms the time to look again ([`Topic::next_due`]). Returns the
    /// partitions that are due and stay open because `could_go` says that a batch of theirs would only wait, behind
    /// others or for its broker: it had better go on filling. Whoever knows that they can go again calls [`Topic::look_again`].
    ///
    /// With the due ones go the open batches for the same nodes: a request to that broker is on its way anyhow. What
    /// waits in the unassigned lane has nowhere to go, and is left alone. A batch of a partition for which `early` gives a time is
    /// due then, if that is before its own time.
    ///
    /// After something was sealed more is likely to come, and nothing that is opened from now on is due before `max_wait_time` is over, unless
    /// `early` or `min_delay` says so. So it is armed for then although nothing is open: whoever opens the next batch, and is not earlier, need
    /// not wake anybody for it. The price is one look in vain when nothing came.
    pub(crate) fn seal_due(
        &self,
        by: Time,
        could_go: impl Fn(i32) -> bool,
        node: impl Fn(i32) -> Option<i32>,
        early: impl Fn(i32) -> Option<Time>,
    ) -> Vec<i32> {
        // Before the scan: a push that comes after it sees "never" and wakes us.
        self.armed.store(u64::MAX, Ordering::SeqCst);
        let (mut held, mut open, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        let mut sealed = false;
        let mut next: Option<Time> = None;
        let mut told = Vec::new();
        // Where the topic is collected as a whole, one partition that can go is reason enough: all are sealed together.
        let whole = !self.settings.collect_by_partition;
        let partitions = if whole { self.slots.count().min(1) } else { self.slots.count() };
        let may_go =
            |partition| if whole { (0..self.slots.count()).any(&could_go) } else { could_go(partition) };
        for partition in 0..partitions {
            let Some(slot) = self.slots.get(partition) else { continue };
            // It asks the producer, which may be the user's: not under the lock.
            let early = early(partition);
            let (lock, _) = self.slots.accumulator(slot, partition);
            let mut accumulator = lock.lock().unwrap_or_else(PoisonError::into_inner);
            let deadline = accumulator.poll_timeout();
            match deadline.map(|at| early.map_or(at, |early| early.min(at))) {
                None => {}
                Some(at) if at > by => open.push((partition, at)),
                Some(_) if may_go(partition) => {
                    sealed = true;
                    match deadline.is_some_and(|at| at > by) {
                        true => accumulator.seal(FlushReason::BrokerReady, by),
                        false => accumulator.handle_timeout(by),
                    }
                    told.extend(self.take_sealed(&mut accumulator));
                    next = [next, accumulator.poll_timeout()].into_iter().flatten().min();
                    drop(accumulator);
                    nodes.extend(node(partition));
                }
                // Whichever of them can go first seals for all.
                Some(_) if whole => held.extend(0..self.slots.count()),
                Some(_) => held.push(partition),
            }
        }
        nodes.sort_unstable();
        for (partition, at) in open {
            let companion = || node(partition).is_some_and(|node| nodes.binary_search(&node).is_ok());
            if whole || nodes.is_empty() || !could_go(partition) || !companion() {
                next = [next, Some(at)].into_iter().flatten().min();
                continue;
            }
            let Some(slot) = self.slots.get(partition) else { continue };
            let (lock, _) = self.slots.accumulator(slot, partition);
            let mut accumulator = lock.lock().unwrap_or_else(PoisonError::into_inner);
            accumulator.seal(FlushReason::BrokerReady, by);
            told.extend(self.take_sealed(&mut accumulator));
        }
        self.observe(&told);
        let wait = self.settings.max_wait_time;
        let more = (sealed && !wait.is_zero() && wait <= STREAM).then(|| self.clock.now() + wait);
        if let Some(next) = next.or(more) {
            self.armed.fetch_min(next.as_micros(), Ordering::AcqRel);
        }
        held
    }

    /// A partition that was due and could not go can go now.
    pub(crate) fn look_again(&self) {
        self.armed.store(0, Ordering::Release);
    }

    /// Visits the lane and every accumulator, and queues what gets sealed.
    fn each_accumulator(&self, mut with: impl FnMut(&mut Accumulator)) {
        let mut visit = |lock: &Mutex<Accumulator>| {
            let mut accumulator = lock.lock().unwrap_or_else(PoisonError::into_inner);
            with(&mut accumulator);
            let told = self.take_sealed(&mut accumulator);
            drop(accumulator);
            self.observe(&told);
        };
        visit(&self.lane);
        self.slots.each(visit);
    }

    /// Takes what was sealed since the last call, in order.
    pub(crate) fn take_queue(&self, into: &mut VecDeque<Sealed>) {
        into.append(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Events accepted so far. Each accumulator counts its own under its lock, what is open and what it sealed together: so no
    /// event is missed or counted twice because it is sealed just now, and the count never falls.
    pub(crate) fn accepted(&self) -> u64 {
        let mut events = 0;
        let mut count = |lock: &Mutex<Accumulator>| {
            events += lock.lock().unwrap_or_else(PoisonError::into_inner).accepted_events();
        };
        count(&self.lane);
        self.slots.each(count);
        events
    }

    /// Acceptance of the oldest event that the dispatcher has not taken yet.
    pub(crate) fn oldest(&self) -> Option<Time> {
        // Before the queue: what is sealed meanwhile is found there.
        let mut open = None;
        let mut look = |lock: &Mutex<Accumulator>| {
            let oldest = lock.lock().unwrap_or_else(PoisonError::into_inner).oldest();
            open = [open, oldest].into_iter().flatten().min();
        };
        look(&self.lane);
        self.slots.each(look);
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.iter().map(|sealed| sealed.opened).chain(open).min()
    }

    /// So many more events have got their final outcome.
    pub(crate) fn settled(&self, events: u32) {
        self.settled_events.fetch_add(u64::from(events), Ordering::Relaxed);
    }

    /// Events accepted whose outcome is not final.
    pub(crate) fn unsettled(&self) -> u64 {
        self.accepted().saturating_sub(self.settled_events.load(Ordering::Relaxed))
    }

    /// The dispatcher has ended with these accounts.
    pub(crate) fn keep_final_report(&self, report: Report) {
        *self.final_report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// The accounts that the dispatcher has ended with; empty before that.
    pub(crate) fn final_report(&self) -> Report {
        let mut report = self.final_report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.failed.get().is_some() {
            // Callers go on for a while.
            report.refused = self.refused();
        }
        report
    }

    /// Where an event of the lane goes, now that the topic is known.
    pub(crate) fn place_late(
        &self,
        record: &Record<'_>,
        kept: Option<Placement>,
        partitions: i32,
    ) -> Result<i32, PartitionError> {
        let input = self.input(record);
        let place = || {
            let placement = match kept {
                Some(placement) => placement,
                None => self.assigner.placement(&input)?,
            };
            let partition = self.assigner.place(placement, &input, &Known { topic: self, partitions })?;
            match (0..partitions).contains(&partition) {
                true => Ok(partition),
                false => Err(PartitionError::OutOfRange {
                    topic: (*self.name).into(),
                    partition,
                    count: partitions.unsigned_abs(),
                }),
            }
        };
        match contained("partitioner", place) {
            Ok(placed) => placed,
            Err(panicked) => Err(PartitionError::failed(panicked.to_string())),
        }
    }
}

/// A topic whose partitions are known although it has no slots for them yet.
struct Known<'a> {
    topic: &'a Topic,
    partitions: i32,
}

impl TopicView for Known<'_> {
    fn partition_count(&self) -> u32 {
        self.partitions.unsigned_abs()
    }

    fn is_available(&self, partition: i32) -> bool {
        self.topic.slots.count() == 0 || self.topic.is_available(partition)
    }

    fn queued_bytes(&self, partition: i32) -> u64 {
        self.topic.queued_bytes(partition)
    }
}

/// The partition of what is not assigned yet.
pub(crate) use crate::storage::UNASSIGNED;

impl TopicView for Topic {
    fn partition_count(&self) -> u32 {
        self.slots.count().unsigned_abs()
    }

    fn is_available(&self, partition: i32) -> bool {
        self.slots.get(partition).is_some_and(|slot| slot.available.load(Ordering::Relaxed))
    }

    fn queued_bytes(&self, partition: i32) -> u64 {
        self.slots.get(partition).map_or(0, |slot| slot.share.held() as u64)
    }
}

/// Runs user code; a panic costs this event an error.
pub(crate) fn contained<T>(what: &'static str, user: impl FnOnce() -> T) -> Result<T, AddError> {
    catch_unwind(AssertUnwindSafe(user)).map_err(|panic| {
        let message = panics::message(panic.as_ref());
        AddError::Panicked { what, message }
    })
}
