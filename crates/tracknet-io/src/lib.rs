//! How the program meets the world outside of it, below everything that computes: [`files`] reads and writes so that
//! nothing of the user's is lost, [`console`] says things to people, [`process`] asks what this process takes.

pub mod console;
pub mod files;
pub mod process;
