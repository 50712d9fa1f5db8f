//! What goes to disk, under which numbers, and what must be there before a batch is sent.

use std::collections::BTreeMap;

use super::super::entry::{Doubt, Exposure, Place, State};
use super::super::{Action, Outbox, SpoolMode, SpoolSettings};
use super::{Call, NEAR_TAIL, SAVE_BYTES, Saving};
use crate::batch::Stamp;
use crate::spool::{Numbers, Renumbered, ToSave};
use crate::time::Time;

impl Outbox {
    pub(super) fn wants_save(&self, spool: SpoolSettings, now: Time) -> bool {
        if !spool.keeps && !self.entries.iter().chain(&self.behind).any(|entry| self.may_go(entry)) {
            // What may be in the log is not thrown away.
            return false;
        }
        let youngest = self.behind.back().or(self.entries.back());
        if self.spool.saving.is_some()
            || !self.spool.condition.may_call(Call::Save)
            || self.makes_room()
            || !youngest.is_some_and(|entry| entry.place == Place::Memory)
        {
            return false;
        }
        self.goes_to_disk(spool, now)
    }

    fn goes_to_disk(&self, spool: SpoolSettings, now: Time) -> bool {
        spool.mode == SpoolMode::Always
            || match self.state {
                State::Direct | State::Backoff(_) => false,
                State::Spooling(_) | State::Ending => true,
                State::Replaying | State::Closing(_) => {
                    self.spool.gap.batches > NEAR_TAIL || self.is_away(spool, now)
                }
            }
    }

    /// True if a batch that came in now would be saved, whatever its broker has to do.
    pub fn saves_what_comes(&self, now: Time) -> bool {
        self.settings.spool.is_some_and(|spool| self.goes_to_disk(spool, now))
    }

    /// True while the entry is being saved: what comes of that speaks of it as it is.
    pub(in super::super) fn is_saving(&self, id: u64) -> bool {
        self.saved_as(id).is_some()
    }

    /// The numbers under which the entry is being saved, if it is.
    pub(super) fn saved_as(&self, id: u64) -> Option<Option<Stamp>> {
        self.spool.saving.as_ref()?.numbers.get(&id).copied()
    }

    pub(super) fn save(&mut self, spool: SpoolSettings, now: Time) -> Option<Action> {
        if !self.wants_save(spool, now) {
            return None;
        }
        self.stamp_ahead();
        let current = self.run.as_ref().map(|run| run.ordinal);
        let (mut batches, mut items, mut by_entry, mut bytes) = (Vec::new(), Vec::new(), BTreeMap::new(), 0);
        for entry in self.entries.iter().chain(&self.behind) {
            if entry.place != Place::Memory || !(spool.keeps || self.may_go(entry)) {
                continue;
            }
            let size = entry.batch.encoded_len();
            if bytes + size > SAVE_BYTES >> self.spool.halvings && !batches.is_empty() {
                break;
            }
            bytes += size;
            // Numbers under which it certainly was not written and will not be sent are nobody's.
            let obsolete = entry.exposure == Exposure::Unwritten && entry.run != current;
            let mut batch = entry.batch.clone();
            let numbers = match entry.run.filter(|_| !obsolete && self.settings.idempotent) {
                Some(_) => Some(Numbers { stamp: batch.stamp(), origin: self.origin.clone() }),
                None => {
                    batch.set_stamp(Stamp::NONE);
                    None
                }
            };
            items.push((entry.id, entry.events()));
            by_entry.insert(entry.id, numbers.as_ref().map(|numbers| numbers.stamp));
            batches.push(ToSave { batch, numbers });
        }
        let ticket = self.ticket();
        self.spool.saving = Some(Saving { ticket, bytes: bytes as u64, items, numbers: by_entry });
        Some(Action::Save { ticket, batches })
    }

    /// Gives numbers of the current run to what is about to be saved: in [`State::Direct`], so that it need not be written
    /// twice; when Kafka went away, so that a save that is never answered does not keep it from being sent when Kafka is
    /// back. That is worth it only while nothing lies on disk alone, since what does must be read by the same storage; and
    /// an earlier process's numbers count as a doubt, so that not more than a save's worth should have them.
    pub(super) fn stamp_ahead(&mut self) {
        let Some(run) = self.run.as_ref().filter(|run| !run.foreign) else { return };
        let ordinal = run.ordinal;
        let first_of_all = matches!(self.state, State::Spooling(_)) && !self.has_gap();
        let ahead = self.state == State::Direct || first_of_all;
        if !self.settings.idempotent || !ahead || self.doubt != Doubt::None {
            return;
        }
        for at in 0..self.entries.len() {
            let Some(entry) = self.entries.get(at) else { return };
            if entry.verdict.is_some()
                || (entry.run != Some(ordinal) && entry.exposure != Exposure::Unwritten)
            {
                return;
            }
            // With a current run this only counts on.
            if self.stamp(at).is_some() {
                return;
            }
        }
    }

    /// Whether entry `at` may be sent as far as the disk is concerned: what gets new numbers has them on disk first
    /// (DESIGN.md, Delivery), and with `always` everything is there first.
    pub(in super::super) fn ready(&self, at: usize) -> bool {
        #[cfg(test)]
        {
            if super::super::simulator::planted(super::super::simulator::Mutation::SendBeforeRenumbered) {
                return true;
            }
        }
        let (Some(spool), Some(entry)) = (self.settings.spool, self.entries.get(at)) else { return true };
        match entry.place {
            // What is being saved is sent under the numbers it is saved with, or not yet: a crash would leave it on disk
            // under none, and nobody would know that it was sent.
            // Until it is answered nobody knows whether it is on disk.
            Place::Memory if spool.mode == SpoolMode::Always && !self.spool.condition.is_bad(Call::Save) => {
                false
            }
            Place::Memory => match self.saved_as(entry.id) {
                Some(numbers) => !self.settings.idempotent || numbers == Some(entry.batch.stamp()),
                None => true,
            },
            Place::Disk { numbers, .. } => !self.settings.idempotent || numbers == Some(entry.batch.stamp()),
        }
    }

    /// What must happen before an entry that is not ready can be sent.
    pub(in super::super) fn make_ready(&mut self) -> Action {
        let until = self.spool.condition.next_try();
        self.renumber().unwrap_or(Action::Wait { until })
    }

    pub(super) fn renumber(&mut self) -> Option<Action> {
        if self.spool.renumbering.is_some()
            || !self.settings.idempotent
            || !self.spool.condition.may_call(Call::Renumber)
        {
            return None;
        }
        let current = self.run.as_ref().map(|run| run.ordinal);
        let (mut items, mut out) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let Place::Disk { position, numbers } = entry.place else { continue };
            let stamp = entry.batch.stamp();
            let due = entry.run.is_some() && entry.run == current && numbers != Some(stamp);
            if due && entry.exposure == Exposure::Unwritten {
                items.push((entry.id, stamp));
                let numbers = Numbers { stamp, origin: self.origin.clone() };
                out.push(Renumbered { position, count: entry.batch.count(), numbers });
            }
        }
        if out.is_empty() {
            return None;
        }
        let ticket = self.ticket();
        self.spool.renumbering = Some((ticket, items));
        Some(Action::Renumber { ticket, numbers: out })
    }
}
