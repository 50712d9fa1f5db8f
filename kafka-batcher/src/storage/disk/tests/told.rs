//! What is lost is told, and nothing is told that is not lost.

use std::path::PathBuf;

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
