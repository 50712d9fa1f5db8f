//! DescribeConfigs of topics, and of brokers as far as a client can use it.

use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::{Context, text, words};
use crate::builder::{AutoCreate, Settings, millis};
use crate::error_code::ErrorCode;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from: set on the topic, given when the broker started, Kafka's default.
const FROM_TOPIC: i8 = 1;
const FROM_START: i8 = 4;
const FROM_DEFAULT: i8 = 5;

pub(super) fn describe(
    context: &Context<'_>,
    request: &DescribeConfigsRequest,
) -> Option<DescribeConfigsResponse> {
    let state = context.lock()?;
    let results = request.resources.iter().map(|resource| {
        let name = resource.resource_name.as_str();
        let entries = match (resource.resource_type, context.verdict.request_error()) {
            (_, Some(code)) => Err(code),
            (TOPIC, None) => {
                state.topics.get(name).map_or(Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), |topic| {
                    let entries = topic.config.entries().into_iter();
                    Ok(entries
                        .map(|(n, v, given)| (n, v, if given { FROM_TOPIC } else { FROM_DEFAULT }))
                        .collect())
                })
            }
            (BROKER, None) if name.is_empty() || name == context.broker.to_string() => {
                Ok(broker_entries(&context.shared.settings))
            }
            _ => Err(ErrorCode::INVALID_REQUEST),
        };
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match entries {
            Err(code) => result.with_error_code(code.0).with_error_message(words(code)),
            Ok(entries) => {
                let wanted = |name: &str| match &resource.configuration_keys {
                    Some(keys) => keys.iter().any(|key| key.as_str() == name),
                    None => true,
                };
                let configs =
                    entries.into_iter().filter(|(name, ..)| wanted(name)).map(|(name, value, source)| {
                        DescribeConfigsResourceResult::default()
                            .with_name(text(name))
                            .with_value(Some(text(value)))
                            .with_read_only(resource.resource_type == BROKER)
                            .with_config_source(source)
                            .with_documentation(None)
                    });
                result.with_error_message(None).with_configs(configs.collect())
            }
        }
    });
    Some(
        DescribeConfigsResponse::default()
            .with_throttle_time_ms(context.verdict.throttle_ms())
            .with_results(results.collect()),
    )
}

fn broker_entries(settings: &Settings) -> Vec<(&'static str, String, i8)> {
    let entries = [
        ("auto.create.topics.enable", (settings.auto_create == AutoCreate::On).to_string()),
        ("message.max.bytes", settings.max_message_bytes.to_string()),
        ("num.partitions", settings.default_partitions.to_string()),
        ("producer.id.expiration.ms", millis(settings.producer_id_expiration).to_string()),
        ("socket.request.max.bytes", settings.max_request_bytes.to_string()),
    ];
    entries.into_iter().map(|(name, value)| (name, value, FROM_START)).collect()
}
