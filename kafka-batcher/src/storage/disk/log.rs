//! The end of a log: appends group commits, opens segments, and survives a write that fails.
//!
//! A file on which a write or an fsync failed is never written again: nobody can say what of it reached the disk. The
//! next group goes to a new segment, named by the first position that is not durable; what the older one holds at or
//! above that does not exist.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_batcher_core::{Numbers, RecordBatch, StorageError};

use super::bytes::{POSITIONS, Place, placed_header};
use super::control::{Control, Events, Fact, Member};
use super::fs::{File, Fs, failed, is_full, remove_if_there};
use super::topic::segment_name;

/// What is to be written in one group.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) batches: Vec<(i32, RecordBatch, Option<Numbers>)>,
    pub(super) facts: Vec<Fact>,
}

impl Draft {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.facts.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.batches.iter().map(|(_, batch, _)| batch.encoded_len() as u64).sum()
    }
}

/// What was written, and is durable.
#[derive(Debug)]
pub(super) struct Written {
    /// The segment.
    pub(super) id: u32,
    pub(super) base: u64,
    pub(super) path: PathBuf,
    /// Its durable bytes by now, and how many were added.
    pub(super) length: u64,
    pub(super) added: u64,
    /// How long the disk took.
    pub(super) synced_in: Duration,
    /// From where on it accounts for positions, the position of the control batch, the next to be given.
    pub(super) from: u64,
    pub(super) control: u64,
    pub(super) next: u64,
    /// When, in milliseconds since the Unix epoch.
    pub(super) time: i64,
    /// Positions whose events have their time from the user.
    pub(super) given: Vec<Range<u64>>,
    /// The batches with their offsets, in the order of the draft.
    pub(super) members: Vec<(u64, Member)>,
    pub(super) facts: Vec<Fact>,
}

#[derive(Debug)]
struct Active {
    id: u32,
    base: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    length: u64,
}

const GONE: &str =
    "somebody removed the file while it was written; what waited in it is lost if this process dies";

impl Active {
    /// Nothing is left behind its valid bytes.
    fn cut(&self) -> io::Result<()> {
        self.file.cut(self.length)?;
        self.file.sync()
    }
}

/// The end of a log.
#[derive(Debug)]
pub(super) struct Log {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    active: Option<Active>,
    next: u64,
    /// The highest position that names a segment with something in it: no other may have that name.
    taken: Option<u64>,
    next_id: u32,
    segment_bytes: u64,
    /// Segments are written past the page cache.
    direct: bool,
    /// Segments with the rest of a write that failed behind what is valid, since they could not be cut.
    uncut: Vec<Active>,
}

/// The end of a log at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    next: u64,
    taken: Option<u64>,
}

/// A failure, and whether it was for want of room.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) full: bool,
    pub(super) error: StorageError,
}

impl Unwritten {
    pub(super) fn new(doing: &str, path: &Path, error: &io::Error) -> Self {
        Unwritten { full: is_full(error), error: failed(doing, path, error) }
    }

    /// The same of a write of so many bytes of batches: how much room there is, if it was for want of that.
    fn of_bytes(fs: &dyn Fs, doing: &str, path: &Path, error: &io::Error, bytes: u64) -> Self {
        let unwritten = Unwritten::new(doing, path, error);
        match (&unwritten.error, fs.space(path.parent().unwrap_or(path))) {
            (StorageError::Full(_), Ok((free, size))) => Unwritten {
                full: true,
                error: StorageError::Full(format!(
                    "cannot {doing} {}: {error}: {bytes} bytes of batches were to be written, the disk has {free} free of \
                     {size}; the disk itself is the bound: free some room on it; nothing is lost meanwhile, events wait \
                     in memory",
                    path.display()
                )),
            },
            _ => unwritten,
        }
    }
}

impl Log {
    /// A log whose next position is `next`, and whose highest segment is named by `taken`; it begins with a new segment.
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        dir: &Path,
        (next, taken): (u64, Option<u64>),
        next_id: u32,
        segment_bytes: u64,
    ) -> Self {
        let (dir, uncut) = (dir.to_owned(), Vec::new());
        Log { fs, dir, active: None, next, taken, next_id, segment_bytes, direct: false, uncut }
    }

    /// The same, for a log that is hardly ever read, if `direct`.
    pub(super) fn directly(self, direct: bool) -> Self {
        Log { direct, ..self }
    }

    /// The segment that is being written.
    pub(super) fn active(&self) -> Option<u32> {
        self.active.as_ref().map(|active| active.id)
    }

    /// Writes no more to the segment of now.
    pub(super) fn retire(&mut self) {
        let Some(active) = self.active.take() else { return };
        // Before the next begins: what is missing at this one's end would look like the zeros.
        if active.file.is_padded()
            && let Err(error) = active.cut()
        {
            let file = active.path.display();
            tracing::warn!(%file, %error, "zeros stay at the end of a segment; nothing is lost by that");
        }
    }

    /// The segment that is being written goes with all others.
    pub(super) fn forget(&mut self) {
        self.active = None;
    }

    /// Tries again to cut off what failed writes left. The base of the oldest segment that still cannot be cut: only the names
    /// of those behind it say that its rest does not exist, so that none of them may go.
    pub(super) fn cut_again(&mut self) -> Option<u64> {
        self.uncut.retain(|segment| segment.cut().is_err());
        self.uncut.iter().map(|segment| segment.base).min()
    }

    /// Where it ends.
    pub(super) fn mark(&self) -> Mark {
        Mark { next: self.next, taken: self.taken }
    }

    /// It ends there again: what was written since is nobody's. The next segment's name says so; whoever calls this cuts it
    /// off, and has the segments begun since removed.
    pub(super) fn return_to(&mut self, mark: Mark) {
        (self.active, self.next, self.taken) = (None, mark.next, mark.taken);
    }

    /// Writes a group and makes it durable.
    ///
    /// # Errors
    /// Nothing of the group is stored then.
    pub(super) fn write(&mut self, draft: &Draft) -> Result<Written, Unwritten> {
        self.cut_again();
        let bytes = draft.bytes();
        let full = |active: &Active| {
            active.length >= self.segment_bytes
                || active.length.saturating_add(bytes) >= u64::from(u32::MAX) / 2
        };
        if self.active.as_ref().is_some_and(full) {
            self.retire();
        }
        if self.active.is_none() {
            self.open_segment()?;
        }
        let Some(mut active) = self.active.take() else {
            return Err(Unwritten::new("open", &self.dir, &io::ErrorKind::NotFound.into()));
        };
        let group = Group::of(draft, &active, self.next, self.fs.unix_ms());
        if group.control.position + group.control.positions() > POSITIONS {
            let why = "its positions are used up, which only damage can bring about: stop, deliver what waits with \
                       `kafka-batcher spool replay`, then begin a new spool";
            let unwritten = Unwritten::new("write to", &active.path, &io::Error::other(why));
            self.active = Some(active);
            return Err(unwritten);
        }
        let mut pieces: Vec<IoSlice<'_>> = Vec::with_capacity(2 * draft.batches.len() + 1);
        for ((_, batch, _), header) in draft.batches.iter().zip(&group.headers) {
            pieces.push(IoSlice::new(header));
            pieces.extend(batch.body().map(IoSlice::new));
        }
        pieces.push(IoSlice::new(&group.closing));
        let mut synced_in = Duration::ZERO;
        let mut began = Instant::now();
        let written = match active.file.append(&mut pieces) {
            Ok(()) => {
                // Into the page cache it is no work of the disk's.
                if !active.file.is_padded() {
                    began = Instant::now();
                }
                let synced = active.file.sync().map_err(|error| ("fsync", error));
                synced_in = began.elapsed();
                synced
            }
            Err(error) => Err(("write to", error)),
        };
        let written = written.and_then(|()| match active.file.has_name() {
            Ok(true) => Ok(()),
            Ok(false) => Err(("write to", io::Error::new(io::ErrorKind::NotFound, GONE))),
            Err(error) => Err(("look at", error)),
        });
        if let Err((doing, error)) = written {
            let path = active.path.clone();
            self.abandon(active);
            return Err(Unwritten::of_bytes(self.fs.as_ref(), doing, &path, &error, bytes));
        }
        let added = bytes + group.closing.len() as u64;
        active.length += added;
        self.taken = Some(active.base);
        self.next = group.control.position + group.control.positions();
        let done = Written {
            id: active.id,
            base: active.base,
            path: active.path.clone(),
            length: active.length,
            added,
            synced_in,
            from: group.control.from,
            control: group.control.position,
            next: self.next,
            time: group.control.time,
            given: group.control.given,
            members: group.offsets.into_iter().zip(group.control.members).collect(),
            facts: group.control.facts,
        };
        self.active = Some(active);
        Ok(done)
    }

    /// A write failed: what it may have left must not come back. The new segment's name says so, or, where none can be
    /// made, the old one is cut.
    fn abandon(&mut self, active: Active) {
        let cut = if active.length == 0 {
            self.fs.remove(&active.path).and_then(|()| self.fs.sync_dir(&self.dir))
        } else {
            active.cut()
        };
        let opened = self.open_segment();
        if let Err(cut) = cut {
            if let Err(opened) = opened {
                tracing::error!(
                    file = %active.path.display(), %cut, opened = %opened.error,
                    "a failed write could neither be cut off nor cut short: after a crash it may come back and be sent"
                );
            }
            // An empty one goes when its name is needed.
            if active.length > 0 {
                self.uncut.push(active);
            }
        }
    }

    /// Create, fsync file, fsync directory, only then use.
    fn open_segment(&mut self) -> Result<(), Unwritten> {
        let path = self.dir.join(segment_name(self.next));
        if self.taken.is_some_and(|taken| self.next <= taken) {
            // Recovery sees to it that this is never so: it would cost what lies in that segment.
            return Err(Unwritten::new("create", &path, &io::ErrorKind::AlreadyExists.into()));
        }
        let make = || {
            // The rest of a first write that failed: nothing of it was ever acknowledged.
            remove_if_there(self.fs.as_ref(), &path)?;
            let file = if self.direct { self.fs.create_direct(&path) } else { self.fs.create(&path) }?;
            file.sync()?;
            self.fs.sync_dir(&self.dir)?;
            Ok(file)
        };
        let file = make().map_err(|error| Unwritten::new("create", &path, &error))?;
        let id = self.next_id;
        self.next_id += 1;
        self.active = Some(Active { id, base: self.next, path, file, length: 0 });
        Ok(())
    }
}

/// A group as it goes to the disk.
struct Group {
    headers: Vec<[u8; kafka_batcher_core::HEADER_LEN]>,
    offsets: Vec<u64>,
    control: Control,
    closing: Vec<u8>,
}

impl Group {
    fn of(draft: &Draft, active: &Active, next: u64, time: i64) -> Group {
        let (mut position, mut offset) = (next, active.length);
        let (mut headers, mut offsets) = (Vec::new(), Vec::new());
        let mut control = Control { base: active.base, from: next, time, ..Control::default() };
        let mut restamped = Vec::new();
        for (partition, batch, numbers) in &draft.batches {
            let place = Place { position, partition: *partition };
            let (header, crc) = placed_header(batch, place);
            let (count, length) = (batch.count(), batch.encoded_len() as u32);
            headers.push(header);
            offsets.push(offset);
            if let Some(numbers) = numbers.as_ref().filter(|numbers| numbers.stamp != batch.stamp()) {
                let (stamp, origin) = (numbers.stamp, numbers.origin.clone());
                restamped.push(Fact::Numbers { at: Events { place, count, crc }, stamp, origin });
            }
            let origin = numbers.as_ref().map(|numbers| numbers.origin.clone());
            control.members.push(Member { place, count, length, crc, origin });
            let at = |index: u32| position + u64::from(index);
            control.given.extend(batch.times_given().iter().map(|range| at(range.start)..at(range.end)));
            position += u64::from(count);
            offset += u64::from(length);
        }
        control.facts = restamped;
        control.facts.extend(draft.facts.iter().cloned());
        (control.offset, control.position) = (offset, position);
        let closing = control.encode();
        Group { headers, offsets, control, closing }
    }
}
