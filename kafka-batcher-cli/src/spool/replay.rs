//! `spool replay`: a batcher that takes no events, and delivers what it finds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kafka_batcher::storage::{DiskSettings, DiskStorage};
use kafka_batcher::{BuildError, Builder};

use super::target::Target;
use super::{events, open};
use crate::console::{Console, Shared, Unit, Volume};
use crate::exit::{self, UsageError};
use crate::signals::Signals;
use crate::units::{self, counted, grouped, seconds};

/// How often it is looked at how far it has come.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The spool's directory; nobody else may be using it
    dir: PathBuf,

    /// Only this topic
    #[arg(short, long)]
    topic: Option<String>,

    #[command(flatten)]
    target: Target,

    /// End when nothing was acknowledged for so long; what is left stays in the spool
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    timeout: Duration,

    /// Send what was meant for another cluster to this one, and what is older than the topic keeps events (Kafka would
    /// delete it again)
    #[arg(long)]
    force: bool,
}

/// How what is there is sent.
pub(super) struct Sending {
    pub(super) builder: Builder,
    pub(super) timeout: Duration,
    pub(super) force: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let builder = args.target.builder()?;
    let topics = events::topics(&open(&args.dir)?, args.topic.as_deref())?;
    let storage =
        DiskStorage::new(DiskSettings::new(&args.dir)).map_err(|error| UsageError(error.to_string()))?;
    let sending = Sending { builder, timeout: args.timeout, force: args.force };
    on_a_runtime(send(storage, topics, sending))
}

pub(super) fn on_a_runtime(work: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    runtime.block_on(work)
}

/// Delivers what waits of these topics.
pub(super) async fn send(storage: DiskStorage, topics: Vec<String>, args: Sending) -> anyhow::Result<u8> {
    let usage = |error: BuildError| match error {
        BuildError::BadConfig(_) | BuildError::Spool(_) => UsageError(error.to_string()).into(),
        other => anyhow::Error::from(other),
    };
    let console = Arc::new(Console::new(Volume::Normal, Some(0), Unit::Backlog));
    let mut signals = Signals::listen().context("signals cannot be listened to")?;
    let batcher = args
        .builder
        .error_notifier(Shared(console.clone()))
        .storage(storage)
        .replay_to_other_cluster(args.force)
        .replay_expired(args.force)
        .start()
        .await
        .map_err(usage)?;
    let mut collectors = Vec::new();
    for topic in topics {
        collectors.push(batcher.collector(topic).build().map_err(usage)?);
    }
    let began = Instant::now();
    let (mut delivered, mut since) = (0, Instant::now());
    loop {
        let report = batcher.report().await;
        let waiting = report.spooled + report.in_flight + report.in_memory;
        console.total(report.recovered);
        console.progress(report.recovered.saturating_sub(waiting), || {
            format!("{} of {} delivered", grouped(report.delivered), grouped(report.recovered))
        });
        if report.delivered != delivered {
            (delivered, since) = (report.delivered, Instant::now());
        }
        if waiting == 0 || since.elapsed() >= args.timeout {
            break;
        }
        tokio::select! {
            signal = signals.next() => {
                console.say(format_args!("{}: what is left stays in the spool", signal.name()));
                break;
            }
            () = tokio::time::sleep(TICK) => {}
        }
    }
    let report = batcher.shutdown(Duration::ZERO).await;
    console.done();
    console.say(format_args!(
        "{} of {} delivered in {}",
        grouped(report.delivered),
        counted(report.recovered, "event", "events"),
        seconds(began.elapsed())
    ));
    if report.spooled > 0 {
        console
            .error(format_args!("{} left in the spool", counted(report.spooled, "event is", "events are")));
    }
    if report.dead_lettered + report.lost + report.in_doubt > 0 {
        let (dead, lost) = (report.dead_lettered, report.lost + report.in_doubt);
        console.error(format_args!("{} put aside, {} lost or in doubt", grouped(dead), grouped(lost)));
        return Ok(exit::NOT_ALL);
    }
    Ok(if report.spooled > 0 { exit::SPOOLED } else { exit::OK })
}
