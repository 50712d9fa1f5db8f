//! Opening and closing: how many topics at a time, whose lock it is, who has gone when it is let go.

use std::pin::pin;
use std::task::{Context, Waker};

use super::super::threads::closed;
use super::*;

#[test]
fn topics_are_recovered_two_at_a_time_however_many_are_opened() {
    // Each holds a whole segment in memory: a process with fifty topics took fifty of 64 MiB when it started.
    let (_, storage, _) = start(Disk::default(), settings());
    let threads = || super::super::lock(&storage.threads).as_ref().map(|threads| threads.handles.len());
    let idle = threads();
    let two = wait(storage.recoveries.clone().acquire_many_owned(2)).unwrap();
    assert_eq!(storage.recoveries.available_permits(), 0);
    let mut third = pin!(storage.open("third"));
    let mut context = Context::from_waker(Waker::noop());
    assert!(third.as_mut().poll(&mut context).is_pending());
    assert!(threads() <= idle, "no thread is started for it before its turn");
    drop(two);
    assert_eq!(wait(third).unwrap().backlogs, []);
    // Who goes away while it waits for its turn gives it up.
    let two = wait(storage.recoveries.clone().acquire_many_owned(2)).unwrap();
    {
        let mut gone = pin!(storage.open("gone"));
        assert!(gone.as_mut().poll(&mut context).is_pending());
    }
    drop(two);
    assert_eq!(wait(storage.open("gone")).unwrap().backlogs, []);
}

#[test]
fn a_lock_that_is_a_link_is_refused_and_what_it_names_stays_as_it_is() {
    // It was followed, and what it named made empty.
    let dir = std::env::temp_dir().join(format!("kafka-batcher-lock-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("precious"), "precious").unwrap();
    let spool = dir.join("spool");
    std::fs::create_dir(&spool).unwrap();
    std::os::unix::fs::symlink(dir.join("precious"), spool.join("lock")).unwrap();
    let refused = DiskStorage::new(DiskSettings { dir: spool.clone(), ..settings() }).map(drop);
    let words = refused.unwrap_err().to_string();
    assert!(words.contains("cannot open") && words.contains("lock"), "{words}");
    assert_eq!(std::fs::read_to_string(dir.join("precious")).unwrap(), "precious");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_directory_is_not_let_go_before_the_writer_has_ended_although_no_thread_can_wait_for_it() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let saved = save(&storage, 0, vec![fresh(&["a"]), fresh(&["b"])]);
    wait(storage.commit(&partition(0), saved[0] + 1, false)).unwrap();
    wait(storage.close_with(|_| Err(closed())));
    assert_eq!(Arc::strong_count(&storage.place), 1, "the threads have gone, and what they held");
    assert!(fs.disk().paths().iter().any(|path| path.ends_with("checkpoint")), "and have done what was left");
}

#[test]
fn a_panic_of_a_thread_is_told_with_its_words_to_who_waits_and_to_who_asks_later() {
    // "The storage is closed", it said, for ever, and nobody knew why.
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    fs.when_asked_for_room(|| panic!("no such disk"));
    for _ in 0..2 {
        let error = wait(storage.save_batch(&partition(0), vec![fresh(&["b"])])).unwrap_err();
        assert!(error.to_string().contains("spool-writer of the storage panicked: no such disk"), "{error}");
    }
    assert_eq!(waiting(&storage, 0), ["a"], "what is there can be read");
    let error = wait(storage.commit(&partition(0), 1, true)).unwrap_err();
    assert!(error.to_string().contains("no such disk"), "{error}");
    wait(storage.close());
    let error = wait(storage.save_batch(&partition(0), vec![fresh(&["b"])])).unwrap_err();
    assert_eq!(error, closed());
}
