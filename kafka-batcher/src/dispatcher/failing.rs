//! The end of a collector that cannot go on: its dispatcher panicked, or its watcher did, more often than may be.
//!
//! User code is contained call by call, so this is a mistake of our own, and the dispatcher is not begun anew. It alone
//! knows which numbers were given to which events and which of them may be in Kafka; after a panic nobody knows whether
//! that is whole, and numbers given from a wrong memory are worse than a stop: another event under a number that was used
//! is swallowed by the broker without a word. So: callers are refused with the reason, the operator is told, what was
//! accepted goes to the spool with the numbers it has, and the next process finds out what became of it as after a kill.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::{FutureExt, StreamExt};
use kafka_batcher_core::Time;

use super::{Closing, Dispatcher, End, SPILLING};
use crate::connection_manager::TopicHealth;
use crate::error_notifier::NotificationKind;

impl Dispatcher {
    /// See the module's documentation.
    pub(super) async fn fail(mut self, reason: String) {
        let topic = self.parts.topic.clone();
        topic.fail(&reason);
        self.parts.manager.set_topic(&topic.name, |health| {
            *health = TopicHealth::Failed { message: reason.clone() };
        });
        let fate = match self.keeps() {
            true => "what was accepted goes to the spool; start this process again to deliver it",
            false => "what was accepted and not delivered is lost, since there is no spool",
        };
        let message = format!("the collector has failed, no event is accepted any more, {fate}: {reason}");
        self.tell(NotificationKind::CollectorFailed, None, message);
        // What they would answer, nobody is there to judge: they count as never answered.
        self.requests.clear();
        self.under_way.clear();
        let until = topic.clock.now() + SPILLING;
        self.closing.get_or_insert_with(|| Closing {
            deadline: until,
            spilling_until: None,
            done: Vec::new(),
        });
        while AssertUnwindSafe(self.spill_what_is_left(until)).catch_unwind().await.is_err() {
            // One partition that is broken must not cost the others their events.
            if !self.give_up_touched() {
                break;
            }
        }
        for partition in 0..self.lanes.len() as i32 {
            self.give_up_lane(partition);
        }
        let mut ended = self;
        let told = catch_unwind(AssertUnwindSafe(|| {
            ended.abandon(topic.clock.now());
            ended.account_for_the_rest();
            ended.tell_losses(true);
        }));
        match told {
            Ok(()) => ended.finish(),
            // Its drop keeps what accounts there are.
            Err(_) => drop(ended),
        }
    }

    async fn spill_what_is_left(&mut self, until: Time) {
        let topic = self.parts.topic.clone();
        self.stop_compressing();
        self.collect();
        if self.parts.storage.is_none() {
            return;
        }
        let now = topic.clock.now();
        self.end = End::Spilling;
        if let Some(closing) = &mut self.closing {
            closing.spilling_until = Some(until);
        }
        for partition in 0..self.lanes.len() as i32 {
            if let Some(lane) = self.lane_mut(partition).filter(|lane| !lane.given_up) {
                lane.outbox.spill();
                lane.dirty = true;
            }
            self.take_events(partition, now);
        }
        loop {
            self.drive();
            let now = topic.clock.now();
            if self.is_done() || until <= now {
                return;
            }
            let next = self.next_timer().unwrap_or(until).clamp(now, until);
            tokio::select! {
                Some(done) = self.storing.next(), if !self.storing.is_empty() => self.on_done(done),
                () = tokio::time::sleep_until(topic.clock.instant(next)) => {}
            }
        }
    }

    /// The partition that was at work when something panicked is given up. False: it was before.
    fn give_up_touched(&mut self) -> bool {
        let touched = self.touched;
        let new = self.lane_mut(touched).is_some_and(|lane| !lane.given_up);
        self.give_up_lane(touched);
        new
    }

    /// What is left of a partition in memory is lost, or in doubt.
    fn give_up_lane(&mut self, partition: i32) {
        let now = self.parts.topic.clock.now();
        let Some(lane) = self.lane_mut(partition) else { return };
        lane.given_up = true;
        lane.dirty = false;
        // Whoever holds a receipt is told, as far as the outbox knows them.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.lane_mut(partition).into_iter().for_each(|lane| lane.outbox.abandon());
            self.take_events(partition, now);
        }));
    }

    /// An event that was in nobody's hands when something panicked may be in Kafka or not.
    fn account_for_the_rest(&mut self) {
        let missing = self.counts().missing();
        self.own.in_doubt += missing;
        if missing > 0 {
            let message =
                format!("{missing} events were being dealt with when the collector failed: in doubt");
            self.tell(NotificationKind::EventsLost, None, message);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
