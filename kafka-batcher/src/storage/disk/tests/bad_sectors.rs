//! A disk that does not give what was written: as much is lost as it refuses, and that is named.

use std::path::PathBuf;

use super::super::scan::Spool;
use super::told::log;
use super::*;

/// Batches of about 600 bytes in one segment, a group each: where each begins and ends in the file.
fn saved(fs: &SimFs, storage: &DiskStorage, count: usize) -> Vec<(std::ops::Range<usize>, String)> {
    let mut all = Vec::new();
    for n in 0..count {
        let value = format!("{n} {}", "x".repeat(600));
        let saved = fresh(&[&value]);
        let length = saved.batch.encoded_len();
        save(storage, 0, vec![saved]);
        // The group's control batch is the same length each time.
        let end = fs.disk().bytes(&log(0)).len();
        let group = if n == 0 { end } else { end - all.last().map_or(0, |(_, _, end): &(_, _, usize)| *end) };
        all.push((end - group..end - group + length, value, end));
    }
    all.into_iter().map(|(bytes, value, _)| (bytes, value)).collect()
}

fn left(all: &[(std::ops::Range<usize>, String)], refused: &std::ops::Range<usize>) -> Vec<String> {
    let whole = |bytes: &std::ops::Range<usize>| bytes.end <= refused.start || refused.end <= bytes.start;
    all.iter().filter(|(bytes, _)| whole(bytes)).map(|(_, value)| value.clone()).collect()
}

#[test]
fn a_bad_sector_costs_what_lies_in_it_and_comes_back_when_the_disk_gives_it_again() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let all = saved(&fs, &storage, 40);
    let disk = fs.disk().after_kill();
    drop(storage);
    let sector = 8_192..12_288;
    let mut broken = disk.clone();
    broken.refuse(&log(0), sector.clone());
    let (fs, storage, recovered) = start(broken, settings());
    let damage = recovered.damage.join("\n");
    assert!(damage.contains("byte 8192: 4096 bytes cannot be read"), "{damage}");
    let there = waiting(&storage, 0);
    // Whole groups in it are found by nobody: of them "at most so many" are missing.
    assert_eq!(there, left(&all, &sector));
    assert!((4..=7).contains(&(all.len() - there.len())), "{}", all.len() - there.len());
    assert!(damage.contains("events missing"), "{damage}");
    save(&storage, 0, vec![fresh(&["more"])]);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    disk.heal();
    let (_, storage, recovered) = start(disk, settings());
    let mut expected: Vec<String> = all.into_iter().map(|(_, value)| value).collect();
    expected.push("more".to_owned());
    assert_eq!((waiting(&storage, 0), recovered.damage), (expected, Vec::new()));
}

#[test]
pub(super) fn a_bad_sector_at_the_end_of_the_log_is_not_cut_off() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let all = saved(&fs, &storage, 10);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    let length = disk.bytes(&log(0)).len();
    for sector in [4_096..8_192, 8_192 - 700..length, length - 10..length] {
        let mut broken = disk.clone();
        broken.refuse(&log(0), sector.clone());
        let (fs, storage, recovered) = start(broken, settings());
        assert!(
            recovered.damage.iter().any(|line| line.contains("cannot be read")),
            "{:?}",
            recovered.damage
        );
        assert!(waiting(&storage, 0).len() < 10);
        save(&storage, 0, vec![fresh(&["more"])]);
        let mut disk = fs.disk().after_kill();
        drop(storage);
        disk.heal();
        let (_, storage, recovered) = start(disk, settings());
        let mut expected: Vec<String> = all.iter().map(|(_, value)| value.clone()).collect();
        expected.push("more".to_owned());
        assert_eq!((waiting(&storage, 0), recovered.damage), (expected, Vec::new()), "{sector:?}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_a_damaged_one() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let position = save(&storage, 0, vec![fresh(&["a"]), fresh(&["b"])])[1];
    wait(storage.commit(&partition(0), position, true)).unwrap();
    let mut disk = fs.disk().after_kill();
    drop(storage);
    disk.refuse(&PathBuf::from("/spool/topics/t/checkpoint"), 0..1);
    let (_, storage, recovered) = start(disk, settings());
    assert!(
        recovered.damage[0].contains("the checkpoint is damaged (it cannot be read"),
        "{:?}",
        recovered.damage
    );
    assert_eq!(waiting(&storage, 0), ["a", "b"]);
}

#[test]
fn a_batch_that_the_disk_refuses_again_and_again_is_damaged_and_the_rest_is_delivered() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let all = saved(&fs, &storage, 40);
    let sector = 8_192..12_288;
    fs.disk().refuse(&log(0), sector.clone());
    let (mut from, mut seen, mut lost, mut errors) = (0, Vec::new(), 0, 0);
    while from < 79 {
        match wait(storage.read(&partition(0), from, 2_000)) {
            Ok(read) => {
                assert!(read.next > from);
                from = read.next;
                seen.extend(values(&read.batches));
                lost += read.damage.iter().map(|(events, _)| events).sum::<u64>();
                assert!(read.damage.iter().all(|(_, what)| what.contains("it cannot be read")), "{read:?}");
            }
            Err(error) => {
                assert!(error.to_string().contains("cannot read"), "{error}");
                errors += 1;
            }
        }
    }
    assert_eq!(seen, left(&all, &sector));
    assert_eq!(seen.len() as u64 + lost, 40);
    assert!(errors >= lost, "it is not given up at once");
}

#[test]
fn a_disk_that_stumbles_or_gives_nothing_at_all_costs_no_event() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let all = saved(&fs, &storage, 40);
    let values: Vec<String> = all.into_iter().map(|(_, value)| value).collect();
    fs.disk().refuse(&log(0), 9_000..9_001);
    for _ in 0..3 {
        // Up to the bad block, and then an error.
        let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
        wait(storage.read(&partition(0), read.next, usize::MAX)).unwrap_err();
    }
    fs.disk().heal();
    assert_eq!(waiting(&storage, 0), values);
    fs.disk().refuse(&log(0), 0..usize::MAX);
    for _ in 0..50 {
        wait(storage.read(&partition(0), 0, usize::MAX)).unwrap_err();
    }
    fs.disk().heal();
    assert_eq!(waiting(&storage, 0), values);
}

#[test]
fn a_segment_that_somebody_removed_is_damage_and_does_not_hold_the_rest_up() {
    let (fs, storage, _) = start(Disk::default(), DiskSettings { segment_bytes: 100, ..settings() });
    for name in ["a", "b", "c"] {
        save(&storage, 0, vec![fresh(&[name])]);
    }
    super::super::fs::remove_if_there(&fs, &log(2)).unwrap();
    let read = |from| wait(storage.read(&partition(0), from, usize::MAX));
    assert_eq!(values(&read(0).unwrap().batches), ["a"]);
    let mut errors = 0;
    let read = loop {
        match read(1) {
            Ok(read) => break read,
            Err(_) => errors += 1,
        }
        assert!(errors < 10);
    };
    assert_eq!((values(&read.batches), read.damage.len(), read.damage[0].0), (vec!["c".to_owned()], 1, 1));
}

#[test]
fn who_looks_names_a_file_that_cannot_be_opened_and_goes_on() {
    let (fs, storage, _) = start(Disk::default(), DiskSettings { segment_bytes: 100, ..settings() });
    for name in ["a", "b", "c"] {
        save(&storage, 0, vec![fresh(&[name])]);
    }
    fs.disk().locked.insert(log(2));
    let scan = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap().scan("t").unwrap();
    assert_eq!(scan.backlogs[0].1.events, 2);
    assert!(
        scan.damage.len() == 1
            && scan.damage[0].to_string().contains("02.log, byte 0: it cannot be read, and is passed over")
    );
    // Whoever is to deliver does not pass anything over: it can be given the right to read.
    let disk = fs.disk().after_kill();
    let storage = DiskStorage::with(Arc::new(SimFs::new(disk)), settings(), false).unwrap();
    let refused = wait(storage.open("t")).unwrap_err().to_string();
    assert!(refused.contains("cannot read /spool/topics/t/00000000000000000002.log"), "{refused}");
}
