//! The `upsampling` decoder: from one feature map to heatmap resolution, stage by stage.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::{DecoderConfig, Section};
use crate::models::ModelError;
use crate::models::features::{Features, Layout, LevelLayout};
use crate::models::graph::{Graph, Traced};
use crate::models::lora::{AdaptableLayer, LoraLayer};
use crate::models::nn::{Builder, Conv2d, ConvSpec};
use crate::models::window::WindowSpec;

use super::block::ResidualBlock;
use super::resize::resize_bilinear;
use super::stem::{Stem, StemFeatures, StemSpec};
use super::{Decoder, DecoderNetwork, DecoderSpec};

/// A decoder's plan: the configuration, checked against the backbone it follows.
#[derive(Debug, Clone)]
pub struct UpsamplingSpec {
    config: DecoderConfig,
    stages: Vec<StageSpec>,
    output: [usize; 2],
    /// Stride of the level that it begins with.
    stride: usize,
    /// Frames that the stem sees.
    frames: usize,
}

#[derive(Debug, Clone, Copy)]
struct StageSpec {
    channels: [usize; 2],
    factor: usize,
    skip: Option<Skip>,
}

/// Which of the stem's features a stage takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    Full,
    Half,
    Quarter,
}

impl Skip {
    fn channels(self) -> usize {
        let [half, quarter] = Stem::CHANNELS;
        match self {
            Self::Full => Stem::FULL_CHANNELS,
            Self::Half => half,
            Self::Quarter => quarter,
        }
    }
}

impl UpsamplingSpec {
    /// Checks a configuration against the level of a backbone that the decoder begins with; `heatmap` is `[W, H]`.
    ///
    /// # Errors
    /// Names the key, its value, and the value that would work.
    pub fn new(config: &DecoderConfig, layout: &Layout, heatmap: [usize; 2]) -> Result<Self, ModelError> {
        let Some(LevelLayout { channels, stride }) = layout.single() else {
            let message = format!(
                "the backbone gives {layout}, and the upsampling decoder begins with one: name one stage, such as \
                 model.backbone.return_stages: [4]"
            );
            return Err(ModelError::key("model.backbone.return_stages", message));
        };
        check(config, channels)?;
        let mut reached = 1;
        let stages: Vec<StageSpec> = config
            .channels
            .windows(2)
            .enumerate()
            .map(|(i, pair)| {
                let factor = config.upsample.get(i).copied().unwrap_or(1);
                reached *= factor;
                let skip = match reached {
                    _ if !config.skip || factor == 1 => None,
                    r if r * 2 == stride => Some(Skip::Half),
                    r if r * 4 == stride => Some(Skip::Quarter),
                    _ => None,
                };
                StageSpec { channels: [pair[0], pair[1]], factor, skip }
            })
            .collect();
        if config.skip && stages.iter().all(|s| s.skip.is_none()) {
            let message = format!(
                "no stage reaches a quarter or half of the input's resolution: patches of {stride} pixels, factors {:?}",
                config.upsample
            );
            return Err(ModelError::key("model.decoder.skip", message));
        }
        let [width, height] = heatmap;
        Ok(Self { config: config.clone(), stages, output: [height, width], stride, frames: 1 })
    }
}

impl UpsamplingSpec {
    /// With a stem that sees windows, where they come in there. A stage that reaches the resolution of the input takes in
    /// features of that resolution, too. Without `skip` there is no stem, and a [`WindowSpec`] that was checked does not ask
    /// for it.
    #[must_use]
    pub fn seeing(mut self, window: WindowSpec) -> Self {
        if !self.config.skip || !window.enters_stem() {
            return self;
        }
        self.frames = window.frames;
        let mut reached = 1;
        for stage in &mut self.stages {
            reached *= stage.factor;
            if stage.factor > 1 && reached == self.stride {
                stage.skip = Some(Skip::Full);
            }
        }
        self
    }

    fn stem(&self) -> StemSpec {
        let has_full = self.stages.iter().any(|stage| stage.skip == Some(Skip::Full));
        StemSpec { frames: self.frames, has_full }
    }
}

impl DecoderSpec for UpsamplingSpec {
    fn output_channels(&self) -> usize {
        self.config.channels.last().copied().unwrap_or_default()
    }

    fn build(&self, builder: &Builder<'_>) -> Decoder {
        Decoder::Upsampling(UpsamplingDecoder::new(self, builder))
    }
}

fn check(config: &DecoderConfig, channels: usize) -> Result<(), ModelError> {
    let refuse = |key: &str, message: String| Err(ModelError::key(format!("model.decoder.{key}"), message));
    if let Some((key, message)) = config.out_of_bounds().into_iter().next() {
        return refuse(&key, message);
    }
    if let Some(first) = config.channels.first().filter(|first| **first != channels) {
        let message = format!("starts with {first}, but the backbone's hidden size is {channels}: make them equal");
        return refuse("channels", message);
    }
    let stages = config.channels.len() - 1;
    if config.upsample.len() > stages {
        let message = format!("has {} factors, but `channels` makes {stages} stages", config.upsample.len());
        return refuse("upsample", message);
    }
    Ok(())
}

/// Stages of resize, pointwise convolution and residual blocks.
#[derive(Module, Debug)]
pub struct UpsamplingDecoder {
    stages: Vec<Stage>,
    stem: Option<Stem>,
    #[module(skip)]
    output: [usize; 2],
    /// Pixels of a frame for each cell of the level that it begins with, if the stem sees windows.
    #[module(skip)]
    window_pixels: Option<usize>,
}

impl UpsamplingDecoder {
    /// Builds what `spec` describes; the builder gives the values.
    pub fn new(spec: &UpsamplingSpec, builder: &Builder<'_>) -> Self {
        Self {
            stages: spec
                .stages
                .iter()
                .enumerate()
                .map(|(i, stage)| Stage::new(*stage, &spec.config, &builder.at("stages").at(i)))
                .collect(),
            stem: spec.config.skip.then(|| Stem::new(spec.stem(), &spec.config, &builder.at("stem"))),
            output: spec.output,
            window_pixels: (spec.frames > 1).then_some(spec.stride * spec.stride),
        }
    }
}

impl DecoderNetwork for UpsamplingDecoder {
    fn forward(&self, features: Features, frames: Tensor<4>) -> Tensor<4> {
        let skips = self.stem.as_ref().map(|stem| stem.forward(frames));
        let x = features.coarsest().map.clone();
        let x = self.stages.iter().fold(x, |x, stage| stage.forward(x, skips.as_ref()));
        resize_bilinear(x, self.output)
    }

    fn trace(&self, graph: &mut Graph, levels: &[Traced], frames: &Traced) -> Traced {
        let skips = self.stem.as_ref().map(|stem| graph.within("stem", |graph| stem.trace(graph, frames)));
        let coarsest = levels[levels.len() - 1].clone();
        let x = self.stages.iter().enumerate().fold(coarsest, |x, (i, stage)| {
            graph.within(format!("stages.{i}"), |graph| stage.trace(graph, &x, skips.as_ref()))
        });
        graph.resize_bilinear(&x, self.output)
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        for (i, stage) in self.stages.iter().enumerate() {
            if let Some(proj) = &stage.proj {
                visit(&format!("stages.{i}.proj"), proj);
            }
            for (j, block) in stage.blocks.iter().enumerate() {
                block.layers().into_iter().for_each(|(n, c)| visit(&format!("stages.{i}.blocks.{j}.{n}"), c));
            }
        }
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        for (i, stage) in self.stages.iter_mut().enumerate() {
            if let Some(proj) = &mut stage.proj {
                visit(&format!("stages.{i}.proj"), proj);
            }
            for (j, block) in stage.blocks.iter_mut().enumerate() {
                block.layers_mut().into_iter().for_each(|(n, c)| visit(&format!("stages.{i}.blocks.{j}.{n}"), c));
            }
        }
    }

    fn own_dropout(&mut self) {
        self.stages.iter_mut().flat_map(|s| &mut s.blocks).for_each(|block| block.own_dropout());
    }

    fn seed_dropout(&self, seed: u64) {
        self.stages.iter().flat_map(|s| &s.blocks).for_each(|block| block.seed_dropout(seed));
    }

    /// Input, convolution, norm, activation and output of every block, and the resized input of every stage; the stem if it
    /// sees windows.
    fn activation_elements(&self, grids: &[[usize; 2]]) -> usize {
        let mut cells = grids.last().map_or(0, |[rows, columns]| rows * columns);
        let window = self.stem.as_ref().zip(self.window_pixels);
        let mut elements = window.map_or(0, |(stem, pixels)| stem.activation_elements(cells * pixels));
        for stage in &self.stages {
            cells *= stage.factor * stage.factor;
            elements += cells * stage.channels * (2 + 8 * stage.blocks.len());
        }
        elements
    }
}

/// Resize, `proj`, residual blocks.
#[derive(Module, Debug)]
pub struct Stage {
    proj: Option<LoraLayer<Conv2d>>,
    blocks: Vec<ResidualBlock>,
    #[module(skip)]
    factor: usize,
    #[module(skip)]
    channels: usize,
    #[module(skip)]
    skip: Option<Skip>,
}

impl Stage {
    fn new(spec: StageSpec, config: &DecoderConfig, builder: &Builder<'_>) -> Self {
        let [input, output] = spec.channels;
        let input = input + spec.skip.map_or(0, Skip::channels);
        Self {
            proj: (input != output || spec.skip.is_some())
                .then(|| LoraLayer::new(ConvSpec::square([input, output], 1).build(&builder.at("proj")))),
            blocks: (0..config.blocks_per_stage)
                .map(|j| ResidualBlock::new(config, output, &builder.at("blocks").at(j)))
                .collect(),
            factor: spec.factor,
            channels: output,
            skip: spec.skip,
        }
    }

    fn forward(&self, x: Tensor<4>, skips: Option<&StemFeatures>) -> Tensor<4> {
        let [_, channels, height, width] = x.dims();
        let size = [height * self.factor, width * self.factor];
        let extra = self.taken_in(skips);
        // `proj` has no bias and works on each pixel, the resize works on each channel and its weights sum to one:
        // the two commute, so the convolution runs at the lower resolution and the resize on fewer channels.
        let x = match (&self.proj, extra) {
            (Some(proj), None) => resize_bilinear(proj.forward(x), size),
            (Some(proj), Some(extra)) => {
                let width = channels + extra.dims()[1];
                let from_features = resize_bilinear(proj.forward_channels(x, 0..channels), size);
                from_features + proj.forward_channels(extra, channels..width)
            }
            (None, _) => resize_bilinear(x, size),
        };
        self.blocks.iter().fold(x, |x, block| block.forward(x))
    }

    /// What it takes in of the stem.
    fn taken_in<T: Clone>(&self, skips: Option<&StemFeatures<T>>) -> Option<T> {
        let stem = skips?;
        match self.skip? {
            Skip::Full => stem.full.clone(),
            Skip::Half => Some(stem.half.clone()),
            Skip::Quarter => Some(stem.quarter.clone()),
        }
    }

    /// [`Stage::forward`] as part of a graph, without adapters.
    fn trace(&self, graph: &mut Graph, x: &Traced, skips: Option<&StemFeatures<Traced>>) -> Traced {
        let channels = x.shape[0];
        let size = [x.shape[1] * self.factor, x.shape[2] * self.factor];
        let x = match (&self.proj, self.taken_in(skips)) {
            (Some(proj), None) => {
                let x = proj.trace(graph, "proj", x);
                graph.resize_bilinear(&x, size)
            }
            (Some(proj), Some(extra)) => {
                let width = channels + extra.shape[0];
                let x = proj.trace_channels(graph, "proj", x, 0..channels);
                let from_features = graph.resize_bilinear(&x, size);
                let from_stem = proj.trace_channels(graph, "proj", &extra, channels..width);
                graph.add(&from_features, &from_stem)
            }
            (None, _) => graph.resize_bilinear(x, size),
        };
        self.blocks
            .iter()
            .enumerate()
            .fold(x, |x, (i, block)| graph.within(format!("blocks.{i}"), |graph| block.trace(graph, &x)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HeatmapFrames, Temporal, TemporalInput};

    fn layout(channels: usize, stride: usize) -> Layout {
        Layout { levels: vec![LevelLayout { channels, stride }] }
    }

    #[test]
    fn the_first_channel_count_must_be_the_hidden_size() {
        let message =
            UpsamplingSpec::new(&DecoderConfig::default(), &layout(768, 16), [256, 144]).unwrap_err().to_string();
        assert!(message.contains("384") && message.contains("768"), "{message}");
    }

    #[test]
    fn skips_join_the_stages_that_reach_a_quarter_and_a_half() {
        let config = DecoderConfig { skip: true, ..DecoderConfig::default() };
        let spec = UpsamplingSpec::new(&config, &layout(384, 16), [256, 144]).unwrap();
        let skips: Vec<_> = spec.stages.iter().map(|s| s.skip).collect();
        assert_eq!(skips, [None, Some(Skip::Quarter), Some(Skip::Half)]);
        let message = UpsamplingSpec::new(&config, &layout(384, 14), [256, 144]).unwrap_err().to_string();
        assert!(message.contains("decoder.skip") && message.contains("14"), "{message}");
    }

    #[test]
    fn windows_of_the_stem_join_the_stage_that_reaches_the_input_too() {
        let window = |input| WindowSpec { frames: 3, temporal: Temporal::Stack, input, heatmaps: HeatmapFrames::Last };
        let config =
            DecoderConfig { channels: vec![8; 5], upsample: vec![2; 4], skip: true, ..DecoderConfig::default() };
        let spec = UpsamplingSpec::new(&config, &layout(8, 16), [256, 144]).unwrap();
        let single = StemSpec { frames: 1, has_full: false };
        assert_eq!(spec.stem(), single);
        assert_eq!(spec.clone().seeing(window(TemporalInput::Patches)).stem(), single);
        let spec = spec.seeing(window(TemporalInput::Stem));
        assert_eq!(spec.stem(), StemSpec { frames: 3, has_full: true });
        let skips: Vec<_> = spec.stages.iter().map(|s| s.skip).collect();
        assert_eq!(skips, [None, Some(Skip::Quarter), Some(Skip::Half), Some(Skip::Full)]);
    }

    #[test]
    fn more_factors_than_stages_are_refused() {
        let config = DecoderConfig { upsample: vec![2; 4], ..DecoderConfig::default() };
        let message = UpsamplingSpec::new(&config, &layout(384, 16), [256, 144]).unwrap_err().to_string();
        assert!(message.contains("4 factors") && message.contains("3 stages"), "{message}");
    }
}
