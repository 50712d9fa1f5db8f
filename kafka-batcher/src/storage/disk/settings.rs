//! The settings of a [`DiskStorage`](super::DiskStorage).

use std::path::PathBuf;

use kafka_batcher_core::SpoolMode;

use crate::config::SpoolConfig;

/// Where a spool lies and how large it may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskSettings {
    /// The directory; made if it is not there, with mode 0700. One process at a time.
    pub dir: PathBuf,
    /// Bytes that all segments, dead letters and files with damaged bytes together may hold. Beyond it batches are refused
    /// ([`StorageError::Full`](super::super::StorageError::Full)); what must be written so that the spool can drain may
    /// exceed it a little. Default: 10 GiB.
    pub max_bytes: u64,
    /// Bytes of the disk that are left to others: batches are refused when fewer are free. `None`, the default: 1 GiB, or
    /// 5 % of a disk smaller than 20 GiB.
    pub min_free_bytes: Option<u64>,
    /// When a segment has so many bytes, the next begins. A larger value makes fewer files; a smaller one gives room back
    /// earlier. At most 1 GiB and an eighth of `max_bytes`; default: 64 MiB.
    pub segment_bytes: u64,
    /// Bytes that the dead letters of a topic may hold; beyond it the oldest are dropped: counted as lost, and told. Default:
    /// 64 MiB.
    pub dead_letter_bytes: u64,
    /// Bytes kept back on the disk so that a spool on a full disk can drain: before events are replayed under new
    /// numbers, these must be on disk. Default: 1 MiB.
    pub reserve_bytes: u64,
    /// Whether batches are written past the page cache (`O_DIRECT`; on Linux, where the file system can): for less than half the CPU,
    /// and a backlog is read back from the disk. For a spool that is written all the time and read seldom, as
    /// [`SpoolMode::Always`] is: [`Builder::spool`](crate::Builder::spool) sets it with that mode, whatever
    /// [`Builder::spool_with`](crate::Builder::spool_with) is given. Default: false.
    pub direct_io: bool,
}

impl DiskSettings {
    /// The defaults, in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        DiskSettings::of(dir, &SpoolConfig::default())
    }

    /// The bounds that the configuration has, in this directory.
    pub(crate) fn of(dir: impl Into<PathBuf>, config: &SpoolConfig) -> Self {
        DiskSettings {
            dir: dir.into(),
            max_bytes: config.max_bytes,
            min_free_bytes: config.min_free_bytes,
            segment_bytes: config.segment_bytes,
            dead_letter_bytes: config.dead_letter_bytes,
            reserve_bytes: config.reserve_bytes,
            direct_io: config.mode == Some(SpoolMode::Always),
        }
    }

    /// Bytes of a segment: a part of the bound, since room is given back by segments.
    pub(super) fn segment(&self) -> u64 {
        let part = (self.max_bytes / 8).max(4096);
        self.segment_bytes.min(part).clamp(1, 1 << 30)
    }
}
