//! Cases that hold a storage against the model: sentences of the trait one by one, and rows of calls in any order.

use futures_util::future::join_all;
use kafka_batcher_core::{Numbers, Origin, Renumbered, Stamp, TopicPartition};

use super::super::UNASSIGNED;
use super::model::Model;
use super::{Medium, TOPIC, letter, numbers, place};

async fn started(medium: &dyn Medium) -> Model<'_> {
    let mut model = Model::start(medium);
    model.open(TOPIC).await;
    model
}

fn renumbered(position: u64, count: u32, numbers: Numbers) -> Renumbered {
    Renumbered { position, count, numbers }
}

pub(super) async fn every_kind_of_event(medium: &dyn Medium) {
    let mut model = started(medium).await;
    let batches = vec![model.batch(60, None), model.batch(60, Some(numbers(5))), model.batch(1, None)];
    model.save(TOPIC, 0, batches).await;
    model.check().await;
    model.crash().await;
    model.restart().await;
}

pub(super) async fn nothing(medium: &dyn Medium) {
    let mut model = started(medium).await;
    assert_eq!(model.save(TOPIC, 0, Vec::new()).await, [0; 0]);
    model.commit(TOPIC, 0, 5, true).await;
    model.commit(TOPIC, UNASSIGNED, 0, false).await;
    model.check().await;
    model.crash().await;
    let batch = model.batch(2, None);
    model.save(TOPIC, 0, vec![batch]).await;
    model.check().await;
}

/// A log that is drained and begun again at 0 would give the numbers of old events to new ones.
pub(super) async fn positions_once(medium: &dyn Medium) {
    let mut model = started(medium).await;
    for round in 0..4 {
        for partition in [0, 1, UNASSIGNED] {
            let batches = vec![model.batch(3, None), model.batch(1, None)];
            model.save(TOPIC, partition, batches).await;
        }
        for partition in [0, 1, UNASSIGNED] {
            model.commit(TOPIC, partition, u64::MAX >> 1, true).await;
        }
        if round % 2 == 0 { model.crash().await } else { model.restart().await }
    }
}

pub(super) async fn beyond_the_end(medium: &dyn Medium) {
    let mut model = started(medium).await;
    for partition in [0, UNASSIGNED] {
        let batch = model.batch(2, None);
        model.save(TOPIC, partition, vec![batch]).await;
    }
    model.commit(TOPIC, 0, u64::MAX >> 1, true).await;
    model.regroup(TOPIC, u64::MAX >> 1, Vec::new()).await;
    for partition in [0, UNASSIGNED] {
        let batch = model.batch(2, None);
        model.save(TOPIC, partition, vec![batch]).await;
    }
    model.check().await;
    model.crash().await;
}

pub(super) async fn late_commit(medium: &dyn Medium) {
    let mut model = started(medium).await;
    let batches = vec![model.batch(4, None), model.batch(4, None)];
    let at = model.save(TOPIC, 0, batches).await;
    model.commit(TOPIC, 0, at[1] + 1, true).await;
    model.commit(TOPIC, 0, at[0] + 1, true).await;
    model.check().await;
    model.crash().await;
}

/// Hints may be forgotten, but only the latest of them; what was asked to be durable may not, and a close forgets none.
pub(super) async fn hints(medium: &dyn Medium) {
    let mut model = started(medium).await;
    let batches: Vec<_> = (0..6).map(|_| model.batch(3, Some(numbers(0)))).collect();
    let at = model.save(TOPIC, 0, batches).await;
    let other = model.batch(2, None);
    model.save(TOPIC, 1, vec![other]).await;
    model.commit(TOPIC, 0, at[1] + 1, true).await;
    model.commit(TOPIC, 0, at[2] + 2, false).await;
    model.reject(TOPIC, 0, &[at[3]]).await;
    model.check().await;
    model.crash().await;
    model.commit(TOPIC, 0, at[4] + 1, false).await;
    model.check().await;
    model.restart().await;
}

pub(super) async fn latest_numbers(medium: &dyn Medium) {
    let mut model = started(medium).await;
    let wraps = numbers(i32::MAX - 1);
    let batches = vec![model.batch(6, Some(wraps.clone())), model.batch(6, None), model.batch(2, None)];
    let at = model.save(TOPIC, 0, batches).await;
    model.check().await;
    let elsewhere = Origin { cluster: None, ..wraps.origin.clone() };
    let other = |first_sequence| Numbers {
        stamp: Stamp { producer_id: 1 << 40, epoch: i16::MAX, first_sequence },
        origin: elsewhere.clone(),
    };
    // Of two batches in one call; the whole; the end; the beginning; across what was renumbered before.
    model
        .renumber(TOPIC, 0, vec![renumbered(at[0] + 2, 3, other(7)), renumbered(at[1], 6, wraps.clone())])
        .await;
    model.check().await;
    model.renumber(TOPIC, 0, vec![renumbered(at[1] + 4, 2, other(0))]).await;
    model.renumber(TOPIC, 0, vec![renumbered(at[0], 3, other(i32::MAX))]).await;
    model.check().await;
    model.crash().await;
    model.commit(TOPIC, 0, at[0] + 3, true).await;
    model.renumber(TOPIC, 0, vec![renumbered(at[0] + 3, 2, numbers(1))]).await;
    model.check().await;
    model.crash().await;
    model.restart().await;
}

pub(super) async fn holes(medium: &dyn Medium) {
    let mut model = started(medium).await;
    let batches = vec![model.batch(5, Some(numbers(10))), model.batch(2, None), model.batch(3, None)];
    let at = model.save(TOPIC, 0, batches).await;
    // In the middle, two at once, all of a batch.
    model.reject(TOPIC, 0, &[at[0] + 2]).await;
    model.check().await;
    model.reject(TOPIC, 0, &[at[1], at[1] + 1, at[2]]).await;
    model.check().await;
    // New numbers count a hole, and do not fill it.
    model.renumber(TOPIC, 0, vec![renumbered(at[0], 5, numbers(700))]).await;
    model.check().await;
    model.crash().await;
    model.commit(TOPIC, 0, at[0] + 4, true).await;
    model.reject(TOPIC, 0, &[at[0] + 4]).await;
    model.check().await;
    model.crash().await;
    model.reject(TOPIC, 0, &[at[2] + 1, at[2] + 2]).await;
    model.check().await;
    model.restart().await;
}

pub(super) async fn given_up(medium: &dyn Medium) {
    let mut model = started(medium).await;
    let batches = vec![model.batch(4, Some(numbers(10))), model.batch(3, None), model.batch(2, None)];
    let at = model.save(TOPIC, 0, batches).await;
    let others = vec![model.batch(3, None), model.batch(2, None)];
    let other = model.save(TOPIC, 1, others).await;
    // Within a batch; with new numbers and a hole in it; across a range that was given up before.
    model.give_up(TOPIC, 0, at[0] + 1..at[0] + 2).await;
    model.check().await;
    model
        .renumber(TOPIC, 0, vec![renumbered(at[0], 4, numbers(300)), renumbered(at[1], 3, numbers(400))])
        .await;
    model.reject(TOPIC, 0, &[at[1] + 1]).await;
    model.give_up(TOPIC, 0, at[1]..at[1] + 2).await;
    model.check().await;
    model.crash().await;
    model.give_up(TOPIC, 0, at[0] + 3..at[2] + 1).await;
    model.give_up(TOPIC, 1, other[1]..other[1] + 2).await;
    model.check().await;
    model.crash().await;
    // A hint is there already, and another comes later.
    model.commit(TOPIC, 0, at[0] + 1, false).await;
    model.give_up(TOPIC, 0, at[0]..at[0] + 3).await;
    model.commit(TOPIC, 0, at[2] + 1, false).await;
    model.check().await;
    model.crash().await;
    model.give_up(TOPIC, 0, 0..u64::MAX).await;
    model.give_up(TOPIC, 1, 0..u64::MAX).await;
    let batch = model.batch(2, None);
    model.save(TOPIC, 0, vec![batch]).await;
    model.check().await;
    model.crash().await;
    model.restart().await;
}

pub(super) async fn lane(medium: &dyn Medium) {
    let mut model = started(medium).await;
    let old = model.batch(2, Some(numbers(3)));
    model.save(TOPIC, 1, vec![old]).await;
    let batches = vec![model.batch(4, None), model.batch(4, None)];
    let at = model.save(TOPIC, UNASSIGNED, batches).await;
    let late = model.batch(1, None);
    model.save(TOPIC, 0, vec![late]).await;
    let (a, b, c) = (model.batch(2, None).batch, model.batch(3, None).batch, model.batch(1, None).batch);
    // Not at the end of a batch; partitions interleave.
    model.regroup(TOPIC, at[1] + 2, vec![(1, a), (2, b), (1, c)]).await;
    model.check().await;
    model.crash().await;
    model.regroup(TOPIC, at[1] + 4, Vec::new()).await;
    model.check().await;
    model.crash().await;
    model.restart().await;
}

pub(super) async fn at_once(medium: &dyn Medium) {
    let mut model = started(medium).await;
    for _ in 0..3 {
        let batches: Vec<_> = (0..8)
            .map(|p| (place(p), vec![model.batch(2, Some(numbers(p))), model.batch(1, None)]))
            .collect();
        let saving = batches.iter().map(|(place, batches)| async {
            let saved = model.storage().save_batch(place, batches.clone());
            // Of one partition, calls of different kinds come at once as well.
            let read = model.storage().read(place, 0, 1 << 20);
            let (saved, _, _) = tokio::join!(saved, read, model.storage().commit(place, 0, false));
            saved.unwrap_or_else(|error| panic!("it saves: {error}"))
        });
        let positions = join_all(saving).await;
        for ((place, batches), positions) in batches.iter().zip(positions) {
            model.saved(TOPIC, place.partition, batches, &positions);
        }
        model.check().await;
    }
    model.crash().await;
}

/// Half a save, a number or a hole that nobody was told of would come back after a crash.
pub(super) async fn errors(medium: &dyn Medium) {
    let mut model = started(medium).await;
    let batches = vec![model.batch(3, Some(numbers(0))), model.batch(3, None)];
    let at = model.save(TOPIC, 0, batches).await;
    let waiting = model.batch(3, None);
    let lane = model.save(TOPIC, UNASSIGNED, vec![waiting]).await;
    model.keep_partitions(TOPIC, 4).await;
    if !medium.fail_writes(true) {
        return;
    }
    let more = vec![model.batch(1, None), model.batch(2, Some(numbers(3)))];
    let regrouped = model.batch(3, None).batch;
    let new = vec![renumbered(at[0] + 1, 2, numbers(90))];
    let storage = model.storage();
    let lanes = vec![(0, regrouped.clone()), (1, regrouped)];
    assert!(storage.save_batch(&place(0), more).await.is_err(), "it cannot save now");
    assert!(storage.renumber(&place(0), new).await.is_err(), "it cannot renumber now");
    assert!(storage.reject(&place(0), vec![letter(Some(at[1]))]).await.is_err(), "it cannot reject now");
    let given_up = [(at[0], at[0] + 2), (at[0] + 1, at[1] + 1)];
    for (from, through) in given_up {
        assert!(storage.drop_events(&place(0), from, through).await.is_err(), "it cannot give up now");
    }
    assert!(storage.regroup(TOPIC, lane[0] + 2, lanes).await.is_err(), "it cannot regroup now");
    model.check().await;
    medium.fail_writes(false);
    model.check().await;
    model.crash().await;
    let batch = model.batch(2, None);
    model.save(TOPIC, 0, vec![batch]).await;
    model.check().await;
    model.crash().await;
}

/// SplitMix64: see `kafka_batcher_core`.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len() as u64) as usize).copied()
    }
}

/// Seeded, so that what it finds is found again.
pub(super) async fn any_row(medium: &dyn Medium) {
    let mut model = started(medium).await;
    model.open("trains").await;
    let mut random = Random(4);
    for step in 0..250 {
        let name = if random.below(4) == 0 { "trains" } else { TOPIC };
        let partition = random.below(3) as i32 - 1;
        let waiting = model.waiting(name, partition);
        let at = random.one_of(&waiting);
        match (random.below(18), at) {
            (0..=5, _) => {
                let mut batches = Vec::new();
                for _ in 0..=random.below(3) {
                    let sent = partition != UNASSIGNED && random.below(2) == 0;
                    batches.push(model.batch(1 + random.below(5), sent.then(|| numbers(step))));
                }
                model.save(name, partition, batches).await;
            }
            (6 | 7, Some(at)) => {
                let through = at + random.below(3);
                model.commit(name, partition, through, random.below(3) == 0).await;
            }
            (8 | 9, Some(at)) if partition != UNASSIGNED => {
                let most = model.end_of_batch(name, partition, at) - at;
                let count = 1 + random.below(most) as u32;
                model.renumber(name, partition, vec![renumbered(at, count, numbers(1000 + step))]).await;
            }
            (10 | 11, Some(at)) => model.reject(name, partition, &[at]).await,
            (12, _) => {
                let lane = model.waiting(name, UNASSIGNED);
                let through = random.one_of(&lane).map_or(0, |at| at + 1);
                let batches = vec![(0, model.batch(2, None).batch), (1, model.batch(1, None).batch)];
                model.regroup(name, through, batches).await;
            }
            (13, _) => model.keep_partitions(name, 1 + step).await,
            (14, _) => model.crash().await,
            (16 | 17, Some(at)) => {
                let from = if random.below(3) == 0 { waiting[0] } else { at };
                model.give_up(name, partition, from..at + 1 + random.below(9)).await;
            }
            (15, _) if random.below(2) == 0 => model.restart().await,
            _ => {}
        }
        if step % 5 == 0 {
            model.check().await;
        }
    }
    model.crash().await;
}

/// What is asked of a partition that nobody saved to is answered as of an empty one.
pub(super) async fn strangers(medium: &dyn Medium) {
    let model = started(medium).await;
    let place = TopicPartition::new(TOPIC, 17);
    let backlog = model.storage().backlog(&place).await.unwrap_or_else(|error| panic!("it counts: {error}"));
    assert_eq!((backlog.events, backlog.batches, backlog.bytes), (0, 0, 0));
    assert_eq!(model.storage().is_empty(&place).await, Ok(true));
    let read = model.storage().read(&place, 3, 100).await.unwrap_or_else(|error| panic!("it reads: {error}"));
    assert!(read.batches.is_empty() && read.damage.is_empty(), "{read:?}");
}
