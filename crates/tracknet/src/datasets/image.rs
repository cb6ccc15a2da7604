//! From an image file to the model's input: decode, resize, normalize, and the way back for pictures.
//!
//! The resize is bilinear with a support that grows with the scale (antialiased, as Pillow and torchvision with
//! `antialias=True` do). Point-sampled bilinear would read one pixel in six of a 1280×720 frame at 512×288, and a ball
//! of a few pixels could fall between.

use std::io::Cursor;
use std::path::Path;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{ImageReader, RgbImage};

use super::DatasetError;
pub use super::frames::{is_picture, pictures_in};

/// Decodes an image file to 8-bit RGB; the format is found by looking at the bytes.
///
/// # Errors
/// A file that cannot be read or decoded, with its path and the reason.
pub fn decode(path: &Path) -> Result<RgbImage, DatasetError> {
    let bytes = std::fs::read(path).map_err(|e| failure(path, format!("cannot read: {e}")))?;
    // Files are somebody else's: a panic inside a codec must not end a run of hours.
    match std::panic::catch_unwind(|| decode_bytes(&bytes)) {
        Ok(decoded) => decoded.map_err(|reason| failure(path, reason)),
        Err(_) => Err(failure(path, "cannot decode: the codec gave up on this file".to_owned())),
    }
}

fn decode_bytes(bytes: &[u8]) -> Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err("cannot decode: the file is empty".to_owned());
    }
    // The JPEG decoder fills what is missing with grey; a half picture must not train or measure anything.
    if bytes.starts_with(&[0xff, 0xd8]) && !bytes.windows(2).rev().any(|pair| pair == [0xff, 0xd9]) {
        return Err("cannot decode: the JPEG is cut off (no end marker)".to_owned());
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let image = reader.decode().map_err(|e| format!("cannot decode: {e} (expected jpg, jpeg or png)"))?.into_rgb8();
    if image.width() == 0 || image.height() == 0 {
        return Err(format!("cannot decode: the image is {}×{}", image.width(), image.height()));
    }
    Ok(image)
}

/// Size of an image as `[W, H]`, from its header only.
///
/// # Errors
/// A file that cannot be read, or whose header cannot.
pub fn dimensions(path: &Path) -> Result<[usize; 2], DatasetError> {
    let read = || ImageReader::open(path)?.with_guessed_format();
    let reader = read().map_err(|e| failure(path, format!("cannot read: {e}")))?;
    let (width, height) = reader.into_dimensions().map_err(|e| failure(path, format!("cannot decode: {e}")))?;
    Ok([width as usize, height as usize])
}

fn failure(path: &Path, reason: String) -> DatasetError {
    DatasetError::Image { path: path.to_path_buf(), reason }
}

/// Resizes `crop` (`[left, top, width, height]` in pixels, possibly fractional; `None` = all) of an image to `[W, H]`.
///
/// # Errors
/// A crop outside the image, with the reason.
pub fn resize(image: &RgbImage, crop: Option<[f64; 4]>, size: [usize; 2]) -> Result<RgbImage, String> {
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
    let image = decode(path)?;
    let native = [image.width() as usize, image.height() as usize];
    let resized = resize(&image, None, input_size).map_err(|reason| failure(path, reason))?;
    Ok((normalizer.apply(&resized), native))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undecodable_file_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0001.jpg");
        let message = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            decode(&path).unwrap_err().to_string()
        };
        assert!(message(b"").ends_with("0001.jpg: cannot decode: the file is empty"));
        assert!(
            message(b"\xff\xd8\xff\xe0half").ends_with("0001.jpg: cannot decode: the JPEG is cut off (no end marker)")
        );
        assert!(message(b"plain text").contains("0001.jpg: cannot decode: "));
        let mut png = Vec::new();
        let image = RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
        image.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        assert!(message(&png[..png.len() / 2]).contains("0001.jpg: cannot decode: "));
        std::fs::remove_file(&path).unwrap();
        assert!(decode(&path).unwrap_err().to_string().contains("0001.jpg: cannot read: "));
    }

    #[test]
    fn dimensions_come_from_the_header_whatever_the_extension_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jpg");
        RgbImage::new(37, 21).save_with_format(&path, image::ImageFormat::Png).unwrap();
        assert_eq!(dimensions(&path).unwrap(), [37, 21]);
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
