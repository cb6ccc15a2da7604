//! The CPU backend.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::ActivationOps;
use burn::backend::{Flex, TensorMetadata};

use super::kernel::{Backward, Forward};
use super::ops::GeluOps;
use crate::chunks;
use crate::host::{are_f32, contiguous, slice, tensor};
use crate::simd::Level;

/// Values that one task works on.
const VALUES_PER_TASK: usize = 1 << 13;

impl GeluOps for Flex {
    fn exact_gelu(x: FlexTensor) -> FlexTensor {
        if !are_f32([&x]) {
            return <Flex as ActivationOps<Flex>>::gelu(x);
        }
        let x = contiguous(x);
        tensor(forward(Level::best(), slice(&x)), x.shape())
    }

    fn exact_gelu_gradient(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        if !are_f32([&x, &gradient]) {
            return <Flex as ActivationOps<Flex>>::gelu_backward(x, gradient);
        }
        let (x, gradient) = (contiguous(x), contiguous(gradient));
        tensor(backward(Level::best(), slice(&x), slice(&gradient)), x.shape())
    }
}

fn forward(level: Level, x: &[f32]) -> Vec<f32> {
    chunks::fill(x.len(), VALUES_PER_TASK, |task, y| {
        level.run(Forward { x: &x[task * VALUES_PER_TASK..][..y.len()], y });
    })
    .0
}

fn backward(level: Level, x: &[f32], gradient: &[f32]) -> Vec<f32> {
    chunks::fill(x.len(), VALUES_PER_TASK, |task, out| {
        let at = task * VALUES_PER_TASK..task * VALUES_PER_TASK + out.len();
        level.run(Backward { x: &x[at.clone()], gradient: &gradient[at], out });
    })
    .0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ and φ in f64: `erf z = 2 / √π · exp(−z²) · Σ 2ⁿ z²ⁿ⁺¹ / (2n + 1)!!`, all terms of one sign.
    fn normal(x: f64) -> (f64, f64) {
        if x.abs() > 9.0 {
            return (f64::from(u8::from(x > 0.0)), 0.0);
        }
        let z = x.abs() / std::f64::consts::SQRT_2;
        let (mut term, mut sum) = (z, 0.0);
        for n in 0..300 {
            sum += term;
            term *= 2.0 * z * z / f64::from(2 * n + 3);
        }
        let erf = std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * sum;
        (0.5 * (1.0 + erf.copysign(x)), (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt())
    }

    /// Zero, both signs, steps that are no multiple of anything, and the ends of the range.
    fn inputs() -> Vec<f32> {
        let mut x: Vec<f32> = (-30_011..30_011).map(|i| i as f32 * 3.001e-4).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, 13.1, -13.1, 14.0, -14.0, 100.0, -100.0, 1e18, -1e18]);
        x
    }

    #[test]
    fn every_instruction_set_is_within_its_bound_of_float64() {
        let x = inputs();
        let gradient = vec![1.0; x.len()];
        for level in Level::available() {
            let (y, slope) = (forward(level, &x), backward(level, &x, &gradient));
            for ((x, y), slope) in x.iter().zip(y).zip(slope) {
                let x = f64::from(*x);
                let (cumulative, density) = normal(x);
                let expected = x * cumulative;
                // Φ within 3e-7: an erf within 6e-7. The product rounds once more.
                let bound = 3e-7 * x.abs() + 6e-8 * expected.abs();
                assert!((f64::from(y) - expected).abs() <= bound, "{level:?}: gelu({x}) is {y}, expected {expected}");
                let expected = cumulative + x * density;
                let distance = (f64::from(slope) - expected).abs();
                assert!(distance <= 6e-7, "{level:?}: slope at {x} is {slope}, expected {expected}");
            }
        }
    }

    #[test]
    fn slopes_are_the_differences_of_values() {
        let x: Vec<f32> = (-300..300).map(|i| i as f32 * 0.0201).collect();
        let slopes = backward(Level::best(), &x, &vec![1.0; x.len()]);
        for (x, slope) in x.iter().zip(slopes) {
            let (x, step) = (f64::from(*x), 1e-5);
            let value = |x: f64| x * normal(x).0;
            let difference = (value(x + step) - value(x - step)) / (2.0 * step);
            // Central differences in f64 err by about 1e-10; the rest is f32.
            assert!((f64::from(slope) - difference).abs() <= 6e-7, "at {x}: {slope}, expected {difference}");
        }
    }

    #[test]
    fn parts_of_a_block_are_the_same_as_whole_blocks_and_not_a_number_stays_so() {
        let x = inputs();
        for level in Level::available() {
            let whole = forward(level, &x);
            for length in [1, 3, 5, 15, 17, 33] {
                assert_eq!(forward(level, &x[..length]), whole[..length]);
                assert_eq!(backward(level, &x[..length], &x[..length]), backward(level, &x, &x)[..length]);
            }
            assert!(forward(level, &[1.0, f32::NAN])[1].is_nan() && backward(level, &[f32::NAN], &[1.0])[0].is_nan());
        }
    }
}
