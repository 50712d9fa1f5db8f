//! The events that every client sends, and when: the same bytes in the same order at the same moments.
//!
//! The programs in Go and Java (`franz-go/load.go`, `java/Load.java`) do the same, step by step, and a digest of all keys and values in
//! every client's result shows that they do. Everything is made before anything is measured; emitting an event is two look-ups.

use std::time::{Duration, Instant};

use crate::job::Job;

/// The shortest pause of a load that has a rate: a sleep for each event would cost more than all that is measured.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// What stands around a value's text: values are JSON, so that the client that encodes a type sends the very same bytes.
const BEFORE: &str = "{\"text\":\"";
const AFTER: &str = "\"}";

/// Text is made of words, as payloads are, so that a codec finds what it finds in life: neither noise nor one value again
/// and again.
const WORDS: [&str; 32] = [
    "flight",
    "origin",
    "delay",
    "gate",
    "carrier",
    "airport",
    "weather",
    "minutes",
    "cancelled",
    "diverted",
    "runway",
    "taxi",
    "wheels",
    "scheduled",
    "actual",
    "distance",
    "SEA",
    "JFK",
    "ORD",
    "ATL",
    "DFW",
    "LAX",
    "2026",
    "11",
    "26",
    "0",
    "17",
    "true",
    "false",
    "null",
    "on",
    "to",
];

/// xorshift64*: the same bytes in every run and every language.
struct Random(u64);

impl Random {
    fn five_bits(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 59) as usize
    }
}

/// One event to be sent; its bytes live as long as the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) key: &'static [u8],
    pub(crate) value: &'static [u8],
    /// The value without what stands around it.
    pub(crate) text: &'static str,
}

/// Keys and values.
pub(crate) struct Load {
    keys: Vec<u8>,
    key_size: usize,
    values: Vec<String>,
}

impl Load {
    /// Of the sizes and numbers that the job asks for.
    pub(crate) fn new(job: &Job) -> Load {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let keys = (0..job.keys * job.key_size).map(|_| b'A' + random.five_bits() as u8).collect();
        let room = job.size.saturating_sub(BEFORE.len() + AFTER.len());
        let mut value = || {
            let mut text = String::new();
            while text.len() < room {
                text.push_str(WORDS[random.five_bits()]);
                text.push(' ');
            }
            text.truncate(room);
            format!("{BEFORE}{text}{AFTER}")
        };
        Load { keys, key_size: job.key_size, values: (0..job.values).map(|_| value()).collect() }
    }

    /// FNV-1a (64 bits) over all keys and then all values.
    pub(crate) fn digest(&self) -> String {
        let bytes = self.keys.iter().chain(self.values.iter().flat_map(|value| value.as_bytes()));
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        format!("{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// Event number `n` of all that are sent.
    #[inline]
    pub(crate) fn event(&'static self, n: u64) -> Event {
        let key = (n % (self.keys.len() / self.key_size) as u64) as usize * self.key_size;
        let value = self.values[(n % self.values.len() as u64) as usize].as_str();
        Event {
            key: &self.keys[key..key + self.key_size],
            value: value.as_bytes(),
            text: &value[BEFORE.len()..value.len() - AFTER.len()],
        }
    }
}

/// When events are due.
pub(crate) struct Pace {
    began: Instant,
    /// None: at once.
    interval: Option<Duration>,
    /// The furthest that the load was behind its rate.
    behind: Duration,
}

impl Pace {
    /// From now on, for one of the job's lanes.
    pub(crate) fn new(job: &Job) -> Pace {
        let interval = (job.rate > 0).then(|| Duration::from_secs_f64(job.lanes as f64 / job.rate as f64));
        Pace { began: Instant::now(), interval, behind: Duration::ZERO }
    }

    /// Until when to pause before the lane's event number `n`; none: it is due.
    pub(crate) fn pause(&mut self, n: u64) -> Option<Instant> {
        let due = self.interval?.mul_f64(n as f64);
        let now = Instant::now();
        let elapsed = now - self.began;
        match due.checked_sub(elapsed) {
            Some(early) if early > TICK / 2 => Some(now + early.max(TICK)),
            _ => {
                self.behind = self.behind.max(elapsed.saturating_sub(due));
                None
            }
        }
    }

    /// The furthest that the load was behind its rate: a client that makes callers wait shows here, since the events that
    /// were not emitted meanwhile show in no latency.
    pub(crate) fn behind(&self) -> Duration {
        self.behind
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kafka_batcher::partitioner::KeyHash;

    use super::*;
    use crate::scenario::SCENARIOS;

    fn load(job: &Job) -> &'static Load {
        Box::leak(Box::new(Load::new(job)))
    }

    #[test]
    fn events_are_of_the_sizes_asked_for_and_the_text_is_their_json() {
        for scenario in SCENARIOS {
            let job = scenario.job(false);
            let load = load(&job);
            for n in 0..200 {
                let event = load.event(n);
                assert_eq!((event.key.len(), event.value.len()), (job.key_size, job.size));
                assert_eq!(serde_json::json!({"text": event.text}).to_string().as_bytes(), event.value);
            }
        }
    }

    #[test]
    fn keys_reach_every_partition_of_every_scenario() {
        for scenario in SCENARIOS {
            let job = scenario.job(false);
            let load = load(&job);
            let reached: BTreeSet<u32> = (0..job.keys as u64)
                .map(|n| KeyHash::Murmur2.hash(load.event(n).key) % job.partitions)
                .collect();
            assert_eq!(reached.len(), job.partitions as usize, "{}", scenario.name);
        }
    }

    #[test]
    fn the_digest_tells_loads_apart() {
        let (mut job, mut seen) = (SCENARIOS[0].job(false), BTreeSet::new());
        seen.insert(Load::new(&job).digest());
        seen.insert(Load::new(&job).digest());
        job.values += 1;
        seen.insert(Load::new(&job).digest());
        job.keys += 1;
        seen.insert(Load::new(&job).digest());
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn a_load_without_a_rate_never_pauses_and_one_with_a_rate_is_told_until_when() {
        let mut job = SCENARIOS[0].job(false);
        assert_eq!(Pace::new(&job).pause(1_000_000), None);
        (job.rate, job.lanes) = (1, 1);
        let mut pace = Pace::new(&job);
        assert_eq!(pace.pause(0), None);
        assert!(pace.pause(3600).unwrap() > Instant::now() + Duration::from_secs(3000));
    }
}
