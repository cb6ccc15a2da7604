//! That no score matrix exists at any time, measured on the allocator.
#![cfg(feature = "flex")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor};
use tracknet_kernels::ComputeDtype;
use tracknet_kernels::attention::attention;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; only counters are kept beside it.
unsafe impl GlobalAlloc for Counting {
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

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn forward_and_backward_together_take_less_than_the_scores_of_one_head() {
    let [tokens, heads, head_dim] = [3000, 2, 32];
    let device = Device::flex().autodiff();
    let run = || {
        let x = || Tensor::<3>::ones([1, tokens, heads * head_dim], &device).require_grad();
        let [query, key, value] = [x(), x(), x()];
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let y = attention(query.clone(), key, value, heads, 0.2, None, ComputeDtype::F32);
        let held = LIVE.load(Ordering::Relaxed).saturating_sub(before);
        let gradients = y.sum().backward();
        assert!(query.grad(&gradients).is_some());
        (held, PEAK.load(Ordering::Relaxed) - before)
    };
    // Threads are set up once, and as few as two: every thread has the packed rows of a head.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(run);
    let (held, peak) = pool.install(run);
    // The output, a number a row and head, and graph nodes.
    let output = tokens * heads * (head_dim + 1) * size_of::<f32>();
    assert!(held < output + 16 * 1024, "{held} bytes held, the output takes {output}");
    let scores = tokens * tokens * size_of::<f32>();
    assert!(peak < scores / 2, "{peak} bytes at the peak, the scores of one head take {scores}");
}
