//! DINOv3 ConvNeXt (`dinov3_convnext`): the network of Liu et al., 2022 (<https://arxiv.org/abs/2201.03545>), as
//! `transformers` computes it.
//!
//! Each stage halves the resolution of the one before (the first is at a quarter of the frame's) and gives one level of
//! features. Between convolutions everything works on cells, so features are kept as rows of channels,
//! `[batch, rows · columns, channels]`, and turned into maps for the decoder only.

#[cfg(feature = "flex")]
mod frozen;
mod spec;
#[cfg(all(test, feature = "flex"))]
mod tests;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tracknet_kernels::residual::add_scaled;
#[cfg(feature = "flex")]
use tracknet_kernels::{ComputeDtype, block::frozen_mlp};

use crate::compute::is_cpu;
use crate::models::features::{Features, Level};
use crate::models::graph::{Graph, Traced};
use crate::models::lora::{AdaptableLayer, LoraLayer};
use crate::models::nn::{Activation, Builder, Conv2d, ConvSpec, Fill, LayerNorm, Linear};

use super::BackboneNetwork;
pub use spec::ConvNextSpec;
pub(in crate::models) use spec::{Config, FAMILY, describe};

/// Stages of downsampling and layers.
///
/// It has no drop path: a backbone, frozen or not, always runs as in evaluation.
#[derive(Module, Debug)]
pub struct ConvNext {
    stages: Vec<Stage>,
    /// Of the tokens only; features are not normalized.
    layer_norm: LayerNorm,
    #[module(skip)]
    spec: ConvNextSpec,
    #[module(skip)]
    checkpointing: bool,
}

/// A feature map as rows of channels.
#[derive(Debug, Clone)]
struct Cells {
    /// `[batch, rows · columns, channels]`.
    values: Tensor<3>,
    /// Rows and columns.
    grid: [usize; 2],
}

impl ConvNext {
    /// Builds what `spec` describes; the builder gives the values.
    pub fn new(spec: &ConvNextSpec, builder: &Builder<'_>) -> Self {
        let stage = |i| Stage::new(spec, i, &builder.at("stages").at(i));
        Self {
            stages: (0..spec.channels.len()).map(stage).collect(),
            layer_norm: LayerNorm::new(spec.last_channels(), spec.epsilon, &builder.at("layer_norm")),
            spec: spec.clone(),
            checkpointing: false,
        }
    }

    /// Whether what follows the depthwise convolutions runs as one operation of the CPU's kernels.
    fn has_frozen_layers(&self) -> bool {
        #[cfg(feature = "flex")]
        {
            let mut layers = self.stages.iter().flat_map(|stage| &stage.layers);
            layers.any(|layer| layer.is_frozen(self.spec.activation))
        }
        #[cfg(not(feature = "flex"))]
        false
    }

    /// The features after each of the first `stages` stages, finest first, are handed to `each` with their number from 0; those
    /// of the last one come back. `added`, `[batch, channels, rows, columns]`, goes on what the convolution of the first stage
    /// gives.
    fn run(
        &self,
        images: Tensor<4>,
        added: Option<Tensor<4>>,
        stages: usize,
        mut each: impl FnMut(usize, &Cells),
    ) -> Cells {
        let [_, _, height, width] = images.dims();
        let pixels = Cells { values: to_rows(images), grid: [height, width] };
        let mut added = added.map(to_rows);
        self.stages.iter().take(stages).enumerate().fold(pixels, |cells, (i, stage)| {
            let cells = stage.forward(cells, added.take(), self.spec.activation, self.checkpointing);
            each(i, &cells);
            cells
        })
    }
}

impl Cells {
    /// `[batch, channels, rows, columns]`.
    fn into_map(self) -> Tensor<4> {
        to_map(self.values, self.grid)
    }

    /// The squares of `side` cells that lie side by side, as rows `[squares, channels · side · side]`, and their grid. Cells
    /// that fill no square, at the right and at the bottom, are left out.
    fn squares(self, side: usize) -> (Tensor<2>, [usize; 2]) {
        let [batch, _, channels] = self.values.dims();
        let [rows, columns] = self.grid;
        let grid = [rows / side, columns / side];
        let [above, beside] = grid;
        let map = self.values.reshape([batch, rows, columns, channels]);
        let map = match (above * side, beside * side) == (rows, columns) {
            true => map,
            false => map.slice([0..batch, 0..above * side, 0..beside * side, 0..channels]),
        };
        let squares = map.reshape([batch, above, side, beside, side, channels]).permute([0, 1, 3, 5, 2, 4]);
        (squares.reshape([batch * above * beside, channels * side * side]), grid)
    }
}

/// `[batch, channels, rows, columns]` → `[batch, rows · columns, channels]`.
fn to_rows(map: Tensor<4>) -> Tensor<3> {
    let [batch, channels, rows, columns] = map.dims();
    map.reshape([batch, channels, rows * columns]).swap_dims(1, 2)
}

/// `[batch, rows · columns, channels]` → `[batch, channels, rows, columns]`.
fn to_map(rows: Tensor<3>, grid: [usize; 2]) -> Tensor<4> {
    let [batch, _, channels] = rows.dims();
    rows.swap_dims(1, 2).reshape([batch, channels, grid[0], grid[1]])
}

/// Downsampling, then layers.
#[derive(Module, Debug)]
struct Stage {
    /// Before the convolution, but in the first stage after it.
    norm: LayerNorm,
    conv: LoraLayer<Conv2d>,
    layers: Vec<Layer>,
    #[module(skip)]
    is_first: bool,
}

impl Stage {
    fn new(spec: &ConvNextSpec, index: usize, builder: &Builder<'_>) -> Self {
        let is_first = index == 0;
        let channels = spec.channels[index];
        let input = if is_first { 3 } else { spec.channels[index - 1] };
        let conv = ConvSpec::patches([input, channels], spec.downsampling(index), spec.initializer_range);
        let layer = |j| Layer::new(spec, channels, &builder.at("layers").at(j));
        Self {
            norm: LayerNorm::new(if is_first { channels } else { input }, spec.epsilon, &builder.at("norm")),
            conv: LoraLayer::new(conv.build(&builder.at("conv"))),
            layers: (0..spec.depths[index]).map(layer).collect(),
            is_first,
        }
    }

    fn forward(&self, cells: Cells, added: Option<Tensor<3>>, activation: Activation, checkpoint: bool) -> Cells {
        let Cells { values, grid } = self.downsample(cells, added);
        let values = self.layers.iter().fold(values, |x, layer| layer.forward(x, grid, activation, checkpoint));
        Cells { values, grid }
    }

    /// Kernels do not overlap, so the convolution is one matrix product; `added`, `[batch, rows · columns, channels]`, goes on
    /// what it gives.
    fn downsample(&self, cells: Cells, added: Option<Tensor<3>>) -> Cells {
        let batch = cells.values.dims()[0];
        let cells = if self.is_first { cells } else { self.normalize(cells) };
        let side = self.conv.base.weight.lazy_shape()[3];
        let (squares, grid) = cells.squares(side);
        let y = self.conv.forward_patches(squares);
        let channels = y.dims()[1];
        let y = y.reshape([batch, grid[0] * grid[1], channels]);
        let values = match added {
            Some(added) => y + added,
            None => y,
        };
        let cells = Cells { values, grid };
        if self.is_first { self.normalize(cells) } else { cells }
    }

    fn normalize(&self, cells: Cells) -> Cells {
        Cells { values: self.norm.forward(cells.values), ..cells }
    }

    /// [`Stage::forward`] as part of a graph, on maps `[channels, rows, columns]`.
    fn trace(&self, graph: &mut Graph, x: &Traced, added: Option<&Traced>, activation: Activation) -> Traced {
        let normalized = |graph: &mut Graph, x: &Traced| {
            on_cells(graph, x, |graph, x| graph.within("norm", |graph| self.norm.trace(graph, &x)))
        };
        let x = if self.is_first { x.clone() } else { normalized(graph, x) };
        let mut x = self.conv.trace(graph, "conv", &x);
        if let Some(added) = added {
            x = graph.add(&x, added);
        }
        let x = if self.is_first { normalized(graph, &x) } else { x };
        self.layers
            .iter()
            .enumerate()
            .fold(x, |x, (i, layer)| graph.within(format!("layers.{i}"), |graph| layer.trace(graph, &x, activation)))
    }
}

/// What `f` makes of the cells of a map, in a graph: `[channels, rows, columns]`, as `[rows, columns, channels]`, and back.
fn on_cells(graph: &mut Graph, map: &Traced, f: impl FnOnce(&mut Graph, Traced) -> Traced) -> Traced {
    let cells = graph.transpose(map, &[0, 2, 3, 1]);
    let cells = f(graph, cells);
    graph.transpose(&cells, &[0, 3, 1, 2])
}

/// `x + gamma ∘ pointwise2(act(pointwise1(norm(depthwise(x)))))`.
#[derive(Module, Debug)]
struct Layer {
    depthwise_conv: Conv2d,
    layer_norm: LayerNorm,
    pointwise_conv1: LoraLayer<Linear>,
    pointwise_conv2: LoraLayer<Linear>,
    gamma: Param<Tensor<1>>,
}

impl Layer {
    /// Pixels of the depthwise kernel's edge.
    const KERNEL: usize = 7;
    /// The hidden features of the two pointwise convolutions, as a multiple of the channels.
    const EXPANSION: usize = 4;

    fn new(spec: &ConvNextSpec, channels: usize, builder: &Builder<'_>) -> Self {
        let deviation = spec.initializer_range;
        let depthwise = ConvSpec::square([channels, channels], Self::KERNEL).depthwise().with_bias();
        let inner = Self::EXPANSION * channels;
        let linear = |name: &str, shape| LoraLayer::new(Linear::new(shape, true, deviation, &builder.at(name)));
        Self {
            depthwise_conv: depthwise.with_fill(Fill::TruncatedNormal(deviation)).build(&builder.at("depthwise_conv")),
            layer_norm: LayerNorm::new(channels, spec.epsilon, &builder.at("layer_norm")),
            pointwise_conv1: linear("pointwise_conv1", [inner, channels]),
            pointwise_conv2: linear("pointwise_conv2", [channels, inner]),
            gamma: builder.param("gamma", [channels], Fill::Constant(spec.layer_scale)),
        }
    }

    /// `[batch, rows · columns, channels]` → the same shape; with `checkpoint`, a frozen layer keeps less for the backward pass.
    fn forward(&self, x: Tensor<3>, grid: [usize; 2], activation: Activation, checkpoint: bool) -> Tensor<3> {
        let y = self.depthwise_conv.forward_cells(x.clone(), grid);
        #[cfg(feature = "flex")]
        if let Some(frozen) = self.frozen(&y, activation, checkpoint) {
            return frozen_mlp(x, y, frozen);
        }
        self.pointwise(x, y, activation)
    }

    /// `x + gamma ∘ pointwise2(act(pointwise1(norm(y))))`.
    fn pointwise(&self, x: Tensor<3>, y: Tensor<3>, activation: Activation) -> Tensor<3> {
        let y = self.pointwise_conv1.forward(self.layer_norm.forward(y));
        let y = self.pointwise_conv2.forward(activation.forward(y));
        add_scaled(x, y, self.gamma.val())
    }

    /// [`Layer::forward`] as part of a graph, on maps `[channels, rows, columns]`.
    fn trace(&self, graph: &mut Graph, x: &Traced, activation: Activation) -> Traced {
        let y = graph.within("depthwise_conv", |graph| self.depthwise_conv.trace(graph, x));
        let y = on_cells(graph, &y, |graph, y| {
            let y = graph.within("layer_norm", |graph| self.layer_norm.trace(graph, &y));
            let y = self.pointwise_conv1.trace(graph, "pointwise_conv1", &y);
            let y = activation.trace(graph, &y);
            let y = self.pointwise_conv2.trace(graph, "pointwise_conv2", &y);
            graph.with_tensor("Mul", &y, "gamma", self.gamma.val())
        });
        graph.add(x, &y)
    }

    /// The linear layers by the names of their fields.
    fn linears(&self) -> [(&'static str, &LoraLayer<Linear>); 2] {
        [("pointwise_conv1", &self.pointwise_conv1), ("pointwise_conv2", &self.pointwise_conv2)]
    }

    /// As [`Layer::linears`], to change them.
    fn linears_mut(&mut self) -> [(&'static str, &mut LoraLayer<Linear>); 2] {
        [("pointwise_conv1", &mut self.pointwise_conv1), ("pointwise_conv2", &mut self.pointwise_conv2)]
    }
}

impl BackboneNetwork for ConvNext {
    /// The features after each returned stage, as they are. Stages below the last of them are not computed. What is beyond the
    /// last whole cell, at the right and at the bottom, is not seen.
    fn forward(&self, images: Tensor<4>, added: Option<Tensor<4>>) -> Features {
        let mut levels = Vec::new();
        self.run(images, added, self.spec.last_stage(), |i, cells| {
            if self.spec.stages.contains(&(i + 1)) {
                levels.push(Level { map: cells.clone().into_map(), stride: self.spec.stride(i) });
            }
        });
        Features { levels }
    }

    /// The mean over the cells of the last stage, then the cells, all after the final norm.
    fn tokens(&self, images: Tensor<4>) -> Tensor<3> {
        let cells = self.run(images, None, self.stages.len(), |_, _| {}).values;
        self.layer_norm.forward(Tensor::cat(vec![cells.clone().mean_dim(1), cells], 1))
    }

    fn trace(&self, graph: &mut Graph, images: &Traced, added: Option<&Traced>) -> Vec<Traced> {
        let (mut x, mut levels) = (images.clone(), Vec::new());
        for (i, stage) in self.stages.iter().take(self.spec.last_stage()).enumerate() {
            let added = added.filter(|_| i == 0);
            x = graph.within(format!("stages.{i}"), |graph| stage.trace(graph, &x, added, self.spec.activation));
            if self.spec.stages.contains(&(i + 1)) {
                levels.push(x.clone());
            }
        }
        levels
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        for (i, stage) in self.stages.iter().enumerate() {
            for (j, layer) in stage.layers.iter().enumerate() {
                layer.linears().into_iter().for_each(|(name, x)| visit(&format!("stages.{i}.layers.{j}.{name}"), x));
            }
        }
        self.stages.iter().enumerate().for_each(|(i, stage)| visit(&format!("stages.{i}.conv"), &stage.conv));
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        for (i, stage) in self.stages.iter_mut().enumerate() {
            for (j, layer) in stage.layers.iter_mut().enumerate() {
                let linears = layer.linears_mut().into_iter();
                linears.for_each(|(name, x)| visit(&format!("stages.{i}.layers.{j}.{name}"), x));
            }
        }
        self.stages.iter_mut().enumerate().for_each(|(i, stage)| visit(&format!("stages.{i}.conv"), &mut stage.conv));
    }

    fn use_bfloat16(&mut self) -> bool {
        #[cfg(feature = "flex")]
        {
            let fast = tracknet_kernels::block::has_bfloat16();
            let dtype = if fast { ComputeDtype::Bf16 } else { ComputeDtype::F32 };
            let layers = self.stages.iter_mut().flat_map(|stage| &mut stage.layers).flat_map(Layer::linears_mut);
            layers.for_each(|(_, layer)| layer.base.set_dense_dtype(dtype));
            fast && self.has_frozen_layers()
        }
        #[cfg(not(feature = "flex"))]
        false
    }

    fn use_gradient_checkpointing(&mut self) -> bool {
        self.checkpointing = true;
        self.has_frozen_layers()
    }

    /// Counted per layer from the tensors that its forward makes.
    fn activation_bytes(&self, input: [usize; 2], trains: bool, checkpointing: bool, device: &Device) -> usize {
        let inner = Layer::EXPANSION;
        // Bytes per value of a map: while a layer is computed, and from then on until the backward pass.
        let (working, kept) = match (is_cpu(device), self.has_frozen_layers()) {
            // Residual stream, convolution and output in float32; in bfloat16 the normalized rows, and the inner features before
            // and behind the activation. Kept are the convolution and, without checkpointing, rows and inner features once; as
            // much as a map again for adapters, masks and what the allocator keeps.
            (true, true) => (4 * 3 + 2 + 4 * inner, if checkpointing { 4 * 2 } else { 4 * 2 + 2 + 2 * inner }),
            // Input, convolution, norm, output, residual, the gradient on its way, and the inner features twice.
            (true, false) => (4 * (6 + 2 * inner), 4 * (6 + 2 * inner)),
            // Besides, the map before and after the convolution.
            (false, _) => (4 * (8 + 2 * inner), 4 * (8 + 2 * inner)),
        };
        let stages = (0..self.spec.last_stage()).map(|i| {
            let stride = self.spec.stride(i);
            let values = (input[0] / stride) * (input[1] / stride) * self.spec.channels[i];
            [values * working, values * kept * self.spec.depths[i]]
        });
        let largest = stages.clone().map(|[layer, _]| layer).max().unwrap_or_default();
        let all = stages.map(|[_, stage]| stage).sum::<usize>();
        match trains {
            // What is computed again is there once.
            true if checkpointing => all + largest,
            true => all,
            false => largest,
        }
    }
}
