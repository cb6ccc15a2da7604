//! The `ffmpeg` and `ffprobe` programs: how they are started, what they may open, and what they complain about.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use super::InferenceError;
use super::source::{Address, AddressKind};
use crate::console::{excerpt, printable};
use crate::error::Error;

/// Formats that hold a video themselves. Not among them: playlists and lists of other files (hls, dash, concat, sdp,
/// imf, image2, …), which a file of any name can be.
const CONTAINERS: &str = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,gxf,dv,nut,rm,wtv,ivf,obu,av1,\
                          h264,hevc,m4v,mjpeg,yuv4mpegpipe,gif,apng";

/// What is said with each message: its level, so that errors and warnings can be told apart.
pub(super) const LEVEL: &str = "level+warning";

/// The program without standard input. Ctrl-C of a terminal does not reach it: it ends when its pipes do.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}

/// What `ffmpeg` opens: exactly what was named, and nothing that it may name in turn.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input<'a> {
    /// A file that holds a video itself.
    File(&'a Path),
    /// A video on this process' standard input.
    Stdin,
    /// A stream or a camera; of what came while it was opened a `live` one gives nothing.
    Stream { address: &'a Address, live: bool },
}

/// What streams are besides: descriptions of a session, and playlists of pieces at the same kind of address.
const STREAMS: &str = "rtsp,sdp,rtp,hls,live_flv,mpjpeg";

/// Adds an input to a command.
pub(super) fn input(command: &mut Command, input: Input<'_>) {
    match input {
        Input::File(path) => {
            command
                .args(["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i"])
                .arg(file_argument(path));
        }
        Input::Stdin => {
            command.stdin(Stdio::inherit());
            command.args(["-protocol_whitelist", "pipe", "-format_whitelist", CONTAINERS, "-i", "pipe:0"]);
        }
        Input::Stream { address, live } => {
            if live {
                command.args(["-fflags", "nobuffer", "-flags", "low_delay"]);
            }
            match address.kind() {
                AddressKind::Network(scheme) => {
                    let formats = format!("{CONTAINERS},{STREAMS}");
                    command.args(["-protocol_whitelist", scheme.protocols, "-format_whitelist", &formats]);
                }
                AddressKind::Camera => {
                    command.args(["-protocol_whitelist", "file", "-f", "v4l2"]);
                }
            }
            command.args(["-i", address.text()]);
        }
    }
}

/// How an input is named in messages.
impl fmt::Display for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("standard input"),
            Self::Stream { address, .. } => address.fmt(f),
        }
    }
}

/// `file:` keeps names like `http:…` or `-x.mp4` what they are: names of files.
pub(super) fn file_argument(path: &Path) -> OsString {
    let mut argument = OsString::from("file:");
    argument.push(path);
    argument
}

/// Why a program did not start.
pub(super) fn start_failure(program: &Path, cause: std::io::Error) -> Error {
    let program = program.to_path_buf();
    match cause.kind() {
        ErrorKind::NotFound => InferenceError::ProgramMissing { program }.into(),
        _ => InferenceError::ProgramFailed { program, cause }.into(),
    }
}

/// Messages that decoders also have for whole files: those that start within a group of pictures, or bend the standard.
const MINOR: [&str; 18] = [
    "co located POCs unavailable",
    "mmco: unref short failure",
    "reference picture missing during reorder",
    "Missing reference picture",
    "Could not find ref with POC",
    "number of reference frames",
    "illegal short term buffer state",
    "monotonically increasing dts",
    "SEI type",
    "Referenced QT chapter track not found",
    "timescale not set",
    "Missing key frame while searching",
    "non-existing PPS",
    "PPS id out of range",
    "decode_slice_header error",
    "no frame!",
    "Invalid frame dimensions 0x0",
    "Warning MVs not available",
];

/// Warnings that speak of pictures which are not what was recorded.
const CORRUPT: [&str; 2] = ["corrupt input packet", "corrupt decoded frame"];

/// What tells more than what follows from it.
const TELLING: [&str; 7] = [
    "moov atom not found",
    "partial file",
    "ended prematurely",
    "EBML number",
    "Packet mismatch",
    "No space left",
    "whitelist",
];

/// What only follows from what was said before.
const CONSEQUENCES: [&str; 2] = ["Invalid data found when processing input", "Invalid argument"];

fn is_one_of(text: &str, known: &[&str]) -> bool {
    known.iter().any(|part| text.contains(part))
}

/// What a program wrote to standard error, reduced to what a person needs.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// The first different messages, the telling ones in front.
    messages: Vec<String>,
    /// Whether it said anything at the level of an error.
    pub(super) errors: bool,
    /// Whether a message speaks of damage.
    pub(super) serious: bool,
}

impl Complaints {
    const KEPT: usize = 12;
    const BYTES: usize = 200;

    /// Reads everything, so that the program never waits for a full pipe.
    pub(super) fn read(stream: impl Read) -> Self {
        let mut complaints = Self::default();
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match stream.by_ref().take(4096).read_until(b'\n', &mut line) {
                Ok(0) => return complaints,
                Ok(_) => complaints.line(&String::from_utf8_lossy(&line)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return complaints,
            }
        }
    }

    /// Takes in a line `[decoder @ 0x5581] [error] text`; what has no level counts as an error.
    fn line(&mut self, line: &str) {
        let mut text = line.trim_end();
        let (mut level, mut source) = (None, None);
        while let Some((tag, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            match tag {
                "panic" | "fatal" | "error" | "warning" | "info" => level = Some(tag),
                _ => source = source.or(tag.split(" @ ").next()),
            }
            text = rest.trim_start();
        }
        let error = !matches!(level, Some("warning" | "info"));
        let corrupt = is_one_of(text, &CORRUPT);
        if text.is_empty() || text.starts_with("Last message repeated") || !error && !corrupt {
            return;
        }
        self.errors |= error;
        self.serious |= corrupt || !is_one_of(text, &MINOR);
        self.keep(plain(text, source));
    }

    fn keep(&mut self, message: String) {
        // The same but for numbers: sizes, offsets, places in a picture.
        let kind = |message: &str| -> Vec<String> {
            let words = message.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
            words.map(str::to_owned).collect()
        };
        let known = self.messages.iter().any(|other| kind(other) == kind(&message));
        if known || !self.messages.is_empty() && CONSEQUENCES.contains(&message.as_str()) {
            return;
        }
        let place = if is_one_of(&message, &TELLING) { 0 } else { self.messages.len() };
        self.messages.insert(place, message);
        self.messages.truncate(Self::KEPT);
    }

    /// The most telling messages, or `otherwise`.
    pub(super) fn reason(&self, otherwise: &str) -> String {
        let (minor, serious): (Vec<&str>, _) =
            self.messages.iter().map(String::as_str).partition(|message| is_one_of(message, &MINOR));
        let chosen: Vec<&str> = serious.into_iter().chain(minor).take(2).collect();
        if chosen.is_empty() { otherwise.to_owned() } else { chosen.join("; ") }
    }
}

/// A message without the name of the file, in words of this program where `ffmpeg`'s say too little.
fn plain(text: &str, source: Option<&str>) -> String {
    let text = match (text.contains("not on whitelist"), source) {
        (true, Some(format)) => format!(
            "it is read as `{format}`, which is not on the whitelist of video containers; playlists and lists of files are \
             not followed"
        ),
        _ => {
            text.strip_prefix("file:").and_then(|rest| rest.rsplit_once(": ")).map_or(text, |(_, said)| said).to_owned()
        }
    };
    printable(&excerpt(&text, Complaints::BYTES)).replace(['\n', '\t'], " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_telling_message_comes_first_without_addresses_and_names() {
        let said = "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x5591544d7880] [error] moov atom not found\n\
                    [error] file:/a: b/no_moov.mp4: Invalid data found when processing input\n";
        let complaints = Complaints::read(said.as_bytes());
        assert!(complaints.errors && complaints.serious);
        assert_eq!(complaints.reason("-"), "moov atom not found");
        let said = "[NULL @ 0x1] [error] Invalid NAL unit size (179068 > 51569).\n[h264 @ 0x2] [error] Error splitting the input\n\
                    [vist#0:0/h264 @ 0x3] [dec:h264 @ 0x4] [error] Error submitting packet\n    Last message repeated 3 times\n\
                    [mov @ 0x5] [error] stream 0, offset 0x82071: partial file\n";
        let reason = Complaints::read(said.as_bytes()).reason("-");
        assert_eq!(reason, "stream 0, offset 0x82071: partial file; Invalid NAL unit size (179068 > 51569).");
    }

    #[test]
    fn warnings_and_what_whole_files_cause_are_not_damage() {
        let read = |said: &str| Complaints::read(said.as_bytes());
        let warning = read("[swscaler @ 0x1] [warning] deprecated pixel format used\n");
        assert!(!warning.errors && !warning.serious);
        assert_eq!(warning.reason("nothing"), "nothing");
        let minor =
            read("[h264 @ 0x1] [error] co located POCs unavailable\n[h264 @ 0x1] [error] mmco: unref short failure\n");
        assert!(minor.errors && !minor.serious);
        let corrupt = read("[warning] file:a.ts: corrupt input packet in stream 0\n");
        assert!(corrupt.serious && !corrupt.errors);
        assert_eq!(corrupt.reason("-"), "corrupt input packet in stream 0");
        assert!(read("a program that is no ffmpeg\n").serious);
    }

    #[test]
    fn what_it_says_is_bounded_and_cannot_steer_a_terminal_and_a_late_reason_is_kept() {
        let mut said = format!("[x @ 0x1] [error] \u{1b}[2J{}\n", "a".repeat(100_000));
        let word = |n: u32| format!("damage{}", "!".repeat(n as usize % 100));
        (0..10_000).for_each(|n| said.push_str(&format!("[x @ 0x1] [error] {} at {n}\n", word(n))));
        let reason = Complaints::read(said.as_bytes()).reason("-");
        assert!(reason.starts_with("\\u{1b}[2Jaaa") && reason.len() < 500, "{reason}");
        said.push_str("[mov @ 0x1] [error] stream 0, offset 0x82071: partial file\n");
        assert!(Complaints::read(said.as_bytes()).reason("-").starts_with("stream 0, offset 0x82071: partial file; "));
    }
}
