//! A video → clips of frames on disk, which training reads as they are.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tracknet::datasets::import::write_jpeg;
use tracknet::error::IoContext;
use tracknet::files::Destination;
use tracknet::inference::{Selection, VideoTools};

use crate::LabelError;

/// How a video is written as frames.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// Which of its frames.
    pub selection: Selection,
    /// Frames of a clip. A part of the clips validates in training: one clip is not enough.
    pub clip: usize,
    /// The most frames.
    pub most: u64,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self { selection: Selection::default(), clip: 50, most: 5000 }
    }
}

/// Writes the selected frames of a video to `destination` as `game1/ClipNNN/NNNN.jpg`, named by their numbers in the video; all of
/// them or none. Returns how many there are, `None` = it was stopped.
///
/// # Errors
/// What is no video; more frames than wanted; a destination that exists or cannot be written. Of a damaged video the frames that can be
/// read are written.
pub fn extract(
    video: &Path,
    destination: &Destination,
    options: &ExtractOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<u64>, LabelError> {
    let tools = VideoTools::default();
    let frames = tools.open_selected(video, &options.selection)?;
    if let Some(count) = frames.expected().filter(|count| *count > options.most) {
        return Err(LabelError::TooMany { path: video.to_path_buf(), frames: count, most: options.most });
    }
    let mut written = 0;
    let mut too_many = false;
    let ended = destination.write_plain(|root| {
        for frame in frames {
            // A damaged video is labelled as far as it goes.
            let Ok((number, picture)) = frame else { break };
            too_many = written == options.most;
            if too_many || stop.load(Ordering::Relaxed) {
                return Err(tracknet::Error::from(tracknet::datasets::DatasetError::Interrupted));
            }
            let clip = root.join("game1").join(format!("Clip{:03}", written as usize / options.clip.max(1) + 1));
            fs::create_dir_all(&clip).at(&clip)?;
            write_jpeg(&clip.join(format!("{number:06}.jpg")), &picture)?;
            written += 1;
            progress(written);
        }
        Ok(())
    });
    match ended {
        Err(tracknet::Error::Dataset(tracknet::datasets::DatasetError::Interrupted)) if too_many => {
            Err(LabelError::TooMany { path: video.to_path_buf(), frames: options.most + 1, most: options.most })
        }
        Err(tracknet::Error::Dataset(tracknet::datasets::DatasetError::Interrupted)) => Ok(None),
        other => Ok(other.map(|()| Some(written))?),
    }
}
