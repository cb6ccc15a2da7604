//! One block: attention and MLP.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use tracknet_kernels::ComputeDtype;
use tracknet_kernels::attention::{Rotary, attention};
use tracknet_kernels::residual::add_scaled;

use crate::models::graph::{Graph, Numbers, Traced};
use crate::models::lora::LoraLayer;
use crate::models::nn::{Builder, Fill, LayerNorm, Linear};

use super::position::Rotation;
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

    /// [`Block::forward`] as part of a graph, without adapters: `[tokens, hidden]` → the same shape.
    pub(super) fn trace(&self, graph: &mut Graph, x: &Traced, rotation: Option<&Rotation>, spec: &VitSpec) -> Traced {
        let y = graph.within("norm1", |graph| self.norm1.trace(graph, x));
        let y = self.trace_attention(graph, &y, rotation, spec);
        let x = trace_residual(graph, x, y, "scale1", self.scale1.as_ref());
        let y = graph.within("norm2", |graph| self.norm2.trace(graph, &x));
        let y = self.trace_mlp(graph, &y, spec);
        trace_residual(graph, &x, y, "scale2", self.scale2.as_ref())
    }

    fn trace_attention(&self, graph: &mut Graph, x: &Traced, rotation: Option<&Rotation>, spec: &VitSpec) -> Traced {
        let VitSpec { hidden, heads, .. } = *spec;
        let (tokens, head) = (x.shape[0], hidden / heads);
        let table = rotation.map(|rotation| trace_rotation(graph, rotation, [tokens, head]));
        let of_heads = |graph: &mut Graph, name: &str, layer: &LoraLayer<Linear>| {
            let y = layer.trace(graph, name, x);
            let y = graph.reshape(&y, &[tokens, heads, head]);
            graph.transpose(&y, &[0, 2, 1, 3])
        };
        let rotated = |graph: &mut Graph, x: Traced| match &table {
            Some(table) => rotate(graph, &x, table),
            None => x,
        };
        let query = of_heads(graph, "query", &self.query);
        let query = rotated(graph, query);
        let key = of_heads(graph, "key", &self.key);
        let key = rotated(graph, key);
        let value = of_heads(graph, "value", &self.value);
        let query = graph.with_number("Mul", &query, 1.0 / (head as f32).sqrt());
        let key = graph.transpose(&key, &[0, 1, 3, 2]);
        let scores = graph.product(&query, &key);
        let weights = graph.softmax(&scores);
        let attended = graph.product(&weights, &value);
        let attended = graph.transpose(&attended, &[0, 2, 1, 3]);
        let attended = graph.reshape(&attended, &[tokens, hidden]);
        self.output.trace(graph, "output", &attended)
    }

    fn trace_mlp(&self, graph: &mut Graph, x: &Traced, spec: &VitSpec) -> Traced {
        let up = self.up.trace(graph, "up", x);
        let inner = match &self.gate {
            Some(gate) => {
                let gate = gate.trace(graph, "gate", x);
                let gate = spec.activation.trace(graph, &gate);
                graph.multiply(&gate, &up)
            }
            None => spec.activation.trace(graph, &up),
        };
        self.down.trace(graph, "down", &inner)
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

/// [`residual`] as part of a graph.
fn trace_residual(
    graph: &mut Graph,
    x: &Traced,
    branch: Traced,
    name: &str,
    scale: Option<&Param<Tensor<1>>>,
) -> Traced {
    let branch = match scale {
        Some(scale) => graph.with_tensor("Mul", &branch, name, scale.val()),
        None => branch,
    };
    graph.add(x, &branch)
}

/// The constants that [`rotate`] needs, `[tokens, head]` each: cosines of both halves of a head, and sines of which those of the
/// first half are negative.
fn trace_rotation(graph: &mut Graph, (cos, sin): &Rotation, [tokens, head]: [usize; 2]) -> [String; 2] {
    let pairs = head / 2;
    let halves = |numbers: &[f32], sign: f32| -> Vec<f32> {
        let rows = numbers.chunks(pairs);
        rows.flat_map(|row| row.iter().map(move |number| sign * number).chain(row.iter().copied())).collect()
    };
    let shape = vec![tokens, head];
    [("cos", halves(cos, 1.0)), ("sin", halves(sin, -1.0))]
        .map(|(name, numbers)| graph.constant(name, shape.clone(), Numbers::Floats(numbers)))
}

/// `(x₁ cos − x₂ sin, x₂ cos + x₁ sin)` for the halves of each head `[heads, tokens, head]`, as part of a graph.
fn rotate(graph: &mut Graph, x: &Traced, [cos, sin]: &[String; 2]) -> Traced {
    let head = x.shape[2];
    let (first, second) = (graph.slice(x, 3, 0..head / 2), graph.slice(x, 3, head / 2..head));
    let swapped = graph.concat(&[&second, &first], 3);
    let x = graph.with_constant("Mul", x, cos);
    let swapped = graph.with_constant("Mul", &swapped, sin);
    graph.add(&x, &swapped)
}
