//! A trained model at work: image, folder or video → the ball of each frame, in its own pixels.
//!
//! Frames go through the model in small batches, so that a folder or video of any length needs the memory of one batch. A model
//! that sees windows gets those of the stream, which are cut from frames that were decoded once; in the files of several
//! directories each directory is a clip of its own. With a heatmap for each frame of a window, frames wait until their window is
//! whole or their clip ends.
//! What becomes of a frame (a row, an overlay, a heatmap, a frame of a video) is the caller's business: it sees what was
//! found on each frame, or that the frame is damaged, in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;

use crate::artifacts::{BuildReport, load_model_for_inference};
use crate::compute::DeviceError;
use crate::config::Config;
use crate::console::excerpt;
use crate::datasets::image::{Normalizer, decode as decode_image, is_picture, pictures_in, resize};
use crate::datasets::{BatchSpec, Geometry};
use crate::error::Result;
use crate::evaluation::decode::{Activation, Candidate, DecodeOptions, decode_candidates};
use crate::evaluation::overlay::{heatmap_picture, overlay};
use crate::evaluation::track::{Change, SceneWatch};
use crate::models::HeatmapModel;

use super::ring::{Cut, Ring};
use super::video::VideoTools;
use super::{InferenceError, Prediction};

/// Windows in one forward pass of a folder or video.
const WINDOWS_AT_ONCE: usize = 4;

/// The longest reason that is kept of a damaged frame, in bytes.
const REASON_BYTES: usize = 500;

/// What a prediction reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Image files, in the order of their numbers.
    Pictures(Vec<PathBuf>),
    /// A video.
    Video(PathBuf),
}

impl Source {
    /// The image files of a folder (in natural order of their names), an image file, or else a video; no file is opened.
    ///
    /// # Errors
    /// A folder that cannot be read, or without pictures.
    pub fn find(path: &Path) -> Result<Self> {
        Ok(if path.is_dir() {
            Self::Pictures(pictures_in(path)?)
        } else if is_picture(path) {
            Self::Pictures(vec![path.to_path_buf()])
        } else {
            Self::Video(path.to_path_buf())
        })
    }
}

/// A model with everything around it that turns pictures into positions. A clone shares the weights.
#[derive(Debug, Clone)]
pub struct Predictor {
    model: HeatmapModel,
    spec: BatchSpec,
    normalizer: Normalizer,
    activation: Activation,
    decode: DecodeOptions,
    /// How many are asked for, if several are.
    candidates: Option<usize>,
    device: Device,
    stop: Arc<AtomicBool>,
}

/// What became of a frame.
#[derive(Debug, Clone)]
pub enum Predicted {
    /// It was read and searched.
    Frame(FrameResult),
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
}

/// Where a source is.
struct Stream {
    /// The number of the next frame.
    number: u64,
    ring: Ring,
    /// Compares frames, if somebody asks for that.
    scene: Option<SceneWatch>,
    /// The directory of the last file.
    dir: Option<PathBuf>,
    /// Frames that were not searched yet.
    frames: Vec<Result<Read, Prediction>>,
    /// How many of them, from the first, are in windows.
    settled: usize,
    /// These windows.
    cuts: Vec<Cut>,
}

impl Stream {
    /// Takes windows that are whole.
    fn cut(&mut self, cuts: Vec<Cut>) {
        self.cuts.extend(cuts);
        if self.ring.is_settled() {
            self.settled = self.frames.len();
        }
    }

    /// Ends a clip.
    fn end_clip(&mut self) {
        let cuts = self.ring.finish();
        self.cut(cuts);
    }

    /// The frames that can be searched, and their windows.
    fn take(&mut self) -> (Vec<Result<Read, Prediction>>, Vec<Cut>) {
        (self.frames.drain(..std::mem::take(&mut self.settled)).collect(), std::mem::take(&mut self.cuts))
    }
}

/// Takes each frame in order.
type Each<'a> = dyn FnMut(Predicted) -> Result<()> + 'a;

/// A frame whose heatmap is looked for: its number, the name of its file, its pixels.
struct Read {
    number: u64,
    file: Option<String>,
    frame: RgbImage,
    change: Option<Change>,
}

/// A frame of a source: the path of its file, if it has one, and its pixels, or why there are none.
type Incoming = (Option<PathBuf>, Result<RgbImage, String>);

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
        let spec = BatchSpec::new(config, build.normalization());
        Self {
            model: model.valid(),
            normalizer: spec.normalizer(),
            spec,
            activation: Activation::from(config.training.loss.name),
            decode: DecodeOptions::default(),
            candidates: None,
            device: device.clone(),
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

    /// The same predictor, which stops after the frames at hand when `stop` is set.
    #[must_use]
    pub fn stopping_at(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
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
            Ok::<_, String>(Read { number, file: None, frame, change })
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
    /// As [`Predictor::files`] and [`Predictor::video`].
    pub fn path(&self, path: &Path, each: &mut Each<'_>) -> Result<u64> {
        self.source(&Source::find(path)?, each)
    }

    /// [`Predictor::path`] of a source that is known already.
    ///
    /// # Errors
    /// As there.
    pub fn source(&self, source: &Source, each: &mut Each<'_>) -> Result<u64> {
        match source {
            Source::Pictures(files) => self.files(files, each),
            Source::Video(path) => self.video(path, &VideoTools::default(), each),
        }
    }

    /// Finds the ball on image files, in the given order; a file that cannot be read is a damaged frame.
    ///
    /// # Errors
    /// A model that gives values that are not finite; whatever `each` returns.
    pub fn files(&self, files: &[PathBuf], each: &mut Each<'_>) -> Result<u64> {
        let read = |path: &PathBuf| Ok((Some(path.clone()), decode_image(path).map_err(|e| e.to_string())));
        self.stream(&mut files.iter().map(read), each)
    }

    /// Finds the ball on every frame of a video.
    ///
    /// # Errors
    /// As [`Predictor::files`], a missing `ffmpeg`, and a video that is cut off or damaged, after every frame of it that
    /// can be read.
    pub fn video(&self, path: &Path, tools: &VideoTools, each: &mut Each<'_>) -> Result<u64> {
        self.stream(&mut tools.open(path)?.map(|frame| Ok((None, Ok(frame?.1)))), each)
    }

    /// Frames that cannot be read have a reason in place of a picture; an error ends the source.
    fn stream(&self, frames: &mut impl Iterator<Item = Result<Incoming>>, each: &mut Each<'_>) -> Result<u64> {
        let mut stream = Stream {
            number: 0,
            ring: Ring::new(&self.spec),
            scene: self.scene_watch(),
            dir: None,
            frames: Vec::new(),
            settled: 0,
            cuts: Vec::new(),
        };
        let at_once = WINDOWS_AT_ONCE * self.spec.heatmaps();
        let mut end = Ok(());
        while !self.stop.load(Ordering::Relaxed)
            && let Some(frame) = frames.next()
        {
            match frame {
                Ok(frame) => self.next(frame, &mut stream),
                // What was read before it counts.
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
            if stream.settled >= at_once {
                self.search(stream.take())?.into_iter().try_for_each(&mut *each)?;
            }
        }
        stream.end_clip();
        self.search(stream.take())?.into_iter().try_for_each(&mut *each)?;
        end.map(|()| stream.number)
    }

    /// Searches the frames that could be read.
    fn search(&self, (frames, cuts): (Vec<Result<Read, Prediction>>, Vec<Cut>)) -> Result<Vec<Predicted>> {
        let heatmaps = self.heatmaps(&cuts)?;
        let predicted = |frame| match frame {
            Ok(read) => self.result(read, &heatmaps).map(Predicted::Frame),
            Err(prediction) => Ok(Predicted::Damaged(prediction)),
        };
        frames.into_iter().map(predicted).collect()
    }

    /// Takes the next frame of a stream.
    fn next(&self, (path, frame): Incoming, stream: &mut Stream) {
        let dir = path.as_deref().and_then(Path::parent).map(Path::to_path_buf);
        if dir != stream.dir {
            stream.end_clip();
            stream.scene.iter_mut().for_each(SceneWatch::clear);
            stream.dir = dir;
        }
        let file = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let number = stream.number;
        stream.number += 1;
        let Stream { ring, scene, .. } = stream;
        let prepared = frame
            .and_then(|frame| self.prepare(number, &frame, ring, scene).map(|(change, cuts)| (frame, change, cuts)));
        let cuts = match prepared {
            Ok((frame, change, cuts)) => {
                stream.frames.push(Ok(Read { number, file, frame, change }));
                cuts
            }
            Err(reason) => {
                let reason = excerpt(&reason, REASON_BYTES).into_owned();
                stream.frames.push(Err(Prediction::damaged(number, file, reason)));
                stream.ring.push_damaged(number)
            }
        };
        stream.cut(cuts);
    }

    fn scene_watch(&self) -> Option<SceneWatch> {
        self.candidates.map(|_| SceneWatch::default())
    }

    /// Takes a frame into the ring; returns how it follows the one before it, and the windows that are whole with it.
    fn prepare(
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
    fn heatmaps(&self, cuts: &[Cut]) -> Result<BTreeMap<u64, Vec<f32>>> {
        let [width, height] = self.spec.input_size;
        let channels = 3 * self.spec.window.length;
        let pixels = self.spec.heatmap_size.iter().product::<usize>().max(1);
        let mut found = BTreeMap::new();
        for cuts in cuts.chunks(WINDOWS_AT_ONCE) {
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

    fn result(&self, read: Read, heatmaps: &BTreeMap<u64, Vec<f32>>) -> Result<FrameResult> {
        let Read { number, file, frame, change } = read;
        let no_heatmap = || InferenceError::Picture("the model gave no heatmap".to_owned());
        let heatmap = heatmaps.get(&number).ok_or_else(no_heatmap)?;
        let size = self.spec.heatmap_size;
        let native = [frame.width() as usize, frame.height() as usize];
        let geometry = Geometry::whole(native, self.spec.input_size, size);
        let found = decode_candidates(heatmap, size, &self.decode, self.candidates.unwrap_or(1))?;
        let candidates: Vec<Candidate> = found.into_iter().map(|found| found.to_native(&geometry)).collect();
        let detection = candidates.first().map(|found| found.detection);
        let peak = heatmap.iter().copied().fold(0.0, f32::max);
        let prediction = Prediction { frame: number, file, detection, source: None, peak, damage: None };
        Ok(FrameResult { prediction, candidates, change, frame, heatmap: heatmap.to_vec(), heatmap_size: size })
    }
}
