//! Outcomes that are futures, one for each event: how many may be open, and looking at them.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::ledger::{Ledger, Stamp};

/// The open outcomes of one lane. Each future answers with its event's stamp, or why the event failed.
pub(super) struct Pending<F> {
    open: FuturesUnordered<F>,
    window: usize,
    ledger: Arc<Ledger>,
}

impl<F, E> Pending<F>
where
    F: Future<Output = Result<Stamp, E>> + Send,
    E: ToString,
{
    pub(super) fn new(window: usize, ledger: Arc<Ledger>) -> Self {
        Pending { open: FuturesUnordered::new(), window: window.max(1), ledger }
    }

    /// Adds one, polls it, and looks at those that are known; waits while too many are open.
    pub(super) async fn push(&mut self, outcome: F) {
        self.open.push(outcome);
        while let Some(Some(outcome)) = self.open.next().now_or_never() {
            note(&self.ledger, outcome);
        }
        while self.open.len() >= self.window {
            self.next().await;
        }
    }

    /// The next outcome that becomes known; with none open it never answers.
    async fn next(&mut self) {
        match self.open.next().await {
            Some(outcome) => note(&self.ledger, outcome),
            None => pending().await,
        }
    }

    pub(super) async fn watch(&mut self) -> anyhow::Result<Infallible> {
        loop {
            self.next().await;
        }
    }

    /// Until none is open.
    pub(super) async fn drain(&mut self) {
        while !self.open.is_empty() {
            self.next().await;
        }
    }
}

fn note<E: ToString>(ledger: &Ledger, outcome: Result<Stamp, E>) {
    match outcome {
        Ok(stamp) => ledger.acknowledged(stamp),
        Err(error) => ledger.failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn known_outcomes_are_noted_at_once_and_no_more_are_open_than_may_be() {
        let ledger = Arc::new(Ledger::new(false));
        let mut pending = Pending::new(2, ledger.clone());
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let late = async { told.await.map(|()| Stamp(0)).map_err(|error| error.to_string()) }.boxed();
        pending.push(late).await;
        pending.push(async { Ok(Stamp(0)) }.boxed()).await;
        assert_eq!(ledger.total(), 1);
        assert!(pending.push(std::future::pending().boxed()).now_or_never().is_none());
        tell.send(()).unwrap();
        pending.next().await;
        assert_eq!(ledger.total(), 2);
        pending.push(async { Err("no leader".to_owned()) }.boxed()).await;
        assert_eq!(ledger.failures(), (1, Some("no leader".to_owned())));
    }
}
