//! The key hashes against values that other implementations computed; how is written in the first line of each file
//! in `tests/fixtures`.

use kafka_batcher_core::partitioner::{
    Assigner, KeyHash, Murmur2, PartitionInput, Sticky, TopicLoad, TopicView,
};

fn lines(fixture: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    fixture.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect())
}

fn unhex(text: &str) -> Vec<u8> {
    let text = if text == "-" { "" } else { text };
    assert!(text.len().is_multiple_of(2), "odd hex: {text}");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// A topic with so many partitions that only a view, not a list, can hold them.
struct Partitions(u32);

impl TopicView for Partitions {
    fn partition_count(&self) -> u32 {
        self.0
    }
    fn is_available(&self, _: i32) -> bool {
        true
    }
    fn queued_bytes(&self, _: i32) -> u64 {
        0
    }
}

#[test]
fn murmur2_puts_every_key_where_kafkas_own_java_code_puts_it() {
    let assigner = Assigner::new(Murmur2, Sticky::new(1_000_000, 1));
    let mut checked = 0;
    for fields in lines(include_str!("fixtures/murmur2-vectors.txt")) {
        let [key, hash, count, partition] = fields[..] else { panic!("{fields:?}") };
        let (key, hash) = (unhex(key), hash.parse::<i32>().expect("a number"));
        assert_eq!(KeyHash::Murmur2.hash(&key), hash as u32 & 0x7fff_ffff, "{fields:?}");
        let topic = Partitions(count.parse().expect("a number"));
        let chosen = assigner.partition(&PartitionInput::new("t", Some(&key), None), &topic);
        assert_eq!(
            chosen.expect("a key has a place"),
            partition.parse::<i32>().expect("a number"),
            "{fields:?}"
        );
        checked += 1;
    }
    assert_eq!(checked, 2_061);
}

#[test]
fn crc32_is_zlibs() {
    let mut checked = 0;
    for fields in lines(include_str!("fixtures/crc32-vectors.txt")) {
        let [key, crc] = fields[..] else { panic!("{fields:?}") };
        assert_eq!(KeyHash::Crc32.hash(&unhex(key)), crc.parse::<u32>().expect("a number"), "{fields:?}");
        checked += 1;
    }
    assert_eq!(checked, 508);
}

#[test]
fn every_keyed_partition_exists_for_any_key_and_count() {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    let hashes = [KeyHash::Murmur2, KeyHash::Phash2, KeyHash::Crc32, KeyHash::Fnv1a];
    let event = (any::<Vec<u8>>(), 1u32..i32::MAX as u32);
    TestRunner::default()
        .run(&event, |(key, count)| {
            for hash in hashes {
                let by_key = kafka_batcher_core::partitioner::PartitionFn::new(|event| {
                    kafka_batcher_core::partitioner::PartitionKey::Bytes(event.key.unwrap_or_default())
                });
                let assigner = Assigner::new(by_key.hashed_by(hash), Sticky::new(1, 1));
                let event = PartitionInput::new("t", Some(&key), None);
                let chosen = assigner.partition(&event, &Partitions(count)).expect("a key has a place");
                prop_assert_eq!(chosen as u32, hash.hash(&key) % count);
            }
            Ok(())
        })
        .expect("no key escapes");
}

#[test]
fn threads_that_share_a_sticky_partition_never_leave_the_topic_and_use_all_of_it() {
    let sticky = Sticky::new(1_000, 23);
    let topic = TopicLoad::new(8);
    let counts: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let add = || {
            let mut counts = vec![0; 8];
            for _ in 0..20_000 {
                let partition = sticky.next(97, &topic).expect("known");
                counts[partition as usize] += 1;
                sticky.leave(partition - 1);
            }
            counts
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let total: Vec<u32> =
        (0..8).map(|partition| counts.iter().map(|thread| thread[partition]).sum()).collect();
    assert_eq!(total.iter().sum::<u32>(), 80_000);
    assert!(total.iter().all(|events| *events > 5_000), "{total:?}");
}
