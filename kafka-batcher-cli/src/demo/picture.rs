//! What the demo shows at its end.

use std::fmt;
use std::time::Duration;

use kafka_batcher::Report;

use crate::units::{bytes, grouped, seconds};

/// What became of one part of the demo.
pub(super) struct Act {
    pub(super) report: Report,
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
}

/// Both parts, side by side.
pub(super) struct Picture {
    pub(super) trickle: Act,
    pub(super) flood: Act,
    pub(super) events: usize,
    pub(super) partitions: i32,
}

fn per_event(time: Duration, report: &Report) -> String {
    let micros = time.as_secs_f64() * 1e6 / (report.delivered.max(1) as f64);
    format!("{micros:.1} us")
}

fn reasons(report: &Report) -> String {
    let reasons: Vec<String> =
        report.flush_reasons.iter().map(|(why, n)| format!("{why} {}", grouped(*n))).collect();
    reasons.join(", ")
}

fn fill(report: &Report) -> String {
    format!("{:.1} events", report.delivered as f64 / report.batches.max(1) as f64)
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, partitions) = (grouped(self.events as u64), self.partitions);
        writeln!(
            f,
            "\n{events} flights into a broker inside this process, {partitions} partitions, acks=all, idempotent\n"
        )?;
        writeln!(f, "  {:<22}{:>20}{:>22}", "", "one at a time", "as fast as they come")?;
        let mut row = |name: &str, value: &dyn Fn(&Act) -> String| {
            writeln!(f, "  {name:<22}{:>20}{:>22}", value(&self.trickle), value(&self.flood))
        };
        row("events delivered", &|act| grouped(act.report.delivered))?;
        row("batches", &|act| grouped(act.report.batches))?;
        row("mean fill", &|act| fill(&act.report))?;
        row("bytes", &|act| bytes(act.report.bytes))?;
        row("flushed because of", &|act| reasons(&act.report))?;
        row("latency p50", &|act| seconds(act.report.latency.quantile(0.5)))?;
        row("latency p99", &|act| seconds(act.report.latency.quantile(0.99)))?;
        row("wall per event", &|act| per_event(act.wall, &act.report))?;
        row("CPU per event *", &|act| per_event(act.cpu, &act.report))?;
        write!(
            f,
            "\n  * of the whole process, broker included; latency: from accepted to acknowledged; one at a time: at a\n    \
             thousand a second, so the wall time is the demo's own"
        )
    }
}

/// The good end.
pub(super) fn checked(events: usize, partitions: i32) -> String {
    let events = grouped(events as u64);
    format!(
        "\nread back over the wire and compared: all {events} events there once, with their bytes, in order within \
         each of {partitions} partitions"
    )
}

/// What to type next.
pub(super) fn next_steps() -> &'static str {
    "\nnow with your own Kafka:\n  \
     kafka-batcher produce --brokers 127.0.0.1:9092 --topic flights --key-field origin data/flights.ndjson\n\
     or, without one, in another terminal:\n  \
     kafka-batcher broker --port 9092 --topic flights:6"
}
