//! Frames out of video files, through the `ffmpeg` program: every codec, and nothing to link against.
//!
//! Frames come as PPM pictures on a pipe, each with its own size: a rotated phone video or one that changes its size
//! needs no guess from a probe. The pipe holds back `ffmpeg` when nobody reads, so memory is bounded by one frame.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use image::RgbImage;

use super::InferenceError;
use super::ffmpeg::{self, Complaints, Input, start_failure};
use super::ppm::read_ppm;
use super::probe::{FrameTimes, VideoInfo, failure, not_a_video};
use super::selection::Wanted;
use crate::error::{Error, Result};
use crate::files::open_regular;

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
        self.open_wanted(path, Wanted::ALL, None)
    }

    /// [`VideoTools::open`] for some of its frames: decoding begins at the first of them where `times` can find it.
    pub(super) fn open_wanted(&self, path: &Path, wanted: Wanted, times: Option<&FrameTimes>) -> Result<VideoFrames> {
        let info = self.probe(path)?;
        let seek = times.and_then(|times| Some((times.seek_to(wanted.range.start)?, wanted.range.start)));
        let start = |option| VideoFrames::start(self, Input::File(path), Some(info), wanted.clone(), seek, option);
        // Every decoded frame once, none repeated or dropped to fit a rate. The option had another name before 5.1.
        let frames = match start("-fps_mode").and_then(VideoFrames::with_first) {
            Err(Error::Inference(InferenceError::Video { reason, .. })) if reason.contains("fps_mode") => {
                start("-vsync").and_then(VideoFrames::with_first)
            }
            result => result,
        }?;
        if seek.is_some() && frames.first.is_none() {
            // A file whose times are not what they seem is read from its beginning.
            return self.open_wanted(path, wanted, None);
        }
        Ok(frames)
    }

    /// Opens what is no file. Returns before the first frame is there.
    ///
    /// # Errors
    /// A missing program. What cannot be read is said in place of the first frame.
    pub(super) fn open_stream(&self, input: Input<'_>, wanted: Wanted) -> Result<VideoFrames> {
        VideoFrames::start(self, input, None, wanted, None, "-fps_mode")
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
    /// The path of the file, or what a stream is called.
    path: PathBuf,
    /// What reads a file and what the file says of itself; a stream says nothing.
    file: Option<(VideoTools, VideoInfo)>,
    program: Arc<Program>,
    stdout: BufReader<ChildStdout>,
    stderr: Option<JoinHandle<Complaints>>,
    wanted: Wanted,
    /// The first wanted frame, where it was decoded to see whether the file is a video.
    first: Option<(u64, RgbImage)>,
    /// The number of the frame that the program gives next.
    next: u64,
    ended: bool,
}

/// The running program, which another thread may stop.
#[derive(Debug)]
pub(super) struct Program {
    child: Mutex<Child>,
    stopped: AtomicBool,
}

impl Program {
    /// Ends the frames where they are; what is missing of them is nobody's fault.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // It fails only when the program has ended already.
        let _ = self.child().kill();
    }

    fn wait(&self) -> bool {
        self.child().wait().is_ok_and(|status| status.success())
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        self.first.as_ref().map(|(_, image)| [image.width() as usize, image.height() as usize])
    }

    /// How many frames it is to give, as far as the file says so.
    pub fn expected(&self) -> Option<u64> {
        self.file.as_ref().and_then(|(_, info)| Some(self.wanted.count(info.frames?)))
    }

    /// What stops the program from another thread.
    pub(super) fn program(&self) -> Arc<Program> {
        Arc::clone(&self.program)
    }

    /// `seek` is a time in seconds and the number of the frame that decoding gives first from there.
    fn start(
        tools: &VideoTools,
        input: Input<'_>,
        info: Option<VideoInfo>,
        wanted: Wanted,
        seek: Option<(f64, u64)>,
        rate_option: &str,
    ) -> Result<Self> {
        let path = PathBuf::from(input.to_string());
        let mut command = ffmpeg::command(&tools.ffmpeg);
        command.args(["-nostdin", "-v", ffmpeg::LEVEL]);
        if let Some((seconds, _)) = seek {
            command.args(["-ss", &format!("{seconds:.6}")]);
        }
        ffmpeg::input(&mut command, input);
        let mut child = command
            .args(["-map", "0:v:0", rate_option, "passthrough"])
            .args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| start_failure(&tools.ffmpeg, source))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failure(&path, "ffmpeg has no output".to_owned()));
        };
        let stderr = Some(std::thread::spawn(move || Complaints::read(stderr)));
        let stdout = BufReader::with_capacity(1 << 16, stdout);
        let program = Arc::new(Program { child: Mutex::new(child), stopped: AtomicBool::new(false) });
        let (file, next) = (info.map(|info| (tools.clone(), info)), seek.map_or(0, |(_, frame)| frame));
        Ok(Self { path, file, program, stdout, stderr, wanted, first: None, next, ended: false })
    }

    /// Decodes the first wanted frame; there is none in a video that ends before it.
    ///
    /// # Errors
    /// What is no video.
    fn with_first(mut self) -> Result<Self> {
        self.first = self.read().map_err(|e| failure(&self.path, e.to_string()))?;
        if self.first.is_none() && self.next == 0 {
            let said = self.finish().1;
            return Err(not_a_video(&self.path, &said));
        }
        Ok(self)
    }

    /// Reads up to the next wanted frame; `None` at the end.
    fn read(&mut self) -> std::io::Result<Option<(u64, RgbImage)>> {
        while self.next < self.wanted.range.end {
            let number = self.next;
            let keep = self.wanted.contains(number);
            let Some(frame) = read_ppm(&mut self.stdout, keep)? else { return Ok(None) };
            self.next += 1;
            if let Some(frame) = frame {
                return Ok(Some((number, frame)));
            }
        }
        // Nobody wants the rest.
        self.program.stop();
        Ok(None)
    }

    /// Waits for the program; whether it was content, and what it said.
    fn finish(&mut self) -> (bool, Complaints) {
        self.ended = true;
        let success = self.program.wait();
        let said = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        (success, said)
    }

    /// What is wrong with a video whose frames have ended.
    fn damage(&mut self) -> Option<Error> {
        let (success, said) = self.finish();
        if self.program.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let read = self.next;
        let Some((tools, info)) = self.file.take() else {
            return match (read, success) {
                (0, _) => Some(not_a_video(&self.path, &said)),
                (_, true) if !said.serious => None,
                _ => {
                    let reason = said.reason("ffmpeg failed");
                    Some(InferenceError::VideoDamaged { path: self.path.clone(), read, missing: 0, reason }.into())
                }
            };
        };
        let as_declared = info.counted && info.frames == Some(read);
        if success && as_declared && !said.errors && !said.serious {
            return None;
        }
        let extent = tools.extent(&self.path);
        let short = extent.and_then(|extent| info.shortfall(&extent, read, !success || said.serious));
        let undecoded = extent.map_or(0, |extent| extent.pictures.saturating_sub(read));
        if success && short.is_none() && !said.serious && !(said.errors && undecoded > 0) {
            return None;
        }
        let why = said.reason(if success { "the file ends early" } else { "ffmpeg failed" });
        // What is known to be damaged is measured closely.
        let short = short.or_else(|| info.shortfall(&extent?, read, true));
        let (missing, reason) = match short {
            Some(short) => {
                let [end, declared] = short.seconds;
                (short.frames, format!("it ends after {end:.2} s of {declared:.2} s ({why})"))
            }
            None => (info.uncounted(read).unwrap_or(0).max(undecoded), why),
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
            None => self.read(),
        };
        match frame {
            Ok(Some(frame)) => Some(Ok(frame)),
            Ok(None) => self.damage().map(Err),
            Err(_) if self.program.stopped.load(Ordering::Relaxed) => None,
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
        self.program.stop();
        self.program.wait();
        if let Some(thread) = self.stderr.take() {
            let _ = thread.join();
        }
    }
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
    fn any_part_of_a_video_begins_with_its_frame_whatever_the_container() {
        if skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tools = VideoTools::default();
        for (name, options) in [
            ("a.mp4", &["-g", "12", "-bf", "2"][..]),
            ("b.mkv", &["-g", "12", "-bf", "2"]),
            ("c.ts", &["-g", "12", "-bf", "2"]),
            ("d.avi", &["-c:v", "mpeg4", "-q:v", "3"]),
            ("e.mp4", &["-vf", "setpts='(N+mod(N,3)*0.4)/25/TB'", "-fps_mode", "vfr", "-g", "9"]),
        ] {
            let path = clip(dir.path(), name, options);
            let whole: Vec<RgbImage> = tools.open(&path).unwrap().map(|frame| frame.unwrap().1).collect();
            let times = tools.times(&path);
            for (range, stride) in [(0..5, 1), (13..u64::MAX, 1), (25..40, 4), (59..60, 1)] {
                let wanted = Wanted { range: range.clone(), stride };
                let expected: Vec<usize> = (0..60).filter(|number| wanted.contains(*number as u64)).collect();
                let frames = tools.open_wanted(&path, wanted, times.as_ref()).unwrap();
                let found: Vec<(u64, RgbImage)> = frames.collect::<Result<_>>().unwrap();
                let numbers: Vec<usize> = found.iter().map(|(number, _)| *number as usize).collect();
                assert_eq!(numbers, expected, "{name} {range:?}");
                assert!(found.iter().all(|(number, frame)| whole[*number as usize] == *frame), "{name} {range:?}");
            }
            let beyond = Wanted { range: 60..70, stride: 1 };
            assert_eq!(tools.open_wanted(&path, beyond, times.as_ref()).unwrap().count(), 0);
        }
    }
}
