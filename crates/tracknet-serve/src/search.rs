//! The search of a video, in a thread of its own: rows as frames are found, or the video with the ball ringed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tracknet::Error;
use tracknet::evaluation::TrackOptions;
use tracknet::evaluation::track::CANDIDATES;
use tracknet::inference::{
    InferenceError, Predicted, Predictor, StreamOptions, TrackedFrames, VideoTools, VideoWriter,
};

use crate::body::Piece;
use crate::problem::Problem;

/// Bytes of a file that are sent at once.
const CHUNK: usize = 64 << 10;

/// What is known of an answer before its body.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// Its length, if it is known.
    pub(crate) length: Option<u64>,
    /// Why the video was not searched to its end.
    pub(crate) damage: Option<String>,
}

/// A video to be searched.
pub(crate) struct Search {
    pub(crate) predictor: Predictor,
    pub(crate) path: PathBuf,
    /// Where an overlay goes, if one is wanted in place of rows.
    pub(crate) overlay: Option<PathBuf>,
    pub(crate) threshold: f32,
    pub(crate) track: bool,
    /// The most pixels of a frame.
    pub(crate) pixels: u64,
    pub(crate) ends: Ends,
}

/// What ends a search early.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// Set when the server cannot wait any more.
    pub(crate) cut: Arc<AtomicBool>,
    /// Set when nobody waits for the answer.
    pub(crate) gone: Arc<AtomicBool>,
    pub(crate) deadline: Instant,
    /// How long a client may take nothing.
    pub(crate) patience: Duration,
    /// Where the time of a client's patience runs.
    pub(crate) clock: Handle,
}

impl Ends {
    /// Why the search has to end now.
    fn now(&self) -> Option<Problem> {
        if self.gone.load(Ordering::SeqCst) {
            return Some(Problem::slow("nobody reads the answer"));
        }
        if self.cut.load(Ordering::SeqCst) {
            return Some(Problem::stopping());
        }
        (Instant::now() >= self.deadline)
            .then(|| Problem::late("the video takes too long; what was found until here is right"))
    }
}

/// Where the answer goes: its head once, then its body.
pub(crate) struct Reply {
    head: Option<oneshot::Sender<Result<Head, Problem>>>,
    body: Sender<Piece>,
}

impl Reply {
    pub(crate) fn new(head: oneshot::Sender<Result<Head, Problem>>, body: Sender<Piece>) -> Self {
        Self { head: Some(head), body }
    }

    fn begin(&mut self, head: Result<Head, Problem>) {
        if let Some(sender) = self.head.take() {
            // Whoever asked may have left.
            let _ = sender.send(head);
        }
    }

    /// Sends bytes of the body; whether they were taken.
    fn send(&self, ends: &Ends, bytes: Bytes) -> bool {
        self.push(ends, Piece::Data(bytes))
    }

    fn push(&self, ends: &Ends, piece: Piece) -> bool {
        // The usual case needs no clock.
        let Err(full) = self.body.try_send(piece) else { return true };
        let piece = full.into_inner();
        let sent = ends.clock.block_on(async { tokio::time::timeout(ends.patience, self.body.send(piece)).await });
        matches!(sent, Ok(Ok(())))
    }

    /// The body is whole.
    fn end(&self, ends: &Ends) {
        let _taken = self.push(ends, Piece::End);
    }
}

impl Search {
    /// Searches the video and answers; returns how many frames were found, and why there are no more.
    pub(crate) fn run(mut self, mut reply: Reply) -> (u64, Option<Problem>) {
        match self.overlay.take() {
            None => self.rows(&mut reply),
            Some(path) => self.overlay(&path, &mut reply),
        }
    }

    /// Rows as they are found. What goes wrong after the first is the last line.
    fn rows(self, reply: &mut Reply) -> (u64, Option<Problem>) {
        let (threshold, ends) = (self.threshold, self.ends.clone());
        let (frames, problem) = self.each(false, &mut |predicted| {
            reply.begin(Ok(Head::default()));
            let line = serde_json::to_string(&predicted.prediction().line(threshold)).map_err(Problem::internal)?;
            if reply.send(&ends, Bytes::from(line + "\n")) {
                return Ok(());
            }
            ends.gone.store(true, Ordering::SeqCst);
            Err(Problem::slow("nobody reads the answer"))
        });
        match &problem {
            Some(problem) if frames == 0 => reply.begin(Err(problem.clone())),
            Some(problem) => {
                let _told = reply.send(&ends, Bytes::from(problem.json() + "\n"));
            }
            None => reply.begin(Ok(Head::default())),
        }
        reply.end(&ends);
        (frames, problem)
    }

    /// The whole video with the ball ringed, once it is made.
    fn overlay(self, path: &Path, reply: &mut Reply) -> (u64, Option<Problem>) {
        let (threshold, ends) = (self.threshold, self.ends.clone());
        let tools = VideoTools::default();
        let fps = tools.probe(&self.path).ok().and_then(|info| info.fps).unwrap_or(25.0);
        let mut writer: Option<VideoWriter> = None;
        let (frames, problem) = self.each(true, &mut |predicted| {
            // A video has no frames that cannot be read: it ends there.
            let Predicted::Frame(found) = predicted else { return Ok(()) };
            let picture = found.overlay(threshold).map_err(Problem::internal)?;
            let writer = match &mut writer {
                Some(writer) => writer,
                none => {
                    let size = [picture.width(), picture.height()];
                    none.insert(VideoWriter::create(&tools, path, size, fps).map_err(|e| of_error(&e))?)
                }
            };
            writer.write(&picture).map_err(|e| of_error(&e))
        });
        // What is cut or damaged was searched until there.
        let fatal = problem.clone().filter(|problem| frames == 0 || problem.status.as_u16() == 500);
        let written = match (writer, fatal) {
            (_, Some(problem)) => Err(problem),
            (None, None) => Err(Problem::malformed("the video has no frames")),
            (Some(writer), None) => writer.finish().map_err(|e| of_error(&e)).and_then(|()| open(path)),
        };
        match written {
            Err(problem) => {
                reply.begin(Err(problem.clone()));
                (frames, Some(problem))
            }
            Ok((file, length)) => {
                let damage = problem.as_ref().map(|problem| problem.detail.clone());
                reply.begin(Ok(Head { length: Some(length), damage }));
                (frames, send_file(file, &ends, reply).or(problem))
            }
        }
    }

    /// Every frame in order, with its picture if those are wanted, until one is refused or the search has to end; returns how many
    /// were accepted.
    fn each(
        self,
        pictures: bool,
        accept: &mut (dyn FnMut(Predicted) -> Result<(), Problem> + Send),
    ) -> (u64, Option<Problem>) {
        let tools = VideoTools::default();
        let info = match tools.probe(&self.path) {
            Ok(info) => info,
            Err(error) => return (0, Some(of_error(&error))),
        };
        if let Some([width, height]) = info.size
            && (width as u64).saturating_mul(height as u64) > self.pixels
        {
            let detail = format!("the video is {width}×{height}, at most {} pixels are read", self.pixels);
            return (0, Some(Problem::too_large(detail)));
        }
        let Self { predictor, path, threshold, track, ends, overlay: _, pixels: _ } = self;
        let options = StreamOptions { pictures, ..StreamOptions::default() };
        let predictor = predictor.with_options(options).stopping_at(Arc::clone(&ends.cut));
        let (mut frames, mut refused) = (0, None);
        let mut count = |predicted: Predicted| {
            let ended = ends.now().map_or(Ok(()), Err).and_then(|()| accept(predicted));
            frames += u64::from(ended.is_ok());
            ended.map_err(|problem| {
                refused = Some(problem);
                // Never seen: the problem itself is.
                Error::from(InferenceError::Picture("ended".to_owned()))
            })
        };
        let ended = if track {
            let fps = info.fps.unwrap_or(TrackOptions::default().fps);
            let options = TrackOptions { threshold, fps, ..TrackOptions::default() };
            TrackedFrames::new(options, 1).and_then(|mut tracked| {
                let predictor = predictor.with_candidates(CANDIDATES);
                let ended = predictor.video(&path, &tools, &mut |predicted| tracked.push(predicted, &mut count));
                // What was read before damage counts.
                tracked.finish(&mut count).and(ended.map(drop))
            })
        } else {
            predictor.video(&path, &tools, &mut count).map(drop)
        };
        let problem = refused.or_else(|| ended.err().map(|error| of_error(&error))).or_else(|| {
            // A stop between two frames ends the video as its end would.
            ends.cut.load(Ordering::SeqCst).then(Problem::stopping)
        });
        (frames, problem)
    }
}

/// What an error of the library means for a client.
fn of_error(error: &Error) -> Problem {
    match error {
        Error::Inference(
            InferenceError::ProgramMissing { program } | InferenceError::ProgramFailed { program, .. },
        ) => Problem::missing(format_args!("videos need the program `{}`, which does not run here", program.display())),
        // Where the file lies is nobody's business.
        Error::Inference(InferenceError::Video { reason, .. }) => {
            Problem::malformed(format_args!("the video: {reason}"))
        }
        Error::Inference(InferenceError::VideoDamaged { read, reason, .. }) => {
            Problem::malformed(format_args!("the video is cut off or damaged: {read} frames were read: {reason}"))
        }
        Error::Inference(InferenceError::VideoFrame { frame, reason, .. }) => {
            Problem::malformed(format_args!("the video at frame {frame}: {reason}"))
        }
        other => Problem::internal(other),
    }
}

fn open(path: &Path) -> Result<(std::fs::File, u64), Problem> {
    let opened = std::fs::File::open(path).and_then(|file| file.metadata().map(|data| (file, data.len())));
    opened.map_err(|error| Problem::internal(format_args!("the overlay cannot be read: {error}")))
}

fn send_file(mut file: std::fs::File, ends: &Ends, reply: &Reply) -> Option<Problem> {
    loop {
        let mut chunk = vec![0; CHUNK];
        match file.read(&mut chunk) {
            Ok(0) => {
                reply.end(ends);
                return None;
            }
            Ok(read) => {
                chunk.truncate(read);
                if !reply.send(ends, chunk.into()) {
                    return Some(Problem::slow("nobody reads the answer"));
                }
            }
            Err(error) => return Some(Problem::internal(format_args!("the overlay cannot be read: {error}"))),
        }
    }
}
