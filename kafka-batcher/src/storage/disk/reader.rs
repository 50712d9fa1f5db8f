//! Reads batches back, on a thread of its own: every byte is checked before it is given out.

use std::sync::{Arc, mpsc};

use kafka_batcher_core::{Chunk, HEADER_LEN, Numbers, RecordBatch, StorageError, Stored};
use tokio::sync::oneshot;

use super::super::Read;
use super::bytes::{Place, crc_of, heal};
use super::fs::{File, Fs, failed};
use super::index::{Entry, NEVER_SENT, Piece};
use super::recovery::quarantine;
use super::topic::{Segment, Topic};

/// What is to be read.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: i32,
    pub(super) from: u64,
    pub(super) max_bytes: usize,
    pub(super) done: oneshot::Sender<Result<Read, StorageError>>,
}

/// Serves reads until nobody can ask any more.
pub(super) fn run(fs: &dyn Fs, jobs: &mpsc::Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let read = read(fs, &job.topic, job.partition, job.from, job.max_bytes);
        // Who asked may have gone.
        let _ = job.done.send(read);
    }
}

struct Planned {
    entry: Entry,
    pieces: Vec<(Piece, Option<Numbers>)>,
    own: Option<kafka_batcher_core::Origin>,
    saved_ms: i64,
    segment: Segment,
}

/// Looks up what to read; the files stay readable although the segments may be deleted or cleaned meanwhile.
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
        planned.push(Planned { entry: *entry, pieces, own, saved_ms, segment: segment.clone() });
    }
    planned
}

fn read(
    fs: &dyn Fs,
    topic: &Topic,
    partition: i32,
    from: u64,
    max_bytes: usize,
) -> Result<Read, StorageError> {
    let mut read = Read { next: from, ..Read::default() };
    for planned in plan(topic, partition, from, max_bytes) {
        let Planned { entry, pieces, own, saved_ms, segment } = planned;
        let place = Place { position: entry.position, partition };
        let batch = match fetch(segment.file.as_ref(), &entry, place) {
            Ok(batch) => batch,
            Err(Fetch::Io(error)) if read.batches.is_empty() && read.damage.is_empty() => {
                return Err(failed("read", &segment.path, &error));
            }
            // What was read so far is good; the next read meets the error again.
            Err(Fetch::Io(_)) => return Ok(read),
            Err(Fetch::Damaged(what)) => {
                let events = topic.state().damaged(partition, entry.position);
                if events > 0 {
                    quarantine(
                        fs,
                        &segment.path,
                        segment.file.as_ref(),
                        entry.offset.into(),
                        entry.length.into(),
                    );
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
                continue;
            }
        };
        let already = read.batches.len();
        give(&batch, &entry, &pieces, own.as_ref(), from, &mut read.batches)
            .map_err(|error| StorageError::Failed(format!("{}: {error}", segment.path.display())))?;
        read.batches.iter_mut().skip(already).for_each(|given| given.saved_ms = saved_ms);
        read.next = entry.end();
    }
    Ok(read)
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
pub(super) fn fetch(file: &dyn File, entry: &Entry, place: Place) -> Result<RecordBatch, Fetch> {
    let bytes = fetch_bytes(file, entry, place)?;
    RecordBatch::decode(&bytes).map(|(batch, _)| batch).map_err(|error| Fetch::Damaged(error.to_string()))
}

/// The same, as bytes; what of the header lies outside the CRC is written anew.
pub(super) fn fetch_bytes(file: &dyn File, entry: &Entry, place: Place) -> Result<Vec<u8>, Fetch> {
    let mut bytes = vec![0; entry.length as usize];
    match file.read_at(&mut bytes, entry.offset.into()) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(Fetch::Damaged("the file ends before the batch does".to_owned()));
        }
        read => read.map_err(Fetch::Io)?,
    }
    if bytes.len() < HEADER_LEN || crc_of(&bytes, entry.length) != Some(entry.crc) {
        return Err(Fetch::Damaged("the batch is damaged, its CRC does not fit".to_owned()));
    }
    heal(&mut bytes, place, entry.length, entry.crc);
    Ok(bytes)
}

/// Gives out what waits of a batch, piece by piece; when it was saved is left open.
pub(super) fn give(
    batch: &RecordBatch,
    entry: &Entry,
    pieces: &[(Piece, Option<Numbers>)],
    own: Option<&kafka_batcher_core::Origin>,
    from: u64,
    out: &mut Vec<Stored>,
) -> Result<(), kafka_batcher_core::DecodeError> {
    let (mut rest, mut at) = (batch.clone(), 0);
    for (piece, numbers) in pieces {
        let end = piece.first + piece.count;
        let wanted = from.saturating_sub(entry.position).min(u64::from(end)) as u32;
        let first = piece.first.max(wanted);
        if first == end {
            continue;
        }
        if first > at {
            (_, rest) = rest.split(first - at, &mut Chunk::unpooled)?;
        }
        let mut given = rest.clone();
        if end < entry.count {
            (given, rest) = rest.split(end - first, &mut Chunk::unpooled)?;
        }
        at = end;
        let numbers = match numbers {
            Some(numbers) => {
                let mut stamp = numbers.stamp;
                stamp.first_sequence =
                    kafka_batcher_core::sequence_add(stamp.first_sequence, first - piece.first);
                Some(Numbers { stamp, origin: numbers.origin.clone() })
            }
            None => own.map(|origin| Numbers { stamp: given.stamp(), origin: origin.clone() }),
        };
        let position = entry.position + u64::from(first);
        out.push(Stored { position, batch: given, numbers, saved_ms: 0 });
    }
    Ok(())
}
