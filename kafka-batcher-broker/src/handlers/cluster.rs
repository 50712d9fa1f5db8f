//! What there is: versions, brokers, topics, leaders.

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, MetadataRequest, MetadataResponse, TopicName,
};
use uuid::Uuid;

use super::{Context, text, words};
use crate::api::{Api, SERVED};
use crate::builder::{AutoCreate, TopicSpec};
use crate::error_code::ErrorCode;
use crate::state::{State, Topic};
use crate::topic_config::is_valid_topic_name;

/// "Not asked for", of authorized operations.
const NO_OPERATIONS: i32 = i32::MIN;

fn row(api: Api) -> ApiVersion {
    let row = api.row();
    ApiVersion::default().with_api_key(row.key).with_min_version(row.advertised_min).with_max_version(row.max)
}

pub(super) fn api_versions(context: &Context<'_>) -> ApiVersionsResponse {
    ApiVersionsResponse::default()
        .with_error_code(context.verdict.request_error().map_or(0, |code| code.0))
        .with_throttle_time_ms(context.verdict.throttle_ms())
        .with_api_keys(SERVED.iter().map(|served| row(served.api)).collect())
}

pub(super) fn api_versions_unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UNSUPPORTED_VERSION.0)
        .with_api_keys(vec![row(Api::ApiVersions)])
}

pub(super) fn metadata(
    context: &Context<'_>,
    request: &MetadataRequest,
    version: i16,
) -> Option<MetadataResponse> {
    let mut state = context.lock()?;
    let error = |name: &str| context.verdict.error(name, -1).or(context.verdict.error_after(name, -1));
    let mut topics = Vec::new();
    // Version 0 asks for all topics with an empty list, later ones with none.
    let all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    if all {
        for (name, topic) in &state.topics {
            topics.push(describe_topic(&state, name, topic, error(name)));
        }
    }
    for asked in request.topics.iter().flatten() {
        let name = match (&asked.name, state.topic_by_id(asked.topic_id)) {
            (_, Some((name, _))) if !asked.topic_id.is_nil() => name.to_owned(),
            (Some(name), _) if asked.topic_id.is_nil() => name.to_string(),
            _ => {
                topics.push(
                    MetadataResponseTopic::default()
                        .with_error_code(ErrorCode::UNKNOWN_TOPIC_ID.0)
                        .with_name(None)
                        .with_topic_id(asked.topic_id)
                        .with_topic_authorized_operations(NO_OPERATIONS),
                );
                continue;
            }
        };
        if let Some(topic) = state.topics.get(&name) {
            topics.push(describe_topic(&state, &name, topic, error(&name)));
            continue;
        }
        // Before version 4 every Metadata asked for the topic to be made.
        let may_create = version < 4 || request.allow_auto_topic_creation;
        let mut code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        if !is_valid_topic_name(&name) {
            code = ErrorCode::INVALID_TOPIC_EXCEPTION;
        } else if may_create
            && context.shared.settings.auto_create == AutoCreate::On
            && error(&name).is_none()
        {
            let spec =
                TopicSpec { name: name.clone(), partitions: None, replication: None, config: Vec::new() };
            // Kafka's first answer is the error, too: the topic is made behind it.
            if let Err((refused, _)) = state.create_topic(&spec, &context.shared.settings, false) {
                code = refused;
            }
            context.shared.topology_changed();
        }
        topics.push(
            MetadataResponseTopic::default()
                .with_error_code(error(&name).unwrap_or(code).0)
                .with_name(Some(TopicName(text(name))))
                .with_topic_id(Uuid::nil())
                .with_topic_authorized_operations(NO_OPERATIONS),
        );
    }
    let brokers = state.known_brokers().map(|(id, broker)| {
        let (host, port) = broker.advertised();
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(id))
            .with_host(text(host))
            .with_port(i32::from(port))
            .with_rack(None)
    });
    Some(
        MetadataResponse::default()
            .with_throttle_time_ms(context.verdict.throttle_ms())
            .with_brokers(brokers.collect())
            .with_cluster_id(Some(text(state.cluster_id.clone())))
            .with_controller_id(BrokerId(state.controller()))
            .with_topics(topics)
            .with_cluster_authorized_operations(NO_OPERATIONS),
    )
}

fn describe_topic(
    state: &State,
    name: &str,
    topic: &Topic,
    error: Option<ErrorCode>,
) -> MetadataResponseTopic {
    let described = MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(name))))
        .with_topic_id(topic.id)
        .with_topic_authorized_operations(NO_OPERATIONS);
    if let Some(code) = error.filter(|code| code.is_error()) {
        return described.with_error_code(code.0);
    }
    let ids = |ids: Vec<i32>| ids.into_iter().map(BrokerId).collect::<Vec<_>>();
    let partitions = topic.partitions.iter().enumerate().map(|(index, partition)| {
        let (alive, dead): (Vec<i32>, Vec<i32>) =
            partition.replicas.iter().partition(|id| state.known_brokers().any(|(known, _)| known == **id));
        let code = partition.leader.map_or(ErrorCode::LEADER_NOT_AVAILABLE, |_| ErrorCode::NONE);
        MetadataResponsePartition::default()
            .with_error_code(code.0)
            .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
            .with_leader_id(BrokerId(partition.leader.unwrap_or(-1)))
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(ids(partition.replicas.clone()))
            .with_isr_nodes(ids(alive))
            .with_offline_replicas(ids(dead))
    });
    described.with_partitions(partitions.collect())
}

pub(super) fn describe(context: &Context<'_>, _: &DescribeClusterRequest) -> Option<DescribeClusterResponse> {
    let state = context.lock()?;
    let code = context.verdict.request_error().unwrap_or(ErrorCode::NONE);
    let brokers = state.known_brokers().map(|(id, broker)| {
        let (host, port) = broker.advertised();
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(id))
            .with_host(text(host))
            .with_port(i32::from(port))
            .with_rack(None)
    });
    Some(
        DescribeClusterResponse::default()
            .with_throttle_time_ms(context.verdict.throttle_ms())
            .with_error_code(code.0)
            .with_error_message(words(code))
            .with_endpoint_type(1)
            .with_cluster_id(text(state.cluster_id.clone()))
            .with_controller_id(BrokerId(state.controller()))
            .with_brokers(brokers.collect())
            .with_cluster_authorized_operations(NO_OPERATIONS),
    )
}

/// There are no groups here; see [`Api::FindCoordinator`].
pub(super) fn find_coordinator(
    context: &Context<'_>,
    request: &FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    let code = context.verdict.request_error().unwrap_or(ErrorCode::COORDINATOR_NOT_AVAILABLE);
    let why = text("this broker has no consumer groups and no transactions");
    let answer = FindCoordinatorResponse::default().with_throttle_time_ms(context.verdict.throttle_ms());
    if version < 4 {
        return answer
            .with_error_code(code.0)
            .with_error_message(Some(why))
            .with_node_id(BrokerId(-1))
            .with_port(-1);
    }
    let none = |key: &kafka_protocol::protocol::StrBytes| {
        Coordinator::default()
            .with_key(key.clone())
            .with_error_code(code.0)
            .with_error_message(Some(why.clone()))
            .with_node_id(BrokerId(-1))
            .with_port(-1)
    };
    answer.with_coordinators(request.coordinator_keys.iter().map(none).collect())
}
