//! Frames out of video files, through the `ffmpeg` program: every codec, and nothing to link against.
//!
//! Frames come as PPM pictures on a pipe, each with its own size: a rotated phone video or one that changes its size
//! needs no guess from a probe. The pipe holds back `ffmpeg` when nobody reads, so memory is bounded by one frame.

use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::thread::JoinHandle;

use image::RgbImage;

use super::InferenceError;
use super::ffmpeg::{self, Complaints, start_failure};
use super::probe::{VideoInfo, failure, not_a_video};
use crate::error::{Error, Result};
use crate::files::open_regular;

/// The most pixels of a frame: 16384×8192.
const MOST_PIXELS: u64 = 1 << 27;

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

impl VideoTools {
    /// Opens a video for reading; the first frame is already decoded when this returns. Only the file itself is opened:
    /// playlists and lists of files are refused.
    ///
    /// # Errors
    /// A missing program or file, or a file from which no frame can be decoded, with what `ffmpeg` said.
    pub fn open(&self, path: &Path) -> Result<VideoFrames> {
        let info = self.probe(path)?;
        // Every decoded frame once, none repeated or dropped to fit a rate. The option had another name before 5.1.
        match VideoFrames::start(self, path, info, "-fps_mode") {
            Err(Error::Inference(InferenceError::Video { reason, .. })) if reason.contains("fps_mode") => {
                VideoFrames::start(self, path, info, "-vsync")
            }
            result => result,
        }
    }
}

pub(super) fn check_file(path: &Path) -> Result<()> {
    if !path.exists() {
        return Err(failure(path, "no such file".to_owned()));
    }
    open_regular(path)?;
    Ok(())
}

/// The frames of a video, in order; the program is stopped when this is dropped.
///
/// A video that is cut off or damaged gives every frame that can be read, and then an error that says what is missing.
#[derive(Debug)]
pub struct VideoFrames {
    path: PathBuf,
    tools: VideoTools,
    info: VideoInfo,
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: Option<JoinHandle<Complaints>>,
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

    fn start(tools: &VideoTools, path: &Path, info: VideoInfo, rate_option: &str) -> Result<Self> {
        let mut command = ffmpeg::command(&tools.ffmpeg);
        command.args(["-nostdin", "-v", ffmpeg::LEVEL]);
        ffmpeg::input(&mut command, path);
        let mut child = command
            .args(["-map", "0:v:0", rate_option, "passthrough"])
            .args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| start_failure(&tools.ffmpeg, source))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failure(path, "ffmpeg has no output".to_owned()));
        };
        let stderr = Some(std::thread::spawn(move || Complaints::read(stderr)));
        let stdout = BufReader::with_capacity(1 << 16, stdout);
        let (path, tools) = (path.to_path_buf(), tools.clone());
        let mut frames = Self { path, tools, info, child, stdout, stderr, first: None, next: 0, ended: false };
        frames.first = read_ppm(&mut frames.stdout).map_err(|e| failure(&frames.path, e.to_string()))?;
        if frames.first.is_none() {
            let said = frames.finish().1;
            return Err(not_a_video(&frames.path, &said));
        }
        Ok(frames)
    }

    /// Waits for the program; whether it was content, and what it said.
    fn finish(&mut self) -> (bool, Complaints) {
        self.ended = true;
        let success = self.child.wait().is_ok_and(|status| status.success());
        let said = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        (success, said)
    }

    /// What is wrong with a video whose frames have ended.
    fn damage(&mut self) -> Option<Error> {
        let (success, said) = self.finish();
        let read = self.next;
        let as_declared = self.info.counted && self.info.frames == Some(read);
        if success && as_declared && !said.errors && !said.serious {
            return None;
        }
        let extent = self.tools.extent(&self.path);
        let short = extent.and_then(|extent| self.info.shortfall(&extent, read, !success || said.serious));
        let undecoded = extent.map_or(0, |extent| extent.pictures.saturating_sub(read));
        if success && short.is_none() && !said.serious && !(said.errors && undecoded > 0) {
            return None;
        }
        let why = said.reason(if success { "the file ends early" } else { "ffmpeg failed" });
        // What is known to be damaged is measured closely.
        let short = short.or_else(|| self.info.shortfall(&extent?, read, true));
        let (missing, reason) = match short {
            Some(short) => {
                let [end, declared] = short.seconds;
                (short.frames, format!("it ends after {end:.2} s of {declared:.2} s ({why})"))
            }
            None => (self.info.uncounted(read).unwrap_or(0).max(undecoded), why),
        };
        Some(InferenceError::VideoDamaged { path: self.path.clone(), read, missing, reason }.into())
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
            None => read_ppm(&mut self.stdout),
        };
        match frame {
            Ok(Some(frame)) => {
                self.next += 1;
                Some(Ok((self.next - 1, frame)))
            }
            Ok(None) => self.damage().map(Err),
            Err(error) => {
                self.ended = true;
                let (path, frame, reason) = (self.path.clone(), self.next, error.to_string());
                Some(Err(InferenceError::VideoFrame { path, frame, reason }.into()))
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
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(bad(&format!("a frame of {width}×{height} pixels is too large")));
    }
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

    /// Whether to leave out what needs ffmpeg: only where the environment says `TRACKNET_SKIP_FFMPEG=1`. Without it, a
    /// machine without ffmpeg fails these tests.
    fn skipped() -> bool {
        let skip = std::env::var_os("TRACKNET_SKIP_FFMPEG").is_some_and(|value| value == "1");
        if skip {
            println!("TRACKNET_SKIP_FFMPEG=1: only the error paths are tested");
        }
        skip
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
        if skipped() {
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
        assert_eq!((info.size, info.fps, info.frames), (Some([66, 48]), Some(25.0), Some(6)));
        assert!(tools.is_ours(&path));
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
        if skipped() {
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

    /// A clip of 60 frames at 25 a second, made over by ffmpeg.
    fn clip(dir: &Path, name: &str, options: &[&str]) -> PathBuf {
        let tools = VideoTools::default();
        let (source, path) = (dir.join("source.mp4"), dir.join(name));
        let mut writer = VideoWriter::create(&tools, &source, [64, 48], 25.0).unwrap();
        let noisy =
            |i: u32| RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * i) as u8, (y * y + i) as u8, (x * y) as u8]));
        (0..60).for_each(|index| writer.write(&noisy(index)).unwrap());
        writer.finish().unwrap();
        let status = std::process::Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-i"])
            .arg(&source)
            .args(options)
            .arg(&path)
            .status();
        assert!(status.unwrap().success(), "{name}");
        path
    }

    /// The number of frames that are read, and how it ends.
    fn read_all(path: &Path) -> (u64, Option<String>) {
        let mut read = 0;
        for frame in VideoFrames::open(path).unwrap() {
            match frame {
                Ok(_) => read += 1,
                Err(error) => return (read, Some(error.to_string())),
            }
        }
        (read, None)
    }

    #[test]
    fn a_cut_or_damaged_video_gives_what_can_be_read_and_then_says_what_is_missing() {
        if skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for (name, options) in [
            ("a.mp4", &["-g", "10", "-movflags", "faststart"][..]),
            ("a.mkv", &["-g", "10"]),
            ("a.avi", &["-c:v", "mpeg4", "-q:v", "3"]),
        ] {
            let path = clip(dir.path(), name, options);
            assert_eq!(read_all(&path), (60, None), "{name}");
            let whole = std::fs::read(&path).unwrap();
            let (half, most) = (whole.len() / 2, whole.len() * 6 / 10);

            std::fs::write(&path, &whole[..most]).unwrap();
            let (read, end) = read_all(&path);
            let end = end.unwrap();
            assert!((10..60).contains(&read), "{name} {read}");
            assert!(end.contains(&format!("{name} is cut off or damaged: {read} frames were read, about ")), "{end}");
            assert!(end.contains(" s of 2.4"), "{end}");

            let mut zeros = whole.clone();
            zeros[half..most].fill(0);
            std::fs::write(&path, &zeros).unwrap();
            let (read, end) = read_all(&path);
            assert!(read >= 10 && end.unwrap().contains("is cut off or damaged"), "{name} {read}");

            let mut flipped = whole;
            (half..most).step_by(97).for_each(|at| flipped[at] ^= 0x10);
            std::fs::write(&path, &flipped).unwrap();
            assert!(read_all(&path).1.unwrap().contains("is cut off or damaged"), "{name}");
        }
    }

    #[test]
    fn a_whole_video_is_no_false_alarm_whatever_its_header_estimates() {
        if skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let slower = "setpts='if(lt(N,20),N,N*3)/25/TB'";
        for (name, options, frames) in [
            ("rate.mkv", &["-vf", slower, "-fps_mode", "vfr"][..], 60),
            ("rate.mp4", &["-vf", slower, "-fps_mode", "vfr"], 60),
            ("live.mkv", &["-live", "1"], 60),
            ("fragments.mp4", &["-movflags", "frag_keyframe+empty_moov"], 60),
            ("stream.ts", &["-g", "10"], 60),
            // Starts within a group of pictures: the frames before its edit list are not shown.
            ("trimmed.mp4", &["-ss", "1.0", "-c", "copy"], 20),
        ] {
            let (read, end) = read_all(&clip(dir.path(), name, options));
            assert!(read >= frames && end.is_none(), "{name} {read} {end:?}");
        }
        // A broadcast from somewhere on: what comes before the first key frame was never a picture.
        let path = dir.path().join("stream.ts");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[whole.len() / 3 / 188 * 188..]).unwrap();
        let (read, end) = read_all(&path);
        assert!((20..=50).contains(&read) && end.is_none(), "{read} {end:?}");
    }

    #[test]
    fn a_video_without_its_index_is_named_with_the_reason_and_not_its_consequence() {
        if skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = clip(dir.path(), "a.mp4", &["-c", "copy"]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = VideoFrames::open(&path).unwrap_err().to_string();
        assert!(error.contains("a.mp4: not a video that ffmpeg can read (moov atom not found"), "{error}");
    }

    #[test]
    fn playlists_and_lists_of_files_are_not_followed_whatever_they_are_called() {
        if skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let target = clip(dir.path(), "secret.ts", &["-c", "copy"]);
        let secret = target.display();
        for (name, text) in [
            ("hls.avi", format!("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:4,\n{secret}\n#EXT-X-ENDLIST\n")),
            ("concat.mp4", "ffconcat version 1.0\nfile secret.ts\n".to_owned()),
            ("frame%03d.bmp", "BM".to_owned()),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            for message in [
                VideoFrames::open(&path).unwrap_err().to_string(),
                VideoTools::default().probe(&path).unwrap_err().to_string(),
            ] {
                assert!(message.contains("not a video that ffmpeg can read (it is read as `"), "{message}");
                assert!(message.contains("playlists and lists of files are not followed"), "{message}");
            }
        }
        let error = VideoFrames::open(Path::new("concat:secret.ts")).unwrap_err().to_string();
        assert!(error.ends_with("no such file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_video_that_was_not_wholly_written_does_not_get_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mp4");
        std::fs::write(&path, "old").unwrap();
        for (program, reason) in [
            ("complains.sh", "ffmpeg failed (Error writing trailer: No space left on device)"),
            ("silent.sh", "ffmpeg wrote nothing"),
        ] {
            let ffmpeg = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ffmpeg").join(program);
            let tools = VideoTools { ffmpeg, ..VideoTools::default() };
            let mut writer = VideoWriter::create(&tools, &path, [64, 48], 25.0).unwrap();
            writer.write(&frame(1, [64, 48])).unwrap();
            let error = writer.finish().unwrap_err().to_string();
            assert!(error.ends_with(&format!("a.mp4 at frame 1: {reason}")), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        }
    }

    #[test]
    fn dropping_a_reader_or_a_writer_early_stops_the_program_and_leaves_no_file() {
        if skipped() {
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
        assert_eq!(message(b"P6\n32768 32768\n255\n"), "a frame of 32768×32768 pixels is too large");
        assert_eq!(message(b"P6\n99999 1\n255\nabc"), "unexpected frame header `P6 99999 1 255`");
        assert_eq!(message(b"not a picture at all"), "unexpected frame header `not a picture at`");
        assert_eq!(message(b"0123456789"), "the frame header is damaged");
    }
}
