//! Gradients by parameter name: taken from a backward pass, added up over micro-batches, measured, clipped.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use tracknet_kernels::adamw::sums_of_squares;

use crate::compute::{Compute, DeviceError};
use crate::error::Result;

use super::TrainingError;

/// Flat gradients without autodiff, by parameter name. The order of the names is the order of every sum over
/// them, so that results do not depend on anything else.
#[derive(Debug, Clone, Default)]
pub struct NamedGradients(pub BTreeMap<String, Tensor<1>>);

/// What the gradients of a step look like.
#[derive(Debug, Clone, PartialEq)]
pub enum GradientNorm {
    /// The global L2 norm.
    Finite(f64),
    /// The first parameter whose gradient has an infinity or a NaN.
    NonFinite(String),
}

impl NamedGradients {
    /// Adds the gradients of another micro-batch.
    pub fn add(&mut self, other: Self) {
        for (name, gradient) in other.0 {
            let sum = match self.0.remove(&name) {
                Some(earlier) => earlier + gradient,
                None => gradient,
            };
            self.0.insert(name, sum);
        }
    }

    /// Global L2 norm; the sum over parameters is in float64 in a fixed order. `compute` says where they are.
    ///
    /// # Errors
    /// If a gradient cannot be read from the device.
    pub fn norm(&self, compute: &Compute) -> Result<GradientNorm> {
        let mut total = 0.0;
        for (name, square) in self.0.keys().zip(self.squares(compute)?) {
            if !square.is_finite() {
                return Ok(GradientNorm::NonFinite(name.clone()));
            }
            total += square;
        }
        Ok(GradientNorm::Finite(total.sqrt()))
    }

    /// The squared norm of each gradient. Where nothing has to be copied the sums are in float64 on the host; elsewhere the
    /// device adds up, in float32, and everything is read at once: a transfer for each parameter would cost more than the step.
    fn squares(&self, compute: &Compute) -> Result<Vec<f64>> {
        if self.0.is_empty() || !compute.has_own_memory() {
            let square = |(name, gradient): (&String, &Tensor<1>)| {
                let data = gradient.try_to_data().map_err(|e| DeviceError::new(name, e))?;
                let values = data.as_slice::<f32>().map_err(|e| DeviceError::new(name, e))?;
                Ok(values.iter().map(|&v| f64::from(v) * f64::from(v)).sum())
            };
            return self.0.iter().map(square).collect();
        }
        let sums = sums_of_squares(self.0.values().cloned());
        let sums = sums.try_into_vec_as::<f32>().map_err(|e| DeviceError::new("gradient norms", e))?;
        Ok(sums.into_iter().map(f64::from).collect())
    }

    /// Multiplies every gradient.
    pub fn multiply(&mut self, factor: f64) {
        for gradient in self.0.values_mut() {
            *gradient = gradient.clone().mul_scalar(factor);
        }
    }
}

/// What gradients of the global norm `norm` are multiplied by so that it is at most `limit`, as
/// `torch.nn.utils.clip_grad_norm_` does.
fn clip_factor(norm: f64, limit: f64) -> f64 {
    (limit / (norm + 1e-6)).min(1.0)
}

/// Non-finite steps in a row after which a run gives up.
pub const MAX_NON_FINITE: usize = 10;

/// Decides from step to step whether gradients may change the parameters, and how they are clipped.
#[derive(Debug, Clone)]
pub(super) struct GradientGuard {
    clip: Option<f64>,
    non_finite_in_a_row: usize,
}

/// Gradients that may change the parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Admitted {
    /// Their global norm.
    pub(super) norm: f64,
    /// What the update multiplies them by: at most 1, by the clipping.
    pub(super) factor: f64,
}

impl GradientGuard {
    /// Clips to the norm `clip`, or not at all.
    pub(super) fn new(clip: Option<f64>) -> Self {
        Self { clip, non_finite_in_a_row: 0 }
    }

    /// What the update of step `step` needs to know of gradients with this norm; or, for a step in which something is not
    /// finite, what it is: then the step must change nothing. `non_finite` is what was found before the gradients, such as
    /// the loss. With `scale_can_fall`, a gradient that overflowed says nothing about the run: the next loss scale may be
    /// small enough.
    ///
    /// # Errors
    /// After [`MAX_NON_FINITE`] such steps in a row.
    pub(super) fn admit(
        &mut self,
        non_finite: Option<String>,
        norm: GradientNorm,
        step: u64,
        scale_can_fall: bool,
    ) -> Result<Result<Admitted, String>, TrainingError> {
        let (what, excused) = match (non_finite, norm) {
            (Some(what), _) => (what, false),
            (None, GradientNorm::NonFinite(name)) => (format!("gradient of `{name}`"), scale_can_fall),
            (None, GradientNorm::Finite(norm)) => {
                self.non_finite_in_a_row = 0;
                let factor = self.clip.map_or(1.0, |limit| clip_factor(norm, limit));
                return Ok(Ok(Admitted { norm, factor }));
            }
        };
        if excused {
            return Ok(Err(what));
        }
        self.non_finite_in_a_row += 1;
        if self.non_finite_in_a_row >= MAX_NON_FINITE {
            return Err(TrainingError::NonFinite { what, count: self.non_finite_in_a_row, step });
        }
        Ok(Err(what))
    }
}

/// The norm that gradients are clipped to from the two spellings of the key; either one at 0 switches it off.
pub fn clip_limit(grad_clip: f32, grad_clip_norm: f32) -> Option<f64> {
    (grad_clip > 0.0 && grad_clip_norm > 0.0).then(|| f64::from(grad_clip.min(grad_clip_norm)))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn gradients(pairs: &[(&str, &[f32])]) -> NamedGradients {
        let tensor = |v: &[f32]| Tensor::from_data(TensorData::from(v), &Device::flex());
        NamedGradients(pairs.iter().map(|(name, values)| ((*name).to_owned(), tensor(values))).collect())
    }

    fn compute() -> Compute {
        Compute::new(&Device::flex())
    }

    #[test]
    fn micro_batches_add_up_by_name() {
        let mut sum = gradients(&[("a", &[1.0, 2.0])]);
        sum.add(gradients(&[("a", &[0.5, 0.5]), ("b", &[3.0])]));
        assert_eq!(sum.0["a"].clone().try_into_vec_as::<f32>().unwrap(), [1.5, 2.5]);
        assert_eq!(sum.0["b"].clone().try_into_vec_as::<f32>().unwrap(), [3.0]);
    }

    #[test]
    fn the_norm_is_global_and_clipping_reaches_it() {
        let mut g = gradients(&[("a", &[3.0]), ("b", &[0.0, 4.0])]);
        assert_eq!(g.norm(&compute()).unwrap(), GradientNorm::Finite(5.0));
        assert_eq!(clip_factor(5.0, 10.0), 1.0);
        g.multiply(clip_factor(5.0, 1.0));
        let GradientNorm::Finite(norm) = g.norm(&compute()).unwrap() else { panic!("not finite") };
        // The 1e−6 of the formula and float32.
        assert!((norm - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        let g = gradients(&[("a", &[1.0]), ("b", &[f32::NAN]), ("c", &[f32::INFINITY])]);
        assert_eq!(g.norm(&compute()).unwrap(), GradientNorm::NonFinite("b".to_owned()));
        let large = gradients(&[("a", &[3e38, 3e38])]);
        assert!(matches!(large.norm(&compute()).unwrap(), GradientNorm::Finite(n) if n > 4e38));
    }

    #[test]
    fn an_overflow_while_the_loss_scale_can_fall_does_not_count_and_a_loss_that_is_not_finite_does() {
        let mut guard = GradientGuard::new(None);
        let admit = |guard: &mut GradientGuard, loss: Option<&str>, can_fall: bool| {
            guard.admit(loss.map(str::to_owned), GradientNorm::NonFinite("a".to_owned()), 0, can_fall)
        };
        for _ in 0..3 * MAX_NON_FINITE {
            assert_eq!(admit(&mut guard, None, true).unwrap().unwrap_err(), "gradient of `a`");
        }
        for _ in 1..MAX_NON_FINITE {
            assert_eq!(admit(&mut guard, Some("loss"), true).unwrap().unwrap_err(), "loss");
        }
        // At the smallest scale it counts, too, and what did not count has not begun the count again.
        admit(&mut guard, None, true).unwrap().unwrap_err();
        assert!(admit(&mut guard, None, false).unwrap_err().to_string().contains("10 steps in a row"));
    }

    #[test]
    fn either_spelling_of_the_clip_switches_it_off() {
        assert_eq!(clip_limit(1.0, 0.5), Some(0.5));
        assert_eq!(clip_limit(0.0, 1.0), None);
        assert_eq!(clip_limit(1.0, 0.0), None);
    }
}
