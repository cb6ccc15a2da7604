//! `adapter_config.json`: what an adapter computes, and whatever else was in the file.
//!
//! Files are written the way Python's `json.dumps(…, indent=2, sort_keys=True)` writes them, so that a file that PEFT
//! wrote comes back byte for byte.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use burn::tensor::TensorData;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Value, json};

use crate::artifacts::pretrained::json::python_float;
use crate::config::{InitMethod, LoraConfig, PEFT_OPTIONS_WITHOUT_SUPPORT, Pattern, TargetModules};
use crate::error::Result;
use crate::files::{Limit, read_text, write_atomic};
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;

use super::loftq;
use super::peft::{PREFIX, what_is_there};
use crate::models::lora::LoraReport;
use crate::models::lora::loftq::LoftqBase;
use crate::models::lora::plan::in_backbone;
use crate::models::lora::targets::is_saved;

/// The configuration of an adapter directory.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Larger files are no configurations.
const LIMIT: Limit = Limit { kind: "an adapter configuration", bytes: 16 << 20 };

/// Keys that change nothing about what an adapter computes.
const INFORMATION: [&str; 10] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
    loftq::KEY,
];

/// The configuration of an adapter, understood, and the entries of its file.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// What the adapter computes, and which modules it is for.
    pub lora: LoraConfig,
    /// The model it belongs to.
    pub base_model: Option<String>,
    /// Tensors of the directory for parts of the base that this program does not build; they are written again with it.
    pub(crate) carried: BTreeMap<String, TensorData>,
    /// The base that `loftq` initialized the adapter for, where PEFT has no word for it.
    pub(crate) loftq: Option<LoftqBase>,
    entries: Vec<(String, Entry)>,
}

/// A value of the file; the order of a pattern counts.
#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Plain(Value),
    Ordered(Pattern<Value>),
}

impl PeftConfig {
    /// The configuration of adapters that are trained here; `targets` are the full paths that were adapted, because the
    /// short names of this project mean nothing to PEFT.
    pub fn of_training(config: &LoraConfig, targets: Vec<String>) -> Self {
        let lora = LoraConfig {
            enabled: true,
            adapter: None,
            target_modules: Some(TargetModules::List(targets)),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            ..config.clone()
        };
        Self { lora, base_model: None, carried: BTreeMap::new(), loftq: None, entries: Vec::new() }.with_entries()
    }

    /// The configuration of the adapters that `report` says were added, as the section `config` asks for, to a model with
    /// these spellings of its paths. Those of a decoder are not part of it.
    pub fn of_report(config: &LoraConfig, report: &LoraReport, paths: ModulePaths) -> Self {
        let in_backbone = report.adapted.iter().filter(|module| in_backbone(&module.path));
        let targets = in_backbone.map(|module| paths.in_memory(&module.path)).collect();
        Self { loftq: report.loftq.clone(), ..Self::of_training(config, targets) }.with_entries()
    }

    /// Names another base model.
    #[must_use]
    pub fn with_base(mut self, base: Option<&str>) -> Self {
        if self.base_model.as_deref() != base {
            self.base_model = base.map(str::to_owned);
            self.set("base_model_name_or_path", json!(base));
        }
        self
    }

    /// Changes the settings: everything that the file says besides is kept.
    #[must_use]
    pub fn with_lora(mut self, lora: LoraConfig) -> Self {
        self.lora = lora;
        self.with_entries()
    }

    /// Brings the entries up to date with the settings.
    fn with_entries(mut self) -> Self {
        let lora = self.lora.clone();
        let integral = |x: f32| if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(decimal(x)) };
        // PEFT would compute a base of its own.
        let start = if self.loftq.is_some() { InitMethod::Kaiming } else { lora.init_lora_weights };
        let redo = start == InitMethod::Loftq;
        let alphas = lora.alpha_pattern.0.iter().map(|(key, alpha)| (key.clone(), integral(*alpha))).collect();
        let ranks = lora.rank_pattern.0.iter().map(|(key, rank)| (key.clone(), json!(rank))).collect();
        self.set("peft_type", json!("LORA"));
        self.set("inference_mode", json!(true));
        self.set("base_model_name_or_path", json!(self.base_model));
        self.set("task_type", json!(lora.task_type));
        self.set("r", json!(lora.r));
        self.set("lora_alpha", integral(lora.lora_alpha));
        self.set("lora_dropout", json!(decimal(lora.lora_dropout)));
        self.set("target_modules", json!(lora.target_modules));
        self.set("exclude_modules", json!(lora.exclude_modules));
        self.set("layers_to_transform", json!(lora.layers_to_transform));
        self.set("layers_pattern", json!(lora.layers_pattern));
        self.put("rank_pattern", Entry::Ordered(Pattern(ranks)));
        self.put("alpha_pattern", Entry::Ordered(Pattern(alphas)));
        self.set("bias", json!(lora.bias));
        self.set("use_rslora", json!(lora.use_rslora));
        self.set("use_dora", json!(lora.use_dora));
        self.set("init_lora_weights", json!(start));
        self.set("loftq_config", if redo { json!(lora.loftq_config) } else { json!({}) });
        self.set("modules_to_save", json!(lora.modules_to_save));
        self.set("fan_in_fan_out", json!(false));
        self.entries.retain(|(key, _)| key != loftq::KEY);
        if let Some(base) = self.loftq.as_ref().map(loftq::to_entry) {
            self.set(loftq::KEY, base);
        }
        self
    }

    fn set(&mut self, key: &str, value: Value) {
        self.put(key, Entry::Plain(value));
    }

    fn put(&mut self, key: &str, value: Entry) {
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key.to_owned(), value)),
        }
    }

    /// Reads the configuration of an adapter directory.
    ///
    /// # Errors
    /// It is missing or damaged, has a key twice, a value that cannot work, or an option that is not supported.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        if let Some(message) = what_is_there(dir) {
            return Err(ModelError::file(dir, message).into());
        }
        let text = read_text(&path, LIMIT)?;
        Self::parse(&text).map_err(|message| ModelError::file(path, message).into())
    }

    /// Reads the text of an `adapter_config.json`.
    ///
    /// # Errors
    /// As [`PeftConfig::read`], as a message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Entries(entries) = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let fields = Fields(&entries);
        match fields.get::<Option<String>>("peft_type")?.flatten() {
            Some(kind) if kind != "LORA" => return Err(format!("peft_type is `{kind}`; only LORA is supported")),
            _ => {}
        }
        for (key, _) in PEFT_OPTIONS_WITHOUT_SUPPORT.into_iter().filter(|(_, has_effect)| *has_effect) {
            if let Some(value) = fields.plain(key).filter(|value| !is_neutral(value)) {
                return Err(format!("{key} is {value}, an option of PEFT that tracknet does not have"));
            }
        }
        let mut lora = fields.lora()?;
        let loftq = fields.plain(loftq::KEY).map(loftq::from_entry).transpose()?;
        if let Some(base) = &loftq {
            lora.init_lora_weights = InitMethod::Loftq;
            lora.loftq_config.loftq_iter = base.iterations;
        }
        if let Some((key, message)) = lora.problems().into_iter().next() {
            return Err(format!("{key} {message}"));
        }
        let base_model = fields.get::<Option<String>>("base_model_name_or_path")?.flatten();
        Ok(Self { lora, base_model, carried: BTreeMap::new(), loftq, entries })
    }

    /// Keys of the file that mean nothing to this version; they are kept.
    pub fn unknown_keys(&self) -> Vec<&str> {
        let known = Self::of_training(&LoraConfig::default(), Vec::new());
        let is_known = |key: &str| {
            known.entries.iter().any(|(k, _)| k == key)
                || INFORMATION.contains(&key)
                || PEFT_OPTIONS_WITHOUT_SUPPORT.iter().any(|(option, _)| *option == key)
        };
        self.entries.iter().map(|(key, _)| key.as_str()).filter(|key| !is_known(key)).collect()
    }

    /// Whether PEFT wrote the file, or an adapter of PEFT was trained on.
    pub(crate) fn is_of_peft(&self) -> bool {
        self.entries.iter().any(|(key, _)| key == "auto_mapping" || key == "peft_version")
    }

    /// Whether anything is adapted that belongs into the directory: adapters of a decoder do not.
    pub fn has_targets(&self) -> bool {
        self.lora.target_modules.as_ref().is_none_or(names_something)
    }

    /// Paths of the tensors that are kept to be written again.
    pub(crate) fn carried_paths(&self) -> impl Iterator<Item = &str> {
        self.carried.keys().map(|name| name.strip_prefix(PREFIX).unwrap_or(name))
    }

    /// Whether the parameter at `path` is saved with the adapter, as part of a module of `modules_to_save`.
    pub(crate) fn saves(&self, path: &str, paths: ModulePaths) -> bool {
        let module = path.rsplit_once('.').map_or("", |(module, _)| module);
        let spellings = paths.spellings(module);
        self.lora.modules_to_save.iter().flatten().any(|entry| spellings.iter().any(|p| is_saved(p, entry)))
    }

    /// The text of the file.
    ///
    /// # Errors
    /// None that an adapter's configuration can cause.
    pub fn to_json(&self) -> Result<String, String> {
        let mut bytes = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Python(PrettyFormatter::new()));
        self.serialize(&mut serializer).map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|e| e.to_string())
    }

    /// Writes the file into a directory.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(CONFIG_FILE);
        let text = self.to_json().map_err(|message| ModelError::file(&path, message))?;
        Ok(write_atomic(&path, |w| w.write_all(text.as_bytes()))?)
    }
}

impl Serialize for PeftConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sorted: Vec<_> = self.entries.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut map = serializer.serialize_map(Some(sorted.len()))?;
        for (key, entry) in sorted {
            match entry {
                Entry::Plain(value) => map.serialize_entry(key, value)?,
                Entry::Ordered(pattern) => map.serialize_entry(key, pattern)?,
            }
        }
        map.end()
    }
}

/// `null`, `false`, and nothing in it.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

/// The decimal digits of an `f32`, which as an `f64` would have many more.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// Looks values up by key.
struct Fields<'a>(&'a [(String, Entry)]);

impl Fields<'_> {
    fn plain(&self, key: &str) -> Option<&Value> {
        match self.0.iter().find(|(k, _)| k == key) {
            Some((_, Entry::Plain(value))) => Some(value),
            _ => None,
        }
    }

    /// `None` when the key is absent.
    fn get<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<Option<T>, String> {
        let read = |value: &Value| T::deserialize(value).map_err(|e| format!("{key} is {value}: {e}"));
        self.plain(key).map(read).transpose()
    }

    fn required<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<T, String> {
        self.get(key)?.ok_or_else(|| format!("{key} is missing"))
    }

    fn pattern<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<Pattern<T>, String> {
        let Some((_, Entry::Ordered(pattern))) = self.0.iter().find(|(k, _)| k == key) else {
            return Ok(Pattern::default());
        };
        let read = |(name, value): &(String, Value)| {
            let value = T::deserialize(value).map_err(|e| format!("{key} gives `{name}` {value}: {e}"))?;
            Ok((name.clone(), value))
        };
        pattern.0.iter().map(read).collect::<Result<_, String>>().map(Pattern)
    }

    /// A single value or a list of them.
    fn list<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<Option<Vec<T>>, String> {
        match self.plain(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(_)) => self.get(key),
            Some(_) => self.required(key).map(|value| Some(vec![value])),
        }
    }

    fn lora(&self) -> Result<LoraConfig, String> {
        let neutral = LoraConfig::default();
        Ok(LoraConfig {
            enabled: true,
            adapter: None,
            r: self.required("r")?,
            lora_alpha: self.required("lora_alpha")?,
            lora_dropout: self.get("lora_dropout")?.unwrap_or(0.0),
            target_modules: self.get("target_modules")?.flatten(),
            exclude_modules: self.get::<Option<TargetModules>>("exclude_modules")?.flatten().filter(names_something),
            layers_to_transform: self.list("layers_to_transform")?,
            layers_pattern: self.list("layers_pattern")?,
            rank_pattern: self.pattern("rank_pattern")?,
            alpha_pattern: self.pattern("alpha_pattern")?,
            bias: self.get("bias")?.unwrap_or(neutral.bias),
            use_rslora: self.get("use_rslora")?.unwrap_or(false),
            use_dora: self.get("use_dora")?.unwrap_or(false),
            init_lora_weights: self.start()?,
            loftq_config: self.get::<Option<_>>("loftq_config")?.flatten().unwrap_or_default(),
            modules_to_save: self.get("modules_to_save")?.flatten(),
            task_type: self.get("task_type")?.flatten(),
        })
    }

    /// How the adapter started. It matters where the base was changed, too.
    fn start(&self) -> Result<InitMethod, String> {
        let key = "init_lora_weights";
        match self.plain(key) {
            None | Some(Value::Null) => Ok(InitMethod::Kaiming),
            Some(Value::String(name)) => match (name.as_str(), base_is_lost(name)) {
                // First values from data or of minor components; the base stays as it is.
                ("eva" | "mica", _) => Ok(InitMethod::Kaiming),
                (_, Some(reason)) => Err(format!(
                    "{key} is {name}: its base cannot be computed again, because {reason}; save the adapter with PEFT's \
                     path_initial_model_for_weight_conversion"
                )),
                _ => self.required(key),
            },
            Some(_) => self.required(key),
        }
    }
}

/// Why no file tells the base of an adapter with this start.
fn base_is_lost(start: &str) -> Option<&'static str> {
    match start {
        "corda" => Some("it depends on the data that the start was computed from"),
        "lora_ga" => Some("it depends on the gradients that the start was computed from"),
        _ => start.starts_with("pissa_niter_").then_some("that start is random"),
    }
}

fn names_something(targets: &TargetModules) -> bool {
    match targets {
        TargetModules::Pattern(text) => !text.is_empty(),
        TargetModules::List(list) => !list.is_empty(),
    }
}

/// The entries of a file in their order; a key that is there twice is an error.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the object of an adapter_config.json")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries: Vec<(String, Entry)> = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if entries.iter().any(|(known, _)| *known == key) {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(format!("the key `{key}` is given twice")));
                    }
                    let entry = match key.as_str() {
                        "rank_pattern" | "alpha_pattern" => Entry::Ordered(map.next_value()?),
                        _ => Entry::Plain(map.next_value()?),
                    };
                    entries.push((key, entry));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// JSON as Python writes it: an indent of two, ASCII only, floats with a two-digit exponent.
struct Python(PrettyFormatter<'static>);

impl Formatter for Python {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for c in fragment.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                writer.write_all(&[c as u8])?;
            } else {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "{\n  \"alpha_pattern\": {\n    \"z\": 5,\n    \"a\": 2.5\n  },\n  \"bias\": \"none\",\n  \
                        \"extra\": {\n    \"name\": \"caf\\u00e9 \\ud83c\\udfbe\",\n    \"tiny\": 1e-05\n  },\n  \
                        \"lora_alpha\": 8,\n  \"lora_dropout\": 0.05,\n  \"peft_type\": \"LORA\",\n  \"r\": 4,\n  \
                        \"rank_pattern\": {},\n  \"target_modules\": [\n    \"q\",\n    \"b\"\n  ]\n}";

    #[test]
    fn a_file_comes_back_byte_for_byte_with_keys_that_nobody_knows() {
        let config = PeftConfig::parse(FILE).unwrap();
        assert_eq!(config.to_json().unwrap(), FILE);
        assert_eq!(config.unknown_keys(), ["extra"]);
        assert_eq!(config.lora.alpha_pattern.0, [("z".to_owned(), 5.0), ("a".to_owned(), 2.5)]);
    }

    #[test]
    fn what_is_written_after_training_is_read_back_as_the_same_settings() {
        let config = LoraConfig {
            enabled: true,
            r: 6,
            lora_alpha: 7.5,
            lora_dropout: 0.1,
            rank_pattern: Pattern(vec![("q".to_owned(), 2)]),
            alpha_pattern: Pattern(vec![("k".to_owned(), 0.25)]),
            use_dora: true,
            init_lora_weights: InitMethod::Pissa,
            modules_to_save: Some(vec!["norm".to_owned()]),
            ..LoraConfig::default()
        };
        let written = PeftConfig::of_training(&config, vec!["layer.0.q".to_owned()]).with_base(Some("base"));
        let text = written.to_json().unwrap();
        assert!(text.contains("\"lora_dropout\": 0.1,") && text.contains("\"lora_alpha\": 7.5,"), "{text}");
        let read = PeftConfig::parse(&text).unwrap();
        assert_eq!((&read.lora, read.base_model.as_deref()), (&written.lora, Some("base")));
        assert_eq!(read.to_json().unwrap(), text);
    }

    #[test]
    fn options_that_say_how_an_adapter_came_about_change_nothing_and_are_kept() {
        for option in [
            r#""corda_config": {"corda_method": "ipm"}"#,
            r#""eva_config": {"rho": 2.0}, "init_lora_weights": "eva""#,
            r#""lora_ga_config": {"direction": "ArB2r"}"#,
            r#""init_lora_weights": "mica""#,
            r#""use_qalora": true"#,
            r#""fan_in_fan_out": true"#,
            r#""ensure_weight_tying": true"#,
            r#""runtime_config": {"ephemeral_gpu_offload": false}"#,
        ] {
            let config = PeftConfig::parse(&format!(r#"{{"r": 4, "lora_alpha": 8, {option}}}"#)).unwrap();
            assert_eq!(config.lora.init_lora_weights, InitMethod::Kaiming, "{option}");
            assert!(config.unknown_keys().is_empty(), "{option}");
            let key = option.split('"').nth(1).unwrap();
            assert!(config.to_json().unwrap().contains(key), "{option}");
        }
    }

    #[test]
    fn damaged_and_unsupported_files_are_refused_with_the_key() {
        let cases = [
            (r#"{"r": 4"#, "EOF"),
            ("[]", "expected the object"),
            (r#"{"lora_alpha": 8}"#, "r is missing"),
            (r#"{"r": "4", "lora_alpha": 8}"#, "r is \"4\""),
            (r#"{"r": -4, "lora_alpha": 8}"#, "r is -4"),
            (r#"{"r": 0, "lora_alpha": 8}"#, "r is 0"),
            (r#"{"r": 4, "lora_alpha": 0}"#, "lora_alpha is 0"),
            (r#"{"r": 99999999999, "lora_alpha": 8}"#, "r is 99999999999, expected a whole number from 1 to 65536"),
            (r#"{"r": 4, "lora_alpha": 8, "rank_pattern": {"a": 1e9}}"#, "rank_pattern gives `a`"),
            (r#"{"r": 4, "lora_alpha": 8, "r": 5}"#, "`r` is given twice"),
            (r#"{"r": 4, "lora_alpha": 8, "rank_pattern": {"a": 1, "a": 2}}"#, "`a` is given twice"),
            (r#"{"r": 4, "lora_alpha": NaN}"#, "expected"),
            (r#"{"r": 4, "lora_alpha": 1e400}"#, "number out of range"),
            (r#"{"r": 4, "lora_alpha": 8, "lora_dropout": 2}"#, "lora_dropout is 2"),
            (
                r#"{"r": 4, "lora_alpha": 8, "bias": "some"}"#,
                "bias is \"some\": `some` is not known; known are none, all, lora_only",
            ),
            (r#"{"r": 4, "lora_alpha": 8, "peft_type": "IA3"}"#, "peft_type is `IA3`"),
            (r#"{"r": 4, "lora_alpha": 8, "lora_bias": true}"#, "lora_bias is true"),
            (r#"{"r": 4, "lora_alpha": 8, "layer_replication": [[0, 4]]}"#, "layer_replication"),
            (r#"{"r": 4, "lora_alpha": 8, "use_bdlora": true}"#, "use_bdlora"),
            (r#"{"r": 4, "lora_alpha": 8, "tracknet_loftq": {"turns": 1}}"#, "missing field"),
            (r#"{"r": 4, "lora_alpha": 8, "target_modules": "("}"#, "target_modules `(`"),
            (r#"{"r": 4, "lora_alpha": 8, "init_lora_weights": "corda"}"#, "depends on the data"),
            (r#"{"r": 4, "lora_alpha": 8, "init_lora_weights": "lora_ga"}"#, "depends on the gradients"),
            (r#"{"r": 4, "lora_alpha": 8, "init_lora_weights": "of_tomorrow"}"#, "`of_tomorrow` is not known"),
            (r#"{"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa_niter_4"}"#, "pissa_niter_4"),
        ];
        for (text, part) in cases {
            let message = PeftConfig::parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
