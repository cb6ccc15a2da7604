//! Random numbers as a pure function of a key: `(seed, epoch, index)` names a stream, so that what a sample draws
//! does not depend on which thread draws it, nor on what was drawn before.

use crate::random::{GOLDEN, mix, next};

/// A SplitMix64 stream.
#[derive(Debug, Clone)]
pub struct Stream(u64);

impl Stream {
    /// The stream of a key; different keys, or the same numbers in another order, give unrelated streams.
    pub fn new(key: &[u64]) -> Self {
        Self(key.iter().fold(0, |state, &part| mix(state.wrapping_add(GOLDEN) ^ mix(part.wrapping_add(GOLDEN)))))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        next(&mut self.0)
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform integer below `n` (0 for `n` = 0); the bias of the multiplication is below `n / 2⁶⁴`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`; draws once whatever `p` is.
    pub fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// Standard normal (Box–Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.unit()).cos()
    }
}

/// `0..n` in an order that depends on the key only (Fisher–Yates).
pub fn permutation(n: usize, key: &[u64]) -> Vec<usize> {
    let mut stream = Stream::new(key);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, stream.below(last + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_one_stream_and_its_order_matters() {
        let draw = |key: &[u64]| Stream::new(key).next_u64();
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[0]), draw(&[0, 0]));
    }

    #[test]
    fn a_permutation_holds_every_index_once_and_changes_with_the_epoch() {
        let order = permutation(100, &[7, 0]);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order, permutation(100, &[7, 1]));
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let mut stream = Stream::new(&[3]);
        let draws: Vec<f32> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f32>() / 20_000.0;
        let variance = draws.iter().map(|x| x * x).sum::<f32>() / 20_000.0;
        // Standard errors of 20 000 draws are 0.007 and 0.01; the bounds are four of them.
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
    }
}
