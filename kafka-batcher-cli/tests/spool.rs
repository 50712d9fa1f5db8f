//! `produce --spool` and `spool` as a user meets them; killed processes have a test of their own (kill_real_kafka.rs).

mod support;

use std::io::Write;

use kafka_batcher::storage::{DiskSettings, DiskStorage};
use support::{Ran, Running, TOPIC, kafka, produce_to, records, run};

/// An address where nobody listens; a free port might be another test's in a moment.
fn nobody() -> String {
    "127.0.0.1:1".to_owned()
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
        self.produce_after("20ms", address, args, input)
    }

    /// With this `--spool-after`: an hour where new lines must not go to disk however busy the machine is.
    fn produce_after(&self, after: &str, address: &str, args: &[&str], input: &str) -> Ran {
        let path = self.path();
        // A broker that is well is waited for, however busy the machine is.
        let patience = if address == nobody() { "200ms" } else { "1min" };
        let own = ["--spool", path.as_str(), "--spool-after", after, "--shutdown-timeout", patience];
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

/// Overwrites a few bytes of the first batch of events.
fn damage(spool: &Spool, file: &str) {
    let segment = std::path::Path::new(&spool.path()).join("topics").join(TOPIC).join(file);
    let mut file = std::fs::OpenOptions::new().write(true).open(&segment).expect("the segment");
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(100)).expect("there");
    file.write_all(b"#damage#").expect("written");
}

const FIRST: &str = "00000000000000000000.log";

#[test]
fn what_a_damaged_spool_lost_is_counted_and_ends_with_1() {
    // Forty lines wait, a batch of twenty is overwritten. It said: 20 recovered, 20 delivered, none lost, exit code 0.
    let (spool, kafka) = (Spool::new(), kafka());
    let fill = |numbers: [std::ops::Range<u32>; 2]| {
        for part in numbers {
            spool.produce(&nobody(), &["--partition", "0"], &lines(part)).ended_with(3);
        }
    };
    fill([0..20, 20..40]);
    damage(&spool, FIRST);
    let ran = spool.produce_after("1h", &kafka.bootstrap(), &["--quiet"], "");
    ran.ended_with(1).balances().says(&["20 events missing", "20 lost"]);
    assert_eq!(["recovered", "delivered", "lost"].map(|of| ran.count(of)), [40, 20, 20]);
    assert_eq!(arrived(&kafka), (20..40).collect::<Vec<_>>());
    // The next run has nothing to tell.
    spool.produce_after("1h", &kafka.bootstrap(), &[], "").ended_with(0);
}

#[test]
fn replay_and_resending_end_with_1_where_the_spool_is_damaged() {
    let (spool, kafka) = (Spool::new(), kafka());
    for part in [0..20, 20..40] {
        spool.produce(&nobody(), &["--partition", "0"], &lines(part)).ended_with(3);
    }
    damage(&spool, FIRST);
    let ran = spool.tool("replay", &["-b", &kafka.bootstrap()]);
    ran.ended_with(1).says(&["20 of 40 events delivered", "20 lost"]);
    let (spool, kafka) = (Spool::new(), support::kafka());
    refused(&spool, &kafka);
    kafka.set_topic_config(TOPIC, "max.message.bytes", "1000").expect("a topic");
    damage(&spool, &format!("dead-letters/{FIRST}"));
    let ran = spool.tool("dead-letters", &["--resend", "-b", &kafka.bootstrap()]);
    ran.ended_with(1).says(&["1 event is lost", "1 dead letter put back"]);
}

#[test]
fn an_export_of_a_damaged_spool_writes_what_is_whole_and_says_so() {
    let spool = Spool::new();
    for part in [0..20, 20..40] {
        spool.produce(&nobody(), &[], &lines(part)).ended_with(3);
    }
    damage(&spool, FIRST);
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
fn a_full_spool_gives_the_oldest_lines_up_where_it_is_told_so_and_reading_goes_on() {
    let spool = Spool::new();
    let input: String = (0..3_000).map(|n| format!("|{n:0100}\n")).collect();
    let full = ["--spool-max-bytes", "64KiB", "--spool-on-full", "drop_oldest", "--partition", "0"];
    let small = ["--batch-size", "100", "--max-batch-bytesize", "20000", "--memory", "192KiB"];
    let ran = spool.produce(&nobody(), &[full, small].concat(), &input);
    ran.ended_with(1).balances().says(&["lost"]);
    let (kept, lost) = (ran.count("spooled"), ran.count("lost"));
    assert!(kept > 100 && kept + lost == 3_000, "{kept} kept, {lost} lost");
    let kafka = kafka();
    spool.tool("replay", &["-b", &kafka.bootstrap()]).ended_with(0);
    assert_eq!(arrived(&kafka), (3_000 - kept as u32..3_000).collect::<Vec<_>>(), "the newest");
}

#[test]
fn lines_that_are_too_old_are_dropped_where_it_is_told_so() {
    let spool = Spool::new();
    spool.produce(&nobody(), &[], &lines(0..20)).ended_with(3);
    let kafka = kafka();
    let ran = spool.produce_after("1h", &kafka.bootstrap(), &["--spool-max-age", "1ms"], &lines(20..30));
    ran.ended_with(1).balances().says(&["20 lost"]);
    assert_eq!((ran.count("lost"), ran.count("delivered")), (20, 10));
    assert_eq!(arrived(&kafka), (20..30).collect::<Vec<_>>());
}

/// Two lines that are too large for the broker among eight that are not: delivered, and put aside.
fn refused(spool: &Spool, kafka: &kafka_batcher_broker::EmbeddedKafka) {
    kafka.set_topic_config(TOPIC, "max.message.bytes", "400").expect("a topic");
    let input = format!("{}key-0|{:0500}\n{}key-0|{:0500}\n", lines(0..4), 4, lines(5..9), 9);
    spool.produce(&kafka.bootstrap(), &[], &input).ended_with(1);
    assert_eq!(arrived(kafka), [0, 1, 2, 3, 5, 6, 7, 8]);
}

#[test]
fn dead_letters_are_sent_again_once_what_they_were_refused_for_is_mended() {
    let (spool, kafka) = (Spool::new(), kafka());
    let address = kafka.bootstrap();
    refused(&spool, &kafka);
    let listed = spool.tool("dead-letters", &[]).stdout;
    assert_eq!(
        (listed.len(), &listed[0]["reason"], &listed[0]["headers"]),
        (2, &"too_large".into(), &serde_json::json!([]))
    );
    // Nothing is mended yet.
    let ran = spool.tool("dead-letters", &["--resend", "-b", &address]);
    ran.ended_with(1).says(&["2 dead letters put back", "0 of 2 events delivered", "2 put aside"]);
    assert_eq!(spool.tool("dead-letters", &[]).stdout.len(), 2);
    // Kafka is away: they wait in the spool, and the next run sends them.
    let ran = spool.tool("dead-letters", &["--resend", "-b", &nobody(), "--timeout", "200ms"]);
    ran.ended_with(3).says(&["2 dead letters put back", "2 events are left in the spool"]);
    assert_eq!(spool.tool("dead-letters", &[]).stdout.len(), 0);
    let dumped = spool.tool("dump", &[]).stdout;
    assert!(
        dumped.len() == 2 && dumped.iter().all(|event| event["headers"] == serde_json::json!([])),
        "{dumped:?}"
    );
    kafka.set_topic_config(TOPIC, "max.message.bytes", "1000").expect("a topic");
    spool.tool("replay", &["-b", &address]).ended_with(0).says(&["2 of 2 events delivered"]);
    assert_eq!(arrived(&kafka), (0..10).collect::<Vec<_>>());
    spool
        .tool("dead-letters", &["--resend", "-b", &address])
        .ended_with(0)
        .says(&["there are no dead letters"]);
    assert_eq!(arrived(&kafka).len(), 10);
}

#[test]
fn only_the_topic_that_is_named_is_sent() {
    let (spool, kafka) = (Spool::new(), kafka());
    let address = kafka.bootstrap();
    refused(&spool, &kafka);
    kafka.set_topic_config(TOPIC, "max.message.bytes", "1000").expect("a topic");
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("other", 1)).expect("a topic");
    let path = spool.path();
    let args = ["produce", "-b", &nobody(), "-t", "other", "--spool", &path, "--spool-after", "20ms"];
    run(&[&args[..], &["--shutdown-timeout", "200ms", "--summary", "json"]].concat(), b"waits\n")
        .ended_with(3);
    let ran = spool.tool("dead-letters", &["--resend", "-t", "other", "-b", &address]);
    ran.ended_with(0).says(&["there are no dead letters"]);
    spool.tool("dead-letters", &["--resend", "-t", TOPIC, "-b", &address]).ended_with(0).says(&["2 of 2"]);
    assert_eq!(arrived(&kafka), (0..10).collect::<Vec<_>>());
    spool.tool("replay", &["-t", TOPIC, "-b", &address]).ended_with(0).says(&["0 of 0"]);
    assert!(kafka.log("other", 0).is_empty());
    spool.tool("replay", &["-t", "other", "-b", &address]).ended_with(0).says(&["1 of 1"]);
    assert_eq!(kafka.log("other", 0).len(), 1);
}

#[test]
fn resending_needs_brokers_and_a_topic_that_is_there() {
    let (spool, kafka) = (Spool::new(), kafka());
    refused(&spool, &kafka);
    spool.tool("dead-letters", &["--resend"]).ended_with(2).says(&["--brokers"]);
    spool.tool("dead-letters", &["-b", "localhost"]).ended_with(2).says(&["--resend"]);
    let held = DiskStorage::new(DiskSettings::new(spool.path())).expect("nobody has it");
    spool.tool("dead-letters", &["--resend", "-b", &nobody()]).ended_with(2).says(&["in use by"]);
    drop(held);
    for command in ["dump", "dead-letters"] {
        spool.tool(command, &["-t", "flihgts"]).ended_with(2).says(&["has no topic \"flihgts\"", TOPIC]);
    }
    spool
        .tool("replay", &["-t", "flihgts", "-b", &nobody()])
        .ended_with(2)
        .says(&["has no topic \"flihgts\""]);
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
    damage(&spool, FIRST);
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

#[test]
fn a_directory_of_somebody_elses_is_refused_and_a_stray_file_does_not_hide_what_is_there() {
    let spool = Spool::new();
    let strange = spool.0.path().join("photos");
    std::fs::create_dir(&strange).expect("a directory");
    std::fs::write(strange.join("me.jpg"), "x").expect("a file");
    let strange = strange.to_str().expect("UTF-8");
    let produce = ["produce", "-b", &nobody(), "-t", TOPIC, "--spool", strange];
    run(&produce, b"a\n").ended_with(2).says(&["is no spool, and not empty (there is \"me.jpg\")"]);
    assert_eq!(std::fs::read_dir(strange).expect("a directory").count(), 1, "nothing was put there");
    let file = format!("{strange}/me.jpg");
    run(&["produce", "-b", &nobody(), "-t", TOPIC, "--spool", &file], b"a\n")
        .ended_with(2)
        .says(&["is a file"]);
    run(&["spool", "ls", &file], b"").ended_with(2).says(&["is a file, and no spool"]);
    run(&["spool", "ls", &format!("{strange}/none")], b"").ended_with(2).says(&["does not exist"]);

    spool.produce(&nobody(), &[], &lines(0..3)).ended_with(3);
    std::fs::write(spool.0.path().join("spool/topics/.DS_Store"), "x").expect("a file");
    assert_eq!(spool.tool("dump", &[]).stdout.len(), 3);
    let kafka = kafka();
    spool.tool("replay", &["-b", &kafka.bootstrap()]).ended_with(0).says(&["3 of 3 events delivered"]);
}

#[test]
fn what_lies_there_of_another_topic_is_told() {
    let (spool, kafka) = (Spool::new(), kafka());
    spool.produce(&nobody(), &[], &lines(0..20)).ended_with(3);
    kafka.create_topic(kafka_batcher_broker::TopicSpec::new("other", 1)).expect("a topic");
    let path = spool.path();
    let args = ["produce", "-b", &kafka.bootstrap(), "-t", "other", "--spool", &path];
    run(&args, b"a\n").ended_with(0).says(&["the spool also holds 20 events of topic \"t\"", "spool replay"]);
    spool.tool("replay", &["-b", &kafka.bootstrap()]).ended_with(0);
    // Nor one that only ever said how many partitions it has.
    spool.produce(&kafka.bootstrap(), &[], &lines(20..21)).ended_with(0);
    let ran = run(&args, b"b\n");
    assert!(!ran.ended_with(0).stderr.contains("also holds"), "{ran:?}");
}
