//! Runs the command as a user does, and reads what it says.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kafka_batcher_broker::{EmbeddedKafka, Record};
use serde_json::Value;

/// The topic of [`kafka`].
pub(crate) const TOPIC: &str = "t";

/// A broker with a topic of four partitions.
pub(crate) fn kafka() -> EmbeddedKafka {
    EmbeddedKafka::builder().topic(TOPIC, 4).start().expect("the broker starts")
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("kafka-batcher"));
    command.env_remove("KAFKA_BATCHER_LOG").env_remove("RUST_LOG");
    command
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<Value>,
    pub(crate) stderr: String,
}

impl Ran {
    /// The last line of stdout.
    pub(crate) fn summary(&self) -> &Value {
        let last = self.stdout.last().unwrap_or_else(|| panic!("no summary: {self:?}"));
        assert_eq!(last["type"], "summary", "{self:?}");
        last
    }

    pub(crate) fn count(&self, field: &str) -> u64 {
        self.summary()[field].as_u64().unwrap_or_else(|| panic!("no {field}: {self:?}"))
    }

    /// Everything but the summary.
    pub(crate) fn receipts(&self) -> Vec<&Value> {
        let receipts: Vec<&Value> = self.stdout.iter().filter(|object| object["type"] != "summary").collect();
        assert!(receipts.iter().all(|object| object["type"] == "receipt"), "{self:?}");
        receipts
    }

    /// Every event that was accepted is somewhere, and every line has a fate.
    pub(crate) fn balances(&self) -> &Self {
        let sum = ["delivered", "in_memory", "in_flight", "spooled", "dead_lettered", "in_doubt", "lost"];
        let sum: u64 = sum.iter().map(|field| self.count(field)).sum();
        assert_eq!(self.count("accepted") + self.count("recovered"), sum, "{self:?}");
        assert_eq!(self.count("exit_code"), self.code as u64, "{self:?}");
        self
    }

    pub(crate) fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        self
    }

    pub(crate) fn ended_with(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

fn objects(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("stdout is UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}

/// Runs the command with these arguments and this on standard input.
pub(crate) fn run(args: &[&str], input: &[u8]) -> Ran {
    let mut child = command()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_vec();
    // It may end without reading all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the command ends");
    writer.join().expect("the writer ends");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: objects(&output.stdout),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs the command where nothing can be written to stdout: a disk that is full.
#[cfg(target_os = "linux")]
pub(crate) fn run_into_full(args: &[&str], input: &[u8]) -> Ran {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(input).expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    let output = command().args(args).stdin(file).stdout(full).output().expect("the command runs");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: Vec::new(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `produce` to this broker's topic, with a JSON summary.
pub(crate) fn produce(kafka: &EmbeddedKafka, args: &[&str], input: &[u8]) -> Ran {
    produce_to(&kafka.bootstrap(), args, input)
}

pub(crate) fn produce_to(address: &str, args: &[&str], input: &[u8]) -> Ran {
    let own = ["produce", "--brokers", address, "--summary", "json"];
    let topic: &[&str] = if args.contains(&"--topic") { &[] } else { &["--topic", TOPIC] };
    run(&[&own, topic, args].concat(), input)
}

/// Every record of the topic, with its partition.
pub(crate) fn records(kafka: &EmbeddedKafka) -> Vec<(i32, Record)> {
    (0..4).flat_map(|p| kafka.log(TOPIC, p).into_iter().map(move |record| (p, record))).collect()
}

pub(crate) type Pair = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Keys and values in one partition.
pub(crate) fn pairs(kafka: &EmbeddedKafka, partition: i32) -> Vec<Pair> {
    let bytes = |bytes: &Option<_>| bytes.as_ref().map(|bytes: &bytes::Bytes| bytes.to_vec());
    kafka.log(TOPIC, partition).iter().map(|record| (bytes(&record.key), bytes(&record.value))).collect()
}

/// The values in one partition.
pub(crate) fn values(kafka: &EmbeddedKafka, partition: i32) -> Vec<Option<Vec<u8>>> {
    pairs(kafka, partition).into_iter().map(|(_, value)| value).collect()
}

/// A command at work, with its standard input and output in our hands.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<Lines<BufReader<ChildStdout>>>,
    pub(crate) stderr: Lines<BufReader<std::process::ChildStderr>>,
    pub(crate) heard: String,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Running {
        let mut child = command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        Running {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(|out| BufReader::new(out).lines()),
            stderr: BufReader::new(child.stderr.take().expect("stderr")).lines(),
            child,
            heard: String::new(),
        }
    }

    pub(crate) fn produce(kafka: &EmbeddedKafka, args: &[&str]) -> Running {
        let bootstrap = kafka.bootstrap();
        let own = ["produce", "--brokers", &bootstrap, "--topic", TOPIC, "--summary", "json"];
        Running::start(&[&own, args].concat())
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.stdin.as_mut().expect("stdin").write_all(text.as_bytes()).expect("it reads");
    }

    /// The next line of stdout, which blocks until there is one.
    pub(crate) fn line(&mut self) -> Value {
        let lines = self.stdout.as_mut().expect("stdout");
        let line = lines.next().expect("a line").expect("stdout is read");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"))
    }

    /// Waits until it says so on stderr.
    pub(crate) fn wait_until_it_says(&mut self, words: &str) {
        for line in self.stderr.by_ref() {
            let line = line.expect("stderr is read");
            self.heard.push_str(&line);
            self.heard.push('\n');
            if line.contains(words) {
                return;
            }
        }
        panic!("it never said {words:?}: {}", self.heard);
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("it is there");
    }

    /// Waits for its end; standard input stays open until then.
    pub(crate) fn end(mut self) -> Ran {
        let mut stdout = Vec::new();
        for line in self.stdout.take().into_iter().flatten() {
            stdout.extend(objects(line.expect("stdout is read").as_bytes()));
        }
        for line in self.stderr.by_ref() {
            self.heard.push_str(&line.expect("stderr is read"));
            self.heard.push('\n');
        }
        let code = self.child.wait().expect("it ends").code().unwrap_or(-1);
        drop(self.stdin.take());
        Ran { code, stdout, stderr: std::mem::take(&mut self.heard) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A failed assertion must not leave a process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
