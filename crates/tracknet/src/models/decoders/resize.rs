//! Bilinear resize of feature maps.

use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor, TensorData};

use crate::models::is_cpu;

/// Bilinear resize to `[height, width]` with half-pixel centres (`align_corners=False`); unchanged if it fits.
pub fn resize_bilinear(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if [height, width] == size {
        return x;
    }
    if !has_native_backward(&x.device()) {
        return resize_by_products(x, size);
    }
    let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false).with_output_size(size);
    interpolate(x, options)
}

/// Burn's GPU backends interpolate forward only; asked for a gradient they panic.
fn has_native_backward(device: &Device) -> bool {
    is_cpu(device) || !device.is_autodiff()
}

/// The same resize as two products with interpolation matrices, which every backend can differentiate.
fn resize_by_products(x: Tensor<4>, [out_height, out_width]: [usize; 2]) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let device = x.device();
    let across = interpolation_matrix(width, out_width, &device);
    let down = interpolation_matrix(height, out_height, &device).transpose().unsqueeze::<3>();
    let x = x.reshape([batch * channels * height, width]).matmul(across);
    let x = down.matmul(x.reshape([batch * channels, height, out_width]));
    x.reshape([batch, channels, out_height, out_width])
}

/// `[from, to]`: column j holds the weights of the source samples in output sample j, half-pixel centres, edges
/// repeated.
fn interpolation_matrix(from: usize, to: usize, device: &Device) -> Tensor<2> {
    let mut weights = vec![0.0f32; from * to];
    let scale = from as f32 / to as f32;
    for column in 0..to {
        let source = ((column as f32 + 0.5) * scale - 0.5).max(0.0);
        let low = (source.floor() as usize).min(from - 1);
        let high = (low + 1).min(from - 1);
        let fraction = source - low as f32;
        weights[low * to + column] += 1.0 - fraction;
        weights[high * to + column] += fraction;
    }
    Tensor::from_data(TensorData::new(weights, [from, to]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn products_and_the_native_operation_agree_in_value_and_gradient() {
        let device = Device::flex().autodiff();
        for (from, to) in [([3, 5], [6, 10]), ([4, 7], [9, 5]), ([1, 2], [3, 4])] {
            let x = Tensor::<4>::random([2, 3, from[0], from[1]], Distribution::Default, &device);
            let [a, b] = [x.clone().require_grad(), x.require_grad()];
            let weight = Tensor::<4>::random([2, 3, to[0], to[1]], Distribution::Default, &device);
            let native = resize_bilinear(a.clone(), to);
            let products = resize_by_products(b.clone(), to);
            // Two orders of the same few additions: a handful of roundings apart.
            let tolerance = Tolerance::<f32>::absolute(1e-5);
            native.to_data().assert_approx_eq::<f32>(&products.to_data(), tolerance);
            let native = (native * weight.clone()).sum().backward();
            let products = (products * weight).sum().backward();
            let [native, products] = [a.grad(&native), b.grad(&products)].map(|g| g.unwrap().to_data());
            native.assert_approx_eq::<f32>(&products, tolerance);
        }
    }
}
