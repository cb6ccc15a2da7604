//! The batches of a run, from its configuration.

use sha2::{Digest, Sha256};

use crate::artifacts::BuildReport;
use crate::artifacts::run::FrameList;
use crate::compute::Compute;
use crate::config::{Config, OnBadFrame};
use crate::console::listing;
use crate::datasets::layouts::expected;
use crate::datasets::{BatchLoader, BatchSpec, Dataset, DatasetError, FrameRef, LoaderOptions, ProblemKind, split_of};
use crate::error::Result;
use crate::files::hex;

use super::held_out::held_out;
use super::staging::BatchShape;

/// Training batches, and validation batches when there are validation games.
#[derive(Debug, Clone)]
pub struct Loaders {
    /// Shuffled and augmented.
    pub train: BatchLoader,
    /// In order, as they are.
    pub validation: Option<BatchLoader>,
    /// What the datasets have to say, one paragraph a split.
    pub report: String,
}

impl Loaders {
    /// Opens the training and validation games.
    ///
    /// # Errors
    /// If a game is missing or nothing in it can be used.
    pub fn open(config: &Config, build: &BuildReport, compute: &Compute) -> Result<Self> {
        let split = split_of(&config.data)?;
        let train = open_checked(config, "data.split.train_games", &split.train_games)?;
        let mut report = format!("training: {}", train.report);
        let (frames, validation) = match split.val_games.as_slice() {
            [] if split.val_share > 0.0 => {
                let (frames, validation) = held_out(train.frames(), split.val_share, config.training.seed);
                report.push_str(&format!("\nvalidation: {} of these frames, which do not train", validation.len()));
                (frames, Some(validation).filter(|frames| !frames.is_empty()))
            }
            [] => (train.frames(), None),
            games => {
                let validation = open_checked(config, "data.split.val_games", games)?;
                report.push_str(&format!("\nvalidation: {}", validation.report));
                (train.frames(), Some(validation.frames()))
            }
        };
        let spec = BatchSpec::new(config, build.normalization());
        let loader = &config.training.data_loader;
        let cache_bytes = cache_bytes(compute);
        let options = LoaderOptions {
            cache_bytes,
            drop_last: loader.drop_last,
            shuffle_seed: Some(config.training.seed),
            augment: true,
            limit: config.training.limit_train_batches,
            ..loader_options(config)
        };
        let batch_size = config.training.batch_size;
        Ok(Self {
            train: BatchLoader::new(frames, spec.clone(), batch_size, options)?,
            validation: validation.map(|frames| validation_loader(config, frames, spec, cache_bytes)).transpose()?,
            report,
        })
    }

    /// The training frames that the order of an epoch is drawn from.
    pub(super) fn frame_list(&self) -> FrameList {
        let frames = self.train.frames();
        let mut hasher = Sha256::new();
        for frame in frames {
            hasher.update(format!("{frame}\n"));
        }
        FrameList { count: frames.len(), sha256: hex(&hasher.finalize()) }
    }

    /// Sizes of a batch's tensors.
    pub fn shape(&self) -> BatchShape {
        shape_of(self.train.spec())
    }
}

/// Games without the frames whose label lies outside the image or whose image cannot be read; the report lists them, and
/// labels that cannot be true as a whole. `key` is what asked for the games.
pub(super) fn open_checked(config: &Config, key: &str, games: &[String]) -> Result<Dataset> {
    let root = &config.data.root;
    let mut data = Dataset::open_split(key, root, &config.data, games, false)?;
    data.check_coordinates(false)?;
    let bad = data.report.problems.iter().find(|p| p.kind == ProblemKind::UndecodableImage);
    if let (OnBadFrame::Error, Some(bad)) = (config.data.on_bad_frame, bad) {
        return Err(DatasetError::Image { path: bad.file.clone(), reason: bad.detail.clone() }.into());
    }
    if data.frames().is_empty() {
        let (key, root, games) = (key.to_owned(), root.clone(), listing(games, 20));
        let expected = expected(config.data.format);
        let mut problems = Box::new(data.report.doubts);
        problems.extend(data.report.problems);
        return Err(DatasetError::NoFrames { key, root, games, expected, problems }.into());
    }
    Ok(data)
}

/// Batches in order, neither shuffled nor augmented, up to `limit_val_batches`.
fn validation_loader(
    config: &Config,
    frames: Vec<FrameRef>,
    spec: BatchSpec,
    cache_bytes: usize,
) -> Result<BatchLoader> {
    let limit = config.training.limit_val_batches;
    let options = LoaderOptions { limit, cache_bytes, non_overlapping: true, ..loader_options(config) };
    BatchLoader::new(frames, spec, config.training.batch_size, options)
}

/// Decoded frames may take a sixteenth of the memory that the run may use, up to 16 GiB a split.
fn cache_bytes(compute: &Compute) -> usize {
    compute.host_memory_bound().map_or(256 << 20, |bound| (bound.bytes / 16).min(16 << 30) as usize)
}

/// Workers and prefetch of the configuration; the rest as for evaluation.
pub(crate) fn loader_options(config: &Config) -> LoaderOptions {
    let loader = &config.training.data_loader;
    LoaderOptions {
        workers: loader.num_workers,
        prefetch: loader.prefetch_factor,
        on_bad_frame: config.data.on_bad_frame,
        ..LoaderOptions::default()
    }
}

/// Sizes of the tensors of a batch.
pub fn shape_of(spec: &BatchSpec) -> BatchShape {
    BatchShape {
        input: spec.input_size,
        frames: spec.window.length,
        heatmap: spec.heatmap_size,
        heatmaps: spec.heatmaps(),
    }
}
