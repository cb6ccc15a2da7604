//! A heatmap → the ball's position and score, or several places where it may be.
//!
//! Heatmap pixel `x` is native `X = x · W / Wh`, the inverse of the target's `cx = X · Wh / W`; the frame's own size
//! travels with it in a [`Geometry`], which knows about crops and flips, too.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::EvaluationError;
use crate::config::LossName;
use crate::datasets::Geometry;

/// What turns raw model outputs into values in 0..1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// The logistic function: models trained with the focal or the weighted cross-entropy loss.
    Sigmoid,
    /// Clamp to 0..1: models trained with the squared error on raw outputs.
    Clamp,
}

impl From<LossName> for Activation {
    /// That of a model trained with this loss.
    fn from(loss: LossName) -> Self {
        match loss {
            LossName::Mse => Self::Clamp,
            LossName::Focal | LossName::Wbce => Self::Sigmoid,
        }
    }
}

impl Activation {
    /// Applies the activation in place; NaN stays NaN, so that decoding reports it.
    pub fn apply(self, heatmap: &mut [f32]) {
        for value in heatmap {
            *value = match self {
                Self::Sigmoid => 1.0 / (1.0 + (-*value).exp()),
                Self::Clamp => value.clamp(0.0, 1.0),
            };
        }
    }
}

/// How the peak is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeMethod {
    /// The score-weighted centroid of a connected component.
    Component,
    /// The largest value, refined by a parabola through its neighbours in x and in y.
    Argmax,
}

/// Which connected component is the ball.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentChoice {
    /// The one with the largest sum of scores: what is large and bright.
    Sum,
    /// The one with the highest peak.
    Peak,
}

/// How a heatmap is decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeOptions {
    /// How the peak is found.
    pub method: DecodeMethod,
    /// Lowest score of a detection, and lowest value that belongs to a component.
    pub threshold: f32,
    /// Components also need this share of the frame's highest value. It keeps the component, and with it the position,
    /// the same whatever threshold a detection is held to afterwards, and it keeps the skirt of a sharp peak out.
    pub relative_support: f32,
    /// Which component is the ball.
    pub choice: ComponentChoice,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { method: DecodeMethod::Component, threshold: 0.01, relative_support: 0.5, choice: ComponentChoice::Peak }
    }
}

/// A ball that was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Column: native pixels, or heatmap pixels straight from [`decode`].
    pub x: f32,
    /// Row, in the same pixels.
    pub y: f32,
    /// The highest heatmap value of the ball, in 0..1.
    pub score: f32,
}

impl Detection {
    /// The detection in native pixels, from heatmap pixels.
    pub fn to_native(self, geometry: &Geometry) -> Self {
        let [x, y] = geometry.to_native([self.x, self.y]);
        Self { x, y, ..self }
    }
}

/// A place where the ball may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Position and score.
    pub detection: Detection,
    /// Heatmap pixels of its component.
    pub pixels: usize,
}

impl Candidate {
    /// The candidate in native pixels, from heatmap pixels; its size stays in heatmap pixels.
    pub fn to_native(self, geometry: &Geometry) -> Self {
        Self { detection: self.detection.to_native(geometry), ..self }
    }
}

/// Finds the ball on a heatmap `[Hh, Wh]` of activated values; `size` is `[Wh, Hh]`, the result in heatmap pixels.
///
/// `None` when no value reaches the threshold. A constant heatmap above the threshold is one component like any other.
///
/// # Errors
/// A value that is not finite, a wrong number of values, or a threshold that is not a number.
pub fn decode(
    heatmap: &[f32],
    size: [usize; 2],
    options: &DecodeOptions,
) -> Result<Option<Detection>, EvaluationError> {
    Ok(decode_candidates(heatmap, size, options, 1)?.first().map(|found| found.detection))
}

/// The places where the ball may be, at most `most`, the likeliest first: that is the one of [`decode`].
///
/// Components that reach the level of the highest value come first, in the order of [`DecodeOptions::choice`]. They and their
/// slopes (all that falls from them without a rise) are taken out, and what is left is searched in the same way, until no value
/// reaches the threshold: a faint ball beside a bright false alarm is a candidate, the skirt of a peak is none.
///
/// # Errors
/// As [`decode`].
pub fn decode_candidates(
    heatmap: &[f32],
    size: [usize; 2],
    options: &DecodeOptions,
    most: usize,
) -> Result<Vec<Candidate>, EvaluationError> {
    let [threshold, support] = [options.threshold, options.relative_support];
    if !(0.0..=1.0).contains(&threshold) || !(0.0..=1.0).contains(&support) {
        let (name, expected) = ("decode threshold, relative support", "numbers from 0 to 1");
        return Err(EvaluationError::Option { name, found: format!("{threshold}, {support}"), expected });
    }
    let mut highest = argmax(heatmap, size)?;
    let (mut found, mut rest) = (Vec::new(), Cow::Borrowed(heatmap));
    while let Some((index, peak)) = highest.filter(|(_, peak)| *peak > 0.0 && *peak >= threshold) {
        let mut components = components(&rest, size, threshold.max(support * peak));
        let weight = |c: &Component| match (options.method, options.choice) {
            // The largest value alone counts, and it lies in one component.
            (DecodeMethod::Argmax, _) => f64::from(u8::from(c.pixels.contains(&index))),
            (_, ComponentChoice::Sum) => c.sum,
            (_, ComponentChoice::Peak) => f64::from(c.peak),
        };
        // A stable order: of equals, the first in reading order is first.
        components.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        if options.method == DecodeMethod::Argmax {
            components.truncate(1);
        }
        found.extend(components.iter().map(|component| Candidate {
            detection: match options.method {
                DecodeMethod::Argmax => refine(heatmap, size, index, peak),
                DecodeMethod::Component => component.detection(),
            },
            pixels: component.pixels.len(),
        }));
        if found.len() >= most {
            break;
        }
        take_out(rest.to_mut(), size, components, threshold);
        highest = argmax(&rest, size)?;
    }
    found.truncate(most);
    Ok(found)
}

/// Sets components to zero, and with them every pixel from `floor` on that is reached from them without a rise.
fn take_out(heatmap: &mut [f32], size: [usize; 2], components: Vec<Component>, floor: f32) {
    let mut stack: Vec<(usize, f32)> = Vec::new();
    for index in components.into_iter().flat_map(|component| component.pixels) {
        stack.push((index, std::mem::take(&mut heatmap[index])));
    }
    while let Some((index, value)) = stack.pop() {
        for neighbour in neighbours(index, size) {
            if heatmap[neighbour] > 0.0 && heatmap[neighbour] >= floor && heatmap[neighbour] <= value {
                stack.push((neighbour, std::mem::take(&mut heatmap[neighbour])));
            }
        }
    }
}

/// Index and value of the largest value, the first in reading order; `None` for an empty heatmap.
fn argmax(heatmap: &[f32], size: [usize; 2]) -> Result<Option<(usize, f32)>, EvaluationError> {
    let [width, height] = size;
    if heatmap.len() != width * height {
        return Err(EvaluationError::Size { found: heatmap.len(), width, height });
    }
    let mut best: Option<(usize, f32)> = None;
    for (index, &value) in heatmap.iter().enumerate() {
        if !value.is_finite() {
            return Err(EvaluationError::NotFinite { value, x: index % width, y: index / width });
        }
        if best.is_none_or(|(_, peak)| value > peak) {
            best = Some((index, value));
        }
    }
    Ok(best)
}

/// The vertex of the parabola through three neighbours, in each axis on its own.
fn refine(heatmap: &[f32], size: [usize; 2], index: usize, peak: f32) -> Detection {
    let (x, y) = (index % size[0], index / size[0]);
    let offset = |position: usize, length: usize, stride: usize| {
        if position == 0 || position + 1 >= length {
            return 0.0;
        }
        let (before, after) = (heatmap[index - stride], heatmap[index + stride]);
        let curvature = before - 2.0 * peak + after;
        // Both neighbours are at most the peak, so the vertex lies within half a pixel; a plateau has no vertex.
        if curvature < 0.0 { (0.5 * (before - after) / curvature).clamp(-0.5, 0.5) } else { 0.0 }
    };
    Detection { x: x as f32 + offset(x, size[0], 1), y: y as f32 + offset(y, size[1], size[0]), score: peak }
}

/// A connected component: its pixels, and sums over them.
#[derive(Debug, Default)]
struct Component {
    pixels: Vec<usize>,
    sum: f64,
    sum_x: f64,
    sum_y: f64,
    peak: f32,
}

impl Component {
    fn detection(&self) -> Detection {
        Detection { x: (self.sum_x / self.sum) as f32, y: (self.sum_y / self.sum) as f32, score: self.peak }
    }
}

/// The pixel and its up to eight neighbours, in reading order.
fn neighbours(index: usize, [width, height]: [usize; 2]) -> impl Iterator<Item = usize> {
    let (x, y) = (index % width, index / width);
    let columns = x.saturating_sub(1)..=(x + 1).min(width - 1);
    (y.saturating_sub(1)..=(y + 1).min(height - 1))
        .flat_map(move |row| columns.clone().map(move |column| row * width + column))
}

/// Components of pixels ≥ `level` (> 0) that touch, diagonals included; in reading order of their first pixel.
fn components(heatmap: &[f32], size: [usize; 2], level: f32) -> Vec<Component> {
    let mut open: Vec<bool> = heatmap.iter().map(|v| *v >= level && *v > 0.0).collect();
    let mut found = Vec::new();
    let mut stack = Vec::new();
    for start in 0..open.len() {
        if !std::mem::take(&mut open[start]) {
            continue;
        }
        let mut component = Component::default();
        stack.push(start);
        while let Some(index) = stack.pop() {
            let (x, y, value) = (index % size[0], index / size[0], heatmap[index]);
            component.pixels.push(index);
            component.sum += f64::from(value);
            component.sum_x += f64::from(value) * x as f64;
            component.sum_y += f64::from(value) * y as f64;
            component.peak = component.peak.max(value);
            stack.extend(neighbours(index, size).filter(|neighbour| std::mem::take(&mut open[*neighbour])));
        }
        found.push(component);
    }
    found
}

/// Where a heatmap points to without any threshold, in heatmap pixels, as the original program measures it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeatmapPoints {
    /// The largest value.
    pub argmax: [f32; 2],
    /// The expectation under `softmax(β · heatmap)`, β = 100.
    pub soft_argmax: [f32; 2],
    /// The float label; `None` when there is no usable one.
    pub truth: Option<[f32; 2]>,
}

/// Sharpness of the soft-argmax.
pub const SOFT_ARGMAX_BETA: f64 = 100.0;

impl HeatmapPoints {
    /// Measures a heatmap `[Hh, Wh]` of size `[Wh, Hh]`.
    ///
    /// # Errors
    /// An empty heatmap, a value that is not finite, or a wrong number of values.
    pub fn of(heatmap: &[f32], size: [usize; 2], truth: Option<[f32; 2]>) -> Result<Self, EvaluationError> {
        let [width, height] = size;
        let Some((index, peak)) = argmax(heatmap, size)? else {
            return Err(EvaluationError::Size { found: 0, width, height });
        };
        let [mut sum, mut sum_x, mut sum_y] = [0.0f64; 3];
        for (index, &value) in heatmap.iter().enumerate() {
            let weight = (SOFT_ARGMAX_BETA * (f64::from(value) - f64::from(peak))).exp();
            sum += weight;
            sum_x += weight * (index % width) as f64;
            sum_y += weight * (index / width) as f64;
        }
        let soft_argmax = [(sum_x / sum) as f32, (sum_y / sum) as f32];
        Ok(Self { argmax: [(index % width) as f32, (index / width) as f32], soft_argmax, truth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::heatmap::render_target;

    fn options(method: DecodeMethod) -> DecodeOptions {
        DecodeOptions { method, ..DecodeOptions::default() }
    }

    #[test]
    fn both_methods_find_a_bell_between_pixels() {
        let (size, center) = ([31, 17], [12.3f32, 8.7]);
        let mut heatmap = vec![0.0; 31 * 17];
        render_target(&mut heatmap, size, center, 2.0);
        for method in [DecodeMethod::Component, DecodeMethod::Argmax] {
            let found = decode(&heatmap, size, &options(method)).unwrap().unwrap();
            // A truncated centroid and a parabola through a Gaussian are both biased by less than a tenth of a pixel.
            assert!((found.x - 12.3).abs() < 0.1 && (found.y - 8.7).abs() < 0.1, "{method:?} {found:?}");
            assert!((found.score - heatmap[9 * 31 + 12]).abs() < 1e-6);
        }
    }

    #[test]
    fn the_parabola_is_exact_for_a_parabola() {
        let heatmap: Vec<f32> = (0..25)
            .map(|i| 0.9 - 0.1 * ((i % 5) as f32 - 2.25).powi(2) - 0.1 * ((i / 5) as f32 - 1.75).powi(2))
            .collect();
        let found = decode(&heatmap, [5, 5], &options(DecodeMethod::Argmax)).unwrap().unwrap();
        assert!((found.x - 2.25).abs() < 1e-5 && (found.y - 1.75).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn a_component_joins_diagonals_and_its_centroid_is_weighted_by_score() {
        #[rustfmt::skip]
        let heatmap = [
            0.6, 0.0, 0.0, 0.0, 0.0,
            0.0, 0.6, 0.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.9,
        ];
        let with = |choice| DecodeOptions { choice, ..DecodeOptions::default() };
        let found = decode(&heatmap, [5, 3], &with(ComponentChoice::Sum)).unwrap().unwrap();
        assert_eq!(found, Detection { x: 0.5, y: 0.5, score: 0.6 });
        let found = decode(&heatmap, [5, 3], &with(ComponentChoice::Peak)).unwrap().unwrap();
        assert_eq!(found, Detection { x: 4.0, y: 2.0, score: 0.9 });
        // Weights 0.25 and 0.75 of the columns 0 and 1.
        let found = decode(&[0.25, 0.75], [2, 1], &DecodeOptions { relative_support: 0.0, ..DecodeOptions::default() });
        assert_eq!(found.unwrap().unwrap(), Detection { x: 0.75, y: 0.0, score: 0.75 });
    }

    #[test]
    fn nothing_above_the_threshold_is_no_detection() {
        let low = DecodeOptions { threshold: 0.5, ..DecodeOptions::default() };
        for method in [DecodeMethod::Component, DecodeMethod::Argmax] {
            assert_eq!(decode(&[0.1, 0.49], [2, 1], &DecodeOptions { method, ..low.clone() }).unwrap(), None);
            assert_eq!(decode(&[0.0; 6], [3, 2], &options(method)).unwrap(), None);
            assert_eq!(decode(&[], [0, 0], &options(method)).unwrap(), None);
            let edge = decode(&[0.5, 0.0], [2, 1], &DecodeOptions { method, ..low.clone() }).unwrap();
            assert_eq!(edge, Some(Detection { x: 0.0, y: 0.0, score: 0.5 }));
        }
    }

    #[test]
    fn values_that_are_not_finite_and_wrong_sizes_are_errors() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = decode(&[0.0, 0.0, 0.0, bad], [2, 2], &DecodeOptions::default()).unwrap_err();
            assert!(error.to_string().contains("at x = 1, y = 1 is not finite"), "{error}");
            let error = decode_candidates(&[1.0, 0.0, 0.0, bad], [2, 2], &DecodeOptions::default(), 5).unwrap_err();
            assert!(matches!(error, EvaluationError::NotFinite { .. }), "{error}");
        }
        let error = decode(&[0.0; 5], [2, 2], &DecodeOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "heatmap has 5 values, expected 2×2");
        let nan = DecodeOptions { threshold: f32::NAN, ..DecodeOptions::default() };
        assert!(decode(&[0.0; 4], [2, 2], &nan).unwrap_err().to_string().contains("expected numbers from 0 to 1"));
    }

    #[test]
    fn without_a_threshold_every_frame_has_a_score() {
        let without = |options: DecodeOptions| DecodeOptions { threshold: 0.0, ..options };
        let mut heatmap = vec![1e-4; 31 * 17];
        heatmap[5 * 31 + 7] = 4e-3;
        for method in [DecodeMethod::Component, DecodeMethod::Argmax] {
            assert_eq!(decode(&heatmap, [31, 17], &options(method)).unwrap(), None);
            let found = decode(&heatmap, [31, 17], &without(options(method))).unwrap().unwrap();
            assert_eq!(found, Detection { x: 7.0, y: 5.0, score: 4e-3 });
            assert_eq!(decode(&[0.0; 6], [3, 2], &without(options(method))).unwrap(), None);
        }
        let mut heatmap = vec![0.0; 31 * 17];
        for peak in [0.02f32, 0.5, 1.0] {
            render_target(&mut heatmap, [31, 17], [12.3, 8.7], 2.0);
            heatmap.iter_mut().for_each(|v| *v *= peak);
            let default = DecodeOptions::default();
            assert_eq!(
                decode(&heatmap, [31, 17], &without(default.clone())).unwrap(),
                decode(&heatmap, [31, 17], &default).unwrap()
            );
        }
    }

    /// Bells of these centres and heights, σ = 2.
    fn bells(size: [usize; 2], bells: &[([f32; 2], f32)]) -> Vec<f32> {
        let mut heatmap = vec![0.0f32; size[0] * size[1]];
        let mut bell = heatmap.clone();
        for (center, height) in bells {
            render_target(&mut bell, size, *center, 2.0);
            heatmap.iter_mut().zip(&bell).for_each(|(sum, value)| *sum = sum.max(height * value));
        }
        heatmap
    }

    #[test]
    fn candidates_are_the_ball_of_the_single_decoding_and_then_whatever_else_rises() {
        let size = [64, 36];
        let places = [([12.0, 8.0], 0.9), ([40.0, 20.0], 0.8), ([50.0, 9.0], 0.3), ([20.0, 30.0], 0.02)];
        let heatmap = bells(size, &places);
        for method in [DecodeMethod::Component, DecodeMethod::Argmax] {
            for choice in [ComponentChoice::Sum, ComponentChoice::Peak] {
                let options = DecodeOptions { choice, ..options(method) };
                let found = decode_candidates(&heatmap, size, &options, 5).unwrap();
                assert_eq!(found.len(), 4, "{method:?} {choice:?} {found:?}");
                assert_eq!(decode(&heatmap, size, &options).unwrap(), Some(found[0].detection));
                for (candidate, ([x, y], score)) in found.iter().zip(places) {
                    let Detection { x: u, y: v, score: s } = candidate.detection;
                    assert!((u - x).abs() < 0.1 && (v - y).abs() < 0.1 && (s - score).abs() < 1e-6, "{candidate:?}");
                }
                // Half of the height of a bell of σ = 2 lies within 2.35 pixels; what is left of the faintest is cut off.
                assert_eq!(found[0].pixels, 21);
                assert_eq!(decode_candidates(&heatmap, size, &options, 2).unwrap(), found[..2]);
            }
        }
        assert!(decode_candidates(&heatmap, size, &DecodeOptions::default(), 0).unwrap().is_empty());
        let higher = DecodeOptions { threshold: 0.25, ..DecodeOptions::default() };
        assert_eq!(decode_candidates(&heatmap, size, &higher, 5).unwrap().len(), 3);
    }

    #[test]
    fn the_skirt_of_a_peak_is_no_candidate_and_a_second_peak_on_it_is() {
        let size = [40, 20];
        let alone = bells(size, &[([12.3, 9.6], 1.0)]);
        assert_eq!(decode_candidates(&alone, size, &DecodeOptions::default(), 5).unwrap().len(), 1);
        let touching = bells(size, &[([12.0, 10.0], 1.0), ([19.0, 10.0], 0.4)]);
        let found = decode_candidates(&touching, size, &DecodeOptions::default(), 5).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!((found[1].detection.x - 19.0).abs() < 0.5, "{found:?}");
    }

    #[test]
    fn a_label_comes_back_in_native_pixels_without_bias() {
        for (native, input, heatmap) in [
            ([1280, 720], [512, 288], [256, 144]),
            ([1920, 1080], [512, 288], [128, 72]),
            ([640, 360], [512, 288], [256, 144]),
            ([180, 320], [256, 256], [64, 64]),
        ] {
            let whole = Geometry::whole(native, input, heatmap);
            let [width, height] = native.map(|n| n as f64);
            let zoomed = Geometry { crop: [0.2 * width, 0.1 * height, 0.7 * width, 0.7 * height], ..whole };
            for geometry in [whole, zoomed] {
                for (flipped, method) in [(false, DecodeMethod::Component), (true, DecodeMethod::Component)]
                    .into_iter()
                    .chain([(false, DecodeMethod::Argmax), (true, DecodeMethod::Argmax)])
                {
                    let geometry = Geometry { flipped, ..geometry };
                    let bias = mean_error(&geometry, method);
                    assert!(bias.iter().all(|v| v.abs() < 0.05), "{geometry:?} {method:?}: {bias:?}");
                }
            }
        }
    }

    /// Decoded less labelled place, in native pixels, on average over a grid of places between the pixels of the heatmap.
    fn mean_error(geometry: &Geometry, method: DecodeMethod) -> [f64; 2] {
        const STEPS: usize = 6;
        let middle = geometry.heatmap_size.map(|n| (n / 2) as f32);
        let mut heatmap = vec![0.0; geometry.heatmap_size.iter().product()];
        let mut error = [0.0; 2];
        for step in 0..STEPS * STEPS {
            let part = [step % STEPS, step / STEPS].map(|i| (i as f32 + 0.5) / STEPS as f32);
            let label = geometry.to_native([middle[0] + part[0], middle[1] + part[1]]);
            render_target(&mut heatmap, geometry.heatmap_size, geometry.to_heatmap(label), 2.0);
            let found = decode(&heatmap, geometry.heatmap_size, &options(method)).unwrap().unwrap();
            let found = found.to_native(geometry);
            error[0] += f64::from(found.x - label[0]) / (STEPS * STEPS) as f64;
            error[1] += f64::from(found.y - label[1]) / (STEPS * STEPS) as f64;
        }
        error
    }

    #[test]
    fn heatmap_pixels_become_native_pixels_with_the_frames_own_size() {
        let geometry = Geometry::whole([1920, 1080], [512, 288], [256, 144]);
        let native = Detection { x: 128.0, y: 36.0, score: 0.7 }.to_native(&geometry);
        assert_eq!(native, Detection { x: 960.0, y: 270.0, score: 0.7 });
    }

    #[test]
    fn the_soft_argmax_is_the_expectation_under_a_sharp_softmax() {
        let heatmap = [0.0, 0.51, 0.5, 0.0, 0.0, 0.0];
        let points = HeatmapPoints::of(&heatmap, [3, 2], Some([1.0, 0.0])).unwrap();
        assert_eq!(points.argmax, [1.0, 0.0]);
        // Weights e^(100·0.51) and e^(100·0.50): a ratio of e against 1; everything else is below e^−50.
        let expected = (std::f32::consts::E + 2.0) / (std::f32::consts::E + 1.0);
        assert!((points.soft_argmax[0] - expected).abs() < 1e-5 && points.soft_argmax[1] < 1e-6, "{points:?}");
    }

    #[test]
    fn activations_bring_outputs_to_zero_to_one() {
        let mut values = [0.0, 100.0, -100.0, f32::NAN];
        Activation::Sigmoid.apply(&mut values);
        assert_eq!(values[..2], [0.5, 1.0]);
        assert!(values[2] < 1e-30 && values[3].is_nan());
        let mut values = [-0.5, 0.25, 7.0];
        Activation::Clamp.apply(&mut values);
        assert_eq!(values, [0.0, 0.25, 1.0]);
    }
}
