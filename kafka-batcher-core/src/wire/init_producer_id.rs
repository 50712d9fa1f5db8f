//! InitProducerId (key 22, KIP-98), without a transactional id.

use super::{Api, WireError, finish_request, open_answer, start_request};
use crate::error_code::ErrorCode;

/// What the broker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProducerIdAnswer {
    /// How long to send nothing, in milliseconds (KIP-219).
    pub throttle_ms: i32,
    /// The error, or 0.
    pub code: ErrorCode,
    /// The id; -1 goes with an error, and sometimes comes without one.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// The question.
pub fn init_producer_id_request(version: i16, correlation: i32, client_id: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let mut writer = start_request(&mut out, Api::InitProducerId, version, correlation, client_id);
    writer.null_string();
    // The transaction's time-out: a broker checks it only where there is a transactional id.
    writer.i32(i32::MAX);
    if version >= 3 {
        writer.i64(-1);
        writer.i16(-1);
    }
    writer.tags();
    finish_request(&mut out);
    out
}

/// Reads the answer.
///
/// # Errors
/// If the bytes are not one.
pub fn read_init_producer_id(answer: &[u8], version: i16) -> Result<InitProducerIdAnswer, WireError> {
    let mut reader = open_answer(answer, Api::InitProducerId, version)?;
    Ok(InitProducerIdAnswer {
        throttle_ms: reader.i32("throttle time")?,
        code: ErrorCode(reader.i16("error code")?),
        producer_id: reader.i64("producer id")?,
        epoch: reader.i16("producer epoch")?,
    })
}
