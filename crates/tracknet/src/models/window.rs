//! How a window of frames comes into a model.
//!
//! A window is `[batch, 3 · frames, height, width]`, oldest frame first; the last one is searched for the ball, or each. There
//! are two ways in:
//!
//! * the **stem**: the backbone sees the last frame, and the convolutional stem of the decoder the whole window. That is so
//!   with a heatmap for each frame, too: where the ball was in the earlier ones, the stem alone can see;
//! * the **patches**: each patch of the earlier frames is embedded by a convolution of its own, and added to the embedding of
//!   the last frame's patch (in a convolutional backbone what its first convolution gives, before the norm). That is what a
//!   first layer with more input channels computes, while the backbone and its files stay as they are. The kernels start at
//!   zero, so that the features are those of the single frame at first.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use crate::config::{DataConfig, HeatmapFrames, ModelConfig, Temporal, TemporalInput};

use super::ModelError;
use super::features::LevelLayout;
use super::graph::{Graph, Traced};
use super::nn::{Builder, Conv2d, ConvSpec, Fill};
use super::state::ParameterInfo;

/// What a model is given at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelInput {
    /// Size of a frame as `[W, H]`, in pixels.
    pub size: [usize; 2],
    /// Frames of a window.
    pub frames: usize,
}

impl From<[usize; 2]> for ModelInput {
    /// Single frames.
    fn from(size: [usize; 2]) -> Self {
        Self { size, frames: 1 }
    }
}

impl From<&DataConfig> for ModelInput {
    fn from(config: &DataConfig) -> Self {
        Self { size: config.preprocess.resize, frames: config.sequence.frames() }
    }
}

/// What a model sees of a window, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpec {
    /// Frames of a window.
    pub frames: usize,
    /// In which form they are seen.
    pub temporal: Temporal,
    /// Where they come in.
    pub input: TemporalInput,
    /// Which of them have a heatmap.
    pub heatmaps: HeatmapFrames,
}

impl WindowSpec {
    /// The last frame alone.
    pub const SINGLE: Self =
        Self { frames: 1, temporal: Temporal::None, input: TemporalInput::Stem, heatmaps: HeatmapFrames::Last };

    /// Checks a configuration against the number of frames that the model will be given.
    ///
    /// # Errors
    /// As [`ModelConfig::check_windows`].
    pub fn new(config: &ModelConfig, frames: usize) -> Result<Self, ModelError> {
        config.check_windows(frames).map_err(|mismatch| ModelError::key(mismatch.key, mismatch.message))?;
        Ok(match config.temporal {
            Temporal::None => Self::SINGLE,
            temporal => Self { frames, temporal, input: config.temporal_input, heatmaps: config.heatmap.frames },
        })
    }

    /// Heatmaps of a window.
    pub fn heatmaps(self) -> usize {
        self.heatmaps.of(self.frames)
    }

    /// Whether the decoder's stem sees the window.
    pub fn enters_stem(self) -> bool {
        self.frames > 1 && self.input == TemporalInput::Stem
    }

    /// Whether the backbone's patch embedding sees the window.
    pub fn enters_patches(self) -> bool {
        self.frames > 1 && self.input == TemporalInput::Patches
    }
}

/// The way of a window into its model.
#[derive(Module, Debug)]
pub struct Window {
    /// Embeds the patches of the earlier frames.
    patches: Option<Conv2d>,
    #[module(skip)]
    spec: WindowSpec,
}

impl Window {
    /// Single frames.
    pub fn single() -> Self {
        Self { patches: None, spec: WindowSpec::SINGLE }
    }

    /// For a backbone whose first layer embeds patches as `embedding` says.
    pub fn new(spec: WindowSpec, embedding: LevelLayout, builder: &Builder<'_>) -> Self {
        let LevelLayout { channels, stride } = embedding;
        let kernels = || {
            let kernels = ConvSpec::patches([3 * (spec.frames - 1), channels], stride, 0.0);
            kernels.with_fill(Fill::ZERO).without_bias().build(&builder.at("patches"))
        };
        Self { patches: spec.enters_patches().then(kernels), spec }
    }

    /// What the model sees, and where.
    pub fn spec(&self) -> WindowSpec {
        self.spec
    }

    /// The last frame `[batch, 3, height, width]` of windows.
    pub fn last_frame(&self, windows: Tensor<4>) -> Tensor<4> {
        match self.spec.frames {
            1 => windows,
            frames => windows.narrow(1, 3 * (frames - 1), 3),
        }
    }

    /// What is added to the patch embedding of the last frame, `[batch, channels, rows, columns]`.
    pub fn embedding(&self, windows: &Tensor<4>) -> Option<Tensor<4>> {
        let patches = self.patches.as_ref()?;
        Some(patches.forward(self.earlier(windows.clone())))
    }

    /// What the decoder sees of windows: `[batch, 3 · frames, height, width]` if they come in by its stem, else the last frame.
    pub fn for_decoder(&self, windows: Tensor<4>) -> Tensor<4> {
        match (self.spec.enters_stem(), self.spec.temporal) {
            (false, _) => self.last_frame(windows),
            (true, Temporal::None | Temporal::Stack) => windows,
            (true, Temporal::Difference) => {
                Tensor::cat(vec![self.earlier(windows.clone()), self.last_frame(windows)], 1)
            }
        }
    }

    /// The earlier frames `[batch, 3 · (frames − 1), height, width]`, or what is left when each is taken from the last frame.
    fn earlier(&self, windows: Tensor<4>) -> Tensor<4> {
        let count = self.spec.frames - 1;
        let earlier = windows.clone().narrow(1, 0, 3 * count);
        match self.spec.temporal {
            Temporal::None | Temporal::Stack => earlier,
            Temporal::Difference => Tensor::cat(vec![self.last_frame(windows); count], 1) - earlier,
        }
    }

    /// [`Window::last_frame`] as part of a graph.
    pub(crate) fn trace_last_frame(&self, graph: &mut Graph, windows: &Traced) -> Traced {
        graph.slice(windows, 1, 3 * (self.spec.frames - 1)..3 * self.spec.frames)
    }

    /// [`Window::embedding`] as part of a graph.
    pub(crate) fn trace_embedding(&self, graph: &mut Graph, windows: &Traced) -> Option<Traced> {
        let patches = self.patches.as_ref()?;
        let earlier = self.trace_earlier(graph, windows);
        Some(graph.within("patches", |graph| patches.trace(graph, &earlier)))
    }

    /// [`Window::for_decoder`] as part of a graph.
    pub(crate) fn trace_for_decoder(&self, graph: &mut Graph, windows: &Traced) -> Traced {
        match (self.spec.enters_stem(), self.spec.temporal) {
            (false, _) => self.trace_last_frame(graph, windows),
            (true, Temporal::None | Temporal::Stack) => windows.clone(),
            (true, Temporal::Difference) => {
                let (earlier, last) = (self.trace_earlier(graph, windows), self.trace_last_frame(graph, windows));
                graph.concat(&[&earlier, &last], 1)
            }
        }
    }

    fn trace_earlier(&self, graph: &mut Graph, windows: &Traced) -> Traced {
        let count = self.spec.frames - 1;
        let earlier = graph.slice(windows, 1, 0..3 * count);
        match self.spec.temporal {
            Temporal::None | Temporal::Stack => earlier,
            Temporal::Difference => {
                let last = self.trace_last_frame(graph, windows);
                let last = graph.concat(&vec![&last; count], 1);
                graph.subtract(&last, &earlier)
            }
        }
    }
}

/// The weight of a parameter that sees windows, from the one that saw fewer frames or was not there: the channels of earlier
/// frames come first and begin at zero. `None` for every other parameter.
pub(crate) fn of_more_frames(parameter: &ParameterInfo, found: Option<&TensorData>) -> Option<TensorData> {
    let ParameterInfo { name, shape, .. } = parameter;
    let of_patches = name == "window.patches.weight";
    let of_stem =
        name.starts_with("decoder.stem.") && name.ends_with(".conv.weight") || name == "decoder.down.0.0.conv.weight";
    let [output, channels, height, width] = shape[..] else { return None };
    let mut values = vec![0.0; parameter.count()];
    match found {
        None if of_patches => {}
        Some(data) if of_patches || of_stem => {
            let [o, fewer, h, w] = data.shape().to_vec()[..] else { return None };
            if [o, h, w] != [output, height, width] || !(1..channels).contains(&fewer) {
                return None;
            }
            let (wide, narrow) = (channels * height * width, fewer * height * width);
            let found: Vec<f32> = data.iter::<f32>().collect();
            for (new, old) in values.chunks_exact_mut(wide).zip(found.chunks_exact(narrow)) {
                new[wide - narrow..].copy_from_slice(old);
            }
        }
        _ => return None,
    }
    Some(TensorData::new(values, shape.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn window(temporal: Temporal, input: TemporalInput) -> Window {
        Window { patches: None, spec: WindowSpec { frames: 3, temporal, input, heatmaps: HeatmapFrames::Last } }
    }

    /// One pixel; frame `f`, channel `c` is `10 f² + c`.
    fn pixels() -> Tensor<4> {
        let values: Vec<f32> = (0..9u16).map(|i| f32::from(10 * (i / 3) * (i / 3) + i % 3)).collect();
        Tensor::from_data(TensorData::new(values, [1, 9, 1, 1]), &Device::flex())
    }

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn the_stem_sees_frames_or_differences_and_the_last_frame_last() {
        let stacked = window(Temporal::Stack, TemporalInput::Stem);
        assert_eq!(values(stacked.for_decoder(pixels())), values(pixels()));
        assert_eq!(values(stacked.last_frame(pixels())), [40.0, 41.0, 42.0]);
        let differences = window(Temporal::Difference, TemporalInput::Stem).for_decoder(pixels());
        assert_eq!(values(differences), [40.0, 40.0, 40.0, 30.0, 30.0, 30.0, 40.0, 41.0, 42.0]);
        let patches = window(Temporal::Difference, TemporalInput::Patches).for_decoder(pixels());
        assert_eq!(values(patches), [40.0, 41.0, 42.0]);
    }

    #[test]
    fn windows_and_the_model_must_agree() {
        let config = |temporal| ModelConfig { temporal, ..ModelConfig::default() };
        assert_eq!(WindowSpec::new(&config(Temporal::None), 1).unwrap(), WindowSpec::SINGLE);
        for (temporal, frames, text) in [
            (Temporal::None, 3, "data.sequence: makes windows of 3 frames, but model.temporal is none"),
            (Temporal::Stack, 1, "model.temporal: is stack, but data.sequence makes no windows"),
            (Temporal::Stack, 3, "model.temporal_input: is stem, but model.decoder.skip is false"),
        ] {
            let message = WindowSpec::new(&config(temporal), frames).unwrap_err().to_string();
            assert!(message.starts_with(text), "{message}");
        }
        let mut all = config(Temporal::Stack);
        all.decoder.skip = true;
        let heatmaps = |config: &ModelConfig, frames| WindowSpec::new(config, frames).map(WindowSpec::heatmaps);
        assert_eq!(heatmaps(&all, 3).unwrap(), 1);
        all.heatmap.frames = HeatmapFrames::All;
        assert_eq!(heatmaps(&all, 3).unwrap(), 3);
        all.temporal = Temporal::None;
        let message = heatmaps(&all, 1).unwrap_err().to_string();
        assert!(message.contains("model.heatmap.frames") && message.contains("data.sequence"), "{message}");
    }
}
