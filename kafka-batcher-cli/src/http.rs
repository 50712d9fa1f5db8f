//! `--metrics-addr`: metrics, liveness and readiness over HTTP, for Prometheus and for whoever restarts processes.
//!
//! - `/metrics`: the text format 0.0.4, or OpenMetrics where that is asked for;
//! - `/health`: 200 unless a collector has failed, which only a new process mends;
//! - `/ready`: 200 if events of every topic go to Kafka, or to the spool; else what is wrong, topic by topic.
//!
//! It serves as long as the process lives, the last values too, and nothing waits for it.

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use kafka_batcher::{ClusterHealth, Health, KafkaBatcher, SpoolHealth, TextFormat, TopicHealth};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::exit::UsageError;

const PATHS: &str = "/metrics\n/health\n/ready\n";

/// Takes the address, before anything is done that could not be undone.
pub(crate) async fn bind(address: &str) -> Result<TcpListener, UsageError> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; another process listens there: choose another port",
            std::io::ErrorKind::InvalidInput => "; write HOST:PORT, such as 127.0.0.1:9464",
            _ => "",
        };
        UsageError(format!("--metrics-addr {address}: {error}{hint}"))
    })
}

/// Serves from now on.
pub(crate) fn serve(listener: TcpListener, batcher: KafkaBatcher) {
    let paths = Router::new()
        .route("/", get(async || PATHS))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, PATHS))
        .with_state(batcher);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, paths).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
}

async fn metrics(State(batcher): State<KafkaBatcher>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = TextFormat::from_accept(&accept.collect::<Vec<_>>().join(","));
    ([(CONTENT_TYPE, format.content_type())], batcher.metrics_text(format).await)
}

async fn health(State(batcher): State<KafkaBatcher>) -> impl IntoResponse {
    let health = batcher.health().borrow().clone();
    answer(!health.has_failed(), "healthy", &health)
}

async fn ready(State(batcher): State<KafkaBatcher>) -> impl IntoResponse {
    let health = batcher.health().borrow().clone();
    answer(health.topics.keys().all(|topic| health.blocked(topic).is_none()), "ready", &health)
}

fn answer(good: bool, word: &str, health: &Health) -> impl IntoResponse + use<> {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (cluster, reason) = match &health.cluster {
        ClusterHealth::Connected(_) => ("connected", None),
        ClusterHealth::Unreachable { message } => ("unreachable", Some(message)),
        _ => ("connecting", None),
    };
    let topics: Map<String, Value> =
        health.topics.iter().map(|(name, topic)| (name.clone(), of_topic(health, name, topic))).collect();
    let mut body = json!({ word: good, "cluster": { "state": cluster, "reason": reason }, "topics": topics });
    drop_nulls(&mut body);
    (code, [(CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

fn of_topic(health: &Health, name: &str, topic: &TopicHealth) -> Value {
    let reason = match topic {
        TopicHealth::Troubled { message }
        | TopicHealth::Unavailable { message }
        | TopicHealth::Failed { message } => Some(message),
        _ => None,
    };
    let (spool, spool_reason) = match health.spools.get(name) {
        Some(SpoolHealth::Works) => (Some("works"), None),
        Some(SpoolHealth::Opening) => (Some("opening"), None),
        Some(SpoolHealth::Troubled { message }) => (Some("troubled"), Some(message)),
        _ => (None, None),
    };
    json!({
        "state": topic.word(),
        "reason": reason,
        "spool": spool,
        "spool_reason": spool_reason,
        "blocked": health.blocked(name),
    })
}

/// What does not apply is not said.
fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}
