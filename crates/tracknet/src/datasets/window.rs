//! Which frames of a clip make a window, by one rule for datasets and prediction.
//!
//! A window of `length` frames ends with the frame that is searched for the ball, if not all of them are. The others lie
//! `stride`, `2 · stride`, … *distinct* frames before it. Three rules:
//!
//! * **Edge**: before the first frame of a clip there is the first frame again. A window never crosses clips.
//! * **Repeated frames**: 25 pictures a second in a file with 30 or 50 are there twice now and then. A frame that shows what
//!   the frame after it shows is left out of windows, or a flying ball would seem to stand still. At most
//!   [`MOST_REPEATS`] frames in a row are left out, so that a scene in which nothing moves at all keeps its pace.
//! * **Frames that cannot be read**: the nearest later frame of the window that can be read stands in.
//!
//! A model with a heatmap for each frame is trained on these windows, and predicts on some of them, in which every frame has
//! one heatmap: a clip is cut into **blocks** of `length · stride` frames, and the windows that end with the last `stride`
//! distinct frames of a block hold all of its distinct frames, each once. That is so whatever the stride. Where a block has
//! fewer of them (the last one of a clip, or one with repeated frames) its windows reach into the block before, and what they
//! find there does not count. A frame that was left out as repeated has the heatmap of the one that shows the same.

use std::ops::Range;

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

    /// Frames of a block.
    pub fn block(self) -> usize {
        self.length * self.stride
    }

    /// How many frames before the last one of a block its windows may reach back.
    pub fn block_reach(self) -> usize {
        (self.block() - 1) * (1 + MOST_REPEATS)
    }

    /// The places of the window that ends at `current`, oldest first, in a clip whose first place is 0. `is_repeated` says
    /// whether the frame at a place shows what the one after it shows; it is asked from late to early, for
    /// [reachable](FrameWindow::reach) places only.
    pub fn places(self, current: usize, is_repeated: impl FnMut(usize) -> bool) -> Vec<usize> {
        let mut frames = distances(current, is_repeated);
        let (mut window, mut last, mut next) = (Vec::with_capacity(self.length), current, 0);
        while window.len() < self.length
            && let Some((place, distance)) = frames.next()
        {
            if distance < next {
                continue;
            }
            (last, next) = (place, distance + 1);
            if distance % self.stride == 0 {
                window.push(place);
            }
        }
        window.resize(self.length, last);
        window.reverse();
        window
    }

    /// The windows from which the frames of a block have their heatmaps, latest first; `is_repeated` as in
    /// [`FrameWindow::places`], for places that the block's windows [reach](FrameWindow::block_reach).
    pub fn block_windows(self, block: Range<usize>, mut is_repeated: impl FnMut(usize) -> bool) -> Vec<BlockWindow> {
        let mut windows: Vec<BlockWindow> = Vec::with_capacity(self.stride);
        let of_block = |(place, _): &(usize, usize)| block.contains(place);
        for (place, distance) in distances(block.end.saturating_sub(1), &mut is_repeated).take_while(of_block) {
            if distance == windows.len() && distance < self.stride {
                // Its last frame, for now alone.
                windows.push(BlockWindow { places: vec![place], frames: Vec::new() });
            }
            let heatmap = self.length - 1 - distance / self.stride;
            windows[distance % self.stride].frames.insert(0, (place, heatmap));
        }
        for window in &mut windows {
            window.places = self.places(window.places[0], &mut is_repeated);
        }
        windows
    }
}

/// A window of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockWindow {
    /// The places of its frames, oldest first.
    pub places: Vec<usize>,
    /// The places of the block's frames that have their heatmaps from it, in ascending order, and which of its heatmaps.
    pub frames: Vec<(usize, usize)>,
}

/// The places from `current` back to the first of a clip, each with its distance from `current` in distinct frames: one that is
/// left out as repeated has that of the frame which it repeats.
fn distances(current: usize, mut is_repeated: impl FnMut(usize) -> bool) -> impl Iterator<Item = (usize, usize)> {
    let (mut distance, mut left_out) = (0, 0);
    (0..=current).rev().map(move |place| {
        if place < current && left_out < MOST_REPEATS && is_repeated(place) {
            left_out += 1;
        } else if place < current {
            (distance, left_out) = (distance + 1, 0);
        }
        (place, distance)
    })
}

/// Lets others stand in for the frames of a window, oldest first, that cannot be read: the nearest later one that can, and for
/// the last ones the nearest earlier. `None` if none can.
pub(crate) fn with_stand_ins<T: Clone>(window: Vec<Option<T>>) -> Option<Vec<T>> {
    let mut later = window.iter().rev().flatten().next()?.clone();
    let mut filled = Vec::with_capacity(window.len());
    for frame in window.into_iter().rev() {
        later = frame.unwrap_or(later);
        filled.push(later.clone());
    }
    filled.reverse();
    Some(filled)
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

    /// The windows of a block, in the order of time.
    fn blocks(length: usize, stride: usize, block: Range<usize>, repeated: &[usize]) -> Vec<BlockWindow> {
        let mut windows = FrameWindow { length, stride }.block_windows(block, |place| repeated.contains(&place));
        windows.reverse();
        windows
    }

    fn block_window(places: &[usize], frames: &[(usize, usize)]) -> BlockWindow {
        BlockWindow { places: places.to_vec(), frames: frames.to_vec() }
    }

    #[test]
    fn the_windows_of_a_block_hold_its_frames_and_reach_back_where_it_has_too_few() {
        assert_eq!(blocks(3, 1, 3..6, &[]), [block_window(&[3, 4, 5], &[(3, 0), (4, 1), (5, 2)])]);
        // The last block of a clip of 8 frames.
        assert_eq!(blocks(3, 1, 6..8, &[]), [block_window(&[5, 6, 7], &[(6, 1), (7, 2)])]);
        // A clip that is shorter than the window.
        assert_eq!(blocks(3, 1, 0..2, &[]), [block_window(&[0, 0, 1], &[(0, 1), (1, 2)])]);
        let strided = [block_window(&[4, 6], &[(4, 0), (6, 1)]), block_window(&[5, 7], &[(5, 0), (7, 1)])];
        assert_eq!(blocks(2, 2, 4..8, &[]), strided);
        assert_eq!(blocks(2, 2, 4..5, &[]), [block_window(&[2, 4], &[(4, 1)])]);
    }

    #[test]
    fn a_repeated_frame_has_the_heatmap_of_the_one_that_shows_the_same() {
        // 3 shows what 4 shows; the window reaches into the block before.
        assert_eq!(blocks(3, 1, 3..6, &[3]), [block_window(&[2, 4, 5], &[(3, 1), (4, 1), (5, 2)])]);
        // The last frame of a block has a heatmap of its own, whatever the next block begins with.
        assert_eq!(blocks(3, 1, 0..3, &[2]), [block_window(&[0, 1, 2], &[(0, 0), (1, 1), (2, 2)])]);
        // Two distinct frames, and windows for two.
        let expected = [block_window(&[2, 5], &[(4, 1), (5, 1)]), block_window(&[3, 7], &[(6, 1), (7, 1)])];
        assert_eq!(blocks(2, 2, 4..8, &[4, 6]), expected);
    }

    #[test]
    fn every_frame_of_a_clip_has_one_heatmap_in_blocks_and_windows_of_any_kind() {
        for (length, stride, clip, every) in [(2, 1, 9, 2), (3, 1, 10, 3), (3, 2, 17, 2), (4, 3, 40, 5), (5, 2, 7, 1)] {
            let window = FrameWindow { length, stride };
            // From "every frame repeats" to "few do".
            let repeated = |place: usize| place.is_multiple_of(every);
            let mut seen = vec![0; clip];
            for start in (0..clip).step_by(window.block()) {
                let end = clip.min(start + window.block());
                let mut earliest = end;
                let windows = window.block_windows(start..end, |place| {
                    earliest = earliest.min(place);
                    repeated(place)
                });
                assert!(windows.len() <= stride && earliest + window.block_reach() + 1 >= end);
                for BlockWindow { places, frames } in windows {
                    assert_eq!(places, window.places(places[length - 1], repeated));
                    for (place, heatmap) in frames {
                        seen[place] += 1;
                        // Its own picture, or that of the next frames that show the same.
                        let shown = (place..places[heatmap]).all(repeated);
                        assert!(places[heatmap] >= place && shown, "{place} in {places:?}");
                    }
                }
            }
            assert!(seen.iter().all(|count| *count == 1), "{length} {stride}: {seen:?}");
        }
    }

    #[test]
    fn others_stand_in_for_frames_that_cannot_be_read() {
        assert_eq!(with_stand_ins(vec![None, Some(2), None, Some(4)]), Some(vec![2, 2, 4, 4]));
        assert_eq!(with_stand_ins(vec![Some(1), Some(2), None, None]), Some(vec![1, 2, 2, 2]));
        assert_eq!(with_stand_ins::<u8>(vec![None, None]), None);
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
