//! What a video file says about itself, and whether it keeps it.
//!
//! A number of frames is often an estimate, and a rate too. What holds in every container: the packets of a whole file reach
//! the end that its header declares, and each makes a picture, or its decoder complains.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStdout, Stdio};

use super::InferenceError;
use super::ffmpeg::{self, Complaints, Input, start_failure};
use super::video::VideoTools;
use crate::error::{Error, Result};

/// What a video file says about itself; a missing value is one that it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct VideoInfo {
    /// Size as stored, `[W, H]`; a rotated video is shown with the two exchanged.
    pub size: Option<[usize; 2]>,
    /// Mean frames a second.
    pub fps: Option<f64>,
    /// Number of frames, from the container or as duration times rate.
    pub frames: Option<u64>,
    /// Whether the container holds a number of frames.
    pub counted: bool,
    /// The end of its longest stream, in seconds.
    pub seconds: Option<f64>,
}

/// How far a file really goes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Extent {
    /// Pictures to be decoded from the first key frame on.
    pub(super) pictures: u64,
    /// The end of the last packet of any stream, in seconds.
    pub(super) seconds: f64,
}

/// When the pictures of a file are shown.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FrameTimes {
    /// Seconds from the beginning of the file to each of its pictures, in the order in which they are shown.
    pub(super) seconds: Vec<f64>,
    /// Whether the container finds a time exactly.
    pub(super) can_seek: bool,
}

impl FrameTimes {
    /// Seconds from the beginning of the file to a frame.
    pub fn at(&self, frame: u64) -> Option<f64> {
        self.seconds.get(usize::try_from(frame).ok()?).copied()
    }

    /// The number of the first picture that is shown at a time or later.
    pub(super) fn frame_at(&self, seconds: f64) -> u64 {
        // Times in files are rounded to their clock, a thousandth of a second at the coarsest.
        self.seconds.partition_point(|time| *time < seconds - 1e-3) as u64
    }

    /// A time at which decoding gives a picture as its first one: between it and the one before.
    pub(super) fn seek_to(&self, frame: u64) -> Option<f64> {
        let (before, this) = (self.at(frame.checked_sub(1)?)?, self.at(frame)?);
        (self.can_seek && this > before).then_some((before + this) / 2.0)
    }
}

/// What a file holds less than it says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shortfall {
    /// Missing frames; an estimate where the container has no number of them.
    pub(super) frames: u64,
    /// Where it ends and should end, in seconds.
    pub(super) seconds: [f64; 2],
}

impl VideoInfo {
    /// Whether a file that reaches to `extent`, and of which `read` frames were read, ends too early; a file that is known
    /// to be `damaged` is measured more closely.
    pub(super) fn shortfall(&self, extent: &Extent, read: u64, damaged: bool) -> Option<Shortfall> {
        let declared = self.seconds?;
        // The last picture's own time is known only where pictures are counted, and AVI counts a few too many.
        let rate = self.fps.filter(|_| self.counted);
        let tolerance = if damaged { 0.1 } else { rate.map_or(1.0, |fps| (3.0 / fps).max(0.1)) };
        if extent.seconds + tolerance >= declared {
            return None;
        }
        let estimated = (declared / extent.seconds.max(1e-3) - 1.0) * read as f64;
        let frames = self.uncounted(read).unwrap_or(estimated.round() as u64).max(1);
        Some(Shortfall { frames, seconds: [extent.seconds, declared] })
    }

    /// How many frames fewer than the container counts were read; `None` without a count, and where the file is edited to
    /// show a part of what it holds.
    pub(super) fn uncounted(&self, read: u64) -> Option<u64> {
        let (frames, fps, declared) = (self.frames.filter(|_| self.counted)?, self.fps?, self.seconds?);
        (frames as f64 <= declared * fps + 2.0).then(|| frames.saturating_sub(read))
    }
}

impl VideoTools {
    /// Reads size, rate and number of frames of the first video stream.
    ///
    /// # Errors
    /// A missing program or file, or a file without video, with what `ffprobe` said.
    pub fn probe(&self, path: &Path) -> Result<VideoInfo> {
        let entries = "stream=width,height,avg_frame_rate,nb_frames,duration:format=duration,format_name";
        let json = self.ask(path, entries)?;
        parse_info(&json).ok_or_else(|| failure(path, "the file has no video stream".to_owned()))
    }

    /// Whether [`super::VideoWriter`] wrote a file.
    pub fn is_ours(&self, path: &Path) -> bool {
        let json = self.ask(path, "format_tags=comment");
        json.is_ok_and(|json| json["format"]["tags"]["comment"].as_str() == Some(super::video_writer::MARK))
    }

    fn ask(&self, path: &Path, entries: &str) -> Result<serde_json::Value> {
        super::video::check_file(path)?;
        let mut command = ffmpeg::command(&self.ffprobe);
        command.args(["-v", ffmpeg::LEVEL, "-select_streams", "v:0", "-show_entries", entries, "-of", "json"]);
        ffmpeg::input(&mut command, Input::File(path));
        let output = command.output().map_err(|source| start_failure(&self.ffprobe, source))?;
        if !output.status.success() {
            return Err(not_a_video(path, &Complaints::read(output.stderr.as_slice())));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|e| failure(path, format!("ffprobe gave an answer that cannot be read: {e}")))
    }

    /// Reads through a file without decoding it; `None` when that fails.
    pub(super) fn extent(&self, path: &Path) -> Option<Extent> {
        let entries = "packet=codec_type,stream_index,pts_time,duration_time,flags";
        self.packets(path, &["-show_entries", entries], parse_extent)
    }

    /// When the pictures of a video are shown; `None` where the file does not say so of each, or cannot be read.
    pub fn times(&self, path: &Path) -> Option<FrameTimes> {
        let about = self.ask(path, "format=start_time,format_name").ok()?;
        let start = about["format"]["start_time"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let name = about["format"]["format_name"].as_str().unwrap_or_default();
        let can_seek = name.split(',').any(|name| ["mov", "mp4", "matroska", "webm"].contains(&name));
        let options = ["-select_streams", "v:0", "-show_entries", "packet=pts_time,flags"];
        let seconds = self.packets(path, &options, |lines| parse_times(lines, start))??;
        Some(FrameTimes { seconds, can_seek })
    }

    /// What is read of the lines that `ffprobe` writes for the packets of a file.
    fn packets<T>(&self, path: &Path, options: &[&str], parse: impl FnOnce(BufReader<ChildStdout>) -> T) -> Option<T> {
        let mut command = ffmpeg::command(&self.ffprobe);
        command.args(["-v", "quiet"]).args(options).args(["-of", "compact=p=0"]);
        ffmpeg::input(&mut command, Input::File(path));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let parsed = child.stdout.take().map(|stdout| parse(BufReader::new(stdout)));
        // A damaged file may make it fail; what it said until then counts.
        let _ = child.wait();
        parsed
    }
}

pub(super) fn failure(path: &Path, reason: String) -> Error {
    InferenceError::Video { path: path.to_path_buf(), reason }.into()
}

pub(super) fn not_a_video(path: &Path, said: &Complaints) -> Error {
    failure(path, format!("not a video that ffmpeg can read ({})", said.reason("no frame")))
}

fn parse_info(json: &serde_json::Value) -> Option<VideoInfo> {
    let stream = json["streams"].get(0)?;
    let number = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse::<f64>().ok());
    let length = |key: &str| stream[key].as_u64().map(|n| n as usize);
    let rate = stream["avg_frame_rate"].as_str().and_then(|text| text.split_once('/'));
    let fps = rate.and_then(|(n, d)| Some(n.parse::<f64>().ok()? / d.parse::<f64>().ok()?));
    let fps = fps.filter(|fps| fps.is_finite() && *fps > 0.0);
    let duration = number(&json["format"]["duration"]);
    let counted = number(&stream["nb_frames"]).filter(|n| *n > 0.0);
    let estimated = fps.zip(duration).map(|(fps, seconds)| (fps * seconds).round());
    // The duration of an AVI file is that of its bytes; only its number of frames tells of those that are gone.
    let of_frames = counted.zip(fps).map(|(n, fps)| n / fps).filter(|_| json["format"]["format_name"] == "avi");
    Some(VideoInfo {
        size: length("width").zip(length("height")).map(|(w, h)| [w, h]),
        fps,
        frames: counted.or(estimated).filter(|n| *n > 0.0).map(|n| n as u64),
        counted: counted.is_some(),
        seconds: duration.into_iter().chain(of_frames).reduce(f64::max),
    })
}

/// Reads lines `codec_type=video|stream_index=0|pts_time=0.080000|duration_time=0.040000|flags=K__`.
fn parse_extent(lines: impl BufRead) -> Extent {
    let mut extent = Extent::default();
    let (mut stream, mut key_seen) = (None, false);
    for line in lines.lines().map_while(std::io::Result::ok) {
        let value = |key: &str| value_of(&line, key);
        let seconds = |key: &str| value(key).and_then(|text| text.parse::<f64>().ok());
        if let Some(start) = seconds("pts_time") {
            extent.seconds = extent.seconds.max(start + seconds("duration_time").unwrap_or(0.0));
        }
        let index = value("stream_index").map(str::to_owned);
        if value("codec_type") != Some("video") || *stream.get_or_insert_with(|| index.clone()) != index {
            continue;
        }
        let flags = value("flags").unwrap_or_default();
        key_seen |= flags.contains('K');
        extent.pictures += u64::from(key_seen && !flags.contains('D'));
    }
    extent
}

/// Reads lines `pts_time=0.080000|flags=K__` of one stream, whose file begins at `start`; `None` where a picture has no time.
fn parse_times(lines: impl BufRead, start: f64) -> Option<Vec<f64>> {
    let (mut times, mut key_seen) = (Vec::new(), false);
    for line in lines.lines().map_while(std::io::Result::ok) {
        let flags = value_of(&line, "flags").unwrap_or_default();
        key_seen |= flags.contains('K');
        if key_seen && !flags.contains('D') {
            let time: f64 = value_of(&line, "pts_time")?.parse().ok()?;
            times.push(time - start);
        }
    }
    times.sort_by(f64::total_cmp);
    Some(times)
}

/// The value of a key in a line `key=value|key=value`.
fn value_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split('|').find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_answer_may_lack_rate_and_count() {
        let parse = |text: &str| parse_info(&serde_json::from_str(text).unwrap());
        assert_eq!(parse(r#"{"streams": []}"#), None);
        let info = parse(r#"{"streams": [{"width": 4, "height": 2, "avg_frame_rate": "0/0"}], "format": {}}"#);
        assert_eq!(info, Some(VideoInfo { size: Some([4, 2]), ..VideoInfo::default() }));
        let info =
            parse(r#"{"streams": [{"avg_frame_rate": "30000/1001"}], "format": {"duration": "10.01"}}"#).unwrap();
        assert_eq!((info.frames, info.counted, info.seconds), (Some(300), false, Some(10.01)));
    }

    #[test]
    fn packets_are_counted_from_the_first_key_frame_and_reach_as_far_as_any_stream() {
        let lines = "codec_type=video|stream_index=0|pts_time=0.000000|duration_time=0.040000|flags=__\n\
                     codec_type=video|stream_index=0|pts_time=0.040000|duration_time=0.040000|flags=KD\n\
                     codec_type=video|stream_index=0|pts_time=0.080000|duration_time=N/A|flags=__\n\
                     codec_type=audio|stream_index=1|pts_time=0.070000|duration_time=0.023000|flags=K_\n\
                     codec_type=video|stream_index=2|pts_time=0.000000|duration_time=0.040000|flags=K_\n";
        assert_eq!(parse_extent(lines.as_bytes()), Extent { pictures: 1, seconds: 0.093 });
    }

    #[test]
    fn pictures_have_times_in_the_order_in_which_they_are_shown() {
        let lines = "pts_time=1.400000|flags=K__\npts_time=1.520000|flags=___\npts_time=1.440000|flags=___\n\
                     pts_time=1.000000|flags=_D_\n";
        let seconds = parse_times(lines.as_bytes(), 1.4).unwrap();
        let times = FrameTimes { seconds, can_seek: true };
        assert_eq!([0.0, 0.04, 0.041, 0.1, 9.0].map(|time| times.frame_at(time)), [0, 1, 1, 2, 3]);
        assert!((times.seek_to(2).unwrap() - 0.08).abs() < 1e-9);
        assert_eq!([times.seek_to(0), times.seek_to(3)], [None, None]);
        assert_eq!(FrameTimes { can_seek: false, ..times }.seek_to(2), None);
        assert_eq!(parse_times("pts_time=N/A|flags=K__\n".as_bytes(), 0.0), None);
    }

    #[test]
    fn only_what_ends_before_its_declared_end_is_short() {
        let info = |seconds, counted| VideoInfo {
            fps: Some(25.0),
            frames: Some(100),
            counted,
            seconds,
            ..VideoInfo::default()
        };
        let extent = |seconds| Extent { pictures: 60, seconds };
        let short = info(Some(4.0), true).shortfall(&extent(2.4), 60, false).unwrap();
        assert_eq!((short.frames, short.seconds), (40, [2.4, 4.0]));
        assert_eq!(info(Some(4.0), false).shortfall(&extent(2.0), 60, false).unwrap().frames, 60);
        assert_eq!(info(Some(4.0), false).shortfall(&extent(3.2), 60, true).unwrap().frames, 15);
        // A count that is off, a rate that varies, an edited end, no duration at all.
        assert_eq!(info(Some(4.04), true).shortfall(&extent(4.0), 60, false), None);
        assert_eq!(info(Some(4.0), false).shortfall(&extent(3.2), 60, false), None);
        assert_eq!(info(Some(1.5), true).shortfall(&extent(2.7), 37, true), None);
        assert_eq!(info(None, false).shortfall(&extent(1.0), 60, true), None);
    }
}
