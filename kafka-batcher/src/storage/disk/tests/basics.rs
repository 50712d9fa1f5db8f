//! What is saved is read back as it was, in this process and the next.

use kafka_batcher_core::{Backlog, DeadLetter, DeliveryError, FailureReason, Persisted, Renumbered};

use super::*;
use crate::storage::UNASSIGNED;

#[test]
fn a_disk_that_does_not_answer_would_hold_for_ever_whoever_drops_the_storage() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    wait(storage.commit(&partition(0), 1, false)).unwrap();
    // Every step of the file system waits for this.
    let hung = fs.disk();
    let (done, dropped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(storage);
        let _ = done.send(());
    });
    dropped.recv_timeout(std::time::Duration::from_secs(60)).expect("it is not waited for any longer");
    drop(hung);
}

/// Ends without writing anything down, as a kill does.
fn killed(fs: &SimFs, storage: DiskStorage) -> Disk {
    let disk = fs.disk().after_kill();
    drop(storage);
    disk
}

#[test]
fn what_is_saved_is_read_back_in_order_with_its_numbers_also_by_the_next_process() {
    let (fs, storage, recovered) = start(Disk::default(), settings());
    assert_eq!(recovered, Recovered::default());
    assert_eq!(save(&storage, 0, vec![fresh(&["a", "b"]), sent(&["c"], numbers(5, "x"))]), [0, 2]);
    // The control batch took position 3.
    assert_eq!(save(&storage, 1, vec![fresh(&["d"])]), [4]);
    assert_eq!(save(&storage, 0, vec![sent(&["e", "f"], numbers(6, "x"))]), [6]);
    let check = |storage: &DiskStorage| {
        let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
        let seen: Vec<_> = read.batches.iter().map(|b| (b.position, b.numbers.clone())).collect();
        assert_eq!(seen, [(0, None), (2, Some(numbers(5, "x"))), (6, Some(numbers(6, "x")))]);
        assert_eq!(values(&read.batches), ["a", "b", "c", "e", "f"]);
        assert_eq!((read.next, read.damage.len()), (8, 0));
        assert_eq!(waiting(storage, 1), ["d"]);
        assert_eq!(read.batches[1].batch.stamp(), stamp(5), "the bytes are those that were saved");
    };
    check(&storage);
    let (_, storage, recovered) = start(killed(&fs, storage), settings());
    let of = |partition: i32| recovered.backlogs.iter().find(|(p, _)| *p == partition).unwrap().1;
    assert_eq!((of(0).events, of(0).batches, of(0).first), (5, 3, 0));
    assert_eq!((of(1).events, of(1).first), (1, 4));
    assert_eq!(recovered.damage, [""; 0]);
    check(&storage);
    assert_eq!(save(&storage, 0, vec![fresh(&["g"])]), [9], "no position is used twice");
    assert_eq!(waiting(&storage, 0), ["a", "b", "c", "e", "f", "g"]);
}

#[test]
fn a_read_takes_what_fits_but_at_least_one_batch_and_says_where_to_read_on() {
    let (_, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a", "b"]), fresh(&["c"]), fresh(&["d"])]);
    let one = fresh(&["c"]).batch.encoded_len();
    let read = |from, max| wait(storage.read(&partition(0), from, max)).unwrap();
    assert_eq!((values(&read(0, 1).batches), read(0, 1).next), (vec!["a".to_owned(), "b".to_owned()], 2));
    assert_eq!((values(&read(2, 2 * one).batches), read(2, 2 * one).next), (vec!["c".into(), "d".into()], 4));
    assert_eq!((values(&read(2, 2 * one - 1).batches), read(2, 2 * one - 1).next), (vec!["c".into()], 3));
    assert_eq!(values(&read(1, usize::MAX).batches), ["b", "c", "d"], "from the middle of a batch");
    assert_eq!((read(4, 9).batches.len(), read(4, 9).next), (0, 4));
}

#[test]
fn events_that_were_renumbered_or_rejected_come_back_in_pieces() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![sent(&["a", "b", "c", "d", "e"], numbers(0, "x"))]);
    let renumbered = Renumbered { position: 3, count: 2, numbers: numbers(100, "y") };
    wait(storage.renumber(&partition(0), vec![renumbered])).unwrap();
    let error = DeliveryError {
        reason: FailureReason::Rejected,
        persisted: Persisted::No,
        code: Some(87),
        message: "bad".to_owned(),
    };
    let letter = DeadLetter { batch: batch(&["b"], None), position: Some(1), error };
    wait(storage.reject(&partition(0), vec![letter])).unwrap();
    let check = |storage: &DiskStorage| {
        let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
        let seen: Vec<_> = read.batches.iter().map(|b| (b.position, b.numbers.clone().unwrap())).collect();
        assert_eq!(seen, [(0, numbers(0, "x")), (2, numbers(2, "x")), (3, numbers(100, "y"))]);
        assert_eq!(values(&read.batches), ["a", "c", "d", "e"]);
        let read = wait(storage.read(&partition(0), 4, usize::MAX)).unwrap();
        assert_eq!(read.batches[0].numbers, Some(numbers(101, "y")));
        assert_eq!(wait(storage.backlog(&partition(0))).unwrap().events, 4);
    };
    check(&storage);
    let (_, storage, _) = start(killed(&fs, storage), settings());
    check(&storage);
    let unknown = Renumbered { position: 4, count: 2, numbers: numbers(0, "y") };
    let refused = wait(storage.renumber(&partition(0), vec![unknown])).unwrap_err().to_string();
    assert!(refused.contains("no saved batch holds them all"), "{refused}");
}

#[test]
fn a_commit_is_a_hint_unless_it_is_to_be_durable() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a", "b"]), fresh(&["c"])]);
    wait(storage.commit(&partition(0), 1, true)).unwrap();
    wait(storage.commit(&partition(0), 3, false)).unwrap();
    let nothing = Backlog { first: 4, ..Backlog::default() };
    assert_eq!(wait(storage.backlog(&partition(0))).unwrap(), nothing);
    assert!(wait(storage.is_empty(&partition(0))).unwrap());
    let (_, storage, recovered) = start(killed(&fs, storage), settings());
    assert_eq!(recovered.backlogs[0].1.events, 2);
    assert_eq!(waiting(&storage, 0), ["b", "c"]);
}

#[test]
fn closing_writes_down_what_was_settled_and_a_drained_log_takes_no_room() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    wait(storage.keep_partitions("t", 6)).unwrap();
    wait(storage.commit(&partition(0), 1, false)).unwrap();
    wait(storage.close());
    assert!(wait(storage.save_batch(&partition(0), vec![fresh(&["b"])])).is_err());
    let disk = fs.disk().after_kill();
    assert_eq!(disk.paths().iter().filter(|p| p.extension().is_some_and(|e| e == "log")).count(), 0);
    let (_, storage, recovered) = start(disk, settings());
    assert_eq!((recovered.backlogs.len(), recovered.partitions), (0, Some(6)));
    assert_eq!(save(&storage, 0, vec![fresh(&["c"])]), [4], "no position is used twice");
}

#[test]
fn regrouped_events_lie_in_their_partitions_and_no_more_in_the_unassigned_lane() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, UNASSIGNED, vec![fresh(&["a", "b"]), fresh(&["c"])]);
    wait(storage.keep_partitions("t", 2)).unwrap();
    let parts = vec![(0, batch(&["a"], None)), (1, batch(&["b"], None))];
    let positions = wait(storage.regroup("t", 2, parts)).unwrap();
    assert_eq!(positions.len(), 2);
    let check = |storage: &DiskStorage| {
        assert_eq!(waiting(storage, UNASSIGNED), ["c"]);
        assert_eq!((waiting(storage, 0), waiting(storage, 1)), (vec!["a".into()], vec!["b".into()]));
    };
    check(&storage);
    let (_, storage, recovered) = start(killed(&fs, storage), settings());
    assert_eq!(recovered.partitions, Some(2));
    check(&storage);
}

#[test]
fn a_name_that_kafka_does_not_allow_is_refused_with_the_rule() {
    let (_, storage, _) = start(Disk::default(), settings());
    for name in ["", ".", "..", "a/b", "../x", "ä", &"x".repeat(250)] {
        let refused = wait(storage.open(name)).unwrap_err().to_string();
        assert!(refused.contains("no name that Kafka allows"), "{refused}");
    }
    for name in ["lock", "format", "topics", "...", &"x".repeat(249)] {
        wait(storage.open(name)).unwrap();
    }
}

#[test]
fn a_topic_that_is_opened_again_goes_on_as_it_is() {
    let (_, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let again = wait(storage.open("t")).unwrap();
    assert_eq!(again.backlogs[0].1.events, 1);
    save(&storage, 0, vec![fresh(&["b"])]);
    assert_eq!(waiting(&storage, 0), ["a", "b"]);
}

#[test]
#[expect(
    clippy::await_holding_lock,
    reason = "the lock is the slow disk: nobody on this thread waits for it"
)]
fn many_callers_at_once_share_a_group_and_each_gets_its_own_positions() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let steps = fs.disk().steps;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let names: Vec<String> = (0..200).map(|i| format!("{i}")).collect();
    let saved = runtime.block_on(async {
        let places: Vec<_> = (0..200).map(|i| partition(i % 7)).collect();
        let asked =
            places.iter().zip(&names).map(|(place, name)| storage.save_batch(place, vec![fresh(&[name])]));
        let mut all = std::pin::pin!(futures_util::future::join_all(asked));
        // While the disk is slow to write the first, all others come.
        let slow = fs.disk();
        let once =
            |cx: &mut std::task::Context<'_>| std::task::Poll::Ready(all.as_mut().poll(cx).is_pending());
        assert!(std::future::poll_fn(once).await);
        drop(slow);
        all.await
    });
    let mut positions: Vec<u64> = saved.into_iter().flat_map(Result::unwrap).collect();
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), 200);
    // A segment takes three steps, a group two: its write and its fsync.
    let taken = fs.disk().steps - steps;
    assert!(taken <= 7, "{taken} steps: more than two groups");
    for of in 0..7 {
        let expected: Vec<&String> = names.iter().skip(of).step_by(7).collect();
        assert_eq!(
            waiting(&storage, of as i32).iter().collect::<Vec<_>>(),
            expected,
            "in the order of the calls"
        );
    }
}

#[test]
fn a_commit_beyond_what_was_saved_does_not_settle_what_comes_later() {
    let (_, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    wait(storage.commit(&partition(0), u64::MAX, true)).unwrap();
    wait(storage.regroup("t", u64::MAX, Vec::new())).unwrap();
    save(&storage, 0, vec![fresh(&["b"])]);
    save(&storage, UNASSIGNED, vec![fresh(&["u"])]);
    assert_eq!((waiting(&storage, 0), waiting(&storage, UNASSIGNED)), (vec!["b".into()], vec!["u".into()]));
}
