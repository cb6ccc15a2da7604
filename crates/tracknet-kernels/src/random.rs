//! The mixing function behind every random number, SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
//! number generators", OOPSLA 2014). Each user keys its own streams with it, so that what one draws never depends on
//! what another drew.

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

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_numbers_of_stream_zero_are_those_of_the_paper() {
        let mut state = 0;
        let numbers = [(); 3].map(|()| super::next(&mut state));
        assert_eq!(numbers, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }
}
