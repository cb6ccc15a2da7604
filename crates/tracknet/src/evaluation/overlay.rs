//! Pictures of detections: the frame with a ring at the ball, the heatmap in colours, both side by side.

use std::io::Read;
use std::path::Path;

use image::RgbImage;

use crate::datasets::draw::{self, Color, Font, WHITE};
use crate::datasets::{DatasetError, image::resize};
use crate::error::Result;
use crate::files::{FileError, open_regular, write_atomic};

use super::{Detection, EvaluationError};

/// Colour of the predicted ball's ring.
pub const PREDICTION: Color = [255, 60, 50];
/// Colour of the label's cross.
pub const TRUTH: Color = [60, 240, 255];

/// A copy of the frame with a ring and the score at the detection, and a cross at the label when there is one; all in
/// the pixels of `frame`. Without a detection it says so in the corner.
///
/// # Errors
/// Only a damaged built-in font.
pub fn overlay(frame: &RgbImage, detection: Option<Detection>, truth: Option<[f32; 2]>) -> Result<RgbImage> {
    let font = Font::load()?;
    let mut picture = frame.clone();
    let unit = (frame.width() as f32 / 640.0).max(1.0);
    let (radius, text) = (9.0 * unit, 11.0 * unit);
    if let Some(xy) = truth {
        draw::cross(&mut picture, xy, radius * 0.9, 1.2 * unit, TRUTH);
    }
    match detection {
        Some(Detection { x, y, score }) => {
            draw::ring(&mut picture, [x, y], radius, 1.8 * unit, PREDICTION);
            let place = [x + radius + 3.0 * unit, y - radius - text];
            font.label(&mut picture, place, text, WHITE, &format!("{score:.2}"));
        }
        None => font.label(&mut picture, [4.0 * unit, 4.0 * unit], text, WHITE, "no ball found"),
    }
    Ok(picture)
}

/// The heatmap `[Hh, Wh]` of size `size` = `[Wh, Hh]`, values in 0..1, in colours, scaled to `[W, H]`.
///
/// # Errors
/// A wrong number of values.
pub fn heatmap_picture(heatmap: &[f32], size: [usize; 2], scaled: [usize; 2]) -> Result<RgbImage> {
    let [width, height] = size;
    if heatmap.len() != width * height || heatmap.is_empty() {
        return Err(EvaluationError::Size { found: heatmap.len(), width, height }.into());
    }
    let picture = RgbImage::from_fn(width as u32, height as u32, |x, y| {
        image::Rgb(draw::heat_color(heatmap[y as usize * width + x as usize]))
    });
    scale(&picture, scaled)
}

/// Pictures side by side, scaled to the height of the first, with a thin gap.
///
/// # Errors
/// A picture that cannot be scaled.
pub fn strip(pictures: &[RgbImage]) -> Result<RgbImage> {
    const GAP: u32 = 4;
    let height = pictures.first().map_or(1, RgbImage::height).max(1);
    let mut scaled = Vec::with_capacity(pictures.len());
    for picture in pictures {
        let width = (u64::from(picture.width()) * u64::from(height)).div_ceil(u64::from(picture.height().max(1)));
        scaled.push(scale(picture, [(width as usize).max(1), height as usize])?);
    }
    let gaps = GAP * (scaled.len().max(1) as u32 - 1);
    let mut strip =
        RgbImage::from_pixel(scaled.iter().map(RgbImage::width).sum::<u32>().max(1) + gaps, height, image::Rgb(WHITE));
    let mut left = 0;
    for picture in &scaled {
        draw::paste(&mut strip, picture, left, 0);
        left += i64::from(picture.width() + GAP);
    }
    Ok(strip)
}

fn scale(picture: &RgbImage, size: [usize; 2]) -> Result<RgbImage> {
    resize(picture, None, size).map_err(|reason| DatasetError::Image { path: "(picture)".into(), reason }.into())
}

/// Keyword and text of the PNG chunk by which [`is_ours`] knows a picture again.
const MARK: (&str, &str) = ("Software", "tracknet");

/// Writes a PNG, whole or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn write_png(path: &Path, picture: &RgbImage) -> Result<(), FileError> {
    write_atomic(path, |writer| {
        let mut encoder = png::Encoder::new(writer, picture.width(), picture.height());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::Fast);
        encoder.add_text_chunk(MARK.0.to_owned(), MARK.1.to_owned())?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(picture.as_raw())?;
        writer.finish()?;
        Ok(())
    })
}

/// Whether [`write_png`] wrote a file.
pub fn is_ours(path: &Path) -> bool {
    // The mark follows the header at once.
    let mut start = Vec::new();
    let read = open_regular(path).map(|file| file.take(256).read_to_end(&mut start));
    let mark = format!("tEXt{}\0{}", MARK.0, MARK.1);
    matches!(read, Ok(Ok(_)))
        && start.starts_with(b"\x89PNG")
        && start.windows(mark.len()).any(|window| window == mark.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(a: &RgbImage, b: &RgbImage, [left, top, right, bottom]: [u32; 4]) -> bool {
        (top..bottom).any(|y| (left..right).any(|x| a.get_pixel(x, y) != b.get_pixel(x, y)))
    }

    #[test]
    fn the_ring_the_cross_and_the_score_are_drawn_where_they_belong() {
        let frame = RgbImage::from_pixel(320, 180, image::Rgb([20, 90, 40]));
        let found = Detection { x: 100.0, y: 80.0, score: 0.93 };
        let picture = overlay(&frame, Some(found), Some([200.0, 120.0])).unwrap();
        assert_eq!(picture.get_pixel(109, 80).0, PREDICTION);
        assert_eq!(picture.get_pixel(100, 80), frame.get_pixel(100, 80), "the ball itself stays visible");
        assert_eq!(picture.get_pixel(206, 120).0, TRUTH);
        assert!(differs(&picture, &frame, [112, 58, 150, 72]), "the score beside the ring");
        assert!(!differs(&picture, &frame, [0, 140, 320, 180]) && !differs(&picture, &frame, [230, 0, 320, 180]));
    }

    #[test]
    fn a_score_at_the_edge_is_moved_into_the_picture_and_no_ball_is_said() {
        let frame = RgbImage::new(320, 180);
        let edge = overlay(&frame, Some(Detection { x: 318.0, y: 2.0, score: 0.5 }), None).unwrap();
        let ink = edge.enumerate_pixels().filter(|(x, _, p)| *x < 305 && p.0[1] > 128).count();
        assert!(ink > 10, "{ink}");
        let none = overlay(&frame, None, None).unwrap();
        assert!(differs(&none, &frame, [0, 0, 120, 24]) && !differs(&none, &frame, [0, 40, 320, 180]));
    }

    #[test]
    fn a_heatmap_is_bright_where_it_is_high() {
        let mut heatmap = vec![0.0; 8 * 4];
        heatmap[8 * 2 + 5] = 1.0;
        let picture = heatmap_picture(&heatmap, [8, 4], [80, 40]).unwrap();
        assert_eq!(picture.dimensions(), (80, 40));
        assert!(picture.get_pixel(55, 25).0[0] > 200);
        assert_eq!(picture.get_pixel(5, 5).0, [0, 0, 0]);
        let error = heatmap_picture(&heatmap, [8, 5], [80, 40]).unwrap_err();
        assert_eq!(error.to_string(), "heatmap has 32 values, expected 8×5");
    }

    #[test]
    fn a_strip_has_the_height_of_the_first_picture() {
        let red = RgbImage::from_pixel(20, 10, image::Rgb([255, 0, 0]));
        let blue = RgbImage::from_pixel(40, 40, image::Rgb([0, 0, 255]));
        let both = strip(&[red, blue]).unwrap();
        assert_eq!(both.dimensions(), (34, 10));
        assert_eq!(
            (both.get_pixel(19, 5).0, both.get_pixel(22, 5).0, both.get_pixel(24, 5).0),
            ([255, 0, 0], WHITE, [0, 0, 255])
        );
    }

    #[test]
    fn a_png_is_written_and_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.png");
        let picture = RgbImage::from_fn(7, 5, |x, y| image::Rgb([x as u8, y as u8, 3]));
        write_png(&path, &picture).unwrap();
        assert_eq!(crate::datasets::image::decode(&path).unwrap(), picture);
    }

    #[test]
    fn a_picture_of_this_program_is_told_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours.png"), dir.path().join("theirs.png"));
        let picture = RgbImage::new(7, 5);
        write_png(&ours, &picture).unwrap();
        picture.save(&theirs).unwrap();
        assert!(is_ours(&ours) && !is_ours(&theirs) && !is_ours(dir.path()) && !is_ours(&dir.path().join("no")));
    }
}
