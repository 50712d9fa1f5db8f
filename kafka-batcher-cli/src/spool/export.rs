//! Writes what waits in a spool somewhere else: as lines of JSON, or as plain Kafka log segments.
//!
//! The spool itself is only read. A file comes under its name when it is whole and on the disk; one that is there already is
//! left alone unless that is asked for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use kafka_batcher::storage::UNASSIGNED;
use kafka_batcher::storage::disk::Spool;

use super::events;
use crate::exit::{self, UsageError};
use crate::units::{bytes, counted};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The spool's directory
    pub(super) dir: PathBuf,

    /// Where to: a file (- is stdout) for ndjson, a directory for segments
    #[arg(long, value_name = "PATH")]
    to: PathBuf,

    /// As what
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,

    /// Only this topic
    #[arg(short, long)]
    topic: Option<String>,

    /// Replace what is there already
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One JSON object an event, as `spool dump` prints it
    Ndjson,
    /// Kafka's own log segments: TO/TOPIC-PARTITION/00000000000000000000.log, offsets from 0, without producer ids; events
    /// whose partition was never known under TO/TOPIC-unassigned
    Segments,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let spool = super::open(&args.dir)?;
    let to_stdout = args.to.as_os_str() == "-";
    if to_stdout && args.format == Format::Segments {
        return Err(UsageError("segments are several files: --to needs a directory".to_owned()).into());
    }
    if !to_stdout && inside(&args.to, &args.dir) {
        let message = format!("{} lies inside of the spool, which is not to be changed", args.to.display());
        return Err(UsageError(message).into());
    }
    let only = args.topic.as_deref();
    let written = match args.format {
        Format::Ndjson if to_stdout => return super::written(events::dump(&spool, only)),
        Format::Ndjson => lines(&spool, only, &args.to, args.force)?,
        Format::Segments => segments(&spool, only, &args.to, args.force)?,
    };
    eprintln!(
        "exported {} ({}) to {}{}",
        counted(written.events, "event", "events"),
        bytes(written.bytes),
        args.to.display(),
        if written.damaged > 0 { "; what is damaged is missing there" } else { "" }
    );
    Ok(if written.damaged > 0 { exit::NOT_ALL } else { exit::OK })
}

#[derive(Default)]
struct Written {
    events: u64,
    bytes: u64,
    damaged: usize,
}

/// Whether `path`, or where it would be, lies in `dir`.
fn inside(path: &Path, dir: &Path) -> bool {
    let Ok(dir) = dir.canonicalize() else { return false };
    let there = path.ancestors().find_map(|there| {
        let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        there.canonicalize().ok()
    });
    there.is_some_and(|there| there.starts_with(dir))
}

/// A file that is there under its name only once it is whole.
struct Partial {
    out: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    bytes: u64,
}

impl Partial {
    fn create(path: &Path, force: bool) -> anyhow::Result<Partial> {
        if !force && path.exists() {
            let message = format!("{} is there already; --force replaces it", path.display());
            return Err(UsageError(message).into());
        }
        if path.exists() && !path.is_file() {
            return Err(UsageError(format!("{} is no regular file", path.display())).into());
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let temporary = path.with_file_name(name);
        let file =
            File::create(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
        Ok(Partial { out: BufWriter::new(file), temporary, path: path.to_owned(), bytes: 0 })
    }

    /// The file is whole: it gets its name.
    fn finish(mut self) -> anyhow::Result<()> {
        let words = || format!("cannot write {}", self.path.display());
        self.out.flush().with_context(words)?;
        self.out.get_ref().sync_all().with_context(words)?;
        std::fs::rename(&self.temporary, &self.path).with_context(words)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).with_context(words)
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Partial {
    /// What is not finished is nobody's; a finished one has another name by now.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn lines(spool: &Spool, only: Option<&str>, to: &Path, force: bool) -> anyhow::Result<Written> {
    let mut file = Partial::create(to, force)?;
    let (events, damaged) = events::write(spool, only, &mut file)
        .with_context(|| format!("cannot export to {}", to.display()))?;
    let bytes = file.bytes;
    file.finish()?;
    Ok(Written { events, bytes, damaged })
}

fn segments(spool: &Spool, only: Option<&str>, to: &Path, force: bool) -> anyhow::Result<Written> {
    let mut written = Written::default();
    for topic in events::topics(spool, only)? {
        let scan = spool.scan(&topic)?;
        let mut logs: BTreeMap<i32, (Partial, u64)> = BTreeMap::new();
        for batch in scan.batches.iter().filter(|batch| batch.whole) {
            for stored in scan.waiting(batch)? {
                let (file, next) = match logs.entry(batch.partition) {
                    Entry::Occupied(log) => log.into_mut(),
                    Entry::Vacant(place) => {
                        let path = segment(to, &topic, batch.partition)?;
                        place.insert((Partial::create(&path, force)?, 0))
                    }
                };
                let mut plain = stored.batch.unstamped().to_bytes();
                // Outside of the CRC: base offset, and the leader's epoch.
                plain.get_mut(..8).into_iter().for_each(|offset| offset.copy_from_slice(&next.to_be_bytes()));
                plain.get_mut(12..16).into_iter().for_each(|epoch| epoch.fill(0));
                file.write_all(&plain).with_context(|| format!("cannot write {}", file.path.display()))?;
                *next += u64::from(stored.batch.count());
                written.events += u64::from(stored.batch.count());
            }
        }
        for (_, (file, _)) in logs {
            written.bytes += file.bytes;
            file.finish()?;
        }
        written.damaged += events::tell_damage(&scan);
    }
    Ok(written)
}

/// Where a partition's segment goes; its folder is made.
fn segment(to: &Path, topic: &str, partition: i32) -> anyhow::Result<PathBuf> {
    let folder = match partition {
        UNASSIGNED => to.join(format!("{topic}-unassigned")),
        partition => to.join(format!("{topic}-{partition}")),
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder.join(format!("{:020}.log", 0)))
}
