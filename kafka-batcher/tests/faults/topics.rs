//! Topics that grow, and that are deleted and created again, while events flow.

use std::sync::{Arc, Mutex};

use kafka_batcher_broker::{Api, EmbeddedKafka, Fault};
use kafka_batcher_testkit::Tally;

use crate::exchange::{Plan, TOPIC, logs};

#[tokio::test]
async fn a_topic_that_grows_does_not_show() {
    let grow = |kafka: &EmbeddedKafka| kafka.grow_topic(TOPIC, 9).expect("a topic");
    let faults = [Fault::call_before(grow).on(Api::Produce), Fault::call_after(grow).on(Api::Produce)];
    Plan::three_brokers().unharmed_at_every_point(10, &faults).await;
}

#[tokio::test]
async fn what_is_not_acknowledged_when_a_topic_is_recreated_goes_to_the_new_one_in_order() {
    for after in [false, true] {
        for k in 1.. {
            let old = Arc::new(Mutex::new(None));
            let kept = old.clone();
            let partitions = Plan::one_broker().partitions;
            let recreate = move |kafka: &EmbeddedKafka| {
                *kept.lock().unwrap() = Some(logs(kafka, partitions));
                kafka.recreate_topic(TOPIC).expect("a topic");
            };
            let fault = if after { Fault::call_after(recreate) } else { Fault::call_before(recreate) };
            let run = Plan::one_broker()
                .run(|kafka| {
                    kafka.inject(fault.on(Api::Produce).nth(k));
                })
                .await;
            let new = run.log();
            let Some(old) = old.lock().unwrap().take() else {
                run.assert_unharmed();
                assert!(k > 10, "hit at {k} points only");
                break;
            };
            run.assert_accounts();
            assert!(run.report.all_delivered() && run.report.reorderings == 0, "{k}: {:?}", run.report);
            // All are in one of them, in order; what both hold was not acknowledged by the old one.
            for (partition, accepted) in run.accepted() {
                let (old, new) = (&old[&partition], &new[&partition]);
                assert_eq!(old[..], accepted[..old.len()], "{k}: the old log");
                let first = accepted.len() - new.len();
                assert!(first <= old.len(), "{k}: {} events between the logs", first - old.len());
                assert_eq!(new[..], accepted[first..], "{k}: the new log");
                let again = old.len() - first;
                assert!(
                    again <= 5 * run.plan.batch_size as usize,
                    "{k}: {again} events of the old topic are in the new one, too"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_topic_that_is_gone_for_a_while_keeps_its_events_waiting() {
    let missing = |kafka: &EmbeddedKafka| {
        kafka.delete_topic(TOPIC);
        let create = |kafka: &EmbeddedKafka| {
            let spec = kafka_batcher_broker::TopicSpec::new(TOPIC, 3);
            kafka.create_topic(spec).expect("a topic");
        };
        kafka.inject(Fault::call_after(create).on(Api::Metadata).nth(2));
    };
    // Before the first event is written, so that nothing goes with the old one.
    let run = Plan::one_broker()
        .run(|kafka| {
            kafka.inject(Fault::call_before(missing).on(Api::Produce));
        })
        .await;
    let tally = Tally::compare(&run.accepted(), &run.log());
    tally.assert_clean();
    run.assert_accounts();
    assert!(run.report.all_delivered(), "{:?}", run.report);
}
