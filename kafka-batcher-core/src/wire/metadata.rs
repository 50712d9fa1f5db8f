//! Metadata (key 3): brokers, and who leads which partition of the topics asked for.

use super::{Api, WireError, finish_request, open_answer, start_request};
use crate::delivery::TopicId;
use crate::error_code::ErrorCode;

/// What a broker knows of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataAnswer {
    /// How long to send nothing, in milliseconds (KIP-219).
    pub throttle_ms: i32,
    /// An error for the whole answer, or 0 (KIP-1102).
    pub code: ErrorCode,
    /// The brokers alive.
    pub brokers: Vec<BrokerMetadata>,
    /// The cluster's id, where there is one.
    pub cluster_id: Option<String>,
    /// The topics asked for.
    pub topics: Vec<TopicMetadata>,
}

/// A broker, and the address it advertises (`advertised.listeners`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerMetadata {
    /// Its node id.
    pub node: i32,
    /// The host it advertises.
    pub host: String,
    /// The port it advertises.
    pub port: i32,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// The error, or 0.
    pub code: ErrorCode,
    /// Its name.
    pub name: String,
    /// Its id; all zero before version 10.
    pub id: TopicId,
    /// Its partitions, in any order.
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The error, or 0; 5 LEADER_NOT_AVAILABLE, 9 REPLICA_NOT_AVAILABLE.
    pub code: ErrorCode,
    /// Its number.
    pub partition: i32,
    /// The leader's node id, or -1.
    pub leader: i32,
    /// The leader epoch; -1 before version 7.
    pub leader_epoch: i32,
}

/// The question: these topics, all brokers. No topics: brokers only.
pub fn metadata_request<'a>(
    version: i16,
    correlation: i32,
    client_id: &str,
    topics: impl ExactSizeIterator<Item = &'a str>,
    create: bool,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + topics.len() * 48);
    let mut writer = start_request(&mut out, Api::Metadata, version, correlation, client_id);
    writer.array_len(topics.len());
    for topic in topics {
        if version >= 10 {
            writer.topic_id(TopicId::default());
        }
        writer.string(topic);
        writer.tags();
    }
    writer.bool(create);
    if (8..=10).contains(&version) {
        writer.bool(false);
    }
    if version >= 8 {
        writer.bool(false);
    }
    writer.tags();
    finish_request(&mut out);
    out
}

/// Reads the answer.
///
/// # Errors
/// If the bytes are not one.
pub fn read_metadata(answer: &[u8], version: i16) -> Result<MetadataAnswer, WireError> {
    let mut reader = open_answer(answer, Api::Metadata, version)?;
    let mut found = MetadataAnswer {
        throttle_ms: reader.i32("throttle time")?,
        code: ErrorCode(0),
        brokers: Vec::new(),
        cluster_id: None,
        topics: Vec::new(),
    };
    for _ in 0..reader.array_len(10, "brokers")? {
        let node = reader.i32("node id")?;
        let host = reader.string("host")?.to_owned();
        let port = reader.i32("port")?;
        reader.nullable_string("rack")?;
        reader.skip_tags()?;
        found.brokers.push(BrokerMetadata { node, host, port });
    }
    found.cluster_id = reader.nullable_string("cluster id")?.map(str::to_owned);
    reader.i32("controller id")?;
    for _ in 0..reader.array_len(5, "topics")? {
        let code = ErrorCode(reader.i16("error code of a topic")?);
        let name = reader.nullable_string("topic")?.unwrap_or_default().to_owned();
        let id = if version >= 10 { reader.topic_id("topic id")? } else { TopicId::default() };
        reader.i8("is internal")?;
        let n = reader.array_len(13, "partitions")?;
        let mut partitions = Vec::with_capacity(n);
        for _ in 0..n {
            let code = ErrorCode(reader.i16("error code of a partition")?);
            let partition = reader.i32("partition")?;
            let leader = reader.i32("leader")?;
            let leader_epoch = if version >= 7 { reader.i32("leader epoch")? } else { -1 };
            reader.skip_i32s("replicas")?;
            reader.skip_i32s("in-sync replicas")?;
            if version >= 5 {
                reader.skip_i32s("offline replicas")?;
            }
            reader.skip_tags()?;
            partitions.push(PartitionMetadata { code, partition, leader, leader_epoch });
        }
        if version >= 8 {
            reader.i32("topic operations")?;
        }
        reader.skip_tags()?;
        found.topics.push(TopicMetadata { code, name, id, partitions });
    }
    if (8..=10).contains(&version) {
        reader.i32("cluster operations")?;
    }
    if version >= 13 {
        found.code = ErrorCode(reader.i16("error code")?);
    }
    Ok(found)
}
