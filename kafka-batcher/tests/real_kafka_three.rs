//! The library against a real Kafka of three brokers, replication 3, min.insync.replicas 2: every broker stops, dies and comes back, leaders
//! move, and nothing of the application notices but latency.

#[path = "real_kafka/mod.rs"]
mod real_kafka;

use std::process::ExitCode;

use kafka_batcher_testkit::{Error, Options, RealKafka, Signal, Suite};
use real_kafka::{Flow, kills, runtime};

const PARTITIONS: u32 = 6;

fn main() -> ExitCode {
    Suite::new(Options::three_brokers())
        .test("leaders that move while events flow do not show", moving_leaders)
        .test_alone(
            "every broker stopped, killed and restarted in turn while 200 000 events flow does not show",
            rolling,
        )
        .test_alone("brokers killed one after the other beside a spool do not show", killed_beside_a_spool)
        .test_alone("a leader frozen until another leads, and thawed, does not show", frozen_leader)
        .run()
}

/// Makes the broker behind its present leader lead each partition, once all are in sync.
fn move_all(kafka: &RealKafka, topic: &str) -> Result<(), Error> {
    for partition in kafka.wait_isr(topic, 3)?.partitions {
        kafka.move_leader(topic, partition.partition, partition.leader % 3 + 1)?;
    }
    Ok(())
}

fn moving_leaders(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("moving", PARTITIONS, &[])?;
    let runtime = runtime();
    let flow = runtime.block_on(Flow::start(kafka, &topic, PARTITIONS, 20_000, |_, _| {}));
    for _ in 0..3 {
        runtime.block_on(flow.more(500));
        flow.burst(3000);
        move_all(kafka, &topic)?;
    }
    runtime.block_on(flow.finish(kafka, "18 leaders moved")).map(drop)
}

fn rolling(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("rolling", PARTITIONS, &[])?;
    let runtime = runtime();
    let flow = runtime.block_on(Flow::start(kafka, &topic, PARTITIONS, 200_000, |_, _| {}));
    for signal in [Signal::Term, Signal::Kill] {
        for node in 1..=3 {
            runtime.block_on(flow.more(500));
            flow.burst(6000);
            kafka.kill(node, signal)?;
            // Beyond what can be in flight: the partitions that it led go on elsewhere.
            flow.burst(6000);
            runtime.block_on(flow.more(10_000));
            kafka.restart(node)?;
            kafka.wait_isr(&topic, 3)?;
        }
        move_all(kafka, &topic)?;
    }
    runtime.block_on(flow.finish(kafka, "three brokers stopped, three killed, 12 leaders moved")).map(drop)
}

fn killed_beside_a_spool(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("killed-spool", PARTITIONS, &[])?;
    let runtime = runtime();
    let flow = runtime.block_on(Flow::with_spool(kafka, &topic, PARTITIONS, 20_000));
    for kill in 0..kills() {
        let node = (kill % 3 + 1) as u8;
        runtime.block_on(flow.more(500));
        flow.burst(6000);
        kafka.kill(node, Signal::Kill)?;
        flow.burst(3000);
        // The partitions that it led go to disk until they go on elsewhere.
        runtime.block_on(flow.more(8000));
        kafka.restart(node)?;
        move_all(kafka, &topic)?;
    }
    runtime.block_on(flow.finish(kafka, &format!("{} brokers killed beside a spool", kills()))).map(drop)
}

fn frozen_leader(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("frozen", PARTITIONS, &[])?;
    let runtime = runtime();
    let flow = runtime.block_on(Flow::start(kafka, &topic, PARTITIONS, 20_000, |_, _| {}));
    for node in [1, 2] {
        for partition in 0..PARTITIONS as i32 {
            kafka.move_leader(&topic, partition, i32::from(node))?;
        }
        runtime.block_on(flow.more(500));
        flow.burst(4000);
        kafka.freeze(node)?;
        flow.burst(4000);
        for partition in 0..PARTITIONS as i32 {
            kafka.wait_leader_other_than(&topic, partition, i32::from(node))?;
        }
        runtime.block_on(flow.more(4000));
        // It still believes that it leads, and serves what lies in its sockets.
        kafka.thaw(node)?;
        kafka.wait_isr(&topic, 3)?;
    }
    runtime.block_on(flow.finish(kafka, "two leaders frozen and thawed")).map(drop)
}
