//! What the writer is asked to write, and what of it goes into a group commit.

use kafka_batcher_core::{DeadLetter, RecordBatch, Renumbered, StorageError, ToSave};

use super::bytes::Place;
use super::control::{Events, Fact};
use super::log::Draft;
use super::writer::Owned;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Work {
    Save { partition: i32, batches: Vec<ToSave> },
    Renumber { partition: i32, numbers: Vec<Renumbered> },
    Reject { partition: i32, letters: Vec<DeadLetter> },
    Drop { partition: i32, from: u64, through: u64 },
    Regroup { through: u64, batches: Vec<(i32, RecordBatch)> },
    Partitions(i32),
}

impl Work {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Work::Save { batches, .. } => batches.iter().map(|saved| saved.batch.encoded_len()).sum(),
            Work::Regroup { batches, .. } => batches.iter().map(|(_, batch)| batch.encoded_len()).sum(),
            Work::Renumber { .. } | Work::Reject { .. } | Work::Drop { .. } | Work::Partitions(_) => 0,
        }
    }

    /// It only says something about what is stored already, and may use the reserve.
    pub(super) fn is_control(&self) -> bool {
        !matches!(self, Work::Save { .. } | Work::Regroup { .. })
    }
}

/// Adds to the draft what a work needs written; how many positions its answer has.
pub(super) fn draft_work(owned: &Owned, work: &Work, draft: &mut Draft) -> usize {
    let before = draft.batches.len();
    match work {
        Work::Save { partition, batches } => {
            draft
                .batches
                .extend(batches.iter().map(|saved| (*partition, saved.batch.clone(), saved.numbers.clone())));
        }
        Work::Regroup { through, batches } => {
            draft.batches.extend(batches.iter().map(|(partition, batch)| (*partition, batch.clone(), None)));
            let through = (*through).min(owned.topic.state().next);
            draft.facts.push(Fact::Regrouped { through });
        }
        Work::Renumber { partition, numbers } => {
            let state = owned.topic.state();
            let Some(lane) = state.lanes.get(partition) else { return 0 };
            for Renumbered { position, count, numbers } in numbers {
                if let Some(entry) = lane.holding(*position, *count) {
                    let place = Place { position: *position, partition: *partition };
                    let at = Events { place, count: *count, crc: entry.crc };
                    let (stamp, origin) = (numbers.stamp, numbers.origin.clone());
                    draft.facts.push(Fact::Numbers { at, stamp, origin });
                }
            }
        }
        Work::Reject { partition, letters } => {
            let state = owned.topic.state();
            let Some(lane) = state.lanes.get(partition) else { return 0 };
            for letter in letters {
                let count = letter.batch.count();
                let Some(position) = letter.position else { continue };
                if let Some(entry) = lane.holding(position, count) {
                    let place = Place { position, partition: *partition };
                    let begins = entry.position == position;
                    add_hole(&mut draft.facts, Events { place, count, crc: entry.crc }, begins);
                }
            }
        }
        Work::Drop { partition, from, through } => {
            let state = owned.topic.state();
            let (partition, from, through) = (*partition, *from, (*through).min(state.next));
            let lane = state.lanes.get(&partition);
            if from < through {
                draft.facts.push(if lane.is_none_or(|lane| lane.is_front(from)) {
                    Fact::Settled { partition, through }
                } else {
                    Fact::Dropped { partition, from: lane.map_or(from, |lane| lane.joined(from)), through }
                });
            }
        }
        Work::Partitions(count) => {
            if owned.topic.state().partitions != Some(*count) {
                draft.facts.push(Fact::Partitions(*count));
            }
        }
    }
    draft.batches.len() - before
}

/// Adds the word that these events are a hole: to the last one, if they lie behind its events in the same batch, that is
/// unless they begin one.
fn add_hole(facts: &mut Vec<Fact>, events: Events, begins: bool) {
    if let (false, Some(Fact::Hole { at })) = (begins, facts.last_mut())
        && at.place.position + u64::from(at.count) == events.place.position
        && (at.place.partition, at.crc) == (events.place.partition, events.crc)
    {
        at.count += events.count;
        return;
    }
    facts.push(Fact::Hole { at: events });
}

/// Events that wait must lie within one saved batch; what is settled meanwhile needs no numbers.
pub(super) fn check_renumbered(
    owned: &Owned,
    partition: i32,
    numbers: &[Renumbered],
) -> Result<(), StorageError> {
    let state = owned.topic.state();
    let lane = state.lanes.get(&partition);
    for renumbered in numbers {
        let Renumbered { position, count, .. } = renumbered;
        let known =
            lane.is_some_and(|lane| *position < lane.through() || lane.holding(*position, *count).is_some());
        if !known {
            return Err(StorageError::Failed(format!(
                "events {position}..{} of {} partition {partition} cannot be renumbered: no saved batch holds them all",
                position + u64::from(*count),
                owned.topic.name
            )));
        }
    }
    Ok(())
}
