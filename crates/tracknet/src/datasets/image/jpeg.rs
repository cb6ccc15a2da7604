//! JPEG: whole or refused.
//!
//! Decoders are made to show something of every file: what is missing becomes grey, and so does what follows a damage. Half
//! a picture must neither train nor measure anything, so the file is walked to its end marker, and the decoder is strict
//! about the data in between. Not about the headers: stray bytes there cost no pixel.

use std::io::{BufRead, Seek};

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::decode::Header;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;

/// Reads the segments before the first scan.
///
/// # Errors
/// Why they cannot be read.
pub(super) fn header(reader: impl BufRead + Seek) -> Result<Header, String> {
    let mut decoder = JpegDecoder::new_with_options(reader, lenient());
    decoder.decode_headers().map_err(|e| e.to_string())?;
    let info = decoder.info().ok_or("it has no header")?;
    let size = [u32::from(info.width), u32::from(info.height)];
    let pixels = u64::from(info.width) * u64::from(info.height);
    let orientation = info.exif_data.as_deref().and_then(Orientation::from_exif_chunk);
    // Three bytes a pixel, and coefficients of 16 bits for each component where a picture comes in several scans.
    let bytes = pixels * (3 + 2 * u64::from(info.components));
    Ok(Header { size, bytes, orientation: orientation.unwrap_or(Orientation::NoTransforms) })
}

/// The pixels as they are stored.
///
/// # Errors
/// Why the file is not a whole JPEG picture.
pub(super) fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    if !is_whole(bytes) {
        return Err("the JPEG is cut off (no end marker)".to_owned());
    }
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), lenient());
    decoder.decode_headers().map_err(|e| e.to_string())?;
    let is_gray = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let colors = if is_gray { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(lenient().set_strict_mode(true).jpeg_set_out_colorspace(colors));
    let info = decoder.info().ok_or("it has no header")?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let pixels = decoder.decode().map_err(|e| e.to_string())?;
    let picture = match is_gray {
        true => GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8),
        false => RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
    };
    picture.ok_or_else(|| "the decoder gave too few pixels".to_owned())
}

/// For headers. The bound on the size is that of [`super::decode`].
fn lenient() -> DecoderOptions {
    DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX)
}

/// Whether the first picture of the file goes on to its end marker. Segments are passed by their length, so that a
/// thumbnail in one of them ends nothing; what follows the end marker is no matter.
fn is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // Scan data and stray bytes up to the next marker, which any number of 0xff may precede.
        let Some(start) = rest.iter().position(|b| *b == 0xff) else { return false };
        rest = &rest[start..];
        let Some(length) = rest.iter().position(|b| *b != 0xff) else { return false };
        let marker = rest[length];
        rest = &rest[length + 1..];
        match marker {
            EOI => return true,
            // Another picture begins: this one was cut off.
            SOI => return false,
            // A stuffed 0xff of scan data, restarts: markers without a length.
            0x00 | 0x01 | 0xd0..=0xd7 => {}
            _ => {
                let Some((length, _)) = rest.split_first_chunk() else { return false };
                let Some(after) = rest.get(usize::from(u16::from_be_bytes(*length))..) else { return false };
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `FF <marker> <length> <content>`.
    fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u16 + 2).to_be_bytes();
        [&[0xff, marker], length.as_slice(), content].concat()
    }

    #[test]
    fn only_an_end_marker_of_the_picture_itself_counts() {
        let scan =
            |data: &[u8]| [&[0xff, 0xd8], segment(0xe0, b"JFIF").as_slice(), &segment(0xda, &[0; 6]), data].concat();
        assert!(is_whole(&scan(&[1, 0xff, 0, 2, 0xff, 0xd3, 3, 0xff, 0xff, 0xd9])));
        assert!(is_whole(&scan(&[1, 0xff, 0xd9, 5, 6, 0xff])), "bytes after the picture");
        assert!(!is_whole(&scan(&[1, 0xff, 0, 2, 0xff, 0xd3, 3])));
        assert!(!is_whole(&scan(&[1, 0xff, 0xd8, 0xff, 0xd9])), "another picture in the middle of this one");
        let several_scans = [&[1u8, 2][..], &segment(0xc4, &[9; 3]), &segment(0xda, &[0xff, 0xd9]), &[3]].concat();
        assert!(!is_whole(&scan(&several_scans)));
        assert!(is_whole(&scan(&[several_scans.as_slice(), &[0xff, 0xd9]].concat())));
        let thumbnail =
            [&[0xff, 0xd8][..], &segment(0xe1, &[0xff, 0xd8, 0xff, 0xd9]), &segment(0xda, &[0]), &[1]].concat();
        assert!(!is_whole(&thumbnail));
        for cut in 0..thumbnail.len() {
            assert!(!is_whole(&thumbnail[..cut]));
        }
    }
}
