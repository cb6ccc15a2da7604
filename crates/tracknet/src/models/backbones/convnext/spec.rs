//! What distinguishes one ConvNeXt from another, what its checkpoints call its modules, and its `config.json`.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::models::ModelError;
use crate::models::backbones::config::{activation, config_keys, parse, positive};
use crate::models::backbones::{BackboneSpec, Family, ModuleName, Network};
use crate::models::features::{Layout, LevelLayout};
use crate::models::nn::{Activation, Builder};
use crate::models::registry::Described;

use super::{ConvNext, Layer};

/// In memory the stages are one module deeper than in files. Norm and convolution change places after the first stage.
const STAGES: &[ModuleName] = &[
    ModuleName::new("stages.*.layers.*.pointwise_conv1", "stages.*.layers.*.pointwise_conv1")
        .in_memory("model.stages.*.layers.*.pointwise_conv1")
        .role("dense"),
    ModuleName::new("stages.*.layers.*.pointwise_conv2", "stages.*.layers.*.pointwise_conv2")
        .in_memory("model.stages.*.layers.*.pointwise_conv2")
        .role("dense"),
    ModuleName::new("stages.0.conv", "stages.0.downsample_layers.0").in_memory("model.stages.0.downsample_layers.0"),
    ModuleName::new("stages.0.norm", "stages.0.downsample_layers.1").in_memory("model.stages.0.downsample_layers.1"),
    ModuleName::new("stages.*.norm", "stages.*.downsample_layers.0").in_memory("model.stages.*.downsample_layers.0"),
    ModuleName::new("stages.*.conv", "stages.*.downsample_layers.1").in_memory("model.stages.*.downsample_layers.1"),
    ModuleName::new("stages.*", "stages.*").in_memory("model.stages.*"),
];
pub(in crate::models) static FAMILY: Family = Family {
    model_type: "dinov3_convnext",
    architecture: "DINOv3ConvNextModel",
    optional_prefix: Some("model."),
    modules: &[STAGES],
    stacked: None,
    // The name in memory first, which ends with the other one.
    anchors: ["model.stages.0.downsample_layers.0.weight", "stages.0.downsample_layers.0.weight"],
    sizes: &["hidden_sizes", "depths"],
    image_processor: "DINOv3ViTImageProcessor",
    unused: &[],
};

/// The most stages: the coarsest cells are 512 pixels wide.
const MOST_STAGES: usize = 8;

config_keys! {
    /// Keys of `config.json` with a meaning here, with `transformers`' defaults: ConvNeXt-T.
    pub(in crate::models) struct Config {
        hidden_sizes: Vec<usize> = vec![96, 192, 384, 768],
        depths: Vec<usize> = vec![3, 3, 9, 3],
        hidden_act: String = "gelu".to_owned(),
        initializer_range: f32 = 0.02,
        layer_norm_eps: f64 = 1e-6,
        layer_scale_init_value: f32 = 1e-6,
    }
}

/// A ConvNeXt, described.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvNextSpec {
    /// Channels of each stage.
    pub channels: Vec<usize>,
    /// Layers of each stage.
    pub depths: Vec<usize>,
    /// Epsilon of every layer normalization.
    pub epsilon: f64,
    /// Activation between the pointwise convolutions.
    pub activation: Activation,
    /// First value of the layer scales.
    pub layer_scale: f32,
    /// Deviation of random weights.
    pub initializer_range: f32,
    /// The stages whose features are returned, counted from 1, ascending.
    pub stages: Vec<usize>,
    /// The configuration as it was read, so that it can be written again.
    pub config: Map<String, Value>,
}

/// Reads a `config.json`, which `key` names in errors, and the keys that mean nothing here. All stages are returned.
///
/// # Errors
/// A key of the wrong type, or sizes that cannot work together.
pub(in crate::models) fn describe(config: &Map<String, Value>, key: &str) -> Result<Described, ModelError> {
    let (spec, unknown) = read(config, key)?;
    Ok((Arc::new(spec), unknown))
}

/// As [`describe`].
pub(super) fn read(config: &Map<String, Value>, key: &str) -> Result<(ConvNextSpec, Vec<String>), ModelError> {
    let (c, unknown): (Config, _) = parse(config, key)?;
    let spec = ConvNextSpec {
        stages: (1..=c.hidden_sizes.len()).collect(),
        channels: c.hidden_sizes,
        depths: c.depths,
        epsilon: c.layer_norm_eps,
        activation: activation(&c.hidden_act, key)?,
        layer_scale: c.layer_scale_init_value,
        initializer_range: c.initializer_range,
        config: config.clone(),
    };
    spec.validate(key)?;
    Ok((spec, unknown))
}

impl ConvNextSpec {
    fn validate(&self, key: &str) -> Result<(), ModelError> {
        let refuse = |name: &str, message: String| Err(ModelError::key(format!("{key}.{name}"), message));
        let (stages, depths) = (self.channels.len(), self.depths.len());
        if !(1..=MOST_STAGES).contains(&stages) {
            return refuse("hidden_sizes", format!("has {stages} stages, expected 1 to {MOST_STAGES}"));
        }
        if depths != stages {
            return refuse("depths", format!("has {depths} stages, but hidden_sizes has {stages}: make them equal"));
        }
        for (name, sizes, most) in [("hidden_sizes", &self.channels, 1 << 14), ("depths", &self.depths, 1 << 10)] {
            if let Some(size) = sizes.iter().find(|size| !(1..=most).contains(*size)) {
                return refuse(name, format!("holds {size}, expected whole numbers from 1 to {most}"));
            }
        }
        positive(self.epsilon, "layer_norm_eps", key)?;
        for (name, value) in
            [("initializer_range", self.initializer_range), ("layer_scale_init_value", self.layer_scale)]
        {
            if !value.is_finite() || value < 0.0 {
                return refuse(name, format!("is {value}, expected a number that is not below 0"));
            }
        }
        Ok(())
    }

    /// Channels of the last stage.
    pub fn last_channels(&self) -> usize {
        self.channels.last().copied().unwrap_or_default()
    }

    /// The last stage whose features are returned, counted from 1.
    pub fn last_stage(&self) -> usize {
        self.stages.last().copied().unwrap_or_default()
    }

    /// Cells of the level before that become one cell of stage `index`, along an edge.
    pub(super) fn downsampling(&self, index: usize) -> usize {
        if index == 0 { 4 } else { 2 }
    }

    /// Input pixels of a cell of stage `index`, along an edge.
    pub(super) fn stride(&self, index: usize) -> usize {
        (0..=index).map(|i| self.downsampling(i)).product()
    }
}

impl BackboneSpec for ConvNextSpec {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    fn layout(&self) -> Layout {
        let level = |stage: &usize| LevelLayout { channels: self.channels[stage - 1], stride: self.stride(stage - 1) };
        Layout { levels: self.stages.iter().map(level).collect() }
    }

    /// The convolution of the first stage, which does not overlap, before the norm.
    fn embedding(&self) -> LevelLayout {
        LevelLayout { channels: self.channels[0], stride: self.stride(0) }
    }

    fn with_stages(&self, stages: &[usize]) -> Result<Option<Arc<dyn BackboneSpec>>, ModelError> {
        let count = self.channels.len();
        let is_there = stages.iter().all(|stage| (1..=count).contains(stage));
        if stages.is_empty() || !is_there || !stages.is_sorted_by(|a, b| a < b) {
            let levels =
                (0..count).map(|i| format!("{} (stride {}, {} channels)", i + 1, self.stride(i), self.channels[i]));
            let levels = levels.collect::<Vec<_>>().join(", ");
            let message = format!(
                "is {stages:?}, expected stages of the backbone in ascending order, each once; it has {levels}"
            );
            return Err(ModelError::key("model.backbone.return_stages", message));
        }
        Ok(Some(Arc::new(Self { stages: stages.to_vec(), ..self.clone() })))
    }

    fn reaches_features(&self, name: &str) -> bool {
        let stage = name.strip_prefix("stages.").and_then(|below| below.split('.').next()?.parse::<usize>().ok());
        stage.is_some_and(|index| index < self.last_stage())
    }

    /// It has strides instead.
    fn patch_size(&self) -> Option<usize> {
        None
    }

    fn token_features(&self) -> usize {
        self.last_channels()
    }

    fn sizes(&self) -> String {
        format!("hidden_sizes {:?}, depths {:?}", self.channels, self.depths)
    }

    /// Biases, norms and scales are not counted.
    fn weights(&self) -> u128 {
        let stages = self.channels.iter().zip(&self.depths).enumerate().map(|(i, (&channels, &depth))| {
            let input = if i == 0 { 3 } else { self.channels[i - 1] };
            let side = self.downsampling(i);
            let layer = Layer::KERNEL * Layer::KERNEL + 2 * Layer::EXPANSION * channels;
            channels as u128 * (input * side * side + depth * layer) as u128
        });
        stages.sum()
    }

    /// Every size works from one cell of the last stage on: what fills no whole cell is cut off.
    fn check_input(&self, [width, height]: [usize; 2]) -> Result<(), ModelError> {
        let least = self.stride(self.channels.len() - 1);
        if width >= least && height >= least {
            return Ok(());
        }
        let message = format!(
            "[{width}, {height}] is smaller than a cell of the backbone's last stage: width and height must be at least {least}"
        );
        Err(ModelError::key("data.preprocess.resize", message))
    }

    fn computation(&self) -> Vec<(&'static str, String)> {
        vec![
            ("layer_norm_eps", self.epsilon.to_string()),
            ("hidden_act", format!("{:?}", self.activation)),
            ("return_stages", format!("{:?}", self.stages)),
        ]
    }

    fn build(&self, builder: &Builder<'_>) -> Network {
        Network::ConvNext(ConvNext::new(self, builder))
    }
}
