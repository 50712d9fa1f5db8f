//! Reads batches back, on a thread of its own: every byte is checked before it is given out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kafka_batcher_core::{
    BufferPool, Chunk, DecodeError, HEADER_LEN, MAX_CHUNK, Numbers, RecordBatch, Share, StorageError, Stored,
};
use tokio::sync::oneshot;

use super::super::Read;
use super::bytes::{Place, crc_of, heal};
use super::fs::{File, Unread, failed, gives_the_rest, read_in_blocks};
use super::index::{Entry, NEVER_SENT, Piece};
use super::place::SpoolDir;
use super::recovery::quarantine;
use super::topic::{Segment, Topic};

/// Bytes of memory that the reader keeps to use again.
const REUSED: usize = 16 << 20;
/// For so long, while nobody reads.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// What is to be read.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: i32,
    pub(super) from: u64,
    pub(super) max_bytes: usize,
    pub(super) done: oneshot::Sender<Result<Read, StorageError>>,
}

/// Memory that batches lie in on their way from the disk to Kafka. It is used again while replay goes on: what is asked
/// anew of the system for every batch costs a page fault for every 4 KiB of it.
#[derive(Debug)]
pub(super) struct Memory {
    pool: BufferPool,
    share: Share,
    bytes: Vec<u8>,
    used: bool,
}

/// How often the disk may refuse a batch before that counts as damage: it may only have stumbled.
const REFUSALS: u32 = 5;
/// So many batches that it refused are remembered.
const REMEMBERED: usize = 4_096;

/// How often the disk refused which batch: segment and byte.
type Refused = BTreeMap<(PathBuf, u32), u32>;

/// Whether it is no use to wait for a batch: the disk refused it again and again, and gives other bytes of that file.
fn is_lost(refused: &mut Refused, segment: &Segment, entry: &Entry, others: bool) -> bool {
    if refused.len() > REMEMBERED {
        refused.clear();
    }
    let times = refused.entry((segment.path.clone(), entry.offset)).or_default();
    *times += 1;
    let lost = others && *times >= REFUSALS;
    if lost {
        refused.remove(&(segment.path.clone(), entry.offset));
    }
    lost
}

impl Memory {
    pub(super) fn new() -> Self {
        Memory { pool: BufferPool::new(REUSED), share: Share::new(REUSED), bytes: Vec::new(), used: false }
    }
}

/// Serves reads until nobody can ask any more.
pub(super) fn run(place: &SpoolDir, jobs: &mpsc::Receiver<Job>) {
    let (mut memory, mut refused) = (Memory::new(), Refused::new());
    loop {
        let job = match memory.used {
            true => jobs.recv_timeout(KEPT_FOR),
            false => jobs.recv().map_err(RecvTimeoutError::from),
        };
        match job {
            Ok(job) => {
                let read = read(place, &job, &mut memory, &mut refused);
                // Who asked may have gone.
                let _ = job.done.send(read);
            }
            Err(RecvTimeoutError::Timeout) => {
                memory = Memory::new();
                place.files.clear();
            }
            Err(RecvTimeoutError::Disconnected) => {
                place.files.clear();
                return;
            }
        }
    }
}

struct Planned {
    entry: Entry,
    pieces: Vec<(Piece, Option<Numbers>)>,
    own: Option<kafka_batcher_core::Origin>,
    saved_ms: i64,
    times_given: Vec<std::ops::Range<u32>>,
    segment: Segment,
}

/// Looks up what to read. The segments may be deleted or cleaned meanwhile: see [`Files`](super::files::Files).
fn plan(topic: &Topic, partition: i32, from: u64, max_bytes: usize) -> Vec<Planned> {
    let state = topic.state();
    let Some(lane) = state.lanes.get(&partition) else { return Vec::new() };
    let mut planned = Vec::new();
    let mut bytes = 0;
    for entry in lane.from(from) {
        let Some(segment) = state.segments.get(&entry.segment) else { continue };
        if !planned.is_empty() && bytes + entry.length as usize > max_bytes {
            break;
        }
        bytes += entry.length as usize;
        let pieces = lane.pieces(entry).into_iter().map(|piece| {
            let numbers = piece
                .numbers
                .and_then(|(stamp, origin)| state.origin(origin).map(|origin| Numbers { stamp, origin }));
            (piece, numbers)
        });
        let own = (entry.origin != NEVER_SENT).then(|| state.origin(entry.origin)).flatten();
        let (pieces, saved_ms) = (pieces.collect(), state.times.at(entry.position));
        let times_given = state.given.of(entry.position, entry.count);
        planned.push(Planned { entry: *entry, pieces, own, saved_ms, times_given, segment: segment.clone() });
    }
    planned
}

fn read(
    place: &SpoolDir,
    job: &Job,
    memory: &mut Memory,
    refused: &mut Refused,
) -> Result<Read, StorageError> {
    memory.used = true;
    loop {
        let mut read = Read { next: job.from, ..Read::default() };
        let changed = read_planned(place, job, (memory, refused), &mut read)?;
        // What was read so far is good; what a segment that changed meanwhile had is where it now lies, or settled.
        if !changed || read.next > job.from {
            return Ok(read);
        }
    }
}

/// Reads what there is now; true if it ended early at a segment that is not any more as it was when it was looked up.
fn read_planned(
    place: &SpoolDir,
    job: &Job,
    (memory, refused): (&mut Memory, &mut Refused),
    read: &mut Read,
) -> Result<bool, StorageError> {
    let Job { topic, partition, from, max_bytes, .. } = job;
    let (partition, from, max_bytes, fs) = (*partition, *from, *max_bytes, place.fs.as_ref());
    for planned in plan(topic, partition, from, max_bytes) {
        let Planned { entry, pieces, own, saved_ms, times_given, segment } = planned;
        let at = Place { position: entry.position, partition };
        let fetched = match place.files.of(fs, topic, &segment) {
            Ok(Some(file)) => (fetch(file.as_ref(), &entry, at, memory), Some(file)),
            Ok(None) => return Ok(true),
            Err(error) => (Err(Fetch::Io(error)), None),
        };
        let (what, file) = match fetched {
            (Ok(mut batch), _) => {
                batch.set_times_given(times_given);
                let already = read.batches.len();
                give(&batch, &entry, &pieces, own.as_ref(), from, &mut Chunk::unpooled, &mut read.batches)
                    .map_err(|error| StorageError::Failed(format!("{}: {error}", segment.path.display())))?;
                read.batches.iter_mut().skip(already).for_each(|given| given.saved_ms = saved_ms);
                read.next = entry.end();
                continue;
            }
            (Err(Fetch::Damaged(what)), file) => (what, file),
            (Err(Fetch::Io(error)), file) => {
                let others = match &file {
                    Some(file) => {
                        let bytes = entry.offset.into()..(entry.offset + entry.length).into();
                        gives_the_rest(file.as_ref(), bytes).unwrap_or(false)
                    }
                    // Its name is gone, and not because all of the disk is.
                    None => error.kind() == std::io::ErrorKind::NotFound && fs.list(&topic.dir).is_ok(),
                };
                // What was read so far is given out first.
                let first = read.batches.is_empty() && read.damage.is_empty();
                if !(first && is_lost(refused, &segment, &entry, others)) {
                    return unreadable(read, &segment, &error);
                }
                (format!("it cannot be read: {error}"), file)
            }
        };
        let events = topic.state().damaged(partition, entry.position);
        if events > 0 {
            if let Some(file) = &file {
                let (offset, length) = (entry.offset.into(), entry.length.into());
                quarantine(place, &segment.path, Some(file.as_ref()), offset, length);
            }
            let what = format!(
                "{}, byte {}: {what}; {events} events of partition {partition} missing, positions {}..{}",
                segment.path.display(),
                entry.offset,
                entry.position,
                entry.end()
            );
            read.damage.push((events, what));
        }
        read.next = entry.end();
    }
    Ok(false)
}

/// The disk gave an error. What was read so far is good; the next read meets the error again.
fn unreadable(read: &Read, segment: &Segment, error: &std::io::Error) -> Result<bool, StorageError> {
    let nothing = read.batches.is_empty() && read.damage.is_empty();
    if nothing { Err(failed("read", &segment.path, error)) } else { Ok(false) }
}

/// Why a batch could not be fetched.
#[derive(Debug)]
pub(super) enum Fetch {
    /// The disk gave an error.
    Io(std::io::Error),
    /// The bytes are not what was written.
    Damaged(String),
}

/// Reads a batch and checks it.
pub(super) fn fetch(
    file: &dyn File,
    entry: &Entry,
    place: Place,
    memory: &mut Memory,
) -> Result<RecordBatch, Fetch> {
    let Memory { pool, share, bytes, .. } = memory;
    fill(file, entry, place, bytes)?;
    // Never waits: the reads that are under way are bounded elsewhere.
    let mut chunk = |bytes: usize| pool.acquire_reserve(share, bytes.min(MAX_CHUNK));
    match RecordBatch::decode_in(bytes, &mut chunk) {
        Ok((batch, _)) => Ok(batch),
        Err(DecodeError::BadCrc { .. }) => Err(Fetch::Damaged(BAD_CRC.to_owned())),
        Err(error) => Err(Fetch::Damaged(error.to_string())),
    }
}

/// The same, as bytes; what of the header lies outside the CRC is written anew.
pub(super) fn fetch_bytes(file: &dyn File, entry: &Entry, place: Place) -> Result<Vec<u8>, Fetch> {
    let mut bytes = Vec::new();
    fill(file, entry, place, &mut bytes)?;
    if crc_of(&bytes, entry.length) != Some(entry.crc) {
        return Err(Fetch::Damaged(BAD_CRC.to_owned()));
    }
    Ok(bytes)
}

const BAD_CRC: &str = "the batch is damaged, its CRC does not fit";

/// Reads a batch's bytes, and writes anew what of its header lies outside the CRC, and the CRC that it must have.
fn fill(file: &dyn File, entry: &Entry, place: Place, bytes: &mut Vec<u8>) -> Result<(), Fetch> {
    // Zeroes only what it never held before.
    bytes.resize(entry.length as usize, 0);
    match read_in_blocks(file, bytes, entry.offset.into()) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(Fetch::Damaged("the file ends before the batch does".to_owned()));
        }
        Err(error) | Ok(Unread { error: Some(error), .. }) => return Err(Fetch::Io(error)),
        Ok(_) => {}
    }
    if bytes.len() < HEADER_LEN {
        return Err(Fetch::Damaged(BAD_CRC.to_owned()));
    }
    heal(bytes, place, entry.length, entry.crc);
    Ok(())
}

/// Gives out what waits of a batch, piece by piece; when it was saved is left open. The batch is decoded once.
pub(super) fn give(
    batch: &RecordBatch,
    entry: &Entry,
    pieces: &[(Piece, Option<Numbers>)],
    own: Option<&kafka_batcher_core::Origin>,
    from: u64,
    chunk: &mut dyn FnMut(usize) -> Chunk,
    out: &mut Vec<Stored>,
) -> Result<(), kafka_batcher_core::DecodeError> {
    let wanted = |piece: &Piece| {
        let end = piece.first + piece.count;
        let first = piece.first.max(from.saturating_sub(entry.position).min(end.into()) as u32);
        first..end
    };
    let pieces: Vec<_> = pieces
        .iter()
        .map(|(piece, numbers)| (piece.first, numbers, wanted(piece)))
        .filter(|(_, _, wanted)| !wanted.is_empty())
        .collect();
    let stretches: Vec<_> = pieces.iter().map(|(_, _, wanted)| wanted.clone()).collect();
    for (given, (first, numbers, wanted)) in batch.parts(&stretches, chunk)?.into_iter().zip(pieces) {
        let numbers = match numbers {
            Some(numbers) => {
                let mut stamp = numbers.stamp;
                stamp.first_sequence =
                    kafka_batcher_core::sequence_add(stamp.first_sequence, wanted.start - first);
                Some(Numbers { stamp, origin: numbers.origin.clone() })
            }
            None => own.map(|origin| Numbers { stamp: given.stamp(), origin: origin.clone() }),
        };
        let position = entry.position + u64::from(wanted.start);
        out.push(Stored { position, batch: given, numbers, saved_ms: 0 });
    }
    Ok(())
}
