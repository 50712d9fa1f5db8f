//! The merge, the mistakes and their places, through [`Config`] alone.

mod security;

use std::time::Duration;

use kafka_batcher_core::SpoolMode;

use super::*;

fn settings() -> Settings {
    Settings { endpoints: vec!["127.0.0.1:9092".to_owned()], ..Settings::default() }
}

fn file(text: &str) -> Config {
    Config::from_toml(text, "k.toml")
}

fn with(config: Config, variables: &[(&str, &str)]) -> Config {
    config.with_environment_from(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
}

/// Every mistake as a user reads it.
fn mistakes(config: &Config) -> Vec<String> {
    config.resolve().expect_err("mistakes").0.iter().map(Mistake::to_string).collect()
}

#[test]
fn configuration_md_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../CONFIGURATION.md");
    if std::env::var_os("KAFKA_BATCHER_WRITE_REFERENCE").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == reference(),
        "CONFIGURATION.md differs; run with KAFKA_BATCHER_WRITE_REFERENCE=1 to write it"
    );
}

#[test]
fn the_defaults_are_without_mistakes() {
    assert_eq!(settings().check(), []);
    assert_eq!(CollectorSettings::default().check("flights", &settings()), []);
    assert_eq!(SpoolConfig::default().check(false), []);
}

#[test]
fn the_file_to_begin_with_has_no_mistake_and_says_nothing_but_the_defaults() {
    let resolved = file(&commented_file()).resolve().expect("a good file");
    assert_eq!(resolved.settings, settings());
    assert_eq!(resolved.spool, SpoolConfig::default());
    assert_eq!(resolved.collectors["events"], CollectorSettings::default());
}

#[test]
fn the_file_to_begin_with_names_each_setting_with_a_value_that_can_be_read() {
    let uncommented: String = commented_file()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.ends_with('=') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let resolved = file(&uncommented).resolve().expect("the defaults are values, too");
    assert_eq!(resolved.settings, settings());
    assert_eq!(resolved.spool, SpoolConfig::default());
    assert_eq!(resolved.collectors["events"], CollectorSettings::default());
    let rows = [
        Settings::rows(),
        CollectorSettings::rows(),
        SpoolConfig::rows(),
        SslConfig::rows(),
        SaslConfig::rows(),
    ];
    for row in rows.iter().flatten() {
        assert!(uncommented.contains(&format!("{} =", row.name)), "{}", row.name);
    }
}

#[test]
fn later_ones_win_by_presence_and_not_by_what_they_say() {
    let config = file(
        r#"
        endpoints = ["a:1"]
        batch_size = 500
        allow_topic_auto_creation = true
        min_delay = 7
        linger = "20ms"
        [spool]
        dir = "/from/the/file"
        [[collectors]]
        topic_name = "one"
        allow_topic_auto_creation = false
        min_delay = 0
        [[collectors]]
        topic_name = "two"
        batch_size = 9
        "#,
    );
    let resolved = config.resolve().expect("no mistakes");
    let (one, two) = (&resolved.collectors["one"], &resolved.collectors["two"]);
    // false and 0 are values: what the Elixir library takes for "not given".
    assert!(!one.allow_topic_auto_creation && two.allow_topic_auto_creation);
    assert_eq!((one.min_delay, two.min_delay), (Duration::ZERO, Duration::from_millis(7)));
    assert_eq!((one.batch_size, two.batch_size), (500, 9));
    assert_eq!(two.max_wait_time, Duration::from_millis(20));
    assert_eq!(resolved.defaults.batch_size, 500);

    let mut config = with(
        config,
        &[
            ("KAFKA_BATCHER__BATCH_SIZE", "70"),
            ("KAFKA_BATCHER__COLLECTORS__1__BATCH_SIZE", "71"),
            ("KAFKA_BATCHER__SPOOL__DIR", "/from/the/environment"),
            ("KAFKA_BATCHER_TEST_BROKERS", "not ours"),
            ("KAFKA_BATCHER", "nor this"),
        ],
    );
    let resolved = config.resolve().expect("no mistakes");
    assert_eq!((resolved.collectors["one"].batch_size, resolved.collectors["two"].batch_size), (70, 71));
    assert_eq!(resolved.spool.dir.as_deref(), Some(Path::new("/from/the/environment")));
    config.set_option("batch_size", 80_i64, "--batch-size");
    config.set_option("spool.dir", "/from/the/command", "--spool");
    let resolved = config.resolve().expect("no mistakes");
    assert_eq!((resolved.collectors["one"].batch_size, resolved.collectors["two"].batch_size), (80, 80));
    assert_eq!(resolved.spool.dir.as_deref(), Some(Path::new("/from/the/command")));
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_place_and_what_would_be_right() {
    let config = file(
        r#"endpoints = ["http://kafka:9092", "kafka:99999"]
batch_sise = 5
memory = true
dir = "/here"
linger = 5
max_wait_time = 6
[spool]
mode = "sometimes"
endpoints = "x"
[[collectors]]
topic_name = "no spaces"
required_acks = 1
enable_idempotence = true
[[collectors]]
topic_name = "flights"
max_batch_bytesize = "9MiB"
[[collectors]]
topic_name = "flights"
[[collectors]]
min_delay = "soon"
"#,
    );
    let config =
        with(config, &[("KAFKA_BATCHER__MAX_BLOK", "1"), ("KAFKA_BATCHER__COLLECTORS__9__LINGER", "1")]);
    begin_as(
        &mistakes(&config),
        &[
            "k.toml:1:1: endpoints: ",
            "k.toml:1:1: endpoints: ",
            "k.toml:2:1: batch_sise: not a setting; did you mean batch_size?",
            "k.toml:3:1: memory: expected a size: bytes, or a text such as \"10MiB\", found a boolean",
            "k.toml:4:1: dir: not a setting here; it belongs into the table [spool]",
            "k.toml:5:1: linger: another name of max_wait_time, which is given at k.toml:6:1, too; one must go",
            "k.toml:8:1: spool.mode: \"sometimes\" is none of on_failure, always, off",
            "k.toml:9:1: spool.endpoints: not a setting here; it is application-wide: write it above the first table",
            "k.toml:11:1: topic_name of topic \"no spaces\": ",
            "k.toml:13:1: enable_idempotence of topic \"no spaces\": true needs required_acks = -1",
            "k.toml:16:1: max_batch_bytesize of topic \"flights\": 9437184 is more than max_request_size, 8388608",
            "k.toml:18:1: topic_name of topic \"flights\": \"flights\" has a collector already, at k.toml:15:1",
            "k.toml:19:1: topic_name: missing; every collector has one",
            "k.toml:20:1: min_delay: \"soon\" does not begin with a number",
            "KAFKA_BATCHER__COLLECTORS__9__LINGER: there are 4 collectors so far; the next one is number 4",
            "KAFKA_BATCHER__MAX_BLOK: max_blok: not a setting; did you mean max_block?",
        ],
    );
}

#[test]
fn an_adaptive_linger_contradicts_what_is_to_wait_in_any_case() {
    let config = file(
        r#"endpoints = ["kafka"]
adaptive_linger = true
[[collectors]]
topic_name = "a"
min_delay = 100
[[collectors]]
topic_name = "b"
collect_by_partition = false
[[collectors]]
topic_name = "c"
"#,
    );
    begin_as(
        &mistakes(&config),
        &[
            "k.toml:2:1: adaptive_linger of topic \"a\": true would send before min_delay, 100ms, is over",
            "k.toml:2:1: adaptive_linger of topic \"b\": true needs collect_by_partition",
        ],
    );
}

/// Each mistake begins as expected; the whole list where it does not.
fn begin_as(found: &[String], expected: &[&str]) {
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(fits, "found:\n{}\n\nexpected:\n{}", found.join("\n"), expected.join("\n"));
}

#[test]
fn a_file_that_is_not_toml_is_told_line_by_line_and_its_good_lines_are_checked_all_the_same() {
    let found =
        mistakes(&file("endpoints = [\"a:1\"]\nbatch_size = = 5\nmax_bock = 1\nclient_id = \"open\n"));
    assert!(found.iter().any(|m| m.starts_with("k.toml:2:")), "{found:?}");
    assert!(
        found.iter().any(|m| m.starts_with("k.toml:3:1: max_bock: not a setting; did you mean max_block")),
        "{found:?}"
    );
    assert!(found.iter().any(|m| m.starts_with("k.toml:4:")), "{found:?}");
    assert!(!found.iter().any(|m| m.contains("batch_size")), "{found:?}");
}

#[test]
fn a_wrong_value_that_all_collectors_share_is_told_once() {
    let config = file(
        "endpoints = \"a:1\"\nbatch_size = 0\n[[collectors]]\ntopic_name = \"a\"\n[[collectors]]\ntopic_name = \"b\"\n",
    );
    begin_as(&mistakes(&config), &["k.toml:2:1: batch_size of topic \"a\": 0 would never hold an event"]);
}

#[test]
fn times_and_sizes_are_numbers_or_texts_with_a_unit_and_what_is_unset_can_be_so_again() {
    let config = file(
        r#"
        endpoints = " a:1 , [::1] "
        max_block = "1min"
        request_timeout = 1500
        memory = "10MiB"
        delivery_timeout = "1h"
        partition_strategy = "md5"
        required_acks = "all"
        [spool]
        mode = "off"
        min_free_bytes = "off"
        [[collectors]]
        topic_name = "a"
        delivery_timeout = "off"
        "#,
    );
    let resolved = config.resolve().expect("no mistakes");
    assert_eq!(resolved.settings.endpoints, ["a:1", "[::1]"]);
    assert_eq!(resolved.settings.max_block, Duration::from_secs(60));
    assert_eq!(resolved.settings.request_timeout, Duration::from_millis(1500));
    assert_eq!(resolved.settings.memory, 10 << 20);
    assert_eq!(
        (resolved.defaults.delivery_timeout, resolved.collectors["a"].delivery_timeout),
        (Some(Duration::from_secs(3600)), None)
    );
    assert_eq!(resolved.collectors["a"].partition_strategy.name(), "phash2");
    assert_eq!((resolved.spool.mode, resolved.spool.min_free_bytes), (None, None));
}

#[test]
fn the_elixir_librarys_names_are_known() {
    let config = file(
        r#"
        endpoints = ["a:1"]
        reconnect_timeout = 5000
        [[collectors]]
        topic_name = "a"
        collect_by_partition = true
        partition_strategy = "random"
        batch_size = 10
        max_wait_time = 1000
        min_delay = 100
        max_batch_bytesize = 1000000
        required_acks = -1
        allow_topic_auto_creation = false
        "#,
    );
    let resolved = config.resolve().expect("no mistakes");
    assert_eq!(resolved.settings.retry_backoff_max, Duration::from_secs(5));
    assert_eq!(resolved.collectors["a"].max_wait_time, Duration::from_secs(1));
    let both = file("endpoints = \"a:1\"\nreconnect_timeout = 1\nrecheck_kafka_availability_interval = 1\n");
    assert!(
        mistakes(&both).iter().any(|m| m.contains("another name of retry_backoff_max")),
        "{:?}",
        mistakes(&both)
    );
}

#[test]
fn a_collector_is_asked_for_by_its_topic() {
    let config = file("endpoints = \"a:1\"\n[[collectors]]\ntopic_name = \"a\"\nbatch_size = 3\n");
    assert_eq!(config.get_collector_config("a").expect("configured").batch_size, 3);
    assert_eq!(config.get_configs_by_topic().expect("no mistakes").len(), 1);
    let error = config.get_collector_config("b").expect_err("nobody configured it");
    assert!(matches!(&error, ConfigError::CollectorMissing(missing) if missing.known == ["a"]), "{error:?}");
    assert_eq!(error.to_string(), "there is no collector of topic \"b\"; there are those of a");
}

#[test]
fn what_is_in_effect_is_shown_with_where_it_came_from_and_is_read_back_the_same() {
    let config =
        file("endpoints = [\"a:1\"]\nlinger = 20\n[[collectors]]\ntopic_name = \"a\"\nbatch_size = 3\n");
    let config = with(config, &[("KAFKA_BATCHER__MEMORY", "10MiB")]);
    let resolved = config.resolve().expect("no mistakes");
    let shown = resolved.show(None).expect("all");
    for (line, origin) in [
        ("endpoints = [\"a:1\"]", "k.toml:1:1"),
        ("memory = \"10MiB\"", "KAFKA_BATCHER__MEMORY"),
        ("max_block = \"1min\"", "built-in"),
        ("max_wait_time = \"20ms\"", "k.toml:2:1"),
        ("batch_size = 3", "k.toml:5:1"),
    ] {
        let found = shown.lines().any(|l| l.starts_with(line) && l.ends_with(&format!("# {origin}")));
        assert!(found, "{line} # {origin} in\n{shown}");
    }
    let again = file(&shown).resolve().expect("what is shown is a file");
    assert_eq!(
        (again.settings, again.spool, again.defaults, again.collectors),
        (
            resolved.settings.clone(),
            resolved.spool.clone(),
            resolved.defaults.clone(),
            resolved.collectors.clone()
        )
    );
    assert!(
        resolved.show(Some("a")).expect("configured").starts_with("[[collectors]]\ntopic_name = \"a\"\n")
    );
    assert!(resolved.show(Some("b")).is_err());
}

#[test]
fn a_configuration_is_part_of_any_format_that_serde_reads() {
    let json = r#"{"endpoints": ["a:1"], "batch_size": 7, "spool": {"dir": "/d", "mode": "always"},
                   "collectors": [{"topic_name": "a", "linger": "9ms"}]}"#;
    let config: Config = serde_json::from_str(json).expect("JSON");
    let resolved = config.resolve().expect("no mistakes");
    assert_eq!((resolved.collectors["a"].batch_size, resolved.spool.mode), (7, Some(SpoolMode::Always)));
    let config: Config = serde_json::from_str(r#"{"endpoints": ["a:1"], "batch_sise": 7}"#).expect("JSON");
    assert_eq!(mistakes(&config), ["batch_sise: not a setting; did you mean batch_size?"]);
}

#[test]
fn a_value_that_is_wrong_is_not_judged_again_as_if_it_were_the_default() {
    assert_eq!(
        mistakes(&file("endpoints = 5\n")),
        ["k.toml:1:1: endpoints: expected a list of texts, found a number"]
    );
    assert_eq!(
        mistakes(&Config::new()),
        ["endpoints: no address given; one such as 127.0.0.1:9092 is needed"]
    );
}

#[test]
fn a_spool_that_contradicts_itself_is_a_mistake() {
    let spool = |text: &str| mistakes(&file(&format!("endpoints = \"a:1\"\n[spool]\n{text}")));
    assert_eq!(
        spool("mode = \"always\""),
        ["k.toml:3:1: spool.mode: \"always\" needs a place to write to: give a dir"]
    );
    assert!(
        spool("dir = \"/d\"\nstorage = \"s\"")[0]
            .starts_with("k.toml:4:1: spool.storage: a directory is given")
    );
    assert!(spool("dir = \"/d\"\nmax_bytes = 0")[0].contains("for no spool, say mode = \"off\""));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::from_file("/nowhere/k.toml").expect_err("not there").to_string();
    assert!(error.contains("/nowhere/k.toml cannot be read"), "{error}");
}

#[test]
fn what_can_be_and_is_hardly_meant_is_a_warning() {
    let config = file(
        "endpoints = \"a:1\"\n[spool]\nmax_age = \"1h\"\n[[collectors]]\ntopic_name = \"a\"\nmin_delay = 10\n\
         partition_fn = \"mine\"\npartition_strategy = \"sticky\"\n",
    );
    let resolved = config.resolve().expect("no mistakes");
    let warnings: Vec<_> = resolved.warnings.iter().map(Mistake::to_string).collect();
    begin_as(
        &warnings,
        &[
            "k.toml:6:1: min_delay of topic \"a\": 10ms is longer than max_wait_time, 5ms, and so does nothing",
            "k.toml:8:1: partition_strategy of topic \"a\": partition_fn takes its place",
            "k.toml:3:1: spool.max_age: there is no spool without a dir",
        ],
    );
}

#[test]
fn librdkafka_is_chosen_by_name_where_it_is_built_and_what_it_cannot_promise_is_a_warning() {
    let config = file(
        "endpoints = \"a:1\"\nproducer = \"rdkafka\"\n[[collectors]]\ntopic_name = \"a\"\nenable_idempotence = true\n",
    );
    if !cfg!(feature = "rdkafka") {
        begin_as(
            &mistakes(&config),
            &["k.toml:2:1: producer: this build is without librdkafka: build with the feature rdkafka"],
        );
        return;
    }
    let resolved = config.resolve().expect("no mistakes");
    let warnings: Vec<_> = resolved.warnings.iter().map(Mistake::to_string).collect();
    begin_as(
        &warnings,
        &[
            "k.toml:2:1: producer: delivery is at-least-once with this producer, also with required_acks = -1: the numbers \
             of batches are not kept",
            "k.toml:5:1: enable_idempotence of topic \"a\": librdkafka numbers its messages itself, so this does nothing",
        ],
    );
    assert_eq!(file("endpoints = \"a:1\"\n").resolve().expect("no mistakes").warnings, []);
}

#[test]
fn a_contradiction_is_told_where_somebody_said_something() {
    let config = file("endpoints = \"a:1\"\nmemory = \"1MiB\"\n[[collectors]]\ntopic_name = \"a\"\n");
    begin_as(
        &mistakes(&config),
        &[
            "k.toml:2:1: memory: max_batch_bytesize: memory of 1048576 bytes does not hold two batches of this size",
        ],
    );
    let mut config = file("endpoints = \"a:1\"\n[[collectors]]\ntopic_name = \"a\"\n");
    config.set_option("memory", "1MiB", "--memory");
    begin_as(&mistakes(&config), &["--memory: max_batch_bytesize: memory of 1048576 bytes does not hold"]);
}

#[test]
fn the_table_of_the_metrics_is_read_with_aliases_and_buckets_of_ones_own() {
    let text = "endpoints = [\"k:1\"]\ntelemetry = false\n[metrics]\nprefix = \"mine\"\nmax_partitions = 7\n\
                producer_buckets = { duration = [0.5, 1, 2.5], byte_size = [1000] }\n\
                [metrics.kafka_topic_aliases]\n\"events.of.long-name\" = \"events\"\n\
                [[collectors]]\ntopic_name = \"a\"\ntelemetry = true\n[[collectors]]\ntopic_name = \"b\"\n";
    let resolved = file(text).resolve().unwrap();
    let metrics = &resolved.metrics;
    assert_eq!((metrics.prefix.as_str(), metrics.max_partitions), ("mine", 7));
    assert_eq!(metrics.kafka_topic_aliases["events.of.long-name"], "events");
    assert_eq!(metrics.producer_buckets.duration, [0.5, 1.0, 2.5]);
    assert_eq!(metrics.producer_buckets.byte_size, [1000.0]);
    assert_eq!(metrics.producer_buckets.messages_count, ProducerBuckets::default().messages_count);
    assert!(
        !resolved.defaults.telemetry
            && resolved.collectors["a"].telemetry
            && !resolved.collectors["b"].telemetry
    );
    // What is shown is read back the same.
    let again = file(&resolved.show(None).unwrap()).resolve().unwrap();
    assert_eq!(again.metrics, resolved.metrics);
    let variables = [
        ("KAFKA_BATCHER__METRICS__KAFKA_TOPIC_ALIASES", "flights = f, quakes=q"),
        ("KAFKA_BATCHER__METRICS__PRODUCER_BUCKETS", "prom_ex"),
    ];
    let metrics = with(file(text), &variables).resolve().unwrap().metrics;
    assert_eq!(metrics.kafka_topic_aliases.len(), 2);
    assert_eq!(metrics.kafka_topic_aliases["flights"], "f");
    assert_eq!(metrics.producer_buckets, ProducerBuckets::prom_ex());
}

#[test]
fn what_cannot_be_a_metric_is_told_with_its_place() {
    let text = "endpoints = [\"k:1\"]\nprefix = \"x\"\n[metrics]\nprefix = \"9-lives\"\nproducer_buckets = { duration = [2, 1] }\n\
                kafka_topic_aliases = [\"a\"]\nmax_partitions = \"few\"\npartition = 1\n";
    begin_as(
        &mistakes(&file(text)),
        &[
            "k.toml:2:1: prefix: not a setting here; it belongs into the table [metrics]",
            "k.toml:4:1: metrics.prefix: \"9-lives\" cannot begin a metric's name",
            "k.toml:5:1: metrics.producer_buckets: duration must be numbers above 0, each larger than the one before",
            "k.toml:6:1: metrics.kafka_topic_aliases: expected a table of texts, found a list",
            "k.toml:7:1: metrics.max_partitions: \"few\" is no whole number",
            "k.toml:8:1: metrics.partition: not a setting",
        ],
    );
    begin_as(
        &mistakes(&file("endpoints = [\"k:1\"]\nmetrics = 1\n")),
        &["k.toml:2:1: metrics: this is a table: [metrics]"],
    );
    let words =
        with(file("endpoints = [\"k:1\"]\n"), &[("KAFKA_BATCHER__METRICS__PRODUCER_BUCKETS", "fast")]);
    begin_as(
        &mistakes(&words),
        &["KAFKA_BATCHER__METRICS__PRODUCER_BUCKETS: metrics.producer_buckets: expected sub_second, prom_ex"],
    );
}

#[test]
fn the_files_in_the_documents_have_no_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/ca.pem");
    let documents =
        [include_str!("../../../README.md"), include_str!("../../../MIGRATING.md")].map(|document| {
            let files = document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
            let files: Vec<_> = files.filter(|file| file.contains("endpoints")).collect();
            for file in &files {
                let file = file.replace("/etc/kafka/ca.pem", ca);
                let file = file.replace("/run/secrets/kafka", &password.to_string_lossy());
                if let Err(mistakes) = Config::from_toml(&file, "document").resolve() {
                    panic!("{mistakes}\n{file}");
                }
            }
            files.len()
        });
    assert_eq!(documents, [1, 1]);
}
