//! The block on slices, backward.
//!
//! The base is a constant: its gradients are those of the input, `g · W` from the packed weight again, and of the
//! adapters. With `t = factor · A(mask ∘ x)` kept and `u = factor · Bᵀ(g)`: `dB = gᵀ·t`, `dA = uᵀ·(mask ∘ x)`, and the
//! input's gradient gains `mask ∘ (u·A)`.

use std::marker::PhantomData;

use half::bf16;

use super::kernel::{Block, LAYERS, Linear, Norm, Saved, Thin, widen};
use crate::gelu::kernel::Identity;
use crate::norm::kernel::NormalizeRowsGradient;
use crate::product::{self, AddScaled, Epilogue, LowRank, PackedLhs, Product, Shared, Side, StoreBf16, filled};
use crate::simd::{Kernel, Level, Simd};

/// Gradients of an adapter's matrices, `[rank, in]` and `[out, rank]`.
pub(super) type OfAdapter = Option<[Vec<f32>; 2]>;

impl Linear<'_> {
    /// Hands the gradient of the input to `epilogue`, as a product does, from that of the output (`gradient`) and the input (`x`); returns those
    /// of the adapter.
    pub(super) fn backward<E: Epilogue>(
        &self,
        gradient: &PackedLhs,
        x: &PackedLhs,
        thin: Option<&Thin>,
        level: Level,
        epilogue: E,
    ) -> OfAdapter {
        let Self { weight, .. } = *self;
        let base = |low_rank| Product { lhs: gradient, weight, side: Side::Out, bias: None, low_rank };
        let Some((adapter, thin)) = self.adapter.zip(thin) else {
            product::run(level, &base(None), epilogue);
            return None;
        };
        let mask = thin.mask.as_ref();
        let back = product::thin(level, gradient, None, (adapter.b, Side::Out), adapter.factor());
        let low_rank = LowRank { lhs: &back, weight: adapter.a, side: Side::Out, mask };
        product::run(level, &base(Some(low_rank)), epilogue);
        let of_a = product::outer(level, &back, x, mask);
        let of_b = transposed(&product::outer(level, &thin.rows, gradient, None), thin.rows.columns());
        Some([of_a, of_b])
    }
}

impl Norm<'_> {
    /// Adds the gradient of the normalization's input `x` to `of_x`, from that of its output.
    pub(super) fn backward(&self, x: &[f32], gradient: &[f32], of_x: &mut [f32], level: Level) {
        let Self { weight, bias, epsilon } = *self;
        let columns = weight.len();
        crate::chunks::for_each(of_x, ROWS_PER_TASK * columns, |number, of_x| {
            let range = number * ROWS_PER_TASK * columns..;
            let [x, gradient] = [x, gradient].map(|all| &all[range.clone()][..of_x.len()]);
            let mut part = vec![0.0; of_x.len()];
            let statistics = level.run(Statistics { x, columns, epsilon });
            let activation = PhantomData::<Identity>;
            let (statistics, parameters) = (statistics.as_slice(), false);
            let of_part = part.as_mut_slice();
            level.run(NormalizeRowsGradient {
                x,
                weight,
                bias,
                statistics,
                gradient,
                of_x: of_part,
                parameters,
                activation,
            });
            for (of_x, part) in of_x.iter_mut().zip(&part) {
                *of_x += part;
            }
        });
    }
}

/// Rows of a task of the normalization.
const ROWS_PER_TASK: usize = 32;

impl Block<'_> {
    /// The gradient of the block's input `x`, and of the adapters in the order of the layers.
    pub(super) fn backward(
        &self,
        x: &[f32],
        saved: Saved,
        gradient: &[f32],
        level: Level,
    ) -> (Vec<f32>, [OfAdapter; LAYERS]) {
        let mut of_x = gradient.to_vec();
        let Saved { middle, normal1, query, key, value, attended, lse, thin, mlp } = saved;
        let [thin_query, thin_key, thin_value, thin_output] = thin;

        let (of_normal, [up, down]) = self.mlp.backward(mlp, gradient, level);
        self.mlp.norm.backward(&middle, &of_normal, &mut of_x, level);
        drop((middle, of_normal));

        let (rows, hidden) = (self.shape.rows(), self.shape.hidden);
        let of_branch = scaled_rows(&of_x, self.scale1, hidden, level);
        let attended_rows = PackedLhs::new(level, [rows, hidden], |first, y| widen(&attended[first * hidden..], y));
        // SAFETY: the blocks of a product are the whole result, and `StoreBf16` writes all of each.
        let (of_attended, output) = unsafe {
            filled([rows, hidden], |out| {
                let epilogue = StoreBf16 { out };
                self.output.backward(&of_branch, &attended_rows, thin_output.as_ref(), level, epilogue)
            })
        };
        drop((of_branch, attended_rows));
        let attention = self.attention(&query, &key, &value);
        let gradients: [Vec<bf16>; 3] = attention.backward(&attended, &lse, &of_attended, level);
        drop((of_attended, attended, query, key, value));

        let mut of_normal = vec![0.0; rows * hidden];
        let mut layers = [(&self.query, thin_query), (&self.key, thin_key), (&self.value, thin_value)].into_iter();
        let of_layers = gradients.map(|gradient| {
            let (linear, thin) = layers.next()?;
            let gradient = PackedLhs::new(level, [rows, hidden], |first, y| widen(&gradient[first * hidden..], y));
            let epilogue = AddScaled { out: Shared::new(&mut of_normal, hidden), scale: None };
            linear.backward(&gradient, &normal1, thin.as_ref(), level, epilogue)
        });
        self.norm1.backward(x, &of_normal, &mut of_x, level);
        let [query, key, value] = of_layers;
        (of_x, [query, key, value, output, up, down])
    }
}

/// A gradient as rows to multiply, behind the scale of its branch.
pub(super) fn scaled_rows(gradient: &[f32], scale: Option<&[f32]>, columns: usize, level: Level) -> PackedLhs {
    PackedLhs::new(level, [gradient.len() / columns, columns], |first, y| {
        let gradient = &gradient[first * columns..][..y.len()];
        match scale {
            None => y.copy_from_slice(gradient),
            Some(scale) => {
                for (y, gradient) in y.chunks_exact_mut(columns).zip(gradient.chunks_exact(columns)) {
                    for ((y, gradient), scale) in y.iter_mut().zip(gradient).zip(scale) {
                        *y = gradient * scale;
                    }
                }
            }
        }
    })
}

/// `[rows, columns]` as `[columns, rows]`.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    let mut out = vec![0.0; values.len()];
    for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
        for (column, value) in values.iter().enumerate() {
            out[column * rows + row] = *value;
        }
    }
    out
}

/// Mean and reciprocal deviation of rows.
struct Statistics<'a> {
    x: &'a [f32],
    columns: usize,
    epsilon: f32,
}

impl Kernel for Statistics<'_> {
    type Output = Vec<[f32; 2]>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<[f32; 2]> {
        let mut all = Vec::with_capacity(self.x.len() / self.columns);
        for row in self.x.chunks_exact(self.columns) {
            all.push(crate::norm::kernel::statistics::<S>(row, self.epsilon));
        }
        all
    }
}
