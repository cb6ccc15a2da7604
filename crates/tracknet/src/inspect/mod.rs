//! What a file or directory is, and what it holds: `tracknet inspect`.
//!
//! Everything is read from headers and small JSON files; the weights themselves are read only to measure quantization
//! errors ([`Inspection::measure`]), one tensor at a time.

mod compare;
mod kind;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::console::printable;
use crate::error::Result;

pub use compare::{LayerError, TotalError};
pub use kind::Kind;
pub use table::{ModuleRow, Totals};

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// What was looked at.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// What it says about itself: model type, block size, base, epoch and the like.
    pub about: BTreeMap<&'static str, String>,
    /// Its modules, in the order of their names; numbers in names count as numbers.
    pub modules: Vec<ModuleRow>,
    /// Sums over the modules.
    pub totals: Totals,
    /// The quantization error of all measured layers together.
    pub error: Option<TotalError>,
}

impl Inspection {
    /// Looks at a model directory, an adapter directory, a run, a checkpoint of a run, or a safetensors file.
    ///
    /// # Errors
    /// It is none of these, or damaged.
    pub fn of(path: &Path) -> Result<Self> {
        let found = kind::find(path)?;
        let mut modules = Vec::new();
        for (prefix, weights) in &found.weights {
            modules.extend(table::rows(weights, prefix).map_err(|error| error.in_file(weights.path()))?);
        }
        modules.sort_by_cached_key(|row| natural(&row.path));
        let totals = Totals::of(&modules);
        Ok(Self { path: path.to_path_buf(), kind: found.kind, about: found.about, modules, totals, error: None })
    }

    /// Measures how far each 4-bit layer is from the float checkpoint in `against`.
    ///
    /// # Errors
    /// There is no 4-bit layer, `against` lacks one of them as floats or has it in another shape, or a tensor is damaged.
    pub fn measure(&mut self, against: &Path) -> Result<()> {
        let found = kind::find(&self.path)?;
        self.error = Some(compare::measure(&found.weights, against, &mut self.modules)?);
        Ok(())
    }
}

/// Sorts `layer.10` after `layer.9`.
fn natural(path: &str) -> Vec<(u64, String)> {
    let parts = path.split('.');
    parts.map(|part| part.parse().map_or_else(|_| (u64::MAX, part.to_owned()), |n| (n, String::new()))).collect()
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", printable(&self.path.display().to_string()), self.kind)?;
        for (key, value) in &self.about {
            writeln!(f, "  {key}: {value}")?;
        }
        table::write_table(f, &self.modules)?;
        write!(f, "{}", self.totals)?;
        match &self.error {
            Some(error) => write!(f, "\n{error}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_sorted_by_number() {
        let mut paths = ["layer.10.a", "layer.9.b", "embeddings", "layer.9.a", "norm"];
        paths.sort_by_cached_key(|path| natural(path));
        assert_eq!(paths, ["embeddings", "layer.9.a", "layer.9.b", "layer.10.a", "norm"]);
    }
}
