//! The accounting: one struct is the shutdown report, the summary of the command and, later, the metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use kafka_batcher_core::{FlushReason, Sealed, Tally};

/// What became of every event. At any time
/// `accepted + recovered = delivered + in_memory + in_flight + spooled + dead_lettered + in_doubt + lost`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Taken from callers: in memory, in order, to be delivered or accounted for.
    pub accepted: u64,
    /// Found in the spool at start, or found missing there; and dead letters of earlier processes that had to go for later ones,
    /// which are lost.
    pub recovered: u64,
    /// In Kafka.
    pub delivered: u64,
    /// Waiting in memory.
    pub in_memory: u64,
    /// On their way to a broker.
    pub in_flight: u64,
    /// On disk.
    pub spooled: u64,
    /// Refused by the broker for good and kept aside.
    pub dead_lettered: u64,
    /// Perhaps in Kafka: nobody can know, and they are not on disk.
    pub in_doubt: u64,
    /// Not in Kafka, and not kept anywhere. Where damage at the start of the spool does not tell how many events it cost, as
    /// many as it can have been.
    pub lost: u64,
    /// Never accepted: too large, Full, closed, a failing partitioner or encoder. Outside of the equation.
    pub refused: u64,
    /// Bytes of memory that hold what was read back from the spool and is on its way: besides the bound `memory`, at most a
    /// quarter of it and 16 MiB for each topic, and one batch.
    pub replay_bytes: u64,
    /// Sent again under circumstances in which the first attempt may lie in the log, too.
    pub possible_duplicates: u64,
    /// Times a younger batch was written before an older one.
    pub reorderings: u64,
    /// Batches delivered.
    pub batches: u64,
    /// Their encoded bytes.
    pub bytes: u64,
    /// Batches sealed, by reason.
    pub flush_reasons: BTreeMap<&'static str, u64>,
    /// From acceptance of a batch's oldest event to its acknowledgement, in microseconds, weighted by events.
    pub latency: Latency,
}

impl Report {
    /// True if every event that was accepted is in Kafka.
    pub fn all_delivered(&self) -> bool {
        self.delivered == self.accepted + self.recovered
    }

    /// True if the equation holds.
    pub fn balances(&self) -> bool {
        self.accepted + self.recovered
            == self.delivered
                + self.in_memory
                + self.in_flight
                + self.spooled
                + self.dead_lettered
                + self.in_doubt
                + self.lost
    }

    /// Events that came in, and of which nothing is known.
    pub(crate) fn missing(&self) -> u64 {
        let known = self.delivered
            + self.in_memory
            + self.in_flight
            + self.spooled
            + self.dead_lettered
            + self.in_doubt
            + self.lost;
        (self.accepted + self.recovered).saturating_sub(known)
    }

    pub(crate) fn add(&mut self, other: &Report) {
        self.accepted += other.accepted;
        self.recovered += other.recovered;
        self.delivered += other.delivered;
        self.in_memory += other.in_memory;
        self.in_flight += other.in_flight;
        self.spooled += other.spooled;
        self.dead_lettered += other.dead_lettered;
        self.in_doubt += other.in_doubt;
        self.lost += other.lost;
        self.refused += other.refused;
        self.replay_bytes += other.replay_bytes;
        self.possible_duplicates += other.possible_duplicates;
        self.reorderings += other.reorderings;
        self.batches += other.batches;
        self.bytes += other.bytes;
        for (reason, count) in &other.flush_reasons {
            *self.flush_reasons.entry(reason).or_default() += count;
        }
        self.latency.add(&other.latency);
    }

    pub(crate) fn add_tally(&mut self, tally: &Tally) {
        self.recovered += tally.recovered;
        self.spooled += tally.spooled;
        self.dead_lettered += tally.dead_lettered;
        self.delivered += tally.delivered;
        self.in_memory += tally.in_memory;
        self.in_flight += tally.in_flight;
        self.in_doubt += tally.in_doubt;
        self.lost += tally.lost;
        self.possible_duplicates += tally.possible_duplicates;
        self.reorderings += tally.reorderings;
    }

    pub(crate) fn sealed(&mut self, sealed: &Sealed) {
        let reason: FlushReason = sealed.reason;
        *self.flush_reasons.entry(reason.as_str()).or_default() += 1;
    }
}

/// A distribution of latencies.
#[derive(Clone, PartialEq)]
pub struct Latency {
    /// Microseconds, two significant digits, up to an hour.
    histogram: Option<Histogram<u64>>,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { histogram: Histogram::new_with_bounds(1, 3_600_000_000, 2).ok() }
    }
}

impl Latency {
    pub(crate) fn record(&mut self, latency: Duration, events: u64) {
        if let Some(histogram) = &mut self.histogram {
            let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            histogram.saturating_record_n(us.max(1), events);
        }
    }

    /// No distribution: it takes no room and holds nothing.
    pub(crate) fn none() -> Self {
        Latency { histogram: None }
    }

    fn add(&mut self, other: &Latency) {
        if let (Some(mine), Some(theirs)) = (&mut self.histogram, &other.histogram) {
            // The bounds are the same, so nothing can be out of range.
            let _ = mine.add(theirs);
        }
    }

    /// What came after `earlier`, which must be an earlier state of the same distribution: to leave out a warm-up.
    #[must_use]
    pub fn since(&self, earlier: &Latency) -> Latency {
        let mut rest = self.clone();
        if let (Some(mine), Some(theirs)) = (&mut rest.histogram, &earlier.histogram) {
            // Of another distribution it would be more than there is, and changes nothing.
            let _ = mine.subtract(theirs);
        }
        rest
    }

    /// The latency that this share of the events (0.0 to 1.0) did not exceed; zero if there were none.
    pub fn quantile(&self, share: f64) -> Duration {
        let us =
            self.histogram.as_ref().map_or(0, |h| if h.is_empty() { 0 } else { h.value_at_quantile(share) });
        Duration::from_micros(us)
    }
}

impl fmt::Debug for Latency {
    /// The quantiles, not the thousands of counters behind them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        f.debug_struct("Latency").field("p50", &p50).field("p99", &p99).finish_non_exhaustive()
    }
}

impl fmt::Display for Report {
    /// One line for people: what was delivered, and everything that was not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.accepted + self.recovered;
        write!(f, "{} of {all} events delivered in {} batches", self.delivered, self.batches)?;
        let rest = [
            (self.in_memory, "in memory"),
            (self.in_flight, "in flight"),
            (self.spooled, "in the spool"),
            (self.dead_lettered, "dead letters"),
            (self.in_doubt, "in doubt"),
            (self.lost, "lost"),
            (self.refused, "refused and never accepted"),
            (self.possible_duplicates, "possibly written twice"),
        ];
        rest.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, what)| write!(f, ", {n} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_for_people_and_hides_no_loss() {
        let report = Report { accepted: 5, delivered: 3, batches: 2, lost: 2, ..Report::default() };
        assert_eq!(report.to_string(), "3 of 5 events delivered in 2 batches, 2 lost");
        assert!(format!("{report:?}").len() < 800);
    }

    #[test]
    fn the_parts_add_up_over_topics() {
        let mut sum = Report::default();
        let mut part = Report { accepted: 5, delivered: 3, lost: 1, in_doubt: 1, ..Report::default() };
        part.flush_reasons.insert("count", 2);
        part.latency.record(Duration::from_millis(3), 3);
        sum.add(&part);
        sum.add(&part);
        assert!(sum.balances() && !sum.all_delivered());
        assert_eq!(sum.flush_reasons["count"], 4);
        assert!(sum.latency.quantile(0.5) >= Duration::from_millis(2));
        assert_eq!(Latency::default().quantile(0.99), Duration::ZERO);
    }
}
