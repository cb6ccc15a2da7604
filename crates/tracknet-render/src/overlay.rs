//! Broadcast graphics: scoreboard and channel logo, fixed to the frame.

use crate::draw::{Draw, Stream};
use crate::look::Graphics;
use crate::math::*;
use crate::raster::{Layer, fill_convex};
use crate::text::Text;

/// Draws the graphics of a clip into a layer over the frame.
pub(crate) fn paint_graphics(graphics: &Graphics, size: [usize; 2], rng: &mut Stream) -> Layer {
    let [width, height] = size.map(|s| s as f32);
    let mut layer = Layer::new([0, 0, size[0] as i32, size[1] as i32]);
    if !rng.chance(0.1) {
        scoreboard(&mut layer, graphics, [width, height], rng);
    }
    if let Some((first, second)) = &graphics.logo {
        let letter = height * 0.042;
        let (a, b) = (Text::new(first), Text::new(second));
        let total = letter * (a.aspect() + b.aspect());
        let left = if graphics.logo_right { width * 0.96 - total } else { width * 0.035 };
        a.draw(&mut layer, [left, height * 0.045, letter], graphics.accent, 0.85);
        b.draw(&mut layer, [left + letter * a.aspect(), height * 0.045, letter], [0.92; 3], 0.85);
    }
    if let Some(mark) = &graphics.watermark {
        let (text, letter) = (Text::new(&mark.text), height * mark.height);
        let left = (width * mark.at[0] - letter * text.aspect() * 0.5).clamp(0.0, width * 0.99);
        text.draw(&mut layer, [left, height * mark.at[1] - letter * 0.5, letter], [0.9; 3], mark.alpha);
    }
    layer
}

fn scoreboard(layer: &mut Layer, graphics: &Graphics, [width, height]: [f32; 2], rng: &mut Stream) {
    let row = height * if graphics.style == 1 { 0.034 } else { 0.04 };
    let names = graphics.names.each_ref().map(|n| Text::new(n));
    let widest = names.iter().map(Text::aspect).fold(0.0, f32::max) * row * 0.72;
    let cell = row * 0.95;
    let sets = 1 + rng.index(3);
    let (left, top) = (width * graphics.at[0], height * graphics.at[1]);
    let name_end = left + row * 0.5 + widest + row * 0.5;
    let right = name_end + cell * sets as f32 + cell * 1.5;
    let alpha = if graphics.style == 2 { 0.75 } else { 0.95 };
    rectangle(layer, [left, top, right, top + 2.0 * row], graphics.back, alpha);
    let light_back = graphics.back[1] > 0.4;
    let ink = if light_back { [0.03; 3] } else { [0.9; 3] };
    let game = name_end + cell * (sets as f32 - 1.0);
    rectangle(layer, [game, top, game + cell, top + 2.0 * row], graphics.accent, 0.95);
    let serving = rng.index(2);
    for (i, name) in names.iter().enumerate() {
        let y = top + row * i as f32;
        let letter = row * 0.72;
        name.draw(layer, [left + row * 0.5, y + row * 0.15, letter], ink, 1.0);
        if i == serving {
            rectangle(
                layer,
                [left + row * 0.12, y + row * 0.4, left + row * 0.32, y + row * 0.6],
                graphics.accent,
                1.0,
            );
        }
        for set in 0..sets {
            let digit = Text::new(&rng.index(8).to_string());
            let color = if set + 1 == sets { [0.02; 3] } else { scale_rgb(ink, 0.6) };
            digit.draw(layer, [name_end + cell * set as f32 + cell * 0.25, y + row * 0.15, letter], color, 1.0);
        }
        let points = Text::new(rng.pick(&["0", "15", "30", "40", "AD"]));
        points.draw(layer, [game + cell * 1.2, y + row * 0.15, letter], ink, 1.0);
    }
}

fn rectangle(layer: &mut Layer, [x0, y0, x1, y1]: [f32; 4], color: Rgb, alpha: f32) {
    fill_convex(layer, &[(x0, y0), (x1, y0), (x1, y1), (x0, y1)], |_, _| (color, alpha));
}
