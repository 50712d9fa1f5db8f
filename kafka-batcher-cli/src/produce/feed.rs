//! The feeder: reads, splits, hands each line to the collector. It runs on a thread of its own and waits in three
//! places only: in a read, for memory, and for a reader of receipts; the last two end when the gate closes.
//!
//! Per line nothing is allocated, no channel is used and no task woken; counts are published once a block.

use std::io::Read;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use kafka_batcher::{AddError, Collector, Header, Record};
use tokio::runtime::Handle;

use crate::console::{Console, about};
use crate::lines::{Filled, Line, LineReader};
use crate::produce::args::{OnBadLine, StaticHeader};
use crate::produce::extract::Extractor;
use crate::produce::gate::{Counts, Gate};
use crate::produce::receipts::{Entry, Sink};
use crate::units::grouped;

/// Bad lines that are told one by one; the others are only counted.
const TOLD: u64 = 10;

/// Why the feeder is done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The input is over, and all of it was handed over.
    Input,
    /// The gate was closed.
    Stopped,
    /// A line cannot be sent, and such lines are to end it; in words.
    BadLine(String),
    /// In words.
    Failed(String),
}

/// See the module's documentation.
pub(super) struct Feeder {
    pub(super) collector: Collector,
    pub(super) extractor: Extractor,
    pub(super) headers: Vec<StaticHeader>,
    pub(super) partition: Option<i32>,
    pub(super) on_bad_line: OnBadLine,
    pub(super) gate: Arc<Gate>,
    pub(super) receipts: Option<Sink>,
    pub(super) console: Arc<Console>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Whether an event has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    There,
    Missing,
}

/// What became of one line.
enum Fate {
    Accepted(Key),
    Bad(String),
    Stopped,
    Failed(String),
}

impl Feeder {
    /// Feeds the collector until the input is over or there is a reason to stop.
    pub(super) fn run(self, input: Box<dyn Read + Send>, limit: usize, runtime: &Handle) -> Ended {
        // Waiting for memory takes a timer of the runtime's.
        let _inside = runtime.enter();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let Feeder { collector, extractor, headers, partition, on_bad_line, gate, receipts, console } = self;
        let headers: Vec<Header<'_>> =
            headers.iter().map(|header| Header::new(&header.name, &header.value)).collect();
        let template = Record { headers: &headers, partition, ..Record::default() };
        let mut line = OneLine { collector, extractor, template, gate: &gate, waker, receipts };
        let mut counts = Counts::default();
        let mut reader = LineReader::new(input, limit);
        let ended = loop {
            gate.publish(&counts);
            if !gate.begin_read() {
                break Ended::Stopped;
            }
            let filled = reader.fill();
            if !gate.end_read() {
                break Ended::Stopped;
            }
            let mut take = |text: Line<'_>| line.take(&text, limit, &mut counts, on_bad_line, &console);
            let last = match filled {
                Ok(Filled::More(bytes)) => {
                    let flow = reader.each_line(&mut take);
                    counts.bytes += bytes as u64;
                    match flow {
                        ControlFlow::Break(ended) => break ended,
                        ControlFlow::Continue(()) => false,
                    }
                }
                Ok(Filled::End) => match reader.last_line().map(take) {
                    Some(ControlFlow::Break(ended)) => break ended,
                    _ => true,
                },
                Err(error) => {
                    let line = counts.lines + 1;
                    break Ended::Failed(format!("reading failed in line {line}: {error}"));
                }
            };
            if line.receipts.as_mut().is_some_and(|sink| !sink.send_block(&gate)) {
                break Ended::Stopped;
            }
            if last {
                break Ended::Input;
            }
        };
        if let Some(sink) = &mut line.receipts {
            sink.send_rest();
        }
        gate.publish(&counts);
        ended
    }
}

/// What a line needs.
struct OneLine<'a> {
    collector: Collector,
    extractor: Extractor,
    template: Record<'a>,
    gate: &'a Gate,
    waker: Waker,
    receipts: Option<Sink>,
}

impl OneLine<'_> {
    #[inline]
    fn take(
        &mut self,
        line: &Line<'_>,
        limit: usize,
        counts: &mut Counts,
        on_bad_line: OnBadLine,
        console: &Console,
    ) -> ControlFlow<Ended> {
        let number = counts.lines + 1;
        let fate = match line {
            Line::Bytes(bytes) => self.offer(bytes, number),
            Line::TooLong(length) => {
                counts.too_long += 1;
                let (length, limit) = (grouped(*length), grouped(limit as u64));
                Fate::Bad(format!(
                    "it is {length} bytes long, the limit is {limit}; raise --max-batch-bytesize (and the topic's \
                     max.message.bytes), or send less"
                ))
            }
        };
        match fate {
            Fate::Accepted(key) => {
                counts.lines = number;
                counts.without_key += u64::from(key == Key::Missing);
                ControlFlow::Continue(())
            }
            other => self.not_accepted(other, number, counts, on_bad_line, console),
        }
    }

    #[inline]
    fn offer(&mut self, line: &[u8], number: u64) -> Fate {
        let (key, value) = match self.extractor.split(line) {
            Ok(parts) => parts,
            Err(bad) => return Fate::Bad(bad.to_string()),
        };
        let record = Record { key, value, ..self.template };
        let key = if key.is_some() { Key::There } else { Key::Missing };
        match &mut self.receipts {
            None => match wait(self.collector.add_event(record), &self.waker, self.gate) {
                Some(Ok(())) => Fate::Accepted(key),
                Some(Err(error)) => refused(&error),
                None => Fate::Stopped,
            },
            Some(sink) => match wait(self.collector.send(record), &self.waker, self.gate) {
                Some(Ok(receipt)) => {
                    sink.push(number, Entry::Accepted(receipt));
                    Fate::Accepted(key)
                }
                Some(Err(error)) => refused(&error),
                None => Fate::Stopped,
            },
        }
    }

    #[cold]
    fn not_accepted(
        &mut self,
        fate: Fate,
        number: u64,
        counts: &mut Counts,
        on_bad_line: OnBadLine,
        console: &Console,
    ) -> ControlFlow<Ended> {
        let message = match fate {
            Fate::Accepted(_) => return ControlFlow::Continue(()),
            Fate::Stopped => return ControlFlow::Break(Ended::Stopped),
            Fate::Failed(message) => {
                return ControlFlow::Break(Ended::Failed(format!("line {number}: {message}")));
            }
            Fate::Bad(message) => message,
        };
        counts.lines = number;
        if let Some(sink) = &mut self.receipts {
            sink.push(number, Entry::Refused(message.clone()));
        }
        match on_bad_line {
            OnBadLine::Fail => {
                let message =
                    format!("line {number}: {message} (or leave such lines out: --on-bad-line skip)");
                ControlFlow::Break(Ended::BadLine(message))
            }
            OnBadLine::Skip => {
                counts.skipped += 1;
                match counts.skipped {
                    n if n < TOLD => console.warn(format_args!("line {number} left out: {message}")),
                    TOLD => console.warn(format_args!(
                        "line {number} left out: {message}; no more will be told, only counted"
                    )),
                    _ => {}
                }
                ControlFlow::Continue(())
            }
        }
    }
}

/// An event that was not accepted: its own fault, or the end.
#[cold]
fn refused(error: &AddError) -> Fate {
    match error {
        AddError::Record(_) => Fate::Bad(about(None, &error.to_string())),
        AddError::Closed => Fate::Stopped,
        other => Fate::Failed(about(None, &other.to_string())),
    }
}

/// Runs an add on this thread; most are ready at once. `None`: the gate was closed while it waited for memory, and
/// nothing was accepted.
#[inline]
fn wait<T>(add: impl Future<Output = T>, waker: &Waker, gate: &Gate) -> Option<T> {
    let mut add = pin!(add);
    let mut cx = Context::from_waker(waker);
    loop {
        match add.as_mut().poll(&mut cx) {
            Poll::Ready(answer) => return Some(answer),
            Poll::Pending if gate.is_closed() => return None,
            // Woken by memory, or by the gate.
            Poll::Pending => thread::park(),
        }
    }
}
