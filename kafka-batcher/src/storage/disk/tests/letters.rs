//! Dead letters beside the writer: when they are read, and what their bound costs.

use super::room::letter;
use super::*;

#[test]
fn the_dead_letters_are_read_when_the_topic_is_opened_and_not_by_the_writer_in_the_midst_of_its_work() {
    // The first letter after a start had the writer read up to 64 MiB of older ones, and every topic wait.
    let (fs, storage, _) = start(Disk::default(), settings());
    for _ in 0..20 {
        wait(storage.reject(&partition(0), vec![letter("bad", None)])).unwrap();
    }
    let disk = fs.disk().after_kill();
    drop(storage);
    let (fs, storage, _) = start(disk, settings());
    let read = fs.disk().read;
    assert!(read > 1_000, "{read}");
    wait(storage.reject(&partition(0), vec![letter("bad", None)])).unwrap();
    assert_eq!(fs.disk().read, read);
}
