//! `loftq` (Li et al., 2023): the adapter makes up for what 4-bit storage loses, so its base is the stored weight.
//!
//! Each iteration after the first stores what the adapter leaves and computes the adapter again. PEFT's own computes with the
//! update without the adapter's scale, and keeps what it reads back as floats.

use tracknet_kernels::{Linear4bitWeight, QuantizeOptions};

use crate::config::InitMethod;
use crate::models::ModelError;
use crate::models::nn::LinearWeight;
use crate::models::quantization::{Format, Storage};

use super::init::{Factors, Matrices, for_each, replace_weight, values_of};
use super::plan::PlannedModule;
use super::visit::VisitLayers;

/// The base of an adapter that began with `loftq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoftqBase {
    /// How the base is stored.
    pub(crate) format: Format,
    /// Alternations of storing and computing, at least one.
    pub(crate) iterations: usize,
    /// Whether the update of an iteration has the adapter's scale.
    pub(crate) scaled: bool,
    /// Adapted modules whose weight stayed float.
    pub(crate) floats: Vec<String>,
}

impl LoftqBase {
    /// Initial matrices for the modules that `storage` packs; after several iterations their weights become what is to be stored.
    ///
    /// # Errors
    /// As [`values_of`]; a weight that cannot be stored in 4 bits.
    pub(crate) fn init<M: VisitLayers>(
        model: &mut M,
        modules: &[PlannedModule],
        storage: &Storage,
        iterations: usize,
    ) -> Result<(Matrices, Self), ModelError> {
        let packed = |m: &&PlannedModule| storage.format_of(&m.path).is_some();
        let floats = modules.iter().filter(|m| !packed(m)).map(|m| m.path.clone()).collect();
        let loftq = Self { format: storage.format(), iterations, scaled: true, floats };
        let mut matrices = Matrices::new();
        for_each(model, modules, |module, linear| {
            if !packed(&module) {
                return Ok(());
            }
            let weight = values_of(module, linear, InitMethod::Loftq)?;
            let stored = loftq.stored(module, &weight)?;
            let factors = loftq.correction(module, &weight, &stored)?;
            matrices.insert(module.path.clone(), factors.tensors());
            if iterations > 1 {
                replace_weight(module, linear, stored);
            }
            Ok(())
        })?;
        Ok((matrices, loftq))
    }

    /// Gives the modules of a trained adapter the weights that it was trained on: those to be stored where `storage`
    /// packs them, and otherwise floats that are what was read back.
    ///
    /// # Errors
    /// A weight that is or will be stored in another way; as [`values_of`].
    pub(crate) fn restore<M: VisitLayers>(
        &self,
        model: &mut M,
        modules: &[PlannedModule],
        storage: Option<&Storage>,
    ) -> Result<(), ModelError> {
        for_each(model, modules, |module, linear| {
            if self.floats.contains(&module.path) {
                return Ok(());
            }
            if let LinearWeight::Packed(weight) = &linear.weight {
                return self.check_packed(module, weight);
            }
            let format = storage.and_then(|storage| storage.format_of(&module.path));
            if let Some(format) = format {
                self.check_options(module, format.options(), "would be stored")?;
                if self.iterations == 1 {
                    return Ok(());
                }
            }
            let weight = values_of(module, linear, InitMethod::Loftq)?;
            let stored = self.stored(module, &weight)?;
            let weight = match format {
                Some(_) => stored,
                None => self.format.round_trip(&module.path, &stored, module.shape)?,
            };
            replace_weight(module, linear, weight);
            Ok(())
        })
    }

    /// What is to be stored after the iterations: the weight itself after one.
    fn stored(&self, module: &PlannedModule, weight: &[f32]) -> Result<Vec<f32>, ModelError> {
        let mut stored = weight.to_vec();
        for _ in 1..self.iterations {
            stored = self.correction(module, weight, &stored)?.subtracted_from(weight, self.scale(module));
        }
        Ok(stored)
    }

    /// The adapter that is nearest to what is lost when `stored` is read back instead of `weight`.
    fn correction(&self, module: &PlannedModule, weight: &[f32], stored: &[f32]) -> Result<Factors, ModelError> {
        let read_back = self.format.round_trip(&module.path, stored, module.shape)?;
        let lost: Vec<f32> = weight.iter().zip(&read_back).map(|(w, q)| w - q).collect();
        Ok(Factors::principal(&lost, module.shape, module.rank, self.scale(module)))
    }

    fn scale(&self, module: &PlannedModule) -> f32 {
        if self.scaled { module.scale() } else { 1.0 }
    }

    fn check_packed(&self, module: &PlannedModule, weight: &Linear4bitWeight) -> Result<(), ModelError> {
        let (quant_type, blocksize, double_quant) = (weight.quant_type(), weight.blocksize(), weight.double_quant());
        self.check_options(module, QuantizeOptions { quant_type, blocksize, double_quant }, "is stored")?;
        if self.iterations == 1 {
            return Ok(());
        }
        let message = format!(
            "is in 4 bits already, but the adapter's base is computed from float weights in {} turns of loftq: give the float \
             base",
            self.iterations
        );
        Err(ModelError::Tensor { name: format!("{}.weight", module.path), message })
    }

    fn check_options(&self, module: &PlannedModule, found: QuantizeOptions, is: &str) -> Result<(), ModelError> {
        let wanted = self.format.options();
        if found == wanted {
            return Ok(());
        }
        let message = format!(
            "{is} as {}, but the adapter began with loftq on {}: quantize the base in that way, or give it as floats",
            named(found),
            named(wanted)
        );
        Err(ModelError::Tensor { name: format!("{}.weight", module.path), message })
    }
}

fn named(QuantizeOptions { quant_type, blocksize, double_quant }: QuantizeOptions) -> String {
    let scales = if double_quant { "with double quantization" } else { "with float scales" };
    format!("{quant_type} in blocks of {blocksize} {scales}")
}

impl std::fmt::Display for LoftqBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "loftq on {} after {} turns", named(self.format.options()), self.iterations)?;
        if self.scaled { Ok(()) } else { write!(f, " of PEFT") }
    }
}
