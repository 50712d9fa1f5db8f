//! The model of a partition on a Kafka broker: it answers as a real Kafka 4.1 was seen to (DESIGN.md, Delivery).
//!
//! Written from that table alone, not from the outbox, and much simpler than `kafka-batcher-broker`: no bytes, no
//! protocol, one log.

use std::collections::{BTreeMap, VecDeque};

use crate::batch::RecordBatch;
use crate::delivery::{ProducerState, Refusal};
use crate::error_code::ErrorCode;

/// What the value of an event says about it, behind its four-byte number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Its time was assigned.
    Plain,
    /// Refused with 87.
    Poison,
    /// Its time was given, and is refused with 32.
    BadTime,
    /// Its time was given, and is fine.
    GivenTime,
}

/// An event as the broker reads it out of the bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) number: u32,
    kind: u8,
}

/// A stamped batch as the broker reads it out of the bytes.
#[derive(Clone, Debug)]
pub(super) struct Received {
    size: usize,
    pub(super) id: i64,
    pub(super) epoch: i16,
    pub(super) first: i32,
    pub(super) last: i32,
    pub(super) timestamp: i64,
    pub(super) events: Vec<Event>,
}

impl Received {
    /// Through the wire's bytes, so that stamp, count and CRC are those that a broker would see.
    pub(super) fn read(bytes: &[u8]) -> Received {
        let (batch, used) = RecordBatch::decode(bytes).expect("the outbox sends valid batches");
        assert_eq!(used, bytes.len());
        let event = |record: crate::OwnedRecord| {
            let value = record.value.expect("events have values");
            let number = u32::from_be_bytes(value[..4].try_into().expect("four bytes"));
            Event { number, kind: value[4] }
        };
        Received {
            size: bytes.len(),
            id: batch.stamp().producer_id,
            epoch: batch.stamp().epoch,
            first: batch.stamp().first_sequence,
            last: batch.last_sequence(),
            timestamp: batch.max_timestamp(),
            events: batch.records().expect("they were read before").into_iter().map(event).collect(),
        }
    }
}

/// A batch in the log.
#[derive(Clone, Debug)]
struct Written {
    id: i64,
    epoch: i16,
    first: i32,
    last: i32,
    timestamp: i64,
    base_offset: i64,
    events: Vec<u32>,
    /// On all replicas: a change of leader keeps it.
    committed: bool,
}

#[derive(Clone, Debug, Default)]
struct Producer {
    epoch: i16,
    /// First, last, base offset; the oldest first; at most five.
    batches: VecDeque<(i32, i32, i64)>,
    timestamp: i64,
}

/// What became of an append.
#[derive(Clone, Debug)]
pub(super) enum Appended {
    /// Written now, at this offset.
    Now(i64),
    /// Recognised: it was written there.
    Before(i64),
    No(Refusal),
}

/// How much a restart leaves of the memory of producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Whole,
    LastBatch,
    Nothing,
}

/// One partition of one topic.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    /// Counts the topics of this name.
    pub(super) topic: u8,
    pub(super) leader: Option<i32>,
    pub(super) epoch: i32,
    log: Vec<Written>,
    producers: BTreeMap<i64, Producer>,
    end: i64,
    pub(super) max_bytes: usize,
    /// The bound on times refuses even those assigned by the client.
    pub(super) refuses_times: bool,
    pub(super) names_culprits: bool,
    pub(super) idempotent: bool,
}

impl Partition {
    pub(super) fn new(topic: u8, leader: i32, names_culprits: bool, idempotent: bool) -> Self {
        Partition {
            topic,
            leader: Some(leader),
            epoch: 0,
            log: Vec::new(),
            producers: BTreeMap::new(),
            end: 0,
            max_bytes: usize::MAX,
            refuses_times: false,
            names_culprits,
            idempotent,
        }
    }

    /// Size and times are looked at before duplicates are.
    pub(super) fn append(&mut self, batch: &Received) -> Appended {
        if batch.size > self.max_bytes {
            return Appended::No(Refusal::code(ErrorCode::MESSAGE_TOO_LARGE));
        }
        let poison = |event: &Event| event.kind == Kind::Poison as u8;
        let early = |event: &Event| {
            event.kind == Kind::BadTime as u8 || (self.refuses_times && event.kind == Kind::Plain as u8)
        };
        if batch.events.iter().any(poison) {
            return Appended::No(self.refuse(ErrorCode::INVALID_RECORD, batch, poison));
        }
        if batch.events.iter().any(early) {
            return Appended::No(self.refuse(ErrorCode::INVALID_TIMESTAMP, batch, early));
        }
        if !self.idempotent {
            return Appended::Now(self.write(batch));
        }
        if let Some(producer) = self.producers.get(&batch.id) {
            let known = producer.batches.iter().find(|known| (known.0, known.1) == (batch.first, batch.last));
            if let Some(known) = known.filter(|_| producer.epoch == batch.epoch) {
                return Appended::Before(known.2);
            }
            if batch.epoch < producer.epoch {
                return Appended::No(Refusal::code(ErrorCode::INVALID_PRODUCER_EPOCH));
            }
            let next = match producer.batches.back() {
                Some((_, last, _)) if batch.epoch == producer.epoch => (i64::from(*last) + 1) & 0x7fff_ffff,
                _ => 0,
            };
            if i64::from(batch.first) != next {
                return Appended::No(Refusal::code(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
            }
        }
        Appended::Now(self.write(batch))
    }

    fn refuse(&self, code: ErrorCode, batch: &Received, which: impl Fn(&Event) -> bool) -> Refusal {
        let culprits = (0u32..).zip(&batch.events).filter(|(_, event)| which(event)).map(|(i, _)| (i, None));
        let record_errors = if self.names_culprits { culprits.collect() } else { Vec::new() };
        Refusal { record_errors, ..Refusal::code(code) }
    }

    fn write(&mut self, batch: &Received) -> i64 {
        let base_offset = self.end;
        self.end += batch.events.len() as i64;
        let written = Written {
            id: batch.id,
            epoch: batch.epoch,
            first: batch.first,
            last: batch.last,
            timestamp: batch.timestamp,
            base_offset,
            events: batch.events.iter().map(|event| event.number).collect(),
            committed: !self.idempotent,
        };
        self.remember(&written);
        self.log.push(written);
        base_offset
    }

    fn remember(&mut self, written: &Written) {
        let producer = self.producers.entry(written.id).or_default();
        if producer.epoch != written.epoch {
            producer.batches.clear();
        }
        producer.epoch = written.epoch;
        producer.timestamp = written.timestamp;
        producer.batches.push_back((written.first, written.last, written.base_offset));
        if producer.batches.len() > 5 {
            producer.batches.pop_front();
        }
    }

    /// An acknowledgement with acks = all: everything up to this batch is on all replicas.
    pub(super) fn commit(&mut self, base_offset: i64) {
        self.log.iter_mut().filter(|w| w.base_offset <= base_offset).for_each(|w| w.committed = true);
    }

    /// The new leader never got what was not committed. Returns the events that are gone.
    pub(super) fn cut(&mut self) -> Vec<u32> {
        let keep = self.log.iter().rposition(|w| w.committed).map_or(0, |last| last + 1);
        let gone: Vec<Written> = self.log.drain(keep..).collect();
        if let Some(first) = gone.first() {
            self.end = first.base_offset;
            self.producers.clear();
            // A log that is cut is read again (`UnifiedLog.truncateTo`, `rebuildProducerState`).
            for written in &self.log.clone() {
                self.remember(written);
            }
        }
        gone.into_iter().flat_map(|w| w.events).collect()
    }

    pub(super) fn restart(&mut self, memory: Memory) {
        match memory {
            Memory::Whole => {}
            Memory::LastBatch => self.producers.values_mut().for_each(|producer| {
                let last = producer.batches.pop_back();
                producer.batches.clear();
                producer.batches.extend(last);
            }),
            Memory::Nothing => self.producers.clear(),
        }
    }

    /// Expiry runs on the time of the events.
    pub(super) fn expire(&mut self, unix_ms: i64) {
        self.producers.retain(|_, producer| unix_ms - producer.timestamp < 24 * 3_600_000);
    }

    /// Somebody else goes on with one of the ids known here, in a higher epoch.
    pub(super) fn take_over(&mut self) {
        let last =
            self.producers.iter().next_back().map(|(id, producer)| (*id, producer.epoch, producer.timestamp));
        if let Some((id, epoch, timestamp)) = last
            && epoch < 30_000
        {
            let batches = VecDeque::from([(0, 0, self.end)]);
            self.producers.insert(id, Producer { epoch: epoch + 1_000, batches, timestamp });
        }
    }

    pub(super) fn describe(&self, id: i64) -> ProducerState {
        self.producers.get(&id).map_or(ProducerState::Unknown, |producer| ProducerState::Known {
            epoch: producer.epoch,
            last_sequence: producer.batches.back().map_or(-1, |(_, last, _)| *last),
        })
    }

    /// The events in the log.
    pub(super) fn events(&self) -> impl Iterator<Item = u32> {
        self.log.iter().flat_map(|w| w.events.iter().copied())
    }
}
