//! `produce --spool` and `spool` as a user meets them; killed processes have a test of their own (kill_real_kafka.rs).

mod support;

use std::io::Write;
use std::net::TcpListener;

use support::{Ran, Running, TOPIC, kafka, produce_to, records, run};

/// An address where nobody listens.
fn nobody() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("an address").to_string()
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|n| format!("key-{}|{n}\n", n % 5)).collect()
}

struct Spool(tempfile::TempDir);

impl Spool {
    fn new() -> Self {
        Spool(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> String {
        self.0.path().join("spool").to_str().expect("UTF-8").to_owned()
    }

    fn produce(&self, address: &str, args: &[&str], input: &str) -> Ran {
        let path = self.path();
        let own = ["--spool", path.as_str(), "--spool-after", "20ms", "--shutdown-timeout", "200ms"];
        produce_to(address, &[&own[..], &["--key-separator", "|"], args].concat(), input.as_bytes())
    }

    fn tool(&self, command: &str, args: &[&str]) -> Ran {
        run(&[&["spool", command, &self.path()], args].concat(), b"")
    }
}

/// The numbers in the topic, checked to be in order for each key.
fn arrived(kafka: &kafka_batcher_broker::EmbeddedKafka) -> Vec<u32> {
    let mut numbers = Vec::new();
    for partition in 0..4 {
        let of = records(kafka).into_iter().filter(|(p, _)| *p == partition);
        let here: Vec<u32> = of
            .map(|(_, record)| {
                let value = record.value.expect("a value");
                std::str::from_utf8(&value).expect("text").parse().expect("a number")
            })
            .collect();
        for key in 0..5 {
            assert!(here.iter().filter(|n| **n % 5 == key).is_sorted(), "key {key} is out of order");
        }
        numbers.extend(here);
    }
    numbers.sort_unstable();
    numbers
}

#[test]
fn without_kafka_lines_are_safe_in_the_spool_and_the_next_run_delivers_them_first() {
    let spool = Spool::new();
    let ran = spool.produce(&nobody(), &["--receipts=durable"], &lines(0..500));
    ran.ended_with(3).balances().says(&["nothing listens there"]);
    assert_eq!((ran.count("spooled"), ran.receipts().len()), (500, 500));
    for (line, receipt) in (1..).zip(ran.receipts()) {
        assert_eq!(*receipt, serde_json::json!({"type": "receipt", "line": line, "state": "durable"}));
    }
    let kafka = kafka();
    let ran = spool.produce(&kafka.bootstrap(), &[], &lines(500..600));
    ran.ended_with(0).balances().says(&["500 events", "delivered first"]);
    assert_eq!((ran.count("recovered"), ran.count("delivered")), (500, 600));
    assert_eq!(arrived(&kafka), (0..600).collect::<Vec<_>>());
}

#[test]
fn a_line_that_is_left_in_the_spool_is_told_so_to_who_asked_for_its_delivery() {
    let spool = Spool::new();
    let ran = spool.produce(&nobody(), &["--receipts=delivered"], "a|b\n");
    ran.ended_with(3);
    assert_eq!(*ran.receipts()[0], serde_json::json!({"type": "receipt", "line": 1, "state": "spooled"}));
}

#[test]
fn a_signal_leaves_what_is_not_delivered_in_the_spool() {
    let (spool, address) = (Spool::new(), nobody());
    let path = spool.path();
    let args = ["produce", "-b", &address, "-t", TOPIC, "--summary", "json", "--spool", &path];
    let rest = ["--spool-mode", "always", "--shutdown-timeout", "100ms", "--receipts=durable"];
    let mut running = Running::start(&[&args[..], &rest].concat());
    running.write("one\ntwo\n");
    assert_eq!(running.line()["state"], "durable");
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let ran = running.end();
    ran.ended_with(3).balances();
    assert_eq!(ran.count("spooled"), 2);
}

#[test]
fn a_second_process_is_told_who_has_the_spool() {
    let (spool, address) = (Spool::new(), nobody());
    let path = spool.path();
    let mut running =
        Running::start(&["produce", "-b", &address, "-t", TOPIC, "--spool", &path, "--spool-mode", "always"]);
    running.wait_until_it_says("nothing listens there");
    let pid = running.child.id().to_string();
    let ran = spool.produce(&address, &[], "late|1\n");
    assert_eq!(ran.code, 2, "{ran:?}");
    ran.says(&["in use by", &pid, "one process at a time"]);
}

#[test]
fn the_tools_show_what_is_there_beside_nobody_or_a_writer_and_replay_sends_it() {
    let spool = Spool::new();
    spool.produce(&nobody(), &[], &lines(0..20)).ended_with(3);
    let listed = spool.tool("ls", &["--json"]);
    assert_eq!(
        (listed.code, &listed.stdout[0]["events"], &listed.stdout[0]["topic"]),
        (0, &20.into(), &TOPIC.into())
    );
    let dumped = spool.tool("dump", &[]);
    assert_eq!(dumped.stdout.len(), 20);
    assert_eq!((&dumped.stdout[7]["key"], &dumped.stdout[7]["value"]), (&"key-2".into(), &"7".into()));
    assert_eq!(spool.tool("dump", &["--topic", "another"]).stdout.len(), 0);
    assert_eq!(spool.tool("dead-letters", &[]).stdout.len(), 0);
    let kafka = kafka();
    let replayed = spool.tool("replay", &["-b", &kafka.bootstrap()]);
    assert_eq!(replayed.code, 0, "{replayed:?}");
    replayed.says(&["20 of 20 events delivered"]);
    assert_eq!(arrived(&kafka), (0..20).collect::<Vec<_>>());
    assert_eq!(spool.tool("dump", &[]).stdout.len(), 0);
}

#[test]
fn an_export_is_what_dump_shows_replaces_nothing_unasked_and_does_not_touch_the_spool() {
    let spool = Spool::new();
    spool.produce(&nobody(), &[], &lines(0..20)).ended_with(3);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("events.ndjson");
    let to = ["--to", file.to_str().expect("UTF-8")];
    let exported = spool.tool("export", &to);
    assert_eq!(exported.code, 0, "{exported:?}");
    exported.says(&["exported 20 events", "events.ndjson"]);
    let text = std::fs::read_to_string(&file).expect("it is there");
    let read: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(read, spool.tool("dump", &[]).stdout);
    assert_eq!(read, spool.tool("export", &["--to", "-"]).stdout);
    spool.tool("export", &to).ended_with(2).says(&["is there already", "--force"]);
    spool.tool("export", &[&to[..], &["--force"]].concat()).ended_with(0);
    let within = std::path::Path::new(&spool.path()).join("events.ndjson");
    let within = within.to_str().expect("UTF-8");
    spool.tool("export", &["--to", within]).ended_with(2).says(&["lies inside of the spool"]);
    spool.tool("export", &["--to", "-", "--format", "segments"]).ended_with(2).says(&["needs a directory"]);
    spool.tool("export", &["--to", "/dev/full", "--force"]).ended_with(2).says(&["no regular file"]);
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("it is there").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(spool.tool("dump", &[]).stdout.len(), 20);
}

#[test]
fn an_export_of_a_damaged_spool_writes_what_is_whole_and_says_so() {
    let spool = Spool::new();
    for part in [0..20, 20..40] {
        spool.produce(&nobody(), &[], &lines(part)).ended_with(3);
    }
    let segment =
        std::path::Path::new(&spool.path()).join("topics").join(TOPIC).join(format!("{:020}.log", 0));
    let mut file = std::fs::OpenOptions::new().write(true).open(&segment).expect("the segment");
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(100)).expect("there");
    file.write_all(b"#damage#").expect("written");
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("events.ndjson");
    let exported = spool.tool("export", &["--to", to.to_str().expect("UTF-8")]);
    exported.ended_with(1).says(&["warning", "exported 20 events", "what is damaged is missing"]);
}

#[test]
fn replay_without_kafka_leaves_everything_there() {
    let spool = Spool::new();
    spool.produce(&nobody(), &[], &lines(0..20)).ended_with(3);
    let replayed = spool.tool("replay", &["-b", &nobody(), "--timeout", "200ms"]);
    assert_eq!(replayed.code, 3, "{replayed:?}");
    assert_eq!(spool.tool("dump", &[]).stdout.len(), 20);
}

#[test]
fn verify_names_every_damage() {
    let spool = Spool::new();
    spool.produce(&nobody(), &[], &lines(0..20)).ended_with(3);
    let verify = || {
        let output = support::command().args(["spool", "verify", &spool.path()]).output().expect("it runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let (code, said) = verify();
    assert!(code == Some(0) && said.contains("20 events") && said.contains("all whole"), "{said}");
    let segment =
        std::path::Path::new(&spool.path()).join("topics").join(TOPIC).join(format!("{:020}.log", 0));
    let mut file = std::fs::OpenOptions::new().write(true).open(&segment).expect("the segment");
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(100)).expect("there");
    file.write_all(b"#damage#").expect("written");
    let (code, said) = verify();
    assert!(code == Some(1) && said.contains("byte 0") && said.contains("20 events missing"), "{said}");
}

#[test]
fn a_directory_that_is_no_spool_is_a_mistake_of_the_user() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    for command in ["ls", "verify", "dump", "dead-letters"] {
        run(&["spool", command, path], b"").ended_with(2).says(&["is no spool"]);
    }
}
