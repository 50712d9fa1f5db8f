//! The one line of JSON in which a client's process says what it found, and whether it may be believed.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::job::Job;
use crate::load::Load;

/// From acceptance to acknowledgement, in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Latency {
    /// Events that are in it.
    pub(crate) events: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

/// What one process found. All but `peak_rss` (of its whole life) is of the measured part alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// The library and its version.
    pub(crate) version: String,
    /// The digest of what it sent: see `Load::digest`.
    pub(crate) load: String,
    /// Events that were given to the client, and those that it says are acknowledged.
    pub(crate) events: u64,
    pub(crate) acknowledged: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) wall_s: f64,
    pub(crate) user_s: f64,
    pub(crate) system_s: f64,
    /// Bytes.
    pub(crate) peak_rss: u64,
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
    /// The furthest that the load was behind its rate.
    pub(crate) behind_us: u64,
    /// None: no rate, or the client tells no outcomes event by event.
    pub(crate) latency: Option<Latency>,
    /// As given to the library, by its own names.
    pub(crate) settings: BTreeMap<String, String>,
}

impl Line {
    /// Reads what a process wrote, and holds it against its order: every event acknowledged, none failed.
    ///
    /// # Errors
    /// It is no such line, or the run does not count.
    pub(crate) fn parse(text: &str, job: &Job) -> anyhow::Result<Line> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let line = lines.next().context("the client wrote nothing; its words above say why")?;
        ensure!(lines.next().is_none(), "the client wrote more than its one line");
        let line: Line = serde_json::from_str(line).with_context(|| {
            format!("the client's line cannot be read: {}", line.chars().take(200).collect::<String>())
        })?;
        ensure!(line.load == Load::new(job).digest(), "the client made other events than the rest");
        let why = line.first_error.as_deref().unwrap_or("no reason was given");
        ensure!(line.errors == 0, "{} events failed: {why}", line.errors);
        let (asked, sent) = (job.count, line.events);
        ensure!(sent == asked, "{sent} events were sent, {asked} were asked for");
        ensure!(line.acknowledged == sent, "{} of {sent} events were acknowledged", line.acknowledged);
        if let Some(latency) = &line.latency {
            ensure!(latency.events == sent, "{} of {sent} events have a latency", latency.events);
        }
        ensure!(line.wall_s > 0.0 && line.user_s + line.system_s >= 0.0, "the clock did not move");
        Ok(line)
    }

    pub(crate) fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }

    /// For a million events.
    pub(crate) fn per_million(&self, what: f64) -> f64 {
        what * 1e6 / (self.events.max(1) as f64)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scenario::SCENARIOS;

    pub(crate) fn line() -> Line {
        Line {
            version: "a client 1.0".to_owned(),
            load: Load::new(&job()).digest(),
            events: 100,
            acknowledged: 100,
            errors: 0,
            first_error: None,
            wall_s: 0.5,
            user_s: 0.25,
            system_s: 0.05,
            peak_rss: 1 << 20,
            voluntary: 3,
            involuntary: 1,
            behind_us: 0,
            latency: None,
            settings: BTreeMap::new(),
        }
    }

    fn job() -> Job {
        Job { count: 100, ..SCENARIOS[0].job(true) }
    }

    fn refused(line: &Line) -> String {
        Line::parse(&serde_json::to_string(line).unwrap(), &job()).unwrap_err().to_string()
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let line = line();
        assert_eq!(Line::parse(&serde_json::to_string(&line).unwrap(), &job()).unwrap(), line);
    }

    #[test]
    fn a_run_with_an_error_or_without_an_acknowledgement_does_not_count() {
        let failed = Line { errors: 2, first_error: Some("timed out".to_owned()), ..line() };
        assert_eq!(refused(&failed), "2 events failed: timed out");
        assert_eq!(refused(&Line { acknowledged: 99, ..line() }), "99 of 100 events were acknowledged");
        assert_eq!(
            refused(&Line { events: 99, acknowledged: 99, ..line() }),
            "99 events were sent, 100 were asked for"
        );
        assert_eq!(
            refused(&Line { load: "0".to_owned(), ..line() }),
            "the client made other events than the rest"
        );
        let some = Latency { events: 98, p50_us: 1, p99_us: 1, p999_us: 1, max_us: 1 };
        assert_eq!(refused(&Line { latency: Some(some), ..line() }), "98 of 100 events have a latency");
    }

    #[test]
    fn what_is_no_line_is_refused() {
        assert!(Line::parse("\n", &job()).is_err() && Line::parse("{}", &job()).is_err());
        let twice = format!("{0}\n{0}\n", serde_json::to_string(&line()).unwrap());
        assert!(Line::parse(&twice, &job()).is_err());
    }
}
