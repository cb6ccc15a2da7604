//! Where a token is: rotary embeddings and resampled position tables.

use burn::tensor::{Device, Tensor, TensorData};
use tracknet_kernels::attention::Rotary;
use tracknet_kernels::matmul::matmul;

use super::spec::{Resampling, VitSpec};

/// Cosines and sines, `[tokens, head / 2]` each.
pub(super) type Rotation = (Vec<f32>, Vec<f32>);

/// The rotary embedding of a grid of patches, as DINOv3 has it (Siméoni et al., 2025; RoFormer, Su et al., 2021, in two
/// directions).
pub(super) fn rotary(spec: &VitSpec, theta: f32, grid: [usize; 2], device: &Device) -> Rotary {
    let (cos, sin) = rotation(spec, theta, grid);
    Rotary::new(cos, &sin, spec.prefix_tokens() + grid[0] * grid[1], device)
}

/// By how much [`rotary`] rotates each pair of numbers of a token. Class and register tokens are not rotated.
pub(super) fn rotation(spec: &VitSpec, theta: f32, [rows, columns]: [usize; 2]) -> Rotation {
    let head = spec.hidden / spec.heads;
    let unrotated = spec.prefix_tokens() * (head / 2);
    let (mut cos, mut sin) = (vec![1.0; unrotated], vec![0.0; unrotated]);
    for row in 0..rows {
        for column in 0..columns {
            let angles = angles(head, theta, [centre(row, rows), centre(column, columns)]);
            cos.extend(angles.iter().map(|a| libm::cosf(*a)));
            sin.extend(angles.iter().map(|a| libm::sinf(*a)));
        }
    }
    (cos, sin)
}

/// The centre of patch `index` of `count`, in −1..1.
fn centre(index: usize, count: usize) -> f32 {
    2.0 * ((index as f32 + 0.5) / count as f32) - 1.0
}

/// The angles of the pairs of one head: row frequencies, then column frequencies.
fn angles(head: usize, theta: f32, position: [f32; 2]) -> Vec<f32> {
    let quarter = head / 4;
    let frequencies = (0..quarter).map(|i| 1.0 / libm::powf(theta, i as f32 / quarter as f32));
    position.into_iter().flat_map(|p| frequencies.clone().map(move |f| std::f32::consts::TAU * p * f)).collect()
}

/// Brings a position table `[1, 1 + grid·grid, hidden]` to `rows × columns` patches.
///
/// Resampling is linear and separable, so it is two matrix products, which also carry the gradient of a table that
/// trains. A table that already has the right grid is returned unchanged.
pub(super) fn resample_table(
    table: Tensor<3>,
    grid: usize,
    [rows, columns]: [usize; 2],
    resampling: Resampling,
) -> Tensor<3> {
    if [rows, columns] == [grid, grid] {
        return table;
    }
    let device = table.device();
    let hidden = table.dims()[2];
    let class = table.clone().slice([0..1, 0..1, 0..hidden]);
    let patches = table.slice([0..1, 1..1 + grid * grid, 0..hidden]);
    let weights = |size: usize| {
        let values = resampling_matrix(grid, size, resampling);
        Tensor::<2>::from_data(TensorData::new(values, [size, grid]), &device)
    };
    let by_row = matmul(weights(rows), patches.reshape([grid, grid * hidden]));
    let by_column = matmul(weights(columns).unsqueeze::<3>(), by_row.reshape([rows, grid, hidden]));
    Tensor::cat(vec![class, by_column.reshape([1, rows * columns, hidden])], 1)
}

/// The `[to, from]` weights of cubic resampling with half-pixel centres.
///
/// Without antialiasing: the four nearest samples, the border repeated, `a = −0.75`. With it: the kernel widened by
/// the shrink factor, cut at the border and renormalized, `a = −0.5`. Both as PyTorch does it.
fn resampling_matrix(from: usize, to: usize, resampling: Resampling) -> Vec<f32> {
    let scale = from as f64 / to as f64;
    let mut matrix = vec![0f32; to * from];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let centre = scale * (i as f64 + 0.5);
        match resampling {
            Resampling::Bicubic => {
                let nearest = (centre - 0.5).floor();
                for tap in -1..=2 {
                    let position = nearest + f64::from(tap);
                    let index = position.clamp(0.0, from as f64 - 1.0) as usize;
                    row[index] += cubic(centre - 0.5 - position, -0.75) as f32;
                }
            }
            Resampling::BicubicAntialias => {
                let widening = scale.max(1.0);
                let support = 2.0 * widening;
                let first = ((centre - support + 0.5).max(0.0)) as usize;
                let end = ((centre + support + 0.5) as usize).min(from);
                let weights: Vec<f64> =
                    (first..end).map(|j| cubic((j as f64 + 0.5 - centre) / widening, -0.5)).collect();
                let total: f64 = weights.iter().sum();
                for (cell, weight) in row.iter_mut().skip(first).zip(&weights) {
                    *cell = (weight / total) as f32;
                }
            }
        }
    }
    matrix
}

/// Keys' cubic convolution kernel (1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resampling_weights_of_every_output_sum_to_one() {
        for resampling in [Resampling::Bicubic, Resampling::BicubicAntialias] {
            for (from, to) in [(4, 6), (4, 2), (7, 7), (37, 18), (1, 5)] {
                for row in resampling_matrix(from, to, resampling).chunks_exact(from) {
                    // f32 rounding of at most a few dozen weights.
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{from}→{to}");
                }
            }
        }
    }

    #[test]
    fn a_size_that_does_not_change_is_resampled_to_itself() {
        let matrix = resampling_matrix(3, 3, Resampling::Bicubic);
        assert_eq!(matrix, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
