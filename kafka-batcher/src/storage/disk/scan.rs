//! Looks at a spool without changing it, also beside the process that writes it: what `spool ls`, `verify` and `dump` are
//! made of.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafka_batcher_core::{Backlog, Chunk, DecodeError, Numbers, Origin, RecordBatch, StorageError, Stored};

use super::bytes::Place;
use super::dead_letters;
use super::fs::{BLOCK, File, Fs, RealFs, failed};
use super::index::{Entry, NEVER_SENT};
use super::load::{Damage, Loaded, Visitor, load};
use super::place::{TOPICS, check_format, check_topic};
use super::reader::{Fetch, Memory, fetch, give};
use super::topic::{Segment, State};
use super::walk::{Found, Group};

/// So often a log is read that another process changes meanwhile: what the last time says was true when it began, of what was
/// written since it says a part.
const LOOKS: u32 = 4;

/// A spool's directory, to be looked at. Takes no lock and writes nothing.
///
/// ```no_run
/// use kafka_batcher::storage::disk::Spool;
///
/// # fn main() -> Result<(), kafka_batcher::storage::StorageError> {
/// let spool = Spool::open("/var/spool/events")?;
/// for topic in spool.topics()? {
///     let scan = spool.scan(&topic)?;
///     for (partition, backlog) in &scan.backlogs {
///         println!("{topic} {partition}: {} events wait", backlog.events);
///     }
///     for damage in &scan.damage {
///         println!("{topic}: {damage}");
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Spool {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
}

impl Spool {
    /// A spool in this directory.
    ///
    /// # Errors
    /// [`StorageError::Failed`]: it is no spool, or one of a newer format, or cannot be read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Spool, StorageError> {
        Spool::with(Arc::new(RealFs), dir.into())
    }

    pub(super) fn with(fs: Arc<dyn Fs>, dir: PathBuf) -> Result<Spool, StorageError> {
        check_format(fs.as_ref(), &dir, false)?;
        Ok(Spool { fs, dir })
    }

    /// The topics that it has, or had, events of. A file among their directories is nobody's.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn topics(&self) -> Result<Vec<String>, StorageError> {
        let topics = self.dir.join(TOPICS);
        let names = self.fs.list(&topics).map_err(|error| failed("list", &topics, &error))?;
        let is_file = |name: &String| {
            let list = self.fs.list(&topics.join(name));
            list.is_err_and(|error| error.kind() == std::io::ErrorKind::NotADirectory)
        };
        Ok(names.into_iter().filter(|name| check_topic(name).is_ok() && !is_file(name)).collect())
    }

    /// Reads all of a topic's log and verifies every byte. Takes about as long as reading the files.
    ///
    /// # Errors
    /// If there is no such topic, or a file cannot be read. Damage is no error: see [`TopicScan::damage`].
    pub fn scan(&self, topic: &str) -> Result<TopicScan, StorageError> {
        check_topic(topic)?;
        self.scan_dir(&self.dir.join(TOPICS).join(topic))
    }

    /// The same of its dead letters. They "wait" for ever; the reason stands in headers of each event
    /// ([`dead_letter_headers`](super::dead_letter_headers)).
    ///
    /// # Errors
    /// As [`Spool::scan`]; no dead letters are no error.
    pub fn dead_letters(&self, topic: &str) -> Result<TopicScan, StorageError> {
        check_topic(topic)?;
        let dir = self.dir.join(TOPICS).join(topic);
        let names = self.fs.list(&dir).map_err(|error| failed("list", &dir, &error))?;
        if !names.iter().any(|name| name == dead_letters::DIR) {
            return Ok(TopicScan::default());
        }
        self.scan_dir(&dir.join(dead_letters::DIR))
    }

    /// Reads a log; once more if segments came or went meanwhile, or the last one is damaged otherwise than before, as long as that
    /// is not all that happens.
    fn look(&self, dir: &Path) -> Result<(Seen, Loaded), StorageError> {
        let (mut times, mut before) = (0, Vec::new());
        loop {
            let mut seen = Seen::default();
            let loaded = load(self.fs.as_ref(), dir, true, &mut seen)?;
            times += 1;
            let again = loaded.moved || (is_blurred(&loaded) && loaded.damage != before);
            if !again || times == LOOKS {
                return Ok((seen, loaded));
            }
            before = loaded.damage;
        }
    }

    fn scan_dir(&self, dir: &Path) -> Result<TopicScan, StorageError> {
        let (mut seen, loaded) = self.look(dir)?;
        let Loaded { state, damage, tails, .. } = loaded;
        for (id, tail) in tails.into_iter().filter(|(_, tail)| tail.torn) {
            if let Some(segment) = seen.segments.get_mut(id as usize) {
                match tail.padding {
                    true => segment.length -= tail.length,
                    false => segment.unfinished = tail.length,
                }
            }
        }
        for (id, segment) in &state.segments {
            if let Some(seen) = seen.segments.get_mut(*id as usize) {
                seen.waiting_bytes = segment.live;
            }
        }
        let backlogs = state.lanes.keys().map(|partition| (*partition, state.backlog(*partition)));
        let backlogs = backlogs.filter(|(_, backlog)| backlog.events > 0).collect();
        let settled = state.lanes.iter().map(|(partition, lane)| (*partition, lane.through()));
        let settled = settled.filter(|(_, through)| *through > 0).collect();
        Ok(TopicScan {
            segments: seen.segments,
            batches: seen.batches,
            backlogs,
            settled,
            partitions: state.partitions,
            next: state.next,
            damage,
            state,
            fs: Some(self.fs.clone()),
            files: seen.files,
        })
    }
}

/// Whether the last segment looks damaged, and may have been read half old and half new: one that ends with a block may be
/// written past the page cache right now.
fn is_blurred(loaded: &Loaded) -> bool {
    let last = loaded.state.segments.values().next_back();
    let written = last.filter(|last| last.length.is_multiple_of(BLOCK)).map(|last| &last.path);
    loaded.damage.iter().any(|damage| Some(&damage.file) == written)
}

/// A segment's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentScan {
    /// The file; Kafka's DumpLogSegments reads it.
    pub path: PathBuf,
    /// The position that names it.
    pub base: u64,
    /// Its bytes.
    pub length: u64,
    /// Bytes of batches in it that wait.
    pub waiting_bytes: u64,
    /// Group commits in it that are closed by a valid control batch.
    pub groups: u64,
    /// Bytes at its end of a group commit that is not finished: being written right now, or cut off by a crash.
    pub unfinished: u64,
}

/// A batch of events in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchScan {
    /// Index of its segment in [`TopicScan::segments`].
    pub segment: usize,
    /// Where in the segment it begins, and its bytes.
    pub offset: u64,
    /// See `offset`.
    pub length: u32,
    /// Position of its first event.
    pub position: u64,
    /// Its partition; [`UNASSIGNED`](super::super::UNASSIGNED) if nobody knew.
    pub partition: i32,
    /// Its events.
    pub count: u32,
    /// Its CRC-32C.
    pub crc: u32,
    /// Where its own producer id was given; `None`: it was not sent before it was saved.
    pub origin: Option<Origin>,
    /// Its bytes are what was written.
    pub whole: bool,
    /// A control batch says so; otherwise only its own header does.
    pub vouched: bool,
}

/// What a topic's log holds.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TopicScan {
    /// The files, in order.
    pub segments: Vec<SegmentScan>,
    /// Every batch of events that is still there, settled or not, in order.
    pub batches: Vec<BatchScan>,
    /// What waits, by partition.
    pub backlogs: Vec<(i32, Backlog)>,
    /// Below which position each partition is settled, as far as that was written down: a process that is at work knows
    /// more.
    pub settled: Vec<(i32, u64)>,
    /// How many partitions the topic had when that was last known.
    pub partitions: Option<i32>,
    /// The next position to be given.
    pub next: u64,
    /// What is damaged, and what it costs.
    pub damage: Vec<Damage>,
    state: State,
    fs: Option<Arc<dyn Fs>>,
    /// The files of the first segments.
    files: Vec<Arc<dyn File>>,
}

/// So many files of a topic stay open, so that what the process that uses the spool deletes or cleans meanwhile can still be
/// read as it was; the oldest, since those go first. More would use up the descriptors that a process may have.
const HELD: usize = 256;

impl TopicScan {
    /// Reads a batch as it was saved.
    ///
    /// # Errors
    /// [`StorageError::Failed`] if it cannot be read or is damaged; or, of a topic with very many segments, if the process
    /// that uses the spool has deleted or cleaned that segment since.
    pub fn read(&self, batch: &BatchScan) -> Result<RecordBatch, StorageError> {
        let path =
            self.segments.get(batch.segment).map(|segment| segment.path.as_path()).unwrap_or(Path::new(""));
        let words =
            |what: &str| StorageError::Failed(format!("{}, byte {}: {what}", path.display(), batch.offset));
        let segment = self.segments.get(batch.segment).ok_or_else(|| words("no such segment"))?;
        let place = Place { position: batch.position, partition: batch.partition };
        let file = self.file(batch.segment, segment)?;
        fetch(file.as_ref(), &batch.entry(), place, &mut Memory::new()).map_err(|error| match error {
            Fetch::Io(error) => failed("read", path, &error),
            Fetch::Damaged(what) => words(&what),
        })
    }

    fn file(&self, at: usize, segment: &SegmentScan) -> Result<Arc<dyn File>, StorageError> {
        let gone = || {
            let path = segment.path.display();
            StorageError::Failed(format!("{path} was deleted or cleaned since the scan: scan again"))
        };
        if let Some(file) = self.files.get(at) {
            return Ok(file.clone());
        }
        let fs = self.fs.as_ref().ok_or_else(gone)?;
        let opened = fs.open(&segment.path, false).and_then(|file| Ok((file.len()?, file)));
        match opened {
            // One that was cleaned is shorter than it was.
            Ok((length, file)) if length >= segment.length => Ok(file),
            Ok(_) => Err(gone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone()),
            Err(error) => Err(failed("read", &segment.path, &error)),
        }
    }

    /// Reads what of a batch waits, with its latest numbers: nothing if it is settled; in pieces where events of it were
    /// renumbered or laid aside.
    ///
    /// # Errors
    /// As [`TopicScan::read`].
    pub fn waiting(&self, batch: &BatchScan) -> Result<Vec<Stored>, StorageError> {
        let mut out = Vec::new();
        let Some(lane) = self.state.lanes.get(&batch.partition) else { return Ok(out) };
        let Some(entry) = lane.holding(batch.position, batch.count) else { return Ok(out) };
        let pieces: Vec<_> = lane
            .pieces(&entry)
            .into_iter()
            .map(|piece| {
                let numbers = piece.numbers.and_then(|(stamp, origin)| {
                    self.state.origin(origin).map(|origin| Numbers { stamp, origin })
                });
                (piece, numbers)
            })
            .collect();
        let mut whole = self.read(batch)?;
        whole.set_times_given(self.state.given.of(batch.position, batch.count));
        give(&whole, &entry, &pieces, batch.origin.as_ref(), 0, &mut Chunk::unpooled, &mut out)
            .map_err(|error: DecodeError| StorageError::Failed(error.to_string()))?;
        let saved_ms = self.state.times.at(batch.position);
        out.iter_mut().for_each(|given| given.saved_ms = saved_ms);
        Ok(out)
    }
}

impl BatchScan {
    fn entry(&self) -> Entry {
        Entry {
            position: self.position,
            offset: self.offset as u32,
            length: self.length,
            count: self.count,
            crc: self.crc,
            segment: self.segment as u32,
            origin: NEVER_SENT,
        }
    }
}

#[derive(Default)]
struct Seen {
    files: Vec<Arc<dyn File>>,
    segments: Vec<SegmentScan>,
    batches: Vec<BatchScan>,
}

impl Visitor for Seen {
    fn segment(&mut self, _: u32, segment: &Segment, file: Arc<dyn File>) {
        if self.files.len() < HELD {
            self.files.push(file);
        }
        let Segment { path, base, length, .. } = segment.clone();
        self.segments.push(SegmentScan { path, base, length, ..SegmentScan::default() });
    }

    fn batch(&mut self, id: u32, found: &Found, vouched: bool) {
        let member = &found.member;
        self.batches.push(BatchScan {
            segment: id as usize,
            offset: found.offset,
            length: member.length,
            position: member.place.position,
            partition: member.place.partition,
            count: member.count,
            crc: member.crc,
            origin: member.origin.clone(),
            whole: found.whole,
            vouched,
        });
    }

    fn control(&mut self, id: u32, _: &Group) {
        if let Some(segment) = self.segments.get_mut(id as usize) {
            segment.groups += 1;
        }
    }
}
