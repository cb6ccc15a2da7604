//! Measures frames and balls of datasets and compares their distributions: rendered frames against real ones.
//!
//! ```text
//! cargo run --release -p tracknet-render --example compare_frames -- real=DIR rendered=DIR …
//! ```
//!
//! Each argument names a dataset. Every directory below DIR that holds frames is a clip, its frames in order of their names;
//! a `Label.csv` of the tennis format beside them gives the balls. A row of the table is one measure of one dataset: how many
//! values, their 5th, 25th, 50th, 75th and 95th percentile, and the Kolmogorov–Smirnov distance to the first dataset. Lengths
//! are pixels at 720 lines, levels are of 255.

mod ball;
mod clip;
mod picture;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rayon::prelude::*;

use picture::Problem;
use table::Samples;

fn main() -> ExitCode {
    let text = match run() {
        Ok(text) => text,
        Err(problem) => {
            tracknet_io::console::say(format_args!("{problem}"));
            return ExitCode::FAILURE;
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The table of all datasets named in the arguments.
fn run() -> Result<String, Problem> {
    let mut datasets = Vec::new();
    for argument in std::env::args().skip(1) {
        let Some((name, root)) = argument.split_once('=') else {
            return Err(Problem(format!("`{argument}` names no dataset; expected NAME=DIRECTORY")));
        };
        datasets.push((name.to_owned(), measure(Path::new(root))?));
    }
    if datasets.is_empty() {
        return Err(Problem("no dataset given; expected NAME=DIRECTORY, the one to compare with first".to_owned()));
    }
    Ok(table::render(&datasets))
}

/// All measures of all clips below a directory.
fn measure(root: &Path) -> Result<Samples, Problem> {
    let mut clips = Vec::new();
    find_clips(root, &mut clips)?;
    if clips.is_empty() {
        return Err(Problem(format!("{}: no directory with jpg or png frames in it", root.display())));
    }
    clips.sort();
    let measured: Vec<Samples> = clips.par_iter().map(|clip| clip::measure(clip)).collect::<Result<_, _>>()?;
    let mut all = Samples::default();
    measured.into_iter().for_each(|one| all.append(one));
    Ok(all)
}

fn find_clips(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Problem> {
    if !picture::frames(directory)?.is_empty() {
        found.push(directory.to_path_buf());
    }
    for path in picture::entries(directory)?.into_iter().filter(|path| path.is_dir()) {
        find_clips(&path, found)?;
    }
    Ok(())
}
