//! The video with the ball ringed: as long as its source, with its sound.

use std::path::PathBuf;

use tracknet::evaluation::{Trail, trail};
use tracknet::inference::{FrameTimes, Position, Predicted, Sound, Source, VideoTools, VideoWriter};

use super::PredictArgs;
use super::sinks::Sink;

/// The frames with the ball ringed, as a video; black where a frame could not be read.
pub(super) struct Moving {
    path: PathBuf,
    pace: Pace,
    sound: Option<PathBuf>,
    threshold: f32,
    trail: Trail,
    zoom: bool,
    writer: Option<VideoWriter>,
    /// Damaged frames before the first whole one, which tells the size.
    waiting: u64,
}

/// When frames are shown.
struct Pace {
    times: Option<FrameTimes>,
    /// Frames of the new video a second.
    fps: f64,
    stride: u64,
    /// The first frame that is shown.
    first: Option<u64>,
    /// Frames of the new video so far.
    shown: u64,
    end: Option<Position>,
}

/// Frames in a folder have no rate of their own; broadcast footage has 25 to 30.
const FPS: f64 = 25.0;

impl Moving {
    pub(super) fn new(args: &PredictArgs, path: PathBuf, source: &Source) -> Self {
        let tools = VideoTools::default();
        let stride = args.stride.get();
        let file = if let Source::Video(path) = source { Some(path) } else { None };
        let rate = file.and_then(|path| tools.probe(path).ok()?.fps);
        let times = file.and_then(|path| tools.times(path));
        let pace =
            Pace { times, fps: rate.unwrap_or(FPS) / stride as f64, stride, first: None, shown: 0, end: args.end };
        Self {
            path,
            pace,
            sound: file.cloned(),
            threshold: args.threshold,
            trail: Trail::new(args.trail),
            zoom: args.zoom,
            writer: None,
            waiting: 0,
        }
    }

    fn open(&self, size: [u32; 2]) -> tracknet::Result<VideoWriter> {
        let from = self.pace.first.and_then(|first| self.pace.times.as_ref()?.at(first));
        let sound = self.sound.as_ref().zip(from).map(|(source, from)| Sound {
            source: source.clone(),
            from: from.max(0.0),
            to: self.pace.end_time(),
        });
        VideoWriter::with_sound(&VideoTools::default(), &self.path, size, self.pace.fps, sound.as_ref())
    }
}

impl Pace {
    /// How often a frame of the source is shown, so that the new video keeps time with the source: once, unless its rate varies.
    fn repeats(&mut self, frame: u64) -> u64 {
        let first = *self.first.get_or_insert(frame);
        let end = self.times.as_ref().and_then(|times| {
            let begin = times.at(first)?;
            let end = times.at(frame + self.stride).or_else(|| Some(times.at(frame)? + 1.0 / self.fps))?;
            Some(((end - begin) * self.fps).round().max(0.0) as u64)
        });
        let end = end.unwrap_or(self.shown + 1);
        let repeats = end.saturating_sub(self.shown);
        self.shown += repeats;
        repeats
    }

    fn end_time(&self) -> Option<f64> {
        match self.end? {
            Position::Seconds(seconds) => Some(seconds),
            Position::Frame(frame) => self.times.as_ref()?.at(frame),
        }
    }
}

impl Sink for Moving {
    fn push(&mut self, predicted: &Predicted) -> tracknet::Result<()> {
        let repeats = self.pace.repeats(predicted.prediction().frame);
        let at = predicted.prediction().visible(self.threshold);
        let xy = at.map(|found| [found.x, found.y]);
        self.trail.push(xy);
        let Predicted::Frame(result) = predicted else {
            match &mut self.writer {
                Some(writer) => (0..repeats).try_for_each(|_| writer.write_black())?,
                None => self.waiting += repeats,
            }
            return Ok(());
        };
        let mut picture = result.frame.clone();
        self.trail.draw(&mut picture);
        let mut picture = tracknet::evaluation::overlay::overlay(&picture, at, None)?;
        if let (true, Some(xy)) = (self.zoom, xy) {
            trail::inset(&mut picture, &result.frame, xy)?;
        }
        if self.writer.is_none() {
            let mut writer = self.open(picture.dimensions().into())?;
            (0..self.waiting).try_for_each(|_| writer.write_black())?;
            self.writer = Some(writer);
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        (0..repeats).try_for_each(|_| writer.write(&picture))
    }

    fn finish(self: Box<Self>) -> tracknet::Result<()> {
        self.writer.map_or(Ok(()), VideoWriter::finish)
    }
}
