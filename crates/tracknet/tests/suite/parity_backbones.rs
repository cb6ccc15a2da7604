//! Backbones against `transformers`, from tiny checkpoints with random weights in every parameter.
//!
//! The expected values were computed in f32 by PyTorch; two implementations of the same sums in another order differ
//! by a few f32 roundings per layer, far below the tolerance used here. A wrong rotation, a swapped pair of halves
//! or the other GELU differ by 1e-2 and more.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use burn::tensor::{Device, Tensor};
use tracknet::models::Backbone;

use crate::common::{assert_close, device, fixture, pixels, tensors};

const TOLERANCE: f32 = 1e-4;

fn load(name: &str, device: &Device) -> Backbone {
    common::backbone(&fixture(name), device).unwrap()
}

/// Compares with all that the golden holds: the hidden states unless `states` is 0, the last one, and a `square` frame.
fn check(name: &str, layers: usize, [states, square]: [usize; 2]) {
    let expected = tensors(&fixture(name).join("io.safetensors"));
    // With and without autodiff: attention takes another path.
    for device in [common::device(), common::device().autodiff()] {
        let vit = load(name, &device);
        let images = pixels(&device);
        let mut compared = [0, 0];
        let network = vit.network.as_vit().unwrap();
        for (i, state) in network.hidden_states(images.clone()).into_iter().enumerate() {
            if let Some(want) = expected.get(&format!("hidden_states.{i}")) {
                assert_close(&format!("{name} hidden state {i}"), state, want, TOLERANCE);
                compared[0] += 1;
            }
        }
        let tokens = vit.tokens(images.clone());
        assert_close(name, tokens.clone(), &expected["last_hidden_state"], TOLERANCE);

        let features = vit.forward(images.clone());
        let features = features.coarsest();
        let [batch, hidden, rows, columns] = features.map.dims();
        assert_eq!([rows, columns], [64 / features.stride, 96 / features.stride]);
        let prefix = network.spec().prefix_tokens();
        let patches = tokens.slice([0..batch, prefix..prefix + rows * columns, 0..hidden]);
        let back = features.map.clone().reshape([batch, hidden, rows * columns]).swap_dims(1, 2);
        assert!(back.equal(patches).all().into_scalar::<bool>(), "the grid is the patch tokens, row by row");

        if let Some(want) = expected.get("last_hidden_state_64x64") {
            let square: Tensor<4> = images.slice([0..2, 0..3, 0..64, 0..64]);
            assert_close(&format!("{name} 64×64"), vit.tokens(square), want, TOLERANCE);
            compared[1] += 1;
        }
        assert_eq!(compared, [states, square], "{name}: what the golden holds");
    }
    assert_eq!(load(name, &device()).network.as_vit().unwrap().hidden_states(pixels(&device())).len(), layers + 1);
}

#[test]
fn dinov3_gives_the_hidden_states_of_transformers() {
    check("dinov3_tiny", 2, [3, 0]);
}

#[test]
fn dinov3_with_a_gated_mlp_gives_the_hidden_states_of_transformers() {
    check("dinov3_tiny_gated", 2, [3, 0]);
}

#[test]
fn dinov2_gives_the_hidden_states_of_transformers() {
    check("dinov2_tiny", 2, [3, 1]);
}

#[test]
fn dinov2_with_registers_resamples_its_positions_with_antialiasing() {
    check("dinov2_reg_tiny", 2, [3, 1]);
}

#[test]
fn dinov2_with_swiglu_gives_the_hidden_states_of_transformers() {
    check("dinov2_tiny_swiglu", 1, [2, 1]);
}

#[test]
fn vit_gives_the_hidden_states_of_transformers_native_and_interpolated() {
    check("vit_tiny", 2, [0, 1]);
}
