//! The writer, step by step, without its thread: what it remembers, what it answers.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::topic::Topic;
use super::super::writer::{Owned, Writer};
use super::super::{SpoolDir, open_topic};
use super::sim::Fault;
use super::*;

/// A writer that has the topic, on this disk.
fn writer(disk: Disk) -> (SimFs, Writer, Arc<Topic>) {
    let fs = SimFs::new(disk);
    let place = Arc::new(SpoolDir::open(Arc::new(fs.clone()), settings(), false).unwrap());
    let recovered = open_topic(&place, "t").unwrap();
    let topic = Arc::new(Topic::new("t", &place.topic_dir("t"), recovered.state));
    let mut writer = Writer::new(place);
    writer.topics.insert("t".to_owned(), Owned::new(topic.clone(), recovered.log));
    (fs, writer, topic)
}

fn settle(topic: &Topic, through: u64) {
    let mut state = topic.state();
    state.settle(0, through);
    state.commits += 1;
}

#[test]
fn what_was_settled_is_not_forgotten_when_writing_it_down_fails() {
    // The writer looked once, failed, and slept; later commits did not wake it, since the first had: it was never written down.
    let (fs, storage, _) = start(Disk::default(), settings());
    let saved = save(&storage, 0, (0..4).map(|_| fresh(&["a"])).collect());
    let disk = fs.disk().after_kill();
    drop(storage);
    let checkpoint = Path::new("/spool/topics/t/checkpoint");
    let (fs, mut writer, topic) = writer(disk);
    settle(&topic, saved[0] + 1);
    let steps = fs.disk().steps;
    fs.disk().fault = Some((steps + 1, 2, Fault::Clean(ErrorKind::Other)));
    writer.unsettled = false;
    writer.tidy(true);
    assert!(writer.unsettled, "it is looked at again");
    writer.unsettled = false;
    writer.tidy_one("t").unwrap_err();
    assert!(writer.unsettled && !fs.disk().paths().contains(&checkpoint.to_owned()));
    writer.unsettled = false;
    writer.tidy(true);
    assert!(!writer.unsettled && fs.disk().paths().contains(&checkpoint.to_owned()));
}

#[test]
fn the_disk_is_not_asked_for_its_room_while_others_wait_for_the_state() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let saved = save(&storage, 0, (0..4).map(|_| fresh(&["a"])).collect());
    let disk = fs.disk().after_kill();
    drop(storage);
    let (fs, mut writer, topic) = writer(disk);
    settle(&topic, saved[0] + 1);
    let (asked, held) = (Arc::new(AtomicU32::new(0)), topic.clone());
    let seen = asked.clone();
    fs.when_asked_for_room(move || {
        assert!(!held.is_held(), "commit() and backlog() wait for the disk");
        seen.fetch_add(1, Ordering::Relaxed);
    });
    writer.tidy_one("t").unwrap();
    assert!(asked.load(Ordering::Relaxed) > 0);
}
