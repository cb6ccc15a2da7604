//! What a prediction reads, and how people name it: files, folders, patterns, standard input, streams and cameras.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::console::shown;
use crate::datasets::frames::{entries, is_picture, is_video, natural_order, pictures_in};
use crate::error::Result;

use super::InferenceError;

/// What a prediction reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Image files, in the order of their numbers; those of a directory are a clip.
    Pictures(Vec<PathBuf>),
    /// A video file.
    Video(PathBuf),
    /// A video on standard input.
    StandardInput,
    /// A stream of a network or a camera.
    Stream(Address),
}

/// The address of a stream or the device of a camera, as the user named it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    kind: AddressKind,
}

/// How an address is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressKind {
    /// `scheme://…`, with what the scheme needs of `ffmpeg`.
    Network(&'static Scheme),
    /// A Video4Linux device.
    Camera,
}

/// A scheme that streams are read over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    name: &'static str,
    /// The protocols that `ffmpeg` may use for it.
    pub(super) protocols: &'static str,
    /// Whether frames come when they happen, and not when they are asked for.
    is_live: bool,
}

const fn scheme(name: &'static str, protocols: &'static str, is_live: bool) -> Scheme {
    Scheme { name, protocols, is_live }
}

const SCHEMES: [Scheme; 9] = [
    scheme("rtsp", "rtsp,rtp,udp,tcp", true),
    scheme("rtsps", "rtsps,rtsp,rtp,srtp,udp,tcp,tls", true),
    scheme("rtmp", "rtmp,tcp", true),
    scheme("rtmps", "rtmps,rtmp,tcp,tls", true),
    scheme("srt", "srt,udp", true),
    scheme("udp", "udp", true),
    scheme("tcp", "tcp", true),
    scheme("http", "http,tcp", false),
    scheme("https", "https,http,tls,tcp", false),
];

impl Address {
    /// Reads `scheme://…` of a known scheme, or `/dev/videoN`; `None` = it names something else.
    ///
    /// # Errors
    /// A scheme that streams are not read over.
    fn find(text: &str) -> Result<Option<Self>> {
        let address = |kind| Ok(Some(Self { text: text.to_owned(), kind }));
        if text.strip_prefix("/dev/video").is_some_and(|number| number.chars().all(|c| c.is_ascii_digit())) {
            return address(AddressKind::Camera);
        }
        let Some((name, rest)) = text.split_once("://") else { return Ok(None) };
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if !is_name(name) {
            return Ok(None);
        }
        let known = SCHEMES.iter().find(|scheme| scheme.name.eq_ignore_ascii_case(name));
        match known {
            Some(scheme) if !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control()) => {
                address(AddressKind::Network(scheme))
            }
            _ => {
                let schemes = SCHEMES.map(|scheme| scheme.name).join("://, ");
                let reason = format!("expected the path of a file, or an address with one of {schemes}://");
                Err(InferenceError::Source { name: shown(text), reason }.into())
            }
        }
    }

    /// What `ffmpeg` opens.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn kind(&self) -> AddressKind {
        self.kind
    }

    /// Whether frames come when they happen: whoever is late loses some.
    pub fn is_live(&self) -> bool {
        match self.kind {
            AddressKind::Network(scheme) => scheme.is_live,
            AddressKind::Camera => true,
        }
    }
}

/// The address without the user's name and password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.text.split_once("://") else { return f.write_str(&shown(&self.text)) };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        write!(f, "{scheme}://{}", shown(&format!("{host}{path}")))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Source {
    /// The image files of a folder (in natural order of their names), an image file, or else a video; no file is opened.
    ///
    /// # Errors
    /// A folder that cannot be read, or without pictures.
    pub fn find(path: &Path) -> Result<Self> {
        Ok(if path.is_dir() {
            Self::Pictures(pictures_in(path)?)
        } else if is_picture(path) {
            Self::Pictures(vec![path.to_path_buf()])
        } else {
            Self::Video(path.to_path_buf())
        })
    }

    /// The sources that a user names: paths of files and folders, patterns (`games/*.mp4`), `-` for standard input, addresses of
    /// streams, devices of cameras. A folder without pictures stands for its videos; pictures that are named one by one are read
    /// as one source.
    ///
    /// # Errors
    /// What names nothing, or something else than a source.
    pub fn find_all<S: AsRef<OsStr>>(names: impl IntoIterator<Item = S>) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        let mut pictures: Option<usize> = None;
        for name in names {
            for source in Self::named(name.as_ref())? {
                match (source, pictures.and_then(|index| found.get_mut(index))) {
                    (Self::Pictures(files), Some(Self::Pictures(known))) if !Path::new(name.as_ref()).is_dir() => {
                        known.extend(files);
                    }
                    (source, _) => {
                        if matches!(source, Self::Pictures(_)) && !Path::new(name.as_ref()).is_dir() {
                            pictures = Some(found.len());
                        }
                        found.push(source);
                    }
                }
            }
        }
        Ok(found)
    }

    fn named(name: &OsStr) -> Result<Vec<Self>> {
        let path = Path::new(name);
        if let Some(text) = name.to_str() {
            if text == "-" {
                return Ok(vec![Self::StandardInput]);
            }
            if let Some(address) = Address::find(text)? {
                return Ok(vec![Self::Stream(address)]);
            }
        }
        let refuse = |reason: &str| {
            Err(InferenceError::Source { name: shown(&name.to_string_lossy()), reason: reason.to_owned() }.into())
        };
        if path.is_dir() {
            return Self::of_folder(path);
        }
        if path.exists() {
            return Ok(vec![Self::find(path)?]);
        }
        let Some(pattern) = name.to_str().filter(|text| text.contains(['*', '?', '['])) else {
            return refuse("no such file or directory");
        };
        let Ok(matches) = glob::glob(pattern) else {
            return refuse("is neither a file nor a pattern that can be read");
        };
        let mut paths: Vec<PathBuf> = matches.filter_map(std::result::Result::ok).collect();
        paths.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
        let (pictures, others): (Vec<PathBuf>, _) =
            paths.into_iter().partition(|path| path.is_file() && is_picture(path));
        let mut found = if pictures.is_empty() { Vec::new() } else { vec![Self::Pictures(pictures)] };
        for path in others {
            match path.is_dir() {
                true => found.extend(Self::of_folder(&path)?),
                false if is_video(&path) => found.push(Self::Video(path)),
                false => {}
            }
        }
        if found.is_empty() { refuse("no picture, video or folder has a name of this pattern") } else { Ok(found) }
    }

    /// The pictures of a folder, or else its videos.
    fn of_folder(path: &Path) -> Result<Vec<Self>> {
        let videos = entries(path, |path| is_video(path) && path.is_file()).unwrap_or_default();
        match pictures_in(path) {
            Err(_) if !videos.is_empty() => Ok(videos.into_iter().map(Self::Video).collect()),
            pictures => Ok(vec![Self::Pictures(pictures?)]),
        }
    }

    /// The rows' file name and folder for a source: the name of the file or folder without its extension, of the stream, or `stdin`.
    pub fn name(&self) -> String {
        let of_path = |path: Option<&OsStr>| path.map(|name| name.to_string_lossy().into_owned());
        let name = match self {
            Self::Video(path) => of_path(path.file_stem()),
            Self::Pictures(files) => match files.as_slice() {
                [file] => of_path(file.file_stem()),
                [first, ..] => of_path(first.parent().and_then(Path::file_name)),
                [] => None,
            },
            Self::StandardInput => Some("stdin".to_owned()),
            Self::Stream(address) => {
                let text = address.to_string();
                let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
                let name: String = text.trim_start_matches("/dev/").chars().map(plain).collect();
                Some(name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-"))
            }
        };
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| "frames".to_owned())
    }
}

/// How the source is named to people.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Video(path) => write!(f, "{}", path.display()),
            Self::Pictures(files) => f.write_str(&pictures_of(files)),
            Self::StandardInput => f.write_str("standard input"),
            Self::Stream(address) => address.fmt(f),
        }
    }
}

/// How image files are named to people.
pub(super) fn pictures_of(files: &[PathBuf]) -> String {
    match files {
        [file] => file.display().to_string(),
        [first, ..] => format!("{} pictures of {}", files.len(), first.parent().unwrap_or(Path::new("")).display()),
        [] => "no picture".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sources: &[Source]) -> Vec<String> {
        sources.iter().map(Source::name).collect()
    }

    #[test]
    fn folders_patterns_streams_and_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("clip")).unwrap();
        std::fs::create_dir_all(at("games")).unwrap();
        std::fs::create_dir_all(at("empty")).unwrap();
        for name in [
            "clip/10.jpg",
            "clip/9.jpg",
            "clip/Label.csv",
            "games/b10.mp4",
            "games/b9.MKV",
            "games/notes.txt",
            "one.png",
        ] {
            std::fs::write(at(name), b"x").unwrap();
        }
        let clip = Source::Pictures(vec![at("clip/9.jpg"), at("clip/10.jpg")]);
        assert_eq!(Source::find_all([at("clip")]).unwrap(), std::slice::from_ref(&clip));
        assert_eq!(Source::find_all([at("clip/*.jpg")]).unwrap(), [clip]);
        let games = [Source::Video(at("games/b9.MKV")), Source::Video(at("games/b10.mp4"))];
        assert_eq!(Source::find_all([at("games")]).unwrap(), games);
        assert_eq!(Source::find_all([at("games/*")]).unwrap(), games);
        let both = Source::find_all([at("clip/10.jpg"), at("games/b9.MKV"), at("one.png")]).unwrap();
        assert_eq!(both, [Source::Pictures(vec![at("clip/10.jpg"), at("one.png")]), games[0].clone()]);
        assert_eq!(names(&both), ["clip", "b9"]);

        let error = |name: PathBuf| Source::find_all([name]).unwrap_err().to_string();
        assert!(error(at("none.mp4")).ends_with("none.mp4: no such file or directory"));
        assert!(error(at("*.mp4")).contains("no picture, video or folder has a name of this pattern"));
        assert!(error(at("empty")).contains("empty"), "{}", error(at("empty")));
        for trick in ["concat:a.mp4|b.mp4", "file:/etc/passwd", "-filter_complex"] {
            assert!(error(trick.into()).contains("no such file"), "{trick}");
        }
        for trick in ["file:///etc/passwd", "concat://a", "subfile,,start,0,end,0,,://a", "rtsp://", "http://a b"] {
            let refused = Source::find_all([trick]).unwrap_err().to_string();
            assert!(refused.contains("expected the path") || refused.contains("no such file"), "{refused}");
        }
    }

    #[test]
    fn streams_are_named_without_their_password() {
        let found =
            Source::find_all(["rtsp://me:secret@10.0.0.7:554/live/1?x=@", "/dev/video0", "-", "HTTP://host/a.mp4"])
                .unwrap();
        assert_eq!(names(&found), ["rtsp-10.0.0.7-554-live-1-x", "video0", "stdin", "HTTP-host-a.mp4"]);
        assert_eq!(found[0].to_string(), "rtsp://10.0.0.7:554/live/1?x=@");
        assert!(!format!("{:?}", found[0]).contains("secret"));
        let live = |source: &Source| matches!(source, Source::Stream(address) if address.is_live());
        assert_eq!(found.iter().map(live).collect::<Vec<_>>(), [true, true, false, false]);
    }
}
