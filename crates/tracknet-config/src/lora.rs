//! The `model.lora` section: adapters, with the names, defaults of values and rules of Hugging Face PEFT.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::path_pattern::PathPattern;

/// LoRA adapters (`model.lora`). Semantics and names are those of Hugging Face PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Whether adapters are added.
    pub enabled: bool,
    /// An adapter directory to start from; its `adapter_config.json` then decides everything below.
    pub adapter: Option<PathBuf>,
    /// Rank of the two thin matrices.
    pub r: usize,
    /// Scale numerator: the update is multiplied by `lora_alpha / r`.
    pub lora_alpha: f32,
    /// Dropout on the adapter's input, in training only.
    pub lora_dropout: f32,
    /// Which modules are adapted; `null` = every attention projection and MLP linear.
    pub target_modules: Option<TargetModules>,
    /// Which modules are not adapted although they are targeted.
    pub exclude_modules: Option<TargetModules>,
    /// Layers whose modules are adapted, when targets are names; `null` = all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names of the lists of layers that `layers_to_transform` counts in; `null` = any.
    pub layers_pattern: Option<Vec<String>>,
    /// Other ranks by module.
    pub rank_pattern: Pattern<usize>,
    /// Other scale numerators by module.
    pub alpha_pattern: Pattern<f32>,
    /// Which biases train: `none`, `all` or `lora_only`.
    pub bias: String,
    /// Divide by `sqrt(r)` instead of `r`.
    pub use_rslora: bool,
    /// Learn the length of each row of the adapted weight by itself (DoRA).
    pub use_dora: bool,
    /// First values of the matrices.
    pub init_lora_weights: InitMethod,
    /// How `init_lora_weights: loftq` works.
    pub loftq_config: LoftqConfig,
    /// Modules of the backbone that train as a whole and are saved with the adapter.
    pub modules_to_save: Option<Vec<String>>,
    /// Accepted and recorded, as PEFT does.
    pub task_type: Option<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            adapter: None,
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.05,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Pattern::default(),
            alpha_pattern: Pattern::default(),
            bias: "none".to_owned(),
            use_rslora: false,
            use_dora: false,
            init_lora_weights: InitMethod::Kaiming,
            loftq_config: LoftqConfig::default(),
            modules_to_save: None,
            task_type: None,
        }
    }
}

impl LoraConfig {
    /// What cannot work, as the key below `lora` and a message that follows it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.r == 0 {
            found.push(("r", "is 0, expected a positive rank".to_owned()));
        }
        if !(self.lora_alpha.is_finite() && self.lora_alpha > 0.0) {
            found.push(("lora_alpha", format!("is {}, expected a positive number", self.lora_alpha)));
        }
        if !(0.0..=1.0).contains(&self.lora_dropout) {
            found.push(("lora_dropout", format!("is {}, expected 0 ≤ lora_dropout ≤ 1", self.lora_dropout)));
        }
        if !["none", "all", "lora_only"].contains(&self.bias.as_str()) {
            found.push(("bias", format!("is `{}`, expected none, all or lora_only", self.bias)));
        }
        if let Some((key, rank)) = self.rank_pattern.0.iter().find(|(_, rank)| *rank == 0) {
            found.push(("rank_pattern", format!("gives `{key}` the rank {rank}, expected a positive rank")));
        }
        if let Some((key, alpha)) = self.alpha_pattern.0.iter().find(|(_, a)| !(a.is_finite() && *a > 0.0)) {
            found.push(("alpha_pattern", format!("gives `{key}` {alpha}, expected a positive number")));
        }
        self.layer_problems(&mut found);
        self.regex_problems(&mut found);
        let ranks = std::iter::once(self.r).chain(self.rank_pattern.0.iter().map(|(_, rank)| *rank));
        if let (InitMethod::Orthogonal, Some(odd)) = (self.init_lora_weights, ranks.into_iter().find(|r| r % 2 != 0)) {
            found.push(("init_lora_weights", format!("is orthogonal, which needs an even rank; found {odd}")));
        }
        if self.loftq_config.loftq_bits != 4 {
            let bits = self.loftq_config.loftq_bits;
            found.push(("loftq_config.loftq_bits", format!("is {bits}; only 4 bits are supported")));
        }
        if self.loftq_config.loftq_iter == 0 {
            found.push(("loftq_config.loftq_iter", "is 0, expected at least 1".to_owned()));
        }
        found
    }

    fn layer_problems(&self, found: &mut Vec<(&'static str, String)>) {
        let counted = self.layers_to_transform.as_ref().is_some_and(|layers| !layers.is_empty());
        match &self.target_modules {
            Some(TargetModules::Pattern(pattern)) if counted => {
                let message =
                    format!("needs a list in target_modules; with the text `{pattern}`, put the layers into the regex");
                found.push(("layers_to_transform", message));
            }
            _ => {}
        }
        if self.layers_pattern.as_ref().is_some_and(|p| !p.is_empty()) && !counted {
            found.push(("layers_pattern", "has no effect without layers_to_transform; set both".to_owned()));
        }
    }

    fn regex_problems(&self, found: &mut Vec<(&'static str, String)>) {
        let mut check = |name: &'static str, text: &str| {
            if let Err(error) = PathPattern::whole(text) {
                found.push((name, error.to_string()));
            }
        };
        if let Some(TargetModules::Pattern(text)) = &self.target_modules {
            check("target_modules", text);
        }
        if let Some(TargetModules::Pattern(text)) = &self.exclude_modules {
            check("exclude_modules", text);
        }
        self.layers_pattern.iter().flatten().for_each(|text| check("layers_pattern", text));
        self.rank_pattern.0.iter().for_each(|(text, _)| check("rank_pattern", text));
        self.alpha_pattern.0.iter().for_each(|(text, _)| check("alpha_pattern", text));
    }
}

/// Options of PEFT's `LoraConfig` that say how an adapter came about, or that mean nothing for the layers of a vision
/// transformer: whatever their value, a trained adapter computes the same.
///
/// `fan_in_fan_out` is for another class of layer, and PEFT takes it back on a linear one; `use_qalora` acts on layers
/// of GPTQ, `ensure_weight_tying` on tied embeddings.
pub const PEFT_OPTIONS_WITHOUT_EFFECT: [&str; 7] = [
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "lora_ga_config",
    "runtime_config",
    "use_qalora",
];

/// Options of PEFT's `LoraConfig` that tracknet does not have. Their neutral values are accepted and kept; any other
/// value is refused by name, because an adapter that needs it would compute something else without it.
pub const PEFT_OPTIONS_WITHOUT_SUPPORT: [&str; 18] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "runtime_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// `target_modules`: a list of names or path suffixes, or one regex over the whole path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// A regex that must match the full module path.
    Pattern(String),
    /// Whole paths or `.suffix`es of them.
    List(Vec<String>),
}

/// First values of an adapter (`init_lora_weights`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InitMethod {
    /// `true`: `A` Kaiming uniform (a = √5), `B` zero.
    #[default]
    Kaiming,
    /// `false`: both Kaiming uniform; for tests, the model starts changed.
    Random,
    /// `gaussian`: `A` normal with deviation `1 / r`, `B` zero.
    Gaussian,
    /// `orthogonal`: neither is zero, `B·A` is.
    Orthogonal,
    /// `olora`: from the QR decomposition of the weight.
    Olora,
    /// `pissa`: the principal components of the weight.
    Pissa,
    /// `loftq`: what 4-bit storage lost.
    Loftq,
}

impl InitMethod {
    const NAMES: [(Self, &'static str); 7] = [
        (Self::Kaiming, "true"),
        (Self::Random, "false"),
        (Self::Gaussian, "gaussian"),
        (Self::Orthogonal, "orthogonal"),
        (Self::Olora, "olora"),
        (Self::Pissa, "pissa"),
        (Self::Loftq, "loftq"),
    ];

    /// The spelling in files.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(method, _)| *method == self).map_or("", |(_, name)| name)
    }

    /// Whether the first values are computed from the float weight.
    pub fn reads_weights(self) -> bool {
        matches!(self, Self::Olora | Self::Pissa | Self::Loftq)
    }
}

impl fmt::Display for InitMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for InitMethod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Kaiming => serializer.serialize_bool(true),
            Self::Random => serializer.serialize_bool(false),
            other => serializer.serialize_str(other.name()),
        }
    }
}

impl<'de> Deserialize<'de> for InitMethod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Flag(bool),
            Name(String),
        }
        let name = match Raw::deserialize(deserializer)? {
            Raw::Flag(on) => on.to_string(),
            Raw::Name(name) => name.to_lowercase(),
        };
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(method, _)| *method).ok_or_else(|| {
            let known: Vec<&str> = Self::NAMES.iter().map(|(_, name)| *name).collect();
            D::Error::custom(format!("`{name}` is not known; known are {}", known.join(", ")))
        })
    }
}

/// `loftq_config`, as PEFT has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoftqConfig {
    /// Bits of the base; only 4.
    pub loftq_bits: usize,
    /// Alternations of quantization and decomposition.
    pub loftq_iter: usize,
}

impl Default for LoftqConfig {
    fn default() -> Self {
        Self { loftq_bits: 4, loftq_iter: 1 }
    }
}

/// Values by module: the first key, in the order of the file, that is a module's path or the end of it from a `.` on,
/// read as a regular expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern<T>(pub Vec<(String, T)>);

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Pattern<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pattern<T> {
    /// A mapping, or a list of pairs: values that passed through a sorted map have lost the order that counts here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Vec<(String, T)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from patterns to values")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Self::Value = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if entries.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format!("the key `{key}` is given twice")));
                    }
                    entries.push((key, value));
                }
                Ok(entries)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(pair) = list.next_element()? {
                    entries.push(pair);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_any(Entries(std::marker::PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known_keys;

    #[test]
    fn a_pattern_keeps_the_order_of_the_file_and_refuses_a_key_twice() {
        let text = r#"{"z":1,"a":2,"m":3}"#;
        let pattern: Pattern<usize> = serde_json::from_str(text).unwrap();
        assert_eq!(pattern.0.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), ["z", "a", "m"]);
        assert_eq!(serde_json::to_string(&pattern).unwrap(), text);
        let pairs: Pattern<usize> = serde_json::from_str(r#"[["z",1],["a",2],["m",3]]"#).unwrap();
        assert_eq!(pairs, pattern);
        let message = serde_json::from_str::<Pattern<usize>>(r#"{"a":1,"a":2}"#).unwrap_err().to_string();
        assert!(message.contains("`a` is given twice"), "{message}");
    }

    #[test]
    fn every_first_value_is_read_as_it_is_written() {
        for (method, _) in InitMethod::NAMES {
            let text = serde_json::to_string(&method).unwrap();
            assert_eq!(serde_json::from_str::<InitMethod>(&text).unwrap(), method, "{text}");
        }
        assert_eq!(serde_json::to_string(&InitMethod::Kaiming).unwrap(), "true");
        assert!(serde_json::from_str::<InitMethod>("\"eva\"").unwrap_err().to_string().contains("`eva` is not known"));
    }

    #[test]
    fn every_option_of_peft_that_is_missing_here_is_a_key_that_is_refused_by_name() {
        for name in PEFT_OPTIONS_WITHOUT_SUPPORT {
            let path = format!("model.lora.{name}");
            assert!(known_keys().iter().any(|k| k.path == path), "{path}");
        }
    }
}
