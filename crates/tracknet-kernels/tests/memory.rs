//! What the layer holds between forward and backward, measured on the allocator.
#![cfg(feature = "flex")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor};
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, PackedWeight, QuantizeOptions, linear_4bit};

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
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
fn no_dense_weight_and_no_input_is_kept_between_forward_and_backward() {
    let [rows, inner, outer] = [16, 512, 768];
    let device = Device::flex().autodiff();
    let values: Vec<f32> = (0..inner * outer).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect();
    let packed = PackedWeight::quantize(&values, [outer, inner], &QuantizeOptions::default()).unwrap();
    let weight = Linear4bitWeight::from_packed(&packed, ComputeDtype::Bf16, &device).unwrap();
    let run = || {
        let x = Tensor::<2>::ones([rows, inner], &device).require_grad();
        let before = LIVE.load(Ordering::Relaxed);
        let y = linear_4bit(x.clone(), &weight, None);
        let held = LIVE.load(Ordering::Relaxed).saturating_sub(before);
        let gradients = y.sum().backward();
        assert!(x.grad(&gradients).is_some());
        held
    };
    // Threads and tables are set up once.
    run();
    let held = run();
    // The output itself, and graph nodes; the dense weight would be 1.5 MB, the input 32 kB.
    let output = rows * outer * size_of::<f32>();
    assert!(held >= output && held < output + 16 * 1024, "{held} bytes held, the output takes {output}");
}
