//! The masked losses against values and gradients computed in float64 by PyTorch
//! (`fixtures/losses.safetensors`; logits, soft targets with exact ones, a mask with an empty channel).

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use tracknet::config::{LossConfig, LossName};
use tracknet::training::HeatmapLoss;

struct Golden(Vec<u8>);

impl Golden {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/losses.safetensors");
        Self(std::fs::read(path).unwrap())
    }

    fn values(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (view.shape().to_vec(), values)
    }

    fn tensor(&self, name: &str, device: &Device) -> Tensor<4> {
        let (shape, values) = self.values(name);
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

#[derive(Clone, Copy)]
enum Mask {
    Golden,
    Ones,
    Zeros,
}

/// Loss and gradient with the golden logits and targets.
fn run(golden: &Golden, name: LossName, mask: Mask) -> (f64, Vec<f32>) {
    let device = Device::flex().autodiff();
    let logits = golden.tensor("pred", &device).require_grad();
    let targets = golden.tensor("target", &device);
    let masks = match mask {
        Mask::Golden => golden.tensor("mask", &device),
        Mask::Ones => targets.ones_like(),
        Mask::Zeros => targets.zeros_like(),
    };
    let weight = f64::from(masks.clone().sum().into_scalar::<f32>());
    let loss = HeatmapLoss::from(&LossConfig { name, ..LossConfig::default() });
    let found = loss.sum(logits.clone(), targets, masks, weight).unwrap();
    let gradient = logits.grad(&found.scaled.backward()).unwrap();
    (found.sum / weight.max(tracknet::training::MIN_MASK_WEIGHT), gradient.try_into_vec_as::<f32>().unwrap())
}

#[test]
fn mse_and_focal_equal_pytorchs_values_and_gradients() {
    let golden = Golden::open();
    for (name, key) in [(LossName::Mse, "masked_mse"), (LossName::Focal, "masked_focal")] {
        for (mask, suffix) in [(Mask::Golden, ""), (Mask::Ones, "_ones_mask")] {
            let (loss, gradient) = run(&golden, name, mask);
            let expected = f64::from(golden.values(&format!("{key}{suffix}.loss")).1[0]);
            // 2304 float32 pixels summed in float64: a few ulp.
            assert!((loss - expected).abs() < 1e-6 * expected, "{key}{suffix}: {loss} against {expected}");
            let expected = golden.values(&format!("{key}{suffix}.grad")).1;
            let largest = expected.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            for (i, (g, e)) in gradient.iter().zip(&expected).enumerate() {
                // A product of up to six float32 factors, relative to the largest gradient.
                assert!((g - e).abs() < 2e-6 * largest, "{key}{suffix} gradient {i}: {g} against {e}");
            }
        }
    }
}

#[test]
fn a_zero_mask_gives_the_golden_zero_and_no_gradient() {
    let golden = Golden::open();
    for (name, key) in [(LossName::Mse, "masked_mse"), (LossName::Focal, "masked_focal")] {
        let (loss, gradient) = run(&golden, name, Mask::Zeros);
        assert_eq!(loss as f32, golden.values(&format!("{key}_zero_mask.loss")).1[0]);
        assert!(gradient.iter().all(|&g| g == 0.0), "{key}");
    }
}
