//! Frames out of video files, through the `ffmpeg` program: every codec, and nothing to link against.
//!
//! Frames come as PPM pictures on a pipe, each with its own size: a rotated phone video or one that changes its size
//! needs no guess from a probe. The pipe holds back `ffmpeg` when nobody reads, so memory is bounded by one frame.

use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use image::RgbImage;

use super::InferenceError;
use crate::error::{Error, Result};

/// The programs to run; by default `ffmpeg` and `ffprobe` from the search path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoTools {
    /// Decodes and encodes.
    pub ffmpeg: PathBuf,
    /// Reads sizes, rates and counts.
    pub ffprobe: PathBuf,
}

impl Default for VideoTools {
    fn default() -> Self {
        Self { ffmpeg: "ffmpeg".into(), ffprobe: "ffprobe".into() }
    }
}

/// What a video file says about itself; a missing value is one that it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct VideoInfo {
    /// Size as stored, `[W, H]`; a rotated video is shown with the two exchanged.
    pub size: Option<[usize; 2]>,
    /// Mean frames a second.
    pub fps: Option<f64>,
    /// Number of frames, from the container or as duration times rate.
    pub frames: Option<u64>,
}

impl VideoTools {
    /// Reads size, rate and number of frames of the first video stream.
    ///
    /// # Errors
    /// A missing program or file, or a file without video, with what `ffprobe` said.
    pub fn probe(&self, path: &Path) -> Result<VideoInfo> {
        check_file(path)?;
        let output = Command::new(&self.ffprobe)
            .args(["-v", "error", "-select_streams", "v:0", "-show_entries"])
            .args(["stream=width,height,avg_frame_rate,nb_frames:format=duration", "-of", "json"])
            .arg(file_argument(path))
            .stdin(Stdio::null())
            .output()
            .map_err(|source| start_failure(&self.ffprobe, source))?;
        if !output.status.success() {
            return Err(video(path, not_a_video(&String::from_utf8_lossy(&output.stderr), path)));
        }
        let json: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|e| video(path, format!("ffprobe gave an answer that cannot be read: {e}")))?;
        parse_probe(&json).ok_or_else(|| video(path, "the file has no video stream".to_owned()))
    }

    /// Opens a video for reading; the first frame is already decoded when this returns.
    ///
    /// # Errors
    /// A missing program or file, or a file from which no frame can be decoded, with what `ffmpeg` said.
    pub fn open(&self, path: &Path) -> Result<VideoFrames> {
        check_file(path)?;
        // Every decoded frame once, none repeated or dropped to fit a rate. The option had another name before 5.1.
        match VideoFrames::start(self, path, "-fps_mode") {
            Err(Error::Inference(InferenceError::Video { reason, .. })) if reason.contains("fps_mode") => {
                VideoFrames::start(self, path, "-vsync")
            }
            result => result,
        }
    }
}

fn check_file(path: &Path) -> Result<()> {
    if path.is_file() { Ok(()) } else { Err(video(path, "no such file".to_owned())) }
}

/// `file:` keeps names like `http:…` or `-x.mp4` what they are: names of files.
pub(super) fn file_argument(path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("file:");
    argument.push(path);
    argument
}

fn video(path: &Path, reason: String) -> Error {
    InferenceError::Video { path: path.to_path_buf(), reason }.into()
}

pub(super) fn start_failure(program: &Path, cause: std::io::Error) -> Error {
    let program = program.to_path_buf();
    match cause.kind() {
        ErrorKind::NotFound => InferenceError::ProgramMissing { program }.into(),
        _ => InferenceError::ProgramFailed { program, cause }.into(),
    }
}

/// The last line that `ffmpeg` wrote, without the name of the file.
fn not_a_video(stderr: &str, path: &Path) -> String {
    let name = format!("file:{}: ", path.display());
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no frame").replace(&name, "");
    format!("not a video that ffmpeg can read ({})", last.trim())
}

fn parse_probe(json: &serde_json::Value) -> Option<VideoInfo> {
    let stream = json["streams"].get(0)?;
    let number = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse::<f64>().ok());
    let length = |key: &str| stream[key].as_u64().map(|n| n as usize);
    let rate = stream["avg_frame_rate"].as_str().and_then(|text| text.split_once('/'));
    let fps = rate.and_then(|(n, d)| Some(n.parse::<f64>().ok()? / d.parse::<f64>().ok()?));
    let fps = fps.filter(|fps| fps.is_finite() && *fps > 0.0);
    let duration = number(&json["format"]["duration"]);
    let estimated = fps.zip(duration).map(|(fps, seconds)| (fps * seconds).round());
    let frames = number(&stream["nb_frames"]).or(estimated).filter(|n| *n > 0.0).map(|n| n as u64);
    Some(VideoInfo { size: length("width").zip(length("height")).map(|(w, h)| [w, h]), fps, frames })
}

/// The frames of a video, in order; the program is stopped when this is dropped.
#[derive(Debug)]
pub struct VideoFrames {
    path: PathBuf,
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: Option<JoinHandle<String>>,
    /// The frame that was decoded to see whether the file is a video.
    first: Option<RgbImage>,
    next: u64,
    ended: bool,
}

impl VideoFrames {
    /// Opens a video with the programs of the search path; see [`VideoTools::open`].
    ///
    /// # Errors
    /// As [`VideoTools::open`].
    pub fn open(path: &Path) -> Result<Self> {
        VideoTools::default().open(path)
    }

    /// Size of the first frame as `[W, H]`, before it is taken.
    pub fn first_size(&self) -> Option<[usize; 2]> {
        self.first.as_ref().map(|image| [image.width() as usize, image.height() as usize])
    }

    fn start(tools: &VideoTools, path: &Path, rate_option: &str) -> Result<Self> {
        let mut child = Command::new(&tools.ffmpeg)
            .args(["-nostdin", "-v", "error", "-i"])
            .arg(file_argument(path))
            .args(["-map", "0:v:0", rate_option, "passthrough"])
            .args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| start_failure(&tools.ffmpeg, source))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(video(path, "ffmpeg has no output".to_owned()));
        };
        let stderr = Some(std::thread::spawn(move || tail(stderr)));
        let stdout = BufReader::with_capacity(1 << 16, stdout);
        let mut frames = Self { path: path.to_path_buf(), child, stdout, stderr, first: None, next: 0, ended: false };
        frames.first = frames.read()?;
        if frames.first.is_none() {
            let said = frames.finish().1;
            return Err(video(path, not_a_video(&said, path)));
        }
        Ok(frames)
    }

    /// Reads one frame; `None` at the end of the stream.
    fn read(&mut self) -> Result<Option<RgbImage>> {
        read_ppm(&mut self.stdout).map_err(|e| {
            let (path, frame, reason) = (self.path.clone(), self.next, e.to_string());
            InferenceError::VideoFrame { path, frame, reason }.into()
        })
    }

    /// Waits for the program; whether it was content, and what it said.
    fn finish(&mut self) -> (bool, String) {
        self.ended = true;
        let success = self.child.wait().is_ok_and(|status| status.success());
        let said = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        (success, said)
    }
}

impl Iterator for VideoFrames {
    /// Number of the frame, from 0, and the frame.
    type Item = Result<(u64, RgbImage)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let frame = match self.first.take() {
            Some(frame) => Ok(Some(frame)),
            None => self.read(),
        };
        match frame {
            Ok(Some(frame)) => {
                self.next += 1;
                Some(Ok((self.next - 1, frame)))
            }
            Ok(None) => {
                let (success, said) = self.finish();
                let (path, frame) = (self.path.clone(), self.next);
                let reason = not_a_video(&said, &path);
                (!success).then(|| Err(InferenceError::VideoFrame { path, frame, reason }.into()))
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}

impl Drop for VideoFrames {
    fn drop(&mut self) {
        // Both fail only when the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(thread) = self.stderr.take() {
            let _ = thread.join();
        }
    }
}

/// Reads everything, so that the program never waits for a full pipe, and keeps the end of it.
pub(super) fn tail(mut stream: impl Read) -> String {
    const KEEP: usize = 4096;
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                kept.extend_from_slice(&buffer[..n]);
                let excess = kept.len().saturating_sub(KEEP);
                kept.drain(..excess);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Reads a binary PPM (`P6`, netpbm.sourceforge.net/doc/ppm.html); `None` at the end of the stream.
fn read_ppm(stream: &mut impl Read) -> std::io::Result<Option<RgbImage>> {
    let bad = |what: &str| std::io::Error::new(ErrorKind::InvalidData, what.to_owned());
    let mut tokens: Vec<String> = Vec::with_capacity(4);
    let mut token = String::new();
    while tokens.len() < 4 {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            let at_start = tokens.is_empty() && token.is_empty();
            return if at_start { Ok(None) } else { Err(bad("the frame header is cut off")) };
        }
        if byte[0].is_ascii_whitespace() {
            tokens.push(std::mem::take(&mut token));
        } else if token.len() < 8 {
            token.push(char::from(byte[0]));
        } else {
            return Err(bad("the frame header is damaged"));
        }
    }
    let size = |token: &str| token.parse::<u32>().ok().filter(|n| (1..=1 << 15).contains(n));
    let (Some(width), Some(height), true) =
        (size(&tokens[1]), size(&tokens[2]), tokens[0] == "P6" && tokens[3] == "255")
    else {
        return Err(bad(&format!("unexpected frame header `{}`", tokens.join(" "))));
    };
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    stream.read_exact(&mut pixels).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => bad("the frame is cut off"),
        _ => e,
    })?;
    Ok(RgbImage::from_raw(width, height, pixels))
}

#[cfg(test)]
mod tests {
    use super::super::VideoWriter;
    use super::*;

    /// Whether the programs are installed; a test that needs them says so when they are not.
    fn installed() -> bool {
        let runs = |program| {
            Command::new(program).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        let both = runs("ffmpeg") && runs("ffprobe");
        if !both {
            println!("ffmpeg is not installed: only the error paths are tested");
        }
        both
    }

    fn frame(index: u8, size: [u32; 2]) -> RgbImage {
        RgbImage::from_fn(size[0], size[1], |x, _| image::Rgb([index * 40, if x < 32 { 200 } else { 20 }, 90]))
    }

    #[test]
    fn a_missing_program_is_an_error_with_the_install_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mp4");
        std::fs::write(&path, b"x").unwrap();
        let tools = VideoTools { ffmpeg: "/nowhere/ffmpeg".into(), ffprobe: "/nowhere/ffprobe".into() };
        let messages = [
            tools.open(&path).unwrap_err().to_string(),
            tools.probe(&path).unwrap_err().to_string(),
            VideoWriter::create(&tools, &path, [8, 8], 25.0).unwrap_err().to_string(),
        ];
        for message in messages {
            assert!(message.starts_with("cannot find the program `/nowhere/ff"), "{message}");
            assert!(message.contains("apt install ffmpeg"), "{message}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = VideoFrames::open(Path::new("/nowhere/a.mp4")).unwrap_err().to_string();
        assert_eq!(error, "video /nowhere/a.mp4: no such file");
    }

    #[test]
    fn frames_survive_a_round_trip_in_number_size_and_look() {
        if !installed() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http:clip.mp4");
        let tools = VideoTools::default();
        let mut writer = VideoWriter::create(&tools, &path, [65, 48], 25.0).unwrap();
        for index in 0..6 {
            writer.write(&frame(index, [65, 48])).unwrap();
        }
        assert!(!path.exists());
        writer.finish().unwrap();
        let info = tools.probe(&path).unwrap();
        assert_eq!(info, VideoInfo { size: Some([66, 48]), fps: Some(25.0), frames: Some(6) });
        let video = tools.open(&path).unwrap();
        assert_eq!(video.first_size(), Some([66, 48]));
        let frames: Vec<(u64, RgbImage)> = video.collect::<Result<_>>().unwrap();
        assert_eq!(frames.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        for (index, decoded) in &frames {
            for (x, y) in [(10, 20), (50, 30)] {
                let (a, b) = (decoded.get_pixel(x, y).0, frame(*index as u8, [65, 48]).get_pixel(x, y).0);
                // Lossy, and BT.601 rounding on top: flat colours come back within a few grey levels.
                assert!(a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= 12), "{index} {a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_file_that_is_no_video_says_so() {
        if !installed() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mp4");
        std::fs::write(&path, b"plain text, no video at all").unwrap();
        for message in [
            VideoFrames::open(&path).unwrap_err().to_string(),
            VideoTools::default().probe(&path).unwrap_err().to_string(),
        ] {
            assert!(message.contains("a.mp4: not a video that ffmpeg can read ("), "{message}");
        }
    }

    #[test]
    fn dropping_a_reader_or_a_writer_early_stops_the_program_and_leaves_no_file() {
        if !installed() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mp4");
        let tools = VideoTools::default();
        let mut writer = VideoWriter::create(&tools, &path, [64, 48], 25.0).unwrap();
        for index in 0..50 {
            writer.write(&frame(index % 6, [64, 48])).unwrap();
        }
        let wrong = writer.write(&frame(0, [32, 48])).unwrap_err().to_string();
        assert!(wrong.ends_with("a.mp4 at frame 50: the frame is 32×48, the video 64×48"), "{wrong}");
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut writer = VideoWriter::create(&tools, &path, [64, 48], 25.0).unwrap();
        (0..50).for_each(|index| writer.write(&frame(index % 6, [64, 48])).unwrap());
        writer.finish().unwrap();
        let mut video = tools.open(&path).unwrap();
        assert_eq!(video.next().unwrap().unwrap().0, 0);
        drop(video);
    }

    #[test]
    fn pictures_are_read_from_a_stream_one_after_the_other() {
        let mut stream: &[u8] = b"P6\n2 1\n255\nabcdefP6\n1 1\n255\nxyz";
        assert_eq!(read_ppm(&mut stream).unwrap().unwrap().as_raw(), b"abcdef");
        assert_eq!(read_ppm(&mut stream).unwrap().unwrap().as_raw(), b"xyz");
        assert!(read_ppm(&mut stream).unwrap().is_none());
        let message = |mut bytes: &[u8]| read_ppm(&mut bytes).unwrap_err().to_string();
        assert_eq!(message(b"P6\n2 1\n255\nabc"), "the frame is cut off");
        assert_eq!(message(b"P6\n2"), "the frame header is cut off");
        assert_eq!(message(b"P5\n2 1\n255\nabc"), "unexpected frame header `P5 2 1 255`");
        assert_eq!(message(b"P6\n99999 1\n255\nabc"), "unexpected frame header `P6 99999 1 255`");
        assert_eq!(message(b"not a picture at all"), "unexpected frame header `not a picture at`");
        assert_eq!(message(b"0123456789"), "the frame header is damaged");
    }

    #[test]
    fn a_probe_answer_may_lack_rate_and_count() {
        let parse = |text: &str| parse_probe(&serde_json::from_str(text).unwrap());
        assert_eq!(parse(r#"{"streams": []}"#), None);
        let info = parse(r#"{"streams": [{"width": 4, "height": 2, "avg_frame_rate": "0/0"}], "format": {}}"#);
        assert_eq!(info, Some(VideoInfo { size: Some([4, 2]), fps: None, frames: None }));
        let info =
            parse(r#"{"streams": [{"avg_frame_rate": "30000/1001"}], "format": {"duration": "10.01"}}"#).unwrap();
        assert_eq!(info.frames, Some(300));
    }
}
