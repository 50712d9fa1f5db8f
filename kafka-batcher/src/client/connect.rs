//! From an address to a connection that has said which versions it speaks.
//!
//! Every address of a name is tried, in the resolver's order, and the name is resolved again each time. The steps are:
//! resolve, connect, agree upon TLS, ask for versions, log in (SASL). Each has `connect_timeout`. What a login needs from elsewhere, such
//! as a token, is got before the last and has a limit of its own: no broker is blamed for it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kafka_batcher_core::ErrorCode;
use kafka_batcher_core::wire::set_correlation;
use kafka_batcher_core::wire::{Api, ApiVersions, FrameBuffer, FrameError, WireError};
use kafka_batcher_core::wire::{api_versions_request, correlation_of, read_api_versions};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::Endpoint;
use super::cluster::Cluster;
use super::connection::{Connection, Established, Role};
use super::sasl::{Exchange, Lifetime, Sasl, SaslError};
use super::tls::{Tls, TlsError};
use super::transport::{TlsStream, Transport};

/// How to connect to anything.
pub(super) struct Connector {
    pub(super) client_id: Arc<str>,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) cluster: Weak<Cluster>,
    pub(super) tls: Option<Tls>,
    pub(super) sasl: Option<Arc<Sasl>>,
}

/// Why there is no connection. The message names the address.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {}", Listed(.attempts))]
pub(super) struct ConnectError {
    endpoint: Endpoint,
    /// What each resolved address came to; the address only where the endpoint is a name.
    attempts: Vec<(Option<SocketAddr>, Problem)>,
}

/// What one address came to.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("the name cannot be resolved ({0}); check its spelling and this machine's DNS")]
    Resolve(io::Error),
    #[error("the name was not resolved within {0:?} (connect_timeout); check this machine's DNS")]
    ResolveTimeout(Duration),
    #[error("the name has no address")]
    NoAddress,
    #[error("nothing listens there (connection refused); is Kafka running, and is this its port?")]
    Refused,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no connection within {0:?} (connect_timeout); is a firewall in between?")]
    ConnectTimeout(Duration),
    #[error(
        "it accepts connections, but does not say within {0:?} (connect_timeout) which versions it speaks; is it a \
             Kafka broker?"
    )]
    HandshakeTimeout(Duration),
    #[error(
        "it closed the connection when asked which versions it speaks; is it a Kafka broker (0.11 or newer), and \
             this its {} listener?", listener(*.tls)
    )]
    HandshakeClosed { tls: bool },
    #[error("{0}")]
    Tls(TlsError),
    #[error(
        "it does not agree upon TLS within {0:?} (connect_timeout); is this its SSL or SASL_SSL listener?"
    )]
    TlsTimeout(Duration),
    #[error("{0}")]
    Sasl(SaslError),
    #[error("it does not answer to the login within {0:?} (connect_timeout)")]
    SaslTimeout(Duration),
    #[error("the connection broke when it was asked which versions it speaks: {0}")]
    HandshakeBroke(io::Error),
    #[error("{0}")]
    Frame(FrameError),
    #[error("its answer about its versions cannot be read ({0}); is it a Kafka broker?")]
    Wire(WireError),
    #[error("it answered with correlation id {found} where {expected} was due; is it a Kafka broker?")]
    Correlation { found: i32, expected: i32 },
    #[error("it refuses to say which versions it speaks: {} ({})", .0.name(), .0.0)]
    Code(ErrorCode),
    #[error("{}", version_gap(*api, *offered))]
    Versions { api: Api, offered: Option<(i16, i16)> },
}

fn listener(tls: bool) -> &'static str {
    if tls { "SSL or SASL_SSL" } else { "PLAINTEXT or SASL_PLAINTEXT" }
}

impl ConnectError {
    /// Whether nothing was reached anywhere: neither a broker nor anything else.
    pub(super) fn is_unreached(&self) -> bool {
        self.attempts.iter().all(|(_, problem)| {
            matches!(
                problem,
                Problem::Resolve(_)
                    | Problem::ResolveTimeout(_)
                    | Problem::NoAddress
                    | Problem::Refused
                    | Problem::Connect(_)
                    | Problem::ConnectTimeout(_)
            )
        })
    }

    /// Whether it will not pass by itself: whatever was reached does not let this client in.
    pub(super) fn needs_somebody(&self) -> bool {
        let shut = |problem: &Problem| match problem {
            Problem::Sasl(error) => error.code.is_some(),
            Problem::Tls(error) => error.is_refusal(),
            Problem::Versions { .. } => true,
            _ => false,
        };
        self.attempts.iter().all(|(_, problem)| shut(problem))
    }

    /// The broker's code, if it refused the login.
    pub(super) fn refused(&self) -> Option<ErrorCode> {
        self.attempts.iter().find_map(|(_, problem)| match problem {
            Problem::Sasl(error) => error.code,
            _ => None,
        })
    }
}

fn version_gap(api: Api, offered: Option<(i16, i16)>) -> String {
    let (name, (oldest, newest)) = (api.name(), api.versions());
    match offered {
        Some((from, to)) if to < oldest => format!(
            "the broker is too old: it speaks {name} {from} to {to}, needed is {oldest} or newer; use Kafka 0.11 or newer"
        ),
        Some((from, to)) => format!(
            "no common version: the broker speaks {name} {from} to {to}, this client {oldest} to {newest}; use a newer \
             version of this client"
        ),
        None => {
            format!("it does not speak {name}; is it a Kafka broker that clients may use (not a controller)?")
        }
    }
}

struct Listed<'a>(&'a [(Option<SocketAddr>, Problem)]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (address, problem)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            match address {
                Some(address) => write!(f, "{separator}at {address} {problem}")?,
                None => write!(f, "{separator}{problem}")?,
            }
        }
        Ok(())
    }
}

impl Connector {
    /// Tries every address of the endpoint.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        role: Role,
    ) -> Result<Arc<Connection>, ConnectError> {
        let fail = |attempts| ConnectError { endpoint: endpoint.clone(), attempts };
        let addresses =
            match timeout(self.connect_timeout, lookup_host((endpoint.host.as_str(), endpoint.port))).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => return Err(fail(vec![(None, Problem::Resolve(error))])),
                Err(_) => return Err(fail(vec![(None, Problem::ResolveTimeout(self.connect_timeout))])),
            };
        let mut attempts = Vec::new();
        for address in addresses {
            match self.try_address(endpoint, address, role).await {
                Ok(connection) => return Ok(connection),
                Err(problem) => {
                    let is_name = address.ip().to_string() != endpoint.host;
                    attempts.push((is_name.then_some(address), problem));
                }
            }
        }
        if attempts.is_empty() {
            attempts.push((None, Problem::NoAddress));
        }
        Err(fail(attempts))
    }

    async fn try_address(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        role: Role,
    ) -> Result<Arc<Connection>, Problem> {
        let stream = match timeout(self.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(Problem::Refused);
            }
            Ok(Err(error)) => return Err(Problem::Connect(error)),
            Err(_) => return Err(Problem::ConnectTimeout(self.connect_timeout)),
        };
        // Requests are written whole; waiting for more would only add latency.
        stream.set_nodelay(true).map_err(Problem::Connect)?;
        let transport = match &self.tls {
            None => Transport::Plain(stream),
            Some(tls) => {
                let (session, words) = tls.begin(&endpoint.host).map_err(Problem::Tls)?;
                match timeout(self.connect_timeout, TlsStream::agree(stream, session, words)).await {
                    Ok(stream) => Transport::Tls(stream.map_err(Problem::Tls)?),
                    Err(_) => return Err(Problem::TlsTimeout(self.connect_timeout)),
                }
            }
        };
        let mut wire = Wire { transport, frames: FrameBuffer::default(), correlation: 0 };
        let versions = match timeout(self.connect_timeout, self.ask_versions(&mut wire)).await {
            Ok(versions) => versions?,
            Err(_) => return Err(Problem::HandshakeTimeout(self.connect_timeout)),
        };
        for api in [Api::Produce, Api::Metadata] {
            if versions.common(api).is_none() {
                return Err(Problem::Versions { api, offered: versions.offered(api) });
            }
        }
        let lifetime = match &self.sasl {
            None => None,
            Some(sasl) => {
                let exchange = sasl.begin(&versions, &self.client_id, None).await.map_err(Problem::Sasl)?;
                match timeout(self.connect_timeout, self.log_in(sasl, exchange, &mut wire)).await {
                    Ok(lifetime) => lifetime?,
                    Err(_) => return Err(Problem::SaslTimeout(self.connect_timeout)),
                }
            }
        };
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        };
        tracing::debug!(%endpoint, %address, protocol, ?role, ?lifetime, "connected");
        let about = Established {
            name: endpoint.to_string(),
            role,
            versions,
            client_id: self.client_id.clone(),
            request_timeout: self.request_timeout,
            cluster: self.cluster.clone(),
            sasl: self.sasl.clone(),
        };
        let connection = Connection::start(about, wire.transport, wire.frames);
        connection.prove_again_after(lifetime);
        Ok(connection)
    }

    async fn ask_versions(&self, wire: &mut Wire) -> Result<ApiVersions, Problem> {
        for version in [3, 0] {
            let request = api_versions_request(version, 0, &self.client_id, env!("CARGO_PKG_VERSION"));
            let answer = wire.ask(request).await?;
            let (code, versions) = read_api_versions(&answer, version).map_err(Problem::Wire)?;
            match code {
                ErrorCode(0) => return Ok(versions),
                ErrorCode::UNSUPPORTED_VERSION if version > 0 => {}
                code => return Err(Problem::Code(code)),
            }
        }
        Err(Problem::Code(ErrorCode::UNSUPPORTED_VERSION))
    }

    async fn log_in(
        &self,
        sasl: &Sasl,
        mut exchange: Exchange,
        wire: &mut Wire,
    ) -> Result<Lifetime, Problem> {
        loop {
            let answer = wire.ask(exchange.request()).await.map_err(|problem| match problem {
                Problem::HandshakeClosed { .. } => Problem::Sasl(exchange.closed()),
                other => other,
            })?;
            match exchange.answer(&answer) {
                Ok(Some(lifetime)) => return Ok(lifetime),
                Ok(None) => {}
                Err(error) => {
                    sasl.refused(&exchange);
                    return Err(Problem::Sasl(error));
                }
            }
        }
    }
}

/// A connection before it is one: a question, its answer, and the next.
struct Wire {
    transport: Transport,
    frames: FrameBuffer,
    correlation: i32,
}

impl Wire {
    async fn ask(&mut self, mut request: Vec<u8>) -> Result<Vec<u8>, Problem> {
        let expected = self.correlation;
        self.correlation += 1;
        set_correlation(&mut request, expected);
        self.transport.write_all(&request).await.map_err(|error| self.broke(error))?;
        loop {
            if let Some(frame) = self.frames.next_frame().map_err(Problem::Frame)? {
                return match correlation_of(frame).map_err(Problem::Wire)? {
                    found if found == expected => Ok(frame.to_vec()),
                    found => Err(Problem::Correlation { found, expected }),
                };
            }
            match self.transport.read(self.frames.space()).await {
                Ok(0) => return Err(self.closed()),
                Ok(n) => self.frames.filled(n),
                Err(error) => return Err(self.broke(error)),
            }
        }
    }

    fn closed(&self) -> Problem {
        Problem::HandshakeClosed { tls: matches!(self.transport, Transport::Tls(_)) }
    }

    /// A peer that does not like the request may reset instead of closing.
    fn broke(&self, error: io::Error) -> Problem {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => self.closed(),
            _ => match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
                Some(error) => Problem::Tls(error.clone()),
                None => Problem::HandshakeBroke(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::client::{SaslMechanism, Token, TokenProvider};
    use crate::config::{SaslConfig, SslConfig};
    use crate::producer::BoxFuture;

    const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

    /// Takes longer than a broker may.
    struct Slow;

    impl TokenProvider for Slow {
        fn token(&self) -> BoxFuture<'_, Result<Token, String>> {
            Box::pin(async {
                tokio::time::sleep(2 * CONNECT_TIMEOUT).await;
                Err("not today".to_owned())
            })
        }
    }

    /// What comes of asking for TLS whoever answers the first message of the handshake so, and then closes.
    async fn tls_answered_by(answer: &[u8]) -> ConnectError {
        let connector = Connector {
            client_id: "test".into(),
            connect_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            cluster: Weak::new(),
            tls: Some(Tls::new(SslConfig::default())),
            sasl: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let broker = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut header = [0; 5];
            socket.read_exact(&mut header).await.unwrap();
            let length = u16::from_be_bytes([header[3], header[4]]);
            socket.read_exact(&mut vec![0; length.into()]).await.unwrap();
            socket.write_all(answer).await.unwrap();
        };
        let (connected, ()) = tokio::join!(connector.connect(&endpoint, Role::Control), broker);
        connected.err().unwrap()
    }

    #[tokio::test]
    async fn a_broker_that_breaks_off_tls_may_be_starting_and_one_that_refuses_it_needs_somebody() {
        let broke = tls_answered_by(&[]).await;
        assert!(!broke.needs_somebody() && broke.to_string().contains("closed the connection"), "{broke}");
        // A fatal alert: handshake failure.
        let refused = tls_answered_by(&[21, 3, 3, 0, 2, 2, 40]).await;
        assert!(refused.needs_somebody() && refused.to_string().contains("certificate"), "{refused}");
        // The first byte of an answer, and then nothing any more.
        let broke = tls_answered_by(&[22, 3, 3]).await;
        assert!(!broke.needs_somebody(), "{broke}");
    }

    #[tokio::test]
    async fn no_broker_is_blamed_for_a_token_that_takes_long() {
        let config = SaslConfig {
            mechanism: Some(SaslMechanism::OauthBearer),
            token_provider: Some("slow".to_owned()),
            ..SaslConfig::default()
        };
        let connector = Connector {
            client_id: "test".into(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: Duration::from_secs(30),
            cluster: Weak::new(),
            tls: None,
            sasl: Sasl::new(config, &SslConfig::default(), Some(Arc::new(Slow))).map(Arc::new),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let broker = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            // It speaks only version 0 of ApiVersions; then, what it speaks.
            for answer in [
                &[0, 0, 0, 0, 0, 35, 0, 0, 0, 0][..],
                &[
                    0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3, 0, 9, 0, 3, 0, 0, 0, 9, 0, 17, 0, 0, 0, 1, 0,
                    36, 0, 0, 0, 1,
                ],
            ] {
                let length = socket.read_u32().await.unwrap() as usize;
                socket.read_exact(&mut vec![0; length]).await.unwrap();
                socket.write_u32(answer.len() as u32).await.unwrap();
                socket.write_all(answer).await.unwrap();
            }
            socket
        };
        let (connected, _socket) = tokio::join!(connector.connect(&endpoint, Role::Control), broker);
        let said = connected.err().unwrap().to_string();
        assert!(said.contains("no token for the login: not today"), "{said}");
    }
}
