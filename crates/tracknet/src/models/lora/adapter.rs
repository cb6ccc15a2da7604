//! A low-rank adapter (Hu et al., 2021), with the rules of Hugging Face PEFT so that files interchange.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::LoraConfig;
use crate::models::dropout::Dropout;
use crate::models::init::{Builder, Fill};

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
            dropout: Dropout::new(config.lora_dropout, builder.path()),
            scale: config.lora_alpha / config.r as f32,
        }
    }

    /// An adapter with given matrices, trainable; `a` is `[rank, in]`, `b` is `[out, rank]`, `path` the module it adapts.
    pub fn from_data(matrices: [TensorData; 2], scale: f32, dropout: f32, path: &str, device: &Device) -> Self {
        let [a, b] = matrices.map(|data| Param::from_data(data, device));
        Self { a, b, dropout: Dropout::new(dropout, path), scale }
    }

    /// Leaves the streams of dropout that it shares with its clones.
    pub fn own_dropout(&mut self) {
        self.dropout.own_stream();
    }

    /// Restarts the draws of the dropout.
    pub fn seed_dropout(&self, seed: u64) {
        self.dropout.seed(seed);
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

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn output_and_gradients_are_those_of_the_dense_update_at_odd_shapes() {
        let device = Device::default().autodiff();
        let [rows, input, output, rank, scale] = [11, 7, 5, 3, 2];
        let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let x = random([rows, input]).require_grad();
        let weight = random([output, rows]);
        let [a, b] = [random([rank, input]), random([output, rank])];
        let matrices = [a.clone().into_data(), b.clone().into_data()];
        let adapter = LoraAdapter::from_data(matrices, scale as f32, 0.0, "test", &device);
        let thin = adapter.forward(x.clone());
        let thin_gradients = thin.clone().matmul(weight.clone()).square().mean().backward();

        let (a, b) = (a.detach().require_grad(), b.detach().require_grad());
        let y = x.clone().detach().require_grad();
        let update = b.clone().matmul(a.clone()).mul_scalar(scale as f32);
        let dense = y.clone().matmul(update.transpose());
        let dense_gradients = dense.clone().matmul(weight).square().mean().backward();

        let pairs = [
            (thin, dense),
            (x.grad(&thin_gradients).unwrap(), y.grad(&dense_gradients).unwrap()),
            (adapter.a.val().grad(&thin_gradients).unwrap(), a.grad(&dense_gradients).unwrap()),
            (adapter.b.val().grad(&thin_gradients).unwrap(), b.grad(&dense_gradients).unwrap()),
        ];
        for (got, want) in pairs {
            let largest = want.clone().abs().max().into_scalar::<f32>();
            let difference = (got - want).abs().max().into_scalar::<f32>();
            // Sums of fewer than a hundred f32 products, associated differently.
            assert!(difference <= 1e-5 * largest, "{difference} of {largest}");
        }
    }
}
