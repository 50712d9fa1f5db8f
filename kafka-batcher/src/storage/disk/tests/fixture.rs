//! The bytes of version 1 that `tests/fixtures/spool_v1` has not: what was settled and given up as the log says it, a cleaned
//! segment's times, times that the user gave. Of both: decoded and encoded again they are the same, byte by byte.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use super::super::bytes::{Framed, frame, placed_header};
use super::super::checkpoint::Checkpoint;
use super::super::control::{Control, Fact};
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

/// Every file below a directory.
fn all(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(all(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Decoded and encoded again, batch by batch.
fn anew(segment: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < segment.len() {
        let Framed::Whole(found) = frame(&segment[out.len()..], &mut 1) else {
            panic!("byte {}: no batch", out.len())
        };
        let bytes = &segment[out.len()..out.len() + found.length as usize];
        if found.control {
            out.extend(Control::decode(bytes).unwrap().encode());
        } else {
            let batch = RecordBatch::decode(bytes).unwrap().0;
            let place = Place { position: found.position, partition: found.partition };
            out.extend(placed_header(&batch, place).0);
            batch.body().for_each(|piece| out.extend_from_slice(piece));
        }
    }
    out
}

#[test]
fn what_version_1_wrote_is_written_anew_byte_by_byte() {
    // When the writer cleans and writes checkpoints may change, and with it what such a spool looks like as a whole; what each of
    // its parts looks like may not.
    let (mut logs, mut checkpoints) = (0, 0);
    for path in ["spool_v1", "spool_v1b"].into_iter().flat_map(|name| all(&fixture().with_file_name(name))) {
        let bytes = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "log") {
            assert_eq!(anew(&bytes), bytes, "{path:?}");
            logs += 1;
        } else if path.ends_with("checkpoint") {
            assert_eq!(Checkpoint::decode(&bytes).unwrap().encode(), bytes, "{path:?}");
            checkpoints += 1;
        }
    }
    assert_eq!((logs, checkpoints), (5, 2));
}

#[test]
fn what_this_version_writes_is_what_the_second_fixture_holds() {
    let mut disk = written();
    if std::env::var_os("KAFKA_BATCHER_WRITE_FIXTURE").is_some() {
        for (path, bytes) in files(&mut disk) {
            let path = fixture().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    check(&disk);
}

#[test]
fn settled_given_up_cleaned_and_given_times_that_version_1_wrote_are_read_for_ever() {
    check(&kept());
}

fn check(disk: &Disk) {
    let mut kinds = Kinds::default();
    let fs = SimFs::new(disk.clone());
    load(&fs, Path::new("/spool/topics/t"), true, &mut kinds).unwrap();
    assert!(kinds.settled && kinds.dropped && kinds.given && kinds.times > 1, "it holds what it is for");
    // The log says the same as the checkpoint.
    for disk in [disk.clone(), super::room::without_checkpoint(disk)] {
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
