//! One broker of the cluster: where it is, the connection to it, and when the next attempt to connect may be made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_batcher_core::Backoff;
use tokio::time::Instant;

use super::Endpoint;
use super::connection::Connection;
use crate::producer::BrokerState;

pub(crate) struct Node {
    pub(super) id: i32,
    /// The number of the connection that is open or will be opened next. Counts closed ones.
    generation: AtomicU64,
    /// Held while connecting, so that there is one attempt at a time.
    pub(super) connecting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    endpoint: Endpoint,
    connection: Option<Arc<Connection>>,
    backoff: Backoff,
    failure: Option<Failure>,
    /// Connections made, attempts failed, silence asked for: all so far.
    connections: u64,
    failures: u64,
    throttled: Duration,
}

/// A failed attempt.
#[derive(Clone)]
struct Failure {
    /// No other attempt before.
    until: Instant,
    message: Arc<str>,
}

impl Node {
    pub(super) fn new(id: i32, endpoint: Endpoint, backoff: Backoff) -> Self {
        Node {
            id,
            generation: AtomicU64::new(1),
            connecting: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                endpoint,
                connection: None,
                backoff,
                failure: None,
                connections: 0,
                failures: 0,
                throttled: Duration::ZERO,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.lock().endpoint.clone()
    }

    /// The broker is at another address now: no reason to wait with the next attempt.
    pub(super) fn move_to(&self, endpoint: Endpoint) {
        let mut state = self.lock();
        if state.endpoint != endpoint {
            state.endpoint = endpoint;
            state.failure = None;
        }
    }

    pub(crate) fn connection(&self) -> Option<Arc<Connection>> {
        self.lock().connection.clone()
    }

    /// What the last attempt failed of, while it is too early for the next.
    pub(super) fn recent_failure(&self, now: Instant) -> Option<Arc<str>> {
        self.lock()
            .failure
            .as_ref()
            .filter(|failure| failure.until > now)
            .map(|failure| failure.message.clone())
    }

    pub(super) fn connected(&self, connection: Arc<Connection>) {
        let mut state = self.lock();
        state.backoff.reset();
        state.failure = None;
        state.connections += 1;
        state.connection = Some(connection);
    }

    pub(super) fn failed(&self, message: Arc<str>, now: Instant) {
        let mut state = self.lock();
        state.failures += 1;
        let until = now + state.backoff.next_delay();
        state.failure = Some(Failure { until, message });
    }

    pub(super) fn throttled(&self, by: Duration) {
        self.lock().throttled += by;
    }

    /// How it is with this broker, for the metrics.
    pub(crate) fn state(&self) -> BrokerState {
        let state = self.lock();
        let State { connection, connections, failures, throttled, .. } = &*state;
        let (connection, connections, failures) = (connection.clone(), *connections, *failures);
        let throttled = *throttled;
        // Not under the lock: a connection has its own.
        drop(state);
        let connection = connection.filter(|connection| connection.is_open());
        let (connected, in_flight) = (connection.is_some(), connection.map_or(0, |open| open.in_flight()));
        BrokerState { node: self.id, connected, in_flight, connections, failures, throttled }
    }

    /// Connection number `generation` is over.
    pub(super) fn disconnected(&self, generation: u64) {
        let mut state = self.lock();
        // Before the connection is let go: who finds none must find the next one's number.
        let _ =
            self.generation.compare_exchange(generation, generation + 1, Ordering::AcqRel, Ordering::Acquire);
        // Told late, of one whose successor is here already: that one stays.
        if state.connection.as_ref().is_some_and(|held| held.generation() == generation) {
            state.connection = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::connection::testing;

    #[tokio::test]
    async fn news_of_an_earlier_connections_end_leaves_the_newer_one_and_its_number_alone() {
        let backoff = Backoff::new(kafka_batcher_core::BackoffSettings::default(), 1);
        let node = Node::new(1, Endpoint { host: "127.0.0.1".to_owned(), port: 9092 }, backoff);
        let (first, ..) = testing::connection(1).await;
        let (second, ..) = testing::connection(2).await;
        node.connected(first);
        node.disconnected(1);
        assert!(node.connection().is_none());
        node.connected(second.clone());
        node.disconnected(1);
        assert!(node.connection().is_some_and(|held| Arc::ptr_eq(&held, &second)));
        assert_eq!(node.generation(), 2);
        node.disconnected(2);
        assert!(node.connection().is_none());
        assert_eq!(node.generation(), 3);
    }
}
