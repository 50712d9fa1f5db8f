//! Where the feeder and its supervisor meet: who works on what has been read, and how far it is.
//!
//! The story it is for: the feeder waits in a read of a pipe that stays silent; a signal comes; nobody can wake it. So
//! before each read the feeder hands over its counts and says that it is reading, and when it is back it asks whether
//! it may go on. Whoever closes the gate while it reads knows that nothing more will be accepted, and need not wait;
//! whoever closes it while the feeder is at work waits for it to answer, which it does soon, for it waits for memory
//! only with an eye on the gate.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::Thread;

const AT_WORK: u8 = 0;
const READING: u8 = 1;
const CLOSED: u8 = 2;

/// What the feeder was doing when the gate was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feeder {
    /// It will look at the gate soon, and answer.
    AtWork,
    /// It may never come back; what it reads will not be used.
    Reading,
}

/// How far the feeder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Lines whose fate was decided: accepted, skipped, or the one that ended it.
    pub(super) lines: u64,
    /// Bytes read.
    pub(super) bytes: u64,
    /// Lines left out (`--on-bad-line skip`).
    pub(super) skipped: u64,
    /// Lines over the limit that the library never saw.
    pub(super) too_long: u64,
    /// Accepted without a key.
    pub(super) without_key: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU8,
    lines: AtomicU64,
    bytes: AtomicU64,
    skipped: AtomicU64,
    too_long: AtomicU64,
    without_key: AtomicU64,
    feeder: OnceLock<Thread>,
}

impl Gate {
    /// The thread to wake when the gate closes.
    pub(super) fn feeder_is(&self, thread: Thread) {
        // Called once, when the thread has just been made.
        let _ = self.feeder.set(thread);
    }

    /// The feeder is about to read, which may take for ever. False: it must not, the gate is closed.
    pub(super) fn begin_read(&self) -> bool {
        self.state.compare_exchange(AT_WORK, READING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The feeder is back. False: what it read must not be used.
    pub(super) fn end_read(&self) -> bool {
        self.state.compare_exchange(READING, AT_WORK, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether the feeder must stop.
    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Nothing more may be accepted.
    pub(super) fn close(&self) -> Feeder {
        let before = self.state.swap(CLOSED, Ordering::AcqRel);
        if let Some(feeder) = self.feeder.get() {
            feeder.unpark();
        }
        if before == AT_WORK { Feeder::AtWork } else { Feeder::Reading }
    }

    /// Only the feeder writes, before each read and at its end.
    pub(super) fn publish(&self, counts: &Counts) {
        self.lines.store(counts.lines, Ordering::Relaxed);
        self.bytes.store(counts.bytes, Ordering::Relaxed);
        self.skipped.store(counts.skipped, Ordering::Relaxed);
        self.too_long.store(counts.too_long, Ordering::Relaxed);
        self.without_key.store(counts.without_key, Ordering::Relaxed);
    }

    /// As published last; exact once the gate was closed and the feeder has answered or was reading.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            lines: self.lines.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            too_long: self.too_long.load(Ordering::Relaxed),
            without_key: self.without_key.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_across_a_closing_gate_is_not_used() {
        let gate = Gate::default();
        assert!(gate.begin_read() && gate.end_read());
        assert!(gate.begin_read());
        assert_eq!(gate.close(), Feeder::Reading);
        assert!(!gate.end_read() && !gate.begin_read() && gate.is_closed());
    }

    #[test]
    fn a_feeder_at_work_is_waited_for() {
        let gate = Gate::default();
        assert_eq!(gate.close(), Feeder::AtWork);
        assert!(!gate.begin_read());
    }
}
