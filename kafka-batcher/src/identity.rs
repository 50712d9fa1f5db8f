//! The producer id of this process, asked for once and shared by the outboxes of all topics.

use std::sync::atomic::{AtomicU64, Ordering};

use kafka_batcher_core::ProducerIdentity;
use tokio::sync::Mutex;

use crate::producer::Producer;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Identity {
    /// How often the cluster was asked.
    asked: AtomicU64,
    /// Held while the cluster is asked, so that a thousand partitions ask once.
    last: Mutex<Option<Result<ProducerIdentity, String>>>,
}

impl Identity {
    /// The identity, other than the one that is used up; asks the cluster where there is none. Who waited while the
    /// cluster was asked for another takes that answer, good or bad.
    pub(crate) async fn get(
        &self,
        producer: &dyn Producer,
        other_than: Option<i64>,
    ) -> Result<ProducerIdentity, String> {
        let before = self.asked.load(Ordering::Relaxed);
        let mut last = self.last.lock().await;
        match &*last {
            Some(Ok(identity)) if Some(identity.id) != other_than => return Ok(*identity),
            Some(Err(error)) if self.asked.load(Ordering::Relaxed) != before => return Err(error.clone()),
            _ => {}
        }
        let answer = match producer.init_producer_id().await {
            Ok(identity) if identity.id < 0 => Err("the cluster answered with producer id -1".to_owned()),
            Ok(identity) => Ok(identity),
            Err(error) => Err(error.message),
        };
        self.asked.fetch_add(1, Ordering::Relaxed);
        last.insert(answer).clone()
    }
}
