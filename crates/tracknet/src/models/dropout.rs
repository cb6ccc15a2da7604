//! Dropout whose draws belong to the model, not to a generator that everything in the process shares.
//!
//! A mask is a function of the layer's name, the seed last given to [`Dropout::seed`] and the number of masks drawn
//! since. Seeding before every step makes a resumed run draw what the unbroken run would have drawn, whatever else
//! uses random numbers and however many threads there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::module::{Flag, Module, Param};
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use rayon::prelude::*;

use super::init::Random;
use super::layers::in_dtype_of;
use super::is_cpu;

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
        self.state.store(Random::keyed(seed, &self.name).next(), Ordering::Relaxed);
    }

    /// Drops single elements.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if !self.is_active(&x) {
            return x;
        }
        let mask = in_dtype_of(self.mask(x.dims(), &x.device()), &x);
        x * mask
    }

    /// Drops whole channels of `[batch, channels, height, width]`.
    pub fn forward_channels(&self, x: Tensor<4>) -> Tensor<4> {
        if !self.is_active(&x) {
            return x;
        }
        let [batch, channels, ..] = x.dims();
        let mask = in_dtype_of(self.mask([batch, channels, 1, 1], &x.device()), &x);
        x * mask
    }

    fn is_active<const D: usize>(&self, x: &Tensor<D>) -> bool {
        self.probability > 0.0 && self.training.is_enabled() && x.device().is_autodiff()
    }

    /// `1 / (1 − p)` where a value is kept, 0 where it is dropped.
    fn mask<const D: usize>(&self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let seed = self.state.fetch_add(1, Ordering::Relaxed);
        let keep = 1.0 - self.probability;
        if keep <= 0.0 {
            return Tensor::zeros(shape, device);
        }
        if is_cpu(device) {
            let values = bernoulli(shape.iter().product(), keep, seed);
            return Tensor::from_data(TensorData::new(values, shape), device);
        }
        device.seed(seed);
        Tensor::random(shape, Distribution::Bernoulli(f64::from(keep)), device).mul_scalar(1.0 / keep)
    }
}

/// Elements that share a generator; fixed, so that the number of threads changes nothing.
const CHUNK: usize = 1 << 14;

/// `count` values that are `1 / keep` with probability `keep`, else 0. One 64-bit draw decides four values, to 1/65536.
fn bernoulli(count: usize, keep: f32, seed: u64) -> Vec<f32> {
    let threshold = (keep * 65536.0).round() as u32;
    let value = 1.0 / keep;
    let mut values = vec![0f32; count];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
        let mut random = Random::new(seed ^ (i as u64).wrapping_mul(0xd605_1a3e_64ab_c9d7));
        for four in chunk.chunks_mut(4) {
            let mut bits = random.next();
            for x in four {
                *x = if (bits as u32 & 0xffff) < threshold { value } else { 0.0 };
                bits >>= 16;
            }
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_the_asked_share_and_the_mean() {
        let mask = bernoulli(100_003, 0.8, 7);
        let kept = mask.iter().filter(|v| **v > 0.0).count() as f32 / mask.len() as f32;
        // Four deviations of a share of 0.8 in 100 000 draws.
        assert!((kept - 0.8).abs() < 0.005, "{kept}");
        assert!(mask.iter().all(|v| *v == 0.0 || *v == 1.25));
    }

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
