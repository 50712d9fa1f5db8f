//! Cases that say what they expect: the sentences of the trait, one by one.

use kafka_batcher_core::{Renumbered, TopicPartition};

use super::super::{TempStorage, UNASSIGNED};
use super::{Medium, TOPIC, batch, letter, numbers, place, plain, stamped};
use kafka_batcher_core::ToSave;

async fn opened(medium: &dyn Medium) -> Box<dyn TempStorage> {
    let storage = medium.open();
    storage.open(TOPIC).await.unwrap_or_else(|error| panic!("it opens: {error}"));
    storage
}

async fn save(storage: &dyn TempStorage, partition: i32, batches: Vec<ToSave>) -> Vec<u64> {
    storage.save_batch(&place(partition), batches).await.unwrap_or_else(|error| panic!("it saves: {error}"))
}

/// Position, value and sequence of every event that is read from there on.
async fn all(storage: &dyn TempStorage, partition: i32, from: u64) -> Vec<(u64, String, Option<i32>)> {
    let (mut out, mut from) = (Vec::new(), from);
    loop {
        let read = storage.read(&place(partition), from, 1).await;
        let read = read.unwrap_or_else(|error| panic!("it reads: {error}"));
        assert!(read.damage.is_empty(), "nothing is damaged: {:?}", read.damage);
        if read.batches.is_empty() {
            return out;
        }
        assert!(read.next > from, "it says where to read on: {} after {from}", read.next);
        for stored in read.batches {
            let records = stored.batch.records().unwrap_or_else(|error| panic!("a valid batch: {error}"));
            for (n, record) in (0..).zip(records) {
                let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
                let sequence = stored.numbers.as_ref().map(|numbers| numbers.stamp.first_sequence + n as i32);
                out.push((stored.position + n, value, sequence));
            }
            from = stored.position + u64::from(stored.batch.count());
        }
        // What lies behind it in the same batch may have been given up.
        assert!(read.next >= from, "it says where to read on: {} below {from}", read.next);
        from = read.next;
    }
}

fn values(read: &[(u64, String, Option<i32>)]) -> Vec<&str> {
    read.iter().map(|(_, value, _)| value.as_str()).collect()
}

pub(super) async fn in_order(medium: &dyn Medium) {
    let storage = opened(medium).await;
    assert!(storage.keeps(), "a storage that keeps what it is given says so");
    let first = save(&*storage, 0, vec![plain(&["a", "b"]), stamped(&["c"], 5)]).await;
    let second = save(&*storage, 0, vec![stamped(&["d", "e"], 6)]).await;
    assert!(first[0] + 2 <= first[1] && first[1] < second[0], "positions ascend: {first:?} {second:?}");
    let read = storage.read(&place(0), 0, 1 << 20).await.unwrap_or_else(|error| panic!("it reads: {error}"));
    let saved = [plain(&["a", "b"]), stamped(&["c"], 5), stamped(&["d", "e"], 6)];
    assert_eq!(read.batches.len(), saved.len(), "all of them fit");
    for (stored, saved) in read.batches.iter().zip(&saved) {
        assert_eq!(stored.batch.to_bytes(), saved.batch.to_bytes(), "the bytes, headers, nulls and all");
        assert_eq!(stored.numbers, saved.numbers, "the numbers, and where they mean something");
    }
}

pub(super) async fn bounded_reads(medium: &dyn Medium) {
    let storage = opened(medium).await;
    save(&*storage, 0, vec![plain(&["a"]), plain(&["b"]), plain(&["c"])]).await;
    let one = batch(&["a"]).encoded_len();
    for (max_bytes, batches) in [(0, 1), (one, 1), (2 * one, 2), (1 << 20, 3)] {
        let read = storage.read(&place(0), 0, max_bytes).await;
        let read = read.unwrap_or_else(|error| panic!("it reads: {error}"));
        assert_eq!(read.batches.len(), batches, "of {max_bytes} bytes");
    }
}

pub(super) async fn middle(medium: &dyn Medium) {
    let storage = opened(medium).await;
    let at = save(&*storage, 0, vec![stamped(&["a", "b", "c"], 5)]).await[0];
    let rest = all(&*storage, 0, at + 1).await;
    assert_eq!(rest, [(at + 1, "b".to_owned(), Some(6)), (at + 2, "c".to_owned(), Some(7))]);
}

pub(super) async fn survives(medium: &dyn Medium) {
    let storage = opened(medium).await;
    let before = save(&*storage, 0, vec![stamped(&["a", "b"], 5)]).await[0];
    medium.crash(storage);
    let storage = medium.open();
    let found = storage.open(TOPIC).await.unwrap_or_else(|error| panic!("it opens: {error}"));
    let [(0, backlog)] = found.backlogs[..] else { panic!("one partition waits: {found:?}") };
    assert_eq!((backlog.events, backlog.first), (2, before), "{backlog:?}");
    let after = save(&*storage, 0, vec![plain(&["c"])]).await[0];
    assert!(after >= before + 2, "positions are used once: {before}, then {after}");
    assert_eq!(values(&all(&*storage, 0, 0).await), ["a", "b", "c"]);
}

pub(super) async fn commits(medium: &dyn Medium) {
    let storage = opened(medium).await;
    let at = save(&*storage, 0, vec![plain(&["a", "b"]), plain(&["c"])]).await;
    for (through, left) in [(at[0] + 1, vec!["b", "c"]), (at[1], vec!["c"]), (at[1] + 1, vec![])] {
        storage.commit(&place(0), through, false).await.unwrap_or_else(|error| panic!("it commits: {error}"));
        assert_eq!(values(&all(&*storage, 0, 0).await), left, "below {through}");
        let backlog = storage.backlog(&place(0)).await.unwrap_or_else(|error| panic!("it counts: {error}"));
        assert_eq!(backlog.events, left.len() as u64);
        let empty = storage.is_empty(&place(0)).await.unwrap_or_else(|error| panic!("it says: {error}"));
        assert_eq!(empty, left.is_empty());
    }
}

pub(super) async fn durable_commit(medium: &dyn Medium) {
    let storage = opened(medium).await;
    let at = save(&*storage, 0, vec![plain(&["a", "b"]), plain(&["c"])]).await;
    storage.commit(&place(0), at[1], true).await.unwrap_or_else(|error| panic!("it commits: {error}"));
    medium.crash(storage);
    let storage = opened(medium).await;
    assert_eq!(values(&all(&*storage, 0, 0).await), ["c"]);
}

pub(super) async fn renumbers(medium: &dyn Medium) {
    let storage = opened(medium).await;
    let at = save(&*storage, 0, vec![plain(&["a", "b", "c", "d"])]).await[0];
    for (first, count, sequence) in [(0, 4, 10), (1, 2, 50), (2, 1, 90)] {
        let new = Renumbered { position: at + first, count, numbers: numbers(sequence) };
        storage.renumber(&place(0), vec![new]).await.unwrap_or_else(|error| panic!("it renumbers: {error}"));
    }
    let expected = [Some(10), Some(50), Some(90), Some(13)];
    let sequences =
        |read: Vec<(u64, String, Option<i32>)>| read.into_iter().map(|(.., s)| s).collect::<Vec<_>>();
    assert_eq!(sequences(all(&*storage, 0, 0).await), expected);
    medium.crash(storage);
    let storage = opened(medium).await;
    assert_eq!(sequences(all(&*storage, 0, 0).await), expected, "after a crash, too");
}

pub(super) async fn rejects(medium: &dyn Medium) {
    let storage = opened(medium).await;
    let at = save(&*storage, 0, vec![stamped(&["a", "bad", "c"], 5)]).await[0];
    let letters = vec![letter(Some(at + 1)), letter(None)];
    storage.reject(&place(0), letters).await.unwrap_or_else(|error| panic!("it rejects: {error}"));
    let expected = [(at, "a".to_owned(), Some(5)), (at + 2, "c".to_owned(), Some(7))];
    assert_eq!(all(&*storage, 0, 0).await, expected);
    medium.crash(storage);
    let storage = opened(medium).await;
    assert_eq!(all(&*storage, 0, 0).await, expected, "after a crash, too");
}

async fn give_up(storage: &dyn TempStorage, partition: i32, from: u64, through: u64) {
    let given_up = storage.drop_events(&place(partition), from, through).await;
    given_up.unwrap_or_else(|error| panic!("it gives up: {error}"));
}

pub(super) async fn drops(medium: &dyn Medium) {
    let storage = opened(medium).await;
    let at =
        save(&*storage, 0, vec![stamped(&["a", "b", "c"], 5), plain(&["d", "e"]), plain(&["f", "g"])]).await;
    save(&*storage, 1, vec![plain(&["other"])]).await;
    let at2 = save(&*storage, 0, vec![stamped(&["h", "i"], 8), plain(&["k"])]).await;
    // From the middle of a batch to the middle of another.
    give_up(&*storage, 0, at[0] + 1, at[2] + 1).await;
    let left = |first: &[&str]| first.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let check = async |storage: &dyn TempStorage, expected: Vec<String>| {
        assert_eq!(values(&all(storage, 0, 0).await), expected);
        let backlog = storage.backlog(&place(0)).await.unwrap_or_else(|error| panic!("it counts: {error}"));
        assert_eq!(backlog.events, expected.len() as u64, "{backlog:?}");
        assert_eq!(values(&all(storage, 1, 0).await), ["other"], "another partition's events stay");
    };
    check(&*storage, left(&["a", "g", "h", "i", "k"])).await;
    let numbered = all(&*storage, 0, at2[0]).await;
    assert_eq!(numbered[1], (at2[0] + 1, "i".to_owned(), Some(9)), "what stays keeps its place and numbers");
    medium.crash(storage);
    let storage = opened(medium).await;
    check(&*storage, left(&["a", "g", "h", "i", "k"])).await;
    // From the front, up to the middle of a batch; what was given up before lies in it.
    give_up(&*storage, 0, at[0], at2[0] + 1).await;
    check(&*storage, left(&["i", "k"])).await;
    medium.crash(storage);
    let storage = opened(medium).await;
    check(&*storage, left(&["i", "k"])).await;
    // All that is left, and what comes later is not meant.
    give_up(&*storage, 0, 0, u64::MAX).await;
    check(&*storage, Vec::new()).await;
    assert_eq!(storage.is_empty(&place(0)).await, Ok(true));
    save(&*storage, 0, vec![plain(&["new"])]).await;
    medium.crash(storage);
    let storage = opened(medium).await;
    check(&*storage, left(&["new"])).await;
}

pub(super) async fn drops_nothing(medium: &dyn Medium) {
    let storage = opened(medium).await;
    give_up(&*storage, 0, 0, 10).await;
    let at = save(&*storage, 0, vec![plain(&["a", "b"]), plain(&["c"])]).await;
    give_up(&*storage, 0, at[0] + 1, at[0] + 1).await;
    give_up(&*storage, 0, at[1], at[0]).await;
    give_up(&*storage, 0, at[1] + 1, u64::MAX).await;
    give_up(&*storage, 5, 0, u64::MAX).await;
    assert_eq!(values(&all(&*storage, 0, 0).await), ["a", "b", "c"]);
    medium.crash(storage);
    let storage = opened(medium).await;
    assert_eq!(values(&all(&*storage, 0, 0).await), ["a", "b", "c"]);
}

pub(super) async fn times(medium: &dyn Medium) {
    let storage = opened(medium).await;
    let now = || crate::clock::Clock::start().unix_ms();
    let empty = storage.backlog(&place(0)).await.unwrap_or_else(|error| panic!("it counts: {error}"));
    assert_eq!(empty.oldest_ms, 0, "nothing waits");
    // The kernel's clock ticks in steps, a storage may round down.
    let before = now() - 1_000;
    let at = save(&*storage, 0, vec![plain(&["a", "b"]), plain(&["c"])]).await;
    save(&*storage, 0, vec![plain(&["d"])]).await;
    let after = now() + 1_000;
    let told = async |storage: &dyn TempStorage, from: u64| {
        let backlog = storage.backlog(&place(0)).await.unwrap_or_else(|error| panic!("it counts: {error}"));
        let read = storage.read(&place(0), from, 1 << 20).await;
        let read = read.unwrap_or_else(|error| panic!("it reads: {error}"));
        let times: Vec<i64> = read.batches.iter().map(|stored| stored.saved_ms).collect();
        assert_eq!(Some(&backlog.oldest_ms), times.first(), "the backlog's oldest is the first that is read");
        times
    };
    let first = told(&*storage, 0).await;
    assert_eq!(first.len(), 3);
    assert!(first.iter().all(|time| (before..after).contains(time)), "{first:?} of {before}..{after}");
    storage.commit(&place(0), at[1], true).await.unwrap_or_else(|error| panic!("it commits: {error}"));
    medium.crash(storage);
    let storage = opened(medium).await;
    assert_eq!(told(&*storage, 0).await, first[1..], "the next process says the same");
}

pub(super) async fn regroups(medium: &dyn Medium) {
    let storage = opened(medium).await;
    save(&*storage, 1, vec![plain(&["old"])]).await;
    let lane = save(&*storage, UNASSIGNED, vec![plain(&["a", "b"]), plain(&["late"])]).await;
    let batches = vec![(0, batch(&["a"])), (1, batch(&["b"]))];
    let at = storage.regroup(TOPIC, lane[1], batches).await;
    let at = at.unwrap_or_else(|error| panic!("it regroups: {error}"));
    assert!(at.len() == 2 && lane[1] < at[0] && at[0] < at[1], "{lane:?} {at:?}");
    medium.crash(storage);
    let storage = opened(medium).await;
    assert_eq!(values(&all(&*storage, UNASSIGNED, 0).await), ["late"]);
    assert_eq!(values(&all(&*storage, 0, 0).await), ["a"]);
    assert_eq!(values(&all(&*storage, 1, 0).await), ["old", "b"], "behind what is older");
}

pub(super) async fn apart(medium: &dyn Medium) {
    let storage = opened(medium).await;
    storage.open("another").await.unwrap_or_else(|error| panic!("it opens: {error}"));
    for n in ["1", "2", "3"] {
        save(&*storage, 0, vec![plain(&[n])]).await;
        save(&*storage, 1, vec![plain(&[n, n])]).await;
        let other = TopicPartition::new("another", 0);
        storage
            .save_batch(&other, vec![plain(&["x"])])
            .await
            .unwrap_or_else(|error| panic!("it saves: {error}"));
    }
    storage
        .commit(&place(1), u64::MAX >> 1, false)
        .await
        .unwrap_or_else(|error| panic!("it commits: {error}"));
    assert_eq!(values(&all(&*storage, 0, 0).await), ["1", "2", "3"]);
    assert_eq!(values(&all(&*storage, 1, 0).await), [""; 0]);
    let backlog = storage.backlog(&TopicPartition::new("another", 0)).await;
    assert_eq!(backlog.map(|backlog| backlog.events), Ok(3));
}

pub(super) async fn partitions(medium: &dyn Medium) {
    let storage = medium.open();
    let found = storage.open(TOPIC).await.unwrap_or_else(|error| panic!("it opens: {error}"));
    assert_eq!(found.partitions, None);
    for count in [3, 5] {
        storage.keep_partitions(TOPIC, count).await.unwrap_or_else(|error| panic!("it keeps: {error}"));
    }
    medium.crash(storage);
    let found = medium.open().open(TOPIC).await.unwrap_or_else(|error| panic!("it opens: {error}"));
    assert_eq!(found.partitions, Some(5));
}
