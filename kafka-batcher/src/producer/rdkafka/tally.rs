//! What becomes of a batch whose events are reported one by one: no I/O, no clock.

use kafka_batcher_core::{ErrorCode, Persisted, ProduceResult, Refusal};

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Written; negative: nobody says where.
    Written(i64),
    /// The broker refused it, or librdkafka did in the broker's name.
    Refused(ErrorCode),
    /// Given up without an answer.
    Unsure(String),
    /// Librdkafka did not take it.
    NotTaken(String),
}

/// Counts the fates of a batch's events.
#[derive(Debug, Default)]
pub(super) struct Tally {
    told: u32,
    written: u32,
    not_taken: u32,
    refused: u32,
    /// The first refusal.
    code: Option<ErrorCode>,
    /// All refusals have the same code.
    one_code: bool,
    /// Where the batch begins, by its written events.
    base: Option<i64>,
    /// They lie one behind the other, in their order.
    in_a_row: bool,
    /// Why the first event that was given up was.
    words: Option<String>,
}

impl Tally {
    /// Event `index` of the batch has met its fate.
    pub(super) fn add(&mut self, index: u32, fate: Fate) {
        self.told += 1;
        match fate {
            Fate::Written(offset) => {
                let base = offset - i64::from(index);
                self.in_a_row =
                    offset >= 0 && (self.written == 0 || (self.in_a_row && self.base == Some(base)));
                self.base = Some(base);
                self.written += 1;
            }
            Fate::Refused(code) => {
                self.one_code = self.code.is_none_or(|first| self.one_code && first == code);
                self.code.get_or_insert(code);
                self.refused += 1;
            }
            Fate::Unsure(words) => {
                self.words.get_or_insert(words);
            }
            Fate::NotTaken(words) => {
                self.not_taken += 1;
                self.words.get_or_insert(words);
            }
        }
    }

    /// How many events have met theirs.
    pub(super) fn told(&self) -> u32 {
        self.told
    }

    /// What becomes of the batch: called once, when all of them have.
    pub(super) fn result(self) -> ProduceResult {
        let Tally { told, written, not_taken, refused, .. } = self;
        if written == told {
            return ProduceResult::Acked { base_offset: self.base.filter(|_| self.in_a_row) };
        }
        let words = self.words.unwrap_or_default();
        if not_taken == told {
            return ProduceResult::NotSent { message: words };
        }
        // Nothing of it was written, or nobody can say so of any of them: then the code speaks for all.
        if let Some(code) = self.code
            && refused + not_taken == told
            && (self.one_code || code.persisted() == Persisted::No)
        {
            return ProduceResult::Refused(Refusal::code(code));
        }
        let refusal = self.code.map(|code| format!("{} refused with {}", refused, Refusal::code(code)));
        let of = |n: u32, what: &str| (n > 0).then(|| format!("{n} {what}"));
        let unsure = told - written - refused - not_taken;
        let parts = [of(written, "written"), refusal, of(not_taken, "not sent"), of(unsure, "not answered")];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        let why = if words.is_empty() { words } else { format!(": {words}") };
        ProduceResult::Lost { message: format!("of {told} events {}{why}", parts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(fates: impl IntoIterator<Item = Fate>) -> ProduceResult {
        let mut tally = Tally::default();
        for (index, fate) in (0..).zip(fates) {
            tally.add(index, fate);
        }
        tally.result()
    }

    fn acked(base_offset: Option<i64>) -> ProduceResult {
        ProduceResult::Acked { base_offset }
    }

    #[test]
    fn a_batch_has_an_offset_if_its_events_lie_one_behind_the_other() {
        use Fate::Written;
        assert_eq!(result([Written(7), Written(8), Written(9)]), acked(Some(7)));
        assert_eq!(result([Written(0)]), acked(Some(0)));
        for apart in [[7, 8, 10], [7, 9, 8], [8, 7, 9], [7, 7, 7], [-1, -1, -1], [-1, 0, 1]] {
            assert_eq!(result(apart.map(Written)), acked(None), "{apart:?}");
        }
    }

    #[test]
    fn reports_may_come_in_any_order() {
        let mut tally = Tally::default();
        for (index, offset) in [(2, 9), (0, 7), (1, 8)] {
            tally.add(index, Fate::Written(offset));
        }
        assert_eq!((tally.told(), tally.result()), (3, acked(Some(7))));
    }

    #[test]
    fn a_refusal_that_is_all_events_is_the_batchs_also_where_the_rest_was_not_taken() {
        let refused = |code| ProduceResult::Refused(Refusal::code(code));
        let (large, moved) = (ErrorCode::MESSAGE_TOO_LARGE, ErrorCode::NOT_LEADER_OR_FOLLOWER);
        assert_eq!(result([Fate::Refused(large), Fate::Refused(large)]), refused(large));
        assert_eq!(result([Fate::Refused(moved), Fate::Refused(moved)]), refused(moved));
        assert_eq!(result([Fate::Refused(large), Fate::NotTaken("full".to_owned())]), refused(large));
    }

    #[test]
    fn what_is_written_in_part_or_perhaps_is_in_doubt() {
        let large = Fate::Refused(ErrorCode::MESSAGE_TOO_LARGE);
        let over = Fate::Unsure("timed out".to_owned());
        for (fates, words) in [
            (
                vec![Fate::Written(3), large.clone()],
                "of 2 events 1 written, 1 refused with MESSAGE_TOO_LARGE (10)",
            ),
            (vec![over.clone(), over.clone()], "of 2 events 2 not answered: timed out"),
            (vec![large, over], "1 refused with MESSAGE_TOO_LARGE (10), 1 not answered: timed out"),
            (vec![Fate::Written(3), Fate::NotTaken("full".to_owned())], "1 written, 1 not sent: full"),
            (
                // The first of them says that it may have been written.
                vec![
                    Fate::Refused(ErrorCode::REQUEST_TIMED_OUT),
                    Fate::Refused(ErrorCode::MESSAGE_TOO_LARGE),
                ],
                "2 refused with REQUEST_TIMED_OUT (7)",
            ),
        ] {
            let ProduceResult::Lost { message } = result(fates.clone()) else {
                panic!("{fates:?} is in doubt")
            };
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn what_was_not_taken_at_all_was_not_sent() {
        let full = || Fate::NotTaken("full".to_owned());
        assert_eq!(result([full(), full()]), ProduceResult::NotSent { message: "full".to_owned() });
    }
}
