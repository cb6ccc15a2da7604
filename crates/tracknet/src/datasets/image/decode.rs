//! A picture file → 8-bit RGB, upright.
//!
//! Cameras store pictures as the sensor saw them, with an EXIF orientation that says how to hold them; viewers, labelling
//! tools and OpenCV turn them, and so does this, in JPEG (`APP1`) and PNG (`eXIf` before the pixels).

use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, Limits, RgbImage};

use super::budget::PIXELS;
use super::jpeg;
use crate::config::ExifOrientation;
use crate::datasets::DatasetError;
use crate::error::Result;
use crate::files::read::PICTURE;
use crate::files::{FileError, Limit, open_regular, read_bytes};

/// The most bytes that the pixels of one picture may take while it is decoded.
const MOST_BYTES: u64 = 512 << 20;

/// Decodes a jpeg or png file, upright; the format is found by looking at the bytes.
///
/// # Errors
/// A file that cannot be read, is another kind of file, is damaged or cut off; with its path and the reason.
pub fn decode(path: &Path) -> Result<RgbImage, DatasetError> {
    decode_then(path, ExifOrientation::Apply, |picture| picture)
}

/// [`decode`], for a data set with its own mind about orientations. The picture counts as one that is being decoded until
/// `then` returns: use it up there where many threads decode at once. `then` must not decode another one.
///
/// # Errors
/// As [`decode`].
pub fn decode_then<T>(
    path: &Path,
    orientation: ExifOrientation,
    then: impl FnOnce(RgbImage) -> T,
) -> Result<T, DatasetError> {
    let header = read_header(path)?;
    let _reserved = PIXELS.reserve(header.bytes);
    let bytes = read_bytes(path, PICTURE).map_err(|e| failure(path, unreadable(e)))?;
    let turn = header.turn(orientation);
    let picture = guarded(path, || decode_bytes(&bytes, turn))?;
    drop(bytes);
    Ok(then(picture))
}

/// Size of a picture as `[W, H]`, from its header only.
///
/// # Errors
/// A file that cannot be read, or whose header cannot.
pub fn dimensions(path: &Path, orientation: ExifOrientation) -> Result<[usize; 2], DatasetError> {
    let header = read_header(path)?;
    let [width, height] = header.size.map(|n| n as usize);
    Ok(match header.turn(orientation) {
        Orientation::Rotate90 | Orientation::Rotate270 => [height, width],
        Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => [height, width],
        _ => [width, height],
    })
}

/// [`decode`] of a file's bytes, which did not come from a file.
///
/// # Errors
/// Why it is no picture, damaged or cut off.
pub fn decode_memory(bytes: &[u8]) -> Result<RgbImage, String> {
    let header = header_of_memory(bytes)?;
    let _reserved = PIXELS.reserve(header.bytes);
    caught(|| decode_bytes(bytes, header.orientation))
}

/// Size of a picture that is in memory as `[W, H]`, as stored, from its header only.
///
/// # Errors
/// A header that is none of a picture, or of one that is too large for [`decode_memory`].
pub fn dimensions_in_memory(bytes: &[u8]) -> Result<[u32; 2], String> {
    header_of_memory(bytes).map(|header| header.size)
}

fn header_of_memory(bytes: &[u8]) -> Result<Header, String> {
    caught(|| header_of(Cursor::new(bytes)))
}

/// What is known of a picture before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Header {
    /// Size as stored, `[W, H]`.
    pub(super) size: [u32; 2],
    /// Bytes of its pixels while it is decoded.
    pub(super) bytes: u64,
    /// How it wants to be held.
    pub(super) orientation: Orientation,
}

impl Header {
    fn turn(&self, orientation: ExifOrientation) -> Orientation {
        match orientation {
            ExifOrientation::Apply => self.orientation,
            ExifOrientation::Ignore => Orientation::NoTransforms,
        }
    }
}

fn read_header(path: &Path) -> Result<Header, DatasetError> {
    let file = open_regular(path).map_err(|e| failure(path, unreadable(e)))?;
    let stored = file.metadata().map_err(|e| failure(path, format!("cannot read: {e}")))?.len();
    if stored > PICTURE.bytes {
        let (path_buf, Limit { kind, bytes: limit }) = (path.to_path_buf(), PICTURE);
        let error = FileError::TooLarge { path: path_buf, size: stored, kind, limit };
        return Err(failure(path, unreadable(error)));
    }
    let header = guarded(path, || header_of(BufReader::new(file)))?;
    Ok(Header { bytes: header.bytes + stored, ..header })
}

fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, String>) -> Result<T, DatasetError> {
    caught(work).map_err(|reason| failure(path, reason))
}

/// Files are somebody else's: a panic inside a codec must not end a run of hours.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    caught.unwrap_or_else(|_| Err("cannot decode: the codec gave up on this file".to_owned()))
}

fn header_of(mut reader: impl BufRead + Seek) -> Result<Header, String> {
    let start = reader.fill_buf().map_err(|e| format!("cannot read: {e}"))?;
    let header = match format_of(start)? {
        Format::Jpeg => jpeg::header(reader),
        Format::Png => png_header(reader),
    };
    let header = header.map_err(|e| format!("cannot decode: {e}"))?;
    let [width, height] = header.size;
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || 3 * pixels > MOST_BYTES {
        let most = MOST_BYTES / 3 / 1_000_000;
        return Err(format!(
            "cannot decode: it is {width}×{height}, expected at least 1 and at most {most} million pixels"
        ));
    }
    let turned = if header.orientation == Orientation::NoTransforms { 0 } else { 3 * pixels };
    Ok(Header { bytes: header.bytes + turned, ..header })
}

fn png_header(reader: impl BufRead + Seek) -> Result<Header, String> {
    let mut decoder = PngDecoder::with_limits(reader, limits()).map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let decoded = decoder.total_bytes();
    limits().reserve(decoded).map_err(|e| e.to_string())?;
    let converted = if decoder.color_type() == ColorType::Rgb8 { 0 } else { 3 * u64::from(width) * u64::from(height) };
    let orientation = decoder.orientation().map_err(|e| e.to_string())?;
    Ok(Header { size: [width, height], bytes: decoded + converted, orientation })
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    limits
}

fn decode_bytes(bytes: &[u8], turn: Orientation) -> Result<RgbImage, String> {
    let decoded = match format_of(bytes)? {
        Format::Jpeg => jpeg::decode(bytes),
        Format::Png => PngDecoder::with_limits(Cursor::new(bytes), limits())
            .and_then(DynamicImage::from_decoder)
            .map_err(|e| e.to_string()),
    };
    let mut picture = DynamicImage::ImageRgb8(decoded.map_err(|e| format!("cannot decode: {e}"))?.into_rgb8());
    picture.apply_orientation(turn);
    Ok(picture.into_rgb8())
}

enum Format {
    Jpeg,
    Png,
}

/// The format of a file from its first bytes.
fn format_of(start: &[u8]) -> Result<Format, String> {
    let other = match image::guess_format(start) {
        Ok(ImageFormat::Jpeg) => return Ok(Format::Jpeg),
        Ok(ImageFormat::Png) => return Ok(Format::Png),
        Ok(ImageFormat::WebP) => Some("a WebP picture"),
        Ok(ImageFormat::Bmp) => Some("a BMP picture"),
        Ok(ImageFormat::Gif) => Some("a GIF picture"),
        Ok(ImageFormat::Tiff) => Some("a TIFF picture"),
        Ok(ImageFormat::Avif) => Some("an AVIF picture"),
        Ok(_) => Some("another kind of picture"),
        Err(_) => other_kind(start),
    };
    match other {
        Some(kind) => Err(format!("is {kind}, expected jpeg or png")),
        None if start.is_empty() => Err("cannot decode: the file is empty".to_owned()),
        None if start.starts_with(b"version https://git-lfs") => {
            Err("is a pointer of Git LFS, the picture is not here; fetch it with `git lfs pull`".to_owned())
        }
        None => Err("cannot decode: is neither jpeg nor png".to_owned()),
    }
}

/// Kinds that the `image` crate does not know.
fn other_kind(start: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(&start[..start.len().min(64)]).trim_start().to_lowercase();
    match start {
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => Some("a web page"),
        _ if start.get(4..8) == Some(b"ftyp") => match start.get(8..12) {
            Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"mif1" | b"msf1") => Some("a HEIC picture"),
            _ => Some("a video"),
        },
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => Some("a JPEG XL picture"),
        [0, 0, 0, 0x0c, b'j', b'P', b' ', b' ', ..] => Some("a JPEG 2000 picture"),
        [b'%', b'P', b'D', b'F', ..] => Some("a PDF document"),
        _ => None,
    }
}

/// The reason without the path, which the error of the picture names.
fn unreadable(error: FileError) -> String {
    match error {
        FileError::Io { cause, .. } => format!("cannot read: {cause}"),
        FileError::NotRegular { found, .. } => format!("is {found}, expected a regular file"),
        FileError::TooLarge { size, kind, limit, .. } => {
            format!("{size} bytes are too many for {kind} (at most {limit})")
        }
        other => other.to_string(),
    }
}

pub(super) fn failure(path: &Path, reason: String) -> DatasetError {
    DatasetError::Image { path: path.to_path_buf(), reason }
}
