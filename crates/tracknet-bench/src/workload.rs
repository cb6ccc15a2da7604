//! The workloads and their names.

use std::fmt;

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Optimizer steps: forward, backward, AdamW.
    Train {
        /// What trains.
        mode: Mode,
        /// The backbone.
        size: Size,
        /// Frames in a step.
        batch: usize,
    },
    /// Forward passes.
    Infer {
        /// How the backbone's linear layers are stored.
        weights: Weights,
        /// The backbone.
        size: Size,
        /// Frames in a pass.
        batch: usize,
    },
    /// 32-bit floats to NF4 with double quantization.
    Quantize,
    /// From a model directory to the first heatmap, in a fresh process.
    Load {
        /// What is in the directory, and what becomes of it.
        origin: Origin,
        /// The backbone.
        size: Size,
    },
    /// 1280×720 JPEG files to normalized input, on one core.
    Data,
}

/// What trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every weight.
    Full,
    /// Adapters on a float backbone, decoder and head.
    Lora,
    /// The same on a backbone in NF4 with double quantization.
    Qlora,
}

/// How the backbone's linear layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// 32-bit floats.
    Float,
    /// NF4 with double quantization, computed in bfloat16.
    Nf4,
}

/// Where a loaded model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A float32 directory, used as it is.
    Float,
    /// A float32 directory, quantized while it is read.
    Nf4,
    /// A directory in 4 bits.
    Packed,
}

/// A backbone: DINOv3 with patches of 16 pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// ViT-S: 384 features, 12 blocks, 6 heads, MLP 1536.
    S,
    /// ViT-B: 768 features, 12 blocks, 12 heads, MLP 3072.
    B,
}

impl Workload {
    /// Every workload in the order of the table; `batch` replaces the usual numbers of frames.
    pub fn all(batch: Option<usize>) -> Vec<Self> {
        let mut all = Vec::new();
        for size in [Size::S, Size::B] {
            let usual = if size == Size::S { 4 } else { 2 };
            let train = |mode| Self::Train { mode, size, batch: batch.unwrap_or(usual) };
            all.extend([Mode::Full, Mode::Lora, Mode::Qlora].map(train));
        }
        for size in [Size::S, Size::B] {
            for weights in [Weights::Float, Weights::Nf4] {
                let infer = |batch| Self::Infer { weights, size, batch };
                all.extend(batch.map_or(vec![1, 4], |batch| vec![batch]).into_iter().map(infer));
            }
        }
        all.push(Self::Quantize);
        for size in [Size::S, Size::B] {
            all.extend([Origin::Float, Origin::Nf4, Origin::Packed].map(|origin| Self::Load { origin, size }));
        }
        all.push(Self::Data);
        all
    }

    /// Those of `all` whose name contains one of `patterns`; all without patterns.
    ///
    /// # Errors
    /// The first pattern that no name contains.
    pub fn select(all: Vec<Self>, patterns: &[String]) -> Result<Vec<Self>, String> {
        let names: Vec<String> = all.iter().map(Self::to_string).collect();
        if let Some(unknown) = patterns.iter().find(|pattern| !names.iter().any(|name| name.contains(*pattern))) {
            return Err(format!("no workload is called `{unknown}`; there are {}", names.join(", ")));
        }
        let chosen = |name: &String| patterns.is_empty() || patterns.iter().any(|pattern| name.contains(pattern));
        Ok(all.into_iter().zip(names).filter(|(_, name)| chosen(name)).map(|(workload, _)| workload).collect())
    }

    /// Whether each repetition takes a process of its own.
    pub fn is_cold(&self) -> bool {
        matches!(self, Self::Load { .. })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Train { mode, size, batch } => {
                let mode = match mode {
                    Mode::Full => "full",
                    Mode::Lora => "lora",
                    Mode::Qlora => "qlora",
                };
                write!(f, "train/{mode}/{size:?}/b{batch}")
            }
            Self::Infer { weights, size, batch } => {
                let weights = if *weights == Weights::Float { "float" } else { "nf4" };
                write!(f, "infer/{weights}/{size:?}/b{batch}")
            }
            Self::Quantize => f.write_str("quantize"),
            Self::Load { origin, size } => {
                let origin = match origin {
                    Origin::Float => "float",
                    Origin::Nf4 => "nf4",
                    Origin::Packed => "packed",
                };
                write!(f, "load/{origin}/{size:?}")
            }
            Self::Data => f.write_str("data"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(patterns: &[&str]) -> Result<Vec<String>, String> {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        Ok(Workload::select(Workload::all(None), &patterns)?.iter().map(Workload::to_string).collect())
    }

    #[test]
    fn a_pattern_selects_the_names_that_contain_it_in_the_order_of_the_table() {
        assert_eq!(selected(&["train/qlora/S"]).unwrap(), ["train/qlora/S/b4"]);
        let expected = ["train/qlora/S/b4", "infer/nf4/S/b1", "infer/nf4/S/b4"];
        assert_eq!(selected(&["infer/nf4/S", "train/qlora/S"]).unwrap(), expected);
        assert_eq!(selected(&[]).unwrap().len(), Workload::all(None).len());
    }

    #[test]
    fn a_pattern_that_nothing_contains_is_named_with_what_there_is() {
        let message = selected(&["train", "tain"]).unwrap_err();
        assert!(message.contains("`tain`") && message.contains("train/full/S/b4"), "{message}");
    }

    #[test]
    fn names_are_unique_and_another_batch_is_in_them() {
        let mut names: Vec<String> = Workload::all(Some(3)).iter().map(Workload::to_string).collect();
        assert!(names.contains(&"infer/float/B/b3".to_owned()) && names.contains(&"train/full/S/b3".to_owned()));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
