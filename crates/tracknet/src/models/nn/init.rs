//! Where the initial values of a parameter come from: a checkpoint, or a seed.
//!
//! Modules are built through a [`Builder`] that knows the path of what is being built, and what files call it. Random values
//! are a function of `(seed, name)` alone, never of the order in which modules are made, so adding a layer or loading half
//! of a model does not change the values of the rest; values from a checkpoint go straight to the device, tensor by tensor,
//! without a random model first.

use std::fmt::Display;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use tracknet_random::Stream;

use super::linear::LinearWeight;

/// The random initial values of a parameter.
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
    /// An offset x, y for each head, level and point: the heads look into directions all around, at the edge of the square of
    /// one cell, and each point goes as much further (Zhu et al., 2021).
    Directions {
        /// Heads, in the order of their angles.
        heads: usize,
        /// Levels, which are all the same.
        levels: usize,
        /// Points of a head in a level.
        points: usize,
    },
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

    /// Kaiming uniform with `a = 1`, the gain of a linear function: bound `√(3 / fan_in)`.
    pub fn kaiming_uniform_linear(fan_in: usize) -> Self {
        Self::Uniform((3.0 / fan_in.max(1) as f32).sqrt())
    }

    /// Xavier uniform (Glorot and Bengio, 2010): bound `√(6 / (fan_in + fan_out))`.
    pub fn xavier_uniform([fan_in, fan_out]: [usize; 2]) -> Self {
        Self::Uniform((6.0 / (fan_in + fan_out).max(1) as f32).sqrt())
    }

    /// Kaiming uniform with `a = √5`, as PyTorch initializes a linear layer: bound `1 / √fan_in`.
    pub fn kaiming_uniform_sqrt5(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in.max(1) as f32).sqrt())
    }
}

/// Gives the initial values of the parameter called `name`.
///
/// A source that cannot give them keeps note of it and returns the right number of zeros, so that one build
/// finds every problem.
pub trait Source {
    /// Row-major values for a parameter of this shape.
    fn values(&self, name: &str, shape: &[usize], fill: Fill) -> Vec<f32>;

    /// The weight `[out, in]` of a linear layer, if the source gives it in 4 bits; `None` = as [`Source::values`].
    fn packed(&self, _name: &str, _shape: [usize; 2], _fill: Fill, _device: &Device) -> Option<LinearWeight> {
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
        let mut random = Stream::named(self.seed, name);
        match fill {
            Fill::Constant(value) => vec![value; count],
            Fill::Uniform(bound) => (0..count).map(|_| (2.0 * random.uniform_f64() - 1.0) as f32 * bound).collect(),
            Fill::Normal(deviation) => (0..count).map(|_| random.normal() as f32 * deviation).collect(),
            Fill::TruncatedNormal(deviation) => {
                (0..count).map(|_| random.truncated_normal() as f32 * deviation).collect()
            }
            Fill::Directions { heads, levels, points } => directions(heads, levels, points),
        }
    }
}

/// The offsets of [`Fill::Directions`], `[heads, levels, points, 2]` row by row.
fn directions(heads: usize, levels: usize, points: usize) -> Vec<f32> {
    let of_head = |head: usize| {
        let (y, x) = (std::f64::consts::TAU * head as f64 / heads as f64).sin_cos();
        let longest = x.abs().max(y.abs());
        let of_level = (1..=points).flat_map(move |step| [x, y].map(|part| (part / longest * step as f64) as f32));
        of_level.collect::<Vec<_>>().repeat(levels)
    };
    (0..heads).flat_map(of_head).collect()
}

/// Builds parameters on a device, knowing the path of the module that asks.
#[derive(Clone)]
pub struct Builder<'a> {
    source: &'a dyn Source,
    /// From the path of a module to its name in files; `None` = they are the same.
    names: Option<&'a dyn Fn(&str) -> String>,
    device: &'a Device,
    path: String,
}

impl<'a> Builder<'a> {
    /// A builder at the root of the paths.
    pub fn new(source: &'a dyn Source, device: &'a Device) -> Self {
        Self { source, names: None, device, path: String::new() }
    }

    /// Asks the source for a module by the name that `names` gives its path.
    #[must_use]
    pub fn named<'b>(&self, names: &'b dyn Fn(&str) -> String) -> Builder<'b>
    where
        'a: 'b,
    {
        Builder { source: self.source, names: Some(names), device: self.device, path: self.path.clone() }
    }

    /// The path of the module that this builder stands at.
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
        Self { path: self.below(&name.to_string()), ..self.clone() }
    }

    /// The weight `[out, in]` of the linear layer that this builder stands at: packed when the source gives it packed, else
    /// trainable.
    pub fn linear_weight(&self, shape: [usize; 2], fill: Fill) -> LinearWeight {
        let packed = self.source.packed(&self.name("weight"), shape, fill, self.device);
        packed.unwrap_or_else(|| LinearWeight::Dense(self.param("weight", shape, fill)))
    }

    /// A trainable parameter of the module that this builder stands at.
    pub fn param<const D: usize>(&self, parameter: &str, shape: [usize; D], fill: Fill) -> Param<Tensor<D>> {
        let values = self.source.values(&self.name(parameter), &shape, fill);
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    fn name(&self, parameter: &str) -> String {
        let path = self.below(parameter);
        self.names.map_or_else(|| path.clone(), |names| names(&path))
    }

    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
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
    fn heads_look_all_around_and_their_points_one_cell_further_each() {
        let values = RandomSource { seed: 3 }.values("b", &[32], Fill::Directions { heads: 4, levels: 2, points: 2 });
        let directions = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];
        let expected = directions.iter().flat_map(|[x, y]| [*x, *y, 2.0 * x, 2.0 * y].repeat(2));
        assert!(values.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6f32), "{values:?}");
        let diagonal = RandomSource { seed: 3 }.values("b", &[16], Fill::Directions { heads: 8, levels: 1, points: 1 });
        assert_eq!(diagonal[2..4], [1.0, 1.0]);
    }

    #[test]
    fn kaiming_uniform_stays_within_its_bound_and_fills_it() {
        let values = RandomSource { seed: 3 }.values("w", &[4, 2500], Fill::kaiming_uniform_sqrt5(64));
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest <= 0.125 && largest > 0.12);
    }
}
