//! What is measured: one row a scenario. All that is not in its row is as in `SATURATED`.

use std::path::PathBuf;
use std::time::Duration;

use crate::job::{Codec, Job};

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// As on the command line.
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Bytes of a value.
    size: usize,
    partitions: u32,
    /// Events that are measured, and with `--small`.
    count: u64,
    small: u64,
    /// Events a second; 0: as fast as the client takes them.
    rate: u64,
    linger: Duration,
    batch_events: usize,
    /// What a client may hold, bytes.
    memory: usize,
    codec: Codec,
    /// Tasks that emit events; 0: one thread.
    tasks: u64,
    /// How long the sink waits with each answer before it looks at the connection's next request; where it does, no Kafka takes part.
    pub(crate) answers_after: Duration,
    /// Part of `--small` when no scenario is named.
    pub(crate) in_small: bool,
}

/// As many events as come in the time of a measurement at this rate.
const fn seconds(rate: u64, seconds: u64) -> u64 {
    rate * seconds
}

const SATURATED: Scenario = Scenario {
    name: "",
    about: "",
    size: 100,
    partitions: 16,
    count: 3_000_000,
    small: 10_000,
    rate: 0,
    linger: Duration::from_millis(5),
    batch_events: 10_000,
    memory: 64 << 20,
    codec: Codec::None,
    tasks: 0,
    answers_after: Duration::ZERO,
    in_small: false,
};

const PACED: Scenario = Scenario { rate: 10_000, count: seconds(10_000, 10), small: 1_000, ..SATURATED };

const PACED_1K: Scenario = Scenario { rate: 1_000, count: seconds(1_000, 10), small: 200, ..SATURATED };

const PACED_100K: Scenario =
    Scenario { rate: 100_000, count: seconds(100_000, 10), small: 10_000, ..SATURATED };

/// All of them, in the order in which they run.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "100B", about: "as fast as it goes", in_small: true, ..SATURATED },
    Scenario {
        name: "1KiB",
        about: "as fast as it goes",
        size: 1024,
        count: 500_000,
        small: 5_000,
        ..SATURATED
    },
    Scenario { name: "lz4", about: "as fast as it goes, lz4", codec: Codec::Lz4, ..SATURATED },
    Scenario { name: "zstd", about: "as fast as it goes, zstd at level 1", codec: Codec::Zstd, ..SATURATED },
    Scenario { name: "1k-5ms", about: "1 000 events/s, linger 5 ms", ..PACED_1K },
    Scenario { name: "1k-0ms", about: "1 000 events/s, linger 0", linger: Duration::ZERO, ..PACED_1K },
    Scenario { name: "10k-5ms", about: "10 000 events/s, linger 5 ms", in_small: true, ..PACED },
    Scenario { name: "10k-1ms", about: "10 000 events/s, linger 1 ms", linger: MS_1, ..PACED },
    Scenario { name: "10k-0ms", about: "10 000 events/s, linger 0", linger: Duration::ZERO, ..PACED },
    Scenario { name: "100k-5ms", about: "100 000 events/s, linger 5 ms", ..PACED_100K },
    Scenario { name: "100k-0ms", about: "100 000 events/s, linger 0", linger: Duration::ZERO, ..PACED_100K },
    Scenario {
        name: "300k-5ms",
        about: "300 000 events/s, linger 5 ms",
        rate: 300_000,
        count: seconds(300_000, 10),
        small: 30_000,
        ..PACED
    },
    Scenario { name: "partitions-1", about: "as fast as it goes", partitions: 1, ..SATURATED },
    Scenario { name: "partitions-200", about: "as fast as it goes: memory", partitions: 200, ..SATURATED },
    Scenario {
        name: "partitions-200-48MiB",
        about: "as fast as it goes, clients may hold 48 MiB and not 64: memory",
        partitions: 200,
        memory: 48 << 20,
        ..SATURATED
    },
    Scenario { name: "partitions-1000", about: "as fast as it goes", partitions: 1000, ..SATURATED },
    Scenario {
        name: "partitions-2000-trickle",
        about: "1 event/s in each of 2 000 partitions: memory",
        partitions: 2000,
        rate: 2000,
        count: seconds(2000, 15),
        small: 500,
        ..SATURATED
    },
    Scenario { name: "tasks-8", about: "as fast as it goes, from 8 tasks", tasks: 8, ..SATURATED },
    Scenario { name: "tasks-64", about: "as fast as it goes, from 64 tasks", tasks: 64, ..SATURATED },
    Scenario {
        name: "tasks-8-one-partition",
        about: "as fast as it goes, from 8 tasks into one partition",
        tasks: 8,
        partitions: 1,
        ..SATURATED
    },
    Scenario {
        name: "slow-answers",
        about: "as fast as it goes, a broker that takes 5 ms for each request of a connection",
        partitions: 10,
        answers_after: Duration::from_millis(5),
        count: 1_000_000,
        ..SATURATED
    },
    Scenario {
        name: "small-batches",
        about: "as fast as it goes, batches of 10 events",
        batch_events: 10,
        count: 200_000,
        small: 5_000,
        ..SATURATED
    },
];

const MS_1: Duration = Duration::from_millis(1);
const KEY_SIZE: usize = 16;

/// The part of the events that goes before, and into no figure: a tenth of what is measured, but enough to have met every code path,
/// and where there is a rate a second of it.
const WARM_UP: u64 = 10;
const WARM_UP_LEAST: u64 = 100_000;

/// As fast as it goes, it is so many times what a client may hold as well. What it has held before, the kernel need not find and clear for
/// it: with less, a quarter of the CPU of 4 10^6 events of ours was that (0.79 and 0.58 s, medians of three on Kafka), once in a process's
/// life.
const WARM_UP_FILLS: usize = 2;

impl Scenario {
    /// By its name.
    ///
    /// # Errors
    /// There is none; the error names those that there are.
    pub(crate) fn find(name: &str) -> Result<Scenario, String> {
        let names = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
        found.copied().ok_or_else(|| format!("there are: {}", names()))
    }

    pub(crate) fn paced(&self) -> bool {
        self.rate > 0
    }

    /// Emitted by one thread, in full speed and as it is: what the floor can be compared with.
    pub(crate) fn plain(&self) -> bool {
        self.rate == 0 && self.tasks == 0 && self.codec == Codec::None && self.answers_after.is_zero()
    }

    /// To sixteen partitions, in large batches.
    pub(crate) fn is_usual(&self) -> bool {
        self.partitions == SATURATED.partitions && self.batch_events == SATURATED.batch_events
    }

    /// The order, without the places that only the runner knows.
    pub(crate) fn job(&self, small: bool) -> Job {
        let count = if small { self.small } else { self.count };
        let warm_up = match (small, self.rate) {
            (true, _) => count / WARM_UP,
            (false, 0) => {
                let fills = WARM_UP_FILLS * self.memory / (self.size + KEY_SIZE);
                (count / WARM_UP).max(WARM_UP_LEAST).max(fills as u64)
            }
            (false, rate) => rate,
        };
        let compressed = self.codec != Codec::None;
        Job {
            brokers: String::new(),
            topic: String::new(),
            partitions: self.partitions,
            count,
            warm_up,
            size: self.size,
            key_size: KEY_SIZE,
            // Enough that keys reach every partition; few enough to stay in the cache, for it is not the load that is measured.
            keys: 1024.max(self.partitions as usize * 16),
            // A prime, so that every key meets every value. With a codec so many that no value comes twice within what it
            // remembers: it would find in a megabyte what no payload has.
            values: if compressed { 8191 } else { 61 },
            rate: self.rate,
            linger: self.linger,
            batch_events: self.batch_events,
            batch_bytes: 1_000_000,
            memory: self.memory,
            codec: self.codec,
            lanes: self.tasks.max(1),
            tasks: self.tasks > 0,
            dir: PathBuf::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name_and_no_other() {
        for scenario in SCENARIOS {
            assert_eq!(Scenario::find(scenario.name).unwrap().name, scenario.name);
        }
        let names: std::collections::BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(Scenario::find("1MB").unwrap_err().starts_with("there are: 100B, 1KiB, "));
    }

    #[test]
    fn what_has_a_rate_is_emitted_by_one_thread() {
        // Tasks wake by their runtime's clock, threads by the kernel's: the pacing would not be the same.
        assert!(SCENARIOS.iter().all(|scenario| scenario.rate == 0 || scenario.tasks == 0));
    }

    #[test]
    fn a_warm_up_is_a_tenth_or_a_second_and_never_nothing_and_fills_the_memory_of_who_may_go_on() {
        for scenario in SCENARIOS {
            let job = scenario.job(false);
            let filled = 2 * (job.memory / (job.size + job.key_size)) as u64;
            let least = if scenario.paced() { job.rate } else { filled.max(job.count / 10) };
            assert!(job.warm_up >= least, "{}", scenario.name);
            assert!(scenario.job(true).warm_up > 0);
        }
    }
}
