//! InitProducerId and DescribeProducers.

use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, InitProducerIdRequest, InitProducerIdResponse,
    ProducerId,
};

use super::{Context, words};
use crate::error_code::ErrorCode;

/// A fresh id and epoch 0. A producer without a transactional id gets one whatever it says about itself (`TransactionCoordinator`: "blindly
/// accept"), also when it asks to bump its epoch (KIP-360); only half a statement is refused.
pub(super) fn init(context: &Context<'_>, request: &InitProducerIdRequest) -> Option<InitProducerIdResponse> {
    let mut state = context.lock()?;
    let answer = InitProducerIdResponse::default().with_throttle_time_ms(context.verdict.throttle_ms());
    let refused = if request.transactional_id.is_some() {
        // No transactions here; this code is final for every client, where 15 would let it ask for ever.
        Some(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    } else if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        Some(ErrorCode::INVALID_REQUEST)
    } else {
        context.verdict.request_error()
    };
    Some(match refused {
        Some(code) => answer.with_error_code(code.0).with_producer_id(ProducerId(-1)).with_producer_epoch(-1),
        None => {
            let id = state.producer_id(context.broker);
            answer.with_producer_id(ProducerId(id)).with_producer_epoch(0)
        }
    })
}

pub(super) fn describe(
    context: &Context<'_>,
    request: &DescribeProducersRequest,
) -> Option<DescribeProducersResponse> {
    let mut state = context.lock()?;
    let mut topics = Vec::new();
    for topic in &request.topics {
        let partitions = topic.partition_indexes.iter().map(|&index| {
            let answer = PartitionResponse::default().with_partition_index(index);
            let verdict = context.verdict;
            let ordered = verdict.error(&topic.name, index).or(verdict.error_after(&topic.name, index));
            let found = match ordered {
                Some(code) => Err(code),
                None => state.led_by(context.broker, &topic.name, index),
            };
            match found {
                Err(code) => answer.with_error_code(code.0).with_error_message(words(code)),
                Ok(partition) => {
                    let producers = partition.log.producers.iter().map(|(id, entry)| {
                        ProducerState::default()
                            .with_producer_id(ProducerId(id))
                            .with_producer_epoch(i32::from(entry.epoch))
                            .with_last_sequence(entry.last_sequence())
                            .with_last_timestamp(entry.last_timestamp)
                            .with_coordinator_epoch(-1)
                            .with_current_txn_start_offset(-1)
                    });
                    answer.with_error_message(None).with_active_producers(producers.collect())
                }
            }
        });
        topics.push(
            TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect()),
        );
    }
    Some(
        DescribeProducersResponse::default()
            .with_throttle_time_ms(context.verdict.throttle_ms())
            .with_topics(topics),
    )
}
