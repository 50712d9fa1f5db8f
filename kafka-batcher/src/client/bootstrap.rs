//! Somebody to ask, and what is asked: metadata, producer ids, the state of producers.
//!
//! Questions about the cluster have a connection of their own, to whichever broker answered first: behind a Produce
//! request that waits for its replicas they would wait as long. Who is asked next when it ends: the brokers known
//! (those with an open connection first), then every bootstrap address again, each with all its IP addresses. One that
//! does not answer is not waited for before the next is tried.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use kafka_batcher_core::wire::{Api, MetadataAnswer, metadata_request, read_metadata};
use kafka_batcher_core::{Backoff, BackoffSettings, ErrorClass, ErrorCode};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::connect::Connector;
use super::connection::{Connection, Lost, Role};
use super::node::Node;
use super::sasl::Sasl;
use super::tls::Tls;
use super::{ClientSettings, Endpoint};
use crate::producer::{MissingTopic, ProducerError};

/// How long one broker may take to accept a connection before the next one is tried, too. A frozen broker, or one behind a firewall that
/// says nothing, would otherwise keep the client from learning who leads now for all of `connect_timeout`. The value is that of RFC 8305
/// (Happy Eyeballs): longer only delays the second attempt, shorter costs a connection more where brokers are slow.
const NEXT_ATTEMPT: Duration = Duration::from_millis(250);

/// How long closing waits for whoever has just got a control connection.
const CLOSING: Duration = Duration::from_millis(100);

/// Why an address is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A broker of the cluster, as it said itself.
    Known,
    Bootstrap,
}

/// A client of one cluster.
pub(crate) struct Client {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) settings: ClientSettings,
    pub(crate) client_id: Arc<str>,
    bootstrap: Vec<Endpoint>,
    /// Where in the bootstrap list to begin, so that many clients with one list do not all load its first broker.
    first: AtomicUsize,
    connector: Connector,
    control: tokio::sync::Mutex<Option<Arc<Connection>>>,
    closed: AtomicBool,
}

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// Nobody could be asked. With the code of a broker that refused the login; retriable unless nobody lets this client in.
    Unreachable { message: String, code: Option<ErrorCode>, class: ErrorClass },
    /// The connection ended, or the answer took too long.
    Lost(Lost),
    /// The answer is none.
    Broken(String),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AskError::Unreachable { message, .. } | AskError::Broken(message) => f.write_str(message),
            AskError::Lost(lost) => lost.fmt(f),
        }
    }
}

impl From<AskError> for ProducerError {
    fn from(error: AskError) -> Self {
        let message = error.to_string();
        match error {
            AskError::Unreachable { class, code, .. } => ProducerError { class, code, message },
            _ => ProducerError { class: ErrorClass::Retriable, code: None, message },
        }
    }
}

impl Client {
    pub(crate) fn new(settings: ClientSettings, bootstrap: Vec<Endpoint>) -> Self {
        let backoff = backoff_of(&settings);
        let cluster = Arc::new(Cluster::new(backoff));
        let client_id: Arc<str> = settings.client_id.as_str().into();
        let connector = Connector {
            client_id: client_id.clone(),
            connect_timeout: settings.connect_timeout,
            request_timeout: settings.request_timeout,
            cluster: Arc::downgrade(&cluster),
            tls: settings.ssl.is_on().then(|| Tls::new(settings.ssl.clone())),
            sasl: settings
                .sasl
                .is_on()
                .then(|| {
                    Sasl::new(settings.sasl.clone(), &settings.ssl, settings.token_provider.clone())
                        .map(Arc::new)
                })
                .flatten(),
        };
        Client {
            cluster,
            settings,
            client_id,
            bootstrap,
            first: AtomicUsize::new(RandomState::new().hash_one(0) as usize),
            connector,
            control: tokio::sync::Mutex::new(None),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A connection to ask about the cluster.
    pub(crate) async fn control(&self) -> Result<Arc<Connection>, AskError> {
        let mut control = self.control.lock().await;
        if let Some(open) = control.as_ref().filter(|connection| connection.is_open()) {
            return Ok(open.clone());
        }
        *control = None;
        // Who is known, those with an open connection first; then the bootstrap addresses.
        let known = self.cluster.candidates().into_iter().map(|(_, endpoint)| (Found::Known, endpoint));
        let n = self.bootstrap.len();
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        let named = (0..n).filter_map(|at| self.bootstrap.get(first.wrapping_add(at) % n));
        let mut queue: VecDeque<(Found, Endpoint)> =
            known.chain(named.map(|endpoint| (Found::Bootstrap, endpoint.clone()))).collect();
        let mut attempts = FuturesUnordered::new();
        let mut problems = Vec::new();
        let (mut code, mut shut_out) = (None, true);
        loop {
            self.check_open()?;
            if let Some((found, endpoint)) = queue.pop_front() {
                attempts.push(async move {
                    let result = self.connector.connect(&endpoint, Role::Control).await;
                    (found, endpoint, result)
                });
            }
            let answered = tokio::select! {
                answered = attempts.next() => answered,
                () = tokio::time::sleep(NEXT_ATTEMPT), if !queue.is_empty() => continue,
            };
            match answered {
                Some((found, endpoint, Ok(connection))) => {
                    if found == Found::Bootstrap {
                        self.cluster.set_found_by(endpoint);
                    }
                    return self.take_control(&mut control, connection);
                }
                Some((Found::Known, _, Err(error))) => {
                    tracing::debug!(%error, "a known broker does not answer")
                }
                Some((Found::Bootstrap, _, Err(error))) => {
                    code = code.or(error.refused());
                    shut_out &= error.needs_somebody();
                    problems.push(error.to_string());
                }
                None => break,
            }
        }
        problems.sort();
        let which = if n == 1 { "the bootstrap address fails" } else { "no bootstrap address answers" };
        let message = format!("cannot reach Kafka, {which}: {}", problems.join("; "));
        let class = if shut_out { ErrorClass::Unavailable } else { ErrorClass::Retriable };
        Err(AskError::Unreachable { message, code, class })
    }

    fn take_control(
        &self,
        control: &mut Option<Arc<Connection>>,
        connection: Arc<Connection>,
    ) -> Result<Arc<Connection>, AskError> {
        // Whoever closed the client meanwhile did not see this connection.
        if let Err(closed) = self.check_open() {
            connection.shut();
            return Err(closed);
        }
        Ok(control.insert(connection).clone())
    }

    fn check_open(&self) -> Result<(), AskError> {
        match self.is_closed() {
            true => Err(AskError::Unreachable {
                message: "the producer is closed".to_owned(),
                code: None,
                class: ErrorClass::Retriable,
            }),
            false => Ok(()),
        }
    }

    /// Asks whoever can be asked. A question whose connection had ended is asked once more over a new one: a broker
    /// closes what is idle (`connections.max.idle.ms`), and nobody is to notice.
    pub(crate) async fn ask<T>(
        &self,
        api: Api,
        request: impl Fn(i16) -> Vec<u8>,
        read: impl Fn(&[u8], i16) -> Result<T, kafka_batcher_core::wire::WireError>,
    ) -> Result<Option<(Arc<Connection>, T)>, AskError> {
        let mut last = Lost::Closed("nobody was asked".into());
        for _ in 0..2 {
            self.check_open()?;
            let connection = self.control().await?;
            let Some(version) = connection.version(api) else { return Ok(None) };
            match connection.ask(request(version)).await {
                Ok(answer) => match read(&answer, version) {
                    Ok(answer) => return Ok(Some((connection, answer))),
                    Err(error) => {
                        let (name, at) = (api.name(), connection.name());
                        connection.shut();
                        return Err(AskError::Broken(format!(
                            "the answer of {at} to {name} version {version} cannot be read ({error}); is it a Kafka \
                             broker?"
                        )));
                    }
                },
                Err(lost @ Lost::TimedOut(_)) => return Err(AskError::Lost(lost)),
                Err(lost) => last = lost,
            }
        }
        Err(AskError::Lost(last))
    }

    /// Asks for metadata of these topics, and remembers it.
    pub(crate) async fn metadata(
        &self,
        topics: &[Arc<str>],
        missing: MissingTopic,
    ) -> Result<MetadataAnswer, ProducerError> {
        let create = missing == MissingTopic::Create;
        let request = |version| {
            metadata_request(version, 0, &self.client_id, topics.iter().map(|topic| &**topic), create)
        };
        let Some((connection, answer)) = self.ask(Api::Metadata, request, read_metadata).await? else {
            let message = "the broker speaks no version of Metadata that this client knows".to_owned();
            return Err(ProducerError { class: ErrorClass::Unavailable, code: None, message });
        };
        connection.throttle(answer.throttle_ms);
        if answer.code.0 != 0 {
            // 129 REBOOTSTRAP_REQUIRED and what may come: this broker does not count as one to ask.
            connection.shut();
            let message = format!("{} answered Metadata with {}", connection.name(), name(answer.code));
            return Err(ProducerError { class: answer.code.class(), code: Some(answer.code), message });
        }
        self.cluster.learn(&answer);
        Ok(answer)
    }

    /// The open connection to the node, or a new one. `send` is called with it before anybody else may use it.
    pub(crate) async fn with_node<T>(
        &self,
        node: &Node,
        send: impl FnOnce(&Arc<Connection>) -> T,
    ) -> Result<T, Arc<str>> {
        let _alone = node.connecting.lock().await;
        if let Some(connection) = node.connection() {
            return Ok(send(&connection));
        }
        self.check_open().map_err(|error| Arc::<str>::from(error.to_string()))?;
        if let Some(message) = node.recent_failure(Instant::now()) {
            return Err(message);
        }
        let endpoint = node.endpoint();
        let role = Role::Node { node: node.id, generation: node.generation() };
        match self.connector.connect(&endpoint, role).await {
            Ok(connection) => {
                let sent = send(&connection);
                node.connected(connection.clone());
                // It may have ended, or the client been closed, before anybody could find it here.
                if self.is_closed() {
                    connection.shut();
                }
                if let (false, Role::Node { generation, .. }) = (connection.is_open(), role) {
                    node.disconnected(generation);
                }
                Ok(sent)
            }
            Err(error) => {
                let hint = if error.is_unreached() { self.hint(node, &endpoint) } else { String::new() };
                let message = format!("cannot connect to broker {} at {error}{hint}", node.id);
                let message: Arc<str> = message.into();
                node.failed(message.clone(), Instant::now());
                self.cluster.want_refresh();
                Err(message)
            }
        }
    }

    /// The commonest trap of Kafka's: the bootstrap address works, and the one that the broker advertises does not.
    fn hint(&self, node: &Node, advertised: &Endpoint) -> String {
        match self.cluster.found_by() {
            Some(found_by) if node.generation() == 1 && !self.bootstrap.contains(advertised) => format!(
                "; the bootstrap address {found_by} works, but there the cluster says that broker {} is to be reached at \
                 {advertised} (its advertised.listeners): make {advertised} reachable from here, or advertise another \
                 address",
                node.id
            ),
            _ => String::new(),
        }
    }

    /// Closes every connection; none is made any more.
    pub(crate) async fn close(&self) {
        self.shut();
        // Who holds the lock for longer is connecting, sees afterwards that the client is closed, and hangs up itself:
        // nobody has to wait for an address that keeps silent.
        if let Ok(mut control) = tokio::time::timeout(CLOSING, self.control.lock()).await
            && let Some(connection) = control.take()
        {
            connection.shut();
        }
        self.shut();
    }

    /// The same, as far as it goes without waiting.
    pub(crate) fn shut(&self) {
        self.closed.store(true, Ordering::Release);
        if let Ok(mut control) = self.control.try_lock()
            && let Some(connection) = control.take()
        {
            connection.shut();
        }
        for node in self.cluster.nodes() {
            if let Some(connection) = node.connection() {
                connection.shut();
            }
        }
    }
}

/// Keeps metadata fresh, until the client is gone: when somebody found it wrong, when it is old, and again and again
/// while something in it is missing; never more often than the backoff allows.
pub(crate) async fn keep_fresh(
    client: Weak<Client>,
    cluster: Arc<Cluster>,
    max_age: Duration,
    backoff: BackoffSettings,
) {
    let mut pause = Backoff::new(backoff, RandomState::new().hash_one(1));
    loop {
        tokio::select! {
            () = cluster.refresh_wanted() => {}
            () = tokio::time::sleep(max_age) => {}
        }
        let Some(client) = client.upgrade() else { return };
        if client.is_closed() {
            return;
        }
        let topics = cluster.topics();
        let result = client.metadata(&topics, MissingTopic::Refuse).await;
        drop(client);
        let settled = match &result {
            Ok(_) => !cluster.is_unsettled(),
            Err(error) => {
                tracing::debug!(%error, "metadata could not be refreshed");
                false
            }
        };
        match settled {
            true => pause.reset(),
            false => cluster.want_refresh(),
        }
        tokio::time::sleep(if settled { backoff.initial } else { pause.next_delay() }).await;
    }
}

pub(crate) fn backoff_of(settings: &ClientSettings) -> BackoffSettings {
    BackoffSettings {
        initial: settings.retry_backoff,
        max: settings.retry_backoff_max,
        ..BackoffSettings::default()
    }
}

/// A code as people read it.
pub(crate) fn name(code: ErrorCode) -> String {
    format!("{} ({})", code.name(), code.0)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_a_broker_advertises_is_suspected_only_where_nothing_is_reached() {
        let client = Client::new(ClientSettings::new(["bootstrap:1"]), vec![]);
        client.cluster.set_found_by(Endpoint::parse("bootstrap:1").unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let said = async || {
            let backoff = Backoff::new(backoff_of(&client.settings), 1);
            let node = Node::new(1, endpoint.clone(), backoff);
            client.with_node(&node, |_| ()).await.unwrap_err()
        };
        let accepted = async { drop(listener.accept().await.unwrap()) };
        let (reached, ()) = tokio::join!(said(), accepted);
        assert!(reached.contains("it closed the connection") && !reached.contains("advertised"), "{reached}");
        drop(listener);
        let unreached = said().await;
        assert!(unreached.contains("refused") && unreached.contains("advertised.listeners"), "{unreached}");
    }
}
