//! Every row of the Elixir library's contract has tests: the table in DESIGN.md names them, and here it is checked that they exist.

use std::fs;
use std::path::Path;

const HEADING: &str = "### The contract, row by row";

/// The parts, settings, metrics and phash2; a row that is left out would otherwise not be missed.
const ROWS: &[&str] = &[
    "Supervisor",
    "AccumulatorsPoolSupervisor",
    "Collector",
    "Collector.Implementation, Collector.State",
    "Collector.Utils",
    "MessageObject",
    "Accumulator",
    "Accumulator.State",
    "BatchFlusher, DefaultBatchFlusher",
    "Behaviours.Collector",
    "Behaviours.Producer",
    "Producers.Base",
    "Producers.Kaffe",
    "Producers.KafkaEx",
    "ConnectionManager, its State",
    "Behaviours.TempStorage",
    "TempStorage, TempStorage.Batch",
    "TempStorage.Default",
    "ErrorNotifier, DefaultErrorNotifier",
    "PromEx plugin",
    "Config",
    "endpoints",
    "topic_name",
    "collect_by_partition",
    "partition_fn, partition_strategy",
    "batch_size",
    "max_wait_time",
    "min_delay",
    "max_batch_bytesize",
    "batch_flusher",
    "required_acks",
    "allow_topic_auto_creation",
    "sasl",
    "ssl",
    "telemetry",
    "kafka_topic_aliases, producer_buckets",
    "reconnect_timeout, recheck_kafka_availability_interval",
    "max_restart",
    "merge order",
    "metrics kept",
    "phash2",
];

/// So many defects does the list have.
const DEFECTS: u32 = 16;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All Rust of the workspace but this file, in one text.
fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("seed_contract.rs") {
            text.push_str(&fs::read_to_string(&path).expect("text"));
        }
    }
}

/// Whether this stands in the sources with one of these close before it.
fn is_test(rust: &str, what: &str, marks: &[&str]) -> bool {
    rust.match_indices(what).any(|(at, _)| {
        let before = rust.get(..at).unwrap_or_default();
        let near: String = before.chars().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect();
        marks.iter().any(|mark| near.contains(mark))
    })
}

#[test]
fn every_row_of_the_contract_names_tests_that_exist() {
    let design = fs::read_to_string(root().join("DESIGN.md")).expect("DESIGN.md");
    let section = design.split_once(HEADING).expect("the heading").1;
    let section = section.split("\n## ").next().expect("a section");
    let mut rust = String::new();
    for member in ["kafka-batcher-core", "kafka-batcher", "kafka-batcher-cli"] {
        sources(&root().join(member), &mut rust);
    }
    let mut rows = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [row, tests] = cells[..] else { panic!("not two cells: {line}") };
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row} names no test");
        for name in names {
            let exists = is_test(&rust, &format!("fn {name}("), &["#[test]", "#[tokio::test"])
                || is_test(&rust, &format!("\"{name}\""), &[".test(", ".test_alone("]);
            assert!(exists, "{row}: there is no test {name:?}");
        }
        rows.push(row.to_owned());
    }
    let expected = ROWS.iter().map(|row| (*row).to_owned());
    for row in expected.chain((1..=DEFECTS).map(|n| format!("defect {n}"))) {
        assert!(rows.contains(&row), "the table has no row {row:?}");
    }
}

/// A test that only a feature builds proves nothing where nobody builds it.
#[test]
fn tests_that_only_a_feature_builds_are_run_by_ci() {
    let ci = fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    let mut binaries = 0;
    for entry in fs::read_dir(root().join("kafka-batcher/tests")).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|end| end != "rs") || path.ends_with("seed_contract.rs") {
            continue;
        }
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let rust = fs::read_to_string(&path).expect("text");
        if rust.contains("feature = \"rdkafka\"") || rust.contains("producer::rdkafka::") {
            let mut words = ci.split_whitespace().skip_while(|word| *word != "--test");
            let runs = words.any(|word| word.trim_end_matches(')') == name);
            assert!(runs, ".ci/run does not run {name} with the feature");
            binaries += 1;
        }
    }
    assert!(
        binaries >= 2 && ci.contains("--features kafka-batcher/rdkafka"),
        "{binaries} test binaries need it"
    );
}
