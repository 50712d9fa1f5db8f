//! A fleet of processes and one broker, in virtual time: what comes to a broker when it is back after an outage.
//!
//! The outboxes are the real ones, the partitions the model's. A broker does one thing at a time: an attempt to connect (with
//! TLS and SASL) and a request take it so long, what comes meanwhile waits in line. A process writes to one partition, has one
//! connection, and makes it as the library's client does (`client/node.rs`): when a batch wants it, one attempt at a time, none
//! before the pause after the last one is over; what wants it earlier is told so, and waits for its own next time.
//!
//! Not in it: metadata (one more connection of each process, with a pause of the same kind), the network, and time-outs: what
//! is asserted of the line is that it stays far below any.

use std::collections::BTreeMap;

use super::model::{Appended, Kind, Memory, Partition, Received};
use crate::backoff::{Backoff, BackoffSettings};
use crate::batch::RecordBatch;
use crate::batch::encoder::{Encoder, Measured};
use crate::buffer_pool::{BufferPool, Chunk, Share};
use crate::delivery::{Leader, ProduceAnswer, ProduceResult, ProducerIdentity, ProducerState, TopicId};
use crate::outbox::{Action, Outbox, OutboxSettings, Tally};
use crate::record::Record;
use crate::rng::SplitMix64;
use crate::time::Time;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
/// What arrives is counted in slots of this length.
const SLOT: u64 = 100 * MS;
const UNIX_MS: i64 = 1_700_000_000_000;

/// A fleet and its outage.
#[derive(Clone, Copy, Debug)]
struct Plan {
    processes: usize,
    /// A batch of each partition is sealed so often.
    every: u64,
    outage: u64,
    /// What the broker needs for an attempt to connect, and for a request.
    connect: u64,
    request: u64,
    retries: BackoffSettings,
    /// The pauses between two attempts to connect: in the library half of the others (`client/cluster.rs`).
    connects: BackoffSettings,
}

impl Plan {
    /// A thousand processes that send a thousand requests a second to a broker that can take three times as many.
    fn fleet() -> Plan {
        Plan {
            processes: 1_000,
            every: SECOND,
            outage: 60 * SECOND,
            connect: 2 * MS,
            request: 330,
            retries: BackoffSettings::default(),
            connects: BackoffSettings::default().halved(),
        }
    }
}

#[derive(Debug)]
enum Happening {
    Seal(usize),
    Poll(usize),
    Identified(usize),
    /// The broker has done, or refused, what it was asked for.
    Connected(usize, bool),
    Produced(usize, u64, u64, Received),
    Described(usize, u64, i64),
    Down,
    Up,
}

/// A process's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    Connecting,
    Up,
}

struct Process {
    outbox: Outbox,
    /// The broker's.
    partition: Partition,
    sealed: u32,
    timer: Option<u64>,
    identity: i64,
    /// Counts connections, as in a [`Leader`].
    connection: u64,
    link: Link,
    pause: Backoff,
    not_before: u64,
    /// Who waits for the connection that is being made.
    waiting: Vec<(u64, Received)>,
    under_way: Vec<u64>,
    served_again: Option<u64>,
}

/// What was seen, in time since the broker came back.
#[derive(Debug, Default)]
struct Seen {
    /// Attempts to connect, and requests, in each slot.
    attempts: BTreeMap<i64, u32>,
    requests: BTreeMap<i64, u32>,
    /// The longest that something waited for the broker.
    longest_line: u64,
    /// When each process was served again.
    served: Vec<u64>,
    /// When nothing waited any more to be sent, to the second.
    drained: u64,
}

struct Wave {
    plan: Plan,
    rng: SplitMix64,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    processes: Vec<Process>,
    up: bool,
    /// When the broker has done all that it was asked for so far.
    free_at: u64,
    back_at: u64,
    seen: Seen,
}

impl Wave {
    fn new(plan: Plan, seed: u64) -> Wave {
        let mut rng = SplitMix64::new(seed);
        let settings = OutboxSettings {
            idempotent: true,
            max_in_flight: 5,
            backoff: plan.retries,
            first_sequence: 0,
            delivery_timeout: None,
            on_expired_timestamp: crate::outbox::OnExpiredTimestamp::Hold,
            required_acks: -1,
            spool: None,
        };
        let pool = BufferPool::new(1 << 24);
        let process = |index: usize, rng: &mut SplitMix64| Process {
            outbox: Outbox::new(settings, pool.clone(), Share::new(1 << 24), rng.next_u64()),
            partition: Partition::new(1, 0, true, true),
            sealed: 0,
            timer: None,
            identity: index as i64 + 1,
            connection: 1,
            link: Link::Down,
            pause: Backoff::new(plan.connects, rng.next_u64()),
            not_before: 0,
            waiting: Vec::new(),
            under_way: Vec::new(),
            served_again: None,
        };
        let processes = (0..plan.processes).map(|index| process(index, &mut rng)).collect();
        let down = 20 * SECOND;
        let mut wave = Wave {
            rng,
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            processes,
            up: true,
            free_at: 0,
            back_at: down + plan.outage,
            seen: Seen::default(),
            plan,
        };
        for c in 0..plan.processes {
            let first = wave.rng.below(plan.every);
            wave.at(first, Happening::Seal(c));
        }
        wave.at(down, Happening::Down);
        wave.at(wave.back_at, Happening::Up);
        wave
    }

    fn at(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        self.queue.insert((at, self.order), happening);
    }

    fn time(&self) -> Time {
        Time::from_micros(self.now)
    }

    fn unix_ms(&self) -> i64 {
        UNIX_MS + (self.now / MS) as i64
    }

    /// The slot of now, counted from the broker's return.
    fn slot(&self) -> i64 {
        (self.now as i64 - self.back_at as i64).div_euclid(SLOT as i64)
    }

    /// When the broker will have done something that takes it so long.
    fn in_line(&mut self, takes: u64) -> u64 {
        self.free_at = self.free_at.max(self.now) + takes;
        self.seen.longest_line = self.seen.longest_line.max(self.free_at - self.now);
        self.free_at
    }

    fn leader(&self, c: usize) -> Leader {
        Leader { node: 0, epoch: 0, topic_id: TopicId([1; 16]), connection: self.processes[c].connection }
    }

    fn run(mut self) -> Seen {
        // Sealing ends long after the last of the backlog; then the queue runs empty.
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            self.happen(happening);
            if self.seen.drained == 0 && self.now > self.back_at && self.nothing_waits() {
                self.seen.drained = self.now - self.back_at;
            }
        }
        self.check();
        self.seen.served = self.processes.iter().filter_map(|process| process.served_again).collect();
        self.seen.served.sort_unstable();
        self.seen
    }

    /// Looked at once a second: it looks at everybody.
    fn nothing_waits(&self) -> bool {
        self.slot() % 10 == 0 && self.processes.iter().all(|process| !process.outbox.has_unsent())
    }

    /// Each event once, and in order, as the partitions have them.
    fn check(&self) {
        for (c, process) in self.processes.iter().enumerate() {
            let sealed = process.sealed;
            assert!(process.partition.events().eq(0..sealed), "process {c}");
            let Tally { accepted, delivered, possible_duplicates, .. } = process.outbox.tally();
            assert_eq!((accepted, delivered, possible_duplicates), (u64::from(sealed), u64::from(sealed), 0));
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Seal(c) => {
                let batch = batch(self.processes[c].sealed, self.unix_ms());
                self.processes[c].sealed += 1;
                let now = self.time();
                self.processes[c].outbox.on_sealed(batch, now);
                // Long enough for the last one to be served, and the backlog to be through.
                if self.now < self.back_at + 2 * self.plan.outage {
                    self.at(self.now + self.plan.every, Happening::Seal(c));
                }
                self.poll(c);
            }
            Happening::Poll(c) => self.poll(c),
            Happening::Identified(c) => {
                let id = self.processes[c].identity;
                self.processes[c].outbox.on_identity(ProducerIdentity { id, epoch: 0 });
                self.poll(c);
            }
            Happening::Connected(c, well) => self.connected(c, well),
            Happening::Produced(c, connection, ticket, batch) => {
                if self.over(c, connection) {
                    return;
                }
                let offset = match self.processes[c].partition.append(&batch) {
                    Appended::Now(offset) => offset,
                    other => panic!("a fleet in which nothing goes twice: {other:?}"),
                };
                self.processes[c].under_way.retain(|sent| *sent != ticket);
                if self.now > self.back_at {
                    let since = self.now - self.back_at;
                    self.processes[c].served_again.get_or_insert(since);
                }
                self.report(c, ticket, ProduceResult::Acked { base_offset: Some(offset) }, true);
            }
            Happening::Described(c, connection, id) => {
                let state = match self.over(c, connection) {
                    true => ProducerState::Failed { message: "the connection is gone".to_owned() },
                    false => self.processes[c].partition.describe(id),
                };
                let (leader, now) = (self.leader(c), self.time());
                self.processes[c].outbox.on_described_by(Some(leader), state, now);
                self.poll(c);
            }
            Happening::Down => self.down(),
            Happening::Up => {
                self.up = true;
                self.free_at = self.now;
                self.processes.iter_mut().for_each(|process| process.partition.restart(Memory::LastBatch));
            }
        }
    }

    /// A request of a connection that is gone died with the broker.
    fn over(&self, c: usize, connection: u64) -> bool {
        !self.up || self.processes[c].connection != connection
    }

    fn down(&mut self) {
        self.up = false;
        for c in 0..self.processes.len() {
            let process = &mut self.processes[c];
            process.link = Link::Down;
            process.connection += 1;
            let lost = std::mem::take(&mut process.under_way);
            for ticket in lost {
                let message = "the connection was closed".to_owned();
                self.report(c, ticket, ProduceResult::Lost { message }, true);
            }
        }
    }

    fn poll(&mut self, c: usize) {
        loop {
            let (leader, now, unix_ms) = (self.leader(c), self.time(), self.unix_ms());
            let outbox = &mut self.processes[c].outbox;
            let action = outbox.poll_action(Some(leader), now, unix_ms);
            while outbox.poll_event().is_some() {}
            match action {
                Action::Wait { until } => {
                    let until = until.map(|until| until.as_micros().max(self.now + 1));
                    if let Some(at) = until
                        && std::mem::replace(&mut self.processes[c].timer, until) != until
                    {
                        self.at(at, Happening::Poll(c));
                    }
                    return;
                }
                Action::InitProducerId { .. } => self.at(self.now + MS, Happening::Identified(c)),
                Action::Produce { ticket, batch, .. } => {
                    self.produce(c, ticket, Received::read(&batch.to_bytes()));
                }
                Action::Describe { producer_id } => {
                    let done = if self.up { self.in_line(self.plan.request) } else { self.now + MS };
                    let connection = self.processes[c].connection;
                    self.at(done, Happening::Described(c, connection, producer_id));
                }
                other => panic!("{other:?} without a spool"),
            }
        }
    }

    fn produce(&mut self, c: usize, ticket: u64, batch: Received) {
        let process = &mut self.processes[c];
        if process.link == Link::Up {
            return self.send(c, ticket, batch);
        }
        if process.not_before > self.now {
            let message = "too early".to_owned();
            return self.at_once(c, ticket, ProduceResult::NotSent { message });
        }
        process.waiting.push((ticket, batch));
        if std::mem::replace(&mut process.link, Link::Connecting) == Link::Down {
            *self.seen.attempts.entry(self.slot()).or_default() += 1;
            let (up, takes) = (self.up, self.plan.connect);
            let done = if up { self.in_line(takes) } else { self.now + MS / 2 };
            self.at(done, Happening::Connected(c, up));
        }
    }

    fn send(&mut self, c: usize, ticket: u64, batch: Received) {
        *self.seen.requests.entry(self.slot()).or_default() += 1;
        let done = self.in_line(self.plan.request);
        let connection = self.processes[c].connection;
        self.processes[c].under_way.push(ticket);
        self.at(done, Happening::Produced(c, connection, ticket, batch));
    }

    fn connected(&mut self, c: usize, well: bool) {
        let process = &mut self.processes[c];
        process.link = if well && self.up { Link::Up } else { Link::Down };
        let waiting = std::mem::take(&mut process.waiting);
        if process.link == Link::Up {
            process.pause.reset();
            for (ticket, batch) in waiting {
                self.send(c, ticket, batch);
            }
            return;
        }
        process.not_before = self.now + process.pause.next_delay().as_micros() as u64;
        for (ticket, _) in waiting {
            self.report(c, ticket, ProduceResult::NotSent { message: "refused".to_owned() }, false);
        }
    }

    fn at_once(&mut self, c: usize, ticket: u64, result: ProduceResult) {
        let now = self.time();
        self.processes[c].outbox.on_produced(ticket, ProduceAnswer { result, leader: None }, now);
    }

    fn report(&mut self, c: usize, ticket: u64, result: ProduceResult, sent: bool) {
        let (now, leader) = (self.time(), sent.then(|| self.leader(c)));
        self.processes[c].outbox.on_produced(ticket, ProduceAnswer { result, leader }, now);
        self.poll(c);
    }
}

fn batch(number: u32, unix_ms: i64) -> RecordBatch {
    let mut value = number.to_be_bytes().to_vec();
    value.push(Kind::Plain as u8);
    let record = Record::value(&value);
    let measured = Measured::of(&record).expect("it is small");
    let mut encoder = Encoder::default();
    encoder.add_chunk(Chunk::unpooled(64));
    let size = encoder.size_of_next(measured, unix_ms);
    encoder.append(&record, unix_ms, measured, size);
    encoder.seal().expect("it has an event")
}

/// Several outages, of different lengths: when the broker comes back decides who tries next.
#[derive(Debug, Default)]
struct Several {
    /// Attempts a second in the last ten seconds before it is back, and the most in one slot from there on.
    attempts: u32,
    peak: u32,
    /// When half of the processes, and all of them, are served again, on the average; the latest of all.
    half: u64,
    all: u64,
    latest: u64,
    longest_line: u64,
    drained: u64,
}

fn several(name: &str, plan: Plan) -> Several {
    const OUTAGES: u64 = 5;
    let mut sum = Several::default();
    for n in 0..OUTAGES {
        let seen = Wave::new(Plan { outage: plan.outage + n * SECOND, ..plan }, 1 + n).run();
        assert_eq!(seen.served.len(), plan.processes);
        let during: u32 = seen.attempts.range(-100..0).map(|(_, count)| count).sum();
        sum.attempts += during / 10;
        sum.peak = sum.peak.max(seen.attempts.range(-100..).map(|(_, count)| *count).max().unwrap_or(0));
        let (half, all) = (seen.served[plan.processes / 2], seen.served[plan.processes - 1]);
        sum.half += half;
        sum.all += all;
        sum.latest = sum.latest.max(all);
        sum.longest_line = sum.longest_line.max(seen.longest_line);
        sum.drained = sum.drained.max(seen.drained);
    }
    sum.attempts /= OUTAGES as u32;
    (sum.half, sum.all) = (sum.half / OUTAGES, sum.all / OUTAGES);
    println!("{name}: {sum:?}");
    sum
}

#[test]
fn a_fleet_comes_back_in_a_stream_and_not_in_a_wave() {
    let seen = several("as it is", Plan::fleet());
    // A thousand within one longest pause of 5 s, evenly, would be 20 in each slot.
    assert!(seen.peak <= 60, "{seen:?}");
    // The longest pause, and the line of those that come at the same time, twice: to connect, and to be written.
    assert!(seen.latest < 9 * SECOND, "{seen:?}");
    assert!(seen.longest_line < 5 * SECOND, "{seen:?}");
    // A third of what it can take comes in: the rest is the backlog's.
    assert!(seen.drained < 45 * SECOND, "{seen:?}");
}

/// What the pauses are for.
#[test]
fn without_jitter_it_is_a_wave_and_with_longer_pauses_between_connects_it_is_a_late_one() {
    let retries = BackoffSettings { jitter: 0.0, ..Default::default() };
    let wave = several("no jitter", Plan { retries, connects: retries.halved(), ..Plan::fleet() });
    assert!(wave.peak > 100, "{wave:?}");
    let late = several("connects as retries", Plan { connects: BackoffSettings::default(), ..Plan::fleet() });
    assert!(late.latest > 10 * SECOND, "{late:?}");
}
