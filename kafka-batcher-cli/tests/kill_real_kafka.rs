//! The command killed with SIGKILL again and again, against a real Kafka that is up, down, or killed as well: every line
//! that was reported durable is in Kafka at the end, once, and each key in order; read back by Kafka's Java consumer.
//!
//! Where Kafka is killed as well, it dies and comes back while a process lives: what is on its way then is in doubt, the
//! process that knows of it dies too, and a broker that was restarted knows only the last batch of each producer.
//!
//! `KAFKA_BATCHER_KILLS` says how often (10 each unless set; `.ci/full` takes 500 in all).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;

use kafka_batcher_testkit::{Error, Isolation, Options, RealKafka, Signal, Suite};
use serde_json::Value;

const KEYS: u32 = 7;
/// Lines that a process is fed at most before it is killed: enough for it to live until Kafka answers.
const FED: u32 = 30_000;

fn main() -> ExitCode {
    Suite::new(Options::one_broker())
        .test_alone("killed while kafka is well", |kafka| killed(kafka, Kafka::Up))
        .test_alone("killed while kafka is down", |kafka| killed(kafka, Kafka::Down))
        .test_alone("killed while kafka is killed as well", |kafka| killed(kafka, Kafka::Flapping))
        .run()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kafka {
    Up,
    Down,
    Flapping,
}

fn kills() -> u32 {
    std::env::var("KAFKA_BATCHER_KILLS").map_or(10, |n| n.parse().expect("KAFKA_BATCHER_KILLS is a number"))
}

/// The same numbers at each run (splitmix64): where a process is killed is drawn, not waited for.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(n)) as u32
    }
}

fn produce(kafka: &RealKafka, topic: &str, spool: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_kafka-batcher"))
        .args(["produce", "-b", kafka.bootstrap(), "--topic", topic, "--key-separator", "|"])
        .args(["--spool-mode", "always", "--spool-after", "500ms", "--receipts=durable", "--summary", "json"])
        .arg("--spool")
        .arg(spool)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts")
}

/// What happens to Kafka in one life of a process: each after so many receipts of it.
#[derive(Default)]
struct Flaps {
    dies: Option<u32>,
    comes_back: Option<u32>,
    /// Once it is back, the process is not killed before Kafka has taken something.
    takes_some: bool,
}

impl Flaps {
    /// In three lives: Kafka dies and comes back; it dies; it is down at the start and comes back.
    fn drawn(life: u32, receipts: u32, drawn: &mut Drawn) -> Self {
        let early = drawn.below(receipts.max(1));
        let late = early + drawn.below((receipts - early).max(1));
        let takes_some = drawn.below(2) == 0;
        match life % 3 {
            0 => Flaps { dies: Some(early), comes_back: Some(late), takes_some },
            1 => Flaps { dies: Some(late), ..Flaps::default() },
            _ => Flaps { dies: None, comes_back: Some(early), takes_some },
        }
    }

    /// Does what is due after so many receipts, while the process goes on: only its receipts are not read meanwhile.
    fn act(&mut self, kafka: &RealKafka, topic: &str, receipts: u32) -> Result<(), Error> {
        if self.dies.take_if(|at| *at <= receipts).is_some() {
            kafka.kill(1, Signal::Kill)?;
        }
        if self.comes_back.take_if(|at| *at <= receipts).is_some() {
            kafka.restart(1)?;
            let before = events_in(kafka, topic)?;
            // Not for ever: nothing is taken any more where everything had been taken before it died.
            for _ in 0..if self.takes_some { 1_000 } else { 0 } {
                if events_in(kafka, topic)? > before {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn events_in(kafka: &RealKafka, topic: &str) -> Result<i64, Error> {
    Ok(kafka.offsets(topic)?.iter().map(|partition| partition.latest).sum())
}

/// Feeds lines from number `first` on, kills the process after so many receipts, and answers the numbers that it had
/// reported durable by then. `meanwhile` is told how many receipts there are.
fn one_life(
    mut child: Child,
    first: u32,
    receipts: u32,
    mut meanwhile: impl FnMut(u32) -> Result<(), Error>,
) -> Result<Vec<u32>, Error> {
    let mut stdin = child.stdin.take().expect("stdin");
    let (over, hold) = mpsc::channel::<()>();
    let feeder = std::thread::spawn(move || {
        for number in first..first + FED {
            if writeln!(stdin, "key-{}|{number}", number % KEYS).is_err() {
                return;
            }
        }
        let _ = stdin.flush();
        // The pipe stays open: it must not come to an end by itself.
        let _ = hold.recv();
    });
    let mut durable = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut killed = false;
    loop {
        if !killed {
            meanwhile(durable.len() as u32)?;
        }
        if !killed && durable.len() >= receipts as usize {
            child.kill().expect("it lives");
            killed = true;
        }
        // What it had written before it died counts; a line that it had begun does not.
        let Some(Ok(line)) = lines.next() else { break };
        let Ok(object) = serde_json::from_str::<Value>(&line) else { break };
        assert_eq!(
            (object["type"].as_str(), object["state"].as_str()),
            (Some("receipt"), Some("durable")),
            "{line}"
        );
        let line = object["line"].as_u64().expect("a line number") as u32;
        durable.push(first + line - 1);
    }
    assert!(killed, "it ended by itself, after {} receipts", durable.len());
    child.wait().expect("it is dead");
    drop(over);
    feeder.join().expect("the feeder ends");
    Ok(durable)
}

/// Runs without input until nothing is left in the spool.
fn drain(kafka: &RealKafka, topic: &str, spool: &Path) -> Value {
    for _ in 0..10 {
        let mut child = produce(kafka, topic, spool);
        drop(child.stdin.take());
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let summary: Value = serde_json::from_str(text.lines().last().expect("a summary")).expect("JSON");
        match output.status.code() {
            Some(0) => return summary,
            Some(3) => {}
            code => panic!("exit code {code:?}: {summary}"),
        }
    }
    panic!("the spool is never empty");
}

fn killed(kafka: &RealKafka, how: Kafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("killed", 4, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let mut drawn = Drawn(u64::from(kills()));
    let (mut next, mut durable) = (0, BTreeSet::new());
    // How often Kafka died, and how often it came back, while a process lived.
    let (mut deaths, mut returns) = (0, 0);
    if how != Kafka::Up && !kafka.is_ours() {
        return Ok(());
    }
    if how == Kafka::Down {
        kafka.kill(1, Signal::Kill)?;
    }
    for life in 0..kills() {
        let child = produce(kafka, &topic, dir.path());
        // Now and then before it says anything.
        let receipts = if drawn.below(8) == 0 { 0 } else { 1 + drawn.below(FED - 1) };
        let mut flaps = match how {
            Kafka::Flapping => Flaps::drawn(life, receipts, &mut drawn),
            Kafka::Up | Kafka::Down => Flaps::default(),
        };
        deaths += u32::from(flaps.dies.is_some());
        returns += u32::from(flaps.comes_back.is_some());
        durable.extend(one_life(child, next, receipts, |receipts| flaps.act(kafka, &topic, receipts))?);
        assert_eq!((flaps.dies, flaps.comes_back), (None, None), "it was killed too early");
        next += FED;
    }
    if how == Kafka::Down || deaths > returns {
        kafka.restart(1)?;
    }
    let summary = drain(kafka, &topic, dir.path());
    let drained = summary["delivered"].as_u64().unwrap_or_default();

    let read = kafka.consume(&topic, Isolation::Committed)?;
    let mut times: BTreeMap<u32, u32> = BTreeMap::new();
    let mut last: BTreeMap<u32, (i32, u32)> = BTreeMap::new();
    let mut reordered = 0;
    for record in &read {
        let value = String::from_utf8(record.value.clone().expect("a value")).expect("UTF-8");
        let number: u32 = value.parse().expect("a number");
        *times.entry(number).or_default() += 1;
        let (partition, before) = *last.get(&(number % KEYS)).unwrap_or(&(record.partition, 0));
        assert_eq!(partition, record.partition, "a key has one partition");
        reordered += u32::from(number < before);
        last.insert(number % KEYS, (partition, number.max(before)));
    }
    let lost: Vec<&u32> = durable.iter().filter(|number| !times.contains_key(number)).collect();
    let twice = times.values().filter(|times| **times > 1).count();
    println!(
        "{how:?}: {} kills, kafka killed {deaths} times and started {returns} times while a process lived; {} lines \
         reported durable, {} in kafka, {drained} of them delivered only at the end; {} lost, {twice} twice, {reordered} out \
         of order",
        kills(),
        durable.len(),
        times.len(),
        lost.len(),
    );
    // Otherwise it was never killed while batches were on their way.
    assert!(how == Kafka::Down || drained < times.len() as u64, "nothing was delivered before the end");
    assert!(durable.len() > 100, "hardly anything was durable: {}", durable.len());
    let mut runs: Vec<(u32, u32, i32)> = Vec::new();
    for record in &read {
        let value = String::from_utf8(record.value.clone().expect("a value")).expect("UTF-8");
        let number: u32 = value.parse().expect("a number");
        if times[&number] > 1 {
            match runs.last_mut() {
                Some((_, last, partition))
                    if *partition == record.partition && number > *last && number - *last < 50 =>
                {
                    *last = number
                }
                _ => runs.push((number, number, record.partition)),
            }
        }
    }
    if !runs.is_empty() {
        println!("twice, as they lie there (first, last, partition): {runs:?}");
        for batch in kafka.dump_log(&topic)?.partition(runs[0].2) {
            println!("{batch:?}");
        }
    }
    assert!(lost.is_empty(), "{} durable lines are not in kafka, first {:?}", lost.len(), lost.first());
    assert_eq!((twice, reordered), (0, 0));
    Ok(())
}
