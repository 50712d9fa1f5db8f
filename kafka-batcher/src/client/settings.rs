//! What can be set about the client. The names and defaults are those of [`Settings`](crate::Settings), where there are
//! such; this struct is for who uses [`NativeProducer`](crate::producer::native::NativeProducer) by itself.

use std::sync::Arc;
use std::time::Duration;

use super::{Endpoint, TokenProvider};
use crate::config::{SaslConfig, SslConfig};

/// The settings of a [`NativeProducer`](crate::producer::native::NativeProducer).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientSettings {
    /// Addresses to find the cluster by, as [`Endpoint::parse`] reads them. Required. Any one that answers is enough;
    /// they are all tried again when every known broker is gone.
    pub bootstrap: Vec<String>,
    /// The name by which brokers know this client, in their logs and quotas. Default: `kafka-batcher`.
    pub client_id: String,
    /// How long a broker may take to answer a request, from the moment its first byte is written. When it is over the
    /// connection is closed and everything in flight on it is answered as lost. Default: 30 s.
    pub request_timeout: Duration,
    /// How long each step to one address may take: to resolve its name, to connect, to agree upon TLS, to say which
    /// versions it speaks, to log in. Default: 10 s.
    pub connect_timeout: Duration,
    /// How old metadata may become before it is asked for again without a reason. Default: 5 min.
    pub metadata_max_age: Duration,
    /// The first pause between two attempts (sending a batch, asking for metadata); it doubles up to
    /// `retry_backoff_max`. Between two attempts to connect to a broker it is half as long. Default: 100 ms.
    pub retry_backoff: Duration,
    /// The longest pause between two attempts. Default: 5 s.
    pub retry_backoff_max: Duration,
    /// The most one Produce request may hold, framing included, in bytes; what is more goes out in several requests.
    /// Must not exceed the broker's `socket.request.max.bytes` (100 MiB). Default: 8 MiB.
    pub max_request_size: usize,
    /// TLS; off unless something of it is set.
    pub ssl: SslConfig,
    /// Who this client is to the brokers; unset: nobody in particular.
    pub sasl: SaslConfig,
    /// Gives the tokens where `sasl.token_provider` is set, whatever its name.
    pub token_provider: Option<Arc<dyn TokenProvider>>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        ClientSettings {
            bootstrap: Vec::new(),
            client_id: "kafka-batcher".to_owned(),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            metadata_max_age: Duration::from_secs(300),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(5),
            max_request_size: 8 << 20,
            ssl: SslConfig::default(),
            sasl: SaslConfig::default(),
            token_provider: None,
        }
    }
}

/// The largest request that any setting allows: what a broker accepts by default (`socket.request.max.bytes`).
const LARGEST_REQUEST: usize = 100 << 20;
/// Below this not even one small event fits beside the framing.
const SMALLEST_REQUEST: usize = 1024;

impl ClientSettings {
    /// The defaults, with these addresses.
    pub fn new<S: Into<String>>(bootstrap: impl IntoIterator<Item = S>) -> Self {
        ClientSettings { bootstrap: bootstrap.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Reads the addresses and checks the rest, the files that are named included.
    ///
    /// # Errors
    /// Every mistake, all at once.
    pub fn check(&self) -> Result<Vec<Endpoint>, ClientSettingsError> {
        let mut mistakes = Vec::new();
        let mut endpoints = Vec::new();
        if self.bootstrap.is_empty() {
            mistakes.push("bootstrap: no address given; one such as 127.0.0.1:9092 is needed".to_owned());
        }
        for given in &self.bootstrap {
            match Endpoint::parse(given) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => mistakes.push(format!("bootstrap: {error}")),
            }
        }
        for (name, value) in [
            ("request_timeout", self.request_timeout),
            ("connect_timeout", self.connect_timeout),
            ("metadata_max_age", self.metadata_max_age),
            ("retry_backoff", self.retry_backoff),
        ] {
            if value.is_zero() {
                mistakes.push(format!("{name}: 0 is not possible; give at least 1 ms"));
            }
        }
        if self.retry_backoff > self.retry_backoff_max {
            let (first, most) = (self.retry_backoff, self.retry_backoff_max);
            mistakes.push(format!("retry_backoff: {first:?} is longer than retry_backoff_max, {most:?}"));
        }
        if !(SMALLEST_REQUEST..=LARGEST_REQUEST).contains(&self.max_request_size) {
            let given = self.max_request_size;
            mistakes.push(format!(
                "max_request_size: {given} bytes is outside of {SMALLEST_REQUEST} to {LARGEST_REQUEST} bytes"
            ));
        }
        if self.client_id.len() > 1000 {
            mistakes.push(format!("client_id: {} bytes is too long; at most 1000", self.client_id.len()));
        }
        let sasl = self.sasl.check(&self.ssl).err().map_or_else(Vec::new, |error| error.0);
        mistakes.extend(self.ssl.check().iter().chain(&sasl).map(ToString::to_string));
        if self.sasl.token_provider.is_some() && self.token_provider.is_none() {
            mistakes.push("sasl.token_provider: there is none in these settings".to_owned());
        }
        match mistakes.is_empty() {
            true => Ok(endpoints),
            false => Err(ClientSettingsError { mistakes }),
        }
    }
}

/// Settings that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .mistakes.join("; "))]
pub struct ClientSettingsError {
    /// Each mistake: which setting, what is wrong, what would be right.
    pub mistakes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_named_at_once() {
        let settings = ClientSettings {
            request_timeout: Duration::ZERO,
            max_request_size: 10,
            ..ClientSettings::new(["ok:9092", "bad:port", "[x]"])
        };
        let said = settings.check().unwrap_err();
        assert_eq!(said.mistakes.len(), 4, "{said}");
        for part in ["\"bad:port\"", "\"[x]\"", "request_timeout", "max_request_size: 10 bytes"] {
            assert!(said.to_string().contains(part), "{said}");
        }
        assert!(ClientSettings::default().check().unwrap_err().to_string().contains("no address given"));
    }

    #[test]
    fn the_defaults_are_right_once_there_is_an_address() {
        assert_eq!(ClientSettings::new(["a", "b:1"]).check().unwrap().len(), 2);
    }
}
