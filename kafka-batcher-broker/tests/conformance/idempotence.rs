//! What a partition remembers of producers: the rows that need no restart.

use crate::support::batch::split;
use crate::support::{Batch, now, until};
use crate::{Case, Target};

pub(crate) const CASES: &[Case] = &[
    ("each of the last five batches is recognised and answered with its first offset", last_five),
    ("what is older, leaves a gap or overlaps is out of order (45)", out_of_order),
    ("other content under the same sequences is swallowed", swallowed),
    ("a part of a written batch is out of order, an unwritten rest is accepted", parts),
    ("a producer that the partition does not know may begin anywhere", unknown_producer),
    ("a higher epoch at sequence 0 is believed, in that partition only, and fences the old one (47)", epochs),
    ("sequences wrap from 2147483647 to 0, between batches and inside of one", wrap),
    ("DescribeProducers tells id, epoch and last sequence", describe),
    ("a producer is forgotten when its last event is older than the expiration", expiry),
    ("batches of two producers do not disturb each other", two_producers),
];

fn last_five(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.producer_id();
    let batch = |n: i32| Batch::from((id, 0), n * 3, 3, "word");
    let batches: Vec<_> = (0..7).map(batch).collect();
    for (n, batch) in batches.iter().enumerate() {
        let answer = client.produce(&topic, 0, batch.bytes());
        assert_eq!((answer.error_code, answer.base_offset, answer.log_append_time_ms), (0, n as i64 * 3, -1));
    }
    for (n, batch) in batches.iter().enumerate() {
        let answer = client.produce(&topic, 0, batch.bytes());
        if n < 2 {
            assert_eq!((answer.error_code, answer.base_offset), (45, -1), "batch {n}");
        } else {
            assert_eq!((answer.error_code, answer.base_offset), (0, n as i64 * 3), "batch {n}");
            // A recognised batch is answered with its time, as if the broker had given it.
            assert_eq!(answer.log_append_time_ms, batch.base_time);
        }
    }
    assert_eq!(client.end(&topic, 0), 21, "nothing was written twice");
    assert_eq!(client.put(&topic, 0, batch(7).bytes()), (0, 21));
}

fn out_of_order(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.producer_id();
    let mut put =
        |sequence, count| client.put(&topic, 0, Batch::from((id, 0), sequence, count, "w").bytes()).0;
    assert_eq!(put(0, 3), 0);
    assert_eq!(put(4, 1), 45, "a gap");
    assert_eq!(put(2, 2), 45, "an overlap");
    assert_eq!(put(0, 4), 45, "the written batch and one more");
    assert_eq!(put(1, 2), 45, "the end of the written batch");
    assert_eq!(put(0, 1), 45, "its beginning");
    assert_eq!(put(3, 1), 0, "the next");
}

fn swallowed(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.producer_id();
    let first = Batch::from((id, 0), 0, 2, "first");
    assert_eq!(client.put(&topic, 0, first.bytes()), (0, 0));
    let other = Batch::from((id, 0), 0, 2, "something else");
    assert_eq!(client.put(&topic, 0, other.bytes()), (0, 0));
    assert_eq!(client.end(&topic, 0), 2);
    assert_eq!(split(&client.read_all(&topic, 0))[0].bytes[16..], first.bytes()[16..]);
}

fn parts(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.producer_id();
    let mut put = |sequence, count| client.put(&topic, 0, Batch::from((id, 0), sequence, count, "w").bytes());
    assert_eq!(put(0, 3), (0, 0));
    // [3][4,5] instead of [3,4,5]
    assert_eq!(put(3, 1), (0, 3));
    assert_eq!(put(4, 2), (0, 4));
    assert_eq!(put(3, 3).0, 45, "the whole of which the parts were written");
    assert_eq!(put(4, 1).0, 45, "a part of a written batch");
}

fn unknown_producer(target: &dyn Target) {
    let (mut client, topic) = target.topic(2);
    // Ids that this cluster never gave.
    assert_eq!(client.put(&topic, 0, Batch::from((900_000_001, 7), 4711, 2, "w").bytes()), (0, 0));
    assert_eq!(client.put(&topic, 0, Batch::from((900_000_001, 7), 4713, 2, "w").bytes()), (0, 2));
    assert_eq!(client.put(&topic, 0, Batch::from((900_000_001, 7), 4717, 2, "w").bytes()), (45, -1));
    assert_eq!(client.put(&topic, 1, Batch::from((900_000_001, 0), 1, 1, "w").bytes()), (0, 0));
}

fn epochs(target: &dyn Target) {
    let (mut client, topic) = target.topic(2);
    let id = client.producer_id();
    let mut put = |partition, epoch, sequence| {
        client.put(&topic, partition, Batch::from((id, epoch), sequence, 1, "w").bytes()).0
    };
    assert_eq!((put(0, 0, 0), put(1, 0, 0)), (0, 0));
    assert_eq!(put(0, 1, 1), 45, "the next epoch, and not from 0");
    assert_eq!(put(0, 0, 1), 0, "the refused one did not fence");
    assert_eq!(put(0, 1, 0), 0, "the next epoch, that nobody gave");
    assert_eq!(put(0, 0, 2), 47, "the old one");
    assert_eq!(put(0, 0, 1), 47, "also what it had written");
    assert_eq!(put(1, 0, 1), 0, "the other partition knows nothing of it");
    assert_eq!(put(0, 1, 1), 0);
    assert_eq!(put(0, 9, 0), 0, "an epoch may be left out");
    assert_eq!(put(0, 9, 0), 0, "and its batch is recognised");
    assert_eq!(put(0, 8, 0), 47);
}

fn wrap(target: &dyn Target) {
    let (mut client, topic) = target.topic(2);
    let id = client.producer_id();
    let mut put = |partition, sequence, count| {
        client.put(&topic, partition, Batch::from((id, 0), sequence, count, "w").bytes())
    };
    // Between batches.
    assert_eq!(put(0, i32::MAX - 1, 2), (0, 0));
    assert_eq!(put(0, 0, 2), (0, 2));
    assert_eq!(put(0, i32::MAX - 1, 2), (0, 0), "recognised");
    // Inside of one.
    assert_eq!(put(1, i32::MAX - 1, 5), (0, 0), "MAX - 1, MAX, 0, 1, 2");
    assert_eq!(put(1, i32::MAX - 1, 5), (0, 0), "recognised");
    assert_eq!(put(1, 2, 1), (45, -1));
    assert_eq!(put(1, 3, 1), (0, 5));
}

fn describe(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.producer_id();
    assert!(client.describe_producers(&topic, 0).active_producers.is_empty());
    let batch = Batch::from((id, 0), 0, 3, "w");
    client.put(&topic, 0, batch.bytes());
    client.put(&topic, 0, Batch::from((id, 1), 0, 2, "w").bytes());
    let answer = client.describe_producers(&topic, 0);
    assert_eq!(answer.error_code, 0);
    let [producer] = &answer.active_producers[..] else { panic!("{answer:?}") };
    assert_eq!((producer.producer_id.0, producer.producer_epoch, producer.last_sequence), (id, 1, 1));
    assert!((producer.last_timestamp - batch.base_time).abs() < 60_000);
    assert_eq!(producer.current_txn_start_offset, -1);
    assert_eq!(client.describe_producers(&topic, 9).error_code, 3);
    assert_eq!(client.describe_producers("no-such-topic", 0).error_code, 3);
}

fn expiry(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.producer_id();
    let mut old = Batch::from((id, 0), 0, 1, "old");
    old.base_time = now() - 25 * 60 * 60 * 1000;
    assert_eq!(client.put(&topic, 0, old.bytes()), (0, 0));
    target.expire_producers();
    until(|| client.describe_producers(&topic, 0).active_producers.is_empty());
    assert_eq!(client.put(&topic, 0, old.bytes()), (0, 1), "written again");
    // One whose last event is young is kept, however old the ones before.
    let recognised = (1..100).any(|epoch| {
        let mut young = Batch::from((id, epoch), 0, 1, "old");
        young.base_time = old.base_time;
        let (code, first) = client.put(&topic, 0, young.bytes());
        assert_eq!(code, 0);
        client.put(&topic, 0, Batch::from((id, epoch), 1, 1, "young").bytes());
        target.expire_producers();
        // Kafka looks five times a second, also between those two, and forgets the one that is old so far.
        client.put(&topic, 0, young.bytes()) == (0, first)
    });
    assert!(recognised, "forgotten each time");
}

fn two_producers(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let (one, two) = (client.producer_id(), client.producer_id());
    for n in 0..4 {
        assert_eq!(client.put(&topic, 0, Batch::from((one, 0), n, 1, "one").bytes()), (0, i64::from(n) * 2));
        assert_eq!(
            client.put(&topic, 0, Batch::from((two, 0), n, 1, "two").bytes()),
            (0, i64::from(n) * 2 + 1)
        );
    }
    assert_eq!(client.put(&topic, 0, Batch::from((one, 0), 1, 1, "one").bytes()), (0, 2));
    assert_eq!(client.describe_producers(&topic, 0).active_producers.len(), 2);
}
