//! One frame, with its window → one training sample: decode (or take from the cache), crop, resize, flip, augment,
//! normalize, target.
//!
//! A sample is a pure function of `(seed, epoch, index)`: every random draw comes from the stream of that key. It is drawn for
//! the last frame of the window and done to all of them; only the noise of a frame is its own.
//!
//! With a heatmap for each frame, each has the target of the picture in its place, which is that of the frame after it where the
//! window begins before the clip, stands still, or has a frame that cannot be read. A heatmap does not count where the frame has
//! no label, nor if the ball is outside of the part that is cut out.

use super::augment::{PixelPlan, Plan, change_pixels};
use super::heatmap::{Geometry, render_target};
use super::source::Source;
use super::{DatasetError, FrameRef, Label, Visibility};
use crate::config::AbsentBall;
use tracknet_random::Stream;

/// A frame that a sample has a heatmap for, and how it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleInfo {
    /// The frame.
    pub frame: FrameRef,
    /// Its number among the frames of the loader.
    pub number: usize,
    /// Its heatmap, counted through the windows and heatmaps of the batch.
    pub heatmap: usize,
    /// Its label in native pixels; the position is `None` also when it turned out to be outside the image.
    pub label: Label,
    /// Size of the original image as `[W, H]`.
    pub native_size: [usize; 2],
    /// Whether the sample was mirrored.
    pub flipped: bool,
    /// The way between native and heatmap pixels, through crop, resize and flip.
    pub geometry: Geometry,
}

impl SampleInfo {
    /// The ball on the heatmap, in its pixels.
    pub fn heatmap_xy(&self) -> Option<[f32; 2]> {
        self.label.xy.map(|xy| self.geometry.to_heatmap(xy))
    }
}

/// First part of the key of a sample's stream.
const SAMPLE_STREAM: u64 = 1;
/// First part of the key of the stream of an earlier frame's noise.
const NOISE_STREAM: u64 = 2;

/// First part of the key of the stream that decides whether a window stands still.
const STILL_STREAM: u64 = 3;

/// A file that cannot be read, by its number, and why.
pub(super) type Unread = (usize, DatasetError);

/// What is done to every frame of a window.
struct Same {
    /// The part that is cut out, and the native size that it refers to.
    crop: Option<([f64; 4], [usize; 2])>,
    flip: bool,
    pixels: PixelPlan,
}

/// A frame of a window.
#[derive(Clone)]
struct Shown {
    planes: Vec<f32>,
    /// The place of the picture in its clip.
    place: usize,
    /// How the picture lies on the heatmap.
    geometry: Geometry,
}

/// One sample, ready to be copied into a batch.
pub(super) struct Sample {
    /// `[3 · frames, H, W]`.
    pub(super) image: Vec<f32>,
    /// `[heatmaps, Hh, Wh]`.
    pub(super) targets: Vec<f32>,
    /// One value a heatmap.
    pub(super) masks: Vec<f32>,
    /// The labelled frames that have one of these heatmaps, in the order of time.
    pub(super) infos: Vec<SampleInfo>,
}

/// What became of the files of a sample.
#[derive(Default)]
pub(super) struct Made {
    /// `None` if nothing of it can be read.
    pub(super) sample: Option<Sample>,
    pub(super) unread: Vec<Unread>,
}

impl Source {
    /// Makes a sample of an epoch; errors of labelled frames name frame, label file and line.
    pub(super) fn sample(&self, index: usize, epoch: u64) -> Result<Made, DatasetError> {
        if let Some(blocks) = &self.blocks {
            return Ok(self.sample_of_block(&blocks[index]));
        }
        match self.make(index, epoch).map_err(|cause| self.named(index, cause)) {
            Err(error) if error.is_of_picture() => Ok(Made { sample: None, unread: vec![(self.files[index], error)] }),
            result => result,
        }
    }

    fn make(&self, index: usize, epoch: u64) -> Result<Made, DatasetError> {
        let (spec, frame) = (&self.spec, &self.frames[index]);
        let path = &frame.frame.path;
        let failure = |reason| DatasetError::Image { path: path.clone(), reason };
        let key = [SAMPLE_STREAM, self.seed, epoch, index as u64];
        let mut stream = Stream::keyed(&key);
        let plan = self.augment.then(|| Plan::draw(&mut stream, spec.flip_prob, &spec.augment));
        let places = self.places(index, epoch);
        let zoom = |native_size| {
            plan.as_ref().and_then(|plan| plan.window(native_size, &self.balls(index, &places, native_size)))
        };
        let zoomed = plan.as_ref().is_some_and(|plan| plan.zoom.is_some());
        let (mut picture, native_size, crop) = self.picture(path, self.files[index], zoomed.then_some(&zoom))?;
        let mut geometry = self.whole(native_size);
        geometry.crop = crop.unwrap_or(geometry.crop);
        let mut pixels = PixelPlan::default();
        if let Some(plan) = plan {
            if plan.flip {
                image::imageops::flip_horizontal_in_place(&mut picture);
                geometry.flipped = true;
            }
            (picture, pixels) = change_pixels(picture, &mut stream, &spec.augment).map_err(failure)?;
        }
        let current = Shown { planes: self.normalizer.apply(&picture), place: frame.place, geometry };
        let same = Same { crop: crop.map(|crop| (crop, native_size)), flip: geometry.flipped, pixels };
        let (window, unread) = self.window(index, &places, current, &same, key);
        let mut sample = self.blank();
        for (heatmap, pair) in (0..spec.heatmaps() - 1).zip(window.windows(2)) {
            let [Shown { place, geometry, .. }, later] = pair else { continue };
            if let Some(number) = self.labelled_at(index, *place) {
                let info = self.info(number, heatmap, *geometry);
                self.teach(&mut sample, &info, info.label.xy.is_none_or(|xy| geometry.sees(xy)));
                if *place < later.place {
                    sample.infos.push(info);
                }
            }
        }
        let info = self.info(index, spec.heatmaps() - 1, geometry);
        self.teach(&mut sample, &info, true);
        sample.infos.push(info);
        sample.image = window.into_iter().flat_map(|frame| frame.planes).collect();
        Ok(Made { sample: Some(sample), unread })
    }

    /// The places of the window that ends with a frame, oldest first. In training some windows stand still: the frame in every
    /// place.
    fn places(&self, index: usize, epoch: u64) -> Vec<usize> {
        let (frame, length) = (&self.frames[index], self.spec.window.length);
        let mut still = Stream::keyed(&[STILL_STREAM, self.seed, epoch, index as u64]);
        let stands_still = self.augment && still.chance(self.spec.augment.still_prob);
        match length {
            _ if stands_still => vec![frame.place; length],
            1 => vec![frame.place],
            _ => self.spec.window.places(frame.place, |place| self.is_repeated(index, place)),
        }
    }

    /// The labelled balls of the frames of a window that have a heatmap, latest first, for frames of a native size.
    fn balls(&self, index: usize, places: &[usize], native_size: [usize; 2]) -> Vec<[f32; 2]> {
        let whole = self.whole(native_size);
        let earlier = places.iter().rev().skip(1).filter_map(|place| self.labelled_at(index, *place));
        let frames = std::iter::once(index).chain(earlier);
        frames.filter_map(|number| self.frames[number].frame.label.xy).filter(|xy| whole.contains(*xy)).collect()
    }

    /// A frame of the loader on its picture.
    pub(super) fn info(&self, number: usize, heatmap: usize, geometry: Geometry) -> SampleInfo {
        let frame = &self.frames[number];
        let xy = frame.frame.label.xy.filter(|xy| geometry.contains(*xy));
        let label = Label { xy, ..frame.frame.label };
        let (native_size, flipped) = (geometry.native_size, geometry.flipped);
        SampleInfo { frame: frame.clone(), number, heatmap, label, native_size, flipped, geometry }
    }

    /// A sample without frames, whose heatmaps do not count.
    pub(super) fn blank(&self) -> Sample {
        let heatmaps = self.spec.heatmaps();
        let pixels = self.spec.heatmap_size[0] * self.spec.heatmap_size[1];
        let (targets, masks) = (vec![0.0; heatmaps * pixels], vec![0.0; heatmaps]);
        Sample { image: Vec::new(), targets, masks, infos: Vec::new() }
    }

    /// Gives a heatmap of a sample the target of a frame, if it may count.
    pub(super) fn teach(&self, sample: &mut Sample, info: &SampleInfo, counts: bool) {
        let size = self.spec.heatmap_size;
        let pixels = size[0] * size[1];
        if let (Some(center), true) = (info.heatmap_xy(), counts) {
            render_target(&mut sample.targets[info.heatmap * pixels..][..pixels], size, center, self.spec.sigma);
        }
        let teaches = match info.label.visibility {
            Visibility::Absent => self.spec.absent_ball == AbsentBall::Negative,
            // A visible ball at an unknown place teaches nothing, least of all that there is none.
            _ => info.label.xy.is_some(),
        };
        sample.masks[info.heatmap] = if teaches && counts { 1.0 } else { 0.0 };
    }

    /// The frames of the window at `places` that ends with `current`, and the files of it that cannot be read: for each of those
    /// the frame after it stands in.
    fn window(
        &self,
        index: usize,
        places: &[usize],
        current: Shown,
        same: &Same,
        key: [u64; 4],
    ) -> (Vec<Shown>, Vec<Unread>) {
        let (mut unread, mut frames) = (Vec::new(), Vec::with_capacity(places.len()));
        let mut later = current;
        for (back, pair) in places.windows(2).rev().enumerate() {
            let place = pair[0];
            let mut noise = Stream::keyed(&[NOISE_STREAM, key[1], key[2], key[3], back as u64]);
            let file = self.file(index, place);
            let frame = match place == pair[1] {
                true => later.clone(),
                false => self.earlier(index, place, same, &mut noise).unwrap_or_else(|error| {
                    unread.push((file, error));
                    later.clone()
                }),
            };
            frames.push(std::mem::replace(&mut later, frame));
        }
        frames.push(later);
        frames.reverse();
        (frames, unread)
    }

    /// An earlier frame of a window, changed as its last frame was.
    fn earlier(&self, index: usize, place: usize, same: &Same, noise: &mut Stream) -> Result<Shown, DatasetError> {
        let (file, path) = (self.file(index, place), &self.frames[index].files[place]);
        let zoom = |size: [usize; 2]| {
            same.crop.map(|(crop, of)| {
                // The same part of the picture, should its size be another one.
                let scale = [0, 1].map(|axis| size[axis] as f64 / of[axis] as f64);
                [0, 1, 2, 3].map(|i| if size == of { crop[i] } else { crop[i] * scale[i % 2] })
            })
        };
        let (mut picture, native_size, crop) = self.picture(path, file, same.crop.is_some().then_some(&zoom))?;
        if same.flip {
            image::imageops::flip_horizontal_in_place(&mut picture);
        }
        let changed = same.pixels.apply(picture, noise);
        let picture = changed.map_err(|reason| DatasetError::Image { path: path.clone(), reason })?;
        let whole = self.whole(native_size);
        let geometry = Geometry { crop: crop.unwrap_or(whole.crop), flipped: same.flip, ..whole };
        Ok(Shown { planes: self.normalizer.apply(&picture), place, geometry })
    }
}
