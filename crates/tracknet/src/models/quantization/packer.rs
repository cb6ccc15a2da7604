//! Packing weights while a model is built.

use std::cell::RefCell;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::QuantizationConfig;
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::nn::{Fill, LinearWeight, Source};

use super::format::{Format, Skip};
use super::nothing_left;
use super::report::{QuantizationReport, QuantizedLayer};

/// Packs weights while a model is built (`mode: hf`): the same bytes as [`apply_quantization`](super::apply_quantization) on the finished model,
/// without ever holding the model as floats.
#[derive(Debug)]
pub struct Packer {
    format: Format,
    skip: Skip,
    report: RefCell<QuantizationReport>,
    failed: RefCell<Option<ModelError>>,
}

impl Packer {
    /// Reads a configuration for a model with these spellings of its paths ([`VisitLayers::module_paths`](crate::models::VisitLayers::module_paths)).
    ///
    /// # Errors
    /// As [`Format::new`], or a skip entry that cannot be understood.
    pub fn new(config: &QuantizationConfig, paths: ModulePaths) -> Result<Self, ModelError> {
        Ok(Self {
            format: Format::new(config)?,
            skip: Skip::new(config, paths)?,
            report: RefCell::default(),
            failed: RefCell::default(),
        })
    }

    /// `source` with the weights of linear layers packed on their way to the device.
    pub fn over<'a>(&'a self, source: &'a dyn Source) -> PackingSource<'a> {
        PackingSource { packer: self, source }
    }

    /// Whether the linear layer at this path is packed; one that is not is noted as skipped.
    fn packs(&self, path: &str) -> bool {
        let skipped = self.skip.skips(path);
        if skipped {
            self.report.borrow_mut().skipped.push(path.to_owned());
        }
        !skipped
    }

    /// Packs a weight. A failure is kept for [`Packer::finish`], and the weight left as it is.
    fn pack(&self, path: &str, values: Vec<f32>, shape: [usize; 2], device: &Device) -> LinearWeight {
        match self.format.pack(path, &values, shape, device) {
            Ok(weight) => {
                let [before, after] = [4 * values.len(), weight.storage_bytes()];
                self.report.borrow_mut().layers.push(QuantizedLayer { path: path.to_owned(), shape, before, after });
                LinearWeight::Packed(weight)
            }
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                LinearWeight::Dense(Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device)))
            }
        }
    }

    /// What was packed.
    ///
    /// # Errors
    /// The first weight that could not be packed, or nothing was packed.
    pub fn finish(self) -> Result<QuantizationReport, ModelError> {
        if let Some(error) = self.failed.into_inner() {
            return Err(error);
        }
        let mut report = self.report.into_inner();
        report.notes = self.skip.notes(&report.skipped);
        if report.layers.is_empty() {
            Err(nothing_left(report.skipped.len(), report.skipped.len()))
        } else {
            Ok(report)
        }
    }
}

/// A source behind a [`Packer`].
pub struct PackingSource<'a> {
    packer: &'a Packer,
    source: &'a dyn Source,
}

impl Source for PackingSource<'_> {
    fn values(&self, name: &str, shape: &[usize], fill: Fill) -> Vec<f32> {
        self.source.values(name, shape, fill)
    }

    fn packed(&self, name: &str, shape: [usize; 2], fill: Fill, device: &Device) -> Option<LinearWeight> {
        self.source.packed(name, shape, fill, device).or_else(|| {
            let path = name.strip_suffix(".weight").filter(|path| self.packer.packs(path))?;
            Some(self.packer.pack(path, self.source.values(name, &shape, fill), shape, device))
        })
    }
}
