//! Kafka says no for a reason that passes only when somebody acts: no permission, no such topic. Events are held on disk, not
//! refused; it is told once, and they arrive when somebody has acted.

use kafka_batcher::{KafkaBatcher, Notification, NotificationKind};
use kafka_batcher_broker::{Api, ErrorCode, Fault, TopicSpec};

use crate::support::{outcome, ready, until};
use crate::{LONG, PARTITIONS, Site, TOPIC, everywhere};

/// About deliveries, or why there are none. A machine that is busy elsewhere may make Kafka look slow, before and after.
fn is_trouble(told: &Notification) -> bool {
    let kinds = [NotificationKind::ProducerError, NotificationKind::ProducerStartFailed];
    kinds.contains(&told.kind) && !told.message.contains("nothing was acknowledged for")
}

impl Site {
    /// What the operator was told about deliveries since the last call.
    fn troubles(&self) -> Vec<String> {
        let told = std::mem::take(&mut *self.told.0.lock().unwrap());
        told.into_iter().filter(is_trouble).map(|told| told.message).collect()
    }

    /// Waits until all of these are durable, trouble was told, and Kafka was asked several times more.
    async fn held(&mut self, batcher: &KafkaBatcher, receipts: &[(u32, kafka_batcher::Receipt)], api: Api) {
        self.durable(receipts).await;
        // Requests are counted before they are answered.
        until(|| self.told.0.lock().unwrap().iter().any(is_trouble)).await;
        let asked = self.kafka.stats().requests(api);
        until(|| self.kafka.stats().requests(api) >= asked + 5).await;
        let report = batcher.report().await;
        let events = receipts.len() as u64;
        // Some of them may be on their way, once more.
        assert!(report.balances() && report.spooled + report.in_flight == events, "{report:?}");
        assert!(receipts.iter().all(|(_, receipt)| receipt.try_delivered().is_none()));
    }
}

#[tokio::test]
async fn without_permission_to_write_events_are_held_on_disk_told_once_and_delivered_after_the_grant() {
    for mut site in everywhere() {
        let (batcher, collector) = site.start().await;
        ready(&batcher, TOPIC).await;
        for episode in 1..=2 {
            let denied = Fault::answer(ErrorCode::TOPIC_AUTHORIZATION_FAILED).on(Api::Produce);
            let denied = site.kafka.inject(denied.topic(TOPIC).always());
            let receipts = site.send(&collector, 100).await;
            site.held(&batcher, &receipts, Api::Produce).await;
            let told = site.troubles();
            assert_eq!(told.len(), 1, "episode {episode}: {told:?}");
            assert!(told[0].contains("TOPIC_AUTHORIZATION_FAILED"), "{told:?}");
            site.kafka.remove_fault(denied);
            for (_, receipt) in &receipts {
                outcome(receipt).await.expect("it is delivered after the grant");
            }
            site.drained(&batcher).await;
            until(|| site.told.count(NotificationKind::Recovered) > 0).await;
            assert!(site.troubles().is_empty());
        }
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        site.check();
    }
}

#[tokio::test]
async fn events_of_a_topic_that_does_not_exist_are_held_on_disk_told_once_and_delivered_when_it_is_created() {
    for mut site in everywhere() {
        site.kafka.delete_topic(TOPIC);
        let (batcher, collector) = site.start().await;
        let receipts = site.send(&collector, 100).await;
        site.held(&batcher, &receipts, Api::Metadata).await;
        let told = site.troubles();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(TOPIC), "{told:?}");
        site.kafka.create_topic(TopicSpec::new(TOPIC, PARTITIONS)).expect("a topic");
        for (_, receipt) in &receipts {
            outcome(receipt).await.expect("it is delivered");
        }
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        let told = site.troubles();
        assert!(told.is_empty(), "{told:?}");
        site.check();
    }
}

/// The same, of a topic that was there and is deleted while the process lives.
#[tokio::test]
async fn events_of_a_topic_that_is_deleted_are_held_on_disk_told_once_and_delivered_when_it_is_created_again()
{
    for mut site in everywhere() {
        let (batcher, collector) = site.start().await;
        ready(&batcher, TOPIC).await;
        site.kafka.delete_topic(TOPIC);
        let receipts = site.send(&collector, 100).await;
        site.held(&batcher, &receipts, Api::Metadata).await;
        let told = site.troubles();
        // Once that deliveries have stopped, and once that somebody must create the topic.
        let create: Vec<_> = told.iter().filter(|message| message.contains("create it")).collect();
        assert!(create.len() == 1 && told.len() <= 2, "{told:?}");
        site.kafka.create_topic(TopicSpec::new(TOPIC, PARTITIONS)).expect("a topic");
        for (_, receipt) in &receipts {
            outcome(receipt).await.expect("it is delivered");
        }
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        site.check();
    }
}
