//! In steady state an event costs its producer no allocation: not to add it, not to hold a receipt that nobody awaits.
//! What is allocated belongs to batches, and there is a bound on that.
//!
//! The allocator counts by thread, so the count is exact: what the batcher's own tasks allocate meanwhile, on other
//! threads, and by the batch, is not in it.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use kafka_batcher::{Collector, Header, KafkaBatcher, Receipt, Record};
use kafka_batcher_broker::{EmbeddedKafka, Storage};
use support::{LONG, batcher_with, ready};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has no counter any more, and nobody asks for it.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while `f` runs.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

const PARTITIONS: i32 = 4;
const PER_BATCH: u64 = 1000;
const BATCHES: u64 = 100;
const EVENTS: u64 = BATCHES * PER_BATCH;
/// What a batch may cost its producer: lists that grow, its chunks while the pool is young, its completion.
const MOST_PER_BATCH: u64 = 24;

/// A batcher whose tasks run on other threads than the test, and a broker that takes everything.
async fn start(batch_size: u64) -> (EmbeddedKafka, KafkaBatcher, Collector) {
    let kafka =
        EmbeddedKafka::builder().topic("flights", PARTITIONS).storage(Storage::Discard).start().unwrap();
    let batcher = batcher_with(&kafka.bootstrap(), |s, d| {
        s.memory = 256 << 20;
        d.batch_size = u32::try_from(batch_size).unwrap();
        d.max_wait_time = LONG;
    })
    .await;
    let flights = batcher.collector("flights").build().unwrap();
    ready(&batcher, "flights").await;
    (kafka, batcher, flights)
}

/// Polls a future that does not wait.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("there is memory enough"),
    }
}

async fn finish(batcher: KafkaBatcher) {
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered() && report.balances(), "{report:?}");
}

/// Adds events as `add` does, warm and then counted, and checks the count.
async fn costs_nothing_per_event(mut add: impl FnMut(&Collector, u64)) {
    let (_kafka, batcher, flights) = start(PER_BATCH).await;
    (0..EVENTS).for_each(|i| add(&flights, i));
    batcher.flush().await;
    let mut events_that_cost = 0;
    let all = allocations(|| {
        for i in 0..EVENTS {
            let cost = ALLOCATIONS.get();
            add(&flights, i);
            events_that_cost += u64::from(ALLOCATIONS.get() != cost);
        }
    });
    // By key, partitions fill at different times: at the end some batches are open.
    let batches = BATCHES + u64::from(PARTITIONS.unsigned_abs());
    assert!(all <= MOST_PER_BATCH * batches, "{all} allocations for {EVENTS} events in {BATCHES} batches");
    assert!(events_that_cost <= MOST_PER_BATCH * batches, "{events_that_cost} events allocated");
    finish(batcher).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_event_with_a_key_costs_no_allocation() {
    let keys: Vec<String> = (0..500).map(|i| format!("key-{i}")).collect();
    let value = [7u8; 100];
    costs_nothing_per_event(|flights, i| {
        let key = keys[i as usize % keys.len()].as_str();
        at_once(flights.add_event((key, &value))).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_event_without_a_key_costs_no_allocation() {
    let value = [7u8; 100];
    costs_nothing_per_event(|flights, _| at_once(flights.add_event(&value)).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_event_with_headers_costs_no_allocation() {
    let value = [7u8; 100];
    let headers = [Header::new("trace", "4bf92f"), Header::null("sampled")];
    costs_nothing_per_event(|flights, i| {
        let record = Record::value(&value).with_headers(&headers).with_partition(i as i32 % PARTITIONS);
        at_once(flights.add_event(record)).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_event_by_try_or_from_a_thread_costs_no_allocation() {
    let value = [7u8; 100];
    costs_nothing_per_event(|flights, i| {
        if i % 2 == 0 {
            flights.try_add_event(&value).unwrap()
        } else {
            flights.blocking_add_event(&value).unwrap()
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_receipt_that_nobody_awaits_costs_no_allocation() {
    let value = [7u8; 100];
    costs_nothing_per_event(|flights, _| drop(at_once(flights.send(&value)).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn within_a_batch_no_event_allocates_at_all() {
    // The chunks of a batch are there after its first events, and nothing is sealed.
    let (_kafka, batcher, flights) = start(1_000_000).await;
    let value = [7u8; 10];
    let add = |_| flights.try_add_event(Record::value(&value).with_partition(0)).unwrap();
    // 2 + 4 + 8 + 16 + 32 KiB: the chunk that follows is one of 64 KiB.
    (0..62 * 1024 / 18).for_each(add);
    let all = allocations(|| (0..3000).for_each(add));
    assert!(all <= 2, "{all} allocations, and only a chunk and its place in a list can be new");
    finish(batcher).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_receipt_that_is_awaited_costs_at_most_one_allocation() {
    let (_kafka, batcher, flights) = start(PER_BATCH).await;
    let value = [7u8; 100];
    let mut receipts: Vec<Receipt> = Vec::with_capacity(EVENTS as usize);
    let mut waiting = Vec::with_capacity(EVENTS as usize);
    for round in ["warm", "counted"] {
        let mut cx = Context::from_waker(Waker::noop());
        let sending = allocations(|| {
            (0..EVENTS).for_each(|_| receipts.push(at_once(flights.send(&value)).unwrap()));
        });
        let awaiting = allocations(|| {
            for receipt in &receipts {
                let mut delivered = pin!(receipt.delivered());
                if delivered.as_mut().poll(&mut cx).is_pending() {
                    waiting.push(receipt);
                }
            }
        });
        batcher.flush().await;
        let answers = allocations(|| {
            waiting.drain(..).for_each(|receipt: &Receipt| {
                at_once(receipt.delivered()).unwrap();
            });
        });
        if round == "counted" {
            assert!(sending <= MOST_PER_BATCH * BATCHES, "{sending} allocations to send {EVENTS} events");
            assert!(
                awaiting + answers <= EVENTS,
                "{awaiting} + {answers} allocations to await {EVENTS} receipts"
            );
            break;
        }
        // The borrow of `waiting` has ended with the drain; both lists keep their room.
        waiting = Vec::with_capacity(EVENTS as usize);
        receipts.clear();
    }
    drop(receipts);
    finish(batcher).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_typed_event_costs_no_allocation() {
    #[derive(serde::Serialize)]
    struct Flight<'a> {
        origin: &'a str,
        delay: i32,
        cancelled: Option<bool>,
    }
    let (_kafka, batcher, flights) = start(PER_BATCH).await;
    let typed = flights
        .typed::<Flight<'static>>()
        .key(|flight| Some(flight.origin.as_bytes().into()))
        .flush_when(|flight| flight.cancelled == Some(true));
    let origins = ["SEA", "LAX", "PDX", "SFO", "JFK"];
    let add = |i: u64| {
        let origin = origins[i as usize % origins.len()];
        at_once(typed.add_event(&Flight { origin, delay: -5, cancelled: None })).unwrap();
    };
    (0..EVENTS).for_each(add);
    batcher.flush().await;
    let all = allocations(|| (0..EVENTS).for_each(add));
    let batches = BATCHES + u64::from(PARTITIONS.unsigned_abs());
    assert!(all <= MOST_PER_BATCH * batches, "{all} allocations for {EVENTS} events in {BATCHES} batches");
    finish(batcher).await;
}
