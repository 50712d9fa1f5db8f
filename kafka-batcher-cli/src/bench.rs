//! `kafka-batcher bench`: what sending costs this process, CPU first.
//!
//! Events are made before they are sent, so that what is measured is ours: accepting, batching, sending. Without
//! `--brokers` they go to the embedded broker in discard mode, in a process of its own, so that its work is not
//! counted. The first part of the run is a warm-up, and left out of every figure.

mod figures;
mod load;

use std::io::{BufRead, BufReader, Write, stdout};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use kafka_batcher::{BuildError, Collector, KafkaBatcher, Report, TopicHealth};
use tokio::sync::oneshot;

use crate::bench::figures::Figures;
use crate::bench::load::{Load, Pace};
use crate::console::{Console, Shared, Unit, Volume};
use crate::exit::{self, UsageError};
use crate::produce::{Acks, Packing, SpoolWhen};
use crate::units;
use crate::usage::Usage;
use crate::wire::Connection;

/// How long a start and an end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The part of the events that is sent before anything is measured, and the least of it.
const WARM_UP: u64 = 10;
const WARM_UP_LEAST: u64 = 100_000;

/// Measure what sending costs this process.
///
/// Prints CPU seconds (user and system, of this process alone) per million events, wall time, rate, batches, latency
/// and memory. A tenth of the events, at least 100 000, goes before as a warm-up, and is not counted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  100 bytes and 1 KiB over 16 partitions, to the embedded broker in discard mode:
    kafka-batcher bench
    kafka-batcher bench --size 1KiB --count 1000000

  What a write-ahead spool costs:
    kafka-batcher bench --spool /var/tmp/bench --spool-mode always

  Latency at 10 000 events a second against your own Kafka, as JSON:
    kafka-batcher bench -b 127.0.0.1:9092 --rate 10000 --count 100000 --summary json

A topic that is missing is created with --partitions and one replica, and left there.")]
pub(crate) struct Args {
    /// Addresses of a Kafka; without it the embedded broker is started as a second process
    #[arg(
        short = 'b',
        long = "brokers",
        visible_alias = "bootstrap-server",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    brokers: Vec<String>,

    /// The topic
    #[arg(short = 't', long, default_value = "kafka-batcher-bench")]
    topic: String,

    /// Partitions of the topic, where it is made
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,

    /// Bytes of a value
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = units::size)]
    size: usize,

    /// Bytes of a key; 0: no key
    #[arg(long, value_name = "SIZE", default_value = "16", value_parser = units::size)]
    key_size: usize,

    /// Events, without the warm-up
    #[arg(long, value_name = "N", default_value_t = 3_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,

    /// Events a second over all threads, or max
    #[arg(long, value_name = "N|max", default_value = "max")]
    rate: Pace,

    /// Threads that emit events
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,

    /// What a broker waits for before it acknowledges
    #[arg(long, value_name = "all|1|0", default_value = "all", allow_hyphen_values = true)]
    acks: Acks,

    /// Ask for a receipt for every event, and await all of them
    #[arg(long)]
    receipts: bool,

    /// Events that make a batch ready
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    batch_size: u32,

    /// The longest an event waits for others
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = units::duration)]
    max_wait_time: Duration,

    /// The most a batch may be, encoded
    #[arg(long, value_name = "SIZE", default_value = "1000000", value_parser = units::size)]
    max_batch_bytesize: usize,

    /// How batches are compressed: none, gzip, snappy, lz4, zstd, or with a level, as zstd:3
    #[arg(long, value_name = "CODEC[:LEVEL]", default_value = "none")]
    compression: Packing,

    /// The most memory that events may hold
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = units::size)]
    memory: usize,

    /// Have a spool in this directory, which must be new or empty; it stays when the bench ends
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,

    /// When events go to the spool
    #[arg(long, value_enum, value_name = "WHEN", requires = "spool", default_value = "on_failure")]
    spool_mode: SpoolWhen,

    /// The form of the result, on stdout
    #[arg(long, value_enum, default_value_t = crate::produce::SummaryForm::Text)]
    summary: crate::produce::SummaryForm,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    // A backlog would be sent first, and counted.
    if let Some(dir) = &args.spool
        && dir.read_dir().is_ok_and(|mut entries| entries.next().is_some())
    {
        let dir = dir.display();
        return Err(
            UsageError(format!("--spool {dir}: not empty; give a directory that is new or empty")).into()
        );
    }
    let (child, brokers) = if args.brokers.is_empty() {
        let (child, address) = start_broker(args)?;
        (Some(child), vec![address])
    } else {
        create_topic(args);
        (None, args.brokers.clone())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(args, &brokers));
    runtime.shutdown_background();
    drop(child);
    let figures = measured?;
    let mut out = stdout().lock();
    let written = match args.summary {
        crate::produce::SummaryForm::Text => writeln!(out, "{figures}"),
        crate::produce::SummaryForm::Json => writeln!(out, "{}", figures.json()),
    };
    written.and_then(|()| out.flush()).context("the result could not be written to stdout")?;
    Ok(if figures.all_delivered() { exit::OK } else { exit::NOT_ALL })
}

/// A child that ends with its owner: its stdin is closed, and it is waited for.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn start_broker(args: &Args) -> anyhow::Result<(Broker, String)> {
    let exe = std::env::current_exe().context("this program does not find itself")?;
    let mut child = Command::new(exe)
        .args(["broker", "--discard", "--until-stdin-closes", "--quiet", "--topic"])
        .arg(format!("{}:{}", args.topic, args.partitions))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Broker)
        .context("the embedded broker could not be started")?;
    let stdout = child.0.stdout.take().context("the embedded broker has no stdout")?;
    let mut address = String::new();
    BufReader::new(stdout).read_line(&mut address)?;
    let address = address.trim().to_owned();
    ensure!(!address.is_empty(), "the embedded broker did not start");
    Ok((child, address))
}

/// Best effort: where it does not work, the batcher will say what is wrong with the topic or the address.
fn create_topic(args: &Args) {
    for address in &args.brokers {
        if let Ok(mut connection) = Connection::open(address)
            && connection.create_topic(&args.topic, args.partitions).is_ok()
        {
            return;
        }
    }
}

async fn measure(args: &Args, brokers: &[String]) -> anyhow::Result<Figures> {
    let console = Arc::new(Console::new(Volume::Normal, Some(args.count), Unit::Events));
    let usage = |error: BuildError| -> anyhow::Error {
        match error {
            BuildError::BadConfig(_) => UsageError(error.to_string()).into(),
            other => other.into(),
        }
    };
    let mut builder = KafkaBatcher::builder(brokers.iter().cloned());
    if let Some(dir) = &args.spool {
        builder = builder.spool(dir).spool_settings(|spool| spool.mode = args.spool_mode.into());
    }
    let batcher = builder
        .settings(|settings| {
            settings.memory = args.memory;
            settings.client_id = "kafka-batcher-bench".to_owned();
        })
        .error_notifier(Shared(console.clone()))
        .start()
        .await
        .map_err(usage)?;
    let collector = batcher
        .collector(args.topic.clone())
        .settings(|settings| {
            settings.required_acks = args.acks.0;
            settings.batch_size = args.batch_size;
            settings.max_wait_time = args.max_wait_time;
            settings.max_batch_bytesize = args.max_batch_bytesize;
            settings.compression = args.compression.codec;
            settings.compression_level = args.compression.level;
        })
        .build()
        .map_err(usage)?;
    let partitions = ready(&batcher, &args.topic).await?;

    let load = Arc::new(Load::new(args.size, args.key_size));
    let warm_up = match args.rate {
        Pace::Max => (args.count / WARM_UP).max(WARM_UP_LEAST),
        // A second of it.
        Pace::PerSecond(rate) => rate.min(args.count),
    };
    send(args, &collector, &load, warm_up, &batcher, &console).await?;
    let before = batcher.report().await;
    let (began, used) = (Instant::now(), Usage::now());
    let failed = send(args, &collector, &load, args.count, &batcher, &console).await?;
    let (wall, cpu) = (began.elapsed(), Usage::now().cpu.saturating_sub(used.cpu));
    let after = batcher.report().await;
    console.done();
    let last: Report = batcher.shutdown(PATIENCE).await;
    Ok(Figures {
        size: args.size,
        key_size: args.key_size,
        partitions,
        threads: args.threads,
        acks: args.acks.0,
        receipts: args.receipts,
        spool: args.spool.as_ref().map(|_| args.spool_mode.word()),
        wall,
        cpu,
        peak_rss: Usage::now().peak_rss,
        failed,
        undelivered: last.accepted - last.delivered,
        before,
        after,
    })
}

async fn ready(batcher: &KafkaBatcher, topic: &str) -> anyhow::Result<i32> {
    let mut health = batcher.health();
    let known = health.wait_for(|health| matches!(health.topics.get(topic), Some(TopicHealth::Ready { .. })));
    match tokio::time::timeout(PATIENCE, known).await {
        Ok(Ok(health)) => match health.topics.get(topic) {
            Some(TopicHealth::Ready { partitions }) => Ok(*partitions),
            _ => Err(anyhow!("the topic is gone")),
        },
        Ok(Err(_)) => Err(anyhow!("the batcher ended too early")),
        Err(_) => Err(anyhow!(
            "topic {topic:?} cannot be written to after {PATIENCE:?}; the warnings above say why"
        )),
    }
}

/// Sends so many events from all threads, and waits until they are in Kafka. Answers how many receipts failed.
async fn send(
    args: &Args,
    collector: &Collector,
    load: &Arc<Load>,
    count: u64,
    batcher: &KafkaBatcher,
    console: &Console,
) -> anyhow::Result<u64> {
    let threads = u64::from(args.threads);
    let mut ends = Vec::new();
    for thread in 0..threads {
        let (done, end) = oneshot::channel();
        let (collector, load, receipts) = (collector.clone(), load.clone(), args.receipts);
        let share = count / threads + u64::from(thread < count % threads);
        let pace = args.rate.shared_by(threads);
        std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || {
                let _ = done.send(load.send(&collector, share, pace, receipts, thread));
            })
            .context("a thread could not be started")?;
        ends.push(end);
    }
    let delivered_before = batcher.report().await.delivered;
    let all = async {
        let mut failed = 0;
        for end in ends {
            failed += end.await.context("a thread of the load died")??;
        }
        batcher.flush().await;
        anyhow::Ok(failed)
    };
    tokio::pin!(all);
    loop {
        tokio::select! {
            failed = &mut all => return failed,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let delivered = batcher.report().await.delivered - delivered_before;
                console.progress(delivered, || format!("{} events delivered", units::grouped(delivered)));
            }
        }
    }
}
