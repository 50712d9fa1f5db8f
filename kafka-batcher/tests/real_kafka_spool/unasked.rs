//! Proof without DescribeProducers, which needs READ on the topic: who may only write has to send again what is in doubt, one
//! batch at a time, and knows from the one that is recognised that all before it is there.

use kafka_batcher::{Report, SpoolMode};
use kafka_batcher_testkit::{Error, Options, RealKafka, Signal};

use super::{
    PARTITIONS, drained, durable, killed, nothing_lost_or_doubled, restarted_once, runtime, send, start,
};

pub(crate) fn restarted() -> Result<(), Error> {
    /// What the topics' names begin with.
    const PREFIX: &str = "unasked";
    let options = Options::one_broker()
        .prop("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
        .prop("allow.everyone.if.no.acl.found", "true");
    let kafka = RealKafka::start(&options)?;
    // Without authentication everybody is ANONYMOUS, the broker, too; but that needs no permission on topics.
    let acl = |args: &[&str]| {
        let place = ["--topic", PREFIX, "--resource-pattern-type", "prefixed"];
        let args = [&["--bootstrap-server", kafka.bootstrap()], &place[..], args].concat();
        kafka.tool("org.apache.kafka.tools.AclCommand", &args, &[]).map(drop)
    };
    acl(&["--add", "--allow-principal", "User:ANONYMOUS", "--operation", "All"])?;
    acl(&["--add", "--deny-principal", "User:ANONYMOUS", "--operation", "Read"])?;
    let mut done = Vec::new();
    let fresh = || kafka.fresh_topic(PREFIX, PARTITIONS, &[]);
    for signal in [Signal::Term, Signal::Kill] {
        let topic = fresh()?;
        let report = restarted_once(&kafka, signal, SpoolMode::OnFailure, &topic)?;
        done.push((format!("not told, {signal:?} OnFailure"), topic, report));
        let (topic, report) = surely_found(&kafka, signal, &fresh, 300)?;
        let refused = kafka.producers(&topic, 0).expect_err("nobody is told").to_string();
        assert!(refused.contains("TopicAuthorizationException"), "{refused}");
        done.push((format!("not told, {signal:?}, killed when 300 were delivered"), topic, report));
    }
    let (many, report) = surely_found(&kafka, Signal::Kill, &fresh, 3_000)?;
    // Now Java may read, too.
    acl(&["--remove", "--force"])?;
    for (what, topic, report) in done {
        nothing_lost_or_doubled(&kafka, &what, &topic, &report)?;
    }
    // Most of it lay further down the disk than what was read at first.
    nothing_lost_or_doubled(&kafka, "not told, Kill, killed when 3000 were delivered", &many, &report)?;
    Ok(())
}

/// [`killed_when_all_was_delivered`] with something found on disk: what was delivered is written down after a second without
/// work, so it is done once more where the machine stood still just there.
fn surely_found(
    kafka: &RealKafka,
    signal: Signal,
    fresh: &impl Fn() -> Result<String, Error>,
    events: u32,
) -> Result<(String, Report), Error> {
    loop {
        let topic = fresh()?;
        let report = killed_when_all_was_delivered(kafka, signal, &topic, events)?;
        if report.recovered > 0 {
            return Ok((topic, report));
        }
    }
}

/// So many events are all delivered when our process is killed, and little of that is written down: of what the next one finds on
/// disk it has to find out what a Kafka has that was restarted, and recognises only the last batch of each partition.
fn killed_when_all_was_delivered(
    kafka: &RealKafka,
    signal: Signal,
    topic: &str,
    events: u32,
) -> Result<Report, Error> {
    let dir = tempfile::tempdir().expect("a directory");
    let first = runtime();
    let dir = first.block_on(async {
        let (batcher, collector) = start(kafka, topic, dir.path(), SpoolMode::Always).await;
        for receipt in send(&collector, 0..events, None).await {
            receipt.delivered().await.expect("delivered");
        }
        let left = killed::what_a_kill_leaves(dir.path());
        drop((batcher, collector));
        left
    });
    drop(first);
    kafka.kill(1, signal)?;
    kafka.restart(1)?;
    Ok(runtime().block_on(async {
        let (batcher, collector) = start(kafka, topic, dir.path(), SpoolMode::Always).await;
        durable(&send(&collector, events..7_000, None).await).await;
        drained(&batcher).await
    }))
}
