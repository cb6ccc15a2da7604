//! What a family of checkpoints calls the parts of a vision transformer, in its files and in memory.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;

use crate::models::state::adapter_names;

/// Tensors of heads, which are no part of a backbone.
const HEAD: &str = "classifier.";

/// What a family of checkpoints calls the parts of a vision transformer.
///
/// A path here is that of the files, which is also what `transformers` 4 called the module in memory.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct VitNames {
    /// `config.json: model_type`.
    pub model_type: &'static str,
    /// `config.json: architectures`.
    pub architecture: &'static str,
    /// What some releases put before every name.
    pub optional_prefix: Option<&'static str>,
    pub patch: &'static str,
    pub norm: &'static str,
    pub norm1: &'static str,
    pub norm2: &'static str,
    /// The linear layers of the blocks.
    pub files: LinearNames,
    /// The one projection that gate and up are in files: gate in the upper half of its rows. `None` = they are two there.
    pub stacked: Option<&'static str>,
    /// The same layers in memory since `transformers` 5 (its `conversion_mapping.py`). Everything else is called as in files.
    pub memory: LinearNames,
    /// Tensors of the backbone that heatmaps do not need; a trailing `.` stands for everything below.
    pub unused: &'static [&'static str],
}

/// What the linear layers of a block are called; an empty name is that of a layer that the family does not have.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LinearNames {
    /// Where block `i` is: `<blocks>.<i>`.
    pub blocks: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub output: &'static str,
    pub up: &'static str,
    pub gate: &'static str,
    pub down: &'static str,
}

impl VitNames {
    /// What the checkpoint calls a parameter of [`super::Vit`], given its path in the Rust module.
    pub fn public(&self, path: &[&str]) -> String {
        match path {
            ["cls_token"] => "embeddings.cls_token".to_owned(),
            ["register_tokens"] => "embeddings.register_tokens".to_owned(),
            ["position"] => "embeddings.position_embeddings".to_owned(),
            ["patch", rest @ ..] => join(self.patch, &projection_names(rest)),
            ["norm", rest @ ..] => join(self.norm, rest),
            ["blocks", index, part, rest @ ..] => {
                format!("{}.{index}.{}", self.files.blocks, join(self.part(part), &projection_names(rest)))
            }
            other => other.join("."),
        }
    }

    fn part<'a>(&'a self, field: &'a str) -> &'a str {
        match field {
            "norm1" => self.norm1,
            "norm2" => self.norm2,
            "scale1" => "layer_scale1.lambda1",
            "scale2" => "layer_scale2.lambda1",
            "query" => self.files.query,
            "key" => self.files.key,
            "value" => self.files.value,
            "output" => self.files.output,
            "up" => self.files.up,
            "gate" => self.files.gate,
            "down" => self.files.down,
            other => other,
        }
    }

    /// Whether a checkpoint may hold this tensor without the model needing it.
    pub fn is_unused(&self, name: &str) -> bool {
        self.is_carried(name) || name.starts_with(HEAD)
    }

    /// Whether the backbone in Python has this tensor although heatmaps do not need it: it is written again with the rest.
    pub fn is_carried(&self, name: &str) -> bool {
        self.unused.iter().any(|u| if u.ends_with('.') { name.starts_with(u) } else { name == *u })
    }

    /// Whether the backbone has a linear layer after its last norm, which heatmaps do not need.
    pub fn has_pooler(&self) -> bool {
        self.is_carried("pooler.dense")
    }

    /// The two halves of a stacked projection, given the path of it or of something in it: where the checkpoint has
    /// `….mlp.weights_in.bias`, those of gate and up.
    pub fn halves(&self, path: &str) -> Option<[String; 2]> {
        let (head, tail) = split_at_part(path, self.stacked?)?;
        Some([self.files.gate, self.files.up].map(|half| format!("{head}{half}{tail}")))
    }

    /// What is stacked in files, given the path of one half, and whether that is the second one.
    pub fn stacked(&self, path: &str) -> Option<(String, bool)> {
        let stacked = self.stacked?;
        let whole = |half| split_at_part(path, half).map(|(head, tail)| format!("{head}{stacked}{tail}"));
        whole(self.files.gate).map(|name| (name, false)).or_else(|| whole(self.files.up).map(|name| (name, true)))
    }

    /// The tensors of a backbone as its files have them: halves that are both there become one.
    pub fn stack(&self, mut tensors: BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
        let wholes: BTreeSet<String> = tensors.keys().filter_map(|name| Some(self.stacked(name)?.0)).collect();
        for whole in wholes {
            let Some([gate, up]) = self.halves(&whole) else { continue };
            if let (Some(upper), Some(lower)) = (tensors.get(&gate), tensors.get(&up)) {
                let rows = join_rows(upper, lower);
                [gate, up].iter().for_each(|half| drop(tensors.remove(half)));
                tensors.insert(whole, rows);
            }
        }
        tensors
    }

    /// The other way: what files have stacked becomes two tensors of the backbone.
    pub fn unstack(&self, tensors: BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
        let split = |(name, data): (String, TensorData)| match (self.halves(&name), halve_rows(&data)) {
            (Some(names), Some(halves)) => names.into_iter().zip(halves).collect(),
            _ => vec![(name, data)],
        };
        tensors.into_iter().flat_map(split).collect()
    }
}

/// The upper and the lower half of the rows of a tensor; nothing when their number is odd.
pub(crate) fn halve_rows(data: &TensorData) -> Option<[TensorData; 2]> {
    let mut shape = data.shape().to_vec();
    let rows = shape.first_mut().filter(|rows| rows.is_multiple_of(2))?;
    *rows /= 2;
    let values = values(data);
    let (upper, lower) = values.split_at(values.len() / 2);
    Some([upper, lower].map(|half| TensorData::new(half.to_vec(), shape.clone())))
}

/// Two tensors of the same shape, one below the other.
fn join_rows(upper: &TensorData, lower: &TensorData) -> TensorData {
    let mut shape = upper.shape().to_vec();
    shape.iter_mut().take(1).for_each(|rows| *rows *= 2);
    TensorData::new([values(upper), values(lower)].concat(), shape)
}

fn values(data: &TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

/// What is before and after `part` in a path, where it is one or several whole components.
fn split_at_part<'a>(path: &'a str, part: &str) -> Option<(&'a str, &'a str)> {
    let start = path.find(part)?;
    let (head, tail) = (&path[..start], &path[start + part.len()..]);
    let whole = (head.is_empty() || head.ends_with('.')) && (tail.is_empty() || tail.starts_with('.'));
    whole.then_some((head, tail))
}

fn join(head: &str, rest: &[&str]) -> String {
    std::iter::once(head).chain(rest.iter().copied()).collect::<Vec<_>>().join(".")
}

/// A projection's own fields, named as PEFT and PyTorch name them.
fn projection_names<'a>(path: &[&'a str]) -> Vec<&'a str> {
    match path {
        ["base", _] => vec!["weight"],
        ["adapter", rest @ ..] => adapter_names(rest),
        other => other.to_vec(),
    }
}
