//! The vision transformer (Dosovitskiy et al., 2021) of every supported family.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use tracknet_kernels::ComputeDtype;
use tracknet_kernels::attention::{Rotary, attention};
#[cfg(feature = "flex")]
use tracknet_kernels::block::frozen_block;
use tracknet_kernels::residual::add_scaled;

use crate::models::carried::Carried;
use crate::models::features::Features;
use crate::models::init::{Builder, Fill};
use crate::models::layers::{Conv, ConvSpec, LayerNorm, in_dtype_of};
use crate::models::projection::{Projection, Role, VisitProjections};

use super::paths::ModulePaths;
use super::position::{resample_table, rotary};
use super::spec::{MlpKind, Position, VitSpec};

/// Patches → tokens → blocks → a grid of features.
///
/// It has no dropout, drop path or position jitter: a backbone, frozen or not, always runs as in evaluation.
#[derive(Module, Debug)]
pub struct Vit {
    cls_token: Param<Tensor<3>>,
    register_tokens: Option<Param<Tensor<3>>>,
    position: Option<Param<Tensor<3>>>,
    patch: Conv,
    blocks: Vec<Block>,
    norm: LayerNorm,
    #[module(skip)]
    spec: VitSpec,
    /// Whether blocks that run as one operation keep only their input for backward.
    #[module(skip)]
    checkpointing: bool,
    #[module(skip)]
    carried: Arc<Carried>,
}

impl Vit {
    /// Builds what `spec` describes; the builder gives the values.
    pub fn new(spec: &VitSpec, builder: &Builder<'_>) -> Self {
        let token = Fill::TruncatedNormal(spec.initializer_range);
        let hidden = spec.hidden;
        let embeddings = builder.at("embeddings");
        let table = match spec.position {
            Position::Learned { grid, .. } => Some(1 + grid * grid),
            Position::Rope { .. } => None,
        };
        Self {
            cls_token: embeddings.param("cls_token", [1, 1, hidden], token),
            register_tokens: (spec.registers > 0)
                .then(|| embeddings.param("register_tokens", [1, spec.registers, hidden], token)),
            position: table.map(|rows| embeddings.param("position_embeddings", [1, rows, hidden], token)),
            patch: ConvSpec::patches([3, hidden], spec.patch, spec.initializer_range)
                .build(&builder.at(spec.names.patch)),
            blocks: (0..spec.layers).map(|i| Block::new(spec, &builder.at(spec.names.files.blocks).at(i))).collect(),
            norm: LayerNorm::new(hidden, spec.epsilon, &builder.at(spec.names.norm)),
            spec: spec.clone(),
            checkpointing: false,
            carried: Arc::default(),
        }
    }

    /// The same with what its checkpoint holds besides, to be written again with it.
    #[must_use]
    pub fn carrying(self, carried: Carried) -> Self {
        Self { carried: Arc::new(carried), ..self }
    }

    /// What its checkpoint holds besides.
    pub fn carried(&self) -> &Carried {
        &self.carried
    }

    /// Whether any projection is stored in 4 bits.
    pub fn is_quantized(&self) -> bool {
        let mut quantized = false;
        self.visit_projections(&mut |_, p| quantized |= p.is_quantized());
        quantized
    }

    /// Whether blocks run as one operation of the CPU's kernels.
    pub fn has_frozen_blocks(&self) -> bool {
        #[cfg(feature = "flex")]
        return self.blocks.iter().any(|block| block.is_frozen(&self.spec));
        #[cfg(not(feature = "flex"))]
        false
    }

    /// Mixed precision on the CPU, as [`HeatmapModel::use_bfloat16`](crate::models::HeatmapModel::use_bfloat16) says.
    pub fn use_bfloat16(&mut self) -> bool {
        #[cfg(feature = "flex")]
        {
            let fast = tracknet_kernels::block::has_bfloat16();
            let dtype = if fast { ComputeDtype::Bf16 } else { ComputeDtype::F32 };
            self.visit_projections_mut(&mut |_, projection| projection.set_dense_dtype(dtype));
            fast && self.has_frozen_blocks()
        }
        #[cfg(not(feature = "flex"))]
        false
    }

    /// Keeps only the input of each frozen block for the backward pass, and computes the rest again. `false` if there are
    /// no such blocks.
    pub fn use_gradient_checkpointing(&mut self) -> bool {
        self.checkpointing = true;
        self.has_frozen_blocks()
    }

    /// What was built.
    pub fn spec(&self) -> &VitSpec {
        &self.spec
    }

    /// Patch features of normalized frames `[batch, 3, height, width]`, after the final norm, without class and
    /// register tokens. Height and width must be multiples of the patch size ([`VitSpec::grid`]).
    pub fn forward(&self, images: Tensor<4>) -> Features {
        let [batch, _, height, width] = images.dims();
        let [rows, columns] = [height / self.spec.patch, width / self.spec.patch];
        let tokens = self.tokens(images);
        let prefix = self.spec.prefix_tokens();
        let patches = tokens.slice([0..batch, prefix..prefix + rows * columns, 0..self.spec.hidden]);
        let map = patches.swap_dims(1, 2).reshape([batch, self.spec.hidden, rows, columns]);
        Features { map, stride: self.spec.patch }
    }

    /// All tokens after the final norm, `[batch, prefix + patches, hidden]`.
    pub fn tokens(&self, images: Tensor<4>) -> Tensor<3> {
        let grid = self.grid_of(&images);
        let rotary = self.rotary(grid, &images);
        let tokens = self.embed(images, grid);
        let tokens = self.blocks.iter().fold(tokens, |x, block| self.block(block, x, rotary.as_ref()));
        self.norm.forward(tokens)
    }

    /// The tokens before the first block and after each, before the final norm: `layers + 1` tensors.
    pub fn hidden_states(&self, images: Tensor<4>) -> Vec<Tensor<3>> {
        let grid = self.grid_of(&images);
        let rotary = self.rotary(grid, &images);
        let mut states = vec![self.embed(images, grid)];
        for block in &self.blocks {
            states.extend(states.last().cloned().map(|x| self.block(block, x, rotary.as_ref())));
        }
        states
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
        [height / self.spec.patch, width / self.spec.patch]
    }

    fn rotary(&self, grid: [usize; 2], images: &Tensor<4>) -> Option<Rotary> {
        match self.spec.position {
            Position::Rope { theta } => Some(rotary(&self.spec, theta, grid, &images.device())),
            Position::Learned { .. } => None,
        }
    }

    /// Class token, registers and patches; learned positions are added before the registers come in.
    fn embed(&self, images: Tensor<4>, grid: [usize; 2]) -> Tensor<3> {
        let patches = self.patchify(images, grid);
        let [batch, count, hidden] = patches.dims();
        let class = in_dtype_of(self.cls_token.val(), &patches).expand([batch, 1, hidden]);
        let tokens = Tensor::cat(vec![class, patches], 1);
        let tokens = match (&self.position, self.spec.position) {
            (Some(table), Position::Learned { grid: from, resampling }) => {
                let table = in_dtype_of(resample_table(table.val(), from, grid, resampling), &tokens);
                tokens + table
            }
            _ => tokens,
        };
        match &self.register_tokens {
            None => tokens,
            Some(registers) => Tensor::cat(
                vec![
                    tokens.clone().slice([0..batch, 0..1, 0..hidden]),
                    in_dtype_of(registers.val(), &tokens).expand([batch, self.spec.registers, hidden]),
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
}

impl VisitProjections for Vit {
    fn module_paths(&self) -> ModulePaths {
        ModulePaths::Of(self.spec.names)
    }

    fn carried_along(&self) -> Option<&Carried> {
        Some(&self.carried)
    }

    fn carried_along_mut(&mut self) -> Option<&mut Carried> {
        Some(Arc::make_mut(&mut self.carried))
    }

    fn visit_convolutions(&self, visit: &mut dyn FnMut(&str, &Conv)) {
        visit(self.spec.names.patch, &self.patch);
    }

    fn visit_convolutions_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Conv)) {
        visit(self.spec.names.patch, &mut self.patch);
    }

    fn visit_projections(&self, visit: &mut dyn FnMut(&str, &Projection)) {
        for (i, block) in self.blocks.iter().enumerate() {
            for (name, projection) in block.projections(&self.spec) {
                visit(&format!("{}.{i}.{name}", self.spec.names.files.blocks), projection);
            }
        }
    }

    fn visit_projections_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Projection)) {
        for (i, block) in self.blocks.iter_mut().enumerate() {
            for (name, projection) in block.projections_mut(&self.spec) {
                visit(&format!("{}.{i}.{name}", self.spec.names.files.blocks), projection);
            }
        }
    }
}

/// Attention and MLP, each after a norm and added to its input.
#[derive(Module, Debug)]
pub struct Block {
    pub(super) norm1: LayerNorm,
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    pub(super) scale1: Option<Param<Tensor<1>>>,
    pub(super) norm2: LayerNorm,
    gate: Option<Projection>,
    up: Projection,
    down: Projection,
    pub(super) scale2: Option<Param<Tensor<1>>>,
}

impl Block {
    fn new(spec: &VitSpec, builder: &Builder<'_>) -> Self {
        let (hidden, names, biases) = (spec.hidden, spec.names, spec.biases);
        let projection = |name: &str, shape, bias, role| {
            Projection::new(shape, bias, role, spec.initializer_range, &builder.at(name))
        };
        let square = |name: &str, bias, role| projection(name, [hidden, hidden], bias, role);
        let scale =
            |name: &str| spec.layer_scale.map(|v| builder.at(name).param("lambda1", [hidden], Fill::Constant(v)));
        Self {
            norm1: LayerNorm::new(hidden, spec.epsilon, &builder.at(names.norm1)),
            query: square(names.files.query, biases.query, Role::Query),
            key: square(names.files.key, biases.key, Role::Key),
            value: square(names.files.value, biases.value, Role::Value),
            output: square(names.files.output, biases.output, Role::Output),
            scale1: scale("layer_scale1"),
            norm2: LayerNorm::new(hidden, spec.epsilon, &builder.at(names.norm2)),
            gate: (spec.mlp_kind == MlpKind::Gated)
                .then(|| projection(names.files.gate, [spec.mlp, hidden], biases.mlp, Role::Mlp)),
            up: projection(names.files.up, [spec.mlp, hidden], biases.mlp, Role::Mlp),
            down: projection(names.files.down, [hidden, spec.mlp], biases.mlp, Role::Mlp),
            scale2: scale("layer_scale2"),
        }
    }

    /// `[batch, tokens, hidden]` → the same shape.
    fn forward(&self, x: Tensor<3>, rotary: Option<&Rotary>, spec: &VitSpec) -> Tensor<3> {
        let y = self.attend(self.norm1.forward(x.clone()), rotary, spec);
        let x = residual(x, y, self.scale1.as_ref());
        let y = self.mlp(self.norm2.forward(x.clone()), spec);
        residual(x, y, self.scale2.as_ref())
    }

    fn attend(&self, x: Tensor<3>, rotary: Option<&Rotary>, spec: &VitSpec) -> Tensor<3> {
        let scale = 1.0 / ((spec.hidden / spec.heads) as f32).sqrt();
        let query = self.query.forward(x.clone());
        let key = self.key.forward(x.clone());
        let value = self.value.forward(x);
        self.output.forward(attention(query, key, value, spec.heads, scale, rotary, self.attention_dtype()))
    }

    /// Attention rounds its factors where the projections that they come from rounded theirs.
    fn attention_dtype(&self) -> ComputeDtype {
        let rounds = |projection: &Projection| projection.compute_dtype() == ComputeDtype::Bf16;
        let all = [&self.query, &self.key, &self.value].into_iter().all(rounds);
        if all { ComputeDtype::Bf16 } else { ComputeDtype::F32 }
    }

    fn mlp(&self, x: Tensor<3>, spec: &VitSpec) -> Tensor<3> {
        let inner = match &self.gate {
            Some(gate) => spec.activation.forward(gate.forward(x.clone())) * self.up.forward(x),
            None => spec.activation.forward(self.up.forward(x)),
        };
        self.down.forward(inner)
    }

    pub(super) fn projections(&self, spec: &VitSpec) -> Vec<(&'static str, &Projection)> {
        let n = &spec.names.files;
        let mut all =
            vec![(n.query, &self.query), (n.key, &self.key), (n.value, &self.value), (n.output, &self.output)];
        all.extend(self.gate.as_ref().map(|gate| (n.gate, gate)));
        all.extend([(n.up, &self.up), (n.down, &self.down)]);
        all
    }

    fn projections_mut(&mut self, spec: &VitSpec) -> Vec<(&'static str, &mut Projection)> {
        let n = &spec.names.files;
        let mut all = vec![
            (n.query, &mut self.query),
            (n.key, &mut self.key),
            (n.value, &mut self.value),
            (n.output, &mut self.output),
        ];
        all.extend(self.gate.as_mut().map(|gate| (n.gate, gate)));
        all.extend([(n.up, &mut self.up), (n.down, &mut self.down)]);
        all
    }
}

/// The input of a block and what its branch adds, scaled where the model has a layer scale.
fn residual(x: Tensor<3>, branch: Tensor<3>, scale: Option<&Param<Tensor<1>>>) -> Tensor<3> {
    match scale {
        Some(scale) => add_scaled(x, branch, scale.val()),
        None => x + branch,
    }
}
