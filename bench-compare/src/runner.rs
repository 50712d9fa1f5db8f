//! Runs everybody in turns: round by round, all clients in each, the order moved on by one each time, so that what the machine does
//! meanwhile meets all alike.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::child;
use crate::foreign::Foreign;
use crate::job::Job;
use crate::line::Line;
use crate::report::{Measured, Report, Samples};
use crate::roster::{Entry, Language, ROSTER};
use crate::scenario::{SCENARIOS, Scenario};
use crate::target::Target;

/// What to run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Targets {
    /// The embedded broker in discard mode, as a process of its own
    Sink,
    /// A real Apache Kafka
    Kafka,
    Both,
}

/// Measure all clients in turns, and print medians, spread and ratios.
///
/// Each client is a process of its own. What it says is checked: every event acknowledged, none failed, and as many in the topic as
/// were sent. Exit code 1 if any run does not count.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where events go
    #[arg(long, value_enum, default_value = "both")]
    pub(crate) target: Targets,

    /// Rounds; in each every client runs once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// A scenario (`bench-compare list` shows them); may be repeated
    #[arg(long, value_name = "NAME", value_parser = Scenario::find)]
    scenario: Vec<Scenario>,

    /// A client; may be repeated
    #[arg(long, value_name = "NAME", value_parser = Entry::find)]
    client: Vec<Entry>,

    /// Few events, one round, two scenarios: whether it works, not what it costs
    #[arg(long)]
    small: bool,

    /// A Kafka that runs already, instead of one that dev/kafka starts
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,

    /// Write the tables here, too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Write every figure of every run here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs, prints, and answers whether every run counts.
///
/// # Errors
/// Nothing could be run, or the result could not be written.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    let scenarios: Vec<Scenario> = match (args.scenario.as_slice(), args.small) {
        ([], true) => SCENARIOS.iter().filter(|scenario| scenario.in_small).copied().collect(),
        ([], false) => SCENARIOS.to_vec(),
        (named, _) => named.to_vec(),
    };
    let clients: Vec<Entry> = if args.client.is_empty() { ROSTER.to_vec() } else { args.client.clone() };
    let rounds = args.rounds.unwrap_or(if args.small { 1 } else { 3 });
    // What is small is to say in seconds whether the clients in this binary work.
    let foreign_too = !args.small || !args.client.is_empty();
    let wanted = |language| foreign_too && clients.iter().any(|client| client.program.language() == language);
    let foreign = Foreign::build(wanted(Language::Go), wanted(Language::Java));
    let mut report = Report::begin(rounds, args.small);
    for (language, why) in foreign.missing() {
        report.skipped.push(format!("the client in {language:?}: {why}"));
    }
    // One after another: a Kafka that waits for its turn would take CPU from the other's.
    for wanted in [Targets::Sink, Targets::Kafka] {
        if args.target != Targets::Both && args.target != wanted {
            continue;
        }
        let Some(target) = start(wanted, args, &mut report)? else { continue };
        for scenario in &scenarios {
            let taking_part = clients.iter().filter(|client| client.takes_part(scenario, target.is_sink()));
            let taking_part: Vec<Entry> = taking_part.copied().collect();
            let slow = match (scenario.answers_after, target.is_sink()) {
                (Duration::ZERO, _) => None,
                (late, true) => Some(Target::sink(late)?),
                (_, false) => {
                    report
                        .skipped
                        .push(format!("{} against a real Kafka: only the sink can be slow", scenario.name));
                    continue;
                }
            };
            let target = slow.as_ref().unwrap_or(&target);
            let measured =
                measure(target, scenario, &taking_part, &foreign, args, rounds, &mut report.failures)?;
            report.measured.push(measured);
        }
    }
    ensure!(
        report.measured.iter().any(|measured| measured.clients.iter().any(|client| !client.lines.is_empty())),
        "nothing was measured: {}",
        [report.failures.as_slice(), &report.skipped].concat().join("; ")
    );
    let markdown = report.markdown();
    print!("{markdown}");
    let write = |path: &Option<PathBuf>, text: &str| match path {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))
        }
        None => Ok(()),
    };
    write(&args.markdown, &markdown)?;
    write(&args.json, &serde_json::to_string_pretty(&report.json())?)?;
    Ok(report.failures.is_empty())
}

/// None: there is no Kafka to be had, nobody insists on one, and the report says why.
fn start(wanted: Targets, args: &Args, report: &mut Report) -> anyhow::Result<Option<Target>> {
    if wanted == Targets::Sink {
        return Target::sink(Duration::ZERO).map(Some);
    }
    match Target::kafka(args.brokers.as_deref())? {
        Ok(kafka) => Ok(Some(kafka)),
        Err(reason) if args.target == Targets::Kafka => bail!("{reason}"),
        Err(reason) => {
            report.skipped.push(format!("the real Kafka: {reason}"));
            Ok(None)
        }
    }
}

fn measure(
    target: &Target,
    scenario: &Scenario,
    clients: &[Entry],
    foreign: &Foreign,
    args: &Args,
    rounds: u32,
    failures: &mut Vec<String>,
) -> anyhow::Result<Measured> {
    let mut samples: Vec<Samples> =
        clients.iter().map(|client| Samples { client: *client, lines: Vec::new() }).collect();
    for round in 0..rounds {
        for turn in 0..clients.len() {
            let at = (turn + round as usize) % clients.len();
            let Some(command) = foreign.command(clients[at].name, clients[at].program)? else { continue };
            let name = clients[at].name;
            match once(target, scenario, &clients[at], command, args.small, round) {
                Ok(line) => {
                    eprintln!(
                        "{} {} {name} round {}: {:.3} CPU s, {:.2} s",
                        target.name,
                        scenario.name,
                        round + 1,
                        line.cpu_s(),
                        line.wall_s
                    );
                    samples[at].lines.push((round, line));
                }
                Err(error) => {
                    let failure =
                        format!("{} {} {name} round {}: {error:#}", target.name, scenario.name, round + 1);
                    eprintln!("{failure}");
                    failures.push(failure);
                }
            }
        }
    }
    samples.retain(|samples| !samples.lines.is_empty());
    Ok(Measured {
        target: target.name,
        about: target.about.clone(),
        scenario: *scenario,
        job: scenario.job(args.small),
        clients: samples,
    })
}

/// One client, once: a topic of its own, its process, its line, and the count of what lies in the topic.
fn once(
    target: &Target,
    scenario: &Scenario,
    client: &Entry,
    mut command: std::process::Command,
    small: bool,
    round: u32,
) -> anyhow::Result<Line> {
    // Beside this program: where programs are built is a real disk, and /tmp may be memory.
    let exe = std::env::current_exe().context("this program does not find itself")?;
    let dir = tempfile::tempdir_in(exe.parent().context("this program lies nowhere")?)?;
    let mut job = Job { dir: dir.path().to_owned(), ..scenario.job(small) };
    job.topic = format!("{}.{}.{round}.{}", scenario.name, client.name, std::process::id());
    job.brokers = target.bootstrap().to_owned();
    if client.is_floor() {
        target.drain().context("the floor has nowhere to write to")?.clone_into(&mut job.brokers);
    }
    command.args(job.words());
    let sends = !client.is_floor() && !client.is_pacing();
    if sends {
        target.create(&job.topic, job.partitions)?;
    }
    let found =
        child::output(command, patience(&job)).and_then(|text| Line::parse(&text, &job)).and_then(|line| {
            if sends {
                let arrived = target.count(&job.topic, job.partitions)?;
                let sent = job.warm_up + job.count;
                ensure!(arrived == sent, "{arrived} events lie in the topic, {sent} were sent");
            }
            Ok(line)
        });
    if sends {
        // Also after a failure; which of the two is told is then the first.
        let deleted = target.delete(&job.topic);
        if found.is_ok() {
            deleted?;
        }
    }
    found
}

/// How long a process may take: ten times what the slowest client needs on a busy machine.
fn patience(job: &Job) -> Duration {
    let events = job.count + job.warm_up;
    let paced = events.checked_div(job.rate).unwrap_or(0);
    Duration::from_secs(120 + 2 * paced + events / 10_000)
}
