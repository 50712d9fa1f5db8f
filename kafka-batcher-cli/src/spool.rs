//! `kafka-batcher spool`: what lies in a spool's directory, whether it is whole, its events, and sending them now.
//!
//! All but `replay` and `dead-letters --resend` leave it as it is, take no lock, and work beside the process that writes.

mod dead_letters;
mod events;
mod export;
mod replay;
mod target;

use std::io::{Write, stdout};
use std::path::PathBuf;

use kafka_batcher::storage::disk::{Spool, TopicScan};
use kafka_batcher::storage::{StorageError, UNASSIGNED};
use serde_json::json;

use crate::exit::{self, UsageError};
use crate::units::{bytes, counted, grouped};

/// See and handle what `produce --spool`, or a program with the library, keeps in a directory.
///
/// Apache Kafka's own kafka-dump-log reads the segments, too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What is there, by topic and partition: events and bytes that wait, and how old the oldest is
    Ls {
        /// The spool's directory
        dir: PathBuf,
        /// One JSON object a line, for programs
        #[arg(long)]
        json: bool,
    },
    /// Reads every byte and names every damage, with file, place and what it costs; exit code 1 if there is any
    Verify {
        /// The spool's directory
        dir: PathBuf,
    },
    /// The events that wait, one JSON object a line; bytes that are no UTF-8 as {"base64": ...}
    Dump {
        /// The spool's directory
        dir: PathBuf,
        /// Only this topic
        #[arg(short, long)]
        topic: Option<String>,
    },
    /// The events that Kafka refused for good, as `dump` shows them, with reason, code, message and time; or sends them again
    DeadLetters(dead_letters::Args),
    /// Writes the events that wait to a file of JSON lines, or as plain Kafka log segments
    Export(export::Args),
    /// Sends what is there now; exit code 3 if some is left
    Replay(replay::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    match &args.command {
        Command::Ls { dir, json } => ls(dir, *json),
        Command::Verify { dir } => verify(dir),
        Command::Dump { dir, topic } => written(events::dump(&open(dir)?, topic.as_deref())),
        Command::DeadLetters(args) => dead_letters::run(args),
        Command::Export(args) => export::run(args),
        Command::Replay(args) => replay::run(args),
    }
}

/// A directory that is no spool is the user's mistake.
fn open(dir: &PathBuf) -> anyhow::Result<Spool> {
    Spool::open(dir).map_err(|error| UsageError(error.to_string()).into())
}

/// Who reads our output may stop at any time; that is no failure.
fn written(result: anyhow::Result<u8>) -> anyhow::Result<u8> {
    match result {
        Err(error) if is_broken_pipe(&error) => Ok(exit::OK),
        result => result,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The time of the oldest event that waits in a partition, in milliseconds since 1970.
fn oldest(scan: &TopicScan, partition: i32) -> Result<Option<i64>, StorageError> {
    let waiting = |batch: &&_| is_of(batch, partition);
    for batch in scan.batches.iter().filter(waiting) {
        if let Some(first) = scan.waiting(batch)?.first() {
            return Ok(Some(first.batch.base_timestamp()));
        }
    }
    Ok(None)
}

fn is_of(batch: &&kafka_batcher::storage::disk::BatchScan, partition: i32) -> bool {
    batch.partition == partition && batch.whole
}

fn ls(dir: &PathBuf, json: bool) -> anyhow::Result<u8> {
    let spool = open(dir)?;
    let mut out = stdout().lock();
    for topic in spool.topics()? {
        let scan = spool.scan(&topic)?;
        let files: u64 = scan.segments.iter().map(|segment| segment.length).sum();
        let dead: u64 = spool.dead_letters(&topic)?.batches.iter().map(|batch| u64::from(batch.count)).sum();
        let events: u64 = scan.backlogs.iter().map(|(_, backlog)| backlog.events).sum();
        if !json {
            writeln!(
                out,
                "{topic}: {} waiting, {} in {}{}{}",
                counted(events, "event", "events"),
                bytes(files),
                counted(scan.segments.len() as u64, "file", "files"),
                if dead > 0 {
                    format!(", {} put aside", counted(dead, "dead letter", "dead letters"))
                } else {
                    String::new()
                },
                match (scan.damage.is_empty(), scan.segments.iter().any(|segment| segment.unfinished > 0)) {
                    (false, _) => ", damaged: see spool verify",
                    (true, true) => ", the last commit is not finished: see spool verify",
                    (true, false) if events == 0 && files > 0 => {
                        " (delivered; the room comes back with the next use)"
                    }
                    (true, false) => "",
                },
            )?;
        }
        for (partition, backlog) in &scan.backlogs {
            let oldest = oldest(&scan, *partition)?;
            let through = scan.settled.iter().find(|(p, _)| p == partition).map(|(_, through)| *through);
            if json {
                let name = if *partition == UNASSIGNED { json!(null) } else { json!(partition) };
                let object = json!({
                    "type": "backlog", "topic": topic, "partition": name, "events": backlog.events,
                    "batches": backlog.batches, "bytes": backlog.bytes, "oldest_ms": oldest,
                    "first_position": backlog.first, "acknowledged_through": through,
                });
                writeln!(out, "{object}")?;
                continue;
            }
            let name = if *partition == UNASSIGNED {
                "no partition yet".to_owned()
            } else {
                format!("partition {partition}")
            };
            writeln!(
                out,
                "  {name}: {} in {}, {}, oldest of {}; acknowledged below position {}",
                counted(backlog.events, "event", "events"),
                counted(backlog.batches, "batch", "batches"),
                bytes(backlog.bytes),
                oldest.map_or("an unknown time".to_owned(), events::time),
                through.unwrap_or(0),
            )?;
        }
    }
    Ok(exit::OK)
}

fn verify(dir: &PathBuf) -> anyhow::Result<u8> {
    let spool = open(dir)?;
    let mut out = stdout().lock();
    let (mut damages, mut missing, mut files) = (0u64, 0u64, 0);
    for topic in spool.topics()? {
        for (what, scan) in [("", spool.scan(&topic)?), (" (dead letters)", spool.dead_letters(&topic)?)] {
            if scan.segments.is_empty() && scan.damage.is_empty() {
                continue;
            }
            files += scan.segments.len();
            for damage in &scan.damage {
                writeln!(out, "{topic}{what}: {damage}")?;
                missing += damage.events;
            }
            damages += scan.damage.len() as u64;
            let events: u64 = scan.batches.iter().map(|batch| u64::from(batch.count)).sum();
            let groups: u64 = scan.segments.iter().map(|segment| segment.groups).sum();
            let unfinished: u64 = scan.segments.iter().map(|segment| segment.unfinished).sum();
            writeln!(
                out,
                "{topic}{what}: {} in {} and {} read, {}{}",
                counted(events, "event", "events"),
                counted(groups, "group commit", "group commits"),
                counted(scan.segments.len() as u64, "file", "files"),
                if scan.damage.is_empty() { "all whole" } else { "damaged" },
                if unfinished > 0 {
                    format!("; {} at the end belong to a commit that is not finished", bytes(unfinished))
                } else {
                    String::new()
                },
            )?;
        }
    }
    if damages > 0 {
        let damages = counted(damages, "damage", "damages");
        writeln!(out, "{damages}, at most {} events missing", grouped(missing))?;
        return Ok(exit::NOT_ALL);
    }
    if files == 0 {
        writeln!(out, "nothing waits here, no damage")?;
    }
    Ok(exit::OK)
}
