//! What becomes of a task of ours that panics.
//!
//! User code never ends one: each call of it is contained where it is made, and costs that call. What is left are mistakes
//! of our own. A task that keeps nothing (the cluster's connection, a topic's watcher) begins anew at once, at most
//! `max_restart` times within a second. A dispatcher keeps events and their numbers, and is not begun anew:
//! `dispatcher/failing.rs` has its end.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use kafka_batcher_core::Time;

use crate::clock::Clock;
use crate::panics;

/// What `max_restart` counts in.
const WITHIN: Duration = Duration::from_secs(1);

/// Restarts of one task.
pub(crate) struct Restarts {
    most: u32,
    recent: VecDeque<Time>,
}

impl Restarts {
    pub(crate) fn new(most: u32) -> Self {
        Restarts { most, recent: VecDeque::new() }
    }

    /// Notes one, unless there were as many as may be within the last second.
    pub(crate) fn another(&mut self, now: Time) -> bool {
        while self.recent.front().is_some_and(|at| *at + WITHIN <= now) {
            self.recent.pop_front();
        }
        let may = self.recent.len() < usize::try_from(self.most).unwrap_or(usize::MAX);
        if may {
            self.recent.push_back(now);
        }
        may
    }
}

/// Runs a task to its end, and anew whenever it panics, as often as `max_restart` allows.
///
/// # Errors
/// What the last panic said, when it panics too often.
pub(crate) async fn supervise<F: Future>(
    what: &str,
    max_restart: u32,
    clock: Clock,
    mut task: impl FnMut() -> F,
) -> Result<F::Output, String> {
    let mut restarts = Restarts::new(max_restart);
    loop {
        let run = async { task().await };
        let panic = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(ended) => return Ok(ended),
            Err(panic) => panics::message(panic.as_ref()),
        };
        if !restarts.another(clock.now()) {
            return Err(format!("{what} panicked more than {max_restart} times within a second: {panic}"));
        }
        tracing::error!("{what} panicked, and begins anew: {panic}");
        // A task that panics without ever waiting must not keep its thread from the others.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn so_many_restarts_within_a_second_may_be_and_later_as_many_again() {
        let mut restarts = Restarts::new(3);
        let at = Time::from_millis;
        assert_eq!([0, 400, 800, 900].map(|ms| restarts.another(at(ms))), [true, true, true, false]);
        // That at 0 is a second ago now; that at 400 is not.
        assert_eq!([1_000, 1_001, 1_399].map(|ms| restarts.another(at(ms))), [true, false, false]);
        assert!(restarts.another(at(1_400)));
        assert!(!Restarts::new(0).another(at(0)));
    }

    #[tokio::test]
    async fn a_task_that_panics_begins_anew_until_it_panics_too_often() {
        for (panics, max_restart) in [(3, 3), (4, 3), (1, 0)] {
            let runs = AtomicU32::new(0);
            let task = || {
                // Before there is a future, or in it.
                let run = runs.fetch_add(1, Ordering::SeqCst);
                assert!(run >= panics || run % 2 == 1, "run {run}");
                async move {
                    assert!(run >= panics, "run {run}");
                    run
                }
            };
            let ended = supervise("the task", max_restart, Clock::start(), task).await;
            if panics <= max_restart {
                assert_eq!(ended, Ok(panics));
            } else {
                let said = ended.unwrap_err();
                assert!(said.contains(&format!("more than {max_restart} times")), "{said}");
                assert!(said.contains(&format!("run {max_restart}")), "{said}");
            }
        }
    }
}
