//! `Accumulator`: when is a batch ready?
//!
//! Events go in one at a time, sealed batches come out. An accumulator has one *lane* (the open batch of one
//! partition) where events are collected by partition, or one lane for each partition of a topic where the limits
//! count over the whole topic. It lives behind a lock of its caller's, and everything in here happens under that lock:
//! no clock is read, nobody is waited for, no user code runs, and an event costs no allocation.
//!
//! A batch is ready when
//!
//! - the next event would make it larger than `max_batch_bytesize` (exact encoded bytes), or no event fits any more:
//!   then the lane's batch is sealed, in either mode only this lane's;
//! - `batch_size` events are open and `min_delay` has passed since this accumulator's previous seal;
//! - the oldest open event has waited for `max_wait_time`;
//! - the flusher, `flush()`, shutdown, a ready broker or short memory says so.
//!
//! The last four seal every open lane together. Every condition is evaluated for the event that comes *after* a split
//! as for any other: it can fill the next batch, it is shown to the flusher, and its deadline is its own acceptance
//! plus `max_wait_time`.
//!
//! What it promises: each accepted event is in exactly one sealed batch; batches of a partition come out in the order
//! of acceptance; no batch is larger than `max_batch_bytesize`, or where batches are compressed than what is estimated to
//! become as large ([`FillEstimate`]); no event stays longer than `max_wait_time`, provided
//! that [`handle_timeout`](Accumulator::handle_timeout) is called when [`poll_timeout`](Accumulator::poll_timeout)
//! says so (more often does no harm). What it refuses: an event that is too large even alone, as a typed error, with
//! nothing changed.

mod fill;
mod lane;
mod seal;
mod settings;

use std::sync::Arc;

pub use self::fill::FillEstimate;
use self::lane::Lanes;
pub use self::seal::{FlushReason, Sealed};
pub use self::settings::AccumulatorSettings;
use crate::batch::HEADER_LEN;
use crate::batch::encoder::{Measured, is_short};
use crate::buffer_pool::Chunk;
use crate::completion::Completion;
use crate::error::RecordError;
use crate::record::Record;
use crate::time::Time;

/// One event and what goes with it into [`Accumulator::push`].
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Which lane: 0 where events are collected by partition, else what [`Accumulator::add_lane`] answered.
    pub lane: usize,
    /// The event. Of its own `timestamp` only whether there is one matters, its `partition` not at all.
    pub record: &'a Record<'a>,
    /// Its time in milliseconds since the Unix epoch: the record's own or that of acceptance.
    pub timestamp: i64,
    /// The flusher wants this event and everything before it sent at once.
    pub flush_after: bool,
    /// The caller wants to learn the event's outcome.
    pub want_receipt: bool,
}

/// What an accepted event led to.
#[must_use = "a sealed batch must be taken out, a deadline be kept"]
#[derive(Debug)]
pub struct Pushed {
    /// What the caller has to do now.
    pub ready: Ready,
    /// If asked for: the completion of the event's batch and the event's index in it.
    pub receipt: Option<(Arc<Completion>, u32)>,
}

/// What the caller has to do after a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Nothing.
    No,
    /// [`Accumulator::poll_timeout`] is earlier than it was, or was `None`: whoever keeps the timer must know.
    Timer,
    /// Something was sealed: take it out with [`Accumulator::poll_sealed`] before the lock is released. The timeout
    /// may have changed, too.
    Sealed,
}

/// Why an event was not taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// There is no memory for the event in its batch. Release the lock, take a chunk out of the pool, push again.
    #[error("the batch needs a chunk of {size} bytes (at least {least})")]
    NeedsChunk {
        /// The size that keeps the batch in few pieces, in bytes.
        size: usize,
        /// The smallest that the event fits in, in bytes: enough where memory is short.
        least: usize,
    },
    /// The event can never be taken.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The accumulator has no such lane.
    #[error("lane {lane} was asked for, there are {lanes}; add one for each partition first")]
    NoSuchLane {
        /// The lane asked for.
        lane: usize,
        /// How many there are.
        lanes: usize,
    },
}

/// Whether the count may seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CountGate {
    /// Fewer than `batch_size` events are open.
    Counting,
    /// The event in `lane` made `batch_size` of them, but `min_delay` is over only at `until`.
    Delayed { until: Time, lane: usize },
}

/// The open batches of one partition, or of all partitions of a topic. See the module's documentation.
#[derive(Debug)]
pub struct Accumulator {
    lanes: Lanes,
    settings: AccumulatorSettings,
    /// Events in open batches, over all lanes.
    events: u64,
    /// Events in batches that were sealed.
    sealed: u64,
    /// From this many open events on, a push must look at the count. Follows from `gate`; see `set_gate`.
    check_at: u64,
    gate: CountGate,
    /// Acceptance of the oldest open event; means nothing while `events` is 0.
    oldest: Time,
    /// When this accumulator last sealed; kept only if there is a `min_delay`.
    last_seal: Option<Time>,
    outbound: seal::Queue,
    /// How many bytes make a full batch, where that is not `max_batch_bytesize`.
    fill: Option<Arc<FillEstimate>>,
}

/// Reads the caller's clock when somebody needs the time, and at most once.
struct Now<'a> {
    clock: &'a mut dyn FnMut() -> Time,
    read: Option<Time>,
}

impl Now<'_> {
    fn get(&mut self) -> Time {
        *self.read.get_or_insert_with(&mut self.clock)
    }
}

impl Accumulator {
    /// An empty accumulator whose lane 0 belongs to `partition` (-1: the unassigned lane of a topic).
    ///
    /// Settings without sense are taken as the nearest that have one: a `batch_size` of 0 is 1, and
    /// `max_batch_bytesize` ends at 2^31 - 1, as the format does.
    pub fn new(settings: AccumulatorSettings, partition: i32) -> Self {
        let settings = settings.within_format();
        Accumulator {
            lanes: Lanes::new(partition),
            check_at: u64::from(settings.batch_size),
            settings,
            events: 0,
            sealed: 0,
            gate: CountGate::Counting,
            oldest: Time::ZERO,
            last_seal: None,
            outbound: seal::Queue::default(),
            fill: None,
        }
    }

    /// Its batches are compressed: they are full when the estimate says so. An event is refused by its plain size all the same.
    #[must_use]
    pub fn filled_by(mut self, fill: Arc<FillEstimate>) -> Self {
        self.fill = Some(fill);
        self.lanes.sum_no_more();
        self
    }

    /// How many bytes make a full batch; never fewer than `max_batch_bytesize`.
    fn full_at(&self) -> usize {
        let least = self.settings.max_batch_bytesize;
        self.fill.as_ref().map_or(least, |fill| fill.limit().max(least))
    }

    /// Adds a lane for one more partition of the topic and returns its index. From the second lane on, the limits
    /// count over all of them.
    pub fn add_lane(&mut self, partition: i32) -> usize {
        self.lanes.add(partition)
    }

    /// Number of lanes.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// True if no event is open. (Sealed batches may still wait in [`poll_sealed`](Self::poll_sealed).)
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Events in open batches.
    pub fn open_events(&self) -> u64 {
        self.events
    }

    /// Events taken so far: open ones, and those of every batch that was sealed. Never falls.
    pub fn accepted_events(&self) -> u64 {
        self.sealed + self.events
    }

    /// Acceptance of the oldest open event; `None` if none is open.
    pub fn oldest(&self) -> Option<Time> {
        (self.events > 0).then_some(self.oldest)
    }

    /// Bytes of the open batches, as they would be sent if they were sealed now.
    pub fn open_bytes(&self) -> usize {
        self.lanes.open().map(|(_, lane)| lane.encoder.encoded_len()).sum()
    }

    /// Takes one event.
    ///
    /// `clock` must read a monotonic clock. It is called at most once, and only for the first event of a batch or to
    /// keep a `min_delay`, so it may be a precise one.
    ///
    /// `spare` is the memory brought along after [`PushError::NeedsChunk`]. It is taken only if it is needed (another
    /// caller may have been faster meanwhile); otherwise it stays with the caller.
    ///
    /// # Errors
    /// [`PushError`]; nothing has changed then.
    #[inline]
    pub fn push(
        &mut self,
        offer: Offer<'_>,
        spare: &mut Option<Chunk>,
        mut clock: impl FnMut() -> Time,
    ) -> Result<Pushed, PushError> {
        let events = self.events + 1;
        // What a lane takes these ways needs no further question: not the first event of a batch, and nothing
        // that reaches the end of the chunk or the byte limit.
        if events < self.check_at
            && !offer.flush_after
            && let Some(lane) = self.lanes.get_mut(offer.lane)
            && (lane.encoder.append_short(offer.record, offer.timestamp)
                || lane.encoder.append_within(offer.record, offer.timestamp))
        {
            self.events = events;
            let receipt = if offer.want_receipt { Some(lane.encoder.receipt()) } else { None };
            return Ok(Pushed { ready: Ready::No, receipt });
        }
        // In parts, so that they stay in registers as long as this line is not reached.
        let Offer { lane, record, timestamp, flush_after, want_receipt } = offer;
        self.push_any(lane, record, timestamp, (flush_after, want_receipt), spare, &mut clock)
    }

    /// Whether [`push_short`](Self::push_short) takes such an event at all: to be asked before its partition is looked for.
    #[inline(always)]
    pub fn is_short(record: &Record<'_>) -> bool {
        is_short(record)
    }

    /// Takes an event that no rule but the count asks about: one without headers or a time of its own, its key and value not long, that
    /// neither begins a batch nor reaches the end of one or of its chunk. Says whether it was taken; if not, nothing has changed,
    /// and [`push`](Self::push) takes it or says what is missing. What `push` would do, in half the instructions: nothing is
    /// handed over that could be an error.
    #[inline(always)]
    pub fn push_short(&mut self, lane: usize, record: &Record<'_>, timestamp: i64) -> bool {
        let events = self.events + 1;
        if events >= self.check_at {
            return false;
        }
        let Some(lane) = self.lanes.get_mut(lane) else { return false };
        let taken = lane.encoder.append_short(record, timestamp);
        if taken {
            self.events = events;
        }
        taken
    }

    /// The receipt of the event that was taken last, in this lane: the completion of its batch, and its index in it.
    #[inline]
    pub fn receipt(&mut self, lane: usize) -> Option<(Arc<Completion>, u32)> {
        Some(self.lanes.get_mut(lane)?.encoder.receipt())
    }

    /// The whole rule, for every event that the ways above do not take.
    #[inline(never)]
    fn push_any(
        &mut self,
        lane: usize,
        record: &Record<'_>,
        timestamp: i64,
        (flush_after, want_receipt): (bool, bool),
        spare: &mut Option<Chunk>,
        clock: &mut dyn FnMut() -> Time,
    ) -> Result<Pushed, PushError> {
        let offer = Offer { lane, record, timestamp, flush_after, want_receipt };
        let (largest, limit) = (self.settings.max_batch_bytesize, self.full_at());
        let (index, lanes) = (offer.lane, self.lanes.len());
        let lane = self.lanes.get_mut(index).ok_or(PushError::NoSuchLane { lane: index, lanes })?;
        let measured = Measured::of(offer.record)?;
        let mut size = lane.encoder.size_of_next(measured, offer.timestamp);
        let splits = !lane.encoder.is_empty() && lane.encoder.encoded_len() + size > limit;
        let opens = splits || lane.encoder.is_empty();
        if opens {
            let alone = measured.alone();
            if alone > largest {
                return Err(RecordError::TooLarge { size: alone, limit: largest }.into());
            }
            size = alone - HEADER_LEN;
        }
        let (held, needed) =
            if splits { (HEADER_LEN, Some(lane::first_chunk(size))) } else { lane.memory_for(size) };
        if let Some(wanted) = needed
            && spare.as_ref().is_none_or(|chunk| chunk.remaining() < size)
        {
            // Never more than the batch can still take: memory follows the bytes held.
            return Err(PushError::NeedsChunk { size: wanted.min(limit - held).max(size), least: size });
        }

        // From here on the event is accepted.
        let mut now = Now { clock, read: None };
        let timeout = self.poll_timeout();
        if splits {
            self.seal_lane(index, FlushReason::Bytes, &mut now);
        }
        if opens {
            let opened = now.get();
            self.oldest = if self.events == 0 { opened } else { self.oldest.min(opened) };
            self.lanes.opened(index, opened);
        }
        self.events += 1;
        let mut receipt = None;
        if let Some(lane) = self.lanes.get_mut(index) {
            if needed.is_some()
                && let Some(chunk) = spare.take()
            {
                lane.encoder.add_chunk(chunk);
            }
            lane.encoder.append(offer.record, offer.timestamp, measured, size);
            lane.update_room(limit);
            receipt = offer.want_receipt.then(|| lane.encoder.receipt());
        }
        self.evaluate(&offer, &mut now);

        let ready = if !self.outbound.is_empty() {
            Ready::Sealed
        } else if earlier(self.poll_timeout(), timeout) {
            Ready::Timer
        } else {
            Ready::No
        };
        Ok(Pushed { ready, receipt })
    }

    /// Seals what the event just appended has made ready.
    fn evaluate(&mut self, offer: &Offer<'_>, now: &mut Now<'_>) {
        if offer.flush_after {
            self.seal_topic(offer.lane, FlushReason::Flusher, now);
        } else if self.events >= self.check_at {
            match self.delayed_until(now) {
                None => self.seal_topic(offer.lane, FlushReason::Count, now),
                Some(until) => self.set_gate(CountGate::Delayed { until, lane: offer.lane }),
            }
        }
        // Nothing can ever join it: to wait would only cost time.
        let limit = self.full_at();
        if self.lanes.get_mut(offer.lane).is_some_and(|lane| lane.is_full(limit)) {
            self.seal_lane(offer.lane, FlushReason::Bytes, now);
        }
    }

    /// When `min_delay` will be over, if it is not.
    fn delayed_until(&self, now: &mut Now<'_>) -> Option<Time> {
        // Without a `min_delay` there is no `last_seal`, and the clock is not read.
        let until = self.last_seal? + self.settings.min_delay;
        (now.get() < until).then_some(until)
    }

    fn set_gate(&mut self, gate: CountGate) {
        self.gate = gate;
        self.check_at = match gate {
            CountGate::Counting => u64::from(self.settings.batch_size),
            // The timer decides; until then no push needs to ask.
            CountGate::Delayed { .. } => u64::MAX,
        };
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; `None` while nothing is open. To be asked again
    /// after every call that reports or causes a change.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.events == 0 {
            return None;
        }
        let wait = self.oldest + self.settings.max_wait_time;
        Some(match self.gate {
            CountGate::Counting => wait,
            CountGate::Delayed { until, .. } => wait.min(until),
        })
    }

    /// Seals what is due at `now`, if anything; then [`poll_sealed`](Self::poll_sealed) gives it.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.events == 0 {
            return;
        }
        let wait = self.settings.max_wait_time;
        if self.oldest + wait <= now {
            self.seal_open(now, |_, lane| {
                if lane.opened + wait <= now { FlushReason::Wait } else { FlushReason::Topic }
            });
        } else if let CountGate::Delayed { until, lane } = self.gate
            && until <= now
        {
            self.seal_topic(lane, FlushReason::Count, &mut Now { clock: &mut || now, read: Some(now) });
        }
    }

    /// Seals every open lane, all with this reason; then [`poll_sealed`](Self::poll_sealed) gives them.
    pub fn seal(&mut self, reason: FlushReason, now: Time) {
        self.seal_open(now, |_, _| reason);
    }

    /// The next sealed batch; `None` if there is no more. To be called until then under the lock under which it was
    /// sealed, or the order of a partition is lost.
    pub fn poll_sealed(&mut self) -> Option<Sealed> {
        self.outbound.pop()
    }
}

fn earlier(new: Option<Time>, old: Option<Time>) -> bool {
    match (new, old) {
        (Some(new), Some(old)) => new < old,
        (new, None) => new.is_some(),
        (None, Some(_)) => false,
    }
}

#[cfg(test)]
#[path = "accumulator/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "accumulator/properties.rs"]
mod properties;
