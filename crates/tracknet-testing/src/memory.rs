//! Memory, measured on the allocator. A test program that measures declares
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: tracknet_testing::CountingAllocator = tracknet_testing::CountingAllocator;
//! ```
//!
//! The counters are those of the whole program, every thread of it: measure one thing at a time, in a test program with one
//! test, or with tests that hold a lock. (The backtrace of a test beside it takes megabytes.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a count of the bytes that are held.
#[derive(Debug)]
pub struct CountingAllocator;

// SAFETY: every call goes to the system allocator unchanged; only counters are kept beside it.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are those the system allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those the system allocator asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes that the program holds now.
pub fn live_bytes() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// Bytes that `work` held at its peak, beyond what was held before; and its result.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = live_bytes();
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (PEAK.load(Ordering::Relaxed).saturating_sub(before), result)
}
