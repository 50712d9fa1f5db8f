//! What is known of the cluster, shared between connections and callers.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use kafka_batcher_core::wire::MetadataAnswer;
use kafka_batcher_core::{Backoff, BackoffSettings, Leader, TopicId};
use tokio::sync::{Notify, watch};

use super::Endpoint;
use super::connection::Role;
use super::metadata::{Leadership, News, Topics};
use super::node::Node;
use crate::producer::ClusterInfo;

pub(crate) struct Cluster {
    known: RwLock<Known>,
    version: watch::Sender<u64>,
    /// Somebody found metadata to be wrong.
    refresh: Notify,
    backoff: BackoffSettings,
}

#[derive(Default)]
struct Known {
    cluster_id: Option<String>,
    /// Brokers of the latest answer.
    alive: Vec<(i32, Endpoint)>,
    /// Every broker ever heard of: connections outlive a broker's absence from an answer.
    nodes: HashMap<i32, Arc<Node>>,
    topics: Topics,
    /// The bootstrap address through which the cluster was found.
    found_by: Option<Endpoint>,
}

impl Known {
    fn place(&self, topic: &str, partition: i32) -> Option<(Leader, &Arc<Node>)> {
        let topic = self.topics.get(topic)?;
        let place = topic.partitions.get(usize::try_from(partition).ok()?)?;
        let node = self.nodes.get(&place.node)?;
        let leader = Leader {
            node: place.node,
            epoch: place.epoch,
            topic_id: topic.id,
            connection: node.generation(),
        };
        Some((leader, node))
    }
}

impl Cluster {
    pub(super) fn new(backoff: BackoffSettings) -> Self {
        Cluster { known: RwLock::default(), version: watch::Sender::new(0), refresh: Notify::new(), backoff }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Metadata seems wrong: asks for a new one, soon.
    pub(crate) fn want_refresh(&self) {
        self.refresh.notify_one();
    }

    pub(super) async fn refresh_wanted(&self) {
        self.refresh.notified().await;
    }

    /// Who leads the partition, over which connection.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.read().place(topic, partition).map(|(leader, _)| leader)
    }

    /// The leader with its node.
    pub(crate) fn place(&self, topic: &str, partition: i32) -> Option<(Leader, Arc<Node>)> {
        self.read().place(topic, partition).map(|(leader, node)| (leader, node.clone()))
    }

    /// Resolves when another node than `node` is known to lead one of these partitions. Cancel-safe.
    ///
    /// For whoever still waits for a connection to `node`: a broker that froze accepts connections and says nothing, so without this a
    /// batch would wait for `connect_timeout`, long after another broker took over. Since whoever waits reports no failure, the question who
    /// leads is asked again from here, after growing pauses.
    pub(crate) async fn led_elsewhere(&self, node: i32, places: &[(Arc<str>, i32)]) {
        let mut version = self.version();
        let mut pause = Backoff::new(self.backoff, RandomState::new().hash_one(node));
        let elsewhere = |(topic, partition): &(Arc<str>, i32)| {
            self.leader(topic, *partition).is_some_and(|l| l.node != node)
        };
        while !places.iter().any(elsewhere) {
            // A timeout: nothing new. An error is not to be: the sender is ours.
            if tokio::time::timeout(pause.next_delay(), version.changed()).await.is_err() {
                self.want_refresh();
            }
        }
    }

    /// The topic's id and number of partitions.
    pub(crate) fn topic(&self, topic: &str) -> Option<(TopicId, usize)> {
        self.read().topics.get(topic).map(|topic| (topic.id, topic.partitions.len()))
    }

    pub(crate) fn node(&self, id: i32) -> Option<Arc<Node>> {
        self.read().nodes.get(&id).cloned()
    }

    /// Brokers to ask, those with an open connection first: they are known to be there.
    pub(super) fn candidates(&self) -> Vec<(i32, Endpoint)> {
        let known = self.read();
        let mut found = known.alive.clone();
        found.sort_by_key(|(id, _)| known.nodes.get(id).is_none_or(|node| node.connection().is_none()));
        found
    }

    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        self.read().topics.names().cloned().collect()
    }

    /// Whether some partition of a topic that was asked for has no leader.
    pub(super) fn is_unsettled(&self) -> bool {
        self.read().topics.unsettled()
    }

    pub(crate) fn info(&self) -> ClusterInfo {
        let known = self.read();
        let brokers = known.alive.iter().map(|(id, endpoint)| (*id, endpoint.to_string())).collect();
        ClusterInfo { cluster_id: known.cluster_id.clone(), brokers }
    }

    pub(super) fn found_by(&self) -> Option<Endpoint> {
        self.read().found_by.clone()
    }

    pub(super) fn set_found_by(&self, endpoint: Endpoint) {
        self.write().found_by = Some(endpoint);
    }

    /// A broker's view of the cluster.
    pub(super) fn learn(&self, answer: &MetadataAnswer) {
        let mut known = self.write();
        let other = matches!((&known.cluster_id, &answer.cluster_id), (Some(old), Some(new)) if old != new);
        if other {
            tracing::warn!(old = ?known.cluster_id, new = ?answer.cluster_id, "these addresses are another cluster now");
            known.topics.clear();
        }
        if answer.cluster_id.is_some() {
            known.cluster_id.clone_from(&answer.cluster_id);
        }
        known.alive.clear();
        for broker in &answer.brokers {
            if let Some(endpoint) = endpoint(&broker.host, broker.port) {
                known.alive.push((broker.node, endpoint.clone()));
                self.place_node(&mut known, broker.node, endpoint);
            }
        }
        let mut news = if other { News::Changed } else { News::Same };
        for topic in &answer.topics {
            let topic_news = match topic.code.0 {
                0 => known.topics.described(topic),
                _ => known.topics.not_described(&topic.name),
            };
            if topic_news == News::Changed {
                news = News::Changed;
            }
        }
        drop(known);
        if news == News::Changed {
            self.changed();
        }
    }

    fn place_node(&self, known: &mut Known, id: i32, endpoint: Endpoint) {
        match known.nodes.get(&id) {
            Some(node) => node.move_to(endpoint),
            None => {
                // Clients that lost the same broker at the same moment must not come back at the same moment.
                let seed = RandomState::new().hash_one(id);
                // Were the pauses between two connects as long as those of a partition, every other try of it would come too early by a
                // little, and wait for its own next time (DESIGN, "How cost grows"). The price: a process with many partitions,
                // which tries whenever it may, does so twice as often.
                let node = Node::new(id, endpoint, Backoff::new(self.backoff.halved(), seed));
                known.nodes.insert(id, Arc::new(node));
            }
        }
    }

    /// A broker named another one, with its address (KIP-951).
    pub(super) fn broker(&self, id: i32, host: &str, port: i32) {
        if let Some(endpoint) = endpoint(host, port) {
            self.place_node(&mut self.write(), id, endpoint);
        }
    }

    /// A broker that does not lead a partition said who does (KIP-951).
    pub(super) fn moved(&self, topic: &str, id: TopicId, partition: i32, to: Leadership) {
        let news = self.write().topics.moved(topic, id, partition, to);
        if news == News::Changed {
            self.changed();
        }
    }

    /// A broker asked to be sent nothing for so long.
    pub(super) fn throttled(&self, role: Role, by: Duration) {
        if let Role::Node { node, .. } = role
            && let Some(node) = self.node(node)
        {
            node.throttled(by);
        }
    }

    /// A connection is over. One that was in use is a sign that a leader may have gone.
    pub(super) fn connection_closed(&self, role: Role, idle: bool) {
        if let Role::Node { node, generation } = role {
            if let Some(node) = self.node(node) {
                node.disconnected(generation);
            }
            self.changed();
        }
        if !idle {
            self.want_refresh();
        }
    }

    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.read().nodes.values().cloned().collect()
    }
}

/// An address out of an answer; `None` if it cannot be one.
fn endpoint(host: &str, port: i32) -> Option<Endpoint> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| Endpoint { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_broker_may_be_connected_to_again_before_a_partition_of_it_tries_again() {
        let backoff = BackoffSettings { initial: Duration::from_millis(100), ..Default::default() };
        let cluster = Cluster::new(backoff);
        cluster.broker(1, "127.0.0.1", 9092);
        let (node, now) = (cluster.node(1).unwrap(), Instant::now());
        node.failed("refused".into(), now);
        // A partition waits for 80 to 120 ms, the broker for 40 to 60.
        let too_early = |ms| node.recent_failure(now + Duration::from_millis(ms)).is_some();
        assert!(too_early(39) && !too_early(61));
    }
}
