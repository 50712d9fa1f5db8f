//! The bytes of version 1 that `tests/fixtures/spool_v1` has not: what was settled and given up as the log says it, a cleaned
//! segment's times, times that the user gave. Made with a clock that stands still, so that they are compared byte by byte.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use super::super::control::Fact;
use super::super::fs::{File, Fs};
use super::super::load::{Visitor, load};
use super::super::topic::Segment;
use super::super::walk::{Found, Group};
use super::*;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spool_v1b")
}

fn small() -> DiskSettings {
    DiskSettings { segment_bytes: 1_500, ..settings() }
}

/// Writes what the fixture holds.
fn written() -> Disk {
    let (fs, storage, _) = start(Disk::default(), small());
    let large = "x".repeat(600);
    let mut given = fresh(&["s0", "s1", "s2"]);
    given.batch.set_times_given(vec![0..1, 2..3]);
    save(&storage, 0, vec![given]);
    let mut flowing = save(&storage, 1, vec![fresh(&[&large])])[0];
    fs.disk().unix_ms += 5_000;
    save(&storage, 0, vec![sent(&["s3"], numbers(4, "x"))]);
    for _ in 0..4 {
        flowing = save(&storage, 1, vec![fresh(&[&large])])[0];
    }
    // The first segments are cleaned or go.
    wait(storage.commit(&partition(1), flowing + 1, true)).unwrap();
    // What the checkpoint knows, the next save says in the log; what is given up behind what waits.
    // (Nothing is left open, or the writer might write it down by itself when this thread is slow.)
    let rest = save(&storage, 0, vec![fresh(&["d0"]), fresh(&["d1"]), fresh(&["d2"])]);
    let settled = save(&storage, 2, vec![fresh(&["gone"])])[0];
    wait(storage.commit(&partition(2), settled + 1, true)).unwrap();
    wait(storage.drop_events(&partition(0), rest[1], rest[2])).unwrap();
    fs.disk().unix_ms += 5_000;
    save(&storage, 2, vec![fresh(&["there"])]);
    wait(storage.close());
    fs.disk().after_kill()
}

fn files(disk: &mut Disk) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = disk.paths();
    paths
        .into_iter()
        .map(|path| (path.strip_prefix("/spool").unwrap().to_owned(), disk.bytes(&path).clone()))
        .collect()
}

/// The fixture as a disk.
fn kept() -> Disk {
    let fs = SimFs::default();
    let topic = PathBuf::from("/spool/topics/t");
    fs.create_dir(&topic).unwrap();
    let mut paths = vec![PathBuf::from("format")];
    for entry in std::fs::read_dir(fixture().join("topics/t")).unwrap() {
        paths.push(Path::new("topics/t").join(entry.unwrap().file_name()));
    }
    for path in paths {
        let bytes = std::fs::read(fixture().join(&path)).unwrap();
        fs.create(&Path::new("/spool").join(path)).unwrap().append(&mut [IoSlice::new(&bytes)]).unwrap();
    }
    fs.disk().all_durable()
}

#[derive(Default)]
struct Kinds {
    settled: bool,
    dropped: bool,
    times: usize,
    given: bool,
}

impl Visitor for Kinds {
    fn segment(&mut self, _: u32, _: &Segment, _: Arc<dyn File>) {}
    fn batch(&mut self, _: u32, _: &Found, _: bool) {}
    fn control(&mut self, _: u32, group: &Group) {
        self.settled |= group.facts.iter().any(|fact| matches!(fact, Fact::Settled { .. }));
        self.dropped |= group.facts.iter().any(|fact| matches!(fact, Fact::Dropped { .. }));
        self.times = self.times.max(group.saved.len());
        self.given |= !group.given.is_empty();
    }
}

#[test]
fn what_this_version_writes_is_byte_by_byte_what_the_fixture_holds() {
    let mut disk = written();
    if std::env::var_os("KAFKA_BATCHER_WRITE_FIXTURE").is_some() {
        for (path, bytes) in files(&mut disk) {
            let path = fixture().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    let mut kept = kept();
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    let (written, kept) = (files(&mut disk), files(&mut kept));
    assert_eq!(names(&written), names(&kept));
    for ((path, written), (_, kept)) in written.iter().zip(&kept) {
        assert_eq!(written, kept, "{path:?}");
    }
}

#[test]
fn settled_given_up_cleaned_and_given_times_that_version_1_wrote_are_read_for_ever() {
    let mut kinds = Kinds::default();
    let fs = SimFs::new(kept());
    load(&fs, Path::new("/spool/topics/t"), true, &mut kinds).unwrap();
    assert!(kinds.settled && kinds.dropped && kinds.given && kinds.times > 1, "it holds what it is for");
    // The log says the same as the checkpoint.
    for disk in [kept(), super::room::without_checkpoint(&kept())] {
        let (_, storage, recovered) = start(disk, small());
        assert_eq!(recovered.damage, [""; 0]);
        let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
        assert_eq!(values(&read.batches), ["s0", "s1", "s2", "s3", "d0", "d2"]);
        assert_eq!(read.batches[0].batch.times_given(), [0..1, 2..3]);
        assert_eq!(read.batches[1].numbers, Some(numbers(4, "x")));
        let saved: Vec<i64> = read.batches.iter().map(|batch| batch.saved_ms - 1_700_000_000_000).collect();
        assert_eq!(saved, [0, 5_000, 5_000, 5_000]);
        assert_eq!(waiting(&storage, 1), [""; 0]);
        assert_eq!(waiting(&storage, 2), ["there"]);
    }
}
