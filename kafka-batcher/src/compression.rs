//! `CompressionPool`: where sealed batches are compressed, off every lock and every task of ours.
//!
//! The dispatcher gives a batch away as a [`Job`], and can take it back at any moment, compressed or not: at the end, nothing that
//! could be saved waits for a codec. As many run at once as there are cores, first come first served over all topics; a topic
//! asks for no more than that, so that one with a long queue leaves room for others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kafka_batcher_core::{BufferPool, Compression, Compressor, DecodeError, Fitted, RecordBatch, Share};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Bounded parallelism, and codecs' contexts that are used again.
pub(crate) struct CompressionPool {
    permits: Arc<Semaphore>,
    size: usize,
    /// At most as many as there are permits.
    idle: Mutex<Vec<Compressor>>,
    /// Batches that are being compressed at this moment, and those that were.
    working: AtomicUsize,
    done: AtomicU64,
    #[cfg(test)]
    asked: AtomicU64,
}

/// A batch that is being compressed.
pub(crate) struct Job {
    how: How,
    state: Mutex<State>,
}

enum State {
    /// No codec has begun with it.
    Waiting(RecordBatch),
    Working(RecordBatch),
    /// As it came out, in parts if it was too large; and whether the codec has said how small it becomes.
    Done(Vec<RecordBatch>, bool),
    /// It was taken back.
    Taken,
}

/// How a topic's batches are compressed.
#[derive(Clone)]
pub(crate) struct How {
    pub(crate) compression: Compression,
    /// The most that a batch may take on the wire, in bytes.
    pub(crate) limit: usize,
    /// Gives memory for the parts of one that takes more.
    pub(crate) memory: BufferPool,
}

impl How {
    /// A batch that goes uncompressed: it may be filled far beyond the limit, and neither a broker nor who reads a spool expects
    /// such a one.
    pub(crate) fn plain(&self, batch: RecordBatch) -> Vec<RecordBatch> {
        let share = Share::new(usize::MAX);
        batch.cut_to(self.limit, &mut |size| self.memory.acquire_reserve(&share, size)).unwrap_or_else(
            |error| {
                tracing::error!(%error, "a batch of ours cannot be read; it is sent as it is");
                vec![batch]
            },
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CompressionPool {
    /// One for each core.
    pub(crate) fn new() -> Self {
        let size = std::thread::available_parallelism().map_or(1, usize::from);
        CompressionPool {
            permits: Arc::new(Semaphore::new(size)),
            size,
            idle: Mutex::default(),
            working: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            #[cfg(test)]
            asked: AtomicU64::new(0),
        }
    }

    /// Nothing is compressed while somebody has this.
    #[cfg(test)]
    pub(crate) async fn hold(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = u32::try_from(self.size).unwrap_or(u32::MAX);
        self.permits.clone().acquire_many_owned(all).await.expect("it is never closed")
    }

    /// How many batches it was ever asked for.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// How many batches are compressed at once.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// A batch is being compressed, of whichever topic.
    pub(crate) fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }

    /// How many batches it is done with.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Compresses the job's batch, unless it is taken back before. It stays as it is if there is no runtime any more.
    pub(crate) async fn run(self: Arc<Self>, job: Arc<Job>) {
        #[cfg(test)]
        self.asked.fetch_add(1, Ordering::Relaxed);
        // It is never closed.
        let Ok(permit) = self.permits.clone().acquire_owned().await else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let pool = self;
        let work = runtime.spawn_blocking(move || {
            let mut compressor = lock(&pool.idle).pop().unwrap_or_default();
            pool.working.fetch_add(1, Ordering::Relaxed);
            job.work(&mut compressor, Compressor::fit);
            pool.done.fetch_add(1, Ordering::Relaxed);
            pool.working.fetch_sub(1, Ordering::Relaxed);
            compressor.rest();
            lock(&pool.idle).push(compressor);
            drop(permit);
        });
        // A runtime that ends runs it no more.
        let _ = work.await;
    }
}

/// [`Compressor::fit`], but for tests.
type Fit = fn(
    &mut Compressor,
    &RecordBatch,
    Compression,
    usize,
    &mut dyn FnMut(usize) -> kafka_batcher_core::Chunk,
) -> Result<Fitted, DecodeError>;

impl Job {
    pub(crate) fn new(batch: RecordBatch, how: How) -> Arc<Self> {
        Arc::new(Job { how, state: Mutex::new(State::Waiting(batch)) })
    }

    /// The batch, as far as it has come, several if it was too large; and whether a codec has said how small it becomes.
    pub(crate) fn take(&self) -> (Vec<RecordBatch>, bool) {
        let state = std::mem::replace(&mut *lock(&self.state), State::Taken);
        match state {
            State::Waiting(batch) | State::Working(batch) => (self.how.plain(batch), false),
            State::Done(batches, compressed) => (batches, compressed),
            State::Taken => (Vec::new(), false),
        }
    }

    fn work(&self, compressor: &mut Compressor, fit: Fit) {
        let how = &self.how;
        let plain = {
            let mut state = lock(&self.state);
            let State::Waiting(batch) = &*state else { return };
            let batch = batch.clone();
            *state = State::Working(batch.clone());
            batch
        };
        let share = Share::new(usize::MAX);
        let mut chunk = |size| how.memory.acquire_reserve(&share, size);
        let fitted = catch_unwind(AssertUnwindSafe(|| {
            fit(compressor, &plain, how.compression, how.limit, &mut chunk)
        }));
        // Before it is written over nobody else may hold it.
        drop(plain);
        let mut state = lock(&self.state);
        let State::Working(mut batch) = std::mem::replace(&mut *state, State::Taken) else { return };
        *state = match fitted {
            Ok(Ok(Fitted::Plain)) => State::Done(vec![batch], true),
            Ok(Ok(Fitted::Smaller)) => {
                let smaller = compressor.put_into(&mut batch);
                State::Done(if smaller { vec![batch] } else { how.plain(batch) }, smaller)
            }
            Ok(Ok(Fitted::Parts(parts))) => State::Done(parts, true),
            Ok(Err(error)) => {
                tracing::error!(%error, "a batch of ours cannot be read; it is sent as it is");
                State::Done(vec![batch], false)
            }
            Err(panic) => {
                // Its contexts may be in any state.
                *compressor = Compressor::new();
                let said = crate::panics::message(panic.as_ref());
                let codec = how.compression.codec();
                tracing::error!(%codec, said, "compressing a batch panicked; it is sent uncompressed");
                State::Done(how.plain(batch), false)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use kafka_batcher_core::{Accumulator, AccumulatorSettings, Codec, FlushReason, Offer, Record, Time};

    use super::*;

    fn how() -> How {
        let compression = Compression::new(Codec::Zstd, None).unwrap();
        How { compression, limit: 1_000_000, memory: BufferPool::new(1 << 20) }
    }

    fn batch() -> RecordBatch {
        let mut accumulator = Accumulator::new(AccumulatorSettings::default(), 0);
        let mut spare = Some(kafka_batcher_core::Chunk::unpooled(64 << 10));
        for _ in 0..100 {
            let record = Record::from("the same words again and again");
            let offer =
                Offer { lane: 0, record: &record, timestamp: 1, flush_after: false, want_receipt: false };
            let _ = accumulator.push(offer, &mut spare, || Time::ZERO).unwrap();
        }
        accumulator.seal(FlushReason::Flush, Time::ZERO);
        accumulator.poll_sealed().unwrap().batch
    }

    #[test]
    fn a_codec_that_panics_costs_the_batch_its_compression_and_nobody_else_anything() {
        let (job, mut compressor) = (Job::new(batch(), how()), Compressor::new());
        job.work(&mut compressor, |_, _, _, _, _| panic!("planted"));
        let (taken, compressed) = job.take();
        assert_eq!(taken.iter().map(|b| (b.codec(), b.count())).collect::<Vec<_>>(), [(Codec::None, 100)]);
        assert!(!compressed, "nothing is learned of it");
        let next = Job::new(batch(), how());
        next.work(&mut compressor, Compressor::fit);
        let (taken, compressed) = next.take();
        assert_eq!((taken[0].codec(), compressed), (Codec::Zstd, true));
    }

    #[test]
    fn what_goes_uncompressed_is_within_the_limit_all_the_same() {
        let small = How { limit: 1_000, ..how() };
        let panicked = Job::new(batch(), small.clone());
        panicked.work(&mut Compressor::new(), |_, _, _, _, _| panic!("planted"));
        for job in [panicked, Job::new(batch(), small)] {
            let (taken, compressed) = job.take();
            assert!(!compressed && taken.iter().all(|part| part.encoded_len() <= 1_000));
            let all: Vec<_> = taken.iter().flat_map(|part| part.records().unwrap()).collect();
            assert_eq!(all, batch().records().unwrap());
        }
    }

    #[tokio::test]
    async fn what_was_taken_back_is_plain_and_stays_so() {
        let (job, pool) = (Job::new(batch(), how()), Arc::new(CompressionPool::new()));
        let (taken, _) = job.take();
        pool.clone().run(job.clone()).await;
        assert_eq!((taken[0].codec(), taken[0].records().unwrap().len()), (Codec::None, 100));
        assert!(job.take().0.is_empty());
        // And one that is not comes out compressed, of contexts that are kept.
        let other = Job::new(batch(), how());
        pool.clone().run(other.clone()).await;
        assert_eq!((other.take().0[0].codec(), lock(&pool.idle).len()), (Codec::Zstd, 1));
    }

    #[test]
    fn without_a_runtime_a_batch_stays_as_it_is() {
        let (job, pool) = (Job::new(batch(), how()), Arc::new(CompressionPool::new()));
        let run = Box::pin(pool.run(job.clone()));
        assert!(futures_util::FutureExt::now_or_never(run).is_some());
        let (taken, compressed) = job.take();
        assert_eq!((taken[0].codec(), compressed), (Codec::None, false));
    }
}
