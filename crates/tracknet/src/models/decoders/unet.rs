//! The `unet` decoder: a slim convolutional path sees the frames at fine strides, where a small fast thing is more than a pixel,
//! and what the backbone knows of the scene joins it at the bottom.
//!
//! A U-Net (Ronneberger et al. 2015, <https://arxiv.org/abs/1505.04597>) whose stages on the way up add what their twins on the
//! way down saw, as in LinkNet (Chaurasia and Culurciello 2017, <https://arxiv.org/abs/1707.03718>): a sum needs a third of the
//! products of a concatenation.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::UnetConfig;
use crate::models::features::{Features, Layout, LevelLayout};
use crate::models::graph::{Graph, Traced};
use crate::models::lora::{AdaptableLayer, LoraLayer};
use crate::models::nn::{Builder, Conv2d, ConvSpec};
use crate::models::window::WindowSpec;

use super::block::activation;
use super::conv_layer::ConvLayer;
use super::resize::resize_bilinear;
use super::{Decoder, DecoderNetwork, DecoderSpec};

/// The decoder's plan.
#[derive(Debug, Clone)]
pub struct UnetSpec {
    config: UnetConfig,
    /// The backbone's coarsest level.
    context: LevelLayout,
    output: [usize; 2],
    /// Frames that the way down sees.
    frames: usize,
}

impl UnetSpec {
    /// A decoder on the coarsest level of a backbone, which every backbone has; `[W, H]` is the size of the heatmap.
    pub fn new(config: &UnetConfig, layout: &Layout, [width, height]: [usize; 2], window: WindowSpec) -> Self {
        let frames = if window.enters_stem() { window.frames } else { 1 };
        Self { config: config.clone(), context: layout.coarsest(), output: [height, width], frames }
    }
}

impl DecoderSpec for UnetSpec {
    fn output_channels(&self) -> usize {
        self.config.channels.first().copied().unwrap_or_default()
    }

    fn build(&self, builder: &Builder<'_>) -> Decoder {
        let UnetConfig { channels, stride, .. } = &self.config;
        let style = (self.config.norm, activation(self.config.activation));
        let chain = |from: usize, to: usize, builder: &Builder<'_>| -> Vec<ConvLayer> {
            let layer = |i| {
                let conv = ConvSpec::square([if i == 0 { from } else { to }, to], 3);
                ConvLayer::new(conv, to, style, &builder.at(i))
            };
            (0..self.config.convolutions).map(layer).collect()
        };
        let pointwise = |from: usize, to: usize, builder: Builder<'_>| {
            LoraLayer::new(ConvSpec::square([from, to], 1).build(&builder))
        };
        let first = 3 * self.frames * stride * stride;
        let inputs = std::iter::once(&first).chain(channels);
        let down = inputs.zip(channels).enumerate();
        let up = channels.windows(2).enumerate();
        let bottom = channels.last().copied().unwrap_or_default();
        Decoder::Unet(UnetDecoder {
            down: down.map(|(i, (from, to))| chain(*from, *to, &builder.at("down").at(i))).collect(),
            context: pointwise(self.context.channels, bottom, builder.at("context")),
            bottom: chain(bottom, bottom, &builder.at("bottom")),
            lateral: up.clone().map(|(i, pair)| pointwise(pair[1], pair[0], builder.at("lateral").at(i))).collect(),
            up: up.map(|(i, pair)| chain(pair[0], pair[0], &builder.at("up").at(i))).collect(),
            stride: *stride,
            channels: channels.clone(),
            pixels: self.context.stride * self.context.stride,
            output: self.output,
        })
    }
}

/// Stages on the way down, each at twice the stride of the one before it; the bottom, where the features of the backbone are
/// added; and the stages on the way up, finest first.
#[derive(Module, Debug)]
pub struct UnetDecoder {
    down: Vec<Vec<ConvLayer>>,
    context: LoraLayer<Conv2d>,
    bottom: Vec<ConvLayer>,
    /// From the channels of a stage to those of the finer one.
    lateral: Vec<LoraLayer<Conv2d>>,
    up: Vec<Vec<ConvLayer>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    channels: Vec<usize>,
    /// Pixels of a frame for each cell of the backbone's coarsest level.
    #[module(skip)]
    pixels: usize,
    #[module(skip)]
    output: [usize; 2],
}

impl UnetDecoder {
    /// The chains of convolutions, by their paths below the decoder.
    fn chains(&self) -> impl Iterator<Item = (String, &Vec<ConvLayer>)> {
        let down = self.down.iter().enumerate().map(|(i, chain)| (format!("down.{i}"), chain));
        let up = self.up.iter().enumerate().map(|(i, chain)| (format!("up.{i}"), chain));
        down.chain([("bottom".to_owned(), &self.bottom)]).chain(up)
    }

    /// As [`UnetDecoder::chains`], to change them.
    fn chains_mut(&mut self) -> impl Iterator<Item = (String, &mut Vec<ConvLayer>)> {
        let down = self.down.iter_mut().enumerate().map(|(i, chain)| (format!("down.{i}"), chain));
        let up = self.up.iter_mut().enumerate().map(|(i, chain)| (format!("up.{i}"), chain));
        down.chain([("bottom".to_owned(), &mut self.bottom)]).chain(up)
    }
}

impl DecoderNetwork for UnetDecoder {
    fn forward(&self, features: Features, frames: Tensor<4>) -> Tensor<4> {
        let mut x = blocks_as_channels(frames, self.stride);
        let mut seen = Vec::with_capacity(self.down.len());
        for (i, chain) in self.down.iter().enumerate() {
            if i > 0 {
                let [_, _, height, width] = x.dims();
                x = resize_bilinear(x, [height.div_ceil(2), width.div_ceil(2)]);
            }
            x = run(chain, x);
            seen.push(x.clone());
        }
        // 1×1 convolutions without bias and resizes commute: the one runs at the lower resolution, the other on fewer channels.
        let sum = |x: Tensor<4>, coarse: Tensor<4>| {
            let [_, _, height, width] = x.dims();
            x + resize_bilinear(coarse, [height, width])
        };
        x = run(&self.bottom, sum(x, self.context.forward(features.coarsest().map.clone())));
        for (i, chain) in self.up.iter().enumerate().rev() {
            x = run(chain, sum(seen[i].clone(), self.lateral[i].forward(x)));
        }
        resize_bilinear(x, self.output)
    }

    fn trace(&self, graph: &mut Graph, levels: &[Traced], frames: &Traced) -> Traced {
        let mut x = trace_blocks_as_channels(graph, frames, self.stride);
        let mut seen = Vec::with_capacity(self.down.len());
        for (i, chain) in self.down.iter().enumerate() {
            if i > 0 {
                x = graph.resize_bilinear(&x, [x.shape[1].div_ceil(2), x.shape[2].div_ceil(2)]);
            }
            x = ConvLayer::trace_chain(chain, graph, format!("down.{i}"), &x);
            seen.push(x.clone());
        }
        let sum = |graph: &mut Graph, x: &Traced, coarse: &Traced| {
            let coarse = graph.resize_bilinear(coarse, [x.shape[1], x.shape[2]]);
            graph.add(x, &coarse)
        };
        let context = self.context.trace(graph, "context", &levels[levels.len() - 1]);
        let joined = sum(graph, &x, &context);
        x = ConvLayer::trace_chain(&self.bottom, graph, "bottom", &joined);
        for (i, chain) in self.up.iter().enumerate().rev() {
            let lateral = self.lateral[i].trace(graph, format!("lateral.{i}"), &x);
            let joined = sum(graph, &seen[i], &lateral);
            x = ConvLayer::trace_chain(chain, graph, format!("up.{i}"), &joined);
        }
        graph.resize_bilinear(&x, self.output)
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        for (path, chain) in self.chains() {
            chain.iter().enumerate().for_each(|(i, layer)| visit(&format!("{path}.{i}.conv"), &layer.conv));
        }
        visit("context", &self.context);
        self.lateral.iter().enumerate().for_each(|(i, layer)| visit(&format!("lateral.{i}"), layer));
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        for (path, chain) in self.chains_mut() {
            chain.iter_mut().enumerate().for_each(|(i, layer)| visit(&format!("{path}.{i}.conv"), &mut layer.conv));
        }
        visit("context", &mut self.context);
        self.lateral.iter_mut().enumerate().for_each(|(i, layer)| visit(&format!("lateral.{i}"), layer));
    }

    fn own_dropout(&mut self) {}

    fn seed_dropout(&self, _seed: u64) {}

    /// Convolution, norm and activation of every layer, the resized input and the sum of every stage on either way.
    fn activation_elements(&self, grids: &[[usize; 2]]) -> usize {
        let pixels = self.pixels * grids.last().map_or(0, |[rows, columns]| rows * columns);
        let convolutions = self.bottom.len();
        let stages = self.channels.iter().enumerate().map(|(i, channels)| {
            let cells = pixels / (self.stride << i).pow(2);
            2 * channels * cells * (3 * convolutions + 2)
        });
        let [height, width] = self.output;
        stages.sum::<usize>() + self.channels.first().map_or(0, |channels| channels * height * width)
    }
}

fn run(chain: &[ConvLayer], x: Tensor<4>) -> Tensor<4> {
    chain.iter().fold(x, |x, layer| layer.forward(x))
}

/// Blocks of `side × side` pixels as channels: `[batch, channels, height, width]` →
/// `[batch, channels · side², height / side, width / side]`. Nothing is lost, and what follows runs at a lower resolution.
/// Rows and columns that fill no block are left out.
fn blocks_as_channels(x: Tensor<4>, side: usize) -> Tensor<4> {
    if side == 1 {
        return x;
    }
    let [batch, channels, height, width] = x.dims();
    let [rows, columns] = [height / side, width / side];
    let x = x.slice([0..batch, 0..channels, 0..rows * side, 0..columns * side]);
    let x = x.reshape([batch, channels, rows, side, columns, side]).permute([0, 1, 3, 5, 2, 4]);
    x.reshape([batch, channels * side * side, rows, columns])
}

/// [`blocks_as_channels`] as part of a graph.
fn trace_blocks_as_channels(graph: &mut Graph, x: &Traced, side: usize) -> Traced {
    if side == 1 {
        return x.clone();
    }
    let [rows, columns] = [x.shape[1] / side, x.shape[2] / side];
    let channels = x.shape[0];
    let x = graph.slice(x, 2, 0..rows * side);
    let x = graph.slice(&x, 3, 0..columns * side);
    let x = graph.reshape(&x, &[channels, rows, side, columns, side]);
    let x = graph.transpose(&x, &[0, 1, 3, 5, 2, 4]);
    graph.reshape(&x, &[channels * side * side, rows, columns])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn blocks_become_channels_in_the_order_of_pixel_unshuffle() {
        let values: Vec<f32> = (0..2 * 2 * 5).map(|i| i as f32).collect();
        let x = Tensor::<4>::from_data(TensorData::new(values, [1, 2, 2, 5]), &Device::flex());
        let y = blocks_as_channels(x.clone(), 2);
        assert_eq!(y.dims(), [1, 8, 1, 2]);
        // torch.nn.functional.pixel_unshuffle of the first four columns.
        let expected = [0., 2., 1., 3., 5., 7., 6., 8., 10., 12., 11., 13., 15., 17., 16., 18.];
        assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), expected);
        assert_eq!(blocks_as_channels(x.clone(), 1).into_data(), x.into_data());
    }
}
