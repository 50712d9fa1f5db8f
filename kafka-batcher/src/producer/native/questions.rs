//! What a producer asks besides producing: topics, an id, the state of a producer. With the words for each refusal.

use std::sync::Arc;
use std::time::Duration;

use kafka_batcher_core::wire::{
    Api, describe_configs_request, describe_producers_request, init_producer_id_request,
    read_described_partition, read_init_producer_id, read_topic_configs,
};
use kafka_batcher_core::{Backoff, ErrorClass, ErrorCode, Leader, ProducerIdentity, ProducerState};

use super::moved_on;
use crate::client::{Client, backoff_of, name};
use crate::producer::{MissingTopic, ProducerError, TopicInfo};

pub(super) async fn topic(
    client: &Client,
    topic: &str,
    missing: MissingTopic,
) -> Result<TopicInfo, ProducerError> {
    let answer = client.metadata(&[Arc::from(topic)], missing).await?;
    let Some(found) = answer.topics.iter().find(|found| found.name == topic) else {
        let message = format!("the cluster's answer leaves out topic {topic:?}");
        return Err(ProducerError { class: ErrorClass::Retriable, code: None, message });
    };
    if found.code.0 != 0 {
        return Err(refusal(found.code, topic, missing));
    }
    match client.cluster.topic(topic) {
        Some((topic_id, count)) if count > 0 => {
            Ok(TopicInfo { topic_id, partitions: i32::try_from(count).unwrap_or(i32::MAX) })
        }
        _ => {
            let message = format!("topic {topic:?} has no partitions yet");
            Err(ProducerError { class: ErrorClass::Retriable, code: None, message })
        }
    }
}

/// Why a topic cannot be written to, and what to do about it.
pub(in crate::producer) fn refusal(code: ErrorCode, topic: &str, missing: MissingTopic) -> ProducerError {
    let (class, message) = match (code, missing) {
        (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, MissingTopic::Refuse) => (
            ErrorClass::Unavailable,
            format!(
                "topic {topic:?} does not exist; create it (kafka-topics.sh --bootstrap-server HOST:PORT --create \
                 --topic {topic}), or let the broker create it (allow_topic_auto_creation)"
            ),
        ),
        (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, MissingTopic::Create) => (
            code.class(),
            format!(
                "topic {topic:?} does not exist yet, the broker was asked to create it; if it stays so, the broker may \
                 not (auto.create.topics.enable)"
            ),
        ),
        (ErrorCode::LEADER_NOT_AVAILABLE, _) => {
            (code.class(), format!("topic {topic:?} has no leaders yet; it is perhaps being created"))
        }
        (ErrorCode::INVALID_TOPIC_EXCEPTION, _) => (
            code.class(),
            format!(
                "{topic:?} cannot be the name of a topic: 1 to 249 of the characters a-z A-Z 0-9 . _ - are, and not \
                 \".\" or \"..\""
            ),
        ),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, _) => (
            code.class(),
            format!("this client is not allowed to see topic {topic:?}; it needs DESCRIBE and WRITE on it"),
        ),
        _ => (code.class(), format!("topic {topic:?}: the broker answered {}", name(code))),
    };
    ProducerError { class, code: Some(code), message }
}

/// How long a cluster that is starting is asked again before it counts as trouble: a fresh Kafka 4.1 answers 14
/// (COORDINATOR_LOAD_IN_PROGRESS) for a second.
const STARTING: Duration = Duration::from_secs(3);

pub(super) async fn init_producer_id(client: &Client) -> Result<ProducerIdentity, ProducerError> {
    let until = tokio::time::Instant::now() + STARTING.min(client.settings.request_timeout);
    let mut backoff = Backoff::new(backoff_of(&client.settings), 0);
    loop {
        let answer = ask_producer_id(client).await;
        let starting = answer.as_ref().is_err_and(|error| {
            error.class == ErrorClass::Retriable && error.code.is_none_or(|code| STARTS.contains(&code))
        });
        let next = tokio::time::Instant::now() + backoff.next_delay();
        if !starting || next >= until {
            return answer;
        }
        tokio::time::sleep_until(next).await;
    }
}

/// What a cluster answers that is starting, besides an id of -1.
const STARTS: [ErrorCode; 3] = [
    ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode::COORDINATOR_NOT_AVAILABLE,
    ErrorCode::NOT_COORDINATOR,
];

async fn ask_producer_id(client: &Client) -> Result<ProducerIdentity, ProducerError> {
    let request = |version| init_producer_id_request(version, 0, &client.client_id);
    let Some((connection, answer)) = client.ask(Api::InitProducerId, request, read_init_producer_id).await?
    else {
        let message =
            "the broker gives no producer ids (it does not speak InitProducerId in a version of this \
                       client's); idempotence needs Kafka 0.11 or newer"
                .to_owned();
        return Err(ProducerError { class: ErrorClass::Unavailable, code: None, message });
    };
    connection.throttle(answer.throttle_ms);
    let fail = |class, code, message| Err(ProducerError { class, code, message });
    match answer.code {
        // Seen on a broker that starts: an id of -1. It must never be stamped.
        ErrorCode(0) if answer.producer_id < 0 || answer.epoch < 0 => {
            let (id, at) = (answer.producer_id, connection.name());
            fail(ErrorClass::Retriable, None, format!("{at} gave {id} as producer id; it is perhaps starting up"))
        }
        ErrorCode(0) => Ok(ProducerIdentity { id: answer.producer_id, epoch: answer.epoch }),
        code @ ErrorCode::CLUSTER_AUTHORIZATION_FAILED => fail(
            code.class(),
            Some(code),
            "this client is not allowed to get a producer id; before Kafka 2.8 it needs IDEMPOTENT_WRITE on the cluster, \
             later WRITE on any topic"
                .to_owned(),
        ),
        code => fail(code.class(), Some(code), format!("{} answered {}", connection.name(), name(code))),
    }
}

pub(super) async fn describe_producer(
    client: &Client,
    topic: &str,
    partition: i32,
    producer_id: i64,
) -> (ProducerState, Option<Leader>) {
    let failed = |message: String| ProducerState::Failed { message };
    let Some((mut leader, node)) = client.cluster.place(topic, partition) else {
        client.cluster.want_refresh();
        return (failed(format!("nobody is known to lead {topic}-{partition}")), None);
    };
    let places = [(Arc::from(topic), partition)];
    let connected = tokio::select! {
        biased;
        connected = client.with_node(&node, Arc::clone) => connected,
        () = client.cluster.led_elsewhere(leader.node, &places) => Err(moved_on(leader.node)),
    };
    let connection = match connected {
        Ok(connection) => connection,
        Err(why) => return (failed(why.to_string()), None),
    };
    leader.connection = connection.generation();
    if connection.version(Api::DescribeProducers).is_none() {
        return (ProducerState::Unanswerable, Some(leader));
    }
    let request = describe_producers_request(0, &client.client_id, topic, partition);
    let answer = match connection.ask(request).await {
        Ok(answer) => answer,
        Err(lost) => return (failed(lost.to_string()), Some(leader)),
    };
    let state = match read_described_partition(&answer, topic, partition, producer_id) {
        Err(error) => {
            connection.shut();
            failed(format!(
                "the answer of {} to DescribeProducers cannot be read: {error}",
                connection.name()
            ))
        }
        Ok(None) => failed(format!("the answer of {} leaves out {topic}-{partition}", connection.name())),
        Ok(Some(found)) => {
            connection.throttle(found.throttle_ms);
            match (found.code, found.producer) {
                (ErrorCode(0), None) => ProducerState::Unknown,
                (ErrorCode(0), Some((epoch, last_sequence))) => {
                    // The protocol has 32 bits here and 16 everywhere else.
                    ProducerState::Known { epoch: i16::try_from(epoch).unwrap_or(-1), last_sequence }
                }
                (ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::UNSUPPORTED_VERSION, _) => {
                    ProducerState::Unanswerable
                }
                (code, _) => {
                    client.cluster.want_refresh();
                    let words = found.message.map(|words| format!(": {words}")).unwrap_or_default();
                    failed(format!(
                        "broker {} answered DescribeProducers with {}{words}",
                        leader.node,
                        name(code)
                    ))
                }
            }
        }
    };
    (state, Some(leader))
}

/// The settings that say how long a topic keeps an event.
const KEEPS: [&str; 3] = ["retention.ms", "cleanup.policy", "message.timestamp.type"];

/// How long the topic keeps events by their own time. Whatever stands in the way, nobody knows then: it is a courtesy, and
/// a broker that does not give the answer must not stop deliveries.
pub(super) async fn retention(client: &Client, topic: &str) -> Option<Duration> {
    let (leader, node) = client.cluster.place(topic, 0)?;
    let places = [(Arc::from(topic), 0)];
    let connection = tokio::select! {
        biased;
        connected = client.with_node(&node, Arc::clone) => connected.ok()?,
        () = client.cluster.led_elsewhere(leader.node, &places) => return None,
    };
    connection.version(Api::DescribeConfigs)?;
    let answer = connection.ask(describe_configs_request(0, &client.client_id, topic, &KEEPS)).await.ok()?;
    let found = match read_topic_configs(&answer, topic) {
        Ok(found) => found?,
        Err(error) => {
            tracing::warn!(broker = %connection.name(), %error, "the answer to DescribeConfigs cannot be read");
            connection.shut();
            return None;
        }
    };
    connection.throttle(found.throttle_ms);
    if found.code.0 != 0 {
        tracing::debug!(topic, code = %name(found.code), "nobody says how long the topic keeps events");
        return None;
    }
    kept_for(|key| found.values.iter().find(|(name, _)| name == key).and_then(|(_, v)| v.as_deref()))
}

/// How long a topic with these settings keeps events by their own time.
pub(in crate::producer) fn kept_for<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    let by_age = value("cleanup.policy").is_none_or(|policy| policy.split(',').any(|p| p.trim() == "delete"));
    let own_time = value("message.timestamp.type").is_none_or(|kind| kind == "CreateTime");
    // -1: for ever.
    let ms: u64 = value("retention.ms")?.parse().ok()?;
    (by_age && own_time).then_some(Duration::from_millis(ms))
}
