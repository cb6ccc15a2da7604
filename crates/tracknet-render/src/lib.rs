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
//! | [`camera`] | projection, and where cameras stand |
//! | [`develop`], [`codec`] | blur, grain, gain and the transfer curve; fields; what a video codec leaves |
//! | [`rally`], [`flight`], [`motion`] | points as they are played: ball, bounces, runs and swings |
//! | [`court`], [`scenery`], [`stands`], [`club`], [`hall`], [`beach`], [`officials`], [`crowd`] | what is drawn around the play |
//! | [`body`], [`ball`], [`overlay`], [`text`] | players, ball, graphics, lettering |
//! | [`raster`], [`math`], [`draw`] | drawing in linear light; vectors, colours and noise; random streams |

mod ball;
mod beach;
mod body;
mod camera;
mod clip;
mod club;
mod codec;
mod court;
mod crowd;
mod develop;
mod draw;
mod error;
mod flight;
mod generate;
mod hall;
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
pub const RENDERER_VERSION: u32 = 4;
