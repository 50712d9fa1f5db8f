//! The second act: Kafka goes away half-way, the batcher is dropped without mercy, and everything arrives all the same.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use kafka_batcher::storage::StorageError;
use kafka_batcher::{BuildError, Collector, ErrorNotifier, KafkaBatcher, Notification, Receipt, SpoolMode};
use kafka_batcher_broker::{EmbeddedKafka, ProducerMemory};

use crate::demo::PATIENCE;
use crate::demo::check::Event;
use crate::units::{counted, seconds};

/// A moment of the act: how many events were accepted, were on disk, were delivered by then.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    accepted: u64,
    spooled: u64,
    delivered: u64,
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Outage {
    moments: Vec<Moment>,
    events: u64,
    recovered: u64,
    pub(super) all_delivered: bool,
    wall: Duration,
}

/// The outage is ours: nobody need be told.
struct Silent;

impl ErrorNotifier for Silent {
    fn report(&self, _: &Notification) {}
}

/// The spool's directory, gone with the act.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        // It is a temporary directory; what is left of it is the system's to remove.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Stage<'a> {
    kafka: &'a EmbeddedKafka,
    bootstrap: String,
    topic: &'a str,
    dir: Dir,
    out: Outage,
}

/// Plays it on a topic of its own.
pub(super) async fn play(kafka: &EmbeddedKafka, topic: &str, events: &[Event]) -> anyhow::Result<Outage> {
    let began = Instant::now();
    let dir = Dir(std::env::temp_dir().join(format!("kafka-batcher-demo-{}", std::process::id())));
    let mut stage = Stage { kafka, bootstrap: kafka.bootstrap(), topic, dir, out: Outage::default() };
    let (first, rest) = events.split_at(events.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 2);

    let (batcher, collector) = stage.start().await?;
    let mut receipts = stage.send(&batcher, &collector, first).await?;
    kafka.stop_broker(1).context("the embedded broker does not stop")?;
    receipts.extend(stage.send(&batcher, &collector, second).await?);
    for receipt in receipts {
        let durable = tokio::time::timeout(PATIENCE, receipt.durable());
        durable.await.context("an event was not durable in 10 s")??;
    }
    stage.look(&batcher).await;
    // No shutdown, no flush. A batcher that is dropped would save what it has in memory; everything is durable already, so
    // there is nothing, and the next one finds the events that it would find after a kill.
    drop((batcher, collector));

    let (batcher, collector) = stage.start().await?;
    stage.out.recovered = batcher.report().await.recovered;
    stage.send(&batcher, &collector, third).await?;
    kafka.restart_broker(1, ProducerMemory::LastBatch).context("the embedded broker does not start again")?;
    let deadline = Instant::now() + PATIENCE;
    while stage.look(&batcher).await > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let report = batcher.shutdown(PATIENCE).await;
    let mut out = stage.out;
    out.events = events.len() as u64;
    out.all_delivered = report.all_delivered();
    out.wall = began.elapsed();
    Ok(out)
}

fn kafka_count(kafka: &EmbeddedKafka, topic: &str) -> u64 {
    let partitions = i32::try_from(kafka.partition_count(topic)).unwrap_or(0);
    (0..partitions).map(|partition| kafka.log(topic, partition).len() as u64).sum()
}

impl Stage<'_> {
    async fn start(&self) -> anyhow::Result<(KafkaBatcher, Collector)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let started = KafkaBatcher::builder([self.bootstrap.clone()])
                .settings(|settings| {
                    settings.retry_backoff = Duration::from_millis(10);
                    settings.retry_backoff_max = Duration::from_millis(50);
                })
                .error_notifier(Silent)
                .spool(&self.dir.0)
                .spool_mode(SpoolMode::Always)
                .spool_after(Duration::from_millis(50))
                .start()
                .await;
            match started {
                Ok(batcher) => {
                    let collector = batcher.collector(self.topic).build()?;
                    return Ok((batcher, collector));
                }
                // The one that was dropped lets go of the directory when the runtime comes to its tasks.
                Err(BuildError::Spool(StorageError::Failed(_))) if Instant::now() < deadline => {
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends events as a service does, and looks at the figures now and then.
    async fn send(
        &mut self,
        batcher: &KafkaBatcher,
        collector: &Collector,
        events: &[Event],
    ) -> anyhow::Result<Vec<Receipt>> {
        let mut receipts = Vec::with_capacity(events.len());
        for chunk in events.chunks(events.len().div_ceil(12).max(1)) {
            for event in chunk {
                let sent = tokio::time::timeout(PATIENCE, collector.send((&event.key, &event.value)));
                receipts.push(sent.await.context("an event was not accepted in 10 s")??);
            }
            self.out.events += chunk.len() as u64;
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.look(batcher).await;
        }
        Ok(receipts)
    }

    /// Notes the figures; answers how many events are not delivered.
    async fn look(&mut self, batcher: &KafkaBatcher) -> u64 {
        let report = batcher.report().await;
        let delivered = kafka_count(self.kafka, self.topic);
        self.out.moments.push(Moment { accepted: self.out.events, spooled: report.spooled, delivered });
        report.spooled + report.in_memory + report.in_flight
    }
}

/// So many columns.
const WIDTH: usize = 48;
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One figure over time, as high as its part of all events.
fn row(moments: &[Moment], all: u64, figure: impl Fn(&Moment) -> u64) -> String {
    let column = |x: usize| {
        let moment = moments.get(x * moments.len().saturating_sub(1) / (WIDTH - 1))?;
        let level = (figure(moment) * 8).div_ceil(all.max(1)).min(8);
        LEVELS.get(usize::try_from(level).ok()?)
    };
    (0..WIDTH).filter_map(column).collect()
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events = counted(self.events, "flight", "flights");
        writeln!(f, "\nKafka goes away half-way, and the batcher is dropped without mercy: {events}")?;
        writeln!(f, "  accepted   {}", row(&self.moments, self.events, |m| m.accepted))?;
        writeln!(f, "  on disk    {}", row(&self.moments, self.events, |m| m.spooled))?;
        writeln!(f, "  in Kafka   {}", row(&self.moments, self.events, |m| m.delivered))?;
        let found = counted(self.recovered, "event", "events");
        write!(f, "  {found} found on disk after the drop; all over in {}", seconds(self.wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_as_high_as_its_part_and_never_empty_for_something() {
        let moments = [0, 1, 50, 100].map(|delivered| Moment { delivered, ..Moment::default() });
        let drawn = row(&moments, 100, |m| m.delivered);
        assert_eq!(drawn.chars().count(), WIDTH);
        assert!(drawn.starts_with(' ') && drawn.ends_with('█') && drawn.contains('▁') && drawn.contains('▄'));
    }
}
