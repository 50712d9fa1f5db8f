//! A small seeded random number generator: SplitMix64.
//!
//! Core draws random numbers in three places (sticky partitions, random partitions, the jitter of a backoff) and
//! must be replayable from a seed, so nothing here touches a global generator. It is not for secrets.
//!
//! Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014; the constants are
//! those of `java.util.SplittableRandom`'s 64-bit finaliser (variant 13 of Stafford).

use std::sync::atomic::{AtomicU64, Ordering};

/// The step of the sequence: 2^64 divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// One owner's generator.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 uniformly distributed bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        finalise(self.0)
    }

    /// Uniform in `0..bound`; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        scale(self.next_u64(), bound)
    }

    /// Uniform in `[0, 1)`, with all 53 bits that an `f64` can hold there.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The same sequence shared by threads: a SplitMix64 state is a counter, so one `fetch_add` draws.
#[derive(Debug)]
pub(crate) struct SharedSplitMix64(AtomicU64);

impl SharedSplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Uniform in `0..bound`; 0 if `bound` is 0.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        let state = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        scale(finalise(state), bound)
    }
}

fn finalise(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Lemire's multiply-shift reduction. Its bias is below `bound / 2^64`, far under what any test could see.
fn scale(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for seed 1234567, as published with the reference code (and used by Rosetta Code).
    #[test]
    fn the_sequence_is_the_published_one() {
        let mut rng = SplitMix64::new(1_234_567);
        let drawn: Vec<u64> = (0..5).map(|_| rng.next_u64()).collect();
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    #[test]
    fn the_shared_generator_draws_the_same_sequence_as_the_owned_one() {
        let mut owned = SplitMix64::new(7);
        let shared = SharedSplitMix64::new(7);
        for bound in [1, 2, 3, 10, 1 << 40, u64::MAX] {
            assert_eq!(owned.below(bound), shared.below(bound));
        }
    }

    #[test]
    fn a_draw_stays_below_its_bound_and_a_bound_of_zero_gives_zero() {
        let mut rng = SplitMix64::new(3);
        for _ in 0..10_000 {
            assert!(rng.below(7) < 7);
            let unit = rng.unit();
            assert!((0.0..1.0).contains(&unit));
        }
        assert_eq!(rng.below(0), 0);
    }
}
