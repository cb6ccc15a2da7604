//! The `deformable` decoder: an encoder of multi-scale deformable attention (Zhu et al. 2021,
//! <https://arxiv.org/abs/2010.04159>), in which every cell of every level looks at a few places of all levels, then a feature
//! pyramid.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::DeformableConfig;
use crate::models::ModelError;
use crate::models::features::{Features, Layout};
use crate::models::graph::{Graph, Traced};
use crate::models::lora::{AdaptableLayer, LoraLayer};
use crate::models::nn::{Builder, Conv2d, ConvSpec, Fill, cast_to_dtype_of};

use super::encoder::{EncoderLayer, Places};
use super::fpn::{FeaturePyramid, PyramidSpec, fuse, trace_fuse};
use super::levels::{check_channels, check_count};
use super::{Decoder, DecoderNetwork, DecoderSpec};

/// The base of the wavelengths of the position encoding.
const TEMPERATURE: f64 = 10_000.0;

/// The decoder's plan.
#[derive(Debug, Clone)]
pub struct DeformableSpec {
    config: DeformableConfig,
    pyramid: PyramidSpec,
}

impl DeformableSpec {
    /// Checks a configuration against the levels of a backbone and the size `[W, H]` of the heatmap.
    ///
    /// # Errors
    /// Another number of levels or other channels than the backbone's, or a `d_model` that cannot be shared among the heads and
    /// the waves of the position encoding.
    pub fn new(config: &DeformableConfig, layout: &Layout, [width, height]: [usize; 2]) -> Result<Self, ModelError> {
        const SECTION: &str = "model.deformable_encoder";
        check_count(&format!("{SECTION}.num_feature_levels"), config.num_feature_levels, layout)?;
        check_channels(SECTION, Some(&config.in_channels), layout)?;
        let DeformableConfig { d_model, nhead, .. } = *config;
        if !d_model.is_multiple_of(nhead) {
            let message = format!("{d_model} cannot be shared among model.deformable_encoder.nhead {nhead} heads");
            return Err(ModelError::key(format!("{SECTION}.d_model"), message));
        }
        if !d_model.is_multiple_of(4) {
            let message = format!(
                "{d_model} is not a multiple of 4: the position encoding is a sine and a cosine of each wave for x and for y"
            );
            return Err(ModelError::key(format!("{SECTION}.d_model"), message));
        }
        let pyramid = PyramidSpec {
            channels: vec![d_model; config.num_feature_levels],
            lateral: config.lateral_dim,
            fuse: config.fuse,
            output: [height, width],
        };
        Ok(Self { config: config.clone(), pyramid })
    }
}

impl DecoderSpec for DeformableSpec {
    fn output_channels(&self) -> usize {
        self.pyramid.lateral
    }

    fn build(&self, builder: &Builder<'_>) -> Decoder {
        let config = &self.config;
        let model = config.d_model;
        let projection = |name: &str, i: usize, input: usize| {
            let conv = ConvSpec::square([input, model], 1).with_bias().with_fill(Fill::xavier_uniform([input, model]));
            LoraLayer::new(conv.build(&builder.at(name).at(i)))
        };
        let levels = || config.in_channels.iter().enumerate();
        Decoder::Deformable(DeformableDecoder {
            input_proj: levels().map(|(i, &channels)| projection("input_proj", i, channels)).collect(),
            level_embed: builder.param("level_embed", [config.num_feature_levels, model], Fill::Normal(1.0)),
            layers: (0..config.num_encoder_layers)
                .map(|j| EncoderLayer::new(config, &builder.at("layers").at(j)))
                .collect(),
            output_proj: levels().map(|(i, _)| projection("output_proj", i, model)).collect(),
            fpn: FeaturePyramid::new(&self.pyramid, &builder.at("fpn")),
            reduce: self.pyramid.reduce(builder),
            spec: self.clone(),
        })
    }
}

/// Levels → cells → encoder → levels → feature pyramid → one map.
#[derive(Module, Debug)]
pub struct DeformableDecoder {
    input_proj: Vec<LoraLayer<Conv2d>>,
    /// `[levels, d_model]`: what the cells of a level have in common.
    level_embed: Param<Tensor<2>>,
    layers: Vec<EncoderLayer>,
    output_proj: Vec<LoraLayer<Conv2d>>,
    fpn: FeaturePyramid,
    reduce: Option<LoraLayer<Conv2d>>,
    #[module(skip)]
    spec: DeformableSpec,
}

impl DeformableDecoder {
    /// Position encoding and embedding of the level for each cell of all levels, `[1, cells, d_model]`.
    fn positions(&self, grids: &[[usize; 2]], device: &Device) -> Tensor<3> {
        let embeddings = self.level_embed.val();
        let [_, model] = embeddings.dims();
        let levels = grids.iter().enumerate().map(|(level, grid)| {
            let embedding = embeddings.clone().slice([level..level + 1, 0..model]).reshape([1, 1, model]);
            sine_positions(*grid, model, device) + embedding
        });
        Tensor::cat(levels.collect(), 1)
    }
}

impl DecoderNetwork for DeformableDecoder {
    fn forward(&self, features: Features, _frames: Tensor<4>) -> Tensor<4> {
        let projected = features.levels.into_iter().zip(&self.input_proj);
        let maps: Vec<Tensor<4>> = projected.map(|(level, projection)| projection.forward(level.map)).collect();
        let grids: Vec<[usize; 2]> = maps.iter().map(|map| [map.dims()[2], map.dims()[3]]).collect();
        let x = Tensor::cat(maps.into_iter().map(cells_of).collect(), 1);
        let positions = cast_to_dtype_of(self.positions(&grids, &x.device()), &x);
        let places = Places::new(&grids, self.spec.config.n_points, &x.device());
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x, &positions, &places));
        let mut start = 0;
        let levels = grids.iter().zip(&self.output_proj).map(|(grid, projection)| {
            let cells = x.clone().narrow(1, start, grid[0] * grid[1]);
            start += grid[0] * grid[1];
            projection.forward(map_of(cells, *grid))
        });
        let levels = self.fpn.forward(levels.collect());
        fuse(levels, self.reduce.as_ref(), self.spec.pyramid.output)
    }

    fn trace(&self, graph: &mut Graph, levels: &[Traced], _frames: &Traced) -> Traced {
        let model = self.spec.config.d_model;
        let device = self.level_embed.val().device();
        let grids: Vec<[usize; 2]> = levels.iter().map(|level| [level.shape[1], level.shape[2]]).collect();
        let projections = levels.iter().zip(&self.input_proj).zip(&grids).enumerate();
        let cells: Vec<Traced> = projections
            .map(|(i, ((level, projection), [rows, columns]))| {
                let map = projection.trace(graph, format!("input_proj.{i}"), level);
                let cells = graph.reshape(&map, &[model, rows * columns]);
                graph.transpose(&cells, &[0, 2, 1])
            })
            .collect();
        let cells = graph.concat(&cells.iter().collect::<Vec<_>>(), 1);
        let positions = graph.floats("positions", self.positions(&grids, &device));
        let places = Places::new(&grids, self.spec.config.n_points, &device);
        let x = self.layers.iter().enumerate().fold(cells, |x, (j, layer)| {
            graph.within(format!("layers.{j}"), |graph| layer.trace(graph, &x, &positions, &places))
        });
        let mut start = 0;
        let projections = grids.iter().zip(&self.output_proj).enumerate();
        let levels: Vec<Traced> = projections
            .map(|(i, ([rows, columns], projection))| {
                let cells = graph.slice(&x, 1, start..start + rows * columns);
                start += rows * columns;
                let map = graph.transpose(&cells, &[0, 2, 1]);
                let map = graph.reshape(&map, &[model, *rows, *columns]);
                projection.trace(graph, format!("output_proj.{i}"), &map)
            })
            .collect();
        let levels = self.fpn.trace(graph, &levels);
        trace_fuse(graph, &levels, self.reduce.as_ref(), self.spec.pyramid.output)
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        for (name, projections) in [("input_proj", &self.input_proj), ("output_proj", &self.output_proj)] {
            projections.iter().enumerate().for_each(|(i, layer)| visit(&format!("{name}.{i}"), layer));
        }
        self.fpn.visit_layers(visit);
        self.reduce.iter().for_each(|layer| visit("reduce", layer));
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        for (name, projections) in [("input_proj", &mut self.input_proj), ("output_proj", &mut self.output_proj)] {
            projections.iter_mut().enumerate().for_each(|(i, layer)| visit(&format!("{name}.{i}"), layer));
        }
        self.fpn.visit_layers_mut(visit);
        self.reduce.iter_mut().for_each(|layer| visit("reduce", layer));
    }

    fn own_dropout(&mut self) {
        self.layers.iter_mut().for_each(EncoderLayer::own_dropout);
    }

    fn seed_dropout(&self, seed: u64) {
        self.layers.iter().for_each(|layer| layer.seed_dropout(seed));
    }

    /// Projections in and out, the encoder and the pyramid.
    fn activation_elements(&self, grids: &[[usize; 2]]) -> usize {
        let cells: usize = grids.iter().map(|[rows, columns]| rows * columns).sum();
        let config = &self.spec.config;
        let projections = 4 * cells * config.d_model;
        let encoder = cells * config.num_encoder_layers * EncoderLayer::activation_elements_per_cell(config);
        projections + encoder + self.spec.pyramid.activation_elements(grids)
    }
}

/// `[batch, channels, height, width]` → `[batch, height · width, channels]`.
fn cells_of(map: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = map.dims();
    map.reshape([batch, channels, height * width]).swap_dims(1, 2)
}

/// `[batch, height · width, channels]` → `[batch, channels, height, width]`.
fn map_of(cells: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [batch, _, channels] = cells.dims();
    cells.swap_dims(1, 2).reshape([batch, channels, height, width])
}

/// The sine position encoding of DETR (Carion et al. 2020, <https://arxiv.org/abs/2005.12872>) at the centres of the cells of a
/// level, in units of its size: `[1, height · width, features]`, those of y before those of x.
fn sine_positions([height, width]: [usize; 2], features: usize, device: &Device) -> Tensor<3> {
    let half = features / 2;
    let axis = |size| Tensor::<1>::from_data(TensorData::new(waves(size, half), [size * half]), device);
    let y = axis(height).reshape([height, 1, half]).expand([height, width, half]);
    let x = axis(width).reshape([1, width, half]).expand([height, width, half]);
    Tensor::cat(vec![y, x], 2).reshape([1, height * width, features])
}

/// Sines and cosines in turn of each wave, `[size, features]` row by row.
fn waves(size: usize, features: usize) -> Vec<f32> {
    // As DETR divides: an edge is a little before 2π.
    let full = size as f64 + 1e-6;
    let centre = |cell: usize| std::f64::consts::TAU * (cell as f64 + 0.5) / full;
    let wave = |position: f64, feature: usize| {
        let angle = position / TEMPERATURE.powf((2 * (feature / 2)) as f64 / features as f64);
        (if feature.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    (0..size).flat_map(|cell| (0..features).map(move |feature| wave(centre(cell), feature))).collect()
}
