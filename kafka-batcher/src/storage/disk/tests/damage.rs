//! A log of a few batches cut at every byte, and every bit of it flipped: recovery names exactly what is missing and keeps
//! the rest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::control::{Control, Member};
use super::super::scan::{BatchScan, Spool};
use super::*;

const LOG: &str = "/spool/topics/t/00000000000000000000.log";

/// A log of three groups: the disk, and the events of each batch by its place.
struct Sample {
    disk: Disk,
    batches: Vec<BatchScan>,
    values: Vec<Vec<String>>,
    /// Where each group ends.
    ends: Vec<u64>,
}

fn sample() -> Sample {
    let (fs, storage, _) = start(Disk::default(), settings());
    let mut ends = Vec::new();
    let mut end = || ends.push(fs.disk().bytes(&PathBuf::from(LOG)).len() as u64);
    save(&storage, 0, vec![fresh(&["a", "b"]), sent(&["c"], numbers(5, "x"))]);
    end();
    save(&storage, 1, vec![fresh(&["d", "e", "f"])]);
    end();
    save(&storage, 0, vec![sent(&["g", "h"], numbers(6, "x")), fresh(&["i"])]);
    end();
    let disk = fs.disk().after_kill();
    drop(storage);
    let scan = Spool::with(Arc::new(SimFs::new(disk.clone())), "/spool".into()).unwrap().scan("t").unwrap();
    let values = scan.batches.iter().map(|b| super::values(&scan.waiting(b).unwrap())).collect();
    assert_eq!((scan.batches.len(), scan.damage.len()), (5, 0));
    Sample { disk, batches: scan.batches, values, ends }
}

fn all(storage: &DiskStorage) -> Vec<String> {
    let mut all = waiting(storage, 0);
    all.extend(waiting(storage, 1));
    all.sort();
    all
}

#[test]
fn a_log_cut_at_any_byte_keeps_every_group_that_is_whole_and_nothing_of_the_one_that_is_not() {
    let sample = sample();
    let length = *sample.ends.last().unwrap() as usize;
    for cut in 0..length {
        let mut disk = sample.disk.clone();
        disk.bytes(&PathBuf::from(LOG)).truncate(cut);
        let (fs, storage, recovered) = start(disk, settings());
        let whole = sample.ends.iter().filter(|end| **end <= cut as u64).max().copied().unwrap_or(0);
        let mut expected: Vec<String> = Vec::new();
        for (batch, values) in sample.batches.iter().zip(&sample.values) {
            if batch.offset < whole {
                expected.extend(values.iter().cloned());
            }
        }
        expected.sort();
        assert_eq!(all(&storage), expected, "cut at {cut}");
        assert_eq!(recovered.damage, [""; 0], "cut at {cut}: what a kill leaves is no damage");
        // It goes on, and a further start finds the same and what came.
        save(&storage, 1, vec![fresh(&["z"])]);
        expected.push("z".to_owned());
        let disk = fs.disk().after_kill();
        let (_, storage, recovered) = start(disk, settings());
        assert_eq!((all(&storage), recovered.damage.len()), (expected, 0), "cut at {cut}, the second start");
    }
}

/// The number in front of "events missing", summed up.
fn named(damage: &[String]) -> u64 {
    let number = |line: &String| {
        let (before, _) = line.split_once(" events missing")?;
        before.rsplit(' ').next()?.parse::<u64>().ok()
    };
    damage.iter().filter_map(number).sum()
}

#[test]
fn any_flipped_bit_costs_at_most_its_batch_which_is_named_and_the_rest_is_kept() {
    let sample = sample();
    let length = *sample.ends.last().unwrap() as usize;
    let total: usize = sample.values.iter().map(Vec::len).sum();
    let last_group = sample.ends[1];
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for bit in 0..length * 8 {
        let (byte, mask) = (bit / 8, 1u8 << (bit % 8));
        let mut disk = sample.disk.clone();
        disk.bytes(&PathBuf::from(LOG))[byte] ^= mask;
        let (fs, storage, recovered) = start(disk, settings());
        let damage = &recovered.damage;
        let kept = all(&storage);
        let at = byte as u64;
        let hit =
            sample.batches.iter().position(|b| (b.offset..b.offset + u64::from(b.length)).contains(&at));
        let mut expected = sample.values.clone();
        let outcome = match hit {
            Some(hit) if at >= sample.batches[hit].offset + 21 => {
                let batch = &sample.batches[hit];
                let words = format!(
                    "; {} events missing of partition {}, positions {}..{}",
                    batch.count,
                    batch.partition,
                    batch.position,
                    batch.position + u64::from(batch.count)
                );
                assert!(damage.len() == 1 && damage[0].contains(&words), "bit {bit}: {damage:?}");
                assert!(damage[0].contains(&format!("byte {}: ", batch.offset)), "bit {bit}: {damage:?}");
                expected[hit].clear();
                "a batch is lost and named"
            }
            Some(_) => {
                assert!(named(damage) == 0 && damage.len() == 1, "bit {bit}: {damage:?}");
                "a header is healed"
            }
            None if at >= last_group && kept.len() < total => {
                // Nobody can tell a damaged last control batch from a write that was not finished.
                for (batch, values) in sample.batches.iter().zip(&mut expected) {
                    if batch.offset >= last_group {
                        values.clear();
                    }
                }
                assert_eq!(named(damage), 3, "bit {bit}: {damage:?}");
                "the last group is cut and named"
            }
            None => {
                assert!(named(damage) == 0 && !damage.is_empty(), "bit {bit}: {damage:?}");
                "a control batch is named, its events are kept"
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
        let mut expected: Vec<String> = expected.concat();
        expected.sort();
        assert_eq!(kept, expected, "bit {bit}: {damage:?}");
        assert_eq!(kept.len() as u64 + named(damage), total as u64, "bit {bit}: {damage:?}");
        assert_eq!(recovered.missing, named(damage), "bit {bit}");
        // What costs something is kept aside, never deleted in silence.
        if named(damage) > 0 {
            assert!(
                fs.disk().paths().iter().any(|p| p.extension().is_some_and(|e| e == "damaged")),
                "bit {bit}"
            );
        }
        // And it can be written again.
        save(&storage, 0, vec![fresh(&["z"])]);
        assert_eq!(waiting(&storage, 0).last().map(String::as_str), Some("z"));
    }
    println!("{} bits: {outcomes:?}", length * 8);
    assert_eq!(outcomes.len(), 4);
}

#[test]
fn several_groups_overwritten_with_zeros_are_named_by_their_positions_and_the_walk_goes_on_behind() {
    let sample = sample();
    let mut disk = sample.disk.clone();
    let zeroed = 10..sample.ends[1] as usize + 5;
    disk.bytes(&PathBuf::from(LOG))[zeroed].fill(0);
    let (_, storage, recovered) = start(disk, settings());
    let damage = &recovered.damage;
    assert!(damage.iter().any(|line| line.contains("positions 0..8")), "{damage:?}");
    assert_eq!(waiting(&storage, 0), ["g", "h", "i"], "a header that was hit is healed");
}

#[test]
fn what_the_checkpoint_covers_cannot_be_damage() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a", "b"])]);
    save(&storage, 1, vec![fresh(&["c"])]);
    wait(storage.commit(&partition(0), 2, true)).unwrap();
    let mut disk = fs.disk().after_kill();
    drop(storage);
    disk.bytes(&PathBuf::from(LOG))[63] ^= 1;
    let (_, storage, recovered) = start(disk, settings());
    assert_eq!((recovered.damage, waiting(&storage, 1)), (Vec::new(), vec!["c".to_owned()]));
}

#[test]
fn a_damaged_checkpoint_costs_resends_and_is_told() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a", "b"])]);
    wait(storage.commit(&partition(0), 1, true)).unwrap();
    let disk = fs.disk().after_kill();
    drop(storage);
    let path = PathBuf::from("/spool/topics/t/checkpoint");
    for byte in 0..disk.clone().bytes(&path).len() {
        let mut disk = disk.clone();
        disk.bytes(&path)[byte] ^= 4;
        let (_, storage, recovered) = start(disk, settings());
        assert_eq!(waiting(&storage, 0), ["a", "b"]);
        assert!(recovered.damage[0].contains("the checkpoint is damaged"), "{:?}", recovered.damage);
    }
}

#[test]
fn a_checkpoint_above_the_end_of_the_log_is_cut_back_and_told_and_its_positions_are_not_given_again() {
    let (fs, storage, _) = start(Disk::default(), settings());
    save(&storage, 0, vec![fresh(&["a"])]);
    let end = fs.disk().bytes(&PathBuf::from(LOG)).len();
    save(&storage, 1, vec![fresh(&["b"])]);
    save(&storage, 0, vec![fresh(&["c"])]);
    wait(storage.commit(&partition(0), 5, true)).unwrap();
    let mut disk = fs.disk().after_kill();
    drop(storage);
    // The disk lied about its fsync.
    disk.bytes(&PathBuf::from(LOG)).truncate(end);
    let (_, storage, recovered) = start(disk, settings());
    assert!(recovered.damage[0].contains("ends at position 2") && recovered.damage[0].contains("up to 6"));
    assert_eq!(save(&storage, 0, vec![fresh(&["d"])]), [6]);
    assert_eq!(waiting(&storage, 0), ["d"], "what is new is not taken for settled");
}

#[test]
fn a_batch_that_is_damaged_while_it_waits_is_left_out_and_told_once() {
    let (fs, storage, _) = start(Disk::default(), settings());
    let positions = save(&storage, 0, vec![fresh(&["a"]), fresh(&["b", "c"]), fresh(&["d"])]);
    let offset = fresh(&["a"]).batch.encoded_len();
    fs.disk().bytes(&PathBuf::from(LOG))[offset + 64] ^= 1;
    let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
    assert_eq!(values(&read.batches), ["a", "d"]);
    assert_eq!((read.damage.len(), read.damage[0].0, read.next), (1, 2, positions[2] + 1));
    assert!(
        read.damage[0].1.contains("2 events of partition 0 missing, positions 1..3"),
        "{:?}",
        read.damage
    );
    let again = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
    assert_eq!((values(&again.batches), again.damage.len()), (vec!["a".to_owned(), "d".to_owned()], 0));
    assert_eq!(wait(storage.backlog(&partition(0))).unwrap().events, 2);
    assert!(fs.disk().paths().iter().any(|path| path.extension().is_some_and(|e| e == "damaged")));
}

#[test]
fn an_event_that_holds_a_whole_spool_is_never_taken_for_a_part_of_this_one() {
    // The payload is a segment of a spool, control batch and all; then the batch that holds it is damaged.
    let mut inner = sample().disk;
    let inner = inner.bytes(&PathBuf::from(LOG)).clone();
    let (fs, storage, _) = start(Disk::default(), settings());
    let plain = Plain { value: Some(&inner), ..Plain::default() };
    let bytes = encode(Place { position: 0, partition: -1 }, false, &[plain]);
    let batch = RecordBatch::decode(&bytes).unwrap().0;
    save(&storage, 3, vec![ToSave { batch, numbers: None }]);
    save(&storage, 0, vec![fresh(&["z"])]);
    let mut disk = fs.disk().after_kill();
    drop(storage);
    disk.bytes(&PathBuf::from(LOG))[62] ^= 1;
    let (_, storage, recovered) = start(disk, settings());
    assert_eq!((all(&storage), waiting(&storage, 3).len()), (vec!["z".to_owned()], 0));
    assert_eq!(named(&recovered.damage), 1, "{:?}", recovered.damage);
}

/// The fuzzer's story: behind a group at high positions stood one at low ones, its CRCs right. It set the end of the log
/// back, and the next event was saved at a position that there was.
#[test]
fn a_group_that_claims_positions_of_the_one_before_it_vouches_for_nothing() {
    let mut log = Vec::new();
    for (partition, at) in [(0, 1_000), (0, 3)] {
        let (offset, place) = (log.len(), Place { position: at, partition });
        let records = [Plain { value: Some(b"a"), ..Plain::default() }];
        log.extend(encode(place, false, &records));
        let (length, crc) = ((log.len() - offset) as u32, crc32c::crc32c(&log[offset + 21..]));
        let member = Member { place, count: 1, length, crc, origin: None };
        let (offset, members) = (log.len() as u64, vec![member]);
        log.extend(Control { offset, position: at + 1, from: at, members, ..Control::default() }.encode());
    }
    let mut disk = sample().disk;
    *disk.bytes(&PathBuf::from(LOG)) = log;
    let (_, storage, _) = start(disk, settings());
    assert!(save(&storage, 0, vec![fresh(&["z"])])[0] > 1_001);
    assert_eq!(waiting(&storage, 0), ["a", "z"]);
}

#[test]
fn marks_of_control_batches_in_a_damaged_payload_cost_no_group_behind_it() {
    // Three hundred headers of control batches stand in an event. Each took the CRC of all that follows, and so many bytes were
    // hashed at most; then the walk gave the rest of the log up.
    let (fs, storage, _) = start(Disk::default(), settings());
    let mut mark = [0u8; 61];
    mark[8..12].copy_from_slice(&1_000_000i32.to_be_bytes());
    mark[16] = 2;
    mark[43..51].fill(0xff);
    mark[51..53].copy_from_slice(&(-2i16).to_be_bytes());
    let value: Vec<u8> = mark.repeat(300);
    let plain = Plain { value: Some(&value), ..Plain::default() };
    let bytes = encode(Place { position: 0, partition: -1 }, false, &[plain]);
    save(&storage, 3, vec![ToSave { batch: RecordBatch::decode(&bytes).unwrap().0, numbers: None }]);
    let names = ["v", "w", "x", "y", "z"];
    for name in names {
        save(&storage, 0, vec![fresh(&[name])]);
    }
    let mut disk = fs.disk().after_kill();
    drop(storage);
    disk.bytes(&PathBuf::from(LOG))[62] ^= 1;
    let (_, storage, recovered) = start(disk, settings());
    assert_eq!((waiting(&storage, 0), named(&recovered.damage)), (names.map(str::to_owned).to_vec(), 1));
}

#[test]
fn any_bytes_at_all_in_a_log_are_survived() {
    let mut seed = 1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let sample = sample();
    for _ in 0..2_000 {
        let mut disk = sample.disk.clone();
        let log = disk.bytes(&PathBuf::from(LOG));
        for _ in 0..1 + random() % 20 {
            let at = (random() % log.len() as u64) as usize;
            log[at] = random() as u8;
        }
        let (from, length) = ((random() % log.len() as u64) as usize, (random() % 40) as usize);
        log.drain(from..(from + length).min(log.len()));
        let (_, storage, recovered) = start(disk, settings());
        assert!(all(&storage).len() < 9 || recovered.damage.len() <= 20);
        save(&storage, 0, vec![fresh(&["z"])]);
        assert_eq!(waiting(&storage, 0).last().map(String::as_str), Some("z"));
    }
}

#[test]
fn thousands_of_damaged_lengths_cost_no_more_than_some_readings_of_the_segment_and_no_event() {
    // Each was followed to the end of the segment: 2 000 groups four times as much for each as 500.
    use super::super::bytes::HASHED;
    const GROUPS: u64 = 2_000;
    // One bit makes it reach beyond the segment, another into the midst of it.
    for (byte, bit) in [(8, 0x40), (9, 0x04)] {
        let (fs, storage, _) = start(Disk::default(), settings());
        let value = "x".repeat(300);
        let log = PathBuf::from("/spool/topics/t/00000000000000000000.log");
        let mut offsets = Vec::new();
        for _ in 0..GROUPS {
            offsets.push(if offsets.is_empty() { 0 } else { fs.disk().bytes(&log).len() });
            save(&storage, 0, vec![fresh(&[&value])]);
        }
        for at in offsets {
            fs.disk().bytes(&log)[at + byte] |= bit;
        }
        let length = fs.disk().bytes(&log).len() as u64;
        let before = HASHED.get();
        let scan = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap().scan("t").unwrap();
        let hashed = HASHED.get() - before;
        println!("{hashed} bytes hashed of {length}");
        assert_eq!((scan.backlogs[0].1.events, scan.damage.len() as u64), (GROUPS, GROUPS));
        assert!(hashed <= 11 * length, "{hashed} of {length}");
    }
}

#[test]
fn damaged_bytes_that_are_kept_aside_count_in_the_bound() {
    let bound = DiskSettings { max_bytes: 6_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), bound.clone());
    let value = "x".repeat(2_000);
    let saved = save(&storage, 0, vec![fresh(&[&value]), fresh(&["whole"])]);
    let log = PathBuf::from("/spool/topics/t/00000000000000000000.log");
    fs.disk().bytes(&log)[100] ^= 1;
    let used = storage.place.used();
    let read = wait(storage.read(&partition(0), 0, usize::MAX)).unwrap();
    assert_eq!(read.damage.len(), 1);
    assert!(storage.place.used() > used + 2_000, "what the reader keeps aside");
    wait(storage.commit(&partition(0), saved[1] + 1, true)).unwrap();
    wait(storage.close());
    let (fs, storage, _) = start(fs.disk().after_kill(), bound);
    assert!(fs.disk().paths().iter().any(|path| path.extension().is_some_and(|e| e == "damaged")));
    assert!(storage.place.used() > 2_000, "what the next process finds");
    let refused = wait(storage.save_batch(&partition(0), vec![fresh(&[&"x".repeat(4_000)])]));
    assert!(refused.is_err(), "{refused:?}");
}
