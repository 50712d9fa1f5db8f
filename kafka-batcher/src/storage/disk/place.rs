//! The spool's directory: its lock, its format's version, the reserve, the room that is left.

use std::io::{self, IoSlice, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_batcher_core::StorageError;
use rustix::fs::{FlockOperation, OFlags};

use super::files::Files;
use super::fs::{Fs, failed, make_dir, read_all, remove_if_there, replace};
use super::recovery::DAMAGED;
use super::settings::DiskSettings;
use super::topic::segment_base;
use crate::storage::{FsyncObserver, StorageUsage};

/// Where the directories of the topics lie: a topic may be named as any file of ours.
pub(super) const TOPICS: &str = "topics";
pub(super) const FORMAT: &str = "format";
const LOCK: &str = "lock";
const RESERVE: &str = "reserve";
/// What the format file says.
const VERSION: u32 = 1;
/// A file system that does not say how much of it is free.
const UNKNOWN: u64 = u64::MAX;

/// A spool's directory, held by this process for as long as this lives.
#[derive(Debug)]
pub(super) struct SpoolDir {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) settings: DiskSettings,
    /// Open for being read.
    pub(super) files: Files,
    /// Bytes in segments, dead letters, and what is kept aside because it is damaged.
    used: AtomicU64,
    min_free: u64,
    /// What was free when somebody last look_asked; [`UNKNOWN`]: it was not said.
    free: AtomicU64,
    /// The writer was asked to look again, and has not yet.
    pub(super) look_asked: AtomicBool,
    /// Bytes of a segment: a part of the bound and of the disk, since room is given back by segments.
    pub(super) segment_bytes: u64,
    /// The reserve is on the disk, as far as is known; otherwise it is made when there is room.
    reserved: AtomicBool,
    /// Who is told how long the disk takes.
    fsyncs: Fsyncs,
    /// Held until this is dropped or let go.
    lock: Mutex<Option<std::fs::File>>,
}

/// Only the writer calls it.
#[derive(Default)]
struct Fsyncs(Mutex<Option<FsyncObserver>>);

impl Fsyncs {
    fn lock(&self) -> MutexGuard<'_, Option<FsyncObserver>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Fsyncs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fsyncs").field("observed", &self.lock().is_some()).finish()
    }
}

impl SpoolDir {
    /// Lets go of the directory; nothing of it is used any more.
    pub(super) fn let_go(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Makes the directory if it is not there, and takes hold of it.
    pub(super) fn open(fs: Arc<dyn Fs>, settings: DiskSettings, lock: bool) -> Result<Self, StorageError> {
        let dir = settings.dir.clone();
        let topics = dir.join(TOPICS);
        refuse_strangers(fs.as_ref(), &dir)?;
        make_dir(fs.as_ref(), &topics).map_err(|error| failed("create", &topics, &error))?;
        let lock = if lock { Some(take_lock(&dir.join(LOCK))?) } else { None };
        check_format(fs.as_ref(), &dir, true)?;
        // Who made it may have died before that was durable.
        fs.sync_dir(&dir).map_err(|error| failed("fsync", &dir, &error))?;
        let (free, size) = fs.space(&dir).map_err(|error| failed("look at the room of", &dir, &error))?;
        let min_free = settings.min_free_bytes.unwrap_or((size / 20).min(1 << 30));
        let segment_bytes = settings.segment().min((size / 16).max(64 << 10));
        let (used, free) = (AtomicU64::new(0), AtomicU64::new(free));
        let (files, lock) = (Files::default(), Mutex::new(lock));
        let (reserved, look_asked) = (AtomicBool::new(false), AtomicBool::new(false));
        let fsyncs = Fsyncs::default();
        let place = SpoolDir {
            fs,
            settings,
            files,
            used,
            min_free,
            free,
            look_asked,
            segment_bytes,
            reserved,
            fsyncs,
            lock,
        };
        let used = place.count(&topics).map_err(|error| failed("list", &topics, &error))?;
        place.used.store(used, Ordering::Relaxed);
        place.keep_reserve();
        Ok(place)
    }

    /// Whether the directory that this process took hold of is still the one of that name.
    pub(super) fn is_held(&self) -> bool {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.as_ref().is_none_or(|lock| lock.metadata().is_ok_and(|lock| lock.nlink() > 0))
    }

    /// Makes the directory of a topic, and all above it, if somebody removed them; takes hold of them again.
    ///
    /// # Errors
    /// If that cannot be done, or another process has taken hold of a new directory meanwhile.
    pub(super) fn make_again(&self, topic: &Path) -> Result<(), StorageError> {
        let dir = &self.settings.dir;
        let held = self.is_held();
        if held && !self.fs.list(topic).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        tracing::error!(dir = %dir.display(), "the spool's directory was removed: what waited in it is lost; it is made anew");
        make_dir(self.fs.as_ref(), dir).map_err(|error| failed("create", dir, &error))?;
        if !held {
            let again = take_lock(&dir.join(LOCK))?;
            *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(again);
        }
        make_dir(self.fs.as_ref(), topic).map_err(|error| failed("create", topic, &error))?;
        check_format(self.fs.as_ref(), dir, true)
    }

    pub(super) fn topic_dir(&self, topic: &str) -> PathBuf {
        self.settings.dir.join(TOPICS).join(topic)
    }

    fn count(&self, topics: &Path) -> io::Result<u64> {
        let mut bytes = 0;
        for topic in self.fs.list(topics)? {
            let dir = topics.join(topic);
            for dir in [dir.join(super::dead_letters::DIR), dir] {
                // No directory, no bytes.
                for name in self.fs.list(&dir).unwrap_or_default() {
                    if segment_base(&name).is_some() || name.ends_with(DAMAGED) {
                        // What cannot be opened is its topic's to tell, and stops no other.
                        bytes +=
                            self.fs.open(&dir.join(name), false).and_then(|file| file.len()).unwrap_or(0);
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Bytes in segments and dead letters.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// What is free on the disk, and its size. Blocks: a network's file system may not answer for minutes.
    pub(super) fn space(&self) -> io::Result<(u64, u64)> {
        let space = self.fs.space(&self.settings.dir);
        self.free.store(space.as_ref().map_or(UNKNOWN, |(free, _)| *free), Ordering::Relaxed);
        space
    }

    /// As it was last seen: asks the disk nothing.
    pub(super) fn usage(&self) -> StorageUsage {
        let free = self.free.load(Ordering::Relaxed);
        StorageUsage {
            bytes: self.used.load(Ordering::Relaxed),
            max_bytes: self.settings.max_bytes,
            free_bytes: (free != UNKNOWN).then_some(free),
            min_free_bytes: self.min_free,
        }
    }

    /// The last who asked is told.
    pub(super) fn observe_fsyncs(&self, told: FsyncObserver) {
        *self.fsyncs.lock() = Some(told);
    }

    /// A group was made durable.
    pub(super) fn synced(&self, took: Duration) {
        if let Some(told) = self.fsyncs.lock().as_ref() {
            told(took);
        }
    }

    /// Bytes were added to a log.
    pub(super) fn added(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of a log are gone.
    pub(super) fn freed(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether the bound is half used up, or the disk nearly full: then room is worth some work.
    pub(super) fn is_tight(&self) -> bool {
        let (free, _) = self.space().unwrap_or((u64::MAX, 0));
        self.used.load(Ordering::Relaxed) >= self.settings.max_bytes / 2
            || free.saturating_sub(self.min_free) < self.segment_bytes.saturating_mul(4)
    }

    /// Whether so many bytes of batches may be written, and so many more would still find room.
    ///
    /// # Errors
    /// [`StorageError::Full`] says how much was to be written, how much is used and free, which bound is reached, and what to
    /// do.
    pub(super) fn room_for(&self, bytes: u64, more: u64) -> Result<(), StorageError> {
        let dir = self.settings.dir.display();
        let (used, max) = (self.used.load(Ordering::Relaxed), self.settings.max_bytes);
        let space = self.space();
        let wanted = bytes.saturating_add(more);
        let left = |more: u64| match more {
            0 => String::new(),
            _ => format!(", with {more} left to write them once more when their partitions are known"),
        };
        let kept_free = left(more);
        // The bound may be exceeded a little so that the spool can drain, the disk cannot: a small spool must not keep all
        // of itself for that.
        let more = more.min(max / 8);
        let kept = left(more);
        if used.saturating_add(bytes).saturating_add(more) > max {
            let free = match &space {
                Ok((free, _)) => format!(" (its disk has {free} free)"),
                Err(_) => String::new(),
            };
            return Err(StorageError::Full(format!(
                "{bytes} bytes of batches were to be written to {dir}{kept}; it holds {used} of the {max} that it may \
                 (max_bytes), {} are left{free}; it drains when Kafka takes events again; raise the bound if that may \
                 take longer",
                max.saturating_sub(used)
            )));
        }
        match space {
            Ok((free, _)) if free.saturating_sub(wanted) < self.min_free => Err(StorageError::Full(format!(
                "{bytes} bytes of batches were to be written to {dir}{kept_free}; its disk has {free} free, of which {} are \
                 left to others (min_free_bytes), the spool holds {used} of the {max} that it may (max_bytes); free some \
                 room on the disk, or lower min_free_bytes",
                self.min_free
            ))),
            // A disk that does not say how full it is will say it when it is written.
            _ => Ok(()),
        }
    }

    fn reserve(&self) -> PathBuf {
        self.settings.dir.join(RESERVE)
    }

    /// Gives up the reserve; false if there was none.
    pub(super) fn give_up_reserve(&self) -> bool {
        self.reserved.store(false, Ordering::Relaxed);
        self.fs.remove(&self.reserve()).and_then(|()| self.fs.sync_dir(&self.settings.dir)).is_ok()
    }

    /// Makes the reserve if it is missing and there is room for it.
    pub(super) fn keep_reserve(&self) {
        let bytes = self.settings.reserve_bytes;
        if bytes == 0 || self.reserved.load(Ordering::Relaxed) {
            return;
        }
        if self.fs.open(&self.reserve(), false).is_ok() {
            self.reserved.store(true, Ordering::Relaxed);
            return;
        }
        let (free, _) = self.space().unwrap_or_default();
        if free < bytes.saturating_mul(3) {
            return;
        }
        // If it fails it is tried again when one was wanted and not there, or at the next start.
        self.reserved.store(true, Ordering::Relaxed);
        if let Err(error) = self.write_reserve(bytes) {
            let _ = remove_if_there(self.fs.as_ref(), &self.settings.dir.join("reserve.tmp"));
            tracing::warn!(dir = %self.settings.dir.display(), %error, "cannot keep a reserve on the disk");
        }
    }

    fn write_reserve(&self, bytes: u64) -> io::Result<()> {
        // Not all at once: it may be larger than memory.
        const PIECE: u64 = 1 << 20;
        let temporary = self.settings.dir.join("reserve.tmp");
        remove_if_there(self.fs.as_ref(), &temporary)?;
        let file = self.fs.create(&temporary)?;
        // Written, so that the disk really gives the bytes; and not zeros, which some would not store.
        let piece: Vec<u8> = (0..bytes.min(PIECE)).map(|i| (i % 251) as u8 | 1).collect();
        let mut left = bytes;
        while left > 0 {
            let some = piece.get(..left.min(PIECE) as usize).unwrap_or_default();
            file.append(&mut [IoSlice::new(some)])?;
            left -= some.len() as u64;
        }
        file.sync()?;
        self.fs.rename(&temporary, &self.reserve())?;
        self.fs.sync_dir(&self.settings.dir)
    }
}

/// Takes the lock of a spool, or says who holds it.
fn take_lock(path: &Path) -> Result<std::fs::File, StorageError> {
    let mut options = std::fs::OpenOptions::new();
    // What a link names is not ours: it would be made empty below.
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = opened.map_err(|error| failed("open", path, &error))?;
    if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed("lock", path, &error.into()));
        }
        let holder = std::fs::read_to_string(path).unwrap_or_default();
        let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
        return Err(StorageError::Failed(format!(
            "{} is in use by {holder}; one process at a time may use a spool: stop that one, or use another directory",
            path.parent().unwrap_or(path).display()
        )));
    }
    let program = std::env::args_os().next().map(PathBuf::from);
    let program =
        program.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "process {} ({program})", std::process::id()));
    if let Err(error) = written {
        // A full disk: the lock holds, only its holder is not named.
        tracing::debug!(path = %path.display(), %error, "cannot name the holder of the lock");
    }
    Ok(file)
}

/// Refuses a directory that holds somebody else's files: a typing error would mix ours with them.
fn refuse_strangers(fs: &dyn Fs, dir: &Path) -> Result<(), StorageError> {
    // What the first start leaves that dies before it has written the format, and what a file system's root has.
    let ours = [TOPICS, LOCK, RESERVE, FORMAT, "format.tmp", "reserve.tmp", "lost+found"];
    let names = match fs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let dir = dir.display();
            return Err(StorageError::Failed(format!(
                "{dir} is a file; a spool needs a directory of its own"
            )));
        }
        names => names.map_err(|error| failed("list", dir, &error))?,
    };
    if names.iter().any(|name| name == FORMAT) {
        return Ok(());
    }
    match names.iter().find(|name| !ours.contains(&name.as_str())) {
        Some(stranger) => Err(StorageError::Failed(format!(
            "{} is no spool, and not empty (there is {stranger:?}): a spool needs a directory of its own",
            dir.display()
        ))),
        None => Ok(()),
    }
}

/// Reads the version of a spool's format; writes it where there is none yet.
pub(super) fn check_format(fs: &dyn Fs, dir: &Path, make: bool) -> Result<(), StorageError> {
    let path = dir.join(FORMAT);
    let text = match fs.open(&path, false) {
        Ok(file) => read_all(file.as_ref()).map_err(|error| failed("read", &path, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
            let text = format!("kafka-batcher spool {VERSION}\n");
            return replace(fs, dir, FORMAT, text.as_bytes()).map_err(|error| failed("write", &path, &error));
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let why = match fs.list(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => "does not exist".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    "is a file, and no spool".to_owned()
                }
                _ => format!("is no spool: it has no file named \"{FORMAT}\""),
            };
            return Err(StorageError::Failed(format!("{} {why}", dir.display())));
        }
        Err(error) => return Err(failed("read", &path, &error)),
    };
    let text = String::from_utf8_lossy(&text);
    let version = text.trim().strip_prefix("kafka-batcher spool ").and_then(|v| v.parse::<u32>().ok());
    match version {
        Some(VERSION) => Ok(()),
        Some(version) => Err(StorageError::Failed(format!(
            "{} has format {version}, this program knows {VERSION}; use a newer program",
            dir.display()
        ))),
        None => Err(StorageError::Failed(format!(
            "{} does not say \"kafka-batcher spool {VERSION}\": not a spool, or damaged; if the directory is one, write \
             that line into the file",
            path.display()
        ))),
    }
}

/// Whether a topic may have a directory of its name.
pub(super) fn check_topic(topic: &str) -> Result<(), StorageError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fine = (1..=249).contains(&topic.len()) && topic.bytes().all(legal) && topic != "." && topic != "..";
    if fine {
        return Ok(());
    }
    Err(StorageError::Failed(format!(
        "{topic:?} is no name that Kafka allows for a topic (1 to 249 of a-z, A-Z, 0-9, '.', '_', '-')"
    )))
}
