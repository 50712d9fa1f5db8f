//! What is lost is told, and nothing is told that is not lost.

use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};

use super::super::fs::{File, Fs};
use super::super::scan::Spool;
use super::room::logs;
use super::sim::Fault;
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
    assert!(
        recovered.damage.len() == 1 && recovered.damage[0].contains("are kept"),
        "{:?}",
        recovered.damage
    );
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

#[test]
pub(super) fn a_first_write_that_failed_behind_a_drained_log_is_no_damage() {
    // Everything was delivered and the log deleted; the next process begins a segment and the disk is full in the midst of
    // its first write. The checkpoint is written behind all that there ever was: that is no end that was lost.
    let (fs, storage, _) = start(Disk::default(), settings());
    let position = save(&storage, 0, vec![fresh(&["a"])])[0];
    wait(storage.commit(&partition(0), position + 1, false)).unwrap();
    wait(storage.close());
    assert_eq!(logs(&fs).len(), 0);
    let drained = fs.disk().after_kill();
    let (fs, storage, _) = start(drained.clone(), settings());
    let before = fs.disk().steps;
    save(&storage, 0, vec![fresh(&["b"])]);
    let steps = fs.disk().steps - before;
    drop(storage);
    for step in 1..=steps {
        for times in [1, u64::MAX] {
            let (fs, storage, _) = start(drained.clone(), settings());
            let now = fs.disk().steps;
            fs.disk().fault = Some((now + step, times, Fault::Short(ErrorKind::StorageFull)));
            wait(storage.save_batch(&partition(0), vec![fresh(&["b"])])).unwrap_err();
            let disk = fs.disk().after_kill();
            drop(storage);
            let (_, storage, recovered) = start(disk, settings());
            assert_eq!(recovered.damage, [""; 0], "{times} steps from {step} on");
            if times == 1 {
                // Where the disk refuses everything from then on, what was written may come back.
                assert_eq!(waiting(&storage, 0), [""; 0], "step {step}");
            }
            assert!(save(&storage, 0, vec![fresh(&["c"])])[0] > position + 1, "no position is used twice");
        }
    }
}

/// A disk that is looked at while its owner is at work: between two looks he does something.
#[derive(Debug)]
struct Beside {
    fs: SimFs,
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    storage: DiskStorage,
    looks: AtomicU64,
    /// At which looks he is busy, and with what.
    busy: Range<u64>,
    work: fn(&DiskStorage),
    /// Bytes of a file that the next to read them sees as zeros.
    torn: Mutex<Range<usize>>,
}

impl Owner {
    fn is_looked_at(&self) {
        if self.busy.contains(&self.looks.fetch_add(1, Ordering::Relaxed)) {
            (self.work)(&self.storage);
        }
    }
}

fn save_and_settle(storage: &DiskStorage) {
    for _ in 0..3 {
        let last = save(storage, 0, vec![fresh(&["a", "b"]), fresh(&["c"])])[0];
        wait(storage.commit(&partition(0), last.saturating_sub(15), true)).unwrap();
    }
}

/// Between its length and its bytes, too.
#[derive(Debug)]
struct BesideFile(Arc<dyn File>, Arc<Owner>);

impl File for BesideFile {
    fn append(&self, _: &mut [IoSlice<'_>]) -> io::Result<()> {
        unreachable!("a look changes nothing")
    }
    fn is_padded(&self) -> bool {
        self.0.is_padded()
    }
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.1.is_looked_at();
        self.0.read_at(buffer, at)?;
        let mut torn = self.1.torn.lock().unwrap();
        if let Some(bytes) = buffer.get_mut(torn.clone()) {
            bytes.fill(0);
            *torn = 0..0;
        }
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn sync(&self) -> io::Result<()> {
        unreachable!("a look changes nothing")
    }
    fn has_name(&self) -> io::Result<bool> {
        self.0.has_name()
    }
    fn cut(&self, _: u64) -> io::Result<()> {
        unreachable!("a look changes nothing")
    }
}

impl Fs for Beside {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        unreachable!("a look makes nothing, and not {path:?}")
    }
    fn create_direct(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.create(path)
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        self.owner.is_looked_at();
        Ok(Arc::new(BesideFile(self.fs.open(path, write)?, self.owner.clone())))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        unreachable!("a look makes nothing, and not {path:?}")
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.owner.is_looked_at();
        let names = self.fs.list(path);
        self.owner.is_looked_at();
        names
    }
    fn rename(&self, path: &Path, _: &Path) -> io::Result<()> {
        unreachable!("a look changes nothing, and not {path:?}")
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        unreachable!("a look changes nothing, and not {path:?}")
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        unreachable!("a look changes nothing, and not {path:?}")
    }
    fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.fs.space(path)
    }
    fn unix_ms(&self) -> i64 {
        self.fs.unix_ms()
    }
}

#[test]
pub(super) fn a_log_that_is_written_while_it_is_looked_at_is_not_damaged() {
    // First verify lists the segments; then the writer begins another, settles and writes a checkpoint; then verify reads
    // that: the checkpoint knows more than the log that it sees, "its end was lost".
    // Busy at one look only, at each; and a writer that never rests.
    for busy in (0..40).map(|at| at..at + 1).chain(std::iter::once(0..u64::MAX)) {
        let (fs, storage, _) = start(Disk::default(), DiskSettings { segment_bytes: 100, ..settings() });
        for _ in 0..4 {
            save(&storage, 0, vec![fresh(&["a", "b"]), fresh(&["c"])]);
        }
        let (looks, torn) = (AtomicU64::new(0), Mutex::default());
        let owner = Arc::new(Owner { storage, looks, busy: busy.clone(), work: save_and_settle, torn });
        let beside = Arc::new(Beside { fs, owner: owner.clone() });
        let scan = Spool::with(beside, "/spool".into()).unwrap().scan("t").unwrap();
        assert_eq!(scan.damage, [], "busy at {busy:?}");
        if busy.end < u64::MAX {
            let now = wait(owner.storage.backlog(&partition(0))).unwrap();
            let looks = owner.looks.load(Ordering::Relaxed);
            assert!(busy.start + 1 >= looks || scan.backlogs[0].1 == now, "busy at {busy:?} of {looks}");
        }
    }
}

#[test]
pub(super) fn a_log_that_is_closed_while_it_is_looked_at_is_not_damaged() {
    // Its length was asked, then it was cut to its bytes: "it cannot be read".
    for at in 0..10 {
        let (fs, storage, _) = start(Disk::default(), settings());
        save(&storage, 0, vec![fresh(&["a", "b"])]);
        let (looks, torn) = (AtomicU64::new(0), Mutex::default());
        let owner =
            Arc::new(Owner { storage, looks, busy: at..at + 1, work: |storage| wait(storage.close()), torn });
        let scan = Spool::with(Arc::new(Beside { fs, owner }), "/spool".into()).unwrap().scan("t").unwrap();
        assert_eq!((scan.batches.len(), scan.damage), (1, Vec::new()), "closed at {at}");
    }
}

/// Past the page cache: a story of `directly` alone.
pub(super) fn a_block_that_is_written_while_it_is_read_is_read_again() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    save(&storage, 0, vec![fresh(&["b"])]);
    let end = fs.disk().bytes(&log(0)).iter().rposition(|byte| *byte != 0).unwrap();
    let (looks, torn) = (AtomicU64::new(0), Mutex::new(end - 30..4_096));
    let owner = Arc::new(Owner { storage, looks, busy: 0..0, work: save_and_settle, torn });
    let scan = Spool::with(Arc::new(Beside { fs, owner }), "/spool".into()).unwrap().scan("t").unwrap();
    assert_eq!((scan.batches.len(), scan.damage.len()), (2, 0), "{:?}", scan.damage);
}

#[test]
fn an_empty_segment_in_the_middle_of_a_log_is_told() {
    let settings = DiskSettings { segment_bytes: 100, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    for name in ["a", "b", "c"] {
        save(&storage, 0, vec![fresh(&[name])]);
    }
    let files = logs(&fs);
    assert_eq!(files.len(), 3);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    disk.bytes(&files[1]).clear();
    let (_, storage, recovered) = start(disk, settings);
    assert_eq!(waiting(&storage, 0), ["a", "c"]);
    let damage = &recovered.damage;
    let words = "02.log, byte 0: the file is empty, although another follows it; at most 2 events missing, positions 2..4";
    assert!(damage.len() == 1 && damage[0].ends_with(words) && recovered.missing == 2, "{damage:?}");
}

#[test]
fn the_highest_position_there_can_be_in_a_tail_or_a_name_is_survived() {
    // The header of a batch that no control batch vouches for may say anything: adding to it overflowed.
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    let bytes = disk.bytes(&log(0));
    bytes[0..8].fill(0xff);
    *bytes.iter_mut().rev().nth(4).unwrap() ^= 1;
    let fs = SimFs::new(disk);
    fs.create(&log(u64::MAX)).unwrap();
    let disk = fs.disk().after_kill();
    let (_, storage, recovered) = start(disk, settings());
    assert!(recovered.damage.len() == 1 && recovered.damage[0].contains("at most 1 events missing"));
    assert_eq!(save(&storage, 0, vec![fresh(&["b"])]), [0]);
    assert_eq!(waiting(&storage, 0), ["b"]);
}

#[test]
pub(super) fn a_log_that_was_cut_after_an_orderly_end_is_told_although_it_looks_like_one_that_was_killed() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a", "b", "c"])]);
    wait(storage.close());
    let mut disk = fs.disk().after_kill();
    let whole = disk.bytes(&log(0)).len();
    disk.bytes(&log(0)).truncate(whole - 1);
    let (cut, _storage, recovered) = start(disk, settings());
    let damage = recovered.damage;
    assert!(damage.len() == 1 && damage[0].contains("its end was lost"), "{damage:?}");
    let aside = cut.list(Path::new("/spool/topics/t")).unwrap();
    assert!(aside.iter().any(|name| name.ends_with(".damaged")), "what is left of it is kept: {aside:?}");
    assert!(start(fs.disk().after_kill(), settings()).2.damage.is_empty());
}

#[test]
fn the_room_is_looked_at_by_the_writer_and_never_by_who_asks_for_it() {
    // A scrape ran `statvfs` on a thread of the runtime: over NFS that may take minutes.
    let mut disk = Disk::default();
    disk.capacity = Some(1 << 20);
    let (fs, storage, _) = start(disk, settings());
    let free = || storage.usage().unwrap().free_bytes.unwrap();
    assert!(free() <= 1 << 20);
    let asked = std::thread::current().id();
    // The disk answers nobody until this lets go.
    let (hang, hangs) = (Arc::new(Mutex::new(())), mpsc::channel());
    let (held, tell) = (hang.clone(), Mutex::new(hangs.0));
    fs.when_asked_for_room(move || {
        assert_ne!(std::thread::current().id(), asked);
        let _ = tell.lock().unwrap().send(());
        drop(held.lock());
    });
    let hanging = hang.lock().unwrap();
    while hangs.1.try_recv().is_err() {
        free();
    }
    // Nobody hangs with it.
    fs.disk().capacity = Some(1 << 30);
    (0..100).for_each(|_| assert!(free() <= 1 << 20));
    drop(hanging);
    while free() <= 1 << 20 {
        std::thread::yield_now();
    }
}

#[test]
fn how_long_an_fsync_took_is_told_to_the_last_who_asked() {
    // The first was told for ever: a batcher whose metrics nobody could register, and the next one heard nothing.
    let (_, storage, _) = start(Disk::default(), settings());
    let counts: [Arc<AtomicU64>; 2] = Default::default();
    for count in &counts {
        let count = count.clone();
        storage.observe_fsyncs(Box::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        save(&storage, 0, vec![fresh(&["a"])]);
    }
    assert_eq!(counts.map(|count| count.load(Ordering::SeqCst)), [1, 1]);
}
