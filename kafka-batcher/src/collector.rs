//! `Collector`: where events of one topic go in. Knows no producer and no disk.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use kafka_batcher_core::{BufferPool, Chunk, Record, Share};
use tokio::sync::{mpsc, oneshot};

use crate::clock::later;
use crate::dispatcher::Command;
use crate::error::AddError;
use crate::receipt::Receipt;
use crate::telemetry::TopicTelemetry;
use crate::topic::{Chosen, NotAdded, Topic};

/// Accepts events of one topic. Cheap to clone; clones feed the same batches.
///
/// *Accepted* means: in memory, in order, will be delivered or accounted for. It does not survive the death of the
/// process; for that, await a [`Receipt`].
///
/// Events are anything that is `Into<Record>`: a value, `(key, value)`, `(headers, key, value)`, or a [`Record`].
///
/// ```no_run
/// # async fn run(batcher: kafka_batcher::KafkaBatcher) -> Result<(), Box<dyn std::error::Error>> {
/// let flights = batcher.collector("flights").build()?;
/// flights.add_event(("SEA", r#"{"delay":66}"#)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Collector {
    pub(crate) topic: Arc<Topic>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) max_block: Duration,
}

impl Collector {
    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic.name
    }

    /// Accepts one event; waits only while memory is full, at most `max_block`.
    ///
    /// Cancel-safe: a dropped call has accepted nothing.
    ///
    /// # Errors
    /// [`AddError`]; the event was not accepted, those before and after it are unharmed.
    pub async fn add_event<'a>(&self, event: impl Into<Record<'a>>) -> Result<(), AddError> {
        let record = event.into();
        if self.topic.take_short(&record) {
            return Ok(());
        }
        let chosen = self.topic.choose(&record)?;
        match self.topic.push(&chosen, &record, &mut None, false) {
            Ok(_) => Ok(()),
            Err(full) => self.add_slowly(full, &chosen, &record, false).await.map(|_| ()),
        }
    }

    /// Accepts one event and answers with the claim on its outcome; waits as [`Collector::add_event`] does.
    ///
    /// Cancel-safe: a dropped call has accepted nothing.
    ///
    /// # Errors
    /// As [`Collector::add_event`].
    pub async fn send<'a>(&self, event: impl Into<Record<'a>>) -> Result<Receipt, AddError> {
        let record = event.into();
        if let Some(receipt) = self.topic.take_short_with_receipt(&record) {
            return Ok(receipt);
        }
        let chosen = self.topic.choose(&record)?;
        let added = match self.topic.push(&chosen, &record, &mut None, true) {
            Ok(receipt) => receipt,
            Err(full) => self.add_slowly(full, &chosen, &record, true).await?,
        };
        added.ok_or_else(no_receipt)
    }

    /// Accepts one event now, or says why not. Never waits; callable from anywhere.
    ///
    /// The event is borrowed, so on an error the caller still has it.
    ///
    /// # Errors
    /// [`AddError::Full`] if there is no memory for it now; the others as for [`Collector::add_event`].
    pub fn try_add_event<'a>(&self, event: impl Into<Record<'a>>) -> Result<(), AddError> {
        let record = event.into();
        if self.topic.take_short(&record) {
            return Ok(());
        }
        self.add_now(&self.topic.choose(&record)?, &record, false).map(|_| ())
    }

    /// As [`Collector::try_add_event`], with a receipt.
    ///
    /// # Errors
    /// As [`Collector::try_add_event`].
    pub fn try_send<'a>(&self, event: impl Into<Record<'a>>) -> Result<Receipt, AddError> {
        let record = event.into();
        if let Some(receipt) = self.topic.take_short_with_receipt(&record) {
            return Ok(receipt);
        }
        self.add_now(&self.topic.choose(&record)?, &record, true)?.ok_or_else(no_receipt)
    }

    /// Accepts one event from a thread without a runtime; blocks the thread only while memory is full, at most
    /// `max_block`. In an async task that stalls the runtime's thread: use [`Collector::add_event`] there.
    ///
    /// # Errors
    /// As [`Collector::add_event`].
    pub fn blocking_add_event<'a>(&self, event: impl Into<Record<'a>>) -> Result<(), AddError> {
        let record = event.into();
        if self.topic.take_short(&record) {
            return Ok(());
        }
        self.add_blocking(&self.topic.choose(&record)?, &record, false).map(|_| ())
    }

    /// As [`Collector::blocking_add_event`], with a receipt.
    ///
    /// # Errors
    /// As [`Collector::add_event`].
    pub fn blocking_send<'a>(&self, event: impl Into<Record<'a>>) -> Result<Receipt, AddError> {
        let record = event.into();
        if let Some(receipt) = self.topic.take_short_with_receipt(&record) {
            return Ok(receipt);
        }
        self.add_blocking(&self.topic.choose(&record)?, &record, true)?.ok_or_else(no_receipt)
    }

    /// Accepts events in order, and answers for each of them; one that is refused does not stop the others.
    ///
    /// Each of them waits for memory as [`Collector::add_event`] does, at most `max_block`; the waits add up.
    ///
    /// Not cancel-safe as a whole: a dropped call has accepted a prefix.
    pub async fn add_events<'a, E: Into<Record<'a>>>(
        &self,
        events: impl IntoIterator<Item = E>,
    ) -> Vec<Result<(), AddError>> {
        let mut results = Vec::new();
        for event in events {
            results.push(self.add_event(event).await);
        }
        results
    }

    /// Seals everything that is open, and resolves when each event accepted before this call is durable (without a
    /// spool: acknowledged) or finally failed. While Kafka is away that takes `spool_after` with a spool, and without one until it is
    /// back, however long that is. After a shutdown it resolves at once.
    ///
    /// Cancel-safe: dropping it leaves the batches sealed and changes nothing else.
    pub async fn flush(&self) {
        let (done, settled) = oneshot::channel();
        if self.commands.send(Command::Flush(done)).is_ok() {
            // An error means that the dispatcher has ended, and with it every batch.
            let _ = settled.await;
        }
    }

    // ---- waiting for memory -----------------------------------------------------------------------------------------

    pub(crate) fn add_now(
        &self,
        chosen: &Chosen<'_>,
        record: &Record<'_>,
        want_receipt: bool,
    ) -> Result<Option<Receipt>, AddError> {
        let mut spare = None;
        loop {
            match self.topic.push(chosen, record, &mut spare, want_receipt) {
                Ok(receipt) => return Ok(receipt),
                Err(NotAdded::Refused(error)) => return Err(error),
                Err(NotAdded::NeedsChunk { size, least, share }) => {
                    spare = take(&self.topic.pool, &share, size, least);
                    if spare.is_none() {
                        self.topic.pool.turned_away();
                        return Err(self.full(Duration::ZERO));
                    }
                }
            }
        }
    }

    /// The rest of an asynchronous add, once the fast way did not lead anywhere.
    pub(crate) async fn add_slowly(
        &self,
        first: NotAdded,
        chosen: &Chosen<'_>,
        record: &Record<'_>,
        want_receipt: bool,
    ) -> Result<Option<Receipt>, AddError> {
        let mut next = first;
        let mut since = None;
        loop {
            let (size, least, share) = match next {
                NotAdded::Refused(error) => return Err(error),
                NotAdded::NeedsChunk { size, least, share } => (size, least, share),
            };
            let mut spare = take(&self.topic.pool, &share, size, least);
            if spare.is_none() {
                let since = *since.get_or_insert_with(Instant::now);
                let deadline = later(since, self.max_block);
                let waiting = Waiting::begin(&self.topic);
                let chunk = tokio::time::timeout_at(deadline.into(), self.chunk(&share, least)).await;
                drop(waiting);
                spare = Some(chunk.ok().flatten().ok_or_else(|| self.full_since(since))?);
            }
            match self.topic.push(chosen, record, &mut spare, want_receipt) {
                Ok(receipt) => return Ok(receipt),
                Err(again) => next = again,
            }
        }
    }

    pub(crate) fn add_blocking(
        &self,
        chosen: &Chosen<'_>,
        record: &Record<'_>,
        want_receipt: bool,
    ) -> Result<Option<Receipt>, AddError> {
        let mut spare = None;
        let mut since = None;
        loop {
            match self.topic.push(chosen, record, &mut spare, want_receipt) {
                Ok(receipt) => return Ok(receipt),
                Err(NotAdded::Refused(error)) => return Err(error),
                Err(NotAdded::NeedsChunk { size, least, share }) => {
                    spare = take(&self.topic.pool, &share, size, least);
                    if spare.is_none() {
                        let since = *since.get_or_insert_with(Instant::now);
                        let deadline = later(since, self.max_block);
                        let waiting = Waiting::begin(&self.topic);
                        let chunk = block_on_until(self.chunk(&share, least), deadline);
                        drop(waiting);
                        spare = Some(chunk.flatten().ok_or_else(|| self.full_since(since))?);
                    }
                }
            }
        }
    }

    /// Waits for memory; `None`: nobody is to wait now.
    async fn chunk(&self, share: &Share, least: usize) -> Option<Chunk> {
        tokio::select! {
            biased;
            chunk = self.topic.pool.acquire(share, least) => Some(chunk),
            () = self.topic.refuses() => None,
        }
    }

    /// Who is refused before `max_block` is over did not wait for so long.
    fn full_since(&self, since: Instant) -> AddError {
        let waited = since.elapsed().min(self.max_block);
        self.full(Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)))
    }

    fn full(&self, waited: Duration) -> AddError {
        let pool = &self.topic.pool;
        self.topic.refuse(AddError::Full { used: pool.used(), limit: pool.limit(), waited })
    }
}

/// A wait for memory, recorded however it ends: the caller may give up.
struct Waiting<'a>(Option<(&'a TopicTelemetry, Instant)>);

impl<'a> Waiting<'a> {
    fn begin(topic: &'a Topic) -> Self {
        Waiting(topic.telemetry.as_deref().map(|telemetry| (telemetry, Instant::now())))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some((telemetry, began)) = self.0 {
            telemetry.waited_for_memory(began.elapsed());
        }
    }
}

/// The chunk that suits best, or the smallest that does.
fn take(pool: &BufferPool, share: &Share, size: usize, least: usize) -> Option<Chunk> {
    pool.try_acquire(share, size).or_else(|| if least < size { pool.try_acquire(share, least) } else { None })
}

/// An accepted event for which a receipt was asked always has one.
fn no_receipt() -> AddError {
    AddError::Closed
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread until it is ready or the time has come.
fn block_on_until<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("topic", &self.topic.name).finish_non_exhaustive()
    }
}
