//! `Receipt`: how a caller learns what became of one event.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;

use kafka_batcher_core::{Completion, Durable, Outcome};

use crate::error::ReceiptError;

/// The claim on the outcome of one event; what [`Collector::send`](crate::Collector::send) answers.
///
/// It is one reference to the batch's completion and an index: dropping it costs nothing and changes nothing about the
/// delivery.
#[must_use = "an event's outcome is told only to who asks; `add_event` is for those who do not"]
#[derive(Clone)]
pub struct Receipt {
    completion: Arc<Completion>,
    index: u32,
    acknowledged: bool,
}

/// Where an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The partition.
    pub partition: i32,
    /// The offset. `None`: written, but its place is not known (acks = 0, or proven by a later batch).
    pub offset: Option<i64>,
}

impl Receipt {
    pub(crate) fn new(completion: Arc<Completion>, index: u32, acknowledged: bool) -> Self {
        Receipt { completion, index, acknowledged }
    }

    /// Resolves when the event is in the log, with its partition and offset.
    ///
    /// With `required_acks = 0` that means written to the socket, and there is no offset. Cancel-safe: may be dropped
    /// and asked again, any number of times, by several tasks.
    ///
    /// # Errors
    /// [`ReceiptError::Failed`] when the event is final and not delivered, or in doubt; or when the batcher was shut down while the
    /// event was safe in the spool ([`FailureReason::Spooled`](crate::FailureReason::Spooled)): the next process that opens it delivers
    /// that one, so do not add it again.
    pub fn delivered(&self) -> impl Future<Output = Result<Delivery, ReceiptError>> + Send + '_ {
        poll_fn(|cx| self.completion.poll(self.index, cx).map(answer))
    }

    /// Resolves when the event survives a crash of this process: it is in the spool, or Kafka acknowledged it. Without
    /// a spool that is the acknowledgement; in mode `always` the event is in the spool before it is first sent.
    ///
    /// Cancel-safe, as [`Receipt::delivered`].
    ///
    /// # Errors
    /// [`ReceiptError::Failed`] when the event is final, not delivered (or in doubt), and never was in the spool;
    /// [`ReceiptError::NotAcknowledged`] with `required_acks = 0`, unless it was in the spool.
    pub async fn durable(&self) -> Result<(), ReceiptError> {
        let durable = poll_fn(|cx| self.completion.poll_durable(self.index, cx)).await;
        is_durable(durable, self.acknowledged)
    }

    /// Whether the event is durable, as far as is known now, without waiting.
    pub fn try_durable(&self) -> Option<Result<(), ReceiptError>> {
        self.completion.durable(self.index).map(|durable| is_durable(durable, self.acknowledged))
    }

    /// Names the batch that the event was accepted into: equal for two receipts exactly when they share one, as long as
    /// both are held. Events of a batch are settled together, unless it had to be split, so that waiting for one of
    /// them is enough to know when to look at all.
    pub fn batch_key(&self) -> usize {
        Arc::as_ptr(&self.completion).addr()
    }

    /// What is known now, without waiting.
    pub fn try_delivered(&self) -> Option<Result<Delivery, ReceiptError>> {
        self.completion.get(self.index).map(answer)
    }
}

/// Written to a socket that nobody answers is not durable.
fn is_durable(durable: Durable, acknowledged: bool) -> Result<(), ReceiptError> {
    match durable {
        Durable::OnDisk => Ok(()),
        Durable::Settled(outcome) => match answer(outcome) {
            Ok(_) if acknowledged => Ok(()),
            Ok(_) => Err(ReceiptError::NotAcknowledged),
            Err(error) => Err(error),
        },
    }
}

fn answer(outcome: Outcome) -> Result<Delivery, ReceiptError> {
    match outcome {
        Outcome::Delivered { partition, offset } => Ok(Delivery { partition, offset }),
        Outcome::Failed(error) => Err(ReceiptError::Failed((*error).clone())),
        // The enum may grow; what it cannot say here is not a delivery.
        _ => Err(ReceiptError::NotAcknowledged),
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("known", &self.try_delivered()).finish_non_exhaustive()
    }
}
