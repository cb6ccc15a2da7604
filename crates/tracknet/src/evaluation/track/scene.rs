//! What a frame of a stream shows beside the frame before it: the same picture, the same scene, or another one.

use image::RgbImage;

use crate::datasets::window::is_repeated;

/// Blocks in which scenes are compared, across and down.
const BLOCKS: [u32; 2] = [16, 9];

/// From this mean difference of the blocks on, in grey levels, the scene is another. In five clips of broadcasts and of a phone
/// behind the court, frames that follow one another differ by at most 0.9, frames of different clips by 32 to 56.
const CUT_DIFFERENCE: f32 = 12.0;

/// How a frame follows the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Another scene, or the first frame of a stream: nothing is known of where the ball was.
    Cut,
    /// The same picture once more: no time has passed for the ball.
    Repeated,
    /// The next picture of the same scene.
    Next,
}

/// Compares each frame of a stream with the one before it.
#[derive(Debug, Clone, Default)]
pub struct SceneWatch {
    last: Option<(RgbImage, Vec<f32>)>,
}

impl SceneWatch {
    /// Begins a new stream.
    pub fn clear(&mut self) {
        self.last = None;
    }

    /// Takes the next frame that could be read; all of a stream in one size, the model's input size for example.
    pub fn next(&mut self, frame: &RgbImage) -> Change {
        let means = block_means(frame);
        let change = match &self.last {
            Some((last, before)) if last.dimensions() == frame.dimensions() => {
                let sum: f32 = means.iter().zip(before).map(|(a, b)| (a - b).abs()).sum();
                if sum >= CUT_DIFFERENCE * means.len() as f32 {
                    Change::Cut
                } else if is_repeated(last, frame) {
                    Change::Repeated
                } else {
                    Change::Next
                }
            }
            _ => Change::Cut,
        };
        self.last = Some((frame.clone(), means));
        change
    }
}

/// The mean of each channel in each block, in grey levels.
fn block_means(frame: &RgbImage) -> Vec<f32> {
    let [columns, rows] = BLOCKS.map(|n| n as usize);
    let [width, height] = [frame.width() as usize, frame.height() as usize];
    let mut sums = vec![(0u32, 0u32); 3 * columns * rows];
    for (y, line) in frame.as_raw().chunks(3 * width.max(1)).enumerate() {
        for column in 0..columns {
            let block = 3 * (y * rows / height.max(1) * columns + column);
            let pixels = &line[3 * (column * width / columns)..3 * ((column + 1) * width / columns)];
            for pixel in pixels.chunks_exact(3) {
                for (sum, value) in sums[block..block + 3].iter_mut().zip(pixel) {
                    *sum = (sum.0 + u32::from(*value), sum.1 + 1);
                }
            }
        }
    }
    sums.into_iter().map(|(sum, count)| sum as f32 / count.max(1) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// A scene of 64×36 with a ball of 2×2 pixels at `x`.
    fn scene(ground: [u8; 3], x: u32) -> RgbImage {
        RgbImage::from_fn(64, 36, |u, v| {
            let grain = ((u * 7 + v * 13) % 23) as u8;
            if (x..x + 2).contains(&u) && (9..11).contains(&v) { Rgb([230; 3]) } else { Rgb(ground.map(|c| c + grain)) }
        })
    }

    #[test]
    fn a_frame_is_another_scene_the_next_picture_or_the_same_one() {
        let (court, face) = ([40, 90, 60], [150, 110, 90]);
        let mut watch = SceneWatch::default();
        let mut next = |frame: &RgbImage| watch.next(frame);
        assert_eq!(next(&scene(court, 5)), Change::Cut);
        assert_eq!(next(&scene(court, 8)), Change::Next);
        assert_eq!(next(&scene(court, 8)), Change::Repeated);
        assert_eq!(next(&scene(face, 8)), Change::Cut);
        assert_eq!(next(&scene(face, 11)), Change::Next);
        assert_eq!(next(&RgbImage::new(32, 18)), Change::Cut);
        watch.clear();
        assert_eq!(watch.next(&RgbImage::new(32, 18)), Change::Cut);
    }
}
