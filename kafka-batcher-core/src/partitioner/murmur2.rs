//! murmur2 as the Java client computes it for record keys.
//!
//! Austin Appleby's MurmurHash2 (32-bit, little-endian words) with Kafka's seed. Checked against
//! `org.apache.kafka.common.utils.Utils.murmur2` itself: `tests/fixtures/Murmur2Vectors.java`.

/// The seed of `Utils.murmur2`.
const SEED: u32 = 0x9747_b28c;
const MIX: u32 = 0x5bd1_e995;

/// All 32 bits; Kafka clears the sign bit before it reduces (`Utils.toPositive`).
#[inline]
pub(super) fn murmur2(data: &[u8]) -> u32 {
    // Java lengths are 32 bits; a record key cannot be longer.
    let mut h = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(MIX);
        k ^= k >> 24;
        h = h.wrapping_mul(MIX) ^ k.wrapping_mul(MIX);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(MIX);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(MIX);
    h ^ (h >> 15)
}
