//! The table of modules: what each is stored as, and what that takes.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype;
use serde::Serialize;

use crate::artifacts::pretrained::Weights;
use crate::artifacts::pretrained::bnb::is_packed;
use crate::artifacts::pretrained::bnb::read::{read_state, side_tensor_of};
use crate::console::shown;
use crate::error::Result;
use crate::models::memory;

use super::compare::LayerError;

/// A module with weights of its own, or a parameter outside of any.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleRow {
    /// Its path, as the file has it.
    pub path: String,
    /// Shape of the weight. For an adapter, the shape of the weight that it changes.
    pub shape: Vec<usize>,
    /// Type of the weight, or code, block size and kind of scales.
    pub storage: String,
    /// Bits that a weight takes, its scales included, biases not.
    pub bits_per_weight: f64,
    /// Parameters, biases included; packed weights count as what they stand for.
    pub parameters: u64,
    /// Bytes of them, scales included; tables and JSON that are the same for every layer are not counted.
    pub bytes: u64,
    /// Whether the weight is in 4 bits.
    pub packed: bool,
    /// Rank of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Distance from a float source, when it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<LayerError>,
}

impl ModuleRow {
    fn new(path: String) -> Self {
        Self {
            path,
            shape: Vec::new(),
            storage: String::new(),
            bits_per_weight: 0.0,
            parameters: 0,
            bytes: 0,
            packed: false,
            rank: None,
            error: None,
        }
    }

    /// Adds a parameter to the module; the one with most dimensions is what the row shows.
    fn add(&mut self, shape: &[usize], storage: String, bytes: u64, packed: bool) {
        let count: u64 = shape.iter().map(|side| *side as u64).product();
        self.parameters += count;
        self.bytes += bytes;
        if self.storage.is_empty() || shape.len() > self.shape.len() {
            self.shape = shape.to_vec();
            self.storage = storage;
            self.packed = packed;
            self.bits_per_weight = if count == 0 { 0.0 } else { 8.0 * bytes as f64 / count as f64 };
        }
    }
}

/// Sums over the modules.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Totals {
    /// Parameters, packed weights counted as what they stand for.
    pub parameters: u64,
    /// Those of them that are in 4 bits.
    pub packed_parameters: u64,
    /// Those of them that belong to adapters.
    pub adapter_parameters: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// Bytes if all were 32-bit floats.
    pub bytes_as_float32: u64,
    /// Bits per parameter.
    pub bits_per_parameter: f64,
}

impl Totals {
    pub(super) fn of(rows: &[ModuleRow]) -> Self {
        let sum = |count: &dyn Fn(&ModuleRow) -> u64| rows.iter().map(count).sum::<u64>();
        let (parameters, bytes) = (sum(&|r| r.parameters), sum(&|r| r.bytes));
        Self {
            parameters,
            packed_parameters: sum(&|r| if r.packed { r.shape.iter().map(|s| *s as u64).product() } else { 0 }),
            adapter_parameters: sum(&|r| if r.rank.is_some() { r.parameters } else { 0 }),
            bytes,
            bytes_as_float32: 4 * parameters,
            bits_per_parameter: 8.0 * bytes as f64 / parameters.max(1) as f64,
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "total: {} parameters", self.parameters)?;
        if self.packed_parameters > 0 {
            write!(f, " ({} in 4 bits)", self.packed_parameters)?;
        }
        if self.adapter_parameters > 0 {
            write!(f, " ({} of adapters)", self.adapter_parameters)?;
        }
        let size = |n: u64| if n < 1 << 20 { format!("{n} bytes") } else { memory::bytes(n as usize) };
        let [stored, float] = [self.bytes, self.bytes_as_float32].map(size);
        write!(f, ", {stored} as stored, {float} as float32, {:.3} bits per parameter", self.bits_per_parameter)
    }
}

/// One row for each module of a file.
pub(super) fn rows(weights: &Weights, prefix: &str) -> Result<Vec<ModuleRow>> {
    let mut rows: BTreeMap<&str, ModuleRow> = BTreeMap::new();
    for name in weights.names() {
        if side_tensor_of(weights, name).is_some() {
            continue;
        }
        let (module, part) = split(name);
        let row = rows.entry(module).or_insert_with(|| ModuleRow::new(format!("{prefix}{module}")));
        let shape = weights.shape(name).unwrap_or_default();
        let bytes = weights.length(name).unwrap_or_default() as u64;
        if is_packed(weights, name) {
            let state = read_state(weights, name)?;
            let double = if state.nested_offset.is_some() { ", double quantization" } else { "" };
            let storage = format!("{}, blocks of {}{double}", state.quant_type, state.blocksize);
            let scales =
                ["absmax", "nested_absmax"].map(|s| weights.length(&format!("{name}.{s}")).unwrap_or_default());
            let offset = if state.nested_offset.is_some() { 4 } else { 0 };
            row.add(&state.shape, storage, bytes + scales.iter().sum::<usize>() as u64 + offset, true);
        } else {
            row.add(shape, weights.dtype(name).map(type_name).unwrap_or_default(), bytes, false);
        }
        match part {
            Part::Down => row.rank = shape.first().copied(),
            Part::Up | Part::Own => {}
        }
    }
    for (module, row) in rows.iter_mut().filter(|(_, row)| row.rank.is_some()) {
        let side =
            |matrix: &str, at: usize| Some(weights.shape(&format!("{module}.{matrix}.weight"))?.get(at).copied())?;
        row.shape = [side("lora_B", 0), side("lora_A", 1)].into_iter().flatten().collect();
    }
    Ok(rows.into_values().collect())
}

/// What a parameter is in its module.
enum Part {
    /// The first matrix of an adapter.
    Down,
    /// Another part of an adapter.
    Up,
    /// A parameter of the module itself.
    Own,
}

/// From the name of a parameter to its module.
fn split(name: &str) -> (&str, Part) {
    for (suffix, part) in [
        (".lora_A.weight", Part::Down),
        (".lora_B.weight", Part::Up),
        (".lora_magnitude_vector", Part::Up),
        (".lora_magnitude_vector.weight", Part::Up),
        (".base_layer.bias", Part::Up),
    ] {
        if let Some(module) = name.strip_suffix(suffix) {
            return (module, part);
        }
    }
    let module = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"));
    (module.unwrap_or(name), Part::Own)
}

/// Types by the names PyTorch gives them.
fn type_name(dtype: Dtype) -> String {
    match dtype {
        Dtype::F32 => "float32".to_owned(),
        Dtype::F16 => "float16".to_owned(),
        Dtype::BF16 => "bfloat16".to_owned(),
        Dtype::U8 => "uint8".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Writes the rows; columns that no row needs are left out, and cells of any length cut.
pub(super) fn write_table(f: &mut fmt::Formatter<'_>, rows: &[ModuleRow]) -> fmt::Result {
    let (ranks, errors) = (rows.iter().any(|r| r.rank.is_some()), rows.iter().any(|r| r.error.is_some()));
    let mut cells: Vec<Vec<String>> = vec![header(ranks, errors)];
    for row in rows {
        let mut line = vec![
            row.path.clone(),
            format!("{:?}", row.shape),
            row.storage.clone(),
            format!("{:.3}", row.bits_per_weight),
        ];
        if ranks {
            line.push(row.rank.map(|r| r.to_string()).unwrap_or_default());
        }
        if errors {
            let error = row.error.as_ref();
            let values = error.map(|e| [e.mean, f64::from(e.max), e.relative]);
            line.extend(values.map_or_else(|| vec![String::new(); 3], |v| v.map(|x| format!("{x:.3e}")).to_vec()));
        }
        cells.push(line.iter().map(|cell| shown(cell)).collect());
    }
    let columns = cells.first().map(Vec::len).unwrap_or_default();
    let widths: Vec<usize> =
        (0..columns).map(|i| cells.iter().map(|line| line[i].chars().count()).max().unwrap_or_default()).collect();
    for line in cells {
        let mut text = String::new();
        for (i, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Text to the left, numbers to the right.
            text += &if i < 3 { format!("{cell:width$}  ") } else { format!("{cell:>width$}  ") };
        }
        writeln!(f, "{}", text.trim_end())?;
    }
    Ok(())
}

fn header(ranks: bool, errors: bool) -> Vec<String> {
    let mut names = vec!["module", "shape", "storage", "bits/weight"];
    names.extend(ranks.then_some("rank"));
    names.extend(errors.then_some(["mean error", "max error", "relative"]).into_iter().flatten());
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table(Vec<ModuleRow>);

    impl fmt::Display for Table {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_table(f, &self.0)
        }
    }

    #[test]
    fn names_of_any_length_are_cut_and_none_steers_the_terminal() {
        let mut long = ModuleRow::new("x".repeat(70_000));
        long.shape = vec![1; 70_000];
        let text = Table(vec![long, ModuleRow::new("a\u{1b}[2Jb\nc".to_owned())]).to_string();
        assert!(text.lines().all(|line| line.len() < 600), "{}", text.len());
        assert!(text.contains("x…") && text.contains("a\\u{1b}[2Jb\\nc"), "{text}");
    }
}
