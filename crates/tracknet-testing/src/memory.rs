//! Memory, measured on the allocator. A test program that measures declares
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: tracknet_testing::CountingAllocator = tracknet_testing::CountingAllocator;
//! ```
//!
//! The counters are those of the whole program: measure one thing at a time.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    #[test]
    fn the_peak_counts_what_was_freed_before_the_end_and_live_bytes_do_not() {
        let before = live_bytes();
        let (peak, kept) = peak_of(|| {
            drop(std::hint::black_box(vec![0u8; 3 << 20]));
            vec![0u8; 1 << 20]
        });
        assert!(((3 << 20)..(4 << 20)).contains(&peak), "{peak}");
        assert!((live_bytes() - before) >= kept.len() && (live_bytes() - before) < 2 << 20);
    }
}
