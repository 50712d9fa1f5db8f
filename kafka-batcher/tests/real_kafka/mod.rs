//! What the tests against a real Kafka share: events that flow while brokers are broken, and what Kafka's own consumer then reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kafka_batcher::{CollectorSettings, Delivery, KafkaBatcher, Receipt, Record, Report, Settings};
use kafka_batcher_testkit::{Consumed, Error, Isolation, RealKafka, Tally};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

/// Longer than anything takes, so that only what hangs runs into it.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Events of one round of a [`Flow`]; the next one begins when the one before the last is acknowledged.
const ROUND: u32 = 30;

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A batcher of the test's own settings; pauses are short, and a silent broker is left after a second and a half.
#[allow(dead_code)] // not every test binary does
pub(crate) async fn batcher(
    kafka: &RealKafka,
    change: impl FnOnce(&mut Settings, &mut CollectorSettings),
) -> KafkaBatcher {
    batcher_with(kafka, None, change).await
}

/// How long nothing may be acknowledged until events go to disk: some outages of the tests are shorter, some longer.
const SPOOL_AFTER: Duration = Duration::from_millis(300);

async fn batcher_with(
    kafka: &RealKafka,
    spool: Option<&Path>,
    change: impl FnOnce(&mut Settings, &mut CollectorSettings),
) -> KafkaBatcher {
    let mut settings = Settings::default();
    let mut defaults = CollectorSettings::default();
    settings.retry_backoff = Duration::from_millis(20);
    settings.retry_backoff_max = Duration::from_millis(250);
    settings.request_timeout = Duration::from_millis(1500);
    change(&mut settings, &mut defaults);
    settings.endpoints = kafka.addresses();
    let mut builder = KafkaBatcher::builder(kafka.addresses());
    if let Some(dir) = spool {
        builder = builder.spool(dir).spool_after(SPOOL_AFTER);
    }
    let builder = builder.settings(|s| *s = settings).collector_defaults(|d| *d = defaults);
    builder.start().await.expect("the batcher starts")
}

/// How often a broker is killed in the tests that say so.
#[allow(dead_code)] // not every test binary does
pub(crate) fn kills() -> u32 {
    std::env::var("KAFKA_BATCHER_BROKER_KILLS").map_or(5, |n| n.parse().expect("a number of kills"))
}

/// A record's value as text.
pub(crate) fn text(record: &Consumed) -> &str {
    std::str::from_utf8(record.value.as_deref().expect("a value")).expect("text")
}

/// The number of a [`Flow`]'s event.
fn number(record: &Consumed) -> u32 {
    text(record).split(' ').next().and_then(|n| n.parse().ok()).expect("a number first")
}

/// Events that flow to all partitions of a topic, numbered, in small batches, several of them in flight, until they are told to stop.
pub(crate) struct Flow {
    control: Arc<Control>,
    /// Of every event so far. The task holds the sender: who waits for events that do not come, because it panicked, fails.
    receipts: watch::Receiver<Vec<Receipt>>,
    task: tokio::task::JoinHandle<()>,
    batcher: KafkaBatcher,
    topic: String,
    partitions: u32,
    started: Instant,
    /// Where the spool is, if there is one.
    spool: Option<tempfile::TempDir>,
}

#[derive(Default)]
struct Control {
    burst: AtomicU32,
    stop: AtomicBool,
    wake: Notify,
}

impl Flow {
    /// Starts the flow; it sends `least` events at least.
    pub(crate) async fn start(
        kafka: &RealKafka,
        topic: &str,
        partitions: u32,
        least: u32,
        change: impl FnOnce(&mut Settings, &mut CollectorSettings),
    ) -> Flow {
        Flow::start_on(kafka, topic, partitions, least, None, change).await
    }

    /// The same with a spool.
    #[allow(dead_code)] // not every test binary does
    pub(crate) async fn with_spool(kafka: &RealKafka, topic: &str, partitions: u32, least: u32) -> Flow {
        let dir = tempfile::tempdir().expect("a directory");
        Flow::start_on(kafka, topic, partitions, least, Some(dir), |_, _| {}).await
    }

    async fn start_on(
        kafka: &RealKafka,
        topic: &str,
        partitions: u32,
        least: u32,
        spool: Option<tempfile::TempDir>,
        change: impl FnOnce(&mut Settings, &mut CollectorSettings),
    ) -> Flow {
        let dir = spool.as_ref().map(tempfile::TempDir::path);
        let batcher = batcher_with(kafka, dir, |settings, defaults| {
            // Rounds are told apart, and bursts make many batches.
            defaults.batch_size = 20;
            defaults.min_delay = Duration::from_millis(4);
            defaults.max_wait_time = Duration::from_millis(8);
            change(settings, defaults);
        })
        .await;
        let collector = batcher.collector(topic).build().expect("a collector");
        let control = Arc::new(Control::default());
        let shared = control.clone();
        let (sender, receipts) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let mut sent = 0;
            loop {
                let stopping = shared.stop.load(Ordering::SeqCst);
                let missing = least.saturating_sub(sent);
                let burst = shared.burst.swap(0, Ordering::SeqCst);
                let mut round = Vec::new();
                for event in sent..sent + if stopping { missing } else { burst + ROUND } {
                    let value = format!("{event} {event:0>60}");
                    let partition = (event % partitions) as i32;
                    let accepted = collector.send(Record::value(&value).with_partition(partition)).await;
                    round.push(accepted.expect("no caller sees an error"));
                }
                sent += round.len() as u32;
                sender.send_modify(|receipts| receipts.append(&mut round));
                if stopping {
                    return;
                }
                let woken = shared.wake.notified();
                let before =
                    sent.checked_sub(2 * ROUND).and_then(|at| sender.borrow().get(at as usize).cloned());
                if let Some(before) = before {
                    tokio::select! {
                        outcome = before.delivered() => { outcome.expect("no caller sees an error"); }
                        () = woken => {}
                    }
                }
            }
        });
        let (topic, started) = (topic.to_owned(), Instant::now());
        Flow { control, receipts, task, batcher, topic, partitions, started, spool }
    }

    /// So many events at once, whatever is acknowledged.
    pub(crate) fn burst(&self, events: u32) {
        self.control.burst.fetch_add(events, Ordering::SeqCst);
        self.control.wake.notify_one();
    }

    /// The batcher, to look at its health.
    #[allow(dead_code)] // not every test binary does
    pub(crate) fn batcher(&self) -> &KafkaBatcher {
        &self.batcher
    }

    /// Resolves when events lie on disk.
    #[allow(dead_code)] // not every test binary does
    pub(crate) async fn spooled(&self) {
        let spooled = async {
            while self.batcher.report().await.spooled == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, spooled).await.expect("events go to disk");
    }

    /// Resolves when so many more events have been sent and the last of them was delivered.
    pub(crate) async fn more(&self, events: u32) {
        let mut receipts = self.receipts.clone();
        let wanted = receipts.borrow().len() + events as usize;
        let last = {
            let more = receipts.wait_for(|receipts| receipts.len() > wanted).await;
            more.expect("the flow goes on")[wanted].clone()
        };
        last.delivered().await.expect("no caller sees an error");
    }

    /// Ends the flow and checks it against what Kafka's consumer reads: 0 lost, 0 duplicated, 0 reordered in each partition, no caller saw
    /// an error, every receipt names the offset where its event lies, and the report says the same.
    pub(crate) async fn finish(self, kafka: &RealKafka, what: &str) -> Result<Report, Error> {
        self.control.stop.store(true, Ordering::SeqCst);
        self.control.wake.notify_one();
        self.task.await.expect("the events flow to their end");
        let receipts = self.receipts.borrow().clone();
        let report = self.batcher.shutdown(LONG).await;
        let mut accepted: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        for event in 0..receipts.len() as u32 {
            accepted.entry((event % self.partitions) as i32).or_default().push(event);
        }
        let mut seen: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        let mut places: BTreeMap<(i32, i64), u32> = BTreeMap::new();
        for record in kafka.consume(&self.topic, Isolation::Committed)? {
            seen.entry(record.partition).or_default().push(number(&record));
            places.insert((record.partition, record.offset), number(&record));
        }
        let tally = Tally::compare(&accepted, &seen);
        let mut unknown = 0;
        for (event, receipt) in (0u32..).zip(&receipts) {
            match receipt.try_delivered() {
                Some(Ok(Delivery { partition, offset: Some(offset) })) => {
                    assert_eq!(
                        places.get(&(partition, offset)),
                        Some(&event),
                        "what the receipt's offset holds"
                    );
                }
                Some(Ok(Delivery { offset: None, .. })) => unknown += 1,
                other => panic!("event {event}: {other:?}"),
            }
        }
        println!(
            "{what}: {tally}; {} in doubt, {} possible duplicates, {unknown} offsets unknown, {} batches, p99 {:?}, {:.1} s",
            report.in_doubt,
            report.possible_duplicates,
            report.batches,
            report.latency.quantile(0.99),
            self.started.elapsed().as_secs_f64(),
        );
        tally.assert_clean();
        drop(self.spool);
        assert!(report.balances() && report.all_delivered(), "{report:?}");
        assert_eq!((report.possible_duplicates, report.reorderings), (0, 0), "{report:?}");
        Ok(report)
    }
}
