//! Our settings in librdkafka's words.
//!
//! Limits are rounded into the ranges that librdkafka has for them. What it cannot do is a mistake, and so is a property that the
//! answers given here depend on.

use std::time::Duration;

use kafka_batcher_core::{Compression, MAX_UNCOMPRESSED};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use super::context::{Context, Shared};
use crate::client::{ClientSettings, ClientSettingsError, Endpoint, SaslMechanism, password_now};
use crate::secret::scrubbed;

/// How long librdkafka waits for more events before it makes a request of what it has. A batch is handed over event by event:
/// with 0 it goes out in as many pieces as the network is quick. Measured with events of 200 bytes, unoptimized, on two busy cores:
/// 20 batches of 1 000 events went out in 33 pieces with 0 ms, in 36 with 1 ms, in 20 with 5 ms; 5 batches of 5 000 events in 18, 10
/// and 11. Too short costs requests, too long costs so much latency for each batch.
const LINGER_MS: u64 = 5;

/// The most events that librdkafka puts into one batch: all that it allows.
const BATCH_EVENTS: u32 = 1_000_000;

/// What a property would take away, and where it is said instead.
const RESERVED: [(&str, &str); 15] = [
    ("bootstrap.servers", "the addresses are this producer's settings"),
    ("metadata.broker.list", "the addresses are this producer's settings"),
    ("acks", "it follows each request: see required_acks"),
    ("request.required.acks", "it follows each request: see required_acks"),
    ("enable.idempotence", "it follows each request: see required_acks"),
    ("max.in.flight", "it follows each request: see required_acks"),
    ("max.in.flight.requests.per.connection", "it follows each request: see required_acks"),
    ("message.send.max.retries", "it follows each request: see required_acks"),
    ("retries", "it follows each request: see required_acks"),
    ("message.timeout.ms", "it is request_timeout"),
    ("delivery.timeout.ms", "it is request_timeout"),
    ("delivery.report.only.error", "every batch is answered"),
    ("allow.auto.create.topics", "it is allow_topic_auto_creation"),
    ("transactional.id", "this producer has no transactions"),
    ("queuing.strategy", "events stay in order"),
];

/// What one handle of librdkafka is for: it has these for all that goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purpose {
    pub(super) acks: i16,
    pub(super) compression: Compression,
}

/// The settings, and what was set besides.
#[derive(Clone)]
pub(super) struct Properties {
    pub(super) settings: ClientSettings,
    bootstrap: Vec<Endpoint>,
    own: Vec<(String, String)>,
}

impl Properties {
    /// # Errors
    /// Every setting that cannot be, or that librdkafka cannot do, all at once.
    pub(super) fn new(settings: ClientSettings) -> Result<Self, ClientSettingsError> {
        let checked = settings.check();
        let mut mistakes = checked.as_ref().err().map_or_else(Vec::new, |error| error.mistakes.clone());
        mistakes.extend(beyond_librdkafka(&settings));
        match checked {
            Ok(bootstrap) if mistakes.is_empty() => {
                let properties = Properties { settings, bootstrap, own: Vec::new() };
                properties.check()?;
                Ok(properties)
            }
            _ => Err(ClientSettingsError { mistakes }),
        }
    }

    /// # Errors
    /// The property is not librdkafka's, or cannot have this value.
    pub(super) fn with(mut self, name: &str, value: &str) -> Result<Self, ClientSettingsError> {
        if let Some((_, instead)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            return Err(mistake(format!("{name}: not to be set here; {instead}")));
        }
        self.own.retain(|(known, _)| known != name);
        self.own.push((name.to_owned(), value.to_owned()));
        self.check()?;
        Ok(self)
    }

    /// The names of what was set besides.
    pub(super) fn own_names(&self) -> Vec<&str> {
        self.own.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Where the cluster is looked for, for messages.
    pub(super) fn addresses(&self) -> String {
        self.bootstrap.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(",")
    }

    /// Has librdkafka look at all of it: it makes a handle, and connects to nothing.
    fn check(&self) -> Result<(), ClientSettingsError> {
        let (config, secrets) = self.config().map_err(mistake)?;
        let context = Context::new(Shared::new(secrets.clone()));
        let made: Result<BaseProducer<Context>, _> = BaseProducer::from_config_and_context(&config, context);
        made.map(drop).map_err(|error| mistake(words(&error, &secrets)))
    }

    /// What every handle has, with the secrets in it. Reads the password: a handle has the one of its birth.
    ///
    /// # Errors
    /// There is no password to be had, in words.
    pub(super) fn config(&self) -> Result<(ClientConfig, Vec<String>), String> {
        let settings = &self.settings;
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        let mut secrets = Vec::new();
        let mut set = |name: &str, value: String| {
            config.set(name, value);
        };
        set("bootstrap.servers", self.addresses());
        set("client.id", settings.client_id.clone());
        set("allow.auto.create.topics", "false".to_owned());
        let timeout = settings.request_timeout;
        set("message.timeout.ms", millis(timeout, 1, i32::MAX as u64));
        set("request.timeout.ms", millis(timeout, 1, 900_000));
        set("socket.timeout.ms", millis(timeout, 10, 300_000));
        set("socket.connection.setup.timeout.ms", millis(settings.connect_timeout, 1_000, i32::MAX as u64));
        for prefix in ["reconnect", "retry"] {
            set(&format!("{prefix}.backoff.ms"), millis(settings.retry_backoff, 1, 300_000));
            set(&format!("{prefix}.backoff.max.ms"), millis(settings.retry_backoff_max, 1, 300_000));
        }
        set("topic.metadata.refresh.interval.ms", millis(settings.metadata_max_age, 10, 3_600_000));
        // It must be less than the whole time that an event has.
        let linger = LINGER_MS.min(timeout.as_millis().saturating_sub(1) as u64);
        set("linger.ms", linger.to_string());
        set("batch.num.messages", BATCH_EVENTS.to_string());
        set("batch.size", settings.max_request_size.to_string());
        // What a compressed batch holds may be more than a request: it goes out in several then, compressed again.
        set("message.max.bytes", settings.max_request_size.max(MAX_UNCOMPRESSED).to_string());
        // The bound on memory is ours, and what it let in must not be refused here.
        set("queue.buffering.max.messages", "0".to_owned());
        set("queue.buffering.max.kbytes", i32::MAX.to_string());
        let (ssl, sasl) = (&settings.ssl, &settings.sasl);
        let protocol = match (ssl.is_on(), sasl.is_on()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        set("security.protocol", protocol.to_owned());
        if ssl.is_on() {
            let files = [
                ("ssl.ca.location", &ssl.ca_file),
                ("ssl.certificate.location", &ssl.certificate_file),
                ("ssl.key.location", &ssl.key_file),
            ];
            for (name, path) in files {
                if let Some(path) = path {
                    set(name, path.to_string_lossy().into_owned());
                }
            }
        }
        if let (true, Some(mechanism)) = (sasl.is_on(), sasl.mechanism) {
            let password = password_now(sasl)?;
            set("sasl.mechanism", mechanism.name().to_owned());
            set("sasl.username", sasl.login.clone().unwrap_or_default());
            set("sasl.password", password.expose().to_owned());
            secrets.push(password.expose().to_owned());
        }
        for (name, value) in &self.own {
            set(name, value.clone());
            if ["password", "secret", "pem", "jaas"].iter().any(|word| name.contains(word)) {
                secrets.push(value.clone());
            }
        }
        Ok((config, secrets))
    }

    /// The same for batches that are sent like this.
    pub(super) fn config_for(&self, purpose: Purpose) -> Result<(ClientConfig, Vec<String>), String> {
        let (mut config, secrets) = self.config()?;
        let Purpose { acks, compression } = purpose;
        let mut set = |name: &str, value: String| {
            // Whoever set it knows why.
            if !self.own.iter().any(|(own, _)| own == name) {
                config.set(name, value);
            }
        };
        set("acks", acks.to_string());
        match acks {
            // It numbers its messages itself, so that what it sends again by itself is written once, and in order.
            -1 => set("enable.idempotence", "true".to_owned()),
            _ => {
                set("max.in.flight", "1".to_owned());
                // Each refusal is answered, and the pause is the outbox's.
                set("message.send.max.retries", "0".to_owned());
            }
        }
        set("compression.codec", compression.codec().to_string());
        if let Some(level) = compression.level() {
            set("compression.level", level.clamp(1, 12).to_string());
        }
        Ok((config, secrets))
    }
}

/// What the native client does and librdkafka does not.
fn beyond_librdkafka(settings: &ClientSettings) -> Vec<String> {
    let mut mistakes = Vec::new();
    if settings.ssl.is_on() && settings.ssl.server_name.is_some() {
        mistakes.push(
            "ssl.server_name: librdkafka knows no other name for the brokers than that in their addresses; leave it out, or \
             choose the native producer"
                .to_owned(),
        );
    }
    if settings.sasl.is_on() && settings.sasl.mechanism == Some(SaslMechanism::OauthBearer) {
        mistakes.push(
            "sasl.mechanism: tokens (oauthbearer) are not handed to librdkafka; choose scram_sha_512 or plain, or the native \
             producer"
                .to_owned(),
        );
    }
    mistakes
}

fn mistake(message: String) -> ClientSettingsError {
    ClientSettingsError { mistakes: vec![message] }
}

fn millis(duration: Duration, least: u64, most: u64) -> String {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(least, most).to_string()
}

/// Librdkafka's words without the value, which may be a secret.
pub(super) fn words(error: &KafkaError, secrets: &[String]) -> String {
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    match error {
        KafkaError::ClientConfig(_, words, name, value) => {
            let hidden = [secrets.as_slice(), &[value.as_str()]].concat();
            let words =
                if secrets.contains(&value.as_str()) { scrubbed(words, &hidden) } else { words.clone() };
            format!("{name}: librdkafka does not take it: {words}")
        }
        KafkaError::ClientCreation(words) => format!("librdkafka: {}", scrubbed(words, &secrets)),
        error => format!("librdkafka: {}", scrubbed(&error.to_string(), &secrets)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_batcher_core::Codec;

    fn settings() -> ClientSettings {
        ClientSettings::new(["127.0.0.1:9092", "[::1]:9093"])
    }

    fn said<T>(result: Result<T, ClientSettingsError>) -> String {
        result.err().expect("a mistake").to_string()
    }

    #[test]
    fn a_property_of_librdkafkas_is_set_and_one_that_is_not_is_named() {
        let properties = Properties::new(settings()).unwrap().with("statistics.interval.ms", "0").unwrap();
        assert_eq!(properties.config().unwrap().0.get("statistics.interval.ms"), Some("0"));
        for (name, value, words) in [
            ("no.such.property", "1", "no.such.property: librdkafka does not take it"),
            ("socket.keepalive.enable", "perhaps", "socket.keepalive.enable: librdkafka does not take it"),
            ("acks", "1", "acks: not to be set here; it follows each request: see required_acks"),
            ("linger.ms", "60000", "linger.ms"),
        ] {
            let error = said(Properties::new(settings()).unwrap().with(name, value));
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_secret_is_not_in_the_words_of_what_librdkafka_refuses() {
        let with = |name: &str| said(Properties::new(settings()).unwrap().with(name, "hunter2"));
        for name in ["ssl.key.pem", "ssl.keystore.password"] {
            if let Err(error) = Properties::new(settings()).unwrap().with(name, "hunter2") {
                assert!(!error.to_string().contains("hunter2"), "{error}");
            }
        }
        let error = with("no.such.password");
        assert!(error.contains("no.such.password") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_librdkafka_cannot_do_is_a_mistake_and_not_left_out() {
        let mut settings = settings();
        settings.ssl.server_name = Some("kafka.example.org".to_owned());
        settings.sasl.mechanism = Some(SaslMechanism::OauthBearer);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "token").unwrap();
        settings.sasl.token_file = Some(file.path().to_owned());
        let error = said(Properties::new(settings));
        assert!(error.contains("ssl.server_name: librdkafka knows no other name"), "{error}");
        assert!(error.contains("sasl.mechanism: tokens (oauthbearer)"), "{error}");
    }

    #[test]
    fn the_password_is_read_where_it_is_kept_when_a_handle_is_made() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first\n").unwrap();
        let mut settings = settings();
        settings.sasl.mechanism = Some(SaslMechanism::ScramSha512);
        settings.sasl.login = Some("me".to_owned());
        settings.sasl.password_file = Some(file.path().to_owned());
        let properties = Properties::new(settings).unwrap();
        for (held, read) in [("first\n", "first"), ("second", "second")] {
            std::fs::write(file.path(), held).unwrap();
            let (config, secrets) = properties.config().unwrap();
            assert_eq!(
                (config.get("sasl.password"), secrets.as_slice()),
                (Some(read), &[read.to_owned()][..])
            );
            assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
        }
        std::fs::write(file.path(), "").unwrap();
        assert!(properties.config().unwrap_err().contains("is empty"));
    }

    #[test]
    fn only_what_all_replicas_must_have_is_numbered_and_the_rest_is_sent_once_one_after_the_other() {
        let properties = Properties::new(settings()).unwrap();
        let config = |acks, codec, level| {
            let compression = Compression::new(codec, level).unwrap();
            properties.config_for(Purpose { acks, compression }).unwrap().0
        };
        let all = config(-1, Codec::Zstd, Some(22));
        assert_eq!((all.get("enable.idempotence"), all.get("compression.level")), (Some("true"), Some("12")));
        let one = config(1, Codec::Lz4, None);
        assert_eq!((one.get("enable.idempotence"), one.get("max.in.flight")), (None, Some("1")));
        assert_eq!((one.get("message.send.max.retries"), one.get("acks")), (Some("0"), Some("1")));
        assert_eq!((one.get("compression.codec"), one.get("compression.level")), (Some("lz4"), None));
    }

    #[test]
    fn settings_beyond_librdkafkas_ranges_are_rounded_into_them() {
        let mut extreme = settings();
        (extreme.request_timeout, extreme.connect_timeout) =
            (Duration::from_millis(3), Duration::from_millis(1));
        extreme.metadata_max_age = Duration::from_secs(1 << 40);
        (extreme.retry_backoff, extreme.retry_backoff_max) = (Duration::from_nanos(1), Duration::MAX);
        extreme.max_request_size = 100 << 20;
        Properties::new(extreme).unwrap();
    }
}
