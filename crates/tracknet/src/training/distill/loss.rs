//! How far a student's feature is from the teacher's.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::compute::DeviceError;
use crate::error::Result;
use crate::training::TrainingError;
use crate::training::loss::LossSum;

/// Squared lengths below this count as this, so that a feature of zeros has a direction to be learned.
const SMALLEST_SQUARE: f32 = 1e-16;

/// A distance between features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistillLoss {
    /// `1 − cos(s, t)`: the direction.
    Cosine,
    /// Mean of `(s − t)²` over the features: direction and length.
    Mse,
}

impl DistillLoss {
    /// The distance of each row of `student` from that of `teacher`, both `[rows, features]`: `[rows]`.
    ///
    /// The cosine distance is taken as `½·‖s/‖s‖ − t/‖t‖‖²`, which is the same number without the cancellation of `1 − cos`
    /// near zero, where a student that equals its teacher starts.
    pub fn per_sample(self, student: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        let [rows, _] = student.dims();
        let distance = match self {
            Self::Cosine => (unit(student) - unit(teacher)).square().sum_dim(1).mul_scalar(0.5),
            Self::Mse => (student - teacher).square().mean_dim(1),
        };
        distance.reshape([rows])
    }

    /// The sum over the rows; `scaled` is divided by `weight`, the rows of the whole batch.
    ///
    /// # Errors
    /// The shapes differ, or the backend fails.
    pub fn sum(self, student: Tensor<2>, teacher: Tensor<2>, weight: f64) -> Result<LossSum> {
        let (found, expected) = (student.dims(), teacher.dims());
        if found != expected {
            let text = format!("the student's features are {found:?} ([rows, features]), the teacher's {expected:?}");
            return Err(TrainingError::Mismatch(text).into());
        }
        let distances = self.per_sample(student, teacher);
        // Added up on the host in order, as everywhere: a reduction on the device may depend on its threads.
        let rows = distances.clone().inner().try_into_vec_as::<f32>();
        let rows = rows.map_err(|e| DeviceError::new("loss", e))?;
        Ok(LossSum {
            scaled: distances.sum().div_scalar(weight.max(1.0)),
            sum: rows.iter().map(|&v| f64::from(v)).sum(),
        })
    }
}

/// Rows of length 1.
fn unit(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().square().sum_dim(1).clamp_min(SMALLEST_SQUARE).sqrt();
    x / length
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    const LOSSES: [DistillLoss; 2] = [DistillLoss::Cosine, DistillLoss::Mse];
    const SHAPE: [usize; 2] = [3, 5];

    fn tensor(values: &[f64], shape: [usize; 2], device: &Device) -> Tensor<2> {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.try_into_vec_as::<f32>().unwrap()
    }

    /// The textbook formulas in float64, summed over the rows.
    fn reference(loss: DistillLoss, student: &[f64], teacher: &[f64]) -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let row = |(s, t): (&[f64], &[f64])| match loss {
            DistillLoss::Cosine => 1.0 - dot(s, t) / (dot(s, s) * dot(t, t)).sqrt(),
            DistillLoss::Mse => s.iter().zip(t).map(|(s, t)| (s - t).powi(2)).sum::<f64>() / s.len() as f64,
        };
        student.chunks(SHAPE[1]).zip(teacher.chunks(SHAPE[1])).map(row).sum()
    }

    fn sample() -> (Vec<f64>, Vec<f64>) {
        let n = SHAPE[0] * SHAPE[1];
        let student = (0..n).map(|i| (1.3 * i as f64).sin() + 0.2).collect();
        let teacher = (0..n).map(|i| 2.0 * (0.7 * i as f64 + 0.5).cos()).collect();
        (student, teacher)
    }

    #[test]
    fn distances_are_those_computed_by_hand() {
        let device = Device::flex();
        let student = tensor(&[3.0, 4.0, 1.0, 0.0, 2.0, 0.0], [3, 2], &device);
        let teacher = tensor(&[4.0, 3.0, 0.0, 5.0, -1.0, 0.0], [3, 2], &device);
        // cos = 24/25, 0 and −1.
        let cosine = values(DistillLoss::Cosine.per_sample(student.clone(), teacher.clone()));
        for (found, expected) in cosine.iter().zip([0.04, 1.0, 2.0]) {
            // A few float32 roundings of numbers near 1.
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        // (1 + 1)/2, (1 + 25)/2, 9/2: exact in float32.
        assert_eq!(values(DistillLoss::Mse.per_sample(student, teacher)), [1.0, 13.0, 4.5]);
    }

    #[test]
    fn sums_and_gradients_are_those_of_the_textbook_formulas() {
        let device = Device::flex().autodiff();
        let (student, teacher) = sample();
        for loss in LOSSES {
            let x = tensor(&student, SHAPE, &device).require_grad();
            let weight = 7.0;
            let found = loss.sum(x.clone(), tensor(&teacher, SHAPE, &device), weight).unwrap();
            let expected = reference(loss, &student, &teacher);
            // Fifteen float32 values of size 1.
            assert!((found.sum - expected).abs() < 1e-5 * expected, "{loss:?}: {} {expected}", found.sum);
            let gradient = values(x.grad(&found.scaled.backward()).unwrap());
            for (i, &g) in gradient.iter().enumerate() {
                let shifted = |by: f64| {
                    let mut moved = student.clone();
                    moved[i] += by;
                    reference(loss, &moved, &teacher)
                };
                let h = 1e-5;
                let numeric = (shifted(h) - shifted(-h)) / (2.0 * h) / weight;
                // The finite difference is good to 1e-9; the rest is float32.
                assert!((f64::from(g) - numeric).abs() < 1e-6, "{loss:?}[{i}]: {g} {numeric}");
            }
        }
    }

    #[test]
    fn equal_features_are_at_distance_zero_and_rest_there() {
        let device = Device::flex().autodiff();
        let (student, _) = sample();
        for loss in LOSSES {
            let x = tensor(&student, SHAPE, &device).require_grad();
            let found = loss.sum(x.clone(), tensor(&student, SHAPE, &device), 3.0).unwrap();
            assert_eq!(found.sum, 0.0, "{loss:?}");
            let gradient = values(x.grad(&found.scaled.backward()).unwrap());
            assert!(gradient.iter().all(|&g| g == 0.0), "{loss:?}: {gradient:?}");
        }
    }

    #[test]
    fn a_feature_of_zeros_gives_finite_numbers() {
        let device = Device::flex().autodiff();
        for loss in LOSSES {
            let x = Tensor::<2>::zeros([1, 4], &device).require_grad();
            let found = loss.sum(x.clone(), Tensor::ones([1, 4], &device), 1.0).unwrap();
            let gradient = values(x.grad(&found.scaled.backward()).unwrap());
            assert!(found.sum.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss:?}: {gradient:?}");
        }
    }

    #[test]
    fn features_of_different_shapes_are_refused_with_both() {
        let device = Device::flex();
        let (a, b) = (Tensor::<2>::zeros([2, 3], &device), Tensor::<2>::zeros([2, 4], &device));
        let message = DistillLoss::Mse.sum(a, b, 2.0).unwrap_err().to_string();
        assert!(message.contains("[2, 3]") && message.contains("[2, 4]"), "{message}");
    }
}
