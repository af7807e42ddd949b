//! Steady-state writes take no memory from the heap: counted, not believed.

#![allow(unsafe_code)]

use drbd_tests::two_engines::TwoEngines;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if COUNTED.with(Cell::get) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of its own and, its thread
// local being constant, allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `System` with that layout.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the memory came from `System` with that layout.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_million_writes_allocate_nothing() {
    for protocol in ["A", "B", "C"] {
        let mut pair = TwoEngines::connected(protocol);
        // Every extent becomes hot, every list finds its size.
        pair.write(200_000, 128, 100);
        pair.forget_costs();
        COUNTED.with(|counted| counted.set(true));
        pair.write(1_000_000, 128, 100);
        COUNTED.with(|counted| counted.set(false));
        let allocations = ALLOCATIONS.swap(0, Ordering::Relaxed);
        let events: u64 = pair.sides.iter().map(|side| side.events).sum();
        println!(
            "protocol {protocol}: {} writes, {} epochs, {events} events, {allocations} allocations",
            pair.completed, pair.barriers
        );
        assert!(pair.barriers > 1000, "the epochs were closed");
        assert_eq!(allocations, 0, "protocol {protocol}");
    }
}
