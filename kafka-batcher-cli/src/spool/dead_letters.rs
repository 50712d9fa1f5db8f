//! `spool dead-letters`: shows them, or sends them again.

use std::path::PathBuf;
use std::time::Duration;

use kafka_batcher::storage::disk::{Resent, Spool};
use kafka_batcher::storage::{DiskSettings, DiskStorage};

use super::replay::{self, Sending};
use super::target::Target;
use super::{events, open, written};
use crate::exit::{self, UsageError};
use crate::units::{self, counted};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The spool's directory
    dir: PathBuf,

    /// Only this topic
    #[arg(short, long)]
    topic: Option<String>,

    /// Send them again, once what they were refused for is mended: behind what waits in the spool, as they were. What is
    /// refused again stays a dead letter. Nobody else may be using the directory
    #[arg(long)]
    resend: bool,

    #[command(flatten)]
    target: Target,

    /// End when nothing was acknowledged for so long; what is left stays in the spool
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration, requires = "resend")]
    timeout: Duration,

    /// Send what was meant for another cluster to this one, and what is older than the topic keeps events (Kafka would
    /// delete it again)
    #[arg(long, requires = "resend")]
    force: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    match args.resend {
        true => replay::on_a_runtime(resend(args)),
        false if args.target.is_given() => {
            Err(UsageError("--brokers and --config say where to send: give --resend, too".to_owned()).into())
        }
        false => list(args),
    }
}

fn list(args: &Args) -> anyhow::Result<u8> {
    let spool = open(&args.dir)?;
    if with_letters(&spool, args.topic.as_deref())?.is_empty() {
        eprintln!("there are no dead letters");
        return Ok(exit::OK);
    }
    written(events::dead_letters(&spool, args.topic.as_deref()))
}

/// The topics that have some.
fn with_letters(spool: &Spool, only: Option<&str>) -> anyhow::Result<Vec<String>> {
    let mut topics = Vec::new();
    for topic in events::topics(spool, only)? {
        if !spool.dead_letters(&topic)?.batches.is_empty() {
            topics.push(topic);
        }
    }
    Ok(topics)
}

async fn resend(args: &Args) -> anyhow::Result<u8> {
    // What is wrong with it is told before anything is changed.
    let builder = args.target.builder()?;
    let topics = with_letters(&open(&args.dir)?, args.topic.as_deref())?;
    if topics.is_empty() {
        eprintln!("there are no dead letters");
        return Ok(exit::OK);
    }
    let usage = |error: kafka_batcher::storage::StorageError| UsageError(error.to_string());
    let storage = DiskStorage::new(DiskSettings::new(&args.dir)).map_err(usage)?;
    let mut all = true;
    for topic in &topics {
        let Resent { events, stopped, damage, missing, .. } = storage.resend_dead_letters(topic).await?;
        for damage in &damage {
            eprintln!("warning: topic {topic:?}: {damage}");
        }
        if missing > 0 {
            eprintln!(
                "error: topic {topic:?}: {} lost, or fewer",
                counted(missing, "event is", "events are")
            );
            all = false;
        }
        if events > 0 {
            eprintln!(
                "topic {topic:?}: {} put back into the spool",
                counted(events, "dead letter", "dead letters")
            );
        }
        if let Some(error) = stopped {
            eprintln!("error: topic {topic:?}: the other dead letters stay where they are: {error}");
            all = false;
        }
    }
    let sending = Sending { builder, timeout: args.timeout, force: args.force };
    let code = replay::send(storage, topics, sending).await?;
    Ok(if all { code } else { exit::NOT_ALL })
}
