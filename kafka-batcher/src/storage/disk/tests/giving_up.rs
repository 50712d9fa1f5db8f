//! Events that are given up, and the room that they leave; when what waits was saved.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::room::{bytes, letter, logs, turn_by_turn, without_checkpoint};
use super::sim::{Fault, Left};
use super::*;
use crate::storage::{StorageError, UNASSIGNED};

fn give_up(storage: &DiskStorage, of: i32, from: u64, through: u64) {
    wait(storage.drop_events(&partition(of), from, through)).unwrap();
}

fn times(storage: &DiskStorage, of: i32) -> Vec<i64> {
    let read = wait(storage.read(&partition(of), 0, usize::MAX)).unwrap();
    read.batches.iter().map(|stored| stored.saved_ms).collect()
}

/// Without a word in the log for it the events of a dropped range would come back: from a segment that is still there for
/// another partition's sake, once the segment that says so is gone, or once the checkpoint is.
#[test]
fn what_was_given_up_stays_so_while_its_bytes_are_there_and_the_word_for_it_wanders() {
    let settings = DiskSettings { segment_bytes: 3_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let (stuck, flowing) = turn_by_turn(&storage, 6);
    // In the middle of partition 0: from the second half of one batch to the first of another.
    give_up(&storage, 0, stuck[1] + 1, stuck[3] + 1);
    let expected = ["s0", "second", "s1", "second", "s4", "second", "s5", "second"];
    assert_eq!(waiting(&storage, 0), expected);
    let mut through = flowing[5] + 1;
    for _ in 0..4 {
        // The word's segment goes, as what flows is settled.
        let (_, flowing) = turn_by_turn(&storage, 6);
        give_up(&storage, 0, stuck[5] + 2, u64::MAX);
        wait(storage.commit(&partition(1), through, true)).unwrap();
        through = flowing[5] + 1;
        let disk = fs.disk().clone();
        for disk in [disk.after_kill(), disk.after_power_loss(Left::Nothing), without_checkpoint(&disk)] {
            let (_, storage, recovered) = start(disk, settings.clone());
            assert_eq!(
                (waiting(&storage, 0), recovered.damage),
                (expected.map(str::to_owned).to_vec(), vec![])
            );
            let backlog = wait(storage.backlog(&partition(0))).unwrap();
            assert_eq!((backlog.events, backlog.batches), (8, 5), "{backlog:?}");
        }
    }
    // Settled as a whole, the word is not carried any further.
    wait(storage.commit(&partition(0), u64::MAX, false)).unwrap();
    wait(storage.commit(&partition(1), u64::MAX, false)).unwrap();
    wait(storage.close());
    assert_eq!(logs(&fs), Vec::<PathBuf>::new(), "nothing waits, nothing is left");
}

/// The bound is reached, nothing can be saved: this is when the oldest are given up, and the next save must find room. It
/// is not enough to give up: the segments are shared, and the last one is still being written.
#[test]
fn what_is_given_up_in_a_full_spool_makes_room_at_once() {
    let settings = DiskSettings { max_bytes: 20_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let value = "x".repeat(400);
    let fill = || {
        let mut saved = Vec::new();
        loop {
            let of = (saved.len() % 3) as i32;
            match wait(storage.save_batch(&partition(of), vec![fresh(&[&value])])) {
                Ok(positions) => saved.push((of, positions[0])),
                Err(StorageError::Full(_)) => return saved,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let saved = fill();
    assert!(saved.len() > 25, "{}", saved.len());
    let before = bytes(&fs);
    // Of one partition alone; what the others have between it waits.
    let (of, _) = saved[0];
    give_up(&storage, of, 0, u64::MAX);
    let freed = before - bytes(&fs);
    println!("{} of {before} bytes were given back by what {} batches held", freed, saved.len() / 3);
    let more = fill();
    assert!(more.len() >= saved.len() / 4, "{} after {}", more.len(), saved.len());
    // All of it, up to what was written last.
    give_up(&storage, 0, 0, u64::MAX);
    give_up(&storage, 1, 0, u64::MAX);
    give_up(&storage, 2, 0, u64::MAX);
    assert!(bytes(&fs) < 4_000, "{}", bytes(&fs));
    assert!(fill().len() + 2 >= saved.len());
}

#[test]
pub(super) fn a_disk_that_is_really_full_gives_events_up_with_the_reserve() {
    let mut disk = Disk::default();
    disk.capacity = Some(60_000);
    let settings = DiskSettings { reserve_bytes: 4_000, segment_bytes: 8_000, ..settings() };
    let (_, storage, _) = start(disk, settings);
    let value = "x".repeat(400);
    let (mut last, mut count) = (0, 0);
    while let Ok(positions) = wait(storage.save_batch(&partition(0), vec![fresh(&[&value])])) {
        (last, count) = (positions[0], count + 1);
    }
    assert!(count > 80, "{count}");
    give_up(&storage, 0, 5, last - 5);
    assert_eq!(waiting(&storage, 0).len(), count - (last as usize - 5 - 5).div_ceil(2));
    save(&storage, 0, vec![fresh(&[&value])]);
}

#[test]
pub(super) fn giving_up_that_fails_has_not_happened_and_no_failing_step_brings_half_of_it() {
    let settings = DiskSettings { segment_bytes: 2_500, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let (stuck, _) = turn_by_turn(&storage, 8);
    wait(storage.close());
    let ready = fs.disk().after_kill();
    let all = {
        let (_, storage, _) = start(ready.clone(), settings.clone());
        waiting(&storage, 0)
    };
    let left = |front: bool| -> Vec<String> {
        if front { all[9..].to_vec() } else { [&all[..3], &all[9..]].concat() }
    };
    for front in [true, false] {
        let from = if front { 0 } else { stuck[1] + 1 };
        let run = |fault| {
            let (fs, storage, _) = start(ready.clone(), settings.clone());
            let before = fs.disk().steps;
            fs.disk().fault = fault;
            let given_up = wait(storage.drop_events(&partition(0), from, stuck[4] + 1));
            (fs, storage, before, given_up)
        };
        let (fs, storage, before, given_up) = run(None);
        given_up.unwrap();
        assert_eq!(waiting(&storage, 0), left(front));
        let steps = fs.disk().steps;
        assert!(steps - before >= 8, "{before} {steps}");
        let mut failed = 0;
        for (at, fault) in (before + 1..=steps).flat_map(|at| {
            [Fault::Clean(ErrorKind::Other), Fault::Short(ErrorKind::Other)].map(|fault| (at, fault))
        }) {
            let what = format!("front {front}, step {at} of {before}..{steps}, {fault:?}");
            let (fs, storage, _, given_up) = run(Some((at, 1, fault)));
            failed += u32::from(given_up.is_err());
            let expected = if given_up.is_ok() { left(front) } else { all.clone() };
            assert_eq!(waiting(&storage, 0), expected, "{what}: the same process");
            let disk = fs.disk().clone();
            for disk in [disk.after_kill(), disk.after_power_loss(Left::Nothing)] {
                let (_, storage, recovered) = start(disk, settings.clone());
                assert_eq!((waiting(&storage, 0), recovered.damage), (expected.clone(), vec![]), "{what}");
            }
        }
        assert!(failed > 0, "some step makes it fail");
    }
}

#[test]
fn damage_in_what_was_given_up_is_no_news() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let saved = save(&storage, 0, vec![fresh(&["a"]), fresh(&["b", "c"]), fresh(&["d"])]);
    give_up(&storage, 0, saved[1], saved[2]);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    let log = disk.paths().into_iter().find(|path| path.extension().is_some_and(|e| e == "log")).unwrap();
    let length = batch(&["a"], None).encoded_len();
    disk.bytes(&log)[length + 70] ^= 1;
    let (_, storage, recovered) = start(disk, settings());
    assert_eq!(recovered.damage, [""; 0]);
    assert_eq!(waiting(&storage, 0), ["a", "d"]);
}

#[test]
fn the_lane_without_partitions_can_be_given_up_as_well() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let saved = save(&storage, UNASSIGNED, vec![fresh(&["u", "v"]), fresh(&["w"])]);
    give_up(&storage, UNASSIGNED, saved[0], saved[0] + 1);
    let disk = fs.disk().after_kill();
    let (_, storage, _) = start(disk, settings());
    assert_eq!(waiting(&storage, UNASSIGNED), ["v", "w"]);
}

/// The list that a cleaned segment keeps is all that is left of the groups' own times.
#[test]
fn when_events_were_saved_outlives_cleaning_restarts_and_the_loss_of_the_checkpoint() {
    let settings = DiskSettings { segment_bytes: 4_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let began = fs.disk().unix_ms;
    let (mut expected, mut flowing) = (Vec::new(), Vec::new());
    for i in 0..30 {
        fs.disk().unix_ms += 70;
        expected.push(fs.disk().unix_ms / 100 * 100);
        save(&storage, 0, vec![fresh(&[&format!("s{i}")])]);
        flowing = save(&storage, 1, vec![fresh(&[&"x".repeat(700)])]);
    }
    assert_eq!(times(&storage, 0), expected);
    let before = bytes(&fs);
    wait(storage.commit(&partition(1), flowing[0] + 1, true)).unwrap();
    assert!(bytes(&fs) < before / 2, "it was cleaned: {} of {before}", bytes(&fs));
    // Much later, under another clock.
    fs.disk().unix_ms += 1_000_000;
    let check = |storage: &DiskStorage| {
        assert_eq!(times(storage, 0), expected);
        let backlog = wait(storage.backlog(&partition(0))).unwrap();
        assert_eq!(backlog.oldest_ms, (began + 70) / 100 * 100);
        assert_eq!(wait(storage.backlog(&partition(1))).unwrap().oldest_ms, 0, "nothing of it waits");
    };
    check(&storage);
    let disk = fs.disk().clone();
    for disk in [disk.after_kill(), without_checkpoint(&disk)] {
        let (_, storage, _) = start(disk, settings.clone());
        check(&storage);
    }
    wait(storage.commit(&partition(0), 2 * 20, true)).unwrap();
    let backlog = wait(storage.backlog(&partition(0))).unwrap();
    assert!(expected.contains(&backlog.oldest_ms) && backlog.oldest_ms > expected[0]);
    assert_eq!(backlog.oldest_ms, times(&storage, 0)[0]);
}

#[test]
fn events_whose_control_batch_is_damaged_were_saved_nobody_knows_when() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    save(&storage, 0, vec![fresh(&["b"])]);
    let known = times(&storage, 0);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    let log = disk.paths().into_iter().find(|path| path.extension().is_some_and(|e| e == "log")).unwrap();
    let length = batch(&["a"], None).encoded_len();
    disk.bytes(&log)[length + 70] ^= 1;
    let (_, storage, recovered) = start(disk, settings());
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!((waiting(&storage, 0), times(&storage, 0)), (vec!["a".into(), "b".into()], vec![0, known[1]]));
    wait(storage.reject(&partition(0), vec![letter("a", Some(0))])).unwrap();
    assert_eq!(wait(storage.backlog(&partition(0))).unwrap().oldest_ms, known[1]);
}
