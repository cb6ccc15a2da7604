//! Bounds of matrices whose rows lie apart, checked before unchecked code walks them.

/// Whether the value at `a · b + c · d` is one of `len`; never where that number is beyond all numbers.
#[inline(always)]
pub(crate) fn holds(len: usize, [(a, b), (c, d)]: [(usize, usize); 2]) -> bool {
    let index = a.checked_mul(b).zip(c.checked_mul(d)).and_then(|(first, second)| first.checked_add(second));
    index.is_some_and(|index| index < len)
}

#[cfg(test)]
mod tests {
    use super::holds;

    #[test]
    fn an_index_is_held_below_the_length_and_nowhere_beyond_the_largest_number() {
        assert!(holds(14, [(2, 5), (3, 1)]) && !holds(13, [(2, 5), (3, 1)]));
        assert!(!holds(0, [(0, 7), (0, 1)]) && holds(1, [(0, usize::MAX), (0, 1)]));
        for beyond in [[(1 << 32, 1 << 32), (0, 1)], [(0, 1), (2, usize::MAX)], [(1, usize::MAX), (1, 1)]] {
            assert!(!holds(usize::MAX, beyond), "{beyond:?}");
        }
    }
}
