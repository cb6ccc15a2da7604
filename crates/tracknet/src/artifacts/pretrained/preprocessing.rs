//! How frames become the numbers that a backbone was trained on: `preprocessor_config.json`.
//!
//! It is read as `AutoImageProcessor` of `transformers` reads it: pixels of 0..255 times `rescale_factor`, minus `image_mean`,
//! divided by `image_std`, where `do_rescale` and `do_normalize` can leave steps out (`null` does, too), and what is absent
//! has the default of the processor. A newer `processor_config.json` with an `image_processor` section goes before.
//! Sizes, crops and resampling are not read: frames are resized to `data.preprocess.resize`.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use crate::console::{listing, shown};
use crate::error::Result;
use crate::files::{read, read_bytes};
use crate::models::ModelError;
use crate::models::registry::family_of;

use super::foreign::{is_there, parse_object};

/// The file of a model directory.
pub(crate) const PREPROCESSOR_FILE: &str = "preprocessor_config.json";
/// The file of newer releases, which may hold the same in its `image_processor` section.
pub(crate) const PROCESSOR_FILE: &str = "processor_config.json";

/// How frames are normalized before the backbone sees them: `(pixel / 255 - mean) / std`, channel by channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocessing {
    /// Mean of each RGB channel, in units of `pixel / 255`.
    pub mean: [f32; 3],
    /// Deviation of each RGB channel, in the same units; above zero.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// What frames of a backbone get that says nothing about it: the mean and deviation of ImageNet.
    pub const IMAGENET: Self = Self { mean: IMAGENET.mean.0, std: IMAGENET.std.0 };

    /// Reads the settings of a `preprocessor_config.json`, which `path` names in errors; `config` is the `config.json` beside
    /// it.
    ///
    /// # Errors
    /// A value that is not understood, by key.
    pub fn parse(map: &Map<String, Value>, config: &Map<String, Value>, path: &Path) -> Result<Self, ModelError> {
        Section { map, path }.read(config)
    }
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [mean, std] = [self.mean, self.std].map(|values| values.map(|v| f64::from((v * 1e6).round()) / 1e6));
        write!(f, "(pixel/255 - mean) / std with mean {mean:?}, std {std:?}")
    }
}

/// The files that say how frames are normalized, as they are, and what they mean.
#[derive(Debug, Clone, Default)]
pub(crate) struct PreprocessorFiles {
    /// Name and content of each file that is there.
    pub(crate) texts: Vec<(&'static str, Vec<u8>)>,
    /// What they say; nothing when there is none.
    pub(crate) preprocessing: Option<Preprocessing>,
}

impl PreprocessorFiles {
    /// Reads what there is in a model directory whose `config.json` is `config`.
    ///
    /// # Errors
    /// A file that cannot be read or is no JSON object, or a value of it that is not understood, by key.
    pub(crate) fn read(dir: &Path, config: &Map<String, Value>) -> Result<Self> {
        let mut files = Self::default();
        let mut section = None;
        for name in [PROCESSOR_FILE, PREPROCESSOR_FILE] {
            let path = dir.join(name);
            if !is_there(&path)? {
                continue;
            }
            let text = read_bytes(&path, read::JSON)?;
            let map = parse_object(&path, &text)?;
            let found = match (name, map.get("image_processor")) {
                (PROCESSOR_FILE, Some(Value::Object(nested))) => Some((path, nested.clone())),
                (PROCESSOR_FILE, _) => None,
                _ => Some((path, map)),
            };
            section = section.or(found);
            files.texts.push((name, text));
        }
        if let Some((path, map)) = section {
            files.preprocessing = Some(Preprocessing::parse(&map, config, &path)?);
        }
        Ok(files)
    }
}

/// Mean and deviation that a processor has when the file does not give them.
#[derive(Debug, Clone, Copy)]
struct Defaults {
    mean: Rgb,
    std: Rgb,
}

#[derive(Debug, Clone, Copy)]
struct Rgb([f32; 3]);

const IMAGENET: Defaults = Defaults { mean: Rgb([0.485, 0.456, 0.406]), std: Rgb([0.229, 0.224, 0.225]) };
const HALF: Defaults = Defaults { mean: Rgb([0.5; 3]), std: Rgb([0.5; 3]) };
const CLIP: Defaults = Defaults {
    mean: Rgb([0.481_454_66, 0.457_827_5, 0.408_210_73]),
    std: Rgb([0.268_629_54, 0.261_302_6, 0.275_777_1]),
};

/// The processors that do nothing to pixels but rescale and normalize, by the names they have without `Fast` or `Pil`.
const PROCESSORS: [(&str, Defaults); 14] = [
    ("ViTImageProcessor", HALF),
    ("DeiTImageProcessor", HALF),
    ("BeitImageProcessor", HALF),
    ("ConvNextImageProcessor", HALF),
    ("DPTImageProcessor", HALF),
    ("SiglipImageProcessor", HALF),
    ("DINOv3ViTImageProcessor", IMAGENET),
    ("LevitImageProcessor", IMAGENET),
    ("PoolFormerImageProcessor", IMAGENET),
    ("PvtImageProcessor", IMAGENET),
    ("SegformerImageProcessor", IMAGENET),
    ("BitImageProcessor", CLIP),
    ("BlipImageProcessor", CLIP),
    ("CLIPImageProcessor", CLIP),
];

/// The settings being read.
struct Section<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl Section<'_> {
    fn read(&self, config: &Map<String, Value>) -> Result<Preprocessing, ModelError> {
        let defaults = self.defaults(config)?;
        let scale = if self.flag("do_rescale")? { self.rescale_factor()? } else { 1.0 };
        let normalize = self.flag("do_normalize")?;
        let channels = |key: &str, default: Rgb, off: f64| match normalize {
            true => self.channels(key, default),
            false => Ok([off; 3]),
        };
        let (mean, std) = (channels("image_mean", defaults.mean, 0.0)?, channels("image_std", defaults.std, 1.0)?);
        if std.iter().any(|v| *v <= 0.0) {
            return Err(self.wrong("image_std", "numbers above 0"));
        }
        // A pixel of 0..255 times `scale` is `pixel / 255` times `255 * scale`.
        let in_unit = |values: [f64; 3]| values.map(|v| (v / (255.0 * scale)) as f32);
        let found = Preprocessing { mean: in_unit(mean), std: in_unit(std) };
        match found.mean.iter().chain(&found.std).all(|v| v.is_finite()) && found.std.iter().all(|v| *v > 0.0) {
            true => Ok(found),
            false => Err(self.wrong("image_std", "numbers that single precision can divide by")),
        }
    }

    /// The defaults of the processor that the file, or else `config.json`, names.
    fn defaults(&self, config: &Map<String, Value>) -> Result<Defaults, ModelError> {
        let named = self.text("image_processor_type", self.map)?;
        let extractor = self.text("feature_extractor_type", self.map)?;
        let named = named.or(extractor.map(|name| name.replace("FeatureExtractor", "ImageProcessor")));
        let named = named.or(self.text("image_processor_type", config)?);
        let named = named.or_else(|| family_of(config).map(|family| family.image_processor.to_owned()));
        let Some(named) = named else { return Ok(IMAGENET) };
        let bare = ["Fast", "Pil"].iter().find_map(|end| named.strip_suffix(end)).unwrap_or(&named);
        match PROCESSORS.iter().find(|(name, _)| *name == bare) {
            Some((_, defaults)) => Ok(*defaults),
            None => {
                let known = listing(PROCESSORS.iter().map(|(name, _)| name), PROCESSORS.len());
                let key = format!("{}: image_processor_type", self.path.display());
                let message = format!(
                    "is `{}`, and what it does to pixels is not known here; known: {known}. If it only rescales and \
                     normalizes, give image_mean and image_std and set it to ViTImageProcessor",
                    shown(&named)
                );
                Err(ModelError::key(key, message))
            }
        }
    }

    fn rescale_factor(&self) -> Result<f64, ModelError> {
        match self.map.get("rescale_factor") {
            None => Ok(1.0 / 255.0),
            Some(value) => value
                .as_f64()
                .filter(|factor| *factor > 0.0 && factor.is_finite())
                .ok_or_else(|| self.wrong("rescale_factor", "a number above 0 (1/255 = 0.00392156862745098)")),
        }
    }

    /// Three numbers, or one for all channels.
    fn channels(&self, key: &str, default: Rgb) -> Result<[f64; 3], ModelError> {
        let Some(value) = self.map.get(key) else { return Ok(default.0.map(f64::from)) };
        let numbers: Option<Vec<f64>> = match value {
            Value::Array(items) => items.iter().map(Value::as_f64).collect(),
            value => value.as_f64().map(|v| vec![v; 3]),
        };
        let three = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
        three.ok_or_else(|| self.wrong(key, "three numbers (red, green, blue), or one for all"))
    }

    /// Absent is `true`, as in every known processor; `null` is `false`, as in Python.
    fn flag(&self, key: &str) -> Result<bool, ModelError> {
        match self.map.get(key) {
            None => Ok(true),
            Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    fn text(&self, key: &str, map: &Map<String, Value>) -> Result<Option<String>, ModelError> {
        let value = map.get(key).filter(|value| !value.is_null());
        let text = value.map(|value| value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, "text")));
        text.transpose()
    }

    fn wrong(&self, key: &str, expected: &str) -> ModelError {
        let found = self.map.get(key).map_or_else(|| "not there".to_owned(), |value| shown(&value.to_string()));
        ModelError::key(format!("{}: {key}", self.path.display()), format!("is `{found}`, expected {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(model_type: &str, file: Value) -> Result<Preprocessing, String> {
        let (config, path) = (json!({ "model_type": model_type }), Path::new("preprocessor_config.json"));
        let [file, config] = [&file, &config].map(|json| json.as_object().unwrap());
        Preprocessing::parse(file, config, path).map_err(|e| e.to_string())
    }

    /// A pixel of each channel, as `AutoImageProcessor` of transformers 5.24 gives it for (0, 128, 255).
    #[test]
    fn pixels_are_those_of_transformers() {
        let imagenet = json!({ "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225] });
        let with = |key: &str, value: Value| {
            let mut file = imagenet.clone();
            file[key] = value;
            file
        };
        let plain = [-2.117_904, 0.205_182, 2.64];
        for (model_type, file, expected) in [
            ("vit", imagenet.clone(), plain),
            ("vit", with("do_normalize", Value::Null), [0.0, 0.501_961, 1.0]),
            ("vit", with("do_normalize", json!(false)), [0.0, 0.501_961, 1.0]),
            ("vit", with("do_rescale", json!(false)), [-2.117_904, 569.392_9, 1_131.528_9]),
            ("vit", with("rescale_factor", json!(0.007_843_137_254_901_96)), [-2.117_904, 2.446_078, 7.084_445]),
            ("vit", json!({ "image_mean": 0.5, "image_std": 0.25 }), [-2.0, 0.007_843, 2.0]),
            ("vit", json!({ "do_normalize": false, "do_rescale": false }), [0.0, 128.0, 255.0]),
            ("vit", json!({}), [-1.0, 0.003_921_6, 1.0]),
            ("dinov2", json!({}), [-1.792_263, 0.168_899, 2.145_897]),
            ("dinov3_vit", json!({}), plain),
            ("dinov3_vit", json!({ "feature_extractor_type": "ViTFeatureExtractor" }), [-1.0, 0.003_921_6, 1.0]),
            ("vit", json!({ "image_processor_type": "BitImageProcessorFast" }), [-1.792_263, 0.168_899, 2.145_897]),
        ] {
            let found = read(model_type, file.clone()).unwrap();
            for (channel, pixel) in [0.0, 128.0, 255.0].into_iter().enumerate() {
                let value = (pixel / 255.0 - found.mean[channel]) / found.std[channel];
                let tolerance = 2e-6 * f32::max(1.0, f32::abs(expected[channel]));
                assert!((value - expected[channel]).abs() < tolerance, "{file} {channel}: {value}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_key_and_value() {
        for (key, value, expected) in [
            ("image_mean", json!([0.5, 0.5]), "is `[0.5,0.5]`, expected three numbers"),
            ("image_mean", json!("0.5"), "is `\"0.5\"`, expected three numbers"),
            ("image_mean", Value::Null, "is `null`, expected three numbers"),
            ("image_std", json!([0.5, 0.0, 0.5]), "is `[0.5,0.0,0.5]`, expected numbers above 0"),
            ("image_std", json!(1e-300), "single precision"),
            ("do_normalize", json!("no"), "is `\"no\"`, expected true or false"),
            ("do_rescale", json!(0), "is `0`, expected true or false"),
            ("rescale_factor", json!("1/255"), "is `\"1/255\"`, expected a number above 0"),
            ("rescale_factor", json!(0), "is `0`, expected a number above 0"),
            ("image_processor_type", json!("MobileViTImageProcessor"), "is `MobileViTImageProcessor`"),
            ("image_processor_type", json!(3), "is `3`, expected text"),
        ] {
            let message = read("vit", json!({ key: value })).unwrap_err();
            let start = format!("preprocessor_config.json: {key}: ");
            assert!(message.starts_with(&start) && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_section_of_the_newer_file_goes_before_the_older_file_and_both_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let config = Map::new();
        assert_eq!(PreprocessorFiles::read(dir.path(), &config).unwrap().preprocessing, None);
        write(PREPROCESSOR_FILE, r#"{"image_mean": 0.25, "image_std": 1}"#);
        let read = || PreprocessorFiles::read(dir.path(), &config).unwrap();
        assert_eq!(read().preprocessing.unwrap().mean, [0.25; 3]);
        write(PROCESSOR_FILE, r#"{"processor_class": "x"}"#);
        assert_eq!(read().preprocessing.unwrap().mean, [0.25; 3]);
        write(PROCESSOR_FILE, r#"{"image_processor": {"image_mean": 0.75, "image_std": 1}}"#);
        assert_eq!((read().preprocessing.unwrap().mean, read().texts.len()), ([0.75; 3], 2));
        write(PREPROCESSOR_FILE, "{");
        let message = PreprocessorFiles::read(dir.path(), &config).unwrap_err().to_string();
        assert!(message.contains(PREPROCESSOR_FILE), "{message}");
    }
}
