//! kafka-batcher through its public interface, with everything on that is on by default: idempotence, retries, metrics.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::hash::{BuildHasherDefault, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kafka_batcher::{Codec, Collector, KafkaBatcher, Receipt, SpoolMode, TopicHealth, TypedCollector};

use crate::drive::{Client, Lane};
use crate::job::{self, Job};
use crate::ledger::{Ledger, Stamp};
use crate::load::Event;
use crate::versions::locked;

/// How long a start and an end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at what is delivered of what is on disk: seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(2);

/// `add_event`: the library accounts for every event, and its report says what became of them.
pub(crate) type AddEvent = Batcher<Adds>;
/// The same, with a spool (`on_failure`).
pub(crate) type Spool = Batcher<AddsWithSpool>;
/// The same, and every event is on disk before it is sent (`always`).
pub(crate) type SpoolAlways = Batcher<AddsWithSpoolAlways>;
/// `TypedCollector`: the value is a struct, and serde makes its JSON.
pub(crate) type Typed = Batcher<AddsTyped>;
/// `send`: a receipt for each event.
pub(crate) type WithReceipts = Batcher<Sends>;
/// The same, with `adaptive_linger`.
pub(crate) type Adaptive = Batcher<SendsAdaptively>;

/// A batcher with the one way in which `W` emits.
pub(crate) struct Batcher<W> {
    batcher: KafkaBatcher,
    collector: Collector,
    ledger: Arc<Ledger>,
    tasks: bool,
    window: usize,
    /// Delivered when it was last looked.
    delivered: AtomicU64,
    way: PhantomData<fn() -> W>,
}

/// How events are emitted.
pub(crate) trait Way: 'static {
    type Lane: Lane;
    const SPOOL: Option<SpoolMode> = None;
    const ADAPTIVE: bool = false;
    /// Whether the lanes learn of outcomes; otherwise the report does.
    const RECEIPTS: bool = false;

    fn lane(batcher: &Batcher<Self>) -> Self::Lane
    where
        Self: Sized;
}

impl<W: Way> Client for Batcher<W> {
    type Lane = W::Lane;

    fn version() -> String {
        format!("kafka-batcher {}, of this tree", locked("kafka-batcher"))
    }

    fn settings(job: &Job) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("batch_size", job.batch_events.to_string()),
            ("max_wait_time", format!("{:?}", job.linger)),
            ("max_batch_bytesize", job.batch_bytes.to_string()),
            ("memory", job.memory.to_string()),
            ("compression", job.codec.to_string()),
        ];
        if W::ADAPTIVE {
            settings.push(("adaptive_linger", "true".to_owned()));
        }
        if let Some(mode) = W::SPOOL {
            settings.push(("spool.mode", mode.to_string()));
        }
        if W::RECEIPTS {
            settings.push(("(receipts open at once)", job.window().to_string()));
        }
        settings
    }

    async fn connect(job: &Job, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let mut builder = KafkaBatcher::builder(job.brokers.split(',')).settings(|settings| {
            settings.memory = job.memory;
            settings.client_id = "bench-compare".to_owned();
        });
        if let Some(mode) = W::SPOOL {
            builder = builder.spool(&job.dir).spool_mode(mode);
        }
        let batcher = builder.start().await?;
        let collector = batcher
            .collector(&job.topic)
            .settings(|settings| {
                settings.batch_size = u32::try_from(job.batch_events).unwrap_or(u32::MAX);
                settings.max_wait_time = job.linger;
                settings.adaptive_linger = W::ADAPTIVE;
                settings.max_batch_bytesize = job.batch_bytes;
                settings.compression = match job.codec {
                    job::Codec::None => Codec::None,
                    job::Codec::Lz4 => Codec::Lz4,
                    job::Codec::Zstd => Codec::Zstd,
                };
            })
            .build()?;
        let mut health = batcher.health();
        let known = health
            .wait_for(|health| matches!(health.topics.get(&job.topic), Some(TopicHealth::Ready { .. })));
        let known = tokio::time::timeout(PATIENCE, known).await;
        known
            .map_err(|_| anyhow!("the topic is not known after {PATIENCE:?}"))?
            .context("the batcher has ended")?;
        let (tasks, window) = (job.tasks, job.window() / job.lanes as usize);
        Ok(Batcher {
            batcher,
            collector,
            ledger,
            tasks,
            window,
            delivered: AtomicU64::new(0),
            way: PhantomData,
        })
    }

    fn lane(&self) -> anyhow::Result<W::Lane> {
        Ok(W::lane(self))
    }

    async fn settle(&self) -> anyhow::Result<()> {
        if W::RECEIPTS {
            return Ok(());
        }
        self.collector.flush().await;
        let mut report = self.batcher.report().await;
        // With write-ahead what is on disk is flushed; here it counts when it is delivered.
        let gives_up = Instant::now() + PATIENCE;
        while W::SPOOL == Some(SpoolMode::Always)
            && report.delivered < report.accepted
            && Instant::now() < gives_up
        {
            tokio::time::sleep(LOOK).await;
            report = self.batcher.report().await;
        }
        let before = self.delivered.swap(report.delivered, Ordering::Relaxed);
        self.ledger.count(report.delivered - before);
        for _ in report.delivered..report.accepted {
            self.ledger.failed(&report);
        }
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        let report = self.batcher.shutdown(PATIENCE).await;
        ensure!(report.all_delivered() && report.possible_duplicates == 0, "{report}");
        Ok(())
    }
}

// ---- without outcomes -----------------------------------------------------------------------------------------------

pub(crate) struct Adds;

impl Way for Adds {
    type Lane = Adder;

    fn lane(batcher: &Batcher<Self>) -> Adder {
        batcher.adder()
    }
}

pub(crate) struct AddsWithSpool;

impl Way for AddsWithSpool {
    type Lane = Adder;
    const SPOOL: Option<SpoolMode> = Some(SpoolMode::OnFailure);

    fn lane(batcher: &Batcher<Self>) -> Adder {
        batcher.adder()
    }
}

pub(crate) struct AddsWithSpoolAlways;

impl Way for AddsWithSpoolAlways {
    type Lane = Adder;
    const SPOOL: Option<SpoolMode> = Some(SpoolMode::Always);

    fn lane(batcher: &Batcher<Self>) -> Adder {
        batcher.adder()
    }
}

pub(crate) struct Adder {
    collector: Collector,
    tasks: bool,
}

impl Lane for Adder {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        if self.tasks {
            self.collector.add_event((event.key, event.value)).await?;
        } else {
            self.collector.blocking_add_event((event.key, event.value))?;
        }
        Ok(())
    }
}

// ---- typed ----------------------------------------------------------------------------------------------------------

/// What is encoded: the very bytes that the others send.
#[derive(serde::Serialize)]
pub(crate) struct Row {
    #[serde(skip)]
    key: &'static [u8],
    text: &'static str,
}

pub(crate) struct AddsTyped;

impl Way for AddsTyped {
    type Lane = TypedAdder;

    fn lane(batcher: &Batcher<Self>) -> TypedAdder {
        let collector = batcher.collector.typed::<Row>().key(|row| Some(row.key.into()));
        TypedAdder { collector, tasks: batcher.tasks }
    }
}

pub(crate) struct TypedAdder {
    collector: TypedCollector<Row>,
    tasks: bool,
}

impl Lane for TypedAdder {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        let row = Row { key: event.key, text: event.text };
        if self.tasks {
            self.collector.add_event(&row).await?;
        } else {
            self.collector.blocking_add_event(&row)?;
        }
        Ok(())
    }
}

// ---- receipts -------------------------------------------------------------------------------------------------------

pub(crate) struct Sends;

impl Way for Sends {
    type Lane = Sender;
    const RECEIPTS: bool = true;

    fn lane(batcher: &Batcher<Self>) -> Sender {
        batcher.sender()
    }
}

pub(crate) struct SendsAdaptively;

impl Way for SendsAdaptively {
    type Lane = Sender;
    const RECEIPTS: bool = true;
    const ADAPTIVE: bool = true;

    fn lane(batcher: &Batcher<Self>) -> Sender {
        batcher.sender()
    }
}

impl<W: Way> Batcher<W> {
    fn adder(&self) -> Adder {
        Adder { collector: self.collector.clone(), tasks: self.tasks }
    }

    fn sender(&self) -> Sender {
        Sender {
            collector: self.collector.clone(),
            tasks: self.tasks,
            window: self.window.max(1),
            receipts: Receipts::new(self.ledger.clone()),
        }
    }
}

pub(crate) struct Sender {
    collector: Collector,
    tasks: bool,
    /// Receipts that may be open.
    window: usize,
    receipts: Receipts,
}

impl Lane for Sender {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        let stamp = self.receipts.ledger.stamp();
        let receipt = match self.tasks {
            true => self.collector.send((event.key, event.value)).await?,
            false => self.collector.blocking_send((event.key, event.value))?,
        };
        self.receipts.push(receipt, stamp);
        while self.receipts.open >= self.window {
            self.receipts.next().await;
        }
        Ok(())
    }

    async fn watch(&mut self) -> anyhow::Result<Infallible> {
        loop {
            self.receipts.next().await;
        }
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        while self.receipts.open > 0 {
            self.receipts.next().await;
        }
        Ok(())
    }
}

/// Open receipts, filed by batch as [`Receipt::batch_key`] advises: one of each batch is awaited, and then all of the batch are
/// looked at.
struct Receipts {
    batches: HashMap<usize, Batch, BuildHasherDefault<Mixed>>,
    first: FuturesUnordered<BoxFuture<'static, usize>>,
    open: usize,
    ledger: Arc<Ledger>,
}

/// The receipts of a batch.
type Batch = Vec<(Receipt, Stamp)>;

impl Receipts {
    fn new(ledger: Arc<Ledger>) -> Receipts {
        Receipts { batches: HashMap::default(), first: FuturesUnordered::new(), open: 0, ledger }
    }

    #[inline]
    fn push(&mut self, receipt: Receipt, stamp: Stamp) {
        let key = receipt.batch_key();
        let batch = self.batches.entry(key).or_default();
        if batch.is_empty() {
            self.first.push(settled(receipt.clone(), key).boxed());
            // Polled once, so that it wakes whoever watches next.
            if let Some(Some(key)) = self.first.next().now_or_never() {
                batch.push((receipt, stamp));
                self.open += 1;
                self.look(key);
                return;
            }
        }
        batch.push((receipt, stamp));
        self.open += 1;
    }

    /// Looks at the next batch that is settled; with none open it never answers.
    async fn next(&mut self) {
        match self.first.next().await {
            Some(key) => self.look(key),
            None => pending().await,
        }
    }

    /// What became of each event of a batch of which one is settled.
    fn look(&mut self, key: usize) {
        let Some(batch) = self.batches.remove(&key) else { return };
        let mut known = Vec::with_capacity(batch.len());
        let mut rest = Batch::new();
        for (receipt, stamp) in batch {
            match receipt.try_delivered() {
                Some(Ok(_)) => known.push(stamp),
                Some(Err(error)) => {
                    self.open -= 1;
                    self.ledger.failed(error);
                }
                // A batch that had to be split is settled part by part.
                None => rest.push((receipt, stamp)),
            }
        }
        self.open -= known.len();
        self.ledger.acknowledged_many(known);
        if let Some((receipt, _)) = rest.first() {
            self.first.push(settled(receipt.clone(), key).boxed());
            self.batches.insert(key, rest);
        }
    }
}

/// Resolves with the key of the receipt's batch.
async fn settled(receipt: Receipt, key: usize) -> usize {
    // What came of it is looked at with all the others.
    let _ = receipt.delivered().await;
    key
}

/// Hashes an address: one multiplication, for each event pays for it.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, n: usize) {
        // The high half goes low, where the table looks.
        self.0 = (self.0 ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}
