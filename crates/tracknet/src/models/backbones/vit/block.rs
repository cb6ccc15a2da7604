//! One block: attention and MLP.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use tracknet_kernels::ComputeDtype;
use tracknet_kernels::attention::{Rotary, attention};
use tracknet_kernels::residual::add_scaled;

use crate::models::lora::LoraLayer;
use crate::models::nn::{Builder, Fill, LayerNorm, Linear};

use super::spec::{MlpKind, VitSpec};

/// Attention and MLP, each after a norm and added to its input.
#[derive(Module, Debug)]
pub struct Block {
    pub(super) norm1: LayerNorm,
    pub(super) query: LoraLayer<Linear>,
    pub(super) key: LoraLayer<Linear>,
    pub(super) value: LoraLayer<Linear>,
    pub(super) output: LoraLayer<Linear>,
    pub(super) scale1: Option<Param<Tensor<1>>>,
    pub(super) norm2: LayerNorm,
    gate: Option<LoraLayer<Linear>>,
    pub(super) up: LoraLayer<Linear>,
    pub(super) down: LoraLayer<Linear>,
    pub(super) scale2: Option<Param<Tensor<1>>>,
}

impl Block {
    pub(super) fn new(spec: &VitSpec, builder: &Builder<'_>) -> Self {
        let (hidden, mlp, biases) = (spec.hidden, spec.mlp, spec.biases);
        let linear = |name: &str, shape, bias| {
            LoraLayer::new(Linear::new(shape, bias, spec.initializer_range, &builder.at(name)))
        };
        let square = |name: &str, bias| linear(name, [hidden, hidden], bias);
        let scale = |name: &str| spec.layer_scale.map(|v| builder.param(name, [hidden], Fill::Constant(v)));
        Self {
            norm1: LayerNorm::new(hidden, spec.epsilon, &builder.at("norm1")),
            query: square("query", biases.query),
            key: square("key", biases.key),
            value: square("value", biases.value),
            output: square("output", biases.output),
            scale1: scale("scale1"),
            norm2: LayerNorm::new(hidden, spec.epsilon, &builder.at("norm2")),
            gate: (spec.mlp_kind == MlpKind::Gated).then(|| linear("gate", [mlp, hidden], biases.mlp)),
            up: linear("up", [mlp, hidden], biases.mlp),
            down: linear("down", [hidden, mlp], biases.mlp),
            scale2: scale("scale2"),
        }
    }

    /// `[batch, tokens, hidden]` → the same shape.
    pub(super) fn forward(&self, x: Tensor<3>, rotary: Option<&Rotary>, spec: &VitSpec) -> Tensor<3> {
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

    /// Attention rounds its factors where the layers that they come from rounded theirs.
    fn attention_dtype(&self) -> ComputeDtype {
        let rounds = |layer: &LoraLayer<Linear>| layer.base.compute_dtype() == ComputeDtype::Bf16;
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

    /// The linear layers by the names of their fields.
    pub(super) fn layers(&self) -> Vec<(&'static str, &LoraLayer<Linear>)> {
        let mut all =
            vec![("query", &self.query), ("key", &self.key), ("value", &self.value), ("output", &self.output)];
        all.extend(self.gate.as_ref().map(|gate| ("gate", gate)));
        all.extend([("up", &self.up), ("down", &self.down)]);
        all
    }

    /// As [`Block::layers`], to change them.
    pub(super) fn layers_mut(&mut self) -> Vec<(&'static str, &mut LoraLayer<Linear>)> {
        let mut all = vec![
            ("query", &mut self.query),
            ("key", &mut self.key),
            ("value", &mut self.value),
            ("output", &mut self.output),
        ];
        all.extend(self.gate.as_mut().map(|gate| ("gate", gate)));
        all.extend([("up", &mut self.up), ("down", &mut self.down)]);
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
