//! The command line as a whole; each subcommand's options stand beside its code.

use clap::{Parser, Subcommand};

use crate::console::LogFormat;
use crate::{bench, broker, config, demo, produce, spool};

/// Styles of the help: bold headings, as cargo's.
fn styles() -> clap::builder::Styles {
    use clap::builder::styling::{AnsiColor, Effects, Styles};
    Styles::styled()
        .header(AnsiColor::Green.on_default().effects(Effects::BOLD))
        .usage(AnsiColor::Green.on_default().effects(Effects::BOLD))
        .literal(AnsiColor::Cyan.on_default().effects(Effects::BOLD))
        .placeholder(AnsiColor::Cyan.on_default())
}

/// Events one at a time in, batches on Kafka out: in order, and every event accounted for.
#[derive(Debug, Parser)]
#[command(name = "kafka-batcher", version, styles = styles(), max_term_width = 100)]
#[command(after_help = "\
Examples:
  kafka-batcher demo
  kafka-batcher produce -b 127.0.0.1:9092 --topic flights --key-field origin data/flights.ndjson
  tail -F app.log | kafka-batcher produce -b kafka-1:9092,kafka-2:9092 --topic logs --spool /var/spool/logs
  kafka-batcher spool ls /var/spool/logs
  kafka-batcher config init > kafka-batcher.toml

Exit codes:
  0  everything was delivered
  1  something was refused, skipped, put aside, lost, or is in doubt: the summary says how much of what
  2  the command line or a setting is wrong; nothing was done
  3  everything is safe, and some of it is still in the spool
  130, 143  stopped at once by the second SIGINT or SIGTERM; the first one flushes and reports")]
pub(crate) struct Cli {
    /// The form of everything on stderr: text for people, or a line of JSON each (but for mistakes in the command line, which are
    /// told as text). RUST_LOG (or KAFKA_BATCHER_LOG) says how much of the
    /// library's own log is among it, e.g. info, or kafka_batcher=debug [default: none]
    #[arg(long, global = true, value_enum, value_name = "FORM", default_value_t = LogFormat::Text, display_order = 900)]
    pub(crate) log_format: LogFormat,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Each is described where its options are.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Produce(Box<produce::Args>),
    Spool(spool::Args),
    Config(config::Args),
    Demo(demo::Args),
    Broker(broker::Args),
    Bench(bench::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
