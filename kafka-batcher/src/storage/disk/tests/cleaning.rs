//! Cleaning is for room alone: what it may cost, and what must not fail with it.

use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};

use super::super::checkpoint::Checkpoint;
use super::super::fs::Fs;
use super::room::{bytes, logs, turn_by_turn};
use super::sim::Fault;
use super::*;
use crate::storage::Renumbered;

const RESERVE: &str = "/spool/reserve";

/// Somebody else takes all but so many bytes of the disk.
pub(super) fn fill(fs: &SimFs, left: u64) -> PathBuf {
    let other = PathBuf::from("/other");
    let (free, _) = fs.space(&other).unwrap();
    let file = fs.create(&other).unwrap();
    file.append(&mut [IoSlice::new(&vec![1; (free - left) as usize])]).unwrap();
    other
}

/// A disk with segments of which a third waits.
fn a_third_stuck() -> (SimFs, DiskStorage, u64) {
    let mut disk = Disk::default();
    disk.capacity = Some(100_000);
    let settings = DiskSettings { segment_bytes: 6_000, reserve_bytes: 500, ..settings() };
    let (fs, storage, _) = start(disk, settings);
    let mut flowing = 0;
    for _ in 0..40 {
        save(&storage, 0, vec![fresh(&[&"s".repeat(300)])]);
        flowing = save(&storage, 1, vec![fresh(&[&"x".repeat(700)])])[0];
    }
    assert!(logs(&fs).len() > 5);
    (fs, storage, flowing)
}

#[test]
fn a_durable_commit_is_what_it_says_although_nothing_can_be_cleaned_and_the_reserve_is_not_spent_on_it() {
    let (fs, storage, flowing) = a_third_stuck();
    let other = fill(&fs, 700);
    let before = bytes(&fs);
    wait(storage.commit(&partition(1), flowing + 1, true)).unwrap();
    assert!(fs.disk().paths().contains(&PathBuf::from(RESERVE)), "the reserve is for what must be written");
    // It is not tried again at every commit: each writes up to a segment before it finds out.
    let steps = fs.disk().steps;
    wait(storage.commit(&partition(1), flowing + 1, true)).unwrap();
    let first = fs.disk().steps - steps;
    assert!(first <= 5, "a checkpoint is five steps, not {first}");
    // There is room, and some time has passed.
    fs.remove(&other).unwrap();
    fs.disk().unix_ms += 11_000;
    wait(storage.commit(&partition(1), flowing + 1, true)).unwrap();
    println!("{} bytes instead of {before}", bytes(&fs));
    assert!(bytes(&fs) < before / 2);
    assert_eq!(waiting(&storage, 0).len(), 40);
    let disk = fs.disk().after_kill();
    drop(storage);
    let (_, storage, _) = start(disk, settings());
    assert_eq!((waiting(&storage, 0).len(), waiting(&storage, 1).len()), (40, 0));
}

#[test]
fn with_room_for_the_smallest_alone_all_are_cleaned_one_after_the_other() {
    let (fs, storage, flowing) = a_third_stuck();
    let before = bytes(&fs);
    // What waits of one segment, its control batch, the facts that wander and a checkpoint; not two segments.
    fill(&fs, 4_000);
    wait(storage.commit(&partition(1), flowing + 1, true)).unwrap();
    println!("{} bytes instead of {before}", bytes(&fs));
    assert!(bytes(&fs) < before / 2);
    assert_eq!(waiting(&storage, 0).len(), 40);
}

#[test]
fn a_segment_with_a_damaged_batch_is_not_cleaned_again_and_again_until_the_reader_has_told_of_it() {
    let settings = DiskSettings { segment_bytes: 20_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings);
    let (stuck, flowing) = turn_by_turn(&storage, 60);
    let path = Path::new("/spool/topics/t/00000000000000000000.log");
    let topic = storage.topic("t").unwrap();
    let victim = topic.state().lanes[&0].entries().nth(5).copied().unwrap();
    fs.disk().bytes(path)[victim.offset as usize + 70] ^= 1;
    let done = flowing.last().unwrap() + 1;
    wait(storage.commit(&partition(1), done, true)).unwrap();
    let whole = fs.disk().bytes(path).len();
    for _ in 0..3 {
        let steps = fs.disk().steps;
        wait(storage.commit(&partition(1), done, true)).unwrap();
        let steps = fs.disk().steps - steps;
        assert!(steps <= 5, "a checkpoint is five steps, not {steps}");
    }
    assert_eq!(fs.disk().bytes(path).len(), whole, "the evidence stays until it was told");
    let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
    assert_eq!((read.damage.len(), values(&read.batches).len()), (1, 2 * stuck.len() - 2));
    wait(storage.commit(&partition(1), done, true)).unwrap();
    assert!(fs.disk().bytes(path).len() < whole / 2);
}

#[test]
fn a_cleaning_that_fails_once_is_no_failure_of_the_commit_wherever_it_fails() {
    let settings = DiskSettings { segment_bytes: 2_500, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let (_, flowing) = turn_by_turn(&storage, 10);
    wait(storage.close());
    let ready = fs.disk().after_kill();
    let commit = |fault| {
        let (fs, storage, _) = start(ready.clone(), settings.clone());
        let before = fs.disk().steps;
        fs.disk().fault = fault;
        let told = wait(storage.commit(&partition(1), flowing[9] + 1, true));
        let steps = fs.disk().steps;
        assert_eq!(waiting(&storage, 0).len(), 20);
        (before, steps, told)
    };
    let (before, steps, _) = commit(None);
    // The checkpoint comes first: five steps; a deletion and its directory; all else is cleaning.
    let failed =
        (before + 1..=steps).filter(|at| commit(Some((*at, 1, Fault::Clean(ErrorKind::Other)))).2.is_err());
    let (failed, all) = (failed.count() as u64, steps - before);
    println!("{failed} of {all} steps fail the commit");
    assert!(all > 20 && failed <= 12, "{failed} of {all}");
}

#[test]
fn a_stuck_partition_costs_no_memory_for_what_flows_past_it() {
    // The times of all that was saved behind its first event were kept: 16 bytes an event where users give times.
    let settings = DiskSettings { segment_bytes: 3_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings);
    save(&storage, 0, vec![fresh(&["stuck"])]);
    for _ in 0..1_000 {
        fs.disk().unix_ms += 100;
        let mut one = fresh(&["flows"]);
        one.batch.set_times_given(std::iter::once(0..1).collect());
        let at = save(&storage, 1, vec![one])[0];
        wait(storage.commit(&partition(1), at + 1, false)).unwrap();
    }
    wait(storage.commit(&partition(1), u64::MAX, true)).unwrap();
    let topic = storage.topic("t").unwrap();
    let state = topic.state();
    let kept = format!("{:?}", (&state.times, &state.given));
    println!("{} bytes as words", kept.len());
    assert!(kept.len() < 10_000, "{} bytes as words", kept.len());
}

#[test]
fn a_spool_that_is_never_idle_gets_its_reserve_back_as_soon_as_there_is_room() {
    // It was made again after a second without work, which a spool in mode "always" may never have.
    let mut disk = Disk::default();
    disk.capacity = Some(40_000);
    let (fs, storage, _) = start(disk, DiskSettings { reserve_bytes: 4_000, ..settings() });
    let position = save(&storage, 0, vec![sent(&["a"], numbers(1, "x"))])[0];
    let other = fill(&fs, 0);
    let renumbered = Renumbered { position, count: 1, numbers: numbers(0, "y") };
    wait(storage.renumber(&partition(0), vec![renumbered])).unwrap();
    let reserve = PathBuf::from(RESERVE);
    assert!(!fs.disk().paths().contains(&reserve), "it was used");
    fs.remove(&other).unwrap();
    save(&storage, 0, vec![fresh(&["b"])]);
    // The next is answered behind it.
    save(&storage, 0, vec![fresh(&["c"])]);
    assert_eq!(fs.disk().bytes(&reserve).len(), 4_000);
}

#[test]
fn a_large_reserve_is_written_in_pieces() {
    let bytes = (5 << 20) + 3;
    let (fs, _storage, _) = start(Disk::default(), DiskSettings { reserve_bytes: bytes, ..settings() });
    assert_eq!(fs.disk().bytes(Path::new(RESERVE)).len() as u64, bytes);
    assert!(fs.disk().largest <= 1 << 20, "{}", fs.disk().largest);
}

#[test]
fn the_checkpoint_knows_the_log_up_to_what_was_carried_over_for_cleaning() {
    let settings = DiskSettings { segment_bytes: 2_500, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings);
    let (stuck, _) = turn_by_turn(&storage, 2);
    let renumbered = Renumbered { position: stuck[0], count: 2, numbers: numbers(500, "y") };
    wait(storage.renumber(&partition(0), vec![renumbered])).unwrap();
    let (_, flowing) = turn_by_turn(&storage, 10);
    let before = storage.topic("t").unwrap().state().end;
    wait(storage.commit(&partition(1), flowing[9] + 1, true)).unwrap();
    let checkpoint = Checkpoint::read(&fs, Path::new("/spool/topics/t")).unwrap().unwrap().unwrap();
    let end = storage.topic("t").unwrap().state().end;
    assert!(end > before, "something was carried over");
    assert_eq!(checkpoint.end, end);
}
