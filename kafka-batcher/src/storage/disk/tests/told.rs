//! What is lost is told, and nothing is told that is not lost.

use std::path::PathBuf;

use super::room::logs;
use super::*;
use crate::storage::UNASSIGNED;

pub(super) fn log(base: u64) -> PathBuf {
    PathBuf::from(format!("/spool/topics/t/{base:020}.log"))
}

#[test]
fn a_lost_group_is_told_unless_everybody_who_may_have_had_it_has_settled_it() {
    // Partition 0 has never settled anything, so the checkpoint does not know it; 1 and 2 have settled all. Then the group of
    // partition 0 is zeros: nobody can say any more whose it was.
    let (fs, storage, _) = start(Disk::default(), settings());
    wait(storage.keep_partitions("t", 3)).unwrap();
    let before = fs.disk().bytes(&log(0)).len();
    let lost = save(&storage, 0, vec![fresh(&["a", "b", "c"])])[0];
    let group = before..fs.disk().bytes(&log(0)).len();
    save(&storage, 1, vec![fresh(&["x"])]);
    let last = save(&storage, 2, vec![fresh(&["y"])])[0];
    for of in [1, 2] {
        wait(storage.commit(&partition(of), last + 1, true)).unwrap();
    }
    let damaged = |fs: &SimFs| {
        let mut disk = fs.disk().after_kill();
        disk.bytes(&log(0))[group.clone()].fill(0);
        start(disk, settings()).2.damage
    };
    let damage = damaged(&fs);
    let words = format!("at most 4 events missing, positions {lost}..{}", lost + 4);
    assert!(damage.len() == 1 && damage[0].contains(&words), "{damage:?}");
    wait(storage.commit(&partition(0), last + 1, true)).unwrap();
    assert_eq!(damaged(&fs).len(), 1, "it may have been the unassigned lane's");
    wait(storage.commit(&partition(UNASSIGNED), lost + 3, true)).unwrap();
    assert_eq!(damaged(&fs).len(), 1, "of which a part waits");
    wait(storage.commit(&partition(UNASSIGNED), lost + 4, true)).unwrap();
    assert_eq!(damaged(&fs), [""; 0]);
}

#[test]
fn what_is_kept_without_its_control_batch_outlives_cleaning() {
    // The last control batch of a segment is damaged; its events are kept. Then the segment is cleaned: a new control batch
    // takes the place of the last one that is known, in front of what it lists. Nobody believes that.
    let settings = DiskSettings { segment_bytes: 1_700, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let large = "x".repeat(600);
    for _ in 0..2 {
        save(&storage, 1, vec![fresh(&[&large])]);
    }
    save(&storage, 0, vec![fresh(&["s0"]), fresh(&["s1"])]);
    assert_eq!(logs(&fs).len(), 1);
    let mut flowing = 0;
    while logs(&fs).len() < 3 {
        flowing = save(&storage, 1, vec![fresh(&[&large])])[0];
    }
    let mut disk = fs.disk().after_kill();
    drop(storage);
    *disk.bytes(&log(0)).iter_mut().rev().nth(9).unwrap() ^= 1;
    let (fs, storage, recovered) = start(disk, settings.clone());
    assert!(recovered.damage.len() == 1 && recovered.damage[0].contains("are kept"), "{:?}", recovered.damage);
    assert_eq!(waiting(&storage, 0), ["s0", "s1"]);
    let before = fs.disk().bytes(&log(0)).len();
    wait(storage.commit(&partition(1), flowing + 1, true)).unwrap();
    let after = fs.disk().bytes(&log(0)).len();
    assert!(after < before / 2, "it is cleaned: {after} of {before}");
    let disk = fs.disk().after_kill();
    drop(storage);
    let (_, storage, recovered) = start(disk, settings);
    assert_eq!((waiting(&storage, 0), recovered.damage), (vec!["s0".into(), "s1".into()], Vec::new()));
}
