//! What librdkafka tells by itself: its log, its troubles, and what became of each event.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kafka_batcher_core::{ErrorCode, ProduceResult};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::{oneshot, watch};

use super::tally::{Fate, Tally};
use crate::secret::scrubbed;

/// Where librdkafka's own log goes.
const LOG: &str = "kafka_batcher::librdkafka";

/// What the handles of one producer share.
pub(super) struct Shared {
    secrets: Mutex<Vec<String>>,
    /// Why nobody is reached, or nobody lets this client in, as far as librdkafka said so; counted.
    trouble: watch::Sender<(u64, Option<Trouble>)>,
}

/// A trouble of a whole client.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// The brokers do not let this client in.
    pub(super) refused: bool,
    pub(super) words: String,
}

impl Shared {
    pub(super) fn new(secrets: Vec<String>) -> Arc<Self> {
        Arc::new(Shared { secrets: Mutex::new(secrets), trouble: watch::Sender::new((0, None)) })
    }

    /// A handle has these; none of them is told.
    pub(super) fn keep_secret(&self, secrets: Vec<String>) {
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets {
            if !known.contains(&secret) {
                known.push(secret);
            }
        }
    }

    pub(super) fn scrubbed(&self, words: &str) -> String {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        scrubbed(words, &secrets.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble.borrow().1.clone()
    }

    /// Changes with every trouble that is told.
    pub(super) fn troubles(&self) -> watch::Receiver<(u64, Option<Trouble>)> {
        self.trouble.subscribe()
    }

    fn tell(&self, trouble: Trouble) {
        self.trouble.send_modify(|(told, last)| {
            *told += 1;
            *last = Some(trouble);
        });
    }

    /// Somebody answered.
    pub(super) fn well(&self) {
        self.trouble.send_if_modified(|(_, last)| {
            *last = None;
            // Nobody waits for good news.
            false
        });
    }
}

/// Hears what one handle says.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    /// It can do nothing any more: another one is needed.
    pub(super) spent: Arc<AtomicBool>,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Context { shared, spent: Arc::default() }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, words: &str) {
        let words = self.shared.scrubbed(words);
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!(target: LOG, facility, "{words}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(target: LOG, facility, "{words}")
            }
            // Each attempt that fails is one. That Kafka is away is told by the batcher, once.
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Error => {
                tracing::info!(target: LOG, facility, "{words}")
            }
            _ => tracing::warn!(target: LOG, facility, "{words}"),
        }
    }

    fn error(&self, error: KafkaError, words: &str) {
        let words = self.shared.scrubbed(words);
        tracing::debug!(target: LOG, "{words}");
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                tracing::warn!(target: LOG, "this client of librdkafka cannot go on, another one takes its place: {words}");
                self.spent.store(true, Ordering::SeqCst);
            }
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                // It would go on with the password of its birth.
                self.spent.store(true, Ordering::SeqCst);
                self.shared.tell(Trouble { refused: true, words });
            }
            Some(RDKafkaErrorCode::AllBrokersDown) if self.shared.trouble().is_some() => {}
            Some(
                RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::SSL,
            ) => self.shared.tell(Trouble { refused: false, words }),
            _ => {}
        }
    }

    /// They are asked for by nobody; an own property may turn them on.
    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Event>;

    fn delivery(&self, report: &DeliveryResult<'_>, event: Box<Event>) {
        let fate = match report {
            Ok(message) => Fate::Written(message.offset()),
            Err((error, _)) => fate_of(error, &self.shared),
        };
        event.meets(fate);
    }
}

/// What an error says of an event that librdkafka had taken.
fn fate_of(error: &KafkaError, shared: &Shared) -> Fate {
    let Some(code) = error.rdkafka_error_code() else { return Fate::Unsure(error.to_string()) };
    match code {
        // In the broker's name: it is what it found in the cluster's metadata.
        RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition => {
            Fate::Refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        }
        RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight => {
            Fate::Unsure("the producer was closed before an answer came".to_owned())
        }
        RDKafkaErrorCode::MessageTimedOut => {
            let last = shared.trouble().map(|trouble| format!("; the last trouble: {}", trouble.words));
            Fate::Unsure(format!("no answer within request_timeout{}", last.unwrap_or_default()))
        }
        code => match i16::try_from(code as i32) {
            // What is positive is the protocol's, and -1 is, too.
            Ok(number) if number >= -1 => Fate::Refused(ErrorCode(number)),
            _ => Fate::Unsure(code.to_string()),
        },
    }
}

/// A batch whose events are under way.
pub(super) struct Open {
    events: u32,
    state: Mutex<(Tally, Option<oneshot::Sender<ProduceResult>>)>,
}

impl Open {
    pub(super) fn new(events: u32, answer: oneshot::Sender<ProduceResult>) -> Arc<Self> {
        Arc::new(Open { events, state: Mutex::new((Tally::default(), Some(answer))) })
    }
}

/// One of its events.
pub(super) struct Event {
    pub(super) batch: Arc<Open>,
    pub(super) index: u32,
}

impl Event {
    pub(super) fn meets(&self, fate: Fate) {
        let mut state = self.batch.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tally, answer) = &mut *state;
        tally.add(self.index, fate);
        if tally.told() == self.batch.events
            && let Some(answer) = answer.take()
        {
            // Who does not wait any more does not want to know.
            let _ = answer.send(std::mem::take(tally).result());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_protocol_are_refusals_and_librdkafkas_own_are_doubt() {
        let shared = Shared::new(Vec::new());
        let fate = |code| fate_of(&KafkaError::MessageProduction(code), &shared);
        for (code, number) in [
            (RDKafkaErrorCode::MessageSizeTooLarge, 10),
            (RDKafkaErrorCode::TopicAuthorizationFailed, 29),
            (RDKafkaErrorCode::UnknownPartition, 3),
            (RDKafkaErrorCode::InvalidRecord, 87),
            (RDKafkaErrorCode::Unknown, -1),
        ] {
            assert_eq!(fate(code), Fate::Refused(ErrorCode(number)), "{code:?}");
        }
        for code in [
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::PurgeQueue,
            RDKafkaErrorCode::PurgeInflight,
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::Fatal,
        ] {
            assert!(matches!(fate(code), Fate::Unsure(_)), "{code:?}");
        }
    }

    #[test]
    fn the_log_and_the_troubles_hold_no_secret() {
        let shared = Shared::new(vec!["hunter2".to_owned()]);
        let context = Context::new(shared.clone());
        context.error(KafkaError::Global(RDKafkaErrorCode::Authentication), "no hunter2 here");
        let trouble = shared.trouble().unwrap();
        assert_eq!((trouble.refused, trouble.words.as_str()), (true, "no ... here"));
        // That all of them are down is no news beside the reason.
        context.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert!(shared.trouble().unwrap().refused);
        shared.keep_secret(vec!["newer".to_owned()]);
        assert_eq!(shared.scrubbed("newer"), "...");
    }
}
