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
    // A killed Kafka first serves as the leader that it was, until the controller has taken it for dead and let it in again: only the new
    // leader epoch is the end of that.
    until(|| {
        let partition = client.metadata(&topic).topics.remove(0).partitions.remove(0);
        partition.leader_id.0 >= 0 && partition.leader_epoch > epoch
    });
    until(|| client.describe_producers(&topic, 0).error_code == 0);
    assert_eq!(client.metadata(&topic).cluster_id, cluster);
    // And for a moment it may not lead at all (3, 5, 6), which says nothing about producers and writes nothing.
    until(|| !matches!(client.put(&topic, 0, batch(1)).0, 3 | 5 | 6));
    let known = client.describe_producers(&topic, 0).active_producers.remove(0);
    assert_eq!((known.producer_id.0, known.producer_epoch, known.last_sequence), (id, 0, 11));
    for n in 1..5 {
        assert_eq!(client.put(&topic, 0, batch(n)), (45, -1), "batch {n}, one of the four before the last");
    }
    assert_eq!(client.put(&topic, 0, batch(5)), (0, 10), "the last one");
    assert_eq!(client.put(&topic, 0, batch(6)), (0, 12), "the next one");
    assert_eq!(client.end(&topic, 0), 14);
    let new = client.producer_id();
    assert!(new > id, "{new} after {id}: no id twice");
}
