//! What a crash, or a disk that fails at the worst moment, leaves behind.

use std::io::ErrorKind;
use std::path::Path;

use super::super::fs::Fs;
use super::room::logs;
use super::sim::{Fault, Left};
use super::told::log;
use super::*;
use crate::storage::UNASSIGNED;

#[test]
pub(super) fn no_segment_takes_the_name_of_another_although_nothing_valid_is_in_it() {
    // One group, then a crash just when the next process had begun its segment; then the first is zeros, whole. No valid
    // position is left, so the next one was 0 again: the new segment took the name of the old, and tidying the old one
    // deleted what had been acknowledged since.
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["lost"])]);
    let disk = fs.disk().after_kill();
    drop(storage);
    let fs = SimFs::new(disk);
    fs.create(&log(2)).unwrap();
    let mut disk = fs.disk().after_kill();
    disk.bytes(&log(0)).fill(0);
    let (fs, storage, recovered) = start(disk, settings());
    assert!(recovered.damage.len() == 1 && recovered.damage[0].contains("positions 0..2"));
    assert_eq!(save(&storage, 0, vec![fresh(&["a"])]), [2]);
    wait(storage.commit(&partition(0), 0, true)).unwrap();
    save(&storage, 0, vec![fresh(&["b"])]);
    let disk = fs.disk().after_kill();
    drop(storage);
    let (_, storage, _) = start(disk, settings());
    assert_eq!(waiting(&storage, 0), ["a", "b"]);
}

#[test]
fn a_segment_in_the_place_of_another_is_refused() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let dir = std::path::PathBuf::from("/spool/topics/t");
    let before = fs.disk().bytes(&log(0)).clone();
    let mut wrong = super::super::log::Log::new(Arc::new(fs.clone()), &dir, (0, Some(0)), 7, 1 << 20);
    let draft = super::super::log::Draft { batches: vec![(0, batch(&["b"], None), None)], facts: Vec::new() };
    let refused = wrong.write(&draft).unwrap_err().error.to_string();
    assert!(refused.contains("cannot create /spool/topics/t/00000000000000000000.log"), "{refused}");
    assert_eq!(*fs.disk().bytes(&log(0)), before);
}

#[test]
pub(super) fn a_regrouping_is_whole_or_not_there_whatever_of_its_bytes_reached_the_disk() {
    // The power goes while a regrouping is written. Its control batch is on disk, a block before it is not: the lane was taken
    // for settled, and the events of the missing block were nowhere.
    let (fs, storage, _) = start(Disk::default(), settings());
    let positions = save(&storage, UNASSIGNED, vec![fresh(&["u", "v"])]);
    fs.disk().history = Some(Vec::new());
    // Over several blocks, where it is written by those.
    let scale = if DIRECT.get() { 10 } else { 1 };
    let (u, v) = ("u".repeat(700 * scale), "v".repeat(700 * scale));
    let parts = vec![(0, batch(&[&u], None)), (1, batch(&[&v], None))];
    wait(storage.regroup("t", positions[0] + 2, parts)).unwrap();
    let history = fs.disk().history.take().unwrap();
    drop(storage);
    // Before its write, before its fsync.
    assert_eq!(history.len(), 2);
    let (mut whole, mut cut) = (0, 0);
    for disk in history {
        for (first, zeros) in
            (0..1_800).step_by(20).flat_map(|first| [(first, 1), (first, 150), (first, 9_999)])
        {
            let (first, zeros) = (first * scale, zeros * scale);
            let what = format!("{zeros} zeros from {first} on");
            let (fs, storage, recovered) =
                start(disk.after_power_loss(Left::Middle(first, zeros)), settings());
            let (lane, parts) = (waiting(&storage, UNASSIGNED), [waiting(&storage, 0), waiting(&storage, 1)]);
            match lane.is_empty() {
                true => assert_eq!(parts, [[u.as_str()], [v.as_str()]], "{what}"),
                false => assert_eq!(
                    (lane.as_slice(), parts.concat().len()),
                    (&["u".into(), "v".into()][..], 0),
                    "{what}"
                ),
            }
            let told = recovered.damage.join("; ");
            assert!(
                lane.is_empty() || !told.contains("missing") || !told.contains("regrouping"),
                "{what}: {told}"
            );
            whole += u32::from(lane.is_empty());
            cut += u32::from(told.contains("wait in the unassigned lane as before"));
            // It is done again, and the next start finds that.
            if !lane.is_empty() {
                let parts = vec![(0, batch(&["u"], None)), (1, batch(&["v"], None))];
                wait(storage.regroup("t", positions[0] + 2, parts)).unwrap();
            }
            let disk = fs.disk().after_kill();
            drop(storage);
            let (_, storage, recovered) = start(disk, settings());
            assert!(!recovered.damage.iter().any(|line| line.contains("missing")), "{what}: {recovered:?}");
            assert_eq!(waiting(&storage, UNASSIGNED), [""; 0], "{what}");
            assert_eq!([waiting(&storage, 0).len(), waiting(&storage, 1).len()], [1, 1], "{what}");
        }
    }
    println!("{whole} times whole, {cut} times cut off");
    assert!(whole >= 20 && cut > 100);
}

#[test]
fn a_damaged_batch_of_an_older_regrouping_costs_duplicates_and_no_event() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let positions = save(&storage, UNASSIGNED, vec![fresh(&["u", "v"])]);
    let before = fs.disk().bytes(&log(0)).len();
    let parts = vec![(0, batch(&["u"], None)), (1, batch(&["v"], None))];
    wait(storage.regroup("t", positions[0] + 2, parts)).unwrap();
    save(&storage, 1, vec![fresh(&["w"])]);
    let mut disk = fs.disk().after_kill();
    disk.bytes(&log(0))[before + 65] ^= 1;
    let (_, again, recovered) = start(disk, settings());
    assert_eq!(waiting(&again, UNASSIGNED), ["u", "v"]);
    assert_eq!((waiting(&again, 0), waiting(&again, 1)), (Vec::new(), vec!["v".into(), "w".into()]));
    assert!(recovered.damage.iter().any(|line| line.contains("done once more")), "{:?}", recovered.damage);
    // Once the checkpoint says that the lane is settled, that holds, also if the regrouping is the last that the log says.
    wait(storage.commit(&partition(1), 0, true)).unwrap();
    let mut disk = fs.disk().after_kill();
    drop(storage);
    disk.bytes(&log(0))[before + 65] ^= 1;
    let (_, storage, recovered) = start(disk, settings());
    assert_eq!(waiting(&storage, UNASSIGNED), [""; 0]);
    assert_eq!(waiting(&storage, 1), ["v", "w"]);
    assert!(recovered.damage.len() == 1 && recovered.damage[0].contains("1 events missing of partition 0"));
}

#[test]
#[expect(
    clippy::await_holding_lock,
    reason = "the lock is the slow disk: nobody on this thread waits for it"
)]
fn a_regrouping_shares_its_group_with_nobody() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let position = save(&storage, UNASSIGNED, vec![fresh(&["u"])])[0];
    let (zero, one) = (partition(0), partition(1));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // While the disk is slow to write the first, all others come.
        let mut all = std::pin::pin!(async {
            tokio::join!(
                storage.save_batch(&zero, vec![fresh(&["a"])]),
                storage.save_batch(&one, vec![fresh(&["b"])]),
                storage.regroup("t", position + 1, vec![(0, batch(&["u"], None))]),
                storage.save_batch(&zero, vec![fresh(&["c"])]),
                storage.save_batch(&one, vec![fresh(&["d"])]),
            )
        });
        let slow = fs.disk();
        let asked =
            std::future::poll_fn(|cx| std::task::Poll::Ready(all.as_mut().poll(cx).is_pending())).await;
        assert!(asked);
        drop(slow);
        let (a, b, u, c, d) = all.await;
        let (a, b, u, c, d) = (a.unwrap()[0], b.unwrap()[0], u.unwrap()[0], c.unwrap()[0], d.unwrap()[0]);
        assert!(
            a < b && b + 1 < u && u + 2 < c && c < d,
            "a control batch before it, and one behind: {a} {b} {u} {c} {d}"
        );
    });
    assert_eq!(
        (waiting(&storage, 0), waiting(&storage, 1)),
        (vec!["a".into(), "u".into(), "c".into()], vec!["b".into(), "d".into()])
    );
}

#[test]
pub(super) fn a_group_that_was_refused_and_could_not_be_cut_off_stays_refused_when_segments_go() {
    // An fsync fails, cutting the group off fails too; the name of the next segment says that the group does not exist. Then
    // all of that segment is settled and it goes: after the next start the refused group is there.
    for heals in [true, false] {
        let settings = DiskSettings { segment_bytes: 700, ..settings() };
        let (fs, storage, _) = start(Disk::default(), settings.clone());
        save(&storage, 0, vec![fresh(&[&"s".repeat(300)])]);
        let steps = fs.disk().steps;
        fs.disk().fault = Some((steps + 2, 1, Fault::Clean(ErrorKind::Other)));
        fs.disk().refuses_cuts = true;
        wait(storage.save_batch(&partition(2), vec![fresh(&["ghost"])])).unwrap_err();
        let x = save(&storage, 1, vec![fresh(&[&"x".repeat(600)])])[0];
        save(&storage, 1, vec![fresh(&["y"])]);
        assert_eq!(logs(&fs).len(), 3);
        fs.disk().refuses_cuts = !heals;
        wait(storage.commit(&partition(1), x + 1, true)).unwrap();
        assert_eq!(
            logs(&fs).len(),
            if heals { 2 } else { 3 },
            "what keeps it from coming back stays as long as it must"
        );
        let disk = fs.disk().after_kill();
        drop(storage);
        let (_, storage, recovered) = start(disk, settings);
        assert_eq!((waiting(&storage, 2), recovered.damage), (Vec::new(), Vec::new()), "heals: {heals}");
        assert_eq!((waiting(&storage, 0).len(), waiting(&storage, 1)), (1, vec!["y".to_owned()]));
    }
}

#[test]
pub(super) fn what_is_cut_off_is_durable_before_a_segment_goes_whose_name_kept_it_from_coming_back() {
    // A refused group that could not be cut off, behind it an empty segment. The next start cuts the one and removes the
    // other; if the power goes in between, the removal may be on disk and the cut not.
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let steps = fs.disk().steps;
    fs.disk().fault = Some((steps + 2, 1, Fault::Clean(ErrorKind::Other)));
    fs.disk().refuses_cuts = true;
    wait(storage.save_batch(&partition(0), vec![fresh(&["ghost"])])).unwrap_err();
    let disk = fs.disk().after_power_loss(Left::Bytes(1 << 20));
    drop(storage);
    let fs = SimFs::new(disk);
    assert_eq!(logs(&fs).len(), 2);
    fs.disk().history = Some(Vec::new());
    let storage = DiskStorage::with(Arc::new(fs.clone()), settings(), false).unwrap();
    wait(storage.open("t")).unwrap();
    let history = fs.disk().history.take().unwrap();
    assert!(history.len() > 3);
    for (step, disk) in history.iter().enumerate() {
        for left in [Left::Nothing, Left::Names] {
            let (_, storage, _) = start(disk.after_power_loss(left), settings());
            assert_eq!(waiting(&storage, 0), ["a"], "step {step}, {left:?}");
        }
    }
}

#[test]
fn evidence_is_not_cut_off_before_it_is_kept_aside() {
    // The last control batch is damaged, and the disk is full: the bytes could not be copied, and were cut off all the same.
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let first = fs.disk().bytes(&log(0)).len();
    save(&storage, 0, vec![fresh(&["b"])]);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    *disk.bytes(&log(0)).iter_mut().rev().nth(4).unwrap() ^= 1;
    let evidence = disk.bytes(&log(0))[first..].to_vec();
    let damaged = disk.clone();
    disk.capacity = Some(disk.bytes(&log(0)).len() as u64 + 100);
    let kept = |fs: &SimFs| {
        let mut disk = fs.disk().clone();
        let kept: Vec<_> =
            disk.paths().into_iter().filter(|p| p.extension().is_some_and(|e| e == "damaged")).collect();
        kept.iter().map(|path| disk.bytes(path).clone()).collect::<Vec<_>>()
    };
    let (fs, storage, recovered) = start(disk, settings());
    assert!(recovered.damage[0].contains("at most 1 events missing"), "{:?}", recovered.damage);
    assert_eq!((waiting(&storage, 0), kept(&fs)), (vec!["a".to_owned()], Vec::new()));
    assert_eq!(fs.disk().bytes(&log(0))[first..], evidence, "it stays where it is");
    // Room comes, and with it a segment behind: the damage is not the last of the log any more.
    fs.disk().capacity = None;
    save(&storage, 0, vec![fresh(&["c"])]);
    let disk = fs.disk().after_kill();
    drop(storage);
    let (fs, storage, recovered) = start(disk, settings());
    assert!(
        recovered.damage.len() == 1 && !recovered.damage[0].contains("missing"),
        "{:?}",
        recovered.damage
    );
    assert_eq!(
        (waiting(&storage, 0), kept(&fs)),
        (vec!["a".to_owned(), "c".to_owned()], vec![evidence.clone()])
    );
    assert_eq!(fs.disk().bytes(&log(0)).len(), first);
    let disk = fs.disk().after_kill();
    drop(storage);
    assert_eq!(start(disk, settings()).2.damage, [""; 0]);
    // Wherever the power goes while it is kept aside and cut off: it is in the one place or in the other.
    let fs = SimFs::new(damaged.all_durable());
    fs.disk().history = Some(Vec::new());
    let storage = DiskStorage::with(Arc::new(fs.clone()), settings(), false).unwrap();
    wait(storage.open("t")).unwrap();
    let history = fs.disk().history.take().unwrap();
    for (step, disk) in history.iter().enumerate() {
        for left in [Left::Nothing, Left::Names, Left::Bytes(10)] {
            let (fs, ..) = start(disk.after_power_loss(left), settings());
            assert_eq!(kept(&fs), std::slice::from_ref(&evidence), "step {step}, {left:?}");
        }
    }
}

#[test]
pub(super) fn nothing_is_called_durable_in_a_directory_that_was_removed_and_the_next_write_makes_it_anew() {
    for removed in ["/spool", "/spool/topics", "/spool/topics/t"] {
        let (fs, storage, _) = start(Disk::default(), settings());
        save(&storage, 0, vec![fresh(&["a"])]);
        fs.disk().remove_dir(Path::new(removed));
        let refused = wait(storage.save_batch(&partition(0), vec![fresh(&["b"])])).unwrap_err().to_string();
        assert!(refused.contains("somebody removed the file"), "{removed}: {refused}");
        let position = save(&storage, 0, vec![fresh(&["c"])])[0];
        assert_eq!(position, 2, "{removed}");
        save(&storage, 0, vec![fresh(&["d"])]);
        let disk = fs.disk().after_power_loss(Left::Nothing);
        drop(storage);
        let (_, storage, recovered) = start(disk, settings());
        assert_eq!(
            (waiting(&storage, 0), recovered.damage),
            (vec!["c".into(), "d".into()], Vec::new()),
            "{removed}"
        );
    }
}

#[test]
fn the_directories_of_what_was_answered_are_durable() {
    // Files were made durable in their directories, the directories themselves not in theirs: a power loss took a new spool,
    // or the first dead letter, with everything in it.
    let (fs, storage, _) =
        start(Disk::default(), DiskSettings { dir: "/var/lib/mine/spool".into(), ..settings() });
    let position = save(&storage, 0, vec![fresh(&["a", "bad"])])[0];
    let disk = fs.disk().after_power_loss(Left::Nothing);
    let log = Path::new("/var/lib/mine/spool/topics/t/00000000000000000000.log");
    assert!(disk.paths().iter().any(|path| path == log), "{:?}", disk.paths());
    wait(storage.reject(&partition(0), vec![super::room::letter("bad", Some(position + 1))])).unwrap();
    let disk = fs.disk().after_power_loss(Left::Nothing);
    let letters = Path::new("/var/lib/mine/spool/topics/t/dead-letters");
    assert!(disk.paths().iter().any(|path| path.starts_with(letters)), "{:?}", disk.paths());
    // Removed and made anew.
    fs.disk().remove_dir(Path::new("/var/lib/mine/spool"));
    wait(storage.save_batch(&partition(0), vec![fresh(&["b"])])).unwrap_err();
    save(&storage, 0, vec![fresh(&["c"])]);
    let disk = fs.disk().after_power_loss(Left::Nothing);
    assert!(
        disk.paths().iter().any(|path| path.extension().is_some_and(|e| e == "log")),
        "{:?}",
        disk.paths()
    );
}
