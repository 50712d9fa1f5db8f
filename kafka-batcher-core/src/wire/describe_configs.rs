//! DescribeConfigs (key 32, KIP-133), for some settings of one topic.

use super::{Api, WireError, finish_request, open_answer, start_request};
use crate::error_code::ErrorCode;

/// The type of a topic among the resources.
const TOPIC: u8 = 2;

/// What the broker says of the topic's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfigs {
    /// How long to send nothing, in milliseconds (KIP-219).
    pub throttle_ms: i32,
    /// The error, or 0.
    pub code: ErrorCode,
    /// Names and values, those that Kafka sets by itself among them; `None`: hidden.
    pub values: Vec<(String, Option<String>)>,
}

/// The question for these settings.
pub fn describe_configs_request(correlation: i32, client_id: &str, topic: &str, keys: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + topic.len());
    let mut writer = start_request(&mut out, Api::DescribeConfigs, 1, correlation, client_id);
    writer.array_len(1);
    writer.u8(TOPIC);
    writer.string(topic);
    writer.array_len(keys.len());
    keys.iter().for_each(|key| writer.string(key));
    // No synonyms.
    writer.bool(false);
    finish_request(&mut out);
    out
}

/// Reads the answer, as far as it concerns this topic. `None`: it leaves the topic out.
///
/// # Errors
/// If the bytes are not one.
pub fn read_topic_configs(answer: &[u8], topic: &str) -> Result<Option<TopicConfigs>, WireError> {
    let mut reader = open_answer(answer, Api::DescribeConfigs, 1)?;
    let throttle_ms = reader.i32("throttle time")?;
    let mut found = None;
    for _ in 0..reader.array_len(11, "resources")? {
        let code = ErrorCode(reader.i16("error code")?);
        reader.nullable_string("error message")?;
        let kind = reader.i8("resource type")?;
        let asked = reader.string("resource")? == topic && kind == TOPIC as i8;
        let mut values = Vec::new();
        for _ in 0..reader.array_len(11, "settings")? {
            let name = reader.string("name")?.to_owned();
            let value = reader.nullable_string("value")?.map(str::to_owned);
            reader.take(3, "where it comes from")?;
            for _ in 0..reader.array_len(5, "synonyms")? {
                reader.string("synonym")?;
                reader.nullable_string("its value")?;
                reader.i8("its source")?;
            }
            values.push((name, value));
        }
        if asked {
            found = Some(TopicConfigs { throttle_ms, code, values });
        }
    }
    Ok(found)
}
