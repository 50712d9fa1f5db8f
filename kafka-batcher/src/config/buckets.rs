//! The buckets of the three producer histograms.

use super::value::{Setting, Value, Written};

/// Upper bounds of the buckets of the three producer histograms, ascending.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ProducerBuckets {
    /// Of `producer_duration_seconds`, in seconds.
    pub duration: Vec<f64>,
    /// Of `producer_batch_messages_count`, in events.
    pub messages_count: Vec<f64>,
    /// Of `producer_batch_total_size_byte`, in bytes.
    pub byte_size: Vec<f64>,
}

const SUB_SECOND: &str = "sub_second";
const PROM_EX: &str = "prom_ex";
const WANTED: &str =
    "sub_second, prom_ex, or a table with lists of numbers: duration, messages_count, byte_size";

impl Default for ProducerBuckets {
    /// `sub_second`: for batches that Kafka takes within milliseconds.
    fn default() -> Self {
        ProducerBuckets {
            duration: vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ],
            messages_count: vec![1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0],
            byte_size: vec![1e3, 5e3, 1e4, 5e4, 1e5, 2.5e5, 5e5, 1e6],
        }
    }
}

impl ProducerBuckets {
    /// Those of the Elixir library.
    pub fn prom_ex() -> Self {
        ProducerBuckets {
            duration: vec![1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0],
            messages_count: vec![1.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 100.0],
            byte_size: vec![1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5],
        }
    }

    /// What is wrong with them.
    pub(super) fn mistake(&self) -> Option<String> {
        let lists = [
            ("duration", &self.duration),
            ("messages_count", &self.messages_count),
            ("byte_size", &self.byte_size),
        ];
        lists.into_iter().find_map(|(name, bounds)| {
            let ascending = bounds.windows(2).all(|pair| pair.first() < pair.last());
            let positive = bounds.iter().all(|bound| bound.is_finite() && *bound > 0.0);
            (bounds.is_empty() || !ascending || !positive)
                .then(|| format!("{name} must be numbers above 0, each larger than the one before"))
        })
    }
}

impl Setting for ProducerBuckets {
    fn read(value: &Value) -> Result<Self, String> {
        let fields = match value {
            Value::Text(text) if text.trim() == SUB_SECOND => return Ok(ProducerBuckets::default()),
            Value::Text(text) if text.trim() == PROM_EX => return Ok(ProducerBuckets::prom_ex()),
            Value::Table(fields) => fields,
            _ => return Err(format!("expected {WANTED}")),
        };
        let mut buckets = ProducerBuckets::default();
        for (name, bounds) in fields {
            let list = match name.as_str() {
                "duration" => &mut buckets.duration,
                "messages_count" => &mut buckets.messages_count,
                "byte_size" => &mut buckets.byte_size,
                other => return Err(format!("{other:?} is none of duration, messages_count, byte_size")),
            };
            let Value::List(bounds) = bounds else { return Err(format!("{name} must be a list of numbers")) };
            let number = |bound: &Value| match bound {
                Value::Integer(n) => Ok(*n as f64),
                Value::Text(text) => text.parse().map_err(|_| format!("{text:?} in {name} is no number")),
                _ => Err(format!("{name} must be a list of numbers")),
            };
            *list = bounds.iter().map(number).collect::<Result<_, _>>()?;
        }
        match buckets.mistake() {
            Some(mistake) => Err(mistake),
            None => Ok(buckets),
        }
    }

    fn written(&self) -> Written {
        if *self == ProducerBuckets::default() {
            return Written::quoted(SUB_SECOND);
        }
        if *self == ProducerBuckets::prom_ex() {
            return Written::quoted(PROM_EX);
        }
        let ProducerBuckets { duration, messages_count, byte_size } = self;
        Written::Toml(format!(
            "{{ duration = {duration:?}, messages_count = {messages_count:?}, byte_size = {byte_size:?} }}"
        ))
    }
}
