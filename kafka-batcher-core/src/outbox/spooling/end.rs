//! What leaves for good: to the dead letters, or, at the end, to the next process.

use std::collections::BTreeMap;

use super::super::entry::{Doubt, Exposure, Place};
use super::super::{Outbox, OutboxEvent};
use super::Call;
use crate::batch::{RecordBatch, Stamp};
use crate::error::{DeliveryError, FailureReason, Persisted};
use crate::spool::DeadLetter;

impl Outbox {
    /// True if a batch must go to the dead letters rather than be lost.
    pub(in super::super) fn put_aside(
        &mut self,
        batch: RecordBatch,
        position: Option<u64>,
        error: DeliveryError,
    ) -> bool {
        if !self.keeps() || matches!(error.reason, FailureReason::Shutdown) {
            return false;
        }
        let letter = DeadLetter { batch, position, error };
        match &self.spool.rejecting {
            // The answer to the call that is under way does not speak of it.
            Some(rejecting) if rejecting.ticket.is_some() => self.spool.more_letters.push(letter),
            _ => self.spool.rejecting.get_or_insert_default().letters.push(letter),
        }
        true
    }

    /// Everything that is to be put aside, or dropped.
    pub(in super::super) fn letters(&self) -> impl Iterator<Item = &DeadLetter> {
        let rejecting = self.spool.rejecting.iter().flat_map(|rejecting| &rejecting.letters);
        rejecting.chain(&self.spool.more_letters)
    }

    /// True if what follows waits until the letters are put aside (DESIGN.md, Delivery). A disk that is bad does not stop
    /// deliveries: letters that are in memory only are tried again while the others go on. A crash would take them along, but
    /// nobody was told that they are durable.
    pub(in super::super) fn letters_first(&self) -> bool {
        let bad = self.spool.condition.is_bad(Call::Reject);
        self.spool.rejecting.is_some() && (!bad || self.letters().any(|letter| letter.position.is_some()))
    }

    /// True if there is a storage that keeps what it is given.
    pub(in super::super) fn keeps(&self) -> bool {
        self.settings.spool.is_some_and(|spool| spool.keeps)
    }

    /// These were given to a storage that keeps nothing: they are lost, unless they went to Kafka meanwhile.
    pub(super) fn discarded(&mut self, entries: &BTreeMap<u64, Option<Stamp>>) {
        let mut gone = Vec::new();
        for list in [&mut self.entries, &mut self.behind] {
            let all = std::mem::take(list);
            for entry in all {
                let certain = entry.exposure == Exposure::Unwritten && entry.verdict.is_none();
                match certain && entries.contains_key(&entry.id) {
                    true => gone.push(entry),
                    false => list.push_back(entry),
                }
            }
        }
        if gone.is_empty() {
            return;
        }
        for entry in gone {
            self.fail(&entry, entry.batch.clone(), FailureReason::Discarded, None, String::new());
        }
        self.hole();
    }

    /// Everything that is left is on disk: whoever waits is told, and nothing is in memory any more.
    pub(in super::super) fn leave(&mut self) {
        self.in_flight = 0;
        self.doubt = Doubt::None;
        self.rewind();
        while self.entries.back().is_some_and(|entry| entry.place != Place::Memory) {
            self.drop_youngest();
        }
        for kept in std::mem::take(&mut self.spool.kept).into_values() {
            if !kept.spans.is_empty() {
                self.events.push_back(OutboxEvent::LeftInSpool { spans: kept.spans });
            }
        }
    }

    /// Dead letters that could not be put aside in time.
    pub(in super::super) fn give_up_letters(&mut self) {
        let Some(mut rejecting) = self.spool.rejecting.take() else { return };
        rejecting.letters.append(&mut self.spool.more_letters);
        for DeadLetter { batch, position, error } in rejecting.letters {
            let events = u64::from(batch.count());
            if let Some(position) = position {
                // It is on disk still, and the next start will find out again.
                let since = self.spool.gap.since;
                self.spool.gap.put_before(position, events, since);
                self.events.push_back(OutboxEvent::LeftInSpool { spans: batch.spans().clone() });
            } else {
                match error.persisted {
                    Persisted::No => self.tally.lost += events,
                    Persisted::Maybe => self.tally.in_doubt += events,
                }
                self.events.push_back(OutboxEvent::Failed { batch, error, durable: false });
            }
        }
    }
}
