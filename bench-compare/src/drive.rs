//! How events are emitted: by threads, or by tasks; the same for every client in Rust.
//!
//! A thread polls what it waits for itself, so that a load with a rate pauses by the kernel's clock (a runtime's timer knows whole
//! milliseconds), and so that acknowledgements are seen while it pauses.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::oneshot;

use crate::job::Job;
use crate::ledger::Ledger;
use crate::load::{Event, Load, Pace};

/// A client under test, connected.
pub(crate) trait Client: Send + Sync + Sized + 'static {
    /// What emits.
    type Lane: Lane;

    /// The library and its version.
    fn version() -> String;

    /// The settings that are given to the library, by its own names; what is not here is its default.
    fn settings(job: &Job) -> Vec<(&'static str, String)>;

    /// Connects, and knows the topic when it answers.
    fn connect(job: &Job, ledger: Arc<Ledger>) -> impl Future<Output = anyhow::Result<Self>>;

    /// One for each thread or task.
    fn lane(&self) -> anyhow::Result<Self::Lane>;

    /// Resolves when all that was emitted is acknowledged or has failed, and the ledger knows.
    fn settle(&self) -> impl Future<Output = anyhow::Result<()>>;

    /// Ends it in order.
    fn close(self) -> impl Future<Output = anyhow::Result<()>>;
}

/// One thread's or task's end of a client.
pub(crate) trait Lane: Send + 'static {
    /// Gives one event to the client; waits as long as the client makes its callers wait.
    fn offer(&mut self, event: Event) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Looks at outcomes for as long as it is polled. A client that tells them by a callback has nothing to do here.
    fn watch(&mut self) -> impl Future<Output = anyhow::Result<Infallible>> + Send {
        std::future::pending()
    }

    /// Resolves when the lane itself holds no outcome that is open.
    fn drain(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Emits so many events over all lanes, and waits for all outcomes. Answers how far the load was behind its rate.
pub(crate) async fn emit<C: Client>(
    client: &C,
    job: &Job,
    load: &'static Load,
    count: u64,
) -> anyhow::Result<Duration> {
    let mut ends = Vec::new();
    for number in 0..job.lanes {
        let (done, end) = oneshot::channel();
        let lane = client.lane()?;
        let share = Share { first: number, step: job.lanes, count: share(count, job.lanes, number) };
        let pace = Pace::new(job);
        if job.tasks {
            tokio::spawn(async move {
                let _ = done.send(by_task(lane, load, share).await.map(|()| pace.behind()));
            });
        } else {
            let runtime = tokio::runtime::Handle::current();
            let run = move || {
                // For clients that need a runtime around them.
                let _inside = runtime.enter();
                let _ = done.send(by_thread(lane, load, share, pace));
            };
            let thread = std::thread::Builder::new().name("load".to_owned()).spawn(run);
            thread.context("a thread could not be started")?;
        }
        ends.push(end);
    }
    let mut behind = Duration::ZERO;
    for end in ends {
        behind = behind.max(end.await.context("a lane of the load died")??);
    }
    client.settle().await?;
    Ok(behind)
}

/// How many of all events are this lane's.
fn share(count: u64, lanes: u64, number: u64) -> u64 {
    count / lanes + u64::from(number < count % lanes)
}

/// Which events a lane emits: every `step`th from `first` on.
struct Share {
    first: u64,
    step: u64,
    count: u64,
}

async fn by_task<L: Lane>(mut lane: L, load: &'static Load, share: Share) -> anyhow::Result<()> {
    for n in 0..share.count {
        lane.offer(load.event(share.first + n * share.step)).await?;
    }
    lane.drain().await
}

fn by_thread<L: Lane>(
    mut lane: L,
    load: &'static Load,
    share: Share,
    mut pace: Pace,
) -> anyhow::Result<Duration> {
    let here = Here::new();
    for n in 0..share.count {
        while let Some(until) = pace.pause(n) {
            if let Some(Err(error)) = here.run_until(lane.watch(), until) {
                return Err(error);
            }
        }
        callers_side(&here, &mut lane, load.event(share.first + n * share.step))?;
    }
    here.run(lane.drain())?;
    Ok(pace.behind())
}

/// What the caller of a client pays for one event. Callgrind counts what happens between its beginning and its end: see
/// instructions.rs, which knows it by its name.
#[inline(never)]
fn callers_side<L: Lane>(here: &Here, lane: &mut L, event: Event) -> anyhow::Result<()> {
    here.run(lane.offer(event))
}

/// Runs futures on this thread.
struct Here(Waker);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Here {
    fn new() -> Here {
        Here(Waker::from(Arc::new(Unpark(std::thread::current()))))
    }

    fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(&self.0);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            std::thread::park();
        }
    }

    /// None: the time has come first.
    fn run_until<F: Future>(&self, future: F, deadline: Instant) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(&self.0);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return Some(output);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            std::thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_events_are_shared_out_among_the_lanes_each_once() {
        for lanes in 1..9 {
            let mut emitted: Vec<u64> = (0..lanes)
                .flat_map(|number| (0..share(100, lanes, number)).map(move |n| number + n * lanes))
                .collect();
            emitted.sort_unstable();
            assert_eq!(emitted, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_thread_is_woken_by_what_it_waits_for_and_by_the_clock() {
        let here = Here::new();
        let (tell, told) = oneshot::channel();
        let teller = std::thread::spawn(move || tell.send(7));
        assert_eq!(here.run(told), Ok(7));
        assert_eq!(teller.join().unwrap(), Ok(()));
        assert_eq!(here.run_until(std::future::pending::<()>(), Instant::now()), None);
    }
}
