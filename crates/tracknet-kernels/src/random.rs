//! The random numbers of the project: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
//! OOPSLA 2014). Each user keys streams of its own, so that what one draws never depends on what another drew, nor on
//! the thread that draws it; and no dependency can change the numbers.

/// 2⁶⁴ divided by the golden ratio: what the state of a stream grows by.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer: neighbouring states give unrelated numbers.
#[inline(always)]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The next number of a stream.
#[inline(always)]
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GOLDEN);
    mix(*state)
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream(u64);

impl Stream {
    /// The stream that begins behind `state`; streams of neighbouring states are not related.
    pub fn seeded(state: u64) -> Self {
        Self(state)
    }

    /// The stream of a key; different keys, or the same numbers in another order, give unrelated streams.
    pub fn keyed(key: &[u64]) -> Self {
        Self(key.iter().fold(0, |state, &part| mix(state.wrapping_add(GOLDEN) ^ mix(part.wrapping_add(GOLDEN)))))
    }

    /// The stream of a seed and a name (FNV-1a over the name).
    pub fn named(seed: u64, name: &str) -> Self {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut stream = Self(seed ^ hash.rotate_left(32));
        // Two steps, so that neighbouring seeds do not give neighbouring states.
        stream.0 = stream.next_u64() ^ hash;
        stream
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

    /// True with probability `p`; draws once whatever `p` is.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }

    /// Standard normal (Box–Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }

    /// Standard normal (Box–Muller). `libm` gives the same bits on every platform.
    pub fn normal_f64(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform_f64())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform_f64())
    }

    /// Standard normal, cut at two deviations.
    pub fn truncated_normal_f64(&mut self) -> f64 {
        loop {
            let value = self.normal_f64();
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
    fn the_first_numbers_of_stream_zero_are_those_of_the_paper() {
        let mut stream = Stream::seeded(0);
        let numbers = [(); 3].map(|()| stream.next_u64());
        assert_eq!(numbers, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    /// Shuffles, augmentations and initial values are made of these numbers: runs are repeated only as long as they stay.
    #[test]
    fn the_numbers_of_keyed_and_named_streams_stay_as_they_are() {
        let mut stream = Stream::keyed(&[1, 2, 3]);
        assert_eq!([stream.next_u64(), stream.next_u64()], [0xfcc1_e395_dd8d_f109, 0x4c94_d579_cd9e_fb33]);
        assert_eq!((stream.uniform(), stream.range(-2.0, 5.0)), (0.989_738_1, 4.977_287_3));
        assert_eq!((stream.below(1000), stream.chance(0.5)), (890, true));
        // The logarithm and the cosine are the platform's.
        assert!((stream.normal() + 0.565_305_77).abs() < 1e-6);
        assert_eq!(permutation(10, &[7, 1]), [3, 6, 2, 5, 8, 7, 9, 1, 0, 4]);

        let mut stream = Stream::named(3, "backbone.blocks.0.weight");
        assert_eq!([stream.next_u64(), stream.next_u64()], [0xc7c4_18c3_3646_929d, 0xc4d2_20cb_cf81_a54b]);
        assert_eq!(stream.uniform_f64(), 0.553_644_530_830_401_7);
        let normals = [stream.normal_f64(), stream.normal_f64(), stream.truncated_normal_f64()].map(f64::to_bits);
        assert_eq!(normals, [0xbfea_e0f2_0855_595b, 0x3fd4_7a29_7afa_f062, 0x3fc2_545b_e1e3_cfd2]);
    }

    #[test]
    fn a_key_names_one_stream_and_its_order_matters() {
        let draw = |key: &[u64]| Stream::keyed(key).next_u64();
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
        let (mut keyed, mut named) = (Stream::keyed(&[3]), Stream::named(3, ""));
        let single: Vec<f64> = (0..20_000).map(|_| f64::from(keyed.normal())).collect();
        let double: Vec<f64> = (0..20_000).map(|_| named.normal_f64()).collect();
        for draws in [single, double] {
            let mean = draws.iter().sum::<f64>() / 20_000.0;
            let variance = draws.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
            // Standard errors of 20 000 draws are 0.007 and 0.01; the bounds are four of them.
            assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        }
    }
}
