//! SaslHandshake (key 17, KIP-43) and SaslAuthenticate (key 36, KIP-152, KIP-368): proving who one is. What the bytes within mean is the
//! mechanism's affair; here they are only carried.
//!
//! SaslHandshake version 0 announces messages without Kafka's framing, and is not spoken here: version 1 came with Kafka 1.0.

use super::{Api, WireError, finish_request, open_answer, start_request};
use crate::error_code::ErrorCode;

/// What the broker says about a mechanism.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaslHandshakeAnswer {
    /// The error, or 0.
    pub code: ErrorCode,
    /// The mechanisms that this listener takes.
    pub mechanisms: Vec<String>,
}

/// What the broker says to a message of the mechanism.
#[derive(Clone, PartialEq, Eq)]
pub struct SaslAuthenticateAnswer {
    /// The error, or 0.
    pub code: ErrorCode,
    /// The broker's words for it.
    pub message: Option<String>,
    /// The mechanism's message.
    pub bytes: Vec<u8>,
    /// After how many milliseconds the broker closes the connection unless the client proves again who it is; 0: never.
    pub session_lifetime_ms: i64,
}

/// The question whether this mechanism may be used.
pub fn sasl_handshake_request(correlation: i32, client_id: &str, mechanism: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let mut writer = start_request(&mut out, Api::SaslHandshake, 1, correlation, client_id);
    writer.string(mechanism);
    finish_request(&mut out);
    out
}

/// Reads the answer.
///
/// # Errors
/// If the bytes are not one.
pub fn read_sasl_handshake(answer: &[u8]) -> Result<SaslHandshakeAnswer, WireError> {
    let mut reader = open_answer(answer, Api::SaslHandshake, 1)?;
    let code = ErrorCode(reader.i16("error code")?);
    let mechanisms =
        (0..reader.array_len(2, "mechanisms")?).map(|_| reader.string("mechanism").map(str::to_owned));
    Ok(SaslHandshakeAnswer { code, mechanisms: mechanisms.collect::<Result<_, _>>()? })
}

/// A message of the mechanism.
pub fn sasl_authenticate_request(version: i16, correlation: i32, client_id: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + bytes.len());
    let mut writer = start_request(&mut out, Api::SaslAuthenticate, version, correlation, client_id);
    writer.bytes_len(bytes.len());
    writer.out.extend_from_slice(bytes);
    writer.tags();
    finish_request(&mut out);
    out
}

/// Reads the answer.
///
/// # Errors
/// If the bytes are not one.
pub fn read_sasl_authenticate(answer: &[u8], version: i16) -> Result<SaslAuthenticateAnswer, WireError> {
    let mut reader = open_answer(answer, Api::SaslAuthenticate, version)?;
    let code = ErrorCode(reader.i16("error code")?);
    let message = reader.nullable_string("error message")?.map(str::to_owned);
    let length = reader.array_len(1, "auth bytes")?;
    let bytes = reader.take(length, "auth bytes")?.to_vec();
    let session_lifetime_ms = if version >= 1 { reader.i64("session lifetime")? } else { 0 };
    Ok(SaslAuthenticateAnswer { code, message, bytes, session_lifetime_ms })
}
