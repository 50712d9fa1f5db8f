//! The writer, step by step, without its thread: what it remembers, what it answers.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::scan::Spool;
use super::super::topic::Topic;
use super::super::writer::{Owned, Writer};
use super::super::{SpoolDir, open_topic};
use super::room::letter;
use super::sim::{Fault, Left};
use super::*;

/// A writer that has the topic, on this disk.
fn writer(disk: Disk) -> (SimFs, Writer, Arc<Topic>) {
    let fs = SimFs::new(disk);
    let place = Arc::new(SpoolDir::open(Arc::new(fs.clone()), settings(), false).unwrap());
    let recovered = open_topic(&place, "t").unwrap();
    let topic = Arc::new(Topic::new("t", &place.topic_dir("t"), recovered.state));
    let mut writer = Writer::new(place);
    writer.topics.insert("t".to_owned(), Owned::new(topic.clone(), recovered.log, None));
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

/// The values of the letters that are kept, and what is damaged of them.
fn kept(fs: &SimFs) -> (Vec<String>, usize) {
    let spool = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap();
    let scan = spool.dead_letters("t").unwrap();
    let values = scan.batches.iter().flat_map(|batch| scan.read(batch).unwrap().records().unwrap());
    let values = values.map(|record| String::from_utf8(record.value.unwrap()).unwrap());
    (values.collect(), scan.damage.len())
}

#[test]
pub(super) fn a_letter_whose_hole_could_not_be_written_is_not_kept_whatever_step_fails() {
    // It was kept before its hole: that failed, the event was refused again and kept again, three letters of two events.
    let settings = DiskSettings { dead_letter_bytes: 2_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let at = save(&storage, 0, vec![fresh(&["a", "bad"])])[0];
    wait(storage.reject(&partition(0), vec![letter("other", None)])).unwrap();
    wait(storage.close());
    let ready = fs.disk().after_kill();
    let bad = || vec![letter("bad", Some(at + 1))];
    let steps = {
        let (fs, storage, _) = start(ready.clone(), settings.clone());
        let before = fs.disk().steps;
        wait(storage.reject(&partition(0), bad())).unwrap();
        fs.disk().steps - before
    };
    let mut failed = 0;
    for fault in
        [Fault::Clean(ErrorKind::Other), Fault::Short(ErrorKind::Other), Fault::Done(ErrorKind::Other)]
    {
        for step in 1..=steps {
            let what = format!("step {step} of {steps}, {fault:?}");
            let (fs, storage, _) = start(ready.clone(), settings.clone());
            let before = fs.disk().steps;
            fs.disk().fault = Some((before + step, 1, fault));
            if wait(storage.reject(&partition(0), bad())).is_err() {
                failed += 1;
                wait(storage.reject(&partition(0), bad())).unwrap();
            }
            let wanted = (vec!["other".to_owned(), "bad".to_owned()], 0);
            assert_eq!(kept(&fs), wanted, "{what}");
            wait(storage.close());
            let (fs, storage, recovered) = start(fs.disk().after_power_loss(Left::Nothing), settings.clone());
            assert_eq!((waiting(&storage, 0), recovered.damage.len()), (vec!["a".to_owned()], 0), "{what}");
            assert_eq!(kept(&fs), wanted, "{what}: after a restart");
            wait(storage.reject(&partition(0), vec![letter("more", None)])).unwrap();
            assert_eq!(kept(&fs).0.len(), 3, "{what}: and it goes on");
        }
    }
    println!("{failed} answers of {} were errors", 3 * steps);
    assert!(failed >= 8 && steps >= 8, "{failed} of {steps}");
}

#[test]
fn letters_that_are_taken_back_have_not_driven_the_oldest_out_and_give_their_room_back() {
    let settings = DiskSettings { dead_letter_bytes: 800, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    let names: Vec<String> = (0..10).map(|n| format!("bad {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let at = save(&storage, 0, vec![fresh(&names)])[0];
    wait(storage.reject(&partition(0), vec![letter("oldest", None)])).unwrap();
    let letters: Vec<_> = (0..10).map(|n| letter(names[n as usize], Some(at + n))).collect();
    let (steps, used) = (fs.disk().steps, storage.place.used());
    // The letters: a segment of their own (three steps), write, fsync. Then the holes.
    fs.disk().fault = Some((steps + 6, 1, Fault::Clean(ErrorKind::Other)));
    wait(storage.reject(&partition(0), letters.clone())).unwrap_err();
    assert_eq!((kept(&fs).0, storage.place.used()), (vec!["oldest".to_owned()], used));
    wait(storage.reject(&partition(0), letters)).unwrap();
    assert_eq!(kept(&fs).0, names, "now they have");
}
