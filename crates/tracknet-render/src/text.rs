//! Lettering: a word becomes a coverage bitmap once, and is then mapped onto boards, ground and overlays.

use ab_glyph::{Font, FontRef, Glyph, ScaleFont, point};

use crate::camera::Camera;
use crate::math::*;
use crate::raster::{Rect3, Target, clip};

const FONT: &[u8] = include_bytes!("../../../assets/fonts/DejaVuSans-Bold-ascii.ttf");
/// Bitmap height, pixels.
const HEIGHT: f32 = 40.0;

/// A word as a bitmap of coverage in `0..=1`.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    width: usize,
    height: usize,
    coverage: Vec<f32>,
}

impl Text {
    /// Sets ASCII text; anything the font lacks is left out.
    pub(crate) fn new(text: &str) -> Self {
        let Ok(font) = FontRef::try_from_slice(FONT) else { return Self { width: 0, height: 0, coverage: Vec::new() } };
        let scaled = font.as_scaled(HEIGHT);
        let mut pen = 1.0;
        let mut glyphs: Vec<Glyph> = Vec::new();
        for c in text.chars() {
            let id = scaled.glyph_id(c);
            glyphs.push(id.with_scale_and_position(HEIGHT, point(pen, scaled.ascent())));
            pen += scaled.h_advance(id);
        }
        let (width, height) = ((pen + 1.0).ceil() as usize, HEIGHT as usize + 2);
        let mut coverage = vec![0.0_f32; width * height];
        for glyph in glyphs {
            let Some(outline) = font.outline_glyph(glyph) else { continue };
            let bounds = outline.px_bounds();
            outline.draw(|x, y, c| {
                let (x, y) = (x as i64 + bounds.min.x as i64, y as i64 + bounds.min.y as i64);
                let inside = x >= 0 && (x as usize) < width && y >= 0;
                let index = if inside { y as usize * width + x as usize } else { usize::MAX };
                if let Some(p) = coverage.get_mut(index) {
                    // Sixteen levels: the rasterizer's last bits may differ between processors.
                    *p = p.max((c * 15.0 + 0.5).floor() / 15.0).min(1.0);
                }
            });
        }
        Self { width, height, coverage }
    }

    /// Width over height.
    pub(crate) fn aspect(&self) -> f32 {
        self.width.max(1) as f32 / self.height.max(1) as f32
    }

    /// Average coverage of a box around `(u, v)` in `0..=1` of the bitmap; `du`, `dv` are its sides.
    fn sample(&self, u: f32, v: f32, du: f32, dv: f32) -> f32 {
        let taps = ((du * self.width as f32).max(dv * self.height as f32).ceil() as i32).clamp(1, 6);
        let mut sum = 0.0;
        for i in 0..taps {
            for j in 0..taps {
                let at = |t: f32, d: f32, k: i32| t + d * ((k as f32 + 0.5) / taps as f32 - 0.5);
                sum += self.bilinear(at(u, du, i), at(v, dv, j));
            }
        }
        sum / (taps * taps) as f32
    }

    fn bilinear(&self, u: f32, v: f32) -> f32 {
        let (x, y) = (u * self.width as f32 - 0.5, v * self.height as f32 - 0.5);
        let (fx, fy) = (x.floor(), y.floor());
        let at = |x: f32, y: f32| {
            let inside = x >= 0.0 && y >= 0.0 && x < self.width as f32 && y < self.height as f32;
            if !inside {
                return 0.0;
            }
            self.coverage.get(y as usize * self.width + x as usize).copied().unwrap_or(0.0)
        };
        let top = mix(at(fx, fy), at(fx + 1.0, fy), x - fx);
        let bottom = mix(at(fx, fy + 1.0), at(fx + 1.0, fy + 1.0), x - fx);
        mix(top, bottom, y - fy)
    }

    /// Fills a rectangle in space with the text; `v` points down the letters.
    pub(crate) fn paint<T: Target>(&self, target: &mut T, camera: &Camera, rect: &Rect3, color: Rgb, alpha: f32) {
        rect.paint(target, camera, |(u, v), (du, dv)| {
            let (w, h) = rect.size;
            (color, alpha * self.sample(u / w, v / h, du / w, dv / h))
        });
    }

    /// Draws upright on the picture: left, top and height in pixels.
    pub(crate) fn draw<T: Target>(&self, target: &mut T, [left, top, height]: [f32; 3], color: Rgb, alpha: f32) {
        let width = height * self.aspect();
        let area = [left as i32 - 1, top as i32 - 1, (left + width) as i32 + 2, (top + height) as i32 + 2];
        let [x0, y0, x1, y1] = clip(area, target.bounds());
        for y in y0..y1 {
            for x in x0..x1 {
                let (u, v) = ((x as f32 - left) / width, (y as f32 - top) / height);
                let a = alpha * self.sample(u, v, 1.0 / width, 1.0 / height);
                if a > 0.003 {
                    target.blend(x, y, color, a);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_word_is_wider_and_has_ink() {
        let (short, long) = (Text::new("AB"), Text::new("ABABAB"));
        assert!(long.aspect() > short.aspect() * 2.5);
        assert!(short.coverage.iter().sum::<f32>() > 100.0);
        assert!(short.coverage.iter().all(|c| (0.0..=1.0).contains(c)));
    }
}
