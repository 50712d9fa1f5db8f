//! Zigzag varints, as protocol buffers and Kafka's record format have them.

/// What [`short`] takes is below this: two bytes.
pub(crate) const SHORT: u64 = 1 << 14;
/// What [`medium`] takes is below this: three bytes.
pub(crate) const MEDIUM: u64 = 1 << 21;
/// -1, the length of null, in zigzag form.
pub(crate) const MINUS_ONE: u64 = 1;

/// The zigzag form of a signed number: small for small magnitudes.
#[inline]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The varint of a zigzag number below [`SHORT`] in a register, first byte lowest, and its length.
#[inline]
pub(crate) fn short(zigzag: u64) -> (u64, usize) {
    // One byte or two, and mostly as the time before: a branch is cheaper than the arithmetic.
    if zigzag < 0x80 { (zigzag, 1) } else { ((zigzag & 0x7f) | 0x80 | (zigzag >> 7) << 8, 2) }
}

/// As [`short`], for a zigzag number below [`MEDIUM`].
#[inline]
pub(crate) fn medium(zigzag: u64) -> (u64, usize) {
    if zigzag < SHORT {
        short(zigzag)
    } else {
        ((zigzag & 0x7f) | 0x8080 | (zigzag >> 7 & 0x7f) << 8 | (zigzag >> 14) << 16, 3)
    }
}

/// Encoded length of a signed varint, in bytes: 1..=5 for what fits 32 bits, up to 10.
#[inline]
pub(crate) fn len(value: i64) -> usize {
    let zigzag = zigzag(value);
    // 7 payload bits a byte; `| 1` so that zero takes one byte.
    (70 - (zigzag | 1).leading_zeros() as usize) / 7
}

/// Writes a signed varint at `at` and returns the index behind it. `out` must have room.
#[inline]
pub(crate) fn put(out: &mut [u8], mut at: usize, value: i64) -> usize {
    let mut zigzag = zigzag(value);
    while zigzag >= 0x80 {
        out[at] = zigzag as u8 | 0x80;
        zigzag >>= 7;
        at += 1;
    }
    out[at] = zigzag as u8;
    at + 1
}

/// Reads a signed varint of at most 10 bytes and returns it with the rest; `None` if it is cut off or overlong.
#[inline]
pub(crate) fn get(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut zigzag = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if i == 9 && bits > 1 {
            return None;
        }
        zigzag |= bits << (7 * i);
        if byte & 0x80 == 0 {
            return Some(((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64), bytes.get(i + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_has_the_length_foretold(value: i64, small in -70000i64..70000) {
            for value in [value, small, value >> 32] {
                let mut out = [0u8; 10];
                let end = put(&mut out, 0, value);
                prop_assert_eq!(end, len(value));
                prop_assert_eq!(get(&out[..end]), Some((value, &[][..])));
                prop_assert_eq!(get(&out[..end - 1]), None);
            }
        }
    }

    proptest! {
        #[test]
        fn the_registers_hold_the_same_bytes(value in -(1i64 << 20)..1 << 20) {
            let mut out = [0u8; 10];
            let end = put(&mut out, 0, value);
            let in_register = |(bits, len): (u64, usize)| bits.to_le_bytes()[..len].to_vec();
            prop_assert_eq!(in_register(medium(zigzag(value))), &out[..end]);
            if zigzag(value) < SHORT {
                prop_assert_eq!(in_register(short(zigzag(value))), &out[..end]);
            }
        }
    }

    #[test]
    fn the_examples_of_the_protocol_buffers_documentation() {
        let mut out = [0u8; 10];
        for (value, bytes) in [(0i64, &[0u8][..]), (-1, &[1]), (1, &[2]), (-2, &[3]), (150, &[0xac, 0x02])] {
            let end = put(&mut out, 0, value);
            assert_eq!(&out[..end], bytes);
        }
        assert_eq!(get(&[0xff; 10]), None);
        assert_eq!(get(&[]), None);
    }
}
