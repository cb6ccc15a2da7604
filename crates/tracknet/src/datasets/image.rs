//! From an image file to the model's input: decode, resize, normalize, and the way back for pictures.
//!
//! The resize is bilinear with a support that grows with the scale (antialiased, as Pillow and torchvision with
//! `antialias=True` do). Point-sampled bilinear would read one pixel in six of a 1280×720 frame at 512×288, and a ball
//! of a few pixels could fall between.
//!
//! | module | what lives there |
//! |---|---|
//! | `decode` | a picture file → 8-bit RGB, upright |
//! | `jpeg` | JPEG: whole or refused |
//! | `budget` | a bound on the pixels that all decoders hold at once |

use std::path::Path;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use super::DatasetError;
use crate::config::ExifOrientation;

mod budget;
mod decode;
mod jpeg;

pub use super::frames::{is_picture, pictures_in};
use decode::failure;
pub use decode::{decode, decode_memory, decode_then, dimensions, dimensions_in_memory};

/// Resizes `crop` (`[left, top, width, height]` in pixels, possibly fractional; `None` = all) of an image to `[W, H]`.
///
/// # Errors
/// A picture without pixels or a crop outside of it, with the reason.
pub fn resize(image: &RgbImage, crop: Option<[f64; 4]>, size: [usize; 2]) -> Result<RgbImage, String> {
    if image.width() == 0 || image.height() == 0 {
        return Err("the picture has no pixels".to_owned());
    }
    let [width, height] = [0, 1].map(|axis| u32::try_from(size[axis]).unwrap_or(u32::MAX));
    let source =
        ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3).map_err(|e| e.to_string())?;
    let mut target = Image::new(width, height, PixelType::U8x3);
    let mut options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    if let Some([left, top, width, height]) = crop {
        options = options.crop(left, top, width, height);
    }
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
    RgbImage::from_raw(width, height, target.into_vec()).ok_or_else(|| "resize lost pixels".to_owned())
}

/// `(v / 255 − mean) / std` per channel, or `v / 255`.
#[derive(Debug, Clone)]
pub struct Normalizer {
    table: [[f32; 256]; 3],
    mean: [f32; 3],
    std: [f32; 3],
}

impl Normalizer {
    /// A normalizer; `None` only scales to 0..1.
    pub fn new(mean_std: Option<([f32; 3], [f32; 3])>) -> Self {
        let (mean, std) = mean_std.unwrap_or(([0.0; 3], [1.0; 3]));
        let table = std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c]));
        Self { table, mean, std }
    }

    /// Pixels of an image as planes `[3, H, W]`.
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let plane = image.width() as usize * image.height() as usize;
        let mut planes = Vec::with_capacity(3 * plane);
        for (channel, table) in self.table.iter().enumerate() {
            planes.extend(image.as_raw().iter().skip(channel).step_by(3).map(|&v| table[usize::from(v)]));
        }
        planes
    }

    /// The picture of normalized planes `[3, H, W]` of size `[W, H]`, for overlays of training batches; planes that are
    /// too short give black pixels.
    pub fn undo(&self, planes: &[f32], size: [usize; 2]) -> RgbImage {
        let plane = size[0] * size[1];
        RgbImage::from_fn(size[0] as u32, size[1] as u32, |x, y| {
            let pixel = y as usize * size[0] + x as usize;
            image::Rgb(std::array::from_fn(|c| {
                let value = planes.get(c * plane + pixel).map_or(0.0, |v| v * self.std[c] + self.mean[c]);
                // A cast from float to integer saturates, and maps NaN to 0.
                (value * 255.0).round() as u8
            }))
        })
    }
}

/// Reads a frame for prediction: normalized planes `[3, H, W]` of size `input_size` = `[W, H]`, and the native `[W, H]`.
///
/// # Errors
/// A file that cannot be read or decoded.
pub fn load_frame(
    path: &Path,
    input_size: [usize; 2],
    normalizer: &Normalizer,
) -> Result<(Vec<f32>, [usize; 2]), DatasetError> {
    decode_then(path, ExifOrientation::Apply, |image| {
        let native = [image.width() as usize, image.height() as usize];
        let resized = resize(&image, None, input_size).map_err(|reason| failure(path, reason))?;
        Ok((normalizer.apply(&resized), native))
    })?
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;

    use image::ImageEncoder;
    use image::codecs::jpeg::JpegEncoder;

    use super::*;

    /// Writes a JPEG of this stored size and EXIF orientation.
    pub(crate) fn write_turned(path: &Path, width: u32, height: u32, orientation: u8) {
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new(&mut bytes);
        // One entry: tag 0x0112, a SHORT, one of it, the value.
        let entry = [1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0];
        let exif = [b"MM\0*\0\0\0\x08\0\x01".as_slice(), &entry, &[0; 4]].concat();
        encoder.set_exif_metadata(exif).unwrap();
        RgbImage::new(width, height).write_with_encoder(encoder).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn an_undecodable_file_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0001.jpg");
        let message = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            decode(&path).unwrap_err().to_string()
        };
        assert!(message(b"").ends_with("0001.jpg: cannot decode: the file is empty"));
        assert!(message(b"\xff\xd8\xff\xe0half").contains("0001.jpg: cannot decode: "));
        assert!(message(b"plain text").contains("0001.jpg: cannot decode: "));
        let mut png = Vec::new();
        let image = RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
        image.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        assert!(message(&png[..png.len() / 2]).contains("0001.jpg: cannot decode: "));
        std::fs::remove_file(&path).unwrap();
        assert!(decode(&path).unwrap_err().to_string().contains("0001.jpg: cannot read: "));
    }

    #[test]
    fn a_picture_in_memory_is_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jpg");
        write_turned(&path, 24, 16, 6);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(decode_memory(&bytes).unwrap(), decode(&path).unwrap());
        assert_eq!(dimensions_in_memory(&bytes).unwrap(), [24, 16]);
        let cut = decode_memory(&bytes[..bytes.len() - 2]).unwrap_err();
        assert!(cut.starts_with("cannot decode: "), "{cut}");
        assert_eq!(dimensions_in_memory(b"plain text").unwrap_err(), "cannot decode: is neither jpeg nor png");
    }

    #[test]
    fn dimensions_come_from_the_header_whatever_the_extension_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jpg");
        RgbImage::new(37, 21).save_with_format(&path, image::ImageFormat::Png).unwrap();
        assert_eq!(dimensions(&path, ExifOrientation::Apply).unwrap(), [37, 21]);
    }

    #[test]
    fn halving_with_antialiasing_weighs_the_four_nearest_columns() {
        // Triangle filter of support 2 around the centre of two source pixels: weights 1, 3, 3, 1 of 8.
        let values = [0u8, 80, 160, 240, 0, 80, 160, 240];
        let image = RgbImage::from_fn(8, 4, |x, _| image::Rgb([values[x as usize]; 3]));
        let small = resize(&image, None, [4, 2]).unwrap();
        let expected = (80.0 + 3.0 * 160.0 + 3.0 * 240.0 + 0.0) / 8.0;
        assert!((f32::from(small.get_pixel(1, 0)[0]) - expected).abs() <= 1.0, "{:?}", small.get_pixel(1, 0));
    }

    #[test]
    fn a_crop_outside_the_image_is_an_error_not_a_panic() {
        assert!(resize(&RgbImage::new(8, 8), Some([4.0, 0.0, 8.0, 8.0]), [4, 4]).is_err());
    }

    #[test]
    fn normalization_is_the_formula_and_can_be_undone() {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let normalizer = Normalizer::new(Some((mean, std)));
        let image = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 50, y as u8 * 100, 255]));
        let planes = normalizer.apply(&image);
        assert_eq!(planes.len(), 45);
        // Channel 1, row 2, column 3.
        let expected = (200.0f32 / 255.0 - mean[1]) / std[1];
        assert_eq!(planes[15 + 2 * 5 + 3], expected);
        assert_eq!(normalizer.undo(&planes, [5, 3]), image);
        assert_eq!(Normalizer::new(None).apply(&image)[44], 1.0);
    }

    #[test]
    fn a_frame_for_prediction_comes_with_its_native_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        RgbImage::from_pixel(40, 20, image::Rgb([51, 102, 255])).save(&path).unwrap();
        let (planes, native) = load_frame(&path, [10, 6], &Normalizer::new(None)).unwrap();
        assert_eq!((planes.len(), native), (180, [40, 20]));
        assert_eq!([planes[0], planes[60], planes[120]], [0.2, 0.4, 1.0]);
    }
}
