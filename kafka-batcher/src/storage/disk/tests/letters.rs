//! Dead letters beside the writer: when they are read, and what their bound costs.

use std::io::ErrorKind;

use kafka_batcher_core::{DeliveryError, FailureReason};

use super::super::dead_letters::{MESSAGE, REASON, with_reason};
use super::super::scan::Spool;
use super::room::letter;
use super::sim::Fault;
use super::*;
use crate::storage::DroppedLetters;

#[test]
fn the_dead_letters_are_read_when_the_topic_is_opened_and_not_by_the_writer_in_the_midst_of_its_work() {
    // The first letter after a start had the writer read up to 64 MiB of older ones, and every topic wait.
    let (fs, storage, _) = start(Disk::default(), settings());
    for _ in 0..20 {
        wait(storage.reject(&partition(0), vec![letter("bad", None)])).unwrap();
    }
    let disk = fs.disk().after_kill();
    drop(storage);
    let (fs, storage, _) = start(disk, settings());
    let read = fs.disk().read;
    assert!(read > 1_000, "{read}");
    wait(storage.reject(&partition(0), vec![letter("bad", None)])).unwrap();
    assert_eq!(fs.disk().read, read);
}

#[test]
fn letters_that_go_for_later_ones_are_told_own_ones_apart_from_those_of_earlier_processes_and_once() {
    let bound = DiskSettings { dead_letter_bytes: 3_000, ..settings() };
    let reject = |storage: &DiskStorage, letters: u64| {
        (0..letters).for_each(|_| wait(storage.reject(&partition(0), vec![letter("bad", None)])).unwrap());
        storage.take_dropped_letters("t")
    };
    let held = |fs: &SimFs| {
        let spool = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap();
        spool.dead_letters("t").unwrap().batches.len() as u64
    };
    let (fs, storage, _) = start(Disk::default(), bound.clone());
    assert_eq!(reject(&storage, 2), DroppedLetters::default());
    let dropped = reject(&storage, 40);
    assert_eq!((dropped.own + held(&fs), dropped.earlier), (42, 0));
    assert_eq!(storage.take_dropped_letters("t"), DroppedLetters::default(), "once");
    let found = held(&fs);
    let disk = fs.disk().after_kill();
    drop(storage);
    let (fs, storage, _) = start(disk, bound);
    let dropped = reject(&storage, 42);
    assert_eq!((dropped.earlier, dropped.own + held(&fs)), (found, 42));
    assert_eq!(storage.take_dropped_letters("nobody's"), DroppedLetters::default());
}

#[test]
fn letters_that_cannot_be_removed_are_no_news_and_go_with_a_later_one() {
    let bound = DiskSettings { dead_letter_bytes: 400, ..settings() };
    let (fs, storage, _) = start(Disk::default(), bound);
    let reject = || wait(storage.reject(&partition(0), vec![letter("bad", None)])).unwrap();
    reject();
    let steps = fs.disk().steps;
    // A segment, a write, its fsync; then the oldest is to go.
    fs.disk().fault = Some((steps + 6, 1, Fault::Clean(ErrorKind::Other)));
    reject();
    assert_eq!(storage.take_dropped_letters("t"), DroppedLetters::default());
    reject();
    assert_eq!(storage.take_dropped_letters("t"), DroppedLetters { own: 2, earlier: 0 });
}

#[test]
fn a_letter_of_what_was_not_delivered_in_time_says_so() {
    // It said "other", and nothing else.
    let mut late = letter("late", None);
    late.error =
        DeliveryError { reason: FailureReason::Expired, code: None, message: String::new(), ..late.error };
    let told = with_reason(&late, 0).unwrap();
    let record = told.records().unwrap().remove(0);
    let header = |name: &str| {
        let header = record.headers.iter().find(|header| header.name == name).unwrap();
        String::from_utf8(header.value.clone().unwrap().to_vec()).unwrap()
    };
    assert_eq!(header(REASON), "expired");
    assert!(header(MESSAGE).contains("delivery_timeout"), "{}", header(MESSAGE));
}
