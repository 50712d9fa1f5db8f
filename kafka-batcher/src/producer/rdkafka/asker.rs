//! Asks the cluster through librdkafka: calls that block, each on a thread for such, one at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_batcher_core::{ErrorClass, ErrorCode};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{Producer as _, ThreadedProducer};
use tokio::runtime::Handle;

use super::context::{Context, Shared, Trouble};
use super::known::Leaders;
use super::properties::{Properties, words};
use crate::producer::{ClusterInfo, ProducerError};

/// How long the cluster's id is waited for: it comes with the first metadata, which are there by then.
const ID_TIMEOUT: Duration = Duration::from_secs(1);

type Client = ThreadedProducer<Context>;

/// What the cluster says.
pub(super) struct Answer {
    pub(super) info: ClusterInfo,
    /// The topic asked for.
    pub(super) topic: Option<(ErrorCode, Leaders)>,
}

/// A client of librdkafka for questions; made when it is first needed.
pub(super) struct Asker {
    properties: Arc<Properties>,
    shared: Arc<Shared>,
    /// The broker may create the topics that are asked for.
    creates: bool,
    client: Arc<Mutex<Option<Arc<Client>>>>,
    /// Held by the thread that asks, so that not more of them wait than one.
    busy: Arc<tokio::sync::Mutex<()>>,
}

impl Asker {
    pub(super) fn new(properties: Arc<Properties>, shared: Arc<Shared>, creates: bool) -> Self {
        Asker { properties, shared, creates, client: Arc::default(), busy: Arc::default() }
    }

    /// Metadata of one topic; without one, of the cluster. Not longer than a connection may take.
    pub(super) async fn ask(&self, topic: Option<Arc<str>>) -> Result<Answer, ProducerError> {
        let timeout = self.properties.settings.connect_timeout;
        let mut troubles = self.shared.troubles();
        let before = troubles.borrow().0;
        let asked = async {
            let guard = self.busy.clone().lock_owned().await;
            let (properties, shared, client) =
                (self.properties.clone(), self.shared.clone(), self.client.clone());
            let creates = self.creates;
            let task = tokio::task::spawn_blocking(move || {
                let _guard = guard;
                fetch(&client, &properties, &shared, creates, topic.as_deref(), timeout)
            });
            task.await.unwrap_or_else(|_| Err("it was told to stop".to_owned()))
        };
        // Once the brokers have refused this client it is of no use to wait for the end.
        let is_refusal = |last: &Option<Trouble>| last.as_ref().is_some_and(|trouble| trouble.refused);
        let refused = troubles.wait_for(|(told, last)| *told > before && is_refusal(last));
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(timeout * 2, asked) => answer.unwrap_or_else(|_| Err("it takes too long".to_owned())),
            Ok(_) = refused => Err(String::new()),
        };
        match answer {
            Ok(answer) => {
                self.shared.well();
                Ok(answer)
            }
            Err(words) => Err(self.failed(&words)),
        }
    }

    fn failed(&self, words: &str) -> ProducerError {
        let (at, sasl) = (self.properties.addresses(), &self.properties.settings.sasl);
        match self.shared.trouble() {
            Some(trouble) if trouble.refused => {
                // The next one reads the password anew.
                self.retire();
                let code = ErrorCode::SASL_AUTHENTICATION_FAILED;
                let mechanism = sasl.mechanism.map_or("no SASL", |mechanism| mechanism.name());
                let login = sasl.login.as_deref().unwrap_or_default();
                let message = format!(
                    "the broker does not let {login:?} in ({mechanism}): {}; check sasl.login and the password",
                    trouble.words
                );
                ProducerError { class: code.class(), code: Some(code), message }
            }
            trouble => {
                let why = trouble.map_or_else(|| words.to_owned(), |trouble| trouble.words);
                let message = format!("no broker answers librdkafka at {at}: {why}");
                ProducerError { class: ErrorClass::Retriable, code: None, message }
            }
        }
    }

    /// The configuration of a topic by name; `None`: nobody says so. Makes a client of its own for it: it is asked for rarely.
    pub(super) async fn topic_configs(&self, topic: &str) -> Option<Vec<(String, Option<String>)>> {
        let timeout = self.properties.settings.connect_timeout;
        let (properties, shared, topic) = (self.properties.clone(), self.shared.clone(), topic.to_owned());
        let task = tokio::task::spawn_blocking(move || {
            let (config, secrets) = properties.config().ok()?;
            shared.keep_secret(secrets);
            // Its thread ends with it.
            let admin: AdminClient<Context> = config.create_with_context(Context::new(shared)).ok()?;
            let options = AdminOptions::new().request_timeout(Some(timeout));
            let topic = [ResourceSpecifier::Topic(&topic)];
            let found = Handle::current().block_on(admin.describe_configs(&topic, &options));
            found.ok()?.into_iter().next()?.ok()
        });
        let found = task.await.ok()??;
        Some(found.entries.into_iter().map(|entry| (entry.name, entry.value)).collect())
    }

    /// Lets go of the connections, on a thread of its own: it takes a moment.
    pub(super) fn retire(&self) {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        if client.is_some() {
            // Without a thread it is dropped here.
            let _ = std::thread::Builder::new()
                .name("kafka-batcher-rdkafka".to_owned())
                .spawn(move || drop(client));
        }
    }
}

fn fetch(
    client: &Mutex<Option<Arc<Client>>>,
    properties: &Properties,
    shared: &Arc<Shared>,
    creates: bool,
    topic: Option<&str>,
    timeout: Duration,
) -> Result<Answer, String> {
    let made = client.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let client = match made {
        Some(made) => made,
        None => {
            let (mut config, secrets) = properties.config()?;
            shared.keep_secret(secrets.clone());
            config.set("allow.auto.create.topics", creates.to_string());
            let made: Result<Client, _> = config.create_with_context(Context::new(shared.clone()));
            let made = Arc::new(made.map_err(|error| words(&error, &secrets))?);
            // Whoever asks is alone.
            *client.lock().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
            made
        }
    };
    let metadata = client.client().fetch_metadata(topic, timeout);
    let metadata = metadata.map_err(|error| match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::OperationTimedOut) => format!("nobody answered within {timeout:?}"),
        Some(code) => code.to_string(),
        None => error.to_string(),
    })?;
    let cluster_id = client.client().fetch_cluster_id(ID_TIMEOUT);
    Ok(Answer { info: info(&metadata, cluster_id), topic: topic.and_then(|topic| leaders(&metadata, topic)) })
}

fn info(metadata: &Metadata, cluster_id: Option<String>) -> ClusterInfo {
    let brokers = metadata.brokers().iter();
    let brokers =
        brokers.map(|broker| (broker.id(), format!("{}:{}", broker.host(), broker.port()))).collect();
    ClusterInfo { cluster_id, brokers }
}

fn leaders(metadata: &Metadata, topic: &str) -> Option<(ErrorCode, Leaders)> {
    let found = metadata.topics().iter().find(|found| found.name() == topic)?;
    let code = found.error().map_or(0, |error| i16::try_from(error as i32).unwrap_or(-1));
    let count = found.partitions().iter().map(|partition| partition.id() + 1).max().unwrap_or(0);
    let mut leaders = vec![None; usize::try_from(count).unwrap_or(0)];
    for partition in found.partitions() {
        let place = usize::try_from(partition.id()).ok().and_then(|at| leaders.get_mut(at));
        if let (Some(place), 0..) = (place, partition.leader()) {
            *place = Some(partition.leader());
        }
    }
    Some((ErrorCode(code), leaders))
}
