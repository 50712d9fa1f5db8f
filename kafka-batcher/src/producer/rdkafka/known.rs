//! What is known of the topics' leaders: by librdkafka's own metadata, which tells neither leader epochs nor topic ids nor
//! connections.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use kafka_batcher_core::{Leader, TopicId};
use tokio::sync::{Notify, watch};

/// The leaders of a topic's partitions; `None`: nobody leads it.
pub(super) type Leaders = Vec<Option<i32>>;

/// Who leads what.
pub(super) struct Known {
    topics: RwLock<BTreeMap<Arc<str>, Leaders>>,
    version: watch::Sender<u64>,
    /// Somebody has reason to think that it is not true any more.
    pub(super) wanted: Notify,
}

impl Known {
    pub(super) fn new() -> Self {
        Known { topics: RwLock::default(), version: watch::Sender::new(0), wanted: Notify::new() }
    }

    pub(super) fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let node = *topics.get(topic)?.get(usize::try_from(partition).ok()?)?;
        node.map(|node| Leader { node, epoch: -1, topic_id: TopicId::default(), connection: 0 })
    }

    /// Takes what an answer says of a topic; nothing, if there is no such topic.
    pub(super) fn learn(&self, topic: &str, leaders: Leaders) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let changed = match leaders.is_empty() {
            true => topics.remove(topic).is_some(),
            false if topics.get(topic) == Some(&leaders) => false,
            false => {
                topics.insert(topic.into(), leaders);
                true
            }
        };
        drop(topics);
        if changed {
            self.version.send_modify(|version| *version += 1);
        }
    }

    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(super) fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Has it asked for again soon.
    pub(super) fn want_refresh(&self) {
        self.wanted.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_moves_when_a_leader_does_and_not_otherwise() {
        let known = Known::new();
        let version = known.version();
        for (leaders, expected, moved_to) in [
            (vec![Some(1), None], Some(1), 1),
            (vec![Some(1), None], Some(1), 1),
            (vec![Some(2), None], Some(2), 2),
            (vec![], None, 3),
            (vec![], None, 3),
        ] {
            known.learn("t", leaders.clone());
            assert_eq!(known.leader("t", 0).map(|leader| leader.node), expected, "{leaders:?}");
            assert_eq!(*version.borrow(), moved_to, "{leaders:?}");
        }
        assert_eq!((known.leader("t", 1), known.leader("t", -1), known.leader("u", 0)), (None, None, None));
    }
}
