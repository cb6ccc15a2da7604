//! Random numbers as a pure function of a key: `(seed, epoch, index)` or `(seed, parameter name)` selects a [`Stream`], so
//! that a value does not depend on which thread draws it, nor on what was drawn before.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
//! Training data, initial values, dropout masks and rendered frames follow from these numbers: runs resume and repeat only as
//! long as they stay, and the tests pin them.

mod stream;

pub use stream::{Stream, permutation};

/// 2⁶⁴ divided by the golden ratio: the increment of a stream's state.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer: neighbouring states give unrelated numbers.
#[inline(always)]
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Advances a state and returns its number, for code that keeps bare states; [`Stream`] wraps one.
#[inline(always)]
pub const fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GOLDEN);
    mix(*state)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_numbers_of_state_zero_are_those_of_the_paper() {
        let mut state = 0;
        let numbers = [(); 3].map(|()| super::next(&mut state));
        assert_eq!(numbers, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }
}
