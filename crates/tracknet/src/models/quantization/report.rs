//! What was quantized, and how much smaller it is.

use std::fmt;

use crate::models::lora::VisitLayers;
use crate::models::nn::LinearWeight;

/// What was quantized, or what would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuantizationReport {
    /// In the order of the model.
    pub layers: Vec<QuantizedLayer>,
    /// Linear layers that stay float because of `skip_modules`.
    pub skipped: Vec<String>,
    /// Skip entries that match nothing.
    pub notes: Vec<String>,
}

/// One linear layer and its size as 32-bit floats and in 4 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedLayer {
    /// The path below the backbone.
    pub path: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Bytes of the weight as it is.
    pub before: usize,
    /// Bytes of codes and scales.
    pub after: usize,
}

impl QuantizationReport {
    /// Bytes of all quantized weights before and after.
    pub fn bytes(&self) -> [usize; 2] {
        [self.layers.iter().map(|l| l.before).sum(), self.layers.iter().map(|l| l.after).sum()]
    }

    /// What is packed in a model as it is: one whose checkpoint was in 4 bits. `before` counts 32-bit floats.
    pub fn of_packed<M: VisitLayers>(model: &M) -> Self {
        let mut report = Self::default();
        model.visit_linears(&mut |path, linear| match &linear.weight {
            LinearWeight::Dense(_) => report.skipped.push(path.to_owned()),
            LinearWeight::Packed(weight) => {
                let shape = weight.shape();
                let [before, after] = [4 * shape[0] * shape[1], weight.storage_bytes()];
                report.layers.push(QuantizedLayer { path: path.to_owned(), shape, before, after });
            }
        });
        report
    }

    /// A table of module, in, out, bytes before and after.
    pub fn table(&self) -> String {
        let width = self.layers.iter().map(|l| l.path.len()).max().unwrap_or_default().clamp("module".len(), 120);
        let mut text =
            format!("{:width$} {:>6} {:>6} {:>12} {:>12}\n", "module", "in", "out", "bytes before", "bytes after");
        for QuantizedLayer { path, shape: [output, input], before, after } in &self.layers {
            text += &format!("{path:width$} {input:>6} {output:>6} {before:>12} {after:>12}\n");
        }
        let [before, after] = self.bytes();
        text + &format!("{:width$} {:>6} {:>6} {before:>12} {after:>12}", "total", "", "")
    }
}

impl fmt::Display for QuantizationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = self.bytes();
        let ratio = before as f64 / after.max(1) as f64;
        write!(f, "4-bit: {} modules, {before} → {after} bytes ({ratio:.2}× smaller)", self.layers.len())?;
        if !self.skipped.is_empty() {
            write!(f, ", {} left as floats", self.skipped.len())?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}
