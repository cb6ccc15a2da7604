//! What is written of each frame: rows, pictures, a video; each is given every frame in order.

use std::path::PathBuf;
use std::sync::Arc;

use tracknet::console;
use tracknet::evaluation::overlay::write_png;
use tracknet::inference::{Predicted, RowFormat, RowWriter, Source};

use super::PredictArgs;
use super::moving::Moving;
use super::places::Places;
use super::recipe::Recipe;

/// Something that is written beside the rows. When it fails, the rows go on.
pub(super) trait Sink: Send {
    /// Takes a frame.
    fn push(&mut self, predicted: &Predicted) -> tracknet::Result<()>;

    /// Nothing more will come.
    fn finish(self: Box<Self>) -> tracknet::Result<()>;
}

/// Everything that was asked for.
pub(super) struct Sinks {
    places: Arc<Places>,
    recipe: Recipe,
    threshold: f32,
    csv: RowFormat,
    /// The last frame that an earlier prediction wrote.
    after: Option<u64>,
    /// Opened with the first frame: a prediction that never gets so far leaves old files as they are.
    rows: Option<Vec<RowWriter>>,
    others: Vec<Box<dyn Sink>>,
    failed: bool,
}

impl Sinks {
    /// `after` is the last frame whose rows are written already.
    pub(super) fn new(
        args: &PredictArgs,
        places: Arc<Places>,
        recipe: Recipe,
        source: &Source,
        after: Option<u64>,
    ) -> Self {
        let threshold = args.threshold;
        let mut others: Vec<Box<dyn Sink>> = Vec::new();
        let pictures = [(&places.overlays, Picture::Overlay(threshold)), (&places.heatmaps, Picture::Heatmap)];
        for (folder, picture) in pictures {
            if let Some(folder) = folder.clone() {
                others.push(Box::new(Pictures { folder, picture, places: Arc::clone(&places) }));
            }
        }
        if let Some(path) = places.video.clone() {
            others.push(Box::new(Moving::new(args, path, source)));
        }
        Self { places, recipe, threshold, csv: row_format(args), after, rows: None, others, failed: false }
    }

    /// Writes what was found on a frame.
    ///
    /// # Errors
    /// Rows that cannot be written.
    pub(super) fn push(&mut self, predicted: &Predicted) -> tracknet::Result<()> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => {
                self.recipe.write(&self.places.recipe, false)?;
                none.insert(open_rows(&self.places, self.csv, self.threshold, self.after)?)
            }
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

    /// Ends every file; returns whether all that was asked for is whole. `complete` = the source has no more frames.
    ///
    /// # Errors
    /// Rows that cannot be written.
    pub(super) fn finish(mut self, complete: bool) -> tracknet::Result<bool> {
        for sink in std::mem::take(&mut self.others) {
            if let Err(error) = sink.finish() {
                self.say(&error);
            }
        }
        let is_begun = self.rows.is_some() || self.after.is_some();
        self.rows.into_iter().flatten().try_for_each(RowWriter::finish)?;
        if complete && is_begun {
            self.recipe.write(&self.places.recipe, true)?;
        }
        Ok(!self.failed)
    }

    fn say(&mut self, error: &tracknet::Error) {
        self.failed = true;
        console::say(format_args!("error: {error}; the rows go on without it"));
    }
}

/// The CSV that is written.
pub(super) fn row_format(args: &PredictArgs) -> RowFormat {
    if args.track.track { RowFormat::TrackedCsv } else { RowFormat::Csv }
}

fn open_rows(places: &Places, csv: RowFormat, threshold: f32, after: Option<u64>) -> tracknet::Result<Vec<RowWriter>> {
    let open = |(path, format)| match after {
        None => RowWriter::create(path, format, threshold),
        Some(after) => RowWriter::resume(path, format, threshold, after),
    };
    places.rows(csv).map(open).collect()
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
