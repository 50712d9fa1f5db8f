//! A batch leaves memory for the disk and comes back: what of it the bytes on disk do not say.

use std::collections::BTreeMap;

use super::super::Outbox;
use super::super::entry::{Entry, Exposure, Place};
use crate::batch::Stamp;
use crate::completion::Spans;
use crate::error::Persisted;
use crate::spool::Stored;
use crate::time::Time;

/// What is remembered of a batch whose bytes are on disk only, where it differs from what its bytes say.
#[derive(Debug)]
pub(super) struct Kept {
    /// How many events it has.
    count: u32,
    pub(super) spans: Spans,
    opened: Option<Time>,
    exposure: Exposure,
    strayed: bool,
    haunted: bool,
    restamped: bool,
    attempts: u32,
    contradictions: u8,
    /// It was delivered while those before it were not; it is not sent again.
    pub(super) settled: bool,
}

impl Kept {
    /// Nothing to remember, yet.
    fn plain(count: u32, exposure: Exposure) -> Self {
        Kept {
            count,
            spans: Spans::default(),
            opened: None,
            exposure,
            strayed: false,
            haunted: false,
            restamped: false,
            attempts: 0,
            contradictions: 0,
            settled: false,
        }
    }
}

impl Outbox {
    /// The youngest entry, which is on disk, leaves memory.
    pub(super) fn drop_youngest(&mut self) {
        let Some(entry) = self.entries.pop_back() else { return };
        if let Some(position) = entry.position() {
            self.keep(&entry, position);
            self.spool.gap.put_before(position, entry.events(), entry.accepted_by);
        }
    }

    /// Remembers of a batch what its bytes on disk do not say.
    pub(super) fn keep(&mut self, entry: &Entry, position: u64) {
        let numbered = matches!(entry.place, Place::Disk { numbers: Some(_), .. });
        let says = if numbered { Exposure::Doubtful } else { Exposure::Unwritten };
        let plain = entry.batch.spans().is_empty()
            && entry.exposure == says
            && !entry.haunted
            && !entry.strayed
            && !entry.restamped
            && entry.contradictions == 0;
        if !plain {
            let kept = Kept {
                count: entry.batch.count(),
                spans: entry.batch.spans().clone(),
                opened: entry.opened,
                exposure: entry.exposure,
                strayed: entry.strayed,
                haunted: entry.haunted,
                restamped: entry.restamped,
                attempts: entry.attempts,
                contradictions: entry.contradictions,
                settled: false,
            };
            self.spool.kept.insert(position, kept);
        }
    }

    /// Whether an earlier process left what lies there.
    pub(super) fn is_found(&self, position: u64) -> bool {
        self.spool.own_from.is_none_or(|own| position < own)
    }

    /// What is remembered of these events. They may have left memory in pieces and come back in one: then it is put together,
    /// and whether all of them were certainly not written is not known any more.
    pub(super) fn take_kept(&mut self, position: u64, count: u32, says: Exposure) -> Option<Kept> {
        let end = position + u64::from(count);
        let mut pieces = self.spool.kept.split_off(&position);
        self.spool.kept.append(&mut pieces.split_off(&end));
        if pieces.get(&position).is_some_and(|kept| kept.count == count) {
            return pieces.remove(&position);
        }
        let mut whole: Option<Kept> = None;
        let mut covered = 0;
        for (first, piece) in pieces {
            let at = (first - position) as u32;
            let whole = whole.get_or_insert(Kept::plain(count, says));
            if at > covered {
                whole.spans.append(covered, Spans::default(), at - covered);
            }
            whole.spans.append(at, piece.spans, piece.count);
            covered = at + piece.count;
            if piece.exposure == Exposure::Doubtful {
                whole.exposure = Exposure::Doubtful;
            }
            whole.strayed |= piece.strayed;
            whole.haunted |= piece.haunted;
            whole.attempts = whole.attempts.max(piece.attempts);
        }
        if let Some(whole) = whole.as_mut().filter(|_| count > covered) {
            whole.spans.append(covered, Spans::default(), count - covered);
        }
        whole
    }

    /// What lies in this stretch was not given back: who waits for it, and whether it may be in the log.
    pub(super) fn take_lost(&mut self, from: u64, until: u64) -> Vec<(Spans, Persisted)> {
        let mut lost = self.spool.kept.split_off(&from);
        self.spool.kept.append(&mut lost.split_off(&until));
        let (settled, lost): (BTreeMap<_, _>, _) = lost.into_iter().partition(|(_, kept)| kept.settled);
        self.spool.kept.extend(settled);
        let waiting = BTreeMap::<u64, Kept>::into_values(lost).filter(|kept| !kept.spans.is_empty());
        let certain = |kept: &Kept| kept.exposure == Exposure::Unwritten && !kept.haunted;
        waiting
            .map(|kept| (if certain(&kept) { Persisted::No } else { Persisted::Maybe }, kept.spans))
            .map(|(persisted, spans)| (spans, persisted))
            .collect()
    }

    /// A batch comes back into memory.
    pub(super) fn read_back(&mut self, stored: Stored) -> Entry {
        let Stored { position, mut batch, numbers, saved_ms } = stored;
        let numbers = numbers.filter(|_| self.settings.idempotent);
        // Without numbers nobody knows whether an earlier process sent it.
        let unknown = self.is_found(position) && !self.settings.idempotent;
        batch.set_stamp(numbers.as_ref().map_or(Stamp::NONE, |numbers| numbers.stamp));
        let run = numbers.as_ref().map(|numbers| self.run_of(numbers));
        let id = self.next_id();
        let mut entry = Entry {
            place: Place::Disk { position, numbers: numbers.as_ref().map(|numbers| numbers.stamp) },
            exposure: if run.is_some() || unknown { Exposure::Doubtful } else { Exposure::Unwritten },
            run,
            origin: numbers.map(|numbers| numbers.origin),
            read_back: true,
            accepted_by: saved_ms,
            inherited: run.is_some() && self.is_found(position),
            ..Entry::new(id, batch, 0, None)
        };
        if let Some(kept) = self.take_kept(position, entry.batch.count(), entry.exposure) {
            entry.batch.set_spans(kept.spans);
            entry.opened = kept.opened;
            entry.exposure = kept.exposure;
            entry.strayed = kept.strayed;
            entry.haunted = kept.haunted;
            entry.restamped = kept.restamped;
            entry.attempts = kept.attempts;
            entry.contradictions = kept.contradictions;
        }
        #[cfg(test)]
        {
            if super::super::simulator::planted(super::super::simulator::Mutation::RestampWhatIsRead) {
                entry.exposure = Exposure::Unwritten;
            }
        }
        if run.is_some_and(|run| self.is_given_up(run)) && entry.exposure == Exposure::Doubtful {
            // The same as for those of its run that were in memory when the numbers were given up.
            entry.exposure = Exposure::Unwritten;
            entry.haunted = true;
            self.tally.possible_duplicates += entry.events();
        }
        entry
    }

    /// This batch was delivered. If others lie before it that may be read again, it would be read with them.
    pub(in super::super) fn keep_settled(&mut self, entry: &Entry) {
        let Some(position) = entry.position() else { return };
        let before = self.entries.front().and_then(Entry::position).is_some_and(|first| first < position);
        if !before && self.spool.passed.is_none() {
            return;
        }
        let kept = Kept { settled: true, ..Kept::plain(entry.batch.count(), Exposure::Unwritten) };
        self.spool.kept.insert(position, kept);
    }
}
