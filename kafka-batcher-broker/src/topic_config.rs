//! The settings of a topic that change what this broker does, and the names of those that it only keeps.
//!
//! A name that Kafka does not know is refused, as Kafka refuses it (40 `INVALID_CONFIG`); one that Kafka knows and that means nothing here is
//! kept and shown by DescribeConfigs.

use std::collections::BTreeMap;

/// Who gives a record its time (`message.timestamp.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// What the broker itself was told, and what a topic takes where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicConfig {
    /// As they were given, for DescribeConfigs.
    given: BTreeMap<String, String>,
    pub(crate) max_message_bytes: usize,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) timestamp_before_max_ms: i64,
    pub(crate) timestamp_after_max_ms: i64,
    pub(crate) retention_ms: i64,
    pub(crate) min_insync_replicas: usize,
    pub(crate) compacted: bool,
}

/// Kafka's own default of `message.max.bytes`: 1 MiB and the 12 bytes before the length's end.
pub(crate) const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

/// Names that Kafka knows and that change nothing here, with the value DescribeConfigs shows.
const KEPT: &[(&str, &str)] = &[
    ("compression.type", "producer"),
    ("delete.retention.ms", "86400000"),
    ("file.delete.delay.ms", "60000"),
    ("flush.messages", "9223372036854775807"),
    ("flush.ms", "9223372036854775807"),
    ("index.interval.bytes", "4096"),
    ("max.compaction.lag.ms", "9223372036854775807"),
    ("min.cleanable.dirty.ratio", "0.5"),
    ("min.compaction.lag.ms", "0"),
    ("preallocate", "false"),
    ("retention.bytes", "-1"),
    ("segment.bytes", "1073741824"),
    ("segment.index.bytes", "10485760"),
    ("segment.jitter.ms", "0"),
    ("segment.ms", "604800000"),
    ("unclean.leader.election.enable", "false"),
];

impl TopicConfig {
    pub(crate) fn new(max_message_bytes: usize) -> Self {
        Self {
            given: BTreeMap::new(),
            max_message_bytes,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            // Kafka 4: an hour (KIP-937).
            timestamp_after_max_ms: 3_600_000,
            // Kafka: seven days.
            retention_ms: 604_800_000,
            min_insync_replicas: 1,
            compacted: false,
        }
    }

    /// Sets one value by Kafka's name of it.
    ///
    /// # Errors
    /// What is wrong with the name or the value.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
            value
                .trim()
                .parse()
                .map_err(|_| format!("invalid value {value} for configuration {name}: not a number"))
        }
        match name {
            "max.message.bytes" => self.max_message_bytes = number(name, value)?,
            "message.timestamp.before.max.ms" => self.timestamp_before_max_ms = number(name, value)?,
            "message.timestamp.after.max.ms" => self.timestamp_after_max_ms = number(name, value)?,
            "retention.ms" => self.retention_ms = number(name, value)?,
            "min.insync.replicas" => self.min_insync_replicas = number(name, value)?,
            "message.timestamp.type" => {
                self.timestamp_type = match value {
                    "CreateTime" => TimestampType::CreateTime,
                    "LogAppendTime" => TimestampType::LogAppendTime,
                    other => {
                        return Err(format!(
                            "invalid value {other} for configuration {name}: CreateTime or LogAppendTime"
                        ));
                    }
                };
            }
            "cleanup.policy" => {
                if value.split(',').any(|policy| !matches!(policy.trim(), "delete" | "compact")) {
                    return Err(format!(
                        "invalid value {value} for configuration {name}: compact, delete or both"
                    ));
                }
                self.compacted = value.split(',').any(|policy| policy.trim() == "compact");
            }
            other if KEPT.iter().any(|(kept, _)| *kept == other) => {}
            other => return Err(format!("unknown topic config name: {other}")),
        }
        self.given.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Every name with its value, and whether it was given or is the default.
    pub(crate) fn entries(&self) -> Vec<(&'static str, String, bool)> {
        let timestamp_type = match self.timestamp_type {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        };
        let mut entries = vec![
            ("cleanup.policy", if self.compacted { "compact" } else { "delete" }.to_owned()),
            ("max.message.bytes", self.max_message_bytes.to_string()),
            ("message.timestamp.after.max.ms", self.timestamp_after_max_ms.to_string()),
            ("message.timestamp.before.max.ms", self.timestamp_before_max_ms.to_string()),
            ("message.timestamp.type", timestamp_type.to_owned()),
            ("min.insync.replicas", self.min_insync_replicas.to_string()),
            ("retention.ms", self.retention_ms.to_string()),
        ];
        entries.extend(KEPT.iter().map(|(name, default)| (*name, (*default).to_owned())));
        entries.sort_by_key(|(name, _)| *name);
        entries
            .into_iter()
            .map(|(name, default)| match self.given.get(name) {
                Some(given) => (name, given.clone(), true),
                None => (name, default, false),
            })
            .collect()
    }
}

/// Whether Kafka would take `name` for a topic: 1 to 249 of `[a-zA-Z0-9._-]`, and neither `.` nor `..`.
pub(crate) fn is_valid_topic_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= 249
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_kafka_does_not_know_is_refused_and_one_that_means_nothing_here_is_kept() {
        let mut config = TopicConfig::new(DEFAULT_MAX_MESSAGE_BYTES);
        assert!(config.set("no.such.setting", "1").is_err());
        assert!(config.set("retention.ms", "soon").is_err());
        config.set("segment.bytes", "100").unwrap();
        config.set("retention.ms", "5").unwrap();
        assert_eq!(config.retention_ms, 5);
        let entries = config.entries();
        assert!(entries.contains(&("segment.bytes", "100".to_owned(), true)));
        assert!(entries.contains(&("flush.ms", "9223372036854775807".to_owned(), false)));
    }

    #[test]
    fn topic_names_are_judged_as_kafka_does() {
        for good in ["a", "flights", "a.b_c-D9", &"x".repeat(249)] {
            assert!(is_valid_topic_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(!is_valid_topic_name(bad), "{bad}");
        }
    }
}
