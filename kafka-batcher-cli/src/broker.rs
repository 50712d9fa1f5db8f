//! `kafka-batcher broker`: the embedded broker as a process of its own, for trying and for testing.

use std::io::{Read, Write, stdout};
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::Context;
use kafka_batcher_broker::{AutoCreate, EmbeddedKafka, StartError, Storage};
use tokio::sync::oneshot;

use crate::console::{Console, Unit, Volume};
use crate::exit::{self, UsageError};
use crate::signals::Signals;
use crate::units;

/// `name` or `name:partitions`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Topic {
    name: String,
    partitions: i32,
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, partitions) = match text.rsplit_once(':') {
            None => (text, 1),
            Some((name, count)) => {
                let count = count.parse().ok().filter(|count| (1..=100_000).contains(count));
                (name, count.ok_or("expected NAME:PARTITIONS, with at least one partition")?)
            }
        };
        Ok(Topic { name: name.to_owned(), partitions })
    }
}

/// Run the embedded broker as a process of its own, for trying and for testing.
///
/// It keeps everything in memory and forgets it at the end; it listens on the loopback interface unless told otherwise.
/// Its bootstrap address is the first line on stdout. It ends on SIGINT or SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  A broker on a port of its own choice, with a topic of six partitions:
    kafka-batcher broker --topic flights:6

  Three brokers on fixed ports, which create every topic that is asked for:
    kafka-batcher broker --port 9092 --brokers 3 --auto-create

  As a child of a test, gone with it:
    kafka-batcher broker --topic t:4 --json --until-stdin-closes

It is no Kafka for production: no disk, no replication, no groups, no transactions, no security.")]
pub(crate) struct Args {
    /// The first broker's port, the others follow; 0 lets the system choose
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,

    /// The address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: IpAddr,

    /// How many brokers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    brokers: u16,

    /// A topic that exists from the start; may be repeated
    #[arg(long = "topic", value_name = "NAME[:PARTITIONS]")]
    topics: Vec<Topic>,

    /// Acknowledge everything and keep nothing: for measuring clients
    #[arg(long)]
    discard: bool,

    /// Create a topic when it is asked for
    #[arg(long)]
    auto_create: bool,

    /// The first line as JSON
    #[arg(long)]
    json: bool,

    /// End when standard input ends, too, and so with whoever holds it
    #[arg(long)]
    until_stdin_closes: bool,

    /// Say nothing on stderr
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(serve(args));
    runtime.shutdown_background();
    code
}

async fn serve(args: &Args) -> anyhow::Result<u8> {
    // Before anything is said: whoever reads the address may send a signal at once.
    let mut signals = Signals::listen().context("signals cannot be listened to")?;
    let first = args.port;
    let ports = (0..args.brokers).map(|n| if first == 0 { 0 } else { first.saturating_add(n) });
    let mut builder = EmbeddedKafka::builder()
        .bind(args.bind)
        .ports(ports)
        .brokers(usize::from(args.brokers))
        .auto_create(if args.auto_create { AutoCreate::On } else { AutoCreate::Off })
        .storage(if args.discard { Storage::Discard } else { Storage::Memory });
    for topic in &args.topics {
        builder = builder.topic(&topic.name, topic.partitions);
    }
    let kafka = builder.start_on(tokio::runtime::Handle::current()).map_err(|error| match error {
        StartError::Thread(_) => anyhow::Error::from(error),
        other => UsageError(other.to_string()).into(),
    })?;
    announce(&kafka, args).context("the address could not be written to stdout")?;
    let console = Console::new(if args.quiet { Volume::Quiet } else { Volume::Normal }, None, Unit::Events);
    tokio::select! {
        _ = signals.next() => {}
        () = stdin_closed(args.until_stdin_closes) => {}
    }
    let stats = kafka.stats();
    console.say(format_args!(
        "{} in {} ({}) from {}",
        units::counted(stats.records, "record", "records"),
        units::counted(stats.batches, "batch", "batches"),
        units::bytes(stats.bytes),
        units::counted(stats.connections, "connection", "connections")
    ));
    Ok(exit::OK)
}

fn announce(kafka: &EmbeddedKafka, args: &Args) -> std::io::Result<()> {
    let mut out = stdout().lock();
    let bootstrap = kafka.bootstrap();
    if args.json {
        let object = serde_json::json!({
            "type": "broker",
            "bootstrap": bootstrap,
            "cluster_id": kafka.cluster_id(),
            "pid": std::process::id(),
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{bootstrap}")?;
    }
    out.flush()
}

async fn stdin_closed(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let (ended, end) = oneshot::channel::<()>();
    let reader = move || {
        let mut buffer = [0; 4096];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        drop(ended);
    };
    if std::thread::Builder::new().name("stdin".to_owned()).spawn(reader).is_ok() {
        let _ = end.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_a_name_and_perhaps_a_number_of_partitions() {
        let topic = |text: &str| text.parse::<Topic>().map(|topic| (topic.name, topic.partitions));
        assert_eq!(topic("flights"), Ok(("flights".to_owned(), 1)));
        assert_eq!(topic("flights:6"), Ok(("flights".to_owned(), 6)));
        for bad in ["flights:", "flights:0", "flights:x", "flights:-1"] {
            assert!(topic(bad).is_err(), "{bad}");
        }
    }
}
