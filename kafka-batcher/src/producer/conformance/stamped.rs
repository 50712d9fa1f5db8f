//! Cases for producers that send batches with the numbers they were stamped with; others pass by doing nothing.

use kafka_batcher_core::{ProduceResult, ProducerIdentity, ProducerState, RecordBatch, Stamp};

use super::{Cluster, batch, offset, ready, send, to, values};
use crate::producer::Producer;
use crate::storage::conformance::with_stamp;

/// Until the cluster gives an id: one that is starting does not yet.
async fn identity(producer: &dyn Producer) -> ProducerIdentity {
    loop {
        if let Ok(identity) = producer.init_producer_id().await {
            return identity;
        }
        tokio::task::yield_now().await;
    }
}

fn stamped(identity: ProducerIdentity, first_sequence: i32, names: &[&str]) -> RecordBatch {
    let stamp = Stamp { producer_id: identity.id, epoch: identity.epoch, first_sequence };
    with_stamp(&batch(names), &stamp)
}

pub(super) async fn numbers_in_the_log(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    if producer.accepts_stamped() {
        let identity = identity(&*producer).await;
        let again = self::identity(&*producer).await;
        assert_ne!(identity.id, again.id, "each call gives another id");
        for (first, names) in [(0, vec!["a", "b"]), (2, vec!["c"])] {
            send(&*producer, to(&topic, 0, stamped(identity, first, &names))).await;
        }
        let log = cluster.log(&topic, 0).await;
        assert_eq!(values(&log), ["a", "b", "c"]);
        for (sequence, logged) in (0..).zip(&log) {
            let expected = Some((identity.id, identity.epoch, sequence));
            assert!(
                logged.numbers.is_none() || logged.numbers == expected,
                "{logged:?}, and not {expected:?}"
            );
        }
    }
    producer.close().await;
}

pub(super) async fn written_once(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    if producer.accepts_stamped() {
        let identity = identity(&*producer).await;
        for _ in 0..2 {
            let answer = send(&*producer, to(&topic, 0, stamped(identity, 0, &["a", "b"]))).await;
            assert!(matches!(answer.result, ProduceResult::Acked { .. }), "{answer:?}");
        }
        assert_eq!(offset(&send(&*producer, to(&topic, 0, stamped(identity, 2, &["c"]))).await), 2);
        assert_eq!(values(&cluster.log(&topic, 0).await), ["a", "b", "c"]);
    }
    producer.close().await;
}

pub(super) async fn described(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    if producer.accepts_stamped() {
        let identity = identity(&*producer).await;
        let state = producer.describe_producer(&topic, 0, identity.id).await.0;
        let strange = matches!(state, ProducerState::Unknown | ProducerState::Unanswerable);
        assert!(strange, "it has written nothing yet: {state:?}");
        send(&*producer, to(&topic, 0, stamped(identity, 0, &["a", "b", "c"]))).await;
        let (state, leader) = producer.describe_producer(&topic, 0, identity.id).await;
        let known = ProducerState::Known { epoch: identity.epoch, last_sequence: 2 };
        assert!(state == known || state == ProducerState::Unanswerable, "{state:?}, and not {known:?}");
        assert_eq!(leader.map(|leader| leader.node), producer.leader(&topic, 0).map(|leader| leader.node));
    }
    producer.close().await;
}
