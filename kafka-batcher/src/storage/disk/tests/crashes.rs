//! What a crash, or a disk that fails at the worst moment, leaves behind.

use super::super::fs::Fs;
use super::told::log;
use super::*;

#[test]
fn no_segment_takes_the_name_of_another_although_nothing_valid_is_in_it() {
    // One group, then a crash just when the next process had begun its segment; then the first is zeros, whole. No valid
    // position is left, so the next one was 0 again: the new segment took the name of the old, and tidying the old one
    // deleted what had been acknowledged since.
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["lost"])]);
    let disk = fs.disk().after_kill();
    drop(storage);
    let fs = SimFs::new(disk);
    fs.create(&log(2)).unwrap();
    let mut disk = fs.disk().after_kill();
    disk.bytes(&log(0)).fill(0);
    let (fs, storage, recovered) = start(disk, settings());
    assert!(recovered.damage.len() == 1 && recovered.damage[0].contains("positions 0..2"));
    assert_eq!(save(&storage, 0, vec![fresh(&["a"])]), [2]);
    wait(storage.commit(&partition(0), 0, true)).unwrap();
    save(&storage, 0, vec![fresh(&["b"])]);
    let disk = fs.disk().after_kill();
    drop(storage);
    let (_, storage, _) = start(disk, settings());
    assert_eq!(waiting(&storage, 0), ["a", "b"]);
}

#[test]
fn a_segment_in_the_place_of_another_is_refused() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let dir = std::path::PathBuf::from("/spool/topics/t");
    let before = fs.disk().bytes(&log(0)).clone();
    let mut wrong = super::super::log::Log::new(Arc::new(fs.clone()), &dir, (0, Some(0)), 7, 1 << 20);
    let draft = super::super::log::Draft { batches: vec![(0, batch(&["b"], None), None)], facts: Vec::new() };
    let refused = wrong.write(&draft).unwrap_err().error.to_string();
    assert!(refused.contains("cannot create /spool/topics/t/00000000000000000000.log"), "{refused}");
    assert_eq!(*fs.disk().bytes(&log(0)), before);
}
