//! The renderer's streams and draws. Rendered files are pinned to these exact numbers, so they stay beside the library's
//! [`Stream`] where they differ from it.

pub(crate) use tracknet_random::Stream;
use tracknet_random::{GOLDEN, mix};

/// The stream of a key, e.g. `(seed, [game, clip, purpose])`.
pub(crate) fn stream(seed: u64, key: &[u64]) -> Stream {
    let start = mix(seed ^ 0x6a09_e667_f3bc_c908);
    let add = |state: u64, &word: &u64| mix(state.wrapping_add(GOLDEN) ^ mix(word.wrapping_add(0x3c6e_f372_fe94_f82b)));
    Stream::from_state(key.iter().fold(start, add))
}

/// Draws of scenery and play.
pub(crate) trait Draw {
    /// Uniform in `0..count`, by remainder; 0 for an empty range.
    fn index(&mut self, count: usize) -> usize;
    /// One of `items`.
    fn pick<T: Copy, const N: usize>(&mut self, items: &[T; N]) -> T;
    /// Mean 0, deviation 1, bounded by ±3.47, and nearly normal: the sum of four uniforms (Irwin–Hall), scaled. Sums and one
    /// product only, so the same bits on every machine.
    fn bell(&mut self) -> f32;
}

impl Draw for Stream {
    fn index(&mut self, count: usize) -> usize {
        (self.next_u64() % count.max(1) as u64) as usize
    }

    fn pick<T: Copy, const N: usize>(&mut self, items: &[T; N]) -> T {
        const { assert!(N > 0) };
        items[self.index(N)]
    }

    fn bell(&mut self) -> f32 {
        (self.uniform() + self.uniform() + self.uniform() + self.uniform() - 2.0) * 1.732_050_8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_draws_of_a_key_are_pinned() {
        let key = || stream(7, &[1, 2]);
        assert_eq!(key().next_u64(), 0xfb6f_dbc5_e790_35ca);
        let mut indices = key();
        assert_eq!([(); 5].map(|()| indices.index(10)), [8, 8, 6, 8, 0]);
        assert_eq!((key().index(0), key().pick(&[5, 6, 7])), (0, [5, 6, 7][key().index(3)]));
        let mut bells = key();
        assert_eq!([(); 2].map(|()| bells.bell()), [-0.471_167_5, -0.936_863_8]);
    }

    #[test]
    fn streams_of_different_keys_differ() {
        let first = |key: &[u64]| stream(7, key).next_u64();
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[1]), first(&[1, 0]));
    }

    #[test]
    fn the_bell_has_unit_deviation() {
        let mut stream = stream(1, &[]);
        let draws: Vec<f32> = (0..20_000).map(|_| stream.bell()).collect();
        let mean = draws.iter().sum::<f32>() / 20_000.0;
        let variance = draws.iter().map(|d| (d - mean) * (d - mean)).sum::<f32>() / 20_000.0;
        // Standard error of the mean is 0.007; five of them.
        assert!(mean.abs() < 0.035 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
