//! Versions, metadata, topics, settings.

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, FindCoordinatorRequest, InitProducerIdRequest, MetadataRequest, ProducerId,
};
use uuid::Uuid;

use crate::support::{Client, name, text, until};
use crate::{Case, Target, fresh_name};

pub(crate) const CASES: &[Case] = &[
    ("every version of ApiVersions is answered", every_api_versions),
    ("an ApiVersions from the future is answered in version 0 with error 35", api_versions_from_the_future),
    ("an api that does not exist costs the connection", unknown_api),
    ("a frame that is not Kafka's costs the connection", not_kafka),
    ("every version of Metadata tells a topic's partitions and leaders", every_metadata),
    ("metadata of a topic id, known and unknown", metadata_by_id),
    ("metadata of a topic that does not exist and of a name that cannot be", metadata_of_nothing),
    ("auto creation answers error 3 first and has the topic soon after", auto_creation),
    ("CreateTopics refuses as Kafka does", create_refused),
    ("every version of CreateTopics and DeleteTopics is answered", every_create_delete),
    ("a topic made anew has another id", recreated),
    ("every version of InitProducerId gives a fresh id and epoch 0", every_init_producer_id),
    ("InitProducerId to bump an idempotent producer gives a fresh id", init_bump),
    ("DescribeConfigs tells a topic's settings", configs),
    ("DescribeCluster and FindCoordinator are answered", others),
];

fn every_api_versions(target: &dyn Target) {
    for version in 0..=4 {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("raw"))
            .with_client_software_version(text("1"));
        let request = if version < 3 { ApiVersionsRequest::default() } else { request };
        let answer = target.client().call(version, &request);
        assert_eq!(answer.error_code, 0);
        let range = |key| {
            let row = answer.api_keys.iter().find(|row| row.api_key == key).expect("a row");
            (row.min_version, row.max_version)
        };
        assert_eq!(range(0), (0, 13), "Produce");
        assert_eq!(range(3), (0, 13), "Metadata");
        for key in [1, 2, 10, 18, 19, 20, 22, 23, 32, 60, 61] {
            assert!(range(key).1 >= 0, "api {key}");
        }
    }
}

fn api_versions_from_the_future(target: &dyn Target) {
    let mut client = target.client();
    // Header version 2, an unknown body version, and a body that nobody can read.
    client.send_raw(&[0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 0, 1, 2, 3]).unwrap();
    let answer = client.receive_raw().unwrap();
    assert_eq!(answer[..6], [0, 0, 0, 7, 0, 35]);
    assert_eq!(answer[6..12], [0, 0, 0, 1, 0, 18], "one row, of ApiVersions itself");
    // The connection goes on.
    assert_eq!(client.call(0, &ApiVersionsRequest::default()).error_code, 0);
}

fn unknown_api(target: &dyn Target) {
    let mut client = target.client();
    client.send_raw(&[0x70, 0, 0, 0, 0, 0, 0, 7, 0xff, 0xff]).unwrap();
    assert!(client.is_closed());
    let mut client = target.client();
    client.send_raw(&[0, 3, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 0]).unwrap();
    assert!(client.is_closed(), "Metadata in version 99");
}

fn not_kafka(target: &dyn Target) {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 16], &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]] {
        let mut client = target.client();
        client.send_bytes(bytes).unwrap();
        assert!(client.is_closed(), "{bytes:?}");
    }
}

fn every_metadata(target: &dyn Target) {
    let (mut client, topic) = target.topic(3);
    let cluster = client.metadata(&topic).cluster_id.expect("a cluster id");
    assert_eq!(cluster.len(), 22);
    for version in 0..=13 {
        let asked = MetadataRequestTopic::default().with_name(Some(name(&topic)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(true);
        let answer = client.call(version, &request);
        assert_eq!(answer.brokers.len(), 1);
        let found = &answer.topics[0];
        assert_eq!((found.error_code, found.partitions.len()), (0, 3), "version {version}");
        assert_eq!(found.topic_id.is_nil(), version < 10);
        for partition in &found.partitions {
            assert_eq!((partition.error_code, partition.leader_id), (0, answer.brokers[0].node_id));
            assert_eq!(partition.leader_epoch, if version >= 7 { 0 } else { -1 });
        }
    }
    let all = client.call(12, &MetadataRequest::default().with_topics(None));
    assert!(all.topics.iter().any(|found| found.name == Some(name(&topic))));
    let none = client.call(12, &MetadataRequest::default().with_topics(Some(Vec::new())));
    assert!(none.topics.is_empty() && none.brokers.len() == 1);
}

fn metadata_by_id(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.metadata(&topic).topics[0].topic_id;
    let mut ask = |id| {
        let asked = MetadataRequestTopic::default().with_topic_id(id).with_name(None);
        client.call(12, &MetadataRequest::default().with_topics(Some(vec![asked]))).topics.remove(0)
    };
    assert_eq!(ask(id).name, Some(name(&topic)));
    assert_eq!(ask(Uuid::from_u128(0x1234)).error_code, 100);
}

fn metadata_of_nothing(target: &dyn Target) {
    let mut client = target.client();
    assert_eq!(client.metadata(&fresh_name()).topics[0].error_code, 3);
    assert_eq!(client.metadata("no spaces").topics[0].error_code, 17);
}

fn auto_creation(target: &dyn Target) {
    let mut client = target.client();
    let topic = fresh_name();
    let mut ask = || {
        let asked = MetadataRequestTopic::default().with_name(Some(name(&topic)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(true);
        client.call(12, &request).topics.remove(0)
    };
    assert_eq!(ask().error_code, 3);
    until(|| ask().error_code == 0);
    assert_eq!(ask().partitions.len(), 1);
}

fn create_refused(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    assert_eq!(client.try_create(&topic, 1, &[]), 36, "it is there");
    assert_eq!(client.try_create("no spaces", 1, &[]), 17);
    assert_eq!(client.try_create(&fresh_name(), 0, &[]), 37);
    assert_eq!(client.try_create(&fresh_name(), 1, &[("no.such.setting", "1")]), 40);
    assert_eq!(client.try_create(&fresh_name(), 1, &[("retention.ms", "soon")]), 40);
    let other = fresh_name();
    let creatable = CreatableTopic::default().with_name(name(&other)).with_num_partitions(1);
    let mut request = CreateTopicsRequest::default()
        .with_topics(vec![creatable.clone().with_replication_factor(9)])
        .with_timeout_ms(30_000);
    assert_eq!(client.call(7, &request).topics[0].error_code, 38);
    request = request.with_validate_only(true).with_topics(vec![creatable.with_replication_factor(1)]);
    assert_eq!(client.call(7, &request).topics[0].error_code, 0);
    assert_eq!(client.metadata(&other).topics[0].error_code, 3, "it was only looked at");
}

fn every_create_delete(target: &dyn Target) {
    let mut client = target.client();
    for version in 2..=7 {
        let topic = fresh_name();
        let creatable = CreatableTopic::default()
            .with_name(name(&topic))
            .with_num_partitions(2)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(30_000);
        let made = client.call(version, &request).topics.remove(0);
        assert_eq!(made.error_code, 0, "version {version}");
        if version >= 5 {
            assert_eq!((made.num_partitions, made.replication_factor), (2, 1));
            assert!(made.configs.expect("its settings").iter().any(|config| &*config.name == "retention.ms"));
        }
        until(|| client.metadata(&topic).topics[0].error_code == 0);
        let version = version - 1;
        let request = DeleteTopicsRequest::default().with_timeout_ms(30_000);
        let request = if version >= 6 {
            request.with_topics(vec![DeleteTopicState::default().with_name(Some(name(&topic)))])
        } else {
            request.with_topic_names(vec![name(&topic)])
        };
        assert_eq!(client.call(version, &request).responses[0].error_code, 0);
        until(|| client.metadata(&topic).topics[0].error_code == 3);
        assert_eq!(client.call(version, &request).responses[0].error_code, 3, "it is gone already");
    }
}

fn recreated(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let old = client.metadata(&topic).topics[0].topic_id;
    delete_by_id(&mut client, old);
    until(|| client.metadata(&topic).topics[0].error_code == 3);
    let new = client.create(&topic, 1, &[]);
    assert_ne!(old, new);
}

pub(crate) fn delete_by_id(client: &mut Client, id: Uuid) {
    let by_id = DeleteTopicState::default().with_name(None).with_topic_id(id);
    let request = DeleteTopicsRequest::default().with_timeout_ms(30_000).with_topics(vec![by_id]);
    assert_eq!(client.call(6, &request).responses[0].error_code, 0);
}

fn every_init_producer_id(target: &dyn Target) {
    let mut client = target.client();
    // Until the coordinator's block of ids has come.
    until(|| init(&mut client, 4, -1, -1).0 == 0);
    let mut last = -1;
    for version in 0..=5 {
        let (code, id, epoch) = init(&mut client, version, -1, -1);
        assert_eq!((code, epoch), (0, 0), "version {version}");
        assert!(id > last && id < 100_000, "{id} after {last}");
        last = id;
    }
}

fn init(client: &mut Client, version: i16, id: i64, epoch: i16) -> (i16, i64, i16) {
    let mut request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    request = request.with_producer_id(ProducerId(id)).with_producer_epoch(epoch);
    let answer = client.call(version, &request);
    (answer.error_code, answer.producer_id.0, answer.producer_epoch)
}

fn init_bump(target: &dyn Target) {
    let mut client = target.client();
    let id = client.producer_id();
    let (code, new, epoch) = init(&mut client, 4, id, 0);
    assert_eq!((code, epoch), (0, 0));
    assert_ne!(new, id, "KIP-360 bumps transactional producers only");
    assert_eq!(init(&mut client, 4, id, -1), (42, -1, -1), "half a statement");
    assert_eq!(init(&mut client, 4, -1, 3), (42, -1, -1), "the other half");
}

fn configs(target: &dyn Target) {
    let mut client = target.client();
    let topic = fresh_name();
    client.create(&topic, 1, &[("retention.ms", "12345")]);
    for version in 1..=4 {
        let keys =
            ["retention.ms", "max.message.bytes", "message.timestamp.after.max.ms", "message.timestamp.type"];
        let resource = DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(&topic))
            .with_configuration_keys(Some(keys.map(text).to_vec()));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let mut answer = client.call(version, &request).results.remove(0);
        assert_eq!(answer.error_code, 0, "version {version}");
        answer.configs.sort_by(|a, b| a.name.cmp(&b.name));
        let found: Vec<_> = answer
            .configs
            .iter()
            .map(|c| (&*c.name, c.value.as_deref().unwrap_or_default(), c.config_source == 1))
            .collect();
        assert_eq!(
            found,
            [
                ("max.message.bytes", "1048588", false),
                ("message.timestamp.after.max.ms", "3600000", false),
                ("message.timestamp.type", "CreateTime", false),
                ("retention.ms", "12345", true),
            ]
        );
    }
    let nothing =
        DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text(&fresh_name()));
    let nothing = nothing.with_configuration_keys(None);
    let answer = client.call(4, &DescribeConfigsRequest::default().with_resources(vec![nothing]));
    assert_eq!(answer.results[0].error_code, 3);
}

fn others(target: &dyn Target) {
    let mut client = target.client();
    let cluster = client.metadata("x").cluster_id.expect("a cluster id");
    for version in 0..=2 {
        let request = DescribeClusterRequest::default();
        let request = if version >= 1 { request.with_endpoint_type(1) } else { request };
        let answer = client.call(version, &request);
        assert_eq!((answer.error_code, &answer.cluster_id, answer.brokers.len()), (0, &cluster, 1));
    }
    for version in 0..=6 {
        let request = FindCoordinatorRequest::default();
        let request = if version >= 4 {
            request.with_coordinator_keys(vec![text("some-group")])
        } else {
            request.with_key(text("some-group"))
        };
        // What it says differs on purpose: there are no groups here. That it can be read does not.
        client.call(version, &request);
    }
}
