//! Opening topics: how many at a time.

use std::pin::pin;
use std::task::{Context, Waker};

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
