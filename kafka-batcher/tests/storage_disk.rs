//! The spool on a real file system: who may use it, who may read it, what an old one looks like, how long it takes.

#[path = "storage_disk_support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use kafka_batcher::storage::disk::{Spool, dead_letter_headers};
use kafka_batcher::storage::{DeadLetter, DiskSettings, DiskStorage, Renumbered, UNASSIGNED};
use kafka_batcher::{DeliveryError, FailureReason, Persisted, TempStorage};
use support::{batch, fresh, numbers, partition, save, sent, wait, waiting};

/// A directory of its own, and small.
fn settings(dir: &Path) -> DiskSettings {
    let mut settings = DiskSettings::new(dir);
    settings.min_free_bytes = Some(0);
    settings
}

fn start(settings: DiskSettings) -> DiskStorage {
    let storage = DiskStorage::new(settings).expect("a spool");
    let recovered = wait(storage.open("flights")).expect("opened");
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    storage
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn what_is_saved_on_a_real_disk_is_there_for_the_next_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = start(settings(dir.path()));
    save(&storage, 0, vec![fresh(&["a", "b"]), sent(&["c"], numbers(5, None))]);
    save(&storage, 1, vec![fresh(&["d"])]);
    wait(storage.commit(&partition(0), 1, false)).expect("a hint");
    wait(storage.close());
    drop(storage);
    let storage = start(settings(dir.path()));
    assert_eq!(
        (waiting(&storage, 0), waiting(&storage, 1)),
        (vec!["b".into(), "c".into()], vec!["d".into()])
    );
}

#[test]
fn nothing_is_called_durable_in_a_directory_that_was_removed_and_the_next_write_makes_it_anew() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("spool");
    let storage = start(settings(&dir));
    save(&storage, 0, vec![fresh(&["a"])]);
    fs::remove_dir_all(&dir).expect("removed");
    let refused = wait(storage.save_batch(&partition(0), vec![fresh(&["b"])])).expect_err("it is gone");
    assert!(refused.to_string().contains("somebody removed the file"), "{refused}");
    save(&storage, 0, vec![fresh(&["c"])]);
    // It is held as before.
    let other = DiskStorage::new(settings(&dir)).expect_err("one process at a time").to_string();
    assert!(other.contains("is in use by process"), "{other}");
    drop(storage);
    let storage = start(settings(&dir));
    assert_eq!(waiting(&storage, 0), ["c"]);
    // Another takes hold of a new directory of that name: that one is his.
    fs::remove_dir_all(&dir).expect("removed");
    let other = start(settings(&dir));
    for _ in 0..2 {
        let refused =
            wait(storage.save_batch(&partition(0), vec![fresh(&["d"])])).expect_err("another has it");
        assert!(refused.to_string().contains("is in use by process"), "{refused}");
    }
    drop(other);
    save(&storage, 0, vec![fresh(&["e"])]);
}

#[test]
fn nobody_else_may_read_the_events() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("new").join("spool");
    let storage = start(settings(&root));
    save(&storage, 0, vec![fresh(&["a"])]);
    wait(storage.reject(&partition(0), vec![letter("bad", None)])).expect("kept");
    wait(storage.commit(&partition(0), 0, true)).expect("a checkpoint");
    let found = files(&root);
    assert!(found.len() >= 9, "{found:?}");
    for path in found {
        let mode = fs::metadata(&path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
}

/// Not a test of its own: what the other process does in the test below.
#[test]
fn a_second_process_holds_the_spool() {
    let Some(dir) = std::env::var_os("KAFKA_BATCHER_TEST_SPOOL") else { return };
    let _storage = start(settings(Path::new(&dir)));
    println!("held");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_spool_belongs_to_one_process_which_is_named_to_the_second() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut other = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_second_process_holds_the_spool", "--nocapture"])
        .env("KAFKA_BATCHER_TEST_SPOOL", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process");
    let mut lines = BufReader::new(other.stdout.take().expect("its output")).lines();
    assert!(lines.any(|line| line.expect("a line").contains("held")));
    let refused = DiskStorage::new(settings(dir.path())).expect_err("it is in use").to_string();
    let named = format!("in use by process {} (storage_disk", other.id());
    assert!(refused.contains(&named), "{refused}");
    other.stdin.take().expect("its input").write_all(b"\n").expect("it listens");
    lines.for_each(drop);
    other.wait().expect("it ends");
    start(settings(dir.path()));
}

#[test]
fn a_spool_of_a_newer_format_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(start(settings(dir.path())));
    fs::write(dir.path().join("format"), "kafka-batcher spool 2\n").expect("written");
    let refused = DiskStorage::new(settings(dir.path())).expect_err("newer").to_string();
    assert!(refused.contains("has format 2, this program knows 1; use a newer program"), "{refused}");
    fs::write(dir.path().join("format"), "my notes").expect("written");
    let refused = DiskStorage::new(settings(dir.path())).expect_err("no spool").to_string();
    assert!(refused.contains("not a spool, or damaged"), "{refused}");
    assert!(
        Spool::open(dir.path().join("topics")).expect_err("no spool").to_string().contains("is no spool")
    );
}

fn letter(value: &str, position: Option<u64>) -> DeadLetter {
    let error = DeliveryError {
        reason: FailureReason::Rejected,
        persisted: Persisted::No,
        code: Some(87),
        message: "no such schema".to_owned(),
    };
    let batch = batch(&[value.as_bytes()], kafka_batcher_core::Stamp::NONE);
    DeadLetter { batch, position, error }
}

/// Writes what the fixture holds.
fn fill(storage: &DiskStorage) {
    save(
        storage,
        0,
        vec![
            sent(&["settled"], numbers(0, Some("old"))),
            sent(&["a", "b", "bad", "c"], numbers(1, Some("old"))),
        ],
    );
    save(storage, UNASSIGNED, vec![fresh(&["u1", "u2"])]);
    save(storage, UNASSIGNED, vec![fresh(&["u3"])]);
    wait(storage.keep_partitions("flights", 2)).expect("kept");
    let renumbered = Renumbered { position: 4, count: 1, numbers: numbers(9, None) };
    wait(storage.renumber(&partition(0), vec![renumbered])).expect("renumbered");
    wait(storage.reject(&partition(0), vec![letter("bad", Some(3))])).expect("rejected");
    let none = kafka_batcher_core::Stamp::NONE;
    let parts = vec![(0, batch(&[b"u1"], none)), (1, batch(&[b"u2"], none))];
    wait(storage.regroup("flights", 9, parts)).expect("regrouped");
    wait(storage.commit(&partition(0), 1, true)).expect("committed");
}

fn check(dir: &Path) {
    let storage = DiskStorage::new(settings(dir)).expect("a spool");
    let recovered = wait(storage.open("flights")).expect("opened");
    assert_eq!((recovered.partitions, recovered.damage.len()), (Some(2), 0), "{recovered:?}");
    let read = wait(storage.read(&partition(0), 0, usize::MAX)).expect("read");
    let seen: Vec<_> =
        read.batches.iter().map(|b| (b.position, b.batch.count(), b.numbers.clone())).collect();
    assert_eq!(
        seen[..2],
        [(1, 2, Some(numbers(1, Some("old")))), (4, 1, Some(numbers(9, None)))],
        "settled, cut out, renumbered"
    );
    assert_eq!(waiting(&storage, 0), ["a", "b", "c", "u1"]);
    assert_eq!((waiting(&storage, 1), waiting(&storage, UNASSIGNED)), (vec!["u2".into()], vec!["u3".into()]));
    let letters = Spool::open(dir).expect("a spool").dead_letters("flights").expect("dead letters");
    let letter = letters.read(&letters.batches[0]).expect("a letter").records().expect("records").remove(0);
    assert_eq!(letter.value.as_deref(), Some(&b"bad"[..]));
    assert!(letter.headers.iter().any(|h| h.name == dead_letter_headers::REASON));
}

/// Bytes that version 1 wrote, kept for ever: whoever changes the format must still read them. (Made by running this test
/// with `KAFKA_BATCHER_WRITE_FIXTURE=1`, once.)
#[test]
fn a_spool_that_version_1_wrote_is_read_for_ever() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spool_v1");
    if std::env::var_os("KAFKA_BATCHER_WRITE_FIXTURE").is_some() {
        let mut settings = settings(&fixture);
        settings.reserve_bytes = 0;
        let storage = start(settings);
        fill(&storage);
        wait(storage.close());
        fs::remove_file(fixture.join("lock")).expect("no lock");
    }
    let dir = tempfile::tempdir().expect("a directory");
    for path in files(&fixture) {
        let to = dir.path().join(path.strip_prefix(&fixture).expect("a part"));
        if path.is_dir() {
            fs::create_dir_all(to).expect("a directory");
        } else {
            fs::copy(&path, to).expect("a copy");
        }
    }
    check(dir.path());
}

#[test]
fn what_this_version_writes_is_read_as_the_fixture_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = start(settings(dir.path()));
    fill(&storage);
    wait(storage.close());
    drop(storage);
    check(dir.path());
}

/// A disk of a few MiB that is really full: `KAFKA_BATCHER_SMALL_DISK` names a directory on one (`mount -t tmpfs -o size=4m
/// tmpfs DIR`).
#[test]
#[ignore = "needs a disk of a few MiB, see KAFKA_BATCHER_SMALL_DISK"]
fn a_disk_that_is_really_full_is_drained_and_filled_again_and_nothing_is_lost() {
    let base =
        std::env::var_os("KAFKA_BATCHER_SMALL_DISK").expect("KAFKA_BATCHER_SMALL_DISK names a directory");
    let dir = tempfile::tempdir_in(base).expect("a directory");
    let mut settings = settings(dir.path());
    settings.reserve_bytes = 256 << 10;
    let padding = "x".repeat(10_000);
    let fill = |storage: &DiskStorage, from: usize| {
        let (mut accepted, mut positions) = (Vec::new(), Vec::new());
        loop {
            let value = format!("{} {padding}", from + accepted.len());
            match wait(storage.save_batch(&partition(0), vec![sent(&[&value], numbers(0, None))])) {
                Ok(saved) => {
                    positions.extend(saved);
                    accepted.push(value);
                }
                Err(error) => return (accepted, positions, error.to_string()),
            }
        }
    };
    let storage = start(settings.clone());
    let (mut accepted, positions, error) = fill(&storage, 0);
    assert!(error.contains("the storage is full") && error.contains("free some room"), "{error}");
    assert_eq!(waiting(&storage, 0), accepted);
    // Killed on a full disk, started on a full disk.
    drop(storage);
    let storage = start(settings);
    assert_eq!(waiting(&storage, 0), accepted);
    let renumbered =
        positions.iter().map(|p| Renumbered { position: *p, count: 1, numbers: numbers(7, Some("new")) });
    wait(storage.renumber(&partition(0), renumbered.collect())).expect("the reserve is for this");
    let half = positions.len() / 2;
    wait(storage.commit(&partition(0), positions[half], true)).expect("committed");
    accepted.drain(..half);
    let (more, _, _) = fill(&storage, 1_000_000);
    println!("{} events filled the disk; half of them drained, {} more came", positions.len(), more.len());
    assert!(more.len() > half / 2, "what was settled makes room: {} of {half}", more.len());
    accepted.extend(more);
    assert_eq!(waiting(&storage, 0), accepted);
    drop(storage);
    assert_eq!(waiting(&start(self::settings(dir.path())), 0), accepted);
}

/// Not run by itself: `cargo test --release -p kafka-batcher --test storage_disk -- --ignored --nocapture rates`.
#[test]
#[ignore = "a measurement: 2 GiB of disk"]
fn rates_of_writing_recovering_and_reading_a_gibibyte() {
    const TOTAL: u64 = 1 << 30;
    const GROUP: usize = 16;
    const ROUNDS: usize = 5;
    let base = std::env::var_os("KAFKA_BATCHER_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let value = vec![b'x'; 100];
    let values: Vec<&[u8]> = vec![&value; 1000];
    let one = batch(&values, kafka_batcher_core::Stamp::NONE);
    let size = one.encoded_len() as u64;
    let group: Vec<u8> = one.to_bytes().repeat(GROUP);
    let groups = TOTAL / group.len() as u64;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let rate = |bytes: u64, started: Instant| bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let dir = tempfile::tempdir_in(&base).expect("a directory");
        // The same bytes, in the same groups, each with its fdatasync.
        let plain = fs::File::create(dir.path().join("plain")).expect("a file");
        let started = Instant::now();
        for _ in 0..groups {
            (&plain).write_all(&group).expect("written");
            plain.sync_data().expect("synced");
        }
        let sequential = rate(TOTAL, started);
        let storage = start(settings(&dir.path().join("spool")));
        let started = Instant::now();
        for i in 0..groups {
            let place = partition((i % 16) as i32);
            let batches =
                (0..GROUP).map(|_| kafka_batcher::storage::ToSave { batch: one.clone(), numbers: None });
            runtime.block_on(storage.save_batch(&place, batches.collect())).expect("saved");
        }
        let spool = rate(TOTAL, started);
        drop(storage);
        let storage = DiskStorage::new(settings(&dir.path().join("spool"))).expect("a spool");
        let started = Instant::now();
        let recovered = runtime.block_on(storage.open("flights")).expect("opened");
        let (took, recovery) = (started.elapsed(), rate(TOTAL, started));
        let events: u64 = recovered.backlogs.iter().map(|(_, backlog)| backlog.events).sum();
        let started = Instant::now();
        let (mut read, mut bytes) = (0, 0);
        for p in 0..16 {
            let mut from = 0;
            loop {
                let some = runtime.block_on(storage.read(&partition(p), from, 1 << 20)).expect("read");
                if some.batches.is_empty() {
                    break;
                }
                from = some.next;
                read += some.batches.iter().map(|b| u64::from(b.batch.count())).sum::<u64>();
                bytes += some.batches.len() as u64 * size;
            }
        }
        let reading = rate(bytes, started);
        assert_eq!(read, events);
        println!(
            "round {round}: {events} events, groups of {GROUP} batches of {size} bytes: plain sequential {sequential:.0} MB/s, \
             spool {spool:.0} MB/s ({:.2}); recovery {took:.2?} ({recovery:.0} MB/s); reading {reading:.0} MB/s",
            spool / sequential
        );
        ratios.push(spool / sequential);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    assert!(median >= 0.8, "the spool writes at {median:.2} of the rate of a plain file");
}

/// Not run by itself: `cargo test --release -p kafka-batcher --test storage_disk -- --ignored --nocapture million`.
#[test]
#[ignore = "a measurement: 200 MiB of disk"]
fn recovery_of_a_million_small_batches() {
    let base = std::env::var_os("KAFKA_BATCHER_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).expect("a directory");
    let one = batch(&[&[b'x'; 100]], kafka_batcher_core::Stamp::NONE);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let storage = start(settings(dir.path()));
    for i in 0..1000 {
        let batches = (0..1000).map(|_| kafka_batcher::storage::ToSave { batch: one.clone(), numbers: None });
        runtime.block_on(storage.save_batch(&partition(i % 16), batches.collect())).expect("saved");
    }
    drop(storage);
    let resident = || {
        let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
    };
    let storage = DiskStorage::new(settings(dir.path())).expect("a spool");
    let (before, started) = (resident(), Instant::now());
    let recovered = runtime.block_on(storage.open("flights")).expect("opened");
    let took = started.elapsed();
    let batches: u64 = recovered.backlogs.iter().map(|(_, backlog)| backlog.batches).sum();
    assert_eq!(batches, 1_000_000);
    let grown = resident().saturating_sub(before);
    println!(
        "{batches} batches of {} bytes: {took:.2?}, the process grew by {grown} bytes",
        one.encoded_len()
    );
}
