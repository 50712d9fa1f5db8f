//! What each step of an event's way costs by itself: `cargo bench --manifest-path bench-compare/Cargo.toml`, or with a name behind `--`.
//!
//! For seeing where a change went, not for saying how fast the library is: `bench-compare run` says that. Events are those of its
//! scenario 100B; a batch has 1 000 of them, a request sixteen batches.

#![allow(missing_docs)] // Criterion's macros make functions without any.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kafka_batcher::storage::ToSave;
use kafka_batcher::{DiskSettings, DiskStorage, TempStorage, TopicPartition};
use kafka_batcher_core::wire::{
    ProduceFrame, ProduceHead, ProduceItem, ProduceVisitor, ProducedPartition, read_produce,
};
use kafka_batcher_core::{
    Accumulator, AccumulatorSettings, BufferPool, Codec, Compression, Compressor, FlushReason, Offer,
    PushError, Record, RecordBatch, Share, Time, TopicId,
};

const EVENTS: u64 = 1_000;
const PARTITIONS: i32 = 16;
const KEY: &[u8] = b"0123456789abcdef";
/// Words and not one letter: it is compressed, too.
const VALUE: &[u8] =
    br#"{"text":"gate wind delay north cargo crew tower fuel taxi climb descent runway weather slot earl ."}"#;

/// An accumulator, and where its chunks come from.
struct Lane {
    pool: BufferPool,
    share: Share,
    accumulator: Accumulator,
}

impl Lane {
    fn new() -> Lane {
        Lane {
            pool: BufferPool::new(64 << 20),
            share: Share::new(64 << 20),
            accumulator: Accumulator::new(AccumulatorSettings::default(), 0),
        }
    }

    /// As the library does: the short way, and the whole rule for what that does not take.
    fn append(&mut self) {
        let record = Record { key: Some(KEY), ..Record::value(VALUE) };
        if self.accumulator.push_short(0, &record, 1) {
            return;
        }
        let mut spare = None;
        loop {
            let offer =
                Offer { lane: 0, record: &record, timestamp: 1, flush_after: false, want_receipt: false };
            match self.accumulator.push(offer, &mut spare, || Time::ZERO) {
                Ok(_) => return,
                Err(PushError::NeedsChunk { size, .. }) => spare = self.pool.try_acquire(&self.share, size),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn filled() -> Lane {
        let mut lane = Lane::new();
        (0..EVENTS).for_each(|_| lane.append());
        lane
    }

    fn seal(&mut self) -> RecordBatch {
        self.accumulator.seal(FlushReason::Flush, Time::ZERO);
        self.accumulator.poll_sealed().expect("it had events").batch
    }
}

fn batch() -> RecordBatch {
    Lane::filled().seal()
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("event");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("append", |b| {
        let fill = |lane: &mut Lane| (0..EVENTS).for_each(|_| lane.append());
        b.iter_batched_ref(Lane::new, fill, BatchSize::SmallInput);
    });
    group.finish();
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    group.bench_function("seal", |b| b.iter_batched_ref(Lane::filled, Lane::seal, BatchSize::SmallInput));
    group.throughput(Throughput::Bytes(batch().encoded_len() as u64));
    group.bench_function("crc", |b| {
        let sealed = batch();
        // Its CRC is not known yet.
        b.iter_batched(|| sealed.unstamped(), |batch| batch.finish(), BatchSize::SmallInput);
    });
    for codec in [Codec::Lz4, Codec::Zstd, Codec::Snappy, Codec::Gzip] {
        group.bench_function(format!("compress/{codec}"), |b| {
            let (sealed, how) = (batch(), Compression::new(codec, None).expect("its default"));
            let mut compressor = Compressor::new();
            b.iter(|| compressor.compress(&sealed, how));
        });
    }
    group.finish();
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("request");
    let sealed = batch();
    sealed.finish();
    let item =
        |partition| ProduceItem { topic: "flights", topic_id: TopicId([1; 16]), partition, batch: &sealed };
    group.bench_function("encode", |b| {
        let head =
            ProduceHead { version: 13, correlation: 1, client_id: "bench", acks: -1, timeout_ms: 30_000 };
        let mut frame = ProduceFrame::default();
        b.iter(|| {
            frame.encode(&head, (0..PARTITIONS).map(item));
            frame.len()
        });
    });
    group.bench_function("decode response", |b| {
        let answer = answer();
        b.iter(|| {
            let mut count = Count(0);
            read_produce(&answer, 13, &mut count).expect("an answer");
            assert_eq!(count.0, PARTITIONS);
        });
    });
    group.finish();
}

struct Count(i32);

impl ProduceVisitor for Count {
    fn partition(&mut self, answer: ProducedPartition<'_>) {
        self.0 += i32::from(answer.base_offset == 7);
    }

    fn broker(&mut self, _: i32, _: &str, _: i32) {}
}

/// An answer to Produce version 13: every partition written at offset 7.
fn answer() -> Vec<u8> {
    const NO_TAGS: u8 = 0;
    let mut out = 1i32.to_be_bytes().to_vec();
    out.push(NO_TAGS);
    // One topic, by its id. Lengths are one more than they are.
    out.push(2);
    out.extend([1; 16]);
    out.push(PARTITIONS as u8 + 1);
    for partition in 0..PARTITIONS {
        out.extend(partition.to_be_bytes());
        out.extend(0i16.to_be_bytes());
        // Base offset, time of the append, start of the log.
        [7i64, -1, 0].iter().for_each(|n| out.extend(n.to_be_bytes()));
        // No record at fault, no words.
        out.extend([1, 0, NO_TAGS]);
    }
    out.push(NO_TAGS);
    out.extend(0i32.to_be_bytes());
    out.push(NO_TAGS);
    out
}

fn spool(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // Beside what is built: a real disk, where /tmp may be none.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let storage = DiskStorage::new(DiskSettings::new(dir.path())).expect("a spool");
    runtime.block_on(storage.open("flights")).expect("it opens");
    let (place, sealed) = (TopicPartition::new("flights", 0), batch());
    let mut group = c.benchmark_group("spool");
    group.throughput(Throughput::Bytes(16 * sealed.encoded_len() as u64));
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    group.bench_function("append 16 batches, fdatasync, commit", |b| {
        b.iter(|| {
            let group = (0..16).map(|_| ToSave { batch: sealed.clone(), numbers: None }).collect();
            let saved = runtime.block_on(storage.save_batch(&place, group)).expect("saved");
            let through = saved.last().expect("sixteen") + EVENTS;
            runtime.block_on(storage.commit(&place, through, false)).expect("committed");
        });
    });
    group.finish();
}

criterion_group!(micro, append, batches, requests, spool);
criterion_main!(micro);
