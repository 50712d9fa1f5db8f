//! `--metrics-addr`: metrics, liveness and readiness over HTTP, for Prometheus and for whoever restarts processes.
//!
//! - `/metrics`: the text format 0.0.4, or OpenMetrics where that is asked for;
//! - `/health`: 200 unless a collector has failed, which only a new process mends;
//! - `/ready`: 200 if events of every topic go to Kafka, or to the spool; else what is wrong, topic by topic. A batcher that shuts
//!   down is not ready.
//! - `/ready/TOPIC`: the same of one topic; 404 if it has no collector.
//!
//! It serves as long as the process lives, the last values too, and nothing waits for it.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use kafka_batcher::{ClusterHealth, Health, KafkaBatcher, SpoolHealth, TextFormat, TopicHealth};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::exit::UsageError;

const PATHS: &str = "/metrics\n/health\n/ready\n/ready/TOPIC\n";

/// Takes the address, before anything is done that could not be undone.
pub(crate) async fn bind(address: &str) -> Result<TcpListener, UsageError> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            _ if address.starts_with(':') => {
                "; name the host too: 127.0.0.1 for this machine alone, 0.0.0.0 for everybody"
            }
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
        .route("/ready/{topic}", get(topic_ready))
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
    let ready = !health.closing && health.topics.keys().all(|topic| health.blocked(topic).is_none());
    answer(ready, "ready", &health)
}

async fn topic_ready(State(batcher): State<KafkaBatcher>, Path(topic): Path<String>) -> impl IntoResponse {
    let mut health = batcher.health().borrow().clone();
    health.topics.retain(|name, _| *name == topic);
    if health.topics.is_empty() {
        return (StatusCode::NOT_FOUND, format!("{topic:?} has no collector\n")).into_response();
    }
    answer(health.blocked(&topic).is_none(), "ready", &health).into_response()
}

fn answer(good: bool, word: &str, health: &Health) -> impl IntoResponse + use<> {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (cluster, reason) = match &health.cluster {
        ClusterHealth::Connected(_) => ("connected", None),
        ClusterHealth::Unreachable { message, .. } => ("unreachable", Some(message)),
        _ => ("connecting", None),
    };
    let topics: Map<String, Value> =
        health.topics.iter().map(|(name, topic)| (name.clone(), of_topic(health, name, topic))).collect();
    let closing = health.closing.then_some(true);
    let cluster = json!({ "state": cluster, "reason": reason });
    let mut body = json!({ word: good, "closing": closing, "cluster": cluster, "topics": topics });
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

#[cfg(test)]
mod tests {
    use kafka_batcher_broker::EmbeddedKafka;

    use super::*;

    #[tokio::test]
    async fn a_topic_that_is_blocked_is_not_the_others_trouble_where_one_is_asked_for() {
        let kafka = EmbeddedKafka::builder().topic("there", 1).start().unwrap();
        let batcher = KafkaBatcher::builder([kafka.bootstrap()]).start().await.unwrap();
        let collectors = ["there", "missing"].map(|topic| batcher.collector(topic).build().unwrap());
        let known = |health: &Health| {
            matches!(health.topics["there"], TopicHealth::Ready { .. })
                && matches!(health.topics["missing"], TopicHealth::Unavailable { .. })
        };
        batcher.health().wait_for(known).await.unwrap();
        let all = ready(State(batcher.clone())).await.into_response().status();
        let of = async |topic: &str| {
            topic_ready(State(batcher.clone()), Path(topic.to_owned())).await.into_response().status()
        };
        let each = [of("there").await, of("missing").await, of("elsewhere").await];
        let (no, yes, unknown) = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK, StatusCode::NOT_FOUND);
        assert_eq!((all, each), (no, [yes, no, unknown]));
        drop(batcher.shutdown(std::time::Duration::ZERO).await);
        drop(collectors);
    }
}
