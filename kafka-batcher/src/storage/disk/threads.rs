//! The storage's threads: how they are started, and why one is not there any more. One that panicked says so with its words:
//! whoever waits for it, and whoever asks it later, is answered with them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use kafka_batcher_core::StorageError;
use tokio::sync::{oneshot, watch};

use crate::panics::message;

pub(super) fn closed() -> StorageError {
    StorageError::Failed("the storage is closed".to_owned())
}

pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StorageError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| StorageError::Failed(format!("cannot start a thread: {error}")))
}

/// Runs it; what it panicked with, as the error to be answered.
pub(super) fn contained<T>(name: &str, run: impl FnOnce() -> T) -> Result<T, StorageError> {
    // What it owned goes with it: nobody sees it half changed, but for the state of a topic, which is put right line by line.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let words = message(&*panic);
        tracing::error!(thread = name, panic = words, "a thread of the storage panicked");
        StorageError::Failed(format!(
            "the thread {name} of the storage panicked: {words}; this is a bug; what is on disk is safe, and another process \
             can go on from there"
        ))
    })
}

/// Why a thread has ended, once it has.
#[derive(Clone, Debug)]
pub(super) struct Ended(watch::Receiver<Option<StorageError>>);

/// Starts a thread that answers whoever asks it, until nobody can.
pub(super) fn serve(
    name: &'static str,
    run: impl FnOnce() + Send + 'static,
) -> Result<(JoinHandle<()>, Ended), StorageError> {
    let (tell, ended) = watch::channel(None);
    let handle = spawn(name, move || {
        let why = contained(name, run).err().unwrap_or_else(closed);
        tell.send_replace(Some(why));
    })?;
    Ok((handle, Ended(ended)))
}

impl Ended {
    /// The answer of a thread, or, if it ended without one, why.
    pub(super) async fn answer<T>(
        &self,
        answer: oneshot::Receiver<Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.why().await),
        }
    }

    /// Why it has ended, as it has, or is about to: it gives up what it was asked before it can say why.
    pub(super) async fn why(&self) -> StorageError {
        let mut ended = self.0.clone();
        let why = ended.wait_for(Option::is_some).await.map(|why| why.clone());
        why.ok().flatten().unwrap_or_else(closed)
    }
}
