//! The memory bound, in bytes: where every event's bytes live, and what makes a producer wait.
//!
//! All accepted events lie in [`Chunk`]s taken from one [`BufferPool`]; a chunk's bytes count as used from the
//! moment it is handed out until it is dropped, so the bound holds whatever the chunk is doing: filling, queued, in
//! flight. Rules:
//!
//! - reserved all or nothing, first come first served: who waits is never overtaken by who comes later, except by
//!   those of another [`Share`] when it waits only because its own share is at its cap;
//! - a share (one for each partition) may hold at most its cap, so one stuck partition cannot starve the rest;
//! - nobody waits inside a lock: [`BufferPool::try_acquire`] answers at once, [`BufferPool::acquire`] is a future;
//! - buffers are recycled by size class, and used plus recycled never exceed the bound.
//!
//! There is no clock and no runtime here: waiting is by [`std::task::Waker`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The smallest chunk, in bytes: what an idle partition costs once an event arrives.
pub const MIN_CHUNK: usize = 2 * 1024;
/// The largest chunk that is recycled, in bytes. Larger ones exist only for single events that need them.
pub const MAX_CHUNK: usize = 64 * 1024;
/// 2, 4, 8, 16, 32, 64 KiB.
const CLASSES: usize = 6;

/// One bound on memory, shared by every partition of a batcher. Cheap to clone.
#[derive(Clone)]
pub struct BufferPool {
    inner: Arc<Inner>,
}

struct Inner {
    limit: usize,
    /// Mirrors `State::used` for readers that must not take the lock (metrics, the Sticky partitioner).
    used: AtomicUsize,
    waiting: AtomicUsize,
    /// How often somebody who does not wait was turned away, counted once between two chunks that came back.
    shortages: AtomicU64,
    announced: AtomicBool,
    state: Mutex<State>,
    /// Called, outside the lock, when somebody begins to wait: the cue to seal half-full batches.
    on_exhausted: Box<dyn Fn() + Send + Sync>,
}

struct State {
    used: usize,
    recycled: [Vec<Box<[u8]>>; CLASSES],
    recycled_bytes: usize,
    waiters: VecDeque<Waiter>,
    granted: BTreeMap<u64, Chunk>,
    next_id: u64,
}

struct Waiter {
    id: u64,
    size: usize,
    share: Arc<ShareInner>,
    waker: Waker,
}

/// What one partition holds of the pool, and the most it may hold. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Share {
    inner: Arc<ShareInner>,
}

#[derive(Debug)]
struct ShareInner {
    cap: usize,
    /// Written only under the pool's lock.
    held: AtomicUsize,
}

impl Share {
    /// A share that may hold `cap` bytes.
    pub fn new(cap: usize) -> Self {
        Self { inner: Arc::new(ShareInner { cap, held: AtomicUsize::new(0) }) }
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.inner.held.load(Ordering::Relaxed)
    }

    /// The most bytes this share may hold.
    pub fn cap(&self) -> usize {
        self.inner.cap
    }
}

/// A buffer out of the pool; goes back to it when dropped.
pub struct Chunk {
    bytes: Box<[u8]>,
    len: usize,
    /// `None`: outside the bound (tests, and the reserve for splitting).
    home: Option<(Arc<Inner>, Arc<ShareInner>)>,
}

impl Chunk {
    /// A chunk outside of any pool, for tests and for the bounded reserve that splitting and regrouping work in.
    pub fn unpooled(capacity: usize) -> Self {
        Chunk { bytes: vec![0; capacity].into_boxed_slice(), len: 0, home: None }
    }

    /// The bytes written so far.
    pub fn written(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// How many bytes fit in all.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// How many more bytes fit.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// Forgets what was written.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// The next `n` bytes if they end at `end` at the latest and within the chunk; otherwise claims nothing.
    #[inline]
    pub(crate) fn claim_before(&mut self, n: usize, end: usize) -> Option<&mut [u8]> {
        let start = self.len;
        let stop = start + n;
        if stop > end {
            return None;
        }
        let out = self.bytes.get_mut(start..stop)?;
        self.len = stop;
        Some(out)
    }

    /// The next `n` bytes, to be filled by the caller, who has checked [`Chunk::remaining`]; shorter if less is left.
    #[inline]
    pub(crate) fn claim(&mut self, n: usize) -> &mut [u8] {
        let start = self.len;
        let end = (start + n).min(self.bytes.len());
        self.len = end;
        self.bytes.get_mut(start..end).unwrap_or_default()
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the bytes: they are the user's payload.
        f.debug_struct("Chunk").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some((pool, share)) = self.home.take() {
            pool.give_back(std::mem::take(&mut self.bytes), &share);
        }
    }
}

impl BufferPool {
    /// A pool of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self::with_hook(limit, || {})
    }

    /// A pool of at most `limit` bytes that calls `on_exhausted` (from the waiting caller's thread, outside any lock
    /// of the pool) whenever somebody begins to wait for memory.
    pub fn with_hook(limit: usize, on_exhausted: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                limit,
                used: AtomicUsize::new(0),
                waiting: AtomicUsize::new(0),
                shortages: AtomicU64::new(0),
                announced: AtomicBool::new(false),
                state: Mutex::new(State {
                    used: 0,
                    recycled: Default::default(),
                    recycled_bytes: 0,
                    waiters: VecDeque::new(),
                    granted: BTreeMap::new(),
                    next_id: 0,
                }),
                on_exhausted: Box::new(on_exhausted),
            }),
        }
    }

    /// The bound, in bytes.
    pub fn limit(&self) -> usize {
        self.inner.limit
    }

    /// Bytes handed out now.
    pub fn used(&self) -> usize {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// How many callers wait for memory now.
    pub fn waiting(&self) -> usize {
        self.inner.waiting.load(Ordering::Relaxed)
    }

    /// Tells that somebody who does not wait was turned away for want of memory: the same cue as when somebody waits.
    pub fn turned_away(&self) {
        if !self.inner.announced.swap(true, Ordering::Relaxed) {
            self.inner.shortages.fetch_add(1, Ordering::Relaxed);
            (self.inner.on_exhausted)();
        }
    }

    /// Grows when somebody was turned away.
    pub fn shortages(&self) -> u64 {
        self.inner.shortages.load(Ordering::Relaxed)
    }

    /// The capacity that a request for `size` bytes is charged: the next size class, or `size` itself above
    /// [`MAX_CHUNK`].
    pub fn charge_for(size: usize) -> usize {
        class_of(size).map_or(size, |class| MIN_CHUNK << class)
    }

    /// A chunk of at least `size` bytes, or `None` if the bound, the share's cap or somebody who waits already
    /// stands in the way.
    pub fn try_acquire(&self, share: &Share, size: usize) -> Option<Chunk> {
        let charge = Self::charge_for(size);
        let mut state = self.inner.lock();
        // Who waits for the pool itself goes first; who waits only for its own share does not hold up others.
        let queue_free = state.waiters.is_empty() || state.waiters.iter().all(|w| !w.share.has_room(w.size));
        if queue_free && self.inner.fits(&state, &share.inner, charge) {
            return Some(self.inner.take(&mut state, &share.inner, charge));
        }
        None
    }

    /// Waits for a chunk of at least `size` bytes.
    ///
    /// Cancel-safe: dropping the future gives up the place in the queue, and a chunk already granted goes back.
    /// A request that can never be met (over the bound or over the share's cap) is pending for ever; whoever
    /// validates the settings prevents it.
    pub fn acquire(&self, share: &Share, size: usize) -> Acquire {
        Acquire { pool: self.inner.clone(), share: share.clone(), charge: Self::charge_for(size), id: None }
    }

    /// A chunk whatever the bound says: for the few bytes without which nothing could be freed (splitting a batch
    /// that the broker finds too large). It is charged, so the pool is over its bound until it is dropped.
    pub fn acquire_reserve(&self, share: &Share, size: usize) -> Chunk {
        let charge = Self::charge_for(size);
        let mut state = self.inner.lock();
        self.inner.take(&mut state, &share.inner, charge)
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .field("waiting", &self.waiting())
            .finish()
    }
}

fn class_of(size: usize) -> Option<usize> {
    (0..CLASSES).find(|class| size <= MIN_CHUNK << class)
}

impl ShareInner {
    fn has_room(&self, charge: usize) -> bool {
        self.held.load(Ordering::Relaxed) + charge <= self.cap
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can leave the state half-changed: no user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fits(&self, state: &State, share: &ShareInner, charge: usize) -> bool {
        state.used + charge <= self.limit && share.has_room(charge)
    }

    fn take(self: &Arc<Self>, state: &mut State, share: &Arc<ShareInner>, charge: usize) -> Chunk {
        state.used += charge;
        self.used.store(state.used, Ordering::Relaxed);
        share.held.store(share.held.load(Ordering::Relaxed) + charge, Ordering::Relaxed);
        let recycled = class_of(charge)
            .filter(|class| MIN_CHUNK << class == charge)
            .and_then(|class| state.recycled.get_mut(class))
            .and_then(Vec::pop);
        let bytes = match recycled {
            Some(bytes) => {
                state.recycled_bytes -= charge;
                bytes
            }
            None => {
                // Memory that lies recycled in other classes counts too: let it go before asking for more.
                while state.used + state.recycled_bytes > self.limit && state.recycled_bytes > 0 {
                    if let Some(freed) = state.recycled.iter_mut().rev().find_map(Vec::pop) {
                        state.recycled_bytes -= freed.len();
                    }
                }
                vec![0; charge].into_boxed_slice()
            }
        };
        Chunk { bytes, len: 0, home: Some((self.clone(), share.clone())) }
    }

    fn give_back(self: &Arc<Self>, bytes: Box<[u8]>, share: &ShareInner) {
        let charge = bytes.len();
        self.announced.store(false, Ordering::Relaxed);
        let mut wake = Vec::new();
        {
            let mut state = self.lock();
            state.used -= charge;
            share.held.store(share.held.load(Ordering::Relaxed) - charge, Ordering::Relaxed);
            let class = class_of(charge).filter(|class| MIN_CHUNK << class == charge);
            if let Some(shelf) = class.and_then(|class| state.recycled.get_mut(class)) {
                shelf.push(bytes);
                state.recycled_bytes += charge;
            }
            self.grant(&mut state, &mut wake);
            self.used.store(state.used, Ordering::Relaxed);
        }
        wake.into_iter().for_each(Waker::wake);
    }

    /// Serves those who wait, in order. Stops at the first that the pool itself cannot serve; passes over those
    /// whose own share is full.
    fn grant(self: &Arc<Self>, state: &mut State, wake: &mut Vec<Waker>) {
        let mut i = 0;
        while let Some(waiter) = state.waiters.get(i) {
            if !waiter.share.has_room(waiter.size) {
                i += 1;
            } else if state.used + waiter.size <= self.limit {
                if let Some(waiter) = state.waiters.remove(i) {
                    let chunk = self.take(state, &waiter.share, waiter.size);
                    state.granted.insert(waiter.id, chunk);
                    wake.push(waiter.waker);
                }
            } else {
                break;
            }
        }
        self.waiting.store(state.waiters.len(), Ordering::Relaxed);
    }
}

/// The future of [`BufferPool::acquire`].
#[must_use = "futures do nothing unless polled"]
pub struct Acquire {
    pool: Arc<Inner>,
    share: Share,
    charge: usize,
    /// The place in the queue, once there is one.
    id: Option<u64>,
}

impl Future for Acquire {
    type Output = Chunk;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Chunk> {
        let pool = self.pool.clone();
        let mut state = pool.lock();
        match self.id {
            Some(id) => {
                if let Some(chunk) = state.granted.remove(&id) {
                    self.id = None;
                    return Poll::Ready(chunk);
                }
                if let Some(waiter) = state.waiters.iter_mut().find(|w| w.id == id) {
                    waiter.waker.clone_from(cx.waker());
                }
                Poll::Pending
            }
            None => {
                let queue_free = state.waiters.iter().all(|w| !w.share.has_room(w.size));
                if queue_free && pool.fits(&state, &self.share.inner, self.charge) {
                    return Poll::Ready(pool.take(&mut state, &self.share.inner, self.charge));
                }
                let id = state.next_id;
                state.next_id += 1;
                let (size, share) = (self.charge, self.share.inner.clone());
                state.waiters.push_back(Waiter { id, size, share, waker: cx.waker().clone() });
                pool.waiting.store(state.waiters.len(), Ordering::Relaxed);
                drop(state);
                self.id = Some(id);
                (pool.on_exhausted)();
                Poll::Pending
            }
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut wake = Vec::new();
        let granted = {
            let mut state = self.pool.lock();
            state.waiters.retain(|w| w.id != id);
            let granted = state.granted.remove(&id);
            // Whoever stood behind the one that gave up may be next.
            self.pool.grant(&mut state, &mut wake);
            granted
        };
        // Outside the lock: dropping a chunk takes it.
        drop(granted);
        wake.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(future: &mut Acquire, woken: &Arc<Woken>) -> Poll<Chunk> {
        let waker = Waker::from(woken.clone());
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    const K: usize = 1024;

    #[test]
    fn the_bound_holds_and_a_dropped_chunk_frees_it() {
        let (pool, share) = (BufferPool::new(8 * K), Share::new(8 * K));
        let first = pool.try_acquire(&share, 5 * K).unwrap();
        assert_eq!((first.capacity(), pool.used(), share.held()), (8 * K, 8 * K, 8 * K));
        assert!(pool.try_acquire(&share, 1).is_none());
        drop(first);
        assert_eq!((pool.used(), share.held()), (0, 0));
        assert!(pool.try_acquire(&share, 1).is_some());
    }

    #[test]
    fn a_full_share_does_not_hold_up_the_others() {
        let pool = BufferPool::new(64 * K);
        let (stuck, healthy) = (Share::new(4 * K), Share::new(64 * K));
        let _held = pool.try_acquire(&stuck, 4 * K).unwrap();
        let woken = Arc::default();
        let mut waiting = pool.acquire(&stuck, 2 * K);
        assert!(poll(&mut waiting, &woken).is_pending());
        assert!(pool.try_acquire(&healthy, 2 * K).is_some());
    }

    #[test]
    fn a_small_late_request_does_not_overtake_a_large_early_one() {
        let pool = BufferPool::new(64 * K);
        let share = Share::new(1 << 30);
        let held: Vec<Chunk> = (0..2).map(|_| pool.try_acquire(&share, 32 * K).unwrap()).collect();
        let (early, late) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let mut large = pool.acquire(&share, 64 * K);
        let mut small = pool.acquire(&share, 2 * K);
        assert!(poll(&mut large, &early).is_pending());
        assert!(poll(&mut small, &late).is_pending());
        let mut held = held.into_iter();
        drop(held.next());
        assert!(pool.try_acquire(&share, 2 * K).is_none(), "room there is, but others wait for it");
        assert_eq!(late.0.load(Ordering::SeqCst), 0);
        drop(held.next());
        assert_eq!(early.0.load(Ordering::SeqCst), 1);
        let Poll::Ready(chunk) = poll(&mut large, &early) else { panic!("granted") };
        drop(chunk);
        assert_eq!(late.0.load(Ordering::SeqCst), 1);
        assert!(poll(&mut small, &late).is_ready());
    }

    #[test]
    fn who_gives_up_lets_the_next_one_through_and_leaks_nothing() {
        let pool = BufferPool::new(8 * K);
        let share = Share::new(1 << 30);
        let held = pool.try_acquire(&share, 4 * K).unwrap();
        let (a, b) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let mut large = pool.acquire(&share, 8 * K);
        let mut small = pool.acquire(&share, 4 * K);
        assert!(poll(&mut large, &a).is_pending() && poll(&mut small, &b).is_pending());
        drop(large);
        assert_eq!(b.0.load(Ordering::SeqCst), 1);
        drop(small);
        drop(held);
        assert_eq!((pool.used(), pool.waiting(), share.held()), (0, 0, 0));
    }

    #[test]
    fn the_hook_tells_that_somebody_waits() {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = count.clone();
        let pool = BufferPool::with_hook(2 * K, move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let share = Share::new(1 << 30);
        let _held = pool.try_acquire(&share, 2 * K);
        let mut waiting = pool.acquire(&share, 2 * K);
        assert!(poll(&mut waiting, &Arc::default()).is_pending());
        assert!(poll(&mut waiting, &Arc::default()).is_pending());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn recycled_and_used_bytes_together_stay_within_the_bound() {
        let pool = BufferPool::new(64 * K);
        let share = Share::new(1 << 30);
        let small: Vec<Chunk> = (0..32).map(|_| pool.try_acquire(&share, 2 * K).unwrap()).collect();
        drop(small);
        let large = pool.try_acquire(&share, 64 * K).unwrap();
        assert_eq!(large.capacity(), 64 * K);
        assert_eq!(pool.inner.lock().recycled_bytes, 0);
    }

    #[test]
    fn the_reserve_is_granted_over_the_bound_and_charged() {
        let pool = BufferPool::new(2 * K);
        let share = Share::new(2 * K);
        let _held = pool.try_acquire(&share, 2 * K).unwrap();
        let extra = pool.acquire_reserve(&share, 4 * K);
        assert_eq!(pool.used(), 6 * K);
        drop(extra);
        assert_eq!(pool.used(), 2 * K);
    }
}
