//! What teacher and students look at: square crops of pictures, some of them held out, and augmented views of the crops.

use std::path::PathBuf;

use image::RgbImage;
use image::imageops::crop_imm;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::AugmentConfig;
use crate::datasets::DatasetError;
use crate::datasets::augment::change_pixels;
use crate::datasets::image::{decode, resize};
use crate::error::Result;
use tracknet_random::{Stream, permutation};

use super::DistillOptions;

/// First parts of the keys of random streams; smaller numbers are taken by the datasets.
const CROP_STREAM: u64 = 2;
const VIEW_STREAM: u64 = 3;
const ORDER_STREAM: u64 = 4;

/// The edge of the smallest crop, as a share of the largest that a picture allows.
const SMALLEST: f32 = 0.4;
/// Pixels that the largest crop of a picture must have at an edge.
const LEAST_PIXELS: u32 = 32;
/// Of several pictures, one in so many is held out.
const HELD_OUT: usize = 5;
/// Of a single picture, the last of so many equal columns is held out.
const COLUMNS: u32 = 4;

/// What the students see in place of a crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Views {
    /// Another augmented view of it in every pass.
    Different,
    /// The crop itself, as the teacher.
    Same,
}

/// What makes a view of a crop: the colours of another camera, blur, noise and compression.
fn augmentation() -> AugmentConfig {
    AugmentConfig {
        color_jitter_prob: 0.8,
        color_jitter: 0.4,
        blur_prob: 0.5,
        noise_prob: 0.5,
        noise_std: 20.0,
        jpeg_prob: 0.5,
        jpeg_quality: [15, 60],
        ..AugmentConfig::default()
    }
}

/// Clean crops, each `size × size` pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Crops {
    /// To learn from.
    pub train: Vec<RgbImage>,
    /// Held out: no pixel of them is in a crop to learn from.
    pub validation: Vec<RgbImage>,
    views: Views,
    seed: u64,
}

/// The two sets of crops; the numbers are part of the keys of random streams.
#[derive(Debug, Clone, Copy)]
enum Split {
    Train = 0,
    Validation = 1,
}

/// The part of a picture that crops of one split come from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Area<'a> {
    path: &'a PathBuf,
    /// First column and the one after the last, of [`COLUMNS`].
    columns: [u32; 2],
}

impl Crops {
    /// Cuts crops of random place and scale out of pictures. Of several pictures the last fifth is held out, of a single
    /// picture its right quarter; the crops of a single picture have one range of scales on both sides.
    ///
    /// # Errors
    /// No picture, one that cannot be decoded, or one that is too small.
    pub fn cut(pictures: &[PathBuf], options: &DistillOptions) -> Result<Self> {
        let (train, validation) = areas(pictures);
        if train.is_empty() {
            return Err(DatasetError::Spec {
                key: "image",
                found: "no picture".to_owned(),
                expected: "at least one jpg or png picture",
            }
            .into());
        }
        Ok(Self {
            train: cut(&train, Split::Train, options.crops, options)?,
            validation: cut(&validation, Split::Validation, options.validation_crops, options)?,
            views: options.views,
            seed: options.seed,
        })
    }

    /// How many of `pictures` crops are held out from; 0 when it is a part of the only one.
    pub fn held_out(pictures: usize) -> usize {
        if pictures < 2 { 0 } else { (pictures / HELD_OUT).max(1) }
    }

    /// The crops of a batch: every pass over the crops is in an order of its own. Each comes with the number of its pass; a
    /// batch ends with the last of `passes`.
    pub(super) fn batch(&self, step: usize, batch_size: usize, passes: Option<usize>) -> Vec<(usize, u64)> {
        let count = self.train.len();
        let (first, after) = (step * batch_size, (step + 1) * batch_size);
        let after = passes.map_or(after, |passes| after.min(passes * count));
        let passes = first / count..after.div_ceil(count);
        let crops = passes.flat_map(|pass| {
            let order = permutation(count, &[ORDER_STREAM, self.seed, pass as u64]);
            order.into_iter().map(move |crop| (crop, pass as u64))
        });
        crops.skip(first % count).take(after.saturating_sub(first)).collect()
    }

    /// The views of crops to learn from, another one in every pass.
    ///
    /// # Errors
    /// A failure of the JPEG codec.
    pub(super) fn views(&self, batch: &[(usize, u64)]) -> Result<Vec<RgbImage>> {
        batch.par_iter().map(|&(crop, pass)| self.view(&self.train, Split::Train, crop, pass)).collect()
    }

    /// One view of each crop that is held out.
    ///
    /// # Errors
    /// A failure of the JPEG codec.
    pub(super) fn validation_views(&self) -> Result<Vec<RgbImage>> {
        let crops = 0..self.validation.len();
        crops.into_par_iter().map(|crop| self.view(&self.validation, Split::Validation, crop, 0)).collect()
    }

    fn view(&self, crops: &[RgbImage], split: Split, crop: usize, pass: u64) -> Result<RgbImage> {
        if self.views == Views::Same {
            return Ok(crops[crop].clone());
        }
        let mut stream = Stream::keyed(&[VIEW_STREAM, self.seed, split as u64, crop as u64, pass]);
        let failure = |reason| DatasetError::Image { path: format!("crop {crop}").into(), reason };
        Ok(change_pixels(crops[crop].clone(), &mut stream, &augmentation()).map_err(failure)?.0)
    }
}

/// Where crops to learn from and crops that are held out come from.
fn areas<'a>(pictures: &'a [PathBuf]) -> (Vec<Area<'a>>, Vec<Area<'a>>) {
    let part = |path, columns| Area { path, columns };
    if let [only] = pictures {
        return (vec![part(only, [0, COLUMNS - 1])], vec![part(only, [COLUMNS - 1, COLUMNS])]);
    }
    let (train, validation) = pictures.split_at(pictures.len() - Crops::held_out(pictures.len()));
    let whole = |paths: &'a [PathBuf]| paths.iter().map(|path| part(path, [0, COLUMNS])).collect();
    (whole(train), whole(validation))
}

/// `count` crops, from the areas in turn; each picture is decoded once.
fn cut(areas: &[Area<'_>], split: Split, count: usize, options: &DistillOptions) -> Result<Vec<RgbImage>> {
    let mut crops = vec![RgbImage::default(); count];
    for (first, area) in areas.iter().enumerate().take(count) {
        let (pixels, largest) = area.open()?;
        for index in (first..count).step_by(areas.len()) {
            let mut stream = Stream::keyed(&[CROP_STREAM, options.seed, split as u64, index as u64]);
            let failure = |reason| DatasetError::Image { path: area.path.clone(), reason };
            crops[index] = crop(&pixels, largest, options.size, &mut stream).map_err(failure)?;
        }
    }
    Ok(crops)
}

impl Area<'_> {
    /// The pixels of the area, and the edge of its largest crop.
    fn open(&self) -> Result<(RgbImage, u32), DatasetError> {
        let picture = decode(self.path)?;
        let (width, height) = picture.dimensions();
        let column = |index: u32| (u64::from(width) * u64::from(index) / u64::from(COLUMNS)) as u32;
        let is_whole = self.columns == [0, COLUMNS];
        let narrowest = if is_whole { width } else { width - column(COLUMNS - 1) };
        let largest = height.min(narrowest);
        if largest < LEAST_PIXELS {
            let least = if is_whole { LEAST_PIXELS } else { LEAST_PIXELS * COLUMNS };
            let reason = format!(
                "is {width}×{height}; crops need at least {least}×{LEAST_PIXELS} pixels{}",
                if is_whole { "" } else { " of a single picture, whose right quarter is held out" }
            );
            return Err(DatasetError::Image { path: self.path.clone(), reason });
        }
        let [left, right] = self.columns.map(column);
        // Cut off, so that no resize can see across.
        Ok((crop_imm(&picture, left, 0, right - left, height).to_image(), largest))
    }
}

/// A square of random place and edge, resized to `size × size`.
fn crop(pixels: &RgbImage, largest: u32, size: usize, stream: &mut Stream) -> Result<RgbImage, String> {
    let edge = (largest as f32 * stream.range(SMALLEST, 1.0)).round().clamp(1.0, largest as f32) as u32;
    let [left, top] = [pixels.width(), pixels.height()].map(|side| stream.below((side - edge) as usize + 1) as u32);
    let square = crop_imm(pixels, left, top, edge, edge).to_image();
    resize(&square, None, [size, size])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use image::Rgb;

    use super::*;

    fn options(crops: usize, seed: u64) -> DistillOptions {
        DistillOptions { size: 32, crops, validation_crops: 6, seed, ..DistillOptions::new("unused") }
    }

    /// A picture whose red says its column (of 256) and whose green is `mark`.
    fn save(dir: &Path, name: &str, [width, height]: [u32; 2], mark: u8) -> PathBuf {
        let path = dir.join(name);
        RgbImage::from_fn(width, height, |x, _| Rgb([(x * 256 / width) as u8, mark, 7])).save(&path).unwrap();
        path
    }

    #[test]
    fn crops_are_a_function_of_the_seed() {
        let dir = tempfile::tempdir().unwrap();
        let pictures = [save(dir.path(), "a.png", [200, 90], 1)];
        let once = Crops::cut(&pictures, &options(8, 1)).unwrap();
        assert_eq!(once, Crops::cut(&pictures, &options(8, 1)).unwrap());
        assert_ne!(once.train, Crops::cut(&pictures, &options(8, 2)).unwrap().train);
        assert!(once.train.iter().chain(&once.validation).all(|crop| crop.dimensions() == (32, 32)));
        // More crops do not change those that are there already.
        assert_eq!(once.train, Crops::cut(&pictures, &options(11, 1)).unwrap().train[..8]);
    }

    #[test]
    fn the_right_quarter_of_a_single_picture_is_held_out_to_the_pixel() {
        let dir = tempfile::tempdir().unwrap();
        let crops = Crops::cut(&[save(dir.path(), "a.png", [512, 300], 1)], &options(40, 3)).unwrap();
        let reds = |crops: &[RgbImage]| -> BTreeSet<u8> {
            crops.iter().flat_map(|crop| crop.pixels().map(|p| p.0[0])).collect()
        };
        let (train, validation) = (reds(&crops.train), reds(&crops.validation));
        assert!(train.iter().all(|&red| red < 192) && validation.iter().all(|&red| red >= 192));
        // Forty crops of up to 128 pixels reach most of 384 columns.
        assert!(train.len() > 120, "{}", train.len());
    }

    #[test]
    fn of_several_pictures_the_last_are_held_out_and_all_others_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let pictures: Vec<PathBuf> =
            (0..11u8).map(|i| save(dir.path(), &format!("{i}.png"), [64, 48], 20 * i)).collect();
        let crops = Crops::cut(&pictures, &options(18, 4)).unwrap();
        let greens =
            |crops: &[RgbImage]| -> Vec<u8> { crops.iter().map(|crop| crop.get_pixel(5, 5).0[1] / 20).collect() };
        assert_eq!(greens(&crops.train), [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(greens(&crops.validation), [9, 10, 9, 10, 9, 10]);
        assert_eq!([1, 2, 9, 10, 20].map(Crops::held_out), [0, 1, 1, 2, 4]);
    }

    #[test]
    fn every_pass_takes_each_crop_once_in_an_order_of_its_own_whatever_the_batch() {
        let dir = tempfile::tempdir().unwrap();
        let crops = Crops::cut(&[save(dir.path(), "a.png", [160, 40], 1)], &options(7, 5)).unwrap();
        let in_batches = |size: usize, steps: usize| -> Vec<(usize, u64)> {
            (0..steps).flat_map(|step| crops.batch(step, size, None)).collect()
        };
        let all = in_batches(7, 3);
        assert_eq!(all, in_batches(3, 7));
        assert_eq!(all, in_batches(21, 1));
        for (pass, batch) in all.chunks(7).enumerate() {
            assert!(batch.iter().all(|(_, p)| *p == pass as u64));
            assert_eq!(batch.iter().map(|(crop, _)| *crop).collect::<BTreeSet<_>>(), (0..7).collect());
        }
        let order = |pass: usize| all[7 * pass..7 * (pass + 1)].iter().map(|(crop, _)| *crop).collect::<Vec<_>>();
        assert_ne!(order(0), order(1));
        // Two passes of seven in batches of four: the last one is shorter.
        let lengths: Vec<usize> = (0..4).map(|step| crops.batch(step, 4, Some(2)).len()).collect();
        assert_eq!(lengths, [4, 4, 4, 2]);
        let two: Vec<_> = (0..4).flat_map(|step| crops.batch(step, 4, Some(2))).collect();
        assert_eq!(two, all[..14]);
    }

    #[test]
    fn the_same_views_are_the_crops_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let pictures = [save(dir.path(), "a.png", [160, 40], 1)];
        let crops = Crops::cut(&pictures, &DistillOptions { views: Views::Same, ..options(3, 6) }).unwrap();
        assert_eq!(crops.views(&[(0, 0), (2, 1)]).unwrap(), [crops.train[0].clone(), crops.train[2].clone()]);
        assert_eq!(crops.validation_views().unwrap(), crops.validation);
        // They are cut from the same places as those that are seen in other views.
        assert_eq!(crops.train, Crops::cut(&pictures, &options(3, 6)).unwrap().train);
    }

    #[test]
    fn a_view_changes_with_the_pass_and_keeps_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let crops = Crops::cut(&[save(dir.path(), "a.png", [160, 40], 1)], &options(2, 6)).unwrap();
        let views = crops.views(&[(0, 0), (0, 1), (0, 0), (1, 0)]).unwrap();
        assert_eq!(views[0], views[2]);
        assert_ne!(views[0], views[1]);
        assert!(views.iter().all(|view| view.dimensions() == (32, 32)));
        assert!(views[0] != crops.train[0] || views[1] != crops.train[0]);
        assert_eq!(crops.validation_views().unwrap(), crops.validation_views().unwrap());
    }

    #[test]
    fn a_picture_that_is_missing_or_too_small_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = |pictures: &[PathBuf]| Crops::cut(pictures, &options(2, 1)).unwrap_err().to_string();
        assert!(message(&[dir.path().join("no.png")]).contains("no.png: cannot read"));
        let small = message(&[save(dir.path(), "small.png", [100, 90], 1)]);
        assert!(small.contains("small.png: is 100×90") && small.contains("128×32"), "{small}");
        let pair = [save(dir.path(), "a.png", [100, 90], 1), save(dir.path(), "b.png", [100, 31], 1)];
        assert!(message(&pair).contains("b.png: is 100×31; crops need at least 32×32 pixels"));
        assert!(message(&[]).contains("at least one"));
    }
}
