//! What is measured of a student beside its training: its loss on held-out crops, and how long a forward pass takes.

use std::time::Instant;

use burn::module::Module;
use image::RgbImage;

use crate::compute::{Compute, DeviceError};
use crate::error::Result;
use crate::models::VisitLayers;
use crate::training::TrainingError;

use super::feature::FeatureModel;
use super::step::{DistillStep, rows};

/// Forward passes before the clock is read.
const WARM_UP: usize = 3;
/// Timed forward passes of one crop, and of a batch.
const TIMED: [usize; 2] = [25, 9];

impl DistillStep<'_> {
    /// The mean losses on the held-out crops: on their views, and on the clean crops that the teacher saw.
    pub(super) fn validate(&self, model: &FeatureModel, views: &[RgbImage], compute: &Compute) -> Result<[f64; 2]> {
        let model = model.valid();
        let mean = |pictures: &[RgbImage]| -> Result<f64> {
            let sums = model.map_features(pictures, &self.normalizer, compute, |range, features| {
                let teacher = rows(&self.targets.validation, self.targets.features, range, compute.device());
                Ok(self.options.loss.sum(features, teacher, 1.0)?.sum)
            })?;
            let mean = sums.iter().sum::<f64>() / pictures.len() as f64;
            if mean.is_finite() {
                return Ok(mean);
            }
            Err(TrainingError::Mismatch(format!("the validation loss is {mean}; try a lower learning rate")).into())
        };
        Ok([mean(views)?, mean(&self.crops.validation)?])
    }

    /// Median milliseconds of forward passes without gradients: of one crop, and of a batch of crops.
    pub(super) fn time(&self, model: &FeatureModel, compute: &Compute) -> Result<[f64; 2]> {
        let model = model.valid();
        let crops: Vec<RgbImage> = self.crops.train.iter().cycle().take(self.options.batch_size).cloned().collect();
        let pass = |pictures: &[RgbImage]| -> Result<f64> {
            let clock = Instant::now();
            model.map_features(pictures, &self.normalizer, compute, |_, features| {
                // Reading the values back ends the work on every device.
                Ok(features.try_into_vec_as::<f32>().map_err(|e| DeviceError::new("features", e))?)
            })?;
            Ok(clock.elapsed().as_secs_f64() * 1e3)
        };
        let [one, batch] = TIMED;
        let time = |pictures: &[RgbImage], count: usize| -> Result<f64> {
            let times: Vec<f64> = (0..WARM_UP + count).map(|_| pass(pictures)).collect::<Result<_>>()?;
            Ok(median(times[WARM_UP..].to_vec()))
        };
        Ok([time(&crops[..1], one)?, time(&crops, batch)?])
    }
}

/// How many linear layers the backbone has, and how many of them are in 4 bits.
pub(super) fn layers(model: &FeatureModel) -> (usize, usize) {
    let (mut all, mut packed) = (0, 0);
    model.backbone.visit_linears(&mut |_, linear| {
        all += 1;
        packed += usize::from(linear.is_quantized());
    });
    (all, packed)
}

/// The middle of some times, or between the two middle ones; 0 of none.
pub(super) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    match times.len() {
        0 => 0.0,
        count => f64::midpoint(times[(count - 1) / 2], times[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!([vec![5.0, 1.0, 3.0], vec![4.0, 1.0, 3.0, 2.0], vec![]].map(median), [3.0, 2.5, 0.0]);
    }
}
