//! What the cluster counted: atomics, so that counting costs no lock and a test may read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::api::Api;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: [AtomicU64; Api::ALL.len()],
    pub(crate) connections: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) faults: AtomicU64,
}

impl Counters {
    pub(crate) fn request(&self, api: Api) {
        if let Some(counter) = self.requests.get(api.index()) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn written(&self, records: u64, bytes: u64) {
        self.batches.fetch_add(1, Relaxed);
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            requests: Api::ALL
                .into_iter()
                .zip(&self.requests)
                .map(|(api, count)| (api, count.load(Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            connections: self.connections.load(Relaxed),
            batches: self.batches.load(Relaxed),
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            refused: self.refused.load(Relaxed),
            faults: self.faults.load(Relaxed),
        }
    }
}

/// What the whole cluster did since it started. Restarts of brokers do not reset it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    requests: Vec<(Api, u64)>,
    /// Connections accepted.
    pub connections: u64,
    /// Record batches written (in discard mode: acknowledged).
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the batches, headers included.
    pub bytes: u64,
    /// Batches recognised as written before, and not written again.
    pub duplicates: u64,
    /// Batches answered with an error that the broker itself found (not one that a fault ordered).
    pub refused: u64,
    /// Times that a fault took effect.
    pub faults: u64,
}

impl Stats {
    /// Requests of this kind that were read, those that a fault lost included.
    #[must_use]
    pub fn requests(&self, api: Api) -> u64 {
        self.requests.iter().find(|(known, _)| *known == api).map_or(0, |(_, count)| *count)
    }

    /// All kinds of request that came, with their numbers.
    #[must_use]
    pub fn all_requests(&self) -> &[(Api, u64)] {
        &self.requests
    }
}
