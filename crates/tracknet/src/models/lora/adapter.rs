//! A low-rank adapter (Hu et al., 2021), with the rules of Hugging Face PEFT so that files interchange.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::config::LoraConfig;
use crate::models::init::{Builder, Fill};
use crate::models::layers::Dropout;

/// `s · B(A(dropout(x)))` with `A: [rank, in]`, `B: [out, rank]`, `s = alpha / rank`.
#[derive(Module, Debug)]
pub struct LoraAdapter {
    /// `[rank, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, rank]`.
    pub b: Param<Tensor<2>>,
    dropout: Dropout,
    #[module(skip)]
    alpha: f32,
}

impl LoraAdapter {
    /// `A` Kaiming uniform (a = √5), `B` zero: an adapted model starts as the model it adapts.
    pub fn new([output, input]: [usize; 2], config: &LoraConfig, builder: &Builder<'_>) -> Self {
        Self {
            a: builder.at("lora_A").param("weight", [config.r, input], Fill::kaiming_uniform_sqrt5(input)),
            b: builder.at("lora_B").param("weight", [output, config.r], Fill::ZERO),
            dropout: Dropout::new(config.lora_dropout),
            alpha: config.lora_alpha,
        }
    }

    /// Columns of `B`.
    pub fn rank(&self) -> usize {
        self.a.lazy_shape()[0]
    }

    /// The factor in front of `B(A(x))`.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank() as f32
    }

    /// `alpha` of the configuration.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// `[rows, in]` → `[rows, out]`, as two thin products; the scale is applied to the thin one.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let thin = self.dropout.forward(x).matmul(self.a.val().transpose());
        thin.mul_scalar(self.scale()).matmul(self.b.val().transpose())
    }
}
