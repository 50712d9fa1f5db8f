//! The seeds that are run, the mutations that are caught, and the seeds that once failed.

use std::sync::Mutex;

use super::Mutation;
use super::world::{self, Sum};

/// How many seeds, unless the environment says otherwise.
const SEEDS: u64 = 20_000;
/// A mutation must be caught within so many.
const CAUGHT_WITHIN: u64 = 1_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value:?}")))
}

/// Fails with the trace of `seed`, and says how to see it again.
fn fail(seed: u64, mutation: Option<Mutation>) {
    if let Err(violation) = world::run(seed, mutation, true) {
        println!("{}", violation.trace.join("\n"));
        panic!("seed {seed}: {}; again with KAFKA_BATCHER_SIM_SEED={seed}", violation.what);
    }
}

/// Names the seed under which something panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {} panicked; again with KAFKA_BATCHER_SIM_SEED={}", self.0, self.0);
        }
    }
}

/// The first seed that breaks a rule, and how much was simulated until then.
fn first_failure(seeds: std::ops::Range<u64>, mutation: Option<Mutation>) -> (Option<u64>, Sum) {
    let mut all = Sum::default();
    for seed in seeds {
        let _named = Named(seed);
        match world::run(seed, mutation, false) {
            Err(_) => return (Some(seed), all),
            Ok(sum) => {
                all.delivered += sum.delivered;
                all.lost += sum.lost;
                all.in_doubt += sum.in_doubt;
                all.duplicates += sum.duplicates;
                all.proven += sum.proven;
                all.steps += sum.steps;
            }
        }
    }
    (None, all)
}

#[test]
fn every_seed_keeps_every_rule() {
    if let Some(seed) = from_environment("KAFKA_BATCHER_SIM_SEED") {
        return fail(seed, None);
    }
    let seeds = from_environment("KAFKA_BATCHER_SIM_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let range = seeds * thread / threads..seeds * (thread + 1) / threads;
            let failed = &failed;
            scope.spawn(move || {
                let (failure, sum) = first_failure(range, None);
                println!("{sum:?}");
                failed.lock().expect("nobody panics here").extend(failure);
            });
        }
    });
    if let Some(seed) = failed.into_inner().expect("nobody panicked").into_iter().min() {
        fail(seed, None);
        panic!("seed {seed} failed, and did not fail again: the simulator is not deterministic");
    }
}

/// Beyond the 20 000, and each a mistake when it was found: an event put aside twice (780868); a younger batch taken for a proof
/// although the broker had forgotten the id (829644).
#[test]
fn seeds_that_once_failed_keep_every_rule() {
    [780_868, 829_644].into_iter().for_each(|seed| fail(seed, None));
}

#[test]
fn every_planted_mutation_is_caught() {
    for mutation in Mutation::ALL {
        let (caught, _) = first_failure(0..CAUGHT_WITHIN, Some(mutation));
        let seed =
            caught.unwrap_or_else(|| panic!("{mutation:?} was not caught within {CAUGHT_WITHIN} seeds"));
        let what = world::run(seed, Some(mutation), false).err().map(|violation| violation.what);
        println!("{mutation:?}: caught by seed {seed}: {}", what.unwrap_or_default());
    }
}
