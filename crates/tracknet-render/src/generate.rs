//! Games, clips and label files on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use tracknet_io::files::{Destination, IoContext, write_atomic};

use crate::clip::{ClipKey, Truth, render_clip};
use crate::draw::{Draw, stream};
use crate::look::Look;
use crate::{GenerateOptions, RENDERER_VERSION, RenderError};

type Result<T, E = RenderError> = std::result::Result<T, E>;

/// Frames by visibility class: absent, visible, hard, occluded.
type VisibilityCounts = [usize; 4];

/// What was rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GenerateReport {
    /// Directories of the games.
    pub games: Vec<PathBuf>,
    /// Clips written.
    pub clips: usize,
    /// Frames written.
    pub frames: usize,
    /// Frames by visibility class: absent, visible, hard, occluded.
    pub visibility: [usize; 4],
}

/// Renders games into `<root>/game<N>/Clip<M>/{0000.jpg, …, Label.csv}` and writes `<root>/generate.json`.
///
/// `progress` gets (frames done, frames in all) after every frame. A clip appears whole or not at all. When the flag `stop`
/// gets set, frames in work are finished and the rest is left; clips that are complete stay, without a `generate.json`, and
/// the result is `None`.
///
/// # Errors
/// Options out of range, a game directory that exists and is not empty, and everything the file system refuses.
pub fn generate(
    root: &Path,
    options: &GenerateOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<GenerateReport>> {
    options.check()?;
    let games: Vec<PathBuf> =
        (0..options.games).map(|i| root.join(format!("game{}", options.first_game + i))).collect();
    for game in &games {
        refuse_existing(game)?;
    }
    fs::create_dir_all(root).at(root)?;
    let jobs: Vec<[usize; 2]> =
        (0..options.games).flat_map(|g| (0..options.clips_per_game).map(move |c| [g, c])).collect();
    let frames = jobs.len() * options.frames_per_clip;
    let mut report = GenerateReport { games, clips: jobs.len(), frames, ..GenerateReport::default() };
    for counts in write_clips(root, options, &jobs, stop, progress)? {
        let Some(counts) = counts else { return Ok(None) };
        report.visibility.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
    }
    write_provenance(root, options)?;
    Ok(Some(report))
}

/// Renders the clips of `jobs`, `[game, clip]` from 0, on threads of their own; this one reports the progress.
fn write_clips(
    root: &Path,
    options: &GenerateOptions,
    jobs: &[[usize; 2]],
    stop: &AtomicBool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Option<VisibilityCounts>>> {
    let threads = options.threads;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|cause| RenderError::Threads { threads, cause })?;
    let total = jobs.len() * options.frames_per_clip;
    let (sender, receiver) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // Dropped when all clips are done, which ends the loop below.
            let sender = sender;
            pool.install(|| {
                let write = |&[game, clip]: &[usize; 2]| {
                    let game = options.first_game + game;
                    let directory = root.join(format!("game{game}/Clip{}", clip + 1));
                    write_clip(&directory, options, [game, clip], stop, &sender)
                };
                jobs.par_iter().map(write).collect()
            })
        });
        for done in 1.. {
            if receiver.recv().is_err() {
                break;
            }
            progress(done, total);
        }
        worker.join().unwrap_or(Err(RenderError::Panicked))
    })
}

fn refuse_existing(game: &Path) -> Result<()> {
    if game.exists() && fs::read_dir(game).at(game)?.next().is_some() {
        return Err(RenderError::GameExists { game: game.to_path_buf() });
    }
    Ok(())
}

/// Renders and writes one clip; returns the frames by visibility class, or `None` if it was stopped before.
fn write_clip(
    directory: &Path,
    options: &GenerateOptions,
    [game, clip]: [usize; 2],
    stop: &AtomicBool,
    done: &mpsc::Sender<()>,
) -> Result<Option<VisibilityCounts>> {
    let (game, clip) = (game as u64, clip as u64);
    let key = ClipKey { seed: options.seed, game, clip, frames: options.frames_per_clip, size: options.size };
    let [low, high] = options.jpeg_quality;
    let mut draw = stream(options.seed, &[game, clip, 0x19e6]);
    let quality = low + draw.index(usize::from(high - low) + 1) as u8;
    let look = Look::sample(options.look, options.seed, game);
    let Some(frames) = render_clip(key, look, stop, |_, rgb| {
        let file = encode(rgb, options.size, quality);
        // The listener leaves only when all is over.
        let _ = done.send(());
        file
    }) else {
        return Ok(None);
    };
    let mut counts = [0; 4];
    Destination::new_directory(directory).write_plain(|temporary| -> Result<()> {
        for (index, (file, truth)) in frames.iter().enumerate() {
            let path = temporary.join(format!("{index:04}.jpg"));
            match file {
                Ok(bytes) => fs::write(&path, bytes).at(&path)?,
                Err(cause) => return Err(RenderError::Encode { path, cause: cause.clone() }),
            }
            if let Some(count) = counts.get_mut(usize::from(truth.visibility)) {
                *count += 1;
            }
        }
        let path = temporary.join("Label.csv");
        Ok(fs::write(&path, labels(frames.iter().map(|(_, truth)| truth))).at(&path)?)
    })?;
    Ok(Some(counts))
}

fn encode(rgb: &[u8], [width, height]: [usize; 2], quality: u8) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(width * height / 4);
    JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode(rgb, width as u32, height as u32, ExtendedColorType::Rgb8)
        .map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// The tennis format's `Label.csv`; coordinates in pixels with two decimals, blank when absent.
fn labels<'a>(truths: impl Iterator<Item = &'a Truth>) -> String {
    let mut text = String::from("file name,visibility,x-coordinate,y-coordinate,status\n");
    for (index, truth) in truths.enumerate() {
        let (x, y, status) = match truth.xy {
            Some([x, y]) => (format!("{x:.2}"), format!("{y:.2}"), truth.status.to_string()),
            None => (String::new(), String::new(), String::new()),
        };
        text.push_str(&format!("{index:04}.jpg,{},{x},{y},{status}\n", truth.visibility));
    }
    text
}

fn write_provenance(root: &Path, options: &GenerateOptions) -> Result<()> {
    #[derive(serde::Serialize)]
    struct Provenance<'a> {
        renderer_version: u32,
        options: &'a GenerateOptions,
    }
    let provenance = Provenance { renderer_version: RENDERER_VERSION, options };
    Ok(write_atomic(root.join("generate.json"), |file| {
        serde_json::to_writer_pretty(file, &provenance).map_err(std::io::Error::other)
    })?)
}
