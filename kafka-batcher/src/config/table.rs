//! The one table of settings: name, type, default, unit and words of each.
//!
//! A setting is declared once, in the `settings!` blocks below. Its field, its default, its documentation, its row in the
//! reference (CONFIGURATION.md), how a file sets it and how it is written there all come from this one line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kafka_batcher_core::partitioner::Strategy;
use kafka_batcher_core::{Codec, OnExpiredTimestamp, OnFull, SpoolMode};

use super::buckets::ProducerBuckets;
use super::value::{Setting, Value, Written};
use crate::client::SaslMechanism;
use crate::secret::Secret;

/// One row of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingRow {
    /// The name.
    pub name: &'static str,
    /// The built-in value, as a file has it; `None`: there is none.
    pub default: Option<String>,
    /// Its unit; empty if it has none.
    pub unit: &'static str,
    /// What it does, what gets better and what worse, and what it leans on.
    pub text: String,
}

/// What can be set by name.
pub(crate) trait Table {
    /// The names, in order.
    const NAMES: &'static [&'static str];

    /// Sets what has this name; what is wrong with the value. `None`: nothing has this name.
    fn set(&mut self, name: &str, value: &Value) -> Option<Result<(), String>>;

    /// The names of what is not as there.
    fn changed_since(&self, before: &Self) -> Vec<&'static str>;
}

macro_rules! settings {
    ($(#[$outer:meta])* $type:ident { $($(#[doc = $doc:literal])+ $name:ident: $ty:ty = $default:expr, $unit:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct $type {
            $(
                $(#[doc = $doc])+
                #[doc = ""]
                #[doc = concat!("Default: `", stringify!($default), "`.")]
                pub $name: $ty,
            )*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Table for $type {
            const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            fn changed_since(&self, before: &Self) -> Vec<&'static str> {
                let mut changed = Vec::new();
                $(if self.$name != before.$name {
                    changed.push(stringify!($name));
                })*
                changed
            }

            fn set(&mut self, name: &str, value: &Value) -> Option<Result<(), String>> {
                match name {
                    $(stringify!($name) => Some(Setting::read(value).map(|value| self.$name = value)),)*
                    _ => None,
                }
            }
        }

        impl $type {
            /// The rows of the reference, in order.
            pub fn rows() -> Vec<SettingRow> {
                let defaults = Self::default().written();
                let texts = [$([$($doc.trim()),+].join(" ")),*];
                let units = [$($unit),*];
                let rows = defaults.into_iter().zip(texts).zip(units);
                let toml = |written| match written {
                    Written::Toml(text) => Some(text),
                    Written::Unset | Written::Hidden => None,
                };
                rows.map(|(((name, default), text), unit)| SettingRow { name, default: toml(default), unit, text }).collect()
            }

            /// All of them, as a file would have them.
            pub(super) fn written(&self) -> Vec<(&'static str, Written)> {
                vec![$((stringify!($name), self.$name.written()),)*]
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
        /// The most bytes of memory that accepted events may hold, over all topics. Larger: a longer stall of Kafka is ridden out before callers wait. At least 2 x `max_batch_bytesize` and 128 KiB.
        memory: usize = 64 << 20, "bytes";
        /// How long `add_event` waits for memory before it answers `Full`. Shorter: callers learn sooner; longer: a slow broker is noticed as latency, not as errors.
        max_block: Duration = Duration::from_secs(60), "ms";
        /// How long a broker may take to answer. When it is over the connection is closed and what was in flight is sent again; idempotence keeps it from being written twice.
        request_timeout: Duration = Duration::from_secs(30), "ms";
        /// How long each step to one address may take: to resolve its name, to connect, to agree upon TLS, to say which versions it speaks, to log in. A token for the login is got before that, within 30 s.
        connect_timeout: Duration = Duration::from_secs(10), "ms";
        /// The first pause after a failure; it doubles up to `retry_backoff_max`, with 20 % jitter. Between two attempts to connect to a broker it is half as long.
        retry_backoff: Duration = Duration::from_millis(100), "ms";
        /// The longest pause between two attempts. The Elixir library's `reconnect_timeout` and `recheck_kafka_availability_interval` were 5 s, always.
        retry_backoff_max: Duration = Duration::from_secs(5), "ms";
        /// How old metadata may become before it is asked for again without a reason; that is how new partitions are found.
        metadata_max_age: Duration = Duration::from_secs(300), "ms";
        /// The most bytes one Produce request may hold, over all partitions of a broker. Must not exceed the broker's `socket.request.max.bytes`. While two requests of half of it or more are under way to a broker, no further one of their topic is begun: on a long link, where a round trip takes long, more may be better.
        max_request_size: usize = 8 << 20, "bytes";
        /// Batches of one partition in flight at once, once its run is established; 1 to 5, since a broker recognises the last five. Without idempotence it is 1, or order would be lost.
        max_in_flight: u32 = 5, "batches";
        /// How often a second a task that watches a topic or the cluster may panic and begin anew; beyond it that topic's collector has failed, as it has at once when the task panics that owns its batches: it takes no more events, and what it holds goes to the spool.
        max_restart: u32 = 100, "restarts a second";
        /// How long `shutdown` may take to deliver what is left. With a spool, writing the rest to disk comes after it: milliseconds, or up to 10 s where the disk does not take it.
        shutdown_timeout: Duration = Duration::from_secs(10), "ms";
        /// What delivers: `native`; `rdkafka`, over librdkafka, in a build with the cargo feature of that name: at-least-once, the numbers of batches are not kept; or the name under which a producer of your own was registered (`Builder::register_producer`).
        producer: String = NATIVE.to_owned(), "";
        /// Who is told of trouble: `log`, or the name under which a notifier of your own was registered (`Builder::register_error_notifier`).
        error_notifier: String = LOG.to_owned(), "";
    }
}

settings! {
    /// What may differ from collector to collector.
    CollectorSettings {
        /// Events that make a batch ready. More: fewer and larger requests; fewer: less latency at high rates.
        batch_size: u32 = 10_000, "events";
        /// The longest an event waits for others, from its acceptance; other clients call it linger. While batches of its partition wait to be sent, or its broker has enough to do, the open one goes on filling. 0: no waiting, batches form only while the broker is busy.
        max_wait_time: Duration = Duration::from_millis(5), "ms";
        /// Send open batches before `max_wait_time` is over while their broker has nothing of this topic to do, but only once half of it has passed since the last request there. A quiet system then answers in a round trip and a busy one batches as before; costs up to twice the requests of `max_wait_time` alone, here and on the broker. It needs `collect_by_partition`, and no `min_delay`.
        adaptive_linger: bool = false, "";
        /// The shortest time between a seal and one by `batch_size`. Longer than `max_wait_time` it does nothing.
        min_delay: Duration = Duration::ZERO, "ms";
        /// The most bytes a batch may have, encoded, header included; with `compression`, compressed. Must not exceed the topic's `max.message.bytes`. An event that does not fit alone, uncompressed, is refused to the caller.
        max_batch_bytesize: usize = 1_000_000, "bytes";
        /// How batches are compressed: none, gzip, snappy, lz4, zstd. `max_batch_bytesize` then means bytes on the wire, by what was learned of how much batches shrink. Recommended: zstd at its default level; a Kafka older than 2.1 does not take it. Costs CPU, on as many threads as there are cores.
        compression: Codec = Codec::None, "";
        /// The level of gzip (1 to 9, unset: 6) or zstd (-131072 to 22, unset: 1); the other codecs have none. Higher: smaller batches for more CPU.
        compression_level: Option<i32> = None, "";
        /// True: a batch is ready partition by partition. False: the limits count over the topic and all its partitions are sealed together.
        collect_by_partition: bool = true, "";
        /// How a partition is chosen for an event that names none: murmur2 (as Java's client, events without a key are sticky), sticky, round_robin, random, phash2 (the Elixir library's, also called md5), crc32, fnv1a.
        partition_strategy: Strategy = Strategy::Murmur2, "";
        /// The name under which a partitioner of your own was registered (`Builder::register_partitioner`); it takes the place of `partition_strategy`.
        partition_fn: Option<String> = None, "";
        /// The name under which a flusher of your own was registered (`Builder::register_flusher`): it sees each event and says whether its batch must go at once. Unset: never.
        batch_flusher: Option<String> = None, "";
        /// The name under which an interceptor of your own was registered (`Builder::register_interceptor`): it adds headers to each event, such as a trace's. Unset: none.
        interceptor: Option<String> = None, "";
        /// What the broker waits for before it acknowledges: -1 all in-sync replicas, 1 the leader alone, 0 nothing (delivered then means written to the socket). Only -1 is idempotent and keeps order through errors.
        required_acks: i16 = -1, "";
        /// Number batches so that the broker recognises a resend. Unset: true exactly when `required_acks` is -1. True with another `required_acks` is an error.
        enable_idempotence: Option<bool> = None, "";
        /// How long after its acceptance an event may still be sent; then it goes to the dead letters, or fails where there is no spool. Unset: for ever. What may be in Kafka already never expires. Kept to a sixteenth of it; in the spool it counts from the saving.
        delivery_timeout: Option<Duration> = None, "ms";
        /// What becomes of an event whose time, assigned by this library, the broker refuses as too old: hold (its partition waits, and the operator is told), restamp_time (it gets the time of now), dead_letter.
        on_expired_timestamp: OnExpiredTimestamp = OnExpiredTimestamp::Hold, "";
        /// Record and show metrics. False at the top: none are, of nothing, but for a collector that says true. False in a collector: nothing of it.
        telemetry: bool = true, "";
        /// Let the broker create the topic when it is missing (if the broker allows it, too).
        allow_topic_auto_creation: bool = false, "";
    }
}

settings! {
    /// How metrics are called and grouped.
    MetricsConfig {
        /// What every metric's name begins with. `prom_ex_kafka` gives the three that the Elixir library has their names there.
        prefix: String = "kafka_batcher".to_owned(), "";
        /// The buckets of the three producer histograms: `sub_second`, `prom_ex` (the Elixir library's: 1 to 100 s, 1 to 100 events, 1 to 100 kB), or a table with lists of your own: `{ duration = [0.01, 0.1, 1], messages_count = [10, 100], byte_size = [1000, 100000] }`, each may be left out.
        producer_buckets: ProducerBuckets = ProducerBuckets::default(), "s, events, bytes";
        /// Short names of topics, for the label `topic_alias` of these three and for nothing else: a table, or a text `topic=alias,topic=alias`.
        kafka_topic_aliases: BTreeMap<String, String> = BTreeMap::new(), "";
        /// So many partitions of each topic, from 0 on, have a label value of their own in these three; all others share `partition="other"`. That bounds their series: 40 for each with the default buckets.
        max_partitions: u32 = 100, "partitions";
    }
}

settings! {
    /// Where events are kept while Kafka does not take them.
    SpoolConfig {
        /// The directory; unset: there is no spool. One process at a time; a local disk with room.
        dir: Option<PathBuf> = None, "";
        /// The name under which a storage of your own was registered (`Builder::register_storage`), in place of a directory.
        storage: Option<String> = None, "";
        /// `on_failure`: events go to disk when Kafka has taken nothing of their partition for `spool_after`. `always`: before they are sent, so that whatever is durable survives kill -9 and power loss, for one fsync a group of batches; written past the page cache (`O_DIRECT`) where the file system can, so that a backlog is read back from the disk. `off`: never; what an earlier process left there stays there.
        mode: Option<SpoolMode> = Some(SpoolMode::OnFailure), "";
        /// How long nothing may be acknowledged, although something waits, until Kafka counts as away. Shorter: less is in memory when the process dies; longer: short outages never touch the disk. A storage that has not answered a call for so long (but a second at least) is told, and what does not need it goes on.
        spool_after: Duration = Duration::from_secs(5), "ms";
        /// How old an event in the spool may become; then it is dropped, counted as lost and told, unless it may be in Kafka already. Counted from when it was saved.
        max_age: Option<Duration> = None, "ms";
        /// What happens when the spool is full. `backpressure`: events stay in memory, and when that is full callers wait (`max_block`). `reject`: the same, but callers are refused at once. `drop_oldest`: each partition drops its own oldest events (lost, counted, told), unless they may be in Kafka already.
        on_full: OnFull = OnFull::Backpressure, "";
        /// How many bytes a second of each topic's backlog are read from the spool and sent, once Kafka is back. What is in memory still needs no read and goes at once. It must be more than what comes in, or the backlog grows. What is read to find what is to be dropped counts, too. Unset: as fast as Kafka takes it.
        replay_rate: Option<u64> = None, "bytes/s";
        /// Send events from the spool that are older than the topic's `retention.ms`, too. False: they are held and the operator is told, because Kafka would acknowledge and delete them.
        replay_expired: bool = false, "";
        /// Consent to sending what the spool holds for another cluster to this one. False: it is held and the operator is told.
        replay_to_other_cluster: bool = false, "";
        /// How many bytes all segments, dead letters and damaged parts kept aside may hold. When it is reached `on_full` says what happens.
        max_bytes: u64 = 10 << 30, "bytes";
        /// How many bytes of the disk are left to others; below that the spool counts as full. Unset: 1 GiB, or 5 % of a small disk.
        min_free_bytes: Option<u64> = None, "bytes";
        /// When a segment has so many bytes the next begins. Smaller: room comes back earlier; larger: fewer files. At most 1 GiB and an eighth of `max_bytes`.
        segment_bytes: u64 = 64 << 20, "bytes";
        /// How many bytes the dead letters of a topic may hold; beyond that the oldest go, counted as lost.
        dead_letter_bytes: u64 = 64 << 20, "bytes";
        /// Bytes kept back on the disk, so that a spool on a full disk can drain.
        reserve_bytes: u64 = 1 << 20, "bytes";
    }
}

settings! {
    /// TLS to the brokers.
    SslConfig {
        /// Whether TLS is spoken. Unset: true exactly when the table `[ssl]` is there or anything else of it is set. `ssl = true` at the top of the file says the same: with the machine's own root certificates.
        enabled: Option<bool> = None, "";
        /// A PEM file with the certificates of the authorities to trust, in place of the machine's own. Read again at each new connection, as are the two below; while they do not fit, what was read before is used.
        ca_file: Option<PathBuf> = None, "";
        /// A PEM file with the client's certificate and those between it and its authority, in this order, for brokers that want one (`ssl.client.auth`).
        certificate_file: Option<PathBuf> = None, "";
        /// A PEM file with the private key of that certificate, not encrypted.
        key_file: Option<PathBuf> = None, "";
        /// The name that the brokers' certificates must be for, in place of the host in each broker's address. It holds for all brokers.
        server_name: Option<String> = None, "";
    }
}

settings! {
    /// Who this client is to the brokers.
    SaslConfig {
        /// Whether SASL is spoken. Unset: true exactly when the table `[sasl]` is there or anything else of it is set.
        enabled: Option<bool> = None, "";
        /// How: plain, scram_sha_256, scram_sha_512, oauthbearer, or Kafka's names for them. Required.
        mechanism: Option<SaslMechanism> = None, "";
        /// The user's name, for all but oauthbearer.
        login: Option<String> = None, "";
        /// The user's password. Never shown; better kept elsewhere: see the next two.
        password: Option<Secret> = None, "";
        /// A file that holds the password, alone; one line end behind it does not count. Read again at each attempt to log in, so that a new one is used without a restart.
        password_file: Option<PathBuf> = None, "";
        /// The environment variable that holds the password.
        password_env: Option<String> = None, "";
        /// Send the password (plain) or the token (oauthbearer) over connections without TLS, where everybody on the way reads it. False: refused. SCRAM sends neither, and needs no consent.
        allow_without_tls: bool = false, "";
        /// For oauthbearer: a file that holds the token, alone, and that something else keeps fresh. Read again at each login.
        token_file: Option<PathBuf> = None, "";
        /// For oauthbearer: the name under which a token provider of your own was registered (`Builder::register_token_provider`).
        token_provider: Option<String> = None, "";
        /// For oauthbearer: the https:// address that gives tokens (OAuth 2.0, client credentials). Its certificate may be signed by the machine's own authorities or by those of `ssl.ca_file`. A token is used until four fifths of its life are over.
        token_endpoint_url: Option<String> = None, "";
        /// Who this client is to the token endpoint.
        client_id: Option<String> = None, "";
        /// Its secret there. Never shown; better kept elsewhere: see the next two.
        client_secret: Option<Secret> = None, "";
        /// A file that holds it, read again for each token.
        client_secret_file: Option<PathBuf> = None, "";
        /// The environment variable that holds it.
        client_secret_env: Option<String> = None, "";
        /// What the token is to be good for, where the token endpoint wants to know.
        scope: Option<String> = None, "";
        /// For oauthbearer: what the broker wants to know besides the token, each as `name=value` (KIP-342).
        extensions: Vec<String> = Vec::new(), "";
    }
}

/// The built-in producer's name.
pub(crate) const NATIVE: &str = "native";
/// The name of the one over librdkafka, whether or not this build has it.
pub(crate) const RDKAFKA: &str = "rdkafka";
/// The built-in notifier's name.
pub(crate) const LOG: &str = "log";

/// Other names of settings: of other clients, and of the Elixir library where two of its settings are one here.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("linger", "max_wait_time"),
    ("reconnect_timeout", "retry_backoff_max"),
    ("recheck_kafka_availability_interval", "retry_backoff_max"),
    ("after", "spool_after"),
    ("cacertfile", "ca_file"),
    ("certfile", "certificate_file"),
    ("keyfile", "key_file"),
    ("username", "login"),
];
