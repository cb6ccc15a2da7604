//! Dropout whose draws belong to the model, not to a generator that everything in the process shares.
//!
//! A mask is a function of the layer's name, the seed last given to [`Dropout::seed`] and the number of masks drawn
//! since. Seeding before every step makes a resumed run draw what the unbroken run would have drawn, whatever else
//! uses random numbers and however many threads there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::module::{Flag, Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tracknet_kernels::adapter::dropout;
use tracknet_kernels::dropout::KeepMask;
use tracknet_random::Stream;

use super::cast_to_dtype_of;
use crate::compute::is_cpu;

/// Inverted dropout (Srivastava et al., 2014): off in evaluation, on a device without gradients, and at 0.
#[derive(Module, Debug)]
pub struct Dropout {
    training: Param<Flag>,
    #[module(skip)]
    probability: f32,
    #[module(skip)]
    name: Arc<str>,
    /// Where the stream of masks stands; shared with clones, so that a model and its copy never draw the same.
    #[module(skip)]
    state: Arc<AtomicU64>,
}

impl Dropout {
    /// Drops with this probability; `name` keeps layers apart.
    pub fn new(probability: f32, name: &str) -> Self {
        let dropout = Self { training: Param::from_bool(true), probability, name: name.into(), state: Arc::default() };
        dropout.seed(0);
        dropout
    }

    /// Leaves the stream that it shares with its clones.
    pub fn own_stream(&mut self) {
        self.state = Arc::new(AtomicU64::new(self.state.load(Ordering::Relaxed)));
    }

    /// Restarts the stream of masks.
    pub fn seed(&self, seed: u64) {
        self.state.store(Stream::named(seed, &self.name).next_u64(), Ordering::Relaxed);
    }

    /// Drops single elements.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if !self.is_active(&x) {
            return x;
        }
        let mask = self.next();
        if mask.keep > 0.0 && !is_cpu(&x.device()) {
            return dropout(x, mask);
        }
        let factors = cast_to_dtype_of(factors(mask, x.dims(), &x.device()), &x);
        x * factors
    }

    /// Drops whole channels of `[batch, channels, height, width]`.
    pub fn forward_channels(&self, x: Tensor<4>) -> Tensor<4> {
        if !self.is_active(&x) {
            return x;
        }
        let [batch, channels, ..] = x.dims();
        let factors = cast_to_dtype_of(factors(self.next(), [batch, channels, 1, 1], &x.device()), &x);
        x * factors
    }

    /// Whether the next call drops elements of `x`.
    pub fn is_active<const D: usize>(&self, x: &Tensor<D>) -> bool {
        self.probability > 0.0 && self.training.is_enabled() && x.device().is_autodiff()
    }

    /// The share that is dropped.
    pub fn probability(&self) -> f32 {
        self.probability
    }

    /// The mask of the next call for `x`, if there is one, for kernels that drop by themselves.
    pub fn draw<const D: usize>(&self, x: &Tensor<D>) -> Option<KeepMask> {
        self.is_active(x).then(|| self.next())
    }

    fn next(&self) -> KeepMask {
        KeepMask { keep: 1.0 - self.probability, seed: self.state.fetch_add(1, Ordering::Relaxed) }
    }
}

/// `1 / (1 − p)` where a value is kept, 0 where it is dropped.
fn factors<const D: usize>(mask: KeepMask, shape: [usize; D], device: &Device) -> Tensor<D> {
    if mask.keep <= 0.0 {
        return Tensor::zeros(shape, device);
    }
    Tensor::from_data(TensorData::new(mask.factors(shape.iter().product()), shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_follow_the_seed_and_the_name_and_differ_from_call_to_call() {
        let device = Device::default().autodiff();
        let draw = |d: &Dropout| d.forward(Tensor::<1>::ones([256], &device)).into_data();
        let a = Dropout::new(0.5, "a");
        a.seed(3);
        let (first, second) = (draw(&a), draw(&a));
        assert_ne!(first, second);
        a.seed(3);
        assert_eq!((draw(&a), draw(&a)), (first.clone(), second));
        let b = Dropout::new(0.5, "b");
        b.seed(3);
        assert_ne!(draw(&b), first);
    }

    #[test]
    fn a_probability_of_one_drops_everything() {
        let device = Device::default().autodiff();
        let y = Dropout::new(1.0, "a").forward(Tensor::<1>::ones([8], &device));
        assert_eq!(y.sum().into_scalar::<f32>(), 0.0);
    }
}
