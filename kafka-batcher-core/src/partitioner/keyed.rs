//! The strategies that hash the record key, and the hashes alone.
//!
//! Every one is "hash, then modulo the number of partitions", so [`KeyHash::hash`] gives the value that is reduced:
//! sign bits are already dealt with the way the original does it. What tells them apart besides the hash is what they
//! do with a null and with an empty key.

use super::crc32::crc32;
use super::murmur2::murmur2;
use super::phash2::hash_binary;
use super::{PartitionError, PartitionInput, Partitioner, Placement, PlacementSource};

/// A hash of key bytes, independent of the number of partitions; the partition is the hash modulo the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum KeyHash {
    /// `toPositive(murmur2(key))` of the Java client: 31 bits.
    #[default]
    Murmur2,
    /// The 32 bits that `erlang:phash2/2` reduces, for the key as a binary.
    Phash2,
    /// CRC-32 of zlib, as librdkafka's `consistent`.
    Crc32,
    /// librdkafka's FNV-1a: 32 bits taken as a signed number, then its absolute value.
    Fnv1a,
}

impl KeyHash {
    /// The value to be reduced modulo the number of partitions.
    #[must_use]
    #[inline]
    pub fn hash(self, key: &[u8]) -> u32 {
        match self {
            // The default, for every event: without a call.
            Self::Murmur2 => murmur2(key) & 0x7fff_ffff,
            other => other.hash_otherwise(key),
        }
    }

    #[inline(never)]
    fn hash_otherwise(self, key: &[u8]) -> u32 {
        match self {
            Self::Murmur2 => murmur2(key) & 0x7fff_ffff,
            Self::Phash2 => hash_binary(key),
            Self::Crc32 => crc32(key),
            Self::Fnv1a => fnv1a(key),
        }
    }
}

/// FNV-1a as librdkafka and Sarama's `NewHashPartitioner` use it: the absolute value of the signed hash.
///
/// `i32::MIN` has no absolute value in 32 bits; librdkafka's wraps to 2^31 read as unsigned, and so does this.
fn fnv1a(key: &[u8]) -> u32 {
    let hash = key.iter().fold(0x811c_9dc5u32, |h, byte| (h ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash as i32).unsigned_abs()
}

/// The Java client's default: the same key goes to the same partition as from any Java producer.
///
/// A null key goes to the sticky partition; an empty key is a key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Murmur2;

/// The Elixir library's `:md5`, which is `erlang:phash2(Key, Count)`: the same key goes to the partition that kafka_batcher in
/// Elixir puts it in.
///
/// The Elixir library's default key is the empty binary, so a null key is hashed as the empty one, and all events without a key
/// share one partition; choose [`Murmur2`] or [`Sticky`](super::Sticky) where that is not wanted. Keys of the seed
/// that are no binaries (integers, atoms) are hashed with [`ErlangTerm`](super::ErlangTerm) in a closure.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phash2;

/// librdkafka's default, `consistent_random`: CRC-32 of the key.
///
/// A null **or empty** key goes to the sticky partition. (librdkafka's `consistent` hashes the empty key to 0, that is
/// to partition 0; a closure that answers [`PartitionKey::Hash`](super::PartitionKey::Hash) does that.)
#[derive(Debug, Clone, Copy, Default)]
pub struct Crc32;

/// librdkafka's `fnv1a_random` and Sarama's default hash partitioner.
///
/// A null key goes to the sticky partition; an empty key is a key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fnv1a;

macro_rules! keyed_strategy {
    ($strategy:ty, $name:literal, |$key:ident| $placement:expr) => {
        impl Partitioner for $strategy {
            fn placement(&self, event: &PartitionInput<'_>) -> Result<Placement, PartitionError> {
                let $key = event.key;
                Ok($placement)
            }

            fn source(&self) -> PlacementSource {
                PlacementSource::RecordKey
            }

            fn name(&self) -> &str {
                $name
            }
        }
    };
}

keyed_strategy!(Murmur2, "murmur2", |key| hashed(KeyHash::Murmur2, key));
keyed_strategy!(Phash2, "phash2", |key| hashed(KeyHash::Phash2, Some(key.unwrap_or_default())));
keyed_strategy!(Crc32, "crc32", |key| hashed(KeyHash::Crc32, key.filter(|key| !key.is_empty())));
keyed_strategy!(Fnv1a, "fnv1a", |key| hashed(KeyHash::Fnv1a, key));

fn hashed(hash: KeyHash, key: Option<&[u8]>) -> Placement {
    key.map_or(Placement::Keyless, |key| Placement::Hash(hash.hash(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(strategy: &dyn Partitioner, key: Option<&[u8]>) -> Placement {
        strategy.placement(&PartitionInput::new("t", key, None)).expect("a keyed strategy never fails")
    }

    /// The values of librdkafka's own unit test (`unittest_fnv1a` in src/rdfnv1a.c), which it took from Go.
    #[test]
    fn fnv1a_is_librdkafkas() {
        for (key, expected) in [
            ("kafka", 0x0d33_c4e1),
            ("giberish123456789", 0x77a5_8295),
            ("1234", 0x023b_dd03),
            ("234", 0x2dea_3cd2),
            ("34", 0x740f_a83e),
            ("4", 0x310c_a263),
            ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x65cb_d69c),
            ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x6e49_c79a),
            ("eAmbleWillBeRemoved,ThePrePartThatIs", 0x69ee_d356),
            ("AmbleWillBeRemoved,ThePrePartThatIs", 0x6abc_c023),
            ("", 0x7ee3_623b),
        ] {
            assert_eq!(KeyHash::Fnv1a.hash(key.as_bytes()), expected, "{key:?}");
        }
    }

    /// The values of librdkafka's tests/0048-partitioner.c (crc32 there by the command of that name on OS X, murmur2
    /// by Kafka's Java, fnv1a by Go).
    #[test]
    fn every_hash_gives_the_values_of_librdkafkas_partitioner_test() {
        for (key, crc32, murmur2, fnv1a) in [
            ("", 0, 0x106e_08d9, 0x7ee3_623b),
            ("23456", 0xb1b4_51d7, 0x058d_780f, 0x27e6_f469),
            ("this is another string with more length to it perhaps", 0xb015_0df7, 0x4f77_03da, 0x155e_3e5f),
            ("hejsan", 0xd077_037e, 0x5ec1_9395, 0x17b1_e27a),
        ] {
            assert_eq!(KeyHash::Crc32.hash(key.as_bytes()), crc32, "crc32 of {key:?}");
            assert_eq!(KeyHash::Murmur2.hash(key.as_bytes()), murmur2, "murmur2 of {key:?}");
            assert_eq!(KeyHash::Fnv1a.hash(key.as_bytes()), fnv1a, "fnv1a of {key:?}");
        }
    }

    #[test]
    fn a_null_key_is_keyless_except_for_the_seeds_strategy_which_hashes_the_empty_binary() {
        assert_eq!(placement(&Murmur2, None), Placement::Keyless);
        assert_eq!(placement(&Crc32, None), Placement::Keyless);
        assert_eq!(placement(&Fnv1a, None), Placement::Keyless);
        assert_eq!(placement(&Phash2, None), placement(&Phash2, Some(b"")));
        assert_eq!(placement(&Phash2, None), Placement::Hash(0x9e37_79b9u32.wrapping_mul(13)));
    }

    #[test]
    fn an_empty_key_is_a_key_except_for_librdkafkas_default() {
        assert_eq!(placement(&Murmur2, Some(b"")), Placement::Hash(0x106e_08d9));
        assert_eq!(placement(&Fnv1a, Some(b"")), Placement::Hash(0x7ee3_623b));
        assert_eq!(placement(&Crc32, Some(b"")), Placement::Keyless);
    }
}
