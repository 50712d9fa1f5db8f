//! The command and a secured Kafka: one file, the right and the wrong password, and what waits in the spool meanwhile. The password is
//! searched for in everything that the command writes.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use kafka_batcher_testkit::{Error, Isolation, Options, RealKafka, Suite};

const PLANTED: &str = "hunter2-planted";
const RIGHT: &str = "alice-secret";

fn main() -> ExitCode {
    // As long as Kafka's own: a broker that is busy for a moment is not to be fenced.
    Suite::new(Options::secured().session_timeout(Duration::from_secs(9)))
        .test("one file leads from the readme to the first event of a SASL_SSL cluster", first_event)
        .test(
            "a wrong password keeps the lines in the spool, and replay with the right one delivers them",
            replayed,
        )
        .run()
}

/// Runs the command at its most talkative; exit code, and all that it wrote.
fn run(args: &[&str], password: Option<&str>, input: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-batcher"));
    command.args(args).env("KAFKA_BATCHER_LOG", "trace");
    if let Some(password) = password {
        command.env("KAFKA_BATCHER__SASL__PASSWORD", password);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_owned();
    // It may end without reading all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("the command ends");
    writer.join().expect("the writer ends");
    let all = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&all).into_owned();
    for secret in [PLANTED, RIGHT] {
        assert!(!said.contains(secret), "{args:?} shows {secret}: {said}");
    }
    (output.status.code().unwrap_or(-1), said)
}

/// The file of the README.
fn file(kafka: &RealKafka, topic: &str, password: &str) -> Result<(tempfile::TempDir, String), Error> {
    let dir = tempfile::tempdir().expect("a directory");
    let text = format!(
        "endpoints = [\"{}\"]\n[ssl]\nca_file = {:?}\n[sasl]\nmechanism = \"scram_sha_512\"\nlogin = \"alice\"\n{password}\n\
         [[collectors]]\ntopic_name = \"{topic}\"\n",
        kafka.listener("SASL_SSL")?,
        kafka.security_file("ca.pem")?
    );
    let path = dir.path().join("kafka.toml");
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("UTF-8").to_owned();
    Ok((dir, path))
}

fn lines(kafka: &RealKafka, topic: &str) -> Result<Vec<String>, Error> {
    let values = kafka
        .consume(topic, Isolation::Committed)?
        .into_iter()
        .map(|record| record.value.unwrap_or_default());
    Ok(values.map(|value| String::from_utf8(value).expect("text")).collect())
}

fn first_event(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("first", 1, &[])?;
    let (dir, path) = file(kafka, &topic, &format!("password = \"{RIGHT}\""))?;
    assert_eq!(run(&["config", "check", &path], None, "").0, 0);
    let (code, shown) = run(&["config", "show", &path], None, "");
    assert!(code == 0 && shown.contains("# password: set, not shown"), "{shown}");
    let (code, said) = run(&["produce", "--config", &path], None, "a\nb\nc\n");
    assert_eq!(code, 0, "{said}");
    assert_eq!(lines(kafka, &topic)?, ["a", "b", "c"]);
    drop(dir);
    Ok(())
}

fn replayed(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("replayed", 1, &[])?;
    let (dir, path) = file(kafka, &topic, "")?;
    let spool = dir.path().join("spool").to_str().expect("UTF-8").to_owned();
    let (code, said) = run(&["config", "check", &path], None, "");
    assert!(code == 2 && said.contains("sasl.password: missing"), "{said}");

    let produce = ["produce", "--config", &path, "--spool", &spool];
    let hasty = ["--spool-after", "20ms", "--shutdown-timeout", "15s"];
    let (code, said) = run(&[&produce[..], &hasty].concat(), Some(PLANTED), "a\nb\nc\n");
    assert_eq!(code, 3, "{said}");
    for words in ["does not let \"alice\" in", &format!("kafka-batcher spool replay {spool} --config {path}")]
    {
        assert!(said.contains(words), "{words:?} is missing: {said}");
    }
    let (code, said) =
        run(&["spool", "replay", &spool, "--config", &path, "--timeout", "2s"], Some(PLANTED), "");
    assert!(code == 3 && said.contains("3 events are left in the spool"), "{said}");
    let (code, said) = run(&["spool", "replay", &spool, "--config", &path], Some(RIGHT), "");
    assert_eq!(code, 0, "{said}");
    assert_eq!(lines(kafka, &topic)?, ["a", "b", "c"]);

    // Trying again does not help, so that it does not try for long.
    let (code, said) = run(&["produce", "--config", &path, "--timeout", "1h"], Some(PLANTED), "d\n");
    assert!(code == 1 && said.contains("check sasl.login and the password"), "{said}");
    assert!(said.contains("waiting up to 3 s for Kafka"), "{said}");
    Ok(())
}
