//! Every message in every version against kafka-protocol, a codec generated from Kafka's own schemas: what it reads of
//! ours, and what we read of its. And every answer cut off and bent anywhere.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::buffer_pool::Chunk;
use crate::{ErrorCode, Record, RecordBatch, TopicId};

const ID: [u8; 16] = *b"sixteen bytes id";

fn versions(api: Api) -> impl Iterator<Item = i16> {
    let (oldest, newest) = api.versions();
    oldest..=newest
}

/// Reads a request of ours as a broker would, to its last byte.
fn foreign<R: Request>(request: &[u8], correlation: i32, client: &str) -> R {
    let mut bytes = Bytes::copy_from_slice(request);
    let length = bytes.split_to(4);
    assert_eq!(u32::from_be_bytes(length[..].try_into().unwrap()) as usize, bytes.len());
    let header = kafka_protocol::protocol::decode_request_header_from_buffer(&mut bytes).unwrap();
    assert_eq!((header.request_api_key, header.correlation_id), (R::KEY, correlation));
    assert_eq!(header.client_id.as_deref(), Some(client));
    let read = R::decode(&mut bytes, header.request_api_version).unwrap();
    assert!(bytes.is_empty(), "{} bytes follow the request", bytes.len());
    read
}

/// Writes an answer as a broker would.
fn answer<A: Encodable + HeaderVersion>(message: &A, version: i16) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let header = ResponseHeader::default().with_correlation_id(77);
    header.encode(&mut bytes, A::header_version(version)).unwrap();
    message.encode(&mut bytes, version).unwrap();
    assert_eq!(correlation_of(&bytes).unwrap(), 77);
    bytes.to_vec()
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Whatever is done to an answer, reading it ends; what is cut off anywhere is noticed.
fn bend(whole: &[u8], read: impl Fn(&[u8]) -> Result<(), WireError>) {
    for end in 0..whole.len() {
        assert!(read(&whole[..end]).is_err(), "cut off at {end} of {}", whole.len());
    }
    bend_but_for_tail(whole, read);
}

/// As [`bend`], for answers whose last fields nobody reads.
fn bend_but_for_tail(whole: &[u8], read: impl Fn(&[u8]) -> Result<(), WireError>) {
    for at in 0..whole.len() {
        let _ = read(&whole[..at]);
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut bent = whole.to_vec();
            bent[at] = value;
            let _ = read(&bent);
            bent[at..].fill(value);
            let _ = read(&bent);
        }
    }
}

#[test]
fn the_versions_spoken_are_within_those_of_the_foreign_codec() {
    use kafka_protocol::protocol::Message;
    for (api, foreign) in [
        (Api::Produce, ProduceRequest::VERSIONS),
        (Api::Metadata, MetadataRequest::VERSIONS),
        (Api::ApiVersions, ApiVersionsRequest::VERSIONS),
        (Api::InitProducerId, InitProducerIdRequest::VERSIONS),
        (Api::DescribeConfigs, DescribeConfigsRequest::VERSIONS),
        (Api::DescribeProducers, DescribeProducersRequest::VERSIONS),
        (Api::SaslHandshake, SaslHandshakeRequest::VERSIONS),
        (Api::SaslAuthenticate, SaslAuthenticateRequest::VERSIONS),
    ] {
        let (oldest, newest) = api.versions();
        assert!(foreign.min <= oldest && newest <= foreign.max, "{}", api.name());
    }
}

#[test]
fn sasl_handshake_is_as_the_protocol_has_it() {
    let request = sasl_handshake_request(5, "me", "SCRAM-SHA-512");
    let read: SaslHandshakeRequest = foreign(&request, 5, "me");
    assert_eq!(&*read.mechanism, "SCRAM-SHA-512");
    let said = SaslHandshakeResponse::default()
        .with_error_code(33)
        .with_mechanisms(vec![text("PLAIN"), text("OAUTHBEARER")]);
    let said = answer(&said, 1);
    let found = read_sasl_handshake(&said).unwrap();
    assert_eq!(found.code, ErrorCode::UNSUPPORTED_SASL_MECHANISM);
    assert_eq!(found.mechanisms, ["PLAIN", "OAUTHBEARER"]);
    bend(&said, |bytes| read_sasl_handshake(bytes).map(drop));
}

#[test]
fn sasl_authenticate_is_as_the_protocol_has_it() {
    for version in versions(Api::SaslAuthenticate) {
        let request = sasl_authenticate_request(version, 5, "me", b"\0who\0what");
        let read: SaslAuthenticateRequest = foreign(&request, 5, "me");
        assert_eq!(&read.auth_bytes[..], b"\0who\0what");
        let said = SaslAuthenticateResponse::default()
            .with_error_code(58)
            .with_error_message(Some(text("no")))
            .with_auth_bytes(Bytes::from_static(b"v=abc"))
            .with_session_lifetime_ms(if version >= 1 { 3_600_000 } else { 0 });
        let said = answer(&said, version);
        let found = read_sasl_authenticate(&said, version).unwrap();
        assert_eq!(found.code, ErrorCode::SASL_AUTHENTICATION_FAILED);
        assert_eq!((found.message.as_deref(), &found.bytes[..]), (Some("no"), &b"v=abc"[..]));
        assert_eq!(found.session_lifetime_ms, if version >= 1 { 3_600_000 } else { 0 });
        bend_but_for_tail(&said, |bytes| read_sasl_authenticate(bytes, version).map(drop));
    }
}

#[test]
fn api_versions_is_as_the_protocol_has_it() {
    for version in [0, 3] {
        let request = api_versions_request(version, 5, "me", "1.2.3");
        let read: ApiVersionsRequest = foreign(&request, 5, "me");
        if version >= 3 {
            assert_eq!(&*read.client_software_name, "kafka-batcher");
            assert_eq!(&*read.client_software_version, "1.2.3");
        }
        let key = |key, min, max| {
            api_versions_response::ApiVersion::default()
                .with_api_key(key)
                .with_min_version(min)
                .with_max_version(max)
        };
        let said = ApiVersionsResponse::default().with_api_keys(vec![
            key(0, 0, 11),
            key(3, 0, 3),
            key(22, 6, 9),
            key(9000, 0, 1),
        ]);
        let said = answer(&said, version);
        let (code, found) = read_api_versions(&said, version).unwrap();
        assert_eq!(code, ErrorCode(0));
        assert_eq!(found.offered(Api::Produce), Some((0, 11)));
        assert_eq!(found.common(Api::Produce), Some(11));
        assert_eq!(found.common(Api::Metadata), None, "too old");
        assert_eq!(found.common(Api::InitProducerId), None, "too new");
        assert_eq!(found.common(Api::DescribeProducers), None, "not offered");
        bend_but_for_tail(&said, |bytes| read_api_versions(bytes, version).map(|_| ()));
    }
}

#[test]
fn a_broker_that_does_not_know_version_3_answers_in_version_0() {
    let said = ApiVersionsResponse::default().with_error_code(35);
    let (code, found) = read_api_versions(&answer(&said, 0), 3).unwrap();
    assert_eq!((code, found), (ErrorCode::UNSUPPORTED_VERSION, ApiVersions::default()));
}

#[test]
fn metadata_is_as_the_protocol_has_it() {
    for version in versions(Api::Metadata) {
        let topics = ["flights", "erdbeben-é"];
        let request = metadata_request(version, 9, "me", topics.into_iter(), version % 2 == 0);
        let read: MetadataRequest = foreign(&request, 9, "me");
        assert_eq!(read.allow_auto_topic_creation, version % 2 == 0);
        let names: Vec<String> =
            read.topics.unwrap().iter().map(|t| t.name.as_ref().unwrap().to_string()).collect();
        assert_eq!(names, topics);

        let partition = |index, leader| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(BrokerId(leader))
                .with_leader_epoch(if version >= 7 { 40 + index } else { -1 })
                .with_replica_nodes(vec![BrokerId(1), BrokerId(2)])
                .with_isr_nodes(vec![BrokerId(1)])
                .with_offline_replicas(if version >= 5 { vec![BrokerId(2)] } else { Vec::new() })
        };
        let topic = |name: &str, partitions| {
            MetadataResponseTopic::default()
                .with_name(Some(TopicName(text(name))))
                .with_topic_id(if version >= 10 { Uuid::from_bytes(ID) } else { Uuid::nil() })
                .with_partitions(partitions)
        };
        let broker = |id, host| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(id))
                .with_host(text(host))
                .with_port(9092)
                .with_rack(Some(text("r1")))
        };
        let mut said = MetadataResponse::default()
            .with_throttle_time_ms(7)
            .with_brokers(vec![broker(1, "a"), broker(2, "::1").with_rack(None)])
            .with_cluster_id(Some(text("cluster")))
            .with_topics(vec![
                topic("flights", vec![partition(0, 1), partition(1, -1)]),
                topic("none", vec![]).with_error_code(3),
            ]);
        if version >= 13 {
            said = said.with_error_code(129);
        }
        let said = answer(&said, version);
        let found = read_metadata(&said, version).unwrap();
        assert_eq!((found.throttle_ms, found.cluster_id.as_deref()), (7, Some("cluster")));
        assert_eq!(found.code.0, if version >= 13 { 129 } else { 0 });
        let brokers: Vec<_> = found.brokers.iter().map(|b| (b.node, b.host.as_str(), b.port)).collect();
        assert_eq!(brokers, [(1, "a", 9092), (2, "::1", 9092)]);
        assert_eq!(found.topics.len(), 2);
        assert_eq!((found.topics[0].name.as_str(), found.topics[0].code.0), ("flights", 0));
        assert_eq!(found.topics[0].id, if version >= 10 { TopicId(ID) } else { TopicId::default() });
        let leaders: Vec<_> = found.topics[0]
            .partitions
            .iter()
            .map(|p| (p.partition, p.leader, p.leader_epoch, p.code.0))
            .collect();
        let epoch = |n| if version >= 7 { n } else { -1 };
        assert_eq!(leaders, [(0, 1, epoch(40), 0), (1, -1, epoch(41), 0)]);
        assert_eq!((found.topics[1].name.as_str(), found.topics[1].code.0), ("none", 3));
        bend_but_for_tail(&said, |bytes| read_metadata(bytes, version).map(|_| ()));
    }
}

#[test]
fn init_producer_id_is_as_the_protocol_has_it() {
    for version in versions(Api::InitProducerId) {
        let read: InitProducerIdRequest = foreign(&init_producer_id_request(version, 3, ""), 3, "");
        assert_eq!(read.transactional_id, None);
        let said = InitProducerIdResponse::default()
            .with_throttle_time_ms(1)
            .with_error_code(31)
            .with_producer_id(ProducerId(4000))
            .with_producer_epoch(2);
        let said = answer(&said, version);
        let found = read_init_producer_id(&said, version).unwrap();
        let expected =
            InitProducerIdAnswer { throttle_ms: 1, code: ErrorCode(31), producer_id: 4000, epoch: 2 };
        assert_eq!(found, expected);
        bend_but_for_tail(&said, |bytes| read_init_producer_id(bytes, version).map(|_| ()));
    }
}

#[test]
fn describe_configs_is_as_the_protocol_has_it() {
    use kafka_protocol::messages::describe_configs_response::*;
    let request = describe_configs_request(1, "me", "flights", &["retention.ms", "cleanup.policy"]);
    let read: DescribeConfigsRequest = foreign(&request, 1, "me");
    assert_eq!(read.resources.len(), 1);
    let asked = &read.resources[0];
    assert_eq!((asked.resource_type, asked.resource_name.as_str()), (2, "flights"));
    let keys = asked.configuration_keys.as_ref().unwrap();
    assert_eq!(keys.iter().map(|key| key.as_str()).collect::<Vec<_>>(), ["retention.ms", "cleanup.policy"]);

    let value = |name, value: Option<&str>| {
        let synonym = DescribeConfigsSynonym::default().with_name(text("log.x")).with_value(Some(text("1")));
        DescribeConfigsResourceResult::default()
            .with_name(text(name))
            .with_value(value.map(text))
            .with_synonyms(vec![synonym])
    };
    let resource =
        |kind, name| DescribeConfigsResult::default().with_resource_type(kind).with_resource_name(text(name));
    let said = DescribeConfigsResponse::default().with_throttle_time_ms(2).with_results(vec![
        resource(4, "flights").with_error_code(9),
        resource(2, "flights").with_configs(vec![value("retention.ms", Some("5")), value("secret", None)]),
        resource(2, "other").with_error_code(29).with_error_message(Some(text("no"))),
    ]);
    let said = answer(&said, 1);
    let found = read_topic_configs(&said, "flights").unwrap().unwrap();
    assert_eq!((found.throttle_ms, found.code.0), (2, 0));
    let values = [("retention.ms".to_owned(), Some("5".to_owned())), ("secret".to_owned(), None)];
    assert_eq!(found.values, values);
    assert_eq!(read_topic_configs(&said, "other").unwrap().unwrap().code.0, 29);
    assert_eq!(read_topic_configs(&said, "missing").unwrap(), None);
    bend(&said, |bytes| read_topic_configs(bytes, "flights").map(|_| ()));
}

#[test]
fn describe_producers_is_as_the_protocol_has_it() {
    let read: DescribeProducersRequest = foreign(&describe_producers_request(1, "me", "flights", 3), 1, "me");
    assert_eq!(read.topics.len(), 1);
    assert_eq!((&*read.topics[0].name.0, &read.topics[0].partition_indexes[..]), ("flights", &[3][..]));

    let producer = |id, epoch, last| {
        ProducerState::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(epoch)
            .with_last_sequence(last)
    };
    let partition = |index, producers| {
        PartitionResponse::default().with_partition_index(index).with_active_producers(producers)
    };
    let said = DescribeProducersResponse::default().with_throttle_time_ms(2).with_topics(vec![
        TopicResponse::default().with_name(TopicName(text("flights"))).with_partitions(vec![
            partition(2, vec![producer(8, 0, 1)]),
            partition(3, vec![producer(7, 0, 5), producer(8, 1, 6), producer(9, 0, 7)]),
            partition(4, vec![]).with_error_code(29).with_error_message(Some(text("no"))),
        ]),
    ]);
    let said = answer(&said, 0);
    let read = |partition, id| read_described_partition(&said, "flights", partition, id).unwrap();
    assert_eq!(read(3, 8).unwrap().producer, Some((1, 6)));
    assert_eq!(read(3, 6).unwrap().producer, None);
    let refused = read(4, 8).unwrap();
    assert_eq!((refused.code.0, refused.message.as_deref(), refused.throttle_ms), (29, Some("no"), 2));
    assert_eq!(read(5, 8), None);
    assert_eq!(read_described_partition(&said, "other", 3, 8).unwrap(), None);
    bend_but_for_tail(&said, |bytes| read_described_partition(bytes, "flights", 3, 8).map(|_| ()));
}

/// A batch of one record.
fn batch(value: &[u8]) -> RecordBatch {
    use crate::batch::encoder::{Encoder, Measured};
    let record = Record::from(value);
    let mut encoder = Encoder::default();
    let measured = Measured::of(&record).unwrap();
    let size = encoder.size_of_next(measured, 1_700_000_000_000);
    if let Some(capacity) = encoder.chunk_needed(size) {
        encoder.add_chunk(Chunk::unpooled(capacity));
    }
    encoder.append(&record, 1_700_000_000_000, measured, size);
    encoder.seal().unwrap()
}

/// What the slices give, `step` bytes at a time, as a socket might take them.
fn written(frame: &ProduceFrame, batches: &[RecordBatch], step: usize, most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < frame.len() {
        let slices = frame.slices(batches.iter(), out.len(), most);
        assert!(!slices.is_empty() && slices.len() <= most);
        let flat: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        out.extend_from_slice(&flat[..flat.len().min(step)]);
    }
    assert_eq!(frame.slices(batches.iter(), out.len(), most).len(), 0);
    out
}

proptest! {
    #[test]
    fn produce_is_read_by_a_foreign_codec_as_it_was_meant(
        version in 3i16..=13,
        topics in proptest::collection::vec(proptest::collection::vec(0usize..3000, 1..5), 1..4),
        acks in -1i16..=1,
        most in 1usize..40,
        step in 1usize..5000,
    ) {
        let names: Vec<String> = (0..topics.len()).map(|n| format!("topic-{n}")).collect();
        let id = |topic: usize| TopicId([topic as u8 + 1; 16]);
        let places: Vec<(usize, i32)> = topics.iter().enumerate()
            .flat_map(|(topic, sizes)| (0..sizes.len()).map(move |n| (topic, n as i32 * 7))).collect();
        let batches: Vec<RecordBatch> = topics.iter().flatten().map(|size| batch(&vec![b'x'; *size])).collect();
        let items = places.iter().zip(&batches).map(|((topic, partition), batch)| ProduceItem {
            topic: &names[*topic], topic_id: id(*topic), partition: *partition, batch,
        });
        let mut frame = ProduceFrame::default();
        // A frame is used again and again: what was in it before must not show.
        frame.set_plain(b"something else");
        frame.encode(&ProduceHead { version, correlation: 6, client_id: "me", acks, timeout_ms: 30_000 }, items);
        let bytes = written(&frame, &batches, step, most);
        prop_assert_eq!(bytes.len(), frame.len());
        let overhead: usize = places.iter().zip(&batches)
            .map(|((topic, _), batch)| item_overhead(&names[*topic]) + batch.encoded_len()).sum();
        prop_assert!(frame.len() <= REQUEST_OVERHEAD + 2 + overhead, "{} {}", frame.len(), overhead);

        let read: ProduceRequest = foreign(&bytes, 6, "me");
        prop_assert_eq!((read.acks, read.timeout_ms, read.transactional_id), (acks, 30_000, None));
        let mut found = Vec::new();
        for (n, topic) in read.topic_data.iter().enumerate() {
            match version {
                13 => prop_assert_eq!(topic.topic_id.as_bytes(), &id(n).0),
                _ => prop_assert_eq!(topic.name.to_string(), names[n].clone()),
            }
            for partition in &topic.partition_data {
                found.push(((n, partition.index), partition.records.clone().unwrap().to_vec()));
            }
        }
        let expected: Vec<_> = places.iter().zip(&batches).map(|(p, b)| (*p, b.to_bytes())).collect();
        prop_assert_eq!(found, expected);
    }
}

#[derive(Default)]
struct Told {
    partitions: Vec<String>,
    brokers: Vec<(i32, String, i32)>,
}

impl ProduceVisitor for Told {
    fn partition(&mut self, answer: ProducedPartition<'_>) {
        self.partitions.push(format!("{answer:?}"));
    }
    fn broker(&mut self, node: i32, host: &str, port: i32) {
        self.brokers.push((node, host.to_owned(), port));
    }
}

#[test]
fn answers_to_produce_are_read_whole() {
    for version in versions(Api::Produce) {
        let mut refused =
            PartitionProduceResponse::default().with_index(4).with_error_code(6).with_base_offset(-1);
        if version >= 8 {
            let at_fault = |index, words: Option<&str>| {
                BatchIndexAndErrorMessage::default()
                    .with_batch_index(index)
                    .with_batch_index_error_message(words.map(text))
            };
            refused = refused
                .with_record_errors(vec![at_fault(2, Some("bad")), at_fault(3, None)])
                .with_error_message(Some(text("words")));
        }
        if version >= 10 {
            let leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(3)).with_leader_epoch(12);
            refused = refused.with_current_leader(leader);
        }
        let taken = PartitionProduceResponse::default().with_index(0).with_base_offset(1 << 40);
        let mut topic = TopicProduceResponse::default().with_partition_responses(vec![taken, refused]);
        topic = match version {
            13 => topic.with_topic_id(Uuid::from_bytes(ID)),
            _ => topic.with_name(TopicName(text("flights"))),
        };
        let mut said = ProduceResponse::default().with_responses(vec![topic]).with_throttle_time_ms(250);
        if version >= 10 {
            let endpoint =
                NodeEndpoint::default().with_node_id(BrokerId(3)).with_host(text("c")).with_port(9094);
            said = said.with_node_endpoints(vec![endpoint]);
        }
        let said = answer(&said, version);
        let mut told = Told::default();
        assert_eq!(read_produce(&said, version, &mut told).unwrap(), 250);

        let topic = match version {
            13 => TopicRef::Id(TopicId(ID)),
            _ => TopicRef::Name("flights"),
        };
        let expected = [
            ProducedPartition {
                topic,
                partition: 0,
                code: ErrorCode(0),
                base_offset: 1 << 40,
                record_errors: Vec::new(),
                message: None,
                current_leader: None,
            },
            ProducedPartition {
                topic,
                partition: 4,
                code: ErrorCode(6),
                base_offset: -1,
                record_errors: if version >= 8 { vec![(2, Some("bad")), (3, None)] } else { Vec::new() },
                message: (version >= 8).then_some("words"),
                current_leader: (version >= 10).then_some((3, 12)),
            },
        ];
        assert_eq!(told.partitions, expected.map(|partition| format!("{partition:?}")));
        let brokers = if version >= 10 { vec![(3, "c".to_owned(), 9094)] } else { Vec::new() };
        assert_eq!(told.brokers, brokers);
        bend(&said, |bytes| read_produce(bytes, version, &mut Told::default()).map(|_| ()));
    }
}

#[test]
fn an_array_that_the_message_cannot_hold_is_refused_before_memory_is_reserved() {
    // Metadata version 4: throttle time, then two billion brokers.
    let hell = [&77i32.to_be_bytes()[..], &0i32.to_be_bytes(), &i32::MAX.to_be_bytes(), &[0; 100]].concat();
    let said = read_metadata(&hell, 4).unwrap_err().to_string();
    assert_eq!(said, "brokers at byte 12: more elements than the message can hold");
}
