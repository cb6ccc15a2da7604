//! What is written of each frame: rows, pictures, a video; each is given every frame in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracknet::console;
use tracknet::evaluation::overlay::write_png;
use tracknet::inference::{Predicted, RowFormat, RowWriter, VideoTools, VideoWriter};

use super::PredictArgs;
use super::places::Places;

/// Something that is written beside the rows. When it fails, the rows go on.
trait Sink {
    /// Takes a frame.
    fn push(&mut self, predicted: &Predicted) -> tracknet::Result<()>;

    /// Nothing more will come.
    fn finish(self: Box<Self>) -> tracknet::Result<()>;
}

/// Everything that was asked for.
pub(super) struct Sinks {
    places: Arc<Places>,
    threshold: f32,
    csv: RowFormat,
    /// Opened with the first frame: a prediction that never gets so far leaves old files as they are.
    rows: Option<Vec<RowWriter>>,
    others: Vec<Box<dyn Sink>>,
    failed: bool,
}

impl Sinks {
    pub(super) fn new(args: &PredictArgs, places: Places) -> Self {
        let places = Arc::new(places);
        let threshold = args.threshold;
        let mut others: Vec<Box<dyn Sink>> = Vec::new();
        let pictures = [(&places.overlays, Picture::Overlay(threshold)), (&places.heatmaps, Picture::Heatmap)];
        for (folder, picture) in pictures {
            if let Some(folder) = folder.clone() {
                others.push(Box::new(Pictures { folder, picture, places: Arc::clone(&places) }));
            }
        }
        if let Some(path) = places.video.clone() {
            let source = args.source.is_file().then(|| args.source.clone());
            others.push(Box::new(Video { path, source, threshold, writer: None, waiting: 0 }));
        }
        let csv = if args.track.track { RowFormat::TrackedCsv } else { RowFormat::Csv };
        Self { places, threshold, csv, rows: None, others, failed: false }
    }

    /// Writes what was found on a frame.
    ///
    /// # Errors
    /// Rows that cannot be written.
    pub(super) fn push(&mut self, predicted: &Predicted) -> tracknet::Result<()> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(open_rows(&self.places, self.csv, self.threshold)?),
        };
        rows.iter_mut().try_for_each(|rows| rows.push(predicted.prediction()))?;
        for mut sink in std::mem::take(&mut self.others) {
            match sink.push(predicted) {
                Ok(()) => self.others.push(sink),
                Err(error) => self.say(&error),
            }
        }
        Ok(())
    }

    /// Ends every file; returns whether all that was asked for is whole.
    ///
    /// # Errors
    /// Rows that cannot be written.
    pub(super) fn finish(mut self) -> tracknet::Result<bool> {
        for sink in std::mem::take(&mut self.others) {
            if let Err(error) = sink.finish() {
                self.say(&error);
            }
        }
        self.rows.into_iter().flatten().try_for_each(RowWriter::finish)?;
        Ok(!self.failed)
    }

    fn say(&mut self, error: &tracknet::Error) {
        self.failed = true;
        console::say(format_args!("error: {error}; the rows go on without it"));
    }
}

fn open_rows(places: &Places, csv: RowFormat, threshold: f32) -> tracknet::Result<Vec<RowWriter>> {
    let jsonl = places.jsonl.as_ref().map(|path| (path, RowFormat::JsonLines));
    [(&places.csv, csv)]
        .into_iter()
        .chain(jsonl)
        .map(|(path, format)| RowWriter::create(path, format, threshold))
        .collect()
}

/// What is drawn of a frame.
enum Picture {
    /// The frame with the ball ringed, from a score on.
    Overlay(f32),
    /// The heatmap in colours.
    Heatmap,
}

/// A picture of every frame that could be read.
struct Pictures {
    folder: PathBuf,
    picture: Picture,
    places: Arc<Places>,
}

impl Sink for Pictures {
    fn push(&mut self, predicted: &Predicted) -> tracknet::Result<()> {
        let Predicted::Frame(result) = predicted else { return Ok(()) };
        let picture = match self.picture {
            Picture::Overlay(threshold) => result.overlay(threshold)?,
            Picture::Heatmap => result.heatmap_picture()?,
        };
        Ok(write_png(&self.folder.join(self.places.picture(result.prediction.frame)), &picture)?)
    }

    fn finish(self: Box<Self>) -> tracknet::Result<()> {
        Ok(())
    }
}

/// The frames with the ball ringed, as a video; black where a frame could not be read.
struct Video {
    path: PathBuf,
    /// What has a rate to keep, if not a folder.
    source: Option<PathBuf>,
    threshold: f32,
    writer: Option<VideoWriter>,
    /// Damaged frames before the first whole one, which tells the size.
    waiting: u64,
}

impl Video {
    fn open(&self, size: [u32; 2]) -> tracknet::Result<VideoWriter> {
        let tools = VideoTools::default();
        let rate = |path: &Path| tools.probe(path).ok().and_then(|info| info.fps);
        // Frames in a folder have no rate of their own; broadcast footage has 25 to 30.
        let fps = self.source.as_deref().and_then(rate).unwrap_or(25.0);
        let mut writer = VideoWriter::create(&tools, &self.path, size, fps)?;
        (0..self.waiting).try_for_each(|_| writer.write_black())?;
        Ok(writer)
    }
}

impl Sink for Video {
    fn push(&mut self, predicted: &Predicted) -> tracknet::Result<()> {
        match (predicted, &mut self.writer) {
            (Predicted::Frame(result), writer) => {
                let picture = result.overlay(self.threshold)?;
                if writer.is_none() {
                    self.writer = Some(self.open(picture.dimensions().into())?);
                }
                self.writer.as_mut().map_or(Ok(()), |writer| writer.write(&picture))
            }
            (Predicted::Damaged(_), Some(writer)) => writer.write_black(),
            (Predicted::Damaged(_), None) => {
                self.waiting += 1;
                Ok(())
            }
        }
    }

    fn finish(self: Box<Self>) -> tracknet::Result<()> {
        self.writer.map_or(Ok(()), VideoWriter::finish)
    }
}
