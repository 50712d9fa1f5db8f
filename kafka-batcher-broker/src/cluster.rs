//! The cluster as a test holds it: addresses, topics, a look into the logs, faults.
//!
//! Every method is synchronous, takes the state's lock for a moment, and is done when it returns. So all of it may be called from async
//! code, from threads, and from a fault's own action. How a cluster starts and ends stands in `start.rs`, what can be done to its brokers in
//! `control.rs`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::builder::{Builder, TopicSpec, millis};
use crate::error_code::ErrorCode;
use crate::faults::{Fault, FaultId};
use crate::log::LogBatch;
use crate::record::Record;
use crate::start::{Owner, StartError};
use crate::state::{Broker, Phase, Shared};
use crate::stats::Stats;

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

/// A running cluster of 1 to n brokers. It stops when the last clone is dropped.
#[derive(Clone)]
pub struct EmbeddedKafka {
    pub(crate) shared: Arc<Shared>,
    /// `None` in what a fault's action is given.
    pub(crate) _owner: Option<Arc<Owner>>,
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

    pub(crate) fn with_broker<T>(
        &self,
        id: i32,
        act: impl FnOnce(&mut Broker) -> T,
    ) -> Result<T, ControlError> {
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

    pub(crate) fn with_partition<T>(
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
