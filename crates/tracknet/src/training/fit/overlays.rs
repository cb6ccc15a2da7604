//! Pictures of the first validation batch after every epoch: what the model sees next to what it should see.

use std::path::Path;

use crate::datasets::heatmap::Geometry;
use crate::datasets::image::Normalizer;
use crate::datasets::{Batch, BatchSpec};
use crate::error::Result;
use crate::evaluation::Detection;
use crate::evaluation::decode::{DecodeOptions, decode};
use crate::evaluation::overlay::{heatmap_picture, overlay, strip, write_png};

/// Samples of a batch that are drawn.
const SAMPLES: usize = 8;
/// Lowest score that is drawn as a detection.
const THRESHOLD: f32 = 0.5;

/// Writes `sample_NN.png` into both directories: frame and heatmap side by side, in the model's input size. In
/// `predictions` the heatmap is the model's (activated, `[batch, heatmaps, height, width]`), with the detection ringed; in
/// `targets` it is the one that is trained towards. The label is a cross in both.
pub(super) fn write_overlays(
    batch: &Batch,
    heatmaps: &[f32],
    spec: &BatchSpec,
    predictions: &Path,
    targets: &Path,
) -> Result<()> {
    let normalizer: Normalizer = spec.normalizer();
    let [width, height] = spec.input_size;
    let size = spec.heatmap_size;
    let pixels = size[0] * size[1];
    let (frames, of_window) = (spec.window.length, spec.heatmaps());
    for (i, info) in batch.samples.iter().take(SAMPLES).enumerate() {
        // Heatmaps are those of the last frames of a window.
        let (window, heatmap) = (info.heatmap / of_window, info.heatmap % of_window);
        let number = (window + 1) * frames - of_window + heatmap;
        let image = &batch.images[3 * width * height * number..][..3 * width * height];
        let [found, target] = [heatmaps, &batch.targets].map(|maps| &maps[info.heatmap * pixels..][..pixels]);
        let frame = normalizer.undo(image, spec.input_size);
        let options = DecodeOptions { threshold: THRESHOLD, ..DecodeOptions::default() };
        let detection = decode(found, size, &options)?;
        let detection = detection.map(|d| in_input(d, &info.geometry));
        let truth = info.label.xy.map(|xy| info.geometry.to_input(xy));
        let name = format!("sample_{i:02}.png");
        for (dir, map, detection) in [(predictions, found, detection), (targets, target, None)] {
            let left = overlay(&frame, detection, truth)?;
            let right = heatmap_picture(map, size, spec.input_size)?;
            write_png(&dir.join(&name), &strip(&[left, right])?)?;
        }
    }
    Ok(())
}

/// Heatmap pixels → pixels of the model's input.
fn in_input(detection: Detection, geometry: &Geometry) -> Detection {
    let [x, y] = geometry.to_input(geometry.to_native([detection.x, detection.y]));
    Detection { x, y, ..detection }
}
