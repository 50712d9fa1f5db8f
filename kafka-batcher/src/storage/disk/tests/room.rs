//! Room: bounds, deletion, cleaning, dead letters.

use std::io::ErrorKind;
use std::path::PathBuf;

use kafka_batcher_core::{DeadLetter, DeliveryError, FailureReason, Persisted};

use super::super::scan::Spool;
use super::sim::{Fault, Left};
use super::*;
use crate::storage::{Renumbered, StorageError, UNASSIGNED};

pub(super) fn logs(fs: &SimFs) -> Vec<PathBuf> {
    let disk = fs.disk();
    let log = |path: &PathBuf| {
        path.parent().is_some_and(|dir| dir.ends_with("t")) && path.extension().is_some_and(|e| e == "log")
    };
    disk.paths().into_iter().filter(log).collect()
}

pub(super) fn bytes(fs: &SimFs) -> usize {
    logs(fs).iter().map(|path| fs.disk().bytes(path).len()).sum()
}

pub(super) fn letter(value: &str, position: Option<u64>) -> DeadLetter {
    let error = DeliveryError {
        reason: FailureReason::Rejected,
        persisted: Persisted::No,
        code: Some(87),
        message: "no such schema".to_owned(),
    };
    DeadLetter { batch: batch(&[value], None), position, error }
}

/// The disk after a kill, and its checkpoint gone.
pub(super) fn without_checkpoint(disk: &Disk) -> Disk {
    let fs = SimFs::new(disk.after_kill());
    super::super::fs::remove_if_there(&fs, &PathBuf::from("/spool/topics/t/checkpoint")).unwrap();
    fs.disk().after_kill()
}

/// Two partitions, turn by turn, over many segments: the positions of the batches of each.
pub(super) fn turn_by_turn(storage: &DiskStorage, rounds: u64) -> (Vec<u64>, Vec<u64>) {
    let (mut stuck, mut flowing) = (Vec::new(), Vec::new());
    for i in 0..rounds {
        let (small, large) = (format!("s{i}"), "x".repeat(700));
        stuck.extend(save(storage, 0, vec![sent(&[&small, "second"], numbers(2 * i as i32, "x"))]));
        flowing.extend(save(storage, 1, vec![fresh(&[&large])]));
    }
    (stuck, flowing)
}

#[test]
pub(super) fn a_stuck_partition_does_not_pin_the_room_of_the_others_and_keeps_its_events_numbers_and_holes() {
    let settings = DiskSettings { segment_bytes: 4_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    // The facts stand in segments that go: they are carried over.
    let (stuck, flowing) = turn_by_turn(&storage, 3);
    let renumbered = Renumbered { position: stuck[0], count: 2, numbers: numbers(500, "y") };
    wait(storage.renumber(&partition(0), vec![renumbered])).unwrap();
    wait(storage.reject(&partition(0), vec![letter("second", Some(stuck[1] + 1))])).unwrap();
    let (_, more) = turn_by_turn(&storage, 27);
    let expected = waiting(&storage, 0);
    let (before, files) = (bytes(&fs), logs(&fs).len());
    wait(storage.commit(&partition(1), *more.last().unwrap() + 1, true)).unwrap();
    assert!(flowing.len() == 3 && files > 6, "{files}");
    let after = bytes(&fs);
    println!("{before} bytes in {files} segments before, {after} in {} after", logs(&fs).len());
    assert!(after < before / 2, "{after} of {before}");
    let check = |storage: &DiskStorage| {
        let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
        assert_eq!((values(&read.batches), read.damage.len()), (expected.clone(), 0));
        assert_eq!(read.batches[0].numbers, Some(numbers(500, "y")));
        assert_eq!(
            (read.batches[1].batch.count(), read.batches[1].position),
            (1, stuck[1]),
            "the hole is there"
        );
        assert_eq!(read.batches[2].numbers, Some(numbers(4, "x")));
        assert_eq!(waiting(storage, 1), [""; 0]);
    };
    check(&storage);
    let disk = fs.disk().clone();
    for disk in [disk.after_kill(), disk.after_power_loss(Left::Nothing)] {
        let (_, storage, recovered) = start(disk, settings.clone());
        assert_eq!(recovered.damage, [""; 0]);
        check(&storage);
    }
    // Without the checkpoint, too: what is still there comes again, what was said of it holds.
    let disk = without_checkpoint(&fs.disk());
    drop(storage);
    let (_, storage, recovered) = start(disk, settings);
    assert_eq!(recovered.damage, [""; 0]);
    let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
    assert_eq!((values(&read.batches), read.batches[0].numbers.clone()), (expected, Some(numbers(500, "y"))));
}

#[test]
pub(super) fn cleaning_that_dies_at_any_step_loses_nothing() {
    let settings = DiskSettings { segment_bytes: 2_500, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let (stuck, flowing) = turn_by_turn(&storage, 8);
    let renumbered = Renumbered { position: stuck[0], count: 2, numbers: numbers(500, "y") };
    wait(storage.renumber(&partition(0), vec![renumbered])).unwrap();
    turn_by_turn(&storage, 8);
    let expected = waiting(&storage, 0);
    wait(storage.close());
    let ready = fs.disk().after_kill();
    let run = |fault| {
        let (fs, storage, _) = start(ready.clone(), settings.clone());
        let before = fs.disk().steps;
        fs.disk().fault = fault;
        let tidied = wait(storage.commit(&partition(1), flowing[7] + 1, true));
        (fs, storage, before, tidied)
    };
    let (fs, _storage, before, tidied) = run(None);
    tidied.unwrap();
    let steps = fs.disk().steps;
    assert!(steps - before > 15, "{}", steps - before);
    let faults = [Fault::Clean(ErrorKind::Other), Fault::Done(ErrorKind::Other)];
    for (at, fault) in (before + 1..=steps).flat_map(|at| faults.map(|fault| (at, fault))) {
        let what = format!("step {at} of {before}..{steps}, {fault:?}");
        let (fs, storage, _, _) = run(Some((at, u64::MAX, fault)));
        assert_eq!(waiting(&storage, 0), expected, "{what}: the same process");
        let disk = fs.disk().clone();
        for disk in
            [disk.after_kill(), disk.after_power_loss(Left::Nothing), disk.after_power_loss(Left::Names)]
        {
            let (_, storage, recovered) = start(disk, settings.clone());
            assert_eq!((waiting(&storage, 0), recovered.damage), (expected.clone(), Vec::new()), "{what}");
            let read = wait(storage.read(&partition(0), 0, 1)).unwrap();
            assert_eq!(read.batches[0].numbers, Some(numbers(500, "y")), "{what}");
        }
        // Once the disk is back it is done after all.
        fs.disk().fault = None;
        wait(storage.commit(&partition(1), flowing[7] + 1, true)).unwrap();
        assert_eq!(waiting(&storage, 0), expected, "{what}: later");
    }
}

#[test]
fn a_regroup_marker_outlives_its_segment_while_the_lane_is_still_there() {
    let settings = DiskSettings { segment_bytes: 1_200, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let keep = format!("k{}", "x".repeat(900));
    save(&storage, UNASSIGNED, vec![fresh(&["u"]), fresh(&[&keep])]);
    save(&storage, 0, vec![fresh(&["x"])]);
    let placed = wait(storage.regroup("t", 1, vec![(0, batch(&[&"y".repeat(900)], None))])).unwrap();
    for _ in 0..4 {
        save(&storage, 1, vec![fresh(&[&"z".repeat(900)])]);
    }
    wait(storage.commit(&partition(0), placed[0] + 1, true)).unwrap();
    let disk = without_checkpoint(&fs.disk());
    drop(storage);
    let (_, storage, _) = start(disk, settings);
    assert_eq!(waiting(&storage, UNASSIGNED), [keep], "what was regrouped does not come again");
}

#[test]
fn beyond_its_bound_the_spool_is_full_and_says_which_bound_and_what_is_settled_makes_room() {
    let settings = DiskSettings { max_bytes: 5_000, segment_bytes: 1_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let value = "x".repeat(400);
    let mut last = 0;
    let error = loop {
        match wait(storage.save_batch(&partition(0), vec![fresh(&[&value])])) {
            Ok(positions) => last = positions[0],
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::Full(_)) && error.to_string().contains("max_bytes"), "{error}");
    assert!(bytes(&fs) <= 5_000 + 200, "{}", bytes(&fs));
    let renumbered = Renumbered { position: last, count: 1, numbers: numbers(0, "y") };
    wait(storage.renumber(&partition(0), vec![renumbered])).unwrap();
    wait(storage.commit(&partition(0), last, true)).unwrap();
    save(&storage, 0, vec![fresh(&[&value])]);
    // The next process counts what is there.
    let disk = fs.disk().after_kill();
    drop(storage);
    let (_, storage, _) = start(disk, DiskSettings { max_bytes: 100, ..settings });
    assert!(wait(storage.save_batch(&partition(0), vec![fresh(&["a"])])).is_err());
}

/// The words of the error of saving so many bytes.
fn refusal(storage: &DiskStorage, of: i32, bytes: usize) -> (usize, String) {
    let saved = fresh(&[&"x".repeat(bytes)]);
    let length = saved.batch.encoded_len();
    match wait(storage.save_batch(&partition(of), vec![saved])) {
        Err(StorageError::Full(words)) => (length, words),
        other => panic!("it has no room: {other:?}"),
    }
}

#[test]
fn a_refusal_for_want_of_room_says_how_much_was_to_be_written_what_there_is_and_which_bound_it_is() {
    let start = |max_bytes, min_free, capacity| {
        let mut disk = Disk::default();
        disk.capacity = Some(capacity);
        start(disk, DiskSettings { max_bytes, min_free_bytes: Some(min_free), ..settings() })
    };
    let (fs, storage, _) = start(3_000, 0, 50_000);
    save(&storage, 0, vec![fresh(&["a"])]);
    let used = bytes(&fs);
    let (length, words) = refusal(&storage, 0, 2_900);
    let wanted = format!("{length} bytes of batches were to be written to /spool;");
    assert!(words.starts_with(&wanted), "{words}");
    let bound = format!("it holds {used} of the 3000 that it may (max_bytes), {} are left", 3_000 - used);
    assert!(words.contains(&bound) && words.contains("raise the bound"), "{words}");
    // Without a partition, room is wanted for giving them one.
    let (_, words) = refusal(&storage, UNASSIGNED, 2_700);
    assert!(words.contains("once more when their partitions are known"), "{words}");

    let (_, storage, _) = start(1 << 40, 19_000, 20_000);
    let (length, words) = refusal(&storage, 0, 2_900);
    assert!(words.starts_with(&format!("{length} bytes of batches were to be written")), "{words}");
    let bound = "free, of which 19000 are left to others (min_free_bytes)";
    assert!(words.contains(bound) && words.contains("free some room on the disk"), "{words}");

    let (_, storage, _) = start(1 << 40, 0, 2_000);
    let (length, words) = refusal(&storage, 0, 2_900);
    let wanted = format!("{length} bytes of batches were to be written, the disk has");
    assert!(
        words.contains(&wanted) && words.contains("free of 2000; the disk itself is the bound"),
        "{words}"
    );
}

#[test]
fn a_disk_that_others_need_is_left_to_them() {
    let mut disk = Disk::default();
    disk.capacity = Some(20_000);
    let (_, storage, _) = start(disk, DiskSettings { min_free_bytes: Some(19_000), ..settings() });
    save(&storage, 0, vec![fresh(&["a"])]);
    let error = wait(storage.save_batch(&partition(0), vec![fresh(&[&"x".repeat(900)])])).unwrap_err();
    assert!(
        matches!(error, StorageError::Full(_)) && error.to_string().contains("min_free_bytes"),
        "{error}"
    );
}

#[test]
fn dead_letters_keep_the_event_and_say_why_and_the_oldest_go_beyond_their_bound() {
    let settings = DiskSettings { dead_letter_bytes: 4_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let saved = save(&storage, 4, vec![fresh(&["a", "bad"])]);
    wait(storage.reject(&partition(4), vec![letter("bad", Some(saved[0] + 1)), letter("never saved", None)]))
        .unwrap();
    let spool = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap();
    let scan = spool.dead_letters("t").unwrap();
    assert_eq!((scan.batches.len(), scan.batches[0].partition, scan.damage.len()), (2, 4, 0));
    let record = &scan.read(&scan.batches[0]).unwrap().records().unwrap()[0];
    assert_eq!(record.value.as_deref(), Some(&b"bad"[..]));
    let header = |name: &str| {
        let header = record.headers.iter().find(|header| header.name == name)?;
        header.value.clone().map(|value| String::from_utf8(value).unwrap())
    };
    use super::super::dead_letter_headers::{CODE, MESSAGE, POSITION, REASON, TIME};
    assert_eq!(
        [REASON, CODE, MESSAGE, POSITION].map(header),
        ["rejected", "87", "no such schema", "1"].map(|v| Some(v.to_owned()))
    );
    assert!(header(TIME).unwrap().parse::<i64>().unwrap() > 1_600_000_000_000);
    for i in 0..40 {
        wait(storage.reject(&partition(4), vec![letter(&format!("{i}"), None)])).unwrap();
    }
    let scan = spool.dead_letters("t").unwrap();
    let held: u64 = scan.segments.iter().map(|segment| segment.length).sum();
    let last = scan.read(scan.batches.last().unwrap()).unwrap().records().unwrap();
    assert!(held <= 4_000 + 500 && scan.segments.len() > 3, "{held}");
    assert_eq!(last[0].value.as_deref(), Some(&b"39"[..]));
    let disk = fs.disk().after_kill();
    let (_, storage, recovered) = start(disk, settings);
    assert_eq!((waiting(&storage, 4), recovered.damage.len()), (vec!["a".to_owned()], 0));
    wait(storage.reject(&partition(4), vec![letter("after a restart", None)])).unwrap();
}

#[test]
fn a_look_beside_the_writer_changes_nothing_and_sees_what_waits() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![sent(&["a", "b"], numbers(3, "x")), fresh(&["c"])]);
    wait(storage.reject(&partition(0), vec![letter("a", Some(0))])).unwrap();
    // A write is under way: half of a batch is there.
    let log = logs(&fs)[0].clone();
    let half = batch(&["half"], None).to_bytes();
    fs.disk().bytes(&log).extend_from_slice(&half[..70]);
    let steps = fs.disk().steps;
    let before = bytes(&fs);
    let scan = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap().scan("t").unwrap();
    assert_eq!(scan.backlogs[0].1, wait(storage.backlog(&partition(0))).unwrap());
    assert_eq!((scan.segments[0].groups, scan.segments[0].unfinished, scan.damage.len()), (2, 70, 0));
    assert_eq!(values(&scan.waiting(&scan.batches[0]).unwrap()), ["b"]);
    assert_eq!(scan.waiting(&scan.batches[0]).unwrap()[0].numbers, Some(numbers(4, "x")));
    assert_eq!(values(&scan.waiting(&scan.batches[1]).unwrap()), ["c"]);
    assert_eq!(fs.disk().steps, steps);
    assert_eq!(bytes(&fs), before);
}

#[test]
pub(super) fn a_small_disk_takes_a_large_batch_without_a_partition_and_can_be_drained() {
    // 4 MiB, of which 3 are free: it took none of a batch of 1 MB, and at the end all of it was lost.
    let mut disk = Disk::default();
    disk.capacity = Some(4 << 20);
    let settings = DiskSettings { direct_io: DIRECT.get(), ..DiskSettings::new("/spool") };
    let (fs, storage, _) = start(disk, settings);
    let value = "x".repeat(1_000);
    let large = || fresh(&vec![value.as_str(); 950]);
    let mut positions = Vec::new();
    let error = loop {
        match wait(storage.save_batch(&partition(UNASSIGNED), vec![large()])) {
            Ok(saved) => positions.push(saved[0]),
            Err(error) => break error,
        }
    };
    assert!(!positions.is_empty() && matches!(error, StorageError::Full(_)), "{positions:?} {error}");
    // What is there gets its partitions, batch by batch, as the dispatcher does it.
    for position in positions {
        let parts: Vec<_> = (0..10).map(|of| (of, batch(&vec![value.as_str(); 95], None))).collect();
        let placed = wait(storage.regroup("t", position + 950, parts)).expect("there is room for that");
        for (of, position) in placed.into_iter().enumerate() {
            wait(storage.commit(&partition(of as i32), position + 95, true)).unwrap();
        }
    }
    wait(storage.close());
    assert!(bytes(&fs) < 1 << 20, "it is drained: {} bytes", bytes(&fs));
}
