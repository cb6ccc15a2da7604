//! The MLP of a block on slices, forward and backward: `residual + scale ∘ down(gelu(up(norm(x))))`.
//!
//! In a transformer block the input of the norm is the residual stream; in a ConvNeXt layer (Liu et al. 2022,
//! <https://arxiv.org/abs/2201.03545>) it is what a depthwise convolution makes of it.

use half::bf16;

use super::gradients::{OfAdapter, scaled_rows};
use super::kernel::{Linear, Norm, Thin, lanes};
use crate::gelu::kernel::{Activate, Gelu};
use crate::product::{AddScaled, PackedLhs, Shared, StoreBf16, filled};
use crate::simd::{Kernel, LANES, Level, Simd};

/// Two linear layers between a norm and a residual connection.
#[derive(Clone, Copy)]
pub(super) struct Mlp<'a> {
    pub(super) norm: Norm<'a>,
    pub(super) up: Linear<'a>,
    pub(super) down: Linear<'a>,
    pub(super) scale: Option<&'a [f32]>,
}

/// What the backward pass reads besides the input.
pub(super) struct SavedMlp {
    /// The normalized input.
    normal: PackedLhs,
    /// Before the activation.
    inner: Vec<bf16>,
    thin: [Option<Thin>; 2],
}

impl Mlp<'_> {
    /// Rows of values of `x` → the same, added to those of `residual`; and what backward wants.
    pub(super) fn forward(&self, x: &[f32], mut residual: Vec<f32>, level: Level) -> (Vec<f32>, SavedMlp) {
        let normal = self.norm.rows(x, level);
        let (inner, thin_up) = self.up.forward_bf16(&normal, level);
        let active = self.activated(&inner, level);
        let epilogue = AddScaled { out: Shared::new(&mut residual, self.hidden()), scale: self.scale };
        let thin_down = self.down.forward(&active, level, epilogue);
        (residual, SavedMlp { normal, inner, thin: [thin_up, thin_down] })
    }

    /// The gradients of the norm's output and of the adapters of both layers, from that of the result.
    pub(super) fn backward(&self, saved: SavedMlp, gradient: &[f32], level: Level) -> (Vec<f32>, [OfAdapter; 2]) {
        let SavedMlp { normal, inner, thin: [thin_up, thin_down] } = saved;
        let (rows, hidden, width) = (normal.rows(), self.hidden(), self.width());
        let of_branch = scaled_rows(gradient, self.scale, hidden, level);
        let active = self.activated(&inner, level);
        // SAFETY: the blocks of a product are the whole result, and `StoreBf16` writes all of each.
        let (of_active, down) = unsafe {
            filled([rows, width], |out| {
                self.down.backward(&of_branch, &active, thin_down.as_ref(), level, StoreBf16 { out })
            })
        };
        drop((active, of_branch));
        let of_inner = PackedLhs::new(level, [rows, width], |first, y| {
            let [x, gradient] = [&inner, &of_active].map(|all| &all[first * width..][..y.len()]);
            level.run(Slope { x, gradient, y });
        });
        drop((inner, of_active));
        let mut of_normal = vec![0.0; rows * hidden];
        let epilogue = AddScaled { out: Shared::new(&mut of_normal, hidden), scale: None };
        let up = self.up.backward(&of_inner, &normal, thin_up.as_ref(), level, epilogue);
        (of_normal, [up, down])
    }

    /// Values of a row.
    fn hidden(&self) -> usize {
        self.norm.weight.len()
    }

    /// Values of a row between the layers.
    fn width(&self) -> usize {
        self.up.weight.shape[0]
    }

    /// Behind the activation.
    fn activated(&self, inner: &[bf16], level: Level) -> PackedLhs {
        let width = self.width();
        PackedLhs::new(level, [inner.len() / width, width], |first, y| {
            level.run(Activated { x: &inner[first * width..][..y.len()], y });
        })
    }
}

/// `y = gelu(x)`; slices of one length.
struct Activated<'a> {
    x: &'a [bf16],
    y: &'a mut [f32],
}

impl Kernel for Activated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ((x, x_rest), (y, y_rest)) = (self.x.as_chunks::<LANES>(), self.y.as_chunks_mut::<LANES>());
        for (x, y) in x.iter().zip(y) {
            *y = Gelu::value::<S>(lanes(x)).0;
        }
        for (x, y) in x_rest.iter().zip(y_rest) {
            *y = Gelu::value::<S>(lanes(&[*x; LANES])).0[0];
        }
    }
}

/// `y = gradient · gelu'(x)`; slices of one length.
struct Slope<'a> {
    x: &'a [bf16],
    gradient: &'a [bf16],
    y: &'a mut [f32],
}

impl Kernel for Slope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ((x, x_rest), (g, g_rest)) = (self.x.as_chunks::<LANES>(), self.gradient.as_chunks::<LANES>());
        let (y, y_rest) = self.y.as_chunks_mut::<LANES>();
        for ((x, g), y) in x.iter().zip(g).zip(y) {
            *y = (Gelu::slope::<S>(lanes(x)) * lanes(g)).0;
        }
        for ((x, g), y) in x_rest.iter().zip(g_rest).zip(y_rest) {
            *y = (Gelu::slope::<S>(lanes(&[*x; LANES])) * lanes(&[*g; LANES])).0[0];
        }
    }
}
