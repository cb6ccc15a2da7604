//! A layer of the encoder of deformable DETR: multi-scale deformable attention and a feed-forward network, each added to its
//! input and then normalized.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};
use tracknet_kernels::deformable::{Pyramid, deformable_attention};

use crate::config::DeformableConfig;
use crate::models::graph::{Graph, Traced};
use crate::models::nn::{Activation, Builder, Dropout, Fill, LayerNorm, Linear};

/// Of attention and feed-forward network.
const DROPOUT: f32 = 0.1;
const NORM_EPSILON: f64 = 1e-5;
/// Features of the feed-forward network, in features of a cell.
const FFN_WIDTH: usize = 4;

/// Where the cells of all levels are and what they can look at.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pyramid: Pyramid,
    /// The centre of each cell, x and y in units of its level: `[1, cells, 1, 1, 2]`.
    centres: Tensor<5>,
    /// An offset of one cell of each level, x and y in units of the level: `[1, 1, 1, levels · points, 2]`.
    cell: Tensor<5>,
}

impl Places {
    /// Of levels of `[height, width]` cells, at `points` places in each.
    pub(super) fn new(levels: &[[usize; 2]], points: usize, device: &Device) -> Self {
        let (mut centres, mut cell) = (Vec::new(), Vec::new());
        for &[height, width] in levels {
            for row in 0..height {
                let y = (row as f32 + 0.5) / height as f32;
                centres.extend((0..width).flat_map(|column| [(column as f32 + 0.5) / width as f32, y]));
            }
            cell.extend([1.0 / width as f32, 1.0 / height as f32].repeat(points));
        }
        let pyramid = Pyramid { levels: levels.to_vec(), points };
        let (cells, places) = (pyramid.cells(), pyramid.places());
        Self {
            pyramid,
            centres: Tensor::from_data(TensorData::new(centres, [1, cells, 1, 1, 2]), device),
            cell: Tensor::from_data(TensorData::new(cell, [1, 1, 1, places, 2]), device),
        }
    }
}

/// `x = norm1(x + attention(x))`, `x = norm2(x + linear2(relu(linear1(x))))`, with dropout before each sum and after the ReLU.
#[derive(Module, Debug)]
pub(super) struct EncoderLayer {
    self_attn: DeformableAttention,
    norm1: LayerNorm,
    linear1: Linear,
    linear2: Linear,
    norm2: LayerNorm,
    dropouts: [Dropout; 3],
}

impl EncoderLayer {
    /// A layer for the levels of `config`.
    pub(super) fn new(config: &DeformableConfig, builder: &Builder<'_>) -> Self {
        let (model, inner) = (config.d_model, FFN_WIDTH * config.d_model);
        let norm = |name: &str| LayerNorm::new(model, NORM_EPSILON, &builder.at(name));
        let dropout = |name: &str| Dropout::new(DROPOUT, builder.at(name).path());
        Self {
            self_attn: DeformableAttention::new(config, &builder.at("self_attn")),
            norm1: norm("norm1"),
            linear1: xavier([inner, model], &builder.at("linear1")),
            linear2: xavier([model, inner], &builder.at("linear2")),
            norm2: norm("norm2"),
            dropouts: ["dropout1", "dropout2", "dropout3"].map(dropout),
        }
    }

    /// Cells `[batch, cells, d_model]` and their positions `[1, cells, d_model]` → the same shape.
    pub(super) fn forward(&self, x: Tensor<3>, positions: &Tensor<3>, places: &Places) -> Tensor<3> {
        let [after_attention, after_relu, after_ffn] = &self.dropouts;
        let attended = self.self_attn.forward(x.clone() + positions.clone(), x.clone(), places);
        let x = self.norm1.forward(x + after_attention.forward(attended));
        let inner = after_relu.forward(Activation::Relu.forward(self.linear1.forward(x.clone())));
        self.norm2.forward(x + after_ffn.forward(self.linear2.forward(inner)))
    }

    /// [`EncoderLayer::forward`] as part of a graph, without dropout; `positions` is the name of a constant.
    pub(super) fn trace(&self, graph: &mut Graph, x: &Traced, positions: &str, places: &Places) -> Traced {
        let query = graph.with_constant("Add", x, positions);
        let attended = graph.within("self_attn", |graph| self.self_attn.trace(graph, &query, x, places));
        let sum = graph.add(x, &attended);
        let x = graph.within("norm1", |graph| self.norm1.trace(graph, &sum));
        let inner = graph.within("linear1", |graph| self.linear1.trace(graph, &x));
        let inner = graph.relu(&inner);
        let inner = graph.within("linear2", |graph| self.linear2.trace(graph, &inner));
        let sum = graph.add(&x, &inner);
        graph.within("norm2", |graph| self.norm2.trace(graph, &sum))
    }

    /// Gives its dropouts streams of masks of their own.
    pub(super) fn own_dropout(&mut self) {
        self.dropouts.iter_mut().for_each(Dropout::own_stream);
    }

    /// Restarts the streams of masks.
    pub(super) fn seed_dropout(&self, seed: u64) {
        self.dropouts.iter().for_each(|dropout| dropout.seed(seed));
    }

    /// Elements that a forward pass keeps for each cell: query, value, result and output of the attention, two sums and their
    /// norms, two dropouts, and the hidden features with ReLU and dropout; locations and weights of the places.
    pub(super) fn activation_elements_per_cell(config: &DeformableConfig) -> usize {
        let places = config.nhead * config.num_feature_levels * config.n_points;
        (10 + 3 * FFN_WIDTH) * config.d_model + 7 * places
    }
}

/// Multi-scale deformable attention with its projections. Heads, levels and points of the linear layers follow each other in
/// this order.
#[derive(Module, Debug)]
struct DeformableAttention {
    sampling_offsets: Linear,
    attention_weights: Linear,
    value_proj: Linear,
    output_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl DeformableAttention {
    /// Every head begins by looking into a direction of its own, one cell further with each point, with equal weights.
    fn new(config: &DeformableConfig, builder: &Builder<'_>) -> Self {
        let DeformableConfig { d_model, nhead: heads, n_points: points, num_feature_levels: levels, .. } = *config;
        let places = heads * levels * points;
        let directions = Fill::Directions { heads, levels, points };
        let projection = |name: &str| xavier([d_model, d_model], &builder.at(name));
        let zeros = |name: &str, outputs: usize, bias: Fill| {
            Linear::with_fill([outputs, d_model], [Fill::ZERO, bias], &builder.at(name))
        };
        Self {
            sampling_offsets: zeros("sampling_offsets", 2 * places, directions),
            attention_weights: zeros("attention_weights", places, Fill::ZERO),
            value_proj: projection("value_proj"),
            output_proj: projection("output_proj"),
            heads,
        }
    }

    /// Queries and cells, each `[batch, cells, d_model]` → the same shape.
    ///
    /// Places are kept in 32 bits, in which a hundredth of a cell can be told on every level, and so is what is looked up.
    fn forward(&self, query: Tensor<3>, cells: Tensor<3>, places: &Places) -> Tensor<3> {
        let [batch, queries, model] = query.dims();
        let (heads, dtype) = (self.heads, query.dtype());
        let count = places.pyramid.places();
        let exact = |x: Tensor<3>| if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) };
        let value = exact(self.value_proj.forward(cells)).reshape([batch, queries, heads, model / heads]);
        let offsets = exact(self.sampling_offsets.forward(query.clone())).reshape([batch, queries, heads, count, 2]);
        let locations = offsets * places.cell.clone() + places.centres.clone();
        let weights = exact(self.attention_weights.forward(query)).reshape([batch, queries, heads, count]);
        let attended = deformable_attention(value, locations, softmax(weights, 3), places.pyramid.clone());
        self.output_proj.forward(if dtype == DType::F32 { attended } else { attended.cast(dtype) })
    }

    /// [`DeformableAttention::forward`] as part of a graph: each level is sampled where its places are, and what is found there is
    /// weighted and added.
    fn trace(&self, graph: &mut Graph, query: &Traced, cells: &Traced, places: &Places) -> Traced {
        let [queries, model] = query.shape[..] else { return query.clone() };
        let (heads, features) = (self.heads, model / self.heads);
        let Pyramid { points, .. } = places.pyramid;
        let count = places.pyramid.places();
        let linear = |graph: &mut Graph, name: &str, layer: &Linear, x: &Traced| {
            graph.within(name, |graph| layer.trace(graph, x))
        };
        let value = linear(graph, "value_proj", &self.value_proj, cells);
        let value = graph.reshape(&value, &[queries, heads, features]);
        let value = graph.transpose(&value, &[0, 2, 3, 1]);
        // From 0..1 at the edges of a level to −1..1.
        let offsets = linear(graph, "sampling_offsets", &self.sampling_offsets, query);
        let offsets = graph.reshape(&offsets, &[queries, heads, count, 2]);
        let offsets = graph.with_tensor("Mul", &offsets, "cell", places.cell.clone().mul_scalar(2.0));
        let centres = places.centres.clone().mul_scalar(2.0).sub_scalar(1.0);
        let locations = graph.with_tensor("Add", &offsets, "centres", centres);
        let locations = graph.transpose(&locations, &[0, 2, 1, 3, 4]);
        let weights = linear(graph, "attention_weights", &self.attention_weights, query);
        let weights = graph.reshape(&weights, &[queries, heads, count]);
        let weights = graph.softmax(&weights);
        let weights = graph.transpose(&weights, &[0, 2, 1, 3]);
        let mut sum: Option<Traced> = None;
        for (level, (start, [rows, columns])) in places.pyramid.with_starts().enumerate() {
            let of_level = level * points..(level + 1) * points;
            let map = graph.slice(&value, 3, start..start + rows * columns);
            let map = graph.regroup(&map, &[features, rows, columns]);
            let locations = graph.slice(&locations, 3, of_level.clone());
            let locations = graph.regroup(&locations, &[queries, points, 2]);
            let weights = graph.slice(&weights, 3, of_level);
            let weights = graph.regroup(&weights, &[1, queries, points]);
            let found = graph.sample(&map, &locations);
            let found = graph.multiply(&found, &weights);
            let found = graph.sum_last(&found);
            sum = Some(match sum {
                Some(sum) => graph.add(&sum, &found),
                None => found,
            });
        }
        let Some(sum) = sum else { return query.clone() };
        let attended = graph.regroup(&sum, &[model, queries]);
        let attended = graph.transpose(&attended, &[0, 2, 1]);
        linear(graph, "output_proj", &self.output_proj, &attended)
    }
}

/// A linear layer `[out, in]` with Xavier uniform weights.
fn xavier([output, input]: [usize; 2], builder: &Builder<'_>) -> Linear {
    Linear::with_fill([output, input], [Fill::xavier_uniform([input, output]), Fill::ZERO], builder)
}
