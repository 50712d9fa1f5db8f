//! The events of a benchmark, and the threads that emit them.

use std::collections::VecDeque;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context;
use kafka_batcher::{Collector, Receipt, Record};

/// Different values and keys: enough that keys reach every partition and no batch is one value repeated, few enough
/// to stay in the cache, for it is not the load that is measured.
const VALUES: usize = 64;
const KEYS: usize = 1024;

/// Receipts held at once by a thread.
const RECEIPTS: usize = 100_000;

/// The shortest pause between events that have a rate.
const TICK: Duration = Duration::from_millis(1);

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Max,
    PerSecond(u64),
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            _ if text == "max" => Ok(Pace::Max),
            Ok(rate) if rate > 0 => Ok(Pace::PerSecond(rate)),
            _ => Err("expected a number of events a second, or max".to_owned()),
        }
    }
}

impl Pace {
    /// What each of so many threads does.
    pub(super) fn shared_by(self, threads: u64) -> Interval {
        match self {
            Pace::Max => Interval(None),
            Pace::PerSecond(rate) => {
                Interval(Some(Duration::from_secs(threads) / u32::try_from(rate).unwrap_or(u32::MAX)))
            }
        }
    }
}

/// The time between two events; none: no pause at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval(Option<Duration>);

/// Values and keys, made before anything is measured.
pub(super) struct Load {
    values: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
}

impl Load {
    pub(super) fn new(size: usize, key_size: usize) -> Load {
        // xorshift64*: the same bytes in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = |length: usize| -> Vec<u8> {
            std::iter::repeat_with(|| {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                // Letters, digits and a few signs, as payloads of text have.
                b'0' + ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 58) as u8)
            })
            .take(length)
            .collect()
        };
        Load {
            values: (0..VALUES).map(|_| bytes(size)).collect(),
            keys: if key_size == 0 { Vec::new() } else { (0..KEYS).map(|_| bytes(key_size)).collect() },
        }
    }

    /// Emits so many events; answers how many of the receipts failed.
    pub(super) fn send(
        &self,
        collector: &Collector,
        count: u64,
        interval: Interval,
        receipts: bool,
        thread: u64,
    ) -> anyhow::Result<u64> {
        let began = Instant::now();
        let mut held: VecDeque<Receipt> = VecDeque::new();
        let mut failed = 0;
        let waiter = receipts.then(|| tokio::runtime::Builder::new_current_thread().build()).transpose()?;
        let keys = self.keys.iter().map(|key| Some(key.as_slice())).cycle();
        let nothing = std::iter::repeat(None);
        let mut keys: Box<dyn Iterator<Item = Option<&[u8]>>> =
            if self.keys.is_empty() { Box::new(nothing) } else { Box::new(keys.skip(thread as usize * 7)) };
        let mut values = self.values.iter().cycle();
        for sent in 0..count {
            if let Interval(Some(interval)) = interval {
                let due = interval.mul_f64(sent as f64);
                // By the millisecond: a sleep for each event would cost more than all that is measured.
                while let Some(early) = due.checked_sub(began.elapsed()).filter(|early| *early > TICK / 2) {
                    std::thread::sleep(early.max(TICK));
                }
            }
            let (key, value) = (keys.next().flatten(), values.next().map(Vec::as_slice));
            let record = Record { key, value, ..Record::default() };
            let Some(waiter) = &waiter else {
                collector.blocking_add_event(record).context("an event was refused")?;
                continue;
            };
            held.push_back(collector.blocking_send(record).context("an event was refused")?);
            while let Some(outcome) = held.front().and_then(Receipt::try_delivered) {
                failed += u64::from(outcome.is_err());
                held.pop_front();
            }
            if held.len() >= RECEIPTS
                && let Some(first) = held.pop_front()
            {
                failed += u64::from(waiter.block_on(first.delivered()).is_err());
            }
        }
        if let Some(waiter) = &waiter {
            for receipt in held {
                failed += u64::from(waiter.block_on(receipt.delivered()).is_err());
            }
        }
        Ok(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_shared_by_the_threads() {
        assert_eq!("max".parse(), Ok(Pace::Max));
        assert_eq!(Pace::PerSecond(1000).shared_by(4), Interval(Some(Duration::from_millis(4))));
        assert_eq!(Pace::Max.shared_by(4), Interval(None));
        assert!("0".parse::<Pace>().is_err() && "fast".parse::<Pace>().is_err());
    }

    #[test]
    fn the_load_is_of_the_sizes_asked_for() {
        let load = Load::new(100, 16);
        assert!(
            load.values.iter().all(|value| value.len() == 100) && load.keys.iter().all(|key| key.len() == 16)
        );
        assert!(load.values.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(Load::new(1, 0).keys.is_empty());
    }
}
