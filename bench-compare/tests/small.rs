//! The command itself, small, against the sink: every client in Rust sends every event, and the tables have every client.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench-compare")).args(args).output().unwrap()
}

/// Runs small, and answers what the JSON says; fails with the command's words where it does.
fn run(args: &[&str]) -> (String, Value) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("figures.json");
    let output =
        bench(&[&["run", "--small", "--target", "sink", "--json", json.to_str().unwrap()], args].concat());
    let (out, words) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{out}{words}");
    (out.into_owned(), serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap())
}

/// The clients of each scenario, with the events that they say were acknowledged.
fn acknowledged(figures: &Value) -> BTreeMap<&str, BTreeMap<&str, u64>> {
    let scenarios = figures["measured"].as_array().unwrap().iter();
    scenarios
        .map(|measured| {
            let clients = measured["clients"].as_array().unwrap().iter();
            let events = clients.map(|client| {
                (
                    client["client"].as_str().unwrap(),
                    client["runs"][0]["line"]["acknowledged"].as_u64().unwrap(),
                )
            });
            (measured["scenario"].as_str().unwrap(), events.collect())
        })
        .collect()
}

#[test]
fn every_client_in_rust_has_every_event_acknowledged_and_its_row_in_the_table() {
    let (markdown, figures) = run(&[]);
    let scenarios = acknowledged(&figures);
    assert_eq!(scenarios.keys().copied().collect::<Vec<_>>(), ["100B", "10k-5ms"]);
    let all = ["ours-add-event", "ours-send", "rdkafka-future", "rdkafka-threaded", "rskafka"];
    for (scenario, others) in [
        ("100B", vec!["floor", "ours-spool", "ours-spool-always", "ours-typed", "rdkafka-produce-batch"]),
        ("10k-5ms", vec!["ours-adaptive", "pacing-rust"]),
    ] {
        let clients = &scenarios[scenario];
        let mut expected: Vec<_> = all.into_iter().chain(others).collect();
        expected.sort_unstable();
        assert_eq!(clients.keys().copied().collect::<Vec<_>>(), expected, "{scenario}");
        let events = if scenario == "100B" { 10_000 } else { 1_000 };
        assert!(clients.values().all(|acknowledged| *acknowledged == events), "{clients:?}");
        assert!(clients.keys().all(|client| markdown.contains(&format!("\n| {client} | "))));
    }
    assert_eq!(figures["failures"], Value::Array(Vec::new()));
}

#[test]
fn codecs_tasks_small_batches_and_a_slow_broker_work_with_every_client_in_rust() {
    let names = ["lz4", "zstd", "tasks-8", "small-batches", "partitions-200", "slow-answers"];
    let args: Vec<&str> = names.iter().flat_map(|name| ["--scenario", name]).collect();
    let (_, figures) = run(&args);
    let scenarios = acknowledged(&figures);
    assert_eq!(scenarios.len(), names.len());
    for (scenario, clients) in scenarios {
        for client in [
            "ours-add-event",
            "ours-send",
            "ours-typed",
            "rdkafka-threaded",
            "rdkafka-future",
            "rdkafka-produce-batch",
            "rskafka",
        ] {
            assert!(clients.contains_key(client), "{scenario} {client}");
        }
    }
}

#[test]
fn latencies_are_told_for_every_event_of_a_client_that_tells_outcomes() {
    let (_, figures) = run(&["--scenario", "10k-1ms"]);
    drawn(&figures);
    for client in figures["measured"][0]["clients"].as_array().unwrap() {
        let (name, latency) = (client["client"].as_str().unwrap(), &client["runs"][0]["line"]["latency"]);
        if name == "ours-add-event" {
            assert!(latency.is_null());
        } else {
            assert_eq!(latency["events"], 1_000, "{name}");
        }
    }
}

/// What `run` writes is what `plot` reads.
fn drawn(figures: &Value) {
    let dir = tempfile::tempdir().unwrap();
    let [json, svg] = ["figures.json", "frontier.svg"].map(|name| dir.path().join(name));
    std::fs::write(&json, figures.to_string()).unwrap();
    let output = bench(&["plot", "--target", "sink", json.to_str().unwrap(), "--svg", svg.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn.contains("ours-send, linger 1 ms") && drawn.contains("10 k/s"), "{drawn}");
}

#[test]
fn a_client_that_cannot_send_makes_the_run_fail_and_is_named() {
    // Nobody listens at port 1; the client is started as `run` starts it, and its error is told.
    let words = "brokers=127.0.0.1:1 topic=t partitions=1 count=1 warm_up=1 size=100 key_size=16 keys=16 values=1 rate=0 linger_us=0 \
                 batch_events=1 batch_bytes=1000 memory=1000000 codec=none lanes=1 tasks=0 dir=";
    let args: Vec<&str> = ["client", "floor"].into_iter().chain(words.split_whitespace()).collect();
    let output = bench(&args);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the process that drops everything"));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_scenario_or_a_client_that_does_not_exist_is_refused_with_those_that_do() {
    for (option, known) in [("--scenario", "100B, 1KiB"), ("--client", "ours-add-event, ours-send")] {
        let output = bench(&["run", option, "nothing-like-it"]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains(known), "{words}");
    }
}
