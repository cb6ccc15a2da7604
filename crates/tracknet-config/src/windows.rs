//! What windows of frames (`data.sequence`) and the model that is given them must agree on. A run asks before any data is read,
//! with the lines of its files; whoever builds a model asks again, for the frames that it will be given.

use std::fmt;

use super::model::{HeatmapFrames, ModelConfig, Temporal, TemporalInput};

/// Windows that the data has and the model does not see, or the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowMismatch {
    /// The key that is wrong beside the others.
    pub key: &'static str,
    /// What it is, what the others are, what to do.
    pub message: String,
    /// All keys that have a part in it, those first that most likely are to be changed.
    pub(crate) keys: &'static [&'static str],
}

impl fmt::Display for WindowMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.message)
    }
}

impl ModelConfig {
    /// Checks that the model sees windows of `frames` frames if it is given them: windows are read if they are seen, and seen if
    /// they are read.
    ///
    /// # Errors
    /// Names the key, and what would work.
    pub fn check_windows(&self, frames: usize) -> Result<(), WindowMismatch> {
        if frames > 1 && self.temporal == Temporal::None {
            return Err(WindowMismatch {
                key: "data.sequence",
                message: format!(
                    "makes windows of {frames} frames, but model.temporal is none: set it to stack or difference, or \
                     data.sequence.enabled to false"
                ),
                keys: &["data.sequence.length", "data.sequence.enabled", "model.temporal"],
            });
        }
        if frames <= 1 && self.temporal != Temporal::None {
            return Err(WindowMismatch {
                key: "model.temporal",
                message: format!(
                    "is {}, but data.sequence makes no windows: set data.sequence.enabled to true and data.sequence.length to \
                     2 or more, or model.temporal to none",
                    self.temporal
                ),
                keys: &["model.temporal", "data.sequence.length", "data.sequence.enabled"],
            });
        }
        if frames <= 1 && self.heatmap.frames == HeatmapFrames::All {
            return Err(WindowMismatch {
                key: "model.heatmap.frames",
                message: "is all, but data.sequence makes no windows: set data.sequence.enabled to true and \
                          data.sequence.length to 2 or more, or model.heatmap.frames to last"
                    .to_owned(),
                keys: &["model.heatmap.frames", "data.sequence.length", "data.sequence.enabled"],
            });
        }
        match frames > 1 && self.temporal_input == TemporalInput::Stem {
            true => self.check_stem(),
            false => Ok(()),
        }
    }

    /// Checks that the decoder has convolutions over the frames, which can see windows.
    fn check_stem(&self) -> Result<(), WindowMismatch> {
        let section = self.model_name.decoder_section();
        if section == "unet" {
            return Ok(());
        }
        let (message, keys): (_, &[_]) = if section != "decoder" {
            let message = format!(
                "is stem, but the {section} decoder of {} has no convolutional stem: set model.temporal_input to patches",
                self.model_name
            );
            (message, &["model.temporal_input", "model.model_name", "model.temporal"])
        } else if !self.decoder.skip {
            let message = "is stem, but model.decoder.skip is false: the decoder's convolutional stem sees the window; set \
                           model.decoder.skip to true";
            (message.to_owned(), &["model.temporal_input", "model.decoder.skip", "model.temporal"])
        } else {
            return Ok(());
        };
        Err(WindowMismatch { key: "model.temporal_input", message, keys })
    }
}
