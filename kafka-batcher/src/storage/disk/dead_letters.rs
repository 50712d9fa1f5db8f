//! Dead letters: events that Kafka will never take, in a log of the same format beside the topic's, with the reason in
//! headers of their own. Its bound drops the oldest. Nothing here is ever replayed by itself.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kafka_batcher_core::{DeadLetter, DecodeError, FailureReason, OwnedHeader, RecordBatch, StorageError};

use super::bytes::{Place, Plain, encode};
use super::fs::{failed, remove_if_there};
use super::log::{Draft, Log, Mark, Unwritten, Written};
use super::place::SpoolDir;
use super::recovery::recover;
use super::topic::{Segment, State};
use crate::storage::DroppedLetters;

/// The directory within the topic's.
pub(super) const DIR: &str = "dead-letters";

/// Why, in a word: `too_large`, `rejected`, `no_such_partition`, `unknowable`, `internal`, `shutdown`, `expired`, `other`.
pub const REASON: &str = "kafka-batcher.dead-letter.reason";
/// The broker's error code, in decimal, if it spoke.
pub const CODE: &str = "kafka-batcher.dead-letter.code";
/// The broker's words, or ours.
pub const MESSAGE: &str = "kafka-batcher.dead-letter.message";
/// When it was laid aside, in milliseconds since the Unix epoch, in decimal.
pub const TIME: &str = "kafka-batcher.dead-letter.time";
/// The event's position in the topic's log, in decimal, if it was saved there.
pub const POSITION: &str = "kafka-batcher.dead-letter.position";

/// The log of a topic's dead letters.
#[derive(Debug)]
pub(super) struct DeadLetters {
    place: Arc<SpoolDir>,
    log: Log,
    /// The oldest first.
    segments: VecDeque<Shelf>,
    /// Where the log ended, and its last segment as it was, before what is kept for a group that is not yet durable.
    before: Option<(Mark, Option<Shelf>)>,
}

/// A segment of letters.
#[derive(Clone, Debug)]
struct Shelf {
    id: u32,
    path: PathBuf,
    length: u64,
    /// Events that an earlier process put there, and this one.
    events: DroppedLetters,
}

impl DeadLetters {
    pub(super) fn open(place: &Arc<SpoolDir>, topic: &str) -> Result<DeadLetters, StorageError> {
        let dir = place.topic_dir(topic).join(DIR);
        let topic_dir = place.topic_dir(topic);
        let made = place.fs.create_dir(&dir).and_then(|()| place.fs.sync_dir(&topic_dir));
        made.map_err(|error| failed("create", &dir, &error))?;
        // An eighth, so that dropping the oldest does not drop all.
        let segment_bytes = place.segment_bytes.min(place.settings.dead_letter_bytes / 8).max(1);
        let recovered = recover(place, &dir, segment_bytes)?;
        for damage in &recovered.damage {
            tracing::error!(topic, %damage, "damaged dead letters");
        }
        let State { lanes, segments, .. } = recovered.state;
        let shelf = |(id, Segment { path, length, .. })| {
            let entries = lanes.values().flat_map(|lane| lane.in_segment(id));
            let earlier = entries.map(|entry| u64::from(entry.count)).sum();
            Shelf { id, path, length, events: DroppedLetters { earlier, own: 0 } }
        };
        let segments = segments.into_iter().map(shelf).collect();
        Ok(DeadLetters { place: place.clone(), log: recovered.log, segments, before: None })
    }

    /// The same where there are any, for when a topic is opened: that reads all of them, and the writer has others to serve. What
    /// goes wrong is met again, and answered, when the next letter comes.
    pub(super) fn if_there(place: &Arc<SpoolDir>, topic: &str) -> Option<DeadLetters> {
        let names = place.fs.list(&place.topic_dir(topic)).unwrap_or_default();
        let open = || DeadLetters::open(place, topic);
        names.iter().any(|name| name == DIR).then(open)?.ok()
    }

    /// Keeps the letters; they are durable then. Whether they stay, [`settle`](Self::settle) decides.
    pub(super) fn keep(&mut self, partition: i32, letters: &[DeadLetter]) -> Result<(), Unwritten> {
        let now = self.place.fs.unix_ms();
        let mut draft = Draft::default();
        for letter in letters {
            let batch = with_reason(letter, now).map_err(|error| Unwritten {
                full: false,
                error: StorageError::Failed(format!("a dead letter cannot be read: {error}")),
            })?;
            draft.batches.push((partition, batch, None));
        }
        if draft.is_empty() {
            return Ok(());
        }
        if self.before.is_none() {
            self.before = Some((self.log.mark(), self.segments.back().cloned()));
        }
        let Written { id, path, length, added, .. } = self.log.write(&draft)?;
        self.place.added(added);
        if self.segments.back().is_none_or(|shelf| shelf.id != id) {
            self.segments.push_back(Shelf { id, path, length, events: DroppedLetters::default() });
        }
        if let Some(shelf) = self.segments.back_mut() {
            shelf.length = length;
            shelf.events.own += letters.iter().map(|letter| u64::from(letter.batch.count())).sum::<u64>();
        }
        Ok(())
    }

    /// What was kept stays, since its holes are durable; or it is taken back, since they are not: the events wait as before,
    /// and are kept again when they are refused again. What had to go for it.
    pub(super) fn settle(&mut self, stays: bool) -> DroppedLetters {
        let Some((mark, last)) = self.before.take() else { return DroppedLetters::default() };
        if stays {
            return self.bound();
        }
        if self.log.mark() != mark {
            self.log.return_to(mark);
            if let Err(error) = self.cut_back(last) {
                tracing::warn!(%error, "dead letters may lie there twice: what was kept of some could not be taken back");
            }
        }
        DroppedLetters::default()
    }

    fn cut_back(&mut self, last: Option<Shelf>) -> io::Result<()> {
        let fs = self.place.fs.clone();
        while let Some(shelf) = self.segments.back_mut() {
            let keep = last.as_ref().filter(|last| last.id == shelf.id);
            let gone = shelf.length.saturating_sub(keep.map_or(0, |keep| keep.length));
            match keep {
                Some(keep) if gone > 0 => {
                    let file = fs.open(&shelf.path, true)?;
                    file.cut(keep.length)?;
                    file.sync()?;
                    *shelf = keep.clone();
                }
                Some(_) => return Ok(()),
                None => {
                    remove_if_there(fs.as_ref(), &shelf.path)?;
                    fs.sync_dir(shelf.path.parent().unwrap_or(&shelf.path))?;
                    self.segments.pop_back();
                }
            }
            self.place.freed(gone);
        }
        Ok(())
    }

    /// The letters of the oldest segment are no letters any more.
    pub(super) fn remove_oldest(&mut self) -> Result<(), StorageError> {
        let Some(Shelf { path, length, .. }) = self.segments.pop_front() else { return Ok(()) };
        let dir = path.parent().unwrap_or(&path);
        remove_if_there(self.place.fs.as_ref(), &path).map_err(|error| failed("remove", &path, &error))?;
        self.place.fs.sync_dir(dir).map_err(|error| failed("fsync", dir, &error))?;
        self.place.freed(length);
        Ok(())
    }

    fn bound(&mut self) -> DroppedLetters {
        let mut dropped = DroppedLetters::default();
        let mut bytes: u64 = self.segments.iter().map(|shelf| shelf.length).sum();
        while bytes > self.place.settings.dead_letter_bytes && self.segments.len() > 1 {
            let Some(Shelf { path, length, events, .. }) = self.segments.front() else { break };
            if let Err(error) = remove_if_there(self.place.fs.as_ref(), path) {
                // It is tried again with the next letter.
                tracing::warn!(file = %path.display(), %error, "cannot remove old dead letters");
                break;
            }
            self.place.freed(*length);
            bytes -= length;
            dropped.own += events.own;
            dropped.earlier += events.earlier;
            self.segments.pop_front();
        }
        dropped
    }
}

/// The letter's event with the reason in its headers, as a batch of its own, without numbers.
pub(super) fn with_reason(letter: &DeadLetter, now: i64) -> Result<RecordBatch, DecodeError> {
    let reason = match letter.error.reason {
        FailureReason::TooLarge => "too_large",
        FailureReason::Rejected => "rejected",
        FailureReason::NoSuchPartition => "no_such_partition",
        FailureReason::Shutdown => "shutdown",
        FailureReason::Expired => "expired",
        FailureReason::Unknowable => "unknowable",
        FailureReason::Internal => "internal",
        _ => "other",
    };
    let code = letter.error.code.map(|code| code.to_string());
    let position = letter.position.map(|position| position.to_string());
    let time = now.to_string();
    let mut own: Vec<(&str, Option<&[u8]>)> = vec![(REASON, Some(reason.as_bytes()))];
    own.extend(code.as_ref().map(|code| (CODE, Some(code.as_bytes()))));
    // Where nobody else spoke, in our own words.
    let message = match letter.error.message.is_empty() {
        true => letter.error.to_string(),
        false => letter.error.message.clone(),
    };
    own.push((MESSAGE, Some(message.as_bytes())));
    own.push((TIME, Some(time.as_bytes())));
    own.extend(position.as_ref().map(|position| (POSITION, Some(position.as_bytes()))));
    reencode(&letter.batch, |headers| headers.len(), &own)
}

/// The event as it was before it became a dead letter.
pub(super) fn without_reason(batch: &RecordBatch) -> Result<RecordBatch, DecodeError> {
    let ours = |header: &OwnedHeader| [REASON, CODE, MESSAGE, TIME, POSITION].contains(&header.name.as_str());
    // They stand behind the event's own, whatever names those have.
    reencode(
        batch,
        |headers| headers.iter().rposition(|header| !ours(header)).map_or(0, |last| last + 1),
        &[],
    )
}

/// The same events without numbers: of each as many headers as `keep` says, and these.
fn reencode(
    batch: &RecordBatch,
    keep: impl Fn(&[OwnedHeader]) -> usize,
    added: &[(&str, Option<&[u8]>)],
) -> Result<RecordBatch, DecodeError> {
    let records = batch.records()?;
    let plain: Vec<Plain<'_>> = records
        .iter()
        .map(|record| Plain {
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: record
                .headers
                .iter()
                .take(keep(&record.headers))
                .map(|header| (header.name.as_str(), header.value.as_deref()))
                .chain(added.iter().copied())
                .collect(),
        })
        .collect();
    let (mut same, _) = RecordBatch::decode(&encode(Place { position: 0, partition: -1 }, false, &plain))?;
    same.set_times_given(batch.times_given().to_vec());
    Ok(same)
}
