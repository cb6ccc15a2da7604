//! Where the first values of a parameter come from: a checkpoint, or a seed.
//!
//! Modules are built through a [`Builder`] that knows the public name of what is being built. Random values
//! are a function of `(seed, name)` alone, never of the order in which modules are made, so adding a layer or
//! loading half of a model does not change the values of the rest; values from a checkpoint go straight to the
//! device, tensor by tensor, without a random model first.

use std::fmt::Display;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::random;

use super::projection::Base;
use super::quantization::Packer;

/// How a parameter without a checkpoint starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// One value everywhere.
    Constant(f32),
    /// Normal with this deviation, cut at two deviations.
    TruncatedNormal(f32),
    /// Normal with this deviation.
    Normal(f32),
    /// Uniform in `±bound`.
    Uniform(f32),
}

impl Fill {
    /// All zero.
    pub const ZERO: Self = Self::Constant(0.0);
    /// All one.
    pub const ONE: Self = Self::Constant(1.0);

    /// Kaiming normal with `fan_out` and the gain of ReLU (He et al., 2015) for a weight
    /// `[out, in / groups, height, width]`.
    pub fn kaiming_fan_out([out, _, height, width]: [usize; 4]) -> Self {
        Self::Normal((2.0 / (out * height * width).max(1) as f32).sqrt())
    }

    /// Kaiming uniform with `a = √5`, the start of a linear layer in PyTorch: bound `1 / √fan_in`.
    pub fn kaiming_uniform_sqrt5(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in.max(1) as f32).sqrt())
    }
}

/// Gives the first values of the parameter called `name`.
///
/// A source that cannot give them keeps note of it and returns the right number of zeros, so that one build
/// finds every problem.
pub trait Source {
    /// Row-major values for a parameter of this shape.
    fn values(&self, name: &str, shape: &[usize], fill: Fill) -> Vec<f32>;

    /// The weight `[out, in]` of a linear layer, if the source has it in 4 bits.
    fn packed(&self, _name: &str, _shape: [usize; 2], _device: &Device) -> Option<Base> {
        None
    }
}

/// Values from a seed.
#[derive(Debug, Clone, Copy)]
pub struct RandomSource {
    /// The seed of the run.
    pub seed: u64,
}

impl Source for RandomSource {
    fn values(&self, name: &str, shape: &[usize], fill: Fill) -> Vec<f32> {
        let count = shape.iter().product();
        let mut random = Random::keyed(self.seed, name);
        match fill {
            Fill::Constant(value) => vec![value; count],
            Fill::Uniform(bound) => (0..count).map(|_| (2.0 * random.uniform() - 1.0) as f32 * bound).collect(),
            Fill::Normal(deviation) => (0..count).map(|_| random.normal() as f32 * deviation).collect(),
            Fill::TruncatedNormal(deviation) => {
                (0..count).map(|_| random.truncated_normal() as f32 * deviation).collect()
            }
        }
    }
}

/// Builds parameters on a device, knowing the name of the module that asks.
#[derive(Clone)]
pub struct Builder<'a> {
    source: &'a dyn Source,
    packer: Option<&'a Packer>,
    device: &'a Device,
    path: String,
}

impl<'a> Builder<'a> {
    /// A builder at the root of the names.
    pub fn new(source: &'a dyn Source, device: &'a Device) -> Self {
        Self { source, packer: None, device, path: String::new() }
    }

    /// Packs the weights of projections on their way to the device, so that they never exist as floats all at once.
    #[must_use]
    pub fn packing(self, packer: Option<&'a Packer>) -> Self {
        Self { packer, ..self }
    }

    /// The name of the module this builder stands at.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The device parameters are made on.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The builder of a module below this one; `name` may hold several components.
    #[must_use]
    pub fn at(&self, name: impl Display) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { path, ..self.clone() }
    }

    /// The weight `[out, in]` of the projection this builder stands at: packed when the source has it packed or the builder
    /// packs, else trainable.
    pub fn linear_weight(&self, shape: [usize; 2], fill: Fill) -> Base {
        if let Some(base) = self.source.packed(&self.at("weight").path, shape, self.device) {
            return base;
        }
        match self.packer.filter(|packer| packer.packs(&self.path)) {
            None => Base::Dense(self.param("weight", shape, fill)),
            Some(packer) => {
                let values = self.source.values(&self.at("weight").path, &shape, fill);
                packer.pack(&self.path, values, shape, self.device)
            }
        }
    }

    /// A trainable parameter of the module this builder stands at.
    pub fn param<const D: usize>(&self, name: &str, shape: [usize; D], fill: Fill) -> Param<Tensor<D>> {
        let values = self.source.values(&self.at(name).path, &shape, fill);
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device))
    }
}

/// A small generator of its own (SplitMix64), so that initial values depend on nothing that
/// a dependency may change.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A stream that starts here.
    pub(crate) fn new(state: u64) -> Self {
        Self(state)
    }

    /// A stream of its own for every `(seed, name)` (FNV-1a over the name).
    pub(crate) fn keyed(seed: u64, name: &str) -> Self {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut random = Self(seed ^ hash.rotate_left(32));
        // Two steps, so that neighbouring seeds do not give neighbouring states.
        random.0 = random.next() ^ hash;
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        random::next(&mut self.0)
    }

    /// In `[0, 1)`, 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box–Muller). `libm` gives the same bits on every platform.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    fn truncated_normal(&mut self) -> f64 {
        loop {
            let value = self.normal();
            if value.abs() <= 2.0 {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_depend_on_the_seed_and_the_name_only() {
        let a = RandomSource { seed: 1 };
        let first = a.values("x.weight", &[3, 5], Fill::Normal(1.0));
        a.values("y.weight", &[7], Fill::Normal(1.0));
        assert_eq!(first, a.values("x.weight", &[3, 5], Fill::Normal(1.0)));
        assert_ne!(first, a.values("z.weight", &[3, 5], Fill::Normal(1.0)));
        assert_ne!(first, RandomSource { seed: 2 }.values("x.weight", &[3, 5], Fill::Normal(1.0)));
    }

    #[test]
    fn a_truncated_normal_has_the_deviation_it_should() {
        let values = RandomSource { seed: 3 }.values("w", &[20_000], Fill::TruncatedNormal(0.02));
        assert!(values.iter().all(|v| v.abs() <= 0.04));
        let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        // A unit normal cut at ±2 has deviation 0.8796; 20 000 draws are good to about half a percent.
        assert!((deviation / 0.02 - 0.8796).abs() < 0.02, "{deviation}");
    }

    #[test]
    fn kaiming_uniform_stays_within_its_bound_and_fills_it() {
        let values = RandomSource { seed: 3 }.values("w", &[4, 2500], Fill::kaiming_uniform_sqrt5(64));
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest <= 0.125 && largest > 0.12);
    }
}
