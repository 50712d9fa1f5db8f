//! What a cluster knows, under one lock: brokers, topics, leaders, logs, faults.
//!
//! Every request is served while that lock is held, and a request of a broker that was stopped meanwhile is not served at all. So when
//! `stop_broker` returns, nothing more is written through that broker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::builder::{Settings, TopicSpec};
use crate::error_code::ErrorCode;
use crate::faults::Faults;
use crate::log::PartitionLog;
use crate::stats::Counters;
use crate::topic_config::{TopicConfig, is_valid_topic_name};

/// Producer ids that a broker takes at a time (`ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`); a restart begins a new block.
const PRODUCER_ID_BLOCK: i64 = 1000;

/// What everything of a cluster shares.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) counters: Counters,
    /// Woken when something was appended or a leader moved: for fetches that wait.
    pub(crate) changed: Notify,
    /// Counts changes of topics and leaders, so that discard mode may keep what it looked up.
    pub(crate) topology: AtomicU64,
    /// Whether any fault is waiting, so that discard mode need not take the lock to ask.
    pub(crate) faults_armed: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(settings: Settings, runtime: tokio::runtime::Handle) -> Self {
        Self {
            settings,
            runtime,
            counters: Counters::default(),
            changed: Notify::new(),
            topology: AtomicU64::new(0),
            faults_armed: AtomicBool::new(false),
            state: Mutex::new(State::default()),
        }
    }

    /// The state. A panic under the lock (a bug) must not hide every later assertion of the test, so poison is ignored.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if broker `id` is still in the life that began with `generation`.
    pub(crate) fn lock_live(&self, id: i32, generation: u64) -> Option<MutexGuard<'_, State>> {
        Some(self.lock()).filter(|state| {
            state.brokers.get(&id).is_some_and(|b| b.generation == generation && b.phase == Phase::Running)
        })
    }

    pub(crate) fn now(&self) -> i64 {
        (self.settings.clock)()
    }

    /// To be called after any change of topics, leaders or brokers.
    pub(crate) fn topology_changed(&self) {
        self.topology.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// A broker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Stopped, and the cluster knows.
    Stopped,
    /// Dead, and the cluster has not noticed: metadata still names it.
    Killed,
}

/// An open connection, held so that it can be closed from outside at once.
pub(crate) struct Connection {
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) task: Option<AbortHandle>,
}

/// One broker.
pub(crate) struct Broker {
    pub(crate) addr: SocketAddr,
    /// Keeps the port while the broker is down, where the system allows a bound socket that does not listen.
    pub(crate) _port: Option<socket2::Socket>,
    pub(crate) advertised: Option<(String, u16)>,
    pub(crate) phase: Phase,
    pub(crate) generation: u64,
    /// Polled by the acceptor under the lock; taken out, and so closed at once, by a stop.
    pub(crate) listener: Option<TcpListener>,
    pub(crate) acceptor: Option<AbortHandle>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) frozen: watch::Sender<bool>,
    producer_ids: std::ops::Range<i64>,
}

impl Broker {
    pub(crate) fn new(
        addr: SocketAddr,
        port: Option<socket2::Socket>,
        advertised: Option<(String, u16)>,
    ) -> Self {
        Self {
            addr,
            _port: port,
            advertised,
            phase: Phase::Stopped,
            generation: 0,
            listener: None,
            acceptor: None,
            connections: BTreeMap::new(),
            frozen: watch::Sender::new(false),
            producer_ids: 0..0,
        }
    }

    /// Host and port that metadata gives to clients.
    pub(crate) fn advertised(&self) -> (String, u16) {
        self.advertised.clone().unwrap_or_else(|| (self.addr.ip().to_string(), self.addr.port()))
    }

    /// The next id comes from a new block.
    pub(crate) fn forget_producer_ids(&mut self) {
        self.producer_ids = 0..0;
    }

    /// Closes every connection at once.
    pub(crate) fn close_connections(&mut self) {
        for (_, connection) in std::mem::take(&mut self.connections) {
            // Fails only if the peer closed first.
            let _ = socket2::SockRef::from(&*connection.stream).shutdown(std::net::Shutdown::Both);
            if let Some(task) = connection.task {
                task.abort();
            }
        }
    }

    /// Ends this life: nothing listens, nothing is connected, nothing is served.
    pub(crate) fn halt(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
        self.producer_ids = 0..0;
        self.listener = None;
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.abort();
        }
        self.close_connections();
    }
}

/// What discard mode counts of a partition.
#[derive(Debug, Default)]
pub(crate) struct Discarded {
    pub(crate) next_offset: AtomicI64,
}

/// One partition.
pub(crate) struct Partition {
    /// `None`: no live broker has it.
    pub(crate) leader: Option<i32>,
    pub(crate) leader_epoch: i32,
    pub(crate) replicas: Vec<i32>,
    pub(crate) log: PartitionLog,
    pub(crate) discarded: Arc<Discarded>,
}

/// One topic.
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) config: TopicConfig,
    pub(crate) partitions: Vec<Partition>,
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn partition_mut(&mut self, index: i32) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::try_from(index).ok()?)
    }
}

/// Everything that changes.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) cluster_id: String,
    pub(crate) brokers: BTreeMap<i32, Broker>,
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) faults: Faults,
    pub(crate) next_connection: u64,
    pub(crate) next_producer_id: i64,
}

impl State {
    /// Ids of the brokers that metadata names.
    pub(crate) fn known_brokers(&self) -> impl Iterator<Item = (i32, &Broker)> {
        self.brokers
            .iter()
            .filter(|(_, broker)| broker.phase != Phase::Stopped)
            .map(|(id, broker)| (*id, broker))
    }

    pub(crate) fn is_running(&self, id: i32) -> bool {
        self.brokers.get(&id).is_some_and(|broker| broker.phase == Phase::Running)
    }

    pub(crate) fn controller(&self) -> i32 {
        self.brokers.iter().find(|(_, b)| b.phase == Phase::Running).map_or(-1, |(id, _)| *id)
    }

    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<(&str, &Topic)> {
        self.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, topic)| (name.as_str(), topic))
    }

    /// The partition, if broker `id` leads it, and if not, Kafka's code for that.
    pub(crate) fn led_by(
        &mut self,
        id: i32,
        topic: &str,
        partition: i32,
    ) -> Result<&mut Partition, ErrorCode> {
        let found = self
            .topics
            .get_mut(topic)
            .and_then(|topic| topic.partition_mut(partition))
            .ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if found.leader == Some(id) { Ok(found) } else { Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) }
    }

    /// A fresh producer id from the broker's block.
    pub(crate) fn producer_id(&mut self, broker: i32) -> i64 {
        let next = self.next_producer_id;
        let Some(broker) = self.brokers.get_mut(&broker) else { return next };
        if let Some(id) = broker.producer_ids.next() {
            return id;
        }
        broker.producer_ids = next + 1..next + PRODUCER_ID_BLOCK;
        self.next_producer_id += PRODUCER_ID_BLOCK;
        next
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// Kafka's code and words.
    pub(crate) fn create_topic(
        &mut self,
        spec: &TopicSpec,
        settings: &Settings,
        check_only: bool,
    ) -> Result<Uuid, (ErrorCode, String)> {
        if !is_valid_topic_name(&spec.name) {
            let why = format!(
                "topic name {:?} is invalid: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', and neither '.' nor '..'",
                spec.name
            );
            return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, why));
        }
        if self.topics.contains_key(&spec.name) {
            return Err((ErrorCode::TOPIC_ALREADY_EXISTS, format!("topic '{}' already exists", spec.name)));
        }
        let count = spec.partitions.unwrap_or(settings.default_partitions);
        if !(1..=100_000).contains(&count) {
            let why = format!("number of partitions was set to an invalid value: {count}");
            return Err((ErrorCode::INVALID_PARTITIONS, why));
        }
        let ids: Vec<i32> = self.brokers.keys().copied().collect();
        let replication =
            spec.replication.map_or(ids.len().min(3), |wanted| usize::try_from(wanted).unwrap_or(0));
        if replication == 0 || replication > ids.len() {
            let why = format!("replication factor {replication}: there are {} brokers", ids.len());
            return Err((ErrorCode::INVALID_REPLICATION_FACTOR, why));
        }
        let mut config = TopicConfig::new(settings.max_message_bytes);
        for (name, value) in settings.topic_defaults.iter().chain(&spec.config) {
            config.set(name, value).map_err(|why| (ErrorCode::INVALID_CONFIG, why))?;
        }
        let id = Uuid::new_v4();
        if check_only {
            return Ok(id);
        }
        let at = |n: usize| ids.get(n % ids.len()).copied();
        let partitions = (0..usize::try_from(count).unwrap_or(0)).map(|index| {
            let replicas: Vec<i32> = (0..replication).filter_map(|n| at(index + n)).collect();
            Partition {
                leader: replicas.iter().copied().find(|id| self.is_running(*id)),
                leader_epoch: 0,
                replicas,
                log: PartitionLog::default(),
                discarded: Arc::default(),
            }
        });
        let topic = Topic { id, config, partitions: partitions.collect() };
        self.topics.insert(spec.name.clone(), topic);
        Ok(id)
    }

    /// Gives every partition whose leader left the cluster to its first running replica, with a new leader epoch; where there is none it has
    /// no leader. A dead broker whose death nobody noticed keeps what it leads.
    pub(crate) fn elect_leaders(&mut self) {
        let in_phase = |wanted: fn(Phase) -> bool| -> Vec<i32> {
            self.brokers.iter().filter(|(_, broker)| wanted(broker.phase)).map(|(id, _)| *id).collect()
        };
        let known = in_phase(|phase| phase != Phase::Stopped);
        let running = in_phase(|phase| phase == Phase::Running);
        for partition in self.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            if partition.leader.is_some_and(|leader| known.contains(&leader)) {
                continue;
            }
            let next = partition.replicas.iter().copied().find(|id| running.contains(id));
            if next != partition.leader {
                partition.leader = next;
                partition.leader_epoch += 1;
            }
        }
    }
}
