//! JPEG files to normalized input, on one core.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tracknet::Result;
use tracknet::datasets::image::load_frame;
use tracknet::datasets::{BatchSpec, DatasetError};
use tracknet_io::files::IoContext;
use tracknet_io::process;
use tracknet_render::{GenerateOptions, RenderError, generate};

use crate::{Measurement, Options};

/// Renders 12 frames of 1280×720 pixels: two games, so that there is more than one look and JPEG quality.
pub(crate) fn prepare(dir: &Path) -> Result<(), RenderError> {
    let options = GenerateOptions { games: 2, clips_per_game: 1, frames_per_clip: 6, ..GenerateOptions::default() };
    generate(&dir.join("frames"), &options, &AtomicBool::new(false), &mut |_, _| {}).map(drop)
}

pub(crate) fn run(options: &Options, dir: &Path) -> Result<Measurement> {
    let files = jpegs(&dir.join("frames"))?;
    let spec = BatchSpec::default();
    let normalizer = spec.normalizer();
    process::reset_peak();
    let time = options.repeat.time(|| -> Result<()> {
        for file in &files {
            load_frame(file, spec.input_size, &normalizer)?;
        }
        Ok(())
    })?;
    Ok(Measurement { frames: 1, ..Measurement::new(time.divided(files.len())) })
}

/// Every JPEG file below `dir`.
fn jpegs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).at(&dir)? {
            let path = entry.at(&dir)?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "jpg") {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        let reason = "no frames were rendered".to_owned();
        return Err(DatasetError::Image { path: dir.to_path_buf(), reason }.into());
    }
    Ok(files)
}
