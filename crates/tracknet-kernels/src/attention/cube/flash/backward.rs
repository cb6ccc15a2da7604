//! The gradients of queries, keys and values. Probabilities are computed again from the scores and the logarithms that
//! forward left; queries are one kernel's, keys and values another's, so that no two cubes add to one number.

use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};

use super::layout::{Layout, Own, invert_rotary, store};
use super::tiles::{Pair, ROWS, STEP, add_weighted_rows, fill, left_factors, tile, times_rows, zeros};
use crate::cube::vector_sum;

/// For each token and head, `Σ gradient · output`: what the softmax takes from the gradient of each of its probabilities.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn deltas<G: Float, N: Size>(
    output: &[Vector<G, N>],
    gradient: &[Vector<G, N>],
    deltas: &mut [f32],
    layout: Layout,
    units: usize,
    vectors: usize,
    #[define(G)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let head = ABSOLUTE_POS % layout.heads;
    let row = ABSOLUTE_POS / layout.heads;
    let start = row * layout.pitch + head * vectors;
    let mut sum = 0.0f32;
    for i in 0..vectors {
        let product = Vector::<f32, N>::cast_from(output[start + i]) * Vector::<f32, N>::cast_from(gradient[start + i]);
        sum += vector_sum(product);
    }
    deltas[(row / layout.tokens * layout.heads + head) * layout.tokens + row % layout.tokens] = sum;
}

/// A cube owns 64 queries of a head and meets all keys: with `p` a probability and `g` its gradient, that of its score is
/// `p (g − delta)`, and a query gets the keys with these weights.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn of_queries<F: Float, G: Float, N: Size, P: Size>(
    query: &[Vector<F, N>],
    key: &[Vector<F, N>],
    value: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    statistics: &[f32],
    deltas: &[f32],
    table: &[Vector<f32, P>],
    of_query: &mut [Vector<G, P>],
    layout: Layout,
    scale: f32,
    #[comptime] rotated: bool,
    #[comptime] vectors: usize,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let tokens = layout.tokens;
    let own = Own::here(&layout, vectors);

    let mut keys = tile::<F, N>(vectors);
    let mut values = tile::<F, N>(vectors);
    let place = own.start + own.first * layout.pitch;
    fill::<F, N>(&mut keys, query, place, layout.pitch, tokens - own.first, vectors);
    fill::<F, N>(&mut values, gradient, place, layout.pitch, tokens - own.first, vectors);
    sync_cube();
    let queries = left_factors::<F, N>(&keys, own.row, vectors);
    let gradients = left_factors::<F, N>(&values, own.row, vectors);
    let token = own.token + UNIT_POS_PLANE as usize / 4;
    let token_0 = own.head * tokens + min(token, tokens - 1);
    let token_1 = own.head * tokens + min(token + 8, tokens - 1);
    let logarithm_0 = statistics[token_0];
    let logarithm_1 = statistics[token_1];
    let delta_0 = deltas[token_0];
    let delta_1 = deltas[token_1];

    let mut sums = zeros(vectors);
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
                let of_probabilities = times_rows::<F, N>(&gradients, &values, at, vectors);
                let column = at + UNIT_POS_PLANE as usize % 4 * 2;
                #[unroll]
                for j in 0..comptime!(STEP / 8) {
                    let scores = scores.index_mut(j);
                    let of_probabilities = of_probabilities.index(j);
                    let column = column + 8 * j;
                    let p = power(scores[0usize], scale, Vector::new(logarithm_0), column, inside);
                    scores[0usize] = p * (of_probabilities[0usize] - Vector::new(delta_0));
                    let p = power(scores[1usize], scale, Vector::new(logarithm_1), column, inside);
                    scores[1usize] = p * (of_probabilities[1usize] - Vector::new(delta_1));
                }
                add_weighted_rows::<F, N>(&mut sums, &scores, &keys, at, vectors);
                at += STEP;
            }
        }
        from += ROWS;
    }
    if own.works {
        invert_rotary::<P>(&mut sums, table, own.token, scale, &layout, rotated, vectors);
        store::<G, P>(&sums, of_query, own.head, own.token, &layout, vectors);
    }
}

/// A cube owns 64 keys of a head and their values, and meets all queries: a value gets their gradients with the
/// probabilities as weights, a key the queries with the gradients of the scores.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn of_keys_and_values<F: Float, G: Float, N: Size, P: Size>(
    query: &[Vector<F, N>],
    key: &[Vector<F, N>],
    value: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    statistics: &[f32],
    deltas: &[f32],
    table: &[Vector<f32, P>],
    of_key: &mut [Vector<G, P>],
    of_value: &mut [Vector<G, P>],
    layout: Layout,
    scale: f32,
    #[comptime] rotated: bool,
    #[comptime] vectors: usize,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let tokens = layout.tokens;
    let own = Own::here(&layout, vectors);

    let mut queries = tile::<F, N>(vectors);
    let mut gradients = tile::<F, N>(vectors);
    let mut logarithms = Shared::<[f32]>::new_slice(ROWS);
    let mut differences = Shared::<[f32]>::new_slice(ROWS);
    let place = own.start + own.first * layout.pitch;
    fill::<F, N>(&mut queries, key, place, layout.pitch, tokens - own.first, vectors);
    fill::<F, N>(&mut gradients, value, place, layout.pitch, tokens - own.first, vectors);
    sync_cube();
    let keys = left_factors::<F, N>(&queries, own.row, vectors);
    let values = left_factors::<F, N>(&gradients, own.row, vectors);

    let mut of_keys = zeros(vectors);
    let mut of_values = zeros(vectors);
    let mut from = 0usize;
    while from < tokens {
        sync_cube();
        let place = own.start + from * layout.pitch;
        fill::<F, N>(&mut queries, query, place, layout.pitch, tokens - from, vectors);
        fill::<F, N>(&mut gradients, gradient, place, layout.pitch, tokens - from, vectors);
        let unit = UNIT_POS as usize;
        if unit < ROWS {
            let token = own.head * tokens + min(from + unit, tokens - 1);
            logarithms[unit] = statistics[token];
            differences[unit] = deltas[token];
        }
        sync_cube();
        if own.works {
            let inside = min(ROWS, tokens - from);
            let mut at = 0usize;
            while at < inside {
                // Transposed: keys are rows here.
                let mut scores = times_rows::<F, N>(&keys, &queries, at, vectors);
                let mut of_scores = times_rows::<F, N>(&values, &gradients, at, vectors);
                let column = at + UNIT_POS_PLANE as usize % 4 * 2;
                #[unroll]
                for j in 0..comptime!(STEP / 8) {
                    let probabilities = scores.index_mut(j);
                    let of_scores = of_scores.index_mut(j);
                    let column = column + 8 * j;
                    let logarithm = neighbours(&logarithms, column);
                    let delta = neighbours(&differences, column);
                    #[unroll]
                    for half in 0..2usize {
                        let p = power(probabilities[half], scale, logarithm, column, inside);
                        of_scores[half] = p * (of_scores[half] - delta);
                        probabilities[half] = p;
                    }
                }
                add_weighted_rows::<F, N>(&mut of_values, &scores, &gradients, at, vectors);
                add_weighted_rows::<F, N>(&mut of_keys, &of_scores, &queries, at, vectors);
                at += STEP;
            }
        }
        from += ROWS;
    }
    if own.works {
        store::<G, P>(&of_values, of_value, own.head, own.token, &layout, vectors);
        invert_rotary::<P>(&mut of_keys, table, own.token, scale, &layout, rotated, vectors);
        store::<G, P>(&of_keys, of_key, own.head, own.token, &layout, vectors);
    }
}

/// Probabilities from products of queries and keys; 0 for columns that do not exist.
#[cube]
fn power(products: Pair<f32>, scale: f32, logarithms: Pair<f32>, column: usize, columns: usize) -> Pair<f32> {
    let powers = (products * Vector::new(scale) - logarithms).exp();
    let mut out = powers;
    #[unroll]
    for i in 0..2usize {
        out.insert(i, select(column + i < columns, powers.extract(i), 0.0f32));
    }
    out
}

/// Two neighbouring numbers.
#[cube]
fn neighbours(numbers: &Shared<[f32]>, at: usize) -> Pair<f32> {
    let mut pair = Pair::<f32>::empty();
    pair.insert(0usize, numbers[at]);
    pair.insert(1usize, numbers[at + 1]);
    pair
}
