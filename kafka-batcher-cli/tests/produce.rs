//! `produce`: every form of input, what becomes of it in the broker, and what is said about it.

mod support;

use std::collections::BTreeSet;
use std::io::Write;

use kafka_batcher_broker::{AutoCreate, Compression, EmbeddedKafka};
use support::{command, kafka, pairs, produce, records, run, values};

fn some(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

#[test]
fn lines_of_standard_input_are_events_in_order() {
    let kafka = kafka();
    let input: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    for form in [&["--partition", "1"][..], &["--partition", "2", "-"]] {
        let ran = produce(&kafka, form, input.as_bytes());
        ran.ended_with(0).balances();
        assert_eq!((ran.count("lines"), ran.count("delivered")), (5000, 5000));
    }
    let expected: Vec<_> = (0..5000).map(|n| some(&format!("line {n}"))).collect();
    assert_eq!(values(&kafka, 1), expected);
    assert_eq!(values(&kafka, 2), expected);
}

#[test]
fn a_file_is_read_and_every_name_for_the_brokers_means_the_same() {
    let kafka = kafka();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"a\nb\n").expect("written");
    let path = file.path().to_str().expect("a path");
    let address = kafka.bootstrap();
    for option in ["-b", "--brokers", "--bootstrap-server"] {
        run(&["produce", option, &address, "--topic", "t", path], b"").ended_with(0);
    }
    assert_eq!(records(&kafka).len(), 6);
}

#[test]
fn bytes_pass_whatever_they_are() {
    let kafka = kafka();
    let input = b"\xff\xfe\x00\n\r\n\na\rb\r\r\nlast";
    produce(&kafka, &["--partition", "0"], input).ended_with(0).balances();
    let expected: [&[u8]; 5] = [b"\xff\xfe\x00", b"", b"", b"a\rb\r", b"last"];
    assert_eq!(values(&kafka, 0), expected.map(|value| Some(value.to_vec())));
}

#[test]
fn an_empty_input_is_no_event_and_no_failure() {
    let kafka = kafka();
    let ran = produce(&kafka, &[], b"");
    ran.ended_with(0).balances();
    assert_eq!((ran.count("lines"), ran.count("batches")), (0, 0));
}

#[test]
fn a_field_gives_the_key_and_each_key_stays_in_order() {
    let kafka = kafka();
    let data = include_str!("../../data/flights.ndjson");
    let ran = produce(&kafka, &["--key-field", "origin"], data.as_bytes());
    ran.ended_with(0).balances();
    assert_eq!(ran.count("delivered"), 20_000);
    let mut seen = std::collections::BTreeMap::<Vec<u8>, Vec<Vec<u8>>>::new();
    for (_, record) in records(&kafka) {
        seen.entry(record.key.expect("a key").to_vec())
            .or_default()
            .push(record.value.expect("a value").to_vec());
    }
    let mut expected = std::collections::BTreeMap::<Vec<u8>, Vec<Vec<u8>>>::new();
    for line in data.lines() {
        let flight: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let origin = flight["origin"].as_str().expect("an origin").as_bytes().to_vec();
        expected.entry(origin).or_default().push(line.as_bytes().to_vec());
    }
    assert!(seen == expected);
}

#[test]
fn a_field_that_no_line_has_is_warned_of() {
    let kafka = kafka();
    let address = kafka.bootstrap();
    let base = ["produce", "-b", &address, "--topic", "t", "--key-field"];
    let warning = "warning: not one line had a key: --key-field \"orgin\"";
    let input = b"{\"origin\":1}\n{\"origin\":2,\"orgi\":null}\n";
    run(&[&base[..], &["orgin"]].concat(), input)
        .ended_with(0)
        .says(&[warning, "2 lines sent without a key"]);
    let some = run(&[&base[..], &["orgi"]].concat(), input);
    some.ended_with(0).says(&["1 line sent without a key"]);
    assert!(!some.stderr.contains("warning"), "{some:?}");
    let json = produce(&kafka, &["--key-field", "orgi"], input);
    assert_eq!(json.count("without_key"), 1);
    assert_eq!(produce(&kafka, &[], b"a\nb\n").count("without_key"), 2);
}

#[test]
fn a_pointer_a_number_and_an_absent_field_give_keys_as_they_should() {
    let kafka = kafka();
    let input = b"{\"a\":{\"k\":7}}\n{\"a\":{\"k\":[1, 2]}}\n{}\n{\"a\":{\"k\":\"\\u00e9\"}}\n";
    produce(&kafka, &["--key-field", "/a/k"], input).ended_with(0);
    let keys: BTreeSet<_> = (0..4).flat_map(|p| pairs(&kafka, p)).map(|(key, _)| key).collect();
    assert_eq!(keys, BTreeSet::from([some("7"), some("[1, 2]"), None, some("é")]));
}

#[test]
fn a_separator_splits_key_and_value_and_a_null_value_is_null() {
    let kafka = kafka();
    let args = ["--key-separator", "\\t", "--null-value", "NULL", "--partition", "0"];
    produce(&kafka, &args, b"k\tv\tw\nk\tNULL\nk\t\n\tv\nalone\n").ended_with(0);
    let expected = [
        (some("k"), some("v\tw")),
        (some("k"), None),
        (some("k"), some("")),
        (some(""), some("v")),
        (None, some("alone")),
    ];
    assert_eq!(pairs(&kafka, 0), expected);
}

#[test]
fn a_value_field_is_all_that_is_sent() {
    let kafka = kafka();
    let args = ["--key-field", "k", "--value-field", "v", "--partition", "0"];
    produce(&kafka, &args, b"{\"k\":1,\"v\":{\"x\":[]}}\n{\"k\":2,\"v\":\"text\"}\n").ended_with(0);
    assert_eq!(pairs(&kafka, 0), [(some("1"), some("{\"x\":[]}")), (some("2"), some("text"))]);
}

#[test]
fn headers_are_on_every_event_with_duplicates_and_order() {
    let kafka = kafka();
    let args = ["--header", "source=test", "--header", "h=a=b", "--header", "h=", "--partition", "3"];
    produce(&kafka, &args, b"a\nb\n").ended_with(0);
    for (_, record) in records(&kafka) {
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|h| (h.key.to_vec(), h.value.as_ref().expect("a value").to_vec()))
            .collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"source", b"test"), (b"h", b"a=b"), (b"h", b"")];
        assert_eq!(headers, expected.map(|(k, v)| (k.to_vec(), v.to_vec())));
    }
}

#[test]
fn a_partitioner_by_name_is_the_one_used() {
    let kafka = kafka();
    let input: String = (0..400).map(|n| format!("{n}\n")).collect();
    produce(&kafka, &["--partitioner", "round_robin"], input.as_bytes()).ended_with(0);
    assert_eq!((0..4).map(|p| values(&kafka, p).len()).collect::<Vec<_>>(), [100; 4]);
    let ran = produce(&kafka, &["--partitioner", "murmur3"], b"a\n");
    ran.ended_with(2).says(&["murmur2"]);
}

#[test]
fn a_receipt_for_each_line_names_its_place() {
    let kafka = kafka();
    let input: String = (0..3000).map(|n| format!("k{}\t{n}\n", n % 50)).collect();
    let ran = produce(&kafka, &["--key-separator", "\\t", "--receipts=delivered"], input.as_bytes());
    ran.ended_with(0).balances();
    let mut lines = BTreeSet::new();
    for receipt in ran.receipts() {
        let (line, partition) = (receipt["line"].as_u64().expect("a line"), receipt["partition"].as_i64());
        let offset = receipt["offset"].as_u64().expect("an offset") as usize;
        let log = values(&kafka, partition.expect("a partition") as i32);
        assert_eq!(log[offset], some(&format!("{}", line - 1)), "{receipt}");
        assert!(lines.insert(line), "{receipt} twice");
    }
    assert_eq!(lines, (1..=3000).collect());
}

#[test]
fn durable_receipts_say_so_and_need_acknowledgements() {
    let kafka = kafka();
    let ran = produce(&kafka, &["--receipts=durable", "--partition", "1"], b"a\n");
    ran.ended_with(0);
    let expected = serde_json::json!({"type":"receipt","line":1,"state":"durable"});
    assert_eq!(ran.receipts(), [&expected]);
    produce(&kafka, &["--receipts=durable", "--acks", "0"], b"a\n")
        .ended_with(2)
        .says(&["--receipts", "--acks"]);
}

#[test]
fn without_acknowledgements_a_receipt_has_no_offset() {
    let kafka = kafka();
    let ran = produce(&kafka, &["--receipts=delivered", "--acks", "0", "--partition", "0"], b"a\n");
    ran.ended_with(0).balances();
    let expected = serde_json::json!({"type":"receipt","line":1,"partition":0,"offset":null});
    assert_eq!(ran.receipts(), [&expected]);
}

/// However the failure falls in time: in the middle of reading, or after the end of the input.
#[cfg(target_os = "linux")]
#[test]
fn receipts_that_cannot_be_written_are_an_error_and_never_a_hang() {
    let kafka = kafka();
    let address = kafka.bootstrap();
    let base = ["produce", "-b", &address, "--topic", "t", "--receipts=delivered"];
    let long: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    for input in ["a\nb\n", &long] {
        for wait in ["0ms", "50ms"] {
            let ran =
                support::run_into_full(&[&base[..], &["--max-wait-time", wait]].concat(), input.as_bytes());
            ran.ended_with(1)
                .says(&["error: receipts could not be written after line 0: ", " events are delivered"]);
            assert_eq!(ran.stderr.matches("could not be written").count(), 1, "{ran:?}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_summary_that_cannot_be_written_is_told_to_people_and_is_an_error() {
    let kafka = kafka();
    let address = kafka.bootstrap();
    let args = ["produce", "-b", &address, "--topic", "t", "--summary", "json", "--quiet"];
    let ran = support::run_into_full(&args, b"a\nb\n");
    ran.ended_with(1).says(&["the summary could not be written to stdout", "2 of 2 lines delivered"]);
}

#[test]
fn acks_are_taken_in_every_spelling() {
    let kafka = kafka();
    for acks in ["all", "-1", "1"] {
        produce(&kafka, &["--acks", acks], b"a\n").ended_with(0);
    }
    assert_eq!(records(&kafka).len(), 3);
    produce(&kafka, &["--acks", "2"], b"a\n").ended_with(2).says(&["--acks"]);
}

#[test]
fn batch_size_decides_how_many_events_are_in_a_batch() {
    let kafka = kafka();
    let args = ["--batch-size", "10", "--max-wait-time", "1h", "--partition", "0"];
    let ran = produce(&kafka, &args, "x\n".repeat(100).as_bytes());
    ran.ended_with(0).balances();
    assert_eq!(ran.count("batches"), 10);
    assert_eq!(ran.summary()["flush_reasons"]["count"], 10);
}

#[test]
fn a_missing_topic_is_created_only_when_that_is_allowed() {
    let kafka =
        EmbeddedKafka::builder().auto_create(AutoCreate::On).default_partitions(2).start().expect("starts");
    let refused = produce(&kafka, &["--timeout", "1s"], b"a\n");
    refused.ended_with(1).says(&[
        "\"t\"",
        "does not exist",
        "--allow-topic-auto-creation",
        "waiting up to 1 s for the topic",
    ]);
    assert_eq!((refused.count("lines"), kafka.partition_count("t")), (0, 0));
    produce(&kafka, &["--allow-topic-auto-creation"], b"a\n").ended_with(0);
    assert_eq!(kafka.partition_count("t"), 2);
}

#[test]
fn the_text_summary_goes_to_stderr_and_quiet_is_silent() {
    let kafka = kafka();
    let address = kafka.bootstrap();
    let base = ["produce", "-b", &address, "--topic", "t"];
    let ran = run(&base, b"a\nb\n");
    ran.ended_with(0).says(&["2 of 2 lines delivered"]);
    assert!(ran.stdout.is_empty());
    let quiet = run(&[&base[..], &["--quiet"]].concat(), b"a\nb\n");
    quiet.ended_with(0);
    assert_eq!((quiet.stdout.len(), quiet.stderr.as_str()), (0, ""));
}

#[test]
fn the_summary_is_the_last_line_and_has_every_field() {
    let kafka = kafka();
    let ran = produce(&kafka, &["--receipts=delivered"], b"a\nb\n");
    let summary = ran.summary();
    for field in [
        "accepted",
        "recovered",
        "delivered",
        "in_memory",
        "in_flight",
        "spooled",
        "dead_lettered",
        "in_doubt",
        "lost",
        "refused",
        "skipped",
        "without_key",
        "batches",
        "bytes",
        "lines",
        "possible_duplicates",
        "reorderings",
    ] {
        assert!(summary[field].is_u64(), "{field}: {summary}");
    }
    for field in ["wall_seconds", "cpu_seconds"] {
        assert!(summary[field].as_f64().is_some_and(|seconds| seconds > 0.0), "{field}: {summary}");
    }
    assert!(summary["flush_reasons"].is_object());
}

#[test]
fn help_has_examples_and_version_is_the_crates() {
    for (args, words) in [
        (&["--help"][..], &["Examples:", "Exit codes:", "produce", "demo", "broker", "bench"][..]),
        (&["produce", "--help"], &["Examples:", "--key-field", "--bootstrap-server", "Exit codes"]),
        (&["broker", "--help"], &["Examples:", "--discard"]),
        (&["bench", "--help"], &["Examples:", "--rate"]),
        (&["demo", "--help"], &["Exit code"]),
        (&["--version"], &[env!("CARGO_PKG_VERSION")]),
    ] {
        let output = command().args(args).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{args:?}");
        assert!(words.iter().all(|word| text.contains(word)), "{args:?}: {text}");
    }
}

#[test]
fn batches_are_compressed_as_the_option_says_and_a_codec_or_level_that_is_none_is_told() {
    let kafka = kafka();
    let input: String = (0..2000).map(|n| format!("the same words again and again, line {n}\n")).collect();
    for (option, codec) in [
        ("none", Compression::None),
        ("gzip:9", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd:3", Compression::Zstd),
    ] {
        let seen = kafka.batches("t", 0).len();
        produce(&kafka, &["--partition", "0", "--compression", option], input.as_bytes())
            .ended_with(0)
            .balances();
        let codecs: Vec<_> =
            kafka.batches("t", 0).iter().skip(seen).map(|batch| batch.header.compression()).collect();
        // The first may be of one line, which does not shrink.
        let right = |found: &Compression| *found == codec || *found == Compression::None;
        assert!(codecs.contains(&codec) && codecs.iter().all(right), "{option}: {codecs:?}");
    }
    for (bad, words) in [("zip", "none, gzip, snappy, lz4, zstd"), ("zstd:23", "22"), ("lz4:1", "no levels")]
    {
        produce(&kafka, &["--compression", bad], b"x\n").ended_with(2).says(&["--compression", words]);
    }
}
