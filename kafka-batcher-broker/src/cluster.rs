//! The cluster as a test holds it: start, stop, faults, and a look inside.
//!
//! Every method is synchronous, takes the state's lock for a moment, and is done when it returns: a stopped broker's port refuses, a
//! restarted one listens. So all of it may be called from async code, from threads, and from a fault's own action.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::builder::{Builder, Settings, TopicSpec, millis};
use crate::connection;
use crate::error_code::ErrorCode;
use crate::faults::{Fault, FaultId};
use crate::log::LogBatch;
use crate::producer_state::ProducerMemory;
use crate::record::Record;
use crate::state::{Broker, Phase, Shared};
use crate::stats::Stats;

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A broker's address could not be had.
    #[error("broker {broker} cannot listen on {address}: {source}")]
    Listen {
        /// The broker's id.
        broker: i32,
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A topic of the builder cannot be made.
    #[error("topic {topic:?} cannot be created: {message} (error {code})")]
    Topic {
        /// Its name.
        topic: String,
        /// Kafka's code for it.
        code: ErrorCode,
        /// Kafka's words for it.
        message: String,
    },
    /// The thread or its runtime could not be made.
    #[error("the broker's thread could not be started: {0}")]
    Thread(#[source] io::Error),
}

/// Why a call on a running cluster could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No such broker.
    #[error("there is no broker {0}")]
    NoSuchBroker(i32),
    /// No such topic or partition.
    #[error("there is no partition {partition} of topic {topic:?}")]
    NoSuchPartition {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
    },
    /// A broker's port is taken.
    #[error("broker {broker} cannot listen again: {message}")]
    Listen {
        /// Broker.
        broker: i32,
        /// The system's words.
        message: String,
    },
    /// Kafka would refuse it.
    #[error("{message} (error {code})")]
    Refused {
        /// Kafka's code.
        code: ErrorCode,
        /// Kafka's words.
        message: String,
    },
}

/// The thread of a cluster that was started with [`Builder::start`]; it ends with its last owner.
struct Owner {
    shared: Arc<Shared>,
    thread: Option<(tokio::sync::oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        for broker in self.shared.lock().brokers.values_mut() {
            broker.halt(Phase::Stopped);
        }
        if let Some((stop, thread)) = self.thread.take() {
            let _ = stop.send(());
            // A fault's action may hold the last owner; a thread cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// A running cluster of 1 to n brokers. It stops when the last clone is dropped.
#[derive(Clone)]
pub struct EmbeddedKafka {
    shared: Arc<Shared>,
    /// `None` in what a fault's action is given.
    _owner: Option<Arc<Owner>>,
}

impl fmt::Debug for EmbeddedKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedKafka").field("bootstrap", &self.bootstrap()).finish_non_exhaustive()
    }
}

impl EmbeddedKafka {
    /// Describes a cluster.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// One broker without topics that creates what is asked for, on a thread of its own.
    ///
    /// # Errors
    /// No port or no thread can be had.
    pub fn start() -> Result<Self, StartError> {
        Self::builder().auto_create(crate::AutoCreate::On).start()
    }

    pub(crate) fn start_on_thread(settings: Settings) -> Result<Self, StartError> {
        let (started, answer) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let body = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(StartError::Thread(error)))),
            };
            let shared = Self::launch(settings, runtime.handle().clone());
            if started.send(shared).is_ok() {
                // An error means that the owner is gone, which is the same message.
                let _ = runtime.block_on(stopped);
            }
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new()
            .name("kafka-broker".to_owned())
            .spawn(body)
            .map_err(StartError::Thread)?;
        let died = || StartError::Thread(io::Error::other("the thread ended before it answered"));
        let shared = answer.recv().map_err(|_| died())??;
        Ok(Self::owned(shared, Some((stop, thread))))
    }

    pub(crate) fn start_on_runtime(
        settings: Settings,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, StartError> {
        Self::launch(settings, runtime).map(|shared| Self::owned(shared, None))
    }

    fn owned(
        shared: Arc<Shared>,
        thread: Option<(tokio::sync::oneshot::Sender<()>, JoinHandle<()>)>,
    ) -> Self {
        let owner = Owner { shared: Arc::clone(&shared), thread };
        Self { shared, _owner: Some(Arc::new(owner)) }
    }

    /// The cluster without the duty to keep it alive.
    pub(crate) fn borrowed(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), _owner: None }
    }

    fn launch(settings: Settings, runtime: tokio::runtime::Handle) -> Result<Arc<Shared>, StartError> {
        let shared = Arc::new(Shared::new(settings, runtime));
        {
            let settings = &shared.settings;
            let mut state = shared.lock();
            state.cluster_id = new_cluster_id();
            state.next_producer_id = settings.first_producer_id;
            for index in 0..settings.brokers {
                let id = i32::try_from(index + 1).unwrap_or(i32::MAX);
                let wanted = SocketAddr::new(settings.bind, settings.ports.get(index).copied().unwrap_or(0));
                let failed = |source| StartError::Listen { broker: id, address: wanted, source };
                let (addr, port) = reserve(wanted).map_err(failed)?;
                let given = settings.advertised.iter().find(|(broker, ..)| *broker == id);
                let advertised = given
                    .map(|(_, host, port)| (host.clone(), *port))
                    .or_else(|| settings.advertised_host.clone().map(|host| (host, addr.port())));
                let mut broker = Broker::new(addr, port, advertised);
                listen(&shared, &mut broker, id).map_err(failed)?;
                state.brokers.insert(id, broker);
            }
            for topic in &settings.topics {
                state.create_topic(topic, settings, false).map_err(|(code, message)| StartError::Topic {
                    topic: topic.name.clone(),
                    code,
                    message,
                })?;
            }
        }
        // Weak, or the timer would keep a cluster alive on a runtime that is not its own.
        let (weak, every) = (Arc::downgrade(&shared), shared.settings.producer_id_expiration_check);
        shared.runtime.spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(shared) = weak.upgrade() else { return };
                Self::borrowed(&shared).expire_producers();
            }
        });
        Ok(shared)
    }

    // ---- addresses

    /// The bootstrap address: every broker that listens now, `host:port`, by commas. Advertised addresses are not in it.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let state = self.shared.lock();
        let running = state.brokers.values().filter(|broker| broker.phase == Phase::Running);
        running.map(|broker| broker.addr.to_string()).collect::<Vec<_>>().join(",")
    }

    /// Where broker `id` listens, or listened and will listen again.
    #[must_use]
    pub fn address(&self, id: i32) -> Option<SocketAddr> {
        self.shared.lock().brokers.get(&id).map(|broker| broker.addr)
    }

    /// The addresses of all brokers, stopped ones too, in the order of their ids.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.shared.lock().brokers.values().map(|broker| broker.addr).collect()
    }

    /// Changes what metadata says is the address of a broker; `None`: its real one.
    ///
    /// # Errors
    /// [`ControlError::NoSuchBroker`].
    pub fn set_advertised(&self, id: i32, address: Option<(&str, u16)>) -> Result<(), ControlError> {
        self.with_broker(id, |broker| {
            broker.advertised = address.map(|(host, port)| (host.to_owned(), port));
        })
    }

    /// The id of this cluster, as Metadata gives it.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        self.shared.lock().cluster_id.clone()
    }

    // ---- topics

    /// Makes a topic.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with what Kafka would say.
    pub fn create_topic(&self, topic: TopicSpec) -> Result<Uuid, ControlError> {
        let made = self.shared.lock().create_topic(&topic, &self.shared.settings, false);
        self.shared.topology_changed();
        made.map_err(|(code, message)| ControlError::Refused { code, message })
    }

    /// Removes a topic and its records; says whether it was there.
    pub fn delete_topic(&self, topic: &str) -> bool {
        let gone = self.shared.lock().topics.remove(topic).is_some();
        self.shared.topology_changed();
        gone
    }

    /// Removes a topic and makes it anew: same name, number of partitions and settings, no records, no producers, a new topic id.
    ///
    /// # Errors
    /// [`ControlError::NoSuchPartition`] if there is no such topic.
    pub fn recreate_topic(&self, topic: &str) -> Result<Uuid, ControlError> {
        let id = Uuid::new_v4();
        self.with_topic(topic, |topic| {
            topic.id = id;
            for partition in &mut topic.partitions {
                partition.log = crate::log::PartitionLog::default();
                partition.discarded = Arc::default();
                partition.leader_epoch = 0;
            }
        })?;
        self.shared.topology_changed();
        Ok(id)
    }

    /// Changes one setting of a topic, by Kafka's name of it; it holds for the next request.
    ///
    /// # Errors
    /// [`ControlError::NoSuchPartition`] if there is no such topic, [`ControlError::Refused`] for a name or value that Kafka would refuse.
    pub fn set_topic_config(&self, topic: &str, name: &str, value: &str) -> Result<(), ControlError> {
        self.with_topic(topic, |topic| topic.config.set(name, value))?
            .map_err(|message| ControlError::Refused { code: ErrorCode::INVALID_CONFIG, message })
    }

    /// The id of a topic.
    #[must_use]
    pub fn topic_id(&self, topic: &str) -> Option<Uuid> {
        self.shared.lock().topics.get(topic).map(|topic| topic.id)
    }

    /// Number of partitions of a topic, 0 if there is none.
    #[must_use]
    pub fn partition_count(&self, topic: &str) -> usize {
        self.shared.lock().topics.get(topic).map_or(0, |topic| topic.partitions.len())
    }

    /// Adds partitions until there are `count`, led in turn by the brokers.
    ///
    /// # Errors
    /// [`ControlError::NoSuchPartition`] if there is no such topic.
    pub fn grow_topic(&self, topic: &str, count: usize) -> Result<(), ControlError> {
        let ids: Vec<i32> = self.shared.lock().brokers.keys().copied().collect();
        self.with_topic(topic, |topic| {
            let replication = topic.partitions.first().map_or(1, |first| first.replicas.len());
            while topic.partitions.len() < count {
                let index = topic.partitions.len();
                let replicas: Vec<i32> =
                    (0..replication).filter_map(|n| ids.get((index + n) % ids.len()).copied()).collect();
                topic.partitions.push(crate::state::Partition {
                    leader: None,
                    leader_epoch: -1,
                    replicas,
                    log: crate::log::PartitionLog::default(),
                    discarded: Arc::default(),
                });
            }
        })?;
        self.shared.lock().elect_leaders();
        self.shared.topology_changed();
        Ok(())
    }

    // ---- what lies in the logs

    /// The batches of a partition, in their order; empty if there is no such partition.
    #[must_use]
    pub fn batches(&self, topic: &str, partition: i32) -> Vec<LogBatch> {
        let state = self.shared.lock();
        let found = state.topics.get(topic).and_then(|topic| topic.partition(partition));
        found.map_or_else(Vec::new, |partition| partition.log.batches().to_vec())
    }

    /// The records of a partition, in their order, read by this crate's own decoder; empty if there is no such partition. Records of
    /// compressed batches are not among them: this crate opens no codec (see [`EmbeddedKafka::batches`]).
    #[must_use]
    pub fn log(&self, topic: &str, partition: i32) -> Vec<Record> {
        self.batches(topic, partition).iter().filter_map(LogBatch::records).flatten().collect()
    }

    /// First and next offset of a partition; in discard mode the next offset counts what was acknowledged.
    #[must_use]
    pub fn offsets(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        let state = self.shared.lock();
        let found = state.topics.get(topic)?.partition(partition)?;
        let discarded = found.discarded.next_offset.load(std::sync::atomic::Ordering::Relaxed);
        Some((found.log.start(), found.log.end().max(discarded)))
    }

    /// What the cluster counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Cuts a partition's log so that nothing at or after `offset` is left (a batch that reaches beyond goes whole): what an unclean change
    /// of leader does. What the partition remembers of producers is what the rest of the log says.
    ///
    /// # Errors
    /// [`ControlError::NoSuchPartition`].
    pub fn truncate_log(&self, topic: &str, partition: i32, offset: i64) -> Result<(), ControlError> {
        self.with_partition(topic, partition, |partition| partition.log.truncate(offset))
    }

    /// Deletes what is older than each topic's `retention.ms`, now: Kafka does it every five minutes. Answers how many batches went.
    pub fn apply_retention(&self) -> usize {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        let topics = state.topics.values_mut();
        topics
            .map(|topic| {
                let retention = topic.config.retention_ms;
                topic.partitions.iter_mut().map(|p| p.log.apply_retention(now, retention)).sum::<usize>()
            })
            .sum()
    }

    /// Forgets every producer whose last event is older than the expiration, now.
    pub fn expire_producers(&self) {
        let (now, after) = (self.shared.now(), millis(self.shared.settings.producer_id_expiration));
        for partition in self.shared.lock().topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            partition.log.producers.expire(now, after);
        }
    }

    // ---- brokers

    /// Stops a broker as an operator does: it hands its partitions to other brokers that have them, closes its port and its connections, and
    /// leaves the metadata. Stopping a stopped broker changes nothing.
    ///
    /// # Errors
    /// [`ControlError::NoSuchBroker`].
    pub fn stop_broker(&self, id: i32) -> Result<(), ControlError> {
        self.with_broker(id, |broker| broker.halt(Phase::Stopped))?;
        self.shared.lock().elect_leaders();
        self.shared.topology_changed();
        Ok(())
    }

    /// Kills a broker: its port and connections are gone, and nobody has noticed. Metadata of the others still names it, also as a leader,
    /// until [`EmbeddedKafka::notice_deaths`], [`EmbeddedKafka::move_leader`] or its restart.
    ///
    /// # Errors
    /// [`ControlError::NoSuchBroker`].
    pub fn kill_broker(&self, id: i32) -> Result<(), ControlError> {
        self.with_broker(id, |broker| broker.halt(Phase::Killed))
    }

    /// Lets the cluster find out which brokers are dead (Kafka: after `broker.session.timeout.ms`): they leave the metadata and others lead
    /// their partitions.
    pub fn notice_deaths(&self) {
        let mut state = self.shared.lock();
        for broker in state.brokers.values_mut().filter(|broker| broker.phase == Phase::Killed) {
            broker.phase = Phase::Stopped;
        }
        state.elect_leaders();
        drop(state);
        self.shared.topology_changed();
    }

    /// Starts a broker again on its old port; a running one is stopped first. `memory` says what the partitions that it leads, or will lead
    /// since nobody else does, still know of producers; producers that are over their expiration are forgotten in any case.
    ///
    /// # Errors
    /// [`ControlError::NoSuchBroker`], or [`ControlError::Listen`] if something else has taken the port.
    pub fn restart_broker(&self, id: i32, memory: ProducerMemory) -> Result<(), ControlError> {
        let (now, after) = (self.shared.now(), millis(self.shared.settings.producer_id_expiration));
        {
            let mut state = self.shared.lock();
            let broker = state.brokers.get_mut(&id).ok_or(ControlError::NoSuchBroker(id))?;
            broker.halt(Phase::Stopped);
            listen(&self.shared, broker, id)
                .map_err(|error| ControlError::Listen { broker: id, message: error.to_string() })?;
            for partition in state.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
                if partition.leader == Some(id)
                    || (partition.leader.is_none() && partition.replicas.contains(&id))
                {
                    partition.log.producers.restart(memory);
                    partition.log.producers.expire(now, after);
                    // A restarted leader leads under a new epoch.
                    partition.leader = None;
                }
            }
            state.elect_leaders();
        }
        self.shared.topology_changed();
        Ok(())
    }

    /// Freezes a broker: it accepts connections, reads nothing more and answers nothing, like a stopped process (SIGSTOP), until
    /// [`EmbeddedKafka::thaw`]. What was sent meanwhile is served then.
    ///
    /// # Errors
    /// [`ControlError::NoSuchBroker`].
    pub fn freeze(&self, id: i32) -> Result<(), ControlError> {
        self.with_broker(id, |broker| {
            broker.frozen.send_replace(true);
        })
    }

    /// Ends a freeze.
    ///
    /// # Errors
    /// [`ControlError::NoSuchBroker`].
    pub fn thaw(&self, id: i32) -> Result<(), ControlError> {
        self.with_broker(id, |broker| {
            broker.frozen.send_replace(false);
        })
    }

    /// Closes every connection of a broker, which goes on listening: an idle disconnect, a load balancer's reset.
    ///
    /// # Errors
    /// [`ControlError::NoSuchBroker`].
    pub fn drop_connections(&self, id: i32) -> Result<(), ControlError> {
        self.with_broker(id, Broker::close_connections)
    }

    /// Connections open to a broker now.
    #[must_use]
    pub fn open_connections(&self, id: i32) -> usize {
        self.shared.lock().brokers.get(&id).map_or(0, |broker| broker.connections.len())
    }

    /// Makes broker `to` the leader of a partition, with a new leader epoch; nothing is lost, and producers stay known.
    ///
    /// # Errors
    /// [`ControlError::NoSuchBroker`], [`ControlError::NoSuchPartition`].
    pub fn move_leader(&self, topic: &str, partition: i32, to: i32) -> Result<(), ControlError> {
        self.with_broker(to, |_| ())?;
        self.with_partition(topic, partition, |partition| {
            partition.leader = Some(to);
            partition.leader_epoch += 1;
            if !partition.replicas.contains(&to) {
                partition.replicas.push(to);
            }
        })
    }

    /// Takes the leader from a partition: error 5 `LEADER_NOT_AVAILABLE` in metadata, 6 `NOT_LEADER_OR_FOLLOWER` elsewhere.
    ///
    /// # Errors
    /// [`ControlError::NoSuchPartition`].
    pub fn remove_leader(&self, topic: &str, partition: i32) -> Result<(), ControlError> {
        self.with_partition(topic, partition, |partition| {
            partition.leader = None;
            partition.leader_epoch += 1;
        })
    }

    /// The leader of a partition and its epoch.
    #[must_use]
    pub fn leader(&self, topic: &str, partition: i32) -> Option<(i32, i32)> {
        let state = self.shared.lock();
        let found = state.topics.get(topic)?.partition(partition)?;
        Some((found.leader?, found.leader_epoch))
    }

    /// Another cluster at the same addresses: a new cluster id, the same topics with new ids and without records, no producers, producer ids
    /// that begin again. All connections are closed.
    pub fn replace_cluster(&self) {
        let names: Vec<String> = {
            let mut state = self.shared.lock();
            state.cluster_id = new_cluster_id();
            state.next_producer_id = self.shared.settings.first_producer_id;
            for broker in state.brokers.values_mut() {
                broker.forget_producer_ids();
                broker.close_connections();
            }
            state.topics.keys().cloned().collect()
        };
        for name in names {
            // It was there a moment ago; if somebody deleted it since, there is nothing to replace.
            let _ = self.recreate_topic(&name);
        }
    }

    // ---- faults

    /// Adds a fault. Several may be there at once; all that match a request take effect together.
    pub fn inject(&self, fault: Fault) -> FaultId {
        let mut state = self.shared.lock();
        let id = state.faults.add(fault);
        self.shared.faults_armed.store(true, std::sync::atomic::Ordering::Release);
        id
    }

    /// How often a fault took effect.
    #[must_use]
    pub fn fault_hits(&self, id: FaultId) -> u64 {
        self.shared.lock().faults.hits(id)
    }

    /// Removes one fault. Connections that it silenced stay silent.
    pub fn remove_fault(&self, id: FaultId) {
        self.shared.lock().faults.remove(id);
    }

    /// Removes all faults. Connections that one silenced stay silent.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Answers DescribeProducers with 29 `TOPIC_AUTHORIZATION_FAILED` from now on, as to a client without the right to read.
    pub fn refuse_describe_producers(&self) -> FaultId {
        self.inject(
            Fault::answer(ErrorCode::TOPIC_AUTHORIZATION_FAILED).on(crate::Api::DescribeProducers).always(),
        )
    }

    // ---- helpers

    fn with_broker<T>(&self, id: i32, act: impl FnOnce(&mut Broker) -> T) -> Result<T, ControlError> {
        let mut state = self.shared.lock();
        let done = act(state.brokers.get_mut(&id).ok_or(ControlError::NoSuchBroker(id))?);
        Ok(done)
    }

    fn with_topic<T>(
        &self,
        topic: &str,
        act: impl FnOnce(&mut crate::state::Topic) -> T,
    ) -> Result<T, ControlError> {
        let missing = || ControlError::NoSuchPartition { topic: topic.to_owned(), partition: 0 };
        let mut state = self.shared.lock();
        let done = act(state.topics.get_mut(topic).ok_or_else(missing)?);
        Ok(done)
    }

    fn with_partition<T>(
        &self,
        topic: &str,
        partition: i32,
        act: impl FnOnce(&mut crate::state::Partition) -> T,
    ) -> Result<T, ControlError> {
        let missing = || ControlError::NoSuchPartition { topic: topic.to_owned(), partition };
        let mut state = self.shared.lock();
        let found = state.topics.get_mut(topic).and_then(|topic| topic.partition_mut(partition));
        let done = act(found.ok_or_else(missing)?);
        drop(state);
        self.shared.topology_changed();
        Ok(done)
    }
}

/// 22 characters, as Kafka's own: 16 random bytes in URL-safe base 64.
fn new_cluster_id() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = Uuid::new_v4().as_u128();
    (0..22)
        .map(|n| {
            let digit = (bits >> (n * 6)) & 63;
            DIGITS.get(digit as usize).map_or('A', |byte| char::from(*byte))
        })
        .collect()
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows the same option would let two programs listen on one port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Finds the address to listen on. On Linux the port is kept while the broker is down, by a second socket that is bound and never listens,
/// so that no other program is given it meanwhile; elsewhere two such sockets are not allowed.
fn reserve(wanted: SocketAddr) -> io::Result<(SocketAddr, Option<Socket>)> {
    let socket = bound(wanted)?;
    let address = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    Ok((address, cfg!(target_os = "linux").then_some(socket)))
}

/// Begins a life of a broker: it listens and accepts.
fn listen(shared: &Arc<Shared>, broker: &mut Broker, id: i32) -> io::Result<()> {
    let socket = bound(broker.addr)?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    let _runtime = shared.runtime.enter();
    broker.listener = Some(TcpListener::from_std(socket.into())?);
    broker.generation += 1;
    broker.phase = Phase::Running;
    let acceptor = connection::accept(Arc::downgrade(shared), id, broker.generation);
    broker.acceptor = Some(shared.runtime.spawn(acceptor).abort_handle());
    Ok(())
}
