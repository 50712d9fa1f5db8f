//! Facts that outlive the segment that said them: a story for each kind that did not.

use super::super::checkpoint::Checkpoint;
use super::facts::{read, small};
use super::room::{letter, logs, without_checkpoint};
use super::sim::Left;
use super::*;
use crate::storage::{Renumbered, UNASSIGNED};

/// So many bytes that a segment or two are full.
fn flow(storage: &DiskStorage) -> u64 {
    (0..4).map(|_| save(storage, 5, vec![fresh(&[&"f".repeat(700)])])[0] + 1).last().unwrap()
}

/// Everything of partition 5 is settled, and the segments that are not needed for others go.
fn drain(storage: &DiskStorage, through: u64) {
    wait(storage.commit(&partition(5), through, true)).unwrap();
}

fn renumber(storage: &DiskStorage, position: u64, count: u32, numbers: Numbers) {
    let renumbered = Renumbered { position, count, numbers };
    wait(storage.renumber(&partition(0), vec![renumbered])).unwrap();
}

/// The disk as the next process may find it.
fn afterwards(fs: &SimFs) -> [Disk; 3] {
    let disk = fs.disk().clone();
    [disk.after_kill(), disk.after_power_loss(Left::Nothing), without_checkpoint(&disk)]
}

fn sequences(storage: &DiskStorage) -> Vec<i32> {
    let events = read(storage, 0).into_values();
    events.map(|(_, numbers)| numbers.map_or(-1, |numbers| numbers.stamp.first_sequence)).collect()
}

/// Events 0..4 got the numbers 100.., then two of them 500... The segment that said the first went and it was written
/// again, behind the second: from the next start on the first held once more, and two events would have been sent under
/// numbers that may have been used for them, acknowledged, and forgotten.
#[test]
fn numbers_that_are_written_again_do_not_come_behind_newer_ones() {
    let (fs, storage, _) = start(Disk::default(), small());
    let at =
        save(&storage, 0, vec![sent(&["a", "b", "c", "d"], numbers(0, "x")), fresh(&[&"e".repeat(900)])])[0];
    save(&storage, 0, vec![fresh(&[&"f".repeat(1_000)])]);
    renumber(&storage, at, 4, numbers(100, "y"));
    let through = flow(&storage);
    renumber(&storage, at + 1, 2, numbers(500, "y"));
    let expected = [100, 500, 501, 103, -1, -1];
    assert_eq!(sequences(&storage), expected);
    let before = logs(&fs).len();
    drain(&storage, through - 1);
    assert!(logs(&fs).len() < before, "the segment of the first numbers is gone");
    for disk in afterwards(&fs) {
        let (_, storage, _) = start(disk, small());
        assert_eq!(sequences(&storage), expected);
    }
}

/// A word that was written again once must be written again each time that its new segment goes.
#[test]
pub(super) fn facts_about_what_stays_wander_through_any_number_of_segments() {
    let (fs, storage, _) = start(Disk::default(), small());
    let lane = save(&storage, UNASSIGNED, vec![fresh(&["u1", "u2"])])[0];
    let big = "e".repeat(900);
    let at =
        save(&storage, 0, vec![sent(&["a", "b", "c", "d"], numbers(0, "x")), fresh(&[&big]), fresh(&["e"])]);
    save(&storage, UNASSIGNED, vec![fresh(&[&big])]);
    wait(storage.keep_partitions("t", 3)).unwrap();
    let mut through = flow(&storage);
    renumber(&storage, at[0], 2, numbers(100, "y"));
    let letters = vec![letter("c", Some(at[0] + 2)), letter("e", Some(at[2]))];
    wait(storage.reject(&partition(0), letters)).unwrap();
    wait(storage.drop_events(&partition(0), at[0] + 3, at[0] + 4)).unwrap();
    wait(storage.regroup("t", lane + 1, Vec::new())).unwrap();
    wait(storage.regroup("t", 0, Vec::new())).unwrap();
    wait(storage.keep_partitions("t", 6)).unwrap();
    let said = fs.disk().paths();
    for _ in 0..5 {
        let next = flow(&storage);
        drain(&storage, through);
        through = next;
        for disk in afterwards(&fs) {
            let (_, storage, recovered) = start(disk, small());
            assert_eq!((recovered.partitions, &recovered.damage[..]), (Some(6), &[][..]));
            let seen: Vec<_> = read(&storage, 0).into_iter().collect();
            assert_eq!(
                seen,
                [
                    (at[0], ("a".to_owned(), Some(numbers(100, "y")))),
                    (at[0] + 1, ("b".to_owned(), Some(numbers(101, "y")))),
                    (at[1], (big.clone(), None)),
                ]
            );
            assert_eq!(waiting(&storage, UNASSIGNED), ["u2", &big]);
        }
    }
    let left = logs(&fs).into_iter().filter(|path| said.contains(path)).count();
    assert!(left <= 2, "only what waits is left of the segments of then: {left}");
}

/// The topic had 3 partitions, then 5. The segment that said 5 went with what was settled; the older one was held by a
/// stuck partition. The checkpoint knew better, but the log had grown since: at the next start the topic had 3 again, and
/// keys would have been placed by that.
#[test]
fn the_partition_count_does_not_go_back_when_the_segment_of_the_newest_goes() {
    let (fs, storage, _) = start(Disk::default(), small());
    wait(storage.keep_partitions("t", 3)).unwrap();
    save(&storage, 0, vec![fresh(&["stuck"]), fresh(&[&"e".repeat(1_400)])]);
    flow(&storage);
    wait(storage.keep_partitions("t", 5)).unwrap();
    let through = flow(&storage);
    drain(&storage, through);
    flow(&storage);
    for disk in afterwards(&fs) {
        let (_, _, recovered) = start(disk, small());
        assert_eq!(recovered.partitions, Some(5));
    }
}

/// The same as an earlier build left it: nothing in the log says 5 any more, and the log has grown since the checkpoint.
#[test]
fn a_checkpoint_that_is_newer_than_the_word_in_the_log_is_believed_although_the_log_has_grown() {
    let (fs, storage, _) = start(Disk::default(), small());
    wait(storage.keep_partitions("t", 3)).unwrap();
    let end = save(&storage, 0, vec![fresh(&["a"])])[0] + 2;
    let checkpoint = Checkpoint { next: end, end, partitions: Some(5), ..Checkpoint::default() };
    save(&storage, 0, vec![fresh(&["b"])]);
    let disk = fs.disk().after_kill();
    drop(storage);
    let fs = SimFs::new(disk);
    checkpoint.write(&fs, std::path::Path::new("/spool/topics/t")).unwrap();
    let disk = fs.disk().after_kill();
    let (fs, storage, recovered) = start(disk, small());
    assert_eq!(recovered.partitions, Some(5));
    // And from the next group on the log says so, too.
    save(&storage, 0, vec![fresh(&["c"])]);
    let (_, _, recovered) = start(without_checkpoint(&fs.disk()), small());
    assert_eq!(recovered.partitions, Some(5));
}

/// An event got new numbers and was delivered under them; that it was settled only the checkpoint knew. The segment that
/// said the numbers went. The checkpoint was lost: the event came again, as it may, but under its first numbers.
#[test]
fn what_is_settled_stays_so_when_what_was_said_of_it_has_gone_and_the_checkpoint_is_lost() {
    let (fs, storage, _) = start(Disk::default(), small());
    let batches =
        vec![sent(&["a"], numbers(0, "x")), sent(&["b"], numbers(1, "x")), fresh(&[&"e".repeat(1_400)])];
    let at = save(&storage, 0, batches);
    flow(&storage);
    renumber(&storage, at[0], 1, numbers(100, "y"));
    wait(storage.reject(&partition(0), vec![letter("b", Some(at[1]))])).unwrap();
    let through = flow(&storage);
    wait(storage.commit(&partition(0), at[2], false)).unwrap();
    drain(&storage, through);
    for disk in afterwards(&fs) {
        let (_, storage, _) = start(disk, small());
        assert_eq!(read(&storage, 0).into_keys().collect::<Vec<_>>(), [at[2]]);
    }
}

/// What was settled is written down with the next group of events: a lost checkpoint costs what was settled since.
#[test]
fn hints_become_durable_with_the_next_save_and_a_lost_checkpoint_costs_less() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let at = save(&storage, 0, (0..20).map(|n| fresh(&[&n.to_string(), "x"])).collect());
    wait(storage.commit(&partition(0), at[7] + 1, false)).unwrap();
    let cost = |disk: &Disk| {
        let (_, storage, _) = start(without_checkpoint(disk), settings());
        wait(storage.backlog(&partition(0))).unwrap().events
    };
    assert_eq!(cost(&fs.disk()), 40, "only hinted at");
    save(&storage, 1, vec![fresh(&["anything"])]);
    assert_eq!(cost(&fs.disk()), 25, "up to the middle of a batch");
    wait(storage.commit(&partition(0), at[9], false)).unwrap();
    renumber(&storage, at[12], 1, numbers(0, "x"));
    assert_eq!(cost(&fs.disk()), 22);
    // Said once, it is not said again.
    let length = |fs: &SimFs| logs(fs).iter().map(|path| fs.disk().bytes(path).len()).sum::<usize>();
    let before = length(&fs);
    save(&storage, 1, vec![fresh(&["anything"])]);
    let (first, second) = (length(&fs) - before, length(&fs));
    save(&storage, 1, vec![fresh(&["anything"])]);
    assert_eq!(length(&fs) - second, first);
}
