//! Which values a dropout keeps: a function of a seed and the place of the value alone, as numbers or as bits.

use crate::parallel::Threads;
#[cfg(feature = "flex")]
use crate::simd::{Kernel, Level, Simd};
use tracknet_random::{GOLDEN, mix};

/// Values that share a stream; fixed, so that the number of threads changes nothing.
pub(crate) const CHUNK: usize = 1 << 14;

/// Values that one draw of 64 bits decides.
pub(crate) const VALUES_PER_DRAW: usize = 4;

/// Values in a word of bits.
pub(crate) const WORD: usize = 32;

/// A dropout of one tensor: each value is kept with probability `keep`, to 1/65536.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeepMask {
    /// Probability of staying, above 0.
    pub keep: f32,
    /// What the draws are a function of, beside the place of a value.
    pub seed: u64,
}

impl KeepMask {
    /// What kept values are multiplied by, so that the expectation stays (Srivastava et al., 2014).
    pub fn gain(self) -> f32 {
        1.0 / self.keep
    }

    /// The factors of `count` values: [`Self::gain`] or 0.
    pub fn factors(self, count: usize) -> Vec<f32> {
        let (gain, threshold) = (self.gain(), self.threshold());
        let mut factors = vec![0f32; count];
        Threads::of_caller().for_each_chunk(&mut factors, CHUNK, |chunk, factors| {
            let stream = self.stream(chunk);
            for (draw, four) in factors.chunks_mut(VALUES_PER_DRAW).enumerate() {
                let bits = draw_of(stream, draw);
                for (place, factor) in four.iter_mut().enumerate() {
                    *factor = if part(bits, place) < threshold { gain } else { 0.0 };
                }
            }
        });
        factors
    }

    /// The bits of rows `first..` of a matrix with `columns` columns, into words of 32 columns, row by row; the last
    /// word of a row may have bits to spare, which are 0.
    #[cfg(feature = "flex")]
    pub(crate) fn bits(self, first: usize, columns: usize, words: &mut [u32]) {
        Level::best().run(Bits { mask: self, first, columns, words });
    }

    #[cfg(feature = "flex")]
    fn keeps(self, value: usize) -> bool {
        let bits = draw_of(self.stream(value / CHUNK), value % CHUNK / VALUES_PER_DRAW);
        part(bits, value % VALUES_PER_DRAW) < self.threshold()
    }

    #[inline(always)]
    fn stream(self, chunk: usize) -> u64 {
        self.seed ^ (chunk as u64).wrapping_mul(0xd605_1a3e_64ab_c9d7)
    }

    #[inline(always)]
    pub(crate) fn threshold(self) -> u32 {
        (self.keep * 65536.0).round() as u32
    }
}

#[cfg(feature = "flex")]
struct Bits<'a> {
    mask: KeepMask,
    first: usize,
    columns: usize,
    words: &'a mut [u32],
}

#[cfg(feature = "flex")]
impl Kernel for Bits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { mask, first, columns, words } = self;
        let width = columns.div_ceil(WORD);
        for (row, words) in words.chunks_exact_mut(width).enumerate() {
            let start = (first + row) * columns;
            for (at, word) in words.iter_mut().enumerate() {
                let (from, count) = (start + at * WORD, (columns - at * WORD).min(WORD));
                *word = if count == WORD && from.is_multiple_of(WORD) {
                    whole_word(mask, from)
                } else {
                    (0..count).fold(0, |word, bit| word | u32::from(mask.keeps(from + bit)) << bit)
                };
            }
        }
    }
}

/// 32 values from a multiple of 32 on, all of one chunk. Loops that become vectors: first the draws, then a byte for each
/// value, then their bits.
#[cfg(feature = "flex")]
#[inline(always)]
fn whole_word(mask: KeepMask, from: usize) -> u32 {
    let (stream, threshold) = (mask.stream(from / CHUNK), mask.threshold());
    let first = from % CHUNK / VALUES_PER_DRAW;
    let mut draws = [0; WORD / VALUES_PER_DRAW];
    for (number, draw) in draws.iter_mut().enumerate() {
        *draw = draw_of(stream, first + number);
    }
    let mut word = 0;
    for (number, draw) in draws.iter().enumerate() {
        for place in 0..VALUES_PER_DRAW {
            word |= u32::from(part(*draw, place) < threshold) << (number * VALUES_PER_DRAW + place);
        }
    }
    word
}

/// Number `draw` of a stream.
#[inline(always)]
fn draw_of(stream: u64, draw: usize) -> u64 {
    mix(stream.wrapping_add((draw as u64 + 1).wrapping_mul(GOLDEN)))
}

/// The 16 bits of a draw that decide the value at `place`.
#[inline(always)]
fn part(bits: u64, place: usize) -> u32 {
    (bits >> (16 * place)) as u32 & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_share_is_kept_and_the_mean_stays() {
        let factors = KeepMask { keep: 0.8, seed: 7 }.factors(100_003);
        let kept = factors.iter().filter(|v| **v > 0.0).count() as f32 / factors.len() as f32;
        // Four deviations of a share of 0.8 in 100 000 draws.
        assert!((kept - 0.8).abs() < 0.005, "{kept}");
        assert!(factors.iter().all(|v| *v == 0.0 || *v == 1.25));
    }

    #[cfg(feature = "flex")]
    #[test]
    fn bits_say_what_factors_say_at_any_width() {
        let mask = KeepMask { keep: 0.6, seed: 99 };
        for columns in [1, 7, 32, 33, 384, 100] {
            let rows = 40_000_usize.div_ceil(columns);
            let factors = mask.factors(rows * columns);
            let width = columns.div_ceil(WORD);
            let first = rows / 3;
            let mut words = vec![u32::MAX; (rows - first) * width];
            mask.bits(first, columns, &mut words);
            for (row, words) in words.chunks_exact(width).enumerate() {
                for bit in 0..width * WORD {
                    let kept = words[bit / WORD] >> (bit % WORD) & 1 == 1;
                    let expected = bit < columns && factors[(first + row) * columns + bit] > 0.0;
                    assert_eq!(kept, expected, "{columns} columns, row {row}, bit {bit}");
                }
            }
        }
    }
}
