//! Counting what arrived against what was accepted: lost, duplicated, reordered, unexpected; per partition, exact.
//!
//! All four are zero exactly when the two lists are equal. Where they are not, equal values are told apart by their order
//! (the k-th appearance of a value is the k-th that was accepted), so make the values of a test unique if the figures
//! themselves matter.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Debug, Display};
use std::hash::Hash;

/// The result of a comparison. `Display` prints the totals, and for each unclean partition the figures and examples.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a tally says nothing until it is looked at"]
pub struct Tally {
    /// Accepted values that never arrived.
    pub lost: usize,
    /// Appearances beyond the first of each accepted value.
    pub duplicated: usize,
    /// First appearances that came after one which was accepted later.
    pub reordered: usize,
    /// Appearances of values that were never accepted for that partition.
    pub unexpected: usize,
    /// Accepted values that were looked for.
    pub expected: usize,
    discrepancies: Vec<Discrepancy>,
}

/// The figures of one partition that is not clean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discrepancy {
    /// The partition (or whatever the lists were keyed by), as `Debug` prints it.
    pub partition: String,
    /// See [`Tally::lost`].
    pub lost: usize,
    /// See [`Tally::duplicated`].
    pub duplicated: usize,
    /// See [`Tally::reordered`].
    pub reordered: usize,
    /// See [`Tally::unexpected`].
    pub unexpected: usize,
    /// The first few cases, in words.
    pub examples: Vec<String>,
}

const EXAMPLES: usize = 5;

impl Tally {
    /// Compares, per partition, what was accepted (in the order of acceptance) with what was read (in the order of offsets).
    pub fn compare<P, V>(expected: &BTreeMap<P, Vec<V>>, seen: &BTreeMap<P, Vec<V>>) -> Tally
    where
        P: Ord + Debug,
        V: Eq + Hash + Debug,
    {
        let mut tally = Tally {
            lost: 0,
            duplicated: 0,
            reordered: 0,
            unexpected: 0,
            expected: 0,
            discrepancies: Vec::new(),
        };
        let only_seen = seen.keys().filter(|p| !expected.contains_key(p));
        for partition in expected.keys().chain(only_seen) {
            let wanted = expected.get(partition).map_or(&[][..], Vec::as_slice);
            let got = seen.get(partition).map_or(&[][..], Vec::as_slice);
            let found = Discrepancy { partition: format!("{partition:?}"), ..one_partition(wanted, got) };
            tally.expected += wanted.len();
            tally.lost += found.lost;
            tally.duplicated += found.duplicated;
            tally.reordered += found.reordered;
            tally.unexpected += found.unexpected;
            if !found.examples.is_empty() {
                tally.discrepancies.push(found);
            }
        }
        tally
    }

    /// Nothing lost, duplicated, reordered or unexpected.
    pub fn is_clean(&self) -> bool {
        self.discrepancies.is_empty()
    }

    /// The partitions that are not clean.
    pub fn discrepancies(&self) -> &[Discrepancy] {
        &self.discrepancies
    }

    /// For tests: panics with the whole tally unless it is clean.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

/// The figures of one partition; an example for each kind of case, so none exactly when all are zero.
fn one_partition<V: Eq + Hash + Debug>(wanted: &[V], got: &[V]) -> Discrepancy {
    // For each value, where it was accepted, and how many of these places have been found.
    let mut places: HashMap<&V, (Vec<usize>, usize)> = HashMap::new();
    for (at, value) in wanted.iter().enumerate() {
        places.entry(value).or_default().0.push(at);
    }
    let mut d = Discrepancy::default();
    // Where the latest-accepted value seen so far was accepted.
    let mut latest: Option<usize> = None;
    for (offset, value) in got.iter().enumerate() {
        let Some((accepted, found)) = places.get_mut(value) else {
            d.unexpected += 1;
            d.note(d.unexpected, || format!("unexpected at {offset}: {}", short(value)));
            continue;
        };
        let Some(&at) = accepted.get(*found) else {
            d.duplicated += 1;
            d.note(d.duplicated, || format!("duplicated at {offset}: {}", short(value)));
            continue;
        };
        *found += 1;
        match latest {
            Some(before) if at < before => {
                d.reordered += 1;
                let case = || {
                    format!(
                        "reordered at {offset}: accepted as number {at}, after number {before}: {}",
                        short(value)
                    )
                };
                d.note(d.reordered, case);
            }
            _ => latest = Some(at),
        }
    }
    let mut lost: Vec<(usize, &V)> = Vec::new();
    for (value, (accepted, found)) in places {
        lost.extend(accepted.iter().skip(found).map(|at| (*at, value)));
    }
    lost.sort_by_key(|(at, _)| *at);
    d.lost = lost.len();
    for (n, (at, value)) in lost.iter().enumerate() {
        d.note(n + 1, || format!("lost: accepted as number {at}: {}", short(value)));
    }
    d
}

impl Discrepancy {
    /// Keeps the `nth` case of its kind as an example if it is one of the first few.
    fn note(&mut self, nth: usize, example: impl FnOnce() -> String) {
        if nth <= EXAMPLES {
            self.examples.push(example());
        }
    }
}

fn short(value: &impl Debug) -> String {
    let mut text = format!("{value:?}");
    if let Some((end, _)) = text.char_indices().nth(120) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} accepted: {} lost, {} duplicated, {} reordered, {} unexpected",
            self.expected, self.lost, self.duplicated, self.reordered, self.unexpected
        )?;
        for d in &self.discrepancies {
            write!(
                f,
                "\n  partition {}: {} lost, {} duplicated, {} reordered, {} unexpected",
                d.partition, d.lost, d.duplicated, d.reordered, d.unexpected
            )?;
            for example in &d.examples {
                write!(f, "\n    {example}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lists: &[(i32, &[u32])]) -> BTreeMap<i32, Vec<u32>> {
        lists.iter().map(|(p, l)| (*p, l.to_vec())).collect()
    }

    /// (lost, duplicated, reordered, unexpected)
    fn figures(expected: &[(i32, &[u32])], seen: &[(i32, &[u32])]) -> (usize, usize, usize, usize) {
        let t = Tally::compare(&map(expected), &map(seen));
        assert_eq!(t.is_clean(), (t.lost, t.duplicated, t.reordered, t.unexpected) == (0, 0, 0, 0));
        (t.lost, t.duplicated, t.reordered, t.unexpected)
    }

    #[test]
    fn equal_lists_are_clean() {
        assert_eq!(figures(&[(0, &[1, 2, 3]), (1, &[4])], &[(0, &[1, 2, 3]), (1, &[4])]), (0, 0, 0, 0));
        assert_eq!(
            figures(&[(0, &[1, 1, 2, 1])], &[(0, &[1, 1, 2, 1])]),
            (0, 0, 0, 0),
            "equal values are fine"
        );
        assert_eq!(figures(&[(0, &[])], &[]), (0, 0, 0, 0));
    }

    #[test]
    fn what_never_arrived_is_lost() {
        assert_eq!(figures(&[(0, &[1, 2, 3])], &[(0, &[1, 3])]), (1, 0, 0, 0));
        assert_eq!(figures(&[(0, &[1, 2, 3])], &[]), (3, 0, 0, 0), "a whole partition");
        assert_eq!(figures(&[(0, &[7, 7])], &[(0, &[7])]), (1, 0, 0, 0), "one of two equal ones");
    }

    #[test]
    fn what_arrived_twice_is_duplicated() {
        assert_eq!(figures(&[(0, &[1, 2, 3])], &[(0, &[1, 2, 1, 2, 3])]), (0, 2, 0, 0));
        assert_eq!(figures(&[(0, &[7, 7])], &[(0, &[7, 7, 7])]), (0, 1, 0, 0));
    }

    #[test]
    fn a_first_appearance_behind_a_later_accepted_one_is_reordered() {
        assert_eq!(figures(&[(0, &[1, 2, 3])], &[(0, &[2, 1, 3])]), (0, 0, 1, 0));
        assert_eq!(figures(&[(0, &[1, 2, 3])], &[(0, &[3, 1, 2])]), (0, 0, 2, 0));
        assert_eq!(figures(&[(0, &[1, 2])], &[(0, &[2, 1, 2])]), (0, 1, 1, 0), "the resend does not hide it");
    }

    #[test]
    fn what_was_never_accepted_there_is_unexpected() {
        assert_eq!(figures(&[(0, &[1])], &[(0, &[1, 9])]), (0, 0, 0, 1));
        assert_eq!(figures(&[(0, &[1])], &[(1, &[1])]), (1, 0, 0, 1), "the wrong partition");
    }

    #[test]
    fn the_message_names_partition_place_and_value() {
        let t = Tally::compare(&map(&[(4, &[10, 11, 12])]), &map(&[(4, &[11, 10])]));
        let text = t.to_string();
        assert!(text.starts_with("of 3 accepted: 1 lost, 0 duplicated, 1 reordered, 0 unexpected"), "{text}");
        assert!(text.contains("partition 4") && text.contains("lost: accepted as number 2: 12"), "{text}");
        assert!(text.contains("reordered at 1: accepted as number 0, after number 1: 10"), "{text}");
    }
}
