//! The `model.quantization` section, and the words for dtypes and 4-bit codes that files and flags share with it.

use serde::{Deserialize, Serialize};
use tracknet_config_derive::{Section, Words};

/// 4-bit storage (`model.quantization`). Semantics and names are those of bitsandbytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizationConfig {
    /// Store the backbone's linear layers in 4 bits.
    pub enabled: bool,
    /// Codebook: NormalFloat or 4-bit float.
    #[config(default = QuantTypeName::Nf4)]
    pub quant_type: QuantTypeName,
    /// What dequantized weights are rounded to, and with bfloat16 the activations that they multiply.
    #[config(default = DtypeName::Bfloat16)]
    pub compute_dtype: DtypeName,
    /// What stays float: parts of module paths in mode `manual`, in mode `hf` what `transformers` matches (a pattern from
    /// the start of the path, or the end of it as text).
    pub skip_modules: Option<Vec<String>>,
    /// How `skip_modules` is read. Each weight is packed while it is read; in mode `manual` after, when adapters start
    /// from the float weights or from a directory.
    #[config(default = QuantMode::Manual)]
    pub mode: QuantMode,
    /// Double quantization: the scales are quantized to 8 bits too.
    #[config(default = true)]
    pub compress_statistics: bool,
    /// Double quantization in mode `hf`; null = what `compress_statistics` says.
    pub use_double_quant: Option<bool>,
    /// Weights that share a scale.
    #[config(default = 64, one_of = &[32, 64, 128, 256, 512, 1024, 2048, 4096])]
    pub blocksize: usize,
}

/// How `skip_modules` is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum QuantMode {
    /// An entry is a part of a module path.
    Manual,
    /// The matching of `transformers`.
    Hf,
}

/// A 4-bit codebook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum QuantTypeName {
    /// 4-bit NormalFloat.
    Nf4,
    /// 4-bit float.
    Fp4,
}

/// A dtype of weights and products, by PyTorch's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum DtypeName {
    /// 16 bits with the range of 32-bit floats.
    #[word(aliases = ["bf16", "torch.bfloat16"])]
    Bfloat16,
    /// IEEE half precision.
    #[word(aliases = ["fp16", "torch.float16"])]
    Float16,
    /// IEEE single precision.
    #[word(aliases = ["fp32", "torch.float32"])]
    Float32,
}
