//! Faults at every point of the exchange with an embedded broker, and what became of the events.
//!
//! Each fault is put at the first, second, ... request of its kind until no request is left for it to hit, and every time all events are
//! compared with the log: lost, duplicated, reordered (per partition, exact), against the report and every single receipt.
//! `detectors.rs` plants loss, duplicates and disorder, and shows that the same comparison sees them.
//!
//! No test here waits for a clock: what is waited for are receipts, and faults that hit.

mod brokers;
mod codes;
mod detectors;
mod exchange;
mod identity;
mod network;
mod sizes;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod topics;
