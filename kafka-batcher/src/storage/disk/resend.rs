//! Puts dead letters back among the events that wait, for whoever has mended what they were refused for.

use std::sync::Arc;

use kafka_batcher_core::{RecordBatch, StorageError};

use super::dead_letters::{DeadLetters, without_reason};
use super::load::missing;
use super::log::Draft;
use super::place::SpoolDir;
use super::scan::{Spool, TopicScan};
use super::writer::{GROUP_BYTES, Owned, room_for, write_draft};

/// What [`DiskStorage::resend_dead_letters`](super::DiskStorage::resend_dead_letters) did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resent {
    /// So many events are no dead letters any more, and wait behind all others of their partitions.
    pub events: u64,
    /// Why the rest still are dead letters; `None` if there is no rest.
    pub stopped: Option<StorageError>,
    /// How many events are missing for what is damaged, at most: they are lost.
    pub missing: u64,
    /// What is damaged, in the topic's log and in its dead letters, in words. The damaged bytes are kept aside.
    pub damage: Vec<String>,
}

/// Segment by segment, the oldest first: what one holds is durable in the topic's log before it goes. So a crash in between
/// may send the letters of one segment twice, and loses none.
pub(super) fn resend(
    place: &Arc<SpoolDir>,
    owned: &mut Owned,
    resent: &mut Resent,
) -> Result<(), StorageError> {
    let name = owned.topic.name.clone();
    let spool = Spool::with(place.fs.clone(), place.settings.dir.clone())?;
    // Most topics never have any; looking must not make a directory.
    if spool.dead_letters(&name)?.segments.is_empty() {
        return Ok(());
    }
    // Keeps aside what is damaged: its segment goes.
    let mut letters = DeadLetters::open(place, &name)?;
    let scan = spool.dead_letters(&name)?;
    resent.missing += missing(&scan.damage);
    resent.damage.extend(scan.damage.iter().map(|damage| damage.to_string()));
    for segment in 0..scan.segments.len() {
        put_back(place, owned, &scan, segment, resent)?;
        letters.remove_oldest()?;
    }
    Ok(())
}

/// Writes what a segment holds to the end of the topic's log.
fn put_back(
    place: &SpoolDir,
    owned: &mut Owned,
    scan: &TopicScan,
    segment: usize,
    resent: &mut Resent,
) -> Result<(), StorageError> {
    let mut draft = Draft::default();
    for batch in scan.batches.iter().filter(|batch| batch.segment == segment && batch.whole) {
        for stored in scan.waiting(batch)? {
            let letter = without_reason(&stored.batch).map_err(|error| {
                StorageError::Failed(format!(
                    "the dead letter at position {} cannot be read: {error}",
                    stored.position
                ))
            })?;
            draft.batches.push((batch.partition, letter, None));
        }
        if draft.bytes() >= GROUP_BYTES as u64 {
            flush(place, owned, std::mem::take(&mut draft), resent)?;
        }
    }
    flush(place, owned, draft, resent)
}

fn flush(place: &SpoolDir, owned: &mut Owned, draft: Draft, resent: &mut Resent) -> Result<(), StorageError> {
    let mut bytes = 0;
    for (partition, batch, _) in &draft.batches {
        room_for(place, *partition, bytes, batch.encoded_len() as u64)?;
        bytes += batch.encoded_len() as u64;
    }
    let events: u64 = draft.batches.iter().map(|(_, batch, _)| u64::from(RecordBatch::count(batch))).sum();
    write_draft(place, owned, draft).map_err(|unwritten| unwritten.error)?;
    resent.events += events;
    Ok(())
}
