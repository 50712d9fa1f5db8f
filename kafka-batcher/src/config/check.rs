//! What cannot be, though each value alone could: limits and contradictions.

use kafka_batcher_core::partitioner::Strategy;
use kafka_batcher_core::{
    AccumulatorSettings, Codec, Compression, CompressionError, HEADER_LEN, MAX_CHUNK, MAX_UNCOMPRESSED,
    SpoolMode, SpoolSettings,
};

use super::mistake::{Mistake, SaslConfigError};
use super::table::{CollectorSettings, MetricsConfig, RDKAFKA, SaslConfig, Settings, SpoolConfig, SslConfig};
use super::units::duration_text;

/// What is to be known of a producer that stamps batches anew.
pub(crate) const AT_LEAST_ONCE: &str = "delivery is at-least-once with this producer, also with required_acks = -1: the numbers of \
                                        batches are not kept, and one in doubt is sent again and may be written twice; native writes \
                                        each once";

impl Settings {
    /// Every mistake in them, all at once.
    pub fn check(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mistake = |key: &str, message: String| Mistake::of(key, message);
        if self.endpoints.is_empty() {
            found.push(mistake(
                "endpoints",
                "no address given; one such as 127.0.0.1:9092 is needed".to_owned(),
            ));
        }
        for endpoint in &self.endpoints {
            if let Err(error) = crate::client::Endpoint::parse(endpoint) {
                found.push(mistake("endpoints", error.to_string()));
            }
        }
        if !(1..=5).contains(&self.max_in_flight) {
            let n = self.max_in_flight;
            found.push(mistake(
                "max_in_flight",
                format!("{n} is outside of 1 to 5: a broker recognises the last five batches of a producer"),
            ));
        }
        if self.retry_backoff > self.retry_backoff_max {
            let (first, most) = (duration_text(self.retry_backoff), duration_text(self.retry_backoff_max));
            let message = format!("{first} is longer than retry_backoff_max, {most}");
            found.push(Mistake::of("retry_backoff", message).against("retry_backoff_max"));
        }
        if self.retry_backoff.is_zero() {
            found.push(mistake(
                "retry_backoff",
                "0 would ask a failing broker without pause; the default is 100 ms".to_owned(),
            ));
        }
        if self.producer == RDKAFKA && !cfg!(feature = "rdkafka") {
            let message = "this build is without librdkafka: build with the feature rdkafka (cargo build --features rdkafka), or \
                           choose native";
            found.push(mistake("producer", message.to_owned()));
        }
        for (key, value) in
            [("request_timeout", self.request_timeout), ("connect_timeout", self.connect_timeout)]
        {
            if value.is_zero() {
                found.push(mistake(key, "0 leaves no time for an answer".to_owned()));
            }
        }
        found
    }

    /// What can be, and must be known.
    pub(super) fn warnings(&self) -> Vec<Mistake> {
        let told = (self.producer == RDKAFKA).then(|| Mistake::of("producer", AT_LEAST_ONCE.to_owned()));
        told.into_iter().collect()
    }

    /// The most bytes that one partition may hold: a quarter of the memory, but at least two batches.
    pub(crate) fn partition_cap(&self, collector: &CollectorSettings) -> usize {
        // A batch of large records may leave most of a chunk unused.
        (self.memory / 4).max(2 * collector.max_batch_bytesize + 2 * MAX_CHUNK).min(self.memory)
    }
}

impl CollectorSettings {
    /// Every mistake in them, all at once.
    pub fn check(&self, topic: &str, settings: &Settings) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mistake = |key: &str, message: String| Mistake::of(key, message).in_collector(topic);
        if let Some(message) = topic_name_mistake(topic) {
            found.push(mistake("topic_name", message));
        }
        if self.batch_size == 0 {
            found.push(mistake("batch_size", "0 would never hold an event; the least is 1".to_owned()));
        }
        let smallest = HEADER_LEN + 64;
        if self.max_batch_bytesize < smallest {
            let n = self.max_batch_bytesize;
            found.push(mistake(
                "max_batch_bytesize",
                format!("{n} bytes hardly hold a batch's header; the least is {smallest}"),
            ));
        }
        if self.max_batch_bytesize > settings.max_request_size {
            let (n, most) = (self.max_batch_bytesize, settings.max_request_size);
            let message = format!("{n} is more than max_request_size, {most}");
            found.push(mistake("max_batch_bytesize", message).against("max_request_size"));
        }
        let needed = 2 * self.max_batch_bytesize + 2 * MAX_CHUNK;
        if settings.memory < needed {
            let n = settings.memory;
            let message =
                format!("memory of {n} bytes does not hold two batches of this size ({needed} bytes)");
            found.push(mistake("max_batch_bytesize", message).against("memory"));
        }
        match self.codec() {
            Ok(compression) => {
                if compression.codec() != Codec::None && self.max_batch_bytesize > MAX_UNCOMPRESSED {
                    let n = self.max_batch_bytesize;
                    let message =
                        format!("{n} bytes are more than a compressed batch may hold, {MAX_UNCOMPRESSED}");
                    found.push(mistake("max_batch_bytesize", message).against("compression"));
                }
            }
            Err(error) => {
                let inherited = match error {
                    CompressionError::NoLevels { .. } => "; where one is inherited, say \"off\"",
                    _ => "",
                };
                found
                    .push(mistake("compression_level", format!("{error}{inherited}")).against("compression"));
            }
        }
        if let Some(timeout) = self.delivery_timeout.filter(|timeout| *timeout < settings.request_timeout) {
            let (timeout, least) = (duration_text(timeout), duration_text(settings.request_timeout));
            let message =
                format!("{timeout} is shorter than request_timeout, {least}: one attempt would not fit");
            found.push(mistake("delivery_timeout", message).against("request_timeout"));
        }
        if self.delivery_timeout.is_some_and(|timeout| timeout.is_zero()) {
            found.push(mistake(
                "delivery_timeout",
                "0 leaves no time; for no limit, leave it out or say \"off\"".to_owned(),
            ));
        }
        if self.adaptive_linger && !self.min_delay.is_zero() {
            let message =
                format!("true would send before min_delay, {}, is over", duration_text(self.min_delay));
            found.push(mistake("adaptive_linger", message).against("min_delay"));
        }
        if self.adaptive_linger && !self.collect_by_partition {
            let message =
                "true needs collect_by_partition: a topic that is collected as a whole is sealed as a whole";
            found.push(mistake("adaptive_linger", message.to_owned()).against("collect_by_partition"));
        }
        if ![-1, 0, 1].contains(&self.required_acks) {
            found.push(mistake("required_acks", format!("{} is none of -1, 0 and 1", self.required_acks)));
        }
        if self.enable_idempotence == Some(true) && self.required_acks != -1 {
            let acks = self.required_acks;
            let message = format!(
                "true needs required_acks = -1, not {acks}: a broker deduplicates only what all replicas have"
            );
            found.push(mistake("enable_idempotence", message).against("required_acks"));
        }
        found
    }

    /// What can be, and is hardly meant.
    pub(crate) fn warnings(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        if self.min_delay > self.max_wait_time {
            let (delay, wait) = (duration_text(self.min_delay), duration_text(self.max_wait_time));
            let message = format!("{delay} is longer than max_wait_time, {wait}, and so does nothing");
            found.push(Mistake::of("min_delay", message));
        }
        if self.partition_fn.is_some() && self.partition_strategy != Strategy::default() {
            let message = "partition_fn takes its place, so this does nothing".to_owned();
            found.push(Mistake::of("partition_strategy", message));
        }
        found
    }

    /// Whether batches are stamped.
    pub fn idempotent(&self) -> bool {
        self.enable_idempotence.unwrap_or(self.required_acks == -1)
    }

    /// How batches are compressed.
    ///
    /// # Errors
    /// The codec has no such level.
    pub(crate) fn codec(&self) -> Result<Compression, CompressionError> {
        Compression::new(self.compression, self.compression_level)
    }

    pub(crate) fn accumulator(&self) -> AccumulatorSettings {
        AccumulatorSettings {
            batch_size: self.batch_size,
            max_batch_bytesize: self.max_batch_bytesize,
            max_wait_time: self.max_wait_time,
            min_delay: self.min_delay,
        }
    }
}

impl MetricsConfig {
    /// Every mistake in them, all at once.
    pub(crate) fn check(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mistake = |key: &str, message: String| Mistake::of(key, message).in_table("metrics");
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !self.prefix.starts_with(|c: char| c.is_ascii_alphabetic()) || !self.prefix.chars().all(legal) {
            let prefix = &self.prefix;
            let message = format!(
                "{prefix:?} cannot begin a metric's name: a letter, then letters, digits and '_'; the default is kafka_batcher"
            );
            found.push(mistake("prefix", message));
        }
        if let Some(message) = self.producer_buckets.mistake() {
            found.push(mistake("producer_buckets", message));
        }
        found
    }
}

impl SpoolConfig {
    /// Every mistake in them, all at once; `own_storage`: a program brings its own, so that no directory is needed.
    pub(crate) fn check(&self, own_storage: bool) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mistake = |key: &str, message: &str| Mistake::of(key, message.to_owned()).in_spool();
        let somewhere = own_storage || self.storage.is_some() || self.dir.is_some();
        if self.mode == Some(SpoolMode::Always) && !somewhere {
            found.push(mistake("mode", "\"always\" needs a place to write to: give a dir"));
        }
        if self.storage.is_some() && self.dir.is_some() {
            found.push(mistake("storage", "a directory is given, too: one of storage and dir must go"));
        }
        if self.replay_rate == Some(0) {
            found.push(mistake(
                "replay_rate",
                "0 would never send what the spool holds; unset (\"off\") is without a bound",
            ));
        }
        if self.max_bytes == 0 {
            found.push(mistake("max_bytes", "0 would hold nothing; for no spool, say mode = \"off\""));
        }
        if self.spool_after.is_zero() {
            found.push(mistake(
                "spool_after",
                "0 would call every moment of waiting an outage; to have everything on disk, say mode = \"always\"",
            ));
        }
        if self.max_age.is_some_and(|age| age.is_zero()) {
            found.push(mistake(
                "max_age",
                "0 would drop everything at once; for no limit, leave it out or say \"off\"",
            ));
        }
        found
    }

    /// How the outboxes use it.
    pub(crate) fn core(&self) -> SpoolSettings {
        let mut spool = SpoolSettings::new(self.mode.unwrap_or(SpoolMode::OnFailure), self.spool_after);
        spool.max_age = self.max_age;
        spool.on_full = self.on_full;
        spool.replay_expired = self.replay_expired;
        spool.other_cluster = self.replay_to_other_cluster;
        spool
    }
}

impl SslConfig {
    /// Whether TLS is spoken.
    pub fn is_on(&self) -> bool {
        self.enabled.unwrap_or(*self != Self::default())
    }

    /// Every mistake in them, all at once. Reads the files.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.is_on() {
            crate::client::check_tls(self, &mut |key, message| {
                mistakes.push(Mistake::of(key, message).in_table("ssl"))
            });
        }
        mistakes
    }
}

impl SaslConfig {
    /// Whether SASL is spoken.
    pub fn is_on(&self) -> bool {
        self.enabled.unwrap_or(*self != Self::default())
    }

    /// Looks for mistakes in them, beside what is said of TLS. Reads the files that hold secrets, and forgets them.
    ///
    /// # Errors
    /// Every mistake, all at once.
    pub fn check(&self, ssl: &SslConfig) -> Result<(), SaslConfigError> {
        let mut found = Vec::new();
        if self.is_on() {
            crate::client::check_sasl(self, ssl.is_on(), &mut |key, message| {
                found.push(Mistake::of(key, message).in_table("sasl"));
            });
        }
        if found.is_empty() { Ok(()) } else { Err(SaslConfigError(found)) }
    }
}

/// What is wrong with a topic's name (Kafka's `Topic.validate`).
fn topic_name_mistake(topic: &str) -> Option<String> {
    let bad = topic.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
    if topic.is_empty() {
        Some("the name is empty".to_owned())
    } else if topic == "." || topic == ".." {
        Some(format!("{topic:?} is no name for a topic"))
    } else if topic.len() > 249 {
        Some(format!("the name is {} characters long; Kafka allows 249", topic.len()))
    } else {
        bad.map(|c| format!("{topic:?} has {c:?} in it; Kafka allows letters, digits, '.', '_' and '-'"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings() -> Settings {
        Settings { endpoints: vec!["127.0.0.1:9092".to_owned()], ..Settings::default() }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let bad = Settings { max_in_flight: 6, retry_backoff: Duration::from_secs(9), ..Settings::default() };
        let keys: Vec<_> = bad.check().into_iter().map(|m| m.key).collect();
        assert_eq!(keys, ["endpoints", "max_in_flight", "retry_backoff"]);
        let bad = CollectorSettings {
            batch_size: 0,
            required_acks: 1,
            enable_idempotence: Some(true),
            max_batch_bytesize: 100 << 20,
            ..CollectorSettings::default()
        };
        let keys: Vec<_> = bad.check("no spaces", &settings()).into_iter().map(|m| m.key).collect();
        assert_eq!(
            keys,
            ["topic_name", "batch_size", "max_batch_bytesize", "max_batch_bytesize", "enable_idempotence"]
        );
    }

    #[test]
    fn acks_decide_about_idempotence_where_nothing_is_said() {
        let with = |required_acks| CollectorSettings { required_acks, ..CollectorSettings::default() };
        assert!(with(-1).idempotent() && !with(1).idempotent() && !with(0).idempotent());
    }

    #[test]
    fn a_level_that_the_codec_does_not_have_and_a_batch_that_could_not_be_read_back_are_mistakes() {
        let with = |compression, level| CollectorSettings {
            compression,
            compression_level: level,
            ..CollectorSettings::default()
        };
        for (codec, level, words) in [
            (Codec::None, 1, "say \"off\""),
            (Codec::Snappy, 1, "has no levels"),
            (Codec::Lz4, 9, "has no levels"),
            (Codec::Gzip, 0, "it has 1 to 9"),
            (Codec::Zstd, 23, "it has -131072 to 22"),
        ] {
            let found = with(codec, Some(level)).check("t", &settings());
            assert!(found.len() == 1 && found[0].key == "compression_level", "{codec}: {found:?}");
            assert!(found[0].message.contains(words), "{}", found[0].message);
        }
        for (codec, level) in
            [(Codec::None, None), (Codec::Lz4, None), (Codec::Zstd, Some(-5)), (Codec::Gzip, Some(9))]
        {
            assert!(with(codec, level).check("t", &settings()).is_empty(), "{codec}");
        }
        let large = Settings { memory: 1 << 30, max_request_size: 200 << 20, ..settings() };
        let mut huge = with(Codec::Zstd, None);
        huge.max_batch_bytesize = 65 << 20;
        assert_eq!(
            huge.check("t", &large).into_iter().map(|m| m.key).collect::<Vec<_>>(),
            ["max_batch_bytesize"]
        );
    }

    #[test]
    fn topic_names_are_kafkas() {
        for good in ["a", "a.b_c-D9", &"x".repeat(249)] {
            assert_eq!(topic_name_mistake(good), None, "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(topic_name_mistake(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_partition_may_hold_at_least_two_batches() {
        let small = Settings { memory: 3 << 20, ..settings() };
        assert!(small.partition_cap(&CollectorSettings::default()) >= 2_000_000);
    }
}
