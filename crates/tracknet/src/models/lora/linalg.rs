//! The two decompositions that adapters are initialized from: QR by Householder reflections, and the leading part of a singular
//! value decomposition by tridiagonalization, bisection and inverse iteration (Golub and Van Loan, Matrix Computations,
//! sections 5.2, 8.3 and 8.4).
//!
//! In double precision on columns in host memory: weights are decomposed once, when a model is built. A library of
//! linear algebra would bring a dozen crates for these two hundred lines.

use rayon::prelude::*;

use tracknet_random::Stream;

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
        normalize(&mut v);
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

/// The `rank` largest singular values of `x` and their vectors. The result does not depend on the number of threads.
///
/// The right vectors are eigenvectors of `xᵀ·x`, of which only the leading ones are computed: that costs a small part of
/// a full decomposition. Squaring halves the digits of the small singular values, of which `f64` has enough for `f32`
/// weights; values and left vectors are taken from `x` itself.
pub(crate) fn svd(x: &Matrix, rank: usize) -> Svd {
    if x.rows < x.columns.len() {
        let Svd { left, values, right } = svd(&x.transposed(), rank);
        return Svd { left: right, values, right: left };
    }
    let n = x.columns.len();
    let square = x.columns.par_iter().map(|a| x.columns.iter().map(|b| dot(a, b)).collect()).collect();
    let right = Tridiagonal::of(square).leading_vectors(rank.min(n));
    let mut found: Vec<(f64, Vec<f64>, Vec<f64>)> = right
        .into_par_iter()
        .map(|v| {
            let mut u = x.times_vector(&v);
            let value = normalize(&mut u);
            (value, u, v)
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let values = found.iter().map(|(value, ..)| *value).collect();
    let (left, right) = found.into_iter().map(|(_, u, v)| (u, v)).unzip();
    Svd { left: Matrix { rows: x.rows, columns: left }, values, right: Matrix { rows: n, columns: right } }
}

/// A symmetric matrix, reduced to its diagonal and the one beside it by reflections.
struct Tridiagonal {
    diagonal: Vec<f64>,
    beside: Vec<f64>,
    reflections: Vec<Reflection>,
}

impl Tridiagonal {
    /// Takes the columns of a symmetric matrix.
    fn of(mut columns: Vec<Vec<f64>>) -> Self {
        let n = columns.len();
        let mut reflections = Vec::with_capacity(n);
        for k in 1..n {
            let reflection = Reflection::onto_axis(&columns[k - 1][k..]);
            reflection.apply(&mut columns[k - 1][k..]);
            // H·G·H = G − 2·v·wᵀ − 2·w·vᵀ with w = G·v − (vᵀ·G·v)·v.
            let v = &reflection.0;
            let mut w: Vec<f64> = columns[k..].par_iter().map(|c| dot(&c[k..], v)).collect();
            let component = dot(&w, v);
            add(&mut w, v, -component);
            columns[k..].par_iter_mut().zip(v).zip(&w).for_each(|((c, v_j), w_j)| {
                for ((x, v), w) in c[k..].iter_mut().zip(v).zip(&w) {
                    *x -= 2.0 * (v * w_j + w * v_j);
                }
            });
            reflections.push(reflection);
        }
        let diagonal = (0..n).map(|i| columns[i][i]).collect();
        let beside = (1..n).map(|i| columns[i - 1][i]).collect();
        Self { diagonal, beside, reflections }
    }

    /// Orthonormal eigenvectors of the `count` largest eigenvalues.
    fn leading_vectors(&self, count: usize) -> Vec<Vec<f64>> {
        let mut random = Stream::from_state(0x5eed);
        let mut found: Vec<Vec<f64>> = Vec::with_capacity(count);
        for i in 0..count {
            let value = self.eigenvalue(i);
            let mut y: Vec<f64> =
                self.diagonal.iter().map(|_| random.next_u64() as f64 / u64::MAX as f64 - 0.5).collect();
            // Each turn of the inverse iteration gains all digits that the eigenvalue has.
            for _ in 0..INVERSE_TURNS {
                self.solve(value, &mut y);
                normalize(&mut y);
                // Twice is enough (Kahan): neighbours in a cluster come out of the first pass with a few digits only.
                for _ in 0..2 {
                    for other in &found {
                        let component = dot(other, &y);
                        add(&mut y, other, -component);
                    }
                    normalize(&mut y);
                }
            }
            found.push(y);
        }
        found.par_iter_mut().for_each(|y| {
            self.reflections.iter().enumerate().rev().for_each(|(i, reflection)| reflection.apply(&mut y[i + 1..]));
        });
        found
    }

    /// The eigenvalue that `i` others exceed, by bisection.
    fn eigenvalue(&self, i: usize) -> f64 {
        let reach = |j: usize| {
            let left = if j > 0 { self.beside[j - 1].abs() } else { 0.0 };
            left + self.beside.get(j).map_or(0.0, |b| b.abs())
        };
        let rows = || (0..self.diagonal.len()).map(|j| (self.diagonal[j], reach(j)));
        let mut low = rows().map(|(d, r)| d - r).fold(f64::INFINITY, f64::min);
        let mut high = rows().map(|(d, r)| d + r).fold(f64::NEG_INFINITY, f64::max);
        for _ in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            if self.count_above(middle) > i { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    /// Eigenvalues above `x`: the positive pivots of `T − x` (Sylvester's law of inertia).
    fn count_above(&self, x: f64) -> usize {
        let mut count = 0;
        let mut pivot = 1.0;
        for (j, d) in self.diagonal.iter().enumerate() {
            let before = if j > 0 { self.beside[j - 1].powi(2) / pivot } else { 0.0 };
            pivot = d - x - before;
            if pivot == 0.0 {
                pivot = -f64::MIN_POSITIVE;
            }
            count += usize::from(pivot > 0.0);
        }
        count
    }

    /// Solves `(T − value)·y = y`, by elimination with row exchanges; a pivot of zero is replaced by a tiny one.
    fn solve(&self, value: f64, y: &mut [f64]) {
        let n = y.len();
        let size = self.diagonal.iter().chain(&self.beside).fold(0.0f64, |m, x| m.max(x.abs()));
        let tiny = (size * f64::EPSILON).max(1e-100);
        // Rows of the upper factor: three entries from the diagonal on.
        let mut upper = vec![[0.0f64; 3]; n];
        let mut row = [self.diagonal[0] - value, self.beside.first().copied().unwrap_or(0.0), 0.0];
        for j in 0..n {
            let last = j + 1 == n;
            let below = if last { 0.0 } else { self.beside[j] };
            let mut next = match last {
                true => [0.0; 3],
                false => [below, self.diagonal[j + 1] - value, self.beside.get(j + 1).copied().unwrap_or(0.0)],
            };
            if next[0].abs() > row[0].abs() {
                std::mem::swap(&mut row, &mut next);
                y.swap(j, j + 1);
            }
            if row[0].abs() < tiny {
                row[0] = tiny.copysign(row[0]);
            }
            let factor = next[0] / row[0];
            upper[j] = row;
            if !last {
                y[j + 1] -= factor * y[j];
                row = [next[1] - factor * row[1], next[2] - factor * row[2], 0.0];
            }
        }
        for j in (0..n).rev() {
            let right = [1, 2].into_iter().map(|k| y.get(j + k).map_or(0.0, |v| upper[j][k] * v)).sum::<f64>();
            y[j] = (y[j] - right) / upper[j][0];
        }
    }
}

/// One turn from a random vector is nearly enough; the rest costs little.
const INVERSE_TURNS: usize = 3;
/// Halvings until an interval has no number inside of it.
const BISECTIONS: usize = 80;

/// Scales to length 1; returns the length. Zero stays zero.
fn normalize(x: &mut [f64]) -> f64 {
    let length = dot(x, x).sqrt();
    if length > 0.0 {
        x.iter_mut().for_each(|x| *x /= length);
    }
    length
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
    use crate::models::nn::init::{Fill, RandomSource, Source};

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
