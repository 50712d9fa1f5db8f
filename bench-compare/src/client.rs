//! One client in a process of its own: connects, warms up, sends, waits for every outcome, says what it cost.

use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;

use crate::clients::{floor, nothing, ours, rdkafka, rdkafka_batch, rskafka};
use crate::drive::{Client, emit};
use crate::job::Job;
use crate::ledger::Ledger;
use crate::line::Line;
use crate::load::Load;
use crate::roster::Rust;
use crate::usage::Usage;

/// Does what the job says with this client, and answers what it found.
///
/// # Errors
/// The client does not start, or says that it cannot go on. An event that fails is no error here: it is counted.
pub(crate) fn run(client: Rust, job: &Job) -> anyhow::Result<Line> {
    match client {
        Rust::AddEvent => measure::<ours::AddEvent>(job),
        Rust::Send => measure::<ours::WithReceipts>(job),
        Rust::Adaptive => measure::<ours::Adaptive>(job),
        Rust::Typed => measure::<ours::Typed>(job),
        Rust::Spool => measure::<ours::Spool>(job),
        Rust::SpoolAlways => measure::<ours::SpoolAlways>(job),
        Rust::RdkafkaThreaded => measure::<rdkafka::Threaded>(job),
        Rust::RdkafkaFuture => measure::<rdkafka::Futures>(job),
        Rust::RdkafkaBatch => measure::<rdkafka_batch::Batches>(job),
        Rust::Rskafka => measure::<rskafka::Rskafka>(job),
        Rust::Floor => measure::<floor::Floor<false>>(job),
        Rust::FloorHolding => measure::<floor::Floor<true>>(job),
        Rust::Nothing => measure::<nothing::Nothing>(job),
    }
}

fn measure<C: Client>(job: &Job) -> anyhow::Result<Line> {
    // A thread that emits needs one thread beside it for the client; tasks share as many as tokio takes here by itself.
    let runtime = match job.tasks {
        true => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        false => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let line = runtime.block_on(measured::<C>(job));
    runtime.shutdown_background();
    line
}

async fn measured<C: Client>(job: &Job) -> anyhow::Result<Line> {
    let load: &'static Load = Box::leak(Box::new(Load::new(job)));
    let ledger = Arc::new(Ledger::new(job.rate > 0));
    let client = C::connect(job, ledger.clone()).await?;
    emit(&client, job, load, job.warm_up).await?;
    let warmed = ledger.total();
    let (failed, why) = ledger.failures();
    ensure!(
        failed == 0 && warmed == job.warm_up,
        "{warmed} of {} events were acknowledged in the warm-up, {failed} failed: {}",
        job.warm_up,
        why.as_deref().unwrap_or("no reason was given")
    );

    ledger.begin();
    let (before, began) = (Usage::now()?, Instant::now());
    let behind = emit(&client, job, load, job.count).await?;
    let wall = began.elapsed();
    let used = Usage::now()?.since(&before);

    let (errors, first_error) = ledger.failures();
    let line = Line {
        version: C::version(),
        load: load.digest(),
        events: job.count,
        acknowledged: ledger.total() - warmed,
        errors,
        first_error,
        wall_s: wall.as_secs_f64(),
        user_s: used.user.as_secs_f64(),
        system_s: used.system.as_secs_f64(),
        peak_rss: used.peak_rss,
        voluntary: used.voluntary,
        involuntary: used.involuntary,
        behind_us: behind.as_micros() as u64,
        latency: ledger.latency(),
        settings: C::settings(job).into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    client.close().await?;
    Ok(line)
}
