//! Every error code of the protocol, classed once: may it be tried again, and may the write have happened?
//!
//! Source: `org.apache.kafka.common.protocol.Errors` (Kafka 4.1) and, for "persisted", what a broker does before it
//! answers so. What the outbox then does is decided there, from these classes and from the few codes that carry a
//! meaning of their own for order and identity (45, 46, 47, 59, 90, 100).

use crate::error::Persisted;

/// What an error code means for a batch that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Passing: try again soon; the leader or the connection may have changed.
    Retriable,
    /// Somebody must act (permission, missing topic, a version too old), but the events are well: hold and tell.
    Unavailable,
    /// The batch is too large for the broker: split it.
    TooLarge,
    /// Something in the batch is refused for good.
    Rejected,
    /// The producer itself cannot go on like this (its identity is not accepted): hold and tell.
    Fatal,
}

/// An error code as a broker sends it. 0 is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrorCode(pub i16);

macro_rules! codes {
    ($($code:literal $constant:ident $class:ident $persisted:ident;)*) => {
        impl ErrorCode {
            $(#[doc = concat!("Code ", stringify!($code), ".")] pub const $constant: ErrorCode = ErrorCode($code);)*

            /// The protocol's name for it, or `UNKNOWN_CODE`.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    0 => "NONE",
                    $($code => stringify!($constant),)*
                    _ => "UNKNOWN_CODE",
                }
            }

            /// What it means for a batch.
            pub const fn class(self) -> ErrorClass {
                match self.0 {
                    $($code => ErrorClass::$class,)*
                    // A code that came after this table: hold, tell, lose nothing.
                    _ => ErrorClass::Unavailable,
                }
            }

            /// May a batch answered so have been written?
            pub const fn persisted(self) -> Persisted {
                match self.0 {
                    $($code => Persisted::$persisted,)*
                    _ => Persisted::Maybe,
                }
            }

            /// Every code that the table knows.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode($code),)*];
        }
    };
}

codes! {
    // 3 and 6 are "maybe": a batch that waits for its replicas (acks = all) when the leader moves or the replica is taken away
    // is answered so although it was appended, and may have been copied (`DelayedProduce`, `ReplicaManager`).
    -1 UNKNOWN_SERVER_ERROR Retriable Maybe;
    1 OFFSET_OUT_OF_RANGE Unavailable No;
    2 CORRUPT_MESSAGE Retriable No;
    3 UNKNOWN_TOPIC_OR_PARTITION Retriable Maybe;
    4 INVALID_FETCH_SIZE Unavailable No;
    5 LEADER_NOT_AVAILABLE Retriable No;
    6 NOT_LEADER_OR_FOLLOWER Retriable Maybe;
    7 REQUEST_TIMED_OUT Retriable Maybe;
    8 BROKER_NOT_AVAILABLE Retriable No;
    9 REPLICA_NOT_AVAILABLE Retriable No;
    10 MESSAGE_TOO_LARGE TooLarge No;
    11 STALE_CONTROLLER_EPOCH Retriable No;
    12 OFFSET_METADATA_TOO_LARGE Unavailable No;
    13 NETWORK_EXCEPTION Retriable Maybe;
    14 COORDINATOR_LOAD_IN_PROGRESS Retriable No;
    15 COORDINATOR_NOT_AVAILABLE Retriable No;
    16 NOT_COORDINATOR Retriable No;
    17 INVALID_TOPIC_EXCEPTION Unavailable No;
    18 RECORD_LIST_TOO_LARGE TooLarge No;
    19 NOT_ENOUGH_REPLICAS Retriable No;
    20 NOT_ENOUGH_REPLICAS_AFTER_APPEND Retriable Maybe;
    21 INVALID_REQUIRED_ACKS Unavailable No;
    22 ILLEGAL_GENERATION Unavailable No;
    23 INCONSISTENT_GROUP_PROTOCOL Unavailable No;
    24 INVALID_GROUP_ID Unavailable No;
    25 UNKNOWN_MEMBER_ID Unavailable No;
    26 INVALID_SESSION_TIMEOUT Unavailable No;
    27 REBALANCE_IN_PROGRESS Retriable No;
    28 INVALID_COMMIT_OFFSET_SIZE Unavailable No;
    29 TOPIC_AUTHORIZATION_FAILED Unavailable No;
    30 GROUP_AUTHORIZATION_FAILED Unavailable No;
    31 CLUSTER_AUTHORIZATION_FAILED Unavailable No;
    32 INVALID_TIMESTAMP Rejected No;
    33 UNSUPPORTED_SASL_MECHANISM Unavailable No;
    34 ILLEGAL_SASL_STATE Unavailable No;
    35 UNSUPPORTED_VERSION Unavailable No;
    36 TOPIC_ALREADY_EXISTS Unavailable No;
    37 INVALID_PARTITIONS Unavailable No;
    38 INVALID_REPLICATION_FACTOR Unavailable No;
    39 INVALID_REPLICA_ASSIGNMENT Unavailable No;
    40 INVALID_CONFIG Unavailable No;
    41 NOT_CONTROLLER Retriable No;
    42 INVALID_REQUEST Unavailable No;
    43 UNSUPPORTED_FOR_MESSAGE_FORMAT Unavailable No;
    44 POLICY_VIOLATION Unavailable No;
    45 OUT_OF_ORDER_SEQUENCE_NUMBER Retriable No;
    46 DUPLICATE_SEQUENCE_NUMBER Retriable Maybe;
    47 INVALID_PRODUCER_EPOCH Fatal No;
    48 INVALID_TXN_STATE Fatal No;
    49 INVALID_PRODUCER_ID_MAPPING Fatal No;
    50 INVALID_TRANSACTION_TIMEOUT Unavailable No;
    51 CONCURRENT_TRANSACTIONS Retriable No;
    52 TRANSACTION_COORDINATOR_FENCED Fatal No;
    53 TRANSACTIONAL_ID_AUTHORIZATION_FAILED Unavailable No;
    54 SECURITY_DISABLED Unavailable No;
    55 OPERATION_NOT_ATTEMPTED Retriable No;
    56 KAFKA_STORAGE_ERROR Retriable Maybe;
    57 LOG_DIR_NOT_FOUND Retriable No;
    58 SASL_AUTHENTICATION_FAILED Unavailable No;
    59 UNKNOWN_PRODUCER_ID Fatal No;
    60 REASSIGNMENT_IN_PROGRESS Retriable No;
    61 DELEGATION_TOKEN_AUTH_DISABLED Unavailable No;
    62 DELEGATION_TOKEN_NOT_FOUND Unavailable No;
    63 DELEGATION_TOKEN_OWNER_MISMATCH Unavailable No;
    64 DELEGATION_TOKEN_REQUEST_NOT_ALLOWED Unavailable No;
    65 DELEGATION_TOKEN_AUTHORIZATION_FAILED Unavailable No;
    66 DELEGATION_TOKEN_EXPIRED Unavailable No;
    67 INVALID_PRINCIPAL_TYPE Unavailable No;
    68 NON_EMPTY_GROUP Unavailable No;
    69 GROUP_ID_NOT_FOUND Unavailable No;
    70 FETCH_SESSION_ID_NOT_FOUND Retriable No;
    71 INVALID_FETCH_SESSION_EPOCH Retriable No;
    72 LISTENER_NOT_FOUND Retriable No;
    73 TOPIC_DELETION_DISABLED Unavailable No;
    74 FENCED_LEADER_EPOCH Retriable No;
    75 UNKNOWN_LEADER_EPOCH Retriable No;
    76 UNSUPPORTED_COMPRESSION_TYPE Unavailable No;
    77 STALE_BROKER_EPOCH Retriable No;
    78 OFFSET_NOT_AVAILABLE Retriable No;
    79 MEMBER_ID_REQUIRED Unavailable No;
    80 PREFERRED_LEADER_NOT_AVAILABLE Retriable No;
    81 GROUP_MAX_SIZE_REACHED Unavailable No;
    82 FENCED_INSTANCE_ID Unavailable No;
    83 ELIGIBLE_LEADERS_NOT_AVAILABLE Retriable No;
    84 ELECTION_NOT_NEEDED Retriable No;
    85 NO_REASSIGNMENT_IN_PROGRESS Unavailable No;
    86 GROUP_SUBSCRIBED_TO_TOPIC Unavailable No;
    87 INVALID_RECORD Rejected No;
    88 UNSTABLE_OFFSET_COMMIT Retriable No;
    89 THROTTLING_QUOTA_EXCEEDED Retriable No;
    90 PRODUCER_FENCED Fatal No;
    91 RESOURCE_NOT_FOUND Unavailable No;
    92 DUPLICATE_RESOURCE Unavailable No;
    93 UNACCEPTABLE_CREDENTIAL Unavailable No;
    94 INCONSISTENT_VOTER_SET Unavailable No;
    95 INVALID_UPDATE_VERSION Unavailable No;
    96 FEATURE_UPDATE_FAILED Unavailable No;
    97 PRINCIPAL_DESERIALIZATION_FAILURE Unavailable No;
    98 SNAPSHOT_NOT_FOUND Unavailable No;
    99 POSITION_OUT_OF_RANGE Unavailable No;
    100 UNKNOWN_TOPIC_ID Retriable No;
    101 DUPLICATE_BROKER_REGISTRATION Unavailable No;
    102 BROKER_ID_NOT_REGISTERED Unavailable No;
    103 INCONSISTENT_TOPIC_ID Retriable No;
    104 INCONSISTENT_CLUSTER_ID Unavailable No;
    105 TRANSACTIONAL_ID_NOT_FOUND Unavailable No;
    106 FETCH_SESSION_TOPIC_ID_ERROR Retriable No;
    107 INELIGIBLE_REPLICA Retriable No;
    108 NEW_LEADER_ELECTED Retriable No;
    109 OFFSET_MOVED_TO_TIERED_STORAGE Unavailable No;
    110 FENCED_MEMBER_EPOCH Unavailable No;
    111 UNRELEASED_INSTANCE_ID Unavailable No;
    112 UNSUPPORTED_ASSIGNOR Unavailable No;
    113 STALE_MEMBER_EPOCH Unavailable No;
    114 MISMATCHED_ENDPOINT_TYPE Unavailable No;
    115 UNSUPPORTED_ENDPOINT_TYPE Unavailable No;
    116 UNKNOWN_CONTROLLER_ID Unavailable No;
    117 UNKNOWN_SUBSCRIPTION_ID Unavailable No;
    118 TELEMETRY_TOO_LARGE Unavailable No;
    119 INVALID_REGISTRATION Unavailable No;
    120 TRANSACTION_ABORTABLE Fatal No;
    121 INVALID_RECORD_STATE Unavailable No;
    122 SHARE_SESSION_NOT_FOUND Retriable No;
    123 INVALID_SHARE_SESSION_EPOCH Retriable No;
    124 FENCED_STATE_EPOCH Unavailable No;
    125 INVALID_VOTER_KEY Unavailable No;
    126 DUPLICATE_VOTER Unavailable No;
    127 VOTER_NOT_FOUND Unavailable No;
    128 INVALID_REGULAR_EXPRESSION Unavailable No;
    129 REBOOTSTRAP_REQUIRED Retriable No;
    130 STREAMS_INVALID_TOPOLOGY Unavailable No;
    131 STREAMS_INVALID_TOPOLOGY_EPOCH Unavailable No;
    132 STREAMS_TOPOLOGY_FENCED Unavailable No;
    133 SHARE_SESSION_LIMIT_REACHED Retriable No;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_the_future_holds_the_batch_and_admits_doubt() {
        let future = ErrorCode(30_000);
        assert_eq!((future.class(), future.persisted()), (ErrorClass::Unavailable, Persisted::Maybe));
        assert_eq!(future.name(), "UNKNOWN_CODE");
    }

    #[test]
    fn the_table_is_without_gaps() {
        let codes: Vec<i16> = ErrorCode::ALL.iter().map(|code| code.0).collect();
        let expected: Vec<i16> = (-1..=133).filter(|code| *code != 0).collect();
        assert_eq!(codes, expected);
    }
}
