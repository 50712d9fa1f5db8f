//! The answer to Produce, told partition by partition to a visitor, without building a tree of it.

use super::{Api, Reader, WireError, open_answer};
use crate::delivery::TopicId;
use crate::error_code::ErrorCode;

/// How an answer names a topic: by name up to version 12, by id from 13 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicRef<'a> {
    /// Its name.
    Name(&'a str),
    /// Its id.
    Id(TopicId),
}

/// What a broker says of one partition of a Produce request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducedPartition<'a> {
    /// The topic.
    pub topic: TopicRef<'a>,
    /// The partition.
    pub partition: i32,
    /// The error, or 0.
    pub code: ErrorCode,
    /// The offset of the first event, or -1.
    pub base_offset: i64,
    /// Which records are at fault, with the broker's words (version 8, KIP-467).
    pub record_errors: Vec<(i32, Option<&'a str>)>,
    /// The broker's words (version 8, KIP-467).
    pub message: Option<&'a str>,
    /// Who leads now, with its epoch, if the broker asked does not (version 10, KIP-951).
    pub current_leader: Option<(i32, i32)>,
}

/// Who is told what an answer says.
pub trait ProduceVisitor {
    /// A partition was answered.
    fn partition(&mut self, answer: ProducedPartition<'_>);
    /// A broker that leads now, with its address (version 10, KIP-951).
    fn broker(&mut self, node: i32, host: &str, port: i32);
}

/// Reads an answer to its end. Returns how long to send nothing, in milliseconds (KIP-219).
///
/// # Errors
/// If the bytes are not one; some partitions may have been told already.
pub fn read_produce(
    answer: &[u8],
    version: i16,
    visitor: &mut impl ProduceVisitor,
) -> Result<i32, WireError> {
    let mut reader = open_answer(answer, Api::Produce, version)?;
    for _ in 0..reader.array_len(5, "topics")? {
        let topic = match version {
            ..13 => TopicRef::Name(reader.string("topic")?),
            13.. => TopicRef::Id(reader.topic_id("topic id")?),
        };
        for _ in 0..reader.array_len(14, "partitions")? {
            let partition = read_partition(&mut reader, version, topic)?;
            visitor.partition(partition);
        }
        reader.skip_tags()?;
    }
    let throttle_ms = reader.i32("throttle time")?;
    reader.tags(|tag, field| match tag {
        0 if version >= 10 => {
            for _ in 0..field.array_len(11, "node endpoints")? {
                let node = field.i32("node id")?;
                let host = field.string("host")?;
                let port = field.i32("port")?;
                field.nullable_string("rack")?;
                field.skip_tags()?;
                visitor.broker(node, host, port);
            }
            Ok(())
        }
        _ => Ok(()),
    })?;
    Ok(throttle_ms)
}

fn read_partition<'a>(
    reader: &mut Reader<'a>,
    version: i16,
    topic: TopicRef<'a>,
) -> Result<ProducedPartition<'a>, WireError> {
    let mut answer = ProducedPartition {
        topic,
        partition: reader.i32("partition")?,
        code: ErrorCode(reader.i16("error code")?),
        base_offset: reader.i64("base offset")?,
        record_errors: Vec::new(),
        message: None,
        current_leader: None,
    };
    reader.i64("log append time")?;
    if version >= 5 {
        reader.i64("log start offset")?;
    }
    if version >= 8 {
        for _ in 0..reader.array_len(5, "record errors")? {
            let index = reader.i32("index of a record")?;
            let message = reader.nullable_string("message of a record")?;
            reader.skip_tags()?;
            answer.record_errors.push((index, message));
        }
        answer.message = reader.nullable_string("error message")?;
    }
    reader.tags(|tag, field| {
        if tag == 0 && version >= 10 {
            let (node, epoch) = (field.i32("current leader")?, field.i32("current leader epoch")?);
            field.skip_tags()?;
            answer.current_leader = (node >= 0).then_some((node, epoch));
        }
        Ok(())
    })?;
    Ok(answer)
}
