//! Which frames of a clip make a window, by one rule for datasets and prediction.
//!
//! A window of `length` frames ends with the frame that is searched for the ball. The others lie `stride`, `2 · stride`, …
//! *distinct* frames before it. Three rules:
//!
//! * **Edge**: before the first frame of a clip there is the first frame again. A window never crosses clips.
//! * **Repeated frames**: 25 pictures a second in a file with 30 or 50 are there twice now and then. A frame that shows what
//!   the frame after it shows is left out of windows, or a flying ball would seem to stand still. At most
//!   [`MOST_REPEATS`] frames in a row are left out, so that a scene in which nothing moves at all keeps its pace.
//! * **Frames that cannot be read**: the nearest later frame of the window that can be read stands in.

use image::RgbImage;

/// The most frames in a row that are left out as repeated: 60 frames a second from 24 or 25 show a picture three times.
pub const MOST_REPEATS: usize = 2;

/// Edge of the blocks in which frames are compared, in pixels.
const BLOCK: usize = 4;

/// Below this mean difference of a channel in every block, in grey levels, frames are repeated. In broadcasts of 25 pictures a
/// second in files of 30 frames, and in rendered ones through H.264 (CRF 18 to 30), MPEG-4 and JPEG, the block that differs most
/// differs by 1.4 to 9.3 between repeated frames, and by 32 to 160 between others. A moved ball of 2×2 pixels in one block,
/// 48 grey levels brighter than what is behind it, makes as much.
const REPEAT_DIFFERENCE: u32 = 12;

/// A window of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameWindow {
    /// Frames, at least 1.
    pub length: usize,
    /// Distance of the frames, at least 1.
    pub stride: usize,
}

impl FrameWindow {
    /// A single frame.
    pub const SINGLE: Self = Self { length: 1, stride: 1 };

    /// How many frames before the last one it may reach back.
    pub fn reach(self) -> usize {
        (self.length - 1) * self.stride * (1 + MOST_REPEATS)
    }

    /// The places of the window that ends at `current`, oldest first, in a clip whose first place is 0. `is_repeated` says
    /// whether the frame at a place shows what the one after it shows; it is asked from late to early, for
    /// [reachable](FrameWindow::reach) places only.
    pub fn places(self, current: usize, mut is_repeated: impl FnMut(usize) -> bool) -> Vec<usize> {
        let mut window = vec![current];
        let (mut place, mut distance, mut left_out) = (current, 0, 0);
        let mut last = current;
        while window.len() < self.length && place > 0 {
            place -= 1;
            if left_out < MOST_REPEATS && is_repeated(place) {
                left_out += 1;
                continue;
            }
            (last, left_out) = (place, 0);
            distance += 1;
            if distance % self.stride == 0 {
                window.push(place);
            }
        }
        window.resize(self.length, last);
        window.reverse();
        window
    }
}

/// Whether two frames of one size show the same picture, up to what compression changes.
///
/// The frames are compared in small blocks, and the block that differs most decides: before a camera that stands still, a
/// moving ball changes a few pixels of the frame.
pub fn is_repeated(a: &RgbImage, b: &RgbImage) -> bool {
    if a.dimensions() != b.dimensions() {
        return false;
    }
    let row = 3 * a.width() as usize;
    let rows = a.as_raw().chunks(row * BLOCK).zip(b.as_raw().chunks(row * BLOCK));
    rows.into_iter().all(|(a, b)| blocks_agree(a, b, row))
}

/// Compares up to [`BLOCK`] rows of `row` bytes, block by block and channel by channel.
fn blocks_agree(a: &[u8], b: &[u8], row: usize) -> bool {
    (0..row).step_by(3 * BLOCK).all(|start| {
        let end = row.min(start + 3 * BLOCK);
        let (mut sums, mut values) = ([0u32; 3], 0);
        for (a, b) in a.chunks(row).zip(b.chunks(row)) {
            for (pixel, (a, b)) in a[start..end].iter().zip(&b[start..end]).enumerate() {
                sums[pixel % 3] += u32::from(a.abs_diff(*b));
            }
            values += (end - start) as u32 / 3;
        }
        sums.into_iter().all(|sum| sum < REPEAT_DIFFERENCE * values)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn places(length: usize, stride: usize, current: usize, repeated: &[usize]) -> Vec<usize> {
        FrameWindow { length, stride }.places(current, |place| repeated.contains(&place))
    }

    #[test]
    fn a_window_ends_with_its_frame_and_begins_with_the_first_of_the_clip_at_the_earliest() {
        assert_eq!(places(3, 1, 7, &[]), [5, 6, 7]);
        assert_eq!(places(3, 2, 7, &[]), [3, 5, 7]);
        assert_eq!(places(4, 3, 7, &[]), [0, 1, 4, 7]);
        assert_eq!(places(3, 1, 1, &[]), [0, 0, 1]);
        assert_eq!(places(3, 1, 0, &[]), [0, 0, 0]);
        assert_eq!(places(1, 5, 7, &[]), [7]);
    }

    #[test]
    fn repeated_frames_are_left_out_and_do_not_count_for_the_stride() {
        // 25 in 50 frames a second: each picture twice.
        assert_eq!(places(3, 1, 7, &[0, 2, 4, 6]), [3, 5, 7]);
        assert_eq!(places(3, 1, 6, &[0, 2, 4, 6]), [3, 5, 6]);
        assert_eq!(places(3, 2, 9, &[0, 2, 4, 6, 8]), [1, 5, 9]);
        assert_eq!(places(3, 1, 2, &[0]), [1, 1, 2]);
    }

    #[test]
    fn a_scene_that_stands_still_keeps_its_pace_within_reach() {
        let window = FrameWindow { length: 3, stride: 2 };
        let mut earliest = usize::MAX;
        let places = window.places(100, |place| {
            earliest = earliest.min(place);
            true
        });
        assert_eq!(places, [88, 94, 100]);
        assert_eq!(window.reach(), 12);
        assert!(earliest >= 100 - window.reach());
    }

    /// A ball of 2×2 pixels before a background.
    fn scene(ball: Option<[u32; 2]>) -> RgbImage {
        RgbImage::from_fn(67, 41, |x, y| {
            let grain = ((x * 7 + y * 13) % 23) as u8;
            if ball.is_some_and(|[u, v]| (u..u + 2).contains(&x) && (v..v + 2).contains(&y)) {
                Rgb([200, 220, 60])
            } else {
                Rgb([60 + grain, 110 + grain, 70 + grain / 2])
            }
        })
    }

    fn through_jpeg(image: &RgbImage, quality: u8) -> RgbImage {
        let mut bytes = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
        image.write_with_encoder(encoder).unwrap();
        image::load_from_memory(&bytes).unwrap().into_rgb8()
    }

    #[test]
    fn compression_is_no_motion_and_a_moving_ball_is() {
        let still = scene(None);
        assert!(is_repeated(&still, &still));
        assert!(is_repeated(&through_jpeg(&still, 95), &through_jpeg(&still, 90)));
        let brighter = RgbImage::from_fn(67, 41, |x, y| Rgb(still.get_pixel(x, y).0.map(|v| v + 8)));
        assert!(is_repeated(&still, &brighter));
        for ([x, y], [u, v]) in [([10, 10], [12, 10]), ([66, 40], [66, 38]), ([0, 40], [30, 2])] {
            assert!(!is_repeated(&scene(Some([x, y])), &scene(Some([u, v]))), "{x} {y}");
        }
        assert!(!is_repeated(&still, &RgbImage::new(66, 41)));
    }
}
