//! Normalization of convolutional features: by groups within a frame, or by channel over the batch.

use burn::module::{Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::Tensor;

use crate::config::Norm;
use crate::models::init::{Builder, Fill};

const EPSILON: f64 = 1e-5;

/// The normalization a configuration chose.
#[derive(Module, Debug)]
pub enum NormLayer {
    /// `gn`.
    Group(GroupNorm),
    /// `bn`.
    Batch(BatchNorm),
}

impl NormLayer {
    /// Weight 1 and bias 0, or the checkpoint's.
    pub fn new(kind: Norm, channels: usize, builder: &Builder<'_>) -> Self {
        match kind {
            Norm::Gn => Self::Group(GroupNorm::new(channels, builder)),
            Norm::Bn => {
                let mut norm = BatchNormConfig::new(channels).with_epsilon(EPSILON).init(builder.device());
                norm.gamma = builder.param("weight", [channels], Fill::ONE);
                norm.beta = builder.param("bias", [channels], Fill::ZERO);
                Self::Batch(norm)
            }
        }
    }

    /// `[batch, channels, height, width]` → the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Group(norm) => norm.forward(x),
            Self::Batch(norm) => norm.forward(x),
        }
    }
}

/// Group normalization (Wu and He, 2018).
#[derive(Module, Debug)]
pub struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
}

impl GroupNorm {
    fn new(channels: usize, builder: &Builder<'_>) -> Self {
        Self {
            weight: builder.param("weight", [channels], Fill::ONE),
            bias: builder.param("bias", [channels], Fill::ZERO),
            groups: groups_for(channels),
        }
    }

    /// Deviation and weight are joined before they touch the feature map: two passes over it instead of four.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let per_group = channels / self.groups;
        let grouped = x.reshape([batch, self.groups, per_group * height * width]);
        let mean = grouped.clone().mean_dim(2);
        let centred = grouped - mean;
        let variance = centred.clone().square().mean_dim(2);
        let inverse = variance.add_scalar(EPSILON).sqrt().recip();
        let weight = self.weight.val().reshape([1, self.groups, per_group]);
        let scale = (weight * inverse).reshape([batch, channels, 1]);
        let y = centred.reshape([batch, channels, height * width]) * scale + self.bias.val().reshape([1, channels, 1]);
        y.reshape([batch, channels, height, width])
    }
}

/// 32, halved until it divides the channels.
fn groups_for(channels: usize) -> usize {
    let mut groups = 32;
    while !channels.is_multiple_of(groups) {
        groups /= 2;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::groups_for;

    #[test]
    fn groups_are_halved_until_they_divide_the_channels() {
        assert_eq!([64, 32, 48, 8, 6, 5].map(groups_for), [32, 32, 16, 8, 2, 1]);
    }
}
