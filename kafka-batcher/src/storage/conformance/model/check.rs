//! Compares all that can be asked of a storage with its model.

use std::sync::PoisonError;

use kafka_batcher_core::{OwnedRecord, StorageError, TopicPartition};

use super::{Event, Lane, Model, Seen, Topic, records, shifted, time_given};

fn compare(what: &str, read: &[Seen], expected: &[Seen]) {
    let differ = (0..read.len().max(expected.len())).find(|at| read.get(*at) != expected.get(*at));
    let Some(at) = differ else { return };
    let positions = |seen: &[Seen]| seen.iter().map(|(position, ..)| *position).collect::<Vec<_>>();
    panic!(
        "{what}: positions {:?}, expected {:?}; the first that differs is {:?}, expected {:?}",
        positions(read),
        positions(expected),
        read.get(at),
        expected.get(at)
    );
}

impl Model<'_> {
    /// What was told of an event before is told again.
    fn check_time(&self, place: &TopicPartition, position: u64, saved_ms: i64) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let told = *times.entry((place.topic.to_string(), position)).or_insert(saved_ms);
        assert_eq!(saved_ms, told, "when event {position} of {place:?} was saved");
    }

    /// Compares everything that can be asked.
    pub(in super::super) async fn check(&self) {
        for (name, topic) in &self.topics {
            for (partition, lane) in &topic.lanes {
                let place = TopicPartition::new(*name, *partition);
                let seen = |(at, e): (&u64, &Event)| (*at, e.record.clone(), e.numbers.clone(), e.time_given);
                let expected: Vec<Seen> = lane.waiting().map(seen).collect();
                self.check_backlog(&place, lane, topic.end()).await;
                for max_bytes in [1, 200, usize::MAX] {
                    let read = self.read(&place, lane, 0, max_bytes).await;
                    compare(&format!("{place:?}, {max_bytes} bytes at a time"), &read, &expected);
                }
                let around = expected.iter().flat_map(|(at, ..)| [at.saturating_sub(1), *at, at + 1]);
                for from in around.chain([topic.end() + 1]) {
                    let read = self.read(&place, lane, from, usize::MAX).await;
                    let expected: Vec<Seen> = expected.iter().filter(|e| e.0 >= from).cloned().collect();
                    compare(&format!("{place:?} from {from}"), &read, &expected);
                }
                self.check_backlog(&place, lane, topic.end()).await;
            }
            self.check_letters(name, topic);
        }
    }

    async fn check_backlog(&self, place: &TopicPartition, lane: &Lane, end: u64) {
        let told = self.storage.backlog(place).await.unwrap_or_else(|error| panic!("it counts: {error}"));
        let empty = self.storage.is_empty(place).await.unwrap_or_else(|error| panic!("it says: {error}"));
        let events = lane.waiting().count() as u64;
        assert_eq!(
            (told.events, empty),
            (events, events == 0),
            "events of {place:?}, and whether it is empty"
        );
        match lane.waiting().next() {
            Some((first, _)) => {
                assert_eq!(told.first, *first, "the oldest of {place:?}");
                self.check_time(place, *first, told.oldest_ms);
            }
            None => assert!(told.first >= end, "the next of {place:?}: {told:?}, {end} positions are given"),
        }
        let mut batches: Vec<u64> = lane.waiting().map(|(_, event)| event.batch).collect();
        batches.dedup();
        let of = |first: &u64| lane.batches.get(first);
        if batches.iter().filter_map(of).all(|batch| !batch.changed) {
            let bytes: usize = batches.iter().filter_map(of).map(|batch| batch.bytes.len()).sum();
            let expected = (batches.len() as u64, bytes as u64);
            assert_eq!((told.batches, told.bytes), expected, "batches and bytes of {place:?}");
        } else {
            // Of a batch that is cut, pieces or the whole may be counted.
            assert!((batches.len() as u64..=events).contains(&told.batches) && told.bytes > 0, "{told:?}");
        }
    }

    fn check_letters(&self, name: &str, topic: &Topic) {
        let Some(letters) = self.medium.dead_letters(name) else { return };
        let letters: Vec<OwnedRecord> = letters.iter().flat_map(records).collect();
        assert_eq!(letters.len(), topic.letters.len(), "dead letters of {name}");
        for (kept, mut given) in letters.into_iter().zip(topic.letters.iter().cloned()) {
            // A storage may add headers of its own behind the event's.
            given.headers.extend(kept.headers.iter().skip(given.headers.len()).cloned());
            assert_eq!(kept, given, "a dead letter is kept as it was given");
        }
    }

    /// Everything from there on, so many bytes at a time.
    async fn read(&self, place: &TopicPartition, lane: &Lane, from: u64, max_bytes: usize) -> Vec<Seen> {
        let (mut out, mut from) = (Vec::new(), from);
        loop {
            let read = self.storage.read(place, from, max_bytes).await;
            let read = read.unwrap_or_else(|error: StorageError| panic!("it reads: {error}"));
            assert!(read.damage.is_empty(), "nothing is damaged: {:?}", read.damage);
            let mut of: Vec<u64> = Vec::new();
            let bytes: usize = read.batches.iter().map(|stored| stored.batch.encoded_len()).sum();
            for stored in &read.batches {
                let end = stored.position + u64::from(stored.batch.count());
                let within = lane.batches.range(..=stored.position).next_back();
                let (first, saved) = within.unwrap_or_else(|| panic!("nothing was saved at {stored:?}"));
                assert!(end <= first + u64::from(saved.count), "it spans two saved batches: {stored:?}");
                if !saved.changed && stored.batch.count() == saved.count {
                    assert_eq!(stored.batch.to_bytes(), saved.bytes, "bytes of {place:?} at {first}");
                }
                of.push(*first);
                for (n, record) in (0..).zip(records(&stored.batch)) {
                    let at = stored.position + u64::from(n);
                    self.check_time(place, at, stored.saved_ms);
                    let numbers = shifted(stored.numbers.as_ref(), n);
                    out.push((at, record, numbers, time_given(&stored.batch, n)));
                }
                assert!(read.next >= end, "what was given out lies below {}: {stored:?}", read.next);
            }
            if read.batches.is_empty() {
                return out;
            }
            of.dedup();
            // Pieces may be counted, or the batches that they come from.
            let saved = of.iter().filter_map(|first| lane.batches.get(first)).map(|batch| batch.bytes.len());
            let bytes = bytes.min(saved.sum());
            assert!(bytes <= max_bytes || of.len() == 1, "{bytes} bytes where {max_bytes} were asked for");
            assert!(read.next > from, "it says where to read on: {} after {from}", read.next);
            from = read.next;
        }
    }
}
