//! What is served, the alert rules and the dashboard, before Prometheus itself: `promtool` lints the names and tests the rules, and a
//! real `prometheus` scrapes a command at work and evaluates every query.
//!
//! Both come with Debian's package `prometheus`. Where they are missing this is listed as ignored, with the reason; with
//! `KAFKA_BATCHER_REQUIRE_KAFKA=1` (as `.ci/run` sets it) it fails.

mod support;
#[path = "support/http.rs"]
mod web;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, Stdio};

use kafka_batcher_broker::{Api, ErrorCode, Fault};
use kafka_batcher_testkit::{Scrape, kafka_is_required};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use support::{Running, kafka};
use web::{escaped, get, metrics_address, try_get};

const DEV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dev");
const PREFIX: &str = "kafka_batcher_";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests: [(&str, fn()); 3] = [
        ("promtool finds nothing wrong with the names", names),
        ("promtool finds the alert rules right and their tests pass", rules),
        ("prometheus evaluates every query of dashboard and rules over a real scrape", queries),
    ];
    let missing = ["promtool", "prometheus"].iter().find(|tool| {
        Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    });
    let trials = tests.into_iter().map(|(name, test)| match missing {
        None => Trial::test(name, move || {
            test();
            Ok(())
        }),
        Some(tool) if kafka_is_required() => Trial::test(name, move || {
            Err(Failed::from(format!("{tool} is not installed (apt-get install prometheus)")))
        }),
        Some(tool) => Trial::test(format!("{name} (needs {tool}: apt-get install prometheus)"), || Ok(()))
            .with_ignored_flag(true),
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// A command at work with a spool, after some errors: every metric has something to say.
struct Site {
    running: Running,
    address: String,
    _kafka: kafka_batcher_broker::EmbeddedKafka,
    _dir: tempfile::TempDir,
}

impl Site {
    fn start() -> Site {
        let (kafka, dir) = (kafka(), tempfile::tempdir().expect("a directory"));
        kafka.inject(Fault::answer(ErrorCode::NOT_LEADER_OR_FOLLOWER).on(Api::Produce).times(2));
        let args =
            ["--metrics-addr", "127.0.0.1:0", "--receipts=delivered", "--spool-mode", "always", "--spool"];
        let spool = dir.path().to_str().expect("UTF-8");
        let mut running = Running::produce(&kafka, &[&args[..], &[spool]].concat());
        running.wait_until_it_says("http://");
        let address = running.heard.lines().find_map(metrics_address).expect("an address");
        let mut site = Site { running, address, _kafka: kafka, _dir: dir };
        site.work();
        site
    }

    fn work(&mut self) {
        self.running.write("a\nb\n");
        (0..2).for_each(|_| drop(self.running.line()));
    }

    fn scrape(&self) -> String {
        get(&self.address, "/metrics").body
    }
}

/// What a tool says to this on its standard input.
fn said(tool: &mut Command, input: &str) -> (bool, String) {
    let mut child = tool
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn names() {
    let site = Site::start();
    let text = site.scrape();
    // Nor with the Elixir library's, as old as they are.
    let (fine, complaints) = said(Command::new("promtool").args(["check", "metrics"]), &text);
    assert!(fine && complaints.is_empty(), "{complaints}");
    let (fine, complaints) =
        said(Command::new("promtool").args(["check", "metrics"]), "# TYPE bad_total gauge\nbad_total 1\n");
    assert!(!fine && complaints.contains("bad_total"), "it finds nothing at all: {complaints}");
    // Everything that is declared is shown, but for what has not happened.
    let scrape = Scrape::parse(&text);
    let listed = include_str!("../../METRICS.md").lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<String> =
        listed.filter_map(|line| Some(format!("{PREFIX}{}", line.split_once('`')?.0))).collect();
    let shown: BTreeSet<String> = scrape.families().map(str::to_owned).collect();
    assert_eq!(listed, shown);
    // As many series as METRICS.md says.
    let with = |labels: &[&str]| scrape.count(|found| labels.iter().all(|label| found.contains_key(*label)));
    let partitions = scrape.series("kafka_batcher_producer_duration_seconds_count");
    let (partition, error, broker) = (with(&["partition"]), with(&["error"]), with(&["broker"]));
    let topic = with(&["topic"]) - partition - error;
    let rest = with(&[]) - topic - partition - error - broker;
    assert_eq!((topic, partition, broker, rest), (77, 40 * partitions, 22, 26));
}

fn rules() {
    for arguments in [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]] {
        let mut promtool = Command::new("promtool");
        let (fine, text) = said(promtool.args(arguments).current_dir(format!("{DEV}/prometheus")), "");
        assert!(fine, "{text}");
    }
}

/// Gone with the value.
struct Prometheus {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// One that scrapes this address.
    fn start(target: &str) -> Prometheus {
        let dir = tempfile::tempdir().expect("a directory");
        let address =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").to_string();
        let config = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [{DEV}/prometheus/rules.yml]\n\
             scrape_configs:\n  - job_name: kafka-batcher\n    static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        let path = dir.path().join("prometheus.yml");
        std::fs::write(&path, config).expect("it is written");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is installed");
        let prometheus = Prometheus { child, address, _dir: dir };
        while !try_get(&prometheus.address, "/-/ready", "").is_ok_and(|answer| answer.status == 200) {
            std::thread::yield_now();
        }
        prometheus
    }

    /// How many series a query gives.
    fn series(&self, query: &str) -> usize {
        let answer = get(&self.address, &format!("/api/v1/query?query={}", escaped(query)));
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
        assert_eq!(body["status"], "success", "{query}: {body}");
        body["data"]["result"].as_array().map_or(0, Vec::len)
    }
}

/// Every query of the dashboard, with where it stands.
fn panels() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("{DEV}/grafana/kafka-batcher.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(panel["type"] == "row" || !targets.is_empty(), "{title} shows nothing");
        found
            .extend(targets.iter().map(|t| (title.clone(), t["expr"].as_str().expect("a query").to_owned())));
    }
    assert!(found.len() > 40, "{found:?}");
    found
}

/// The names in a query.
fn metrics(query: &str) -> impl Iterator<Item = String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    query.split(word).filter(|word| word.starts_with(PREFIX)).map(str::to_owned)
}

fn queries() {
    let mut site = Site::start();
    let prometheus = Prometheus::start(&site.address);
    let scrape = Scrape::parse(&site.scrape());
    let names: BTreeSet<&str> = scrape.names().collect();
    let known = |place: &str, query: &str| {
        let mut used = metrics(query).peekable();
        assert!(used.peek().is_some(), "{place}: {query}");
        used.for_each(|name| assert!(names.contains(&*name), "{place}: there is no {name}"));
    };
    for (title, query) in panels() {
        known(&title, &query);
        let query =
            query.replace("$__rate_interval", "5s").replace("$topic", ".*").replace("$instance", ".*");
        assert!(!query.contains('$'), "{title}: {query}");
        // What is a rate needs two scrapes, and, as a part of batches, something that happens between them.
        while prometheus.series(&query) == 0 {
            site.work();
        }
    }
    // Rules give no series while all is well; what they look at is there.
    let loaded = get(&prometheus.address, "/api/v1/rules");
    let loaded: Value = serde_json::from_str(&loaded.body).expect("it is JSON");
    let rules = loaded["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
    assert!(rules.len() > 10, "{loaded}");
    for rule in rules {
        let (name, query) =
            (rule["name"].as_str().expect("a name"), rule["query"].as_str().expect("a query"));
        known(name, query);
        assert_eq!(rule["state"], "inactive", "{rule}");
        assert_eq!(rule["lastError"], Value::Null, "{rule}");
        metrics(query).for_each(|metric| assert!(prometheus.series(&metric) > 0, "{name}: {metric}"));
    }
    // The accounts add up as Prometheus stores them.
    let equation = "sum by (topic) (kafka_batcher_events_accepted_total + kafka_batcher_events_recovered_total) - sum by \
                    (topic) (kafka_batcher_events_delivered_total + kafka_batcher_events_lost_total) - sum by (topic) \
                    (kafka_batcher_events)";
    assert_eq!((prometheus.series(equation), prometheus.series(&format!("({equation}) != 0"))), (1, 0));
}
