//! What the counting allocator counts. Alone in its program: the counters see every thread.

use tracknet_testing::{CountingAllocator, live_bytes, peak_of};

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
    let held = live_bytes() - before;
    assert!(held >= kept.len() && held < 2 << 20, "{held}");
}
