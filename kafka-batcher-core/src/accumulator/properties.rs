//! Any sequence of calls gives what a simple model of the rules gives, step by step.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SMALLEST: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Push {
        lane: usize,
        key: Option<usize>,
        value: usize,
        time: i64,
        given: bool,
        flush: bool,
        stingy: bool,
    },
    /// Time passes; what falls due meanwhile is handled when it is due.
    Pass(u64),
    /// Somebody calls without need.
    Spurious,
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    let key =
        prop_oneof![2 => Just(None), 3 => (0..20usize).prop_map(Some), 1 => (60..70usize).prop_map(Some)];
    let value = prop_oneof![8 => 4..90usize, 1 => 100..700usize];
    let time = prop_oneof![5 => Just(0i64), 3 => -70..70i64, 1 => any::<i64>()];
    let rarely = prop::bool::weighted(0.06);
    let push = (0..4usize, key, value, time, prop::bool::weighted(0.1), rarely, any::<bool>());
    let push = push.prop_map(|(lane, key, value, time, given, flush, stingy)| Step::Push {
        lane,
        key,
        value,
        time,
        given,
        flush,
        stingy,
    });
    prop_oneof![30 => push, 6 => (0..8u64).prop_map(Step::Pass), 2 => Just(Step::Spurious), 1 => Just(Step::Seal)]
}

fn settings() -> impl Strategy<Value = AccumulatorSettings> {
    let delay = prop_oneof![2 => Just(0u64), 1 => 1..12u64, 1 => Just(1000u64)];
    (1..12u32, 61..900usize, 0..15u64, delay).prop_map(|(batch_size, limit, wait, delay)| {
        AccumulatorSettings {
            batch_size,
            max_batch_bytesize: limit,
            max_wait_time: Duration::from_millis(wait),
            min_delay: Duration::from_millis(delay),
        }
    })
}

/// Length of a varint by its definition.
fn varint_len(value: i64) -> usize {
    let mut zigzag = (i128::from(value) * 2) ^ if value < 0 { -1 } else { 0 };
    let mut len = 1;
    while zigzag >= 128 {
        zigzag /= 128;
        len += 1;
    }
    len
}

#[derive(Clone, Debug)]
struct Event {
    id: u32,
    accepted: Time,
    key: Option<usize>,
    value: usize,
    time: i64,
}

/// Size of a batch, from the description of the format.
fn size(events: &[Event]) -> usize {
    let record = |(i, event): (usize, &Event)| {
        let delta = event.time.wrapping_sub(events[0].time);
        let body = 1
            + varint_len(delta)
            + varint_len(i as i64)
            + event.key.map_or(1, |len| varint_len(len as i64) + len)
            + varint_len(event.value as i64)
            + event.value
            + 1;
        varint_len(body as i64) + body
    };
    61 + events.iter().enumerate().map(record).sum::<usize>()
}

/// What comes out: partition, reason, events.
type Out = (i32, FlushReason, Vec<u32>);

/// The rules, written for clarity alone.
struct Model {
    settings: AccumulatorSettings,
    /// The open batches in the order of their opening.
    open: Vec<(usize, Vec<Event>)>,
    last_seal: Option<Time>,
    delayed: Option<usize>,
    out: Vec<Out>,
}

impl Model {
    fn events(&self) -> usize {
        self.open.iter().map(|(_, events)| events.len()).sum()
    }

    fn lane(&self, lane: usize) -> &[Event] {
        self.open.iter().find(|(l, _)| *l == lane).map_or(&[], |(_, events)| events)
    }

    fn seal(&mut self, now: Time, reason_of: impl Fn(usize, &[Event]) -> Option<FlushReason>) {
        for (lane, events) in std::mem::take(&mut self.open) {
            match reason_of(lane, &events) {
                Some(reason) => {
                    self.out.push((lane as i32, reason, events.iter().map(|e| e.id).collect()));
                    self.last_seal = Some(now);
                }
                None => self.open.push((lane, events)),
            }
        }
        if self.events() < self.settings.batch_size as usize {
            self.delayed = None;
        }
    }

    fn seal_lane(&mut self, lane: usize, now: Time) {
        self.seal(now, |l, _| (l == lane).then_some(FlushReason::Bytes));
    }

    fn seal_topic(&mut self, tripped: usize, reason: FlushReason, now: Time) {
        let there = !self.lane(tripped).is_empty();
        let tripped = if there { tripped } else { self.open[0].0 };
        self.seal(now, |lane, _| Some(if lane == tripped { reason } else { FlushReason::Topic }));
    }

    /// False: too large.
    fn push(&mut self, lane: usize, event: Event, flush: bool) -> bool {
        let now = event.accepted;
        let limit = self.settings.max_batch_bytesize;
        if size(std::slice::from_ref(&event)) > limit {
            return false;
        }
        let with = |events: &[Event]| [events, std::slice::from_ref(&event)].concat();
        if size(&with(self.lane(lane))) > limit {
            self.seal_lane(lane, now);
        }
        match self.open.iter_mut().find(|(l, _)| *l == lane) {
            Some((_, events)) => events.push(event),
            None => self.open.push((lane, vec![event])),
        }
        if flush {
            self.seal_topic(lane, FlushReason::Flusher, now);
        } else if self.events() >= self.settings.batch_size as usize && self.delayed.is_none() {
            if self.last_seal.is_none_or(|seal| seal + self.settings.min_delay <= now) {
                self.seal_topic(lane, FlushReason::Count, now);
            } else {
                self.delayed = Some(lane);
            }
        }
        let events = self.lane(lane);
        if !events.is_empty() && size(events) + SMALLEST + varint_len(events.len() as i64) > limit {
            self.seal_lane(lane, now);
        }
        true
    }

    fn timeout(&self) -> Option<Time> {
        let wait =
            self.open.iter().map(|(_, events)| events[0].accepted + self.settings.max_wait_time).min()?;
        let delayed = self.delayed.and(self.last_seal).map(|seal| seal + self.settings.min_delay);
        Some(delayed.map_or(wait, |delayed| delayed.min(wait)))
    }

    fn handle_timeout(&mut self, now: Time) {
        let wait = self.settings.max_wait_time;
        if self.open.iter().any(|(_, events)| events[0].accepted + wait <= now) {
            self.seal(now, |_, events| {
                Some(if events[0].accepted + wait <= now { FlushReason::Wait } else { FlushReason::Topic })
            });
        } else if let (Some(lane), Some(seal)) = (self.delayed, self.last_seal)
            && seal + self.settings.min_delay <= now
        {
            self.seal_topic(lane, FlushReason::Count, now);
        }
    }
}

struct World {
    accumulator: Accumulator,
    model: Model,
    now: Time,
    next_id: u32,
    accepted: Vec<Vec<(u32, Time)>>,
    came_out: Vec<Vec<u32>>,
    /// By event: whether it came with a time of its own.
    given: Vec<bool>,
    /// Whether the short way was tried for the event before.
    short: bool,
}

impl World {
    fn new(settings: AccumulatorSettings, lanes: usize) -> Self {
        let mut accumulator = Accumulator::new(settings, 0);
        (1..lanes).for_each(|lane| assert_eq!(accumulator.add_lane(lane as i32), lane));
        let model = Model { settings, open: Vec::new(), last_seal: None, delayed: None, out: Vec::new() };
        let (accepted, came_out) = (vec![Vec::new(); lanes], vec![Vec::new(); lanes]);
        Self {
            accumulator,
            model,
            now: Time::from_millis(1),
            next_id: 0,
            accepted,
            came_out,
            given: Vec::new(),
            short: false,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Push { lane, key, value, time, given, flush, stingy } => {
                let lane = lane % self.accepted.len();
                let id = self.next_id;
                self.next_id += 1;
                self.given.push(given);
                let mut bytes = vec![0u8; value];
                bytes[..4].copy_from_slice(&id.to_be_bytes());
                let key_bytes = key.map(|len| vec![1u8; len]);
                let time = time.wrapping_add(1_000_000);
                let record = Record {
                    key: key_bytes.as_deref(),
                    value: Some(&bytes),
                    timestamp: given.then_some(time),
                    ..Record::default()
                };
                let event = Event { id, accepted: self.now, key, value, time };
                let (taken, ready) = self.push(lane, &record, time, flush, stingy);
                let before = self.model.timeout();
                assert_eq!(self.model.push(lane, event, flush), taken);
                if taken {
                    self.accepted[lane].push((id, self.now));
                    let expected = match (self.model.out.is_empty(), self.model.timeout(), before) {
                        (false, ..) => Ready::Sealed,
                        (true, Some(new), Some(old)) if new >= old => Ready::No,
                        _ => Ready::Timer,
                    };
                    assert_eq!(ready, expected);
                }
            }
            Step::Pass(millis) => {
                let end = self.now + Duration::from_millis(millis);
                while let Some(due) = self.accumulator.poll_timeout().filter(|due| *due <= end) {
                    self.now = self.now.max(due);
                    self.accumulator.handle_timeout(self.now);
                    self.model.handle_timeout(self.now);
                    self.check();
                    assert_ne!(self.accumulator.poll_timeout(), Some(due), "what was due is done");
                }
                self.now = end;
            }
            Step::Spurious => {
                // Whatever was due by now has been handled unless time does not matter (a wait of 0).
                if self.accumulator.poll_timeout().is_none_or(|due| due > self.now) {
                    let before = format!("{:?}", self.accumulator);
                    self.accumulator.handle_timeout(self.now);
                    assert_eq!(before, format!("{:?}", self.accumulator));
                }
            }
            Step::Seal => {
                self.accumulator.seal(FlushReason::Memory, self.now);
                let now = self.now;
                self.model.seal(now, |_, _| Some(FlushReason::Memory));
            }
        }
        self.check();
    }

    fn push(
        &mut self,
        lane: usize,
        record: &Record<'_>,
        time: i64,
        flush: bool,
        stingy: bool,
    ) -> (bool, Ready) {
        let offer = Offer { lane, record, timestamp: time, flush_after: flush, want_receipt: false };
        let (mut spare, now, mut reads) = (None, self.now, 0);
        // As a collector does: the short way first, and every other time, so that the events in between go the other.
        self.short = !self.short;
        if self.short && !flush {
            let before = format!("{:?}", self.accumulator);
            if self.accumulator.push_short(lane, record, time) {
                assert!(!self.model.lane(lane).is_empty(), "the first of a batch has a deadline to be kept");
                return (true, Ready::No);
            }
            assert_eq!(before, format!("{:?}", self.accumulator), "not taken and changed");
        }
        loop {
            let before = format!("{:?}", self.accumulator);
            let result = self.accumulator.push(offer, &mut spare, || {
                reads += 1;
                now
            });
            if result.is_err() {
                assert_eq!(before, format!("{:?}", self.accumulator), "refused and changed");
            }
            match result {
                Ok(pushed) => {
                    assert!(reads <= 1);
                    return (true, pushed.ready);
                }
                Err(PushError::NeedsChunk { size, least }) => {
                    assert!(
                        spare.is_none() && least <= size && size <= self.model.settings.max_batch_bytesize
                    );
                    spare = Some(Chunk::unpooled(if stingy { least } else { size }));
                }
                Err(PushError::Record(RecordError::TooLarge { size, limit })) => {
                    assert!(size > limit && limit == self.model.settings.max_batch_bytesize);
                    return (false, Ready::No);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Both say the same, and what was promised holds.
    fn check(&mut self) {
        let wait = self.model.settings.max_wait_time;
        for (partition, reason, ids) in std::mem::take(&mut self.model.out) {
            let sealed = self.accumulator.poll_sealed().expect("the model has one more");
            let bytes = sealed.batch.to_bytes();
            assert_eq!(bytes.len(), sealed.batch.encoded_len());
            assert!(bytes.len() <= self.model.settings.max_batch_bytesize);
            let (decoded, _) = crate::RecordBatch::decode(&bytes).expect("what we wrote");
            let records = decoded.records().expect("what we wrote");
            let id = |value: &[u8]| u32::from_be_bytes(value[..4].try_into().unwrap());
            let found: Vec<u32> = records.iter().map(|r| id(r.value.as_deref().unwrap())).collect();
            assert_eq!((sealed.partition, sealed.reason, &found), (partition, reason, &ids));
            assert_eq!(Some(decoded.max_timestamp()), records.iter().map(|r| r.timestamp).max());
            let lane = partition as usize;
            let first = self.came_out[lane].len();
            for (i, id) in (0..).zip(&ids) {
                assert_eq!(sealed.batch.time_given(i), self.given[*id as usize]);
            }
            for (i, id) in (first..).zip(ids) {
                let (accepted_id, accepted) = self.accepted_at(lane, i, id);
                assert_eq!(accepted_id, id, "order of acceptance");
                assert!(self.now.since(accepted) <= wait, "waited too long");
                assert!(i > first || sealed.opened == accepted);
                self.came_out[lane].push(id);
            }
        }
        assert!(self.accumulator.poll_sealed().is_none());
        assert_eq!(self.accumulator.open_events(), self.model.events() as u64);
        let bytes: usize = self.model.open.iter().map(|(_, events)| size(events)).sum();
        assert_eq!(self.accumulator.open_bytes(), bytes);
        assert_eq!(self.accumulator.poll_timeout(), self.model.timeout());
    }

    fn accepted_at(&self, lane: usize, index: usize, id: u32) -> (u32, Time) {
        self.accepted[lane]
            .get(index)
            .copied()
            .unwrap_or_else(|| panic!("event {id} came out and never went in"))
    }

    fn finish(mut self) {
        self.step(&Step::Seal);
        for (accepted, came_out) in self.accepted.iter().zip(&self.came_out) {
            assert_eq!(&accepted.iter().map(|(id, _)| *id).collect::<Vec<_>>(), came_out);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_gives_what_the_rules_give(
        settings in settings(),
        lanes in prop_oneof![Just(1usize), 2..5usize],
        steps in vec(step(), 1..120),
    ) {
        let mut world = World::new(settings, lanes);
        steps.iter().for_each(|step| world.step(step));
        world.finish();
    }
}
