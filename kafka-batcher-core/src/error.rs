//! Errors of the core, one enum an operation; every message says what, and what to do about it.

use std::fmt;

use crate::batch::Codec;

/// May what failed lie in the log all the same?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persisted {
    /// Certainly not.
    No,
    /// Perhaps: the answer was lost, or the broker itself does not know.
    Maybe,
}

/// Why an event cannot be a record of a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The event alone would make a batch larger than `max_batch_bytesize`.
    #[error(
        "the event would make a batch of {size} bytes, the limit is {limit} (max_batch_bytesize); \
         raise the limit (and the topic's max.message.bytes), or send less"
    )]
    TooLarge {
        /// Encoded size of a batch with only this event, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A length does not fit the record format's 32 bits.
    #[error("the event's {part} is {size} bytes long; the record format ends at 2147483647")]
    Unencodable {
        /// "key", "value", "header name", "header value" or "headers".
        part: &'static str,
        /// Its length.
        size: usize,
    },
}

/// Why bytes are not a record batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than the header needs or the batch's own length says.
    #[error("record batch cut off: {have} bytes of {need}")]
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The length field is impossible.
    #[error("record batch says it is {0} bytes long; at least 49 are needed")]
    BadLength(i32),
    /// Not the format of Kafka 0.11 and later.
    #[error("record batch has magic {0}; only 2 is read")]
    BadMagic(i8),
    /// The checksum does not match: the bytes changed since they were written.
    #[error("record batch crc is {found:#010x}, its bytes give {computed:#010x}")]
    BadCrc {
        /// As the header says.
        found: u32,
        /// As the bytes give.
        computed: u32,
    },
    /// Compressed with a codec that nobody knows.
    #[error(
        "record batch is compressed with codec {0}; there are 1 (gzip), 2 (snappy), 3 (lz4) and 4 (zstd)"
    )]
    Codec(i16),
    /// What is compressed cannot be opened.
    #[error("the batch's records, compressed with {codec}, cannot be opened: {what}")]
    BadCompression {
        /// The codec that its header names.
        codec: Codec,
        /// What its decoder says.
        what: String,
    },
    /// What is compressed would become larger than any batch.
    #[error("the batch's records, compressed with {codec}, hold or claim more than {limit} bytes")]
    HoldsTooMuch {
        /// The codec that its header names.
        codec: Codec,
        /// The most they may hold, in bytes.
        limit: usize,
    },
    /// The record count and the last offset delta contradict each other, or the count is negative.
    #[error("record batch says {count} records and last offset delta {last_offset_delta}")]
    BadCount {
        /// `recordCount`.
        count: i32,
        /// `lastOffsetDelta`.
        last_offset_delta: i32,
    },
    /// A record does not parse.
    #[error("record {index} of the batch: {what}")]
    BadRecord {
        /// Which record.
        index: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Bytes follow the last record.
    #[error("{0} bytes follow the last record of the batch")]
    TrailingBytes(usize),
}

/// Why an accepted event will not be delivered. Final.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryError {
    /// What happened.
    pub reason: FailureReason,
    /// May the event lie in the log all the same?
    pub persisted: Persisted,
    /// The broker's error code, if it spoke.
    pub code: Option<i16>,
    /// The words for it: the broker's own if it had any.
    pub message: String,
}

/// What kept an event from being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureReason {
    /// The broker finds the event too large, alone in its batch.
    TooLarge,
    /// The broker refused this event for good (invalid record, timestamp out of its bounds).
    Rejected,
    /// The partition that the event names does not exist.
    NoSuchPartition,
    /// Not delivered when the batcher shut down, and no spool to keep it.
    Shutdown,
    /// Not delivered when the batcher shut down, and safe: it lies in the spool, and the next start delivers it.
    Spooled,
    /// Not delivered within `delivery_timeout`.
    Expired,
    /// Dropped from the spool when it was older than `max_age`.
    MaxAge,
    /// Dropped from the spool to make room for newer events (`on_full = drop_oldest`).
    DroppedOldest,
    /// It was saved, and the storage did not give it back.
    Damaged,
    /// It was given to a storage that keeps nothing.
    Discarded,
    /// Whether the event was written cannot be known, and it will not be tried again.
    Unknowable,
    /// A part of the program that carried the event failed.
    Internal,
}

impl fmt::Display for DeliveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            FailureReason::TooLarge => "the broker finds the event too large",
            FailureReason::Rejected => "the broker refused the event",
            FailureReason::NoSuchPartition => "the event names a partition that does not exist",
            FailureReason::Shutdown => "the batcher shut down before the event was delivered",
            FailureReason::Spooled => {
                "the batcher shut down before the event was delivered; it is safe in the spool, and the next start \
                 delivers it"
            }
            FailureReason::Expired => "the event was not delivered within delivery_timeout",
            FailureReason::MaxAge => "the event was dropped from the spool: it was older than max_age",
            FailureReason::DroppedOldest => {
                "the event was dropped from the spool to make room for newer ones (on_full = drop_oldest)"
            }
            FailureReason::Damaged => "the event was saved, and the storage did not give it back",
            FailureReason::Discarded => "the event was given to a storage that keeps nothing",
            FailureReason::Unknowable => "whether the event was written cannot be known",
            FailureReason::Internal => "the event was lost by an internal failure",
        })?;
        if let Some(code) = self.code {
            write!(f, " ({} {})", code, crate::ErrorCode(code).name())?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if self.persisted == Persisted::Maybe {
            f.write_str("; it may lie in the log all the same")?;
        }
        Ok(())
    }
}

impl std::error::Error for DeliveryError {}
