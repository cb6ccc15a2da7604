//! Masked losses on heatmap logits. A pixel counts as much as its mask, so that frames without a ball can
//! teach nothing; the mean is over the mask, `Σ(l·m) / max(Σm, 1e−8)`.
//!
//! The sum and the mask's weight are kept apart: micro-batches divide by the weight of the *whole* batch, and
//! their gradients then add up to the gradient of the whole batch.

use burn::tensor::{Tensor, activation::log_sigmoid};

use crate::compute::DeviceError;
use crate::config::{LossConfig, LossName};
use crate::error::Result;

use super::TrainingError;

/// Smallest mask weight a loss is divided by; an all-zero mask then gives loss 0 and gradient 0.
pub const MIN_MASK_WEIGHT: f64 = 1e-8;

/// `logit(1 − 1e−6)`: clamping logits to ± this is clamping probabilities to `[1e−6, 1 − 1e−6]`.
const PROBABILITY_CLAMP_LOGIT: f64 = 13.815_509_557_963_774;

/// A loss with its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeatmapLoss {
    name: LossName,
    alpha: f32,
    beta: f32,
    positive_from: Option<f32>,
}

/// The sum of a loss over a (micro-)batch.
#[derive(Debug, Clone)]
pub struct LossSum {
    /// `Σ(l·m) / weight` as `[1]`: what `backward` is called on.
    pub scaled: Tensor<1>,
    /// `Σ(l·m)`, accumulated in float64 in a fixed order whatever the thread count.
    pub sum: f64,
}

impl From<&LossConfig> for HeatmapLoss {
    fn from(config: &LossConfig) -> Self {
        Self { name: config.name, alpha: config.alpha, beta: config.beta, positive_from: config.positive_from }
    }
}

impl HeatmapLoss {
    /// The loss of each pixel before masking.
    ///
    /// `logits` and `targets` are `[batch, channels, height, width]`; so is the result.
    ///
    /// * `mse`: `(z − t)²`;
    /// * `focal` ([CenterNet, eq. 1](https://arxiv.org/abs/1904.07850), with a soft positive):
    ///   `−(1−p)^α·log p·t + (1−t)·[−p^α·(1−t)^β·log(1−p)]`, `p = σ(z)` clamped to `[1e−6, 1−1e−6]`; with `positive_from`
    ///   ([CornerNet, eq. 1](https://arxiv.org/abs/1808.01244)) `−(1−p)^α·log p` where `t` is at least that and
    ///   `−p^α·(1−t)^β·log(1−p)` elsewhere;
    /// * `wbce` (Sun et al., TrackNetV2, 2020):
    ///   `−[(1−p)²·t·log p + p²·(1−t)·log(1−p)]`.
    ///
    /// Logarithms of probabilities are taken as log-sigmoids of the logits: the same values, without the
    /// cancellation of `log(1 − p)` near 1.
    pub fn per_pixel(&self, logits: Tensor<4>, targets: Tensor<4>) -> Tensor<4> {
        match self.name {
            LossName::Mse => (logits - targets).square(),
            LossName::Focal => {
                let z = logits.clamp(-PROBABILITY_CLAMP_LOGIT, PROBABILITY_CLAMP_LOGIT);
                let far = one_minus(targets.clone());
                let (positive, negative) = match self.positive_from {
                    None => (targets, far.clone()),
                    Some(from) => {
                        let positive = targets.greater_equal_elem(from).float();
                        (positive.clone(), one_minus(positive))
                    }
                };
                weighted_cross_entropy(z, positive, negative * far.powf_scalar(self.beta), self.alpha)
            }
            LossName::Wbce => weighted_cross_entropy(logits, targets.clone(), one_minus(targets), 2.0),
        }
    }

    /// `Σ(l·m)` over the batch, with `scaled = Σ(l·m) / max(weight, 1e−8)`.
    ///
    /// `weight` is the mask's sum over everything that one optimizer step sees.
    ///
    /// # Errors
    /// If the three shapes differ, or the backend fails.
    pub fn sum(&self, logits: Tensor<4>, targets: Tensor<4>, masks: Tensor<4>, weight: f64) -> Result<LossSum> {
        let shapes = [logits.dims(), targets.dims(), masks.dims()];
        if shapes[0] != shapes[1] || shapes[0] != shapes[2] {
            return Err(TrainingError::Mismatch(format!(
                "the model's output is {:?} ([batch, channels, height, width]), targets are {:?} and masks {:?}: \
                 model.heatmap.size must be the size of the decoder's output",
                shapes[0], shapes[1], shapes[2]
            ))
            .into());
        }
        let masked = self.per_pixel(logits, targets) * masks;
        // Rows are summed on the device and added up here: a full reduction on the device may add in an order
        // that depends on its threads.
        let rows = masked.clone().inner().sum_dim(3);
        let rows = rows.try_into_vec_as::<f32>().map_err(|e| DeviceError::new("loss", e))?;
        Ok(LossSum {
            scaled: masked.sum().div_scalar(weight.max(MIN_MASK_WEIGHT)),
            sum: rows.iter().map(|&v| f64::from(v)).sum(),
        })
    }
}

/// `−[(1−p)^α · positive · log p + p^α · negative · log(1−p)]` with `p = σ(z)`; powers are taken as
/// `exp(α · log …)`, which is stable for every α ≥ 0.
fn weighted_cross_entropy(z: Tensor<4>, positive: Tensor<4>, negative: Tensor<4>, alpha: f32) -> Tensor<4> {
    let log_p = log_sigmoid(z.clone());
    let log_q = log_sigmoid(z.neg());
    let on_ball = log_q.clone().mul_scalar(alpha).exp() * log_p.clone() * positive;
    let elsewhere = log_p.mul_scalar(alpha).exp() * log_q * negative;
    (on_ball + elsewhere).neg()
}

fn one_minus(t: Tensor<4>) -> Tensor<4> {
    t.neg().add_scalar(1.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    const SHAPE: [usize; 4] = [2, 1, 3, 5];

    /// The formulas of the specification, in float64, one pixel.
    fn reference(loss: &HeatmapLoss, z: f64, t: f64) -> f64 {
        let (alpha, beta) = (f64::from(loss.alpha), f64::from(loss.beta));
        let p = 1.0 / (1.0 + (-z).exp());
        match loss.name {
            LossName::Mse => (z - t).powi(2),
            LossName::Focal => {
                let p = p.clamp(1e-6, 1.0 - 1e-6);
                let positive = -(1.0 - p).powf(alpha) * p.ln();
                let negative = -(p.powf(alpha) * (1.0 - t).powf(beta) * (1.0 - p).ln());
                match loss.positive_from {
                    None => t * positive + (1.0 - t) * negative,
                    Some(from) if t >= f64::from(from) => positive,
                    Some(_) => negative,
                }
            }
            LossName::Wbce => -((1.0 - p).powi(2) * t * p.ln() + p * p * (1.0 - t) * (1.0 - p).ln()),
        }
    }

    fn reference_mean(loss: &HeatmapLoss, z: &[f64], t: &[f64], m: &[f64]) -> f64 {
        let sum: f64 = (0..z.len()).map(|i| m[i] * reference(loss, z[i], t[i])).sum();
        sum / m.iter().sum::<f64>().max(MIN_MASK_WEIGHT)
    }

    fn tensor(values: &[f64], device: &Device) -> Tensor<4> {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        Tensor::from_data(TensorData::new(values, SHAPE), device)
    }

    /// Logits of both signs, soft targets with exact 0 and 1, and a mask with holes.
    fn sample() -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let n = SHAPE.iter().product::<usize>();
        let z = (0..n).map(|i| f64::from((i as f32 * 1.7).sin() * 4.0)).collect();
        let t = (0..n).map(|i| [0.0, 0.25, 1.0, 0.625][i % 4]).collect();
        let m = (0..n).map(|i| f64::from(u8::from(i % 3 != 1))).collect();
        (z, t, m)
    }

    fn losses() -> Vec<HeatmapLoss> {
        let loss = |name| HeatmapLoss { name, alpha: 2.0, beta: 4.0, positive_from: None };
        vec![
            loss(LossName::Mse),
            loss(LossName::Focal),
            HeatmapLoss { alpha: 1.5, beta: 3.0, ..loss(LossName::Focal) },
            HeatmapLoss { positive_from: Some(0.625), ..loss(LossName::Focal) },
            HeatmapLoss { positive_from: Some(0.9), ..loss(LossName::Focal) },
            loss(LossName::Wbce),
        ]
    }

    #[test]
    fn values_and_gradients_are_those_of_the_formulas_in_float64() {
        let device = Device::flex().autodiff();
        let (z, t, m) = sample();
        let weight: f64 = m.iter().sum();
        for loss in losses() {
            let logits = tensor(&z, &device).require_grad();
            let found = loss.sum(logits.clone(), tensor(&t, &device), tensor(&m, &device), weight).unwrap();
            let expected = reference_mean(&loss, &z, &t, &m);
            // float32 pixels of size ≤ 20, a mean over 20 of them.
            assert!((found.sum / weight - expected).abs() < 2e-6 * expected.max(1.0), "{loss:?}");

            let gradient = logits.grad(&found.scaled.backward()).unwrap().try_into_vec_as::<f32>().unwrap();
            for (i, &g) in gradient.iter().enumerate() {
                let step = 1e-5;
                let at = |d: f64| {
                    let mut moved = z.clone();
                    moved[i] += d;
                    reference_mean(&loss, &moved, &t, &m)
                };
                let numeric = (at(step) - at(-step)) / (2.0 * step);
                // Central differences err by O(step²) ≈ 1e-10; the rest is float32.
                assert!((f64::from(g) - numeric).abs() < 2e-6, "{loss:?} pixel {i}: {g} against {numeric}");
            }
        }
    }

    #[test]
    fn a_zero_mask_gives_zero_loss_and_zero_gradient() {
        let device = Device::flex().autodiff();
        let (z, t, _) = sample();
        for loss in losses() {
            let logits = tensor(&z, &device).require_grad();
            let masks = tensor(&vec![0.0; z.len()], &device);
            let found = loss.sum(logits.clone(), tensor(&t, &device), masks, 0.0).unwrap();
            assert_eq!(found.sum, 0.0);
            let gradient = logits.grad(&found.scaled.backward()).unwrap().try_into_vec_as::<f32>().unwrap();
            assert!(gradient.iter().all(|&g| g == 0.0), "{loss:?}");
        }
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let device = Device::flex().autodiff();
        let n = SHAPE.iter().product::<usize>();
        let z: Vec<f64> = (0..n).map(|i| if i % 2 == 0 { 300.0 } else { -300.0 }).collect();
        let (_, t, m) = sample();
        for loss in losses() {
            let logits = tensor(&z, &device).require_grad();
            let found = loss.sum(logits.clone(), tensor(&t, &device), tensor(&m, &device), 1.0).unwrap();
            let gradient = logits.grad(&found.scaled.backward()).unwrap().try_into_vec_as::<f32>().unwrap();
            assert!(found.sum.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss:?}");
        }
    }

    #[test]
    fn focal_clamps_probabilities_as_its_formula_does() {
        let device = Device::flex();
        let n = SHAPE.iter().product::<usize>();
        let (z, t) = (vec![30.0; n], vec![0.0; n]);
        let loss = HeatmapLoss { name: LossName::Focal, alpha: 2.0, beta: 4.0, positive_from: None };
        let found = loss.per_pixel(tensor(&z, &device), tensor(&t, &device)).try_into_vec_as::<f32>().unwrap();
        let expected = reference(&loss, 30.0, 0.0);
        // One float32 log-sigmoid of size 14.
        assert!((f64::from(found[0]) - expected).abs() < 1e-5, "{} against {expected}", found[0]);
    }

    #[test]
    fn different_shapes_are_an_error_that_names_them() {
        let device = Device::flex();
        let a = Tensor::<4>::zeros([1, 1, 2, 2], &device);
        let b = Tensor::<4>::zeros([1, 1, 2, 3], &device);
        let loss = HeatmapLoss::from(&LossConfig::default());
        let error = loss.sum(a, b.clone(), b, 1.0).unwrap_err().to_string();
        assert!(error.contains("[1, 1, 2, 2]") && error.contains("heatmap.size"), "{error}");
    }
}
