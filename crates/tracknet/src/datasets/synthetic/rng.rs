//! Integer-only randomness: a stream is a function of its key, so no result depends on who draws first.

use crate::random::{GOLDEN, mix, next};

/// A SplitMix64 stream.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    /// A stream of its own for every key, e.g. `(seed, [game, clip, purpose])`.
    pub(super) fn keyed(seed: u64, key: &[u64]) -> Self {
        let mut state = mix(seed ^ 0x6a09_e667_f3bc_c908);
        for &word in key {
            state = mix(state.wrapping_add(GOLDEN) ^ mix(word.wrapping_add(0x3c6e_f372_fe94_f82b)));
        }
        Self(state)
    }

    pub(super) fn next(&mut self) -> u64 {
        next(&mut self.0)
    }

    /// Uniform in `[0, 1)`, on a grid of 2⁻²⁴ so that every value is exact in `f32`.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 16_777_216.0
    }

    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// −1 or 1.
    pub(super) fn sign(&mut self) -> f32 {
        if self.chance(0.5) { 1.0 } else { -1.0 }
    }

    /// Uniform in `0..count`; 0 for an empty range.
    pub(super) fn index(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    /// One of `items`.
    pub(super) fn pick<T: Copy, const N: usize>(&mut self, items: &[T; N]) -> T {
        const { assert!(N > 0) };
        items[self.index(N)]
    }

    /// Nearly normal with mean 0 and deviation 1: the sum of four uniforms (Irwin–Hall), scaled.
    pub(super) fn normal(&mut self) -> f32 {
        (self.unit() + self.unit() + self.unit() + self.unit() - 2.0) * 1.732_050_8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_different_keys_differ_and_equal_keys_agree() {
        let draw = |key: &[u64]| Rng::keyed(7, key).next();
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1]), draw(&[1, 0]));
    }

    #[test]
    fn normal_draws_have_unit_deviation() {
        let mut rng = Rng::keyed(1, &[]);
        let draws: Vec<f32> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f32>() / 20_000.0;
        let variance = draws.iter().map(|d| (d - mean) * (d - mean)).sum::<f32>() / 20_000.0;
        // Standard error of the mean is 0.007; five of them.
        assert!(mean.abs() < 0.035 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
