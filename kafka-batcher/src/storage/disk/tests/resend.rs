//! Dead letters that are put back.

use std::io::ErrorKind;

use kafka_batcher_core::{DeadLetter, RecordBatch};

use super::super::bytes::{Place, Plain, encode};
use super::super::scan::Spool;
use super::super::{Resent, dead_letter_headers};
use super::room::letter;
use super::sim::{Fault, Left};
use super::*;
use crate::storage::{StorageError, UNASSIGNED};

fn opened(disk: Disk, settings: DiskSettings) -> (SimFs, DiskStorage) {
    let fs = SimFs::new(disk);
    let storage = DiskStorage::with(Arc::new(fs.clone()), settings, false).unwrap();
    (fs, storage)
}

fn resend(storage: &DiskStorage) -> Resent {
    wait(storage.resend_dead_letters("t")).unwrap()
}

/// The values of the dead letters.
fn letters(fs: &SimFs) -> Vec<String> {
    let scan = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap().dead_letters("t").unwrap();
    assert_eq!(scan.damage, []);
    let stored: Vec<Stored> = scan.batches.iter().flat_map(|batch| scan.waiting(batch).unwrap()).collect();
    values(&stored)
}

fn two_segments() -> DiskSettings {
    DiskSettings { dead_letter_bytes: 8 * 700, ..settings() }
}

/// A spool with events that wait in partitions 0 and 1, and six dead letters in several segments.
fn prepared() -> Disk {
    let (fs, storage, _) = start(Disk::default(), two_segments());
    save(&storage, 0, vec![sent(&["a"], numbers(3, "x"))]);
    save(&storage, 1, vec![fresh(&["b"])]);
    for n in 0..6 {
        wait(storage.reject(&partition(n % 2), vec![letter(&format!("bad {n}"), None)])).unwrap();
    }
    assert_eq!(letters(&fs).len(), 6);
    wait(storage.close());
    fs.disk().after_kill()
}

#[test]
fn dead_letters_are_put_back_behind_what_waits_as_they_were() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![sent(&["a"], numbers(3, "x"))]);
    let headers: Vec<(&str, Option<&[u8]>)> = vec![
        ("trace", Some(b"1")),
        (dead_letter_headers::REASON, Some(b"the event's own, of a consumer of dead letters")),
        ("trace", None),
    ];
    let plain = Plain { timestamp: 77, key: Some(b"k"), value: None, headers };
    let (event, _) =
        RecordBatch::decode(&encode(Place { position: 0, partition: -1 }, false, &[plain])).unwrap();
    let refused = DeadLetter { batch: event.clone(), ..letter("", None) };
    wait(storage.reject(&partition(0), vec![refused])).unwrap();
    wait(storage.close());
    let (fs, storage) = opened(fs.disk().after_kill(), settings());
    assert_eq!(resend(&storage), Resent { events: 1, ..Resent::default() });
    // The batcher opens it, and finds all there is.
    let recovered = wait(storage.open("t")).unwrap();
    assert_eq!((recovered.backlogs[0].1.events, recovered.damage.len()), (2, 0));
    let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap().batches;
    assert_eq!((values(&read[..1]), read[0].numbers.clone()), (vec!["a".to_owned()], Some(numbers(3, "x"))));
    assert_eq!((read[1].batch.records().unwrap(), &read[1].numbers), (event.records().unwrap(), &None));
    assert_eq!(letters(&fs), [""; 0]);
    wait(storage.close());
    let (_, storage) = opened(fs.disk().after_power_loss(Left::Nothing), settings());
    assert_eq!(resend(&storage), Resent::default(), "once");
    assert_eq!(wait(storage.open("t")).unwrap().backlogs[0].1.events, 2);
}

#[test]
pub(super) fn whatever_step_fails_or_is_the_last_no_dead_letter_is_lost_and_none_of_a_finished_segment_is_sent_twice()
 {
    let ready = prepared();
    let run = |fault| {
        let (fs, storage) = opened(ready.clone(), two_segments());
        let before = fs.disk().steps;
        fs.disk().fault = fault;
        let resent = wait(storage.resend_dead_letters("t"));
        (fs, storage, before, resent)
    };
    let (fs, storage, before, resent) = run(None);
    assert_eq!(resent, Ok(Resent { events: 6, ..Resent::default() }));
    let steps = fs.disk().steps;
    wait(storage.open("t")).unwrap();
    assert_eq!(waiting(&storage, 0), ["a", "bad 0", "bad 2", "bad 4"]);
    assert_eq!(waiting(&storage, 1), ["b", "bad 1", "bad 3", "bad 5"]);
    // What is in both places, at the most: one segment.
    let mut twice = 0;
    let mut check = |fs: &SimFs, storage: &DiskStorage, what: &str| {
        let mut there = waiting(storage, 0);
        there.extend(waiting(storage, 1));
        let both = letters(fs).into_iter().filter(|value| there.contains(value)).count();
        twice = twice.max(both);
        assert!(both <= 2, "{what}: {both}");
        there.extend(letters(fs));
        there.sort();
        there.dedup();
        assert_eq!(there, ["a", "b", "bad 0", "bad 1", "bad 2", "bad 3", "bad 4", "bad 5"], "{what}");
    };
    let (mut stopped, mut refused) = (0, 0);
    let faults =
        [Fault::Clean(ErrorKind::Other), Fault::Short(ErrorKind::StorageFull), Fault::Done(ErrorKind::Other)];
    for (at, fault) in (before + 1..=steps).flat_map(|at| faults.map(|fault| (at, fault))) {
        let what = format!("step {at} of {before}..{steps}, {fault:?}");
        let (fs, _storage, _, resent) = run(Some((at, u64::MAX, fault)));
        match resent {
            Ok(Resent { stopped: Some(_), .. }) => stopped += 1,
            Err(_) => refused += 1,
            // The last steps only cut zeros off.
            Ok(_) if DIRECT.get() && at + 1 >= steps => {}
            Ok(resent) => panic!("{what}: nobody noticed: {resent:?}"),
        }
        let disk = fs.disk().clone();
        for disk in
            [disk.after_kill(), disk.after_power_loss(Left::Nothing), disk.after_power_loss(Left::Names)]
        {
            let (fs, storage, recovered) = start(disk, two_segments());
            assert_eq!(recovered.damage, [""; 0], "{what}");
            check(&fs, &storage, &what);
            // And the next try finishes it.
            wait(storage.close());
            let (fs, storage) = opened(fs.disk().after_kill(), two_segments());
            let resent = resend(&storage);
            assert_eq!(
                (resent.stopped, resent.damage, letters(&fs)),
                (None, Vec::new(), Vec::new()),
                "{what}"
            );
            wait(storage.open("t")).unwrap();
            check(&fs, &storage, &what);
        }
    }
    println!("{stopped} stopped, {refused} not begun, at most {twice} in both places");
    assert!(stopped > 10 && refused > 3 && twice > 0);
}

#[test]
fn without_room_they_stay_dead_letters() {
    let ready = prepared();
    let (fs, storage) = opened(ready, DiskSettings { max_bytes: 100, ..two_segments() });
    let resent = resend(&storage);
    assert!(
        matches!(&resent.stopped, Some(StorageError::Full(words)) if words.contains("max_bytes")),
        "{resent:?}"
    );
    assert_eq!((resent.events, letters(&fs).len()), (0, 6));
}

#[test]
fn what_is_damaged_is_told_and_kept_aside_and_the_rest_is_put_back() {
    let ready = prepared();
    let mut disk = ready.clone();
    let log =
        ready.paths().into_iter().find(|path| path.to_string_lossy().contains("dead-letters/0")).unwrap();
    disk.bytes(&log)[70] ^= 1;
    let (fs, storage) = opened(disk, two_segments());
    let resent = resend(&storage);
    assert_eq!((resent.events, &resent.stopped), (5, &None));
    assert!(resent.damage.len() == 1 && resent.damage[0].contains("CRC"), "{resent:?}");
    assert!(fs.disk().paths().iter().any(|path| path.extension().is_some_and(|e| e == "damaged")));
    wait(storage.open("t")).unwrap();
    assert_eq!(waiting(&storage, 0), ["a", "bad 2", "bad 4"]);
}

#[test]
fn a_letter_without_a_partition_goes_back_to_the_lane_and_an_open_topic_is_refused() {
    let (fs, storage, _) = start(Disk::default(), settings());
    wait(storage.reject(&partition(UNASSIGNED), vec![letter("nowhere", None)])).unwrap();
    let error = wait(storage.resend_dead_letters("t")).unwrap_err().to_string();
    assert!(error.contains("open already"), "{error}");
    assert!(wait(storage.resend_dead_letters("../t")).is_err());
    wait(storage.close());
    let (fs, storage) = opened(fs.disk().after_kill(), settings());
    assert_eq!(resend(&storage).events, 1);
    wait(storage.open("t")).unwrap();
    assert_eq!(waiting(&storage, UNASSIGNED), ["nowhere"]);
    // Without any there is nothing to do, and no directory is made for it.
    assert_eq!(wait(storage.resend_dead_letters("other")), Ok(Resent::default()));
    assert!(!fs.disk().paths().iter().any(|path| path.to_string_lossy().contains("other/dead-letters")));
}
