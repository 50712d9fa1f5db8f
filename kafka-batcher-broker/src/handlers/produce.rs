//! Produce: judges and writes each partition's batch, and says what became of it.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse};

use super::{Context, text};
use crate::builder::Storage;
use crate::error_code::ErrorCode;
use crate::log::Appended;
use crate::record::BatchHeader;
use crate::state::{Partition, State};
use crate::validate::{Refusal, validate};

pub(super) enum Outcome {
    Answer(ProduceResponse),
    /// acks = 0.
    Nothing,
    /// acks = 0 and something was refused: closing is all that can be said, and the client will ask for metadata.
    Close,
}

pub(super) fn produce(context: &Context<'_>, request: &ProduceRequest, version: i16) -> Outcome {
    let Some(mut state) = context.lock() else { return Outcome::Close };
    let (mut responses, mut refused, mut moved) = (Vec::new(), false, Vec::new());
    for topic in &request.topic_data {
        let name = if version >= 13 {
            state.topic_by_id(topic.topic_id).map(|(name, _)| name.to_owned())
        } else {
            Some(topic.name.to_string())
        };
        let partitions = topic.partition_data.iter().map(|data| {
            let result = match &name {
                None => {
                    Err(Refusal::new(ErrorCode::UNKNOWN_TOPIC_ID, "this cluster has no topic of this id"))
                }
                Some(name) => {
                    one(context, &mut state, request, name, data.index, data.records.as_ref(), version)
                }
            };
            let answer = PartitionProduceResponse::default().with_index(data.index);
            match result {
                Ok((base_offset, log_append_time, log_start)) => answer
                    .with_base_offset(base_offset)
                    .with_log_append_time_ms(log_append_time)
                    .with_log_start_offset(log_start),
                Err(refusal) => {
                    refused = true;
                    let mut answer = answer
                        .with_error_code(refusal.code.0)
                        .with_base_offset(-1)
                        .with_log_append_time_ms(-1)
                        .with_log_start_offset(-1)
                        .with_error_message(Some(text(refusal.message)));
                    answer.record_errors = refusal
                        .records
                        .into_iter()
                        .map(|(index, why)| {
                            BatchIndexAndErrorMessage::default()
                                .with_batch_index(index)
                                .with_batch_index_error_message(Some(text(why)))
                        })
                        .collect();
                    if refusal.code == ErrorCode::NOT_LEADER_OR_FOLLOWER && version >= 10 {
                        answer.current_leader =
                            LeaderIdAndEpoch::default().with_leader_id(BrokerId(-1)).with_leader_epoch(-1);
                        let found =
                            name.as_ref().and_then(|name| state.topics.get(name)?.partition(data.index));
                        if let Some((leader, found)) = found.and_then(|found| Some((found.leader?, found))) {
                            answer.current_leader.leader_id = BrokerId(leader);
                            answer.current_leader.leader_epoch = found.leader_epoch;
                            moved.push(leader);
                        }
                    }
                    answer
                }
            }
        });
        let partition_responses = partitions.collect();
        responses.push(
            TopicProduceResponse::default()
                .with_name(topic.name.clone())
                .with_topic_id(topic.topic_id)
                .with_partition_responses(partition_responses),
        );
    }
    moved.sort_unstable();
    moved.dedup();
    let endpoints = moved.into_iter().filter_map(|id| {
        let (host, port) = state.brokers.get(&id)?.advertised();
        Some(
            NodeEndpoint::default()
                .with_node_id(BrokerId(id))
                .with_host(text(host))
                .with_port(i32::from(port))
                .with_rack(None),
        )
    });
    let answer = ProduceResponse::default()
        .with_responses(responses)
        .with_throttle_time_ms(context.verdict.throttle_ms())
        .with_node_endpoints(endpoints.collect());
    drop(state);
    context.shared.changed.notify_waiters();
    match (request.acks, refused) {
        (0, false) => Outcome::Nothing,
        (0, true) => Outcome::Close,
        _ => Outcome::Answer(answer),
    }
}

/// One partition: base offset, log append time, log start.
fn one(
    context: &Context<'_>,
    state: &mut State,
    request: &ProduceRequest,
    topic: &str,
    index: i32,
    records: Option<&Bytes>,
    version: i16,
) -> Result<(i64, i64, i64), Refusal> {
    let (shared, verdict) = (context.shared, context.verdict);
    let named = |code: ErrorCode| Refusal::new(code, code.name().unwrap_or("an error that the test ordered"));
    if let Some(code) = verdict.error(topic, index) {
        return Err(named(code));
    }
    let count = |refusal: Refusal| {
        shared.counters.refused.fetch_add(1, Relaxed);
        refusal
    };
    if !matches!(request.acks, -1..=1) {
        return Err(count(named(ErrorCode::INVALID_REQUIRED_ACKS)));
    }
    if request.transactional_id.is_some() {
        return Err(count(named(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)));
    }
    let now = shared.now();
    // Kafka looks at the shape of the request before it looks for the leader; for a single fault the order is the same.
    let Some(config) = state.topics.get(topic).map(|topic| topic.config.clone()) else {
        return Err(count(named(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)));
    };
    let in_sync = state
        .topics
        .get(topic)
        .and_then(|t| t.partition(index))
        .map_or(0, |partition| partition.replicas.iter().filter(|id| state.is_running(**id)).count());
    let partition = state.led_by(context.broker, topic, index).map_err(|code| count(named(code)))?;
    if request.acks == -1 && in_sync < config.min_insync_replicas {
        return Err(count(named(ErrorCode::NOT_ENOUGH_REPLICAS)));
    }
    let written = if shared.settings.storage == Storage::Discard {
        let header = records.and_then(|bytes| BatchHeader::read(bytes)).filter(|header| header.magic == 2);
        let Some(header) = header else { return Err(count(named(ErrorCode::CORRUPT_MESSAGE))) };
        shared.counters.written(u64::try_from(header.record_count).unwrap_or(0), header.size as u64);
        (answer_discarded(partition, header.record_count), -1)
    } else {
        let batch = validate(records, version, &config, shared.settings.strictness, now).map_err(count)?;
        match partition.log.append(&batch, &config, partition.leader_epoch, now).map_err(count)? {
            Appended::New { base_offset, log_append_time } => {
                let records = u64::try_from(batch.header.record_count).unwrap_or(0);
                shared.counters.written(records, batch.bytes.len() as u64);
                (base_offset, log_append_time)
            }
            Appended::Duplicate { base_offset, log_append_time } => {
                shared.counters.duplicates.fetch_add(1, Relaxed);
                (base_offset, log_append_time)
            }
        }
    };
    match verdict.error_after(topic, index) {
        Some(code) => Err(named(code)),
        None => Ok((written.0, written.1, partition.log.start())),
    }
}

/// The offset that discard mode answers.
pub(crate) fn answer_discarded(partition: &Partition, records: i32) -> i64 {
    partition.discarded.next_offset.fetch_add(i64::from(records.max(0)), Relaxed)
}
