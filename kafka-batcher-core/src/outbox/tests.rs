//! The rules of delivery one by one, in virtual time: each test plays the broker by hand and is named after what goes
//! wrong without its rule. (What no hand thinks of: `simulator.rs`.)

mod answers;
mod closing;
mod doubt;
mod expiry;
mod identity;
mod leaderless;
mod order;
mod refusals;
mod spooling;
mod storage;

use std::time::Duration;

use super::*;
use crate::batch::encoder::{Encoder, Measured};
use crate::buffer_pool::Chunk;
use crate::delivery::{ProduceAnswer, ProduceResult, Refusal};
use crate::{BackoffSettings, ErrorCode, Record};

const UNIX_MS: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;

/// A broker, a driver and a clock, played by a test.
struct Bench {
    outbox: Outbox,
    now: Time,
    unix_ms: i64,
    leader: Leader,
    /// What the cluster answers to InitProducerId; then it counts on.
    next_id: i64,
    first_epoch: i16,
}

/// A Produce request.
#[derive(Debug)]
struct Sent {
    ticket: u64,
    batch: RecordBatch,
}

impl Sent {
    /// Producer id, epoch, first sequence, events.
    fn numbers(&self) -> (i64, i16, i32, u32) {
        let stamp = self.batch.stamp();
        (stamp.producer_id, stamp.epoch, stamp.first_sequence, self.batch.count())
    }
}

/// What one round of polling led to.
#[derive(Debug, Default)]
struct Round {
    sent: Vec<Sent>,
    described: Option<i64>,
    until: Option<Time>,
}

impl Round {
    fn numbers(&self) -> Vec<(i64, i16, i32, u32)> {
        self.sent.iter().map(Sent::numbers).collect()
    }
}

fn settings() -> OutboxSettings {
    let backoff = BackoffSettings { jitter: 0.0, ..BackoffSettings::default() };
    OutboxSettings {
        idempotent: true,
        max_in_flight: 5,
        backoff,
        first_sequence: 0,
        delivery_timeout: None,
        on_expired_timestamp: OnExpiredTimestamp::Hold,
        required_acks: -1,
        spool: None,
    }
}

/// A batch of so many events whose time we assigned.
fn batch(events: u32, time: i64) -> RecordBatch {
    let assigned: Vec<Option<i64>> = (0..events).map(|_| None).collect();
    batch_of(&assigned, time)
}

/// A batch of events with the times that the user gave, or `time`.
fn batch_of(times: &[Option<i64>], time: i64) -> RecordBatch {
    let mut encoder = Encoder::default();
    encoder.add_chunk(Chunk::unpooled(4_096));
    for given in times {
        let record = Record { timestamp: *given, ..Record::value("event") };
        let time = given.unwrap_or(time);
        let measured = Measured::of(&record).unwrap();
        let size = encoder.size_of_next(measured, time);
        encoder.append(&record, time, measured, size);
    }
    encoder.seal().unwrap()
}

impl Bench {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: OutboxSettings) -> Self {
        Bench {
            outbox: Outbox::new(settings, BufferPool::new(1 << 20), Share::new(1 << 20), 1),
            now: Time::from_millis(1_000),
            unix_ms: UNIX_MS,
            leader: Leader { node: 1, epoch: 7, topic_id: TopicId([3; 16]), connection: 1 },
            next_id: 100,
            first_epoch: 0,
        }
    }

    /// An outbox whose run is established: one batch of one event was acknowledged, sequence 0.
    fn established() -> Self {
        let mut bench = Bench::new();
        bench.seal(1);
        let sent = bench.one();
        bench.ack(&sent, 0);
        assert_eq!(bench.delivered(), 1);
        bench
    }

    /// The same with these batches behind it, all in flight.
    fn flying(events: &[u32]) -> (Self, Vec<Sent>) {
        let mut bench = Bench::established();
        events.iter().for_each(|events| bench.seal(*events));
        let sent = bench.poll().sent;
        assert_eq!(sent.len(), events.len());
        (bench, sent)
    }

    fn seal(&mut self, events: u32) {
        let batch = batch(events, self.unix_ms);
        self.outbox.on_sealed(batch, self.now);
    }

    /// Polls until there is nothing to do; identities are given at once.
    fn poll(&mut self) -> Round {
        let mut round = Round::default();
        for _ in 0..50 {
            match self.outbox.poll_action(Some(self.leader), self.now, self.unix_ms) {
                Action::Produce { ticket, batch, .. } => round.sent.push(Sent { ticket, batch }),
                Action::Describe { producer_id } => round.described = Some(producer_id),
                Action::InitProducerId { other_than } => {
                    assert_ne!(other_than, Some(self.next_id));
                    self.outbox.on_identity(ProducerIdentity { id: self.next_id, epoch: self.first_epoch });
                    self.next_id += 1;
                }
                Action::Save { .. }
                | Action::Renumber { .. }
                | Action::Read { .. }
                | Action::Reject { .. }
                | Action::Drop { .. }
                | Action::AskRetention
                | Action::Commit { .. } => panic!("there is no spool"),
                Action::Wait { until } => {
                    round.until = until;
                    return round;
                }
            }
        }
        panic!("it spins: {round:?}");
    }

    /// Polls, and expects exactly one request.
    fn one(&mut self) -> Sent {
        let mut round = self.poll();
        assert_eq!(round.sent.len(), 1, "{round:?}");
        round.sent.remove(0)
    }

    /// Polls, and expects that the broker is asked about this id.
    fn asks(&mut self) -> i64 {
        let round = self.poll();
        assert!(round.sent.is_empty(), "{round:?}");
        round.described.expect("the broker is asked")
    }

    fn answer(&mut self, sent: &Sent, result: ProduceResult) {
        let answer = ProduceAnswer { result, leader: Some(self.leader) };
        self.outbox.on_produced(sent.ticket, answer, self.now);
    }

    fn ack(&mut self, sent: &Sent, base_offset: i64) {
        self.answer(sent, ProduceResult::Acked { base_offset: Some(base_offset) });
    }

    fn refuse(&mut self, sent: &Sent, code: i16) {
        self.answer(sent, ProduceResult::Refused(Refusal::code(ErrorCode(code))));
    }

    fn refuse_records(&mut self, sent: &Sent, code: i16, records: &[u32]) {
        let record_errors = records.iter().map(|i| (*i, Some("bad".to_owned()))).collect();
        let refusal = Refusal { record_errors, ..Refusal::code(ErrorCode(code)) };
        self.answer(sent, ProduceResult::Refused(refusal));
    }

    fn lose(&mut self, sent: &Sent) {
        self.answer(sent, ProduceResult::Lost { message: "connection lost".to_owned() });
    }

    fn lose_all(&mut self, sent: &[Sent]) {
        sent.iter().for_each(|sent| self.lose(sent));
        self.leader.connection += 1;
        self.sleep();
    }

    fn describe(&mut self, state: ProducerState) {
        self.outbox.on_described_by(Some(self.leader), state, self.now);
    }

    fn knows(&mut self, epoch: i16, last_sequence: i32) {
        self.describe(ProducerState::Known { epoch, last_sequence });
    }

    /// Lets any pause pass.
    fn sleep(&mut self) {
        self.now = self.now + Duration::from_secs(5);
    }

    fn events(&mut self) -> Vec<OutboxEvent> {
        std::iter::from_fn(|| self.outbox.poll_event()).collect()
    }

    /// Events delivered in all.
    fn delivered(&self) -> u64 {
        self.outbox.tally().delivered
    }

    fn troubles(&mut self) -> Vec<Trouble> {
        let trouble = |event| match event {
            OutboxEvent::Troubled(trouble) => Some(trouble),
            _ => None,
        };
        self.events().into_iter().filter_map(trouble).collect()
    }
}
