//! Gives room back: writes down what is settled, deletes segments of which nothing waits, and cleans those of which
//! little does, as Kafka cleans them: the live batches at their original positions.

use std::io::{self, IoSlice};
use std::sync::Arc;

use kafka_batcher_core::StorageError;

use super::bytes::Place;
use super::checkpoint::Checkpoint;
use super::control::{Control, Member};
use super::fs::{File, failed, remove_if_there};
use super::index::Entry;
use super::log::{Draft, Unwritten};
use super::place::SpoolDir;
use super::reader::{Fetch, fetch_bytes};
use super::topic::{Segment, State};
use super::writer::{Owned, Writer, write_whole};

impl Writer {
    /// Tidies every topic that has settled something: all of it (`fully`), or where there is much.
    pub(super) fn tidy(&mut self, fully: bool) {
        let place = self.place.clone();
        for owned in self.topics.values_mut() {
            let due = if fully { owned.topic.state().commits > 0 } else { Writer::is_due(owned) };
            if !due {
                continue;
            }
            let tidied = tidy_with_reserve(&place, owned, fully);
            if let (Err(error), false) = (&tidied, owned.untidy) {
                // It costs room and, after a crash, resends.
                tracing::warn!(topic = owned.topic.name, %error, "cannot tidy the spool; it is tried again");
            }
            owned.untidy = tidied.is_err();
            self.unsettled |= owned.is_unsettled();
        }
    }

    /// Says where each log ends: at an orderly end nothing may be missing behind that, while a log that ends in the middle of a
    /// group looks like any that was killed.
    pub(super) fn say_ends(&mut self) {
        for owned in self.topics.values() {
            let told = {
                let state = owned.topic.state();
                state.is_empty() || state.checkpoint_end == state.end
            };
            if !told && let Err(unwritten) = write_checkpoint(&self.place, owned) {
                let (topic, error) = (&owned.topic.name, &unwritten.error);
                tracing::warn!(topic, %error, "cannot write down where the log ends; nothing is lost by that");
            }
        }
    }

    /// Tidies one topic: what it settled is durable then.
    pub(super) fn tidy_one(&mut self, name: &str) -> Result<Vec<u64>, StorageError> {
        let place = self.place.clone();
        let Some(owned) = self.topics.get_mut(name) else { return Ok(Vec::new()) };
        let tidied = tidy_with_reserve(&place, owned, false);
        self.unsettled |= owned.is_unsettled();
        tidied.map(|()| Vec::new())
    }
}

pub(super) fn tidy_with_reserve(
    place: &Arc<SpoolDir>,
    owned: &mut Owned,
    fully: bool,
) -> Result<(), StorageError> {
    let tidied = tidy(place, owned, fully).or_else(|unwritten| {
        if unwritten.full && place.give_up_reserve() { tidy(place, owned, fully) } else { Err(unwritten) }
    });
    tidied.map_err(|unwritten| unwritten.error)
}

/// The segments that go, and those that shrink.
fn choose(state: &State, active: Option<u32>, tight: bool) -> (Vec<u32>, Vec<u32>) {
    let last = state.segments.keys().next_back().copied();
    let done = |id: &u32| Some(*id) != active && Some(*id) != last;
    let delete: Vec<u32> =
        state.segments.iter().filter(|(id, s)| done(id) && s.batches == 0).map(|(id, _)| *id).collect();
    // Where room is short a quarter is worth the writing of the rest.
    let worth =
        |segment: &Segment| if tight { segment.length - segment.length / 4 } else { segment.length / 2 };
    let small = |segment: &Segment| segment.batches > 0 && segment.live < worth(segment) && !segment.suspect;
    let mut small: Vec<u32> =
        state.segments.iter().filter(|(id, s)| done(id) && small(s)).map(|(id, _)| *id).collect();
    // The one that needs the least room first: it makes room for the next.
    small.sort_by_key(|id| state.segments.get(id).map(|segment| segment.live));
    // The one at which replay stands shrinks by itself: only what replay has passed is worth the work.
    let passed = |id: &u32| tight || delete.iter().chain(&small).any(|other| other > id);
    let clean = small.iter().copied().filter(passed).collect();
    (delete, clean)
}

fn tidy(place: &Arc<SpoolDir>, owned: &mut Owned, fully: bool) -> Result<(), Unwritten> {
    let uncut = owned.log.cut_again();
    // It asks the disk: not while others wait for the state.
    let tight = place.is_tight();
    let (mut delete, mut clean) = {
        let state = owned.topic.state();
        if let Some(uncut) = uncut {
            // What lies behind it keeps its rest from coming back.
            let before = |id: &u32| state.segments.get(id).is_some_and(|segment| segment.base < uncut);
            let (mut delete, mut clean) = choose(&state, owned.log.active(), tight);
            delete.retain(before);
            clean.retain(before);
            (delete, clean)
        } else if fully && state.is_empty() && state.segments.values().any(|segment| segment.data) {
            // Nothing waits: the whole log may go. Positions go on where they were: the checkpoint knows them.
            (state.segments.keys().copied().collect(), Vec::new())
        } else {
            choose(&state, owned.log.active(), tight)
        }
    };
    let all = delete.len() == owned.topic.state().segments.len();
    if is_paused(place, owned) {
        clean.clear();
    }
    let mut carried = Ok(());
    if !all {
        // In one write, as long as there is room for what is only worth it.
        let gone: Vec<u32> = delete.iter().chain(&clean).copied().collect();
        carried = carry(place, owned, &delete, &gone);
        if carried.is_err() {
            if clean.is_empty() {
                return carried;
            }
            clean.clear();
            carry(place, owned, &delete, &delete)?;
        }
    }
    write_checkpoint(place, owned)?;
    if all && !delete.is_empty() {
        owned.log.forget();
        // Nothing of the log is left that a change could be about.
        let mut state = owned.topic.state();
        state.lanes.values_mut().for_each(super::index::Lane::forget_all_changes);
        state.logged.clear();
        state.partitions_at = None;
    }
    let deletes = !delete.is_empty();
    for id in delete.drain(..) {
        let segment = owned.topic.state().segments.get(&id).cloned();
        if let Some(segment) = segment {
            remove_if_there(place.fs.as_ref(), &segment.path)
                .map_err(|e| Unwritten::new("remove", &segment.path, &e))?;
            place.freed(segment.length);
            owned.topic.state().segments.remove(&id);
            place.files.forget(&segment.path);
        }
    }
    if deletes {
        let dir = &owned.topic.dir;
        place.fs.sync_dir(dir).map_err(|e| Unwritten::new("fsync", dir, &e))?;
        owned.topic.state().forget_deleted();
    }
    clean_some(place, owned, carried, &clean);
    Ok(())
}

/// After a cleaning that failed the next is tried when so many milliseconds have passed: each writes up to a segment.
const PAUSE_MS: u64 = 10_000;

fn is_paused(place: &SpoolDir, owned: &Owned) -> bool {
    owned.unclean.is_some_and(|since| place.fs.unix_ms().abs_diff(since) < PAUSE_MS)
}

/// Cleans what is worth it, if what these segments say of others was carried over. Nothing depends on it but room: what was
/// settled is written down, and nothing is said to have failed that has not. The reserve is not for it.
fn clean_some(place: &SpoolDir, owned: &mut Owned, carried: Result<(), Unwritten>, clean: &[u32]) {
    let mut cleaned = carried;
    for id in clean {
        // Where one has no room, another may.
        cleaned = cleaned.and(clean_segment(place, owned, *id));
    }
    match cleaned {
        Ok(()) if clean.is_empty() => {}
        Ok(()) => owned.unclean = None,
        Err(unwritten) => {
            if owned.unclean.is_none() {
                let (topic, error) = (&owned.topic.name, &unwritten.error);
                tracing::warn!(topic, %error, "cannot clean segments of the spool; they take more room meanwhile");
            }
            owned.unclean = Some(place.fs.unix_ms());
        }
    }
}

/// Writes again what control batches of these segments, `gone`, say of others. Those of them that are deleted are gone for
/// good, of what is cleaned something stays.
fn carry(place: &SpoolDir, owned: &mut Owned, delete: &[u32], gone: &[u32]) -> Result<(), Unwritten> {
    if gone.is_empty() {
        return Ok(());
    }
    let facts = {
        let state = owned.topic.state();
        let stays = state.segments.iter().filter(|(id, _)| !delete.contains(id));
        let lowest = stays.map(|(_, segment)| segment.base).min().unwrap_or(u64::MAX);
        let mut facts = Vec::new();
        let origin = |index| state.origin(index).unwrap_or_default();
        for (partition, lane) in &state.lanes {
            lane.carry(*partition, gone, &origin, &mut facts);
        }
        facts.extend(state.unlogged(gone, lowest));
        facts
    };
    if facts.is_empty() {
        return Ok(());
    }
    write_whole(place, owned, &Draft { batches: Vec::new(), facts })?;
    let to = owned.log.active().unwrap_or_default();
    for lane in owned.topic.state().lanes.values_mut() {
        lane.carried(gone, to);
    }
    Ok(())
}

fn write_checkpoint(place: &SpoolDir, owned: &Owned) -> Result<(), Unwritten> {
    let (checkpoint, commits, settled) = {
        let state = owned.topic.state();
        let through = state.lanes.iter().map(|(partition, lane)| (*partition, lane.through()));
        let checkpoint = Checkpoint {
            next: state.next,
            end: state.end,
            partitions: state.partitions,
            through: through.filter(|(_, through)| *through > 0).collect(),
        };
        (checkpoint, state.commits, state.settled)
    };
    owned.topic.state().forget_times();
    let dir = &owned.topic.dir;
    checkpoint
        .write(place.fs.as_ref(), dir)
        .map_err(|error| Unwritten::new("write the checkpoint in", dir, &error))?;
    let mut state = owned.topic.state();
    state.commits = state.commits.saturating_sub(commits);
    state.settled = state.settled.saturating_sub(settled);
    state.checkpoint_end = checkpoint.end;
    Ok(())
}

/// Writes what waits of a segment into a new file and puts that in its place.
fn clean_segment(place: &SpoolDir, owned: &Owned, id: u32) -> Result<(), Unwritten> {
    let (segment, live) = {
        let state = owned.topic.state();
        let Some(segment) = state.segments.get(&id).cloned() else { return Ok(()) };
        let mut live = Vec::new();
        for (partition, lane) in &state.lanes {
            for entry in lane.in_segment(id) {
                let (origin, saved_ms) = (state.origin(entry.origin), state.times.at(entry.position));
                let given = state.given.within(entry.position..entry.end()).collect();
                live.push(Live { partition: *partition, entry: *entry, origin, saved_ms, given });
            }
        }
        (segment, live)
    };
    let mut live = live;
    live.sort_unstable_by_key(|live| live.entry.position);
    let temporary = segment.path.with_extension("cleaned");
    let rewritten = rewrite(place, &segment, &live, &temporary);
    let (old, length, offsets) = match rewritten {
        Ok(rewritten) => rewritten,
        Err(error) => {
            let _ = remove_if_there(place.fs.as_ref(), &temporary);
            if error.kind() == io::ErrorKind::InvalidData {
                if let Some(segment) = owned.topic.state().segments.get_mut(&id) {
                    segment.suspect = true;
                }
                return Ok(());
            }
            return Err(Unwritten::new("clean", &segment.path, &error));
        }
    };
    if let Some(segment) = owned.topic.state().segments.get_mut(&id) {
        // From here on nobody opens it by its name and takes it for what it was.
        (segment.pinned, segment.cleaned) = (Some(old), segment.cleaned + 1);
    }
    let renamed =
        place.fs.rename(&temporary, &segment.path).and_then(|()| place.fs.sync_dir(&owned.topic.dir));
    // It may have been renamed all the same: what is pinned stays so, and is what its batches lie in.
    renamed.map_err(|error| Unwritten { full: false, error: failed("replace", &segment.path, &error) })?;
    place.freed(segment.length);
    place.added(length);
    let mut state = owned.topic.state();
    let moved: std::collections::BTreeMap<u64, u32> = offsets.into_iter().collect();
    let (mut bytes, mut batches) = (0, 0);
    for lane in state.lanes.values_mut() {
        for entry in lane.in_segment_mut(id) {
            if let Some(offset) = moved.get(&entry.position) {
                entry.offset = *offset;
                bytes += u64::from(entry.length);
                batches += 1;
            }
        }
    }
    if let Some(segment) = state.segments.get_mut(&id) {
        (segment.length, segment.live, segment.batches) = (length, bytes, batches);
        segment.pinned = None;
    }
    drop(state);
    place.files.forget(&segment.path);
    Ok(())
}

/// The file as it was, the length of the new one, where in it each batch lies.
type Rewritten = (Arc<dyn File>, u64, Vec<(u64, u32)>);

/// A batch that waits in a segment that is cleaned.
struct Live {
    partition: i32,
    entry: Entry,
    origin: Option<kafka_batcher_core::Origin>,
    saved_ms: i64,
    /// Positions whose events have their time from the user.
    given: Vec<std::ops::Range<u64>>,
}

fn rewrite(
    place: &SpoolDir,
    segment: &Segment,
    live: &[Live],
    temporary: &std::path::Path,
) -> io::Result<Rewritten> {
    remove_if_there(place.fs.as_ref(), temporary)?;
    let old = match &segment.pinned {
        Some(pinned) => pinned.clone(),
        None => place.fs.open(&segment.path, false)?,
    };
    let file = place.fs.create(temporary)?;
    let (mut length, mut offsets) = (0u64, Vec::with_capacity(live.len()));
    // In the place of the segment's last control batch, it accounts for all that was before.
    let mut control =
        Control { base: segment.base, from: segment.base, position: segment.control, ..Control::default() };
    for Live { partition, entry, origin, saved_ms, given } in live {
        control.given.extend(given.iter().cloned());
        let at = Place { position: entry.position, partition: *partition };
        if control.saved.last().is_none_or(|(_, last)| last != saved_ms) {
            control.saved.push((entry.position, *saved_ms));
        }
        let bytes = match fetch_bytes(old.as_ref(), entry, at) {
            Ok(bytes) => bytes,
            Err(Fetch::Io(error)) => return Err(error),
            // The reader finds it, and says what it cost; until then the segment stays as it is.
            Err(Fetch::Damaged(what)) => return Err(io::Error::new(io::ErrorKind::InvalidData, what)),
        };
        file.append(&mut [IoSlice::new(&bytes)])?;
        offsets.push((entry.position, length as u32));
        length += u64::from(entry.length);
        let Entry { count, length, crc, .. } = *entry;
        control.members.push(Member { place: at, count, length, crc, origin: origin.clone() });
    }
    if live.last().is_some_and(|last| last.entry.end() > control.position) {
        // Nobody would believe such a control batch: the segment stays as it is.
        let what = "a batch lies behind the position of its control batch";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    (control.offset, control.time) = (length, place.fs.unix_ms());
    let closing = control.encode();
    file.append(&mut [IoSlice::new(&closing)])?;
    file.sync()?;
    Ok((old, length + closing.len() as u64, offsets))
}
