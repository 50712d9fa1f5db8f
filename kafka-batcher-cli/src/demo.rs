//! `kafka-batcher demo`: shows on any machine what this is, and proves it.
//!
//! A broker is started inside the process. Real events go to it: first one at a time, as a service emits them, then as
//! fast as they come. In a second act the broker is stopped half-way and the batcher dropped without mercy. Then everything is read back over the wire, by other code than wrote it, and every
//! event is checked: there once, with its bytes, in its place. Any difference is exit code 1.

mod check;
mod outage;
mod picture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kafka_batcher::{Health, KafkaBatcher, Report};
use kafka_batcher_broker::EmbeddedKafka;

use crate::console::{Console, Shared, Unit, Volume};
use crate::demo::check::{Event, Spoil};
use crate::demo::picture::{Act, Picture};
use crate::exit;
use crate::usage::Usage;
use crate::wire::Connection;

/// 5 000 of the flights in the repository's `data` (US Bureau of Transportation Statistics, public domain).
static FLIGHTS: &str = include_str!("../data/flights.ndjson");

const TOPIC: &str = "flights";
/// The topic of the second act.
const OUTAGE: &str = "flights-through-an-outage";
const PARTITIONS: i32 = 6;

/// The first act: so many events, so many a second.
const TRICKLE: usize = 1500;
const TRICKLE_RATE: u32 = 1000;

/// The longest anything in here may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// See it work on this machine: a broker inside the process, real events, every one of them checked.
///
/// Needs no Kafka and no network. 5 000 flights are sent, the first 1 500 of them at 1 000 a second; all are read back
/// and compared. Then once more, while the broker is stopped half-way and the batcher dropped without mercy: what was accepted
/// lies in a spool, and arrives all the same. Takes about four seconds. Exit code 0: every event was there once, with its bytes, in order within its
/// partition; 1: something differs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Spoil what was read back, to see that the check sees it
    #[arg(long, hide = true, value_enum)]
    spoil: Option<Spoil>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let events = check::events(FLIGHTS)?;
    let volume = if args.quiet { Volume::Quiet } else { Volume::Normal };
    let console = Arc::new(Console::new(volume, Some(events.len() as u64), Unit::Events));
    // On a thread of its own, as if it were somebody else's.
    let kafka = EmbeddedKafka::builder()
        .topic(TOPIC, PARTITIONS)
        .topic(OUTAGE, PARTITIONS)
        .start()
        .context("the embedded broker did not start")?;

    let (first, second) = events.split_at(TRICKLE.min(events.len()));
    let bootstrap = kafka.bootstrap();
    let trickle = runtime.block_on(act(&bootstrap, first, Some(TRICKLE_RATE), 0, &console))?;
    let flood = runtime.block_on(act(&bootstrap, second, None, first.len(), &console))?;
    let outage = runtime.block_on(outage::play(&kafka, OUTAGE, &events))?;
    console.done();

    let mut connection = Connection::open(&bootstrap)?;
    let mut read_all = |topic: &str| -> anyhow::Result<Vec<Vec<Event>>> {
        let mut read = Vec::new();
        for partition in 0..PARTITIONS {
            let records = connection.read_all(topic, partition)?;
            read.push(records.into_iter().map(Event::from).collect());
        }
        Ok(read)
    };
    let (mut read, through_outage) = (read_all(TOPIC)?, read_all(OUTAGE)?);
    if let Some(spoil) = args.spoil {
        check::spoil(&mut read, spoil);
    }
    let mut differences = check::compare(&events, &read);
    differences.extend(check::compare(&events, &through_outage));
    let delivered = trickle.report.all_delivered() && flood.report.all_delivered() && outage.all_delivered;
    let picture = Picture { trickle, flood, events: events.len(), partitions: PARTITIONS };
    console.say(picture);
    console.say(&outage);
    if !delivered {
        console.error("the report says that not every event was delivered");
    }
    if differences.is_empty() {
        console.say(format_args!("{}", picture::checked(2 * events.len(), PARTITIONS)));
        console.say(picture::next_steps());
    } else {
        for difference in differences.iter().take(5) {
            console.error(difference);
        }
        let more = differences.len();
        console.error(format_args!(
            "what was read back differs from what was sent in {more} ways; this is a bug"
        ));
    }
    Ok(if delivered && differences.is_empty() { exit::OK } else { exit::NOT_ALL })
}

/// Sends events with a batcher of their own, so that the report is about them alone.
async fn act(
    bootstrap: &str,
    events: &[Event],
    rate: Option<u32>,
    before: usize,
    console: &Arc<Console>,
) -> anyhow::Result<Act> {
    let batcher = KafkaBatcher::builder([bootstrap]).error_notifier(Shared(console.clone())).start().await?;
    let flights = batcher.collector(TOPIC).build()?;
    // It would take events before it knows Kafka; what is shown here is how it works once it does.
    let mut health = batcher.health();
    tokio::time::timeout(PATIENCE, health.wait_for(Health::is_ready))
        .await
        .context("the embedded broker does not answer")??;
    let (began, cpu) = (Instant::now(), Usage::now().cpu);
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for (sent, event) in events.iter().enumerate() {
        if let Some(rate) = rate {
            // Behind its time an event goes at once, so the rate holds on average.
            let due = Duration::from_secs(1) * u32::try_from(sent).unwrap_or(u32::MAX) / rate;
            while began.elapsed() < due {
                ticks.tick().await;
            }
        }
        tokio::time::timeout(PATIENCE, flights.add_event((&event.key, &event.value)))
            .await
            .context("an event was not accepted in 10 s")??;
        if sent.is_multiple_of(50) {
            console.progress((before + sent) as u64, || describe(rate));
            // The batcher works on this thread.
            tokio::task::yield_now().await;
        }
    }
    flights.flush().await;
    let report: Report = batcher.shutdown(PATIENCE).await;
    console.progress((before + events.len()) as u64, || describe(rate));
    Ok(Act { report, wall: began.elapsed(), cpu: Usage::now().cpu.saturating_sub(cpu) })
}

fn describe(rate: Option<u32>) -> String {
    match rate {
        Some(rate) => format!("one at a time, {rate} a second"),
        None => "as fast as they come".to_owned(),
    }
}
