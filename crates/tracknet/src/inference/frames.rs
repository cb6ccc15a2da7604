//! The frames of a source, one after the other, whatever it is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use image::RgbImage;

use crate::datasets::image::decode as decode_image;
use crate::error::{Error, Result};

use super::ffmpeg::Input;
use super::selection::{Position, Selection, Wanted};
use super::source::pictures_of;
use super::video::Program;
use super::{InferenceError, Source, VideoFrames, VideoTools};

/// A frame of a source: its number, the path of its file if it has one, and its pixels, or why there are none.
pub(super) struct Incoming {
    pub(super) number: u64,
    pub(super) path: Option<PathBuf>,
    pub(super) frame: Result<RgbImage, String>,
}

/// The selected frames of a source. An error ends them.
pub(super) struct Frames<'a> {
    pub(super) frames: Box<dyn Iterator<Item = Result<Incoming>> + Send + 'a>,
    /// What gives them, where it is a program: it may be waited for when the prediction is to end.
    pub(super) program: Option<Arc<Program>>,
    /// Whether frames that nobody was ready for are left out.
    pub(super) live: bool,
    /// How many there are, as far as is known.
    pub(super) total: Option<u64>,
}

/// How windows are cut from frames: the frames of a block, and how many frames before it they see.
pub(super) type WindowShape = [usize; 2];

impl<'a> Frames<'a> {
    /// The frames of a source; `live` = those that come while others are searched are left out, `None` = if the source is live.
    ///
    /// # Errors
    /// A missing program, what is no video, a selection that the source cannot have.
    pub(super) fn open(
        source: &'a Source,
        tools: &VideoTools,
        selection: &Selection,
        windows: WindowShape,
        live: Option<bool>,
    ) -> Result<Self> {
        let name = source.to_string();
        let of_itself = matches!(source, Source::Stream(address) if address.is_live());
        let live = live.unwrap_or(of_itself);
        let video = match source {
            Source::Pictures(files) => return Self::of_files(files, selection, windows),
            Source::Video(path) => {
                let needs_times =
                    [selection.start, selection.end].iter().any(Option::is_some) || selection.resume.is_some();
                let times = if needs_times { tools.times(path) } else { None };
                let frame_at = |seconds: f64| times.as_ref().map(|times| times.frame_at(seconds));
                let wanted = resolve(&name, selection, &[0], windows, frame_at)?;
                tools.open_wanted(path, wanted, times.as_ref())?
            }
            Source::StandardInput => {
                tools.open_stream(Input::Stdin, resolve(&name, selection, &[0], windows, |_| None)?)?
            }
            Source::Stream(address) => tools
                .open_stream(Input::Stream { address, live }, resolve(&name, selection, &[0], windows, |_| None)?)?,
        };
        let total = video.expected();
        let program = Some(video.program());
        let frames: Box<dyn Iterator<Item = _> + Send> =
            if live { Box::new(Newest::of(video)) } else { Box::new(video) };
        let frames = frames.map(|frame| frame.map(|(number, frame)| Incoming { number, path: None, frame: Ok(frame) }));
        Ok(Self { frames: Box::new(frames), program, live, total })
    }

    /// Image files, in the given order; those of each directory are a clip.
    pub(super) fn of_files(files: &'a [PathBuf], selection: &Selection, windows: WindowShape) -> Result<Self> {
        let begins = |index: &usize| *index == 0 || files[*index].parent() != files[*index - 1].parent();
        let clips: Vec<u64> = (0..files.len()).filter(begins).map(|index| index as u64).collect();
        let wanted = resolve(&pictures_of(files), selection, &clips, windows, |_| None)?;
        let read = |(number, path): (u64, &PathBuf)| {
            Ok(Incoming { number, path: Some(path.clone()), frame: decode_image(path).map_err(|e| e.to_string()) })
        };
        let total = Some(wanted.count(files.len() as u64));
        let selected = (0..).zip(files).filter(move |(number, _)| wanted.contains(*number));
        Ok(Self { frames: Box::new(selected.map(read)), program: None, live: false, total })
    }
}

impl VideoTools {
    /// The selected frames of a video, with their numbers.
    ///
    /// # Errors
    /// What is no video, or a selection that it cannot have.
    pub fn open_selected(&self, path: &Path, selection: &Selection) -> Result<VideoFrames> {
        let times = if selection.is_everything() { None } else { self.times(path) };
        let frame_at = |seconds: f64| times.as_ref().map(|times| times.frame_at(seconds));
        let wanted = resolve(&path.display().to_string(), selection, &[0], [1, 0], frame_at)?;
        self.open_wanted(path, wanted, times.as_ref())
    }
}

/// A selection in numbers of frames; `frame_at` gives the number of the frame at a time, where that is known.
fn resolve(
    source: &str,
    selection: &Selection,
    clips: &[u64],
    windows: WindowShape,
    frame_at: impl Fn(f64) -> Option<u64>,
) -> Result<Wanted> {
    let number = |position: Option<Position>| match position {
        None => Ok(None),
        Some(Position::Frame(number)) => Ok(Some(number)),
        Some(Position::Seconds(seconds)) => match frame_at(seconds) {
            Some(number) => Ok(Some(number)),
            None => Err(refused(source, "when its frames are shown is not known; expected the number of a frame")),
        },
    };
    let (from, to) = (number(selection.start)?.unwrap_or(0), number(selection.end)?);
    if to.is_some_and(|to| to <= from) {
        return Err(refused(
            source,
            &format!("no frame is selected: the first is {from}, the end {}", to.unwrap_or(0)),
        ));
    }
    Ok(selection.frames(from, to, clips, windows))
}

fn refused(source: &str, reason: &str) -> Error {
    InferenceError::Source { name: source.to_owned(), reason: reason.to_owned() }.into()
}

/// The newest frame of a live source: what comes while another frame is looked at replaces the one that waits.
struct Newest(Arc<Slot>);

/// Where the newest frame waits.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    frame: Option<Result<(u64, RgbImage)>>,
    ended: bool,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newest {
    /// The thread ends with the frames, or when nobody takes them any more.
    fn of(frames: impl Iterator<Item = Result<(u64, RgbImage)>> + Send + 'static) -> Self {
        let slot = Arc::new(Slot::default());
        let filled = Arc::downgrade(&slot);
        thread::spawn(move || {
            for frame in frames {
                let Some(slot) = filled.upgrade() else { return };
                // An error is the last that comes; the frame before it is not replaced by it.
                let mut state = slot.state();
                while frame.is_err() && state.frame.is_some() {
                    state = slot.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.frame = Some(frame);
                slot.changed.notify_all();
            }
            if let Some(slot) = filled.upgrade() {
                slot.state().ended = true;
                slot.changed.notify_all();
            }
        });
        Self(slot)
    }
}

impl Drop for Newest {
    fn drop(&mut self) {
        self.0.state().frame = None;
        self.0.changed.notify_all();
    }
}

impl Iterator for Newest {
    type Item = Result<(u64, RgbImage)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.0.state();
        loop {
            if let Some(frame) = state.frame.take() {
                self.0.changed.notify_all();
                return Some(frame);
            }
            if state.ended {
                return None;
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn who_is_late_gets_the_newest_frame_and_the_end_is_not_lost() {
        let (send, receive) = sync_channel::<Result<(u64, RgbImage)>>(0);
        let mut newest = Newest::of(receive.into_iter());
        let push = |number| send.send(Ok((number, RgbImage::new(1, 1)))).unwrap();
        push(0);
        assert_eq!(newest.next().unwrap().unwrap().0, 0);
        // The fourth is taken from the channel only when the third is in its place.
        (1..=4).for_each(push);
        let next = newest.next().unwrap().unwrap().0;
        assert!(next >= 3, "{next}");
        if next == 3 {
            assert_eq!(newest.next().unwrap().unwrap().0, 4);
        }
        push(5);
        send.send(Err(InferenceError::Picture("cut off".to_owned()).into())).unwrap();
        drop(send);
        assert_eq!(newest.next().unwrap().unwrap().0, 5);
        assert_eq!(newest.next().unwrap().unwrap_err().to_string(), "cut off");
        assert!(newest.next().is_none());
    }
}
