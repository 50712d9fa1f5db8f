//! What this process has used of the machine, as the kernel counts it: all its threads, no children.

use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// As of some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Bytes.
    pub(crate) peak_rss: u64,
    /// Context switches because somebody waited, and because somebody else had to run.
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
}

impl Usage {
    /// As of now.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn now() -> anyhow::Result<Usage> {
        let usage = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        let time = |value: TimeVal| {
            Duration::from_secs(count(value.tv_sec())) + Duration::from_micros(count(value.tv_usec()))
        };
        // Kilobytes on Linux, bytes on Apple's systems.
        let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
        Ok(Usage {
            user: time(usage.user_time()),
            system: time(usage.system_time()),
            peak_rss: count(usage.max_rss()) * unit,
            voluntary: count(usage.voluntary_context_switches()),
            involuntary: count(usage.involuntary_context_switches()),
        })
    }

    /// What was used since `earlier`. The peak of memory is that of the whole life.
    pub(crate) fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            peak_rss: self.peak_rss,
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }
}
