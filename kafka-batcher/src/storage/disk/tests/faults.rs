//! Every step of the file system fails once, or from then on; the machine loses its power. What was answered with Ok is
//! there, what was answered with an error is not, and the storage goes on as soon as the disk does.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::sim::{Fault, Left};
use super::*;
use crate::storage::{Renumbered, StorageError, UNASSIGNED};

/// What the answers said: it must be there, or must not.
#[derive(Debug, Default)]
struct Told {
    saved: Vec<String>,
    refused: u32,
    renumbered: bool,
    regrouped: Option<bool>,
}

/// Saves some batches, renumbers one, regroups; segments are small, so that some are begun in between.
fn scenario(storage: &DiskStorage) -> Told {
    let mut told = Told::default();
    let mut first = None;
    for i in 0..6 {
        let names = [format!("{i}a"), format!("{i}b"), format!("{i}c")];
        let batches = vec![sent(&[&names[0], &names[1]], numbers(2 * i, "x")), fresh(&[&names[2]])];
        match wait(storage.save_batch(&partition(i % 2), batches)) {
            Ok(positions) => {
                first = first.or((i == 0).then(|| positions[0]));
                told.saved.extend(names);
            }
            Err(_) => told.refused += 1,
        }
    }
    if let Some(position) = first {
        let renumbered = Renumbered { position, count: 2, numbers: numbers(900, "y") };
        told.renumbered = wait(storage.renumber(&partition(0), vec![renumbered])).is_ok();
    }
    if let Ok(positions) = wait(storage.save_batch(&partition(UNASSIGNED), vec![fresh(&["u"])])) {
        let parts = vec![(0, batch(&["u0"], None)), (1, batch(&["u1"], None))];
        told.regrouped = Some(wait(storage.regroup("t", positions[0] + 1, parts)).is_ok());
    }
    told
}

fn small() -> DiskSettings {
    DiskSettings { segment_bytes: 900, ..settings() }
}

/// What is there is what was told, exactly.
fn check(storage: &DiskStorage, told: &Told, what: &str) {
    let mut seen: Vec<String> = waiting(storage, 0);
    seen.extend(waiting(storage, 1));
    let mut expected = told.saved.clone();
    match told.regrouped {
        Some(true) => expected.extend(["u0".to_owned(), "u1".to_owned()]),
        Some(false) => assert_eq!(waiting(storage, UNASSIGNED), ["u"], "{what}"),
        None => {}
    }
    if told.regrouped != Some(false) {
        assert_eq!(waiting(storage, UNASSIGNED), [""; 0], "{what}");
    }
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "{what}: {told:?}");
    if told.renumbered {
        let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
        assert_eq!(read.batches[0].numbers, Some(numbers(900, "y")), "{what}");
    }
}

/// The disk after `start`, and how many steps a whole scenario takes.
fn prepared() -> (Disk, u64) {
    let (fs, storage, _) = start(Disk::default(), small());
    wait(storage.close());
    let ready = fs.disk().after_kill();
    let (fs, storage, _) = start(ready.clone(), small());
    let told = scenario(&storage);
    assert_eq!((told.refused, told.renumbered, told.regrouped), (0, true, Some(true)));
    let steps = fs.disk().steps;
    drop(storage);
    (ready, steps)
}

fn after_crash(disk: Disk, told: &Told, what: &str) {
    let (_, storage, recovered) = start(disk, small());
    let mut damage = recovered.damage;
    if what.contains("Middle") || (DIRECT.get() && (what.contains("Bytes") || what.contains("Short"))) {
        // What a power loss leaves of a write that failed and could not be cut off looks like damage, but costs nothing; so does
        // a part of a block.
        damage.retain(|line| !line.contains("of a write that failed"));
    }
    assert_eq!(damage, [""; 0], "{what}");
    check(&storage, told, what);
    save(&storage, 0, vec![fresh(&["more"])]);
    assert_eq!(waiting(&storage, 0).last().map(String::as_str), Some("more"), "{what}");
}

#[test]
pub(super) fn whatever_step_fails_what_was_answered_ok_is_there_and_what_was_not_never_comes_back() {
    let (ready, steps) = prepared();
    let (fs, storage, _) = start(ready.clone(), small());
    let opening = fs.disk().steps;
    drop(storage);
    let kinds = [
        Fault::Clean(ErrorKind::Other),
        Fault::Short(ErrorKind::StorageFull),
        Fault::Short(ErrorKind::Other),
        Fault::Done(ErrorKind::Other),
    ];
    let (mut cases, mut refused) = (0, 0);
    // Two in a row: what failed cannot be cut off either, and only the next segment's name says that it is not there.
    for (fault, times) in kinds.into_iter().flat_map(|fault| [(fault, 1), (fault, 2)]) {
        for step in opening + 1..=steps + 4 {
            let what = format!("{times} steps from {step} on, {fault:?}");
            let (fs, storage, _) = start(ready.clone(), small());
            fs.disk().fault = Some((step, times, fault));
            let told = scenario(&storage);
            check(&storage, &told, &what);
            let disk = fs.disk().clone();
            assert!(u64::from(told.refused) <= times, "{what}: one failure costs one answer");
            after_crash(disk.after_kill(), &told, &format!("{what}, killed"));
            let some = [Left::Bytes(1), Left::Bytes(200), Left::Bytes(1 << 20), Left::Middle(40, 100)];
            for left in [Left::Nothing, Left::Names].into_iter().chain(some) {
                after_crash(disk.after_power_loss(left), &told, &format!("{what}, no power, {left:?}"));
            }
            cases += 1;
            refused += told.refused + u32::from(told.regrouped != Some(true)) + u32::from(!told.renumbered);
        }
    }
    println!("{cases} faults, {refused} answers were errors");
    assert!(refused > cases / 2, "the faults are met");
}

#[test]
pub(super) fn when_the_disk_stays_broken_nothing_more_is_called_durable_and_what_was_is_kept() {
    let (ready, steps) = prepared();
    for fault in [Fault::Clean(ErrorKind::Other), Fault::Clean(ErrorKind::StorageFull)] {
        for step in 1..=steps {
            let what = format!("from step {step} on, {fault:?}");
            let fs = SimFs::new(ready.clone());
            fs.disk().fault = Some((step, u64::MAX, fault));
            let Ok(storage) = DiskStorage::with(Arc::new(fs.clone()), small(), false) else { continue };
            if wait(storage.open("t")).is_err() {
                continue;
            }
            let told = scenario(&storage);
            check(&storage, &told, &what);
            let disk = fs.disk().clone();
            for left in [Left::Nothing, Left::Names, Left::Bytes(1)] {
                after_crash(disk.after_power_loss(left), &told, &format!("{what}, no power, {left:?}"));
            }
            // The disk is back: it goes on by itself.
            fs.disk().fault = None;
            save(&storage, 0, vec![fresh(&["back"])]);
            assert_eq!(waiting(&storage, 0).last().map(String::as_str), Some("back"), "{what}");
        }
    }
}

#[test]
pub(super) fn an_fsync_that_failed_is_not_asked_again_of_the_same_file() {
    // First the write goes into the page cache and its fsync fails; the kernel drops the pages. Then somebody asks again:
    // all is well, says the kernel, and the events are called durable that are nowhere.
    let (ready, _) = prepared();
    let (fs, storage, _) = start(ready, settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let next = fs.disk().steps + 2;
    fs.disk().fault = Some((next, 1, Fault::Clean(ErrorKind::Other)));
    let error = wait(storage.save_batch(&partition(0), vec![fresh(&["b"])])).unwrap_err();
    assert!(error.to_string().contains("fsync /spool/topics/t/"), "{error}");
    save(&storage, 0, vec![fresh(&["c"])]);
    let disk = fs.disk().after_power_loss(Left::Nothing);
    drop(storage);
    let (_, storage, _) = start(disk, settings());
    assert_eq!(waiting(&storage, 0), ["a", "c"]);
}

#[test]
fn a_full_disk_says_what_to_do_and_is_drained_by_the_reserve() {
    let mut disk = Disk::default();
    disk.capacity = Some(40_000);
    let mut with_reserve = DiskSettings { segment_bytes: 6_000, reserve_bytes: 4_000, ..settings() };
    let (fs, storage, _) = start(disk, with_reserve.clone());
    let value = "x".repeat(500);
    let mut saved = Vec::new();
    let error = loop {
        match wait(storage.save_batch(&partition(0), vec![sent(&[&value], numbers(saved.len() as i32, "x"))]))
        {
            Ok(positions) => saved.extend(positions),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::Full(_)), "{error:?}");
    assert!(error.to_string().contains("free some room"), "{error}");
    // Replay must write other numbers down before it may send under them.
    let reserve = PathBuf::from("/spool/reserve");
    assert!(fs.disk().paths().contains(&reserve));
    let renumbered: Vec<Renumbered> =
        saved.iter().map(|p| Renumbered { position: *p, count: 1, numbers: numbers(0, "y") }).collect();
    wait(storage.renumber(&partition(0), renumbered)).unwrap();
    assert!(!fs.disk().paths().contains(&reserve), "it was used");
    wait(storage.commit(&partition(0), saved[saved.len() - 1] + 1, true)).unwrap();
    wait(storage.close());
    with_reserve.max_bytes = 1 << 20;
    let disk = fs.disk().after_kill();
    let (fs, storage, recovered) = start(disk, with_reserve);
    assert_eq!((recovered.backlogs.len(), recovered.damage.len()), (0, 0));
    assert!(fs.disk().paths().contains(&reserve), "it is back");
    save(&storage, 0, vec![fresh(&["more"])]);
}

#[test]
fn what_was_being_replaced_when_the_process_died_is_removed() {
    let (mut disk, _) = prepared();
    for name in ["checkpoint.tmp", "00000000000000000000.cleaned"] {
        let fs = SimFs::new(disk);
        let file = super::super::fs::Fs::create(&fs, &PathBuf::from("/spool/topics/t").join(name)).unwrap();
        file.append(&mut [std::io::IoSlice::new(b"half")]).unwrap();
        disk = fs.disk().after_kill();
    }
    let (fs, _storage, _) = start(disk, small());
    let left = |path: &PathBuf| path.extension().is_some_and(|e| e == "tmp" || e == "cleaned");
    assert!(!fs.disk().paths().iter().any(left));
}

#[test]
pub(super) fn what_recovery_calls_durable_survives_the_next_power_loss() {
    // The process is killed between its write and its fsync. The next one finds the events and tells its user that they are
    // safe; then the power goes.
    let (ready, _) = prepared();
    let (fs, storage, _) = start(ready, settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    let log = disk.paths().into_iter().find(|path| path.extension().is_some_and(|e| e == "log")).unwrap();
    disk.never_synced(&log);
    let (fs, storage, recovered) = start(disk, settings());
    assert_eq!(recovered.backlogs[0].1.events, 1);
    let disk = fs.disk().after_power_loss(Left::Nothing);
    drop(storage);
    let (_, storage, _) = start(disk, settings());
    assert_eq!(waiting(&storage, 0), ["a"]);
}

#[test]
fn a_reserve_that_is_too_small_ends_in_the_words_for_a_full_disk() {
    // "The storage is closed", it said: nobody answered who had been tried again.
    let mut disk = Disk::default();
    disk.capacity = Some(10_000);
    let (fs, storage, _) = start(disk, DiskSettings { reserve_bytes: 20, ..settings() });
    let position = save(&storage, 0, vec![sent(&["a"], numbers(1, "x"))])[0];
    super::cleaning::fill(&fs, 0);
    let renumbered = Renumbered { position, count: 1, numbers: numbers(0, "y") };
    let error = wait(storage.renumber(&partition(0), vec![renumbered])).unwrap_err();
    assert!(matches!(error, StorageError::Full(_)), "{error}");
    assert!(!fs.disk().paths().contains(&PathBuf::from("/spool/reserve")), "it was tried with the reserve");
}
