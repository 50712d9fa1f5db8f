//! Topics, leaders and replicas, by Kafka's own admin client.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Error, RealKafka};

/// A broker as the cluster advertises it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeAddress {
    /// `node.id`; brokers started by this crate count from 1.
    pub id: i32,
    /// The advertised host.
    pub host: String,
    /// The advertised port.
    pub port: u16,
}

/// A topic as one broker sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TopicState {
    /// Kafka's base64url of the topic's id.
    pub topic_id: String,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionState>,
}

/// A partition as one broker sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PartitionState {
    /// Its number.
    pub partition: i32,
    /// The leader's node id, -1: none.
    pub leader: i32,
    /// Node ids, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Node ids of the replicas in sync.
    pub isr: Vec<i32>,
}

#[derive(Deserialize)]
struct Cluster {
    cluster_id: String,
    nodes: Vec<NodeAddress>,
}

impl RealKafka {
    /// The brokers that serve now.
    ///
    /// # Errors
    /// No broker answers.
    pub fn nodes(&self) -> Result<Vec<NodeAddress>, Error> {
        self.admin.ask::<Cluster>(&json!({"do": "cluster"})).map(|c| c.nodes)
    }

    /// The cluster's id.
    ///
    /// # Errors
    /// No broker answers.
    pub fn cluster_id(&self) -> Result<String, Error> {
        self.admin.ask::<Cluster>(&json!({"do": "cluster"})).map(|c| c.cluster_id)
    }

    /// Creates a topic and waits until each partition has a leader and all its replicas in sync.
    ///
    /// # Errors
    /// Kafka's refusal, e.g. of kind `TopicExistsException`; not ready within 60 s.
    pub fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        replication: u16,
        configs: &[(&str, &str)],
    ) -> Result<(), Error> {
        self.admin.tell(&json!({
            "do": "create", "topic": name, "partitions": partitions, "rf": replication, "configs": object(configs),
        }))
    }

    /// Creates a topic of a name that was never used before (`prefix-...`), replicated to all brokers, at most three.
    ///
    /// # Errors
    /// As [`RealKafka::create_topic`].
    pub fn fresh_topic(
        &self,
        prefix: &str,
        partitions: u32,
        configs: &[(&str, &str)],
    ) -> Result<String, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The running Kafka of the environment has seen earlier runs.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{since_epoch}-{}-{count}", std::process::id());
        // Also while one of ours is away for a moment.
        let brokers = self.brokers().map_or_else(|| self.nodes().map(|nodes| nodes.len()), Ok)?;
        let replication = brokers.clamp(1, 3) as u16;
        self.create_topic(&name, partitions, replication, configs)?;
        Ok(name)
    }

    /// Grows a topic to `partitions` and waits until each has a leader.
    ///
    /// # Errors
    /// Kafka's refusal; not ready within 60 s.
    pub fn grow_topic(&self, name: &str, partitions: u32) -> Result<(), Error> {
        self.admin.tell(&json!({"do": "grow", "topic": name, "partitions": partitions}))
    }

    /// Deletes a topic and waits until it is gone.
    ///
    /// # Errors
    /// Kafka's refusal, e.g. of kind `UnknownTopicOrPartitionException`; not gone within 60 s.
    pub fn delete_topic(&self, name: &str) -> Result<(), Error> {
        self.admin.tell(&json!({"do": "delete", "topic": name}))
    }

    /// Names of all topics but Kafka's internal ones.
    ///
    /// # Errors
    /// No broker answers.
    pub fn topics(&self) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Topics {
            topics: Vec<String>,
        }
        self.admin.ask::<Topics>(&json!({"do": "topics"})).map(|t| t.topics)
    }

    /// Leaders and replicas of a topic.
    ///
    /// # Errors
    /// No such topic, or no broker answers.
    pub fn describe(&self, topic: &str) -> Result<TopicState, Error> {
        self.admin.ask(&json!({"do": "describe", "topic": topic}))
    }

    /// The node that leads a partition; -1: none now.
    ///
    /// # Errors
    /// No such topic or partition, or no broker answers.
    pub fn leader(&self, topic: &str, partition: i32) -> Result<i32, Error> {
        let state = self.describe(topic)?;
        let found = state.partitions.iter().find(|p| p.partition == partition);
        found.map(|p| p.leader).ok_or_else(|| Error::NotUnderstood {
            what: "the partition's number",
            text: format!("{partition} of {} in {topic}", state.partitions.len()),
        })
    }

    /// Makes broker `to` the leader of a partition, the way Kafka's tools do it: first among the replicas, then a preferred
    /// leader election; returns when it leads.
    ///
    /// # Errors
    /// `to` holds no replica; it does not lead within 60 s.
    pub fn move_leader(&self, topic: &str, partition: i32, to: i32) -> Result<(), Error> {
        self.admin.tell(&json!({"do": "move_leader", "topic": topic, "partition": partition, "to": to}))
    }

    /// Waits until every partition of a topic has a leader and at least `replicas` in sync.
    ///
    /// # Errors
    /// Not so within 120 s.
    pub fn wait_isr(&self, topic: &str, replicas: usize) -> Result<TopicState, Error> {
        self.admin.ask(&json!({"do": "wait", "topic": topic, "isr": replicas, "timeout_ms": 120_000}))
    }

    /// Waits until a partition is led by some other node than `node`, e.g. after that was killed.
    ///
    /// # Errors
    /// Not so within 60 s.
    pub fn wait_leader_other_than(
        &self,
        topic: &str,
        partition: i32,
        node: i32,
    ) -> Result<TopicState, Error> {
        self.admin.ask(&json!({"do": "wait", "topic": topic, "partition": partition, "leader_not": node}))
    }

    /// Sets configurations of a topic (`max.message.bytes`, ...) and waits until a broker answers with them.
    ///
    /// # Errors
    /// Kafka's refusal; not applied within 60 s.
    pub fn alter_topic_configs(&self, topic: &str, configs: &[(&str, &str)]) -> Result<(), Error> {
        self.admin.tell(&json!({"do": "alter_configs", "topic": topic, "configs": object(configs)}))
    }

    /// Lets `user` (`bob`) write to a topic and to see it. Returns when the controller has it; the broker acts on it soon after.
    ///
    /// # Errors
    /// Kafka's refusal: a Kafka without an authorizer.
    pub fn grant(&self, user: &str, topic: &str) -> Result<(), Error> {
        self.admin.tell(&json!({"do": "grant", "user": user, "topic": topic}))
    }

    /// Sets dynamic configurations of a broker and waits until it answers with them.
    ///
    /// # Errors
    /// Kafka's refusal; not applied within 60 s.
    pub fn alter_broker_configs(&self, node: i32, configs: &[(&str, &str)]) -> Result<(), Error> {
        self.admin
            .tell(&json!({"do": "alter_configs", "broker": node.to_string(), "configs": object(configs)}))
    }
}

pub(crate) fn object(pairs: &[(&str, &str)]) -> Value {
    let map: Map<String, Value> =
        pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::from((*v).to_owned()))).collect();
    Value::Object(map)
}
