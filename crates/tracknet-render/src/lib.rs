//! Synthetic tennis rallies with exact labels: real footage is scarce and cannot be shipped, and rendered frames
//! carry the float centre of every streak.
//!
//! A game fixes one look (court, stadium, lens, clothes, ball), a clip one camera pose and one stretch of a simulated
//! rally. The still scene is drawn once per clip onto a plate; frames crop it and add players, net, ball, graphics and the
//! camera's electronics. Everything is a function of `(seed, game, clip, frame)`: files are the same on every machine and
//! thread count.
//!
//! | module | what lives there |
//! |---|---|
//! | [`generate`](mod@generate), [`options`], [`error`] | games, clips and label files on disk |
//! | [`clip`] | a clip's frames, and what their labels say |
//! | [`look`] | everything drawn once per game |
//! | [`camera`], [`develop`] | projection; blur, grain, gain and the transfer curve |
//! | [`rally`], [`flight`], [`motion`] | points as they are played: ball, bounces, runs and swings |
//! | [`court`], [`scenery`], [`stands`], [`club`], [`officials`], [`body`], [`ball`], [`overlay`], [`text`] | what is drawn |
//! | [`raster`], [`math`], [`draw`] | drawing in linear light; vectors, colours and noise; random streams |

mod ball;
mod body;
mod camera;
mod clip;
mod club;
mod court;
mod develop;
mod draw;
mod error;
mod flight;
mod generate;
mod look;
mod math;
mod motion;
mod officials;
mod options;
mod overlay;
mod rally;
mod raster;
mod scenery;
mod stands;
#[cfg(test)]
mod tests;
mod text;

pub use error::RenderError;
pub use generate::{GenerateReport, generate};
pub use look::LookSet;
pub use options::GenerateOptions;

/// Version of the renderer, raised whenever the same options give other files.
pub const RENDERER_VERSION: u32 = 3;
