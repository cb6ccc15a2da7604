//! Every implementation this processor has, against the definition in f64.

use half::bf16;
use tracknet_testing::{assert_close_above, values};

use super::task::{self, Task};
use super::{AttentionShape, Element, Inputs, RotaryTable};
use crate::ComputeDtype;
use crate::simd::{DotFormat, InstructionSet, Level, Register, Simd, exp2};

fn instruction_sets() -> impl Iterator<Item = Level> {
    Level::available().filter(|level| !level.has(InstructionSet::AmxBf16))
}

/// Every instruction set, with either kind of products.
fn implementations() -> impl Iterator<Item = (Level, ComputeDtype)> {
    instruction_sets().flat_map(|level| [(level, ComputeDtype::F32), (level, ComputeDtype::Bf16)])
}

/// Inputs that own their values.
struct Case {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    gradient: Vec<f32>,
    rotary: Option<[Vec<f32>; 2]>,
    shape: AttentionShape,
    scale: f32,
}

impl Case {
    /// Queries have magnitude `size`; the first tokens are not rotated, like class and register tokens.
    fn new([batch, tokens, heads, head_dim]: [usize; 4], size: f32, rotary: bool) -> Self {
        let shape = AttentionShape { batch, tokens, heads, head_dim };
        let pairs = head_dim / 2;
        let angles: Vec<f32> =
            values(tokens * pairs, 5).iter().enumerate().map(|(i, x)| if i < pairs { 0.0 } else { 3.0 * x }).collect();
        Self {
            query: values(shape.elements(), 1).iter().map(|x| x * size).collect(),
            key: values(shape.elements(), 2),
            value: values(shape.elements(), 3),
            gradient: values(shape.elements(), 4),
            rotary: rotary.then(|| [f32::cos, f32::sin].map(|f| angles.iter().map(|a| f(*a)).collect())),
            shape,
            scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    /// Output and the gradients of query, key and value.
    fn run(&self, (level, compute): (Level, ComputeDtype)) -> [Vec<f32>; 4] {
        self.run_as::<f32>(level, compute)
    }

    /// The same with tensors that hold `E`.
    fn run_as<E: Element>(&self, level: Level, compute: ComputeDtype) -> [Vec<f32>; 4] {
        let [query, key, value, gradient] = [&self.query, &self.key, &self.value, &self.gradient]
            .map(|values| values.iter().map(|x| E::from_f32(*x)).collect::<Vec<_>>());
        let inputs = Inputs {
            query: &query,
            key: &key,
            value: &value,
            shape: self.shape,
            scale: self.scale,
            rotary: self.rotary.as_ref().map(|[cos, sin]| RotaryTable { cos, sin }),
            compute,
        };
        let (output, lse) = inputs.forward::<E>(level);
        let [d_query, d_key, d_value] = inputs.backward(&output, &lse, &gradient, level);
        [output.iter().map(|x| x.to_f32()).collect(), d_query, d_key, d_value]
    }

    /// The same from the definition.
    fn reference(&self) -> [Vec<f64>; 4] {
        let [query, key, value, gradient] =
            [&self.query, &self.key, &self.value, &self.gradient].map(|x| x.iter().map(|x| f64::from(*x)).collect());
        Reference { case: self, query, key, value, gradient }.run()
    }
}

/// The definition in f64, one number after another.
struct Reference<'a> {
    case: &'a Case,
    query: Vec<f64>,
    key: Vec<f64>,
    value: Vec<f64>,
    gradient: Vec<f64>,
}

impl Reference<'_> {
    fn run(&self) -> [Vec<f64>; 4] {
        let shape = self.case.shape;
        let mut results = [0; 4].map(|_| vec![0.0; shape.elements()]);
        for index in 0..shape.batch * shape.heads {
            self.head(index, &mut results);
        }
        results
    }

    fn row<'b>(&self, values: &'b [f64], index: usize, token: usize) -> &'b [f64] {
        &values[self.start(index, token)..][..self.case.shape.head_dim]
    }

    fn start(&self, index: usize, token: usize) -> usize {
        let AttentionShape { tokens, heads, head_dim, .. } = self.case.shape;
        ((index / heads) * tokens + token) * heads * head_dim + (index % heads) * head_dim
    }

    /// Turned forward (`sign` 1) or back (−1).
    fn rotated(&self, row: &[f64], token: usize, sign: f64) -> Vec<f64> {
        let Some([cos, sin]) = &self.case.rotary else { return row.to_vec() };
        let half = row.len() / 2;
        let mut out = row.to_vec();
        for i in 0..half {
            let (cos, sin) = (f64::from(cos[token * half + i]), sign * f64::from(sin[token * half + i]));
            out[i] = row[i] * cos - row[half + i] * sin;
            out[half + i] = row[half + i] * cos + row[i] * sin;
        }
        out
    }

    fn head(&self, index: usize, [output, d_query, d_key, d_value]: &mut [Vec<f64>; 4]) {
        let AttentionShape { tokens, head_dim, .. } = self.case.shape;
        let scale = f64::from(self.case.scale);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let add =
            |to: &mut [f64], from: &[f64], factor: f64| to.iter_mut().zip(from).for_each(|(t, f)| *t += f * factor);
        let all = |values, sign| (0..tokens).map(move |t| self.rotated(self.row(values, index, t), t, sign));
        let queries: Vec<_> = all(&self.query, 1.0).collect();
        let keys: Vec<_> = all(&self.key, 1.0).collect();
        let mut d_keys = vec![vec![0.0; head_dim]; tokens];
        for (i, query) in queries.iter().enumerate() {
            let scores: Vec<f64> = keys.iter().map(|key| scale * dot(query, key)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / total).collect();
            let at = self.start(index, i);
            for (j, p) in p.iter().enumerate() {
                add(&mut output[at..at + head_dim], self.row(&self.value, index, j), *p);
            }
            let gradient = self.row(&self.gradient, index, i);
            let delta = dot(gradient, &output[at..at + head_dim]);
            let mut d_q = vec![0.0; head_dim];
            for (j, p) in p.iter().enumerate() {
                let d_score = p * (dot(gradient, self.row(&self.value, index, j)) - delta) * scale;
                add(&mut d_q, &keys[j], d_score);
                add(&mut d_keys[j], query, d_score);
                let to = self.start(index, j);
                add(&mut d_value[to..to + head_dim], gradient, *p);
            }
            d_query[at..at + head_dim].copy_from_slice(&self.rotated(&d_q, i, -1.0));
        }
        for (j, d_k) in d_keys.iter().enumerate() {
            let at = self.start(index, j);
            d_key[at..at + head_dim].copy_from_slice(&self.rotated(d_k, j, -1.0));
        }
    }
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    // A gradient that is zero everywhere, as with one token, is compared with the magnitude of the inputs.
    assert_close_above(found, expected, tolerance, 2e-2, what);
}

/// Batch, tokens, heads, numbers of a head: one query, less than a register, less and more than a panel and a tile.
const SHAPES: [[usize; 4]; 16] = [
    [1, 1, 1, 8],
    [1, 1, 2, 7],
    [2, 2, 3, 32],
    [3, 2, 4, 2],
    [1, 5, 2, 7],
    [2, 33, 2, 16],
    [1, 77, 1, 80],
    [3, 17, 1, 80],
    [1, 49, 2, 8],
    [1, 63, 2, 64],
    [2, 65, 1, 64],
    [1, 130, 1, 128],
    [1, 201, 2, 64],
    [1, 201, 1, 96],
    [1, 257, 1, 7],
    [1, 581, 1, 64],
];

const NAMES: [&str; 4] = ["output", "d_query", "d_key", "d_value"];

/// Every shape, with and without rotation where it is possible; queries have magnitude `size`.
fn cases(size: f32) -> impl Iterator<Item = (Case, String)> {
    let possible = |(sizes, rotary): &([usize; 4], bool)| !rotary || sizes[3].is_multiple_of(2);
    let all = SHAPES.into_iter().flat_map(|sizes| [(sizes, false), (sizes, true)]).filter(possible);
    all.map(move |(sizes, rotary)| {
        (Case::new(sizes, size, rotary), format!("{sizes:?}, queries of {size}, rotary {rotary}"))
    })
}

#[test]
fn output_and_gradients_equal_the_definition_in_f64() {
    for (case, what) in [1.0, 16.0].into_iter().flat_map(cases) {
        let expected = case.reference();
        for level in instruction_sets() {
            for ((found, expected), name) in case.run((level, ComputeDtype::F32)).iter().zip(&expected).zip(NAMES) {
                // f32: scores up to 30, whose rounding is that of the probabilities.
                assert_close(found, expected, 1e-5, &format!("{level:?} {what}: {name}"));
            }
        }
    }
}

#[test]
fn products_of_bfloat16_stay_near_the_definition_in_f64() {
    for (case, what) in [1.0, 4.0].into_iter().flat_map(cases) {
        let expected = case.reference();
        for level in instruction_sets() {
            for ((found, expected), name) in case.run((level, ComputeDtype::Bf16)).iter().zip(&expected).zip(NAMES) {
                if case.shape.tokens == 1 && ["d_query", "d_key"].contains(&name) {
                    // They are zero, and rounding is all there is.
                    continue;
                }
                // Each factor has 8 bits; the error of a score, up to 7 here, is a relative error of a probability.
                assert_close(found, expected, 1e-2, &format!("{level:?} {what}: {name}"));
            }
        }
    }
}

#[test]
fn products_of_bfloat16_differ_between_instruction_sets_in_the_order_of_sums_only() {
    for (case, what) in cases(4.0) {
        let expected = case.run((Level::PORTABLE, ComputeDtype::Bf16)).map(|x| x.into_iter().map(f64::from).collect());
        for level in instruction_sets() {
            for ((found, expected), name) in case.run((level, ComputeDtype::Bf16)).iter().zip(&expected).zip(NAMES) {
                let expected: &Vec<f64> = expected;
                // Where an f32 lies at the border of two bfloat16, another order of a sum puts it on the other side:
                // an error of 2⁻⁸ in one factor.
                assert_close(found, expected, 1e-3, &format!("{level:?} {what}: {name}"));
            }
        }
    }
}

#[test]
fn bfloat16_tensors_give_what_f32_tensors_of_the_same_values_give() {
    for (mut case, what) in cases(4.0) {
        for values in [&mut case.query, &mut case.key, &mut case.value, &mut case.gradient] {
            values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        for (level, compute) in implementations() {
            let [output, _, _, d_value] = case.run((level, compute));
            let [output16, _, _, d_value16] = case.run_as::<bf16>(level, compute);
            // The output is rounded once. The gradients of values do not depend on it.
            let rounded = output.iter().map(|x| bf16::from_f32(*x).to_f32());
            assert!(rounded.eq(output16), "{level:?} {compute:?} {what}");
            assert!(d_value == d_value16, "{level:?} {compute:?} {what}");
        }
    }
}

#[test]
fn a_bfloat16_output_moves_the_gradients_no_further_than_its_rounding() {
    let case = Case::new([2, 77, 2, 64], 1.0, true);
    let expected = case.reference();
    for (level, compute) in implementations() {
        for ((found, expected), name) in case.run_as::<bf16>(level, compute).iter().zip(&expected).zip(NAMES) {
            assert_close(found, expected, 1e-2, &format!("{level:?} {compute:?}: {name}"));
        }
    }
}

#[test]
fn rounding_to_bfloat16_is_that_of_the_half_crate() {
    let special = [0.0, -0.0, 1.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 1e-40];
    // 2¹⁶ + 1 is odd, so every pattern of the lower half, ties among them, meets many of the upper one.
    let patterns = (0..1 << 16).map(|i: u32| f32::from_bits(i.wrapping_mul(0x0001_0001).wrapping_mul(31)));
    for x in special.into_iter().chain(patterns) {
        let (found, expected) = (<bf16 as Element>::from_f32(x), bf16::from_f32(x));
        assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && x.is_nan()), "{x:e} is {found:e}");
    }
    assert!(<bf16 as Element>::from_f32(f32::NAN).is_nan());
    assert!(<bf16 as Element>::from_f32(f32::from_bits(0x7f80_0001)).is_nan());
}

#[test]
fn scores_far_beyond_the_range_of_the_exponential_still_give_probabilities() {
    for size in [1e3, 1e5] {
        let case = Case::new([1, 201, 2, 64], size, false);
        let expected = case.reference();
        for implementation in instruction_sets().map(|level| (level, ComputeDtype::F32)) {
            // The scores themselves, up to 1.5 · size, are rounded to 24 bits, and an error of a score is a relative
            // error of a probability.
            assert_close(
                &case.run(implementation)[0],
                &expected[0],
                f64::from(size) * 1e-6,
                &format!("{implementation:?} {size}"),
            );
        }
    }
}

#[test]
fn the_gradients_of_the_definition_are_its_finite_differences() {
    const STEP: f64 = 1e-5;
    for rotary in [false, true] {
        let case = Case::new([2, 5, 2, 8], 2.0, rotary);
        let loss = |[query, key, value]: [&[f64]; 3]| -> f64 {
            let gradient: Vec<f64> = case.gradient.iter().map(|x| f64::from(*x)).collect();
            let [query, key, value] = [query, key, value].map(<[f64]>::to_vec);
            let reference = Reference { case: &case, query, key, value, gradient: gradient.clone() };
            reference.run()[0].iter().zip(&gradient).map(|(o, g)| o * g).sum()
        };
        let inputs = [&case.query, &case.key, &case.value].map(|x| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        let gradients = case.reference();
        for which in 0..3 {
            for i in 0..case.shape.elements() {
                let at = |step: f64| {
                    let mut moved = inputs.clone();
                    moved[which][i] += step;
                    loss(moved.each_ref().map(Vec::as_slice))
                };
                let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                let gradient = gradients[which + 1][i];
                // Central differences err by the third derivative times the square of the step.
                assert!((difference - gradient).abs() < 1e-8, "input {which}, {i}: {difference}, gradient {gradient}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let case = Case::new([2, 501, 3, 32], 4.0, true);
    for implementation in implementations() {
        let run = || case.run(implementation).map(|values| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        let with_threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run);
        let one = with_threads(1);
        assert!(one == with_threads(2) && one == with_threads(5), "{implementation:?}");
    }
}

#[test]
fn what_is_not_finite_gives_nan_in_every_row_it_takes_part_in() {
    const SIZES: [usize; 4] = [1, 70, 2, 64];
    const TOKEN: usize = 66;
    let hidden = SIZES[2] * SIZES[3];
    // Rows of the first head that hold NaN; the second head and all else must be finite.
    let bad_rows = |values: &[f32]| -> Vec<usize> {
        let rows = values.chunks_exact(hidden).enumerate();
        rows.filter(|(_, row)| {
            let (first, second) = row.split_at(SIZES[3]);
            assert!(second.iter().all(|x| x.is_finite()), "it spread to another head");
            let nan = first.iter().any(|x| x.is_nan());
            assert!(nan || first.iter().all(|x| x.is_finite()), "an infinity came through");
            nan
        })
        .map(|(i, _)| i)
        .collect()
    };
    let every: Vec<usize> = (0..SIZES[1]).collect();
    for implementation in implementations() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for rotary in [false, true] {
                let at = TOKEN * hidden + 5;
                let spoil = |choose: fn(&mut Case) -> &mut Vec<f32>| {
                    let mut case = Case::new(SIZES, 1.0, rotary);
                    choose(&mut case)[at] = bad;
                    case.run(implementation).each_ref().map(|values| bad_rows(values))
                };
                let one = vec![TOKEN];
                assert_eq!(
                    spoil(|c| &mut c.query),
                    [one.clone(), one, every.clone(), every.clone()],
                    "{implementation:?} {bad}"
                );
                assert_eq!(spoil(|c| &mut c.key), [&every; 4].map(Clone::clone), "{implementation:?} {bad}");
                assert_eq!(spoil(|c| &mut c.value), [&every; 4].map(Clone::clone), "{implementation:?} {bad}");
            }
        }
    }
}

#[test]
fn a_gradient_that_is_nan_is_not_hidden() {
    let mut case = Case::new([1, 70, 1, 64], 1.0, true);
    case.gradient[66 * 64 + 5] = f32::NAN;
    for implementation in implementations() {
        let [output, d_query, d_key, d_value] = case.run(implementation);
        assert!(output.iter().all(|x| x.is_finite()));
        let nan = |row: &[f32]| row.iter().any(|x| x.is_nan());
        assert!(nan(&d_query[66 * 64..67 * 64]) && !nan(&d_query[..66 * 64]));
        assert!(d_key.chunks_exact(64).all(nan) && d_value.chunks_exact(64).all(nan));
    }
}

#[test]
fn no_frames_give_no_rows() {
    for implementation in implementations() {
        assert!(Case::new([0, 3, 2, 8], 1.0, false).run(implementation).iter().all(Vec::is_empty));
        assert!(Case::new([2, 0, 2, 8], 1.0, false).run(implementation).iter().all(Vec::is_empty));
    }
}

/// `2ˣ` of every number.
struct Powers<'a>(&'a mut [f32]);

impl Task for Powers<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, F: DotFormat<S>>(self, simd: S) {
        for x in self.0.chunks_exact_mut(S::F32::LANES) {
            exp2(simd, simd.read(x)).write(x);
        }
    }
}

#[test]
fn powers_of_two_are_within_the_stated_error() {
    // 2²⁰ steps of 1/4096 from −129 to 127, off the grid by a number that has no short binary form.
    let inputs: Vec<f32> = (0..1 << 20).map(|i| i as f32 / 4096.0 - 129.0 + 1e-4).collect();
    for level in instruction_sets() {
        let mut outputs = inputs.clone();
        task::run(level, ComputeDtype::F32, Powers(&mut outputs));
        for (x, y) in inputs.iter().zip(&outputs) {
            let expected = f64::from(*x).exp2();
            let error = (f64::from(*y) - expected).abs();
            let bound = if *x < -126.0 { f64::from(f32::MIN_POSITIVE) } else { 1.5e-7 * expected };
            assert!(error <= bound, "{level:?}: 2^{x} is {y}, expected {expected}");
        }
        let mut special = [0.0, f32::NAN, f32::NEG_INFINITY, -1.0].repeat(4);
        task::run(level, ComputeDtype::F32, Powers(&mut special));
        assert!(special[0] == 1.0 && special[1].is_nan() && special[2] == 0.0 && special[3] == 0.5, "{special:?}");
    }
}
