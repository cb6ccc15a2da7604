//! The contact sheet: a grid of labelled frames, to see at a glance whether labels sit on the ball.

use image::RgbImage;
use rayon::prelude::*;

use super::draw::{self, Font, WHITE, visibility_color};
use super::image::{decode_then, resize};
use super::{DatasetError, FrameRef, Geometry};
use crate::config::ExifOrientation;
use crate::console::excerpt;

/// Layout of a contact sheet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewOptions {
    /// Tiles in a row.
    pub columns: usize,
    /// Width of a tile in pixels; a tile is 16:9 with a caption below.
    pub tile_width: usize,
    /// Whether the labels are those of the upright pictures.
    pub exif_orientation: ExifOrientation,
}

/// A grid of labelled frames.
#[derive(Debug, Clone, PartialEq)]
pub struct ContactSheet {
    /// The grid, row by row.
    pub picture: RgbImage,
    /// Frames that could not be drawn, and why; their tiles say so, too.
    pub problems: Vec<String>,
}

impl Default for PreviewOptions {
    fn default() -> Self {
        Self { columns: 4, tile_width: 400, exif_orientation: ExifOrientation::Apply }
    }
}

/// Height of the caption below a tile.
const CAPTION: usize = 20;
/// Pixels between tiles.
const GAP: usize = 4;
/// How much the inset around the ball magnifies native pixels.
const MAGNIFIED: usize = 3;
/// The ground of a tile that has no picture, and the mark of its caption.
const PROBLEM_GROUND: draw::Color = [72, 24, 28];
const PROBLEM_MARK: draw::Color = [255, 60, 50];

/// `n` frames spread evenly over the list (all of them when there are fewer).
pub fn spread(frames: &[FrameRef], n: usize) -> Vec<FrameRef> {
    let n = n.min(frames.len());
    (0..n).map(|i| frames[(2 * i + 1) * frames.len() / (2 * n)].clone()).collect()
}

/// Draws the frames with their labels, row by row; a ball gets a circle in the colour of its visibility and a
/// magnified inset. The tile of a frame that cannot be read says why.
///
/// # Errors
/// Only a damaged built-in font.
pub fn contact_sheet(frames: &[FrameRef], options: &PreviewOptions) -> Result<ContactSheet, DatasetError> {
    let font = Font::load()?;
    let columns = options.columns.max(1).min(frames.len().max(1));
    let width = options.tile_width.clamp(64, 4096);
    let (height, rows) = (width * 9 / 16, frames.len().div_ceil(columns));
    let draw = |frame: &FrameRef| {
        let tile = decode_then(&frame.frame.path, options.exif_orientation, |image| {
            tile(frame, &image, [width, height], &font)
        });
        tile.and_then(|tile| tile)
    };
    let tiles: Vec<Result<RgbImage, DatasetError>> = frames.par_iter().map(draw).collect();
    let (step_x, step_y) = (width + GAP, height + CAPTION + GAP);
    let mut picture = RgbImage::new((columns * step_x + GAP) as u32, (rows * step_y + GAP) as u32);
    let mut problems = Vec::new();
    for (index, (frame, tile)) in frames.iter().zip(tiles).enumerate() {
        let tile = tile.unwrap_or_else(|error| {
            let reason = match error {
                DatasetError::Image { reason, .. } => reason,
                other => other.to_string(),
            };
            problems.push(format!("{frame}: {reason}"));
            tile_of_problem(frame, &reason, [width, height], &font)
        });
        let (left, top) = (GAP + index % columns * step_x, GAP + index / columns * step_y);
        draw::paste(&mut picture, &tile, left as i64, top as i64);
    }
    Ok(ContactSheet { picture, problems })
}

fn tile(
    frame: &FrameRef,
    image: &RgbImage,
    [width, height]: [usize; 2],
    font: &Font,
) -> Result<RgbImage, DatasetError> {
    let native = [image.width() as usize, image.height() as usize];
    let scale = f64::min(width as f64 / native[0] as f64, height as f64 / native[1] as f64);
    let size = native.map(|n| ((n as f64 * scale).round() as usize).max(1));
    let failure = |reason| DatasetError::Image { path: frame.frame.path.clone(), reason };
    let mut small = resize(image, None, size).map_err(failure)?;
    let label = frame.frame.label;
    let color = visibility_color(label.visibility);
    let geometry = Geometry::whole(native, size, size);
    let caption = match label.xy {
        Some([x, y]) if geometry.contains([x, y]) => {
            let at = geometry.to_input([x, y]);
            draw::ring(&mut small, at, 9.0, 1.5, color);
            if let Some(inset) = inset(image, [x, y], width / 5, color).map_err(failure)? {
                let left = if at[0] < size[0] as f32 / 2.0 { size[0] as i64 - i64::from(inset.width()) } else { 0 };
                let top = if at[1] < size[1] as f32 / 2.0 { size[1] as i64 - i64::from(inset.height()) } else { 0 };
                draw::paste(&mut small, &inset, left, top);
            }
            format!("{frame}  {} ({x:.1}, {y:.1})", label.visibility.name())
        }
        Some([x, y]) => format!("{frame}  ({x:.1}, {y:.1}) is outside the image"),
        None => format!("{frame}  {}", label.visibility.name()),
    };
    let mut tile = RgbImage::new(width as u32, (height + CAPTION) as u32);
    draw::paste(&mut tile, &small, ((width - size[0].min(width)) / 2) as i64, 0);
    write_caption(&mut tile, height, color, font, &caption);
    Ok(tile)
}

/// A dark tile with the reason why there is no picture.
fn tile_of_problem(frame: &FrameRef, reason: &str, [width, height]: [usize; 2], font: &Font) -> RgbImage {
    const TEXT: f32 = 14.0;
    let mut tile = RgbImage::new(width as u32, (height + CAPTION) as u32);
    draw::fill(&mut tile, [0, 0, width as i64, height as i64], PROBLEM_GROUND, 1.0);
    let mut lines = vec![String::new()];
    for word in excerpt(reason, 400).split_whitespace() {
        match lines.last_mut() {
            Some(line) if font.width(TEXT, &format!("{line} {word}")) < width as f32 - 16.0 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    for (row, line) in lines.iter().enumerate() {
        font.text(&mut tile, [8.0, 8.0 + 1.3 * TEXT * row as f32], TEXT, WHITE, line.trim_start());
    }
    draw::fill(&mut tile, [0, height as i64, width as i64, CAPTION as i64], draw::BLACK, 1.0);
    write_caption(&mut tile, height, PROBLEM_MARK, font, &format!("{frame}  cannot be drawn"));
    tile
}

/// A line of text below a tile; long names shrink rather than lose their end, which holds the frame number.
fn write_caption(tile: &mut RgbImage, top: usize, color: draw::Color, font: &Font, text: &str) {
    let text_height = f32::min(14.0, 14.0 * (tile.width() as f32 - 8.0) / font.width(14.0, text).max(1.0));
    draw::fill(tile, [0, top as i64, 4, CAPTION as i64], color, 1.0);
    font.text(tile, [8.0, top as f32 + 2.0], text_height, WHITE, text);
}

/// The surroundings of the ball, magnified, with a border; `None` when the image is smaller than the inset's window.
fn inset(image: &RgbImage, [x, y]: [f32; 2], size: usize, color: draw::Color) -> Result<Option<RgbImage>, String> {
    let window = (size / MAGNIFIED).max(1) as f64;
    let native = [f64::from(image.width()), f64::from(image.height())];
    if native.iter().any(|n| *n < window) {
        return Ok(None);
    }
    let start = [0, 1].map(|axis| {
        let center = f64::from([x, y][axis]) + 0.5;
        (center - window / 2.0).clamp(0.0, native[axis] - window)
    });
    let mut inset = resize(image, Some([start[0], start[1], window, window]), [size, size])?;
    let edge = size as f32 - 1.0;
    for (a, b) in
        [([0.0, 0.0], [edge, 0.0]), ([0.0, 0.0], [0.0, edge]), ([edge, 0.0], [edge, edge]), ([0.0, edge], [edge, edge])]
    {
        draw::line(&mut inset, a, b, 1.0, color);
    }
    Ok(Some(inset))
}

#[cfg(test)]
mod tests {
    use super::super::tracknet::tests::Tree;
    use super::*;

    #[test]
    fn the_sheet_has_a_tile_a_frame_with_the_label_circled() {
        let tree = Tree::new();
        tree.clip(
            "game1",
            "Clip1",
            5,
            "0000.jpg,1,16.25,9.25,0\n0001.jpg,0,,,\n0002.jpg,3,40,20,0\n0003.jpg,2,90,9,0\n0004.jpg,1,1,1,0\n",
        );
        let frames = tree.open(&["game1"]).unwrap().frames();
        let options = PreviewOptions { columns: 2, tile_width: 128, ..PreviewOptions::default() };
        let sheet = contact_sheet(&frames, &options).unwrap();
        assert!(sheet.problems.is_empty());
        assert_eq!(sheet, contact_sheet(&frames, &options).unwrap());
        let sheet = sheet.picture;
        assert_eq!(sheet.dimensions(), (2 * 132 + 4, 3 * 96 + 4));
        // The first frame is 64×36 in a tile of 128×72: the ball at (16.25, 9.25) is at (33, 19), its circle 9 px around.
        let green = visibility_color(super::super::Visibility::Visible);
        assert_eq!(sheet.get_pixel(4 + 33 + 9, 4 + 19).0, green);
        // The second frame has no ball: nothing green in its tile.
        assert!((136..264).all(|x| (4..76).all(|y| sheet.get_pixel(x, y).0 != green)));
    }

    #[test]
    fn frames_are_spread_over_the_whole_list() {
        let frames: Vec<FrameRef> =
            (0..10).map(|i| FrameRef::unlabelled(std::path::Path::new(&format!("{i}.png")))).collect();
        let names = |n| spread(&frames, n).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(2), ["2.png", "7.png"]);
        assert_eq!(names(99).len(), 10);
        assert!(spread(&[], 3).is_empty());
    }

    #[test]
    fn what_can_be_drawn_is_drawn_and_the_tiles_of_the_others_say_why() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 3, "0000.jpg,0,,,\n0001.jpg,1,16,9,0\n0002.jpg,1,16,9,0\n");
        std::fs::write(tree.path("game1/Clip1/0001.jpg"), b"RIFF....WEBPVP8 ").unwrap();
        let frames = tree.open(&["game1"]).unwrap().frames();
        let options = PreviewOptions { columns: 3, tile_width: 128, ..PreviewOptions::default() };
        let sheet = contact_sheet(&frames, &options).unwrap();
        assert_eq!(sheet.problems, ["game1/Clip1/0001.jpg: is a WebP picture, expected jpeg or png"]);
        let has = |tile: u32, color: draw::Color| {
            (4 + tile * 132..132 + tile * 132).any(|x| (4..76).any(|y| sheet.picture.get_pixel(x, y).0 == color))
        };
        assert!(has(1, PROBLEM_GROUND) && has(1, WHITE) && !has(0, PROBLEM_GROUND) && !has(2, PROBLEM_GROUND));
        assert!(has(2, visibility_color(super::super::Visibility::Visible)));
    }
}
