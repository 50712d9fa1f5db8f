//! SASL: proving to a broker who this client is (KIP-43, KIP-152), and proving it again in time (KIP-368).
//!
//! [`Sasl`] knows the settings and reads the secrets, anew for each attempt, so that a new password in a file is used without a
//! restart. An [`Exchange`] is one attempt: requests out, answers in, no I/O; a new connection drives it over its stream, an
//! established one between its other requests.
//!
//! Promises: no error holds a secret. A broker that does not know the password itself is found out where the mechanism can
//! (SCRAM). Login and password go out as they are given, in UTF-8: Kafka prepares neither (no SASLprep), and a client that did would
//! send another password than the one that Kafka has.

mod bearer;
mod scram;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_batcher_core::ErrorCode;
use kafka_batcher_core::wire::{
    Api, ApiVersions, WireError, read_sasl_authenticate, read_sasl_handshake, sasl_authenticate_request,
    sasl_handshake_request,
};

use self::bearer::Tokens;
pub use self::bearer::{Token, TokenProvider};
use self::scram::{Hash, Scram};
use crate::config::{SaslConfig, SslConfig};
use crate::secret::{Secret, scrubbed};

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaslMechanism {
    /// Name and password, sent as they are (RFC 4616).
    Plain,
    /// Proofs of the password both ways, with SHA-256 (RFC 7677).
    ScramSha256,
    /// The same with SHA-512.
    ScramSha512,
    /// A token that somebody else gave (RFC 7628).
    OauthBearer,
}

impl SaslMechanism {
    const ALL: [SaslMechanism; 4] = [Self::Plain, Self::ScramSha256, Self::ScramSha512, Self::OauthBearer];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
            SaslMechanism::OauthBearer => "OAUTHBEARER",
        }
    }

    /// All that there are, for messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(|mechanism| mechanism.to_string()).join(", ")
    }
}

impl fmt::Display for SaslMechanism {
    /// The name in a configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_ascii_lowercase().replace('-', "_"))
    }
}

impl FromStr for SaslMechanism {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let plain = text.replace('_', "-");
        Self::ALL.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(&plain)).ok_or(())
    }
}

/// Why a broker does not let this client in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SaslError {
    /// The broker's code, if it spoke.
    pub(crate) code: Option<ErrorCode>,
    pub(crate) message: String,
}

impl SaslError {
    fn ours(message: String) -> Self {
        SaslError { code: None, message }
    }
}

impl fmt::Display for SaslError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<WireError> for SaslError {
    fn from(error: WireError) -> Self {
        SaslError::ours(format!(
            "the broker's answer to the login cannot be read ({error}); is it a Kafka broker?"
        ))
    }
}

/// PLAIN separates login and password by it.
const NUL: &str = "it holds a NUL character, which cannot be sent";

/// Where a secret is to be found.
struct Place<'a> {
    value: &'a Option<Secret>,
    file: &'a Option<PathBuf>,
    env: &'a Option<String>,
}

impl Place<'_> {
    fn count(&self) -> usize {
        usize::from(self.value.is_some()) + usize::from(self.file.is_some()) + usize::from(self.env.is_some())
    }

    /// Looks for mistakes; `key` is the setting's own name, `who` needs the secret.
    fn check(&self, key: &'static str, who: &str, tell: &mut dyn FnMut(&'static str, String)) {
        let (file, env) = match key {
            "password" => ("password_file", "password_env"),
            _ => ("client_secret_file", "client_secret_env"),
        };
        match (self.count(), self.read()) {
            (2.., _) => tell(key, format!("given in several ways; one of {key}, {file} and {env} is right")),
            (_, None) => tell(key, format!("missing; {who} needs one: {file}, {env} or {key}")),
            (_, Some(Err((Source::File, error)))) => tell(file, error),
            (_, Some(Err((Source::Env, error)))) => tell(env, error),
            (_, Some(Ok(secret))) if secret.expose().contains('\0') => {
                tell(key, NUL.to_owned());
            }
            _ => {}
        }
    }

    /// The secret, read now. The error comes with which of the three is wrong.
    fn read(&self) -> Option<Result<Secret, (Source, String)>> {
        if let Some(path) = self.file {
            return Some(Secret::from_file(path).map_err(|error| (Source::File, error)));
        }
        if let Some(name) = self.env {
            return Some(Secret::from_env(name).map_err(|error| (Source::Env, error)));
        }
        self.value.clone().map(Ok)
    }
}

/// Whether an address has `user:password@` before its host.
fn has_userinfo(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

fn client_secret(config: &SaslConfig) -> Place<'_> {
    Place { value: &config.client_secret, file: &config.client_secret_file, env: &config.client_secret_env }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[derive(Clone, Copy)]
enum Source {
    File,
    Env,
}

fn password(config: &SaslConfig) -> Place<'_> {
    Place { value: &config.password, file: &config.password_file, env: &config.password_env }
}

/// The password as it is kept now: for a client that is not ours.
#[cfg(feature = "rdkafka")]
pub(crate) fn password_now(config: &SaslConfig) -> Result<Secret, String> {
    match password(config).read() {
        Some(Ok(secret)) => Ok(secret),
        Some(Err((_, error))) => Err(format!("sasl.password: {error}")),
        None => Err("sasl.password: missing".to_owned()),
    }
}

/// What is wrong with the settings; `tls`: whether the connections are encrypted.
pub(crate) fn check(config: &SaslConfig, tls: bool, tell: &mut dyn FnMut(&'static str, String)) {
    if config.token_endpoint_url.as_deref().is_some_and(has_userinfo) {
        let message = "a name or a password stands before the host, and addresses are shown; give client_id and \
                       client_secret_file instead";
        tell("token_endpoint_url", message.to_owned());
    }
    let Some(mechanism) = config.mechanism else {
        return tell("mechanism", format!("missing; say which: {}", SaslMechanism::names()));
    };
    if mechanism == SaslMechanism::OauthBearer {
        bearer::check(config, tell);
    } else {
        if config.login.as_deref().unwrap_or_default().is_empty() {
            tell("login", format!("missing; {mechanism} needs a login and a password"));
        }
        if config.login.as_deref().is_some_and(|login| login.contains('\0')) {
            tell("login", NUL.to_owned());
        }
        password(config).check("password", mechanism.name(), tell);
    }
    let sent = match mechanism {
        SaslMechanism::Plain => "the password",
        SaslMechanism::OauthBearer => "the token",
        _ => return,
    };
    if !tls && !config.allow_without_tls {
        tell(
            "mechanism",
            format!(
                "{mechanism} sends {sent} as it is, and without TLS everybody on the way can read it: turn TLS on (ssl = true), \
                 choose scram_sha_512, or consent (allow_without_tls = true)"
            ),
        );
    }
}

/// How this client logs in, to all brokers.
pub(crate) struct Sasl {
    mechanism: SaslMechanism,
    config: SaslConfig,
    /// For OAUTHBEARER.
    tokens: Option<Arc<Tokens>>,
}

impl Sasl {
    /// `None`: no mechanism is chosen, which [`check`] refuses.
    pub(crate) fn new(
        config: SaslConfig,
        ssl: &SslConfig,
        provider: Option<Arc<dyn TokenProvider>>,
    ) -> Option<Sasl> {
        let mechanism = config.mechanism?;
        let tokens = match mechanism {
            SaslMechanism::OauthBearer => Tokens::new(&config, ssl, provider).map(Arc::new),
            _ => None,
        };
        Some(Sasl { mechanism, config, tokens })
    }

    /// Begins to log in: reads the secrets, gets a token (which takes 30 s at most); to renew a session: one that was given since it
    /// began. Nothing of it is the broker's: who counts its time does so from here on.
    pub(super) async fn begin(
        &self,
        versions: &ApiVersions,
        client_id: &Arc<str>,
        since: Option<Instant>,
    ) -> Result<Exchange, SaslError> {
        if versions.common(Api::SaslHandshake).is_none() {
            let message = "it does not speak SaslHandshake 1, which a login takes: use Kafka 1.0 or newer";
            return Err(SaslError::ours(message.to_owned()));
        }
        let login = self.config.login.as_deref().unwrap_or_default();
        if login.contains('\0') && self.mechanism != SaslMechanism::OauthBearer {
            return Err(SaslError::ours(format!("sasl.login: {NUL}")));
        }
        let client = match self.mechanism {
            SaslMechanism::Plain => Client::Plain { password: self.password()? },
            SaslMechanism::ScramSha256 => {
                Client::Scram(Scram::new(Hash::Sha256, login, self.password()?).into())
            }
            SaslMechanism::ScramSha512 => {
                Client::Scram(Scram::new(Hash::Sha512, login, self.password()?).into())
            }
            SaslMechanism::OauthBearer => {
                let found = match &self.tokens {
                    Some(tokens) => tokens.get(since).await,
                    None => Err("nobody gives one".to_owned()),
                };
                let token =
                    found.map_err(|error| SaslError::ours(format!("no token for the login: {error}")))?;
                Client::Bearer { token, extensions: self.config.extensions.clone(), reason: None }
            }
        };
        Ok(Exchange {
            mechanism: self.mechanism,
            login: login.into(),
            client,
            client_id: client_id.clone(),
            version: versions.common(Api::SaslAuthenticate).unwrap_or(0),
            stage: Stage::Handshake,
        })
    }

    fn password(&self) -> Result<Secret, SaslError> {
        match password(&self.config).read() {
            Some(Ok(secret)) if secret.expose().contains('\0') => {
                Err(SaslError::ours(format!("the password cannot be used: {NUL}")))
            }
            Some(Ok(secret)) => Ok(secret),
            Some(Err((_, error))) => Err(SaslError::ours(format!("the password cannot be had: {error}"))),
            None => Err(SaslError::ours("no password is given".to_owned())),
        }
    }

    /// A broker refused what [`Sasl::begin`] found: the next attempt looks for something newer.
    pub(super) fn refused(&self, exchange: &Exchange) {
        if let (Some(tokens), Client::Bearer { token, .. }) = (&self.tokens, &exchange.client) {
            tokens.forget_if(token);
        }
    }
}

/// The client's side of a mechanism.
enum Client {
    Plain { password: Secret },
    Scram(Box<Scram>),
    Bearer { token: Secret, extensions: Vec<String>, reason: Option<String> },
}

enum Stage {
    /// The mechanism is being agreed upon.
    Handshake,
    /// This message of the mechanism is next, or under way.
    Message(Vec<u8>),
}

/// One attempt to log in.
pub(super) struct Exchange {
    mechanism: SaslMechanism,
    login: Arc<str>,
    client: Client,
    client_id: Arc<str>,
    version: i16,
    stage: Stage,
}

/// For how long the broker believes it; `None`: for as long as the connection lives.
pub(super) type Lifetime = Option<Duration>;

impl Exchange {
    /// The next request, with correlation id 0.
    pub(super) fn request(&self) -> Vec<u8> {
        match &self.stage {
            Stage::Handshake => sasl_handshake_request(0, &self.client_id, self.mechanism.name()),
            Stage::Message(bytes) => sasl_authenticate_request(self.version, 0, &self.client_id, bytes),
        }
    }

    /// Takes the answer to it. `None`: there is another request.
    pub(super) fn answer(&mut self, answer: &[u8]) -> Result<Option<Lifetime>, SaslError> {
        let next = match &self.stage {
            Stage::Handshake => {
                let found = read_sasl_handshake(answer)?;
                if found.code.0 != 0 {
                    return Err(self.mechanism_refused(found.code, &found.mechanisms));
                }
                Some(self.first())
            }
            Stage::Message(_) => {
                let found = read_sasl_authenticate(answer, self.version)?;
                if found.code.0 != 0 {
                    return Err(self.refused(found.code, found.message.as_deref()));
                }
                let next = match &mut self.client {
                    Client::Plain { .. } => None,
                    Client::Scram(scram) => scram.answer(&found.bytes).map_err(SaslError::ours)?,
                    Client::Bearer { .. } if found.bytes.is_empty() => None,
                    Client::Bearer { token, reason, .. } => {
                        *reason = Some(bearer::reason(&found.bytes, token));
                        Some(bearer::UNDERSTOOD.to_vec())
                    }
                };
                if next.is_none() {
                    let ms = u64::try_from(found.session_lifetime_ms).ok().filter(|ms| *ms > 0);
                    return Ok(Some(ms.map(Duration::from_millis)));
                }
                next
            }
        };
        self.stage = Stage::Message(next.unwrap_or_default());
        Ok(None)
    }

    /// The broker closed the connection instead of answering.
    pub(super) fn closed(&self) -> SaslError {
        SaslError::ours(format!(
            "it closed the connection during the login ({}); the broker's log says why",
            self.mechanism.name()
        ))
    }

    fn first(&mut self) -> Vec<u8> {
        match &mut self.client {
            Client::Plain { password } => format!("\0{}\0{}", self.login, password.expose()).into_bytes(),
            Client::Scram(scram) => scram.first(),
            Client::Bearer { token, extensions, .. } => bearer::first(token, extensions),
        }
    }

    fn mechanism_refused(&self, code: ErrorCode, offered: &[String]) -> SaslError {
        let name = self.mechanism.name();
        let message = match code {
            ErrorCode::UNSUPPORTED_SASL_MECHANISM => format!(
                "this listener does not take {name}, it takes {}: set sasl.mechanism to one of these, or use another listener",
                if offered.is_empty() { "none".to_owned() } else { self.scrubbed(&offered.join(", ")) }
            ),
            ErrorCode::ILLEGAL_SASL_STATE => {
                "this listener wants no SASL: leave out [sasl], or give the address of a SASL_SSL or SASL_PLAINTEXT listener"
                    .to_owned()
            }
            code => format!("it answered SaslHandshake for {name} with {} ({})", code.name(), code.0),
        };
        SaslError { code: Some(code), message }
    }

    /// What a broker says, fit to be told.
    fn scrubbed(&self, words: &str) -> String {
        let secret = match &self.client {
            Client::Plain { password } => password,
            Client::Scram(scram) => scram.password(),
            Client::Bearer { token, .. } => token,
        };
        scrubbed(words, &[secret.expose()])
    }

    fn refused(&self, code: ErrorCode, words: Option<&str>) -> SaslError {
        let said =
            words.map_or_else(|| format!("{} ({})", code.name(), code.0), |words| self.scrubbed(words));
        let name = self.mechanism.name();
        let message = match &self.client {
            Client::Bearer { reason, .. } => {
                // Kafka says it twice.
                let more = reason.as_ref().filter(|reason| !said.contains(*reason));
                let reason = more.map(|reason| format!(" {reason}")).unwrap_or_default();
                format!(
                    "the broker does not take the token ({name}): {said}{reason}; check where the tokens come from ([sasl])"
                )
            }
            _ => format!(
                "the broker does not let {:?} in ({name}): {said}; check sasl.login and the password",
                self.login
            ),
        };
        SaslError { code: Some(code), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANTED: &str = "hunter2-planted";

    fn config(mechanism: SaslMechanism) -> SaslConfig {
        let login = Some("me".to_owned());
        SaslConfig {
            mechanism: Some(mechanism),
            login,
            password: Some(PLANTED.into()),
            ..SaslConfig::default()
        }
    }

    /// An attempt, as to a broker that speaks both requests.
    async fn attempt(config: SaslConfig) -> Result<Exchange, SaslError> {
        let sasl = Sasl::new(config, &SslConfig::default(), None).unwrap();
        sasl.begin(&versions(), &"test".into(), None).await
    }

    fn versions() -> ApiVersions {
        let speaks = [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 17, 0, 0, 0, 1, 0, 36, 0, 0, 0, 1];
        kafka_batcher_core::wire::read_api_versions(&speaks, 0).unwrap().1
    }

    #[tokio::test]
    async fn what_plain_would_take_for_the_end_of_a_login_or_a_password_is_not_sent() {
        let with_nul = SaslConfig { login: Some("me\0you".to_owned()), ..config(SaslMechanism::Plain) };
        let mut told = Vec::new();
        check(&with_nul, true, &mut |key, message| told.push((key, message)));
        assert_eq!(told, [("login", NUL.to_owned())]);
        let said = attempt(with_nul).await.err().unwrap().message;
        assert!(said.contains("sasl.login: it holds a NUL"), "{said}");
        // Good when it was checked, and changed since then.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\0x").unwrap();
        let password_file = Some(file.path().to_owned());
        let from_file = SaslConfig { password: None, password_file, ..config(SaslMechanism::ScramSha512) };
        let said = attempt(from_file).await.err().unwrap().message;
        assert!(said.contains("the password cannot be used") && !said.contains("hunter2"), "{said}");
    }

    #[tokio::test]
    async fn a_password_that_a_broker_repeats_is_not_told() {
        for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256] {
            let mut exchange = attempt(config(mechanism)).await.unwrap();
            // No correlation id and no error; then 58 with words.
            assert_eq!(exchange.answer(&[0; 10]), Ok(None));
            let words = format!("{}{PLANTED} is wrong", "x".repeat(290));
            let length = (words.len() as u16).to_be_bytes();
            let answer = [&[0, 0, 0, 0, 0, 58][..], &length, words.as_bytes(), &[0; 12]].concat();
            let said = exchange.answer(&answer).unwrap_err().message;
            assert!(said.contains("xxx... is wr") && !said.contains("hunter"), "{said}");
        }
    }
}
