//! Segments are opened when they are read: how many are open, and what is read of one that changes meanwhile.

use super::super::files::OPEN;
use super::room::{logs, turn_by_turn};
use super::*;

fn many() -> DiskSettings {
    DiskSettings { segment_bytes: 800, ..settings() }
}

#[test]
fn however_many_segments_a_stuck_partition_leaves_few_are_open() {
    // One descriptor was held for each, from the start on: 64 MiB of others' events cost one, for as long as one event of a
    // stuck partition lay among them.
    let (fs, storage, _) = start(Disk::default(), many());
    let (stuck, flowing) = turn_by_turn(&storage, 100);
    wait(storage.commit(&partition(1), *flowing.last().unwrap() + 1, true)).unwrap();
    let expected = waiting(&storage, 0);
    assert!(logs(&fs).len() >= 100 && expected.len() == 200, "{}", logs(&fs).len());
    println!("{} segments, {} open", logs(&fs).len(), fs.open_files());
    assert!(fs.open_files() <= OPEN + 1, "{}", fs.open_files());
    let disk = fs.disk().after_kill();
    drop(storage);
    assert_eq!(fs.open_files(), 0);
    let (fs, storage, _) = start(disk, many());
    assert_eq!(fs.open_files(), 0, "recovery has closed them");
    assert_eq!(waiting(&storage, 0), expected);
    assert!(fs.open_files() <= OPEN, "{}", fs.open_files());
    // What is deleted is closed: its room would not come back before.
    wait(storage.commit(&partition(0), stuck.last().unwrap() + 2, true)).unwrap();
    assert!(logs(&fs).len() < 3 && fs.open_files() < 3, "{} of {}", fs.open_files(), logs(&fs).len());
}

#[test]
fn a_segment_that_is_cleaned_between_looking_it_up_and_opening_it_is_not_taken_for_damaged() {
    // The reader looks up where a batch lies; the writer cleans, and puts another file in the place of that one; the reader
    // opens it by its name: at the old place there is something else, and the batch was called damaged and forgotten.
    let (_, storage, _) = start(Disk::default(), many());
    let (_, flowing) = turn_by_turn(&storage, 10);
    let topic = storage.topic("t").unwrap();
    let before: Vec<_> = topic.state().segments.values().cloned().collect();
    let of = |segment| storage.place.files.of(storage.place.fs.as_ref(), &topic, segment).unwrap();
    assert!(of(&before[0]).is_some());
    let last = flowing[8] + 1;
    wait(storage.commit(&partition(1), last, true)).unwrap();
    let after: Vec<_> = topic.state().segments.values().cloned().collect();
    assert!(after[0].length < before[0].length, "it was cleaned");
    assert!(of(&before[0]).is_none() && of(&before[1]).is_none());
    let cleaned = of(&after[0]).unwrap();
    assert_eq!(cleaned.len().unwrap(), after[0].length);
}

#[test]
fn a_segment_whose_cleaning_failed_half_way_is_read_as_it_was() {
    use super::sim::Fault;
    use std::io::ErrorKind;
    let settings = DiskSettings { segment_bytes: 1_000, ..settings() };
    let (fs, storage, _) = start(Disk::default(), settings.clone());
    // What is stuck lies behind what flows: cleaned, it lies elsewhere.
    let mut flowing = Vec::new();
    for _ in 0..10 {
        flowing.extend(save(&storage, 1, vec![fresh(&[&"x".repeat(700)])]));
        save(&storage, 0, vec![fresh(&["s", "second"])]);
    }
    wait(storage.close());
    let ready = fs.disk().after_kill();
    let run = |fault| {
        let (fs, storage, _) = start(ready.clone(), settings.clone());
        let before = fs.disk().steps;
        fs.disk().fault = fault;
        let _ = wait(storage.commit(&partition(1), flowing[8] + 1, true));
        let steps = fs.disk().steps;
        (before, steps, waiting(&storage, 0).len())
    };
    let (before, steps, whole) = run(None);
    assert!(steps > before + 20 && whole == 20, "{steps} steps, {whole} events");
    for at in before + 1..=steps {
        // Renamed, and answered with an error: nobody knows which file has the name.
        assert_eq!(run(Some((at, 1, Fault::Done(ErrorKind::Other)))).2, 20, "step {at} of {before}..{steps}");
    }
}

#[test]
fn a_scan_of_very_many_segments_keeps_some_open_and_says_so_when_another_has_gone() {
    use super::super::scan::Spool;
    let (fs, storage, _) = start(Disk::default(), many());
    let (_, flowing) = turn_by_turn(&storage, 300);
    let held = fs.open_files();
    let scan = Spool::with(Arc::new(fs.clone()), "/spool".into()).unwrap().scan("t").unwrap();
    assert!(scan.segments.len() >= 300 && fs.open_files() - held < 300, "{}", fs.open_files());
    let events = |batch| scan.read(batch).map(|batch| batch.count());
    assert!(scan.batches.iter().all(|batch| events(batch).is_ok()));
    wait(storage.commit(&partition(1), *flowing.last().unwrap() + 1, true)).unwrap();
    assert_eq!(events(&scan.batches[0]), Ok(2), "the first can be read as they were");
    let refused: Vec<_> = scan.batches.iter().filter_map(|batch| events(batch).err()).collect();
    assert!(!refused.is_empty());
    for error in refused {
        assert!(error.to_string().contains("cleaned since the scan"), "{error}");
    }
}
