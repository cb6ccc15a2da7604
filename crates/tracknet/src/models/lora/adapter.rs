//! A low-rank adapter (Hu et al., 2021), with the rules of Hugging Face PEFT so that files interchange.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

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
    scale: f32,
}

impl LoraAdapter {
    /// `A` Kaiming uniform (a = √5), `B` zero: an adapted model starts as the model it adapts.
    pub fn new([output, input]: [usize; 2], config: &LoraConfig, builder: &Builder<'_>) -> Self {
        Self {
            a: builder.at("lora_A").param("weight", [config.r, input], Fill::kaiming_uniform_sqrt5(input)),
            b: builder.at("lora_B").param("weight", [output, config.r], Fill::ZERO),
            dropout: Dropout::new(config.lora_dropout),
            scale: config.lora_alpha / config.r as f32,
        }
    }

    /// An adapter with given matrices, trainable; `a` is `[rank, in]`, `b` is `[out, rank]`.
    pub fn from_data(a: TensorData, b: TensorData, scale: f32, dropout: f32, device: &Device) -> Self {
        Self { a: Param::from_data(a, device), b: Param::from_data(b, device), dropout: Dropout::new(dropout), scale }
    }

    /// Rows of `A`, columns of `B`.
    pub fn rank(&self) -> usize {
        self.a.lazy_shape()[0]
    }

    /// The factor in front of `B(A(x))`.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// `[rows, in]` → `[rows, out]`, as two thin products; the scale is applied to the thin one.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let thin = self.dropout.forward(x).matmul(self.a.val().transpose());
        thin.mul_scalar(self.scale).matmul(self.b.val().transpose())
    }
}
