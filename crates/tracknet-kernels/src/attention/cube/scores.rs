//! From scores to probabilities, and their gradients: a team of units for each row.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use crate::cube::{
    Team, contiguous, elem, expect, launch, place_in_team, row_of_team, team_max, team_sum, teams, unwritten,
    vector_size, vector_sum,
};

/// The softmax of the first `tokens` numbers of each row of f32 scores, as `dtype`; 0 behind them.
pub(super) fn softmax(scores: CubeTensor, tokens: usize, dtype: DType) -> CubeTensor {
    let scores = contiguous(scores);
    let (rows, columns) = rows_of(&scores);
    expect([(&scores, rows * columns, DType::F32)]);
    let y = unwritten(&scores, scores.shape(), dtype);
    let width = vector_size(&scores, DType::F32, [columns]);
    let (team, cubes, dim) = teams(&scores, rows, columns / width);
    // SAFETY: a team works on its row only if there is one, on vectors within it; both tensors have the same shape.
    unsafe {
        launch!(forward, (cubes, dim), [width], [scores, y], rows, columns / width, tokens, team, elem(dtype));
    }
    y
}

/// The probabilities of f32 scores, and the gradient of the scores from that of the probabilities (f32), as `dtype`.
pub(super) fn gradients(
    scores: CubeTensor,
    of_probabilities: CubeTensor,
    tokens: usize,
    dtype: DType,
) -> (CubeTensor, CubeTensor) {
    let [scores, of_probabilities] = [scores, of_probabilities].map(contiguous);
    let (rows, columns) = rows_of(&scores);
    expect([&scores, &of_probabilities].map(|tensor| (tensor, rows * columns, DType::F32)));
    let [probabilities, of_scores] = [(); 2].map(|()| unwritten(&scores, scores.shape(), dtype));
    let width = vector_size(&scores, DType::F32, [columns]);
    let (team, cubes, dim) = teams(&scores, rows, columns / width);
    // SAFETY: as in `softmax`; all four tensors have the same length (checked).
    unsafe {
        launch!(
            backward,
            (cubes, dim),
            [width],
            [scores, of_probabilities, probabilities, of_scores],
            rows,
            columns / width,
            tokens,
            team,
            elem(dtype)
        );
    }
    (probabilities, of_scores)
}

fn rows_of(scores: &CubeTensor) -> (usize, usize) {
    let [heads, rows, columns] = scores.shape().dims();
    (heads * rows, columns)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn forward<F: Float, N: Size>(
    scores: &[Vector<f32, N>],
    probabilities: &mut [Vector<F, N>],
    rows: usize,
    vectors: usize,
    tokens: usize,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let row = row_of_team(team);
    // A whole team leaves together: no barrier waits for it.
    if row >= rows {
        terminate!();
    }
    let (place, units) = place_in_team(team);
    let start = row * vectors;
    let (largest, sum) = normalizer(scores, start, vectors, tokens, team);
    let mut at = place;
    while at < vectors {
        let p = powers(scores[start + at], at, tokens, largest) * Vector::new(1.0f32 / sum);
        probabilities[start + at] = Vector::cast_from(p);
        at += units;
    }
}

/// `of_scores = p · (of_p − Σ p · of_p)`, the sum over the row.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn backward<F: Float, N: Size>(
    scores: &[Vector<f32, N>],
    of_probabilities: &[Vector<f32, N>],
    probabilities: &mut [Vector<F, N>],
    of_scores: &mut [Vector<F, N>],
    rows: usize,
    vectors: usize,
    tokens: usize,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let row = row_of_team(team);
    if row >= rows {
        terminate!();
    }
    let (place, units) = place_in_team(team);
    let start = row * vectors;
    let (largest, sum) = normalizer(scores, start, vectors, tokens, team);
    let scale = Vector::<f32, N>::new(1.0f32 / sum);

    let mut delta = 0.0f32;
    let mut at = place;
    while at < vectors {
        let p = powers(scores[start + at], at, tokens, largest) * scale;
        delta += vector_sum(p * of_probabilities[start + at]);
        at += units;
    }
    let delta = Vector::<f32, N>::new(team_sum(delta, team));

    let mut at = place;
    while at < vectors {
        let p = powers(scores[start + at], at, tokens, largest) * scale;
        probabilities[start + at] = Vector::cast_from(p);
        of_scores[start + at] = Vector::cast_from(p * (of_probabilities[start + at] - delta));
        at += units;
    }
}

/// The largest score of a row, and the sum of all powers relative to it.
#[cube]
fn normalizer<N: Size>(
    scores: &[Vector<f32, N>],
    start: usize,
    vectors: usize,
    tokens: usize,
    #[comptime] team: Team,
) -> (f32, f32) {
    let (place, units) = place_in_team(team);
    let mut largest = f32::min_value();
    let mut at = place;
    while at < vectors {
        let values = scores[start + at];
        #[unroll]
        for i in 0..N::value() {
            let inside = at * N::value() + i < tokens;
            largest = max(largest, select(inside, values.extract(i), f32::min_value()));
        }
        at += units;
    }
    let largest = team_max(largest, team);
    let mut sum = 0.0f32;
    let mut at = place;
    while at < vectors {
        sum += vector_sum(powers(scores[start + at], at, tokens, largest));
        at += units;
    }
    (largest, team_sum(sum, team))
}

/// `exp(score − largest)` of vector `at` of a row; 0 behind the last token.
#[cube]
fn powers<N: Size>(scores: Vector<f32, N>, at: usize, tokens: usize, largest: f32) -> Vector<f32, N> {
    let powers = (scores - Vector::new(largest)).exp();
    let mut out = Vector::<f32, N>::empty();
    #[unroll]
    for i in 0..N::value() {
        out.insert(i, select(at * N::value() + i < tokens, powers.extract(i), 0.0f32));
    }
    out
}
