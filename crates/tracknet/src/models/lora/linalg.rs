//! The two decompositions that adapters start from: QR by Householder reflections, and the leading part of a singular
//! value decomposition by one-sided Jacobi rotations (Golub and Van Loan, Matrix Computations, sections 5.2 and 8.6).
//!
//! In double precision on columns in host memory: weights are decomposed once, when a model is built. A library of
//! linear algebra would bring a dozen crates for these hundred lines.

use rayon::prelude::*;

/// A matrix by columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    rows: usize,
    columns: Vec<Vec<f64>>,
}

impl Matrix {
    /// From row-major values `[rows, columns]`.
    pub(crate) fn from_rows(values: &[f32], [rows, columns]: [usize; 2]) -> Self {
        let column = |j: usize| (0..rows).map(|i| f64::from(values[i * columns + j])).collect();
        Self { rows, columns: (0..columns).map(column).collect() }
    }

    /// Row-major values.
    pub(crate) fn to_rows(&self) -> Vec<f32> {
        (0..self.rows).flat_map(|i| self.columns.iter().map(move |c| c[i] as f32)).collect()
    }

    /// `[rows, columns]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns.len()]
    }

    pub(crate) fn transposed(&self) -> Self {
        let row = |i: usize| self.columns.iter().map(|c| c[i]).collect();
        Self { rows: self.columns.len(), columns: (0..self.rows).map(row).collect() }
    }

    /// The first `count` columns.
    pub(crate) fn leading(mut self, count: usize) -> Self {
        self.columns.truncate(count);
        self
    }

    /// Every second column, from `first` on.
    pub(crate) fn every_second(&self, first: usize) -> Self {
        Self { rows: self.rows, columns: self.columns.iter().skip(first).step_by(2).cloned().collect() }
    }

    /// `self · other`.
    pub(crate) fn times(&self, other: &Self) -> Self {
        Self { rows: self.rows, columns: other.columns.par_iter().map(|c| self.times_vector(c)).collect() }
    }

    fn times_vector(&self, x: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; self.rows];
        for (column, factor) in self.columns.iter().zip(x) {
            add(&mut y, column, *factor);
        }
        y
    }

    /// Each column times a number of its own.
    pub(crate) fn scaled(mut self, factors: &[f64]) -> Self {
        for (column, factor) in self.columns.iter_mut().zip(factors) {
            column.iter_mut().for_each(|x| *x *= factor);
        }
        self
    }
}

/// `Q: [m, k]` with orthonormal columns and `R: [k, n]`, upper triangular, with `Q·R = x` and `k = min(m, n)`.
pub(crate) fn qr(x: &Matrix) -> (Matrix, Matrix) {
    let (m, n) = (x.rows, x.columns.len());
    let k = m.min(n);
    let mut columns = x.columns.clone();
    let mut reflections = Vec::with_capacity(k);
    for j in 0..k {
        let reflection = Reflection::onto_axis(&columns[j][j..]);
        columns[j..].par_iter_mut().for_each(|c| reflection.apply(&mut c[j..]));
        reflections.push(reflection);
    }
    let triangle = columns.into_iter().enumerate().map(|(j, mut c)| {
        c.truncate(k);
        c.iter_mut().skip(j + 1).for_each(|below| *below = 0.0);
        c
    });
    let r = Matrix { rows: k, columns: triangle.collect() };
    let axis = |j: usize| {
        let mut c = vec![0.0; m];
        c[j] = 1.0;
        reflections.iter().enumerate().rev().for_each(|(i, reflection)| reflection.apply(&mut c[i..]));
        c
    };
    (Matrix { rows: m, columns: (0..k).into_par_iter().map(axis).collect() }, r)
}

/// `I − 2·v·vᵀ`, with `v` of length 1 or, for the identity, 0.
struct Reflection(Vec<f64>);

impl Reflection {
    /// The reflection that turns `x` onto the first axis.
    fn onto_axis(x: &[f64]) -> Self {
        let mut v = x.to_vec();
        let length = dot(x, x).sqrt();
        if let Some(first) = v.first_mut() {
            *first += length.copysign(*first);
        }
        let norm = dot(&v, &v).sqrt();
        if norm > 0.0 {
            v.iter_mut().for_each(|x| *x /= norm);
        }
        Self(v)
    }

    fn apply(&self, x: &mut [f64]) {
        let factor = -2.0 * dot(&self.0, x);
        add(x, &self.0, factor);
    }
}

/// The leading part of a singular value decomposition: `left · diag(values) · rightᵀ` is the nearest matrix of its rank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Svd {
    /// `[m, rank]`.
    pub(crate) left: Matrix,
    /// Largest first.
    pub(crate) values: Vec<f64>,
    /// `[n, rank]`.
    pub(crate) right: Matrix,
}

/// Columns are orthogonal when the cosine between any two is below this; the input has 24 bits.
const ORTHOGONAL: f64 = 1e-12;
/// A few suffice; quadratic convergence.
const MAX_SWEEPS: usize = 40;

/// The `rank` largest singular values of `x` and their vectors. The result does not depend on the number of threads.
pub(crate) fn svd(x: &Matrix, rank: usize) -> Svd {
    if x.rows < x.columns.len() {
        let Svd { left, values, right } = svd(&x.transposed(), rank);
        return Svd { left: right, values, right: left };
    }
    // x = Q·R has the right vectors of R, and rotating the rows of R instead of its columns converges in fewer sweeps.
    let n = x.columns.len();
    let mut columns = qr(x).1.transposed().columns;
    if n % 2 == 1 {
        columns.push(vec![0.0; n]);
    }
    for _ in 0..MAX_SWEEPS {
        if sweep(&mut columns) <= ORTHOGONAL {
            break;
        }
    }
    let mut found: Vec<(f64, Vec<f64>)> = columns.into_iter().map(|c| (dot(&c, &c).sqrt(), c)).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(rank.min(n));
    let values: Vec<f64> = found.iter().map(|(value, _)| *value).collect();
    let inverse: Vec<f64> = values.iter().map(|v| if *v > 0.0 { 1.0 / v } else { 0.0 }).collect();
    let right = Matrix { rows: n, columns: found.into_iter().map(|(_, c)| c).collect() }.scaled(&inverse);
    let left = x.times(&right).scaled(&inverse);
    Svd { left, values, right }
}

/// Makes every pair of columns orthogonal once, in rounds of pairs that have no column in common; returns the largest
/// cosine that was found.
fn sweep(columns: &mut Vec<Vec<f64>>) -> f64 {
    let mut largest = 0.0f64;
    for _ in 1..columns.len().max(2) {
        let found = columns.par_chunks_mut(2).map(|pair| match pair {
            [p, q] => rotate(p, q),
            _ => 0.0,
        });
        largest = largest.max(found.reduce(|| 0.0, f64::max));
        next_round(columns);
    }
    largest
}

/// The circle method of tournaments: the first column stays, the others move on by one place.
fn next_round(columns: &mut Vec<Vec<f64>>) {
    let count = columns.len();
    if count < 4 {
        return;
    }
    let mut next = vec![Vec::new(); count];
    for (i, column) in columns.drain(..).enumerate() {
        let place = match i {
            0 => 0,
            1 => 2,
            i if i == count - 2 => count - 1,
            i if i % 2 == 0 => i + 2,
            i => i - 2,
        };
        next[place] = column;
    }
    *columns = next;
}

/// Turns two columns within their plane until they are orthogonal; returns the cosine they had.
fn rotate(p: &mut [f64], q: &mut [f64]) -> f64 {
    let (alpha, beta, gamma) = (dot(p, p), dot(q, q), dot(p, q));
    let cosine = gamma.abs() / (alpha * beta).sqrt().max(f64::MIN_POSITIVE);
    if cosine <= ORTHOGONAL {
        return cosine;
    }
    let zeta = (beta - alpha) / (2.0 * gamma);
    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let c = 1.0 / tangent.hypot(1.0);
    let s = c * tangent;
    for (x, y) in p.iter_mut().zip(q) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
    cosine
}

/// Eight sums side by side, so that the compiler can use vectors; always in the same order.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (xs, x_rest) = x.as_chunks::<8>();
    let (ys, y_rest) = y.as_chunks::<8>();
    for (x, y) in xs.iter().zip(ys) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f64>()
}

fn add(x: &mut [f64], y: &[f64], factor: f64) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::models::init::{Fill, RandomSource, Source};

    fn random(seed: u64, shape: [usize; 2]) -> Matrix {
        Matrix::from_rows(&RandomSource { seed }.values("m", &shape, Fill::Normal(1.0)), shape)
    }

    fn difference(a: &Matrix, b: &Matrix) -> f64 {
        assert_eq!((a.rows, a.columns.len()), (b.rows, b.columns.len()));
        let pairs = a.columns.iter().flatten().zip(b.columns.iter().flatten());
        pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
    }

    fn identity(n: usize) -> Matrix {
        let mut unit = Matrix { rows: n, columns: vec![vec![0.0; n]; n] };
        (0..n).for_each(|i| unit.columns[i][i] = 1.0);
        unit
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        // Sums of at most 40 products in double precision.
        #[test]
        fn qr_multiplies_back_with_orthonormal_columns(m in 1usize..20, n in 1usize..20, seed in 0u64..1000) {
            let x = random(seed, [m, n]);
            let (q, r) = qr(&x);
            prop_assert!(difference(&q.times(&r), &x) < 1e-12);
            prop_assert!(difference(&q.transposed().times(&q), &identity(m.min(n))) < 1e-12);
            prop_assert!(r.columns.iter().enumerate().all(|(j, c)| c.iter().skip(j + 1).all(|x| *x == 0.0)));
        }

        #[test]
        fn a_full_decomposition_multiplies_back(m in 1usize..20, n in 1usize..20, seed in 0u64..1000) {
            let x = random(seed, [m, n]);
            let Svd { left, values, right } = svd(&x, m.min(n));
            prop_assert!(difference(&left.clone().scaled(&values).times(&right.transposed()), &x) < 1e-10);
            prop_assert!(difference(&right.transposed().times(&right), &identity(m.min(n))) < 1e-10);
            prop_assert!(values.windows(2).all(|v| v[0] >= v[1]));
        }
    }

    #[test]
    fn the_leading_part_is_the_nearest_matrix_of_its_rank() {
        // By the theorem of Eckart and Young the squared distance is the sum of the squares of what was left out.
        let x = random(3, [30, 17]);
        let values = svd(&x, 17).values;
        let Svd { left, values: kept, right } = svd(&x, 5);
        let near = left.scaled(&kept).times(&right.transposed());
        let pairs = near.columns.iter().flatten().zip(x.columns.iter().flatten());
        let distance: f64 = pairs.map(|(a, b)| (a - b).powi(2)).sum();
        let expected: f64 = values[5..].iter().map(|v| v * v).sum();
        assert!((distance - expected).abs() < 1e-9 * expected, "{distance} {expected}");
    }

    #[test]
    fn zeros_and_repeated_columns_have_finite_vectors() {
        let zero = Matrix { rows: 4, columns: vec![vec![0.0; 4]; 3] };
        let found = svd(&zero, 2);
        assert_eq!(found.values, [0.0, 0.0]);
        assert!(found.left.columns.iter().chain(&found.right.columns).flatten().all(|x| x.is_finite()));
        let ones = Matrix { rows: 4, columns: vec![vec![1.0; 4]; 3] };
        let found = svd(&ones, 3);
        assert!((found.values[0] - 12f64.sqrt()).abs() < 1e-12, "{:?}", found.values);
        assert!(found.left.columns.iter().flatten().all(|x| x.is_finite()));
    }
}
