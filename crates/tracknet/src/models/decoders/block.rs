//! The residual block of the decoder.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid};

use crate::config::{Activation as ActivationName, DecoderConfig};
use crate::models::graph::{Graph, Traced};
use crate::models::lora::LoraLayer;
use crate::models::nn::{Activation, Builder, Conv2d, ConvNorm, ConvSpec, Dropout};

/// `x + dropout(se(pw(act(norm(dw(x))))))`.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    dw: LoraLayer<Conv2d>,
    norm: ConvNorm,
    pw: LoraLayer<Conv2d>,
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
            dw: LoraLayer::new(spatial.build(&builder.at("dw"))),
            norm: ConvNorm::new(config.norm, channels, &builder.at("norm")),
            pw: LoraLayer::new(ConvSpec::square([channels, channels], 1).build(&builder.at("pw"))),
            se: config.use_se.then(|| SqueezeExcite::new(channels, config.se_reduction, &builder.at("se"))),
            dropout: Dropout::new(config.dropout, builder.path()),
            activation: activation(config.activation),
        }
    }

    /// The convolutions that can carry an adapter, by the names of their fields: those that mix all channels, as a low-rank
    /// update does.
    pub fn layers(&self) -> Vec<(&'static str, &LoraLayer<Conv2d>)> {
        let all = [("dw", &self.dw), ("pw", &self.pw)];
        all.into_iter().filter(|(_, layer)| layer.base.is_dense()).collect()
    }

    /// As [`ResidualBlock::layers`], to change them.
    pub fn layers_mut(&mut self) -> Vec<(&'static str, &mut LoraLayer<Conv2d>)> {
        let all = [("dw", &mut self.dw), ("pw", &mut self.pw)];
        all.into_iter().filter(|(_, layer)| layer.base.is_dense()).collect()
    }

    /// Gives it a stream of dropout masks of its own, apart from that of its clones.
    pub fn own_dropout(&mut self) {
        self.dropout.own_stream();
    }

    /// Restarts the stream of dropout masks.
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

    /// [`ResidualBlock::forward`] as part of a graph, without adapters and dropout.
    pub(super) fn trace(&self, graph: &mut Graph, x: &Traced) -> Traced {
        let y = self.dw.trace(graph, "dw", x);
        let y = graph.within("norm", |graph| self.norm.trace(graph, &y, self.activation));
        let y = self.pw.trace(graph, "pw", &y);
        let y = match &self.se {
            Some(se) => graph.within("se", |graph| se.trace(graph, &y)),
            None => y,
        };
        graph.add(x, &y)
    }
}

/// The activation that a configuration chose.
pub(super) fn activation(name: ActivationName) -> Activation {
    match name {
        ActivationName::Gelu => Activation::Gelu,
        ActivationName::Relu => Activation::Relu,
    }
}

/// Channel attention (Hu et al., 2018).
#[derive(Module, Debug)]
pub(super) struct SqueezeExcite {
    reduce: Conv2d,
    expand: Conv2d,
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

    fn trace(&self, graph: &mut Graph, x: &Traced) -> Traced {
        let mean = graph.mean_of_channels(x);
        let inner = graph.within("fc.0", |graph| self.reduce.trace(graph, &mean));
        let inner = graph.relu(&inner);
        let gate = graph.within("fc.2", |graph| self.expand.trace(graph, &inner));
        let gate = graph.sigmoid(&gate);
        graph.multiply(x, &gate)
    }
}
