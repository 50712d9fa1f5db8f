//! Segments that are written past the page cache: the same stories, and those of blocks.

use super::super::scan::Spool;
use super::sim::Left;
use super::told::log;
use super::*;
use crate::storage::UNASSIGNED;

/// Until it is dropped, [`settings`] says so.
struct Directly;

impl Directly {
    fn new() -> Directly {
        DIRECT.set(true);
        Directly
    }
}

impl Drop for Directly {
    fn drop(&mut self) {
        DIRECT.set(false);
    }
}

macro_rules! again {
    ($($file:ident::$test:ident,)*) => { $(
        #[test]
        fn $test() {
            let _directly = Directly::new();
            super::$file::$test();
        }
    )* };
}

again! {
    facts::no_older_word_comes_back_in_any_row_of_calls_and_crashes,
    faults::whatever_step_fails_what_was_answered_ok_is_there_and_what_was_not_never_comes_back,
    faults::when_the_disk_stays_broken_nothing_more_is_called_durable_and_what_was_is_kept,
    faults::an_fsync_that_failed_is_not_asked_again_of_the_same_file,
    faults::what_recovery_calls_durable_survives_the_next_power_loss,
    crashes::no_segment_takes_the_name_of_another_although_nothing_valid_is_in_it,
    crashes::a_regrouping_is_whole_or_not_there_whatever_of_its_bytes_reached_the_disk,
    crashes::a_group_that_was_refused_and_could_not_be_cut_off_stays_refused_when_segments_go,
    crashes::what_is_cut_off_is_durable_before_a_segment_goes_whose_name_kept_it_from_coming_back,
    crashes::nothing_is_called_durable_in_a_directory_that_was_removed_and_the_next_write_makes_it_anew,
    resend::whatever_step_fails_or_is_the_last_no_dead_letter_is_lost_and_none_of_a_finished_segment_is_sent_twice,
    giving_up::giving_up_that_fails_has_not_happened_and_no_failing_step_brings_half_of_it,
    giving_up::a_disk_that_is_really_full_gives_events_up_with_the_reserve,
    room::cleaning_that_dies_at_any_step_loses_nothing,
    room::a_stuck_partition_does_not_pin_the_room_of_the_others_and_keeps_its_events_numbers_and_holes,
    room::a_small_disk_takes_a_large_batch_without_a_partition_and_can_be_drained,
    writing::a_letter_whose_hole_could_not_be_written_is_not_kept_whatever_step_fails,
    wandering::facts_about_what_stays_wander_through_any_number_of_segments,
    bad_sectors::a_bad_sector_at_the_end_of_the_log_is_not_cut_off,
    told::a_first_write_that_failed_behind_a_drained_log_is_no_damage,
    told::a_log_that_is_written_while_it_is_looked_at_is_not_damaged,
    told::a_log_that_is_closed_while_it_is_looked_at_is_not_damaged,
    told::a_block_that_is_written_while_it_is_read_is_read_again,
    told::a_log_that_was_cut_after_an_orderly_end_is_told_although_it_looks_like_one_that_was_killed,
}

#[test]
fn a_group_over_several_blocks_is_whole_or_not_there_whichever_of_them_reached_the_disk() {
    let _directly = Directly::new();
    const BLOCK: usize = 4_096;
    let value = |n: usize| format!("{n} {}", "x".repeat(9_000));
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&[&value(0)])]);
    fs.disk().history = Some(Vec::new());
    save(&storage, 0, vec![fresh(&[&value(1)])]);
    let history = fs.disk().history.take().unwrap();
    drop(storage);
    // Before its write, before its fsync.
    assert_eq!(history.len(), 2);
    let blocks = (0..4).map(|n| Left::Bytes(n * BLOCK));
    let not = (0..4).flat_map(|from| (1..4).map(move |n| Left::Middle(from * BLOCK, n * BLOCK)));
    let (mut whole, mut cut) = (0, 0);
    for left in [Left::Nothing, Left::Names].into_iter().chain(blocks).chain(not) {
        let (fs, storage, recovered) = start(history[1].after_power_loss(left), settings());
        let mut expected = vec![value(0)];
        if waiting(&storage, 0).len() == 2 {
            whole += 1;
            expected.push(value(1));
        } else {
            cut += 1;
        }
        assert_eq!(waiting(&storage, 0), expected, "{left:?}");
        let told = recovered.damage.join("; ");
        assert!(told.is_empty() || matches!(left, Left::Middle(..)), "{left:?}: {told}");
        save(&storage, 0, vec![fresh(&[&value(2)])]);
        expected.push(value(2));
        let disk = fs.disk().after_kill();
        drop(storage);
        let (_, storage, _) = start(disk, settings());
        assert_eq!(waiting(&storage, 0), expected, "{left:?}");
    }
    assert!(whole > 0 && cut > 4, "{whole} times whole, {cut} times not there");
}

#[test]
fn a_segment_that_is_done_and_one_that_is_closed_end_with_their_bytes() {
    let _directly = Directly::new();
    let (fs, storage, _) = start(Disk::default(), DiskSettings { segment_bytes: 200, ..settings() });
    let lengths =
        |fs: &SimFs| super::room::logs(fs).iter().map(|path| fs.disk().bytes(path).len()).collect::<Vec<_>>();
    save(&storage, 0, vec![fresh(&["a"])]);
    assert_eq!(lengths(&fs), [4_096]);
    save(&storage, 0, vec![fresh(&["b"])]);
    let [first, 4_096] = lengths(&fs)[..] else { panic!("{:?}", lengths(&fs)) };
    assert!(first < 400, "{first}");
    let scan = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap().scan("t").unwrap();
    let seen: Vec<_> = scan.segments.iter().map(|segment| (segment.length, segment.unfinished)).collect();
    assert_eq!((seen, scan.damage), (vec![(first as u64, 0); 2], Vec::new()));
    // A kill leaves the zeros; the next start knows and removes them.
    let (_, again, recovered) = start(fs.disk().after_kill(), settings());
    assert_eq!((waiting(&again, 0), recovered.damage), (vec!["a".to_owned(), "b".to_owned()], Vec::new()));
    wait(storage.close());
    assert_eq!(lengths(&fs), [first, first]);
}

#[test]
fn a_byte_in_the_zeros_is_told_and_costs_no_event() {
    let _directly = Directly::new();
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let disk = fs.disk().after_kill();
    drop(storage);
    for at in [1_000, 4_095] {
        let mut disk = disk.clone();
        disk.bytes(&log(0))[at] = 1;
        let (_, storage, recovered) = start(disk, settings());
        assert!(recovered.damage.len() == 1 && recovered.damage[0].contains("are no valid group commit"));
        assert_eq!(waiting(&storage, 0), ["a"]);
    }
}

#[test]
fn a_group_that_the_disk_lost_in_a_segments_last_block_is_told() {
    // It had been written over zeros, and its place looked as if nothing ever was there. But a segment ends with its bytes,
    // durably, before the next begins.
    let _directly = Directly::new();
    let (fs, storage, _) = start(Disk::default(), DiskSettings { segment_bytes: 300, ..settings() });
    save(&storage, 0, vec![fresh(&["a"])]);
    let first = whole(&fs);
    save(&storage, 0, vec![fresh(&["lost"])]);
    assert_eq!(save(&storage, 0, vec![fresh(&["c"])]), [4]);
    let mut disk = fs.disk().after_power_loss(Left::Nothing);
    drop(storage);
    let segment = disk.bytes(&log(0));
    assert!(segment.len() < 4_096);
    segment[first..].fill(0);
    let (_, storage, recovered) = start(disk, settings());
    assert_eq!(waiting(&storage, 0), ["a", "c"]);
    let damage = &recovered.damage;
    assert!(
        damage.len() == 1 && damage[0].contains("at most 2 events missing, positions 2..4"),
        "{damage:?}"
    );
}

#[test]
fn a_segment_whose_zeros_cannot_be_cut_off_costs_nothing_and_goes_when_nothing_of_it_waits() {
    let _directly = Directly::new();
    let (fs, storage, _) = start(Disk::default(), DiskSettings { segment_bytes: 200, ..settings() });
    save(&storage, 0, vec![fresh(&["a"])]);
    fs.disk().refuses_cuts = true;
    let last = save(&storage, 0, vec![fresh(&["b"])])[0];
    save(&storage, 0, vec![fresh(&["c"])]);
    let (_, again, recovered) = start(fs.disk().after_kill(), settings());
    let all = ["a", "b", "c"].map(str::to_owned).to_vec();
    assert_eq!((waiting(&again, 0), recovered.damage), (all, Vec::new()));
    wait(storage.commit(&partition(0), last + 1, true)).unwrap();
    let logs = super::room::logs(&fs);
    assert!(logs.len() == 1 && !logs.contains(&log(last)), "{logs:?}");
}

#[test]
fn dead_letters_that_were_put_back_leave_no_zeros_behind() {
    let _directly = Directly::new();
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    wait(storage.reject(&partition(0), vec![super::room::letter("bad", None)])).unwrap();
    wait(storage.close());
    let fs = SimFs::new(fs.disk().after_kill());
    let storage = DiskStorage::with(Arc::new(fs.clone()), settings(), false).unwrap();
    assert_eq!(wait(storage.resend_dead_letters("t")).unwrap().events, 1);
    wait(storage.close());
    let lengths: Vec<usize> = super::room::logs(&fs).iter().map(|path| fs.disk().bytes(path).len()).collect();
    assert!(lengths.len() == 2 && lengths.iter().all(|length| *length < 4_096), "{lengths:?}");
}

#[test]
fn zeros_behind_a_damaged_regrouping_that_holds_are_cut_off_as_well() {
    // The checkpoint knows of it, so it was durable once; the zeros, set aside until that was known, stayed for good.
    let _directly = Directly::new();
    let (fs, storage, _) = start(Disk::default(), settings());
    let positions = save(&storage, UNASSIGNED, vec![fresh(&["u", "v"])]);
    let before = whole(&fs);
    let parts = vec![(0, batch(&["u"], None)), (1, batch(&["v"], None))];
    wait(storage.regroup("t", positions[0] + 2, parts)).unwrap();
    wait(storage.commit(&partition(1), 0, true)).unwrap();
    let mut disk = fs.disk().after_kill();
    drop(storage);
    disk.bytes(&log(0))[before + 65] ^= 1;
    let (fs, storage, recovered) = start(disk, settings());
    assert!(recovered.damage.len() == 1 && recovered.damage[0].contains("1 events missing of partition 0"));
    assert_eq!(waiting(&storage, 1), ["v"]);
    let length = fs.disk().bytes(&log(0)).len();
    assert!(length < 4_096, "{length}");
}

/// Bytes of the first segment up to its zeros.
fn whole(fs: &SimFs) -> usize {
    let mut disk = fs.disk();
    let bytes = disk.bytes(&log(0));
    bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
}
