//! Every storage of ours passes the suite that a third one would run, and storages that are wrong on purpose do not.

#[path = "storage_conformance_support/broken.rs"]
mod broken;
#[path = "storage_conformance_support/wrong.rs"]
mod wrong;

use std::collections::BTreeMap;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use broken::Broken;
use kafka_batcher::storage::conformance::{CASES, Case, Medium};
use kafka_batcher::storage::disk::Spool;
use kafka_batcher::storage::{StorageError, TempStorage};
use kafka_batcher::{DiskSettings, DiskStorage, MemoryStorage, RecordBatch};
use tempfile::TempDir;
use wrong::{WRONG, Wrong};

struct Memory(MemoryStorage);

impl Medium for Memory {
    fn open(&self) -> Box<dyn TempStorage> {
        Box::new(self.0.clone())
    }
    fn crash(&self, _: Box<dyn TempStorage>) {
        self.0.crash();
    }
    fn fail_writes(&self, fail: bool) -> bool {
        self.0.fail_with(fail.then(|| StorageError::Failed("so asked".to_owned())));
        true
    }
    fn dead_letters(&self, topic: &str) -> Option<Vec<RecordBatch>> {
        Some(self.0.dead_letters(topic).into_iter().map(|letter| letter.batch).collect())
    }
}

/// A directory; after a crash the copy of it that was taken before the storage ended, since a storage that is dropped
/// still writes down what it knows.
struct Disk {
    dir: Mutex<TempDir>,
    segment_bytes: Option<u64>,
}

impl Disk {
    fn new(segment_bytes: Option<u64>) -> Self {
        Disk { dir: Mutex::new(tempfile::tempdir().expect("a directory")), segment_bytes }
    }
    fn dir(&self) -> PathBuf {
        self.dir.lock().expect("not poisoned").path().to_owned()
    }
}

/// Every file below, with its bytes. One that is gone or grows meanwhile is met again by the next look.
fn contents(dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            contents(&path, out);
        } else if let Ok(bytes) = fs::read(&path) {
            out.insert(path, bytes);
        }
    }
}

/// The files at one moment: the writer may be at work by itself.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let look = || {
        let mut files = BTreeMap::new();
        contents(dir, &mut files);
        files
    };
    let mut before = look();
    loop {
        let now = look();
        if now == before {
            return now;
        }
        before = now;
    }
}

impl Medium for Disk {
    fn open(&self) -> Box<dyn TempStorage> {
        let mut settings = DiskSettings::new(self.dir());
        (settings.reserve_bytes, settings.min_free_bytes) = (0, Some(0));
        settings.segment_bytes = self.segment_bytes.unwrap_or(settings.segment_bytes);
        Box::new(DiskStorage::new(settings).expect("the directory can be used"))
    }
    fn crash(&self, storage: Box<dyn TempStorage>) {
        let (from, to) = (self.dir(), tempfile::tempdir().expect("a directory"));
        for (path, bytes) in snapshot(&from) {
            let copy = to.path().join(path.strip_prefix(&from).expect("below it"));
            fs::create_dir_all(copy.parent().expect("a directory")).expect("made");
            fs::write(copy, bytes).expect("written");
        }
        drop(storage);
        *self.dir.lock().expect("not poisoned") = to;
    }
    fn dead_letters(&self, topic: &str) -> Option<Vec<RecordBatch>> {
        let letters = Spool::open(self.dir()).expect("a spool").dead_letters(topic).expect("a topic");
        Some(letters.batches.iter().map(|letter| letters.read(letter).expect("a letter")).collect())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn memory_conforms() {
    for (name, case) in CASES {
        println!("{name}");
        runtime().block_on(case(&Memory(MemoryStorage::default())));
    }
}

fn disk_conforms_with(segment_bytes: Option<u64>) {
    for (name, case) in CASES {
        println!("{name}");
        runtime().block_on(case(&Disk::new(segment_bytes)));
    }
}

#[test]
fn disk_conforms() {
    disk_conforms_with(None);
}

/// With segments of 4 KiB some are deleted and cleaned. Numbers that stood in one that goes were written again behind
/// newer ones of the same batch, and held from then on: events would be sent under numbers that were given up.
#[test]
fn disk_conforms_when_segments_are_deleted_and_cleaned() {
    disk_conforms_with(Some(4096));
}

/// The cases that a storage fails.
fn failed(wrong: Wrong) -> Vec<&'static str> {
    let fails = |(_, case): &&(&str, Case)| {
        let medium = Broken::new(wrong);
        let run = AssertUnwindSafe(|| runtime().block_on(case(&medium)));
        std::panic::catch_unwind(run).is_err()
    };
    CASES.iter().filter(fails).map(|(name, _)| *name).collect()
}

#[test]
fn a_storage_that_is_wrong_on_purpose_is_found_out() {
    assert_eq!(failed(Wrong::Not), [""; 0], "what is behind the mistakes is right");
    let mut unnoticed = Vec::new();
    for wrong in WRONG {
        let cases = failed(*wrong);
        println!("{wrong:?}: {cases:#?}");
        if cases.is_empty() {
            unnoticed.push(wrong);
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed {unnoticed:?}");
}
