//! The linear layer of every backbone: stored as floats or in 4 bits, with or without an adapter.
//!
//! Because adapting and quantizing are changes of one type, a backbone gets both by naming its projections
//! ([`VisitProjections`]) and knows of neither.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use tracknet_kernels::{Linear4bitWeight, linear_4bit};

use super::init::{Builder, Fill};
use super::lora::LoraAdapter;

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
}

/// `y = base(x) + adapter(x)`.
#[derive(Module, Debug)]
pub struct Projection {
    /// The weight, and how it is stored.
    pub base: Base,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Added to the output when present.
    pub adapter: Option<LoraAdapter>,
    #[module(skip)]
    role: Role,
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
            role,
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
        let base = match &self.base {
            Base::Dense(weight) => self.add_bias(x.clone().matmul(weight.val().transpose())),
            Base::Packed(weight) => linear_4bit(x.clone(), weight, self.bias.as_ref().map(|b| b.val())),
        };
        let y = match &self.adapter {
            Some(adapter) => base + adapter.forward(x),
            None => base,
        };
        shape[D - 1] = output;
        y.reshape(shape)
    }

    fn add_bias(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }
}

/// Names the projections of a model. Everything that adapts, quantizes, merges or reports works on this alone.
///
/// The path is what `transformers` calls the module below the backbone, such as `layer.0.attention.q_proj`.
pub trait VisitProjections {
    /// What PEFT puts before the paths of this model, because `transformers` holds it one module deeper than its files
    /// say.
    fn peft_prefix(&self) -> &'static str {
        ""
    }

    /// Visits every projection in the order of the model.
    fn visit_projections(&self, visit: &mut dyn FnMut(&str, &Projection));

    /// The same, to change them.
    fn visit_projections_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Projection));
}
