//! OAUTHBEARER (RFC 7628, KIP-255): a token that somebody else gave says who this client is. Where tokens come from: a file that
//! something else keeps fresh, code of the program's own, or a token endpoint (KIP-768, the client-credentials grant of RFC 6749).
//!
//! A token whose end is known is kept until four fifths of its life are over, as Kafka's own client does, and one that a broker refused
//! is forgotten. A session is not renewed with the token that it began with: where the broker sees that end a second earlier than we do,
//! what it would give is too short to be renewed in time. When no new one can be had the old one serves until its end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde::Deserialize;

use crate::config::{SaslConfig, SslConfig};
use crate::panics;
use crate::producer::BoxFuture;
use crate::secret::{Secret, scrubbed};

/// Which part of its life a token serves for before a new one is wanted.
const FRESH: f64 = 0.8;

/// How long the token endpoint may take.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long whoever asks for a token waits, and how long a provider may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most that is read of its answer, in bytes.
const LONGEST_ANSWER: u64 = 256 << 10;

/// A token, and for how long it is good.
#[derive(Clone, Debug)]
pub struct Token {
    /// As it is sent.
    pub value: Secret,
    /// For how long, from now. `None`: nobody knows, and it is asked for again at each login.
    pub lifetime: Option<Duration>,
}

/// Gives tokens for OAUTHBEARER: a program's own way to get one. Named in a configuration by `token_provider`, see
/// [`Builder::register_token_provider`](crate::Builder::register_token_provider).
pub trait TokenProvider: Send + Sync + 'static {
    /// A token that is good now. Called for a new connection and before a session ends, one call at a time; dropped when it is not done
    /// after 30 s.
    ///
    /// # Errors
    /// Why there is none, in words for an operator; without secrets, since it is told and logged.
    fn token(&self) -> BoxFuture<'_, Result<Token, String>>;
}

impl std::fmt::Debug for dyn TokenProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenProvider")
    }
}

/// What is wrong with the settings.
pub(super) fn check(config: &SaslConfig, tell: &mut dyn FnMut(&'static str, String)) {
    let ways = [
        ("token_file", config.token_file.is_some()),
        ("token_provider", config.token_provider.is_some()),
        ("token_endpoint_url", config.token_endpoint_url.is_some()),
    ];
    match ways.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect::<Vec<_>>().as_slice() {
        [] => tell(
            "mechanism",
            "oauthbearer needs a token: give token_file, token_endpoint_url or token_provider".to_owned(),
        ),
        [_] => {}
        [first, ..] => {
            tell(first, "tokens are given in several ways; one of token_file, token_endpoint_url and token_provider is right".to_owned());
        }
    }
    if let Some(path) = &config.token_file
        && let Err(error) = Secret::from_file(path)
    {
        tell("token_file", error);
    }
    if let Some(url) = &config.token_endpoint_url {
        if !url.starts_with("https://") || url.len() == "https://".len() {
            tell("token_endpoint_url", "this is no https:// address, and a secret is sent there".to_owned());
        }
        if config.client_id.as_deref().unwrap_or_default().is_empty() {
            tell("client_id", "missing; the token endpoint wants to know who asks".to_owned());
        }
        super::client_secret(config).check("client_secret", "the token endpoint", tell);
    }
    for extension in &config.extensions {
        let good = extension.split_once('=').is_some_and(|(name, value)| {
            !name.is_empty()
                && name != "auth"
                && name.bytes().all(|b| b.is_ascii_alphabetic())
                && value.bytes().all(|b| (0x20..0x7f).contains(&b))
        });
        if !good {
            tell(
                "extensions",
                "each is name=value, the name of letters (and not \"auth\"), the value printable ASCII"
                    .to_owned(),
            );
        }
    }
}

/// Where tokens come from.
enum Source {
    File(PathBuf),
    Provider(Arc<dyn TokenProvider>),
    Endpoint(Arc<(SaslConfig, SslConfig)>),
}

/// Gets tokens and keeps them for as long as they are good.
pub(super) struct Tokens {
    source: Source,
    /// How long to wait for one.
    timeout: Duration,
    /// Held while a new one is fetched: whoever comes meanwhile shares it.
    fetching: Arc<tokio::sync::Mutex<()>>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    token: Secret,
    fetched: Instant,
    /// Until when no other is looked for.
    fresh: Instant,
    /// Until when it is good.
    end: Instant,
}

impl Tokens {
    /// `None`: there is no such source, which [`check`] and the builder refuse.
    pub(super) fn new(
        config: &SaslConfig,
        ssl: &SslConfig,
        provider: Option<Arc<dyn TokenProvider>>,
    ) -> Option<Tokens> {
        let source = match (&config.token_file, provider, &config.token_endpoint_url) {
            (Some(path), ..) => Source::File(path.clone()),
            (None, Some(provider), _) => Source::Provider(provider),
            (None, None, Some(_)) => Source::Endpoint(Arc::new((config.clone(), ssl.clone()))),
            (None, None, None) => return None,
        };
        Some(Tokens { source, timeout: TIMEOUT, fetching: Arc::default(), kept: Mutex::default() })
    }

    /// A token that is good now; for a session that began with an earlier one: fetched since then.
    pub(super) async fn get(self: &Arc<Self>, since: Option<Instant>) -> Result<Secret, String> {
        let found = tokio::time::timeout(self.timeout, async {
            let alone = self.fetching.clone().lock_owned().await;
            let now = Instant::now();
            let serves = |kept: &&Kept| kept.fresh > now && since.is_none_or(|since| kept.fetched > since);
            if let Some(kept) = self.kept().as_ref().filter(serves) {
                return Ok(kept.token.clone());
            }
            // A task of its own: what it brings is kept although whoever asked is gone.
            let tokens = self.clone();
            let fetched = tokio::spawn(async move {
                let _alone = alone;
                tokens.renew().await
            });
            fetched.await.unwrap_or_else(|_| Err("nobody fetches one any more".to_owned()))
        });
        found.await.unwrap_or_else(|_| Err(self.late()))
    }

    fn late(&self) -> String {
        format!("none came within {:?}", self.timeout)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches one and keeps it. When there is none the old one serves, if it is good.
    async fn renew(&self) -> Result<Secret, String> {
        let now = Instant::now();
        let found = self.fetch().await.and_then(|token| match is_token(token.value.expose()) {
            true => Ok(token),
            false => Err("it is no token (RFC 6750: letters, digits and -._~+/=)".to_owned()),
        });
        let mut kept = self.kept();
        match (found, kept.as_ref().filter(|kept| kept.end > now)) {
            (Ok(Token { value, lifetime }), _) => {
                let ends =
                    |life: Duration| Some((now.checked_add(life.mul_f64(FRESH))?, now.checked_add(life)?));
                let made = |(fresh, end)| Kept { token: value.clone(), fetched: Instant::now(), fresh, end };
                *kept = lifetime.and_then(ends).map(made);
                Ok(value)
            }
            (Err(error), Some(kept)) => {
                tracing::warn!(%error, "no new token, the old one is used until its end");
                Ok(kept.token.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// A broker did not take this one. A newer one stays.
    pub(super) fn forget_if(&self, refused: &Secret) {
        self.kept().take_if(|kept| kept.token == *refused);
    }

    async fn fetch(&self) -> Result<Token, String> {
        match &self.source {
            Source::File(path) => Secret::from_file(path).map(|value| Token { value, lifetime: None }),
            Source::Provider(provider) => {
                let asked = std::panic::AssertUnwindSafe(async { provider.token().await }).catch_unwind();
                let asked = tokio::time::timeout(self.timeout, asked).await;
                asked.map_err(|_| self.late())?.unwrap_or_else(|panic| {
                    Err(format!("the token provider panicked: {}", panics::message(&*panic)))
                })
            }
            Source::Endpoint(endpoint) => {
                let endpoint = endpoint.clone();
                let asked = tokio::task::spawn_blocking(move || ask(&endpoint.0, &endpoint.1)).await;
                asked.unwrap_or_else(|_| Err("the token endpoint could not be asked".to_owned()))
            }
        }
    }
}

/// `b64token` of RFC 6750.
fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    expires_in: Option<u64>,
    error: Option<String>,
    error_description: Option<String>,
}

/// Asks the endpoint; blocks.
fn ask(config: &SaslConfig, ssl: &SslConfig) -> Result<Token, String> {
    let url = config.token_endpoint_url.as_deref().unwrap_or_default();
    let failed = |error: &dyn std::fmt::Display| format!("the token endpoint {url} cannot be asked: {error}");
    let id = config.client_id.as_deref().unwrap_or_default();
    let secret = match super::client_secret(config).read() {
        Some(Ok(secret)) => secret,
        Some(Err((_, error))) => return Err(format!("the client secret cannot be had: {error}")),
        None => return Err("no client secret is given".to_owned()),
    };
    let trusted = crate::client::tls::trusted_with(ssl).map_err(|error| failed(&error))?;
    let trusted: Vec<_> =
        trusted.iter().map(|der| ureq::tls::Certificate::from_der(der).to_owned()).collect();
    let tls = ureq::tls::TlsConfig::builder()
        .provider(ureq::tls::TlsProvider::Rustls)
        .root_certs(ureq::tls::RootCerts::new_with_certs(&trusted))
        // "unversioned" says that this follows the version of rustls: ours is the same, or this does not compile.
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(ENDPOINT_TIMEOUT))
        .build()
        .new_agent();
    let scope = config.scope.as_deref().map(|scope| format!("&scope={}", encoded(scope))).unwrap_or_default();
    let credentials = super::base64(format!("{}:{}", encoded(id), encoded(secret.expose())).as_bytes());
    let mut response = agent
        .post(url)
        .header("authorization", format!("Basic {credentials}"))
        .header("accept", "application/json")
        .content_type("application/x-www-form-urlencoded")
        .send(format!("grant_type=client_credentials{scope}"))
        .map_err(|error| failed(&error))?;
    let status = response.status().as_u16();
    let body = response
        .body_mut()
        .with_config()
        .limit(LONGEST_ANSWER)
        .read_to_vec()
        .map_err(|error| failed(&error))?;
    understand(status, &body, url, &secret, &credentials)
}

/// What the endpoint answered; `credentials`: as they were sent.
fn understand(
    status: u16,
    body: &[u8],
    url: &str,
    secret: &Secret,
    credentials: &str,
) -> Result<Token, String> {
    // Errors of the parser are not shown: they may repeat what they read.
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    match answer {
        Some(Answer { access_token: Some(token), expires_in, .. }) if status == 200 => {
            Ok(Token { value: token.into(), lifetime: expires_in.map(Duration::from_secs) })
        }
        Some(Answer { error: Some(error), error_description, .. }) => {
            let more = error_description.map(|words| format!(": {words}")).unwrap_or_default();
            let secret = secret.expose();
            let said = scrubbed(&format!("{error}{more}"), &[secret, &encoded(secret), credentials]);
            Err(format!(
                "the token endpoint {url} refuses (HTTP {status}, {said}); check sasl.client_id, the client secret and scope"
            ))
        }
        _ => Err(format!(
            "the token endpoint {url} answered with HTTP {status} and no token; is the address right?"
        )),
    }
}

/// Percent-encoded, as RFC 6749 (section 2.3.1) wants both parts of the credentials. What may stay, stays: some servers do not decode.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => out.push(char::from(b)),
            b => out += &format!("%{b:02X}"),
        }
    }
    out
}

/// The client's first message.
pub(super) fn first(token: &Secret, extensions: &[String]) -> Vec<u8> {
    let extensions: String = extensions.iter().map(|extension| format!("\x01{extension}")).collect();
    format!("n,,\x01auth=Bearer {}{extensions}\x01\x01", token.expose()).into_bytes()
}

/// The answer to a refusal, upon which the broker says it again as an error.
pub(super) const UNDERSTOOD: &[u8] = b"\x01";

/// The broker's reason (RFC 7628, JSON), in words.
pub(super) fn reason(message: &[u8], token: &Secret) -> String {
    // JSON may write the slash of a token so.
    scrubbed(&String::from_utf8_lossy(message).replace("\\/", "/"), &[token.expose()])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Gives "token1", "token2", ...; those of which the number is in the list, not.
    struct Counting {
        asked: AtomicU32,
        lifetime: Option<Duration>,
        fails: &'static [u32],
    }

    impl TokenProvider for Counting {
        fn token(&self) -> BoxFuture<'_, Result<Token, String>> {
            Box::pin(async {
                let n = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
                match self.fails.contains(&n) {
                    true => Err("not now".to_owned()),
                    false => Ok(Token { value: format!("token{n}").into(), lifetime: self.lifetime }),
                }
            })
        }
    }

    fn given_by(provider: impl TokenProvider) -> Arc<Tokens> {
        let provider = Some(Arc::new(provider) as Arc<dyn TokenProvider>);
        Tokens::new(&SaslConfig::default(), &SslConfig::default(), provider).unwrap().into()
    }

    fn tokens(lifetime: Option<Duration>, fails: &'static [u32]) -> Arc<Tokens> {
        given_by(Counting { asked: AtomicU32::new(0), lifetime, fails })
    }

    async fn next(tokens: &Arc<Tokens>) -> String {
        tokens.get(None).await.map_or_else(|error| error, |token| token.expose().to_owned())
    }

    #[tokio::test]
    async fn a_token_is_kept_while_it_is_fresh_and_not_once_it_was_refused() {
        let tokens = tokens(Some(Duration::from_secs(3600)), &[]);
        assert_eq!((next(&tokens).await, next(&tokens).await), ("token1".to_owned(), "token1".to_owned()));
        tokens.forget_if(&"token1".into());
        assert_eq!(next(&tokens).await, "token2");
        // Told late, by another connection.
        tokens.forget_if(&"token1".into());
        assert_eq!(next(&tokens).await, "token2");
    }

    #[tokio::test]
    async fn a_token_that_comes_when_whoever_asked_is_gone_is_kept_for_the_next() {
        struct Slow(tokio::sync::Semaphore, tokio::sync::Semaphore, AtomicU32);
        impl TokenProvider for Slow {
            fn token(&self) -> BoxFuture<'_, Result<Token, String>> {
                Box::pin(async {
                    let n = self.2.fetch_add(1, Ordering::Relaxed) + 1;
                    self.0.add_permits(1);
                    self.1.acquire().await.unwrap().forget();
                    Ok(Token { value: format!("token{n}").into(), lifetime: Some(Duration::from_secs(3600)) })
                })
            }
        }
        let closed = || tokio::sync::Semaphore::new(0);
        let slow = Arc::new(Slow(closed(), closed(), AtomicU32::new(0)));
        let provider = Some(slow.clone() as Arc<dyn TokenProvider>);
        let tokens = Arc::new(Tokens::new(&SaslConfig::default(), &SslConfig::default(), provider).unwrap());
        let gone = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.get(None).await }
        });
        slow.0.acquire().await.unwrap().forget();
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        slow.1.add_permits(2);
        assert_eq!(next(&tokens).await, "token1");
    }

    #[tokio::test]
    async fn who_waits_too_long_for_a_token_is_told_so_and_a_provider_that_hangs_is_let_go() {
        struct Hanging(AtomicU32);
        impl TokenProvider for Hanging {
            fn token(&self) -> BoxFuture<'_, Result<Token, String>> {
                match self.0.fetch_add(1, Ordering::Relaxed) {
                    0 => Box::pin(std::future::pending()),
                    _ => Box::pin(async { Err("not now".to_owned()) }),
                }
            }
        }
        let mut tokens = given_by(Hanging(AtomicU32::new(0)));
        Arc::get_mut(&mut tokens).unwrap().timeout = Duration::from_millis(1);
        assert_eq!(next(&tokens).await, "none came within 1ms");
        // Until the first call is over those behind it are told the same.
        let mut said = next(&tokens).await;
        while said == "none came within 1ms" {
            said = next(&tokens).await;
        }
        assert_eq!(said, "not now");
    }

    #[tokio::test]
    async fn a_session_is_renewed_with_another_token_than_it_began_with_and_sessions_share_it() {
        let tokens = tokens(Some(Duration::from_secs(3600)), &[3]);
        assert_eq!(next(&tokens).await, "token1");
        let (first, second) = (Instant::now(), Instant::now());
        let renewed = |since| {
            let tokens = &tokens;
            async move { tokens.get(Some(since)).await.unwrap().expose().to_owned() }
        };
        assert_eq!((renewed(first).await, renewed(second).await), ("token2".to_owned(), "token2".to_owned()));
        // And the third cannot be had.
        assert_eq!(renewed(Instant::now()).await, "token2");
    }

    #[tokio::test]
    async fn a_token_that_nobody_knows_the_end_of_is_asked_for_each_time() {
        let tokens = tokens(None, &[2]);
        assert_eq!(next(&tokens).await, "token1");
        assert_eq!(next(&tokens).await, "not now");
        assert_eq!(next(&tokens).await, "token3");
    }

    #[tokio::test]
    async fn an_old_token_serves_until_its_end_when_no_new_one_can_be_had() {
        let tokens = tokens(Some(Duration::from_secs(3600)), &[2]);
        assert_eq!(next(&tokens).await, "token1");
        tokens.kept().as_mut().unwrap().fresh = Instant::now();
        assert_eq!(next(&tokens).await, "token1");
        tokens.kept().as_mut().unwrap().fresh = Instant::now();
        assert_eq!(next(&tokens).await, "token3");
    }

    #[tokio::test]
    async fn a_provider_that_panics_or_gives_what_is_no_token_costs_an_error() {
        struct Bad(&'static str);
        impl TokenProvider for Bad {
            fn token(&self) -> BoxFuture<'_, Result<Token, String>> {
                assert!(!self.0.is_empty(), "planned");
                Box::pin(async { Ok(Token { value: self.0.into(), lifetime: None }) })
            }
        }
        for (bad, words) in
            [("", "panicked: planned"), ("hunter2 hunter2", "is no token"), ("a\x01b=c", "is no token")]
        {
            let said = given_by(Bad(bad)).get(None).await.unwrap_err();
            assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn the_first_message_is_that_of_rfc_7628_and_kip_342() {
        let extensions = ["logicalCluster=lkc-1".to_owned(), "identityPoolId=p".to_owned()];
        let bytes = first(&"abc.def".into(), &extensions);
        assert_eq!(bytes, b"n,,\x01auth=Bearer abc.def\x01logicalCluster=lkc-1\x01identityPoolId=p\x01\x01");
        assert_eq!(first(&"a".into(), &[]), b"n,,\x01auth=Bearer a\x01\x01");
    }

    #[test]
    fn what_an_endpoint_or_a_broker_repeats_of_a_secret_is_not_told() {
        let (secret, credentials) = (Secret::new("hunter 2"), "aWQ6aHVudGVyJTIwMg==");
        let padding = "x".repeat(290);
        let body = serde_json::json!({
            "error": "invalid_client",
            "error_description": format!("no: hunter 2, hunter%202, Basic {credentials} {padding}"),
        });
        let said =
            understand(401, body.to_string().as_bytes(), "https://a", &secret, credentials).unwrap_err();
        assert!(said.contains("(HTTP 401, invalid_client: no: ..., ..., Basic ... xxx"), "{said}");
        let body = format!("{{\"error\":\"invalid_client\",\"error_description\":\"{padding}hunter 2\"}}");
        let said = understand(401, body.as_bytes(), "https://a", &secret, credentials).unwrap_err();
        assert!(!said.contains("hun"), "{said}");
        let said = reason(format!("{}abc.def{padding}", "x".repeat(297)).as_bytes(), &"abc.def".into());
        assert_eq!(said, format!("{}...", "x".repeat(297)));
        assert_eq!(reason(br#"{"status":"ab\/c"}"#, &"ab/c".into()), r#"{"status":"..."}"#);
    }

    #[test]
    fn credentials_are_encoded_and_what_may_stay_stays() {
        assert_eq!(encoded("a-b.c_d~9"), "a-b.c_d~9");
        assert_eq!(encoded("p w:ä/+"), "p%20w%3A%C3%A4%2F%2B");
    }
}
