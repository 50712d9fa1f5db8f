//! `kafka-batcher config`, and `produce` with a file, as a user meets them.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{TOPIC, command, kafka};

/// Exit code, stdout, stderr.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it was not killed"), text(output.stdout), text(output.stderr))
}

fn config(args: &[&str]) -> (i32, String, String) {
    run(command().arg("config").args(args))
}

fn written(dir: &Path, text: &str) -> PathBuf {
    let file = dir.join("k.toml");
    std::fs::write(&file, text).expect("a file");
    file
}

#[test]
fn the_file_to_begin_with_is_without_mistakes_and_shows_where_values_come_from() {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, text, _) = config(&["init"]);
    assert_eq!(code, 0);
    let file = written(dir.path(), &text);
    let name = file.to_str().expect("UTF-8");
    let (code, stdout, stderr) = config(&["check", name]);
    assert_eq!(
        (code, stdout, stderr.as_str()),
        (0, format!("{name}: no mistakes; 1 collector (events)\n"), "")
    );
    let (code, stdout, _) =
        run(command().args(["config", "show", name]).env("KAFKA_BATCHER__MEMORY", "10MiB"));
    assert_eq!(code, 0);
    let line =
        |key: &str| stdout.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("{key}: {stdout}"));
    assert!(line("endpoints").contains("k.toml:"), "{stdout}");
    assert!(line("memory = \"10MiB\"").ends_with("# KAFKA_BATCHER__MEMORY"), "{stdout}");
    assert!(line("max_block").ends_with("# built-in"), "{stdout}");
    let (code, stdout, _) = config(&["show", name, "--topic", "events"]);
    assert!(code == 0 && stdout.starts_with("[[collectors]]\ntopic_name = \"events\"\n"), "{stdout}");
    let (code, _, stderr) = config(&["show", name, "--topic", "evnts"]);
    assert!(code == 2 && stderr.contains("there are those of events"), "{stderr}");
}

#[test]
fn every_mistake_is_told_with_its_line_and_the_exit_code_is_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = written(dir.path(), "endpoints = [\"a:99999\"]\nbatch_sise = 1\n[spool]\nmode = \"x\"\n");
    let name = file.to_str().expect("UTF-8");
    let (code, stdout, stderr) = config(&["check", name]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    for place in [
        "k.toml:1:1: endpoints: ",
        "k.toml:2:1: batch_sise: not a setting; did you mean batch_size?",
        "k.toml:4:1: spool.mode: ",
    ] {
        assert!(stderr.contains(place), "{place} is not in {stderr}");
    }
    let (code, _, stderr) = config(&["check", "/nowhere/k.toml"]);
    assert!(code == 2 && stderr.contains("/nowhere/k.toml cannot be read"), "{stderr}");
}

#[test]
fn the_reference_is_what_stands_in_the_repository() {
    let (code, stdout, _) = config(&["reference"]);
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../CONFIGURATION.md");
    assert_eq!((code, stdout), (0, std::fs::read_to_string(here).expect("CONFIGURATION.md")));
}

#[test]
fn produce_takes_topic_brokers_and_spool_from_the_file_and_options_win() {
    let kafka = kafka();
    let dir = tempfile::tempdir().expect("a directory");
    let text = format!(
        "endpoints = [{:?}]\n[spool]\ndir = {:?}\nmode = \"always\"\n[[collectors]]\ntopic_name = {TOPIC:?}\nbatch_size = 1\n",
        kafka.bootstrap(),
        dir.path().join("spool"),
    );
    let file = written(dir.path(), &text);
    let input = dir.path().join("lines");
    std::fs::write(&input, "a\nb\nc\n").expect("a file");
    let produce = |more: &[&str]| {
        let mut command = command();
        command.arg("produce").arg("--config").arg(&file).args(["--summary", "json", "--key-separator", ":"]);
        run(command.args(more).arg(&input))
    };
    let (code, stdout, stderr) = produce(&["--partition", "0"]);
    assert_eq!(code, 0, "{stderr}");
    let summary: serde_json::Value = serde_json::from_str(stdout.trim()).expect("a summary");
    // One event a batch, as the file says.
    assert_eq!((&summary["delivered"], &summary["batches"]), (&3.into(), &3.into()), "{stdout}");
    assert!(dir.path().join("spool/format").exists());
    let (code, stdout, stderr) = produce(&["--partition", "0", "--batch-size", "100", "--spool-mode", "off"]);
    assert_eq!(code, 0, "{stderr}");
    let summary: serde_json::Value = serde_json::from_str(stdout.trim()).expect("a summary");
    assert_eq!((&summary["delivered"], &summary["batches"]), (&3.into(), &1.into()), "{stdout}");
}

#[test]
fn what_produce_cannot_start_with_is_a_usage_error_that_names_the_option() {
    let produce = |args: &[&str]| run(command().arg("produce").args(args).arg("/dev/null"));
    for (args, words) in [
        (vec![], "no topic: give --topic NAME"),
        (vec!["-t", "t"], "no brokers: give -b HOST:PORT"),
        (vec!["-t", "t", "-b", "a:1", "--memory", "1MiB"], "--memory: max_batch_bytesize: memory of 1048576"),
        (vec!["-t", "t", "-b", "http://a"], "--brokers: \"http://a\" is not an address"),
        (vec!["-t", "t", "-b", "a:1", "--spool-mode", "always"], "--spool-mode needs a spool: --spool DIR"),
        (
            vec!["-t", "t", "-b", "a:1", "--spool", "/tmp/x", "--spool-max-age", "0"],
            "--spool-max-age: 0 would drop everything",
        ),
        (
            vec!["-t", "t", "-b", "a:1", "--spool", "/tmp/x", "--spool-max-bytes", "0"],
            "--spool-max-bytes: 0 would hold nothing",
        ),
        (
            vec!["-t", "t", "-b", "a:1", "--spool", "/tmp/x", "--spool-after", "0"],
            "--spool-after: 0 would call",
        ),
    ] {
        let (code, stdout, stderr) = produce(&args);
        assert!(code == 2 && stderr.contains(words) && stdout.is_empty(), "{args:?}: {code} {stderr}");
    }
}

/// The bound of a request stood in its way, for which there is no option.
#[test]
fn batches_larger_than_the_default_request_are_had_by_asking_for_them() {
    let kafka = kafka();
    let args =
        ["produce", "-t", TOPIC, "-b", &kafka.bootstrap(), "--max-batch-bytesize", "16MiB", "/dev/null"];
    let (code, _, stderr) = run(command().args(args));
    assert_eq!(code, 0, "{stderr}");
}
