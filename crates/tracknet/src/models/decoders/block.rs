//! The residual block of the decoder.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid};

use crate::config::{Activation as ActivationName, DecoderConfig};
use crate::models::dropout::Dropout;
use crate::models::init::Builder;
use crate::models::layers::{Activation, Conv, ConvSpec};

use super::norm::NormLayer;

/// `x + dropout(se(pw(act(norm(dw(x))))))`.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    dw: Conv,
    norm: NormLayer,
    pw: Conv,
    se: Option<SqueezeExcite>,
    dropout: Dropout,
    #[module(skip)]
    activation: Activation,
}

impl ResidualBlock {
    /// A block on `channels` channels.
    pub fn new(config: &DecoderConfig, channels: usize, builder: &Builder<'_>) -> Self {
        let spatial = ConvSpec::square([channels, channels], 3);
        let spatial = if config.use_depthwise { spatial.depthwise() } else { spatial };
        Self {
            dw: spatial.build(&builder.at("dw")),
            norm: NormLayer::new(config.norm, channels, &builder.at("norm")),
            pw: ConvSpec::square([channels, channels], 1).build(&builder.at("pw")),
            se: config.use_se.then(|| SqueezeExcite::new(channels, config.se_reduction, &builder.at("se"))),
            dropout: Dropout::new(config.dropout, builder.path()),
            activation: activation(config.activation),
        }
    }

    /// The two convolutions, by name.
    pub fn convolutions(&self) -> [(&'static str, &Conv); 2] {
        [("dw", &self.dw), ("pw", &self.pw)]
    }

    /// The same, to change them.
    pub fn convolutions_mut(&mut self) -> [(&'static str, &mut Conv); 2] {
        [("dw", &mut self.dw), ("pw", &mut self.pw)]
    }

    /// Leaves the streams of dropout that it shares with its clones.
    pub fn own_dropout(&mut self) {
        self.dropout.own_stream();
    }

    /// Restarts the draws of the dropout.
    pub fn seed_dropout(&self, seed: u64) {
        self.dropout.seed(seed);
    }

    /// `[batch, channels, height, width]` → the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.norm.forward(self.dw.forward(x.clone()), self.activation);
        let y = self.pw.forward(y);
        let y = match &self.se {
            Some(se) => se.forward(y),
            None => y,
        };
        x + self.dropout.forward_channels(y)
    }
}

pub(super) fn activation(name: ActivationName) -> Activation {
    match name {
        ActivationName::Gelu => Activation::Gelu,
        ActivationName::Relu => Activation::Relu,
    }
}

/// Channel attention (Hu et al., 2018).
#[derive(Module, Debug)]
pub(super) struct SqueezeExcite {
    reduce: Conv,
    expand: Conv,
}

impl SqueezeExcite {
    fn new(channels: usize, reduction: usize, builder: &Builder<'_>) -> Self {
        let inner = (channels / reduction.max(1)).max(1);
        Self {
            reduce: ConvSpec::square([channels, inner], 1).with_bias().build(&builder.at("fc.0")),
            expand: ConvSpec::square([inner, channels], 1).with_bias().build(&builder.at("fc.2")),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mean = x.clone().mean_dim(2).mean_dim(3);
        x * sigmoid(self.expand.forward(relu(self.reduce.forward(mean))))
    }
}
