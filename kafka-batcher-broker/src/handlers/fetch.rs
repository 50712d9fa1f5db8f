//! Fetch, with waiting for data (`min_bytes`, `max_wait_ms`), bounds by request and by partition, and no fetch sessions (KIP-227): session 0
//! is answered, which tells the client to send whole requests.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{
    FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use tokio::time::Instant;

use super::{Context, text};
use crate::error_code::ErrorCode;
use crate::state::State;

/// One round of reading.
struct Round {
    answer: FetchResponse,
    bytes: usize,
    /// An error is answered at once.
    failed: bool,
}

pub(super) async fn fetch(
    context: &Context<'_>,
    request: &FetchRequest,
    version: i16,
) -> Option<FetchResponse> {
    let answer = FetchResponse::default().with_throttle_time_ms(context.verdict.throttle_ms());
    if request.session_id != 0 {
        return Some(answer.with_error_code(ErrorCode::FETCH_SESSION_ID_NOT_FOUND.0));
    }
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait;
    let wanted = usize::try_from(request.min_bytes).unwrap_or(0);
    loop {
        // Before looking: what is appended after the look must wake this.
        let changed = context.shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let round = look(context, request, version, &answer)?;
        if round.failed || round.bytes >= wanted || Instant::now() >= deadline {
            return Some(round.answer);
        }
        // Either way the next round decides.
        let _ = tokio::time::timeout_at(deadline, changed).await;
    }
}

fn look(
    context: &Context<'_>,
    request: &FetchRequest,
    version: i16,
    answer: &FetchResponse,
) -> Option<Round> {
    let mut state = context.lock()?;
    let mut left = usize::try_from(request.max_bytes).unwrap_or(0);
    let (mut bytes, mut failed, mut moved) = (0, false, Vec::new());
    let mut topics = Vec::new();
    for topic in &request.topics {
        let name = if version >= 13 {
            state.topic_by_id(topic.topic_id).map(|(name, _)| name.to_owned())
        } else {
            Some(topic.topic.to_string())
        };
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let data = PartitionData::default().with_partition_index(asked.partition);
            let place = Place {
                partition: asked.partition,
                offset: asked.fetch_offset,
                leader_epoch: asked.current_leader_epoch,
                limit: left.min(usize::try_from(asked.partition_max_bytes).unwrap_or(0)),
                first: bytes == 0,
            };
            let read = match &name {
                None => Err(ErrorCode::UNKNOWN_TOPIC_ID),
                Some(name) => read(context, &mut state, name, &place),
            };
            partitions.push(match read {
                Ok((records, start, end)) => {
                    bytes += records.len();
                    left = left.saturating_sub(records.len());
                    data.with_records(Some(records))
                        .with_high_watermark(end)
                        .with_last_stable_offset(end)
                        .with_log_start_offset(start)
                        .with_aborted_transactions(None)
                        .with_preferred_read_replica(BrokerId(-1))
                }
                Err(code) => {
                    failed = true;
                    let mut data = data
                        .with_error_code(code.0)
                        .with_records(Some(Bytes::new()))
                        .with_high_watermark(-1)
                        .with_last_stable_offset(-1)
                        .with_log_start_offset(-1)
                        .with_aborted_transactions(None)
                        .with_preferred_read_replica(BrokerId(-1));
                    let found =
                        name.as_ref().and_then(|name| state.topics.get(name)?.partition(asked.partition));
                    if code == ErrorCode::NOT_LEADER_OR_FOLLOWER
                        && version >= 12
                        && let Some((leader, found)) = found.and_then(|found| Some((found.leader?, found)))
                    {
                        data.current_leader = LeaderIdAndEpoch::default()
                            .with_leader_id(BrokerId(leader))
                            .with_leader_epoch(found.leader_epoch);
                        moved.push(leader);
                    }
                    data
                }
            });
        }
        topics.push(
            FetchableTopicResponse::default()
                .with_topic(topic.topic.clone())
                .with_topic_id(topic.topic_id)
                .with_partitions(partitions),
        );
    }
    moved.sort_unstable();
    moved.dedup();
    let endpoints = moved.into_iter().filter_map(|id| {
        let (host, port) = state.brokers.get(&id)?.advertised();
        let endpoint = NodeEndpoint::default().with_node_id(BrokerId(id)).with_host(text(host));
        Some(endpoint.with_port(i32::from(port)).with_rack(None))
    });
    let endpoints = if version >= 16 { endpoints.collect() } else { Vec::new() };
    Some(Round {
        answer: answer.clone().with_responses(topics).with_node_endpoints(endpoints),
        bytes,
        failed,
    })
}

/// Where to read, and how much.
struct Place {
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    limit: usize,
    /// Nothing was read for this request yet: one batch is due, whatever its size (KIP-74).
    first: bool,
}

/// Records, log start, high watermark.
fn read(
    context: &Context<'_>,
    state: &mut State,
    topic: &str,
    place: &Place,
) -> Result<(Bytes, i64, i64), ErrorCode> {
    let verdict = context.verdict;
    if let Some(code) = verdict.error(topic, place.partition).or(verdict.error_after(topic, place.partition))
    {
        return Err(code);
    }
    let partition = state.led_by(context.broker, topic, place.partition)?;
    super::offsets::check_epoch(place.leader_epoch, partition.leader_epoch)?;
    let log = &partition.log;
    if !(log.start()..=log.end()).contains(&place.offset) {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    let (batches, size) = log.read(place.offset, place.limit, place.first);
    let mut batches = batches.into_iter();
    let records = match (batches.next(), batches.len()) {
        (Some(only), 0) => only,
        (Some(first), _) => {
            let mut records = BytesMut::with_capacity(size);
            records.extend_from_slice(&first);
            batches.for_each(|batch| records.extend_from_slice(&batch));
            records.freeze()
        }
        (None, _) => Bytes::new(),
    };
    Ok((records, log.start(), log.end()))
}
