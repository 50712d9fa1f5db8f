//! DescribeProducers (key 61, KIP-664), for one partition and one producer id.

use super::{Api, WireError, finish_request, open_answer, start_request};
use crate::error_code::ErrorCode;

/// What the partition's leader says of the producer asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedPartition {
    /// How long to send nothing, in milliseconds (KIP-219).
    pub throttle_ms: i32,
    /// The error, or 0.
    pub code: ErrorCode,
    /// The broker's words for it.
    pub message: Option<String>,
    /// Epoch and last sequence, if the partition knows the id.
    pub producer: Option<(i32, i32)>,
}

/// The question.
pub fn describe_producers_request(correlation: i32, client_id: &str, topic: &str, partition: i32) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + topic.len());
    let mut writer = start_request(&mut out, Api::DescribeProducers, 0, correlation, client_id);
    writer.array_len(1);
    writer.string(topic);
    writer.array_len(1);
    writer.i32(partition);
    writer.tags();
    writer.tags();
    finish_request(&mut out);
    out
}

/// Reads the answer, as far as it concerns one partition and one producer. `None`: it does not name the partition.
///
/// # Errors
/// If the bytes are not one.
pub fn read_described_partition(
    answer: &[u8],
    topic: &str,
    partition: i32,
    producer_id: i64,
) -> Result<Option<DescribedPartition>, WireError> {
    let mut reader = open_answer(answer, Api::DescribeProducers, 0)?;
    let throttle_ms = reader.i32("throttle time")?;
    let mut found = None;
    for _ in 0..reader.array_len(3, "topics")? {
        let name = reader.string("topic")?;
        for _ in 0..reader.array_len(9, "partitions")? {
            let index = reader.i32("partition")?;
            let code = ErrorCode(reader.i16("error code")?);
            let message = reader.nullable_string("error message")?;
            let asked = name == topic && index == partition;
            let mut producer = None;
            for _ in 0..reader.array_len(33, "producers")? {
                let id = reader.i64("producer id")?;
                let epoch = reader.i32("producer epoch")?;
                let last_sequence = reader.i32("last sequence")?;
                reader.take(8 + 4 + 8, "time, coordinator epoch and transaction")?;
                reader.skip_tags()?;
                if id == producer_id {
                    producer = Some((epoch, last_sequence));
                }
            }
            reader.skip_tags()?;
            if asked {
                let message = message.map(str::to_owned);
                found = Some(DescribedPartition { throttle_ms, code, message, producer });
            }
        }
        reader.skip_tags()?;
    }
    Ok(found)
}
