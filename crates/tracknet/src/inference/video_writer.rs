//! Video out: frames to the `ffmpeg` program on its standard input.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use image::RgbImage;

use super::InferenceError;
use super::video::{VideoTools, file_argument, start_failure, tail};
use crate::error::{Error, IoContext, Result};

/// Writes frames to a video file; it appears under its name only when [`VideoWriter::finish`] succeeds.
#[derive(Debug)]
pub struct VideoWriter {
    path: PathBuf,
    /// Where the file grows; removed when it is not finished.
    temporary: tempfile::TempPath,
    child: Child,
    stderr: Option<JoinHandle<String>>,
    size: [u32; 2],
    frames: u64,
}

impl VideoWriter {
    /// Starts a video of `size` = `[W, H]` at `fps` frames a second; the container follows the extension of `path`.
    ///
    /// # Errors
    /// A missing program, or a directory that cannot be written.
    pub fn create(tools: &VideoTools, path: &Path, size: [u32; 2], fps: f64) -> Result<Self> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).at(parent)?;
        let extension = path.extension().map_or("mp4".into(), |e| e.to_string_lossy());
        let temporary = tempfile::Builder::new()
            .prefix(".tracknet-")
            .suffix(&format!(".{extension}"))
            .tempfile_in(parent)
            .at(parent)?
            .into_temp_path();
        let mut child = Command::new(&tools.ffmpeg)
            .args(["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"])
            .args(["-video_size", &format!("{}x{}", size[0], size[1]), "-framerate", &fps.to_string(), "-i", "-"])
            // Players want 4:2:0, which wants even sizes.
            .args(["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"])
            .arg(file_argument(&temporary))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| start_failure(&tools.ffmpeg, source))?;
        let stderr = child.stderr.take().map(|stderr| std::thread::spawn(move || tail(stderr)));
        Ok(Self { path: path.to_path_buf(), temporary, child, stderr, size, frames: 0 })
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
            return Err(self.failure(format!("ffmpeg stopped ({})", said.trim())));
        }
        self.frames += 1;
        Ok(())
    }

    /// Ends the video and gives the file its name.
    ///
    /// # Errors
    /// A program that failed, with what it said, or a name that cannot be given.
    pub fn finish(mut self) -> Result<()> {
        let (success, said) = self.wait();
        if !success {
            return Err(self.failure(format!("ffmpeg failed ({})", said.trim())));
        }
        make_readable(&self.temporary).at(&self.path)?;
        // `persist` would take the guard, which a type with `Drop` cannot give away; it will find nothing to remove.
        std::fs::rename(&self.temporary, &self.path).at(&self.path)
    }

    fn wait(&mut self) -> (bool, String) {
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

/// Temporary files are created private (0600); what is kept gets the permissions of an ordinary new file.
fn make_readable(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    }
    let _ = path;
    Ok(())
}
