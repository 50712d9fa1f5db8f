//! Walks the bytes of one segment and trusts nothing in them: finds the group commits by their control batches, and
//! says what each vouches for, what is damaged and what was never finished.

use kafka_batcher_core::HEADER_LEN;

use super::bytes::{
    CONTROL_PARTITION, CRC_START, Frame, Framed, POSITIONS, Place, crc_of, frame, heal, is_control,
};
use super::control::{Control, Fact, GROUP, Member, VERSION};
use super::fs::BLOCK;

/// A group commit whose control batch is valid.
#[derive(Debug)]
pub(super) struct Group {
    /// The control batch's position, and where the next group's positions begin.
    pub(super) position: u64,
    pub(super) end: u64,
    /// From which position on what was saved when.
    pub(super) saved: Vec<(u64, i64)>,
    /// Positions whose events have their time from the user.
    pub(super) given: Vec<std::ops::Range<u64>>,
    pub(super) members: Vec<Found>,
    pub(super) facts: Vec<Fact>,
    /// What is wrong with it, although nothing is lost by it.
    pub(super) notes: Vec<(u64, String)>,
}

/// A batch that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) offset: u64,
    pub(super) member: Member,
    /// Its bytes are what was written.
    pub(super) whole: bool,
}

/// Bytes before a valid group that no valid control batch vouches for.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Batches in it that are whole, in an unbroken row of positions behind what is known: kept.
    pub(super) kept: Vec<Found>,
    /// The positions that are missing, control batches among them; empty where only a control batch can be missing.
    pub(super) missing: std::ops::Range<u64>,
}

/// What follows the last valid group.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) offset: u64,
    pub(super) length: u64,
    /// It is what a crash in the midst of writing leaves: whole batches, and the beginning of one.
    pub(super) torn: bool,
    /// The next segment begins where the valid groups end: what stands here was never acknowledged, or given up before.
    pub(super) refused: bool,
    /// It is zeros that fill the last block up: see [`File::is_padded`](super::fs::File::is_padded).
    pub(super) padding: bool,
    /// Whole batches in it, as their headers say: nobody vouches for that.
    pub(super) batches: Vec<Found>,
}

/// What a segment consists of, in order.
#[derive(Debug)]
pub(super) enum Item {
    Group(Group),
    Gap(Gap),
    Tail(Tail),
}

/// Walks the segment that begins at position `base`. What lies at or above `limit`, where the next segment begins, does
/// not exist: it is the rest of a write that failed.
pub(super) fn walk(bytes: &[u8], base: u64, limit: Option<u64>, each: &mut dyn FnMut(Item)) {
    let limit = limit.unwrap_or(u64::MAX);
    let (mut at, mut done, mut expected) = (0, 0, base);
    let mut pending: Vec<(usize, Frame)> = Vec::new();
    let (mut bad, mut in_vain) = (false, in_vain(bytes));
    while at < bytes.len() {
        let framed = frame(bytes.get(at..).unwrap_or_default(), &mut in_vain);
        let control = match framed {
            Framed::Whole(found) if found.control => {
                read_control(bytes, at, &found, (base, expected), done).map(|c| (c, found))
            }
            _ => None,
        };
        match (control, framed) {
            (Some((control, _)), _) if control.from >= limit => {
                // The rest of a group that was answered with an error.
                emit_tail(bytes, done, Vec::new(), (true, true), each);
                return;
            }
            (Some((control, found)), _) => {
                let start = at - control.member_bytes() as usize;
                emit_gap(&pending, (done, start), (expected, control.from), each);
                at += found.length as usize;
                done = at;
                expected = control.position + control.positions();
                each(Item::Group(vouched(bytes, start, &pending, control, &found)));
                pending.clear();
            }
            (None, Framed::Whole(found)) if !found.control => {
                pending.push((at, found));
                at += found.length as usize;
            }
            (None, framed) => match find_control(bytes, at + 1, (base, expected), done) {
                Some(next) => at = next,
                None => {
                    bad |= framed != Framed::CutOff;
                    break;
                }
            },
        }
    }
    if bytes.is_empty() && limit != u64::MAX {
        // One is made when it is needed, and the next only when something is in it.
        emit_gap(&pending, (0, 0), (base, limit), each);
    }
    if done == bytes.len() {
        return;
    }
    if limit != u64::MAX && expected < limit && !is_padding(bytes, done) {
        // Not the last segment: what was below the limit had been acknowledged.
        emit_gap(&pending, (done, bytes.len()), (expected, limit), each);
    } else {
        emit_tail(bytes, done, pending, (!bad, limit != u64::MAX), each);
    }
}

/// Whether what follows `done` only fills a block up, and nothing was ever written there.
fn is_padding(bytes: &[u8], done: usize) -> bool {
    let rest = bytes.get(done..).unwrap_or_default();
    bytes.len().is_multiple_of(BLOCK as usize)
        && rest.len() < BLOCK as usize
        && rest.iter().all(|byte| *byte == 0)
}

/// So many bytes of a segment may be hashed for nothing.
fn in_vain(bytes: &[u8]) -> usize {
    bytes.len().saturating_mul(8).max(1 << 20)
}

/// The control batch at `at`, if it is one of this place: of the segment that begins at position `base`, with positions
/// from `expected` on, since what stands before it in the file has those below.
fn read_control(
    bytes: &[u8],
    at: usize,
    found: &Frame,
    (base, expected): (u64, u64),
    done: usize,
) -> Option<Control> {
    let mut whole = bytes.get(at..at + found.length as usize)?.to_vec();
    let place = Place { position: found.position, partition: found.partition };
    heal(&mut whole, place, found.length, found.crc);
    let control = Control::decode(&whole).ok()?;
    let start = (at as u64).checked_sub(control.member_bytes())?;
    let here = control.base == base && control.offset == at as u64 && start >= done as u64;
    // Positions ascend, or the sums below would not hold.
    let mut next = control.from;
    for member in &control.members {
        if member.place.position < next || member.count == 0 {
            return None;
        }
        next = member.place.position.checked_add(u64::from(member.count))?;
    }
    let sane = control.from >= expected && control.position >= next && control.position < POSITIONS;
    (here && sane).then_some(control)
}

/// The next place from `from` on where a control batch of this segment stands, whole.
fn find_control(bytes: &[u8], from: usize, (base, expected): (u64, u64), done: usize) -> Option<usize> {
    // Who knows at which byte of which segment his payload will lie can plant what must be hashed in vain: so many bytes are.
    let mut budget = in_vain(bytes);
    (from..bytes.len()).find(|&at| {
        let rest = bytes.get(at..).unwrap_or_default();
        if budget == 0 || !is_control(rest) || !names_its_place(rest, base, at as u64) {
            return false;
        }
        let length = u32::from_be_bytes(super::bytes::at(rest, 8)) as usize;
        budget = budget.saturating_sub(length.min(rest.len()));
        // What is left was asked above.
        let Framed::Whole(found) = frame(rest, &mut { usize::MAX }) else { return false };
        read_control(bytes, at, &found, (base, expected), done).is_some()
    })
}

/// Whether a control batch begins with the list of a group, and says that it stands at this byte of this segment: known
/// before anything is hashed.
fn names_its_place(bytes: &[u8], base: u64, at: u64) -> bool {
    let mut rest = bytes.get(HEADER_LEN..).unwrap_or_default();
    // The record's length; no attributes, no deltas, a key of two bytes; the value's length.
    if !skip_varint(&mut rest) {
        return false;
    }
    let Some(after) = rest.strip_prefix(&[0, 0, 0, 4, GROUP, VERSION]) else { return false };
    rest = after;
    skip_varint(&mut rest)
        && rest.strip_prefix(&base.to_be_bytes()).is_some_and(|rest| rest.starts_with(&at.to_be_bytes()))
}

fn skip_varint(bytes: &mut &[u8]) -> bool {
    let length = bytes.iter().take(5).position(|byte| byte & 0x80 == 0);
    let rest = length.and_then(|length| bytes.get(length + 1..));
    *bytes = rest.unwrap_or_default();
    rest.is_some()
}

/// Checks each member of a group against what lies there.
fn vouched(bytes: &[u8], start: usize, pending: &[(usize, Frame)], control: Control, own: &Frame) -> Group {
    let mut notes = Vec::new();
    let mut offset = start;
    let end = control.position + control.positions();
    let control_at = control.offset;
    let place = Place { position: control.position, partition: CONTROL_PARTITION };
    if !header_is(bytes, control_at as usize, place, own.length, own.crc) {
        let what = "the header of the control batch is damaged outside its CRC, nothing is lost";
        notes.push((control_at, what.to_owned()));
    }
    if control.unknown > 0 {
        notes.push((
            control_at,
            format!("{} records of a kind that this version does not know", control.unknown),
        ));
    }
    let mut found = Vec::with_capacity(control.members.len());
    for member in control.members {
        let seen = pending
            .binary_search_by_key(&offset, |(at, _)| *at)
            .ok()
            .and_then(|at| pending.get(at))
            .map(|(_, frame)| frame)
            .filter(|frame| (frame.length, frame.crc) == (member.length, member.crc));
        let whole = seen.is_some()
            || crc_of(bytes.get(offset..).unwrap_or_default(), member.length) == Some(member.crc);
        if whole && !header_is(bytes, offset, member.place, member.length, member.crc) {
            let what = format!(
                "the header of the batch at position {} is damaged outside its CRC; \
                 the control batch tells what it was, nothing is lost",
                member.place.position
            );
            notes.push((offset as u64, what));
        }
        let length = member.length as usize;
        found.push(Found { offset: offset as u64, member, whole });
        offset += length;
    }
    let mut saved = control.saved;
    if saved.is_empty() {
        saved.push((control.from, control.time));
    }
    let Control { position, given, facts, .. } = control;
    Group { position, end, saved, given, members: found, facts, notes }
}

/// Whether what lies outside the CRC of the header at `at` is as it was written.
fn header_is(bytes: &[u8], at: usize, place: Place, length: u32, crc: u32) -> bool {
    let found: [u8; CRC_START] = super::bytes::at(bytes, at);
    let mut right = found;
    heal(&mut right, place, length, crc);
    found == right
}

/// Reports bytes that nobody vouches for, and keeps the batches in them that continue the row of positions.
fn emit_gap(
    pending: &[(usize, Frame)],
    (from, to): (usize, usize),
    (expected, before): (u64, u64),
    each: &mut dyn FnMut(Item),
) {
    if from >= to && expected >= before {
        return;
    }
    let (mut at, mut next) = (from, expected);
    let mut kept = Vec::new();
    for (offset, frame) in pending {
        let end = frame.position.saturating_add(u64::from(frame.count));
        // A group lists no batch without events, so one here is none of ours.
        if frame.count == 0
            || *offset != at
            || frame.position != next
            || end > before
            || offset + frame.length as usize > to
        {
            break;
        }
        (at, next) = (offset + frame.length as usize, end);
        kept.push(unvouched(*offset, frame));
    }
    let missing = next..before.max(next);
    each(Item::Gap(Gap { offset: from as u64, length: to.saturating_sub(from) as u64, kept, missing }));
}

fn emit_tail(
    bytes: &[u8],
    done: usize,
    pending: Vec<(usize, Frame)>,
    (torn, refused): (bool, bool),
    each: &mut dyn FnMut(Item),
) {
    let batches = pending.iter().map(|(offset, frame)| unvouched(*offset, frame)).collect();
    each(Item::Tail(Tail {
        offset: done as u64,
        length: (bytes.len() - done) as u64,
        torn,
        refused,
        padding: is_padding(bytes, done),
        batches,
    }));
}

/// A batch as its own header says. Where its numbers were given is not known.
fn unvouched(offset: usize, frame: &Frame) -> Found {
    let place = Place { position: frame.position, partition: frame.partition };
    let Frame { length, count, crc, .. } = *frame;
    let origin = frame.stamped.then(kafka_batcher_core::Origin::default);
    Found { offset: offset as u64, member: Member { place, count, length, crc, origin }, whole: true }
}
