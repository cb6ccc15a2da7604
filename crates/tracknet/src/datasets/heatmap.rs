//! Where the ball of the original image lies on the heatmap, and back; the target that is trained towards.
//!
//! One type holds every size and transform between a file's pixels and the heatmap's, because a hard-coded scale is
//! the classic way to be wrong on the second dataset.
//!
//! A position is counted in pixels from the centre of the first, which is (0, 0): labels, drawings, resized frames, indices
//! of a heatmap. From the original's `W` to `Wi` of the input and `Wh` of the heatmap:
//!
//! | step | position |
//! |---|---|
//! | resize | `x = (X + ½) · Wi / W − ½`: what the resize does with the pixels' centres |
//! | flip | `x' = (Wi − 1) − x`, on the resized frame |
//! | target | `cx = X · Wh / W`, `X` being the place on the original, mirrored if the frame is |
//!
//! The last is the formula that models of this family are trained with. It lacks the half pixels of the resize, so that the
//! target lies `½ · (1 − Wh / W)` heatmap pixels after the ball's own place on the heatmap (0.4 from 1280 to 256, two pixels
//! of the original). A model learns that with everything else and the way back takes it off again, as long as it is the
//! same for every sample; therefore mirrored and zoomed frames get the same shift. Frames of different widths do not: it is
//! 0.1 heatmap pixels less for 640 than for 1280.

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
    /// Whether the resized frame was mirrored: `x' = (Wi − 1) − x`.
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

    /// Whether a native position lies in the part of the image that was resized.
    pub fn sees(&self, native: [f32; 2]) -> bool {
        let inside = |axis: usize| {
            let from_edge = f64::from(native[axis]) - self.crop[axis];
            (0.0..self.crop[axis + 2]).contains(&from_edge)
        };
        self.contains(native) && inside(0) && inside(1)
    }

    /// A native position on the resized frame: without crop and flip `x = (X + ½) · Wi / W − ½`.
    pub fn to_input(&self, native: [f32; 2]) -> [f32; 2] {
        self.input(native).map(|v| v as f32)
    }

    /// A native position on the heatmap: without crop and flip `cx = X · Wh / W`.
    pub fn to_heatmap(&self, native: [f32; 2]) -> [f32; 2] {
        let (input, [scale, shift]) = (self.input(native), [self.heatmap_scale(), self.target_shift()]);
        [0, 1].map(|axis| ((input[axis] + 0.5) * scale[axis] - 0.5 + shift[axis]) as f32)
    }

    /// A heatmap position in native pixels: the inverse of [`Geometry::to_heatmap`].
    pub fn to_native(&self, heatmap: [f32; 2]) -> [f32; 2] {
        let [scale, shift] = [self.heatmap_scale(), self.target_shift()];
        let input = [0, 1].map(|axis| (f64::from(heatmap[axis]) - shift[axis] + 0.5) / scale[axis] - 0.5);
        let input = self.mirrored(input);
        [0, 1].map(|axis| {
            ((input[axis] + 0.5) * self.crop[axis + 2] / self.input_size[axis] as f64 + self.crop[axis] - 0.5) as f32
        })
    }

    fn input(&self, native: [f32; 2]) -> [f64; 2] {
        self.mirrored([0, 1].map(|axis| {
            let in_crop = f64::from(native[axis]) + 0.5 - self.crop[axis];
            in_crop * self.input_size[axis] as f64 / self.crop[axis + 2] - 0.5
        }))
    }

    /// The position on the mirrored frame, if it is; both ways.
    fn mirrored(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [if self.flipped { self.input_size[0] as f64 - 1.0 - x } else { x }, y]
    }

    /// Heatmap pixels in a pixel of the input.
    fn heatmap_scale(&self) -> [f64; 2] {
        [0, 1].map(|axis| self.heatmap_size[axis] as f64 / self.input_size[axis] as f64)
    }

    /// How far behind its own place on the heatmap the formula of the target puts the ball: `½ · (1 − Wh / W)`.
    fn target_shift(&self) -> [f64; 2] {
        [0, 1].map(|axis| 0.5 * (1.0 - self.heatmap_size[axis] as f64 / self.native_size[axis] as f64))
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
        let plain = Geometry::whole([1280, 720], [512, 288], [256, 144]);
        let flipped = Geometry { flipped: true, ..plain };
        for x in [0.0f32, 250.0, 333.25, 1279.0] {
            let [a, b] = [plain, flipped].map(|geometry| geometry.to_input([x, 10.0]));
            assert!((a[0] + b[0] - 511.0).abs() < 1e-4 && a[1] == b[1], "{a:?} {b:?}");
            // The mirrored frame is the frame of a label that is mirrored on the original.
            let [a, b] = [plain.to_heatmap([1279.0 - x, 10.0]), flipped.to_heatmap([x, 10.0])];
            assert!((a[0] - b[0]).abs() < 1e-4 && a[1] == b[1], "{a:?} {b:?}");
        }
        // Without a resize, all is one.
        let same = Geometry { flipped: true, ..Geometry::whole([512, 288], [512, 288], [512, 288]) };
        assert_eq!((same.to_input([100.0, 4.0]), same.to_heatmap([100.0, 4.0])), ([411.0, 4.0], [411.0, 4.0]));
    }

    /// A frame with a bell of light at a place between pixels.
    fn frame([width, height]: [usize; 2], [x, y]: [f32; 2], sigma: f32) -> image::RgbImage {
        image::RgbImage::from_fn(width as u32, height as u32, |column, row| {
            let d2 = (column as f32 - x).powi(2) + (row as f32 - y).powi(2);
            image::Rgb([(250.0 * (-d2 / (2.0 * sigma * sigma)).exp()).round() as u8; 3])
        })
    }

    fn centroid(picture: &image::RgbImage) -> [f64; 2] {
        let (mut sum, mut at) = (0.0, [0.0; 2]);
        for (x, y, pixel) in picture.enumerate_pixels() {
            let weight = f64::from(pixel[0]);
            sum += weight;
            at = [at[0] + weight * f64::from(x), at[1] + weight * f64::from(y)];
        }
        at.map(|v| v / sum)
    }

    #[test]
    fn pixels_and_positions_go_the_same_way_through_crop_resize_and_flip() {
        for (native, input) in
            [([1280, 720], [512, 288]), ([640, 360], [512, 288]), ([180, 320], [256, 144]), ([97, 55], [97, 55])]
        {
            let whole = Geometry::whole(native, input, [input[0] / 2, input[1] / 2]);
            let [width, height] = native.map(|n| n as f64);
            let zoomed = Geometry { crop: [0.1 * width + 0.3, 0.2 * height, 0.6 * width, 0.6 * height], ..whole };
            for (step, geometry) in [whole, zoomed].into_iter().enumerate() {
                let place = [0.35 * native[0] as f32 + 0.3, 0.55 * native[1] as f32 + 0.7];
                let picture = frame(native, place, native[0] as f32 / 40.0);
                let crop = (step == 1).then_some(geometry.crop);
                let mut resized = crate::datasets::image::resize(&picture, crop, input).unwrap();
                for flipped in [false, true] {
                    let geometry = Geometry { flipped, ..geometry };
                    let (found, expected) = (centroid(&resized), geometry.to_input(place));
                    for axis in 0..2 {
                        let off = found[axis] - f64::from(expected[axis]);
                        assert!(off.abs() < 0.05, "{geometry:?}: {found:?} against {expected:?}");
                    }
                    image::imageops::flip_horizontal_in_place(&mut resized);
                }
            }
        }
    }

    #[test]
    fn the_target_is_shifted_alike_on_plain_mirrored_and_zoomed_frames() {
        let whole = Geometry::whole([1280, 720], [512, 288], [256, 144]);
        let zoomed = Geometry { crop: [100.5, 20.25, 640.0, 360.0], ..whole };
        for geometry in [whole, zoomed, Geometry { flipped: true, ..whole }, Geometry { flipped: true, ..zoomed }] {
            let (input, target) = (geometry.to_input([333.25, 99.5]), geometry.to_heatmap([333.25, 99.5]));
            // Pixel 0 of the heatmap lies over pixels 0 and 1 of the input.
            let own_place = input.map(|v| (v + 0.5) / 2.0 - 0.5);
            for axis in 0..2 {
                assert!((target[axis] - own_place[axis] - 0.4).abs() < 1e-4, "{geometry:?}");
            }
        }
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
        let zoomed = Geometry { crop: [100.0, 20.0, 640.0, 360.0], ..geometry };
        assert!(geometry.sees([1279.9, 719.9]) && zoomed.sees([100.0, 379.9]));
        assert!(!geometry.sees([1280.0, 5.0]) && !zoomed.sees([99.9, 30.0]) && !zoomed.sees([740.0, 30.0]));
    }
}
