//! A raw client of the tests' own: one blocking connection, Kafka's requests through the kafka-protocol codec, record batches written by hand.
//! It shares no code with the broker, and does nothing that it was not told to do.

#![allow(dead_code, unused_imports, reason = "every test binary uses its own part of it")]

pub(crate) mod batch;

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::PartitionResponse;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    ApiKey, BrokerId, CreateTopicsRequest, DescribeProducersRequest, FetchRequest, FetchResponse,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, ProduceRequest, ProducerId,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use uuid::Uuid;

pub(crate) use batch::{Batch, now, rec};

/// Nothing here takes so long; it only turns a hanging test into a failing one.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn text(words: &str) -> StrBytes {
    StrBytes::from_string(words.to_owned())
}

pub(crate) fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    next: i32,
}

impl Client {
    pub(crate) fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, next: 0 })
    }

    /// Connects to the first address of a list.
    pub(crate) fn bootstrap(addresses: &str) -> Self {
        let first = addresses.split(',').next().expect("an address");
        Self::connect(first).unwrap_or_else(|error| panic!("{first}: {error}"))
    }

    /// Sends a request; its number.
    pub(crate) fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<i32> {
        self.next += 1;
        let mut frame = BytesMut::new();
        let key = ApiKey::try_from(R::KEY).expect("a key that the codec knows");
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.next)
            .with_client_id(Some(text("raw")))
            .encode(&mut frame, key.request_header_version(version))
            .expect("a header");
        request.encode(&mut frame, version).unwrap_or_else(|error| panic!("{key:?} v{version}: {error:#}"));
        self.send_raw(&frame)?;
        Ok(self.next)
    }

    /// Sends the bytes of a request behind their length.
    pub(crate) fn send_raw(&mut self, frame: &[u8]) -> io::Result<()> {
        let size = i32::try_from(frame.len()).expect("a frame of less than 2 GiB");
        self.stream.write_all(&[&size.to_be_bytes(), frame].concat())
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next answer, without its length.
    pub(crate) fn receive_raw(&mut self) -> io::Result<Bytes> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(size)).expect("a size")];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// The answer to request `number`.
    pub(crate) fn receive<R: Request>(&mut self, version: i16, number: i32) -> io::Result<R::Response> {
        let mut frame = self.receive_raw()?;
        let header =
            ResponseHeader::decode(&mut frame, R::Response::header_version(version)).expect("a header");
        assert_eq!(header.correlation_id, number, "answers come in the order of the requests");
        let answer = R::Response::decode(&mut frame, version)
            .unwrap_or_else(|error| panic!("answer of api {} v{version}: {error:#}", R::KEY));
        assert!(
            frame.is_empty(),
            "{} bytes too many in the answer of api {} v{version}",
            frame.len(),
            R::KEY
        );
        Ok(answer)
    }

    pub(crate) fn try_call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let number = self.send(version, request)?;
        self.receive::<R>(version, number)
    }

    pub(crate) fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.try_call(version, request).unwrap_or_else(|error| panic!("api {} v{version}: {error}", R::KEY))
    }

    /// Whether the peer has closed, or closes now, without saying anything more.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    // ---- what most tests need

    pub(crate) fn metadata(&mut self, topic: &str) -> MetadataResponse {
        let topic = MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        self.call(12, &request)
    }

    /// Error code of CreateTopics.
    pub(crate) fn try_create(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) -> i16 {
        let config = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(-1)
            .with_configs(configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        self.call(7, &request).topics[0].error_code
    }

    /// Makes a topic and asks until its partitions are served (a real Kafka does it behind its answer); its id.
    pub(crate) fn create(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) -> Uuid {
        assert_eq!(self.try_create(topic, partitions, configs), 0, "creating {topic}");
        for partition in 0..partitions {
            until(|| self.describe_producers(topic, partition).error_code == 0);
        }
        self.metadata(topic).topics[0].topic_id
    }

    /// A fresh id. A Kafka that still starts answers an error and id -1 (seen: 14, 15), so it is asked again.
    pub(crate) fn producer_id(&mut self) -> i64 {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let mut given = -1;
        until(|| {
            let answer = self.call(4, &request);
            assert_eq!(answer.error_code == 0, answer.producer_id.0 >= 0, "an error comes with id -1");
            given = answer.producer_id.0;
            answer.error_code == 0
        });
        given
    }

    pub(crate) fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> PartitionProduceResponse {
        self.produce_as(9, topic, Uuid::nil(), partition, Some(batch), -1)
    }

    pub(crate) fn produce_as(
        &mut self,
        version: i16,
        topic: &str,
        id: Uuid,
        partition: i32,
        batch: Option<Bytes>,
        acks: i16,
    ) -> PartitionProduceResponse {
        let request = produce_request(version, topic, id, partition, batch, acks);
        let mut answer = self.call(version, &request);
        assert_eq!(answer.responses.len(), 1);
        answer.responses[0].partition_responses.remove(0)
    }

    /// `(error code, base offset)` of a batch.
    pub(crate) fn put(&mut self, topic: &str, partition: i32, batch: Bytes) -> (i16, i64) {
        let answer = self.produce(topic, partition, batch);
        (answer.error_code, answer.base_offset)
    }

    pub(crate) fn list_offset(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> ListOffsetsPartitionResponse {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        self.call(7, &request).topics.remove(0).partitions.remove(0)
    }

    pub(crate) fn end(&mut self, topic: &str, partition: i32) -> i64 {
        self.list_offset(topic, partition, -1).offset
    }

    pub(crate) fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        let mut answer = self.call(12, &fetch_request(topic, Uuid::nil(), partition, offset));
        answer.responses.remove(0).partitions.remove(0)
    }

    /// Everything of a partition, as it comes: batches one after another.
    pub(crate) fn read_all(&mut self, topic: &str, partition: i32) -> Bytes {
        let mut all = BytesMut::new();
        let (mut offset, end) = (0, self.end(topic, partition));
        while offset < end {
            let data = self.fetch(topic, partition, offset);
            assert_eq!(data.error_code, 0);
            let records = data.records.expect("records");
            let batches = batch::split(&records);
            let last = batches.last().expect("at least one whole batch");
            offset = last.base_offset + i64::from(last.last_offset_delta) + 1;
            all.extend_from_slice(&records[..batches.iter().map(|batch| batch.bytes.len()).sum()]);
        }
        all.freeze()
    }

    pub(crate) fn describe_producers(&mut self, topic: &str, partition: i32) -> PartitionResponse {
        let topic = TopicRequest::default().with_name(name(topic)).with_partition_indexes(vec![partition]);
        let request = DescribeProducersRequest::default().with_topics(vec![topic]);
        self.call(0, &request).topics.remove(0).partitions.remove(0)
    }
}

pub(crate) fn produce_request(
    version: i16,
    topic: &str,
    id: Uuid,
    partition: i32,
    batch: Option<Bytes>,
    acks: i16,
) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(batch);
    let mut topic_data = TopicProduceData::default().with_partition_data(vec![data]);
    if version >= 13 {
        topic_data.topic_id = id;
    } else {
        topic_data.name = name(topic);
    }
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic_data])
}

/// One partition, whole request, no waiting.
pub(crate) fn fetch_request(topic: &str, id: Uuid, partition: i32, offset: i64) -> FetchRequest {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1 << 20);
    let mut topic_of = FetchTopic::default().with_partitions(vec![asked]);
    if id.is_nil() {
        topic_of.topic = name(topic);
    } else {
        topic_of.topic_id = id;
    }
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(50 << 20)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![topic_of])
}

pub(crate) fn fetched(mut answer: FetchResponse) -> PartitionData {
    answer.responses.remove(0).partitions.remove(0)
}

/// Asks again until it is so. For what a real Kafka does behind its answers; gives up after a minute.
pub(crate) fn until(mut so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "it did not come to be so within {PATIENCE:?}");
        std::thread::yield_now();
    }
}
