//! `kafka-batcher produce`: the lines of a file or of standard input, each an event of a topic.
//!
//! Two threads work: the feeder reads, splits and hands lines to the collector; this one runs the batcher's tasks,
//! watches and decides when it is over. They meet at a [`gate`], so that a read which never returns cannot hold up the
//! end. With receipts a third one writes them.
//!
//! Nothing is read before Kafka is there and the topic is known: whoever fails for a typing error has not consumed
//! anything.

mod args;
mod extract;
mod feed;
mod gate;
mod plan;
mod receipts;
mod summary;
mod watch;

use std::io::{Read, Write, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kafka_batcher::storage::disk::Spool;
use kafka_batcher::{BuildError, Builder, Collector, KafkaBatcher, Report};
use tokio::sync::oneshot;

pub(crate) use args::{Acks, Args, Packing, SpoolWhen, SummaryForm};
pub(crate) use plan::in_words;

use crate::console::{Console, Shared, Unit, Volume};
use crate::exit::{self, UsageError};
use crate::http;
use crate::produce::feed::{Ended, Feeder};
use crate::produce::gate::{Counts, Gate};
use crate::produce::plan::{NO_LIMIT, Plan};
use crate::produce::receipts::Receipts;
use crate::produce::summary::Summary;
use crate::produce::watch::{Stall, wait_until_ready};
use crate::signals::{Signal, Signals};
use crate::units;

/// How long a second signal waits for each of: the counts, the receipts, the summary to be read.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why a run is over.
#[derive(Debug)]
enum Why {
    /// Everything was read.
    EndOfInput,
    Signal(Signal),
    /// Nothing was acknowledged for as long as the user wanted to wait; in words.
    Stalled(String),
    /// A line cannot be sent, and reading stopped there; in words.
    BadLine(String),
    /// Receipts cannot be written; the receipts know why.
    Unwritable,
    /// Something else is wrong; in words.
    Failed(String),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let code = runtime.block_on(produce(args));
    runtime.shutdown_background();
    code
}

/// An input and its length, where it is known.
struct Input {
    read: Box<dyn Read + Send>,
    length: Option<u64>,
}

fn open(args: &Args) -> anyhow::Result<Input> {
    let Some(path) = args.file.as_deref().filter(|path| path.as_os_str() != "-") else {
        return Ok(Input { read: Box::new(std::io::stdin()), length: None });
    };
    let failed = |error: std::io::Error| UsageError(format!("cannot open {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        return Err(UsageError(format!(
            "{} is a directory; name a file, or - for standard input",
            path.display()
        ))
        .into());
    }
    Ok(Input { length: meta.is_file().then_some(meta.len()), read: Box::new(file) })
}

/// A setting that cannot be is the user's; anything else is the machine's.
fn usage(error: BuildError) -> anyhow::Error {
    match error {
        BuildError::BadConfig(_) | BuildError::Spool(_) => UsageError(error.to_string()).into(),
        other => other.into(),
    }
}

async fn start(plan: &Plan<'_>, console: &Arc<Console>) -> anyhow::Result<(KafkaBatcher, Collector)> {
    let builder = Builder::from(plan.resolved.clone());
    let batcher = builder.error_notifier(Shared(console.clone())).start().await.map_err(usage)?;
    let collector = batcher.get_collector(&plan.topic)?;
    Ok((batcher, collector))
}

async fn produce(args: &Args) -> anyhow::Result<u8> {
    let began = Instant::now();
    let plan = Plan::new(args)?;
    let extractor = args.extractor().map_err(UsageError)?;
    let input = open(args)?;
    let volume = if args.quiet { Volume::Quiet } else { Volume::Normal };
    let console = Arc::new(Console::new(volume, input.length, Unit::Bytes));
    let mut signals = Signals::listen().context("signals cannot be listened to")?;
    // Reads what is there: before anything runs that would wait for it.
    say_what_stays(&plan, &console);
    let metrics = match &args.metrics_addr {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    let (batcher, collector) = start(&plan, &console).await?;
    if let Some(listener) = metrics {
        if let Ok(address) = listener.local_addr() {
            console.say(format_args!("metrics, /health and /ready: http://{address}/metrics"));
        }
        http::serve(listener, batcher.clone());
    }

    let gate = Arc::new(Gate::default());
    let mut run =
        Run { args, plan: &plan, console: &console, batcher: &batcher, gate: gate.clone(), receipts: None };
    let ready = tokio::select! {
        ready = found_in_spool(&batcher, &plan, &console), if plan.spools() => Ok(ready),
        ready = wait_until_ready(&batcher, &plan, &console), if !plan.spools() => ready.map_err(Why::Stalled),
        signal = signals.next() => Err(Why::Signal(signal)),
    };
    let why = match ready {
        Ok(partitions) => {
            if let (Some(partition), Some(partitions)) = (args.partition, partitions)
                && partition >= partitions
            {
                let _ = batcher.shutdown(Duration::ZERO).await;
                let (topic, last) = (&plan.topic, partitions - 1);
                let message = format!(
                    "topic {topic:?} has no partition {partition}: it has {partitions}, 0 to {last} (--partition)"
                );
                return Err(UsageError(message).into());
            }
            run.receipts =
                args.receipts.map(Receipts::start).transpose().context("no thread for receipts")?;
            let feeder = Feeder {
                collector,
                extractor,
                headers: args.headers.clone(),
                partition: args.partition,
                on_bad_line: args.on_bad_line,
                gate: gate.clone(),
                receipts: run.receipts.as_ref().map(Receipts::sink),
                console: console.clone(),
            };
            run.feed(feeder, input, &mut signals).await?
        }
        Err(why) => why,
    };
    let code = run.end(why, &mut signals, began).await;
    Ok(code)
}

/// Says what of other topics lies in the spool: this run does not send it, and nobody else may be about to.
fn say_what_stays(plan: &Plan<'_>, console: &Console) {
    let Some(spool) = plan.spool_dir().and_then(|dir| Spool::open(dir).ok()) else { return };
    let others = spool.topics().unwrap_or_default().into_iter().filter(|topic| *topic != plan.topic);
    for topic in others {
        // What cannot be read is told by who uses it.
        let waiting = spool.scan(&topic).map_or(0, |scan| scan.backlogs.iter().map(|(_, b)| b.events).sum());
        if let Some(replay) = plan.replay_command().filter(|_| waiting > 0) {
            let events = units::counted(waiting, "event", "events");
            console.warn(format_args!(
                "the spool also holds {events} of topic {topic:?}, which this run does not send; {replay} does"
            ));
        }
    }
}

/// Says what an earlier run left in the spool. Nobody waits for Kafka, so how many partitions there are is not known.
async fn found_in_spool(batcher: &KafkaBatcher, plan: &Plan<'_>, console: &Console) -> Option<i32> {
    let found = batcher.report().await.recovered;
    if found > 0 {
        let events = units::counted(found, "event", "events");
        console.say(format_args!("the spool holds {events} of topic {:?}: delivered first", plan.topic));
    }
    None
}

struct Run<'a> {
    args: &'a Args,
    plan: &'a Plan<'a>,
    console: &'a Arc<Console>,
    batcher: &'a KafkaBatcher,
    gate: Arc<Gate>,
    receipts: Option<Receipts>,
}

impl Run<'_> {
    /// Reads and sends until there is a reason not to.
    async fn feed(&mut self, feeder: Feeder, input: Input, signals: &mut Signals) -> anyhow::Result<Why> {
        let (done, mut fed) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let limit = self.plan.collector().max_batch_bytesize;
        let thread = std::thread::Builder::new()
            .name("feeder".to_owned())
            .spawn(move || {
                let _ = done.send(feeder.run(input.read, limit, &runtime));
            })
            .context("the feeder's thread could not be started")?;
        self.gate.feeder_is(thread.thread().clone());

        let mut stall = Stall::new(self.plan);
        let why = loop {
            tokio::select! {
                ended = &mut fed => break match ended {
                    Ok(Ended::Input) => Why::EndOfInput,
                    Ok(Ended::BadLine(message)) => Why::BadLine(message),
                    Ok(Ended::Failed(message)) => Why::Failed(message),
                    Ok(Ended::Stopped) | Err(_) => Why::Failed("the feeder ended too early".to_owned()),
                },
                signal = signals.next() => break Why::Signal(signal),
                // Nobody would know of what is read from here on.
                () = receipts::failed(self.receipts.as_ref()) => break Why::Unwritable,
                () = tokio::time::sleep(stall.tick()) => {
                    let report = self.batcher.report().await;
                    self.show(&report);
                    if let Some(reason) = stall.over(&report, &self.batcher.health().borrow()) {
                        break Why::Stalled(reason);
                    }
                }
            }
        };
        if let Why::EndOfInput = why {
            return Ok(self.deliver(why, stall, signals).await);
        }
        // The feeder answers at once, unless it is reading: then it will find the gate closed when it is back. If it
        // has answered already, asking again is an error that means the same.
        if self.gate.close() == gate::Feeder::AtWork && !fed.is_terminated() {
            let _ = fed.await;
        }
        Ok(why)
    }

    /// Everything was read: waits as long as acknowledgements come, however long that takes in all.
    async fn deliver(&self, why: Why, mut stall: Stall, signals: &mut Signals) -> Why {
        let flushed = self.batcher.flush();
        tokio::pin!(flushed);
        loop {
            tokio::select! {
                () = &mut flushed => break,
                signal = signals.next() => return Why::Signal(signal),
                () = tokio::time::sleep(stall.tick()) => {
                    let report = self.batcher.report().await;
                    self.show(&report);
                    if let Some(reason) = stall.over(&report, &self.batcher.health().borrow()) {
                        return Why::Stalled(reason);
                    }
                }
            }
        }
        // All is safe. What is in the spool is delivered as long as acknowledgements come; after that for as long as a
        // shutdown may take.
        let (mut delivered, mut since) = (0, Instant::now());
        let mut said = false;
        while self.plan.spools() {
            let report = self.batcher.report().await;
            self.show(&report);
            let waiting = report.spooled + report.in_memory + report.in_flight;
            if report.spooled > 0 && !std::mem::replace(&mut said, true) {
                let patience = units::seconds(self.plan.resolved.settings.shutdown_timeout);
                self.console.say(format_args!(
                    "all lines are read and safe; waiting up to {patience} for acknowledgements (--shutdown-timeout)"
                ));
            }
            if report.delivered != delivered {
                (delivered, since) = (report.delivered, Instant::now());
            }
            if waiting == 0 || since.elapsed() >= self.plan.resolved.settings.shutdown_timeout {
                break;
            }
            tokio::select! {
                signal = signals.next() => return Why::Signal(signal),
                () = tokio::time::sleep(stall.tick()) => {}
            }
        }
        why
    }

    fn show(&self, report: &Report) {
        let counts = self.gate.counts();
        self.console.progress(counts.bytes, || {
            let parts = [
                (counts.lines, "lines read"),
                (report.delivered, "delivered"),
                (report.in_flight, "on their way"),
                (report.in_memory, "in memory"),
                (report.spooled, "in the spool"),
            ];
            let said = parts.iter().enumerate().filter(|(at, (n, _))| *at < 3 || *n > 0);
            said.map(|(_, (n, what))| format!("{} {what}", units::grouped(*n))).collect::<Vec<_>>().join(", ")
        });
    }

    /// Shuts down, says what became of everything, and knows the exit code.
    async fn end(mut self, why: Why, signals: &mut Signals, began: Instant) -> u8 {
        let patience = match &why {
            Why::Stalled(_) => Duration::ZERO,
            // What could be delivered was, above.
            Why::EndOfInput if self.plan.spools() => Duration::ZERO,
            _ => self.plan.resolved.settings.shutdown_timeout,
        };
        if let Why::Signal(signal) = &why {
            self.console.say(format_args!(
                "{}: no more is read; delivering what was accepted (once more to stop at once)",
                signal.name()
            ));
        }
        let mut second = None;
        let mut report = tokio::select! {
            report = self.batcher.shutdown(patience) => Some(report),
            signal = signals.next() => { second = Some(signal); None }
        };
        if let Some(receipts) = self.receipts.as_mut().filter(|_| second.is_none()) {
            tokio::select! {
                () = receipts.finish() => {}
                signal = signals.next() => second = Some(signal),
            }
        }
        if report.is_none() {
            report = self.last_report().await;
        }
        if let Some(receipts) = self.receipts.as_mut().filter(|_| second.is_some()) {
            // What is settled now can be said now, unless nobody listens.
            let _ = tokio::time::timeout(LAST_WORDS, receipts.finish()).await;
        }
        self.console.done();
        let counts = self.gate.counts();
        let mut summary = Summary::new(report.unwrap_or_default(), &counts, self.plan, &why, began);
        if let Why::Failed(message) | Why::BadLine(message) | Why::Stalled(message) = &why {
            self.console.error(message);
        }
        if let Some(warning) = summary.warning() {
            self.console.warn(warning);
        }
        if let Some(failed) = self.receipts.as_ref().and_then(Receipts::failure) {
            let (line, error, delivered) = (failed.after, failed.error, summary.delivered());
            self.console
                .error(format_args!("receipts could not be written after line {line}: {error}; {delivered}"));
            summary.unwritten();
        }
        if let Some(signal) = second {
            summary.stopped_at_once(signal);
        }
        self.tell(&mut summary, second, signals).await;
        summary.exit_code()
    }

    /// The accounts when there is no time left.
    async fn last_report(&self) -> Option<Report> {
        let before = tokio::time::timeout(LAST_WORDS, self.batcher.report()).await.ok();
        // Settles what is under way as lost or in doubt. Closing connections may take longer than there is time.
        let after = tokio::time::timeout(LAST_WORDS, self.batcher.shutdown(Duration::ZERO)).await.ok();
        after.or(before)
    }

    async fn tell(&self, summary: &mut Summary, second: Option<Signal>, signals: &mut Signals) {
        match self.args.summary {
            SummaryForm::Text => summary.lines().iter().for_each(|line| self.console.say(line)),
            SummaryForm::Json => {
                let patience = if second.is_some() { LAST_WORDS } else { NO_LIMIT };
                let written = tokio::select! {
                    written = self.write_last(summary.json()) => written,
                    signal = signals.next() => Err(std::io::Error::other(signal.name())),
                    () = tokio::time::sleep(patience) => Err(std::io::ErrorKind::TimedOut.into()),
                };
                if let Err(error) = written {
                    self.console.error(format_args!("the summary could not be written to stdout: {error}"));
                    summary.unwritten();
                    // The counts must be somewhere.
                    summary.lines().iter().for_each(|line| self.console.always(line));
                }
            }
        }
        let problems = summary.problems();
        match second {
            Some(signal) => {
                let name = signal.name();
                match problems.as_str() {
                    "" => {
                        self.console.error(format_args!("{name}: stopped at once; {}", summary.delivered()))
                    }
                    lost => self.console.error(format_args!("{name}: stopped at once; {lost}")),
                }
            }
            None if !problems.is_empty() => self.console.error(problems),
            None => {}
        }
    }

    /// Writes the last line of stdout, on a thread of its own: whoever should read it may not, and a signal must
    /// still be heard.
    async fn write_last(&self, line: String) -> std::io::Result<()> {
        if !self.receipts.as_ref().is_none_or(Receipts::silence) {
            return Err(std::io::Error::other("nobody reads the receipts before it"));
        }
        let (done, written) = oneshot::channel();
        std::thread::Builder::new().name("summary".to_owned()).spawn(move || {
            let mut out = stdout().lock();
            let _ = done.send(writeln!(out, "{line}").and_then(|()| out.flush()));
        })?;
        written.await.unwrap_or_else(|_| Err(std::io::Error::other("its thread died")))
    }
}

impl Why {
    fn word(&self) -> &'static str {
        match self {
            Why::EndOfInput => "end of input",
            Why::Signal(signal) => signal.name(),
            Why::Stalled(_) => "timeout",
            Why::BadLine(_) | Why::Unwritable | Why::Failed(_) => "failed",
        }
    }
}

/// The exit code of counts: 0 only if nothing at all went wrong and nothing is left.
fn code(report: &Report, counts: &Counts, why: &Why) -> u8 {
    let fine = report.refused == 0
        && counts.skipped == 0
        && counts.too_long == 0
        && matches!(why, Why::EndOfInput | Why::Signal(_));
    let safe = report.delivered + report.spooled == report.accepted + report.recovered;
    match (fine && safe, report.spooled) {
        (true, 0) => exit::OK,
        (true, _) => exit::SPOOLED,
        (false, _) => exit::NOT_ALL,
    }
}
