//! How long to wait before the next attempt: exponential, with seeded jitter.
//!
//! A pure value: it reads no clock and never waits. The caller asks for the next delay after a failure, adds it to its
//! own `now`, and calls [`Backoff::reset`] after a success.
//!
//! The rule is KIP-580's, `initial * multiplier^n`, bounded by `max`, plus or minus `jitter`. One thing differs from
//! the Java client, on purpose: Java cuts at `max` *after* the jitter, so half of all clients that wait long wait
//! exactly `max`, and come back together. Here the range is cut, and the delay drawn from what is left of it, so
//! `max` is still never exceeded, and clients stay apart.

use std::time::Duration;

use crate::rng::SplitMix64;

/// The parameters of a [`Backoff`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffSettings {
    /// The first delay, before jitter. Smaller: recovers sooner from a short failure; larger: easier on a broker in
    /// trouble.
    pub initial: Duration,
    /// No delay is longer, jitter included.
    pub max: Duration,
    /// By what each delay is longer than the one before; at least 1.
    pub multiplier: f64,
    /// The share of a delay by which it may be shorter or longer, from 0 (none) to 1.
    pub jitter: f64,
}

impl Default for BackoffSettings {
    /// 100 ms to 5 s, doubling, plus or minus 20 %: KIP-580's factors, the bounds of this project.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(5),
            multiplier: 2.0,
            jitter: 0.2,
        }
    }
}

impl BackoffSettings {
    /// The same, with pauses half as long; none becomes 0.
    #[must_use]
    pub fn halved(self) -> Self {
        // Zero would stay zero.
        let initial = (self.initial / 2).max(Duration::from_nanos(1));
        BackoffSettings { initial, max: (self.max / 2).max(initial), ..self }
    }

    /// Whether they mean what they say; a configuration asks this, and [`Backoff::new`] makes do with anything.
    ///
    /// # Errors
    /// The first parameter that is out of bounds.
    pub fn check(&self) -> Result<(), BackoffSettingsError> {
        if self.initial.is_zero() {
            return Err(BackoffSettingsError::ZeroInitial);
        }
        if self.max < self.initial {
            return Err(BackoffSettingsError::MaxBelowInitial { initial: self.initial, max: self.max });
        }
        if !(self.multiplier.is_finite() && self.multiplier >= 1.0) {
            return Err(BackoffSettingsError::Multiplier(self.multiplier));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(BackoffSettingsError::Jitter(self.jitter));
        }
        Ok(())
    }
}

/// Which of the [`BackoffSettings`] is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BackoffSettingsError {
    /// A first delay of zero would stay zero.
    #[error("the initial backoff is 0, which would retry without any pause: give at least 1 ms")]
    ZeroInitial,
    /// The bound is below the first delay.
    #[error("the maximum backoff ({max:?}) is below the initial one ({initial:?})")]
    MaxBelowInitial {
        /// The first delay.
        initial: Duration,
        /// The bound.
        max: Duration,
    },
    /// Delays would shrink, or are not numbers.
    #[error("the backoff multiplier is {0}: give a number of at least 1")]
    Multiplier(f64),
    /// Delays could be negative, or are not numbers.
    #[error("the backoff jitter is {0}: give a share from 0 to 1")]
    Jitter(f64),
}

/// The delays of one thing that is tried again and again.
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::{Backoff, BackoffSettings};
/// use std::time::Duration;
///
/// let mut backoff = Backoff::new(BackoffSettings::default(), 42);
/// let first = backoff.next_delay();
/// assert!(first >= Duration::from_millis(80) && first <= Duration::from_millis(120));
/// let second = backoff.next_delay();
/// assert!(second >= Duration::from_millis(160) && second <= Duration::from_millis(240));
/// backoff.reset();
/// assert_eq!(backoff.attempts(), 0);
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    settings: BackoffSettings,
    /// The next delay before jitter, in seconds; never above `max`.
    next: f64,
    attempts: u32,
    rng: SplitMix64,
}

impl Backoff {
    /// Nothing has failed yet. The same seed gives the same delays.
    ///
    /// Settings that [`BackoffSettings::check`] refuses are bent to the nearest that make sense, so that a retry loop
    /// always ends in a delay: a multiplier below 1 counts as 1, a jitter outside of 0 to 1 as 0 or 1, what is not a
    /// number as its default, and `max` bounds even the first delay.
    #[must_use]
    pub fn new(settings: BackoffSettings, seed: u64) -> Self {
        let usual = BackoffSettings::default();
        let number = |value: f64, usual: f64| if value.is_nan() { usual } else { value };
        let settings = BackoffSettings {
            multiplier: number(settings.multiplier, usual.multiplier).max(1.0),
            jitter: number(settings.jitter, usual.jitter).clamp(0.0, 1.0),
            ..settings
        };
        let mut backoff = Self { settings, next: 0.0, attempts: 0, rng: SplitMix64::new(seed) };
        backoff.reset();
        backoff
    }

    /// How long to wait after one more failure. Never longer than `max`.
    #[must_use = "the failure is counted: wait for this long"]
    pub fn next_delay(&mut self) -> Duration {
        let BackoffSettings { max, multiplier, jitter, .. } = self.settings;
        let longest = max.as_secs_f64();
        let low = self.next * (1.0 - jitter);
        let high = (self.next * (1.0 + jitter)).min(longest);
        let delay = low + (high - low) * self.rng.unit();
        self.next = (self.next * multiplier).min(longest);
        self.attempts = self.attempts.saturating_add(1);
        // Rounding may carry a delay beyond the bound, and a bound of centuries beyond what a Duration holds.
        Duration::try_from_secs_f64(delay).map_or(max, |delay| delay.min(max))
    }

    /// It worked: the next delay is the first again. The jitter goes on where it was.
    pub fn reset(&mut self) {
        self.next = self.settings.initial.as_secs_f64().min(self.settings.max.as_secs_f64());
        self.attempts = 0;
    }

    /// Delays given since the last [`reset`](Self::reset).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delays(settings: BackoffSettings, seed: u64, count: usize) -> Vec<Duration> {
        let mut backoff = Backoff::new(settings, seed);
        (0..count).map(|_| backoff.next_delay()).collect()
    }

    #[test]
    fn without_jitter_delays_double_up_to_the_maximum() {
        let settings = BackoffSettings { jitter: 0.0, ..BackoffSettings::default() };
        let expected = [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000].map(Duration::from_millis);
        assert_eq!(delays(settings, 1, 8), expected);
    }

    #[test]
    fn clients_that_wait_for_the_maximum_do_not_come_back_together() {
        let late: std::collections::BTreeSet<Duration> =
            (0..100).map(|seed| delays(BackoffSettings::default(), seed, 20)[19]).collect();
        assert_eq!(late.len(), 100);
        assert!(late.iter().all(|delay| (4.0..=5.0).contains(&delay.as_secs_f64())), "{late:?}");
    }

    #[test]
    fn after_a_reset_the_first_delay_is_due_again() {
        let settings = BackoffSettings { jitter: 0.0, ..BackoffSettings::default() };
        let mut backoff = Backoff::new(settings, 1);
        for _ in 0..5 {
            assert!(backoff.next_delay() >= settings.initial);
        }
        assert_eq!(backoff.attempts(), 5);
        backoff.reset();
        assert_eq!(backoff.attempts(), 0);
        assert_eq!(backoff.next_delay(), settings.initial);
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let good = BackoffSettings::default();
        assert_eq!(good.check(), Ok(()));
        let zero = BackoffSettings { initial: Duration::ZERO, ..good };
        assert_eq!(zero.check(), Err(BackoffSettingsError::ZeroInitial));
        let crossed = BackoffSettings { max: Duration::from_millis(1), ..good };
        assert!(
            crossed.check().is_err_and(|e| e.to_string().contains("(1ms) is below the initial one (100ms)"))
        );
        for multiplier in [0.5, -1.0, f64::NAN, f64::INFINITY] {
            assert!(BackoffSettings { multiplier, ..good }.check().is_err(), "{multiplier}");
        }
        for jitter in [-0.1, 1.1, f64::NAN] {
            assert!(BackoffSettings { jitter, ..good }.check().is_err(), "{jitter}");
        }
    }

    prop_compose! {
        fn sound()(
            initial in 1u64..100_000, more in 0u64..10_000_000, multiplier in 1.0..10.0f64, jitter in 0.0..=1.0f64,
        ) -> BackoffSettings {
            let (initial, max) = (Duration::from_millis(initial), Duration::from_millis(initial + more));
            BackoffSettings { initial, max, multiplier, jitter }
        }
    }

    proptest! {
        #[test]
        fn each_delay_is_within_its_jitter_and_never_above_the_maximum(settings in sound(), seed: u64) {
            prop_assert_eq!(settings.check(), Ok(()));
            let plain = delays(BackoffSettings { jitter: 0.0, ..settings }, 0, 40);
            let nanosecond = Duration::from_nanos(1);
            for (delay, plain) in delays(settings, seed, 40).into_iter().zip(plain) {
                prop_assert!(delay <= settings.max);
                prop_assert!(delay + nanosecond >= plain.mul_f64(1.0 - settings.jitter));
                prop_assert!(delay <= plain.mul_f64(1.0 + settings.jitter) + nanosecond);
            }
        }

        #[test]
        fn without_jitter_delays_never_shrink_and_reach_the_maximum(settings in sound()) {
            let settings = BackoffSettings { jitter: 0.0, multiplier: settings.multiplier.max(1.5), ..settings };
            let all = delays(settings, 0, 100);
            prop_assert!(all.is_sorted());
            prop_assert_eq!(all.last(), Some(&settings.max));
        }

        #[test]
        fn the_same_seed_gives_the_same_delays(settings in sound(), seed: u64) {
            prop_assert_eq!(delays(settings, seed, 20), delays(settings, seed, 20));
        }

        #[test]
        fn no_settings_panic_or_exceed_the_maximum(
            initial: Duration, max: Duration, multiplier: f64, jitter: f64, seed: u64,
        ) {
            let settings = BackoffSettings { initial, max, multiplier, jitter };
            for delay in delays(settings, seed, 20) {
                prop_assert!(delay <= max);
            }
        }
    }
}
