//! Pictures on a pipe: binary PPM.

use std::io::{Error, ErrorKind, Read, Result, copy, sink};

use image::RgbImage;

/// The most pixels of a frame: 16384×8192.
const MOST_PIXELS: u64 = 1 << 27;

/// Reads a binary PPM (`P6`, netpbm.sourceforge.net/doc/ppm.html), or passes it by unless it is to `keep`; `None` at the end of the
/// stream.
pub(super) fn read_ppm(stream: &mut impl Read, keep: bool) -> Result<Option<Option<RgbImage>>> {
    let bad = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
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
    let bytes = 3 * u64::from(width) * u64::from(height);
    if !keep {
        let passed = copy(&mut stream.take(bytes), &mut sink())?;
        return if passed == bytes { Ok(Some(None)) } else { Err(bad("the frame is cut off")) };
    }
    let mut pixels = vec![0; bytes as usize];
    stream.read_exact(&mut pixels).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => bad("the frame is cut off"),
        _ => e,
    })?;
    Ok(Some(RgbImage::from_raw(width, height, pixels)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_read_from_a_stream_one_after_the_other() {
        let mut stream: &[u8] = b"P6\n2 1\n255\nabcdefP6\n1 1\n255\nxyz";
        assert_eq!(read_ppm(&mut stream, true).unwrap().unwrap().unwrap().as_raw(), b"abcdef");
        assert_eq!(read_ppm(&mut stream, true).unwrap().unwrap().unwrap().as_raw(), b"xyz");
        assert!(read_ppm(&mut stream, true).unwrap().is_none());
        let message = |mut bytes: &[u8]| read_ppm(&mut bytes, true).unwrap_err().to_string();
        assert_eq!(message(b"P6\n2 1\n255\nabc"), "the frame is cut off");
        assert_eq!(message(b"P6\n2"), "the frame header is cut off");
        assert_eq!(message(b"P5\n2 1\n255\nabc"), "unexpected frame header `P5 2 1 255`");
        assert_eq!(message(b"P6\n32768 32768\n255\n"), "a frame of 32768×32768 pixels is too large");
        assert_eq!(message(b"P6\n99999 1\n255\nabc"), "unexpected frame header `P6 99999 1 255`");
        assert_eq!(message(b"not a picture at all"), "unexpected frame header `not a picture at`");
        assert_eq!(message(b"0123456789"), "the frame header is damaged");
    }
}
