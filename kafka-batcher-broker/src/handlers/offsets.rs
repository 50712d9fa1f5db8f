//! ListOffsets and OffsetForLeaderEpoch.

use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use super::Context;
use crate::error_code::ErrorCode;
use crate::state::Partition;

/// The times that mean something else (`ListOffsetsRequest`): the ends, the largest time (KIP-734), and those of tiered storage (KIP-405,
/// KIP-1005), which without tiers are the ends or nothing.
mod asked {
    pub(super) const LATEST: i64 = -1;
    pub(super) const EARLIEST: i64 = -2;
    pub(super) const MAX_TIMESTAMP: i64 = -3;
    pub(super) const EARLIEST_LOCAL: i64 = -4;
    pub(super) const LATEST_TIERED: i64 = -5;
}

/// A client that knows an older leader is fenced, one that knows a newer one is ahead of us (KIP-320); -1: it does not say.
pub(super) fn check_epoch(client: i32, ours: i32) -> Result<(), ErrorCode> {
    match client {
        -1 => Ok(()),
        older if older < ours => Err(ErrorCode::FENCED_LEADER_EPOCH),
        newer if newer > ours => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}

pub(super) fn list_offsets(
    context: &Context<'_>,
    request: &ListOffsetsRequest,
    version: i16,
) -> Option<ListOffsetsResponse> {
    let mut state = context.lock()?;
    let mut topics = Vec::new();
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|asked| {
            let index = asked.partition_index;
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(index);
            let verdict = context.verdict;
            let ordered = verdict.error(&topic.name, index).or(verdict.error_after(&topic.name, index));
            let found = match ordered {
                Some(code) => Err(code),
                None => state.led_by(context.broker, &topic.name, index).and_then(|partition| {
                    check_epoch(asked.current_leader_epoch, partition.leader_epoch)?;
                    Ok(find(partition, asked.timestamp))
                }),
            };
            match found {
                Ok((offset, time, epoch)) => {
                    // The codec refuses to leave out a value that the version has no place for.
                    let epoch = if version >= 4 { epoch } else { -1 };
                    answer.with_offset(offset).with_timestamp(time).with_leader_epoch(epoch)
                }
                Err(code) => {
                    answer.with_error_code(code.0).with_offset(-1).with_timestamp(-1).with_leader_epoch(-1)
                }
            }
        });
        let partitions = partitions.collect();
        topics.push(
            ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions),
        );
    }
    Some(
        ListOffsetsResponse::default()
            .with_throttle_time_ms(context.verdict.throttle_ms())
            .with_topics(topics),
    )
}

/// Offset, time, leader epoch.
fn find(partition: &Partition, timestamp: i64) -> (i64, i64, i32) {
    let log = &partition.log;
    let nothing = (-1, -1, -1);
    match timestamp {
        asked::LATEST => {
            let discarded = partition.discarded.next_offset.load(std::sync::atomic::Ordering::Relaxed);
            (log.end().max(discarded), -1, partition.leader_epoch)
        }
        asked::EARLIEST | asked::EARLIEST_LOCAL => (log.start(), -1, log.epoch_at(log.start())),
        asked::MAX_TIMESTAMP => log.offset_of_max_time().unwrap_or(nothing),
        asked::LATEST_TIERED => nothing,
        time => log.offset_for_time(time).unwrap_or(nothing),
    }
}

pub(super) fn offset_for_leader_epoch(
    context: &Context<'_>,
    request: &OffsetForLeaderEpochRequest,
) -> Option<OffsetForLeaderEpochResponse> {
    let mut state = context.lock()?;
    let mut topics = Vec::new();
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = EpochEndOffset::default().with_partition(asked.partition);
            let ordered = context.verdict.error(&topic.topic, asked.partition);
            let found = match ordered {
                Some(code) => Err(code),
                None => state.led_by(context.broker, &topic.topic, asked.partition).and_then(|partition| {
                    check_epoch(asked.current_leader_epoch, partition.leader_epoch)?;
                    Ok(partition.log.epoch_end(asked.leader_epoch, partition.leader_epoch))
                }),
            };
            match found {
                Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch).with_end_offset(end),
                Ok(None) => answer.with_leader_epoch(-1).with_end_offset(-1),
                Err(code) => answer.with_error_code(code.0).with_leader_epoch(-1).with_end_offset(-1),
            }
        });
        topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic.clone())
                .with_partitions(partitions.collect()),
        );
    }
    Some(
        OffsetForLeaderEpochResponse::default()
            .with_throttle_time_ms(context.verdict.throttle_ms())
            .with_topics(topics),
    )
}
