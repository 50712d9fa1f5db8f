//! What a seed is about: drawn once, so that faults come in all combinations and also alone.

use crate::outbox::{OnExpiredTimestamp, OnFull, SpoolMode};
use crate::rng::SplitMix64;

/// How often things happen: a probability in thousandths.
pub(super) type PerMille = u64;

/// The world of one seed.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) partitions: usize,
    pub(super) nodes: i32,
    /// Batches of each partition.
    pub(super) batches: u64,
    pub(super) max_events: u64,
    /// Milliseconds of virtual time under faults.
    pub(super) faults_for_ms: u64,
    /// Between two faults, at most.
    pub(super) fault_every_ms: u64,
    pub(super) idempotent: bool,
    pub(super) max_in_flight: u32,
    pub(super) first_sequence: i32,
    pub(super) first_epoch: i16,
    /// Age of the events.
    pub(super) age_ms: i64,
    /// DescribeProducers is not allowed, or not there.
    pub(super) unanswerable: bool,
    /// The broker names the records it refuses.
    pub(super) names_culprits: bool,
    /// Answers are told in another order than they came in.
    pub(super) shuffled_reports: bool,
    pub(super) close: bool,
    pub(super) abandon: bool,

    // Faults at a request.
    pub(super) refuse: PerMille,
    pub(super) break_connection: PerMille,
    pub(super) poison: PerMille,
    pub(super) stragglers: PerMille,
    pub(super) identity_fails: PerMille,
    /// The leader has enough requests of ours under way.
    pub(super) crowded: PerMille,
    // Kinds of faults in between.
    pub(super) breaks: bool,
    pub(super) restarts: bool,
    pub(super) amnesia: PerMille,
    pub(super) moves: bool,
    pub(super) size_limit: bool,
    pub(super) clock: bool,
    pub(super) recreates: bool,
    pub(super) takeovers: bool,
    pub(super) expiry: bool,

    // The spool.
    pub(super) spool: Option<SpoolMode>,
    pub(super) spool_after_ms: u64,
    /// A call of the storage takes so long at most.
    pub(super) storage_ms: u64,
    /// A call of the storage fails.
    pub(super) storage_fails: PerMille,
    /// A call of the storage is not answered for long, and the outbox is told.
    pub(super) storage_hangs: PerMille,
    /// Our process is killed, and started again.
    pub(super) crashes: bool,
    /// Hints are forgotten in a crash.
    pub(super) forgets_hints: bool,
    /// Events that the storage holds at most.
    pub(super) capacity: u64,
    pub(super) on_full: OnFull,
    pub(super) max_age_ms: Option<u64>,
    /// The storage keeps what it is given.
    pub(super) keeps: bool,
    /// Until all is healed, the topic keeps events for no time at all.
    pub(super) short_retention: bool,

    pub(super) delivery_timeout_ms: Option<u64>,
    pub(super) on_expired_timestamp: OnExpiredTimestamp,
}

impl Plan {
    pub(super) fn draw(rng: &mut SplitMix64) -> Plan {
        let mut one_in = |n: u64| rng.below(n) == 0;
        let idempotent = !one_in(8);
        let (unanswerable, names_culprits, shuffled_reports) = (one_in(2), !one_in(3), one_in(2));
        let (wrap, worn, close, abandon) = (one_in(4), one_in(10), one_in(3), one_in(8));
        let old = one_in(10);
        let very_old = old && one_in(2);
        let (breaks, restarts, moves) = (!one_in(3), !one_in(3), !one_in(3));
        let (size_limit, clock, recreates) = (one_in(2), one_in(6), one_in(12));
        let (takeovers, poisoned, refuses) = (one_in(16), one_in(3), !one_in(3));
        let (breaking, forgetting, straggling) = (one_in(2), one_in(2), one_in(3));
        let shy = one_in(3);
        Plan {
            partitions: 1 + rng.below(3) as usize,
            nodes: 1 + rng.below(3) as i32,
            batches: 4 + rng.below(30),
            max_events: 1 + rng.below(6),
            faults_for_ms: 500 + rng.below(6_000),
            fault_every_ms: 30 + rng.below(600),
            idempotent,
            max_in_flight: 1 + rng.below(6) as u32,
            first_sequence: if wrap { i32::MAX - rng.below(30) as i32 } else { 0 },
            first_epoch: if worn { i16::MAX - rng.below(3) as i16 } else { 0 },
            age_ms: match (old, very_old) {
                (_, true) => 25 * 3_600_000,
                (true, _) => 2 * 3_600_000,
                _ => 0,
            },
            unanswerable,
            names_culprits,
            shuffled_reports,
            close,
            abandon,
            refuse: if refuses { rng.below(200) } else { 0 },
            break_connection: if breaking { rng.below(150) } else { 0 },
            poison: if poisoned { 10 + rng.below(80) } else { 0 },
            stragglers: if straggling { rng.below(500) } else { 0 },
            identity_fails: if shy { 300 } else { 0 },
            crowded: 0,
            breaks,
            restarts,
            amnesia: if forgetting { 800 } else { 0 },
            moves,
            size_limit,
            clock,
            recreates,
            takeovers,
            expiry: very_old,
            spool: match rng.below(4) {
                0 => Some(SpoolMode::Always),
                1 => Some(SpoolMode::OnFailure),
                _ => None,
            },
            spool_after_ms: if rng.below(2) == 0 { rng.below(50) } else { rng.below(1_000) },
            storage_ms: 1 + rng.below(20),
            storage_fails: if rng.below(3) == 0 { 20 + rng.below(300) } else { 0 },
            storage_hangs: 0,
            crashes: rng.below(3) > 0,
            forgets_hints: rng.below(2) == 0,
            capacity: if rng.below(4) == 0 { 5 + rng.below(60) } else { u64::MAX },
            on_full: if rng.below(2) == 0 { OnFull::DropOldest } else { OnFull::Backpressure },
            max_age_ms: (rng.below(8) == 0).then(|| 50 + rng.below(2_000)),
            keeps: true,
            short_retention: rng.below(16) == 0,
            delivery_timeout_ms: (rng.below(6) == 0).then(|| 50 + rng.below(2_000)),
            on_expired_timestamp: match rng.below(3) {
                0 => OnExpiredTimestamp::Hold,
                1 => OnExpiredTimestamp::RestampTime,
                _ => OnExpiredTimestamp::DeadLetter,
            },
        }
    }

    /// What was thought of later, from dice of its own: the worlds that are without it stay as they were.
    pub(super) fn draw_more(self, rng: &mut SplitMix64) -> Plan {
        let plan = if rng.below(5) == 0 { self.where_leaders_forget() } else { self };
        Plan {
            crowded: if rng.below(3) == 0 { 1 + rng.below(500) } else { 0 },
            storage_hangs: if rng.below(3) == 0 { 1 + rng.below(150) } else { 0 },
            // (With write-ahead everything would be lost.)
            keeps: plan.spool != Some(SpoolMode::OnFailure) || rng.below(6) > 0,
            ..plan
        }
    }

    /// Leaders move and forget between a question and what is done about it: of all that can go wrong the rarest, and the
    /// hardest to see.
    fn where_leaders_forget(self) -> Plan {
        Plan {
            nodes: self.nodes.max(2),
            idempotent: true,
            unanswerable: false,
            stragglers: 0,
            amnesia: 800,
            break_connection: self.break_connection.max(50),
            breaks: true,
            moves: true,
            ..self
        }
    }
}
