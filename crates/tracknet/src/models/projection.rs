//! The linear layer of every backbone: stored as floats or in 4 bits, with or without an adapter.
//!
//! Because adapting and quantizing are changes of one type, a backbone gets both by naming its projections
//! ([`VisitProjections`]) and knows of neither.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, linear_4bit};

use super::backbones::ModulePaths;
use super::init::{Builder, Fill};
use super::layers::{Conv, adapted_linear, dense_linear};
use super::lora::LoraAdapter;
use super::lora::merge::Merged;
use crate::models::carried::Carried;

/// What a projection does in its block. The short names `query`, `key`, `value` and `dense` of a target list mean
/// these, whatever the checkpoint calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Attention queries.
    Query,
    /// Attention keys.
    Key,
    /// Attention values.
    Value,
    /// The projection after attention.
    Output,
    /// A linear layer of the MLP.
    Mlp,
    /// A convolution of the patches or of the decoder: adapted only when it is named.
    Convolution,
}

/// `y = base(x) + adapter(x) + bias`.
#[derive(Module, Debug)]
pub struct Projection {
    /// The weight, and how it is stored.
    pub base: Base,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Added to the output when present.
    pub adapter: Option<LoraAdapter>,
    /// An adapter whose update is in the weight; kept to take it out again.
    #[module(skip)]
    pub(crate) merged: Option<Box<Merged>>,
    #[module(skip)]
    role: Role,
    /// What the factors of a product with a dense weight may be rounded to.
    #[module(skip)]
    dense_dtype: ComputeDtype,
}

/// How the weight `[out, in]` is stored.
// A few hundred of these exist; a box around the larger variant would save nothing that counts.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Base {
    /// Floats, `[out, in]` as PyTorch has them.
    Dense(Param<Tensor<2>>),
    /// 4-bit codes; a constant that can never receive a gradient.
    Packed(Linear4bitWeight),
}

impl Projection {
    /// A dense projection from `shape[1]` to `shape[0]` features.
    pub fn new(shape: [usize; 2], bias: bool, role: Role, deviation: f32, builder: &Builder<'_>) -> Self {
        Self {
            base: builder.linear_weight(shape, Fill::TruncatedNormal(deviation)),
            bias: bias.then(|| builder.param("bias", [shape[0]], Fill::ZERO)),
            adapter: None,
            merged: None,
            role,
            dense_dtype: ComputeDtype::F32,
        }
    }

    /// What it does in its block.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the weight is stored in 4 bits.
    pub fn is_quantized(&self) -> bool {
        matches!(self.base, Base::Packed(_))
    }

    /// Lets products with a dense weight that does not train round their factors, where a kernel does that.
    pub fn set_dense_dtype(&mut self, dtype: ComputeDtype) {
        self.dense_dtype = dtype;
    }

    /// What its product may round its factors to.
    pub fn compute_dtype(&self) -> ComputeDtype {
        match &self.base {
            Base::Dense(_) => self.dense_dtype,
            Base::Packed(weight) => weight.compute_dtype(),
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match &self.base {
            Base::Dense(weight) => weight.lazy_shape().dims(),
            Base::Packed(weight) => weight.shape(),
        }
    }

    /// `[.., in]` → `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let [output, input] = self.shape();
        let rows: usize = shape[..D - 1].iter().product();
        let x = x.reshape([rows, input]);
        shape[D - 1] = output;
        let multiply = |rows| self.base.multiply(rows);
        adapted_linear(x, self.adapter.as_ref(), self.bias.as_ref(), multiply).reshape(shape)
    }
}

impl Base {
    /// `[rows, in]` → `[rows, out]`: the product with the transposed weight.
    pub fn multiply(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => dense_linear(x, weight.val()),
            Self::Packed(weight) => linear_4bit(x, weight, None),
        }
    }

    /// The weight as floats, `[out, in]`; a packed one is unpacked, rounded as it is for every product.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Packed(weight) => weight.dequantize(),
        }
    }
}

/// Names the projections of a model. Everything that adapts, quantizes, merges or reports works on this alone.
///
/// The path is that of the module in the files of the backbone, such as `layer.0.attention.q_proj`.
pub trait VisitProjections {
    /// How else the paths of this model are spelled, by PEFT above all.
    fn module_paths(&self) -> ModulePaths {
        ModulePaths::AsWritten
    }

    /// What the model carries along to write it again, without computing anything with it.
    fn carried_along(&self) -> Option<&Carried> {
        None
    }

    /// The same, to change it.
    fn carried_along_mut(&mut self) -> Option<&mut Carried> {
        None
    }

    /// Visits every projection in the order of the model.
    fn visit_projections(&self, visit: &mut dyn FnMut(&str, &Projection));

    /// The same, to change them.
    fn visit_projections_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Projection));

    /// Visits the convolutions that can carry an adapter: that of the patches by its path below the backbone, those of the
    /// decoder by their full name (`decoder.stages.0.proj`).
    fn visit_convolutions(&self, _visit: &mut dyn FnMut(&str, &Conv)) {}

    /// The same, to change them.
    fn visit_convolutions_mut(&mut self, _visit: &mut dyn FnMut(&str, &mut Conv)) {}

    /// Makes the dropout masks of all adapters a function of `seed`, from the next forward pass on.
    fn seed_adapter_dropout(&self, seed: u64) {
        self.visit_projections(&mut |_, p| p.adapter.iter().for_each(|a| a.seed_dropout(seed)));
        self.visit_convolutions(&mut |_, c| c.adapter.iter().for_each(|a| a.seed_dropout(seed)));
    }

    /// Leaves the streams of dropout that the adapters share with those of the model's clones.
    fn own_adapter_dropout(&mut self) {
        self.visit_projections_mut(&mut |_, p| p.adapter.iter_mut().for_each(LoraAdapter::own_dropout));
        self.visit_convolutions_mut(&mut |_, c| c.adapter.iter_mut().for_each(LoraAdapter::own_dropout));
    }
}
