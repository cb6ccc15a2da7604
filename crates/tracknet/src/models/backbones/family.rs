//! What a family of checkpoints calls the modules of a backbone: in files, in memory, and here.
//!
//! All of it is data: one row for each module ([`ModuleName`]). Parameters find their names through it, layers their short
//! names, adapters their spelling for PEFT.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;

use super::heads::is_head;

/// A family of checkpoints with one set of names.
///
/// A path without further words is that of the files, which is also what `transformers` 4 called the module in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `config.json: model_type`.
    pub model_type: &'static str,
    /// `config.json: architectures`.
    pub architecture: &'static str,
    /// What some releases put before every name.
    pub optional_prefix: Option<&'static str>,
    /// The modules; where several rows fit a path, the first one counts.
    pub modules: &'static [&'static [ModuleName]],
    /// Two linear layers that are one in files.
    pub stacked: Option<Stacked>,
    /// Parameters by which a file of the family is told, under whatever prefix; every file has one of them.
    pub anchors: [&'static str; 2],
    /// The keys of `config.json` that say how large a model is, for reports.
    pub sizes: &'static [&'static str],
    /// The class of `transformers` that prepares its frames, where no file names one.
    pub image_processor: &'static str,
    /// Tensors of the backbone that heatmaps do not need; a trailing `.` stands for everything below.
    pub unused: &'static [&'static str],
}

/// The names of one module. In each, `*` stands for an index; what is below a module keeps its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleName {
    /// The path of its field in the Rust module: `blocks.*.query`.
    pub field: &'static str,
    /// Its path in files: `encoder.layer.*.attention.attention.query`.
    pub file: &'static str,
    /// Its path in memory since `transformers` 5 (its `conversion_mapping.py`).
    pub memory: &'static str,
    /// The short name of a linear layer in lists of targets, which means the same in every family.
    pub role: Option<&'static str>,
}

impl ModuleName {
    /// A module that is called the same in files and in memory.
    pub const fn new(field: &'static str, file: &'static str) -> Self {
        Self { field, file, memory: file, role: None }
    }

    /// With another path in memory.
    #[must_use]
    pub const fn in_memory(self, memory: &'static str) -> Self {
        Self { memory, ..self }
    }

    /// With a short name.
    #[must_use]
    pub const fn role(self, role: &'static str) -> Self {
        Self { role: Some(role), ..self }
    }
}

/// Two layers of a block that are one in files, the first in the upper half of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stacked {
    /// The end of the path of both.
    pub whole: &'static str,
    /// The ends of the paths that the two have here.
    pub halves: [&'static str; 2],
}

impl Family {
    /// The name in files of the parameter or module at this path of Rust fields (`blocks.0.query.weight`).
    pub fn file_name(&self, fields: &str) -> String {
        self.respell(fields, |name| name.field, |name| name.file).unwrap_or_else(|| fields.to_owned())
    }

    /// The name in files of a parameter or module that has this one in files or in memory.
    pub fn from_memory(&self, name: &str) -> Option<String> {
        self.respell(name, |name| name.memory, |name| name.file)
    }

    /// The name in memory of a parameter or module.
    pub fn in_memory(&self, path: &str) -> Option<String> {
        self.respell(path, |name| name.file, |name| name.memory)
    }

    /// The short name of the linear layer at `path`.
    pub fn role(&self, path: &str) -> Option<&'static str> {
        let mut rows =
            self.rows().filter(|row| strip_pattern(path, row.file).is_some_and(|(_, below)| below.is_empty()));
        rows.next()?.role
    }

    /// A parameter that files of the family have, as an example of their names.
    pub fn example(&self) -> String {
        let linear = self.rows().find(|row| row.role.is_some());
        linear.map(|row| format!("{}.weight", row.file.replace('*', "0"))).unwrap_or_default()
    }

    /// Whether the tensor or module `name` of a file is beside the backbone: a head, or in a file where the backbone's names
    /// are `prefixed`, whatever has no prefix.
    pub fn is_beside(&self, name: &str, prefixed: bool) -> bool {
        let bare = self.optional_prefix.and_then(|prefix| name.strip_prefix(prefix));
        is_head(bare.unwrap_or(name)) || prefixed && bare.is_none()
    }

    /// Whether the names in a file begin with the optional prefix, told by that of the first anchor.
    pub fn is_prefixed(&self, mut exists: impl FnMut(&str) -> bool) -> bool {
        self.optional_prefix.is_some_and(|prefix| exists(&format!("{prefix}{}", self.anchors[0])))
    }

    /// Whether the backbone in Python has this tensor although heatmaps do not need it: it is written again with the rest.
    pub fn is_carried(&self, name: &str) -> bool {
        self.unused.iter().any(|u| if u.ends_with('.') { name.starts_with(u) } else { name == *u })
    }

    /// Whether the backbone has a linear layer after its last norm, which heatmaps do not need.
    pub fn has_pooler(&self) -> bool {
        self.is_carried("pooler.dense")
    }

    /// The two halves of what files have stacked, given the path of it or of something in it: where the checkpoint has
    /// `….mlp.weights_in.bias`, those of gate and up.
    pub fn halves(&self, path: &str) -> Option<[String; 2]> {
        let Stacked { whole, halves } = self.stacked?;
        let (head, tail) = split_at_part(path, whole)?;
        Some(halves.map(|half| format!("{head}{half}{tail}")))
    }

    /// What is stacked in files, given the path of one half, and whether that is the second one.
    pub fn stacked(&self, path: &str) -> Option<(String, bool)> {
        let Stacked { whole, halves: [first, second] } = self.stacked?;
        let find = |half| split_at_part(path, half).map(|(head, tail)| format!("{head}{whole}{tail}"));
        find(first).map(|name| (name, false)).or_else(|| find(second).map(|name| (name, true)))
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

    fn rows(&self) -> impl Iterator<Item = &'static ModuleName> {
        self.modules.iter().copied().flatten()
    }

    fn respell(
        &self,
        path: &str,
        from: impl Fn(&ModuleName) -> &'static str,
        to: impl Fn(&ModuleName) -> &'static str,
    ) -> Option<String> {
        self.rows().find_map(|row| {
            let (indices, below) = strip_pattern(path, from(row))?;
            Some(fill_pattern(to(row), &indices) + below)
        })
    }
}

/// The indices at the `*` of a pattern of components, and what of the path is below it, with its leading `.`; nothing when the
/// path does not begin with the pattern.
fn strip_pattern<'a>(path: &'a str, pattern: &str) -> Option<(Vec<&'a str>, &'a str)> {
    let is_index = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let mut below = path;
    let mut indices = Vec::new();
    for (i, expected) in pattern.split('.').enumerate() {
        let rest = if i == 0 { below } else { below.strip_prefix('.')? };
        let (part, rest) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
        match expected {
            "*" if is_index(part) => indices.push(part),
            _ if part == expected => {}
            _ => return None,
        }
        below = rest;
    }
    Some((indices, below))
}

/// A pattern with these indices at its `*`.
fn fill_pattern(pattern: &str, indices: &[&str]) -> String {
    let mut indices = indices.iter();
    let parts = pattern.split('.').map(|part| if part == "*" { indices.next().copied().unwrap_or("*") } else { part });
    parts.collect::<Vec<_>>().join(".")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Names with two indices, as those of a convolutional network have.
    static STAGES: Family = Family {
        model_type: "stages",
        architecture: "Stages",
        optional_prefix: None,
        modules: &[&[
            ModuleName::new("stages.*.blocks.*.up", "stages.*.layers.*.pointwise_conv1")
                .in_memory("model.stages.*.layers.*.pointwise_conv1")
                .role("dense"),
            ModuleName::new("stages.*.blocks.*", "stages.*.layers.*").in_memory("model.stages.*.layers.*"),
        ]],
        stacked: None,
        anchors: ["stages.0.layers.0.gamma", "norm.weight"],
        image_processor: "ConvNextImageProcessor",
        sizes: &[],
        unused: &[],
    };

    #[test]
    fn indices_keep_their_places_and_what_is_below_a_module_its_name() {
        let (file, memory) =
            ("stages.3.layers.10.pointwise_conv1.bias", "model.stages.3.layers.10.pointwise_conv1.bias");
        assert_eq!(STAGES.file_name("stages.3.blocks.10.up.bias"), file);
        assert_eq!(STAGES.file_name("stages.3.blocks.10.gamma"), "stages.3.layers.10.gamma");
        assert_eq!(STAGES.file_name("norm.weight"), "norm.weight");
        assert_eq!(STAGES.in_memory(file).as_deref(), Some(memory));
        assert_eq!(STAGES.from_memory(memory).as_deref(), Some(file));
        assert_eq!(STAGES.from_memory("model.stages.x.layers.1.gamma"), None);
        assert_eq!(STAGES.role("stages.3.layers.10.pointwise_conv1"), Some("dense"));
        assert_eq!(STAGES.role("stages.3.layers.10.depthwise_conv"), None);
        assert_eq!(STAGES.example(), "stages.0.layers.0.pointwise_conv1.weight");
    }
}
