//! Numbers to compute with, and their comparison.

/// Values in −1..1 that look random and are the same everywhere.
pub fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// Fails where a value is further from the expected one than `tolerance` times the largest magnitude that is expected.
pub fn assert_close<F, E>(found: &[F], expected: &[E], tolerance: f64, what: &str)
where
    F: Copy + Into<f64>,
    E: Copy + Into<f64>,
{
    assert_close_above(found, expected, tolerance, 0.0, what);
}

/// [`assert_close`] where the largest magnitude counts as `least` if it is below: values that should be zero, or that are small
/// beside what they were computed from.
pub fn assert_close_above<F, E>(found: &[F], expected: &[E], tolerance: f64, least: f64, what: &str)
where
    F: Copy + Into<f64>,
    E: Copy + Into<f64>,
{
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(least, |max, value| max.max((*value).into().abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (found, expected): (f64, f64) = ((*found).into(), (*expected).into());
        let distance = (found - expected).abs();
        assert!(distance <= tolerance * largest, "{what}: element {i} is {found}, expected {expected}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_depend_on_the_seed_and_fill_their_range() {
        let found = values(1000, 1);
        assert!(found == values(1000, 1) && found != values(1000, 2));
        assert!(found.iter().all(|value| (-1.0..1.0).contains(value)));
        assert!(found.iter().any(|value| *value < -0.99) && found.iter().any(|value| *value > 0.99));
    }

    #[test]
    fn what_lies_within_the_tolerance_of_the_largest_is_close() {
        assert_close(&[1.0_f32, -100.5], &[1.4_f64, -100.0], 0.01, "near");
        assert_close_above(&[1e-3_f32], &[0.0_f64], 0.01, 1.0, "small beside one");
    }

    #[test]
    #[should_panic(expected = "far: element 1 is -102, expected -100")]
    fn what_lies_beyond_is_named() {
        assert_close(&[1.0_f32, -102.0], &[1.0_f32, -100.0], 0.01, "far");
    }

    #[test]
    #[should_panic(expected = "NaN")]
    fn nothing_is_close_to_what_is_no_number() {
        assert_close(&[f32::NAN], &[1.0_f32], 1e9, "");
    }
}
