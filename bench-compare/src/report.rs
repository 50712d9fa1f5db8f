//! The tables, and the same for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::job::Job;
use crate::line::{Latency, Line};
use crate::roster::{Entry, Language};
use crate::scenario::Scenario;
use crate::stats::Spread;

/// What one client found, with the number of each round.
pub(crate) struct Samples {
    pub(crate) client: Entry,
    pub(crate) lines: Vec<(u32, Line)>,
}

/// A scenario against a target.
pub(crate) struct Measured {
    pub(crate) target: &'static str,
    pub(crate) about: String,
    pub(crate) scenario: Scenario,
    pub(crate) job: Job,
    pub(crate) clients: Vec<Samples>,
}

/// Everything.
pub(crate) struct Report {
    rounds: u32,
    small: bool,
    machine: Machine,
    /// Who or what was not there, and why.
    pub(crate) skipped: Vec<String>,
    /// The runs that do not count, and why.
    pub(crate) failures: Vec<String>,
    pub(crate) measured: Vec<Measured>,
}

/// What it ran on.
struct Machine {
    system: String,
    processor: String,
    cores: usize,
    /// The load before anything was started.
    load: String,
}

impl Machine {
    fn here() -> Machine {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = file("/proc/cpuinfo");
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map(|(_, name)| name);
        Machine {
            system: format!("{} {}", std::env::consts::OS, file("/proc/sys/kernel/osrelease").trim()),
            processor: model.unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load: file("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

impl Samples {
    fn spread(&self, figure: impl Fn(&Line) -> f64) -> Option<Spread> {
        Spread::of(self.lines.iter().map(|(_, line)| figure(line)))
    }

    /// Round by round; a round that one of the two lacks is left out.
    fn ratio(&self, other: &Samples, figure: impl Fn(&Line) -> f64) -> Option<Spread> {
        let pairs = self.lines.iter().filter_map(|(round, line)| {
            let (_, beside) = other.lines.iter().find(|(other, _)| other == round)?;
            Some((figure(line), figure(beside)))
        });
        Spread::of_ratios(pairs)
    }

    /// In milliseconds; none of what sends nothing.
    fn latency(&self, pick: fn(&Latency) -> u64) -> Option<Spread> {
        let lines = self.lines.iter().filter(|_| !self.client.is_pacing());
        Spread::of(
            lines.filter_map(|(_, line)| line.latency.as_ref().map(|latency| pick(latency) as f64 / 1e3)),
        )
    }

    fn cpu(&self) -> Option<Spread> {
        self.spread(|line| line.per_million(line.cpu_s()))
    }
}

impl Measured {
    fn find(&self, name: &str) -> Option<&Samples> {
        self.clients.iter().find(|samples| samples.client.name == name)
    }

    fn baseline(&self) -> Option<&Samples> {
        self.find(Entry::baseline(&self.scenario))
    }

    fn floor(&self) -> Option<&Samples> {
        self.clients.iter().find(|samples| samples.client.is_floor())
    }

    /// What keeping the pace costs in this language: CPU seconds for a million events.
    fn pacing(&self, language: Language) -> Option<f64> {
        let mut pacing = self.clients.iter().filter(|samples| samples.client.is_pacing());
        let pacing = pacing.find(|samples| samples.client.program.language() == language)?;
        pacing.cpu().map(|cpu| cpu.median)
    }

    /// A client's CPU without that of its pacing.
    fn net(&self, samples: &Samples) -> Option<f64> {
        let pacing = self.pacing(samples.client.program.language())?;
        samples.cpu().map(|cpu| cpu.median - pacing)
    }

    fn net_ratio(&self, samples: &Samples) -> Option<f64> {
        let (above, below) = (self.net(samples)?, self.net(self.baseline()?)?);
        // Below what the kernel's clock can tell there is no ratio.
        (above > 0.0 && below > 0.0).then(|| above / below)
    }

    fn markdown(&self, out: &mut String) {
        let Job {
            size, key_size, partitions, count, warm_up, linger, batch_events, batch_bytes, codec, ..
        } = &self.job;
        let _ = writeln!(out, "\n### {}: {}, {}\n", self.scenario.name, self.scenario.about, self.about);
        let _ = writeln!(
            out,
            "{} events of {size} + {key_size} bytes after {} of warm-up, {partitions} partitions, linger {linger:?}, batches of at most \
             {batch_events} events and {batch_bytes} bytes, codec {codec}, acks all. Ratios are to {}.\n",
            grouped(*count),
            grouped(*warm_up),
            Entry::baseline(&self.scenario)
        );
        if self.scenario.paced() { self.paced(out) } else { self.saturated(out) }
    }

    fn saturated(&self, out: &mut String) {
        out.push_str(
            "| client | CPU s per 10^6 (min - max) | user + system | ratio (min - max) | x floor | events/s (min - max) | x wall | peak MiB | \
             switches per 10^6: waited, preempted |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        let (baseline, floor) = (self.baseline(), self.floor());
        let cpu = |line: &Line| line.per_million(line.cpu_s());
        for samples in &self.clients {
            let _ = writeln!(
                out,
                "| {} | {} | {} + {} | {} | {} | {} | {} | {} | {}, {} |",
                samples.client.name,
                spread(samples.cpu(), 3),
                median(samples.spread(|line| line.per_million(line.user_s)), 3),
                median(samples.spread(|line| line.per_million(line.system_s)), 3),
                spread(baseline.and_then(|base| samples.ratio(base, cpu)), 2),
                median(floor.and_then(|floor| samples.ratio(floor, cpu)), 2),
                rate(samples.spread(|line| line.events as f64 / line.wall_s)),
                median(baseline.and_then(|base| samples.ratio(base, |line| line.wall_s)), 2),
                median(samples.spread(|line| line.peak_rss as f64 / 1048576.0), 0),
                median(samples.spread(|line| line.per_million(line.voluntary as f64)), 0),
                median(samples.spread(|line| line.per_million(line.involuntary as f64)), 0),
            );
        }
    }

    fn paced(&self, out: &mut String) {
        out.push_str(
            "| client | CPU s per 10^6 (min - max) | of it pacing | without pacing | ratio of that | p50 ms (min - max) | p99 ms (min - max) | \
             p99.9 ms | max ms | furthest behind ms | peak MiB | switches per 10^6: waited, preempted |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for samples in &self.clients {
            let (pacing, net, ratio) = match samples.client.is_pacing() {
                true => (None, None, None),
                false => (
                    self.pacing(samples.client.program.language()),
                    self.net(samples),
                    self.net_ratio(samples),
                ),
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {} |",
                samples.client.name,
                spread(samples.cpu(), 2),
                number(pacing, 2),
                number(net, 2),
                number(ratio, 2),
                spread(samples.latency(|latency| latency.p50_us), 2),
                spread(samples.latency(|latency| latency.p99_us), 2),
                median(samples.latency(|latency| latency.p999_us), 2),
                median(samples.latency(|latency| latency.max_us), 2),
                median(samples.spread(|line| line.behind_us as f64 / 1e3), 1),
                median(samples.spread(|line| line.peak_rss as f64 / 1048576.0), 0),
                median(samples.spread(|line| line.per_million(line.voluntary as f64)), 0),
                median(samples.spread(|line| line.per_million(line.involuntary as f64)), 0),
            );
        }
    }

    fn json(&self) -> Value {
        let (baseline, floor) = (self.baseline(), self.floor());
        let cpu = |line: &Line| line.per_million(line.cpu_s());
        let clients = self.clients.iter().map(|samples| {
            json!({
                "client": samples.client.name,
                "language": format!("{:?}", samples.client.program.language()),
                "cpu_s_per_million": samples.cpu(),
                "cpu_ratio": baseline.and_then(|base| samples.ratio(base, cpu)),
                "cpu_to_floor": floor.and_then(|floor| samples.ratio(floor, cpu)),
                "cpu_s_per_million_without_pacing": self.net(samples),
                "wall_ratio": baseline.and_then(|base| samples.ratio(base, |line| line.wall_s)),
                "runs": samples.lines.iter().map(|(round, line)| json!({"round": round + 1, "line": line})).collect::<Vec<_>>(),
            })
        });
        json!({
            "target": self.target,
            "about": self.about,
            "scenario": self.scenario.name,
            "job": self.job.words(),
            "baseline": Entry::baseline(&self.scenario),
            "clients": clients.collect::<Vec<_>>(),
        })
    }
}

impl Report {
    pub(crate) fn begin(rounds: u32, small: bool) -> Report {
        let machine = Machine::here();
        Report { rounds, small, machine, skipped: Vec::new(), failures: Vec::new(), measured: Vec::new() }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from("## kafka-batcher beside other clients\n\n");
        let Machine { system, processor, cores, load } = &self.machine;
        let _ = writeln!(
            out,
            "{cores} cores of {processor}, {system}; load before: {load}; rounds: {}.",
            self.rounds
        );
        out.push_str(
            "Clients and brokers share these cores: CPU is each client's own (its process, user and system), while wall and latency hang on \
             everything that ran. Medians over the rounds; ratios are taken within a round, the ratio without pacing from medians.\n",
        );
        if self.small {
            out.push_str(
                "\nA small run: it shows that everything works. Its figures say nothing about cost.\n",
            );
        }
        list(&mut out, "Not there", &self.skipped);
        list(&mut out, "Runs that do not count", &self.failures);
        for measured in &self.measured {
            measured.markdown(&mut out);
        }
        self.settings(&mut out);
        out
    }

    /// Who took part, in which version, with which settings: those of the first scenario that it was in.
    fn settings(&self, out: &mut String) {
        out.push_str("\n### The clients\n\nSettings as in the first table that a client is in; all that is not said is its default.\n\n");
        let mut told = Vec::new();
        for samples in self.measured.iter().flat_map(|measured| &measured.clients) {
            let Some((_, line)) = samples.lines.first().filter(|_| !told.contains(&samples.client.name))
            else {
                continue;
            };
            told.push(samples.client.name);
            let settings: Vec<String> =
                line.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let _ = writeln!(
                out,
                "- **{}**: {}. {}.{}{}",
                samples.client.name,
                samples.client.about,
                line.version,
                if settings.is_empty() { "" } else { " " },
                settings.join(", ")
            );
        }
        out.push_str(PREDECESSOR);
    }

    pub(crate) fn json(&self) -> Value {
        let Machine { system, processor, cores, load } = &self.machine;
        json!({
            "type": "bench-compare",
            "machine": {"system": system, "processor": processor, "cores": cores, "load_before": load},
            "rounds": self.rounds,
            "small": self.small,
            "skipped": self.skipped,
            "failures": self.failures,
            "measured": self.measured.iter().map(Measured::json).collect::<Vec<_>>(),
        })
    }
}

fn list(out: &mut String, title: &str, items: &[String]) {
    if !items.is_empty() {
        let _ = writeln!(out, "\n{title}:\n");
        items.iter().for_each(|item| out.push_str(&format!("- {item}\n")));
    }
}

/// Not run here: it needs Erlang. To be read beside `100B`, `small-batches` and `slow-answers`.
const PREDECESSOR: &str = "\
- **the predecessor** (Elixir's kafka_batcher over brod), not run but as recorded on a like machine, real Kafka, 16 partitions: with its defaults \
(batches of 10) 24 to 37 k events/s for 27 to 38 CPU s per 10^6; tuned (batches of 1 000, lists of 100) 107 to 164 k events/s for 6.4 to 11 CPU s per \
10^6. With 10 partitions and 5 ms for each produce call: 4 838 events/s.\n";

/// What there is none of.
const NONE: &str = "–";

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.digits$}"))
}

fn median(spread: Option<Spread>, digits: usize) -> String {
    number(spread.map(|spread| spread.median), digits)
}

fn spread(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || NONE.to_owned(),
        |Spread { median, min, max }| format!("**{median:.digits$}** ({min:.digits$} - {max:.digits$})"),
    )
}

/// Events a second, in thousands.
fn rate(rate: Option<Spread>) -> String {
    let thousands = |value: f64| format!("{} k", grouped((value / 1e3).round() as u64));
    rate.map_or_else(
        || NONE.to_owned(),
        |Spread { median, min, max }| {
            format!("{} ({} - {})", thousands(median), thousands(min), thousands(max))
        },
    )
}

/// With a space at every third digit.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::tests::line;

    fn samples(name: &str, cpu: &[f64]) -> Samples {
        let lines = cpu.iter().map(|cpu| Line { user_s: *cpu, system_s: 0.0, ..line() });
        Samples { client: Entry::find(name).unwrap(), lines: (0..).zip(lines).collect() }
    }

    fn report(scenario: &str, clients: Vec<Samples>) -> Report {
        let scenario = Scenario::find(scenario).unwrap();
        let measured =
            Measured { target: "sink", about: String::new(), scenario, job: scenario.job(true), clients };
        Report { measured: vec![measured], ..Report::begin(3, false) }
    }

    fn row<'a>(markdown: &'a str, name: &str) -> Vec<&'a str> {
        let start = format!("| {name} |");
        let row = markdown.lines().find(|line| line.starts_with(&start)).unwrap();
        row.split('|').map(str::trim).collect()
    }

    #[test]
    fn a_ratio_is_taken_within_a_round_and_the_floor_is_beside_it() {
        let clients = vec![
            samples("ours-add-event", &[1.0, 2.0, 4.0]),
            samples("rdkafka-threaded", &[10.0, 20.0, 40.0]),
            samples("floor", &[0.5, 1.0, 2.0]),
        ];
        let report = report("100B", clients);
        let markdown = report.markdown();
        let row = row(&markdown, "rdkafka-threaded");
        // 100 events a line.
        assert_eq!(row[2], "**200000.000** (100000.000 - 400000.000)");
        assert_eq!((row[4], row[5]), ("**10.00** (10.00 - 10.00)", "20.00"));
        let client = &report.json()["measured"][0]["clients"][1];
        assert_eq!(
            (&client["cpu_ratio"]["median"], &client["cpu_to_floor"]["median"]),
            (&json!(10.0), &json!(20.0))
        );
    }

    #[test]
    fn the_pacing_of_a_language_is_taken_off_the_clients_of_that_language_and_both_are_shown() {
        let clients = vec![
            samples("ours-send", &[3e-4]),
            samples("franz-go", &[9e-4]),
            samples("pacing-rust", &[1e-4]),
            samples("pacing-go", &[3e-4]),
        ];
        let markdown = report("10k-5ms", clients).markdown();
        let row = row(&markdown, "franz-go");
        assert_eq!((row[2], row[3], row[4], row[5]), ("**9.00** (9.00 - 9.00)", "3.00", "6.00", "3.00"));
    }

    #[test]
    fn what_failed_and_who_was_not_there_is_said_first() {
        let mut report = report("100B", vec![samples("ours-add-event", &[1.0])]);
        report.skipped.push("the client in Go: go is not installed".to_owned());
        report.failures.push("sink 100B rskafka round 1: 3 events failed".to_owned());
        let markdown = report.markdown();
        let failed = markdown.find("3 events failed").unwrap();
        assert!(markdown.find("go is not installed").unwrap() < failed);
        assert!(failed < markdown.find("| client |").unwrap());
        // Nobody to compare with: no ratio, and no zero in its place.
        assert_eq!(row(&markdown, "ours-add-event")[5], NONE);
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!(
            (grouped(5), grouped(1000), grouped(1_234_567)),
            ("5".into(), "1 000".into(), "1 234 567".into())
        );
    }
}
