//! The operations a backend provides for updates.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;

/// The numbers of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decays of the first and second moment.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Weight decay; multiplied by the learning rate.
    pub weight_decay: f64,
    /// What the gradient is multiplied by before anything else.
    pub gradient_factor: f64,
    /// Updates of this parameter, this one included.
    pub time: i32,
}

impl AdamWStep {
    /// What the moments are divided by, because they began at zero.
    pub(super) fn corrections(self) -> [f32; 2] {
        self.betas.map(|beta| 1.0 - beta.powi(self.time))
    }
}

/// Updates on a backend. All tensors are flat f32. The default bodies compose ordinary tensor operations; a backend with
/// an own kernel overrides them.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait AdamWOps: Backend {
    /// The parameter and its moments after the update.
    fn adamw_step(
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::adamw_step::<Self>([value, gradient, first, second], step)
    }

    /// `sums` with the sum of the squares of `x` in its place `slot`.
    fn sum_of_squares(x: FloatTensor<Self>, sums: FloatTensor<Self>, slot: usize) -> FloatTensor<Self> {
        reference::sum_of_squares::<Self>(x, sums, slot)
    }
}

#[cfg(feature = "flex")]
impl AdamWOps for burn::backend::Flex {}
