//! The settings: one table of names, defaults, units and words. CONFIGURATION.md is generated from it.
//!
//! A setting is declared once, in the `settings!` blocks below; its field, its default, its row in the reference and
//! its documentation all come from there. Application-wide values are [`Settings`]; what may differ from topic to topic
//! is [`CollectorSettings`], merged by presence: built-in < application-wide < collector.

use std::fmt;
use std::time::Duration;

use kafka_batcher_core::partitioner::Strategy;
use kafka_batcher_core::{AccumulatorSettings, HEADER_LEN, MAX_CHUNK, OnExpiredTimestamp};

/// How a value is written in the reference.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for Duration {
    fn shown(&self) -> String {
        let ms = self.as_millis();
        match ms {
            0 => "0".to_owned(),
            _ if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
            _ if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
            _ => format!("{ms} ms"),
        }
    }
}

impl Shown for usize {
    fn shown(&self) -> String {
        match *self {
            n if n >= 1 << 30 && n % (1 << 30) == 0 => format!("{} GiB", n >> 30),
            n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} MiB", n >> 20),
            n => n.to_string(),
        }
    }
}

macro_rules! shown_by_display {
    ($($type:ty)*) => { $(impl Shown for $type { fn shown(&self) -> String { self.to_string() } })* };
}
shown_by_display! { bool u32 i16 Strategy String OnExpiredTimestamp }

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map_or("unset".to_owned(), Shown::shown)
    }
}

impl Shown for Vec<String> {
    fn shown(&self) -> String {
        "required".to_owned()
    }
}

/// One row of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingRow {
    /// The name, as the builder has it.
    pub name: &'static str,
    /// The built-in value.
    pub default: String,
    /// Its unit; empty if it has none.
    pub unit: &'static str,
    /// What it does, what gets better and what worse, and what it leans on.
    pub text: String,
}

macro_rules! settings {
    ($(#[$outer:meta])* $type:ident { $($(#[doc = $doc:literal])+ $name:ident: $ty:ty = $default:expr, $unit:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct $type {
            $($(#[doc = $doc])+ pub $name: $ty,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl $type {
            /// The rows of the reference, in order.
            pub fn rows() -> Vec<SettingRow> {
                let defaults = Self::default();
                vec![$(SettingRow {
                    name: stringify!($name),
                    default: defaults.$name.shown(),
                    unit: $unit,
                    text: [$($doc.trim()),+].join(" "),
                },)*]
            }
        }
    };
}

settings! {
    /// What holds for the whole [`KafkaBatcher`](crate::KafkaBatcher).
    Settings {
        /// Addresses to find the cluster by, `host:port` (port 9092 if none is given, IPv6 as `[::1]:9092`); any one of them that answers is enough, and all are tried again when every known broker is gone.
        endpoints: Vec<String> = Vec::new(), "";
        /// The name by which brokers know this client, in their logs and quotas.
        client_id: String = "kafka-batcher".to_owned(), "";
        /// The most memory that accepted events may hold, over all topics. Larger: a longer stall of Kafka is ridden out before callers wait. At least 2 x `max_batch_bytesize`.
        memory: usize = 64 << 20, "bytes";
        /// How long `add_event` waits for memory before it answers `Full`. Shorter: callers learn sooner; longer: a slow broker is noticed as latency, not as errors.
        max_block: Duration = Duration::from_secs(60), "ms";
        /// How long a broker may take to answer. When it is over the connection is closed and what was in flight is sent again; idempotence keeps it from being written twice.
        request_timeout: Duration = Duration::from_secs(30), "ms";
        /// How long one address may take to accept a connection.
        connect_timeout: Duration = Duration::from_secs(10), "ms";
        /// The first pause after a failure; it doubles up to `retry_backoff_max`, with 20 % jitter.
        retry_backoff: Duration = Duration::from_millis(100), "ms";
        /// The longest pause between two attempts. The Elixir library's `reconnect_timeout` and `recheck_kafka_availability_interval` were 5 s, always.
        retry_backoff_max: Duration = Duration::from_secs(5), "ms";
        /// How old metadata may become before it is asked for again without a reason; that is how new partitions are found.
        metadata_max_age: Duration = Duration::from_secs(300), "ms";
        /// The most one Produce request may hold, over all partitions of a broker. Must not exceed the broker's `socket.request.max.bytes`.
        max_request_size: usize = 8 << 20, "bytes";
        /// Batches of one partition in flight at once, once its run is established; 1 to 5, since a broker recognises the last five. Without idempotence it is 1, or order would be lost.
        max_in_flight: u32 = 5, "batches";
        /// How long `shutdown` may take to deliver what is left.
        shutdown_timeout: Duration = Duration::from_secs(10), "ms";
    }
}

settings! {
    /// What may differ from collector to collector.
    CollectorSettings {
        /// Events that make a batch ready. More: fewer and larger requests; fewer: less latency at high rates.
        batch_size: u32 = 10_000, "events";
        /// The longest an event waits for others, from its acceptance; other clients call it linger. While batches of its partition wait to be sent, the open one goes on filling. 0: no waiting, batches form only while the broker is busy.
        max_wait_time: Duration = Duration::from_millis(5), "ms";
        /// The shortest time between a seal and one by `batch_size`. Longer than `max_wait_time` it does nothing.
        min_delay: Duration = Duration::ZERO, "ms";
        /// The most a batch may be, encoded, header included. Must not exceed the topic's `max.message.bytes`. An event that does not fit alone is refused to the caller.
        max_batch_bytesize: usize = 1_000_000, "bytes";
        /// True: a batch is ready partition by partition. False: the limits count over the topic and all its partitions are sealed together.
        collect_by_partition: bool = true, "";
        /// How a partition is chosen for an event that names none: murmur2 (as Java's client, events without a key are sticky), sticky, round_robin, random, phash2 (the Elixir library's, also called md5), crc32, fnv1a.
        partition_strategy: Strategy = Strategy::Murmur2, "";
        /// What the broker waits for before it acknowledges: -1 all in-sync replicas, 1 the leader alone, 0 nothing (delivered then means written to the socket). Only -1 is idempotent and keeps order through errors.
        required_acks: i16 = -1, "";
        /// Number batches so that the broker recognises a resend. Unset: true exactly when `required_acks` is -1. True with another `required_acks` is an error.
        enable_idempotence: Option<bool> = None, "";
        /// How long after its acceptance an event may still be sent; then it goes to the dead letters, or fails where there is no spool. Unset: for ever. What may be in Kafka already never expires. Kept to a sixteenth of it; in the spool it counts from the saving.
        delivery_timeout: Option<Duration> = None, "ms";
        /// What becomes of an event whose time, assigned by this library, the broker refuses as too old: hold (its partition waits, and the operator is told), restamp_time (it gets the time of now), dead_letter.
        on_expired_timestamp: OnExpiredTimestamp = OnExpiredTimestamp::Hold, "";
        /// Let the broker create the topic when it is missing (if the broker allows it, too).
        allow_topic_auto_creation: bool = false, "";
    }
}

/// A setting that cannot be, with what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The setting.
    pub key: &'static str,
    /// The topic whose collector it belongs to; `None`: application-wide.
    pub topic: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.topic {
            Some(topic) => write!(f, "{} of topic {topic:?}: {}", self.key, self.message),
            None => write!(f, "{}: {}", self.key, self.message),
        }
    }
}

impl Settings {
    /// Every mistake in them, all at once.
    pub fn check(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut say = |key, message: String| found.push(Mistake { key, topic: None, message });
        if self.endpoints.is_empty() {
            say("endpoints", "no address given; one such as 127.0.0.1:9092 is needed".to_owned());
        }
        for endpoint in &self.endpoints {
            if let Err(error) = crate::client::Endpoint::parse(endpoint) {
                say("endpoints", error.to_string());
            }
        }
        if !(1..=5).contains(&self.max_in_flight) {
            let n = self.max_in_flight;
            say(
                "max_in_flight",
                format!("{n} is outside of 1 to 5: a broker recognises the last five batches of a producer"),
            );
        }
        if self.retry_backoff > self.retry_backoff_max {
            let (first, most) = (self.retry_backoff.shown(), self.retry_backoff_max.shown());
            say("retry_backoff", format!("{first} is longer than retry_backoff_max, {most}"));
        }
        if self.retry_backoff.is_zero() {
            say(
                "retry_backoff",
                "0 would ask a failing broker without pause; the default is 100 ms".to_owned(),
            );
        }
        for (key, value) in
            [("request_timeout", self.request_timeout), ("connect_timeout", self.connect_timeout)]
        {
            if value.is_zero() {
                say(key, "0 leaves no time for an answer".to_owned());
            }
        }
        found
    }

    /// The most bytes that one partition may hold: a quarter of the memory, but at least two batches.
    pub(crate) fn partition_cap(&self, collector: &CollectorSettings) -> usize {
        // A batch of large records may leave most of a chunk unused.
        (self.memory / 4).max(2 * collector.max_batch_bytesize + 2 * MAX_CHUNK).min(self.memory)
    }
}

impl CollectorSettings {
    /// Every mistake in them, all at once.
    pub fn check(&self, topic: &str, settings: &Settings) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut say =
            |key, message: String| found.push(Mistake { key, topic: Some(topic.to_owned()), message });
        if let Some(message) = topic_name_mistake(topic) {
            say("topic_name", message);
        }
        if self.batch_size == 0 {
            say("batch_size", "0 would never hold an event; the least is 1".to_owned());
        }
        let smallest = HEADER_LEN + 64;
        if self.max_batch_bytesize < smallest {
            let n = self.max_batch_bytesize;
            say(
                "max_batch_bytesize",
                format!("{n} bytes hardly hold a batch's header; the least is {smallest}"),
            );
        }
        if self.max_batch_bytesize > settings.max_request_size {
            let (n, most) = (self.max_batch_bytesize, settings.max_request_size);
            say("max_batch_bytesize", format!("{n} is more than max_request_size, {most}"));
        }
        let needed = 2 * self.max_batch_bytesize + 2 * MAX_CHUNK;
        if settings.memory < needed {
            let n = settings.memory;
            say(
                "max_batch_bytesize",
                format!("memory of {n} bytes does not hold two batches of this size ({needed} bytes)"),
            );
        }
        if let Some(timeout) = self.delivery_timeout.filter(|timeout| *timeout < settings.request_timeout) {
            let (timeout, least) = (timeout.shown(), settings.request_timeout.shown());
            say(
                "delivery_timeout",
                format!("{timeout} is shorter than request_timeout, {least}: one attempt would not fit"),
            );
        }
        if ![-1, 0, 1].contains(&self.required_acks) {
            say("required_acks", format!("{} is none of -1, 0 and 1", self.required_acks));
        }
        if self.enable_idempotence == Some(true) && self.required_acks != -1 {
            let acks = self.required_acks;
            say(
                "enable_idempotence",
                format!(
                    "true needs required_acks = -1, not {acks}: a broker deduplicates only what all replicas have"
                ),
            );
        }
        found
    }

    /// Whether batches are stamped.
    pub fn idempotent(&self) -> bool {
        self.enable_idempotence.unwrap_or(self.required_acks == -1)
    }

    pub(crate) fn accumulator(&self) -> AccumulatorSettings {
        AccumulatorSettings {
            batch_size: self.batch_size,
            max_batch_bytesize: self.max_batch_bytesize,
            max_wait_time: self.max_wait_time,
            min_delay: self.min_delay,
        }
    }
}

/// What is wrong with a topic's name (Kafka's `Topic.validate`).
fn topic_name_mistake(topic: &str) -> Option<String> {
    let bad = topic.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
    if topic.is_empty() {
        Some("the name is empty".to_owned())
    } else if topic == "." || topic == ".." {
        Some(format!("{topic:?} is no name for a topic"))
    } else if topic.len() > 249 {
        Some(format!("the name is {} characters long; Kafka allows 249", topic.len()))
    } else {
        bad.map(|c| format!("{topic:?} has {c:?} in it; Kafka allows letters, digits, '.', '_' and '-'"))
    }
}

/// The spool's rows: its settings are the builder's and the disk's, the defaults are taken from there.
fn spool_rows() -> Vec<SettingRow> {
    let disk = crate::storage::DiskSettings::new("");
    let spool = crate::builder::spool_defaults();
    let row =
        |name, default: String, unit, text: &str| SettingRow { name, default, unit, text: text.to_owned() };
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).shown();
    vec![
        row(
            "dir",
            "unset".to_owned(),
            "",
            "Where events are kept while Kafka does not take them; unset: there is no spool. One process at a time; a local disk with room. `spool(dir)`.",
        ),
        row(
            "mode",
            "on_failure".to_owned(),
            "",
            "`on_failure`: events go to disk when Kafka has taken nothing of their partition for `spool_after`. `always`: before they are sent, so that whatever is durable survives kill -9 and power loss, for one fsync a group of batches. `spool_mode(..)`.",
        ),
        row(
            "spool_after",
            spool.after.shown(),
            "ms",
            "How long nothing may be acknowledged, although something waits, until Kafka counts as away. Shorter: less is in memory when the process dies; longer: short outages never touch the disk. `spool_after(..)`.",
        ),
        row(
            "max_age",
            "unset".to_owned(),
            "ms",
            "How old an event in the spool may become; then it is dropped, counted as lost and told, unless it may be in Kafka already. Counted from when it was saved. `spool_max_age(..)`.",
        ),
        row(
            "on_full",
            spool.on_full.to_string(),
            "",
            "What happens when the spool is full. `backpressure`: events stay in memory, and when that is full callers wait (`max_block`). `reject`: the same, but callers are refused at once. `drop_oldest`: each partition drops its own oldest events (lost, counted, told), unless they may be in Kafka already. `on_full(..)`.",
        ),
        row(
            "replay_expired",
            spool.replay_expired.to_string(),
            "",
            "Send events from the spool that are older than the topic's `retention.ms`, too. False: they are held and the operator is told, because Kafka would acknowledge and delete them. `replay_expired(..)`.",
        ),
        row(
            "max_bytes",
            bytes(disk.max_bytes),
            "bytes",
            "What all segments and dead letters may hold. When it is reached `on_full` says what happens.",
        ),
        row(
            "min_free_bytes",
            disk.min_free_bytes.map_or("1 GiB, or 5 % of a small disk".to_owned(), bytes),
            "bytes",
            "What is left of the disk to others; below it the spool counts as full.",
        ),
        row(
            "segment_bytes",
            bytes(disk.segment_bytes),
            "bytes",
            "When a segment has so many bytes the next begins. Smaller: room comes back earlier; larger: fewer files.",
        ),
        row(
            "dead_letter_bytes",
            bytes(disk.dead_letter_bytes),
            "bytes",
            "What the dead letters of a topic may hold; beyond it the oldest go.",
        ),
        row(
            "reserve_bytes",
            bytes(disk.reserve_bytes),
            "bytes",
            "Kept back on the disk, so that a spool on a full disk can drain.",
        ),
    ]
}

/// The text of CONFIGURATION.md.
pub fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\nGenerated from the table in `kafka-batcher/src/config.rs`; a test compares. Times are given \
         as `Duration`, sizes in bytes.\nA collector's value wins over the application-wide one, that over the built-in \
         one; what counts is whether a value was given, not what it is.\n",
    );
    let sections = [
        ("Application-wide", "`KafkaBatcher::builder(..).settings(|s| ..)`", Settings::rows()),
        (
            "Collector",
            "`batcher.collector(..).settings(|s| ..)`; application-wide with `collector_defaults`",
            CollectorSettings::rows(),
        ),
        ("Spool", "the builder, as named in each row; bounds with `spool_with(DiskSettings)`", spool_rows()),
    ];
    for (title, how, rows) in sections {
        out += &format!(
            "\n## {title}\n\nSet with {how}.\n\n| setting | default | unit | what it does |\n|---|---|---|---|\n"
        );
        for row in rows {
            out += &format!("| `{}` | {} | {} | {} |\n", row.name, row.default, row.unit, row.text);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { endpoints: vec!["127.0.0.1:9092".to_owned()], ..Settings::default() }
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
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let bad = Settings { max_in_flight: 6, retry_backoff: Duration::from_secs(9), ..Settings::default() };
        let keys: Vec<_> = bad.check().into_iter().map(|m| m.key).collect();
        assert_eq!(keys, ["endpoints", "max_in_flight", "retry_backoff"]);
        let bad = CollectorSettings {
            batch_size: 0,
            required_acks: 1,
            enable_idempotence: Some(true),
            max_batch_bytesize: 100 << 20,
            ..CollectorSettings::default()
        };
        let keys: Vec<_> = bad.check("no spaces", &settings()).into_iter().map(|m| m.key).collect();
        assert_eq!(
            keys,
            ["topic_name", "batch_size", "max_batch_bytesize", "max_batch_bytesize", "enable_idempotence"]
        );
    }

    #[test]
    fn acks_decide_about_idempotence_where_nothing_is_said() {
        let with = |required_acks| CollectorSettings { required_acks, ..CollectorSettings::default() };
        assert!(with(-1).idempotent() && !with(1).idempotent() && !with(0).idempotent());
    }

    #[test]
    fn topic_names_are_kafkas() {
        for good in ["a", "a.b_c-D9", &"x".repeat(249)] {
            assert_eq!(topic_name_mistake(good), None, "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(topic_name_mistake(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_partition_may_hold_at_least_two_batches() {
        let small = Settings { memory: 3 << 20, ..settings() };
        assert!(small.partition_cap(&CollectorSettings::default()) >= 2_000_000);
    }
}
