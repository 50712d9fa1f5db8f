//! The `kafka-batcher` command.
//!
//! - `cli`: the command line; `exit`: the exit codes, the same everywhere;
//! - `produce`: lines to a topic; `spool`: what lies in a spool; `config`: looks at a file; `demo`: sees it work; `broker`: the embedded broker as a process; `bench`: figures;
//! - `http`: metrics and health; `lines`, `json`: reading; `console`, `signals`, `units`, `usage`: what all of them share.
//!
//! What goes to stdout is for machines, and each line of it says its type; what goes to stderr is for people.

#![forbid(unsafe_code)]

mod bench;
mod broker;
mod cli;
mod config;
mod console;
mod demo;
mod exit;
#[cfg(test)]
mod garbage;
mod http;
mod json;
mod lines;
mod produce;
mod signals;
mod spool;
mod units;
mod usage;
mod wire;

use std::io::IsTerminal;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::console::{Console, LogFormat, Unit, Volume};
use crate::exit::UsageError;

fn main() {
    let cli = Cli::parse();
    let ended = log(cli.log_format).map_err(anyhow::Error::from).and_then(|()| match cli.command {
        Command::Produce(args) => produce::run(&args),
        Command::Spool(args) => spool::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Broker(args) => broker::run(&args),
        Command::Bench(args) => bench::run(&args),
    });
    let code = ended.unwrap_or_else(|error| {
        Console::new(Volume::Normal, None, Unit::Events).error(format_args!("{error:#}"));
        exit::of(&error)
    });
    // Not a return: a thread may be waiting in a read that never ends.
    std::process::exit(i32::from(code));
}

/// What matters to the user is said by the commands themselves; the log is for finding out why. Where it is for programs, what is
/// said goes there too.
///
/// # Errors
/// What the environment asks for is no filter; the log says nothing then but this error.
fn log(format: LogFormat) -> Result<(), UsageError> {
    let asked = ["KAFKA_BATCHER_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok()?)));
    let wrong = asked.as_ref().and_then(|(name, value)| {
        let error = EnvFilter::try_new(value).err()?;
        let example = "write a level, or targets with theirs, such as info or kafka_batcher=debug,info";
        Some(UsageError(format!("{name}={value}: {error}; {example}")))
    });
    let asked = asked.filter(|_| wrong.is_none()).map_or_else(|| "off".to_owned(), |(_, value)| value);
    console::say_as(format);
    // Colours are for people who look.
    let log =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.with_env_filter(EnvFilter::new(asked)).init(),
        LogFormat::Json => {
            let filter = EnvFilter::new(format!("{asked},{}=info", console::TARGET));
            log.json().flatten_event(true).with_env_filter(filter).init();
            console::say_panics();
        }
    }
    wrong.map_or(Ok(()), Err)
}
