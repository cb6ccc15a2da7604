//! The vision transformer (Dosovitskiy et al., 2021, <https://arxiv.org/abs/2010.11929>) of every supported family.
//!
//! DINOv3, DINOv2 (with and without registers) and ViT are one module, [`Vit`]: what differs between them is data, a
//! [`VitSpec`] that each family's file reads from `config.json`, and the names in its [`Family`](super::Family).

mod block;
pub(in crate::models) mod dinov2;
pub(in crate::models) mod dinov3;
#[cfg(feature = "flex")]
mod frozen;
mod names;
pub(in crate::models) mod original;
mod position;
mod spec;
#[cfg(all(test, feature = "flex"))]
mod tests;

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value};
use tracknet_kernels::attention::Rotary;
#[cfg(feature = "flex")]
use tracknet_kernels::{ComputeDtype, block::frozen_block};

use crate::compute::is_cpu;
use crate::models::ModelError;
use crate::models::features::{Features, Level};
use crate::models::graph::{Graph, Traced};
use crate::models::lora::{AdaptableLayer, LoraLayer};
use crate::models::nn::{Builder, Conv2d, ConvSpec, Fill, LayerNorm, cast_to_dtype_of};

use super::{BackboneNetwork, BackboneSpec};
pub use block::Block;
use position::{resample_table, rotary, rotation};
pub use spec::{Biases, MlpKind, Position, Resampling, VitSpec};

/// Patches → tokens → blocks → a grid of features.
///
/// It has no dropout, drop path or position jitter: a backbone, frozen or not, always runs as in evaluation.
#[derive(Module, Debug)]
pub struct Vit {
    cls_token: Param<Tensor<3>>,
    register_tokens: Option<Param<Tensor<3>>>,
    position: Option<Param<Tensor<3>>>,
    patch: LoraLayer<Conv2d>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    #[module(skip)]
    spec: VitSpec,
    /// Whether blocks that run as one operation keep only their input for backward.
    #[module(skip)]
    checkpointing: bool,
}

/// The description that a family read from `config`, checked, and the keys that mean nothing to the family.
///
/// # Errors
/// What the family could not read, or sizes that cannot work together.
pub(in crate::models) fn describe(
    read: Result<(VitSpec, Vec<String>), ModelError>,
    config: &Map<String, Value>,
    key: &str,
) -> Result<(Arc<dyn BackboneSpec>, Vec<String>), ModelError> {
    let (spec, unknown) = read?;
    Ok((spec.of_config(config, key)?, unknown))
}

impl Vit {
    /// Builds what `spec` describes; the builder gives the values.
    pub fn new(spec: &VitSpec, builder: &Builder<'_>) -> Self {
        let token = Fill::TruncatedNormal(spec.initializer_range);
        let hidden = spec.hidden;
        let table = match spec.position {
            Position::Learned { grid, .. } => Some(1 + grid * grid),
            Position::Rope { .. } => None,
        };
        let patch = ConvSpec::patches([3, hidden], spec.patch, spec.initializer_range);
        Self {
            cls_token: builder.param("cls_token", [1, 1, hidden], token),
            register_tokens: (spec.registers > 0)
                .then(|| builder.param("register_tokens", [1, spec.registers, hidden], token)),
            position: table.map(|rows| builder.param("position", [1, rows, hidden], token)),
            patch: LoraLayer::new(patch.build(&builder.at("patch"))),
            blocks: (0..spec.layers).map(|i| Block::new(spec, &builder.at("blocks").at(i))).collect(),
            norm: LayerNorm::new(hidden, spec.epsilon, &builder.at("norm")),
            spec: spec.clone(),
            checkpointing: false,
        }
    }

    /// What was built.
    pub fn spec(&self) -> &VitSpec {
        &self.spec
    }

    /// The tokens `[batch, prefix + patches, hidden]` before the first block and after each, before the final norm:
    /// `layers + 1` tensors.
    pub fn hidden_states(&self, images: Tensor<4>) -> Vec<Tensor<3>> {
        let grid = self.grid_of(&images);
        let rotary = self.rotary(grid, &images);
        let mut states = vec![self.embed(images, grid, None)];
        for block in &self.blocks {
            states.extend(states.last().cloned().map(|x| self.block(block, x, rotary.as_ref())));
        }
        states
    }

    /// Whether blocks run as one operation of the CPU's kernels.
    fn has_frozen_blocks(&self) -> bool {
        #[cfg(feature = "flex")]
        return self.blocks.iter().any(|block| block.is_frozen(&self.spec));
        #[cfg(not(feature = "flex"))]
        false
    }

    fn block(&self, block: &Block, x: Tensor<3>, rotary: Option<&Rotary>) -> Tensor<3> {
        #[cfg(feature = "flex")]
        if let Some(frozen) = block.frozen(&x, &self.spec, self.checkpointing) {
            return frozen_block(x, rotary, frozen);
        }
        block.forward(x, rotary, &self.spec)
    }

    fn grid_of(&self, images: &Tensor<4>) -> [usize; 2] {
        let [_, _, height, width] = images.dims();
        self.spec.grid([width, height])
    }

    fn rotary(&self, grid: [usize; 2], images: &Tensor<4>) -> Option<Rotary> {
        match self.spec.position {
            Position::Rope { theta } => Some(rotary(&self.spec, theta, grid, &images.device())),
            Position::Learned { .. } => None,
        }
    }

    /// Class token, registers and patches; `added` is `[batch, hidden, rows, columns]`.
    fn embed(&self, images: Tensor<4>, grid: [usize; 2], added: Option<Tensor<4>>) -> Tensor<3> {
        let patches = self.patchify(images, grid);
        let [batch, count, hidden] = patches.dims();
        let patches = match added {
            Some(added) => patches + added.reshape([batch, hidden, count]).swap_dims(1, 2),
            None => patches,
        };
        self.with_prefix(patches, grid)
    }

    /// Embedded patches `[batch, patches, hidden]` with class token and registers before them; learned positions are added before
    /// the registers come in.
    fn with_prefix(&self, patches: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        let [batch, count, hidden] = patches.dims();
        let class = cast_to_dtype_of(self.cls_token.val(), &patches).expand([batch, 1, hidden]);
        let tokens = Tensor::cat(vec![class, patches], 1);
        let tokens = match (&self.position, self.spec.position) {
            (Some(table), Position::Learned { grid: from, resampling }) => {
                let table = cast_to_dtype_of(resample_table(table.val(), from, grid, resampling), &tokens);
                tokens + table
            }
            _ => tokens,
        };
        match &self.register_tokens {
            None => tokens,
            Some(registers) => Tensor::cat(
                vec![
                    tokens.clone().slice([0..batch, 0..1, 0..hidden]),
                    cast_to_dtype_of(registers.val(), &tokens).expand([batch, self.spec.registers, hidden]),
                    tokens.slice([0..batch, 1..1 + count, 0..hidden]),
                ],
                1,
            ),
        }
    }

    /// The patch convolution as one matrix product, because its patches do not overlap: `[batch, patches, hidden]`.
    fn patchify(&self, images: Tensor<4>, [rows, columns]: [usize; 2]) -> Tensor<3> {
        let [batch, channels, ..] = images.dims();
        let patch = self.spec.patch;
        let pixels = channels * patch * patch;
        let patches = images
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch * rows * columns, pixels]);
        self.patch.forward_patches(patches).reshape([batch, rows * columns, self.spec.hidden])
    }

    /// Class token, registers and patches after the final norm; `added` goes on the embedding of the patches.
    fn encode(&self, images: Tensor<4>, added: Option<Tensor<4>>) -> Tensor<3> {
        let grid = self.grid_of(&images);
        let rotary = self.rotary(grid, &images);
        let tokens = self.embed(images, grid, added);
        let tokens = self.blocks.iter().fold(tokens, |x, block| self.block(block, x, rotary.as_ref()));
        self.norm.forward(tokens)
    }
}

impl BackboneNetwork for Vit {
    /// The patches after the final norm, without class and register tokens, as one level. Height and width must be multiples of
    /// the patch size.
    fn forward(&self, images: Tensor<4>, added: Option<Tensor<4>>) -> Features {
        let batch = images.dims()[0];
        let [rows, columns] = self.grid_of(&images);
        let tokens = self.encode(images, added);
        let prefix = self.spec.prefix_tokens();
        let patches = tokens.slice([0..batch, prefix..prefix + rows * columns, 0..self.spec.hidden]);
        let map = patches.swap_dims(1, 2).reshape([batch, self.spec.hidden, rows, columns]);
        Features { levels: vec![Level { map, stride: self.spec.patch }] }
    }

    /// Class token, registers and patches after the final norm.
    fn tokens(&self, images: Tensor<4>) -> Tensor<3> {
        self.encode(images, None)
    }

    /// What comes before the patches, and the positions, are one table, which is added to the patches behind so many zeros.
    fn trace(&self, graph: &mut Graph, images: &Traced, added: Option<&Traced>) -> Vec<Traced> {
        let VitSpec { hidden, patch, .. } = self.spec;
        let grid = [images.shape[1] / patch, images.shape[2] / patch];
        let (count, prefix) = (grid[0] * grid[1], self.spec.prefix_tokens());
        let mut map = self.patch.trace(graph, "patch", images);
        if let Some(added) = added {
            map = graph.add(&map, added);
        }
        let patches = graph.reshape(&map, &[hidden, count]);
        let patches = graph.transpose(&patches, &[0, 2, 1]);
        let patches = graph.zeros_before(&patches, prefix);
        let table = self.with_prefix(Tensor::zeros([1, count, hidden], &self.cls_token.val().device()), grid);
        let mut tokens = graph.with_tensor("Add", &patches, "embeddings", table);
        let rotary = match self.spec.position {
            Position::Rope { theta } => Some(rotation(&self.spec, theta, grid)),
            Position::Learned { .. } => None,
        };
        for (i, block) in self.blocks.iter().enumerate() {
            tokens =
                graph.within(format!("blocks.{i}"), |graph| block.trace(graph, &tokens, rotary.as_ref(), &self.spec));
        }
        let tokens = graph.within("norm", |graph| self.norm.trace(graph, &tokens));
        let patches = graph.slice(&tokens, 1, prefix..prefix + count);
        let map = graph.transpose(&patches, &[0, 2, 1]);
        vec![graph.reshape(&map, &[hidden, grid[0], grid[1]])]
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        for (i, block) in self.blocks.iter().enumerate() {
            block.layers().into_iter().for_each(|(name, layer)| visit(&format!("blocks.{i}.{name}"), layer));
        }
        visit("patch", &self.patch);
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        for (i, block) in self.blocks.iter_mut().enumerate() {
            block.layers_mut().into_iter().for_each(|(name, layer)| visit(&format!("blocks.{i}.{name}"), layer));
        }
        visit("patch", &mut self.patch);
    }

    fn use_bfloat16(&mut self) -> bool {
        #[cfg(feature = "flex")]
        {
            let fast = tracknet_kernels::block::has_bfloat16();
            let dtype = if fast { ComputeDtype::Bf16 } else { ComputeDtype::F32 };
            let layers = self.blocks.iter_mut().flat_map(Block::layers_mut);
            layers.for_each(|(_, layer)| layer.base.set_dense_dtype(dtype));
            fast && self.has_frozen_blocks()
        }
        #[cfg(not(feature = "flex"))]
        false
    }

    fn use_gradient_checkpointing(&mut self) -> bool {
        self.checkpointing = true;
        self.has_frozen_blocks()
    }

    /// Counted per block from the tensors that its forward makes.
    fn activation_bytes(&self, input: [usize; 2], trains: bool, checkpointing: bool, device: &Device) -> usize {
        let spec = &self.spec;
        let [rows, columns] = spec.grid(input);
        let tokens = rows * columns + spec.prefix_tokens();
        let per_token = if is_cpu(device) && self.has_frozen_blocks() {
            // Two residual streams in float32; two normalized inputs, query, key, value and attention in bfloat16, and as
            // much again for masks and what the allocator keeps; the MLP once in bfloat16.
            24 * spec.hidden + 2 * spec.mlp
        } else {
            // Norms, linear layers, rotations, residuals: about 14 tensors of the hidden size; the MLP about 3 of its own;
            // without a kernel of its own, scores before and after softmax.
            let scores = if is_cpu(device) { 0 } else { 2 * tokens * spec.heads };
            4 * (14 * spec.hidden + 3 * spec.mlp + scores)
        };
        match (trains, checkpointing) {
            (false, _) => tokens * per_token,
            (true, false) => tokens * per_token * spec.layers,
            (true, true) => tokens * (per_token + 4 * spec.hidden * spec.layers),
        }
    }
}
