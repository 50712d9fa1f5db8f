//! How a cluster is described before it starts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cluster::EmbeddedKafka;
use crate::start::StartError;
use crate::topic_config::DEFAULT_MAX_MESSAGE_BYTES;
use crate::validate::Strictness;

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub(crate) name: String,
    /// `None`: the cluster's default.
    pub(crate) partitions: Option<i32>,
    pub(crate) replication: Option<i16>,
    pub(crate) config: Vec<(String, String)>,
}

impl TopicSpec {
    /// A topic of this name with so many partitions, each with a replica on every broker but at most three.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions: Some(partitions), replication: None, config: Vec::new() }
    }

    /// How many brokers may lead each partition.
    #[must_use]
    pub fn replication(mut self, factor: i16) -> Self {
        self.replication = Some(factor);
        self
    }

    /// A setting by Kafka's name of it, such as `max.message.bytes`, `message.timestamp.type`, `message.timestamp.after.max.ms`,
    /// `retention.ms`, `min.insync.replicas`, `cleanup.policy`. Others that Kafka knows are kept and change nothing.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((name.into(), value.into()));
        self
    }
}

/// What the cluster does with record batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// Validates them and keeps them in memory.
    #[default]
    Memory,
    /// Reads the framing and the batch header of each, acknowledges at once, keeps nothing and checks nothing else: no CRC, no records, no
    /// idempotence. For benchmarks of clients.
    Discard,
}

/// Whether a topic that somebody asks for is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoCreate {
    /// No: error 3 `UNKNOWN_TOPIC_OR_PARTITION`.
    #[default]
    Off,
    /// Yes, if the Metadata request allows it. As with Kafka the first answer is error 3 all the same, and the next one has the topic.
    On,
}

/// The broker's clock: milliseconds since 1970.
pub(crate) type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a builder has collected.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) brokers: usize,
    pub(crate) bind: IpAddr,
    pub(crate) ports: Vec<u16>,
    pub(crate) advertised: Vec<(i32, String, u16)>,
    pub(crate) advertised_host: Option<String>,
    pub(crate) topics: Vec<TopicSpec>,
    pub(crate) topic_defaults: Vec<(String, String)>,
    pub(crate) auto_create: AutoCreate,
    pub(crate) default_partitions: i32,
    pub(crate) storage: Storage,
    pub(crate) strictness: Strictness,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_request_bytes: usize,
    pub(crate) producer_id_expiration: Duration,
    pub(crate) producer_id_expiration_check: Duration,
    pub(crate) first_producer_id: i64,
    pub(crate) clock: Clock,
}

/// Describes a cluster. One broker, no topics, ports chosen by the system, if nothing is said.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    settings: Settings,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("brokers", &self.settings.brokers)
            .field("topics", &self.settings.topics)
            .field("storage", &self.settings.storage)
            .finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        Self {
            settings: Settings {
                brokers: 1,
                bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
                ports: Vec::new(),
                advertised: Vec::new(),
                advertised_host: None,
                topics: Vec::new(),
                topic_defaults: Vec::new(),
                auto_create: AutoCreate::Off,
                default_partitions: 1,
                storage: Storage::Memory,
                strictness: Strictness::Kafka,
                max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
                // Kafka's socket.request.max.bytes.
                max_request_bytes: 104_857_600,
                // Kafka's producer.id.expiration.ms and producer.id.expiration.check.interval.ms.
                producer_id_expiration: Duration::from_secs(24 * 60 * 60),
                producer_id_expiration_check: Duration::from_secs(10 * 60),
                first_producer_id: 0,
                clock: Arc::new(clock),
            },
        }
    }
}

/// Whole milliseconds; beyond 292 million years, as many as fit.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Builder {
    /// Number of brokers; their ids are 1, 2, ... At least one is started.
    pub fn brokers(mut self, count: usize) -> Self {
        self.settings.brokers = count.max(1);
        self
    }

    /// Address to listen on (127.0.0.1). Clients are told the same address, unless an advertised one is set: an address such as 0.0.0.0
    /// needs one.
    pub fn bind(mut self, address: IpAddr) -> Self {
        self.settings.bind = address;
        self
    }

    /// Ports of the brokers in the order of their ids; 0, or none, lets the system choose.
    pub fn ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.settings.ports = ports.into_iter().collect();
        self
    }

    /// What metadata says is the address of broker `id`, reachable or not.
    pub fn advertised(mut self, id: i32, host: impl Into<String>, port: u16) -> Self {
        self.settings.advertised.push((id, host.into(), port));
        self
    }

    /// What metadata says is the host of every broker; the ports are the real ones.
    pub fn advertised_host(mut self, host: impl Into<String>) -> Self {
        self.settings.advertised_host = Some(host.into());
        self
    }

    /// A topic that exists from the start.
    pub fn topic(self, name: impl Into<String>, partitions: i32) -> Self {
        self.topic_spec(TopicSpec::new(name, partitions))
    }

    /// A topic that exists from the start, with its settings.
    pub fn topic_spec(mut self, topic: TopicSpec) -> Self {
        self.settings.topics.push(topic);
        self
    }

    /// A setting for every topic that does not say otherwise, by Kafka's name of the topic setting.
    pub fn topic_default(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.topic_defaults.push((name.into(), value.into()));
        self
    }

    /// Whether topics are made when they are asked for (off).
    pub fn auto_create(mut self, auto_create: AutoCreate) -> Self {
        self.settings.auto_create = auto_create;
        self
    }

    /// Partitions of a topic that is created without a number (1).
    pub fn default_partitions(mut self, partitions: i32) -> Self {
        self.settings.default_partitions = partitions;
        self
    }

    /// What is done with record batches (kept in memory).
    pub fn storage(mut self, storage: Storage) -> Self {
        self.settings.storage = storage;
        self
    }

    /// How closely record batches are looked at (as Kafka does).
    pub fn strictness(mut self, strictness: Strictness) -> Self {
        self.settings.strictness = strictness;
        self
    }

    /// Kafka's `message.max.bytes`: the largest record batch of a topic that does not say otherwise, in bytes (1 048 588).
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// Kafka's `socket.request.max.bytes`: a larger request closes its connection (100 MiB).
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_request_bytes = bytes;
        self
    }

    /// Kafka's `producer.id.expiration.ms`: after how much *event time* a producer is forgotten (24 h), and how often that is looked at
    /// (10 min). [`EmbeddedKafka::expire_producers`] looks at once.
    pub fn producer_id_expiration(mut self, after: Duration, check_every: Duration) -> Self {
        self.settings.producer_id_expiration = after;
        self.settings.producer_id_expiration_check = check_every;
        self
    }

    /// The first producer id that the cluster gives (0, as a new Kafka).
    pub fn first_producer_id(mut self, id: i64) -> Self {
        self.settings.first_producer_id = id;
        self
    }

    /// The clock by which record times are judged and `LogAppendTime` is given, in milliseconds since 1970 (the system's).
    pub fn clock(mut self, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// Starts the cluster on a thread of its own. When this returns, every broker listens.
    ///
    /// It may be called from anywhere, inside any tokio runtime or outside of all.
    ///
    /// # Errors
    /// A port that cannot be had, or a topic that cannot be made.
    pub fn start(self) -> Result<EmbeddedKafka, StartError> {
        EmbeddedKafka::start_on_thread(self.settings)
    }

    /// Starts the cluster on a runtime of yours, which must have I/O and time enabled. The cluster lives no longer than the runtime.
    ///
    /// # Errors
    /// A port that cannot be had, or a topic that cannot be made.
    pub fn start_on(self, runtime: tokio::runtime::Handle) -> Result<EmbeddedKafka, StartError> {
        EmbeddedKafka::start_on_runtime(self.settings, runtime)
    }
}
