//! Watching: is Kafka there, is the topic there, does anything get acknowledged?
//!
//! Trouble is told when it begins (the batcher's notifier does), and here it is decided how long to put up with it.

use std::time::{Duration, Instant};

use kafka_batcher::{ClusterHealth, Health, KafkaBatcher, Report, TopicHealth};

use crate::console::{Console, about};
use crate::produce::plan::Plan;
use crate::units::seconds;

/// How long a topic may be said to be missing before it is believed, as with a login or a certificate that is refused: one that was
/// created a moment ago takes some time to be known to every broker.
const REFUSED: Duration = Duration::from_secs(3);

/// How often progress is looked at, at most.
const TICK: Duration = Duration::from_millis(200);

/// Resolves with the number of partitions when the topic can be written to.
///
/// The error says why it cannot, after `--timeout`; sooner where waiting would not help.
pub(super) async fn wait_until_ready(
    batcher: &KafkaBatcher,
    plan: &Plan<'_>,
    console: &Console,
) -> Result<Option<i32>, String> {
    // How long the user knows that it may take.
    let mut told = None;
    let mut health = batcher.health();
    let deadline = tokio::time::Instant::now() + plan.args.timeout;
    let mut refused_since = None;
    loop {
        let (state, unreachable, shut_out) = {
            let now = health.borrow_and_update();
            let unreachable = matches!(now.cluster, ClusterHealth::Unreachable { .. });
            let shut_out = matches!(now.cluster, ClusterHealth::Unreachable { shut_out: true, .. });
            (now.topics.get(&plan.topic).cloned(), unreachable, shut_out)
        };
        match state {
            Some(TopicHealth::Ready { partitions }) => return Ok(Some(partitions)),
            Some(TopicHealth::Failed { message }) => return Err(about(Some(&plan.topic), &message)),
            state if shut_out || matches!(state, Some(TopicHealth::Unavailable { .. })) => {
                refused_since.get_or_insert_with(tokio::time::Instant::now);
            }
            _ => refused_since = None,
        }
        if unreachable || refused_since.is_some() {
            let timeout = plan.args.timeout;
            let what = if unreachable { "Kafka" } else { "the topic" };
            let (time, option) = match refused_since {
                // What is refused for so long will not come by itself.
                Some(_) if REFUSED < timeout => (REFUSED, ""),
                _ => (timeout, " (--timeout)"),
            };
            // What is refused now and not reached in between is told once.
            if told.is_none_or(|told| time < told) {
                told = Some(time);
                console.say(format_args!("waiting up to {} for {what}{option}", seconds(time)));
            }
        }
        let until = refused_since.map_or(deadline, |since| deadline.min(since + REFUSED));
        match tokio::time::timeout_at(until, health.changed()).await {
            Ok(Ok(())) => {}
            // The batcher is gone, and nobody will say anything any more.
            Ok(Err(_)) => return Err("the batcher ended too early".to_owned()),
            Err(_) => return Err(reason(&health.borrow(), plan)),
        }
    }
}

/// Why nothing goes on, with what to do about it where that is known.
fn reason(health: &Health, plan: &Plan<'_>) -> String {
    let (topic, waited) = (&plan.topic, seconds(plan.args.timeout));
    if let Some(
        TopicHealth::Failed { message }
        | TopicHealth::Unavailable { message }
        | TopicHealth::Troubled { message },
    ) = health.topics.get(topic)
    {
        return about(Some(topic), message);
    }
    match &health.cluster {
        ClusterHealth::Unreachable { message, shut_out: true } => message.clone(),
        ClusterHealth::Unreachable { message, .. } => format!("no Kafka for {waited} (--timeout): {message}"),
        _ => {
            let brokers = plan.resolved.settings.endpoints.join(",");
            format!("no answer from {brokers} for {waited} (--timeout)")
        }
    }
}

/// Notices when nothing was acknowledged for too long.
pub(super) struct Stall {
    timeout: Duration,
    patience: Duration,
    topic: String,
    /// With a spool there is no hurry.
    safe: bool,
    settled: u64,
    since: Instant,
}

impl Stall {
    pub(super) fn new(plan: &Plan<'_>) -> Stall {
        Stall {
            timeout: plan.args.timeout,
            // An open batch waits for others by order of the user.
            patience: plan.args.timeout + plan.collector().max_wait_time,
            topic: plan.topic.clone(),
            safe: plan.spools(),
            settled: 0,
            since: Instant::now(),
        }
    }

    /// When to look.
    pub(super) fn tick(&self) -> Duration {
        TICK.min(self.timeout / 4).max(Duration::from_millis(10))
    }

    /// The reason to end, if it is time to.
    pub(super) fn over(&mut self, report: &Report, health: &Health) -> Option<String> {
        if self.safe {
            return None;
        }
        let settled = report.delivered + report.dead_lettered + report.lost + report.in_doubt;
        let waiting = report.in_memory + report.in_flight;
        if settled != self.settled || waiting == 0 {
            self.settled = settled;
            self.since = Instant::now();
            return None;
        }
        if self.since.elapsed() < self.patience {
            return None;
        }
        let why = match (health.topics.get(&self.topic), &health.cluster) {
            (_, ClusterHealth::Unreachable { message, .. })
            | (Some(TopicHealth::Unavailable { message } | TopicHealth::Troubled { message }), _) => {
                about(Some(&self.topic), message)
            }
            _ => "the brokers do not answer".to_owned(),
        };
        Some(format!("nothing was acknowledged for {} (--timeout): {why}", seconds(self.timeout)))
    }
}
