//! Logging in again over an established connection, before the broker ends the session (KIP-368).
//!
//! What was sent before is answered first: a broker answers in order. While it is under way nothing else is sent, since a broker takes
//! nothing else then; what comes meanwhile waits in the queue and goes on behind it. When the broker refuses it the connection is closed,
//! and what waited was not sent. What has to be got before (a password, a token) is tried again until the session ends: that a file cannot
//! be read for a moment ends no session.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_batcher_core::wire::ApiVersions;
use kafka_batcher_core::{Backoff, BackoffSettings};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::{Connection, Life, Request, State};
use crate::client::sasl::{Exchange, Lifetime, Sasl, SaslError};

/// Between two logins over one connection: Kafka refuses what comes sooner.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether the client is logging in again.
pub(super) enum Login {
    /// Requests go out as they come.
    Done,
    /// They wait; only what belongs to the login goes out.
    UnderWay(Option<Request>),
}

impl State {
    pub(super) fn is_logging_in(&self) -> bool {
        matches!(self.login, Login::UnderWay(_))
    }

    pub(super) fn has_next(&self) -> bool {
        match &self.login {
            Login::Done => !self.queue.is_empty(),
            Login::UnderWay(request) => request.is_some(),
        }
    }

    pub(super) fn next(&mut self) -> Option<Request> {
        match &mut self.login {
            Login::Done => self.queue.pop_front(),
            Login::UnderWay(request) => request.take(),
        }
    }
}

impl Connection {
    /// Logs in again before this time is over, and again as long as the broker wants it.
    pub(in crate::client) fn prove_again_after(self: &Arc<Self>, lifetime: Lifetime) {
        if let Some(lifetime) = lifetime {
            let task = tokio::spawn(prove_again(self.clone(), lifetime)).abort_handle();
            if self.prover.set(task).is_err() || !self.is_open() {
                self.prover.get().into_iter().for_each(AbortHandle::abort);
            }
        }
    }

    /// One login. The error says why it failed; the connection is of no use then.
    async fn log_in(
        self: &Arc<Self>,
        sasl: &Sasl,
        since: Instant,
        lifetime: Duration,
    ) -> Result<Lifetime, String> {
        // What takes time (a token from elsewhere) comes before anything has to wait.
        let pause = Backoff::new(BackoffSettings::default(), self.generation());
        let begun = begin(sasl, &self.about.versions, &self.about.client_id, (since, lifetime), pause).await;
        self.run(sasl, begun.map_err(|error| error.to_string())?).await
    }

    async fn run(self: &Arc<Self>, sasl: &Sasl, mut exchange: Exchange) -> Result<Lifetime, String> {
        let lifetime = self.exchange(sasl, &mut exchange).await?;
        let mut state = self.lock();
        state.login = Login::Done;
        self.push(state);
        Ok(lifetime)
    }

    async fn exchange(self: &Arc<Self>, sasl: &Sasl, exchange: &mut Exchange) -> Result<Lifetime, String> {
        loop {
            let (reply, answer) = oneshot::channel();
            {
                let mut state = self.lock();
                if let Life::Closed(why) = &state.life {
                    return Err(why.to_string());
                }
                state.login = Login::UnderWay(Some(Request::Ask(exchange.request(), reply)));
                self.push(state);
            }
            match answer.await {
                Ok(Ok(answer)) => match exchange.answer(&answer) {
                    Ok(Some(lifetime)) => return Ok(lifetime),
                    Ok(None) => {}
                    Err(error) => {
                        sasl.refused(exchange);
                        return Err(error.to_string());
                    }
                },
                Ok(Err(lost)) => return Err(lost.to_string()),
                Err(_) => return Err("the connection was closed".to_owned()),
            }
        }
    }
}

/// Gets what a login needs, with pauses until the session ends (when it began, and for how long it lives). Told once.
async fn begin(
    sasl: &Sasl,
    versions: &ApiVersions,
    client_id: &Arc<str>,
    (since, lifetime): (Instant, Duration),
    mut pause: Backoff,
) -> Result<Exchange, SaslError> {
    let mut told = false;
    loop {
        let error = match sasl.begin(versions, client_id, Some(since)).await {
            Ok(exchange) => return Ok(exchange),
            Err(error) => error,
        };
        let left = lifetime.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, ?left, "cannot log in again yet, tried again until the session ends");
        }
        tokio::time::sleep(pause.next_delay().min(left)).await;
    }
}

/// Logs in again and again: after 85 to 95 % of the time that the broker gives, as Kafka's own client does, so that the connections of
/// many clients do not all do it at once.
async fn prove_again(connection: Arc<Connection>, mut lifetime: Duration) {
    let Some(sasl) = connection.about.sasl.clone() else { return };
    loop {
        let since = Instant::now();
        let random = RandomState::new().hash_one(connection.generation()) as f64 / u64::MAX as f64;
        tokio::time::sleep(lifetime.mul_f64(0.85 + 0.1 * random).max(PAUSE)).await;
        match connection.log_in(&sasl, since, lifetime).await {
            Ok(Some(next)) => lifetime = next,
            Ok(None) => return,
            Err(why) => {
                let what = format!("logging in again failed: {why}");
                return connection.close(&connection.describe(&what), false);
            }
        }
        tracing::debug!(broker = connection.name(), ?lifetime, "logged in again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use kafka_batcher_core::ProduceResult;
    use kafka_batcher_core::wire::{Api, read_api_versions};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::{Piece, answers, testing};
    use super::*;
    use crate::client::{SaslMechanism, Token, TokenProvider};
    use crate::config::{SaslConfig, SslConfig};
    use crate::producer::BoxFuture;

    /// Those of a broker that speaks both requests.
    fn versions() -> ApiVersions {
        let speaks = [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 17, 0, 0, 0, 1, 0, 36, 0, 0, 0, 1];
        read_api_versions(&speaks, 0).unwrap().1
    }

    /// An attempt with PLAIN.
    async fn attempt() -> (Sasl, Exchange) {
        let config = SaslConfig {
            mechanism: Some(SaslMechanism::Plain),
            login: Some("me".to_owned()),
            password: Some("x".into()),
            ..SaslConfig::default()
        };
        let sasl = Sasl::new(config, &SslConfig::default(), None).unwrap();
        let exchange = sasl.begin(&versions(), &"test".into(), None).await.unwrap();
        (sasl, exchange)
    }

    /// Tokens "token1", "token2", ... that are good for an hour; the first few cannot be had.
    struct Counting {
        asked: AtomicU32,
        fails: u32,
    }

    impl TokenProvider for Counting {
        fn token(&self) -> BoxFuture<'_, Result<Token, String>> {
            let n = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            let lifetime = Some(Duration::from_secs(3600));
            let found = match n > self.fails {
                true => Ok(Token { value: format!("token{n}").into(), lifetime }),
                false => Err("not now".to_owned()),
            };
            Box::pin(std::future::ready(found))
        }
    }

    fn bearer(fails: u32) -> Sasl {
        let config = SaslConfig {
            mechanism: Some(SaslMechanism::OauthBearer),
            token_provider: Some("mine".to_owned()),
            ..SaslConfig::default()
        };
        let provider = Arc::new(Counting { asked: AtomicU32::new(0), fails });
        Sasl::new(config, &SslConfig::default(), Some(provider)).unwrap()
    }

    async fn begun(sasl: &Sasl, lifetime: Duration) -> Result<Exchange, SaslError> {
        let short = Duration::from_millis(1);
        let pause = Backoff::new(BackoffSettings { initial: short, max: short, ..Default::default() }, 1);
        begin(sasl, &versions(), &"test".into(), (Instant::now(), lifetime), pause).await
    }

    #[tokio::test]
    async fn what_a_login_needs_is_tried_again_until_the_session_ends() {
        assert!(begun(&bearer(3), Duration::from_secs(3600)).await.is_ok());
        let said = begun(&bearer(u32::MAX), Duration::from_millis(10)).await.err().unwrap();
        assert!(said.message.contains("not now"), "{said}");
    }

    #[tokio::test]
    async fn a_token_that_is_refused_at_renewal_is_not_used_again() {
        let (connection, _socket, mut peer) = testing::connection(1).await;
        let sasl = Arc::new(bearer(0));
        let exchange = begun(&sasl, Duration::from_secs(3600)).await.unwrap();
        let again = tokio::spawn({
            let (connection, sasl) = (connection.clone(), sasl.clone());
            async move { connection.run(&sasl, exchange).await }
        });
        let (_, handshake) = next(&mut peer).await;
        answer(&mut peer, handshake, &[0, 0, 0, 0, 0, 0]).await;
        let (_, login) = next(&mut peer).await;
        // 58, no message, no bytes, no lifetime.
        answer(&mut peer, login, &[&[0, 58, 0xff, 0xff][..], &[0; 12]].concat()).await;
        let said = again.await.unwrap().unwrap_err();
        assert!(said.contains("does not take the token"), "{said}");
        let mut exchange = sasl.begin(&versions(), &"test".into(), None).await.unwrap();
        assert_eq!(exchange.answer(&[0; 10]), Ok(None));
        assert!(exchange.request().windows(6).any(|bytes| bytes == b"token2"));
    }

    fn piece() -> Arc<Piece> {
        Arc::new(answers::tests::piece(&[("t", 0)]))
    }

    /// The next request that the broker sees: its key and correlation id.
    async fn next(peer: &mut TcpStream) -> (i16, [u8; 4]) {
        let length = peer.read_u32().await.unwrap() as usize;
        let mut bytes = vec![0; length];
        peer.read_exact(&mut bytes).await.unwrap();
        (i16::from_be_bytes([bytes[0], bytes[1]]), bytes[4..8].try_into().unwrap())
    }

    async fn answer(peer: &mut TcpStream, correlation: [u8; 4], body: &[u8]) {
        let length = (4 + body.len() as u32).to_be_bytes();
        peer.write_all(&[&length[..], &correlation, body].concat()).await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_while_the_client_logs_in_again_goes_behind_it_and_what_went_before_is_answered_first()
    {
        let (connection, _socket, mut peer) = testing::connection(1).await;
        let before = connection.produce(piece());
        let (key, first) = next(&mut peer).await;
        assert_eq!(key, Api::Produce.key());
        let again = tokio::spawn({
            let (connection, (sasl, exchange)) = (connection.clone(), attempt().await);
            async move { connection.run(&sasl, exchange).await }
        });
        let (key, handshake) = next(&mut peer).await;
        assert_eq!(key, Api::SaslHandshake.key());
        let behind = connection.produce(piece());
        // Produce 3, no topics, no throttle: what was sent is left out of it, and so lost.
        answer(&mut peer, first, &[0, 0, 0, 0, 0, 0, 0, 0]).await;
        assert!(matches!(before.await.unwrap()[0].result, ProduceResult::Lost { .. }));
        answer(&mut peer, handshake, &[0, 0, 0, 0, 0, 0]).await;
        let (key, login) = next(&mut peer).await;
        assert_eq!(key, Api::SaslAuthenticate.key(), "nothing comes in between");
        // No error, no message, no bytes, an hour.
        let hour = [&[0, 0, 0xff, 0xff, 0, 0, 0, 0][..], &3_600_000_i64.to_be_bytes()].concat();
        answer(&mut peer, login, &hour).await;
        assert_eq!(again.await.unwrap(), Ok(Some(Duration::from_secs(3600))));
        assert_eq!(next(&mut peer).await.0, Api::Produce.key());
        connection.shut();
        assert!(matches!(behind.await.unwrap()[0].result, ProduceResult::Lost { .. }));
    }

    #[tokio::test]
    async fn what_waits_for_a_login_that_fails_is_not_sent() {
        let (connection, _socket, mut peer) = testing::connection(1).await;
        let again = tokio::spawn({
            let (connection, (sasl, exchange)) = (connection.clone(), attempt().await);
            async move { connection.run(&sasl, exchange).await }
        });
        let (_, handshake) = next(&mut peer).await;
        let behind = connection.produce(piece());
        // 33, and PLAIN is not among those that are taken.
        answer(&mut peer, handshake, &[0, 33, 0, 0, 0, 1, 0, 1, b'X']).await;
        let said = again.await.unwrap().unwrap_err();
        assert!(said.contains("does not take PLAIN, it takes X"), "{said}");
        connection.close(&said, false);
        assert!(matches!(behind.await.unwrap()[0].result, ProduceResult::NotSent { .. }));
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
}
