//! Bilinear and nearest resize of feature maps.

use burn::tensor::{Int, Tensor, TensorData};

use crate::models::graph::{Graph, Traced};

/// Bilinear resize to `[height, width]` with half-pixel centres (`align_corners=False`); unchanged if it fits.
pub fn resize_bilinear(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if [height, width] == size { x } else { tracknet_kernels::resize_bilinear(x, size) }
}

/// Nearest resize to `[height, width]` as PyTorch has it: cell `i` of `to` takes `⌊i · from / to⌋`; unchanged if it fits.
pub fn resize_nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    (0..2).fold(x, |x, axis| {
        let (from, to) = (x.dims()[2 + axis], size[axis]);
        if from == to {
            return x;
        }
        let indices: Vec<i32> = nearest(from, to).map(|index| index as i32).collect();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [to]), &x.device());
        x.select(2 + axis, indices)
    })
}

/// [`resize_nearest`] as part of a graph.
pub(super) fn trace_nearest(graph: &mut Graph, x: &Traced, size: [usize; 2]) -> Traced {
    (0..2).fold(x.clone(), |x, axis| match (x.shape[1 + axis], size[axis]) {
        (from, to) if from == to => x,
        (from, to) => graph.select(&x, 2 + axis, nearest(from, to).collect()),
    })
}

/// The cell of `from` that each of `to` takes.
fn nearest(from: usize, to: usize) -> impl Iterator<Item = usize> {
    (0..to).map(move |i| i * from / to)
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

    #[test]
    fn nearest_takes_the_cell_below_for_any_ratio() {
        let x = Tensor::<4>::from_data(
            TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [1, 1, 2, 3]),
            &Device::flex(),
        );
        let y: Vec<f32> = resize_nearest(x, [3, 5]).into_data().try_to_vec().unwrap();
        assert_eq!(y, [1.0, 1.0, 2.0, 2.0, 3.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0]);
    }
}
