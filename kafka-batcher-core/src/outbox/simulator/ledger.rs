//! What must hold of one partition, checked after every step:
//!
//! - the accounting identity, and each figure of the tally against what the outbox said about each event;
//! - first appearances in the log are in the order of acceptance (but for a straggler that was given up as in doubt);
//! - what is said to be delivered is in the log, what is said to be lost for certain is not (unless it came in as a
//!   straggler, or the broker forgot that it has it);
//! - no event is in the log twice but for the possible duplicates that the tally admits, and for what a broker did that
//!   forgot all it knew (no client can see that);
//! - a (producer id, epoch, sequence) never means two events;
//! - behind an event that failed no number is given in the same run;
//! - at most five in flight, and one until an acknowledgement of the same run came over the same connection;
//! - no reordering is counted.

use std::collections::{BTreeMap, HashMap};

use super::model::Received;
use crate::delivery::{Leader, ProduceResult};
use crate::error::{DeliveryError, FailureReason, Persisted};
use crate::outbox::{OutboxEvent, Tally};
use crate::{ProduceAnswer, RecordBatch};

/// What the outbox said about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Delivered,
    Lost,
    InDoubt,
    DeadLettered,
}

#[derive(Clone, Debug)]
struct Known {
    fate: Fate,
    /// Its copies in the log of the present topic: which memory the broker had when it wrote them.
    copies: Vec<u32>,
    /// It lay in the log of an earlier topic of this name.
    of_old: bool,
    /// Written by a request whose answer nobody waited for any more.
    straggled: bool,
    number: Option<(i64, i16, i32)>,
    /// The outbox that lives now accounts for it.
    mine: bool,
    /// It was said to be on disk.
    durable: bool,
    /// It was in memory only when the process was killed.
    vanished: bool,
    /// It was found on disk after a crash. (Its numbers may be those of a run that ended in memory only.)
    found: bool,
    /// A process that was killed said so.
    before: Option<Fate>,
}

/// The acknowledgement on which pipelining rests.
#[derive(Clone, Copy, Debug)]
struct Basis {
    leader: Leader,
    timestamp: i64,
}

/// The truth about one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    events: Vec<Known>,
    numbers: HashMap<(i64, i16, i32), u32>,
    /// Runs that ended with an event that failed, and that event's number.
    holes: BTreeMap<(i64, i16), u32>,
    /// The youngest event that appeared in the present topic's log.
    highest: Option<u32>,
    memory: u32,
    duplicates: u64,
    excused: u64,
    /// A process was killed that had begun a run although the disk, being bad, did not know the end of the one before.
    risked: bool,
    /// Possible duplicates that earlier processes admitted.
    admitted: u64,
    in_flight: HashMap<u64, (i64, i16, i64)>,
    basis: HashMap<(i64, i16), Basis>,
}

/// A rule that does not hold, in words.
pub(super) type Broken = String;

macro_rules! hold {
    ($condition:expr, $($words:tt)+) => {
        if !$condition { return Err(format!($($words)+)); }
    };
}

impl Ledger {
    /// The next event's number.
    pub(super) fn accept(&mut self) -> u32 {
        self.events.push(Known {
            fate: Fate::Open,
            copies: Vec::new(),
            of_old: false,
            straggled: false,
            number: None,
            mine: true,
            durable: false,
            found: false,
            vanished: false,
            before: None,
        });
        self.events.len() as u32 - 1
    }

    pub(super) fn produce(
        &mut self,
        ticket: u64,
        batch: &Received,
        leader: Leader,
        unix_ms: i64,
        idempotent: bool,
    ) -> Result<(), Broken> {
        let others = self.in_flight.len();
        hold!(others < 5, "{} batches in flight", others + 1);
        if others > 0 {
            hold!(idempotent, "two in flight without numbers");
            let same = self
                .basis
                .get(&(batch.id, batch.epoch))
                .is_some_and(|basis| basis.leader == leader && unix_ms - basis.timestamp < 3_600_000);
            hold!(same, "{} in flight, and the run is not established: {:?}", others + 1, self.basis);
        }
        self.in_flight.insert(ticket, (batch.id, batch.epoch, batch.timestamp));
        if !idempotent {
            hold!(batch.id == -1, "stamped without idempotence");
            return Ok(());
        }
        hold!(batch.id >= 0 && batch.epoch >= 0 && batch.first >= 0, "stamped with {batch:?}");
        let mut sequence = batch.first;
        for event in &batch.events {
            let number = (batch.id, batch.epoch, sequence);
            let before = self.numbers.insert(number, event.number);
            hold!(before.is_none_or(|b| b == event.number), "{number:?} is {before:?} and {}", event.number);
            if before.is_none()
                && !self.known(event.number)?.found
                && let Some(hole) = self.holes.get(&(batch.id, batch.epoch))
            {
                hold!(event.number < *hole, "{number:?} is given behind event {hole}, which failed");
            }
            self.known(event.number)?.number = Some(number);
            sequence = ((i64::from(sequence) + 1) & 0x7fff_ffff) as i32;
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, ticket: u64, answer: &ProduceAnswer) -> Result<(), Broken> {
        let Some((id, epoch, timestamp)) = self.in_flight.remove(&ticket) else {
            return Err(format!("ticket {ticket} is answered twice"));
        };
        match (&answer.result, answer.leader) {
            (ProduceResult::Acked { .. }, Some(leader)) => {
                self.basis.insert((id, epoch), Basis { leader, timestamp });
            }
            _ => self.basis.clear(),
        }
        Ok(())
    }

    fn known(&mut self, number: u32) -> Result<&mut Known, Broken> {
        self.events.get_mut(number as usize).ok_or_else(|| format!("event {number} was never accepted"))
    }

    /// The broker wrote these.
    pub(super) fn appear(&mut self, batch: &Received, straggler: bool) -> Result<(), Broken> {
        let memory = self.memory;
        for event in &batch.events {
            let (highest, risked) = (self.highest, self.risked);
            let known = self.known(event.number)?;
            known.straggled |= straggler;
            known.copies.push(memory);
            if let [.., before, now] = known.copies[..] {
                self.duplicates += 1;
                self.excused += u64::from(before != now);
            } else if !(straggler && (known.fate == Fate::InDoubt || known.vanished))
                // (Delivered to an earlier topic of this name, and that was forgotten in a crash.)
                && !(risked && known.found)
                && !(known.of_old && known.before == Some(Fate::Delivered))
            {
                // (What nobody waits for any more may come in at any time: it was said to be in doubt.)
                let in_order = highest.is_none_or(|highest| highest < event.number);
                hold!(in_order, "event {} appears after event {highest:?}", event.number);
                self.highest = Some(event.number);
            }
        }
        Ok(())
    }

    /// A change of leader took these out of the log; these are left.
    pub(super) fn cut(&mut self, gone: &[u32], left: impl Iterator<Item = u32>) -> Result<(), Broken> {
        for number in gone {
            let known = self.known(*number)?;
            let last_two = if let [.., before, now] = known.copies[..] { Some(before != now) } else { None };
            known.copies.pop();
            let delivered = known.fate == Fate::Delivered || known.before == Some(Fate::Delivered);
            let lie = delivered && known.copies.is_empty() && !known.of_old;
            hold!(!lie, "event {number} was delivered, and a change of leader took it");
            self.duplicates -= u64::from(last_two.is_some());
            self.excused -= u64::from(last_two == Some(true));
        }
        self.highest = left.max();
        Ok(())
    }

    /// The broker knows no producer any more.
    pub(super) fn forgotten(&mut self) {
        self.memory += 1;
    }

    pub(super) fn recreated(&mut self) {
        self.highest = None;
        for known in &mut self.events {
            known.of_old |= !known.copies.is_empty();
            known.copies.clear();
        }
    }

    /// What the outbox says happened.
    pub(super) fn event(&mut self, event: &OutboxEvent) -> Result<(), Broken> {
        match event {
            OutboxEvent::Delivered { batch, .. } => self.settle(batch, Fate::Delivered),
            OutboxEvent::Failed { batch, error, .. }
                if matches!(error.reason, FailureReason::MaxAge | FailureReason::DroppedOldest) =>
            {
                // By order, also what was durable; counted as lost whatever is said of the log.
                self.check_absent(batch, error)?;
                for number in numbers(batch) {
                    self.known(number)?.durable = false;
                }
                self.settle_as(batch, Fate::Lost)
            }
            OutboxEvent::Failed { batch, error, .. } if error.persisted == Persisted::No => {
                self.settle(batch, Fate::Lost)
            }
            OutboxEvent::Failed { batch, .. } | OutboxEvent::InDoubt { batch, .. } => {
                self.settle(batch, Fate::InDoubt)
            }
            OutboxEvent::DeadLettered { batch, error, .. } => {
                self.check_absent(batch, error)?;
                self.settle(batch, Fate::DeadLettered)
            }
            OutboxEvent::Durable { batch } => {
                for number in numbers(batch) {
                    self.known(number)?.durable = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }?;
        if let OutboxEvent::Failed { batch, .. } | OutboxEvent::DeadLettered { batch, .. } = event {
            for number in numbers(batch) {
                if let Some((id, epoch, _)) = self.known(number)?.number {
                    self.holes.insert((id, epoch), number);
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self, batch: &RecordBatch, fate: Fate) -> Result<(), Broken> {
        if fate == Fate::Lost {
            self.check_not_in_log(batch)?;
        }
        self.settle_as(batch, fate)
    }

    /// What is said to be certain is so.
    fn check_absent(&mut self, batch: &RecordBatch, error: &DeliveryError) -> Result<(), Broken> {
        if error.persisted == Persisted::No { self.check_not_in_log(batch) } else { Ok(()) }
    }

    fn check_not_in_log(&mut self, batch: &RecordBatch) -> Result<(), Broken> {
        let memory = self.memory;
        for number in numbers(batch) {
            let known = self.known(number)?;
            let there = !known.copies.is_empty() || known.of_old;
            let forgotten = known.copies.iter().all(|copy| *copy != memory);
            let excuse = known.straggled || known.of_old || forgotten;
            hold!(!there || excuse, "event {number} is said not to be in the log, and is");
        }
        Ok(())
    }

    fn settle_as(&mut self, batch: &RecordBatch, fate: Fate) -> Result<(), Broken> {
        for number in numbers(batch) {
            let known = self.known(number)?;
            hold!(known.mine, "event {number} is nobody's, and is {fate:?} now");
            hold!(known.fate == Fate::Open, "event {number} was {:?} and is {fate:?} now", known.fate);
            let given_up = matches!(fate, Fate::Lost | Fate::InDoubt);
            hold!(!(given_up && known.durable), "event {number} was durable, and is {fate:?} now");
            known.fate = fate;
            let there = !known.copies.is_empty() || known.of_old;
            if fate == Fate::Delivered {
                hold!(there, "event {number} is said to be delivered, and is not in the log");
            }
        }
        Ok(())
    }

    /// These were dropped by order, and our process was killed before it was told.
    pub(super) fn dropped_unseen(&mut self, batches: &[RecordBatch]) -> Result<(), Broken> {
        for number in batches.iter().flat_map(numbers) {
            self.known(number)?.before.get_or_insert(Fate::Lost);
        }
        Ok(())
    }

    /// Batches on disk are proven to be written.
    pub(super) fn proven(&mut self, batches: &[RecordBatch]) -> Result<(), Broken> {
        for batch in batches {
            let open = numbers(batch);
            let open: Vec<u32> =
                open.into_iter().filter(|n| self.events[*n as usize].fate == Fate::Open).collect();
            for number in open {
                let known = self.known(number)?;
                known.fate = Fate::Delivered;
                let there = !known.copies.is_empty() || known.of_old;
                hold!(there, "event {number} is said to be proven, and is not in the log");
            }
        }
        Ok(())
    }

    /// Our process was killed; this is what lies on disk.
    pub(super) fn killed(
        &mut self,
        on_disk: &[RecordBatch],
        dead_letters: &[RecordBatch],
        tally: &Tally,
        risked: bool,
    ) -> Result<(), Broken> {
        self.risked |= risked;
        self.admitted += tally.possible_duplicates;
        self.in_flight.clear();
        self.basis.clear();
        let there: std::collections::BTreeSet<u32> = on_disk.iter().flat_map(numbers).collect();
        // They may have come there without anybody having been told.
        for number in dead_letters.iter().flat_map(numbers) {
            self.known(number)?.before.get_or_insert(Fate::DeadLettered);
        }
        for (number, known) in (0u32..).zip(&mut self.events) {
            if known.fate != Fate::Open {
                known.before = Some(known.fate);
            }
            known.mine = there.contains(&number);
            if known.mine {
                hold!(
                    known.before != Some(Fate::Lost) && known.before != Some(Fate::InDoubt),
                    "event {number} was {:?}, and is on disk",
                    known.before
                );
                known.fate = Fate::Open;
                known.durable = true;
                known.found = true;
            } else if known.fate == Fate::Open && known.before.is_none() {
                hold!(!known.durable, "event {number} was durable, and is not on disk after the crash");
                known.vanished = true;
            } else if let Some(before) = known.before {
                known.fate = before;
            }
        }
        Ok(())
    }

    /// The figures against the truth.
    pub(super) fn check(&self, tally: &Tally) -> Result<(), Broken> {
        let mine = || self.events.iter().filter(|known| known.mine);
        let count = |fate| mine().filter(|known| known.fate == fate).count() as u64;
        let told = [
            tally.accepted + tally.recovered,
            tally.delivered,
            tally.lost,
            tally.in_doubt,
            tally.dead_lettered,
            tally.in_memory + tally.in_flight + tally.spooled,
        ];
        let fates = [Fate::Delivered, Fate::Lost, Fate::InDoubt, Fate::DeadLettered, Fate::Open].map(count);
        let truth = [mine().count() as u64, fates[0], fates[1], fates[2], fates[3], fates[4]];
        hold!(
            told == truth,
            "all, delivered, lost, in doubt, dead letters, open: told {told:?}, true {truth:?}"
        );
        let sum: u64 = told[1..].iter().sum();
        hold!(told[0] == sum, "{} events are not the sum {sum}", told[0]);
        let unadmitted = self.duplicates - self.excused;
        hold!(
            unadmitted <= self.admitted + tally.possible_duplicates,
            "{unadmitted} duplicates, {} admitted",
            self.admitted + tally.possible_duplicates
        );
        hold!(tally.reorderings == 0 || self.risked, "{} reorderings", tally.reorderings);
        Ok(())
    }

    /// Of all that was accepted, nothing is open.
    pub(super) fn check_settled(&self) -> Result<(), Broken> {
        for (number, known) in self.events.iter().enumerate() {
            hold!(known.fate != Fate::Open || known.vanished, "event {number} was never settled");
            let there = !known.copies.is_empty() || known.of_old;
            hold!(
                known.fate != Fate::Delivered || there,
                "event {number} was delivered, and is not in the log"
            );
        }
        Ok(())
    }

    /// Events that ended so: delivered, lost, in doubt, duplicates.
    pub(super) fn summary(&self) -> [u64; 4] {
        let count = |fate| self.events.iter().filter(|known| known.fate == fate).count() as u64;
        [count(Fate::Delivered), count(Fate::Lost), count(Fate::InDoubt), self.duplicates]
    }
}

fn numbers(batch: &RecordBatch) -> Vec<u32> {
    let records = batch.records().expect("the outbox hands back valid batches");
    let number = |value: Vec<u8>| u32::from_be_bytes(value[..4].try_into().expect("four bytes"));
    records.into_iter().filter_map(|record| record.value.map(number)).collect()
}
