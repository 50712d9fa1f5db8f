//! `erlang:phash2`, so that keys land where kafka_batcher in Elixir put them.
//!
//! Binaries, integers and atoms are here: what a message key or a field of a decoded JSON document is in the seed.
//! Floats, lists, tuples and maps are not. The function is portable by contract ("always the same hash for a given
//! Erlang term regardless of machine architecture and ERTS version"), so the vectors of one release hold for all.
//!
//! The mixing step is Bob Jenkins' lookup2 of 1996. How each kind of term enters it:
//!
//! | Term | State words a, b | c | then |
//! |---|---|---|---|
//! | empty binary | – | 13 G | the result, unmixed |
//! | binary | G, G | 13 G | mixed with 12 bytes at a time, little-endian; the length is added to c, whose lowest byte the tail leaves free |
//! | integer of 28 bits | G + n, G | 0 | a negative one first mixes its absolute value, then itself |
//! | other integer | K + low, K + high of each 64 bits | 0 | least significant first; K is 10 G if negative, else 11 G |
//! | atom | – | – | hashpjw of its text, unmixed |
//!
//! G is the golden ratio, 0x9e3779b9.

use std::num::NonZeroU32;

const GOLDEN: u32 = 0x9e37_79b9;
/// The salt of negative and of other integers that need more than 28 bits.
const NEGATIVE: u32 = GOLDEN.wrapping_mul(10);
const POSITIVE: u32 = GOLDEN.wrapping_mul(11);
/// The salt of binaries, and the hash of the empty one.
const BINARY: u32 = GOLDEN.wrapping_mul(13);

/// An Erlang term as far as keys need it.
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::partitioner::ErlangTerm;
/// // erlang:phash2(<<"SEA">>) and erlang:phash2(42)
/// assert_eq!(ErlangTerm::Binary(b"SEA").phash2(), 2_498_378);
/// assert_eq!(ErlangTerm::Integer(42).phash2(), 30_328_728);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErlangTerm<'a> {
    /// A binary, which is what an Elixir string is.
    Binary(&'a [u8]),
    /// An integer; every JSON number without fraction that fits 128 bits.
    Integer(i128),
    /// An atom by its text: `nil`, `true`, `false` are what JSON's null, true and false decode to.
    Atom(&'a str),
}

impl ErlangTerm<'_> {
    /// All 32 bits: what `phash2/2` reduces modulo its range, and so what
    /// [`PartitionKey::Hash`](super::PartitionKey::Hash) wants.
    #[must_use]
    pub fn hash(self) -> u32 {
        match self {
            Self::Binary(bytes) => hash_binary(bytes),
            Self::Integer(value) => hash_integer(value),
            Self::Atom(text) => hash_atom(text.as_bytes()),
        }
    }

    /// `erlang:phash2(Term)`: 27 bits.
    #[must_use]
    pub fn phash2(self) -> u32 {
        self.hash() & ((1 << 27) - 1)
    }

    /// `erlang:phash2(Term, Range)`: below `range`.
    #[must_use]
    pub fn phash2_in(self, range: NonZeroU32) -> u32 {
        self.hash() % range
    }
}

pub(super) fn hash_binary(bytes: &[u8]) -> u32 {
    if bytes.is_empty() {
        return BINARY;
    }
    let (mut a, mut b, mut c) = (GOLDEN, GOLDEN, BINARY);
    let (blocks, tail) = bytes.as_chunks::<12>();
    for block in blocks {
        let [wa, wb, wc] = words(block);
        (a, b, c) = mix(a.wrapping_add(wa), b.wrapping_add(wb), c.wrapping_add(wc));
    }
    // The rest, at most 11 bytes, one zero byte after the eighth: the lowest byte of c belongs to the length.
    let mut last = [0; 12];
    let (to_ab, to_c) = tail.split_at(tail.len().min(8));
    for (slot, byte) in last.iter_mut().zip(to_ab) {
        *slot = *byte;
    }
    for (slot, byte) in last.iter_mut().skip(9).zip(to_c) {
        *slot = *byte;
    }
    let [wa, wb, wc] = words(&last);
    // Erlang, too, takes the length modulo 2^32.
    let c = c.wrapping_add(bytes.len() as u32).wrapping_add(wc);
    mix(a.wrapping_add(wa), b.wrapping_add(wb), c).2
}

fn words(block: &[u8; 12]) -> [u32; 3] {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = *block;
    [
        u32::from_le_bytes([a0, a1, a2, a3]),
        u32::from_le_bytes([b0, b1, b2, b3]),
        u32::from_le_bytes([c0, c1, c2, c3]),
    ]
}

fn hash_integer(value: i128) -> u32 {
    if (-(1 << 27)..1 << 27).contains(&value) {
        let small = value as i32;
        let c = if small < 0 { mix(GOLDEN.wrapping_add(small.unsigned_abs()), GOLDEN, 0).2 } else { 0 };
        return mix(GOLDEN.wrapping_add(small as u32), GOLDEN, c).2;
    }
    let salt = if value < 0 { NEGATIVE } else { POSITIVE };
    let mut rest = value.unsigned_abs();
    let mut c = 0;
    while rest != 0 {
        c = mix(salt.wrapping_add(rest as u32), salt.wrapping_add((rest >> 32) as u32), c).2;
        rest >>= 64;
    }
    c
}

/// hashpjw over the text; a character of Latin-1 counts as one byte, as it did when atoms were Latin-1.
fn hash_atom(text: &[u8]) -> u32 {
    let mut hash = 0u32;
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let (byte, after) = match tail {
            [second, tail @ ..] if first & 0xfe == 0xc2 && second & 0xc0 == 0x80 => {
                ((first << 6) | (second & 0x3f), tail)
            }
            _ => (*first, tail),
        };
        hash = (hash << 4).wrapping_add(u32::from(byte));
        let high = hash & 0xf000_0000;
        hash = (hash ^ (high >> 24)) ^ high;
        rest = after;
    }
    hash
}

/// One round of lookup2.
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for [right, left, last] in [[13, 8, 13], [12, 16, 5], [3, 10, 15]] {
        a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> right);
        b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << left);
        c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> last);
    }
    (a, b, c)
}
