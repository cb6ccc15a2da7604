//! Video out: frames to the `ffmpeg` program on its standard input.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use image::RgbImage;
use tempfile::NamedTempFile;

use super::InferenceError;
use super::ffmpeg::{self, Complaints, Input, file_argument, start_failure};
use super::video::VideoTools;
use crate::error::{Error, IoContext, Result};
use crate::files::atomic::replace_with;
use crate::files::temporary::file_beside;

/// The comment in a file's metadata by which it is known again.
pub(super) const MARK: &str = "made by tracknet";

/// Writes frames to a video file; it appears under its name only when [`VideoWriter::finish`] succeeds.
#[derive(Debug)]
pub struct VideoWriter {
    path: PathBuf,
    /// Where the file grows; removed when it is not finished.
    temporary: Option<NamedTempFile>,
    child: Child,
    stderr: Option<JoinHandle<Complaints>>,
    size: [u32; 2],
    frames: u64,
}

/// The sound that goes with a video.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// The file that it is in; one without sound gives none.
    pub source: PathBuf,
    /// Where it begins, in seconds.
    pub from: f64,
    /// Where it ends, if before the end of the file.
    pub to: Option<f64>,
}

impl VideoWriter {
    /// Starts a video of `size` = `[W, H]` at `fps` frames a second; the container follows the extension of `path`.
    ///
    /// # Errors
    /// A missing program, or a directory that cannot be written.
    pub fn create(tools: &VideoTools, path: &Path, size: [u32; 2], fps: f64) -> Result<Self> {
        Self::with_sound(tools, path, size, fps, None)
    }

    /// [`VideoWriter::create`] with the sound of a file.
    ///
    /// # Errors
    /// As there.
    pub fn with_sound(
        tools: &VideoTools,
        path: &Path,
        size: [u32; 2],
        fps: f64,
        sound: Option<&Sound>,
    ) -> Result<Self> {
        let extension = path.extension().map_or("mp4".into(), |e| e.to_string_lossy());
        let temporary = file_beside(path, &format!(".{extension}"))?;
        let mut command = ffmpeg::command(&tools.ffmpeg);
        command.args(["-v", ffmpeg::LEVEL, "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]);
        command.args(["-video_size", &format!("{}x{}", size[0], size[1]), "-framerate", &fps.to_string(), "-i", "-"]);
        if let Some(Sound { source, from, to }) = sound {
            command.args(["-ss", &format!("{from:.6}")]);
            if let Some(to) = to {
                command.args(["-to", &format!("{to:.6}")]);
            }
            ffmpeg::input(&mut command, Input::File(source));
            // Of a file without sound nothing is taken. What is longer than the pictures ends with them.
            command.args(["-map", "0:v:0", "-map", "1:a:0?", "-c:a", "aac", "-shortest"]);
        }
        let mut child = command
            // Players want 4:2:0, which wants even sizes.
            .args(["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"])
            .args(["-metadata", &format!("comment={MARK}")])
            .arg(file_argument(temporary.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| start_failure(&tools.ffmpeg, source))?;
        let stderr = child.stderr.take().map(|stderr| std::thread::spawn(move || Complaints::read(stderr)));
        Ok(Self { path: path.to_path_buf(), temporary: Some(temporary), child, stderr, size, frames: 0 })
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// A frame of another size, or a program that stopped, with what it said.
    pub fn write(&mut self, frame: &RgbImage) -> Result<()> {
        let [width, height] = self.size;
        if frame.dimensions() != (width, height) {
            let found = format!("the frame is {}×{}, the video {width}×{height}", frame.width(), frame.height());
            return Err(self.failure(found));
        }
        let written = self.child.stdin.as_mut().map(|stdin| stdin.write_all(frame.as_raw()));
        if !matches!(written, Some(Ok(()))) {
            let said = self.wait().1;
            return Err(self.failure(format!("ffmpeg stopped ({})", said.reason("it gave no reason"))));
        }
        self.frames += 1;
        Ok(())
    }

    /// Appends a black frame, in place of one that could not be read.
    ///
    /// # Errors
    /// As [`VideoWriter::write`].
    pub fn write_black(&mut self) -> Result<()> {
        let [width, height] = self.size;
        self.write(&RgbImage::new(width, height))
    }

    /// Ends the video and gives the file its name.
    ///
    /// # Errors
    /// A program that failed, or that complained and said it did not; or a name that cannot be given.
    pub fn finish(mut self) -> Result<()> {
        let (success, said) = self.wait();
        if !success || said.serious {
            return Err(self.failure(format!("ffmpeg failed ({})", said.reason("it gave no reason"))));
        }
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        if std::fs::metadata(temporary.path()).at(&self.path)?.len() == 0 {
            return Err(self.failure("ffmpeg wrote nothing".to_owned()));
        }
        Ok(replace_with(temporary, &self.path)?)
    }

    fn wait(&mut self) -> (bool, Complaints) {
        drop(self.child.stdin.take());
        let success = self.child.wait().is_ok_and(|status| status.success());
        (success, self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default())
    }

    fn failure(&self, reason: String) -> Error {
        InferenceError::VideoFrame { path: self.path.clone(), frame: self.frames, reason }.into()
    }
}

impl Drop for VideoWriter {
    fn drop(&mut self) {
        // Both fail only when the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
