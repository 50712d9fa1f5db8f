//! Kafka's own DumpLogSegments reads every segment of a spool, control batches and dead letters too, and finds every batch
//! valid and every event in it.

#[path = "storage_disk_support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kafka_batcher::storage::disk::{Spool, TopicScan};
use kafka_batcher::storage::{DeadLetter, DiskSettings, DiskStorage, Renumbered, UNASSIGNED};
use kafka_batcher::{DeliveryError, FailureReason, KafkaBatcher, Persisted, Record, SpoolMode, TempStorage};
use kafka_batcher_testkit::{Error, LogDump, Options, RealKafka, Suite};
use support::{batch, fresh, numbers, partition, save, sent, wait};

fn main() -> ExitCode {
    Suite::new(Options::one_broker())
        .test("DumpLogSegments reads every segment of a spool", dumped)
        .test("and those that write-ahead wrote past the page cache", dumped_ahead)
        .run()
}

fn dumped(_: &RealKafka) -> Result<(), Error> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut settings = DiskSettings::new(dir.path());
    (settings.segment_bytes, settings.min_free_bytes) = (20_000, Some(0));
    let storage = DiskStorage::new(settings).expect("a spool");
    wait(storage.open("flights")).expect("opened");
    let mut sequence = 0;
    for i in 0..40 {
        let values: Vec<String> = (0..20).map(|n| format!("{i} {n} {:>60}", "")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let place = [0, 1, 2, UNASSIGNED][i % 4];
        let stamped = sent(&values, numbers(sequence, Some("cluster")));
        sequence += values.len() as i32;
        let saved = save(&storage, place, vec![stamped, fresh(&values[..3])]);
        if i == 4 {
            let renumbered = Renumbered { position: saved[0] + 5, count: 7, numbers: numbers(900, None) };
            wait(storage.renumber(&partition(place), vec![renumbered])).expect("renumbered");
            let error = DeliveryError {
                reason: FailureReason::Rejected,
                persisted: Persisted::No,
                code: Some(87),
                message: "no".to_owned(),
            };
            let batch = batch(&[b"bad"], kafka_batcher_core::Stamp::NONE);
            let letter = DeadLetter { batch, position: Some(saved[0] + 1), error };
            wait(storage.reject(&partition(place), vec![letter])).expect("rejected");
            wait(storage.keep_partitions("flights", 3)).expect("kept");
        }
    }
    let none = kafka_batcher_core::Stamp::NONE;
    wait(storage.regroup("flights", 1, vec![(2, batch(&[b"placed"], none))])).expect("regrouped");
    // All but one partition are settled: segments are cleaned.
    let before = Spool::open(dir.path()).expect("a spool").scan("flights").expect("scanned").batches.len();
    for settled in [0, 2, UNASSIGNED] {
        wait(storage.commit(&partition(settled), 1 << 40, settled == UNASSIGNED)).expect("committed");
    }
    let spool = Spool::open(dir.path()).expect("a spool");
    assert!(spool.scan("flights").expect("scanned").batches.len() < before / 2, "nothing was cleaned");
    let scan = spool.scan("flights").expect("scanned");
    let letters = spool.dead_letters("flights").expect("scanned");
    assert!(scan.segments.len() > 3 && scan.damage.is_empty(), "{:?}", scan.damage);
    let files: Vec<PathBuf> =
        scan.segments.iter().chain(&letters.segments).map(|segment| segment.path.clone()).collect();
    check(&files, &scan, &letters)
}

/// Kafka is not there; the segments are closed.
fn dumped_ahead(_: &RealKafka) -> Result<(), Error> {
    // On the file system of this checkout.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let batcher = KafkaBatcher::builder(["127.0.0.1:1"])
            .collector_defaults(|c| c.batch_size = 20)
            .spool(dir.path())
            .spool_mode(SpoolMode::Always)
            .spool_settings(|s| (s.segment_bytes, s.min_free_bytes) = (20_000, Some(0)))
            .start()
            .await
            .expect("a batcher");
        let collector = batcher.collector("flights").build().expect("a collector");
        for n in 0..1_000 {
            let receipt =
                collector.send(Record::keyed("key", &format!("{n} {:>60}", ""))).await.expect("accepted");
            if n % 100 == 99 {
                receipt.durable().await.expect("durable");
            }
        }
        // So it was written past the page cache: `.ci/run` asks for that where it can be.
        let live = Spool::open(dir.path()).expect("a spool").scan("flights").expect("scanned").segments;
        let lengths: Vec<u64> =
            live.iter().map(|s| std::fs::metadata(&s.path).expect("there").len()).collect();
        let direct = lengths.last().is_some_and(|length| length.is_multiple_of(4_096));
        assert!(direct || std::env::var_os("KAFKA_BATCHER_REQUIRE_DIRECT_IO").is_none(), "{lengths:?}");
        let report = batcher.shutdown(Duration::from_millis(10)).await;
        assert!(report.spooled == 1_000 && report.balances(), "{report:?}");
    });
    let spool = Spool::open(dir.path()).expect("a spool");
    let scan = spool.scan("flights").expect("scanned");
    let events: u64 = scan.batches.iter().map(|batch| u64::from(batch.count)).sum();
    assert!(
        events == 1_000 && scan.segments.len() > 3 && scan.damage.is_empty(),
        "{events}: {:?}",
        scan.damage
    );
    let files: Vec<PathBuf> = scan.segments.iter().map(|segment| segment.path.clone()).collect();
    let letters = spool.dead_letters("flights").expect("scanned");
    check(&files, &scan, &letters)
}

/// What DumpLogSegments finds in these files is what we do.
fn check(files: &[PathBuf], scan: &TopicScan, letters: &TopicScan) -> Result<(), Error> {
    let dump = LogDump::of_files(files)?;
    // Partition -2: control batches. All others are the batches that were saved, as they were.
    let (control, data): (Vec<_>, Vec<_>) =
        dump.batches.iter().partition(|batch| batch.partition_leader_epoch == -2);
    let ours: Vec<_> = scan
        .batches
        .iter()
        .map(|b| (b.position as i64, b.partition, b.count, b.crc))
        .chain(letters.batches.iter().map(|b| (b.position as i64, b.partition, b.count, b.crc)))
        .collect();
    let theirs: Vec<_> =
        data.iter().map(|b| (b.base_offset, b.partition_leader_epoch, b.count, b.crc)).collect();
    assert_eq!(theirs, ours);
    let groups: u64 = scan.segments.iter().chain(&letters.segments).map(|segment| segment.groups).sum();
    assert_eq!(control.len() as u64, groups);
    assert!(control.iter().all(|b| b.compress_codec == "none" && !b.is_control));
    println!("{} segments: {} batches, {} control batches", files.len(), data.len(), control.len());
    Ok(())
}
