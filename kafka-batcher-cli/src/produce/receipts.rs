//! `--receipts`: one line of JSON on stdout for each line read, in the order of acknowledgement.
//!
//! A batch is acknowledged as a whole, so one waiter a batch is enough: receipts are filed by batch, the first of a
//! batch is awaited, and then all that are known are written. Writing may block (stdout is somebody's pipe), so all of
//! it happens on a thread of its own; the feeder waits when too much is unwritten, and the batcher never does.

use std::collections::HashMap;
use std::io::{self, Write, stdout};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, Thread};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kafka_batcher::{Delivery, FailureReason, Persisted, Receipt, ReceiptError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::produce::args::ReceiptsAt;
use crate::produce::gate::Gate;

/// Receipts that may be unwritten before the feeder waits: some tens of bytes each, and beyond what memory can hold of events
/// of ordinary size, so that it is stdout that is waited for and not Kafka.
const MOST_UNWRITTEN: usize = 1 << 20;

/// Written at once.
const BUFFER: usize = 64 * 1024;

/// What there is to say of a line.
#[derive(Debug)]
pub(super) enum Entry {
    Accepted(Receipt),
    /// Never accepted, and why.
    Refused(String),
}

type Block = Vec<(u64, Entry)>;

/// What the writer is told.
enum News {
    Lines(Block),
    /// Nothing more will come. Said, for the feeder may hold its end while it waits in a read for ever.
    End,
}

/// The feeder's end.
pub(super) struct Sink {
    block: Block,
    blocks: mpsc::UnboundedSender<News>,
    unwritten: Arc<Unwritten>,
}

#[derive(Default)]
struct Unwritten {
    count: AtomicUsize,
    feeder: std::sync::OnceLock<Thread>,
}

impl Sink {
    #[inline]
    pub(super) fn push(&mut self, line: u64, entry: Entry) {
        self.block.push((line, entry));
    }

    /// Hands over what was pushed, and waits while too much is unwritten. False: the gate was closed.
    pub(super) fn send_block(&mut self, gate: &Gate) -> bool {
        self.unwritten.feeder.get_or_init(thread::current);
        self.send_rest();
        while self.unwritten.count.load(Ordering::Acquire) > MOST_UNWRITTEN {
            if gate.is_closed() {
                return false;
            }
            thread::park();
        }
        true
    }

    /// Hands over what was pushed.
    pub(super) fn send_rest(&mut self) {
        if !self.block.is_empty() {
            let capacity = self.block.len();
            let block = std::mem::replace(&mut self.block, Vec::with_capacity(capacity));
            self.unwritten.count.fetch_add(block.len(), Ordering::AcqRel);
            // The writer is gone only when stdout is; the supervisor knows that already.
            let _ = self.blocks.send(News::Lines(block));
        }
    }
}

/// The supervisor's end.
pub(super) struct Receipts {
    blocks: mpsc::UnboundedSender<News>,
    unwritten: Arc<Unwritten>,
    done: oneshot::Receiver<()>,
    failed: watch::Receiver<Option<WriteFailed>>,
    speech: Arc<Mutex<Speech>>,
}

/// Receipts cannot be written: whoever reads them is gone, or the disk is full.
#[derive(Clone, Debug)]
pub(super) struct WriteFailed {
    /// The line of the last receipt that was surely written; 0: none was.
    pub(super) after: u64,
    pub(super) error: Arc<io::Error>,
}

/// Whether receipts may still be written; locked while one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Allowed,
    /// The summary comes last, and it is its turn.
    Over,
}

impl Receipts {
    /// Starts the writer.
    pub(super) fn start(at: ReceiptsAt) -> io::Result<Receipts> {
        let (blocks, inbox) = mpsc::unbounded_channel();
        let unwritten = Arc::new(Unwritten::default());
        let (finished, done) = oneshot::channel();
        let (tell, failed) = watch::channel(None);
        let speech = Arc::new(Mutex::new(Speech::Allowed));
        let mut writer = Writer {
            at,
            inbox,
            groups: HashMap::new(),
            unwritten: unwritten.clone(),
            out: Vec::new(),
            last: 0,
            written: 0,
            expecting: Expecting::Lines,
            speech: speech.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        thread::Builder::new().name("receipts".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(writer.run()) {
                tell.send_replace(Some(WriteFailed { after: writer.written, error: Arc::new(error) }));
                // The feeder must not wait for somebody who is gone.
                runtime.block_on(writer.drop_all());
            }
            let _ = finished.send(());
        })?;
        Ok(Receipts { blocks, unwritten, done, failed, speech })
    }

    pub(super) fn sink(&self) -> Sink {
        Sink { block: Vec::new(), blocks: self.blocks.clone(), unwritten: self.unwritten.clone() }
    }

    /// Resolves when every receipt is written, or none can be, after the feeder has ended and every event is settled.
    /// Cancel-safe: it may be called again.
    pub(super) async fn finish(&mut self) {
        // An error means that the thread is gone, and so is all that it had to do.
        let _ = self.blocks.send(News::End);
        if !self.done.is_terminated() {
            let _ = (&mut self.done).await;
        }
    }

    /// Why receipts could not be written, if so; complete after [`Receipts::finish`].
    pub(super) fn failure(&self) -> Option<WriteFailed> {
        self.failed.borrow().clone()
    }

    /// No receipt is written after this. False: one is being written to somebody who does not read, and nothing else
    /// can be.
    pub(super) fn silence(&self) -> bool {
        match self.speech.try_lock() {
            Ok(mut speech) => *speech = Speech::Over,
            Err(TryLockError::Poisoned(speech)) => *speech.into_inner() = Speech::Over,
            Err(TryLockError::WouldBlock) => return false,
        }
        true
    }
}

/// Resolves when a receipt could not be written.
pub(super) async fn failed(receipts: Option<&Receipts>) {
    let Some(receipts) = receipts else { return std::future::pending().await };
    let mut failed = receipts.failed.clone();
    if failed.wait_for(Option::is_some).await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Writer {
    at: ReceiptsAt,
    inbox: mpsc::UnboundedReceiver<News>,
    /// Lines whose batch is not acknowledged, by their batch.
    groups: HashMap<usize, Vec<(u64, Receipt)>>,
    unwritten: Arc<Unwritten>,
    out: Vec<u8>,
    /// The line of the last receipt in `out`.
    last: u64,
    /// The line of the last receipt that was written.
    written: u64,
    expecting: Expecting,
    speech: Arc<Mutex<Speech>>,
}

/// What the inbox may still bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expecting {
    Lines,
    /// The end was said.
    Nothing,
}

/// Resolves when the fate of a receipt is known.
async fn known(receipt: Receipt, batch: usize, at: ReceiptsAt) -> usize {
    // What it is, is asked for each line of the batch.
    match at {
        ReceiptsAt::Delivered => drop(receipt.delivered().await),
        ReceiptsAt::Durable => drop(receipt.durable().await),
    }
    batch
}

impl Writer {
    async fn run(&mut self) -> io::Result<()> {
        let mut waiting = FuturesUnordered::new();
        let at = self.at;
        while self.expecting == Expecting::Lines || !waiting.is_empty() {
            // First what has been acknowledged: it is what people wait for.
            if let Some(Some(batch)) = waiting.next().now_or_never() {
                if let Some(first) = self.write_batch(batch)? {
                    waiting.push(known(first, batch, self.at));
                }
                continue;
            }
            match self.inbox.try_recv() {
                Ok(News::Lines(block)) => {
                    self.file(block, |receipt, batch| waiting.push(known(receipt, batch, at)));
                    continue;
                }
                Ok(News::End) => {
                    self.expecting = Expecting::Nothing;
                    continue;
                }
                Err(_) => {}
            }
            // Nothing to do for now, so nobody must wait for what is written.
            self.flush()?;
            tokio::select! {
                Some(batch) = waiting.next(), if !waiting.is_empty() => {
                    if let Some(first) = self.write_batch(batch)? {
                        waiting.push(known(first, batch, self.at));
                    }
                }
                news = self.inbox.recv(), if self.expecting == Expecting::Lines => match news {
                    Some(News::Lines(block)) => {
                        self.file(block, |receipt, batch| waiting.push(known(receipt, batch, at)));
                    }
                    Some(News::End) | None => self.expecting = Expecting::Nothing,
                }
            }
        }
        self.flush()
    }

    /// Nothing can be written: takes what still comes, so that nobody waits. After the end nothing does.
    async fn drop_all(&mut self) {
        self.groups.clear();
        self.wrote(usize::MAX);
        while self.expecting == Expecting::Lines {
            match self.inbox.recv().await {
                Some(News::Lines(_)) => self.wrote(usize::MAX),
                Some(News::End) | None => self.expecting = Expecting::Nothing,
            }
        }
    }

    fn file(&mut self, block: Block, mut wait: impl FnMut(Receipt, usize)) {
        for (line, entry) in block {
            match entry {
                Entry::Accepted(receipt) => {
                    let batch = receipt.batch_key();
                    let group = self.groups.entry(batch).or_default();
                    if group.is_empty() {
                        wait(receipt.clone(), batch);
                    }
                    group.push((line, receipt));
                }
                Entry::Refused(message) => {
                    refused(&mut self.out, line, &message, None);
                    self.last = line;
                    self.wrote(1);
                }
            }
        }
    }

    /// Writes what is known of a batch; one that is not, if any, is to be waited for.
    fn write_batch(&mut self, batch: usize) -> io::Result<Option<Receipt>> {
        let Some(group) = self.groups.remove(&batch) else { return Ok(None) };
        let mut left = Vec::new();
        let mut written = 0;
        for (line, receipt) in group {
            let known = match self.at {
                ReceiptsAt::Delivered => receipt.try_delivered().map(|outcome| outcome.map(Some)),
                ReceiptsAt::Durable => receipt.try_durable().map(|durable| durable.map(|()| None)),
            };
            match known {
                // Only a part: the batch was split on its way.
                None => left.push((line, receipt)),
                Some(outcome) => {
                    self.write(line, &outcome);
                    written += 1;
                    if self.out.len() >= BUFFER {
                        self.flush()?;
                    }
                }
            }
        }
        self.wrote(written);
        let next = left.first().map(|(_, receipt)| receipt.clone());
        if next.is_some() {
            self.groups.insert(batch, left);
        }
        Ok(next)
    }

    /// `Ok(None)`: durable, and that is all there is to say.
    fn write(&mut self, line: u64, outcome: &Result<Option<Delivery>, ReceiptError>) {
        self.last = line;
        let out = &mut self.out;
        // Writing into memory does not fail.
        match outcome {
            Ok(None) => {
                let _ = writeln!(out, r#"{{"type":"receipt","line":{line},"state":"durable"}}"#);
            }
            Ok(Some(Delivery { partition, offset })) => {
                let _ = write!(out, r#"{{"type":"receipt","line":{line},"#);
                let _ = match offset {
                    Some(offset) => writeln!(out, r#""partition":{partition},"offset":{offset}}}"#),
                    None => writeln!(out, r#""partition":{partition},"offset":null}}"#),
                };
            }
            Err(ReceiptError::Failed(error)) if error.reason == FailureReason::Spooled => {
                let _ = writeln!(out, r#"{{"type":"receipt","line":{line},"state":"spooled"}}"#);
            }
            Err(error) => {
                let persisted = match error {
                    ReceiptError::Failed(error) => Some(error.persisted),
                    _ => None,
                };
                refused(&mut self.out, line, &error.to_string(), persisted);
            }
        }
    }

    fn wrote(&self, count: usize) {
        let subtract = |n: usize| Some(n.saturating_sub(count));
        // The closure always gives a value.
        let _ = self.unwritten.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, subtract);
        if let Some(feeder) = self.unwritten.feeder.get() {
            feeder.unpark();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let speech = self.speech.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match *speech {
            Speech::Allowed => {
                let mut out = stdout().lock();
                out.write_all(&self.out).and_then(|()| out.flush())
            }
            Speech::Over => Ok(()),
        };
        drop(speech);
        self.out.clear();
        if written.is_ok() {
            self.written = self.last;
        }
        written
    }
}

fn refused(out: &mut Vec<u8>, line: u64, message: &str, persisted: Option<Persisted>) {
    let persisted = match persisted {
        Some(Persisted::Maybe) => "maybe",
        _ => "no",
    };
    let message = serde_json::Value::from(message);
    // Writing into memory does not fail.
    let _ =
        writeln!(out, r#"{{"type":"receipt","line":{line},"error":{message},"persisted":"{persisted}"}}"#);
}
