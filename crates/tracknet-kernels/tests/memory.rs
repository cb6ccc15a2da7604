//! What the layer holds between forward and backward, measured on the allocator.
#![cfg(feature = "flex")]

use burn::tensor::{Device, Tensor};
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, PackedWeight, QuantizeOptions, linear_4bit};
use tracknet_testing::{CountingAllocator, live_bytes};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn no_dense_weight_and_no_input_is_kept_between_forward_and_backward() {
    let [rows, inner, outer] = [16, 512, 768];
    let device = Device::flex().autodiff();
    let values: Vec<f32> = (0..inner * outer).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect();
    let packed = PackedWeight::quantize(&values, [outer, inner], &QuantizeOptions::default()).unwrap();
    let weight = Linear4bitWeight::from_packed(&packed, ComputeDtype::Bf16, &device).unwrap();
    let run = || {
        let x = Tensor::<2>::ones([rows, inner], &device).require_grad();
        let before = live_bytes();
        let y = linear_4bit(x.clone(), &weight, None);
        let held = live_bytes().saturating_sub(before);
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
