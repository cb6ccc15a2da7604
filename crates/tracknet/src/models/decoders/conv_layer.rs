//! What decoders are mostly made of: a convolution, its norm, its activation.

use std::fmt::Display;

use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::Norm;
use crate::models::graph::{Graph, Traced};
use crate::models::lora::LoraLayer;
use crate::models::nn::{Activation, Builder, Conv2d, ConvNorm, ConvSpec};

/// Convolution without bias, norm, activation.
#[derive(Module, Debug)]
pub(super) struct ConvLayer {
    pub(super) conv: LoraLayer<Conv2d>,
    norm: ConvNorm,
    #[module(skip)]
    activation: Activation,
}

impl ConvLayer {
    /// A convolution that gives `outputs` channels.
    pub(super) fn new(
        conv: ConvSpec,
        outputs: usize,
        (norm, activation): (Norm, Activation),
        builder: &Builder<'_>,
    ) -> Self {
        Self {
            conv: LoraLayer::new(conv.build(&builder.at("conv"))),
            norm: ConvNorm::new(norm, outputs, &builder.at("norm")),
            activation,
        }
    }

    /// `[batch, in, height, width]` → `[batch, out, height / stride, width / stride]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if self.conv.adapter.is_none()
            && let Some(norm) = self.norm.still(&x)
        {
            return self.activation.forward(self.conv.base.forward_scaled(x, norm.scale, norm.shift));
        }
        self.norm.forward(self.conv.forward(x), self.activation)
    }

    /// [`ConvLayer::forward`] as part of a graph, without adapters; `name` is what the layer is called.
    pub(super) fn trace(&self, graph: &mut Graph, name: impl Display, x: &Traced) -> Traced {
        graph.within(name, |graph| match self.norm.traced_as_still() {
            Some(norm) => {
                let conv = &self.conv.base;
                let y = graph.within("conv", |graph| conv.trace_scaled(graph, x, norm.scale, norm.shift));
                self.activation.trace(graph, &y)
            }
            None => {
                let y = self.conv.trace(graph, "conv", x);
                graph.within("norm", |graph| self.norm.trace(graph, &y, self.activation))
            }
        })
    }

    /// Layers one after the other, as part of a graph.
    pub(super) fn trace_chain(chain: &[Self], graph: &mut Graph, name: impl Display, x: &Traced) -> Traced {
        graph.within(name, |graph| chain.iter().enumerate().fold(x.clone(), |x, (i, layer)| layer.trace(graph, i, &x)))
    }
}
