//! A trained model at work: image, folder or video → the ball of each frame, in its own pixels.
//!
//! Frames go through the model in small batches, so that a folder or video of any length needs the memory of one batch.
//! What becomes of a frame (a row, an overlay, a heatmap, a frame of a video) is the caller's business: it sees each
//! [`FrameResult`] in order.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;

use crate::config::Config;
use crate::datasets::image::{Normalizer, decode as decode_image, is_picture, pictures_in, resize};
use crate::datasets::{BatchSpec, DatasetError, Geometry};
use crate::error::{Error, Result};
use crate::evaluation::decode::{Activation, DecodeOptions, decode};
use crate::models::{BuildReport, HeatmapModel};
use crate::training::{TrainingError, activation_of, batch_spec, load_model_for_inference};

use super::overlay::{heatmap_picture, overlay};
use super::video::VideoTools;
use super::{InferenceError, Prediction};

/// Frames in one forward pass of a folder or video.
const FRAMES_AT_ONCE: usize = 4;

/// A model with everything around it that turns pictures into positions.
#[derive(Debug)]
pub struct Predictor {
    model: HeatmapModel,
    spec: BatchSpec,
    normalizer: Normalizer,
    activation: Activation,
    decode: DecodeOptions,
    device: Device,
}

/// What was found on one frame, and from what.
#[derive(Debug, Clone)]
pub struct FrameResult {
    /// The detection in native pixels; also one with a low score.
    pub prediction: Prediction,
    /// The frame as it was read.
    pub frame: RgbImage,
    /// Activated heatmap `[Hh, Wh]`, values in 0..1.
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
        let spec = batch_spec(config, build);
        Self {
            model: model.valid(),
            normalizer: spec.normalizer(),
            spec,
            activation: activation_of(config),
            decode: DecodeOptions::default(),
            device: device.clone(),
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

    /// Finds the ball on one picture.
    ///
    /// # Errors
    /// If the picture cannot be resized or the model gives values that are not finite.
    pub fn image(&self, frame: RgbImage) -> Result<FrameResult> {
        let found = self.batch(vec![(0, None, frame)])?.pop();
        found.ok_or_else(|| TrainingError::Mismatch("the model gave no heatmap".to_owned()).into())
    }

    /// Finds the ball on every frame of an image file, of a folder of jpg and png frames (in natural order of their
    /// names), or of a video. Returns the number of frames.
    ///
    /// # Errors
    /// A file that cannot be read, named; whatever `each` returns.
    pub fn path(&self, path: &Path, each: &mut dyn FnMut(FrameResult) -> Result<()>) -> Result<u64> {
        if path.is_dir() {
            self.files(&pictures_in(path)?, each)
        } else if is_picture(path) {
            self.files(&[path.to_path_buf()], each)
        } else {
            self.video(path, &VideoTools::default(), each)
        }
    }

    /// Finds the ball on image files, in the given order.
    ///
    /// # Errors
    /// As [`Predictor::path`].
    pub fn files(&self, files: &[PathBuf], each: &mut dyn FnMut(FrameResult) -> Result<()>) -> Result<u64> {
        let read = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            Ok((name, decode_image(path)?))
        };
        self.stream(&mut files.iter().map(read), each)
    }

    /// Finds the ball on every frame of a video.
    ///
    /// # Errors
    /// As [`Predictor::path`], and a missing `ffmpeg`.
    pub fn video(
        &self,
        path: &Path,
        tools: &VideoTools,
        each: &mut dyn FnMut(FrameResult) -> Result<()>,
    ) -> Result<u64> {
        self.stream(&mut tools.open(path)?.map(|frame| Ok((None, frame?.1))), each)
    }

    fn stream(
        &self,
        frames: &mut impl Iterator<Item = Result<(Option<String>, RgbImage)>>,
        each: &mut dyn FnMut(FrameResult) -> Result<()>,
    ) -> Result<u64> {
        let mut number = 0;
        loop {
            let mut batch = Vec::with_capacity(FRAMES_AT_ONCE);
            for frame in frames.by_ref().take(FRAMES_AT_ONCE) {
                let (file, frame) = frame?;
                batch.push((number, file, frame));
                number += 1;
            }
            if batch.is_empty() {
                return Ok(number);
            }
            self.batch(batch)?.into_iter().try_for_each(&mut *each)?;
        }
    }

    fn batch(&self, frames: Vec<(u64, Option<String>, RgbImage)>) -> Result<Vec<FrameResult>> {
        let [width, height] = self.spec.input_size;
        let mut values = Vec::with_capacity(frames.len() * 3 * width * height);
        for (number, file, frame) in &frames {
            let name = file.clone().unwrap_or_else(|| format!("frame {number}"));
            let failure = |reason| Error::Dataset(DatasetError::Image { path: PathBuf::from(&name), reason });
            values.extend(self.normalizer.apply(&resize(frame, None, [width, height]).map_err(failure)?));
        }
        let images = Tensor::from_data(TensorData::new(values, [frames.len(), 3, height, width]), &self.device);
        let logits = self.model.predict(images).try_into_vec_as::<f32>();
        let mut heatmaps = logits.map_err(|e| TrainingError::device("heatmap", e))?;
        self.activation.apply(&mut heatmaps);
        let pixels = self.spec.heatmap_size.iter().product::<usize>().max(1);
        frames.into_iter().zip(heatmaps.chunks(pixels)).map(|(frame, heatmap)| self.result(frame, heatmap)).collect()
    }

    fn result(&self, (number, file, frame): (u64, Option<String>, RgbImage), heatmap: &[f32]) -> Result<FrameResult> {
        let size = self.spec.heatmap_size;
        let native = [frame.width() as usize, frame.height() as usize];
        let geometry = Geometry::whole(native, self.spec.input_size, size);
        let detection = decode(heatmap, size, &self.decode).map_err(InferenceError::from)?;
        let detection = detection.map(|found| found.to_native(&geometry));
        let prediction = Prediction { frame: number, file, detection };
        Ok(FrameResult { prediction, frame, heatmap: heatmap.to_vec(), heatmap_size: size })
    }
}
