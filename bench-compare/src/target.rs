//! Where events go, and how many there are: topics are made and counted by librdkafka, whoever sends.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use kafka_batcher_testkit::{Options, RealKafka, real_kafka_or_reason};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::child::Server;

/// How long a topic may take to come, to go, or to tell its ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a topic that has no leaders yet.
const LOOK: Duration = Duration::from_millis(20);

/// Something that takes events.
pub(crate) struct Target {
    /// As on the command line and in the report.
    pub(crate) name: &'static str,
    pub(crate) about: String,
    bootstrap: String,
    admin: AdminClient<DefaultClientContext>,
    reader: BaseConsumer,
    runtime: tokio::runtime::Runtime,
    /// For the floor, at the sink.
    drain: Option<Server>,
    /// What ends with this.
    _holds: Holds,
}

// Held, and never looked at.
#[allow(dead_code)]
enum Holds {
    Sink(Server),
    Kafka(Box<RealKafka>),
    Nothing,
}

impl Target {
    /// The embedded broker in discard mode, which takes so long for each Produce request of a connection, and what the floor writes to.
    ///
    /// # Errors
    /// They do not start.
    pub(crate) fn sink(late: Duration) -> anyhow::Result<Target> {
        let broker = Server::start(&["sink", &late.as_millis().to_string()])?;
        let address = broker.address().to_owned();
        let late = if late.is_zero() {
            String::new()
        } else {
            format!(", {late:?} for each request of a connection")
        };
        let about = format!("the embedded broker in discard mode, a process of its own{late}");
        let mut target = Target::new("sink", about, address, Holds::Sink(broker))?;
        target.drain = Some(Server::start(&["drain"])?);
        Ok(target)
    }

    /// A real Kafka of one broker, or the one that runs at `brokers`. Ok(Err): why there is none to be had.
    ///
    /// # Errors
    /// There is one, and it does not start.
    pub(crate) fn kafka(brokers: Option<&str>) -> anyhow::Result<Result<Target, String>> {
        if let Some(brokers) = brokers {
            let about = format!("the Kafka at {brokers}");
            return Target::new("kafka", about, brokers.to_owned(), Holds::Nothing).map(Ok);
        }
        if let Err(reason) = real_kafka_or_reason() {
            return Ok(Err(reason.to_string()));
        }
        // Topics come and go: what goes is to take no room, and no time while something else is measured.
        let options = Options::one_broker().prop("log.segment.delete.delay.ms", "100");
        let kafka = RealKafka::start(&options)?;
        let bootstrap = kafka.bootstrap().to_owned();
        let about = "a real Apache Kafka of one broker (dev/kafka)".to_owned();
        Target::new("kafka", about, bootstrap, Holds::Kafka(Box::new(kafka))).map(Ok)
    }

    fn new(name: &'static str, about: String, bootstrap: String, holds: Holds) -> anyhow::Result<Target> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &bootstrap);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (admin, reader) = (config.create()?, config.create()?);
        Ok(Target { name, about, bootstrap, admin, reader, runtime, drain: None, _holds: holds })
    }

    pub(crate) fn is_sink(&self) -> bool {
        self.drain.is_some()
    }

    /// Where a client sends to.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Where the floor writes to; none: it takes no part here.
    pub(crate) fn drain(&self) -> Option<&str> {
        self.drain.as_ref().map(Server::address)
    }

    /// Makes a topic with one replica, and waits until every partition has a leader.
    ///
    /// # Errors
    /// It cannot be made, or has no leaders in time.
    pub(crate) fn create(&self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        let wanted = i32::try_from(partitions)?;
        let new = NewTopic::new(topic, wanted, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let made = self.runtime.block_on(self.admin.create_topics([&new], &options))?;
        for result in made {
            result.map_err(|(topic, why)| anyhow!("topic {topic} could not be created: {why}"))?;
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.has_leaders(topic, partitions)? {
            if Instant::now() > deadline {
                bail!("topic {topic} has not a leader for every partition after {PATIENCE:?}");
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn has_leaders(&self, topic: &str, partitions: u32) -> anyhow::Result<bool> {
        let metadata = self.reader.fetch_metadata(Some(topic), PATIENCE).context("metadata")?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        Ok(found.is_some_and(|topic| {
            let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0);
            led.count() == partitions as usize
        }))
    }

    /// Deletes a topic; what it held comes back in the background.
    ///
    /// # Errors
    /// The broker refuses.
    pub(crate) fn delete(&self, topic: &str) -> anyhow::Result<()> {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        for result in self.runtime.block_on(self.admin.delete_topics(&[topic], &options))? {
            result.map_err(|(topic, why)| anyhow!("topic {topic} could not be deleted: {why}"))?;
        }
        Ok(())
    }

    /// How many events lie in a topic: the sum of its partitions' ends.
    ///
    /// # Errors
    /// A partition does not tell its end.
    pub(crate) fn count(&self, topic: &str, partitions: u32) -> anyhow::Result<u64> {
        let mut events = 0;
        for partition in 0..i32::try_from(partitions)? {
            let ends = self.reader.fetch_watermarks(topic, partition, PATIENCE);
            let (begin, end) = ends.with_context(|| format!("the end of partition {partition}"))?;
            ensure!(begin == 0 && end >= 0, "partition {partition} goes from {begin} to {end}");
            events += end as u64;
        }
        Ok(events)
    }
}
