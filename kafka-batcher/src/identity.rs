//! The producer id of this process, asked for once and shared by the outboxes of all topics.

use kafka_batcher_core::ProducerIdentity;
use tokio::sync::Mutex;

use crate::producer::Producer;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Identity {
    /// Held while the cluster is asked, so that a thousand partitions ask once.
    current: Mutex<Option<ProducerIdentity>>,
}

impl Identity {
    /// The identity, other than the one that is used up; asks the cluster where there is none.
    pub(crate) async fn get(
        &self,
        producer: &dyn Producer,
        other_than: Option<i64>,
    ) -> Result<ProducerIdentity, String> {
        let mut current = self.current.lock().await;
        if let Some(identity) = *current
            && Some(identity.id) != other_than
        {
            return Ok(identity);
        }
        let identity = producer.init_producer_id().await.map_err(|error| error.message)?;
        if identity.id < 0 {
            return Err("the cluster answered with producer id -1".to_owned());
        }
        *current = Some(identity);
        Ok(identity)
    }
}
