//! Why rallies were not rendered.

use std::path::PathBuf;

use tracknet_io::files::FileError;

/// Why rallies were not rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// An option out of range.
    #[error("cannot generate rallies: `{key}` is {found}, expected {expected}")]
    Option {
        /// The option.
        key: &'static str,
        /// Its value.
        found: String,
        /// The values that are allowed.
        expected: &'static str,
    },
    /// A game's directory is there and not empty.
    #[error(
        "{}: the game exists already and is not empty; choose another root or first game, or remove it",
        game.display()
    )]
    GameExists {
        /// The directory.
        game: PathBuf,
    },
    /// The rendering threads cannot be started.
    #[error("cannot start {threads} rendering threads: {cause}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why not. Part of the message, so not also its `source`: printed once.
        cause: rayon::ThreadPoolBuildError,
    },
    /// A rendering thread panicked.
    #[error("a rendering thread panicked")]
    Panicked,
    /// A frame cannot be encoded as JPEG.
    #[error("{}: cannot encode: {cause}", path.display())]
    Encode {
        /// The frame's file.
        path: PathBuf,
        /// What the encoder said.
        cause: String,
    },
    /// A file or directory cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}
