//! What is left after a restart.

use crate::support::{Batch, Client, until};
use crate::{Case, End, Target};

pub(crate) const CASES: &[Case] = &[
    ("after TERM only the last batch of a producer is recognised", after_term),
    ("after KILL only the last batch of a producer is recognised", after_kill),
];

fn after_term(target: &dyn Target) {
    restarted(target, End::Term);
}

fn after_kill(target: &dyn Target) {
    restarted(target, End::Kill);
}

fn restarted(target: &dyn Target, end: End) {
    let (mut client, topic) = target.topic(1);
    let cluster = client.metadata(&topic).cluster_id;
    let id = client.producer_id();
    let batch = |n: i32| Batch::from((id, 0), n * 2, 2, "w").bytes();
    for n in 0..6 {
        assert_eq!(client.put(&topic, 0, batch(n)), (0, i64::from(n) * 2));
    }
    let epoch = client.metadata(&topic).topics[0].partitions[0].leader_epoch;
    target.restart(end);
    let mut client: Client = target.client();
    until(|| client.describe_producers(&topic, 0).error_code == 0);
    assert_eq!(client.metadata(&topic).cluster_id, cluster);
    assert!(client.metadata(&topic).topics[0].partitions[0].leader_epoch > epoch, "it leads anew");
    let known = client.describe_producers(&topic, 0).active_producers.remove(0);
    assert_eq!((known.producer_id.0, known.producer_epoch, known.last_sequence), (id, 0, 11));
    for n in 1..5 {
        assert_eq!(client.put(&topic, 0, batch(n)), (45, -1), "batch {n}, one of the four before the last");
    }
    assert_eq!(client.put(&topic, 0, batch(5)), (0, 10), "the last one");
    assert_eq!(client.put(&topic, 0, batch(6)), (0, 12), "the next one");
    assert_eq!(client.end(&topic, 0), 14);
    let mut new = -1;
    until(|| {
        new = try_producer_id(&mut client);
        new >= 0
    });
    assert!(new > id, "{new} after {id}: no id twice");
}

/// -1 while the broker still starts.
fn try_producer_id(client: &mut Client) -> i64 {
    use kafka_protocol::messages::{InitProducerIdRequest, ProducerId};
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let answer = client.call(4, &request);
    assert_eq!(answer.error_code == 0, answer.producer_id.0 >= 0, "an error comes with id -1");
    answer.producer_id.0
}
