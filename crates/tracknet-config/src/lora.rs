//! The `model.lora` section: adapters, with the names, defaults of values and rules of Hugging Face PEFT.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracknet_config_derive::{Section, Words};

use super::key::{Key, Section as _};
use super::kind::{ABOVE_ZERO, PROBABILITY};
use super::path_pattern::PathPattern;
use super::patterns::{Pattern, TargetModules};

/// LoRA adapters (`model.lora`). Semantics and names are those of Hugging Face PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[config(fieldless = unsupported_options)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Add LoRA adapters to the backbone.
    pub enabled: bool,
    /// An adapter directory (PEFT's layout) to start from; its `adapter_config.json` then decides the keys below.
    pub adapter: Option<PathBuf>,
    /// Rank of the two thin matrices.
    #[config(default = 16, range = RANK)]
    pub r: usize,
    /// The update is multiplied by `lora_alpha / r`.
    #[config(default = 32.0, range = ABOVE_ZERO)]
    pub lora_alpha: f32,
    /// Dropout on the adapter's input, in training only.
    #[config(default = 0.05, range = PROBABILITY)]
    pub lora_dropout: f32,
    /// What is adapted: a list of names or path suffixes, one regex over the whole path, `all-linear`, or null = every
    /// attention projection and MLP linear.
    pub target_modules: Option<TargetModules>,
    /// What is not adapted although it is targeted, written as `target_modules`.
    pub exclude_modules: Option<TargetModules>,
    /// Layers that are adapted, counted from 0, when `target_modules` is a list of names.
    #[config(range = 0..=65_536, one_or_many)]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names of the lists of layers that `layers_to_transform` counts in (`layer`); null = any.
    #[config(one_or_many)]
    pub layers_pattern: Option<Vec<String>>,
    /// Other ranks by module: the first key that is its path or the end of it counts, as a regex.
    #[config(range = RANK, null_is_default)]
    pub rank_pattern: Pattern<usize>,
    /// Other `lora_alpha` by module.
    #[config(range = ABOVE_ZERO, null_is_default)]
    pub alpha_pattern: Pattern<f32>,
    /// Which biases of the backbone train: `none`, those of adapted modules (`lora_only`), or `all`.
    #[config(default = Bias::None)]
    pub bias: Bias,
    /// Scale by `lora_alpha / sqrt(r)`, so that large ranks learn as fast as small ones.
    pub use_rslora: bool,
    /// Learn the length of every row of an adapted weight by itself (DoRA).
    pub use_dora: bool,
    /// First values: `true` = the update starts at zero; `gaussian`, `orthogonal` likewise; `olora`, `pissa`, `loftq`
    /// start from the weight.
    #[config(default = InitMethod::Kaiming)]
    pub init_lora_weights: InitMethod,
    /// How `init_lora_weights: loftq` works.
    #[config(section)]
    pub loftq_config: LoftqConfig,
    /// Modules of the backbone (`norm`, `layer.11.norm2`) that train as a whole beside the adapters.
    pub modules_to_save: Option<Vec<String>>,
    /// Accepted and recorded in adapter files.
    pub task_type: Option<String>,
}

/// The largest rank; beyond are typing errors or worse, and nothing is allocated for them.
pub const MAX_RANK: usize = 65_536;
const RANK: RangeInclusive<u64> = 1..=MAX_RANK as u64;

fn unsupported_options() -> Vec<Key> {
    PEFT_OPTIONS_WITHOUT_SUPPORT.map(|(option, _)| Key::unavailable(option)).into()
}

impl LoraConfig {
    /// What cannot work, as the key below `lora` and a message that follows it; also for a section that was built in code
    /// or read from another file than a configuration.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = self.out_of_bounds();
        found.extend(self.conflicts().into_iter().map(|(key, message)| (key.to_owned(), message)));
        found
    }

    /// Values that are right alone and wrong together, and regular expressions that are none.
    pub(crate) fn conflicts(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        self.layer_problems(&mut found);
        self.regex_problems(&mut found);
        let mut ranks = std::iter::once(self.r).chain(self.rank_pattern.0.iter().map(|(_, rank)| *rank));
        if let (InitMethod::Orthogonal, Some(odd)) = (self.init_lora_weights, ranks.find(|rank| rank % 2 != 0)) {
            found.push(("init_lora_weights", format!("is orthogonal, which needs an even rank; found {odd}")));
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

/// Options of PEFT's `LoraConfig` that tracknet does not have, and whether they change what a trained adapter computes.
///
/// In a configuration only their neutral values are accepted. In an adapter's file others are refused by name if they have
/// an effect, because the adapter would compute something else without them. Those without one say how an adapter came
/// about, or mean nothing for the layers of a vision transformer: `fan_in_fan_out` is for another class of layer, and PEFT
/// takes it back on a linear one; `use_qalora` acts on layers of GPTQ, `ensure_weight_tying` on tied embeddings.
pub const PEFT_OPTIONS_WITHOUT_SUPPORT: [(&str, bool); 18] = [
    ("alora_invocation_tokens", true),
    ("arrow_config", true),
    ("corda_config", false),
    ("ensure_weight_tying", false),
    ("eva_config", false),
    ("fan_in_fan_out", false),
    ("kasa_config", true),
    ("layer_replication", true),
    ("lora_bias", true),
    ("lora_ga_config", false),
    ("megatron_config", true),
    ("monteclora_config", true),
    ("runtime_config", false),
    ("target_parameters", true),
    ("trainable_token_indices", true),
    ("use_bdlora", true),
    ("use_qalora", false),
    ("velora_config", true),
];

/// Which biases of the backbone train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum Bias {
    /// None.
    None,
    /// Every one.
    All,
    /// Those of the adapted modules.
    LoraOnly,
}

/// First values of an adapter (`init_lora_weights`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Words)]
pub enum InitMethod {
    /// `A` Kaiming uniform (a = √5), `B` zero.
    #[default]
    #[word(name = "true")]
    Kaiming,
    /// Both Kaiming uniform; for tests, the model starts changed.
    #[word(name = "false")]
    Random,
    /// `A` normal with deviation `1 / r`, `B` zero.
    Gaussian,
    /// Neither is zero, `B·A` is.
    Orthogonal,
    /// From the QR decomposition of the weight.
    Olora,
    /// The principal components of the weight.
    Pissa,
    /// What 4-bit storage lost.
    Loftq,
}

impl InitMethod {
    /// Whether the first values are computed from the float weight.
    pub fn reads_weights(self) -> bool {
        matches!(self, Self::Olora | Self::Pissa | Self::Loftq)
    }
}

/// `loftq_config`, as PEFT has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct LoftqConfig {
    /// Bits of the base under `init_lora_weights: loftq`.
    #[config(default = 4, one_of = &[4])]
    pub loftq_bits: usize,
    /// Alternations of quantization and decomposition under `init_lora_weights: loftq`.
    #[config(default = 1, range = 1..=100)]
    pub loftq_iter: usize,
}
