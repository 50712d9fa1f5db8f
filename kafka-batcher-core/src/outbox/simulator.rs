//! The simulator: outboxes against a model of a cluster, in virtual time, from a seed.
//!
//! Each seed draws a *plan* (how many partitions, which faults, how large, how old), runs a few seconds of virtual time
//! under these faults, heals everything, and expects that all is delivered soon. After every step the *ledger* of each
//! partition compares what the outbox says with what lies in the model's log (see `ledger.rs` for what is checked).
//!
//! - `KAFKA_BATCHER_SIM_SEEDS=n`: how many seeds (20 000 if not set);
//! - `KAFKA_BATCHER_SIM_SEED=n`: only this one, with its trace.
//!
//! A simulator that finds nothing proves nothing: every [`Mutation`] breaks one rule of the outbox on purpose, and must
//! be caught within 1 000 seeds.

mod ledger;
mod model;
mod plan;
mod runs;
mod store;
mod wave;
mod world;

use std::cell::Cell;

/// A rule that is broken on purpose. The places where that happens are compiled for tests only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// Up to five in flight although nothing of the run was acknowledged.
    PipelineBeforeEstablished,
    /// A batch whose answer was lost is sent again with new numbers.
    ResendWithNewNumbers,
    /// 45 on a younger batch is judged at once: not the next, so it must be there already.
    JudgeYoungerAtOnce,
    /// A refusal of a batch in doubt is taken as proof that it is not written.
    RefusalIsProof,
    /// What follows a hole goes on in the same run.
    HoleKeepsRun,
    /// A request without an answer counts as delivered.
    CommitBeforeAck,
    /// What is on disk is settled when it is sent, not when it is acknowledged.
    SettleWhenSent,
    /// New numbers are sent before the disk has them.
    SendBeforeRenumbered,
    /// A batch that comes in is sent although older ones are on disk.
    OvertakeTheSpool,
    /// What comes back from disk with numbers gets new ones without a question.
    RestampWhatIsRead,
    /// What may be in the log is dropped for its age, or to make room.
    DropWhatIsInDoubt,
    /// A proof may be made of the answers of two leaders, or of one before and after its restart.
    ProofAcrossLeaders,
}

impl Mutation {
    const ALL: [Mutation; 12] = [
        Mutation::SettleWhenSent,
        Mutation::SendBeforeRenumbered,
        Mutation::OvertakeTheSpool,
        Mutation::RestampWhatIsRead,
        Mutation::PipelineBeforeEstablished,
        Mutation::ResendWithNewNumbers,
        Mutation::JudgeYoungerAtOnce,
        Mutation::RefusalIsProof,
        Mutation::HoleKeepsRun,
        Mutation::CommitBeforeAck,
        Mutation::DropWhatIsInDoubt,
        Mutation::ProofAcrossLeaders,
    ];
}

thread_local! {
    /// Of this thread only: tests run beside each other.
    static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Whether this rule is broken now.
pub(super) fn planted(mutation: Mutation) -> bool {
    PLANTED.get() == Some(mutation)
}
