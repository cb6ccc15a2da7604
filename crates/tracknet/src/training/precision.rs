//! Mixed precision: a forward and backward pass in half precision, parameters, their gradients and the update in full.
//!
//! A model computes in the dtype of its frames, so the precision of a step is the dtype that the frames are given. Sums
//! (products, norms, softmax, the loss) are in float32 whatever it is. Gradients in float16 would vanish below 6e-8;
//! there the loss is multiplied by a scale before the backward pass and the gradients divided by it after (Micikevicius
//! et al. 2018, <https://arxiv.org/abs/1710.03740>), a scale that grows until something overflows.

use crate::artifacts::run::LossScale;

impl LossScale {
    /// Steps without an overflow after which the scale is doubled.
    const GROWTH_INTERVAL: u32 = 2000;
    /// A larger scale would itself overflow float16 where the gradient of a pixel is 1.
    const LARGEST: f64 = 65536.0;
    /// Gradients that overflow at this scale overflow without it, too.
    const SMALLEST: f64 = 1.0;

    /// Where a run starts.
    pub fn start() -> Self {
        Self { scale: Self::LARGEST, steady_steps: 0 }
    }

    /// Whether an overflow may be the scale's own doing: a smaller one is left to try.
    pub fn can_fall(self) -> bool {
        self.scale > Self::SMALLEST
    }

    /// The scale after a step whose gradients were finite or not.
    #[must_use]
    pub fn after(self, finite: bool) -> Self {
        let Self { scale, steady_steps } = self;
        match finite {
            false => Self { scale: (scale / 2.0).max(Self::SMALLEST), steady_steps: 0 },
            true if steady_steps + 1 >= Self::GROWTH_INTERVAL => {
                Self { scale: (scale * 2.0).min(Self::LARGEST), steady_steps: 0 }
            }
            true => Self { scale, steady_steps: steady_steps + 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_the_scale_and_a_long_calm_doubles_it() {
        let mut scale = LossScale::start().after(false).after(false);
        assert_eq!(scale.scale, 16384.0);
        for _ in 0..1999 {
            scale = scale.after(true);
        }
        assert_eq!((scale.scale, scale.steady_steps), (16384.0, 1999));
        assert_eq!(scale.after(true), LossScale { scale: 32768.0, steady_steps: 0 });
        assert_eq!(LossScale { scale: 1.0, steady_steps: 7 }.after(false).scale, 1.0);
        assert!(LossScale::start().can_fall() && !LossScale { scale: 1.0, steady_steps: 0 }.can_fall());
        assert_eq!(LossScale { scale: 65536.0, steady_steps: 1999 }.after(true).scale, 65536.0);
    }
}
