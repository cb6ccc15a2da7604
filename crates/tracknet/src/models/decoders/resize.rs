//! Bilinear resize of feature maps.

use burn::tensor::Tensor;

/// Bilinear resize to `[height, width]` with half-pixel centres (`align_corners=False`); unchanged if it fits.
pub fn resize_bilinear(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if [height, width] == size { x } else { tracknet_kernels::resize_bilinear(x, size) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn samples_lie_at_half_pixels_and_a_fitting_size_changes_nothing() {
        let x = Tensor::<4>::from_data(TensorData::new(vec![0.0f32, 4.0], [1, 1, 1, 2]), &Device::flex());
        let y: Vec<f32> = resize_bilinear(x.clone(), [1, 4]).into_data().try_to_vec().unwrap();
        assert_eq!(y, [0.0, 1.0, 3.0, 4.0]);
        let same: Vec<f32> = resize_bilinear(x, [1, 2]).into_data().try_to_vec().unwrap();
        assert_eq!(same, [0.0, 4.0]);
    }
}
