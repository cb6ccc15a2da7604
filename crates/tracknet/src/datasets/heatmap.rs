//! Where the ball of the original image lies on the heatmap, and back; the target that is trained towards.
//!
//! One type holds every size and transform between a file's pixels and the heatmap's, because a hard-coded scale is
//! the classic way to be wrong on the second dataset.

/// The way from native pixels through crop, resize and flip to heatmap pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// Size of the original image as `[W, H]`.
    pub native_size: [usize; 2],
    /// Size of the model's input as `[W, H]`.
    pub input_size: [usize; 2],
    /// Size of the heatmap as `[Wh, Hh]`.
    pub heatmap_size: [usize; 2],
    /// The part of the original that was resized, as `[left, top, width, height]` in native pixels.
    pub crop: [f64; 4],
    /// Whether the resized frame was mirrored: `x' = (W − 1) − x`.
    pub flipped: bool,
}

impl Geometry {
    /// The whole image, not mirrored.
    pub fn whole(native_size: [usize; 2], input_size: [usize; 2], heatmap_size: [usize; 2]) -> Self {
        let crop = [0.0, 0.0, native_size[0] as f64, native_size[1] as f64];
        Self { native_size, input_size, heatmap_size, crop, flipped: false }
    }

    /// Whether a native position lies in the image: `0 ≤ x < W`, `0 ≤ y < H`.
    pub fn contains(&self, native: [f32; 2]) -> bool {
        (0..2).all(|axis| native[axis] >= 0.0 && native[axis] < self.native_size[axis] as f32)
    }

    /// A native position on the resized frame: without crop and flip `x = X · Wi / W`.
    pub fn to_input(&self, native: [f32; 2]) -> [f32; 2] {
        let mut xy = [0, 1].map(|axis| {
            (f64::from(native[axis]) - self.crop[axis]) * self.input_size[axis] as f64 / self.crop[axis + 2]
        });
        if self.flipped {
            xy[0] = self.input_size[0] as f64 - 1.0 - xy[0];
        }
        xy.map(|v| v as f32)
    }

    /// A native position on the heatmap: without crop and flip `cx = X · Wh / W`.
    pub fn to_heatmap(&self, native: [f32; 2]) -> [f32; 2] {
        let input = self.to_input(native);
        [0, 1]
            .map(|axis| (f64::from(input[axis]) * self.heatmap_size[axis] as f64 / self.input_size[axis] as f64) as f32)
    }

    /// A heatmap position in native pixels: the inverse of [`Geometry::to_heatmap`].
    pub fn to_native(&self, heatmap: [f32; 2]) -> [f32; 2] {
        let mut input =
            [0, 1].map(|axis| f64::from(heatmap[axis]) * self.input_size[axis] as f64 / self.heatmap_size[axis] as f64);
        if self.flipped {
            input[0] = self.input_size[0] as f64 - 1.0 - input[0];
        }
        [0, 1].map(|axis| (input[axis] * self.crop[axis + 2] / self.input_size[axis] as f64 + self.crop[axis]) as f32)
    }
}

/// Writes `exp(−((x − cx)² + (y − cy)²) / (2σ²))` into `target`, row by row; `target` is `[Hh, Wh]`.
///
/// The Gaussian is a product of one row and one column, so a heatmap costs `Wh + Hh` exponentials. Values too small
/// for a normal `f32` are written as zero: subnormal numbers slow the CPU down and change nothing.
pub fn render_target(target: &mut [f32], size: [usize; 2], center: [f32; 2], sigma: f32) {
    let bell = |length: usize, center: f32| -> Vec<f64> {
        let scale = -0.5 / (f64::from(sigma) * f64::from(sigma));
        (0..length).map(|i| (scale * (i as f64 - f64::from(center)).powi(2)).exp()).collect()
    };
    let (row, column) = (bell(size[0], center[0]), bell(size[1], center[1]));
    for (line, y) in target.chunks_mut(size[0].max(1)).zip(column) {
        for (value, x) in line.iter_mut().zip(&row) {
            let product = (x * y) as f32;
            *value = if product < f32::MIN_POSITIVE { 0.0 } else { product };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_the_formula_at_odd_sizes() {
        let (size, native) = ([37, 19], [1281, 721]);
        let label = [640.25f32, 123.5];
        let geometry = Geometry::whole(native, [97, 55], size);
        let center = geometry.to_heatmap(label);
        assert!((center[0] - 640.25 * 37.0 / 1281.0).abs() < 1e-5, "{center:?}");
        assert!((center[1] - 123.5 * 19.0 / 721.0).abs() < 1e-5, "{center:?}");
        let mut target = vec![f32::NAN; 37 * 19];
        render_target(&mut target, size, center, 2.0);
        for y in 0..19 {
            for x in 0..37 {
                let d2 = (x as f32 - center[0]).powi(2) + (y as f32 - center[1]).powi(2);
                // One rounding of f32 in the distance of the reference.
                assert!((target[y * 37 + x] - (-d2 / 8.0).exp()).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_ball_on_a_pixel_has_a_peak_of_exactly_one() {
        let mut target = vec![0.0; 15];
        render_target(&mut target, [5, 3], [2.0, 1.0], 1.5);
        assert_eq!(target[7], 1.0);
        assert!(target.iter().all(|v| *v > 0.0));
    }

    #[test]
    fn the_flip_mirrors_pixel_centres_of_the_resized_frame() {
        let geometry = Geometry { flipped: true, ..Geometry::whole([1280, 720], [512, 288], [512, 288]) };
        assert_eq!(geometry.to_input([0.0, 10.0]), [511.0, 4.0]);
        assert_eq!(geometry.to_input([250.0, 10.0]), [411.0, 4.0]);
        // On a smaller heatmap the mirror is still that of the resized frame: x = 411 lies at 411 / 2.
        let half = Geometry { heatmap_size: [256, 144], ..geometry };
        assert_eq!(half.to_heatmap([250.0, 10.0]), [205.5, 2.0]);
    }

    #[test]
    fn native_positions_survive_crop_flip_and_resize() {
        let geometry = Geometry {
            crop: [100.5, 20.25, 640.0, 360.0],
            flipped: true,
            ..Geometry::whole([1281, 719], [512, 288], [256, 144])
        };
        let native = geometry.to_native(geometry.to_heatmap([333.25, 99.5]));
        // Two roundings to f32 of values near 500.
        assert!((native[0] - 333.25).abs() < 1e-3 && (native[1] - 99.5).abs() < 1e-3, "{native:?}");
    }

    #[test]
    fn the_right_and_bottom_edges_are_outside() {
        let geometry = Geometry::whole([1280, 720], [512, 288], [256, 144]);
        assert!(geometry.contains([0.0, 0.0]) && geometry.contains([1279.9, 719.9]));
        assert!(!geometry.contains([1280.0, 5.0]) && !geometry.contains([5.0, 720.0]));
        assert!(!geometry.contains([-0.1, 5.0]) && !geometry.contains([f32::NAN, 5.0]));
    }
}
