//! The `fpn` decoder: a feature pyramid network (Lin et al. 2017, <https://arxiv.org/abs/1612.03144>) with the names and the
//! arithmetic of torchvision's, whose levels become one map.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::{FpnConfig, Fuse};
use crate::models::ModelError;
use crate::models::features::{Features, Layout};
use crate::models::graph::{Graph, Traced};
use crate::models::lora::{AdaptableLayer, LoraLayer};
use crate::models::nn::{Builder, Conv2d, ConvSpec, Fill};

use super::levels::check_channels;
use super::resize::{resize_bilinear, resize_nearest, trace_nearest};
use super::{Decoder, DecoderNetwork, DecoderSpec};

/// A pyramid, and how its levels become one map.
#[derive(Debug, Clone)]
pub struct PyramidSpec {
    /// Channels of the levels that it is built on, finest first.
    pub channels: Vec<usize>,
    /// Channels of each of its own levels.
    pub lateral: usize,
    /// How they become one map.
    pub fuse: Fuse,
    /// `[height, width]` of that map.
    pub output: [usize; 2],
}

impl PyramidSpec {
    /// The 1×1 convolution of concatenated levels, where they are concatenated.
    pub(super) fn reduce(&self, builder: &Builder<'_>) -> Option<LoraLayer<Conv2d>> {
        let channels = [self.channels.len() * self.lateral, self.lateral];
        (self.fuse == Fuse::Concat).then(|| convolution(channels, 1, &builder.at("reduce")))
    }

    /// Elements that a forward pass keeps: three maps of each level, and each level at the size of the output.
    pub(super) fn activation_elements(&self, grids: &[[usize; 2]]) -> usize {
        let cells: usize = grids.iter().map(|[rows, columns]| rows * columns).sum();
        let [height, width] = self.output;
        self.lateral * (3 * cells + (grids.len() + 1) * height * width)
    }
}

/// The decoder's plan.
#[derive(Debug, Clone)]
pub struct FpnSpec {
    pyramid: PyramidSpec,
}

impl FpnSpec {
    /// Checks a configuration against the levels of a backbone and the size `[W, H]` of the heatmap.
    ///
    /// # Errors
    /// `in_channels` that are not those of the levels.
    pub fn new(config: &FpnConfig, layout: &Layout, [width, height]: [usize; 2]) -> Result<Self, ModelError> {
        let channels = check_channels("model.fpn", config.in_channels.as_deref(), layout)?;
        let pyramid = PyramidSpec { channels, lateral: config.lateral_dim, fuse: config.fuse, output: [height, width] };
        Ok(Self { pyramid })
    }
}

impl DecoderSpec for FpnSpec {
    fn output_channels(&self) -> usize {
        self.pyramid.lateral
    }

    fn build(&self, builder: &Builder<'_>) -> Decoder {
        Decoder::Fpn(FpnDecoder {
            fpn: FeaturePyramid::new(&self.pyramid, &builder.at("fpn")),
            reduce: self.pyramid.reduce(builder),
            spec: self.pyramid.clone(),
        })
    }
}

/// A feature pyramid whose levels become one map.
#[derive(Module, Debug)]
pub struct FpnDecoder {
    fpn: FeaturePyramid,
    reduce: Option<LoraLayer<Conv2d>>,
    #[module(skip)]
    spec: PyramidSpec,
}

impl DecoderNetwork for FpnDecoder {
    fn forward(&self, features: Features, _frames: Tensor<4>) -> Tensor<4> {
        let maps = features.levels.into_iter().map(|level| level.map).collect();
        fuse(self.fpn.forward(maps), self.reduce.as_ref(), self.spec.output)
    }

    fn trace(&self, graph: &mut Graph, levels: &[Traced], _frames: &Traced) -> Traced {
        let maps = self.fpn.trace(graph, levels);
        trace_fuse(graph, &maps, self.reduce.as_ref(), self.spec.output)
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        self.fpn.visit_layers(visit);
        self.reduce.iter().for_each(|layer| visit("reduce", layer));
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        self.fpn.visit_layers_mut(visit);
        self.reduce.iter_mut().for_each(|layer| visit("reduce", layer));
    }

    fn own_dropout(&mut self) {}

    fn seed_dropout(&self, _seed: u64) {}

    fn activation_elements(&self, grids: &[[usize; 2]]) -> usize {
        self.spec.activation_elements(grids)
    }
}

/// A convolution with a bias, initialized as torchvision does: Kaiming uniform with `a = 1`.
fn convolution(channels: [usize; 2], kernel: usize, builder: &Builder<'_>) -> LoraLayer<Conv2d> {
    let fill = Fill::kaiming_uniform_linear(channels[0] * kernel * kernel);
    LoraLayer::new(ConvSpec::square(channels, kernel).with_bias().with_fill(fill).build(builder))
}

/// The pyramid: a 1×1 convolution of each level plus the next coarser result, and a 3×3 convolution of that. The arrays of one
/// element are torchvision's containers of a convolution without norm and activation.
#[derive(Module, Debug)]
pub struct FeaturePyramid {
    inner_blocks: Vec<[LoraLayer<Conv2d>; 1]>,
    layer_blocks: Vec<[LoraLayer<Conv2d>; 1]>,
}

impl FeaturePyramid {
    /// A pyramid on the levels of `spec`.
    pub fn new(spec: &PyramidSpec, builder: &Builder<'_>) -> Self {
        let block = |name: &str, i: usize, input: usize, kernel: usize| {
            [convolution([input, spec.lateral], kernel, &builder.at(name).at(i).at(0))]
        };
        let levels = || spec.channels.iter().enumerate();
        Self {
            inner_blocks: levels().map(|(i, &channels)| block("inner_blocks", i, channels, 1)).collect(),
            layer_blocks: levels().map(|(i, _)| block("layer_blocks", i, spec.lateral, 3)).collect(),
        }
    }

    /// `[batch, channels of the level, height, width]` of each level, finest first → `[batch, lateral, height, width]` of each.
    pub fn forward(&self, maps: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        let blocks = self.inner_blocks.iter().zip(&self.layer_blocks);
        let mut coarser: Option<Tensor<4>> = None;
        let mut levels: Vec<Tensor<4>> = maps
            .into_iter()
            .zip(blocks)
            .rev()
            .map(|(map, ([inner], [layer]))| {
                let x = inner.forward(map);
                let [_, _, height, width] = x.dims();
                let x = match coarser.take() {
                    Some(coarser) => x + resize_nearest(coarser, [height, width]),
                    None => x,
                };
                coarser = Some(x.clone());
                layer.forward(x)
            })
            .collect();
        levels.reverse();
        levels
    }

    /// [`FeaturePyramid::forward`] as part of a graph, without adapters.
    pub(super) fn trace(&self, graph: &mut Graph, maps: &[Traced]) -> Vec<Traced> {
        let blocks = self.inner_blocks.iter().zip(&self.layer_blocks);
        let mut coarser: Option<Traced> = None;
        let mut levels: Vec<Traced> = maps
            .iter()
            .zip(blocks)
            .enumerate()
            .rev()
            .map(|(i, (map, ([inner], [layer])))| {
                let x = inner.trace(graph, format!("fpn.inner_blocks.{i}.0"), map);
                let x = match coarser.take() {
                    Some(coarser) => {
                        let coarser = trace_nearest(graph, &coarser, [x.shape[1], x.shape[2]]);
                        graph.add(&x, &coarser)
                    }
                    None => x,
                };
                coarser = Some(x.clone());
                layer.trace(graph, format!("fpn.layer_blocks.{i}.0"), &x)
            })
            .collect();
        levels.reverse();
        levels
    }

    /// Visits its convolutions, by their paths below the decoder.
    pub(super) fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        for (name, blocks) in [("inner_blocks", &self.inner_blocks), ("layer_blocks", &self.layer_blocks)] {
            blocks.iter().enumerate().for_each(|(i, [layer])| visit(&format!("fpn.{name}.{i}.0"), layer));
        }
    }

    /// As [`FeaturePyramid::visit_layers`], to change them.
    pub(super) fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        for (name, blocks) in [("inner_blocks", &mut self.inner_blocks), ("layer_blocks", &mut self.layer_blocks)] {
            blocks.iter_mut().enumerate().for_each(|(i, [layer])| visit(&format!("fpn.{name}.{i}.0"), layer));
        }
    }
}

/// Levels `[batch, channels, height, width]` as one map of size `output`: each is resized, and then they are added, or
/// concatenated and reduced by a 1×1 convolution.
///
/// A resize works on each channel and its weights sum to one, so that it commutes with the convolution: each level goes through
/// its part of the convolution at its own size, and nothing needs to be concatenated.
pub(super) fn fuse(maps: Vec<Tensor<4>>, reduce: Option<&LoraLayer<Conv2d>>, output: [usize; 2]) -> Tensor<4> {
    let at_output = |level: usize| {
        let map = maps[level].clone();
        let channels = map.dims()[1];
        let map = match reduce {
            Some(reduce) => reduce.forward_channels(map, level * channels..(level + 1) * channels),
            None => map,
        };
        resize_bilinear(map, output)
    };
    let sum = (1..maps.len()).fold(at_output(0), |sum, level| sum + at_output(level));
    match reduce {
        Some(reduce) => reduce.base.add_bias(sum),
        None => sum,
    }
}

/// [`fuse`] as part of a graph, without adapters.
pub(super) fn trace_fuse(
    graph: &mut Graph,
    maps: &[Traced],
    reduce: Option<&LoraLayer<Conv2d>>,
    output: [usize; 2],
) -> Traced {
    let at_output = |graph: &mut Graph, level: usize| {
        let map = &maps[level];
        let channels = map.shape[0];
        let map = match reduce {
            Some(reduce) => reduce.trace_channels(graph, "reduce", map, level * channels..(level + 1) * channels),
            None => map.clone(),
        };
        graph.resize_bilinear(&map, output)
    };
    let first = at_output(graph, 0);
    let sum = (1..maps.len()).fold(first, |sum, level| {
        let map = at_output(graph, level);
        graph.add(&sum, &map)
    });
    match reduce {
        Some(reduce) => graph.within("reduce", |graph| reduce.base.trace_bias(graph, sum)),
        None => sum,
    }
}
