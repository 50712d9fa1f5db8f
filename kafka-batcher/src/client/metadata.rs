//! What is known of the cluster, and which news of it is believed.
//!
//! News comes from brokers that may lag behind: the rules keep an old one from undoing what a newer one said.
//!
//! - A leader epoch never goes back for the same topic id (KIP-320): a partition keeps its leader against an answer
//!   with an older epoch.
//! - A topic id that is another than before means another topic (KIP-516): everything known of the old one is dropped.
//! - Without ids (before Kafka 2.8) the latest answer wins, since a recreated topic's epochs begin again.
//! - A topic never loses partitions; a topic that a broker does not know keeps its place, without leaders.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_batcher_core::TopicId;
use kafka_batcher_core::wire::{PartitionMetadata, TopicMetadata};

/// Everything known of topics.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: HashMap<Arc<str>, Topic>,
}

/// What is known of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) id: TopicId,
    pub(super) partitions: Vec<Leadership>,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leadership {
    /// -1: nobody.
    pub(super) node: i32,
    /// -1: not known.
    pub(super) epoch: i32,
}

impl Leadership {
    const NOBODY: Leadership = Leadership { node: -1, epoch: -1 };
}

/// Whether news changed who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Same,
    Changed,
}

/// More partitions than any cluster holds in one topic: beyond it a number in an answer is not believed.
const MOST_PARTITIONS: usize = 1 << 20;

impl Topics {
    pub(super) fn get(&self, topic: &str) -> Option<&Topic> {
        self.topics.get(topic)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.topics.keys()
    }

    pub(super) fn clear(&mut self) {
        self.topics.clear();
    }

    /// Topics without a leader for each of their partitions.
    pub(super) fn unsettled(&self) -> bool {
        self.topics.values().any(|topic| topic.partitions.iter().any(|place| place.node < 0))
    }

    /// A broker described a topic, without an error for the topic itself.
    pub(super) fn described(&mut self, found: &TopicMetadata) -> News {
        let known = self.topics.get_mut(found.name.as_str());
        let before = known.as_ref().map(|topic| (**topic).clone());
        let known = match known {
            Some(known) => known,
            None => self.topics.entry(Arc::from(found.name.as_str())).or_default(),
        };
        if known.id != found.id {
            *known = Topic { id: found.id, partitions: Vec::new() };
        }
        for place in &found.partitions {
            known.learn(place);
        }
        if before.as_ref() == Some(known) { News::Same } else { News::Changed }
    }

    /// A broker does not know the topic, or cannot say who leads it.
    pub(super) fn not_described(&mut self, topic: &str) -> News {
        let mut news = News::Same;
        for place in self.topics.get_mut(topic).iter_mut().flat_map(|topic| &mut topic.partitions) {
            if place.node >= 0 {
                place.node = -1;
                news = News::Changed;
            }
        }
        news
    }

    /// A broker that does not lead the partition said who does (KIP-951).
    pub(super) fn moved(&mut self, topic: &str, id: TopicId, partition: i32, to: Leadership) -> News {
        let known = self.topics.get_mut(topic).filter(|topic| topic.id == id);
        let place = known.and_then(|topic| topic.partitions.get_mut(usize::try_from(partition).ok()?));
        match place {
            Some(place) if to.epoch > place.epoch => {
                *place = to;
                News::Changed
            }
            _ => News::Same,
        }
    }
}

impl Topic {
    fn learn(&mut self, found: &PartitionMetadata) {
        let Some(index) = usize::try_from(found.partition).ok().filter(|index| *index < MOST_PARTITIONS)
        else {
            return;
        };
        if index >= self.partitions.len() {
            self.partitions.resize(index + 1, Leadership::NOBODY);
        }
        let id = self.id;
        if let Some(place) = self.partitions.get_mut(index) {
            let older = found.leader_epoch < place.epoch && id != TopicId::default();
            if !older {
                *place = Leadership { node: found.leader.max(-1), epoch: found.leader_epoch };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_batcher_core::ErrorCode;

    use super::*;

    const ID: TopicId = TopicId([1; 16]);
    const OTHER: TopicId = TopicId([2; 16]);

    fn topic(id: TopicId, places: &[(i32, i32)]) -> TopicMetadata {
        let partition = |(index, (leader, leader_epoch)): (usize, &(i32, i32))| PartitionMetadata {
            code: ErrorCode(0),
            partition: index as i32,
            leader: *leader,
            leader_epoch: *leader_epoch,
        };
        let partitions = places.iter().enumerate().map(partition).collect();
        TopicMetadata { code: ErrorCode(0), name: "t".to_owned(), id, partitions }
    }

    fn places(topics: &Topics) -> Vec<(i32, i32)> {
        topics.get("t").unwrap().partitions.iter().map(|place| (place.node, place.epoch)).collect()
    }

    #[test]
    fn an_older_epoch_does_not_bring_an_old_leader_back() {
        let mut topics = Topics::default();
        assert_eq!(topics.described(&topic(ID, &[(1, 5), (2, 5)])), News::Changed);
        assert_eq!(topics.described(&topic(ID, &[(1, 5), (2, 5)])), News::Same);
        assert_eq!(topics.described(&topic(ID, &[(3, 4), (3, 6)])), News::Changed);
        assert_eq!(places(&topics), [(1, 5), (3, 6)]);
    }

    #[test]
    fn a_recreated_topic_is_another_topic_whatever_its_epochs() {
        let mut topics = Topics::default();
        topics.described(&topic(ID, &[(1, 5), (2, 5)]));
        assert_eq!(topics.described(&topic(OTHER, &[(2, 0)])), News::Changed);
        assert_eq!(places(&topics), [(2, 0)]);
    }

    #[test]
    fn without_topic_ids_the_latest_answer_wins() {
        let mut topics = Topics::default();
        topics.described(&topic(TopicId::default(), &[(1, 5)]));
        topics.described(&topic(TopicId::default(), &[(2, 0)]));
        assert_eq!(places(&topics), [(2, 0)]);
    }

    #[test]
    fn new_partitions_are_picked_up_and_none_is_lost_to_a_broker_that_lags() {
        let mut topics = Topics::default();
        topics.described(&topic(ID, &[(1, 0)]));
        topics.described(&topic(ID, &[(1, 0), (2, 0), (3, 0)]));
        assert_eq!(topics.described(&topic(ID, &[(1, 0)])), News::Same);
        assert_eq!(places(&topics), [(1, 0), (2, 0), (3, 0)]);
    }

    #[test]
    fn a_topic_that_a_broker_does_not_know_keeps_its_place_without_leaders() {
        let mut topics = Topics::default();
        topics.described(&topic(ID, &[(1, 5)]));
        assert!(!topics.unsettled());
        assert_eq!(topics.not_described("t"), News::Changed);
        assert_eq!(topics.not_described("t"), News::Same);
        assert!(topics.unsettled());
        assert_eq!(places(&topics), [(-1, 5)]);
        topics.described(&topic(ID, &[(1, 5)]));
        assert_eq!(places(&topics), [(1, 5)]);
    }

    #[test]
    fn a_redirect_counts_only_if_it_is_newer_and_for_this_topic() {
        let mut topics = Topics::default();
        topics.described(&topic(ID, &[(1, 5)]));
        let to = |node, epoch| Leadership { node, epoch };
        assert_eq!(topics.moved("t", ID, 0, to(2, 5)), News::Same);
        assert_eq!(topics.moved("t", OTHER, 0, to(2, 6)), News::Same);
        assert_eq!(topics.moved("t", ID, 7, to(2, 6)), News::Same);
        assert_eq!(topics.moved("u", ID, 0, to(2, 6)), News::Same);
        assert_eq!(topics.moved("t", ID, 0, to(2, 6)), News::Changed);
        assert_eq!(places(&topics), [(2, 6)]);
    }

    #[test]
    fn a_partition_number_from_hell_costs_no_memory() {
        let mut topics = Topics::default();
        let mut hell = topic(ID, &[(1, 0)]);
        hell.partitions[0].partition = i32::MAX;
        topics.described(&hell);
        assert!(places(&topics).is_empty());
    }
}
