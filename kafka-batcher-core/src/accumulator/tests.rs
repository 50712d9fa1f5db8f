//! The rules of the accumulator, one by one, in virtual time.

use std::cell::Cell;
use std::time::Duration;

use super::*;
use crate::batch::encoder::Encoder;
use crate::{Header, Outcome};

const MS: Duration = Duration::from_millis(1);

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// Limits that nothing in a test reaches by accident.
fn settings() -> AccumulatorSettings {
    AccumulatorSettings {
        batch_size: 1000,
        max_batch_bytesize: 100_000,
        max_wait_time: 10 * MS,
        min_delay: Duration::ZERO,
    }
}

/// One accumulator and its driver, which has all memory it wants.
struct Rig {
    accumulator: Accumulator,
    clock_reads: u32,
}

/// What came out: partition, reason, and the events by the first byte of their values.
type Out = (i32, FlushReason, Vec<u8>);

impl Rig {
    fn new(settings: AccumulatorSettings) -> Self {
        Self { accumulator: Accumulator::new(settings, 0), clock_reads: 0 }
    }

    fn topic(settings: AccumulatorSettings, partitions: i32) -> Self {
        let mut rig = Self::new(settings);
        (1..partitions)
            .for_each(|partition| assert_eq!(rig.accumulator.add_lane(partition), partition as usize));
        rig
    }

    fn offer(
        &mut self,
        lane: usize,
        value: &[u8],
        flush_after: bool,
        now: Time,
    ) -> Result<Pushed, PushError> {
        let record = Record::value(value);
        let offer = Offer { lane, record: &record, timestamp: 5, flush_after, want_receipt: true };
        let mut spare = None;
        loop {
            let clock_reads = &mut self.clock_reads;
            match self.accumulator.push(offer, &mut spare, || {
                *clock_reads += 1;
                now
            }) {
                Err(PushError::NeedsChunk { size, least }) => {
                    assert!(least <= size && spare.is_none());
                    spare = Some(Chunk::unpooled(size));
                }
                other => return other,
            }
        }
    }

    fn push(&mut self, lane: usize, name: u8, now: Time) -> Ready {
        self.offer(lane, &[name], false, now).unwrap().ready
    }

    fn push_sized(&mut self, lane: usize, name: u8, value_len: usize, now: Time) -> Ready {
        self.offer(lane, &vec![name; value_len], false, now).unwrap().ready
    }

    fn push_flushing(&mut self, lane: usize, name: u8, value_len: usize, now: Time) -> Ready {
        self.offer(lane, &vec![name; value_len], true, now).unwrap().ready
    }

    fn timeout(&mut self, now: Time) -> Vec<Out> {
        self.accumulator.handle_timeout(now);
        self.out()
    }

    fn out(&mut self) -> Vec<Out> {
        std::iter::from_fn(|| self.accumulator.poll_sealed()).map(|sealed| described(&sealed)).collect()
    }
}

fn described(sealed: &Sealed) -> Out {
    let records = sealed.batch.records().unwrap();
    assert_eq!(records.len(), sealed.batch.count() as usize);
    let names = records.iter().map(|record| record.value.as_ref().unwrap()[0]).collect();
    (sealed.partition, sealed.reason, names)
}

/// Size of a batch of one record with a value of this length and nothing else.
fn alone(value_len: usize) -> usize {
    Measured::of(&Record::value(&vec![0; value_len])).unwrap().alone()
}

use FlushReason::{Bytes, Count, Flusher, Memory, Topic, Wait};

#[test]
fn an_event_larger_than_the_limit_is_refused_and_the_next_one_is_unharmed() {
    // kafka_batcher answered ok and dropped it; on an idle accumulator the *next* event then crashed the process.
    let limit = alone(100);
    let mut rig = Rig::new(AccumulatorSettings { max_batch_bytesize: limit, ..settings() });
    let refused = rig.offer(0, &[b'x'; 101], false, at(0)).unwrap_err();
    assert_eq!(refused, PushError::Record(RecordError::TooLarge { size: alone(101), limit }));
    assert_eq!(
        (rig.accumulator.is_empty(), rig.accumulator.poll_timeout(), rig.clock_reads),
        (true, None, 0)
    );

    assert_eq!(rig.push(0, b'a', at(1)), Ready::Timer);
    // With something open it is refused just so, and neither splits the batch nor joins it.
    assert_eq!(rig.offer(0, &[b'x'; 101], true, at(2)).unwrap_err(), refused);
    assert_eq!(rig.push(0, b'b', at(3)), Ready::No);
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(11)));
    assert_eq!(rig.timeout(at(11)), [(0, Wait, b"ab".to_vec())]);
}

#[test]
fn an_event_of_exactly_the_limit_fits_and_leaves_at_once() {
    let mut rig = Rig::new(AccumulatorSettings { max_batch_bytesize: alone(100), ..settings() });
    assert_eq!(rig.push_sized(0, b'a', 100, at(0)), Ready::Sealed);
    let sealed = rig.accumulator.poll_sealed().unwrap();
    assert_eq!(sealed.batch.encoded_len(), alone(100));
    assert_eq!(described(&sealed), (0, Bytes, b"a".to_vec()));
    assert_eq!(rig.accumulator.poll_timeout(), None);
}

#[test]
fn a_batch_is_full_when_not_even_the_smallest_event_fits_and_not_before() {
    // 7 bytes: a record of nulls.
    for (room, ready) in [(0, Ready::Sealed), (6, Ready::Sealed), (7, Ready::Timer)] {
        let mut rig = Rig::new(AccumulatorSettings { max_batch_bytesize: alone(100) + room, ..settings() });
        assert_eq!(rig.push_sized(0, b'a', 100, at(0)), ready, "{room}");
        if ready == Ready::Timer {
            let offer = Offer {
                lane: 0,
                record: &Record::default(),
                timestamp: 5,
                flush_after: false,
                want_receipt: false,
            };
            let mut spare = Some(Chunk::unpooled(64));
            let pushed = rig.accumulator.push(offer, &mut spare, || at(0)).unwrap();
            assert_eq!(pushed.ready, Ready::Sealed);
            let sealed = rig.accumulator.poll_sealed().unwrap();
            assert_eq!((sealed.batch.encoded_len(), sealed.reason), (alone(100) + room, Bytes));
        }
    }
}

#[test]
fn the_event_that_splits_a_batch_has_a_deadline_of_its_own() {
    // kafka_batcher started no timer for it: it waited ten times max_wait_time, until another event came.
    let mut rig = Rig::new(AccumulatorSettings { max_batch_bytesize: 300, ..settings() });
    rig.push_sized(0, b'a', 150, at(0));
    assert_eq!(rig.push_sized(0, b'b', 150, at(7)), Ready::Sealed);
    assert_eq!(rig.out(), [(0, Bytes, b"a".to_vec())]);
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(17)));
    assert_eq!(rig.timeout(at(16)), []);
    assert_eq!(rig.timeout(at(17)), [(0, Wait, b"b".to_vec())]);
}

#[test]
fn the_event_that_splits_a_batch_is_shown_to_the_flusher() {
    // In kafka_batcher it never was, and what should have gone at once waited.
    let mut rig = Rig::new(AccumulatorSettings { max_batch_bytesize: 300, ..settings() });
    rig.push_sized(0, b'a', 150, at(0));
    assert_eq!(rig.push_flushing(0, b'b', 150, at(1)), Ready::Sealed);
    assert_eq!(rig.out(), [(0, Bytes, b"a".to_vec()), (0, Flusher, b"b".to_vec())]);
    assert!(rig.accumulator.is_empty());
}

#[test]
fn the_event_that_splits_a_batch_counts_for_the_next_one() {
    let settings =
        AccumulatorSettings { batch_size: 1, min_delay: 4 * MS, max_batch_bytesize: 300, ..settings() };
    let mut rig = Rig::new(settings);
    rig.push(0, b'a', at(0));
    assert_eq!(rig.out(), [(0, Count, b"a".to_vec())]);
    rig.push_sized(0, b'b', 150, at(1));
    rig.push_sized(0, b'c', 150, at(2));
    assert_eq!(rig.out(), [(0, Bytes, b"b".to_vec())]);
    // One event is a batch here, as soon as min_delay allows.
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(6)));
    assert_eq!(rig.timeout(at(6)), [(0, Count, b"c".to_vec())]);
}

#[test]
fn the_split_off_batch_can_be_full_itself() {
    let mut rig = Rig::new(AccumulatorSettings { max_batch_bytesize: alone(100), ..settings() });
    rig.push(0, b'a', at(0));
    rig.push_sized(0, b'b', 100, at(1));
    assert_eq!(rig.out(), [(0, Bytes, b"a".to_vec()), (0, Bytes, b"b".to_vec())]);
}

#[test]
fn the_count_seals_at_the_event_that_reaches_it() {
    let mut rig = Rig::new(AccumulatorSettings { batch_size: 3, ..settings() });
    for round in 0..3 {
        assert_eq!(rig.push(0, b'a', at(round)), Ready::Timer);
        assert_eq!(rig.push(0, b'b', at(round)), Ready::No);
        assert_eq!(rig.accumulator.open_events(), 2);
        assert_eq!(rig.push(0, b'c', at(round)), Ready::Sealed);
        assert_eq!(rig.out(), [(0, Count, b"abc".to_vec())]);
    }
}

#[test]
fn a_batch_that_will_be_compressed_fills_beyond_its_limit_and_a_single_event_does_not() {
    let settings = AccumulatorSettings {
        batch_size: u32::MAX,
        max_batch_bytesize: 10_000,
        max_wait_time: Duration::from_secs(60),
        min_delay: Duration::ZERO,
    };
    let fill = Arc::new(FillEstimate::new(10_000, 60_000));
    let mut accumulator = Accumulator::new(settings, 0).filled_by(fill.clone());
    let sealed = |accumulator: &mut Accumulator| loop {
        let record = Record::from("a value of some sixty bytes, so that batches are of many events");
        let mut spare = Some(Chunk::unpooled(64 << 10));
        let offer = Offer { lane: 0, record: &record, timestamp: 1, flush_after: false, want_receipt: false };
        let _ = accumulator.push(offer, &mut spare, || Time::ZERO).unwrap();
        if let Some(sealed) = accumulator.poll_sealed() {
            break sealed.batch.encoded_len();
        }
    };
    assert!((9_900..=10_000).contains(&sealed(&mut accumulator)));
    (0..200).for_each(|_| fill.observe(10_000, 2_500));
    let full = sealed(&mut accumulator);
    assert!(
        (fill.limit() - 100..=fill.limit()).contains(&full) && full > 35_000,
        "{full} of {}",
        fill.limit()
    );
    // What is open when the estimate falls may be filled by the old one; whoever compresses it halves it.
    fill.observe(10_000, 10_000);
    let _ = sealed(&mut accumulator);
    assert!((9_900..=10_000).contains(&sealed(&mut accumulator)));
    let large = vec![b'x'; 10_000];
    let record = Record::from(large.as_slice());
    let offer = Offer { lane: 0, record: &record, timestamp: 1, flush_after: false, want_receipt: false };
    let refused = accumulator.push(offer, &mut None, || Time::ZERO);
    assert!(
        matches!(refused, Err(PushError::Record(RecordError::TooLarge { limit: 10_000, .. }))),
        "{refused:?}"
    );
}

#[test]
fn a_batch_size_of_zero_is_one() {
    let mut rig = Rig::new(AccumulatorSettings { batch_size: 0, ..settings() });
    assert_eq!(rig.push(0, b'a', at(0)), Ready::Sealed);
}

#[test]
fn min_delay_ends_by_its_own_timer_not_by_the_next_event() {
    // kafka_batcher rechecked it only when another event came, and by the wall clock.
    let mut rig = Rig::new(AccumulatorSettings { batch_size: 2, min_delay: 5 * MS, ..settings() });
    rig.push(0, b'a', at(0));
    // Nothing was sealed before: no delay.
    assert_eq!(rig.push(0, b'b', at(1)), Ready::Sealed);
    assert_eq!(rig.out().len(), 1);
    assert_eq!(rig.push(0, b'c', at(2)), Ready::Timer);
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(12)));
    assert_eq!(rig.push(0, b'd', at(2)), Ready::Timer, "the count is reached: an earlier deadline");
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(6)));
    assert_eq!(rig.push(0, b'e', at(3)), Ready::No);
    assert_eq!(rig.timeout(at(5)), []);
    assert_eq!(rig.timeout(at(6)), [(0, Count, b"cde".to_vec())]);
}

#[test]
fn min_delay_counts_from_any_seal() {
    let mut rig = Rig::new(AccumulatorSettings { batch_size: 1, min_delay: 5 * MS, ..settings() });
    rig.push_flushing(0, b'a', 1, at(0));
    assert_eq!(rig.out(), [(0, Flusher, b"a".to_vec())]);
    rig.push(0, b'b', at(1));
    rig.accumulator.seal(Memory, at(3));
    assert_eq!(rig.out(), [(0, Memory, b"b".to_vec())]);
    rig.push(0, b'c', at(4));
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(8)));
    // Exactly at its end it is over.
    rig.timeout(at(8));
    assert_eq!(rig.push(0, b'd', at(13)), Ready::Sealed);
}

#[test]
fn min_delay_holds_back_neither_bytes_nor_wait_nor_flusher() {
    let limited = AccumulatorSettings {
        batch_size: 1,
        min_delay: Duration::from_secs(3600),
        max_batch_bytesize: 300,
        ..settings()
    };
    let mut rig = Rig::new(limited);
    rig.push(0, b'a', at(0));
    rig.push_sized(0, b'b', 150, at(1));
    rig.push_sized(0, b'c', 150, at(2));
    assert_eq!(rig.out(), [(0, Count, b"a".to_vec()), (0, Bytes, b"b".to_vec())]);
    assert_eq!(rig.timeout(at(12)), [(0, Wait, b"c".to_vec())]);
    rig.push_flushing(0, b'd', 1, at(13));
    assert_eq!(rig.out(), [(0, Flusher, b"d".to_vec())]);
}

#[test]
fn a_flush_covers_its_event_and_all_before_it_also_when_the_count_fires_with_it() {
    let mut rig = Rig::new(AccumulatorSettings { batch_size: 3, ..settings() });
    rig.push(0, b'a', at(0));
    rig.push(0, b'b', at(0));
    assert_eq!(rig.push_flushing(0, b'c', 1, at(0)), Ready::Sealed);
    assert_eq!(rig.out(), [(0, Flusher, b"abc".to_vec())]);
    assert_eq!(rig.push_flushing(0, b'd', 1, at(0)), Ready::Sealed);
    assert_eq!(rig.out(), [(0, Flusher, b"d".to_vec())]);
}

#[test]
fn the_clock_is_read_only_for_the_first_event_of_a_batch() {
    let mut rig = Rig::new(AccumulatorSettings { batch_size: 100, max_batch_bytesize: 4000, ..settings() });
    let mut batches = 0;
    for i in 0..1000 {
        rig.push_sized(0, b'a', 1 + i % 90, at(0));
        batches += rig.out().len() as u32;
    }
    let open = u32::from(!rig.accumulator.is_empty());
    assert!(batches > 10);
    assert_eq!(rig.clock_reads, batches + open);
}

#[test]
fn a_timeout_that_is_not_due_changes_nothing() {
    let mut rig = Rig::topic(settings(), 3);
    assert_eq!(rig.timeout(at(1_000_000)), []);
    rig.push(0, b'a', at(5));
    rig.push(2, b'b', at(6));
    for now in [0, 5, 14] {
        assert_eq!(rig.timeout(at(now)), []);
        assert_eq!((rig.accumulator.poll_timeout(), rig.accumulator.open_events()), (Some(at(15)), 2));
    }
    assert_eq!(rig.timeout(at(15)).len(), 2);
    assert_eq!((rig.timeout(at(15)), rig.accumulator.poll_timeout()), (vec![], None));
}

#[test]
fn without_any_wait_an_event_is_due_at_its_acceptance() {
    let mut rig = Rig::new(AccumulatorSettings { max_wait_time: Duration::ZERO, ..settings() });
    assert_eq!(rig.push(0, b'a', at(3)), Ready::Timer);
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(3)));
    assert_eq!(rig.timeout(at(3)), [(0, Wait, b"a".to_vec())]);
}

#[test]
fn a_wait_without_end_overflows_nothing() {
    let mut rig = Rig::new(AccumulatorSettings { max_wait_time: Duration::MAX, ..settings() });
    rig.push(0, b'a', at(3));
    assert_eq!(rig.timeout(at(1 << 40)), []);
    rig.accumulator.seal(FlushReason::Shutdown, at(4));
    assert_eq!(rig.out(), [(0, FlushReason::Shutdown, b"a".to_vec())]);
}

#[test]
fn sealing_what_is_empty_gives_nothing_and_does_not_start_min_delay() {
    let mut rig = Rig::new(AccumulatorSettings { batch_size: 1, min_delay: 5 * MS, ..settings() });
    rig.accumulator.seal(FlushReason::Flush, at(0));
    assert_eq!(rig.out(), []);
    assert_eq!(rig.push(0, b'a', at(1)), Ready::Sealed);
}

#[test]
fn without_memory_nothing_changes_and_memory_that_is_not_needed_stays_with_the_caller() {
    let mut rig = Rig::new(AccumulatorSettings { max_batch_bytesize: 300, ..settings() });
    let value = [b'b'; 150];
    let record = Record::value(&value);
    let offer = Offer { lane: 0, record: &record, timestamp: 5, flush_after: true, want_receipt: false };
    let reads = Cell::new(0);
    let clock = || {
        reads.set(reads.get() + 1);
        at(1)
    };
    let needed = |spare: &mut Option<Chunk>, accumulator: &mut Accumulator| {
        let before = (accumulator.open_events(), accumulator.open_bytes(), accumulator.poll_timeout());
        let error = accumulator.push(offer, spare, clock).unwrap_err();
        assert_eq!(before, (accumulator.open_events(), accumulator.open_bytes(), accumulator.poll_timeout()));
        assert!(accumulator.poll_sealed().is_none());
        error
    };
    let size = alone(150) - HEADER_LEN;
    // Nothing open: a chunk, but no larger than the batch can become.
    let wanted = PushError::NeedsChunk { size: 300 - HEADER_LEN, least: size };
    assert_eq!(needed(&mut None, &mut rig.accumulator), wanted);
    // One that is too small is not taken.
    let mut small = Some(Chunk::unpooled(size - 1));
    assert_eq!(needed(&mut small, &mut rig.accumulator), wanted);
    assert!(small.is_some());
    // A split must not happen before there is memory for its event.
    rig.push_sized(0, b'a', 150, at(0));
    assert_eq!(needed(&mut None, &mut rig.accumulator), wanted);
    assert_eq!(reads.get(), 0);
    // The least will do.
    let mut least = Some(Chunk::unpooled(size));
    assert_eq!(rig.accumulator.push(offer, &mut least, clock).unwrap().ready, Ready::Sealed);
    assert!(least.is_none());
    assert_eq!(rig.out(), [(0, Bytes, b"a".to_vec()), (0, Flusher, b"b".to_vec())]);

    rig.push(0, b'c', at(2));
    let mut spare = Some(Chunk::unpooled(4096));
    let record = Record::value("d");
    let offer = Offer { record: &record, flush_after: false, ..offer };
    assert_eq!(rig.accumulator.push(offer, &mut spare, clock).unwrap().ready, Ready::No);
    assert!(spare.is_some());
}

#[test]
fn a_receipt_names_the_batch_that_its_event_is_in_and_its_place_there() {
    let mut rig = Rig::new(AccumulatorSettings { max_batch_bytesize: 400, ..settings() });
    let mut receipts = Vec::new();
    let mut batches = Vec::new();
    for name in 0..10u8 {
        receipts.push(rig.offer(0, &[name; 100], false, at(0)).unwrap().receipt.unwrap());
        batches.extend(std::iter::from_fn(|| rig.accumulator.poll_sealed()));
    }
    rig.accumulator.seal(FlushReason::Flush, at(1));
    batches.extend(std::iter::from_fn(|| rig.accumulator.poll_sealed()));
    assert!(batches.len() > 2);
    let mut offset = 0;
    for sealed in &batches {
        sealed.batch.spans().delivered(sealed.partition, Some(offset));
        offset += i64::from(sealed.batch.count());
    }
    for (i, (completion, index)) in receipts.iter().enumerate() {
        let outcome = Outcome::Delivered { partition: 0, offset: Some(i as i64) };
        assert_eq!(completion.get(*index), Some(outcome));
    }
}

#[test]
fn a_batch_that_nobody_asked_about_carries_no_completion() {
    let mut rig = Rig::new(settings());
    let record = Record::value("v");
    let offer = Offer { lane: 0, record: &record, timestamp: 5, flush_after: false, want_receipt: false };
    let mut spare = Some(Chunk::unpooled(4096));
    for _ in 0..5 {
        assert!(rig.accumulator.push(offer, &mut spare, || at(0)).unwrap().receipt.is_none());
    }
    rig.accumulator.seal(FlushReason::Flush, at(0));
    assert!(rig.accumulator.poll_sealed().unwrap().batch.spans().is_empty());
}

#[test]
fn a_lane_that_does_not_exist_is_an_error_of_its_event_alone() {
    let mut rig = Rig::topic(settings(), 2);
    assert_eq!(rig.offer(2, b"x", false, at(0)).unwrap_err(), PushError::NoSuchLane { lane: 2, lanes: 2 });
    assert!(rig.accumulator.is_empty());
    assert_eq!(rig.accumulator.add_lane(7), 2);
    rig.push(2, b'a', at(0));
    assert_eq!(rig.timeout(at(10)), [(7, Wait, b"a".to_vec())]);
}

#[test]
fn in_topic_mode_the_count_is_the_topics_and_seals_all_its_partitions() {
    let mut rig = Rig::topic(AccumulatorSettings { batch_size: 4, ..settings() }, 5);
    for (lane, name) in [(3, b'a'), (1, b'b'), (3, b'c')] {
        assert_ne!(rig.push(lane, name, at(0)), Ready::Sealed);
    }
    assert_eq!(rig.push(1, b'd', at(0)), Ready::Sealed);
    assert_eq!(rig.out(), [(3, Topic, b"ac".to_vec()), (1, Count, b"bd".to_vec())]);
    assert_eq!((rig.accumulator.open_events(), rig.accumulator.open_bytes()), (0, 0));
}

#[test]
fn in_topic_mode_the_flusher_seals_all_partitions() {
    let mut rig = Rig::topic(settings(), 3);
    rig.push(0, b'a', at(0));
    rig.push(1, b'b', at(0));
    rig.push_flushing(2, b'c', 1, at(0));
    assert_eq!(
        rig.out(),
        [(0, Topic, b"a".to_vec()), (1, Topic, b"b".to_vec()), (2, Flusher, b"c".to_vec())]
    );
}

#[test]
fn in_topic_mode_the_oldest_event_of_the_topic_seals_all_partitions() {
    let mut rig = Rig::topic(settings(), 4);
    assert_eq!(rig.push(2, b'a', at(0)), Ready::Timer);
    assert_eq!(rig.push(0, b'b', at(0)), Ready::No);
    assert_eq!(rig.push(3, b'c', at(1)), Ready::No);
    assert_eq!(
        rig.timeout(at(10)),
        [(2, Wait, b"a".to_vec()), (0, Wait, b"b".to_vec()), (3, Topic, b"c".to_vec())]
    );
}

#[test]
fn in_topic_mode_the_byte_limit_is_each_partitions_own() {
    let mut rig = Rig::topic(AccumulatorSettings { max_batch_bytesize: 300, ..settings() }, 3);
    for lane in 0..3 {
        rig.push_sized(lane, b'a' + lane as u8, 150, at(lane as u64));
    }
    assert_eq!(rig.out(), []);
    assert_eq!(rig.push_sized(0, b'x', 150, at(5)), Ready::Sealed);
    assert_eq!(rig.out(), [(0, Bytes, b"a".to_vec())]);
    // The oldest event has left: the deadline is now that of the second.
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(11)));
    assert_eq!(
        rig.timeout(at(11)),
        [(1, Wait, b"b".to_vec()), (2, Topic, b"c".to_vec()), (0, Topic, b"x".to_vec())]
    );
}

#[test]
fn in_topic_mode_a_byte_seal_takes_its_events_off_the_count() {
    let limited =
        AccumulatorSettings { max_batch_bytesize: 300, batch_size: 3, min_delay: 5 * MS, ..settings() };
    let mut rig = Rig::topic(limited, 2);
    rig.push_flushing(1, b'_', 1, at(0));
    rig.out();
    rig.push_sized(0, b'a', 100, at(1));
    rig.push_sized(0, b'b', 100, at(1));
    rig.push_sized(1, b'c', 150, at(1));
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(5)), "three are open, min_delay is not over");
    rig.push_sized(1, b'd', 150, at(2));
    assert_eq!(rig.out(), [(1, Bytes, b"c".to_vec())]);
    // Still three, and min_delay counts from the seal just now.
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(7)));
    rig.push_sized(0, b'e', 100, at(3));
    assert_eq!(rig.out(), [(0, Bytes, b"ab".to_vec())]);
    // Two: the count is below its limit again.
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(12)));
}

#[test]
fn in_topic_mode_a_reason_is_kept_although_the_partition_that_gave_it_has_left() {
    let limited =
        AccumulatorSettings { max_batch_bytesize: 300, batch_size: 2, min_delay: 5 * MS, ..settings() };
    let mut rig = Rig::topic(limited, 3);
    rig.push_flushing(1, b'_', 1, at(0));
    rig.out();
    rig.push_sized(0, b'a', 100, at(1));
    rig.push_sized(2, b'b', 100, at(1));
    rig.push_sized(1, b'c', 100, at(1));
    // Lane 2 reached the count; fill it up so that it leaves alone.
    rig.push_sized(2, b'd', 300 - alone(100) - 9, at(2));
    assert_eq!(rig.out(), [(2, Bytes, b"bd".to_vec())]);
    assert_eq!(rig.accumulator.poll_timeout(), Some(at(7)));
    assert_eq!(rig.timeout(at(7)), [(0, Count, b"a".to_vec()), (1, Topic, b"c".to_vec())]);
}

#[test]
fn what_is_asked_for_seals_every_partition_with_that_reason() {
    let mut rig = Rig::topic(settings(), 3);
    rig.push(2, b'a', at(0));
    rig.push(0, b'b', at(0));
    rig.accumulator.seal(FlushReason::BrokerReady, at(1));
    let reason = FlushReason::BrokerReady;
    assert_eq!(rig.out(), [(2, reason, b"a".to_vec()), (0, reason, b"b".to_vec())]);
}

#[test]
fn a_sealed_batch_knows_when_its_oldest_event_was_accepted() {
    let mut rig = Rig::new(settings());
    rig.push(0, b'a', at(3));
    rig.push(0, b'b', at(4));
    rig.accumulator.seal(FlushReason::Flush, at(9));
    assert_eq!(rig.accumulator.poll_sealed().unwrap().opened, at(3));
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> =
        FlushReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), FlushReason::ALL.len());
}

/// The bytes of these events as the general encoder writes them, which other implementations have read.
fn plainly_encoded(records: &[(Record<'_>, i64)]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for (record, timestamp) in records {
        let measured = Measured::of(record).unwrap();
        let size = encoder.size_of_next(measured, *timestamp);
        if let Some(capacity) = encoder.chunk_needed(size) {
            encoder.add_chunk(Chunk::unpooled(capacity));
        }
        encoder.append(record, *timestamp, measured, size);
    }
    encoder.seal().unwrap().to_bytes()
}

#[test]
fn the_short_way_writes_the_same_bytes_wherever_a_varint_changes_its_length() {
    let long = vec![7u8; 9000];
    let headers = [Header::new("h", "v")];
    let mut events = Vec::new();
    // Offsets through one, two and three bytes, time standing still; then every length around a varint's edges.
    events.extend((0..9000).map(|_| (Record::keyed("k", "v"), 1_000)));
    for len in [0, 1, 15, 16, 17, 62, 63, 64, 65, 100, 8000, 8063, 8064, 8065, 8191, 8192, 9000] {
        let value = &long[..len];
        events.push((Record::value(value), 1_000));
        events.push((Record::keyed(value, value), 1_063));
        events.push((Record::keyed(value, "v"), 1_064));
        events.push((Record::tombstone(value), 900));
        events.push((Record::keyed("key", value).with_headers(&headers), 1_000 + 8191));
        events.push((Record::value(value).with_timestamp(1_000 + 8192), 1_000 + 8192));
        events.push((Record::keyed("key", value), 9_000_000_000));
        events.push((Record::keyed("key", value), i64::MIN));
        events.push((Record::default(), i64::MAX));
    }
    let mut accumulator = Accumulator::new(
        AccumulatorSettings { max_batch_bytesize: usize::MAX, batch_size: u32::MAX, ..settings() },
        0,
    );
    let mut spare = None;
    for (record, timestamp) in &events {
        let offer = Offer { lane: 0, record, timestamp: *timestamp, flush_after: false, want_receipt: false };
        while let Err(error) = accumulator.push(offer, &mut spare, || at(0)) {
            let PushError::NeedsChunk { size, .. } = error else { panic!("{error}") };
            spare = Some(Chunk::unpooled(size));
        }
    }
    accumulator.seal(FlushReason::Flush, at(1));
    let sealed = accumulator.poll_sealed().unwrap();
    assert_eq!(sealed.batch.max_timestamp(), i64::MAX);
    assert!(sealed.batch.to_bytes() == plainly_encoded(&events));
}

/// Whoever adds up what is open and what was sealed elsewhere, at two moments, would miss what is sealed in between.
#[test]
fn what_was_accepted_is_counted_whether_it_is_open_or_sealed_and_the_oldest_is_known() {
    let mut rig = Rig::topic(AccumulatorSettings { batch_size: 3, ..settings() }, 2);
    assert_eq!((rig.accumulator.accepted_events(), rig.accumulator.oldest()), (0, None));
    for n in 0..10u64 {
        let _ = rig.push((n % 2) as usize, b'a', at(n));
        let open = rig.accumulator.open_events();
        assert_eq!(rig.accumulator.accepted_events(), n + 1);
        assert_eq!(rig.accumulator.oldest(), (open > 0).then(|| at(n + 1 - open)));
    }
    // By bytes, one lane alone.
    let _ = rig.push_sized(0, b'b', 99_000, at(10));
    let _ = rig.push_sized(0, b'c', 99_000, at(11));
    assert_eq!(rig.accumulator.accepted_events(), 12);
    rig.accumulator.seal(FlushReason::Flush, at(12));
    assert_eq!((rig.accumulator.accepted_events(), rig.accumulator.oldest()), (12, None));
}
