//! Faults: what shall go wrong, where, and at which request.
//!
//! A [`Fault`] is an effect and a scope. It counts the requests that its scope matches, lets the first ones pass ([`Fault::nth`]), and takes
//! effect on the following ones ([`Fault::times`]). So a test can loop `for k in 1..` over every point of an exchange.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::api::Api;
use crate::cluster::EmbeddedKafka;
use crate::error_code::ErrorCode;

/// Something a test wants done at a certain request.
type Trigger = Arc<dyn Fn(&EmbeddedKafka) + Send + Sync>;

#[derive(Clone)]
enum Effect {
    Answer(ErrorCode),
    AnswerAfterAppend(ErrorCode),
    LoseRequest,
    LoseAnswer,
    NeverServe,
    NeverAnswer,
    Delay(Duration),
    DelayAnswer(Duration),
    Throttle(Duration),
    Before(Trigger),
    After(Trigger),
}

/// Which requests a fault is about.
#[derive(Debug, Clone, Default)]
struct Scope {
    api: Option<Api>,
    broker: Option<i32>,
    topic: Option<String>,
    partition: Option<i32>,
}

impl Scope {
    fn names(&self, topic: &str, partition: i32) -> bool {
        self.topic.as_deref().is_none_or(|wanted| wanted == topic)
            && self.partition.is_none_or(|wanted| partition < 0 || wanted == partition)
    }

    fn matches(&self, api: Api, broker: i32, touches: &[(String, i32)]) -> bool {
        self.api.is_none_or(|wanted| wanted == api)
            && self.broker.is_none_or(|wanted| wanted == broker)
            && ((self.topic.is_none() && self.partition.is_none())
                || touches.iter().any(|(topic, partition)| self.names(topic, *partition)))
    }
}

/// Something that shall go wrong. Give it to [`EmbeddedKafka::inject`].
///
/// Without further words it concerns the next request of any kind to any broker, once.
///
/// ```
/// use kafka_batcher_broker::{Api, ErrorCode, Fault};
/// // The third Produce that touches partition 0 of "flights" is written, and its answer is lost.
/// let _ = Fault::lose_answer().on(Api::Produce).partition("flights", 0).nth(3);
/// // Partition 1 answers NOT_LEADER_OR_FOLLOWER twice; its neighbours in the same request are written.
/// let _ = Fault::answer(ErrorCode::NOT_LEADER_OR_FOLLOWER).on(Api::Produce).partition("flights", 1).times(2);
/// ```
#[derive(Clone)]
#[must_use = "a fault does nothing until it is injected"]
pub struct Fault {
    scope: Scope,
    pass: u64,
    left: Option<u64>,
    effect: Effect,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match &self.effect {
            Effect::Answer(code) => format!("answer {code}"),
            Effect::AnswerAfterAppend(code) => format!("append, then answer {code}"),
            Effect::LoseRequest => "lose the request".to_owned(),
            Effect::LoseAnswer => "lose the answer".to_owned(),
            Effect::NeverServe => "never serve".to_owned(),
            Effect::NeverAnswer => "serve and never answer".to_owned(),
            Effect::Delay(by) => format!("delay by {by:?}"),
            Effect::DelayAnswer(by) => format!("delay the answer by {by:?}"),
            Effect::Throttle(by) => format!("throttle by {by:?}"),
            Effect::Before(_) => "call before serving".to_owned(),
            Effect::After(_) => "call after serving".to_owned(),
        };
        f.debug_struct("Fault")
            .field("effect", &effect)
            .field("scope", &self.scope)
            .field("pass", &self.pass)
            .field("left", &self.left)
            .finish()
    }
}

impl Fault {
    fn new(effect: Effect) -> Self {
        Self { scope: Scope::default(), pass: 0, left: Some(1), effect }
    }

    /// Answers this code and does nothing else: what the fault's scope names is not written, not created, not read.
    pub fn answer(code: impl Into<ErrorCode>) -> Self {
        Self::new(Effect::Answer(code.into()))
    }

    /// Does what was asked, then answers this code all the same (20 `NOT_ENOUGH_REPLICAS_AFTER_APPEND` and 7 `REQUEST_TIMED_OUT` are such).
    pub fn answer_after_append(code: impl Into<ErrorCode>) -> Self {
        Self::new(Effect::AnswerAfterAppend(code.into()))
    }

    /// Closes the connection before anything is done: the request is lost.
    pub fn lose_request() -> Self {
        Self::new(Effect::LoseRequest)
    }

    /// Does what was asked, then closes the connection: the acknowledgement is lost.
    pub fn lose_answer() -> Self {
        Self::new(Effect::LoseAnswer)
    }

    /// Reads the request, does nothing and says nothing; the connection stays open and silent for ever.
    pub fn never_serve() -> Self {
        Self::new(Effect::NeverServe)
    }

    /// Does what was asked and says nothing; the connection stays open and silent for ever.
    pub fn never_answer() -> Self {
        Self::new(Effect::NeverAnswer)
    }

    /// Waits before doing what was asked. Requests behind it on the same connection wait too.
    pub fn delay(by: Duration) -> Self {
        Self::new(Effect::Delay(by))
    }

    /// Does what was asked and waits before answering.
    pub fn delay_answer(by: Duration) -> Self {
        Self::new(Effect::DelayAnswer(by))
    }

    /// Answers with this throttle time (whole milliseconds) and then does not read the connection for as long (KIP-219).
    pub fn throttle(by: Duration) -> Self {
        Self::new(Effect::Throttle(by))
    }

    /// Calls `action` when the request has been read and before it is served: to stop a broker, move a leader or add another fault at
    /// exactly this point. If it stops the broker that serves, the request is lost.
    ///
    /// It runs on the broker's thread: it must not wait for the broker's own answers.
    pub fn call_before(action: impl Fn(&EmbeddedKafka) + Send + Sync + 'static) -> Self {
        Self::new(Effect::Before(Arc::new(action)))
    }

    /// Calls `action` when the request has been served and before it is answered. If it stops the broker that serves, the answer is lost.
    ///
    /// It runs on the broker's thread: it must not wait for the broker's own answers.
    pub fn call_after(action: impl Fn(&EmbeddedKafka) + Send + Sync + 'static) -> Self {
        Self::new(Effect::After(Arc::new(action)))
    }

    /// Only requests of this kind.
    pub fn on(mut self, api: Api) -> Self {
        self.scope.api = Some(api);
        self
    }

    /// Only requests to this broker.
    pub fn broker(mut self, id: i32) -> Self {
        self.scope.broker = Some(id);
        self
    }

    /// Only requests that touch this topic; an error is answered for it alone.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.scope.topic = Some(topic.into());
        self
    }

    /// Only requests that touch this partition; an error is answered for it alone.
    pub fn partition(mut self, topic: impl Into<String>, partition: i32) -> Self {
        self.scope.topic = Some(topic.into());
        self.scope.partition = Some(partition);
        self
    }

    /// Lets the first `k - 1` matching requests pass: it begins with the `k`-th (1 is the next one).
    pub fn nth(mut self, k: u64) -> Self {
        self.pass = k.saturating_sub(1);
        self
    }

    /// Takes effect on so many matching requests, one after another (1 if nothing is said).
    pub fn times(mut self, times: u64) -> Self {
        self.left = Some(times);
        self
    }

    /// Takes effect until it is removed.
    pub fn always(mut self) -> Self {
        self.left = None;
        self
    }
}

/// Names an injected fault, to ask about it and to remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultId(u64);

/// What happens to a connection at one of the two points of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ending {
    #[default]
    GoOn,
    Close,
    FallSilent,
}

/// Everything that the faults have to say about one request.
#[derive(Default)]
pub(crate) struct Verdict {
    errors: Vec<(ErrorCode, Scope)>,
    errors_after: Vec<(ErrorCode, Scope)>,
    pub(crate) before: Ending,
    pub(crate) after: Ending,
    pub(crate) delay: Duration,
    pub(crate) delay_answer: Duration,
    pub(crate) throttle: Duration,
    pub(crate) call_before: Vec<Trigger>,
    pub(crate) call_after: Vec<Trigger>,
}

impl Verdict {
    /// The code to answer for this partition instead of serving it; partition -1: for the topic.
    pub(crate) fn error(&self, topic: &str, partition: i32) -> Option<ErrorCode> {
        self.errors.iter().find(|(_, scope)| scope.names(topic, partition)).map(|(code, _)| *code)
    }

    /// The code to answer for this partition although it was served.
    pub(crate) fn error_after(&self, topic: &str, partition: i32) -> Option<ErrorCode> {
        self.errors_after.iter().find(|(_, scope)| scope.names(topic, partition)).map(|(code, _)| *code)
    }

    /// The code to answer for a request that is not about topics.
    pub(crate) fn request_error(&self) -> Option<ErrorCode> {
        self.errors.first().or(self.errors_after.first()).map(|(code, _)| *code)
    }

    pub(crate) fn throttle_ms(&self) -> i32 {
        i32::try_from(self.throttle.as_millis()).unwrap_or(i32::MAX)
    }
}

struct Installed {
    id: FaultId,
    fault: Fault,
    hits: u64,
}

/// All faults of a cluster.
#[derive(Default)]
pub(crate) struct Faults {
    next: u64,
    installed: Vec<Installed>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) -> FaultId {
        let id = FaultId(self.next);
        self.next += 1;
        self.installed.push(Installed { id, fault, hits: 0 });
        id
    }

    pub(crate) fn remove(&mut self, id: FaultId) {
        self.installed.retain(|installed| installed.id != id);
    }

    pub(crate) fn clear(&mut self) {
        self.installed.clear();
    }

    /// Whether any fault can still take effect.
    pub(crate) fn armed(&self) -> bool {
        self.installed.iter().any(|installed| installed.fault.left != Some(0))
    }

    pub(crate) fn hits(&self, id: FaultId) -> u64 {
        self.installed.iter().find(|installed| installed.id == id).map_or(0, |installed| installed.hits)
    }

    /// Counts a request and says what shall happen to it, and how many faults took effect. All that match take effect together.
    pub(crate) fn judge(&mut self, api: Api, broker: i32, touches: &[(String, i32)]) -> (Verdict, u64) {
        let mut verdict = Verdict::default();
        let mut effects = 0;
        for Installed { fault, hits, .. } in &mut self.installed {
            if fault.left == Some(0) || !fault.scope.matches(api, broker, touches) {
                continue;
            }
            if fault.pass > 0 {
                fault.pass -= 1;
                continue;
            }
            fault.left = fault.left.map(|left| left - 1);
            *hits += 1;
            effects += 1;
            let scope = || fault.scope.clone();
            match &fault.effect {
                Effect::Answer(code) => verdict.errors.push((*code, scope())),
                Effect::AnswerAfterAppend(code) => verdict.errors_after.push((*code, scope())),
                Effect::LoseRequest => verdict.before = Ending::Close,
                Effect::LoseAnswer => verdict.after = Ending::Close,
                Effect::NeverServe => verdict.before = Ending::FallSilent,
                Effect::NeverAnswer => verdict.after = Ending::FallSilent,
                Effect::Delay(by) => verdict.delay += *by,
                Effect::DelayAnswer(by) => verdict.delay_answer += *by,
                Effect::Throttle(by) => verdict.throttle = verdict.throttle.max(*by),
                Effect::Before(call) => verdict.call_before.push(Arc::clone(call)),
                Effect::After(call) => verdict.call_after.push(Arc::clone(call)),
            }
        }
        (verdict, effects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touches() -> Vec<(String, i32)> {
        vec![("a".to_owned(), 0), ("a".to_owned(), 1), ("b".to_owned(), 0)]
    }

    #[test]
    fn an_error_for_a_partition_spares_its_neighbours() {
        let mut faults = Faults::default();
        faults.add(Fault::answer(ErrorCode::NOT_LEADER_OR_FOLLOWER).on(Api::Produce).partition("a", 1));
        let (verdict, _) = faults.judge(Api::Produce, 1, &touches());
        assert_eq!(verdict.error("a", 1), Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
        assert_eq!(verdict.error("a", 0), None);
        assert_eq!(verdict.error("b", 1), None);
    }

    #[test]
    fn the_kth_matching_request_is_hit_and_only_as_often_as_asked() {
        let mut faults = Faults::default();
        let id = faults.add(Fault::lose_answer().on(Api::Produce).topic("b").nth(3).times(2));
        let mut hit = Vec::new();
        for n in 1..=6 {
            faults.judge(Api::Metadata, 1, &touches());
            faults.judge(Api::Produce, 1, &[("a".to_owned(), 0)]);
            if faults.judge(Api::Produce, 1, &touches()).0.after == Ending::Close {
                hit.push(n);
            }
        }
        assert_eq!(hit, [3, 4]);
        assert_eq!(faults.hits(id), 2);
        assert!(!faults.armed());
    }
}
