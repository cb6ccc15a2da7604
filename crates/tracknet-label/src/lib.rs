//! Labels by hand: a page in the browser shows frames, a model proposes where the ball is, a person confirms or corrects, and
//! every label is in the label file of its clip before the page hears that it was taken.
//!
//! | module | what lives there |
//! |---|---|
//! | [`mod@extract`] | a video → clips of frames to label |
//! | [`proposals`] | what a trained run finds on the frames, computed beside the page |
//! | [`doubt`] | which frame is worth labelling next |
//! | [`work`] | the labels, the proposals and the training that several pages share |
//! | [`training`] | a training on the labels, as a process of its own |
//! | `server` | the page and what it asks for |

pub mod doubt;
pub mod extract;
pub mod proposals;
mod server;
pub mod training;
pub mod work;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use extract::{ExtractOptions, extract};
pub use server::serve;
pub use training::TrainingPlan;
pub use work::Work;

/// Why labels cannot be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {address}: {cause}; choose another port with --port, or 0 for any")]
    Listen {
        /// Where it should listen.
        address: SocketAddr,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// The server broke down.
    #[error("the server: {0}")]
    Server(std::io::Error),
    /// More frames than a person labels.
    #[error(
        "{}: {frames} frames are selected, and at most {most} are written to disk; take a part with --start and --end, or every \
         N-th with --stride",
        path.display()
    )]
    TooMany {
        /// The video.
        path: PathBuf,
        /// Its selected frames.
        frames: u64,
        /// The limit.
        most: u64,
    },
    /// A training is going on already, or none was set up.
    #[error("{0}")]
    Training(&'static str),
    /// What the library says.
    #[error(transparent)]
    Tracknet(#[from] tracknet::Error),
}
