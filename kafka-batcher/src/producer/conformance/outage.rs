//! Cases for clusters whose brokers can be taken away.

use kafka_batcher_core::{ErrorClass, ProduceAnswer, ProduceResult};

use super::{Cluster, batch, learn, ready, request, send, to, values};

/// What may be said of a batch while nobody answers.
fn assert_unacknowledged(answers: &[ProduceAnswer]) {
    for answer in answers {
        let honest = matches!(answer.result, ProduceResult::Lost { .. } | ProduceResult::NotSent { .. });
        assert!(honest, "nobody answers, so it is lost or not sent: {answer:?}");
    }
}

pub(super) async fn gone_and_back(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 2).await;
    send(&*producer, to(&topic, 0, batch(&["before"]))).await;
    if cluster.stop().await {
        let call = |n: i32| {
            let (first, second) = (format!("{n} a"), format!("{n} b"));
            producer
                .produce(request(-1, vec![to(&topic, 0, batch(&[&first])), to(&topic, 1, batch(&[&second]))]))
        };
        let calls: Vec<_> = (0..4).map(call).collect();
        for answers in futures_util::future::join_all(calls).await {
            assert_eq!(answers.len(), 2, "every batch is answered once: {answers:?}");
            assert_unacknowledged(&answers);
        }
        cluster.start().await;
        learn(&*producer, &topic).await;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let answer = send(&*producer, to(&topic, 0, batch(&["after"]))).await;
            if matches!(answer.result, ProduceResult::Acked { .. }) {
                break;
            }
            // One that has just come back may refuse for a while, for not knowing yet that it leads.
            if !matches!(&answer.result, ProduceResult::Refused(refusal) if refusal.code.class() == ErrorClass::Retriable)
            {
                assert_unacknowledged(&[answer]);
            }
            learn(&*producer, &topic).await;
        }
        let log = values(&cluster.log(&topic, 0).await);
        let count = |what: &str| log.iter().filter(|value| *value == what).count();
        assert_eq!(log.first().map(String::as_str), Some("before"), "{log:?}");
        assert_eq!(log.last().map(String::as_str), Some("after"), "{log:?}");
        assert!(count("before") == 1 && (1..=attempts).contains(&count("after")), "{log:?}");
    }
    producer.close().await;
}

pub(super) async fn closed_in_flight(cluster: &dyn Cluster) {
    let (producer, topic) = ready(cluster, 1).await;
    send(&*producer, to(&topic, 0, batch(&["before"]))).await;
    if cluster.stop().await {
        let names: Vec<_> = (0..4).map(|n| n.to_string()).collect();
        let call = |name: &String| producer.produce(request(-1, vec![to(&topic, 0, batch(&[name]))]));
        let calls = futures_util::future::join_all(names.iter().map(call));
        let ((), answers) = futures_util::future::join(producer.close(), calls).await;
        assert_eq!(answers.len(), names.len());
        answers.iter().for_each(|answers| {
            assert_eq!(answers.len(), 1, "every batch is answered once: {answers:?}");
            assert_unacknowledged(answers);
        });
        cluster.start().await;
        let other = cluster.producer();
        learn(&*other, &topic).await;
        assert_eq!(
            values(&cluster.log(&topic, 0).await),
            ["before"],
            "nothing is sent behind the answer's back"
        );
        other.close().await;
    }
    producer.close().await;
}
