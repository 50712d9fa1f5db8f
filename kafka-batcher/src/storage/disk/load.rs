//! Reads what lies in a topic's directory, changing nothing: what waits, what is damaged, what a crash left unfinished.
//! Recovery and the tools that look at a spool both begin here.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafka_batcher_core::StorageError;

use super::checkpoint::{self, Checkpoint};
use super::control::Fact;
use super::fs::{File, Fs, Unread, failed, read_what_it_gives};
use super::index::Lane;
use super::topic::{Segment, State, segment_base};
use super::walk::{Found, Gap, Group, Item, Tail, walk};

/// Something in a spool that is not as it was written, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes from its beginning, and how many bytes.
    pub offset: u64,
    /// See `offset`.
    pub length: u64,
    /// The positions that are missing; empty if nothing is.
    pub positions: Range<u64>,
    /// The partition that they belonged to, if that is known.
    pub partition: Option<i32>,
    /// How many waiting events are missing: exactly if the partition is known, otherwise at most.
    pub events: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}: {}", self.file.display(), self.offset, self.what)?;
        if self.events > 0 {
            let about = if self.partition.is_some() { "" } else { "at most " };
            write!(f, "; {about}{} events missing", self.events)?;
            match self.partition {
                Some(super::super::UNASSIGNED) => write!(f, " of the unassigned lane")?,
                Some(partition) => write!(f, " of partition {partition}")?,
                None => {}
            }
            write!(f, ", positions {}..{}", self.positions.start, self.positions.end)?;
        }
        Ok(())
    }
}

/// How many events that waited these cost, at most.
pub(super) fn missing(damage: &[Damage]) -> u64 {
    damage.iter().map(|damage| damage.events).fold(0, u64::saturating_add)
}

/// What a walk through the log comes by, for whoever wants to see every batch.
pub(super) trait Visitor {
    fn segment(&mut self, id: u32, segment: &Segment, file: Arc<dyn File>);
    fn batch(&mut self, id: u32, found: &Found, vouched: bool);
    fn control(&mut self, id: u32, group: &Group);
}

/// Nobody looks.
pub(super) struct Nobody;

impl Visitor for Nobody {
    fn segment(&mut self, _: u32, _: &Segment, _: Arc<dyn File>) {}
    fn batch(&mut self, _: u32, _: &Found, _: bool) {}
    fn control(&mut self, _: u32, _: &Group) {}
}

/// What lies in a topic's directory.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) state: State,
    /// What costs something, or would have: see [`Damage::events`].
    pub(super) damage: Vec<Damage>,
    /// Damaged bytes that stay where they are: segment, offset, length.
    pub(super) bad: Vec<(u32, u64, u64)>,
    /// What follows a segment's last valid group.
    pub(super) tails: Vec<(u32, Tail)>,
    /// Files that a crash left in the middle of something.
    pub(super) leftovers: Vec<PathBuf>,
    pub(super) next_id: u32,
    /// A group with a regrouping, of which not every member is whole, until it is known whether it is the last of the log.
    held: Option<Held>,
    /// A regrouping that was not believed: where, and up to which position of the unassigned lane it went.
    unbelieved: Option<(u32, u64, u64)>,
    /// What cannot be read of the segment that is being walked.
    unread: Vec<Range<u64>>,
    /// Segments came or went while it was read: by now it looks otherwise.
    pub(super) moved: bool,
}

/// A group of a segment, and the zeros behind it, if there are any.
#[derive(Debug)]
struct Held {
    id: u32,
    group: Group,
    padding: Option<Tail>,
}

/// Reads a topic's directory. `beside`: a writer may be at work.
pub(super) fn load(
    fs: &dyn Fs,
    dir: &Path,
    beside: bool,
    visitor: &mut dyn Visitor,
) -> Result<Loaded, StorageError> {
    let mut loaded = Loaded::default();
    // Before the log: it says of a log that grows meanwhile what holds all the same. The other way round a segment that was
    // begun in between would be missing, and its positions be known to the checkpoint.
    let checkpoint = loaded.checkpoint(fs, dir)?;
    let list = || fs.list(dir).map_err(|error| failed("list", dir, &error));
    let names = list()?;
    let leftover = |name: &&String| name.ends_with(".cleaned") || name.ends_with(".tmp");
    loaded.leftovers = names.iter().filter(leftover).map(|name| dir.join(name)).collect();
    let bases: Vec<(u64, &String)> =
        names.iter().filter_map(|name| segment_base(name).map(|base| (base, name))).collect();
    for (at, (base, name)) in bases.iter().enumerate() {
        let path = dir.join(name);
        let limit = bases.get(at + 1).map(|(base, _)| *base);
        let read = fs.open(&path, !beside).and_then(|file| Ok((read_what_it_gives(file.as_ref())?, file)));
        let ((bytes, unread), file) = match read {
            // Deleted meanwhile, or cut.
            Err(error) if beside && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if beside => {
                loaded.skip(path, &error);
                continue;
            }
            read => read.map_err(|error| failed("read", &path, &error))?,
        };
        let id = loaded.next_id;
        loaded.next_id += 1;
        let length = bytes.len() as u64;
        let segment = Segment { length, ..Segment::new(id, *base, path) };
        visitor.segment(id, &segment, file);
        loaded.state.segments.insert(id, segment);
        if !bytes.is_empty() {
            loaded.release(visitor);
        }
        loaded.unread(id, unread);
        walk(&bytes, *base, limit, &mut |item| loaded.take(id, item, visitor));
    }
    loaded.finish(checkpoint.unwrap_or_default(), dir, visitor);
    loaded.moved = beside
        && list()?.iter().filter(|name| segment_base(name).is_some()).ne(bases.iter().map(|(_, name)| *name));
    Ok(loaded)
}

impl Loaded {
    /// A file that cannot be read at all, which only who looks may pass over.
    fn skip(&mut self, file: PathBuf, error: &io::Error) {
        let what = format!("it cannot be read, and is passed over: {error}");
        let (positions, partition) = (0..0, None);
        self.damage.push(Damage { file, offset: 0, length: 0, positions, partition, events: 0, what });
    }

    /// What of a segment the disk does not give is zeros from here on.
    fn unread(&mut self, id: u32, unread: Unread) {
        let words = unread.error.map(|error| error.to_string()).unwrap_or_default();
        for stretch in &unread.stretches {
            let length = stretch.end - stretch.start;
            let what = format!("{length} bytes cannot be read: {words}");
            self.note(id, stretch.start, length, None, (0..0, 0), what);
        }
        self.unread = unread.stretches;
    }

    fn checkpoint(&mut self, fs: &dyn Fs, dir: &Path) -> Result<Option<Checkpoint>, StorageError> {
        let path = dir.join(checkpoint::NAME);
        match Checkpoint::read(fs, dir).map_err(|error| failed("read", &path, &error))? {
            None => Ok(None),
            Some(Ok(checkpoint)) => Ok(Some(checkpoint)),
            Some(Err(why)) => {
                let what = format!(
                    "the checkpoint is damaged ({why}); events that were settled may be sent again, none is lost"
                );
                self.damage.push(Damage {
                    file: path,
                    offset: 0,
                    length: 0,
                    positions: 0..0,
                    partition: None,
                    events: 0,
                    what,
                });
                Ok(None)
            }
        }
    }

    fn take(&mut self, id: u32, item: Item, visitor: &mut dyn Visitor) {
        let item = match (item, &mut self.held) {
            // They were written with the group, and go with it if that goes.
            (Item::Tail(tail), Some(held)) if tail.padding => {
                held.padding = Some(tail);
                return;
            }
            (item, _) => item,
        };
        // Nothing is written behind a group before that is durable.
        self.release(visitor);
        match item {
            Item::Group(group) => {
                visitor.control(id, &group);
                let torn = group.members.iter().any(|found| !found.whole);
                match regrouped(&group).filter(|_| torn) {
                    Some(_) => self.held = Some(Held { id, group, padding: None }),
                    None => self.group(id, group, visitor),
                }
            }
            Item::Gap(gap) => self.gap(id, gap, visitor),
            Item::Tail(mut tail) => {
                if self.unread.iter().any(|stretch| stretch.end > tail.offset) {
                    // It may be whole for all that anybody knows: its positions are given to nobody, so that the next start,
                    // if it can read it, finds it in front of all that comes.
                    tail.torn = false;
                    self.state.next = self.state.end.max(self.state.next) + tail.length;
                }
                self.cut_tail(id, &tail);
                self.tails.push((id, tail));
            }
        }
    }

    /// A group that was held back is not the last: it was durable, and is damaged since.
    fn release(&mut self, visitor: &mut dyn Visitor) {
        if let Some(Held { id, mut group, padding }) = self.held.take() {
            // What a damaged batch held may wait in the unassigned lane still: better twice than not at all.
            if let (Some(through), Some(first)) = (regrouped(&group), group.members.first()) {
                self.unbelieved = Some((id, first.offset, through));
            }
            group.facts.retain(|fact| !matches!(fact, Fact::Regrouped { .. }));
            self.group(id, group, visitor);
            self.tails.extend(padding.map(|padding| (id, padding)));
        }
    }

    /// The last group of the log is a regrouping that is not whole: to all appearance a power loss interrupted its write, so
    /// that it did not happen. All that it listed goes, and the unassigned lane has its events.
    fn cut_regrouping(&mut self, id: u32, group: Group, settled: u64, visitor: &mut dyn Visitor) {
        let (Some(through), Some(segment)) = (regrouped(&group), self.state.segments.get(&id)) else {
            return;
        };
        let offset = group.members.first().map_or(segment.length, |found| found.offset);
        let length = segment.length.saturating_sub(offset);
        // What is damaged in front of it had its positions all the same.
        let first = group.members.first().map_or(0, |found| found.member.place.position);
        self.state.next = self.state.next.max(first);
        group.members.iter().for_each(|found| visitor.batch(id, found, false));
        let lane = self.state.lanes.get(&super::super::UNASSIGNED);
        let waiting = lane
            .into_iter()
            .flat_map(Lane::entries)
            .map(|entry| entry.end().min(through).saturating_sub(entry.position.max(settled)));
        let (waiting, listed) =
            (waiting.sum(), group.members.iter().map(|found| u64::from(found.member.count)).sum::<u64>());
        self.bad.push((id, offset, length));
        let what = format!(
            "the last {length} bytes are a regrouping that is not whole: a write that a power loss interrupted, or damage; its \
             {listed} events wait in the unassigned lane as before"
        );
        let lost = listed.saturating_sub(waiting);
        let positions = if lost == 0 { 0..0 } else { self.state.end..group.end };
        self.note(id, offset, length, None, (positions, lost), what);
        // It goes whether or not its bytes can be kept aside: the events are in the lane.
        let tail =
            Tail { offset, length, torn: true, refused: false, padding: false, batches: group.members };
        self.tails.push((id, tail));
    }

    fn group(&mut self, id: u32, group: Group, visitor: &mut dyn Visitor) {
        for (offset, what) in group.notes {
            self.note(id, offset, 0, None, (0..0, 0), what);
        }
        for found in &group.members {
            visitor.batch(id, found, true);
            let member = &found.member;
            if found.whole {
                self.state.add(member, id, found.offset);
                continue;
            }
            let position = member.place.position;
            let positions = position..position + u64::from(member.count);
            self.bad.push((id, found.offset, u64::from(member.length)));
            let what = "the batch is damaged, its CRC does not fit".to_owned();
            let cost = (positions, u64::from(member.count));
            self.note(id, found.offset, u64::from(member.length), Some(member.place.partition), cost, what);
        }
        for (from, unix_ms) in &group.saved {
            self.state.times.note(*from, *unix_ms);
        }
        group.given.iter().for_each(|range| self.state.given.note(range.clone()));
        for fact in &group.facts {
            self.state.apply(fact, (group.position, id));
        }
        self.state.end = group.end;
        if let Some(segment) = self.state.segments.get_mut(&id) {
            segment.control = group.position;
        }
    }

    fn gap(&mut self, id: u32, gap: Gap, visitor: &mut dyn Visitor) {
        let mut at = gap.offset;
        if let Some(found) = gap.kept.first() {
            self.state.times.note(found.member.place.position, 0);
        }
        for found in &gap.kept {
            visitor.batch(id, found, false);
            self.state.add(&found.member, id, found.offset);
            at = found.offset + u64::from(found.member.length);
            self.state.end = found.member.place.position + u64::from(found.member.count);
        }
        if let Some(segment) = self.state.segments.get_mut(&id).filter(|_| !gap.kept.is_empty()) {
            // Where the lost control batch was: whoever cleans the segment must account for what is kept.
            segment.control = self.state.end;
        }
        let length = (gap.offset + gap.length).saturating_sub(at);
        if length > 0 {
            self.bad.push((id, at, length));
        }
        let kept: u64 = gap.kept.iter().map(|found| u64::from(found.member.count)).sum();
        let mut what = match gap.length {
            0 => "the file is empty, although another follows it".to_owned(),
            _ => format!("{length} bytes are no valid group commit"),
        };
        if kept > 0 {
            what += &format!(
                "; {kept} events before them are kept as their headers say, what the damaged control batch said \
                 of other numbers, dead letters and regrouping is lost"
            );
        }
        // A lost control batch holds a position as well: with nothing else missing, it is that.
        let missing = gap.missing.end.saturating_sub(gap.missing.start);
        let lost = if kept > 0 { missing.saturating_sub(1) } else { missing };
        self.note(id, at, length, None, (gap.missing, lost), what);
    }

    fn cut_tail(&mut self, id: u32, tail: &Tail) {
        if tail.torn {
            return;
        }
        self.bad.push((id, tail.offset, tail.length));
        let base = self.state.segments.get(&id).map_or(0, |segment| segment.base);
        let from = self.state.end.max(base);
        // Nobody vouches for these positions: they may be anything.
        let last = tail.batches.last().map(|b| b.member.place.position.saturating_add(b.member.count.into()));
        let end = last.unwrap_or(from);
        let events: u64 = tail.batches.iter().map(|b| u64::from(b.member.count)).sum();
        let mut partitions: Vec<i32> = tail.batches.iter().map(|b| b.member.place.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        if tail.refused {
            // What had been acknowledged lies in front of it.
            let what = format!(
                "the last {} bytes are the rest of what an earlier start gave up, or of a write that failed",
                tail.length
            );
            return self.note(id, tail.offset, tail.length, None, (0..0, 0), what);
        }
        let held = match partitions.as_slice() {
            [] => "what they held cannot be known".to_owned(),
            partitions => format!(
                "they held batches of {events} events in front of it, by their headers of the partitions {partitions:?}"
            ),
        };
        let what = format!(
            "the last {} bytes are no valid group commit: a write that a power loss interrupted, or damage; {held}",
            tail.length
        );
        self.note(id, tail.offset, tail.length, None, (from..end.max(from), events), what);
    }

    fn note(
        &mut self,
        id: u32,
        offset: u64,
        length: u64,
        partition: Option<i32>,
        (positions, events): (Range<u64>, u64),
        what: String,
    ) {
        let file = self.state.segments.get(&id).map(|segment| segment.path.clone()).unwrap_or_default();
        self.damage.push(Damage { file, offset, length, positions, partition, events, what });
    }

    /// Takes in the checkpoint: what it covers neither waits nor is missing.
    fn finish(&mut self, checkpoint: Checkpoint, dir: &Path, visitor: &mut dyn Visitor) {
        match self.held.take() {
            Some(Held { id, group, .. }) if checkpoint.end < group.end => {
                let settled = checkpoint.through.get(&super::super::UNASSIGNED).copied().unwrap_or(0);
                self.cut_regrouping(id, group, settled, visitor);
            }
            held => {
                self.held = held;
                self.release(visitor);
            }
        }
        let state = &mut self.state;
        let through = checkpoint.through.values().copied().max().unwrap_or(0);
        // Names count although nothing in their files does: no two segments may have the same.
        let named = state.segments.values().map(|segment| segment.base).max().unwrap_or(0);
        state.next = state.next.max(state.end).max(checkpoint.next).max(through).max(named);
        if state.segments.values().all(|segment| segment.base >= checkpoint.end) {
            // Nothing waited when it was written, and the log was deleted: it does not reach there by right.
            state.end = state.end.max(checkpoint.end);
        } else if checkpoint.end > state.end {
            // What is left of it was whole once, and is kept aside like any damage.
            for (id, tail) in self.tails.iter_mut().filter(|(_, tail)| tail.torn) {
                tail.torn = false;
                self.bad.push((*id, tail.offset, tail.length));
            }
            self.damage.push(Damage {
                file: dir.to_owned(),
                offset: 0,
                length: 0,
                positions: state.end..checkpoint.end,
                partition: None,
                events: checkpoint.end - state.end,
                what: format!(
                    "the log ends at position {}, the checkpoint knows it up to {}: its end was lost, and what waited \
                     there is missing; what the checkpoint says of it is cut back",
                    state.end, checkpoint.end
                ),
            });
        }
        // What the log says of the partition count is newer unless the checkpoint was written behind that very word: the log
        // may have grown since by other things, and the newest word have gone with its segment.
        if state.partitions_at.is_none_or(|(position, _)| position < checkpoint.end) {
            let known = checkpoint.partitions.or(state.partitions);
            if known != state.partitions {
                (state.partitions, state.partitions_at) = (known, None);
            }
        }
        let mut settled = BTreeMap::new();
        for (partition, through) in checkpoint.through {
            state.settle(partition, through.min(state.end));
            settled.insert(partition, through);
        }
        // What recovery finds settled is nobody's news.
        (state.settled, state.commits) = (0, 0);
        for (partition, lane) in &state.lanes {
            let known: &mut u64 = settled.entry(*partition).or_default();
            *known = lane.through().max(*known);
        }
        state.forget_times();
        let lane = state.lanes.get(&super::super::UNASSIGNED).and_then(|lane| lane.entries().next());
        if let Some((id, offset, through)) = self.unbelieved
            && lane.is_some_and(|oldest| oldest.position < through)
        {
            let what = "a damaged batch may be one that the unassigned lane was regrouped into: that is done once more, and events \
                        of the others may be delivered twice";
            self.note(id, offset, 0, None, (0..0, 0), what.to_owned());
        }
        let state = &self.state;
        let everybodys = settled_of_all(&settled, state.partitions);
        self.damage.retain_mut(|damage| match damage.partition {
            // Only what the checkpoint does not cover can be damage.
            Some(partition) => {
                let through = settled.get(&partition).copied().unwrap_or(0);
                let from = through.max(damage.positions.start);
                let mut left = damage.positions.end.saturating_sub(from);
                for (range, _) in state.lanes.get(&partition).map(Lane::dropped).unwrap_or_default() {
                    let (first, end) = (range.start.max(from), range.end.min(damage.positions.end));
                    left = left.saturating_sub(end.saturating_sub(first));
                }
                damage.events = damage.events.min(left);
                left > 0
            }
            None => {
                let left = damage.positions.end.saturating_sub(everybodys.max(damage.positions.start));
                damage.events = damage.events.min(left);
                damage.positions.is_empty() || left > 0
            }
        });
    }
}

/// Up to where a group regroups the unassigned lane, if it does.
fn regrouped(group: &Group) -> Option<u64> {
    group.facts.iter().find_map(|fact| match fact {
        Fact::Regrouped { through } => Some(*through),
        _ => None,
    })
}

/// Below which position nothing waits, whoever it belonged to: 0 unless something is known of every partition that there is
/// and of the unassigned lane. One of which nothing is known may have had all that is missing.
fn settled_of_all(settled: &BTreeMap<i32, u64>, partitions: Option<i32>) -> u64 {
    // A log behind whose right CRCs there is garbage may say that there are fewer than none.
    let Some(partitions) = partitions.map(|partitions| partitions.max(0)) else { return 0 };
    let known = settled.range(super::super::UNASSIGNED..partitions).count() as u64;
    let all = known == u64::from(partitions.unsigned_abs()) + 1;
    if all { settled.values().copied().min().unwrap_or(0) } else { 0 }
}
