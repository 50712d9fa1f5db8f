//! Batches that are refused, and how.

use bytes::Bytes;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;

use crate::support::batch::Rec;
use crate::support::{Batch, Client, now, rec, until};
use crate::{Case, Target, fresh_name};
use uuid::Uuid;

pub(crate) const CASES: &[Case] = &[
    ("a base offset other than 0 is refused with 87", base_offset),
    ("a wrong CRC is refused with 2", crc),
    ("a batch that is cut, empty, null, doubled or of another format is refused", shapes),
    ("counts that do not fit are refused with 87", counts),
    ("a control batch and a missing sequence are refused with 87", forbidden),
    ("records that are not what they claim are refused with 87", records),
    ("a batch over max.message.bytes is refused with 10 and one of exactly that size is not", too_large),
    ("a time two hours ahead is refused with 32 and named by its index", ahead),
    ("a producer must not say that times are the broker's", client_log_append_time),
    ("a compacted topic takes no record without a key", compacted),
    ("size and times are judged before duplicates", before_duplicates),
    ("when several things are wrong the first of Kafka's order is answered", order),
];

fn refused(
    client: &mut Client,
    topic: &str,
    batch: impl Into<Bytes>,
    code: i16,
    what: &str,
) -> PartitionProduceResponse {
    let answer = client.produce(topic, 0, batch.into());
    assert_eq!((answer.error_code, answer.base_offset), (code, -1), "{what}: {:?}", answer.error_message);
    assert_eq!(client.end(topic, 0), 0, "{what}");
    answer
}

fn base_offset(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    for base_offset in [1, -1, i64::MAX] {
        let batch = Batch { base_offset, ..Batch::of([rec("x")]) };
        refused(&mut client, &topic, batch.bytes(), 87, "base offset");
    }
}

fn crc(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let batch = Batch { crc_change: 1, ..Batch::of([rec("x")]) };
    refused(&mut client, &topic, batch.bytes(), 2, "crc");
    let mut bytes = Batch::of([rec("x")]).bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    refused(&mut client, &topic, bytes, 2, "a flipped bit");
}

fn shapes(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let whole = Batch::of([rec("xyz")]).bytes();
    for cut in [1, 12, 16, 17, 60, whole.len() - 1] {
        refused(&mut client, &topic, whole.slice(..cut), 87, &format!("the first {cut} bytes"));
    }
    refused(&mut client, &topic, Bytes::new(), 87, "nothing");
    refused(&mut client, &topic, [&whole[..], &whole[..]].concat(), 87, "two batches");
    let format = |magic| Batch { magic, ..Batch::of([rec("xyz")]) }.bytes();
    refused(&mut client, &topic, format(1), 87, "magic 1");
    refused(&mut client, &topic, format(0), 87, "magic 0");
    refused(&mut client, &topic, format(3), 2, "magic 3");
    refused(&mut client, &topic, format(-1), 2, "magic -1");
    for length in [-1_i32, 0, 13] {
        let mut bytes = whole.to_vec();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        refused(&mut client, &topic, bytes, 2, &format!("length {length}"));
    }
    // With 12 more the largest length is beyond 31 bits: Kafka stumbles over its own arithmetic (UNKNOWN_SERVER_ERROR).
    for (length, code) in [(whole.len() as i32, 87), (i32::MAX - 12, 87), (i32::MAX, -1)] {
        let mut longer = whole.to_vec();
        longer[8..12].copy_from_slice(&length.to_be_bytes());
        refused(&mut client, &topic, longer, code, &format!("length {length}"));
    }
    let short: Bytes = {
        let mut bytes = whole[..40].to_vec();
        bytes[8..12].copy_from_slice(&28_i32.to_be_bytes());
        bytes.into()
    };
    refused(&mut client, &topic, short, -1, "a batch shorter than its header");
}

fn counts(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let three = || Batch::of([rec("a"), rec("b"), rec("c")]);
    let with = |count, last_offset_delta| Batch { count, last_offset_delta, ..three() }.bytes();
    refused(&mut client, &topic, with(Some(2), Some(2)), 87, "count 2, delta 2");
    refused(&mut client, &topic, with(Some(3), Some(3)), 87, "count 3, delta 3");
    refused(&mut client, &topic, with(Some(3), Some(-1)), 87, "delta -1");
    refused(&mut client, &topic, with(Some(3), Some(i32::MAX)), 87, "delta of the largest number");
    refused(&mut client, &topic, with(Some(2), Some(1)), 87, "one record too many");
    refused(&mut client, &topic, with(Some(4), Some(3)), 87, "one record too few");
    refused(&mut client, &topic, with(Some(0), Some(0)), 87, "count 0, delta 0");
    refused(&mut client, &topic, with(Some(-1), Some(-2)), 87, "count -1");
    refused(&mut client, &topic, Batch::of([]).bytes(), 87, "no records");
}

fn forbidden(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let control = Batch { attributes: 0x20, ..Batch::of([rec("x")]) };
    refused(&mut client, &topic, control.bytes(), 87, "control");
    let id = client.producer_id();
    let no_sequence = Batch { producer: (id, 0), sequence: -1, ..Batch::of([rec("x")]) };
    refused(&mut client, &topic, no_sequence.bytes(), 87, "sequence -1");
}

fn records(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let batch = Batch::of([rec("xyz")]);
    let body = batch.body();
    let mut broken: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut change = |what, at: usize, to: u8| {
        let mut other = body.clone();
        other[at] = to;
        broken.push((what, other));
    };
    // size, attributes, time delta, offset delta, key length, value length, x, y, z, header count
    change("a size one too large", 0, body[0] + 2);
    change("a size one too small", 0, body[0] - 2);
    change("a negative size", 0, 1);
    change("a value longer than the record", 5, 40);
    change("a value shorter than the record says", 5, 4);
    change("a key longer than the record", 4, 60);
    change("a negative header count", 9, 1);
    change("a header that is not there", 9, 2);
    broken.push(("a byte behind the records", [&body[..], &[0]].concat()));
    broken.push(("a record that is cut", body[..body.len() - 1].to_vec()));
    // size 8, no key, no value, one header with a null key
    broken.push(("a header without a key", vec![16, 0, 0, 0, 1, 1, 2, 1, 1]));
    for (what, body) in broken {
        refused(&mut client, &topic, batch.with_body(&body), 87, what);
    }
}

fn too_large(target: &dyn Target) {
    let mut client = target.client();
    let topic = fresh_name();
    let exact = Batch::of([rec(vec![b'x'; 500])]).bytes();
    client.create(&topic, 1, &[("max.message.bytes", &exact.len().to_string())]);
    let larger = Batch::of([rec(vec![b'x'; 501])]).bytes();
    assert_eq!(larger.len(), exact.len() + 1);
    refused(&mut client, &topic, larger, 10, "one byte over the limit");
    assert_eq!(client.put(&topic, 0, exact), (0, 0));
}

fn ahead(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let hour = 3_600_000;
    let late = |time_delta| Rec { time_delta, ..rec("x") };
    let batch = Batch::of([late(0), late(2 * hour), late(0), late(3 * hour)]);
    let answer = refused(&mut client, &topic, batch.bytes(), 32, "two hours ahead");
    let named: Vec<i32> = answer.record_errors.iter().map(|error| error.batch_index).collect();
    assert_eq!(named, [1, 3]);
    assert!(answer.error_message.is_some());
    let near = Batch { base_time: now() + hour / 2, ..Batch::of([rec("x")]) };
    assert_eq!(client.put(&topic, 0, near.bytes()), (0, 0), "half an hour ahead");
    let none = Batch { base_time: -1, ..Batch::of([rec("x")]) };
    assert_eq!(client.put(&topic, 0, none.bytes()), (0, 1), "no time at all");
}

fn client_log_append_time(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let batch = |base_time| Batch { attributes: 0x08, base_time, ..Batch::of([rec("x")]) }.bytes();
    // Kafka looks only where there is no time to judge.
    assert_eq!(client.put(&topic, 0, batch(-1)).0, 32);
    assert_eq!(client.put(&topic, 0, batch(now())).0, 0);
}

fn compacted(target: &dyn Target) {
    let mut client = target.client();
    let topic = fresh_name();
    client.create(&topic, 1, &[("cleanup.policy", "compact")]);
    let keyed = || Rec { key: Some(b"k".to_vec()), ..rec("x") };
    let answer = refused(&mut client, &topic, Batch::of([keyed(), rec("x")]).bytes(), 87, "no key");
    assert_eq!(answer.record_errors.iter().map(|error| error.batch_index).collect::<Vec<_>>(), [1]);
    assert_eq!(client.put(&topic, 0, Batch::of([keyed()]).bytes()), (0, 0));
}

fn before_duplicates(target: &dyn Target) {
    let (mut client, topic) = target.topic(1);
    let id = client.producer_id();
    let mut batch = Batch::from((id, 0), 0, 3, "word");
    batch.base_time = now() + 1_800_000;
    assert_eq!(client.put(&topic, 0, batch.bytes()), (0, 0));
    assert_eq!(client.put(&topic, 0, batch.bytes()), (0, 0), "recognised");
    target.set_config(&topic, "message.timestamp.after.max.ms", "1000");
    until(|| client.put(&topic, 0, batch.bytes()).0 == 32);
    target.set_config(&topic, "message.timestamp.after.max.ms", "3600000");
    until(|| client.put(&topic, 0, batch.bytes()).0 == 0);
    target.set_config(&topic, "max.message.bytes", "70");
    until(|| client.put(&topic, 0, batch.bytes()).0 == 10);
    assert_eq!(client.end(&topic, 0), 3);
}

fn order(target: &dyn Target) {
    let mut client = target.client();
    let topic = fresh_name();
    client.create(&topic, 1, &[("max.message.bytes", "200")]);
    let large = || Batch::of([rec(vec![0; 300])]);
    refused(
        &mut client,
        &topic,
        Batch { base_offset: 1, crc_change: 1, ..large() }.bytes(),
        87,
        "offset, size, crc",
    );
    refused(&mut client, &topic, Batch { crc_change: 1, ..large() }.bytes(), 10, "size, crc");
    let control = Batch { attributes: 0x20, crc_change: 1, ..Batch::of([rec("x")]) };
    refused(&mut client, &topic, control.bytes(), 2, "crc, control");
    let ahead = Batch { base_time: now() + 10_000_000, ..Batch::of([rec("x")]) };
    let uncounted = Batch { count: Some(2), last_offset_delta: Some(1), ..ahead.clone() };
    refused(&mut client, &topic, uncounted.bytes(), 87, "count, time");
    // An unknown partition is found before the batch is looked at, and the acks before both.
    let broken = Some(Batch { base_offset: 1, ..ahead }.bytes());
    assert_eq!(client.produce_as(9, &topic, Uuid::nil(), 4, broken.clone(), -1).error_code, 3);
    assert_eq!(client.produce_as(9, &topic, Uuid::nil(), 0, broken, 5).error_code, 21);
}
