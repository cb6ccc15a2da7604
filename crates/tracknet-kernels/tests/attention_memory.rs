//! That no score matrix exists at any time, measured on the allocator.
#![cfg(feature = "flex")]

use burn::tensor::{Device, Tensor};
use tracknet_kernels::ComputeDtype;
use tracknet_kernels::attention::attention;
use tracknet_testing::{CountingAllocator, live_bytes, peak_of};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn forward_and_backward_together_take_less_than_the_scores_of_one_head() {
    let [tokens, heads, head_dim] = [3000, 2, 32];
    let device = Device::flex().autodiff();
    let run = || {
        let x = || Tensor::<3>::ones([1, tokens, heads * head_dim], &device).require_grad();
        let [query, key, value] = [x(), x(), x()];
        peak_of(|| {
            let before = live_bytes();
            let y = attention(query.clone(), key, value, heads, 0.2, None, ComputeDtype::F32);
            let held = live_bytes().saturating_sub(before);
            let gradients = y.sum().backward();
            assert!(query.grad(&gradients).is_some());
            held
        })
    };
    // Threads are set up once, and as few as two: every thread has the packed rows of a head.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(run);
    let (peak, held) = pool.install(run);
    // The output, a number a row and head, and graph nodes.
    let output = tokens * heads * (head_dim + 1) * size_of::<f32>();
    assert!(held < output + 16 * 1024, "{held} bytes held, the output takes {output}");
    let scores = tokens * tokens * size_of::<f32>();
    assert!(peak < scores / 2, "{peak} bytes at the peak, the scores of one head take {scores}");
}
