//! The contact sheet: a grid of labelled frames, to see at a glance whether labels sit on the ball.

use image::RgbImage;
use rayon::prelude::*;

use super::draw::{self, Font, WHITE, visibility_color};
use super::image::{decode, resize};
use super::{DatasetError, FrameRef, Geometry};

/// Layout of a contact sheet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewOptions {
    /// Tiles in a row.
    pub columns: usize,
    /// Width of a tile in pixels; a tile is 16:9 with a caption below.
    pub tile_width: usize,
}

impl Default for PreviewOptions {
    fn default() -> Self {
        Self { columns: 4, tile_width: 400 }
    }
}

/// Height of the caption below a tile.
const CAPTION: usize = 20;
/// Pixels between tiles.
const GAP: usize = 4;
/// How much the inset around the ball magnifies native pixels.
const MAGNIFIED: usize = 3;

/// `n` frames spread evenly over the list (all of them when there are fewer).
pub fn spread(frames: &[FrameRef], n: usize) -> Vec<FrameRef> {
    let n = n.min(frames.len());
    (0..n).map(|i| frames[(2 * i + 1) * frames.len() / (2 * n)].clone()).collect()
}

/// Draws the frames with their labels, row by row; a ball gets a circle in the colour of its visibility and a
/// magnified inset.
///
/// # Errors
/// An image that cannot be decoded, with its path.
pub fn contact_sheet(frames: &[FrameRef], options: &PreviewOptions) -> Result<RgbImage, DatasetError> {
    let font = Font::load()?;
    let columns = options.columns.max(1).min(frames.len().max(1));
    let width = options.tile_width.clamp(64, 4096);
    let (height, rows) = (width * 9 / 16, frames.len().div_ceil(columns));
    let tiles: Vec<RgbImage> =
        frames.par_iter().map(|frame| tile(frame, [width, height], &font)).collect::<Result<_, _>>()?;
    let (step_x, step_y) = (width + GAP, height + CAPTION + GAP);
    let mut sheet = RgbImage::new((columns * step_x + GAP) as u32, (rows * step_y + GAP) as u32);
    for (index, tile) in tiles.iter().enumerate() {
        let (left, top) = (GAP + index % columns * step_x, GAP + index / columns * step_y);
        draw::paste(&mut sheet, tile, left as i64, top as i64);
    }
    Ok(sheet)
}

fn tile(frame: &FrameRef, [width, height]: [usize; 2], font: &Font) -> Result<RgbImage, DatasetError> {
    let image = decode(&frame.frame.path)?;
    let native = [image.width() as usize, image.height() as usize];
    let scale = f64::min(width as f64 / native[0] as f64, height as f64 / native[1] as f64);
    let size = native.map(|n| ((n as f64 * scale).round() as usize).max(1));
    let failure = |reason| DatasetError::Image { path: frame.frame.path.clone(), reason };
    let mut small = resize(&image, None, size).map_err(failure)?;
    let label = frame.frame.label;
    let color = visibility_color(label.visibility);
    let geometry = Geometry::whole(native, size, size);
    let caption = match label.xy {
        Some([x, y]) if geometry.contains([x, y]) => {
            let at = geometry.to_input([x, y]);
            draw::ring(&mut small, at, 9.0, 1.5, color);
            if let Some(inset) = inset(&image, [x, y], width / 5, color).map_err(failure)? {
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
    // Long names shrink rather than lose their end, which holds the frame number.
    let text_height = f32::min(14.0, 14.0 * (width as f32 - 8.0) / font.width(14.0, &caption).max(1.0));
    draw::fill(&mut tile, [0, height as i64, 4, CAPTION as i64], color, 1.0);
    font.text(&mut tile, [8.0, height as f32 + 2.0], text_height, WHITE, &caption);
    Ok(tile)
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
            "0000.jpg,1,16,9,0\n0001.jpg,0,,,\n0002.jpg,3,40,20,0\n0003.jpg,2,90,9,0\n0004.jpg,1,1,1,0\n",
        );
        let frames = tree.open(&["game1"]).unwrap().frames();
        let sheet = contact_sheet(&frames, &PreviewOptions { columns: 2, tile_width: 128 }).unwrap();
        assert_eq!(sheet.dimensions(), (2 * 132 + 4, 3 * 96 + 4));
        // The first frame is 64×36 in a tile of 128×72: the ball at (16, 9) is at (32, 18), its circle 9 px around.
        assert_eq!(sheet.get_pixel(4 + 32 + 9, 4 + 18).0, visibility_color(super::super::Visibility::Visible));
        // The second frame has no ball: nothing green in its tile.
        let green = visibility_color(super::super::Visibility::Visible);
        assert!((136..264).all(|x| (4..76).all(|y| sheet.get_pixel(x, y).0 != green)));
        assert_eq!(sheet, contact_sheet(&frames, &PreviewOptions { columns: 2, tile_width: 128 }).unwrap());
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
    fn an_image_that_cannot_be_decoded_is_named() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 1, "0000.jpg,0,,,\n");
        std::fs::write(tree.path("game1/Clip1/0000.jpg"), b"no").unwrap();
        let error = contact_sheet(&tree.open(&["game1"]).unwrap().frames(), &PreviewOptions::default()).unwrap_err();
        assert!(error.to_string().contains("0000.jpg: cannot decode"), "{error}");
    }
}
