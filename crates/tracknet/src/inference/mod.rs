//! Prediction on images, folders and clips, and what is written for people and programs.
//!
//! | module | what lives there |
//! |---|---|
//! | [`video`], [`video_writer`], `ppm` | frames out of and into video files, through the `ffmpeg` program |
//! | [`probe`] | what a video file says about itself, and whether it keeps it |
//! | [`session`] | a trained run that stays loaded, with adapters by name on its base |
//! | [`source`], [`selection`], `frames` | what is read, which frames of it, and how they come one after the other |
//! | [`predictor`] | a trained model on images, folders and videos |
//! | [`pipeline`] | its stages, side by side |
//! | `ring` | the last frames of a stream, for windows |
//! | [`tracked`] | the same frames with the ball tracked through them |
//! | [`predictions`], [`rows`] | what was found on a frame; CSV and JSON lines of it |

use std::path::PathBuf;

mod ffmpeg;
mod frames;
pub mod pipeline;
mod ppm;
pub mod predictions;
pub mod predictor;
pub mod probe;
mod ring;
pub mod rows;
pub mod selection;
pub mod session;
pub mod source;
pub mod tracked;
pub mod video;
pub mod video_writer;

pub use pipeline::StageTimes;
pub use predictions::Prediction;
pub use predictor::{FrameResult, Predicted, Predictor, StreamOptions};
pub use probe::{FrameTimes, VideoInfo};
pub use rows::{RowFormat, RowWriter};
pub use selection::{Position, Resume, Selection};
pub use session::Session;
pub use source::{Address, Source};
pub use tracked::TrackedFrames;
pub use video::{VideoFrames, VideoTools};
pub use video_writer::{Sound, VideoWriter};

/// Why a prediction, a video or an external program failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The `ffmpeg` or `ffprobe` program is not installed.
    #[error(
        "cannot find the program `{program}`, which reads and writes video files; install it with `apt install ffmpeg` \
         (Debian, Ubuntu), `dnf install ffmpeg` (Fedora), `brew install ffmpeg` (macOS) or `winget install ffmpeg` \
         (Windows), or give the frames as a folder of images"
    )]
    ProgramMissing {
        /// The program that was looked for.
        program: PathBuf,
    },
    /// The program is there but cannot be started.
    #[error("cannot run `{}`: {cause}", program.display())]
    ProgramFailed {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// A video cannot be opened: no file, no video, or a broken one.
    #[error("video {}: {reason}", path.display())]
    Video {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A video breaks off while it is read or written.
    #[error("video {} at frame {frame}: {reason}", path.display())]
    VideoFrame {
        /// The file.
        path: PathBuf,
        /// The frame, from 0.
        frame: u64,
        /// What went wrong.
        reason: String,
    },
    /// A video is cut off or damaged; the frames before this were read.
    #[error(
        "video {} is cut off or damaged: {read} frames were read, {}: {reason}",
        path.display(), missing_frames(*missing)
    )]
    VideoDamaged {
        /// The file.
        path: PathBuf,
        /// Frames that were read.
        read: u64,
        /// Frames that are missing, as far as the file tells.
        missing: u64,
        /// Where it ends, and what `ffmpeg` said.
        reason: String,
    },
    /// A name for an adapter that cannot be had.
    #[error("adapter `{name}`: the name {problem}")]
    AdapterName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A name that no adapter of a session has.
    #[error("no adapter is called `{name}`; there are: {}", if known.is_empty() { "none" } else { known })]
    UnknownAdapter {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// What is named is no source, or not one of which this can be asked.
    #[error("{name}: {reason}")]
    Source {
        /// What was named.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A frame that cannot be read, where all were to be.
    #[error("frame {frame} cannot be read: {reason}")]
    Strict {
        /// Its number, from 0.
        frame: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A picture cannot be prepared for the model, or the model gave nothing for it.
    #[error("{0}")]
    Picture(String),
}

fn missing_frames(missing: u64) -> String {
    match missing {
        0 => "and some may be missing or wrong".to_owned(),
        1 => "about 1 is missing".to_owned(),
        more => format!("about {more} are missing"),
    }
}
