//! What became of every line: for people, and for programs.

use std::collections::BTreeMap;
use std::time::Instant;

use kafka_batcher::Report;
use serde::Serialize;

use crate::exit;
use crate::produce::gate::Counts;
use crate::produce::plan::Plan;
use crate::produce::{Why, code};
use crate::signals::Signal;
use crate::units::{bytes, counted, grouped, seconds};
use crate::usage::Usage;

/// The report of the library, with what only the command knows.
pub(super) struct Summary {
    report: Report,
    counts: Counts,
    topic: String,
    /// Sends what is left in the spool.
    replay: Option<String>,
    spool_dir: Option<String>,
    /// Whether the input can be read once more, by mistake.
    from_file: bool,
    /// The option that says where keys come from, with its value.
    key_option: Option<String>,
    ended: &'static str,
    reading: Reading,
    code: u8,
    wall: std::time::Duration,
    cpu: std::time::Duration,
}

/// How reading ended, as far as it matters for what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    StoppedAtBadLine,
    Other,
}

impl Summary {
    pub(super) fn new(
        mut report: Report,
        counts: &Counts,
        plan: &Plan<'_>,
        why: &Why,
        began: Instant,
    ) -> Summary {
        // What the command found too long the library was never shown; refused is refused.
        report.refused += counts.too_long;
        Summary {
            code: code(&report, counts, why),
            report,
            counts: *counts,
            topic: plan.topic.clone(),
            replay: plan.replay_command(),
            spool_dir: plan.spool_dir().map(|dir| dir.display().to_string()),
            from_file: plan.args.file.as_ref().is_some_and(|path| path.as_os_str() != "-"),
            key_option: plan.args.key_option(),
            ended: why.word(),
            reading: match why {
                Why::BadLine(_) => Reading::StoppedAtBadLine,
                _ => Reading::Other,
            },
            wall: began.elapsed(),
            cpu: Usage::now().cpu,
        }
    }

    /// The second signal decides about the exit code.
    pub(super) fn stopped_at_once(&mut self, signal: Signal) {
        self.code = signal.exit_code();
    }

    /// Something of what should be said could not be written.
    pub(super) fn unwritten(&mut self) {
        if self.code == exit::OK {
            self.code = exit::NOT_ALL;
        }
    }

    /// How many of what was accepted are in Kafka.
    pub(super) fn delivered(&self) -> String {
        let (delivered, accepted) = (self.report.delivered, self.report.accepted + self.report.recovered);
        let be = if delivered == 1 { "is" } else { "are" };
        format!("{} of {} {be} delivered", grouped(delivered), counted(accepted, "event", "events"))
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.code
    }

    /// Accepted, and not in Kafka as far as is known.
    pub(super) fn undelivered(&self) -> String {
        let report = &self.report;
        let waiting = report.in_memory + report.in_flight;
        let missing = report.lost + report.in_doubt + report.dead_lettered + waiting;
        let mut text = format!(
            "{} of {} {} not delivered",
            grouped(missing),
            counted(report.accepted + report.recovered, "accepted event", "accepted events"),
            if missing == 1 { "was" } else { "were" },
        );
        let parts = [
            (report.lost, "lost"),
            (report.in_doubt, "perhaps in Kafka, nobody can know"),
            (report.dead_lettered, "refused by the broker and put aside"),
            (report.in_memory, "left in memory"),
            (report.in_flight, "on their way"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", grouped(*n))).collect();
        if !parts.is_empty() {
            text += &format!(" ({})", parts.join(", "));
        }
        text
    }

    /// What is not as it should be, in one line; empty if nothing.
    pub(super) fn problems(&self) -> String {
        let mut parts = Vec::new();
        let report = &self.report;
        if report.delivered + report.spooled != report.accepted + report.recovered {
            parts.push(self.undelivered());
        }
        if self.counts.skipped > 0 {
            parts.push(format!("left out: {}", counted(self.counts.skipped, "line", "lines")));
        }
        if self.report.reorderings > 0 {
            parts.push(format!(
                "{} times a younger batch was written first",
                grouped(self.report.reorderings)
            ));
        }
        parts.join("; ")
    }

    /// What looks like a typing error: keys were asked for, and no line had one.
    pub(super) fn warning(&self) -> Option<String> {
        let accepted = self.report.accepted;
        let option =
            self.key_option.as_ref().filter(|_| accepted > 0 && self.counts.without_key == accepted)?;
        Some(format!("not one line had a key: {option} was in none of them, so all went without keys"))
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let report = &self.report;
        if self.counts.lines == 0 && self.ended != "end of input" {
            return vec!["nothing was read, so nothing was sent".to_owned()];
        }
        let rate = (report.delivered as f64 / self.wall.as_secs_f64().max(1e-9)) as u64;
        let first = if self.reading == Reading::StoppedAtBadLine {
            format!(
                "stopped at line {}: {} delivered, the rest was not read (topic {:?}, {}, CPU {})",
                self.counts.lines,
                counted(report.delivered, "line", "lines"),
                self.topic,
                seconds(self.wall),
                seconds(self.cpu),
            )
        } else {
            // What an earlier run left is no line of this one.
            let what = match report.recovered {
                0 => format!(
                    "{} of {}",
                    grouped(report.delivered),
                    counted(self.counts.lines, "line", "lines")
                ),
                found => format!(
                    "{} of {} and {} of an earlier run",
                    grouped(report.delivered),
                    counted(self.counts.lines, "line", "lines"),
                    counted(found, "event", "events"),
                ),
            };
            format!(
                "{what} delivered to {:?} in {} ({}/s), CPU {}",
                self.topic,
                seconds(self.wall),
                grouped(rate),
                seconds(self.cpu),
            )
        };
        let mut lines = vec![first];
        if let Some(fill) = report.delivered.checked_div(report.batches) {
            let reasons: Vec<String> =
                report.flush_reasons.iter().map(|(why, n)| format!("{why} {}", grouped(*n))).collect();
            let because = match reasons.as_slice() {
                [] => String::new(),
                reasons => format!("; sealed because of: {}", reasons.join(", ")),
            };
            lines.push(format!(
                "{} of {} on average, {}{because}",
                counted(report.batches, "batch", "batches"),
                counted(fill, "event", "events"),
                bytes(report.bytes),
            ));
            let (half, most) = (report.latency.quantile(0.5), report.latency.quantile(0.99));
            if !most.is_zero() {
                lines.push(format!(
                    "from accepted to acknowledged: p50 {}, p99 {}",
                    seconds(half),
                    seconds(most)
                ));
            }
        }
        if let Some(option) = self.key_option.as_ref().filter(|_| self.counts.without_key > 0) {
            lines.push(format!(
                "{} sent without a key ({option} was not in them)",
                counted(self.counts.without_key, "line", "lines")
            ));
        }
        if let Some(replay) = self.replay.as_ref().filter(|_| report.spooled > 0) {
            let left = counted(report.spooled, "event is", "events are");
            lines.push(format!(
                "{left} safe in the spool and not delivered yet: {replay} sends what is there"
            ));
            if self.from_file {
                lines.push("do not send the same file again: its lines would be in Kafka twice".to_owned());
            }
        }
        if let Some(dir) = self.spool_dir.as_ref().filter(|_| report.dead_lettered > 0) {
            let put_aside = counted(report.dead_lettered, "event was", "events were");
            lines.push(format!("{put_aside} put aside: kafka-batcher spool dead-letters {dir} says why"));
        }
        if report.possible_duplicates > 0 {
            lines.push(format!("{} may be in Kafka twice", grouped(report.possible_duplicates)));
        }
        lines
    }

    /// For programs: one object, `type` first.
    pub(super) fn json(&self) -> String {
        let report = &self.report;
        let quantile = |share| report.latency.quantile(share).as_secs_f64();
        let object = Object {
            r#type: "summary",
            topic: &self.topic,
            ended: self.ended,
            exit_code: self.code,
            lines: self.counts.lines,
            accepted: report.accepted,
            recovered: report.recovered,
            delivered: report.delivered,
            in_memory: report.in_memory,
            in_flight: report.in_flight,
            spooled: report.spooled,
            dead_lettered: report.dead_lettered,
            in_doubt: report.in_doubt,
            lost: report.lost,
            refused: report.refused,
            skipped: self.counts.skipped,
            without_key: self.counts.without_key,
            possible_duplicates: report.possible_duplicates,
            reorderings: report.reorderings,
            batches: report.batches,
            bytes: report.bytes,
            flush_reasons: &report.flush_reasons,
            latency_seconds: Quantiles { p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999) },
            wall_seconds: self.wall.as_secs_f64(),
            cpu_seconds: self.cpu.as_secs_f64(),
        };
        // Names and numbers: nothing in it can fail to be JSON.
        serde_json::to_string(&object).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Object<'a> {
    r#type: &'static str,
    topic: &'a str,
    /// `end of input`, the signal, `timeout` or `failed`.
    ended: &'static str,
    exit_code: u8,
    /// Read, and accepted, left out, or the one that ended it.
    lines: u64,
    accepted: u64,
    recovered: u64,
    delivered: u64,
    in_memory: u64,
    in_flight: u64,
    spooled: u64,
    dead_lettered: u64,
    in_doubt: u64,
    lost: u64,
    refused: u64,
    skipped: u64,
    /// Accepted without a key; all of them where none was asked for.
    without_key: u64,
    possible_duplicates: u64,
    reorderings: u64,
    batches: u64,
    bytes: u64,
    flush_reasons: &'a BTreeMap<&'static str, u64>,
    latency_seconds: Quantiles,
    wall_seconds: f64,
    cpu_seconds: f64,
}

#[derive(Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    p999: f64,
}
