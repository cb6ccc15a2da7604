//! A stream of numbers, and the distributions drawn from it.

use crate::{GOLDEN, mix, next};

/// A SplitMix64 stream.
#[derive(Debug, Clone)]
pub struct Stream(u64);

impl Stream {
    /// The stream of a key; different keys, or the same numbers in another order, give unrelated streams.
    pub fn keyed(key: &[u64]) -> Self {
        Self(key.iter().fold(0, |state, &part| mix(state.wrapping_add(GOLDEN) ^ mix(part.wrapping_add(GOLDEN)))))
    }

    /// The stream of a name under a seed (FNV-1a over the name).
    pub fn named(seed: u64, name: &str) -> Self {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut stream = Self(seed ^ hash.rotate_left(32));
        // Mixed once more, so that neighbouring seeds do not give neighbouring states.
        stream.0 = stream.next_u64() ^ hash;
        stream
    }

    /// The stream with this state, for keys that are mixed elsewhere.
    pub fn from_state(state: u64) -> Self {
        Self(state)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        next(&mut self.0)
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer below `n` (0 for `n` = 0); the bias of the multiplication is below `n / 2⁶⁴`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`; takes one number whatever `p` is.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }

    /// −1 or 1.
    pub fn sign(&mut self) -> f32 {
        if self.chance(0.5) { 1.0 } else { -1.0 }
    }

    /// Standard normal (Box and Muller, 1958). `libm` gives the same bits on every platform.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform_f64())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform_f64())
    }

    /// [`Stream::normal`] within ±2, by rejection: deviation 0.8796.
    pub fn truncated_normal(&mut self) -> f64 {
        loop {
            let value = self.normal();
            if value.abs() <= 2.0 {
                return value;
            }
        }
    }
}

/// `0..n` in an order that depends on the key only (Fisher–Yates).
pub fn permutation(n: usize, key: &[u64]) -> Vec<usize> {
    let mut stream = Stream::keyed(key);
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
    fn the_first_numbers_of_every_kind_of_key_are_pinned() {
        let first = |mut stream: Stream| [(); 3].map(|()| stream.next_u64());
        let of_key = [0x01b1_64d3_b189_2c92, 0x67fa_a48d_876b_a4b8, 0x9d90_9c97_7f6d_de51];
        assert_eq!(first(Stream::keyed(&[7, 1, 2])), of_key);
        let of_name = [0x77b6_b6b0_2e11_8625, 0x961a_032c_8a7a_decc, 0x32b2_d1a7_ad7c_9040];
        assert_eq!(first(Stream::named(7, "x.weight")), of_name);
        assert_eq!(first(Stream::from_state(0))[0], 0xe220_a839_7b1d_cdaf);
        assert_eq!(permutation(8, &[7]), [2, 0, 1, 4, 7, 3, 6, 5]);
    }

    #[test]
    fn the_first_draws_of_every_distribution_are_pinned() {
        let stream = || Stream::keyed(&[7, 1, 2]);
        assert_eq!((stream().uniform(), stream().range(-1.0, 1.0)), (0.006_613_016, -1.0 + 2.0 * 0.006_613_016));
        assert_eq!((stream().below(1000), stream().sign(), stream().chance(0.006)), (6, 1.0, false));
        let mut named = Stream::named(7, "x.weight");
        let normal = [(); 3].map(|()| named.normal());
        assert_eq!(normal, [-0.961_676_055_402_056, 0.649_268_620_301_445_2, 0.065_682_575_789_815_98]);
    }

    #[test]
    fn a_key_names_one_stream_and_its_order_matters() {
        let draw = |key: &[u64]| Stream::keyed(key).next_u64();
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
    fn normal_numbers_have_mean_zero_and_the_variance_they_should() {
        let moments = |draw: fn(&mut Stream) -> f64| {
            let mut stream = Stream::keyed(&[3]);
            let draws: Vec<f64> = (0..20_000).map(|_| draw(&mut stream)).collect();
            let mean = draws.iter().sum::<f64>() / 20_000.0;
            [mean, draws.iter().map(|x| x * x).sum::<f64>() / 20_000.0]
        };
        for (draw, variance) in [(Stream::normal as fn(&mut Stream) -> f64, 1.0), (Stream::truncated_normal, 0.773_7)] {
            let [mean, found] = moments(draw);
            // Standard errors of 20 000 draws are 0.007 and 0.01; the bounds are four of them.
            assert!(mean.abs() < 0.03 && (found - variance).abs() < 0.04, "{mean} {found}");
        }
    }
}
