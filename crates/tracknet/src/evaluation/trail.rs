//! What a moving picture of detections has beside the ring: the way of the ball, and the ball near by.

use std::collections::VecDeque;

use image::RgbImage;

use crate::datasets::draw::{self, WHITE};
use crate::datasets::{DatasetError, image::resize};
use crate::error::Result;

use super::overlay::PREDICTION;

/// Where the ball was on the last frames, to be drawn as a line that fades.
#[derive(Debug, Clone)]
pub struct Trail {
    /// The positions of the last frames, the newest at the end.
    points: VecDeque<Option<[f32; 2]>>,
    length: usize,
}

impl Trail {
    /// Frames without a ball that the line spans.
    const MOST_GAP: usize = 3;
    /// The longest step that the line spans, in widths of the frame for each frame.
    const MOST_STEP: f32 = 0.15;

    /// A trail over so many frames; 0 draws nothing.
    pub fn new(length: usize) -> Self {
        Self { points: VecDeque::with_capacity(length.min(1024) + 1), length }
    }

    /// Takes the position on the next frame, in its pixels.
    pub fn push(&mut self, at: Option<[f32; 2]>) {
        self.points.push_back(at);
        if self.points.len() > self.length + 1 {
            self.points.pop_front();
        }
    }

    /// Draws the way up to the newest position. A jump that no ball makes is left out.
    pub fn draw(&self, picture: &mut RgbImage) {
        let width = picture.width() as f32;
        let thickness = 2.2 * (width / 640.0).max(1.0);
        let mut before: Option<(usize, [f32; 2])> = None;
        for (index, point) in self.points.iter().enumerate() {
            let Some(to) = *point else { continue };
            if let Some((earlier, from)) = before {
                let (step, length) = (index - earlier, (to[0] - from[0]).hypot(to[1] - from[1]));
                if step <= Self::MOST_GAP + 1 && length <= Self::MOST_STEP * width * step as f32 {
                    let age = (self.points.len() - 1 - index) as f32 / self.length.max(1) as f32;
                    draw::faint_line(picture, [from, to], thickness, PREDICTION, 0.85 * (1.0 - age));
                }
            }
            before = Some((index, to));
        }
    }
}

/// Puts the surroundings of a position, four times as large, into the upper corner of the picture that is farther from it. `frame` is
/// what is shown, `picture` where; both of the same size.
///
/// # Errors
/// None that a position within the frame can cause.
pub fn inset(picture: &mut RgbImage, frame: &RgbImage, at: [f32; 2]) -> Result<()> {
    const MAGNIFICATION: f64 = 4.0;
    let [width, height] = [frame.width(), frame.height()].map(f64::from);
    let side = (height.min(width) / 4.0).floor().max(1.0);
    let seen = (side / MAGNIFICATION).min(width).min(height);
    // Pixel centres are whole numbers; a crop goes from edge to edge.
    let corner = |at: f32, length: f64| (f64::from(at) + 0.5 - seen / 2.0).clamp(0.0, length - seen);
    let crop = [corner(at[0], width), corner(at[1], height), seen, seen];
    let large = resize(frame, Some(crop), [side as usize; 2])
        .map_err(|reason| DatasetError::Image { path: "(inset)".into(), reason })?;
    let border = (width / 640.0).max(1.0).round() as i64;
    let margin = 4 * border;
    let left = if f64::from(at[0]) < width / 2.0 { width as i64 - side as i64 - margin } else { margin };
    draw::fill(
        picture,
        [left - border, margin - border, side as i64 + 2 * border, side as i64 + 2 * border],
        WHITE,
        1.0,
    );
    draw::paste(picture, &large, left, margin);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEN: image::Rgb<u8> = image::Rgb([20, 90, 40]);

    fn ink(picture: &RgbImage, [x, y]: [u32; 2]) -> u8 {
        picture.get_pixel(x, y).0[0]
    }

    #[test]
    fn the_way_fades_with_age_and_ends_after_its_length() {
        let mut trail = Trail::new(4);
        (0..10).for_each(|frame| trail.push(Some([20.0 * frame as f32, 50.0])));
        let mut picture = RgbImage::from_pixel(320, 180, GREEN);
        trail.draw(&mut picture);
        let brightness = [70, 90, 110, 130, 150, 170].map(|x| ink(&picture, [x, 50]));
        assert!(brightness[..2].iter().all(|value| *value == GREEN.0[0]), "{brightness:?}");
        assert!(brightness[2..].is_sorted() && brightness[2] > 40 && brightness[5] > 200, "{brightness:?}");
        let mut none = Trail::new(0);
        (0..3).for_each(|frame| none.push(Some([20.0 * frame as f32, 50.0])));
        let mut plain = RgbImage::from_pixel(320, 180, GREEN);
        none.draw(&mut plain);
        assert!(plain.pixels().all(|pixel| *pixel == GREEN));
    }

    #[test]
    fn a_short_gap_is_spanned_and_a_jump_or_a_long_gap_is_not() {
        let drawn = |points: &[Option<f32>]| {
            let mut trail = Trail::new(20);
            points.iter().for_each(|x| trail.push(x.map(|x| [x, 50.0])));
            let mut picture = RgbImage::from_pixel(320, 180, GREEN);
            trail.draw(&mut picture);
            picture.pixels().any(|pixel| *pixel != GREEN)
        };
        assert!(drawn(&[Some(10.0), None, None, Some(40.0)]));
        assert!(!drawn(&[Some(10.0), None, None, None, None, Some(40.0)]));
        assert!(drawn(&[Some(10.0), Some(50.0)]) && !drawn(&[Some(10.0), Some(70.0)]));
    }

    #[test]
    fn the_inset_shows_what_is_around_the_ball_in_the_other_corner() {
        let mut frame = RgbImage::from_pixel(320, 180, GREEN);
        draw::fill(&mut frame, [59, 69, 3, 3], [250, 250, 0], 1.0);
        let mut picture = frame.clone();
        inset(&mut picture, &frame, [60.0, 70.0]).unwrap();
        let yellow: Vec<u32> = picture
            .enumerate_pixels()
            .filter(|(x, _, p)| *x > 100 && p.0[0] > 200 && p.0[2] < 60)
            .map(|p| p.0)
            .collect();
        assert!(yellow.len() >= 4, "{}", yellow.len());
        let middle = yellow.iter().sum::<u32>() as f32 / yellow.len() as f32;
        assert!((middle - (320.0 - 4.0 - 22.5)).abs() < 1.5, "{middle}");
        // At the edge of the frame it still lies within.
        for at in [[0.0, 0.0], [319.0, 179.0]] {
            inset(&mut frame.clone(), &frame, at).unwrap();
        }
        inset(&mut RgbImage::new(3, 2), &RgbImage::new(3, 2), [1.0, 1.0]).unwrap();
    }
}
