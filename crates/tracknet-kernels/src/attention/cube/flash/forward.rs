//! The output of attention, and the logarithm of what each of its rows was divided by.

use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};

use super::layout::{Layout, Own, store};
use super::tiles::{
    Pair, ROWS, STEP, add_weighted_rows, fill, left_factors, row_max, row_sum, tile, times_rows, zeros,
};

/// A cube owns 64 queries of a head and meets all keys, tile by tile. A larger score that comes later shrinks what was
/// summed before it (online softmax).
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn forward<F: Float, G: Float, N: Size, P: Size>(
    query: &[Vector<F, N>],
    key: &[Vector<F, N>],
    value: &[Vector<F, N>],
    out: &mut [Vector<G, P>],
    statistics: &mut [f32],
    layout: Layout,
    scale: f32,
    #[comptime] vectors: usize,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let tokens = layout.tokens;
    let own = Own::here(&layout, vectors);

    let mut keys = tile::<F, N>(vectors);
    let mut values = tile::<F, N>(vectors);
    fill::<F, N>(&mut keys, query, own.start + own.first * layout.pitch, layout.pitch, tokens - own.first, vectors);
    sync_cube();
    let queries = left_factors::<F, N>(&keys, own.row, vectors);

    let mut output = zeros(vectors);
    let mut largest_0 = f32::min_value();
    let mut largest_1 = f32::min_value();
    let mut sum_0 = 0.0f32;
    let mut sum_1 = 0.0f32;
    let mut from = 0usize;
    while from < tokens {
        sync_cube();
        let place = own.start + from * layout.pitch;
        fill::<F, N>(&mut keys, key, place, layout.pitch, tokens - from, vectors);
        fill::<F, N>(&mut values, value, place, layout.pitch, tokens - from, vectors);
        sync_cube();
        if own.works {
            let inside = min(ROWS, tokens - from);
            let mut at = 0usize;
            while at < inside {
                let mut scores = times_rows::<F, N>(&queries, &keys, at, vectors);
                let column = at + UNIT_POS_PLANE as usize % 4 * 2;
                let ragged = at + STEP > inside;
                let mut high_0 = largest_0;
                let mut high_1 = largest_1;
                #[unroll]
                for j in 0..comptime!(STEP / 8) {
                    let scores = scores.index_mut(j);
                    let mut upper = scores[0usize] * Vector::new(scale);
                    let mut lower = scores[1usize] * Vector::new(scale);
                    if ragged {
                        upper = inside_only(upper, column + 8 * j, inside);
                        lower = inside_only(lower, column + 8 * j, inside);
                    }
                    high_0 = max(high_0, max(upper.extract(0usize), upper.extract(1usize)));
                    high_1 = max(high_1, max(lower.extract(0usize), lower.extract(1usize)));
                    scores[0usize] = upper;
                    scores[1usize] = lower;
                }
                high_0 = row_max(high_0);
                high_1 = row_max(high_1);
                let shrink_0 = (largest_0 - high_0).exp();
                let shrink_1 = (largest_1 - high_1).exp();
                largest_0 = high_0;
                largest_1 = high_1;
                sum_0 *= shrink_0;
                sum_1 *= shrink_1;
                #[unroll]
                for j in 0..comptime!(STEP / 8) {
                    let powers = scores.index_mut(j);
                    let upper = (powers[0usize] - Vector::new(high_0)).exp();
                    let lower = (powers[1usize] - Vector::new(high_1)).exp();
                    sum_0 += upper.extract(0usize) + upper.extract(1usize);
                    sum_1 += lower.extract(0usize) + lower.extract(1usize);
                    powers[0usize] = upper;
                    powers[1usize] = lower;
                }
                #[unroll]
                for j in 0..vectors {
                    let output = output.index_mut(j);
                    output[0usize] *= Vector::new(shrink_0);
                    output[1usize] *= Vector::new(shrink_1);
                }
                add_weighted_rows::<F, N>(&mut output, &scores, &values, at, vectors);
                at += STEP;
            }
        }
        from += ROWS;
    }

    if own.works {
        let sum_0 = row_sum(sum_0);
        let sum_1 = row_sum(sum_1);
        #[unroll]
        for j in 0..vectors {
            let output = output.index_mut(j);
            output[0usize] *= Vector::new(1.0f32 / sum_0);
            output[1usize] *= Vector::new(1.0f32 / sum_1);
        }
        store::<G, P>(&output, out, own.head, own.token, &layout, vectors);
        let lane = UNIT_POS_PLANE as usize;
        let token = own.token + lane / 4;
        let column = lane % 4;
        if column == 0 {
            if token < tokens {
                statistics[own.head * tokens + token] = largest_0 + sum_0.ln();
            }
            if token + 8 < tokens {
                statistics[own.head * tokens + token + 8] = largest_1 + sum_1.ln();
            }
        }
    }
}

/// Scores whose key exists; others can never be the largest, and their power is 0.
#[cube]
fn inside_only(scores: Pair<f32>, column: usize, columns: usize) -> Pair<f32> {
    let mut out = scores;
    #[unroll]
    for i in 0..2usize {
        out.insert(i, select(column + i < columns, scores.extract(i), f32::min_value()));
    }
    out
}
