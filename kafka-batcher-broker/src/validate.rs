//! Whether a partition's payload of a Produce request may be written, in Kafka's order of asking.
//!
//! The order decides which error a client sees when two things are wrong, and that a batch which is already written is still refused for its
//! size or its times: first the request's shape (`ProduceRequest.validateRecords`), then base offset, size and CRC
//! (`UnifiedLog.analyzeAndValidateRecords`), then the batch's counts and every record (`LogValidator`), and only afterwards duplicates
//! (`producer_state.rs`).
//!
//! A compressed batch is not opened: header, size and CRC are checked, its records are taken on trust. The real Kafka opens it.

use bytes::Bytes;

use crate::error_code::ErrorCode;
use crate::record::{self, BatchHeader, Compression, HEADER_LEN, LOG_OVERHEAD};
use crate::topic_config::{TimestampType, TopicConfig};

/// How closely record batches are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// What Kafka checks.
    #[default]
    Kafka,
    /// Also what Kafka lets pass and no correct client does: offset deltas other than 0, 1, 2, ..., a largest time that is not that of the
    /// records, bytes after the batch. Refused with 87 `INVALID_RECORD`.
    Pedantic,
}

/// Why a partition's payload was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// Index of the record in the batch, and what is wrong with it.
    pub(crate) records: Vec<(i32, String)>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new() }
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::INVALID_RECORD, message)
}

/// A batch that may be written.
#[derive(Debug)]
pub(crate) struct ValidBatch {
    pub(crate) header: BatchHeader,
    /// Exactly the batch.
    pub(crate) bytes: Bytes,
    /// The largest time of its records, or what the header says where they are not opened.
    pub(crate) max_timestamp: i64,
}

/// The one batch of a payload; everything that Kafka finds out before it knows the topic's log.
fn one_batch(
    payload: Option<&Bytes>,
    version: i16,
    strictness: Strictness,
) -> Result<(BatchHeader, Bytes), Refusal> {
    let none = || {
        invalid(format!(
            "produce requests with version {version} must have at least one record batch per partition"
        ))
    };
    let payload = payload.ok_or_else(none)?;
    let size = next_size(payload)?.ok_or_else(none)?;
    if payload.get(16) != Some(&2) {
        return Err(invalid(format!(
            "produce requests with version {version} must only contain record batches with magic version 2"
        )));
    }
    if let (Some(header), true) = (BatchHeader::read(payload), version < 7)
        && header.compression() == Compression::Zstd
    {
        return Err(Refusal::new(
            ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
            format!("produce requests with version {version} are not allowed to use zstd"),
        ));
    }
    let rest = payload.slice(size..);
    if next_size(&rest)?.is_some() {
        return Err(invalid(format!(
            "produce requests with version {version} must contain exactly one record batch per partition"
        )));
    }
    if strictness == Strictness::Pedantic && !rest.is_empty() {
        return Err(invalid(format!("{} bytes follow the batch", rest.len())));
    }
    let header = BatchHeader::read(payload).filter(|_| size >= HEADER_LEN).ok_or_else(|| {
        Refusal::new(
            // Seen on Kafka 4.1: it reads beyond the end, and that exception has no code of its own.
            ErrorCode::UNKNOWN_SERVER_ERROR,
            format!("a batch of {size} bytes is shorter than its header"),
        )
    })?;
    Ok((header, payload.slice(..size)))
}

/// The size of the batch that begins here, `None` if the bytes end before it does (`ByteBufferLogInputStream.nextBatch`).
fn next_size(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some(length) =
        bytes.get(8..LOG_OVERHEAD).and_then(|four| four.try_into().ok()).map(i32::from_be_bytes)
    else {
        return Ok(None);
    };
    let corrupt = |why: String| Refusal::new(ErrorCode::CORRUPT_MESSAGE, why);
    // 14: what a record of the oldest format takes at least.
    let Some(length) = usize::try_from(length).ok().filter(|length| *length >= 14) else {
        return Err(corrupt(format!("record size {length} is less than the minimum record overhead (14)")));
    };
    match bytes.get(16) {
        // Seen on Kafka 4.1: there the sum with the 12 bytes before overflows, and this is what comes of it.
        _ if i32::try_from(length + LOG_OVERHEAD).is_err() => {
            Err(Refusal::new(ErrorCode::UNKNOWN_SERVER_ERROR, format!("a batch length of {length}")))
        }
        None => Ok(None),
        Some(magic) if *magic > 2 => Err(corrupt(format!("invalid magic {} found in record", *magic as i8))),
        Some(_) => Ok(Some(length + LOG_OVERHEAD).filter(|size| *size <= bytes.len())),
    }
}

/// Judges a payload against a topic's settings at the time `now`.
pub(crate) fn validate(
    payload: Option<&Bytes>,
    version: i16,
    config: &TopicConfig,
    strictness: Strictness,
    now: i64,
) -> Result<ValidBatch, Refusal> {
    let (header, bytes) = one_batch(payload, version, strictness)?;
    if header.base_offset != 0 {
        return Err(invalid(format!(
            "the base offset of the record batch should be 0, but it is {}",
            header.base_offset
        )));
    }
    if bytes.len() > config.max_message_bytes {
        return Err(Refusal::new(
            ErrorCode::MESSAGE_TOO_LARGE,
            format!(
                "the record batch size is {} bytes which exceeds the maximum configured value of {}",
                bytes.len(),
                config.max_message_bytes
            ),
        ));
    }
    let computed = crc32c::crc32c(bytes.get(21..).unwrap_or_default());
    if computed != header.crc {
        return Err(Refusal::new(
            ErrorCode::CORRUPT_MESSAGE,
            format!("record is corrupt (stored crc = {}, computed crc = {computed})", header.crc),
        ));
    }
    counts(&header)?;
    let max_timestamp = match header.compression() {
        Compression::None => records(&header, &bytes, config, strictness, now)?,
        Compression::Unknown(codec) => return Err(invalid(format!("unknown compression type id: {codec}"))),
        _ => opaque(&header, config, now)?,
    };
    Ok(ValidBatch { header, bytes, max_timestamp })
}

fn counts(header: &BatchHeader) -> Result<(), Refusal> {
    let from_offsets = i64::from(header.last_offset_delta) + 1;
    if from_offsets <= 0 {
        return Err(invalid(format!("batch has an invalid offset range: [0, {}]", header.last_offset_delta)));
    }
    if header.record_count <= 0 {
        return Err(invalid(format!("invalid reported count for record batch: {}", header.record_count)));
    }
    if from_offsets != i64::from(header.record_count) {
        return Err(invalid(format!(
            "inconsistent batch offset range [0, {}] and count of records {}",
            header.last_offset_delta, header.record_count
        )));
    }
    if header.is_control() {
        return Err(invalid("clients are not allowed to write control records"));
    }
    if header.producer_id >= 0 && header.base_sequence < 0 {
        return Err(invalid(format!(
            "invalid sequence number {} in record batch with producerId {}",
            header.base_sequence, header.producer_id
        )));
    }
    if header.is_transactional() {
        return Err(Refusal::new(ErrorCode::INVALID_TXN_STATE, "this broker has no transactions"));
    }
    Ok(())
}

/// Looks at every record of an uncompressed batch; answers their largest time.
fn records(
    header: &BatchHeader,
    bytes: &Bytes,
    config: &TopicConfig,
    strictness: Strictness,
    now: i64,
) -> Result<i64, Refusal> {
    let body = bytes.get(HEADER_LEN..).unwrap_or_default();
    let (mut max, mut index, mut times_wrong) = (-1_i64, 0_i32, false);
    let mut wrong = Vec::new();
    let mut pedantry = None;
    record::walk(body, header.record_count, |view| {
        let time = if header.is_log_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.saturating_add(view.timestamp_delta)
        };
        if config.compacted && view.key.is_none() {
            wrong.push((index, "compacted topic cannot accept message without key".to_owned()));
        } else if let Some(why) = bad_time(header, config, time, now) {
            times_wrong = true;
            wrong.push((index, why));
        }
        if view.offset_delta != index {
            pedantry
                .get_or_insert_with(|| format!("record {index} has the offset delta {}", view.offset_delta));
        }
        max = max.max(time);
        index += 1;
    })
    .map_err(invalid)?;
    if strictness == Strictness::Pedantic {
        if max != header.max_timestamp {
            pedantry.get_or_insert_with(|| {
                format!("the largest time is {max}, the header says {}", header.max_timestamp)
            });
        }
        if let Some(why) = pedantry {
            return Err(invalid(why));
        }
    }
    if wrong.is_empty() {
        return Ok(max);
    }
    let (code, why) = if times_wrong {
        (
            ErrorCode::INVALID_TIMESTAMP,
            "one or more records have been rejected due to invalid timestamp".to_owned(),
        )
    } else {
        let why =
            format!("one or more records have been rejected due to {} record errors in total", wrong.len());
        (ErrorCode::INVALID_RECORD, why)
    };
    Err(Refusal { code, message: why, records: wrong })
}

/// A batch whose records are not opened: only its first and its largest time can be judged.
fn opaque(header: &BatchHeader, config: &TopicConfig, now: i64) -> Result<i64, Refusal> {
    for time in [header.base_timestamp, header.max_timestamp] {
        if let Some(why) = bad_time(header, config, time, now) {
            return Err(Refusal::new(ErrorCode::INVALID_TIMESTAMP, why));
        }
    }
    Ok(header.max_timestamp)
}

fn bad_time(header: &BatchHeader, config: &TopicConfig, time: i64, now: i64) -> Option<String> {
    if config.timestamp_type == TimestampType::CreateTime && time != -1 {
        let age = now.saturating_sub(time);
        (age > config.timestamp_before_max_ms || age.saturating_neg() > config.timestamp_after_max_ms).then(
            || {
                format!(
                    "timestamp {time} is out of range: it should be within [{}, {}]",
                    now.saturating_sub(config.timestamp_before_max_ms),
                    now.saturating_add(config.timestamp_after_max_ms)
                )
            },
        )
    } else {
        header
            .is_log_append_time()
            .then(|| "invalid timestamp type: a producer should not set it to LogAppendTime".to_owned())
    }
}
