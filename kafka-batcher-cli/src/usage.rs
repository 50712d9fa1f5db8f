//! What this process has used of the machine, as the kernel counts it.

use std::time::Duration;

/// CPU time and memory of this process so far, all threads, no children.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time. Zero where it cannot be known.
    pub(crate) cpu: Duration,
    /// Peak resident memory, in bytes. Zero where it cannot be known.
    pub(crate) peak_rss: u64,
}

impl Usage {
    /// As of now.
    #[cfg(unix)]
    pub(crate) fn now() -> Usage {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeVal;

        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Usage::default() };
        let time = |value: TimeVal| {
            let micros = u32::try_from(value.tv_usec()).unwrap_or(0);
            Duration::from_secs(u64::try_from(value.tv_sec()).unwrap_or(0))
                + Duration::from_micros(u64::from(micros))
        };
        // Kilobytes on Linux, bytes on Apple's systems.
        let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
        Usage {
            cpu: time(usage.user_time()) + time(usage.system_time()),
            peak_rss: u64::try_from(usage.max_rss()).unwrap_or(0) * unit,
        }
    }

    /// Not known here.
    #[cfg(not(unix))]
    pub(crate) fn now() -> Usage {
        Usage::default()
    }
}
