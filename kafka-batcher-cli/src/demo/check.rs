//! What was sent, compared with what lies in the broker.

use std::collections::HashMap;
use std::fmt;

use anyhow::Context;
use clap::ValueEnum;
use kafka_protocol::records::Record;

use crate::json::{Path, find};

/// One flight, keyed by where it starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Event {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl From<Record> for Event {
    fn from(record: Record) -> Event {
        let bytes = |bytes: Option<bytes::Bytes>| bytes.map(|bytes| bytes.to_vec()).unwrap_or_default();
        Event { key: bytes(record.key), value: bytes(record.value) }
    }
}

/// The events of a file.
pub(super) fn events(lines: &str) -> anyhow::Result<Vec<Event>> {
    let origin = Path::parse("origin").map_err(anyhow::Error::msg)?;
    let mut scratch = Vec::new();
    lines
        .lines()
        .map(|line| {
            let found = find(line.as_bytes(), &origin).map_err(|error| anyhow::anyhow!("{error}"))?;
            let key = found.bytes(&mut scratch).map_err(|error| anyhow::anyhow!("{error}"))?;
            let key = key.context("a flight without an origin")?.to_vec();
            Ok(Event { key, value: line.as_bytes().to_vec() })
        })
        .collect()
}

/// Something that is not as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Difference {
    Lost { value: String },
    Unexpected { partition: usize, value: String },
    WrongPartition { value: String, expected: usize, partition: usize },
    Duplicated { partition: usize, value: String },
    Reordered { partition: usize, at: usize, value: String },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Lost { value } => write!(f, "lost: {value}"),
            Difference::Unexpected { partition, value } => {
                write!(f, "in partition {partition}, and never sent: {value}")
            }
            Difference::WrongPartition { value, expected, partition } => {
                write!(f, "in partition {partition} instead of {expected}: {value}")
            }
            Difference::Duplicated { partition, value } => {
                write!(f, "twice in partition {partition}: {value}")
            }
            Difference::Reordered { partition, at, value } => {
                write!(f, "out of order in partition {partition}, at offset {at}: {value}")
            }
        }
    }
}

/// Every way in which what was read (by partition, in order) differs from what was sent (in order).
pub(super) fn compare(sent: &[Event], read: &[Vec<Event>]) -> Vec<Difference> {
    let text = |event: &Event| String::from_utf8_lossy(&event.value).into_owned();
    let partitions = read.len().max(1);
    let mut expected: Vec<Vec<&Event>> = vec![Vec::new(); partitions];
    let mut left: HashMap<&Event, usize> = HashMap::new();
    for event in sent {
        if let Some(list) = expected.get_mut(partition_of(&event.key, partitions)) {
            list.push(event);
        }
        *left.entry(event).or_default() += 1;
    }
    let mut differences = Vec::new();
    for (partition, events) in read.iter().enumerate() {
        for event in events {
            let place = partition_of(&event.key, partitions);
            match left.get_mut(event) {
                None => differences.push(Difference::Unexpected { partition, value: text(event) }),
                Some(0) => differences.push(Difference::Duplicated { partition, value: text(event) }),
                Some(n) => {
                    *n -= 1;
                    if place != partition {
                        let (value, expected) = (text(event), place);
                        differences.push(Difference::WrongPartition { value, expected, partition });
                    }
                }
            }
        }
    }
    for (event, count) in left {
        differences.extend((0..count).map(|_| Difference::Lost { value: text(event) }));
    }
    // Order is only a question where everything is there.
    if differences.is_empty() {
        for (partition, (expected, read)) in expected.iter().zip(read).enumerate() {
            let wrong = expected.iter().zip(read).position(|(expected, read)| *expected != read);
            if let Some((at, event)) = wrong.and_then(|at| read.get(at).map(|event| (at, event))) {
                differences.push(Difference::Reordered { partition, at, value: text(event) });
            }
        }
    }
    differences
}

/// Where Kafka's Java client puts a key: murmur2 without its sign, modulo the count. Written down here once more, so
/// that what is checked does not check itself.
fn partition_of(key: &[u8], partitions: usize) -> usize {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ (key.len() as u32);
    let mut rest = key;
    while let [a, b, c, d, tail @ ..] = rest {
        let mut k = u32::from_le_bytes([*a, *b, *c, *d]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
        rest = tail;
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        h = (h ^ tail).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    ((h ^ (h >> 15)) & 0x7fff_ffff) as usize % partitions
}

/// Ways to spoil what was read, so that a test can see the check fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Spoil {
    /// One byte differs
    Bytes,
    /// One event is gone
    Lost,
    /// One event is there twice
    Duplicated,
    /// Two events changed places
    Order,
    /// One event is in another partition
    Partition,
}

/// Spoils one event.
pub(super) fn spoil(read: &mut [Vec<Event>], how: Spoil) {
    let Some((first, others)) = read.split_first_mut() else { return };
    match how {
        Spoil::Bytes => {
            if let Some(byte) = first.first_mut().and_then(|event| event.value.get_mut(20)) {
                *byte ^= 1;
            }
        }
        Spoil::Lost => {
            first.pop();
        }
        Spoil::Duplicated => first.extend_from_within(..1),
        Spoil::Order => first.swap(0, 1),
        Spoil::Partition => {
            if let Some(other) = others.first_mut() {
                other.extend(first.pop());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_javas_client_puts_them() {
        // Kafka's own UtilsTest: murmur2 of "21", "foobar" and "a-little-bit-long-string".
        for (key, hash) in
            [("21", -973_932_308_i32), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        {
            let positive = (hash & 0x7fff_ffff) as usize;
            for partitions in [1, 6, 1000, 1 << 31] {
                assert_eq!(partition_of(key.as_bytes(), partitions), positive % partitions, "{key}");
            }
        }
    }

    fn placed(events: &[Event]) -> Vec<Vec<Event>> {
        let mut read = vec![Vec::new(); 6];
        for event in events {
            read[partition_of(&event.key, 6)].push(event.clone());
        }
        read
    }

    #[test]
    fn what_arrived_as_it_was_sent_has_no_differences() {
        let sent = events(super::super::FLIGHTS).expect("flights");
        assert_eq!(sent.len(), 5000);
        assert_eq!(compare(&sent, &placed(&sent)), []);
    }

    #[test]
    fn every_way_to_spoil_it_is_seen_as_what_it_is() {
        let sent = events(super::super::FLIGHTS).expect("flights");
        for (how, expected) in [
            (Spoil::Bytes, &["never sent", "lost"][..]),
            (Spoil::Lost, &["lost"]),
            (Spoil::Duplicated, &["twice"]),
            (Spoil::Order, &["out of order"]),
            (Spoil::Partition, &["instead of"]),
        ] {
            let mut read = placed(&sent);
            spoil(&mut read, how);
            let seen: Vec<String> = compare(&sent, &read).iter().map(ToString::to_string).collect();
            assert_eq!(seen.len(), expected.len(), "{how:?}: {seen:?}");
            assert!(seen.iter().zip(expected).all(|(seen, word)| seen.contains(word)), "{how:?}: {seen:?}");
        }
    }
}
