//! The spool against a real Kafka that was stopped, killed, or given a new topic between two of our processes; read back
//! by Kafka's Java consumer. (Processes killed with SIGKILL: the command's tests.)

#[path = "support/killed.rs"]
mod killed;
#[path = "support/rates.rs"]
mod rates;
#[path = "real_kafka_spool/unasked.rs"]
mod unasked;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka_batcher::storage::StorageError;
use kafka_batcher::{
    BuildError, Collector, ErrorNotifier, KafkaBatcher, Notification, Receipt, Record, Report, SpoolMode,
};
use kafka_batcher_testkit::{Error, Isolation, Options, RealKafka, Signal, Suite, Tally};

const LONG: Duration = Duration::from_secs(120);
const PARTITIONS: u32 = 3;
const KEYS: u32 = 7;

fn main() -> ExitCode {
    Suite::new(Options::one_broker())
        .test_alone("a kafka stopped while events flow gets them after both were started again", |kafka| {
            restarted(kafka, Signal::Term)
        })
        .test_alone("a kafka killed while events flow gets them after both were started again", |kafka| {
            restarted(kafka, Signal::Kill)
        })
        .test_alone(
            "a kafka stopped and killed that does not tell us what it knows of producers gets them too",
            |_| unasked::restarted(),
        )
        .test_alone("sixteen callers do not see that the broker is killed and restarted", |kafka| {
            sixteen_callers(kafka, false)
        })
        .test_alone(
            "sixteen callers do not see that the broker is frozen until requests are given up, and thawed",
            |kafka| sixteen_callers(kafka, true),
        )
        .test_alone("a topic created anew gets what waited in the spool", recreated)
        .test_alone("a log that was cut while nobody looked is continued in a new run", cut)
        .test_alone(
            "another cluster gets nothing of what was sent to the old one until somebody consents",
            replaced,
        )
        .test_alone(
            "events older than a broker remembers arrive, and what may be there twice is counted",
            old,
        )
        .test_alone(
            "what arrives from disk is counted; its rate beside the live one is printed if asked for",
            replay_rate,
        )
        .run()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

async fn start(kafka: &RealKafka, topic: &str, dir: &Path, mode: SpoolMode) -> (KafkaBatcher, Collector) {
    let batcher = loop {
        let started = KafkaBatcher::builder(kafka.addresses())
            .settings(|s| {
                s.retry_backoff = Duration::from_millis(20);
                s.retry_backoff_max = Duration::from_millis(250);
                s.request_timeout = Duration::from_secs(2);
            })
            .collector_defaults(|c| c.batch_size = 50)
            .spool(dir)
            .spool_mode(mode)
            .spool_after(Duration::from_millis(200))
            .start()
            .await;
        match started {
            Ok(batcher) => break batcher,
            // The one before lets go of the directory when the runtime drops its tasks.
            Err(BuildError::Spool(StorageError::Failed(_))) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let collector = batcher.collector(topic).build().expect("a collector");
    (batcher, collector)
}

/// Sends these numbers, of seven keys in turn, with this time or now.
async fn send(collector: &Collector, numbers: std::ops::Range<u32>, time: Option<i64>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for number in numbers {
        let (key, value) = (format!("key-{}", number % KEYS), number.to_string());
        let record = Record { timestamp: time, ..Record::keyed(&key, &value) };
        receipts.push(collector.send(record).await.expect("accepted"));
    }
    receipts
}

async fn durable(receipts: &[Receipt]) {
    for receipt in receipts {
        let durable = tokio::time::timeout(LONG, receipt.durable()).await;
        durable.expect("it becomes durable").expect("it is durable");
    }
}

async fn drained(batcher: &KafkaBatcher) -> Report {
    let drained = async {
        loop {
            let report = batcher.report().await;
            if report.spooled + report.in_memory + report.in_flight == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(LONG, drained).await.is_err() {
        panic!("the spool is not drained: {:?}", batcher.report().await);
    }
    batcher.shutdown(LONG).await
}

/// Lost, surplus copies, out of order for their key: by Java's eyes.
fn compare(kafka: &RealKafka, topic: &str, expected: u32) -> Result<(usize, u32, usize), Error> {
    let mut times: BTreeMap<u32, u32> = BTreeMap::new();
    let mut latest: BTreeMap<u32, u32> = BTreeMap::new();
    let mut reordered = 0;
    for record in kafka.consume(topic, Isolation::Committed)? {
        let text = String::from_utf8(record.value.expect("a value")).expect("text");
        let number: u32 = text.parse().expect("a number");
        let first = !times.contains_key(&number);
        *times.entry(number).or_default() += 1;
        let before = latest.entry(number % KEYS).or_default();
        reordered += usize::from(first && number < *before);
        *before = number.max(*before);
    }
    let lost = (0..expected).filter(|number| !times.contains_key(number)).count();
    let surplus = times.values().map(|times| times - 1).sum();
    Ok((lost, surplus, reordered))
}

fn restarted(kafka: &RealKafka, signal: Signal) -> Result<(), Error> {
    if !kafka.is_ours() {
        return Ok(());
    }
    for mode in [SpoolMode::OnFailure, SpoolMode::Always] {
        let topic = kafka.fresh_topic("spooled", PARTITIONS, &[])?;
        let report = restarted_once(kafka, signal, mode, &topic)?;
        nothing_lost_or_doubled(kafka, &format!("{signal:?} {mode:?}"), &topic, &report)?;
    }
    Ok(())
}

/// Kafka goes, our process goes, Kafka comes, and another process of ours.
fn restarted_once(kafka: &RealKafka, signal: Signal, mode: SpoolMode, topic: &str) -> Result<Report, Error> {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (batcher, collector) = runtime.block_on(start(kafka, topic, dir.path(), mode));
    let before = runtime.block_on(send(&collector, 0..3_000, None));
    kafka.kill(1, signal)?;
    runtime.block_on(async {
        let during = send(&collector, 3_000..6_000, None).await;
        durable(&before).await;
        durable(&during).await;
    });
    // Dropped, a batcher saves what it has in memory, and writes down what it knows to be delivered; killed, it does not.
    let dir = killed::what_a_kill_leaves(dir.path());
    drop((batcher, collector, before));
    drop(runtime);
    kafka.restart(1)?;
    let runtime = self::runtime();
    Ok(runtime.block_on(async {
        let (batcher, collector) = start(kafka, topic, dir.path(), mode).await;
        let after = send(&collector, 6_000..7_000, None).await;
        durable(&after).await;
        drained(&batcher).await
    }))
}

fn nothing_lost_or_doubled(kafka: &RealKafka, what: &str, topic: &str, report: &Report) -> Result<(), Error> {
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    let found = compare(kafka, topic, 7_000)?;
    println!(
        "{what}: {} found on disk; {} lost, {} surplus, {} reordered; {} possible duplicates told",
        report.recovered, found.0, found.1, found.2, report.possible_duplicates
    );
    assert!(report.recovered > 0);
    assert_eq!(found, (0, 0, 0));
    Ok(())
}

/// A measurement of so many million events, five rounds, if `KAFKA_BATCHER_RATES` says how many.
fn replay_rate(kafka: &RealKafka) -> Result<(), Error> {
    let millions =
        std::env::var("KAFKA_BATCHER_RATES").ok().and_then(|millions| millions.parse::<u32>().ok());
    let (events, rounds) = millions.map_or((100_000, 1), |millions| (millions * 1_000_000, 5));
    if !kafka.is_ours() {
        return Ok(());
    }
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let topic = kafka.fresh_topic("rates", 16, &[])?;
        let dir = tempfile::tempdir().expect("a directory");
        let report = runtime().block_on(async {
            let started = KafkaBatcher::builder(kafka.addresses())
                .settings(|s| s.retry_backoff_max = Duration::from_millis(250))
                .spool(dir.path())
                .spool_after(Duration::from_millis(200));
            let batcher = started.start().await.expect("it starts");
            let collector = batcher.collector(&topic).build().expect("a collector");
            let stop = || kafka.kill(1, Signal::Term).expect("it stops");
            let start = || kafka.restart(1).expect("it starts");
            let name = format!("round {round}");
            ratios.push(rates::round(&name, (&batcher, &collector), events, stop, start).await);
            batcher.shutdown(LONG).await
        });
        assert!(report.all_delivered() && report.delivered == 2 * u64::from(events), "{report:?}");
        let there: i64 = kafka.offsets(&topic)?.iter().map(|p| p.latest - p.earliest).sum();
        assert_eq!(there, 2 * i64::from(events));
    }
    // Less is no measurement: a test that has a bound on time fails on a busy machine.
    if millions.is_some() {
        let median = rates::median(ratios);
        assert!(median >= 1.0, "a backlog drains at {median:.2} of the live rate");
    }
    Ok(())
}

/// The Elixir library's own disaster: 161 319 events answered ok, 106 551 of them never in Kafka.
fn sixteen_callers(kafka: &RealKafka, freeze: bool) -> Result<(), Error> {
    const CALLERS: u32 = 16;
    /// Of each caller, before, during and after.
    const EVENTS: u32 = 3_000;
    /// Four times the request timeout.
    const FREEZE: Duration = Duration::from_secs(8);
    if !kafka.is_ours() {
        return Ok(());
    }
    let topic = kafka.fresh_topic("callers", PARTITIONS, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (batcher, collector) = runtime.block_on(start(kafka, &topic, dir.path(), SpoolMode::OnFailure));
    let call = |part: u32| {
        (0..CALLERS)
            .map(|caller| {
                let collector = collector.clone();
                runtime.spawn(async move {
                    let key = format!("caller-{caller}");
                    for event in part * EVENTS..(part + 1) * EVENTS {
                        let value = (event * CALLERS + caller).to_string();
                        collector.add_event((&key, &value)).await.expect("no caller sees an error");
                    }
                })
            })
            .collect::<Vec<_>>()
    };
    let wait = |callers: Vec<tokio::task::JoinHandle<()>>| {
        runtime.block_on(async {
            for caller in callers {
                caller.await.expect("no caller sees an error");
            }
        });
    };
    wait(call(0));
    let during = call(1);
    let begun = tokio::time::Instant::now();
    if freeze {
        kafka.freeze(1)?;
    } else {
        kafka.kill(1, Signal::Kill)?;
    }
    let after = call(2);
    runtime.block_on(async {
        let spooled = async {
            while batcher.report().await.spooled == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, spooled).await.expect("events go to disk");
        if freeze {
            let given_up = async {
                while batcher.report().await.in_flight > 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(LONG, given_up).await.expect("requests are given up");
            // How long the broker stands still is the fault itself, so here a clock is waited for, and only here.
            tokio::time::sleep_until(begun + FREEZE).await;
            let frozen = begun.elapsed();
            println!("thawed after {frozen:.1?}, all requests given up: {:?}", batcher.report().await);
        }
    });
    if freeze {
        kafka.thaw(1)?;
    } else {
        kafka.restart(1)?;
    }
    wait(during);
    wait(after);
    let report = runtime.block_on(batcher.shutdown(LONG));
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    let events = 3 * EVENTS * CALLERS;
    // Two parts of a caller ran beside each other: its order is looked at within each.
    let mut lists: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
    let mut expected: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
    let place = |number: u32| (number % CALLERS, number / CALLERS / EVENTS);
    for number in 0..events {
        expected.entry(place(number)).or_default().push(number);
    }
    for record in kafka.consume(&topic, Isolation::Committed)? {
        let text = String::from_utf8(record.value.expect("a value")).expect("text");
        let number: u32 = text.parse().expect("a number");
        lists.entry(place(number)).or_default().push(number);
    }
    let tally = Tally::compare(&expected, &lists);
    println!("{CALLERS} callers, {}: {tally}; {report:?}", if freeze { "frozen" } else { "killed" });
    tally.assert_clean();
    assert_eq!((report.possible_duplicates, report.reorderings), (0, 0), "{report:?}");
    Ok(())
}

fn recreated(kafka: &RealKafka) -> Result<(), Error> {
    if !kafka.is_ours() {
        return Ok(());
    }
    let topic = kafka.fresh_topic("anew", PARTITIONS, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (batcher, collector) = runtime.block_on(start(kafka, &topic, dir.path(), SpoolMode::Always));
    // Written, so that the old topic knows the run.
    runtime.block_on(async {
        for receipt in send(&collector, 0..100, None).await {
            receipt.delivered().await.expect("delivered to the old topic");
        }
    });
    kafka.kill(1, Signal::Kill)?;
    let report = runtime.block_on(async {
        durable(&send(&collector, 100..2_000, None).await).await;
        batcher.shutdown(Duration::ZERO).await
    });
    assert!(report.spooled > 0 && report.lost == 0, "{report:?}");
    kafka.restart(1)?;
    kafka.delete_topic(&topic)?;
    kafka.create_topic(&topic, PARTITIONS, 1, &[])?;
    let report = runtime.block_on(async {
        let (batcher, _collector) = start(kafka, &topic, dir.path(), SpoolMode::Always).await;
        drained(&batcher).await
    });
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    let (lost, surplus, reordered) = compare(kafka, &topic, 2_000)?;
    println!(
        "anew: {} found on disk; {lost} not there, {surplus} surplus, {reordered} reordered",
        report.recovered
    );
    // The hundred went with the old topic.
    assert_eq!((lost, surplus, reordered), (100, 0, 0));
    Ok(())
}

/// What Kafka acknowledged and lost when the power failed is not ours to bring back; what it did not acknowledge is.
fn cut(kafka: &RealKafka) -> Result<(), Error> {
    if !kafka.is_ours() {
        return Ok(());
    }
    for batches in [2, usize::MAX] {
        let topic = kafka.fresh_topic("cut", PARTITIONS, &[])?;
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = runtime();
        let (batcher, collector) = runtime.block_on(start(kafka, &topic, dir.path(), SpoolMode::Always));
        runtime.block_on(async {
            for receipt in send(&collector, 0..1_000, None).await {
                receipt.delivered().await.expect("delivered");
            }
        });
        let written = kafka.consume(&topic, Isolation::Committed)?.len() as u64;
        kafka.kill(1, Signal::Kill)?;
        let report = runtime.block_on(async {
            durable(&send(&collector, 1_000..3_000, None).await).await;
            batcher.shutdown(Duration::ZERO).await
        });
        assert!(report.spooled == 2_000 && report.lost == 0, "{report:?}");
        let gone = kafka.cut_log(1, &topic, PARTITIONS as i32, batches)?;
        assert!(gone > 0 && written == 1_000, "{gone} of {written} events were cut off");
        kafka.restart(1)?;
        let there: i64 = kafka.offsets(&topic)?.iter().map(|p| p.latest - p.earliest).sum();
        assert_eq!(there as u64, 1_000 - gone, "the log was cut");
        let report = runtime.block_on(async {
            let (batcher, _collector) = start(kafka, &topic, dir.path(), SpoolMode::Always).await;
            drained(&batcher).await
        });
        assert!(report.balances() && report.all_delivered(), "{report:?}");
        let (lost, surplus, reordered) = compare(kafka, &topic, 3_000)?;
        println!(
            "cut: {gone} events cut off by us, {lost} not there, {surplus} surplus, {reordered} reordered; \
             {} possible duplicates told",
            report.possible_duplicates
        );
        assert_eq!((lost as u64, surplus, reordered), (gone, 0, 0));
    }
    Ok(())
}

struct Told(tokio::sync::mpsc::UnboundedSender<String>);

impl ErrorNotifier for Told {
    fn report(&self, notification: &Notification) {
        // Nobody listens any more once it was heard.
        let _ = self.0.send(notification.message.clone());
    }
}

fn replaced(kafka: &RealKafka) -> Result<(), Error> {
    if !kafka.is_ours() {
        return Ok(());
    }
    let topic = kafka.fresh_topic("moved", PARTITIONS, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (batcher, collector) = runtime.block_on(start(kafka, &topic, dir.path(), SpoolMode::Always));
    runtime.block_on(async {
        for receipt in send(&collector, 0..100, None).await {
            receipt.delivered().await.expect("delivered to the old cluster");
        }
    });
    // So that what comes now is sent, and never answered.
    kafka.freeze(1)?;
    let report = runtime.block_on(async {
        durable(&send(&collector, 100..2_000, None).await).await;
        batcher.shutdown(Duration::ZERO).await
    });
    assert!(report.spooled == 1_900 && report.lost + report.in_doubt == 0, "{report:?}");
    let other = RealKafka::start(&Options::one_broker())?;
    kafka.thaw(1)?;
    assert_ne!(other.cluster_id()?, kafka.cluster_id()?);
    other.create_topic(&topic, PARTITIONS, 1, &[])?;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let report = runtime.block_on(async {
        let batcher = KafkaBatcher::builder(other.addresses())
            .spool(dir.path())
            .error_notifier(Told(told))
            .start()
            .await
            .expect("it starts");
        let _collector = batcher.collector(&topic).build().expect("a collector");
        let held = async {
            while let Some(message) = heard.recv().await {
                if message.contains("another cluster") {
                    return;
                }
            }
            panic!("nobody was told");
        };
        tokio::time::timeout(LONG, held).await.expect("somebody is told");
        batcher.shutdown(Duration::ZERO).await
    });
    assert_eq!((report.spooled, report.delivered), (1_900, 0), "{report:?}");
    assert!(other.consume(&topic, Isolation::Uncommitted)?.is_empty());
    let report = runtime.block_on(async {
        let consenting =
            KafkaBatcher::builder(other.addresses()).spool(dir.path()).replay_to_other_cluster(true);
        let batcher = consenting.start().await.expect("it starts");
        let _collector = batcher.collector(&topic).build().expect("a collector");
        drained(&batcher).await
    });
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    let (missing, surplus, reordered) = compare(&other, &topic, 2_000)?;
    println!("replaced: {missing} went to the old cluster; {surplus} surplus, {reordered} reordered");
    // The hundred went to the old cluster.
    assert_eq!((missing, surplus, reordered), (100, 0, 0));
    Ok(())
}

fn old(kafka: &RealKafka) -> Result<(), Error> {
    if !kafka.is_ours() {
        return Ok(());
    }
    let topic = kafka.fresh_topic("old", PARTITIONS, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let yesterday = Some(now - 30 * 3_600_000);
    let runtime = runtime();
    let (batcher, collector) = runtime.block_on(start(kafka, &topic, dir.path(), SpoolMode::Always));
    let first = runtime.block_on(send(&collector, 0..1_000, yesterday));
    kafka.kill(1, Signal::Kill)?;
    runtime.block_on(async {
        let rest = send(&collector, 1_000..2_000, yesterday).await;
        durable(&first).await;
        durable(&rest).await;
    });
    let dir = killed::what_a_kill_leaves(dir.path());
    drop((batcher, collector, first));
    drop(runtime);
    kafka.restart(1)?;
    let runtime = self::runtime();
    let report = runtime.block_on(async {
        let (batcher, _collector) = start(kafka, &topic, dir.path(), SpoolMode::Always).await;
        drained(&batcher).await
    });
    assert!(report.balances() && report.all_delivered(), "{report:?}");
    let (lost, surplus, reordered) = compare(kafka, &topic, 2_000)?;
    println!(
        "old: {lost} lost, {surplus} surplus, {reordered} reordered; {} possible duplicates told",
        report.possible_duplicates
    );
    assert_eq!((lost, reordered), (0, 0));
    assert!(u64::from(surplus) <= report.possible_duplicates);
    Ok(())
}
