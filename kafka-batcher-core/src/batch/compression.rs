//! Codecs: how the records of a batch are compressed, and the bounded way back.
//!
//! What it writes is what Kafka's own clients read: gzip (one member), Snappy in xerial framing (`SnappyOutputStream`), LZ4 in the
//! frame format with independent blocks (Kafka reads no others: `Lz4BlockInputStream`), zstd with the content's size in its
//! frame (KIP-110; needs Produce 7). What it reads is that, Snappy without framing (librdkafka's) and everything the
//! formats allow.
//!
//! Promise: no input makes it panic, or take more memory than three times [`MAX_UNCOMPRESSED`], since a buffer that grows is copied
//! into one of twice its size, and a codec's few buffers. What the bytes *claim* to hold is never believed.

mod compressor;
mod decompress;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use self::compressor::{Compressor, Fitted};
pub(super) use self::decompress::decompress;

/// The most that the records of a compressed batch may hold, uncompressed, in bytes: 64 MiB. Nothing of ours is ever larger
/// (the setting `max_batch_bytesize` is checked against it), and what claims to be is refused.
pub const MAX_UNCOMPRESSED: usize = 64 << 20;

/// A way of compressing, as Kafka knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip: understood everywhere, the slowest.
    Gzip,
    /// Snappy, in the framing of xerial's snappy-java.
    Snappy,
    /// LZ4, frame format.
    Lz4,
    /// Zstandard. Kafka 2.1 and later.
    Zstd,
}

impl Codec {
    /// All of them, by their numbers in a batch's attributes.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// Its number in the attributes of a batch, bits 0 to 2 (`CompressionType.java`).
    pub(super) const fn bits(self) -> i16 {
        self as i16
    }

    /// The codec with this number.
    pub(super) fn of_attributes(attributes: i16) -> Option<Codec> {
        Codec::ALL.get((attributes & 7) as usize).copied()
    }

    /// Its name in settings: Kafka's `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The least and the greatest level, and the one where none is given; `None`: it has no levels.
    const fn levels(self) -> Option<(i32, i32, i32)> {
        match self {
            Codec::None | Codec::Snappy | Codec::Lz4 => None,
            Codec::Gzip => Some((1, 9, 6)),
            // Kafka's own bounds (KIP-390). Level 3, Kafka's default, costs a quarter more for
            // hardly smaller batches (DESIGN.md, Compression).
            Codec::Zstd => Some((-131_072, 22, 1)),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, CompressionError> {
        let found = Codec::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| CompressionError::NoSuchCodec(text.to_owned()))
    }
}

/// A codec with its level. As text `zstd`, `zstd:3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Compression {
    codec: Codec,
    /// 0 for codecs without levels.
    level: i32,
}

impl Compression {
    /// No compression.
    pub const NONE: Compression = Compression { codec: Codec::None, level: 0 };

    /// This codec at this level; without one at its default: gzip 6, zstd 1.
    ///
    /// # Errors
    /// The codec has no levels, or not this one: gzip has 1 to 9, zstd -131072 to 22 (higher is smaller and slower; below 0
    /// is faster than any other), Snappy, LZ4 and `none` have none.
    pub fn new(codec: Codec, level: Option<i32>) -> Result<Compression, CompressionError> {
        match (codec.levels(), level) {
            (None, None) => Ok(Compression { codec, level: 0 }),
            (None, Some(level)) => Err(CompressionError::NoLevels { codec, level }),
            (Some((_, _, default)), None) => Ok(Compression { codec, level: default }),
            (Some((least, most, _)), Some(level)) if (least..=most).contains(&level) => {
                Ok(Compression { codec, level })
            }
            (Some((least, most, _)), Some(level)) => {
                Err(CompressionError::LevelOutOfRange { codec, level, least, most })
            }
        }
    }

    /// As the pieces of a batch are compressed that was read: at which level it was nobody knows.
    pub(super) fn of(codec: Codec) -> Compression {
        Compression { codec, level: codec.levels().map_or(0, |(_, _, default)| default) }
    }

    /// The same codec at its level, or at a faster one: gzip 1, zstd 1.
    pub(super) fn fast(self) -> Compression {
        Compression { level: self.level.min(1), ..self }
    }

    /// The codec.
    pub fn codec(self) -> Codec {
        self.codec
    }

    /// The level; `None` for codecs without levels.
    pub fn level(self) -> Option<i32> {
        self.codec.levels().map(|_| self.level)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level() {
            Some(level) => write!(f, "{}:{level}", self.codec),
            None => self.codec.fmt(f),
        }
    }
}

/// Why there is no such compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionError {
    /// Nobody knows a codec of this name.
    #[error("{0:?} is none of none, gzip, snappy, lz4, zstd")]
    NoSuchCodec(String),
    /// A level for a codec that has none.
    #[error(
        "{codec} has no levels, and {level} is given; leave the level out, or choose gzip (1 to 9) or zstd (-131072 to 22)"
    )]
    NoLevels {
        /// The codec.
        codec: Codec,
        /// The level given.
        level: i32,
    },
    /// The codec has levels, and not this one.
    #[error("{level} is no level of {codec}: it has {least} to {most}")]
    LevelOutOfRange {
        /// The codec.
        codec: Codec,
        /// The level given.
        level: i32,
        /// The lowest level.
        least: i32,
        /// The highest level.
        most: i32,
    },
}
