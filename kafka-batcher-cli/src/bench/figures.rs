//! What a benchmark found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kafka_batcher::{Latency, Report};
use serde_json::{Value, json};

use crate::units::{bytes, counted, grouped, seconds};

/// The state before and after what was measured, and what was used meanwhile.
pub(super) struct Figures {
    pub(super) size: usize,
    pub(super) key_size: usize,
    pub(super) partitions: i32,
    pub(super) threads: u16,
    pub(super) acks: i16,
    pub(super) receipts: bool,
    /// Its mode; none: no spool.
    pub(super) spool: Option<&'static str>,
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
    pub(super) peak_rss: u64,
    /// Receipts that did not end with a delivery.
    pub(super) failed: u64,
    /// Accepted over the whole run, and not delivered.
    pub(super) undelivered: u64,
    pub(super) before: Report,
    pub(super) after: Report,
}

impl Figures {
    pub(super) fn all_delivered(&self) -> bool {
        self.failed == 0 && self.undelivered == 0
    }

    fn events(&self) -> u64 {
        self.after.delivered - self.before.delivered
    }

    fn batches(&self) -> u64 {
        self.after.batches - self.before.batches
    }

    fn bytes(&self) -> u64 {
        self.after.bytes - self.before.bytes
    }

    fn latency(&self) -> Latency {
        self.after.latency.since(&self.before.latency)
    }

    fn reasons(&self) -> BTreeMap<&'static str, u64> {
        let before = |why| self.before.flush_reasons.get(why).copied().unwrap_or(0);
        self.after
            .flush_reasons
            .iter()
            .map(|(why, n)| (*why, n - before(*why)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    /// CPU seconds of this process for a million events.
    fn cpu_per_million(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / (self.events().max(1) as f64)
    }

    fn per_second(&self, what: u64) -> f64 {
        what as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    fn fill(&self) -> f64 {
        self.events() as f64 / (self.batches().max(1) as f64)
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let latency = self.latency();
        let quantile = |share| latency.quantile(share).as_secs_f64();
        json!({
            "type": "bench",
            "size": self.size,
            "key_size": self.key_size,
            "partitions": self.partitions,
            "threads": self.threads,
            "acks": self.acks,
            "receipts": self.receipts,
            "spool": self.spool,
            "events": self.events(),
            "undelivered": self.undelivered,
            "failed_receipts": self.failed,
            "cpu_seconds": self.cpu.as_secs_f64(),
            "cpu_seconds_per_million": self.cpu_per_million(),
            "wall_seconds": self.wall.as_secs_f64(),
            "events_per_second": self.per_second(self.events()),
            "batches": self.batches(),
            "events_per_batch": self.fill(),
            "bytes": self.bytes(),
            "flush_reasons": self.reasons(),
            "latency_seconds": { "p50": quantile(0.5), "p99": quantile(0.99), "p999": quantile(0.999) },
            "peak_rss_bytes": self.peak_rss,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latency = self.latency();
        let acks = if self.acks == -1 { "all".to_owned() } else { self.acks.to_string() };
        writeln!(
            f,
            "{} of {} B (keys of {} B), {}, acks {acks}, {}{}{}",
            counted(self.events(), "event", "events"),
            self.size,
            self.key_size,
            counted(u64::try_from(self.partitions).unwrap_or(0), "partition", "partitions"),
            counted(u64::from(self.threads), "thread", "threads"),
            if self.receipts { ", receipts" } else { "" },
            self.spool.map(|mode| format!(", spool {mode}")).unwrap_or_default()
        )?;
        writeln!(
            f,
            "  CPU      {:.3} s per million events ({} in all)",
            self.cpu_per_million(),
            seconds(self.cpu)
        )?;
        writeln!(
            f,
            "  wall     {}, {} events/s, {}/s",
            seconds(self.wall),
            grouped(self.per_second(self.events()) as u64),
            bytes(self.per_second(self.bytes()) as u64)
        )?;
        let reasons: Vec<String> =
            self.reasons().iter().map(|(why, n)| format!("{why} {}", grouped(*n))).collect();
        writeln!(
            f,
            "  batches  {} of {:.0} events each; sent because of: {}",
            grouped(self.batches()),
            self.fill(),
            reasons.join(", ")
        )?;
        writeln!(
            f,
            "  latency  p50 {}, p99 {}, p99.9 {} (from accepted to acknowledged)",
            seconds(latency.quantile(0.5)),
            seconds(latency.quantile(0.99)),
            seconds(latency.quantile(0.999))
        )?;
        write!(f, "  memory   {} at most", bytes(self.peak_rss))?;
        if !self.all_delivered() {
            write!(f, "\n  NOT DELIVERED: {} events, {} receipts failed", self.undelivered, self.failed)?;
        }
        Ok(())
    }
}
