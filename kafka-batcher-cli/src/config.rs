//! `kafka-batcher config`: looks at a configuration file without starting anything. What it shows goes to stdout, what is
//! wrong to stderr.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use kafka_batcher::Config;
use kafka_batcher::config::{Resolved, commented_file, reference};

use crate::exit::{self, UsageError};
use crate::units::counted;

/// Check, show, begin a configuration file
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tell every mistake in a file, each with its line, column and what would be right; exit code 2 if there is one.
    /// Variables of the environment (KAFKA_BATCHER__KEY) are checked with it
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the values in effect, and where each comes from
    Show {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Only of this topic's collector
        #[arg(short, long, value_name = "NAME")]
        topic: Option<String>,
    },
    /// Print a file to begin with: every setting with its words, the built-in value behind a #
    Init,
    /// Print the reference of all settings (Markdown)
    Reference,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    match &args.command {
        Command::Check { file } => {
            let resolved = resolve(file)?;
            for warning in &resolved.warnings {
                eprintln!("warning: {warning}");
            }
            let topics: Vec<_> = resolved.collectors.keys().map(String::as_str).collect();
            let collectors = counted(topics.len() as u64, "collector", "collectors");
            let list = if topics.is_empty() { String::new() } else { format!(" ({})", topics.join(", ")) };
            print(&format!("{}: no mistakes; {collectors}{list}\n", file.display()))
        }
        Command::Show { file, topic } => {
            let shown = resolve(file)?.show(topic.as_deref());
            print(&shown.map_err(|error| UsageError(error.to_string()))?)
        }
        Command::Init => print(&commented_file()),
        Command::Reference => print(&reference()),
    }
}

fn resolve(file: &PathBuf) -> Result<Resolved, UsageError> {
    let config = Config::from_file(file).map(Config::with_environment);
    config.and_then(|config| config.resolve()).map_err(|error| UsageError(error.to_string()))
}

fn print(text: &str) -> anyhow::Result<u8> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output cannot be written")?;
    Ok(exit::OK)
}
