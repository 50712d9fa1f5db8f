//! The built-in strategies by name, as `partition_strategy` and `--partitioner` give them.

use std::str::FromStr;

use crate::nearest::nearest;
use std::sync::Arc;

use super::{
    Assigner, Crc32, Fnv1a, KeyHash, Murmur2, PartitionInput, Partitioner, Phash2, Placement,
    PlacementSource, Random, RoundRobin, Sticky,
};

/// A built-in strategy; [`Strategy::assigner`] makes it work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// [`Murmur2`]: the Java client's, and the default.
    #[default]
    Murmur2,
    /// [`Sticky`]: keys are ignored, batches are fullest.
    Sticky,
    /// [`Random`]: the Elixir library's default.
    Random,
    /// [`RoundRobin`].
    RoundRobin,
    /// [`Phash2`]: the Elixir library's `:md5`.
    Phash2,
    /// [`Crc32`]: librdkafka's default.
    Crc32,
    /// [`Fnv1a`]: Sarama's default.
    Fnv1a,
}

/// Other names for a strategy: the Elixir library's own, and librdkafka's.
const ALIASES: [(&str, Strategy); 4] = [
    ("md5", Strategy::Phash2),
    ("consistent_random", Strategy::Crc32),
    ("murmur2_random", Strategy::Murmur2),
    ("fnv1a_random", Strategy::Fnv1a),
];

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 7] =
        [Self::Murmur2, Self::Sticky, Self::Random, Self::RoundRobin, Self::Phash2, Self::Crc32, Self::Fnv1a];

    /// The name that the configuration knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Murmur2 => "murmur2",
            Self::Sticky => "sticky",
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::Phash2 => "phash2",
            Self::Crc32 => "crc32",
            Self::Fnv1a => "fnv1a",
        }
    }

    /// What it hashes keys with; `None` where it looks at no key.
    #[must_use]
    pub fn key_hash(self) -> Option<KeyHash> {
        match self {
            Self::Murmur2 => Some(KeyHash::Murmur2),
            Self::Phash2 => Some(KeyHash::Phash2),
            Self::Crc32 => Some(KeyHash::Crc32),
            Self::Fnv1a => Some(KeyHash::Fnv1a),
            Self::Sticky | Self::Random | Self::RoundRobin => None,
        }
    }

    /// The strategy at work for one topic.
    ///
    /// `max_batch_bytesize` bounds how long the sticky partition is kept; all that is drawn at random comes from
    /// `seed`.
    #[must_use]
    pub fn assigner(self, max_batch_bytesize: usize, seed: u64) -> Assigner {
        let partitioner: Arc<dyn Partitioner> = match self {
            Self::Murmur2 => Arc::new(Murmur2),
            Self::Sticky => Arc::new(IgnoreKey),
            Self::Random => Arc::new(Random::new(seed)),
            Self::RoundRobin => Arc::new(RoundRobin::starting_at(seed)),
            Self::Phash2 => Arc::new(Phash2),
            Self::Crc32 => Arc::new(Crc32),
            Self::Fnv1a => Arc::new(Fnv1a),
        };
        Assigner::shared(partitioner, Sticky::new(max_batch_bytesize, seed))
    }
}

/// Leaves every event to the assigner's sticky partition.
struct IgnoreKey;

impl Partitioner for IgnoreKey {
    fn placement(&self, _event: &PartitionInput<'_>) -> Result<Placement, super::PartitionError> {
        Ok(Placement::Keyless)
    }

    fn source(&self) -> PlacementSource {
        PlacementSource::RecordKey
    }

    fn name(&self) -> &str {
        Strategy::Sticky.name()
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        strategy_by_name(name)
    }
}

/// The strategy of that name or alias (`md5` is [`Strategy::Phash2`]; librdkafka's `consistent_random`,
/// `murmur2_random` and `fnv1a_random` are known, too). Upper case and `-` for `_` are accepted.
///
/// # Errors
/// An unknown name, with the nearest known one.
pub fn strategy_by_name(name: &str) -> Result<Strategy, UnknownStrategy> {
    let wanted = name.trim().to_ascii_lowercase().replace('-', "_");
    match known().find(|(known, _)| *known == wanted) {
        Some((_, strategy)) => Ok(strategy),
        None => Err(UnknownStrategy {
            name: name.into(),
            nearest: nearest(&wanted, known().map(|(name, _)| name)),
        }),
    }
}

fn known() -> impl Iterator<Item = (&'static str, Strategy)> {
    Strategy::ALL.into_iter().map(|strategy| (strategy.name(), strategy)).chain(ALIASES)
}

/// The name of a strategy that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownStrategy {
    /// What was asked for.
    pub name: Box<str>,
    /// The known name that looks most like it, if one does.
    pub nearest: Option<&'static str>,
}

impl std::fmt::Display for UnknownStrategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown partition strategy `{}`", self.name.escape_debug())?;
        if let Some(nearest) = self.nearest {
            write!(f, ", did you mean `{nearest}`?")?;
        }
        f.write_str(" (known:")?;
        for (i, strategy) in Strategy::ALL.into_iter().enumerate() {
            write!(f, "{} {strategy}", if i == 0 { "" } else { "," })?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for UnknownStrategy {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_is_found_by_its_name_and_carries_it() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy_by_name(strategy.name()), Ok(strategy));
            assert_eq!(strategy.assigner(1_000_000, 1).name(), strategy.name());
        }
        assert_eq!("md5".parse(), Ok(Strategy::Phash2));
        assert_eq!("Round-Robin".parse(), Ok(Strategy::RoundRobin));
        assert_eq!(" consistent_random ".parse(), Ok(Strategy::Crc32));
    }

    #[test]
    fn a_typing_error_is_answered_with_the_nearest_name() {
        for (typed, meant) in [
            ("murmur", "murmur2"),
            ("mumur2", "murmur2"),
            ("roundrobin", "round_robin"),
            ("stick", "sticky"),
            ("fnv1", "fnv1a"),
            ("phash", "phash2"),
            ("crc32c", "crc32"),
        ] {
            let error = strategy_by_name(typed).expect_err("unknown");
            assert_eq!(error.nearest, Some(meant), "{typed}");
        }
        assert_eq!(strategy_by_name("something else entirely").expect_err("unknown").nearest, None);
    }

    #[test]
    fn the_message_names_what_was_asked_and_what_is_known() {
        let error = strategy_by_name("murmur3").expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown partition strategy `murmur3`, did you mean `murmur2`? (known: murmur2, sticky, random, \
             round_robin, phash2, crc32, fnv1a)"
        );
    }
}
