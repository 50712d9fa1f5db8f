//! As much of a Kafka client as reading back takes: one blocking connection to one broker.
//!
//! It shares no code with what writes: the messages and the record batches are read by the `kafka-protocol` crate, so
//! that one mistake cannot hide in both.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, FetchRequest, ListOffsetsRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{Record, RecordBatchDecoder};

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer that is read.
const LARGEST: usize = 256 << 20;

/// Versions that brokers from 2.3 (Fetch 11) to 4.1 serve.
const LIST_OFFSETS: i16 = 2;
const FETCH: i16 = 11;
const CREATE_TOPICS: i16 = 3;

/// Kafka's error 36.
const TOPIC_ALREADY_EXISTS: i16 = 36;

/// A connection to one broker.
pub(crate) struct Connection {
    stream: TcpStream,
    address: String,
    correlation: i32,
}

fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

impl Connection {
    pub(crate) fn open(address: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, address: address.to_owned(), correlation: 0 })
    }

    fn call<R: Request>(&mut self, request: &R, version: i16) -> anyhow::Result<R::Response> {
        let address = self.address.clone();
        self.exchange(request, version).with_context(|| format!("asking {address} (api {}) failed", R::KEY))
    }

    fn exchange<R: Request>(&mut self, request: &R, version: i16) -> anyhow::Result<R::Response> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("kafka-batcher-demo")));
        let mut frame = BytesMut::new();
        frame.extend_from_slice(&[0; 4]);
        header.encode(&mut frame, R::header_version(version))?;
        request.encode(&mut frame, version)?;
        let length = u32::try_from(frame.len().saturating_sub(4))?;
        if let Some(place) = frame.get_mut(..4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        self.stream.write_all(&frame)?;

        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        ensure!(length <= LARGEST, "an answer of {length} bytes");
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
        ensure!(header.correlation_id == self.correlation, "an answer to another question");
        R::Response::decode(&mut answer, version)
    }

    /// The offset behind the last record of a partition.
    fn end_offset(&mut self, topic: &str, partition: i32) -> anyhow::Result<i64> {
        let asked = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-1);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![
            ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]),
        ]);
        let answer = self.call(&request, LIST_OFFSETS)?;
        let found = answer.topics.first().and_then(|topic| topic.partitions.first());
        let found = found.context("no answer for the partition")?;
        ensure!(found.error_code == 0, "error {} for partition {partition}", found.error_code);
        Ok(found.offset)
    }

    /// Every record of a partition, in order.
    pub(crate) fn read_all(&mut self, topic: &str, partition: i32) -> anyhow::Result<Vec<Record>> {
        let end = self.end_offset(topic, partition)?;
        let mut records: Vec<Record> = Vec::new();
        let mut next = 0;
        while next < end {
            let asked = FetchPartition::default()
                .with_partition(partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(next)
                .with_partition_max_bytes(8 << 20);
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(500)
                .with_min_bytes(1)
                .with_max_bytes(64 << 20)
                .with_session_epoch(-1)
                .with_topics(vec![
                    FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![asked]),
                ]);
            let answer = self.call(&request, FETCH)?;
            let found = answer.responses.first().and_then(|topic| topic.partitions.first());
            let found = found.context("no answer for the partition")?;
            ensure!(found.error_code == 0, "error {} for partition {partition}", found.error_code);
            let mut bytes = found.records.clone().unwrap_or_default();
            let before = next;
            for set in RecordBatchDecoder::decode_all(&mut bytes)? {
                // A batch that begins before the offset asked for comes whole.
                records.extend(set.records.into_iter().filter(|record| record.offset >= before));
            }
            next = records.last().map_or(next, |last| last.offset + 1);
            if next == before {
                bail!("partition {partition} ends at {end}, and nothing comes behind {next}");
            }
        }
        Ok(records)
    }

    /// Makes a topic, unless it is there already; says whether it was made.
    pub(crate) fn create_topic(&mut self, topic: &str, partitions: i32) -> anyhow::Result<bool> {
        let made = CreatableTopic::default()
            .with_name(topic_name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![made]).with_timeout_ms(10_000);
        let answer = self.call(&request, CREATE_TOPICS)?;
        let found = answer.topics.first().context("no answer for the topic")?;
        match found.error_code {
            0 => Ok(true),
            TOPIC_ALREADY_EXISTS => Ok(false),
            code => bail!(
                "topic {topic:?} cannot be created: error {code} {}",
                found.error_message.as_ref().map_or("", |message| message.as_str())
            ),
        }
    }
}
