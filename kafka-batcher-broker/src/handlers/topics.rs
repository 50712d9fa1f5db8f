//! CreateTopics and DeleteTopics. Every broker takes them, as a Kafka without ZooKeeper does: it hands them on to the controller.

use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use uuid::Uuid;

use super::{Context, text, words};
use crate::builder::TopicSpec;
use crate::error_code::ErrorCode;

pub(super) fn create(context: &Context<'_>, request: &CreateTopicsRequest) -> Option<CreateTopicsResponse> {
    let mut state = context.lock()?;
    let settings = &context.shared.settings;
    let mut results = Vec::new();
    for topic in &request.topics {
        let name = topic.name.to_string();
        let result = CreatableTopicResult::default().with_name(topic.name.clone());
        if let Some(code) = context.verdict.error(&name, -1) {
            results.push(result.with_error_code(code.0).with_error_message(words(code)));
            continue;
        }
        let assigned = i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX);
        let spec = TopicSpec {
            partitions: match topic.num_partitions {
                -1 if assigned > 0 => Some(assigned),
                -1 => None,
                count => Some(count),
            },
            replication: Some(topic.replication_factor).filter(|factor| *factor != -1),
            config: topic
                .configs
                .iter()
                .map(|config| {
                    (config.name.to_string(), config.value.as_deref().unwrap_or_default().to_owned())
                })
                .collect(),
            name,
        };
        results.push(match state.create_topic(&spec, settings, request.validate_only) {
            Err((code, why)) => result.with_error_code(code.0).with_error_message(Some(text(why))),
            Ok(id) => {
                for (index, assignment) in topic.assignments.iter().enumerate() {
                    let made =
                        state.topics.get_mut(&spec.name).and_then(|made| made.partitions.get_mut(index));
                    if let Some(partition) = made {
                        partition.replicas = assignment.broker_ids.iter().map(|id| id.0).collect();
                        partition.leader = None;
                        partition.leader_epoch = -1;
                    }
                }
                state.elect_leaders();
                let made = state.topics.get(&spec.name);
                let configs = made.map(|made| made.config.entries()).unwrap_or_default();
                let configs = configs.into_iter().map(|(name, value, given)| {
                    CreatableTopicConfigs::default()
                        .with_name(text(name))
                        .with_value(Some(text(value)))
                        .with_config_source(if given { 1 } else { 5 })
                });
                let replication =
                    made.and_then(|made| made.partitions.first()).map_or(0, |p| p.replicas.len());
                result
                    .with_topic_id(if request.validate_only { Uuid::nil() } else { id })
                    .with_num_partitions(spec.partitions.unwrap_or(settings.default_partitions))
                    .with_replication_factor(i16::try_from(replication).unwrap_or(i16::MAX))
                    .with_configs(Some(configs.collect()))
            }
        });
        if let (Some(code), Some(last)) = (context.verdict.error_after(&spec.name, -1), results.last_mut()) {
            last.error_code = code.0;
        }
    }
    drop(state);
    context.shared.topology_changed();
    Some(
        CreateTopicsResponse::default()
            .with_throttle_time_ms(context.verdict.throttle_ms())
            .with_topics(results),
    )
}

pub(super) fn delete(
    context: &Context<'_>,
    request: &DeleteTopicsRequest,
    version: i16,
) -> Option<DeleteTopicsResponse> {
    let mut state = context.lock()?;
    // Up to version 5 by name, from 6 on by name or id.
    let mut asked: Vec<(Option<String>, Uuid)> =
        request.topic_names.iter().map(|name| (Some(name.to_string()), Uuid::nil())).collect();
    if version >= 6 {
        asked = request
            .topics
            .iter()
            .map(|t| (t.name.as_ref().map(|name| name.to_string()), t.topic_id))
            .collect();
    }
    let results = asked.into_iter().map(|(name, id)| {
        let unknown =
            if name.is_some() { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION } else { ErrorCode::UNKNOWN_TOPIC_ID };
        let found = name.clone().or_else(|| state.topic_by_id(id).map(|(name, _)| name.to_owned()));
        let ordered = found.as_deref().and_then(|name| context.verdict.error(name, -1));
        let removed = match (&found, ordered) {
            (Some(name), None) => state.topics.remove(name),
            _ => None,
        };
        let code = match (&removed, ordered) {
            (_, Some(code)) => code,
            (Some(_), None) => ErrorCode::NONE,
            (None, None) => unknown,
        };
        DeletableTopicResult::default()
            .with_name(found.map(|name| TopicName(text(name))))
            .with_topic_id(removed.map_or(id, |topic| topic.id))
            .with_error_code(code.0)
            .with_error_message(words(code))
    });
    let results = results.collect();
    drop(state);
    context.shared.topology_changed();
    Some(
        DeleteTopicsResponse::default()
            .with_throttle_time_ms(context.verdict.throttle_ms())
            .with_responses(results),
    )
}
