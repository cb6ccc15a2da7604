//! The `hrnet` decoder: one branch for each level, which keep their resolutions and exchange what they see (Sun et al. 2019,
//! <https://arxiv.org/abs/1902.09212>).

use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::{HrnetConfig, Norm};
use crate::models::ModelError;
use crate::models::features::{Features, Layout};
use crate::models::graph::{Graph, Traced};
use crate::models::lora::{AdaptableLayer, LoraLayer};
use crate::models::nn::{Activation, Builder, Conv2d, ConvSpec};

use super::conv_layer::ConvLayer;
use super::levels::{check_channels, check_count};
use super::resize::resize_bilinear;
use super::{Decoder, DecoderNetwork, DecoderSpec};

/// The decoder's plan.
#[derive(Debug, Clone)]
pub struct HrnetSpec {
    channels: Vec<usize>,
    widths: Vec<usize>,
    units: usize,
    out_channels: usize,
    output: [usize; 2],
}

impl HrnetSpec {
    /// Checks a configuration against the levels of a backbone and the size `[W, H]` of the heatmap.
    ///
    /// # Errors
    /// Another number of branches than levels, or `in_channels` that are not those of the levels.
    pub fn new(config: &HrnetConfig, layout: &Layout, [width, height]: [usize; 2]) -> Result<Self, ModelError> {
        check_count("model.hrnet.widths", config.widths.len(), layout)?;
        Ok(Self {
            channels: check_channels("model.hrnet", config.in_channels.as_deref(), layout)?,
            widths: config.widths.clone(),
            units: config.num_units,
            out_channels: config.out_channels.or(config.widths.first().copied()).unwrap_or_default(),
            output: [height, width],
        })
    }
}

impl DecoderSpec for HrnetSpec {
    fn output_channels(&self) -> usize {
        self.out_channels
    }

    fn build(&self, builder: &Builder<'_>) -> Decoder {
        let lateral = |i: usize| {
            let convolution = ConvSpec::square([self.channels[i], self.widths[i]], 1);
            conv_layer(convolution, self.widths[i], &builder.at("lateral").at(i))
        };
        let unit = |j: usize| {
            let fused = if j + 1 == self.units { 1 } else { self.widths.len() };
            ExchangeUnit::new(&self.widths, fused, &builder.at("units").at(j))
        };
        let head = ConvSpec::square([self.widths[0], self.out_channels], 3).with_bias();
        Decoder::Hrnet(HrnetDecoder {
            lateral: (0..self.widths.len()).map(lateral).collect(),
            units: (0..self.units).map(unit).collect(),
            head: LoraLayer::new(head.build(&builder.at("head"))),
            output: self.output,
            widths: self.widths.clone(),
        })
    }
}

/// Branches of several resolutions; the finest, which has heard from all others, goes to the head.
#[derive(Module, Debug)]
pub struct HrnetDecoder {
    lateral: Vec<ConvLayer>,
    units: Vec<ExchangeUnit>,
    head: LoraLayer<Conv2d>,
    #[module(skip)]
    output: [usize; 2],
    #[module(skip)]
    widths: Vec<usize>,
}

impl HrnetDecoder {
    /// The convolutions with norm and activation, by their paths below the decoder.
    fn blocks(&self) -> Vec<(String, &ConvLayer)> {
        let lateral = self.lateral.iter().enumerate().map(|(i, block)| (format!("lateral.{i}"), block));
        let units = self.units.iter().enumerate().flat_map(|(j, unit)| {
            unit.blocks().into_iter().map(move |(path, block)| (format!("units.{j}.{path}"), block))
        });
        lateral.chain(units).collect()
    }

    /// As [`HrnetDecoder::blocks`], to change them.
    fn blocks_mut(&mut self) -> Vec<(String, &mut ConvLayer)> {
        let lateral = self.lateral.iter_mut().enumerate().map(|(i, block)| (format!("lateral.{i}"), block));
        let units = self.units.iter_mut().enumerate().flat_map(|(j, unit)| {
            unit.blocks_mut().into_iter().map(move |(path, block)| (format!("units.{j}.{path}"), block))
        });
        lateral.chain(units).collect()
    }
}

impl DecoderNetwork for HrnetDecoder {
    fn forward(&self, features: Features, _frames: Tensor<4>) -> Tensor<4> {
        let levels = features.levels.into_iter().zip(&self.lateral);
        let maps = levels.map(|(level, lateral)| lateral.forward(level.map)).collect();
        let maps: Vec<Tensor<4>> = self.units.iter().fold(maps, |maps, unit| unit.forward(maps));
        resize_bilinear(self.head.forward(maps[0].clone()), self.output)
    }

    fn trace(&self, graph: &mut Graph, levels: &[Traced], _frames: &Traced) -> Traced {
        let laterals = levels.iter().zip(&self.lateral).enumerate();
        let maps = laterals.map(|(i, (map, lateral))| lateral.trace(graph, format!("lateral.{i}"), map)).collect();
        let maps: Vec<Traced> = self
            .units
            .iter()
            .enumerate()
            .fold(maps, |maps, (j, unit)| graph.within(format!("units.{j}"), |graph| unit.trace(graph, &maps)));
        let x = self.head.trace(graph, "head", &maps[0]);
        graph.resize_bilinear(&x, self.output)
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        self.blocks().into_iter().for_each(|(path, block)| visit(&format!("{path}.conv"), &block.conv));
        visit("head", &self.head);
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        self.blocks_mut().into_iter().for_each(|(path, block)| visit(&format!("{path}.conv"), &mut block.conv));
        visit("head", &mut self.head);
    }

    fn own_dropout(&mut self) {}

    fn seed_dropout(&self, _seed: u64) {}

    /// Convolution, norm, activation and sum of each branch, once for every branch that it hears from; output of the head.
    fn activation_elements(&self, grids: &[[usize; 2]]) -> usize {
        let cells = |[rows, columns]: [usize; 2]| rows * columns;
        let branches = grids.iter().zip(&self.widths).map(|(grid, width)| cells(*grid) * width);
        let each: usize = branches.sum();
        let head = self.head.base.shape()[0] * (grids.first().copied().map_or(0, cells) + cells(self.output));
        4 * each * (1 + self.units.len() * (1 + self.widths.len())) + head
    }
}

/// A 3×3 convolution of each branch, then the sum of what each branch tells the others.
#[derive(Module, Debug)]
struct ExchangeUnit {
    branch_ops: Vec<ConvLayer>,
    /// From branch `i` to branch `k`, as `[k][i]`: nothing to itself, strided convolutions to a coarser one, a 1×1 convolution
    /// to a finer one.
    fuse_layers: Vec<Vec<Vec<ConvLayer>>>,
}

impl ExchangeUnit {
    /// A unit that gives the finest `fused` branches: the last one is heard by the head alone.
    fn new(widths: &[usize], fused: usize, builder: &Builder<'_>) -> Self {
        let branch = |(i, &width): (usize, &usize)| {
            conv_layer(ConvSpec::square([width, width], 3), width, &builder.at("branch_ops").at(i))
        };
        let fuse = |k: usize| {
            let builder = builder.at("fuse_layers").at(k);
            (0..widths.len()).map(|i| exchange(widths, [i, k], &builder.at(i))).collect()
        };
        Self {
            branch_ops: widths.iter().enumerate().map(branch).collect(),
            fuse_layers: (0..fused).map(fuse).collect(),
        }
    }

    fn forward(&self, maps: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        let maps: Vec<Tensor<4>> = maps.into_iter().zip(&self.branch_ops).map(|(map, op)| op.forward(map)).collect();
        let fused = self.fuse_layers.iter().enumerate().map(|(k, from)| {
            let [_, _, height, width] = maps[k].dims();
            let others = from.iter().enumerate().filter(|(i, _)| *i != k);
            others.fold(maps[k].clone(), |sum, (i, chain)| {
                let heard = chain.iter().fold(maps[i].clone(), |x, op| op.forward(x));
                sum + resize_bilinear(heard, [height, width])
            })
        });
        fused.collect()
    }

    fn trace(&self, graph: &mut Graph, maps: &[Traced]) -> Vec<Traced> {
        let branches = maps.iter().zip(&self.branch_ops).enumerate();
        let maps: Vec<Traced> =
            branches.map(|(i, (map, op))| op.trace(graph, format!("branch_ops.{i}"), map)).collect();
        let fused = self.fuse_layers.iter().enumerate().map(|(k, from)| {
            let others = from.iter().enumerate().filter(|(i, _)| *i != k);
            others.fold(maps[k].clone(), |sum, (i, chain)| {
                let heard = ConvLayer::trace_chain(chain, graph, format!("fuse_layers.{k}.{i}"), &maps[i]);
                let heard = graph.resize_bilinear(&heard, [sum.shape[1], sum.shape[2]]);
                graph.add(&sum, &heard)
            })
        });
        fused.collect()
    }

    fn blocks(&self) -> Vec<(String, &ConvLayer)> {
        let mut blocks: Vec<_> =
            self.branch_ops.iter().enumerate().map(|(i, op)| (format!("branch_ops.{i}"), op)).collect();
        for (k, from) in self.fuse_layers.iter().enumerate() {
            for (i, chain) in from.iter().enumerate() {
                blocks.extend(chain.iter().enumerate().map(|(n, op)| (format!("fuse_layers.{k}.{i}.{n}"), op)));
            }
        }
        blocks
    }

    fn blocks_mut(&mut self) -> Vec<(String, &mut ConvLayer)> {
        let mut blocks: Vec<_> =
            self.branch_ops.iter_mut().enumerate().map(|(i, op)| (format!("branch_ops.{i}"), op)).collect();
        for (k, from) in self.fuse_layers.iter_mut().enumerate() {
            for (i, chain) in from.iter_mut().enumerate() {
                blocks.extend(chain.iter_mut().enumerate().map(|(n, op)| (format!("fuse_layers.{k}.{i}.{n}"), op)));
            }
        }
        blocks
    }
}

/// From branch `i` to branch `k`. On the way to a coarser one the channels change with the last of the strided convolutions.
fn exchange(widths: &[usize], [i, k]: [usize; 2], builder: &Builder<'_>) -> Vec<ConvLayer> {
    let (from, to) = (widths[i], widths[k]);
    if i > k {
        return vec![conv_layer(ConvSpec::square([from, to], 1), to, &builder.at(0))];
    }
    let halvings = k - i;
    let halving = |n: usize| {
        let output = if n + 1 == halvings { to } else { from };
        conv_layer(ConvSpec::square([from, output], 3).stride(2), output, &builder.at(n))
    };
    (0..halvings).map(halving).collect()
}

/// Convolution without bias, batch normalization, ReLU.
fn conv_layer(conv: ConvSpec, output: usize, builder: &Builder<'_>) -> ConvLayer {
    ConvLayer::new(conv, output, (Norm::Bn, Activation::Relu), builder)
}
