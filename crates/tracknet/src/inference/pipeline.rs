//! The stages of a prediction, side by side: frames are read and prepared ∥ windows go through the model ∥ heatmaps are decoded ∥
//! what was found is passed on. The queues between them hold one batch, so that the slowest stage sets the pace and memory is that
//! of a few batches, however long the source.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::console::excerpt;
use crate::error::Result;
use crate::evaluation::track::SceneWatch;

use super::Prediction;
use super::frames::{Frames, Incoming};
use super::predictor::{Each, Heatmaps, Predicted, Predictor, Read};
use super::ring::{Cut, Ring};

/// The longest reason that is kept of a damaged frame, in bytes.
const REASON_BYTES: usize = 500;

/// The most bytes of pictures that wait for the end of a batch.
const BATCH_BYTES: usize = 48 << 20;

/// How often a stage that waits looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long each stage of predictions worked, waiting for other stages left out.
#[derive(Debug, Default)]
pub struct StageTimes {
    reading: AtomicU64,
    preparing: AtomicU64,
    model: AtomicU64,
    decoding: AtomicU64,
    writing: AtomicU64,
    expected: AtomicU64,
}

impl StageTimes {
    /// How many frames the source at hand has, as far as it says so.
    pub fn expected(&self) -> Option<u64> {
        Some(self.expected.load(Ordering::Relaxed)).filter(|frames| *frames > 0)
    }

    /// The names of the stages, each with its time. *Reading* is decoding pictures, or waiting for the program that decodes a video;
    /// *preparing* is resizing and normalizing; *decoding* finds the ball in heatmaps; *writing* is what becomes of frames.
    pub fn stages(&self) -> [(&'static str, Duration); 5] {
        let time = |nanoseconds: &AtomicU64| Duration::from_nanos(nanoseconds.load(Ordering::Relaxed));
        [
            ("reading", time(&self.reading)),
            ("preparing", time(&self.preparing)),
            ("model", time(&self.model)),
            ("decoding", time(&self.decoding)),
            ("writing", time(&self.writing)),
        ]
    }
}

/// Adds the time that some work takes to a stage.
fn timed<T>(stage: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    stage.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}

/// Frames in order, those that could be read with their windows.
#[derive(Default)]
struct Batch {
    frames: Vec<Result<Read, Prediction>>,
    cuts: Vec<Cut>,
}

impl Predictor {
    /// Searches the frames of a source and passes them on in order; returns how many there were.
    ///
    /// # Errors
    /// What ends the source, after the frames before it; values that are not finite; whatever `each` returns.
    pub(super) fn stream(&self, source: Frames<'_>, each: &mut Each<'_>) -> Result<u64> {
        let Frames { frames, program, live, total } = source;
        self.times.expected.store(total.unwrap_or(0), Ordering::Relaxed);
        // What is live waits for nothing but the frame before it.
        let queue = usize::from(!live);
        thread::scope(|scope| {
            let (to_model, read) = sync_channel(queue);
            let (to_decode, searched) = sync_channel(0);
            let (to_write, found) = sync_channel(0);
            let reader = scope.spawn(move || self.read(frames, live, &to_model));
            let decoder = scope.spawn(move || self.decode(searched, &to_write));
            let writer = scope.spawn(move || self.write(found, each));
            let stop = || program.iter().for_each(|program| program.stop());
            let computed = self.compute(read, to_decode, stop);
            // A source that still gives frames is not waited for.
            stop();
            let (seen, ended) = joined(reader);
            // What a later stage says is of an earlier frame.
            joined(writer).and(joined(decoder)).and(computed).and(ended).map(|()| seen)
        })
    }

    /// Reads frames and cuts windows from them; returns how many frames there were, and what ended them.
    fn read(
        &self,
        mut frames: Box<dyn Iterator<Item = Result<Incoming>> + Send + '_>,
        live: bool,
        out: &SyncSender<Batch>,
    ) -> (u64, Result<()>) {
        let at_once = if live { 1 } else { self.options.batch * self.spec.heatmaps() };
        let mut stream = Stream::new(self);
        let mut end = Ok(());
        while !self.is_stopped()
            && let Some(frame) = timed(&self.times.reading, || frames.next())
        {
            match frame {
                Ok(frame) => timed(&self.times.preparing, || stream.next(frame)),
                // What was read before it counts.
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
            let is_whole = stream.settled >= at_once || stream.settled > 0 && stream.bytes >= BATCH_BYTES;
            if is_whole && out.send(stream.take()).is_err() {
                return (stream.seen, end);
            }
        }
        stream.end_clip();
        // Nobody listens where a later stage failed, and says why.
        let _ = out.send(stream.take());
        (stream.seen, end)
    }

    /// Computes the heatmaps of windows. `stop` makes a source end that is waited for.
    fn compute(&self, read: Receiver<Batch>, out: SyncSender<(Batch, Heatmaps)>, stop: impl Fn()) -> Result<()> {
        loop {
            let batch = match read.recv_timeout(PATIENCE) {
                Ok(batch) => batch,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    if self.is_stopped() {
                        stop();
                    }
                    continue;
                }
            };
            let heatmaps = timed(&self.times.model, || self.heatmaps(&batch.cuts))?;
            if out.send((batch, heatmaps)).is_err() {
                return Ok(());
            }
        }
    }

    /// Finds the ball in heatmaps.
    fn decode(&self, searched: Receiver<(Batch, Heatmaps)>, out: &SyncSender<Predicted>) -> Result<()> {
        for (Batch { frames, .. }, heatmaps) in searched {
            for frame in frames {
                let predicted = timed(&self.times.decoding, || match frame {
                    Ok(read) => self.result(read, &heatmaps).map(|result| Predicted::Frame(Box::new(result))),
                    Err(prediction) => Ok(Predicted::Damaged(prediction)),
                })?;
                if out.send(predicted).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write(&self, found: Receiver<Predicted>, each: &mut Each<'_>) -> Result<()> {
        found.into_iter().try_for_each(|predicted| timed(&self.times.writing, || each(predicted)))
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a stage returned; its panic goes on.
fn joined<T>(stage: ScopedJoinHandle<'_, T>) -> T {
    stage.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Where a source is.
struct Stream<'a> {
    predictor: &'a Predictor,
    ring: Ring,
    /// Compares frames, if somebody asks for that.
    scene: Option<SceneWatch>,
    /// The directory of the last file.
    dir: Option<PathBuf>,
    /// Frames that were not passed on yet.
    batch: Batch,
    /// How many of them, from the first, are in windows.
    settled: usize,
    /// The bytes of their pictures.
    bytes: usize,
    /// All frames so far.
    seen: u64,
}

impl<'a> Stream<'a> {
    fn new(predictor: &'a Predictor) -> Self {
        Self {
            ring: Ring::new(&predictor.spec),
            scene: predictor.scene_watch(),
            predictor,
            dir: None,
            batch: Batch::default(),
            settled: 0,
            bytes: 0,
            seen: 0,
        }
    }

    /// Takes the next frame.
    fn next(&mut self, Incoming { number, path, frame }: Incoming) {
        self.seen += 1;
        let dir = path.as_deref().and_then(Path::parent).map(Path::to_path_buf);
        if dir != self.dir {
            self.end_clip();
            self.scene.iter_mut().for_each(SceneWatch::clear);
            self.dir = dir;
        }
        let file = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let Self { predictor, ring, scene, .. } = self;
        let prepared =
            frame.and_then(|frame| predictor.prepare(number, &frame, ring, scene).map(|prepared| (frame, prepared)));
        let cuts = match prepared {
            Ok((frame, (change, cuts))) => {
                let read = predictor.keep(number, file, frame, change);
                self.bytes += read.bytes();
                self.batch.frames.push(Ok(read));
                cuts
            }
            Err(reason) => {
                let reason = excerpt(&reason, REASON_BYTES).into_owned();
                self.batch.frames.push(Err(Prediction::damaged(number, file, reason)));
                ring.push_damaged(number)
            }
        };
        self.cut(cuts);
    }

    /// Takes windows that are whole.
    fn cut(&mut self, cuts: Vec<Cut>) {
        self.batch.cuts.extend(cuts);
        if self.ring.is_settled() {
            self.settled = self.batch.frames.len();
        }
    }

    /// Ends a clip.
    fn end_clip(&mut self) {
        let cuts = self.ring.finish();
        self.cut(cuts);
    }

    /// The frames that can be searched, and their windows.
    fn take(&mut self) -> Batch {
        let frames = self.batch.frames.drain(..std::mem::take(&mut self.settled)).collect();
        self.bytes = 0;
        Batch { frames, cuts: std::mem::take(&mut self.batch.cuts) }
    }
}
