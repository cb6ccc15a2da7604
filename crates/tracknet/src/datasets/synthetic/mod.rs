//! Synthetic tennis rallies with exact labels: real footage is scarce and cannot be shipped, and rendered frames
//! carry the float centre of every streak.
//!
//! A game fixes one [`look`] (court, stadium, lens, clothes, ball), a clip one camera pose and one stretch of a
//! simulated [`rally`]. The still scene is drawn once per clip onto a plate; frames crop it and add players, net,
//! ball, graphics and the camera's electronics. Everything is a function of `(seed, game, clip, frame)`: files are
//! the same on every machine and thread count.

mod ball;
mod body;
mod camera;
mod clip;
mod club;
mod court;
mod develop;
mod flight;
mod look;
mod math;
mod motion;
mod overlay;
mod rally;
mod raster;
mod rng;
mod scenery;
mod stands;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;

use crate::datasets::DatasetError;
use crate::error::{IoContext, Result};
use crate::files::{Destination, write_atomic};

use clip::{ClipKey, Truth, render_clip};
use look::Look;
pub use look::LookSet;
use rng::Rng;

/// Version of the renderer, raised whenever the same options give other files.
pub const RENDERER_VERSION: u32 = 3;

/// What to render.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// The same seed gives the same files.
    pub seed: u64,
    /// Number of games: each has a look of its own.
    pub games: usize,
    /// Number of the first game: names run `game<first_game>`, …; a game's content depends on its number only.
    pub first_game: usize,
    /// Clips in a game.
    pub clips_per_game: usize,
    /// Frames in a clip.
    pub frames_per_clip: usize,
    /// Frame size `[width, height]`, pixels, each 32 to 8192.
    pub size: [usize; 2],
    /// Which looks to draw from.
    pub look: LookSet,
    /// Range of JPEG qualities, one per clip, 1 to 100.
    pub jpeg_quality: [u8; 2],
    /// Worker threads; 0 for one per core. No influence on the files.
    #[serde(skip)]
    pub threads: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            games: 10,
            first_game: 1,
            clips_per_game: 4,
            frames_per_clip: 24,
            size: [1280, 720],
            look: LookSet::Broadcast,
            jpeg_quality: [70, 92],
            threads: 0,
        }
    }
}

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
/// `progress` gets (frames done, frames in all) after every frame. A clip appears whole or not at all.
///
/// # Errors
/// Options out of range, a game directory that exists and is not empty, and everything the file system refuses.
pub fn generate(
    root: &Path,
    options: &GenerateOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<GenerateReport> {
    let report = generate_until(root, options, &AtomicBool::new(false), progress)?;
    report.ok_or_else(|| DatasetError::Generate("the rendering was stopped".to_owned()).into())
}

/// [`generate`], until the flag `stop` is set: then frames in work are finished and the rest is left; clips that are
/// complete stay, without a `generate.json`, and the result is `None`.
///
/// # Errors
/// As [`generate`].
pub fn generate_until(
    root: &Path,
    options: &GenerateOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<GenerateReport>> {
    check(options)?;
    let games: Vec<PathBuf> =
        (0..options.games).map(|i| root.join(format!("game{}", options.first_game + i))).collect();
    for game in &games {
        refuse_existing(game)?;
    }
    fs::create_dir_all(root).at(root)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|e| DatasetError::Generate(format!("cannot start {} rendering threads: {e}", options.threads)))?;
    let jobs: Vec<(usize, usize)> =
        (0..options.games).flat_map(|g| (0..options.clips_per_game).map(move |c| (g, c))).collect();
    let total = jobs.len() * options.frames_per_clip;
    let (sender, receiver) = mpsc::channel::<()>();
    let counts: Result<Vec<Option<[usize; 4]>>> = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let sender = sender;
            pool.install(|| {
                jobs.par_iter()
                    .map_with(sender, |sender, &(game, clip)| {
                        let directory = root.join(format!("game{}/Clip{}", options.first_game + game, clip + 1));
                        write_clip(&directory, options, [options.first_game + game, clip], stop, sender)
                    })
                    .collect()
            })
        });
        for done in 1.. {
            if receiver.recv().is_err() {
                break;
            }
            progress(done, total);
        }
        worker.join().unwrap_or_else(|_| Err(DatasetError::Generate("a rendering thread panicked".to_owned()).into()))
    });
    let mut report = GenerateReport { games, clips: jobs.len(), frames: total, ..GenerateReport::default() };
    for count in counts? {
        let Some(count) = count else { return Ok(None) };
        report.visibility.iter_mut().zip(count).for_each(|(sum, n)| *sum += n);
    }
    write_provenance(root, options)?;
    Ok(Some(report))
}

fn check(options: &GenerateOptions) -> Result<()> {
    let problem = |text: String| Err(DatasetError::Generate(format!("cannot generate rallies: {text}")).into());
    for (key, value) in [
        ("games", options.games),
        ("clips_per_game", options.clips_per_game),
        ("frames_per_clip", options.frames_per_clip),
    ] {
        if value == 0 || value > 100_000 {
            return problem(format!("`{key}` is {value}, expected 1 to 100000"));
        }
    }
    let [width, height] = options.size;
    if [width, height].iter().any(|s| !(32..=8192).contains(s)) {
        return problem(format!("`size` is {width}x{height}, expected 32 to 8192 pixels each way"));
    }
    let [low, high] = options.jpeg_quality;
    if low < 1 || low > high || high > 100 {
        return problem(format!("`jpeg_quality` is [{low}, {high}], expected 1 <= low <= high <= 100"));
    }
    Ok(())
}

fn refuse_existing(game: &Path) -> Result<()> {
    if game.exists() && fs::read_dir(game).at(game)?.next().is_some() {
        let text = format!(
            "{}: the game exists already and is not empty; choose another root or first game, or remove it",
            game.display()
        );
        return Err(DatasetError::Generate(text).into());
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
) -> Result<Option<[usize; 4]>> {
    let (game, clip) = (game as u64, clip as u64);
    let key = ClipKey { seed: options.seed, game, clip, frames: options.frames_per_clip, size: options.size };
    let [low, high] = options.jpeg_quality;
    let mut draw = Rng::keyed(options.seed, &[game, clip, 0x19e6]);
    let quality = low + draw.index(usize::from(high - low) + 1) as u8;
    let done = std::sync::Mutex::new(done.clone());
    let look = Look::sample(options.look, options.seed, game);
    let Some(frames) = render_clip(key, look, stop, |_, rgb| {
        let file = encode(rgb, options.size, quality);
        if let Ok(done) = done.lock() {
            // The listener leaves only when all is over.
            let _ = done.send(());
        }
        file
    }) else {
        return Ok(None);
    };
    let mut counts = [0; 4];
    Destination::new_directory(directory).write_plain(|temporary| -> Result<()> {
        for (index, (file, truth)) in frames.iter().enumerate() {
            let path = temporary.join(format!("{index:04}.jpg"));
            let bytes =
                file.as_ref().map_err(|e| DatasetError::Generate(format!("{}: cannot encode: {e}", path.display())))?;
            fs::write(&path, bytes).at(&path)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn small(seed: u64) -> GenerateOptions {
        GenerateOptions {
            seed,
            games: 1,
            clips_per_game: 1,
            frames_per_clip: 2,
            size: [160, 90],
            ..GenerateOptions::default()
        }
    }

    fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut open = vec![root.to_path_buf()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn one_thread_and_four_write_the_same_bytes() {
        let options = GenerateOptions { games: 2, clips_per_game: 2, ..small(5) };
        let (one, four) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut calls = Vec::new();
        let report = generate(one.path(), &GenerateOptions { threads: 1, ..options.clone() }, &mut |done, all| {
            calls.push((done, all));
        })
        .unwrap();
        generate(four.path(), &GenerateOptions { threads: 4, ..options }, &mut |_, _| {}).unwrap();
        let (a, b) = (files(one.path()), files(four.path()));
        assert_eq!(a.len(), 2 * 2 * 3 + 1);
        assert!(a == b, "the files depend on the number of threads");
        assert_eq!((report.clips, report.frames), (4, 8));
        assert_eq!(report.visibility.iter().sum::<usize>(), 8);
        assert_eq!(calls.last(), Some(&(8, 8)));
    }

    #[test]
    fn games_differ_and_a_game_depends_on_its_number_only() {
        let (both, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        generate(both.path(), &GenerateOptions { games: 2, ..small(1) }, &mut |_, _| {}).unwrap();
        generate(second.path(), &GenerateOptions { first_game: 2, ..small(1) }, &mut |_, _| {}).unwrap();
        let (both, second) = (files(both.path()), files(second.path()));
        let name = "game2/Clip1/0000.jpg";
        assert!(both[name] == second[name]);
        assert!(both[name] != both["game1/Clip1/0000.jpg"]);
    }

    #[test]
    fn labels_parse_and_lie_inside_the_frame() {
        let root = tempfile::tempdir().unwrap();
        let options = GenerateOptions { frames_per_clip: 12, clips_per_game: 3, size: [64, 36], ..small(2) };
        generate(root.path(), &options, &mut |_, _| {}).unwrap();
        let mut rows = 0;
        for clip in 1..=3 {
            let directory = root.path().join(format!("game1/Clip{clip}"));
            let mut reader = csv::Reader::from_path(directory.join("Label.csv")).unwrap();
            let header = ["file name", "visibility", "x-coordinate", "y-coordinate", "status"];
            assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), header);
            for row in reader.records() {
                let row = row.unwrap();
                let frame = image::open(directory.join(&row[0])).unwrap();
                assert_eq!((frame.width(), frame.height()), (64, 36));
                if &row[1] == "0" {
                    assert!(row[2].is_empty() && row[3].is_empty());
                } else {
                    let (x, y): (f32, f32) = (row[2].parse().unwrap(), row[3].parse().unwrap());
                    assert!((0.0..=63.0).contains(&x) && (0.0..=35.0).contains(&y), "{row:?}");
                    assert!(["0", "1", "2"].contains(&&row[4]));
                }
                rows += 1;
            }
        }
        assert_eq!(rows, 36);
    }

    #[test]
    fn every_visibility_class_occurs() {
        let mut counts = [0; 4];
        for game in 1..=10 {
            let key = ClipKey { seed: 3, game, clip: 0, frames: 30, size: [160, 90] };
            let look = Look::sample(LookSet::Broadcast, 3, game);
            for (_, truth) in render_clip(key, look, &AtomicBool::new(false), |_, _| ()).unwrap() {
                assert_eq!(truth.xy.is_some(), truth.visibility > 0);
                counts[usize::from(truth.visibility)] += 1;
            }
        }
        assert!(counts.iter().all(|&n| n > 0), "{counts:?}");
        assert!(counts[1] > counts[0] + counts[3], "most balls are visible: {counts:?}");
    }

    #[test]
    fn the_ball_is_where_the_label_says() {
        // A frame with the ball, less the same frame of a ball that reflects nothing: what differs is the ball.
        let mut checked = 0;
        for game in 1..=6 {
            let look = Look { noise: 0.0, duplicates: 0.0, ..Look::sample(LookSet::Broadcast, 9, game) };
            let dark = Look { ball: [0.0; 3], ..look.clone() };
            let key = ClipKey { seed: 9, game, clip: 0, frames: 3, size: [640, 360] };
            let [bright, dark] = [look, dark]
                .map(|look| render_clip(key, look, &AtomicBool::new(false), |_, rgb| rgb.to_vec()).unwrap());
            for ((a, truth), (b, _)) in bright.iter().zip(&dark) {
                let (Some([x, y]), 1) = (truth.xy, truth.visibility) else { continue };
                let (mut sum, mut sx, mut sy) = (0.0, 0.0, 0.0);
                for (i, (p, q)) in a.chunks(3).zip(b.chunks(3)).enumerate() {
                    let (px, py) = ((i % 640) as f32, (i / 640) as f32);
                    let near = (px - x).abs() < 30.0 && (py - y).abs() < 30.0;
                    let weight = if near { f32::from(p[1]) - f32::from(q[1]) } else { 0.0 };
                    sum += weight;
                    sx += weight * px;
                    sy += weight * py;
                }
                // Shading is brighter above, the transfer curve and the clipping of loose balls skew the mean.
                assert!((sx / sum - x).abs() < 1.5 && (sy / sum - y).abs() < 1.5, "{} {} {x} {y}", sx / sum, sy / sum);
                checked += 1;
            }
        }
        assert!(checked > 5, "only {checked} frames showed the ball");
    }

    #[test]
    fn a_stopped_rendering_leaves_whole_clips_only() {
        let root = tempfile::tempdir().unwrap();
        let options = GenerateOptions { clips_per_game: 40, frames_per_clip: 3, threads: 1, ..small(6) };
        let stop = AtomicBool::new(false);
        let mut done = 0;
        let report = generate_until(root.path(), &options, &stop, &mut |frames, _| {
            done = frames;
            // Within the second clip.
            stop.store(frames >= 4, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(report.unwrap(), None);
        assert!((4..120).contains(&done), "{done} frames of 120");
        let files = files(root.path());
        assert!(!files.is_empty() && files.len().is_multiple_of(4) && files.len() < 160, "{:?}", files.keys());
        assert!(files.contains_key("game1/Clip1/Label.csv") && !files.contains_key("generate.json"));
    }

    #[test]
    fn an_existing_game_is_never_overwritten() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("game1/Clip1")).unwrap();
        let error = generate(root.path(), &small(1), &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("game1") && error.contains("not empty"), "{error}");
        assert!(!root.path().join("generate.json").exists());
    }

    #[test]
    fn options_out_of_range_are_named() {
        let root = tempfile::tempdir().unwrap();
        for (options, key) in [
            (GenerateOptions { games: 0, ..small(1) }, "`games` is 0"),
            (GenerateOptions { size: [8, 90], ..small(1) }, "8x90"),
            (GenerateOptions { jpeg_quality: [90, 70], ..small(1) }, "[90, 70]"),
        ] {
            let error = generate(root.path(), &options, &mut |_, _| {}).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_whole_court_is_in_a_broadcast_frame() {
        for game in 0..20 {
            let look = Look::sample(LookSet::Broadcast, 4, game);
            let camera = camera::sample_camera(&look.camera, [1280, 720], &mut Rng::keyed(4, &[game]));
            for (x, y) in [(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)] {
                let corner = math::v3(x * court::DOUBLES, y * court::BASELINE, 0.0);
                let p = camera.project(corner).unwrap();
                assert!(p.x > 0.0 && p.x < 1279.0 && p.y > 0.0 && p.y < 719.0, "game {game}: {p:?}");
            }
        }
    }
}
