//! `demo` and `bench`, as a newcomer meets them.

mod support;

use support::{command, kafka, run};

#[test]
fn the_demo_finds_every_event_where_it_should_be() {
    let ran = run(&["demo"], b"");
    ran.ended_with(0).says(&[
        "5 000 flights",
        "mean fill",
        "flushed because of",
        "latency p99",
        "dropped without mercy",
        "found on disk after the drop",
        "read back",
        "all 10 000 events",
        "produce --brokers",
    ]);
}

#[test]
fn the_demo_fails_when_anything_differs() {
    for (spoil, word) in [
        ("bytes", "never sent"),
        ("lost", "lost"),
        ("duplicated", "twice"),
        ("order", "out of order"),
        ("partition", "instead of"),
    ] {
        run(&["demo", "--quiet", "--spoil", spoil], b"").ended_with(1).says(&[word]);
    }
}

#[test]
fn a_benchmark_counts_what_it_sent() {
    let args = [
        "bench",
        "--count",
        "20000",
        "--size",
        "50",
        "--partitions",
        "3",
        "--summary",
        "json",
        "--receipts",
        "--threads",
        "2",
    ];
    let output = command().args(args).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((figures["type"].as_str(), figures["events"].as_u64()), (Some("bench"), Some(20_000)));
    assert_eq!((figures["undelivered"].as_u64(), figures["failed_receipts"].as_u64()), (Some(0), Some(0)));
    assert!(figures["cpu_seconds_per_million"].as_f64().is_some_and(|seconds| seconds > 0.0));
}

#[test]
fn a_benchmark_makes_its_topic_on_a_kafka_of_the_users() {
    let kafka = kafka();
    let address = kafka.bootstrap();
    let args = [
        "bench",
        "-b",
        &address,
        "--count",
        "1000",
        "--rate",
        "100000",
        "--partitions",
        "5",
        "--key-size",
        "0",
    ];
    let output = command().args(args).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("per million events"));
    assert_eq!(kafka.partition_count("kafka-batcher-bench"), 5);
}
