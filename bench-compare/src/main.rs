//! kafka-batcher beside other Kafka clients: what an event costs each of them.
//!
//! `run` starts every client as a process of its own, in turns, against a broker that keeps nothing and against a real Kafka, checks
//! what they say, and prints medians, spread and ratios. DESIGN.md has the method ("Measuring against others").

mod child;
mod client;
mod clients;
mod drive;
mod foreign;
mod instructions;
mod job;
mod ledger;
mod line;
mod load;
mod plot;
mod report;
mod roster;
mod runner;
mod scenario;
mod sink;
mod stats;
mod target;
mod usage;
mod versions;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::job::Job;
use crate::roster::{Entry, Program, ROSTER};
use crate::scenario::SCENARIOS;

#[derive(Parser)]
#[command(about = "kafka-batcher beside other Kafka clients: what an event costs each of them")]
enum Command {
    Run(runner::Args),
    Instructions(instructions::Args),
    Plot(plot::Args),
    /// Show the scenarios and the clients
    List,
    /// Be one client: what `run` starts
    #[command(hide = true)]
    Client {
        #[arg(value_parser = Entry::find)]
        name: Entry,
        words: Vec<String>,
    },
    /// Be the broker that keeps nothing: what `run` starts
    #[command(hide = true)]
    Sink {
        /// How late each answer is, in milliseconds
        #[arg(default_value_t = 0)]
        late_ms: u64,
    },
    /// Be what the floor writes to: what `run` starts
    #[command(hide = true)]
    Drain,
}

fn main() -> ExitCode {
    match command(&Command::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether all is well.
fn command(command: &Command) -> anyhow::Result<bool> {
    match command {
        Command::Run(args) => runner::run(args),
        Command::Instructions(args) => instructions::run(args),
        Command::Plot(args) => plot::run(args).map(|()| true),
        Command::List => {
            list()?;
            Ok(true)
        }
        Command::Client { name, words } => {
            let Program::Rust(client) = name.program else {
                anyhow::bail!("{} is a program of its own", name.name);
            };
            let line = client::run(client, &Job::parse(words)?)?;
            writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&line)?)?;
            Ok(true)
        }
        Command::Sink { late_ms } => sink::broker(Duration::from_millis(*late_ms)).map(|()| true),
        Command::Drain => sink::drain().map(|()| true),
    }
}

fn list() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Scenarios:")?;
    for scenario in SCENARIOS {
        writeln!(out, "  {:24} {}", scenario.name, scenario.about)?;
    }
    writeln!(out, "\nClients:")?;
    ROSTER.iter().try_for_each(|client| writeln!(out, "  {:24} {}", client.name, client.about))
}
