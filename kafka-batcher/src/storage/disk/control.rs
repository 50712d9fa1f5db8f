//! The control batch that closes every group commit: what it vouches for, and what else was decided. The byte table
//! stands in the documentation of [`super`].

use std::ops::Range;
use std::sync::Arc;

use kafka_batcher_core::{ClusterId, Origin, RecordBatch, Stamp, TopicId};

use super::bytes::{CONTROL_PARTITION, Place, Plain, encode};

/// The kind of the first record: what the control batch vouches for.
pub(super) const GROUP: u8 = 1;
const NUMBERS: u8 = 2;
const HOLE: u8 = 3;
const REGROUPED: u8 = 4;
const PARTITIONS: u8 = 5;
const SETTLED: u8 = 6;
const DROPPED: u8 = 7;
/// The version of every record so far.
pub(super) const VERSION: u8 = 1;
/// The header of a group's record that tells when what it lists was saved, where that is not its own time.
const SAVED: &str = "saved";
/// The header of a group's record that tells which of the events that it lists have their time from the user.
const GIVEN: &str = "given";
/// No origin: never sent.
const NONE: u16 = u16::MAX;

/// A batch that a control batch vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) count: u32,
    pub(super) length: u32,
    pub(super) crc: u32,
    /// Where the batch's own stamp was given; `None`: never sent.
    pub(super) origin: Option<Origin>,
}

/// What else a control batch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// Saved events got other numbers.
    Numbers { at: Events, stamp: Stamp, origin: Origin },
    /// Saved events that are not there any more: dead letters.
    Hole { at: Events },
    /// Everything of the unassigned lane below is settled: it lies in its partitions.
    Regrouped { through: u64 },
    /// How many partitions the topic has.
    Partitions(i32),
    /// Everything of the partition below is settled.
    Settled { partition: i32, through: u64 },
    /// What of the partition lies in there was given up, undelivered.
    Dropped { partition: i32, from: u64, through: u64 },
}

/// Events within one saved batch, bound to its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Events {
    /// Of the first of them.
    pub(super) place: Place,
    pub(super) count: u32,
    /// Of the batch.
    pub(super) crc: u32,
}

/// What a control batch says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Base of the segment that it stands in, and where in it: a copy elsewhere vouches for nothing.
    pub(super) base: u64,
    pub(super) offset: u64,
    /// Its own position; it holds as many as it has records.
    pub(super) position: u64,
    /// It accounts for every position from here to its own.
    pub(super) from: u64,
    /// What lies directly before it, in order.
    pub(super) members: Vec<Member>,
    pub(super) facts: Vec<Fact>,
    /// Records that this version does not know.
    pub(super) unknown: u32,
    /// When it was written, in milliseconds since the Unix epoch: with what it lists, unless `saved` knows better.
    pub(super) time: i64,
    /// From which position on which time holds: in a segment that was cleaned.
    pub(super) saved: Vec<(u64, i64)>,
    /// Positions of listed events whose time the user gave, ascending.
    pub(super) given: Vec<Range<u64>>,
}

impl Control {
    /// How many positions it holds.
    pub(super) fn positions(&self) -> u64 {
        1 + self.facts.len() as u64 + u64::from(self.unknown)
    }

    /// Bytes that its members take.
    pub(super) fn member_bytes(&self) -> u64 {
        self.members.iter().map(|member| u64::from(member.length)).sum()
    }

    /// Its bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut origins: Vec<&Origin> = Vec::new();
        let mut group = Vec::with_capacity(36 + 26 * self.members.len());
        for field in [self.base, self.offset, self.position, self.from] {
            group.extend_from_slice(&field.to_be_bytes());
        }
        group.extend_from_slice(&(self.members.len() as u32).to_be_bytes());
        for member in &self.members {
            let origin = member.origin.as_ref().map_or(NONE, |origin| index_of(&mut origins, origin));
            group.extend_from_slice(&member.place.position.to_be_bytes());
            group.extend_from_slice(&member.place.partition.to_be_bytes());
            group.extend_from_slice(&member.count.to_be_bytes());
            group.extend_from_slice(&member.length.to_be_bytes());
            group.extend_from_slice(&member.crc.to_be_bytes());
            group.extend_from_slice(&origin.to_be_bytes());
        }
        let facts: Vec<([u8; 2], Vec<u8>)> =
            self.facts.iter().map(|fact| encode_fact(fact, &mut origins)).collect();
        group.extend_from_slice(&(origins.len() as u16).to_be_bytes());
        for origin in origins {
            match &origin.cluster {
                Some(ClusterId(id)) => {
                    group.extend_from_slice(&(id.len().min(usize::from(NONE) - 1) as u16).to_be_bytes());
                    group.extend_from_slice(
                        id.as_bytes().get(..usize::from(NONE) - 1).unwrap_or(id.as_bytes()),
                    );
                }
                None => group.extend_from_slice(&NONE.to_be_bytes()),
            }
            group.extend_from_slice(&origin.topic.0);
        }
        let head = [GROUP, VERSION];
        let plain = |key, value| Plain {
            timestamp: self.time,
            key: Some(key),
            value: Some(value),
            headers: Vec::new(),
        };
        let mut first = plain(&head, &group);
        let mut saved = Vec::with_capacity(16 * self.saved.len());
        for (from, unix_ms) in &self.saved {
            saved.extend_from_slice(&from.to_be_bytes());
            saved.extend_from_slice(&unix_ms.to_be_bytes());
        }
        if !saved.is_empty() {
            first.headers.push((SAVED, Some(&saved)));
        }
        let mut given = Vec::with_capacity(12 * self.given.len());
        for range in &self.given {
            given.extend_from_slice(&range.start.to_be_bytes());
            given.extend_from_slice(&((range.end - range.start) as u32).to_be_bytes());
        }
        if !given.is_empty() {
            first.headers.push((GIVEN, Some(&given)));
        }
        let mut records = vec![first];
        records.extend(facts.iter().map(|(key, value)| plain(key, value)));
        encode(Place { position: self.position, partition: CONTROL_PARTITION }, true, &records)
    }

    /// Reads a control batch whose CRC has been verified; what is wrong with it otherwise.
    pub(super) fn decode(bytes: &[u8]) -> Result<Control, String> {
        let (batch, _) = RecordBatch::decode(bytes).map_err(|error| error.to_string())?;
        let records = batch.records().map_err(|error| error.to_string())?;
        let (time, saved, given) = records.first().map(times).unwrap_or_default();
        let mut records = records
            .iter()
            .map(|r| (r.key.as_deref().unwrap_or_default(), Cursor(r.value.as_deref().unwrap_or_default())));
        let (mut control, origins) = match records.next() {
            Some(([GROUP, VERSION], cursor)) => {
                decode_group(cursor).ok_or("the list of its group's batches is cut off")?
            }
            _ => return Err("it does not begin with the list of its group's batches".to_owned()),
        };
        (control.time, control.saved, control.given) = (time, saved, given);
        for (key, cursor) in records {
            match (key, decode_fact(key, cursor, &origins)) {
                (_, Some(fact)) => control.facts.push(fact),
                ([NUMBERS..=DROPPED, VERSION], None) => {
                    return Err("one of its records is cut off".to_owned());
                }
                (_, None) => control.unknown += 1,
            }
        }
        Ok(control)
    }
}

/// When a group was written, when what it lists was saved where that is another time, and which of its events have their
/// time from the user.
fn times(group: &kafka_batcher_core::OwnedRecord) -> (i64, Vec<(u64, i64)>, Vec<Range<u64>>) {
    let header = |name| {
        let header = group.headers.iter().find(|header| header.name == name);
        Cursor(header.and_then(|header| header.value.as_deref()).unwrap_or_default())
    };
    let (mut saved, mut given) = (Vec::new(), Vec::new());
    let mut cursor = header(SAVED);
    while let (Some(from), Some(unix_ms)) = (cursor.u64(), cursor.u64()) {
        saved.push((from, unix_ms as i64));
    }
    let mut cursor = header(GIVEN);
    while let (Some(from), Some(count)) = (cursor.u64(), cursor.u32()) {
        given.push(from..from.saturating_add(count.into()));
    }
    (group.timestamp, saved, given)
}

fn index_of<'a>(origins: &mut Vec<&'a Origin>, origin: &'a Origin) -> u16 {
    let at = origins.iter().position(|known| *known == origin).unwrap_or_else(|| {
        origins.push(origin);
        origins.len() - 1
    });
    // The writer closes a group long before it could have so many.
    at.min(usize::from(NONE) - 1) as u16
}

fn encode_fact<'a>(fact: &'a Fact, origins: &mut Vec<&'a Origin>) -> ([u8; 2], Vec<u8>) {
    let mut out = Vec::with_capacity(36);
    let events = |out: &mut Vec<u8>, at: &Events| {
        out.extend_from_slice(&at.place.position.to_be_bytes());
        out.extend_from_slice(&at.place.partition.to_be_bytes());
        out.extend_from_slice(&at.count.to_be_bytes());
        out.extend_from_slice(&at.crc.to_be_bytes());
    };
    let kind = match fact {
        Fact::Numbers { at, stamp, origin } => {
            events(&mut out, at);
            out.extend_from_slice(&stamp.producer_id.to_be_bytes());
            out.extend_from_slice(&stamp.epoch.to_be_bytes());
            out.extend_from_slice(&stamp.first_sequence.to_be_bytes());
            out.extend_from_slice(&index_of(origins, origin).to_be_bytes());
            NUMBERS
        }
        Fact::Hole { at } => {
            events(&mut out, at);
            HOLE
        }
        Fact::Regrouped { through } => {
            out.extend_from_slice(&through.to_be_bytes());
            REGROUPED
        }
        Fact::Partitions(count) => {
            out.extend_from_slice(&count.to_be_bytes());
            PARTITIONS
        }
        Fact::Settled { partition, through } => {
            out.extend_from_slice(&partition.to_be_bytes());
            out.extend_from_slice(&through.to_be_bytes());
            SETTLED
        }
        Fact::Dropped { partition, from, through } => {
            out.extend_from_slice(&partition.to_be_bytes());
            out.extend_from_slice(&from.to_be_bytes());
            out.extend_from_slice(&through.to_be_bytes());
            DROPPED
        }
    };
    ([kind, VERSION], out)
}

fn decode_group(mut cursor: Cursor<'_>) -> Option<(Control, Vec<Origin>)> {
    let (base, offset, position, from) = (cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?);
    let members = cursor.u32()?;
    let mut found = Vec::new();
    for _ in 0..members {
        let place = Place { position: cursor.u64()?, partition: cursor.i32()? };
        let (count, length, crc, origin) = (cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u16()?);
        found.push((Member { place, count, length, crc, origin: None }, origin));
    }
    let mut origins = Vec::new();
    for _ in 0..cursor.u16()? {
        let cluster = match cursor.u16()? {
            NONE => None,
            length => {
                let bytes = cursor.take(usize::from(length))?;
                Some(ClusterId(Arc::from(String::from_utf8_lossy(bytes).as_ref())))
            }
        };
        origins.push(Origin { cluster, topic: TopicId(cursor.array()?) });
    }
    let members = found.into_iter().map(|(member, origin)| {
        let origin = if origin == NONE { None } else { Some(origins.get(usize::from(origin))?.clone()) };
        Some(Member { origin, ..member })
    });
    let members = members.collect::<Option<Vec<Member>>>()?;
    let control = Control { base, offset, position, from, members, ..Control::default() };
    cursor.0.is_empty().then_some((control, origins))
}

fn decode_fact(key: &[u8], mut cursor: Cursor<'_>, origins: &[Origin]) -> Option<Fact> {
    let fact = match key {
        [NUMBERS, VERSION] => Fact::Numbers {
            at: cursor.events()?,
            stamp: Stamp {
                producer_id: cursor.u64()? as i64,
                epoch: cursor.u16()? as i16,
                first_sequence: cursor.i32()?,
            },
            origin: origins.get(usize::from(cursor.u16()?))?.clone(),
        },
        [HOLE, VERSION] => Fact::Hole { at: cursor.events()? },
        [REGROUPED, VERSION] => Fact::Regrouped { through: cursor.u64()? },
        [PARTITIONS, VERSION] => Fact::Partitions(cursor.i32()?),
        [SETTLED, VERSION] => Fact::Settled { partition: cursor.i32()?, through: cursor.u64()? },
        [DROPPED, VERSION] => {
            Fact::Dropped { partition: cursor.i32()?, from: cursor.u64()?, through: cursor.u64()? }
        }
        _ => return None,
    };
    cursor.0.is_empty().then_some(fact)
}

/// What is left to be read.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn events(&mut self) -> Option<Events> {
        let place = Place { position: self.u64()?, partition: self.i32()? };
        Some(Events { place, count: self.u32()?, crc: self.u32()? })
    }
}
