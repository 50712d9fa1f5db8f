//! What one process of a client is to do: where to send, how many events of what kind, how fast, and how it is tuned.
//!
//! It travels as words `name=value` on the command line, which a client in any language reads with a few lines of code. The same
//! words are given to every client; what a client has no use for it leaves alone.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Codec {
    #[default]
    None,
    Lz4,
    /// Level 1 where a client lets one choose; its own default elsewhere.
    Zstd,
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        })
    }
}

impl FromStr for Codec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "none" => Ok(Codec::None),
            "lz4" => Ok(Codec::Lz4),
            "zstd" => Ok(Codec::Zstd),
            other => bail!("{other:?} is none of none, lz4, zstd"),
        }
    }
}

/// The whole order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// `host:port,...`
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) partitions: u32,
    /// Events that are measured.
    pub(crate) count: u64,
    /// Events that go before them, and into no figure.
    pub(crate) warm_up: u64,
    /// Bytes of a value.
    pub(crate) size: usize,
    /// Bytes of a key.
    pub(crate) key_size: usize,
    /// Different keys, and different values.
    pub(crate) keys: usize,
    pub(crate) values: usize,
    /// Events a second; 0: as fast as the client takes them.
    pub(crate) rate: u64,
    pub(crate) linger: Duration,
    /// Events and bytes that make a batch.
    pub(crate) batch_events: usize,
    pub(crate) batch_bytes: usize,
    /// What a client may hold of events that are not acknowledged.
    pub(crate) memory: usize,
    pub(crate) codec: Codec,
    /// Threads or tasks that emit events.
    pub(crate) lanes: u64,
    /// They are tasks (goroutines in Go, threads in Java) and not threads.
    pub(crate) tasks: bool,
    /// A new directory, for the client with a spool.
    pub(crate) dir: PathBuf,
}

impl Job {
    /// The words of the command line.
    pub(crate) fn words(&self) -> Vec<String> {
        let Job { brokers, topic, partitions, count, warm_up, size, key_size, keys, values, rate, .. } = self;
        let Job { linger, batch_events, batch_bytes, memory, codec, lanes, tasks, dir, .. } = self;
        vec![
            format!("brokers={brokers}"),
            format!("topic={topic}"),
            format!("partitions={partitions}"),
            format!("count={count}"),
            format!("warm_up={warm_up}"),
            format!("size={size}"),
            format!("key_size={key_size}"),
            format!("keys={keys}"),
            format!("values={values}"),
            format!("rate={rate}"),
            format!("linger_us={}", linger.as_micros()),
            format!("batch_events={batch_events}"),
            format!("batch_bytes={batch_bytes}"),
            format!("memory={memory}"),
            format!("codec={codec}"),
            format!("lanes={lanes}"),
            format!("tasks={}", u8::from(*tasks)),
            format!("dir={}", dir.display()),
        ]
    }

    /// The opposite of [`Job::words`].
    ///
    /// # Errors
    /// A word is missing, or is not what it should be; it is named.
    pub(crate) fn parse(words: &[String]) -> anyhow::Result<Job> {
        let text = |name: &str| {
            let found = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.ok_or_else(|| anyhow!("{name}=... is missing (a client is started by `run`, not by hand)"))
        };
        fn number<T: FromStr<Err = std::num::ParseIntError>>(name: &str, text: &str) -> anyhow::Result<T> {
            text.parse().with_context(|| format!("{name}={text}: expected a whole number"))
        }
        macro_rules! number {
            ($name:literal) => {
                number($name, text($name)?)?
            };
        }
        Ok(Job {
            brokers: text("brokers")?.to_owned(),
            topic: text("topic")?.to_owned(),
            partitions: number!("partitions"),
            count: number!("count"),
            warm_up: number!("warm_up"),
            size: number!("size"),
            key_size: number!("key_size"),
            keys: number!("keys"),
            values: number!("values"),
            rate: number!("rate"),
            linger: Duration::from_micros(number!("linger_us")),
            batch_events: number!("batch_events"),
            batch_bytes: number!("batch_bytes"),
            memory: number!("memory"),
            codec: text("codec")?.parse()?,
            lanes: number!("lanes"),
            tasks: text("tasks")? == "1",
            dir: text("dir")?.into(),
        })
    }

    /// What an event takes while it waits, roughly: what it is made of, and what a client keeps beside it.
    pub(crate) fn held_bytes(&self) -> usize {
        const BESIDE: usize = 100;
        self.size + self.key_size + BESIDE
    }

    /// Events that may be on their way at once, for clients that bound events and not bytes: as many as fill the memory that
    /// the others may use, but no more than librdkafka's documentation calls usual.
    pub(crate) fn window(&self) -> usize {
        const MOST: usize = 500_000;
        (self.memory / self.held_bytes()).clamp(1, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn job() -> Job {
        Job {
            brokers: "127.0.0.1:9092".to_owned(),
            topic: "t=1".to_owned(),
            partitions: 16,
            count: 10,
            warm_up: 1,
            size: 100,
            key_size: 16,
            keys: 1024,
            values: 61,
            rate: 0,
            linger: Duration::from_millis(5),
            batch_events: 10_000,
            batch_bytes: 1_000_000,
            memory: 64 << 20,
            codec: Codec::Zstd,
            lanes: 8,
            tasks: true,
            dir: "/a dir".into(),
        }
    }

    #[test]
    fn an_order_survives_the_command_line() {
        let job = job();
        assert_eq!(Job::parse(&job.words()).unwrap(), job);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let mut words = job().words();
        words.retain(|word| !word.starts_with("rate="));
        assert!(Job::parse(&words).unwrap_err().to_string().starts_with("rate=... is missing"));
        words.push("rate=fast".to_owned());
        assert_eq!(Job::parse(&words).unwrap_err().to_string(), "rate=fast: expected a whole number");
    }

    #[test]
    fn the_window_is_what_fits_into_the_memory() {
        let job = job();
        assert_eq!(job.window(), (64 << 20) / 216);
        assert_eq!(Job { size: 1 << 30, ..job.clone() }.window(), 1);
        assert_eq!(Job { size: 0, key_size: 0, ..job }.window(), 500_000);
    }
}
