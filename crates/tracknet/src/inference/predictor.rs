//! A trained model at work: image, folder or video → the ball of each frame, in its own pixels.
//!
//! Frames go through the model in small batches, so that a source of any length needs the memory of a few batches
//! ([`pipeline`](super::pipeline)). A model that sees windows gets those of the stream, which are cut from frames that were decoded
//! once; in the files of several directories each directory is a clip of its own. With a heatmap for each frame of a window, frames
//! wait until their window is whole or their clip ends.
//! What becomes of a frame (a row, an overlay, a heatmap, a frame of a video) is the caller's business: it sees what was
//! found on each frame, or that the frame is damaged, in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;

use crate::artifacts::{BuildReport, load_model_for_inference};
use crate::compute::DeviceError;
use crate::config::Config;
use crate::datasets::image::{Normalizer, resize};
use crate::datasets::{BatchSpec, Geometry};
use crate::error::Result;
use crate::evaluation::decode::{Activation, Candidate, DecodeOptions, decode_candidates};
use crate::evaluation::overlay::{heatmap_picture, overlay};
use crate::evaluation::track::{Change, SceneWatch};
use crate::models::HeatmapModel;

use super::frames::{Frames, WindowShape};
use super::pipeline::StageTimes;
use super::ring::{Cut, Ring};
use super::selection::Selection;
use super::{InferenceError, Prediction, Source, VideoTools};

/// A model with everything around it that turns pictures into positions. A clone shares the weights.
#[derive(Debug, Clone)]
pub struct Predictor {
    model: HeatmapModel,
    pub(super) spec: BatchSpec,
    normalizer: Normalizer,
    activation: Activation,
    decode: DecodeOptions,
    /// How many are asked for, if several are.
    candidates: Option<usize>,
    device: Device,
    pub(super) options: StreamOptions,
    pub(super) times: Arc<StageTimes>,
    pub(super) stop: Arc<AtomicBool>,
}

/// What became of a frame.
#[derive(Debug, Clone)]
pub enum Predicted {
    /// It was read and searched.
    Frame(Box<FrameResult>),
    /// It cannot be read: an absent ball, and why.
    Damaged(Prediction),
}

impl Predicted {
    /// Its row.
    pub fn prediction(&self) -> &Prediction {
        match self {
            Self::Frame(result) => &result.prediction,
            Self::Damaged(prediction) => prediction,
        }
    }

    pub(super) fn prediction_mut(&mut self) -> &mut Prediction {
        match self {
            Self::Frame(result) => &mut result.prediction,
            Self::Damaged(prediction) => prediction,
        }
    }
}

/// Takes each frame in order.
pub(super) type Each<'a> = dyn FnMut(Predicted) -> Result<()> + Send + 'a;

/// Activated heatmaps `[Hh, Wh]` by the numbers of their frames.
pub(super) type Heatmaps = BTreeMap<u64, Vec<f32>>;

/// A frame whose heatmap is looked for: its number, the name of its file, its size, its pixels if they are wanted.
pub(super) struct Read {
    number: u64,
    file: Option<String>,
    size: [usize; 2],
    frame: RgbImage,
    change: Option<Change>,
}

impl Read {
    /// How much of memory its pixels take.
    pub(super) fn bytes(&self) -> usize {
        self.frame.as_raw().len()
    }
}

/// How a source is gone through.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Which of its frames are looked at.
    pub selection: Selection,
    /// Windows in one forward pass, at least one. Live sources take one at a time.
    pub batch: usize,
    /// Whether frames that come while others are searched are left out; `None` = those of a source that is live.
    pub live: Option<bool>,
    /// Whether results hold the frame and its heatmap; without, both are empty, and a prediction takes less memory.
    pub pictures: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { selection: Selection::default(), batch: 4, live: None, pictures: true }
    }
}

/// What was found on one frame, and from what.
#[derive(Debug, Clone)]
pub struct FrameResult {
    /// The detection in native pixels; also one with a low score.
    pub prediction: Prediction,
    /// The likeliest places of the ball in native pixels, as many as were [asked for](Predictor::with_candidates).
    pub candidates: Vec<Candidate>,
    /// How the frame follows the one before it that could be read, where candidates were
    /// [asked for](Predictor::with_candidates).
    pub change: Option<Change>,
    /// Size of the frame as `[W, H]`.
    pub size: [usize; 2],
    /// The frame as it was read; empty without [`StreamOptions::pictures`].
    pub frame: RgbImage,
    /// Activated heatmap `[Hh, Wh]`, values in 0..1; empty without [`StreamOptions::pictures`].
    pub heatmap: Vec<f32>,
    heatmap_size: [usize; 2],
}

impl FrameResult {
    /// The frame with the detection ringed if its score is at least `threshold`.
    ///
    /// # Errors
    /// Only a damaged built-in font.
    pub fn overlay(&self, threshold: f32) -> Result<RgbImage> {
        overlay(&self.frame, self.prediction.visible(threshold), None)
    }

    /// The heatmap in colours, in the size of the frame.
    ///
    /// # Errors
    /// None that a predictor's own result can cause.
    pub fn heatmap_picture(&self) -> Result<RgbImage> {
        let size = [self.frame.width() as usize, self.frame.height() as usize];
        heatmap_picture(&self.heatmap, self.heatmap_size, size)
    }
}

impl Predictor {
    /// A predictor from a model, the report of its build and the configuration of its run; `device` is the model's.
    pub fn new(model: &HeatmapModel, build: &BuildReport, config: &Config, device: &Device) -> Self {
        let spec = BatchSpec::new(config, build.normalization());
        Self {
            model: model.valid(),
            normalizer: spec.normalizer(),
            spec,
            activation: Activation::from(config.training.loss.name),
            decode: DecodeOptions::default(),
            candidates: None,
            device: device.clone(),
            options: StreamOptions::default(),
            times: Arc::default(),
            stop: Arc::default(),
        }
    }

    /// A predictor from a run or checkpoint directory. If the base was moved, use [`load_model_for_inference`] and
    /// [`Predictor::new`].
    ///
    /// # Errors
    /// If it has no whole checkpoint, or the base that it was trained on cannot be found.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let loaded = load_model_for_inference(path, None, device)?;
        Ok(Self::new(&loaded.model, &loaded.build, &loaded.config, device))
    }

    /// The same predictor with other decoding options.
    #[must_use]
    pub fn with_decoding(self, decode: DecodeOptions) -> Self {
        Self { decode, ..self }
    }

    /// The same predictor, which gives up to `most` candidates of each frame, at least one, and says how each frame follows the
    /// one before; by default one candidate, and frames are not compared.
    #[must_use]
    pub fn with_candidates(self, most: usize) -> Self {
        Self { candidates: Some(most.max(1)), ..self }
    }

    /// The same predictor, which goes through sources in another way.
    #[must_use]
    pub fn with_options(self, options: StreamOptions) -> Self {
        Self { options: StreamOptions { batch: options.batch.max(1), ..options }, ..self }
    }

    /// The same predictor, which adds the time that it takes to `times`.
    #[must_use]
    pub fn timed_by(self, times: Arc<StageTimes>) -> Self {
        Self { times, ..self }
    }

    /// The same predictor, which stops after the frames at hand when `stop` is set.
    #[must_use]
    pub fn stopping_at(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// What makes it stop.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Finds the ball on one picture. In the window of a model that sees windows it stands still.
    ///
    /// # Errors
    /// If the picture cannot be resized or the model gives values that are not finite.
    pub fn image(&self, frame: RgbImage) -> Result<FrameResult> {
        let none = || Err(InferenceError::Picture("the model gave nothing".to_owned()).into());
        self.images(vec![frame])?.pop().unwrap_or_else(none)
    }

    /// [`Predictor::image`] of several that have nothing to do with each other, in common forward passes: what was found on each,
    /// or why nothing could be. Their numbers are their places in `frames`.
    ///
    /// # Errors
    /// A device that fails them all.
    pub fn images(&self, frames: Vec<RgbImage>) -> Result<Vec<Result<FrameResult>>> {
        let mut cuts = Vec::new();
        let mut read = |(number, frame): (u64, RgbImage)| {
            let mut ring = Ring::new(&self.spec);
            let (change, whole) = self.prepare(number, &frame, &mut ring, &mut self.scene_watch())?;
            cuts.extend(whole);
            cuts.extend(ring.finish());
            Ok::<_, String>(self.keep(number, None, frame, change))
        };
        let reads: Vec<Result<Read, String>> = (0..).zip(frames).map(&mut read).collect();
        let heatmaps = self.heatmaps(&cuts)?;
        let result = |read: Result<Read, String>| self.result(read.map_err(InferenceError::Picture)?, &heatmaps);
        Ok(reads.into_iter().map(result).collect())
    }

    /// Finds the ball on every frame of an image file, of a folder of jpg and png frames (in natural order of their
    /// names), or of a video. Returns the number of frames.
    ///
    /// # Errors
    /// As [`Predictor::source`].
    pub fn path(&self, path: &Path, each: &mut Each<'_>) -> Result<u64> {
        self.source(&Source::find(path)?, each)
    }

    /// Finds the ball on the selected frames of a source; an image file that cannot be read is a damaged frame. `each` takes the
    /// frames in order, on a thread of its own. Returns how many frames were looked at.
    ///
    /// # Errors
    /// A selection that the source cannot have, a missing `ffmpeg`, a video that is cut off or damaged, after every frame of it that
    /// can be read; a model that gives values that are not finite; whatever `each` returns.
    pub fn source(&self, source: &Source, each: &mut Each<'_>) -> Result<u64> {
        let tools = VideoTools::default();
        self.stream(Frames::open(source, &tools, &self.options.selection, self.windows(), self.options.live)?, each)
    }

    /// [`Predictor::source`] of image files, in the given order.
    ///
    /// # Errors
    /// As there.
    pub fn files(&self, files: &[PathBuf], each: &mut Each<'_>) -> Result<u64> {
        self.stream(Frames::of_files(files, &self.options.selection, self.windows())?, each)
    }

    /// [`Predictor::source`] of a video, read by these programs.
    ///
    /// # Errors
    /// As there.
    pub fn video(&self, path: &Path, tools: &VideoTools, each: &mut Each<'_>) -> Result<u64> {
        let source = Source::Video(path.to_path_buf());
        self.stream(Frames::open(&source, tools, &self.options.selection, self.windows(), self.options.live)?, each)
    }

    /// How windows are cut from frames.
    fn windows(&self) -> WindowShape {
        Ring::new(&self.spec).shape()
    }

    pub(super) fn scene_watch(&self) -> Option<SceneWatch> {
        self.candidates.map(|_| SceneWatch::default())
    }

    /// What is kept of a frame that was prepared.
    pub(super) fn keep(&self, number: u64, file: Option<String>, frame: RgbImage, change: Option<Change>) -> Read {
        let size = [frame.width() as usize, frame.height() as usize];
        let frame = if self.options.pictures { frame } else { RgbImage::default() };
        Read { number, file, size, frame, change }
    }

    /// Takes a frame into the ring; returns how it follows the one before it, and the windows that are whole with it.
    pub(super) fn prepare(
        &self,
        number: u64,
        frame: &RgbImage,
        ring: &mut Ring,
        scene: &mut Option<SceneWatch>,
    ) -> Result<(Option<Change>, Vec<Cut>), String> {
        let resized = resize(frame, None, self.spec.input_size)?;
        let planes = self.normalizer.apply(&resized);
        let change = scene.as_mut().map(|scene| scene.next(&resized));
        Ok((change, ring.push(number, resized, planes)))
    }

    /// The activated heatmaps `[Hh, Wh]` of windows, by the numbers of their frames.
    pub(super) fn heatmaps(&self, cuts: &[Cut]) -> Result<Heatmaps> {
        let [width, height] = self.spec.input_size;
        let channels = 3 * self.spec.window.length;
        let pixels = self.spec.heatmap_size.iter().product::<usize>().max(1);
        let mut found = BTreeMap::new();
        for cuts in cuts.chunks(self.options.batch) {
            let mut values = Vec::with_capacity(cuts.len() * channels * width * height);
            for planes in cuts.iter().flat_map(|cut| &cut.planes) {
                values.extend_from_slice(planes);
            }
            let data = TensorData::new(values, [cuts.len(), channels, height, width]);
            let logits = self.model.predict(Tensor::from_data(data, &self.device)).try_into_vec_as::<f32>();
            let mut heatmaps = logits.map_err(|e| DeviceError::new("heatmap", e))?;
            self.activation.apply(&mut heatmaps);
            for (cut, of_window) in cuts.iter().zip(heatmaps.chunks(self.spec.heatmaps() * pixels)) {
                let heatmap = |i: usize| of_window.chunks(pixels).nth(i).unwrap_or_default().to_vec();
                found.extend(cut.frames.iter().map(|(number, i)| (*number, heatmap(*i))));
            }
        }
        Ok(found)
    }

    pub(super) fn result(&self, read: Read, heatmaps: &Heatmaps) -> Result<FrameResult> {
        let Read { number, file, size, frame, change } = read;
        let no_heatmap = || InferenceError::Picture("the model gave no heatmap".to_owned());
        let heatmap = heatmaps.get(&number).ok_or_else(no_heatmap)?;
        let heatmap_size = self.spec.heatmap_size;
        let geometry = Geometry::whole(size, self.spec.input_size, heatmap_size);
        let found = decode_candidates(heatmap, heatmap_size, &self.decode, self.candidates.unwrap_or(1))?;
        let candidates: Vec<Candidate> = found.into_iter().map(|found| found.to_native(&geometry)).collect();
        let detection = candidates.first().map(|found| found.detection);
        let peak = heatmap.iter().copied().fold(0.0, f32::max);
        let prediction = Prediction { frame: number, file, detection, source: None, peak, damage: None };
        let heatmap = if self.options.pictures { heatmap.clone() } else { Vec::new() };
        Ok(FrameResult { prediction, candidates, change, size, frame, heatmap, heatmap_size })
    }
}
