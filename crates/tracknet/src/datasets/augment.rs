//! Opt-in augmentations of training frames: zoom crop, flip, colour jitter, blur, noise, JPEG.
//!
//! Everything a sample draws comes from one stream keyed by `(seed, epoch, index)`, in two steps: the plan is drawn
//! before anything is decoded (the crop decides what to decode), the pixels change afterwards.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

use crate::config::AugmentConfig;
use tracknet_random::Stream;

/// What the stream of one sample decided about its geometry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Mirror the resized frame.
    pub(crate) flip: bool,
    /// Zoom factor and the position of the window, each as a uniform number in `[0, 1)`.
    pub(crate) zoom: Option<(f64, [f64; 2])>,
}

impl Plan {
    /// Draws the plan; the number of draws does not depend on the configuration.
    pub(crate) fn draw(stream: &mut Stream, flip_prob: f32, config: &AugmentConfig) -> Self {
        let flip = stream.chance(flip_prob);
        let zoomed = stream.chance(config.zoom_prob);
        let factor = stream.range(1.0, config.zoom_max.max(1.0));
        let place = [stream.uniform(), stream.uniform()].map(f64::from);
        Self { flip, zoom: zoomed.then_some((f64::from(factor), place)) }
    }

    /// The window `[left, top, width, height]` in native pixels that the plan takes from an image of this size.
    ///
    /// A labelled ball stays inside: the window is placed among those that hold it, since a ball that is cropped away
    /// would turn a positive into a frame that teaches nothing. Of several `balls` the first does for certain, and each
    /// further one where that leaves room for it.
    pub(crate) fn window(&self, native_size: [usize; 2], balls: &[[f32; 2]]) -> Option<[f64; 4]> {
        let (factor, place) = self.zoom?;
        let size = native_size.map(|n| n as f64);
        let window = size.map(|n| (n / factor).clamp(1.0, n));
        let start = [0, 1].map(|axis| {
            let (mut low, mut high) = (0.0, size[axis] - window[axis]);
            for ball in balls.iter().map(|xy| f64::from(xy[axis])) {
                // One pixel of margin, so that rounding cannot put the ball on the excluded right edge.
                low = f64::max(low, ball + 1.0 - window[axis]).min(high);
                high = f64::min(high, ball).max(low);
            }
            low + (high - low) * place[axis]
        });
        Some([start[0], start[1], window[0], window[1]])
    }
}

/// What was drawn for the pixels of a frame, to change the other frames of its window in the same way.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PixelPlan {
    jitter: Option<Jitter>,
    /// Deviation of the blur, in pixels.
    blur: Option<f32>,
    /// Deviation of the noise, in grey levels.
    noise: Option<f32>,
    /// Quality of the JPEG file.
    jpeg: Option<u8>,
}

/// Changes the pixels of a resized frame; the ball stays where it is. Returns what was drawn, too.
///
/// # Errors
/// A failure of the JPEG codec, with its reason.
pub(crate) fn change_pixels(
    frame: RgbImage,
    stream: &mut Stream,
    config: &AugmentConfig,
) -> Result<(RgbImage, PixelPlan), String> {
    let (mut frame, mut plan) = (frame, PixelPlan::default());
    if stream.chance(config.color_jitter_prob) {
        let jitter = Jitter::draw(stream, config.color_jitter, &frame);
        jitter.apply(&mut frame);
        plan.jitter = Some(jitter);
    }
    if stream.chance(config.blur_prob) {
        let deviation = stream.range(0.3, 1.2);
        frame = image::imageops::blur(&frame, deviation);
        plan.blur = Some(deviation);
    }
    if stream.chance(config.noise_prob) {
        let deviation = config.noise_std * stream.uniform();
        add_noise(&mut frame, deviation, stream);
        plan.noise = Some(deviation);
    }
    if stream.chance(config.jpeg_prob) {
        let [low, high] = config.jpeg_quality;
        let quality = low.saturating_add(stream.below(usize::from(high.saturating_sub(low)) + 1) as u8);
        let quality = quality.clamp(1, 100);
        frame = reencode(&frame, quality)?;
        plan.jpeg = Some(quality);
    }
    Ok((frame, plan))
}

impl PixelPlan {
    /// Changes another frame as the plan says; its noise comes from `noise`.
    ///
    /// # Errors
    /// A failure of the JPEG codec, with its reason.
    pub(crate) fn apply(&self, frame: RgbImage, noise: &mut Stream) -> Result<RgbImage, String> {
        let mut frame = frame;
        if let Some(jitter) = &self.jitter {
            jitter.apply(&mut frame);
        }
        if let Some(deviation) = self.blur {
            frame = image::imageops::blur(&frame, deviation);
        }
        if let Some(deviation) = self.noise {
            add_noise(&mut frame, deviation, noise);
        }
        match self.jpeg {
            Some(quality) => reencode(&frame, quality),
            None => Ok(frame),
        }
    }
}

/// Adds noise that is normal but for its tails: the sum of the eight bytes of a random number, which ends at ±4.9 deviations.
fn add_noise(frame: &mut RgbImage, deviation: f32, stream: &mut Stream) {
    let step = deviation / BYTES_DEVIATION;
    for value in frame.iter_mut() {
        *value = to_grey(f32::from(*value) + step * (sum_of_bytes(stream.next_u64()) - BYTES_MEAN));
    }
}

/// Mean of the sum of eight bytes, each uniform in `0..=255`.
const BYTES_MEAN: f32 = 8.0 * 127.5;
/// Its deviation, `√(8 · (256² − 1) / 12)`.
const BYTES_DEVIATION: f32 = 209.020_73;

fn sum_of_bytes(number: u64) -> f32 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let pairs = (number & EVEN) + ((number >> 8) & EVEN);
    // The product adds the four sums of 16 bits up in the highest place.
    (pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48) as f32
}

/// The nearest grey level: a cast from float to integer cuts off and saturates.
fn to_grey(value: f32) -> u8 {
    (value + 0.5) as u8
}

/// Brightness, contrast and saturation by factors in `1 ± strength`, hue by an angle up to `18° · strength / 0.3`: one affine
/// map of colours.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Jitter {
    /// Rows of the new red, green and blue.
    matrix: [[f32; 3]; 3],
    offset: [f32; 3],
}

/// The YIQ axes (NTSC primaries), and the way back.
const TO_YIQ: [[f32; 3]; 3] = [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]];
const FROM_YIQ: [[f32; 3]; 3] = [[1.0, 0.956, 0.619], [1.0, -0.272, -0.647], [1.0, -1.106, 1.703]];

impl Jitter {
    fn draw(stream: &mut Stream, strength: f32, frame: &RgbImage) -> Self {
        let mut factor = || 1.0 + strength * stream.range(-1.0, 1.0);
        let (brightness, contrast, saturation) = (factor(), factor(), factor());
        let angle = strength * stream.range(-1.0, 1.0) * std::f32::consts::PI / 3.0;
        // Saturation scales and hue turns the two chroma axes.
        let (sin, cos) = angle.sin_cos();
        let chroma =
            [[1.0, 0.0, 0.0], [0.0, saturation * cos, -saturation * sin], [0.0, saturation * sin, saturation * cos]];
        let turned = product(&FROM_YIQ, &product(&chroma, &TO_YIQ));
        // Contrast leaves the mean luma of the frame in its new brightness as it is.
        let pivot = (1.0 - contrast) * brightness * mean_luma(frame);
        let matrix = turned.map(|row| row.map(|v| v * brightness * contrast));
        Self { matrix, offset: turned.map(|row| row.iter().sum::<f32>() * pivot) }
    }

    fn apply(&self, frame: &mut RgbImage) {
        let Self { matrix: [r, g, b], offset } = *self;
        for Rgb(pixel) in frame.pixels_mut() {
            let [x, y, z] = pixel.map(f32::from);
            *pixel = [
                to_grey(r[0] * x + r[1] * y + r[2] * z + offset[0]),
                to_grey(g[0] * x + g[1] * y + g[2] * z + offset[1]),
                to_grey(b[0] * x + b[1] * y + b[2] * z + offset[2]),
            ];
        }
    }
}

fn product(a: &[[f32; 3]; 3], b: &[[f32; 3]; 3]) -> [[f32; 3]; 3] {
    a.map(|row| std::array::from_fn(|j| (0..3).map(|k| row[k] * b[k][j]).sum()))
}

fn mean_luma(frame: &RgbImage) -> f32 {
    let mut sums = [0u64; 3];
    for Rgb(pixel) in frame.pixels() {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(*value);
        }
    }
    let pixels = frame.pixels().len().max(1) as f64;
    TO_YIQ[0].iter().zip(sums).map(|(weight, sum)| f64::from(*weight) * sum as f64 / pixels).sum::<f64>() as f32
}

fn reencode(frame: &RgbImage, quality: u8) -> Result<RgbImage, String> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    frame.write_with_encoder(encoder).map_err(|e| format!("JPEG augmentation: {e}"))?;
    let decoded = image::load(Cursor::new(bytes), image::ImageFormat::Jpeg);
    Ok(decoded.map_err(|e| format!("JPEG augmentation: {e}"))?.into_rgb8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> RgbImage {
        RgbImage::from_fn(48, 32, |x, y| Rgb([(x * 5) as u8, (y * 8) as u8, (x * y) as u8]))
    }

    fn change(config: &AugmentConfig, key: u64) -> RgbImage {
        change_pixels(frame(), &mut Stream::keyed(&[key]), config).unwrap().0
    }

    #[test]
    fn each_augmentation_changes_pixels_the_same_way_for_the_same_key() {
        let off = AugmentConfig::default();
        assert_eq!(change(&off, 1), frame());
        let cases = [
            AugmentConfig { color_jitter_prob: 1.0, ..off.clone() },
            AugmentConfig { blur_prob: 1.0, ..off.clone() },
            AugmentConfig { noise_prob: 1.0, ..off.clone() },
            AugmentConfig { jpeg_prob: 1.0, ..off },
        ];
        for config in cases {
            let once = change(&config, 1);
            assert_ne!(once, frame(), "{config:?}");
            assert_eq!(once.dimensions(), (48, 32));
            assert_eq!(once, change(&config, 1), "{config:?}");
            assert_ne!(once, change(&config, 2), "{config:?}");
        }
    }

    #[test]
    fn a_jitter_of_strength_zero_changes_nothing_but_rounding() {
        let config = AugmentConfig { color_jitter_prob: 1.0, color_jitter: 0.0, ..Default::default() };
        for (a, b) in change(&config, 1).iter().zip(frame().iter()) {
            // The YIQ matrices are rounded to four digits: at most 0.5 grey levels, then rounding.
            assert!(a.abs_diff(*b) <= 1, "{a} {b}");
        }
    }

    #[test]
    fn a_jitter_keeps_grey_grey_and_its_contrast_keeps_the_mean() {
        let grey = RgbImage::from_fn(32, 8, |x, _| Rgb([60 + 2 * x as u8; 3]));
        let config = AugmentConfig { color_jitter_prob: 1.0, color_jitter: 0.3, ..Default::default() };
        for key in 0..50 {
            let mut stream = Stream::keyed(&[key]);
            let brightness = 1.0
                + 0.3 * {
                    let mut same = stream.clone();
                    same.chance(1.0);
                    same.range(-1.0, 1.0)
                };
            let (changed, _) = change_pixels(grey.clone(), &mut stream, &config).unwrap();
            assert!(changed.pixels().all(|p| p.0.iter().all(|v| v.abs_diff(p.0[0]) <= 1)), "{key}");
            assert!((mean_luma(&changed) - brightness * mean_luma(&grey)).abs() < 1.0, "{key}");
        }
    }

    #[test]
    fn noise_has_the_deviation_that_is_asked_for_and_no_bias() {
        assert_eq!(sum_of_bytes(u64::MAX), 8.0 * 255.0);
        assert_eq!(sum_of_bytes(0x0102_0304_0506_0708), 36.0);
        let mut frame = RgbImage::from_pixel(256, 128, Rgb([128; 3]));
        add_noise(&mut frame, 6.0, &mut Stream::keyed(&[5]));
        let values: Vec<f64> = frame.iter().map(|v| f64::from(*v) - 128.0).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        // Rounding to grey levels adds a variance of 1/12.
        assert!(mean.abs() < 0.1 && (variance - 36.0 - 1.0 / 12.0).abs() < 0.6, "{mean} {variance}");
    }

    #[test]
    fn a_plan_changes_another_frame_in_the_same_way_but_for_the_noise() {
        let off = AugmentConfig::default();
        let all = AugmentConfig { color_jitter_prob: 1.0, blur_prob: 1.0, jpeg_prob: 1.0, ..off };
        let (changed, plan) = change_pixels(frame(), &mut Stream::keyed(&[1]), &all).unwrap();
        assert_eq!(plan.apply(frame(), &mut Stream::keyed(&[2])).unwrap(), changed);
        let noisy = AugmentConfig { noise_prob: 1.0, ..all };
        let (_, plan) = change_pixels(frame(), &mut Stream::keyed(&[1]), &noisy).unwrap();
        let with = |key| plan.apply(frame(), &mut Stream::keyed(&[key])).unwrap();
        assert_eq!(with(2), with(2));
        assert_ne!(with(2), with(3));
    }

    #[test]
    fn the_zoom_window_lies_in_the_image_and_holds_the_ball() {
        let config = AugmentConfig { zoom_prob: 1.0, zoom_max: 4.0, ..Default::default() };
        for key in 0..500 {
            let mut stream = Stream::keyed(&[key]);
            let ball = [stream.range(0.0, 1279.9), stream.range(0.0, 719.9)];
            let plan = Plan::draw(&mut stream, 0.5, &config);
            let [left, top, width, height] = plan.window([1280, 720], &[ball]).unwrap();
            assert!(left >= 0.0 && top >= 0.0 && left + width <= 1280.0 && top + height <= 720.0);
            let (x, y) = (f64::from(ball[0]), f64::from(ball[1]));
            assert!(x >= left && x < left + width && y >= top && y < top + height, "{key}: {ball:?}");
            // The first stays, and a second one near it, too.
            let holds = |balls: &[[f32; 2]], [x, y]: [f32; 2]| {
                let [left, top, ..] = plan.window([1280, 720], balls).unwrap();
                let (x, y) = (f64::from(x), f64::from(y));
                x >= left && x < left + width && y >= top && y < top + height
            };
            let near = [ball[0] * 0.98, ball[1] * 0.98];
            assert!(holds(&[ball, near], ball) && holds(&[ball, near], near), "{key}: {ball:?}");
            assert!(holds(&[ball, [1279.0 - ball[0], 719.0 - ball[1]]], ball), "{key}: {ball:?}");
        }
    }

    #[test]
    fn without_zoom_there_is_no_window() {
        let plan = Plan::draw(&mut Stream::keyed(&[1]), 0.0, &AugmentConfig::default());
        assert_eq!((plan.flip, plan.window([64, 64], &[])), (false, None));
    }
}
