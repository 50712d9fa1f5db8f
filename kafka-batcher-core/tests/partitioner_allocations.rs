//! Choosing a partition allocates nothing: every strategy, with and without a key, across sticky switches.
//!
//! A counting allocator is exact, so this is a test and no benchmark. It counts per thread, since the test harness has
//! threads of its own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kafka_batcher_core::partitioner::{
    Assigner, PartitionFn, PartitionInput, PartitionKey, Sticky, Strategy, TopicLoad, TopicNotice,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator; the counter is a thread-local without a destructor and
// without an allocation of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(assigner: &Assigner) -> u64 {
    let topic = TopicLoad::new(64);
    let run = |events: usize| {
        for event in 0..events {
            let key = (event % 2 == 0).then_some(&b"a key of some length"[..]);
            let input = PartitionInput::new("flights", key, Some(b"value")).with_size(500);
            let partition = assigner.partition(&input, &topic).expect("placed");
            topic.set_queued_bytes(partition, event as u64);
            topic.set_available(partition, event % 100 != 99);
            if event % 50 == 0 {
                assigner.observe(TopicNotice::Sealed(partition));
            }
        }
    };
    // The first draw makes the sticky partition's table.
    run(100);
    let before = ALLOCATIONS.get();
    run(10_000);
    ALLOCATIONS.get() - before
}

#[test]
fn choosing_a_partition_allocates_nothing() {
    for strategy in Strategy::ALL {
        assert_eq!(allocations_of(&strategy.assigner(10_000, 1)), 0, "{strategy}");
    }
    let closure = PartitionFn::new(|event| event.key.map_or(PartitionKey::Keyless, PartitionKey::Bytes));
    assert_eq!(allocations_of(&Assigner::new(closure, Sticky::new(10_000, 1))), 0);
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}
