//! Quantization errors: a 4-bit checkpoint against the floats it was made from.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::artifacts::pretrained::Weights;
use crate::artifacts::pretrained::bnb::{is_packed, read_packed};
use crate::console::shown;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::registry::BACKBONES;

use super::kind;
use super::table::ModuleRow;

/// Distance of a 4-bit layer from its source, in the weights' own unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LayerError {
    /// Mean of `|w - q(w)|`.
    pub mean: f64,
    /// Largest `|w - q(w)|`.
    pub max: f32,
    /// `sqrt(sum (w - q(w))² / sum w²)`.
    pub relative: f64,
}

/// The same over all layers together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TotalError {
    /// Layers that were measured.
    pub layers: usize,
    /// Over all their weights.
    #[serde(flatten)]
    pub error: LayerError,
    /// The layer with the largest relative error.
    pub worst: String,
}

impl fmt::Display for TotalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayerError { mean, max, relative } = self.error;
        let (layers, worst) = (self.layers, shown(&self.worst));
        write!(f, "error of {layers} layers: mean {mean:.3e}, max {max:.3e}, relative {relative:.4e} (worst: {worst})")
    }
}

/// Measures every packed weight, and notes the result in its row.
pub(super) fn measure(
    packed: &[(&'static str, Weights)],
    against: &Path,
    rows: &mut [ModuleRow],
) -> Result<TotalError> {
    let source = kind::find(against)?;
    let mut sums = Sums::default();
    for (prefix, weights) in packed {
        for name in weights.names().filter(|name| is_packed(weights, name)) {
            let (weight, state) = read_packed(weights, name).map_err(|error| error.in_file(weights.path()))?;
            let values = read_source(&source.weights, name, state.shape, against)?;
            let found = weight
                .error_against(&values)
                .map_err(|e| ModelError::Tensor { name: name.to_owned(), message: e.to_string() })?;
            let error = LayerError { mean: found.mean_abs, max: found.max_abs, relative: found.relative };
            let power = values.iter().map(|v| f64::from(*v).powi(2)).sum();
            let path = format!("{prefix}{}", name.strip_suffix(".weight").unwrap_or(name));
            sums.add(&path, error, values.len(), power);
            if let Some(row) = rows.iter_mut().find(|row| row.path == path) {
                row.error = Some(error);
            }
        }
    }
    match sums.layers {
        0 => Err(ModelError::file(against, "cannot be compared: there is no 4-bit layer to compare with it").into()),
        _ => Ok(sums.finish()),
    }
}

/// The float weight of the same name, or the half of a stacked one; releases differ in what they put before it.
fn read_source(source: &[(&'static str, Weights)], name: &str, shape: [usize; 2], against: &Path) -> Result<Vec<f32>> {
    let prefixes = || BACKBONES.iter().filter_map(|row| row.spelling.optional_prefix);
    let bare = prefixes().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
    let names: Vec<String> = std::iter::once(bare.to_owned()).chain(prefixes().map(|p| format!("{p}{bare}"))).collect();
    let whole = names.iter().map(|name| (name.clone(), 0, 1));
    let half =
        |name: &String| ModulePaths::AnyFamily.stacked(name).map(|(whole, second)| (whole, usize::from(second), 2));
    let places: Vec<(String, usize, usize)> = whole.chain(names.iter().filter_map(half)).collect();
    let found = source.iter().find_map(|(_, w)| Some((w, places.iter().find(|(n, ..)| w.shape(n).is_some())?)));
    let problem = |message: String| ModelError::Tensor { name: name.to_owned(), message };
    let Some((weights, (stored, part, parts))) = found else {
        return Err(problem(format!("is not in {}", against.display())).into());
    };
    if is_packed(weights, stored) {
        return Err(problem(format!("is in 4 bits in {} too; compare with floats", against.display())).into());
    }
    let found = weights.shape(stored).unwrap_or_default();
    let [output, input] = shape;
    if found != [parts * output, input] {
        return Err(problem(format!("is {shape:?}, but {found:?} in {}", against.display())).into());
    }
    weights.read_rows(stored, part * output..(part + 1) * output)
}

/// Sums in f64, in the order of the names.
#[derive(Default)]
struct Sums {
    layers: usize,
    count: usize,
    absolute: f64,
    squared: f64,
    power: f64,
    max: f32,
    worst: (f64, String),
}

impl Sums {
    fn add(&mut self, path: &str, error: LayerError, count: usize, power: f64) {
        self.layers += 1;
        self.count += count;
        self.absolute += error.mean * count as f64;
        self.squared += error.relative.powi(2) * power;
        self.power += power;
        self.max = self.max.max(error.max);
        if self.layers == 1 || error.relative > self.worst.0 {
            self.worst = (error.relative, path.to_owned());
        }
    }

    fn finish(self) -> TotalError {
        let relative = if self.squared == 0.0 { 0.0 } else { (self.squared / self.power).sqrt() };
        let error = LayerError { mean: self.absolute / self.count.max(1) as f64, max: self.max, relative };
        TotalError { layers: self.layers, error, worst: self.worst.1 }
    }
}
