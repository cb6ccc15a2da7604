//! The few drawing primitives that pictures of labels and predictions need, anti-aliased.
//!
//! Coordinates are pixels with the centre of the first at (0, 0), as labels are. What lies outside the image is not
//! drawn.

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont, point};
use image::{Rgb, RgbImage};

use super::{DatasetError, Visibility};

/// An RGB colour.
pub type Color = [u8; 3];

/// White.
pub const WHITE: Color = [255, 255, 255];
/// Black.
pub const BLACK: Color = [0, 0, 0];

/// The colour of a label of this class: green, amber, magenta; grey without a ball.
pub fn visibility_color(visibility: Visibility) -> Color {
    match visibility {
        Visibility::Absent => [160, 160, 160],
        Visibility::Visible => [60, 255, 90],
        Visibility::Hard => [255, 190, 40],
        Visibility::Occluded => [255, 80, 230],
    }
}

/// Mixes a colour into a pixel; `alpha` 0 keeps the pixel, 1 replaces it.
pub fn blend(image: &mut RgbImage, x: i64, y: i64, color: Color, alpha: f32) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
    if let Some(Rgb(pixel)) = image.get_pixel_mut_checked(x, y) {
        for (value, color) in pixel.iter_mut().zip(color) {
            let mixed = f32::from(*value) + (f32::from(color) - f32::from(*value)) * alpha.clamp(0.0, 1.0);
            *value = mixed.round() as u8;
        }
    }
}

/// Draws everything nearer than `reach` to the shape whose distance function is given; one pixel of soft edge.
fn stroke(image: &mut RgbImage, bounds: [f32; 4], reach: f32, ink: (Color, f32), distance: impl Fn(f32, f32) -> f32) {
    let (color, alpha) = ink;
    let margin = reach + 1.0;
    let clip = |low: f32, high: f32, length: u32| {
        let low = (low - margin).floor().max(0.0) as i64;
        low..=((high + margin).ceil() as i64).min(i64::from(length) - 1)
    };
    for y in clip(bounds[1], bounds[3], image.height()) {
        for x in clip(bounds[0], bounds[2], image.width()) {
            let coverage = reach + 0.5 - distance(x as f32, y as f32);
            if coverage > 0.0 {
                blend(image, x, y, color, coverage.min(1.0) * alpha);
            }
        }
    }
}

/// A circle line.
pub fn ring(image: &mut RgbImage, [cx, cy]: [f32; 2], radius: f32, thickness: f32, color: Color) {
    let bounds = [cx - radius, cy - radius, cx + radius, cy + radius];
    stroke(image, bounds, thickness / 2.0, (color, 1.0), |x, y| ((x - cx).hypot(y - cy) - radius).abs());
}

/// A straight line with round ends.
pub fn line(image: &mut RgbImage, a: [f32; 2], b: [f32; 2], thickness: f32, color: Color) {
    faint_line(image, [a, b], thickness, color, 1.0);
}

/// A straight line with round ends, through which the picture shows unless `alpha` is 1.
pub fn faint_line(image: &mut RgbImage, [[ax, ay], [bx, by]]: [[f32; 2]; 2], thickness: f32, color: Color, alpha: f32) {
    let (dx, dy) = (bx - ax, by - ay);
    let length2 = (dx * dx + dy * dy).max(f32::MIN_POSITIVE);
    let bounds = [ax.min(bx), ay.min(by), ax.max(bx), ay.max(by)];
    stroke(image, bounds, thickness / 2.0, (color, alpha), |x, y| {
        let along = (((x - ax) * dx + (y - ay) * dy) / length2).clamp(0.0, 1.0);
        (x - ax - along * dx).hypot(y - ay - along * dy)
    });
}

/// A plus sign with a hole, so that what it marks stays visible; `size` is the length of an arm.
pub fn cross(image: &mut RgbImage, [x, y]: [f32; 2], size: f32, thickness: f32, color: Color) {
    let hole = size * 0.4;
    for (dx, dy) in [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)] {
        let at = |length: f32| [x + dx * length, y + dy * length];
        line(image, at(hole), at(size), thickness, color);
    }
}

/// A filled rectangle `[left, top, width, height]`.
pub fn fill(image: &mut RgbImage, [left, top, width, height]: [i64; 4], color: Color, alpha: f32) {
    for y in top.max(0)..(top + height).min(i64::from(image.height())) {
        for x in left.max(0)..(left + width).min(i64::from(image.width())) {
            blend(image, x, y, color, alpha);
        }
    }
}

/// Copies `source` into `target` with its top left corner at `(left, top)`; what does not fit is cut off.
pub fn paste(target: &mut RgbImage, source: &RgbImage, left: i64, top: i64) {
    image::imageops::replace(target, source, left, top);
}

/// The built-in font (DejaVu Sans Bold, ASCII); other characters are drawn as `?`.
#[derive(Debug)]
pub struct Font(FontRef<'static>);

impl Font {
    /// Reads the font that is part of the program.
    ///
    /// # Errors
    /// Only when the program file itself is damaged.
    pub fn load() -> Result<Self, DatasetError> {
        let bytes: &'static [u8] = include_bytes!("../../../../assets/fonts/DejaVuSans-Bold-ascii.ttf");
        FontRef::try_from_slice(bytes).map(Self).map_err(|_| DatasetError::Internal("the built-in font cannot be read"))
    }

    /// Writes one line of text with its top left corner at `(x, y)`, `height` pixels from top to bottom.
    pub fn text(&self, image: &mut RgbImage, [x, y]: [f32; 2], height: f32, color: Color, text: &str) {
        let font = self.0.as_scaled(PxScale::from(height));
        let mut pen = x;
        for character in text.chars() {
            let id = font.glyph_id(if character.is_ascii() { character } else { '?' });
            let glyph = id.with_scale_and_position(font.scale(), point(pen, y + font.ascent()));
            pen += font.h_advance(id);
            if let Some(outline) = font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                outline.draw(|dx, dy, coverage| {
                    blend(image, corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy), color, coverage);
                });
            }
        }
    }

    /// Width of a line of text in pixels.
    pub fn width(&self, height: f32, text: &str) -> f32 {
        let font = self.0.as_scaled(PxScale::from(height));
        text.chars().map(|c| font.h_advance(font.glyph_id(if c.is_ascii() { c } else { '?' }))).sum()
    }

    /// Text on a dark, half transparent plate, moved so that it lies inside the image as far as possible.
    pub fn label(&self, image: &mut RgbImage, [x, y]: [f32; 2], height: f32, color: Color, text: &str) {
        let (width, pad) = (self.width(height, text), (height / 5.0).ceil());
        let x = x.min(image.width() as f32 - width - pad).max(pad);
        let y = y.min(image.height() as f32 - height - pad).max(pad);
        let plate = [x - pad, y - pad / 2.0, width + 2.0 * pad, height + pad].map(|v| v.round() as i64);
        fill(image, plate, BLACK, 0.55);
        self.text(image, [x, y], height, color, text);
    }
}

/// The colour of a heatmap value: 0 black, through indigo, red and orange to a pale yellow at 1; lightness rises
/// evenly, so that it also reads in grey.
pub fn heat_color(value: f32) -> Color {
    const STOPS: [[f32; 3]; 6] = [
        [0.0, 0.0, 0.0],
        [52.0, 20.0, 110.0],
        [142.0, 36.0, 110.0],
        [222.0, 74.0, 66.0],
        [252.0, 158.0, 56.0],
        [255.0, 250.0, 200.0],
    ];
    let place = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    // NaN survives the clamp and becomes 0 here.
    let below = (place as usize).min(STOPS.len() - 2);
    let share = place - below as f32;
    std::array::from_fn(|c| (STOPS[below][c] + (STOPS[below + 1][c] - STOPS[below][c]) * share).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lit(image: &RgbImage, x: u32, y: u32) -> bool {
        image.get_pixel(x, y).0 != BLACK
    }

    #[test]
    fn a_ring_is_drawn_on_its_radius_and_nowhere_else() {
        let mut image = RgbImage::new(41, 41);
        ring(&mut image, [20.0, 20.0], 10.0, 1.0, WHITE);
        assert_eq!(image.get_pixel(30, 20).0, WHITE);
        assert_eq!(image.get_pixel(20, 10).0, WHITE);
        assert!(!lit(&image, 20, 20) && !lit(&image, 33, 20) && !lit(&image, 26, 20));
        for (x, y, _) in image.enumerate_pixels() {
            let off = ((x as f32 - 20.0).hypot(y as f32 - 20.0) - 10.0).abs();
            assert_eq!(lit(&image, x, y), off < 0.998, "{x} {y}");
        }
    }

    #[test]
    fn drawing_outside_the_image_is_cut_off() {
        let mut image = RgbImage::new(8, 8);
        ring(&mut image, [-100.0, 4.0], 5.0, 2.0, WHITE);
        cross(&mut image, [1e9, -1e9], 10.0, 2.0, WHITE);
        fill(&mut image, [-5, -5, 3, 3], WHITE, 1.0);
        assert!(image.pixels().all(|p| p.0 == BLACK));
        line(&mut image, [-4.0, 4.0], [20.0, 4.0], 1.0, WHITE);
        assert!((0..8).all(|x| image.get_pixel(x, 4).0 == WHITE && !lit(&image, x, 2)));
    }

    #[test]
    fn a_cross_leaves_its_centre_free() {
        let mut image = RgbImage::new(41, 41);
        cross(&mut image, [20.0, 20.0], 10.0, 1.0, WHITE);
        assert!(!lit(&image, 20, 20) && lit(&image, 28, 20) && lit(&image, 20, 12) && !lit(&image, 28, 28));
    }

    #[test]
    fn text_has_ink_within_its_width_and_height() {
        let font = Font::load().unwrap();
        let mut image = RgbImage::new(200, 40);
        font.text(&mut image, [10.0, 10.0], 16.0, WHITE, "0.93 é");
        let width = font.width(16.0, "0.93 é");
        let inked: Vec<(u32, u32)> =
            image.enumerate_pixels().filter(|(_, _, p)| p.0 != BLACK).map(|(x, y, _)| (x, y)).collect();
        assert!(inked.len() > 50, "{}", inked.len());
        assert!(inked.iter().all(|(x, y)| (9..=11 + width as u32).contains(x) && (10..=27).contains(y)));
        assert_eq!(font.width(16.0, "é"), font.width(16.0, "?"));
    }

    #[test]
    fn heat_colours_get_lighter_with_the_value() {
        let light = |v: f32| heat_color(v).iter().map(|c| u32::from(*c)).sum::<u32>();
        assert!((0..50).all(|i| light(i as f32 / 50.0) < light((i + 1) as f32 / 50.0)));
        assert_eq!((heat_color(0.0), heat_color(-3.0), heat_color(f32::NAN)), (BLACK, BLACK, BLACK));
        assert_eq!(heat_color(7.0), heat_color(1.0));
    }
}
