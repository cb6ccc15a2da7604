//! The tables: what each 4-bit code means, and the 8-bit map of the second level.

use std::fmt;
use std::sync::LazyLock;

/// NF4: the values of QLoRA's appendix E (quantiles of a standard normal, with an exact zero), code 0 to 15.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// FP4 (sign, 2 exponent bits, 1 mantissa bit; scaled so that the largest is 1). Codes 8 to 15 are the negatives; code 8
/// is a second zero.
const FP4: [f32; 16] = [
    0.0,
    1.0 / 192.0,
    2.0 / 3.0,
    1.0,
    1.0 / 3.0,
    0.5,
    1.0 / 6.0,
    0.25,
    0.0,
    -1.0 / 192.0,
    -2.0 / 3.0,
    -1.0,
    -1.0 / 3.0,
    -0.5,
    -1.0 / 6.0,
    -0.25,
];

/// Codes by rising value.
const NF4_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Codes by rising value; of the two zeros, code 0 is the lower, so it takes 0.0 and small negatives and code 8 takes
/// small positives. This is what bitsandbytes does, and both read back as zero.
const FP4_ORDER: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

const NF4_MIDPOINTS: [f32; 15] = midpoints(&NF4, &NF4_ORDER);
const FP4_MIDPOINTS: [f32; 15] = midpoints(&FP4, &FP4_ORDER);

/// The two 4-bit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantType {
    /// 4-bit NormalFloat.
    Nf4,
    /// 4-bit float.
    Fp4,
}

impl QuantType {
    /// The value of each code, `[-1, 1]`.
    pub const fn codes(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// The code that padding and all-zero blocks use.
    pub const fn zero_code(self) -> u8 {
        match self {
            Self::Nf4 => 7,
            Self::Fp4 => 0,
        }
    }

    /// The name that files use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    /// The largest distance between neighbouring codes; a value is at most half of it times absmax away from its code.
    pub fn widest_gap(self) -> f32 {
        let codes = self.codes();
        let order = self.order();
        order
            .windows(2)
            .map(|pair| match pair {
                [low, high] => codes[usize::from(*high)] - codes[usize::from(*low)],
                _ => 0.0,
            })
            .fold(0.0, f32::max)
    }

    /// Codes by rising value.
    pub(super) const fn order(self) -> &'static [u8; 16] {
        match self {
            Self::Nf4 => &NF4_ORDER,
            Self::Fp4 => &FP4_ORDER,
        }
    }

    /// The borders between neighbouring codes. A value on a border takes the lower code.
    pub(super) const fn midpoints(self) -> &'static [f32; 15] {
        match self {
            Self::Nf4 => &NF4_MIDPOINTS,
            Self::Fp4 => &FP4_MIDPOINTS,
        }
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const fn midpoints(codes: &[f32; 16], order: &[u8; 16]) -> [f32; 15] {
    let mut borders = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        borders[i] = (codes[order[i] as usize] + codes[order[i + 1] as usize]) / 2.0;
        i += 1;
    }
    borders
}

/// The signed dynamic 8-bit map that quantizes the block scales: 256 rising values.
///
/// For `i` in 0..=6, plus and minus the midpoints of `linspace(0.1, 1, 2^i + 1)` times `10^(i - 6)`; and 0 and 1 (8-bit
/// dynamic tree quantization, Dettmers 2016, <https://arxiv.org/abs/1511.04561>).
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(build_dynamic_map);
    &MAP
}

fn build_dynamic_map() -> [f32; 256] {
    let mut map = [0.0_f32; 256];
    // 127 magnitudes of each sign, 0 and 1.
    let mut next = 0;
    let mut push = |value: f32| {
        map[next] = value;
        next += 1;
    };
    push(0.0);
    push(1.0);
    for exponent in 0..7 {
        let steps = 1_usize << exponent;
        let scale = 10.0_f64.powi(exponent - 6) as f32;
        for k in 0..steps {
            let mean = (linspace(k, steps) + linspace(k + 1, steps)) / 2.0;
            push(scale * mean);
            push(-(scale * mean));
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

/// Point `k` of `linspace(0.1, 1, steps + 1)` in f32, counted from the nearer end with one rounding, as PyTorch does: the
/// last bit depends on it.
fn linspace(k: usize, steps: usize) -> f32 {
    let step = (1.0_f32 - 0.1) / steps as f32;
    if k < steps.div_ceil(2) { step.mul_add(k as f32, 0.1) } else { (-step).mul_add((steps - k) as f32, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_each_type_rises_and_names_every_code_once() {
        for quant_type in [QuantType::Nf4, QuantType::Fp4] {
            let values: Vec<f32> = quant_type.order().iter().map(|c| quant_type.codes()[usize::from(*c)]).collect();
            assert!(values.windows(2).all(|w| w[0] <= w[1]));
            let mut codes = *quant_type.order();
            codes.sort_unstable();
            assert_eq!(codes, std::array::from_fn(|i| i as u8));
        }
    }

    #[test]
    fn the_dynamic_map_rises_from_almost_minus_one_to_one_and_holds_zero() {
        let map = dynamic_map();
        assert!(map.windows(2).all(|w| w[0] < w[1]));
        assert_eq!((map[127], map[255]), (0.0, 1.0));
        assert!(map[0] > -1.0 && map[0] < -0.99);
    }
}
