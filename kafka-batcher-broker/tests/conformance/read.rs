//! ListOffsets, Fetch, OffsetForLeaderEpoch.

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest};
use uuid::Uuid;

use crate::support::batch::{Rec, split};
use crate::support::{Batch, Client, fetch_request, fetched, name, now, produce_request, rec, until};
use crate::{Case, Target};

pub(crate) const CASES: &[Case] = &[
    ("every version of ListOffsets finds both ends", every_list_offsets),
    ("ListOffsets finds an offset by its time", by_time),
    ("every version of Fetch reads what was written", every_fetch),
    ("a Fetch inside of a batch brings the whole batch", inside),
    ("a Fetch beyond either end is refused with 1, at the end it is empty", out_of_range),
    ("a Fetch of what does not exist is refused", nothing_there),
    ("max_bytes bounds a Fetch, but one batch always comes", bounded),
    ("a Fetch waits for min_bytes and is woken by a Produce", woken),
    ("a Fetch that waits in vain comes back empty", in_vain),
    ("a Fetch session that nobody opened is refused with 70", session),
    ("a leader epoch from the past or the future is refused", leader_epoch),
    ("OffsetForLeaderEpoch tells where an epoch ended", epoch_end),
];

fn every_list_offsets(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    client.put(&topic, 0, Batch::of([rec("a"), rec("b"), rec("c")]).bytes());
    for version in 1..=10 {
        for (timestamp, offset) in [(-1, 3), (-2, 0)] {
            let asked =
                ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
            let topic = ListOffsetsTopic::default().with_name(name(&topic)).with_partitions(vec![asked]);
            let request =
                ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
            let found = client.call(version, &request).topics.remove(0).partitions.remove(0);
            assert_eq!(
                (found.error_code, found.offset, found.timestamp),
                (0, offset, -1),
                "version {version}"
            );
            assert_eq!(found.leader_epoch, if version >= 4 { 0 } else { -1 });
        }
    }
    assert_eq!(client.list_offset(&topic, 7, -1).error_code, 3);
    assert_eq!(client.list_offset("no-such-topic", 0, -1).error_code, 3);
}

fn by_time(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let start = now() - 100_000;
    assert_eq!(client.list_offset(&topic, 0, start).offset, -1, "an empty partition");
    let at = |time_delta| Rec { time_delta, ..rec("x") };
    let batch = |records: Vec<Rec>| Batch { base_time: start, ..Batch::of(records) }.bytes();
    client.put(&topic, 0, batch(vec![at(0), at(10), at(20)]));
    client.put(&topic, 0, batch(vec![at(30), at(90), at(40)]));
    let mut find = |time: i64| {
        let found = client.list_offset(&topic, 0, time);
        (found.offset, found.timestamp - start)
    };
    assert_eq!(find(start - 5), (0, 0));
    assert_eq!(find(start + 10), (1, 10));
    assert_eq!(find(start + 11), (2, 20));
    assert_eq!(find(start + 21), (3, 30));
    assert_eq!(find(start + 31), (4, 90));
    assert_eq!(find(start + 91).0, -1);
    assert_eq!(find(-3), (4, 90), "the largest time");
}

fn every_fetch(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.metadata(&topic).topics[0].topic_id;
    let batch = Batch::of([rec("a"), rec("b")]);
    client.put(&topic, 0, batch.bytes());
    for version in 4..=17 {
        let by_id = if version >= 13 { id } else { Uuid::nil() };
        let answer = client.call(version, &fetch_request(&topic, by_id, 0, 0));
        assert_eq!((answer.error_code, answer.session_id), (0, 0));
        let data = fetched(answer);
        assert_eq!((data.error_code, data.high_watermark), (0, 2), "version {version}");
        assert_eq!(data.last_stable_offset, 2);
        let read = split(&data.records.expect("records"));
        assert_eq!(read.len(), 1);
        assert!(read[0].intact);
        assert_eq!(read[0].bytes[16..], batch.bytes()[16..]);
    }
}

fn inside(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    for word in ["a", "b"] {
        client.put(&topic, 0, Batch::of([rec(word), rec(word), rec(word)]).bytes());
    }
    let offsets = |client: &mut Client, from| {
        let records = client.fetch(&topic, 0, from).records.expect("records");
        split(&records).iter().map(|batch| batch.base_offset).collect::<Vec<_>>()
    };
    assert_eq!(offsets(&mut client, 0), [0, 3]);
    assert_eq!(offsets(&mut client, 2), [0, 3]);
    assert_eq!(offsets(&mut client, 3), [3]);
    assert_eq!(offsets(&mut client, 5), [3]);
}

fn out_of_range(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    client.put(&topic, 0, Batch::of([rec("a")]).bytes());
    let at_end = client.fetch(&topic, 0, 1);
    assert_eq!((at_end.error_code, at_end.high_watermark), (0, 1));
    assert!(at_end.records.unwrap_or_default().is_empty());
    assert_eq!(client.fetch(&topic, 0, 2).error_code, 1);
    assert_eq!(client.fetch(&topic, 0, -1).error_code, 1);
}

fn nothing_there(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    assert_eq!(client.fetch(&topic, 5, 0).error_code, 3);
    assert_eq!(client.fetch("no-such-topic", 0, 0).error_code, 3);
    let unknown = fetch_request("", Uuid::from_u128(0xabc), 0, 0);
    assert_eq!(fetched(client.call(13, &unknown)).error_code, 100);
}

fn bounded(target: &dyn Target) {
    let (mut client, topic) = target.topic(2);
    for partition in [0, 1] {
        for _ in 0..4 {
            client.put(&topic, partition, Batch::of([rec(vec![b'x'; 1000])]).bytes());
        }
    }
    let size = Batch::of([rec(vec![b'x'; 1000])]).bytes().len() as i32;
    let mut whole = |max_bytes, partition_max_bytes| {
        let asked = |partition| {
            FetchPartition::default()
                .with_partition(partition)
                .with_current_leader_epoch(-1)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(partition_max_bytes)
        };
        let topic = FetchTopic::default().with_topic(name(&topic)).with_partitions(vec![asked(0), asked(1)]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_bytes(max_bytes)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let answer = client.call(12, &request).responses.remove(0);
        let records = answer.partitions.into_iter().map(|data| data.records.unwrap_or_default());
        records.map(|records| split(&records).len()).collect::<Vec<_>>()
    };
    assert_eq!(whole(i32::MAX, i32::MAX), [4, 4]);
    assert_eq!(whole(i32::MAX, 2 * size), [2, 2]);
    assert_eq!(whole(i32::MAX, 2 * size + 10), [2, 2], "the third is cut");
    assert_eq!(whole(i32::MAX, 1), [1, 0], "one batch of the first partition, whatever its size");
    assert_eq!(whole(3 * size, i32::MAX), [3, 0]);
    assert_eq!(whole(1, i32::MAX), [1, 0]);
}

fn woken(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let batch = || Batch::of([rec(vec![b'x'; 400])]).bytes();
    let mut waiting = target.client();
    let request = fetch_request(&topic, Uuid::nil(), 0, 0).with_max_wait_ms(50_000).with_min_bytes(700);
    let number = waiting.send(12, &request).unwrap();
    let other = client.send(9, &produce_request(9, &topic, Uuid::nil(), 0, Some(batch()), -1)).unwrap();
    client.receive::<kafka_protocol::messages::ProduceRequest>(9, other).unwrap();
    // One batch is not enough; the second is.
    assert_eq!(client.put(&topic, 0, batch()), (0, 1));
    let data = fetched(waiting.receive::<FetchRequest>(12, number).unwrap());
    assert_eq!(split(&data.records.expect("records")).len(), 2);
}

fn in_vain(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    client.put(&topic, 0, Batch::of([rec("a")]).bytes());
    let request = fetch_request(&topic, Uuid::nil(), 0, 0).with_max_wait_ms(20).with_min_bytes(100_000);
    let data = fetched(client.call(12, &request));
    assert_eq!(split(&data.records.expect("records")).len(), 1, "what there is comes all the same");
    let request = fetch_request(&topic, Uuid::nil(), 0, 1).with_max_wait_ms(20).with_min_bytes(1);
    assert!(fetched(client.call(12, &request)).records.unwrap_or_default().is_empty());
}

fn session(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let request = fetch_request(&topic, Uuid::nil(), 0, 0).with_session_id(123_456).with_session_epoch(3);
    let answer = client.call(12, &request);
    assert_eq!((answer.error_code, answer.responses.len()), (70, 0));
}

fn leader_epoch(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let mut ask = |epoch| {
        let mut request = fetch_request(&topic, Uuid::nil(), 0, 0);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        fetched(client.call(12, &request)).error_code
    };
    // A leader that was just made may not know its own epoch yet (seen: 75 to 0).
    until(|| ask(0) == 0);
    assert_eq!(ask(-1), 0);
    assert_eq!(ask(5), 75, "UNKNOWN_LEADER_EPOCH");
}

fn epoch_end(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    client.put(&topic, 0, Batch::of([rec("a"), rec("b")]).bytes());
    for version in 2..=4 {
        let mut ask = |epoch| {
            let asked =
                OffsetForLeaderPartition::default().with_leader_epoch(epoch).with_current_leader_epoch(-1);
            let topic = OffsetForLeaderTopic::default().with_topic(name(&topic)).with_partitions(vec![asked]);
            let mut request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            if version >= 3 {
                request.replica_id = BrokerId(-1);
            }
            let found = client.call(version, &request).topics.remove(0).partitions.remove(0);
            (found.error_code, found.leader_epoch, found.end_offset)
        };
        assert_eq!(ask(0), (0, 0, 2), "version {version}");
        assert_eq!(ask(9), (0, -1, -1));
    }
}
