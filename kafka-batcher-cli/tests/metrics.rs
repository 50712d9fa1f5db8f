//! `--metrics-addr`, and what the log says and does not say.

mod support;
#[path = "support/http.rs"]
mod web;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

use kafka_batcher_broker::{Api, ErrorCode, Fault};
use kafka_batcher_testkit::Scrape;
use serde_json::Value;
use support::{Running, TOPIC, command, kafka, run};
use web::{get, metrics_address, try_get};

const ANYWHERE: [&str; 2] = ["--metrics-addr", "127.0.0.1:0"];

/// Where a command at work serves its metrics.
fn address(running: &mut Running) -> String {
    running.wait_until_it_says("http://");
    running.heard.lines().find_map(metrics_address).expect("an address")
}

fn scrape(address: &str) -> Scrape {
    let answer = get(address, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    Scrape::parse(&answer.body)
}

/// Asks until it says so; gives up after a minute.
fn until(mut says: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !says() {
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "it did not say so within a minute");
        std::thread::yield_now();
    }
}

#[test]
fn metrics_health_and_readiness_are_served_in_the_format_that_is_asked_for() {
    let kafka = kafka();
    let mut running = Running::produce(&kafka, &[&ANYWHERE[..], &["--receipts=delivered"]].concat());
    let address = address(&mut running);
    running.write("a\nb\nc\n");
    (0..3).for_each(|_| drop(running.line()));
    let answer = get(&address, "/metrics");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{answer:?}");
    let found = Scrape::parse(&answer.body);
    found.balances("kafka_batcher", TOPIC);
    assert_eq!(found.value("kafka_batcher_events_delivered_total", &[("topic", TOPIC)]), 3.0);
    let open =
        try_get(&address, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n").unwrap();
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open:?}");
    assert!(open.body.contains("# TYPE kafka_batcher_events_delivered counter\n"), "{}", open.body);
    assert!(open.body.ends_with("\n# EOF\n"), "{}", open.body);
    for path in ["/health", "/ready", &format!("/ready/{TOPIC}")] {
        let answer = get(&address, path);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, &body["topics"][TOPIC]["state"]), (200, &"ready".into()), "{answer:?}");
        assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    }
    for nowhere in ["/elsewhere", "/ready/elsewhere"] {
        assert_eq!(get(&address, nowhere).status, 404);
    }
    drop(running.stdin.take());
    running.end().ended_with(0).balances();
}

/// Its last word cannot be written, since nobody reads it: so it lives on after everything is settled.
#[test]
fn the_final_values_are_served_until_the_process_ends() {
    let kafka = kafka();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'\n'; 65_536]).unwrap();
    let args = ["produce", "-b", &kafka.bootstrap(), "--topic", TOPIC, "--summary", "json"];
    let mut child = command()
        .args(args)
        .args(ANYWHERE)
        .stdin(Stdio::piped())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let address = std::io::BufRead::lines(stderr).find_map(|line| metrics_address(&line.unwrap())).unwrap();
    child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    until(|| {
        let found = scrape(&address);
        found.balances("kafka_batcher", TOPIC);
        // Closing connections is the last thing that a shutdown does.
        found.value("kafka_batcher_events_delivered_total", &[]) == 2.0
            && found.value("kafka_batcher_broker_connected", &[]) == 0.0
    });
    assert_eq!(scrape(&address).value("kafka_batcher_events_accepted_total", &[]), 2.0);
    assert_eq!(get(&address, "/health").status, 200);
    let ready = get(&address, "/ready");
    let body: Value = serde_json::from_str(&ready.body).unwrap();
    assert_eq!((ready.status, &body["closing"]), (503, &true.into()), "{body}");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"delivered\":2"), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(try_get(&address, "/metrics", "").is_err());
}

#[test]
fn an_address_that_cannot_be_had_is_said_before_anything_is_done() {
    let kafka = kafka();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let held = TcpListener::bind(&taken);
    assert!(held.is_err());
    let produce = |address: &str| {
        run(&["produce", "-b", &kafka.bootstrap(), "--topic", TOPIC, "--metrics-addr", address], b"a\n")
    };
    produce(&taken).ended_with(2).says(&["--metrics-addr", &taken, "another process listens there"]);
    produce("127.0.0.1").ended_with(2).says(&["write HOST:PORT"]);
    assert!(support::records(&kafka).is_empty());
}

#[test]
fn a_process_without_kafka_is_ready_exactly_if_it_has_a_spool() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (spool, ready) in [(&[][..], 503), (&["--spool", dir][..], 200)] {
        let args = ["produce", "-b", &nobody, "--topic", TOPIC, "--timeout", "1h", "--summary", "json"];
        let mut running = Running::start(&[&args[..], &ANYWHERE, spool].concat());
        let address = address(&mut running);
        until(|| {
            get(&address, "/ready").status == ready && get(&address, "/ready").body.contains("unreachable")
        });
        let body: Value = serde_json::from_str(&get(&address, "/ready").body).unwrap();
        let blocked = body["topics"][TOPIC]["blocked"].as_str().unwrap_or_default();
        assert_eq!(
            (blocked.contains(&nobody), &body["ready"]),
            (ready == 503, &(ready == 200).into()),
            "{body}"
        );
        // It may well come back by itself.
        assert_eq!(get(&address, "/health").status, 200);
        assert_eq!(scrape(&address).value("kafka_batcher_cluster_connected", &[]), 0.0);
    }
}

/// Describe is granted, Write is not.
#[test]
fn a_process_that_may_not_write_is_ready_exactly_if_it_has_a_spool() {
    let kafka = kafka();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    kafka.inject(Fault::answer(ErrorCode::TOPIC_AUTHORIZATION_FAILED).on(Api::Produce).always());
    for (spool, ready) in [(&[][..], 503), (&["--spool", dir][..], 200)] {
        let mut running = Running::produce(&kafka, &[&ANYWHERE[..], &["--timeout", "1h"], spool].concat());
        let address = address(&mut running);
        running.write("a\n");
        // What alerts look at.
        let unavailable = [("topic", TOPIC), ("state", "unavailable")];
        until(|| scrape(&address).get("kafka_batcher_topic_health", &unavailable) == Some(1.0));
        assert_eq!(get(&address, &format!("/ready/{TOPIC}")).status, ready);
        let answer = get(&address, "/ready");
        assert_eq!(
            (answer.status, answer.body.contains("TOPIC_AUTHORIZATION_FAILED")),
            (ready, true),
            "{answer:?}"
        );
    }
}

#[test]
fn without_telemetry_there_are_no_metrics_and_health_all_the_same() {
    let kafka = kafka();
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&config, "telemetry = false\n").unwrap();
    let config = config.path().to_str().unwrap();
    let mut running = Running::produce(&kafka, &[&ANYWHERE[..], &["--config", config]].concat());
    let address = address(&mut running);
    until(|| get(&address, "/ready").status == 200);
    assert_eq!(get(&address, "/metrics").body, "");
    drop(running.stdin.take());
    running.end().ended_with(0);
}

#[test]
fn with_log_format_json_every_line_of_stderr_is_an_object() {
    let kafka = kafka();
    let broker = kafka.bootstrap();
    let args = ["--log-format", "json", "produce", "-b", &broker, "--topic", TOPIC, "--batch-size", "many"];
    // What clap says about the command line is for people, whatever else was asked for.
    assert_eq!(run(&args, b"").code, 2);
    let output = |variable: Option<(&str, &str)>, args: &[&str]| {
        let mut command = command();
        command.args(args).envs(variable).stdin(Stdio::null());
        let output = command.output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let good = ["produce", "-b", &broker, "--topic", TOPIC, "--log-format", "json"];
    let lines = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    };
    let quiet = lines(&output(None, &good));
    assert!(quiet.iter().all(|line| line["target"] == "console"), "{quiet:?}");
    for variable in ["RUST_LOG", "KAFKA_BATCHER_LOG"] {
        let loud = lines(&output(Some((variable, "info")), &good));
        let started = loud.iter().find(|line| line["message"] == "started");
        assert_eq!(started.unwrap_or_else(|| panic!("{loud:?}"))["endpoints"], broker.as_str());
        let collecting = loud.iter().find(|line| line["message"] == "collecting").unwrap();
        assert_eq!(collecting["span"]["topic"], TOPIC);
        let report = loud
            .iter()
            .filter_map(|line| line["message"].as_str())
            .any(|m| m.starts_with("shut down: 0 of 0"));
        assert!(report, "{loud:?}");
    }
    let failed = lines(&output(
        None,
        &["produce", "-b", &broker, "--topic", "t", "nosuchfile", "--log-format", "json"],
    ));
    assert_eq!((&failed[0]["level"], failed.len()), (&"ERROR".into(), 1), "{failed:?}");
    // What is no filter is a mistake, and named; it was ignored, and said so in a line of its own form.
    for (name, value) in [("RUST_LOG", "kafka_batcher=loud"), ("KAFKA_BATCHER_LOG", "info,kafka_batcher=9z")]
    {
        let wrong = lines(&output(Some((name, value)), &good));
        let said = wrong[0]["message"].as_str().unwrap();
        assert!(wrong.len() == 1 && said.contains(&format!("{name}={value}")), "{wrong:?}");
        let mut command = command();
        command.args(["produce", "-b", &broker, "--topic", TOPIC]).env(name, value).stdin(Stdio::null());
        let text = command.output().unwrap();
        let said = String::from_utf8(text.stderr).unwrap();
        assert_eq!(text.status.code(), Some(2), "{said}");
        assert!(said.contains(name) && said.lines().count() == 1, "{said}");
    }
    // Without it, RUST_LOG is heard as well.
    let text =
        output(Some(("RUST_LOG", "kafka_batcher=info")), &["produce", "-b", &broker, "--topic", TOPIC]);
    assert!(text.contains("INFO") && text.contains("started") && !text.contains('\x1b'), "{text}");
}

/// Whatever happens to an event, and however much is logged: its bytes are nobody's business.
#[test]
fn no_log_shows_a_payload() {
    // None of them is a part of a word of ours.
    let (key, value, header) = ("xk7Qpayload", "xv8Qpayload", "xh9Qpayload");
    let kafka = kafka();
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().to_str().unwrap();
    let mut text = String::new();
    for (format, fault) in [("text", false), ("json", true)] {
        if fault {
            // Poisoned, lost, refused, too large: each puts batches where errors are told.
            let by = |code| Fault::answer(code).on(Api::Produce);
            kafka.inject(by(ErrorCode::INVALID_RECORD).times(3));
            kafka.inject(by(ErrorCode::MESSAGE_TOO_LARGE).nth(4).times(3));
            kafka.inject(Fault::lose_answer().on(Api::Produce).nth(8));
            kafka.inject(by(ErrorCode::TOPIC_AUTHORIZATION_FAILED).nth(10));
        }
        let header = format!("h={header}");
        let mut command = command();
        command.args(["produce", "-b", &kafka.bootstrap(), "--topic", TOPIC, "--log-format", format]);
        command.args([
            "--spool",
            spool,
            "--spool-mode",
            "always",
            "--header",
            &header,
            "--key-separator",
            ":",
        ]);
        command.args([
            "--batch-size",
            "2",
            "--receipts=delivered",
            "--on-bad-line",
            "skip",
            "--max-batch-bytesize",
            "2000",
        ]);
        let mut child = command
            .env("RUST_LOG", "trace")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for n in 0..40 {
            writeln!(stdin, "{key}{n}:{value}{n}").unwrap();
        }
        // One that is refused.
        writeln!(stdin, "{key}:{}", value.repeat(300)).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        text += &String::from_utf8_lossy(&output.stderr);
        text += &String::from_utf8_lossy(&output.stdout);
    }
    let looked = command().args(["spool", "verify", spool]).env("RUST_LOG", "trace").output().unwrap();
    text += &String::from_utf8_lossy(&looked.stderr);
    // The log is as loud as it can be, and things went wrong.
    for said in ["DEBUG", "not acknowledged", "INVALID_RECORD", "dead letter"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    for payload in [key, value, header] {
        // As it is, as Rust shows bytes, and in hexadecimal.
        let bytes = payload.as_bytes();
        let listed = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for form in [payload, &listed, &hex] {
            let at = text.find(form);
            assert!(at.is_none(), "{form}: {}", at.map_or("", |at| &text[at.saturating_sub(200)..at + 50]));
        }
    }
}
