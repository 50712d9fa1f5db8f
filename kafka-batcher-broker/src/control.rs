//! What a test can do to the brokers of a running cluster: stop, kill, restart, freeze, move leaders, replace all of it.
//!
//! When a call returns it is so: a stopped broker's port refuses, and nothing more is written through that broker; a restarted one listens.

use crate::builder::millis;
use crate::cluster::{ControlError, EmbeddedKafka};
use crate::producer_state::ProducerMemory;
use crate::start::{listen, new_cluster_id};
use crate::state::{Broker, Phase};

impl EmbeddedKafka {
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
}
