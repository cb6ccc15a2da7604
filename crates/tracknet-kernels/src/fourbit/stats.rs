//! How far a 4-bit weight is from its source.

use super::{PackedWeight, QuantizeError};

/// Distances between a weight and its 4-bit form, in the weight's own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizationError {
    /// Mean of `|w - q(w)|`.
    pub mean_abs: f64,
    /// Largest `|w - q(w)|`.
    pub max_abs: f32,
    /// `sqrt(sum (w - q(w))^2 / sum w^2)`; 0 for an all-zero weight that is kept exactly.
    pub relative: f64,
}

impl PackedWeight {
    /// Compares with the source, row-major. The sums run in f64, in order, so the figures are reproducible.
    ///
    /// # Errors
    /// A source of another length.
    pub fn error_against(&self, source: &[f32]) -> Result<QuantizationError, QuantizeError> {
        let [out_features, in_features] = self.shape();
        let expected = self.num_elements();
        if source.len() != expected {
            let found = source.len();
            return Err(QuantizeError::Length { part: "weight", found, expected, out_features, in_features });
        }
        let (mut total, mut max, mut squared, mut power) = (0.0_f64, 0.0_f32, 0.0_f64, 0.0_f64);
        for (value, kept) in source.iter().zip(self.dequantize()) {
            let distance = (value - kept).abs();
            total += f64::from(distance);
            max = max.max(distance);
            squared += f64::from(distance).powi(2);
            power += f64::from(*value).powi(2);
        }
        let relative = if squared == 0.0 { 0.0 } else { (squared / power).sqrt() };
        Ok(QuantizationError { mean_abs: total / expected as f64, max_abs: max, relative })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fourbit::QuantizeOptions;

    #[test]
    fn values_on_the_code_have_no_error_and_others_their_distance() {
        let options = QuantizeOptions { double_quant: false, ..QuantizeOptions::default() };
        let exact = PackedWeight::quantize(&[2.0, -2.0, 0.0], [1, 3], &options).unwrap();
        let none = QuantizationError { mean_abs: 0.0, max_abs: 0.0, relative: 0.0 };
        assert_eq!(exact.error_against(&[2.0, -2.0, 0.0]), Ok(none));
        let found = exact.error_against(&[2.0, -2.5, 0.25]).unwrap();
        assert_eq!((found.mean_abs, found.max_abs), (0.25, 0.5));
        assert!(exact.error_against(&[0.0; 4]).is_err());
    }
}
